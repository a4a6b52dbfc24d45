//! The two clocks that durations are measured with.

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds in a second.
const SECOND_NS: u64 = 1_000_000_000;

/// `CLOCK_MONOTONIC` in nanoseconds: for time stamps and deadlines. Stands still in suspend.
#[must_use]
pub fn monotonic_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// `CLOCK_BOOTTIME` in nanoseconds: goes on while the machine is suspended, so a lease measured
/// with it also runs out then.
#[must_use]
pub fn boottime_ns() -> u64 {
    read(ClockId::CLOCK_BOOTTIME)
}

fn read(clock: ClockId) -> u64 {
    // clock_gettime(2) only fails for a clock that the kernel does not have; both are older than
    // any kernel that runs this daemon.
    clock_gettime(clock).map_or(0, |time| {
        u64::try_from(time.tv_sec()).unwrap_or(0) * SECOND_NS
            + u64::try_from(time.tv_nsec()).unwrap_or(0)
    })
}
