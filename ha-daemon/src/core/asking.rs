//! Ask before you bury: when a peer is late its kernel is asked, on every link that may still carry
//! it, and only enough unanswered questions make a verdict of silence.
//!
//! A question is [`Action::Probe`], answered by the driver with [`Input::ProbeLeft`] or
//! [`Input::ProbeFailed`]; what the peer's kernel says comes with the records, as heartbeats do. The
//! first question of a link leaves in the second half of its window, so that a real death is judged
//! when it always was: deadtime after the last sign of life.
//!
//! [`Input::ProbeLeft`]: super::io::Input::ProbeLeft
//! [`Input::ProbeFailed`]: super::io::Input::ProbeFailed

use std::time::Duration;

use super::detector::{Detector, Thresholds};
use super::io::Action;
use super::peer::Peer;
use super::time::{Moment, milliseconds};
use super::{Core, Times};
use crate::config::{LinkIndex, NodeIndex};
use crate::snapshot::{LinkState, Severity};

/// Questions of a link that are spread over the rest of its window.
const PROBES_PER_WINDOW: u32 = 5;
/// Shortest interval between two questions: sooner, the peer's kernel does not answer.
const PROBE_INTERVAL_MIN: Duration = Duration::from_micros(500);
const _: () = assert!(ha_common::reply::ANSWER_PAUSE_NS < PROBE_INTERVAL_MIN.as_nanos() as u64);
/// Longest interval between two questions.
const PROBE_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// How long the answer to the youngest question is waited for, at most.
pub(super) const ANSWER_WAIT_MAX: Duration = Duration::from_millis(1);

/// How a link's peer is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskingTimes {
    /// Silence after which the first question leaves.
    pub suspicion: Duration,
    /// Interval between two questions.
    pub interval: Duration,
    /// How long questions must have been away before a verdict.
    pub answer_wait: Duration,
}

impl AskingTimes {
    /// For a link with these times.
    #[must_use]
    pub fn of(times: Times) -> Self {
        let Times { keepalive, warntime, deadtime, .. } = times;
        // One heartbeat that got lost is not worth a question; a quarter of the window always is
        // left for them, whatever keepalive and warntime are.
        let suspicion =
            (keepalive * 3 / 2).max(deadtime / 2).min(warntime).min(deadtime - deadtime / 4);
        let interval = (deadtime - suspicion) / PROBES_PER_WINDOW;
        Self {
            suspicion,
            interval: interval.clamp(PROBE_INTERVAL_MIN, PROBE_INTERVAL_MAX),
            answer_wait: ANSWER_WAIT_MAX.min(deadtime / 8),
        }
    }
}

/// What became of the questions on one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asking {
    /// When the last three left, the youngest one first.
    left: [Moment; 3],
    /// When the last one could not leave.
    failed: Option<Moment>,
    /// When the next one may be asked.
    next: Moment,
}

impl Asking {
    /// A question left.
    pub(super) fn left(&mut self, at: Moment) {
        self.left = [at, self.left[0], self.left[1]];
        self.failed = None;
    }

    /// A question could not leave.
    pub(super) fn failed(&mut self, at: Moment) {
        self.failed = Some(at);
    }

    /// Whether the last one since that moment could not leave.
    pub(super) fn fails_since(&self, since: Moment) -> bool {
        self.failed.is_some_and(|at| at.since(since) > 0)
    }

    /// From when on two questions after that moment have gone unanswered for long enough; `None`: too
    /// few left. Of more the youngest may be under way: where deadtime is short, the next one leaves
    /// before it was waited for.
    pub(super) fn complete_at(&self, since: Moment, times: AskingTimes) -> Option<Moment> {
        let [youngest, younger, oldest] = self.left;
        let last = if oldest.since(since) > 0 { younger } else { youngest };
        (younger.since(since) > 0).then(|| last.after(times.answer_wait))
    }
}

impl Peer {
    /// The moment of its youngest sign of life on any link, or the beginning of the window.
    pub(super) fn last_sign(&self, window_from: Moment) -> Option<Moment> {
        self.links.values().filter_map(|link| link.sign(window_from)).max()
    }
}

impl Core {
    pub(super) fn asks_peers(&self) -> bool {
        self.config.detection.ask
    }

    /// From when on every link that was ever heard is without a sign of life for its deadtime.
    pub(super) fn kernel_silent_at(&self, peer: &Peer) -> Option<Moment> {
        let window_from = self.window_of(peer);
        let links = peer.links.iter();
        let silent_at = |(link, it): (&LinkIndex, &Detector)| {
            Some(it.sign(window_from)?.after(peer.times(&self.config, *link).deadtime))
        };
        links.filter_map(silent_at).max()
    }

