//! Everything the core can learn and everything it can ask for: one enum each, so that a run can be
//! recorded, replayed and simulated.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::command::{Command, Outcome};
use super::message::{Message, State};
use super::resume::Kept;
use super::time::Moment;
use crate::config::{GroupIndex, LinkIndex, NodeIndex};
use crate::names::InterfaceName;
use crate::snapshot::Severity;

/// By what a node notices that it did not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PauseSign {
    /// The driver's thread was late for its own deadline.
    Driver,
    /// The sender's thread was late for a heartbeat, or is.
    Sender,
    /// CLOCK_BOOTTIME went ahead of CLOCK_MONOTONIC.
    Suspend,
    /// Steal in `/proc/stat`.
    Steal,
    /// A timer in the kernel was late, or is.
    Softirqs,
}

impl PauseSign {
    /// Whether a pause that is longer than the holder's lease has ended it: not while driver and sender run,
    /// which renew it, whatever else of this node stood still.
    #[must_use]
    pub fn ends_lease(self) -> bool {
        match self {
            Self::Driver | Self::Sender | Self::Suspend => true,
            Self::Steal | Self::Softirqs => false,
        }
    }
}

impl fmt::Display for PauseSign {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Driver => "the driver woke late",
            Self::Sender => "the sender did not run",
            Self::Suspend => "the machine was suspended",
            Self::Steal => "the host took the CPUs",
            Self::Softirqs => "softirqs did not run",
        })
    }
}

/// What the record of a link says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Observation {
    /// When the last accepted heartbeat arrived.
    pub last_seen: Moment,
    /// The incarnation that is believed to be alive; 0 = none.
    pub incarnation: u64,
    /// The sender's number of its state.
    pub generation: u32,
    /// What the sender says of itself, see [`ha_common::wire::Phase`].
    pub phase: u8,
    /// Layers of liveness that it claims, see [`ha_common::wire::layers`].
    pub layers: u8,
    /// Age of its daemon's lease when it sent that heartbeat, milliseconds.
    pub lease_age_ms: u32,
    /// When that probe of this node's left which the peer answered last; 0 = none was answered.
    pub answered: Moment,
    /// When that answer arrived.
    #[serde(default)]
    pub answer_at: Moment,
    /// The incarnation of its daemon, as the answer says.
    pub answer_incarnation: u64,
    /// Age of its daemon's lease when it answered, milliseconds: after the question had left, and before
    /// the answer arrived.
    pub answer_lease_age_ms: u32,
}

/// The record of one peer's link, seen changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// The peer.
    pub peer: NodeIndex,
    /// The link.
    pub link: LinkIndex,
    /// What the record says.
    pub observation: Observation,
}

/// The gaps between heartbeats that arrived on one path since a look before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrived {
    /// The peer.
    pub peer: NodeIndex,
    /// The link.
    pub link: LinkIndex,
    /// When that look was.
    pub since: Moment,
    /// The peer's keepalive.
    pub keepalive_us: u64,
    /// How many gaps.
    pub gaps: u64,
    /// Their sum.
    pub observed_ns: u64,
    /// The two longest, at most a quarter too long; 0 = there was none.
    pub longest_ns: [u64; 2],
    /// The longest pause of this node in which a heartbeat that arrives in time would not have been
    /// stamped in time.
    pub paused_ns: u64,
}

impl Arrived {
    /// The longest gap that a deadtime has to bear: a pause of this node begins a fresh window, so
    /// what is left of the gap that it made is what matters.
    #[must_use]
    pub fn gap_ns(&self) -> u64 {
        let [longest_ns, next_ns] = self.longest_ns;
        longest_ns.saturating_sub(self.paused_ns).max(next_ns)
    }
}

/// Whether an earlier daemon left a resource here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Presence {
    /// It runs.
    Here,
    /// It does not.
    Absent,
    /// What would tell is not installed: it does not run, unless it is known to have run.
    NotInstalled {
        /// What is missing.
        cause: String,
    },
    /// Nothing tells; it is stopped to be sure.
    Unclear {
        /// Why not.
        cause: String,
    },
}

