//! Three nodes in order of preference.

use std::thread;

use anyhow::{Result, ensure};
use ha_tests::bed::{Cut, GROUP, Plan, turn_with_others};
use ha_tests::clock::monotonic_ns;

use crate::support::{
    ALPHA, BETA, CALM, GAMMA, LIFETIME_SLACK, STEP, finish, plan, started, takeovers, wait_node,
};

fn three() -> Plan {
    Plan { nodes: [ALPHA, BETA, GAMMA].map(str::to_owned).to_vec(), ..plan() }
}

#[test]
#[ignore = "needs root: network namespaces"]
fn the_next_preferred_of_three_takes_over_and_the_first_gets_it_back() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started(three())?;
    let start_ns = monotonic_ns();
    for (dies, takes) in [(ALPHA, BETA), (BETA, GAMMA)] {
        let at_ns = cluster.node(dies)?.kill_daemon_and_keeper()?;
        cluster.node_mut(dies)?.wait_exit(STEP)?;
        watch.client.wait_answer(takes, at_ns, STEP)?;
        let limit = cluster.plan.lifetime() + LIFETIME_SLACK;
        watch.monitor(dies)?.wait(watch.address, false, limit)?;
        watch.expect_only(&mut cluster, takes)?;
        ensure!(takeovers(&mut cluster, GROUP, at_ns)? == 1, "more than one took it");
    }
    let back_ns = monotonic_ns();
    let alpha = cluster.node_mut(ALPHA)?;
    alpha.start()?;
    alpha.wait_ready(STEP)?;
    watch.expect_only(&mut cluster, ALPHA)?;
    ensure!(watch.times_added(BETA, back_ns)? == 0, "it passed by beta, which is dead");
    watch.expect_never_double(back_ns)?;
    watch.expect_answers_since(start_ns)?;
    // beta comes back last: it is not the first, and nothing moves.
    cluster.start()?;
    thread::sleep(CALM);
    watch.expect_only(&mut cluster, ALPHA)?;
    ensure!(takeovers(&mut cluster, GROUP, back_ns)? == 1, "beta's return moved it");
    finish(cluster, watch)
}

/// The owner is the one that is cut off: two of three go on together.
#[test]
#[ignore = "needs root: network namespaces"]
fn one_owner_is_left_after_the_isolated_one_of_three_comes_back() -> Result<()> {
    let _turn = turn_with_others();
    for failback in [true, false] {
        let (mut cluster, watch) = started(Plan { failback, ..three() })?;
        let at_ns = cluster.bed.cut_all(ALPHA, Cut::Middle)?;
        watch.client.wait_answer(BETA, at_ns, STEP)?;
        wait_node(&cluster, GAMMA, ALPHA, "dead")?;
        thread::sleep(CALM);
        ensure!(watch.holders() == [ALPHA, BETA], "on {:?}", watch.holders());
        let healed_ns = cluster.bed.heal_all(ALPHA)?;
        let owner = if failback { ALPHA } else { BETA };
        cluster.wait_settled(owner)?;
        watch.expect_only(&mut cluster, owner)?;
        watch.expect_announced(&cluster, owner, healed_ns)?;
        watch.client.wait_answer(owner, monotonic_ns(), STEP)?;
        ensure!(watch.times_added(GAMMA, 0)? == 0, "gamma had it");
        watch.expect_answers_since(at_ns)?;
        finish(cluster, watch)?;
    }
    Ok(())
}

/// The one that is cut off owns nothing: alone it takes the group (`on_doubt = "take"`, no
/// arbiter), and after healing there is one owner.
#[test]
#[ignore = "needs root: network namespaces"]
fn one_owner_is_left_after_the_last_of_three_was_isolated() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started(three())?;
    let at_ns = cluster.bed.cut_all(GAMMA, Cut::Middle)?;
    watch.monitor(GAMMA)?.wait(watch.address, true, STEP)?;
    thread::sleep(CALM);
    ensure!(watch.holders() == [ALPHA, GAMMA], "on {:?}", watch.holders());
    ensure!(watch.client.first_answer(GAMMA, at_ns).is_none(), "gamma answered");
    cluster.bed.heal_all(GAMMA)?;
    cluster.wait_settled(ALPHA)?;
    watch.expect_only(&mut cluster, ALPHA)?;
    watch.client.wait_answer(ALPHA, monotonic_ns(), STEP)?;
    watch.expect_answers_since(at_ns)?;
    ensure!(watch.times_added(BETA, 0)? == 0, "beta had it");
    finish(cluster, watch)
}
