//! Services that run are asked for their status again and again, and what follows when one has failed:
//! the group is restarted where it is, goes to another node, or is disabled, as its configuration says.
//!
//! A failure is what a status says ("does not run"), or [`NO_ANSWER_MAX`] statuses in a row without an
//! answer: a busy machine answers late, and is not restarted for that. What cannot be asked is left alone: it
//! could not be stopped or started either. A restart stops the failed resource and those after it, which
//! may need it, and starts them again; the ownership goes on with its term, so no other node takes part.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Core;
use super::groups::Entry;
use super::io::{Action, Health};
use super::message::{ClaimState, Wish};
use super::ownership::{FAILED_PAUSE, FAILED_PAUSE_MAX, Goal, LocalGroup};
use super::peer::Peer;
use super::time::{Moment, nanoseconds};
use crate::config::{Group, GroupIndex, NodeIndex, RecoveryPolicy, status_time};
use crate::snapshot::{ResourceState, Severity};

/// So many statuses in a row without an answer are a failure.
pub const NO_ANSWER_MAX: u32 = 3;
/// Longest time for which a group is left to others.
const AVOIDED_MAX: Duration = Duration::from_secs(24 * 3_600);
/// A pause of this node of so large a part of the time that a status has explains why it did not answer.
const PAUSE_PART: u32 = 4;

/// What is known of a service that runs here and is monitored.
#[derive(Debug, Clone, Default)]
pub(super) struct Monitor {
    /// When it is asked next.
    ask_at: Option<Moment>,
    /// Not now: something else is done with the group, or the node hands over.
    held: bool,
    /// The question that is under way.
    asked: Option<u32>,
    /// This node did not run meanwhile.
    disturbed: bool,
    /// This node ends it.
    withdrawn: bool,
    /// Statuses in a row without an answer.
    unanswered: u32,
    /// It could not be asked the last time.
    not_asked: bool,
    /// When a status said last that it runs.
    ran_at: Option<Moment>,
}

/// What the next program is to know of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct MonitorMemory {
    ask_at: Option<Moment>,
    unanswered: u32,
    not_asked: bool,
}

impl Monitor {
    /// Only that is kept: what was asked is forgotten.
    pub(super) fn remember(&self) -> MonitorMemory {
        let Self { ask_at, unanswered, not_asked, .. } = *self;
        MonitorMemory { ask_at, unanswered, not_asked }
    }

    /// Goes on from when the program before would have asked. Nothing is due before the first look.
    pub(super) fn resume(memory: &MonitorMemory) -> Self {
        let MonitorMemory { ask_at, unanswered, not_asked } = *memory;
        Self { ask_at, unanswered, not_asked, held: true, ..Self::default() }
    }

    /// When something has to be done.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.ask_at.filter(|_| !self.held && self.asked.is_none())
    }

    fn is_well(&self) -> bool {
        self.unanswered == 0 && !self.not_asked
    }
}

/// How the services of a group failed here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceFailures {
    /// Failures in a row: since all of them ran for the window of the group's recovery.
    #[serde(rename = "service_failures")]
    pub(super) count: u32,
    /// When the last of these was found.
    #[serde(rename = "service_failed_at")]
    pub(super) last_at: Option<Moment>,
    /// How often the group was left to others since they were last seen to run well here.
    pub(super) leaves: u32,
    /// They failed too often, so it is left to others.
    pub(super) avoidance: Option<Avoidance>,
}

/// A group that is left to others, since its services failed here too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Avoidance {
    /// Until then, unless nobody else can own it or does.
    until: Moment,
    /// Since when nobody has owned it.
    free_since: Option<Moment>,
}

impl Avoidance {
    /// When it ends, as things are.
    pub(super) fn deadline(self) -> Moment {
        let free = self.free_since.map(|since| since.after(FAILED_PAUSE));
        free.map_or(self.until, |free| free.min(self.until))
    }
}

/// What a failure leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Consequence {
    /// A restart where it is.
    Restart,
    /// That node takes it; this one not again for so long.
    Leave(NodeIndex, Duration),
    /// Nobody else could own it: it stops here for a while.
    Pause(Duration),
    /// Nobody owns it until an operator enables it.
    Disable,
}

impl LocalGroup {
    /// A restart ends when everything from there on is stopped, or when the group is given up.
    pub(super) fn end_restart(&mut self) {
        let Some(from) = self.restart_from else { return };
        let stopped = |state: &ResourceState| *state == ResourceState::Stopped;
        if self.goal == Goal::Release || self.resources.iter().skip(from).all(stopped) {
            self.restart_from = None;
        }
    }

