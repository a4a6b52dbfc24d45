//! What a dead daemon's keeper still keeps, and whether this start goes on with it.

use std::path::Path;
use std::sync::Arc;

use super::node::Node;
use crate::config::{Group, Resource};
use crate::core::adoption::Estate;
use crate::io::address::{AddressDetails, HeldAddress};
use crate::io::keeper::{Custody, Held, Inheritance, Keeper, KeeperError, KeeperOptions, Lease};
use crate::io::own_addresses::OwnAddresses;

/// What this start goes on with.
pub(super) struct Heritage {
    pub(super) keeper: Keeper,
    pub(super) estate: Estate,
    /// The addresses that are there.
    pub(super) addresses: Vec<HeldAddress>,
}

/// Goes on with what is kept, when it is this node's and everything of a group is still there; has
/// it removed otherwise. `options` are those of the new keeper, but for the lease.
pub(super) fn inherit(
    node: &mut Node,
    directory: &Path,
    options: &KeeperOptions,
) -> Option<Heritage> {
    let inheritance = Inheritance::ask(directory)?;
    let Some(estate) = fitting(node, &inheritance) else {
        inheritance.refuse();
        return None;
    };
    // An own handle of the same memory: the old keeper's goes with it.
    let memory = inheritance.lease.memory().try_clone_to_owned();
    let Some(lease) = memory.ok().and_then(|memory| Lease::of(memory).ok()) else {
        inheritance.refuse();
        return None;
    };
    let renewed_boot_ns = lease.renewed_at_ns();
    let options = KeeperOptions { lease: Arc::new(lease), ..options.clone() };
    let addresses = addresses(node, &estate);
    let keeper = match guard(options, &inheritance, &estate, &addresses) {
        Ok(keeper) => keeper,
        Err(error) => {
            tracing::error!("what the last daemon left is given up: {error}");
            inheritance.refuse();
            return None;
        }
    };
    // Both guard it now, by the same lease.
    let lease = inheritance.accept();
    // The dead daemon's peers may not know this configuration.
    let cluster = &mut Arc::make_mut(&mut node.config).cluster;
    cluster.earlier = estate.earlier_than(cluster);
    lease.set_length(cluster.holder_lease());
    let inherited = |(held, details): (Held, AddressDetails)| {
        HeldAddress::inherited(held.address, held.interface, details, renewed_boot_ns)
    };
    Some(Heritage { keeper, estate, addresses: addresses.into_iter().map(inherited).collect() })
}

/// The estate without what cannot be gone on with; `None`: nothing can.
fn fitting(node: &Node, inheritance: &Inheritance) -> Option<Estate> {
    if inheritance.lease.is_over().is_some() {
        return None;
    }
    let mut estate: Estate = serde_json::from_slice(&inheritance.estate).ok()?;
    let config = &node.config;
    let name = &config.nodes[node.own.0].name;
    if !estate.is_of(&config.cluster.name, name, node.incarnation) {
        return None;
    }
    let present = OwnAddresses::read().ok()?;
    let is_here = |resource: &Resource| match resource {
        Resource::Address { address, interface, .. } => {
            present.of(interface).iter().any(|it| it.network == *address)
        }
        Resource::SourceAddress { .. } | Resource::Script { .. } | Resource::Systemd { .. } => true,
    };
    let fits = estate.clone();
    estate.keep(inheritance.detached, |name| {
        let group = config.groups.iter().find(|group| group.name == *name);
        group.is_some_and(|it| fits.fits(it) && it.resources.iter().all(is_here))
    });
    (!estate.is_empty()).then_some(estate)
}

fn addresses(node: &Node, estate: &Estate) -> Vec<(Held, AddressDetails)> {
    let has = |group: &&Group| estate.has(&group.name);
    let resources = node.config.groups.iter().filter(has).flat_map(|group| &group.resources);
    let held = |resource: &Resource| match resource {
        Resource::Address { address, interface, label, broadcast, .. } => Some((
            Held { address: *address, interface: interface.clone() },
            AddressDetails { label: label.clone(), broadcast: *broadcast },
        )),
        Resource::SourceAddress { .. } | Resource::Script { .. } | Resource::Systemd { .. } => None,
    };
    resources.filter_map(held).collect()
}

/// A new keeper that guards what the old one does. What it is told it does even if this daemon is
/// gone before it reads it.
fn guard(
    options: KeeperOptions,
    inheritance: &Inheritance,
    estate: &Estate,
    addresses: &[(Held, AddressDetails)],
) -> Result<Keeper, KeeperError> {
    let mut keeper = Keeper::spawn(options)?;
    let held: Vec<Held> = addresses.iter().map(|(held, _)| held.clone()).collect();
    let guarded = keeper
        .custody(Custody { groups: estate.count(), held: held.clone(), ..Custody::default() })
        .and_then(|()| keeper.estate(inheritance.estate.clone()))
        .and_then(|()| held.iter().try_for_each(|it| keeper.hold(it.address, &it.interface)));
    match guarded {
        Ok(()) => Ok(keeper),
        Err(error) => {
            let _ = keeper.farewell();
            Err(error)
        }
    }
}
