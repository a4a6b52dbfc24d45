//! A peer as this node sees it: detectors of its links, its state, what it claims.

use std::collections::BTreeMap;
use std::time::Duration;

use ha_common::wire::Phase;
use serde::{Deserialize, Serialize};

use super::auto::Estimator;
use super::awake::Signs;
use super::detector::Detector;
use super::io::Observation;
use super::message::{Claim, State};
use super::restart::Restart;
use super::standing::Standing;
use super::time::Moment;
use crate::config::LinkIndex;
use crate::snapshot::{LinkState, NodeState};

/// A question that comes again within this time came over another link: it is answered already.
const SAME_QUESTION: Duration = Duration::from_millis(5);

/// First pause before an unacknowledged state is sent again.
pub const RESEND_FIRST: Duration = Duration::from_millis(10);
/// Longest pause between two of them.
pub const RESEND_MAX: Duration = Duration::from_secs(1);

/// The control connection closed and a sign of the peer's daemon is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// When it closed.
    pub at: Moment,
    /// When its daemon is gone at the earliest, unless a heartbeat came.
    pub verdict_at: Moment,
    /// When its kernel first answered since, and when the question left that it answered last.
    #[serde(default)]
    pub answers: Option<(Moment, Moment)>,
    /// Its kernel has refused another one since: nobody listens there.
    #[serde(default)]
    pub refused: bool,
}

/// An answer that was given to a peer that asked for this node's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// When.
    pub at: Moment,
    /// The generation that it told.
    pub generation: u32,
    /// The peer's own generation, and this node's as the peer knew it, in the question.
    pub question: (u32, u32),
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
    /// Where deadtime follows what arrives: what is known of that.
    pub estimators: BTreeMap<LinkIndex, Estimator>,
    /// What else is known of the links.
    pub standings: BTreeMap<LinkIndex, Standing>,
    /// How many ping targets it reaches, as of its last state message; `None`: not known.
    pub reached: Option<u8>,
    /// Its groups as of its last state message.
    pub claims: Vec<Claim>,
    /// Incarnation and generation of that message.
    pub known: Option<(u64, u32)>,
    /// Newest generation that its heartbeats or messages told.
    pub generation: u32,
    /// Generation of this node's state that it has received.
    pub acknowledged: Option<u32>,
    /// When this node's state is sent to it again.
    pub resend_at: Option<Moment>,
    /// Pause before that.
    pub resend_pause: Duration,
    /// See [`Closing`].
    pub closing: Option<Closing>,
    /// See [`Answer`].
    pub answered: Option<Answer>,
    /// It is on standby, as its last state message says.
    pub standby: bool,
    /// Its incarnation and the number of the last command that it passed on.
    pub errand: Option<(u64, u32)>,
    /// It replaces its own program.
    pub restart: Option<Restart>,
    /// The latest moment at which its daemon is known to have run, by this node's clock.
    pub lease: Moment,
    /// No heartbeat of it for `daemon_deadtime` while its kernel answers: nobody waits for its word.
    pub mute: bool,
    /// Its newest signs, by the time that this node was awake.
    pub signs: Signs,
    /// The last sign of life before the silence in which no question could leave, once told.
    pub unasked_since: Option<Moment>,
    /// End of the last such restart: its silence before counts for nothing on any link.
    pub resumed_at: Moment,
    /// Its daemon is gone and its claims are kept for the next one: until then, unless that one says
    /// otherwise.
    pub custody: Option<Moment>,
}

