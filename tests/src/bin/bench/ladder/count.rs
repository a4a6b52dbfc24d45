//! What is counted while a load runs, for every program alike and for ours in detail.

use std::collections::BTreeMap;
use std::time::Duration;

use ha_tests::bed::Event;
use ha_tests::clock::{as_ns, ms};
use ha_tests::observe::{AddressChange, HeartbeatWatch, StallRecorder, neither_held_ns};
use serde_json::Value;

use crate::pair::{Pair, VERDICTS};
use crate::sample::STOP_NS;

/// With no mistake in N seconds the time between mistakes is at least N/3 at 95 % (Chen, Toueg,
/// Aguilera 2002; the rule of three).
const NO_MISTAKE_DIVISOR: u64 = 3;

/// A time in which everything counts: the load runs, and nobody has done anything to a node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) from_ns: u64,
    pub(super) to_ns: u64,
}

impl Segment {
    pub(super) fn holds(&self, at_ns: u64) -> bool {
        (self.from_ns..self.to_ns).contains(&at_ns)
    }
}

/// What one program came to in one step.
#[derive(Debug, Default)]
pub(super) struct Count {
    pub(super) length_ns: u64,
    /// Living nodes judged dead; sessions lost.
    pub(super) verdicts: u64,
    /// Times that the address came to a node; `None`: this program moves none.
    pub(super) moves: Option<u64>,
    pub(super) both_ns: u64,
    pub(super) neither_ns: u64,
    /// Stops of a CPU longer than 2 ms.
    pub(super) stops: usize,
    pub(super) longest_stop_ns: u64,
}

impl Count {
    /// Adds what the observers saw.
    pub(super) fn observe(
        &mut self,
        segment: Segment,
        pair: &Pair,
        moves_address: bool,
        stalls: &StallRecorder,
    ) {
        let Segment { from_ns, to_ns } = segment;
        self.length_ns += to_ns.saturating_sub(from_ns);
        let stops = stalls.stalls_in(from_ns, to_ns, STOP_NS);
        self.stops += stops.len();
        let longest_ns = stops.iter().map(|stop| stop.length_ns).max().unwrap_or(0);
        self.longest_stop_ns = self.longest_stop_ns.max(longest_ns);
        if !moves_address {
            return;
        }
        let changes = pair.address_changes(from_ns, to_ns);
        let came = changes.iter().filter(|event| event.change == AddressChange::Added);
        *self.moves.get_or_insert(0) += came.count() as u64;
        self.both_ns += pair.both_held_ns(from_ns, to_ns);
        self.neither_ns +=
            neither_held_ns(&pair.owner, &pair.survivor, pair.floating, from_ns, to_ns);
    }

    /// Adds another step's.
    pub(super) fn add(&mut self, other: &Self) {
        self.length_ns += other.length_ns;
        self.verdicts += other.verdicts;
        if let Some(moves) = other.moves {
            *self.moves.get_or_insert(0) += moves;
        }
        self.both_ns += other.both_ns;
        self.neither_ns += other.neither_ns;
        self.stops += other.stops;
        self.longest_stop_ns = self.longest_stop_ns.max(other.longest_stop_ns);
    }

    pub(super) const COLUMNS: [&'static str; 8] = [
        "seconds",
        "verdicts",
        "moves",
        "both, ms",
        "none, ms",
        "mistakes every",
        "CPU stops",
        "longest, ms",
    ];

    pub(super) fn cells(&self) -> Vec<String> {
        let of_address = |text: String| self.moves.map_or_else(|| "-".to_owned(), |_| text);
        vec![
            format!("{:.1}", self.length_ns as f64 / 1e9),
            self.verdicts.to_string(),
            of_address(self.moves.unwrap_or(0).to_string()),
            of_address(ms(self.both_ns)),
            of_address(ms(self.neither_ns)),
            self.between_mistakes(),
            self.stops.to_string(),
            ms(self.longest_stop_ns),
        ]
    }

    /// One line, while the benchmark runs.
    pub(super) fn text(&self) -> String {
        let moves = self.moves.map_or_else(String::new, |moves| format!(", {moves} moves"));
        format!(
            "{} verdicts{moves}; {} stops of a CPU, the longest {} ms",
            self.verdicts,
            self.stops,
            ms(self.longest_stop_ns)
        )
    }

    /// The time between mistakes: its mean, or what it is at least.
    fn between_mistakes(&self) -> String {
        let tenths = |ns: u64| format!("{:.1} s", ns as f64 / 1e9);
        match self.verdicts {
            0 => format!(">= {}", tenths(self.length_ns / NO_MISTAKE_DIVISOR)),
            verdicts => tenths(self.length_ns / verdicts),
        }
    }
}

/// What our daemons say of a step.
#[derive(Debug, Default)]
pub(super) struct Detail {
    /// Events of both nodes by kind, those of the segments only.
    pub(super) kinds: BTreeMap<String, u64>,
    /// Each false verdict in words.
    pub(super) verdicts: Vec<String>,
    /// What became of its address meanwhile.
    pub(super) addresses: Vec<String>,
    pub(super) longest_gap_ns: u64,
    /// Events that fell out of the daemon's memory before they were fetched.
    pub(super) missed: u64,
    /// Numbers of `status --json` about probes and answers: what they grew by.
    pub(super) probes: BTreeMap<String, u64>,
}

/// Why an address was missing without a verdict.
const ADDRESS_KINDS: [&str; 2] = ["address-restored", "renew-failed"];

