//! Many measured times as one row: percentiles with their definition.

use std::fmt;

use serde::Serialize;

use crate::clock::ms;

/// A set of measured times in nanoseconds.
///
/// Percentiles are by nearest rank: of n sorted values, the p-th percentile is the value number
/// ceil(p / 100 x n), counted from 1. It is always a value that was measured; nothing is
/// interpolated. With fewer than 100 values p99 therefore is the maximum.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Distribution {
    sorted_ns: Vec<u64>,
}

/// The figures of a [`Distribution`], as they are written to JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// How many values.
    pub runs: usize,
    /// Smallest.
    pub min_ns: u64,
    /// Median.
    pub p50_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// Largest.
    pub max_ns: u64,
}

impl Distribution {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one value.
    pub fn push(&mut self, value_ns: u64) {
        let place = self.sorted_ns.partition_point(|&other| other <= value_ns);
        self.sorted_ns.insert(place, value_ns);
    }

    /// Number of values.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.sorted_ns.len()
    }

    /// All values in ascending order.
    #[must_use]
    pub fn values_ns(&self) -> &[u64] {
        &self.sorted_ns
    }

    /// The `percent`-th percentile (1..=100) by nearest rank; `None` when there is no value.
    #[must_use]
    pub fn percentile_ns(&self, percent: u8) -> Option<u64> {
        let rank = (usize::from(percent.min(100)) * self.runs()).div_ceil(100).max(1);
        self.sorted_ns.get(rank - 1).copied()
    }

    /// The figures; `None` when there is no value.
    #[must_use]
    pub fn summary(&self) -> Option<Summary> {
        Some(Summary {
            runs: self.runs(),
            min_ns: *self.sorted_ns.first()?,
            p50_ns: self.percentile_ns(50)?,
            p99_ns: self.percentile_ns(99)?,
            max_ns: *self.sorted_ns.last()?,
        })
    }

    /// The heading that belongs over [`Distribution::row`]; times are milliseconds.
    #[must_use]
    pub fn heading() -> String {
        format!(
            "{:<40} {:>6} {:>12} {:>12} {:>12} {:>12}",
            "ms", "runs", "min", "p50", "p99", "max"
        )
    }

    /// One row of a table, in milliseconds; dashes when there is no value.
    #[must_use]
    pub fn row(&self, label: &str) -> String {
        let cells = self.summary().map_or_else(
            || vec!["-".to_owned(); 4],
            |summary| {
                [summary.min_ns, summary.p50_ns, summary.p99_ns, summary.max_ns].map(ms).to_vec()
            },
        );
        let cells: String = cells.iter().map(|cell| format!(" {cell:>12}")).collect();
        format!("{label:<40} {:>6}{cells}", self.runs())
    }

    /// The figures and every value, for a file.
    #[must_use]
    pub fn json(&self, label: &str) -> serde_json::Value {
        serde_json::json!({
            "label": label,
            "summary": self.summary(),
            "values_ns": self.sorted_ns,
        })
    }
}

impl FromIterator<u64> for Distribution {
    fn from_iter<I: IntoIterator<Item = u64>>(values: I) -> Self {
        let mut sorted_ns: Vec<u64> = values.into_iter().collect();
        sorted_ns.sort_unstable();
        Self { sorted_ns }
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.summary() {
            None => f.write_str("no runs"),
            Some(summary) => write!(
                f,
                "p50 {} p99 {} max {} min {} ms, {} runs",
                ms(summary.p50_ns),
                ms(summary.p99_ns),
                ms(summary.max_ns),
                ms(summary.min_ns),
                summary.runs
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let hundred: Distribution = (1..=100).rev().collect();
        assert_eq!(hundred.percentile_ns(50), Some(50));
        assert_eq!(hundred.percentile_ns(99), Some(99));
        assert_eq!(hundred.percentile_ns(100), Some(100));
        let five: Distribution = [15, 20, 35, 40, 50].into_iter().collect();
        assert_eq!(five.percentile_ns(30), Some(20));
        assert_eq!(five.percentile_ns(40), Some(20));
        assert_eq!(five.percentile_ns(50), Some(35));
        assert_eq!(five.percentile_ns(99), Some(50));
        assert_eq!(five.percentile_ns(0), Some(15));
    }

    #[test]
    fn an_empty_distribution_has_no_figures() {
        let empty = Distribution::new();
        assert_eq!(empty.summary(), None);
        assert_eq!(empty.percentile_ns(50), None);
        assert_eq!(empty.to_string(), "no runs");
        assert!(empty.row("x").contains('-'));
    }

    #[test]
    fn pushing_keeps_the_order_and_the_row_is_in_milliseconds() {
        let mut times = Distribution::new();
        for value in [3_000_000, 1_000_000, 2_500_000] {
            times.push(value);
        }
        assert_eq!(times.values_ns(), [1_000_000, 2_500_000, 3_000_000]);
        let row = times.row("gap");
        let columns: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(columns, ["gap", "3", "1.000", "2.500", "3.000", "3.000"]);
        assert_eq!(Distribution::heading().split_whitespace().count(), columns.len());
        assert_eq!(times.json("gap")["summary"]["p50_ns"], 2_500_000);
    }
}
