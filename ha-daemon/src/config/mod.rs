//! Configuration: what an operator wrote, parsed once at the edge into checked types.
//!
//! `load` turns a TOML file into a [`Config`]; every other part of the daemon only sees that.
//! The same file is used on every node: nodes are referred to by [`NodeIndex`], links by
//! [`LinkIndex`], groups by [`GroupIndex`], which are positions in the vectors below and never
//! leave this process (packets carry the `id`s, which are derived from the names).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::names::{GroupName, InterfaceName, LinkName, NodeName};

pub mod authkeys;
pub mod check;
mod client_rules;
mod connectivity;
pub mod convert;
mod file;
mod finding;
pub mod heartbeat;
mod holder;
mod keys;
mod link_rules;
mod load;
mod recovery;
pub mod serial;
mod time_rules;
mod times;

pub use connectivity::{Connectivity, IsolatedOwner, PingTarget, ProbeBeforeTake};
pub use finding::{ConfigError, Finding, Position, Severity, exit_code};
pub use holder::{HolderMemory, HolderTimes};
pub use keys::{AuthKey, AuthMethod, KeyRing};
pub use link_rules::{LinkFinding, link_findings};
pub(crate) use load::is_unit_name;
pub use load::{CONFIG_BYTES_MAX, load, load_with_warnings, parse};
pub use recovery::{
    MONITOR_DEFAULT, MONITOR_MIN, RESTART_WINDOW_DEFAULT, RESTART_WINDOW_MIN, RESTARTS_DEFAULT,
    RESTARTS_MAX, Recovery, RecoveryPolicy, status_time,
};
pub use times::{Auto, Times};

/// UDP and TCP port unless configured otherwise: `ha-cluster`, IANA's registration for Linux-HA.
pub const PORT_DEFAULT: u16 = 694;
/// Most nodes in a cluster; the BPF maps are sized for it.
pub const NODES_MAX: usize = 64;
/// Most links in a cluster.
pub const LINKS_MAX: usize = 8;
/// Most groups in a cluster: their states fit into one unfragmented control message.
pub const GROUPS_MAX: usize = 64;
/// Most resources in a group.
pub const RESOURCES_MAX: usize = 64;
/// Shortest keepalive that is accepted.
pub const KEEPALIVE_MIN: Duration = Duration::from_micros(500);
/// Longest duration that is accepted anywhere.
pub const DURATION_MAX: Duration = Duration::from_secs(3600);
/// Shortest [`Cluster::daemon_deadtime`]: three quarters of it are some wake-ups of an idle driver.
pub const DAEMON_DEADTIME_MIN: Duration = Duration::from_secs(1);
/// Least margin between a holder's lease and the wait of who would take from it.
pub const LEASE_MARGIN_MIN: Duration = Duration::from_millis(250);
/// Least default of [`Cluster::daemon_deadtime`].
pub const DAEMON_DEADTIME_DEFAULT_MIN: Duration = Duration::from_secs(3);
/// Shortest lifetime of an address in the kernel, which counts them in seconds.
pub const ADDRESS_LIFETIME_MIN: Duration = Duration::from_secs(1);
/// Longest lifetime of an address in the kernel.
pub const ADDRESS_LIFETIME_MAX: Duration = Duration::from_secs(3600);
/// Lifetime of an address in the kernel unless configured otherwise, where [`Cluster::daemon_deadtime`]
/// leaves so much.
pub const ADDRESS_LIFETIME_DEFAULT_MAX: Duration = Duration::from_secs(2);
/// How long the kernel may keep an address beyond its lifetime: it looks at the second after the end
/// where that is within 250 ms, and not within a second of its last look (ADDRCONF_TIMER_FUZZ and
/// ADDRCONF_TIMER_FUZZ_MAX, include/net/addrconf.h).
pub const ADDRESS_LIFETIME_LATE_MAX: Duration = Duration::from_secs(1);
/// Shortest time that a script may take.
pub const SCRIPT_TIMEOUT_MIN: Duration = Duration::from_millis(100);
/// How long a script may take unless configured otherwise.
pub const SCRIPT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// Most announcements of a takeover that are sent back to back.
pub const BURST_MAX: u32 = 64;
/// Most announcements that follow later.
pub const REPEAT_MAX: usize = 64;
/// Shortest default interval of the requests to a ping node.
pub const PING_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Most ping nodes and ping groups.
pub const PING_TARGETS_MAX: usize = 64;
/// Most client programs.
pub const CLIENTS_MAX: usize = 64;
/// Most arguments of a script or client.
pub const ARGUMENTS_MAX: usize = 256;
/// Longest label of an address (linux/if.h: IFNAMSIZ, with its end).
pub const ADDRESS_LABEL_BYTES_MAX: usize = 15;
/// Most members of a ping group.
pub const PING_MEMBERS_MAX: usize = 16;
/// Shortest interval of an owner's announcements.
pub const REFRESH_MIN: Duration = Duration::from_secs(1);

