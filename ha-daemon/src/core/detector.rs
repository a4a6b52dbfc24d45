//! The detector: turns the silence of one link into a state.
//!
//! `up -> late` after warntime, `late -> dead` after deadtime, back to `up` with a newer stamp.
//! Silence counts from the last heartbeat, or from the end of this node's own last pause when that
//! is later: who did not run may not judge before a fresh full window has passed. An answer of the
//! peer's kernel is a sign of life too ([`super::asking`]): a link with answers alone stays late.

use std::time::Duration;

use super::asking::{Asking, AskingTimes};
use super::time::{Moment, nanoseconds};
use crate::config::Times;
use crate::snapshot::LinkState;

/// Thresholds of silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Late after.
    pub warntime: Duration,
    /// Dead after.
    pub deadtime: Duration,
    /// How its peer is asked before, if it is.
    pub asking: Option<AskingTimes>,
}

impl Thresholds {
    /// Of a link with these times, whose peer is asked or not.
    #[must_use]
    pub fn of(times: Times, ask: bool) -> Self {
        let Times { warntime, deadtime, .. } = times;
        Self { warntime, deadtime, asking: ask.then(|| AskingTimes::of(times)) }
    }
}

/// The detector of one link to one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detector {
    state: LinkState,
    last_seen: Option<Moment>,
    /// When that question left which the peer's kernel answered last.
    answered: Option<Moment>,
    pub(super) asking: Asking,
}

/// A change of a link's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// The state before.
    pub from: LinkState,
    /// The state now.
    pub to: LinkState,
    /// How long the silence was that led to it or that it ended, nanoseconds.
    pub silence_ns: i64,
}

impl Default for Detector {
    fn default() -> Self {
        Self::resume(LinkState::Unknown, None)
    }
}

impl Detector {
    /// As an earlier core had it.
    pub(super) fn resume(state: LinkState, last_seen: Option<Moment>) -> Self {
        Self { state, last_seen, answered: None, asking: Asking::default() }
    }

    /// The state as of the last call of [`Self::judge`] or [`Self::seen`].
    #[must_use]
    pub fn state(&self) -> LinkState {
        self.state
    }

    /// When the last heartbeat arrived.
    #[must_use]
    pub fn last_seen(&self) -> Option<Moment> {
        self.last_seen
    }

    /// Takes note of the newest stamp. An unchanged or older one changes nothing.
    pub fn seen(&mut self, stamp: Moment) -> Option<Transition> {
        if self.last_seen.is_some_and(|last| stamp.since(last) <= 0) {
            return None;
        }
        let silence_ns = self.last_seen.map_or(0, |last| stamp.since(last));
        self.last_seen = Some(stamp);
        self.change(LinkState::Up, silence_ns)
    }

    /// Takes note of an answer of the peer's kernel to a question that left at `left`. It ends no state
    /// of silence.
    pub fn answered(&mut self, left: Moment) {
        self.answered = self.answered.max(Some(left));
    }

    /// The last sign of life, or the beginning of the window; `None`: never heard.
    #[must_use]
    pub fn sign(&self, window_from: Moment) -> Option<Moment> {
        Some(self.last_seen?.max(window_from).max(self.answered.unwrap_or_default()))
    }

    /// When the silence of the kernel is long enough for a verdict on the link, and asked about.
    fn dead_at(&self, window_from: Moment, thresholds: Thresholds) -> Option<Moment> {
        let sign = self.sign(window_from)?;
        let silent_at = sign.after(thresholds.deadtime);
        match thresholds.asking {
            // Where no question leaves, nothing is to be waited for.
            Some(times) if !self.asking.fails_since(sign) => {
                Some(self.asking.complete_at(sign, times)?.max(silent_at))
            }
            Some(_) | None => Some(silent_at),
        }
    }

