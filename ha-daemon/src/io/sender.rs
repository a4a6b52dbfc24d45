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
use ha_common::wire::{Header, Kind, Phase, layers};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};
use socket2::SockAddr;

use super::clock::monotonic_ns;
use super::keys::{Keys, SharedSigning};
use super::lateness::Lateness;
use super::realtime::{self, Granted};
use super::serial::beat::{Beat as Heartbeat, BeatWriter};
use super::socket::LinkSocket;
use crate::config::Realtime;

/// Age of the driver's last sign of life up to which the daemon layer counts as alive. The driver
/// wakes at least every [`crate::driver::WAKE_MAX`].
const DAEMON_LEASE: Duration = Duration::from_secs(1);

/// Longest sleep of the sender: after at most this time it sees that it is to stop.
const SLEEP_MAX: Duration = Duration::from_millis(250);

/// What the sender says of one path, written by the driver.
#[derive(Debug, Default)]
pub struct PathWords {
    /// Incarnation of the peer as last heard.
    pub echo: AtomicU64,
    /// Whether the peer is heard on this link.
    pub hears: AtomicBool,
    /// Which key signs.
    pub signing: SharedSigning,
    /// Number of the last heartbeat; the next program of this process goes on from it.
    pub sequence: AtomicU64,
    /// Number of the last probe, likewise.
    pub probe_sequence: AtomicU64,
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
    /// Whether all groups that this node owns are well.
    pub services_well: AtomicBool,
    /// When the driver last ran.
    pub driver_ran_ns: AtomicU64,
    /// When the sender last ran.
    pub sender_ran_ns: AtomicU64,
    /// End of the last pause that the sender noticed; 0 = none.
    pub pause_end_ns: AtomicU64,
    /// Its length.
    pub pause_ns: AtomicU64,
    /// Lateness that counts as one, if it is more than the sender's own limit.
    pub pause_limit_ns: AtomicU64,
    /// How late the sender's ticks were.
    pub sender_late: Lateness,
    /// How late the address worker ran, which fills it.
    pub address_late: Arc<Lateness>,
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
            services_well: AtomicBool::new(false),
            driver_ran_ns: AtomicU64::new(now),
            sender_ran_ns: AtomicU64::new(now),
            pause_end_ns: AtomicU64::new(0),
            pause_ns: AtomicU64::new(0),
            pause_limit_ns: AtomicU64::new(0),
            sender_late: Lateness::default(),
            address_late: Arc::default(),
            paths: (0..paths).map(|_| PathWords::default()).collect(),
            stop: AtomicBool::new(false),
        }
    }
}

/// Where the sender sends on one path.
#[derive(Debug)]
pub struct Target {
    /// Its path.
    pub slot: usize,
    /// The way out.
    pub exit: Exit,
    /// Cluster, sender, receiver, link, offered key, incarnation and keepalive.
    pub header: Header,
    /// Interval between two heartbeats.
    pub keepalive: Duration,
}

/// How heartbeats of a path leave; neither way waits.
#[derive(Debug)]
pub enum Exit {
    /// By UDP.
    Network {
        /// The socket.
        socket: LinkSocket,
        /// Where what is for the peer goes.
        remotes: Vec<SockAddr>,
    },
    /// By the thread of a serial line.
    Serial(BeatWriter),
}

