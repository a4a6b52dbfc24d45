//! A node that does not run for a while.

use super::sim::{Death, Sim, Stop};
use super::*;
use crate::config::Times;
use crate::core::io::Action;
use crate::snapshot::NodeState;

#[test]
fn who_was_paused_gives_no_verdict_before_a_fresh_window() {
    for seed in 0..40 {
        let mut sim = Sim::settled(config(2, 2, 1), seed);
        sim.pause(1);
        // The peer leaves the net meanwhile: after the pause it looks as if silent for long.
        sim.cut(0, 1, true);
        sim.run(ms(300));
        let from = sim.now;
        sim.resume(1);
        sim.run(DEADTIME - ms(1));
        assert_eq!(sim.notes(1, "node-dead", from), []);
        assert_eq!(sim.holders(0), [0]);
        sim.run(ms(1));
        assert_eq!(sim.notes(1, "node-dead", from)[0].0, from.after(DEADTIME), "seed {seed}");
    }
}

#[test]
fn a_pause_of_the_watcher_alone_changes_nothing() {
    for seed in 0..40 {
        let mut sim = Sim::settled(config(2, 2, 1), seed);
        let from = sim.now;
        sim.pause(1);
        sim.run(ms(300));
        sim.resume(1);
        sim.run(SETTLE);
        assert_eq!(sim.since(0, from), [], "seed {seed}");
        assert_eq!(sim.notes(1, "node-dead", from), []);
        assert_eq!(sim.state(0, 1), NodeState::Up);
    }
}

#[test]
fn a_close_during_an_own_pause_is_judged_by_what_was_heard_since() {
    for seed in 0..40 {
        let mut sim = Sim::settled(config(2, 2, 1), seed);
        let (from, incarnation) = (sim.now, sim.incarnation(0));
        sim.close_connections(0, incarnation);
        sim.run(ms(1));
        sim.pause(1);
        sim.run(ms(300));
        sim.resume(1);
        sim.run(SETTLE);
        assert_eq!(sim.notes(1, "daemon-gone", from), [], "seed {seed}");
        assert_eq!(sim.since(0, from), []);
    }
}

#[test]
fn a_paused_owner_that_comes_back_after_a_takeover_yields_at_once() {
    for seed in 0..40 {
        let mut sim = Sim::settled(config_manual(2, 2), seed);
        sim.pause(0);
        sim.run(SETTLE);
        assert_eq!(sim.holders(0), [0, 1]);
        let from = sim.now;
        sim.resume(0);
        sim.run(ms(10));
        assert_eq!(sim.serving(0), [1], "the later term stays; seed {seed}");
        assert_eq!(sim.holders(0), [1], "seed {seed}");
        assert_eq!(sim.notes(0, "double-owner", from).len(), 1);
        let stop = sim.log.iter().find(|(at, node, action)| {
            *at >= from && *node == 0 && matches!(action, Action::StopResource { .. })
        });
        assert!(stop.unwrap().0.since(from) < 3_000_000, "seed {seed}");
        assert!(sim.announced(1, 0, from), "the winner says where the addresses are");
        sim.run(SETTLE);
        assert_eq!(sim.serving(0), [1]);
    }
}

/// Its lease is the first that such a judge hears of, before anything that came in meanwhile.
#[test]
fn a_judge_that_was_stopped_for_longer_than_its_lease_begins_a_fresh_window_first() {
    for seed in 0..40 {
        let mut sim = Sim::settled(config_manual(2, 2), seed);
        let from = sim.now;
        sim.stop(1, Stop::Daemon);
        let length = sim.net.random.between(ms(760), ms(3_000));
        sim.run(length);
        sim.resume(1);
        sim.run(SETTLE);
        assert_eq!(sim.notes(1, "node-dead", from), [], "seed {seed}");
        assert_eq!(sim.notes(1, "link-dead", from), [], "seed {seed}");
        assert_eq!(sim.since(0, from), [], "seed {seed}");
        // And when the other is gone indeed.
        sim.stop(1, Stop::Daemon);
        sim.kill(0, Death::PowerCut);
        sim.run(length);
        let from = sim.now;
        sim.resume(1);
        sim.run(DEADTIME - ms(1));
        assert_eq!(sim.notes(1, "node-dead", from), [], "seed {seed}");
        sim.run(ms(1));
        assert_eq!(sim.notes(1, "node-dead", from)[0].0, from.after(DEADTIME), "seed {seed}");
    }
}

