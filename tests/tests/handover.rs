//! Reload and upgrade of a running daemon: the same process, the same start of the node, and
//! nothing to see at the peer and at the client.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ha_tests::bed::{Cluster, Event, FLOATING, GROUP, Node, Plan, Status, turn};
use ha_tests::clock::monotonic_ns;
use ha_tests::observe::{AddressMonitor, Client, ClientOptions};
use nix::sys::signal::Signal;

const ALPHA: &str = "alpha";
const BETA: &str = "beta";
const STEP: Duration = Duration::from_secs(20);
/// How often each way is tried.
const TIMES: usize = 20;

/// Short keepalives, and a deadtime that a loaded machine does not reach by itself.
fn plan() -> Plan {
    Plan { deadtime: Duration::from_millis(400), web: true, ..Plan::default() }
}

/// What must be the same before and after.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    pid: i32,
    incarnation: u64,
    owner: Option<String>,
    term: u64,
}

fn identity(status: &Status) -> Result<Identity> {
    let group = status.group(GROUP).context("the group is gone")?;
    let own = status.nodes.iter().find(|node| node.name == status.node);
    Ok(Identity {
        pid: status.pid,
        incarnation: own.context("the node does not know itself")?.incarnation,
        owner: group.owner.clone(),
        term: group.term,
    })
}

/// Events that tell of a death or a move.
fn trouble(events: &[Event], after_ns: u64) -> Vec<String> {
    const KINDS: [&str; 12] = [
        "node-dead",
        "daemon-gone",
        "node-left",
        "node-restarted",
        "node-returned",
        "link-dead",
        "connection-closed",
        "takeover",
        "give-back",
        "group-stopped",
        "group-started",
        "keeper-died",
    ];
    let is =
        |event: &&Event| event.monotonic_ns >= after_ns && KINDS.contains(&event.kind.as_str());
    events.iter().filter(is).map(|event| event.message.clone()).collect()
}

fn wait_resumed(node: &Node, kind: &str, after_ns: u64) -> Result<Event> {
    node.wait_event(kind, after_ns, STEP)
}

