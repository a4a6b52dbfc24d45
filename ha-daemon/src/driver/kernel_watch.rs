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
/// A timer that is overdue for longer is taken for lost: it is armed anew, and no pause of this node. For so
/// long at most can timers that do not run put off a verdict.
const LOST: Duration = Duration::from_secs(2);

/// What the driver knows of the timers.
#[derive(Debug, Default)]
pub(super) struct KernelWatch {
    /// By slot, how many pauses of the watched ones have been taken notice of.
    noticed: Vec<Option<u64>>,
    /// Slots whose timer is still to be armed.
    to_arm: Vec<usize>,
    /// Why there are none, for those who ask.
    refused: String,
}

impl Driver {
    /// Has the kernel watch the paths whose heartbeats a program receives.
    pub(super) fn start_kernel_watch(&mut self) {
        let slots = self.parts.paths.len();
        self.kernel_watch.noticed = vec![None; slots];
        let in_kernel =
            |slot: &usize| !matches!(self.parts.receptions[*slot].via, Via::Socket | Via::Serial);
        let times = |slot: usize| {
            let times = self.parts.config.times(self.parts.paths[slot].link);
            WatchTimes {
                slot: slot as u32,
                suspect_ns: AskingTimes::of(times).suspicion.as_nanos() as u64,
                deadtime_ns: times.deadtime.as_nanos() as u64,
                pause_limit_ns: if self.parts.config.detection.own_pause {
                    self.parts.pause.as_nanos() as u64
                } else {
                    0
                },
            }
        };
        let watched: Vec<WatchTimes> = (0..slots).filter(in_kernel).map(times).collect();
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

    /// Arms the timers of paths that are back: those of silent ones tick rarely, and would see the next silence late.
    pub(super) fn watch_again(&mut self, changes: &[Change]) {
        let is_back = |change: &&Change| {
            let kinds = [ChangeKind::LinkBack, ChangeKind::NewIncarnation];
            kinds.iter().any(|kind| change.kind == *kind as u32)
        };
        let back = changes.iter().filter(is_back).map(|change| change.slot as usize);
        let watched = |slot: &usize| matches!(self.kernel_watch.noticed.get(*slot), Some(Some(_)));
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
                    self.kernel_watch.noticed[slot] =
                        kernel.watched(slot as u32).map(Watch::pauses);
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
        for (slot, noticed) in self.kernel_watch.noticed.iter_mut().enumerate() {
            let Some(noticed) = noticed else { continue };
            let Some(watch) = kernel.watched(slot as u32) else { continue };
            let pauses = watch.pauses();
            if pauses != *noticed {
                *noticed = pauses;
                longest_ns = watch.pause_ns().max(longest_ns);
            }
            let overdue_ns = watch.overdue_ns(now_ns);
            if overdue_ns > LOST.as_nanos() as u64 {
                lost.push(slot);
            } else if overdue_ns > limit_ns {
                longest_ns = overdue_ns.max(longest_ns);
            }
        }
        for slot in lost {
            self.kernel_watch.noticed[slot] = None;
            self.kernel_watch.to_arm.push(slot);
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
        let watched = (0..).zip(&self.kernel_watch.noticed).filter(|(_, it)| it.is_some());
        let lateness_ns: Vec<u64> =
            watched.filter_map(|(slot, _)| Some(kernel.watched(slot)?.late_max_ns())).collect();
        let scheduling = match lateness_ns.len() {
            0 => self.kernel_watch.refused.clone(),
            paths => format!("softirq, timers of {paths} paths"),
        };
        (!scheduling.is_empty()).then(|| ThreadStatus {
            name: NAME.to_owned(),
            scheduling,
            lateness_max_us: lateness_ns.into_iter().max().map(|it| it / 1_000),
            lateness: None,
        })
    }
}
