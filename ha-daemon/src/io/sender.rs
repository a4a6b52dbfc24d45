//! The sender: one thread that sends this node's heartbeats on absolute time.
//!
//! What it says (generation, phase, echo) is read from atomics; on its path there is no allocation,
//! no lock, no disk and no log. It also is the node's sense of its own pauses: a tick that comes
//! late by more than a quarter of deadtime says that this node did not run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use ha_common::auth::Key;
use ha_common::wire::{Header, Kind, Phase, layers};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};
use socket2::SockAddr;

use super::clock::monotonic_ns;
use super::realtime;
use super::socket::LinkSocket;

/// Age of the driver's last sign of life up to which the daemon layer counts as alive. The driver
/// wakes at least every [`crate::driver::WAKE_MAX`].
const DAEMON_LEASE: Duration = Duration::from_secs(1);

/// What the sender says of one path, written by the driver.
#[derive(Debug, Default)]
pub struct PathWords {
    /// Incarnation of the peer as last heard.
    pub echo: AtomicU64,
    /// Whether the peer is heard on this link.
    pub hears: AtomicBool,
    /// Heartbeats sent.
    pub sent: AtomicU64,
    /// Heartbeats that the local kernel refused.
    pub errors: AtomicU64,
}

/// What driver and sender share.
#[derive(Debug)]
pub struct Shared {
    /// Number of this node's state.
    pub generation: AtomicU32,
    /// See [`Phase`].
    pub phase: AtomicU8,
    /// When the driver last ran.
    pub driver_ran_ns: AtomicU64,
    /// When the sender last ran.
    pub sender_ran_ns: AtomicU64,
    /// End of the last pause that the sender noticed; 0 = none.
    pub pause_end_ns: AtomicU64,
    /// Its length.
    pub pause_ns: AtomicU64,
    /// Largest lateness of a tick.
    pub lateness_max_ns: AtomicU64,
    /// Number of the last heartbeat; the next program of this process goes on from it.
    pub sequence: AtomicU64,
    /// By path.
    pub paths: Vec<PathWords>,
    stop: AtomicBool,
}

impl Shared {
    /// For so many paths.
    #[must_use]
    pub fn new(paths: usize) -> Self {
        let now = monotonic_ns();
        Self {
            generation: AtomicU32::new(0),
            phase: AtomicU8::new(Phase::Starting as u8),
            driver_ran_ns: AtomicU64::new(now),
            sender_ran_ns: AtomicU64::new(now),
            pause_end_ns: AtomicU64::new(0),
            pause_ns: AtomicU64::new(0),
            lateness_max_ns: AtomicU64::new(0),
            sequence: AtomicU64::new(0),
            paths: (0..paths).map(|_| PathWords::default()).collect(),
            stop: AtomicBool::new(false),
        }
    }
}

/// Where the sender sends on one path.
#[derive(Debug)]
pub struct Target {
    /// Its socket.
    pub socket: LinkSocket,
    /// The peer's address.
    pub remote: SockAddr,
    /// Cluster, sender, receiver, link, key and incarnation.
    pub header: Header,
}

/// The running thread.
#[derive(Debug)]
pub struct Sender {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

/// How the sender runs.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Interval between two heartbeats.
    pub keepalive: Duration,
    /// Lateness of a tick that counts as a pause of this node.
    pub pause: Duration,
    /// Key that signs.
    pub key: Key,
}

impl Sender {
    /// Starts the thread. `scheduled` is called on it with what scheduling it was granted.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn start(
        plan: Plan,
        targets: Vec<Target>,
        shared: Arc<Shared>,
        scheduled: impl FnOnce(String) + Send + 'static,
    ) -> Result<Self> {
        let words = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("ha-sender".to_owned())
            .spawn(move || {
                scheduled(realtime::take_fifo(realtime::SENDER_PRIORITY));
                run(&plan, targets, &words);
            })
            .context("cannot start the sender's thread")?;
        Ok(Self { shared, thread })
    }

    /// What it shares.
    #[must_use]
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Stops it after at most one keepalive, right after a heartbeat.
    pub fn stop(self) {
        self.shared.stop.store(true, Relaxed);
        let _ = self.thread.join();
    }
}

fn run(plan: &Plan, mut targets: Vec<Target>, shared: &Shared) {
    let keepalive_ns = plan.keepalive.as_nanos() as u64;
    let pause_ns = plan.pause.as_nanos() as u64;
    let mut next_ns = monotonic_ns();
    while !shared.stop.load(Relaxed) {
        sleep_until(next_ns);
        let now_ns = monotonic_ns();
        let lateness_ns = now_ns.saturating_sub(next_ns);
        shared.lateness_max_ns.fetch_max(lateness_ns, Relaxed);
        if lateness_ns > pause_ns {
            shared.pause_ns.store(lateness_ns, Relaxed);
            shared.pause_end_ns.store(now_ns, Relaxed);
        }
        let sequence = shared.sequence.fetch_add(1, Relaxed) + 1;
        send_all(&mut targets, shared, &plan.key, sequence);
        shared.sender_ran_ns.store(now_ns, Relaxed);
        // Missed ticks are not made up for: the next one is in the future, on the same grid.
        let missed = lateness_ns / keepalive_ns;
        next_ns += keepalive_ns * (missed + 1);
    }
}

fn send_all(targets: &mut [Target], shared: &Shared, key: &Key, sequence: u64) {
    let age_ns = monotonic_ns().saturating_sub(shared.driver_ran_ns.load(Relaxed));
    let daemon = if age_ns < DAEMON_LEASE.as_nanos() as u64 { layers::DAEMON } else { 0 };
    for (target, words) in targets.iter_mut().zip(&shared.paths) {
        let link = if words.hears.load(Relaxed) { layers::LINK } else { 0 };
        let header = &mut target.header;
        header.kind = Kind::Heartbeat;
        header.sequence = sequence;
        header.echo = words.echo.load(Relaxed);
        header.generation = shared.generation.load(Relaxed);
        header.phase = Phase::from_wire(shared.phase.load(Relaxed));
        header.layers = link | layers::KERNEL | daemon;
        header.lease_age_ms = u16::try_from(age_ns / 1_000_000).unwrap_or(u16::MAX);
        header.sent_ns = monotonic_ns();
        let mut fixed = header.encode();
        key.sign(&mut fixed);
        match target.socket.send(&fixed.to_bytes(), &target.remote) {
            Ok(()) => words.sent.fetch_add(1, Relaxed),
            Err(_) => words.errors.fetch_add(1, Relaxed),
        };
    }
}

fn sleep_until(moment_ns: u64) {
    let moment = TimeSpec::from_duration(Duration::from_nanos(moment_ns));
    // A signal may end the sleep early: sleep again until the same moment.
    while clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &moment)
        == Err(nix::errno::Errno::EINTR)
    {}
}