/// Does something to both nodes, again and again, while a client asks through the address.
fn nothing_is_seen(
    plan: Plan,
    kind: &str,
    mut act: impl FnMut(&Cluster, &str) -> Result<()>,
) -> Result<()> {
    let _turn = turn();
    let mut cluster = Cluster::started(plan)?;
    let address: IpAddr = FLOATING.parse()?;
    let monitor = AddressMonitor::start(cluster.node(ALPHA)?.netns())?;
    let client = Client::start(&cluster.client()?, address, ClientOptions::default())?;
    client.wait_answer(ALPHA, 0, STEP)?;
    cluster.wait_connected(2)?;
    let from_ns = monotonic_ns();
    let before =
        [identity(&cluster.node(ALPHA)?.status()?)?, identity(&cluster.node(BETA)?.status()?)?];
    let (_, keeper) = cluster.node(ALPHA)?.pids()?;
    for number in 0..TIMES {
        for name in [ALPHA, BETA] {
            let at_ns = monotonic_ns();
            act(&cluster, name)?;
            let event = wait_resumed(cluster.node(name)?, kind, at_ns)?;
            println!("{number} {name}: {}", event.message);
        }
    }
    cluster.wait_settled(ALPHA)?;
    for (name, before) in [ALPHA, BETA].into_iter().zip(before) {
        let node = cluster.node(name)?;
        ensure!(identity(&node.status()?)? == before, "{name} changed from {before:?}");
        let events = node.events()?;
        ensure!(trouble(&events, from_ns).is_empty(), "{name}: {:?}", trouble(&events, from_ns));
        let ids: Vec<u64> = events.iter().map(|event| event.id).collect();
        let all: Vec<u64> = (1..=ids.len() as u64).collect();
        ensure!(ids == all, "events of {name} do not go on: {ids:?}");
    }
    // A new program gets a keeper of its own version.
    let renewed = kind == "reexecuted";
    cluster.node(ALPHA)?.wait_until("its keeper", STEP, |status| {
        status.keeper_pid.is_some() && (status.keeper_pid != keeper) == renewed
    })?;
    ensure!(monitor.first_removed(address, from_ns).is_none(), "the address left its interface");
    let answers = client.answers();
    ensure!(answers.iter().any(|it| it.sent_ns > from_ns), "nobody answered");
    ensure!(client.first_answer(BETA, from_ns).is_none(), "beta answered");
    drop((client, monitor));
    for node in &mut cluster.nodes {
        node.stop()?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: network namespaces"]
fn reload_by_signal_is_not_seen() -> Result<()> {
    nothing_is_seen(plan(), "reloaded", |cluster, name| {
        cluster.node(name)?.signal(Signal::SIGHUP).map(drop)
    })
}

#[test]
#[ignore = "needs root: network namespaces"]
fn reload_with_reception_by_sockets_is_not_seen() -> Result<()> {
    let plan = Plan { link_lines: vec!["receive = \"socket\"".to_owned()], ..plan() };
    nothing_is_seen(plan, "reloaded", |cluster, name| {
        cluster.node(name)?.hactl_done(&["reload"]).map(drop)
    })
}

#[test]
#[ignore = "needs root: network namespaces"]
fn replacing_the_program_is_not_seen() -> Result<()> {
    nothing_is_seen(plan(), "reexecuted", |cluster, name| {
        cluster.node(name)?.signal(Signal::SIGUSR2).map(drop)
    })
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_broken_configuration_is_refused_with_its_place() -> Result<()> {
    let _turn = turn();
    let cluster = Cluster::started(Plan { web: false, ..plan() })?;
    let node = cluster.node(ALPHA)?;
    let before = identity(&node.status()?)?;
    let from_ns = monotonic_ns();
    let good = fs::read_to_string(node.config_path())?;
    fs::write(node.config_path(), good.replace("deadtime = ", "deadtme = "))?;
    let refused = node.hactl(&["reload"])?;
    ensure!(refused.code() == 1, "exit {}", refused.code());
    ensure!(
        refused.stderr.contains("ha.toml:") && refused.stderr.contains("deadtme"),
        "{}",
        refused.stderr
    );
    node.wait_event("reload-refused", from_ns, STEP)?;
    // Another cluster's, and one that would cut this node off.
    for (from, to, word) in [
        ("name = \"bed\"", "name = \"other\"", "cluster"),
        ("interface = \"hb0\"", "interface = \"hb9\"", "hb9"),
    ] {
        fs::write(node.config_path(), good.replace(from, to))?;
        let refused = node.hactl(&["reload"])?;
        ensure!(refused.code() == 1 && refused.stderr.contains(word), "{}", refused.stderr);
    }
    fs::write(node.config_path(), &good)?;
    ensure!(identity(&node.status()?)? == before, "it changed");
    ensure!(node.events()?.iter().all(|it| it.kind != "reloaded"), "it reloaded");
    node.hactl_done(&["reload"])?;
    ensure!(identity(&node.status()?)? == before, "it changed");
    ensure!(trouble(&cluster.node(BETA)?.events()?, from_ns).is_empty(), "beta saw something");
    Ok(())
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_changed_group_is_taken_over_where_it_is() -> Result<()> {
    let _turn = turn();
    let mut cluster = Cluster::started(Plan { web: false, ..plan() })?;
    let added: IpAddr = "198.51.100.20".parse()?;
    let first: IpAddr = FLOATING.parse()?;
    let (alpha, beta) = (cluster.node(ALPHA)?.netns(), cluster.node(BETA)?.netns());
    let [monitor, beta] = AddressMonitor::start_pair(alpha, beta)?;
    let from_ns = monotonic_ns();
    let configs: Vec<String> = cluster
        .nodes
        .iter()
        .map(|it| fs::read_to_string(it.config_path()))
        .collect::<Result<_, _>>()?;
    let line = |address: &str| {
        format!(
            "  {{ kind = \"address\", address = \"{address}/24\", interface = \"eth0\" }},\n]\n"
        )
    };
    for (node, config) in cluster.nodes.iter().zip(&configs) {
        let more = config.replacen(",\n]\n", &format!(",\n{}", line("198.51.100.20")), 1);
        ensure!(more != *config, "nothing to change in {config}");
        fs::write(node.config_path(), more)?;
        node.hactl_done(&["reload"])?;
    }
    monitor.wait(added, true, STEP)?;
    cluster.wait_settled(ALPHA)?;
    let status = cluster.node(BETA)?.status()?;
    let resources = status.raw["groups"][0]["resources"].as_array().map_or(0, Vec::len);
    ensure!(resources == 2, "{resources} resources instead of two");
    // And back.
    for (node, config) in cluster.nodes.iter().zip(&configs) {
        fs::write(node.config_path(), config)?;
        node.hactl_done(&["reload"])?;
    }
    monitor.wait(added, false, STEP)?;
    cluster.wait_settled(ALPHA)?;
    ensure!(monitor.first_removed(first, from_ns).is_none(), "the address that stays was removed");
    ensure!(beta.first_added(first, from_ns).is_none(), "beta had the address");
    // What is no longer in the group is not the keeper's either.
    cluster.node_mut(ALPHA)?.stop()?;
    cluster.node(BETA)?.wait_until("the group on beta", STEP, |it| it.runs_on(GROUP, BETA))?;
    Ok(())
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_link_is_added_by_a_rolling_reload() -> Result<()> {
    let _turn = turn();
    let mut cluster = Cluster::started(Plan { web: false, link_svc: false, ..plan() })?;
    let from_ns = monotonic_ns();
    cluster.reconfigure(Plan { web: false, ..plan() })?;
    for node in &cluster.nodes {
        node.hactl_done(&["reload"])?;
    }
    cluster.wait_settled(ALPHA)?;
    for node in &cluster.nodes {
        let status = node.status()?;
        let peer = if node.name() == ALPHA { BETA } else { ALPHA };
        ensure!(status.link(peer, "svc").is_some_and(|it| it.state == "up"), "svc is not up");
        ensure!(
            trouble(&node.events()?, from_ns).is_empty(),
            "{:?}",
            trouble(&node.events()?, from_ns)
        );
    }
    Ok(())
}

/// At some moment of the hand-over the daemon is killed: it is a death like any other.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_kill_in_the_middle_is_a_death() -> Result<()> {
    let _turn = turn();
    let mut cluster = Cluster::started(Plan { web: false, failback: true, ..plan() })?;
    let address: IpAddr = FLOATING.parse()?;
    let monitor = AddressMonitor::start(cluster.node(ALPHA)?.netns())?;
    for delay_ms in [0, 2, 8, 15, 25, 40, 70, 120] {
        let alpha = cluster.node_mut(ALPHA)?;
        alpha.signal_child(Signal::SIGHUP)?;
        std::thread::sleep(Duration::from_millis(delay_ms));
        let at_ns = alpha.signal_child(Signal::SIGKILL)?;
        alpha.wait_exit(STEP)?;
        monitor.wait(address, false, STEP)?;
        cluster.node(BETA)?.wait_until("the group on beta", STEP, |it| it.runs_on(GROUP, BETA))?;
        let events = cluster.node(BETA)?.events()?;
        let gone = events.iter().any(|it| {
            it.monotonic_ns >= at_ns && ["daemon-gone", "node-dead"].contains(&it.kind.as_str())
        });
        ensure!(gone, "beta did not say that alpha is gone");
        cluster.start()?;
    }
    Ok(())
}

/// A signal to leave that comes at any moment of the hand-over is a clean leave.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_stop_in_the_middle_is_a_clean_leave() -> Result<()> {
    let _turn = turn();
    let mut cluster = Cluster::started(Plan { web: false, ..plan() })?;
    for delay_ms in [0, 3, 9, 16, 28, 45, 80, 130] {
        let from_ns = monotonic_ns();
        let alpha = cluster.node_mut(ALPHA)?;
        alpha.signal_child(Signal::SIGHUP)?;
        std::thread::sleep(Duration::from_millis(delay_ms));
        alpha.signal_child(Signal::SIGTERM)?;
        let status = alpha.wait_exit(STEP)?;
        ensure!(status.success(), "after {delay_ms} ms it ended with {status}");
        cluster.node(BETA)?.wait_event("node-left", from_ns, STEP)?;
        cluster.node(BETA)?.wait_until("the group on beta", STEP, |it| it.runs_on(GROUP, BETA))?;
        cluster.start()?;
    }
    Ok(())
}

/// The key file of a step.
fn write_keys(node: &Node, keys: &str) -> Result<()> {
    Ok(fs::write(node.authkeys_path(), keys)?)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_change_of_keys_is_not_seen() -> Result<()> {
    let _turn = turn();
    let cluster = Cluster::started(Plan { web: false, ..plan() })?;
    let from_ns = monotonic_ns();
    let old = "1 siphash a-secret-of-the-test-bed\n";
    let new = "2 siphash another-secret-of-the-bed\n";
    for keys in
        [format!("auth 1\n{old}{new}"), format!("auth 2\n{old}{new}"), format!("auth 2\n{new}")]
    {
        for node in &cluster.nodes {
            write_keys(node, &keys)?;
            node.hactl_done(&["reload"])?;
            cluster.wait_settled(ALPHA)?;
        }
    }
    for node in &cluster.nodes {
        let events = node.events()?;
        ensure!(trouble(&events, from_ns).is_empty(), "{:?}", trouble(&events, from_ns));
        let status = node.status()?;
        ensure!(status.packets("bad-tag") == 0, "{} refused heartbeats", node.name());
        let log = node.log_tail(usize::MAX);
        ensure!(!log.contains("secret"), "a key is in the log of {}", node.name());
    }
    Ok(())
}

/// A file in the place of alpha's program.
fn replace_program(place: &std::path::Path, content: &[u8]) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let fresh = place.with_extension("new");
    fs::write(&fresh, content)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    Ok(fs::rename(fresh, place)?)
}

/// Starts the cluster with a copy of the program on alpha.
fn started_from_copy() -> Result<(Cluster, std::path::PathBuf)> {
    let mut cluster = Cluster::build(Plan { web: false, ..plan() })?;
    let place = cluster.node(ALPHA)?.directory().join("ha-daemon");
    fs::copy(ha_tests::bed::program("ha-daemon")?, &place)?;
    cluster.node_mut(ALPHA)?.start_program(&place, &[])?;
    cluster.start()?;
    Ok((cluster, place))
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_program_that_cannot_take_over_changes_nothing() -> Result<()> {
    let _turn = turn();
    let (mut cluster, place) = started_from_copy()?;
    let good = fs::read(&place)?;
    let from_ns = monotonic_ns();
    let node = cluster.node(ALPHA)?;
    let before = identity(&node.status()?)?;
    let refused: [(&[u8], &str); 3] = [
        (b"neither program nor script", "cannot run"),
        (b"#!/bin/sh\necho broken >&2\nexit 1\n", "broken"),
        (b"#!/bin/sh\nexit 0\n", "cannot take over"),
    ];
    for (content, word) in refused {
        replace_program(&place, content)?;
        let outcome = node.hactl(&["reexec"])?;
        ensure!(outcome.code() == 1 && outcome.stderr.contains(word), "{}", outcome.stderr);
    }
    fs::remove_file(&place)?;
    let outcome = node.hactl(&["reexec"])?;
    ensure!(outcome.code() == 1 && outcome.stderr.contains("cannot run"), "{}", outcome.stderr);
    // One that passes the trial and is gone when it is to run: the old program takes up its own
    // hand-over.
    let word = "ha-daemon reads hand-over format 1";
    replace_program(&place, format!("#!/bin/sh\nrm \"$0\"\necho '{word}'\n").as_bytes())?;
    let outcome = node.hactl(&["reexec"])?;
    ensure!(
        outcome.code() == 1 && outcome.stderr.contains("goes on as before"),
        "{}",
        outcome.stderr
    );
    ensure!(identity(&node.status()?)? == before, "it changed");
    // A reload does not need the file.
    node.hactl_done(&["reload"])?;
    replace_program(&place, &good)?;
    node.hactl_done(&["reexec"])?;
    cluster.wait_settled(ALPHA)?;
    let node = cluster.node(ALPHA)?;
    ensure!(identity(&node.status()?)? == before, "it changed");
    for node in &cluster.nodes {
        let trouble = trouble(&node.events()?, from_ns);
        ensure!(trouble.is_empty(), "{}: {trouble:?}", node.name());
    }
    cluster.node_mut(ALPHA)?.stop()?;
    Ok(())
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_configuration_that_is_gone_at_the_last_moment_is_a_leave() -> Result<()> {
    let _turn = turn();
    let (mut cluster, place) = started_from_copy()?;
    let address: IpAddr = FLOATING.parse()?;
    let monitor = AddressMonitor::start(cluster.node(ALPHA)?.netns())?;
    let real = place.with_extension("real");
    fs::copy(&place, &real)?;
    let config = cluster.node(ALPHA)?.config_path();
    let script = format!(
        "#!/bin/sh\nrm '{}'\nmv '{}' \"$0\"\necho 'ha-daemon reads hand-over format 1'\n",
        config.display(),
        real.display()
    );
    replace_program(&place, script.as_bytes())?;
    cluster.node(ALPHA)?.signal_child(Signal::SIGUSR2)?;
    let status = cluster.node_mut(ALPHA)?.wait_exit(STEP)?;
    ensure!(!status.success(), "it ended with {status}");
    monitor.wait(address, false, STEP)?;
    cluster.node(BETA)?.wait_until("the group on beta", STEP, |it| it.runs_on(GROUP, BETA))?;
    let log = cluster.node(ALPHA)?.log_tail(usize::MAX);
    ensure!(log.contains("its keeper takes the addresses off"), "the log does not say why");
    Ok(())
}
