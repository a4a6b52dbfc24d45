//! Configuration: what an operator wrote, parsed once at the edge into checked types.
//!
//! `load` turns a TOML file into a [`Config`]; every other part of the daemon only sees that.
//! The same file is used on every node: nodes are referred to by [`NodeIndex`], links by
//! [`LinkIndex`], groups by [`GroupIndex`], which are positions in the vectors below and never
//! leave this process (packets carry the `id`s, which are derived from the names).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::names::{GroupName, InterfaceName, LinkName, NodeName};

pub mod authkeys;
pub mod check;
mod file;
mod finding;
mod load;

pub use finding::{ConfigError, Finding, Position, Severity, exit_code};
pub use load::{CONFIG_BYTES_MAX, load, load_with_warnings, parse};

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
/// Shortest lifetime of an address in the kernel: its renewal every second may be late twice.
pub const ADDRESS_LIFETIME_MIN: Duration = Duration::from_secs(3);
/// Longest lifetime of an address in the kernel.
pub const ADDRESS_LIFETIME_MAX: Duration = Duration::from_secs(3600);
/// Most announcements of a takeover that are sent back to back.
pub const BURST_MAX: u32 = 64;
/// Most announcements that follow later.
pub const REPEAT_MAX: usize = 64;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKind {
    /// UDP to each peer's own address.
    Ucast,
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
    /// Silence after which a peer is dead. Default 200 ms.
    pub deadtime: Duration,
    /// Silence after which a peer is late. Default half of `deadtime`, at least `keepalive`.
    pub warntime: Duration,
    /// `deadtime` while this node has just started. Default: the larger of 10 x `deadtime` and 1 s.
    pub initdead: Duration,
    /// UDP port of heartbeats and control messages, TCP port of control connections.
    pub port: u16,
    /// See [`OnDoubt`]. Default take.
    pub on_doubt: OnDoubt,
    /// How long an address stays on the host when daemon and keeper are both gone: its lifetime in
    /// the kernel, renewed every second. Whole seconds, 3 s to 1 h. Default 5 s.
    pub address_lifetime: Duration,
    /// Where the incarnation survives a reboot. `None`: `/var/lib/ha`, or the run directory when
    /// that is not the default one.
    pub state_dir: Option<PathBuf>,
}

/// Method by which heartbeats are authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    /// SipHash-2-4, 64-bit tag.
    SipHash24,
}

/// One key of the key file.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthKey {
    /// Number in the key file, 0..=15; travels in every packet.
    pub number: u8,
    /// Method.
    pub method: AuthMethod,
    /// 128-bit key: the first 16 bytes of SHA-256 of the key word in the file.
    pub secret: [u8; 16],
}

impl std::fmt::Debug for AuthKey {
    // A key never appears in a log or an error.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "AuthKey {{ number: {}, method: {:?}, secret: (hidden) }}",
            self.number, self.method
        )
    }
}

/// All keys; the active one signs, every one is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRing {
    /// Number of the key that signs.
    pub active: u8,
    /// Keys by number.
    pub keys: Vec<AuthKey>,
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
    /// How to receive.
    pub receive: Receive,
}

/// Where a node is on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address there.
    pub address: IpAddr,
    /// The interface on that node.
    pub interface: InterfaceName,
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
    },
}

impl Resource {
    /// What it is, for display: the address with its prefix.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Self::Address { address, .. } => address.to_string(),
        }
    }

    /// Its kind as the configuration spells it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Address { .. } => "address",
        }
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
    /// Resources in starting order.
    pub resources: Vec<Resource>,
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
    /// Links, by name.
    pub links: Vec<Link>,
    /// Nodes, by name.
    pub nodes: Vec<Node>,
    /// Groups, by name.
    pub groups: Vec<Group>,
}

impl Config {
    /// Position of the node with that name.
    #[must_use]
    pub fn node_named(&self, name: &NodeName) -> Option<NodeIndex> {
        self.nodes.iter().position(|node| node.name == *name).map(NodeIndex)
    }
}
