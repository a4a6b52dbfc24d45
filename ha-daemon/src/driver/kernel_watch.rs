//! The judge in the kernel, as the driver uses it: its timers wake the driver when a path falls silent,
//! and their lateness is how the driver knows of softirqs that did not run.

use std::time::Duration;

use ha_common::maps::{Change, ChangeKind};
use ha_common::watch::Watch;

use super::Driver;
use crate::core::asking::AskingTimes;
use crate::io::kernel::WatchTimes;
use crate::snapshot::{Severity, ThreadStatus, Via};

/// How it is called in the status and in events.
const NAME: &str = "kernel-watch";
/// A timer that is overdue for longer is taken for lost: it is armed anew, and no pause of this node until
/// it has run. For so long at most can timers that do not run put off a verdict.
const LOST: Duration = Duration::from_secs(2);

/// What the driver knows of the timer of a slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Timer {
    /// There is none.
    #[default]
    Unwatched,
    /// It runs, and so many of its pauses have been taken notice of.
    Running { pauses: u64 },
    /// It was lost when it had run so often. Armed anew it would be overdue again soon, and of several
    /// that never run one would always be: until it has run again, it tells nothing of softirqs.
    Lost { pauses: u64, ticks: u64 },
}

/// What follows from a look at a timer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Look {
    /// For how long softirqs did not run, if they did not.
    pause_ns: u64,
    /// It has just been lost.
    is_lost: bool,
    /// It has to be armed.
    arm: bool,
}

impl Timer {
    /// Looks at what the timer says of itself; a pause is what is longer than `limit_ns`.
    fn look(&mut self, watch: Watch<'_>, now_ns: u64, limit_ns: u64) -> Look {
        let mut look = Look::default();
        if let Self::Lost { pauses, ticks } = *self
            && watch.ticks() != ticks
        {
            *self = Self::Running { pauses };
        }
        let overdue_ns = watch.overdue_ns(now_ns);
        let is_overdue = overdue_ns > LOST.as_nanos() as u64;
        match self {
            Self::Unwatched => {}
            Self::Lost { .. } => look.arm = is_overdue,
            Self::Running { pauses: noticed } => {
                let pauses = watch.pauses();
                if pauses != *noticed {
                    *noticed = pauses;
                    look.pause_ns = watch.pause_ns();
                }
                if is_overdue {
                    *self = Self::Lost { pauses, ticks: watch.ticks() };
                    (look.is_lost, look.arm) = (true, true);
                } else if overdue_ns > limit_ns {
                    look.pause_ns = look.pause_ns.max(overdue_ns);
                }
            }
        }
        look
    }

    /// It was armed.
    fn armed(&mut self, watch: Watch<'_>) {
        if !matches!(self, Self::Lost { .. }) {
            *self = Self::Running { pauses: watch.pauses() };
        }
    }
}

/// What the driver knows of the timers.
#[derive(Debug, Default)]
pub(super) struct KernelWatch {
    /// By slot.
    timers: Vec<Timer>,
    /// Slots whose timer is still to be armed.
    to_arm: Vec<usize>,
    /// Why there are none, for those who ask.
    refused: String,
}

impl Driver {
    /// Has the kernel watch the paths whose heartbeats a program receives.
    pub(super) fn start_kernel_watch(&mut self) {
        let slots = self.parts.paths.len();
        self.kernel_watch.timers = vec![Timer::Unwatched; slots];
        let in_kernel =
            |slot: &usize| !matches!(self.parts.receptions[*slot].via, Via::Socket | Via::Serial);
        let watched = (0..slots).filter(in_kernel).map(|slot| self.watch_times(slot));
        let watched: Vec<WatchTimes> = watched.collect();
        let Some(kernel) = &mut self.parts.kernel else { return };
        if let Err(error) = kernel.watch(&watched) {
            self.kernel_watch.refused = format!("none: {error:#}");
            let text = format!(
                "silence is noticed by the daemon alone, the kernel does not watch: {error:#}"
            );
            return self.driver_note(Severity::Warning, NAME, text);
        }
        self.kernel_watch.to_arm = watched.iter().map(|it| it.slot as usize).collect();
        self.arm_kernel_timers();
    }

    fn watch_times(&self, slot: usize) -> WatchTimes {
        let times = self.times(slot);
        let own_pause = self.parts.config.detection.own_pause;
        let pause_limit_ns = if own_pause { self.parts.pause.as_nanos() as u64 } else { 0 };
        WatchTimes {
            slot: slot as u32,
            suspect_ns: AskingTimes::of(times).suspicion.as_nanos() as u64,
            deadtime_ns: times.deadtime.as_nanos() as u64,
            pause_limit_ns,
        }
    }