impl Detail {
    /// Takes an event over, if it fell into a segment. Whether it is a false verdict.
    pub(super) fn note(&mut self, node: &str, event: &Event, segments: &[Segment]) -> bool {
        if !segments.iter().any(|segment| segment.holds(event.monotonic_ns)) {
            return false;
        }
        *self.kinds.entry(event.kind.clone()).or_default() += 1;
        let verdict = VERDICTS.contains(&event.kind.as_str());
        if verdict {
            self.verdicts.push(format!("{node}: {}", event.message));
        }
        if ADDRESS_KINDS.contains(&event.kind.as_str()) {
            self.addresses.push(format!("{node}: {}", event.message));
        }
        verdict
    }

    /// The longest time between two heartbeats of one sender on one network.
    pub(super) fn observe(&mut self, segment: Segment, watch: &HeartbeatWatch) {
        let inside = |gap: u64| segment.holds(gap);
        let gaps = watch.gaps_in(segment.from_ns, segment.to_ns);
        let whole = gaps.iter().filter(|gap| inside(gap.from_ns) && inside(gap.to_ns));
        let longest_ns = whole.map(|gap| gap.length_ns()).max().unwrap_or(0);
        self.longest_gap_ns = self.longest_gap_ns.max(longest_ns);
    }

    /// Events of a kind; `word*` is every kind with that word in it.
    fn count(&self, wanted: &str) -> u64 {
        let fits = |kind: &str| match wanted.strip_suffix('*') {
            Some(part) => kind.contains(part),
            None => kind == wanted,
        };
        self.kinds.iter().filter(|(kind, _)| fits(kind)).map(|(_, count)| count).sum()
    }

    pub(super) const COLUMNS: [&'static str; 9] = [
        "gap, ms",
        "node late",
        "stale",
        "link late",
        "link dead",
        "own pauses",
        "could not ask",
        "takeovers",
        "events missed",
    ];

    pub(super) fn cells(&self, keepalive: Duration) -> Vec<String> {
        let gap = if self.longest_gap_ns == 0 {
            format!("< {}", ms(known_gap_ns(keepalive)))
        } else {
            ms(self.longest_gap_ns)
        };
        let kinds = [
            "node-late",
            "stale*",
            "link-late",
            "link-dead",
            "own-pause",
            "could-not-ask",
            "takeover",
        ];
        let counts = kinds.iter().map(|kind| self.count(kind).to_string());
        [gap].into_iter().chain(counts).chain([self.missed.to_string()]).collect()
    }
}

/// Gaps up to this are what an undisturbed sender does.
pub(super) fn known_gap_ns(keepalive: Duration) -> u64 {
    as_ns(keepalive) + as_ns(keepalive) / 5
}

/// Every number of a status whose path speaks of probes or answers, summed over links and nodes.
pub(super) fn probe_numbers(status: &Value) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    collect(status, "", &mut found);
    found
}

fn collect(value: &Value, name: &str, found: &mut BTreeMap<String, u64>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                collect(value, name, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, name, found)),
        Value::Number(number) => {
            // Ages and stamps are no counts.
            let counts = ["probe", "answer"].iter().any(|word| name.contains(word))
                && !["_ns", "_us", "_ms"].iter().any(|unit| name.ends_with(unit))
                && !name.contains("incarnation");
            if let Some(number) = number.as_u64().filter(|_| counts) {
                *found.entry(name.to_owned()).or_default() += number;
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_mistake_bounds_the_time_between_them() {
        let mut count = Count { length_ns: 1_800_000_000_000, ..Count::default() };
        assert_eq!(count.between_mistakes(), ">= 600.0 s");
        count.verdicts = 9;
        assert_eq!(count.between_mistakes(), "200.0 s");
        assert_eq!(count.cells()[2..5], ["-", "-", "-"]);
        count.add(&Count { moves: Some(2), verdicts: 1, ..Count::default() });
        assert_eq!((count.moves, count.verdicts), (Some(2), 10));
        assert_eq!(count.cells().len(), Count::COLUMNS.len());
    }

    #[test]
    fn only_events_of_the_segments_count() {
        let event = |monotonic_ns, kind: &str| Event {
            id: 1,
            monotonic_ns,
            kind: kind.to_owned(),
            node: None,
            link: None,
            group: None,
            message: "m".to_owned(),
        };
        let segments = [Segment { from_ns: 10, to_ns: 20 }, Segment { from_ns: 30, to_ns: 40 }];
        let mut detail = Detail::default();
        assert!(detail.note("beta", &event(10, "node-dead"), &segments));
        assert!(!detail.note("beta", &event(20, "node-dead"), &segments));
        assert!(!detail.note("beta", &event(35, "daemon-stale"), &segments));
        assert_eq!((detail.count("stale*"), detail.count("node-dead")), (1, 1));
        assert_eq!(detail.cells(Duration::from_millis(10)).len(), Detail::COLUMNS.len());
        assert_eq!(detail.cells(Duration::from_millis(10))[..3], ["< 12.000", "0", "1"]);
    }

    #[test]
    fn numbers_about_probes_are_found_wherever_they_are() {
        let status = serde_json::json!({
            "nodes": [{"links": [{"probes_sent": 3, "answered_ns": 9}, {"probes_sent": 4}]}],
            "packets": {"probe": 2, "bad-tag": 1, "unexpected-answer": 5},
        });
        let found = probe_numbers(&status);
        assert_eq!(found["probes_sent"], 7);
        assert_eq!(found["probe"], 2);
        assert_eq!(found["unexpected-answer"], 5);
        assert_eq!(found.len(), 3);
    }
}
