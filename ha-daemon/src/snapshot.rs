//! The one picture of the running system: what `hactl`, the socket and later the web page show.
//!
//! Field names are part of the contract with scripts: numbers carry their unit in the name, and
//! fields are added, never renamed.

use serde::{Deserialize, Serialize};

use crate::advice::Advice;
use crate::histogram::Bucket;
use crate::names::{GroupName, LinkName, NodeName};

/// State of a node as the reporting node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// Never heard since this daemon started, and `initdead` has not passed.
    Unknown,
    /// Heard, its group states are not known yet.
    Joining,
    /// At least one link is alive.
    Up,
    /// Every link is silent for longer than `warntime`.
    Late,
    /// Its daemon does not run, or not well enough to be heard, and its kernel answers: its groups are
    /// its own until `daemon_deadtime`.
    Stale,
    /// It said that it replaces its own program and goes on as the same start: a moment's silence is
    /// no sign of death.
    Restarting,
    /// Its daemon is gone, as its keeper or its closed control connection told.
    DaemonGone,
    /// Every link is silent for longer than `deadtime`.
    Dead,
    /// It said goodbye.
    Left,
}

impl NodeState {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Unknown,
        Self::Joining,
        Self::Up,
        Self::Late,
        Self::Stale,
        Self::Restarting,
        Self::DaemonGone,
        Self::Dead,
        Self::Left,
    ];

    /// Whether what its heartbeats say of its daemon holds.
    #[must_use]
    pub fn speaks(self) -> bool {
        match self {
            Self::Joining | Self::Up | Self::Late | Self::Restarting => true,
            Self::Unknown | Self::Stale | Self::DaemonGone | Self::Dead | Self::Left => false,
        }
    }
}

/// State of one heartbeat link to one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkState {
    /// Nothing was heard on it yet.
    Unknown,
    /// Heartbeats arrive.
    Up,
    /// Silent for longer than `warntime`.
    Late,
    /// Silent for longer than `deadtime`.
    Dead,
    /// Heartbeats arrive, and the peer says that it does not hear this node's.
    OneWay,
}

impl LinkState {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Unknown, Self::Up, Self::Late, Self::Dead, Self::OneWay];
}

/// State of a group as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupState {
    /// No node owns it.
    Stopped,
    /// Its owner is starting its resources.
    Starting,
    /// All its resources run on its owner.
    Started,
    /// Its owner is stopping its resources.
    Stopping,
    /// Its owner could not start or stop a resource.
    Failed,
    /// An operator has disabled it; no node owns it.
    Disabled,
}

impl GroupState {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Stopped,
        Self::Starting,
        Self::Started,
        Self::Stopping,
        Self::Failed,
        Self::Disabled,
    ];
}

/// State of one resource on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResourceState {
    /// Whether it runs on this node, left there by an earlier daemon, is being found out.
    Unknown,
    /// Not on this node.
    Stopped,
    /// Being started here.
    Starting,
    /// Runs here.
    Started,
    /// Being stopped here.
    Stopping,
    /// Its start or stop failed here.
    Failed,
}

/// How heartbeats of a link reach the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Via {
    /// XDP in the driver.
    XdpNative,
    /// XDP in the network stack.
    XdpGeneric,
    /// TC ingress.
    Tc,
    /// A UDP socket in user space.
    Socket,
    /// A serial line.
    Serial,
}

impl std::fmt::Display for Via {
    /// The word of the contract.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::XdpNative => "xdp-native",
            Self::XdpGeneric => "xdp-generic",
            Self::Tc => "tc",
            Self::Socket => "socket",
            Self::Serial => "serial",
        })
    }
}

