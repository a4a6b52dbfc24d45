//! Ends of a peer, and what looks like one and is none.

use super::sim::{Death, Sim, Stop};
use super::starts::holders_since;
use super::*;
use crate::core::closing::GONE_AFTER;
use crate::core::io::Action;
use crate::core::time::Moment;
use crate::driver::WAKE_MAX;
use crate::snapshot::NodeState;

/// When a node last saw a peer, on any link.
fn last_seen(sim: &Sim, node: usize, peer: usize) -> Moment {
    sim.core(node).peers()[&NodeIndex(peer)].last_seen().unwrap()
}

#[test]
fn the_verdict_falls_exactly_deadtime_after_the_last_heartbeat() {
    for seed in 0..40 {
        let mut sim = Sim::settled(config(2, 2, 1), seed);
        let from = sim.now;
        sim.kill(0, Death::PowerCut);
        sim.run(ms(100));
        let verdicts = sim.notes(1, "node-dead", from);
        let [(at, _)] = verdicts.as_slice() else { panic!("one verdict: {verdicts:?}") };
        assert_eq!(*at, last_seen(&sim, 1, 0).after(DEADTIME), "seed {seed}");
        let started = sim.log.iter().find(|(at, node, action)| {
            *at >= from && *node == 1 && matches!(action, Action::StartResource { .. })
        });
        assert_eq!(started.unwrap().0, *at, "the takeover begins with the verdict");
        assert_eq!(sim.serving(0), [1]);
    }
}

#[test]
fn three_nodes_lose_no_time_when_the_owner_dies() {
    for seed in 0..40 {
        let mut sim = Sim::settled(config(3, 2, 2), seed);
        let from = sim.now;
        sim.kill(0, Death::PowerCut);
        sim.run(ms(100));
        assert_eq!(sim.since(0, from)[1].at, last_seen(&sim, 1, 0).after(DEADTIME));
        assert_eq!(holders_since(&sim, 0, from), [vec![], vec![1]], "seed {seed}");
    }
}

#[test]
fn an_obituary_is_believed_at_once() {
    for seed in 0..40 {
        let mut sim = Sim::settled(config(2, 2, 1), seed);
        let from = sim.now;
        sim.kill(0, Death::Obituary);
        sim.run(ms(6));
        assert_eq!(sim.serving(0), [1], "seed {seed}");
        assert_eq!(sim.state(1, 0), NodeState::DaemonGone);
        assert_eq!(holders_since(&sim, 0, from), [vec![], vec![1]], "seed {seed}");
        sim.run(ms(100));
        assert_eq!(sim.notes(1, "daemon-gone", from).len(), 1);
        assert_eq!(sim.notes(1, "node-dead", from), []);
    }
}

const _: () = assert!(
    GONE_AFTER.as_millis() > 2 * WAKE_MAX.as_millis(),
    "a driver that lives would count as gone"
);

#[test]
fn a_closed_connection_counts_when_the_kernel_says_that_the_daemon_runs_no_more() {
    for seed in 0..40 {
        let mut sim = Sim::settled(config(2, 2, 1), seed);
        let from = sim.now;
        sim.kill(0, Death::ClosedBehindFirewall);
        // Its driver ran up to a warntime before.
        sim.run(GONE_AFTER - WARNTIME);
        assert_eq!(sim.holders(0), [] as [usize; 0]);
        sim.run(WARNTIME + ms(10));
        assert_eq!(sim.serving(0), [1], "seed {seed}");
        sim.run(ms(100));
        let [(_, note)] = &sim.notes(1, "daemon-gone", from)[..] else { panic!("one verdict") };
        assert!(note.message.contains("its kernel answers"), "{}", note.message);
        assert_eq!(sim.notes(1, "node-dead", from), []);
    }
}

#[test]
fn a_closed_connection_counts_after_two_heartbeats_are_missing() {
    let deaths =
        [(true, Death::Closed), (false, Death::Closed), (false, Death::ClosedBehindFirewall)];
    for (seed, (ask, death)) in (0..60).zip(deaths.into_iter().cycle()) {
        let mut config = config(2, 2, 1);
        config.detection.ask = ask;
        let mut sim = Sim::settled(config, seed);
        let from = sim.now;
        sim.kill(0, death);
        sim.run(ms(19));
        assert_eq!(sim.holders(0), [] as [usize; 0]);
        sim.run(ms(7));
        assert_eq!(sim.serving(0), [1], "seed {seed}");
        sim.run(ms(100));
        assert_eq!(sim.notes(1, "daemon-gone", from).len(), 1);
        assert_eq!(sim.notes(1, "node-dead", from), []);
    }
}

