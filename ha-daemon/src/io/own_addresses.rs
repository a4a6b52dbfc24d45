//! The addresses that this host has, by interface, as they are at one moment: where a link listens
//! whose configuration does not say so, and what a node leaves out when a list of addresses names
//! it too.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use ipnet::IpNet;
use nix::sys::socket::SockaddrStorage;

use crate::names::InterfaceName;

/// One address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnAddress {
    /// The address, with the length of its prefix.
    pub network: IpNet,
    /// Where all hosts of that network listen; IPv4 only, and not on every interface.
    pub broadcast: Option<Ipv4Addr>,
}

impl OwnAddress {
    /// The address alone.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.network.addr()
    }
}

/// All addresses of this host.
#[derive(Debug, Clone, Default)]
pub struct OwnAddresses {
    interfaces: BTreeMap<String, Vec<OwnAddress>>,
    macs: BTreeMap<String, [u8; 6]>,
}

impl OwnAddresses {
    /// Reads them, in the network namespace of the calling thread. The order on an interface is the
    /// kernel's: the primary address of a network first.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn read() -> Result<Self> {
        let mut interfaces: BTreeMap<String, Vec<OwnAddress>> = BTreeMap::new();
        let mut macs = BTreeMap::new();
        let entries =
            nix::ifaddrs::getifaddrs().context("cannot read the addresses of this host")?;
        for entry in entries {
            if let Some(mac) = entry.address.as_ref().and_then(mac_address) {
                macs.insert(entry.interface_name, mac);
                continue;
            }
            let ip = entry.address.as_ref().and_then(ip_address);
            let netmask = entry.netmask.as_ref().and_then(ip_address);
            let (Some(ip), Some(netmask)) = (ip, netmask) else { continue };
            let Ok(network) = IpNet::with_netmask(ip, netmask) else { continue };
            let told = entry.broadcast.as_ref().and_then(ip_address);
            let broadcast = broadcast(network, told);
            // getifaddrs names an IPv4 address by its label, such as eth0:1.
            let name = entry.interface_name.split(':').next().unwrap_or_default().to_owned();
            interfaces.entry(name).or_default().push(OwnAddress { network, broadcast });
        }
        Ok(Self { interfaces, macs })
    }

    /// Those of one interface.
    #[must_use]
    pub fn of(&self, interface: &InterfaceName) -> &[OwnAddress] {
        self.interfaces.get(interface.as_str()).map_or(&[], Vec::as_slice)
    }

    /// The hardware address of an interface, if it has one.
    #[must_use]
    pub fn mac(&self, interface: &InterfaceName) -> Option<[u8; 6]> {
        self.macs.get(interface.as_str()).copied()
    }

    /// Whether this host has the address, on whichever interface.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.interfaces.values().flatten().any(|own| own.ip() == address)
    }

    /// Adds one, for tests of what follows from them.
    #[cfg(test)]
    pub(crate) fn with(mut self, interface: &str, address: &str) -> Self {
        let network: IpNet = address.parse().unwrap();
        let own = OwnAddress { network, broadcast: broadcast(network, None) };
        self.interfaces.entry(interface.to_owned()).or_default().push(own);
        self
    }
}

/// The broadcast address of a network. An address that was added without one (`ip addr add` does
/// that) has its prefix's all the same: the kernel makes the route of it. getifaddrs then shows the
/// address itself in its place.
fn broadcast(network: IpNet, told: Option<IpAddr>) -> Option<Ipv4Addr> {
    let IpNet::V4(network) = network else { return None };
    match told {
        Some(IpAddr::V4(told)) if told != network.addr() => Some(told),
        // Two addresses, or one, leave none for it (RFC 3021).
        Some(_) | None => (network.prefix_len() < 31).then(|| network.broadcast()),
    }
}

fn mac_address(storage: &SockaddrStorage) -> Option<[u8; 6]> {
    storage.as_link_addr()?.addr()
}

fn ip_address(storage: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_the_broadcast_address_of_its_prefix_unless_told_otherwise() {
        let of = |network: &str, told: Option<&str>| {
            let told = told.map(|told| told.parse().unwrap());
            broadcast(network.parse().unwrap(), told).map(|it| it.to_string())
        };
        assert_eq!(of("192.0.2.1/24", None).unwrap(), "192.0.2.255");
        assert_eq!(of("192.0.2.1/24", Some("192.0.2.1")).unwrap(), "192.0.2.255");
        assert_eq!(of("192.0.2.1/24", Some("192.0.2.127")).unwrap(), "192.0.2.127");
        assert_eq!(of("192.0.2.0/31", None), None);
        assert_eq!(of("2001:db8::1/64", None), None);
    }

    #[test]
    fn this_host_has_its_loopback_addresses() {
        let own = OwnAddresses::read().unwrap();
        assert!(own.contains("127.0.0.1".parse().unwrap()));
        let loopback = own.of(&"lo".parse().unwrap());
        assert!(loopback.iter().any(|it| it.ip().is_loopback()), "{loopback:?}");
        assert!(!own.contains("192.0.2.77".parse().unwrap()));
    }
}
