//! A program takes over from another one, with the same configuration or a changed one.

use proptest::prelude::*;

use super::sim::{Death, Sim};
use super::*;
use crate::config::{GroupIndex, LinkIndex, NodeIndex};
use crate::core::io::{Action, Input};
use crate::core::restart::RESTART_GRACE;
use crate::core::time::Moment;
use crate::snapshot::NodeState;

/// Kinds of notes that tell of trouble with a peer or a group.
const TROUBLE: [&str; 9] = [
    "node-late",
    "node-dead",
    "daemon-gone",
    "node-left",
    "node-restarted",
    "link-dead",
    "takeover",
    "group-stopped",
    "double-owner",
];

fn trouble(sim: &Sim, from: Moment) -> Vec<(usize, String)> {
    let nodes = 0..sim.config.nodes.len();
    let notes = nodes.flat_map(|node| {
        let kinds = TROUBLE.iter();
        kinds.flat_map(move |kind| {
            sim.notes(node, kind, from).into_iter().map(move |(_, note)| (node, note.message))
        })
    });
    notes.collect()
}

fn handed_over(sim: &Sim, node: usize, from: Moment) -> usize {
    let handed = |(at, by, action): &&(Moment, usize, Action)| {
        *at >= from && *by == node && *action == Action::HandOver
    };
    sim.log.iter().filter(handed).count()
}

fn with_groups(groups: usize) -> Arc<Config> {
    Arc::new(config(2, 2, groups))
}

/// Without leases, pauses of them and custody, as a version wrote it that did not have them.
#[test]
fn what_an_earlier_version_handed_over_is_read_and_nobody_is_stale_by_it() {
    let sim = Sim::settled(config(3, 2, 1), 1);
    let mut memory = serde_json::to_value(sim.core(0).remember()).unwrap();
    assert!(memory.as_object_mut().unwrap().remove("lapsed_at").is_some());
    for peer in memory["peers"].as_object_mut().unwrap().values_mut() {
        for field in ["lease", "custody"] {
            assert!(peer.as_object_mut().unwrap().remove(field).is_some(), "{field}");
        }
    }
    // These are read by the names that they have: the first version with them wrote one by one.
    let count = memory["groups"].as_object().unwrap().len();
    for field in ["service_failures", "service_failed_at", "leaves", "avoidance", "monitors"] {
        let groups = memory["groups"].as_object_mut().unwrap().values_mut();
        let removed = groups.filter_map(|group| group.as_object_mut()?.remove(field)).count();
        assert_eq!(removed, count, "{field}");
    }
    let memory = serde_json::from_value(memory).unwrap();
    let mut resumed = Core::resume(Arc::clone(&sim.config), NodeIndex(0), memory, sim.now);
    assert!(resumed.peers().values().all(|peer| peer.lease == sim.now));
    // The window after the change of programs is over; its peers are heard, and say nothing new.
    let now = sim.now.after(DEADTIME);
    let seen = |peer| Sighting {
        peer: NodeIndex(peer),
        link: LinkIndex(0),
        observation: Observation {
            last_seen: now,
            incarnation: sim.incarnation(peer),
            phase: ha_common::wire::Phase::Active as u8,
            lease_age_ms: u32::from(u16::MAX),
            ..Observation::default()
        },
    };
    resumed.handle(Input::Observed(vec![seen(1), seen(2)]), now);
    assert!(resumed.peers().values().all(|peer| peer.state == NodeState::Up));
}

proptest! {
    #![proptest_config(cases(256))]

    /// At any moment, whoever owns what: nothing changes at anybody, terms included.
    #[test]
    fn a_hand_over_is_no_event_at_the_peers(
        seed in any::<u64>(),
        nodes in 2..4usize,
        steps in proptest::collection::vec((0..3usize, 1..500u64, 0..120_000u64), 1..12),
    ) {
        let mut sim = Sim::settled(config(nodes, 2, 2), seed);
        let from = sim.now;
        let terms: Vec<u64> = (0..2).map(|g| sim.core(0).group(GroupIndex(g)).term).collect();
        for (node, gap, wait_us) in steps {
            sim.gap = ms(gap);
            sim.hand_over(node % nodes);
            sim.run(Duration::from_micros(wait_us));
        }
        sim.run(ms(1_500));
        prop_assert_eq!(trouble(&sim, from), vec![]);
        for (group, before) in terms.iter().enumerate() {
            prop_assert_eq!(sim.since(group, from), vec![]);
            for node in 0..nodes {
                prop_assert_eq!(&sim.core(node).group(GroupIndex(group)).term, before);
            }
        }
        let letters = sim.letters;
        sim.run(ms(3000));
        prop_assert_eq!(sim.letters, letters, "silence");
    }
}

