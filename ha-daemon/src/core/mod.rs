//! The core: `(input, now) -> state, actions, next deadline`. Pure: no clock, socket, file, thread
//! or runtime; the driver gives it time and inputs and carries its actions out.
//!
//! A heartbeat's way through it: `Input::Observed` -> [`detector`] -> [`peer`] -> membership (this
//! file) -> [`ownership`] -> actions.

pub mod adoption;
pub mod asking;
pub mod auto;
pub mod awake;
mod closing;
pub mod command;
mod connectivity;
mod custody;
pub mod detector;
mod groups;
mod interfaces;
pub mod io;
mod membership;
pub mod message;
pub mod ownership;
pub mod peer;
mod recovery;
mod restart;
pub mod resume;
mod stale;
pub mod standing;
mod story;
mod telling;
pub mod time;
mod wishes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ha_common::wire::Phase;

use crate::config::{Config, GroupIndex, LinkIndex, NodeIndex, OnDoubt, Times};
use crate::names::InterfaceName;
use crate::snapshot::{LinkState, NodeState, Severity};
use adoption::Adoption;
use awake::Awake;
use closing::closing_wait;
use command::{Errands, Standby};
use connectivity::Reach;
use detector::Detector;
use groups::Groups;
use interfaces::Interfaces;
use io::{Action, Input, Note, Observation, PauseSign, Sighting};
use message::{Message, State};
use peer::{Peer, RESEND_FIRST};
use resume::HandOver;
use standing::Standing;
use story::Story;
use time::{Moment, milliseconds, nanoseconds};

/// Longest wait of a clean leave for addresses to be removed and for the peers' acknowledgement; it
/// begins when the last service is stopped.
pub const LEAVE_WAIT_MAX: Duration = Duration::from_millis(500);

/// Own pauses are noted at most this often: under load they come in series.
const PAUSE_NOTE_INTERVAL: Duration = Duration::from_secs(1);

/// The core of one node.
#[derive(Debug)]
pub struct Core {
    config: Arc<Config>,
    own: NodeIndex,
    incarnation: u64,
    started_at: Moment,
    /// Since when peers that were never heard are waited for: the start, or the reload that brought
    /// a new one; later by what this node's own pauses put the end of that off.
    initdead_from: Moment,
    /// End of this node's own last pause: silence before it counts for nothing.
    window_from: Moment,
    pauses: u64,
    pause_noted: Option<Moment>,
    /// End of a pause that was longer than this node's lease, until what others did in it is known.
    lapsed_at: Option<Moment>,
    awake: Awake,
    /// The moment of the last input.
    handled_at: Moment,
    /// When the records were read last. Silence is judged as of then: whoever was stopped since has not
    /// seen what came in the meantime.
    read_at: Moment,
    phase: Phase,
    /// Since when the operator wants this node to leave, and by when it does so in any case.
    leaving: Option<Moment>,
    exited: bool,
    /// It started not long ago: peers that are starting too are waited for.
    patient: bool,
    peers: BTreeMap<NodeIndex, Peer>,
    groups: Groups,
    interfaces: Interfaces,
    reach: Reach,
    generation: u32,
    /// A new program is about to take over from this one.
    hand_over: Option<HandOver>,
    /// What it goes on with was a dead daemon's, and not every peer knows yet.
    adoption: Option<Adoption>,
    published: Option<telling::Told>,
    /// When silent peers are told again.
    remind_at: Option<Moment>,
    /// An operator has put this node on standby.
    standby: bool,
    errands: Errands,
    errand_number: u32,
    /// Number of the last question for a service's status.
    questions: u32,
    /// What was said last of this node's groups.
    told_well: bool,
    story: Story,
    /// What an earlier daemon may have left was not asked for yet.
    unprobed: bool,
    actions: Vec<Action>,
}

