//! Pre-armed addresses: arming, one store for a takeover, one for a release, and the lease.

use super::Driver;
use super::carry::token;
use super::custody::Holding;
use crate::config::GroupIndex;
use crate::core::io::{Input, Note};
use crate::core::time::Moment;
use crate::io::address::AddressCommand;
use crate::io::clock::monotonic_ns;
use crate::io::gate::{ARM_AGAIN, Done};
use crate::io::keeper::KeeperError;
use crate::io::mailbox::GateNews;
use crate::names::InterfaceName;
use crate::snapshot::Severity;

impl Driver {
    /// Has the addresses configured that are to be there beforehand: on one interface, or on all.
    pub(super) fn arm_addresses(&mut self, interface: Option<&InterfaceName>) {
        if matches!(self.holding, Holding::Ended | Holding::Lost) {
            return; // all of them, when the lease has begun anew
        }
        self.armed_at_ns = monotonic_ns();
        for (group, resource, address, interface) in self.parts.gates.to_arm(interface) {
            // As for any address: the keeper knows of it before the kernel does.
            let held = match self.parts.keeper.hold(address, &interface) {
                Ok(()) | Err(KeeperError::Gone { .. }) => Ok(()),
                Err(error) => Err(error.to_string()),
            };
            let details = self.address_details(group, resource);
            let token = token(group, resource);
            let command = AddressCommand::Arm { token, address, interface, details };
            let sent =
                held.and_then(|()| self.parts.addresses.send(command).map_err(|it| it.to_string()));
            if let Err(cause) = sent {
                self.armed(group, resource, Err(cause));
            }
        }
    }

    /// Tries again what could not be armed.
    pub(super) fn arm_again(&mut self, now_ns: u64) {
        let since_ns = now_ns.saturating_sub(self.armed_at_ns);
        if since_ns >= ARM_AGAIN.as_nanos() as u64 && self.parts.gates.wait() {
            self.arm_addresses(None);
        }
    }

    /// What came of arming.
    pub(super) fn armed(
        &mut self,
        group: GroupIndex,
        resource: usize,
        outcome: Result<(), String>,
    ) {
        let label = self.resource_label(group, resource);
        let (severity, kind, message) = match &outcome {
            Ok(()) => (Severity::Info, "address-armed", format!("address {label} armed")),
            Err(cause) => {
                let text =
                    format!("{label} is not pre-armed, it is taken the ordinary way: {cause}");
                (Severity::Warning, "not-armed", text)
            }
        };
        if self.parts.gates.set_armed(group, resource, outcome) {
            self.group_note(group, severity, kind, message);
        }
    }

    /// Says why groups that are to be pre-armed are not.
    pub(super) fn note_gates(&self) {
        for (at, group) in self.parts.config.groups.iter().enumerate() {
            let index = GroupIndex(at);
            let mut resources = 0..group.resources.len();
            let refused =
                resources.find_map(|it| self.parts.gates.refused_for(index, it).map(str::to_owned));
            if let Some(cause) = refused {
                let text = format!("not pre-armed, taken the ordinary way: {cause}");
                self.group_note(index, Severity::Warning, "not-armed", text);
            }
        }
    }

    /// Opens the gate of a resource, if that is its start. The announcement is the worker's.
    pub(super) fn open_gate(&mut self, group: GroupIndex, resource: usize) -> Option<Input> {
        if self.parts.gates.open(group, resource, self.parts.keeper.lease()) == Done::Nothing {
            return None;
        }
        let at = Moment(monotonic_ns());
        let (address, interface) = self.address(group, resource)?;
        let details = self.address_details(group, resource);
        let token = token(group, resource);
        let command = AddressCommand::Open { token, address, interface, details };
        let error = self.parts.addresses.send(command).err().map(|error| error.to_string());
        if error.is_some() {
            self.parts.gates.close(group, resource);
        } else {
            let label = self.resource_label(group, resource);
            let message = format!("address {label} opened");
            self.group_note_at(at, group, Severity::Info, "address-opened", message);
        }
        Some(Input::ResourceStarted { group, resource, error })
    }

    /// Closes the gate of a resource; what comes back if that is its end.
    pub(super) fn close_gate(&mut self, group: GroupIndex, resource: usize) -> Option<Input> {
        if self.parts.gates.close(group, resource) == Done::Nothing {
            return None;
        }
        let at = Moment(monotonic_ns());
        self.tell_closed(group, resource);
        let message = format!("address {} closed", self.resource_label(group, resource));
        self.group_note_at(at, group, Severity::Info, "address-closed", message);
        Some(Input::ResourceStopped { group, resource, error: None })
    }

    /// The worker announces it no more. Should it not hear: nothing passes the gate any more.
    fn tell_closed(&self, group: GroupIndex, resource: usize) {
        let Some((address, interface)) = self.address(group, resource) else { return };
        if let Err(error) = self.parts.addresses.send(AddressCommand::Close { address, interface })
        {
            self.group_note(group, Severity::Warning, "not-told", error.to_string());
        }
    }

    /// News of the programs on the interfaces.
    pub(super) fn gate_news(&mut self, news: GateNews) {
        match news {
            GateNews::Attached(interface) => self.arm_addresses(Some(&interface)),
            GateNews::Failed(reason) => {
                for (address, interface) in self.parts.gates.give_up(&reason) {
                    let command = AddressCommand::Disarm { address, interface };
                    if let Err(error) = self.parts.addresses.send(command) {
                        self.driver_note(Severity::Error, "not-disarmed", error.to_string());
                    }
                }
                let text = format!("no address is pre-armed any more: {reason}");
                self.driver_note(Severity::Error, "not-armed", text);
            }
        }
    }

    fn group_note(&self, group: GroupIndex, severity: Severity, kind: &str, message: String) {
        self.group_note_at(Moment(monotonic_ns()), group, severity, kind, message);
    }

    fn group_note_at(
        &self,
        at: Moment,
        group: GroupIndex,
        severity: Severity,
        kind: &str,
        message: String,
    ) {
        let (kind, group) = (kind.to_owned(), Some(group));
        self.event(at, Note { severity, kind, node: None, link: None, group, message });
    }
}
