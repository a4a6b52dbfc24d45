//! Connectivity: what this node and its peers reach of the world outside of the cluster, and what
//! follows from it.
//!
//! - Of the candidates for a group that nobody owns, who reaches more ping targets comes first; its
//!   owner gives it to a peer that has reached more for `damping`. Only counts that are known are
//!   compared. Takers compare what they told each other, so that they agree; damping is the owner's
//!   own affair, since an owner that gives a group up endangers nobody.
//! - What a silent peer may own is taken only by who reaches a ping target, proven by an answer from
//!   after the peer's last heartbeat: who reaches none is the one that is cut off. And it is taken only when nobody on the service network answers for its
//!   addresses, which is a second path to an owner whose heartbeats are not heard.
//! - An owner that hears no peer any more and reaches none of the targets that it had reached
//!   releases its groups, because by the same rules a peer may take them.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Core;
use super::io::{Action, Probed};
use super::ownership::{Candidate, Decision};
use super::peer::Peer;
use super::time::{Moment, nanoseconds};
use crate::config::{Connectivity, GroupIndex, IsolatedOwner, NodeIndex, OnDoubt, Resource};
use crate::snapshot::{NodeState, Severity};

/// Pause before the network is asked again for an address that somebody has.
pub const PROBE_PAUSE: Duration = Duration::from_secs(1);
/// How much longer each further candidate waits, so that two of them do not ask at the same moment.
pub const PROBE_STAGGER: Duration = Duration::from_millis(250);
/// Rounds without an answer, one after the other, after which an address counts as free that
/// somebody had answered for: its owner may be alive and only slow once.
pub const FREE_ROUNDS: u8 = 3;

/// What is known of the reach of this node and its peers, and of groups about to be taken.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// By position in the configuration; a target that is missing was not decided yet.
    targets: BTreeMap<usize, bool>,
    /// Whether any target was reached since the start.
    ever: bool,
    counts: BTreeMap<NodeIndex, Counts>,
    takings: BTreeMap<GroupIndex, Taking>,
    wake_at: Option<Moment>,
}

/// What is handed over of it: targets by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ReachMemory {
    targets: BTreeMap<String, bool>,
    ever: bool,
}

impl Reach {
    pub(super) fn remember(&self, connectivity: &Connectivity) -> ReachMemory {
        let target = |(position, reached): (&usize, &bool)| {
            Some((connectivity.targets.get(*position)?.name.clone(), *reached))
        };
        ReachMemory { targets: self.targets.iter().filter_map(target).collect(), ever: self.ever }
    }

    /// What was reached counts until the pings of this program say otherwise. Comparisons and
    /// takings begin anew.
    pub(super) fn resume(connectivity: &Connectivity, memory: ReachMemory) -> Self {
        let targets = connectivity.targets.iter().enumerate();
        let known = targets.filter_map(|(at, it)| Some((at, *memory.targets.get(&it.name)?)));
        Self { targets: known.collect(), ever: memory.ever, ..Self::default() }
    }
}

/// How many targets this node and a peer reach, and since when it is so many.
#[derive(Debug, Clone, Copy)]
struct Counts {
    own: Option<u8>,
    theirs: Option<u8>,
    since: Moment,
}

/// A group that is to be taken although its owner may be alive.
#[derive(Debug)]
struct Taking {
    stage: Stage,
    /// Rounds without an answer that are still needed.
    rounds: u8,
    /// What the operator was told last.
    told: Option<Held>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nobody was asked.
    New,
    /// The network is being asked.
    Asked,
    /// Nobody has its addresses, as of this very moment.
    Free,
    /// Not before then.
    Paused(Moment),
}

/// Why a group is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    NoTarget,
    Address([u8; 6]),
    Contested,
    Failed,
}

impl Reach {
    /// When something may be due.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.wake_at
    }

    /// This node did not run: what it believes of the counts may be old.
    pub(super) fn distrust(&mut self, now: Moment) {
        self.counts.values_mut().for_each(|counts| counts.since = now);
    }

    /// The group is not to be taken any more. A question that is under way is awaited.
    pub(super) fn forget_taking(&mut self, group: GroupIndex) {
        if self.takings.get(&group).is_some_and(|taking| taking.stage != Stage::Asked) {
            self.takings.remove(&group);
        }
    }

    /// Ends what held for this moment only, and plans the next one.
    pub(super) fn plan(&mut self, damping: Duration, now: Moment) {
        for taking in self.takings.values_mut().filter(|taking| taking.stage == Stage::Free) {
            taking.stage = Stage::New;
        }
        let pauses = self.takings.values().filter_map(|taking| match taking.stage {
            Stage::Paused(until) => Some(until),
            Stage::New | Stage::Asked | Stage::Free => None,
        });
        let steady = self.counts.values().map(|counts| counts.since.after(damping));
        self.wake_at = pauses.chain(steady).filter(|at| *at > now).min();
    }

    /// The counts of this node and of a peer, when both are known and have not changed for
    /// `damping`.
    fn steady(&self, node: NodeIndex, damping: Duration, now: Moment) -> Option<(u8, u8)> {
        let counts = self.counts.get(&node)?;
        let steady = now.since(counts.since) >= nanoseconds(damping);
        counts.own.zip(counts.theirs).filter(|_| steady)
    }
}

