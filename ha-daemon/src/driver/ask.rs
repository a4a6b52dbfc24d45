//! Asking a peer's kernel whether it is alive: probes, and by which way the peer answers them.
//!
//! Only the asker can see what arrives. So when a path has come up it sends one probe by each way, one
//! after the other, and remembers which were answered. After that nothing is sent while all is well.
//! Under suspicion it takes the best of them, and then all in turn: what is known may be old.

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
/// Probes by a known way that stay unanswered before another one is tried.
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
    /// The peer's start that was tested; 0 = none, or it is not heard.
    tested: u64,
    /// Probes under suspicion since the last answer, and that answer.
    unanswered: usize,
    answered_ns: u64,
}

impl Asker {
    /// Positions of the ways that were answered, the best first.
    fn known(&self) -> impl Iterator<Item = usize> {
        let answered = self.answers.map(|answer| answer.is_some());
        (0..WAYS.len()).filter(move |position| answered[*position])
    }

    /// Takes note of the newest answer. One to a probe under suspicion teaches by which way the peer
    /// answers now, and that the ways which were known and tried before are closed.
    fn learn(&mut self, last: Answered) {
        if last.left_ns == self.answered_ns {
            return;
        }
        self.answered_ns = last.left_ns;
        let asked = std::mem::take(&mut self.unanswered);
        if asked == 0 {
            return;
        }
        let mut in_vain = asked / UNANSWERED_MAX;
        for (way, answer) in WAYS.iter().zip(&mut self.answers) {
            let was_tried = answer.is_some() && in_vain > 0;
            in_vain -= usize::from(was_tried);
            if *way == last.way {
                *answer = Some(*way);
            } else if was_tried {
                *answer = None;
            }
        }
    }

    /// The way of the next probe under suspicion: some by each known one, one by each of all, and again.
    fn way(&mut self) -> Way {
        let by_known = self.known().count() * UNANSWERED_MAX;
        let asked = self.unanswered % (by_known + WAYS.len());
        self.unanswered += 1;
        let position = match asked.checked_sub(by_known) {
            Some(turn) => turn,
            None => self.known().nth(asked / UNANSWERED_MAX).unwrap_or_default(),
        };
        WAYS[position]
    }

    /// Has every way tried again as soon as the path is heard.
    pub(super) fn test_again(&mut self) {
        (self.tested, self.trial) = (0, None);
    }

