//! Ping targets: who comes first, what moves, and what a node takes from a silent peer.

use super::sim::{Death, Sim};
use super::starts::holders_since;
use super::*;
use crate::config::{GroupIndex, IsolatedOwner, PingTarget, ProbeBeforeTake};
use crate::core::connectivity::{FREE_ROUNDS, PROBE_PAUSE};
use crate::core::io::{Action, Input, PauseSign};
use crate::core::time::Moment;
use crate::snapshot::NodeState;

/// Longest time from a change of connectivity until the group is where it belongs: an interval,
/// damping, and what telling and starting take.
pub(super) const MOVE: Duration = ms(500);

pub(super) fn pinged(mut config: Config, targets: usize) -> Config {
    config.connectivity.targets = (0..targets)
        .map(|target| PingTarget {
            name: format!("t{target}"),
            members: vec![format!("203.0.113.{}", target + 1).parse().unwrap()],
        })
        .collect();
    config
}

fn pair(targets: usize) -> Config {
    pinged(config(2, 1, 1), targets)
}

fn pair_manual(targets: usize) -> Config {
    pinged(config_manual(2, 1), targets)
}

fn moves(sim: &Sim, from: Moment) -> usize {
    (0..2).map(|node| sim.notes(node, "takeover", from).len()).sum()
}

#[test]
fn who_reaches_less_gives_the_group_away_and_gets_it_back_with_failback() {
    for seed in 0..40 {
        let mut sim = Sim::settled(pair(2), seed);
        assert_eq!(sim.serving(0), [0]);
        let from = sim.now;
        sim.ping(0, 1, false);
        sim.run(MOVE);
        assert_eq!(holders_since(&sim, 0, from), [vec![0], vec![], vec![1]], "seed {seed}");
        assert_eq!(sim.notes(0, "connectivity-moves-group", from).len(), 1);
        assert_eq!(sim.notes(0, "ping-lost", from).len(), 1);
        sim.run(ms(2000));
        assert_eq!(sim.serving(0), [1], "it does not come back by preference");
        let healed = sim.now;
        sim.ping(0, 1, true);
        sim.run(MOVE);
        assert_eq!(holders_since(&sim, 0, healed), [vec![1], vec![], vec![0]], "seed {seed}");
        assert_eq!(sim.notes(0, "ping-back", healed).len(), 1);
        assert_eq!(sim.notes(1, "give-back", healed).len(), 1);
    }
}

#[test]
fn it_stays_where_it_went_without_failback() {
    for seed in 0..20 {
        let mut sim = Sim::settled(pair_manual(1), seed);
        sim.ping(0, 0, false);
        sim.run(MOVE);
        assert_eq!(sim.serving(0), [1], "seed {seed}");
        let healed = sim.now;
        sim.ping(0, 0, true);
        sim.run(ms(3000));
        assert_eq!(sim.since(0, healed), []);
    }
}

#[test]
fn a_ping_node_that_dies_moves_nothing_whatever_the_skew() {
    for seed in 0..40 {
        for (first, second) in [(0, 1), (1, 0)] {
            let mut sim = Sim::settled(pair(1), seed);
            let from = sim.now;
            let interval = sim.config.connectivity.interval;
            // The last answers to the two nodes are up to an interval apart, and one got lost.
            let skew = sim.net.random.between(Duration::ZERO, interval + interval * 4 / 5);
            sim.ping_after(first, 0, false, Duration::ZERO);
            sim.ping_after(second, 0, false, skew);
            sim.run(ms(3000));
            assert_eq!(sim.since(0, from), [], "seed {seed}");
            // And back, in any order.
            sim.ping_after(second, 0, true, skew);
            sim.ping_after(first, 0, true, Duration::ZERO);
            sim.run(ms(3000));
            assert_eq!(sim.since(0, from), [], "seed {seed}");
        }
    }
}

/// The counterpart of the test above: damping is what keeps the group where it is.
#[test]
fn without_damping_the_same_skew_moves_the_group() {
    let mut config = pair(1);
    config.connectivity.damping = Duration::ZERO;
    let mut sim = Sim::settled(config, 1);
    let from = sim.now;
    sim.ping_after(0, 0, false, Duration::ZERO);
    sim.ping_after(1, 0, false, ms(80));
    sim.run(ms(1000));
    assert_ne!(sim.since(0, from), []);
}

