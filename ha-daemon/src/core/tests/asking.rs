//! Ask before you bury: daemons, senders and drivers that stop while their kernels answer, nodes
//! that stop, cuts and deaths.

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use super::sim::{Death, Sim, Stop};
use super::*;
use crate::config::Detection;
use crate::core::io::Input;
use crate::core::time::Moment;
use crate::snapshot::NodeState;

/// Two nodes with one group that stays where it is.
fn pair(detection: Detection) -> Config {
    Config { detection, ..config_manual(2, 2) }
}

fn with_ask(ask: bool) -> Config {
    pair(Detection { ask, ..Detection::default() })
}

#[test]
fn a_lease_counts_from_the_arrival_of_an_answer_and_a_sign_of_life_from_its_question() {
    let started = Moment(1_000_000_000);
    let mut core = Core::new(Arc::new(config(2, 1, 1)), NodeIndex(1), 70, started);
    let (peer, link) = (NodeIndex(0), LinkIndex(0));
    let beat = started.after(ms(1));
    let mut observation = Observation { last_seen: beat, incarnation: 9, ..Observation::default() };
    let mut tell = |observation: Observation, now| {
        core.handle(Input::Observed(vec![Sighting { peer, link, observation }]), now);
        let peer = &core.peers()[&peer];
        (peer.lease, peer.last_sign(started).unwrap())
    };
    assert_eq!(tell(observation, beat), (beat, beat));
    // 300 ms there, then the age was read, and at once back: its driver ran 200 ms after that heartbeat,
    // though 95 ms before it if the age were of the question's moment.
    observation.answered = beat.after(ms(5));
    observation.answer_at = beat.after(ms(305));
    observation.answer_incarnation = 9;
    observation.answer_lease_age_ms = 100;
    let expected = (beat.after(ms(205)), observation.answered);
    assert_eq!(tell(observation, observation.answer_at), expected);
}

#[test]
fn a_stopped_daemon_is_stale_and_nothing_moves() {
    for seed in 0..20 {
        let mut sim = Sim::settled(with_ask(true), seed);
        let from = sim.now;
        sim.stop(0, Stop::Daemon);
        sim.run(DEADTIME + ms(2));
        assert_eq!(sim.state(1, 0), NodeState::Stale, "seed {seed}");
        sim.run(ms(600));
        assert_eq!(sim.state(1, 0), NodeState::Stale);
        sim.resume(0);
        sim.run(SETTLE);
        assert_eq!(sim.state(1, 0), NodeState::Up);
        for (node, kind, count) in [
            (1, "node-stale", 1),
            (1, "node-up", 1),
            (1, "node-dead", 0),
            (1, "link-dead", 0),
            (0, "node-dead", 0),
            (0, "lease-lost", 0),
        ] {
            assert_eq!(sim.notes(node, kind, from).len(), count, "{kind}, seed {seed}");
        }
        assert_eq!(sim.since(0, from), [], "seed {seed}");
    }
}

#[test]
fn a_daemon_that_stays_stopped_is_dead_after_daemon_deadtime_and_has_given_up_before() {
    for seed in 0..20 {
        let mut sim = Sim::settled(with_ask(true), seed);
        let from = sim.now;
        sim.stop(0, Stop::Daemon);
        sim.run(DAEMON_DEADTIME + SETTLE);
        assert_eq!(sim.serving(0), [1], "seed {seed}");
        let [(at, note)] = &sim.notes(1, "node-dead", from)[..] else { panic!("one verdict") };
        // From when its driver ran last before the stop, as it was told in whole milliseconds.
        let late = at.since(from.after(DAEMON_DEADTIME));
        assert!((-30_000_000..2_000_000).contains(&late), "{late} ns, seed {seed}");
        assert!(note.message.contains("its daemon has not run for"), "{}", note.message);
        assert!(sim.since(0, from).iter().all(|it| it.holders.len() < 2), "seed {seed}");
        sim.resume(0);
        sim.run(SETTLE);
        assert_eq!(sim.notes(0, "lease-lost", from).len(), 1);
        assert_eq!(sim.serving(0), [1]);
        assert!(sim.since(0, from).iter().all(|it| it.holders.len() < 2), "seed {seed}");
        assert_eq!(sim.state(1, 0), NodeState::Up, "heard again");
    }
}

