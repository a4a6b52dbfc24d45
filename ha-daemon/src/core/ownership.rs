//! Ownership of groups: who should own what, decided by every node from what it knows, and carried
//! out one resource at a time.
//!
//! A group is released by its owner only, or lost with its owner's death; so a node takes a group
//! when nobody who is alive claims it and it is itself the first eligible candidate.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{Group, NodeIndex, Resource};
use crate::core::message::{ClaimState, Wish};
use crate::core::recovery::ServiceFailures;
use crate::core::time::Moment;
use crate::names::InterfaceName;
use crate::snapshot::ResourceState;

/// How long a node whose start of a group failed leaves it to others, and waits before it tries a
/// failed stop again.
pub const FAILED_PAUSE: Duration = Duration::from_secs(10);
/// Longest pause after a start that failed again and again.
pub const FAILED_PAUSE_MAX: Duration = Duration::from_secs(600);
/// How long a node that must not start anything, since its lease is over, leaves a group to others: by then its
/// driver has had another turn, and knows of that.
pub const HELD_BACK_PAUSE: Duration = Duration::from_millis(100);
/// After so many doublings the longest pause is reached.
const FAILED_DOUBLINGS_MAX: u32 = 6;

/// Addresses of an earlier daemon were removed before this one began; services are asked first.
fn at_start(resource: &Resource) -> ResourceState {
    match resource {
        Resource::Address { .. } => ResourceState::Stopped,
        Resource::SourceAddress { .. } | Resource::Script { .. } | Resource::Systemd { .. } => {
            ResourceState::Unknown
        }
    }
}

/// What this node wants with a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Goal {
    /// Not to own it.
    Release,
    /// To own it.
    Own,
}

/// This node's part in one group.
#[derive(Debug, Clone)]
pub struct LocalGroup {
    /// What is wanted.
    pub goal: Goal,
    /// Resources here, in starting order.
    pub resources: Vec<ResourceState>,
    /// Number of this node's last ownership.
    pub term: u64,
    /// The highest term known of any node: the next ownership's is higher.
    pub highest_term: u64,
    /// What operators want; belongs to `highest_term`.
    pub wish: Wish,
    /// What they wanted when this node's last ownership began or was confirmed; belongs to `term`.
    pub own_wish: Wish,
    /// A start failed here; not eligible again before that.
    pub failed_until: Option<Moment>,
    /// Starts that failed here one after the other.
    pub failures: u32,
    /// A stop failed here; it is tried again then.
    pub retry_stop_at: Option<Moment>,
    /// A service failed: resources from this position on are stopped, and then started again.
    pub restart_from: Option<usize>,
    /// How its services failed here.
    pub services: ServiceFailures,
    /// Since when everything runs here.
    pub started_at: Option<Moment>,
    /// A hand-over is near: resources from this position are stopped, and none is started.
    pub trim: Option<usize>,
}

/// The next thing to do for a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Start the resource in that position.
    Start(usize),
    /// Stop the resource in that position.
    Stop(usize),
}

impl LocalGroup {
    /// A group as a starting daemon finds it: of its services nothing is known, where this node is
    /// one of its candidates.
    #[must_use]
    pub fn new(group: &Group, own: NodeIndex) -> Self {
        let candidate = group.nodes.contains(&own);
        let at_start = |resource| {
            if candidate { at_start(resource) } else { ResourceState::Stopped }
        };
        Self {
            goal: Goal::Release,
            resources: group.resources.iter().map(at_start).collect(),
            term: 0,
            highest_term: 0,
            wish: Wish::None,
            own_wish: Wish::None,
            failed_until: None,
            failures: 0,
            retry_stop_at: None,
            restart_from: None,
            services: ServiceFailures::default(),
            started_at: None,
            trim: None,
        }
    }

    /// Whether it is still being found out what an earlier daemon left here.
    #[must_use]
    pub fn is_probing(&self) -> bool {
        self.resources.contains(&ResourceState::Unknown)
    }

    /// Whether what is here was left by an earlier daemon: this one has not owned the group.
    #[must_use]
    pub fn is_leftover(&self) -> bool {
        self.term == 0
    }

    /// A start failed: the group is given up, and left to others for a while. The pause grows while
    /// every start fails, since each one may interrupt the service elsewhere.
    pub fn start_failed(&mut self, now: Moment) {
        let doublings = self.failures.min(FAILED_DOUBLINGS_MAX);
        self.failures = self.failures.saturating_add(1);
        self.failed_until =
            Some(now.after((FAILED_PAUSE * (1 << doublings)).min(FAILED_PAUSE_MAX)));
        self.goal = Goal::Release;
    }

