//! Named frames with their expected outcome, and plain tables to judge them in: the tests of the
//! host build and those of the programs in the kernel run the same ones.
//!
//! The frames belong in this order: freshness depends on what came before.

use std::cell::{Cell, UnsafeCell};
use std::ptr::NonNull;
use std::vec::Vec;

use crate::arrivals::{ArrivalWords, Arrivals};
use crate::auth::{KEYS_MAX, Key, Scratch, Workspace, method};
use crate::frame::{Source, mapped, parse};
use crate::judge::{Judgement, Tables, judge_and_reply};
use crate::maps::{
    Audience, Change, ChangeKind, Endpoint, Lease, LinkRecord, NodeIdentity, Path, SLOTS_MAX, Site,
    Slate,
};
use crate::reason::Reason;
use crate::record::Record;
use crate::reply::{Budget, Checksum, Reply, Sink};
use crate::wire::{
    Fixed, HEADER_BYTES, Header, Kind, Phase, TAG_BYTES, Way, by_arrival, layers, name_id,
};

mod frames;
mod methods;
mod mutate;

pub use frames::{before_configuration, vectors};
pub use mutate::{Mutator, timeless};

/// Interface that all frames arrive on: loopback's index, which the kernel reports for a program
/// that it runs by `BPF_PROG_TEST_RUN`.
pub const INTERFACE: u32 = 1;
/// This node's incarnation.
pub const OWN: u64 = 1000;
/// Hardware address of that interface.
pub const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// What the tests let pass between two frames: less than the pause between two answers, and more than
/// half of it.
pub const STEP_NS: u64 = 300_000;
/// Port of the endpoints.
pub const PORT: u16 = 694;
/// Slot of alpha on hb0, whose return is never reported.
pub const SLOT_ALPHA: u32 = 0;
/// Slot of alpha on svc, which is on another interface.
pub const SLOT_ELSEWHERE: u32 = 1;
/// Slot of gamma on hb0, whose every heartbeat is a return.
pub const SLOT_GAMMA: u32 = 2;
/// Slot of alpha on the multicast link that has no name.
pub const SLOT_ARRIVAL: u32 = 3;
/// Slot of alpha on such a link of the other interface.
pub const SLOT_ARRIVAL_ELSEWHERE: u32 = 4;
/// Slot that a path names although there is no such record.
pub const SLOT_MISSING: u32 = SLOTS_MAX as u32;

/// One frame and what must become of it.
#[derive(Debug, Clone)]
pub struct Vector {
    /// What it is.
    pub name: &'static str,
    /// The frame.
    pub frame: Vec<u8>,
    /// The outcome.
    pub reason: Reason,
    /// The change that is reported.
    pub change: Option<ChangeKind>,
}

/// What the tables hold at the beginning.
#[derive(Debug, Clone)]
pub struct World {
    /// Who this node is.
    pub identity: NodeIdentity,
    /// Where it listens.
    pub endpoints: Vec<(Endpoint, Site)>,
    /// Who speaks to it.
    pub paths: Vec<(Path, u32)>,
    /// Keys by entry, see [`crate::auth::KEY_ENTRIES`].
    pub keys: Vec<(u8, Key)>,
    /// Records by slot: only what the daemon writes is set.
    pub records: Vec<(u32, LinkRecord)>,
}

/// Entries of the keys that the world knows: every method, and beside some of them, or alone, one of
/// the same number that an earlier key file had.
pub const ENTRIES: [u8; 11] =
    [1, 3, 4, 5, 6, 7, EARLIER + 1, EARLIER + 4, EARLIER + 5, EARLIER + 6, EARLIER + 9];
/// From the number of a key to its entry in an earlier file.
pub const EARLIER: u8 = KEYS_MAX as u8;

/// What a key is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// See [`method`].
    pub method: u32,
    /// The key word; for SipHash the 16 bytes of the key.
    pub word: Vec<u8>,
}

/// The secret of any entry, also of those that the world does not know.
#[must_use]
pub fn secret(entry: u8) -> Secret {
    const MD5_EARLIER: u8 = EARLIER + 9;
    const SHA256_EARLIER: u8 = EARLIER + 5;
    const SHA1_EARLIER: [u8; 2] = [EARLIER + 4, EARLIER + 6];
    let word = |repeated| format!("word of entry {entry} ").repeat(repeated).into_bytes();
    match entry {
        4 => Secret { method: method::CRC, word: Vec::new() },
        5 | MD5_EARLIER => Secret { method: method::MD5, word: word(1) },
        // Longer than a block.
        6 => Secret { method: method::SHA1, word: word(5) },
        7 | SHA256_EARLIER => Secret { method: method::SHA256, word: word(1) },
        entry if SHA1_EARLIER.contains(&entry) => Secret { method: method::SHA1, word: word(1) },
        _ => Secret { method: method::SIPHASH24, word: vec![entry.wrapping_mul(17); 16] },
    }
}

