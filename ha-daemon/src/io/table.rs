//! The daemon's own tables: the same judge as in the kernel, for datagrams that come up to a
//! socket. Control messages always do; heartbeats do where no program is attached.

use std::cell::{Cell, UnsafeCell};
use std::collections::{BTreeMap, HashMap};
use std::ptr::NonNull;
use std::sync::Arc;

use ha_common::arrivals::{ArrivalWords, Arrivals};
use ha_common::auth::{Key, OwnStack, Scratch, Workspace};
use ha_common::fresh::Window;
use ha_common::judge::{Arrival, Tables, judge_payload};
use ha_common::maps::{
    Audience, Change, Endpoint, Lease, LinkRecord, NodeIdentity, Path as PathKey, Site,
};
use ha_common::reason::Reason;
use ha_common::record::Record;
use ha_common::reply::Budget;
use ha_common::wire::{BODY_BYTES_MAX, FIXED_BYTES, Fixed, Header, Kind, TAG_BYTES, Way};

use super::arrivals::OwnArrivals;
use super::clock::monotonic_ns;
use super::keys::Keys;
use super::paths::Path;
use super::records::RecordMemory;

/// What became of a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// Nothing for the daemon to do.
    Nothing,
    /// A probe: its answer is to be sent on that path.
    Probe {
        /// Slot of the path.
        slot: u32,
        /// The answer, signed.
        answer: [u8; FIXED_BYTES],
    },
    /// A heartbeat changed something.
    Change(Change),
    /// An authentic control message.
    Control {
        /// Slot of its path.
        slot: u32,
        /// Its header.
        header: Header,
        /// Its body.
        body: Vec<u8>,
    },
}

/// Records, identity and keys of user space.
pub struct Table {
    identity: NodeIdentity,
    slots: HashMap<PathKey, u32>,
    keys: Arc<Keys>,
    records: Box<[UnsafeCell<LinkRecord>]>,
    arrivals: OwnArrivals,
    counters: BTreeMap<Reason, u64>,
    now_ns: Cell<u64>,
    lease: Cell<Lease>,
    budget: Cell<Budget>,
}

impl Table {
    /// Empty records for these paths.
    #[must_use]
    pub fn new(identity: NodeIdentity, paths: &[Path], keys: Arc<Keys>) -> Self {
        let record = |path: &Path| {
            UnsafeCell::new(LinkRecord {
                peer: path.key.sender,
                link: path.key.link,
                interface: path.interface_index(),
                silence_ns: path.silence_ns,
                ..LinkRecord::default()
            })
        };
        Self {
            identity,
            slots: paths.iter().zip(0..).map(|(path, slot)| (path.key, slot)).collect(),
            keys,
            records: paths.iter().map(record).collect(),
            arrivals: OwnArrivals::new(paths.len()),
            counters: BTreeMap::new(),
            now_ns: Cell::new(0),
            lease: Cell::default(),
            budget: Cell::default(),
        }
    }

    /// Renews the daemon's lease, which probes are answered with.
    pub fn renew_lease(&self, lease: Lease) {
        self.lease.set(lease);
    }

    /// Gives a slot what the program before knew of its path.
    pub fn restore(&self, slot: u32, known: &RecordMemory) {
        if let Some(record) = self.record(slot) {
            known.store(record);
        }
    }

