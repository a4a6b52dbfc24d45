//! An owner whose daemon does not run while its kernel answers: it is stale, and nothing moves before
//! `daemon_deadtime`. Where a socket receives, the daemon itself would have to answer: such a peer is
//! judged by its silence alone (`crashes.rs`).

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use ha_tests::bed::{Cut, GROUP, Reception, turn_with_others};
use ha_tests::clock::monotonic_ns;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{
    ALPHA, BETA, DAEMON_DEADTIME, STEP, events, finish, started_by, takeovers, wait_node,
};

/// Less than an owner's lease.
const FREEZE: Duration = Duration::from_secs(1);

#[test]
#[ignore = "needs root: network namespaces"]
fn an_owner_frozen_for_less_than_its_lease_is_stale_and_nothing_moves() -> Result<()> {
    let _turn = turn_with_others();
    let (cluster, watch) = started_by(Reception::Xdp, |plan| {
        plan.keepalive = Duration::from_millis(10);
        plan.deadtime = Duration::from_millis(30);
    })?;
    let (daemon, _) = cluster.node(ALPHA)?.pids()?;
    let at_ns = monotonic_ns();
    for _ in 0..3 {
        kill(Pid::from_raw(daemon), Signal::SIGSTOP)?;
        let shown = wait_node(&cluster, BETA, ALPHA, "stale");
        thread::sleep(FREEZE);
        // Whatever was found: a frozen process could not be asked, only killed.
        kill(Pid::from_raw(daemon), Signal::SIGCONT)?;
        shown?;
        wait_node(&cluster, BETA, ALPHA, "up")?;
    }
    for (kind, least) in [("node-stale", 3), ("node-up", 3)] {
        let told = events(&cluster, BETA, kind, at_ns)?;
        ensure!(told.len() >= least, "{} x {kind}", told.len());
    }
    for node in [ALPHA, BETA] {
        for kind in ["node-dead", "takeover", "lease-lost", "link-dead"] {
            let told = events(&cluster, node, kind, at_ns)?;
            ensure!(told.is_empty(), "{node}: {told:?}");
        }
    }
    ensure!(watch.holders() == [ALPHA], "on {:?}", watch.holders());
    watch.client.wait_answer(ALPHA, monotonic_ns(), STEP)?;
    finish(cluster, watch)
}

/// The frozen one's keeper, or its address's lifetime, has taken the address off by then.
#[test]
#[ignore = "needs root: network namespaces"]
fn an_owner_that_stays_frozen_is_replaced_after_daemon_deadtime() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started_by(Reception::Xdp, |plan| plan.failback = false)?;
    let (daemon, _) = cluster.node(ALPHA)?.pids()?;
    let at_ns = cluster.node(ALPHA)?.signal(Signal::SIGSTOP)?;
    let answered = watch.client.wait_answer(BETA, at_ns, STEP);
    let held = watch.holders().iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
    kill(Pid::from_raw(daemon), Signal::SIGCONT)?;
    answered?;
    let taken = events(&cluster, BETA, "takeover", at_ns)?;
    ensure!(taken.len() == 1, "beta took over {} times", taken.len());
    let stale = events(&cluster, BETA, "node-stale", at_ns)?;
    let dead = events(&cluster, BETA, "node-dead", at_ns)?;
    ensure!(stale.len() == 1 && dead.len() == 1, "{stale:?} {dead:?}");
    let waited = Duration::from_nanos(dead[0].monotonic_ns - at_ns);
    // An idle driver last ran up to 250 ms before it was stopped.
    ensure!(waited >= DAEMON_DEADTIME - Duration::from_millis(260), "{waited:?}: {dead:?}");
    ensure!(dead[0].message.contains("its daemon has not run for"), "{dead:?}");
    ensure!(held == [BETA], "the address was on {held:?}");
    watch.expect_never_double(at_ns)?;
    watch.expect_only(&mut cluster, BETA)?;
    watch.client.wait_answer(BETA, monotonic_ns(), STEP)?;
    ensure!(takeovers(&mut cluster, GROUP, at_ns)? == 1, "it was taken more than once");
    finish(cluster, watch)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_cut_is_judged_after_deadtime_and_not_later() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started_by(Reception::Xdp, |plan| plan.failback = false)?;
    let at_ns = cluster.bed.cut_all(ALPHA, Cut::Middle)?;
    watch.client.wait_answer(BETA, at_ns, STEP)?;
    let dead = events(&cluster, BETA, "node-dead", at_ns)?;
    ensure!(dead.len() == 1, "{dead:?}");
    let waited = Duration::from_nanos(dead[0].monotonic_ns - at_ns);
    // A busy machine may pause the judge now and then, which costs it a window each time.
    ensure!(waited < DAEMON_DEADTIME / 2, "{waited:?}: {dead:?}");
    ensure!(events(&cluster, BETA, "node-stale", at_ns)?.is_empty(), "a cut is no stale daemon");
    cluster.bed.heal_all(ALPHA)?;
    watch.expect_only(&mut cluster, BETA)?;
    finish(cluster, watch)
}