    /// Nothing was tried, so nothing failed: the group is given up for a moment.
    pub fn start_held_back(&mut self, now: Moment) {
        self.failed_until = Some(now.after(HELD_BACK_PAUSE));
        self.goal = Goal::Release;
    }

    /// The group runs here, or an operator says that the reason is gone: the next failure is again
    /// the first one.
    pub fn forget_failures(&mut self) {
        self.failures = 0;
        self.failed_until = None;
    }

    /// Ends the pauses that are over: a failed start may be tried again, a failed stop is.
    pub fn end_pauses(&mut self, now: Moment) {
        self.failed_until = self.failed_until.filter(|until| now < *until);
        if self.retry_stop_at.is_some_and(|at| now >= at) {
            self.retry_stop_at = None;
            for state in &mut self.resources {
                if *state == ResourceState::Failed {
                    *state = ResourceState::Started;
                }
            }
        }
    }

    /// How far it is here.
    #[must_use]
    pub fn claim_state(&self) -> ClaimState {
        let all = |state| self.resources.iter().all(|resource| *resource == state);
        let any = |state| self.resources.contains(&state);
        match self.goal {
            Goal::Own if all(ResourceState::Started) => ClaimState::Started,
            Goal::Own => ClaimState::Starting,
            Goal::Release if all(ResourceState::Stopped) => ClaimState::Stopped,
            Goal::Release if any(ResourceState::Failed) => ClaimState::Stuck,
            Goal::Release => ClaimState::Stopping,
        }
    }

    /// The term to tell: an owner's is its own and changes with its ownership only.
    #[must_use]
    pub fn told_term(&self) -> u64 {
        if self.claim_state().owns() { self.term } else { self.highest_term }
    }

    /// Begins an ownership with a term of its own.
    pub fn own(&mut self) {
        self.highest_term = self.highest_term.saturating_add(1);
        self.term = self.highest_term;
        self.goal = Goal::Own;
    }

    /// The next step towards the goal; one resource at a time, started in order, stopped in reverse.
    #[must_use]
    pub fn step(&self) -> Option<Step> {
        let busy = |state: &ResourceState| match state {
            ResourceState::Starting | ResourceState::Stopping | ResourceState::Unknown => true,
            ResourceState::Started | ResourceState::Stopped | ResourceState::Failed => false,
        };
        if self.resources.iter().any(busy) {
            return None;
        }
        let started = |state: &ResourceState| *state == ResourceState::Started;
        let keep = self.trim.into_iter().chain(self.restart_from).min();
        match (self.goal, keep) {
            (Goal::Own, Some(keep)) => {
                self.resources.iter().rposition(started).filter(|it| *it >= keep).map(Step::Stop)
            }
            (Goal::Own, None) => self
                .resources
                .iter()
                .position(|state| *state == ResourceState::Stopped)
                .map(Step::Start),
            (Goal::Release, _) => self.resources.iter().rposition(started).map(Step::Stop),
        }
    }

    /// Whether this node could own it.
    #[must_use]
    pub fn eligible(&self, group: &Group, own: NodeIndex, down: &BTreeSet<InterfaceName>) -> bool {
        let usable = |resource: &Resource| match resource {
            Resource::Address { interface, .. } => !down.contains(interface),
            Resource::SourceAddress { .. } | Resource::Script { .. } | Resource::Systemd { .. } => {
                true
            }
        };
        group.nodes.contains(&own)
            && self.failed_until.is_none()
            && self.services.avoidance.is_none()
            // A group that is being adopted is owned while its services are asked for.
            && (!self.is_probing() || self.goal == Goal::Own)
            && group.resources.iter().all(usable)
    }
}

/// One candidate as the deciding node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The node.
    pub node: NodeIndex,
    /// Its claim and term, when it owns the group.
    pub claim: Option<u64>,
    /// It owns the group and is giving it up.
    pub releasing: bool,
    /// Whether it could own the group.
    pub eligible: bool,
}

/// What a node should do about a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Keep,
    /// Take it: nobody owns it and this node comes first.
    Take,
    /// Give it back to a more preferred node.
    GiveBack(NodeIndex),
    /// Two own it, and the other one's right is the better one.
    Yield(NodeIndex),
    /// This node cannot own it any more.
    Abandon,
}

