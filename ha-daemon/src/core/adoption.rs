//! Adoption: a daemon that starts while its dead predecessor's keeper still keeps groups in place goes
//! on with them, with their terms, if everything is there. No peer sees a transition.
//!
//! Until every peer that heard the predecessor has this daemon's word for it, the lease is not
//! renewed ([`Action::Adopted`]): should they not hear it, the keeper takes everything off before they
//! take it.

use std::collections::{BTreeMap, BTreeSet};

use ha_common::wire::Phase;
use serde::{Deserialize, Serialize};

use super::Core;
use super::io::Action;
use super::message::{ClaimState, Wish};
use super::ownership::Goal;
use super::resume::identity;
use super::time::Moment;
use crate::config::{
    Cluster, GroupIndex, HolderMemory, HolderTimes, NodeIndex, OnDaemonDeath, Resource,
};
use crate::names::{GroupName, NodeName};
use crate::snapshot::{ResourceState, Severity};

/// Version of [`Estate`]. Another one is not adopted.
const FORMAT: u32 = 1;

/// What a daemon leaves to the next one should it die: told to the keeper before each change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estate {
    format: u32,
    cluster: String,
    node: NodeName,
    incarnation: u64,
    standby: bool,
    /// Peers that were heard.
    heard: BTreeSet<NodeName>,
    /// Earlier versions did not tell.
    #[serde(default)]
    times: Option<HolderMemory>,
    groups: BTreeMap<GroupName, Bequest>,
}

/// A group that ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Bequest {
    term: u64,
    wish: Wish,
    /// It stays when its daemon dies without a word.
    waits: bool,
    resources: Vec<String>,
}

/// What decides whether the keeper has to be told anew.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holdings {
    /// Groups that are owned: position, term, whether everything runs, what operators want.
    pub owned: Vec<(GroupIndex, u64, ClaimState, Wish)>,
    heard: Vec<NodeIndex>,
    standby: bool,
}

/// An adoption that is under way.
#[derive(Debug)]
pub(super) struct Adoption {
    groups: Vec<GroupIndex>,
    /// Peers that have to know.
    awaited: BTreeSet<NodeIndex>,
}

impl Core {
    /// What the keeper has to know of.
    #[must_use]
    pub fn holdings(&self) -> Holdings {
        let owned = |(index, entry): (usize, &super::groups::Entry)| {
            let state = entry.local.claim_state();
            let claim = (GroupIndex(index), entry.local.term, state, entry.local.own_wish);
            state.owns().then_some(claim)
        };
        let heard = self.peers.iter().filter(|(_, peer)| peer.synced());
        Holdings {
            owned: self.groups.entries.iter().enumerate().filter_map(owned).collect(),
            heard: heard.map(|(node, _)| *node).collect(),
            standby: self.standby,
        }
    }

    /// The same, as the next daemon is told.
    #[must_use]
    pub fn estate(&self, holdings: &Holdings) -> Estate {
        let runs = |(index, term, state, wish): &(GroupIndex, u64, ClaimState, Wish)| {
            let group = &self.config.groups[index.0];
            let bequest = Bequest {
                term: *term,
                wish: *wish,
                waits: group.on_daemon_death == OnDaemonDeath::Wait,
                resources: group.resources.iter().map(identity).collect(),
            };
            (*state == ClaimState::Started).then(|| (group.name.clone(), bequest))
        };
        let name = |node: &NodeIndex| self.config.nodes[node.0].name.clone();
        Estate {
            format: FORMAT,
            cluster: self.config.cluster.name.clone(),
            node: name(&self.own),
            incarnation: self.incarnation,
            standby: self.standby,
            heard: holdings.heard.iter().map(name).collect(),
            times: Some(HolderMemory::of(&self.config.cluster)),
            groups: holdings.owned.iter().filter_map(runs).collect(),
        }
    }
}

impl Estate {
    /// Whether it is this node's, and of this version.
    #[must_use]
    pub fn is_of(&self, cluster: &str, node: &NodeName, incarnation: u64) -> bool {
        self.format == FORMAT
            && self.cluster == cluster
            && self.node == *node
            && self.incarnation < incarnation
    }

    /// Keeps only the groups that have stayed: all of them, or those that wait, and of these those
    /// for which `stays` holds.
    pub fn keep(&mut self, all: bool, stays: impl Fn(&GroupName) -> bool) {
        self.groups.retain(|name, bequest| (all || bequest.waits) && stays(name));
    }