#[test]
fn a_driver_that_hangs_while_its_sender_beats_is_stale_and_then_dead() {
    for seed in 0..10 {
        let mut config = with_ask(true);
        config.cluster.daemon_deadtime = ms(2_000);
        let mut sim = Sim::settled(config, seed);
        let from = sim.now;
        sim.stop(0, Stop::Driver);
        sim.run(ms(900));
        assert_eq!(sim.state(1, 0), NodeState::Up, "seed {seed}");
        sim.run(ms(400));
        assert_eq!(sim.state(1, 0), NodeState::Stale, "seed {seed}");
        sim.run(ms(1_300));
        assert_eq!(sim.state(1, 0), NodeState::Dead, "its heartbeats alone do not bring it back");
        assert_eq!(sim.serving(0), [1], "seed {seed}");
        assert_eq!(sim.notes(1, "node-dead", from).len(), 1);
        assert!(sim.since(0, from).iter().all(|it| it.holders.len() < 2), "seed {seed}");
        sim.resume(0);
        sim.run(SETTLE);
        assert_eq!(sim.state(1, 0), NodeState::Up, "seed {seed}");
        assert_eq!(sim.serving(0), [1]);
    }
}

/// As Heartbeat's own files often have it: what a heartbeat says of the daemon is seconds old when the
/// next one comes.
#[test]
fn slow_heartbeats_of_a_daemon_that_runs_do_not_make_it_stale() {
    let mut config = with_ask(true);
    config.cluster.keepalive = ms(2_000);
    config.cluster.warntime = ms(5_000);
    config.cluster.deadtime = ms(10_000);
    config.cluster.daemon_deadtime = ms(10_000);
    config.cluster.initdead = ms(20_000);
    for seed in 0..5 {
        let mut sim = Sim::new(config.clone(), seed);
        (0..2).for_each(|node| sim.start(node));
        sim.run(ms(25_000));
        assert_eq!(sim.state(1, 0), NodeState::Up, "seed {seed}");
        let from = sim.now;
        sim.run(ms(180_000));
        for (node, kind) in [(0, "node-stale"), (1, "node-stale"), (0, "node-up"), (1, "node-up")] {
            assert_eq!(sim.notes(node, kind, from), [], "seed {seed}");
        }
        // Its death is one of silence, at deadtime and not before.
        sim.kill(0, Death::PowerCut);
        sim.run(ms(15_000));
        let last = sim.core(1).peers()[&NodeIndex(0)].last_seen().unwrap();
        let [(at, note)] = &sim.notes(1, "node-dead", from)[..] else { panic!("one verdict") };
        assert_eq!(*at, last.after(ms(10_000)), "seed {seed}");
        assert!(note.message.contains("silent on every link"), "{}", note.message);
        assert_eq!(sim.notes(1, "node-stale", from), [], "seed {seed}");
    }
}

#[test]
fn a_sender_that_stops_alone_is_stale_and_then_dead() {
    for seed in 0..10 {
        let mut sim = Sim::settled(with_ask(true), seed);
        let from = sim.now;
        sim.stop(0, Stop::Sender);
        sim.run(ms(600));
        assert_eq!(sim.state(1, 0), NodeState::Stale, "seed {seed}");
        assert_eq!(sim.since(0, from), []);
        sim.run(DAEMON_DEADTIME);
        assert_eq!(sim.state(1, 0), NodeState::Dead, "seed {seed}");
        assert_eq!(sim.serving(0), [1], "seed {seed}");
        assert!(sim.since(0, from).iter().all(|it| it.holders.len() < 2), "seed {seed}");
    }
}

#[test]
fn who_cannot_ask_judges_nobody_before_daemon_deadtime() {
    for seed in 0..10 {
        let mut sim = Sim::settled(with_ask(true), seed);
        let from = sim.now;
        sim.cannot_ask.insert(1);
        sim.kill(0, Death::PowerCut);
        sim.run(DAEMON_DEADTIME - ms(20));
        assert_eq!(sim.notes(1, "node-dead", from), [], "seed {seed}");
        assert_eq!(sim.notes(1, "could-not-ask", from).len(), 1, "told once");
        sim.run(ms(60));
        assert_eq!(sim.notes(1, "node-dead", from).len(), 1, "seed {seed}");
        assert_eq!(sim.serving(0), [1]);
    }
}

