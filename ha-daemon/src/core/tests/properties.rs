//! Whatever happens: random operations on a small cluster, invariants after every one of them.
//!
//! [`sim`](super::sim) itself checks after every call of a core that its next deadline lies in the
//! future and that no term decreases.

use proptest::prelude::*;

use super::connectivity::pinged;
use super::sim::{Death, Sim};
use super::*;
use crate::config::{GroupIndex, Recovery, RecoveryPolicy};
use crate::core::command::{Command, Standby, Which};
use crate::core::io::{Action, Health};
use crate::core::message::Wish;
use crate::core::ownership::FAILED_PAUSE;
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
    /// The services of a group fail there: once, without an answer, or whenever they run.
    Sicken(usize, usize, Sickness),
    ForgedClose(usize),
    HandOver(usize, u64),
    LoseControl(u8),
    Delay(u64),
    KeepRecords(bool),
    /// What a node reaches; nothing where there are no targets.
    Ping(usize, usize, bool),
    /// An operator at that node.
    Command(usize, Command),
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

#[derive(Debug, Clone, Copy)]
enum Sickness {
    Down,
    Unclear,
    Chronic,
    Cured,
}

fn sickness() -> impl Strategy<Value = Sickness> {
    prop_oneof![
        Just(Sickness::Down),
        Just(Sickness::Unclear),
        Just(Sickness::Chronic),
        Just(Sickness::Cured)
    ]
}

fn death() -> impl Strategy<Value = Death> {
    prop_oneof![
        Just(Death::PowerCut),
        Just(Death::Obituary),
        Just(Death::Closed),
        Just(Death::ObituaryAndClosed)
    ]
}

fn command() -> impl Strategy<Value = Command> {
    let group = || (0..2usize).prop_map(GroupIndex);
    let node = || (0..3usize).prop_map(NodeIndex);
    let standby = || prop_oneof![Just(Standby::On), Just(Standby::Off)];
    let which = || {
        prop_oneof![
            Just(Which::All),
            Just(Which::Local),
            Just(Which::Foreign),
            Just(Which::Failback)
        ]
    };
    prop_oneof![
        4 => (group(), proptest::option::of(node()))
            .prop_map(|(group, to)| Command::Relocate { group, to }),
        2 => group().prop_map(Command::Enable),
        1 => group().prop_map(Command::Disable),
        2 => (node(), standby()).prop_map(|(node, standby)| Command::Standby { node, standby }),
        1 => which().prop_map(Command::GiveUp),
        1 => which().prop_map(Command::TakeOver),
    ]
}

fn within(command: Command, nodes: usize) -> Command {
    let within = |node: NodeIndex| NodeIndex(node.0 % nodes);
    match command {
        Command::Relocate { group, to } => Command::Relocate { group, to: to.map(within) },
        Command::Standby { node, standby } => Command::Standby { node: within(node), standby },
        Command::Enable(_) | Command::Disable(_) | Command::GiveUp(_) | Command::TakeOver(_) => {
            command
        }
    }
}

