//! Resources that fail, interfaces that go down.

use super::sim::{Death, Sim};
use super::starts::holders_since;
use super::*;
use crate::config::GroupIndex;
use crate::core::io::Input;
use crate::core::ownership::{FAILED_PAUSE, HELD_BACK_PAUSE};
use crate::snapshot::GroupState;

#[test]
fn a_start_that_fails_moves_the_group_and_the_node_is_eligible_again_later() {
    for seed in 0..10 {
        let mut sim = Sim::settled(config(3, 1, 1), seed);
        sim.start_fails.insert((1, 0));
        let from = sim.now;
        sim.kill(0, Death::PowerCut);
        sim.run(SETTLE);
        assert_eq!(sim.serving(0), [2], "seed {seed}");
        assert_eq!(holders_since(&sim, 0, from), [vec![], vec![1], vec![], vec![2]]);
        assert_eq!(sim.notes(1, "resource-failed", from).len(), 1);
        sim.start_fails.clear();
        sim.run(FAILED_PAUSE);
        assert_eq!(sim.serving(0), [1], "seed {seed}");
        assert_eq!(holders_since(&sim, 0, from).len(), 6, "it moved once");
    }
}

/// Stopped between its decision and the first start, for longer than its lease: nothing was tried.
#[test]
fn a_start_that_is_held_back_is_no_failure_and_another_node_may_take_the_group() {
    for nodes in [2, 3] {
        for seed in 0..10 {
            let mut sim = Sim::settled(config(nodes, 1, 1), seed);
            sim.held_back.insert(1);
            let from = sim.now;
            sim.kill(0, Death::PowerCut);
            sim.run(SETTLE);
            assert_eq!(sim.serving(0), if nodes == 3 { vec![2] } else { vec![] }, "seed {seed}");
            assert_eq!(sim.notes(1, "resource-failed", from), []);
            let tries = sim.notes(1, "takeover-held", from).len() as u128;
            let tries_max = SETTLE.as_millis() / HELD_BACK_PAUSE.as_millis();
            assert!((1..=tries_max).contains(&tries), "{tries}, seed {seed}");
            sim.held_back.clear();
            sim.run(HELD_BACK_PAUSE + ms(20));
            assert_eq!(sim.serving(0), [1], "seed {seed}: at once");
        }
    }
}

#[test]
fn a_stop_that_fails_keeps_the_others_from_starting() {
    let mut sim = Sim::settled(config(2, 2, 1), 2);
    sim.stop_fails.insert((0, 0));
    let from = sim.now;
    sim.interface(0, false);
    sim.run(ms(3000));
    assert_eq!(sim.holders(0), [0]);
    assert_eq!(sim.core(1).group(GroupIndex(0)).state, GroupState::Failed);
    assert_eq!(sim.core(1).group(GroupIndex(0)).owner, Some(NodeIndex(0)));
    assert_eq!(sim.notes(0, "group-stuck", from).len(), 1);
    // It is tried again, so that what passes does not need an operator.
    sim.stop_fails.clear();
    sim.run(FAILED_PAUSE);
    assert_eq!(sim.holders(0), [1]);
}

#[test]
fn an_interface_that_goes_down_moves_the_group_and_brings_it_back() {
    for seed in 0..40 {
        let mut sim = Sim::settled(config(2, 2, 1), seed);
        let from = sim.now;
        sim.interface(0, false);
        sim.run(ms(30));
        assert_eq!(sim.serving(0), [1], "seed {seed}");
        sim.interface(0, true);
        sim.run(ms(30));
        assert_eq!(sim.serving(0), [0]);
        let holders = holders_since(&sim, 0, from);
        assert!(holders.iter().all(|it| it.len() < 2), "seed {seed}: {holders:?}");
        assert_eq!(sim.notes(0, "interface-down", from).len(), 1);
    }
}

#[test]
fn a_group_that_nobody_can_own_waits_for_an_interface() {
    let mut sim = Sim::settled(config(2, 2, 1), 2);
    sim.interface(1, false);
    sim.interface(0, false);
    sim.run(ms(100));
    assert_eq!(sim.holders(0), [] as [usize; 0]);
    sim.interface(1, true);
    sim.run(ms(30));
    assert_eq!(sim.serving(0), [1]);
}

/// Both may own again at the same moment; each has to know that before one takes.
#[test]
fn two_nodes_that_become_able_at_once_never_both_take() {
    for seed in 0..50 {
        let mut sim = Sim::settled(config(2, 2, 2), seed);
        for node in 0..2 {
            sim.interface(node, false);
        }
        sim.run(ms(50));
        let from = sim.now;
        sim.interface(1, true);
        let gap = sim.net.random.between(Duration::ZERO, Duration::from_micros(600));
        sim.run(gap);
        sim.interface(0, true);
        sim.run(ms(50));
        for group in 0..2 {
            let holders = holders_since(&sim, group, from);
            assert!(holders.iter().all(|it| it.len() < 2), "seed {seed}: {holders:?}");
            assert_eq!(sim.serving(group), [group]);
        }
    }
}

#[test]
fn a_lost_resource_is_started_again_where_it_was() {
    for seed in 0..10 {
        let mut sim = Sim::settled(config(2, 2, 1), seed);
        let cause = "not renewed".to_owned();
        let lost = Input::ResourceLost { group: GroupIndex(0), resource: 1, cause };
        let from = sim.now;
        let incarnation = sim.incarnation(0);
        sim.report(0, incarnation, lost);
        sim.run(ms(50));
        assert_eq!(sim.serving(0), [0], "seed {seed}");
        assert!(holders_since(&sim, 0, from).iter().all(|it| !it.contains(&1)));
    }
}

#[test]
fn a_report_that_nobody_asked_for_changes_nothing() {
    let mut sim = Sim::settled(config(2, 2, 1), 2);
    let from = sim.now;
    for group in [0, 7] {
        for resource in [0, 1, 99] {
            let group = GroupIndex(group);
            sim.letter(0, Input::ResourceStarted { group, resource, error: Some("no".to_owned()) });
            sim.letter(0, Input::ResourceStopped { group, resource, error: Some("no".to_owned()) });
            sim.letter(1, Input::ResourceLost { group, resource, cause: String::new() });
        }
    }
    sim.run(SETTLE);
    assert_eq!(sim.since(0, from), []);
}