/// From where the next question leaves before the last one was waited for, to where it does not.
#[test]
fn a_short_deadtime_is_kept_however_soon_questions_follow_each_other() {
    for deadtime in (1_500..14_000).step_by(500).map(Duration::from_micros) {
        let mut config = with_ask(true);
        config.cluster.keepalive = Duration::from_micros(500);
        (config.cluster.warntime, config.cluster.deadtime) = (deadtime / 2, deadtime);
        let mut sim = Sim::settled(config, 3);
        let from = sim.now;
        sim.kill(0, Death::PowerCut);
        sim.run(ms(100));
        let last = sim.core(1).peers()[&NodeIndex(0)].last_seen().unwrap();
        let [(at, _)] = &sim.notes(1, "node-dead", from)[..] else { panic!("{deadtime:?}") };
        assert_eq!(*at, last.after(deadtime), "{deadtime:?}");
    }
}

#[test]
fn one_link_that_can_be_asked_is_enough() {
    let mut sim = Sim::settled(with_ask(true), 3);
    // The other link is cut for long: its questions are not waited for.
    sim.net.fault((0, 1, 0)).cut = true;
    sim.run(ms(500));
    let from = sim.now;
    sim.kill(0, Death::PowerCut);
    sim.run(ms(100));
    let last = sim.core(1).peers()[&NodeIndex(0)].last_seen().unwrap();
    assert_eq!(sim.notes(1, "node-dead", from)[0].0, last.after(DEADTIME));
}

#[test]
fn nothing_of_it_costs_a_packet_while_all_is_well() {
    let mut sim = Sim::settled(config(3, 2, 2), 1);
    let before = sim.probes;
    sim.run(ms(5_000));
    assert_eq!(sim.probes, before);
    // A dead link costs nothing either, while the peer is heard on the other one.
    sim.net.fault((0, 1, 0)).cut = true;
    sim.run(ms(100));
    let before = sim.probes;
    sim.run(ms(5_000));
    assert_eq!(sim.probes, before);
}

#[test]
fn a_stale_third_node_delays_a_takeover_by_daemon_deadtime_at_most() {
    for seed in 0..10 {
        let mut sim = Sim::settled(config(3, 2, 1), seed);
        let from = sim.now;
        // The second candidate freezes, then the owner dies.
        sim.stop(1, Stop::Daemon);
        sim.run(ms(100));
        assert_eq!(sim.state(2, 1), NodeState::Stale);
        sim.kill(0, Death::PowerCut);
        sim.run(ms(200));
        assert_eq!(sim.state(2, 0), NodeState::Dead, "seed {seed}");
        assert_eq!(sim.holders(0), [] as [usize; 0], "it may have taken it just before it froze");
        sim.run(DAEMON_DEADTIME);
        assert_eq!(sim.serving(0), [2], "seed {seed}");
        assert!(sim.since(0, from).iter().all(|it| it.holders.len() < 2), "seed {seed}");
    }
}

#[test]
fn a_stale_third_node_that_comes_back_takes_what_it_is_preferred_for() {
    for seed in 0..10 {
        let mut sim = Sim::settled(config(3, 2, 1), seed);
        let from = sim.now;
        sim.stop(1, Stop::Daemon);
        sim.run(ms(100));
        sim.kill(0, Death::PowerCut);
        sim.run(ms(200));
        sim.resume(1);
        sim.run(SETTLE);
        assert_eq!(sim.serving(0), [1], "seed {seed}");
        assert!(sim.since(0, from).iter().all(|it| it.holders.len() < 2), "seed {seed}");
    }
}

#[test]
fn a_stale_node_that_is_no_longer_preferred_delays_nobody() {
    for seed in 0..10 {
        let mut sim = Sim::settled(config(3, 2, 1), seed);
        sim.stop(2, Stop::Daemon);
        sim.run(ms(100));
        sim.kill(0, Death::PowerCut);
        sim.run(ms(100));
        assert_eq!(sim.serving(0), [1], "seed {seed}");
    }
}