/// Position of a node in [`Config::nodes`].
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct NodeIndex(pub usize);
/// Position of a link in [`Config::links`].
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct LinkIndex(pub usize);
/// Position of a group in [`Config::groups`].
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct GroupIndex(pub usize);

/// What to do with a silent peer's groups when no arbiter can tell whether it is dead or cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDoubt {
    /// Take them over (as Heartbeat does without STONITH).
    Take,
    /// Leave them where they are until the peer is heard again or says that it released them.
    Hold,
}

/// Whether a group returns to a more preferred node that comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failback {
    /// It returns by itself.
    Auto,
    /// It stays until an operator moves it.
    Manual,
}

/// How heartbeats of a link are to be received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receive {
    /// The best that works: native XDP, generic XDP, TC ingress, socket, in this order.
    Auto,
    /// Only native XDP, else refuse to start.
    XdpNative,
    /// Only generic XDP, else refuse to start.
    XdpGeneric,
    /// Only TC ingress, else refuse to start.
    Tc,
    /// The user-space socket.
    Socket,
}

/// Kind of a heartbeat link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    /// UDP to each peer's own address.
    Ucast {
        /// Where peers are, when the configuration does not say which node has which address (as in
        /// `ha.cf`): what is for any peer goes to each of them. This node's own are left out when
        /// it sends. Empty when [`Endpoint`]s have addresses.
        remotes: Vec<IpAddr>,
    },
    /// UDP to a multicast group.
    Mcast {
        /// The group, IPv4 (class D) or IPv6.
        group: IpAddr,
        /// IPv4 TTL or IPv6 hop limit, 0..=255. Default 1: the packet stays on its network.
        ttl: u8,
        /// Whether this host hears its own packets (`IP_MULTICAST_LOOP`). Default no.
        loopback: bool,
    },
    /// UDP to the broadcast address of the interface's network.
    Bcast,
    /// A serial line between two nodes.
    Serial {
        /// Bits per second, 8N1: ten of them carry a byte. Default 19,200.
        baud: u32,
    },
}

impl LinkKind {
    /// The kind as the configuration spells it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Ucast { .. } => "ucast",
            Self::Mcast { .. } => "mcast",
            Self::Bcast => "bcast",
            Self::Serial { .. } => "serial",
        }
    }

    /// Some address of the one family that it works with, when its kind alone tells.
    #[must_use]
    pub fn family(&self) -> Option<IpAddr> {
        match self {
            Self::Ucast { remotes } => remotes.first().copied(),
            Self::Mcast { group, .. } => Some(*group),
            Self::Bcast => Some(Ipv4Addr::BROADCAST.into()),
            Self::Serial { .. } => None,
        }
    }
}

/// How a packet says which link it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkIdentity {
    /// By the link's name, which all nodes share (TOML).
    Name,
    /// By its kind and where it arrives, because each node may call the interface by another name
    /// (Heartbeat's files).
    Arrival,
}

/// Timing and policy of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Name; nodes of another name are not heard.
    pub name: String,
    /// [`ha_common::wire::name_id`] of the name.
    pub id: u32,
    /// Interval between two heartbeats. Default 50 ms.
    pub keepalive: Duration,
    /// Silence after which a peer is dead. Default 200 ms. The longest that holds, where it is
    /// [`Auto`]; every other time goes by that.
    pub deadtime: Duration,
    /// Whether `deadtime` follows what arrives. Default no.
    pub auto: Option<Auto>,
    /// Silence after which a peer is late. Default half of `deadtime`, at least `keepalive`.
    pub warntime: Duration,
    /// `deadtime` while this node has just started. Default: the larger of 10 x `deadtime` and 1 s.
    pub initdead: Duration,
    /// How long the daemon of a peer may not run, while the peer's kernel answers, before the peer is
    /// dead. At least `deadtime` and 1 s. Default: the larger of `deadtime` and 3 s.
    pub daemon_deadtime: Duration,
    /// UDP port of heartbeats and control messages, TCP port of control connections.
    pub port: u16,
    /// See [`OnDoubt`]. Default take.
    pub on_doubt: OnDoubt,
    /// How long an address stays on the host when daemon and keeper are both gone: its lifetime in
    /// the kernel, renewed four times in it. Whole seconds, 1 s to 1 h. Default 2 s, 1 s where
    /// `daemon_deadtime` is below 3 s: others must not have taken the address while it lasts.
    pub address_lifetime: Duration,
    /// How long a script or unit may take to start or to stop before it is killed and counts as
    /// failed; its status a third of that, 20 s at most. 100 ms to 1 h. Default 60 s.
    pub script_timeout: Duration,
    /// Where the incarnation survives a reboot. `None`: `/var/lib/ha`, or the run directory when
    /// that is not the default one.
    pub state_dir: Option<PathBuf>,
    /// What other nodes may go by that do not have this configuration yet. Never read: it comes from
    /// the program before.
    pub earlier: Option<HolderTimes>,
}

