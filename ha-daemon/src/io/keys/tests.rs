//! A change of keys over the judge: several nodes whose files change in any order, and not one
//! heartbeat that is refused.

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::ptr::NonNull;

use ha_common::auth::{OwnStack, Scratch, Workspace};
use ha_common::judge::{Arrival, Judgement, Tables, judge_payload};
use ha_common::maps::{Audience, Endpoint, Lease, LinkRecord, NodeIdentity, Path, Site};
use ha_common::reason::Reason;
use ha_common::record::Record;
use ha_common::wire::{FIXED_BYTES, Header, Kind, Phase, Way};
use proptest::prelude::*;

use super::*;
use crate::config::AuthMethod;

const ARRIVAL: Arrival = Arrival::at_socket(FIXED_BYTES, 0, Audience::One);

const CLUSTER: u32 = 7;
/// A turn of every node, nanoseconds.
const TURN: u64 = 10_000_000;
/// Time without a heartbeat after which a peer is not heard.
const SILENCE_MAX: u64 = 4 * TURN;

/// A node: what the daemon and its kernel side hold, and nothing else.
struct Node {
    id: u32,
    incarnation: u64,
    sequence: u64,
    now: u64,
    ring: KeyRing,
    keys: Keys,
    /// By node; the own one is not used.
    records: Vec<UnsafeCell<LinkRecord>>,
    signing: Vec<Signing>,
}

impl Workspace for Node {
    fn with_scratch<R>(&self, work: impl FnOnce(&mut Scratch) -> R) -> Option<R> {
        OwnStack.with_scratch(work)
    }
}

impl Tables for Node {
    fn node(&self) -> Option<NodeIdentity> {
        Some(NodeIdentity { cluster: CLUSTER, node: self.id, incarnation: self.incarnation })
    }

    fn site(&self, _: &Endpoint) -> Option<Site> {
        None
    }

    fn way(&self) -> Way {
        Way::Socket
    }

    fn lease(&self) -> Lease {
        Lease::default()
    }

    fn spend(&self, _: u64) -> bool {
        true
    }

    fn slot(&self, path: &Path) -> Option<u32> {
        Some(path.sender)
    }

    fn record(&self, slot: u32) -> Option<Record<'_>> {
        let pointer = NonNull::new(self.records.get(slot as usize)?.get())?;
        // SAFETY: the cell lives as long as `self`, and one thread uses it.
        Some(unsafe { Record::new(pointer) })
    }

    fn arrivals(&self, _: u32) -> Option<ha_common::arrivals::ArrivalWords<'_>> {
        None
    }

    fn key(&self, entry: u32) -> Option<&Key> {
        self.keys.accepted(entry)
    }

    fn now_ns(&self) -> u64 {
        self.now
    }
}

impl Node {
    fn start(id: u32, nodes: usize, incarnation: u64, ring: KeyRing) -> Self {
        Self {
            id,
            incarnation,
            sequence: 0,
            now: TURN,
            keys: Keys::new(&ring).unwrap(),
            ring,
            records: (0..nodes).map(|_| UnsafeCell::default()).collect(),
            signing: vec![Signing::Active; nodes],
        }
    }

    /// A reload: the records stay, as in a daemon that hands its state over.
    fn reload(&mut self, file: &KeyRing) {
        let before = if self.keys.is_settled() { self.ring.settled() } else { self.ring.clone() };
        self.ring = file.clone().after(&before);
        self.keys = Keys::new(&self.ring).unwrap();
        self.keys.in_force(self.now);
        self.turn();
    }

    fn peer_keys(&self, peer: u32) -> Option<PeerKeys> {
        let record = self.record(peer).unwrap();
        let heard = record.last_seen_ns() != 0
            && self.now - record.last_seen_ns() <= SILENCE_MAX
            && record.heard() == record.believed();
        heard.then(|| self.keys.of_peer(&[record])).flatten()
    }