impl Core {
    /// How many ping targets this node reaches; `None` without targets, and until every one of them
    /// was decided once.
    #[must_use]
    pub fn reached(&self) -> Option<u8> {
        let count = self.config.connectivity.targets.len();
        (count > 0 && self.connectivity_is_known())
            .then(|| self.reach.targets.values().filter(|reached| **reached).count() as u8)
    }

    /// Whether this node reaches a ping target, by its position in the configuration; `None`: not
    /// decided yet.
    #[must_use]
    pub fn reaches(&self, target: usize) -> Option<bool> {
        self.reach.targets.get(&target).copied()
    }

    pub(super) fn connectivity_is_known(&self) -> bool {
        let count = self.config.connectivity.targets.len();
        (0..count).all(|target| self.reach.targets.contains_key(&target))
    }

    pub(super) fn ping(&mut self, target: usize, reached: bool) {
        let Some(name) = self.config.connectivity.targets.get(target).map(|it| it.name.clone())
        else {
            return;
        };
        let before = self.reach.targets.insert(target, reached);
        if before == Some(reached) {
            return;
        }
        self.reach.ever |= reached;
        let deadping = humantime::format_duration(self.config.connectivity.deadping);
        let (severity, kind, text) = match (before, reached) {
            (None, true) => (Severity::Info, "ping-back", format!("ping target {name} is reached")),
            (Some(_), true) => {
                (Severity::Info, "ping-back", format!("ping target {name} is reached again"))
            }
            (None, false) => (
                Severity::Warning,
                "ping-lost",
                format!(
                    "ping target {name} has not answered since this node started, {deadping} ago"
                ),
            ),
            (Some(_), false) => (
                Severity::Warning,
                "ping-lost",
                format!("ping target {name} is not reached any more: no answer for {deadping}"),
            ),
        };
        self.note(severity, kind, text);
    }

    /// Takes note of whose count has changed.
    pub(super) fn compare_reach(&mut self, now: Moment) {
        let own = self.reached();
        for (node, peer) in &self.peers {
            let fresh = Counts { own, theirs: peer.reached, since: now };
            let counts = self.reach.counts.entry(*node).or_insert(fresh);
            if (counts.own, counts.theirs) != (own, peer.reached) {
                *counts = fresh;
            }
        }
    }

    pub(super) fn reaches_less(&self, peer: &Peer) -> bool {
        self.config.connectivity.moves_groups
            && self.reached().zip(peer.reached).is_some_and(|(own, theirs)| theirs < own)
    }

    // ---- who comes first -------------------------------------------------------------------

    /// Puts who reaches more first where nobody owns the group; where this node does, leaves out
    /// those to which it does not give it back for now.
    pub(super) fn weigh_connectivity(&self, candidates: &mut [Candidate], now: Moment) {
        if self.reached().is_none() || !self.config.connectivity.moves_groups {
            return;
        }
        let mine = candidates.iter().any(|it| it.node == self.own && it.claim.is_some());
        if mine && !self.standby {
            let damping = self.config.connectivity.damping;
            for it in candidates.iter_mut().filter(|it| it.node != self.own) {
                let steady = self.reach.steady(it.node, damping, now);
                it.eligible &= self.count_of(it.node).is_none()
                    || steady.is_some_and(|(own, theirs)| theirs >= own);
            }
        } else {
            self.most_connected_first(candidates);
        }
    }

    /// Puts who reaches more first, if that is known of all that could own the group.
    pub(super) fn most_connected_first(&self, candidates: &mut [Candidate]) {
        let known = |it: &Candidate| !it.eligible || self.count_of(it.node).is_some();
        if self.config.connectivity.moves_groups && candidates.iter().all(known) {
            // Stable: among equals the preference stays.
            candidates.sort_by_key(|it| Reverse(self.count_of(it.node).filter(|_| it.eligible)));
        }
    }