#[test]
fn nothing_is_given_back_to_a_stale_node() {
    for seed in 0..10 {
        let mut sim = Sim::settled(config_manual(2, 2), seed);
        let from = sim.now;
        sim.stop(1, Stop::Daemon);
        sim.run(ms(100));
        let group = crate::config::GroupIndex(0);
        let to = Some(NodeIndex(1));
        let command = crate::core::command::Command::Relocate { group, to };
        assert!(sim.command(0, command).unwrap().is_err(), "seed {seed}");
        sim.run(ms(100));
        assert_eq!(sim.since(0, from), [], "seed {seed}");
    }
}

#[test]
fn who_was_away_for_longer_than_its_lease_gives_up_before_it_acts_and_takes_again() {
    for seed in 0..10 {
        let mut sim = Sim::settled(config_manual(2, 2), seed);
        // Both nodes stop, as with a host that stops: nobody took anything.
        sim.pause(0);
        sim.pause(1);
        sim.run(ms(2_000));
        let from = sim.now;
        sim.resume(0);
        sim.resume(1);
        sim.run(ms(1));
        assert_eq!(sim.notes(0, "lease-lost", from)[0].0, from, "seed {seed}");
        sim.run(SETTLE);
        assert_eq!(sim.serving(0), [0], "seed {seed}");
        assert!(sim.since(0, from).iter().all(|it| it.holders.len() < 2), "seed {seed}");
    }
}

// ---- whatever happens ------------------------------------------------------------------------

