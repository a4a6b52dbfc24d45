use proptest::prelude::*;

use super::*;
use crate::config::Auto;

const MS: u64 = 1_000_000;
const KEEPALIVE_US: u64 = 10_000;
const MIN: Duration = Duration::from_millis(30);
const MAX: Duration = Duration::from_millis(200);
const HOUR_S: u64 = 3_600;

const TIMES: Times = Times {
    keepalive: Duration::from_millis(10),
    warntime: Duration::from_millis(15),
    deadtime: MAX,
    auto: Some(Auto { min: MIN, warntime_follows: true }),
};

/// An estimator that is told once a second.
struct Path {
    estimator: Estimator,
    now: Moment,
    may_fall: bool,
}

impl Path {
    fn new() -> Self {
        let now = Moment(1_000_000 * MS);
        Self { estimator: Estimator::new(KEEPALIVE_US), now, may_fall: true }
    }

    /// One that was watched for a day on which nothing took longer than a keepalive.
    fn steady() -> Self {
        let mut path = Self::new();
        path.seconds(HOUR_S, 0);
        assert_eq!(path.deadtime_ms(), 30);
        path
    }

    /// A second in which the longest gap was so long, and this node paused for so long.
    fn second_paused(&mut self, gap_ms: u64, paused_ms: u64) {
        let gap_ns = (gap_ms * MS).max(KEEPALIVE_US * 1_000);
        self.now = self.now.after(Duration::from_secs(1));
        let arrived = Arrived {
            peer: NodeIndex(1),
            link: LinkIndex(0),
            since: Moment(0),
            keepalive_us: self.estimator.keepalive_us,
            gaps: 100,
            observed_ns: 1_000 * MS,
            longest_ns: [gap_ns, KEEPALIVE_US * 1_000],
            paused_ns: paused_ms * MS,
        };
        self.estimator.learn(&arrived, TIMES, self.may_fall, self.now);
    }

    fn second(&mut self, gap_ms: u64) {
        self.second_paused(gap_ms, 0);
    }

    fn seconds(&mut self, count: u64, gap_ms: u64) {
        (0..count).for_each(|_| self.second(gap_ms));
    }

    fn deadtime(&self) -> Duration {
        self.estimator.times(TIMES).deadtime
    }

    fn deadtime_ms(&self) -> u128 {
        self.deadtime().as_millis()
    }
}

#[test]
fn it_is_the_longest_until_enough_was_seen() {
    let mut path = Path::new();
    for _ in 0..59 {
        path.second(0);
        assert_eq!((path.deadtime(), path.estimator.is_settled()), (MAX, false));
    }
    path.seconds(2, 0);
    assert!(path.estimator.is_settled() && path.deadtime() < MAX);
    // A slow path has few gaps in a minute.
    let mut slow = Path::new();
    for _ in 0..999 {
        let arrived = Arrived {
            peer: NodeIndex(1),
            link: LinkIndex(0),
            since: Moment(0),
            keepalive_us: KEEPALIVE_US,
            gaps: 1,
            observed_ns: 1_000 * MS,
            longest_ns: [10 * MS, 0],
            paused_ns: 0,
        };
        slow.now = slow.now.after(Duration::from_secs(1));
        slow.estimator.learn(&arrived, TIMES, true, slow.now);
        assert_eq!(slow.deadtime(), MAX);
    }
}

#[test]
fn a_longer_gap_raises_it_at_once_to_twice_the_gap() {
    let mut path = Path::steady();
    path.second(60);
    assert_eq!(path.deadtime_ms(), 120);
    path.second(80);
    assert_eq!(path.deadtime_ms(), 160);
    path.second(5_000);
    assert_eq!(path.deadtime(), MAX);
}