/// Longer than `daemon_deadtime`, after which who was awake judges without a window.
#[test]
fn a_long_pause_is_no_time_awake() {
    for (seed, stop) in (0..40).zip([Stop::Node, Stop::Daemon].into_iter().cycle()) {
        let mut sim = Sim::settled(config_manual(2, 2), seed);
        let from = sim.now;
        sim.stop(1, stop);
        sim.cut(0, 1, true);
        let length = sim.net.random.between(DAEMON_DEADTIME, DAEMON_DEADTIME * 5);
        sim.run(length);
        sim.resume(1);
        // Its questions stay unanswered for almost the whole window.
        sim.run(DEADTIME - KEEPALIVE - ms(1));
        sim.cut(0, 1, false);
        sim.run(SETTLE);
        assert_eq!(sim.notes(1, "node-dead", from), [], "seed {seed}, {stop:?}, {length:?}");
    }
}

#[test]
fn pauses_shorter_than_deadtime_lead_to_nothing() {
    for seed in 0..20 {
        let mut sim = Sim::settled(config(3, 2, 2), seed);
        let from = sim.now;
        for round in 0..12 {
            sim.pause(round % 3);
            let pause = sim.net.random.between(ms(1), DEADTIME - KEEPALIVE - ms(1));
            sim.run(pause);
            sim.resume(round % 3);
            let between = sim.net.random.between(ms(15), ms(40));
            sim.run(between);
        }
        assert_eq!(sim.since(0, from), [], "seed {seed}");
        assert_eq!(sim.since(1, from), [], "seed {seed}");
    }
}

/// Whose daemon does not run does not run because of a pause here.
#[test]
fn a_stale_peer_is_stale_through_pauses_of_its_judge_until_it_is_heard() {
    for (seed, stop) in (0..20).zip([Stop::Sender, Stop::Daemon].into_iter().cycle()) {
        let mut sim = Sim::settled(config_manual(2, 2), seed);
        let from = sim.now;
        sim.stop(0, stop);
        sim.run(ms(100));
        stutter(&mut sim, 1, ms(200));
        sim.run(ms(100));
        assert_eq!(sim.state(1, 0), NodeState::Stale, "seed {seed}");
        assert_eq!(sim.notes(1, "node-stale", from).len(), 1, "seed {seed}");
        assert_eq!(sim.notes(1, "node-up", from), [], "seed {seed}");
        sim.resume(0);
        sim.run(SETTLE);
        assert_eq!(sim.state(1, 0), NodeState::Up, "seed {seed}");
        assert_eq!(sim.notes(1, "node-up", from).len(), 1, "seed {seed}");
        assert_eq!(sim.since(0, from), [], "seed {seed}");
    }
}

/// Both hosts stop, as with the machine under them. What comes first on the slow link, the only one that
/// is left, says that the other daemon did not run; what comes next says that it does.
#[test]
fn after_a_common_pause_a_slow_link_has_its_full_window() {
    for seed in 0..20 {
        let mut config = config(2, 2, 1);
        let (keepalive, deadtime) = (ms(400), ms(2_000));
        config.links[1].times =
            Some(Times { keepalive, warntime: ms(1_000), deadtime, auto: None });
        config.cluster.daemon_deadtime = ms(2_000);
        let mut sim = Sim::settled(config, seed);
        sim.run(ms(2_000));
        (0..2).for_each(|node| sim.net.fault((node, 1 - node, 0)).cut = true);
        sim.run(ms(1_000));
        assert_eq!(sim.state(1, 0), NodeState::Up, "seed {seed}");
        let from = sim.now;
        (0..2).for_each(|node| sim.pause(node));
        sim.run(ms(3_000));
        (0..2).for_each(|node| sim.resume(node));
        sim.run(ms(3_000));
        for kind in ["node-stale", "node-dead"] {
            assert_eq!(sim.notes(1, kind, from), [], "seed {seed}");
            assert_eq!(sim.notes(0, kind, from), [], "seed {seed}");
        }
    }
}

/// Pauses of 10 ms, each before the window of the last one is over, for that long.
pub(super) fn stutter(sim: &mut Sim, node: usize, length: Duration) {
    let until = sim.now.after(length);
    while sim.now < until {
        sim.run(ms(15));
        sim.pause(node);
        sim.run(ms(10));
        sim.resume(node);
    }
}

