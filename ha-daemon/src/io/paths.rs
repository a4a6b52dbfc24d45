//! Paths: each peer on each link that it shares with this node, numbered. The number is the slot in
//! the kernel's `links` map, in the daemon's own table and in everything that goes by path.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result};
use ha_common::frame::mapped;
use ha_common::maps::{Audience, Endpoint, Path as PathKey, SLOTS_MAX, Site};
use ha_common::wire::by_arrival;

use super::own_addresses::OwnAddresses;
use crate::config::{self, Config, Link, LinkIdentity, LinkIndex, LinkKind, NodeIndex};
use crate::names::InterfaceName;

mod station;

/// Most own addresses at which answers are expected on one link.
const RETURNS_MAX: usize = 8;

/// Where packets of a serial line "arrive": numbers above those of all interfaces, by link.
const SERIAL_INTERFACES: u32 = 1 << 31;

/// One peer on one link.
#[derive(Debug, Clone)]
pub struct Path {
    /// The peer.
    pub peer: NodeIndex,
    /// The link.
    pub link: LinkIndex,
    /// As packets name it.
    pub key: PathKey,
    /// Silence after which the return of the link is worth an event, nanoseconds.
    pub silence_ns: u64,
    /// What carries it.
    pub carrier: Carrier,
}

/// What carries a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carrier {
    /// UDP on an interface.
    Network(Network),
    /// A serial line.
    Serial(Serial),
}

/// A serial line to the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serial {
    /// This node's character device.
    pub device: PathBuf,
}

/// UDP on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// This node's interface on the link.
    pub interface: InterfaceName,
    /// Its index.
    pub interface_index: u32,
    /// Where this node receives what is sent on the link, at least one; the same for all paths of
    /// the link. Its datagrams leave through the socket of the first.
    pub entrances: Vec<Entrance>,
    /// Where what is for the peer is sent, at least one.
    pub remotes: Vec<SocketAddr>,
    /// This node's own addresses on the interface, those that come and go with groups left out.
    pub own: Vec<IpAddr>,
    /// The interface's hardware address.
    pub mac: Option<[u8; 6]>,
    /// Addresses of this node and of the peer for a control connection, where they are known.
    pub ends: Option<Ends>,
}

/// An address and port on which a link is received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entrance {
    /// Address and port.
    pub address: SocketAddr,
    /// Who else hears it.
    pub audience: Audience,
    /// How what is sent there travels.
    pub cast: Cast,
}

/// How a datagram travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cast {
    /// To one host.
    Unicast,
    /// To a multicast group.
    Multicast {
        /// TTL or hop limit.
        ttl: u8,
        /// Whether this host hears its own.
        loopback: bool,
    },
    /// To all hosts of a network.
    Broadcast,
}

/// Both ends of a control connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// This node's.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
}

/// All paths of a node, in the order of their slots.
///
/// # Errors
/// An interface that does not exist, or does not have the address that its link needs.
pub fn of(config: &Config, own: NodeIndex) -> Result<Vec<Path>> {
    planned(config, own, &OwnAddresses::read()?, &interface_index)
}

fn planned(
    config: &Config,
    own: NodeIndex,
    addresses: &OwnAddresses,
    index_of: &dyn Fn(&InterfaceName) -> Result<u32>,
) -> Result<Vec<Path>> {
    let mut paths = Vec::new();
    for (link, mine) in &config.nodes[own.0].endpoints {
        let station = station::Station { config, link: *link, addresses };
        for (peer, node) in config.nodes.iter().enumerate().filter(|(peer, _)| *peer != own.0) {
            let Some(theirs) = node.endpoints.get(link) else { continue };
            let carrier = station.carrier(mine, theirs, index_of)?;
            paths.push(path(config, *link, NodeIndex(peer), carrier));
        }
    }
    anyhow::ensure!(paths.len() <= SLOTS_MAX, "{} paths; at most {SLOTS_MAX} fit", paths.len());
    Ok(paths)
}

fn path(config: &Config, link: LinkIndex, peer: NodeIndex, carrier: Carrier) -> Path {
    let mut path = Path {
        peer,
        link,
        key: PathKey::new(0, 0, 0),
        silence_ns: config.times(link).warntime.as_nanos() as u64,
        carrier,
    };
    let named = link_number(&config.links[link.0]);
    path.key = PathKey::new(config.nodes[peer.0].id, named, path.interface_index());
    path
}

