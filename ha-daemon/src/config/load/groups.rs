//! `[groups.NAME]`: what runs where.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use toml::Spanned;

use super::nodes;
use super::reader::{Field, Reader, Span, Table};
use super::resources::read_resource;
use super::{named_tables, refuse_equal_ids};
use crate::config::finding::{did_you_mean, quoted};
use crate::config::{
    DURATION_MAX, Failback, GROUPS_MAX, Group, NodeIndex, OnDaemonDeath, RESOURCES_MAX,
    RESTART_WINDOW_MIN, RESTARTS_MAX, Recovery, RecoveryPolicy, Resource,
};
use crate::names::GroupName;

const FAILBACK: &[(&str, Failback)] = &[("auto", Failback::Auto), ("manual", Failback::Manual)];
const ON_DAEMON_DEATH: &[(&str, OnDaemonDeath)] =
    &[("move", OnDaemonDeath::Move), ("wait", OnDaemonDeath::Wait)];
const RECOVERY: &[(&str, RecoveryPolicy)] = &[
    ("restart", RecoveryPolicy::Restart),
    ("relocate", RecoveryPolicy::Relocate),
    ("disable", RecoveryPolicy::Disable),
];

/// A group as far as it could be read.
pub(super) struct Draft {
    /// Its resources that were not refused, each where its address is.
    pub(super) resources: Vec<Spanned<Resource>>,
    /// How often each of them is asked for its status.
    monitors: Vec<Option<Duration>>,
    key: String,
    span: Span,
    name: Option<GroupName>,
    nodes: Option<Vec<NodeIndex>>,
    failback: Option<Failback>,
    /// `None`: as its resources are; refused: the outer one.
    on_daemon_death: Option<Option<OnDaemonDeath>>,
    prearmed: Option<bool>,
    recovery: Option<Recovery>,
}

impl Draft {
    /// The group. A refused resource is missing in it; the finding about it refuses the file.
    pub(super) fn finish(self) -> Option<Group> {
        let resources: Vec<Resource> =
            self.resources.into_iter().map(Spanned::into_inner).collect();
        let default = OnDaemonDeath::default_of(&resources);
        Some(Group {
            id: ha_common::wire::name_id(&self.key),
            name: self.name?,
            nodes: self.nodes?,
            failback: self.failback?,
            on_daemon_death: self.on_daemon_death?.unwrap_or(default),
            prearmed: self.prearmed?,
            recovery: self.recovery?,
            resources,
            monitors: self.monitors,
        })
    }
}

/// All groups, in the order of their names: positions are [`crate::config::GroupIndex`].
pub(super) fn read(
    reader: &mut Reader<'_>,
    root: &mut Table<'_>,
    nodes: &[nodes::Draft],
) -> Vec<Draft> {
    let mut groups = Vec::new();
    for (key, table) in named_tables(reader, root, "groups", GROUPS_MAX) {
        groups.push(read_group(reader, &key, table, nodes));
    }
    let names = groups.iter().map(|group: &Draft| (group.key.as_str(), group.span.clone()));
    refuse_equal_ids(reader, "groups", names);
    check_addresses(reader, &groups, nodes);
    groups.iter().for_each(|group| check_source_addresses(reader, group));
    groups
}

fn read_group(
    reader: &mut Reader<'_>,
    key: &Spanned<String>,
    table: Option<Table<'_>>,
    nodes: &[nodes::Draft],
) -> Draft {
    let mut group = Draft {
        resources: Vec::new(),
        monitors: Vec::new(),
        key: key.get_ref().clone(),
        span: key.span(),
        name: reader.name(key, "the group name"),
        nodes: None,
        failback: None,
        on_daemon_death: None,
        prearmed: None,
        recovery: None,
    };
    let Some(mut table) = table else { return group };
    group.nodes = read_candidates(reader, &mut table, nodes);
    group.failback = read_failback(reader, &mut table);
    group.on_daemon_death = match table.choice(reader, "on_daemon_death", ON_DAEMON_DEATH) {
        Field::Absent => Some(None),
        Field::Refused => None,
        Field::Given(given) => Some(Some(given.into_inner())),
    };
    let prearmed = table.boolean(reader, "prearmed");
    (group.resources, group.monitors) = read_resources(reader, &mut table, key).into_iter().unzip();
    group.recovery = read_recovery(reader, &mut table, &group.monitors);
    group.prearmed = check_prearmed(reader, &group, prearmed);
    table.finish(reader);
    group
}

