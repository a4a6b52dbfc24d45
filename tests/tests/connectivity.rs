//! Ping targets on real packets: a router that answers one node and not the other, that dies, that
//! is a group of two; and pairs that lose each other (scenario H3). Nothing here measures how fast.

#[path = "failover/support.rs"]
#[expect(dead_code, reason = "the failover tests use the rest of it")]
mod support;

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use ha_tests::bed::{Cluster, Cut, GROUP, Plan, turn_with_others};
use ha_tests::clock::monotonic_ns;

use support::{ALPHA, BETA, CALM, STEP, Watch, events, finish, plan, takeovers, wait_node};

const ROUTER: &str = "router";
const ROUTER_V4: &str = "198.51.100.254";
const ROUTER_V6: &str = "2001:db8:1::fe";
/// An address of the service network that nobody has.
const NOBODY: &str = "198.51.100.253";
/// Well above damping (200 ms), deadping (300 ms) and everything that follows them.
const LONG: Duration = Duration::from_secs(3);

/// A pair that pings `members` as one target, with the group on alpha.
fn started(members: &[&str], change: impl FnOnce(&mut Plan)) -> Result<(Cluster, Watch)> {
    let mut plan = Plan {
        more: format!("\n[connectivity]\ntargets = {{ gateway = {members:?} }}\n"),
        web: false,
        ..plan()
    };
    change(&mut plan);
    let mut cluster = Cluster::build(plan)?;
    cluster.bed.host(ROUTER)?;
    let addresses = [format!("{ROUTER_V4}/24"), format!("{ROUTER_V6}/64")];
    cluster.bed.plug(ROUTER, "eth0", "svc", &addresses.each_ref().map(String::as_str))?;
    let watch = Watch::start(&cluster)?;
    cluster.start()?;
    watch.expect_only(&mut cluster, ALPHA)?;
    for node in [ALPHA, BETA] {
        cluster.node(node)?.wait_until("the router reached", STEP, |status| {
            status.nodes.len() == 2
                && (0..2).all(|node| status.raw["nodes"][node]["reached"] == 1)
                && status.raw["connectivity"]["targets"][0]["rtt_us"].is_u64()
        })?;
    }
    Ok((cluster, watch))
}

/// The router answers pings of this address no more, or again. Everything else goes on.
fn answer_pings(cluster: &Cluster, of: &str, answers: bool) -> Result<u64> {
    let at_ns = monotonic_ns();
    let operation = if answers { "del" } else { "add" };
    let (family, protocol) = if of.contains(':') { ("-6", "ipv6-icmp") } else { ("-4", "icmp") };
    let rule = [family, "rule", operation, "to", of, "ipproto", protocol, "blackhole"];
    cluster.bed.netns(ROUTER)?.ip(&rule)?;
    Ok(at_ns)
}

fn expect_no_takeover(cluster: &mut Cluster, watch: &Watch, from_ns: u64) -> Result<()> {
    watch.expect_only(cluster, ALPHA)?;
    ensure!(takeovers(cluster, GROUP, from_ns)? == 0, "it was taken over");
    watch.expect_never_double(from_ns)
}

