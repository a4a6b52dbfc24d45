//! Paths whose deadtime follows what arrives: what it changes, and what it does not.

use proptest::prelude::*;

use super::sim::{Death, Sim, Stop};
use super::*;
use crate::config::Auto;
use crate::core::io::{Action, Arrived, Input};
use crate::core::restart::RESTART_GRACE;
use crate::core::time::Moment;
use crate::snapshot::NodeState;

const MIN: Duration = Duration::from_millis(30);
const MAX: Duration = Duration::from_millis(200);

fn auto(links: usize) -> Config {
    let mut config = config(2, links, 1);
    config.cluster.deadtime = MAX;
    config.cluster.warntime = MIN / 2;
    config.cluster.auto = Some(Auto { min: MIN, warntime_follows: true });
    config
}

/// What a long quiet time with that longest gap tells.
fn quiet(sim: &Sim, link: usize, gap: Duration) -> Arrived {
    let gap_ns = gap.as_nanos() as u64;
    Arrived {
        peer: NodeIndex(0),
        link: LinkIndex(link),
        since: sim.now,
        keepalive_us: KEEPALIVE.as_micros() as u64,
        gaps: 100_000,
        observed_ns: 1_000_000_000_000,
        longest_ns: [gap_ns, gap_ns],
        paused_ns: 0,
    }
}

fn learn(sim: &mut Sim, link: usize, gap: Duration) {
    let arrived = quiet(sim, link, gap);
    sim.letter(1, Input::Arrived(vec![arrived]));
}

fn deadtime(sim: &Sim, link: usize) -> Duration {
    let core = sim.core(1);
    core.peers()[&NodeIndex(0)].times(&core.config, LinkIndex(link)).deadtime
}

/// How long after its last sign of life node 0 was judged by node 1.
fn judged_after(sim: &mut Sim) -> Duration {
    let from = sim.now;
    let last = sim.core(1).peers()[&NodeIndex(0)].last_seen().unwrap();
    sim.kill(0, Death::PowerCut);
    sim.run(ms(500));
    let last = sim.core(1).peers()[&NodeIndex(0)].last_seen().unwrap().max(last);
    let notes = sim.notes(1, "node-dead", from);
    assert_eq!(notes.len(), 1);
    Duration::from_nanos(notes[0].0.since(last) as u64)
}

#[test]
fn a_death_is_judged_by_what_was_learnt() {
    for seed in 0..8 {
        let mut sim = Sim::settled(auto(2), seed);
        assert_eq!(judged_after(&mut sim), MAX, "seed {seed}: nothing is known");
        let mut sim = Sim::settled(auto(2), seed);
        (0..2).for_each(|link| learn(&mut sim, link, KEEPALIVE));
        assert_eq!(judged_after(&mut sim), MIN, "seed {seed}");
        let mut sim = Sim::settled(auto(2), seed);
        (0..2).for_each(|link| learn(&mut sim, link, ms(40)));
        assert_eq!(judged_after(&mut sim), ms(80), "seed {seed}");
    }
}

#[test]
fn each_path_has_its_own() {
    let mut sim = Sim::settled(auto(2), 1);
    learn(&mut sim, 0, KEEPALIVE);
    assert_eq!((deadtime(&sim, 0), deadtime(&sim, 1)), (MIN, MAX));
    let from = sim.now;
    sim.net.fault((0, 1, 0)).cut = true;
    sim.run(ms(100));
    assert_eq!(sim.notes(1, "link-dead", from).len(), 1);
    assert_eq!(sim.state(1, 0), NodeState::Up);
}

