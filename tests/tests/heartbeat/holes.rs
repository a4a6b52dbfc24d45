//! What Heartbeat itself does wrong (`../shared/peers/heartbeat.md`), with Heartbeat's files: each is
//! a claim here.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ha_tests::bed::{Cut, Status};
use ha_tests::clock::monotonic_ns;
use ha_tests::rogue::{Tap, open_for_sending};
use nix::sys::signal::Signal;

use crate::support::{FLOATING, World};

const PATIENCE: Duration = Duration::from_secs(20);
const NODES: [&str; 2] = ["master", "slaver"];
/// Heartbeats that are recorded.
const RECORDED: usize = 20;

fn ha_cf() -> String {
    "keepalive 100ms\nwarntime 500ms\ndeadtime 1500ms\ninitdead 5\nudpport 694\nbcast eth1\n\
     auto_failback on\nnode master\nnode slaver\n"
        .to_owned()
}

fn world(keys: &str) -> Result<World> {
    let mut world = World::new(&NODES)?;
    for node in NODES {
        world.configure(node, &ha_cf(), &format!("master {FLOATING} httpd\n"), keys)?;
    }
    world.start()?;
    world.expect_page("master", PATIENCE)?;
    for node in NODES {
        world.node(node)?.wait_until("all up", PATIENCE, |it| {
            it.node_state("master") == "up" && it.node_state("slaver") == "up"
        })?;
    }
    Ok(world)
}

/// The original believes a recorded stream of a dead node after a restart.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_recorded_stream_of_a_dead_node_is_not_believed_after_a_restart() -> Result<()> {
    let mut world = world("auth 1\n1 sha1 HI!\n")?;
    let tap = Tap::open(&world.bed)?;
    let sender = std::net::Ipv4Addr::new(192, 0, 2, 11);
    let frames = tap.take(RECORDED, PATIENCE, |frame| {
        frame.addresses().is_some_and(|(from, _)| from == sender) && frame.header().is_some()
    })?;
    world.power_off("master")?;
    world.expect_page("slaver", PATIENCE)?;
    world.node_mut("slaver")?.stop()?;
    world.node_mut("slaver")?.start()?;
    world.expect_page("slaver", PATIENCE)?;
    // From the dead node's own port, as if it were there.
    world.bed.heal("master", "eth1")?;
    let socket = world.node("master")?.netns().run(|| open_for_sending("eth1"))?;
    let slaver = world.node("slaver")?;
    let before = slaver.status()?;
    for frame in frames.iter().cycle().take(RECORDED * 10) {
        socket.send(&frame.0)?;
        std::thread::sleep(Duration::from_millis(10));
    }
    let after = slaver.status()?;
    let heard = |status: &Status| -> u64 {
        let links =
            status.nodes.iter().filter(|node| node.name == "master").flat_map(|it| &it.links);
        links.map(|link| link.received).sum()
    };
    let judged = |status: &Status| {
        ["greeting", "old-incarnation", "old-sequence"]
            .iter()
            .map(|reason| status.raw["packets"][reason].as_u64().unwrap_or_default())
            .sum::<u64>()
    };
    ensure!(judged(&after) > judged(&before), "the recording did not arrive: {after:?}");
    ensure!(heard(&after) == heard(&before), "the recording was believed: {after:?}");
    ensure!(after.node_state("master") != "up", "the dead node is up: {after:?}");
    world.expect_page("slaver", PATIENCE)?;
    world.finish()
}

