//! The layers below the heartbeats and above the kernel: a peer whose kernel answers while its daemon
//! does not run is *stale*, not dead, until `daemon_deadtime`; and a node that did not run for longer
//! than its own lease gives its groups up before it acts.
//!
//! The daemon's lease is the latest moment at which it is known to have run: what its heartbeats and
//! its kernel's answers say, by this node's clock. Whether it beats without deciding (its driver
//! hangs) or decides without being heard (its sender starves) makes no difference here.

use std::time::Duration;

use super::Core;
use super::io::Observation;
use super::ownership::Goal;
use super::peer::Peer;
use super::time::{Moment, milliseconds, nanoseconds};
use crate::config::{GroupIndex, LinkIndex, NodeIndex};
use crate::snapshot::{NodeState, Severity};

/// Age of a lease up to which a daemon that beats counts as running: a driver that has nothing to do
/// renews it every 100 ms.
pub(super) const LEASE_FRESH: Duration = Duration::from_secs(1);

/// An age that did not fit into its field says only "at least".
const LEASE_AGE_SATURATED_MS: u32 = u16::MAX as u32;

/// Why a peer is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Neither heartbeats nor answers for deadtime.
    Silent,
    /// No heartbeats, and no question could leave, for `daemon_deadtime`.
    Unasked,
    /// Its daemon has not run for `daemon_deadtime`.
    DaemonStale,
}

impl Peer {
    /// Takes note of what a heartbeat of the believed incarnation says of its daemon's lease; `anew`:
    /// it is the first one of a start. Says whether the daemon runs.
    pub(super) fn renew_lease(&mut self, seen: &Observation, anew: bool) -> bool {
        if anew {
            self.lease = seen.last_seen;
        }
        self.extend_lease(seen.last_seen, seen.lease_age_ms);
        seen.last_seen.since(self.lease) < nanoseconds(LEASE_FRESH)
    }

    /// At `at` its lease was that old.
    fn extend_lease(&mut self, at: Moment, age_ms: u32) {
        if age_ms < LEASE_AGE_SATURATED_MS {
            let ran = Moment(at.0.saturating_sub(u64::from(age_ms) * 1_000_000));
            self.lease = self.lease.max(ran);
        }
    }

    /// Whether the newest that was told of it says that its daemon does not run. How long ago that was
    /// is the business of whoever judges silence: heartbeats may be seconds apart.
    fn hangs(&self) -> bool {
        let told = self.last_sign(Moment::default());
        told.is_some_and(|at| at.since(self.lease) >= nanoseconds(LEASE_FRESH))
    }

    /// Whether it is stale, and took part before.
    pub(super) fn is_stale_member(&self) -> bool {
        self.state == NodeState::Stale && self.known.is_some()
    }
}

impl Core {
    /// Takes note of what a peer's kernel answered. An answer for another start of its daemon is
    /// nothing.
    pub(super) fn answered(&mut self, node: NodeIndex, link: LinkIndex, seen: &Observation) {
        let started_at = self.started_at;
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let believed = seen.answer_incarnation == peer.incarnation
            && peer.incarnation > peer.ended
            && seen.answered.since(started_at) > 0;
        if believed && let Some(detector) = peer.links.get_mut(&link) {
            // Alive when it was asked, at least; its lease was that old when the answer came, at most. The
            // holder gives up by its own clock: to take its lease for older would be to act before it does.
            detector.answered(seen.answered);
            peer.extend_lease(seen.answer_at, seen.answer_lease_age_ms);
            peer.closing = peer.closing.and_then(|it| it.answered(seen));
        }
    }

    /// The earliest moment at which this node may judge by what it was told: a pause of its own, or an
    /// excused restart of the peer, has to be over for a full window.
    fn window_ends_at(&self, peer: &Peer) -> Moment {
        // What is heard on a slow link alone is heard in its time only.
        let longest = peer.deadtimes(&self.config).max();
        let deadtime = longest.unwrap_or(self.config.cluster.deadtime);
        self.window_of(peer).after(deadtime)
    }

