//! Carrying out the core's actions, and what comes back of them.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;

use ha_common::wire::{Header, Kind, Phase};

use super::{Driver, record};
use ipnet::IpNet;
use socket2::SockAddr;

use crate::config::{GroupIndex, LinkIndex, NodeIndex, Resource};
use crate::control::event_log::EventDraft;
use crate::core::io::{Action, Input, Note, Probed};
use crate::core::message::Message;
use crate::core::time::Moment;
use crate::io::address::{AddressCommand, AddressDetails, AddressReport};
use crate::io::clock::{monotonic_ns, unix_us};
use crate::io::keeper::{Datagram, KeeperError};
use crate::io::keys::Signer;
use crate::io::paths::{Carrier, Network};
use crate::io::service::Operation;
use crate::io::socket::{LinkSocket, remedy, scoped};
use crate::names::InterfaceName;
use crate::snapshot::{ResourceState, Severity};

/// A resource's number in commands to the address worker.
pub(super) fn token(group: GroupIndex, resource: usize) -> u64 {
    (group.0 as u64) << 32 | resource as u64
}

pub(super) fn of_token(token: u64) -> (GroupIndex, usize) {
    (GroupIndex((token >> 32) as usize), (token & u64::from(u32::MAX)) as usize)
}

/// A datagram of the keeper for every address that stands for the peer.
pub(super) fn obituaries(network: &Network, payload: &[u8]) -> Vec<Datagram> {
    let Some(source) = network.source() else { return Vec::new() };
    let datagram = |remote: &SocketAddr| Datagram {
        local: scoped(source, network.interface_index),
        interface: network.interface.clone(),
        remote: scoped(*remote, network.interface_index),
        hops: network.hops(),
        payload: payload.to_vec(),
    };
    network.remotes.iter().map(datagram).collect()
}

impl Driver {
    /// Carries an action out; what is refused at once comes back as the core's next input.
    pub(super) fn carry_out(&mut self, action: Action, now: Moment) -> Option<Input> {
        match action {
            Action::Probe { peer, link } => return self.probe_kernel(peer, link),
            Action::StartResource { group, resource } => {
                return self.start_resource(group, resource);
            }
            Action::StopResource { group, resource } => return self.stop_resource(group, resource),
            Action::ProbeResource { group, resource } => {
                return self.order(group, resource, Operation::Probe);
            }
            Action::MonitorResource { group, resource, number } => {
                return self.order(group, resource, Operation::Monitor { number });
            }
            Action::EndStatuses => self.parts.services.end_statuses(),
            Action::ProbeAddresses { group } => return self.probe_addresses(group),
            Action::Announce { group } => self.announce(group),
            Action::SendState { peer, state } => self.send_message(peer, &Message::State(state)),
            Action::SendMessage { peer, message } => self.send_message(peer, &message),
            Action::Answer { id, outcome } => self.answer(id, outcome),
            Action::Advertise { generation, phase } => {
                self.parts.shared.generation.store(generation, Relaxed);
                self.parts.shared.phase.store(phase, Relaxed);
            }
            Action::AdvertiseServices { well } => {
                self.parts.shared.services_well.store(well, Relaxed);
            }
            Action::Event(note) => self.event(now, note),
            Action::HandOver => self.hand_over(),
            Action::HandOverFailed(reason) => self.hand_over_failed(reason),
            Action::Adopted => self.adopted(),
            Action::Exit => self.exit = true,
        }
        None
    }

    /// Asks a peer's kernel; says when the question left, or why it could not.
    fn probe_kernel(&mut self, peer: NodeIndex, link: LinkIndex) -> Option<Input> {
        let mut paths = self.parts.paths.iter();
        let slot = paths.position(|path| (path.peer, path.link) == (peer, link));
        let asked = slot.ok_or_else(|| "there is no such path".to_owned());
        Some(match asked.and_then(|slot| self.ask(slot)) {
            Ok(left_ns) => Input::ProbeLeft { peer, link, at: Moment(left_ns) },
            Err(error) => Input::ProbeFailed { peer, link, error },
        })
    }

