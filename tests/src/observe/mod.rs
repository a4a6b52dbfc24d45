//! Observers outside of the nodes. Every stamp is `CLOCK_MONOTONIC` nanoseconds, the daemon's own
//! clock, so that what is seen here and what the daemon tells can be put on one line of time.
//!
//! Observers run from `start` until they are dropped, in threads of real-time priority where that
//! is granted; what was granted is told by `scheduling`.

mod addresses;
mod announcements;
mod asker;
mod client;
mod heartbeats;
pub(crate) mod http;
mod locks;
mod stalls;
mod stamped;
mod tap;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

pub use addresses::{AddressChange, AddressEvent, AddressMonitor, both_held_ns, neither_held_ns};
pub use announcements::{Announcement, AnnouncementKind, Sniffer};
pub use asker::{Asker, Told, expect_only};
pub use client::{Answer, Client, ClientCounts, ClientOptions, Gap};
pub use heartbeats::{HeartbeatGap, HeartbeatWatch};
pub use locks::{LockRecorder, LockWait};
pub use stalls::{Stall, StallRecorder};
pub use tap::{Passed, Tap};

use crate::sys;

/// How long an observer may sleep before it looks whether it shall end.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// Above daemons, below observers.
const URGENT_PRIORITY: u8 = 80;

/// A thread that observes until this is dropped.
#[derive(Debug)]
pub(crate) struct Watcher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    scheduling: String,
}

impl Watcher {
    /// Starts `work` in a thread with `SCHED_FIFO` of `priority` where granted; `work` ends when
    /// the flag that it is given becomes true. Returns when the priority is settled.
    pub(crate) fn start(
        name: &str,
        priority: Option<u8>,
        work: impl FnOnce(&AtomicBool) + Send + 'static,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (sender, receiver) = sync_channel(1);
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // The starter waits for this very message.
                let _ = sender.send(request_fifo(priority));
                work(&stopped);
            })
            .with_context(|| format!("cannot start the observer {name}"))?;
        let scheduling = receiver.recv()?;
        Ok(Self { stop, thread: Some(thread), scheduling })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("an observer panicked: what it recorded is incomplete");
        }
    }
}

/// Runs `work` in a thread of `SCHED_FIFO` 80, where granted: above every daemon under test, so that
/// what it does at a moment is done at that moment also on a busy machine.
///
/// # Errors
/// What `work` says; or it panicked.
pub fn urgently<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    at_priority(URGENT_PRIORITY, work)
}

/// As [`urgently`], at another priority. Programs that `work` starts inherit it.
///
/// # Errors
/// As [`urgently`].
pub fn at_priority<T: Send>(priority: u8, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            // Without the right to it the work is still done, only less punctually.
            request_fifo(Some(priority));
            work()
        });
        worker.join().map_err(|_| anyhow!("urgent work panicked"))?
    })
}

/// Runs `work` in a thread of `SCHED_FIFO` `priority`, where granted, whose threads and programs are
/// ordinary ones: for the conductor of a load that must not starve by it.
///
/// # Errors
/// As [`urgently`].
pub fn punctually<T: Send>(priority: u8, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            if let Err(error) = sys::set_fifo_alone(priority) {
                eprintln!("SCHED_FIFO {priority} refused ({error}): steps may end late");
            }
            work()
        });
        worker.join().map_err(|_| anyhow!("punctual work panicked"))?
    })
}

fn request_fifo(priority: Option<u8>) -> String {
    let Some(priority) = priority else {
        return "SCHED_OTHER".to_owned();
    };
    match sys::set_fifo(priority) {
        Ok(()) => format!("SCHED_FIFO {priority}"),
        Err(error) => format!("SCHED_OTHER (SCHED_FIFO {priority} refused: {error})"),
    }
}

/// A MAC address as [`crate::bed::Bed::mac`] writes it.
fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Records are whole even when a thread panicked while it held the lock.
fn locked<T>(records: &Mutex<T>) -> MutexGuard<'_, T> {
    records.lock().unwrap_or_else(PoisonError::into_inner)
}
