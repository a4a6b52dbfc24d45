//! Services that fail while they run: restart, relocation, disabling, and who is left to run the group.

use std::collections::BTreeMap;

use super::sim::{Death, Sim};
use super::starts::holders_since;
use super::*;
use crate::config::{GroupIndex, RESTART_WINDOW_DEFAULT, Recovery, RecoveryPolicy};
use crate::core::command::Command;
use crate::core::io::{Action, Health, Input, PauseSign, Presence};
use crate::core::message::Wish;
use crate::core::ownership::FAILED_PAUSE;
use crate::core::recovery::NO_ANSWER_MAX;
use crate::core::resume::HAND_OVER_WAIT_MAX;
use crate::core::time::Moment;
use crate::snapshot::{GroupState, ResourceState};

const GROUP: GroupIndex = GroupIndex(0);
/// Positions of the services.
const HTTPD: usize = 2;
const SQUID: usize = 3;
/// A status is asked and answered within this, and the group restarted.
const ROUND: Duration = Duration::from_millis(1_300);

fn recovering(policy: RecoveryPolicy, restarts: u32) -> Config {
    let mut config = config_monitored(2, 2);
    config.groups[0].recovery = Recovery { policy, restarts, window: RESTART_WINDOW_DEFAULT };
    config
}

/// What a node did with its resources.
fn work(sim: &Sim, node: usize, from: Moment) -> Vec<(&'static str, usize)> {
    let done = |(at, by, action): &(Moment, usize, Action)| {
        let what = if let Action::StartResource { resource, .. } = action {
            ("start", *resource)
        } else if let Action::StopResource { resource, .. } = action {
            ("stop", *resource)
        } else {
            return None;
        };
        (*at >= from && *by == node).then_some(what)
    };
    sim.log.iter().filter_map(done).collect()
}

fn down() -> Health {
    Health::Failed { cause: "it does not run".to_owned() }
}

fn silent() -> Health {
    Health::NoAnswer { cause: "it did not answer".to_owned() }
}

fn questions(sim: &Sim, node: usize, from: Moment) -> BTreeMap<usize, usize> {
    let mut counts = BTreeMap::new();
    for (at, by, action) in &sim.log {
        if let Action::MonitorResource { resource, .. } = action
            && *at >= from
            && *by == node
        {
            *counts.entry(*resource).or_default() += 1;
        }
    }
    counts
}

#[test]
fn services_that_run_are_asked_at_their_interval_where_they_run() {
    let mut config = config_monitored(2, 2);
    config.groups[0].monitors[SQUID] = Some(MONITOR * 5);
    let mut sim = Sim::settled(config, 1);
    let from = sim.now;
    sim.run(MONITOR * 50);
    let asked = questions(&sim, 0, from);
    assert_eq!(asked.keys().copied().collect::<Vec<_>>(), [HTTPD, SQUID]);
    assert!((48..=50).contains(&asked[&HTTPD]) && (9..=10).contains(&asked[&SQUID]), "{asked:?}");
    assert_eq!(questions(&sim, 1, from), BTreeMap::new());
    assert!(sim.core(0).ran_at(GROUP, HTTPD).is_some());
    assert_eq!(sim.core(0).ran_at(GROUP, 0), None);
    assert!(work(&sim, 0, from).is_empty());
}

/// With what comes after it, and nothing of what comes before; with the same term, and nobody else is in it.
#[test]
fn a_service_that_fails_is_restarted_where_it_is() {
    for seed in 0..10 {
        let mut sim = Sim::settled(recovering(RecoveryPolicy::Restart, 3), seed);
        let term = sim.core(0).group(GROUP).term;
        let from = sim.now;
        sim.sicken(0, 0, HTTPD, down());
        sim.run(ROUND);
        let expected = [("stop", SQUID), ("stop", HTTPD), ("start", HTTPD), ("start", SQUID)];
        assert_eq!(work(&sim, 0, from), expected, "seed {seed}");
        assert!(work(&sim, 1, from).is_empty(), "seed {seed}");
        assert_eq!(sim.core(0).group(GROUP).term, term);
        assert_eq!(sim.serving(0), [0]);
        assert_eq!(sim.core(1).group(GROUP).owner, Some(NodeIndex(0)));
        let notes = sim.notes(0, "service-failed", from);
        assert!(notes.len() == 1 && notes[0].1.message.contains("failure 1 in a row"), "{notes:?}");
        assert_eq!(sim.notes(0, "group-started", from).len(), 1);
        assert_eq!(sim.core(0).service_failures(GROUP), 1);
    }
}

