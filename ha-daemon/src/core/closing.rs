//! The control connection to a peer closed: its kernel says that nobody holds the other end any more.

use std::time::Duration;

use super::Core;
use super::peer::{Closing, Peer};
use super::time::{Moment, milliseconds, nanoseconds};
use crate::config::{Config, NodeIndex, Times};
use crate::snapshot::{LinkState, Severity};

impl Core {
    /// How long a peer whose control connection closed has time to be heard: two keepalives of the
    /// fastest link on which heartbeats arrive in time.
    pub(super) fn closing_wait(&self, peer: &Peer) -> Duration {
        closing_wait(&self.config, peer)
    }

    pub(super) fn connection_closed(&mut self, node: NodeIndex, incarnation: u64, now: Moment) {
        let Some(wait) = self.peers.get(&node).map(|peer| self.closing_wait(peer)) else { return };
        let Some(peer) = self.peers.get_mut(&node) else { return };
        // One connection for each link: the first one that closes starts the wait.
        if incarnation != peer.incarnation || !peer.alive() || peer.closing.is_some() {
            return;
        }
        let verdict_at = peer.restart.map_or(now.after(wait), |it| it.until.max(now.after(wait)));
        peer.closing = Some(Closing { at: now, verdict_at });
        let text = format!(
            "the control connection of {} closed; without a heartbeat its daemon counts as gone in {}",
            self.node_name(node),
            milliseconds(nanoseconds(wait))
        );
        self.node_note(Severity::Warning, "connection-closed", node, text);
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