impl Cluster {
    /// Times of the links that have none of their own.
    #[must_use]
    pub fn times(&self) -> Times {
        let Self { keepalive, warntime, deadtime, auto, .. } = *self;
        Times { keepalive, warntime, deadtime, auto }
    }
}

/// Plan of gratuitous ARP / unsolicited neighbour advertisements after a takeover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnouncePlan {
    /// Packets sent back to back, at once. Default 3.
    pub burst: u32,
    /// Delays after the takeover at which one more is sent.
    /// Default 10 ms, 100 ms, 500 ms, 1 s, 2 s, 5 s, 10 s.
    pub repeat: Vec<Duration>,
    /// Interval at which the owner goes on announcing; `None` = never. Default 60 s.
    pub refresh: Option<Duration>,
}

/// One heartbeat link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Name.
    pub name: LinkName,
    /// [`ha_common::wire::name_id`] of the name.
    pub id: u32,
    /// Kind.
    pub kind: LinkKind,
    /// How packets name it.
    pub identity: LinkIdentity,
    /// UDP port of its heartbeats and control messages; not used on serial lines.
    pub port: u16,
    /// Its own times, where they differ from the cluster's (`None`: they do not).
    pub times: Option<Times>,
    /// How to receive.
    pub receive: Receive,
}

/// Where a node is on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// On a network.
    Network {
        /// The interface on that node.
        interface: InterfaceName,
        /// Its address there, when the configuration says so. TOML always does for `ucast`;
        /// Heartbeat's files never do.
        address: Option<IpAddr>,
    },
    /// At one end of a serial line.
    Serial {
        /// Full path of the character device on that node.
        device: PathBuf,
    },
}

impl Endpoint {
    /// The interface, on a network.
    #[must_use]
    pub fn interface(&self) -> Option<&InterfaceName> {
        match self {
            Self::Network { interface, .. } => Some(interface),
            Self::Serial { .. } => None,
        }
    }

    /// The address, on a network and when the configuration says it.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Network { address, .. } => *address,
            Self::Serial { .. } => None,
        }
    }
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Name, as `uname -n` gives it there.
    pub name: NodeName,
    /// [`ha_common::wire::name_id`] of the name.
    pub id: u32,
    /// Its endpoints. Two nodes share a link when both have an endpoint on it.
    pub endpoints: BTreeMap<LinkIndex, Endpoint>,
}

/// One resource of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// A floating address.
    Address {
        /// Address and prefix length.
        address: IpNet,
        /// Interface that carries it.
        interface: InterfaceName,
        /// Address label as `ifconfig` shows it (`eth0:0`); IPv4 only.
        label: Option<String>,
        /// Broadcast address, where it is not the prefix's own; IPv4 only.
        broadcast: Option<Ipv4Addr>,
    },
    /// The source address that the host uses for what it sends to others than its own networks
    /// (Heartbeat's `IPsrcaddr`). The address itself is another resource, before this one.
    SourceAddress {
        /// The address.
        address: IpAddr,
    },
    /// A script with Heartbeat's interface: `NAME ARGUMENTS... start|stop|status`, found in
    /// `resource.d` of the configuration's directory, then in `/etc/init.d`; where neither has it,
    /// the systemd unit of that name.
    Script {
        /// Name of the script, no path.
        name: String,
        /// Arguments before the operation.
        arguments: Vec<String>,
    },
    /// A systemd unit.
    Systemd {
        /// Full name, such as `nginx.service`.
        unit: String,
    },
}

impl Resource {
    /// What it is, for display: the address with its prefix; a script as `haresources` writes it.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Self::Address { address, .. } => address.to_string(),
            Self::SourceAddress { address } => address.to_string(),
            Self::Script { name, arguments } => {
                let words = std::iter::once(name).chain(arguments);
                words.map(String::as_str).collect::<Vec<_>>().join("::")
            }
            Self::Systemd { unit } => unit.clone(),
        }
    }

    /// Its kind as the configuration spells it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Address { .. } => "address",
            Self::SourceAddress { .. } => "source-address",
            Self::Script { .. } => "script",
            Self::Systemd { .. } => "systemd",
        }
    }
}