/// One heartbeat link to one peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Name of the link in the configuration.
    pub name: LinkName,
    /// `ucast` (others follow).
    pub kind: String,
    /// Interface on the reporting node; the device of a serial line.
    pub interface: String,
    /// How heartbeats reach the daemon.
    pub via: Via,
    /// Why a better way of reception is not used; empty when the best one is.
    pub via_reason: String,
    /// Liveness.
    pub state: LinkState,
    /// How often it was dead since the daemon's start.
    #[serde(default)]
    pub failures: u64,
    /// Age of the last accepted heartbeat in microseconds; absent when there was none.
    pub last_seen_us: Option<u64>,
    /// The peer's own keepalive in microseconds, as its heartbeats say; 0 when there was none.
    pub peer_keepalive_us: u64,
    /// Last round trip on it in microseconds, without the time at the peer; null before the first.
    #[serde(default)]
    pub rtt_us: Option<u64>,
    /// The shortest since the daemon's start.
    #[serde(default)]
    pub rtt_min_us: Option<u64>,
    /// Their moving average (RFC 6298).
    #[serde(default)]
    pub rtt_smoothed_us: Option<u64>,
    /// Who answers this node's probes on it, the best first: `xdp`, `tc` or `socket`, or `serial`;
    /// empty when nobody does, or before it was tried.
    #[serde(default)]
    pub answers_via: Vec<String>,
    /// Questions to the peer's kernel on it, those that could not leave included.
    #[serde(default)]
    pub probes_sent: u64,
    /// Questions of the peer that this node answered on it.
    #[serde(default)]
    pub probes_answered: u64,
    /// Whether a timer in the kernel watches it for silence.
    #[serde(default)]
    pub kernel_watched: bool,
    /// Accepted heartbeats.
    pub received: u64,
    /// Heartbeats that the sequence numbers show as missing.
    pub lost: u64,
    /// Packets of this peer on this link that were refused.
    pub rejected: u64,
    /// Heartbeats sent.
    pub sent: u64,
    /// Heartbeats that the local kernel refused to send.
    pub send_errors: u64,
    /// Silence after which it is dead at present, microseconds.
    #[serde(default)]
    pub deadtime_us: u64,
    /// Present where that follows what arrives (`deadtime = "auto"`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadtime_auto: Option<AutoStatus>,
    /// How its heartbeats arrive; absent before there were two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrivals: Option<ArrivalStatus>,
    /// More of a serial line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<SerialStatus>,
}

/// What `deadtime = "auto"` goes by on a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AutoStatus {
    /// The shortest that it may be, microseconds.
    pub min_us: u64,
    /// The longest.
    pub max_us: u64,
    /// Enough was seen; before, it is the longest.
    pub settled: bool,
    /// The longest gap of the last 10 minutes, microseconds, at most a quarter too long.
    pub longest_lately_us: u64,
    /// The longest of the last 24 hours, likewise.
    pub longest_us: u64,
}

/// How the heartbeats of a path arrive, counted where they are judged, since the peer's keepalive
/// changed last; over restarts of this daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArrivalStatus {
    /// Time that the intervals cover, seconds.
    pub observed_s: u64,
    /// Intervals between two heartbeats.
    pub interval: DurationStatus,
    /// What the way added to the sender's own interval, or took from it.
    pub jitter: DurationStatus,
    /// The longest interval, microseconds.
    pub longest_gap_us: u64,
    /// How long ago it ended, seconds.
    pub longest_gap_ago_s: u64,
    /// Most heartbeats lost in a row, outages left out.
    pub longest_burst: u64,
    /// Losses in a row by their number: 1, 2 to 3, 4 to 7, 8 to 15, 16 to 31, 32 to 63.
    pub bursts: Vec<u64>,
    /// Interruptions in which 64 or more were lost; they are in no other figure.
    pub outages: u64,
    /// What follows for keepalive and deadtime.
    pub advice: Advice,
}

/// A distribution of durations. Percentiles are at most a quarter too long, the maximum is exact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DurationStatus {
    /// How many.
    pub count: u64,
    /// Half of them are not longer, microseconds.
    pub p50_us: u64,
    /// 99 of 100 are not longer.
    pub p99_us: u64,
    /// 999 of 1,000 are not longer.
    pub p999_us: u64,
    /// The longest.
    pub max_us: u64,
    /// All together, microseconds; absent where that is not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sum_us: Option<u64>,
    /// The histogram, without its empty buckets.
    pub buckets: Vec<Bucket>,
}

/// Whether the device of a serial line is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LineState {
    /// It is open.
    Open,
    /// It is gone, or cannot be opened; it is waited for.
    Lost,
}

