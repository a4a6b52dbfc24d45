//! The interfaces that carry resources, as far as they matter for decisions: which of them this
//! node cannot use.
//!
//! An interface that came back is not usable at once. Behind it the peers may live and own what
//! this node takes for ownerless, because it could not hear them: it listens first, until every
//! peer is heard or as long as a node that has just started; a pause of this node is no listening.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::time::Moment;
use crate::names::InterfaceName;

/// The wait of an interface that is up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Moment", into = "Moment")]
struct Wait {
    /// How long at most.
    until: Moment,
    /// What the clock of the time awake showed when it began; the next program's begins at zero.
    awake_ns: u64,
}

impl From<Moment> for Wait {
    fn from(until: Moment) -> Self {
        Self { until, awake_ns: 0 }
    }
}

impl From<Wait> for Moment {
    fn from(wait: Wait) -> Self {
        wait.until
    }
}

/// Interfaces that cannot be used now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Interfaces {
    unusable: BTreeSet<InterfaceName>,
    /// Those of them that are up again.
    back: BTreeMap<InterfaceName, Wait>,
}

impl Interfaces {
    /// Those that cannot be used.
    pub(super) fn unusable(&self) -> &BTreeSet<InterfaceName> {
        &self.unusable
    }

    /// An interface went down. Whether that is news.
    pub(super) fn down(&mut self, name: InterfaceName) -> bool {
        let was_back = self.back.remove(&name).is_some();
        self.unusable.insert(name) || was_back
    }

    /// An interface is up; one that was down becomes usable at `until` at the latest. Whether that
    /// is news.
    pub(super) fn up(&mut self, name: InterfaceName, until: Moment, awake_ns: u64) -> bool {
        if !self.unusable.contains(&name) || self.back.contains_key(&name) {
            return false;
        }
        self.back.insert(name, Wait { until, awake_ns });
        true
    }

    /// Those that wait do so until then at least, unless they have for that much time awake.
    pub(super) fn listen_on(&mut self, until: Moment, awake_ns: u64, listened: Duration) {
        for wait in self.back.values_mut() {
            if Duration::from_nanos(awake_ns.saturating_sub(wait.awake_ns)) < listened {
                wait.until = wait.until.max(until);
            }
        }
    }

    /// Makes those usable that have waited long enough, or all that are up when `all_heard`.
    pub(super) fn admit(&mut self, all_heard: bool, now: Moment) {
        let unusable = &mut self.unusable;
        self.back.retain(|name, wait| {
            let waits = !all_heard && now < wait.until;
            if !waits {
                unusable.remove(name);
            }
            waits
        });
    }

    /// When [`Self::admit`] has to be called next.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.back.values().map(|wait| wait.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eth0() -> InterfaceName {
        "eth0".parse().unwrap()
    }

    #[test]
    fn an_interface_that_came_back_waits_until_its_time_or_until_all_peers_are_heard() {
        for all_heard in [false, true] {
            let mut interfaces = Interfaces::default();
            assert!(interfaces.down(eth0()));
            assert!(!interfaces.down(eth0()));
            assert!(interfaces.up(eth0(), Moment(100), 0));
            assert!(!interfaces.up(eth0(), Moment(200), 0));
            assert_eq!(interfaces.deadline(), Some(Moment(100)));
            interfaces.admit(all_heard, Moment(99));
            assert_eq!(interfaces.unusable().contains(&eth0()), !all_heard);
            interfaces.admit(false, Moment(100));
            assert!(interfaces.unusable().is_empty());
            assert_eq!(interfaces.deadline(), None);
        }
    }

    #[test]
    fn an_interface_that_goes_down_while_it_waits_starts_afresh() {
        let mut interfaces = Interfaces::default();
        interfaces.down(eth0());
        interfaces.up(eth0(), Moment(100), 0);
        assert!(interfaces.down(eth0()));
        interfaces.admit(true, Moment(100));
        assert!(interfaces.unusable().contains(&eth0()));
    }

    #[test]
    fn an_interface_that_was_never_down_is_usable() {
        let mut interfaces = Interfaces::default();
        assert!(!interfaces.up(eth0(), Moment(100), 0));
        assert!(interfaces.unusable().is_empty());
    }

    #[test]
    fn pauses_put_the_wait_off_until_it_has_lasted_for_long_enough_of_the_time_awake() {
        let mut interfaces = Interfaces::default();
        interfaces.down(eth0());
        interfaces.up(eth0(), Moment(100), 1_000);
        let listened = Duration::from_nanos(50);
        for (until, awake_ns, expected) in [(90, 1_000, 100), (130, 1_049, 130), (160, 1_050, 130)]
        {
            interfaces.listen_on(Moment(until), awake_ns, listened);
            assert_eq!(interfaces.deadline(), Some(Moment(expected)));
        }
    }
}