fn read_candidates(
    reader: &mut Reader<'_>,
    table: &mut Table<'_>,
    nodes: &[nodes::Draft],
) -> Option<Vec<NodeIndex>> {
    const NODE: &str = "its name as in [nodes.NAME], in quotes";
    const REMEDY: &str = "write nodes = [\"...\", \"...\"], preferred first";
    let label = table.label().to_owned();
    let values = match table.texts(reader, "nodes") {
        Field::Absent => {
            reader.error(&table.span(), format!("{label} has no nodes"), REMEDY);
            return None;
        }
        Field::Refused => return None,
        Field::Given(values) => values,
    };
    let span = values.span();
    let values = values.into_inner();
    match values.len() {
        0 => reader.error(&span, format!("{label} has no nodes"), REMEDY),
        1 => {
            let message = format!("{label} has a single node: nothing takes it over");
            reader.warning(&span, message, "add a second node");
        }
        _ => {}
    }
    let mut candidates = Vec::new();
    let mut seen = BTreeSet::new();
    for value in values {
        let Some(name) = reader.text(value, "a node of the group", NODE) else {
            continue;
        };
        let word = name.get_ref();
        let Some(index) = nodes.iter().position(|node| node.key == *word) else {
            let known = nodes.iter().map(|node| node.key.as_str());
            let remedy = did_you_mean(word, "node", known);
            reader.error(&name.span(), format!("unknown node {} in {label}", quoted(word)), remedy);
            continue;
        };
        if !seen.insert(index) {
            let message = format!("{} is in the nodes of {label} twice", quoted(word));
            reader.error(&name.span(), message, "name it once");
        }
        candidates.push(NodeIndex(index));
    }
    Some(candidates)
}

