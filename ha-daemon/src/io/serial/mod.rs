//! Serial lines: the same datagrams as over UDP, framed.
//!
//! Each line has a thread of its own (`ha-serial`), which opens, reads and writes its device: what a
//! driver does in open(2) or tcsetattr(3) may take its time, and noise wakes nobody else. The sender
//! hands heartbeats over without a lock ([`beat`]), the driver control messages by a bounded queue;
//! what arrives goes to the driver by another one, datagrams only.

pub mod beat;
pub mod framing;
mod line;
pub mod port;
pub mod writer;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::mailbox::Mailbox;
use super::paths::{Carrier, Path};
use crate::config::{Config, LinkIndex, LinkKind, Realtime};
use beat::{BeatWriter, hand_over};
use line::Worker;
use port::{Port, PortError};
use writer::Message;

/// Most datagrams that wait for the driver; one more is dropped and counted.
const ARRIVALS_MAX: usize = 256;
/// Most control messages that wait for a line's thread; one more is refused.
const COMMANDS_MAX: usize = 64;

/// A datagram that came on a line. Nothing of it is checked but the checksum of its frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// Position of the line in [`Lines`].
    pub line: usize,
    /// The datagram.
    pub datagram: Vec<u8>,
    /// When its last byte was read, `CLOCK_MONOTONIC`.
    pub at_ns: u64,
}

/// News of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineNews {
    /// Position of the line in [`Lines`].
    pub line: usize,
    /// Why it is lost; `None`: it is back.
    pub lost: Option<String>,
}

/// What a line has counted.
#[derive(Debug, Default)]
pub struct LineCounters {
    /// Whether its device is open.
    pub open: AtomicBool,
    /// How often it was lost.
    pub times_lost: AtomicU64,
    /// Frames received.
    pub frames: AtomicU64,
    /// What came between two borders and was no frame.
    pub bad_frames: AtomicU64,
    /// Bytes of those.
    pub noise_bytes: AtomicU64,
    /// Messages of which a piece was missing.
    pub broken: AtomicU64,
    /// Datagrams for which the driver had no room.
    pub dropped: AtomicU64,
    /// Heartbeats that were not written: the line was busy or lost.
    pub skipped: AtomicU64,
    /// Control messages that a newer one replaced before they were written.
    pub replaced: AtomicU64,
    /// Control messages that said again what had just been written.
    pub repeated: AtomicU64,
}

/// One line.
#[derive(Debug)]
pub struct Line {
    /// Its link.
    pub link: LinkIndex,
    /// Its device.
    pub device: PathBuf,
    /// Bits per second.
    pub baud: u32,
    /// Paths on it, by their slots; positions here are its peers.
    pub slots: Vec<usize>,
    /// What it has counted.
    pub counters: Arc<LineCounters>,
    commands: SyncSender<(usize, Message)>,
    wake: Arc<EventFd>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Option<String>>>,
}

/// All lines of this node, each running. Dropping them stops them.
#[derive(Debug)]
pub struct Lines {
    lines: Vec<Line>,
    arrivals: Receiver<Arrival>,
    wake: Arc<EventFd>,
    beats: BTreeMap<usize, BeatWriter>,
}

