//! Cables break and heal: a pair of nodes.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use ha_tests::bed::{Cluster, Cut, Event, GROUP, Reception, turn_with_others};
use ha_tests::clock::monotonic_ns;
use ha_tests::on_both_receptions;

use crate::support::{
    ALPHA, BETA, CALM, STEP, events, finish, nothing_moved, started_by, takeovers, wait_node,
};

on_both_receptions! {
    an_owner_cut_off_is_replaced_and_the_last_taker_stays_owner_after_healing,
    an_owner_cut_off_gets_the_group_back_after_healing_with_automatic_failback,
    an_owner_whose_interfaces_go_down_gives_the_group_up_itself,
    an_owner_whose_cables_are_pulled_gives_the_group_up_itself,
    a_broken_heartbeat_link_beside_a_whole_one_moves_nothing,
    a_survivor_whose_interfaces_go_down_takes_nothing_then_or_after_healing,
    a_survivor_cut_off_in_the_middle_takes_the_group_and_one_owner_is_left_after_healing,
}

fn an_owner_cut_off_is_replaced_and_the_last_taker_stays_owner_after_healing(
    via: Reception,
) -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started_by(via, |plan| plan.failback = false)?;
    let at_ns = cluster.bed.cut_all(ALPHA, Cut::Middle)?;
    watch.client.wait_answer(BETA, at_ns, STEP)?;
    ensure!(events(&cluster, BETA, "node-dead", at_ns)?.len() == 1, "no single node-dead");
    thread::sleep(CALM);
    // Nothing is configured that could tell alpha; nobody reaches it there.
    ensure!(watch.holders() == [ALPHA, BETA], "on {:?}", watch.holders());

    let healed_ns = cluster.bed.heal_all(ALPHA)?;
    watch.expect_only(&mut cluster, BETA)?;
    ensure!(events(&cluster, ALPHA, "double-owner", healed_ns)?.len() == 1, "no double-owner");
    watch.expect_announced(&cluster, BETA, healed_ns)?;
    watch.client.wait_answer(BETA, monotonic_ns(), STEP)?;
    watch.expect_answers_since(at_ns)?;
    ensure!(takeovers(&mut cluster, GROUP, at_ns)? == 1, "it was taken more than once");
    finish(cluster, watch)
}

fn an_owner_cut_off_gets_the_group_back_after_healing_with_automatic_failback(
    via: Reception,
) -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started_by(via, |_| {})?;
    let at_ns = cluster.bed.cut_all(ALPHA, Cut::Middle)?;
    watch.client.wait_answer(BETA, at_ns, STEP)?;
    let healed_ns = cluster.bed.heal_all(ALPHA)?;
    cluster.wait_settled(ALPHA)?;
    watch.expect_only(&mut cluster, ALPHA)?;
    watch.expect_announced(&cluster, ALPHA, healed_ns)?;
    watch.client.wait_answer(ALPHA, monotonic_ns(), STEP)?;
    watch.expect_answers_since(at_ns)?;
    finish(cluster, watch)
}

fn an_owner_whose_interfaces_go_down_gives_the_group_up_itself(via: Reception) -> Result<()> {
    owner_down(via, Cut::AtNode)
}

fn an_owner_whose_cables_are_pulled_gives_the_group_up_itself(via: Reception) -> Result<()> {
    owner_down(via, Cut::Cable)
}

fn owner_down(via: Reception, cut: Cut) -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started_by(via, |_| {})?;
    let at_ns = cluster.bed.cut_all(ALPHA, cut)?;
    watch.monitor(ALPHA)?.wait(watch.address, false, STEP)?;
    ensure!(events(&cluster, ALPHA, "abandon", at_ns)?.len() == 1, "no single abandon");
    watch.client.wait_answer(BETA, at_ns, STEP)?;
    watch.monitor(BETA)?.wait(watch.address, true, STEP)?;
    thread::sleep(CALM);
    ensure!(watch.holders() == [BETA], "on {:?}", watch.holders());
    ensure!(takeovers(&mut cluster, GROUP, at_ns)? == 1, "it was taken more than once");

    cluster.bed.heal_all(ALPHA)?;
    cluster.wait_settled(ALPHA)?;
    watch.expect_only(&mut cluster, ALPHA)?;
    watch.expect_never_double(at_ns)?;
    expect_no_double_owner(&cluster)?;
    watch.client.wait_answer(ALPHA, monotonic_ns(), STEP)?;
    watch.expect_answers_since(at_ns)?;
    finish(cluster, watch)
}

