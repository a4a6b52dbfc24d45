//! A flood of frames from a third host at a bounded rate, until it is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;

use crate::clock::{as_ns, monotonic_ns, sleep_until_ns};
use crate::observe::Watcher;
use crate::rogue::{Frame, Network, Rogue};

/// Frames go out in portions, one in each of these.
const TICK: Duration = Duration::from_millis(1);
const TICKS_PER_SECOND: u64 = 1_000;

/// What is sent, to whom, how fast.
#[derive(Debug)]
pub struct FloodPlan {
    /// Frames by network; each network's are sent in turn.
    pub frames: Vec<(Network, Vec<Frame>)>,
    /// All networks together.
    pub frames_per_second: u64,
    /// `SCHED_FIFO` of the sender. On a virtual cable the sender's own thread does the receiver's
    /// softirq: what an interrupt would do above every thread is done at this priority here.
    pub priority: u8,
}

/// A flood under way.
#[derive(Debug)]
pub struct Flood {
    sent: Arc<AtomicU64>,
    _watcher: Watcher,
}

impl Flood {
    /// Begins.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(rogue: Arc<Rogue>, plan: FloodPlan) -> Result<Self> {
        let sent = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&sent);
        let watcher = Watcher::start("flood", Some(plan.priority), move |stop| {
            run(&rogue, &plan, &counter, stop);
        })?;
        Ok(Self { sent, _watcher: watcher })
    }

    /// Frames that the kernel took so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

fn run(rogue: &Rogue, plan: &FloodPlan, sent: &AtomicU64, stop: &AtomicBool) {
    let networks = plan.frames.len().max(1) as u64;
    let portion = plan.frames_per_second.div_ceil(TICKS_PER_SECOND).div_ceil(networks);
    let mut next_ns = monotonic_ns();
    while !stop.load(Ordering::Relaxed) {
        sleep_until_ns(next_ns);
        for (network, frames) in &plan.frames {
            // A full queue is part of a flood; the counter tells how much of it happened.
            if rogue.flood(*network, frames, portion).is_ok() {
                sent.fetch_add(portion, Ordering::Relaxed);
            }
        }
        // What was missed is not made up for: the rate stays bounded.
        next_ns = (next_ns + as_ns(TICK)).max(monotonic_ns());
    }
}