    fn start_resource(&mut self, group: GroupIndex, resource: usize) -> Option<Input> {
        // Stopped since the core decided, and for longer than its lease, it would start what is another's.
        if let Some(over) = self.parts.keeper.lease().is_over() {
            return Some(Input::StartHeldBack { group, resource, cause: over.to_string() });
        }
        let Some((address, interface)) = self.address(group, resource) else {
            return self.order(group, resource, Operation::Start);
        };
        if let Some(started) = self.open_gate(group, resource) {
            return Some(started);
        }
        // The keeper knows of it before the kernel does: there is no moment at which nobody would
        // remove it.
        let held = match self.parts.keeper.hold(address, &interface) {
            Ok(()) | Err(KeeperError::Gone { .. }) => Ok(()),
            Err(error) => Err(error.to_string()),
        };
        let command = AddressCommand::Add {
            token: token(group, resource),
            address,
            interface,
            details: self.address_details(group, resource),
        };
        let sent = held
            .and_then(|()| self.parts.addresses.send(command).map_err(|error| error.to_string()));
        let error = sent.err();
        error.is_some().then_some(Input::ResourceStarted { group, resource, error })
    }

    fn stop_resource(&mut self, group: GroupIndex, resource: usize) -> Option<Input> {
        let Some((address, interface)) = self.address(group, resource) else {
            return self.order(group, resource, Operation::Stop);
        };
        if let Some(stopped) = self.close_gate(group, resource) {
            return Some(stopped);
        }
        let command = AddressCommand::Remove {
            token: token(group, resource),
            address,
            interface: interface.clone(),
        };
        let error = self.parts.addresses.send(command).err().map(|error| error.to_string());
        // A worker that does not get to it leaves it to its lifetime, which nobody prolongs any more.
        match self.parts.keeper.retire(address, &interface) {
            // A keeper that is gone is started again and told so.
            Ok(()) | Err(KeeperError::Gone { .. }) => {}
            Err(error) => {
                let text = format!("the keeper goes on renewing {address}: {error}");
                self.driver_note(Severity::Warning, "not-told", text);
            }
        }
        error.is_some().then_some(Input::ResourceStopped { group, resource, error })
    }

    fn probe_addresses(&self, group: GroupIndex) -> Option<Input> {
        let count = self.parts.config.groups.get(group.0)?.resources.len();
        let addresses: Vec<_> = (0..count).map(|resource| self.address(group, resource)).collect();
        if !self.parts.config.connectivity.probes() || addresses.iter().all(Option::is_none) {
            return Some(self.addresses_probed(group, Probed::Nobody));
        }
        let command = AddressCommand::Ask { token: token(group, 0), addresses };
        let cause = self.parts.addresses.send(command).err()?.to_string();
        Some(self.addresses_probed(group, Probed::Failed { cause }))
    }

    fn addresses_probed(&self, group: GroupIndex, answer: Probed) -> Input {
        let replies = self.parts.pings.iter().filter_map(|target| target.last_reply_ns());
        Input::AddressesProbed { group, answer, pinged_at: replies.max().map(Moment) }
    }

    fn announce(&mut self, group: GroupIndex) {
        let count = self.parts.config.groups[group.0].resources.len();
        for resource in 0..count {
            if let Some((address, interface)) = self.address(group, resource) {
                let command = AddressCommand::Announce { address, interface };
                if let Err(error) = self.parts.addresses.send(command) {
                    self.driver_note(Severity::Warning, "not-announced", error.to_string());
                }
            }
        }
    }

    pub(super) fn address_details(&self, group: GroupIndex, resource: usize) -> AddressDetails {
        let found = self.parts.config.groups.get(group.0).and_then(|it| it.resources.get(resource));
        match found {
            Some(Resource::Address { label, broadcast, .. }) => {
                AddressDetails { label: label.clone(), broadcast: *broadcast }
            }
            None
            | Some(
                Resource::SourceAddress { .. } | Resource::Script { .. } | Resource::Systemd { .. },
            ) => AddressDetails::default(),
        }
    }

    /// The resource, if it is an address.
    pub(super) fn address(
        &self,
        group: GroupIndex,
        resource: usize,
    ) -> Option<(IpNet, InterfaceName)> {
        match self.parts.config.groups.get(group.0)?.resources.get(resource)? {
            Resource::Address { address, interface, .. } => Some((*address, interface.clone())),
            Resource::SourceAddress { .. } | Resource::Script { .. } | Resource::Systemd { .. } => {
                None
            }
        }
    }

