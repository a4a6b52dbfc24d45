//! What the times of a cluster or a link must keep to, whichever file they come from. The findings
//! have no place; who reads the file gives them theirs.

use std::time::Duration;

use humantime::format_duration;

use super::finding::Finding;
pub(super) use super::times::warntime_default;
use super::{
    ADDRESS_LIFETIME_DEFAULT_MAX, ADDRESS_LIFETIME_LATE_MAX, ADDRESS_LIFETIME_MIN, Auto,
    DAEMON_DEADTIME_DEFAULT_MIN, DURATION_MAX,
};

/// Keepalives in the shortest deadtime that `auto` gives, unless configured otherwise: two heartbeats may
/// be lost in a row. Fewer have no effect.
const AUTO_MIN_KEEPALIVES: u32 = crate::advice::KEEPALIVES_MIN as u32;
/// Keepalives in the longest one, unless configured otherwise.
const AUTO_MAX_KEEPALIVES: u32 = 20;
/// The longest one by default is no shorter than that: virtual CPUs stop for up to 130 ms, and what is
/// needed is half as much again.
const AUTO_MAX_LEAST: Duration = Duration::from_millis(200);

/// The times as they hold.
pub(super) struct Timing {
    pub(super) keepalive: Duration,
    pub(super) warntime: Duration,
    pub(super) deadtime: Duration,
    pub(super) auto: Option<Auto>,
    pub(super) initdead: Duration,
    pub(super) daemon_deadtime: Duration,
}

/// A deadtime that another time is compared with, and the key that it stands under.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    pub(super) key: &'static str,
    pub(super) time: Duration,
}

impl From<Duration> for Bound {
    fn from(time: Duration) -> Self {
        Self { key: "deadtime", time }
    }
}

/// What was said of deadtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Deadtime {
    /// The deadtime, or the longest.
    pub(super) longest: Duration,
    /// The shortest, with `deadtime = "auto"`.
    pub(super) auto_min: Option<Duration>,
}

impl Deadtime {
    /// `deadtime = "auto"` without more.
    pub(super) fn auto_default(keepalive: Duration) -> Self {
        let longest = keepalive.saturating_mul(AUTO_MAX_KEEPALIVES).max(AUTO_MAX_LEAST);
        let min = keepalive.saturating_mul(AUTO_MIN_KEEPALIVES);
        Self { longest: longest.min(DURATION_MAX), auto_min: Some(min.min(DURATION_MAX)) }
    }

    /// What must not be longer than any deadtime that may hold goes by that.
    pub(super) fn shortest(self) -> Bound {
        match self.auto_min {
            Some(time) => Bound { key: "deadtime_min", time },
            None => self.longest.into(),
        }
    }

    /// What must not be shorter than any deadtime that may hold goes by that.
    pub(super) fn longest(self) -> Bound {
        let key = if self.auto_min.is_some() { "deadtime_max" } else { "deadtime" };
        Bound { key, time: self.longest }
    }

    pub(super) fn auto(self, warntime_follows: bool) -> Option<Auto> {
        self.auto_min.map(|min| Auto { min, warntime_follows })
    }

    /// Of a pair with a keepalive.
    pub(super) fn finding(self, keepalive: Duration) -> Option<Finding> {
        match self.auto_min {
            Some(min) => auto_finding(keepalive, min, self.longest),
            None => deadtime_finding(keepalive, self.longest),
        }
    }
}

fn auto_finding(keepalive: Duration, min: Duration, max: Duration) -> Option<Finding> {
    let (alive, shortest) = (format_duration(keepalive), format_duration(min));
    if min < keepalive.saturating_mul(2) {
        let message = format!(
            "deadtime_min {shortest} is shorter than two keepalives of {alive}: one lost heartbeat \
             would make a peer dead"
        );
        let enough = format_duration(keepalive.saturating_mul(AUTO_MIN_KEEPALIVES));
        Some(Finding::error(message, format!("set it to {enough} or more")))
    } else if min > max {
        let message =
            format!("deadtime_min {shortest} is longer than deadtime_max {}", format_duration(max));
        let enough = format_duration(min.saturating_mul(2));
        Some(Finding::error(message, format!("set deadtime_max to more, such as {enough}")))
    } else {
        None
    }
}

pub(super) fn deadtime_finding(keepalive: Duration, deadtime: Duration) -> Option<Finding> {
    let (dead, alive) = (format_duration(deadtime), format_duration(keepalive));
    if deadtime <= keepalive {
        let message = format!(
            "deadtime {dead} is not longer than keepalive {alive}: every peer would be dead at once"
        );
        Some(Finding::error(message, deadtime_remedy(keepalive)))
    } else if deadtime < keepalive.saturating_mul(2) {
        let message = format!(
            "deadtime {dead} is shorter than two keepalives of {alive}: one lost heartbeat makes a \
             peer dead"
        );
        Some(Finding::warning(message, deadtime_remedy(keepalive)))
    } else {
        None
    }
}

