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
}

impl OwnAddresses {
    /// Reads them, in the network namespace of the calling thread. The order on an interface is the
    /// kernel's: the primary address of a network first.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn read() -> Result<Self> {
        let mut interfaces: BTreeMap<String, Vec<OwnAddress>> = BTreeMap::new();
        let entries =
            nix::ifaddrs::getifaddrs().context("cannot read the addresses of this host")?;
        for entry in entries {
            let ip = entry.address.as_ref().and_then(ip_address);
            let netmask = entry.netmask.as_ref().and_then(ip_address);
            let (Some(ip), Some(netmask)) = (ip, netmask) else { continue };
            let Ok(network) = IpNet::with_netmask(ip, netmask) else { continue };
            let broadcast = entry.broadcast.as_ref().and_then(ip_address);
            let broadcast =
                broadcast.and_then(|it| if let IpAddr::V4(it) = it { Some(it) } else { None });
            // getifaddrs names an IPv4 address by its label, such as eth0:1.
            let name = entry.interface_name.split(':').next().unwrap_or_default().to_owned();
            interfaces.entry(name).or_default().push(OwnAddress { network, broadcast });
        }
        Ok(Self { interfaces })
    }

    /// Those of one interface.
    #[must_use]
    pub fn of(&self, interface: &InterfaceName) -> &[OwnAddress] {
        self.interfaces.get(interface.as_str()).map_or(&[], Vec::as_slice)
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
        let broadcast = match network {
            IpNet::V4(network) if network.prefix_len() < 31 => Some(network.broadcast()),
            IpNet::V4(_) | IpNet::V6(_) => None,
        };
        let own = OwnAddress { network, broadcast };
        self.interfaces.entry(interface.to_owned()).or_default().push(own);
        self
    }
}

fn ip_address(storage: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}