impl Exit {
    /// Whether the datagram left, or was handed over.
    fn send(&mut self, bytes: &Heartbeat) -> bool {
        match self {
            Self::Network { socket, remotes } => {
                let mut refused = false;
                for remote in remotes {
                    refused |= socket.send(bytes, remote).is_err();
                }
                !refused
            }
            Self::Serial(line) => {
                line.offer(bytes);
                true
            }
        }
    }
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
    /// Interval of the ticks of a sender that has no target.
    pub idle: Duration,
    /// Lateness of a tick that counts as a pause of this node.
    pub pause: Duration,
    /// Keys that sign.
    pub keys: Arc<Keys>,
    /// Whether its thread asks for real-time priority.
    pub realtime: Realtime,
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
        scheduled: impl FnOnce(Granted) + Send + 'static,
    ) -> Result<Self> {
        let words = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("ha-sender".to_owned())
            .spawn(move || {
                scheduled(realtime::take_fifo(plan.realtime, realtime::SENDER_PRIORITY));
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

    /// Stops it after at most `SLEEP_MAX`, right after a heartbeat when one was due by then.
    pub fn stop(self) {
        self.shared.stop.store(true, Relaxed);
        let _ = self.thread.join();
    }
}

/// A target and when it is due.
struct Due {
    target: Target,
    beat: Beat,
}

/// A grid of moments on absolute time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Beat {
    next_ns: u64,
    interval_ns: u64,
}

impl Beat {
    fn new(start_ns: u64, interval: Duration) -> Self {
        Self { next_ns: start_ns, interval_ns: (interval.as_nanos() as u64).max(1) }
    }

    /// Whether a moment of it has come; the next one then is in the future. Those that were missed
    /// are not made up for.
    fn strike(&mut self, now_ns: u64) -> bool {
        let Some(late_ns) = now_ns.checked_sub(self.next_ns) else { return false };
        self.next_ns += self.interval_ns * (late_ns / self.interval_ns + 1);
        true
    }
}

fn run(plan: &Plan, targets: Vec<Target>, shared: &Shared) {
    let pause_ns = plan.pause.as_nanos() as u64;
    let start_ns = monotonic_ns();
    let due = |target: Target| Due { beat: Beat::new(start_ns, target.keepalive), target };
    let mut targets: Vec<Due> = targets.into_iter().map(due).collect();
    // A sender without targets still is the node's sense of its own pauses.
    let mut idle = targets.is_empty().then(|| Beat::new(start_ns, plan.idle));
    while !shared.stop.load(Relaxed) {
        let beats = targets.iter().map(|due| &due.beat).chain(&idle);
        let Some(next_ns) = beats.map(|beat| beat.next_ns).min() else { return };
        let latest_ns = monotonic_ns() + SLEEP_MAX.as_nanos() as u64;
        sleep_until(next_ns.min(latest_ns));
        if latest_ns < next_ns {
            continue;
        }
        let now_ns = monotonic_ns();
        let lateness_ns = now_ns.saturating_sub(next_ns);
        shared.sender_late.note(lateness_ns);
        if lateness_ns > pause_ns.max(shared.pause_limit_ns.load(Relaxed)) {
            shared.pause_ns.store(lateness_ns, Relaxed);
            shared.pause_end_ns.store(now_ns, Relaxed);
        }
        send_due(&mut targets, shared, &plan.keys, now_ns);
        if let Some(idle) = &mut idle {
            idle.strike(now_ns);
        }
        shared.sender_ran_ns.store(now_ns, Relaxed);
    }
}

fn send_due(targets: &mut [Due], shared: &Shared, keys: &Keys, now_ns: u64) {
    let age_ns = monotonic_ns().saturating_sub(shared.driver_ran_ns.load(Relaxed));
    let daemon = if age_ns < DAEMON_LEASE.as_nanos() as u64 { layers::DAEMON } else { 0 };
    // A daemon that hangs knows nothing of its services.
    let well = daemon != 0 && shared.services_well.load(Relaxed);
    let services = if well { layers::SERVICE } else { 0 };
    for Due { target, beat } in targets {
        let Some(words) = shared.paths.get(target.slot) else { continue };
        if !beat.strike(now_ns) {
            continue;
        }
        let sequence = words.sequence.fetch_add(1, Relaxed) + 1;
        let link = if words.hears.load(Relaxed) { layers::LINK } else { 0 };
        let header = &mut target.header;
        header.kind = Kind::Heartbeat;
        header.sequence = sequence;
        header.echo = words.echo.load(Relaxed);
        header.generation = shared.generation.load(Relaxed);
        header.phase = Phase::from_wire(shared.phase.load(Relaxed));
        header.layers = link | layers::KERNEL | daemon | services;
        header.lease_age_ms = u16::try_from(age_ns / 1_000_000).unwrap_or(u16::MAX);
        header.sent_ns = monotonic_ns();
        let signer = keys.signer(words.signing.get(), sequence);
        header.key = signer.number;
        let mut fixed = header.encode();
        signer.key.sign(&mut fixed);
        let sent = target.exit.send(&fixed.to_bytes());
        let counter = if sent { &words.sent } else { &words.errors };
        counter.fetch_add(1, Relaxed);
    }
}

fn sleep_until(moment_ns: u64) {
    let moment = TimeSpec::from_duration(Duration::from_nanos(moment_ns));
    // A signal may end the sleep early: sleep again until the same moment.
    while clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &moment)
        == Err(nix::errno::Errno::EINTR)
    {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_strikes_once_per_interval_and_makes_up_for_nothing() {
        let mut beat = Beat::new(100, Duration::from_nanos(10));
        let struck: Vec<u64> = (95..145).filter(|now| beat.strike(*now)).collect();
        assert_eq!(struck, [100, 110, 120, 130, 140]);
        assert!(beat.strike(187));
        assert_eq!(beat.next_ns, 190, "on the same grid");
        assert!(!beat.strike(189));
    }
}