/// Decides about one group. `candidates` are all nodes that are alive and known, in preferred order,
/// the deciding node `own` among them; nodes that are not candidates come last.
#[must_use]
pub fn decide(candidates: &[Candidate], own: NodeIndex, failback: bool) -> Decision {
    let position = |node: NodeIndex| candidates.iter().position(|it| it.node == node);
    let Some(mine) = position(own) else { return Decision::Keep };
    let me = candidates[mine];
    let better = |at: usize, it: &Candidate| match (it.claim, me.claim) {
        // The higher term is the later ownership; equal ones go by preference. To yield to who is
        // giving up would leave nobody.
        (Some(theirs), Some(term)) if !it.releasing => {
            theirs > term || (theirs == term && at < mine)
        }
        _ => false,
    };
    if me.claim.is_some() {
        if let Some((_, rival)) = candidates.iter().enumerate().find(|(at, it)| better(*at, it)) {
            return Decision::Yield(rival.node);
        }
        if !me.eligible {
            return Decision::Abandon;
        }
        let preferred = candidates[..mine].iter().find(|it| it.eligible && it.claim.is_none());
        return match preferred {
            Some(preferred) if failback => Decision::GiveBack(preferred.node),
            _ => Decision::Keep,
        };
    }
    if candidates.iter().any(|it| it.claim.is_some()) {
        return Decision::Keep;
    }
    match candidates.iter().find(|it| it.eligible) {
        Some(first) if first.node == own => Decision::Take,
        _ => Decision::Keep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidate(node: usize, claim: Option<u64>, eligible: bool) -> Candidate {
        Candidate { node: NodeIndex(node), claim, releasing: false, eligible }
    }

    #[test]
    fn nobody_yields_to_who_is_giving_up() {
        let releasing = Candidate { releasing: true, ..candidate(0, Some(7), true) };
        let candidates = [releasing, candidate(1, Some(1), true)];
        assert_eq!(decide(&candidates, NodeIndex(1), true), Decision::Keep);
    }

    #[test]
    fn decision_table() {
        let own = NodeIndex(1);
        let table: [(&[Candidate], bool, Decision); 11] = [
            (&[candidate(1, None, true)], true, Decision::Take),
            (&[candidate(0, None, true), candidate(1, None, true)], true, Decision::Keep),
            (&[candidate(0, None, false), candidate(1, None, true)], true, Decision::Take),
            (&[candidate(0, Some(1), true), candidate(1, None, true)], true, Decision::Keep),
            (&[candidate(1, None, true), candidate(2, Some(1), true)], true, Decision::Keep),
            (
                &[candidate(0, None, true), candidate(1, Some(1), true)],
                true,
                Decision::GiveBack(NodeIndex(0)),
            ),
            (&[candidate(0, None, true), candidate(1, Some(1), true)], false, Decision::Keep),
            (&[candidate(0, None, false), candidate(1, Some(1), true)], true, Decision::Keep),
            (
                &[candidate(0, Some(1), true), candidate(1, Some(1), true)],
                false,
                Decision::Yield(NodeIndex(0)),
            ),
            (&[candidate(0, Some(1), true), candidate(1, Some(2), true)], false, Decision::Keep),
            (&[candidate(1, Some(2), false), candidate(2, None, true)], false, Decision::Abandon),
        ];
        for (number, (candidates, failback, expected)) in table.into_iter().enumerate() {
            assert_eq!(decide(candidates, own, failback), expected, "row {number}");
        }
    }

    proptest! {
        /// Nodes that see the same picture never decide that two of them take a group, and of two
        /// owners exactly one stays.
        #[test]
        fn one_picture_leads_to_at_most_one_owner(
            picture in proptest::collection::vec((proptest::option::of(1u64..4), any::<bool>()), 1..5),
            failback in any::<bool>(),
        ) {
            let candidates: Vec<_> = picture.iter().enumerate()
                .map(|(node, (claim, eligible))| candidate(node, *claim, *eligible)).collect();
            let mut owners = 0;
            for it in &candidates {
                owners += match decide(&candidates, it.node, failback) {
                    Decision::Take => 1,
                    Decision::Keep => usize::from(it.claim.is_some()),
                    Decision::GiveBack(_) | Decision::Yield(_) | Decision::Abandon => 0,
                };
            }
            prop_assert!(owners <= 1);
        }
    }
}