#[test]
fn what_was_remembered_is_remembered_again() {
    let mut sim = Sim::settled(config(3, 2, 2), 1);
    sim.interface(2, false);
    sim.run(ms(50));
    for node in 0..3 {
        let memory = sim.core(node).remember();
        let resumed =
            Core::resume(Arc::clone(&sim.config), NodeIndex(node), memory.clone(), sim.now);
        assert_eq!(resumed.remember(), memory);
    }
}

#[test]
fn a_peer_that_does_not_come_back_is_dead_after_its_grace() {
    for seed in 0..20 {
        let mut sim = Sim::settled(config(2, 2, 1), seed);
        sim.gap = ms(5_000);
        sim.hand_over(0);
        sim.run(ms(5));
        assert_eq!(sim.state(1, 0), NodeState::Restarting);
        let since = sim.core(1).peers()[&NodeIndex(0)].restart.unwrap().since;
        sim.kill(0, Death::PowerCut);
        sim.run(RESTART_GRACE - ms(10));
        assert_eq!(sim.notes(1, "node-dead", since), [], "seed {seed}");
        sim.run(ms(50));
        let verdicts = sim.notes(1, "node-dead", since);
        let [(at, note)] = verdicts.as_slice() else { panic!("one verdict: {verdicts:?}") };
        assert_eq!(*at, since.after(RESTART_GRACE));
        assert!(note.message.contains("did not come back from its restart"), "{}", note.message);
        assert_eq!(sim.serving(0), [1]);
    }
}

#[test]
fn an_obituary_ends_the_grace_and_a_closed_connection_does_not() {
    for (death, owner) in [(Death::Obituary, vec![1]), (Death::Closed, vec![])] {
        let mut sim = Sim::settled(config(2, 2, 1), 3);
        sim.gap = ms(5_000);
        sim.hand_over(0);
        sim.run(ms(5));
        sim.kill(0, death);
        sim.run(ms(200));
        assert_eq!(sim.serving(0), owner, "{death:?}");
    }
    let mut sim = Sim::settled(config(2, 2, 1), 3);
    let from = sim.now;
    sim.gap = ms(500);
    sim.hand_over(0);
    sim.run(ms(5));
    sim.close_connections(0, sim.incarnation(0));
    sim.run(ms(1_000));
    assert_eq!(trouble(&sim, from), vec![]);
}

#[test]
fn who_says_it_again_and_again_gets_one_grace() {
    let mut sim = Sim::settled(config(2, 1, 1), 5);
    sim.gap = ms(5_000);
    sim.hand_over(0);
    sim.run(ms(5));
    let until = sim.core(1).peers()[&NodeIndex(0)].restart.unwrap().until;
    // As if its new program had started to beat and got no further.
    for _ in 0..90 {
        sim.beat_all(0);
        sim.run(KEEPALIVE);
    }
    assert_eq!(sim.core(1).peers()[&NodeIndex(0)].restart.unwrap().until, until);
    assert_eq!(sim.state(1, 0), NodeState::Restarting);
    for _ in 0..20 {
        sim.beat_all(0);
        sim.run(KEEPALIVE);
    }
    assert_eq!(sim.state(1, 0), NodeState::Dead, "a daemon that beats and does not run is none");
}

#[test]
fn a_starting_node_gets_no_grace() {
    let mut sim = Sim::new(config(2, 1, 1), 7);
    sim.start(1);
    sim.start(0);
    sim.hand_over(0);
    sim.run(ms(3));
    let peer = &sim.core(1).peers()[&NodeIndex(0)];
    assert_eq!(peer.restart, None);
}

