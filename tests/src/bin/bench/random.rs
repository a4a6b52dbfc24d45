//! Random moments: a fault must not keep step with the heartbeats.

use std::time::Duration;

use ha_tests::clock::{as_ns, monotonic_ns};

/// A generator of xorshift64*, seeded by the clock: nothing here has to be reproduced.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Self {
        Self(monotonic_ns() | 1)
    }

    /// Evenly spread from zero to below `limit`.
    pub(crate) fn below(&mut self, limit: Duration) -> Duration {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        Duration::from_nanos(value % as_ns(limit).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_spread_over_the_whole_interval() {
        let mut random = Random::new();
        let mut quarters = [0; 4];
        for _ in 0..4_000 {
            let nanoseconds = as_ns(random.below(Duration::from_millis(4)));
            quarters[usize::try_from(nanoseconds / 1_000_000).unwrap()] += 1;
        }
        assert!(quarters.iter().all(|&count| count > 500), "{quarters:?}");
    }
}