    fn address_at(
        &self,
        wanted: IpNet,
        wanted_interface: &InterfaceName,
    ) -> Option<(GroupIndex, usize)> {
        let is_wanted = |resource: &Resource| {
            matches!(resource, Resource::Address { address, interface, .. }
                     if *address == wanted && interface == wanted_interface)
        };
        self.parts.config.groups.iter().enumerate().find_map(|(group, it)| {
            Some((GroupIndex(group), it.resources.iter().position(is_wanted)?))
        })
    }

    /// What the address worker says, as an input of the core; noted on the way.
    pub(super) fn resource_report(&mut self, report: AddressReport) -> Option<Input> {
        match report {
            AddressReport::Added { token, outcome, at_ns, first_announced_ns } => {
                let (group, resource) = of_token(token);
                if outcome.is_ok() {
                    if !self.parts.gates.was_at_once(group, resource) {
                        self.note_address(group, resource, "address-added", at_ns);
                    }
                    if let Some(at_ns) = first_announced_ns {
                        self.note_address(group, resource, "address-announced", at_ns);
                    }
                }
                if !self.parts.gates.was_at_once(group, resource) {
                    return Some(self.address_started(group, resource, outcome.err()));
                }
                // Its start was reported when the gate was opened.
                let cause = outcome.err()?;
                self.parts.gates.close(group, resource);
                Some(Input::ResourceLost { group, resource, cause })
            }
            AddressReport::Armed { token, outcome } => {
                let (group, resource) = of_token(token);
                self.armed(group, resource, outcome);
                None
            }
            AddressReport::Removed { token, outcome, at_ns } => {
                let (group, resource) = of_token(token);
                if let (Ok(()), Some((address, interface))) =
                    (&outcome, self.address(group, resource))
                {
                    // A keeper that is gone is started again with what is held then.
                    let _ = self.parts.keeper.release(address, &interface);
                    self.note_address(group, resource, "address-removed", at_ns);
                    self.arm_addresses(Some(&interface));
                }
                Some(Input::ResourceStopped { group, resource, error: outcome.err() })
            }
            AddressReport::Conflict { address, interface, mac } => {
                let (group, resource) = self.address_at(address, &interface)?;
                Some(Input::AddressConflict { group, resource, mac })
            }
            AddressReport::Asked { token, answer } => {
                Some(self.addresses_probed(of_token(token).0, answer))
            }
            AddressReport::Lapsed { address, interface, silent_ns } => {
                let _ = self.parts.keeper.release(address, &interface);
                let (group, resource) = self.address_at(address, &interface)?;
                let was_open = self.parts.gates.is_open(group, resource);
                self.parts.gates.close(group, resource);
                self.arm_addresses(Some(&interface));
                if was_open == Some(false) {
                    return None; // it was given up before
                }
                let seconds = silent_ns as f64 / 1e9;
                let cause = format!(
                    "not renewed for {seconds:.3} s, longer than its lifetime or the lease"
                );
                Some(Input::ResourceLost { group, resource, cause })
            }
            AddressReport::Restored { address, interface, silent_ns, gone_ns } => {
                self.address_restored((address, &interface), silent_ns, gone_ns);
                None
            }
            AddressReport::RenewFailed { address, interface, cause } => {
                let text = format!("{address} on {interface} is not renewed: {cause}");
                self.driver_note(Severity::Error, "renew-failed", text);
                None
            }
        }
    }

    /// The worker looks at the lease, too, before it adds anything and after.
    fn address_started(&self, group: GroupIndex, resource: usize, error: Option<String>) -> Input {
        match error {
            Some(cause) if self.parts.keeper.lease().is_over().is_some() => {
                Input::StartHeldBack { group, resource, cause }
            }
            error => Input::ResourceStarted { group, resource, error },
        }
    }

