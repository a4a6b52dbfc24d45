//! Handing over: what a core knows, by name, so that the core of another program, with another
//! configuration perhaps, goes on from it as the same start of this node.
//!
//! Before, the old core stops what the new configuration does not have ([`plan`],
//! [`Input::HandOver`](super::io::Input::HandOver)) and waits until nothing is under way. A group that
//! stays is claimed all the time, so that no peer takes it meanwhile.

mod group;
mod peer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ha_common::wire::Phase;
use serde::{Deserialize, Serialize};

use self::group::GroupMemory;
use self::peer::PeerMemory;
use super::connectivity::{Reach, ReachMemory};
use super::groups::Entry;
use super::interfaces::Interfaces;
use super::io::Action;
use super::message::Claim;
use super::ownership::Goal;
use super::peer::Peer;
use super::time::{Moment, milliseconds, nanoseconds};
use super::{Core, closing_wait};
use crate::config::{Config, Group, GroupIndex, NodeIndex, Resource};
use crate::names::{GroupName, NodeName};
use crate::snapshot::{ResourceState, Severity};

/// Longest wait until nothing is under way and what does not stay is stopped.
pub const HAND_OVER_WAIT_MAX: Duration = Duration::from_secs(60);

/// What stays of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kept {
    /// Everything.
    All,
    /// So many of its resources, from the first on. The others are stopped, and what the new
    /// configuration has in their place is started afterwards.
    First(usize),
    /// Nothing: the new configuration does not have the group.
    Nothing,
}

/// A hand-over that is being prepared.
#[derive(Debug)]
pub(super) struct HandOver {
    kept: Vec<Kept>,
    pub(super) until: Moment,
}

/// What stays of each group of `old` when `new` takes over.
#[must_use]
pub fn plan(old: &Config, new: &Config) -> Vec<Kept> {
    let kept = |group: &Group| {
        let Some(successor) = new.groups.iter().find(|it| it.name == group.name) else {
            return Kept::Nothing;
        };
        // Armed addresses are there in another way: the one ends before the other begins.
        if successor.prearmed != group.prearmed {
            return Kept::First(0);
        }
        let pairs = group.resources.iter().zip(&successor.resources);
        match pairs.take_while(|(old, new)| old == new).count() {
            same if same == group.resources.len() => Kept::All,
            same => Kept::First(same),
        }
    };
    old.groups.iter().map(kept).collect()
}

/// What a core knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    incarnation: u64,
    started_at: Moment,
    initdead_from: Moment,
    pauses: u64,
    #[serde(default)]
    lapsed_at: Option<Moment>,
    phase: u8,
    generation: u32,
    published: Option<(u8, bool, Option<u8>, Vec<Claim>)>,
    reach: ReachMemory,
    standby: bool,
    errand_number: u32,
    #[serde(default)]
    services_well: bool,
    interfaces: Interfaces,
    peers: BTreeMap<NodeName, PeerMemory>,
    groups: BTreeMap<GroupName, GroupMemory>,
}

impl Memory {
    /// Whether heartbeats say so long that all groups of this node are well.
    #[must_use]
    pub fn services_well(&self) -> bool {
        self.services_well
    }

    /// What heartbeats of this node say until a driver runs again.
    #[must_use]
    pub fn advertised(&self) -> (u32, Phase) {
        let phase = match Phase::from_wire(self.phase) {
            Phase::Active => Phase::Restarting,
            other @ (Phase::Starting | Phase::Leaving | Phase::Restarting) => other,
        };
        (self.generation, phase)
    }

    /// Whether it takes a resource to run here.
    #[must_use]
    pub fn runs(&self, group: &GroupName, resource: &Resource) -> bool {
        let wanted = (identity(resource), ResourceState::Started);
        self.groups.get(group).is_some_and(|it| it.resources.contains(&wanted))
    }

    /// The incarnation that goes on.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }
}

/// What a resource is, in words that other versions understand too.
pub(super) fn identity(resource: &Resource) -> String {
    let place = match resource {
        Resource::Address { interface, .. } => interface.as_str(),
        Resource::SourceAddress { .. } | Resource::Script { .. } | Resource::Systemd { .. } => "",
    };
    format!("{} {} {place}", resource.kind(), resource.label())
}

// ---- before --------------------------------------------------------------------------------

