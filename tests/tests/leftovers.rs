//! What stays behind, and what must not: pins, programs, links, addresses, sockets, processes.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ha_tests::bed::{Cluster, FLOATING, Node, Plan, Status, turn};
use ha_tests::clock::{MS_NS, monotonic_ns};
use serde_json::Value;

const WAIT: Duration = Duration::from_secs(15);

fn pair(receive: &str) -> Result<Cluster> {
    let mut cluster = Cluster::build(Plan {
        keepalive: Duration::from_millis(50),
        deadtime: Duration::from_secs(2),
        failback: false,
        link_lines: vec![format!("receive = \"{receive}\"")],
        web: false,
        ..Plan::default()
    })?;
    cluster.start()?;
    Ok(cluster)
}

/// `bpftool -j ARGUMENTS` inside of the node.
fn bpftool(node: &Node, arguments: &[&str]) -> Result<Value> {
    let output = node.netns().command("bpftool")?.arg("-j").args(arguments).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let value: Value = serde_json::from_str(&text)
        .with_context(|| format!("bpftool {arguments:?} says {text:?}"))?;
    ensure!(value["error"].is_null(), "bpftool {arguments:?}: {value}");
    Ok(value)
}

/// Names of everything that is pinned; `*.debug` is the file system's own.
fn pins(node: &Node) -> BTreeSet<String> {
    let entries = std::fs::read_dir(node.bpffs()).into_iter().flatten();
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !name.ends_with(".debug"))
        .collect()
}

/// Identifier of a pinned attachment and of the program in it, by pin.
fn attachments(node: &Node) -> Result<Vec<(String, u64, u64)>> {
    let names = pins(node).into_iter().filter(|name| name.starts_with("link-"));
    names
        .map(|name| {
            let path = node.bpffs().join(&name).display().to_string();
            let link = bpftool(node, &["link", "show", "pinned", &path])?;
            let id = |field: &str| link[field].as_u64().with_context(|| format!("{link}"));
            Ok((name, id("id")?, id("prog_id")?))
        })
        .collect()
}

/// Identifiers of the programs that the timers in the kernel run.
fn timer_programs(node: &Node) -> Result<Vec<u64>> {
    let path = node.bpffs().join("watch");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let map = bpftool(node, &["map", "show", "pinned", &path.display().to_string()])?;
    let all = bpftool(node, &["prog", "show"])?;
    let uses = |program: &&Value| {
        program["map_ids"].as_array().is_some_and(|ids| ids.contains(&map["id"]))
    };
    let programs = all.as_array().into_iter().flatten().filter(uses);
    Ok(programs.filter_map(|it| it["id"].as_u64()).collect())
}

/// Everything that a node must not leave: an empty list is clean.
fn leftovers(node: &Node, programs: &[u64], processes: &[i32]) -> Result<Vec<String>> {
    let mut left: Vec<String> = pins(node).into_iter().map(|name| format!("pin {name}")).collect();
    let attached = bpftool(node, &["net", "show"])?;
    for kind in ["xdp", "tc"] {
        let list = attached[0][kind].as_array().is_some_and(|list| !list.is_empty());
        left.extend(list.then(|| format!("{kind}: {}", attached[0][kind])));
    }
    for id in programs {
        let known = bpftool(node, &["prog", "show", "id", &id.to_string()]).is_ok();
        left.extend(known.then(|| format!("program {id}")));
    }
    for pid in processes {
        let lives = Path::new(&format!("/proc/{pid}")).exists();
        left.extend(lives.then(|| format!("process {pid}")));
    }
    left.extend(node.has_address(FLOATING.parse()?)?.then(|| format!("address {FLOATING}")));
    left.extend(node.socket_path().exists().then(|| "control socket".to_owned()));
    let qdiscs = node.netns().command("tc")?.args(["qdisc", "show"]).output()?.stdout;
    let qdiscs = String::from_utf8_lossy(&qdiscs).into_owned();
    left.extend(qdiscs.contains("clsact").then_some(qdiscs));
    Ok(left)
}

