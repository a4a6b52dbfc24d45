//! How long this node was awake since the last sign of life of a peer.
//!
//! A pause begins a fresh window, and pauses in series, each before the last one's window is over,
//! would put a verdict off for ever. So the time in between is counted: who was not heard for
//! `daemon_deadtime` of it, and left questions without an answer, is judged whatever the window says.
//! A long pause counts for nothing here either.
//!
//! Who listens before it takes anything, since it has just started or its interface just came back, must
//! have listened for a window after a pause, too: that is put off in the same way, and as long.

use std::time::Duration;

use ha_common::wire::Phase;

use super::Core;
use super::asking::{ANSWER_WAIT_MAX, AskingTimes};
use super::io::Input;
use super::peer::Peer;
use super::time::{Moment, nanoseconds};
use crate::config::{LinkIndex, NodeIndex};
use crate::names::InterfaceName;
use crate::snapshot::NodeState;

/// A clock that stands still in this node's pauses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Awake {
    settled_ns: u64,
    /// Since the last pause. A pause may be noticed late: until the next one this is provisional.
    since_pause_ns: u64,
    paused_at: Moment,
}

impl Awake {
    fn ns(&self) -> u64 {
        self.settled_ns.saturating_add(self.since_pause_ns)
    }

    fn pass(&mut self, length_ns: i64) {
        self.since_pause_ns = self.since_pause_ns.saturating_add(length_ns.max(0) as u64);
    }

    fn pause(&mut self, length_ns: i64, now: Moment) {
        let awake_ns = self.since_pause_ns.saturating_sub(length_ns.max(0) as u64);
        self.settled_ns = self.settled_ns.saturating_add(awake_ns);
        self.since_pause_ns = 0;
        self.paused_at = now;
    }
}

/// A moment, and what the clock of the time awake showed then, at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) at: Moment,
    awake_ns: u64,
}

impl Mark {
    /// What it marks happened again at `at`, and is known since that clock shows `awake_ns`.
    fn advance(&mut self, at: Moment, awake_ns: u64) {
        let passed_ns = at.since(self.at);
        if passed_ns > 0 {
            self.at = at;
            self.awake_ns = awake_ns.min(self.awake_ns.saturating_add(passed_ns as u64));
        }
    }
}

/// The newest signs of a peer, on whatever link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Signs {
    /// Of its kernel: a heartbeat or an answer.
    pub(super) life: Mark,
    /// A heartbeat.
    pub(super) beat: Mark,
    /// That its daemon ran.
    pub(super) lease: Mark,
}

impl Core {
    /// Counts the time until this input, before it is handled.
    pub(super) fn count_awake(&mut self, input: &Input, now: Moment) {
        self.awake.pass(now.since(self.handled_at));
        if let Input::OwnPause { length_ns: paused_ns, .. }
        | Input::LeaseLost { silent_ns: paused_ns } = input
        {
            self.awake.pause(*paused_ns, now);
        }
    }

    /// A pause of this node is over: what came in during it is looked at before anything is concluded from
    /// silence.
    pub(super) fn begin_window(&mut self, now: Moment) {
        self.window_from = now;
        self.reach.distrust(now);
        self.listen_on(now);
    }

    /// Whoever still listens before it takes anything does so for a full window from `now` on.
    pub(super) fn listen_on(&mut self, now: Moment) {
        let until = now.after(self.longest_deadtime());
        let (initdead, awake_ns) = (self.config.cluster.initdead, self.awake.ns());
        // Pauses in series put it off by so much of the time awake, as they do verdicts.
        let listened = initdead + self.config.cluster.daemon_deadtime;
        self.interfaces.listen_on(until, awake_ns, listened);
        let unheard = self.peers.values().any(|peer| peer.state == NodeState::Unknown);
        let listens = self.phase == Phase::Starting || unheard;
        if listens && Duration::from_nanos(awake_ns) < listened {
            let from = Moment(until.0.saturating_sub(nanoseconds(initdead) as u64));
            self.initdead_from = self.initdead_from.max(from);
        }
    }

    /// An interface is up again; whether that is news.
    pub(super) fn interface_is_up(&mut self, name: InterfaceName, now: Moment) -> bool {
        let until = now.after(self.config.cluster.initdead);
        self.interfaces.up(name, until, self.awake.ns())
    }

