//! The holder's lease: a daemon that lives and does not run loses its addresses before others may
//! take them, and finds that out before it acts.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ha_tests::bed::{Cluster, Plan, turn_with_others};
use ha_tests::clock::{as_ns, monotonic_ns, ms};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::support::{
    ALPHA, BETA, DAEMON_DEADTIME, STEP, Watch, events, finish, plan, started, wait_node,
};

/// `daemon_deadtime` without the margin that a deadtime of 200 ms leaves: 250 ms.
const HOLDER_LEASE: Duration = Duration::from_millis(2_750);
/// The driver renews it at least so often, idle: the lease may end that much sooner after a stop.
const RENEWED_WITHIN: Duration = Duration::from_millis(100);
/// As long as the daemon may stop without consequences, with room for its way back to the CPU.
const STOP_TIME: Duration = Duration::from_millis(2_500);
/// How late a keeper may be on a loaded machine, and is before `daemon_deadtime` all the same.
const KEEPER_LATE_MAX: Duration = Duration::from_millis(200);

/// How much earlier the kernel may take it off: the keeper gives the last whole second of a lease a
/// little early.
const LAST_SECOND_EARLY: Duration = Duration::from_millis(50);
/// Much longer than the lifetime of an address and what the kernel adds to it.
const WORKER_HANGS_FOR: Duration = Duration::from_secs(6);

/// When a driver takes its sender for stopped: a keepalive and a quarter of deadtime. It renews until then.
const SENDER_MISSED_WITHIN: Duration = Duration::from_millis(100);

/// A thread of the daemon, or whole processes, do not run until this is dropped.
pub(crate) enum Stopped {
    Processes(Vec<Pid>),
    Thread(Pid),
}

impl Stopped {
    fn daemon(cluster: &Cluster) -> Result<Self> {
        let (daemon, _) = cluster.node(ALPHA)?.pids()?;
        Self::processes([daemon])
    }

    /// As a control group is frozen.
    pub(crate) fn daemon_and_keeper(cluster: &Cluster) -> Result<Self> {
        let processes = cluster.node(ALPHA)?.processes()?;
        Self::processes([processes.daemon, processes.keeper.context("no keeper")?])
    }

    fn processes<const N: usize>(pids: [i32; N]) -> Result<Self> {
        let pids = pids.map(Pid::from_raw);
        let stopped = Self::Processes(pids.to_vec());
        pids.iter().try_for_each(|pid| kill(*pid, Signal::SIGSTOP))?;
        Ok(stopped)
    }

    /// Only the thread that decides; the sender and the address worker run on.
    fn driver(cluster: &Cluster) -> Result<Self> {
        Self::thread(cluster, "ha-driver")
    }

    /// Only the thread that sends heartbeats.
    pub(crate) fn sender(cluster: &Cluster) -> Result<Self> {
        Self::thread(cluster, "ha-sender")
    }

    fn thread(cluster: &Cluster, name: &str) -> Result<Self> {
        let (daemon, _) = cluster.node(ALPHA)?.pids()?;
        for task in fs::read_dir(format!("/proc/{daemon}/task"))? {
            let path = task?.path();
            if fs::read_to_string(path.join("comm"))?.trim() != name {
                continue;
            }
            let id = path.file_name().and_then(|it| it.to_str()).context("no thread id")?;
            let thread = Pid::from_raw(id.parse()?);
            ptrace::seize(thread, ptrace::Options::empty())?;
            ptrace::interrupt(thread)?;
            waitpid(thread, Some(WaitPidFlag::__WALL))?;
            return Ok(Self::Thread(thread));
        }
        anyhow::bail!("there is no thread {name}")
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        match self {
            Self::Processes(processes) => processes.iter().for_each(|process| {
                let _ = kill(*process, Signal::SIGCONT);
            }),
            Self::Thread(thread) => {
                let _ = ptrace::detach(*thread, None);
            }
        }
    }
}

/// The address is off alpha within the holder's lease, and never on two. Between the two moments the
/// daemon was stopped.
fn expect_taken_off(watch: &Watch, from_ns: u64, stopped_ns: u64) -> Result<()> {
    watch.monitor(ALPHA)?.wait(watch.address, false, HOLDER_LEASE + STEP)?;
    let off_ns = watch.monitor(ALPHA)?.first_removed(watch.address, from_ns);
    let off_ns = off_ns.context("it is off and was not removed")?;
    println!("off after {} ms", ms(off_ns - from_ns));
    let latest = HOLDER_LEASE + SENDER_MISSED_WITHIN + KEEPER_LATE_MAX;
    ensure!(off_ns <= stopped_ns + as_ns(latest), "off only after {} ns", off_ns - stopped_ns);
    ensure!(
        off_ns >= from_ns + as_ns(HOLDER_LEASE - RENEWED_WITHIN - LAST_SECOND_EARLY),
        "off after {} ns already",
        off_ns - from_ns
    );
    Ok(())
}

