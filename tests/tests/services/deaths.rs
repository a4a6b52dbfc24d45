//! A daemon dies, is restarted, or is replaced in place, and the services of its node go on: until the
//! next daemon adopts them, or the holder's lease is over.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_tests::bed::{Cluster, Event, FLOATING, GROUP, Plan, turn_with_others};
use ha_tests::clock::{as_ns, monotonic_ns, ms};
use ha_tests::observe::{AddressMonitor, Client};
use nix::sys::signal::Signal;

use crate::support::{
    ADDRESS, ALPHA, BETA, SITE, STEP, client, finish, lives, misbehave, moves, pair, pid_in, site,
    wait_for, wait_site,
};

const HTTPD: &str = r#"{ kind = "script", name = "httpd" }"#;
const FIRST: &str = r#"{ kind = "script", name = "first" }"#;
/// The default.
const DAEMON_DEADTIME: Duration = Duration::from_secs(3);
/// That of a pair in which a daemon has to be back sooner: on a loaded machine a debug build takes three
/// seconds to start.
const PATIENCE: Duration = Duration::from_secs(6);
/// A peer that took over sooner than this did not wait.
const WAITED: Duration = Duration::from_millis(2_500);
/// The service went on: far above what a loaded machine adds, far below a failover after
/// `daemon_deadtime`.
const GAP_MAX: Duration = Duration::from_secs(1);
/// How often a restart is announced, and how often each node's program is replaced.
const RESTARTS: usize = 20;

fn patient(plan: &mut Plan) {
    plan.cluster_lines.push(format!("daemon_deadtime = \"{}s\"", PATIENCE.as_secs()));
}

/// A pair with nginx on alpha, and those who watch.
struct Scene {
    cluster: Cluster,
    client: Client,
    alpha: AddressMonitor,
    beta: AddressMonitor,
    nginx: i32,
    term: u64,
    calls: usize,
}

fn address() -> Result<IpAddr> {
    Ok(ADDRESS.parse()?)
}

fn term(cluster: &Cluster, node: &str) -> Result<u64> {
    Ok(cluster.node(node)?.status()?.group(SITE).context("no group")?.term)
}

impl Scene {
    fn start(change: impl FnOnce(&mut Plan)) -> Result<Self> {
        let mut cluster = pair(&[FIRST, HTTPD], change)?;
        let client = client(&cluster)?;
        let (alpha, beta) = (cluster.node(ALPHA)?.netns(), cluster.node(BETA)?.netns());
        let [alpha, beta] = AddressMonitor::start_pair(alpha, beta)?;
        cluster.start()?;
        client.wait_answer(ALPHA, 0, STEP)?;
        wait_site(&mut cluster, ALPHA)?;
        cluster.wait_connected(2)?;
        let nginx = pid_in(&site(cluster.node(ALPHA)?).join("nginx.pid"))?;
        let (term, calls) = (term(&cluster, ALPHA)?, moves(cluster.node(ALPHA)?).len());
        Ok(Self { cluster, client, alpha, beta, nginx, term, calls })
    }

    fn kill(&mut self) -> Result<u64> {
        let at_ns = self.cluster.node(ALPHA)?.kill_daemon()?;
        self.cluster.node_mut(ALPHA)?.wait_exit(STEP)?;
        Ok(at_ns)
    }

    /// The daemon is started again and goes on with what runs.
    fn restart(&mut self, after_ns: u64) -> Result<()> {
        self.cluster.node_mut(ALPHA)?.start()?;
        let node = self.cluster.node(ALPHA)?;
        wait_for("the daemon", || Ok(node.status().is_ok()))?;
        node.wait_event("group-adopted", after_ns, STEP)?;
        Ok(())
    }

    /// Nothing happened to the group since: not to its address, its services or its term.
    fn expect_untouched(&mut self, since_ns: u64) -> Result<()> {
        wait_site(&mut self.cluster, ALPHA)?;
        for node in [ALPHA, BETA] {
            ensure!(term(&self.cluster, node)? == self.term, "{node} has another term");
        }
        let nginx = pid_in(&site(self.cluster.node(ALPHA)?).join("nginx.pid"))?;
        ensure!(lives(self.nginx) && nginx == self.nginx, "nginx was stopped");
        let calls = moves(self.cluster.node(ALPHA)?).split_off(self.calls);
        ensure!(calls.is_empty(), "services were touched: {calls:?}");
        ensure!(self.alpha.first_removed(address()?, since_ns).is_none(), "the address was off");
        ensure!(self.beta.first_added(address()?, 0).is_none(), "beta had the address");
        let trouble = moved(&self.cluster, BETA, since_ns)?;
        ensure!(trouble.is_empty(), "beta: {trouble:?}");
        let gap = self.client.gap_in(since_ns, monotonic_ns());
        ensure!(gap.length_ns() < as_ns(GAP_MAX), "no page for {} ms", ms(gap.length_ns()));
        Ok(())
    }

