//! How heartbeats arrive, outside of the kernel: the figures of paths that a socket or a serial line
//! receives, and their form in a hand-over.

use std::cell::UnsafeCell;
use std::ptr::NonNull;

use ha_common::arrivals::{ArrivalWords, Arrivals};
use serde::{Deserialize, Serialize};

/// The arrivals on paths that the daemon itself judges, by slot.
pub struct OwnArrivals(Box<[UnsafeCell<Arrivals>]>);

impl OwnArrivals {
    /// Nothing has arrived on so many paths.
    #[must_use]
    pub fn new(paths: usize) -> Self {
        Self((0..paths).map(|_| UnsafeCell::new(Arrivals::EMPTY)).collect())
    }

    /// For the judge.
    #[must_use]
    pub fn words(&self, slot: u32) -> Option<ArrivalWords<'_>> {
        let pointer = NonNull::new(self.0.get(usize::try_from(slot).ok()?)?.get())?;
        // SAFETY: the cell lives as long as `self`, which is not `Sync`: nobody else is there.
        Some(unsafe { ArrivalWords::new(pointer) })
    }

    /// What has arrived.
    #[must_use]
    pub fn read(&self, slot: u32) -> Option<Arrivals> {
        let cell = self.0.get(usize::try_from(slot).ok()?)?;
        // SAFETY: `self` is not `Sync`, and nobody keeps the judge's words past a judgement.
        Some(unsafe { *cell.get() })
    }

    /// Replaces what has arrived.
    pub fn write(&mut self, slot: u32, arrivals: &Arrivals) {
        let cell = usize::try_from(slot).ok().and_then(|slot| self.0.get_mut(slot));
        if let Some(cell) = cell {
            *cell.get_mut() = *arrivals;
        }
    }
}

/// Arrivals as the next program of this process reads them; of histograms only what is not zero.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ArrivalsMemory {
    keepalive_us: u64,
    observed_ns: u64,
    longest_gap_ns: u64,
    longest_gap_at_ns: u64,
    largest_jitter_ns: u64,
    longest_burst: u64,
    outages: u64,
    bursts: Vec<(usize, u64)>,
    intervals: Vec<(usize, u64)>,
    jitter: Vec<(usize, u64)>,
}

impl From<&Arrivals> for ArrivalsMemory {
    fn from(it: &Arrivals) -> Self {
        let sparse = |counts: &[u64]| {
            let counts = counts.iter().copied().enumerate();
            counts.filter(|(_, count)| *count != 0).collect()
        };
        Self {
            keepalive_us: it.keepalive_us,
            observed_ns: it.observed_ns,
            longest_gap_ns: it.longest_gap_ns,
            longest_gap_at_ns: it.longest_gap_at_ns,
            largest_jitter_ns: it.largest_jitter_ns,
            longest_burst: it.longest_burst,
            outages: it.outages,
            bursts: sparse(&it.bursts),
            intervals: sparse(&it.intervals),
            jitter: sparse(&it.jitter),
        }
    }
}

impl From<&ArrivalsMemory> for Arrivals {
    fn from(it: &ArrivalsMemory) -> Self {
        fn dense<const N: usize>(counts: &[(usize, u64)]) -> [u64; N] {
            let mut all = [0; N];
            for (index, count) in counts {
                if let Some(place) = all.get_mut(*index) {
                    *place = *count;
                }
            }
            all
        }
        Self {
            keepalive_us: it.keepalive_us,
            observed_ns: it.observed_ns,
            longest_gap_ns: it.longest_gap_ns,
            longest_gap_at_ns: it.longest_gap_at_ns,
            largest_jitter_ns: it.largest_jitter_ns,
            longest_burst: it.longest_burst,
            outages: it.outages,
            bursts: dense(&it.bursts),
            intervals: dense(&it.intervals),
            jitter: dense(&it.jitter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_over_comes_back() {
        let mut arrivals = Arrivals {
            keepalive_us: 10_000,
            observed_ns: 1,
            longest_gap_ns: 2,
            longest_gap_at_ns: 3,
            largest_jitter_ns: 4,
            longest_burst: 5,
            outages: 6,
            ..Arrivals::EMPTY
        };
        arrivals.bursts[1] = 7;
        arrivals.intervals[0] = 8;
        arrivals.intervals[50] = 9;
        arrivals.jitter[105] = u64::MAX;
        let text = serde_json::to_string(&ArrivalsMemory::from(&arrivals)).unwrap();
        assert!(text.len() < 300, "{text}");
        let memory: ArrivalsMemory = serde_json::from_str(&text).unwrap();
        assert_eq!(Arrivals::from(&memory), arrivals);
    }
}
