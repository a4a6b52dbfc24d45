//! How late a thread ran after the moment it had set itself: a histogram of atomics that its thread
//! fills and anybody may read, without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ha_common::buckets::{self, BUCKETS};

use crate::histogram::Histogram;
use crate::snapshot::DurationStatus;

/// How late a thread ran.
#[derive(Debug)]
pub struct Lateness {
    counts: [AtomicU64; BUCKETS],
    max_ns: AtomicU64,
    sum_ns: AtomicU64,
}

impl Default for Lateness {
    fn default() -> Self {
        Self {
            counts: [const { AtomicU64::new(0) }; BUCKETS],
            max_ns: AtomicU64::new(0),
            sum_ns: AtomicU64::new(0),
        }
    }
}

impl Lateness {
    /// Takes note of one wake-up.
    pub fn note(&self, late_ns: u64) {
        self.counts[buckets::of(late_ns)].fetch_add(1, Relaxed);
        self.max_ns.fetch_max(late_ns, Relaxed);
        self.sum_ns.fetch_add(late_ns, Relaxed);
    }

    /// Takes note of a wake-up that was due at one moment and came at another.
    pub fn note_due(&self, due_ns: u64, now_ns: u64) {
        self.note(now_ns.saturating_sub(due_ns));
    }

    /// What was noted.
    #[must_use]
    pub fn status(&self) -> DurationStatus {
        let max_ns = self.max_ns.load(Relaxed);
        let counts = self.counts.each_ref().map(|count| count.load(Relaxed));
        let histogram = Histogram(&counts);
        let quantile_us = |share| histogram.quantile_ns(share, max_ns).div_ceil(1_000);
        DurationStatus {
            count: histogram.count(),
            p50_us: quantile_us(0.5),
            p99_us: quantile_us(0.99),
            p999_us: quantile_us(0.999),
            max_us: max_ns / 1_000,
            sum_us: Some(self.sum_ns.load(Relaxed) / 1_000),
            buckets: histogram.buckets(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_those_of_what_was_noted() {
        let late = Lateness::default();
        for _ in 0..990 {
            late.note_due(1_000, 51_000);
        }
        for _ in 0..10 {
            late.note(40_000_000);
        }
        late.note_due(2_000, 1_000);
        let status = late.status();
        assert_eq!((status.count, status.max_us), (1_001, 40_000));
        assert_eq!(status.sum_us, Some(990 * 50 + 10 * 40_000));
        assert!((50..=63).contains(&status.p50_us), "{status:?}");
        assert_eq!(status.p99_us, status.p50_us);
        assert_eq!(status.p999_us, 40_000);
        assert_eq!(status.buckets.iter().map(|it| it.count).sum::<u64>(), 1_001);
    }
}
