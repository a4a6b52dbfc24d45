//! The detector: turns the silence of one link into a state.
//!
//! `up -> late` after warntime, `late -> dead` after deadtime, back to `up` with a newer stamp.
//! Silence counts from the last heartbeat, or from the end of this node's own last pause when that
//! is later: who did not run may not judge before a fresh full window has passed.

use std::time::Duration;

use super::time::{Moment, nanoseconds};
use crate::snapshot::LinkState;

/// Thresholds of silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Late after.
    pub warntime: Duration,
    /// Dead after.
    pub deadtime: Duration,
}

/// The detector of one link to one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detector {
    state: LinkState,
    last_seen: Option<Moment>,
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
        Self { state: LinkState::Unknown, last_seen: None }
    }
}

impl Detector {
    /// As an earlier core had it.
    pub(super) fn resume(state: LinkState, last_seen: Option<Moment>) -> Self {
        Self { state, last_seen }
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
        let state = if silence_ns >= nanoseconds(thresholds.deadtime) {
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
            LinkState::Late => Some(from.after(thresholds.deadtime)),
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

    const THRESHOLDS: Thresholds =
        Thresholds { warntime: Duration::from_millis(15), deadtime: Duration::from_millis(30) };

    fn ms(milliseconds: u64) -> Moment {
        Moment(milliseconds * 1_000_000)
    }

    fn detector(state: LinkState) -> Detector {
        Detector { state, last_seen: Some(ms(100)) }
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
