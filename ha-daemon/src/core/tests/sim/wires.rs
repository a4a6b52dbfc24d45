//! What nodes send each other, and how it arrives.

use super::*;

impl Sim {
    pub(super) fn keepalives(&self) -> BTreeSet<Duration> {
        let links = (0..self.config.links.len()).map(LinkIndex);
        links.map(|link| self.config.times(link).keepalive).collect()
    }

    /// A heartbeat on every link.
    pub(in super::super) fn beat_all(&mut self, node: usize) {
        self.keepalives().into_iter().for_each(|keepalive| self.beat(node, keepalive));
    }

    pub(super) fn beat(&mut self, node: usize, keepalive: Duration) {
        let mut wires = self.wires_from(node);
        wires.retain(|wire| self.config.times(LinkIndex(wire.2)).keepalive == keepalive);
        let now = self.now;
        let Some(daemon) = &mut self.hosts[node].daemon else { return };
        daemon.beats += 1;
        let packets: Vec<_> = wires
            .into_iter()
            .map(|wire| {
                let peer = &daemon.core.peers()[&NodeIndex(wire.1)];
                let layers = if peer.hears(LinkIndex(wire.2)) { layers::LINK } else { 0 };
                let sequence = daemon.beats;
                (wire, Header { sequence, layers, ..header(daemon, wire.1, now) })
            })
            .collect();
        for (wire, header) in packets {
            self.send(wire, Packet::Heartbeat(header));
        }
    }

    pub(super) fn send(&mut self, wire: Wire, packet: Packet) {
        let control = matches!(packet, Packet::Control(..));
        if let Some(delay) = self.net.carry(wire, control) {
            self.after(delay, Happening::Arrival { wire, packet });
        }
    }

    pub(super) fn arrive(&mut self, wire: Wire, packet: Packet) {
        let (from, node, link) = wire;
        if self.net.cut(wire) {
            return;
        }
        if self.hosts[node].kernel.silent {
            self.hosts[node].kernel.waiting.push((wire, packet));
            return;
        }
        match packet {
            Packet::Probe { incarnation, left } => return self.asked(wire, incarnation, left),
            Packet::Answer { incarnation, echo, left, lease_age_ms } => {
                return self.answered(wire, (incarnation, echo), left, lease_age_ms);
            }
            Packet::Heartbeat(_) | Packet::Control(..) => {}
        }
        let (now, silence) = (self.now, self.config.times(LinkIndex(link)).warntime);
        let Host { daemon: Some(daemon), records, .. } = &mut self.hosts[node] else { return };
        let record = records.entry((from, link)).or_default();
        match packet {
            Packet::Heartbeat(header) => {
                let woken = record.heartbeat(header, daemon.incarnation, now, silence);
                if woken && daemon.paused.is_none() {
                    self.turn(node, Vec::new());
                }
            }
            Packet::Control(header, message) => {
                if record.believes(header, daemon.incarnation) {
                    let (incarnation, phase) = (header.incarnation, header.phase);
                    let peer = NodeIndex(from);
                    self.letter(node, Input::Control { peer, incarnation, phase, message });
                }
            }
            Packet::Probe { .. } | Packet::Answer { .. } => {}
        }
    }
    pub(super) fn send_state(&mut self, node: usize, peer: NodeIndex, state: &State) {
        for link in 0..self.config.links.len() {
            self.letters += 1;
            let Some(daemon) = &mut self.hosts[node].daemon else { return };
            for claim in &state.claims {
                let before = daemon.terms.insert(claim.group, claim.term).unwrap_or(0);
                assert!(claim.term >= before, "n{node} told term {} after {before}", claim.term);
            }
            self.send_on(node, peer, link, Message::State(state.clone()));
        }
    }

    pub(super) fn send_message(&mut self, node: usize, peer: NodeIndex, message: &Message) {
        for link in 0..self.config.links.len() {
            self.letters += 1;
            self.send_on(node, peer, link, message.clone());
        }
    }

    pub(super) fn send_on(&mut self, node: usize, peer: NodeIndex, link: usize, message: Message) {
        let now = self.now;
        let Some(daemon) = &mut self.hosts[node].daemon else { return };
        daemon.letters += 1;
        let header = Header { sequence: daemon.letters, ..header(daemon, peer.0, now) };
        self.send((node, peer.0, link), Packet::Control(header, message));
    }
}