fn stopped_for_long(stop: impl FnOnce(&Cluster) -> Result<Stopped>) -> Result<()> {
    let _turn = turn_with_others();
    let (cluster, watch) = started(Plan { failback: false, ..plan() })?;
    let from_ns = monotonic_ns();
    let stopped = stop(&cluster)?;
    expect_taken_off(&watch, from_ns, monotonic_ns())?;
    expect_moved(cluster, watch, (stopped, from_ns))
}

/// It is off alpha; beta takes it, and alpha has lost it when it wakes.
fn expect_moved(
    mut cluster: Cluster,
    watch: Watch,
    (stopped, from_ns): (Stopped, u64),
) -> Result<()> {
    // After daemon_deadtime it is the peer's.
    watch.monitor(BETA)?.wait(watch.address, true, STEP)?;
    let on_ns = watch.monitor(BETA)?.first_added(watch.address, from_ns);
    let waited_ns = on_ns.context("beta never had it")? - from_ns;
    println!("on after {} ms", ms(waited_ns));
    ensure!(waited_ns >= as_ns(DAEMON_DEADTIME - RENEWED_WITHIN), "beta did not wait");
    drop(stopped);
    cluster.node(ALPHA)?.wait_event("lease-lost", from_ns, STEP)?;
    watch.expect_only(&mut cluster, BETA)?;
    watch.expect_never_double(from_ns)?;
    ensure!(watch.times_added(ALPHA, from_ns)? == 0, "alpha added it once more");
    finish(cluster, watch)
}

