//! A thousand peers that ask one node at once, on a real interface: the answers are bounded in number and
//! in bytes, and the heartbeats of the node's real peer lose nothing by it.
//!
//! A configuration has at most 64 nodes, so the crowd is written into the maps of beta's program beside
//! alpha, as the daemon would. Who plays it is a third host that has a source address for each.

use std::collections::HashSet;
use std::mem::offset_of;
use std::net::Ipv6Addr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use aya::maps::{Array, HashMap, Map, MapData};
use ha_common::maps::{LinkRecord, SLOTS_MAX};
use ha_common::reply::{ANSWER_BURST, ANSWER_INTERVAL_NS};
use ha_common::vectors::Packet;
use ha_common::wire::{Fixed, Header, Kind, Way, name_id};
use ha_tests::bed::{Cluster, Node, Status, turn};
use ha_tests::bpf::BpfFs;
use ha_tests::clock::monotonic_ns;
use ha_tests::crowd::identity;
use ha_tests::rogue::{Frame, Network, Rogue, cluster_key, open_for_receiving};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::{ALPHA, BETA, UCAST, expect_ways, let_xdp_through, plan};

/// Peers that ask; they have the last slots of the program.
const CROWD: u32 = 1_024;
const FIRST_SLOT: u32 = SLOTS_MAX as u32 - CROWD;
/// Bursts, and how often each peer asks in one, as fast as the third host can send.
const BURSTS: u64 = 3;
const ROUNDS: u64 = 40;
/// Incarnation of all of them.
const INCARNATION: u64 = 7;
/// Ethernet, IPv6, UDP, in front of a datagram.
const PAYLOAD_AT: usize = 62;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const PROBE_BYTES: usize = PAYLOAD_AT + ha_common::wire::FIXED_BYTES;
/// How long what is under way at the end of a burst takes to arrive.
const ARRIVAL_TIME: Duration = Duration::from_millis(100);

/// The address of one of the crowd.
fn address(number: u32) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 1, number as u16)
}

/// Beta's, on the heartbeat network.
const TARGET: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2);

/// The one's complement sum over a UDP datagram and its pseudo header (RFC 8200 8.1): all ones when its
/// checksum is right.
fn udp_sum(frame: &[u8]) -> u16 {
    let pseudo = [0, frame[20], frame[18], frame[19]];
    let words = frame[22..].chunks(2).chain(pseudo.chunks(2));
    let sum: u32 = words.map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    ((sum & 0xffff) + (sum >> 16)) as u16
}

struct Crowd {
    rogue: Rogue,
    mac: [u8; 6],
    target_mac: [u8; 6],
    /// Beta's.
    incarnation: u64,
    /// What the answers' sequence numbers must have come from.
    asked: HashSet<(u32, u64)>,
}

impl Crowd {
    /// A datagram of one of them.
    fn frame(&self, number: u32, kind: Kind, sequence: u64) -> Frame {
        let mut packet = Packet { v6: true, key: cluster_key(), ..Packet::heartbeat(sequence) };
        packet.header = Header {
            kind,
            cluster: name_id("bed"),
            sender: identity(number),
            receiver: name_id(BETA),
            link: name_id("hb0"),
            way: if kind == Kind::Probe { Way::Xdp } else { Way::None },
            incarnation: INCARNATION,
            echo: self.incarnation,
            ..packet.header
        };
        let mut bytes = packet.frame();
        bytes[..6].copy_from_slice(&self.target_mac);
        bytes[6..12].copy_from_slice(&self.mac);
        bytes[22..38].copy_from_slice(&address(number).octets());
        bytes[38..54].copy_from_slice(&TARGET.octets());
        let checksum = !udp_sum(&bytes);
        bytes[60..62].copy_from_slice(&checksum.to_be_bytes());
        Frame(bytes)
    }

