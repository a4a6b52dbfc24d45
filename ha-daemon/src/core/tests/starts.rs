//! Starting, restarting, leaving, coming back.

use super::sim::{Death, Sim};
use super::*;
use crate::core::LEAVE_WAIT_MAX;
use crate::core::io::{Action, Input};
use crate::core::time::Moment;
use crate::snapshot::NodeState;
use ha_common::wire::Phase;

/// The group had these holders, in this order, since then; the first one from before counts.
pub(super) fn holders_since(sim: &Sim, group: usize, from: Moment) -> Vec<Vec<usize>> {
    let mut holders: Vec<_> = sim.since(group, from).into_iter().map(|it| it.holders).collect();
    holders.dedup();
    holders
}

#[test]
fn started_at_once_the_preferred_node_owns_and_nothing_moves_afterwards() {
    for seed in 0..40 {
        for nodes in 2..4 {
            let mut sim = Sim::new(config(nodes, 2, 2), seed);
            let from = sim.now;
            for node in 0..nodes {
                sim.start(node);
                let gap = sim.net.random.between(Duration::ZERO, ms(5));
                sim.run(gap);
            }
            sim.run(ms(1500));
            for group in 0..2 {
                assert_eq!(holders_since(&sim, group, from), [vec![], vec![group]], "seed {seed}");
            }
            assert!(sim.now.since(sim.history[0][1].at) > 1_400_000_000, "they wait for nothing");
        }
    }
}

#[test]
fn a_single_node_waits_initdead() {
    let mut sim = Sim::new(config(2, 2, 1), 1);
    let started = sim.now;
    sim.start(1);
    sim.run(INITDEAD * 2);
    assert_eq!(sim.serving(0), [1]);
    assert_eq!(sim.history[0][1].at, started.after(INITDEAD));
}

#[test]
fn of_two_that_wait_for_a_third_the_preferred_owns_at_once() {
    for seed in 0..20 {
        let mut sim = Sim::new(config(3, 1, 1), seed);
        sim.start(1);
        sim.run(ms(20));
        sim.start(0);
        sim.run(INITDEAD * 2);
        assert_eq!(holders_since(&sim, 0, Moment(0)), [vec![], vec![0]], "seed {seed}");
    }
}

#[test]
fn a_node_that_leaves_hands_over_without_two_owners_and_exits() {
    for seed in 0..20 {
        let mut sim = Sim::settled(config(2, 2, 1), seed);
        let from = sim.now;
        sim.leave(0);
        sim.run(ms(20));
        assert!(!sim.runs(0));
        assert_eq!(sim.serving(0), [1]);
        assert_eq!(holders_since(&sim, 0, from).last().unwrap(), &[1]);
        assert_eq!(sim.state(1, 0), NodeState::Left);
        assert!(sim.notes(1, "node-dead", from).is_empty());
        assert!(sim.notes(1, "connection-closed", from).is_empty(), "it said goodbye");
    }
}

#[test]
fn both_leave_at_once_and_exit_without_waiting() {
    for seed in 0..20 {
        let mut sim = Sim::settled(config(2, 2, 2), seed);
        sim.leave(0);
        sim.leave(1);
        sim.run(ms(100));
        assert!(!sim.runs(0) && !sim.runs(1), "seed {seed}");
    }
}

#[test]
fn a_node_that_leaves_while_its_peer_is_deaf_exits_within_its_limit() {
    let mut sim = Sim::settled(config(2, 2, 1), 3);
    for link in 0..2 {
        sim.net.fault((0, 1, link)).cut = true;
    }
    sim.leave(0);
    sim.run(LEAVE_WAIT_MAX - ms(1));
    assert!(sim.runs(0), "the peer is heard, so it is told again and again");
    sim.run(ms(1));
    assert!(!sim.runs(0));
}

#[test]
fn a_node_whose_resources_do_not_stop_leaves_within_its_limit_and_takes_nothing_afterwards() {
    let mut sim = Sim::settled(config(2, 2, 1), 3);
    sim.stop_fails.insert((0, 0));
    sim.leave(0);
    sim.run(LEAVE_WAIT_MAX - ms(1));
    assert!(sim.runs(0));
    assert_eq!(sim.holders(0), [0], "nobody else starts what is still there");
    sim.run(ms(100));
    assert!(!sim.runs(0));
}

