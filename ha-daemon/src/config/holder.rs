//! What nodes count on of each other: an owner whose daemon does not run has what it has for so long, and
//! the others wait for longer before they take it.
//!
//! Nodes get a new configuration one after the other, and none knows which of them have it. So each is
//! safe beside those with another one: after a change it holds for the shorter time and waits for the
//! longer one of both, until it is reloaded once more without a change.

use std::time::Duration;

use humantime::format_duration;
use serde::{Deserialize, Serialize};

use super::{Cluster, Config, LEASE_MARGIN_MIN};

/// Times of an owner whose daemon does not run, and of those who would take what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderTimes {
    /// How long it keeps its addresses: [`Cluster::holder_lease`].
    pub lease: Duration,
    /// How long they stay in its kernel when its keeper does not run either; whole seconds.
    pub address_lifetime: Duration,
    /// How long the others wait.
    pub daemon_deadtime: Duration,
}

impl HolderTimes {
    /// Safe beside nodes that go by either.
    fn beside(self, other: Self) -> Self {
        Self {
            lease: self.lease.min(other.lease),
            address_lifetime: self.address_lifetime.min(other.address_lifetime),
            daemon_deadtime: self.daemon_deadtime.max(other.daemon_deadtime),
        }
    }
}

/// What the next program of a node has to know of these times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderMemory {
    configured: HolderTimes,
    earlier: Option<HolderTimes>,
}

impl HolderMemory {
    /// Of a node that runs with this.
    #[must_use]
    pub fn of(cluster: &Cluster) -> Self {
        Self { configured: cluster.configured_times(), earlier: cluster.earlier }
    }

    /// Whether other nodes might go by other times.
    #[must_use]
    pub fn is_mixed(&self) -> bool {
        self.earlier.is_some()
    }

    /// [`Cluster::earlier`] of the configuration that was read next. `settled`: it is the same, and was
    /// read again to say that every node has it.
    #[must_use]
    pub fn earlier_than(&self, next: &Cluster, settled: bool) -> Option<HolderTimes> {
        let next = next.configured_times();
        if settled && next == self.configured {
            return None;
        }
        let earlier = self.earlier.map_or(self.configured, |it| it.beside(self.configured));
        Some(earlier).filter(|it| it.beside(next) != next)
    }
}

impl Cluster {
    /// As the file says, whatever other nodes go by.
    fn configured_times(&self) -> HolderTimes {
        let margin = self.deadtime.min(self.daemon_deadtime / 4).max(LEASE_MARGIN_MIN);
        HolderTimes {
            lease: self.daemon_deadtime.saturating_sub(margin),
            address_lifetime: self.address_lifetime,
            daemon_deadtime: self.daemon_deadtime,
        }
    }

    /// As they hold.
    #[must_use]
    pub fn holder_times(&self) -> HolderTimes {
        let configured = self.configured_times();
        self.earlier.map_or(configured, |earlier| earlier.beside(configured))
    }

    /// What operators have to know while other nodes may go by other times.
    #[must_use]
    pub fn mixed_times(&self) -> Option<String> {
        self.earlier?;
        let HolderTimes { lease, address_lifetime, daemon_deadtime } = self.holder_times();
        let [lease, lifetime, wait] =
            [lease, address_lifetime, daemon_deadtime].map(format_duration);
        Some(format!(
            "nodes may go by different times after a change of daemon_deadtime, deadtime or \
             address_lifetime; until it is reloaded once more, this node holds its addresses for {lease} \
             without its daemon (for {lifetime} without its keeper) and waits {wait} for the daemons of \
             others; when every node has this configuration, reload each again"
        ))
    }

    /// How long an owner whose daemon does not run keeps its addresses: shorter than
    /// `daemon_deadtime`, after which others take them, by deadtime, but a quarter at most, and by
    /// 250 ms at least.
    #[must_use]
    pub fn holder_lease(&self) -> Duration {
        self.holder_times().lease
    }
}

impl Config {
    /// Whether a file that was read just now says the same as that of this configuration.
    #[must_use]
    pub fn says_the_same(&self, read: &Self) -> bool {
        let cluster = Cluster { earlier: None, ..self.cluster.clone() };
        let bare = Self { keys: self.keys.settled(), cluster, ..self.clone() };
        bare == *read
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::tests::config;

    fn cluster(daemon_deadtime_s: u64, address_lifetime_s: u64) -> Cluster {
        let mut cluster = config(2, 1, 1).cluster;
        cluster.deadtime = Duration::from_millis(200);
        cluster.daemon_deadtime = Duration::from_secs(daemon_deadtime_s);
        cluster.address_lifetime = Duration::from_secs(address_lifetime_s);
        cluster
    }

    /// The next one as it goes on from that.
    fn after(before: &Cluster, mut next: Cluster, settled: bool) -> Cluster {
        next.earlier = HolderMemory::of(before).earlier_than(&next, settled);
        next
    }

    /// Lease in milliseconds, lifetime and wait in seconds.
    fn times(cluster: &Cluster) -> (u128, u64, u64) {
        let HolderTimes { lease, address_lifetime, daemon_deadtime } = cluster.holder_times();
        (lease.as_millis(), address_lifetime.as_secs(), daemon_deadtime.as_secs())
    }

    #[test]
    fn after_a_change_the_shorter_lease_and_the_longer_wait_hold_in_either_direction() {
        let (short, long) = (cluster(3, 2), cluster(10, 9));
        assert_eq!((times(&short), times(&long)), ((2_750, 2, 3), (9_750, 9, 10)));
        for (before, next) in [(&short, &long), (&long, &short)] {
            let changed = after(before, next.clone(), false);
            assert_eq!(times(&changed), (2_750, 2, 10));
            assert!(HolderMemory::of(&changed).is_mixed());
            assert_eq!(after(&changed, next.clone(), true), *next, "settled");
        }
    }

    #[test]
    fn what_several_changes_in_a_row_leave_is_safe_beside_all_of_them() {
        let mut held = cluster(5, 4);
        for next in [cluster(3, 2), cluster(20, 19), cluster(10, 9)] {
            held = after(&held, next, false);
        }
        assert_eq!(times(&held), (2_750, 2, 20));
        // Back to what it was first, which not every node has.
        held = after(&held, cluster(5, 4), true);
        assert_eq!(times(&held), (2_750, 2, 20), "that was a change");
        held = after(&held, cluster(5, 4), false);
        assert_eq!(times(&held), (2_750, 2, 20), "something else changed");
        assert_eq!(times(&after(&held, cluster(5, 4), true)), (4_750, 4, 5));
    }

    #[test]
    fn a_start_without_a_change_of_these_times_goes_by_its_file() {
        let before = cluster(3, 2);
        assert_eq!(after(&before, before.clone(), false), before);
        // A longer wait for others and a shorter time for itself are safe beside anybody.
        let cautious = Cluster { deadtime: Duration::from_millis(500), ..cluster(3, 2) };
        assert_eq!(after(&before, cautious.clone(), false), cautious);
    }

    #[test]
    fn the_same_file_says_the_same_whatever_is_left_of_earlier_ones() {
        let read = config(2, 1, 1);
        let mut running = read.clone();
        let memory = HolderMemory::of(&cluster(9, 2));
        running.cluster.earlier = memory.earlier_than(&running.cluster, false);
        assert!(running != read && running.says_the_same(&read));
        let mut changed = read.clone();
        changed.groups[0].failback = crate::config::Failback::Manual;
        assert!(!running.says_the_same(&changed));
    }
}