    /// Nor to the group of an address alone, which waits for no daemon that dies without a word.
    fn expect_floating_untouched(&self, since_ns: u64) -> Result<()> {
        let floating: IpAddr = FLOATING.parse()?;
        ensure!(self.alpha.first_removed(floating, since_ns).is_none(), "it left alpha");
        ensure!(self.beta.first_added(floating, 0).is_none(), "it came to beta");
        Ok(())
    }
}

/// What a node did with the group.
fn moved(cluster: &Cluster, node: &str, since_ns: u64) -> Result<Vec<String>> {
    const KINDS: [&str; 7] = [
        "takeover",
        "give-back",
        "group-started",
        "group-stopped",
        "double-owner",
        "node-dead",
        "custody-ended",
    ];
    let is = |it: &&Event| {
        KINDS.contains(&it.kind.as_str())
            && it.monotonic_ns >= since_ns
            && it.group.as_deref().is_none_or(|group| group == SITE)
    };
    let events = cluster.node(node)?.events()?;
    Ok(events.iter().filter(is).map(|it| format!("{}: {}", it.kind, it.message)).collect())
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_killed_daemon_that_is_back_in_time_goes_on_with_its_group() -> Result<()> {
    let _turn = turn_with_others();
    let mut scene = Scene::start(patient)?;
    for _ in 0..2 {
        let at_ns = scene.kill()?;
        let node = scene.cluster.node(BETA)?;
        node.wait_event("daemon-gone", at_ns, STEP)?;
        scene.restart(at_ns)?;
        scene.expect_untouched(at_ns)?;
        // Whoever waited for the daemon has stopped waiting, and nothing comes of it later.
        thread::sleep(PATIENCE);
        scene.expect_untouched(at_ns)?;
    }
    finish(scene.cluster)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_killed_daemon_that_stays_away_loses_its_group_after_daemon_deadtime() -> Result<()> {
    let _turn = turn_with_others();
    let mut scene = Scene::start(|_| {})?;
    let at_ns = scene.kill()?;
    scene.client.wait_answer(BETA, at_ns, STEP)?;
    wait_site(&mut scene.cluster, BETA)?;
    let removed_ns = scene.alpha.first_removed(address()?, at_ns).context("it stayed on alpha")?;
    let added_ns = scene.beta.first_added(address()?, at_ns).context("it never came to beta")?;
    println!("off after {} ms, on after {} ms", ms(removed_ns - at_ns), ms(added_ns - at_ns));
    ensure!(removed_ns <= added_ns, "beta had it before it was off alpha");
    ensure!(removed_ns - at_ns >= as_ns(WAITED - Duration::from_millis(250)), "off too early");
    let page = scene.client.answers().iter().rev().find(|it| &*it.node == ALPHA).cloned();
    let page = page.context("alpha never answered")?;
    ensure!(page.answered_ns > at_ns + as_ns(Duration::from_secs(1)), "the page went at once");
    ensure!(lives(scene.nginx), "nginx died with the daemon");

    // As after any death: what is left is stopped.
    scene.cluster.start()?;
    wait_site(&mut scene.cluster, ALPHA)?;
    ensure!(!lives(scene.nginx), "the nginx of before is still there");
    finish(scene.cluster)
}

/// A service that is not there any more makes an adoption an ordinary start.
#[test]
#[ignore = "needs root: network namespaces"]
fn what_is_not_whole_is_not_adopted() -> Result<()> {
    let _turn = turn_with_others();
    let mut scene = Scene::start(patient)?;
    let at_ns = scene.kill()?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(scene.nginx), Signal::SIGTERM)?;
    wait_for("nginx to end", || Ok(!lives(scene.nginx)))?;
    scene.cluster.node_mut(ALPHA)?.start()?;
    let node = scene.cluster.node(ALPHA)?;
    wait_for("the daemon", || Ok(node.status().is_ok()))?;
    node.wait_event("not-adopted", at_ns, STEP)?;
    scene.client.wait_answer(ALPHA, monotonic_ns(), STEP)?;
    wait_site(&mut scene.cluster, ALPHA)?;
    ensure!(term(&scene.cluster, ALPHA)? > scene.term, "the term is the old one");
    finish(scene.cluster)
}

/// Of two groups on one node, that of addresses moves at once and the other one waits.
#[test]
#[ignore = "needs root: network namespaces"]
fn addresses_move_at_once_while_services_wait() -> Result<()> {
    let _turn = turn_with_others();
    let mut scene = Scene::start(|plan| {
        plan.failback = false;
        patient(plan);
    })?;
    let floating: IpAddr = FLOATING.parse()?;
    let runs = |it: &ha_tests::bed::Status| it.runs_on(GROUP, ALPHA);
    scene.cluster.node(ALPHA)?.wait_until("the other group", STEP, runs)?;
    let at_ns = scene.kill()?;
    scene.beta.wait(floating, true, DAEMON_DEADTIME)?;
    let off_ns = scene.alpha.first_removed(floating, at_ns).context("it stayed on alpha")?;
    let on_ns = scene.beta.first_added(floating, at_ns).context("it never came to beta")?;
    ensure!(off_ns <= on_ns, "two had it");
    ensure!(on_ns - at_ns < as_ns(GAP_MAX), "it moved only after {} ms", ms(on_ns - at_ns));
    ensure!(scene.alpha.holds(address()?), "the group that waits has lost its address");
    scene.restart(at_ns)?;
    scene.expect_untouched(at_ns)?;
    let status = scene.cluster.node(ALPHA)?.status()?;
    ensure!(status.runs_on(GROUP, BETA), "the other group came back");
    finish(scene.cluster)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn announced_restarts_are_no_transition() -> Result<()> {
    let _turn = turn_with_others();
    let mut scene = Scene::start(|plan| {
        plan.keepalive = Duration::from_millis(10);
        plan.deadtime = Duration::from_millis(30);
        patient(plan);
    })?;
    let from_ns = monotonic_ns();
    for number in 0..RESTARTS {
        let at_ns = monotonic_ns();
        scene.cluster.node(ALPHA)?.hactl_done(&["detach"])?;
        scene.cluster.node_mut(ALPHA)?.wait_exit(STEP)?;
        scene.restart(at_ns)?;
        println!("{number}: back after {} ms", ms(monotonic_ns() - at_ns));
    }
    scene.expect_untouched(from_ns)?;
    scene.expect_floating_untouched(from_ns)?;
    finish(scene.cluster)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn upgrades_in_place_are_no_transition_and_touch_no_service() -> Result<()> {
    /// What a peer says that has seen one.
    const SEEN: [&str; 6] = [
        "daemon-gone",
        "node-left",
        "node-restarted",
        "node-returned",
        "link-dead",
        "connection-closed",
    ];
    let _turn = turn_with_others();
    let mut scene = Scene::start(|_| {})?;
    let from_ns = monotonic_ns();
    let (daemon, _) = scene.cluster.node(ALPHA)?.pids()?;
    for number in 0..RESTARTS {
        for name in [ALPHA, BETA] {
            let node = scene.cluster.node(name)?;
            let at_ns = node.signal(Signal::SIGUSR2)?;
            let event = node.wait_event("reexecuted", at_ns, STEP)?;
            println!("{number} {name}: {}", event.message);
        }
    }
    scene.expect_untouched(from_ns)?;
    scene.expect_floating_untouched(from_ns)?;
    ensure!(scene.cluster.node(ALPHA)?.pids()?.0 == daemon, "it is another process");
    for name in [ALPHA, BETA] {
        let node = scene.cluster.node(name)?;
        let mut seen = node.events()?;
        seen.retain(|it| it.monotonic_ns >= from_ns && SEEN.contains(&it.kind.as_str()));
        ensure!(seen.is_empty(), "{name}: {seen:?}");
    }
    let calls = moves(scene.cluster.node(BETA)?);
    ensure!(calls.is_empty(), "beta's services were touched: {calls:?}");
    finish(scene.cluster)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn an_announced_restart_that_never_ends_is_a_death() -> Result<()> {
    let _turn = turn_with_others();
    let mut scene = Scene::start(|_| {})?;
    let at_ns = scene.cluster.node(ALPHA)?.signal(Signal::SIGUSR1)?;
    scene.cluster.node_mut(ALPHA)?.wait_exit(STEP)?;
    scene.client.wait_answer(BETA, at_ns, STEP)?;
    for address in [address()?, FLOATING.parse()?] {
        scene.beta.wait(address, true, STEP)?;
        let off_ns = scene.alpha.first_removed(address, at_ns).context("it stayed on alpha")?;
        let on_ns = scene.beta.first_added(address, at_ns).context("it never came to beta")?;
        ensure!(off_ns <= on_ns, "two had {address}");
    }
    wait_site(&mut scene.cluster, BETA)?;
    scene.cluster.start()?;
    wait_site(&mut scene.cluster, ALPHA)?;
    finish(scene.cluster)
}

/// What could not be stopped before is no reason to adopt it: a group that was on its way is not whole.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_group_that_was_being_stopped_is_not_adopted() -> Result<()> {
    let _turn = turn_with_others();
    let mut scene = Scene::start(patient)?;
    misbehave(&scene.cluster, ALPHA, "first-stop-hangs")?;
    scene.cluster.node(ALPHA)?.hactl_done(&["disable", SITE])?;
    wait_for("the stop", || {
        Ok(moves(scene.cluster.node(ALPHA)?).iter().any(|call| call.starts_with("first stop")))
    })?;
    let at_ns = scene.kill()?;
    crate::support::behave(&scene.cluster, ALPHA, "first-stop-hangs")?;
    scene.cluster.node_mut(ALPHA)?.start()?;
    let node = scene.cluster.node(ALPHA)?;
    wait_for("the daemon", || Ok(node.status().is_ok()))?;
    node.wait_until("the rest stopped", STEP, |it| {
        it.group(SITE).is_some_and(|group| matches!(group.state.as_str(), "disabled" | "stopped"))
    })?;
    let adopted = node.events()?.iter().any(|it| {
        it.kind == "group-adopted" && it.group.as_deref() == Some(SITE) && it.monotonic_ns >= at_ns
    });
    ensure!(!adopted, "a group was adopted that was being stopped");
    finish(scene.cluster)
}