    /// From when on every link that was ever heard is without a heartbeat for its deadtime.
    pub(super) fn heartbeats_silent_at(&self, peer: &Peer) -> Option<Moment> {
        self.heartbeats_silent_from(peer, self.window_of(peer))
    }

    /// The same, of a silence that counts from `window_from` at the earliest.
    pub(super) fn heartbeats_silent_from(
        &self,
        peer: &Peer,
        window_from: Moment,
    ) -> Option<Moment> {
        let links = peer.links.iter();
        let silent_at = |(link, it): (&LinkIndex, &Detector)| {
            let heard = it.last_seen()?.max(window_from);
            Some(heard.after(peer.times(&self.config, *link).deadtime))
        };
        links.filter_map(silent_at).max()
    }

    /// From when on enough questions since the last sign of life are without an answer; `None`: too
    /// few left so far.
    pub(super) fn asked_at(&self, peer: &Peer) -> Option<Moment> {
        let since = peer.last_sign(self.window_of(peer))?;
        if !self.asks_peers() {
            return Some(since);
        }
        let links = peer.links.iter();
        let complete_at = |(link, it): (&LinkIndex, &Detector)| {
            it.asking.complete_at(since, AskingTimes::of(peer.times(&self.config, *link)))
        };
        // Who tried and could not ask may judge when the peer's daemon would be given up anyway.
        let fails = peer.links.values().any(|it| it.asking.fails_since(since));
        let unasked = fails.then(|| since.after(self.daemon_deadtime(peer)));
        links.filter_map(complete_at).chain(unasked).min()
    }

    /// How long the peer's daemon may not run: no shorter than any deadtime that its links may have, so
    /// that nothing that follows what arrives shortens what a holder counts on.
    pub(super) fn daemon_deadtime(&self, peer: &Peer) -> Duration {
        let deadtimes = peer.links.keys().map(|link| self.config.times(*link).deadtime);
        deadtimes.fold(self.config.cluster.holder_times().daemon_deadtime, Duration::max)
    }

    /// Whether a peer that is alive is heard on no link in time.
    #[must_use]
    pub fn verdict_is_near(&self) -> bool {
        self.peers.values().any(|peer| peer.alive() && !peer.any_link(LinkState::Up))
    }

    /// When the next question on a link is due.
    fn probe_at(&self, peer: &Peer, link: LinkIndex) -> Option<Moment> {
        let window_from = self.window_of(peer);
        let suspect_at = |(link, it): (&LinkIndex, &Detector)| {
            let times = AskingTimes::of(peer.times(&self.config, *link));
            Some(it.sign(window_from)?.after(times.suspicion))
        };
        // Pauses of this node in series put off its window, but not its questions.
        let deadtime = |link: &LinkIndex| peer.times(&self.config, *link).deadtime;
        let anyway_at = |silence| self.awake_for(peer.signs.life, silence);
        let detector = peer.links.get(&link)?;
        let from = match detector.state() {
            LinkState::Up | LinkState::Late => {
                let suspect_at = suspect_at((&link, detector))?.min(anyway_at(deadtime(&link)));
                // Whose connection closed is asked at once.
                peer.closing.map_or(suspect_at, |closing| closing.at.min(suspect_at))
            }
            // A dead link costs nothing while the peer is heard on another one.
            LinkState::Dead => {
                let longest = peer.links.keys().map(deadtime).max()?;
                peer.links.iter().filter_map(suspect_at).max()?.min(anyway_at(longest))
            }
            LinkState::Unknown | LinkState::OneWay => return None,
        };
        Some(from.max(detector.asking.next))
    }

    /// Asks every peer that is suspected and on every link where a question is due.
    pub(super) fn ask_peers(&mut self, now: Moment) {
        if !self.asks_peers() {
            return;
        }
        let mut due = Vec::new();
        for (node, peer) in self.peers.iter().filter(|(_, peer)| peer.alive()) {
            let links = peer.links.keys().copied();
            let links = links.filter(|link| self.probe_at(peer, *link).is_some_and(|at| now >= at));
            due.extend(links.map(|link| (*node, link)));
        }
        for (node, link) in due {
            let Some(peer) = self.peers.get_mut(&node) else { continue };
            let interval = AskingTimes::of(peer.times(&self.config, link)).interval;
            if let Some(detector) = peer.links.get_mut(&link) {
                detector.asking.next = now.after(interval);
                self.actions.push(Action::Probe { peer: node, link });
            }
        }
    }

