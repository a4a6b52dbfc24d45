//! `[connectivity]`: what is pinged, and what follows from the answers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use humantime::format_duration;
use toml::Spanned;

use super::nodes::{self, unusable_host};
use super::reader::{Field, Reader, Table, Value};
use super::{groups, reader};
use crate::config::finding::quoted;
use crate::config::{
    Connectivity, DURATION_MAX, IsolatedOwner, PING_INTERVAL_MIN, PING_MEMBERS_MAX,
    PING_TARGETS_MAX, PingTarget, ProbeBeforeTake, Resource,
};
use crate::names::NodeName;

const PROBE: &[(&str, ProbeBeforeTake)] = &[
    ("auto", ProbeBeforeTake::Auto),
    ("always", ProbeBeforeTake::Always),
    ("never", ProbeBeforeTake::Never),
];
const ISOLATED: &[(&str, IsolatedOwner)] =
    &[("release", IsolatedOwner::Release), ("keep", IsolatedOwner::Keep)];

/// The section, or what holds without it. `timing` is keepalive and deadtime, unless refused.
pub(super) fn read(
    reader: &mut Reader<'_>,
    root: &mut Table<'_>,
    timing: Option<(Duration, Duration)>,
    nodes: &[nodes::Draft],
    groups: &[groups::Draft],
) -> Option<Connectivity> {
    let default = timing.map(|(keepalive, deadtime)| Connectivity::none(keepalive, deadtime));
    let Some(value) = root.take("connectivity") else {
        return default;
    };
    let mut table = reader.table(value, "[connectivity]".to_owned())?;
    let times = read_times(reader, &mut table, timing);
    let moves_groups = table.boolean(reader, "moves_groups");
    let probe_before_take = table.choice(reader, "probe_before_take", PROBE);
    let isolated_owner = table.choice(reader, "isolated_owner", ISOLATED);
    let targets = read_targets(reader, &mut table, &taken_addresses(nodes, groups));
    table.finish(reader);
    let (interval, deadping, damping) = times?;
    Some(Connectivity {
        targets: targets?,
        interval,
        deadping,
        damping,
        moves_groups: moves_groups.or_default(true)?,
        probe_before_take: probe_before_take.or_default(ProbeBeforeTake::Auto)?,
        isolated_owner: isolated_owner.or_default(IsolatedOwner::Release)?,
    })
}

/// Interval, deadping and damping.
fn read_times(
    reader: &mut Reader<'_>,
    table: &mut Table<'_>,
    timing: Option<(Duration, Duration)>,
) -> Option<(Duration, Duration, Duration)> {
    let any = Duration::ZERO..=DURATION_MAX;
    let interval = table.duration(reader, "interval", &(PING_INTERVAL_MIN..=DURATION_MAX));
    let deadping = table.duration(reader, "deadping", &any);
    let damping = table.duration(reader, "damping", &any);
    let (keepalive, deadtime) = timing?;
    let interval = interval.or_default(keepalive.max(PING_INTERVAL_MIN))?;
    let shown = format_duration(interval);
    let twice = format_duration(interval.saturating_mul(2));
    let deadping = match deadping {
        Field::Refused => None,
        Field::Absent => Some(deadtime.max(interval.saturating_mul(3)).min(DURATION_MAX)),
        Field::Given(given) if *given.get_ref() <= interval => {
            let message = format!(
                "deadping {} is not longer than the interval {shown} of the requests",
                format_duration(*given.get_ref())
            );
            let remedy = format!("set deadping to {twice} or more");
            reader.error(&given.span(), message, remedy);
            None
        }
        Field::Given(given) => {
            if *given.get_ref() < interval.saturating_mul(2) {
                let message = format!(
                    "deadping {} is shorter than two intervals of {shown}: one lost answer makes a \
                     ping target unreachable",
                    format_duration(*given.get_ref())
                );
                reader.warning(&given.span(), message, format!("set deadping to {twice} or more"));
            }
            Some(*given.get_ref())
        }
    };
    let damping = match damping {
        Field::Refused => None,
        Field::Absent => Some(interval.saturating_mul(2).min(DURATION_MAX)),
        Field::Given(given) => {
            if *given.get_ref() < interval.saturating_mul(2) {
                let message = format!(
                    "damping {} is shorter than two intervals of {shown}: a ping target that dies moves \
                     groups, because no two nodes notice it at the same moment",
                    format_duration(*given.get_ref())
                );
                reader.warning(&given.span(), message, format!("set damping to {twice} or more"));
            }
            Some(*given.get_ref())
        }
    };
    Some((interval, deadping?, damping?))
}

