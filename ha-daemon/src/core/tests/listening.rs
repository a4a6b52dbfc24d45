//! Who listens before it takes anything, since it has just started or its interface just came back, and
//! does not run for a part of that time.

use super::pauses::stutter;
use super::sim::{Death, Sim, Stop};
use super::*;
use crate::core::time::Moment;
use crate::snapshot::NodeState;

/// Stops that outlast the wait: shorter than the holder's lease, and longer.
const STOPS: [Duration; 2] = [ms(550), ms(900)];

/// Nobody was taken for dead, and nothing was taken, since then.
fn expect_untouched(sim: &Sim, from: Moment, case: impl std::fmt::Debug) {
    assert_eq!(sim.notes(1, "node-dead", from), [], "{case:?}");
    assert_eq!(sim.since(0, from), [], "{case:?}");
    assert_eq!(sim.holders(0), [0], "{case:?}");
    assert_eq!(sim.state(1, 0), NodeState::Up, "{case:?}");
}

#[test]
fn a_start_that_is_stopped_for_longer_than_initdead_listens_before_it_takes() {
    for (seed, length) in (0..40).zip(STOPS.into_iter().cycle()) {
        let mut sim = Sim::new(config(2, 2, 1), seed);
        sim.start(0);
        sim.run(INITDEAD * 2);
        assert_eq!(sim.serving(0), [0]);
        let from = sim.now;
        sim.start(1);
        sim.stop(1, Stop::Daemon);
        sim.run(length);
        assert_eq!(sim.state(1, 0), NodeState::Unknown, "it has not proved itself");
        sim.resume(1);
        sim.run(SETTLE);
        expect_untouched(&sim, from, (seed, length));
    }
}

#[test]
fn who_was_stopped_while_its_interface_came_back_listens_before_it_takes() {
    for (seed, length) in (0..40).zip(STOPS.into_iter().cycle()) {
        let mut sim = Sim::settled(config_manual(2, 2), seed);
        sim.interface(1, false);
        sim.cut(0, 1, true);
        sim.run(SETTLE);
        assert_eq!((sim.state(1, 0), sim.holders(0)), (NodeState::Dead, vec![0]));
        let from = sim.now;
        sim.cut(0, 1, false);
        sim.interface(1, true);
        sim.stop(1, Stop::Daemon);
        sim.run(length);
        sim.resume(1);
        sim.run(SETTLE);
        expect_untouched(&sim, from, (seed, length));
    }
}

/// After `initdead` and `daemon_deadtime` of time awake, of which it has three fifths.
const LISTENED: Duration = ms(2_600);

#[test]
fn a_start_that_pauses_again_and_again_still_takes_what_nobody_has() {
    for seed in 0..10 {
        let mut sim = Sim::new(config(2, 2, 1), seed);
        sim.start(1);
        stutter(&mut sim, 1, LISTENED);
        assert_eq!(sim.serving(0), [1], "seed {seed}");
    }
}

#[test]
fn an_interface_that_came_back_to_a_node_that_pauses_again_and_again_is_used() {
    for seed in 0..10 {
        let mut sim = Sim::settled(config(2, 2, 1), seed);
        sim.run(ms(2_000));
        sim.kill(0, Death::PowerCut);
        sim.interface(1, false);
        sim.run(SETTLE);
        sim.interface(1, true);
        stutter(&mut sim, 1, INITDEAD);
        assert_eq!(sim.holders(0), [] as [usize; 0], "seed {seed}");
        stutter(&mut sim, 1, LISTENED - INITDEAD);
        assert_eq!(sim.serving(0), [1], "seed {seed}");
    }
}