    /// How many targets a node reaches, as far as this one knows.
    fn count_of(&self, node: NodeIndex) -> Option<u8> {
        if node == self.own {
            self.reached()
        } else {
            self.peers.get(&node).and_then(|peer| peer.reached)
        }
    }

    /// Whether a node reaches fewer targets than the group's owner, so that it would not stay there. An
    /// owner on standby gives it away all the same.
    pub(super) fn reaches_fewer(&self, group: GroupIndex, node: NodeIndex) -> bool {
        let owner = self.group(group).owner.unwrap_or(self.own);
        let counts = self.count_of(owner).zip(self.count_of(node));
        self.config.connectivity.moves_groups
            && !self.on_standby(owner)
            && counts.is_some_and(|(owners, theirs)| theirs < owners)
    }

    /// Lets a group go that is better off elsewhere, or that a peer may have taken because this node
    /// is cut off. Whether it did.
    pub(super) fn give_way(
        &mut self,
        index: GroupIndex,
        decision: Decision,
        candidates: &[Candidate],
        now: Moment,
    ) -> bool {
        if !matches!(decision, Decision::Keep | Decision::GiveBack(_)) {
            return false;
        }
        let name = self.config.groups[index.0].name.clone();
        if self.isolated(index) {
            let text = format!(
                "releasing {name}: this node hears no peer and reaches no ping target any more, so \
                 another one may own it (isolated_owner = release)"
            );
            self.release(index, Severity::Error, "isolated", text);
            return true;
        }
        let Some((to, own, theirs)) = self.better_connected(candidates, now) else {
            return false;
        };
        let text = format!(
            "giving {name} to {}, which reaches {theirs} of {} ping targets; this node reaches {own}",
            self.node_name(to),
            self.config.connectivity.targets.len()
        );
        self.release(index, Severity::Warning, "connectivity-moves-group", text);
        true
    }

    /// The first of those candidates that reach most, if that is more than this node reaches, and
    /// for long enough; with its own count and theirs.
    fn better_connected(
        &self,
        candidates: &[Candidate],
        now: Moment,
    ) -> Option<(NodeIndex, u8, u8)> {
        let connectivity = &self.config.connectivity;
        let able = candidates.iter().filter(|it| {
            it.node != self.own
                && it.eligible
                && it.claim.is_none()
                && !self.on_standby(it.node)
                && connectivity.moves_groups
                && !connectivity.targets.is_empty()
        });
        let more = able.filter_map(|it| {
            let (own, theirs) = self.reach.steady(it.node, connectivity.damping, now)?;
            (theirs > own).then_some((it.node, own, theirs))
        });
        more.min_by_key(|(_, _, theirs)| Reverse(*theirs))
    }

    // ---- silent peers ----------------------------------------------------------------------

    /// Whether this node looks cut off while a silent candidate may have taken the group.
    fn isolated(&self, index: GroupIndex) -> bool {
        self.config.connectivity.isolated_owner == IsolatedOwner::Release
            && self.config.cluster.on_doubt == OnDoubt::Take
            && self.reach.ever
            && self.reached() == Some(0)
            && self.peers.values().all(|peer| !peer.alive())
            && self.a_candidate_is_silent(index)
    }

    /// Whether a candidate is dead by its silence alone, so that it may be alive and own the group.
    fn a_candidate_is_silent(&self, index: GroupIndex) -> bool {
        let silent = |node: &NodeIndex| {
            self.peers.get(node).is_some_and(|peer| peer.state == NodeState::Dead)
        };
        self.config.groups[index.0].nodes.iter().any(silent)
    }

    /// Whether a group that this node would take may be taken now; if not, what is needed for it is
    /// begun.
    pub(super) fn cleared(&mut self, index: GroupIndex, now: Moment) -> bool {
        if !self.a_candidate_is_silent(index) {
            self.reach.takings.remove(&index);
            return true;
        }
        if !self.config.connectivity.targets.is_empty() && self.reached().unwrap_or(0) == 0 {
            if self.reached().is_some() {
                self.hold_back_without_target(index);
            }
            return false;
        }
        if self.config.connectivity.targets.is_empty() && !self.asks(index) {
            return true;
        }
        let new = Taking { stage: Stage::New, rounds: 1, told: None };
        let taking = self.reach.takings.entry(index).or_insert(new);
        match taking.stage {
            Stage::Free => {
                self.reach.takings.remove(&index);
                true
            }
            Stage::Asked => false,
            Stage::Paused(until) if now < until => false,
            Stage::New | Stage::Paused(_) => {
                taking.stage = Stage::Asked;
                self.actions.push(Action::ProbeAddresses { group: index });
                false
            }
        }
    }

