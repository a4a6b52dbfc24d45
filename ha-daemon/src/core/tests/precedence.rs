//! Who comes first where several things speak at once: standby before reached ping targets, those
//! before an operator's wish, and that before the order of the candidates.

use super::connectivity::{MOVE, pinged};
use super::sim::Sim;
use super::*;
use crate::config::GroupIndex;
use crate::core::command::{Accepted, Command, Outcome, Standby};

const WEB: GroupIndex = GroupIndex(0);

fn relocate(to: usize) -> Command {
    Command::Relocate { group: WEB, to: Some(NodeIndex(to)) }
}

fn accepted(outcome: Option<Outcome>) -> Accepted {
    outcome.expect("an answer").expect("accepted")
}

#[test]
fn what_is_reached_weighs_more_than_a_wish_and_a_wish_more_than_preference() {
    for seed in 0..10 {
        let mut sim = Sim::settled(pinged(config(3, 1, 1), 1), seed);
        assert_eq!(sim.serving(0), [0]);
        accepted(sim.command(0, relocate(2)));
        sim.run(MOVE);
        assert_eq!(sim.serving(0), [2], "the wish does not count, seed {seed}");
        sim.ping(2, 0, false);
        sim.run(MOVE);
        assert_eq!(sim.serving(0), [0], "the wish keeps it where less is reached, seed {seed}");
        // Another one took it: the wish has ended.
        sim.ping(2, 0, true);
        sim.run(MOVE);
        assert_eq!(sim.serving(0), [0], "seed {seed}");
    }
}

#[test]
fn a_node_on_standby_comes_behind_one_that_reaches_nothing() {
    for seed in 0..10 {
        let mut sim = Sim::settled(pinged(config(2, 1, 1), 1), seed);
        sim.ping(1, 0, false);
        sim.run(MOVE);
        assert_eq!(sim.serving(0), [0]);
        let standby = |standby| Command::Standby { node: NodeIndex(0), standby };
        accepted(sim.command(0, standby(Standby::On)));
        sim.run(MOVE);
        assert_eq!(sim.serving(0), [1], "seed {seed}");
        accepted(sim.command(0, standby(Standby::Off)));
        sim.run(MOVE);
        assert_eq!(sim.serving(0), [0], "seed {seed}");
    }
}

#[test]
fn standby_gives_the_group_to_who_reaches_most_and_says_so() {
    for seed in 0..10 {
        let mut sim = Sim::settled(pinged(config(3, 1, 1), 1), seed);
        sim.ping(1, 0, false);
        sim.run(MOVE);
        let standby = Command::Standby { node: NodeIndex(0), standby: Standby::On };
        let told = accepted(sim.command(0, standby));
        assert_eq!(told.expected[0].owner, Some(NodeIndex(2)), "seed {seed}");
        sim.run(MOVE);
        assert_eq!(sim.serving(0), [2], "seed {seed}");
    }
}

#[test]
fn a_move_to_a_node_that_reaches_less_is_refused_unless_targets_move_nothing() {
    for (asked, moves_groups) in [(0, true), (1, true), (0, false), (1, false)] {
        let mut config = pinged(config(2, 1, 1), 2);
        config.connectivity.moves_groups = moves_groups;
        let mut sim = Sim::settled(config, 1);
        sim.ping(1, 1, false);
        sim.run(MOVE);
        let from = sim.now;
        let answer = sim.command(asked, relocate(1)).expect("an answer");
        sim.run(MOVE);
        if moves_groups {
            let refused = answer.expect_err("refused");
            assert!(refused.reason.contains("reaches fewer ping targets"), "{}", refused.reason);
            assert_eq!(sim.since(0, from), [], "it moved although it was refused");
        } else {
            answer.expect("accepted");
            assert_eq!(sim.serving(0), [1]);
        }
    }
}
