//! The addresses that are on this host when a daemon starts.

use anyhow::Result;

use super::handover::Handed;
use super::handover::arrive::Addresses;
use super::node::{self, Node};
use crate::io::address::{self, HeldAddress};
use crate::io::gate::Gates;
use crate::io::keeper::Keeper;
use crate::names::InterfaceName;

/// What became of them.
pub(super) struct Purged {
    /// Those that this daemon goes on with.
    pub(super) held: Vec<HeldAddress>,
    /// Whether any other could not be removed.
    pub(super) left: bool,
}

/// Removes the configured addresses that an earlier daemon left, and those that the program before
/// owned and this one does not have any more.
pub(super) fn purge(
    node: &Node,
    handed: Option<&Handed>,
    inherited: Vec<HeldAddress>,
    gates: &Gates,
    keeper: &mut Keeper,
) -> Result<Purged> {
    let floating = node::floating_addresses(&node.config);
    let held = |(address, interface): &(ipnet::IpNet, InterfaceName), stay: &[HeldAddress]| {
        let text = address.to_string();
        stay.iter().any(|it| it.address == text && it.interface == *interface)
    };
    let Some(Addresses { stay, go }) = handed.map(|it| it.addresses(&floating, gates)) else {
        // Who has the ports, or the serial lines, is the only daemon of this host: addresses and pins that are there now
        // are an earlier one's. Before, they may be those of a daemon that runs.
        let left: Vec<_> = floating.into_iter().filter(|it| !held(it, &inherited)).collect();
        for (address, interface) in address::purge(&left)? {
            tracing::warn!("removed {address} from {interface}: an earlier daemon left it there");
        }
        return Ok(Purged { held: inherited, left: false });
    };
    let mut strays: Vec<_> = floating.into_iter().filter(|it| !held(it, &stay)).collect();
    for it in go {
        strays.extend(it.address.parse().ok().map(|address| (address, it.interface)));
    }
    // One that cannot be removed is told of and left to its lifetime: a node that goes on must not
    // stop for it.
    let (removed, left) = match address::purge(&strays) {
        Ok(removed) => (removed, false),
        Err(error) => {
            tracing::error!("{error}");
            (error.removed, true)
        }
    };
    for (address, interface) in removed {
        tracing::warn!("removed {address} from {interface}: this node does not own it");
        let _ = keeper.release(address, &interface);
    }
    Ok(Purged { held: stay, left })
}
