//! What is known of a link besides its silence: whether the peer hears this node on it too, and how
//! often it failed.
//!
//! A peer says in each heartbeat whether it hears this node on that link. When it does not, for
//! long enough, the link is one-way: it is shown as such and told of, and nothing else follows here.
//! Each side judges by what it hears itself; the side that hears nothing on any link takes over,
//! and tells the other over whatever still carries its messages.

use std::time::Duration;

use ha_common::wire::layers;
use serde::{Deserialize, Serialize};

use super::Core;
use super::io::Observation;
use super::peer::Peer;
use super::time::{Moment, milliseconds};
use crate::config::{LinkIndex, NodeIndex};
use crate::snapshot::{LinkState, Severity};

/// A peer has at least this time to say that it hears this node: it says so when its driver has run,
/// which on a busy machine takes longer than a short deadtime.
const DEAF_MIN: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Standing {
    /// Since when the peer, which is heard, says that it does not hear this node.
    deaf_since: Option<Moment>,
    /// That lasted for too long.
    one_way: bool,
    /// How often the link was dead since this daemon's start.
    pub failures: u64,
}

impl Standing {
    /// Whether the peer is heard and does not hear this node.
    #[must_use]
    pub fn is_one_way(&self) -> bool {
        self.one_way
    }

    /// Takes note of a heartbeat; says whether it ends that the link is one-way.
    fn told(&mut self, seen: &Observation) -> bool {
        if seen.layers & layers::LINK == 0 {
            self.deaf_since.get_or_insert(seen.last_seen);
            return false;
        }
        self.deaf_since = None;
        std::mem::take(&mut self.one_way)
    }

    /// Says whether the link has just become one-way.
    fn judge(&mut self, now: Moment, window_from: Moment, deadtime: Duration) -> bool {
        let due = self.deadline(window_from, deadtime).is_some_and(|due| now >= due);
        self.one_way |= due;
        due
    }

    fn deadline(&self, window_from: Moment, deadtime: Duration) -> Option<Moment> {
        let since = self.deaf_since.filter(|_| !self.one_way)?;
        Some(since.max(window_from).after(deadtime.max(DEAF_MIN)))
    }

    /// Nothing is heard any more: nothing is known of the other direction either.
    pub(super) fn fall_silent(&mut self) {
        *self = Self { failures: self.failures, ..Self::default() };
    }
}

impl Peer {
    /// The state of a link as it is shown.
    #[must_use]
    pub fn shown(&self, link: LinkIndex) -> LinkState {
        if self.hears(link) && self.standings.get(&link).is_some_and(Standing::is_one_way) {
            return LinkState::OneWay;
        }
        self.links.get(&link).map_or(LinkState::Unknown, |it| it.state())
    }
}

impl Core {
    /// Takes note of what a heartbeat says of the other direction.
    pub(super) fn heard_there(&mut self, node: NodeIndex, link: LinkIndex, seen: &Observation) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.standings.get_mut(&link).is_some_and(|standing| standing.told(seen)) {
            let name = self.link_name(node, link);
            let text = format!("link {name} works in both directions again");
            self.link_note(Severity::Info, "link-both-ways", node, link, text);
        }
    }

    /// Judges the other direction of every link that is heard.
    pub(super) fn judge_directions(&mut self, node: NodeIndex, now: Moment) {
        let (config, window_from) = (&self.config, self.window_from);
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let mut one_way = Vec::new();
        for (link, detector) in &peer.links {
            let Some(standing) = peer.standings.get_mut(link) else { continue };
            let deadtime = config.times(*link).deadtime;
            match detector.state() {
                LinkState::Up | LinkState::Late => {
                    if standing.judge(now, window_from, deadtime) {
                        one_way.push((*link, standing.deaf_since.map_or(0, |it| now.since(it))));
                    }
                }
                LinkState::Unknown | LinkState::Dead | LinkState::OneWay => standing.fall_silent(),
            }
        }
        for (link, deaf_ns) in one_way {
            let text = format!(
                "link {} is one-way: {} is heard, but has not heard this node on it for {}; look for \
                 a filter or a broken direction",
                self.link_name(node, link),
                self.node_name(node),
                milliseconds(deaf_ns)
            );
            self.link_note(Severity::Warning, "link-one-way", node, link, text);
        }
    }

    /// When [`Self::judge_directions`] has to be called next.
    pub(super) fn directions_deadline(&self) -> Option<Moment> {
        let peers = self.peers.values();
        let standings =
            peers.flat_map(|peer| peer.standings.iter().filter(|(link, _)| peer.hears(**link)));
        let deadline = |(link, standing): (&LinkIndex, &Standing)| {
            standing.deadline(self.window_from, self.config.times(*link).deadtime)
        };
        standings.filter_map(deadline).min()
    }

    pub(super) fn link_name(&self, node: NodeIndex, link: LinkIndex) -> String {
        format!("{}:{}", self.node_name(node), self.config.links[link.0].name)
    }

    pub(super) fn link_note(
        &mut self,
        severity: Severity,
        kind: &str,
        node: NodeIndex,
        link: LinkIndex,
        message: String,
    ) {
        let note = self.note(severity, kind, message);
        note.node = Some(node);
        note.link = Some(link);
    }
}
