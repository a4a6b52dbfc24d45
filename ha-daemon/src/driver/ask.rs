//! Asking a peer's kernel whether it is alive: probes, and by which way the peer answers them.
//!
//! Only the asker can see what arrives. So after a path came up, and every few minutes, it sends one
//! probe by each way, one after the other, and remembers which were answered. Under suspicion it
//! takes the best of them; while none is known, the ways take turns.

use std::sync::atomic::Ordering::Relaxed;

use ha_common::wire::{FIXED_BYTES, Header, Kind, Phase, Way, layers};

use super::Driver;
use crate::io::clock::monotonic_ns;
use crate::io::paths::Carrier;

/// The ways of a network path, the best first.
const WAYS: [Way; 3] = [Way::Xdp, Way::Tc, Way::Socket];

/// What is known of the ways of one path.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Asker {
    /// By position in `WAYS`: who answered a probe that asked for that way.
    answers: [Option<Way>; WAYS.len()],
    /// Whose turn it is while no way is known.
    turn: usize,
}

impl Asker {
    /// The way of the next probe.
    fn way(&mut self) -> Way {
        let known = WAYS.iter().zip(self.answers).find(|(_, answered)| answered.is_some());
        if let Some((way, _)) = known {
            return *way;
        }
        self.turn = (self.turn + 1) % WAYS.len();
        WAYS[(self.turn + WAYS.len() - 1) % WAYS.len()]
    }
}

impl Driver {
    /// Sends one probe on a path, by the best known way; when it left.
    ///
    /// # Errors
    /// Why it did not leave.
    pub fn ask(&mut self, slot: usize) -> Result<u64, String> {
        let path = self.parts.paths.get(slot).ok_or("there is no such path")?;
        let way = match path.carrier {
            Carrier::Serial(_) => Way::Socket,
            Carrier::Network(_) => self.askers[slot].way(),
        };
        self.ask_by(slot, way)
    }

    fn ask_by(&self, slot: usize, way: Way) -> Result<u64, String> {
        let left_ns = monotonic_ns();
        let probe = self.probe(slot, way, left_ns);
        self.send_fixed(slot, &probe)?;
        Ok(left_ns)
    }

    /// A probe of that path, signed.
    fn probe(&self, slot: usize, way: Way, sent_ns: u64) -> [u8; FIXED_BYTES] {
        let path = &self.parts.paths[slot];
        let shared = &self.parts.shared;
        let words = &shared.paths[slot];
        let sequence = words.probe_sequence.fetch_add(1, Relaxed) + 1;
        let signer = self.parts.keys.signer(words.signing.get(), sequence);
        let link = if words.hears.load(Relaxed) { layers::LINK } else { 0 };
        let header = Header {
            kind: Kind::Probe,
            receiver: self.parts.config.nodes[path.peer.0].id,
            link: path.key.link,
            key: signer.number,
            way,
            body_bytes: 0,
            echo: words.echo.load(Relaxed),
            sequence,
            sent_ns,
            keepalive_us: self.parts.config.times(path.link).keepalive.as_micros() as u32,
            generation: shared.generation.load(Relaxed),
            phase: Phase::from_wire(shared.phase.load(Relaxed)),
            layers: link | layers::KERNEL | layers::DAEMON,
            lease_age_ms: 0,
            ..self.parts.header
        };
        let mut fixed = header.encode();
        signer.key.sign(&mut fixed);
        fixed.to_bytes()
    }
}
