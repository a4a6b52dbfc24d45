//! All groups of this node, and the part of the core that runs them.

use std::collections::BTreeSet;

use ha_common::wire::Phase;

use super::io::{Action, Presence};
use super::message::{Claim, ClaimState, Wish};
use super::ownership::{Candidate, Decision, FAILED_PAUSE, Goal, LocalGroup, Step, decide};
use super::peer::Peer;
use super::recovery::{self, Avoidance, Monitor};
use super::time::Moment;
use super::{Core, word};
use crate::config::{Config, GroupIndex, NodeIndex, OnDoubt, Resource};
use crate::names::InterfaceName;
use crate::snapshot::{GroupState, ResourceState, Severity};

/// A group here, and what was last said about it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) local: LocalGroup,
    pub(super) reported: ClaimState,
    /// Another node claims it too.
    pub(super) contested: bool,
    /// A service failed, and the group does not run again yet.
    pub(super) recovering: bool,
    /// By resource: what is known of it while it runs here.
    pub(super) monitors: Vec<Monitor>,
}

/// All groups, by [`GroupIndex`].
#[derive(Debug)]
pub(super) struct Groups {
    pub(super) entries: Vec<Entry>,
}

/// A group as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupView {
    /// Who owns it.
    pub owner: Option<NodeIndex>,
    /// Its state there.
    pub state: GroupState,
    /// Number of the ownership.
    pub term: u64,
    /// States of its resources here.
    pub resources: Vec<ResourceState>,
}

impl Groups {
    pub(super) fn new(config: &Config, own: NodeIndex) -> Self {
        let entry = |group| Entry {
            local: LocalGroup::new(group, own),
            reported: ClaimState::Stopped,
            contested: false,
            recovering: false,
            monitors: recovery::monitors(group),
        };
        Self { entries: config.groups.iter().map(entry).collect() }
    }

    pub(super) fn local(&self, index: GroupIndex) -> &LocalGroup {
        &self.entries[index.0].local
    }

    pub(super) fn local_mut(&mut self, index: GroupIndex) -> &mut LocalGroup {
        &mut self.entries[index.0].local
    }

    pub(super) fn claims(
        &self,
        config: &Config,
        own: NodeIndex,
        able: bool,
        down: &BTreeSet<InterfaceName>,
    ) -> Vec<Claim> {
        let claim = |(group, entry): (&crate::config::Group, &Entry)| Claim {
            group: group.id,
            state: entry.local.claim_state(),
            eligible: able && entry.local.eligible(group, own, down),
            wish: entry.local.told_wish(),
            term: entry.local.told_term(),
        };
        config.groups.iter().zip(&self.entries).map(claim).collect()
    }

    pub(super) fn all_stopped(&self) -> bool {
        self.entries.iter().all(|entry| !entry.local.claim_state().owns())
    }

    pub(super) fn deadline(&self) -> Option<Moment> {
        let pauses = |entry: &Entry| {
            let local = &entry.local;
            let avoidance = local.services.avoidance.map(Avoidance::deadline);
            [local.failed_until, avoidance, local.retry_stop_at]
        };
        let monitors = self.entries.iter().flat_map(|entry| &entry.monitors);
        let pauses = self.entries.iter().flat_map(pauses).flatten();
        pauses.chain(monitors.filter_map(Monitor::deadline)).min()
    }
}

impl Core {
    /// A group as this node sees it.
    #[must_use]
    pub fn group(&self, index: GroupIndex) -> GroupView {
        let local = &self.groups.entries[index.0].local;
        let id = self.config.groups[index.0].id;
        let mine = local.claim_state();
        let theirs = self
            .peers
            .iter()
            .filter_map(|(node, peer)| peer.claim(id).map(|claim| (*node, *claim)))
            .filter(|(_, claim)| claim.state.owns())
            .max_by_key(|(_, claim)| claim.term);
        let (owner, state, term) = match theirs {
            // What is left of an earlier daemon is on its way out, whoever owns the group now.
            Some((node, claim)) if local.is_leftover() => (Some(node), claim.state, claim.term),
            _ if mine.owns() => (Some(self.own), mine, local.term),
            Some((node, claim)) => (Some(node), claim.state, claim.term),
            None => (None, ClaimState::Stopped, local.highest_term),
        };
        let state = match state {
            ClaimState::Stopped if local.wish == Wish::Disabled => GroupState::Disabled,
            ClaimState::Stopped
                if local.failed_until.is_some() || local.services.avoidance.is_some() =>
            {
                GroupState::Failed
            }
            ClaimState::Stopped => GroupState::Stopped,
            ClaimState::Starting => GroupState::Starting,
            ClaimState::Started => GroupState::Started,
            ClaimState::Stopping => GroupState::Stopping,
            ClaimState::Stuck => GroupState::Failed,
        };
        GroupView { owner, state, term, resources: local.resources.clone() }
    }

