//! H3: nginx with ping nodes and ipfail.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ha_tests::bed::Cut;

use crate::support::{FLOATING, ROUTER, ROUTER_ADDRESS, Times, World};

const LITERAL: Times = Times {
    keepalive: "2",
    warntime: "10",
    deadtime: "30",
    initdead: "120",
    patience: Duration::from_secs(90),
};
const SHORT: Times = Times {
    keepalive: "200ms",
    warntime: "700ms",
    deadtime: "2",
    initdead: "10",
    patience: Duration::from_secs(30),
};

const NODES: [&str; 2] = ["masternginx", "slavenginx"];

fn world(times: Times, failback: &str, more: &str) -> Result<World> {
    let mut world = World::new(&NODES)?;
    for (node, peer) in NODES.iter().zip(["192.0.2.12", "192.0.2.11"]) {
        let Times { keepalive, deadtime, warntime, initdead, .. } = times;
        let directory = world.node(node)?.directory().display().to_string();
        let ha_cf = format!(
            "debugfile {directory}/ha-debug\nlogfile {directory}/ha-log\nlogfacility local0\n\
             keepalive {keepalive}\ndeadtime {deadtime}\nwarntime {warntime}\ninitdead {initdead}\n\
             udpport 694\nucast eth1 {peer}\n{more}auto_failback {failback}\n\
             node masternginx\nnode slavenginx\nping {ROUTER_ADDRESS}\n\
             respawn hacluster /usr/lib64/heartbeat/ipfail\n"
        );
        let resources = format!("masternginx {FLOATING}/24/eth0:0 nginx\n");
        world.configure(node, &ha_cf, &resources, "auth 1\n1 crc\n")?;
    }
    world.start()?;
    world.expect_page("masternginx", times.patience)?;
    wait_reached(&world, times)?;
    Ok(world)
}

/// Both nodes see the ping node, and know so of each other.
fn wait_reached(world: &World, times: Times) -> Result<()> {
    for node in NODES {
        world.node(node)?.wait_until("the ping node reached", times.patience, |status| {
            status.raw["connectivity"]["targets"][0]["reached"] == true
        })?;
    }
    Ok(())
}

/// The ping node answers pings of `node` no more, or again; everything else goes on.
fn icmp(world: &World, node: &str, dropped: bool) -> Result<()> {
    let addresses = NODES.iter().zip(["198.51.100.11", "198.51.100.12"]);
    let (_, address) =
        addresses.into_iter().find(|(name, _)| **name == node).context("no such node")?;
    let operation = if dropped { "add" } else { "del" };
    let rule = ["-4", "rule", operation, "to", address, "ipproto", "icmp", "blackhole"];
    world.bed.netns(ROUTER)?.ip(&rule)?;
    Ok(())
}

/// Step 1: the active node loses the ping node, its peer does not; then it heals.
fn connectivity(times: Times, failback: &str, after: &str) -> Result<()> {
    let world = world(times, failback, "")?;
    icmp(&world, "masternginx", true)?;
    world.expect_page("slavenginx", times.patience)?;
    icmp(&world, "masternginx", false)?;
    wait_reached(&world, times)?;
    world.expect_page(after, times.patience)?;
    world.expect_never_double()?;
    world.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn lost_connectivity_moves_the_group_and_failback_returns_it() -> Result<()> {
    connectivity(SHORT, "on", "masternginx")
}

#[test]
#[ignore = "needs root: network namespaces"]
fn lost_connectivity_with_the_literal_times() -> Result<()> {
    connectivity(LITERAL, "on", "masternginx")
}

#[test]
#[ignore = "needs root: network namespaces"]
fn without_failback_it_stays_where_it_went() -> Result<()> {
    connectivity(SHORT, "off", "slavenginx")
}

/// The ping node itself dies: both lose it, and nothing moves.
#[test]
#[ignore = "needs root: network namespaces"]
fn the_death_of_the_ping_node_moves_nothing() -> Result<()> {
    let world = world(SHORT, "on", "")?;
    world.bed.cut(ROUTER, "eth0", Cut::Middle)?;
    for node in NODES {
        world.node(node)?.wait_until("the ping node lost", SHORT.patience, |status| {
            status.raw["connectivity"]["targets"][0]["reached"] == false
        })?;
    }
    world.expect_page("masternginx", SHORT.patience)?;
    let events = world.node("slavenginx")?.events()?;
    ensure!(events.iter().all(|event| event.kind != "takeover"), "it moved: {events:?}");
    world.expect_never_double()?;
    world.finish()
}

/// Step 2: the daemon on the active node is stopped, then started.
#[test]
#[ignore = "needs root: network namespaces"]
fn stopped_and_started_again() -> Result<()> {
    let mut world = world(SHORT, "on", "")?;
    world.node_mut("masternginx")?.stop()?;
    world.expect_page("slavenginx", SHORT.patience)?;
    world.node_mut("masternginx")?.start()?;
    world.expect_page("masternginx", SHORT.patience)?;
    world.expect_never_double()?;
    world.finish()
}

/// Step 3: the heartbeat interface goes down on both nodes; a second path keeps the address in one
/// place.
fn heartbeat_interface_down(more: &str, times: Times) -> Result<()> {
    let world = world(times, "on", more)?;
    for node in NODES {
        world.bed.cut(node, "eth1", Cut::AtNode)?;
    }
    // Long enough for every verdict that could fall.
    std::thread::sleep(Duration::from_secs(8));
    ensure!(world.holders()? == ["masternginx"], "the address is on {:?}", world.holders()?);
    world.expect_never_double()?;
    for node in NODES {
        world.bed.heal(node, "eth1")?;
    }
    world.expect_page("masternginx", times.patience)?;
    world.expect_never_double()?;
    world.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn heartbeat_interface_down_with_a_second_network() -> Result<()> {
    heartbeat_interface_down("bcast eth0\n", SHORT)
}

/// Nothing but the service network, on which the address itself answers, tells them apart.
#[test]
#[ignore = "needs root: network namespaces"]
fn heartbeat_interface_down_with_the_ping_node_only() -> Result<()> {
    heartbeat_interface_down("", SHORT)
}
