//! A record as the next program of this process reads it: what a path has heard, and the freshness
//! windows, without which a recording of this start would be believed once more.

use ha_common::fresh::Window;
use ha_common::record::Record;
use serde::{Deserialize, Serialize};

use super::keys::PeerKeys;

/// What a record knows of its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RecordMemory {
    generation: u32,
    last_seen_ns: u64,
    heartbeat: (u64, u64, u64),
    control: (u64, u64, u64),
    sent_ns: u64,
    keepalive_us: u32,
    lease_age_ms: u32,
    phase: u32,
    layers: u32,
    received: u64,
    lost: u64,
    rejected: u64,
    key_offered: u32,
    key_entry: u32,
    probes: (u64, u64, u64),
    answered_ns: u64,
    answer_at_ns: u64,
    answer_incarnation: u64,
    answer_lease_age_ms: u32,
    answer_layers: u32,
    answers: u64,
    answer_way: u32,
    answer_from_ns: u64,
}

fn words(window: Window) -> (u64, u64, u64) {
    (window.heard, window.believed, window.sequence)
}

impl RecordMemory {
    /// What the record knows now. The stamp is loaded first, as by every reader.
    #[must_use]
    pub fn of(record: Record<'_>) -> Self {
        Self {
            last_seen_ns: record.last_seen_ns(),
            generation: record.generation(),
            heartbeat: words(record.heartbeat_window()),
            control: words(record.control_window()),
            sent_ns: record.sent_ns(),
            keepalive_us: record.keepalive_us(),
            lease_age_ms: record.lease_age_ms(),
            phase: record.phase(),
            layers: record.layers(),
            received: record.received(),
            lost: record.lost(),
            rejected: record.rejected(),
            key_offered: record.key_offered(),
            key_entry: record.key_entry(),
            probes: words(record.probe_window()),
            answered_ns: record.answered_ns(),
            answer_at_ns: record.answer_at_ns(),
            answer_incarnation: record.answer_incarnation(),
            answer_lease_age_ms: record.answer_lease_age_ms(),
            answer_layers: record.answer_layers(),
            answers: record.answers(),
            answer_way: record.answer_way(),
            answer_from_ns: record.answer_from_ns(),
        }
    }

    /// Fills a record that nobody uses yet; the stamp last.
    pub fn store(&self, record: Record<'_>) {
        let (heard, believed, sequence) = self.heartbeat;
        record.set_heard(heard);
        record.set_believed(believed);
        record.set_sequence(sequence);
        let (heard, believed, sequence) = self.control;
        record.set_control_heard(heard);
        record.set_control_believed(believed);
        record.set_control_sequence(sequence);
        record.set_generation(self.generation);
        record.set_sent_ns(self.sent_ns);
        record.set_keepalive_us(self.keepalive_us);
        record.set_lease_age_ms(self.lease_age_ms);
        record.set_phase(self.phase);
        record.set_layers(self.layers);
        record.set_received(self.received);
        record.set_lost(self.lost);
        record.set_rejected(self.rejected);
        record.set_key_offered(self.key_offered);
        record.set_key_entry(self.key_entry);
        let (heard, believed, sequence) = self.probes;
        record.set_probe_heard(heard);
        record.set_probe_believed(believed);
        record.set_probe_sequence(sequence);
        record.set_answer_at_ns(self.answer_at_ns);
        record.set_answer_incarnation(self.answer_incarnation);
        record.set_answer_lease_age_ms(self.answer_lease_age_ms);
        record.set_answer_layers(self.answer_layers);
        record.set_answers(self.answers);
        record.set_answer_way(self.answer_way);
        record.set_answer_from_ns(self.answer_from_ns);
        record.set_answered_ns(self.answered_ns);
        record.set_last_seen_ns(self.last_seen_ns);
    }

    /// What the peer said of its keys; `None` = it was not heard.
    #[must_use]
    pub fn keys(&self) -> Option<PeerKeys> {
        let (heard, believed, _) = self.heartbeat;
        (self.last_seen_ns != 0 && heard == believed).then_some(PeerKeys {
            offered: self.key_offered,
            // Which key signed is known in terms of the program before only.
            has_moved: false,
        })
    }

    /// This one with the heartbeats, or the control messages, of another record of the same path:
    /// where a program receives, each side has its own.
    #[must_use]
    pub fn with_heartbeats_of(self, other: Self) -> Self {
        Self { control: self.control, ..other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ha_common::maps::LinkRecord;
    use std::ptr::NonNull;

    #[test]
    fn what_is_stored_is_what_was_remembered() {
        let memory = RecordMemory {
            generation: 1,
            last_seen_ns: 2,
            heartbeat: (3, 4, 5),
            control: (6, 7, 8),
            sent_ns: 9,
            keepalive_us: 10,
            lease_age_ms: 11,
            phase: 12,
            layers: 13,
            received: 14,
            lost: 15,
            rejected: 16,
            key_offered: 17,
            key_entry: 18,
            probes: (19, 20, 21),
            answered_ns: 22,
            answer_incarnation: 23,
            answer_lease_age_ms: 24,
            answer_layers: 25,
            answers: 26,
            answer_way: 27,
            answer_from_ns: 28,
            answer_at_ns: 29,
        };
        let text = serde_json::to_string(&memory).unwrap();
        let mut memory_of_peer = LinkRecord::default();
        // SAFETY: valid and aligned for as long as it is used here, by this thread alone.
        let record = unsafe { Record::new(NonNull::from(&mut memory_of_peer)) };
        serde_json::from_str::<RecordMemory>(&text).unwrap().store(record);
        assert_eq!(RecordMemory::of(record), memory);
    }
}
