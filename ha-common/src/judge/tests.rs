use proptest::prelude::*;
use std::collections::BTreeSet;

use super::*;
use crate::maps::LinkRecord;
use crate::vectors::{
    EARLIER, ENTRIES, INTERFACE, Memory, Mutator, OWN, Packet, SLOT_ALPHA, SLOT_GAMMA, STEP_NS,
    Vector, World, before_configuration, contents, key, secret, vectors, world,
};
use crate::wire::HEADER_BYTES;

fn judge_at(tables: &Memory, frame: &[u8]) -> Judgement {
    tables.advance(STEP_NS);
    judge(tables, frame, INTERFACE)
}

fn alpha(tables: &Memory) -> LinkRecord {
    contents(tables.record(SLOT_ALPHA).unwrap())
}

/// A world that has believed alpha's heartbeat number 10.
fn settled() -> Memory {
    let tables = Memory::new(world());
    let judgement = judge_at(&tables, &Packet::heartbeat(10).frame());
    assert_eq!(judgement.reason, Reason::Accepted);
    tables
}

fn unconfigured() -> Memory {
    let mut nobody: World = world();
    nobody.identity.incarnation = 0;
    Memory::new(nobody)
}

fn check(tables: &Memory, vector: &Vector) {
    let before = tables.contents();
    let judgement = judge_at(tables, &vector.frame);
    let (reason, change) = (judgement.reason, judgement.change());
    assert_eq!(reason, vector.reason, "{}", vector.name);
    let expected = vector.change.map(|kind| kind as u32);
    assert_eq!(change.map(|change| change.kind), expected, "{}", vector.name);
    if let Some(change) = change {
        assert_eq!(change.at_ns, tables.now_ns(), "{}", vector.name);
    }
    if !reason.is_good() {
        let rejected = |records: &[LinkRecord]| records.iter().map(|it| it.rejected).sum::<u64>();
        let after = tables.contents();
        let counted = u64::from(reason.is_rejection());
        assert!(rejected(&after) - rejected(&before) <= counted, "{}", vector.name);
        assert_eq!(without_rejected(after), without_rejected(before), "{}", vector.name);
    }
}

fn without_rejected(records: Vec<LinkRecord>) -> Vec<LinkRecord> {
    records.into_iter().map(|record| LinkRecord { rejected: 0, ..record }).collect()
}

#[test]
fn every_vector_is_judged_as_it_says() {
    for vector in before_configuration() {
        check(&unconfigured(), &vector);
    }
    let tables = Memory::new(world());
    for vector in vectors() {
        check(&tables, &vector);
    }
}

