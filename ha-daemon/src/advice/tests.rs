use ha_common::buckets;
use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;

fn arrived(gaps_ns: impl IntoIterator<Item = u64>) -> Arrivals {
    let mut arrivals = Arrivals::EMPTY;
    for gap_ns in gaps_ns {
        arrivals.observed_ns += gap_ns;
        arrivals.intervals[buckets::of(gap_ns)] += 1;
        arrivals.longest_gap_ns = arrivals.longest_gap_ns.max(gap_ns);
    }
    arrivals
}

/// So many gaps of 10 ms, and these.
fn steady(count: usize, more_ns: &[u64]) -> Arrivals {
    arrived(std::iter::repeat_n(10 * MS, count).chain(more_ns.iter().copied()))
}

const TIMES: Times = Times { keepalive_ns: 10 * MS, deadtime_ns: 30 * MS, is_auto: false };

#[test]
fn nothing_is_said_too_early() {
    let advice = advise(&steady(900, &[]), TIMES);
    assert_eq!((advice.fit, advice.recommended_deadtime_us), (Fit::TooEarly, None));
    assert_eq!(advise(&Arrivals::EMPTY, TIMES).fit, Fit::TooEarly);
    // A gap beyond deadtime says enough at once.
    assert_eq!(advise(&steady(10, &[50 * MS]), TIMES).fit, Fit::TooShort);
}

#[test]
fn a_quiet_path_bears_three_keepalives_and_the_bound_is_the_rule_of_three() {
    let advice = advise(&steady(360_000, &[12 * MS]), TIMES);
    assert_eq!(advice.fit, Fit::Fits);
    assert_eq!((advice.mistakes, advice.between_mistakes_s), (0, 1_200));
    assert_eq!(advice.recommended_keepalive_us, Some(10_000));
    assert_eq!(advice.recommended_deadtime_us, Some(30_000));
}

#[test]
fn a_gap_beyond_deadtime_is_a_mistake_and_asks_for_one_and_a_half_of_it() {
    let advice = advise(&steady(360_000, &[80 * MS, 130 * MS]), TIMES);
    assert_eq!(advice.fit, Fit::TooShort);
    assert_eq!((advice.mistakes, advice.between_mistakes_s), (2, 1_800));
    assert_eq!(advice.recommended_deadtime_us, Some(200_000), "195 ms, rounded up");
    assert_eq!(advice.recommended_keepalive_us, Some(10_000));
}

#[test]
fn a_gap_just_above_deadtime_is_counted_though_its_bucket_begins_below() {
    let advice = advise(&steady(360_000, &[30 * MS + 1]), TIMES);
    assert!(advice.mistakes >= 1, "{advice:?}");
    // One just below it is not.
    let advice = advise(&steady(360_000, &[30 * MS - 1]), TIMES);
    assert_eq!(advice.mistakes, 0);
}

#[test]
fn a_keepalive_that_is_too_long_is_shortened_where_that_helps() {
    let times = Times { keepalive_ns: 10 * MS, deadtime_ns: 15 * MS, is_auto: false };
    let advice = advise(&steady(360_000, &[12 * MS]), times);
    assert_eq!(advice.fit, Fit::TooShort);
    assert_eq!(advice.recommended_keepalive_us, Some(5_000));
    assert_eq!(advice.recommended_deadtime_us, Some(15_000));
    // Where the hosts stop for longer than deadtime, no keepalive helps.
    let advice = advise(&steady(360_000, &[90 * MS]), times);
    assert_eq!(advice.recommended_keepalive_us, Some(10_000));
    assert_eq!(advice.recommended_deadtime_us, Some(140_000));
}

#[test]
fn a_deadtime_that_waits_for_nothing_is_told() {
    let times = Times { deadtime_ns: 1_000 * MS, ..TIMES };
    let hour = steady(360_000, &[15 * MS]);
    let day = Arrivals { observed_ns: 24 * hour.observed_ns, ..hour };
    let advice = advise(&day, times);
    assert_eq!((advice.fit, advice.recommended_deadtime_us), (Fit::TooLong, Some(30_000)));
    let early = advise(&hour, times);
    assert_eq!((early.fit, early.recommended_deadtime_us), (Fit::Fits, Some(1_000_000)));
    let times = Times { deadtime_ns: 120 * MS, ..TIMES };
    assert_eq!(advise(&day, times).fit, Fit::Fits);
}

/// Gaps of a keepalive and an exponential delay: the tail is known.
#[test]
fn the_time_between_mistakes_is_that_of_a_known_distribution() {
    // By inversion at the middle of each of N equal shares: no randomness needed.
    let (count, mean_ns) = (200_000_u64, 4.0 * MS as f64);
    let gap_ns = |at: u64| {
        let share = (at as f64 + 0.5) / count as f64;
        10 * MS + (-mean_ns * (1.0 - share).ln()) as u64
    };
    let arrivals = arrived((0..count).map(gap_ns));
    let advice = advise(&arrivals, TIMES);
    // P(gap > 30 ms) = exp(-5); the bucket of the limit adds up to a quarter of its width below.
    let exact = (count as f64 * (-5.0_f64).exp()) as u64;
    assert!((exact..=exact * 3).contains(&advice.mistakes), "{} of {exact}", advice.mistakes);
    let observed_s = arrivals.observed_ns / 1_000_000_000;
    assert_eq!(advice.between_mistakes_s, observed_s / advice.mistakes);
    // And what is recommended was never exceeded.
    let recommended = advice.recommended_deadtime_us.unwrap() * 1_000;
    assert!(recommended > arrivals.longest_gap_ns);
}

proptest! {
    #[test]
    fn what_is_recommended_would_have_made_no_mistake_and_fits(
        gaps_ns in prop::collection::vec(1_000_u64..20_000_000_000, 1..50),
        keepalive_ms in 1_u64..2_000,
        deadtime_ms in 2_u64..20_000,
    ) {
        let keepalive_ns = keepalive_ms * MS;
        let times = Times { keepalive_ns, deadtime_ns: deadtime_ms * MS, is_auto: false };
        let arrivals = arrived(std::iter::repeat_n(keepalive_ns, 100_000).chain(gaps_ns));
        let advice = advise(&arrivals, times);
        let (Some(keepalive_us), Some(deadtime_us)) =
            (advice.recommended_keepalive_us, advice.recommended_deadtime_us)
        else {
            prop_assert_eq!(advice.fit, Fit::TooEarly);
            return Ok(());
        };
        prop_assert!(deadtime_us >= KEEPALIVES_MIN * keepalive_us);
        prop_assert!(keepalive_us * 1_000 <= keepalive_ns);
        // The same path with that keepalive: every gap is shorter by the difference.
        let shift_ns = keepalive_ns - keepalive_us * 1_000;
        let longest_ns = arrivals.longest_gap_ns.saturating_sub(shift_ns);
        prop_assert!(deadtime_us * 1_000 >= longest_ns, "{:?} {:?}", advice, longest_ns);
        let (keepalive_ns, deadtime_ns) = (keepalive_us * 1_000, deadtime_us * 1_000);
        let then = Times { keepalive_ns, deadtime_ns, is_auto: false };
        let shifted = Arrivals { longest_gap_ns: longest_ns, ..arrivals };
        prop_assert_eq!(advise(&shifted, then).fit, Fit::Fits);
    }
}