/// The group is claimed all the time, and what both configurations have is not touched.
#[test]
fn a_changed_group_changes_where_it_is() {
    for seed in 0..20 {
        let mut sim = Sim::settled(config(2, 2, 1), seed);
        let from = sim.now;
        let mut changed = config(2, 2, 1);
        changed.groups[0].resources[1] = Resource::Address {
            address: "198.51.0.77/24".parse().unwrap(),
            interface: "eth0".parse().unwrap(),
            label: None,
            broadcast: None,
        };
        sim.files = [0, 1].map(|_| Arc::new(changed.clone())).to_vec();
        sim.hand_over(0);
        sim.run(ms(100));
        assert_eq!(handed_over(&sim, 0, from), 1);
        assert_eq!(sim.serving(0), [0]);
        for holding in sim.since(0, from) {
            assert_eq!(holding.holders, [0], "seed {seed}");
        }
        let touched: Vec<&Action> = sim
            .log
            .iter()
            .filter(|(at, ..)| *at >= from)
            .map(|it| &it.2)
            .filter(|it| matches!(it, Action::StartResource { .. } | Action::StopResource { .. }))
            .collect();
        let group = GroupIndex(0);
        assert_eq!(
            touched,
            [
                &Action::StopResource { group, resource: 1 },
                &Action::StartResource { group, resource: 1 }
            ]
        );
        assert_eq!(sim.notes(1, "takeover", from), []);
        sim.hand_over(1);
        sim.run(ms(200));
        assert_eq!(sim.serving(0), [0]);
    }
}

#[test]
fn what_cannot_be_stopped_ends_the_hand_over_and_nothing_else() {
    let mut sim = Sim::settled(config(2, 2, 1), 9);
    let from = sim.now;
    let mut changed = config(2, 2, 1);
    changed.groups[0].resources.pop();
    sim.files[0] = Arc::new(changed);
    sim.stop_fails.insert((0, 0));
    sim.hand_over(0);
    sim.run(ms(100));
    assert_eq!(handed_over(&sim, 0, from), 0);
    let failed = sim.log.iter().find_map(|(_, _, action)| {
        if let Action::HandOverFailed(reason) = action { Some(reason.clone()) } else { None }
    });
    assert!(failed.unwrap().contains("198.51.0.2/24 of group g0"));
    assert_eq!(sim.state(1, 0), NodeState::Up);
    assert_eq!(sim.holders(0), [0]);
}

/// One node after the other reads a configuration with one group more, or less.
#[test]
fn a_rolling_reload_never_makes_two_owners() {
    for seed in 0..40 {
        for (before, after) in [(1, 2), (2, 1)] {
            for order in [[0, 1], [1, 0]] {
                let mut sim = Sim::new(config(2, 2, 2), seed);
                sim.files = vec![with_groups(before); 2];
                (0..2).for_each(|node| sim.start(node));
                sim.run(SETTLE + INITDEAD);
                assert_eq!(sim.holders(1), if before == 2 { vec![1] } else { vec![] });
                let from = sim.now;
                sim.files = vec![with_groups(after); 2];
                for node in order {
                    sim.hand_over(node);
                    sim.run(ms(60 + seed * 7));
                }
                sim.run(ms(500));
                assert_eq!(sim.holders(0), [0]);
                assert_eq!(sim.since(0, from), [], "the other group is not touched");
                let two = sim.since(1, from).into_iter().find(|it| it.holders.len() > 1);
                assert_eq!(two, None, "seed {seed}, {before} to {after}, {order:?}");
                // Whoever has the group in its file last may own it; with both, the preferred one.
                assert_eq!(sim.holders(1), if after == 2 { vec![1] } else { vec![] });
            }
        }
    }
}

#[test]
fn a_new_link_is_used_and_an_old_one_forgotten() {
    let mut sim = Sim::new(config(2, 2, 1), 11);
    let one = Arc::new(config(2, 1, 1));
    sim.files = vec![one; 2];
    (0..2).for_each(|node| sim.start(node));
    sim.run(SETTLE + INITDEAD);
    let from = sim.now;
    sim.files = [0, 1].map(|_| with_groups(1)).to_vec();
    for node in 0..2 {
        sim.hand_over(node);
        sim.run(ms(100));
    }
    assert_eq!(trouble(&sim, from), vec![]);
    for (node, peer) in [(0, 1), (1, 0)] {
        let links = &sim.core(node).peers()[&NodeIndex(peer)].links;
        assert_eq!(links.len(), 2);
        assert!(links.values().all(|it| it.state() == crate::snapshot::LinkState::Up));
    }
}