    fn turn(&mut self) {
        let peers = (0..self.records.len() as u32).filter(|peer| *peer != self.id);
        let known = |peer| (self.record(peer).unwrap().heard() != 0).then_some(PeerKeys::UNKNOWN);
        let offers: Vec<_> =
            peers.map(|peer| self.peer_keys(peer).or_else(|| known(peer))).collect();
        if self.keys.may_settle(&offers) {
            self.keys.settle();
        }
        for peer in 0..self.records.len() as u32 {
            self.signing[peer as usize] = self.keys.signing_for(self.peer_keys(peer));
        }
    }

    fn heartbeat(&self, receiver: u32) -> Fixed {
        let signer = self.keys.signer(self.signing[receiver as usize], self.sequence);
        let header = Header {
            kind: Kind::Heartbeat,
            cluster: CLUSTER,
            sender: self.id,
            receiver,
            link: 0,
            key: signer.number,
            way: Way::None,
            body_bytes: 0,
            incarnation: self.incarnation,
            echo: self.record(receiver).unwrap().heard(),
            sequence: self.sequence,
            sent_ns: self.now,
            keepalive_us: 10_000,
            generation: 1,
            phase: Phase::Active,
            layers: 0,
            lease_age_ms: 0,
            key_offered: self.keys.offered(),
        };
        let mut fixed = header.encode();
        signer.key.sign(&mut fixed);
        fixed
    }
}

/// Nodes, and heartbeats on their way.
struct Net {
    nodes: Vec<Node>,
    in_flight: VecDeque<(usize, Fixed, Signing)>,
    /// Of heartbeats whose sender knew which key its receiver accepts.
    refused: Vec<Reason>,
}

impl Net {
    fn new(nodes: usize, ring: &KeyRing) -> Self {
        let start = |id| Node::start(id, nodes, 100 + u64::from(id), ring.clone());
        let nodes = (0..nodes as u32).map(start).collect();
        let mut net = Self { nodes, in_flight: VecDeque::new(), refused: Vec::new() };
        net.run(4);
        assert!(net.all_hear(), "the nodes do not hear each other to begin with");
        net
    }

    /// Everybody sends, what was sent in the turn before arrives, everybody looks. `is_lost` by number.
    fn turn(&mut self, is_lost: impl Fn(usize) -> bool) {
        let arriving = std::mem::take(&mut self.in_flight);
        for sender in 0..self.nodes.len() {
            self.nodes[sender].now += TURN;
            self.nodes[sender].sequence += 1;
            for receiver in (0..self.nodes.len()).filter(|receiver| *receiver != sender) {
                let heartbeat = self.nodes[sender].heartbeat(receiver as u32);
                let signing = self.nodes[sender].signing[receiver];
                self.in_flight.push_back((receiver, heartbeat, signing));
            }
        }
        for (number, (receiver, heartbeat, signing)) in arriving.into_iter().enumerate() {
            if is_lost(number) {
                continue;
            }
            let node = &self.nodes[receiver];
            let Judgement { reason, .. } = judge_payload(node, &mut heartbeat.clone(), &ARRIVAL);
            let accepted = matches!(reason, Reason::Accepted | Reason::Greeting);
            if !accepted && signing != Signing::InTurn {
                self.refused.push(reason);
            }
        }
        self.nodes.iter_mut().for_each(Node::turn);
    }

    fn run(&mut self, turns: usize) {
        for _ in 0..turns {
            self.turn(|_| false);
        }
    }

    fn all_hear(&self) -> bool {
        let peers = 0..self.nodes.len() as u32;
        let hears = |it: &Node| peers.clone().all(|id| id == it.id || it.peer_keys(id).is_some());
        self.nodes.iter().all(hears)
    }

    /// Whether nobody accepts an earlier key or signs with one.
    fn is_settled(&self) -> bool {
        self.nodes.iter().all(|node| {
            let retained =
                (KEYS_MAX as u32..KEY_ENTRIES as u32).any(|it| node.keys.accepted(it).is_some());
            !retained && node.keys.earlier_number().is_none()
        })
    }
}