impl Core {
    /// The core of the node `own`, which starts now.
    #[must_use]
    pub fn new(config: Arc<Config>, own: NodeIndex, incarnation: u64, now: Moment) -> Self {
        let shared = |peer: NodeIndex| {
            let mine = config.nodes[own.0].endpoints.keys().copied().collect::<BTreeSet<_>>();
            let theirs = config.nodes[peer.0].endpoints.keys().copied().collect::<BTreeSet<_>>();
            mine.intersection(&theirs).copied().collect::<Vec<LinkIndex>>()
        };
        let peers = (0..config.nodes.len())
            .map(NodeIndex)
            .filter(|peer| *peer != own)
            .map(|peer| (peer, Peer::new(shared(peer).into_iter())))
            .collect();
        Self {
            groups: Groups::new(&config, own),
            story: Story::new(config.groups.len()),
            config,
            own,
            incarnation,
            started_at: now,
            initdead_from: now,
            window_from: now,
            pauses: 0,
            pause_noted: None,
            lapsed_at: None,
            awake: Awake::default(),
            handled_at: now,
            read_at: now,
            phase: Phase::Starting,
            leaving: None,
            exited: false,
            patient: true,
            peers,
            interfaces: Interfaces::default(),
            reach: Reach::default(),
            generation: 0,
            hand_over: None,
            adoption: None,
            published: None,
            remind_at: None,
            standby: false,
            errands: Errands::new(),
            errand_number: 0,
            questions: 0,
            told_well: false,
            unprobed: true,
            actions: Vec::new(),
        }
    }

    /// The peers.
    #[must_use]
    pub fn peers(&self) -> &BTreeMap<NodeIndex, Peer> {
        &self.peers
    }

    /// What this node says of itself.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// How often this node did not run itself, as it was told.
    #[must_use]
    pub fn pauses(&self) -> u64 {
        self.pauses
    }

    /// Whether no group is owned, not even partly.
    #[must_use]
    pub fn all_released(&self) -> bool {
        self.groups.all_stopped()
    }

    /// Learns `input` at `now`; returns what has to be done. For [`Input::Observed`] `now` is a moment before
    /// the records were read.
    pub fn handle(&mut self, input: Input, now: Moment) -> Vec<Action> {
        if std::mem::take(&mut self.unprobed) {
            self.probe_resources();
        }
        self.count_awake(&input, now);
        self.handled_at = now;
        match input {
            Input::Observed(sightings) => {
                self.read_at = now;
                for Sighting { peer, link, observation } in sightings {
                    self.link(peer, link, observation, now);
                    self.answered(peer, link, &observation);
                }
            }
            Input::Control { peer, incarnation, phase, message } => {
                self.control(peer, incarnation, Phase::from_wire(phase), message, now);
            }
            Input::ConnectionClosed { peer, incarnation } => {
                self.connection_closed(peer, incarnation, now);
            }
            Input::ConnectionRefused { peer, incarnation } => {
                self.connection_refused(peer, incarnation);
            }
            Input::ResourceStarted { group, resource, error } => {
                self.resource_started(group, resource, error, now);
            }
            Input::StartHeldBack { group, resource, cause } => {
                self.start_held_back(group, resource, &cause, now);
            }
            Input::ResourceStopped { group, resource, error } => {
                self.resource_stopped(group, resource, error, now);
            }
            Input::ResourceProbed { group, resource, presence } => {
                self.resource_probed(group, resource, presence);
            }
            Input::ResourceMonitored { group, resource, number, health } => {
                self.resource_monitored(group, resource, number, health, now);
            }
            Input::ResourceLost { group, resource, cause } => {
                self.resource_lost(group, resource, &cause);
            }
            Input::AddressConflict { group, resource, mac } => {
                self.address_conflict(group, resource, mac);
            }
            Input::Ping { target, reached } => self.ping(target, reached),
            Input::AddressesProbed { group, answer, pinged_at } => {
                self.addresses_probed(group, answer, pinged_at, now);
            }
            Input::Interface { name, up } => self.interface(name, up, now),
            Input::Arrived(all) => self.arrived(&all, now),
            Input::ProbeLeft { peer, link, at } => self.probe_left(peer, link, at),
            Input::ProbeFailed { peer, link, error } => {
                self.probe_failed(peer, link, &error, now);
            }
            Input::OwnPause { length_ns, sign } => self.own_pause(length_ns, sign, now),
            Input::LeaseLost { silent_ns } => self.lease_lost(silent_ns, now),
            Input::Command { id, command } => self.command(id, command, now),
            Input::HandOver(kept) => self.prepare_hand_over(kept, now),
            Input::Shutdown => self.shutdown(now),
        }
        self.judge(self.read_at);
        self.ask_peers(now);
        self.interfaces.admit(self.peers.values().all(Peer::synced), self.read_at);
        self.settle(self.read_at);
        self.tell_active_peers();
        self.run_groups(now);
        self.tell_story();
        self.begin_leaving();
        self.publish(now);
        self.send_states(now);
        self.remind_the_silent(now);
        self.run_errands(now);
        self.finish_adoption();
        self.finish_leaving(now);
        self.finish_hand_over(now);
        std::mem::take(&mut self.actions)
    }

