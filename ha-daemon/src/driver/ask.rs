//! Asking a peer's kernel whether it is alive: probes, and by which way the peer answers them.
//!
//! Only the asker can see what arrives. So after a path came up, and every few minutes, it sends one
//! probe by each way, one after the other, and remembers which were answered. Under suspicion it
//! takes the best of them; while none is known, the ways take turns.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ha_common::maps::Lease;
use ha_common::record::Record;
use ha_common::wire::{FIXED_BYTES, Header, Kind, Phase, Way, layers};

use super::{Driver, record};
use crate::io::clock::monotonic_ns;
use crate::io::paths::{Carrier, Path};

/// The ways of a network path, the best first.
const WAYS: [Way; 3] = [Way::Xdp, Way::Tc, Way::Socket];
/// Pause between two probes of a test: more than the peer's pause between two answers.
const TEST_PAUSE: Duration = Duration::from_millis(2);
/// How long a test's probe waits for its answer, at least; on a slow link two deadtimes.
const TEST_WAIT_MIN: Duration = Duration::from_millis(200);
/// Probes that one way gets in a test before it counts as closed.
const TRIES: u32 = 3;
/// Pause between two tests of the ways, one after the other: each is tried every six minutes.
const RETEST_PAUSE: Duration = Duration::from_secs(120);
/// Probes that stay unanswered before the next known way is tried.
const UNANSWERED_MAX: usize = 2;

/// A way that is being tried.
#[derive(Debug, Clone, Copy)]
struct Trial {
    /// Position in `WAYS`.
    position: usize,
    tries: u32,
    left_ns: u64,
    until_ns: u64,
}

/// What the peer answered last, from the path's record.
#[derive(Debug, Clone, Copy, Default)]
struct Answered {
    /// When the probe left.
    left_ns: u64,
    /// Who answered it.
    way: Way,
    /// Incarnation whose heartbeats are believed.
    believed: u64,
}

impl Answered {
    fn of(record: Record<'_>) -> Self {
        Self {
            left_ns: record.answered_ns(),
            way: Way::from_wire(record.answer_way() as u8),
            believed: record.believed(),
        }
    }
}

/// What is known of the ways of one path.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Asker {
    /// By position in `WAYS`: who answered a probe that asked for that way.
    answers: [Option<Way>; WAYS.len()],
    /// Positions that are still to be tried.
    untried: [bool; WAYS.len()],
    trial: Option<Trial>,
    /// When the next probe of a test may leave.
    due_ns: u64,
    /// The way that the next repeated test tries.
    retest: usize,
    /// The peer's start that was tested; 0 = none, or it is not heard.
    tested: u64,
    /// Probes under suspicion since the last answer, and that answer.
    unanswered: usize,
    answered_ns: u64,
}

impl Asker {
    /// The way of the next probe under suspicion.
    fn way(&mut self, answered_ns: u64) -> Way {
        if answered_ns != self.answered_ns {
            (self.answered_ns, self.unanswered) = (answered_ns, 0);
        }
        let asked = self.unanswered;
        self.unanswered += 1;
        let known = WAYS.iter().zip(self.answers).filter(|(_, answer)| answer.is_some());
        let count = known.clone().count();
        if count == 0 {
            return WAYS[asked % WAYS.len()];
        }
        let mut known = known.map(|(way, _)| *way);
        known.nth(asked / UNANSWERED_MAX % count).unwrap_or(Way::Xdp)
    }

    /// The way that is to be tried now, if any. `last` = what was answered last on a path that is
    /// heard; `first` = position of the best way that its carrier has.
    fn test(&mut self, now_ns: u64, last: Option<Answered>, first: usize) -> Option<Way> {
        let Some(last) = last else {
            // What was known stays: it is what suspicion needs.
            (self.tested, self.trial) = (0, None);
            return None;
        };
        if self.tested != last.believed {
            self.tested = last.believed;
            self.trial = None;
            self.untried = std::array::from_fn(|position| position >= first);
            self.due_ns = now_ns;
        }
        if let Some(trial) = self.trial {
            if last.left_ns == trial.left_ns {
                self.answers[trial.position] = Some(last.way);
                self.finish(now_ns);
            } else if now_ns < trial.until_ns {
                return None;
            } else if trial.tries >= TRIES {
                self.answers[trial.position] = None;
                self.finish(now_ns);
            }
        }
        if now_ns < self.due_ns {
            return None;
        }
        if let Some(trial) = self.trial {
            return Some(WAYS[trial.position]);
        }
        let position = self.untried.iter().position(|untried| *untried).unwrap_or_else(|| {
            self.retest = (self.retest + 1) % WAYS.len();
            self.retest.max(first)
        });
        self.untried[position] = false;
        self.trial = Some(Trial { position, tries: 0, left_ns: 0, until_ns: 0 });
        Some(WAYS[position])
    }

    fn finish(&mut self, now_ns: u64) {
        self.trial = None;
        let more = self.untried.iter().any(|untried| *untried);
        let pause = if more { TEST_PAUSE } else { RETEST_PAUSE };
        self.due_ns = now_ns + pause.as_nanos() as u64;
    }

    /// The probe of a test left, or could not.
    fn tried(&mut self, left_ns: u64, wait: Duration) {
        let Some(trial) = &mut self.trial else { return };
        trial.tries += 1;
        trial.left_ns = left_ns;
        trial.until_ns = left_ns + wait.as_nanos() as u64;
    }
}

fn first_way(path: &Path) -> usize {
    match path.carrier {
        Carrier::Serial(_) => WAYS.len() - 1,
        Carrier::Network(_) => 0,
    }
}

