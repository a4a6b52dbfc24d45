//! `[links.NAME]`: the paths of heartbeats.

use std::net::IpAddr;
use std::time::Duration;

use toml::Spanned;

use super::cluster::check_warntime;
use super::deadtime::DeadtimeKeys;
use super::nodes::read_address;
use super::reader::{Field, Reader, Span, Table};
use super::serial;
use super::{named_tables, refuse_equal_ids};
use crate::config::finding::{did_you_mean, quoted};
use crate::config::time_rules::Deadtime;
use crate::config::{
    Cluster, DURATION_MAX, KEEPALIVE_MIN, LINKS_MAX, Link, LinkIdentity, LinkKind, NODES_MAX,
    PORT_DEFAULT, Receive, Times,
};
use crate::names::InterfaceName;

const RECEIVE: &[(&str, Receive)] = &[
    ("auto", Receive::Auto),
    ("xdp-native", Receive::XdpNative),
    ("xdp-generic", Receive::XdpGeneric),
    ("tc", Receive::Tc),
    ("socket", Receive::Socket),
];
const IDENTITY: &[(&str, LinkIdentity)] =
    &[("name", LinkIdentity::Name), ("arrival", LinkIdentity::Arrival)];
/// The kinds, as remedies list them.
const KINDS: &[&str] = &["ucast", "mcast", "bcast", "serial"];
/// TTL of multicast packets unless configured otherwise: they stay on their network.
const TTL_DEFAULT: u32 = 1;

/// A link as far as it could be read.
pub(super) struct Draft {
    /// Its name in the file, allowed or not.
    pub(super) key: String,
    /// Where that name is.
    pub(super) span: Span,
    /// The interface of the nodes that name none.
    pub(super) interface: Field<InterfaceName>,
    /// Nothing if it was refused.
    pub(super) link: Option<Link>,
    /// Whether nodes have an address on it.
    pub(super) addresses: Addresses,
    /// What it has for being a serial line.
    pub(super) serial: Option<serial::Draft>,
}

/// Whether the nodes of a link have an address in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Addresses {
    /// Each.
    Needed,
    /// Those that want to say which of their addresses is meant. A link that names an interface has
    /// every node on it.
    Allowed,
    /// It is not known.
    Unknown,
}

/// All links, in the order of their names: positions are [`crate::config::LinkIndex`].
pub(super) fn read(
    reader: &mut Reader<'_>,
    root: &mut Table<'_>,
    cluster: Option<&Cluster>,
) -> Vec<Draft> {
    let mut drafts = Vec::new();
    for (key, table) in named_tables(reader, root, "links", LINKS_MAX) {
        drafts.push(read_link(reader, &key, table, cluster));
    }
    let names = drafts.iter().map(|draft| (draft.key.as_str(), draft.span.clone()));
    refuse_equal_ids(reader, "links", names);
    drafts
}

fn read_link(
    reader: &mut Reader<'_>,
    key: &Spanned<String>,
    table: Option<Table<'_>>,
    cluster: Option<&Cluster>,
) -> Draft {
    let name = reader.name(key, "the link name");
    let mut draft = Draft {
        key: key.get_ref().clone(),
        span: key.span(),
        interface: Field::Refused,
        link: None,
        addresses: Addresses::Unknown,
        serial: None,
    };
    let Some(mut table) = table else { return draft };
    let kind = read_kind(reader, &mut table);
    draft.addresses = match &kind {
        // Its keys are not known yet, and neither are the addresses that nodes have on it.
        None => Addresses::Unknown,
        Some(LinkKind::Serial { .. }) => {
            draft.serial = Some(serial::read_link(reader, &mut table));
            Addresses::Unknown
        }
        Some(LinkKind::Ucast { remotes }) if remotes.is_empty() => Addresses::Needed,
        Some(_) => Addresses::Allowed,
    };
    let identity = table.choice(reader, "identity", IDENTITY);
    let times = read_times(reader, &mut table, cluster);
    // What follows is not known on a serial line.
    let (mut port, mut receive) = (Field::Absent, Field::Absent);
    if draft.serial.is_none() {
        port = table.integer(reader, "port", &(1..=u32::from(u16::MAX)));
        receive = table.choice(reader, "receive", RECEIVE);
        draft.interface = read_interface(reader, &mut table);
    }
    table.finish(reader);
    let port_default = u32::from(cluster.map_or(PORT_DEFAULT, |cluster| cluster.port));
    let identity = identity.or_default(LinkIdentity::Name);
    let port = port.or_default(port_default).and_then(|port| u16::try_from(port).ok());
    let receive = receive.or_default(Receive::Auto);
    if let (Some(name), Some(kind), Some(identity), Some(port), Some(times), Some(receive)) =
        (name, kind, identity, port, times, receive)
    {
        let id = ha_common::wire::name_id(key.get_ref());
        draft.link = Some(Link { name, id, kind, identity, port, times, receive });
    }
    draft
}

