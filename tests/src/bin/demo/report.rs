//! What a case has shown, as text and as JSON.

use std::fmt::Write;

use ha_tests::clock::{MS_NS, ms};
use ha_tests::observe::{Gap, Stall};
use serde::Serialize;

/// One line of a timeline.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Moment {
    /// What happened.
    pub(crate) what: String,
    /// Who saw it.
    pub(crate) seen_by: &'static str,
    /// When, from the event that was injected; `None`: it did not happen.
    pub(crate) after_ns: Option<i64>,
}

/// One case.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct CaseReport {
    /// Its name.
    pub(crate) name: &'static str,
    /// When the event was injected, `CLOCK_MONOTONIC`.
    pub(crate) injected_ns: u64,
    /// What happened then, in order.
    pub(crate) timeline: Vec<Moment>,
    /// The client's longest silence until the case was settled.
    pub(crate) gap: Gap,
    /// Length of that silence.
    pub(crate) gap_ns: u64,
    /// The client's longest silence while the group returned.
    pub(crate) failback_gap_ns: Option<u64>,
    /// Stops of the virtual CPU between the event and the first answer.
    pub(crate) stalls: Vec<Stall>,
    /// What a reader should know.
    pub(crate) notes: Vec<String>,
    /// Criteria that were not met; none: passed.
    pub(crate) failures: Vec<String>,
}

/// All cases.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Interval between two heartbeats.
    pub(crate) keepalive_us: u64,
    /// Silence after which a node is dead.
    pub(crate) deadtime_us: u64,
    /// Scheduling that the observers were granted.
    pub(crate) scheduling: String,
    /// How each link's heartbeats arrive on the survivor.
    pub(crate) via: Vec<String>,
    /// The cases that ran.
    pub(crate) cases: Vec<CaseReport>,
    /// Cases that did not run, and why.
    pub(crate) not_run: Vec<(&'static str, String)>,
}

impl Report {
    /// Whether every case ran and passed.
    pub(crate) fn passed(&self) -> bool {
        self.not_run.is_empty() && self.cases.iter().all(|case| case.failures.is_empty())
    }

    /// Whether the cluster is whole again after the cases so far.
    pub(crate) fn came_back(&self) -> bool {
        self.not_run.is_empty()
            && self.cases.last().is_none_or(|case| case.failback_gap_ns.is_some())
    }

    /// The summary of all cases.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{:<28} {:>12} {:>14} {:>12}\n",
            "ms", "first answer", "client silent", "at failback"
        );
        for case in &self.cases {
            let answer = case
                .timeline
                .iter()
                .find(|moment| moment.seen_by == "client")
                .and_then(|moment| moment.after_ns);
            let line = format!(
                "{:<28} {:>12} {:>14} {:>12}  {}\n",
                case.name,
                answer.map_or_else(|| "-".to_owned(), signed_ms),
                ms(case.gap_ns),
                case.failback_gap_ns.map_or_else(|| "-".to_owned(), ms),
                if case.failures.is_empty() { "pass" } else { "FAIL" },
            );
            text.push_str(&line);
        }
        for (name, cause) in &self.not_run {
            text.push_str(&format!("{name:<28} did not run: {cause}\n"));
        }
        text
    }
}

impl CaseReport {
    /// The whole case for a reader.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("\n== {}\n", self.name);
        // Writing to a String cannot fail.
        for moment in &self.timeline {
            let when = moment.after_ns.map_or_else(|| "never".to_owned(), signed_ms);
            let _ = writeln!(text, "  {when:>12}  {} ({})", moment.what, moment.seen_by);
        }
        let open = if self.gap.ended { "" } else { " and not over" };
        let _ = writeln!(text, "  client silent for {} ms{open}", ms(self.gap_ns));
        if let Some(gap_ns) = self.failback_gap_ns {
            let _ = writeln!(text, "  client silent for {} ms at failback", ms(gap_ns));
        }
        for stall in &self.stalls {
            let _ = writeln!(
                text,
                "  CPU {} stood still for {} ms at {}",
                stall.cpu,
                ms(stall.length_ns),
                signed_ms(since(self.injected_ns, stall.start_ns))
            );
        }
        if self.stalls.is_empty() {
            text.push_str("  no CPU stood still for more than 1 ms until then\n");
        }
        for note in &self.notes {
            let _ = writeln!(text, "  note: {note}");
        }
        for failure in &self.failures {
            let _ = writeln!(text, "  FAIL: {failure}");
        }
        if self.failures.is_empty() {
            text.push_str("  pass\n");
        }
        text
    }
}

/// Signed difference of two stamps.
pub(crate) fn since(from_ns: u64, at_ns: u64) -> i64 {
    at_ns.wrapping_sub(from_ns).cast_signed()
}

fn signed_ms(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let ns = ns.unsigned_abs();
    format!("{sign}{}.{:03}", ns / MS_NS, ns % MS_NS / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_that_did_not_run_fails_the_report_and_is_named() {
        let mut report = Report {
            keepalive_us: 10_000,
            deadtime_us: 30_000,
            scheduling: String::new(),
            via: Vec::new(),
            cases: Vec::new(),
            not_run: Vec::new(),
        };
        assert!(report.came_back() && report.passed());
        report.not_run.push(("owner cut off", "the daemon is not reachable".to_owned()));
        assert!(!report.came_back() && !report.passed());
        assert!(report.table().contains("owner cut off"));
        assert!(report.table().contains("did not run: the daemon is not reachable"));
    }

    #[test]
    fn times_before_the_event_are_negative() {
        assert_eq!(signed_ms(since(2_000_000, 500_000)), "-1.500");
        assert_eq!(signed_ms(since(500_000, 2_000_000)), "1.500");
    }
}
