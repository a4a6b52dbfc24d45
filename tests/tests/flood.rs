//! Floods of hostile packets: exact counters, no liveness, and a daemon that does not notice.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ha_common::wire::{Header, Kind, name_id};
use ha_tests::bed::{Cluster, Plan, Status, turn};
use ha_tests::clock::monotonic_ns;
use ha_tests::figures::Figures;
use ha_tests::rogue::{Frame, Network, Rogue, Route, Tap, cluster_key, signed, wrong_key};

const WAIT: Duration = Duration::from_secs(20);
/// Packets of each kind.
const SHOTS: u64 = 10_000;
const IDLE_TIME: Duration = Duration::from_secs(3);

fn plan(receive: &str) -> Plan {
    Plan {
        keepalive: Duration::from_millis(50),
        deadtime: Duration::from_secs(4),
        link_lines: vec![format!("receive = \"{receive}\"")],
        web: false,
        ..Plan::default()
    }
}

/// One packet for each reason to refuse it, as if from alpha.
fn one_of_each(fresh: &Header, route: &Route) -> Vec<(&'static str, Frame)> {
    let ahead = Header { sequence: fresh.sequence + 1_000_000, ..*fresh };
    let strange = name_id("elsewhere");
    let key = cluster_key();
    let authentic = |header: Header| signed(&header, &key, &[]);
    let changed = |position: usize, byte: u8| {
        let mut datagram = authentic(ahead);
        datagram[position] = byte;
        datagram
    };
    let datagrams = vec![
        ("truncated", authentic(ahead)[..87].to_vec()),
        ("bad-version", changed(2, 9)),
        ("bad-kind", changed(3, 9)),
        ("wrong-cluster", authentic(Header { cluster: strange, ..ahead })),
        ("wrong-receiver", authentic(Header { receiver: strange, ..ahead })),
        ("unknown-peer", authentic(Header { sender: strange, ..ahead })),
        ("wrong-interface", authentic(Header { link: name_id("svc"), ..ahead })),
        ("unknown-key", authentic(Header { key: 9, ..ahead })),
        ("old-incarnation", authentic(Header { incarnation: fresh.incarnation - 1, ..ahead })),
        ("old-sequence", authentic(Header { sequence: 1, ..ahead })),
        ("bad-tag", signed(&Header { kind: Kind::Control, ..ahead }, &wrong_key(), &[2])),
    ];
    datagrams.into_iter().map(|(name, it)| (name, Frame::udp(route, &it))).collect()
}

struct Flood {
    cluster: Cluster,
    rogue: Rogue,
    kinds: Vec<(&'static str, Frame)>,
}

impl Flood {
    fn prepare(receive: &str) -> Result<Self> {
        let mut cluster = Cluster::build(plan(receive))?;
        let rogue = Rogue::join(&mut cluster)?;
        let tap = Tap::open(&cluster.bed)?;
        cluster.start()?;
        let hb = |number| Network::Heartbeat.address(number);
        let heard = tap.take_kind(Kind::Heartbeat, hb(1), hb(2), 1, WAIT)?;
        let header = heard[0].header().context("no header")?;
        let route = rogue.route(&cluster, Network::Heartbeat, "alpha", "beta")?;
        Ok(Self { kinds: one_of_each(&header, &route), cluster, rogue })
    }

    fn sent(&self) -> u64 {
        SHOTS * self.kinds.len() as u64
    }

    fn run(&self) -> Result<()> {
        let frames: Vec<Frame> = self.kinds.iter().map(|(_, frame)| frame.clone()).collect();
        self.rogue.flood(Network::Heartbeat, &frames, self.sent())
    }

    fn counters(&self, status: &Status) -> BTreeMap<&'static str, u64> {
        let count = |name| status.raw["packets"][name].as_u64().unwrap_or_default();
        self.kinds.iter().map(|(name, _)| (*name, count(*name))).collect()
    }
}

fn stamps(status: &Status) -> (u64, u64) {
    let links = || status.nodes.iter().flat_map(|node| &node.links);
    (links().map(|link| link.received).sum(), links().map(|link| link.rejected).sum())
}

