//! Which keepalive and deadtime a path bears, by what arrived on it: pure; shown by `hactl links`,
//! judged by `ha-daemon check --live`. `deadtime = "auto"` ([`crate::core::auto`]) goes by the same rule;
//! nothing else changes by itself.
//!
//! The quality of a failure detector is its detection time against the time between mistakes (Chen,
//! Toueg, Aguilera, "On the Quality of Service of Failure Detectors", IEEE Transactions on Computers
//! 51(5), 2002). Silence alone makes a mistake when the gap between two heartbeats of a peer that
//! lives is longer than deadtime, so the time between mistakes follows from the tail of the
//! gaps. It is taken as it was seen, not from a distribution that is fitted to it: gaps have heavy tails
//! (a virtual CPU that stops), and a normal one would promise what it cannot keep.
//!
//! * Gaps beyond a deadtime were seen `k > 0` times in `N` seconds: a mistake every `N / k`.
//! * None was seen: at least `N / 3` between two at 95 % (the rule of three: `exp(-3) < 5 %`).
//!
//! Both assume that gaps are independent and that the path goes on as it was while it was watched. Gaps in
//! which [`OUTAGE_LOST`] heartbeats or more were lost are outages: no deadtime should bear those.
//! Neither what the peer's kernel answers nor this node's own pauses are taken off the figures: with
//! both, fewer mistakes are made than these say.

use std::time::Duration;

use ha_common::arrivals::{Arrivals, OUTAGE_LOST};
use serde::{Deserialize, Serialize};

use crate::histogram::Histogram;

const _: () = assert!(OUTAGE_LOST >= 16, "a deadtime of several keepalives is no outage");

/// Fewer gaps than that say nothing of a tail.
pub const GAPS_MIN: u64 = 1_000;
/// Nor does a shorter time.
pub const OBSERVED_MIN: Duration = Duration::from_secs(60);
/// Heartbeat's manual wants 1.5 to 2 times the longest gap seen in weeks of operation.
pub const MARGIN: (u64, u64) = (3, 2);
/// A recommended deadtime has so many keepalives: two heartbeats may be lost in a row.
pub const KEEPALIVES_MIN: u64 = 3;
/// A deadtime so many times the needed one waits for nothing.
const TOO_LONG: u64 = 4;
/// To say that takes a day: what is rare must have had its time.
pub const TOO_LONG_OBSERVED_MIN: Duration = Duration::from_secs(24 * 3600);
/// Shortest keepalive that is recommended.
const KEEPALIVE_MIN_NS: u64 = 1_000_000;
/// A keepalive is not recommended to be shorter than its present one by more than that: the rest is the
/// deadtime's.
const SHORTER_MAX: u64 = 4;

/// What the configuration says of a path.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// The peer's keepalive on it, nanoseconds.
    pub keepalive_ns: u64,
    /// This node's deadtime for it, nanoseconds; the longest, where it is `"auto"`.
    pub deadtime_ns: u64,
    /// It is `"auto"`: that it may be long costs nothing.
    pub is_auto: bool,
}

/// How the configured deadtime fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fit {
    /// Too little was seen yet.
    TooEarly,
    /// It does.
    Fits,
    /// Gaps were longer, or would be with little more.
    TooShort,
    /// It is far longer than any gap.
    TooLong,
}

/// The advice for one path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Advice {
    /// How the configured deadtime fits.
    pub fit: Fit,
    /// The configured deadtime, microseconds.
    pub deadtime_us: u64,
    /// Gaps beyond it.
    pub mistakes: u64,
    /// Seconds between two of them; with `mistakes` 0 it is at least that, at 95 %.
    pub between_mistakes_s: u64,
    /// The keepalive that is recommended, microseconds; absent while it is too early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recommended_keepalive_us: Option<u64>,
    /// The deadtime that is recommended, microseconds; absent while it is too early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recommended_deadtime_us: Option<u64>,
    /// At least so many seconds between two mistakes with these, at 95 %.
    pub recommended_between_s: u64,
}