    /// When [`Self::ask_peers`] has to be called next.
    pub(super) fn asking_deadline(&self) -> Option<Moment> {
        let peers = self.peers.values().filter(|peer| self.asks_peers() && peer.alive());
        let due =
            peers.flat_map(|peer| peer.links.keys().filter_map(|link| self.probe_at(peer, *link)));
        due.min()
    }

    pub(super) fn probe_left(&mut self, node: NodeIndex, link: LinkIndex, at: Moment) {
        if let Some(detector) = self.detector(node, link) {
            detector.asking.left(at);
        }
    }

    pub(super) fn probe_failed(
        &mut self,
        node: NodeIndex,
        link: LinkIndex,
        error: &str,
        now: Moment,
    ) {
        if let Some(detector) = self.detector(node, link) {
            detector.asking.failed(now);
        }
        self.note_could_not_ask(node, link, error);
    }

    /// Tells once for each silence of a peer that no question could leave.
    fn note_could_not_ask(&mut self, node: NodeIndex, link: LinkIndex, error: &str) {
        let Some(peer) = self.peers.get(&node) else { return };
        let since = peer.signs.life.at;
        let none_left = peer
            .links
            .values()
            .all(|it| it.state() == LinkState::Unknown || it.asking.fails_since(since));
        if !none_left || peer.unasked_since == Some(since) {
            return;
        }
        let wait = self.daemon_deadtime(peer);
        let text = format!(
            "cannot ask {} whether it is alive, on any link; no verdict on it before it is silent for {}; \
             last on {}: {error}",
            self.node_name(node),
            milliseconds(super::nanoseconds(wait)),
            self.config.links[link.0].name,
        );
        self.node_note(Severity::Warning, "could-not-ask", node, text);
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.unasked_since = Some(since);
        }
    }

    fn detector(&mut self, node: NodeIndex, link: LinkIndex) -> Option<&mut Detector> {
        self.peers.get_mut(&node)?.links.get_mut(&link)
    }

    pub(super) fn thresholds(&self, peer: &Peer, link: LinkIndex) -> Thresholds {
        Thresholds::of(peer.times(&self.config, link), self.asks_peers())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(keepalive: u64, warntime: u64, deadtime: u64) -> Times {
        let [keepalive, warntime, deadtime] =
            [keepalive, warntime, deadtime].map(Duration::from_micros);
        Times { keepalive, warntime, deadtime, auto: None }
    }

    #[test]
    fn questions_leave_in_the_second_half_of_the_window() {
        // keepalive, warntime, deadtime -> suspicion, interval, wait; microseconds.
        let table = [
            ((10_000, 15_000, 30_000), (15_000, 3_000, 1_000)),
            ((50_000, 100_000, 200_000), (100_000, 20_000, 1_000)),
            ((1_000_000, 15_000_000, 30_000_000), (15_000_000, 1_000_000, 1_000)),
            ((10_000, 12_000, 30_000), (12_000, 3_600, 1_000)), // warned early
            ((20_000, 30_000, 30_000), (22_500, 1_500, 1_000)), // warned never
            ((500, 1_000, 2_000), (1_000, 500, 250)),
        ];
        for ((keepalive, warntime, deadtime), expected) in table {
            let of = AskingTimes::of(times(keepalive, warntime, deadtime));
            let micros = |it: Duration| it.as_micros() as u64;
            assert_eq!(
                (micros(of.suspicion), micros(of.interval), micros(of.answer_wait)),
                expected,
                "{keepalive} {warntime} {deadtime}"
            );
            assert!(of.suspicion + of.interval < Duration::from_micros(deadtime));
        }
    }

    #[test]
    fn two_questions_after_the_last_sign_and_a_wait_make_it_complete() {
        let of = AskingTimes::of(times(10_000, 15_000, 30_000));
        let ms = |it: u64| Moment(it * 1_000_000);
        let mut asking = Asking::default();
        assert_eq!(asking.complete_at(ms(100), of), None);
        asking.left(ms(116));
        assert_eq!(asking.complete_at(ms(100), of), None, "one is not enough");
        asking.left(ms(119));
        assert_eq!(asking.complete_at(ms(100), of), Some(ms(120)));
        assert_eq!(asking.complete_at(ms(116), of), None, "the first one was answered");
        asking.left(ms(122));
        assert_eq!(asking.complete_at(ms(100), of), Some(ms(120)), "one more takes nothing back");
        assert_eq!(asking.complete_at(ms(116), of), Some(ms(123)));
        assert!(!asking.fails_since(ms(100)));
        asking.failed(ms(122));
        assert!(asking.fails_since(ms(100)));
        asking.left(ms(125));
        assert!(!asking.fails_since(ms(100)), "the last one left");
    }
}
