//! Records when somebody held the kernel's network lock (RTNL), of which there is one for all
//! namespaces: whoever adds an address meanwhile waits for others who make or remove interfaces.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Result;
use serde::Serialize;

use super::{Watcher, locked};
use crate::bed::Netns;
use crate::bed::netlink::Rtnetlink;
use crate::clock::{MS_NS, monotonic_ns, sleep_until_ns};

const TICK_NS: u64 = MS_NS;
/// A wait from which on it is recorded.
const WAIT_NS: u64 = MS_NS / 2;
const WAITS_MAX: usize = 10_000;
const PRIORITY: u8 = 85;

/// A time in which the lock was not to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LockWait {
    /// When it was asked for.
    pub start_ns: u64,
    /// How long that took.
    pub length_ns: u64,
}

/// A thread that asks for the lock every millisecond, by a change that changes nothing. It costs
/// about 1 % of a CPU: start it for one measurement, not for a calm.
#[derive(Debug)]
pub struct LockRecorder {
    records: Arc<Mutex<Vec<LockWait>>>,
    _watcher: Watcher,
}

impl LockRecorder {
    /// Starts asking from inside of `netns`.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the thread not be started.
    pub fn start(netns: &Arc<Netns>) -> Result<Self> {
        let records = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&records);
        let netns = Arc::clone(netns);
        let watcher = Watcher::start("locks", Some(PRIORITY), move |stop| {
            if let Err(error) = netns.enter().and_then(|()| tick(&shared, stop)) {
                eprintln!("the network lock is not watched any more: {error:#}");
            }
        })?;
        Ok(Self { records, _watcher: watcher })
    }

    /// Waits longer than 0.5 ms that overlap the time from `from_ns` to `to_ns`, oldest first. A
    /// wait is recorded when it is over.
    #[must_use]
    pub fn waits_in(&self, from_ns: u64, to_ns: u64) -> Vec<LockWait> {
        let overlaps =
            |wait: &&LockWait| wait.start_ns <= to_ns && wait.start_ns + wait.length_ns >= from_ns;
        locked(&self.records).iter().filter(overlaps).copied().collect()
    }
}

fn tick(records: &Mutex<Vec<LockWait>>, stop: &AtomicBool) -> Result<()> {
    let link = Rtnetlink::open(0)?;
    let mut next_ns = monotonic_ns();
    while !stop.load(Ordering::Relaxed) {
        sleep_until_ns(next_ns);
        let start_ns = monotonic_ns();
        link.set_up("lo", true)?;
        let now_ns = monotonic_ns();
        let wait = LockWait { start_ns, length_ns: now_ns - start_ns };
        let mut records = locked(records);
        if wait.length_ns > WAIT_NS && records.len() < WAITS_MAX {
            records.push(wait);
        }
        next_ns = (next_ns + TICK_NS).max(now_ns);
    }
    Ok(())
}
