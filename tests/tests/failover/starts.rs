//! Starts: together, alone, again, and on hosts that are not as they should be.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ha_tests::bed::{AUTHKEYS, Cluster, FLOATING, GROUP, Reception, turn_with_others};
use ha_tests::clock::{as_ns, monotonic_ns, ms};
use ha_tests::on_both_receptions;

use crate::support::{
    ALPHA, BETA, CALM, STEP, Watch, events, finish, plan, plan_by, started_by, takeovers,
};

/// Ten deadtimes, at least 1 s (docs/configuration.md).
const INITDEAD: Duration = Duration::from_secs(2);

on_both_receptions! {
    two_nodes_started_at_once_take_the_group_once,
    a_node_alone_takes_the_group_after_initdead_and_not_before,
    automatic_failback_returns_the_group_and_manual_failback_leaves_it,
}

fn two_nodes_started_at_once_take_the_group_once(via: Reception) -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started_by(via, |_| {})?;
    thread::sleep(INITDEAD + CALM);
    watch.expect_only(&mut cluster, ALPHA)?;
    ensure!(takeovers(&mut cluster, GROUP, 0)? == 1, "it was taken more than once");
    ensure!(watch.times_added(ALPHA, 0)? == 1, "the address came to alpha more than once");
    ensure!(watch.times_added(BETA, 0)? == 0, "the address came to beta");
    finish(cluster, watch)
}

fn a_node_alone_takes_the_group_after_initdead_and_not_before(via: Reception) -> Result<()> {
    let _turn = turn_with_others();
    let mut cluster = Cluster::build(plan_by(via))?;
    let watch = Watch::start(&cluster)?;
    let start_ns = monotonic_ns();
    let beta = cluster.node_mut(BETA)?;
    beta.start()?;
    beta.wait_ready(STEP)?;
    let taken = beta.wait_event("takeover", 0, STEP)?;
    let after_ns = taken.monotonic_ns - start_ns;
    ensure!(after_ns >= as_ns(INITDEAD), "taken after {} ms already", ms(after_ns));
    watch.expect_only(&mut cluster, BETA)?;
    watch.client.wait_answer(BETA, 0, STEP)?;
    let dead = events(&cluster, BETA, "node-dead", 0)?;
    ensure!(dead.len() == 1 && dead[0].message.contains("initdead"), "{dead:?}");
    finish(cluster, watch)
}

fn automatic_failback_returns_the_group_and_manual_failback_leaves_it(
    via: Reception,
) -> Result<()> {
    let _turn = turn_with_others();
    for failback in [true, false] {
        let (mut cluster, watch) = started_by(via, |plan| plan.failback = failback)?;
        let at_ns = cluster.node_mut(ALPHA)?.stop()?;
        watch.expect_only(&mut cluster, BETA)?;
        let alpha = cluster.node_mut(ALPHA)?;
        alpha.start()?;
        alpha.wait_ready(STEP)?;
        let owner = if failback { ALPHA } else { BETA };
        cluster.wait_settled(owner)?;
        thread::sleep(CALM);
        watch.expect_only(&mut cluster, owner)?;
        let given = events(&cluster, BETA, "give-back", at_ns)?;
        ensure!(given.len() == usize::from(failback), "failback {failback}: {given:?}");
        watch.expect_never_double(at_ns)?;
        watch.expect_answers_since(at_ns)?;
        finish(cluster, watch)?;
    }
    Ok(())
}

/// Something else (an administrator, another product, a dead instance) left it on both nodes.
#[test]
#[ignore = "needs root: network namespaces"]
fn an_address_that_is_there_before_the_start_is_purged_and_owned_by_one() -> Result<()> {
    let _turn = turn_with_others();
    let mut cluster = Cluster::build(plan())?;
    let watch = Watch::start(&cluster)?;
    for node in &cluster.nodes {
        node.netns().ip(&["address", "add", &format!("{FLOATING}/24"), "dev", "eth0"])?;
        watch.monitor(node.name())?.wait(watch.address, true, STEP)?;
    }
    let start_ns = monotonic_ns();
    cluster.start()?;
    watch.expect_only(&mut cluster, ALPHA)?;
    for node in &cluster.nodes {
        let monitor = watch.monitor(node.name())?;
        monitor.first_removed(watch.address, start_ns).context("it was not purged")?;
        let log = node.log_tail(usize::MAX);
        ensure!(log.contains(&format!("removed {FLOATING}/24 from eth0")), "log: {log}");
    }
    ensure!(watch.times_added(BETA, start_ns)? == 0, "beta had it again");
    watch.client.wait_answer(ALPHA, start_ns, STEP)?;
    finish(cluster, watch)
}

/// The service interface of the preferred node comes up long after the daemon.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_node_without_the_interface_of_the_address_leaves_the_group_to_the_other() -> Result<()> {
    let _turn = turn_with_others();
    let mut cluster = Cluster::build(plan())?;
    cluster.bed.plug(BETA, "pub0", "svc", &["198.51.100.12/24"])?;
    for node in &cluster.nodes {
        let text = cluster.plan.config(&node.authkeys_path());
        let (links, groups) = text.split_once("[groups.").context("no group")?;
        let groups = groups.replace("\"eth0\"", "\"pub0\"");
        node.configure(&format!("{links}[groups.{groups}"), AUTHKEYS)?;
    }
    let watch = Watch::start(&cluster)?;
    for node in &mut cluster.nodes {
        node.start()?;
    }
    for node in &mut cluster.nodes {
        node.wait_ready(STEP)?;
    }
    cluster.wait_settled(BETA)?;
    watch.expect_only(&mut cluster, BETA)?;
    ensure!(watch.times_added(ALPHA, 0)? == 0, "alpha had it");

    let plugged_ns = monotonic_ns();
    cluster.bed.plug(ALPHA, "pub0", "svc", &["198.51.100.11/24"])?;
    cluster.wait_settled(ALPHA)?;
    watch.expect_only(&mut cluster, ALPHA)?;
    ensure!(!events(&cluster, ALPHA, "interface-up", plugged_ns)?.is_empty(), "no interface-up");
    watch.expect_never_double(0)?;
    finish(cluster, watch)
}