/// What asking a service that is to run for its status came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Health {
    /// It says that it runs.
    Runs,
    /// It says that it does not.
    Failed {
        /// What it said.
        cause: String,
    },
    /// It was asked, and what came back says neither; or nothing came back in time.
    NoAnswer {
        /// What came back.
        cause: String,
    },
    /// It could not be asked: neither a restart nor another node follows from that.
    NotAsked {
        /// Why not.
        cause: String,
    },
}

/// What the network answers to the question who has the addresses of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probed {
    /// Nobody answers.
    Nobody,
    /// Somebody has one of them.
    Held {
        /// Position of the address in the group.
        resource: usize,
        /// Who answers.
        mac: [u8; 6],
    },
    /// Nobody answers, but somebody else asks the same: another candidate is about to take it.
    Contested {
        /// Who asks; a question by IPv6 does not say.
        mac: Option<[u8; 6]>,
    },
    /// Nobody could be asked.
    Failed {
        /// What, on what, remedy.
        cause: String,
    },
}

/// Something the core learns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// All records were looked at; these changed. They come together, because a peer must not be
    /// judged by what is known of another one's link before its own was looked at.
    Observed(Vec<Sighting>),
    /// An authentic control message arrived.
    Control {
        /// Its sender.
        peer: NodeIndex,
        /// The incarnation that sent it.
        incarnation: u64,
        /// What its header says of the sender.
        phase: u8,
        /// The message.
        message: Message,
    },
    /// The control connection to a peer was closed by that peer's kernel.
    ConnectionClosed {
        /// The peer.
        peer: NodeIndex,
        /// The incarnation that held the other end.
        incarnation: u64,
    },
    /// After that: nobody listens there for another connection.
    ConnectionRefused {
        /// The peer.
        peer: NodeIndex,
        /// The incarnation that held the other end.
        incarnation: u64,
    },
    /// A resource was started.
    ResourceStarted {
        /// Its group.
        group: GroupIndex,
        /// Its position in the group.
        resource: usize,
        /// Why it failed, if it did.
        error: Option<String>,
    },
    /// A resource was not started, since this node's lease is over: that says nothing about the resource.
    StartHeldBack {
        /// Its group.
        group: GroupIndex,
        /// Its position in the group.
        resource: usize,
        /// For how long this node had not run.
        cause: String,
    },
    /// A resource was stopped.
    ResourceStopped {
        /// Its group.
        group: GroupIndex,
        /// Its position in the group.
        resource: usize,
        /// Why it failed, if it did.
        error: Option<String>,
    },
    /// Whether a resource ran here when the daemon started.
    ResourceProbed {
        /// Its group.
        group: GroupIndex,
        /// Its position in the group.
        resource: usize,
        /// What was found.
        presence: Presence,
    },
    /// What the status of a service that runs here says.
    ResourceMonitored {
        /// Its group.
        group: GroupIndex,
        /// Its position in the group.
        resource: usize,
        /// Number of the question.
        number: u32,
        /// What came of it.
        health: Health,
    },
    /// A resource that ran here does not any more.
    ResourceLost {
        /// Its group.
        group: GroupIndex,
        /// Its position in the group.
        resource: usize,
        /// What happened.
        cause: String,
    },
    /// Somebody else answers for an address of a group that this node owns.
    AddressConflict {
        /// The group.
        group: GroupIndex,
        /// Position of the address in the group.
        resource: usize,
        /// Who answers.
        mac: [u8; 6],
    },
    /// A ping target became reachable or unreachable for this node.
    Ping {
        /// Its position in the configuration.
        target: usize,
        /// Whether any of its members answers.
        reached: bool,
    },
    /// The network was asked who has the addresses of a group.
    AddressesProbed {
        /// The group.
        group: GroupIndex,
        /// What came back.
        answer: Probed,
        /// When a ping target answered last.
        pinged_at: Option<Moment>,
    },
    /// An interface of this node went up or down.
    Interface {
        /// The interface.
        name: InterfaceName,
        /// Whether it is there, up and has a carrier.
        up: bool,
    },
    /// How heartbeats arrived lately on paths whose deadtime follows that.
    Arrived(Vec<Arrived>),
    /// A question to a peer's kernel left.
    ProbeLeft {
        /// The peer.
        peer: NodeIndex,
        /// The link.
        link: LinkIndex,
        /// When.
        at: Moment,
    },
    /// A question to a peer's kernel could not leave.
    ProbeFailed {
        /// The peer.
        peer: NodeIndex,
        /// The link.
        link: LinkIndex,
        /// What, on what, remedy.
        error: String,
    },
    /// This node did not run for a while; it ended at the moment of this input.
    OwnPause {
        /// How long, nanoseconds.
        length_ns: i64,
        /// What told so.
        sign: PauseSign,
    },
    /// This daemon did not run for longer than the holder's lease, and its addresses are off; comes
    /// before anything else.
    LeaseLost {
        /// How long, nanoseconds.
        silent_ns: i64,
    },
    /// An operator wants something; to be answered by [`Action::Answer`].
    Command {
        /// Number of the question.
        id: u64,
        /// What is wanted.
        command: Command,
    },
    /// A new program, with another configuration perhaps, is to take over from this one: by group,
    /// what stays. Answered by [`Action::HandOver`] or [`Action::HandOverFailed`].
    HandOver(Vec<Kept>),
    /// The operator stops this node.
    Shutdown,
}

