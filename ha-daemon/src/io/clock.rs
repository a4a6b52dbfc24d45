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

/// The kernel's receive stamp of a datagram (`CLOCK_REALTIME`) as `CLOCK_MONOTONIC`; now when there
/// is none. How long ago it was is measured on one clock, so a stepped wall clock matters only when
/// it is stepped in between; then the result is limited to the past.
#[must_use]
pub fn monotonic_of_stamp(stamp: Option<nix::sys::time::TimeSpec>) -> u64 {
    let now = monotonic_ns();
    let Some(stamp) = stamp else { return now };
    let stamp = u64::try_from(stamp.tv_sec()).unwrap_or(0) * SECOND_NS
        + u64::try_from(stamp.tv_nsec()).unwrap_or(0);
    now.saturating_sub(read(ClockId::CLOCK_REALTIME).saturating_sub(stamp))
}

/// Microseconds since 1970-01-01 UTC.
#[must_use]
pub fn unix_us() -> u64 {
    read(ClockId::CLOCK_REALTIME) / 1_000
}