    /// The longest deadtime that any link may have: a window in which every peer is heard that lives.
    pub(super) fn longest_deadtime(&self) -> Duration {
        let links = (0..self.config.links.len()).map(LinkIndex);
        let deadtimes = links.map(|link| self.config.times(link).deadtime);
        deadtimes.fold(self.config.cluster.deadtime, Duration::max)
    }

    /// Marks the newest signs of a peer. What excuses its silence counts as one; pauses of this node do
    /// not.
    pub(super) fn mark_signs(&mut self, node: NodeIndex, now: Moment) {
        let awake_ns = self.awake.ns();
        let Some(peer) = self.peers.get(&node) else { return };
        let excused = self.excused_until(peer).min(now);
        let life = peer.last_sign(excused);
        let Some(peer) = self.peers.get_mut(&node) else { return };
        peer.signs.life.advance(life.unwrap_or(excused), awake_ns);
        peer.signs.beat.advance(peer.last_seen().unwrap_or(excused).max(excused), awake_ns);
        peer.signs.lease.advance(peer.lease.max(excused), awake_ns);
    }

    /// When this node has been awake for `length` since the mark, if it does not pause until then; the
    /// moment of the last input, when it has been.
    pub(super) fn awake_for(&self, mark: Mark, length: Duration) -> Moment {
        let passed = Duration::from_nanos(self.awake.ns().saturating_sub(mark.awake_ns));
        self.handled_at.after(length.saturating_sub(passed))
    }

    /// The same, but never before what came in during the last pause was looked at.
    pub(super) fn awake_and_looked(&self, mark: Mark, length: Duration) -> Moment {
        self.awake_for(mark, length).max(self.awake.paused_at.after(ANSWER_WAIT_MAX))
    }

    /// From when on the silence of a peer is long enough whatever the window says; `None`: it was not
    /// asked yet.
    pub(super) fn silent_anyway_at(&self, peer: &Peer) -> Option<Moment> {
        let since = peer.signs.life.at;
        let silent_at = self.awake_and_looked(peer.signs.life, self.daemon_deadtime(peer));
        if !self.asks_peers() || peer.links.values().any(|it| it.asking.fails_since(since)) {
            return Some(silent_at);
        }
        let complete_at = peer.links.iter().filter_map(|(link, it)| {
            it.asking.complete_at(since, AskingTimes::of(peer.times(&self.config, *link)))
        });
        Some(silent_at.max(complete_at.min()?))
    }

    /// Whether its kernel gave a sign of life within deadtime of time awake.
    pub(super) fn gave_a_sign(&self, peer: &Peer, now: Moment) -> bool {
        let longest = peer.deadtimes(&self.config).max();
        longest.is_some_and(|deadtime| now < self.awake_for(peer.signs.life, deadtime))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Moment {
        Moment(milliseconds * 1_000_000)
    }

    #[test]
    fn pauses_count_for_nothing_however_late_they_are_noticed() {
        let mut awake = Awake::default();
        awake.pass(5_000_000);
        awake.pass(3_000_000_000);
        assert_eq!(awake.ns(), 3_005_000_000);
        awake.pass(1_000_000);
        awake.pause(3_000_000_000, ms(3_006));
        assert_eq!(awake.ns(), 6_000_000, "the pause was in the middle of a turn");
        // One that goes on is told with every turn, from its beginning on.
        for length in 1..100 {
            awake.pass(1_000_000);
            awake.pause(length * 1_000_000, ms(3_006));
        }
        assert_eq!(awake.ns(), 6_000_000);
        awake.pass(2_000_000);
        assert_eq!(awake.ns(), 8_000_000);
    }

    #[test]
    fn a_mark_never_counts_more_than_the_clock_showed_when_it_was_known() {
        let mut mark = Mark::default();
        mark.advance(ms(100), 40);
        assert_eq!(mark, Mark { at: ms(100), awake_ns: 40 });
        // News of just after the last mark that come late, as after a pause.
        mark.advance(Moment(ms(100).0 + 10), 5_000);
        assert_eq!(mark.awake_ns, 50);
        mark.advance(ms(99), 6_000);
        assert_eq!((mark.at, mark.awake_ns), (Moment(ms(100).0 + 10), 50));
    }
}