    /// The record in a slot.
    #[must_use]
    pub fn record(&self, slot: u32) -> Option<Record<'_>> {
        let cell = self.records.get(usize::try_from(slot).ok()?)?;
        let pointer = NonNull::new(cell.get())?;
        // SAFETY: the cell lives as long as `self`; `Table` is not `Sync`, so nobody else is there.
        Some(unsafe { Record::new(pointer) })
    }

    /// How heartbeats of a slot arrive here.
    #[must_use]
    pub fn arrivals(&self, slot: u32) -> Option<Arrivals> {
        self.arrivals.read(slot)
    }

    /// Replaces what is known of that.
    pub fn set_arrivals(&mut self, slot: u32, arrivals: &Arrivals) {
        self.arrivals.write(slot, arrivals);
    }

    /// Packets judged so far, by reason.
    #[must_use]
    pub fn counters(&self) -> &BTreeMap<Reason, u64> {
        &self.counters
    }

    /// Judges a datagram that arrived at `now_ns` on an interface, at an endpoint with that
    /// `audience`. With `heartbeats` off, heartbeats are the kernel's business and one that comes up
    /// here anyway is ignored.
    pub fn receive(
        &mut self,
        datagram: &[u8],
        interface: u32,
        now_ns: u64,
        heartbeats: bool,
        audience: Audience,
    ) -> Received {
        let Some(mut fixed) = Fixed::read(datagram, 0) else {
            return self.count(Reason::Truncated);
        };
        let header = Header::decode(&fixed);
        let kind = header.map(|header| header.kind);
        if !heartbeats && matches!(kind, Ok(Kind::Heartbeat | Kind::Answer)) {
            return Received::Nothing;
        }
        // A stamp is converted between clocks: what is compared with a moment that this clock gave
        // needs the clock itself.
        let is_question = matches!(kind, Ok(Kind::Probe | Kind::Answer));
        self.now_ns.set(if is_question { monotonic_ns() } else { now_ns });
        let key = |it: Header| PathKey::new(it.sender, it.link, interface);
        let slot = header.ok().and_then(|it| self.slot(&key(it)));
        let window = slot.and_then(|slot| self.record(slot)).map(Record::control_window);
        let judgement = judge_payload(
            self,
            &mut fixed,
            &Arrival::at_socket(datagram.len(), interface, audience),
        );
        let (mut reason, change) = (judgement.reason, judgement.change());
        if let (Reason::Control, Ok(header), Some(slot), Some(window)) =
            (reason, header, slot, window)
            && !self.body_is_authentic(&fixed, &header, datagram)
        {
            self.refuse_control(slot, window);
            reason = Reason::BadTag;
        }
        let outcome = self.count(reason);
        match (reason, header, change) {
            (Reason::Probe, _, _) => {
                slot.map_or(outcome, |slot| Received::Probe { slot, answer: fixed.to_bytes() })
            }
            (Reason::Control, Ok(header), _) => control(slot, header, datagram).unwrap_or(outcome),
            (_, _, Some(change)) => Received::Change(change),
            _ => outcome,
        }
    }

    /// The window must not have moved for a message that is refused after all.
    fn refuse_control(&self, slot: u32, window: Window) {
        let Some(record) = self.record(slot) else { return };
        record.set_control_heard(window.heard);
        record.set_control_believed(window.believed);
        record.set_control_sequence(window.sequence);
        record.count_rejected();
    }

    /// The header is authentic already.
    fn body_is_authentic(&self, fixed: &Fixed, header: &Header, datagram: &[u8]) -> bool {
        if header.body_bytes == 0 {
            return true;
        }
        let tag = datagram.get(FIXED_BYTES..FIXED_BYTES + TAG_BYTES);
        match (tag, body(header, datagram)) {
            (Some(tag), Some(body)) if body.len() <= BODY_BYTES_MAX => {
                // Compared as one number: its time tells nothing about how much was right.
                let number = |bytes: &[u8]| bytes.try_into().map(u128::from_ne_bytes).ok();
                let mut keys = self.keys.of_number(header.key);
                keys.any(|key| number(tag) == number(&key.body_tag(fixed, body)))
            }
            _ => false,
        }
    }

    fn count(&mut self, reason: Reason) -> Received {
        *self.counters.entry(reason).or_default() += 1;
        Received::Nothing
    }
}

fn control(slot: Option<u32>, header: Header, datagram: &[u8]) -> Option<Received> {
    Some(Received::Control { slot: slot?, header, body: body(&header, datagram)?.to_vec() })
}

fn body<'a>(header: &Header, datagram: &'a [u8]) -> Option<&'a [u8]> {
    match usize::from(header.body_bytes) {
        0 => Some(&[]),
        bytes => datagram.get(FIXED_BYTES + TAG_BYTES..FIXED_BYTES + TAG_BYTES + bytes),
    }
}

impl Workspace for Table {
    fn with_scratch<R>(&self, work: impl FnOnce(&mut Scratch) -> R) -> Option<R> {
        OwnStack.with_scratch(work)
    }
}