    /// Whether the network is asked for the addresses of a group before it is taken.
    fn asks(&self, index: GroupIndex) -> bool {
        let resources = &self.config.groups[index.0].resources;
        let is_address = |it: &Resource| matches!(it, Resource::Address { .. });
        self.config.connectivity.probes() && resources.iter().any(is_address)
    }

    /// Whether a ping target answered when the silent peers were silent already. An answer from
    /// before that says nothing: this node may have been cut off at the same moment as they.
    fn reached_meanwhile(&self, index: GroupIndex, pinged_at: Option<Moment>) -> bool {
        if self.config.connectivity.targets.is_empty() {
            return true;
        }
        let nodes = self.config.groups[index.0].nodes.iter();
        let silent = nodes.filter_map(|node| self.peers.get(node));
        let silent = silent.filter(|peer| peer.state == NodeState::Dead);
        let heard = silent.filter_map(Peer::last_seen).max().unwrap_or(self.started_at);
        // One heartbeat may have been due when both paths were cut; two were not.
        let proof_from = heard.after(self.config.cluster.keepalive * 2);
        pinged_at.is_some_and(|at| at >= proof_from)
    }

    fn hold_back_without_target(&mut self, index: GroupIndex) {
        let new = Taking { stage: Stage::New, rounds: 1, told: None };
        let taking = self.reach.takings.entry(index).or_insert(new);
        if taking.told.replace(Held::NoTarget) == Some(Held::NoTarget) {
            return;
        }
        let text = format!(
            "not taking {} over: this node reaches no ping target, so it may be the one that is cut \
             off, and not the silent peer",
            self.config.groups[index.0].name
        );
        self.group_note(Severity::Error, "takeover-held", index, text);
    }

    pub(super) fn addresses_probed(
        &mut self,
        index: GroupIndex,
        answer: Probed,
        pinged_at: Option<Moment>,
        now: Moment,
    ) {
        let Some(group) = self.config.groups.get(index.0) else { return };
        let position = group.nodes.iter().position(|node| *node == self.own).unwrap_or(0);
        let name = group.name.clone();
        let proven = self.reached_meanwhile(index, pinged_at);
        let proof_pause = self.config.connectivity.interval / 4;
        let taking = self.reach.takings.get_mut(&index);
        let Some(taking) = taking.filter(|taking| taking.stage == Stage::Asked) else { return };
        let pause = PROBE_PAUSE + PROBE_STAGGER * position as u32;
        taking.stage = Stage::Paused(now.after(pause));
        let (held, text) = match answer {
            // The next answer of a ping target comes, or the verdict that none does.
            Probed::Nobody if !proven => {
                taking.stage = Stage::Paused(now.after(proof_pause));
                return;
            }
            Probed::Nobody => return taking.nobody_answers(),
            // Of two that ask, the preferred one takes.
            Probed::Contested { .. } if position == 0 && proven => return taking.nobody_answers(),
            Probed::Held { resource, mac } => {
                taking.rounds = FREE_ROUNDS;
                let label = self.resource_label(index, resource);
                (Held::Address(mac), format!("{} still answers for {label}", hexadecimal(mac)))
            }
            Probed::Contested { mac } => (
                Held::Contested,
                format!(
                    "{} asks for the addresses of {name} as well",
                    mac.map_or_else(|| "another node".to_owned(), hexadecimal)
                ),
            ),
            Probed::Failed { cause } => {
                (Held::Failed, format!("nobody could be asked for its addresses: {cause}"))
            }
        };
        let Some(taking) = self.reach.takings.get_mut(&index) else { return };
        if taking.told.replace(held) == Some(held) {
            return;
        }
        let text = format!(
            "not taking {name} over from a silent peer: {text}; asking again every {}",
            humantime::format_duration(pause)
        );
        let (severity, kind) = match held {
            Held::Address(_) => (Severity::Error, "address-still-held"),
            Held::Failed | Held::NoTarget => (Severity::Error, "takeover-held"),
            Held::Contested => (Severity::Info, "takeover-held"),
        };
        self.group_note(severity, kind, index, text);
    }
}

impl Taking {
    /// One round without an answer.
    fn nobody_answers(&mut self) {
        self.rounds = self.rounds.saturating_sub(1);
        if self.rounds == 0 {
            self.rounds = 1;
            self.stage = Stage::Free;
        }
    }
}

fn hexadecimal(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
