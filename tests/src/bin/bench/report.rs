//! The report of every benchmark, as text and as JSON.

use std::fmt::Write;

use ha_tests::clock::ms;
use ha_tests::distribution::Distribution;
use serde::{Serialize, Serializer};

use crate::machine::Machine;
use crate::sample::{Row, STOP_NS, Sample, rows};

/// Runs that missed a goal are listed up to this number.
const OUTLIERS_MAX: usize = 12;

/// Rows of figures that are no distribution.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    /// What they are about.
    pub(crate) title: String,
    /// Headings of the columns.
    pub(crate) columns: Vec<&'static str>,
    /// A label and one figure for each column.
    pub(crate) rows: Vec<(String, Vec<String>)>,
}

/// Which value of a distribution a goal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Rank {
    P50,
    P99,
    Max,
}

impl Rank {
    fn name(self) -> &'static str {
        match self {
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::Max => "max",
        }
    }

    fn of(self, distribution: &Distribution) -> Option<u64> {
        distribution.percentile_ns(match self {
            Self::P50 => 50,
            Self::P99 => 99,
            Self::Max => 100,
        })
    }
}

/// A goal and what came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Goal {
    what: String,
    /// `None`: what was measured is a count.
    rank: Option<Rank>,
    limit_ns: u64,
    measured_ns: Option<u64>,
    runs: usize,
    met: bool,
}

/// A finished benchmark.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Its name.
    pub(crate) benchmark: &'static str,
    machine: Machine,
    /// What was asked for and what was granted.
    pub(crate) settings: Vec<(&'static str, String)>,
    /// Every run.
    pub(crate) samples: Vec<Sample>,
    #[serde(rename = "distributions", serialize_with = "both_tables")]
    rows: Vec<Row>,
    /// Other figures.
    pub(crate) figures: Vec<Figures>,
    goals: Vec<Goal>,
    outliers: Vec<String>,
    /// What a reader should know.
    pub(crate) notes: Vec<String>,
    /// What did not work at all.
    pub(crate) failures: Vec<String>,
}