    pub(super) fn resource_started(
        &mut self,
        group: GroupIndex,
        resource: usize,
        error: Option<String>,
        now: Moment,
    ) {
        let is_service = self.is_service(group, resource);
        let Some(state) = self.resource(group, resource, ResourceState::Starting) else { return };
        *state = match &error {
            // Part of a service may run: it is stopped like the others.
            Some(_) if !is_service => ResourceState::Stopped,
            Some(_) | None => ResourceState::Started,
        };
        let Some(error) = error else { return };
        self.groups.entries[group.0].local.start_failed(now);
        let text =
            format!("{} could not be started here: {error}", self.resource_label(group, resource));
        self.group_note(Severity::Error, "resource-failed", group, text);
    }

    pub(super) fn start_held_back(
        &mut self,
        group: GroupIndex,
        resource: usize,
        cause: &str,
        now: Moment,
    ) {
        let Some(state) = self.resource(group, resource, ResourceState::Starting) else { return };
        *state = ResourceState::Stopped;
        self.groups.entries[group.0].local.start_held_back(now);
        let text = format!(
            "not starting {}, and deciding anew: {cause}",
            self.resource_label(group, resource)
        );
        self.group_note(Severity::Error, "takeover-held", group, text);
    }

    pub(super) fn resource_stopped(
        &mut self,
        group: GroupIndex,
        resource: usize,
        error: Option<String>,
        now: Moment,
    ) {
        let Some(state) = self.resource(group, resource, ResourceState::Stopping) else { return };
        *state = if error.is_none() { ResourceState::Stopped } else { ResourceState::Failed };
        let Some(error) = error else { return };
        let local = &mut self.groups.entries[group.0].local;
        local.retry_stop_at = Some(now.after(FAILED_PAUSE));
        if local.restart_from.take().is_some() {
            // What does not stop is not started again on top of itself.
            local.goal = Goal::Release;
        }
        let text = format!(
            "{} could not be stopped here, so nobody else may start it: {error}",
            self.resource_label(group, resource)
        );
        self.group_note(Severity::Error, "resource-failed", group, text);
    }

    pub(super) fn resource_probed(
        &mut self,
        group: GroupIndex,
        resource: usize,
        presence: Presence,
    ) {
        // Of an adopted group it is known that everything ran.
        let adopts = self.groups.entries.get(group.0).is_some_and(|it| it.local.goal == Goal::Own);
        let presence = match presence {
            Presence::NotInstalled { cause } if adopts => Presence::Unclear { cause },
            Presence::NotInstalled { .. } => Presence::Absent,
            other @ (Presence::Here | Presence::Absent | Presence::Unclear { .. }) => other,
        };
        let Some(state) = self.resource(group, resource, ResourceState::Unknown) else { return };
        let runs = presence != Presence::Absent;
        *state = if runs { ResourceState::Started } else { ResourceState::Stopped };
        let label = self.resource_label(group, resource);
        if adopts {
            return match presence {
                Presence::Here => {}
                Presence::Absent | Presence::NotInstalled { .. } => {
                    self.not_adopted(group, &format!("{label} does not run"));
                }
                Presence::Unclear { cause } => {
                    self.not_adopted(group, &format!("whether {label} runs is not clear: {cause}"));
                }
            };
        }
        let text = match presence {
            Presence::Absent | Presence::NotInstalled { .. } => return,
            Presence::Here => format!("{label} runs here: an earlier daemon left it; stopping it"),
            Presence::Unclear { cause } => {
                format!("nothing tells whether {label} runs here: {cause}; stopping it to be sure")
            }
        };
        self.group_note(Severity::Warning, "resource-leftover", group, text);
    }

    /// Asks once for everything that an earlier daemon may have left.
    pub(super) fn probe_resources(&mut self) {
        for (group, entry) in self.groups.entries.iter_mut().enumerate() {
            let group = GroupIndex(group);
            let unknown = |(_, state): &(usize, &ResourceState)| **state == ResourceState::Unknown;
            let probes = entry.local.resources.iter().enumerate().filter(unknown);
            let probe = |(resource, _)| Action::ProbeResource { group, resource };
            self.actions.extend(probes.map(probe));
        }
    }

