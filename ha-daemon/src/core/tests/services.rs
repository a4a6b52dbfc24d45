//! Services: what an earlier daemon left, starts that fail again and again, a leave that waits.

use super::sim::{Death, Sim};
use super::starts::holders_since;
use super::*;
use crate::config::{Failback, GroupIndex};
use crate::core::LEAVE_WAIT_MAX;
use crate::core::io::{Action, Input, Presence};
use crate::core::ownership::{FAILED_PAUSE, FAILED_PAUSE_MAX};
use crate::core::time::Moment;
use crate::snapshot::ResourceState;

const GROUP: GroupIndex = GroupIndex(0);

#[test]
fn a_group_with_a_service_starts_and_moves_like_any_other() {
    for seed in 0..10 {
        let mut sim = Sim::settled(config_services(2, 2, 2), seed);
        assert_eq!((sim.serving(0), sim.serving(1)), (vec![0], vec![1]), "seed {seed}");
        sim.kill(0, Death::PowerCut);
        sim.run(SETTLE);
        assert_eq!(sim.serving(0), [1]);
        assert!(sim.notes(1, "resource-leftover", Moment(0)).is_empty());
        assert!(sim.notes(1, "group-stopped", Moment(0)).is_empty());
    }
}

/// The service of a killed daemon goes on; the peer starts its own; the next start stops the first.
#[test]
fn what_a_killed_daemon_left_is_stopped_before_the_node_takes_part() {
    for seed in 0..20 {
        let mut sim = Sim::settled(config_services(2, 2, 1), seed);
        sim.kill(0, Death::ObituaryAndClosed);
        sim.run(SETTLE);
        assert_eq!(sim.serving(0), [1], "seed {seed}");
        assert_eq!(sim.holders(0), [0, 1], "seed {seed}: the service goes on");
        let from = sim.now;
        sim.start(0);
        sim.run(SETTLE);
        assert_eq!(sim.notes(0, "resource-leftover", from).len(), 1);
        assert_eq!(sim.serving(0), [0], "seed {seed}");
        let holders = holders_since(&sim, 0, from);
        assert_eq!(holders, [vec![1], vec![], vec![0]], "seed {seed}");
    }
}

/// Its peer has not noticed the death, and must not take what runs there.
#[test]
fn what_is_left_is_claimed_until_it_is_stopped() {
    for seed in 0..20 {
        let mut sim = Sim::settled(config_services(2, 2, 1), seed);
        sim.stop_fails.insert((0, 0));
        let from = sim.now;
        sim.kill(0, Death::Closed);
        sim.start(0);
        sim.run(SETTLE);
        assert_eq!(sim.holders(0), [0], "seed {seed}");
        assert!(holders_since(&sim, 0, from).iter().all(|it| !it.contains(&1)), "seed {seed}");
        assert_eq!(sim.notes(0, "group-stuck", from).len(), 1, "seed {seed}");
        sim.stop_fails.clear();
        sim.run(FAILED_PAUSE);
        assert_eq!(sim.serving(0), [0], "seed {seed}");
        assert!(holders_since(&sim, 0, from).iter().all(|it| !it.contains(&1)), "seed {seed}");
    }
}

fn probed(resource: usize, presence: Presence) -> Input {
    Input::ResourceProbed { group: GROUP, resource, presence }
}

/// A core of one node whose group is two services.
fn alone() -> (Core, Moment, Vec<Action>) {
    let mut config = config_services(1, 1, 1);
    let service = config.groups[0].resources.pop().unwrap();
    config.groups[0].resources = vec![service.clone(), service];
    let now = Moment(1_000_000_000);
    let mut core = Core::new(Arc::new(config), NodeIndex(0), 1, now);
    let actions = core.handle(Input::Observed(vec![]), now);
    (core, now, actions)
}

#[test]
fn nothing_is_started_or_stopped_before_everything_was_probed() {
    let (mut core, now, actions) = alone();
    let probes = [0, 1].map(|resource| Action::ProbeResource { group: GROUP, resource });
    assert!(probes.iter().all(|probe| actions.iter().filter(|it| *it == probe).count() == 1));
    let moves = |actions: &[Action]| {
        let is_move =
            |it: &&Action| matches!(it, Action::StartResource { .. } | Action::StopResource { .. });
        actions.iter().filter(is_move).cloned().collect::<Vec<_>>()
    };
    assert_eq!(moves(&actions), []);
    assert_eq!(core.group(GROUP).resources, [ResourceState::Unknown; 2]);
    let cause = "it hangs".to_owned();
    assert_eq!(moves(&core.handle(probed(1, Presence::Unclear { cause }), now)), []);
    // Once more is no news.
    assert_eq!(moves(&core.handle(probed(1, Presence::Absent), now)), []);
    let actions = core.handle(probed(0, Presence::Here), now);
    assert_eq!(moves(&actions), [Action::StopResource { group: GROUP, resource: 1 }]);
    let stopped = |resource| Input::ResourceStopped { group: GROUP, resource, error: None };
    let actions = core.handle(stopped(1), now);
    assert_eq!(moves(&actions), [Action::StopResource { group: GROUP, resource: 0 }]);
    let actions = core.handle(stopped(0), now);
    assert_eq!(moves(&actions), [Action::StartResource { group: GROUP, resource: 0 }]);
}