impl Report {
    /// An empty one.
    pub(crate) fn new(benchmark: &'static str) -> Self {
        Self {
            benchmark,
            machine: Machine::here(),
            settings: Vec::new(),
            samples: Vec::new(),
            rows: Vec::new(),
            figures: Vec::new(),
            goals: Vec::new(),
            outliers: Vec::new(),
            notes: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Takes over all runs.
    pub(crate) fn finish(&mut self, samples: Vec<Sample>) {
        self.rows = rows(&samples);
        let count = |why: fn(&Sample) -> bool| samples.iter().filter(|it| why(it)).count();
        let stopped = count(|it| it.stalls.iter().any(|stall| stall.length_ns > STOP_NS));
        let locked = count(|it| !it.lock_waits.is_empty());
        let slow = count(Sample::slow_fault);
        self.notes.push(format!(
            "of {} runs, only in the first table: {stopped} with a stop of a CPU, {locked} whose \
             address waited while somebody held the kernel's network lock for more than 0.5 ms, \
             {slow} whose fault took more than 1 ms",
            samples.len()
        ));
        self.samples = samples;
    }

    /// A failure when runs of the cases that begin so never came to `metric`.
    pub(crate) fn require(&mut self, case: &str, metric: &str) {
        let never = |sample: &&Sample| {
            sample.case.starts_with(case)
                && sample.values.iter().any(|(name, value)| *name == metric && value.is_none())
        };
        let failed: Vec<String> = self.samples.iter().filter(never).map(Sample::text).collect();
        self.failures.extend(failed.into_iter().map(|text| format!("no {metric}: {text}")));
    }

    /// Checks the 99th percentile of quiet runs against a limit.
    pub(crate) fn goal(&mut self, what: String, limit_ns: u64, quiet: &Distribution) {
        self.goal_at(Rank::P99, what, limit_ns, quiet);
    }

    /// Checks one value of a distribution against a limit.
    pub(crate) fn goal_at(
        &mut self,
        rank: Rank,
        what: String,
        limit_ns: u64,
        values: &Distribution,
    ) {
        let measured_ns = rank.of(values);
        let met = measured_ns.is_some_and(|measured_ns| measured_ns <= limit_ns);
        let runs = values.runs();
        self.goals.push(Goal { what, rank: Some(rank), limit_ns, measured_ns, runs, met });
    }

    /// Checks a count that must be zero.
    pub(crate) fn goal_none(&mut self, what: String, count: usize) {
        let (measured_ns, met) = (Some(count as u64), count == 0);
        self.goals.push(Goal { what, rank: None, limit_ns: 0, measured_ns, runs: 0, met });
    }

    /// A failure when the observers of somebody's addresses lost changes: then nothing is known of them.
    pub(crate) fn require_seen(&mut self, whose: &str, missed: u64) {
        if missed > 0 {
            self.failures.push(format!("{whose}: {missed} changes of addresses were not observed"));
        }
    }

    /// Adds rows to both tables in which the cases that `wanted` accepts are one.
    pub(crate) fn pool(&mut self, name: &str, wanted: impl Fn(&str) -> bool) {
        let wanted = self.samples.iter().filter(|sample| wanted(&sample.case));
        let pooled: Vec<Sample> =
            wanted.map(|sample| Sample { case: name.to_owned(), ..sample.clone() }).collect();
        self.rows.extend(rows(&pooled));
    }

    /// Lists quiet runs whose metric is above a limit.
    pub(crate) fn list_outliers(&mut self, metric: &str, limit_ns: u64) {
        self.list_outliers_of("", metric, limit_ns);
    }

    /// As [`Report::list_outliers`], of the cases whose name begins so.
    pub(crate) fn list_outliers_of(&mut self, case: &str, metric: &str, limit_ns: u64) {
        let over = |sample: &&Sample| {
            sample.quiet()
                && sample.case.starts_with(case)
                && sample.value(metric).is_some_and(|value| value > limit_ns)
        };
        self.outliers.extend(self.samples.iter().filter(over).map(Sample::text));
        self.outliers.dedup();
    }

    /// All of it for a reader.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("\n== bench {}\n{}\n", self.benchmark, self.machine.text());
        // Writing to a String cannot fail.
        for (name, value) in &self.settings {
            let _ = writeln!(text, "{name}: {value}");
        }
        if !self.rows.is_empty() {
            let pick = |row: &Row| row.all.clone();
            table(&mut text, "All runs", &self.rows, pick);
            let title = "Runs without a stop of a CPU longer than 2 ms or a held network lock in their window";
            table(&mut text, title, &self.rows, |row| row.quiet.clone());
        }
        for figures in &self.figures {
            figures.write(&mut text);
        }
        self.write_goals(&mut text);
        self.write_lists(&mut text);
        text
    }

    fn write_goals(&self, text: &mut String) {
        if self.goals.is_empty() {
            return;
        }
        text.push_str("\nGoals (of the second table where nothing else is said)\n");
        for goal in &self.goals {
            let measured = match (goal.measured_ns, goal.rank) {
                (None, _) => "no such run".to_owned(),
                (Some(count), None) => count.to_string(),
                (Some(measured_ns), Some(rank)) => {
                    let (measured, limit) = (ms(measured_ns), ms(goal.limit_ns));
                    format!("{} {measured} of {limit} ms, {} runs", rank.name(), goal.runs)
                }
            };
            let word = if goal.met { "PASS" } else { "FAIL" };
            let _ = writeln!(text, "  {word}  {}: {measured}", goal.what);
        }
    }

    fn write_lists(&self, text: &mut String) {
        if !self.outliers.is_empty() {
            text.push_str("\nRuns of the second table over a goal (times in ms)\n");
            for outlier in self.outliers.iter().take(OUTLIERS_MAX) {
                let _ = writeln!(text, "  {outlier}");
            }
            let more = self.outliers.len().saturating_sub(OUTLIERS_MAX);
            if more > 0 {
                let _ = writeln!(text, "  and {more} more: see the JSON report");
            }
        }
        for note in &self.notes {
            let _ = writeln!(text, "note: {note}");
        }
        for failure in &self.failures {
            let _ = writeln!(text, "FAILED: {failure}");
        }
    }
}

impl Figures {
    fn write(&self, text: &mut String) {
        let width = self.rows.iter().map(|(label, _)| label.len()).max().unwrap_or(0).max(24);
        let _ = write!(text, "\n{}\n{:<width$}", self.title, "");
        for column in &self.columns {
            let _ = write!(text, " {column:>14}");
        }
        text.push('\n');
        for (label, figures) in &self.rows {
            let _ = write!(text, "{label:<width$}");
            for figure in figures {
                let _ = write!(text, " {figure:>14}");
            }
            text.push('\n');
        }
    }
}

fn table(text: &mut String, title: &str, rows: &[Row], pick: impl Fn(&Row) -> Distribution) {
    let width = rows.iter().map(|row| row.label.len()).max().unwrap_or(0).max(24);
    let _ = writeln!(
        text,
        "\n{title}\n{:<width$} {:>5} {:>10} {:>10} {:>10} {:>10}",
        "ms", "runs", "p50", "p99", "max", "min"
    );
    for row in rows {
        let distribution = pick(row);
        let cells = distribution.summary().map_or_else(
            || vec!["-".to_owned(); 4],
            |it| [it.p50_ns, it.p99_ns, it.max_ns, it.min_ns].map(ms).to_vec(),
        );
        let _ = write!(text, "{:<width$} {:>5}", row.label, distribution.runs());
        for cell in cells {
            let _ = write!(text, " {cell:>10}");
        }
        text.push('\n');
    }
}

fn both_tables<S: Serializer>(rows: &[Row], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(rows.iter().map(|row| {
        serde_json::json!({
            "label": row.label,
            "all": row.all.summary(),
            "undisturbed": row.quiet.summary(),
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::tests::sample;

    #[test]
    fn a_goal_is_judged_by_quiet_runs_and_its_outliers_are_named() {
        let mut report = Report::new("test");
        report.finish(vec![sample("cut", 2_000_000, 0), sample("cut", 9_000_000, 3_000_000)]);
        let quiet = report.rows[0].quiet.clone();
        report.goal("gap".to_owned(), 5_000_000, &quiet);
        report.goal("gap, strictly".to_owned(), 1_000_000, &quiet);
        report.list_outliers("gap", 1_000_000);
        let text = report.text();
        assert!(text.contains("PASS  gap: p99 2.000 of 5.000 ms, 1 runs"), "{text}");
        assert!(text.contains("FAIL  gap, strictly"), "{text}");
        assert!(text.contains("cut run 1: gap 2.000"), "{text}");
        assert!(!text.contains("gap 9.000"), "{text}");
        report.require("cut", "gap");
        report.require("power", "answer");
        assert!(report.failures.is_empty());
        report.require("cut", "answer");
        assert_eq!(report.failures.len(), 2);
    }

    #[test]
    fn a_goal_of_all_runs_is_about_the_value_that_it_names() {
        let mut report = Report::new("test");
        let values: Distribution = [1_000_000, 2_000_000, 9_000_000].into_iter().collect();
        report.goal_at(Rank::P50, "gap (all runs)".to_owned(), 2_000_000, &values);
        report.goal_at(Rank::Max, "gap (all runs)".to_owned(), 2_000_000, &values);
        report.goal_at(Rank::Max, "both".to_owned(), 0, &[0, 0].into_iter().collect());
        report.goal_none("moves".to_owned(), 3);
        let text = report.text();
        assert!(text.contains("PASS  gap (all runs): p50 2.000 of 2.000 ms, 3 runs"), "{text}");
        assert!(text.contains("FAIL  gap (all runs): max 9.000 of 2.000 ms, 3 runs"), "{text}");
        assert!(text.contains("PASS  both: max 0.000 of 0.000 ms, 2 runs"), "{text}");
        assert!(text.contains("FAIL  moves: 3"), "{text}");
        assert_eq!(serde_json::to_value(&report).unwrap()["goals"][0]["rank"], "p50");
    }

    #[test]
    fn pooled_cases_are_rows_of_their_own() {
        let mut report = Report::new("test");
        report.finish(vec![sample("a", 1, 0), sample("b", 2, 3_000_000), sample("c", 3, 0)]);
        report.pool("a and b", |case| case != "c");
        let row = report.rows.iter().find(|row| row.label == "a and b: gap").unwrap();
        assert_eq!((row.all.values_ns(), row.quiet.values_ns()), (&[1, 2][..], &[1][..]));
    }

    #[test]
    fn the_json_has_both_tables() {
        let mut report = Report::new("test");
        report.finish(vec![sample("cut", 2, 0), sample("cut", 4, 3_000_000)]);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["distributions"][0]["all"]["runs"], 2);
        assert_eq!(json["distributions"][0]["undisturbed"]["max_ns"], 2);
        assert_eq!(json["samples"][1]["stalls"][0]["length_ns"], 3_000_000);
    }
}
