//! Hostile datagrams change nothing but a counter: no liveness, no event, no owner.
//!
//! Every attack runs twice against a living pair: while the attacked link is heard, so that
//! counters and events show what it did, and while that link is cut, so that any liveness that it
//! lent would show. The restarts are in `replay.rs`, floods in `flood.rs`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ha_common::wire::{FIXED_BYTES, Header, Kind, SEQUENCE_LAST, name_id};
use ha_tests::bed::{Cluster, Cut, GROUP, Node, Plan, Status, turn};
use ha_tests::rogue::{Frame, Network, Rogue, Route, Tap, cluster_key, signed, wrong_key};

const WAIT: Duration = Duration::from_secs(15);
/// Packets of one attack.
const SHOTS: usize = 25;
/// Counters of packets that are refused.
const REFUSALS: [&str; 12] = [
    "truncated",
    "bad-version",
    "bad-kind",
    "wrong-cluster",
    "wrong-receiver",
    "unknown-peer",
    "wrong-interface",
    "unknown-key",
    "old-incarnation",
    "old-sequence",
    "bad-tag",
    "not-ready",
];
/// Body of an obituary.
const OBITUARY: &[u8] = &[2];

/// Slow enough for a machine that does other things meanwhile.
fn plan(receive: &str) -> Plan {
    Plan {
        keepalive: Duration::from_millis(50),
        deadtime: Duration::from_secs(2),
        link_lines: vec![format!("receive = \"{receive}\"")],
        web: false,
        ..Plan::default()
    }
}

/// One kind of hostile packet.
struct Attack {
    name: String,
    network: Network,
    frames: Vec<Frame>,
    /// The counter that must move, and whether the link's `rejected` moves with it.
    expected: Option<(&'static str, bool)>,
}

/// What the attacker has recorded, and the ways to its victim.
struct Recording {
    /// From alpha to beta on the heartbeat network, oldest first.
    heartbeats: Vec<Frame>,
    /// Beta's own.
    reflected: Vec<Frame>,
    /// Control messages from alpha to beta on the heartbeat network.
    control: Vec<Frame>,
    hb: Route,
    svc: Route,
}

impl Recording {
    fn header(&self) -> Result<Header> {
        let last = self.heartbeats.last().context("nothing was recorded")?;
        last.header().context("a recorded heartbeat has no header")
    }
}

struct Stage {
    cluster: Cluster,
    rogue: Rogue,
    tap: Tap,
    control: Vec<Frame>,
}

impl Stage {
    fn set(receive: &str) -> Result<Self> {
        let mut cluster = Cluster::build(plan(receive))?;
        let rogue = Rogue::join(&mut cluster)?;
        let tap = Tap::open(&cluster.bed)?;
        cluster.start()?;
        let hb = |number| Network::Heartbeat.address(number);
        // Control messages are exchanged while the pair settles.
        let control = tap.take_kind(Kind::Control, hb(1), hb(2), 2, WAIT)?;
        for link in links(&cluster.node("beta")?.status()?) {
            ensure!(receive == "auto" || link.1.via == receive, "{receive}: {link:?}");
        }
        Ok(Self { cluster, rogue, tap, control })
    }

    fn record(&self) -> Result<Recording> {
        let hb = |number| Network::Heartbeat.address(number);
        let route = |network| self.rogue.route(&self.cluster, network, "alpha", "beta");
        Ok(Recording {
            heartbeats: self.tap.take_kind(Kind::Heartbeat, hb(1), hb(2), SHOTS, WAIT)?,
            reflected: self.tap.take_kind(Kind::Heartbeat, hb(2), hb(1), SHOTS, WAIT)?,
            control: self.control.clone(),
            hb: route(Network::Heartbeat)?,
            svc: route(Network::Service)?,
        })
    }

    fn beta(&self) -> Result<&Node> {
        self.cluster.node("beta")
    }

    /// Sends an attack and checks everything that must, and must not, have come of it.
    fn withstands(&self, attack: &Attack) -> Result<()> {
        let before = Before::take(&self.cluster)?;
        let sent = self.rogue.send(attack.network, &attack.frames)?;
        self.check(&before, attack, sent).with_context(|| format!("attack: {}", attack.name))
    }