    /// When its daemon's lease is over.
    fn lease_ends_at(&self, peer: &Peer) -> Moment {
        let length = self.daemon_deadtime(peer);
        let ends_at = peer.lease.after(length).max(self.window_ends_at(peer));
        ends_at.min(self.awake_and_looked(peer.signs.lease, length))
    }

    /// From when on its heartbeats are missing.
    fn unheard_at(&self, peer: &Peer) -> Option<Moment> {
        let anyway_at = self.awake_and_looked(peer.signs.beat, self.daemon_deadtime(peer));
        self.heartbeats_silent_at(peer).map(|at| at.min(anyway_at))
    }

    /// Why a peer is dead by now, if it is.
    pub(super) fn verdict(&self, peer: &Peer, now: Moment) -> Option<Cause> {
        let silent_at = self.kernel_silent_at(peer)?;
        let silent = now >= silent_at && self.asked_at(peer).is_some_and(|at| now >= at);
        let anyway = self.silent_anyway_at(peer).is_some_and(|at| now >= at);
        if silent || anyway {
            let window_from = self.window_of(peer);
            let since =
                peer.last_sign(window_from).filter(|_| silent).unwrap_or(peer.signs.life.at);
            let fails = |it: &super::Detector| it.asking.fails_since(since);
            let unasked = self.asks_peers() && peer.links.values().any(fails);
            return Some(if unasked { Cause::Unasked } else { Cause::Silent });
        }
        // Where nothing tells that its kernel lives on, silence alone decides, a moment later.
        let unheard = self.unheard_at(peer).is_some_and(|at| now >= at);
        let answers = now < silent_at && self.gave_a_sign(peer, now);
        let vouched = peer.hangs() || unheard && answers;
        let lease_over = now >= self.lease_ends_at(peer);
        (vouched && lease_over).then_some(Cause::DaemonStale)
    }

    /// Judges the daemon of a peer that is alive.
    pub(super) fn judge_daemon(&mut self, node: NodeIndex, now: Moment) {
        let Some(peer) = self.peers.get(&node) else { return };
        let Some(beats_until) = self.unheard_at(peer) else { return };
        let was_stale = peer.state == NodeState::Stale;
        // A pause of this node is no heartbeat: who was stale is stale until it is heard.
        let silent_at = self.heartbeats_silent_from(peer, self.excused_until(peer));
        let unheard = now >= beats_until || was_stale && silent_at.is_some_and(|at| now >= at);
        let answers = self.kernel_silent_at(peer).is_some_and(|at| now < at);
        // After a pause of this node its peer may have paused with it, and says so first.
        let hangs = peer.hangs() && (was_stale || now >= self.window_ends_at(peer));
        // A stale one that does not answer any more is stale until its verdict.
        let stale = hangs || unheard && (answers || was_stale);
        let mute = stale && now >= self.mute_at(peer).unwrap_or(now);
        let heard_ns = peer.last_seen().map_or(0, |last| now.since(last));
        let ran_ns = now.since(peer.lease);
        let back = peer.known.map_or(NodeState::Joining, |_| NodeState::Up);
        let Some(peer) = self.peers.get_mut(&node) else { return };
        peer.mute = mute;
        if stale == was_stale {
            return;
        }
        peer.state = if stale { NodeState::Stale } else { back };
        let (name, ran) = (self.node_name(node), milliseconds(ran_ns));
        if stale {
            let text = if unheard {
                let heard = milliseconds(heard_ns);
                format!(
                    "node {name}: daemon stale: no heartbeat for {heard}, its daemon ran {ran} ago, \
                     its kernel answers; nothing is taken from it yet"
                )
            } else {
                format!(
                    "node {name}: daemon stale: it beats, but its daemon has not run for {ran}; \
                     nothing is taken from it yet"
                )
            };
            self.node_note(Severity::Warning, "node-stale", node, text);
        } else {
            let text =
                format!("node {name} is up: its daemon runs again; nothing was taken from it");
            self.node_note(Severity::Info, "node-up", node, text);
        }
    }

