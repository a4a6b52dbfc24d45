//! Real-time scheduling and locked memory, where they are permitted; reported where they are not.

use std::fmt::Display;

use nix::sys::mman::{MlockAllFlags, mlockall, munlockall};
use nix::sys::signal::SigSet;

use super::sys;
use crate::config::Realtime;

/// The sender: above everything else of this daemon, since its silence is its node's death.
pub const SENDER_PRIORITY: u8 = 62;
/// The driver.
pub const DRIVER_PRIORITY: u8 = 61;
/// The threads of serial lines: they stamp what arrives, so they are not behind the driver.
pub const SERIAL_PRIORITY: u8 = 61;
/// The address worker and the keeper.
pub const ADDRESS_PRIORITY: u8 = 60;
/// The thread that pings: a late answer must not look like a lost one.
pub const PING_PRIORITY: u8 = 59;

/// What was granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// In words, with the remedy when it was refused.
    pub text: String,
    /// Whether it was asked for and refused.
    pub refused: bool,
}

impl Granted {
    fn yes(text: impl Into<String>) -> Self {
        Self { text: text.into(), refused: false }
    }

    fn refused(text: String) -> Self {
        Self { text, refused: true }
    }
}

/// Stack that a real-time thread has touched before it begins: its deepest call needs less.
const STACK_BYTES: usize = 128 * 1024;
/// Heap that it has had once, in its own arena. What it frees stays there ([`keep_heap`]).
const HEAP_BYTES: usize = 256 * 1024;
const PAGE_BYTES: usize = 4096;

/// Puts the calling thread under `SCHED_FIFO`, if that is wanted, and has it touch the memory that it
/// will use; says what was granted. Signals are left to the main thread from here on: one that comes
/// while it hands over waits for the next program. Which CPUs it may run on stays as it is: the
/// kernel moves a real-time thread to a CPU where it can run at once, and one that is bound waits for its own.
#[must_use]
pub fn take_fifo(realtime: Realtime, priority: u8) -> Granted {
    leave_signals();
    if !realtime.enabled {
        return Granted::yes("SCHED_OTHER, as configured");
    }
    touch_stack();
    touch_heap();
    // What SCHED_FIFO has anyway; for a thread that is refused it, timers are as exact as they can be.
    let _ = nix::sys::prctl::set_timerslack(1);
    match sys::set_fifo(priority) {
        Ok(()) => Granted::yes(format!("SCHED_FIFO {priority}")),
        Err(error) => fifo_refused(priority, &error),
    }
}

/// What follows `; ` is the remedy, in this refusal as in every warning of [`super::budget::Budget`].
pub(crate) fn fifo_refused(priority: u8, error: &(impl Display + ?Sized)) -> Granted {
    Granted::refused(format!(
        "SCHED_OTHER: SCHED_FIFO {priority} was refused ({error}); grant CAP_SYS_NICE, and a \
         real-time budget to the control group (cpu.rt_runtime_us)"
    ))
}

/// Ends what [`keep_heap`] began, when everything is loaded: the garbage of that goes. Says again what is granted
/// of [`lock_memory`], since what is locked cannot be given back (madvise(2)) and is not for that moment.
#[must_use]
pub fn settle_memory(realtime: Realtime) -> Granted {
    if realtime.enabled {
        // It fails for no argument that is possible here.
        let _ = munlockall();
        sys::settle_heap();
    }
    lock_memory(realtime)
}

/// The pages of the stack that are there afterwards are locked with the rest.
#[inline(never)]
fn touch_stack() {
    let mut pages = [0_u8; STACK_BYTES];
    for page in pages.iter_mut().step_by(PAGE_BYTES) {
        *page = 1;
        std::hint::black_box(page);
    }
}

/// The same for the heap.
fn touch_heap() {
    // In pieces as they are really asked for: a large one would be mapped apart, and go again.
    let mut pieces: Vec<Vec<u8>> = Vec::with_capacity(HEAP_BYTES / PAGE_BYTES);
    for _ in 0..HEAP_BYTES / PAGE_BYTES {
        let mut piece = vec![0_u8; PAGE_BYTES];
        piece[PAGE_BYTES - 1] = 1;
        pieces.push(std::hint::black_box(piece));
    }
}

/// Has the allocator keep what it once got from the kernel, if real-time scheduling is wanted: memory
/// that is given back must be faulted in again, in the middle of a takeover.
pub fn keep_heap(realtime: Realtime) {
    if realtime.enabled && !sys::keep_heap() {
        tracing::debug!("the allocator has no such setting; memory may be faulted in again");
    }
}

/// Has signals go to other threads than the calling one.
pub fn leave_signals() {
    // It fails for no argument that is possible here.
    let _ = SigSet::all().thread_block();
}

/// Locks this process's memory as it is touched, if that is wanted; says what was granted.
#[must_use]
pub fn lock_memory(realtime: Realtime) -> Granted {
    if !realtime.enabled {
        return Granted::yes("not locked, as configured");
    }
    // ONFAULT: a page stays once it was used, but reserved stacks and untouched code cost nothing.
    let flags = MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE;
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    match mlockall(flags | on_fault) {
        Ok(()) => Granted::yes("locked"),
        Err(error) => lock_refused(&error),
    }
}

pub(crate) fn lock_refused(error: &(impl Display + ?Sized)) -> Granted {
    Granted::refused(format!(
        "not locked ({error}); grant CAP_IPC_LOCK or raise RLIMIT_MEMLOCK, or the daemon waits \
         for the disk when memory is short"
    ))
}
