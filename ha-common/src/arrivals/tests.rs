use proptest::prelude::*;

use super::*;
use crate::judge::{Tables as _, judge};
use crate::reason::Reason;
use crate::vectors::{INTERFACE, Memory, Packet, SLOT_ALPHA, world};

/// A world that hears alpha.
struct Ear {
    tables: Memory,
    sequence: u64,
    sent_ns: u64,
}

impl Ear {
    fn new() -> Self {
        let mut ear = Self { tables: Memory::new(world()), sequence: 9, sent_ns: 5_000_000_000 };
        assert_eq!(ear.hear(0, 0, 0), Reason::Accepted);
        ear
    }

    /// A heartbeat that left `sent_ns` after the one before, arrives `interval_ns` after the one
    /// before, with `lost` missing in between.
    fn hear(&mut self, interval_ns: u64, sent_ns: u64, lost: u64) -> Reason {
        self.tables.advance(interval_ns);
        self.sequence += lost + 1;
        self.sent_ns += sent_ns;
        let mut packet = Packet::heartbeat(self.sequence);
        packet.header.sent_ns = self.sent_ns;
        judge(&self.tables, packet.frame().as_slice(), INTERFACE).reason
    }

    fn arrivals(&self) -> Arrivals {
        self.tables.arrivals_of(SLOT_ALPHA).unwrap()
    }
}

const MS: u64 = 1_000_000;

#[test]
fn an_interval_is_counted_with_its_jitter() {
    let mut ear = Ear::new();
    assert_eq!(ear.arrivals(), Arrivals::EMPTY, "the first heartbeat ends no interval");
    ear.hear(10 * MS, 10 * MS, 0);
    // Late on its way, and the next one less so.
    ear.hear(13 * MS, 10 * MS, 0);
    ear.hear(7 * MS, 10 * MS, 0);
    let arrivals = ear.arrivals();
    assert_eq!(arrivals.observed_ns, 30 * MS);
    assert_eq!((arrivals.longest_gap_ns, arrivals.longest_gap_at_ns), (13 * MS, 1_023 * MS));
    assert_eq!(arrivals.largest_jitter_ns, 3 * MS);
    assert_eq!(arrivals.jitter[0], 1);
    assert_eq!(arrivals.jitter[buckets::of(3 * MS)], 2);
    for interval_ms in [7, 10, 13] {
        assert_eq!(arrivals.intervals[buckets::of(interval_ms * MS)], 1, "{interval_ms}");
    }
}

#[test]
fn a_sender_that_paused_makes_a_gap_and_no_jitter() {
    let mut ear = Ear::new();
    ear.hear(130 * MS, 130 * MS, 0);
    assert_eq!(ear.arrivals().longest_gap_ns, 130 * MS);
    assert_eq!(ear.arrivals().largest_jitter_ns, 0);
}

#[test]
fn losses_in_a_row_are_told_apart_from_outages() {
    let mut ear = Ear::new();
    for lost in [1, 2, 3, 4, 63] {
        ear.hear(10 * MS, 10 * MS, lost);
    }
    let before = ear.arrivals();
    assert_eq!(before.bursts, [1, 2, 1, 0, 0, 1]);
    assert_eq!((before.longest_burst, before.outages), (63, 0));
    ear.hear(640 * MS, 640 * MS, OUTAGE_LOST);
    assert_eq!(ear.arrivals(), Arrivals { outages: 1, ..before }, "nothing else");
}

#[test]
fn what_is_between_two_starts_is_no_interval() {
    let ear = Ear::new();
    let mut packet = Packet::heartbeat(1);
    packet.header.incarnation += 1;
    ear.tables.advance(3_000 * MS);
    let judgement = judge(&ear.tables, packet.frame().as_slice(), INTERFACE);
    assert_eq!(judgement.reason, Reason::Accepted);
    assert_eq!(ear.arrivals(), Arrivals::EMPTY);
}

#[test]
fn refused_heartbeats_are_in_no_figure() {
    let mut ear = Ear::new();
    ear.hear(10 * MS, 10 * MS, 0);
    let before = ear.arrivals();
    let frame = Packet::heartbeat(ear.sequence).frame();
    ear.tables.advance(MS);
    assert_eq!(judge(&ear.tables, frame.as_slice(), INTERFACE).reason, Reason::OldSequence);
    assert_eq!(ear.arrivals(), before);
}

#[test]
fn the_octaves_of_losses_are_those_of_the_logarithm() {
    for lost in 1..OUTAGE_LOST {
        assert_eq!(burst(lost), lost.ilog2() as usize);
    }
}

proptest! {
    #[test]
    fn the_histograms_hold_every_heartbeat_that_is_no_outage(
        heard in prop::collection::vec((0_u64..1 << 38, any::<u32>(), 0_u64..80), 1..60),
    ) {
        let mut ear = Ear::new();
        let (mut count, mut longest_ns, mut sum_ns) = (0, 0, 0);
        for (interval_ns, sent_ns, lost) in heard {
            prop_assert_eq!(ear.hear(interval_ns, u64::from(sent_ns), lost), Reason::Accepted);
            if lost < OUTAGE_LOST {
                count += 1;
                sum_ns += interval_ns;
                longest_ns = longest_ns.max(interval_ns);
            }
        }
        let arrivals = ear.arrivals();
        prop_assert_eq!(arrivals.intervals.iter().sum::<u64>(), count);
        prop_assert_eq!(arrivals.jitter.iter().sum::<u64>(), count);
        prop_assert_eq!(arrivals.observed_ns, sum_ns);
        prop_assert_eq!(arrivals.longest_gap_ns, longest_ns);
        let record = ear.tables.record(SLOT_ALPHA).unwrap();
        prop_assert_eq!(record.received(), arrivals.outages + count + 1);
    }
}
