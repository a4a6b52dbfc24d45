//! The resources of a group.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;

use super::links::read_interface;
use super::nodes::unusable_host;
use super::reader::{Field, Reader, Table, Value};
use crate::config::finding::{did_you_mean, quoted};
use crate::config::{
    ADDRESS_LABEL_BYTES_MAX, ARGUMENTS_MAX, DURATION_MAX, MONITOR_DEFAULT, MONITOR_MIN, Resource,
};
use crate::names::InterfaceName;

const KINDS: &[&str] = &["address", "source-address", "script", "systemd"];
/// Kinds that this version knows by name only.
const KINDS_LATER: &[&str] = &["ocf", "filesystem", "lvm", "process"];
/// What a unit that can be started is (systemd.unit(5)).
const UNIT_SUFFIXES: &[&str] = &["service", "socket", "target", "mount", "timer", "path", "swap"];

/// A resource, and how often it is asked for its status.
pub(super) fn read_resource(
    reader: &mut Reader<'_>,
    value: Value<'_>,
    label: String,
) -> Option<(Spanned<Resource>, Option<Duration>)> {
    let mut table = reader.table(value, label)?;
    let kind = match table.word(reader, "kind", KINDS.iter().copied()) {
        Field::Absent => {
            let message = format!("{} has no kind", table.label());
            reader.error(&table.span(), message, "write kind = \"address\"");
            return None;
        }
        Field::Refused => return None,
        Field::Given(kind) => kind,
    };
    let word = kind.get_ref().as_str();
    let not_monitored = |resource| Some((resource?, None));
    let resource = match word {
        "address" => not_monitored(read_address(reader, &mut table)),
        "source-address" => not_monitored(read_source_address(reader, &mut table)),
        "script" => {
            let script = read_script(reader, &mut table);
            monitored(reader, &mut table, script)
        }
        "systemd" => {
            let unit = read_unit(reader, &mut table);
            monitored(reader, &mut table, unit)
        }
        _ if KINDS_LATER.contains(&word) => {
            let message = format!("the resource kind \"{word}\" is not supported yet");
            reader.error(&kind.span(), message, "remove the resource, or write a script for it");
            return None;
        }
        _ => {
            let known = KINDS_LATER.iter().chain(KINDS).copied();
            let remedy = did_you_mean(word, "kind", known);
            reader.error(&kind.span(), format!("unknown resource kind {}", quoted(word)), remedy);
            return None;
        }
    };
    table.finish(reader);
    resource
}

/// A service with its interval.
fn monitored(
    reader: &mut Reader<'_>,
    table: &mut Table<'_>,
    service: Option<Spanned<Resource>>,
) -> Option<(Spanned<Resource>, Option<Duration>)> {
    let range = MONITOR_MIN..=DURATION_MAX;
    let monitor = table.duration_or(reader, "monitor", &range, "off");
    Some((service?, monitor.or_default(Some(MONITOR_DEFAULT))?))
}

/// A key that the kind cannot do without.
fn required(
    reader: &mut Reader<'_>,
    table: &mut Table<'_>,
    key: &'static str,
    example: &str,
) -> Option<Spanned<String>> {
    match table.text(reader, key) {
        Field::Absent => {
            let message = format!("{} has no {key}", table.label());
            reader.error(&table.span(), message, format!("write {key} = {example}"));
            None
        }
        Field::Refused => None,
        Field::Given(text) => Some(text),
    }
}