    /// Whether a service is being asked, started or stopped: that takes as long as it takes, and
    /// ends.
    pub(super) fn services_at_work(&self) -> bool {
        let at_work = |group: GroupIndex, resource: usize, state: ResourceState| match state {
            ResourceState::Unknown => true,
            ResourceState::Starting | ResourceState::Stopping => self.is_service(group, resource),
            ResourceState::Stopped | ResourceState::Started | ResourceState::Failed => false,
        };
        self.groups.entries.iter().enumerate().any(|(group, entry)| {
            let mut states = entry.local.resources.iter().enumerate();
            states.any(|(resource, state)| at_work(GroupIndex(group), resource, *state))
        })
    }

    /// Whether a resource is carried out by a program, and not by the address worker.
    fn is_service(&self, group: GroupIndex, resource: usize) -> bool {
        let group = self.config.groups.get(group.0);
        match group.and_then(|group| group.resources.get(resource)) {
            None | Some(Resource::Address { .. }) => false,
            Some(
                Resource::SourceAddress { .. } | Resource::Script { .. } | Resource::Systemd { .. },
            ) => true,
        }
    }

    pub(super) fn resource_lost(&mut self, group: GroupIndex, resource: usize, cause: &str) {
        let Some(state) = self.resource(group, resource, ResourceState::Started) else { return };
        *state = ResourceState::Stopped;
        // The rest is stopped too; then the group is decided about afresh, with what is known then.
        self.groups.entries[group.0].local.goal = Goal::Release;
        let text = format!("{} was lost: {cause}", self.resource_label(group, resource));
        self.group_note(Severity::Error, "resource-lost", group, text);
    }

    pub(super) fn address_conflict(&mut self, group: GroupIndex, resource: usize, mac: [u8; 6]) {
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        let text = format!("{} is also claimed by {mac}", self.resource_label(group, resource));
        self.group_note(Severity::Error, "address-conflict", group, text);
    }

    fn resource(
        &mut self,
        group: GroupIndex,
        resource: usize,
        expected: ResourceState,
    ) -> Option<&mut ResourceState> {
        let resources = &mut self.groups.entries.get_mut(group.0)?.local.resources;
        resources.get_mut(resource).filter(|state| **state == expected)
    }

    pub(super) fn resource_label(&self, group: GroupIndex, resource: usize) -> String {
        let group = &self.config.groups[group.0];
        let label = group.resources.get(resource).map_or_else(String::new, |it| it.label());
        format!("{label} of group {}", group.name)
    }

    pub(super) fn group_note(
        &mut self,
        severity: Severity,
        kind: &str,
        group: GroupIndex,
        message: String,
    ) {
        self.note(severity, kind, message).group = Some(group);
    }

    /// Decides about every group and takes the next steps.
    pub(super) fn run_groups(&mut self, now: Moment) {
        for entry in &mut self.groups.entries {
            entry.local.end_pauses(now);
        }
        // Before it is seen what the peers know: who is able anew tells so before it takes.
        for index in (0..self.groups.entries.len()).map(GroupIndex) {
            self.end_avoidance(index, now);
        }
        self.compare_reach(now);
        self.end_lapse(now);
        let agreed = self.lapsed_at.is_none() && self.agreed();
        for index in (0..self.groups.entries.len()).map(GroupIndex) {
            let local = &mut self.groups.entries[index.0].local;
            if self.leaving.is_some() || self.phase == Phase::Leaving {
                local.goal = Goal::Release;
            } else if self.phase == Phase::Active && !self.goes_with_hand_over(index) {
                self.decide_group(index, agreed, now);
            }
            self.step_group(index);
            self.monitor(index, now);
            self.report_group(index, now);
        }
        self.reach.plan(self.config.connectivity.damping, now);
    }

    /// Whether every peer that is heard has received this node's state as it is now, and has told its
    /// own. A node takes groups only then: of two nodes that decide by each other's state, at most
    /// one takes; and who took before it received this state has told so with its acknowledgement.
    fn agreed(&self) -> bool {
        let told =
            self.published.as_ref().is_some_and(|published| *published == self.state_to_publish());
        let mut heard = self.peers.iter().filter(|(_, peer)| peer.counts());
        let is_known = |peer: &Peer| peer.synced() || peer.is_stale_member();
        heard.all(|(node, peer)| told && is_known(peer) && !self.unacknowledged(*node))
    }