#[test]
fn a_target_that_comes_and_goes_faster_than_damping_moves_nothing() {
    for seed in 0..20 {
        let mut sim = Sim::settled(pair(1), seed);
        let from = sim.now;
        for round in 0..40 {
            sim.ping_after(0, 0, round % 2 == 1, Duration::ZERO);
            sim.run(ms(90));
        }
        assert_eq!(sim.since(0, from), [], "seed {seed}");
    }
}

#[test]
fn it_moves_nothing_when_it_is_not_to() {
    let mut config = pair(1);
    config.connectivity.moves_groups = false;
    let mut sim = Sim::settled(config, 1);
    let from = sim.now;
    sim.ping(0, 0, false);
    sim.run(ms(2000));
    assert_eq!(sim.since(0, from), []);
}

#[test]
fn of_three_the_one_that_reaches_most_gets_it_and_preference_decides_among_equals() {
    for seed in 0..20 {
        let mut sim = Sim::settled(pinged(config(3, 1, 1), 2), seed);
        sim.ping(0, 0, false);
        sim.ping(1, 0, false);
        sim.run(MOVE);
        assert_eq!(sim.serving(0), [2], "seed {seed}");
        sim.ping(2, 0, false);
        sim.ping(2, 1, false);
        // Nodes 0 and 1 reach one each.
        sim.run(MOVE);
        assert_eq!(sim.serving(0), [0], "seed {seed}");
    }
}

#[test]
fn a_better_connected_node_that_is_no_candidate_changes_nothing() {
    let mut config = pinged(config(3, 1, 1), 1);
    config.groups[0].nodes = vec![NodeIndex(0), NodeIndex(1)];
    let mut sim = Sim::settled(config, 1);
    let from = sim.now;
    sim.ping(0, 0, false);
    sim.ping(1, 0, false);
    sim.run(ms(2000));
    assert_eq!(sim.since(0, from), []);
}

#[test]
fn a_dying_owners_group_goes_to_who_reaches_more() {
    for seed in 0..20 {
        let mut sim = Sim::settled(pinged(config(3, 1, 1), 1), seed);
        sim.ping(1, 0, false);
        sim.run(ms(200));
        sim.kill(0, Death::Obituary);
        sim.run(MOVE);
        assert_eq!(sim.serving(0), [2], "seed {seed}");
    }
}

#[test]
fn a_node_that_starts_without_connectivity_is_not_given_the_group() {
    for seed in 0..20 {
        let mut sim = Sim::new(pair(1), seed);
        sim.unreached.insert((0, 0), Moment(0));
        sim.start(0);
        sim.start(1);
        sim.run(ms(1500));
        assert_eq!(holders_since(&sim, 0, Moment(0)), [vec![], vec![1]], "seed {seed}");
    }
}

#[test]
fn an_own_pause_starts_damping_afresh() {
    let mut sim = Sim::settled(pair(1), 3);
    let from = sim.now;
    sim.ping_after(0, 0, false, Duration::ZERO);
    for _ in 0..10 {
        sim.run(ms(150));
        sim.letter(0, Input::OwnPause { length_ns: 20_000_000, sign: PauseSign::Driver });
    }
    assert_eq!(sim.since(0, from), []);
    sim.run(MOVE);
    assert_eq!(sim.serving(0), [1]);
}

// ---- silent peers --------------------------------------------------------------------------

/// A reset of a node's connections, forged or by a path that comes back, as its peer learns of it: from then
/// on that peer is in doubt. Silence that follows is silence all the same, and proves nothing else.
fn close_by_chance(sim: &mut Sim, node: usize, closed: bool) {
    if closed {
        let incarnation = sim.incarnation(node);
        sim.close_connections(node, incarnation);
        sim.run(ms(1));
    }
}

fn questions(sim: &Sim, node: usize) -> usize {
    sim.questions.iter().filter(|(asked_by, _, _)| *asked_by == node).count()
}

#[test]
fn a_dead_owners_addresses_are_asked_for_once_and_taken() {
    for seed in 0..20 {
        let mut sim = Sim::settled(pair(1), seed);
        let from = sim.now;
        sim.kill(0, Death::PowerCut);
        sim.run(ms(400));
        assert_eq!(holders_since(&sim, 0, from), [vec![], vec![1]], "seed {seed}");
        assert_eq!(questions(&sim, 1), 1);
    }
}

