//! Services between the core and `io/service`: orders out, reports in.

use super::Driver;
use super::carry::{of_token, token};
use crate::config::{GroupIndex, Resource};
use crate::core::io::{Health, Input, Presence};
use crate::io::clock::monotonic_ns;
use crate::io::service::{Operation, Order, Outcome, ServiceReport};
use crate::snapshot::Severity;

/// In the token of an order that is not the core's.
const AGAIN: u64 = 1 << 63;

impl Driver {
    /// Has something done with a service; what is refused at once comes back as the core's next
    /// input.
    pub(super) fn order(
        &self,
        group: GroupIndex,
        resource: usize,
        operation: Operation,
    ) -> Option<Input> {
        let found = self.parts.config.groups.get(group.0)?.resources.get(resource)?.clone();
        let token = token(group, resource);
        let order = Order { token, operation, resource: found };
        let error = self.parts.services.send(order).err()?;
        Some(match operation {
            Operation::Probe => {
                let presence = Presence::Unclear { cause: error };
                Input::ResourceProbed { group, resource, presence }
            }
            Operation::Monitor { number } => {
                let health = Health::NotAsked { cause: error };
                Input::ResourceMonitored { group, resource, number, health }
            }
            Operation::Start => Input::ResourceStarted { group, resource, error: Some(error) },
            Operation::Stop => Input::ResourceStopped { group, resource, error: Some(error) },
        })
    }

    /// Starts a service once more that the core knows to have been started, and something else ended with
    /// what it needs. The core does not hear of it.
    pub(super) fn start_again(&self, group: GroupIndex, resource: usize) {
        let found = self.parts.config.groups[group.0].resources[resource].clone();
        let operation = Operation::Start;
        let order = Order { token: token(group, resource) | AGAIN, operation, resource: found };
        if let Err(error) = self.parts.services.send(order) {
            self.not_started_again(&error);
        }
    }

    fn not_started_again(&self, error: &str) {
        self.driver_note(Severity::Error, "not-started-again", error.to_owned());
    }

    /// What came of an order, as an input of the core; noted on the way.
    pub(super) fn service_report(&self, report: ServiceReport) -> Option<Input> {
        if report.token & AGAIN != 0 {
            if let Outcome::Started(Err(error)) = &report.outcome {
                self.not_started_again(error);
            }
            return None;
        }
        let (group, resource) = of_token(report.token);
        let seconds = report.duration.as_secs_f64();
        Some(match report.outcome {
            Outcome::Probed(presence) => Input::ResourceProbed { group, resource, presence },
            Outcome::Monitored { number, health } => {
                Input::ResourceMonitored { group, resource, number, health }
            }
            Outcome::Started(outcome) => {
                if outcome.is_ok() {
                    self.note_service(group, resource, "service-started", seconds);
                }
                Input::ResourceStarted { group, resource, error: outcome.err() }
            }
            Outcome::Stopped(outcome) => {
                if outcome.is_ok() {
                    self.note_service(group, resource, "service-stopped", seconds);
                }
                Input::ResourceStopped { group, resource, error: outcome.err() }
            }
        })
    }

    fn note_service(&self, group: GroupIndex, resource: usize, kind: &str, seconds: f64) {
        let word = kind.rsplit('-').next().unwrap_or(kind);
        let message =
            |it: &Resource| format!("{} {} {word} in {seconds:.3} s", kind_of(it), it.label());
        self.note_resource(group, resource, kind, monotonic_ns(), message);
    }
}

/// As an operator calls it.
fn kind_of(resource: &Resource) -> &'static str {
    match resource {
        Resource::Address { .. } => "address",
        Resource::SourceAddress { .. } => "source address",
        Resource::Script { .. } => "script",
        Resource::Systemd { .. } => "unit",
    }
}