/// The original releases everything on both nodes: 15.5 s with no address anywhere.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_healed_partition_costs_no_outage() -> Result<()> {
    let world = world("auth 1\n1 crc\n")?;
    world.bed.cut("master", "eth1", Cut::Middle)?;
    world.node("slaver")?.wait_until("the group on slaver", PATIENCE, |status| {
        status.groups.iter().all(|group| group.owner.as_deref() == Some("slaver"))
    })?;
    let healed_ns = monotonic_ns();
    world.bed.heal("master", "eth1")?;
    let mut longest = Duration::ZERO;
    let mut last = std::time::Instant::now();
    let end = last + Duration::from_secs(6);
    while std::time::Instant::now() < end {
        if world.page()?.is_some() {
            longest = longest.max(last.elapsed());
            last = std::time::Instant::now();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    longest = longest.max(last.elapsed());
    println!("after healing: longest time without the page {longest:?}");
    ensure!(longest < Duration::from_secs(5), "no page for {longest:?} after the partition healed");
    let owner = world.page()?.context("nobody serves the page")?;
    world.expect_page(&owner, PATIENCE)?;
    let both = Duration::from_nanos(world.both_held_ns(healed_ns)?);
    for node in NODES {
        world.node(node)?.wait_until("one owner", PATIENCE, |status| {
            status.groups.iter().all(|group| group.owner.as_deref() == Some(&*owner))
        })?;
    }
    println!("one owner, {owner}: after healing, the address was on both for {both:?}");
    ensure!(
        both < Duration::from_secs(5),
        "the address was on both nodes for {both:?} after healing"
    );
    world.finish()
}

/// Every event of a node that says that a peer is gone.
fn losses(world: &World, node: &str) -> Result<Vec<String>> {
    let kinds = ["node-dead", "daemon-gone", "node-left", "takeover", "link-dead"];
    let events = world.node(node)?.events()?;
    let lost = events.into_iter().filter(|event| kinds.contains(&event.kind.as_str()));
    Ok(lost.map(|event| format!("{}: {}", event.kind, event.message)).collect())
}

/// The original declares both sides dead and has both take the address.
#[test]
#[ignore = "needs root: network namespaces"]
fn rotating_keys_one_node_after_the_other_causes_no_silence() -> Result<()> {
    let world = world("auth 1\n1 sha1 first-key-of-the-cluster\n")?;
    let before: Vec<_> = NODES.iter().map(|node| losses(&world, node)).collect::<Result<_>>()?;
    let pids: Vec<_> = NODES.iter().map(|node| world.node(node)?.pids()).collect::<Result<_>>()?;
    // Another number, the same number with another word, another method: each node in its turn.
    let keys = [
        "auth 2\n2 sha1 second-key-of-the-cluster\n",
        "auth 2\n2 sha1 third-key-of-the-cluster\n",
        "auth 1\n1 siphash fourth-key-of-the-cluster\n",
    ];
    for key in keys {
        for node in ["slaver", "master"] {
            world.configure(node, &ha_cf(), &format!("master {FLOATING} httpd\n"), key)?;
            let at_ns = world.node(node)?.signal(Signal::SIGHUP)?;
            world.node(node)?.wait_event("reloaded", at_ns, PATIENCE)?;
            // Longer than deadtime: a key that one side does not know would end the peer.
            std::thread::sleep(Duration::from_secs(2));
        }
    }
    let after: Vec<_> = NODES.iter().map(|node| losses(&world, node)).collect::<Result<_>>()?;
    ensure!(before == after, "somebody was lost: {after:?}");
    let now: Vec<_> = NODES.iter().map(|node| world.node(node)?.pids()).collect::<Result<_>>()?;
    ensure!(pids == now, "not the same processes: {pids:?}, {now:?}");
    world.expect_page("master", PATIENCE)?;
    world.expect_never_double()?;
    world.finish()
}

/// The original does not take a change of haresources alone over.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_changed_haresources_is_taken_over_by_reload() -> Result<()> {
    let world = world("auth 1\n1 crc\n")?;
    let second: std::net::IpAddr = "198.51.100.253".parse()?;
    let resources = format!("master {FLOATING} httpd\nslaver 198.51.100.253/24/eth0\n");
    for node in NODES {
        world.configure(node, &ha_cf(), &resources, "auth 1\n1 crc\n")?;
        let at_ns = world.node(node)?.signal(Signal::SIGHUP)?;
        world.node(node)?.wait_event("reloaded", at_ns, PATIENCE)?;
    }
    world.node("slaver")?.wait_until("both groups started", PATIENCE, |status| {
        status.groups.len() == 2 && status.groups.iter().all(|group| group.state == "started")
    })?;
    ensure!(world.node("slaver")?.has_address(second)?, "slaver does not have the new address");
    ensure!(world.holders()? == ["master"], "the old group moved");
    world.expect_page("master", PATIENCE)?;
    world.finish()
}

/// The original refuses `5s` and its like and does not say in which line.
#[test]
#[ignore = "needs root: network namespaces"]
fn what_it_refuses_has_its_line_and_the_running_daemon_goes_on() -> Result<()> {
    let world = world("auth 1\n1 crc\n")?;
    let resources = format!("master {FLOATING} httpd\n");
    world.configure(
        "slaver",
        &ha_cf().replace("initdead 5", "initdead 5s"),
        &resources,
        "auth 1\n1 crc\n",
    )?;
    let node = world.node("slaver")?;
    let path = node.config_path().display().to_string();
    let checked = node.ha_daemon(&["check", "--config", &path, "--node", "slaver"])?;
    let said = format!("{}{}", checked.stdout, checked.stderr);
    // It is unambiguous, so it is understood.
    ensure!(checked.code() <= 1 && !said.contains("initdead"), "5s is refused: {said}");
    let broken = ha_cf().replace("keepalive 100ms", "keepalive soon");
    world.configure("slaver", &broken, &resources, "auth 1\n1 crc\n")?;
    let checked = node.ha_daemon(&["check", "--config", &path, "--node", "slaver"])?;
    let said = format!("{}{}", checked.stdout, checked.stderr);
    ensure!(checked.code() == 2 && said.contains("ha.cf:1"), "exit {}: {said}", checked.code());
    let at_ns = node.signal(Signal::SIGHUP)?;
    node.wait_event("reload-refused", at_ns, PATIENCE)?;
    world.expect_page("master", PATIENCE)?;
    // A key file that others may read is refused too.
    world.configure("slaver", &ha_cf(), &resources, "auth 1\n1 crc\n")?;
    let keys = node.config_path().join("authkeys");
    fs::set_permissions(&keys, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    let at_ns = node.signal(Signal::SIGHUP)?;
    let refused = node.wait_event("reload-refused", at_ns, PATIENCE)?;
    ensure!(refused.message.contains("authkeys"), "{}", refused.message);
    world.finish()
}
