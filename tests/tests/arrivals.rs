//! What the daemons count of the heartbeats between them, and what they make of it: real daemons in
//! network namespaces, heartbeats received by the kernel side and by the socket.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ha_tests::bed::{Cluster, GROUP, Node, Plan, Status};
use nix::sys::signal::Signal;
use serde_json::Value;

const ALPHA: &str = "alpha";
const BETA: &str = "beta";
const LINK: &str = "hb0";
const STEP: Duration = Duration::from_secs(20);
/// How long the peer's daemon stands still: longer than deadtime, whatever else the machine does.
const PAUSE: Duration = Duration::from_millis(900);
const DEADTIME: Duration = Duration::from_millis(500);

/// A link of a status; null when it is not there.
fn link<'s>(status: &'s Status, peer: &str) -> &'s Value {
    let named = |list: &'s Value, name: &str| {
        list.as_array().into_iter().flatten().find(|it| it["name"] == name).unwrap_or(&Value::Null)
    };
    named(&named(&status.raw["nodes"], peer)["links"], LINK)
}

fn gaps(status: &Status) -> u64 {
    link(status, BETA)["arrivals"]["interval"]["count"].as_u64().unwrap_or(0)
}

fn until_gaps(alpha: &Node, least: u64) -> Result<Status> {
    alpha.wait_until(&format!("{least} gaps"), STEP, |status| gaps(status) >= least)
}

/// `check --live` says what the figures say; the code and the text.
fn check_live(node: &Node) -> Result<(Option<i32>, String)> {
    let socket = node.socket_path();
    let socket = socket.to_str().context("no path")?;
    let finished = node.ha_daemon(&["check", "--live", "--socket", socket])?;
    Ok((finished.status.code(), finished.stdout))
}

fn a_pause_of_the_peer_is_seen_told_and_kept(receive: &str) -> Result<()> {
    let mut cluster = Cluster::build(Plan {
        deadtime: DEADTIME,
        link_svc: false,
        link_lines: vec![format!("receive = \"{receive}\"")],
        web: false,
        ..Plan::default()
    })?;
    cluster.start()?;
    cluster.wait_settled(ALPHA)?;
    let (alpha, beta) = (cluster.node(ALPHA)?, cluster.node(BETA)?);
    let status = until_gaps(alpha, 100)?;
    ensure!(link(&status, BETA)["via"] == receive, "{:#}", status.raw);
    let arrivals = &link(&status, BETA)["arrivals"];
    let median_us = arrivals["interval"]["p50_us"].as_u64().unwrap_or(0);
    // A bucket ends at most a quarter above what is in it.
    ensure!((8_000..=25_000).contains(&median_us), "{arrivals:#}");
    expect_lateness(alpha)?;

    beta.signal_child(Signal::SIGSTOP)?;
    std::thread::sleep(PAUSE);
    beta.signal_child(Signal::SIGCONT)?;
    let paused_us = PAUSE.as_micros() as u64 * 9 / 10;
    let status = alpha.wait_until("the gap", STEP, |status| {
        link(status, BETA)["arrivals"]["longest_gap_us"].as_u64() >= Some(paused_us)
    })?;
    let advice = &link(&status, BETA)["arrivals"]["advice"];
    ensure!(advice["fit"] == "too-short", "{advice:#}");
    ensure!(advice["mistakes"].as_u64() >= Some(1), "{advice:#}");
    let recommended_us = advice["recommended_deadtime_us"].as_u64();
    ensure!(recommended_us >= Some(paused_us * 3 / 2), "{advice:#}");
    let (code, text) = check_live(alpha)?;
    ensure!(code == Some(1), "{code:?}: {text}");
    let expected = "warning: beta on hb0: ";
    ensure!(text.contains(expected) && text.contains("of a peer that lived"), "{text}");
    let table = alpha.hactl_done(&["links"])?;
    ensure!(table.contains("too short, a mistake in"), "{table}");

    // The next program of the same process goes on with them.
    let before = gaps(&alpha.status()?);
    alpha.hactl_done(&["reexec"])?;
    let status = until_gaps(alpha, before + 1)?;
    let longest_us = link(&status, BETA)["arrivals"]["longest_gap_us"].as_u64();
    ensure!(longest_us >= Some(paused_us), "{:#}", link(&status, BETA));
    alpha.wait_until("the group", STEP, |status| status.group(GROUP).is_some())?;
    Ok(())
}

/// The threads on which verdicts and heartbeats depend tell how late they ran.
fn expect_lateness(alpha: &Node) -> Result<()> {
    let lateness = |status: &Status, name: &str| {
        let threads = status.raw["threads"].as_array().cloned().unwrap_or_default();
        let thread = threads.into_iter().find(|it| it["name"] == name).unwrap_or_default();
        thread["lateness"]["count"].as_u64().unwrap_or(0)
    };
    alpha.wait_until("wake-ups of each thread", STEP, |status| {
        ["sender", "driver", "address"].iter().all(|name| lateness(status, name) > 0)
    })?;
    let status = alpha.status()?;
    ensure!(!status.raw["realtime_limits"].as_str().unwrap_or_default().is_empty());
    Ok(())
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_pause_of_the_peer_is_seen_told_and_kept_by_xdp() -> Result<()> {
    a_pause_of_the_peer_is_seen_told_and_kept("xdp-native")
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_pause_of_the_peer_is_seen_told_and_kept_by_the_socket() -> Result<()> {
    a_pause_of_the_peer_is_seen_told_and_kept("socket")
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_daemon_that_is_not_there_is_an_error() -> Result<()> {
    let cluster = Cluster::build(Plan { web: false, ..Plan::default() })?;
    let (code, text) = check_live(cluster.node(ALPHA)?)?;
    ensure!(code == Some(2) && text.contains("cannot reach the daemon"), "{code:?}: {text}");
    Ok(())
}
