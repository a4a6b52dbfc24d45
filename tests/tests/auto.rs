//! `deadtime = "auto"` with real daemons in network namespaces: it comes down while heartbeats arrive, goes
//! up when one is late, and nobody is judged for either.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ha_tests::bed::{Cluster, GROUP, Node, Plan, Status};
use nix::sys::signal::Signal;
use serde_json::Value;

const ALPHA: &str = "alpha";
const BETA: &str = "beta";
const LINK: &str = "hb0";
const STEP: Duration = Duration::from_secs(20);
/// It takes a minute of heartbeats before it moves; a busy machine has less of them in the time.
const LEARN: Duration = Duration::from_secs(300);
const MAX_US: u64 = 2_000_000;
/// How long the peer's daemon stands still: twice as much is over the longest deadtime, and it is
/// far from the one that it has come down to by then.
const STOP: Duration = Duration::from_millis(1_050);

fn plan(receive: &str, deadtime: &[&str]) -> Plan {
    let lines = deadtime.iter().map(|line| (*line).to_owned());
    Plan {
        deadtime: Duration::from_micros(MAX_US),
        link_svc: false,
        link_lines: std::iter::once(format!("receive = \"{receive}\"")).chain(lines).collect(),
        web: false,
        ..Plan::default()
    }
}

const AUTO: [&str; 3] =
    ["deadtime = \"auto\"", "deadtime_min = \"100ms\"", "deadtime_max = \"2s\""];

/// What `hactl links --json` shows of the link to beta.
fn link(node: &Node) -> Result<Value> {
    let links: Value = serde_json::from_str(&node.hactl_done(&["links", "--json"])?)?;
    let shown = links.as_array().into_iter().flatten().find(|it| it["peer"] == BETA);
    Ok(shown.cloned().unwrap_or_default())
}

fn shown(status: &Status) -> (u64, Value) {
    let named = |list: &Value, name: &str| {
        list.as_array().into_iter().flatten().find(|it| it["name"] == name).cloned()
    };
    let node = named(&status.raw["nodes"], BETA).unwrap_or_default();
    let link = named(&node["links"], LINK).unwrap_or_default();
    (link["deadtime_us"].as_u64().unwrap_or(0), link["deadtime_auto"].clone())
}

/// The deadtime that the timers in the kernel go by, microseconds, where there are some.
fn in_kernel_us(node: &Node) -> Result<Option<u64>> {
    let path = node.bpffs().join("watched").display().to_string();
    let output =
        node.netns().command("bpftool")?.args(["-j", "map", "dump", "pinned", &path]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let all: Vec<Value> = serde_json::from_str(&text).with_context(|| text.into_owned())?;
    let words = all.iter().map(|it| &it["formatted"]["value"]);
    let mut watched = words.filter(|it| it["suspect_ns"].as_u64().is_some_and(|ns| ns != 0));
    Ok(watched.next().and_then(|it| it["deadtime_ns"].as_u64()).map(|ns| ns / 1_000))
}

fn expect_no_verdict(node: &Node) -> Result<()> {
    let verdicts = ["node-dead", "daemon-gone", "link-dead", "takeover"];
    let events = node.events()?;
    // The group's first start is no takeover from anybody.
    let found = events.iter().filter(|it| verdicts.contains(&it.kind.as_str()));
    let found: Vec<_> = found.filter(|it| it.kind != "takeover" || node.name() == BETA).collect();
    ensure!(found.is_empty(), "{}: {found:#?}", node.name());
    Ok(())
}

fn it_follows_what_arrives(receive: &str) -> Result<()> {
    let mut cluster = Cluster::started(plan(receive, &AUTO))?;
    let alpha = cluster.node(ALPHA)?;
    ensure!(shown(&alpha.status()?).0 == MAX_US, "the longest, before anything was seen");
    let status = alpha.wait_until("a shorter deadtime", LEARN, |status| {
        let (deadtime_us, auto) = shown(status);
        auto["settled"] == true && deadtime_us < MAX_US * 97 / 100
    })?;
    let learnt_us = shown(&status).0;
    ensure!(learnt_us > MAX_US * 3 / 4, "slowly: {learnt_us}");
    let is_in_kernel = receive != "socket";
    if is_in_kernel {
        let known_us = in_kernel_us(alpha)?.context("the kernel does not watch")?;
        // It may have come down a little more by now.
        ensure!(known_us <= learnt_us && known_us > learnt_us * 9 / 10, "{known_us} {learnt_us}");
    }

    let beta = cluster.node(BETA)?;
    beta.signal_child(Signal::SIGSTOP)?;
    std::thread::sleep(STOP);
    beta.signal_child(Signal::SIGCONT)?;
    alpha.wait_until("the longest deadtime", STEP, |status| shown(status).0 == MAX_US)?;
    if is_in_kernel {
        ensure!(in_kernel_us(alpha)? == Some(MAX_US), "the timers in the kernel know");
    }
    let seen = link(alpha)?;
    let auto = &seen["deadtime_auto"];
    let stop_us = STOP.as_micros() as u64 * 9 / 10;
    ensure!(auto["longest_lately_us"].as_u64() >= Some(stop_us), "{seen:#}");
    ensure!(auto["min_us"] == 100_000 && auto["max_us"] == MAX_US, "{seen:#}");
    ensure!(seen["via"] == receive, "{seen:#}");
    let table = alpha.hactl_done(&["links"])?;
    ensure!(table.contains("auto 2.0 s (100 ms to 2.0 s)"), "{table}");

    for node in [ALPHA, BETA] {
        expect_no_verdict(cluster.node(node)?)?;
    }
    // The next program goes on with it; a fixed time holds at once, and what was learnt comes back.
    alpha.hactl_done(&["reexec"])?;
    alpha.wait_until("the group", STEP, |status| status.group(GROUP).is_some())?;
    let kept = link(alpha)?;
    ensure!(kept["deadtime_auto"]["settled"] == true, "{kept:#}");
    ensure!(kept["deadtime_auto"]["longest_us"] == auto["longest_us"], "{kept:#}");
    cluster.reconfigure(plan(receive, &["deadtime = \"900ms\""]))?;
    let alpha = cluster.node(ALPHA)?;
    alpha.hactl_done(&["reload"])?;
    let is_fixed = |status: &Status| shown(status) == (900_000, Value::Null);
    alpha.wait_until("the fixed deadtime", STEP, is_fixed)?;
    cluster.reconfigure(plan(receive, &AUTO))?;
    let alpha = cluster.node(ALPHA)?;
    alpha.hactl_done(&["reload"])?;
    let status =
        alpha.wait_until("what was learnt", STEP, |status| shown(status).1 != Value::Null)?;
    ensure!(shown(&status).1["settled"] == true, "{:#}", status.raw);
    cluster.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn it_follows_what_arrives_by_xdp() -> Result<()> {
    it_follows_what_arrives("xdp-native")
}

#[test]
#[ignore = "needs root: network namespaces"]
fn it_follows_what_arrives_by_the_socket() -> Result<()> {
    it_follows_what_arrives("socket")
}
