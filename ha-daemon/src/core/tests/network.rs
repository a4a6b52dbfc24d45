//! The modelled network and what a node's kernel keeps of it.

use std::collections::BTreeMap;
use std::time::Duration;

use ha_common::fresh::{Freshness, Window};
use ha_common::wire::SEQUENCE_LAST;

use crate::core::io::Observation;
use crate::core::message::Message;
use crate::core::time::Moment;

/// xorshift64*: small, seeded, the same everywhere.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    /// At least `from`, less than `to`.
    pub(super) fn between(&mut self, from: Duration, to: Duration) -> Duration {
        let span = (to - from).as_nanos() as u64;
        from + Duration::from_nanos(self.next() % span.max(1))
    }

    pub(super) fn percent(&mut self, percent: u8) -> bool {
        self.next() % 100 < u64::from(percent)
    }
}

/// One direction of one link.
pub(super) type Wire = (usize, usize, usize); // from, to, link

/// What is wrong with a direction of a link; nothing by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) cut: bool,
    /// Loss of heartbeats.
    pub(super) beats_lost_percent: u8,
    /// Loss of control messages.
    pub(super) control_lost_percent: u8,
    /// Largest delay on top of the usual one.
    pub(super) delay_max: Duration,
}

#[derive(Debug)]
pub(super) struct Network {
    pub(super) random: Random,
    faults: BTreeMap<Wire, Fault>,
}

impl Network {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), faults: BTreeMap::new() }
    }

    pub(super) fn fault(&mut self, wire: Wire) -> &mut Fault {
        self.faults.entry(wire).or_default()
    }

    pub(super) fn heal(&mut self) {
        self.faults.clear();
    }

    pub(super) fn cut(&self, wire: Wire) -> bool {
        self.faults.get(&wire).is_some_and(|fault| fault.cut)
    }

    /// How long a packet travels; `None` when it gets lost.
    pub(super) fn carry(&mut self, wire: Wire, control: bool) -> Option<Duration> {
        let fault = self.faults.get(&wire).copied().unwrap_or_default();
        let loss = if control { fault.control_lost_percent } else { fault.beats_lost_percent };
        if fault.cut || self.random.percent(loss) {
            return None;
        }
        let extra =
            self.random.between(Duration::ZERO, fault.delay_max.max(Duration::from_nanos(1)));
        Some(self.random.between(Duration::from_micros(50), Duration::from_micros(250)) + extra)
    }
}

/// What the header of a datagram says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) incarnation: u64,
    pub(super) echo: u64,
    pub(super) sequence: u64,
    pub(super) generation: u32,
    pub(super) phase: u8,
    pub(super) layers: u8,
    pub(super) lease_age_ms: u32,
}

impl Header {
    pub(super) fn obituary(self) -> Self {
        Self { sequence: SEQUENCE_LAST, ..self }
    }
}

/// The record of one peer's link, as the kernel keeps it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Record {
    heartbeats: Window,
    control: Window,
    observation: Observation,
}

impl Record {
    pub(super) fn heard(&self) -> u64 {
        self.heartbeats.heard
    }

    pub(super) fn observation(&self) -> Observation {
        self.observation
    }

    /// Takes a heartbeat; says whether the daemon is woken (see `ha_common::judge`).
    pub(super) fn heartbeat(
        &mut self,
        header: Header,
        own: u64,
        now: Moment,
        silence: Duration,
    ) -> bool {
        let window = &mut self.heartbeats;
        match window.judge(header.incarnation, header.sequence, header.echo, own) {
            Freshness::OldIncarnation | Freshness::OldSequence => false,
            Freshness::Greeting => {
                std::mem::replace(&mut window.heard, header.incarnation) != header.incarnation
            }
            freshness @ (Freshness::Next { .. } | Freshness::Proven) => {
                let Header { incarnation, sequence, generation, phase, layers, .. } = header;
                let lease_age_ms = header.lease_age_ms;
                *window = Window { heard: incarnation, believed: incarnation, sequence };
                let before = self.observation;
                self.observation = Observation {
                    last_seen: now,
                    incarnation,
                    generation,
                    phase,
                    layers,
                    lease_age_ms,
                    ..before
                };
                freshness == Freshness::Proven
                    || now.since(before.last_seen) > silence.as_nanos() as i64
                    || (before.generation, before.phase, before.layers)
                        != (generation, phase, layers)
            }
        }
    }

    /// Takes an answer to the question that left at `left`; says whether it is news.
    pub(super) fn answered(
        &mut self,
        left: Moment,
        now: Moment,
        incarnation: u64,
        lease_age_ms: u32,
    ) -> bool {
        let before = self.observation;
        let newer = left.since(before.answered) > 0;
        if newer {
            self.observation = Observation {
                answered: left,
                answer_at: now,
                answer_incarnation: incarnation,
                answer_lease_age_ms: lease_age_ms,
                ..before
            };
        }
        newer
    }

    /// Whether a control message is believed.
    pub(super) fn believes(&mut self, header: Header, own: u64) -> bool {
        let Header { incarnation, sequence, echo, .. } = header;
        let believed = match self.control.judge(incarnation, sequence, echo, own) {
            Freshness::OldIncarnation | Freshness::OldSequence | Freshness::Greeting => false,
            Freshness::Next { .. } | Freshness::Proven => true,
        };
        if believed {
            self.control = Window { heard: incarnation, believed: incarnation, sequence };
        }
        believed
    }
}

/// What travels.
#[derive(Debug, Clone)]
pub(super) enum Packet {
    Heartbeat(Header),
    Control(Header, Message),
    /// A question to the kernel.
    Probe {
        incarnation: u64,
        left: Moment,
    },
    /// What a kernel answers.
    Answer {
        incarnation: u64,
        echo: u64,
        left: Moment,
        lease_age_ms: u32,
    },
}