#[test]
fn who_leaves_or_whose_keeper_speaks_is_not_asked_for() {
    for death in [None, Some(Death::Obituary), Some(Death::Closed)] {
        let mut sim = Sim::settled(pair(1), 1);
        match death {
            Some(death) => sim.kill(0, death),
            None => sim.leave(0),
        }
        sim.run(ms(400));
        assert_eq!((sim.serving(0), questions(&sim, 1)), (vec![1], 0), "{death:?}");
    }
}

#[test]
fn without_targets_nobody_is_asked_unless_it_is_wanted() {
    for (probe, asked) in [(ProbeBeforeTake::Auto, 0), (ProbeBeforeTake::Always, 1)] {
        let mut config = config(2, 1, 1);
        config.connectivity.probe_before_take = probe;
        let mut sim = Sim::settled(config, 1);
        sim.kill(0, Death::PowerCut);
        sim.run(ms(400));
        assert_eq!((sim.serving(0), questions(&sim, 1)), (vec![1], asked));
    }
}

/// Scenario H3, step 3: no heartbeat either way, both reach the ping node, the service network
/// is whole.
#[test]
fn a_pair_that_loses_each_other_has_one_owner_while_the_service_network_carries_answers() {
    for (seed, closed) in (0..60).zip([false, true, true].into_iter().cycle()) {
        let mut sim = Sim::settled(pair(1), seed);
        let cut = sim.now;
        close_by_chance(&mut sim, 0, closed);
        sim.cut(0, 1, true);
        sim.run(ms(10_000));
        assert_eq!(sim.state(1, 0), NodeState::Dead);
        assert_eq!(sim.since(0, cut), [], "seed {seed}");
        assert_eq!(sim.notes(1, "address-still-held", cut).len(), 1, "said once");
        assert!(questions(&sim, 1) > 5, "asked again and again");
        let healed = sim.now;
        sim.cut(0, 1, false);
        sim.run(SETTLE);
        assert_eq!(sim.since(0, healed), []);
    }
}

#[test]
fn an_owner_that_dies_while_it_is_not_heard_is_replaced_after_some_rounds() {
    for seed in 0..20 {
        let mut sim = Sim::settled(pair(1), seed);
        sim.cut(0, 1, true);
        sim.run(ms(5_000));
        let died = sim.now;
        sim.kill(0, Death::PowerCut);
        sim.run(PROBE_PAUSE);
        assert!(sim.serving(0).is_empty(), "one round without an answer is not enough");
        sim.run(PROBE_PAUSE * u32::from(FREE_ROUNDS + 2));
        assert_eq!(holders_since(&sim, 0, died), [vec![], vec![1]], "seed {seed}");
    }
}

#[test]
fn a_pair_that_starts_without_hearing_each_other_has_one_owner() {
    for seed in 0..60 {
        let mut sim = Sim::new(pair(1), seed);
        sim.cut(0, 1, true);
        sim.start(0);
        let gap = sim.net.random.between(Duration::ZERO, ms(400));
        sim.run(gap);
        sim.start(1);
        sim.run(ms(10_000));
        assert_eq!(sim.serving(0).len(), 1, "seed {seed}");
        let two = sim.since(0, Moment(0)).into_iter().find(|it| it.holders.len() > 1);
        assert_eq!(two, None, "seed {seed}");
    }
}

/// It is cut off from everything at one moment: the verdict on the peer comes before that on the
/// ping target, and without an answer from in between it proves nothing.
#[test]
fn a_node_that_is_cut_off_from_everything_takes_nothing() {
    for probe in [ProbeBeforeTake::Auto, ProbeBeforeTake::Never] {
        for (seed, closed) in (0..60).zip([false, true, true].into_iter().cycle()) {
            let mut config = pair(1);
            config.connectivity.probe_before_take = probe;
            let mut sim = Sim::settled(config, seed);
            let from = sim.now;
            close_by_chance(&mut sim, 0, closed);
            sim.off_service.insert(1);
            sim.cut(0, 1, true);
            let deadping = sim.config.connectivity.deadping;
            sim.ping_after(1, 0, false, deadping);
            sim.run(ms(3_000));
            assert_eq!(sim.state(1, 0), NodeState::Dead);
            assert_eq!(sim.since(0, from), [], "seed {seed}");
            assert_eq!(sim.notes(1, "takeover-held", from).len(), 1, "said once");
        }
    }
}

