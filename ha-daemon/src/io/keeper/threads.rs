//! The daemon's threads that act, and how the keeper learns of their death at once.
//!
//! The socket between the two closes last of all: when every thread has had a CPU, the memory is
//! taken apart and the other files are closed. What a dying daemon can still do ends before, with its address
//! worker and its driver: no other thread adds an address or opens a gate. So these two own a word each,
//! in the memory that they share with the keeper; when both died, the daemon is dead.

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

/// A thread whose end is the end of what a daemon does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acting {
    /// It adds and removes addresses.
    AddressWorker,
    /// It decides, renews the lease and opens gates.
    Driver,
}

impl Acting {
    const ALL: [Self; 2] = [Self::AddressWorker, Self::Driver];

    fn word(self, lease: &Lease) -> &AtomicU32 {
        let [worker, driver] = lease.owners();
        match self {
            Self::AddressWorker => worker,
            Self::Driver => driver,
        }
    }
}

struct Word(Arc<Lease>, Acting);

impl AsRef<AtomicU32> for Word {
    fn as_ref(&self) -> &AtomicU32 {
        self.1.word(&self.0)
    }
}

/// The calling thread acts: when it dies before this is dropped, the keeper takes it for killed.
pub struct Alive {
    _owned: Owned<Word>,
}

impl Alive {
    /// From here on. `None`, and a warning, where the kernel refuses that.
    #[must_use]
    pub fn begin(lease: &Arc<Lease>, thread: Acting) -> Option<Self> {
        match Owned::take(Word(Arc::clone(lease), thread)) {
            Ok(owned) => Some(Self { _owned: owned }),
            Err(error) => {
                tracing::warn!(
                    "the keeper learns of a death of this daemon only by its closed files, up to some \
                     milliseconds later: set_robust_list(2) is refused ({error})"
                );
                None
            }
        }
    }
}

/// Who died before is not this daemon: call before another keeper is started.
pub(super) fn forget_the_dead(lease: &Lease) {
    Acting::ALL.iter().for_each(|it| robust::forget_the_dead(it.word(lease)));
}

/// Becomes readable when all acting threads of the daemon died. One that ended as it should did not.
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
            let watched = Acting::ALL.map(|it| robust::wait_for_death(it.word(&lease)));
            // Without the kernel's help the end of the socket has to do.
            if watched.iter().all(Result::is_ok) {
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

impl AsFd for DeathWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
