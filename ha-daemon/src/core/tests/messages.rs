//! Control messages: repeated until they arrived, silent afterwards, believed in any order.

use super::sim::{Death, Sim};
use super::starts::holders_since;
use super::*;
use crate::core::io::{Action, Input};
use crate::core::message::{Claim, ClaimState, Message, State, Wish};
use crate::core::time::Moment;
use ha_common::wire::{Phase, layers};

#[test]
fn nothing_is_sent_in_the_steady_state() {
    for seed in 0..20 {
        let mut sim = Sim::settled(config(3, 2, 2), seed);
        let (letters, calls) = (sim.letters, sim.calls);
        sim.run(ms(5000));
        assert_eq!(sim.letters, letters, "seed {seed}");
        assert_eq!(
            sim.log.iter().filter(|(at, ..)| *at > Moment(1_000_000_000 + 300_000_000)).count(),
            0
        );
        // A core wakes only to see that its peers are alive, once in warntime.
        assert!(sim.calls - calls < 3 * 5000 / 8, "{} calls", sim.calls - calls);
    }
}

#[test]
fn lost_messages_are_repeated_until_they_arrive_and_then_there_is_silence() {
    for seed in 0..5 {
        let mut sim = Sim::new(config(3, 2, 2), seed);
        for from in 0..3 {
            for to in 0..3 {
                for link in 0..2 {
                    sim.net.fault((from, to, link)).control_lost_percent = 60;
                }
            }
        }
        (0..3).for_each(|node| sim.start(node));
        sim.run(ms(15_000));
        for group in 0..2 {
            assert_eq!(holders_since(&sim, group, Moment(0)).last().unwrap(), &[group]);
            assert!(sim.since(group, Moment(0)).iter().all(|it| it.holders.len() < 2));
        }
        let letters = sim.letters;
        sim.run(ms(5_000));
        assert_eq!(sim.letters, letters, "seed {seed}");
    }
}

#[test]
fn a_change_costs_few_messages_however_many_links_there_are() {
    for links in [1, 2, 8] {
        for seed in 0..10 {
            let mut sim = Sim::settled(config(2, links, 1), seed);
            assert!(sim.letters <= 32 * links as u64, "joining: {} on {links}", sim.letters);
            let letters = sim.letters;
            sim.interface(1, false);
            sim.run(SETTLE);
            // The state, its acknowledgement, and one of each to spare.
            let sent = sim.letters - letters;
            assert!(sent <= 4 * links as u64, "{sent} on {links} links");
        }
    }
}

#[test]
fn a_deaf_peer_is_told_ever_more_seldom() {
    let mut sim = Sim::settled(config(2, 1, 1), 1);
    sim.net.fault((0, 1, 0)).control_lost_percent = 100;
    sim.interface(0, false);
    sim.run(ms(20_000));
    let letters = sim.letters;
    sim.run(ms(10_000));
    assert!((10..=35).contains(&(sim.letters - letters)), "{}", sim.letters - letters);
    assert_eq!(sim.notes(0, "not-acknowledged", Moment(0)).len(), 1, "said once");
    sim.net.heal();
    sim.run(ms(3000));
    let letters = sim.letters;
    sim.run(ms(3000));
    assert_eq!(sim.letters, letters);
}

/// Links of very different delay bring heartbeats and messages of earlier states after later ones.
#[test]
fn a_slow_link_brings_no_old_state_back() {
    for seed in 0..60 {
        let mut config = config(2, 2, 2);
        config.cluster.deadtime = ms(100);
        config.cluster.warntime = ms(80);
        let mut sim = Sim::new(config, seed);
        for (from, to) in [(0, 1), (1, 0)] {
            sim.net.fault((from, to, 1)).delay_max = ms(30);
        }
        (0..2).for_each(|node| sim.start(node));
        sim.run(SETTLE);
        for round in 0..6 {
            sim.interface(round % 2, round % 4 > 1);
            let gap = sim.net.random.between(Duration::ZERO, ms(40));
            sim.run(gap);
        }
        (0..2).for_each(|node| sim.interface(node, true));
        sim.kill(1, Death::ObituaryAndClosed);
        sim.run(ms(20));
        sim.start(1);
        sim.run(ms(1000));
        for group in 0..2 {
            assert_eq!(sim.serving(group), [group], "seed {seed}");
            let two = sim.since(group, Moment(0)).into_iter().find(|it| it.holders.len() > 1);
            assert_eq!(two, None, "seed {seed}");
        }
    }
}

