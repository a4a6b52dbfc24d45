//! How long silence may last on a link.

use std::time::Duration;

/// How long silence may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Interval between two heartbeats.
    pub keepalive: Duration,
    /// Silence after which a peer is late.
    pub warntime: Duration,
    /// Silence after which a peer is dead; the longest that holds, where it is [`Auto`].
    pub deadtime: Duration,
    /// Whether `deadtime` follows what arrives.
    pub auto: Option<Auto>,
}

/// `deadtime = "auto"`: it is as long as what arrives on a path needs. `deadtime` beside it is the
/// longest that it may be; whoever has to be on the safe side goes by that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Auto {
    /// The shortest that it may be.
    pub min: Duration,
    /// No warntime was given: it is half of the deadtime that holds at the moment.
    pub warntime_follows: bool,
}

impl Times {
    /// The shortest deadtime that may hold.
    #[must_use]
    pub fn deadtime_min(self) -> Duration {
        self.auto.map_or(self.deadtime, |auto| auto.min)
    }

    /// The times while a path needs so long a deadtime.
    #[must_use]
    pub fn with_deadtime(self, needed: Duration) -> Self {
        let Some(auto) = self.auto else { return self };
        let deadtime = needed.max(auto.min).min(self.deadtime);
        let warntime = match auto.warntime_follows {
            true => warntime_default(self.keepalive, deadtime),
            false => self.warntime,
        };
        Self { warntime, deadtime, ..self }
    }
}

/// Warntime where none is given.
pub(super) fn warntime_default(keepalive: Duration, deadtime: Duration) -> Duration {
    (deadtime / 2).max(keepalive)
}
