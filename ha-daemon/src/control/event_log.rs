//! What happened, for whoever asks: a bounded log that the driver thread fills and tokio reads.
//!
//! The driver thread is real-time and must not wait for a reader that lost its CPU while it held a
//! lock. So every event has a slot of its own, a reader locks one slot for as long as it copies
//! it, and [`EventLog::push`] never waits for a slot: it counts the event as dropped instead. The
//! wake-up of followers leaves the driver as a datagram that may be lost for the same reason (tokio's
//! own channels take a lock); [`EventLog::relay`] hands it on among the tasks of tokio.
//!
//! Readers never lose an event silently: where events are gone, they get one of kind
//! [`EVENTS_MISSED`] in their place.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LockResult, Mutex, MutexGuard, PoisonError, TryLockError};

use tokio::sync::watch;

use super::event_kinds::EventKinds;
use crate::names::{GroupName, LinkName, NodeName};
use crate::snapshot::{Event, Severity};

/// Events held; older ones are overwritten.
pub const EVENTS_MAX: usize = 1_000;
/// Kind of the event that stands for those a reader can no longer get. Its `id` is the last one
/// missed, its times are those of the event that follows it.
pub const EVENTS_MISSED: &str = "events-missed";

/// An event before the log has numbered it.
#[derive(Debug, Clone, PartialEq)]
pub struct EventDraft {
    /// When, `CLOCK_MONOTONIC`, nanoseconds.
    pub monotonic_ns: u64,
    /// When, microseconds since 1970-01-01 UTC.
    pub unix_us: u64,
    /// How urgent it is.
    pub severity: Severity,
    /// What kind, a stable word such as `node-dead`.
    pub kind: String,
    /// The node it is about.
    pub node: Option<NodeName>,
    /// The link it is about.
    pub link: Option<LinkName>,
    /// The group it is about.
    pub group: Option<GroupName>,
    /// A sentence for an operator: event, subject, cause, figure.
    pub message: String,
}

impl EventDraft {
    fn numbered(self, id: u64) -> Event {
        Event {
            id,
            monotonic_ns: self.monotonic_ns,
            unix_us: self.unix_us,
            severity: self.severity,
            kind: self.kind,
            node: self.node,
            link: self.link,
            group: self.group,
            message: self.message,
        }
    }
}

/// The newest [`EVENTS_MAX`] events.
#[derive(Debug)]
pub struct EventLog {
    slots: Box<[Mutex<Option<Event>>]>,
    /// Keeps producers apart; readers never take it. Free when only the driver thread pushes.
    producer: Mutex<()>,
    last_id: AtomicU64,
    dropped: AtomicU64,
    kinds: EventKinds,
    wake: UnixDatagram,
    woken: UnixDatagram,
    relayed: watch::Sender<u64>,
}

impl EventLog {
    /// An empty log.
    ///
    /// # Errors
    /// When the kernel has no file descriptor left for the wake-up.
    pub fn new() -> io::Result<Self> {
        let (wake, woken) = UnixDatagram::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        Ok(Self {
            slots: (0..EVENTS_MAX).map(|_| Mutex::new(None)).collect(),
            producer: Mutex::new(()),
            last_id: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            kinds: EventKinds::resume(BTreeMap::new()),
            wake,
            woken,
            relayed: watch::Sender::new(0),
        })
    }