fn floods(receive: &str) -> Result<()> {
    let _turn = turn();
    let flood = Flood::prepare(receive)?;
    let beta = flood.cluster.node("beta")?;
    let before = beta.status()?;
    let quiet = Figures::of(before.pid)?;
    thread::sleep(IDLE_TIME);
    let start = Figures::of(before.pid)?;
    let idle = start.since(&quiet);
    let (start_ns, drops_before) = (monotonic_ns(), drops(&flood)?);
    flood.run()?;
    // The last ones are judged, and the daemon has done whatever they made it do.
    thread::sleep(Duration::from_millis(200));
    let busy = Figures::of(before.pid)?.since(&start);
    let seconds = (monotonic_ns() - start_ns) as f64 / 1e9;
    let after = beta.status()?;
    let dropped = drops(&flood)? - drops_before;
    let rate = flood.sent() as f64 / seconds;
    println!("{receive}: {} packets in {seconds:.2} s ({rate:.0}/s), {dropped} lost", flood.sent());
    println!("idle {}flood {}", idle.table(), busy.table());

    let (now, then) = (flood.counters(&after), flood.counters(&before));
    let counted: BTreeMap<_, _> = now.iter().map(|(name, it)| (*name, it - then[name])).collect();
    let missing = flood.sent() - counted.values().sum::<u64>();
    let (received, rejected) = {
        let (now, then) = (stamps(&after), stamps(&before));
        (now.0 - then.0, now.1 - then.1)
    };
    let from_peer_on: u64 = counted.iter().filter(|(it, _)| of_a_link(it)).map(|(_, it)| it).sum();
    ensure!(rejected == from_peer_on, "links rejected {rejected}, counters say {from_peer_on}");
    ensure!(counted.values().all(|it| *it <= SHOTS), "counted what was not sent: {counted:?}");
    // Two links at 20 a second, and one heartbeat more for each end of the time.
    let elapsed = (idle.time + busy.time).as_secs_f64();
    ensure!((received as f64) <= 2.0 * (20.0 * elapsed + 6.0), "{received} in {elapsed} s");
    if receive == "socket" {
        ensure!(missing < flood.sent() / 2, "{missing} of {} are missing", flood.sent());
    } else {
        ensure!(missing == dropped, "{missing} are missing, {dropped} were lost: {counted:?}");
        let driver = |it: &ha_tests::figures::Use| {
            it.thread("ha-driver").voluntary as f64 / it.time.as_secs_f64()
        };
        ensure!(driver(&busy) <= driver(&idle) * 2.0 + 20.0, "the driver woke for the flood");
        // Interrupts that hit its threads count as theirs: generous, but far below one packet each.
        let extra = busy.cpu_share() - idle.cpu_share() * 2.0;
        ensure!(extra < 0.05, "the daemon worked for the flood: {extra:.3} of a core more");
    }
    for node in &flood.cluster.nodes {
        let last = if node.name() == "beta" { before.events } else { 0 };
        let news = node.events()?.into_iter().filter(|it| it.id > last);
        let bad = ["node-dead", "node-late", "daemon-gone", "link-dead", "connection-closed"];
        let bad: Vec<_> = news.filter(|it| bad.contains(&it.kind.as_str())).collect();
        ensure!(bad.is_empty(), "{}: {bad:?}", node.name());
    }
    let news = beta.events()?.into_iter().filter(|it| it.id > before.events);
    let news: Vec<_> = news.filter(|it| it.kind != "own-pause").collect();
    ensure!(news.is_empty() || receive == "socket", "{news:?}");
    flood.cluster.bed.finish()
}

/// Whether that reason is found after the packet's peer and link are known.
fn of_a_link(reason: &str) -> bool {
    ["wrong-interface", "unknown-key", "old-incarnation", "old-sequence", "bad-tag"]
        .contains(&reason)
}

/// Frames that were lost before the program: at the ports of the switch.
fn drops(flood: &Flood) -> Result<u64> {
    let mut dropped = 0;
    for netns in [&*flood.cluster.bed.switch(), flood.rogue.netns()] {
        let links: serde_json::Value = serde_json::from_str(&netns.ip(&["-s", "-j", "link"])?)?;
        let links = links.as_array().into_iter().flatten();
        dropped += links.filter_map(|it| it["stats64"]["tx"]["dropped"].as_u64()).sum::<u64>();
    }
    Ok(dropped)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_flood_is_counted_exactly_and_not_noticed_by_the_daemon_via_xdp() -> Result<()> {
    floods("xdp-native")
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_flood_is_counted_exactly_and_not_noticed_by_the_daemon_via_tc() -> Result<()> {
    floods("tc")
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_pair_on_sockets_stays_up_through_a_flood() -> Result<()> {
    floods("socket")
}
