//! The judge in the kernel under a running daemon: it notices silence while the daemon does not run, and goes
//! the way of all pins.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ha_common::maps::SLOTS_MAX;
use ha_common::watch::PACE_MAX_NS;
use ha_tests::bed::{Cluster, Cut, Node, Plan, Status, turn};
use ha_tests::bpf::{self, MapKind};
use ha_tests::clock::{MS_NS, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;

const ALPHA: &str = "alpha";
const BETA: &str = "beta";
const WAIT: Duration = Duration::from_secs(15);
/// Half of the deadtime below.
const SUSPECT_NS: u64 = 1_000 * MS_NS;

/// Times that a loaded machine does not reach by itself.
fn plan() -> Plan {
    Plan {
        keepalive: Duration::from_millis(50),
        deadtime: Duration::from_secs(2),
        web: false,
        ..Plan::default()
    }
}

fn pair() -> Result<Cluster> {
    let mut cluster = Cluster::build(plan())?;
    cluster.start()?;
    Ok(cluster)
}

/// The entries of a pinned map by their numbers, with the names that `bpftool` gives its words.
fn entries(node: &Node, map: &str) -> Result<BTreeMap<u64, Value>> {
    let path = node.bpffs().join(map).display().to_string();
    let output =
        node.netns().command("bpftool")?.args(["-j", "map", "dump", "pinned", &path]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let all: Vec<Value> = serde_json::from_str(&text).with_context(|| text.into_owned())?;
    let entry = |it: &Value| {
        let formatted = it.get("formatted")?;
        Some((formatted["key"].as_u64()?, formatted["value"].clone()))
    };
    Ok(all.iter().filter_map(entry).collect())
}

fn word(entry: &Value, name: &str) -> Result<u64> {
    entry[name].as_u64().with_context(|| format!("no {name} in {entry}"))
}

/// Slots that the kernel watches, with their words.
fn watched(node: &Node) -> Result<BTreeMap<u64, Value>> {
    let mut all = entries(node, "watched")?;
    all.retain(|_, it| it["suspect_ns"].as_u64() != Some(0));
    Ok(all)
}

fn sum(node: &Node, name: &str) -> Result<u64> {
    watched(node)?.values().map(|it| word(it, name)).sum()
}

/// How the daemon says that the kernel watches.
fn shown(node: &Node) -> Result<String> {
    let status = node.status()?;
    let threads = status.raw["threads"].as_array().context("no threads")?;
    let it = threads.iter().find(|it| it["name"] == "kernel-watch").context("it is not shown")?;
    Ok(it["scheduling"].as_str().unwrap_or_default().to_owned())
}

fn both_up(status: &Status) -> bool {
    status.nodes.iter().all(|node| node.state == "up")
}

#[test]
#[ignore = "needs root: network namespaces"]
fn silence_is_noticed_while_the_daemon_does_not_run() -> Result<()> {
    let _turn = turn();
    let cluster = pair()?;
    let beta = cluster.node(BETA)?;
    ensure!(shown(beta)? == "softirq, timers of 2 paths", "{}", shown(beta)?);
    let ticks = sum(beta, "ticks")?;
    thread::sleep(Duration::from_secs(3));
    ensure!(sum(beta, "ticks")? > ticks, "no timer runs");
    ensure!(sum(beta, "suspicions")? == 0, "{:?}", watched(beta)?);

    let stopped_ns = beta.signal(Signal::SIGSTOP)?;
    cluster.bed.cut_all(ALPHA, Cut::Middle)?;
    wait_for("the kernel's suspicion", WAIT, || {
        Ok(watched(beta)?.values().all(|it| it["suspected_ns"].as_u64() != Some(0)))
    })?;
    let links = entries(beta, "links")?;
    for (slot, words) in watched(beta)? {
        let seen_ns = word(links.get(&slot).context("no record")?, "last_seen_ns")?;
        let suspected_ns = word(&words, "suspected_ns")?;
        ensure!(suspected_ns > stopped_ns, "before the silence: {words}");
        let window_ns = word(&words, "window_ns")?.max(seen_ns);
        let late_ns = suspected_ns - window_ns - SUSPECT_NS;
        ensure!(late_ns <= PACE_MAX_NS + word(&words, "late_max_ns")?, "{late_ns}: {words}");
        ensure!(word(&words, "suspicions")? == 1, "{words}");
    }
    beta.signal_child(Signal::SIGCONT)?;
    let healed_ns = cluster.bed.heal_all(ALPHA)?;
    beta.wait_until("both to be up", WAIT, both_up)?;
    wait_for("the end of the suspicion", WAIT, || Ok(sum(beta, "suspected_ns")? == 0))?;
    // The timers of what is back were armed anew, and so do not tick as rarely as those of silent paths.
    for words in watched(beta)?.values() {
        ensure!(word(words, "window_ns")? > healed_ns, "not armed anew: {words}");
    }
    cluster.bed.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_suspicion_of_the_kernel_wakes_the_driver() -> Result<()> {
    let _turn = turn();
    let cluster = pair()?;
    let beta = cluster.node(BETA)?;
    let turns = |cause: &str| -> Result<u64> {
        let status = beta.status()?;
        status.raw["driver_turns"][cause].as_u64().with_context(|| format!("no {cause}"))
    };
    ensure!(turns("suspicions")? == 0, "before any silence");
    cluster.bed.cut_all(ALPHA, Cut::Middle)?;
    wait_for("the driver to hear of it", WAIT, || Ok(turns("suspicions")? > 0))?;
    let woken = turns("suspicions")?;
    ensure!(sum(beta, "suspicions")? >= woken, "{woken}: {:?}", watched(beta)?);
    cluster.bed.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn timers_outlive_a_killed_daemon_and_belong_to_the_next() -> Result<()> {
    let _turn = turn();
    let mut cluster = pair()?;
    let beta = cluster.node_mut(BETA)?;
    beta.kill_daemon_and_keeper()?;
    beta.wait_exit(WAIT)?;
    let ticks = sum(beta, "ticks")?;
    wait_for("ticks without a daemon", WAIT, || Ok(sum(beta, "ticks")? > ticks + 4))?;
    beta.start()?;
    beta.wait_ready(WAIT)?;
    beta.wait_until("both to be up", WAIT, both_up)?;
    ensure!(shown(beta)? == "softirq, timers of 2 paths", "{}", shown(beta)?);
    ensure!(sum(beta, "ticks")? > ticks + 4, "begun anew");
    cluster.bed.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_reload_changes_by_what_the_kernel_judges() -> Result<()> {
    let _turn = turn();
    let mut cluster = pair()?;
    let times = |cluster: &Cluster| -> Result<Vec<(u64, u64)>> {
        let words = watched(cluster.node(BETA)?)?;
        words.values().map(|it| Ok((word(it, "suspect_ns")?, word(it, "deadtime_ns")?))).collect()
    };
    ensure!(times(&cluster)? == [(SUSPECT_NS, 2 * SUSPECT_NS); 2], "{:?}", times(&cluster)?);
    cluster.reconfigure(Plan { deadtime: Duration::from_secs(4), ..plan() })?;
    cluster.node(BETA)?.signal(Signal::SIGHUP)?;
    wait_for("the new times", WAIT, || {
        Ok(times(&cluster)? == [(2 * SUSPECT_NS, 4 * SUSPECT_NS); 2])
    })?;
    ensure!(sum(cluster.node(BETA)?, "suspicions")? == 0);
    cluster.bed.finish()
}

/// As with a kernel that knows no timers: the map that is there cannot hold any.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_node_without_timers_says_so_and_does_its_work() -> Result<()> {
    let _turn = turn();
    let mut cluster = Cluster::build(plan())?;
    let plain = bpf::create_map(MapKind::Array, 16, SLOTS_MAX as u32)?;
    bpf::pin(&plain, &cluster.node(BETA)?.bpffs().join("watch"))?;
    cluster.start()?;
    let beta = cluster.node(BETA)?;
    ensure!(shown(beta)?.starts_with("none: "), "{}", shown(beta)?);
    let told = beta.wait_event("kernel-watch", 0, WAIT)?;
    ensure!(told.message.contains("the kernel does not watch"), "{}", told.message);
    let since_ns = cluster.bed.cut_all(ALPHA, Cut::Middle)?;
    beta.wait_event("node-dead", since_ns, WAIT)?;
    cluster.bed.finish()
}
