//! A change of how long owners hold and others wait, which nodes get one after the other.

use super::sim::{Sim, Stop};
use super::*;

const SHORT: Duration = Duration::from_secs(3);
const LONG: Duration = Duration::from_secs(10);

/// Two nodes that began with `before`; then these were reloaded with `after`, one by one.
fn reloaded((before, after): (Duration, Duration), nodes: &[usize], seed: u64) -> Sim {
    let mut config = config_manual(2, 2);
    config.cluster.daemon_deadtime = before;
    let mut sim = Sim::settled(config.clone(), seed);
    config.cluster.daemon_deadtime = after;
    for &node in nodes {
        sim.files[node] = Arc::new(config.clone());
        sim.hand_over(node);
        sim.run(SETTLE);
    }
    assert_eq!(sim.serving(0), [0], "a reload moves nothing");
    sim
}

/// Its daemon is frozen: the other node takes the group after that long, and never do both have it.
fn taken_after(mut sim: Sim, story: &str) -> Duration {
    let from = sim.now;
    sim.stop(0, Stop::Daemon);
    sim.run(LONG + SETTLE);
    let since = sim.since(0, from);
    assert!(since.iter().all(|it| it.holders.len() < 2), "{story}: {since:?}");
    let taken = since.iter().find(|it| it.holders == [1]);
    let taken = taken.unwrap_or_else(|| panic!("{story}: nobody took it: {since:?}"));
    Duration::from_nanos(taken.at.since(from) as u64)
}

/// Others count from the last turn of its driver that they were told of.
fn is_about(time: Duration, wanted: Duration) -> bool {
    time + ms(200) > wanted && time < wanted + ms(200)
}

#[test]
fn in_whatever_order_daemon_deadtime_changes_no_two_hold_a_group() {
    let orders: [&[usize]; 8] =
        [&[], &[0], &[1], &[0, 1], &[1, 0], &[0, 1, 0], &[0, 1, 1], &[1, 0, 0, 1]];
    for change in [(SHORT, LONG), (LONG, SHORT)] {
        for (seed, order) in (0..).zip(orders) {
            let story = format!("{change:?} on {order:?}");
            let waited = taken_after(reloaded(change, order, seed), &story);
            assert!(waited + ms(200) > change.0.min(change.1), "{story}: {waited:?}");
        }
    }
}

#[test]
fn a_change_holds_when_every_node_was_reloaded_twice() {
    for change in [(SHORT, LONG), (LONG, SHORT)] {
        let once = taken_after(reloaded(change, &[0, 1], 1), "once");
        assert!(is_about(once, LONG), "{change:?}: {once:?}");
        let twice = taken_after(reloaded(change, &[0, 1, 0, 1], 1), "twice");
        assert!(is_about(twice, change.1), "{change:?}: {twice:?}");
    }
}
