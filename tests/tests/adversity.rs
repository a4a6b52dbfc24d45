//! A host in a bad state: full or read-only directories, no bpffs, keepers that die or hang,
//! addresses and cables that go under a running daemon. Either a clear refusal to start, or service
//! that goes on; never an end after joining.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ha_tests::bed::{Cluster, Cut, FLOATING, GROUP, Node, Plan, Status, turn};
use ha_tests::clock::monotonic_ns;
use nix::mount::{MsFlags, mount, umount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const WAIT: Duration = Duration::from_secs(20);

fn plan() -> Plan {
    Plan {
        keepalive: Duration::from_millis(50),
        deadtime: Duration::from_secs(2),
        failback: false,
        web: false,
        ..Plan::default()
    }
}

fn pair() -> Result<Cluster> {
    let mut cluster = Cluster::build(plan())?;
    cluster.start()?;
    Ok(cluster)
}

fn floating() -> Result<IpAddr> {
    Ok(FLOATING.parse()?)
}

fn tmpfs(at: &Path, options: &str) -> Result<()> {
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options))
        .with_context(|| format!("cannot mount a tmpfs at {}", at.display()))
}

/// Fills a file system until nothing more fits.
fn fill(directory: &Path) {
    // That it ends with an error is the point.
    let _ = fs::write(directory.join("filler"), vec![7; 1 << 20]);
}

