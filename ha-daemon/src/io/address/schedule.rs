//! When the worker has to do what: pure, in nanoseconds of `CLOCK_MONOTONIC`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Floating;
use crate::config::AnnouncePlan;

/// An announcement that is later than this was held up: this process did not run, and another
/// node may have taken the address over meanwhile.
const LATE_MAX_NS: u64 = 100_000_000;
/// Such an announcement waits for this long, so that whoever decides can decide first.
const AFTER_PAUSE_NS: u64 = 500_000_000;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Task {
    /// Ask whether somebody else has the address, and listen.
    Probe,
    /// Renew the lifetime.
    Renew,
    /// Send one more announcement.
    Announce,
    /// Listen no longer.
    EndProbe,
}

/// The tasks of all addresses by time; each task of an address is there at most once.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    by_time: BTreeSet<(u64, Floating, Task)>,
    by_task: BTreeMap<(Floating, Task), u64>,
}

impl Agenda {
    /// Sets the time of a task, or takes it off.
    pub(super) fn set(&mut self, floating: &Floating, task: Task, due_ns: Option<u64>) {
        let key = (floating.clone(), task);
        if let Some(old_ns) = self.by_task.remove(&key) {
            self.by_time.remove(&(old_ns, key.0.clone(), task));
        }
        if let Some(due_ns) = due_ns {
            self.by_time.insert((due_ns, key.0.clone(), task));
            self.by_task.insert(key, due_ns);
        }
    }

    /// Takes everything of an address off.
    pub(super) fn forget(&mut self, floating: &Floating) {
        for task in [Task::Probe, Task::Renew, Task::Announce, Task::EndProbe] {
            self.set(floating, task, None);
        }
    }

    /// When the next task is due.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.by_time.first().map(|(due_ns, _, _)| *due_ns)
    }

    /// Takes off the earliest task that is due, with its time.
    pub(super) fn take_due(&mut self, now_ns: u64) -> Option<(u64, Floating, Task)> {
        let due = self.by_time.first().filter(|(due_ns, _, _)| *due_ns <= now_ns)?.clone();
        self.set(&due.1, due.2, None);
        Some(due)
    }
}

/// Where an address stands in its plan of announcements.
#[derive(Debug)]
pub(super) struct Announcements {
    start_ns: u64,
    due_ns: Option<u64>,
}

impl Announcements {
    /// Nothing is announced.
    pub(super) fn none() -> Self {
        Self { start_ns: 0, due_ns: None }
    }

    /// Starts the plan; the burst was just sent.
    pub(super) fn start(plan: &AnnouncePlan, now_ns: u64) -> Self {
        let mut announcements = Self { start_ns: now_ns, due_ns: None };
        announcements.advance(plan, now_ns);
        announcements
    }

    /// Goes on with a plan that was started earlier.
    pub(super) fn resume(plan: &AnnouncePlan, start_ns: u64, now_ns: u64) -> Self {
        let mut announcements = Self { start_ns, due_ns: None };
        announcements.advance(plan, now_ns);
        announcements
    }

    /// When it was started.
    pub(super) fn start_ns(&self) -> u64 {
        self.start_ns
    }

    /// When the next one is due.
    pub(super) fn due_ns(&self) -> Option<u64> {
        self.due_ns
    }

    /// Whether an announcement that is due may be sent now; if not, it is postponed.
    pub(super) fn is_timely(&mut self, due_ns: u64, now_ns: u64) -> bool {
        let timely = now_ns.saturating_sub(due_ns) <= LATE_MAX_NS;
        if !timely {
            self.due_ns = Some(now_ns + AFTER_PAUSE_NS);
        }
        timely
    }

    /// Goes on to the next one: the first repeat that is not in the past, then the refreshes.
    pub(super) fn advance(&mut self, plan: &AnnouncePlan, now_ns: u64) {
        let repeat_ns = plan
            .repeat
            .iter()
            .map(|delay| self.start_ns.saturating_add(nanoseconds(*delay)))
            .filter(|due_ns| *due_ns > now_ns)
            .min();
        let refresh_ns = plan.refresh.map(|interval| now_ns.saturating_add(nanoseconds(interval)));
        self.due_ns = repeat_ns.or(refresh_ns);
    }
}

/// A duration in nanoseconds; 584 years at most.
pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn plan(repeat_ms: &[u64], refresh_ms: Option<u64>) -> AnnouncePlan {
        AnnouncePlan {
            burst: 3,
            repeat: repeat_ms.iter().copied().map(Duration::from_millis).collect(),
            refresh: refresh_ms.map(Duration::from_millis),
        }
    }

    fn floating(address: &str) -> Floating {
        Floating { address: address.parse().unwrap(), interface: "eth0".parse().unwrap() }
    }

    #[test]
    fn repeats_follow_the_takeover_and_refreshes_follow_the_last() {
        let plan = plan(&[10, 100], Some(1000));
        let mut announcements = Announcements::start(&plan, 5 * MS);
        let mut due = Vec::new();
        for _ in 0..4 {
            let due_ns = announcements.due_ns().unwrap();
            due.push(due_ns / MS);
            announcements.advance(&plan, due_ns);
        }
        assert_eq!(due, [15, 105, 1105, 2105]);
    }

    #[test]
    fn without_refresh_the_plan_ends() {
        let plan = plan(&[10], None);
        let mut announcements = Announcements::start(&plan, 0);
        announcements.advance(&plan, 10 * MS);
        assert_eq!(announcements.due_ns(), None);
    }

    #[test]
    fn missed_repeats_are_not_made_up_for() {
        let plan = plan(&[10, 20, 30, 500], None);
        let mut announcements = Announcements::start(&plan, 0);
        announcements.advance(&plan, 40 * MS);
        assert_eq!(announcements.due_ns(), Some(500 * MS));
    }

    #[test]
    fn an_announcement_that_was_held_up_waits() {
        let mut announcements = Announcements::start(&plan(&[10], None), 0);
        assert!(announcements.is_timely(10 * MS, 60 * MS));
        assert!(!announcements.is_timely(10 * MS, 400 * MS));
        assert_eq!(announcements.due_ns(), Some(900 * MS));
    }

    #[test]
    fn agenda_gives_the_earliest_due_task_once() {
        let (one, two) = (floating("192.0.2.10/24"), floating("192.0.2.11/24"));
        let mut agenda = Agenda::default();
        agenda.set(&one, Task::Renew, Some(30));
        agenda.set(&two, Task::Renew, Some(20));
        agenda.set(&one, Task::Renew, Some(10));
        assert_eq!(agenda.next_ns(), Some(10));
        assert_eq!(agenda.take_due(9), None);
        assert_eq!(agenda.take_due(25), Some((10, one, Task::Renew)));
        assert_eq!(agenda.take_due(25), Some((20, two, Task::Renew)));
        assert_eq!(agenda.take_due(u64::MAX), None);
    }

    #[test]
    fn a_forgotten_address_leaves_nothing_scheduled() {
        let (one, two) = (floating("192.0.2.10/24"), floating("2001:db8::10/64"));
        let mut agenda = Agenda::default();
        for task in [Task::Probe, Task::Renew, Task::Announce, Task::EndProbe] {
            agenda.set(&one, task, Some(1));
        }
        agenda.set(&two, Task::Renew, Some(2));
        agenda.forget(&one);
        assert_eq!(agenda.take_due(9), Some((2, two, Task::Renew)));
        assert_eq!(agenda.next_ns(), None);
    }
}