/// H3, step 1.
fn moves_and(members: &[&str], of: &str, failback: bool) -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started(members, |plan| plan.failback = failback)?;
    let at_ns = answer_pings(&cluster, of, false)?;
    watch.expect_only(&mut cluster, BETA)?;
    for kind in ["ping-lost", "connectivity-moves-group"] {
        ensure!(events(&cluster, ALPHA, kind, at_ns)?.len() == 1, "no single {kind}");
    }
    ensure!(events(&cluster, BETA, "ping-lost", at_ns)?.is_empty(), "beta lost it, too");
    watch.expect_announced(&cluster, BETA, at_ns)?;

    let healed_ns = answer_pings(&cluster, of, true)?;
    cluster.node(ALPHA)?.wait_event("ping-back", healed_ns, STEP)?;
    thread::sleep(LONG);
    watch.expect_only(&mut cluster, if failback { ALPHA } else { BETA })?;
    let taken = takeovers(&mut cluster, GROUP, at_ns)?;
    ensure!(taken == if failback { 2 } else { 1 }, "taken {taken} times");
    watch.expect_never_double(at_ns)?;
    finish(cluster, watch)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn the_group_moves_from_a_node_without_connectivity_and_returns_with_failback() -> Result<()> {
    moves_and(&[ROUTER_V4], "198.51.100.1", true)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn the_group_moves_from_a_node_without_connectivity_and_stays_without_failback() -> Result<()> {
    moves_and(&[ROUTER_V4], "198.51.100.1", false)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn the_same_holds_for_ipv6() -> Result<()> {
    moves_and(&[ROUTER_V6], "2001:db8:1::1", true)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_ping_group_is_reached_by_its_only_member_that_answers() -> Result<()> {
    moves_and(&[NOBODY, ROUTER_V4], "198.51.100.1", true)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_ping_node_that_dies_moves_nothing() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started(&[ROUTER_V4], |_| {})?;
    let at_ns = cluster.bed.cut(ROUTER, "eth0", Cut::Middle)?;
    for node in [ALPHA, BETA] {
        cluster.node(node)?.wait_event("ping-lost", at_ns, STEP)?;
    }
    thread::sleep(LONG);
    expect_no_takeover(&mut cluster, &watch, at_ns)?;
    let healed_ns = cluster.bed.heal(ROUTER, "eth0")?;
    for node in [ALPHA, BETA] {
        cluster.node(node)?.wait_event("ping-back", healed_ns, STEP)?;
    }
    thread::sleep(LONG);
    expect_no_takeover(&mut cluster, &watch, at_ns)?;
    finish(cluster, watch)
}

/// A dead owner's addresses are asked for, and nobody answers.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_dead_owner_is_replaced_once_its_host_answers_no_more() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started(&[ROUTER_V4], |_| {})?;
    let at_ns = cluster.bed.cut_all(ALPHA, Cut::Middle)?;
    watch.monitor(BETA)?.wait(watch.address, true, STEP)?;
    ensure!(events(&cluster, BETA, "address-still-held", at_ns)?.is_empty(), "who answered?");
    // The owner that is cut off finds that out by itself, and clears the way before it is healed.
    watch.monitor(ALPHA)?.wait(watch.address, false, STEP)?;
    ensure!(events(&cluster, ALPHA, "isolated", at_ns)?.len() == 1, "no single isolated");
    let healed_ns = cluster.bed.heal_all(ALPHA)?;
    cluster.wait_settled(ALPHA)?;
    watch.expect_only(&mut cluster, ALPHA)?;
    ensure!(events(&cluster, ALPHA, "double-owner", at_ns)?.is_empty(), "two owners met");
    watch.expect_never_double(healed_ns)?;
    finish(cluster, watch)
}

/// The survivor is the one that is cut off: without an answer of the ping node since its peer's last
/// heartbeat it takes nothing.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_node_that_is_cut_off_from_everything_takes_nothing() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started(&[ROUTER_V4], |_| {})?;
    let at_ns = cluster.bed.cut_all(BETA, Cut::Middle)?;
    wait_node(&cluster, BETA, ALPHA, "dead")?;
    cluster.node(BETA)?.wait_event("takeover-held", at_ns, STEP)?;
    thread::sleep(LONG);
    ensure!(watch.holders() == [ALPHA], "on {:?}", watch.holders());
    cluster.bed.heal_all(BETA)?;
    cluster.wait_settled(ALPHA)?;
    expect_no_takeover(&mut cluster, &watch, at_ns)?;
    finish(cluster, watch)
}

/// H3, step 3: heartbeats over a network of their own, whose interfaces go down on both nodes. Both
/// reach the ping node; the service network tells that the owner lives.
fn heartbeat_interface_down(failback: bool, floating_v6: bool, cut: Cut) -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started(&[ROUTER_V4], |plan| {
        plan.link_svc = false;
        plan.failback = failback;
        plan.floating_v6 = floating_v6;
    })?;
    let at_ns = cluster.bed.cut(ALPHA, "hb0", cut)?;
    cluster.bed.cut(BETA, "hb0", cut)?;
    wait_node(&cluster, ALPHA, BETA, "dead")?;
    wait_node(&cluster, BETA, ALPHA, "dead")?;
    let held = cluster.node(BETA)?.wait_event("address-still-held", at_ns, STEP)?;
    ensure!(held.message.contains(cluster.bed.mac(ALPHA, "eth0")?), "{}", held.message);
    thread::sleep(LONG * 2);
    ensure!(watch.holders() == [ALPHA], "on {:?}", watch.holders());
    watch.expect_never_double(at_ns)?;

    cluster.bed.heal(ALPHA, "hb0")?;
    cluster.bed.heal(BETA, "hb0")?;
    cluster.wait_settled(ALPHA)?;
    thread::sleep(CALM);
    expect_no_takeover(&mut cluster, &watch, at_ns)?;
    finish(cluster, watch)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn heartbeat_interfaces_down_on_both_leave_one_owner() -> Result<()> {
    heartbeat_interface_down(true, false, Cut::AtNode)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_broken_heartbeat_network_leaves_one_owner_of_both_addresses() -> Result<()> {
    heartbeat_interface_down(false, true, Cut::Middle)
}

/// ... and when the owner then dies, its address is answered for no more.
#[test]
#[ignore = "needs root: network namespaces"]
fn an_owner_that_dies_while_nobody_hears_it_is_replaced() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started(&[ROUTER_V4], |plan| plan.link_svc = false)?;
    let at_ns = cluster.bed.cut(ALPHA, "hb0", Cut::Middle)?;
    cluster.node(BETA)?.wait_event("address-still-held", at_ns, STEP)?;
    let killed_ns = cluster.node(ALPHA)?.kill_daemon()?;
    cluster.node_mut(ALPHA)?.wait_exit(STEP)?;
    watch.monitor(BETA)?.wait(watch.address, true, STEP)?;
    watch.expect_only(&mut cluster, BETA)?;
    ensure!(events(&cluster, BETA, "takeover", killed_ns)?.len() == 1, "no single takeover");

    // Started again, it hears nobody, and beta answers for the address.
    cluster.node_mut(ALPHA)?.start()?;
    cluster.node_mut(ALPHA)?.wait_ready(STEP)?;
    cluster.node(ALPHA)?.wait_event("address-still-held", killed_ns, STEP)?;
    thread::sleep(LONG);
    watch.expect_never_double(at_ns)?;
    ensure!(watch.holders() == [BETA], "on {:?}", watch.holders());
    cluster.bed.heal(ALPHA, "hb0")?;
    cluster.wait_settled(ALPHA)?;
    watch.expect_only(&mut cluster, ALPHA)?;
    watch.expect_never_double(at_ns)?;
    finish(cluster, watch)
}

/// Both start without hearing each other: of two that ask at the same moment, one takes.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_pair_that_starts_without_hearing_each_other_has_one_owner() -> Result<()> {
    let _turn = turn_with_others();
    let (mut cluster, watch) = started(&[ROUTER_V4], |plan| plan.link_svc = false)?;
    for node in [ALPHA, BETA] {
        cluster.node_mut(node)?.stop()?;
    }
    let at_ns = cluster.bed.cut(ALPHA, "hb0", Cut::Middle)?;
    for node in [ALPHA, BETA] {
        cluster.node_mut(node)?.start()?;
    }
    for node in [ALPHA, BETA] {
        cluster.node_mut(node)?.wait_ready(STEP)?;
    }
    thread::sleep(LONG * 3);
    watch.expect_never_double(at_ns)?;
    ensure!(watch.holders().len() == 1, "on {:?}", watch.holders());
    cluster.bed.heal(ALPHA, "hb0")?;
    cluster.wait_settled(ALPHA)?;
    watch.expect_never_double(at_ns)?;
    finish(cluster, watch)
}
