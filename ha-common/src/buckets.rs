//! Buckets of durations that kernel and user space share: four to an octave, so that a bucket's ends
//! are at most a quarter apart, from a microsecond to over a minute.

/// Durations below `1 << FLOOR_BITS` nanoseconds share the first bucket.
pub const FLOOR_BITS: u32 = 10;
/// Durations of `1 << CEILING_BITS` nanoseconds (68.7 s) and more share the last one.
pub const CEILING_BITS: u32 = 36;
/// Each octave has `1 << PART_BITS` buckets.
const PART_BITS: u32 = 2;
const PARTS: u64 = 1 << PART_BITS;
/// How many there are.
pub const BUCKETS: usize = (((CEILING_BITS - FLOOR_BITS) << PART_BITS) + 2) as usize;

/// The bucket of a duration; below [`BUCKETS`].
#[inline(always)]
#[must_use]
pub const fn of(duration_ns: u64) -> usize {
    let ceiling_ns = 1 << CEILING_BITS;
    let duration_ns = if duration_ns > ceiling_ns { ceiling_ns } else { duration_ns };
    let coarse = (duration_ns >> (FLOOR_BITS - PART_BITS)) as u32;
    // Without a branch: `| PARTS` gives what is too short the number of the first octave.
    let octave = 31 - (coarse | PARTS as u32).leading_zeros();
    let parts = coarse >> (octave - PART_BITS);
    let place = ((octave - PART_BITS) << PART_BITS) + parts;
    // Bucket 0 has the places below PARTS.
    place.saturating_sub(PARTS as u32 - 1) as usize
}

/// Shortest duration of a bucket.
#[must_use]
pub const fn from_ns(bucket: usize) -> u64 {
    match (bucket as u64).checked_sub(1) {
        None => 0,
        Some(place) => {
            (PARTS + place % PARTS) << (FLOOR_BITS as u64 - PART_BITS as u64 + place / PARTS)
        }
    }
}

/// The end of a bucket: the shortest duration that is beyond it. The last one has none.
#[must_use]
pub const fn below_ns(bucket: usize) -> u64 {
    if bucket + 1 < BUCKETS { from_ns(bucket + 1) } else { u64::MAX }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_ends_are_where_they_are_said_to_be() {
        assert_eq!(of(0), 0);
        assert_eq!(of(1023), 0);
        assert_eq!(of(1024), 1);
        assert_eq!(of((1 << 36) - 1), BUCKETS - 2);
        assert_eq!(of(1 << 36), BUCKETS - 1);
        assert_eq!(of(u64::MAX), BUCKETS - 1);
        assert_eq!(from_ns(1), 1024);
        assert_eq!(from_ns(2), 1280);
        assert_eq!(from_ns(BUCKETS - 1), 1 << 36);
    }

    #[test]
    fn every_bucket_begins_where_the_one_before_ends() {
        for bucket in 0..BUCKETS {
            assert_eq!(of(from_ns(bucket)), bucket);
            assert_eq!(of(below_ns(bucket).saturating_sub(1)), bucket);
        }
    }

    proptest! {
        #[test]
        fn a_duration_is_in_its_bucket(duration_ns in any::<u64>(), shift in 0_u32..64) {
            let duration_ns = duration_ns >> shift;
            let bucket = of(duration_ns);
            prop_assert!(bucket < BUCKETS);
            prop_assert!(from_ns(bucket) <= duration_ns);
            prop_assert!(duration_ns < below_ns(bucket) || bucket == BUCKETS - 1);
        }

        #[test]
        fn a_bucket_is_at_most_a_quarter_wide(duration_ns in 1024_u64..1 << 36) {
            let bucket = of(duration_ns);
            prop_assert!((below_ns(bucket) - from_ns(bucket)) * 4 <= from_ns(bucket));
        }
    }
}
