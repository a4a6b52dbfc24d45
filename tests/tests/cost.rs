//! What a quiet pair costs: wake-ups, processor time, memory. Figures are printed; bounds are such
//! that a debug build on a busy machine keeps them.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ha_tests::bed::{Cluster, Plan, Status, turn};
use ha_tests::figures::{Figures, Memory};

const TIME: Duration = Duration::from_secs(10);
/// All of it. The program's own file, locked as the rest, is 22 MiB of a debug build's 29 and
/// 8 of a release build's 14.
const RSS_MAX_KIB: u64 = if cfg!(debug_assertions) { 30 * 1024 } else { 18 * 1024 };
/// Without the program's file: heap, stacks, libraries, maps. The same in every build, but for the
/// libraries of a host's name services (0.3 MiB where systemd's is one of them).
const BEYOND_PROGRAM_MAX_KIB: u64 = 8 * 1024;
/// 100 a second are the sender's, 10 the driver's looks at its peers, 5 the address worker's.
const SLEEPS_PER_SECOND_MAX: f64 = 150.0;
/// Of a core. Measured: 0.5 % (release build) to 3.2 % (debug build, on a machine on which a wake-up
/// takes a quarter of a millisecond).
const CPU_SHARE_MAX: f64 = if cfg!(debug_assertions) { 0.06 } else { 0.03 };
/// What belongs to no other process.
const PRIVATE_MAX_KIB: u64 = 7 * 1024;

fn settled(plan: Plan) -> Result<Cluster> {
    let mut cluster = Cluster::build(Plan { web: false, ..plan })?;
    cluster.start()?;
    // What the start left to do is done: addresses announced, states acknowledged.
    thread::sleep(Duration::from_secs(2));
    Ok(cluster)
}

fn accepted(status: &Status) -> u64 {
    status.raw["packets"]["accepted"].as_u64().unwrap_or_default()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn heartbeats_that_change_nothing_wake_nobody() -> Result<()> {
    let _turn = turn();
    let cluster = settled(Plan {
        keepalive: Duration::from_millis(1),
        deadtime: Duration::from_secs(2),
        cluster_lines: vec!["warntime = \"1s\"".to_owned()],
        link_lines: vec!["receive = \"xdp-native\"".to_owned()],
        ..Plan::default()
    })?;
    let beta = cluster.node("beta")?;
    let before = beta.status()?;
    let start = Figures::of(before.pid)?;
    thread::sleep(TIME);
    let used = Figures::of(before.pid)?.since(&start);
    let accepted = accepted(&beta.status()?) - accepted(&before);
    let switches = used.switches_without(&["ha-sender"]);
    let share = switches as f64 / accepted as f64;
    println!(
        "{accepted} heartbeats, {switches} context switches outside of the sender ({:.3} %)",
        share * 100.0
    );
    println!("{}", used.table());
    ensure!(accepted > 10_000, "only {accepted} heartbeats: the machine did not run");
    ensure!(share < 0.05, "{switches} context switches for {accepted} heartbeats");
    cluster.bed.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_quiet_pair_costs_little() -> Result<()> {
    let _turn = turn();
    // As the standard pair, but for verdicts that a busy machine would lead to.
    let cluster = settled(Plan {
        keepalive: Duration::from_millis(10),
        deadtime: Duration::from_millis(500),
        ..Plan::default()
    })?;
    for node in &cluster.nodes {
        let (daemon, keeper) = node.pids()?;
        let keeper = keeper.context("no keeper")?;
        let start = Figures::of(daemon)?;
        thread::sleep(TIME);
        let used = Figures::of(daemon)?.since(&start);
        let (memory, kept) = (Memory::of(daemon)?, Memory::of(keeper)?);
        println!("{}: {}  daemon {memory:?}\n  keeper {kept:?}", node.name(), used.table());
        for (what, kib, max_kib) in [
            ("resident", memory.rss_kib, RSS_MAX_KIB),
            ("beside its program", memory.beyond_program_kib, BEYOND_PROGRAM_MAX_KIB),
            ("of its own", memory.private_kib, PRIVATE_MAX_KIB),
        ] {
            ensure!(kib < max_kib, "{kib} KiB {what}, not below {max_kib}");
        }
        let (sleeps, share) = (used.sleeps_per_second(), used.cpu_share());
        ensure!(sleeps < SLEEPS_PER_SECOND_MAX, "threads were woken {sleeps:.0} times a second");
        ensure!(share < CPU_SHARE_MAX, "{:.2} % of a core", share * 100.0);
    }
    cluster.bed.finish()
}
