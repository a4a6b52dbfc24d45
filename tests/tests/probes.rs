//! Who answers probes, in namespaces with real daemons: the kernel of a peer whose daemon is stopped
//! (SIGSTOP) goes on answering, on every kind of network link.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ha_tests::bed::{Cluster, Plan, Status, turn};

/// How long anything may take before the scenario has failed.
const STEP: Duration = Duration::from_secs(20);

fn plan(lines: &str) -> Plan {
    Plan {
        keepalive: Duration::from_millis(50),
        deadtime: Duration::from_millis(200),
        link_hb: false,
        link_svc: false,
        web: false,
        more: lines.to_owned(),
        ..Plan::default()
    }
}

fn answers_via(status: &Status, peer: &str) -> Vec<String> {
    let links = status.raw["nodes"].as_array().into_iter().flatten();
    let links = links.filter(|node| node["name"] == peer).flat_map(|it| it["links"].as_array());
    let ways = links.flatten().flat_map(|link| link["answers_via"].as_array()).flatten();
    ways.filter_map(|way| way.as_str().map(str::to_owned)).collect()
}

/// Two nodes on one link: the ways that alpha finds beta to answer by.
fn found(receive: &str, link: &str, expected: &[&str]) -> Result<()> {
    let _turn = turn()?;
    let lines = format!("\n[links.one]\nreceive = \"{receive}\"\n{link}");
    let mut cluster = Cluster::build(plan(&lines))?;
    cluster.start()?;
    for (node, peer) in [("alpha", "beta"), ("beta", "alpha")] {
        let deadline = Instant::now() + STEP;
        loop {
            let status = cluster.node(node)?.status()?;
            let ways = answers_via(&status, peer);
            if ways == expected {
                break;
            }
            let late = Instant::now() > deadline;
            ensure!(!late, "{node}: {ways:?} instead of {expected:?}: {:#}", status.raw);
            std::thread::sleep(Duration::from_millis(50));
        }
        let status = cluster.node(node)?.status()?;
        ensure!(status.packets("answer") > 0 || receive == "socket", "{:#}", status.raw);
        ensure!(status.packets("bad-tag") == 0 && status.packets("bad-kind") == 0);
    }
    for node in &mut cluster.nodes {
        node.stop().with_context(|| "a node does not stop")?;
    }
    cluster.bed.finish()
}

const UCAST: &str = "kind = \"ucast\"\ninterface = \"eth1\"\n";