fn read_address(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Option<Spanned<Resource>> {
    let text = required(reader, table, "address", "\"ADDRESS/PREFIX-LENGTH\"");
    let address = text.and_then(|text| read_floating(reader, &text));
    let interface = read_interface(reader, table);
    if matches!(interface, Field::Absent) {
        let message = format!("{} has no interface", table.label());
        reader.error(&table.span(), message, "write interface = \"...\"");
    }
    let interface = interface.given().map(Spanned::into_inner);
    let label = table.text(reader, "label");
    let broadcast = table.text(reader, "broadcast");
    let (address, interface) = (address?, interface?);
    let v4 = address.get_ref().addr().is_ipv4();
    let label = read_label(reader, label, &interface, v4)?;
    let broadcast = read_broadcast(reader, broadcast, v4)?;
    let span = address.span();
    let address = address.into_inner();
    Some(Spanned::new(span, Resource::Address { address, interface, label, broadcast }))
}

/// The outer `None`: refused.
fn read_label(
    reader: &mut Reader<'_>,
    field: Field<String>,
    interface: &InterfaceName,
    v4: bool,
) -> Option<Option<String>> {
    let text = match field {
        Field::Absent => return Some(None),
        Field::Refused => return None,
        Field::Given(text) => text,
    };
    let (label, span) = (text.get_ref(), text.span());
    let rest = label.strip_prefix(interface.as_str());
    let wrong = if !v4 {
        Some("belongs to an IPv6 address, which has none")
    } else if label.len() > ADDRESS_LABEL_BYTES_MAX {
        Some("is longer than 15 bytes")
    } else if !rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':')) {
        Some("does not begin with its interface")
    } else if !label.bytes().all(|byte| byte.is_ascii_graphic()) {
        Some("has characters that do not belong into it")
    } else {
        None
    };
    let Some(wrong) = wrong else { return Some(Some(text.into_inner())) };
    let remedy = if v4 { format!("write \"{interface}:0\"") } else { "remove it".to_owned() };
    reader.error(&span, format!("the label {} {wrong}", quoted(text.get_ref())), remedy);
    None
}

/// The outer `None`: refused.
fn read_broadcast(
    reader: &mut Reader<'_>,
    field: Field<String>,
    v4: bool,
) -> Option<Option<Ipv4Addr>> {
    let text = match field {
        Field::Absent => return Some(None),
        Field::Refused => return None,
        Field::Given(text) => text,
    };
    let shown = quoted(text.get_ref());
    match text.get_ref().parse::<Ipv4Addr>() {
        Ok(broadcast) if v4 => return Some(Some(broadcast)),
        Ok(_) => {
            let message = format!("broadcast {shown} belongs to an IPv6 address, which has none");
            reader.error(&text.span(), message, "remove it");
        }
        Err(_) => {
            let message = format!("broadcast {shown} is not an IPv4 address");
            reader.error(&text.span(), message, "give the broadcast address, or remove it");
        }
    }
    None
}

fn read_source_address(
    reader: &mut Reader<'_>,
    table: &mut Table<'_>,
) -> Option<Spanned<Resource>> {
    let text = required(reader, table, "address", "\"ADDRESS\"")?;
    let Ok(address) = text.get_ref().parse::<IpAddr>() else {
        let message = format!("{} is not an address", quoted(text.get_ref()));
        reader.error(&text.span(), message, "give the floating address, without prefix length");
        return None;
    };
    if let Some(why) = unusable_host(address) {
        let message = format!("{} is {why}, not a host's address", quoted(text.get_ref()));
        reader.error(&text.span(), message, "give the floating address");
        return None;
    }
    Some(Spanned::new(text.span(), Resource::SourceAddress { address }))
}