#[test]
fn a_service_that_fails_too_often_goes_to_the_other_node_and_stays_there_for_the_window() {
    const WINDOW: Duration = Duration::from_secs(40);
    let mut config = recovering(RecoveryPolicy::Restart, 2);
    config.groups[0].recovery.window = WINDOW;
    let mut sim = Sim::settled(config, 7);
    let from = sim.now;
    sim.sickening.insert((0, 0));
    sim.run(ROUND * 3);
    assert_eq!(sim.notes(0, "service-failed", from).len(), 3);
    assert_eq!(sim.serving(0), [1]);
    assert_eq!(sim.core(0).group(GROUP).state, GroupState::Started);
    let holders = holders_since(&sim, 0, from);
    assert!(holders.iter().all(|it| it.len() < 2), "{holders:?}");
    // failback = auto; the group is not to come back to where it just failed.
    sim.sickening.clear();
    sim.run(WINDOW - ROUND * 4);
    assert_eq!(sim.serving(0), [1]);
    sim.run(ROUND * 4);
    assert_eq!(sim.serving(0), [0]);
    assert_eq!((sim.serving(0), sim.core(0).service_failures(GROUP)), (vec![0], 0));
    // It was not seen to run for the window yet: when it fails too often again, it goes for twice as long.
    let leave_again = |sim: &mut Sim| {
        sim.sickening.insert((0, 0));
        sim.run(ROUND * 3);
        sim.sickening.clear();
        assert_eq!(sim.serving(0), [1]);
    };
    leave_again(&mut sim);
    sim.run(WINDOW * 2 - ROUND * 4);
    assert_eq!(sim.serving(0), [1]);
    sim.run(ROUND * 6);
    assert_eq!(sim.serving(0), [0]);
    // Now it runs for the window, and all is forgotten.
    sim.run(WINDOW + ROUND);
    leave_again(&mut sim);
    sim.run(WINDOW + ROUND);
    assert_eq!(sim.serving(0), [0]);
}

#[test]
fn a_group_that_is_to_be_relocated_goes_at_once() {
    let mut sim = Sim::settled(recovering(RecoveryPolicy::Relocate, 3), 7);
    let from = sim.now;
    sim.sicken(0, 0, SQUID, down());
    sim.run(ROUND);
    assert_eq!(sim.serving(0), [1]);
    assert!(work(&sim, 0, from).iter().all(|(what, _)| *what == "stop"));
    let notes = sim.notes(0, "service-failed", from);
    assert!(notes.len() == 1 && notes[0].1.message.contains("n1 is to run g0"), "{notes:?}");
}

#[test]
fn a_group_that_is_to_be_disabled_runs_nowhere_until_it_is_enabled() {
    let mut sim = Sim::settled(recovering(RecoveryPolicy::Disable, 3), 7);
    sim.sicken(0, 0, SQUID, down());
    sim.run(ROUND * 20);
    assert_eq!(sim.serving(0), Vec::<usize>::new());
    assert_eq!(
        (sim.core(0).wish(GROUP), sim.core(1).wish(GROUP)),
        (Wish::Disabled, Wish::Disabled)
    );
    assert!(sim.command(1, Command::Enable(GROUP)).unwrap().is_ok());
    sim.run(SETTLE);
    assert_eq!(sim.serving(0), [0]);
}

/// A pair of which one is off: a group that fails again and again is tried at a growing distance.
#[test]
fn who_is_alone_goes_on_trying() {
    let mut sim = Sim::settled(recovering(RecoveryPolicy::Restart, 1), 7);
    sim.kill(1, Death::PowerCut);
    sim.run(SETTLE);
    let from = sim.now;
    sim.sickening.insert((0, 0));
    sim.run(ROUND * 8 + FAILED_PAUSE * 7);
    let failed = sim.notes(0, "service-failed", from);
    let pauses: Vec<u64> =
        failed.windows(2).map(|two| two[1].0.since(two[0].0) as u64 / 1_000_000_000).collect();
    assert_eq!(pauses, [1, 1, 11, 21, 41]);
    assert!(failed[2].1.message.contains("next try in 10s"), "{failed:?}");
    sim.sickening.clear();
    sim.run(FAILED_PAUSE * 8);
    assert_eq!(sim.serving(0), [0]);
    assert!(sim.core(0).services_well());
}