    /// Forgets the peer: it left, or its daemon is gone, and only a new start is believed.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Judges the silence at `now`; `window_from` is the end of this node's own last pause.
    pub fn judge(
        &mut self,
        now: Moment,
        window_from: Moment,
        thresholds: Thresholds,
    ) -> Option<Transition> {
        let last_seen = self.last_seen?;
        let silence_ns = now.since(last_seen.max(window_from));
        let dead_at = self.dead_at(window_from, thresholds);
        let state = if dead_at.is_some_and(|at| now.since(at) >= 0) {
            LinkState::Dead
        } else if silence_ns >= nanoseconds(thresholds.warntime) {
            LinkState::Late
        } else {
            return None;
        };
        // Only a heartbeat ends a state of silence; a pause does not revive the dead.
        if self.state == LinkState::Dead {
            return None;
        }
        self.change(state, now.since(last_seen))
    }

    /// When [`Self::judge`] has to be called next.
    #[must_use]
    pub fn deadline(&self, window_from: Moment, thresholds: Thresholds) -> Option<Moment> {
        let from = self.last_seen?.max(window_from);
        match self.state {
            LinkState::Up => Some(from.after(thresholds.warntime)),
            // Without enough questions, the next one comes first.
            LinkState::Late => self.dead_at(window_from, thresholds),
            LinkState::Unknown | LinkState::Dead | LinkState::OneWay => None,
        }
    }

