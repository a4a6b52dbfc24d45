//! How services are watched, and what follows when one fails.

use std::time::Duration;

/// Longest time that a status of a service may take: a third of what a start may take, up to this.
const STATUS_TIME_MAX: Duration = Duration::from_secs(20);
/// And this at least, however short that is: a machine that is busy for a moment has not lost its services.
const STATUS_TIME_MIN: Duration = Duration::from_secs(1);
/// Shortest interval at which a service is asked for its status.
pub const MONITOR_MIN: Duration = Duration::from_millis(100);
/// The same, unless the configuration says otherwise.
pub const MONITOR_DEFAULT: Duration = Duration::from_secs(10);
/// Most restarts in a row that can be configured.
pub const RESTARTS_MAX: u32 = 100;
/// Restarts in a row unless the configuration says otherwise.
pub const RESTARTS_DEFAULT: u32 = 3;
/// Shortest time after which failures are forgotten.
pub const RESTART_WINDOW_MIN: Duration = Duration::from_secs(1);
/// The same, unless the configuration says otherwise.
pub const RESTART_WINDOW_DEFAULT: Duration = Duration::from_secs(600);

/// How long a status may take where a start may take so long.
#[must_use]
pub fn status_time(script_timeout: Duration) -> Duration {
    (script_timeout / 3).clamp(STATUS_TIME_MIN, STATUS_TIME_MAX)
}

/// What becomes of a group when a service of it has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecoveryPolicy {
    /// It is restarted where it is, and leaves that node when that happens too often.
    Restart,
    /// It goes to another node, and is restarted where it is when there is none.
    Relocate,
    /// It is disabled, as by an operator.
    Disable,
}

/// How a group is recovered whose service has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovery {
    /// What is done. Default restart.
    pub policy: RecoveryPolicy,
    /// How many failures in a row a node answers by a restart. Default [`RESTARTS_DEFAULT`].
    pub restarts: u32,
    /// How long services must run until earlier failures are forgotten, and how long a node on which they failed
    /// too often leaves the group to others, the first time. Default [`RESTART_WINDOW_DEFAULT`].
    pub window: Duration,
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            policy: RecoveryPolicy::Restart,
            restarts: RESTARTS_DEFAULT,
            window: RESTART_WINDOW_DEFAULT,
        }
    }
}

impl Recovery {
    /// So many failures in a row may be answered by a restart in place.
    #[must_use]
    pub fn restarts_allowed(&self) -> u32 {
        match self.policy {
            RecoveryPolicy::Restart => self.restarts,
            RecoveryPolicy::Relocate | RecoveryPolicy::Disable => 0,
        }
    }
}