/// The other node cannot start it, or does not live to.
#[test]
fn who_left_it_to_others_takes_it_when_nobody_else_can() {
    for seed in 0..10 {
        let mut sim = Sim::settled(recovering(RecoveryPolicy::Relocate, 0), seed);
        let from = sim.now;
        sim.start_fails.insert((1, 0));
        sim.sicken(0, 0, SQUID, down());
        sim.run(ROUND + SETTLE);
        assert_eq!(sim.notes(1, "resource-failed", from).len(), 1, "seed {seed}");
        assert_eq!(sim.serving(0), [0], "seed {seed}");

        let mut sim = Sim::settled(recovering(RecoveryPolicy::Relocate, 0), seed);
        sim.sicken(0, 0, SQUID, down());
        sim.run(ROUND + SETTLE);
        assert_eq!(sim.serving(0), [1], "seed {seed}");
        sim.kill(1, Death::PowerCut);
        sim.run(SETTLE);
        assert_eq!(sim.serving(0), [0], "seed {seed}");
    }
}

/// The others could own the group as far as they say, and do not take it: they never heard each other, and
/// hold what is in doubt.
#[test]
fn who_left_it_to_others_does_not_wait_for_them_for_long() {
    let mut config = config_monitored(3, 2);
    config.cluster.on_doubt = OnDoubt::Hold;
    config.groups[0].recovery.policy = RecoveryPolicy::Relocate;
    let mut sim = Sim::new(config, 3);
    sim.cut(1, 2, true);
    (0..3).for_each(|node| sim.start(node));
    sim.run(INITDEAD * 2 + SETTLE);
    assert_eq!(sim.serving(0), [0]);
    sim.sicken(0, 0, SQUID, down());
    sim.run(ROUND + SETTLE);
    assert_eq!(sim.serving(0), Vec::<usize>::new());
    sim.run(FAILED_PAUSE + SETTLE);
    assert_eq!(sim.serving(0), [0]);
}

/// A busy machine answers late.
#[test]
fn a_status_that_does_not_come_is_a_failure_only_after_some() {
    let mut sim = Sim::settled(recovering(RecoveryPolicy::Restart, 3), 7);
    let from = sim.now;
    sim.sicken(0, 0, HTTPD, silent());
    sim.run(MONITOR * (NO_ANSWER_MAX - 1) + SETTLE);
    assert_eq!(sim.notes(0, "service-unclear", from).len() as u32, NO_ANSWER_MAX - 1);
    assert!(!sim.core(0).services_well());
    sim.sick.clear();
    sim.run(MONITOR * 5);
    assert!(sim.core(0).services_well());
    assert!(sim.notes(0, "service-failed", from).is_empty());
    sim.sicken(0, 0, HTTPD, silent());
    sim.run(MONITOR * NO_ANSWER_MAX + SETTLE);
    assert_eq!(sim.notes(0, "service-failed", from).len(), 1);
    assert_eq!(sim.serving(0), [0]);
}

/// What did not answer while this node did not run says nothing about the service; a short pause now and
/// then explains nothing.
#[test]
fn a_pause_of_the_node_excuses_the_status_that_it_held_up() {
    for (length, excused) in [(Duration::from_secs(6), true), (ms(100), false)] {
        let (mut core, mut now, mut numbers) = asked();
        for _ in 0..NO_ANSWER_MAX * 2 {
            now = now.after(length);
            let length_ns = length.as_nanos() as i64;
            core.handle(Input::OwnPause { length_ns, sign: PauseSign::Steal }, now);
            for (resource, number) in numbers.drain(..) {
                core.handle(answer((resource, number), silent()), now);
            }
            if core.service_failures(GROUP) > 0 {
                break;
            }
            (now, numbers) = next_questions(&mut core, now);
        }
        assert_eq!(core.service_failures(GROUP) == 0, excused, "{length:?}");
    }
}

/// It could be neither stopped nor started: its script is gone, or systemd does not answer.
#[test]
fn what_cannot_be_asked_is_left_alone() {
    let mut sim = Sim::settled(recovering(RecoveryPolicy::Relocate, 0), 7);
    let from = sim.now;
    sim.sicken(0, 0, HTTPD, Health::NotAsked { cause: "there is no script httpd".to_owned() });
    sim.run(MONITOR * 20);
    assert!(work(&sim, 0, from).is_empty());
    assert_eq!(sim.notes(0, "service-unclear", from).len(), 1);
    assert!(!sim.core(0).services_well());
    sim.sick.clear();
    sim.run(MONITOR * 2);
    assert!(sim.core(0).services_well());
}

