//! Paths: each peer on each link that it shares with this node, numbered. The number is the slot in
//! the kernel's `links` map, in the daemon's own table and in everything that goes by path.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use ha_common::frame::mapped;
use ha_common::maps::{Endpoint, Path as PathKey, SLOTS_MAX};

use crate::config::{Config, LinkIndex, NodeIndex};
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
    let port = config.cluster.port;
    let mut paths = Vec::new();
    for (link, mine) in &config.nodes[own.0].endpoints {
        let Some(interface) = mine.interface() else { continue };
        let index = interface_index(interface)?;
        for (peer, node) in config.nodes.iter().enumerate().filter(|(peer, _)| *peer != own.0) {
            let Some(theirs) = node.endpoints.get(link) else { continue };
            let (Some(local), Some(remote)) = (mine.address(), theirs.address()) else { continue };
            paths.push(Path {
                peer: NodeIndex(peer),
                link: *link,
                key: PathKey { sender: node.id, link: config.links[link.0].id },
                interface: interface.clone(),
                interface_index: index,
                local: SocketAddr::new(local, port),
                remote: SocketAddr::new(remote, port),
            });
        }
    }
    anyhow::ensure!(paths.len() <= SLOTS_MAX, "{} paths; at most {SLOTS_MAX} fit", paths.len());
    Ok(paths)
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