impl Tables for Table {
    fn node(&self) -> Option<NodeIdentity> {
        Some(self.identity)
    }

    fn site(&self, _: &Endpoint) -> Option<Site> {
        // Asked only of frames. A socket knows whom it is bound for.
        None
    }

    fn slot(&self, path: &PathKey) -> Option<u32> {
        self.slots.get(path).copied()
    }

    fn record(&self, slot: u32) -> Option<Record<'_>> {
        Self::record(self, slot)
    }

    fn arrivals(&self, slot: u32) -> Option<ArrivalWords<'_>> {
        self.arrivals.words(slot)
    }

    fn key(&self, entry: u32) -> Option<&Key> {
        self.keys.accepted(entry)
    }

    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    fn way(&self) -> Way {
        Way::Socket
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AuthKey, AuthMethod, KeyRing, LinkIndex, NodeIndex};
    use crate::io::paths::{Carrier, Network};
    use ha_common::wire::{Phase, name_id};

    const OWN: u64 = 1_000;
    const INTERFACE: u32 = 3;

    fn ring() -> KeyRing {
        let word = b"sixteen bytes...".to_vec();
        KeyRing::new(1, vec![AuthKey { number: 1, method: AuthMethod::SipHash24, word }])
    }

    fn key() -> Key {
        ring().keys[0].to_key()
    }

    fn table() -> Table {
        let path = Path {
            peer: NodeIndex(1),
            link: LinkIndex(0),
            key: PathKey::new(name_id("beta"), name_id("hb0"), INTERFACE),
            silence_ns: 0,
            carrier: Carrier::Network(Network {
                interface: "hb0".parse().unwrap(),
                interface_index: INTERFACE,
                entrances: Vec::new(),
                remotes: Vec::new(),
                own: Vec::new(),
                mac: None,
                ends: None,
            }),
        };
        let identity =
            NodeIdentity { cluster: name_id("shop"), node: name_id("alpha"), incarnation: OWN };
        Table::new(identity, &[path], Arc::new(Keys::new(&ring()).unwrap()))
    }

    fn control(sequence: u64, body: &[u8]) -> Vec<u8> {
        let header = Header {
            kind: Kind::Control,
            cluster: name_id("shop"),
            sender: name_id("beta"),
            receiver: name_id("alpha"),
            link: name_id("hb0"),
            key: 1,
            way: Way::None,
            body_bytes: body.len() as u16,
            incarnation: 7,
            echo: OWN,
            sequence,
            sent_ns: 0,
            keepalive_us: 0,
            generation: 0,
            phase: Phase::Active,
            layers: 0,
            lease_age_ms: 0,
            key_offered: 0,
        };
        let mut fixed = header.encode();
        key().sign(&mut fixed);
        [&fixed.to_bytes()[..], &key().body_tag(&fixed, body), body].concat()
    }

    fn is_taken(table: &mut Table, datagram: &[u8]) -> bool {
        matches!(
            table.receive(datagram, INTERFACE, 1, true, Audience::One),
            Received::Control { .. }
        )
    }

    #[test]
    fn a_wrong_body_is_refused_counted_and_moves_no_window() {
        let mut table = table();
        let mut wrong = control(5, b"body");
        *wrong.last_mut().unwrap() ^= 1;
        assert!(!is_taken(&mut table, &wrong));
        assert_eq!(table.counters().get(&Reason::BadTag), Some(&1));
        assert_eq!(table.record(0).unwrap().rejected(), 1);
        assert!(is_taken(&mut table, &control(1, b"body")), "an earlier one is still fresh");
    }

    #[test]
    fn a_cut_body_is_truncated_as_in_the_kernel() {
        let mut table = table();
        let whole = control(5, b"body");
        assert!(!is_taken(&mut table, &whole[..whole.len() - 1]));
        assert_eq!(table.counters().get(&Reason::Truncated), Some(&1));
    }

    #[test]
    fn a_message_is_taken_once() {
        let mut table = table();
        assert!(is_taken(&mut table, &control(5, b"body")));
        assert!(!is_taken(&mut table, &control(5, b"body")));
        assert_eq!(table.counters().get(&Reason::OldSequence), Some(&1));
    }
}
