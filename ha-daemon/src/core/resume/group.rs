//! What is remembered of a group.

use serde::{Deserialize, Serialize};

use super::identity;
use crate::config::Group;
use crate::core::groups::Entry;
use crate::core::message::{ClaimState, Wish};
use crate::core::ownership::{Goal, LocalGroup};
use crate::core::recovery::{Monitor, MonitorMemory, ServiceFailures};
use crate::core::time::Moment;
use crate::snapshot::ResourceState;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct GroupMemory {
    goal: Goal,
    /// What each resource is, and its state.
    pub(super) resources: Vec<(String, ResourceState)>,
    term: u64,
    highest_term: u64,
    wish: Wish,
    own_wish: Wish,
    failed_until: Option<Moment>,
    failures: u32,
    retry_stop_at: Option<Moment>,
    /// Earlier versions knew of none, up to `monitors`.
    #[serde(flatten)]
    services: ServiceFailures,
    #[serde(default)]
    started_at: Option<Moment>,
    #[serde(default)]
    recovering: bool,
    /// Of each resource.
    #[serde(default)]
    monitors: Vec<MonitorMemory>,
    reported: ClaimState,
    contested: bool,
}

impl GroupMemory {
    pub(super) fn of(group: &Group, entry: &Entry) -> Self {
        let LocalGroup {
            goal,
            resources,
            term,
            highest_term,
            wish,
            own_wish,
            failed_until,
            failures,
            retry_stop_at,
            // Only a resource that is being started or stopped is in between, and that is waited for.
            restart_from: _,
            services,
            started_at,
            trim: _,
        } = entry.local.clone();
        let monitors = entry.monitors.iter().map(Monitor::remember).collect();
        let Entry { local: _, reported, contested, recovering, monitors: _ } = *entry;
        Self {
            goal,
            resources: group.resources.iter().map(identity).zip(resources).collect(),
            term,
            highest_term,
            wish,
            own_wish,
            failed_until,
            failures,
            retry_stop_at,
            services,
            started_at,
            recovering,
            monitors,
            reported,
            contested,
        }
    }

    /// The group as the new configuration has it; what of the old one runs on and is not in it.
    pub(super) fn resume(self, group: &Group, entry: &mut Entry) -> Vec<String> {
        let identities: Vec<String> = group.resources.iter().map(identity).collect();
        let pairs = self.resources.iter().zip(&identities);
        let same = pairs.take_while(|((old, _), new)| old == *new).count();
        let (stay, go) = self.resources.split_at(same);
        let local = &mut entry.local;
        for (state, (_, was)) in local.resources.iter_mut().zip(stay) {
            // Whoever was to report the end of this is gone: done again, it does no harm.
            *state = match was {
                ResourceState::Starting => ResourceState::Stopped,
                ResourceState::Stopping => ResourceState::Started,
                ResourceState::Stopped
                | ResourceState::Started
                | ResourceState::Failed
                | ResourceState::Unknown => *was,
            };
        }
        local.goal = self.goal;
        local.term = self.term;
        local.highest_term = self.highest_term;
        local.wish = self.wish;
        local.own_wish = self.own_wish;
        local.failed_until = self.failed_until;
        local.failures = self.failures;
        local.retry_stop_at = self.retry_stop_at;
        local.services = self.services;
        local.started_at = self.started_at;
        entry.reported = self.reported;
        entry.contested = self.contested;
        entry.recovering = self.recovering;
        for (monitor, memory) in entry.monitors.iter_mut().zip(&self.monitors).take(same) {
            *monitor = Monitor::resume(memory);
        }
        let runs = |(label, state): &(String, ResourceState)| {
            (*state != ResourceState::Stopped).then(|| label.clone())
        };
        go.iter().filter_map(runs).collect()
    }
}
