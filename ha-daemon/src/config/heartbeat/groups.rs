//! The groups of `haresources`, with what the machine adds: the interface and the prefix of an
//! address that names none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::haresources::{DraftAddress, DraftGroup, DraftResource};
use super::lines::Findings;
use super::world::{Interfaces, World};
use crate::config::finding::{Position, did_you_mean, list, quoted};
use crate::config::load::{Places, unusable_in_network};
use crate::config::{
    Failback, GROUPS_MAX, Group, GroupIndex, Node, NodeIndex, OnDaemonDeath, Recovery, Resource,
};
use crate::names::{GroupName, InterfaceName, NAME_BYTES_MAX};

/// What the groups are put into.
pub(super) struct Scene<'s> {
    /// By name.
    pub(super) nodes: &'s [Node],
    /// In the order of `ha.cf`.
    pub(super) order: &'s [NodeIndex],
    pub(super) failback: Failback,
    /// Addresses that nodes have of their own.
    pub(super) remotes: Vec<IpAddr>,
    /// Addresses of ping nodes.
    pub(super) pinged: Vec<IpAddr>,
    pub(super) world: &'s dyn World,
}

/// All groups by name. What was refused is missing; the finding about it refuses the file.
pub(super) fn assemble(
    drafts: &[DraftGroup],
    scene: &Scene<'_>,
    findings: &mut Findings,
    places: &mut Places,
) -> Vec<Group> {
    check_addresses(drafts, scene, findings);
    check_source_addresses(drafts, findings);
    let mut names = BTreeSet::new();
    let mut groups: Vec<(Group, Vec<Position>)> = Vec::new();
    let finder = Finder::new(drafts, scene.world);
    for draft in drafts {
        let Some(preferred) = preferred(draft, scene, findings) else { continue };
        let others = scene.order.iter().filter(|node| **node != preferred);
        let nodes = std::iter::once(preferred).chain(others.copied()).collect();
        let Some(name) = name(draft, &mut names) else {
            let message = "no name is left for this group";
            findings.error(draft.position, message, "give it an address of its own");
            continue;
        };
        let mut resources = Vec::new();
        let mut positions = Vec::new();
        for (resource, position) in &draft.resources {
            if let Some(resource) = finder.resource(resource, *position, findings) {
                resources.push(resource);
                positions.push(*position);
            }
        }
        let id = ha_common::wire::name_id(name.as_str());
        let on_daemon_death = OnDaemonDeath::default_of(&resources);
        let failback = scene.failback;
        // Heartbeat asks no status of what runs, so scripts that came with it may not know theirs.
        let (recovery, monitors) = (Recovery::default(), vec![None; resources.len()]);
        let group = Group {
            id,
            name,
            nodes,
            failback,
            on_daemon_death,
            prearmed: false,
            recovery,
            resources,
            monitors,
        };
        groups.push((group, positions));
    }
    groups.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
    for (index, (_, positions)) in groups.iter().enumerate() {
        for (number, position) in positions.iter().enumerate() {
            places.resources.insert((GroupIndex(index), number), *position);
        }
    }
    groups.into_iter().map(|(group, _)| group).collect()
}

fn preferred(draft: &DraftGroup, scene: &Scene<'_>, findings: &mut Findings) -> Option<NodeIndex> {
    let position = scene.nodes.iter().position(|node| node.name == draft.node);
    if position.is_none() {
        let message =
            format!("unknown node {}: ha.cf does not name it", quoted(draft.node.as_str()));
        let known = scene.nodes.iter().map(|node| node.name.as_str());
        let remedy = did_you_mean(draft.node.as_str(), "node", known);
        findings.error(draft.position, message, remedy);
    }
    position.map(NodeIndex)
}

/// `NODE-ADDRESS`, after the first address of the group, or `NODE-SCRIPT` without one: the same on
/// all nodes, and no other once a line elsewhere in the file comes or goes. Where two groups would
/// have one name (only without addresses), the later ones get a number.
fn name(draft: &DraftGroup, taken: &mut BTreeSet<String>) -> Option<GroupName> {
    let address = draft.resources.iter().find_map(|(resource, _)| match resource {
        DraftResource::Address(address) => Some(address.host.to_string().replace(':', "-")),
        DraftResource::SourceAddress(_) | DraftResource::Script { .. } => None,
    });
    let script = || {
        draft.resources.iter().find_map(|(resource, _)| match resource {
            DraftResource::Script { name, .. } => Some(name.replace(['@', '+'], "-")),
            DraftResource::Address(_) | DraftResource::SourceAddress(_) => None,
        })
    };
    let what = address.or_else(script).unwrap_or_else(|| "empty".to_owned());
    let base = format!("{}-{what}", draft.node);
    let numbered = (2..=GROUPS_MAX).map(|number| format!("{base}-{number}"));
    let mut names = std::iter::once(base.clone()).chain(numbered).map(shortened);
    names.find(|name| taken.insert(name.clone()))?.parse().ok()
}

/// Long names keep their beginning and get a number that tells them apart.
fn shortened(name: String) -> String {
    let suffix = format!("-{:08x}", ha_common::wire::name_id(&name));
    if name.len() <= NAME_BYTES_MAX {
        return name;
    }
    let kept: String = name.chars().take(NAME_BYTES_MAX - suffix.len()).collect();
    kept + &suffix
}

