//! Records when the machine itself did not run: a virtual CPU that stops makes every program late,
//! and a failover that falls into such a stop says nothing about the daemon.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde::Serialize;

use super::{Watcher, locked};
use crate::clock::{MS_NS, monotonic_ns, sleep_until_ns};

const TICK_NS: u64 = MS_NS;
/// Lateness from which a wake-up is recorded.
const LATE_NS: u64 = MS_NS;
const STALLS_MAX: usize = 100_000;
const PRIORITY: u8 = 99;

/// A time in which one CPU did not run its most urgent thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stall {
    /// Which CPU.
    pub cpu: usize,
    /// When the thread should have run.
    pub start_ns: u64,
    /// By how much it was late.
    pub length_ns: u64,
}

/// One thread per CPU, pinned, `SCHED_FIFO` 99, that ticks every millisecond and records wake-ups
/// later than 1 ms.
///
/// A stop of the virtual CPU shows, and so does throttling: with real-time spinners on a CPU the
/// kernel lets ordinary tasks run for up to 50 ms of each second, and holds back *all* real-time
/// threads for that time. A stall under such a load is the kernel's doing, not the host's.
/// Without the right to real-time priority it records how late ordinary threads are, which is
/// worth less: see [`StallRecorder::scheduling`].
#[derive(Debug)]
pub struct StallRecorder {
    records: Arc<Mutex<Records>>,
    watchers: Vec<Watcher>,
}

#[derive(Debug, Default)]
struct Records {
    stalls: Vec<Stall>,
    ticks: u64,
    missed: u64,
}

impl StallRecorder {
    /// Starts one thread on each CPU that this process may use.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start() -> Result<Self> {
        let records = Arc::new(Mutex::new(Records::default()));
        let allowed = sched_getaffinity(Pid::from_raw(0)).context("cannot ask for the CPUs")?;
        let cpus = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false));
        let watchers = cpus
            .map(|cpu| {
                let shared = Arc::clone(&records);
                Watcher::start(&format!("stalls-{cpu}"), Some(PRIORITY), move |stop| {
                    tick(cpu, &shared, stop);
                })
            })
            .collect::<Result<Vec<Watcher>>>()?;
        Ok(Self { records, watchers })
    }

    /// Stalls longer than `longer_than_ns` that overlap the time from `from_ns` to `to_ns`, of any
    /// CPU, oldest first. A stall is recorded when it is over.
    #[must_use]
    pub fn stalls_in(&self, from_ns: u64, to_ns: u64, longer_than_ns: u64) -> Vec<Stall> {
        let mut stalls: Vec<Stall> = locked(&self.records)
            .stalls
            .iter()
            .filter(|stall| {
                stall.length_ns > longer_than_ns
                    && stall.start_ns <= to_ns
                    && stall.start_ns + stall.length_ns >= from_ns
            })
            .copied()
            .collect();
        stalls.sort_by_key(|stall| stall.start_ns);
        stalls
    }

    /// Wake-ups so far, of all CPUs.
    #[must_use]
    pub fn ticks(&self) -> u64 {
        locked(&self.records).ticks
    }

    /// CPUs that are watched.
    #[must_use]
    pub fn cpus(&self) -> usize {
        self.watchers.len()
    }

    /// Stalls that were not kept, because there were too many.
    #[must_use]
    pub fn missed(&self) -> u64 {
        locked(&self.records).missed
    }

    /// Granted scheduling of the threads.
    #[must_use]
    pub fn scheduling(&self) -> &str {
        self.watchers.first().map_or("", |watcher| &watcher.scheduling)
    }
}

fn tick(cpu: usize, records: &Mutex<Records>, stop: &AtomicBool) {
    let mut set = CpuSet::new();
    if set.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set)).is_err() {
        eprintln!("the stall recorder cannot run on CPU {cpu}: its stops are not recorded");
        return;
    }
    let mut next_ns = monotonic_ns() + TICK_NS;
    while !stop.load(Ordering::Relaxed) {
        sleep_until_ns(next_ns);
        let late_ns = monotonic_ns().saturating_sub(next_ns);
        let mut records = locked(records);
        records.ticks += 1;
        if late_ns > LATE_NS {
            if records.stalls.len() < STALLS_MAX {
                records.stalls.push(Stall { cpu, start_ns: next_ns, length_ns: late_ns });
            } else {
                records.missed += 1;
            }
        }
        drop(records);
        // After a stall the ticks that were slept through are not made up for.
        next_ns += TICK_NS * (1 + late_ns / TICK_NS);
    }
}
