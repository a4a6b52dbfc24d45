//! `[nodes.NAME]`: who is where on which link.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::DeValue;

use super::links::{self, Addresses, read_interface};
use super::reader::{Field, Reader, Span, Table, Value, bare_or_quoted, label};
use super::serial;
use super::{named_tables, refuse_equal_ids};
use crate::config::finding::{did_you_mean, list, quoted};
use crate::config::{Endpoint, LinkIndex, NODES_MAX, Node};
use crate::names::{InterfaceName, NAME_BYTES_MAX, NodeName};

/// An endpoint as far as it could be read.
pub(super) struct DraftEndpoint {
    /// Where its value is.
    pub(super) span: Span,
    /// The address, at its place; absent where the link needs none.
    pub(super) address: Field<IpAddr>,
    /// The interface, its own or the link's.
    pub(super) interface: Option<InterfaceName>,
}

impl DraftEndpoint {
    pub(super) fn given_address(&self) -> Option<IpAddr> {
        match &self.address {
            Field::Given(address) => Some(*address.get_ref()),
            Field::Absent | Field::Refused => None,
        }
    }
}

/// A node as far as it could be read.
pub(super) struct Draft {
    /// Its name in the file, allowed or not.
    pub(super) key: String,
    /// Where that name is.
    pub(super) span: Span,
    /// Its endpoints, refused ones too.
    pub(super) endpoints: BTreeMap<LinkIndex, DraftEndpoint>,
    /// Its devices, where an endpoint is one of a serial line.
    pub(super) devices: BTreeMap<LinkIndex, Option<PathBuf>>,
    name: Option<NodeName>,
    /// Whether all links it meant are known.
    complete: bool,
}

impl Draft {
    /// The node, if nothing of it was refused.
    pub(super) fn finish(self) -> Option<Node> {
        let mut devices = self.devices;
        let endpoint = |(link, draft): (LinkIndex, DraftEndpoint)| {
            if let Some(device) = devices.remove(&link) {
                return Some((link, Endpoint::Serial { device: device? }));
            }
            let address = match draft.address {
                Field::Absent => None,
                Field::Refused => return None,
                Field::Given(address) => Some(address.into_inner()),
            };
            Some((link, Endpoint::Network { interface: draft.interface?, address }))
        };
        Some(Node {
            id: ha_common::wire::name_id(&self.key),
            name: self.name?,
            endpoints: self.endpoints.into_iter().map(endpoint).collect::<Option<_>>()?,
        })
    }
}

/// All nodes, in the order of their names: positions are [`crate::config::NodeIndex`].
pub(super) fn read(
    reader: &mut Reader<'_>,
    root: &mut Table<'_>,
    links: &[links::Draft],
) -> Vec<Draft> {
    let mut nodes = Vec::new();
    for (key, table) in named_tables(reader, root, "nodes", NODES_MAX) {
        nodes.push(read_node(reader, &key, table, links));
    }
    serial::connect(links, &mut nodes);
    if nodes.len() < 2 {
        let (span, message) = match nodes.first() {
            Some(only) => (only.span.clone(), format!("{} is the only node", quoted(&only.key))),
            None => (root.span(), "no nodes are defined".to_owned()),
        };
        reader.error(&span, message, "define at least two, each as [nodes.NAME]");
    }
    let names = nodes.iter().map(|node| (node.key.as_str(), node.span.clone()));
    refuse_equal_ids(reader, "nodes", names);
    for (index, link) in links.iter().enumerate() {
        check_link(reader, LinkIndex(index), link, &nodes);
    }
    nodes
}

fn read_node(
    reader: &mut Reader<'_>,
    key: &Spanned<String>,
    table: Option<Table<'_>>,
    links: &[links::Draft],
) -> Draft {
    let mut node = Draft {
        key: key.get_ref().clone(),
        span: key.span(),
        endpoints: BTreeMap::new(),
        devices: BTreeMap::new(),
        name: reader.name(key, "the node name"),
        complete: table.is_some(),
    };
    let Some(table) = table else { return node };
    let node_label = table.label().to_owned();
    let entries = table.into_named();
    let alone = entries.len() == 1;
    for (link_key, value) in entries {
        let Some(index) = links.iter().position(|link| link.key == *link_key.get_ref()) else {
            let message = format!("unknown link {} in {node_label}", quoted(link_key.get_ref()));
            let remedy = match rest_of_name(link_key.get_ref(), value.get_ref(), links) {
                Some(rest) => {
                    let name = format!("{}.{rest}", key.get_ref());
                    let remedy = format!("quote a name with a dot: {}", label(&["nodes", &name]));
                    if alone {
                        // What names it elsewhere in the file means this node.
                        node.key = name;
                    }
                    remedy
                }
                None => {
                    let known = links.iter().map(|link| link.key.as_str());
                    did_you_mean(link_key.get_ref(), "link", known)
                }
            };
            reader.error(&link_key.span(), message, remedy);
            node.complete = false;
            continue;
        };
        if let Some(line) = &links[index].serial {
            let device = serial::read_endpoint(reader, &value, key.get_ref(), &links[index], line);
            node.devices.insert(LinkIndex(index), device);
        }
        let endpoint = match &links[index] {
            link if link.serial.is_some() => serial::endpoint(value.span()),
            link if link.addresses != Addresses::Unknown => {
                read_endpoint(reader, value, key.get_ref(), link)
            }
            _ => DraftEndpoint { span: value.span(), address: Field::Refused, interface: None },
        };
        node.endpoints.insert(LinkIndex(index), endpoint);
    }
    for (index, link) in links.iter().enumerate() {
        if link.addresses == Addresses::Allowed
            && let Field::Given(interface) = &link.interface
        {
            let everywhere = || DraftEndpoint {
                span: link.span.clone(),
                address: Field::Absent,
                interface: Some(interface.get_ref().clone()),
            };
            node.endpoints.entry(LinkIndex(index)).or_insert_with(everywhere);
        }
    }
    node
}