    /// Has the timers that run judge by the times of now; no window begins anew for that.
    pub(super) fn renew_watch_times(&self) {
        let Some(kernel) = &self.parts.kernel else { return };
        for slot in 0..self.kernel_watch.timers.len() {
            // One that is not to run has none.
            if let Some(watch) = kernel.watched(slot as u32).filter(|it| it.suspect_ns() != 0) {
                self.watch_times(slot).store(watch);
            }
        }
    }

    /// Whether a timer in the kernel tells when that path's heartbeats are stamped late.
    pub(super) fn is_watched(&self, slot: usize) -> bool {
        self.kernel_watch.timers.get(slot).is_some_and(|it| matches!(it, Timer::Running { .. }))
    }

    /// Arms the timers of paths that are back: those of silent ones tick rarely, and would see the next silence late.
    pub(super) fn watch_again(&mut self, changes: &[Change]) {
        let is_back = |change: &&Change| {
            let kinds = [ChangeKind::LinkBack, ChangeKind::NewIncarnation];
            kinds.iter().any(|kind| change.kind == *kind as u32)
        };
        let back = changes.iter().filter(is_back).map(|change| change.slot as usize);
        let timers = &self.kernel_watch.timers;
        let watched =
            |slot: &usize| timers.get(*slot).is_some_and(|timer| *timer != Timer::Unwatched);
        let back: Vec<usize> = back.filter(watched).collect();
        self.kernel_watch.to_arm.extend(back);
        self.arm_kernel_timers();
    }

    /// Arms what is still to be armed, as far as there is memory for it now.
    fn arm_kernel_timers(&mut self) {
        while let Some(slot) = self.kernel_watch.to_arm.pop() {
            let Some(kernel) = &self.parts.kernel else { return };
            match kernel.arm(slot as u32) {
                Ok(true) => {
                    if let Some(watch) = kernel.watched(slot as u32) {
                        self.kernel_watch.timers[slot].armed(watch);
                    }
                }
                Ok(false) => return self.kernel_watch.to_arm.push(slot),
                Err(error) => {
                    if let Some(watch) = kernel.watched(slot as u32) {
                        watch.set_suspect_ns(0);
                    }
                    self.kernel_watch.refused = format!("none: {error:#}");
                    self.kernel_watch_note(slot, &format!("the kernel does not watch: {error:#}"));
                }
            }
        }
    }

    /// Whether softirqs did not run, so that heartbeats may wait unseen: a timer in the kernel was late, or
    /// is overdue.
    pub(super) fn kernel_pause(&mut self, now_ns: u64) -> Option<i64> {
        let kernel = self.parts.kernel.as_ref()?;
        let limit_ns = self.parts.pause.as_nanos() as u64;
        let (mut longest_ns, mut lost) = (0, Vec::new());
        let KernelWatch { timers, to_arm, .. } = &mut self.kernel_watch;
        for (slot, timer) in timers.iter_mut().enumerate() {
            let Some(watch) = kernel.watched(slot as u32) else { continue };
            let look = timer.look(watch, now_ns, limit_ns);
            longest_ns = look.pause_ns.max(longest_ns);
            if look.is_lost {
                lost.push(slot);
            }
            if look.arm && !to_arm.contains(&slot) {
                to_arm.push(slot);
            }
        }
        for slot in lost {
            let text = format!("the kernel's timer did not run for {LOST:?}; arming it anew");
            self.kernel_watch_note(slot, &text);
        }
        self.arm_kernel_timers();
        (self.parts.config.detection.own_pause && longest_ns != 0).then_some(longest_ns as i64)
    }

    fn kernel_watch_note(&self, slot: usize, text: &str) {
        let path = &self.parts.paths[slot];
        let peer = &self.parts.config.nodes[path.peer.0].name;
        let link = &self.parts.config.links[path.link.0].name;
        self.driver_note(Severity::Warning, NAME, format!("{peer} on {link}: {text}"));
    }