/// As where a socket receives, which is gone with its daemon.
#[test]
fn a_closed_connection_of_a_peer_that_nobody_answers_for_is_judged_by_its_silence() {
    for seed in 0..40 {
        let mut sim = Sim::settled(config(2, 2, 1), seed);
        let (from, incarnation) = (sim.now, sim.incarnation(0));
        sim.close_connections(0, incarnation);
        sim.kill(0, Death::PowerCut);
        sim.run(ms(100));
        let [(at, note)] = &sim.notes(1, "node-dead", from)[..] else { panic!("one verdict") };
        // The youngest question is waited for.
        let due = last_seen(&sim, 1, 0).after(DEADTIME);
        assert!((due..=due.after(ms(1))).contains(at), "{at:?} instead of {due:?}, seed {seed}");
        assert!(note.message.contains("its connection closed"), "{}", note.message);
        assert_eq!(sim.notes(1, "daemon-gone", from), [], "nobody said so");
        assert_eq!(sim.state(1, 0), NodeState::Dead);
        assert_eq!(sim.serving(0), [1]);
    }
}

/// A reset of a path that was cut, or a forged one, and just then a virtual CPU stands still.
#[test]
fn a_close_and_a_short_stop_of_a_living_peer_lead_to_nothing() {
    for (seed, stop) in (0..60).zip([Stop::Sender, Stop::Daemon, Stop::Driver].into_iter().cycle())
    {
        let mut sim = Sim::settled(config_manual(2, 2), seed);
        let (from, incarnation) = (sim.now, sim.incarnation(0));
        sim.close_connections(0, incarnation);
        sim.stop(0, stop);
        let length = sim.net.random.between(ms(25), ms(130));
        sim.run(length);
        sim.resume(0);
        sim.run(ms(1_000));
        for kind in ["daemon-gone", "node-dead"] {
            assert_eq!(sim.notes(1, kind, from), [], "seed {seed}, {stop:?}, {length:?}");
        }
        assert_eq!(sim.notes(1, "connection-closed", from).len(), 1, "seed {seed}");
        assert_eq!(sim.since(0, from), [], "seed {seed}, {stop:?}, {length:?}");
    }
}

/// The kernel of a host that stood still answers before its daemon gets the CPU.
#[test]
fn a_close_and_a_stop_of_the_whole_host_that_ends_within_deadtime_lead_to_nothing() {
    for seed in 0..40 {
        let mut config = config_manual(2, 2);
        config.cluster.warntime = ms(300);
        config.cluster.deadtime = ms(600);
        let mut sim = Sim::settled(config, seed);
        let (from, incarnation) = (sim.now, sim.incarnation(0));
        sim.close_connections(0, incarnation);
        sim.pause(0);
        let length = sim.net.random.between(ms(260), ms(550));
        sim.run(length);
        // Its kernel is back a little earlier than its threads.
        sim.wake_kernel(0);
        sim.run(ms(5));
        sim.resume(0);
        sim.run(ms(1_000));
        assert_eq!(sim.notes(1, "daemon-gone", from), [], "seed {seed}, {length:?}");
        assert_eq!(sim.since(0, from), [], "seed {seed}, {length:?}");
    }
}

/// Its driver's word that came after the close ends the doubt, not only its heartbeats.
#[test]
fn a_close_is_forgotten_when_the_kernel_says_that_the_daemon_ran_since() {
    for seed in 0..20 {
        let mut sim = Sim::settled(config_manual(2, 2), seed);
        let (from, incarnation) = (sim.now, sim.incarnation(0));
        for link in 0..2 {
            sim.net.fault((0, 1, link)).beats_lost_percent = 90;
        }
        sim.close_connections(0, incarnation);
        sim.run(ms(700));
        assert_eq!(sim.notes(1, "daemon-gone", from), [], "seed {seed}");
    }
}

#[test]
fn both_ends_of_the_usual_death_are_told_once() {
    for seed in 0..40 {
        let mut sim = Sim::settled(config(2, 2, 1), seed);
        let from = sim.now;
        sim.kill(0, Death::ObituaryAndClosed);
        sim.run(ms(200));
        assert_eq!(sim.notes(1, "daemon-gone", from).len(), 1, "seed {seed}");
        assert_eq!(holders_since(&sim, 0, from), [vec![], vec![1]], "seed {seed}");
    }
}

#[test]
fn a_forged_close_while_heartbeats_go_on_leads_to_nothing() {
    for seed in 0..40 {
        let mut sim = Sim::settled(config(2, 2, 1), seed);
        let (from, incarnation) = (sim.now, sim.incarnation(0));
        for _ in 0..5 {
            sim.close_connections(0, incarnation);
            let pause = sim.net.random.between(ms(1), ms(40));
            sim.run(pause);
        }
        sim.run(SETTLE);
        assert_eq!(sim.since(0, from), [], "seed {seed}");
        assert_eq!(sim.state(1, 0), NodeState::Up);
        assert_eq!(sim.notes(1, "daemon-gone", from), []);
    }
}