/// What packets say of a link.
#[must_use]
pub fn link_number(link: &Link) -> u32 {
    match (link.identity, &link.kind) {
        (LinkIdentity::Name, _) => link.id,
        (LinkIdentity::Arrival, LinkKind::Ucast { .. }) => by_arrival::UCAST,
        (LinkIdentity::Arrival, LinkKind::Mcast { .. }) => by_arrival::MCAST,
        (LinkIdentity::Arrival, LinkKind::Bcast) => by_arrival::BCAST,
        (LinkIdentity::Arrival, LinkKind::Serial { .. }) => by_arrival::SERIAL,
    }
}

/// Index of an interface.
///
/// # Errors
/// It does not exist.
pub fn interface_index(name: &InterfaceName) -> Result<u32> {
    nix::net::if_::if_nametoindex(name.as_str()).with_context(|| {
        format!("interface {name} does not exist on this host (`ip link` lists those that do)")
    })
}

impl Path {
    /// Its network, unless it is a serial line.
    #[must_use]
    pub fn network(&self) -> Option<&Network> {
        match &self.carrier {
            Carrier::Network(network) => Some(network),
            Carrier::Serial(_) => None,
        }
    }

    /// Index of the interface on which its packets arrive; on a serial line, a number that no
    /// interface has and that is the line's alone.
    #[must_use]
    pub fn interface_index(&self) -> u32 {
        let line = SERIAL_INTERFACES + u32::try_from(self.link.0).unwrap_or_default();
        self.network().map_or(line, |network| network.interface_index)
    }

    /// The interface or the device, for display.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.carrier {
            Carrier::Network(network) => network.interface.to_string(),
            Carrier::Serial(serial) => serial.device.display().to_string(),
        }
    }
}

/// An address as packets are looked up by.
fn in_packets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => mapped(address.octets()),
        IpAddr::V6(address) => address.octets(),
    }
}

impl Network {
    /// Where datagrams of the link arrive, who hears them, and from where probes are answered.
    pub fn endpoints(&self) -> impl Iterator<Item = (Endpoint, Site)> + '_ {
        self.entrances.iter().map(|entrance| {
            let address = in_packets(entrance.address.ip());
            let site = match entrance.cast {
                Cast::Unicast => Site::own(entrance.audience, address),
                Cast::Multicast { .. } | Cast::Broadcast => {
                    let own = self.own_beside(entrance).next().map(in_packets);
                    Site::shared(self.mac, own)
                }
            };
            (self.endpoint(address, entrance.address.port()), site)
        })
    }

    /// Where answers to this node's probes arrive besides: its own addresses, from which what it
    /// sends to a group leaves.
    pub fn returns(&self) -> impl Iterator<Item = (Endpoint, Site)> + '_ {
        let shared = self.entrances.iter().filter(|it| it.cast != Cast::Unicast);
        shared.flat_map(|entrance| {
            self.own_beside(entrance).take(RETURNS_MAX).map(|own| {
                let address = in_packets(own);
                let endpoint = self.endpoint(address, entrance.address.port());
                (endpoint, Site::own(Audience::One, address))
            })
        })
    }

    /// Own addresses of an entrance's family.
    fn own_beside(&self, entrance: &Entrance) -> impl Iterator<Item = IpAddr> + '_ {
        let v4 = entrance.address.is_ipv4();
        self.own.iter().copied().filter(move |own| own.is_ipv4() == v4)
    }

    fn endpoint(&self, address: [u8; 16], port: u16) -> Endpoint {
        Endpoint { interface: self.interface_index, port: u32::from(port), address }
    }

    /// TTL or hop limit of what is sent to a multicast group.
    #[must_use]
    pub fn hops(&self) -> u8 {
        match self.entrances.first().map(|entrance| entrance.cast) {
            Some(Cast::Multicast { ttl, .. }) => ttl,
            Some(Cast::Unicast | Cast::Broadcast) | None => 1,
        }
    }

    /// The address from which a datagram may leave without a port of its own: the node's own, or
    /// what the kernel chooses.
    #[must_use]
    pub fn source(&self) -> Option<SocketAddr> {
        let first = self.entrances.first()?;
        let address = match (first.cast, first.address) {
            (Cast::Unicast, address) => address.ip(),
            (_, SocketAddr::V4(_)) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            (_, SocketAddr::V6(_)) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        Some(SocketAddr::new(address, 0))
    }
}

#[cfg(test)]
mod tests;
