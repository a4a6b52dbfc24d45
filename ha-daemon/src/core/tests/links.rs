//! Links of different times, links that fail alone, links that work in one direction only.

use super::sim::{Death, Sim};
use super::*;
use crate::config::Times;
use crate::core::time::Moment;
use crate::snapshot::{LinkState, NodeState};

/// Two nodes on a fast link 0 and a slow link 1, such as a serial line.
fn mixed() -> Config {
    let mut config = config(2, 2, 1);
    config.links[1].times =
        Some(Times { keepalive: ms(100), warntime: ms(250), deadtime: ms(400), auto: None });
    config.cluster.initdead = ms(1_000);
    config
}

fn settled(config: Config, seed: u64) -> Sim {
    let mut sim = Sim::settled(config, seed);
    sim.run(ms(1_500));
    sim
}

fn shown(sim: &Sim, node: usize, link: usize) -> LinkState {
    sim.core(node).peers()[&NodeIndex(1 - node)].shown(LinkIndex(link))
}

fn failures(sim: &Sim, node: usize, link: usize) -> u64 {
    sim.core(node).peers()[&NodeIndex(1 - node)].standings[&LinkIndex(link)].failures
}

fn last_seen(sim: &Sim, node: usize, link: usize) -> Moment {
    sim.core(node).peers()[&NodeIndex(1 - node)].links[&LinkIndex(link)].last_seen().unwrap()
}

/// Cuts, or joins, one link in both directions.
fn cut(sim: &mut Sim, link: usize, cut: bool) {
    sim.net.fault((0, 1, link)).cut = cut;
    sim.net.fault((1, 0, link)).cut = cut;
}

#[test]
fn a_slow_link_is_not_late_by_the_times_of_a_fast_one() {
    for seed in 0..8 {
        let mut sim = settled(mixed(), seed);
        let from = sim.now;
        sim.run(ms(3_000));
        for kind in ["link-late", "link-dead", "node-late", "node-dead"] {
            assert_eq!(sim.notes(1, kind, from), [], "seed {seed}");
        }
    }
}

#[test]
fn a_peer_is_dead_when_every_link_is_silent_for_its_own_deadtime() {
    for seed in 0..8 {
        let mut sim = settled(mixed(), seed);
        let from = sim.now;
        sim.kill(0, Death::PowerCut);
        sim.run(ms(600));
        let [(fast, _), (slow, _)] = sim.notes(1, "link-dead", from).try_into().unwrap();
        assert_eq!(fast, last_seen(&sim, 1, 0).after(DEADTIME), "seed {seed}");
        assert_eq!(slow, last_seen(&sim, 1, 1).after(ms(400)), "seed {seed}");
        let [(dead, _)] = sim.notes(1, "node-dead", from).try_into().unwrap();
        assert_eq!(dead, slow.max(fast), "seed {seed}");
    }
}

#[test]
fn a_links_failure_alone_is_told_and_counted_and_is_no_verdict() {
    for seed in 0..8 {
        let mut sim = settled(mixed(), seed);
        let from = sim.now;
        cut(&mut sim, 0, true);
        sim.run(ms(2_000));
        for node in 0..2 {
            assert_eq!(shown(&sim, node, 0), LinkState::Dead);
            assert_eq!(failures(&sim, node, 0), 1);
            assert_eq!(failures(&sim, node, 1), 0);
            assert_eq!(sim.notes(node, "link-dead", from).len(), 1, "seed {seed}");
            assert_eq!(sim.notes(node, "node-dead", from), [], "seed {seed}");
            assert_eq!(sim.state(node, 1 - node), NodeState::Up);
        }
        cut(&mut sim, 0, false);
        sim.run(ms(500));
        assert_eq!(shown(&sim, 1, 0), LinkState::Up);
        assert_eq!(sim.serving(0), [0]);
        assert_eq!(sim.since(0, from), [], "nobody moved anything");
    }
}