/// The advice for a path on which this arrived.
#[must_use]
pub fn advise(arrivals: &Arrivals, times: Times) -> Advice {
    let gaps = Histogram(&arrivals.intervals);
    // The longest is known exactly; buckets only by their ends.
    let is_within = arrivals.longest_gap_ns <= times.deadtime_ns;
    let mistakes = if is_within { 0 } else { gaps.beyond(times.deadtime_ns).max(1) };
    let observed_s = arrivals.observed_ns / 1_000_000_000;
    let mut advice = Advice {
        fit: Fit::TooEarly,
        deadtime_us: times.deadtime_ns / 1_000,
        mistakes,
        between_mistakes_s: observed_s.checked_div(mistakes).unwrap_or(observed_s / 3),
        recommended_keepalive_us: None,
        recommended_deadtime_us: None,
        recommended_between_s: observed_s / 3,
    };
    let is_early = gaps.count() < GAPS_MIN || observed_s < OBSERVED_MIN.as_secs();
    if times.keepalive_ns == 0 || is_early && is_within {
        return advice;
    }
    let needed_ns = deadtime_for(arrivals, times, times.keepalive_ns);
    advice.fit = if times.deadtime_ns < needed_ns {
        Fit::TooShort
    } else if !times.is_auto
        && times.deadtime_ns > TOO_LONG * needed_ns
        && observed_s >= TOO_LONG_OBSERVED_MIN.as_secs()
    {
        Fit::TooLong
    } else {
        Fit::Fits
    };
    let shorter_ns = shorter_keepalive(arrivals, times).filter(|_| advice.fit == Fit::TooShort);
    let deadtime_ns = match (advice.fit, shorter_ns) {
        (Fit::Fits, _) | (_, Some(_)) => times.deadtime_ns,
        (Fit::TooEarly | Fit::TooShort | Fit::TooLong, None) => round_up(needed_ns),
    };
    advice.recommended_keepalive_us = Some(shorter_ns.unwrap_or(times.keepalive_ns) / 1_000);
    advice.recommended_deadtime_us = Some(deadtime_ns / 1_000);
    advice
}

/// The shortest deadtime that is recommended with a keepalive: the gaps were longer than the present
/// one by what the path and the two hosts added, and go on to be.
fn deadtime_for(arrivals: &Arrivals, times: Times, keepalive_ns: u64) -> u64 {
    let added_ns = arrivals.longest_gap_ns.saturating_sub(times.keepalive_ns);
    needed_ns(keepalive_ns + added_ns, keepalive_ns, MARGIN)
}

/// The deadtime that bears gaps of that length with a margin, see [`MARGIN`].
#[must_use]
pub fn needed_ns(gap_ns: u64, keepalive_ns: u64, (more, of): (u64, u64)) -> u64 {
    gap_ns.saturating_mul(more).div_ceil(of).max(KEEPALIVES_MIN * keepalive_ns)
}

/// The longest keepalive with which the configured deadtime would do, if a shorter one helps.
fn shorter_keepalive(arrivals: &Arrivals, times: Times) -> Option<u64> {
    let added_ns = arrivals.longest_gap_ns.saturating_sub(times.keepalive_ns);
    let (more, of) = MARGIN;
    let by_gap_ns = (times.deadtime_ns / more * of).checked_sub(added_ns)?;
    let keepalive_ns = by_gap_ns.min(times.deadtime_ns / KEEPALIVES_MIN);
    // Whole milliseconds, or what there is below.
    let keepalive_ns = match keepalive_ns / 1_000_000 {
        0 => keepalive_ns,
        milliseconds => milliseconds * 1_000_000,
    };
    let least_ns = KEEPALIVE_MIN_NS.max(times.keepalive_ns / SHORTER_MAX);
    (keepalive_ns >= least_ns && keepalive_ns < times.keepalive_ns).then_some(keepalive_ns)
}

/// Two figures are enough for a configuration file.
fn round_up(time_ns: u64) -> u64 {
    let mut unit = 1_000_000;
    while time_ns / unit >= 100 {
        unit *= 10;
    }
    time_ns.div_ceil(unit) * unit
}

#[cfg(test)]
mod tests;