    fn change(&mut self, to: LinkState, silence_ns: i64) -> Option<Transition> {
        let from = std::mem::replace(&mut self.state, to);
        (from != to).then_some(Transition { from, to, silence_ns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const THRESHOLDS: Thresholds = Thresholds {
        warntime: Duration::from_millis(15),
        deadtime: Duration::from_millis(30),
        asking: None,
    };

    fn asking() -> Thresholds {
        let keepalive = Duration::from_millis(10);
        let Thresholds { warntime, deadtime, .. } = THRESHOLDS;
        Thresholds::of(Times { keepalive, warntime, deadtime, auto: None }, true)
    }

    fn ms(milliseconds: u64) -> Moment {
        Moment(milliseconds * 1_000_000)
    }

    fn detector(state: LinkState) -> Detector {
        Detector::resume(state, Some(ms(100)))
    }

    /// Every state, judged at every kind of moment.
    #[test]
    fn transition_table() {
        use LinkState::{Dead, Late, Up};
        // (state, now, window_from) -> (state after, transition reported)
        let table = [
            ((Up, 100, 0), (Up, false)),
            ((Up, 99, 0), (Up, false)), // a stamp from the future
            ((Up, 114, 0), (Up, false)),
            ((Up, 115, 0), (Late, true)),
            ((Up, 129, 0), (Late, true)),
            ((Up, 130, 0), (Dead, true)),
            ((Up, 900, 0), (Dead, true)),
            ((Up, 900, 899), (Up, false)), // just paused: no verdict
            ((Up, 900, 880), (Late, true)),
            ((Up, 900, 870), (Dead, true)),
            ((Late, 115, 0), (Late, false)),
            ((Late, 130, 0), (Dead, true)),
            ((Late, 130, 110), (Late, false)),
            ((Late, 900, 899), (Late, false)),
            ((Dead, 900, 0), (Dead, false)),
            ((Dead, 900, 899), (Dead, false)), // a pause does not revive
        ];
        for ((state, now, window), (after, reported)) in table {
            let mut detector = detector(state);
            let transition = detector.judge(ms(now), ms(window), THRESHOLDS);
            assert_eq!(detector.state(), after, "{state:?} at {now}, window from {window}");
            assert_eq!(transition.is_some(), reported, "{state:?} at {now}, window from {window}");
        }
    }

    /// Questions that left, the last one that failed and the last answer, against the moment.
    #[test]
    fn transition_table_of_a_link_that_is_asked() {
        use LinkState::{Dead, Late};
        type Case = (&'static [u64], Option<u64>, Option<u64>, u64, u64);
        let table: [(Case, LinkState); 14] = [
            // (left, failed, answered, now, window_from)
            ((&[], None, None, 129, 0), Late),
            ((&[], None, None, 130, 0), Late), // nothing was asked
            ((&[], None, None, 900, 0), Late),
            ((&[127], None, None, 130, 0), Late), // one question is not enough
            ((&[124, 127], None, None, 129, 0), Late),
            ((&[124, 127], None, None, 130, 0), Dead),
            ((&[124, 130], None, None, 130, 0), Late), // the youngest is under way
            ((&[124, 130], None, None, 131, 0), Dead),
            ((&[124, 127], None, Some(115), 130, 0), Late), // its kernel answers
            ((&[124, 127], None, Some(115), 145, 0), Dead), // and does not any more
            ((&[115, 118], None, Some(118), 148, 0), Late), // nothing asked since the answer
            ((&[], Some(127), None, 130, 0), Dead),         // nothing leaves
            ((&[], Some(127), None, 150, 128), Late),       // own pause
            ((&[124, 127], None, None, 158, 128), Late),    // all asked before the own pause
        ];
        for ((left, failed, answered, now, window), after) in table {
            let mut detector = detector(Late);
            left.iter().for_each(|at| detector.asking.left(ms(*at)));
            failed.into_iter().for_each(|at| detector.asking.failed(ms(at)));
            answered.into_iter().for_each(|at| detector.answered(ms(at)));
            detector.judge(ms(now), ms(window), asking());
            let case = (left, failed, answered, now, window);
            assert_eq!(detector.state(), after, "{case:?}");
        }
    }

    #[test]
    fn an_answer_ends_no_state_of_silence_and_an_older_one_changes_nothing() {
        for state in [LinkState::Late, LinkState::Dead] {
            let mut detector = detector(state);
            detector.answered(ms(150));
            detector.answered(ms(140));
            assert_eq!(detector.state(), state);
            assert_eq!(detector.sign(ms(0)), Some(ms(150)));
        }
        let mut unknown = Detector::default();
        unknown.answered(ms(150));
        assert_eq!(unknown.sign(ms(0)), None, "what was never heard is not judged");
    }

    #[test]
    fn a_heartbeat_brings_every_state_up() {
        for state in [LinkState::Late, LinkState::Dead] {
            let mut detector = detector(state);
            let transition = detector.seen(ms(150)).unwrap();
            assert_eq!((transition.from, transition.to), (state, LinkState::Up));
            assert_eq!(transition.silence_ns, 50_000_000);
        }
        let mut unknown = Detector::default();
        assert_eq!(unknown.seen(ms(1)).unwrap().from, LinkState::Unknown);
    }

    #[test]
    fn an_old_stamp_changes_nothing() {
        let mut detector = detector(LinkState::Dead);
        assert_eq!(detector.seen(ms(100)), None);
        assert_eq!(detector.seen(ms(99)), None);
        assert_eq!(detector.state(), LinkState::Dead);
    }

    #[test]
    fn what_was_never_heard_is_not_judged() {
        let mut unknown = Detector::default();
        assert_eq!(unknown.judge(ms(1_000_000), ms(0), THRESHOLDS), None);
        assert_eq!(unknown.deadline(ms(0), THRESHOLDS), None);
    }

    proptest! {
        /// Judged at its own deadlines, a silent link is dead exactly deadtime after the later of
        /// its last heartbeat and the end of the pause, never before.
        #[test]
        fn silence_is_judged_exactly_at_its_deadlines(seen in 1u64..10_000, pause in 0u64..20_000) {
            let (seen, window) = (Moment(seen * 1000), Moment(pause * 1000));
            let mut detector = Detector::default();
            detector.seen(seen);
            let mut steps = 0;
            while let Some(deadline) = detector.deadline(window, THRESHOLDS) {
                let before = detector.clone();
                prop_assert_eq!(detector.judge(Moment(deadline.0 - 1), window, THRESHOLDS), None);
                prop_assert_eq!(&detector, &before);
                prop_assert!(detector.judge(deadline, window, THRESHOLDS).is_some());
                steps += 1;
                if detector.state() == LinkState::Dead {
                    prop_assert_eq!(deadline, seen.max(window).after(THRESHOLDS.deadtime));
                }
            }
            prop_assert_eq!(steps, 2);
        }
    }
}