#[test]
fn a_judge_that_pauses_again_and_again_still_judges_the_dead() {
    for seed in 0..20 {
        let mut sim = Sim::settled(config_manual(2, 2), seed);
        stutter(&mut sim, 1, ms(200));
        let from = sim.now;
        sim.kill(0, Death::PowerCut);
        stutter(&mut sim, 1, ms(2_500));
        let [(at, note)] = &sim.notes(1, "node-dead", from)[..] else { panic!("seed {seed}") };
        // It is awake for three fifths of the time.
        let late = at.since(from.after(DAEMON_DEADTIME * 5 / 3));
        assert!((-40_000_000..40_000_000).contains(&late), "{late} ns, seed {seed}");
        assert!(note.message.contains("silent on every link"), "{}", note.message);
        assert_eq!(sim.serving(0), [1], "seed {seed}");
        assert_eq!(sim.notes(1, "link-dead", from).len(), 2, "seed {seed}");
    }
}

#[test]
fn a_judge_that_pauses_again_and_again_still_judges_a_daemon_that_stopped() {
    for seed in 0..20 {
        let mut sim = Sim::settled(config_manual(2, 2), seed);
        let from = sim.now;
        sim.stop(0, Stop::Daemon);
        stutter(&mut sim, 1, DAEMON_DEADTIME);
        assert_eq!(sim.notes(1, "node-dead", from), [], "seed {seed}");
        stutter(&mut sim, 1, ms(3_000));
        let [(_, note)] = &sim.notes(1, "node-dead", from)[..] else { panic!("seed {seed}") };
        assert!(note.message.contains("its kernel answers"), "{}", note.message);
        assert_eq!(sim.serving(0), [1], "seed {seed}");
        assert!(sim.since(0, from).iter().all(|it| it.holders.len() < 2), "seed {seed}");
    }
}

#[test]
fn a_judge_that_pauses_again_and_again_never_judges_the_living() {
    for seed in 0..10 {
        let mut sim = Sim::settled(config_manual(2, 2), seed);
        let from = sim.now;
        for (node, link) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            sim.net.fault((node, 1 - node, link)).beats_lost_percent = 50;
        }
        stutter(&mut sim, 1, ms(5_000));
        // Nor one that stops for almost its lease, whose kernel answers.
        sim.stop(0, Stop::Daemon);
        stutter(&mut sim, 1, ms(600));
        sim.resume(0);
        stutter(&mut sim, 1, ms(3_000));
        // Nor one that was away with this node, for long.
        (0..2).for_each(|node| sim.pause(node));
        sim.run(ms(500));
        (0..2).for_each(|node| sim.resume(node));
        stutter(&mut sim, 1, ms(2_000));
        assert_eq!(sim.notes(1, "node-dead", from), [], "seed {seed}");
        assert_eq!(sim.since(0, from), [], "seed {seed}");
    }
}

#[test]
fn who_pauses_again_and_again_and_cannot_ask_says_so_once_and_judges() {
    let mut sim = Sim::settled(config_manual(2, 2), 1);
    let from = sim.now;
    sim.cannot_ask.insert(1);
    sim.kill(0, Death::PowerCut);
    stutter(&mut sim, 1, ms(1_500));
    assert_eq!(sim.notes(1, "node-dead", from), []);
    assert_eq!(sim.notes(1, "could-not-ask", from).len(), 1);
    stutter(&mut sim, 1, ms(500));
    assert_eq!(sim.notes(1, "node-dead", from).len(), 1);
}

#[test]
fn a_series_of_pauses_is_noted_once_a_second() {
    let mut sim = Sim::settled(config(2, 2, 1), 1);
    let from = sim.now;
    for _ in 0..20 {
        sim.pause(1);
        sim.run(ms(15));
        sim.resume(1);
        sim.run(ms(15));
    }
    let notes = sim.notes(1, "own-pause", from);
    let [(_, note)] = notes.as_slice() else { panic!("{notes:?}") };
    let said = "own pause of 15.000 ms: the driver woke late (pause ";
    assert!(note.message.starts_with(said), "{note:?}");
}

/// It slept while the owner died and the second took over; it is preferred to that one, but what
/// it knows is old.
#[test]
fn who_was_paused_during_a_takeover_does_not_take_by_old_knowledge() {
    for seed in 0..60 {
        let mut sim = Sim::settled(config_manual(3, 2), seed);
        sim.pause(1);
        sim.kill(0, Death::PowerCut);
        sim.run(ms(200));
        assert_eq!(sim.serving(0), [2]);
        let from = sim.now;
        sim.resume(1);
        sim.run(SETTLE);
        assert_eq!(sim.since(0, from), [], "seed {seed}");
    }
}