fn processes(status: &Status) -> Vec<i32> {
    std::iter::once(status.pid).chain(status.keeper_pid).collect()
}

/// Waits for what goes by itself a moment after the daemon: its keeper, the kernel's freeing.
fn is_clean(node: &Node, programs: &[u64], processes: &[i32]) -> Result<()> {
    let deadline = monotonic_ns() + 3_000 * MS_NS;
    loop {
        let left = leftovers(node, programs, processes)?;
        if left.is_empty() {
            return Ok(());
        }
        ensure!(monotonic_ns() < deadline, "{} left: {left:?}", node.name());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn a_stop_leaves_nothing(receive: &str) -> Result<()> {
    let _turn = turn();
    let mut cluster = pair(receive)?;
    for clean in [true, false] {
        for name in ["alpha", "beta"] {
            let node = cluster.node_mut(name)?;
            let mut programs: Vec<u64> = Vec::new();
            let mut all: Vec<i32> = Vec::new();
            let mut note = |node: &Node| -> Result<()> {
                programs.extend(attachments(node)?.iter().map(|(_, _, program)| program));
                let timers = timer_programs(node)?;
                ensure!(receive == "socket" || !timers.is_empty(), "no timer runs");
                programs.extend(timers);
                all.extend(processes(&node.status()?));
                Ok(())
            };
            note(node)?;
            ensure!(receive == "socket" || !pins(node).is_empty(), "nothing is pinned");
            if !clean {
                node.kill_daemon_and_keeper()?;
                node.wait_exit(WAIT)?;
                node.start()?;
                node.wait_ready(WAIT)?;
                note(node)?;
            }
            node.stop()?;
            is_clean(node, &programs, &all).with_context(|| format!("clean {clean}"))?;
            node.start()?;
            node.wait_ready(WAIT)?;
            let both_up = |status: &Status| status.nodes.iter().all(|node| node.state == "up");
            for node in &cluster.nodes {
                node.wait_until("both to be up", WAIT, both_up)?;
            }
        }
    }
    cluster.bed.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_stop_leaves_nothing_of_xdp() -> Result<()> {
    a_stop_leaves_nothing("xdp-native")
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_stop_leaves_nothing_of_tc() -> Result<()> {
    a_stop_leaves_nothing("tc")
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_stop_leaves_nothing_of_sockets() -> Result<()> {
    a_stop_leaves_nothing("socket")
}

#[test]
#[ignore = "needs root: network namespaces"]
fn the_pinned_map_names_its_fields_and_shows_the_peer_alive() -> Result<()> {
    let cluster = pair("xdp-native")?;
    let beta = cluster.node("beta")?;
    let path = beta.bpffs().join("links").display().to_string();
    // Before: on a busy machine the program that shows it takes its time.
    let asked_ns = monotonic_ns();
    let dump = bpftool(beta, &["map", "dump", "pinned", &path])?;
    let alpha = ha_common::wire::name_id("alpha");
    let records: Vec<&Value> = dump
        .as_array()
        .into_iter()
        .flatten()
        .map(|entry| &entry["formatted"]["value"])
        .filter(|record| record["peer"] == alpha)
        .collect();
    ensure!(records.len() == 2, "two links of alpha: {records:?}");
    let incarnation = cluster.node("alpha")?.status()?.incarnation;
    for record in records {
        let age_ns = asked_ns.saturating_sub(record["last_seen_ns"].as_u64().unwrap_or(0));
        ensure!(age_ns < 2_000 * MS_NS, "last seen {age_ns} ns ago: {record}");
        ensure!(record["heartbeat"]["believed"] == incarnation, "{record}");
        ensure!(record["received"].as_u64().unwrap_or(0) > 0, "{record}");
        for field in ["interface", "silence_ns", "keepalive_us", "phase", "lost", "rejected"] {
            ensure!(record[field].is_u64(), "no {field}: {record}");
        }
    }
    cluster.bed.finish()
}

/// The next instance goes on with the records and replaces the program in its attachment.
fn a_killed_daemon_is_continued(receive: &str) -> Result<()> {
    let _turn = turn();
    let mut cluster = pair(receive)?;
    let beta = cluster.node_mut("beta")?;
    let before = beta.status()?;
    let attached = attachments(beta)?;
    // Two interfaces; beside XDP, TC answers probes.
    let programs = if receive == "tc" { 1 } else { 2 };
    ensure!(attached.len() == 2 * programs, "{attached:?}");
    beta.kill_daemon_and_keeper()?;
    beta.wait_exit(WAIT)?;
    ensure!(attachments(beta)? == attached, "the kernel side went with the daemon");
    // While nobody is there, the kernel goes on.
    std::thread::sleep(Duration::from_millis(300));
    beta.start()?;
    beta.wait_ready(WAIT)?;
    beta.wait_until("alpha to be up", WAIT, |status| status.node_state("alpha") == "up")?;
    let after = beta.status()?;
    let again = attachments(beta)?;
    for ((name, link, program), (name_again, link_again, program_again)) in
        attached.iter().zip(&again)
    {
        ensure!(name == name_again && link == link_again, "{attached:?} -> {again:?}");
        ensure!(program != program_again, "the program was not replaced");
    }
    let links = |status: &Status| -> Vec<(u64, u64)> {
        let links = status.nodes.iter().flat_map(|node| &node.links);
        links.map(|link| (link.received, link.lost)).collect()
    };
    let (then, now) = (links(&before), links(&after));
    for ((was, lost_before), (is, lost)) in then.iter().zip(&now) {
        // Six heartbeats in the 300 ms, and those of the start.
        ensure!(is > &(was + 5), "received {was} and then {is}");
        ensure!(lost == lost_before, "{} heartbeats were missed", lost - lost_before);
    }
    let states: Vec<_> = cluster.node("alpha")?.events()?;
    println!("{receive}: {then:?} -> {now:?}; alpha saw {:?}", states.last());
    cluster.bed.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_killed_daemon_is_continued_from_its_pins_with_xdp() -> Result<()> {
    a_killed_daemon_is_continued("xdp-native")
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_killed_daemon_is_continued_from_its_pins_with_tc() -> Result<()> {
    a_killed_daemon_is_continued("tc")
}

#[test]
#[ignore = "needs root: network namespaces"]
fn removed_pins_do_not_silence_a_running_daemon() -> Result<()> {
    let _turn = turn();
    let mut cluster = pair("xdp-native")?;
    let beta = cluster.node("beta")?;
    let before = beta.status()?;
    for name in pins(beta) {
        std::fs::remove_file(beta.bpffs().join(name))?;
    }
    // Longer than deadtime.
    std::thread::sleep(Duration::from_secs(3));
    let after = beta.status()?;
    ensure!(after.node_state("alpha") == "up" && after.links_up("alpha"), "{after:?}");
    let news: Vec<_> = beta.events()?.into_iter().filter(|it| it.id > before.events).collect();
    ensure!(news.iter().all(|it| it.kind == "own-pause"), "{news:?}");
    let beta = cluster.node_mut("beta")?;
    beta.stop()?;
    is_clean(beta, &[], &processes(&before))?;
    cluster.bed.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_start_that_fails_leaves_nothing_attached() -> Result<()> {
    let mut cluster = Cluster::build(Plan { web: false, ..Plan::default() })?;
    let beta = cluster.node_mut("beta")?;
    // Somebody else has the port of control connections.
    let _listener = beta.netns().run(|| Ok(std::net::TcpListener::bind("198.51.100.2:694")?))?;
    beta.start()?;
    let status = beta.wait_exit(WAIT)?;
    ensure!(!status.success(), "it started");
    ensure!(beta.log_tail(5).contains("198.51.100.2:694"), "{}", beta.log_tail(5));
    is_clean(beta, &[], &[])?;
    cluster.bed.finish()
}