    /// When [`Input::Observed`] has to come at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        let peers = self.peers.values().flat_map(|peer| {
            let links = peer.links.iter();
            let window_from = self.window_of(peer);
            links
                .filter_map(move |(link, it)| {
                    it.deadline(window_from, self.thresholds(peer, *link))
                })
                .chain(self.closing_deadline(peer))
                .chain(peer.custody)
                .chain(peer.resend_at)
        });
        let unheard = self.peers.values().any(|peer| peer.state == NodeState::Unknown);
        let initdead = (self.phase == Phase::Starting || unheard).then(|| self.initdead_at());
        let patience = self.patient.then(|| self.patience_ends_at());
        let leaving = self.leaving.filter(|_| !self.exited);
        peers
            .chain(self.directions_deadline())
            .chain(self.asking_deadline())
            .chain(self.verdicts_deadline())
            .chain(self.lapse_deadline())
            .chain(initdead)
            .chain(patience)
            .chain(self.remind_at)
            .chain(self.groups.deadline())
            .chain(self.interfaces.deadline())
            .chain(self.reach.deadline())
            .chain(self.errand_deadline())
            .chain(leaving)
            .chain(self.hand_over.as_ref().map(|it| it.until))
            .min()
    }

    fn initdead_at(&self) -> Moment {
        self.initdead_from.after(self.config.cluster.initdead)
    }

    /// Nodes that start at once do not end their waiting at the same moment: who is first leaves the
    /// others this time to take what they are preferred for.
    fn patience_ends_at(&self) -> Moment {
        self.initdead_at().after(self.config.cluster.deadtime)
    }

    fn node_name(&self, node: NodeIndex) -> &str {
        self.config.nodes[node.0].name.as_str()
    }

    fn note(&mut self, severity: Severity, kind: &str, message: String) -> &mut Note {
        let (node, link, group) = (None, None, None);
        let note = Note { severity, kind: kind.to_owned(), node, link, group, message };
        self.actions.push(Action::Event(note));
        match self.actions.last_mut() {
            Some(Action::Event(note)) => note,
            _ => unreachable!("the note was pushed just above"),
        }
    }

    fn node_note(&mut self, severity: Severity, kind: &str, node: NodeIndex, message: String) {
        self.note(severity, kind, message).node = Some(node);
    }

    // ---- what comes in ---------------------------------------------------------------------

    fn link(&mut self, node: NodeIndex, link: LinkIndex, seen: Observation, now: Moment) {
        let grace = self.grace(link);
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let stale = seen.last_seen.since(self.started_at) < 0;
        if seen.incarnation <= peer.ended || seen.incarnation < peer.incarnation || stale {
            return;
        }
        let before = std::mem::replace(&mut peer.incarnation, seen.incarnation);
        if before != seen.incarnation {
            // What was known is of an earlier start; its claims stand until the new one speaks.
            peer.links.values_mut().for_each(Detector::forget);
            peer.standings.values_mut().for_each(Standing::fall_silent);
            peer.fall_silent();
        }
        let newest = peer.last_seen().is_none_or(|last| seen.last_seen.since(last) > 0);
        let Some(detector) = peer.links.get_mut(&link) else { return };
        let newer = detector.last_seen().is_none_or(|last| seen.last_seen.since(last) > 0);
        let transition = detector.seen(seen.last_seen);
        if !newer {
            return;
        }
        peer.told(&seen, before != seen.incarnation);
        let runs = peer.renew_lease(&seen, before != seen.incarnation);
        peer.closing = peer.closing.filter(|it| seen.last_seen.since(it.at) <= grace);
        let was = peer.state;
        let phase = peer.phase;
        let state = match was {
            // Its sender alone does not bring it back: nobody would decide for it.
            NodeState::Dead | NodeState::DaemonGone if !runs => was,
            // Whether that is over is judged by all that is known of it.
            NodeState::Stale => was,
            NodeState::Unknown
            | NodeState::Joining
            | NodeState::Up
            | NodeState::Late
            | NodeState::Restarting
            | NodeState::DaemonGone
            | NodeState::Dead
            | NodeState::Left => peer.known.map_or(NodeState::Joining, |_| NodeState::Up),
        };
        peer.state = state;
        if peer.alive() {
            peer.resend_at.get_or_insert(now);
        }
        if before != seen.incarnation && before != 0 {
            let (name, incarnation) = (self.node_name(node), seen.incarnation);
            let text = format!("Heartbeat restart on node {name}: incarnation {incarnation}");
            self.node_note(Severity::Warning, "node-restarted", node, text);
        }
        if let Some(transition) = transition {
            self.link_transition(node, link, transition);
        }
        self.heard_there(node, link, &seen);
        if newest {
            self.heed_restart(node, Phase::from_wire(seen.phase), seen.last_seen);
        }
        if phase == Phase::Leaving {
            self.left(node);
        } else if was == NodeState::Late && state == NodeState::Up {
            let text = format!("{} is heard again in time", self.node_name(node));
            self.node_note(Severity::Info, "node-up", node, text);
        } else if state != was
            && matches!(was, NodeState::Dead | NodeState::DaemonGone | NodeState::Left)
        {
            self.node_returned(node, was, before != seen.incarnation);
        }
    }

    /// Heartbeats that were under way when a connection closed do not contradict it.
    fn grace(&self, link: LinkIndex) -> i64 {
        nanoseconds(self.config.times(link).keepalive) / 4
    }

    fn control(
        &mut self,
        node: NodeIndex,
        incarnation: u64,
        phase: Phase,
        message: Message,
        now: Moment,
    ) {
        let Some(peer) = self.peers.get(&node) else { return };
        let ended = incarnation <= peer.ended;
        if incarnation != peer.incarnation {
            return;
        }
        match message {
            Message::State(state) if phase == Phase::Leaving => {
                self.send_state(node, Some((incarnation, state.generation)), false);
                if !ended {
                    self.left(node);
                }
            }
            // Control messages are no liveness; the sender repeats what was not acknowledged.
            Message::State(state) if peer.alive() => {
                self.state(node, incarnation, phase, &state, now);
            }
            // Who counts as dead says so itself: that it was only silent is not in doubt any more.
            Message::Obituary if !ended => {
                self.end(node, NodeState::DaemonGone);
                let text = format!(
                    "the daemon of {} is gone; its keeper took the addresses off that host",
                    self.node_name(node)
                );
                self.node_note(Severity::Error, "daemon-gone", node, text);
            }
            Message::Custody(custody) if !ended => self.custody(node, &custody, now),
            Message::Obituary if peer.custody.is_some() => self.custody_is_over(node),
            Message::Standby { number, standby } if peer.alive() => {
                self.told_standby(node, number, standby);
            }
            // A probe is the driver's own business.
            Message::State(_)
            | Message::Obituary
            | Message::Custody(_)
            | Message::Standby { .. }
            | Message::Probe(_) => {}
        }
    }

    fn state(
        &mut self,
        node: NodeIndex,
        incarnation: u64,
        phase: Phase,
        state: &State,
        now: Moment,
    ) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let was_on_standby = peer.standby;
        let known = state.known_incarnation == self.incarnation;
        let acknowledged = known.then_some(state.known_generation);
        if !peer.learn(incarnation, phase, state, acknowledged) {
            return;
        }
        let joined = peer.state == NodeState::Joining;
        if joined {
            peer.state = NodeState::Up;
        }
        self.learn_wishes(node, &state.claims);
        if was_on_standby != state.standby {
            let standby = if state.standby { Standby::On } else { Standby::Off };
            self.standby_note(node, standby);
        }
        if state.answer {
            self.answer(node, (state.generation, state.known_generation), now);
        }
        if joined {
            let name = self.node_name(node);
            let text =
                format!("Status update for node {name}: status up, incarnation {incarnation}");
            self.node_note(Severity::Info, "node-up", node, text);
        }
    }

    fn interface(&mut self, name: InterfaceName, up: bool, now: Moment) {
        let (severity, kind, state) = if up {
            (Severity::Info, "interface-up", "up")
        } else {
            (Severity::Warning, "interface-down", "down")
        };
        let text = format!("interface {name} is {state}");
        let changed = if up { self.interface_is_up(name, now) } else { self.interfaces.down(name) };
        if changed {
            self.note(severity, kind, text);
        }
    }

    fn own_pause(&mut self, length_ns: i64, sign: PauseSign, now: Moment) {
        self.begin_window(now);
        self.disturb_statuses(length_ns);
        self.pauses += 1;
        if sign.ends_lease() && length_ns >= nanoseconds(self.config.cluster.holder_lease()) {
            self.lapse(length_ns, now);
        }
        let waits: Vec<Duration> =
            self.peers.values().map(|peer| self.closing_wait(peer)).collect();
        for (peer, wait) in self.peers.values_mut().zip(waits) {
            if let Some(closing) = &mut peer.closing {
                closing.verdict_at = closing.verdict_at.max(now.after(wait));
            }
        }
        if self.pause_noted.is_some_and(|noted| now < noted.after(PAUSE_NOTE_INTERVAL)) {
            return;
        }
        self.pause_noted = Some(now);
        let text = format!(
            "own pause of {}: {sign} (pause {} since the daemon's start); no verdict before a \
             fresh window has passed",
            milliseconds(length_ns),
            self.pauses
        );
        self.note(Severity::Warning, "own-pause", text);
    }

    fn shutdown(&mut self, now: Moment) {
        if self.leaving.is_none() {
            self.leaving = Some(now.after(LEAVE_WAIT_MAX));
            let text = "Heartbeat shutdown in progress: this node leaves the cluster";
            self.note(Severity::Info, "leaving", text.to_owned());
        }
    }

    // ---- leaving ---------------------------------------------------------------------------

    /// Says goodbye with the last claim that goes: a peer learns both at once, and knows why a group is
    /// free before it takes it.
    fn begin_leaving(&mut self) {
        if self.leaving.is_some() && !self.exited && self.groups.all_stopped() {
            self.phase = Phase::Leaving;
        }
    }

    /// Leaves when everything is released and the peers know, or the wait is over.
    fn finish_leaving(&mut self, now: Moment) {
        let Some(mut until) = self.leaving else { return };
        if self.exited {
            return;
        }
        if self.services_at_work() {
            until = now.after(LEAVE_WAIT_MAX);
            self.leaving = Some(until);
        }
        let told = self
            .peers
            .values()
            .all(|peer| !peer.alive() || peer.acknowledged == Some(self.generation));
        if self.phase == Phase::Leaving && told || now >= until {
            self.exited = true;
            self.note_left_behind();
            self.actions.push(Action::Exit);
        }
    }
}

fn word(state: NodeState) -> &'static str {
    match state {
        NodeState::Unknown => "unknown",
        NodeState::Joining => "joining",
        NodeState::Up => "up",
        NodeState::Late => "late",
        NodeState::Stale => "stale",
        NodeState::Restarting => "restarting",
        NodeState::DaemonGone => "without daemon",
        NodeState::Dead => "dead",
        NodeState::Left => "gone",
    }
}

/// Position of a group with that identifier.
fn group_with_id(config: &Config, id: u32) -> Option<GroupIndex> {
    config.groups.iter().position(|group| group.id == id).map(GroupIndex)
}

#[cfg(test)]
pub(crate) mod tests;