/// The daemon refuses to start, and its last words hold `what`.
fn refuses(node: &mut Node, what: &str) -> Result<()> {
    node.start()?;
    let status = node.wait_exit(WAIT)?;
    ensure!(!status.success(), "it started, or ended without an error");
    let words = node.log_tail(3);
    ensure!(words.contains(what) && !words.contains("panicked"), "its last words: {words}");
    Ok(())
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_run_directory_that_takes_nothing_is_a_clear_refusal() -> Result<()> {
    let mut cluster = Cluster::build(plan())?;
    let beta = cluster.node_mut("beta")?;
    // The root directory is the one inode that there is.
    tmpfs(&beta.run_dir(), "size=64k,nr_inodes=1")?;
    refuses(beta, "lock")?;
    umount(&beta.run_dir())?;
    // Room for the lock, none for the control socket.
    tmpfs(&beta.run_dir(), "size=64k,nr_inodes=2")?;
    refuses(beta, "control.sock")?;
    umount(&beta.run_dir())?;
    tmpfs(&beta.run_dir(), "size=64k,ro")?;
    refuses(beta, "lock")?;
    cluster.bed.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_full_state_directory_is_a_warning_and_the_clock_goes_on() -> Result<()> {
    let mut cluster = Cluster::build(plan())?;
    let beta = cluster.node("beta")?;
    tmpfs(&beta.run_dir(), "size=16k")?;
    fill(&beta.run_dir());
    cluster.start()?;
    let log = cluster.node("beta")?.log_tail(200);
    ensure!(log.contains("the incarnation comes from the clock alone"), "{log}");
    let beta = cluster.node_mut("beta")?;
    beta.stop()?;
    ensure!(!beta.socket_path().exists(), "the control socket is left");
    cluster.bed.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_disk_that_fills_up_later_does_not_matter() -> Result<()> {
    let mut cluster = Cluster::build(plan())?;
    tmpfs(&cluster.node("beta")?.run_dir(), "size=64k")?;
    cluster.start()?;
    fill(&cluster.node("beta")?.run_dir());
    cluster.node("alpha")?.kill_daemon()?;
    let beta = cluster.node_mut("beta")?;
    beta.wait_until("the takeover", WAIT, |status| status.runs_on(GROUP, "beta"))?;
    ensure!(beta.has_address(floating()?)?, "no address");
    beta.stop()?;
    cluster.bed.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn without_bpffs_the_socket_serves_and_says_why() -> Result<()> {
    for read_only in [false, true] {
        let mut cluster = Cluster::build(plan())?;
        let bpffs = cluster.node("beta")?.bpffs();
        if read_only {
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(None::<&str>, &bpffs, None::<&str>, flags, None::<&str>)?;
        } else {
            umount(&bpffs)?;
        }
        cluster.start()?;
        let status = cluster.node("beta")?.status()?;
        for link in status.raw["nodes"][0]["links"].as_array().into_iter().flatten() {
            let reason = link["via_reason"].as_str().unwrap_or_default();
            ensure!(link["via"] == "socket" && reason.len() > 20, "{link}");
            println!("read-only {read_only}: {reason}");
        }
        cluster.node_mut("beta")?.stop()?;
        cluster.bed.finish()?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: network namespaces"]
fn without_bpffs_a_demand_for_xdp_is_a_clear_refusal() -> Result<()> {
    let lines = vec!["receive = \"xdp-native\"".to_owned()];
    let mut cluster = Cluster::build(Plan { link_lines: lines, ..plan() })?;
    umount(&cluster.node("beta")?.bpffs())?;
    refuses(cluster.node_mut("beta")?, "is not on a bpf file system")?;
    cluster.bed.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_keeper_that_is_killed_again_and_again_is_replaced() -> Result<()> {
    let _turn = turn();
    // Two keepalives after its connections have ended, the verdict would be theirs.
    let mut cluster = Cluster::build(Plan { keepalive: Duration::from_millis(200), ..plan() })?;
    cluster.start()?;
    let alpha = cluster.node("alpha")?;
    for _ in 0..10 {
        let (daemon, keeper) = alpha.pids()?;
        let keeper = keeper.context("no keeper")?;
        kill(Pid::from_raw(keeper), Signal::SIGKILL)?;
        let other = |status: &Status| status.keeper_pid.is_some_and(|pid| pid != keeper);
        let status = alpha.wait_until("another keeper", WAIT, other)?;
        ensure!(status.pid == daemon && status.runs_on(GROUP, "alpha"), "{status:?}");
    }
    // The last one knows everything: it removes the address when the daemon dies.
    let at_ns = alpha.kill_daemon()?;
    let beta = cluster.node("beta")?;
    let event = beta.wait_event("daemon-gone", at_ns, WAIT)?;
    ensure!(event.message.contains("took the addresses off"), "{event:?}");
    ensure!(!alpha.has_address(floating()?)?, "the address is left");
    beta.wait_until("the takeover", WAIT, |status| status.runs_on(GROUP, "beta"))?;
    cluster.bed.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_stopped_keeper_stops_nothing_and_does_its_work_when_it_wakes() -> Result<()> {
    let _turn = turn();
    let mut cluster = pair()?;
    let (_, keeper) = cluster.node("alpha")?.pids()?;
    let keeper = Pid::from_raw(keeper.context("no keeper")?);
    kill(keeper, Signal::SIGSTOP)?;
    // Many restarts of the peer are many obituaries to write.
    for _ in 0..5 {
        let beta = cluster.node_mut("beta")?;
        beta.stop()?;
        beta.start()?;
        beta.wait_ready(WAIT)?;
        cluster.wait_settled("alpha")?;
    }
    cluster.node("alpha")?.kill_daemon()?;
    let beta = cluster.node("beta")?;
    beta.wait_until("the takeover", WAIT, |status| status.runs_on(GROUP, "beta"))?;
    kill(keeper, Signal::SIGCONT)?;
    let deadline = monotonic_ns() + 5_000_000_000;
    while cluster.node("alpha")?.has_address(floating()?)? {
        ensure!(monotonic_ns() < deadline, "the keeper left the address");
        thread::sleep(Duration::from_millis(20));
    }
    cluster.bed.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_daemon_that_is_told_to_stop_at_any_moment_of_its_start_stops() -> Result<()> {
    let cluster_lines = vec!["initdead = \"4s\"".to_owned()];
    let mut cluster = Cluster::build(Plan { cluster_lines, ..plan() })?;
    let beta = cluster.node_mut("beta")?;
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGKILL] {
        for pause_ms in [0, 5, 10, 20, 40, 80, 160, 320] {
            beta.start()?;
            thread::sleep(Duration::from_millis(pause_ms));
            beta.signal_child(signal)?;
            let status = beta.wait_exit(WAIT)?;
            ensure!(status.code() != Some(101), "{signal} after {pause_ms} ms: {status}");
        }
    }
    // Whatever they left, the next one starts, serves and stops.
    beta.start()?;
    beta.wait_ready(WAIT)?;
    // It waits for its peer first, for initdead.
    beta.wait_until("the group", WAIT, |status| status.runs_on(GROUP, "beta"))?;
    beta.stop()?;
    let pins: Vec<_> = fs::read_dir(beta.bpffs())?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !name.ends_with(".debug"))
        .collect();
    ensure!(pins.is_empty(), "{pins:?}");
    ensure!(!beta.has_address(floating()?)?, "the address is left");
    cluster.bed.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn addresses_flushed_by_hand_are_noticed_and_their_return_heals() -> Result<()> {
    let _turn = turn();
    let cluster = pair()?;
    let (alpha, beta) = (cluster.node("alpha")?, cluster.node("beta")?);
    alpha.netns().ip(&["address", "flush", "dev", "hb0"])?;
    // Late for as long as alpha's kernel answers what beta asks it there: the program in it needs no
    // address of the host. Dead when beta's own neighbour entry is gone.
    let without_heartbeats = |status: &Status| {
        let links = &status.nodes.iter().find(|node| node.name == "alpha").map(|node| &node.links);
        let silent = |state: &str| ["late", "dead"].contains(&state);
        links.is_some_and(|links| links.iter().any(|it| it.name == "hb0" && silent(&it.state)))
    };
    beta.wait_until("hb0 to carry no heartbeats", WAIT, without_heartbeats)?;
    ensure!(beta.status()?.node_state("alpha") == "up", "the other link is there");
    alpha.netns().ip(&["address", "add", "192.0.2.1/24", "dev", "hb0"])?;
    cluster.wait_settled("alpha")?;
    cluster.bed.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_floating_address_removed_by_hand_is_missed_and_told() -> Result<()> {
    let _turn = turn();
    let cluster = pair()?;
    let alpha = cluster.node("alpha")?;
    alpha.netns().ip(&["address", "del", &format!("{FLOATING}/24"), "dev", "eth0"])?;
    let deadline = monotonic_ns() + 10_000_000_000;
    while !alpha.has_address(floating()?)? {
        if monotonic_ns() > deadline {
            let events: Vec<_> = alpha.events()?.into_iter().map(|event| event.message).collect();
            anyhow::bail!("it is not back after 10 s; {events:?}");
        }
        thread::sleep(Duration::from_millis(50));
    }
    ensure!(alpha.status()?.runs_on(GROUP, "alpha"), "{:?}", alpha.status()?);
    let events = alpha.events()?;
    ensure!(events.iter().any(|it| it.kind == "address-restored"), "{events:?}");
    cluster.bed.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn changed_mtu_and_carrier_do_not_end_the_heartbeats() -> Result<()> {
    let _turn = turn();
    let cluster = pair()?;
    let alpha = cluster.node("alpha")?;
    for mtu in ["1280", "1500"] {
        for interface in ["hb0", "eth0"] {
            alpha.netns().ip(&["link", "set", interface, "mtu", mtu])?;
        }
        thread::sleep(Duration::from_secs(3));
        cluster.wait_settled("alpha")?;
    }
    cluster.bed.cut("alpha", "hb0", Cut::Cable)?;
    thread::sleep(Duration::from_secs(3));
    cluster.bed.heal("alpha", "hb0")?;
    cluster.wait_settled("alpha")?;
    cluster.bed.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_deleted_heartbeat_interface_costs_its_link_and_nothing_more() -> Result<()> {
    let _turn = turn();
    let mut cluster = pair()?;
    let alpha = cluster.node("alpha")?;
    let daemon = alpha.status()?.pid;
    alpha.netns().ip(&["link", "del", "hb0"])?;
    thread::sleep(Duration::from_secs(3));
    for node in &cluster.nodes {
        let status = node.status()?;
        let other = if node.name() == "alpha" { "beta" } else { "alpha" };
        ensure!(status.node_state(other) == "up", "{}: {status:?}", node.name());
        ensure!(status.runs_on(GROUP, "alpha"), "{}: {status:?}", node.name());
    }
    ensure!(cluster.node("alpha")?.status()?.pid == daemon);
    cluster.node_mut("alpha")?.stop()?;
    cluster.bed.finish()
}