#[test]
fn every_reason_has_a_vector() {
    let reached: BTreeSet<Reason> = vectors().iter().map(|vector| vector.reason).collect();
    let missing: Vec<_> = Reason::ALL.iter().filter(|reason| !reached.contains(reason)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn names_of_vectors_are_unique() {
    let all = vectors();
    let names: BTreeSet<_> = all.iter().map(|vector| vector.name).collect();
    assert_eq!(names.len(), all.len());
}

#[test]
fn an_accepted_heartbeat_stamps_all_that_it_says() {
    let tables = settled();
    let packet = Packet::heartbeat(14);
    judge_at(&tables, &packet.frame());
    let (record, header) = (alpha(&tables), packet.header);
    let before = world().records[0].1;
    let expected = LinkRecord {
        generation: header.generation,
        last_seen_ns: tables.now_ns(),
        heartbeat: crate::fresh::Window { heard: 20, believed: 20, sequence: 14 },
        sent_ns: header.sent_ns,
        keepalive_us: header.keepalive_us,
        lease_age_ms: u32::from(header.lease_age_ms),
        phase: header.phase as u32,
        layers: u32::from(header.layers),
        key_offered: header.key_offered,
        key_entry: 1,
        received: 2,
        lost: 3,
        ..before
    };
    assert_eq!(record, expected);
}

#[test]
fn a_greeting_is_remembered_and_refreshes_nothing() {
    let tables = Memory::new(world());
    let mut packet = Packet::heartbeat(5);
    packet.header.echo = 0;
    let judgement = judge_at(&tables, &packet.frame());
    let change = judgement.change().unwrap();
    assert_eq!((change.kind, change.value), (ChangeKind::FirstSight as u32, 20));
    let expected = LinkRecord {
        heartbeat: crate::fresh::Window { heard: 20, believed: 0, sequence: 0 },
        ..world().records[0].1
    };
    assert_eq!(alpha(&tables), expected);
}

#[test]
fn a_greeting_of_a_believed_peers_next_start_takes_its_liveness_no_further() {
    let tables = settled();
    let before = alpha(&tables);
    let mut packet = Packet::heartbeat(1);
    (packet.header.incarnation, packet.header.echo) = (21, OWN - 1);
    assert_eq!(judge_at(&tables, &packet.frame()).reason, Reason::Greeting);
    let mut expected = before;
    expected.heartbeat.heard = 21;
    assert_eq!(alpha(&tables), expected);
}

#[test]
fn proving_a_new_incarnation_restarts_the_sequence_and_counts_no_loss() {
    let tables = settled();
    let mut packet = Packet::heartbeat(1);
    packet.header.incarnation = 21;
    let change = judge_at(&tables, &packet.frame()).change().unwrap();
    assert_eq!((change.kind, change.value), (ChangeKind::NewIncarnation as u32, 21));
    let record = alpha(&tables);
    assert_eq!((record.heartbeat.believed, record.heartbeat.sequence, record.lost), (21, 1, 0));
}

#[test]
fn a_return_reports_how_long_the_silence_was() {
    let mut quiet = world();
    quiet.records[2].1.silence_ns = 50_000_000;
    let tables = Memory::new(quiet);
    let gamma = |sequence| {
        let mut packet = Packet::heartbeat(sequence);
        packet.header.sender = crate::wire::name_id("gamma");
        packet.frame()
    };
    judge(&tables, gamma(1).as_slice(), INTERFACE);
    tables.advance(50_000_000);
    // Exactly the limit is not beyond it.
    assert_eq!(judge(&tables, gamma(2).as_slice(), INTERFACE).change(), None);
    tables.advance(50_000_001);
    let change = judge(&tables, gamma(3).as_slice(), INTERFACE).change().unwrap();
    assert_eq!((change.kind, change.value), (ChangeKind::LinkBack as u32, 50_000_001));
    assert_eq!(change.slot, SLOT_GAMMA);
}

#[test]
fn a_stamp_from_the_future_is_no_silence() {
    let mut quiet = world();
    quiet.records[2].1.silence_ns = 1;
    let tables = Memory::new(quiet);
    let mut packet = Packet::heartbeat(1);
    packet.header.sender = crate::wire::name_id("gamma");
    judge_at(&tables, &packet.frame());
    tables.record(SLOT_GAMMA).unwrap().set_last_seen_ns(tables.now_ns() + 10_000_000);
    packet.header.sequence = 2;
    assert_eq!(judge(&tables, packet.frame().as_slice(), INTERFACE).change(), None);
}

#[test]
fn control_moves_its_own_window_only() {
    let tables = settled();
    let before = alpha(&tables);
    let mut packet = Packet::heartbeat(40);
    packet.header.kind = Kind::Control;
    let judgement = judge_at(&tables, &packet.frame());
    assert_eq!(judgement, Reason::Control.into());
    let window = crate::fresh::Window { heard: 20, believed: 20, sequence: 40 };
    assert_eq!(alpha(&tables), LinkRecord { control: window, ..before });
}

/// Whether a frame carries a right tag, by the oracle of the tests: crates that hash bytes, and
/// nothing of this crate but the offset of the payload.
fn is_authentic(frame: &[u8]) -> bool {
    let Some(datagram) = frame::parse(frame) else { return false };
    let Some(payload) = frame.get(datagram.payload_at..) else { return false };
    let Some(fixed) = payload.get(..HEADER_BYTES + TAG_BYTES) else { return false };
    let (header, tag) = fixed.split_at(HEADER_BYTES);
    let number = header[20];
    [number, number.wrapping_add(EARLIER)]
        .into_iter()
        .filter(|entry| number < EARLIER && ENTRIES.contains(entry))
        .any(|entry| auth::tests::oracle(&secret(entry), header) == tag)
}

proptest! {
    #[test]
    fn noise_changes_nothing(frame in proptest::collection::vec(any::<u8>(), 0..300)) {
        let tables = settled();
        let before = tables.contents();
        let judgement = judge_at(&tables, &frame);
        prop_assert_eq!(judgement, Reason::NotOurs.into());
        prop_assert_eq!(tables.contents(), before);
    }

    #[test]
    fn noise_behind_right_headers_changes_nothing(
        noise in proptest::collection::vec(any::<u8>(), 0..120),
        header in any::<bool>(),
    ) {
        let tables = settled();
        let before = without_rejected(tables.contents());
        let kept = if header { 42 + 20 } else { 42 };
        let mut frame = Packet::heartbeat(99).frame();
        frame.truncate(kept);
        frame.extend(noise);
        let judgement = judge_at(&tables, &frame);
        prop_assert!(!judgement.reason.is_good());
        prop_assert_eq!(without_rejected(tables.contents()), before);
    }

    #[test]
    fn only_authentic_frames_change_anything_but_counters(seed in any::<u64>()) {
        let tables = settled();
        let mut mutator = Mutator::new(seed);
        for _ in 0..60 {
            let frame = mutator.frame();
            let before = without_rejected(tables.contents());
            let judgement = judge_at(&tables, &frame);
            let changed = without_rejected(tables.contents()) != before;
            let good = judgement.reason.is_good();
            prop_assert!(good || (!changed && judgement.change().is_none()), "{:?}", judgement);
            // What somebody else answers is passed on as it is; damage makes such probes, too.
            let is_for_tc = judgement.reason == Reason::ProbePassed
                && asks(frame.as_slice(), Way::Tc)
                && !changed;
            prop_assert!(!good || is_for_tc || is_authentic(&frame), "{:?}", judgement);
        }
    }

    #[test]
    fn who_does_not_have_the_key_changes_nothing(seed in any::<u64>()) {
        let mut secret = world();
        for (number, secret) in &mut secret.keys {
            *secret = key(*number + 100);
        }
        let tables = Memory::new(secret);
        let before = without_rejected(tables.contents());
        let mut mutator = Mutator::new(seed);
        for _ in 0..60 {
            judge_at(&tables, &mutator.frame());
        }
        prop_assert_eq!(without_rejected(tables.contents()), before);
    }
}

/// Tables in which another CPU stamps a later heartbeat while this one checks a tag.
struct Raced(Memory);

impl Workspace for Raced {
    fn with_scratch<R>(&self, work: impl FnOnce(&mut auth::Scratch) -> R) -> Option<R> {
        self.0.with_scratch(work)
    }
}

impl Tables for Raced {
    fn node(&self) -> Option<NodeIdentity> {
        self.0.node()
    }

    fn site(&self, endpoint: &Endpoint) -> Option<Site> {
        self.0.site(endpoint)
    }

    fn slot(&self, path: &Path) -> Option<u32> {
        self.0.slot(path)
    }

    fn record(&self, slot: u32) -> Option<Record<'_>> {
        self.0.record(slot)
    }

    fn arrivals(&self, slot: u32) -> Option<ArrivalWords<'_>> {
        self.0.arrivals(slot)
    }

    fn key(&self, entry: u32) -> Option<&Key> {
        judge(&self.0, Packet::heartbeat(12).frame().as_slice(), INTERFACE);
        self.0.key(entry)
    }

    fn now_ns(&self) -> u64 {
        self.0.now_ns()
    }

    fn way(&self) -> Way {
        self.0.way()
    }

    fn lease(&self) -> Lease {
        self.0.lease()
    }

    fn spend(&self, now_ns: u64) -> bool {
        self.0.spend(now_ns)
    }
}

#[test]
fn a_later_heartbeat_that_another_cpu_stamps_meanwhile_is_not_taken_back() {
    let tables = Raced(settled());
    let judgement = judge(&tables, Packet::heartbeat(11).frame().as_slice(), INTERFACE);
    assert_eq!(judgement, Reason::OldSequence.into());
    assert_eq!(alpha(&tables.0).heartbeat.sequence, 12);
}