/// No node found that it owned the group beside another one.
fn expect_no_double_owner(cluster: &Cluster) -> Result<()> {
    for node in [ALPHA, BETA] {
        let found = events(cluster, node, "double-owner", 0)?;
        ensure!(found.is_empty(), "{node}: {found:?}");
    }
    Ok(())
}

fn a_broken_heartbeat_link_beside_a_whole_one_moves_nothing(via: Reception) -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started_by(via, |_| {})?;
    let start_ns = monotonic_ns();
    for cut in [Cut::Middle, Cut::AtNode] {
        let at_ns = cluster.bed.cut(BETA, "hb0", cut)?;
        for (node, peer) in [(ALPHA, BETA), (BETA, ALPHA)] {
            cluster.node(node)?.wait_until("hb0 dead, the rest up", STEP, |status| {
                let link =
                    |name, state| status.link(peer, name).is_some_and(|it| it.state == state);
                link("hb0", "dead") && link("svc", "up") && status.node_state(peer) == "up"
            })?;
            let dead = cluster.node(node)?.wait_event("link-dead", at_ns, STEP)?;
            ensure!(dead.link.as_deref() == Some("hb0"), "{dead:?}");
        }
        thread::sleep(CALM);
        let healed_ns = cluster.bed.heal(BETA, "hb0")?;
        cluster.wait_settled(ALPHA)?;
        let up = events(&cluster, ALPHA, "link-up", healed_ns)?;
        let of_hb0 = |it: &Event| it.link.as_deref() == Some("hb0");
        ensure!(up.iter().any(of_hb0), "{up:?}");
        if via == Reception::Xdp {
            let dead = events(&cluster, ALPHA, "link-dead", at_ns)?;
            ensure!(dead.iter().all(of_hb0), "{dead:?}");
            ensure!(events(&cluster, ALPHA, "node-dead", at_ns)?.is_empty(), "it was all links");
        }
    }
    nothing_moved(&mut cluster, &watch, start_ns)?;
    finish(cluster, watch)
}

/// Without its service interface beta could serve nobody, so it takes nothing; and when it comes
/// back it hears first whether the owner still lives.
fn a_survivor_whose_interfaces_go_down_takes_nothing_then_or_after_healing(
    via: Reception,
) -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started_by(via, |_| {})?;
    let start_ns = monotonic_ns();
    cluster.bed.cut_all(BETA, Cut::AtNode)?;
    wait_node(&cluster, ALPHA, BETA, "dead")?;
    wait_node(&cluster, BETA, ALPHA, "dead")?;
    thread::sleep(CALM);
    cluster.bed.heal_all(BETA)?;
    cluster.wait_settled(ALPHA)?;
    nothing_moved(&mut cluster, &watch, start_ns)?;
    expect_no_double_owner(&cluster)?;
    finish(cluster, watch)
}

/// `on_doubt = "take"` without an arbiter: cut off, beta takes the group, where nobody reaches it.
/// After healing the later ownership (the higher term) wins, which is beta's, although it was beta
/// that was cut off; with manual failback the group therefore ends there.
fn a_survivor_cut_off_in_the_middle_takes_the_group_and_one_owner_is_left_after_healing(
    via: Reception,
) -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started_by(via, |plan| plan.failback = false)?;
    let at_ns = cluster.bed.cut_all(BETA, Cut::Middle)?;
    watch.monitor(BETA)?.wait(watch.address, true, STEP)?;
    thread::sleep(CALM);
    ensure!(watch.holders() == [ALPHA, BETA], "on {:?}", watch.holders());
    ensure!(watch.client.first_answer(BETA, at_ns).is_none(), "beta answered");
    watch.client.wait_answer(ALPHA, monotonic_ns(), STEP)?;

    let healed_ns = cluster.bed.heal_all(BETA)?;
    watch.expect_only(&mut cluster, BETA)?;
    watch.expect_announced(&cluster, BETA, healed_ns)?;
    watch.client.wait_answer(BETA, monotonic_ns(), STEP + Duration::from_secs(1))?;
    watch.expect_answers_since(at_ns)?;
    ensure!(takeovers(&mut cluster, GROUP, at_ns)? == 1, "it was taken more than once");
    finish(cluster, watch)
}
