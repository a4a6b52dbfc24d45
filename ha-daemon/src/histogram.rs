//! Reading histograms of durations (`ha_common::buckets`): pure, for whoever shows or judges them.

use ha_common::buckets::{self, BUCKETS};
use serde::{Deserialize, Serialize};

/// How many durations each bucket has.
#[derive(Debug, Clone, Copy)]
pub struct Histogram<'a>(pub &'a [u64; BUCKETS]);

/// One bucket that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// Its durations are shorter than that, nanoseconds; absent: the last one, without an end.
    pub below_ns: Option<u64>,
    /// How many there are.
    pub count: u64,
}

impl Histogram<'_> {
    /// All durations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// A duration that `share` of all do not exceed: the end of the bucket of the last of them, so at
    /// most a quarter too long. `longest_ns` is known exactly and bounds it. 0 when there is none.
    #[must_use]
    pub fn quantile_ns(&self, share: f64, longest_ns: u64) -> u64 {
        let all = self.count();
        let rank = ((all as f64 * share).ceil() as u64).clamp(1, all.max(1));
        let mut seen = 0_u64;
        for (bucket, count) in self.0.iter().enumerate() {
            seen = seen.saturating_add(*count);
            if seen >= rank {
                return buckets::below_ns(bucket).min(longest_ns);
            }
        }
        0
    }

    /// How many may be longer than that: all of every bucket that ends beyond it.
    #[must_use]
    pub fn beyond(&self, duration_ns: u64) -> u64 {
        let first = buckets::of(duration_ns);
        self.0.iter().skip(first).fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The two longest durations that were not in `before`, an earlier state of this histogram, longest
    /// first: the ends of their buckets, so at most a quarter too long; 0 = there is none. `longest_ns` is
    /// the longest of all, known exactly.
    #[must_use]
    pub fn longest_since(&self, before: &[u64; BUCKETS], longest_ns: u64) -> [u64; 2] {
        let mut found = [0; 2];
        let mut places = found.iter_mut();
        for (bucket, (count, before)) in self.0.iter().zip(before).enumerate().rev() {
            // Whoever counts may be between the bucket and the longest: then that one is of another bucket.
            let exact = buckets::of(longest_ns) == bucket;
            let end_ns = if exact { longest_ns } else { buckets::below_ns(bucket) };
            for _ in 0..count.saturating_sub(*before).min(2) {
                match places.next() {
                    Some(place) => *place = end_ns,
                    None => return found,
                }
            }
        }
        found
    }

    /// The buckets that are not empty, shortest first.
    #[must_use]
    pub fn buckets(&self) -> Vec<Bucket> {
        let all = self.0.iter().enumerate().filter(|(_, count)| **count != 0);
        let end = |bucket| Some(buckets::below_ns(bucket)).filter(|end| *end != u64::MAX);
        all.map(|(bucket, count)| Bucket { below_ns: end(bucket), count: *count }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(durations_ns: &[u64]) -> [u64; BUCKETS] {
        let mut counts = [0; BUCKETS];
        for duration_ns in durations_ns {
            counts[buckets::of(*duration_ns)] += 1;
        }
        counts
    }

    #[test]
    fn nothing_has_no_quantile() {
        let counts = [0; BUCKETS];
        assert_eq!(Histogram(&counts).quantile_ns(0.99, 0), 0);
        assert_eq!(Histogram(&counts).beyond(0), 0);
    }

    #[test]
    fn the_end_of_the_last_bucket_is_not_shown() {
        let counts = of(&[5, u64::MAX]);
        let shown = Histogram(&counts).buckets();
        assert_eq!(shown[0], Bucket { below_ns: Some(1024), count: 1 });
        assert_eq!(shown[1], Bucket { below_ns: None, count: 1 });
    }

    proptest! {
        #[test]
        fn a_quantile_is_at_most_a_quarter_above_the_exact_one(
            mut durations_ns in prop::collection::vec(1024_u64..1 << 35, 1..300),
            share in 0.001_f64..=1.0,
        ) {
            let counts = of(&durations_ns);
            durations_ns.sort_unstable();
            let longest_ns = durations_ns[durations_ns.len() - 1];
            let rank = (durations_ns.len() as f64 * share).ceil() as usize;
            let exact_ns = durations_ns[rank.clamp(1, durations_ns.len()) - 1];
            let shown_ns = Histogram(&counts).quantile_ns(share, longest_ns);
            prop_assert!(shown_ns >= exact_ns);
            prop_assert!(shown_ns - exact_ns <= exact_ns / 4 + 1);
        }

        #[test]
        fn the_two_longest_since_a_look_are_no_shorter_than_they_were_and_a_quarter_longer_at_most(
            earlier in prop::collection::vec(1024_u64..1 << 35, 0..100),
            later in prop::collection::vec(1024_u64..1 << 35, 0..100),
        ) {
            let all: Vec<u64> = earlier.iter().chain(&later).copied().collect();
            let longest_ns = all.iter().copied().max().unwrap_or(0);
            let (before, after) = (of(&earlier), of(&all));
            let mut exact = later;
            exact.extend([0, 0]);
            exact.sort_unstable_by(|a, b| b.cmp(a));
            let shown = Histogram(&after).longest_since(&before, longest_ns);
            for (shown_ns, exact_ns) in shown.into_iter().zip(exact) {
                prop_assert!(shown_ns >= exact_ns, "{shown_ns} {exact_ns}");
                prop_assert!(shown_ns <= exact_ns + exact_ns / 4 + 1, "{shown_ns} {exact_ns}");
            }
        }

        #[test]
        fn none_that_is_longer_is_left_out(
            durations_ns in prop::collection::vec(any::<u64>(), 0..300),
            limit_ns in any::<u64>(),
        ) {
            let counts = of(&durations_ns);
            let exact = durations_ns.iter().filter(|it| **it > limit_ns).count() as u64;
            prop_assert!(Histogram(&counts).beyond(limit_ns) >= exact);
        }
    }
}
