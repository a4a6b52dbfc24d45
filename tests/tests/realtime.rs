//! Real-time priority and locked memory of a running daemon, as the kernel tells them; and a daemon that gets
//! neither.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ha_tests::bed::{Cluster, GROUP, Node, Plan, Status, turn};
use ha_tests::threads::{self, FIFO, OTHER};

const ALPHA: &str = "alpha";
const BETA: &str = "beta";
/// For a machine that is busy with other things.
const STEP: Duration = Duration::from_secs(60);
/// Priorities of the threads (ARCHITECTURE.md), and their names in `hactl status`.
const PRIORITIES: [(&str, &str, u64); 3] =
    [("ha-sender", "sender", 62), ("ha-driver", "driver", 61), ("ha-address", "address", 60)];
const KEEPER: (&str, u64) = ("ha-keeper", 60);
/// Heartbeats of each path in which the sender has to find every page where it was.
const BEATS: u64 = 200;
/// The kernel may move a locked page now and then, when memory is short.
const WINDOWS: usize = 5;

/// Times that a loaded machine does not reach by itself.
fn plan() -> Plan {
    Plan {
        keepalive: Duration::from_millis(20),
        deadtime: Duration::from_secs(2),
        web: false,
        ..Plan::default()
    }
}

/// How a thread is scheduled, as `hactl status` tells it.
fn shown(status: &Status, thread: &str) -> Result<String> {
    let all = status.raw["threads"].as_array().context("no threads")?;
    let found = all.iter().find(|it| it["name"] == thread);
    let scheduling = found.and_then(|it| it["scheduling"].as_str());
    Ok(scheduling.with_context(|| format!("{thread} is not shown"))?.to_owned())
}

/// Heartbeats that were sent on the path that has sent least.
fn beats(status: &Status) -> u64 {
    let nodes = status.raw["nodes"].as_array().into_iter().flatten();
    let links = nodes.filter_map(|node| node["links"].as_array()).flatten();
    links.filter_map(|link| link["sent"].as_u64()).min().unwrap_or_default()
}

/// Minor faults of the sender during that many beats.
fn faults_of_sender(node: &Node) -> Result<u64> {
    let (daemon, _) = node.pids()?;
    let goal = beats(&node.status()?) + BEATS;
    let before = threads::named(daemon, "ha-sender")?.minor_faults;
    node.wait_until("heartbeats", STEP, |status| beats(status) >= goal)?;
    Ok(threads::named(daemon, "ha-sender")?.minor_faults - before)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn threads_have_their_priorities_and_memory_is_locked() -> Result<()> {
    let _turn = turn();
    let cluster = Cluster::started(plan())?;
    let alpha = cluster.node(ALPHA)?;
    let (daemon, keeper) = alpha.pids()?;
    let status = alpha.status()?;
    for (name, word, priority) in PRIORITIES {
        let thread = threads::named(daemon, name)?;
        ensure!((thread.policy, thread.priority) == (FIFO, priority), "{thread:?}");
        let shown = shown(&status, word)?;
        ensure!(shown == format!("SCHED_FIFO {priority}"), "{name}: {shown}");
    }
    // What runs on tokio, or waits for a disk, competes with nobody.
    let others = threads::of(daemon)?;
    let others = others.iter().filter(|it| PRIORITIES.iter().all(|(name, ..)| *name != it.name));
    for thread in others {
        ensure!((thread.policy, thread.priority) == (OTHER, 0), "{thread:?}");
    }
    let keeper = keeper.context("no keeper")?;
    let thread = threads::named(keeper, KEEPER.0)?;
    ensure!((thread.policy, thread.priority) == (FIFO, KEEPER.1), "{thread:?}");
    for pid in [daemon, keeper] {
        ensure!(threads::locked_kib(pid)? > 0, "process {pid} has no locked memory");
    }
    ensure!(status.raw["memory"] == "locked", "{}", status.raw["memory"]);
    cluster.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn the_sender_that_has_settled_finds_every_page_where_it_was() -> Result<()> {
    let _turn = turn();
    let cluster = Cluster::started(plan())?;
    let alpha = cluster.node(ALPHA)?;
    let mut seen = Vec::new();
    while !seen.contains(&0) {
        ensure!(seen.len() < WINDOWS, "minor faults in {BEATS} beats each: {seen:?}");
        seen.push(faults_of_sender(alpha)?);
    }
    cluster.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_daemon_that_is_refused_all_of_it_says_so_and_does_its_work() -> Result<()> {
    let _turn = turn();
    let mut cluster = Cluster::build(plan())?;
    cluster.node_mut(ALPHA)?.start_without_realtime()?;
    cluster.start()?;
    let alpha = cluster.node(ALPHA)?;
    let (daemon, keeper) = alpha.pids()?;
    for pid in [daemon, keeper.context("no keeper")?] {
        let all = threads::of(pid)?;
        ensure!(all.iter().all(|it| it.policy == OTHER), "{pid}: {all:?}");
        ensure!(threads::locked_kib(pid)? == 0, "{pid} has locked memory");
    }
    let status = alpha.status()?;
    let memory = status.raw["memory"].as_str().unwrap_or_default();
    ensure!(memory.starts_with("not locked (") && memory.contains("CAP_IPC_LOCK"), "{memory}");
    let events = alpha.events()?;
    let told = |words: &str| {
        events.iter().any(|it| it.kind == "realtime-refused" && it.message.contains(words))
    };
    for (_, word, priority) in PRIORITIES {
        let refusal = format!("SCHED_OTHER: SCHED_FIFO {priority} was refused");
        let shown = shown(&status, word)?;
        ensure!(shown.starts_with(&refusal) && shown.contains("CAP_SYS_NICE"), "{word}: {shown}");
        ensure!(told(&format!("thread {word}: {refusal}")), "{word}: {events:?}");
    }
    for words in ["memory is not locked", "the highest real-time priority"] {
        ensure!(told(words), "{words}: {events:?}");
    }
    let text = alpha.hactl_done(&["status"])?;
    ensure!(text.contains("warning: memory is not locked"), "{text}");
    let log = alpha.log_tail(1_000);
    for words in ["no real-time priority", "cannot lock its memory"] {
        ensure!(log.contains(words), "its keeper does not say \"{words}\":\n{log}");
    }
    // It owns the group, and hands it on.
    alpha.hactl_done(&["relocate", GROUP, BETA])?;
    for node in &cluster.nodes {
        node.wait_until("the move", STEP, |status| status.runs_on(GROUP, BETA))?;
    }
    cluster.finish()
}