    fn decide_group(&mut self, index: GroupIndex, agreed: bool, now: Moment) {
        let group = &self.config.groups[index.0];
        let candidates = self.candidates(index);
        // Sorting is stable: what comes later weighs more.
        let mut ranked = candidates.clone();
        self.wished_first(index, &mut ranked);
        self.weigh_connectivity(&mut ranked, now);
        self.standby_last(index, &mut ranked);
        let name = group.name.clone();
        let contested = candidates.iter().any(|it| it.claim.is_some() && it.node != self.own);
        let decision = if contested {
            // Of two owners the configuration's preference decides: all know the same one.
            decide(&candidates, self.own, false)
        } else {
            decide(&ranked, self.own, self.moves(index, &ranked))
        };
        let entry = &mut self.groups.entries[index.0];
        let releasing = entry.local.goal == Goal::Release;
        let mine = entry.local.claim_state().owns();
        let settled =
            std::mem::replace(&mut entry.contested, mine && contested) && mine && !contested;
        if settled {
            // Caches may point at the loser: the winner says once more where the addresses are.
            self.actions.push(Action::Announce { group: index });
        }
        if !releasing && mine && self.give_way(index, decision, &ranked, now) {
            return;
        }
        if decision != Decision::Take {
            self.reach.forget_taking(index);
        }
        match decision {
            Decision::Take
                if releasing
                    && !mine
                    && agreed
                    && !self.in_doubt(index)
                    && self.cleared(index, now) =>
            {
                self.take(index);
            }
            Decision::GiveBack(to) if !releasing => {
                let text = self.give_back_text(index, to);
                self.release(index, Severity::Info, "give-back", text);
            }
            Decision::Yield(to) if !releasing => {
                let text = format!(
                    "Both machines own our resources! {name} is on {} and here; {} has the better \
                     right, this node gives up",
                    self.node_name(to),
                    self.node_name(to)
                );
                self.release(index, Severity::Error, "double-owner", text);
            }
            Decision::Abandon if !releasing => {
                let disabled = self.wish(index) == Wish::Disabled;
                let text = if disabled {
                    format!("{name} is stopped: it is disabled")
                } else {
                    format!("{name} cannot stay here: its interface is down or its start failed")
                };
                let severity = if disabled { Severity::Info } else { Severity::Warning };
                self.release(index, severity, "abandon", text);
            }
            Decision::Keep if mine && !releasing && !contested => self.keep_with_wish(index),
            Decision::Take
            | Decision::GiveBack(_)
            | Decision::Yield(_)
            | Decision::Abandon
            | Decision::Keep => {}
        }
    }

    /// Whether a candidate was never heard, so that nothing tells whether it owns the group: under
    /// `on_doubt = hold` nobody takes it then.
    fn in_doubt(&self, index: GroupIndex) -> bool {
        let never_heard = |node: &NodeIndex| {
            self.peers.get(node).is_some_and(|peer| peer.incarnation == 0 && !peer.alive())
        };
        self.config.cluster.on_doubt == OnDoubt::Hold
            && self.config.groups[index.0].nodes.iter().any(never_heard)
    }

    fn give_back_text(&self, index: GroupIndex, to: NodeIndex) -> String {
        let (name, to_name) = (&self.config.groups[index.0].name, self.node_name(to));
        if self.wished(index) == Some(to) {
            format!("giving {name} to {to_name}: an operator wants it there")
        } else if self.standby {
            format!("giving {name} to {to_name}: this node is on standby")
        } else {
            format!("giving {name} back to {to_name}, which is preferred")
        }
    }

    /// All nodes that matter for a group, in the order in which they come.
    pub(super) fn ranked(&self, index: GroupIndex) -> Vec<Candidate> {
        let mut candidates = self.candidates(index);
        // Sorting is stable: what comes later weighs more.
        self.wished_first(index, &mut candidates);
        self.most_connected_first(&mut candidates);
        self.standby_last(index, &mut candidates);
        candidates
    }

