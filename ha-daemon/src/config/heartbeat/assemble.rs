//! From what the files ask for to a [`Config`]: defaults, and the rules that concern a file as a
//! whole.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use humantime::format_duration;

use super::groups;
use super::ha_cf::{At, Draft, Reader};
use super::haresources::DraftGroup;
use super::lines::Findings;
use super::media::{Device, Medium};
use crate::config::finding::{Finding, Position, quoted};
use crate::config::load::{Places, announce_default};
use crate::config::serial::too_many_for_a_line;
use crate::config::time_rules::{
    Timing, address_lifetime_default, daemon_deadtime_default, deadtime_finding, deadtime_remedy,
    initdead_finding, warntime_default, warntime_finding,
};
use crate::config::{
    Cluster, Config, Connectivity, DURATION_MAX, Detection, Endpoint, Failback, IsolatedOwner,
    KeyRing, Link, LinkFinding, LinkIdentity, LinkIndex, LinkKind, Logging, Node, NodeIndex,
    OnDoubt, PING_INTERVAL_MIN, ProbeBeforeTake, Realtime, Receive, SCRIPT_TIMEOUT_DEFAULT,
    link_findings,
};

/// Name of the cluster unless `cluster` says otherwise; the original has the same. It does not
/// depend on the nodes, so that a node can be added on one host after the other.
pub const CLUSTER_NAME_DEFAULT: &str = "linux-ha";
/// Defaults of the original.
const KEEPALIVE_DEFAULT: Duration = Duration::from_secs(1);
const DEADTIME_DEFAULT: Duration = Duration::from_secs(30);

/// The whole configuration; findings are added to those of the two files. `keys` is nothing where the
/// key file was refused.
pub(super) fn assemble(
    reader: &mut Reader<'_>,
    groups_of_file: &[DraftGroup],
    resource_findings: &mut Findings,
    keys: Option<KeyRing>,
    directory: &Path,
) -> (Option<Config>, Places) {
    let readable_keys = keys.is_some();
    let timing = timing(&reader.draft, &mut reader.findings);
    check_nodes(&reader.draft, &mut reader.findings);
    check_media(&reader.draft, &mut reader.findings);
    let connectivity = connectivity(&reader.draft, &mut reader.findings, &timing);
    let world = reader.world;
    let draft = &mut reader.draft;
    draft.media.list.sort_by(|one, other| one.name.cmp(&other.name));
    let draft = &reader.draft;
    let service = reader.world.service_port("ha-cluster");
    let mut places = Places {
        nodes: draft.nodes.first().map(|node| node.position),
        file: Some(reader.findings.path().to_owned()),
        resources_file: Some(resource_findings.path().to_owned()),
        ..Places::default()
    };
    let nodes = nodes(draft, &mut places);
    let failback = draft.failback.as_ref().map_or(Failback::Auto, |at| at.value);
    let order: Vec<NodeIndex> = draft
        .nodes
        .iter()
        .filter_map(|at| nodes.iter().position(|node| node.name == at.value).map(NodeIndex))
        .collect();
    let (remotes, pinged) = (remotes(draft), connectivity.members().collect());
    let scene = groups::Scene { nodes: &nodes, order: &order, failback, remotes, pinged, world };
    let groups = groups::assemble(groups_of_file, &scene, resource_findings, &mut places);
    let name = draft.cluster.as_ref().map_or(CLUSTER_NAME_DEFAULT, |at| &at.value).to_owned();
    let config = Config {
        cluster: Cluster {
            id: ha_common::wire::name_id(&name),
            name,
            keepalive: timing.keepalive,
            deadtime: timing.deadtime,
            auto: timing.auto,
            warntime: timing.warntime,
            initdead: timing.initdead,
            daemon_deadtime: timing.daemon_deadtime,
            port: draft.media.port(service),
            on_doubt: OnDoubt::Take,
            // The original has no such thing.
            address_lifetime: address_lifetime_default(timing.daemon_deadtime),
            script_timeout: SCRIPT_TIMEOUT_DEFAULT,
            state_dir: None,
            earlier: None,
        },
        keys: keys.unwrap_or_default(),
        announce: announce_default(),
        connectivity,
        clients: draft.clients.clone(),
        logging: logging(draft),
        realtime: Realtime { enabled: draft.realtime.as_ref().is_none_or(|at| at.value) },
        detection: Detection::default(),
        script_directory: directory.join("resource.d"),
        links: draft.media.list.iter().filter_map(link).collect(),
        nodes,
        groups,
    };
    check_links(&config, &places, &mut reader.findings);
    (readable_keys.then_some(config), places)
}