    /// All of them ask, so often, in turn.
    fn burst(&mut self, number: u64) -> Vec<Frame> {
        let sequences = number * ROUNDS + 1..=(number + 1) * ROUNDS;
        let asks = sequences.flat_map(|sequence| (0..CROWD).map(move |it| (it, sequence)));
        let asks: Vec<(u32, u64)> = asks.collect();
        self.asked.extend(&asks);
        asks.iter().map(|(it, sequence)| self.frame(*it, Kind::Probe, *sequence)).collect()
    }

    /// Whether a frame is an answer to one of the crowd, and a right one that was not seen before.
    fn take(&mut self, frame: &[u8]) -> Result<bool> {
        let from_beta = frame.get(22..38).is_some_and(|it| it == TARGET.octets());
        if frame.get(..6) != Some(&self.mac) || !from_beta || frame[20] != 17 {
            return Ok(false);
        }
        ensure!(frame.len() == PROBE_BYTES, "{} bytes", frame.len());
        ensure!(udp_sum(frame) == 0xffff, "its checksum is wrong");
        let fixed = Fixed::read(frame, PAYLOAD_AT).context("too short")?;
        ensure!(cluster_key().verify(&fixed), "not signed");
        let said = Header::decode(&fixed).ok().context("no header")?;
        ensure!(said.kind == Kind::Answer && said.way == Way::Xdp, "{said:?}");
        let number = u32::from(u16::from_be_bytes([frame[52], frame[53]]));
        ensure!(said.receiver == identity(number), "an answer for somebody else: {said:?}");
        ensure!(self.asked.remove(&(number, said.sequence)), "answered twice: {said:?}");
        Ok(true)
    }
}

/// Writes the crowd into the maps of a node's program.
fn make_known(node: &Node) -> Result<()> {
    let listed = node.netns().ip(&["-j", "link", "show", "dev", "hb0"])?;
    let listed: serde_json::Value = serde_json::from_str(&listed)?;
    let interface = u32::try_from(listed[0]["ifindex"].as_u64().context("it has no index")?)?;
    let pinned = |name: &str| MapData::from_pin(node.bpffs().join(name));
    let mut records: Array<_, [u8; size_of::<LinkRecord>()]> =
        Map::Array(pinned("links")?).try_into()?;
    let mut paths: HashMap<_, [u32; 3], u32> = Map::HashMap(pinned("paths")?).try_into()?;
    for number in 0..CROWD {
        let mut record = [0; size_of::<LinkRecord>()];
        for (at, word) in [
            (offset_of!(LinkRecord, peer), identity(number)),
            (offset_of!(LinkRecord, link), name_id("hb0")),
            (offset_of!(LinkRecord, interface), interface),
        ] {
            record[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        records.set(FIRST_SLOT + number, record, 0)?;
        paths.insert([identity(number), name_id("hb0"), 0], FIRST_SLOT + number, 0)?;
    }
    Ok(())
}

/// Sends without a pause from one CPU, where a virtual cable's receiver then does its work, too.
fn send_from_one_cpu(rogue: &Rogue, frames: &[Frame]) -> Result<u64> {
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut first = CpuSet::new();
            first.set(0)?;
            sched_setaffinity(Pid::from_raw(0), &first)?;
            rogue.send(Network::Heartbeat, frames)
        });
        sender.join().map_err(|_| anyhow!("the sender panicked"))?
    })
}

/// What came back from beta so far.
fn answers(crowd: &mut Crowd, socket: &socket2::Socket) -> Result<u64> {
    use std::io::Read as _;
    let (mut count, mut frame) = (0, [0; 256]);
    loop {
        let mut reader = socket;
        match reader.read(&mut frame) {
            Ok(length) => count += u64::from(crowd.take(&frame[..length])?),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(count),
            Err(error) => return Err(error.into()),
        }
    }
}

fn lost(status: &Status) -> u64 {
    status.nodes.iter().flat_map(|node| &node.links).map(|link| link.lost + link.rejected).sum()
}