    /// An operator says that the reason is gone.
    pub(super) fn forgive(&mut self) {
        self.forget_failures();
        self.services = ServiceFailures::default();
    }
}

impl Entry {
    /// Whether the group runs here as it should, as far as this node has to do with it.
    pub(super) fn is_well(&self) -> bool {
        match self.local.claim_state() {
            ClaimState::Stuck => false,
            ClaimState::Stopped => true,
            ClaimState::Starting | ClaimState::Started | ClaimState::Stopping => {
                !self.recovering && self.monitors.iter().all(Monitor::is_well)
            }
        }
    }

    /// It runs, or is not this node's any more: the recovery is over.
    pub(super) fn end_recovery(&mut self, state: ClaimState, now: Moment) {
        match state {
            ClaimState::Started => self.local.started_at = Some(now),
            ClaimState::Stopped => self.local.started_at = None,
            ClaimState::Starting | ClaimState::Stopping | ClaimState::Stuck => return,
        }
        self.recovering = false;
    }

    /// Forgets failures when every service has been seen to run for the window since the last start.
    fn ran_well(&mut self, window: Duration, now: Moment) {
        let since = *self.local.started_at.get_or_insert(now);
        let long = |at: Moment| at.since(since) >= nanoseconds(window);
        let mut monitored = self.monitors.iter().filter(|it| it.ask_at.is_some());
        if monitored.all(|it| it.ran_at.is_some_and(long)) {
            let avoidance = self.local.services.avoidance;
            self.local.services = ServiceFailures { avoidance, ..ServiceFailures::default() };
        }
    }
}

impl Core {
    /// Whether the groups that this node owns are well.
    #[must_use]
    pub fn services_well(&self) -> bool {
        self.groups.entries.iter().all(Entry::is_well)
    }

    /// When a status of a resource said last that it runs; `None` = it is not monitored, does not run
    /// here, or was not asked yet.
    #[must_use]
    pub fn ran_at(&self, group: GroupIndex, resource: usize) -> Option<Moment> {
        self.groups.entries.get(group.0)?.monitors.get(resource)?.ran_at
    }

    /// How often services of a group failed here in a row.
    #[must_use]
    pub fn service_failures(&self, group: GroupIndex) -> u32 {
        self.groups.local(group).services.count
    }

    /// Asks what is due; forgets what does not run.
    pub(super) fn monitor(&mut self, index: GroupIndex, now: Moment) {
        let group = &self.config.groups[index.0];
        let entry = &mut self.groups.entries[index.0];
        let local = &entry.local;
        let held = local.goal != Goal::Own
            || local.trim.is_some()
            || local.restart_from.is_some()
            || self.hand_over.is_some();
        for (resource, monitor) in entry.monitors.iter_mut().enumerate() {
            let runs = local.resources.get(resource) == Some(&ResourceState::Started);
            let Some(interval) = group.monitor(resource).filter(|_| runs) else {
                *monitor = Monitor::default();
                continue;
            };
            monitor.held = held;
            // The interval may be a shorter one since a reload.
            let latest = now.after(interval);
            let ask_at = monitor.ask_at.map_or(latest, |at| at.min(latest));
            monitor.ask_at = Some(ask_at);
            if !held && monitor.asked.is_none() && now.since(ask_at) >= 0 {
                self.questions = self.questions.wrapping_add(1);
                let number = self.questions;
                (monitor.asked, monitor.disturbed, monitor.withdrawn) =
                    (Some(number), false, false);
                self.actions.push(Action::MonitorResource { group: index, resource, number });
            }
        }
    }