#[test]
fn a_closed_connection_is_judged_by_the_fastest_link_that_is_heard() {
    for seed in 0..8 {
        let mut sim = settled(mixed(), seed);
        let from = sim.now;
        sim.kill(0, Death::Closed);
        sim.run(ms(100));
        assert_eq!(sim.notes(1, "daemon-gone", from).len(), 1, "seed {seed}");
    }
    for seed in 0..8 {
        // With the fast link cut before, the slow one has two of its keepalives.
        let mut sim = settled(mixed(), seed);
        cut(&mut sim, 0, true);
        sim.run(ms(500));
        let from = sim.now;
        sim.close_connections(0, sim.incarnation(0));
        sim.run(ms(1_000));
        assert_eq!(sim.notes(1, "daemon-gone", from), [], "seed {seed}");
    }
}

#[test]
fn a_one_way_link_is_recognised_by_who_is_heard_and_ends_with_the_filter() {
    for seed in 0..8 {
        let mut sim = settled(config(2, 2, 1), seed);
        let from = sim.now;
        // Node 1 hears nothing of node 0 on link 0; node 0 hears node 1.
        sim.net.fault((0, 1, 0)).cut = true;
        sim.run(ms(1_000));
        assert_eq!(shown(&sim, 1, 0), LinkState::Dead, "seed {seed}");
        assert_eq!(shown(&sim, 0, 0), LinkState::OneWay, "seed {seed}");
        assert_eq!(sim.notes(0, "link-one-way", from).len(), 1);
        assert_eq!(sim.notes(1, "link-one-way", from), []);
        assert_eq!(sim.notes(0, "link-dead", from), []);
        for node in 0..2 {
            assert_eq!(sim.notes(node, "node-dead", from), [], "the other link is heard");
        }
        sim.net.heal();
        sim.run(ms(200));
        assert_eq!(shown(&sim, 0, 0), LinkState::Up, "seed {seed}");
        assert_eq!(sim.notes(0, "link-both-ways", from).len(), 1);
        assert_eq!(sim.since(0, from), [], "nobody moved anything");
    }
}

#[test]
fn an_owner_that_is_not_heard_any_more_learns_who_took_its_group() {
    for seed in 0..20 {
        let mut sim = settled(config_manual(2, 2), seed);
        let from = sim.now;
        for link in 0..2 {
            sim.net.fault((0, 1, link)).cut = true;
        }
        sim.run(ms(2_000));
        // Node 1 hears nothing, and takes over; node 0 hears it say so, and gives up.
        assert_eq!(sim.state(1, 0), NodeState::Dead, "seed {seed}");
        assert_eq!(sim.state(0, 1), NodeState::Up, "seed {seed}");
        assert_eq!(sim.holders(0), [1], "seed {seed}");
        assert_eq!(sim.notes(0, "link-one-way", from).len(), 2);
        sim.net.heal();
        sim.run(ms(1_000));
        assert_eq!(sim.serving(0), [1], "seed {seed}");
    }
}

#[test]
fn a_one_way_link_that_falls_silent_is_dead() {
    let mut sim = settled(config(2, 2, 1), 1);
    sim.net.fault((0, 1, 0)).cut = true;
    sim.run(ms(1_000));
    assert_eq!(shown(&sim, 0, 0), LinkState::OneWay);
    sim.net.fault((1, 0, 0)).cut = true;
    sim.run(ms(100));
    assert_eq!(shown(&sim, 0, 0), LinkState::Dead);
    assert_eq!(sim.notes(0, "link-both-ways", Moment(0)), []);
}

#[test]
fn a_start_is_no_one_way_link() {
    for seed in 0..8 {
        let mut sim = Sim::settled(config(3, 2, 1), seed);
        sim.kill(0, Death::ObituaryAndClosed);
        sim.run(ms(300));
        sim.start(0);
        sim.run(ms(3_000));
        for node in 0..3 {
            assert_eq!(sim.notes(node, "link-one-way", Moment(0)), [], "seed {seed}");
        }
    }
}
