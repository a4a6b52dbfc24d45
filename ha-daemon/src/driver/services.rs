//! Services between the core and `io/service`: orders out, reports in.

use super::Driver;
use super::carry::{of_token, token};
use crate::config::{GroupIndex, Resource};
use crate::core::io::{Input, Presence};
use crate::io::clock::monotonic_ns;
use crate::io::service::{Operation, Order, Outcome, ServiceReport};

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
        let order = Order { token: token(group, resource), operation, resource: found };
        let error = self.parts.services.send(order).err()?;
        Some(match operation {
            Operation::Probe => {
                let presence = Presence::Unclear { cause: error };
                Input::ResourceProbed { group, resource, presence }
            }
            Operation::Start => Input::ResourceStarted { group, resource, error: Some(error) },
            Operation::Stop => Input::ResourceStopped { group, resource, error: Some(error) },
        })
    }

    /// What came of an order, as an input of the core; noted on the way.
    pub(super) fn service_report(&self, report: ServiceReport) -> Input {
        let (group, resource) = of_token(report.token);
        let seconds = report.duration.as_secs_f64();
        match report.outcome {
            Outcome::Probed(presence) => Input::ResourceProbed { group, resource, presence },
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
        }
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