/// The key of [`secret`].
#[must_use]
pub fn key(entry: u8) -> Key {
    let Secret { method, word } = secret(entry);
    match method {
        method::CRC => Key::crc(),
        method::MD5 => Key::md5(&word),
        method::SHA1 => Key::sha1(&word),
        method::SHA256 => Key::sha256(&word),
        _ => Key::siphash24(&word.try_into().unwrap_or_default()),
    }
}

/// The world of [`vectors()`].
#[must_use]
pub fn world() -> World {
    let endpoint = |interface, address| Endpoint { interface, port: u32::from(PORT), address };
    let own =
        |interface, address| (endpoint(interface, address), Site::own(Audience::One, address));
    let shared = |address| (endpoint(INTERFACE, address), Site::shared(None, None));
    let group =
        |address, own| (endpoint(INTERFACE, address), Site::shared(Some(OWN_MAC), Some(own)));
    let path = |sender, link| Path::new(name_id(sender), name_id(link), INTERFACE);
    let arrival = |interface| Path::new(name_id("alpha"), by_arrival::MCAST, interface);
    let by_arrival = |interface| LinkRecord {
        peer: name_id("alpha"),
        link: by_arrival::MCAST,
        interface,
        ..LinkRecord::default()
    };
    let record = |sender, link, interface, silence_ns| LinkRecord {
        peer: name_id(sender),
        link: name_id(link),
        interface,
        silence_ns,
        ..LinkRecord::default()
    };
    World {
        identity: NodeIdentity {
            cluster: name_id("shop"),
            node: name_id("beta"),
            incarnation: OWN,
        },
        endpoints: vec![
            own(INTERFACE, mapped([192, 0, 2, 2])),
            own(INTERFACE, frames::address_v6(2)),
            own(INTERFACE + 1, mapped([192, 0, 2, 9])),
            group(Destination::Group.v4(), mapped([192, 0, 2, 2])),
            group(Destination::Group.v6(), frames::address_v6(2)),
            shared(Destination::Network.v4()),
            shared(Destination::Everybody.v4()),
        ],
        paths: vec![
            (path("alpha", "hb0"), SLOT_ALPHA),
            (path("alpha", "svc"), SLOT_ELSEWHERE),
            (path("gamma", "hb0"), SLOT_GAMMA),
            (path("delta", "hb0"), SLOT_MISSING),
            (arrival(INTERFACE), SLOT_ARRIVAL),
            (arrival(INTERFACE + 1), SLOT_ARRIVAL_ELSEWHERE),
        ],
        keys: ENTRIES.map(|entry| (entry, key(entry))).to_vec(),
        records: vec![
            (SLOT_ALPHA, record("alpha", "hb0", INTERFACE, 0)),
            (SLOT_ELSEWHERE, record("alpha", "svc", INTERFACE + 1, 0)),
            (SLOT_GAMMA, record("gamma", "hb0", INTERFACE, 1)),
            (SLOT_ARRIVAL, by_arrival(INTERFACE)),
            (SLOT_ARRIVAL_ELSEWHERE, by_arrival(INTERFACE + 1)),
        ],
    }
}

/// A world in plain memory.
pub struct Memory {
    world: World,
    records: Vec<UnsafeCell<LinkRecord>>,
    arrivals: Vec<UnsafeCell<Arrivals>>,
    now_ns: Cell<u64>,
    way: Cell<Way>,
    lease: Cell<Lease>,
    budget: Cell<Budget>,
}

impl Memory {
    /// Tables with what `world` holds. The clock stands at one second.
    #[must_use]
    pub fn new(world: World) -> Self {
        let mut records = vec![LinkRecord::default(); SLOTS_MAX];
        for (slot, record) in &world.records {
            if let Some(place) = records.get_mut(*slot as usize) {
                *place = *record;
            }
        }
        let records = records.into_iter().map(UnsafeCell::new).collect();
        let arrivals = (0..SLOTS_MAX).map(|_| UnsafeCell::new(Arrivals::EMPTY)).collect();
        Self {
            world,
            records,
            arrivals,
            now_ns: Cell::new(1_000_000_000),
            way: Cell::new(Way::Xdp),
            lease: Cell::default(),
            budget: Cell::default(),
        }
    }