/// Its own times, checked as the cluster's are; those that are left out are the cluster's.
fn read_times(
    reader: &mut Reader<'_>,
    table: &mut Table<'_>,
    cluster: Option<&Cluster>,
) -> Option<Option<Times>> {
    let any = Duration::ZERO..=DURATION_MAX;
    let keepalive = table.duration(reader, "keepalive", &(KEEPALIVE_MIN..=DURATION_MAX));
    let deadtime = DeadtimeKeys::read(reader, table);
    let warntime = table.duration(reader, "warntime", &any);
    let Some(span) = deadtime.span().or(keepalive.span()).or(warntime.span()) else {
        let refused = [&keepalive, &warntime].map(|it| matches!(it, Field::Refused));
        let refused = refused.contains(&true) || deadtime.is_refused();
        return (!refused).then_some(None);
    };
    let cluster = cluster?;
    let keepalive = keepalive.or_default(cluster.keepalive)?;
    let auto_min = cluster.auto.map(|auto| auto.min);
    let inherited = Deadtime { longest: cluster.deadtime, auto_min };
    let deadtime = deadtime.hold(reader, &span, Some(keepalive), inherited)?;
    let auto = deadtime.auto(matches!(warntime, Field::Absent));
    let warntime = check_warntime(reader, warntime, Some(keepalive), Some(deadtime))?;
    Some(Some(Times { keepalive, warntime, deadtime: deadtime.longest, auto }))
}

/// The kind with what belongs to it; nothing if it was refused.
fn read_kind(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Option<LinkKind> {
    let given = match table.word(reader, "kind", KINDS.iter().copied()) {
        Field::Absent => {
            let message = format!("{} has no kind", table.label());
            reader.error(&table.span(), message, "write kind = \"ucast\"");
            return None;
        }
        Field::Refused => return None,
        Field::Given(given) => given,
    };
    match given.get_ref().as_str() {
        "ucast" => read_remotes(reader, table),
        "mcast" => read_group(reader, table, &given.span()),
        "bcast" => Some(LinkKind::Bcast),
        "serial" => Some(serial::read_kind(reader, table)),
        unknown => {
            let remedy = did_you_mean(unknown, "kind", KINDS.iter().copied());
            let message = format!("unknown link kind {}", quoted(unknown));
            reader.error(&given.span(), message, remedy);
            None
        }
    }
}

/// `remotes` of a link whose nodes do not say where they are.
fn read_remotes(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Option<LinkKind> {
    let values = match table.texts(reader, "remotes") {
        Field::Absent => return Some(LinkKind::Ucast { remotes: Vec::new() }),
        Field::Refused => return None,
        Field::Given(values) => values,
    };
    let span = values.span();
    let values = values.into_inner();
    if values.is_empty() || values.len() > NODES_MAX {
        let message = format!("remotes has {} addresses", values.len());
        reader.error(&span, message, format!("list one to {NODES_MAX}: where the nodes are"));
        return None;
    }
    let mut remotes = Some(Vec::new());
    for value in values {
        let text = reader.text(value, "an address of remotes", "\"ADDRESS\"");
        match (text.and_then(|text| read_address(reader, &text)), &mut remotes) {
            (Some(address), Some(remotes)) => remotes.push(address.into_inner()),
            (_, remotes) => *remotes = None,
        }
    }
    remotes.map(|remotes| LinkKind::Ucast { remotes })
}

/// `group`, `ttl` and `loopback`.
fn read_group(reader: &mut Reader<'_>, table: &mut Table<'_>, kind: &Span) -> Option<LinkKind> {
    const EXAMPLE: &str = "write group = \"239.0.0.1\", or one of ff00::/8";
    let ttl = table.integer(reader, "ttl", &(0..=u32::from(u8::MAX)));
    let loopback = table.boolean(reader, "loopback");
    let group = match table.text(reader, "group") {
        Field::Absent => {
            reader.error(kind, format!("{} has no group", table.label()), EXAMPLE);
            None
        }
        Field::Refused => None,
        Field::Given(text) => match text.get_ref().parse::<IpAddr>() {
            Ok(group) => Some(group),
            Err(_) => {
                let message = format!("{} is not an address", quoted(text.get_ref()));
                reader.error(&text.span(), message, EXAMPLE);
                None
            }
        },
    };
    Some(LinkKind::Mcast {
        group: group?,
        ttl: u8::try_from(ttl.or_default(TTL_DEFAULT)?).ok()?,
        loopback: loopback.or_default(false)?,
    })
}

/// The key `interface` of a link, an endpoint or a resource.
pub(super) fn read_interface(
    reader: &mut Reader<'_>,
    table: &mut Table<'_>,
) -> Field<InterfaceName> {
    match table.text(reader, "interface") {
        Field::Absent => Field::Absent,
        Field::Refused => Field::Refused,
        Field::Given(text) => match reader.name(&text, "the interface") {
            Some(name) => Field::Given(Spanned::new(text.span(), name)),
            None => Field::Refused,
        },
    }
}
