//! H1: two nodes, one service, one floating address, heartbeats over the network.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::support::{FLOATING, Times, World};

/// As they stand in the files.
const LITERAL: Times = Times {
    keepalive: "2",
    warntime: "10",
    deadtime: "30",
    initdead: "120",
    // Nothing dies in this procedure: nobody has to wait for deadtime.
    patience: Duration::from_secs(20),
};
const SHORT: Times = Times {
    keepalive: "100ms",
    warntime: "500ms",
    deadtime: "1500ms",
    initdead: "10",
    patience: Duration::from_secs(20),
};

const NODES: [&str; 2] = ["master", "slaver"];
const KEYS_CRC: &str = "auth 1\n1 crc\n";

fn ha_cf(directory: &str, times: Times, medium: &str, failback: &str) -> String {
    let Times { keepalive, deadtime, warntime, initdead, .. } = times;
    format!(
        "debugfile {directory}/ha-debug\nlogfile   {directory}/ha-log\nlogfacility local0\n\
         keepalive {keepalive}\ndeadtime {deadtime}\nwarntime {warntime}\ninitdead {initdead}\n\
         udpport 694\n{medium}\nauto_failback {failback}\nnode master\nnode slaver\n"
    )
}

/// `medium`: the line of each node, since `ucast` names the other one.
fn world(times: Times, media: [&str; 2], keys: &str, failback: &str) -> Result<World> {
    let mut world = World::new(&NODES)?;
    for (node, medium) in NODES.iter().zip(media) {
        let directory = world.node(node)?.directory().display().to_string();
        let ha_cf = ha_cf(&directory, times, medium, failback);
        world.configure(node, &ha_cf, &format!("master {FLOATING} httpd\n"), keys)?;
    }
    world.start()?;
    world.expect_page("master", times.patience)?;
    Ok(world)
}

/// Start both, the page is master's; stop master, it is slaver's; start master, it is master's again.
fn procedure(times: Times, media: [&str; 2], keys: &str) -> Result<()> {
    let mut world = world(times, media, keys, "on")?;
    let from = world.log_length("slaver")?;
    world.node_mut("master")?.stop()?;
    world.expect_page("slaver", times.patience)?;
    world.node_mut("master")?.start()?;
    world.expect_page("master", times.patience)?;
    world.expect_never_double()?;
    let story = [
        "Received shutdown notice from 'master'",
        "Resources being acquired from master",
        "Heartbeat restart on node master",
    ];
    world.expect_log("slaver", from, &story)?;
    let log = world.node("slaver")?.directory().join("ha-log");
    let text = std::fs::read_to_string(&log)?;
    ensure!(text.contains("Resources being acquired"), "logfile tells nothing: {text}");
    world.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn broadcast_with_the_literal_times() -> Result<()> {
    procedure(LITERAL, ["bcast eth1"; 2], KEYS_CRC)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn broadcast() -> Result<()> {
    procedure(SHORT, ["bcast eth1"; 2], KEYS_CRC)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn multicast_and_sha1() -> Result<()> {
    procedure(SHORT, ["mcast eth1 225.0.0.1 694 1 0"; 2], "auth 2\n2 sha1 HI!\n")
}

#[test]
#[ignore = "needs root: network namespaces"]
fn unicast_and_md5() -> Result<()> {
    let media = ["ucast eth1 192.0.2.12", "ucast eth1 192.0.2.11"];
    procedure(SHORT, media, "auth 3\n3 md5 Hello!\n")
}

#[test]
#[ignore = "needs root: network namespaces"]
fn all_kinds_of_network_links_at_once() -> Result<()> {
    let media = ["bcast eth1\nmcast eth0 225.0.0.1 694 1 0\nucast eth0 198.51.100.12", ""];
    let other = media[0].replace(".12", ".11");
    procedure(SHORT, [media[0], &other], KEYS_CRC)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn without_failback_it_stays_until_an_operator_moves_it() -> Result<()> {
    let mut world = world(SHORT, ["bcast eth1"; 2], KEYS_CRC, "off")?;
    world.node_mut("master")?.stop()?;
    world.expect_page("slaver", SHORT.patience)?;
    world.node_mut("master")?.start()?;
    let back = |status: &ha_tests::bed::Status| status.node_state("master") == "up";
    world.node("slaver")?.wait_until("master up", SHORT.patience, back)?;
    world.expect_page("slaver", SHORT.patience)?;
    world.node("slaver")?.hactl_done(&["standby"])?;
    world.expect_page("master", SHORT.patience)?;
    world.expect_never_double()?;
    world.finish()
}

/// Both active, each taking over for the other.
#[test]
#[ignore = "needs root: network namespaces"]
fn both_active_each_takes_over_for_the_other() -> Result<()> {
    let mut world = World::new(&NODES)?;
    for node in NODES {
        let directory = world.node(node)?.directory().display().to_string();
        let ha_cf = ha_cf(&directory, SHORT, "bcast eth1", "on");
        let resources = format!("master {FLOATING} httpd\nslaver 198.51.100.253/24/eth0\n");
        world.configure(node, &ha_cf, &resources, KEYS_CRC)?;
    }
    world.start()?;
    world.expect_page("master", SHORT.patience)?;
    let second: std::net::IpAddr = "198.51.100.253".parse()?;
    let has = |world: &World, node: &str| world.node(node)?.has_address(second);
    ensure!(
        has(&world, "slaver")? && !has(&world, "master")?,
        "the second address is not slaver's"
    );
    world.node_mut("slaver")?.stop()?;
    world.expect_page("master", SHORT.patience)?;
    ensure!(has(&world, "master")? && !has(&world, "slaver")?, "master did not take over");
    world.node_mut("slaver")?.start()?;
    let runs = |status: &ha_tests::bed::Status| {
        status.groups.len() == 2
            && status.groups.iter().all(|group| group.state == "started")
            && status.groups.iter().any(|group| group.owner.as_deref() == Some("slaver"))
    };
    world.node("master")?.wait_until("one group each", SHORT.patience, runs)?;
    ensure!(has(&world, "slaver")? && !has(&world, "master")?, "it did not go back");
    world.expect_never_double()?;
    world.finish()
}

/// Several nodes, in which every service has more than one backup node.
#[test]
#[ignore = "needs root: network namespaces"]
fn three_nodes_back_each_other_up() -> Result<()> {
    let names = ["master", "slaver", "third"];
    let mut world = World::new(&names)?;
    for node in names {
        let directory = world.node(node)?.directory().display().to_string();
        let ha_cf = ha_cf(&directory, SHORT, "bcast eth1", "on") + "node third\n";
        world.configure(node, &ha_cf, &format!("master {FLOATING} httpd\n"), KEYS_CRC)?;
    }
    world.start()?;
    world.expect_page("master", SHORT.patience)?;
    world.node_mut("master")?.stop()?;
    world.expect_page("slaver", SHORT.patience)?;
    world.node_mut("slaver")?.stop()?;
    world.expect_page("third", SHORT.patience)?;
    world.node_mut("master")?.start()?;
    world.expect_page("master", SHORT.patience)?;
    world.expect_never_double()?;
    world.finish()
}