/// What only a serial line has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialStatus {
    /// Its device on the reporting node.
    pub device: String,
    /// Bits per second.
    pub baud: u32,
    /// Its device.
    pub state: LineState,
    /// How often the device was lost.
    pub times_lost: u64,
    /// Frames received.
    pub frames: u64,
    /// What came between two borders and was no frame.
    pub bad_frames: u64,
    /// Bytes of those.
    pub noise_bytes: u64,
    /// Messages of several frames of which one was missing.
    pub broken_messages: u64,
    /// Datagrams that the daemon had no room for.
    pub dropped: u64,
    /// Heartbeats that were not written, since the line was busy or lost; `sent` includes them.
    pub tx_skipped: u64,
    /// Control messages that were not written, since a newer one took their place.
    pub tx_replaced: u64,
    /// Control messages that were not written, since they would have said again what had just been
    /// written.
    pub tx_repeated: u64,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Name.
    pub name: NodeName,
    /// Whether this is the reporting node.
    pub local: bool,
    /// State as the reporting node sees it.
    pub state: NodeState,
    /// Which start of its daemon is speaking; 0 when never heard.
    pub incarnation: u64,
    /// How many ping targets it reaches; absent when there are none, and until they are decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<u8>,
    /// An operator has put it on standby: it owns nothing that another node could own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub standby: bool,
    /// Whether all groups that it owns are well, as it says itself; absent while nothing is heard of its
    /// daemon. Earlier versions do not say so, and look ill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services_well: Option<bool>,
    /// Links to it; empty for the reporting node.
    pub links: Vec<LinkStatus>,
}

/// One resource of a group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResourceStatus {
    /// What it is: the address with its prefix.
    pub name: String,
    /// `address` (others follow).
    pub kind: String,
    /// State on the reporting node.
    pub state: ResourceState,
    /// Interval at which it is asked for its status while it runs, microseconds; absent when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor_us: Option<u64>,
    /// Age of the last status that said that it runs, microseconds; absent when it was not asked yet since
    /// its start, and where it does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ran_us: Option<u64>,
    /// Of a pre-armed group: whether the address is there beforehand, behind its gate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub armed: Option<bool>,
    /// Why it is not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub not_armed: String,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// One group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Name.
    pub name: GroupName,
    /// The node that owns it.
    pub owner: Option<NodeName>,
    /// State.
    pub state: GroupState,
    /// Number of the ownership; only grows.
    pub term: u64,
    /// The node that operators want to own it; absent: the one that the configuration prefers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wished: Option<NodeName>,
    /// How often services of it failed on the reporting node in a row: since they ran well for
    /// `restart_window`.
    #[serde(default, skip_serializing_if = "crate::snapshot::is_zero")]
    pub failures: u32,
    /// Candidates, preferred first.
    pub nodes: Vec<NodeName>,
    /// Resources in starting order.
    pub resources: Vec<ResourceStatus>,
}

/// One ping target as the reporting node sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PingTargetStatus {
    /// Name.
    pub name: String,
    /// Addresses that are asked.
    pub members: Vec<std::net::IpAddr>,
    /// Whether any of them answers; absent until that was decided once.
    pub reached: Option<bool>,
    /// Round trip of the last answer in microseconds; absent when there was none.
    pub rtt_us: Option<u64>,
    /// Age of the last answer in microseconds; absent when there was none.
    pub last_reply_us: Option<u64>,
    /// Requests sent.
    pub sent: u64,
    /// Answers that counted.
    pub received: u64,
    /// Answers that did not: repeated, too late, or from elsewhere.
    pub rejected: u64,
}

/// What the reporting node reaches outside of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ConnectivityStatus {
    /// Ping targets, in configured order.
    pub targets: Vec<PingTargetStatus>,
}

/// Votes. With no arbiter configured this informs and decides nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quorum {
    /// Nodes that are up, this one included.
    pub votes: u32,
    /// Nodes configured.
    pub of: u32,
    /// Whether `votes` is a majority of `of`.
    pub majority: bool,
}

