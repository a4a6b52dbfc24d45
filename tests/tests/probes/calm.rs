//! While all is well nobody is asked: once the ways are known, thousands of heartbeats come without one probe.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use ha_tests::bed::{Cluster, Node, Plan, Status, turn_with_others};
use ha_tests::bpf::BpfFs;

use super::{STEP, UCAST, expect_ways, let_xdp_through, plan};

/// Heartbeats that each node gets in one observation.
const HEARTBEATS: u64 = 3_000;
/// A starved CPU is no part of this: what is disturbed is observed again, so often.
const OBSERVATIONS_MAX: usize = 5;
/// Probes of a node that all are answered: one by each way.
const WAYS: u64 = 3;
/// Where every probe and every answer is counted by who gets it.
const COUNTERS: [&str; 5] = ["probe", "probe-passed", "probe-limit", "answer", "unexpected-answer"];

fn probes(status: &Status) -> [u64; COUNTERS.len()] {
    COUNTERS.map(|reason| status.packets(reason))
}

fn heartbeats(status: &Status) -> u64 {
    status.nodes.iter().flat_map(|node| &node.links).map(|link| link.received).sum()
}

/// Whether nothing was late while the heartbeats of one observation came; then nobody was asked either.
fn observe(cluster: &Cluster) -> Result<bool> {
    let told = || cluster.nodes.iter().map(Node::status).collect::<Result<Vec<_>>>();
    let before = told()?;
    for (node, before) in cluster.nodes.iter().zip(&before) {
        let enough = heartbeats(before) + HEARTBEATS;
        node.wait_until("heartbeats", STEP, |status| heartbeats(status) >= enough)?;
    }
    let after = told()?;
    // Whoever is late or paused itself says so: nobody is asked before warntime.
    if before.iter().zip(&after).any(|(before, after)| before.events != after.events) {
        return Ok(false);
    }
    for (before, after) in before.iter().zip(&after) {
        let (before, now) = (probes(before), probes(after));
        ensure!(before == now, "{}: {COUNTERS:?} {before:?} -> {now:?}", after.node);
    }
    Ok(true)
}

fn nobody_is_asked(receive: &str, expected: &[&str]) -> Result<()> {
    let _turn = turn_with_others();
    let place = BpfFs::mount()?;
    let mut cluster = Cluster::build(Plan {
        keepalive: Duration::from_millis(1),
        deadtime: Duration::from_secs(4),
        cluster_lines: vec!["warntime = \"1s\"".to_owned()],
        ..plan(receive, UCAST, false)
    })?;
    if receive == "xdp-native" {
        let_xdp_through(&cluster, &place)?;
    }
    cluster.start()?;
    expect_ways(&cluster, expected)?;
    for node in &cluster.nodes {
        node.wait_until("an answer by each way", STEP, |it| it.packets("answer") >= WAYS)?;
    }
    for _ in 0..OBSERVATIONS_MAX {
        if observe(&cluster)? {
            for node in &mut cluster.nodes {
                node.stop()?;
            }
            cluster.nodes.clear();
            return cluster.bed.finish();
        }
    }
    bail!(
        "something was late in each of {OBSERVATIONS_MAX} observations: is the machine overloaded?"
    )
}

macro_rules! nobody_is_asked {
    ($($name:ident: $receive:literal, $expected:expr;)*) => {
        $(#[test]
        #[ignore = "needs root: network namespaces"]
        fn $name() -> Result<()> {
            nobody_is_asked($receive, &$expected)
        })*
    };
}

nobody_is_asked! {
    nobody_is_asked_while_all_is_well_by_native_xdp: "xdp-native", ["xdp", "tc", "socket"];
    nobody_is_asked_while_all_is_well_by_generic_xdp: "xdp-generic", ["xdp", "tc", "socket"];
    nobody_is_asked_while_all_is_well_by_tc: "tc", ["tc", "socket"];
    nobody_is_asked_while_all_is_well_by_the_socket: "socket", ["socket"];
}