impl Core {
    /// Stops what does not stay, and asks for the hand-over when nothing is under way any more.
    pub(super) fn prepare_hand_over(&mut self, kept: Vec<Kept>, now: Moment) {
        if self.leaving.is_some() {
            let reason = "this node leaves the cluster".to_owned();
            return self.actions.push(Action::HandOverFailed(reason));
        }
        for (entry, kept) in self.groups.entries.iter_mut().zip(&kept) {
            entry.local.trim = match kept {
                Kept::All => None,
                Kept::First(count) => Some(*count),
                Kept::Nothing => Some(0),
            };
            if *kept == Kept::Nothing {
                entry.local.goal = Goal::Release;
            }
        }
        self.hand_over = Some(HandOver { kept, until: now.after(HAND_OVER_WAIT_MAX) });
        self.end_statuses();
    }

    /// Whether the group is released for good by the hand-over that is being prepared.
    pub(super) fn goes_with_hand_over(&self, group: GroupIndex) -> bool {
        let kept = self.hand_over.as_ref().and_then(|it| it.kept.get(group.0));
        kept == Some(&Kept::Nothing)
    }

    /// Hands over when everything is ready, gives it up when something cannot be.
    pub(super) fn finish_hand_over(&mut self, now: Moment) {
        let Some(hand_over) = &self.hand_over else { return };
        let waiting = self.waiting_for_hand_over().or_else(|| {
            self.adoption.as_ref().map(|_| "the adoption of the last daemon's groups".to_owned())
        });
        let failed = if self.leaving.is_some() {
            Some("this node leaves the cluster".to_owned())
        } else if let Some(stuck) = self.stuck_before_hand_over() {
            Some(format!("{stuck} could not be stopped"))
        } else if waiting.is_some() && now >= hand_over.until {
            let wait = milliseconds(nanoseconds(HAND_OVER_WAIT_MAX));
            waiting.clone().map(|label| format!("{label} is still under way after {wait}"))
        } else {
            None
        };
        if let Some(reason) = failed {
            self.hand_over = None;
            for entry in &mut self.groups.entries {
                entry.local.trim = None;
            }
            self.actions.push(Action::HandOverFailed(reason));
        } else if waiting.is_none() {
            self.hand_over = None;
            self.exited = true;
            self.actions.push(Action::HandOver);
        }
    }

    fn resources_here(&self) -> impl Iterator<Item = (String, ResourceState, bool)> {
        let groups = self.config.groups.iter().zip(&self.groups.entries);
        groups.flat_map(|(group, entry)| {
            let local = &entry.local;
            let all = group.resources.iter().zip(&local.resources).enumerate();
            all.map(|(position, (resource, state))| {
                let stays = local.trim.is_none_or(|keep| position < keep);
                (format!("{} of group {}", resource.label(), group.name), *state, stays)
            })
        })
    }

    fn waiting_for_hand_over(&self) -> Option<String> {
        let busy = |(label, state, stays): (String, ResourceState, bool)| match state {
            ResourceState::Starting | ResourceState::Stopping | ResourceState::Unknown => {
                Some(label)
            }
            ResourceState::Started | ResourceState::Failed => (!stays).then_some(label),
            ResourceState::Stopped => None,
        };
        self.resources_here().find_map(busy).or_else(|| self.status_under_way())
    }

    fn stuck_before_hand_over(&self) -> Option<String> {
        let stuck = |(label, state, stays): (String, ResourceState, bool)| {
            (state == ResourceState::Failed && !stays).then_some(label)
        };
        self.resources_here().find_map(stuck)
    }