/// Whatever ended both is one failure, also where it takes two restarts to find out.
#[test]
fn services_that_fail_together_are_one_failure() {
    for seed in 0..10 {
        let mut sim = Sim::settled(recovering(RecoveryPolicy::Restart, 1), seed);
        sim.run(ROUND);
        let from = sim.now;
        sim.work_max = ms(300);
        sim.sicken(0, 0, HTTPD, down());
        sim.sicken(0, 0, SQUID, down());
        sim.run(ROUND * 4);
        assert!((1..=2).contains(&sim.notes(0, "service-failed", from).len()), "seed {seed}");
        let now = (sim.serving(0), sim.core(0).service_failures(GROUP));
        assert_eq!(now, (vec![0], 1), "seed {seed}");
    }
}

/// Who was cut off, and whose service failed for that, does not disable what another node has taken since.
#[test]
fn a_group_that_another_node_has_taken_meanwhile_is_not_disabled() {
    let mut sim = Sim::settled(recovering(RecoveryPolicy::Disable, 0), 7);
    sim.cut(0, 1, true);
    sim.run(SETTLE);
    assert_eq!(sim.serving(0), [0, 1]);
    sim.sicken(0, 0, SQUID, down());
    sim.run(ROUND);
    assert_eq!((sim.serving(0), sim.core(0).wish(GROUP)), (vec![1], Wish::Disabled));
    sim.cut(0, 1, false);
    sim.run(SETTLE * 4);
    assert_eq!((sim.core(0).wish(GROUP), sim.core(1).wish(GROUP)), (Wish::None, Wish::None));
    assert_eq!(sim.serving(0).len(), 1);
}

/// From its failure until it runs again.
#[test]
fn a_group_is_ill_as_long_as_it_is_recovered() {
    let mut sim = Sim::settled(recovering(RecoveryPolicy::Restart, 3), 7);
    sim.work_max = ms(500);
    sim.sicken(0, 0, HTTPD, down());
    let mut states = Vec::new();
    for _ in 0..60 {
        sim.run(ms(100));
        states.push((sim.core(0).services_well(), sim.core(0).group(GROUP).state));
    }
    states.dedup();
    let ill = (false, GroupState::Starting);
    let well = (true, GroupState::Started);
    assert_eq!(states, [well, ill, well]);
}

/// What does not stop is not started on top of itself, and by nobody else.
#[test]
fn a_service_that_cannot_be_stopped_for_its_restart_is_stuck() {
    let mut sim = Sim::settled(recovering(RecoveryPolicy::Restart, 3), 7);
    let from = sim.now;
    sim.stop_fails.insert((0, 0));
    sim.sicken(0, 0, SQUID, down());
    sim.run(ROUND);
    assert_eq!(sim.notes(0, "group-stuck", from).len(), 1);
    assert!(work(&sim, 1, from).is_empty());
    assert!(!sim.core(0).services_well());
    sim.stop_fails.clear();
    sim.run(FAILED_PAUSE + SETTLE);
    assert_eq!(sim.serving(0), [0]);
}

#[test]
fn an_operator_who_enables_it_gives_it_all_its_restarts_again() {
    let mut sim = Sim::settled(recovering(RecoveryPolicy::Restart, 1), 7);
    for _ in 0..3 {
        sim.sicken(0, 0, HTTPD, down());
        sim.run(ROUND);
        assert_eq!(sim.serving(0), [0]);
        assert!(sim.command(0, Command::Enable(GROUP)).unwrap().is_ok());
    }
    sim.sickening.insert((0, 0));
    sim.run(ROUND * 3);
    assert_eq!(sim.serving(0), [1]);
    sim.sickening.clear();
    assert!(sim.command(0, Command::Enable(GROUP)).unwrap().is_ok());
    sim.run(SETTLE);
    assert_eq!(sim.serving(0), [0], "it is preferred, and nothing speaks against it any more");
}

#[test]
fn failures_outlive_a_hand_over_and_statuses_go_on_after_it() {
    let mut sim = Sim::settled(recovering(RecoveryPolicy::Restart, 1), 7);
    sim.sicken(0, 0, HTTPD, down());
    sim.run(ROUND);
    sim.hand_over(0);
    sim.run(SETTLE);
    let from = sim.now;
    assert_eq!(sim.core(0).service_failures(GROUP), 1);
    assert!(sim.core(0).services_well());
    sim.run(ROUND);
    assert_eq!(questions(&sim, 0, from).len(), 2);
    sim.sicken(0, 0, HTTPD, down());
    sim.run(ROUND);
    assert_eq!(sim.serving(0), [1]);
}

