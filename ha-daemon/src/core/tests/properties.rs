//! Whatever happens: random operations on a small cluster, invariants after every one of them.
//!
//! [`sim`](super::sim) itself checks after every call of a core that its next deadline lies in the
//! future and that no term decreases.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::sim::{Death, Sim};
use super::*;
use crate::core::groups::FAILED_PAUSE;
use crate::core::io::Action;
use crate::core::peer::RESEND_MAX;
use crate::core::time::Moment;

/// Something that happens to the cluster. Numbers are taken modulo what there is.
#[derive(Debug, Clone, Copy)]
enum Op {
    Start(usize),
    Kill(usize, Death),
    Leave(usize),
    Interface(usize, bool),
    StartFails(usize, usize, bool),
    StopFails(usize, usize),
    ForgedClose(usize),
    HandOver(usize, u64),
    LoseControl(u8),
    Delay(u64),
    KeepRecords(bool),
    /// The rest disturbs the hearing itself.
    LoseBeats(u8),
    Pause(usize),
    Resume(usize),
    Cut(usize, usize, usize, bool),
    CutBoth(usize, usize, bool),
    Heal,
    /// Everybody hears the others again, for long enough.
    Settle,
}

fn death() -> impl Strategy<Value = Death> {
    prop_oneof![
        Just(Death::PowerCut),
        Just(Death::Obituary),
        Just(Death::Closed),
        Just(Death::ObituaryAndClosed)
    ]
}

/// What leaves every node able to hear the others.
fn calm() -> impl Strategy<Value = Op> {
    let node = 0..3usize;
    prop_oneof![
        4 => node.clone().prop_map(Op::Start),
        2 => (node.clone(), death()).prop_map(|(node, death)| Op::Kill(node, death)),
        1 => node.clone().prop_map(Op::Leave),
        5 => (node.clone(), any::<bool>()).prop_map(|(node, up)| Op::Interface(node, up)),
        1 => (node.clone(), 0..2usize, any::<bool>()).prop_map(|(n, g, on)| Op::StartFails(n, g, on)),
        1 => node.prop_map(Op::ForgedClose),
        2 => (0..3usize, 0..100u64).prop_map(|(node, gap)| Op::HandOver(node, gap)),
        1 => (0..70u8).prop_map(Op::LoseControl),
        1 => (0..4u64).prop_map(Op::Delay),
        1 => any::<bool>().prop_map(Op::KeepRecords),
    ]
}

/// Everything.
fn wild() -> impl Strategy<Value = Op> {
    let node = 0..3usize;
    let pair = (0..3usize, 0..3usize);
    prop_oneof![
        4 => calm(),
        1 => (node.clone(), 0..2usize).prop_map(|(n, g)| Op::StopFails(n, g)),
        1 => (0..60u8).prop_map(Op::LoseBeats),
        1 => node.clone().prop_map(Op::Pause),
        1 => node.prop_map(Op::Resume),
        1 => (pair.clone(), 0..2usize, any::<bool>()).prop_map(|((a, b), l, on)| Op::Cut(a, b, l, on)),
        1 => (pair, any::<bool>()).prop_map(|((a, b), on)| Op::CutBoth(a, b, on)),
        1 => Just(Op::Heal),
        1 => Just(Op::Settle),
    ]
}

/// Between two operations: less than a message travels, or long enough for something to happen.
fn pause_us() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..1_000u64, 2 => 0..10_000u64, 1 => 0..80_000u64]
}

fn every_wire(sim: &mut Sim, mut change: impl FnMut(&mut network::Fault)) {
    for from in 0..sim.config.nodes.len() {
        for to in 0..sim.config.nodes.len() {
            for link in 0..sim.config.links.len() {
                change(sim.net.fault((from, to, link)));
            }
        }
    }
}

fn apply(sim: &mut Sim, op: Op) {
    let nodes = sim.config.nodes.len();
    match op {
        Op::Start(node) => sim.start(node % nodes),
        Op::Kill(node, death) => sim.kill(node % nodes, death),
        Op::Leave(node) => sim.leave(node % nodes),
        Op::Interface(node, up) => sim.interface(node % nodes, up),
        Op::StartFails(node, group, true) => drop(sim.start_fails.insert((node % nodes, group))),
        Op::StartFails(node, group, false) => drop(sim.start_fails.remove(&(node % nodes, group))),
        Op::StopFails(node, group) => drop(sim.stop_fails.insert((node % nodes, group))),
        Op::ForgedClose(node) if sim.runs(node % nodes) => {
            let incarnation = sim.incarnation(node % nodes);
            sim.close_connections(node % nodes, incarnation);
        }
        Op::ForgedClose(_) => {}
        Op::HandOver(node, gap) => {
            sim.gap = ms(gap);
            sim.hand_over(node % nodes);
        }
        Op::LoseControl(percent) => every_wire(sim, |it| it.control_lost_percent = percent),
        Op::Delay(delay) => every_wire(sim, |it| it.delay_max = ms(delay)),
        Op::KeepRecords(keep) => sim.keep_records = keep,
        Op::LoseBeats(percent) => every_wire(sim, |it| it.beats_lost_percent = percent),
        Op::Pause(node) => sim.pause(node % nodes),
        Op::Resume(node) => sim.resume(node % nodes),
        Op::Cut(from, to, link, cut) => {
            sim.net.fault((from % nodes, to % nodes, link % sim.config.links.len())).cut = cut;
        }
        Op::CutBoth(a, b, cut) => sim.cut(a % nodes, b % nodes, cut),
        Op::Heal => sim.net.heal(),
        Op::Settle => settle(sim),
    }
}