impl Driver {
    /// Sends one probe on a path, by the best known way; when it left.
    ///
    /// # Errors
    /// Why it did not leave.
    pub fn ask(&mut self, slot: usize) -> Result<u64, String> {
        let path = self.parts.paths.get(slot).ok_or("there is no such path")?;
        let answered_ns = record(&self.parts, slot).map_or(0, Record::answered_ns);
        let way = match path.carrier {
            Carrier::Serial(_) => Way::Socket,
            Carrier::Network(_) => self.askers[slot].way(answered_ns),
        };
        self.ask_by(slot, way)
    }

    fn ask_by(&self, slot: usize, way: Way) -> Result<u64, String> {
        let left_ns = monotonic_ns();
        let probe = self.probe(slot, way, left_ns);
        self.send_fixed(slot, &probe)?;
        Ok(left_ns)
    }

    /// Who answers probes on a path, the best first, as words.
    pub(super) fn answers_via(&self, slot: usize) -> Vec<String> {
        let is_serial = self.parts.paths[slot].network().is_none();
        let mut ways: Vec<Way> = self.askers[slot].answers.iter().flatten().copied().collect();
        ways.sort();
        ways.dedup();
        let word = |way: &Way| match way {
            Way::Xdp => Some("xdp"),
            Way::Tc => Some("tc"),
            Way::Socket if is_serial => Some("serial"),
            Way::Socket => Some("socket"),
            Way::None => None,
        };
        ways.iter().filter_map(word).map(str::to_owned).collect()
    }

    /// Tries the ways of paths that are heard.
    pub(super) fn test_ways(&mut self, now_ns: u64) {
        for slot in 0..self.parts.paths.len() {
            let path = &self.parts.paths[slot];
            let peer = self.core.peers().get(&path.peer);
            let is_heard = peer.is_some_and(|peer| peer.hears(path.link));
            let last = record(&self.parts, slot).filter(|_| is_heard).map(Answered::of);
            let first = first_way(path);
            let wait = TEST_WAIT_MIN.max(self.parts.config.times(path.link).deadtime * 2);
            let Some(way) = self.askers[slot].test(now_ns, last, first) else { continue };
            // One that does not leave is one that is not answered.
            let left_ns = self.ask_by(slot, way).unwrap_or_else(|_| monotonic_ns());
            self.askers[slot].tried(left_ns, wait);
        }
    }

    /// Renews the lease that kernel and socket answer probes with.
    pub(super) fn renew_lease(&self, now_ns: u64) {
        let shared = &self.parts.shared;
        let lease = Lease {
            driver_ran_ns: now_ns,
            generation: shared.generation.load(Relaxed),
            phase: u32::from(shared.phase.load(Relaxed)),
        };
        if let Some(kernel) = &self.parts.kernel {
            kernel.renew_lease(lease);
        }
        self.parts.table.renew_lease(lease);
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

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const WAIT: Duration = Duration::from_millis(200);

    /// A peer that answers probes by some ways, for so long.
    fn run(asker: &mut Asker, answering: &[Way], until_ms: u64) -> Vec<Way> {
        let mut last = Answered { believed: 7, ..Answered::default() };
        let mut asked = Vec::new();
        for now_ns in (1..until_ms).map(|it| it * MS) {
            if let Some(way) = asker.test(now_ns, Some(last), 0) {
                asker.tried(now_ns, WAIT);
                asked.push(way);
                if answering.contains(&way) {
                    (last.left_ns, last.way) = (now_ns, way);
                }
            }
        }
        asked
    }

    #[test]
    fn every_way_is_tried_once_when_it_answers_and_three_times_when_not() {
        let mut asker = Asker::default();
        let asked = run(&mut asker, &[Way::Tc, Way::Socket], 5_000);
        assert_eq!(asked, [Way::Xdp, Way::Xdp, Way::Xdp, Way::Tc, Way::Socket]);
        assert_eq!(asker.answers, [None, Some(Way::Tc), Some(Way::Socket)]);
        assert_eq!(run(&mut Asker::default(), &WAYS, 5_000), WAYS);
    }

    #[test]
    fn it_is_tried_again_when_the_peer_starts_anew_and_every_few_minutes_by_one_packet() {
        let mut asker = Asker::default();
        assert_eq!(run(&mut asker, &WAYS, 5_000).len(), 3);
        assert_eq!(asker.test(130_000 * MS, None, 0), None, "not while it is silent");
        assert!(asker.answers.iter().all(Option::is_some), "what was known stays");
        assert_eq!(run(&mut asker, &WAYS, 5_000).len(), 3);
        let asked = run(&mut Asker::default(), &WAYS, 500_000);
        assert_eq!(asked.len(), 3 + 4, "{asked:?}");
    }

    #[test]
    fn suspicion_takes_the_best_known_way_and_the_next_when_it_stays_unanswered() {
        let mut asker =
            Asker { answers: [None, Some(Way::Tc), Some(Way::Socket)], ..Asker::default() };
        let ways: Vec<Way> = (0..5).map(|_| asker.way(0)).collect();
        assert_eq!(ways, [Way::Tc, Way::Tc, Way::Socket, Way::Socket, Way::Tc]);
        assert_eq!(asker.way(9), Way::Tc, "an answer begins anew");
        let mut unknown = Asker::default();
        let ways: Vec<Way> = (0..4).map(|_| unknown.way(0)).collect();
        assert_eq!(ways, [Way::Xdp, Way::Tc, Way::Socket, Way::Xdp]);
    }
}
