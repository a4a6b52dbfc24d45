//! Round trips: every few seconds each link that is heard carries a question to the peer's driver and
//! its answer back. Heartbeats cannot measure them, since they are answered by nobody.
//!
//! What is measured is the path: from this host's send call to the kernel's receive stamp of the
//! answer, without the time that the question lay in the peer, which the answer tells. An answer is
//! never answered, and of questions only so many: two nodes cannot keep each other busy.

use std::time::Duration;

use super::Driver;
use crate::core::message::{Message, Probe};
use crate::io::clock::monotonic_ns;

/// Pause between two questions on a link.
const INTERVAL_MIN: Duration = Duration::from_secs(2);
/// The same, in keepalives of the link: a slow line has better things to carry.
const INTERVAL_KEEPALIVES: u32 = 10;
/// Questions that come sooner than this after the last one that was answered are not.
const ANSWER_PAUSE: Duration = Duration::from_millis(100);

/// Round trips of one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RoundTrip {
    pub(super) last_ns: u64,
    pub(super) min_ns: u64,
    pub(super) smoothed_ns: u64,
}

impl RoundTrip {
    fn with(before: Option<Self>, last_ns: u64) -> Self {
        let Some(before) = before else {
            return Self { last_ns, min_ns: last_ns, smoothed_ns: last_ns };
        };
        // RFC 6298 2.3: one eighth of the new, seven of what was known.
        let smoothed_ns = before.smoothed_ns - before.smoothed_ns / 8 + last_ns / 8;
        Self { last_ns, min_ns: before.min_ns.min(last_ns), smoothed_ns }
    }
}

/// What a link's questions and answers have come to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Prober {
    /// Stamp of the question that is open; 0 = none.
    asked_ns: u64,
    /// When the next one is due; 0 = at once.
    due_ns: u64,
    /// Earliest time of the next answer.
    answer_from_ns: u64,
    round_trip: Option<RoundTrip>,
}

impl Prober {
    pub(super) fn round_trip(&self) -> Option<RoundTrip> {
        self.round_trip
    }

    /// The question to send, if one is due.
    fn ask(&mut self, now_ns: u64, interval: Duration) -> Option<Probe> {
        if now_ns < self.due_ns {
            return None;
        }
        self.due_ns = now_ns + interval.as_nanos() as u64;
        self.asked_ns = now_ns;
        Some(Probe::Question { stamp_ns: now_ns })
    }

    /// The answer to a question that arrived at `at_ns`, unless it comes too soon.
    fn answer(&mut self, stamp_ns: u64, at_ns: u64, now_ns: u64) -> Option<Probe> {
        if now_ns < self.answer_from_ns {
            return None;
        }
        self.answer_from_ns = now_ns + ANSWER_PAUSE.as_nanos() as u64;
        let held_ns = u32::try_from(now_ns.saturating_sub(at_ns)).ok()?;
        Some(Probe::Answer { stamp_ns, held_ns })
    }

    /// Takes the answer to the open question; any other is nothing.
    fn answered(&mut self, stamp_ns: u64, held_ns: u32, at_ns: u64) {
        if self.asked_ns == 0 || stamp_ns != self.asked_ns {
            return;
        }
        self.asked_ns = 0;
        let trip_ns = at_ns.saturating_sub(stamp_ns).saturating_sub(u64::from(held_ns));
        self.round_trip = Some(RoundTrip::with(self.round_trip, trip_ns));
    }
}

impl Driver {
    /// Asks on every link that is heard and on which a question is due.
    pub(super) fn ask_probes(&mut self, now_ns: u64) {
        for slot in 0..self.parts.paths.len() {
            let path = &self.parts.paths[slot];
            if !self.core.peers().get(&path.peer).is_some_and(|peer| peer.hears(path.link)) {
                continue;
            }
            let keepalive = self.parts.config.times(path.link).keepalive;
            let interval = INTERVAL_MIN.max(keepalive * INTERVAL_KEEPALIVES);
            if let Some(probe) = self.probers[slot].ask(now_ns, interval) {
                self.send_control(slot, &Message::Probe(probe).encode());
            }
        }
    }

    /// Takes a probe that arrived at `at_ns`, as the kernel says.
    pub(super) fn probed(&mut self, slot: usize, probe: Probe, at_ns: u64) {
        let Some(prober) = self.probers.get_mut(slot) else { return };
        match probe {
            Probe::Question { stamp_ns } => {
                if let Some(answer) = prober.answer(stamp_ns, at_ns, monotonic_ns()) {
                    self.send_control(slot, &Message::Probe(answer).encode());
                }
            }
            Probe::Answer { stamp_ns, held_ns } => prober.answered(stamp_ns, held_ns, at_ns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_question_is_asked_at_once_and_then_every_interval() {
        let mut prober = Prober::default();
        let interval = Duration::from_secs(2);
        let times = [5, 6, 7, 8, 9, 10].map(|second| second * SECOND);
        let asked = times.map(|now| prober.ask(now, interval).is_some());
        assert_eq!(asked, [true, false, true, false, true, false]);
    }

    #[test]
    fn the_time_at_the_peer_does_not_count() {
        let mut prober = Prober::default();
        prober.ask(SECOND, Duration::from_secs(2));
        prober.answered(SECOND, 700, SECOND + 1_000);
        let expected = RoundTrip { last_ns: 300, min_ns: 300, smoothed_ns: 300 };
        assert_eq!(prober.round_trip(), Some(expected));
        prober.ask(9 * SECOND, Duration::from_secs(2));
        prober.answered(9 * SECOND, 100, 9 * SECOND + 1_200);
        let expected = RoundTrip { last_ns: 1_100, min_ns: 300, smoothed_ns: 400 };
        assert_eq!(prober.round_trip(), Some(expected));
    }

    #[test]
    fn an_answer_that_was_not_asked_for_is_nothing() {
        let mut prober = Prober::default();
        prober.answered(0, 0, SECOND);
        prober.ask(SECOND, Duration::from_secs(2));
        prober.answered(SECOND - 1, 0, 2 * SECOND);
        assert_eq!(prober.round_trip(), None);
        prober.answered(SECOND, 0, SECOND + 50);
        prober.answered(SECOND, 0, SECOND + 5_000);
        assert_eq!(prober.round_trip().unwrap().last_ns, 50, "only the first");
    }

    #[test]
    fn questions_in_a_row_get_one_answer() {
        let mut prober = Prober::default();
        let answers = (0..1_000).filter(|step| {
            let now = SECOND + step * 1_000_000;
            prober.answer(7, now - 50, now).is_some()
        });
        assert_eq!(answers.count(), 10, "one in 100 ms");
        let late = prober.answer(7, SECOND, 20 * SECOND);
        assert_eq!(late, None, "held for longer than can be told");
    }
}