/// Nodes that hear each other agree on every wish, and the operators' last word holds: what may
/// run runs where it is wished, or where the configuration wants it.
fn expect_agreement(sim: &Sim) -> Result<(), TestCaseError> {
    let running: Vec<usize> = (0..sim.config.nodes.len()).filter(|node| sim.runs(*node)).collect();
    for group in (0..sim.config.groups.len()).map(GroupIndex) {
        let wishes: Vec<Wish> = running.iter().map(|node| sim.core(*node).wish(group)).collect();
        prop_assert!(wishes.windows(2).all(|it| it[0] == it[1]), "{:?}: {:?}", group, wishes);
    }
    for (a, b) in running.iter().flat_map(|a| running.iter().map(move |b| (*a, *b))) {
        let standby = |node: usize| sim.core(node).on_standby(NodeIndex(b));
        prop_assert_eq!(standby(a), standby(b), "n{} of n{}", a, b);
    }
    Ok(())
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
        2 => (0..3usize, 0..2usize, any::<bool>()).prop_map(|(n, t, on)| Op::Ping(n, t, on)),
        6 => (0..3usize, command()).prop_map(|(node, command)| Op::Command(node, command)),
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
        Op::Sicken(node, group, sickness) => sicken(sim, node % nodes, group, sickness),
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
        Op::Ping(node, target, reached) => {
            let targets = sim.config.connectivity.targets.len();
            if targets > 0 {
                sim.ping(node % nodes, target % targets, reached);
            }
        }
        Op::Command(node, command) => drop(sim.command(node % nodes, within(command, nodes))),
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

fn sicken(sim: &mut Sim, node: usize, group: usize, sickness: Sickness) {
    let cause = "it does not run".to_owned();
    match sickness {
        Sickness::Down => sim.sicken(node, group, 1, Health::Failed { cause }),
        Sickness::Unclear => sim.sicken(node, group, 0, Health::NoAnswer { cause }),
        Sickness::Chronic => drop(sim.sickening.insert((node, group))),
        Sickness::Cured => drop(sim.sickening.remove(&(node, group))),
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
    sim.sickening.clear();
    sim.sick.clear();
    for node in 0..sim.config.nodes.len() {
        for target in 0..sim.config.connectivity.targets.len() {
            sim.ping(node, target, true);
        }
    }
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

/// Operators take back what they wished.
fn take_back(sim: &mut Sim) {
    for node in 0..sim.config.nodes.len() {
        let standby = Command::Standby { node: NodeIndex(node), standby: Standby::Off };
        assert!(sim.command(node, standby).unwrap().is_ok());
    }
    for group in 0..sim.config.groups.len() {
        assert!(sim.command(group % 2, Command::Enable(GroupIndex(group))).unwrap().is_ok());
    }
    sim.run(SETTLE);
}

/// Where a group belongs: nowhere, where it is wished, or first by preference off standby.
fn expected_owner(sim: &Sim, group: GroupIndex) -> Option<usize> {
    let core = sim.core(0);
    let nodes = &sim.config.groups[group.0].nodes;
    let wished = core.wished(group).into_iter().chain(nodes.iter().copied());
    let off_standby = |node: &NodeIndex| !core.on_standby(*node);
    match core.wish(group) {
        Wish::Disabled => None,
        Wish::None | Wish::Candidate(_) => {
            wished.clone().find(off_standby).or(wished.clone().next()).map(|it| it.0)
        }
    }
}

/// After the world has recovered and before operators take anything back.
fn expect_wishes(sim: &Sim) -> Result<(), TestCaseError> {
    expect_agreement(sim)?;
    let all_on_standby =
        (0..sim.config.nodes.len()).all(|node| sim.core(0).on_standby(NodeIndex(node)));
    for group in (0..sim.config.groups.len()).map(GroupIndex) {
        let owner = expected_owner(sim, group);
        let serving = sim.serving(group.0);
        if all_on_standby && owner.is_some() {
            // It stays wherever it was.
            prop_assert_eq!(serving.len(), 1);
        } else {
            prop_assert_eq!(serving, owner.into_iter().collect::<Vec<_>>());
        }
        prop_assert!(sim.holders(group.0).len() < 2);
    }
    Ok(())
}

fn expect_order(sim: &Sim) -> Result<(), TestCaseError> {
    for (group, it) in sim.config.groups.iter().enumerate() {
        prop_assert_eq!(sim.serving(group), vec![it.nodes[0].0]);
        prop_assert_eq!(sim.holders(group), vec![it.nodes[0].0]);
    }
    Ok(())
}

fn expect_never_two(sim: &Sim, op: Op) -> Result<(), TestCaseError> {
    for group in 0..2 {
        let two = sim.since(group, Moment(0)).into_iter().find(|it| it.holders.len() > 1);
        prop_assert_eq!(two, None, "after {:?}", op);
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(100))]

    /// As long as nodes hear each other, there are never two owners, not even for a moment,
    /// whatever becomes of control messages, daemons, interfaces and connections.
    #[test]
    fn who_hears_the_others_never_owns_what_another_owns(
        nodes in 2..4usize,
        targets in 0..3usize,
        seed in any::<u64>(),
        steps in proptest::collection::vec((calm(), pause_us()), 1..40),
    ) {
        let mut sim = Sim::settled(pinged(config(nodes, 2, 2), targets), seed);
        for (op, wait) in steps {
            apply(&mut sim, op);
            sim.run(Duration::from_micros(wait));
            expect_never_two(&sim, op)?;
        }
        recover(&mut sim);
        expect_wishes(&sim)?;
        take_back(&mut sim);
        expect_order(&sim)?;
    }

    /// The same where services fail and are recovered, by whatever policy.
    #[test]
    fn a_recovery_never_makes_two_owners(
        nodes in 2..4usize,
        seed in any::<u64>(),
        policy in prop_oneof![
            3 => Just(RecoveryPolicy::Restart),
            2 => Just(RecoveryPolicy::Relocate),
            1 => Just(RecoveryPolicy::Disable)
        ],
        restarts in 0..3u32,
        work_ms in prop_oneof![Just(2u64), Just(200)],
        steps in proptest::collection::vec(
            (
                prop_oneof![
                    1 => calm(),
                    1 => (0..3usize, 0..2usize, sickness()).prop_map(|(n, g, how)| Op::Sicken(n, g, how)),
                ],
                0..80_000u64,
            ),
            1..40,
        ),
    ) {
        let mut config = config(nodes, 2, 2);
        for group in &mut config.groups {
            group.recovery = Recovery { policy, restarts, window: ms(2_000) };
            group.monitors = vec![Some(ms(30)), Some(ms(20))];
        }
        let mut sim = Sim::settled(config, seed);
        sim.work_max = ms(work_ms);
        for (op, wait) in steps {
            apply(&mut sim, op);
            sim.run(Duration::from_micros(wait));
            expect_never_two(&sim, op)?;
        }
        sim.work_max = ms(2);
        recover(&mut sim);
        sim.run(ms(800));
        expect_agreement(&sim)?;
        // Pauses after many failures are long; an operator at each node ends them.
        for (node, group) in (0..nodes).flat_map(|node| [(node, 0), (node, 1)]) {
            assert!(sim.command(node, Command::Enable(GroupIndex(group))).unwrap().is_ok());
        }
        take_back(&mut sim);
        expect_order(&sim)?;
        prop_assert!((0..nodes).all(|node| sim.core(node).services_well()));
    }

    /// While the service network carries questions and answers, heartbeats that do not arrive never
    /// make two owners, whichever get lost and whatever dies, starts or reaches a ping target.
    #[test]
    fn with_ping_targets_lost_heartbeats_alone_never_make_two_owners(
        nodes in 2..4usize,
        seed in any::<u64>(),
        steps in proptest::collection::vec((wild(), 0..400_000u64), 1..30),
    ) {
        let mut sim = Sim::settled(pinged(config(nodes, 2, 2), 1), seed);
        for (op, wait) in steps {
            // Who does not run answers nothing in time, and a forged close is a peer's own word.
            if !matches!(op, Op::Pause(_) | Op::ForgedClose(_) | Op::StopFails(..)) {
                apply(&mut sim, op);
            }
            sim.run(Duration::from_micros(wait));
            expect_never_two(&sim, op)?;
        }
        recover(&mut sim);
        expect_wishes(&sim)?;
        take_back(&mut sim);
        expect_order(&sim)?;
    }

    /// Cuts, losses and pauses may lead to two owners (no arbiter, on_doubt = take); once they are
    /// over for long enough there is one, and in the end it is the preferred one.
    #[test]
    fn whatever_happened_it_ends_in_order(
        nodes in 2..4usize,
        targets in 0..3usize,
        seed in any::<u64>(),
        hold in any::<bool>(),
        steps in proptest::collection::vec((wild(), pause_us()), 1..40),
    ) {
        let mut config = pinged(config(nodes, 2, 2), targets);
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
        expect_wishes(&sim)?;
        take_back(&mut sim);
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
        expect_wishes(&sim)?;
        take_back(&mut sim);
        expect_order(&sim)?;
    }
}
