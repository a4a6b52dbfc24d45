//! The thread of one serial line: owns the device, reads, writes, and waits for it when it is gone.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::EventFd;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::time::TimeSpec;

use super::beat::BeatReader;
use super::framing;
use super::port::Port;
use super::writer::{Message, Writer};
use super::{Arrival, LineCounters, LineNews};
use crate::config::Realtime;
use crate::io::clock::monotonic_ns;
use crate::io::mailbox::{Letter, Mailbox};
use crate::io::realtime;

/// Pause between two attempts to open a device that is gone, when nothing says that it is back.
const RETRY: Duration = Duration::from_secs(1);
/// How long a line that is stopped goes on writing what waits.
const STOP_FLUSH_MAX: Duration = Duration::from_secs(1);
/// Most bytes that are read before something is written again.
const READ_BYTES: usize = 4_096;

/// What a line is made of.
pub(super) struct Parts {
    pub(super) line: usize,
    pub(super) device: PathBuf,
    pub(super) baud: u32,
    pub(super) realtime: Realtime,
    pub(super) beats: Vec<BeatReader>,
    pub(super) orders: Receiver<(usize, Message)>,
    pub(super) wake: Arc<EventFd>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) arrivals: SyncSender<Arrival>,
    pub(super) driver_wake: Arc<EventFd>,
    pub(super) counters: Arc<LineCounters>,
    pub(super) mailbox: Mailbox,
}

/// The thread's own state.
pub(super) struct Worker {
    parts: Parts,
    port: Option<Port>,
    receiver: framing::Receiver,
    writer: Writer,
    /// Tells that the device may be back; there only while it is gone.
    watch: Option<Inotify>,
    retry_at_ns: u64,
    /// Until when a stop may take.
    stop_by_ns: Option<u64>,
}

