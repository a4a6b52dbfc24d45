use core::cell::UnsafeCell;
use core::ptr::NonNull;

use super::{PACE_MAX_NS, PACE_MIN_NS, Tick, Watch, Watched, begin, tick};

const MS: u64 = 1_000_000;
const SUSPECT: u64 = 15 * MS;
const DEADTIME: u64 = 30 * MS;
const LIMIT: u64 = 7 * MS;
const START: u64 = 1_000 * MS;

/// A path that is watched since `START`.
struct Path(UnsafeCell<Watched>);

impl Path {
    fn begun() -> Self {
        let words = Watched {
            suspect_ns: SUSPECT,
            deadtime_ns: DEADTIME,
            pause_limit_ns: LIMIT,
            suspected_ns: 5,
            window_ns: 5,
            ..Watched::default()
        };
        let path = Self(UnsafeCell::new(words));
        assert_eq!(begin(path.words(), START), Some(START + SUSPECT));
        path
    }

    fn words(&self) -> Watch<'_> {
        let words = NonNull::new(self.0.get()).unwrap();
        // SAFETY: a cell is aligned and lives as long as `self`; a test has one thread.
        unsafe { Watch::new(words) }
    }

    /// The tick that is due, `late_ns` later.
    fn tick(&self, last_seen_ns: u64, late_ns: u64) -> Tick {
        tick(self.words(), last_seen_ns, self.words().due_ns() + late_ns).unwrap()
    }
}

#[test]
fn a_heartbeat_in_time_moves_the_tick_and_nothing_else_happens() {
    let path = Path::begun();
    for beat in 1..100 {
        let seen = START + beat * 10 * MS;
        let tick = path.tick(seen, 0);
        assert_eq!(tick, Tick { next_ns: seen + SUSPECT, suspicion_ns: None });
    }
    assert_eq!((path.words().ticks(), path.words().suspicions()), (99, 0));
}

#[test]
fn a_silence_is_told_once_and_the_next_one_again() {
    let path = Path::begun();
    let seen = START + 10 * MS;
    path.tick(seen, 0);
    let first = path.tick(seen, 1);
    assert_eq!(first.suspicion_ns, Some(SUSPECT + 1));
    assert_eq!(path.words().suspected_ns(), seen + SUSPECT + 1);
    for _ in 0..20 {
        assert_eq!(path.tick(seen, 0).suspicion_ns, None);
    }
    let back = path.words().due_ns() - MS;
    assert_eq!(path.tick(back, 0), Tick { next_ns: back + SUSPECT, suspicion_ns: None });
    assert_eq!(path.words().suspected_ns(), 0);
    assert_eq!(path.tick(back, 0).suspicion_ns, Some(SUSPECT));
    assert_eq!(path.words().suspicions(), 2);
}

#[test]
fn a_heartbeat_between_two_ticks_of_a_silent_path_ends_its_silence() {
    let path = Path::begun();
    let seen = START + 10 * MS;
    for _ in 0..10 {
        path.tick(seen, 0);
    }
    let between = path.words().due_ns() - 2 * SUSPECT;
    assert_eq!(path.tick(between, 0).suspicion_ns, Some(2 * SUSPECT));
    assert_eq!(path.tick(between, 0).suspicion_ns, None);
    assert_eq!(path.words().suspicions(), 2);
}

#[test]
fn a_late_tick_is_a_pause_of_this_node_and_begins_a_fresh_window() {
    let path = Path::begun();
    let seen = START + 10 * MS;
    path.tick(seen, 0);
    let woke = path.words().due_ns() + LIMIT + 1;
    let late = path.tick(seen, LIMIT + 1);
    assert_eq!(late, Tick { next_ns: woke + SUSPECT, suspicion_ns: None });
    let words = path.words();
    assert_eq!((words.pauses(), words.pause_ns(), words.window_ns()), (1, LIMIT + 1, woke));
    assert_eq!(path.tick(seen, 0).suspicion_ns, Some(SUSPECT), "the window was whole");
    // Of a path that is suspect, too: nothing is held against its peer any more.
    path.tick(seen, LIMIT + 1);
    assert_eq!(words.suspected_ns(), 0);
    assert_eq!(path.tick(seen, LIMIT).suspicion_ns, Some(SUSPECT + LIMIT), "the limit is no pause");
}