#[test]
fn a_node_that_has_reached_no_target_for_long_takes_nothing_from_a_silent_peer() {
    let mut sim = Sim::settled(pair(1), 4);
    sim.ping(1, 0, false);
    sim.run(ms(200));
    let from = sim.now;
    sim.off_service.insert(1);
    sim.cut(0, 1, true);
    sim.run(ms(3_000));
    assert_eq!(sim.since(0, from), []);
    assert_eq!(sim.notes(1, "takeover-held", from).len(), 1);
    // It reaches the target again, and nobody has the address.
    sim.kill(0, Death::PowerCut);
    sim.ping(1, 0, true);
    sim.off_service.clear();
    sim.run(ms(500));
    assert_eq!(sim.serving(0), [1]);
}

#[test]
fn an_isolated_owner_releases_what_another_one_may_take() {
    for (seed, closed) in (0..40).zip([false, true].into_iter().cycle()) {
        let mut sim = Sim::settled(pair_manual(1), seed);
        let from = sim.now;
        close_by_chance(&mut sim, 1, closed);
        sim.off_service.insert(0);
        sim.cut(0, 1, true);
        sim.ping(0, 0, false);
        sim.run(ms(1_000));
        assert_eq!(sim.serving(0), [1], "seed {seed}");
        assert_eq!(sim.holders(0), [1]);
        assert_eq!(sim.notes(0, "isolated", from).len(), 1);
        let healed = sim.now;
        sim.off_service.clear();
        sim.cut(0, 1, false);
        sim.ping(0, 0, true);
        sim.run(ms(1_000));
        assert_eq!(sim.since(0, healed), [], "no second owner to clear away");
    }
}

#[test]
fn an_isolated_owner_keeps_what_it_is_to_keep_and_what_nobody_would_take() {
    let keep = |config: &mut Config| config.connectivity.isolated_owner = IsolatedOwner::Keep;
    let hold = |config: &mut Config| config.cluster.on_doubt = OnDoubt::Hold;
    let alone = |config: &mut Config| config.groups[0].nodes = vec![NodeIndex(0)];
    for change in [keep as fn(&mut Config), hold, alone] {
        let mut config = pair(1);
        change(&mut config);
        let mut sim = Sim::settled(config, 1);
        let from = sim.now;
        sim.kill(1, Death::PowerCut);
        sim.ping(0, 0, false);
        sim.run(ms(2_000));
        assert_eq!(sim.since(0, from), []);
    }
}

#[test]
fn an_owner_that_never_reached_a_target_does_not_count_as_isolated() {
    let mut sim = Sim::new(pair(1), 1);
    sim.unreached.extend([((0, 0), Moment(0)), ((1, 0), Moment(0))]);
    sim.start(0);
    sim.start(1);
    sim.run(ms(1_500));
    assert_eq!(sim.serving(0), [0]);
    let from = sim.now;
    sim.kill(1, Death::PowerCut);
    sim.run(ms(2_000));
    assert_eq!(sim.since(0, from), []);
}

#[test]
fn answers_and_targets_that_nobody_asked_for_change_nothing() {
    use crate::core::io::Probed;
    let mut sim = Sim::settled(pair(1), 2);
    let from = sim.now;
    for group in [0, 7] {
        for node in 0..2 {
            let group = GroupIndex(group);
            let (answer, pinged_at) = (Probed::Nobody, Some(sim.now));
            sim.letter(node, Input::AddressesProbed { group, answer, pinged_at });
            sim.letter(node, Input::Ping { target: 9, reached: false });
        }
    }
    sim.run(ms(1_000));
    assert_eq!(sim.since(0, from), []);
    assert_eq!(moves(&sim, from), 0);
}

#[test]
fn counts_travel_with_the_state_and_have_a_generation_of_their_own() {
    let mut sim = Sim::settled(pair(2), 2);
    assert_eq!(sim.core(0).reached(), Some(2));
    assert_eq!(sim.core(1).peers()[&NodeIndex(0)].reached, Some(2));
    let from = sim.log.len();
    sim.ping_after(0, 0, false, Duration::ZERO);
    sim.run(ms(20));
    assert_eq!(sim.core(1).peers()[&NodeIndex(0)].reached, Some(1));
    let advertised = |(_, node, action): &&(Moment, usize, Action)| {
        *node == 0 && matches!(action, Action::Advertise { .. })
    };
    assert_eq!(sim.log[from..].iter().filter(advertised).count(), 1);
}