/// What holds for links of any file: all nodes have the same, so the first one stands for all.
fn check_links(config: &Config, places: &Places, findings: &mut Findings) {
    for LinkFinding { link, node, finding } in link_findings(config) {
        if node.is_some_and(|node| node != NodeIndex(0)) {
            continue;
        }
        let position = places.endpoints.get(&(NodeIndex(0), link));
        let finding = finding.in_file(findings.path());
        findings.add(match position {
            Some(position) => finding.at(*position),
            None => finding,
        });
    }
}

fn value<T: Clone>(at: &Option<At<T>>) -> Option<T> {
    at.as_ref().map(|at| at.value.clone())
}

/// Where a finding about two values is shown: at the later one of those that the file has.
fn later<A, B>(one: &Option<At<A>>, other: &Option<At<B>>) -> Position {
    let positions = [one.as_ref().map(|at| at.position), other.as_ref().map(|at| at.position)];
    positions.into_iter().flatten().max().unwrap_or(Position { line: 1, column: 1 })
}

fn timing(draft: &Draft, findings: &mut Findings) -> Timing {
    let keepalive = value(&draft.keepalive).unwrap_or(KEEPALIVE_DEFAULT);
    let deadtime = value(&draft.deadtime).unwrap_or(DEADTIME_DEFAULT);
    check_deadtime(draft, findings, keepalive, deadtime);
    let warntime = match &draft.warntime {
        None => warntime_default(keepalive, deadtime),
        Some(at) => check_warntime(at, findings, keepalive, deadtime),
    };
    let initdead = match &draft.initdead {
        None => initdead_default(deadtime),
        Some(at) => {
            if let Some(finding) = initdead_finding(at.value, deadtime) {
                findings.add_at(at.position, finding);
            }
            at.value
        }
    };
    let daemon_deadtime = daemon_deadtime_default(deadtime);
    Timing { keepalive, warntime, deadtime, auto: None, initdead, daemon_deadtime }
}

/// As the original: never shorter than `deadtime`.
fn initdead_default(deadtime: Duration) -> Duration {
    if deadtime > Duration::from_secs(10) {
        deadtime
    } else if deadtime < Duration::from_secs(6) {
        Duration::from_secs(12)
    } else {
        deadtime * 2
    }
}

fn check_deadtime(draft: &Draft, findings: &mut Findings, keepalive: Duration, deadtime: Duration) {
    let finding = if deadtime > keepalive && deadtime <= keepalive * 2 {
        let message = format!(
            "deadtime {} is not longer than two keepalives of {}: one lost heartbeat makes a peer dead \
             (the original refuses it)",
            format_duration(deadtime),
            format_duration(keepalive)
        );
        Some(Finding::warning(message, deadtime_remedy(keepalive)))
    } else {
        deadtime_finding(keepalive, deadtime)
    };
    if let Some(finding) = finding {
        findings.add_at(later(&draft.keepalive, &draft.deadtime), finding);
    }
}

/// The original takes any `warntime`; here it is moved to where it means something.
fn check_warntime(
    at: &At<Duration>,
    findings: &mut Findings,
    keepalive: Duration,
    deadtime: Duration,
) -> Duration {
    let Some(mut finding) = warntime_finding(at.value, keepalive, deadtime) else {
        return at.value;
    };
    let holds = at.value.clamp(keepalive, deadtime);
    if holds != at.value {
        let message = format!("{}: {} is used", finding.message, format_duration(holds));
        finding = Finding::warning(message, finding.remedy);
    }
    findings.add_at(at.position, finding);
    holds
}

fn check_nodes(draft: &Draft, findings: &mut Findings) {
    match draft.nodes.as_slice() {
        [] => findings.about_file(Finding::error(
            "no nodes are defined",
            "name each with \"node\", as `uname -n` prints it there",
        )),
        [only] => findings.error(
            only.position,
            format!(
                "{} is the only node: nothing takes its groups over",
                quoted(only.value.as_str())
            ),
            "name at least two",
        ),
        _ => {}
    }
    let mut seen = BTreeMap::new();
    for node in &draft.nodes {
        let id = ha_common::wire::name_id(node.value.as_str());
        if let Some(other) = seen.insert(id, &node.value) {
            let message =
                format!("the nodes {other} and {} have the same identifier in packets", node.value);
            findings.error(node.position, message, "rename one");
        }
    }
}

