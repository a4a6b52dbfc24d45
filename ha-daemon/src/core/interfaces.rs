//! The interfaces that carry resources, as far as they matter for decisions: which of them this
//! node cannot use.
//!
//! An interface that came back is not usable at once. Behind it the peers may live and own what
//! this node takes for ownerless, because it could not hear them: it listens first, until every
//! peer is heard or as long as a node that has just started.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::time::Moment;
use crate::names::InterfaceName;

/// Interfaces that cannot be used now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Interfaces {
    pub(super) unusable: BTreeSet<InterfaceName>,
    /// Those of them that are up again, and how long they wait at most.
    pub(super) back: BTreeMap<InterfaceName, Moment>,
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
    pub(super) fn up(&mut self, name: InterfaceName, until: Moment) -> bool {
        if !self.unusable.contains(&name) || self.back.contains_key(&name) {
            return false;
        }
        self.back.insert(name, until);
        true
    }

    /// Makes those usable that have waited long enough, or all that are up when `all_heard`.
    pub(super) fn admit(&mut self, all_heard: bool, now: Moment) {
        let unusable = &mut self.unusable;
        self.back.retain(|name, until| {
            let waits = !all_heard && now < *until;
            if !waits {
                unusable.remove(name);
            }
            waits
        });
    }

    /// When [`Self::admit`] has to be called next.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.back.values().copied().min()
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
            assert!(interfaces.up(eth0(), Moment(100)));
            assert!(!interfaces.up(eth0(), Moment(200)));
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
        interfaces.up(eth0(), Moment(100));
        assert!(interfaces.down(eth0()));
        interfaces.admit(true, Moment(100));
        assert!(interfaces.unusable().contains(&eth0()));
    }

    #[test]
    fn an_interface_that_was_never_down_is_usable() {
        let mut interfaces = Interfaces::default();
        assert!(!interfaces.up(eth0(), Moment(100)));
        assert!(interfaces.unusable().is_empty());
    }
}
