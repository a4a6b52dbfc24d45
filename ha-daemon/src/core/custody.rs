//! A peer whose daemon is gone while its host lives: its keeper keeps the groups that wait for the next
//! daemon (`on_daemon_death = "wait"`) until the holder's lease is over. Nobody takes them before
//! `daemon_deadtime` has passed, or the keeper says that they are free, or the next daemon does.

use super::Core;
use super::message::{Claim, ClaimState, Custody, Wish};
use super::time::{Moment, milliseconds, nanoseconds};
use crate::config::{NodeIndex, OnDaemonDeath, OnDoubt};
use crate::snapshot::{NodeState, Severity};

impl Core {
    /// A keeper tells what it keeps. Its word counts more than what the daemon said last.
    pub(super) fn custody(&mut self, node: NodeIndex, custody: &Custody, now: Moment) {
        let wait = self.config.cluster.holder_times().daemon_deadtime;
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let wish_of = |group| peer.claim(group).map_or(Wish::None, |claim| claim.wish);
        let kept = |&(group, term): &(u32, u64)| Claim {
            group,
            state: ClaimState::Started,
            eligible: false,
            wish: wish_of(group),
            term,
        };
        let claims: Vec<Claim> = custody.groups.iter().map(kept).collect();
        peer.end(NodeState::DaemonGone);
        peer.custody = (!claims.is_empty()).then(|| now.after(wait));
        peer.claims = claims;
        let (name, count) = (self.node_name(node), custody.groups.len());
        let wait = milliseconds(nanoseconds(wait));
        let (severity, text) = if custody.announced {
            let text = format!(
                "the daemon of {name} ended and is to come back: {count} of its groups go on without \
                 it for {wait} at most"
            );
            (Severity::Warning, text)
        } else {
            let text = format!(
                "the daemon of {name} is gone: {count} of its groups go on there and wait for it for \
                 {wait} at most; its keeper took all other addresses off that host"
            );
            (Severity::Error, text)
        };
        self.node_note(severity, "daemon-gone", node, text);
    }

    /// A daemon is gone, or may be, and nobody said what became of its groups: those that wait for the next
    /// daemon may be kept by a keeper whose word got lost.
    pub(super) fn keep_what_waits(&mut self, node: NodeIndex, since: Moment) {
        let until = since.after(self.config.cluster.holder_times().daemon_deadtime);
        let config = std::sync::Arc::clone(&self.config);
        let waits = |claim: &Claim| {
            let group = config.groups.iter().find(|group| group.id == claim.group);
            claim.state.owns() && group.is_some_and(|it| it.on_daemon_death == OnDaemonDeath::Wait)
        };
        let hold = config.cluster.on_doubt == OnDoubt::Hold;
        if let Some(peer) = self.peers.get_mut(&node)
            && !hold
        {
            peer.claims.retain(waits);
            peer.custody = (!peer.claims.is_empty()).then_some(until);
        }
    }

    /// The keeper has taken off what it kept.
    pub(super) fn custody_is_over(&mut self, node: NodeIndex) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        peer.custody = None;
        // A daemon that is heard by now speaks for itself.
        if peer.alive() {
            return;
        }
        peer.claims.clear();
        let text = format!(
            "the daemon of {} did not come back: its keeper took the rest off that host",
            self.node_name(node)
        );
        self.node_note(Severity::Error, "custody-ended", node, text);
    }

    /// Ends a custody that has lasted long enough.
    pub(super) fn end_custody(&mut self, node: NodeIndex, now: Moment) {
        let hold = self.config.cluster.on_doubt == OnDoubt::Hold;
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.custody.is_none_or(|until| now < until) {
            return;
        }
        peer.custody = None;
        // What the next daemon, which is heard, has to say will come. And in doubt, claims stand
        // until somebody says otherwise.
        if peer.alive() || hold {
            return;
        }
        peer.claims.clear();
        let text = format!("the daemon of {} did not come back in time", self.node_name(node));
        self.node_note(Severity::Error, "custody-ended", node, text);
    }
}
