//! Heartbeats over a serial line: pseudo-terminals, and a cable between them that is as slow as the
//! line says. Times are long beside those of other tests: a line of 19,200 baud needs 50 ms for a
//! heartbeat.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ha_tests::bed::{Cluster, Cut, End, FLOATING, GROUP, Plan, turn_with_others};
use ha_tests::clock::{as_ns, monotonic_ns, ms, wait_for};

const ALPHA: &str = "alpha";
const BETA: &str = "beta";
const BAUD: u32 = 19_200;
const KEEPALIVE: Duration = Duration::from_millis(250);
const DEADTIME: Duration = Duration::from_millis(1_500);
/// How long anything may take before the scenario has failed.
const STEP: Duration = Duration::from_secs(30);
/// How long nothing may have happened to count as the end of a story.
const CALM: Duration = Duration::from_secs(3);

/// A pair whose only path is the line.
fn alone() -> Plan {
    Plan {
        keepalive: KEEPALIVE,
        deadtime: DEADTIME,
        link_hb: false,
        link_svc: false,
        serial_baud: Some(BAUD),
        web: false,
        ..Plan::default()
    }
}

/// A pair with a heartbeat network beside the line.
fn beside_a_network() -> Plan {
    Plan { link_hb: true, ..alone() }
}

/// A figure of the line as `node` shows it.
fn figure(cluster: &Cluster, node: &str, name: &str) -> Result<u64> {
    let status = cluster.node(node)?.status()?;
    let serial =
        serial(&status.raw).with_context(|| format!("no serial line: {:#}", status.raw))?;
    serial[name].as_u64().with_context(|| format!("no {name} in {serial}"))
}

/// What a status has of its serial line.
fn serial(status: &serde_json::Value) -> Option<&serde_json::Value> {
    let nodes = status["nodes"].as_array()?;
    let mut links = nodes.iter().filter_map(|node| node["links"].as_array()).flatten();
    links.find(|link| link["name"] == "tty").map(|link| &link["serial"])
}

/// Waits until a figure of the line is above a limit.
fn wait_figure(cluster: &Cluster, node: &str, name: &str, above: u64) -> Result<()> {
    let what = format!("{name} above {above}");
    let is_above = |raw: &serde_json::Value| {
        serial(raw).and_then(|it| it[name].as_u64()).is_some_and(|it| it > above)
    };
    cluster.node(node)?.wait_until(&what, STEP, |status| is_above(&status.raw)).map(drop)
}

fn count(cluster: &Cluster, node: &str, kinds: &[&str], after_ns: u64) -> Result<usize> {
    let events = cluster.node(node)?.events()?;
    let counted = events
        .iter()
        .filter(|event| kinds.contains(&event.kind.as_str()) && event.monotonic_ns >= after_ns);
    Ok(counted.count())
}

/// No node was given up for dead, and nothing has moved.
fn expect_no_verdict(cluster: &Cluster, after_ns: u64) -> Result<()> {
    for node in [ALPHA, BETA] {
        let kinds = ["node-dead", "daemon-gone", "node-left", "takeover"];
        let verdicts = count(cluster, node, &kinds, after_ns)?;
        ensure!(verdicts == 0, "{node}: {:?}", cluster.node(node)?.events()?);
    }
    cluster.node(BETA)?.wait_until("group on alpha", STEP, |it| it.runs_on(GROUP, ALPHA))?;
    Ok(())
}

