//! A peer as this node sees it: detectors of its links, its state, what it claims.

use std::collections::BTreeMap;
use std::time::Duration;

use ha_common::wire::Phase;

use super::detector::Detector;
use super::message::{Claim, State};
use super::time::Moment;
use crate::config::LinkIndex;
use crate::snapshot::{LinkState, NodeState};

/// First pause before an unacknowledged state is sent again.
pub const RESEND_FIRST: Duration = Duration::from_millis(10);
/// Longest pause between two of them.
pub const RESEND_MAX: Duration = Duration::from_secs(1);

/// The control connection closed and the peer's heartbeats are awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closing {
    /// When it closed.
    pub at: Moment,
    /// When its daemon is gone unless a heartbeat came.
    pub verdict_at: Moment,
}

/// One peer.
#[derive(Debug, Clone)]
pub struct Peer {
    /// State as shown.
    pub state: NodeState,
    /// Incarnation that is believed; 0 = none.
    pub incarnation: u64,
    /// Incarnation that said goodbye or is known to be gone: only a later one is heard again.
    pub ended: u64,
    /// What it says of itself.
    pub phase: Phase,
    /// Detectors by link.
    pub links: BTreeMap<LinkIndex, Detector>,
    /// Its groups as of its last state message.
    pub claims: Vec<Claim>,
    /// Incarnation and generation of that message.
    pub known: Option<(u64, u32)>,
    /// Generation that its heartbeats carry.
    pub generation: u32,
    /// Generation of this node's state that it has received.
    pub acknowledged: Option<u32>,
    /// When this node's state is sent to it again.
    pub resend_at: Option<Moment>,
    /// Pause before that.
    pub resend_pause: Duration,
    /// See [`Closing`].
    pub closing: Option<Closing>,
}

impl Peer {
    /// A peer that was not heard yet.
    #[must_use]
    pub fn new(links: impl Iterator<Item = LinkIndex>) -> Self {
        Self {
            state: NodeState::Unknown,
            incarnation: 0,
            ended: 0,
            phase: Phase::Starting,
            links: links.map(|link| (link, Detector::default())).collect(),
            claims: Vec::new(),
            known: None,
            generation: 0,
            acknowledged: None,
            resend_at: None,
            resend_pause: RESEND_FIRST,
            closing: None,
        }
    }

    /// Whether it is heard.
    #[must_use]
    pub fn alive(&self) -> bool {
        matches!(self.state, NodeState::Joining | NodeState::Up | NodeState::Late)
    }

    /// Whether its claims are known and it takes part in decisions.
    #[must_use]
    pub fn synced(&self) -> bool {
        matches!(self.state, NodeState::Up | NodeState::Late)
    }

    /// Whether what it says about its groups is not the newest.
    #[must_use]
    pub fn outdated(&self) -> bool {
        self.alive() && self.known != Some((self.incarnation, self.generation))
    }

    /// The newest stamp of all links.
    #[must_use]
    pub fn last_seen(&self) -> Option<Moment> {
        self.links.values().filter_map(Detector::last_seen).max()
    }

    /// Whether any link is in that state.
    #[must_use]
    pub fn any_link(&self, state: LinkState) -> bool {
        self.links.values().any(|link| link.state() == state)
    }

    /// Its claim on a group.
    #[must_use]
    pub fn claim(&self, group: u32) -> Option<&Claim> {
        self.claims.iter().find(|claim| claim.group == group)
    }

    /// Takes over what a state message says.
    pub fn learn(&mut self, incarnation: u64, state: &State) {
        self.claims.clone_from(&state.claims);
        self.known = Some((incarnation, state.generation));
        self.generation = state.generation;
    }

    /// It is gone for this incarnation: its claims are void and only a later start is heard.
    pub fn end(&mut self, state: NodeState) {
        self.state = state;
        self.ended = self.incarnation.max(self.ended);
        self.claims.clear();
        self.fall_silent();
        for link in self.links.values_mut() {
            link.forget();
        }
    }

    /// Nothing more is expected of it or sent to it.
    pub fn fall_silent(&mut self) {
        self.known = None;
        self.acknowledged = None;
        self.resend_at = None;
        self.closing = None;
    }
}