    /// What a status came to.
    pub(super) fn resource_monitored(
        &mut self,
        index: GroupIndex,
        resource: usize,
        number: u32,
        health: Health,
        now: Moment,
    ) {
        let Some(group) = self.config.groups.get(index.0) else { return };
        let (interval, window) = (group.monitor(resource), group.recovery.window);
        let entry = &mut self.groups.entries[index.0];
        let runs = entry.local.resources.get(resource) == Some(&ResourceState::Started);
        // What was asked before a stop says nothing about what runs now.
        let asked = entry.monitors.get_mut(resource).filter(|it| it.asked == Some(number) && runs);
        let (Some(monitor), Some(interval)) = (asked, interval) else { return };
        monitor.asked = None;
        if monitor.withdrawn && matches!(health, Health::NotAsked { .. }) {
            // Asked again at once, by this program or by the next one.
            monitor.ask_at = Some(now);
            return;
        }
        monitor.ask_at = Some(now.after(interval));
        let told = std::mem::replace(&mut monitor.not_asked, false);
        let failed = match health {
            Health::Runs => {
                monitor.unanswered = 0;
                monitor.ran_at = Some(now);
                return entry.ran_well(window, now);
            }
            Health::Failed { cause } => cause,
            Health::NotAsked { cause } => {
                monitor.not_asked = true;
                monitor.unanswered = 0;
                if !told {
                    let text = format!(
                        "{} cannot be asked for its status, and is left alone until it can: {cause}",
                        self.resource_label(index, resource)
                    );
                    self.group_note(Severity::Warning, "service-unclear", index, text);
                }
                return;
            }
            Health::NoAnswer { .. } if monitor.disturbed => return,
            Health::NoAnswer { cause } => {
                monitor.unanswered += 1;
                let unanswered = monitor.unanswered;
                if unanswered < NO_ANSWER_MAX {
                    let text = format!(
                        "{} was asked for its status and did not say ({unanswered} of \
                         {NO_ANSWER_MAX}): {cause}",
                        self.resource_label(index, resource)
                    );
                    return self.group_note(Severity::Warning, "service-unclear", index, text);
                }
                format!("its status did not say {NO_ANSWER_MAX} times in a row: {cause}")
            }
        };
        self.service_failed(index, resource, &failed, now);
    }

    fn service_failed(&mut self, index: GroupIndex, resource: usize, why: &str, now: Moment) {
        let local = self.groups.local_mut(index);
        // Others are about it already.
        if local.goal != Goal::Own {
            return;
        }
        // One cause may end several services, and is one failure: the restart takes this one in as well.
        if let Some(from) = &mut local.restart_from {
            *from = resource.min(*from);
            return;
        }
        // Nor is one that was found later: the service did not run again since, nor was it restarted.
        let ran_at = self.ran_at(index, resource);
        let local = self.groups.local_mut(index);
        let ran_at = ran_at.or(local.started_at);
        let services = &mut local.services;
        let failed_at = services.last_at;
        let known = failed_at.is_some_and(|failed| ran_at.is_some_and(|ran| ran <= failed));
        if !known {
            services.count = services.count.saturating_add(1);
            services.last_at = Some(now);
        }
        let failures = services.count;
        let consequence = self.consequence(index, failures);
        let group = &self.config.groups[index.0].name;
        let follows = match consequence {
            Consequence::Restart => format!(
                "restarting it here, with what comes after it (failure {failures} in a row)"
            ),
            Consequence::Leave(heir, time) => format!(
                "{} is to run {group} (failure {failures} in a row here); this node leaves it to others for {}, \
                 or until hactl enable {group} here",
                self.node_name(heir),
                humantime::format_duration(time)
            ),
            Consequence::Pause(pause) => {
                let why = if self.config.groups[index.0].recovery.policy == RecoveryPolicy::Disable
                {
                    "another one may own it and keeps it, so it is not disabled".to_owned()
                } else {
                    format!("this node knows of no other that could run {group}")
                };
                format!(
                    "failure {failures} in a row, and {why}: stopping it, next try in {}",
                    humantime::format_duration(pause)
                )
            }
            Consequence::Disable => {
                format!("{group} is disabled until an operator enables it (hactl enable {group})")
            }
        };
        let text = format!("{} failed: {why}; {follows}", self.resource_label(index, resource));
        self.group_note(Severity::Error, "service-failed", index, text);
        if consequence == Consequence::Disable {
            self.disable_failed(index);
        }
        let entry = &mut self.groups.entries[index.0];
        entry.recovering = true;
        let local = &mut entry.local;
        match consequence {
            Consequence::Restart => local.restart_from = Some(resource),
            Consequence::Leave(_, time) => {
                let until = now.after(time);
                local.services.leaves = local.services.leaves.saturating_add(1);
                local.services.avoidance = Some(Avoidance { until, free_since: None });
                local.goal = Goal::Release;
            }
            Consequence::Pause(pause) => {
                local.failed_until = Some(now.after(pause));
                local.goal = Goal::Release;
            }
            Consequence::Disable => local.goal = Goal::Release,
        }
    }

    /// It belongs to this ownership: whoever has taken the group since, unknown to this node, keeps it.
    fn disable_failed(&mut self, index: GroupIndex) {
        let local = self.groups.local_mut(index);
        if local.term == local.highest_term {
            (local.wish, local.own_wish) = (Wish::Disabled, Wish::Disabled);
        } else {
            self.wish_for(index, Wish::Disabled);
        }
    }

