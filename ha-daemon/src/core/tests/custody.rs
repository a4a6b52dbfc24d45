//! What peers make of a dead daemon whose keeper keeps groups for the next one.

use super::sim::{Death, Sim};
use super::*;
use crate::config::{GroupIndex, OnDaemonDeath};
use crate::core::io::Input;
use crate::core::message::{Custody, Message};
use crate::core::time::Moment;
use ha_common::wire::Phase;

const GROUP: GroupIndex = GroupIndex(0);

/// Node 0 is gone, and its keeper says to node 1 what it keeps.
fn kept(seed: u64, groups: usize) -> (Sim, u64, Moment) {
    let mut sim = Sim::settled(config_services(2, 2, 2), seed);
    let incarnation = sim.incarnation(0);
    let term = sim.core(1).group(GROUP).term;
    let id = sim.core(1).config.groups[0].id;
    sim.kill(0, Death::PowerCut);
    let groups = std::iter::repeat_n((id, term), groups).collect();
    says(&mut sim, incarnation, Message::Custody(Custody { announced: false, groups }));
    let at = sim.now;
    (sim, incarnation, at)
}

fn says(sim: &mut Sim, incarnation: u64, message: Message) {
    let (peer, phase) = (NodeIndex(0), Phase::Active as u8);
    sim.letter(1, Input::Control { peer, incarnation, phase, message });
}

fn owner(sim: &Sim) -> Option<NodeIndex> {
    sim.core(1).group(GROUP).owner
}

#[test]
fn what_is_kept_is_taken_after_daemon_deadtime_and_what_is_not_at_once() {
    for seed in 0..10 {
        let (mut sim, _, _) = kept(seed, 1);
        sim.run(DAEMON_DEADTIME - ms(20));
        assert_eq!(owner(&sim), Some(NodeIndex(0)), "seed {seed}: it was kept");
        assert!(sim.serving(0).is_empty(), "seed {seed}");
        sim.run(SETTLE);
        assert_eq!(sim.serving(0), [1], "seed {seed}: nobody came back");
        assert_eq!(sim.notes(1, "custody-ended", Moment(0)).len(), 1);

        let (mut sim, _, _) = kept(seed, 0);
        sim.run(ms(50));
        assert_eq!(owner(&sim), Some(NodeIndex(1)), "seed {seed}: it was free");
    }
}

/// Its daemon may have gone before its host did: its keeper's word would have come by the same links.
#[test]
fn what_waits_is_left_to_a_silent_peer_whose_connection_closed_first() {
    for closed in [false, true] {
        for seed in 0..10 {
            let mut config = config_services(2, 2, 1);
            config.groups[0].on_daemon_death = OnDaemonDeath::Wait;
            let mut sim = Sim::settled(config, seed);
            let (from, incarnation) = (sim.now, sim.incarnation(0));
            if closed {
                sim.close_connections(0, incarnation);
            }
            sim.kill(0, Death::PowerCut);
            sim.run(DEADTIME + ms(20));
            assert_eq!(sim.notes(1, "node-dead", from).len(), 1, "seed {seed}");
            let expected = NodeIndex(usize::from(!closed));
            assert_eq!(owner(&sim), Some(expected), "seed {seed}, closed: {closed}");
            sim.run(DAEMON_DEADTIME + SETTLE);
            assert_eq!(sim.serving(0), [1], "seed {seed}");
        }
    }
}

#[test]
fn the_obituary_frees_what_was_kept() {
    for seed in 0..10 {
        let (mut sim, incarnation, _) = kept(seed, 1);
        sim.run(ms(50));
        assert_eq!(owner(&sim), Some(NodeIndex(0)), "seed {seed}");
        says(&mut sim, incarnation, Message::Obituary);
        sim.run(ms(50));
        assert_eq!(owner(&sim), Some(NodeIndex(1)), "seed {seed}");
    }
}

/// What came late, or of an earlier start, changes nothing.
#[test]
fn a_custody_after_the_obituary_changes_nothing() {
    let (mut sim, incarnation, _) = kept(1, 0);
    says(&mut sim, incarnation, Message::Obituary);
    sim.run(SETTLE);
    assert_eq!(sim.serving(0), [1]);
    let id = sim.core(1).config.groups[0].id;
    let groups = vec![(id, 9)];
    says(&mut sim, incarnation, Message::Custody(Custody { announced: true, groups }));
    sim.run(SETTLE);
    assert_eq!((owner(&sim), sim.serving(0)), (Some(NodeIndex(1)), vec![1]));
}

/// The keeper is gone too, or its word got lost.
#[test]
fn what_may_be_kept_is_held_and_the_reason_is_told() {
    let mut config = config_services(2, 2, 2);
    for group in &mut config.groups {
        group.on_daemon_death = OnDaemonDeath::Wait;
    }
    for seed in 0..10 {
        let mut sim = Sim::settled(config.clone(), seed);
        let from = sim.now;
        sim.kill(0, Death::Closed);
        sim.run(DAEMON_DEADTIME - ms(20));
        assert_eq!(owner(&sim), Some(NodeIndex(0)), "seed {seed}: it may be kept");
        let [(_, note)] = &sim.notes(1, "groups-held", from)[..] else { panic!("told once") };
        assert!(note.message.contains("(on_daemon_death = wait)"), "{}", note.message);
        sim.run(SETTLE);
        assert_eq!(owner(&sim), Some(NodeIndex(1)), "seed {seed}: nobody came back");
    }
}