    /// Changes who judges; the XDP program at first.
    pub fn set_way(&self, way: Way) {
        self.way.set(way);
    }

    /// Changes the daemon's lease; none at first.
    pub fn set_lease(&self, lease: Lease) {
        self.lease.set(lease);
    }

    /// Sets the clock forward.
    pub fn advance(&self, by_ns: u64) {
        self.now_ns.set(self.now_ns.get() + by_ns);
    }

    /// All records.
    #[must_use]
    pub fn contents(&self) -> Vec<LinkRecord> {
        (0..SLOTS_MAX as u32).filter_map(|slot| self.record(slot)).map(contents).collect()
    }
}

impl Memory {
    /// How heartbeats of a slot arrived.
    #[must_use]
    pub fn arrivals_of(&self, slot: u32) -> Option<Arrivals> {
        let cell = self.arrivals.get(slot as usize)?;
        // SAFETY: `Memory` is not `Sync`, and `ArrivalWords` of it are used within one call only.
        Some(unsafe { *cell.get() })
    }
}

/// All fields of a record, loaded one after the other.
#[must_use]
pub fn contents(record: Record<'_>) -> LinkRecord {
    LinkRecord {
        peer: record.peer(),
        link: record.link(),
        interface: record.interface(),
        generation: record.generation(),
        silence_ns: record.silence_ns(),
        last_seen_ns: record.last_seen_ns(),
        heartbeat: record.heartbeat_window(),
        control: record.control_window(),
        sent_ns: record.sent_ns(),
        keepalive_us: record.keepalive_us(),
        lease_age_ms: record.lease_age_ms(),
        phase: record.phase(),
        layers: record.layers(),
        key_offered: record.key_offered(),
        key_entry: record.key_entry(),
        received: record.received(),
        lost: record.lost(),
        rejected: record.rejected(),
        probes: record.probe_window(),
        answer_from_ns: record.answer_from_ns(),
        answered_ns: record.answered_ns(),
        answer_at_ns: record.answer_at_ns(),
        answer_incarnation: record.answer_incarnation(),
        answer_lease_age_ms: record.answer_lease_age_ms(),
        answer_layers: record.answer_layers(),
        answers: record.answers(),
        answer_way: record.answer_way(),
        reserved: 0,
    }
}

impl Workspace for Memory {
    fn with_scratch<R>(&self, work: impl FnOnce(&mut Scratch) -> R) -> Option<R> {
        crate::auth::OwnStack.with_scratch(work)
    }
}

impl Tables for Memory {
    fn node(&self) -> Option<NodeIdentity> {
        Some(self.world.identity).filter(|identity| identity.incarnation != 0)
    }

    fn site(&self, endpoint: &Endpoint) -> Option<Site> {
        let mut endpoints = self.world.endpoints.iter();
        endpoints.find(|(known, _)| known == endpoint).map(|(_, site)| *site)
    }

    fn slot(&self, path: &Path) -> Option<u32> {
        self.world.paths.iter().find(|(known, _)| known == path).map(|(_, slot)| *slot)
    }

    fn record(&self, slot: u32) -> Option<Record<'_>> {
        let pointer = NonNull::new(self.records.get(slot as usize)?.get())?;
        // SAFETY: the cell lives as long as `self`, is aligned, and `Memory` is not `Sync`.
        Some(unsafe { Record::new(pointer) })
    }

    fn arrivals(&self, slot: u32) -> Option<ArrivalWords<'_>> {
        let pointer = NonNull::new(self.arrivals.get(slot as usize)?.get())?;
        // SAFETY: as above.
        Some(unsafe { ArrivalWords::new(pointer) })
    }

    fn key(&self, entry: u32) -> Option<&Key> {
        let known = self.world.keys.iter().find(|(known, _)| u32::from(*known) == entry);
        known.map(|(_, key)| key)
    }

    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    fn way(&self) -> Way {
        self.way.get()
    }

    fn lease(&self) -> Lease {
        self.lease.get()
    }

    fn spend(&self, now_ns: u64) -> bool {
        let mut budget = self.budget.get();
        let spent = budget.spend(now_ns);
        self.budget.set(budget);
        spent
    }
}

/// A frame in memory that an answer is written into.
#[derive(Debug)]
pub struct Page(core::cell::RefCell<Vec<u8>>);

impl Page {
    /// With that frame.
    #[must_use]
    pub fn new(frame: &[u8]) -> Self {
        Self(core::cell::RefCell::new(frame.to_vec()))
    }

    /// What it holds now.
    #[must_use]
    pub fn contents(&self) -> Vec<u8> {
        self.0.borrow().clone()
    }
}

