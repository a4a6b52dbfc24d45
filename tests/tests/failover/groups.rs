//! Several groups on a pair, and groups of several addresses.

use anyhow::{Result, ensure};
use ha_tests::bed::{FLOATING_V6, GROUP, Plan, turn_with_others};
use ha_tests::observe::{Client, ClientOptions};

use crate::support::{
    ALPHA, BETA, LIFETIME_SLACK, STEP, Watch, finish, plan, started, takeovers, wait_runs,
};

const OTHER_GROUP: &str = "mail";
const OTHER_ADDRESS: &str = "198.51.100.20";

/// The standard group prefers alpha, a second one beta.
fn active_active() -> Plan {
    let more = format!(
        "\n[groups.{OTHER_GROUP}]\nnodes = [\"{BETA}\", \"{ALPHA}\"]\nresources = [\n  \
         {{ kind = \"address\", address = \"{OTHER_ADDRESS}/24\", interface = \"eth0\" }},\n]\n"
    );
    Plan { more, ..plan() }
}

#[test]
#[ignore = "needs root: network namespaces"]
fn two_active_nodes_take_over_for_each_other() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started(active_active())?;
    let other = Watch::of(&cluster, OTHER_ADDRESS.parse()?)?;
    wait_runs(&mut cluster, OTHER_GROUP, BETA)?;
    other.client.wait_answer(BETA, 0, STEP)?;
    for (dies, takes, group, moved) in
        [(ALPHA, BETA, GROUP, &watch), (BETA, ALPHA, OTHER_GROUP, &other)]
    {
        let stays = if dies == ALPHA { (OTHER_GROUP, &other) } else { (GROUP, &watch) };
        let at_ns = cluster.node(dies)?.kill_daemon()?;
        cluster.node_mut(dies)?.wait_exit(STEP)?;
        wait_runs(&mut cluster, group, takes)?;
        wait_runs(&mut cluster, stays.0, takes)?;
        moved.client.wait_answer(takes, at_ns, STEP)?;
        ensure!(moved.holders() == [takes] && stays.1.holders() == [takes], "not on {takes}");
        ensure!(stays.1.times_added(takes, at_ns)? == 0, "{} moved too", stays.0);
        cluster.start()?;
        wait_runs(&mut cluster, GROUP, ALPHA)?;
        wait_runs(&mut cluster, OTHER_GROUP, BETA)?;
        moved.monitor(takes)?.wait(moved.address, false, STEP)?;
        ensure!(moved.holders() == [dies] && stays.1.holders() == [takes], "no failback");
        for watch in [&watch, &other] {
            watch.expect_never_double(at_ns)?;
            watch.expect_answers_since(at_ns)?;
        }
    }
    drop(other);
    finish(cluster, watch)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_group_of_two_addresses_moves_as_a_whole() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started(Plan { floating_v6: true, failback: false, ..plan() })?;
    let second = FLOATING_V6.parse()?;
    let client = Client::start(&cluster.client()?, second, ClientOptions::default())?;
    client.wait_answer(ALPHA, 0, STEP)?;

    let at_ns = cluster.node(ALPHA)?.kill_daemon_and_keeper()?;
    cluster.node_mut(ALPHA)?.wait_exit(STEP)?;
    watch.expect_only(&mut cluster, BETA)?;
    client.wait_answer(BETA, at_ns, STEP)?;
    watch.client.wait_answer(BETA, at_ns, STEP)?;
    for address in [watch.address, second] {
        ensure!(cluster.node(BETA)?.has_address(address)?, "{address} is not on beta");
        let limit = cluster.plan.lifetime() + LIFETIME_SLACK;
        watch.monitor(ALPHA)?.wait(address, false, limit)?;
    }
    ensure!(takeovers(&mut cluster, GROUP, at_ns)? == 1, "it was taken more than once");

    cluster.node_mut(ALPHA)?.start()?;
    cluster.wait_settled(BETA)?;
    let at_ns = cluster.node_mut(BETA)?.stop()?;
    watch.expect_only(&mut cluster, ALPHA)?;
    client.wait_answer(ALPHA, at_ns, STEP)?;
    for address in [watch.address, second] {
        ensure!(cluster.node(ALPHA)?.has_address(address)?, "{address} is not on alpha");
        ensure!(!cluster.node(BETA)?.has_address(address)?, "{address} is still on beta");
    }
    finish(cluster, watch)
}