/// An address belongs to one resource, and to no node.
fn check_addresses(drafts: &[DraftGroup], scene: &Scene<'_>, findings: &mut Findings) {
    let mut seen: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for (resource, position) in drafts.iter().flat_map(|draft| &draft.resources) {
        let DraftResource::Address(address) = resource else { continue };
        let host = address.host;
        if let Some(line) = seen.insert(host, position.line) {
            let message = format!("the address {host} is in line {line} already");
            findings.error(*position, message, "keep it in one place");
        }
        if scene.remotes.contains(&host) {
            let message = format!("{host} is a node's own address: ha.cf sends heartbeats to it");
            findings.error(*position, message, "give the group an address of its own");
        }
        if scene.pinged.contains(&host) {
            let message = format!("{host} is pinged: it moves or dies with what it is to judge");
            let remedy = "name a ping node outside of the cluster in ha.cf";
            findings.error(*position, message, remedy);
        }
    }
}

/// A source address is an address that the group has by then.
fn check_source_addresses(drafts: &[DraftGroup], findings: &mut Findings) {
    for draft in drafts {
        let mut before = Vec::new();
        for (resource, position) in &draft.resources {
            match resource {
                DraftResource::Address(address) => before.push(address.host),
                DraftResource::SourceAddress(address) if !before.contains(address) => {
                    let message = format!("the group does not have {address} before it uses it");
                    findings.error(
                        *position,
                        message,
                        format!("write IPaddr::{address} before it"),
                    );
                }
                DraftResource::SourceAddress(_) | DraftResource::Script { .. } => {}
            }
        }
    }
}

/// Finds the interface of an address, as the original's `findif` does.
struct Finder {
    interfaces: Result<Interfaces, String>,
    /// Addresses of groups: where one is now says nothing about where it belongs.
    floating: Vec<IpAddr>,
}

impl Finder {
    fn new(drafts: &[DraftGroup], world: &dyn World) -> Self {
        let resources = drafts.iter().flat_map(|draft| &draft.resources);
        let floating = resources.filter_map(|(resource, _)| match resource {
            DraftResource::Address(address) => Some(address.host),
            DraftResource::SourceAddress(_) | DraftResource::Script { .. } => None,
        });
        Self {
            interfaces: world.interfaces().map_err(|error| error.to_string()),
            floating: floating.collect(),
        }
    }

    fn resource(
        &self,
        draft: &DraftResource,
        position: Position,
        findings: &mut Findings,
    ) -> Option<Resource> {
        match draft {
            DraftResource::Address(draft) => self.address(draft, position, findings),
            DraftResource::SourceAddress(address) => {
                Some(Resource::SourceAddress { address: *address })
            }
            DraftResource::Script { name, arguments } => {
                Some(Resource::Script { name: name.clone(), arguments: arguments.clone() })
            }
        }
    }

    fn address(
        &self,
        draft: &DraftAddress,
        position: Position,
        findings: &mut Findings,
    ) -> Option<Resource> {
        let (interface, bits) = match (&draft.interface, draft.bits) {
            (Some(interface), Some(bits)) => (interface.clone(), bits),
            (wanted, _) => {
                let (interface, bits) = self.find(draft, wanted.as_ref(), position, findings)?;
                (interface, draft.bits.unwrap_or(bits))
            }
        };
        // The reader of the line judged the length.
        let address = IpNet::new(draft.host, bits).ok()?;
        if let Some(why) = unusable_in_network(address) {
            let message = format!("{address} is {why}, not a host's address");
            findings.error(position, message, "give the address that clients connect to");
            return None;
        }
        Some(Resource::Address {
            address,
            interface,
            label: draft.label.clone(),
            broadcast: draft.broadcast,
        })
    }

    /// The interface, and the length of its prefix, that has the longest prefix with the address.
    fn find(
        &self,
        draft: &DraftAddress,
        wanted: Option<&InterfaceName>,
        position: Position,
        findings: &mut Findings,
    ) -> Option<(InterfaceName, u8)> {
        let host = draft.host;
        let remedy = format!("write {host}/BITS/INTERFACE, or give an interface an address there");
        let interfaces = match &self.interfaces {
            Ok(interfaces) => interfaces,
            Err(error) => {
                let message = format!("cannot read the interfaces of this machine: {error}");
                findings.error(position, message, remedy);
                return None;
            }
        };
        let fitting = interfaces
            .iter()
            .filter(|(name, _)| wanted.is_none_or(|wanted| wanted.as_str() == name.as_str()));
        let prefixes =
            fitting.flat_map(|(name, prefixes)| prefixes.iter().map(move |it| (name, it)));
        let best = prefixes
            .filter(|(_, prefix)| prefix.contains(&host) && !self.floating.contains(&prefix.addr()))
            // A point-to-point address has a network of its own only.
            .filter(|(_, prefix)| prefix.prefix_len() < prefix.max_prefix_len())
            .max_by_key(|(name, prefix)| (prefix.prefix_len(), std::cmp::Reverse(*name)));
        if let Some((name, prefix)) = best
            && let Ok(interface) = name.parse()
        {
            return Some((interface, prefix.prefix_len()));
        }
        let names = list(interfaces.keys().map(String::as_str));
        let message = match wanted {
            Some(wanted) => format!("no prefix of {wanted} on this node has {host}"),
            None => format!("{host} is outside of every prefix of this node ({names})"),
        };
        findings.error(position, message, remedy);
        None
    }
}