    /// The log of the program before, with the ids that it gave, and what it had counted.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn resume(
        events: Vec<Event>,
        last_id: u64,
        dropped: u64,
        by_kind: BTreeMap<String, u64>,
    ) -> io::Result<Self> {
        let log = Self { kinds: EventKinds::resume(by_kind), ..Self::new()? };
        for event in events.into_iter().filter(|event| event.id <= last_id) {
            let mut slot = locked(log.slot(event.id).lock());
            *slot = Some(event);
        }
        log.last_id.store(last_id, Ordering::Release);
        log.dropped.store(dropped, Ordering::Relaxed);
        Ok(log)
    }

    /// Numbers the event, keeps it and wakes followers. Returns its id.
    ///
    /// Waits for no reader. Meant for one thread, the driver: a second one makes both wait for
    /// each other for the length of a push.
    pub fn push(&self, draft: EventDraft) -> u64 {
        let producer = locked(self.producer.lock());
        let id = self.last_id.load(Ordering::Relaxed) + 1;
        self.kinds.count(&draft.kind);
        let event = draft.numbered(id);
        let overwritten = match self.slot(id).try_lock() {
            Ok(mut slot) => slot.replace(event).is_some(),
            Err(TryLockError::Poisoned(slot)) => slot.into_inner().replace(event).is_some(),
            // A reader is copying the oldest event out of this slot.
            Err(TryLockError::WouldBlock) => true,
        };
        if overwritten {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.last_id.store(id, Ordering::Release);
        drop(producer);
        // It fails when the queue is full, and then a wake-up is already under way.
        let _ = self.wake.send(&[0]);
        id
    }

    /// Number of the newest event; 0 when there was none.
    #[must_use]
    pub fn last_id(&self) -> u64 {
        self.last_id.load(Ordering::Acquire)
    }

    /// Events that are no longer held: overwritten by newer ones, or not kept because a reader
    /// was in the way.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// How many events of each kind there were.
    #[must_use]
    pub fn by_kind(&self) -> BTreeMap<String, u64> {
        self.kinds.read()
    }

    /// At most `max` events after `id`, oldest first. Where some are gone, an [`EVENTS_MISSED`]
    /// takes their place and counts towards `max`; go on with the id of the last one returned.
    #[must_use]
    pub fn since(&self, id: u64, max: usize) -> Vec<Event> {
        let last = self.last_id();
        let mut events = Vec::with_capacity(max.min(EVENTS_MAX + 1));
        let mut previous = id;
        for next in oldest_held(last).max(id.saturating_add(1))..=last {
            if events.len() >= max {
                break;
            }
            let Some(event) = self.read(next) else {
                continue;
            };
            if next > previous + 1 {
                events.push(missed(previous + 1, &event));
            }
            if events.len() < max {
                events.push(event);
            }
            previous = next;
        }
        events
    }

    /// The newest `max` events, oldest first.
    #[must_use]
    pub fn latest(&self, max: usize) -> Vec<Event> {
        let last = self.last_id();
        let first = (last + 1).saturating_sub(max as u64).max(oldest_held(last));
        (first..=last).filter_map(|id| self.read(id)).collect()
    }

    /// A reader that waits for events after `id`. It is woken as long as [`Self::relay`] runs.
    #[must_use]
    pub fn follow(self: &Arc<Self>, id: u64) -> Follower {
        Follower { wake: self.relayed.subscribe(), log: Arc::clone(self), last_id: id }
    }

    /// Passes the driver's wake-ups on to followers; whoever serves followers runs it beside them.
    /// More than one may run.
    ///
    /// # Errors
    /// When the wake-up descriptor cannot be registered or read. It does not end otherwise.
    pub async fn relay(&self) -> io::Result<Infallible> {
        let woken = tokio::net::UnixDatagram::from_std(self.woken.try_clone()?)?;
        loop {
            self.relayed.send_replace(self.last_id());
            woken.recv(&mut [0]).await?;
        }
    }

    fn slot(&self, id: u64) -> &Mutex<Option<Event>> {
        &self.slots[(id % EVENTS_MAX as u64) as usize]
    }

    fn read(&self, id: u64) -> Option<Event> {
        let slot = locked(self.slot(id).lock());
        slot.as_ref().filter(|event| event.id == id).cloned()
    }
}

/// A reader that keeps its place in the log.
#[derive(Debug)]
pub struct Follower {
    log: Arc<EventLog>,
    wake: watch::Receiver<u64>,
    last_id: u64,
}

impl Follower {
    /// Waits until there is something new, then returns at most `max` (at least one) events.
    /// Dropping the future loses nothing.
    pub async fn next(&mut self, max: usize) -> Vec<Event> {
        loop {
            self.wake.mark_unchanged();
            let events = self.held(max.max(1));
            // The sender lives in the log, which `self` keeps alive: `changed` does not fail.
            if !events.is_empty() || self.wake.changed().await.is_err() {
                return events;
            }
        }
    }

    /// At most `max` new events, without waiting.
    pub fn held(&mut self, max: usize) -> Vec<Event> {
        let events = self.log.since(self.last_id, max);
        self.last_id = events.last().map_or(self.last_id, |event| event.id);
        events
    }

    /// Id of the last event returned.
    #[must_use]
    pub fn last_id(&self) -> u64 {
        self.last_id
    }
}

fn locked<'a, T>(lock: LockResult<MutexGuard<'a, T>>) -> MutexGuard<'a, T> {
    // A slot is replaced as a whole: a thread that panicked left it complete.
    lock.unwrap_or_else(PoisonError::into_inner)
}

fn oldest_held(last_id: u64) -> u64 {
    last_id.saturating_sub(EVENTS_MAX as u64) + 1
}

fn missed(first: u64, next: &Event) -> Event {
    let last = next.id - 1;
    let count = next.id - first;
    Event {
        id: last,
        monotonic_ns: next.monotonic_ns,
        unix_us: next.unix_us,
        severity: Severity::Warning,
        kind: EVENTS_MISSED.to_owned(),
        node: None,
        link: None,
        group: None,
        message: format!(
            "{count} events ({first} to {last}) are gone: the log holds the newest {EVENTS_MAX}"
        ),
    }
}

#[cfg(test)]
#[path = "event_log_tests.rs"]
mod tests;
