//! The one clock of all observers: `CLOCK_MONOTONIC` in nanoseconds, the clock in which the daemon
//! stamps its events too, so that stamps from several nodes of one machine can be subtracted.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};

/// Nanoseconds in a millisecond.
pub const MS_NS: u64 = 1_000_000;
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Now, `CLOCK_MONOTONIC`, nanoseconds.
#[must_use]
pub fn monotonic_ns() -> u64 {
    read_ns(ClockId::CLOCK_MONOTONIC)
}

/// Now, `CLOCK_REALTIME`, nanoseconds since 1970; only for converting kernel stamps.
#[must_use]
pub fn realtime_ns() -> u64 {
    read_ns(ClockId::CLOCK_REALTIME)
}

/// Converts a `CLOCK_REALTIME` stamp of the near past (a kernel packet stamp) to
/// `CLOCK_MONOTONIC`, by the offset of the two clocks now.
#[must_use]
pub fn realtime_to_monotonic_ns(stamp_ns: u64) -> u64 {
    let before = monotonic_ns();
    let real = realtime_ns();
    let after = monotonic_ns();
    let middle = before + (after - before) / 2;
    middle.saturating_sub(real.saturating_sub(stamp_ns))
}

/// Sleeps until an absolute `CLOCK_MONOTONIC` time; returns early when a signal arrives.
pub fn sleep_until_ns(deadline_ns: u64) {
    let deadline = TimeSpec::from_duration(Duration::from_nanos(deadline_ns));
    // An interrupted sleep is harmless: every caller looks at the clock again.
    let _ =
        clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &deadline);
}

/// A duration as nanoseconds; saturates after 584 years.
#[must_use]
pub fn as_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds as milliseconds with three decimals, the unit of every printed table.
#[must_use]
pub fn ms(ns: u64) -> String {
    format!("{}.{:03}", ns / MS_NS, ns % MS_NS / 1_000)
}

fn read_ns(clock: ClockId) -> u64 {
    // Both clocks exist on every Linux; 0 would show at once as an absurd figure.
    clock_gettime(clock).map_or(0, |time| as_ns(Duration::from(time)))
}

/// Waits for something that is no daemon's to tell: asks every 20 ms whether it `holds`.
///
/// # Errors
/// It did not hold within `time_max`, or could not be asked.
pub fn wait_for(
    what: &str,
    time_max: Duration,
    mut holds: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + time_max;
    while !holds()? {
        ensure!(Instant::now() < deadline, "waited {time_max:?} for {what} in vain");
        thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_have_three_decimals() {
        assert_eq!(ms(0), "0.000");
        assert_eq!(ms(1_234_567), "1.234");
        assert_eq!(ms(30_000_999), "30.000");
    }

    #[test]
    fn a_realtime_stamp_of_now_is_monotonic_now() {
        let converted = realtime_to_monotonic_ns(realtime_ns());
        let now = monotonic_ns();
        assert!(now.abs_diff(converted) < 1_000 * MS_NS);
    }

    #[test]
    fn sleeping_until_a_past_time_returns_at_once() {
        let start = monotonic_ns();
        sleep_until_ns(start.saturating_sub(1));
        assert!(monotonic_ns() - start < 1_000 * MS_NS);
    }
}
