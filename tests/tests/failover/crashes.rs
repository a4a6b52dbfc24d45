//! The owner's daemon ends, dies, freezes or is started again: a pair of nodes.

use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_tests::bed::{GROUP, Reception, turn_with_others};
use ha_tests::clock::monotonic_ns;
use ha_tests::on_both_receptions;
use nix::sys::signal::Signal;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::support::{ALPHA, BETA, LIFETIME_SLACK, STEP, events, finish, started_by, takeovers};

/// Where the daemon's end of the socket to its keeper is, at least.
const HIGH_FD: i32 = 900;

on_both_receptions! {
    a_clean_stop_moves_the_group_and_a_start_brings_it_back,
    a_killed_daemon_is_replaced_and_its_keeper_takes_the_address_off,
    a_daemon_is_dead_when_its_threads_are_and_not_when_its_files_are_closed,
    the_address_of_a_dead_node_goes_within_its_lifetime,
    a_frozen_owner_that_wakes_soon_gives_up_if_the_group_was_taken,
    a_frozen_owner_gives_up_when_it_wakes_after_the_address_lifetime,
    an_owner_restarted_within_deadtime_owns_once_more_and_nobody_took_it,
}

fn a_clean_stop_moves_the_group_and_a_start_brings_it_back(via: Reception) -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started_by(via, |_| {})?;
    let at_ns = cluster.node_mut(ALPHA)?.stop()?;
    watch.expect_only(&mut cluster, BETA)?;
    watch.client.wait_answer(BETA, at_ns, STEP)?;
    watch.expect_announced(&cluster, BETA, at_ns)?;
    ensure!(events(&cluster, BETA, "node-left", at_ns)?.len() == 1, "no single node-left");
    cluster.node(ALPHA)?.expect_nothing_left(&[watch.address])?;

    let back_ns = monotonic_ns();
    cluster.start()?;
    watch.expect_only(&mut cluster, ALPHA)?;
    watch.client.wait_answer(ALPHA, back_ns, STEP)?;
    watch.expect_never_double(at_ns)?;
    watch.expect_answers_since(at_ns)?;
    finish(cluster, watch)
}

fn a_killed_daemon_is_replaced_and_its_keeper_takes_the_address_off(via: Reception) -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started_by(via, |_| {})?;
    let at_ns = cluster.node(ALPHA)?.kill_daemon()?;
    cluster.node_mut(ALPHA)?.wait_exit(STEP)?;
    watch.expect_only(&mut cluster, BETA)?;
    watch.client.wait_answer(BETA, at_ns, STEP)?;
    watch.expect_announced(&cluster, BETA, at_ns)?;
    let gone = events(&cluster, BETA, "daemon-gone", at_ns)?;
    ensure!(gone.len() == 1 && gone[0].node.as_deref() == Some(ALPHA), "{gone:?}");

    cluster.start()?;
    watch.expect_only(&mut cluster, ALPHA)?;
    watch.expect_never_double(at_ns)?;
    watch.expect_answers_since(at_ns)?;
    finish(cluster, watch)
}

/// A dying process closes its files last, and here somebody else has those to its keeper open: it is the
/// end of the threads that the keeper acts upon.
fn a_daemon_is_dead_when_its_threads_are_and_not_when_its_files_are_closed(
    via: Reception,
) -> Result<()> {
    let _turn = turn_with_others();
    // Two keepalives after its connections have ended, the verdict would be theirs.
    let (mut cluster, watch) = started_by(via, |plan| {
        plan.keepalive = Duration::from_millis(200);
        plan.deadtime = Duration::from_millis(800);
    })?;
    if via == Reception::Xdp {
        // The next program owns words of its own, and has a keeper of its own.
        let before = cluster.node(ALPHA)?.status()?.keeper_pid;
        cluster.node(ALPHA)?.hactl_done(&["reexec"])?;
        cluster.node(ALPHA)?.wait_until("another keeper", STEP, |status| {
            status.keeper_pid.is_some() && status.keeper_pid != before
        })?;
    }
    let (daemon, _) = cluster.node(ALPHA)?.pids()?;
    let kept_open = files_to_the_keeper(daemon)?;
    ensure!(!kept_open.is_empty(), "no such file is open");
    let at_ns = cluster.node(ALPHA)?.kill_daemon()?;
    cluster.node_mut(ALPHA)?.wait_exit(STEP)?;
    watch.expect_only(&mut cluster, BETA)?;
    let gone = events(&cluster, BETA, "daemon-gone", at_ns)?;
    let told = gone.iter().any(|it| it.message.contains("its keeper took the addresses off"));
    ensure!(gone.len() == 1 && told, "{gone:?}");
    drop(kept_open);
    cluster.start()?;
    watch.expect_only(&mut cluster, ALPHA)?;
    watch.expect_never_double(at_ns)?;
    finish(cluster, watch)
}