#[test]
fn a_service_whose_start_failed_is_stopped_with_the_rest() {
    let (mut core, now, _) = alone();
    core.handle(probed(0, Presence::Absent), now);
    core.handle(probed(1, Presence::Absent), now);
    let started = |resource, error| Input::ResourceStarted { group: GROUP, resource, error };
    core.handle(started(0, None), now);
    let actions = core.handle(started(1, Some("exit code 1".to_owned())), now);
    assert!(actions.contains(&Action::StopResource { group: GROUP, resource: 1 }), "{actions:?}");
}

/// A preferred node that cannot start a group interrupts it less and less often.
#[test]
fn the_pause_after_a_failed_start_grows_and_a_success_resets_it() {
    let mut config = config_services(2, 1, 1);
    config.groups[0].failback = Failback::Auto;
    // Forty minutes: few heartbeats.
    config.cluster.keepalive = Duration::from_millis(100);
    config.cluster.warntime = Duration::from_millis(250);
    config.cluster.deadtime = Duration::from_millis(400);
    let mut sim = Sim::settled(config, 3);
    let from = sim.now;
    sim.start_fails.insert((0, 0));
    sim.kill(0, Death::PowerCut);
    sim.run(SETTLE);
    sim.start(0);
    sim.run(FAILED_PAUSE_MAX * 3);
    assert_eq!(sim.serving(0), [1]);
    let failed = sim.notes(0, "resource-failed", from);
    let pauses: Vec<u64> =
        failed.windows(2).map(|two| two[1].0.since(two[0].0) as u64 / 1_000_000_000).collect();
    assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 600]);
    sim.start_fails.clear();
    sim.run(FAILED_PAUSE_MAX);
    assert_eq!(sim.serving(0), [0]);
    sim.start_fails.insert((0, 0));
    let (from, incarnation) = (sim.now, sim.incarnation(0));
    let cause = "it went away".to_owned();
    sim.report(0, incarnation, Input::ResourceLost { group: GROUP, resource: 0, cause });
    sim.run(FAILED_PAUSE);
    assert_eq!(sim.notes(0, "resource-failed", from).len(), 1);
    sim.run(SETTLE);
    assert_eq!(sim.notes(0, "resource-failed", from).len(), 2, "the first pause is short again");
}

#[test]
fn a_leave_waits_for_a_service_to_stop_as_long_as_it_takes() {
    let (mut core, now, _) = alone();
    let stop = |resource| Action::StopResource { group: GROUP, resource };
    core.handle(probed(0, Presence::Absent), now);
    core.handle(probed(1, Presence::Absent), now);
    for resource in 0..2 {
        core.handle(Input::ResourceStarted { group: GROUP, resource, error: None }, now);
    }
    assert!(core.handle(Input::Shutdown, now).contains(&stop(1)));
    let mut late = now;
    for _ in 0..100 {
        late = late.after(LEAVE_WAIT_MAX);
        assert!(!core.handle(Input::Observed(vec![]), late).contains(&Action::Exit));
        assert!(core.deadline().unwrap() > late);
    }
    let stopped = |resource| Input::ResourceStopped { group: GROUP, resource, error: None };
    assert!(core.handle(stopped(1), late).contains(&stop(0)));
    assert!(core.handle(stopped(0), late).contains(&Action::Exit));
}

#[test]
fn a_leave_does_not_wait_for_a_service_that_cannot_be_stopped() {
    let (mut core, now, _) = alone();
    core.handle(probed(0, Presence::Absent), now);
    core.handle(probed(1, Presence::Here), now);
    core.handle(Input::Shutdown, now);
    let error = Some("exit code 1".to_owned());
    core.handle(Input::ResourceStopped { group: GROUP, resource: 1, error }, now);
    let actions = core.handle(Input::Observed(vec![]), now.after(LEAVE_WAIT_MAX));
    assert!(actions.contains(&Action::Exit));
    assert!(
        actions.iter().any(|it| matches!(it, Action::Event(note) if note.kind == "left-behind"))
    );
    assert!(!core.all_released());
}

/// Its script is not even installed there.
#[test]
fn a_node_that_is_no_candidate_asks_for_nothing() {
    let mut config = config_services(3, 1, 1);
    config.groups[0].nodes = vec![NodeIndex(0), NodeIndex(1)];
    let now = Moment(1_000_000_000);
    let mut core = Core::new(Arc::new(config), NodeIndex(2), 1, now);
    let actions = core.handle(Input::Observed(vec![]), now);
    assert!(!actions.iter().any(|it| matches!(it, Action::ProbeResource { .. })), "{actions:?}");
    assert!(core.all_released());
}