/// The remedy for a deadtime that is too short.
pub(super) fn deadtime_remedy(keepalive: Duration) -> String {
    format!("set deadtime to {} or more", format_duration(keepalive.saturating_mul(4)))
}

/// Nothing where deadtime is not longer than keepalive: without a sensible pair around it, nothing can
/// be said about the value between.
pub(super) fn warntime_finding(
    warntime: Duration,
    keepalive: Duration,
    deadtime: impl Into<Bound>,
) -> Option<Finding> {
    let Bound { key, time: deadtime } = deadtime.into();
    let (shown, low, high) =
        (format_duration(warntime), format_duration(keepalive), format_duration(deadtime));
    let remedy = format!("set it between {low} and {high}, such as half of {key}");
    if deadtime <= keepalive {
        None
    } else if warntime < keepalive || warntime > deadtime {
        let message = format!("warntime {shown} is not between keepalive {low} and {key} {high}");
        Some(Finding::error(message, remedy))
    } else if warntime == keepalive {
        let message = format!("warntime {shown} is one keepalive: every heartbeat would be late");
        Some(Finding::warning(message, remedy))
    } else if warntime == deadtime {
        let message = format!("warntime {shown} is the {key}: no peer is late before it is dead");
        Some(Finding::warning(message, remedy))
    } else {
        None
    }
}

pub(super) fn daemon_deadtime_default(deadtime: Duration) -> Duration {
    deadtime.max(DAEMON_DEADTIME_DEFAULT_MIN)
}

pub(super) fn daemon_deadtime_finding(
    daemon_deadtime: Duration,
    deadtime: impl Into<Bound>,
) -> Option<Finding> {
    let Bound { key, time: deadtime } = deadtime.into();
    let (shown, dead) = (format_duration(daemon_deadtime), format_duration(deadtime));
    (daemon_deadtime < deadtime).then(|| {
        let message = format!("daemon_deadtime {shown} is shorter than {key} {dead}");
        Finding::error(message, format!("set it to {dead} or more"))
    })
}

/// The longest lifetime that has ended before others may take the address, two seconds at most.
pub(super) fn address_lifetime_default(daemon_deadtime: Duration) -> Duration {
    lifetime_below(daemon_deadtime).clamp(ADDRESS_LIFETIME_MIN, ADDRESS_LIFETIME_DEFAULT_MAX)
}

/// In whole seconds; zero where there is none.
fn lifetime_below(daemon_deadtime: Duration) -> Duration {
    Duration::from_secs(daemon_deadtime.saturating_sub(ADDRESS_LIFETIME_LATE_MAX).as_secs())
}

/// A warning, no error: two processes have to hang at once for it to come true, and refusing to run
/// would make an outage of it. Below a `daemon_deadtime` of 2 s there is no lifetime that would do.
pub(super) fn address_lifetime_finding(
    lifetime: Duration,
    daemon_deadtime: Duration,
) -> Option<Finding> {
    let both = (lifetime + ADDRESS_LIFETIME_LATE_MAX).checked_sub(daemon_deadtime)?;
    if both.is_zero() {
        return None;
    }
    let message = format!(
        "two nodes may hold an address for up to {} when daemon and keeper of its owner are frozen \
         together: its kernel keeps it for address_lifetime {} and up to {} more, and others take it \
         after daemon_deadtime {}",
        format_duration(both),
        format_duration(lifetime),
        format_duration(ADDRESS_LIFETIME_LATE_MAX),
        format_duration(daemon_deadtime)
    );
    let longest = lifetime_below(daemon_deadtime);
    let remedy = if longest.is_zero() {
        format!(
            "set daemon_deadtime to {} or more and address_lifetime to {}, or pre-arm the groups \
             (prearmed = true)",
            format_duration(ADDRESS_LIFETIME_MIN + ADDRESS_LIFETIME_LATE_MAX),
            format_duration(ADDRESS_LIFETIME_MIN)
        )
    } else {
        format!(
            "set address_lifetime to {} or less, or daemon_deadtime to {} or more",
            format_duration(longest),
            format_duration(lifetime + ADDRESS_LIFETIME_LATE_MAX)
        )
    };
    Some(Finding::warning(message, remedy))
}

pub(super) fn initdead_finding(initdead: Duration, deadtime: impl Into<Bound>) -> Option<Finding> {
    let Bound { key, time: deadtime } = deadtime.into();
    let (shown, dead) = (format_duration(initdead), format_duration(deadtime));
    let remedy = format!("set it to {} or more", format_duration(deadtime.saturating_mul(2)));
    if initdead < deadtime {
        let message = format!("initdead {shown} is shorter than {key} {dead}");
        Some(Finding::error(message, remedy))
    } else if initdead < deadtime.saturating_mul(2) {
        let message = format!(
            "initdead {shown} is shorter than two deadtimes of {dead}: a peer that starts a little \
             later is taken for dead"
        );
        Some(Finding::warning(message, remedy))
    } else {
        None
    }
}