/// The daemon puts its end of their socket above everything else that it opens.
fn files_to_the_keeper(daemon: i32) -> Result<Vec<OwnedFd>> {
    let pid = Pid::from_raw(daemon).context("no process")?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let entries = std::fs::read_dir(format!("/proc/{daemon}/fd"))?;
    let numbers = entries.filter_map(|it| it.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let high = numbers.filter(|it| *it >= HIGH_FD);
    high.map(|it| Ok(pidfd_getfd(&process, it, PidfdGetfdFlags::empty())?)).collect()
}

fn the_address_of_a_dead_node_goes_within_its_lifetime(via: Reception) -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started_by(via, |_| {})?;
    let at_ns = cluster.node(ALPHA)?.kill_daemon_and_keeper()?;
    cluster.node_mut(ALPHA)?.wait_exit(STEP)?;
    watch.client.wait_answer(BETA, at_ns, STEP)?;
    watch.expect_announced(&cluster, BETA, at_ns)?;
    let limit = cluster.plan.lifetime() + LIFETIME_SLACK;
    watch.monitor(ALPHA)?.wait(watch.address, false, limit)?;
    watch.expect_only(&mut cluster, BETA)?;
    watch.expect_answers_since(at_ns)?;

    let back_ns = monotonic_ns();
    cluster.start()?;
    watch.expect_only(&mut cluster, ALPHA)?;
    watch.expect_never_double(back_ns)?;
    // Programs and maps of the killed instance were taken over: a clean stop takes them away.
    cluster.stop()?;
    finish(cluster, watch)
}

fn a_frozen_owner_that_wakes_soon_gives_up_if_the_group_was_taken(via: Reception) -> Result<()> {
    frozen(via, Duration::from_millis(1_000))
}

fn a_frozen_owner_gives_up_when_it_wakes_after_the_address_lifetime(via: Reception) -> Result<()> {
    frozen(via, Duration::from_secs(6))
}

/// Less than an owner's lease, unless configured otherwise.
const LEASE_MIN: Duration = Duration::from_secs(2);

/// Where its kernel answers for it, an owner that wakes within its lease has lost nothing.
/// Manual failback: what ends on beta was given up by alpha, and not only passing by.
fn frozen(via: Reception, time: Duration) -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started_by(via, |plan| plan.failback = false)?;
    let (daemon, _) = cluster.node(ALPHA)?.pids()?;
    let at_ns = cluster.node(ALPHA)?.signal(Signal::SIGSTOP)?;
    thread::sleep(time);
    let is_taken = via == Reception::Socket || time >= LEASE_MIN;
    if is_taken && time < LEASE_MIN {
        // While alpha has its lease: a daemon that is not asked by the kernel is judged by deadtime.
        let _ = cluster.node(BETA)?.wait_event("takeover", at_ns, LEASE_MIN - time);
    }
    let taken = events(&cluster, BETA, "takeover", at_ns)?;
    // Whatever was found: a frozen process could not be asked, only killed.
    let awake_ns = monotonic_ns();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(daemon), Signal::SIGCONT)?;
    if !is_taken {
        ensure!(taken.is_empty(), "its kernel answered, and beta took over: {taken:?}");
        watch.expect_only(&mut cluster, ALPHA)?;
        return finish(cluster, watch);
    }
    ensure!(taken.len() == 1, "beta took over {} times", taken.len());
    watch.client.wait_answer(BETA, at_ns, STEP)?;
    if time > cluster.plan.lifetime() + LIFETIME_SLACK {
        let held = watch.monitor(ALPHA)?.held(watch.address);
        let last = held.last().map_or(0, |(_, until_ns)| *until_ns);
        ensure!(last < awake_ns, "the frozen owner had the address for all the time: {held:?}");
    }
    watch.expect_only(&mut cluster, BETA)?;
    watch.client.wait_answer(BETA, monotonic_ns(), STEP)?;
    watch.expect_answers_since(at_ns)?;
    ensure!(takeovers(&mut cluster, GROUP, at_ns)? == 1, "it was taken more than once");
    finish(cluster, watch)
}

/// A closed control connection is a verdict after two keepalives: 3 s here, time enough to start.
fn an_owner_restarted_within_deadtime_owns_once_more_and_nobody_took_it(
    via: Reception,
) -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started_by(via, |plan| {
        plan.keepalive = Duration::from_millis(1_500);
        plan.deadtime = Duration::from_secs(7);
    })?;
    let at_ns = cluster.node(ALPHA)?.kill_daemon_and_keeper()?;
    cluster.node_mut(ALPHA)?.wait_exit(STEP)?;
    cluster.start()?;
    watch.expect_only(&mut cluster, ALPHA)?;
    thread::sleep(cluster.plan.deadtime);
    watch.expect_only(&mut cluster, ALPHA)?;
    ensure!(events(&cluster, BETA, "takeover", 0)?.is_empty(), "beta took it meanwhile");
    ensure!(takeovers(&mut cluster, GROUP, at_ns)? == 1, "alpha took it more than once");
    ensure!(!events(&cluster, BETA, "node-restarted", at_ns)?.is_empty(), "no node-restarted");
    watch.expect_never_double(at_ns)?;
    // Two keepalives until both believe each other again, and a second.
    watch.expect_no_gap(at_ns, 2 * cluster.plan.keepalive + Duration::from_secs(1))?;
    finish(cluster, watch)
}
