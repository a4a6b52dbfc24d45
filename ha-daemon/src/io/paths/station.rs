//! Where a node is on a link: what it listens to, and where what is for a peer goes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use ha_common::maps::Audience;

use super::config::Endpoint;
use super::{Carrier, Cast, Config, Ends, Entrance, LinkIndex, LinkKind, Network, Serial};
use crate::config::Resource;
use crate::io::own_addresses::{OwnAddress, OwnAddresses};
use crate::names::InterfaceName;

/// Most addresses on which one link is received: what is configured for the hosts of a failover
/// cluster is one or two, and the map of endpoints has room for eight links of eight.
const ENTRANCES_MAX: usize = 8;

/// This node on a link.
pub(super) struct Station<'a> {
    pub(super) config: &'a Config,
    pub(super) link: LinkIndex,
    pub(super) addresses: &'a OwnAddresses,
}

impl Station<'_> {
    /// What carries the path between two endpoints of the link.
    pub(super) fn carrier(
        &self,
        mine: &Endpoint,
        theirs: &Endpoint,
        index_of: &dyn Fn(&InterfaceName) -> Result<u32>,
    ) -> Result<Carrier> {
        let interface = match mine {
            Endpoint::Network { interface, .. } => interface,
            Endpoint::Serial { device } => {
                return Ok(Carrier::Serial(Serial { device: device.clone() }));
            }
        };
        let link = &self.config.links[self.link.0];
        let interface_index = index_of(interface)?;
        let routes = match &link.kind {
            LinkKind::Ucast { remotes } if remotes.is_empty() => self.to_peer(mine, theirs),
            LinkKind::Ucast { remotes } => self.to_remotes(remotes, mine, interface),
            LinkKind::Mcast { group, ttl, loopback } => {
                let cast = Cast::Multicast { ttl: *ttl, loopback: *loopback };
                Ok(self.to_group(*group, cast))
            }
            LinkKind::Bcast => self.to_everybody(mine, interface),
            LinkKind::Serial { .. } => bail!("a serial line has devices, not interfaces"),
        };
        let routes = routes.with_context(|| format!("link {} on {interface}", link.name))?;
        let Routes { mut entrances, remotes, ends } = routes;
        entrances.truncate(ENTRANCES_MAX);
        let interface = interface.clone();
        let own = self.own(&interface).map(OwnAddress::ip).collect();
        let mac = self.addresses.mac(&interface);
        Ok(Carrier::Network(Network {
            interface,
            interface_index,
            entrances,
            remotes,
            own,
            mac,
            ends,
        }))
    }

    fn socket(&self, address: IpAddr) -> SocketAddr {
        SocketAddr::new(address, self.config.links[self.link.0].port)
    }

    fn entrance(&self, address: IpAddr, audience: Audience, cast: Cast) -> Entrance {
        Entrance { address: self.socket(address), audience, cast }
    }

    /// The configuration says who is where.
    fn to_peer(&self, mine: &Endpoint, theirs: &Endpoint) -> Result<Routes> {
        let remedy = "give every node its address, or the link its remotes";
        let local = mine.address().with_context(|| format!("no address here: {remedy}"))?;
        let remote = theirs.address().with_context(|| format!("a peer has none: {remedy}"))?;
        let (local, remote) = (self.socket(local), self.socket(remote));
        Ok(Routes {
            entrances: vec![self.entrance(local.ip(), Audience::One, Cast::Unicast)],
            remotes: vec![remote],
            ends: Some(Ends { local, remote }),
        })
    }

    /// It only says where somebody is: what is for any peer goes to all of them but this host.
    fn to_remotes(
        &self,
        remotes: &[IpAddr],
        mine: &Endpoint,
        interface: &InterfaceName,
    ) -> Result<Routes> {
        let others = remotes.iter().filter(|it| !self.addresses.contains(**it)).copied();
        let others: Vec<IpAddr> = others.collect();
        let two = self.config.nodes.len() == 2;
        let shown = || remotes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        ensure!(
            !others.is_empty(),
            "every address of it ({}) is one of this host's own: add the peer's",
            shown()
        );
        ensure!(
            !two || others.len() == 1,
            "{} addresses of it ({}) are not this host's own, but there is one peer: name the peer's \
             address, and this host's where the file is shared",
            others.len(),
            shown()
        );
        let family = others[0].is_ipv4();
        let mut own: Vec<IpAddr> = match mine.address() {
            Some(address) => vec![address],
            None => self.own(interface).map(OwnAddress::ip).collect(),
        };
        own.retain(|address| address.is_ipv4() == family);
        // The address that the remote ones can answer comes first: datagrams leave from it.
        own.sort_by_key(|address| !self.is_neighbour(interface, *address, others[0]));
        let local = *own.first().with_context(|| {
            let family = if family { "IPv4" } else { "IPv6" };
            format!("{interface} has no {family} address: give it one (`ip addr add`)")
        })?;
        let audience = if two { Audience::One } else { Audience::Several };
        let remotes: Vec<SocketAddr> = others.into_iter().map(|it| self.socket(it)).collect();
        let ends = Ends { local: self.socket(local), remote: remotes[0] };
        Ok(Routes {
            entrances: own.iter().map(|it| self.entrance(*it, audience, Cast::Unicast)).collect(),
            remotes,
            ends: two.then_some(ends),
        })
    }

    fn to_group(&self, group: IpAddr, cast: Cast) -> Routes {
        Routes {
            entrances: vec![self.entrance(group, Audience::Several, cast)],
            remotes: vec![self.socket(group)],
            ends: None,
        }
    }

    fn to_everybody(&self, mine: &Endpoint, interface: &InterfaceName) -> Result<Routes> {
        let wanted = mine.address();
        let networks = self.own(interface).filter(|own| wanted.is_none_or(|it| it == own.ip()));
        let mut heard: Vec<IpAddr> =
            networks.filter_map(|own| own.broadcast).map(IpAddr::V4).collect();
        heard.dedup();
        let first = *heard.first().with_context(|| match wanted {
            Some(address) => {
                format!("{interface} does not have {address} with a broadcast address")
            }
            None => format!(
                "{interface} has no IPv4 address with a broadcast address: give it one (`ip addr \
                 add ADDRESS/PREFIX brd + dev {interface}`)"
            ),
        })?;
        heard.truncate(ENTRANCES_MAX - 1);
        heard.push(Ipv4Addr::BROADCAST.into());
        let entrance = |address| self.entrance(address, Audience::Several, Cast::Broadcast);
        Ok(Routes {
            entrances: heard.into_iter().map(entrance).collect(),
            remotes: vec![self.socket(first)],
            ends: None,
        })
    }

    /// The interface's addresses, without those that come and go with the groups.
    fn own(&self, interface: &InterfaceName) -> impl Iterator<Item = &OwnAddress> {
        let floats = |ip: IpAddr| {
            let mut resources = self.config.groups.iter().flat_map(|group| &group.resources);
            resources
                .any(|it| matches!(it, Resource::Address { address, .. } if address.addr() == ip))
        };
        self.addresses.of(interface).iter().filter(move |own| !floats(own.ip()))
    }

    fn is_neighbour(&self, interface: &InterfaceName, own: IpAddr, other: IpAddr) -> bool {
        let mut networks = self.addresses.of(interface).iter();
        networks.any(|it| it.ip() == own && it.network.contains(&other))
    }
}

/// Ways in and out.
struct Routes {
    entrances: Vec<Entrance>,
    remotes: Vec<SocketAddr>,
    ends: Option<Ends>,
}
