//! What operators command: relocation, standby, disabling, and what the log says of it all.

use super::sim::{Death, Sim};
use super::starts::holders_since;
use super::*;
use crate::config::GroupIndex;
use crate::core::command::{Accepted, Command, Outcome, REMOTE_WAIT_MAX, Standby, Which};
use crate::core::io::{Action, Input};
use crate::core::message::Wish;
use crate::snapshot::GroupState;

impl Sim {
    /// Gives a command to a node; the answer, when it came at once.
    pub(super) fn command(&mut self, node: usize, command: Command) -> Option<Outcome> {
        self.commands += 1;
        let id = self.commands;
        self.letter(node, Input::Command { id, command });
        self.answer(id)
    }

    /// The answer to the command of that number.
    pub(super) fn answer(&self, wanted: u64) -> Option<Outcome> {
        self.log.iter().find_map(|(_, _, action)| {
            let Action::Answer { id, outcome } = action else { return None };
            (*id == wanted).then(|| outcome.clone())
        })
    }
}

const WEB: GroupIndex = GroupIndex(0);

fn relocate(to: usize) -> Command {
    Command::Relocate { group: WEB, to: Some(NodeIndex(to)) }
}

fn standby(node: usize, standby: Standby) -> Command {
    Command::Standby { node: NodeIndex(node), standby }
}

fn accepted(outcome: Option<Outcome>) -> Accepted {
    outcome.expect("an answer").expect("accepted")
}

fn reason(outcome: Option<Outcome>) -> String {
    outcome.expect("an answer").expect_err("refused").reason
}

fn never_two(sim: &Sim, group: usize) {
    let two = sim.history[group].iter().find(|it| it.holders.len() > 1);
    assert_eq!(two, None);
}

#[test]
fn a_relocated_group_goes_there_whoever_is_asked_and_stays_although_it_is_not_preferred() {
    for (seed, asked) in (0..3).flat_map(|asked| (0..5).map(move |seed| (seed, asked))) {
        let mut sim = Sim::settled(config(3, 2, 1), seed);
        let from = sim.now;
        let accepted = accepted(sim.command(asked, relocate(2)));
        assert_eq!(accepted.expected[0].owner, Some(NodeIndex(2)));
        sim.run(SETTLE);
        assert_eq!(sim.serving(0), [2], "asked {asked}, seed {seed}");
        assert_eq!(holders_since(&sim, 0, from), [vec![0], vec![], vec![2]]);
        sim.run(ms(3000));
        assert_eq!(sim.serving(0), [2]);
        for node in 0..3 {
            assert_eq!(sim.core(node).wish(WEB), Wish::Candidate(2));
        }
    }
}

#[test]
fn the_wish_ends_when_the_wished_node_fails_and_the_configuration_holds_again() {
    let mut sim = Sim::settled(config(3, 2, 1), 1);
    accepted(sim.command(1, relocate(2)));
    sim.run(SETTLE);
    sim.kill(2, Death::PowerCut);
    sim.run(SETTLE);
    assert_eq!(sim.serving(0), [0]);
    sim.start(2);
    sim.run(INITDEAD + SETTLE);
    assert_eq!(sim.serving(0), [0]);
    assert!((0..3).all(|node| sim.core(node).wish(WEB) == Wish::None));
}

#[test]
fn a_wished_node_that_restarts_at_once_owns_the_group_again() {
    let mut sim = Sim::settled(config_manual(2, 1), 1);
    sim.kill(0, Death::PowerCut);
    sim.run(SETTLE);
    accepted(sim.command(1, relocate(1)));
    sim.start(0);
    sim.run(INITDEAD + SETTLE);
    assert_eq!((sim.serving(0), sim.core(0).wish(WEB)), (vec![1], Wish::Candidate(1)));
}

#[test]
fn a_wish_for_a_node_that_is_silent_before_the_group_moved_ends() {
    for seed in 0..20 {
        let mut sim = Sim::settled(config(3, 1, 1), seed);
        // The owner does not hear the wished node (which hears the owner), the node that is asked
        // does.
        sim.net.fault((2, 0, 0)).cut = true;
        sim.run(SETTLE);
        accepted(sim.command(1, relocate(2)));
        sim.run(SETTLE);
        assert_eq!(sim.serving(0), [0], "seed {seed}");
        sim.net.heal();
        sim.run(ms(2000));
        assert_eq!(sim.serving(0), [0]);
        assert!((0..3).all(|node| sim.core(node).wish(WEB) == Wish::None));
        never_two(&sim, 0);
    }
}

/// Whoever hears of a later ownership before its owner must not take its term for its own.
#[test]
fn an_owner_that_was_isolated_gives_way_to_the_later_one_whoever_is_heard_first() {
    for seed in 0..20 {
        let mut sim = Sim::settled(config_manual(3, 1), seed);
        for peer in [1, 2] {
            sim.cut(0, peer, true);
        }
        sim.run(SETTLE);
        assert_eq!(sim.holders(0), [0, 1], "seed {seed}");
        sim.cut(0, 2, false);
        sim.run(ms(5));
        sim.cut(0, 1, false);
        sim.run(ms(2000));
        assert_eq!(sim.serving(0), [1], "seed {seed}");
    }
}