impl Lines {
    /// Opens and starts the lines of these paths. A device that is not there is waited for if there
    /// is any other path to a peer.
    ///
    /// # Errors
    /// A device that cannot be used, or that is not there and would be the only way to the peers.
    pub fn start(config: &Config, paths: &[Path], mailbox: &Mailbox) -> Result<Self> {
        let (sender, arrivals) = sync_channel(ARRIVALS_MAX);
        let wake = Arc::new(eventfd()?);
        let mut lines = Self { lines: Vec::new(), arrivals, wake, beats: BTreeMap::new() };
        let mut reachable = paths.iter().any(|path| path.network().is_some());
        let mut absent = None;
        let mut opened = Vec::new();
        for (device, slots) in by_device(paths) {
            match Port::open(&device, baud(config, &paths[slots[0]])) {
                Ok(port) => {
                    reachable = true;
                    opened.push((device, slots, Ok(port)));
                }
                Err(error @ PortError::Absent { .. }) => {
                    let cause = error.to_string();
                    absent.get_or_insert(error);
                    opened.push((device, slots, Err(cause)));
                }
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(absent) = absent.filter(|_| !reachable) {
            return Err(absent).context("there is no other path to any peer");
        }
        for (device, slots, port) in opened {
            let path = &paths[slots[0]];
            let (link, realtime) = (path.link, config.realtime);
            let plan = Plan { link, baud: baud(config, path), realtime, device, slots };
            lines.add(plan, port, &sender, mailbox)?;
        }
        Ok(lines)
    }

    fn add(
        &mut self,
        plan: Plan,
        port: Result<Port, String>,
        arrivals: &SyncSender<Arrival>,
        mailbox: &Mailbox,
    ) -> Result<()> {
        let Plan { link, device, baud, realtime, slots } = plan;
        let (commands, orders) = sync_channel(COMMANDS_MAX);
        let wake = Arc::new(eventfd()?);
        let mut beats = Vec::new();
        for slot in &slots {
            let (writer, reader) = hand_over(Arc::clone(&wake));
            self.beats.insert(*slot, writer);
            beats.push(reader);
        }
        let counters = Arc::new(LineCounters::default());
        let stop = Arc::new(AtomicBool::new(false));
        let worker = Worker::new(line::Parts {
            line: self.lines.len(),
            device: device.clone(),
            baud,
            realtime,
            beats,
            orders,
            wake: Arc::clone(&wake),
            stop: Arc::clone(&stop),
            arrivals: arrivals.clone(),
            driver_wake: Arc::clone(&self.wake),
            counters: Arc::clone(&counters),
            mailbox: mailbox.clone(),
        });
        let thread = std::thread::Builder::new()
            .name("ha-serial".to_owned())
            .spawn(move || worker.run(port))
            .context("cannot start the thread of a serial line")?;
        let thread = Some(thread);
        self.lines.push(Line { link, device, baud, slots, counters, commands, wake, stop, thread });
        Ok(())
    }

    /// Where the sender leaves heartbeats for a path; once.
    pub fn take_beat(&mut self, slot: usize) -> Option<BeatWriter> {
        self.beats.remove(&slot)
    }

    /// The line of a path.
    #[must_use]
    pub fn of_slot(&self, slot: usize) -> Option<&Line> {
        self.lines.iter().find(|line| line.slots.contains(&slot))
    }

    /// The line in that position.
    #[must_use]
    pub fn get(&self, line: usize) -> Option<&Line> {
        self.lines.get(line)
    }

    /// The next datagram that came on any line. Its descriptor ([`AsFd`]) is readable when there is
    /// one, and until [`Lines::acknowledge`].
    #[must_use]
    pub fn arrival(&self) -> Option<Arrival> {
        self.arrivals.try_recv().ok()
    }

    /// Takes note of the wake-up; to be called before the arrivals are taken.
    pub fn acknowledge(&self) {
        let _ = self.wake.read();
    }

    /// Asks to be woken again: not all arrivals were taken.
    pub fn remind(&self) {
        let _ = self.wake.write(1);
    }

    /// Stops all lines: what waits is written, for a second at most, and the devices get their
    /// settings back. Returns what could not be done.
    #[must_use]
    pub fn stop(mut self) -> Vec<String> {
        self.lines.iter().for_each(Line::ask_to_stop);
        self.lines.iter_mut().filter_map(Line::join).collect()
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.lines.iter().for_each(Line::ask_to_stop);
        for failure in self.lines.iter_mut().filter_map(Line::join) {
            tracing::error!("not taken down: {failure}");
        }
    }
}

impl AsFd for Lines {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl Line {
    /// Hands a control datagram for the path in `slot` to the line; `false`: it is lost, or has no
    /// room. Never waits.
    #[must_use]
    pub fn send(&self, slot: usize, body: &[u8], datagram: Vec<u8>) -> bool {
        let Some(peer) = self.slots.iter().position(|it| *it == slot) else { return false };
        if !self.counters.open.load(Relaxed) {
            return false;
        }
        let message = Message { body: body.to_vec(), datagram };
        let sent = match self.commands.try_send((peer, message)) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        };
        let _ = self.wake.write(1);
        sent
    }

    fn ask_to_stop(&self) {
        self.stop.store(true, Relaxed);
        let _ = self.wake.write(1);
    }

    fn join(&mut self) -> Option<String> {
        let thread = self.thread.take()?;
        match thread.join() {
            Ok(failure) => failure,
            Err(_) => Some(format!("the thread of {} failed", self.device.display())),
        }
    }
}

struct Plan {
    link: LinkIndex,
    device: PathBuf,
    baud: u32,
    realtime: Realtime,
    slots: Vec<usize>,
}

fn eventfd() -> Result<EventFd> {
    EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).context("no eventfd")
}

fn by_device(paths: &[Path]) -> BTreeMap<PathBuf, Vec<usize>> {
    let mut devices: BTreeMap<PathBuf, Vec<usize>> = BTreeMap::new();
    for (slot, path) in paths.iter().enumerate() {
        if let Carrier::Serial(serial) = &path.carrier {
            devices.entry(serial.device.clone()).or_default().push(slot);
        }
    }
    devices
}

fn baud(config: &Config, path: &Path) -> u32 {
    match config.links[path.link.0].kind {
        LinkKind::Serial { baud } => baud,
        // A serial path is of a serial link.
        LinkKind::Ucast { .. } | LinkKind::Mcast { .. } | LinkKind::Bcast => {
            crate::config::serial::BAUD_DEFAULT
        }
    }
}

#[cfg(test)]
mod tests;