#[test]
fn it_comes_down_by_half_in_three_minutes_and_not_while_the_link_is_not_heard_in_time() {
    let mut path = Path::new();
    path.seconds(60, 0);
    path.seconds(179, 0);
    assert!((98..=102).contains(&path.deadtime_ms()), "{}", path.deadtime_ms());
    path.may_fall = false;
    let before = path.deadtime();
    path.seconds(600, 0);
    assert_eq!(path.deadtime(), before);
    path.second(80);
    assert_eq!(path.deadtime_ms(), 160, "up it goes");
}

#[test]
fn it_comes_down_only_when_both_windows_need_less() {
    let mut path = Path::steady();
    path.second(60);
    path.seconds(9 * 60 - 1, 0);
    assert_eq!(path.deadtime_ms(), 120, "the short window has it");
    path.seconds(HOUR_S, 0);
    assert_eq!(path.deadtime_ms(), 90, "the long one has it, with the margin of the advice");
    path.seconds(22 * HOUR_S, 0);
    assert_eq!(path.deadtime_ms(), 90);
    path.seconds(3 * HOUR_S, 0);
    assert_eq!(path.deadtime_ms(), 30, "forgotten after a day");
}

#[test]
fn a_gap_that_this_nodes_own_pause_made_does_not_count() {
    let mut path = Path::steady();
    path.second_paused(90, 85);
    assert_eq!(path.deadtime_ms(), 30);
    // What is left of it does.
    path.second_paused(90, 50);
    assert_eq!(path.deadtime_ms(), 80);
    // The same without the rule.
    path.second_paused(90, 0);
    assert_eq!(path.deadtime_ms(), 180);
}

#[test]
fn the_next_longest_gap_counts_beside_a_pause() {
    let arrived = |longest_ns, paused_ns| Arrived {
        peer: NodeIndex(1),
        link: LinkIndex(0),
        since: Moment(0),
        keepalive_us: KEEPALIVE_US,
        gaps: 2,
        observed_ns: 1,
        longest_ns,
        paused_ns,
    };
    assert_eq!(arrived([90, 40], 0).gap_ns(), 90);
    assert_eq!(arrived([90, 40], 85).gap_ns(), 40);
    assert_eq!(arrived([90, 40], 30).gap_ns(), 60);
    assert_eq!(arrived([90, 0], 500).gap_ns(), 0);
}

#[test]
fn a_path_that_was_away_or_has_another_keepalive_is_learnt_anew() {
    let mut path = Path::steady();
    path.now = path.now.after(FORGET - Duration::from_secs(1));
    path.second(0);
    assert_eq!(path.deadtime_ms(), 30, "not for so long");
    path.now = path.now.after(FORGET);
    path.second(0);
    assert_eq!((path.deadtime(), path.estimator.is_settled()), (MAX, false));
    let path = Path::steady();
    let resumed = |after| Estimator::resume(path.estimator.remember(), path.now.after(after));
    assert_eq!(resumed(FORGET).as_ref(), Some(&path.estimator));
    assert_eq!(resumed(FORGET + Duration::from_secs(1)), None);
    let mut path = Path::steady();
    let arrived = Arrived {
        peer: NodeIndex(1),
        link: LinkIndex(0),
        since: Moment(0),
        keepalive_us: 20_000,
        gaps: 50,
        observed_ns: 1_000 * MS,
        longest_ns: [20 * MS, 20 * MS],
        paused_ns: 0,
    };
    path.estimator.learn(&arrived, TIMES, true, path.now);
    assert_eq!((path.deadtime(), path.estimator.is_settled()), (MAX, false));
}

#[test]
fn it_is_told_when_it_changed_by_more_than_a_quarter() {
    let mut path = Path::new();
    let mut told = Vec::new();
    for _ in 0..HOUR_S {
        path.second(0);
        told.extend(path.estimator.news(TIMES));
    }
    let first: Vec<u64> = told.iter().map(|(was_ns, _)| *was_ns).collect();
    assert_eq!(first[0], 200 * MS);
    assert_eq!(told.len(), 6, "{told:?}");
    assert!(told.iter().all(|(was_ns, is_ns)| is_ns * 4 < was_ns * 3), "{told:?}");
    assert!(told.windows(2).all(|pair| pair[0].1 == pair[1].0), "{told:?}");
    path.second(60);
    assert_eq!(path.estimator.news(TIMES).map(|(_, is_ns)| is_ns), Some(120 * MS));
    path.second(61);
    assert_eq!(path.estimator.news(TIMES), None);
}