fn read_failback(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Option<Failback> {
    let known = FAILBACK.iter().map(|(word, _)| *word);
    let given = match table.word(reader, "failback", known) {
        Field::Absent => return Some(Failback::Auto),
        Field::Refused => return None,
        Field::Given(given) => given,
    };
    // Heartbeat's auto_failback says on and off.
    let meant = match given.get_ref().as_str() {
        "on" => "auto",
        "off" => "manual",
        _ => return reader.choice(&given, "failback", FAILBACK),
    };
    let message = format!("unknown failback {}", quoted(given.get_ref()));
    reader.error(&given.span(), message, format!("write failback = \"{meant}\""));
    None
}

/// What follows when a service has failed. A key that can have no effect is told.
fn read_recovery(
    reader: &mut Reader<'_>,
    table: &mut Table<'_>,
    monitors: &[Option<Duration>],
) -> Option<Recovery> {
    let policy = table.choice(reader, "recovery", RECOVERY);
    let restarts = table.integer(reader, "restarts", &(0..=RESTARTS_MAX));
    let range = RESTART_WINDOW_MIN..=DURATION_MAX;
    let window = table.duration(reader, "restart_window", &range);
    let spans = [
        ("recovery", policy.span()),
        ("restarts", restarts.span()),
        ("restart_window", window.span()),
    ];
    let default = Recovery::default();
    let policy = policy.or_default(default.policy)?;
    if monitors.iter().all(Option::is_none) {
        let remedy = "remove it, or give a service an interval: monitor = \"10s\"";
        for (key, span) in spans {
            let Some(span) = span else { continue };
            let message = format!("{key} has no effect: no service of the group is monitored");
            reader.warning(&span, message, remedy);
        }
    } else if policy != RecoveryPolicy::Restart
        && let Some(span) = restarts.span()
    {
        let message = "restarts has no effect: the group is not to be restarted where it is";
        reader.warning(&span, message, "remove it, or write recovery = \"restart\"");
    }
    if let Some(interval) = monitors.iter().flatten().max()
        && let Field::Given(given) = &window
        && given.get_ref() < interval
    {
        let interval = humantime::format_duration(*interval);
        let message = format!(
            "restart_window is shorter than the interval at which a service is asked ({interval}): who \
             runs when it is asked for the first time has its failures forgotten"
        );
        reader.warning(&given.span(), message, "make it some intervals long");
    }
    Some(Recovery {
        policy,
        restarts: restarts.or_default(default.restarts)?,
        window: window.or_default(default.window)?,
    })
}

/// What is started beforehand everywhere must do no harm there: only an address behind its gate does none.
fn check_prearmed(reader: &mut Reader<'_>, group: &Draft, given: Field<bool>) -> Option<bool> {
    let given = match given {
        Field::Absent => return Some(false),
        Field::Refused => return None,
        Field::Given(given) => given,
    };
    let address = |it: &&Spanned<Resource>| !matches!(it.get_ref(), Resource::Address { .. });
    if *given.get_ref()
        && let Some(other) = group.resources.iter().find(address)
    {
        let (label, kind) = (quoted(&group.key), other.get_ref().kind());
        let message = format!(
            "the group {label} is pre-armed and has a resource of the kind {}: only addresses can be \
             there before the group is",
            quoted(kind)
        );
        let remedy = "remove prearmed, or put the addresses into a group of their own";
        reader.error(&given.span(), message, remedy);
        return None;
    }
    Some(given.into_inner())
}

fn read_resources(
    reader: &mut Reader<'_>,
    table: &mut Table<'_>,
    group: &Spanned<String>,
) -> Vec<(Spanned<Resource>, Option<Duration>)> {
    let label = table.label().to_owned();
    let values = match table.array(reader, "resources", "resources = [{ kind = \"...\", ... }]") {
        Field::Absent => Spanned::new(group.span(), Vec::new()),
        Field::Refused => return Vec::new(),
        Field::Given(values) => values,
    };
    let (span, values) = (values.span(), values.into_inner());
    if values.is_empty() {
        let message = format!("{label} has no resources: nothing moves with it");
        let remedy = "add resources = [ { kind = \"address\", ... } ], or remove the group";
        reader.warning(&span, message, remedy);
    }
    if values.len() > RESOURCES_MAX {
        let message = format!("{label} has {} resources", values.len());
        reader.error(&span, message, format!("keep to {RESOURCES_MAX}, or make two groups"));
    }
    let mut resources = Vec::new();
    for (index, value) in values.into_iter().enumerate() {
        let what = format!("resource {} of {label}", index + 1);
        resources.extend(read_resource(reader, value, what));
    }
    resources
}

/// A floating address belongs to one resource, and to no node.
fn check_addresses(reader: &mut Reader<'_>, groups: &[Draft], nodes: &[nodes::Draft]) {
    let mut own: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for node in nodes {
        for endpoint in node.endpoints.values() {
            own.extend(endpoint.given_address().map(|address| (address, &*node.key)));
        }
    }
    let mut floating: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for group in groups {
        for resource in &group.resources {
            let Resource::Address { address, .. } = resource.get_ref() else { continue };
            let host = address.addr();
            if let Some(other) = floating.insert(host, &group.key) {
                let message = format!("the group {} has the address {host} already", quoted(other));
                reader.error(&resource.span(), message, "keep it in one place");
            }
            if let Some(node) = own.get(&host) {
                let message = format!("{host} is the node {}'s own address", quoted(node));
                reader.error(&resource.span(), message, "give the group an address of its own");
            }
        }
    }
}

/// A source address is an address that the group has by then.
fn check_source_addresses(reader: &mut Reader<'_>, group: &Draft) {
    let is = |resource: &Spanned<Resource>, wanted: IpAddr| matches!(resource.get_ref(), Resource::Address { address, .. } if address.addr() == wanted);
    for (index, resource) in group.resources.iter().enumerate() {
        let Resource::SourceAddress { address } = resource.get_ref() else { continue };
        let mut before = group.resources.iter().take(index);
        if !before.any(|resource| is(resource, *address)) {
            let label = quoted(&group.key);
            let message = format!("{address} is no address of the group {label} by then");
            let remedy = "put the address before it, as a resource of the kind \"address\"";
            reader.error(&resource.span(), message, remedy);
        }
    }
}