/// The next questions, and when they are asked.
fn next_questions(core: &mut Core, mut now: Moment) -> (Moment, Vec<(usize, u32)>) {
    let mut numbers = Vec::new();
    while numbers.is_empty() {
        now = core.deadline().unwrap().max(now);
        for action in &core.handle(Input::Observed(vec![]), now) {
            if let Action::MonitorResource { resource, number, .. } = action {
                numbers.push((*resource, *number));
            }
        }
    }
    (now, numbers)
}

fn answer((resource, number): (usize, u32), health: Health) -> Input {
    Input::ResourceMonitored { group: GROUP, resource, number, health }
}

/// A core of one node with its two services up, which asks both.
fn asked() -> (Core, Moment, Vec<(usize, u32)>) {
    let mut config = config_monitored(1, 1);
    let group = &mut config.groups[0];
    group.resources.drain(..HTTPD);
    group.monitors.drain(..HTTPD);
    let now = Moment(1_000_000_000);
    let mut core = Core::new(Arc::new(config), NodeIndex(0), 1, now);
    for resource in 0..2 {
        let presence = Presence::Absent;
        core.handle(Input::ResourceProbed { group: GROUP, resource, presence }, now);
    }
    for resource in 0..2 {
        core.handle(Input::ResourceStarted { group: GROUP, resource, error: None }, now);
    }
    assert_eq!(core.group(GROUP).state, GroupState::Started);
    let (now, numbers) = next_questions(&mut core, now);
    assert_eq!(numbers.len(), 2);
    (core, now, numbers)
}

/// Who hands over meanwhile would leave the status to nobody: it is ended, and its end waited for.
#[test]
fn a_hand_over_ends_the_statuses() {
    let (mut core, now, numbers) = asked();
    let kept = vec![crate::core::resume::Kept::All];
    let actions = core.handle(Input::HandOver(kept), now);
    assert!(actions.contains(&Action::EndStatuses) && !actions.contains(&Action::HandOver));
    let ended = || Health::NotAsked { cause: "ended".to_owned() };
    assert!(!core.handle(answer(numbers[0], ended()), now).contains(&Action::HandOver));
    assert!(core.handle(answer(numbers[1], ended()), now).contains(&Action::HandOver));
    assert!(core.services_well());
}

/// Nothing is said of services that were asked when a hand-over came to nothing: they are asked again at once.
#[test]
fn a_hand_over_that_fails_is_no_word_about_services() {
    let (mut core, now, numbers) = asked();
    let kept = vec![crate::core::resume::Kept::All];
    let mut actions = core.handle(Input::HandOver(kept), now);
    let late = now.after(HAND_OVER_WAIT_MAX);
    actions.extend(core.handle(Input::Observed(vec![]), late));
    let failed = |it: &&Action| matches!(it, Action::HandOverFailed(_));
    assert_eq!(actions.iter().filter(failed).count(), 1, "{actions:?}");
    let mut after = Vec::new();
    for number in numbers {
        let withdrawn = Health::NotAsked { cause: "nobody waits for it any more".to_owned() };
        after.extend(core.handle(answer(number, withdrawn), late));
    }
    assert!(core.services_well() && !after.iter().any(|it| matches!(it, Action::Event(_))));
    let asks = |it: &&Action| matches!(it, Action::MonitorResource { .. });
    assert_eq!(after.iter().filter(asks).count(), 2, "{after:?}");
}

/// Statuses that hang are a failure in the end, however often the configuration is read in between.
#[test]
fn unanswered_statuses_outlive_a_hand_over() {
    let (mut core, mut now, mut numbers) = asked();
    for _ in 1..NO_ANSWER_MAX {
        core.handle(answer(numbers[0], silent()), now);
        core.handle(answer(numbers[1], Health::Runs), now);
        assert!(!core.services_well());
        core = Core::resume(Arc::clone(&core.config), NodeIndex(0), core.remember(), now);
        assert!(!core.services_well() && core.service_failures(GROUP) == 0);
        core.handle(Input::Observed(vec![]), now);
        (now, numbers) = next_questions(&mut core, now);
    }
    core.handle(answer(numbers[0], silent()), now);
    assert_eq!(core.service_failures(GROUP), 1);
}