    /// All nodes that matter for a group, preferred first.
    pub(super) fn candidates(&self, index: GroupIndex) -> Vec<Candidate> {
        let group = &self.config.groups[index.0];
        let others =
            (0..self.config.nodes.len()).map(NodeIndex).filter(|node| !group.nodes.contains(node));
        let candidate = |node: NodeIndex| {
            if node == self.own {
                let local = &self.groups.entries[index.0].local;
                let state = local.claim_state();
                return Some(Candidate {
                    node,
                    claim: state.owns().then_some(local.term),
                    releasing: state == ClaimState::Stopping,
                    eligible: local.eligible(group, self.own, self.interfaces.unusable()),
                });
            }
            let peer = self.peers.get(&node)?;
            let said = peer.claim(group.id)?;
            // A node that is still starting is waited for while this one has just started itself.
            let ready = match peer.phase {
                Phase::Active | Phase::Restarting => true,
                Phase::Starting => {
                    self.patient && !self.groups.entries[index.0].local.claim_state().owns()
                }
                Phase::Leaving => false,
            };
            let claim = said.state.owns().then_some(said.term);
            // Nothing is given to a stale peer; but it may have taken the group just before it froze.
            let mine = self.groups.entries[index.0].local.claim_state().owns();
            let waited_for = peer.is_stale_member() && peer.counts() && !mine;
            let takes_part = peer.synced() || waited_for;
            let eligible = takes_part && ready && said.eligible && group.nodes.contains(&node);
            let releasing = said.state == ClaimState::Stopping;
            Some(Candidate { node, claim, releasing, eligible })
        };
        group.nodes.iter().copied().chain(others).filter_map(candidate).collect()
    }

    fn take(&mut self, index: GroupIndex) {
        let group = &self.config.groups[index.0];
        let preferred = group.nodes.iter().take_while(|node| **node != self.own);
        let reasons: Vec<String> = preferred
            .filter_map(|node| self.peers.get(node).map(|peer| (*node, peer)))
            .map(|(node, peer)| {
                let state = if !peer.alive() {
                    word(peer.state)
                } else if self.reaches_less(peer) {
                    "reaching fewer ping targets"
                } else {
                    "not able to own it"
                };
                format!("{} is {state}", self.node_name(node))
            })
            .collect();
        let reason = if reasons.is_empty() {
            "this node is preferred".to_owned()
        } else {
            reasons.join(", ")
        };
        let position = group.nodes.iter().position(|node| *node == self.own);
        let local = &mut self.groups.entries[index.0].local;
        local.own();
        local.carry_wish(position);
        let term = local.term;
        let text = self.takeover_text(index, term, &reason);
        self.group_note(Severity::Info, "takeover", index, text);
    }

    pub(super) fn release(
        &mut self,
        index: GroupIndex,
        severity: Severity,
        kind: &str,
        message: String,
    ) {
        self.groups.entries[index.0].local.goal = Goal::Release;
        self.group_note(severity, kind, index, message);
    }

    fn step_group(&mut self, group: GroupIndex) {
        let local = &mut self.groups.entries[group.0].local;
        local.end_restart();
        match local.step() {
            Some(Step::Start(resource)) => {
                local.resources[resource] = ResourceState::Starting;
                self.actions.push(Action::StartResource { group, resource });
            }
            Some(Step::Stop(resource)) => {
                local.resources[resource] = ResourceState::Stopping;
                self.actions.push(Action::StopResource { group, resource });
            }
            None => {}
        }
    }

    /// Says which groups a leaving node could not stop.
    pub(super) fn note_left_behind(&mut self) {
        for index in (0..self.groups.entries.len()).map(GroupIndex) {
            if self.groups.entries[index.0].local.claim_state().owns() {
                let name = &self.config.groups[index.0].name;
                let text = format!(
                    "{name} could not be stopped: what is left of it here goes on, while another \
                     node may start it; stop it by hand"
                );
                self.group_note(Severity::Error, "left-behind", index, text);
            }
        }
    }

    fn report_group(&mut self, index: GroupIndex, now: Moment) {
        let entry = &mut self.groups.entries[index.0];
        if entry.local.is_probing() {
            return;
        }
        let state = entry.local.claim_state();
        if state == ClaimState::Started {
            entry.local.forget_failures();
        }
        if std::mem::replace(&mut entry.reported, state) == state {
            return;
        }
        entry.end_recovery(state, now);
        let (term, name) = (entry.local.term, &self.config.groups[index.0].name);
        let (severity, kind, text) = match state {
            ClaimState::Stopped => {
                let text = format!(
                    "{name} is stopped here. Local resources released, local resource transition \
                     completed."
                );
                (Severity::Info, "group-stopped", text)
            }
            ClaimState::Started => {
                (Severity::Info, "group-started", self.started_text(index, term))
            }
            ClaimState::Starting | ClaimState::Stopping => return,
            ClaimState::Stuck => {
                (Severity::Error, "group-stuck", format!("{name} could not be stopped here"))
            }
        };
        self.group_note(severity, kind, index, text);
    }
}