fn key(number: u8, method: AuthMethod, word: &str) -> AuthKey {
    let word = if method == AuthMethod::Crc { "" } else { word };
    AuthKey { number, method, word: word.as_bytes().to_vec() }
}

fn file<const N: usize>(active: u8, keys: [AuthKey; N]) -> KeyRing {
    KeyRing::new(active, keys.to_vec())
}

fn old() -> AuthKey {
    key(1, AuthMethod::Sha1, "old")
}

/// What operators do: the same number with another word or method, another number alone, and another
/// number beside the old one.
fn new_files() -> [KeyRing; 4] {
    [
        file(1, [key(1, AuthMethod::Sha1, "new")]),
        file(1, [key(1, AuthMethod::SipHash24, "old")]),
        file(2, [key(2, AuthMethod::Md5, "new")]),
        file(2, [old(), key(2, AuthMethod::Crc, "")]),
    ]
}

#[test]
fn files_that_change_one_after_the_other_silence_nobody() {
    for new in new_files() {
        for first in 0..3 {
            let mut net = Net::new(3, &file(1, [old()]));
            for node in 0..3 {
                net.nodes[(first + node) % 3].reload(&new);
                net.run(20);
                assert!(net.all_hear());
                assert_eq!(net.is_settled(), node == 2, "a key went too early, or stays");
            }
            assert_eq!(net.refused, []);
            let active = net.nodes[0].keys.active_number();
            assert!(
                net.nodes.iter().all(|node| node.keys.signer(Signing::Active, 0).number == active)
            );
        }
    }
}

#[test]
fn files_that_change_at_once_silence_nobody() {
    for new in new_files() {
        let mut net = Net::new(3, &file(1, [old()]));
        net.nodes.iter_mut().for_each(|node| node.reload(&new));
        net.run(6);
        assert_eq!(net.refused, []);
        assert!(net.is_settled() && net.all_hear());
    }
}

#[test]
fn after_the_change_the_old_key_is_refused() {
    let [new, ..] = new_files();
    let mut net = Net::new(2, &file(1, [old()]));
    net.nodes.iter_mut().for_each(|node| node.reload(&new));
    net.run(6);
    assert!(net.is_settled());
    let mut stranger = Node::start(0, 2, 200, file(1, [old()]));
    stranger.sequence = 1;
    let judgement = judge_payload(&net.nodes[1], &mut stranger.heartbeat(1), &ARRIVAL);
    assert_eq!(judgement.reason, Reason::BadTag);
}

#[test]
fn a_peer_that_keeps_the_old_file_is_heard_for_ever() {
    let [new, ..] = new_files();
    let mut net = Net::new(2, &file(1, [old()]));
    net.nodes[0].reload(&new);
    net.run(500);
    assert_eq!(net.refused, []);
    assert!(net.all_hear() && !net.is_settled());
}

#[test]
fn a_change_that_is_taken_back_silences_nobody() {
    let [new, ..] = new_files();
    let mut net = Net::new(2, &file(1, [old()]));
    net.nodes[0].reload(&new);
    net.run(5);
    net.nodes[0].reload(&file(1, [old()]));
    net.run(5);
    assert_eq!(net.refused, []);
    assert!(net.all_hear() && net.is_settled());
}

#[test]
fn another_file_before_the_change_has_come_to_its_end_silences_nobody() {
    let newest = file(1, [key(1, AuthMethod::Sha256, "newest")]);
    let [new, ..] = new_files();
    let mut net = Net::new(2, &file(1, [old()]));
    net.nodes[0].reload(&new);
    net.run(5);
    net.nodes[0].reload(&newest);
    net.run(5);
    net.nodes[1].reload(&newest);
    net.run(5);
    assert_eq!(net.refused, []);
    assert!(net.all_hear() && net.is_settled());
}