/// How well an event needs an operator's eye.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// A state changed.
    Info,
    /// It will become an error.
    Warning,
    /// Someone must act.
    Error,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Number since the daemon's start, from 1, without gaps.
    pub id: u64,
    /// When, `CLOCK_MONOTONIC`, nanoseconds (one clock for all nodes of one machine).
    pub monotonic_ns: u64,
    /// When, microseconds since 1970-01-01 UTC.
    pub unix_us: u64,
    /// How urgent it is.
    pub severity: Severity,
    /// What kind, a stable word such as `node-dead` or `address-added`.
    pub kind: String,
    /// The node it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// The link it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkName>,
    /// The group it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// A sentence for an operator: event, subject, cause, figure.
    pub message: String,
}

/// Scheduling of one real-time thread of the daemon, as it was granted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ThreadStatus {
    /// Which thread.
    pub name: String,
    /// Granted policy and priority, such as `SCHED_FIFO 60`, or the reason why not.
    pub scheduling: String,
    /// Whether real-time priority was asked for and refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
    /// Largest lateness of a wake-up since start, in microseconds; absent where it is not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lateness_max_us: Option<u64>,
    /// How late it woke after the moments that it had set itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lateness: Option<DurationStatus>,
}

/// Turns of the driver since this program began, by what woke it; one may have several causes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turns {
    /// All of them.
    pub all: u64,
    /// Its own timer, at the core's deadline.
    pub timer: u64,
    /// The ring buffer of the kernel side: news of a heartbeat, an answer, or a suspicion.
    pub changes: u64,
    /// Of these, those in which the judge in the kernel told that a path is silent.
    pub suspicions: u64,
    /// Datagrams on UDP sockets.
    pub sockets: u64,
    /// Serial lines.
    pub lines: u64,
    /// Letters of the daemon's other threads.
    pub letters: u64,
    /// The end of the keeper.
    pub keeper: u64,
}

/// Everything that shows state, at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Name of the cluster.
    pub cluster: String,
    /// The reporting node.
    pub node: NodeName,
    /// Version of its daemon.
    pub version: String,
    /// Process id of its daemon.
    pub pid: u32,
    /// Process id of its keeper.
    pub keeper_pid: Option<u32>,
    /// Its incarnation.
    pub incarnation: u64,
    /// Interval between two of its heartbeats, microseconds.
    pub keepalive_us: u64,
    /// Silence after which it calls a peer dead, microseconds; the longest, where it is `"auto"`.
    pub deadtime_us: u64,
    /// The shortest, where it is `"auto"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadtime_min_us: Option<u64>,
    /// Whether memory is locked, or the reason why not.
    pub memory: String,
    /// How much time the kernel gives to real-time threads.
    #[serde(default)]
    pub realtime_limits: String,
    /// What of it is too little; priority and locked memory that were refused. After `; `, what helps.
    #[serde(default)]
    pub realtime_warnings: Vec<String>,
    /// Real-time threads.
    pub threads: Vec<ThreadStatus>,
    /// How often this node noticed that it had not run itself; a pause that goes on counts again with
    /// every look.
    #[serde(default)]
    pub own_pauses: u64,
    /// What woke the driver.
    #[serde(default)]
    pub driver_turns: Turns,
    /// Nodes, in configured order, the reporting node included.
    pub nodes: Vec<NodeStatus>,
    /// Groups.
    pub groups: Vec<GroupStatus>,
    /// Ping targets.
    #[serde(default)]
    pub connectivity: ConnectivityStatus,
    /// Votes.
    pub quorum: Quorum,
    /// Packets judged, by reason (`accepted`, `bad-tag`, ...); all links together.
    pub packets: std::collections::BTreeMap<String, u64>,
    /// Number of events so far.
    pub events: u64,
    /// The same by kind; a kind that did not happen is not there.
    #[serde(default)]
    pub events_by_kind: std::collections::BTreeMap<String, u64>,
    /// Lines of the log that were lost: standard error, a file or syslog did not take them in time.
    #[serde(default)]
    pub log_lines_dropped: u64,
}

#[cfg(test)]
mod tests;
