//! The daemon's own tables: the same judge as in the kernel, for datagrams that come up to a
//! socket. Control messages always do; heartbeats do where no program is attached.

use std::cell::{Cell, UnsafeCell};
use std::collections::{BTreeMap, HashMap};
use std::ptr::NonNull;

use ha_common::auth::Key;
use ha_common::fresh::Window;
use ha_common::judge::{Judgement, Tables, judge_payload};
use ha_common::maps::{Change, Endpoint, LinkRecord, NodeIdentity, Path as PathKey};
use ha_common::reason::Reason;
use ha_common::record::Record;
use ha_common::wire::{BODY_BYTES_MAX, FIXED_BYTES, Fixed, Header, Kind, TAG_BYTES};

use super::paths::Path;
use super::records::RecordMemory;

/// What became of a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// Nothing for the daemon to do.
    Nothing,
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
    keys: HashMap<u8, Key>,
    records: Box<[UnsafeCell<LinkRecord>]>,
    counters: BTreeMap<Reason, u64>,
    now_ns: Cell<u64>,
}

impl Table {
    /// Empty records for these paths.
    #[must_use]
    pub fn new(
        identity: NodeIdentity,
        paths: &[Path],
        keys: &[(u8, Key)],
        silence_ns: u64,
    ) -> Self {
        let record = |path: &Path| {
            UnsafeCell::new(LinkRecord {
                peer: path.key.sender,
                link: path.key.link,
                interface: path.interface_index,
                silence_ns,
                ..LinkRecord::default()
            })
        };
        Self {
            identity,
            slots: paths.iter().zip(0..).map(|(path, slot)| (path.key, slot)).collect(),
            keys: keys.iter().copied().collect(),
            records: paths.iter().map(record).collect(),
            counters: BTreeMap::new(),
            now_ns: Cell::new(0),
        }
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

    /// Packets judged so far, by reason.
    #[must_use]
    pub fn counters(&self) -> &BTreeMap<Reason, u64> {
        &self.counters
    }

    /// Judges a datagram that arrived at `now_ns` on an interface. With `heartbeats` off, heartbeats
    /// are the kernel's business and one that comes up here anyway is ignored.
    pub fn receive(
        &mut self,
        datagram: &[u8],
        interface: u32,
        now_ns: u64,
        heartbeats: bool,
    ) -> Received {
        let Some(fixed) = Fixed::read(datagram, 0) else {
            return self.count(Reason::Truncated);
        };
        let header = Header::decode(&fixed);
        if !heartbeats && header.is_ok_and(|header| header.kind == Kind::Heartbeat) {
            return Received::Nothing;
        }
        self.now_ns.set(now_ns);
        let slot =
            header.ok().and_then(|it| self.slot(&PathKey { sender: it.sender, link: it.link }));
        let window = slot.and_then(|slot| self.record(slot)).map(Record::control_window);
        let Judgement { mut reason, change } =
            judge_payload(self, &fixed, datagram.len(), interface);
        if let (Reason::Control, Ok(header), Some(slot), Some(window)) =
            (reason, header, slot, window)
            && !self.body_is_authentic(&fixed, &header, datagram)
        {
            self.refuse_control(slot, window);
            reason = Reason::BadTag;
        }
        let outcome = self.count(reason);
        match (reason, header, change) {
            (Reason::Control, Ok(header), _) => self.control(header, datagram).unwrap_or(outcome),
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

    fn control(&self, header: Header, datagram: &[u8]) -> Option<Received> {
        let slot = *self.slots.get(&PathKey { sender: header.sender, link: header.link })?;
        Some(Received::Control { slot, header, body: body(&header, datagram)?.to_vec() })
    }

    /// The header is authentic already.
    fn body_is_authentic(&self, fixed: &Fixed, header: &Header, datagram: &[u8]) -> bool {
        if header.body_bytes == 0 {
            return true;
        }
        let Some(key) = self.keys.get(&header.key) else { return false };
        let tag = datagram.get(FIXED_BYTES..FIXED_BYTES + TAG_BYTES);
        match (tag, body(header, datagram)) {
            (Some(tag), Some(body)) if body.len() <= BODY_BYTES_MAX => {
                // Compared as one number: its time tells nothing about how much was right.
                let number = |bytes: &[u8]| bytes.try_into().map(u128::from_ne_bytes).ok();
                number(tag) == number(&key.body_tag(fixed, body))
            }
            _ => false,
        }
    }

    fn count(&mut self, reason: Reason) -> Received {
        *self.counters.entry(reason).or_default() += 1;
        Received::Nothing
    }
}

fn body<'a>(header: &Header, datagram: &'a [u8]) -> Option<&'a [u8]> {
    match usize::from(header.body_bytes) {
        0 => Some(&[]),
        bytes => datagram.get(FIXED_BYTES + TAG_BYTES..FIXED_BYTES + TAG_BYTES + bytes),
    }
}

impl Tables for Table {
    fn node(&self) -> Option<NodeIdentity> {
        Some(self.identity)
    }

    fn is_endpoint(&self, _: &Endpoint) -> bool {
        // The socket is bound to the endpoint: whatever it receives is for it.
        true
    }

    fn slot(&self, path: &PathKey) -> Option<u32> {
        self.slots.get(path).copied()
    }

    fn record(&self, slot: u32) -> Option<Record<'_>> {
        Self::record(self, slot)
    }

    fn key(&self, number: u8) -> Option<Key> {
        self.keys.get(&number).copied()
    }

    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LinkIndex, NodeIndex};
    use ha_common::wire::{Phase, name_id};

    const OWN: u64 = 1_000;
    const INTERFACE: u32 = 3;

    fn key() -> Key {
        Key::siphash24(b"sixteen bytes...")
    }

    fn table() -> Table {
        let path = Path {
            peer: NodeIndex(1),
            link: LinkIndex(0),
            key: PathKey { sender: name_id("beta"), link: name_id("hb0") },
            interface: "hb0".parse().unwrap(),
            interface_index: INTERFACE,
            local: "192.0.2.1:694".parse().unwrap(),
            remote: "192.0.2.2:694".parse().unwrap(),
        };
        let identity =
            NodeIdentity { cluster: name_id("shop"), node: name_id("alpha"), incarnation: OWN };
        Table::new(identity, &[path], &[(1, key())], 0)
    }

    fn control(sequence: u64, body: &[u8]) -> Vec<u8> {
        let header = Header {
            kind: Kind::Control,
            cluster: name_id("shop"),
            sender: name_id("beta"),
            receiver: name_id("alpha"),
            link: name_id("hb0"),
            key: 1,
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
        };
        let mut fixed = header.encode();
        key().sign(&mut fixed);
        [&fixed.to_bytes()[..], &key().body_tag(&fixed, body), body].concat()
    }

    fn is_taken(table: &mut Table, datagram: &[u8]) -> bool {
        matches!(table.receive(datagram, INTERFACE, 1, true), Received::Control { .. })
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