#[test]
fn what_the_target_cannot_do_is_refused_and_changes_nothing() {
    let mut config = config(3, 2, 1);
    config.groups[0].nodes.truncate(2);
    let mut sim = Sim::settled(config, 1);
    assert!(reason(sim.command(0, relocate(2))).contains("not a candidate"));
    sim.interface(1, false);
    sim.run(SETTLE);
    assert!(reason(sim.command(0, relocate(1))).contains("cannot own"));
    assert!(reason(sim.command(1, relocate(1))).contains("cannot own"));
    let anywhere = Command::Relocate { group: WEB, to: None };
    assert!(reason(sim.command(0, anywhere)).contains("no other node"));
    sim.interface(1, true);
    sim.run(SETTLE);
    accepted(sim.command(1, standby(1, Standby::On)));
    sim.run(SETTLE);
    assert!(reason(sim.command(0, relocate(1))).contains("standby"));
    accepted(sim.command(1, standby(1, Standby::Off)));
    sim.kill(1, Death::PowerCut);
    sim.run(SETTLE);
    assert!(reason(sim.command(0, relocate(1))).contains("n1 is dead"));
    accepted(sim.command(0, Command::Disable(WEB)));
    sim.run(SETTLE);
    assert!(reason(sim.command(2, relocate(0))).contains("is disabled"));
    assert!(accepted(sim.command(2, Command::TakeOver(Which::All))).message.contains("nothing"));
    assert_eq!(sim.core(0).wish(WEB), Wish::Disabled);
}

#[test]
fn a_node_that_has_just_started_or_leaves_takes_no_command_for_groups() {
    let mut sim = Sim::new(config(2, 1, 1), 1);
    sim.start(0);
    assert!(reason(sim.command(0, relocate(1))).contains("just started"));
    sim.start(1);
    sim.run(SETTLE);
    sim.leave(0);
    if sim.runs(0) {
        assert!(reason(sim.command(0, relocate(1))).contains("leaves"));
    }
}

#[test]
fn a_disabled_group_runs_nowhere_whoever_restarts_until_it_is_enabled() {
    for seed in 0..10 {
        let mut sim = Sim::settled(config(2, 2, 1), seed);
        accepted(sim.command(1, Command::Disable(WEB)));
        sim.run(SETTLE);
        assert_eq!(sim.holders(0), [] as [usize; 0]);
        assert_eq!(sim.core(0).group(WEB).state, GroupState::Disabled);
        for node in [0, 1] {
            sim.kill(node, Death::ObituaryAndClosed);
            sim.run(SETTLE);
            sim.start(node);
            sim.run(INITDEAD + SETTLE);
            assert_eq!(sim.holders(0), [] as [usize; 0], "seed {seed}");
        }
        accepted(sim.command(0, Command::Enable(WEB)));
        sim.run(SETTLE);
        assert_eq!(sim.serving(0), [0]);
    }
}

#[test]
fn a_node_on_standby_gives_up_what_another_could_own_and_nothing_else() {
    let mut sim = Sim::settled(config(2, 2, 2), 1);
    let told = accepted(sim.command(0, standby(0, Standby::On)));
    assert_eq!(told.expected.len(), 1);
    sim.run(SETTLE);
    assert_eq!((sim.serving(0), sim.serving(1)), (vec![1], vec![1]));
    assert!(sim.core(1).on_standby(NodeIndex(0)));
    // Safety before emptiness: nobody else is left.
    sim.kill(1, Death::PowerCut);
    sim.run(SETTLE);
    assert_eq!((sim.serving(0), sim.serving(1)), (vec![0], vec![0]));
    sim.start(1);
    sim.run(INITDEAD + SETTLE);
    assert_eq!((sim.serving(0), sim.serving(1)), (vec![1], vec![1]));
    accepted(sim.command(0, standby(0, Standby::Off)));
    sim.run(SETTLE);
    assert_eq!((sim.serving(0), sim.serving(1)), (vec![0], vec![1]));
}

#[test]
fn standby_moves_groups_that_do_not_fail_back_too_and_leaves_them_there() {
    let mut sim = Sim::settled(config_manual(2, 2), 1);
    accepted(sim.command(0, standby(0, Standby::On)));
    sim.run(SETTLE);
    assert_eq!(sim.serving(0), [1]);
    accepted(sim.command(0, standby(0, Standby::Off)));
    sim.run(SETTLE);
    assert_eq!(sim.serving(0), [1]);
}

#[test]
fn another_node_goes_on_standby_when_told_although_messages_get_lost() {
    for seed in 0..20 {
        let mut sim = Sim::settled(config(2, 2, 1), seed);
        for (from, to) in [(0, 1), (1, 0)] {
            for link in 0..2 {
                sim.net.fault((from, to, link)).control_lost_percent = 60;
            }
        }
        let id = sim.commands + 1;
        assert_eq!(sim.command(1, standby(0, Standby::On)), None, "not before it followed");
        sim.run(REMOTE_WAIT_MAX);
        accepted(sim.answer(id));
        assert!(sim.core(0).on_standby(NodeIndex(0)), "seed {seed}");
        sim.net.heal();
        sim.run(SETTLE);
        assert_eq!(sim.serving(0), [1]);
        accepted(sim.command(1, standby(0, Standby::On)));
    }
}