/// The real pair did not notice.
fn expect_calm(cluster: &Cluster, before: &[Status]) -> Result<()> {
    const BAD: [&str; 6] =
        ["node-dead", "node-late", "node-stale", "daemon-gone", "link-dead", "link-late"];
    for (node, before) in cluster.nodes.iter().zip(before) {
        let after = node.status()?;
        ensure!(lost(&after) == lost(before), "{}: {:#}", node.name(), after.raw);
        let other = if node.name() == ALPHA { BETA } else { ALPHA };
        ensure!(after.links_up(other), "{}: {:#}", node.name(), after.raw);
        let news = node.events()?.into_iter().filter(|it| it.id > before.events);
        let bad: Vec<_> = news.filter(|it| BAD.contains(&it.kind.as_str())).collect();
        ensure!(bad.is_empty(), "{}: {bad:?}", node.name());
    }
    Ok(())
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_thousand_peers_on_a_real_interface_get_bounded_answers_and_cost_no_heartbeat() -> Result<()> {
    let _turn = turn();
    let place = BpfFs::mount()?;
    // A starved CPU is no part of this.
    let plan =
        ha_tests::bed::Plan { deadtime: Duration::from_secs(4), ..plan("xdp-native", UCAST, true) };
    let mut cluster = Cluster::build(plan)?;
    let rogue = Rogue::join(&mut cluster)?;
    let_xdp_through(&cluster, &place)?;
    cluster.start()?;
    expect_ways(&cluster, &["xdp", "tc", "socket"])?;
    let beta = cluster.node(BETA)?;
    make_known(beta)?;
    let own = beta.status()?.nodes.iter().find(|it| it.name == BETA).map(|it| it.incarnation);
    let route = rogue.route(&cluster, Network::Heartbeat, ALPHA, BETA)?;
    let mut crowd = Crowd {
        mac: route.source_mac,
        target_mac: route.target_mac,
        rogue,
        incarnation: own.context("no beta")?,
        asked: HashSet::new(),
    };
    let socket = crowd.rogue.netns().run(|| open_for_receiving("hb0", ETHERTYPE_IPV6))?;
    // Each has proved itself by a heartbeat.
    let greetings: Vec<_> = (0..CROWD).map(|it| crowd.frame(it, Kind::Heartbeat, 1)).collect();
    crowd.rogue.flood(Network::Heartbeat, &greetings, greetings.len() as u64)?;
    let before: Vec<_> = cluster.nodes.iter().map(Node::status).collect::<Result<_>>()?;
    for number in 0..BURSTS {
        let frames = crowd.burst(number);
        let (start, start_ns) = (beta.status()?, monotonic_ns());
        let asked = send_from_one_cpu(&crowd.rogue, &frames)?;
        thread::sleep(ARRIVAL_TIME);
        let (end, elapsed_ns) = (beta.status()?, monotonic_ns() - start_ns);
        let grown = |reason| end.packets(reason) - start.packets(reason);
        let (answered, refused) = (grown("probe"), grown("probe-limit"));
        let arrived = answers(&mut crowd, &socket)?;
        // The bound of one CPU.
        let bound = ANSWER_BURST + elapsed_ns / ANSWER_INTERVAL_NS + 1;
        println!(
            "{asked} asked in {} ms: {answered} answered (at most {bound}), {refused} refused, {arrived} \
             answers of {PROBE_BYTES} bytes arrived",
            elapsed_ns / 1_000_000
        );
        ensure!((1..=bound).contains(&answered), "{answered} answers, at most {bound}");
        ensure!(answered + refused <= asked, "more than was asked");
        // A full ring on the way back takes some.
        ensure!((answered / 2..=answered).contains(&arrived), "{arrived} of {answered} arrived");
    }
    expect_calm(&cluster, &before)?;
    for node in &mut cluster.nodes {
        node.stop()?;
    }
    cluster.nodes.clear();
    drop(crowd);
    cluster.bed.finish()
}