    /// [`Cluster::earlier`] of this start's configuration.
    #[must_use]
    pub fn earlier_than(&self, cluster: &Cluster) -> Option<HolderTimes> {
        self.times?.earlier_than(cluster, false)
    }

    /// Whether nothing is left of it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// How many groups are in it.
    #[must_use]
    pub fn count(&self) -> u16 {
        u16::try_from(self.groups.len()).unwrap_or(u16::MAX)
    }

    /// Whether a group is in it.
    #[must_use]
    pub fn has(&self, group: &GroupName) -> bool {
        self.groups.contains_key(group)
    }

    /// Whether a group has the same resources as then.
    #[must_use]
    pub fn fits(&self, group: &crate::config::Group) -> bool {
        let resources: Vec<String> = group.resources.iter().map(identity).collect();
        self.groups.get(&group.name).is_some_and(|it| it.resources == resources)
    }
}

impl Core {
    /// Goes on with what is left of an estate ([`Estate::keep`]). The addresses are there; services
    /// are asked for first, as at any start.
    pub fn adopt(&mut self, estate: &Estate) {
        let config = std::sync::Arc::clone(&self.config);
        let mut adopted = Vec::new();
        for (index, group) in config.groups.iter().enumerate() {
            let Some(bequest) = estate.groups.get(&group.name) else { continue };
            if !estate.fits(group) || !group.nodes.contains(&self.own) {
                continue;
            }
            let entry = &mut self.groups.entries[index];
            let local = &mut entry.local;
            for (state, resource) in local.resources.iter_mut().zip(&group.resources) {
                if matches!(resource, Resource::Address { .. }) {
                    *state = ResourceState::Started;
                }
            }
            local.goal = Goal::Own;
            local.term = bequest.term;
            local.highest_term = bequest.term;
            local.wish = bequest.wish;
            local.own_wish = bequest.wish;
            // No news: it has run all the time.
            entry.reported = ClaimState::Started;
            adopted.push(GroupIndex(index));
        }
        self.standby = estate.standby;
        let named = |node: &NodeIndex| estate.heard.contains(&config.nodes[node.0].name);
        let awaited = self.peers.keys().copied().filter(|node| named(node)).collect();
        self.adoption = Some(Adoption { groups: adopted, awaited });
        self.catch_up_story();
    }

    /// Ends the adoption when every peer that heard the dead daemon has this one's word.
    pub(super) fn finish_adoption(&mut self) {
        let Some(adoption) = &self.adoption else { return };
        let knows = |node: &NodeIndex| {
            let peer = self.peers.get(node);
            peer.is_some_and(|peer| peer.synced() && peer.acknowledged == Some(self.generation))
        };
        if self.unprobed || self.phase == Phase::Leaving || !adoption.awaited.iter().all(knows) {
            return;
        }
        let groups = adoption.groups.clone();
        self.adoption = None;
        self.actions.push(Action::Adopted);
        for index in groups {
            let local = self.groups.local(index);
            if local.goal != Goal::Own {
                continue;
            }
            let (name, term) = (&self.config.groups[index.0].name, local.term);
            let text = format!("{name} goes on here as it ran before, with term {term}");
            self.group_note(Severity::Info, "group-adopted", index, text);
        }
    }

    /// The holder's lease was over: the addresses of this node are off, whoever took them off.
    pub(super) fn lease_lost(&mut self, silent_ns: i64, now: Moment) {
        self.adoption = None;
        self.lapse(silent_ns, now);
        let config = std::sync::Arc::clone(&self.config);
        for (group, entry) in config.groups.iter().zip(&mut self.groups.entries) {
            for (state, resource) in entry.local.resources.iter_mut().zip(&group.resources) {
                let address = matches!(resource, Resource::Address { .. });
                if address && *state == ResourceState::Started {
                    *state = ResourceState::Stopped;
                }
            }
        }
    }

    /// A resource of an adopted group is not there, or nothing tells: the group is not adopted.
    pub(super) fn not_adopted(&mut self, group: GroupIndex, why: &str) {
        self.groups.local_mut(group).goal = Goal::Release;
        let name = &self.config.groups[group.0].name;
        let text =
            format!("{name} cannot go on as it ran before: {why}; stopping what is left of it");
        self.group_note(Severity::Warning, "not-adopted", group, text);
    }
}