impl Worker {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            writer: Writer::new(parts.baud, parts.beats.len()),
            port: None,
            receiver: framing::Receiver::default(),
            watch: None,
            retry_at_ns: 0,
            stop_by_ns: None,
            parts,
        }
    }

    /// Runs until it is stopped. Returns what could not be taken down.
    pub(super) fn run(mut self, port: Result<Port, String>) -> Option<String> {
        let granted = realtime::take_fifo(self.parts.realtime, realtime::SERIAL_PRIORITY);
        self.parts.mailbox.post(Letter::Scheduling { thread: "serial", granted });
        match port {
            Ok(port) => {
                self.port = Some(port);
                self.parts.counters.open.store(true, Relaxed);
            }
            Err(cause) => self.lost(cause),
        }
        let mut buffer = [0; READ_BYTES];
        loop {
            let now_ns = monotonic_ns();
            // What was ordered before the stop is carried out: the flag is read first.
            self.note_stop(now_ns);
            let _ = self.parts.wake.read();
            while let Ok((peer, message)) = self.parts.orders.try_recv() {
                self.writer.send(peer, message, now_ns);
            }
            if self.port.is_some() {
                self.write(now_ns);
            } else {
                self.wait_for_device(now_ns);
            }
            self.publish();
            let wake_ns = self.wake_ns();
            if self.stop_by_ns.is_some_and(|by_ns| self.stopped(wake_ns, by_ns)) {
                return self.close();
            }
            if self.sleep(wake_ns) {
                self.read(&mut buffer);
            }
        }
    }

    fn note_stop(&mut self, now_ns: u64) {
        if self.stop_by_ns.is_none() && self.parts.stop.load(Relaxed) {
            self.stop_by_ns = Some(now_ns + STOP_FLUSH_MAX.as_nanos() as u64);
        }
    }

    /// Whether nothing is left to be written, or it has taken too long.
    fn stopped(&self, wake_ns: Option<u64>, by_ns: u64) -> bool {
        let now_ns = monotonic_ns();
        let sent = wake_ns.is_none() && now_ns >= self.writer.free_at_ns();
        self.port.is_none() || sent || now_ns >= by_ns
    }

    fn close(self) -> Option<String> {
        let device = self.parts.device.display().to_string();
        let outcome = self.port?.close();
        outcome.err().map(|error| format!("{device} keeps its settings as a line: {error}"))
    }

    /// Writes what the line can take now.
    fn write(&mut self, now_ns: u64) {
        let Some(port) = &self.port else { return };
        let (beats, counters) = (&mut self.parts.beats, &self.parts.counters);
        let bytes = self.writer.next(now_ns, port.queued(), |peer| {
            let (beat, replaced) = beats.get_mut(peer)?.take()?;
            counters.skipped.fetch_add(replaced, Relaxed);
            Some(beat)
        });
        if bytes.is_empty() {
            return;
        }
        match port.write(&bytes) {
            Ok(taken) => self.writer.wrote(taken, now_ns),
            Err(error) => self.lost(error.to_string()),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) {
        let Some(port) = &self.port else { return };
        match port.read(buffer) {
            Ok(None) => {}
            Ok(Some(length)) => {
                let at_ns = monotonic_ns();
                let Parts { line, arrivals, counters, driver_wake, .. } = &self.parts;
                self.receiver.push(buffer.get(..length).unwrap_or_default(), |datagram| {
                    let arrival = Arrival { line: *line, datagram: datagram.to_vec(), at_ns };
                    if arrivals.try_send(arrival).is_err() {
                        counters.dropped.fetch_add(1, Relaxed);
                    }
                    let _ = driver_wake.write(1);
                });
            }
            Err(error) => self.lost(error.to_string()),
        }
    }

    /// The device is gone. Nothing that was under way is gone on with when it is back.
    fn lost(&mut self, cause: String) {
        self.port = None;
        self.receiver.restart();
        self.writer.restart();
        self.parts.counters.open.store(false, Relaxed);
        self.parts.counters.times_lost.fetch_add(1, Relaxed);
        self.watch = watch(&self.parts.device);
        self.retry_at_ns = monotonic_ns() + RETRY.as_nanos() as u64;
        let news = LineNews { line: self.parts.line, lost: Some(cause) };
        self.parts.mailbox.post(Letter::Serial(news));
    }

    /// Opens the device when there is a reason to try.
    fn wait_for_device(&mut self, now_ns: u64) {
        for beat in &mut self.parts.beats {
            if let Some((_, replaced)) = beat.take() {
                self.parts.counters.skipped.fetch_add(1 + replaced, Relaxed);
            }
        }
        let name = self.parts.device.file_name();
        let events = self.watch.as_ref().and_then(|watch| watch.read_events().ok());
        let named =
            events.is_some_and(|events| events.iter().any(|event| event.name.as_deref() == name));
        if !named && now_ns < self.retry_at_ns {
            return;
        }
        self.retry_at_ns = now_ns + RETRY.as_nanos() as u64;
        // Why it cannot be opened was told when it was lost.
        if let Ok(port) = Port::open(&self.parts.device, self.parts.baud) {
            self.port = Some(port);
            self.watch = None;
            self.parts.counters.open.store(true, Relaxed);
            let news = LineNews { line: self.parts.line, lost: None };
            self.parts.mailbox.post(Letter::Serial(news));
        }
    }

    fn publish(&self) {
        let Parts { counters, .. } = &self.parts;
        let (counts, unwritten) = (self.receiver.counts(), self.writer.unwritten());
        counters.frames.store(counts.frames, Relaxed);
        counters.bad_frames.store(counts.bad_frames, Relaxed);
        counters.noise_bytes.store(counts.noise_bytes, Relaxed);
        counters.broken.store(counts.broken, Relaxed);
        counters.replaced.store(unwritten.replaced, Relaxed);
        counters.repeated.store(unwritten.repeated, Relaxed);
    }

    /// When something can be written, or the device is to be tried.
    fn wake_ns(&self) -> Option<u64> {
        let Some(port) = &self.port else { return Some(self.retry_at_ns) };
        let beats = self.parts.beats.iter().any(BeatReader::waiting);
        self.writer.wake_ns(monotonic_ns(), port.queued(), beats)
    }

    /// Sleeps until then, or until something happens; whether there is something to read.
    fn sleep(&self, wake_ns: Option<u64>) -> bool {
        // While it stops, the end of what is under way is an event as well.
        let stop_ns = self.stop_by_ns.map(|by_ns| match wake_ns {
            None => self.writer.free_at_ns().min(by_ns),
            Some(_) => by_ns,
        });
        let until_ns = wake_ns.into_iter().chain(stop_ns).min();
        let timeout = until_ns.map(|until_ns| {
            let left_ns = until_ns.saturating_sub(monotonic_ns());
            TimeSpec::from_duration(Duration::from_nanos(left_ns))
        });
        let mut waiting = vec![PollFd::new(self.parts.wake.as_fd(), PollFlags::POLLIN)];
        if let Some(port) = &self.port {
            waiting.push(PollFd::new(port.as_fd(), PollFlags::POLLIN));
        } else if let Some(watch) = &self.watch {
            waiting.push(PollFd::new(watch.as_fd(), PollFlags::POLLIN));
        }
        match ppoll(&mut waiting, timeout, None) {
            // A hangup is something to read as well.
            Ok(_) => waiting.get(1).and_then(PollFd::any).unwrap_or(false),
            Err(_) => false,
        }
    }
}

/// Watches the directory of a device for its return. Without it, the device is tried once a second.
fn watch(device: &Path) -> Option<Inotify> {
    let watch = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok()?;
    // Permissions are often set (IN_ATTRIB) a moment after the device was made.
    let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ATTRIB;
    watch.add_watch(device.parent()?, flags).ok()?;
    Some(watch)
}