fn read_script(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Option<Spanned<Resource>> {
    let name = required(reader, table, "name", "\"...\"");
    let arguments = read_arguments(reader, table);
    let (name, arguments) = (name?, arguments?);
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.+@".contains(c);
    let word = name.get_ref();
    if word.is_empty() || word.starts_with(['-', '.']) || !word.chars().all(plain) {
        let message = format!("{} is not the name of a script", quoted(word));
        let remedy = "write the name of a file in resource.d or /etc/init.d, without path";
        reader.error(&name.span(), message, remedy);
        return None;
    }
    let span = name.span();
    Some(Spanned::new(span, Resource::Script { name: name.into_inner(), arguments }))
}

/// Arguments of a program: no bound of the system is near these.
pub(super) fn read_arguments(
    reader: &mut Reader<'_>,
    table: &mut Table<'_>,
) -> Option<Vec<String>> {
    let values = match table.texts(reader, "arguments") {
        Field::Absent => return Some(Vec::new()),
        Field::Refused => return None,
        Field::Given(values) => values,
    };
    let (span, values) = (values.span(), values.into_inner());
    if values.len() > ARGUMENTS_MAX {
        let message = format!("{} has {} arguments", table.label(), values.len());
        reader.error(&span, message, format!("keep to {ARGUMENTS_MAX}"));
        return None;
    }
    let mut arguments = Vec::new();
    let count = values.len();
    for value in values {
        let Some(text) = reader.text(value, "an argument", "it in quotes") else { continue };
        if text.get_ref().contains('\0') {
            let message = format!("the argument {} contains a NUL", quoted(text.get_ref()));
            reader.error(&text.span(), message, "remove it");
            continue;
        }
        arguments.push(text.into_inner());
    }
    (arguments.len() == count).then_some(arguments)
}

fn read_unit(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Option<Spanned<Resource>> {
    let unit = required(reader, table, "unit", "\"NAME.service\"")?;
    let word = unit.get_ref();
    let shown = quoted(word);
    // systemd.unit(5): what a unit's name may consist of.
    let plain = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    if word.is_empty() || word.starts_with('-') || !word.chars().all(plain) {
        let message = format!("{shown} is not the name of a systemd unit");
        reader.error(&unit.span(), message, "write it as systemctl list-units shows it");
        return None;
    }
    if !is_unit_name(word) {
        let message = format!("{shown} does not say which kind of unit it is");
        reader.error(&unit.span(), message, format!("write \"{word}.service\""));
        return None;
    }
    let span = unit.span();
    Some(Spanned::new(span, Resource::Systemd { unit: unit.into_inner() }))
}

/// Whether a name says which kind of unit it is, of the kinds that can be started.
pub(crate) fn is_unit_name(name: &str) -> bool {
    let suffix = name.rsplit_once('.').filter(|(name, _)| !name.is_empty()).map(|(_, it)| it);
    suffix.is_some_and(|suffix| UNIT_SUFFIXES.contains(&suffix))
}

/// A floating address with its prefix length.
fn read_floating(reader: &mut Reader<'_>, text: &Spanned<String>) -> Option<Spanned<IpNet>> {
    let shown = quoted(text.get_ref());
    let Ok(network) = text.get_ref().parse::<IpNet>() else {
        let remedy = match text.get_ref().parse::<IpAddr>() {
            Ok(bare) if bare.is_ipv4() => format!("write \"{bare}/24\", as the network has it"),
            Ok(bare) => format!("write \"{bare}/64\", as the network has it"),
            Err(_) => "write \"ADDRESS/PREFIX-LENGTH\"".to_owned(),
        };
        let message = format!("{shown} is not an address with its prefix length");
        reader.error(&text.span(), message, remedy);
        return None;
    };
    match unusable_in_network(network) {
        None => Some(Spanned::new(text.span(), network)),
        Some(why) => {
            let message = format!("{shown} is {why}, not a host's address");
            reader.error(&text.span(), message, "give the address that clients connect to");
            None
        }
    }
}

/// Why no host of that network can have the address, if so.
pub(in crate::config) fn unusable_in_network(network: IpNet) -> Option<&'static str> {
    let host = network.addr();
    let wide = network.prefix_len() < network.max_prefix_len() - 1;
    if network.prefix_len() == 0 {
        Some("a network without any prefix")
    } else if wide && host.is_ipv4() && host == network.network() {
        Some("the address of the network itself")
    } else if wide && host.is_ipv4() && host == network.broadcast() {
        Some("the broadcast address of its network")
    } else {
        unusable_host(host)
    }
}