#[test]
fn a_close_that_named_another_incarnation_is_old_news() {
    let mut sim = Sim::settled(config(2, 2, 1), 1);
    let from = sim.now;
    let incarnation = sim.incarnation(0) - 1;
    sim.cut(0, 1, true);
    sim.close_connections(0, incarnation);
    sim.run(ms(15));
    sim.cut(0, 1, false);
    sim.run(SETTLE);
    assert_eq!(sim.notes(1, "connection-closed", from), []);
}

/// A close and a cut that lasts just long enough: its daemon counts as gone (where nobody asks its
/// kernel), then is heard again with the same incarnation.
#[test]
fn a_peer_without_daemon_that_is_heard_again_takes_part_again() {
    for seed in 0..40 {
        let mut config = config(2, 2, 1);
        config.detection.ask = false;
        let mut sim = Sim::settled(config, seed);
        let (from, incarnation) = (sim.now, sim.incarnation(0));
        sim.close_connections(0, incarnation);
        sim.run(ms(1));
        sim.cut(0, 1, true);
        sim.run(DEADTIME + ms(2));
        assert_eq!(sim.state(1, 0), NodeState::DaemonGone, "seed {seed}");
        sim.cut(0, 1, false);
        sim.run(SETTLE);
        assert_eq!(sim.notes(1, "node-returned", from).len(), 1);
        assert_eq!((sim.state(1, 0), sim.state(0, 1)), (NodeState::Up, NodeState::Up));
        assert_eq!(sim.serving(0), [0], "failback; seed {seed}");
        assert_eq!(sim.holders(0), [0]);
    }
}

#[test]
fn a_late_peer_is_not_dead_while_the_other_link_is_alive() {
    for seed in 0..10 {
        let mut sim = Sim::settled(config(2, 2, 1), seed);
        let from = sim.now;
        for (from, to) in [(0, 1), (1, 0)] {
            sim.net.fault((from, to, 0)).cut = true;
        }
        sim.run(ms(1000));
        assert_eq!(sim.since(0, from), []);
        assert_eq!((sim.state(1, 0), sim.state(0, 1)), (NodeState::Up, NodeState::Up));
        assert_eq!(sim.notes(1, "link-dead", from).len(), 1);
        sim.net.heal();
        sim.run(SETTLE);
        assert_eq!(sim.notes(1, "link-up", from).len(), 1);
        assert_eq!(sim.notes(1, "node-late", from), []);
    }
}

#[test]
fn silence_shorter_than_deadtime_is_told_and_leads_to_nothing() {
    let mut sim = Sim::settled(config(2, 2, 1), 4);
    let from = sim.now;
    for link in 0..2 {
        sim.net.fault((0, 1, link)).cut = true;
    }
    while sim.notes(1, "node-late", from).is_empty() {
        sim.run(ms(1));
    }
    sim.net.heal();
    sim.run(SETTLE);
    assert_eq!(sim.notes(1, "node-late", from).len(), 1);
    assert_eq!(sim.notes(1, "node-up", from).len(), 1);
    assert_eq!(sim.since(0, from), []);
}

#[test]
fn an_obituary_of_a_peer_that_is_dead_already_frees_what_was_held_for_it() {
    let mut config = config(2, 2, 1);
    config.cluster.on_doubt = OnDoubt::Hold;
    let mut sim = Sim::settled(config, 5);
    sim.pause(0);
    sim.run(ms(100));
    assert_eq!(sim.state(1, 0), NodeState::Dead);
    assert_eq!(sim.holders(0), [0], "held");
    sim.kill(0, Death::Obituary);
    sim.run(ms(10));
    assert_eq!(sim.serving(0), [1]);
    assert_eq!(sim.state(1, 0), NodeState::DaemonGone);
}

#[test]
fn on_doubt_hold_a_closed_connection_alone_frees_nothing() {
    let mut config = config(2, 2, 1);
    config.cluster.on_doubt = OnDoubt::Hold;
    let mut sim = Sim::settled(config, 5);
    let incarnation = sim.incarnation(0);
    sim.close_connections(0, incarnation);
    sim.run(ms(1));
    sim.cut(0, 1, true);
    sim.run(ms(1000));
    assert_eq!(sim.serving(0), [0], "nobody said that the addresses are off");
    assert_eq!(sim.holders(0), [0]);
}

#[test]
fn on_doubt_hold_a_held_peer_that_restarts_releases_by_saying_so() {
    for seed in 0..40 {
        let mut config = config(2, 2, 1);
        config.cluster.on_doubt = OnDoubt::Hold;
        let mut sim = Sim::settled(config, seed);
        let from = sim.now;
        sim.kill(0, Death::PowerCut);
        sim.run(ms(500));
        assert_eq!(sim.holders(0), [] as [usize; 0], "held");
        sim.start(0);
        sim.run(SETTLE);
        assert_eq!(sim.serving(0), [0], "seed {seed}");
        assert!(sim.since(0, from).iter().all(|it| it.holders.len() < 2), "seed {seed}");
    }
}
