//! Mistakes of operators: each is refused or explained, and disturbs nobody who runs.

use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, ensure};
use ha_tests::bed::{AUTHKEYS, Cluster, Node, Plan, turn_with_others};
use ha_tests::clock::monotonic_ns;

use crate::support::{ALPHA, BETA, CALM, STEP, Watch, finish, floating, plan, started};

/// Starts both without waiting for a settled cluster, which there will not be.
fn start_strangers(cluster: &mut Cluster) -> Result<()> {
    for node in &mut cluster.nodes {
        node.start()?;
    }
    for node in &mut cluster.nodes {
        node.wait_ready(STEP)?;
    }
    Ok(())
}

/// Each refuses the other's packets and counts them as `reason`; no liveness comes of them, and
/// both daemons live.
fn expect_deaf(cluster: &mut Cluster, reason: &str) -> Result<()> {
    for (name, peer) in [(ALPHA, BETA), (BETA, ALPHA)] {
        let node = cluster.node_mut(name)?;
        let status = node.wait_until(&format!("{peer} dead"), STEP, |status| {
            status.node_state(peer) == "dead" && status.packets(reason) > 0
        })?;
        ensure!(status.packets("accepted") == 0, "{name} accepted something: {}", status.raw);
        for link in ["hb0", "svc"] {
            let link = status.link(peer, link).context("no such link")?;
            ensure!(link.state == "unknown" && link.received == 0, "{name}: {link:?}");
        }
        let shown = node.hactl_done(&["status"])?;
        ensure!(shown.contains(reason), "hactl status does not say {reason}:\n{shown}");
        let dead = node.wait_event("node-dead", 0, STEP)?;
        ensure!(dead.node.as_deref() == Some(peer), "{dead:?}");
        ensure!(node.is_running(), "{name} has ended");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: network namespaces"]
fn nodes_with_different_keys_do_not_hear_each_other_and_count_bad_tags() -> Result<()> {
    let _turn = turn_with_others();
    let mut cluster = Cluster::build(plan())?;
    let beta = cluster.node(BETA)?;
    let config = cluster.plan.config(&beta.authkeys_path());
    beta.configure(&config, "auth 1\n1 siphash another-secret-of-the-test-bed\n")?;
    start_strangers(&mut cluster)?;
    expect_deaf(&mut cluster, "bad-tag")?;
    let status = cluster.node(ALPHA)?.status()?;
    let link = status.link(BETA, "hb0").context("no link hb0")?;
    ensure!(link.rejected > 0, "the link does not count what it refuses: {link:?}");

    // The operator corrects it.
    let beta = cluster.node_mut(BETA)?;
    beta.stop()?;
    beta.configure(&config, AUTHKEYS)?;
    cluster.start()?;
    cluster.stop()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn nodes_of_different_clusters_do_not_hear_each_other_and_count_it() -> Result<()> {
    let _turn = turn_with_others();
    let mut cluster = Cluster::build(plan())?;
    let beta = cluster.node(BETA)?;
    let config = cluster.plan.config(&beta.authkeys_path());
    beta.configure(&config.replace("name = \"bed\"", "name = \"bett\""), AUTHKEYS)?;
    start_strangers(&mut cluster)?;
    expect_deaf(&mut cluster, "wrong-cluster")?;
    cluster.stop()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn an_unknown_node_name_is_refused_with_the_names_there_are() -> Result<()> {
    let cluster = Cluster::build(plan())?;
    let node = cluster.node(ALPHA)?;
    let refused = refused_start(node, "omega", &node.run_dir(), &node.bpffs())?;
    for word in ["omega", ALPHA, BETA] {
        ensure!(refused.contains(word), "does not name {word}: {refused}");
    }
    node.expect_nothing_left(&[])
}

/// Starts a second daemon, which has to end with 1; returns what it said.
fn refused_start(node: &Node, name: &str, run_dir: &Path, bpffs: &Path) -> Result<String> {
    let config = node.config_path();
    let paths = [config.as_path(), run_dir, bpffs];
    let [config, run_dir, bpffs] = paths.map(|path| path.to_str().unwrap_or_default());
    let arguments =
        ["run", "--config", config, "--node", name, "--run-dir", run_dir, "--bpffs", bpffs];
    let refused = node.ha_daemon(&arguments)?;
    ensure!(refused.code() == 1, "exit {}: {}", refused.code(), refused.stderr);
    Ok(refused.stderr)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_second_daemon_with_the_same_run_directory_is_refused_and_disturbs_nothing() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started(plan())?;
    let at_ns = monotonic_ns();
    let node = cluster.node(ALPHA)?;
    let refused = refused_start(node, ALPHA, &node.run_dir(), &node.bpffs())?;
    let directory = node.run_dir().display().to_string();
    ensure!(refused.contains(&directory), "does not name {directory}: {refused}");
    undisturbed(&mut cluster, &watch, at_ns)?;
    finish(cluster, watch)
}

/// Another run directory, same host: the ports are the first one's, and so are address and pins.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_second_daemon_on_a_host_is_refused_by_its_port_and_disturbs_nothing() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started(plan())?;
    let at_ns = monotonic_ns();
    let node = cluster.node(ALPHA)?;
    let refused = refused_start(node, ALPHA, &node.directory().join("run2"), &node.bpffs())?;
    ensure!(refused.contains("192.0.2.1:694"), "does not name the endpoint: {refused}");
    ensure!(refused.contains("no other daemon on the port"), "no remedy: {refused}");
    undisturbed(&mut cluster, &watch, at_ns)?;
    finish(cluster, watch)
}

/// The group stayed where it was, the address never left, and no peer noticed anything.
fn undisturbed(cluster: &mut Cluster, watch: &Watch, at_ns: u64) -> Result<()> {
    thread::sleep(CALM);
    watch.expect_only(cluster, ALPHA)?;
    for (name, monitor) in &watch.monitors {
        let removed = monitor.first_removed(watch.address, at_ns);
        ensure!(removed.is_none(), "the address of {name} was removed");
    }
    for node in &cluster.nodes {
        let events = node.events()?;
        let since: Vec<_> = events.iter().filter(|event| event.monotonic_ns >= at_ns).collect();
        let told = since.iter().filter(|event| event.kind != "own-pause");
        ensure!(told.count() == 0, "{}: {since:?}", node.name());
    }
    watch.expect_answers_since(at_ns)
}

/// Whoever has the port: UDP is needed for heartbeats, TCP for control connections. The programs
/// that were attached before the second was tried are gone again.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_port_that_is_taken_is_a_clear_error_and_nothing_stays() -> Result<()> {
    let cluster = Cluster::build(plan())?;
    let node = cluster.node(ALPHA)?;
    let udp = node.netns().run(|| Ok(UdpSocket::bind("192.0.2.1:694")?))?;
    expect_port_refused(node, "UDP")?;
    drop(udp);
    let tcp = node.netns().run(|| Ok(TcpListener::bind("192.0.2.1:694")?))?;
    expect_port_refused(node, "TCP")?;
    drop(tcp);
    Ok(())
}

fn expect_port_refused(node: &Node, protocol: &str) -> Result<()> {
    let refused = refused_start(node, ALPHA, &node.run_dir(), &node.bpffs())?;
    for word in [protocol, "192.0.2.1:694", "hb0"] {
        ensure!(refused.contains(word), "does not name {word}: {refused}");
    }
    node.expect_nothing_left(&[floating()?])
}

/// hb0 can do what is demanded and is attached by the time svc turns out not to.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_reception_that_is_demanded_and_impossible_is_refused_and_nothing_stays() -> Result<()> {
    let lines = vec!["receive = \"xdp-native\"".to_owned()];
    let cluster = Cluster::build(Plan { link_lines: lines, ..plan() })?;
    let node = cluster.node(ALPHA)?;
    node.netns().ip(&["link", "add", "link", "eth0", "name", "eth0v", "type", "macvlan"])?;
    node.netns().ip(&["address", "add", "203.0.113.1/24", "dev", "eth0v"])?;
    node.netns().ip(&["link", "set", "eth0v", "up"])?;
    let text = cluster.plan.config(&node.authkeys_path());
    let text = text.replacen("interface = \"eth0\"", "interface = \"eth0v\"", 1);
    node.configure(&text.replace("\"198.51.100.1\"", "\"203.0.113.1\""), AUTHKEYS)?;
    let refused = refused_start(node, ALPHA, &node.run_dir(), &node.bpffs())?;
    for word in ["eth0v", "xdp-native", "receive = \"auto\""] {
        ensure!(refused.contains(word), "does not name {word}: {refused}");
    }
    node.expect_nothing_left(&[floating()?])
}

/// A daemon that nobody can ask would be found out about when it is needed.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_file_in_the_place_of_the_control_socket_is_refused_and_nothing_stays() -> Result<()> {
    let cluster = Cluster::build(plan())?;
    let node = cluster.node(ALPHA)?;
    std::fs::write(node.socket_path(), "no socket")?;
    let refused = refused_start(node, ALPHA, &node.run_dir(), &node.bpffs())?;
    let path = node.socket_path().display().to_string();
    ensure!(refused.contains(&path), "does not name {path}: {refused}");
    std::fs::remove_file(node.socket_path())?;
    node.expect_nothing_left(&[floating()?])
}
