//! Frames made at random from valid ones, the same for the same seed.

use super::*;

/// A source of frames: some valid, some damaged, some noise.
#[derive(Debug, Clone)]
pub struct Mutator {
    state: u64,
    sequence: u64,
    incarnation: u64,
}

impl Mutator {
    /// The same seed gives the same frames.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed | 1, sequence: 0, incarnation: 20 }
    }

    /// A number below `bound`. Marsaglia, "Xorshift RNGs", 2003; good enough to choose damage by.
    pub fn below(&mut self, bound: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 11) as usize % bound.max(1)
    }

    /// A frame, never shorter than 15 bytes: the kernel runs no program on less.
    pub fn frame(&mut self) -> Vec<u8> {
        let mut frame = self.packet().frame();
        for _ in 0..[0, 0, 0, 1, 1, 3][self.below(6)] {
            self.damage(&mut frame);
        }
        let missing = 15_usize.saturating_sub(frame.len());
        frame.extend(core::iter::repeat_n(0, missing));
        frame
    }

    fn one_of<T: Copy>(&mut self, choices: &[T], otherwise: T) -> T {
        let choice = self.below(choices.len() * 8);
        choices.get(choice).copied().unwrap_or(otherwise)
    }

    /// Most often the next valid heartbeat.
    fn packet(&mut self) -> Packet {
        self.sequence += [0, 1, 1, 1, 2, 7][self.below(6)];
        if self.below(200) == 0 {
            (self.incarnation, self.sequence) = (self.incarnation + 1, 1);
        }
        let mut packet = Packet::heartbeat(self.sequence);
        packet.vlan = self.one_of(&[Vlan::Customer, Vlan::Service, Vlan::Both], Vlan::Untagged);
        packet.v6 = self.below(3) == 0;
        use Destination::{Everybody, Group, Host, Network};
        packet.destination = self.one_of(&[Host(3), Host(9), Group, Network, Everybody], Host(2));
        packet.header.kind = match self.below(8) {
            0 | 1 => Kind::Control,
            2 => Kind::Probe,
            3 => Kind::Answer,
            _ => Kind::Heartbeat,
        };
        packet.header.way = self.one_of(&[Way::None, Way::Socket], Way::Xdp);
        if packet.header.kind == Kind::Answer {
            packet.header.sent_ns = self.sequence;
        }
        let sender = self.one_of(&["gamma", "delta", "eve"], "alpha");
        packet.header.sender = name_id(sender);
        let links = [name_id("svc"), by_arrival::MCAST, by_arrival::BCAST];
        packet.header.link = self.one_of(&links, name_id("hb0"));
        packet.header.receiver = self.one_of(&[name_id("gamma")], packet.header.receiver);
        packet.header.incarnation = self.incarnation - u64::from(self.below(20) == 0);
        packet.header.echo = self.one_of(&[0, OWN - 1], OWN);
        packet.header.key = self.one_of(&[2, 3, 4, 5, 6, 7, 9], 1);
        packet.header.generation = 7 + self.below(20) as u32 / 19;
        let signed_by = match self.below(8) {
            0 => 3,
            1 => packet.header.key + EARLIER,
            _ => packet.header.key,
        };
        packet.key = key(signed_by);
        if self.below(6) == 0 {
            packet.rest = vec![0x5a; self.below(60)];
            packet.header.body_bytes = self.below(50) as u16;
        }
        packet
    }

    fn damage(&mut self, frame: &mut Vec<u8>) {
        let place = self.below(frame.len());
        let headers = self.below(frame.len().min(70));
        match self.below(6) {
            0 => frame.truncate(place),
            1 => frame.extend(core::iter::repeat_n(place as u8, self.below(80))),
            2 => frame.iter_mut().skip(headers).take(1).for_each(|it| *it = place as u8),
            3 => frame.iter_mut().skip(place).take(4).for_each(|it| *it = it.wrapping_add(1)),
            _ => {
                let bit = self.below(8);
                frame.iter_mut().skip(place).take(1).for_each(|it| *it ^= 1 << bit);
            }
        }
    }
}

/// What of a change two runs at different times have in common.
#[must_use]
pub fn timeless(change: &Change) -> (u32, u32, Option<u64>) {
    let value = (change.kind != ChangeKind::LinkBack as u32).then_some(change.value);
    (change.kind, change.slot, value)
}
