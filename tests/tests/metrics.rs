//! What a monitoring system reads of the daemons: real daemons in network namespaces, their pages
//! understood by the reference parser of the format.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ha_tests::bed::{Cluster, GROUP, Node, Plan};
use serde::Deserialize;

const ALPHA: &str = "alpha";
const BETA: &str = "beta";
const LINK: &str = "hb0";
const STEP: Duration = Duration::from_secs(20);

/// Prometheus' own parser, which refuses whatever is not OpenMetrics; prints what it has understood.
const PARSER: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
families = list(text_string_to_metric_families(sys.stdin.read()))
json.dump([(s.name, s.labels, float(s.value)) for family in families for s in family.samples], sys.stdout)
";
/// Debian's: the parser is one of its packages.
const PYTHON: &str = "/usr/bin/python3";

/// One series and its value.
#[derive(Debug, Deserialize)]
struct Sample(String, BTreeMap<String, String>, f64);

/// What the parser understands of a page.
fn understood(page: &str) -> Result<Vec<Sample>> {
    let mut command = Command::new(PYTHON);
    command.args(["-c", PARSER]).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut parser = command.spawn().with_context(|| format!("cannot start {PYTHON}"))?;
    // A parser that has already failed reads nothing, and says why.
    let written = parser.stdin.take().context("no pipe")?.write_all(page.as_bytes());
    let output = parser.wait_with_output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "not understood: {told}\n{page}");
    written?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The page of a node, understood.
struct Page(Vec<Sample>);

impl Page {
    fn of(node: &Node) -> Result<Self> {
        Ok(Self(understood(&node.hactl_done(&["metrics"])?)?))
    }

    /// The value of the one series of that name that has these labels.
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let has = |it: &Sample, (label, value): &(&str, &str)| {
            it.1.get(*label).is_some_and(|known| known == value)
        };
        let is_it = |it: &&Sample| it.0 == name && labels.iter().all(|label| has(it, label));
        let found: Vec<&Sample> = self.0.iter().filter(is_it).collect();
        let of_name = || self.0.iter().filter(|it| it.0 == name).collect::<Vec<_>>();
        ensure!(found.len() == 1, "{name} {labels:?}: {found:?} of {:?}", of_name());
        Ok(found[0].2)
    }
}

#[test]
#[ignore = "needs Debian's python3-prometheus-client"]
fn the_page_of_the_contract_is_openmetrics() -> Result<()> {
    let samples = understood(include_str!("../../ha-daemon/tests/golden/metrics.txt"))?;
    ensure!(samples.len() > 100, "{samples:?}");
    ensure!(understood("ha_up 1\n").is_err(), "the parser takes a page without an end");
    Ok(())
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_pairs_metrics_name_both_nodes_and_count_their_heartbeats() -> Result<()> {
    let mut cluster = Cluster::build(Plan {
        deadtime: Duration::from_millis(500),
        web: false,
        ..Plan::default()
    })?;
    cluster.start()?;
    cluster.wait_settled(ALPHA)?;
    for (name, peer) in [(ALPHA, BETA), (BETA, ALPHA)] {
        let node = cluster.node(name)?;
        let page = Page::of(node)?;
        let path = [("peer", peer), ("link", LINK)];
        ensure!(page.value("ha_cluster_info", &[("node", name)])? == 1.0);
        ensure!(page.value("ha_peer_state", &[("peer", peer), ("state", "up")])? == 1.0);
        ensure!(page.value("ha_peer_state", &[("peer", peer), ("state", "dead")])? == 0.0);
        ensure!(page.value("ha_group_owner", &[("group", GROUP), ("node", ALPHA)])? == 1.0);
        ensure!(page.value("ha_group_owner", &[("group", GROUP), ("node", BETA)])? == 0.0);
        ensure!(page.value("ha_thread_lateness_seconds_count", &[("thread", "sender")])? > 0.0);

        let received = page.value("ha_link_heartbeats_received_total", &path)?;
        node.wait_until("more heartbeats", STEP, |status| {
            status.link(peer, LINK).is_some_and(|it| it.received as f64 > received + 10.0)
        })?;
        let page = Page::of(node)?;
        ensure!(page.value("ha_link_heartbeats_received_total", &path)? > received + 10.0);
        let intervals = page.value("ha_link_heartbeat_interval_seconds_count", &path)?;
        ensure!(intervals > 0.0);
        let all = [path.as_slice(), &[("le", "+Inf")]].concat();
        ensure!(page.value("ha_link_heartbeat_interval_seconds_bucket", &all)? == intervals);
    }

    // The next program of the same process goes on counting events.
    let alpha = cluster.node(ALPHA)?;
    let ups = Page::of(alpha)?.value("ha_events_total", &[("kind", "node-up")])?;
    ensure!(ups >= 1.0);
    alpha.hactl_done(&["reexec"])?;
    let page = Page::of(alpha)?;
    ensure!(page.value("ha_events_total", &[("kind", "node-up")])? >= ups);
    ensure!(page.value("ha_events_total", &[("kind", "reexecuted")])? == 1.0);
    cluster.finish()
}
