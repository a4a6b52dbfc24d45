//! Tests of the core as a whole: several cores on one virtual clock ([`sim`]), told what a modelled
//! world does to them. Deterministic: every random choice comes from a seed.

mod asking;
mod auto;
mod connectivity;
mod custody;
mod deaths;
mod links;
mod listening;
mod messages;
mod network;
mod operators;
mod partitions;
mod pauses;
mod precedence;
mod properties;
mod recovery;
mod resources;
mod resume;
mod rolling;
mod services;
mod sim;
mod starts;
mod stops;
mod story;

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::ProptestConfig;
use proptest::test_runner::RngSeed;

use super::Core;
use super::io::{Observation, Sighting};
use crate::config::{
    AnnouncePlan, Cluster, Config, Connectivity, Detection, Endpoint, Failback, Group, KeyRing,
    Link, LinkIdentity, LinkIndex, LinkKind, Logging, Node, NodeIndex, OnDaemonDeath, OnDoubt,
    Realtime, Receive, Recovery, Resource,
};

pub(super) const KEEPALIVE: Duration = Duration::from_millis(10);
pub(super) const WARNTIME: Duration = Duration::from_millis(20);
pub(super) const DEADTIME: Duration = Duration::from_millis(35);
pub(super) const INITDEAD: Duration = Duration::from_millis(500);
pub(super) const DAEMON_DEADTIME: Duration = Duration::from_secs(1);
/// From a change until every node has heard, judged and settled it, control messages lost included.
pub(super) const SETTLE: Duration = Duration::from_millis(300);

pub(super) const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// So many nodes on so many links. Group 0 prefers node 0, then 1, and so on; each group has two
/// addresses. Group 1, if wanted, prefers node 1.
pub(crate) fn config(nodes: usize, links: usize, groups: usize) -> Config {
    let endpoint = |node: usize, link: usize| Endpoint::Network {
        address: Some(format!("192.0.{link}.{}", node + 1).parse().unwrap()),
        interface: format!("hb{link}").parse().unwrap(),
    };
    let node = |node: usize| Node {
        name: format!("n{node}").parse().unwrap(),
        id: node as u32 + 1,
        endpoints: (0..links).map(|link| (LinkIndex(link), endpoint(node, link))).collect(),
    };
    let address = |group: usize, number: usize| Resource::Address {
        address: format!("198.51.{group}.{number}/24").parse().unwrap(),
        interface: "eth0".parse().unwrap(),
        label: None,
        broadcast: None,
    };
    let group = |group: usize| Group {
        name: format!("g{group}").parse().unwrap(),
        id: group as u32 + 100,
        nodes: (0..nodes).map(|position| NodeIndex((position + group) % nodes)).collect(),
        failback: Failback::Auto,
        on_daemon_death: OnDaemonDeath::Move,
        prearmed: false,
        recovery: Recovery::default(),
        monitors: Vec::new(),
        resources: vec![address(group, 1), address(group, 2)],
    };
    let link = |link: usize| Link {
        name: format!("hb{link}").parse().unwrap(),
        id: link as u32 + 1,
        kind: LinkKind::Ucast { remotes: Vec::new() },
        identity: LinkIdentity::Name,
        port: 694,
        times: None,
        receive: Receive::Auto,
    };
    Config {
        cluster: Cluster {
            name: "test".to_owned(),
            id: 1,
            keepalive: KEEPALIVE,
            deadtime: DEADTIME,
            auto: None,
            warntime: WARNTIME,
            initdead: INITDEAD,
            daemon_deadtime: DAEMON_DEADTIME,
            port: 694,
            on_doubt: OnDoubt::Take,
            address_lifetime: Duration::from_secs(2),
            script_timeout: crate::config::SCRIPT_TIMEOUT_DEFAULT,
            state_dir: None,
            earlier: None,
        },
        keys: KeyRing::default(),
        connectivity: Connectivity::none(KEEPALIVE, DEADTIME),
        clients: Vec::new(),
        logging: Logging::default(),
        realtime: Realtime { enabled: true },
        detection: Detection::default(),
        script_directory: "resource.d".into(),
        announce: AnnouncePlan { burst: 1, repeat: Vec::new(), refresh: None },
        links: (0..links).map(link).collect(),
        nodes: (0..nodes).map(node).collect(),
        groups: (0..groups).map(group).collect(),
    }
}

/// So many cases of a property, the same every time; with `PROPTEST_CASES` so many others.
pub(super) fn cases(count: u32) -> ProptestConfig {
    let default = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => default,
        None => ProptestConfig { cases: count, rng_seed: RngSeed::Fixed(0x4841), ..default },
    }
}

/// As [`config`], with one group that stays where it is.
pub(super) fn config_manual(nodes: usize, links: usize) -> Config {
    let mut config = config(nodes, links, 1);
    config.groups[0].failback = Failback::Manual;
    config
}

/// How often services are asked in the tests that want that.
pub(super) const MONITOR: Duration = Duration::from_secs(1);

/// As [`config_services`], with two services behind the addresses, which are asked for their status.
pub(super) fn config_monitored(nodes: usize, links: usize) -> Config {
    let mut config = config_services(nodes, links, 1);
    let group = &mut config.groups[0];
    let service = Resource::Script { name: "squid".to_owned(), arguments: Vec::new() };
    group.resources.push(service);
    group.monitors = vec![None, None, Some(MONITOR), Some(MONITOR)];
    config
}

/// As [`config`], with a service behind the addresses of each group.
pub(super) fn config_services(nodes: usize, links: usize, groups: usize) -> Config {
    let mut config = config(nodes, links, groups);
    for group in &mut config.groups {
        let service = Resource::Script { name: "httpd".to_owned(), arguments: Vec::new() };
        group.resources.push(service);
    }
    config
}
