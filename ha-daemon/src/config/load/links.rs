//! `[links.NAME]`: the paths of heartbeats.

use toml::Spanned;

use super::reader::{Field, Reader, Span, Table};
use super::serial;
use super::{named_tables, refuse_equal_ids};
use crate::config::finding::{did_you_mean, quoted};
use crate::config::{LINKS_MAX, Link, LinkIdentity, LinkKind, PORT_DEFAULT, Receive};
use crate::names::InterfaceName;

const RECEIVE: &[(&str, Receive)] = &[
    ("auto", Receive::Auto),
    ("xdp-native", Receive::XdpNative),
    ("xdp-generic", Receive::XdpGeneric),
    ("tc", Receive::Tc),
    ("socket", Receive::Socket),
];
/// Kinds that this version knows by name only.
const KINDS_LATER: &[&str] = &["mcast", "bcast"];

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
    pub(super) addressed: bool,
    /// What it has for being a serial line.
    pub(super) serial: Option<serial::Draft>,
}

/// All links, in the order of their names: positions are [`crate::config::LinkIndex`].
pub(super) fn read(reader: &mut Reader<'_>, root: &mut Table<'_>) -> Vec<Draft> {
    let mut drafts = Vec::new();
    for (key, table) in named_tables(reader, root, "links", LINKS_MAX) {
        drafts.push(read_link(reader, &key, table));
    }
    let names = drafts.iter().map(|draft| (draft.key.as_str(), draft.span.clone()));
    refuse_equal_ids(reader, "links", names);
    drafts
}

fn read_link(reader: &mut Reader<'_>, key: &Spanned<String>, table: Option<Table<'_>>) -> Draft {
    let name = reader.name(key, "the link name");
    let mut draft = Draft {
        key: key.get_ref().clone(),
        span: key.span(),
        interface: Field::Refused,
        link: None,
        addressed: true,
        serial: None,
    };
    let Some(mut table) = table else { return draft };
    let kind = read_kind(reader, &mut table);
    if matches!(kind, Kind::Later) {
        // Its keys are not known yet, and neither are the addresses that nodes have on it.
        draft.addressed = false;
        return draft;
    }
    if matches!(kind, Kind::Known(LinkKind::Serial { .. })) {
        draft.serial = Some(serial::read_link(reader, &mut table));
    }
    // Neither is known on a serial line.
    let mut receive = Field::Absent;
    if draft.serial.is_none() {
        receive = table.choice(reader, "receive", RECEIVE);
        draft.interface = read_interface(reader, &mut table);
    }
    table.finish(reader);
    if let (Some(name), Kind::Known(kind), Some(receive)) =
        (name, kind, receive.or_default(Receive::Auto))
    {
        let id = ha_common::wire::name_id(key.get_ref());
        draft.link = Some(Link {
            name,
            id,
            kind,
            identity: LinkIdentity::Name,
            port: PORT_DEFAULT,
            times: None,
            receive,
        });
    }
    draft
}

enum Kind {
    Known(LinkKind),
    Later,
    Refused,
}

fn read_kind(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Kind {
    let given = match table.text(reader, "kind") {
        Field::Absent => {
            let message = format!("{} has no kind", table.label());
            reader.error(&table.span(), message, "write kind = \"ucast\"");
            return Kind::Refused;
        }
        Field::Refused => return Kind::Refused,
        Field::Given(given) => given,
    };
    let kind = given.get_ref().as_str();
    if kind == "ucast" {
        return Kind::Known(LinkKind::Ucast { remotes: Vec::new() });
    }
    if kind == "serial" {
        return Kind::Known(serial::read_kind(reader, table));
    }
    if KINDS_LATER.contains(&kind) {
        let message = format!("the link kind \"{kind}\" is not supported yet");
        reader.error(&given.span(), message, "use kind = \"ucast\" or remove the link");
        return Kind::Later;
    }
    let known = KINDS_LATER.iter().copied().chain(["ucast", "serial"]);
    let remedy = did_you_mean(kind, "kind", known);
    reader.error(&given.span(), format!("unknown link kind {}", quoted(kind)), remedy);
    Kind::Refused
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
