//! Real-time scheduling and locked memory, where they are permitted; reported where they are not.

use nix::sys::mman::{MlockAllFlags, mlockall};
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

/// Puts the calling thread under `SCHED_FIFO`, if that is wanted; says what was granted. Signals are
/// left to the main thread from here on: one that comes while it hands over waits for the next
/// program.
#[must_use]
pub fn take_fifo(realtime: Realtime, priority: u8) -> String {
    leave_signals();
    if !realtime.enabled {
        return "SCHED_OTHER, as configured".to_owned();
    }
    match sys::set_fifo(priority) {
        Ok(()) => format!("SCHED_FIFO {priority}"),
        Err(error) => format!(
            "SCHED_OTHER: SCHED_FIFO {priority} was refused ({error}); grant CAP_SYS_NICE, and a \
             real-time budget to the control group (cpu.rt_runtime_us)"
        ),
    }
}

/// Has signals go to other threads than the calling one.
pub fn leave_signals() {
    // It fails for no argument that is possible here.
    let _ = SigSet::all().thread_block();
}

/// Locks this process's memory as it is touched, if that is wanted; says what was granted.
#[must_use]
pub fn lock_memory(realtime: Realtime) -> String {
    if !realtime.enabled {
        return "not locked, as configured".to_owned();
    }
    // ONFAULT: a page stays once it was used, but reserved stacks and untouched code cost nothing.
    let flags = MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE;
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    match mlockall(flags | on_fault) {
        Ok(()) => "locked".to_owned(),
        Err(error) => format!(
            "not locked ({error}); grant CAP_IPC_LOCK or raise RLIMIT_MEMLOCK, or the daemon waits \
             for the disk when memory is short"
        ),
    }
}