#[test]
fn without_a_limit_no_tick_is_a_pause() {
    let path = Path::begun();
    path.words().set_pause_limit_ns(0);
    assert_eq!(path.tick(START, 1_000 * MS).suspicion_ns, Some(SUSPECT + 1_000 * MS));
    assert_eq!(path.words().pauses(), 0);
}

/// Another CPU may stamp between the two loads.
#[test]
fn a_stamp_from_after_the_tick_is_no_silence() {
    let path = Path::begun();
    let now = path.words().due_ns();
    let tick = tick(path.words(), now + 1, now).unwrap();
    assert_eq!(tick, Tick { next_ns: now + 1 + SUSPECT, suspicion_ns: None });
}

#[test]
fn silence_from_before_it_was_armed_counts_for_nothing() {
    let path = Path::begun();
    assert_eq!(path.words().suspected_ns(), 0, "what an earlier start left");
    assert_eq!(path.tick(5, 0).suspicion_ns, Some(SUSPECT));
}

#[test]
fn who_was_never_heard_is_never_suspect() {
    let path = Path::begun();
    for _ in 0..10 {
        let now = path.words().due_ns();
        assert_eq!(path.tick(0, 0), Tick { next_ns: now + PACE_MAX_NS, suspicion_ns: None });
    }
}

#[test]
fn ticks_of_a_silent_path_come_before_its_deadtime_and_then_ever_more_rarely() {
    let path = Path::begun();
    let seen = START + 10 * MS;
    path.tick(seen, 0);
    let mut after: Vec<u64> = Vec::new();
    for _ in 0..12 {
        let silence = path.words().due_ns() - seen;
        after.push(silence / MS);
        path.tick(seen, 0);
    }
    assert_eq!(after, [15, 18, 22, 26, 30, 60, 120, 240, 480, 730, 980, 1230]);
}

#[test]
fn no_time_makes_a_timer_that_spins() {
    for (suspect_ns, deadtime_ns) in [(1, 0), (1, 1), (1, 2), (u64::MAX, 0), (1, u64::MAX)] {
        let path = Path::begun();
        path.words().set_suspect_ns(suspect_ns);
        path.words().set_deadtime_ns(deadtime_ns);
        for _ in 0..10 {
            let now = path.words().due_ns() + LIMIT;
            let silence = now.wrapping_sub(START) as i64;
            let Some(next) = tick(path.words(), START, now) else { panic!("not watched") };
            let pace = next.next_ns.wrapping_sub(now);
            assert!(pace >= PACE_MIN_NS || silence < suspect_ns as i64, "{suspect_ns}: {pace}");
        }
    }
}

#[test]
fn a_path_without_times_is_not_watched_and_its_timer_ends() {
    let path = Path::begun();
    path.words().set_suspect_ns(0);
    let now = path.words().due_ns();
    assert_eq!(path.words().overdue_ns(now + MS), 0);
    assert_eq!(tick(path.words(), START, now), None);
    assert_eq!(path.words().due_ns(), 0);
    assert_eq!(begin(path.words(), now), None);
}

#[test]
fn a_timer_that_did_not_run_is_overdue() {
    let path = Path::begun();
    let due = path.words().due_ns();
    assert_eq!(path.words().overdue_ns(due - 1), 0);
    assert_eq!(path.words().overdue_ns(due + 3), 3);
    path.words().set_due_ns(0);
    assert_eq!(path.words().overdue_ns(due + 3), 0, "not armed");
}