/// The part of a node's name that TOML took for keys, since a name with a dot was not quoted: what has
/// links in it is no link.
fn rest_of_name(key: &str, value: &DeValue<'_>, links: &[links::Draft]) -> Option<String> {
    let (mut name, mut value) = (key.to_owned(), value);
    while name.len() <= NAME_BYTES_MAX {
        let table = value.as_table()?;
        if table.keys().any(|key| links.iter().any(|link| link.key == *key.get_ref())) {
            return Some(name);
        }
        let (key, inner) = table.iter().next()?;
        name = format!("{name}.{}", key.get_ref());
        value = inner.get_ref();
    }
    None
}

/// `LINK = "address"` or `LINK = { address = "...", interface = "..." }`.
fn read_endpoint(
    reader: &mut Reader<'_>,
    value: Value<'_>,
    node: &str,
    link: &links::Draft,
) -> DraftEndpoint {
    let span = value.span();
    if !value.get_ref().is_table() {
        let example = format!("{} = \"ADDRESS\"", bare_or_quoted(&link.key));
        let text = reader.text(value, &link.key, &example);
        let address = text.and_then(|text| read_address(reader, &text));
        let address = address.map_or(Field::Refused, Field::Given);
        let interface = own_or_of_link(reader, &span, Field::Absent, link);
        return DraftEndpoint { span, address, interface };
    }
    let mut endpoint = DraftEndpoint { span, address: Field::Refused, interface: None };
    let Some(mut table) = reader.table(value, label(&["nodes", node, &link.key])) else {
        return endpoint;
    };
    match table.text(reader, "address") {
        Field::Absent if link.addresses == Addresses::Allowed => endpoint.address = Field::Absent,
        Field::Absent => {
            let message = format!("{} has no address", table.label());
            reader.error(&endpoint.span, message, "write address = \"...\"");
        }
        Field::Refused => {}
        Field::Given(text) => {
            endpoint.address = read_address(reader, &text).map_or(Field::Refused, Field::Given);
        }
    }
    let interface = read_interface(reader, &mut table);
    table.finish(reader);
    endpoint.interface = own_or_of_link(reader, &endpoint.span, interface, link);
    endpoint
}

fn own_or_of_link(
    reader: &mut Reader<'_>,
    span: &Span,
    own: Field<InterfaceName>,
    link: &links::Draft,
) -> Option<InterfaceName> {
    match (own, &link.interface) {
        (Field::Given(own), _) => Some(own.into_inner()),
        (Field::Absent, Field::Given(common)) => Some(common.get_ref().clone()),
        (Field::Absent, Field::Absent) => {
            let name = &link.key;
            let message =
                format!("neither this endpoint nor the link {} names an interface", quoted(name));
            let remedy = format!(
                "write interface = \"...\" in {}, or here {} = {{ address = \"...\", \
                 interface = \"...\" }}",
                label(&["links", name]),
                bare_or_quoted(name)
            );
            reader.error(span, message, remedy);
            None
        }
        (Field::Refused, _) | (Field::Absent, Field::Refused) => None,
    }
}

/// An address that packets can be sent to and come from.
pub(super) fn read_address(
    reader: &mut Reader<'_>,
    text: &Spanned<String>,
) -> Option<Spanned<IpAddr>> {
    let shown = quoted(text.get_ref());
    let Ok(address) = text.get_ref().parse::<IpAddr>() else {
        let bare = text.get_ref().split(['/', '%']).next().unwrap_or("").parse::<IpAddr>();
        let remedy = match bare {
            Ok(bare) => format!("write \"{bare}\", without prefix length or zone"),
            Err(_) => "write an IPv4 or IPv6 address; names are not looked up".to_owned(),
        };
        reader.error(&text.span(), format!("{shown} is not an address"), remedy);
        return None;
    };
    match unusable_host(address) {
        None => Some(Spanned::new(text.span(), address)),
        Some(why) => {
            let remedy = "give the address that the node itself has on this link";
            reader.error(&text.span(), format!("{shown} is {why}, not a node's address"), remedy);
            None
        }
    }
}