    /// The way that is to be tried now, if any. `last` = what was answered last on a path that is
    /// heard; `first` = position of the best way that its carrier has.
    fn test(&mut self, now_ns: u64, last: Option<Answered>, first: usize) -> Option<Way> {
        let Some(last) = last else {
            // What was known stays: it is what suspicion needs.
            self.test_again();
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
        let position = self.untried.iter().position(|untried| *untried)?;
        self.untried[position] = false;
        self.trial = Some(Trial { position, tries: 0, left_ns: 0, until_ns: 0 });
        Some(WAYS[position])
    }

    fn finish(&mut self, now_ns: u64) {
        self.trial = None;
        self.due_ns = now_ns + TEST_PAUSE.as_nanos() as u64;
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
        let way = match path.carrier {
            Carrier::Serial(_) => Way::Socket,
            Carrier::Network(_) => {
                self.learn(slot);
                self.askers[slot].way()
            }
        };
        self.ask_by(slot, way)
    }

    fn learn(&mut self, slot: usize) {
        if let Some(record) = record(&self.parts, slot) {
            self.askers[slot].learn(Answered::of(record));
        }
    }

    fn ask_by(&self, slot: usize, way: Way) -> Result<u64, String> {
        let left_ns = monotonic_ns();
        let probe = self.probe(slot, way, left_ns);
        self.send_probe(slot, &probe)?;
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

    /// Tries the ways of paths that have come up.
    pub(super) fn test_ways(&mut self, now_ns: u64) {
        for slot in 0..self.parts.paths.len() {
            self.learn(slot);
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
        let services = if shared.services_well.load(Relaxed) { layers::SERVICE } else { 0 };
        let lease = Lease {
            driver_ran_ns: now_ns,
            generation: shared.generation.load(Relaxed),
            phase: u16::from(shared.phase.load(Relaxed)),
            layers: u16::from(services),
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
    fn it_is_tried_again_when_the_peer_starts_anew_or_is_heard_again_and_never_without_a_reason() {
        let mut asker = Asker::default();
        assert_eq!(run(&mut asker, &WAYS, 5_000).len(), 3);
        assert_eq!(asker.test(130_000 * MS, None, 0), None, "not while it is silent");
        assert!(asker.answers.iter().all(Option::is_some), "what was known stays");
        assert_eq!(run(&mut asker, &WAYS, 5_000).len(), 3, "heard again");
        let anew = Answered { believed: 8, ..Answered::default() };
        assert_eq!(asker.test(6_000 * MS, Some(anew), 0), Some(Way::Xdp), "a new start");
        for answering in [&WAYS[..], &[]] {
            let mut asker = Asker::default();
            let tried = run(&mut asker, answering, 5_000).len();
            let last = Answered { left_ns: asker.answered_ns, believed: 7, way: Way::Xdp };
            // A year, by the minute.
            let asked = (1..525_600).filter_map(|it| asker.test(it * 60_000 * MS, Some(last), 0));
            assert_eq!(asked.count(), 0, "after {tried}");
            asker.test_again();
            assert!(asker.test(u64::MAX, Some(last), 0).is_some());
        }
    }

    /// Suspicion of a peer that answers by some ways: the ways of so many probes.
    fn suspect(asker: &mut Asker, answering: &[Way], probes: u64) -> Vec<Way> {
        let mut asked = Vec::new();
        for left_ns in asker.answered_ns + 1..=asker.answered_ns + probes {
            let way = asker.way();
            asked.push(way);
            if answering.contains(&way) {
                asker.learn(Answered { left_ns, way, believed: 7 });
            }
        }
        asked
    }

    fn knowing(ways: [Option<Way>; WAYS.len()]) -> Asker {
        Asker { answers: ways, ..Asker::default() }
    }

    #[test]
    fn suspicion_takes_the_known_ways_and_then_all_in_turn_when_they_stay_unanswered() {
        use Way::{Socket, Tc, Xdp};
        let known = [None, Some(Tc), Some(Socket)];
        let ways = suspect(&mut knowing(known), &[], 9);
        assert_eq!(ways, [Tc, Tc, Socket, Socket, Xdp, Tc, Socket, Tc, Tc]);
        assert_eq!(suspect(&mut knowing(known), &[Tc], 3), [Tc; 3], "an answer begins anew");
        let ways = suspect(&mut Asker::default(), &[], 4);
        assert_eq!(ways, [Xdp, Tc, Socket, Xdp], "nothing is known");
    }

    #[test]
    fn what_answers_under_suspicion_is_known_from_then_on() {
        use Way::{Socket, Tc, Xdp};
        // Since it was tried, the peer's programs went and only its daemon answers.
        let mut asker = knowing([Some(Xdp), Some(Tc), None]);
        let ways = suspect(&mut asker, &[Socket], 9);
        assert_eq!(ways, [Xdp, Xdp, Tc, Tc, Xdp, Tc, Socket, Socket, Socket]);
        assert_eq!(asker.answers, [None, None, Some(Socket)]);
        // One that got lost closes nothing, nor does an answer that comes later than the next probe.
        let mut asker = knowing([Some(Xdp), Some(Tc), None]);
        assert_eq!([asker.way(), asker.way()], [Xdp, Xdp]);
        asker.learn(Answered { left_ns: 1, way: Xdp, believed: 7 });
        assert_eq!(asker.way(), Xdp);
        asker.learn(Answered { left_ns: 3, way: Xdp, believed: 7 });
        assert_eq!(asker.answers, [Some(Xdp), Some(Tc), None]);
        // What was answered before anything was asked is none of it.
        let mut asker = Asker::default();
        asker.learn(Answered { left_ns: 5, way: Tc, believed: 7 });
        assert_eq!(asker.answers, [None; WAYS.len()]);
    }
}