    /// An address came back that nobody of this program had removed. Routes with it as their source went
    /// with it.
    fn address_restored(
        &mut self,
        (address, interface): (IpNet, &InterfaceName),
        silent_ns: u64,
        gone_ns: Option<u64>,
    ) {
        let lifetime = self.parts.config.cluster.holder_times().address_lifetime;
        let seconds = |nanoseconds: u64| nanoseconds as f64 / 1e9;
        let silent = seconds(silent_ns);
        let cause = if silent >= lifetime.as_secs_f64() {
            format!("its lifetime was over, for no renewal got through for {silent:.3} s")
        } else {
            format!(
                "taken off by somebody else, or with the primary address of its network \
                 (promote_secondaries); it was renewed {silent:.3} s before"
            )
        };
        let gone = gone_ns.map_or_else(String::new, |gone_ns| {
            format!(", {:.3} s after the kernel told", seconds(gone_ns))
        });
        let text = format!(
            "{address} on {interface} was not there any more and has been added again{gone}: {cause}"
        );
        self.driver_note(Severity::Warning, "address-restored", text);
        let Some((group, _)) = self.address_at(address, interface) else { return };
        let is_source = |it: &Resource| matches!(it, Resource::SourceAddress { address: own } if *own == address.addr());
        let resources = &self.parts.config.groups[group.0].resources;
        let states = self.core.group(group).resources;
        if let Some(source) = resources.iter().position(is_source)
            && states.get(source) == Some(&ResourceState::Started)
        {
            self.start_again(group, source);
        }
    }

    fn note_address(&self, group: GroupIndex, resource: usize, kind: &str, at_ns: u64) {
        let word = kind.rsplit('-').next().unwrap_or(kind);
        let message = |it: &Resource| format!("address {} {word}", it.label());
        self.note_resource(group, resource, kind, at_ns, message);
    }

    /// Something good about a resource, if the configuration has it.
    pub(super) fn note_resource(
        &self,
        group: GroupIndex,
        resource: usize,
        kind: &str,
        at_ns: u64,
        message: impl FnOnce(&Resource) -> String,
    ) {
        let found = self.parts.config.groups.get(group.0).and_then(|it| it.resources.get(resource));
        let Some(found) = found else { return };
        let note = Note {
            severity: Severity::Info,
            kind: kind.to_owned(),
            node: None,
            link: None,
            group: Some(group),
            message: message(found),
        };
        self.event(Moment(at_ns), note);
    }

    pub(super) fn resource_label(&self, group: GroupIndex, resource: usize) -> String {
        let found = self.parts.config.groups.get(group.0).and_then(|it| it.resources.get(resource));
        found.map_or_else(String::new, Resource::label)
    }

    pub(super) fn driver_note(&self, severity: Severity, kind: &str, message: String) {
        let note =
            Note { severity, kind: kind.to_owned(), node: None, link: None, group: None, message };
        self.event(Moment(monotonic_ns()), note);
    }

    pub(super) fn event(&self, at: Moment, note: Note) {
        let config = &self.parts.config;
        let age_us = monotonic_ns().saturating_sub(at.0) / 1_000;
        self.parts.events.push(EventDraft {
            monotonic_ns: at.0,
            unix_us: unix_us().saturating_sub(age_us),
            severity: note.severity,
            kind: note.kind,
            node: note.node.map(|node| config.nodes[node.0].name.clone()),
            link: note.link.map(|link| config.links[link.0].name.clone()),
            group: note.group.map(|group| config.groups[group.0].name.clone()),
            message: note.message,
        });
    }

    pub(super) fn note_receptions(&self) {
        let mut noted: Vec<String> = Vec::new();
        for (path, reception) in self.parts.paths.iter().zip(&self.parts.receptions) {
            let (place, via) = (path.place(), reception.via);
            if noted.contains(&place) {
                continue;
            }
            let (severity, text) = if reception.reason.is_empty() {
                (Severity::Info, format!("heartbeats on {place} arrive via {via}"))
            } else {
                let reason = &reception.reason;
                (Severity::Warning, format!("heartbeats on {place} arrive via {via}: {reason}"))
            };
            noted.push(place);
            self.driver_note(severity, "reception", text);
        }
    }

    fn send_message(&mut self, peer: NodeIndex, message: &Message) {
        let body = message.encode();
        for slot in 0..self.parts.paths.len() {
            // What does not leave is sent again until the peer acknowledges it.
            if self.parts.paths[slot].peer == peer {
                self.send_control(slot, &body);
            }
        }
    }

    /// Sends a control message on a path.
    pub(super) fn send_control(&mut self, slot: usize, body: &[u8]) {
        self.control_sequences[slot] += 1;
        let sequence = self.control_sequences[slot];
        let signing = self.parts.shared.paths[slot].signing.get();
        let signer = self.parts.keys.signer(signing, sequence);
        let datagram = self.control_datagram(slot, sequence, signer, body);
        if self.send_on(slot, &datagram, body, LinkSocket::send).is_err() {
            self.parts.shared.paths[slot].errors.fetch_add(1, Relaxed);
        }
    }