/// Shorter than the holder's lease: nothing moves.
fn stopped_for_short(stop: impl FnOnce(&Cluster) -> Result<Stopped>) -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started(plan())?;
    let from_ns = monotonic_ns();
    let stopped = stop(&cluster)?;
    thread::sleep(STOP_TIME);
    drop(stopped);
    // Whichever part of it does not run, its peer says that its daemon does not.
    ensure!(!events(&cluster, BETA, "node-stale", from_ns)?.is_empty(), "beta saw nothing");
    wait_node(&cluster, BETA, ALPHA, "up")?;
    watch.expect_only(&mut cluster, ALPHA)?;
    ensure!(watch.monitor(ALPHA)?.first_removed(watch.address, from_ns).is_none(), "it was off");
    ensure!(watch.monitor(BETA)?.first_added(watch.address, from_ns).is_none(), "beta had it");
    for (node, kind) in [
        (BETA, "takeover"),
        (BETA, "node-dead"),
        (BETA, "link-dead"),
        (ALPHA, "node-dead"),
        (ALPHA, "lease-lost"),
        (ALPHA, "group-stopped"),
    ] {
        let found = events(&cluster, node, kind, from_ns)?;
        ensure!(found.is_empty(), "{node}: {found:?}");
    }
    ensure!(!events(&cluster, ALPHA, "own-pause", from_ns)?.is_empty(), "alpha noticed nothing");
    finish(cluster, watch)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_stopped_daemon_loses_its_address_before_the_peer_takes_it() -> Result<()> {
    stopped_for_long(Stopped::daemon)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_hung_driver_loses_its_address_before_the_peer_takes_it() -> Result<()> {
    stopped_for_long(Stopped::driver)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_daemon_that_is_stopped_for_less_than_its_lease_keeps_its_address() -> Result<()> {
    stopped_for_short(Stopped::daemon)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_driver_that_hangs_for_less_than_its_lease_keeps_its_address() -> Result<()> {
    stopped_for_short(Stopped::driver)
}

/// Nobody is left who would take it off but the kernel, at the end of its lifetime.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_daemon_that_is_frozen_with_its_keeper_loses_its_address_before_the_peer_takes_it() -> Result<()>
{
    let _turn = turn_with_others();
    let (cluster, watch) = started(Plan { failback: false, ..plan() })?;
    let from_ns = monotonic_ns();
    let stopped = Stopped::daemon_and_keeper(&cluster)?;
    watch.monitor(BETA)?.wait(watch.address, true, STEP)?;
    let off_ns = watch.monitor(ALPHA)?.first_removed(watch.address, from_ns);
    let off_ns = off_ns.context("alpha and beta have it")?;
    println!("off after {} ms", ms(off_ns - from_ns));
    expect_moved(cluster, watch, (stopped, from_ns))
}

/// The keeper renews in its place, but for what is to be removed: that is left to its lifetime.
#[test]
#[ignore = "needs root: network namespaces"]
fn an_address_worker_that_hangs_keeps_its_addresses_until_they_are_given_up() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started(plan())?;
    let from_ns = monotonic_ns();
    let stopped = Stopped::thread(&cluster, "ha-address")?;
    thread::sleep(WORKER_HANGS_FOR);
    watch.expect_only(&mut cluster, ALPHA)?;
    watch.client.wait_answer(ALPHA, monotonic_ns(), STEP)?;
    ensure!(watch.monitor(ALPHA)?.first_removed(watch.address, from_ns).is_none(), "it was off");
    let given_up_ns = monotonic_ns();
    cluster.node(ALPHA)?.hactl_done(&["standby"])?;
    watch.monitor(ALPHA)?.wait(watch.address, false, STEP)?;
    ensure!(watch.monitor(BETA)?.first_added(watch.address, from_ns).is_none(), "beta has it");
    drop(stopped);
    watch.expect_only(&mut cluster, BETA)?;
    watch.client.wait_answer(BETA, given_up_ns, STEP)?;
    watch.expect_never_double(from_ns)?;
    ensure!(watch.times_added(ALPHA, from_ns)? == 0, "alpha added it once more");
    finish(cluster, watch)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_hung_sender_loses_its_address_before_the_peer_takes_it() -> Result<()> {
    stopped_for_long(Stopped::sender)
}

/// No heartbeat comes, and the kernel answers: its peer says so, and takes nothing.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_sender_that_hangs_for_less_than_the_lease_is_stale_and_nothing_moves() -> Result<()> {
    stopped_for_short(Stopped::sender)
}

/// Gives every node a file with that `daemon_deadtime`, and has one of them read it.
fn reload_one(cluster: &mut Cluster, node: &str, daemon_deadtime: Duration) -> Result<()> {
    let mut changed = cluster.plan.clone();
    changed.cluster_lines.retain(|line| !line.starts_with("daemon_deadtime"));
    changed.cluster_lines.push(daemon_deadtime_line(daemon_deadtime));
    cluster.reconfigure(changed)?;
    let at_ns = monotonic_ns();
    cluster.node(node)?.hactl_done(&["reload"])?;
    cluster.node(node)?.wait_event("mixed-times", at_ns, STEP).map(drop)
}

fn daemon_deadtime_line(time: Duration) -> String {
    format!("daemon_deadtime = \"{}ms\"", time.as_millis())
}

/// Its peer waits as before.
#[test]
#[ignore = "needs root: network namespaces"]
fn an_owner_that_alone_knows_of_a_longer_daemon_deadtime_holds_for_no_longer() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started(Plan { failback: false, ..plan() })?;
    reload_one(&mut cluster, ALPHA, DAEMON_DEADTIME * 3)?;
    watch.expect_only(&mut cluster, ALPHA)?;
    let from_ns = monotonic_ns();
    let stopped = Stopped::daemon(&cluster)?;
    expect_taken_off(&watch, from_ns, monotonic_ns())?;
    expect_moved(cluster, watch, (stopped, from_ns))
}

/// The owner holds as before. When both know, another round of reloads puts the times in force.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_taker_that_alone_knows_of_a_shorter_daemon_deadtime_waits_as_long_as_before() -> Result<()> {
    let _turn = turn_with_others();
    let mut wanted = Plan { failback: false, ..plan() };
    wanted.cluster_lines.push(daemon_deadtime_line(DAEMON_DEADTIME * 2));
    let (mut cluster, watch) = started(wanted)?;
    reload_one(&mut cluster, BETA, DAEMON_DEADTIME)?;
    let from_ns = monotonic_ns();
    let stopped = Stopped::daemon(&cluster)?;
    watch.monitor(BETA)?.wait(watch.address, true, STEP)?;
    let on_ns = watch.monitor(BETA)?.first_added(watch.address, from_ns);
    let waited_ns = on_ns.context("beta never had it")? - from_ns;
    ensure!(waited_ns >= as_ns(DAEMON_DEADTIME * 2 - RENEWED_WITHIN), "{} ms", ms(waited_ns));
    drop(stopped);
    cluster.node(ALPHA)?.wait_event("lease-lost", from_ns, STEP)?;
    watch.expect_only(&mut cluster, BETA)?;
    watch.expect_never_double(from_ns)?;

    reload_one(&mut cluster, ALPHA, DAEMON_DEADTIME)?;
    for node in [ALPHA, BETA] {
        let at_ns = monotonic_ns();
        cluster.node(node)?.hactl_done(&["reload"])?;
        let told = cluster.node(node)?.wait_event("mixed-times", at_ns, STEP)?;
        ensure!(told.message.contains("alone again"), "{told:?}");
    }
    watch.expect_only(&mut cluster, BETA)?;
    finish(cluster, watch)
}