/// Whether `a` is an earlier generation than `b`. Generations wrap.
#[must_use]
pub fn earlier(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

impl Peer {
    /// A peer that was not heard yet.
    #[must_use]
    pub fn new(links: impl Iterator<Item = LinkIndex>) -> Self {
        let links: BTreeMap<_, _> = links.map(|link| (link, Detector::default())).collect();
        Self {
            state: NodeState::Unknown,
            incarnation: 0,
            ended: 0,
            phase: Phase::Starting,
            standings: links.keys().map(|link| (*link, Standing::default())).collect(),
            links,
            estimators: BTreeMap::new(),
            reached: None,
            claims: Vec::new(),
            known: None,
            generation: 0,
            acknowledged: None,
            resend_at: None,
            resend_pause: RESEND_FIRST,
            closing: None,
            answered: None,
            standby: false,
            errand: None,
            restart: None,
            lease: Moment::default(),
            mute: false,
            signs: Signs::default(),
            unasked_since: None,
            resumed_at: Moment::default(),
            custody: None,
        }
    }

    /// Whether it is heard.
    #[must_use]
    pub fn alive(&self) -> bool {
        matches!(
            self.state,
            NodeState::Joining
                | NodeState::Up
                | NodeState::Late
                | NodeState::Stale
                | NodeState::Restarting
        )
    }

    /// Whether its claims are known and it takes part in decisions.
    #[must_use]
    pub fn synced(&self) -> bool {
        matches!(self.state, NodeState::Up | NodeState::Late | NodeState::Restarting)
    }

    /// Whether its word is waited for before anything is taken. That of a stale one is, as it was told
    /// last: it may have acted on that just before it froze.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.alive() && !self.mute
    }

    /// Whether it is taken for dead by its silence alone, so that it may live and hear.
    #[must_use]
    pub fn may_hear(&self) -> bool {
        match self.state {
            NodeState::Dead => self.incarnation != 0,
            // Unless its keeper said so, it is not certain.
            NodeState::DaemonGone => self.incarnation > self.ended,
            NodeState::Unknown
            | NodeState::Joining
            | NodeState::Up
            | NodeState::Late
            | NodeState::Stale
            | NodeState::Restarting
            | NodeState::Left => false,
        }
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

    /// Whether it is heard on that link.
    #[must_use]
    pub fn hears(&self, link: LinkIndex) -> bool {
        match self.links.get(&link).map(Detector::state) {
            Some(LinkState::Up) => true,
            // What keeps the links of a stale peer from being dead are answers, not heartbeats.
            Some(LinkState::Late) => self.state != NodeState::Stale,
            Some(LinkState::Unknown | LinkState::Dead | LinkState::OneWay) | None => false,
        }
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

    /// Takes over what a heartbeat of the believed incarnation says. One that was under way for
    /// longer than another link's changes nothing; `anew`: nothing is known of this incarnation.
    pub fn told(&mut self, seen: &Observation, anew: bool) {
        if anew || !earlier(seen.generation, self.generation) {
            self.generation = seen.generation;
            self.says(Phase::from_wire(seen.phase));
        }
    }

    /// Only who takes part says that it restarts, and goes on doing so.
    fn says(&mut self, phase: Phase) {
        self.phase = if phase == Phase::Restarting { Phase::Active } else { phase };
    }

    /// Takes over what a state message says, unless a later one was faster. `acknowledged` is the
    /// generation of this node's state that its sender had received.
    pub fn learn(
        &mut self,
        incarnation: u64,
        phase: Phase,
        state: &State,
        acknowledged: Option<u32>,
    ) -> bool {
        let outrun = self.known.is_some_and(|(known, generation)| {
            known == incarnation && earlier(state.generation, generation)
        });
        if outrun {
            return false;
        }
        self.reached = state.reached;
        self.claims.clone_from(&state.claims);
        self.custody = None;
        self.standby = state.standby;
        self.known = Some((incarnation, state.generation));
        if !earlier(state.generation, self.generation) {
            self.generation = state.generation;
            self.says(phase);
        }
        let newer = |it: &u32| self.acknowledged.is_none_or(|before| earlier(before, *it));
        self.acknowledged = acknowledged.filter(newer).or(self.acknowledged);
        true
    }

    /// Whether the same question was answered just before.
    #[must_use]
    pub fn answered(&self, answer: &Answer) -> bool {
        self.answered.is_some_and(|before| {
            Answer { at: answer.at, ..before } == *answer
                && answer.at < before.at.after(SAME_QUESTION)
        })
    }

    /// It is gone for this incarnation: its claims are void and only a later start is heard.
    pub fn end(&mut self, state: NodeState) {
        self.state = state;
        self.ended = self.incarnation.max(self.ended);
        self.claims.clear();
        self.custody = None;
        self.fall_silent();
        self.links.values_mut().for_each(Detector::forget);
        self.standings.values_mut().for_each(Standing::fall_silent);
    }

    /// Nothing more is expected of it or sent to it.
    pub fn fall_silent(&mut self) {
        self.reached = None;
        self.known = None;
        self.acknowledged = None;
        self.resend_at = None;
        self.resend_pause = RESEND_FIRST;
        self.closing = None;
        self.answered = None;
        self.restart = None;
    }
}