    fn check(&self, before: &Before, attack: &Attack, sent: u64) -> Result<()> {
        let expected: Vec<&str> = attack.expected.iter().map(|(reason, _)| *reason).collect();
        let deadline = Instant::now() + Duration::from_secs(3);
        let after = loop {
            let status = self.beta()?.status()?;
            let moved = moved(&before.status, &status);
            if Instant::now() > deadline || expected.iter().all(|it| moved.get(it) == Some(&sent)) {
                break status;
            }
        };
        let wanted: BTreeMap<&str, u64> = expected.iter().map(|reason| (*reason, sent)).collect();
        let moved = moved(&before.status, &after);
        ensure!(moved == wanted, "counters moved {moved:?}, not {wanted:?}");
        for (name, link) in links(&after) {
            let was = &links(&before.status)[name];
            let hit = name == "hb0" && attack.expected.is_some_and(|(_, rejected)| rejected);
            let rejected = link.rejected - was.rejected;
            ensure!(rejected == if hit { sent } else { 0 }, "{name} rejected {rejected}");
            ensure!(link.state == was.state, "{name} was {} and is {}", was.state, link.state);
            if was.state == "dead" {
                ensure!(link.received == was.received, "{name} accepted a hostile packet");
                ensure!(link.last_seen_us >= was.last_seen_us, "{name} was stamped");
            }
        }
        before.nothing_happened(&self.cluster)
    }
}

/// The pair before an attack.
struct Before {
    status: Status,
    events: Vec<u64>,
    groups: Vec<serde_json::Value>,
}

impl Before {
    fn take(cluster: &Cluster) -> Result<Self> {
        let states = cluster.nodes.iter().map(Node::status).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            events: states.iter().map(|status| status.events).collect(),
            groups: states.iter().map(|status| status.raw["groups"].clone()).collect(),
            status: cluster.node("beta")?.status()?,
        })
    }

    /// No event but those of a machine that stood still, no group changed, everyone is up.
    fn nothing_happened(&self, cluster: &Cluster) -> Result<()> {
        for ((node, events), groups) in cluster.nodes.iter().zip(&self.events).zip(&self.groups) {
            let status = node.status()?;
            ensure!(status.raw["groups"] == *groups, "{}: {status:?}", node.name());
            for other in &status.nodes {
                ensure!(other.state == "up", "{} sees {other:?}", node.name());
            }
            let news = node.events()?.into_iter().filter(|event| event.id > *events);
            let news: Vec<_> = news.filter(|event| event.kind != "own-pause").collect();
            ensure!(news.is_empty(), "{}: {news:?}", node.name());
        }
        Ok(())
    }
}

fn links(status: &Status) -> BTreeMap<&str, &ha_tests::bed::LinkView> {
    let links = status.nodes.iter().flat_map(|node| &node.links);
    links.map(|link| (link.name.as_str(), link)).collect()
}

/// Counters of refused packets that moved, and by how much.
fn moved(before: &Status, after: &Status) -> BTreeMap<&'static str, u64> {
    let count = |status: &Status, name| status.raw["packets"][name].as_u64().unwrap_or_default();
    REFUSALS
        .iter()
        .map(|name| (*name, count(after, name) - count(before, name)))
        .filter(|(_, moved)| *moved != 0)
        .collect()
}

fn attacks(recording: &Recording, receive: &str) -> Result<Vec<Attack>> {
    let mut attacks = replays(recording);
    attacks.extend(forgeries(recording)?);
    attacks.push(oversized(recording, receive)?);
    attacks.extend(malformed(recording)?);
    Ok(attacks)
}

