//! Nodes that are alive and do not hear each other.

use super::sim::{Death, Sim};
use super::starts::holders_since;
use super::*;
use crate::snapshot::NodeState;

#[test]
fn after_a_partition_one_owner_stays_and_the_group_is_served_all_the_time() {
    for seed in 0..40 {
        let mut sim = Sim::settled(config_manual(2, 2), seed);
        let cut = sim.now;
        sim.cut(0, 1, true);
        sim.run(ms(500));
        assert_eq!(sim.holders(0), [0, 1], "on_doubt = take");
        let healed = sim.now;
        sim.cut(0, 1, false);
        sim.run(SETTLE);
        assert_eq!(sim.serving(0), [1], "the later ownership stays; seed {seed}");
        assert_eq!(holders_since(&sim, 0, healed).last().unwrap(), &[1]);
        assert!(sim.since(0, cut).iter().all(|it| !it.serving.is_empty()), "seed {seed}");
        assert!(sim.announced(1, 0, healed), "the winner announces");
        assert!(!sim.announced(0, 0, healed));
        assert_eq!(sim.notes(0, "double-owner", healed).len(), 1);
        assert_eq!(sim.notes(1, "double-owner", healed), []);
        assert_eq!(sim.core(0).group(crate::config::GroupIndex(0)).owner, Some(NodeIndex(1)));
    }
}

#[test]
fn after_a_partition_a_group_with_failback_ends_where_it_is_preferred() {
    for seed in 0..40 {
        let mut sim = Sim::settled(config(3, 2, 2), seed);
        for node in 0..2 {
            sim.cut(node, 2, true);
        }
        sim.cut(0, 1, true);
        sim.run(ms(500));
        assert_eq!(sim.holders(0), [0, 1, 2]);
        for node in 0..2 {
            sim.cut(node, 2, false);
        }
        sim.cut(0, 1, false);
        sim.run(SETTLE);
        for group in 0..2 {
            assert_eq!(sim.serving(group), [group], "seed {seed}");
            assert_eq!(sim.holders(group), [group], "seed {seed}");
        }
    }
}

#[test]
fn equal_terms_go_by_preference() {
    for seed in 0..40 {
        let mut sim = Sim::new(config_manual(2, 2), seed);
        sim.cut(0, 1, true);
        sim.start(0);
        sim.start(1);
        sim.run(INITDEAD * 2);
        assert_eq!(sim.holders(0), [0, 1]);
        let healed = sim.now;
        sim.cut(0, 1, false);
        sim.run(SETTLE);
        assert_eq!(holders_since(&sim, 0, healed).last().unwrap(), &[0], "seed {seed}");
        assert!(sim.announced(0, 0, healed));
    }
}

#[test]
fn on_doubt_hold_keeps_the_group_where_it_is() {
    for seed in 0..40 {
        let mut config = config(2, 2, 1);
        config.cluster.on_doubt = OnDoubt::Hold;
        let mut sim = Sim::settled(config, seed);
        let from = sim.now;
        sim.cut(0, 1, true);
        sim.run(ms(2000));
        assert_eq!(sim.state(1, 0), NodeState::Dead);
        sim.cut(0, 1, false);
        sim.run(SETTLE);
        assert_eq!(sim.since(0, from), [], "seed {seed}");
        assert_eq!(sim.state(1, 0), NodeState::Up);
    }
}

#[test]
fn on_doubt_hold_takes_nothing_of_who_was_never_heard() {
    for seed in 0..40 {
        let mut config = config(2, 2, 1);
        config.cluster.on_doubt = OnDoubt::Hold;
        let mut sim = Sim::new(config, seed);
        sim.start(1);
        sim.run(ms(5000));
        assert_eq!(sim.state(1, 0), NodeState::Dead);
        assert!(sim.holders(0).is_empty(), "seed {seed}");
        sim.start(0);
        sim.run(SETTLE);
        assert_eq!(sim.holders(0), [0], "seed {seed}");
    }
}