#[test]
fn a_fixed_deadtime_and_a_given_warntime_stay_what_they_are() {
    let fixed = Times { auto: None, ..TIMES };
    assert_eq!(Path::steady().estimator.times(fixed), fixed);
    let given = Times { auto: Some(Auto { min: MIN, warntime_follows: false }), ..TIMES };
    assert_eq!(Estimator::new(KEEPALIVE_US).times(given).warntime, TIMES.warntime);
    let follows = Estimator::new(KEEPALIVE_US).times(TIMES);
    assert_eq!(follows.warntime, MAX / 2);
    assert_eq!(Path::steady().estimator.times(TIMES).warntime, Duration::from_millis(15));
}

#[test]
fn other_bounds_hold_at_once() {
    let path = Path::steady();
    let higher = Times { auto: Some(Auto { min: MAX, warntime_follows: true }), ..TIMES };
    assert_eq!(path.estimator.times(higher).deadtime, MAX);
    let lower = Times { deadtime: Duration::from_millis(25), ..TIMES };
    assert_eq!(path.estimator.times(lower).deadtime, lower.deadtime);
}

proptest! {
    /// Whatever arrives: within its bounds, what both windows need at least, down no faster than it may, and
    /// the same after a hand-over.
    #[test]
    fn it_keeps_its_rules_in_any_history(
        steps in prop::collection::vec((0..400_u64, 0..200_u64, 1..900_u64, any::<bool>()), 1..20),
    ) {
        let mut path = Path::new();
        let mut gaps: Vec<(Moment, u64)> = Vec::new();
        for (gap_ms, paused_ms, calm_s, may_fall) in steps {
            path.may_fall = may_fall;
            for second in 0..calm_s {
                let before = path.deadtime();
                let (gap_ms, paused_ms) = if second == 0 { (gap_ms, paused_ms) } else { (0, 0) };
                path.second_paused(gap_ms, paused_ms);
                let counted_ms = gap_ms.max(10).saturating_sub(paused_ms).max(10);
                gaps.push((path.now, counted_ms * MS));
                let after = path.deadtime();
                prop_assert!((MIN..=MAX).contains(&after));
                prop_assert!(before - before / 250 <= after, "{before:?} {after:?}");
                prop_assert!(may_fall || after >= before);
            }
            let longest_ns = |window_s: u64| {
                let from = path.now.0.saturating_sub(window_s * 1_000 * MS);
                let recent = gaps.iter().filter(|(at, _)| at.0 > from);
                recent.map(|(_, gap_ns)| *gap_ns).max().unwrap_or(0)
            };
            let least_ns = (longest_ns(9 * 60) * 2).max(longest_ns(24 * HOUR_S) * 3 / 2);
            let least = Duration::from_nanos(least_ns).min(MAX);
            prop_assert!(path.deadtime() >= least, "{:?} {least:?}", path.deadtime());
            let memory = serde_json::to_string(&path.estimator.remember()).unwrap();
            let resumed = Estimator::resume(serde_json::from_str(&memory).unwrap(), path.now);
            prop_assert_eq!(resumed.as_ref(), Some(&path.estimator));
        }
    }

    /// Of a version with other windows, what was longest stays the longest.
    #[test]
    fn windows_of_another_length_are_read(
        newest in any::<u64>(),
        spans in prop::collection::vec(any::<u64>(), 0..40),
    ) {
        let longest_ns = spans.iter().copied().max().unwrap_or(0);
        let window: Window<SHORT_SPANS> = Window::resume((newest, spans));
        prop_assert_eq!(window.longest_ns(), longest_ns);
    }
}