impl Source for Page {
    fn length(&self) -> usize {
        self.0.borrow().len()
    }

    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.borrow().as_slice().read(offset)
    }

    fn words<const W: usize>(&self, offset: usize) -> Option<[u64; W]> {
        self.0.borrow().as_slice().words(offset)
    }
}

impl Sink for Page {
    const BY_DIFFERENCE: bool = false;

    fn write<const N: usize>(&self, offset: usize, bytes: &[u8; N]) -> Option<()> {
        self.0.borrow_mut().get_mut(offset..offset + N)?.copy_from_slice(bytes);
        Some(())
    }

    fn write_words<const W: usize>(&self, offset: usize, words: &[u64; W]) -> Option<()> {
        let mut at = offset;
        for word in words {
            self.write(at, &word.to_ne_bytes())?;
            at += 8;
        }
        Some(())
    }

    fn write_checksum(&self, checksum: &Checksum) -> Option<()> {
        self.write(checksum.at, &checksum.value.to_ne_bytes())
    }
}

/// Judges a frame; with it, what is sent back if it is a probe that is answered.
#[must_use]
pub fn judge_and_answer(tables: &Memory, frame: &[u8]) -> (Judgement, Option<Vec<u8>>) {
    let page = Page::new(frame);
    let write = |slate: &Slate| {
        let reply = Reply::on(slate);
        parse(&page).is_some_and(|datagram| reply.write(&page, &datagram).is_some())
    };
    let mut slate = Slate::default();
    let judgement = judge_and_reply(tables, frame, INTERFACE, || Some(&mut slate), write);
    let answer = (judgement.reason == Reason::Probe).then(|| page.contents());
    (judgement, answer)
}

/// How the frame is tagged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vlan {
    /// Not at all.
    Untagged,
    /// IEEE 802.1Q, a customer tag.
    Customer,
    /// IEEE 802.1ad, a service tag.
    Service,
    /// One of each, which no heartbeat has.
    Both,
}

/// Where a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// The host with this last byte of its address.
    Host(u8),
    /// A multicast group.
    Group,
    /// The broadcast address of the network; there is none in IPv6.
    Network,
    /// The broadcast address of every network; there is none in IPv6.
    Everybody,
}

impl Destination {
    fn v4(self) -> [u8; 16] {
        mapped(match self {
            Self::Host(last) => [192, 0, 2, last],
            Self::Group => [225, 0, 0, 1],
            Self::Network => [192, 0, 2, 255],
            Self::Everybody => [255; 4],
        })
    }

    fn v6(self) -> [u8; 16] {
        match self {
            Self::Host(last) => frames::address_v6(last),
            // A transient group of the link's own scope (RFC 4291 2.7).
            Self::Group | Self::Network | Self::Everybody => {
                [0xff, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x06, 0x94]
            }
        }
    }
}

/// What a frame is made of.
#[derive(Debug, Clone)]
pub struct Packet {
    /// VLAN tags.
    pub vlan: Vlan,
    /// Whether it travels over IPv6.
    pub v6: bool,
    /// Destination address.
    pub destination: Destination,
    /// Destination port.
    pub port: u16,
    /// The header.
    pub header: Header,
    /// What it is signed with.
    pub key: Key,
    /// What follows the tag.
    pub rest: Vec<u8>,
}

impl Packet {
    /// A heartbeat of alpha on hb0, incarnation 20, that proves itself.
    #[must_use]
    pub fn heartbeat(sequence: u64) -> Self {
        Self {
            vlan: Vlan::Untagged,
            v6: false,
            destination: Destination::Host(2),
            port: PORT,
            header: Header {
                kind: Kind::Heartbeat,
                cluster: name_id("shop"),
                sender: name_id("alpha"),
                receiver: name_id("beta"),
                link: name_id("hb0"),
                key: 1,
                way: Way::None,
                body_bytes: 0,
                incarnation: 20,
                echo: OWN,
                sequence,
                sent_ns: sequence.wrapping_add(5_000_000_000),
                keepalive_us: 10_000,
                generation: 7,
                phase: Phase::Active,
                layers: layers::LINK | layers::KERNEL | layers::DAEMON,
                lease_age_ms: 3,
                key_offered: 0x0ffe_4ed0,
            },
            key: key(1),
            rest: Vec::new(),
        }
    }

    /// The header with its tag.
    #[must_use]
    pub fn fixed(&self) -> Fixed {
        let mut fixed = self.header.encode();
        self.key.sign(&mut fixed);
        fixed
    }

    /// The whole frame.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        frames::frame(self)
    }
}