fn attack(
    name: &str,
    network: Network,
    frames: Vec<Frame>,
    expected: (&'static str, bool),
) -> Attack {
    Attack { name: name.to_owned(), network, frames, expected: Some(expected) }
}

fn replays(recording: &Recording) -> Vec<Attack> {
    use Network::{Heartbeat, Service};
    let Recording { heartbeats, reflected, control, hb, svc } = recording;
    let on = |frames: &[Frame], route| frames.iter().map(|it| it.rerouted(route)).collect();
    vec![
        attack("replayed heartbeats", Heartbeat, on(heartbeats, hb), ("old-sequence", true)),
        attack(
            "the newest one",
            Heartbeat,
            on(&heartbeats[SHOTS - 1..], hb),
            ("old-sequence", true),
        ),
        attack("on the other link", Service, on(heartbeats, svc), ("wrong-interface", true)),
        attack("replayed control messages", Heartbeat, on(control, hb), ("old-sequence", true)),
        attack("control on the other link", Service, on(control, svc), ("wrong-interface", true)),
        attack(
            "reflected to their sender",
            Heartbeat,
            on(reflected, hb),
            ("wrong-receiver", false),
        ),
    ]
}

fn forgeries(recording: &Recording) -> Result<Vec<Attack>> {
    let fresh = recording.header()?;
    // Far ahead of what alpha sends while the attacks run.
    let header =
        |number: usize| Header { sequence: fresh.sequence + 1_000_000 + number as u64, ..fresh };
    let control = |number| Header { kind: Kind::Control, ..header(number) };
    let (key, other) = (cluster_key(), wrong_key());
    let shots = |datagram: &dyn Fn(usize) -> Vec<u8>| -> Vec<Frame> {
        (0..SHOTS).map(|number| Frame::udp(&recording.hb, &datagram(number))).collect()
    };
    let one = |name, expected, datagram: &dyn Fn(usize) -> Vec<u8>| {
        attack(name, Network::Heartbeat, shots(datagram), expected)
    };
    let changed = |name, expected, change: &dyn Fn(Header) -> Header| {
        one(name, expected, &|number| signed(&change(header(number)), &key, &[]))
    };
    let strange = name_id("elsewhere");
    Ok(vec![
        one("wrong key", ("bad-tag", true), &|it| signed(&header(it), &other, &[])),
        one("wrong key, next start", ("bad-tag", true), &|it| {
            signed(&Header { incarnation: fresh.incarnation + 1, ..header(it) }, &other, &[])
        }),
        one("obituary with a wrong key", ("bad-tag", true), &|_| {
            signed(&Header { sequence: SEQUENCE_LAST, ..control(0) }, &other, OBITUARY)
        }),
        one("state with a wrong key", ("bad-tag", true), &|it| {
            signed(&control(it), &other, &[1; 36])
        }),
        one("heartbeat with a body", ("bad-tag", true), &|it| {
            signed(&header(it), &other, &[1; 50])
        }),
        one("changed header of a recorded one", ("bad-tag", true), &|it| {
            let mut recorded = recording.heartbeats[it].payload().unwrap_or_default().to_vec();
            recorded[40..48].copy_from_slice(&header(it).sequence.to_be_bytes());
            recorded
        }),
        changed("unknown key", ("unknown-key", true), &|it| Header { key: 9, ..it }),
        changed("key out of range", ("unknown-key", true), &|it| Header { key: 255, ..it }),
        changed("old sequence", ("old-sequence", true), &|it| Header { sequence: 1, ..it }),
        changed("old incarnation", ("old-incarnation", true), &|it| Header {
            incarnation: fresh.incarnation - 1,
            ..it
        }),
        changed("no incarnation", ("old-incarnation", true), &|it| Header { incarnation: 0, ..it }),
        changed("another cluster", ("wrong-cluster", false), &|it| Header {
            cluster: strange,
            ..it
        }),
        changed("unknown sender", ("unknown-peer", false), &|it| Header { sender: strange, ..it }),
        changed("unknown link", ("unknown-peer", false), &|it| Header { link: strange, ..it }),
        changed("another receiver", ("wrong-receiver", false), &|it| Header {
            receiver: strange,
            ..it
        }),
        changed("in the receiver's own name", ("unknown-peer", false), &|it| Header {
            sender: it.receiver,
            ..it
        }),
    ])
}

/// A socket cuts it to the longest datagram that there can be; the kernel side reads its header.
fn oversized(recording: &Recording, receive: &str) -> Result<Attack> {
    let header = Header { kind: Kind::Control, ..recording.header()? };
    let header = Header { sequence: header.sequence + 3_000_000, ..header };
    let frame = Frame::udp(&recording.hb, &signed(&header, &wrong_key(), &[1; 1300]));
    let expected = if receive == "socket" { ("truncated", false) } else { ("bad-tag", true) };
    Ok(attack("longest body and more", Network::Heartbeat, vec![frame; SHOTS], expected))
}

/// Authentic headers with bodies that do not belong to them: only a key would make these, or the
/// kernel side alone would do.
fn moved_bodies(recording: &Recording) -> Result<Attack> {
    let last = recording.control.last().context("no control message was recorded")?;
    let header = last.header().context("a recorded control message has no header")?;
    let body_and_tag = &last.payload().unwrap_or_default()[FIXED_BYTES..];
    let frames = (1..=5).map(|number| {
        let header = Header { sequence: header.sequence + 10_000 + number, ..header };
        let mut fixed = header.encode();
        cluster_key().sign(&mut fixed);
        Frame::udp(&recording.hb, &[&fixed.to_bytes()[..], body_and_tag].concat())
    });
    Ok(attack("recorded bodies", Network::Heartbeat, frames.collect(), ("bad-tag", true)))
}

fn malformed(recording: &Recording) -> Result<Vec<Attack>> {
    let fresh = recording.header()?;
    let ahead = Header { sequence: fresh.sequence + 2_000_000, ..fresh };
    let whole = signed(&ahead, &cluster_key(), &[]);
    let control = signed(&Header { kind: Kind::Control, ..ahead }, &cluster_key(), &[1; 100]);
    let shots = |datagram: &[u8]| vec![Frame::udp(&recording.hb, datagram); SHOTS];
    let one = |name: &str, reason, datagram: &[u8]| {
        attack(name, Network::Heartbeat, shots(datagram), (reason, false))
    };
    let at = |position: usize, byte: u8| {
        let mut changed = whole.clone();
        changed[position] = byte;
        changed
    };
    let mut attacks = vec![
        one("another magic", "bad-version", &at(0, 0)),
        one("another version", "bad-version", &at(2, 2)),
        one("another kind", "bad-kind", &at(3, 5)),
        one("garbage", "bad-version", &(0..500).map(|it| (it * 7) as u8).collect::<Vec<_>>()),
    ];
    for length in [0, 1, 8, 71, 72, 87] {
        attacks.push(one(&format!("cut to {length}"), "truncated", &whole[..length]));
    }
    for length in [88, 103, 104, control.len() - 1] {
        attacks.push(one(&format!("body cut, {length}"), "truncated", &control[..length]));
    }
    Ok(attacks)
}

/// What passes by the programs: left to the network stack, and of no effect.
fn evasions(recording: &Recording) -> Vec<Attack> {
    let payloads = || recording.heartbeats.iter().filter_map(Frame::payload);
    let options: Vec<Frame> = payloads()
        .map(|payload| Frame::udp_with_options(&recording.hb, &[1, 1, 1, 0], payload))
        .collect();
    let fragments: Vec<Frame> =
        payloads().flat_map(|payload| Frame::udp_in_fragments(&recording.hb, payload)).collect();
    let [options, fragments] =
        [("options", options), ("fragments", fragments)].map(|(name, frames)| Attack {
            name: name.to_owned(),
            network: Network::Heartbeat,
            frames,
            expected: None,
        });
    vec![options, fragments]
}

fn withstands_every_attack(receive: &str) -> Result<()> {
    let _turn = turn();
    let stage = Stage::set(receive)?;
    let recording = stage.record()?;
    let mut attacks = attacks(&recording, receive)?;
    if receive != "socket" {
        attacks.extend(evasions(&recording));
    }
    let mut failures = Vec::new();
    let mut run = |attacks: &[Attack], when: &str| {
        for attack in attacks {
            if let Err(error) = stage.withstands(attack) {
                failures.push(format!("{when}: {error:#}"));
            }
        }
    };
    run(&attacks, "link up");
    stage.cluster.bed.cut("alpha", "hb0", Cut::Middle)?;
    for node in &stage.cluster.nodes {
        node.wait_until("link hb0 to be dead", WAIT, |it| links(it)["hb0"].state == "dead")?;
    }
    run(&attacks, "link cut");
    run(&[moved_bodies(&recording)?], "link cut");
    let sent = attacks.iter().map(|it| it.frames.len()).sum::<usize>() * 2;
    println!("{receive}: {} attacks, {sent} packets", attacks.len() * 2);
    if !failures.is_empty() {
        bail!("{} of {} attacks:\n{}", failures.len(), attacks.len() * 2, failures.join("\n"));
    }
    let runs = stage.cluster.node("alpha")?.status()?.runs_on(GROUP, "alpha");
    ensure!(runs, "the group left alpha");
    stage.cluster.bed.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn hostile_packets_move_only_their_counter_via_xdp() -> Result<()> {
    withstands_every_attack("xdp-native")
}

#[test]
#[ignore = "needs root: network namespaces"]
fn hostile_packets_move_only_their_counter_via_generic_xdp() -> Result<()> {
    withstands_every_attack("xdp-generic")
}

#[test]
#[ignore = "needs root: network namespaces"]
fn hostile_packets_move_only_their_counter_via_tc() -> Result<()> {
    withstands_every_attack("tc")
}

#[test]
#[ignore = "needs root: network namespaces"]
fn hostile_packets_move_only_their_counter_via_the_socket() -> Result<()> {
    withstands_every_attack("socket")
}