    /// Sends a probe on a path.
    ///
    /// # Errors
    /// Why it did not leave, and what helps.
    pub(super) fn send_probe(&self, slot: usize, datagram: &[u8]) -> Result<(), String> {
        // What a line tells repetitions by: each of these is another.
        self.send_on(slot, datagram, datagram, LinkSocket::ask)
    }

    /// Sends an answer on a path. One that does not leave is one that was lost.
    pub(super) fn send_answer(&self, slot: usize, datagram: &[u8]) {
        let _ = self.send_on(slot, datagram, datagram, LinkSocket::send);
    }

    /// Sends a datagram on a path.
    fn send_on(
        &self,
        slot: usize,
        datagram: &[u8],
        body: &[u8],
        send: fn(&LinkSocket, &[u8], &SockAddr) -> io::Result<()>,
    ) -> Result<(), String> {
        let path = &self.parts.paths[slot];
        let network = match &path.carrier {
            Carrier::Network(network) => network,
            Carrier::Serial(serial) => {
                let closed = || {
                    let device = serial.device.display();
                    format!(
                        "the line {device} is not open, or full: is the device there, and plugged?"
                    )
                };
                let sent = self.send_serial(slot, datagram, body);
                return sent.then_some(()).ok_or_else(closed);
            }
        };
        let mut sockets = self.parts.sockets.iter();
        let socket = sockets.find(|socket| socket.link == path.link);
        let socket = socket.ok_or_else(|| format!("no socket on {}", network.interface))?;
        let mut outcome = Ok(());
        for remote in &network.remotes {
            let to = scoped(*remote, network.interface_index).into();
            if let Err(error) = send(socket, datagram, &to) {
                let remedy = remedy(&error, &network.interface);
                outcome = Err(format!("{remote}: {error}: {remedy}"));
            }
        }
        outcome
    }

    pub(super) fn control_datagram(
        &self,
        slot: usize,
        sequence: u64,
        signer: &Signer,
        body: &[u8],
    ) -> Vec<u8> {
        let path = &self.parts.paths[slot];
        let shared = &self.parts.shared;
        let header = Header {
            kind: Kind::Control,
            receiver: self.parts.config.nodes[path.peer.0].id,
            link: path.key.link,
            key: signer.number,
            echo: shared.paths[slot].echo.load(Relaxed),
            body_bytes: body.len() as u16,
            sequence,
            sent_ns: monotonic_ns(),
            keepalive_us: self.parts.config.times(path.link).keepalive.as_micros() as u32,
            generation: shared.generation.load(Relaxed),
            phase: Phase::from_wire(shared.phase.load(Relaxed)),
            ..self.parts.header
        };
        let mut fixed = header.encode();
        signer.key.sign(&mut fixed);
        let mut datagram = fixed.to_bytes().to_vec();
        datagram.extend(signer.key.body_tag(&fixed, body));
        datagram.extend(body);
        datagram
    }

    /// Takes note of newly heard incarnations (which heartbeats echo, so that the peers can prove
    /// themselves) and of the links that are heard.
    pub(super) fn update_echoes(&mut self) {
        let heard = self.heard();
        for (slot, path) in self.parts.paths.iter().enumerate() {
            let words = &self.parts.shared.paths[slot];
            words.echo.store(heard[slot], Relaxed);
            let peer = self.core.peers().get(&path.peer);
            let hears = peer.is_some_and(|peer| peer.hears(path.link));
            words.hears.store(hears, Relaxed);
        }
        if self.update_keys() {
            self.obituary_is_due = true;
        }
        if heard != self.heard_told {
            self.parts.heard.tell(&heard);
            self.heard_told = heard;
            self.obituary_is_due = true;
        }
        if std::mem::take(&mut self.obituary_is_due) {
            self.write_obituary();
        }
    }

    /// By slot, the highest incarnation of its peer that was heard on any link.
    fn heard(&self) -> Vec<u64> {
        let mut by_peer = vec![0; self.parts.config.nodes.len()];
        for (slot, path) in self.parts.paths.iter().enumerate() {
            let heard = record(&self.parts, slot).map_or(0, |it| it.heard());
            by_peer[path.peer.0] = heard.max(by_peer[path.peer.0]);
        }
        self.parts.paths.iter().map(|path| by_peer[path.peer.0]).collect()
    }
}