/// What cannot be asked now is not due: the driver would wake for it again and again, and take its own
/// lateness for a pause.
#[test]
fn nothing_is_due_while_nothing_may_be_asked() {
    let (mut core, now, numbers) = asked();
    core.handle(answer(numbers[0], Health::Runs), now);
    core.handle(Input::HandOver(vec![crate::core::resume::Kept::All]), now);
    let late = now.after(MONITOR * 5);
    let actions = core.handle(Input::Observed(vec![]), late);
    assert!(!actions.iter().any(|it| matches!(it, Action::MonitorResource { .. })), "{actions:?}");
    assert!(core.deadline().is_some_and(|it| it > late), "{:?} at {late:?}", core.deadline());
}

/// An answer that was on its way when the service was restarted says nothing about the new one.
#[test]
fn an_old_answer_is_not_heard() {
    let (mut core, now, numbers) = asked();
    core.handle(answer(numbers[0], down()), now);
    for resource in [1, 0] {
        core.handle(Input::ResourceStopped { group: GROUP, resource, error: None }, now);
    }
    for resource in 0..2 {
        core.handle(Input::ResourceStarted { group: GROUP, resource, error: None }, now);
    }
    assert_eq!(core.group(GROUP).state, GroupState::Started);
    core.handle(answer(numbers[1], down()), now);
    assert_eq!(core.group(GROUP).resources, [ResourceState::Started; 2]);
    assert_eq!(core.service_failures(GROUP), 1);
}

/// Configuration management that reloads every half hour does not keep a service that is asked each hour from
/// being asked.
#[test]
fn a_hand_over_does_not_put_questions_off() {
    let mut config = recovering(RecoveryPolicy::Restart, 3);
    config.groups[0].monitors[HTTPD] = Some(MONITOR * 10);
    let mut sim = Sim::settled(config, 7);
    let from = sim.now;
    for _ in 0..5 {
        sim.run(MONITOR * 4);
        sim.hand_over(0);
    }
    assert!(questions(&sim, 0, from).get(&HTTPD).is_some_and(|it| *it >= 1));
}

/// A hand-over takes up to a minute while something stops; what was due long before is asked then, and the
/// driver does not take the time for its own lateness.
#[test]
fn nothing_is_due_before_the_next_program_has_looked() {
    let (mut core, now, numbers) = asked();
    for number in numbers {
        core.handle(answer(number, Health::Runs), now);
    }
    let late = now.after(MONITOR * 20);
    let memory = core.remember();
    let mut resumed = Core::resume(Arc::clone(&core.config), NodeIndex(0), memory, late);
    assert!(resumed.deadline().is_none_or(|it| it > late), "{:?} at {late:?}", resumed.deadline());
    let actions = resumed.handle(Input::Observed(vec![]), late);
    let asks = |it: &&Action| matches!(it, Action::MonitorResource { .. });
    assert_eq!(actions.iter().filter(asks).count(), 2);
}

/// The daemon before it ran the service: that its script is gone does not mean that it does not run.
#[test]
fn what_an_adopted_group_cannot_ask_for_is_stopped_to_be_sure() {
    let (core, now, _) = asked();
    let estate = core.estate(&core.holdings());
    for (adopts, stops) in [(true, 1), (false, 0)] {
        let mut next = Core::new(Arc::clone(&core.config), NodeIndex(0), 2, now);
        if adopts {
            next.adopt(&estate);
        }
        let mut actions = Vec::new();
        for resource in 0..2 {
            let presence = Presence::NotInstalled { cause: "there is no script".to_owned() };
            let input = Input::ResourceProbed { group: GROUP, resource, presence };
            actions.extend(next.handle(input, now));
        }
        let stop = |it: &&Action| matches!(it, Action::StopResource { .. });
        assert_eq!(actions.iter().filter(stop).count(), stops, "{actions:?}");
    }
}

/// An operator disabled and enabled the group: the higher term is no ownership.
#[test]
fn a_group_is_disabled_also_by_an_owner_whose_term_is_not_the_highest() {
    let mut sim = Sim::settled(recovering(RecoveryPolicy::Disable, 0), 7);
    assert!(sim.command(1, Command::Disable(GROUP)).unwrap().is_ok());
    assert!(sim.command(1, Command::Enable(GROUP)).unwrap().is_ok());
    sim.run(SETTLE);
    assert_eq!(sim.serving(0), [0]);
    sim.sicken(0, 0, SQUID, down());
    sim.run(ROUND * 2);
    assert_eq!(sim.serving(0), Vec::<usize>::new());
    let wishes = [sim.core(0).wish(GROUP), sim.core(1).wish(GROUP)];
    assert_eq!(wishes, [Wish::Disabled; 2]);
}
