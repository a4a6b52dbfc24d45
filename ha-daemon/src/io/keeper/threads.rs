//! The daemon's threads that act, and how the keeper learns of their death at once.
//!
//! The socket between the two is closed when every thread has died, which takes a CPU for each, and when the
//! memory is taken apart. What a dying daemon can still do to an address ends before, with its address worker
//! and its driver. So these two own a word each in the memory that they share with the keeper, and when both
//! died the daemon is dead. Where groups move with their services, its main thread has one, too: right after
//! that the kernel ends the scripts that it started.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use anyhow::Context as _;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::lease::Lease;
use crate::io::robust::{self, Owned};
use crate::io::sys;

/// It touches next to nothing, and what is there is locked.
const STACK_BYTES: usize = 64 * 1024;

/// A thread whose end is the end of something that a daemon does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acting {
    /// It adds and removes addresses.
    AddressWorker,
    /// It decides, renews the lease and opens gates.
    Driver,
    /// It starts and stops services; waited for while it owns its word.
    Main,
}

impl Acting {
    const fn owner(self) -> usize {
        match self {
            Self::AddressWorker => 0,
            Self::Driver => 1,
            Self::Main => 2,
        }
    }
}

/// The calling thread acts: when it dies before this is dropped, the keeper takes it for killed.
pub struct Alive {
    _owned: Owned,
}

impl Alive {
    /// From here on.
    ///
    /// # Errors
    /// The kernel refuses that, or the lease is that of a program which knew nothing of it: the keeper learns
    /// of a death by the end of its socket.
    pub fn begin(lease: &Lease, thread: Acting) -> io::Result<Self> {
        Ok(Self { _owned: Owned::take(lease.shared(), thread.owner())? })
    }
}

/// Who died before is not this daemon: call before another keeper is started.
pub(super) fn forget_the_dead(lease: &Lease) {
    lease.owners().into_iter().flatten().for_each(robust::forget_the_dead);
}

/// Becomes readable when the threads that act died. One that ended as it should did not.
pub(super) struct DeathWatch(Arc<EventFd>);

impl DeathWatch {
    /// Waits on a thread of its own: futex(2) has no descriptor.
    ///
    /// # Errors
    /// No descriptor or no thread is left.
    pub(super) fn start(lease: &Arc<Lease>, priority: Option<u8>) -> anyhow::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = Arc::new(EventFd::from_flags(flags).context("no descriptor is left")?);
        let (lease, died) = (Arc::clone(lease), Arc::clone(&event));
        let watch = move || {
            // Whether it is granted is said of the keeper's other thread.
            let _ = priority.map(sys::set_fifo);
            // Without the kernel's help the end of the socket has to do.
            let Some(owners) = lease.owners() else { return };
            if wait_for_death(owners).is_ok() {
                let _ = died.write(1);
            }
        };
        std::thread::Builder::new()
            .name("ha-death-watch".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(watch)
            .context("no thread is left")?;
        Ok(Self(event))
    }
}

/// Returns when worker and driver are dead at the same time, and the main thread owns nothing.
fn wait_for_death([worker, driver, main]: &[AtomicU32; 3]) -> io::Result<()> {
    loop {
        robust::wait_for_death(worker)?;
        robust::wait_for_death(driver)?;
        robust::wait_while_owned(main)?;
        if robust::is_dead(worker) && robust::is_dead(driver) {
            return Ok(());
        }
    }
}

impl AsFd for DeathWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