fn wait_link(cluster: &Cluster, node: &str, peer: &str, link: &str, state: &str) -> Result<()> {
    let what = format!("{link} {state}");
    let is_there =
        |it: &ha_tests::bed::Status| it.link(peer, link).is_some_and(|link| link.state == state);
    cluster.node(node)?.wait_until(&what, STEP, is_there).map(drop)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_cluster_with_no_network_path_fails_over_and_back() -> Result<()> {
    let _turn = turn_with_others();
    let mut cluster = Cluster::started(alone())?;
    let status = cluster.node(BETA)?.status()?;
    let link = status.link(ALPHA, "tty").context("no link tty")?;
    ensure!(link.via == "serial" && link.interface.ends_with("/beta/tty0"), "{link:?}");
    ensure!(status.nodes.iter().all(|node| node.links.len() <= 1), "more than the line");

    // The machine is gone: daemon, keeper and network at once.
    let processes = cluster.node(ALPHA)?.processes()?;
    cluster.bed.cut_all(ALPHA, Cut::Middle)?;
    let at_ns = processes.kill_both()?;
    cluster.node_mut(ALPHA)?.wait_exit(STEP)?;
    cluster.node(BETA)?.wait_until("group on beta", STEP, |it| it.runs_on(GROUP, BETA))?;
    ensure!(cluster.node(BETA)?.has_address(FLOATING.parse()?)?, "no address");
    let dead = cluster.node(BETA)?.wait_event("node-dead", at_ns, STEP)?;
    let after_ns = dead.monotonic_ns - at_ns;
    ensure!(after_ns + as_ns(KEEPALIVE) * 2 > as_ns(DEADTIME), "dead after {} ms", ms(after_ns));

    cluster.bed.heal_all(ALPHA)?;
    cluster.node_mut(ALPHA)?.start()?;
    cluster.node_mut(ALPHA)?.wait_ready(STEP)?;
    cluster.wait_settled(ALPHA)?;
    ensure!(cluster.node(ALPHA)?.has_address(FLOATING.parse()?)?, "no address after failback");
    ensure!(!cluster.node(BETA)?.has_address(FLOATING.parse()?)?, "beta keeps the address");
    cluster.finish()
}

/// The times of the line, where the cluster has others: those of a fast network that it has not.
const OWN_KEEPALIVE: Duration = Duration::from_secs(1);
const OWN_DEADTIME: Duration = Duration::from_secs(3);
/// How long nothing happens on the line but heartbeats.
const IDLE: Duration = Duration::from_secs(8);
/// Pauses of the sender in that time that a loaded machine may have; one that is taken for paused between
/// its heartbeats is so once a second.
const SENDER_PAUSES_MAX: usize = 2;
/// A verdict that waits for a window without a pause comes much later, if at all.
const VERDICT_WITHIN: Duration = Duration::from_secs(15);

#[test]
#[ignore = "needs root: network namespaces"]
fn on_a_line_with_times_of_its_own_nobody_is_paused_and_a_death_is_judged_by_them() -> Result<()> {
    let _turn = turn_with_others();
    let times = [("keepalive", OWN_KEEPALIVE), ("deadtime", OWN_DEADTIME)];
    let times = times.map(|(key, time)| format!("{key} = \"{}ms\"", time.as_millis()));
    let plan = Plan {
        keepalive: Duration::from_millis(50),
        deadtime: Duration::from_millis(200),
        cluster_lines: vec!["initdead = \"6s\"".to_owned()],
        link_lines: times.to_vec(),
        ..alone()
    };
    let mut cluster = Cluster::started(plan)?;
    let idle_ns = monotonic_ns();
    thread::sleep(IDLE);
    for node in [ALPHA, BETA] {
        let events = cluster.node(node)?.events()?;
        let paused = events.iter().filter(|event| {
            event.kind == "own-pause"
                && event.monotonic_ns >= idle_ns
                && event.message.contains("the sender did not run")
        });
        ensure!(paused.count() <= SENDER_PAUSES_MAX, "{node}: {events:?}");
    }
    expect_no_verdict(&cluster, idle_ns)?;

    let processes = cluster.node(ALPHA)?.processes()?;
    cluster.bed.cut_all(ALPHA, Cut::Middle)?;
    let at_ns = processes.kill_both()?;
    cluster.node_mut(ALPHA)?.wait_exit(STEP)?;
    let dead = cluster.node(BETA)?.wait_event("node-dead", at_ns, VERDICT_WITHIN)?;
    let after_ns = dead.monotonic_ns - at_ns;
    // Its last heartbeat may have left a keepalive before.
    ensure!(after_ns + as_ns(OWN_KEEPALIVE) * 2 > as_ns(OWN_DEADTIME), "after {} ms", ms(after_ns));
    cluster.node(BETA)?.wait_until("group on beta", STEP, |it| it.runs_on(GROUP, BETA))?;
    // The next start clears up what a killed one leaves.
    cluster.bed.heal_all(ALPHA)?;
    cluster.node_mut(ALPHA)?.start()?;
    cluster.node_mut(ALPHA)?.wait_ready(STEP)?;
    cluster.wait_settled(ALPHA)?;
    cluster.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_keeper_tells_the_death_of_its_daemon_on_the_line() -> Result<()> {
    let _turn = turn_with_others();
    // Long enough that nobody can have waited for it.
    let mut cluster = Cluster::started(Plan { deadtime: Duration::from_secs(10), ..alone() })?;
    let at_ns = cluster.node(ALPHA)?.kill_daemon()?;
    cluster.node_mut(ALPHA)?.wait_exit(STEP)?;
    let gone = cluster.node(BETA)?.wait_event("daemon-gone", at_ns, STEP)?;
    ensure!(gone.monotonic_ns - at_ns < as_ns(Duration::from_secs(5)), "told too late");
    cluster.node(BETA)?.wait_until("group on beta", STEP, |it| it.runs_on(GROUP, BETA))?;
    ensure!(!cluster.node(ALPHA)?.has_address(FLOATING.parse()?)?, "alpha keeps the address");

    // It held the line open next to its daemon: the next one gets it.
    cluster.node_mut(ALPHA)?.start()?;
    cluster.node_mut(ALPHA)?.wait_ready(STEP)?;
    cluster.wait_settled(ALPHA)?;
    cluster.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_clean_leave_is_told_on_the_line() -> Result<()> {
    let _turn = turn_with_others();
    let mut cluster = Cluster::started(Plan { deadtime: Duration::from_secs(10), ..alone() })?;
    let at_ns = cluster.node_mut(ALPHA)?.stop()?;
    let left = cluster.node(BETA)?.wait_event("node-left", at_ns, STEP)?;
    ensure!(left.monotonic_ns - at_ns < as_ns(Duration::from_secs(5)), "told too late");
    cluster.node(BETA)?.wait_until("group on beta", STEP, |it| it.runs_on(GROUP, BETA))?;
    cluster.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn noise_that_destroys_some_frames_leads_to_no_verdict() -> Result<()> {
    let _turn = turn_with_others();
    let cluster = Cluster::started(alone())?;
    let at_ns = monotonic_ns();
    let before = figure(&cluster, BETA, "noise_bytes")?;
    // One byte of a thousand: about every tenth heartbeat is lost.
    for end in [End::First, End::Second] {
        cluster.modem()?.set_noise(end, 1_000);
    }
    for node in [ALPHA, BETA] {
        wait_figure(&cluster, node, "bad_frames", 2)?;
    }
    wait_figure(&cluster, BETA, "noise_bytes", before)?;
    let status = cluster.node(BETA)?.status()?;
    let link = status.link(ALPHA, "tty").context("no link tty")?;
    ensure!(link.lost > 0, "no heartbeat was lost: {link:?}");
    ensure!(link.rejected == 0, "noise counts as forgery: {link:?}");
    ensure!(status.packets("bad-tag") == 0, "noise counts as forgery");
    expect_no_verdict(&cluster, at_ns)?;

    for end in [End::First, End::Second] {
        cluster.modem()?.set_noise(end, 0);
    }
    cluster.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn half_a_frame_costs_its_own_frame_and_no_more() -> Result<()> {
    let _turn = turn_with_others();
    let cluster = Cluster::started(alone())?;
    let at_ns = monotonic_ns();
    let before = figure(&cluster, BETA, "bad_frames")?;
    for part in [3, 40, 90] {
        let datagram = [0x55; 88];
        let frame = ha_daemon::io::serial::framing::whole(&datagram).context("no frame")?;
        cluster.modem()?.inject(End::First, &frame[..part]);
        thread::sleep(KEEPALIVE * 2);
    }
    wait_figure(&cluster, BETA, "bad_frames", before + 2)?;
    let frames = figure(&cluster, BETA, "frames")?;
    wait_figure(&cluster, BETA, "frames", frames + 4)?;
    expect_no_verdict(&cluster, at_ns)?;
    cluster.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn late_peer_is_not_dead_while_serial_is_alive() -> Result<()> {
    let _turn = turn_with_others();
    let cluster = Cluster::started(beside_a_network())?;
    let at_ns = cluster.bed.cut_all(ALPHA, Cut::Middle)?;
    for (node, peer) in [(ALPHA, BETA), (BETA, ALPHA)] {
        wait_link(&cluster, node, peer, "hb0", "dead")?;
    }
    thread::sleep(CALM);
    expect_no_verdict(&cluster, at_ns)?;
    for (node, peer) in [(ALPHA, BETA), (BETA, ALPHA)] {
        let status = cluster.node(node)?.status()?;
        ensure!(status.link(peer, "tty").is_some_and(|it| it.state == "up"), "the line is not up");
        ensure!(status.node_state(peer) == "up", "{peer} is {}", status.node_state(peer));
    }
    cluster.bed.heal_all(ALPHA)?;
    cluster.wait_settled(ALPHA)?;
    cluster.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_line_that_is_cut_in_one_direction_is_dead_for_who_hears_nothing() -> Result<()> {
    let _turn = turn_with_others();
    let cluster = Cluster::started(beside_a_network())?;
    let at_ns = cluster.modem()?.cut(End::First);
    wait_link(&cluster, BETA, ALPHA, "tty", "dead")?;
    let status = cluster.node(ALPHA)?.status()?;
    ensure!(status.link(BETA, "tty").is_some_and(|it| it.state == "up"), "alpha hears nothing");
    expect_no_verdict(&cluster, at_ns)?;
    cluster.modem()?.heal(End::First);
    wait_link(&cluster, BETA, ALPHA, "tty", "up")?;
    expect_no_verdict(&cluster, at_ns)?;
    cluster.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn an_adapter_that_is_pulled_and_plugged_in_again_goes_on() -> Result<()> {
    let _turn = turn_with_others();
    let cluster = Cluster::started(beside_a_network())?;
    let at_ns = cluster.modem()?.unplug(End::Second)?;
    let lost = cluster.node(BETA)?.wait_event("serial-lost", at_ns, STEP)?;
    ensure!(lost.link.as_deref() == Some("tty"), "{lost:?}");
    wait_link(&cluster, BETA, ALPHA, "tty", "dead")?;
    let status = cluster.node(BETA)?.status()?;
    let line = serial(&status.raw).context("no serial line")?;
    ensure!(line["state"] == "lost" && line["times_lost"] == 1, "{line}");

    cluster.modem()?.plug(End::Second)?;
    cluster.node(BETA)?.wait_event("serial-back", at_ns, STEP)?;
    for (node, peer) in [(ALPHA, BETA), (BETA, ALPHA)] {
        wait_link(&cluster, node, peer, "tty", "up")?;
    }
    expect_no_verdict(&cluster, at_ns)?;
    cluster.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn an_adapter_that_is_back_before_deadtime_is_no_verdict_even_without_a_network() -> Result<()> {
    let _turn = turn_with_others();
    let cluster = Cluster::started(Plan { deadtime: Duration::from_secs(6), ..alone() })?;
    let at_ns = cluster.modem()?.unplug(End::First)?;
    cluster.node(ALPHA)?.wait_event("serial-lost", at_ns, STEP)?;
    cluster.modem()?.plug(End::First)?;
    cluster.node(ALPHA)?.wait_event("serial-back", at_ns, STEP)?;
    let received = figure(&cluster, ALPHA, "frames")?;
    wait_figure(&cluster, ALPHA, "frames", received + 8)?;
    expect_no_verdict(&cluster, at_ns)?;
    cluster.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn the_state_of_64_groups_crosses_the_line_and_delays_no_heartbeat() -> Result<()> {
    let _turn = turn_with_others();
    let mut plan = alone();
    for number in 1..64 {
        plan.more += &format!(
            "[groups.g{number}]\nnodes = [\"alpha\", \"beta\"]\nresources = [\n  {{ kind = \"address\", \
             address = \"198.51.100.{}/24\", interface = \"eth0\" }},\n]\n",
            number + 120
        );
    }
    let mut cluster = Cluster::build(plan)?;
    let at_ns = monotonic_ns();
    cluster.start()?;
    let last = "g63";
    for node in [ALPHA, BETA] {
        cluster.node(node)?.wait_until("g63 on alpha", STEP, |it| it.runs_on(last, ALPHA))?;
    }
    // Its state, 1,148 bytes and with a dozen changes in a row, took seconds to pass.
    wait_carried(&cluster, 2_000)?;
    let kinds = ["node-late", "link-late", "node-dead", "not-acknowledged"];
    for node in [ALPHA, BETA] {
        let late = count(&cluster, node, &kinds, at_ns)?;
        ensure!(late == 0, "{node}: {:?}", cluster.node(node)?.events()?);
    }
    let at_ns = cluster.node_mut(ALPHA)?.stop()?;
    cluster.node(BETA)?.wait_until("g63 on beta", STEP, |it| it.runs_on(last, BETA))?;
    cluster.node(BETA)?.wait_event("takeover", at_ns, STEP)?;
    cluster.finish()
}

fn wait_carried(cluster: &Cluster, bytes: u64) -> Result<()> {
    let what = format!("{bytes} bytes on the line");
    wait_for(&what, STEP, || Ok(cluster.modem()?.carried(End::First).0 >= bytes))
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_rate_that_has_no_name_works() -> Result<()> {
    let _turn = turn_with_others();
    Cluster::started(Plan { serial_baud: Some(31_250), ..alone() })?.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_line_that_cannot_carry_the_keepalive_is_refused() -> Result<()> {
    let _turn = turn_with_others();
    let cluster = Cluster::build(Plan { serial_baud: Some(4_800), ..alone() })?;
    let node = cluster.node(ALPHA)?;
    let path = node.config_path();
    let path = path.to_str().context("no text")?;
    let checked = node.ha_daemon(&["check", "--config", path, "--node", ALPHA])?;
    ensure!(checked.code() == 2, "exit {}: {}", checked.code(), checked.stdout);
    let said = format!("{}{}", checked.stdout, checked.stderr);
    ensure!(said.contains("96 bytes x 10 bits / 4800 baud = 200.0 ms"), "{said}");
    ensure!(said.contains("set keepalive to 400ms or more, or baud to 9600 or more"), "{said}");
    cluster.finish()
}