#[test]
fn a_core_that_has_exited_asks_for_nothing_more() {
    let mut core = Core::new(Arc::new(config(2, 1, 1)), NodeIndex(0), 1, Moment(1));
    let group = crate::config::GroupIndex(0);
    let now = Moment(1).after(INITDEAD);
    core.handle(Input::Observed(vec![]), now);
    core.handle(Input::Shutdown, now);
    let actions = core.handle(Input::Observed(vec![]), now.after(LEAVE_WAIT_MAX));
    assert!(actions.contains(&Action::Exit), "the start hangs; it goes without it");
    let mut late = |input| core.handle(input, now.after(LEAVE_WAIT_MAX));
    let mut actions = late(Input::ResourceStarted { group, resource: 0, error: None });
    actions.extend(late(Input::ResourceStopped { group, resource: 0, error: None }));
    let asked = |action: &Action| matches!(action, Action::StartResource { .. } | Action::Exit);
    assert!(!actions.iter().any(asked), "{actions:?}");
    assert_eq!(core.deadline().filter(|at| *at <= now.after(LEAVE_WAIT_MAX)), None);
}

#[test]
fn a_group_returns_to_the_preferred_node_with_failback_auto() {
    for seed in 0..20 {
        let mut sim = Sim::settled(config(2, 2, 1), seed);
        sim.kill(0, Death::PowerCut);
        sim.run(SETTLE);
        let from = sim.now;
        sim.start(0);
        sim.run(SETTLE);
        assert_eq!(sim.serving(0), [0]);
        assert_eq!(holders_since(&sim, 0, from), [vec![1], vec![], vec![0]], "seed {seed}");
    }
}

#[test]
fn a_group_stays_with_failback_manual() {
    for seed in 0..20 {
        let mut sim = Sim::settled(config_manual(2, 2), seed);
        sim.kill(0, Death::PowerCut);
        sim.run(SETTLE);
        let from = sim.now;
        sim.start(0);
        sim.run(ms(2000));
        assert_eq!(sim.since(0, from), [], "seed {seed}");
        assert_eq!(sim.serving(0), [1]);
        assert_eq!(sim.core(0).phase(), Phase::Active);
    }
}

#[test]
fn an_owner_that_restarts_within_deadtime_never_makes_two_owners() {
    for seed in 0..200 {
        for keep_records in [false, true] {
            let mut sim = Sim::settled(config(2, 2, 2), seed);
            sim.keep_records = keep_records;
            let from = sim.now;
            sim.kill(0, Death::Closed);
            let down = sim.net.random.between(ms(1), ms(15));
            sim.run(down);
            sim.start(0);
            sim.run(SETTLE);
            assert_eq!(sim.serving(0), [0], "seed {seed}");
            let two = sim.since(0, from).into_iter().find(|it| it.holders.len() > 1);
            assert_eq!(two, None, "seed {seed}");
            assert!(sim.notes(1, "node-dead", from).is_empty());
        }
    }
}

#[test]
fn an_owner_that_restarts_after_deadtime_gets_its_group_back_once() {
    for seed in 0..40 {
        let mut sim = Sim::settled(config(3, 2, 1), seed);
        let from = sim.now;
        sim.kill(0, Death::PowerCut);
        sim.run(ms(60));
        sim.start(0);
        sim.run(SETTLE);
        let holders = holders_since(&sim, 0, from);
        assert_eq!(holders, [vec![], vec![1], vec![], vec![0]], "seed {seed}");
    }
}

#[test]
fn three_nodes_own_in_the_order_of_preference() {
    for seed in 0..10 {
        let mut sim = Sim::settled(config(3, 2, 1), seed);
        for owner in 0..3 {
            assert_eq!(sim.serving(0), [owner], "seed {seed}");
            sim.kill(owner, Death::PowerCut);
            sim.run(SETTLE);
        }
        sim.start(2);
        sim.run(INITDEAD * 2);
        assert_eq!(sim.serving(0), [2]);
        sim.start(0);
        sim.run(SETTLE + INITDEAD);
        assert_eq!(sim.serving(0), [0], "seed {seed}");
    }
}

#[test]
fn a_restart_of_a_bystander_moves_nothing() {
    for seed in 0..40 {
        let mut sim = Sim::settled(config(3, 2, 1), seed);
        let from = sim.now;
        sim.kill(2, Death::ObituaryAndClosed);
        sim.run(ms(10));
        sim.start(2);
        sim.run(SETTLE);
        assert_eq!(sim.since(0, from), [], "seed {seed}");
    }
}
