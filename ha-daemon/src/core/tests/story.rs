//! The log tells what Heartbeat's told, at the same moments: every term that operators search for.
//! `docs/from-heartbeat.md` has the same table.

use super::sim::{Death, Sim};
use super::*;
use crate::config::GroupIndex;
use crate::core::command::{Command, Standby, Which};
use crate::core::io::Action;
use crate::core::time::Moment;

/// What a node logged since then, in order.
fn log(sim: &Sim, node: usize, from: Moment) -> Vec<String> {
    let message = |(at, by, action): &(Moment, usize, Action)| {
        let Action::Event(note) = action else { return None };
        (*by == node && *at >= from).then(|| note.message.clone())
    };
    sim.log.iter().filter_map(message).collect()
}

/// Fails unless the terms stand in the log in that order.
fn expect_in_order(log: &[String], terms: &[&str]) {
    let mut lines = log.iter();
    for term in terms {
        assert!(lines.any(|line| line.contains(term)), "no `{term}` in its place:\n{log:#?}");
    }
}

fn expect(log: &[String], term: &str) {
    assert!(log.iter().any(|line| line.contains(term)), "no `{term}`:\n{log:#?}");
}

#[test]
fn both_nodes_start() {
    let sim = Sim::settled(config(2, 1, 2), 1);
    let log = log(&sim, 0, Moment(0));
    expect_in_order(&log, &["Link n1:hb0 up.", "Status update for node n1: status up"]);
    expect_in_order(
        &log,
        &[
            "Local status now set to: 'active'",
            "Local Resource acquisition completed.",
            "Initial resource acquisition complete",
        ],
    );
    expect(&log, "Status update for node n1: status active");
    expect(&log, "remote resource transition completed.");
}

/// Scenario H1: the owner stops, the other one takes over; it returns and gets its group back.
#[test]
fn the_owner_stops_and_returns() {
    let mut sim = Sim::settled(config(2, 1, 1), 2);
    let from = sim.now;
    sim.leave(0);
    sim.run(SETTLE);
    expect_in_order(
        &log(&sim, 0, from),
        &["Heartbeat shutdown in progress", "Local resources released"],
    );
    expect_in_order(
        &log(&sim, 1, from),
        &[
            "Received shutdown notice from 'n0'.",
            "Resources being acquired from n0.",
            "mach_down takeover complete",
        ],
    );
    let from = sim.now;
    sim.start(0);
    sim.run(INITDEAD + SETTLE);
    expect_in_order(
        &log(&sim, 1, from),
        &["giving g0 back to n0", "local resource transition completed."],
    );
}

/// The last claim goes with the goodbye, so that no peer takes the group of a node that is still there.
#[test]
fn the_notice_of_a_shutdown_comes_before_the_takeover_whatever_the_network_does() {
    for seed in 0..40 {
        let mut sim = Sim::settled(config_services(2, 1, 1), seed);
        let from = sim.now;
        sim.leave(0);
        sim.run(SETTLE * 5);
        assert_eq!(sim.serving(0), [1], "seed {seed}");
        let story = ["Received shutdown notice from 'n0'.", "Resources being acquired from n0."];
        expect_in_order(&log(&sim, 1, from), &story);
    }
}

/// Scenario H2: one machine is killed outright, and started again.
#[test]
fn a_killed_machine_is_started_again() {
    let mut sim = Sim::settled(config(2, 1, 1), 3);
    let from = sim.now;
    sim.kill(0, Death::PowerCut);
    sim.run(SETTLE);
    expect_in_order(
        &log(&sim, 1, from),
        &[
            "Link n0:hb0 dead.",
            "node n0: is dead",
            "Resources being acquired from n0.",
            "Local Resource acquisition completed.",
        ],
    );
    let from = sim.now;
    sim.start(0);
    sim.run(INITDEAD + SETTLE);
    expect_in_order(
        &log(&sim, 1, from),
        &[
            "Heartbeat restart on node n0",
            "Link n0:hb0 up.",
            "Status update for node n0: status up",
            "Status update for node n0: status active",
            "giving g0 back to n0",
            "Local resources released",
            "remote resource transition completed.",
        ],
    );
}

#[test]
fn a_late_heartbeat_is_told_with_its_length() {
    let mut sim = Sim::settled(config(2, 1, 1), 4);
    let from = sim.now;
    sim.cut(0, 1, true);
    // Two heartbeats.
    sim.run(KEEPALIVE * 2);
    sim.cut(0, 1, false);
    sim.run(SETTLE);
    let line = log(&sim, 1, from).into_iter().find(|line| line.contains("Late heartbeat: Node n0"));
    let line = line.unwrap();
    let interval = line.split("interval ").nth(1).and_then(|rest| rest.split(' ').next());
    let interval_ms: u64 = interval.unwrap().parse().unwrap();
    assert!((20..35).contains(&interval_ms), "{line}");
}

#[test]
fn a_partition_ends_with_the_words_for_it() {
    let mut sim = Sim::settled(config(2, 1, 1), 5);
    sim.cut(0, 1, true);
    sim.run(SETTLE);
    assert_eq!(sim.serving(0), [0, 1]);
    let from = sim.now;
    sim.cut(0, 1, false);
    sim.run(ms(2000));
    let logs = [log(&sim, 0, from), log(&sim, 1, from)];
    expect(&logs[0], "Cluster node n1 returning after partition");
    expect(&logs.concat(), "Both machines own our resources!");
}

#[test]
fn an_operators_commands_are_in_the_log() {
    let mut sim = Sim::settled(config(2, 1, 2), 6);
    let from = sim.now;
    assert!(sim.command(0, Command::GiveUp(Which::Local)).unwrap().is_ok());
    sim.run(SETTLE);
    expect(&log(&sim, 0, from), "n0 wants to go standby [local]");
    expect(&log(&sim, 1, from), "g0 is to go to n1, as n0 told");
    expect(&log(&sim, 1, from), "Resources being acquired from n0.");
    let from = sim.now;
    let standby = Command::Standby { node: NodeIndex(1), standby: Standby::On };
    assert!(sim.command(1, standby).unwrap().is_ok());
    sim.run(SETTLE);
    expect(&log(&sim, 0, from), "n1 wants to go standby [all]");
    let from = sim.now;
    assert!(sim.command(0, Command::Disable(GroupIndex(0))).unwrap().is_ok());
    sim.run(SETTLE);
    expect(&log(&sim, 1, from), "g0 is disabled, as n0 told");
}

#[test]
fn a_group_that_nobody_can_own_is_told_of_once() {
    let mut sim = Sim::settled(config(2, 1, 1), 7);
    let from = sim.now;
    sim.interface(0, false);
    sim.interface(1, false);
    sim.run(ms(1000));
    for node in 0..2 {
        let log = log(&sim, node, from);
        let count = log.iter().filter(|it| it.contains("No one owns our local resources!")).count();
        assert_eq!(count, 1, "{log:#?}");
    }
}
