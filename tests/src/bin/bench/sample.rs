//! One run of one case: what was measured, and whether the machine ran meanwhile.

use ha_tests::clock::{MS_NS, ms};
use ha_tests::distribution::Distribution;
use ha_tests::observe::{LockRecorder, LockWait, Stall, StallRecorder};
use serde::Serialize;

/// A stop longer than this takes a run out of the second table.
pub(crate) const STOP_NS: u64 = 2 * MS_NS;
/// A fault that takes longer than this to happen has no moment.
const FAULT_TIME_MAX_NS: u64 = MS_NS;

/// One run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample {
    /// What was done to whom.
    pub(crate) case: String,
    /// Its number, from 1.
    pub(crate) run: usize,
    /// When, `CLOCK_MONOTONIC`.
    pub(crate) at_ns: u64,
    /// How long it took to do it.
    pub(crate) fault_ns: u64,
    /// By metric; `None`: it did not happen.
    pub(crate) values: Vec<(&'static str, Option<u64>)>,
    /// Stops of a CPU longer than 1 ms in the run's window.
    pub(crate) stalls: Vec<Stall>,
    /// Times longer than 0.5 ms in which somebody held the kernel's network lock, while the address
    /// was to be added.
    pub(crate) lock_waits: Vec<LockWait>,
    /// What a reader should know of this run.
    pub(crate) remarks: Vec<String>,
}

impl Sample {
    /// Looks up the stops of a CPU between two moments.
    pub(crate) fn observe_stalls(&mut self, recorder: &StallRecorder, from_ns: u64, to_ns: u64) {
        self.stalls = recorder.stalls_in(from_ns, to_ns, MS_NS);
    }

    /// Looks up who held the network lock between two moments: while an address was to be added.
    /// At other times it has no part in a takeover.
    pub(crate) fn observe_lock(&mut self, recorder: &LockRecorder, from_ns: u64, to_ns: u64) {
        self.lock_waits = recorder.waits_in(from_ns, to_ns);
    }

    /// Whether nothing but the programs under test had a part in the figures.
    pub(crate) fn quiet(&self) -> bool {
        !self.slow_fault()
            && self.lock_waits.is_empty()
            && self.stalls.iter().all(|stall| stall.length_ns <= STOP_NS)
    }

    /// Whether the fault itself took so long that its moment is not known.
    pub(crate) fn slow_fault(&self) -> bool {
        self.fault_ns > FAULT_TIME_MAX_NS
    }

    /// The value of a metric.
    pub(crate) fn value(&self, metric: &str) -> Option<u64> {
        self.values.iter().find(|(name, _)| *name == metric)?.1
    }

    /// The run in one line: metrics, stops, remarks.
    pub(crate) fn text(&self) -> String {
        let mut parts: Vec<String> = self
            .values
            .iter()
            .map(|(name, value)| format!("{name} {}", value.map_or_else(|| "never".to_owned(), ms)))
            .collect();
        parts.extend(self.stalls.iter().map(|stall| {
            let after_ms = (i128::from(stall.start_ns) - i128::from(self.at_ns)) as f64 / 1e6;
            format!("CPU {} stood {} at {after_ms:.3}", stall.cpu, ms(stall.length_ns))
        }));
        parts.extend(self.lock_waits.iter().map(|wait| {
            let after_ms = (i128::from(wait.start_ns) - i128::from(self.at_ns)) as f64 / 1e6;
            format!("network lock held for {} at {after_ms:.3}", ms(wait.length_ns))
        }));
        parts.extend(self.remarks.iter().cloned());
        format!("{} run {}: {}", self.case, self.run, parts.join(", "))
    }
}

/// One row of both tables.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// Case and metric.
    pub(crate) label: String,
    /// Of every run.
    pub(crate) all: Distribution,
    /// Of the quiet ones.
    pub(crate) quiet: Distribution,
}

/// Every case with each of its metrics, in order of appearance.
pub(crate) fn rows(samples: &[Sample]) -> Vec<Row> {
    let mut rows: Vec<(&str, &str, Row)> = Vec::new();
    for sample in samples {
        for &(metric, value) in &sample.values {
            let known = rows.iter().position(|row| (row.0, row.1) == (&*sample.case, metric));
            let place = known.unwrap_or_else(|| {
                let label = format!("{}: {metric}", sample.case);
                let row = Row { label, all: Distribution::new(), quiet: Distribution::new() };
                rows.push((&sample.case, metric, row));
                rows.len() - 1
            });
            let (Some(value), Some((.., row))) = (value, rows.get_mut(place)) else { continue };
            row.all.push(value);
            if sample.quiet() {
                row.quiet.push(value);
            }
        }
    }
    rows.sort_by_key(|(case, ..)| samples.iter().position(|sample| sample.case == *case));
    rows.into_iter().map(|(.., row)| row).collect()
}

/// All values of one metric over the cases that `wanted` accepts.
pub(crate) fn all_values(
    samples: &[Sample],
    metric: &str,
    wanted: impl Fn(&str) -> bool,
) -> Distribution {
    let wanted = samples.iter().filter(|sample| wanted(&sample.case));
    wanted.filter_map(|sample| sample.value(metric)).collect()
}

/// The quiet values of one metric over the cases that `wanted` accepts.
pub(crate) fn quiet_values(
    samples: &[Sample],
    metric: &str,
    wanted: impl Fn(&str) -> bool,
) -> Distribution {
    samples
        .iter()
        .filter(|sample| wanted(&sample.case) && sample.quiet())
        .filter_map(|sample| sample.value(metric))
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample(case: &str, value: u64, stall_ns: u64) -> Sample {
        Sample {
            case: case.to_owned(),
            run: 1,
            at_ns: 5,
            fault_ns: 0,
            values: vec![("gap", Some(value)), ("answer", None)],
            stalls: vec![Stall { cpu: 1, start_ns: 7, length_ns: stall_ns }],
            lock_waits: Vec::new(),
            remarks: Vec::new(),
        }
    }

    #[test]
    fn a_long_stop_takes_a_run_out_of_the_second_table_only() {
        let samples = [sample("a", 1, 0), sample("b", 2, 0), sample("a", 3, STOP_NS + 1)];
        let rows = rows(&samples);
        let labels: Vec<&str> = rows.iter().map(|row| &*row.label).collect();
        assert_eq!(labels, ["a: gap", "a: answer", "b: gap", "b: answer"]);
        assert_eq!(rows[0].all.values_ns(), [1, 3]);
        assert_eq!(rows[0].quiet.values_ns(), [1]);
        assert_eq!(rows[1].all.runs(), 0);
        assert_eq!(quiet_values(&samples, "gap", |case| case == "a").values_ns(), [1]);
        assert_eq!(all_values(&samples, "gap", |case| case == "a").values_ns(), [1, 3]);
    }

    #[test]
    fn a_fault_that_took_long_has_no_moment() {
        let mut slow = sample("a", 1, 0);
        slow.fault_ns = FAULT_TIME_MAX_NS + 1;
        assert!(!slow.quiet());
        assert!(slow.text().contains("answer never"));
    }
    #[test]
    fn a_held_network_lock_takes_a_run_out_of_the_second_table() {
        let mut held = sample("a", 1, 0);
        held.lock_waits.push(LockWait { start_ns: 6, length_ns: 600_000 });
        assert!(!held.quiet());
        assert!(held.text().contains("network lock held for 0.600"));
    }
}