#[test]
fn a_peer_that_starts_with_the_new_file_alone_is_heard_again() {
    for new in new_files() {
        let mut net = Net::new(2, &file(1, [old()]));
        net.nodes[0].reload(&new);
        net.run(5);
        net.nodes[1] = Node::start(1, 2, 300, new);
        net.run(10);
        assert!(net.all_hear() && net.is_settled());
    }
}

#[test]
fn nothing_is_forgotten_while_nobody_is_heard() {
    let [new, ..] = new_files();
    let mut net = Net::new(2, &file(1, [old()]));
    for _ in 0..20 {
        net.turn(|_| true);
    }
    assert!(!net.all_hear());
    net.nodes[0].reload(&new);
    for _ in 0..20 {
        net.turn(|_| true);
    }
    assert!(!net.is_settled());
    // Both keys in turn reach a peer of which nothing is known; its own node has the old file.
    net.run(6);
    assert!(net.all_hear());
    assert_eq!(net.nodes[0].signing[1], Signing::Earlier);
}

#[test]
fn who_is_cut_off_during_a_change_is_heard_again_with_the_earlier_file() {
    for new in new_files() {
        let mut net = Net::new(3, &file(1, [old()]));
        // What goes to node 2 and comes from it: 1, 3, 4, 5 of the six heartbeats of a turn.
        let cut =
            |net: &mut Net| (0..20).for_each(|_| net.turn(|number| [1, 3, 4, 5].contains(&number)));
        cut(&mut net);
        net.nodes[0].reload(&new);
        net.nodes[1].reload(&new);
        cut(&mut net);
        assert!(!net.is_settled());
        net.run(6);
        assert!(net.all_hear());
        assert_eq!(net.refused, []);
        net.nodes[2].reload(&new);
        net.run(6);
        assert!(net.all_hear() && net.is_settled());
    }
}

#[test]
fn what_is_sent_once_is_signed_with_every_key_that_may_be_right() {
    let [new, ..] = new_files();
    let keys = Keys::new(&new.clone().after(&file(1, [old()]))).unwrap();
    assert_eq!(keys.signers(Signing::InTurn).len(), 2);
    assert_eq!(keys.signers(Signing::Active), [keys.signer(Signing::Active, 1)]);
    assert_eq!(keys.signers(Signing::Earlier), [keys.signer(Signing::Earlier, 0)]);
    assert_eq!(Keys::new(&new).unwrap().signers(Signing::InTurn).len(), 1);
}

#[test]
fn a_ring_without_its_active_key_is_refused() {
    let error = Keys::new(&file(3, [old()])).unwrap_err().to_string();
    assert_eq!(error, "key 3 is active but not in the key file");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Three changes, each node at a turn of its own, every fifth heartbeat lost.
    #[test]
    fn no_order_of_changes_silences_anybody(
        delays in proptest::collection::vec((0usize..12, 0usize..12, 0usize..12), 3),
        methods in proptest::collection::vec(0usize..5, 3),
        same_number in any::<bool>(),
        seed in any::<usize>(),
    ) {
        let mut net = Net::new(3, &file(1, [old()]));
        for (change, (delays, method)) in delays.into_iter().zip(methods).enumerate() {
            let number = if same_number { 1 } else { 2 + change as u8 };
            let word = format!("word {change}");
            let new = file(number, [key(number, AuthMethod::ALL[method], &word)]);
            for turn in 0..40_usize {
                for (node, delay) in [delays.0, delays.1, delays.2].into_iter().enumerate() {
                    if turn == delay {
                        net.nodes[node].reload(&new);
                    }
                }
                net.turn(|number| (seed ^ (turn * 31 + number * 7)) % 5 == 0);
            }
            prop_assert_eq!(&net.refused, &[]);
            prop_assert!(net.is_settled(), "change {} has no end", change);
            prop_assert!(net.all_hear(), "change {} silenced somebody", change);
        }
    }
}
