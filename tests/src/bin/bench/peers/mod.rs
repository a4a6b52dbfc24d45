//! Other failover programs on the same topology, each in a bed of its own with files of its own, so
//! that nothing global is touched. They are installed where that is possible.

mod bfdd;
mod heartbeat;
mod keepalived;
mod packages;
mod subject;

use anyhow::Result;
use clap::ValueEnum;

pub(crate) use bfdd::Bfdd;
pub(crate) use heartbeat::Heartbeat;
pub(crate) use keepalived::Keepalived;
pub(crate) use packages::provide;
pub(crate) use subject::Subject;

use crate::pair::{Pair, Timing};

/// A program that is measured beside ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PeerName {
    /// VRRP version 3, unicast
    Keepalived,
    /// BFD of FRR: judges, moves nothing
    Bfdd,
    /// Linux-HA Heartbeat
    Heartbeat,
}

impl PeerName {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Keepalived, Self::Bfdd, Self::Heartbeat];

    /// As options and tables write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Keepalived => "keepalived",
            Self::Bfdd => "bfdd",
            Self::Heartbeat => "heartbeat",
        }
    }

    /// Installs, builds and starts it, and waits until it is where it begins.
    pub(crate) fn start(self, timing: &Timing) -> Result<Box<dyn Peer>> {
        Ok(match self {
            Self::Keepalived => Box::new(Keepalived::start(timing, false)?),
            Self::Bfdd => Box::new(Bfdd::start(timing)?),
            Self::Heartbeat => Box::new(Heartbeat::start(timing)?),
        })
    }

    /// IP protocol and UDP port of its heartbeats, for a flood.
    pub(crate) fn heartbeats(self) -> (u8, u16) {
        const UDP: u8 = 17;
        match self {
            // RFC 5798 5.1.1.4.
            Self::Keepalived => (112, 0),
            // RFC 5881 4.
            Self::Bfdd => (UDP, 3784),
            Self::Heartbeat => (UDP, 694),
        }
    }
}

/// A pair of nodes under such a program, which nobody touches.
pub(crate) trait Peer {
    /// What it says of itself.
    fn version(&self) -> &str;
    /// The nodes and their observers.
    fn pair(&self) -> &Pair;
    /// The same, for plugging further hosts in.
    fn pair_mut(&mut self) -> &mut Pair;
    /// Whether it moves an address.
    fn moves_address(&self) -> bool;
    /// Times that a node was judged dead or a session lost, since the start. What both ends of one
    /// session say counts once.
    fn verdicts(&self) -> Result<u64>;
    /// Removes it.
    fn finish(self: Box<Self>) -> Result<()>;
}