    /// Everything that this core knows. No field is left out but those named here: what was noted
    /// last, whom it waits for, and what it was about to do.
    #[must_use]
    pub fn remember(&self) -> Memory {
        let Self {
            config,
            own: _,
            incarnation,
            started_at,
            initdead_from,
            window_from: _,
            pauses,
            pause_noted: _,
            lapsed_at,
            // A fresh window begins, and with it the count of the time awake.
            awake: _,
            handled_at: _,
            read_at: _,
            phase,
            leaving: _,
            exited: _,
            patient: _,
            peers,
            groups,
            interfaces,
            generation,
            hand_over: _,
            // There is no hand-over before its end.
            adoption: _,
            published,
            remind_at: _,
            reach,
            standby,
            // Whoever waits for their end asks again.
            errands: _,
            errand_number,
            // Nobody answers a question of the program before.
            questions: _,
            told_well,
            // Only services that are new in the configuration are asked for.
            unprobed: _,
            // Begins with what is: see `Core::catch_up_story`.
            story: _,
            actions: _,
        } = self;
        let peer = |(node, peer): (&NodeIndex, &Peer)| {
            (config.nodes[node.0].name.clone(), PeerMemory::of(peer, config))
        };
        let group =
            |(group, entry): (&Group, &Entry)| (group.name.clone(), GroupMemory::of(group, entry));
        Memory {
            incarnation: *incarnation,
            started_at: *started_at,
            initdead_from: *initdead_from,
            pauses: *pauses,
            lapsed_at: *lapsed_at,
            phase: *phase as u8,
            generation: *generation,
            published: published.as_ref().map(|(phase, standby, reached, claims)| {
                (*phase as u8, *standby, *reached, claims.clone())
            }),
            reach: reach.remember(&config.connectivity),
            standby: *standby,
            errand_number: *errand_number,
            services_well: *told_well,
            interfaces: interfaces.clone(),
            peers: peers.iter().map(peer).collect(),
            groups: config.groups.iter().zip(&groups.entries).map(group).collect(),
        }
    }
}

// ---- after ---------------------------------------------------------------------------------

impl Core {
    /// The core of the node `own` that goes on from what an earlier one knew. Judges nobody before a
    /// fresh window has passed from `now` on.
    #[must_use]
    pub fn resume(config: Arc<Config>, own: NodeIndex, memory: Memory, now: Moment) -> Self {
        let mut core = Self::new(config, own, memory.incarnation, now);
        core.started_at = memory.started_at;
        core.initdead_from = memory.initdead_from;
        core.pauses = memory.pauses;
        core.lapsed_at = memory.lapsed_at;
        core.phase = match Phase::from_wire(memory.phase) {
            Phase::Starting => Phase::Starting,
            // It comes here only as one that takes part.
            Phase::Active | Phase::Leaving | Phase::Restarting => Phase::Active,
        };
        core.generation = memory.generation;
        core.published = memory.published.map(|(phase, standby, reached, claims)| {
            (Phase::from_wire(phase), standby, reached, claims)
        });
        core.reach = Reach::resume(&core.config.connectivity, memory.reach);
        core.standby = memory.standby;
        core.errand_number = memory.errand_number;
        core.told_well = memory.services_well;
        core.interfaces = memory.interfaces;
        core.resume_peers(memory.peers, now);
        core.resume_groups(memory.groups);
        core.listen_on(now);
        core.patient = now < core.patience_ends_at();
        core.catch_up_story();
        core
    }

    fn resume_peers(&mut self, mut memories: BTreeMap<NodeName, PeerMemory>, now: Moment) {
        let config = Arc::clone(&self.config);
        for (node, peer) in &mut self.peers {
            match memories.remove(&config.nodes[node.0].name) {
                Some(memory) => {
                    memory.resume(peer, &config, now);
                    // As after any pause of this node.
                    let fresh = now.after(closing_wait(&config, peer));
                    if let Some(closing) = &mut peer.closing {
                        closing.verdict_at = closing.verdict_at.max(fresh);
                    }
                }
                // It is new: this node listens for it as long as one that has just started.
                None => self.initdead_from = now,
            }
        }
    }

    fn resume_groups(&mut self, mut memories: BTreeMap<GroupName, GroupMemory>) {
        let config = Arc::clone(&self.config);
        let mut left = Vec::new();
        for (group, entry) in config.groups.iter().zip(&mut self.groups.entries) {
            if let Some(memory) = memories.remove(&group.name) {
                left.extend(memory.resume(group, entry));
            }
        }
        for (name, memory) in memories {
            let runs = |(_, state): &&(String, ResourceState)| *state != ResourceState::Stopped;
            let labels = memory.resources.iter().filter(runs);
            left.extend(labels.map(|(label, _)| format!("{label} of group {name}")));
        }
        // A group that is new here may be known to the peers already.
        let told: Vec<_> = self.peers.iter().map(|(node, it)| (*node, it.claims.clone())).collect();
        for (node, claims) in told {
            self.learn_wishes(node, &claims);
        }
        for label in left {
            let text = format!(
                "{label} was left running by the hand-over and is in no group any more: stop it by hand"
            );
            self.note(Severity::Error, "left-running", text);
        }
    }

    /// What heartbeats say: generation and phase.
    #[must_use]
    pub fn advertised(&self) -> (u32, Phase) {
        (self.generation, self.phase)
    }
}