#[test]
fn its_peer_is_asked_in_the_second_half_of_what_holds() {
    for (gap, deadtime) in [(KEEPALIVE, MIN), (ms(40), ms(80)), (ms(100), MAX)] {
        let mut sim = Sim::settled(auto(1), 3);
        learn(&mut sim, 0, gap);
        let last = {
            sim.kill(0, Death::PowerCut);
            sim.run(ms(1));
            sim.core(1).peers()[&NodeIndex(0)].last_seen().unwrap()
        };
        sim.run(MAX);
        let asked = |(at, by, action): &(Moment, usize, Action)| {
            let is_probe = matches!(action, Action::Probe { .. });
            (*by == 1 && is_probe && at.since(last) > 0).then(|| at.since(last))
        };
        let first_ns = sim.log.iter().filter_map(asked).next().unwrap();
        let half_ns = (deadtime / 2).as_nanos() as i64;
        assert!(first_ns >= half_ns, "{deadtime:?}: {first_ns}");
        assert!(first_ns < half_ns * 2, "{deadtime:?}: {first_ns}");
    }
}

#[test]
fn it_is_told_and_changes_no_state() {
    let mut sim = Sim::settled(auto(1), 5);
    let from = sim.now;
    learn(&mut sim, 0, KEEPALIVE);
    learn(&mut sim, 0, ms(60));
    learn(&mut sim, 0, ms(61));
    let told: Vec<String> =
        sim.notes(1, "deadtime", from).into_iter().map(|(_, note)| note.message).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(
        told[1],
        "deadtime of n0:hb0 is now 120.000 ms, was 30.000 ms: the longest gap was 60.000 ms in 10 min, \
         60.000 ms in 24 h"
    );
    sim.run(ms(500));
    assert_eq!(sim.since(0, from), []);
    for kind in ["node-late", "node-dead", "link-late", "link-dead", "node-stale"] {
        assert_eq!(sim.notes(1, kind, from), [], "{kind}");
    }
}

#[test]
fn the_restart_of_a_peer_in_place_is_no_gap() {
    let mut sim = Sim::settled(auto(1), 7);
    learn(&mut sim, 0, KEEPALIVE);
    let before = quiet(&sim, 0, ms(150));
    sim.gap = ms(150);
    sim.hand_over(0);
    sim.run(ms(400));
    sim.letter(1, Input::Arrived(vec![before]));
    assert_eq!(deadtime(&sim, 0), MIN);
    // What comes after it is one.
    learn(&mut sim, 0, ms(90));
    assert_eq!(deadtime(&sim, 0), ms(180));
}

#[test]
fn a_peer_that_does_not_come_back_from_its_restart_has_its_full_time() {
    for gap in [KEEPALIVE, ms(40)] {
        let mut sim = Sim::settled(auto(2), 11);
        (0..2).for_each(|link| learn(&mut sim, link, gap));
        let from = sim.now;
        sim.gap = ms(10_000);
        sim.hand_over(0);
        sim.run(ms(50));
        sim.kill(0, Death::PowerCut);
        sim.run(ms(2_000));
        let notes = sim.notes(1, "node-dead", from);
        assert_eq!(notes.len(), 1);
        let after = Duration::from_nanos(notes[0].0.since(from) as u64);
        assert!(after >= RESTART_GRACE && after < RESTART_GRACE + ms(50), "{after:?}");
    }
}

#[test]
fn a_daemon_is_stale_when_its_heartbeats_are_missing_for_what_was_learnt() {
    for (gap, deadtime) in [(KEEPALIVE, MIN), (ms(40), ms(80))] {
        let mut sim = Sim::settled(auto(2), 17);
        (0..2).for_each(|link| learn(&mut sim, link, gap));
        let from = sim.now;
        sim.stop(0, Stop::Daemon);
        sim.run(ms(300));
        let last = sim.core(1).peers()[&NodeIndex(0)].last_seen().unwrap();
        let notes = sim.notes(1, "node-stale", from);
        assert_eq!(notes.len(), 1);
        assert_eq!(notes[0].0, last.after(deadtime));
        assert_eq!(sim.notes(1, "node-dead", from), []);
    }
}