/// A client program that the daemon starts and restarts (Heartbeat's `respawn`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// User that it runs as.
    pub user: String,
    /// Absolute path of the program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// Where the log goes besides the standard error stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Logging {
    /// File for messages from level info.
    pub file: Option<PathBuf>,
    /// File for messages from level debug.
    pub debug_file: Option<PathBuf>,
    /// Syslog facility by its name (`local0`, `daemon`); `None` = no syslog.
    pub syslog_facility: Option<String>,
    /// Whether debug messages are wanted at all.
    pub debug: bool,
}

/// How silence becomes a verdict. Both rules are switched off for experiments only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detection {
    /// Whether a silent peer's kernel is asked before the peer is judged. Default yes.
    pub ask: bool,
    /// Whether this node, when it did not run itself, waits for a fresh window. Default yes.
    pub own_pause: bool,
}

impl Default for Detection {
    fn default() -> Self {
        Self { ask: true, own_pause: true }
    }
}

/// Scheduling of the threads that heartbeats depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Realtime {
    /// Whether they ask for `SCHED_FIFO` and locked memory. Default yes.
    pub enabled: bool,
}

/// What becomes of a group when its owner's daemon dies and the host lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDaemonDeath {
    /// Its addresses go at once, and another node takes it.
    Move,
    /// It goes on, for up to [`Cluster::daemon_deadtime`]; a daemon that is back by then adopts it.
    Wait,
}

impl OnDaemonDeath {
    /// What holds unless the configuration says otherwise: an address moves faster than a daemon
    /// starts, a service does not.
    #[must_use]
    pub fn default_of(resources: &[Resource]) -> Self {
        let is_address = |resource: &Resource| matches!(resource, Resource::Address { .. });
        if resources.iter().all(is_address) { Self::Move } else { Self::Wait }
    }
}

/// One resource group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Name.
    pub name: GroupName,
    /// [`ha_common::wire::name_id`] of the name.
    pub id: u32,
    /// Candidates, preferred first.
    pub nodes: Vec<NodeIndex>,
    /// Failback policy. Default auto.
    pub failback: Failback,
    /// See [`OnDaemonDeath`]. Default move for a group of addresses only, wait for any other.
    pub on_daemon_death: OnDaemonDeath,
    /// Whether every candidate has its addresses beforehand, behind a gate in the kernel. Only for groups
    /// of addresses. Default no.
    pub prearmed: bool,
    /// What follows when a service of it has failed.
    pub recovery: Recovery,
    /// Resources in starting order.
    pub resources: Vec<Resource>,
    /// How often each of them is asked for its status while it runs; `None` = never. Beside the resources,
    /// since a change of it changes nothing about them. Default [`MONITOR_DEFAULT`] for scripts and
    /// units, never for addresses, source addresses and Heartbeat's files.
    pub monitors: Vec<Option<Duration>>,
}

impl Group {
    /// How often a resource is asked for its status while it runs.
    #[must_use]
    pub fn monitor(&self, resource: usize) -> Option<Duration> {
        self.monitors.get(resource).copied().flatten()
    }
}

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Timing and policy.
    pub cluster: Cluster,
    /// Keys.
    pub keys: KeyRing,
    /// Announcements.
    pub announce: AnnouncePlan,
    /// Ping nodes.
    pub connectivity: Connectivity,
    /// Client programs.
    pub clients: Vec<Client>,
    /// Log.
    pub logging: Logging,
    /// Scheduling.
    pub realtime: Realtime,
    /// How silence becomes a verdict.
    pub detection: Detection,
    /// Where resource scripts are looked up first. Default: `resource.d` beside the configuration.
    pub script_directory: PathBuf,
    /// Links, by name.
    pub links: Vec<Link>,
    /// Nodes, by name.
    pub nodes: Vec<Node>,
    /// Groups, by name.
    pub groups: Vec<Group>,
}

impl Config {
    /// Times of a link.
    #[must_use]
    pub fn times(&self, link: LinkIndex) -> Times {
        let own = self.links.get(link.0).and_then(|link| link.times);
        own.unwrap_or_else(|| self.cluster.times())
    }

    /// Position of the node with that name.
    #[must_use]
    pub fn node_named(&self, name: &NodeName) -> Option<NodeIndex> {
        self.nodes.iter().position(|node| node.name == *name).map(NodeIndex)
    }
}