/// Something the core asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Ask the kernel of a peer on a link whether it is alive; to be answered by
    /// [`Input::ProbeLeft`] or [`Input::ProbeFailed`]. What it answers is part of
    /// [`Input::Observed`].
    Probe {
        /// The peer.
        peer: NodeIndex,
        /// The link.
        link: LinkIndex,
    },
    /// Start a resource; to be answered by [`Input::ResourceStarted`].
    StartResource {
        /// Its group.
        group: GroupIndex,
        /// Its position in the group.
        resource: usize,
    },
    /// Stop a resource; to be answered by [`Input::ResourceStopped`].
    StopResource {
        /// Its group.
        group: GroupIndex,
        /// Its position in the group.
        resource: usize,
    },
    /// Find out whether a resource runs here; to be answered by [`Input::ResourceProbed`].
    ProbeResource {
        /// Its group.
        group: GroupIndex,
        /// Its position in the group.
        resource: usize,
    },
    /// Ask a service that runs here for its status; to be answered by [`Input::ResourceMonitored`].
    MonitorResource {
        /// Its group.
        group: GroupIndex,
        /// Its position in the group.
        resource: usize,
        /// Number of the question.
        number: u32,
    },
    /// End the statuses that are under way: nobody waits for them any more. They are answered by
    /// [`Health::NotAsked`].
    EndStatuses,
    /// Ask the network who has the addresses of a group, where that is wanted; to be answered by
    /// [`Input::AddressesProbed`].
    ProbeAddresses {
        /// The group.
        group: GroupIndex,
    },
    /// Tell the network again where a group's addresses are.
    Announce {
        /// The group.
        group: GroupIndex,
    },
    /// Send this node's state to a peer on every link.
    SendState {
        /// The peer.
        peer: NodeIndex,
        /// The state.
        state: State,
    },
    /// Send a message other than this node's state to a peer on every link.
    SendMessage {
        /// The peer.
        peer: NodeIndex,
        /// The message.
        message: Message,
    },
    /// What became of an operator's command.
    Answer {
        /// Number of the question.
        id: u64,
        /// What was decided.
        outcome: Outcome,
    },
    /// What this node's heartbeats say from now on.
    Advertise {
        /// Number of the state.
        generation: u32,
        /// See [`ha_common::wire::Phase`].
        phase: u8,
    },
    /// What this node's heartbeats and its kernel's answers say of its groups from now on.
    AdvertiseServices {
        /// Whether all groups that it owns are well.
        well: bool,
    },
    /// Tell the operator.
    Event(Note),
    /// Nothing is under way and what does not stay is stopped: hand over now.
    HandOver,
    /// What does not stay could not be stopped; this program goes on.
    HandOverFailed(String),
    /// Every peer that knew this node's dead daemon knows by now that this one goes on with its
    /// groups: from here on the lease is this daemon's own.
    Adopted,
    /// Everything is stopped and said: end the process.
    Exit,
}

/// An event before it has a number and a wall-clock time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// How urgent it is.
    pub severity: Severity,
    /// A stable word.
    pub kind: String,
    /// The node it is about.
    pub node: Option<NodeIndex>,
    /// The link it is about.
    pub link: Option<LinkIndex>,
    /// The group it is about.
    pub group: Option<GroupIndex>,
    /// A sentence for an operator.
    pub message: String,
}