/// A peer whose driver hangs goes on beating; who did not run itself may have paused with it.
#[test]
fn the_window_after_an_own_pause_is_as_long_as_what_was_learnt() {
    for (gap, deadtime) in [(KEEPALIVE, MIN), (ms(40), ms(80)), (ms(100), MAX)] {
        let mut config = auto(2);
        config.cluster.daemon_deadtime = ms(2_000);
        let mut sim = Sim::settled(config, 19);
        (0..2).for_each(|link| learn(&mut sim, link, gap));
        sim.stop(0, Stop::Driver);
        sim.run(ms(900));
        sim.stop(1, Stop::Daemon);
        sim.run(ms(300));
        let woke = sim.now;
        sim.resume(1);
        sim.run(ms(400));
        let notes = sim.notes(1, "node-stale", woke);
        assert_eq!(notes.len(), 1);
        assert_eq!(notes[0].0, woke.after(deadtime));
    }
}

#[test]
fn it_does_not_come_down_while_the_link_is_late() {
    let mut sim = Sim::settled(auto(2), 13);
    let part = |sim: &Sim| Arrived { observed_ns: 64_000_000_000, ..quiet(sim, 0, KEEPALIVE) };
    let arrived = part(&sim);
    sim.letter(1, Input::Arrived(vec![arrived]));
    assert_eq!(deadtime(&sim, 0), ms(150), "a quarter of its time has passed");
    sim.net.fault((0, 1, 0)).cut = true;
    sim.run(ms(100));
    let arrived = part(&sim);
    sim.letter(1, Input::Arrived(vec![arrived]));
    assert_eq!(deadtime(&sim, 0), ms(150));
    sim.net.fault((0, 1, 0)).cut = false;
    sim.run(ms(100));
    let arrived = part(&sim);
    sim.letter(1, Input::Arrived(vec![arrived]));
    assert!(deadtime(&sim, 0) < ms(150));
}

#[test]
fn a_hand_over_keeps_it_and_a_reload_to_a_fixed_time_and_back_flaps_nothing() {
    let mut sim = Sim::settled(auto(2), 9);
    let from = sim.now;
    (0..2).for_each(|link| learn(&mut sim, link, ms(40)));
    sim.hand_over(1);
    sim.run(ms(300));
    assert_eq!(deadtime(&sim, 0), ms(80));
    let mut fixed = auto(2);
    (fixed.cluster.deadtime, fixed.cluster.auto) = (ms(50), None);
    let follows = Arc::clone(&sim.files[1]);
    for (file, expected) in [(Arc::new(fixed), ms(50)), (follows, ms(80))] {
        sim.files[1] = file;
        sim.hand_over(1);
        sim.run(ms(300));
        assert_eq!(deadtime(&sim, 0), expected);
    }
    assert_eq!(sim.since(0, from), []);
    for kind in ["node-late", "node-dead", "link-dead", "node-stale"] {
        assert_eq!(sim.notes(1, kind, from), [], "{kind}");
    }
}

proptest! {
    /// Heartbeats come in time: whatever is told of gaps, nobody is judged for it.
    #[test]
    fn what_is_told_of_gaps_is_no_verdict(
        seed in any::<u64>(),
        steps in prop::collection::vec((0..2usize, 0..400u64, 0..300u64, 1..60_000u64), 1..40),
    ) {
        let mut sim = Sim::settled(auto(2), seed);
        let from = sim.now;
        for (link, gap_ms, paused_ms, wait_us) in steps {
            let mut arrived = quiet(&sim, link, ms(gap_ms));
            arrived.paused_ns = paused_ms * 1_000_000;
            sim.letter(1, Input::Arrived(vec![arrived]));
            prop_assert!((MIN..=MAX).contains(&deadtime(&sim, link)));
            sim.run(Duration::from_micros(wait_us));
        }
        sim.run(ms(500));
        for kind in ["node-late", "node-dead", "link-dead", "node-stale", "takeover"] {
            prop_assert_eq!(sim.notes(1, kind, from), vec![], "{}", kind);
        }
        prop_assert_eq!(sim.since(0, from), vec![]);
    }
}