// ---- one core, told by hand ------------------------------------------------------------------

/// Node 0 of two, its peer's next messages made by hand.
struct Lone {
    core: Core,
    now: Moment,
    beats: u32,
}

impl Lone {
    fn new() -> Self {
        let now = Moment(1_000_000_000);
        let core = Core::new(Arc::new(config(2, 1, 1)), NodeIndex(1), 70, now);
        Self { core, now, beats: 0 }
    }

    /// The peer beats, with that generation.
    fn beat(&mut self, generation: u32) -> Vec<Action> {
        self.beats += 1;
        self.now = self.now.after(ms(1));
        let observation = Observation {
            last_seen: self.now,
            incarnation: 9,
            generation,
            phase: Phase::Active as u8,
            layers: layers::LINK,
            ..Observation::default()
        };
        let (peer, link) = (NodeIndex(0), LinkIndex(0));
        self.core.handle(Input::Observed(vec![Sighting { peer, link, observation }]), self.now)
    }

    /// The peer says that it owns the group.
    fn says(&mut self, generation: u32, known_generation: u32, answer: bool) -> Vec<Action> {
        let (state, wish) = (ClaimState::Started, Wish::None);
        let claim = Claim { group: 100, state, eligible: true, wish, term: 4 };
        let state = State {
            generation,
            answer,
            known_incarnation: 70,
            known_generation,
            reached: None,
            standby: false,
            claims: vec![claim],
        };
        let (peer, incarnation, phase) = (NodeIndex(0), 9, Phase::Active as u8);
        let message = Message::State(state);
        self.core.handle(Input::Control { peer, incarnation, phase, message }, self.now)
    }

    /// The number of this node's own state.
    fn generation(&self) -> u32 {
        self.core.generation
    }
}

fn sent(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::SendState { .. })).count()
}

#[test]
fn generations_wrap() {
    let mut lone = Lone::new();
    lone.beat(u32::MAX - 1);
    lone.says(u32::MAX - 1, 1, false);
    for generation in [u32::MAX, 0, 1] {
        lone.beat(generation);
        assert!(lone.core.peers()[&NodeIndex(0)].outdated());
        lone.says(generation, lone.generation(), false);
        assert_eq!(lone.core.peers()[&NodeIndex(0)].known, Some((9, generation)));
        assert!(!lone.core.peers()[&NodeIndex(0)].outdated());
    }
}

#[test]
fn what_is_older_than_what_is_known_changes_nothing() {
    let mut lone = Lone::new();
    lone.beat(5);
    lone.says(5, 0, false);
    lone.says(5, lone.generation(), false);
    let peer = lone.core.peers()[&NodeIndex(0)].clone();
    assert_eq!(peer.acknowledged, Some(lone.generation()));
    // An older state, an older acknowledgement, an older heartbeat of another link.
    lone.says(4, lone.generation(), false);
    lone.says(5, lone.generation().wrapping_sub(1), false);
    assert_eq!(sent(&lone.beat(4)), 0, "nothing to ask for");
    let after = &lone.core.peers()[&NodeIndex(0)];
    assert_eq!(after.known, peer.known);
    assert_eq!(after.acknowledged, peer.acknowledged);
    assert_eq!(after.generation, 5);
}

#[test]
fn a_state_that_arrives_before_a_newer_one_of_which_heartbeats_told_is_not_the_newest() {
    let mut lone = Lone::new();
    lone.beat(5);
    lone.says(3, lone.generation(), false);
    assert!(lone.core.peers()[&NodeIndex(0)].outdated());
}

#[test]
fn the_same_question_over_many_links_is_answered_once() {
    let mut lone = Lone::new();
    lone.beat(5);
    lone.says(5, 0, true);
    let generation = lone.generation();
    lone.says(5, generation, false);
    (0..50).for_each(|_| drop(lone.beat(5)));
    let answers: usize = (0..8).map(|_| sent(&lone.says(5, generation, true))).sum();
    assert_eq!(answers, 1);
    (0..10).for_each(|_| drop(lone.beat(5)));
    assert_eq!(sent(&lone.says(5, generation, true)), 1, "asked again, the answer was lost");
}