fn settle(sim: &mut Sim) {
    sim.net.heal();
    (0..sim.config.nodes.len()).for_each(|node| sim.resume(node));
    sim.run(RESEND_MAX + SETTLE);
}

/// Everything works again, every node runs anew or still, and time enough passes.
fn recover(sim: &mut Sim) {
    sim.start_fails.clear();
    sim.stop_fails.clear();
    (0..sim.config.nodes.len()).for_each(|node| sim.interface(node, true));
    // Who is just leaving goes first; a resource that would not stop needs its operator.
    settle(sim);
    for node in 0..sim.config.nodes.len() {
        if sim.runs(node) && sim.holds_what_would_not_stop(node) {
            sim.kill(node, Death::PowerCut);
            sim.run(SETTLE);
        }
        sim.start(node);
    }
    let failed = |(_, _, action): &(Moment, usize, Action)| matches!(action, Action::Event(note) if note.kind == "resource-failed");
    sim.run(if sim.log.iter().any(failed) { FAILED_PAUSE } else { Duration::ZERO });
    sim.run(INITDEAD + SETTLE);
}

fn expect_order(sim: &Sim) -> Result<(), TestCaseError> {
    for (group, it) in sim.config.groups.iter().enumerate() {
        prop_assert_eq!(sim.serving(group), vec![it.nodes[0].0]);
        prop_assert_eq!(sim.holders(group), vec![it.nodes[0].0]);
    }
    Ok(())
}

/// The same cases every time; with `PROPTEST_CASES` so many others.
fn settings() -> ProptestConfig {
    let default = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => default,
        None => ProptestConfig { cases: 100, rng_seed: RngSeed::Fixed(0x4841), ..default },
    }
}

proptest! {
    #![proptest_config(settings())]

    /// As long as nodes hear each other, there are never two owners, not even for a moment,
    /// whatever becomes of control messages, daemons, interfaces and connections.
    #[test]
    fn who_hears_the_others_never_owns_what_another_owns(
        nodes in 2..4usize,
        seed in any::<u64>(),
        steps in proptest::collection::vec((calm(), pause_us()), 1..40),
    ) {
        let mut sim = Sim::settled(config(nodes, 2, 2), seed);
        for (op, wait) in steps {
            apply(&mut sim, op);
            sim.run(Duration::from_micros(wait));
            for group in 0..2 {
                let two = sim.since(group, Moment(0)).into_iter().find(|it| it.holders.len() > 1);
                prop_assert_eq!(two, None, "after {:?}", op);
            }
        }
        recover(&mut sim);
        expect_order(&sim)?;
    }

    /// Cuts, losses and pauses may lead to two owners (no arbiter, on_doubt = take); once they are
    /// over for long enough there is one, and in the end it is the preferred one.
    #[test]
    fn whatever_happened_it_ends_in_order(
        nodes in 2..4usize,
        seed in any::<u64>(),
        hold in any::<bool>(),
        steps in proptest::collection::vec((wild(), pause_us()), 1..40),
    ) {
        let mut config = config(nodes, 2, 2);
        config.cluster.on_doubt = if hold { OnDoubt::Hold } else { OnDoubt::Take };
        let mut sim = Sim::settled(config, seed);
        for (op, wait) in steps {
            apply(&mut sim, op);
            for group in (0..2).filter(|_| matches!(op, Op::Settle) && sim.stop_fails.is_empty()) {
                prop_assert!(sim.holders(group).len() < 2, "group {}", group);
            }
            sim.run(Duration::from_micros(wait));
        }
        recover(&mut sim);
        expect_order(&sim)?;
        let letters = sim.letters;
        sim.run(ms(3000));
        prop_assert_eq!(sim.letters, letters, "silence");
    }

    /// With nobody silent but by death, what is held in doubt is never owned twice.
    #[test]
    fn on_doubt_hold_never_makes_two_owners_among_nodes_that_had_heard_each_other(
        seed in any::<u64>(),
        steps in proptest::collection::vec((0..2usize, any::<bool>(), 0..80u64), 1..20),
    ) {
        let mut config = config(2, 2, 2);
        config.cluster.on_doubt = OnDoubt::Hold;
        let mut sim = Sim::settled(config, seed);
        for (node, cut, wait) in steps {
            apply(&mut sim, if cut { Op::CutBoth(0, 1, wait % 2 == 0) } else { Op::Pause(node) });
            sim.run(ms(wait));
            sim.resume(node);
            for group in 0..2 {
                let two = sim.since(group, Moment(0)).into_iter().find(|it| it.holders.len() > 1);
                prop_assert_eq!(two, None);
            }
        }
        recover(&mut sim);
        expect_order(&sim)?;
    }
}
