//! Paths: each peer on each link that it shares with this node, numbered. The number is the slot in
//! the kernel's `links` map, in the daemon's own table and in everything that goes by path.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use ha_common::frame::mapped;
use ha_common::maps::{Endpoint, Path as PathKey, SLOTS_MAX};

use crate::config::{self, Config, LinkIndex, NodeIndex};
use crate::names::InterfaceName;

/// One peer on one link.
#[derive(Debug, Clone)]
pub struct Path {
    /// The peer.
    pub peer: NodeIndex,
    /// The link.
    pub link: LinkIndex,
    /// As packets name it.
    pub key: PathKey,
    /// What carries it.
    pub carrier: Carrier,
}

/// What carries a path.
#[derive(Debug, Clone)]
pub enum Carrier {
    /// UDP on an interface.
    Network(Network),
    /// A serial line.
    Serial(Serial),
}

/// A serial line to the peer.
#[derive(Debug, Clone)]
pub struct Serial {
    /// This node's character device.
    pub device: PathBuf,
}

/// UDP on an interface.
#[derive(Debug, Clone)]
pub struct Network {
    /// This node's interface on the link.
    pub interface: InterfaceName,
    /// Its index.
    pub interface_index: u32,
    /// This node's address and port there.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
}

/// All paths of a node, in the order of their slots.
///
/// # Errors
/// An interface that does not exist.
pub fn of(config: &Config, own: NodeIndex) -> Result<Vec<Path>> {
    let mut paths = Vec::new();
    for (link, mine) in &config.nodes[own.0].endpoints {
        for (peer, node) in config.nodes.iter().enumerate().filter(|(peer, _)| *peer != own.0) {
            let Some(theirs) = node.endpoints.get(link) else { continue };
            let Some(carrier) = carrier(config.cluster.port, mine, theirs)? else { continue };
            paths.push(Path {
                peer: NodeIndex(peer),
                link: *link,
                key: PathKey { sender: node.id, link: config.links[link.0].id },
                carrier,
            });
        }
    }
    anyhow::ensure!(paths.len() <= SLOTS_MAX, "{} paths; at most {SLOTS_MAX} fit", paths.len());
    Ok(paths)
}

/// What carries the path between two endpoints of a link.
fn carrier(
    port: u16,
    mine: &config::Endpoint,
    theirs: &config::Endpoint,
) -> Result<Option<Carrier>> {
    let interface = match mine {
        config::Endpoint::Network { interface, .. } => interface,
        config::Endpoint::Serial { device } => {
            return Ok(Some(Carrier::Serial(Serial { device: device.clone() })));
        }
    };
    let (Some(local), Some(remote)) = (mine.address(), theirs.address()) else { return Ok(None) };
    Ok(Some(Carrier::Network(Network {
        interface: interface.clone(),
        interface_index: interface_index(interface)?,
        local: SocketAddr::new(local, port),
        remote: SocketAddr::new(remote, port),
    })))
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

    /// Index of the interface on which its packets arrive; 0 on a serial line.
    #[must_use]
    pub fn interface_index(&self) -> u32 {
        self.network().map_or(0, |network| network.interface_index)
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

impl Network {
    /// The endpoint on which its datagrams arrive.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        let address = match self.local {
            SocketAddr::V4(local) => mapped(local.ip().octets()),
            SocketAddr::V6(local) => local.ip().octets(),
        };
        Endpoint { interface: self.interface_index, port: u32::from(self.local.port()), address }
    }
}
