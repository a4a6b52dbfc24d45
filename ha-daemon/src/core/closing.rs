//! The control connection to a peer closed: its kernel says that nobody holds the other end any more.
//!
//! Or a path says so that was cut, or somebody who forges resets. A daemon that lives contradicts soon:
//! by a heartbeat, or by what its kernel answers when it is asked how long ago its driver ran. So the
//! kernel is asked at once, and for another connection, too. The daemon is gone when nothing contradicts
//! for two keepalives and the kernel says so: it refuses that connection, since nobody listens, on whatever
//! link; or it has answered all that time that the daemon does not run, for longer than any living driver
//! stands still.
//! Where the kernel says nothing at all, silence is judged as any other, and is no more than that: who is
//! taken for dead by it may live and own what it owned.

use std::time::Duration;

use super::Core;
use super::io::Observation;
use super::peer::{Closing, Peer};
use super::time::{Moment, milliseconds, nanoseconds};
use crate::config::{Config, NodeIndex, Times};
use crate::snapshot::{LinkState, NodeState, Severity};

/// How long a daemon whose connection closed has not run when it is gone. A driver that lives runs every
/// 100 ms ([`crate::driver::WAKE_MAX`]); virtual CPUs were seen to stand still for 30 to 130 ms.
pub(super) const GONE_AFTER: Duration = Duration::from_millis(250);

impl Closing {
    /// Takes note of what the peer's kernel answered; `None`: its daemon has run since the close.
    pub(super) fn answered(self, seen: &Observation) -> Option<Self> {
        // Told in whole milliseconds, and read after the question had left.
        let age_ns = (i64::from(seen.answer_lease_age_ms) + 1) * 1_000_000;
        let asked_ns = seen.answered.since(self.at);
        if asked_ns > age_ns {
            return None;
        }
        if asked_ns <= 0 {
            return Some(self);
        }
        let (first, last) = self.answers.unwrap_or((seen.answer_at, seen.answered));
        Some(Self { answers: Some((first, last.max(seen.answered))), ..self })
    }
}

impl Core {
    /// How long a peer whose control connection closed has time to be heard: two keepalives of the
    /// fastest link on which heartbeats arrive in time.
    pub(super) fn closing_wait(&self, peer: &Peer) -> Duration {
        closing_wait(&self.config, peer)
    }

    pub(super) fn connection_closed(&mut self, node: NodeIndex, incarnation: u64, now: Moment) {
        let Some(wait) = self.peers.get(&node).map(|peer| self.closing_wait(peer)) else { return };
        let ask = self.asks_peers();
        let Some(peer) = self.peers.get_mut(&node) else { return };
        // One connection for each link: the first one that closes starts the wait.
        if incarnation != peer.incarnation || !peer.alive() || peer.closing.is_some() {
            return;
        }
        let verdict_at = peer.restart.map_or(now.after(wait), |it| it.until.max(now.after(wait)));
        peer.closing = Some(Closing { at: now, verdict_at, answers: None, refused: false });
        let name = self.node_name(node);
        let text = if ask {
            format!(
                "the control connection of {name} closed; its kernel is asked whether its daemon runs"
            )
        } else {
            let wait = milliseconds(nanoseconds(wait));
            format!(
                "the control connection of {name} closed; without a heartbeat its daemon counts as \
                 gone in {wait}"
            )
        };
        self.node_note(Severity::Warning, "connection-closed", node, text);
    }

    /// The peer's kernel refuses another connection in the place of the one that closed.
    pub(super) fn connection_refused(&mut self, node: NodeIndex, incarnation: u64) {
        let peer = self.peers.get_mut(&node).filter(|peer| peer.incarnation == incarnation);
        if let Some(closing) = peer.and_then(|peer| peer.closing.as_mut()) {
            closing.refused = true;
        }
    }

    /// Judges a peer whose connection closed; whether its daemon is gone.
    pub(super) fn judge_closing(&mut self, node: NodeIndex, now: Moment) -> bool {
        let Some(peer) = self.peers.get(&node) else { return false };
        let Some(closing) = peer.closing else { return false };
        let Some(why) = self.gone(peer, closing, now) else { return false };
        self.keep_what_waits(node, closing.at);
        self.end_unless_heard(node, NodeState::DaemonGone);
        let text = format!(
            "the daemon of {} is gone: its connection closed {} ago and {why}; nobody confirmed that \
             its addresses are off",
            self.node_name(node),
            milliseconds(now.since(closing.at))
        );
        self.node_note(Severity::Error, "daemon-gone", node, text);
        true
    }

    /// What says, beside its closed connection, that a peer's daemon is gone by now.
    fn gone(&self, peer: &Peer, closing: Closing, now: Moment) -> Option<String> {
        let due = now >= closing.verdict_at;
        if due && !self.asks_peers() {
            return Some("no heartbeat came since".to_owned());
        }
        if due && closing.refused {
            return Some("no heartbeat came since, nor does anybody listen there".to_owned());
        }
        let wait = nanoseconds(self.closing_wait(peer));
        if due
            && let Some((first, last)) = closing.answers
            && last.since(first) >= wait
            && last.since(peer.lease) >= nanoseconds(GONE_AFTER)
        {
            let ran = milliseconds(now.since(peer.lease));
            return Some(format!("it has not run for {ran}, while its kernel answers"));
        }
        None
    }

    /// When [`Self::judge_closing`] has to be called next, besides for answers.
    pub(super) fn closing_deadline(&self, peer: &Peer) -> Option<Moment> {
        peer.closing.map(|closing| closing.verdict_at).filter(|at| *at > self.read_at)
    }
}

/// How long a peer whose control connection closed has time to be heard: two keepalives of the
/// fastest link on which heartbeats arrive in time.
pub(super) fn closing_wait(config: &Config, peer: &Peer) -> Duration {
    let up = peer.links.iter().filter(|(_, link)| link.state() == LinkState::Up);
    let wait = |times: Times| times.deadtime.min(times.keepalive * 2);
    let waits = up.map(|(link, _)| wait(config.times(*link)));
    waits.min().unwrap_or_else(|| wait(config.cluster.times()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Moment {
        Moment(milliseconds * 1_000_000)
    }

    /// A close at 100 ms, and an answer to a question that left at `left`.
    fn answered(before: Option<(u64, u64)>, left: u64, age_ms: u32) -> Option<Closing> {
        let answers = before.map(|(first, last)| (ms(first), ms(last)));
        let closing = Closing { at: ms(100), verdict_at: ms(120), answers, refused: false };
        closing.answered(&Observation {
            answered: ms(left),
            answer_at: ms(left + 1),
            answer_lease_age_ms: age_ms,
            ..Observation::default()
        })
    }

    #[test]
    fn an_answer_contradicts_a_close_when_the_daemon_ran_after_it_for_certain() {
        // Its daemon ended just before the close; the age was rounded down.
        assert!(answered(None, 105, 4).is_some());
        assert!(answered(None, 105, 5).is_some());
        assert_eq!(answered(None, 105, 3), None);
        assert_eq!(answered(Some((106, 105)), 150, 0), None);
    }

    #[test]
    fn answers_count_from_the_first_that_was_asked_after_the_close_to_the_last() {
        let answers = |before, left| answered(before, left, 300).unwrap().answers;
        assert_eq!(answers(None, 100), None, "asked before");
        assert_eq!(answers(None, 103), Some((ms(104), ms(103))));
        assert_eq!(answers(Some((104, 103)), 109), Some((ms(104), ms(109))));
        assert_eq!(answers(Some((104, 109)), 106), Some((ms(104), ms(109))), "another link's");
    }
}