#[test]
fn a_node_that_does_not_follow_is_told_of() {
    let mut sim = Sim::settled(config(2, 1, 1), 1);
    sim.net.fault((1, 0, 0)).control_lost_percent = 100;
    let id = sim.commands + 1;
    sim.command(1, standby(0, Standby::On));
    sim.run(REMOTE_WAIT_MAX + ms(10));
    assert!(reason(sim.answer(id)).contains("did not follow"));
    sim.net.heal();
    sim.run(SETTLE);
    assert!(!sim.core(0).on_standby(NodeIndex(0)), "and is not told any more");
    sim.kill(0, Death::PowerCut);
    sim.run(SETTLE);
    assert!(reason(sim.command(1, standby(0, Standby::On))).contains("n0 is dead"));
}

#[test]
fn giving_up_and_taking_move_what_they_name() {
    // Group 0 prefers node 0, group 1 prefers node 1.
    let table: [(Command, [usize; 2]); 8] = [
        (Command::GiveUp(Which::All), [1, 1]),
        (Command::GiveUp(Which::Local), [1, 1]),
        (Command::GiveUp(Which::Foreign), [0, 1]),
        (Command::GiveUp(Which::Failback), [0, 1]),
        (Command::TakeOver(Which::All), [0, 0]),
        (Command::TakeOver(Which::Local), [0, 1]),
        (Command::TakeOver(Which::Foreign), [0, 0]),
        (Command::TakeOver(Which::Failback), [0, 1]),
    ];
    for (command, owners) in table {
        let mut sim = Sim::settled(config(2, 2, 2), 1);
        accepted(sim.command(0, command));
        sim.run(ms(2000));
        assert_eq!([sim.serving(0), sim.serving(1)], owners.map(|it| vec![it]), "{command:?}");
        // And everything back from there.
        accepted(sim.command(0, Command::TakeOver(Which::Local)));
        accepted(sim.command(0, Command::GiveUp(Which::Failback)));
        sim.run(SETTLE);
        assert_eq!([sim.serving(0), sim.serving(1)], [vec![0], vec![1]], "{command:?}");
        never_two(&sim, 0);
        never_two(&sim, 1);
    }
}

#[test]
fn failback_by_command_works_where_it_is_not_automatic() {
    let mut sim = Sim::settled(config_manual(2, 2), 1);
    sim.kill(0, Death::PowerCut);
    sim.run(SETTLE);
    sim.start(0);
    sim.run(INITDEAD + SETTLE);
    assert_eq!(sim.serving(0), [1]);
    accepted(sim.command(1, Command::GiveUp(Which::Failback)));
    sim.run(SETTLE);
    assert_eq!(sim.serving(0), [0]);
}

#[test]
fn two_commands_at_once_end_with_one_owner_where_one_of_them_said() {
    for seed in 0..30 {
        let mut sim = Sim::settled(config(3, 2, 1), seed);
        accepted(sim.command(1, relocate(1)));
        accepted(sim.command(2, relocate(2)));
        sim.run(SETTLE);
        assert_eq!(sim.serving(0), [2], "the larger wish of one term");
        never_two(&sim, 0);
        accepted(sim.command(0, Command::Disable(WEB)));
        accepted(sim.command(1, relocate(1)));
        sim.run(SETTLE);
        assert_eq!(sim.holders(0), [] as [usize; 0]);
    }
}

#[test]
fn a_command_during_a_failover_is_refused_or_followed() {
    for seed in 0..30 {
        let mut sim = Sim::settled(config(3, 2, 1), seed);
        sim.kill(0, Death::PowerCut);
        let wait = sim.net.random.between(Duration::ZERO, DEADTIME * 2);
        sim.run(wait);
        let told = sim.command(1, relocate(2)).unwrap();
        sim.run(SETTLE);
        assert!(sim.serving(0).len() == 1, "seed {seed}");
        if told.is_ok() {
            assert_eq!(sim.serving(0), [2], "seed {seed}");
        }
        never_two(&sim, 0);
    }
}

#[test]
fn wishes_of_two_sides_of_a_partition_end_as_one() {
    for seed in 0..20 {
        let mut sim = Sim::settled(config(2, 2, 1), seed);
        sim.cut(0, 1, true);
        sim.run(SETTLE);
        assert_eq!(sim.serving(0), [0, 1]);
        accepted(sim.command(0, Command::Disable(WEB)));
        sim.run(SETTLE);
        assert_eq!(sim.serving(0), [1]);
        sim.cut(0, 1, false);
        sim.run(ms(2000));
        assert_eq!(sim.core(0).wish(WEB), sim.core(1).wish(WEB), "seed {seed}");
        let holders = if sim.core(0).wish(WEB) == Wish::Disabled { vec![] } else { vec![1] };
        assert!(sim.holders(0) == holders || sim.holders(0) == [0], "{:?}", sim.holders(0));
    }
}