    /// The timers as one of the threads that notice silence; `None` where no program receives.
    pub(super) fn kernel_watch_status(&self) -> Option<ThreadStatus> {
        let kernel = self.parts.kernel.as_ref()?;
        let watched =
            (0..).zip(&self.kernel_watch.timers).filter(|(_, it)| **it != Timer::Unwatched);
        let lateness_ns: Vec<u64> =
            watched.filter_map(|(slot, _)| Some(kernel.watched(slot)?.late_max_ns())).collect();
        let scheduling = match lateness_ns.len() {
            0 => self.kernel_watch.refused.clone(),
            paths => format!("softirq, timers of {paths} paths"),
        };
        (!scheduling.is_empty()).then(|| ThreadStatus {
            name: NAME.to_owned(),
            scheduling,
            refused: false,
            lateness_max_us: lateness_ns.into_iter().max().map(|it| it / 1_000),
            lateness: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::ptr::NonNull;

    use ha_common::watch::{Watched, begin, tick};

    use super::*;

    const MS: u64 = 1_000_000;
    const SUSPECT_NS: u64 = 100 * MS;
    const LIMIT_NS: u64 = 7 * MS;
    const LOST_NS: u64 = LOST.as_nanos() as u64;

    fn words() -> Watched {
        Watched { suspect_ns: SUSPECT_NS, pause_limit_ns: LIMIT_NS, ..Watched::default() }
    }

    fn watch(words: &mut Watched) -> Watch<'_> {
        // SAFETY: valid and aligned for as long as it is borrowed, by this thread alone.
        unsafe { Watch::new(NonNull::from(words)) }
    }

    /// A timer that was armed at that moment.
    fn armed(words: &mut Watched, at_ns: u64) -> Timer {
        let mut timer = Timer::Unwatched;
        assert!(begin(watch(words), at_ns).is_some());
        timer.armed(watch(words));
        timer
    }

    #[test]
    fn two_timers_that_never_run_put_off_a_verdict_for_a_while_and_not_for_ever() {
        // Out of phase: while one has just been armed anew, the other is overdue and not yet lost.
        let starts_ns = [1_000 * MS, 2_000 * MS];
        let (mut words, mut told, mut armings) = ([words(), words()], [0; 2], [0; 2]);
        let mut timers = [0, 1].map(|it| armed(&mut words[it], starts_ns[it]));
        let mut paused_until_ns = 0;
        for now_ns in (starts_ns[1]..60_000 * MS).step_by(MS as usize) {
            for slot in [0, 1] {
                let look = timers[slot].look(watch(&mut words[slot]), now_ns, LIMIT_NS);
                if look.pause_ns != 0 {
                    paused_until_ns = now_ns;
                }
                told[slot] += u32::from(look.is_lost);
                if look.arm {
                    armings[slot] += 1;
                    assert!(begin(watch(&mut words[slot]), now_ns).is_some());
                    timers[slot].armed(watch(&mut words[slot]));
                }
            }
        }
        assert_eq!(paused_until_ns, starts_ns[1] + SUSPECT_NS + LOST_NS, "until both were lost");
        assert_eq!(told, [1, 1], "said once");
        assert!(armings.iter().all(|it| *it > 10), "tried on: {armings:?}");
    }

    #[test]
    fn a_lost_timer_that_runs_again_is_a_witness_again() {
        let mut words = words();
        let mut timer = armed(&mut words, MS);
        let lost_ns = MS + SUSPECT_NS + LOST_NS + 1;
        let look = timer.look(watch(&mut words), lost_ns, LIMIT_NS);
        assert_eq!(look, Look { pause_ns: 0, is_lost: true, arm: true });
        let due_ns = begin(watch(&mut words), lost_ns).unwrap();
        timer.armed(watch(&mut words));
        assert_eq!(timer.look(watch(&mut words), due_ns + LOST_NS, LIMIT_NS), Look::default());
        // What comes with its late tick has waited as long: that is a pause, and told once.
        let ran_ns = due_ns + 500 * MS;
        let next_ns = tick(watch(&mut words), 0, ran_ns).unwrap().next_ns;
        let look = timer.look(watch(&mut words), ran_ns, LIMIT_NS);
        assert_eq!(look, Look { pause_ns: 500 * MS, ..Look::default() });
        assert_eq!(timer.look(watch(&mut words), next_ns, LIMIT_NS), Look::default());
        let overdue_ns = LIMIT_NS + 1;
        let look = timer.look(watch(&mut words), next_ns + overdue_ns, LIMIT_NS);
        assert_eq!(look, Look { pause_ns: overdue_ns, ..Look::default() });
    }

    #[test]
    fn a_slot_without_a_timer_says_nothing() {
        let mut words = words();
        words.due_ns = MS;
        let look = Timer::Unwatched.look(watch(&mut words), 60_000 * MS, LIMIT_NS);
        assert_eq!(look, Look::default());
    }
}
