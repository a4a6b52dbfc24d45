//! What operators, scripts and other programs see of the daemon and how they ask: a socket in the
//! run directory that speaks HTTP and JSON, metrics for Prometheus and its kind, the log of events behind it, and the client that
//! `hactl` is made of.
//!
//! Nothing here is on the path of a heartbeat. It runs on tokio, asks the driver for a
//! [`Snapshot`](crate::snapshot::Snapshot) and waits for it; the driver waits for nothing here.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::names::NodeName;
use crate::snapshot::{LinkStatus, NodeStatus};

pub mod arrivals;
pub mod backend;
pub mod client;
pub mod command;
mod event_kinds;
pub mod event_log;
pub mod heartbeat;
pub mod metrics;
pub mod parameters;
pub mod render;
mod routes;
pub mod server;
pub mod socket;
mod stall;
mod table;
pub mod wait;

pub use routes::ANSWER_TIME_MAX;

/// Name of the socket in the run directory.
pub const SOCKET_NAME: &str = "control.sock";
/// Where the socket is unless `--run-dir` says otherwise.
pub const SOCKET_DEFAULT: &str = "/run/ha/control.sock";
/// Environment variable that says where it is, for programs that are not told otherwise.
const SOCKET_VARIABLE: &str = "HA_SOCKET";
/// Connections served at the same time; further ones wait to be accepted.
pub const CONNECTIONS_MAX: usize = 64;
/// Connections that may follow events at the same time; further ones are refused.
pub const FOLLOWERS_MAX: usize = 32;

/// Where a program that asks the daemon finds it: where it was told, else where the environment says.
#[must_use]
pub fn socket_path(told: Option<PathBuf>) -> PathBuf {
    let variable = || std::env::var_os(SOCKET_VARIABLE).map(PathBuf::from);
    told.or_else(variable).unwrap_or_else(|| SOCKET_DEFAULT.into())
}

/// How a refused request is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong.
    pub error: String,
    /// What to do about it.
    pub remedy: String,
}

/// That a hand-over begins: its end is an event after this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandOverBegins {
    /// Number of the last event before it.
    pub last_event: u64,
}

/// A link together with the peer that it leads to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerLink {
    /// The node at its other end.
    pub peer: NodeName,
    /// The link.
    #[serde(flatten)]
    pub link: LinkStatus,
}

/// The links of all nodes, in the order of the nodes.
#[must_use]
pub fn peer_links(nodes: Vec<NodeStatus>) -> Vec<PeerLink> {
    nodes
        .into_iter()
        .flat_map(|node| {
            let peer = node.name;
            node.links.into_iter().map(move |link| PeerLink { peer: peer.clone(), link })
        })
        .collect()
}