/// Addresses that say nothing about the network: those of the nodes and those of the groups.
fn taken_addresses(
    nodes: &[nodes::Draft],
    groups: &[groups::Draft],
) -> BTreeMap<IpAddr, &'static str> {
    let endpoints = nodes.iter().flat_map(|node| node.endpoints.values());
    let own = endpoints.filter_map(nodes::DraftEndpoint::given_address);
    let resources = groups.iter().flat_map(|group| &group.resources);
    let floating = resources.filter_map(|resource| match resource.get_ref() {
        Resource::Address { address, .. } => Some(address.addr()),
        Resource::SourceAddress { .. } | Resource::Script { .. } | Resource::Systemd { .. } => None,
    });
    let own = own.map(|address| (address, "a node's own address"));
    own.chain(floating.map(|address| (address, "a floating address"))).collect()
}

fn read_targets(
    reader: &mut Reader<'_>,
    table: &mut Table<'_>,
    taken: &BTreeMap<IpAddr, &'static str>,
) -> Option<Vec<PingTarget>> {
    let Some(value) = table.take("targets") else {
        let remedy = "add targets = { gateway = [\"ADDRESS\"] }, or remove the section";
        reader.warning(&table.span(), "[connectivity] has no targets: nothing is pinged", remedy);
        return Some(Vec::new());
    };
    let entries = reader.table(value, "[connectivity.targets]".to_owned())?.into_named();
    if let Some((key, _)) = entries.get(PING_TARGETS_MAX) {
        let message = format!("{} ping targets are too many", entries.len());
        reader.error(&key.span(), message, format!("keep to {PING_TARGETS_MAX}"));
    }
    let mut seen = BTreeMap::new();
    let mut targets = Some(Vec::new());
    for (key, value) in entries {
        let name = target_name(reader, &key);
        let members = read_members(reader, value, key.get_ref(), taken, &mut seen);
        match (name, members, &mut targets) {
            (Some(name), Some(members), Some(targets)) => {
                targets.push(PingTarget { name, members });
            }
            _ => targets = None,
        }
    }
    targets
}

/// An address, or what may be the name of a node, so that it fits into log lines and tables.
fn target_name(reader: &mut Reader<'_>, key: &Spanned<String>) -> Option<String> {
    if is_target_name(key.get_ref()) {
        return Some(key.get_ref().clone());
    }
    reader.name::<NodeName>(key, "the name of the ping target").map(String::from)
}

/// Whether a ping target may have this name.
pub(in crate::config) fn is_target_name(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok() || name.parse::<NodeName>().is_ok()
}

/// The addresses of one target.
fn read_members(
    reader: &mut Reader<'_>,
    value: Value<'_>,
    key: &str,
    taken: &BTreeMap<IpAddr, &'static str>,
    seen: &mut BTreeMap<IpAddr, String>,
) -> Option<Vec<IpAddr>> {
    let label = &reader::label(&["connectivity", "targets", key]);
    let values = reader.texts(value, label, key)?;
    let (span, values) = (values.span(), values.into_inner());
    if values.is_empty() {
        reader.error(&span, format!("{label} has no address"), "name at least one");
    }
    if values.len() > PING_MEMBERS_MAX {
        let message = format!("{label} has {} addresses", values.len());
        reader.error(&span, message, format!("keep to {PING_MEMBERS_MAX}, or make two targets"));
    }
    let mut members = Vec::new();
    let mut complete = !values.is_empty();
    for value in values {
        let Some(text) = reader.text(value, "an address to ping", "\"ADDRESS\"") else {
            complete = false;
            continue;
        };
        match read_member(reader, &text, taken) {
            None => complete = false,
            Some(address) => {
                if let Some(other) = seen.insert(address, label.to_owned()) {
                    let message = format!("{address} is in {other} already");
                    reader.error(&text.span(), message, "ping it once");
                }
                members.push(address);
            }
        }
    }
    complete.then_some(members)
}

fn read_member(
    reader: &mut Reader<'_>,
    text: &Spanned<String>,
    taken: &BTreeMap<IpAddr, &'static str>,
) -> Option<IpAddr> {
    let shown = quoted(text.get_ref());
    let Ok(address) = text.get_ref().parse::<IpAddr>() else {
        let message = format!("{shown} is not an address");
        let remedy = "write an IPv4 or IPv6 address without prefix length; names are not looked up";
        reader.error(&text.span(), message, remedy);
        return None;
    };
    if let Some((why, remedy)) = unpingable(address) {
        reader.error(&text.span(), format!("{shown} is {why}"), remedy);
        None
    } else if let Some(what) = taken.get(&address) {
        let message = format!("{shown} is {what}: it moves or dies with what it is to judge");
        reader.error(&text.span(), message, "name a host outside of the cluster");
        None
    } else {
        Some(address)
    }
}

/// Why an answer of that address says nothing, and what to do, if so.
pub(in crate::config) fn unpingable(address: IpAddr) -> Option<(&'static str, &'static str)> {
    let link_local = match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    if let Some(why) = unusable_host(address) {
        Some((why, "name a host that answers pings"))
    } else if link_local {
        let why = "link-local: it does not say on which interface";
        Some((why, "give the host's global or unique local address"))
    } else if address.is_loopback() {
        let why = "this node itself: it answers whatever happens";
        Some((why, "name a host beside or behind the service network"))
    } else {
        None
    }
}
