//! Client programs of the configuration (`respawn`).

use std::fs;

use anyhow::{Context as _, Result, ensure};
use ha_tests::bed::{Node, turn_with_others};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{ALPHA, STEP, finish, lives, pair, wait_for};

/// Says who it is, and when it is told to end.
const CLIENT: &str = r#"
[[clients]]
user = "nobody"
program = "/bin/sh"
arguments = ["-c", "echo I am $$ of $(id -un):$(id -gn) in $HA_CURHOST; trap 'echo told to end; exit 0' TERM; while :; do sleep 0.1; done"]
"#;

/// Process ids of all lives of the client so far, by the daemon's log.
fn lives_of(node: &Node) -> Result<Vec<i32>> {
    let log = fs::read_to_string(node.log_path())?;
    let ids = log.lines().filter_map(|line| line.split_once("I am ")).map(|(_, rest)| rest);
    ids.map(|rest| Ok(rest.split(' ').next().unwrap_or_default().parse()?)).collect()
}

fn wait_lives(node: &Node, count: usize) -> Result<i32> {
    wait_for(&format!("life {count} of the client"), || Ok(lives_of(node)?.len() >= count))?;
    lives_of(node)?.last().copied().context("no client")
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_client_runs_as_its_user_is_started_again_and_ends_with_the_daemon() -> Result<()> {
    let _turn = turn_with_others();
    let mut cluster = pair(&[], |plan| plan.more.push_str(CLIENT))?;
    cluster.start()?;
    let node = cluster.node(ALPHA)?;
    let first = wait_lives(node, 1)?;
    let log = fs::read_to_string(node.log_path())?;
    ensure!(log.contains("of nobody:nogroup in alpha"), "{log}");
    let start = log.find("This node takes part").context("it does not take part")?;
    ensure!(log.find("I am ").is_some_and(|client| client > start), "it started too early");

    kill(Pid::from_raw(first), Signal::SIGKILL)?;
    let second = wait_lives(node, 2)?;
    ensure!(second != first && lives(second));
    node.wait_event("client-ended", 0, STEP)?;

    cluster.node_mut(ALPHA)?.stop()?;
    ensure!(!lives(second), "the client outlived a clean stop");
    ensure!(fs::read_to_string(cluster.node(ALPHA)?.log_path())?.contains("told to end"));
    finish(cluster)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_client_ends_with_a_killed_daemon_so_that_no_two_run_after_the_next_start() -> Result<()> {
    let _turn = turn_with_others();
    let mut cluster = pair(&[], |plan| plan.more.push_str(CLIENT))?;
    cluster.start()?;
    let first = wait_lives(cluster.node(ALPHA)?, 1)?;
    cluster.node(ALPHA)?.kill_daemon()?;
    cluster.node_mut(ALPHA)?.wait_exit(STEP)?;
    wait_for("the end of the client", || Ok(!lives(first)))?;
    cluster.start()?;
    ensure!(lives(wait_lives(cluster.node(ALPHA)?, 2)?));
    finish(cluster)
}