/// Why no host can have an address, if so. Loopback is allowed: it serves trials on one machine.
pub(in crate::config) fn unusable_host(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        return Some("the unspecified address");
    }
    if address.is_multicast() {
        return Some("a multicast address");
    }
    match address {
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4 address in IPv6 notation"),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

pub(super) fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// One family, no address twice, and at least two nodes on a link.
fn check_link(reader: &mut Reader<'_>, index: LinkIndex, link: &links::Draft, nodes: &[Draft]) {
    if link.serial.is_some() {
        return serial::check(reader, index, link, nodes);
    }
    let users = nodes.iter().filter(|node| node.endpoints.contains_key(&index)).count();
    let complete = nodes.iter().all(|node| node.complete);
    let known = link.addresses != Addresses::Unknown;
    if users < 2 && known && complete && nodes.len() >= 2 {
        let message = format!("the link {} connects no two nodes", quoted(&link.key));
        let remedy = "give two nodes an address on it, or remove it";
        reader.warning(&link.span, message, remedy);
    }
    let mut first: Option<(&str, IpAddr)> = None;
    let mut seen: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for node in nodes {
        let endpoint = node.endpoints.get(&index);
        let Some(Field::Given(address)) = endpoint.map(|endpoint| &endpoint.address) else {
            continue;
        };
        let (span, address) = (address.span(), *address.get_ref());
        let (first_node, first_address) = *first.get_or_insert((&node.key, address));
        if first_address.is_ipv4() != address.is_ipv4() {
            let message = format!(
                "{address} is {}, but {} is on the link {} with the {} address {first_address}",
                family(address),
                quoted(first_node),
                quoted(&link.key),
                family(first_address),
            );
            reader.error(&span, message, "use one family on a link, or two links");
        }
        if let Some(other) = seen.insert(address, &node.key) {
            let message =
                format!("{} has the address {address} on this link already", quoted(other));
            reader.error(&span, message, "give each node an address of its own");
        }
    }
}

/// Every two nodes need a path, and should have two, unless ping targets tell which of them is cut off.
pub(super) fn check_pairs(
    reader: &mut Reader<'_>,
    links: &[links::Draft],
    nodes: &[Draft],
    arbiter: bool,
) {
    if nodes.len() > NODES_MAX {
        return;
    }
    // Only path of a pair -> the pairs, so that one cable is one finding and not one per pair.
    let mut single: BTreeMap<(LinkIndex, bool), Vec<String>> = BTreeMap::new();
    for (index, node) in nodes.iter().enumerate() {
        let mut unreachable = Vec::new();
        for peer in nodes.iter().skip(index + 1) {
            if !node.complete || !peer.complete {
                continue;
            }
            let shared: BTreeSet<LinkIndex> = node
                .endpoints
                .keys()
                .filter(|link| peer.endpoints.contains_key(link))
                .copied()
                .collect();
            match shared.first() {
                None => unreachable.push(peer.key.as_str()),
                Some(first) if !arbiter && paths(node, peer, &shared) == 1 => {
                    let pair = format!("{} and {}", node.key, peer.key);
                    single.entry((*first, shared.len() > 1)).or_default().push(pair);
                }
                Some(_) => {}
            }
        }
        if !unreachable.is_empty() {
            let peers = list(unreachable);
            let message = format!("{} shares no link with {peers}", quoted(&node.key));
            reader.error(&node.span, message, "give both an address on the same link");
        }
    }
    for ((link, several), pairs) in single {
        let Some(link) = links.get(link.0) else {
            continue;
        };
        let pairs = list(pairs.iter().map(String::as_str));
        let message = if several {
            format!(
                "all links between {pairs} use one interface: no arbiter can tell its failure \
                     from a dead peer"
            )
        } else {
            format!(
                "the link {} is the only path between {pairs}: no arbiter can tell its failure \
                     from a dead peer",
                quoted(&link.key)
            )
        };
        let remedy = "add a link over another interface, a serial line, or ping targets";
        reader.warning(&link.span, message, remedy);
    }
}

/// Independent paths between two nodes: links that share an interface at either end are one.
fn paths(node: &Draft, peer: &Draft, shared: &BTreeSet<LinkIndex>) -> usize {
    let interfaces = |node: &Draft| {
        let used = shared.iter().enumerate().map(|(number, link)| {
            let endpoint = node.endpoints.get(link);
            // An interface that could not be read is taken for one of its own.
            endpoint.and_then(|endpoint| endpoint.interface.clone()).ok_or(number)
        });
        used.collect::<BTreeSet<_>>().len()
    };
    interfaces(node).min(interfaces(peer))
}