    /// From when on nobody waits for a stale peer's word.
    fn mute_at(&self, peer: &Peer) -> Option<Moment> {
        let heard = peer.last_seen()?.max(self.window_of(peer));
        let wait = self.daemon_deadtime(peer);
        Some(heard.after(wait).min(self.awake_and_looked(peer.signs.beat, wait)))
    }

    /// When peers have to be judged next, besides their links.
    pub(super) fn verdicts_deadline(&self) -> Option<Moment> {
        let peers = self.peers.values().filter(|peer| peer.alive());
        let moments = peers.flat_map(|peer| {
            let silent_at = self.kernel_silent_at(peer);
            let verdict_at = silent_at.and_then(|at| Some(at.max(self.asked_at(peer)?)));
            let anyway_at = self.silent_anyway_at(peer);
            let unheard_at = self.unheard_at(peer);
            let hangs_at = peer.hangs().then(|| self.window_ends_at(peer));
            let lease = Some(self.lease_ends_at(peer));
            [verdict_at, anyway_at, unheard_at, hangs_at, self.mute_at(peer), lease]
        });
        moments.flatten().filter(|at| *at > self.read_at).min()
    }

    // ---- this node's own lease ---------------------------------------------------------------

    /// This node did not run for longer than its lease: others may have taken what it owns, and its
    /// addresses may be gone.
    pub(super) fn lapse(&mut self, length_ns: i64, now: Moment) {
        self.lapsed_at = Some(now);
        // Before anything was looked at: what is known of others is as old as the pause is long.
        self.begin_window(now);
        let lease = milliseconds(nanoseconds(self.config.cluster.holder_lease()));
        let owned = self.groups.entries.iter().enumerate();
        let owned =
            owned.filter(|(_, it)| it.local.claim_state().owns() && it.local.goal == Goal::Own);
        let owned: Vec<_> = owned.map(|(group, _)| GroupIndex(group)).collect();
        for group in owned {
            let text = format!(
                "this node did not run for {}, longer than its lease of {lease}: others may have taken \
                 {}; it gives it up before it does anything else",
                milliseconds(length_ns),
                self.config.groups[group.0].name
            );
            self.release(group, Severity::Error, "lease-lost", text);
        }
    }

    /// What others did in the meantime is known once a full window has passed and everybody who still
    /// counts was heard in it.
    pub(super) fn end_lapse(&mut self, now: Moment) {
        let Some(lapsed_at) = self.lapsed_at else { return };
        let heard = |peer: &Peer| peer.last_seen().is_some_and(|last| last.since(lapsed_at) > 0);
        let heard = self.peers.values().filter(|peer| peer.counts()).all(heard);
        if heard && self.lapse_window_ends_at().is_some_and(|at| now >= at) {
            self.lapsed_at = None;
        }
    }

    /// When [`Self::end_lapse`] has to be called next.
    pub(super) fn lapse_deadline(&self) -> Option<Moment> {
        self.lapse_window_ends_at().filter(|at| *at > self.handled_at)
    }

    fn lapse_window_ends_at(&self) -> Option<Moment> {
        Some(self.lapsed_at?.after(self.longest_deadtime()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(last_seen_ms: u64, lease_age_ms: u32) -> Observation {
        Observation {
            last_seen: Moment(last_seen_ms * 1_000_000),
            lease_age_ms,
            ..Observation::default()
        }
    }

    #[test]
    fn a_lease_never_goes_back_and_a_saturated_age_says_nothing() {
        let mut peer = Peer::new(std::iter::empty());
        assert!(peer.renew_lease(&seen(100, 60_000), true), "a start is a sign of its daemon");
        assert_eq!(peer.lease, Moment(100_000_000));
        assert!(peer.renew_lease(&seen(900, 300), false));
        assert_eq!(peer.lease, Moment(600_000_000));
        assert!(peer.renew_lease(&seen(1_000, 500), false), "older news");
        assert_eq!(peer.lease, Moment(600_000_000));
        assert!(!peer.renew_lease(&seen(1_600, 1_000), false));
        assert!(!peer.renew_lease(&seen(200_000, LEASE_AGE_SATURATED_MS), false));
        assert_eq!(peer.lease, Moment(600_000_000));
    }
}
