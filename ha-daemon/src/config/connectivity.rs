//! What is pinged, and what follows from it.

use std::net::IpAddr;
use std::time::Duration;

use super::PING_INTERVAL_MIN;

/// Something outside of the cluster that answers pings, so that nodes can compare what they reach:
/// it is reached while any of its members answers (Heartbeat's `ping` and `ping_group`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PingTarget {
    /// Name for display: the group's, or the host as it was written.
    pub name: String,
    /// Addresses that are asked.
    pub members: Vec<IpAddr>,
}

/// Ping nodes, and what follows from what they tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connectivity {
    /// What is asked, by name; empty = nothing.
    pub targets: Vec<PingTarget>,
    /// Interval of the requests. Default: the cluster's keepalive, at least 100 ms.
    pub interval: Duration,
    /// Silence after which a target is not reached (Heartbeat's `deadping`). Default: the larger of
    /// `deadtime` and 3 x `interval`.
    pub deadping: Duration,
    /// Whether groups move to the node that reaches more (Heartbeat's `ipfail`). Default yes.
    pub moves_groups: bool,
    /// How long a difference must last before a group moves. Default 2 x `interval`.
    pub damping: Duration,
    /// Whether a silent peer's addresses are asked for before they are taken. Default auto.
    pub probe_before_take: ProbeBeforeTake,
    /// What an owner does that hears no peer and reaches no ping node. Default release.
    pub isolated_owner: IsolatedOwner,
}

/// Whether a node asks the service network (ARP, neighbour discovery) who has an address, before it
/// takes it from a peer that is only silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeBeforeTake {
    /// When ping nodes are configured, so that the time of a failover without them stays as it is.
    Auto,
    /// Always.
    Always,
    /// Never: somebody on the network answers for every address (proxy ARP).
    Never,
}

/// What an owner does that has lost all its peers, and every ping node that it had reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IsolatedOwner {
    /// It releases what a silent candidate may have taken.
    Release,
    /// It goes on.
    Keep,
}

impl Connectivity {
    /// Whether a silent peer's addresses are asked for before they are taken.
    #[must_use]
    pub fn probes(&self) -> bool {
        match self.probe_before_take {
            ProbeBeforeTake::Auto => !self.targets.is_empty(),
            ProbeBeforeTake::Always => true,
            ProbeBeforeTake::Never => false,
        }
    }

    /// All addresses that are asked.
    pub fn members(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.targets.iter().flat_map(|target| target.members.iter().copied())
    }

    /// No ping nodes, in a cluster of this timing.
    #[must_use]
    pub fn none(keepalive: Duration, deadtime: Duration) -> Self {
        let interval = keepalive.max(PING_INTERVAL_MIN);
        Self {
            targets: Vec::new(),
            interval,
            deadping: deadtime.max(interval * 3),
            moves_groups: true,
            damping: interval * 2,
            probe_before_take: ProbeBeforeTake::Auto,
            isolated_owner: IsolatedOwner::Release,
        }
    }
}