    /// Whether every candidate is heard, and no other node claims the group: a higher term than that of this
    /// node's ownership is nobody's.
    fn owns_beyond_doubt(&self, index: GroupIndex) -> bool {
        let mut others = self.config.groups[index.0].nodes.iter().filter(|it| **it != self.own);
        let heard = others.all(|node| self.peers.get(node).is_some_and(Peer::synced));
        let candidates = self.candidates(index);
        heard && candidates.iter().all(|it| it.node == self.own || it.claim.is_none())
    }

    fn consequence(&self, index: GroupIndex, failures: u32) -> Consequence {
        let recovery = &self.config.groups[index.0].recovery;
        let local = self.groups.local(index);
        let allowed = recovery.restarts_allowed();
        if recovery.policy == RecoveryPolicy::Disable {
            // Somebody else may own it, and keeps it; this node leaves it alone.
            let sure = local.term == local.highest_term || self.owns_beyond_doubt(index);
            return if sure { Consequence::Disable } else { Consequence::Pause(FAILED_PAUSE_MAX) };
        }
        if failures <= allowed {
            return Consequence::Restart;
        }
        let beyond = failures - allowed;
        if let Some(heir) = self.heir(index) {
            return Consequence::Leave(
                heir,
                doubled(recovery.window, local.services.leaves).min(AVOIDED_MAX),
            );
        }
        // One more at once: nothing is won by waiting. Then at a growing distance, as after starts that fail.
        match beyond.checked_sub(2) {
            None => Consequence::Restart,
            Some(doublings) => {
                Consequence::Pause(doubled(FAILED_PAUSE, doublings).min(FAILED_PAUSE_MAX))
            }
        }
    }

    /// Who left a group to others takes part again when the time is over; when none of them could own it;
    /// and when one of them could, but for a while does not, for whatever reason.
    pub(super) fn end_avoidance(&mut self, index: GroupIndex, now: Moment) {
        let local = self.groups.local(index);
        let Some(mut avoidance) = local.services.avoidance else { return };
        let candidates = self.candidates(index);
        let mut others = candidates.iter().filter(|it| it.node != self.own);
        let owned = local.claim_state().owns() || others.clone().any(|it| it.claim.is_some());
        let alone = !owned && !others.any(|it| it.eligible);
        let since = avoidance.free_since.unwrap_or(now);
        avoidance.free_since = (!owned).then_some(since);
        let local = self.groups.local_mut(index);
        if now.since(avoidance.until) >= 0 {
            // Time enough for whoever sees to it. But nothing was seen to run: next time it is for longer.
            let leaves = local.services.leaves;
            local.forgive();
            local.services.leaves = leaves;
        } else {
            let over = alone || now.since(avoidance.deadline()) >= 0;
            local.services.avoidance = (!over).then_some(avoidance);
        }
    }

    /// This node did not run: a status that was under way meanwhile, and had a good part of its time taken, says
    /// something about the node when it does not come.
    pub(super) fn disturb_statuses(&mut self, length_ns: i64) {
        let limit = status_time(self.config.cluster.script_timeout);
        if length_ns < nanoseconds(limit / PAUSE_PART) {
            return;
        }
        for monitor in self.groups.entries.iter_mut().flat_map(|entry| &mut entry.monitors) {
            monitor.disturbed |= monitor.asked.is_some();
        }
    }

    /// Before a hand-over nobody waits for a status; whoever answers it must not outlive this program.
    pub(super) fn end_statuses(&mut self) {
        let monitors = self.groups.entries.iter_mut().flat_map(|entry| &mut entry.monitors);
        let mut asked = monitors.filter(|it| it.asked.is_some()).peekable();
        if asked.peek().is_some() {
            asked.for_each(|it| it.withdrawn = true);
            self.actions.push(Action::EndStatuses);
        }
    }

    /// The resource whose status is asked for at the moment, if there is one.
    pub(super) fn status_under_way(&self) -> Option<String> {
        let asked = |entry: &Entry| entry.monitors.iter().position(|it| it.asked.is_some());
        let mut entries = self.groups.entries.iter().enumerate();
        let (group, resource) = entries.find_map(|(group, entry)| Some((group, asked(entry)?)))?;
        Some(format!("the status of {}", self.resource_label(GroupIndex(group), resource)))
    }
}

fn doubled(time: Duration, doublings: u32) -> Duration {
    time.saturating_mul(1 << doublings.min(16))
}

/// One for each resource.
pub(super) fn monitors(group: &Group) -> Vec<Monitor> {
    vec![Monitor::default(); group.resources.len()]
}