/// Something that happens to a pair. Numbers are taken modulo what there is.
#[derive(Debug, Clone, Copy)]
enum Op {
    Stop(usize, Stop),
    Resume(usize),
    /// Link 0, in the direction from that node.
    Cut(usize, bool),
    LoseBeats(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let stop = prop_oneof![
        3 => Just(Stop::Daemon),
        2 => Just(Stop::Sender),
        2 => Just(Stop::Driver),
    ];
    prop_oneof![
        4 => (0..2usize, stop).prop_map(|(node, stop)| Op::Stop(node, stop)),
        4 => (0..2usize).prop_map(Op::Resume),
        2 => (0..2usize, any::<bool>()).prop_map(|(node, cut)| Op::Cut(node, cut)),
        1 => (0..100u8).prop_map(Op::LoseBeats),
    ]
}

/// Does it; link 1 carries questions and answers all the time.
fn apply(sim: &mut Sim, op: Op) {
    match op {
        Op::Stop(node, stop) => sim.stop(node, stop),
        Op::Resume(node) => sim.resume(node),
        Op::Cut(node, cut) => sim.net.fault((node, 1 - node, 0)).cut = cut,
        Op::LoseBeats(percent) => {
            for node in 0..2 {
                sim.net.fault((node, 1 - node, 0)).beats_lost_percent = percent;
            }
        }
    }
}

/// Whether any node was taken for dead, or any group moved, since then.
fn mistakes(sim: &Sim, from: Moment) -> usize {
    let verdicts = (0..2).map(|node| sim.notes(node, "node-dead", from).len()).sum::<usize>();
    verdicts + sim.since(0, from).len()
}

/// What a judge that stops itself, as a whole machine does, makes of a peer whose daemon stops too, but
/// whose kernel answers: how often it takes it for dead.
fn misjudge(detection: Detection, seed: u64, steps: &[(Op, u64)]) -> usize {
    let mut sim = Sim::settled(pair(detection), seed);
    let from = sim.now;
    for (op, wait) in steps {
        match *op {
            Op::Stop(1, _) => sim.pause(1),
            Op::Stop(..) | Op::Resume(_) | Op::Cut(..) | Op::LoseBeats(_) => apply(&mut sim, *op),
        }
        sim.run(Duration::from_micros(*wait));
        if sim.longest_stop() > ms(400) {
            sim.resume(0);
        }
    }
    (0..2).for_each(|node| sim.resume(node));
    sim.run(ms(100));
    sim.notes(1, "node-dead", from).len()
}

/// Random stops of less than a lease each; what they lead to.
fn live_through(detection: Detection, seed: u64, steps: &[(Op, u64)]) -> usize {
    let mut sim = Sim::settled(pair(detection), seed);
    let from = sim.now;
    for (op, wait) in steps {
        apply(&mut sim, *op);
        sim.run(Duration::from_micros(*wait));
        // Nobody stays stopped for as long as the shortest lease.
        if sim.longest_stop() > ms(400) {
            (0..2).for_each(|node| sim.resume(node));
        }
    }
    (0..2).for_each(|node| sim.resume(node));
    sim.run(SETTLE);
    mistakes(&sim, from)
}

fn steps() -> impl Strategy<Value = Vec<(Op, u64)>> {
    proptest::collection::vec((op(), 0..200_000u64), 1..40)
}

proptest! {
    #![proptest_config(cases(60))]

    /// (a) Whatever stops for less than its lease and whatever gets lost on the way: a node whose
    /// kernel answers is not taken for dead, and nothing moves.
    #[test]
    fn a_node_whose_kernel_answers_is_not_dead(seed in any::<u64>(), steps in steps()) {
        prop_assert_eq!(live_through(Detection::default(), seed, &steps), 0);
    }

    /// (a) A judge that did not run itself takes nobody for dead either.
    #[test]
    fn a_judge_that_stops_takes_nobody_for_dead(seed in any::<u64>(), steps in steps()) {
        prop_assert_eq!(misjudge(Detection::default(), seed, &steps), 0);
    }

    /// (b) A node that is off, or cut off, is judged deadtime after its last sign of life, plus what
    /// the youngest question needs: whenever it is, and whatever was stopped before.
    #[test]
    fn a_dead_node_is_judged_in_time(
        seed in any::<u64>(),
        steps in steps(),
        cut in any::<bool>(),
        after in 0..300_000u64,
    ) {
        let mut sim = Sim::settled(pair(Detection::default()), seed);
        for (op, wait) in steps {
            // The judge runs; of the other one's stops, none is longer than its lease.
            if !matches!(op, Op::Stop(1, _)) {
                apply(&mut sim, op);
            }
            sim.run(Duration::from_micros(wait));
            if sim.longest_stop() > ms(400) {
                sim.resume(0);
            }
        }
        sim.run(Duration::from_micros(after));
        let from = sim.now;
        if cut {
            sim.cut(0, 1, true);
        } else {
            sim.kill(0, Death::PowerCut);
        }
        sim.run(DEADTIME + WARNTIME);
        let verdicts = sim.notes(1, "node-dead", from);
        prop_assert_eq!(verdicts.len(), 1);
        // What was under way when it happened may have arrived up to 0.25 ms later; an answer is a
        // sign of life of the moment at which its question left.
        let latest = from.after(DEADTIME + ms(1) + Duration::from_micros(1_250));
        prop_assert!(verdicts[0].0 <= latest, "{:?} after {:?}", verdicts[0].0, from);
        prop_assert_eq!(sim.state(1, 0), NodeState::Dead);
    }

    /// (d) Stops of any length: never two owners, since who is stopped gives up before others take.
    #[test]
    fn a_stopped_owner_gives_up_before_another_takes(
        seed in any::<u64>(),
        steps in proptest::collection::vec((op(), 0..1_500_000u64), 1..20),
    ) {
        let mut sim = Sim::settled(pair(Detection::default()), seed);
        for (op, wait) in steps {
            apply(&mut sim, op);
            sim.run(Duration::from_micros(wait));
            let two = sim.since(0, Moment(0)).into_iter().find(|it| it.holders.len() > 1);
            prop_assert_eq!(two, None, "after {:?}", op);
        }
        sim.net.heal();
        (0..2).for_each(|node| sim.resume(node));
        sim.run(INITDEAD + ms(1_500));
        prop_assert_eq!(sim.serving(0).len(), 1);
        prop_assert_eq!(sim.holders(0).len(), 1);
    }
}

/// (c) The same histories with a rule switched off show mistakes: the claims above can fail.
#[test]
fn without_its_rules_the_same_histories_show_mistakes() {
    let mut runner = TestRunner::new(cases(60));
    let histories: Vec<_> =
        (0..60).map(|_| (any::<u64>(), steps()).new_tree(&mut runner).unwrap().current()).collect();
    let sum = |of: fn(Detection, u64, &[(Op, u64)]) -> usize, detection| {
        histories.iter().map(|(seed, steps)| of(detection, *seed, steps)).sum::<usize>()
    };
    let whole = Detection::default();
    assert_eq!(sum(live_through, whole) + sum(misjudge, whole), 0);
    assert!(sum(live_through, Detection { ask: false, ..whole }) > 0);
    assert!(sum(misjudge, Detection { own_pause: false, ..whole }) > 0);
}
