//! The parser and the judge of packets, as they run in the kernel: what is refused changes nothing but
//! a counter, whatever came before.
//!
//! The input is several frames, each after its length in two bytes.

#![no_main]

use ha_common::judge::Tables as _;
use ha_common::maps::LinkRecord;
use ha_common::reason::Reason;
use ha_common::vectors::{
    INTERFACE, Memory, SLOT_ALPHA, SLOT_ELSEWHERE, SLOT_GAMMA, contents, world,
};
use libfuzzer_sys::fuzz_target;

/// Frames of one input.
const FRAMES_MAX: usize = 8;

/// The records of all slots that paths name, without the counter.
fn records(tables: &Memory) -> [Option<LinkRecord>; 3] {
    [SLOT_ALPHA, SLOT_ELSEWHERE, SLOT_GAMMA]
        .map(|slot| Some(LinkRecord { rejected: 0, ..contents(tables.record(slot)?) }))
}

fuzz_target!(|bytes: &[u8]| {
    let tables = Memory::new(world());
    let mut rest = bytes;
    for _ in 0..FRAMES_MAX {
        let Some((length, after)) = rest.split_first_chunk::<2>() else { return };
        let length = usize::from(u16::from_be_bytes(*length)).min(after.len());
        let (frame, after) = after.split_at(length);
        rest = after;
        tables.advance(1_000_000);
        let before = records(&tables);
        let judgement = ha_common::judge::judge(&tables, frame, INTERFACE);
        let believed =
            matches!(judgement.reason, Reason::Accepted | Reason::Greeting | Reason::Control);
        if !believed {
            assert_eq!(judgement.change(), None);
            assert_eq!(records(&tables), before, "{judgement:?}");
        }
    }
});
