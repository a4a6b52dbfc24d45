//! `[links.NAME]` with `kind = "serial"`, and the devices of nodes on it.

use std::path::{Path, PathBuf};

use toml::Spanned;

use super::links;
use super::nodes::{Draft as NodeDraft, DraftEndpoint};
use super::reader::{Field, Reader, Span, Table, Value, bare_or_quoted, label};
use crate::config::finding::{list, quoted};
use crate::config::serial::{BAUD_DEFAULT, BAUD_RANGE, too_many_for_a_line};
use crate::config::{LinkIdentity, LinkIndex, LinkKind};

/// Longest path that the kernel takes, in bytes (`PATH_MAX` with its zero).
const PATH_BYTES_MAX: usize = 4_095;
/// Nodes that a line connects.
const ENDS: usize = 2;

/// What a serial link says beside its kind.
pub(super) struct Draft {
    /// The device of the nodes that name none.
    device: Field<PathBuf>,
}

/// The kind with its rate. A refused rate is a finding, so nothing comes of what stands in for it.
pub(super) fn read_kind(reader: &mut Reader<'_>, table: &mut Table<'_>) -> LinkKind {
    let baud = table.integer(reader, "baud", &BAUD_RANGE).or_default(BAUD_DEFAULT);
    LinkKind::Serial { baud: baud.unwrap_or(BAUD_DEFAULT) }
}

pub(super) fn read_link(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Draft {
    Draft { device: read_device(reader, table) }
}

fn read_device(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Field<PathBuf> {
    match table.text(reader, "device") {
        Field::Absent => Field::Absent,
        Field::Refused => Field::Refused,
        Field::Given(text) => device(reader, &text)
            .map_or(Field::Refused, |device| Field::Given(Spanned::new(text.span(), device))),
    }
}

fn device(reader: &mut Reader<'_>, text: &Spanned<String>) -> Option<PathBuf> {
    let Some(wrong) = no_device_path(text.get_ref()) else {
        return Some(PathBuf::from(text.get_ref()));
    };
    let message = format!("{} {wrong}", quoted(text.get_ref()));
    reader.error(&text.span(), message, "write it as in device = \"/dev/ttyS0\"");
    None
}

/// Why this cannot be the path of a device, if so.
pub(in crate::config) fn no_device_path(text: &str) -> Option<&'static str> {
    let path = Path::new(text);
    if !path.is_absolute() || path.file_name().is_none() {
        Some("is not the full path of a device")
    } else if text.len() > PATH_BYTES_MAX || text.contains('\0') {
        Some("is no path")
    } else {
        None
    }
}

/// `LINK = "/dev/ttyS0"`, `LINK = { device = "/dev/ttyS0" }` or `LINK = {}`: a node's device on a
/// line, its own or the link's; nothing if there is none that can be used.
pub(super) fn read_endpoint(
    reader: &mut Reader<'_>,
    value: &Value<'_>,
    node: &str,
    link: &links::Draft,
    line: &Draft,
) -> Option<PathBuf> {
    let span = value.span();
    let own = if value.get_ref().is_table() {
        let mut table = reader.table(value.clone(), label(&["nodes", node, &link.key]))?;
        let own = read_device(reader, &mut table);
        table.finish(reader);
        own
    } else {
        let text = reader.text(value.clone(), &link.key, &example(&link.key))?;
        device(reader, &text)
            .map_or(Field::Refused, |it| Field::Given(Spanned::new(span.clone(), it)))
    };
    match (own, &line.device) {
        (Field::Given(own), _) => Some(own.into_inner()),
        (Field::Absent, Field::Given(common)) => Some(common.get_ref().clone()),
        (Field::Absent, Field::Absent) => {
            let message =
                format!("neither this endpoint nor the link {} names a device", quoted(&link.key));
            let remedy =
                format!("write device = \"...\" in {}, or here", label(&["links", &link.key]));
            reader.error(&span, message, remedy);
            None
        }
        (Field::Refused, _) | (Field::Absent, Field::Refused) => None,
    }
}

/// How a node names its device on a line.
fn example(link: &str) -> String {
    format!("{} = \"/dev/ttyS0\"", bare_or_quoted(link))
}

/// The endpoint beside which a node has a device.
pub(super) fn endpoint(span: Span) -> DraftEndpoint {
    DraftEndpoint { span, address: Field::Absent, interface: None }
}

/// A line that names its device connects the two nodes of a cluster that has no more, whether they
/// name it or not; by arrival, every node may have one, as in Heartbeat's files.
pub(super) fn connect(links: &[links::Draft], nodes: &mut [NodeDraft]) {
    for (index, link) in links.iter().enumerate() {
        let Some(Draft { device }) = &link.serial else { continue };
        if nodes.len() != ENDS && !by_arrival(link) {
            continue;
        }
        let device = match device {
            Field::Absent => continue,
            Field::Refused => None,
            Field::Given(device) => Some(device.get_ref().clone()),
        };
        let index = LinkIndex(index);
        for node in nodes.iter_mut().filter(|node| !node.endpoints.contains_key(&index)) {
            node.endpoints.insert(index, endpoint(link.span.clone()));
            node.devices.insert(index, device.clone());
        }
    }
}

fn by_arrival(link: &links::Draft) -> bool {
    link.link.as_ref().is_some_and(|link| link.identity == LinkIdentity::Arrival)
}

/// A line has two ends. Of links by arrival the file does not say which node is at the other one.
pub(super) fn check(
    reader: &mut Reader<'_>,
    index: LinkIndex,
    link: &links::Draft,
    nodes: &[NodeDraft],
) {
    let users: Vec<&str> = nodes
        .iter()
        .filter(|node| node.endpoints.contains_key(&index))
        .map(|node| node.key.as_str())
        .collect();
    if users.len() == ENDS || nodes.len() < ENDS {
        return;
    }
    let name = quoted(&link.key);
    if by_arrival(link) && users.len() > ENDS {
        let (message, remedy) = too_many_for_a_line(users.len());
        return reader.warning(&link.span, message, remedy);
    }
    let message = if users.is_empty() {
        format!("the serial line {name} connects no nodes")
    } else {
        format!("the serial line {name} has two ends, and {} on it: {}", users.len(), list(users))
    };
    let remedy = format!("name its device in two nodes, as in {}", example(&link.key));
    reader.error(&link.span, message, remedy);
}