fn check_media(draft: &Draft, findings: &mut Findings) {
    let media = &draft.media.list;
    let devices: Vec<&Device> = media.iter().map(|medium| &medium.device).collect();
    let Some(first) = media.first() else {
        let message = "no heartbeat media are defined";
        let remedy = "add a line such as bcast eth1, ucast eth1 ADDRESS or serial /dev/ttyS0";
        return findings.about_file(Finding::error(message, remedy));
    };
    // Ping nodes are an arbiter: what a node reaches tells whether it is the one that is cut off.
    if devices.iter().all(|device| *device == &first.device)
        && draft.targets.is_empty()
        && draft.nodes.len() > 1
        // A line that was refused may be the second path.
        && !findings.has_error()
    {
        let message = format!(
            "{} is the only path between the nodes: no arbiter can tell its failure from a dead peer",
            first.name
        );
        let remedy = "add a medium on another interface, a serial line, or a ping node";
        findings.warning(first.position, message, remedy);
    }
    if draft.nodes.len() > 2 {
        for medium in media.iter().filter(|medium| matches!(medium.device, Device::Serial(_))) {
            let (message, remedy) = too_many_for_a_line(draft.nodes.len());
            findings.warning(medium.position, message, remedy);
        }
    }
}

fn connectivity(draft: &Draft, findings: &mut Findings, timing: &Timing) -> Connectivity {
    let interval = timing.keepalive.max(PING_INTERVAL_MIN);
    let deadping = match &draft.deadping {
        None => timing.deadtime.max(interval * 3).min(DURATION_MAX),
        Some(at) => {
            let (shown, every) = (format_duration(at.value), format_duration(interval));
            let message = format!(
                "deadping {shown} is not longer than two intervals of {every}: one lost answer makes \
                 a ping node unreachable (the original refuses it)"
            );
            let remedy =
                format!("set it to {} or more", format_duration(interval.saturating_mul(4)));
            if at.value <= interval {
                findings.error(at.position, message, remedy);
            } else if at.value <= interval * 2 {
                findings.warning(at.position, message, remedy);
            }
            at.value
        }
    };
    if let Some(ipfail) = &draft.ipfail
        && draft.targets.is_empty()
    {
        let message = "ipfail compares what the nodes reach, and there are no ping nodes";
        findings.warning(ipfail.position, message, "add ping or ping_group, or remove the line");
    }
    let default = Connectivity::none(timing.keepalive, timing.deadtime);
    if draft.targets.is_empty() {
        return Connectivity { deadping, ..default };
    }
    let mut targets = draft.targets.clone();
    targets.sort_by(|one, other| one.name.cmp(&other.name));
    Connectivity {
        targets,
        interval,
        deadping,
        moves_groups: draft.ipfail.is_some(),
        damping: (interval * 2).min(DURATION_MAX),
        probe_before_take: ProbeBeforeTake::Auto,
        isolated_owner: IsolatedOwner::Release,
    }
}

fn logging(draft: &Draft) -> Logging {
    Logging {
        file: value(&draft.logfile),
        debug_file: value(&draft.debugfile),
        syslog_facility: value(&draft.logfacility).flatten(),
        debug: value(&draft.debug).unwrap_or(false),
    }
}

fn link(medium: &Medium) -> Option<Link> {
    Some(Link {
        // Made of characters that a name may have.
        name: medium.name.parse().ok()?,
        id: ha_common::wire::name_id(&medium.name),
        kind: medium.kind.clone(),
        identity: LinkIdentity::Arrival,
        port: medium.port,
        times: None,
        receive: Receive::Auto,
    })
}

/// All nodes by name, each on every link: `ha.cf` tells the devices of this node only, and the
/// others are taken to have the same.
fn nodes(draft: &Draft, places: &mut Places) -> Vec<Node> {
    let mut names: Vec<_> = draft.nodes.iter().map(|node| node.value.clone()).collect();
    names.sort();
    let endpoints: BTreeMap<LinkIndex, Endpoint> = draft
        .media
        .list
        .iter()
        .enumerate()
        .map(|(index, medium)| {
            let endpoint = match &medium.device {
                Device::Network(interface) => {
                    Endpoint::Network { interface: interface.clone(), address: None }
                }
                Device::Serial(device) => Endpoint::Serial { device: device.clone() },
            };
            (LinkIndex(index), endpoint)
        })
        .collect();
    for node in 0..names.len() {
        for (link, medium) in draft.media.list.iter().enumerate() {
            places.endpoints.insert((NodeIndex(node), LinkIndex(link)), medium.position);
        }
    }
    let node = |name: crate::names::NodeName| Node {
        id: ha_common::wire::name_id(name.as_str()),
        name,
        endpoints: endpoints.clone(),
    };
    names.into_iter().map(node).collect()
}

/// Addresses that nodes have of their own, as far as the media tell.
fn remotes(draft: &Draft) -> Vec<IpAddr> {
    let remotes = draft.media.list.iter().filter_map(|medium| match &medium.kind {
        LinkKind::Ucast { remotes } => Some(remotes.iter().copied()),
        LinkKind::Mcast { .. } | LinkKind::Bcast | LinkKind::Serial { .. } => None,
    });
    remotes.flatten().collect()
}
