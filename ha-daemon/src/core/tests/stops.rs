//! A driver that is stopped in the middle of a turn: between reading the records and its clock, or
//! between two inputs. The simulation's turns are whole, so these drive one core by hand.

use super::*;
use crate::core::io::{Action, Input, Note, PauseSign};
use crate::core::time::Moment;
use crate::snapshot::NodeState;

const PEER: NodeIndex = NodeIndex(0);
const LINK: LinkIndex = LinkIndex(0);

/// Node 1, which has just heard node 0, and the moment of that.
fn heard(ask: bool) -> (Core, Moment) {
    let started = Moment(1_000_000_000);
    let detection = Detection { ask, ..Detection::default() };
    let mut core =
        Core::new(Arc::new(Config { detection, ..config(2, 1, 1) }), NodeIndex(1), 70, started);
    let last_seen = started.after(ms(5));
    let observation = Observation { last_seen, incarnation: 9, ..Observation::default() };
    let sighting = Sighting { peer: PEER, link: LINK, observation };
    core.handle(Input::Observed(vec![sighting]), last_seen);
    assert!(core.peers()[&PEER].alive());
    (core, last_seen)
}

fn nothing_new() -> Input {
    Input::Observed(Vec::new())
}

fn buried(actions: &[Action]) -> bool {
    let dead = |it: &Action| matches!(it, Action::Event(Note { kind, .. }) if kind == "node-dead");
    actions.iter().any(dead)
}

fn probes(actions: &[Action]) -> usize {
    actions.iter().filter(|it| matches!(it, Action::Probe { .. })).count()
}

#[test]
fn silence_is_judged_as_of_the_last_reading_of_the_records() {
    for ask in [true, false] {
        let (mut core, last_seen) = heard(ask);
        assert!(!buried(&core.handle(nothing_new(), last_seen.after(ms(10)))));
        // The same turn goes on much later: what came in meanwhile was not read.
        let later = last_seen.after(DAEMON_DEADTIME * 5);
        assert!(!buried(&core.handle(Input::Arrived(Vec::new()), later)), "ask = {ask}");
        assert!(core.peers()[&PEER].alive());
        let pause = Input::OwnPause { length_ns: 5_000_000_000, sign: PauseSign::Driver };
        assert!(!buried(&core.handle(pause, later.after(ms(1)))), "ask = {ask}");
        assert!(!buried(&core.handle(nothing_new(), later.after(ms(2)))), "ask = {ask}");
        if !ask {
            let dead = core.handle(nothing_new(), later.after(ms(1) + DEADTIME));
            assert!(buried(&dead), "a full window after the pause it is dead indeed");
        }
    }
}

#[test]
fn a_peer_that_nobody_heard_of_is_not_given_up_before_the_records_are_read() {
    let started = Moment(1_000_000_000);
    let mut core = Core::new(Arc::new(config(2, 1, 1)), NodeIndex(1), 70, started);
    core.handle(nothing_new(), started.after(ms(1)));
    let later = started.after(INITDEAD * 2);
    let pause = Input::OwnPause { length_ns: 600_000_000, sign: PauseSign::Driver };
    let actions = core.handle(pause, later);
    let starts = actions.iter().any(|it| matches!(it, Action::StartResource { .. }));
    assert!(!starts && !buried(&actions));
    assert_eq!(core.peers()[&PEER].state, NodeState::Unknown);
}

#[test]
fn nobody_is_buried_without_having_been_asked_however_long_the_silence() {
    let (mut core, last_seen) = heard(true);
    let mut now = last_seen.after(DAEMON_DEADTIME * 5);
    let actions = core.handle(nothing_new(), now);
    assert!(!buried(&actions));
    assert_eq!(probes(&actions), 1);
    // It is, once enough questions stayed unanswered.
    let dead = (0..100).any(|_| {
        core.handle(Input::ProbeLeft { peer: PEER, link: LINK, at: now }, now);
        now = now.after(ms(2));
        buried(&core.handle(nothing_new(), now))
    });
    assert!(dead);
}

#[test]
fn only_a_pause_of_driver_or_sender_ends_the_lease() {
    let signs = [
        (PauseSign::Driver, true),
        (PauseSign::Sender, true),
        (PauseSign::Suspend, true),
        (PauseSign::Steal, false),
        (PauseSign::Softirqs, false),
    ];
    for (sign, lapses) in signs {
        let (mut core, last_seen) = heard(true);
        let length_ns = DAEMON_DEADTIME.as_nanos() as i64;
        core.handle(Input::OwnPause { length_ns, sign }, last_seen.after(ms(1)));
        assert_eq!(core.lapsed_at.is_some(), lapses, "{sign}");
    }
}