/// The second hears nobody for a while; whoever hears it must not believe what it said before.
#[test]
fn a_one_way_cut_ends_with_one_owner() {
    for seed in 0..40 {
        let mut sim = Sim::settled(config_manual(2, 2), seed);
        for link in 0..2 {
            sim.net.fault((0, 1, link)).cut = true;
        }
        sim.run(ms(500));
        assert_eq!(sim.state(1, 0), NodeState::Dead);
        assert_eq!(sim.state(0, 1), NodeState::Up);
        // The first is told although nobody hears it.
        assert_eq!(sim.holders(0), [1], "seed {seed}");
        sim.net.heal();
        let healed = sim.now;
        sim.run(SETTLE);
        assert_eq!(sim.serving(0), [1], "seed {seed}");
        assert_eq!(sim.since(0, healed), [], "seed {seed}");
    }
}

/// What the winner tells at its takeover is lost, and nobody who is not heard can ask for it.
#[test]
fn a_one_way_cut_that_swallows_the_winners_word_ends_with_one_owner_all_the_same() {
    for seed in 0..20 {
        let mut sim = Sim::settled(config_manual(2, 2), seed);
        for link in 0..2 {
            sim.net.fault((0, 1, link)).cut = true;
            sim.net.fault((1, 0, link)).control_lost_percent = 100;
        }
        while sim.serving(0) != [0, 1] {
            sim.run(ms(1));
        }
        sim.run(ms(20));
        for link in 0..2 {
            sim.net.fault((1, 0, link)).control_lost_percent = 0;
        }
        sim.run(ms(2_000));
        assert_eq!(sim.state(1, 0), NodeState::Dead);
        assert_eq!(sim.holders(0), [1], "seed {seed}");
        assert_eq!(sim.notes(0, "double-owner", crate::core::time::Moment(0)).len(), 1);
    }
}

#[test]
fn who_is_silent_is_reminded_once_a_second_while_something_is_owned() {
    let mut sim = Sim::settled(config_manual(2, 2), 1);
    sim.kill(0, Death::PowerCut);
    sim.run(ms(500));
    let told = |sim: &mut Sim| {
        let before = sim.letters;
        sim.run(ms(10_000));
        sim.letters - before
    };
    assert_eq!(told(&mut sim), 10 * 2, "on each link");
    sim.interface(1, false);
    sim.run(ms(100));
    assert_eq!((sim.holders(0), told(&mut sim)), (vec![], 0));
}

/// The loser learns of the later term while it owns by an earlier one. When it owns again, its
/// term must be later than both, or a third memory of the first would win against it.
#[test]
fn a_loser_that_owns_again_has_a_later_term_than_the_one_it_yielded_to() {
    for seed in 0..40 {
        let mut sim = Sim::settled(config_manual(2, 2), seed);
        let term = |sim: &Sim, node| sim.core(node).group(crate::config::GroupIndex(0)).term;
        // The second owns by term 2, 3, ... while the first still owns by term 1.
        sim.cut(0, 1, true);
        sim.run(ms(200));
        for _ in 0..3 {
            sim.interface(1, false);
            sim.run(ms(50));
            sim.interface(1, true);
            // It waits that long for the peer that it cannot hear.
            sim.run(INITDEAD + ms(50));
        }
        let later = term(&sim, 1);
        assert_eq!(later, 5);
        sim.cut(0, 1, false);
        while sim.notes(0, "double-owner", crate::core::time::Moment(0)).is_empty() {
            sim.run(Duration::from_micros(100));
        }
        // It yields, and at that moment the other one is gone.
        sim.kill(1, Death::PowerCut);
        sim.run(SETTLE);
        assert_eq!(sim.serving(0), [0]);
        assert!(term(&sim, 0) > later, "{} after {later}; seed {seed}", term(&sim, 0));
    }
}
