//! A bounded mailbox whose senders never wait: neither for its reader nor, by a lock, for each other.
//!
//! The driver has one: everything that is not a heartbeat reaches it through here, from threads and
//! tasks that must not wait for it. Lines of the log ([`super::log_lines`]) go the same way.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context as TaskContext, Poll, Waker};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::address::AddressReport;
use super::service::ServiceReport;
use crate::config::NodeIndex;
use crate::control::command::{CommandAnswer, CommandRequest};
use crate::core::resume::Kept;
use crate::names::InterfaceName;
use crate::snapshot::{Severity, Snapshot};

/// Most letters that wait; one more is dropped and counted.
const LETTERS_MAX: usize = 8_192;

/// Where the driver says why there is no hand-over.
pub type HandOverAnswer = tokio::sync::oneshot::Sender<String>;

/// A letter to the driver.
#[derive(Debug)]
pub enum Letter {
    /// Of the address worker.
    Address(AddressReport),
    /// Of the services.
    Service(ServiceReport),
    /// The peer's kernel closed a control connection.
    ConnectionClosed {
        /// The peer.
        peer: NodeIndex,
        /// The incarnation that held the other end.
        incarnation: u64,
    },
    /// After that: nobody listens there for another connection.
    ConnectionRefused {
        /// The peer.
        peer: NodeIndex,
        /// The incarnation that held the other end.
        incarnation: u64,
    },
    /// An interface went up or down.
    Interface {
        /// The interface.
        name: InterfaceName,
        /// Whether it can carry addresses now.
        up: bool,
    },
    /// A ping target became reachable or unreachable.
    Ping {
        /// Its position in the configuration.
        target: usize,
        /// Whether it is reached.
        reached: bool,
    },
    /// What scheduling a thread was granted.
    Scheduling {
        /// The thread.
        thread: &'static str,
        /// What it got.
        granted: super::realtime::Granted,
    },
    /// Somebody wants to know the state.
    Snapshot(tokio::sync::oneshot::Sender<Snapshot>),
    /// An operator wants something.
    Command {
        /// What.
        command: CommandRequest,
        /// Where the answer goes.
        answer: tokio::sync::oneshot::Sender<CommandAnswer>,
    },
    /// A keeper was started in place of the one that died.
    Keeper(Result<super::keeper::Keeper, super::keeper::KeeperError>),
    /// Prepare the hand-over to another program: by group, what stays.
    HandOver {
        /// See [`crate::core::resume::plan`].
        kept: Vec<Kept>,
        /// This process ends, and one that is started later goes on.
        detaches: bool,
        /// Told when it fails; when it succeeds, the driver ends.
        answer: HandOverAnswer,
    },
    /// An event that is none of the core's.
    Note {
        /// How urgent it is.
        severity: Severity,
        /// A stable word.
        kind: &'static str,
        /// A sentence for an operator.
        message: String,
    },
    /// The gates of pre-armed addresses.
    Gate(GateNews),
    /// A serial line was lost or is back.
    Serial(super::serial::LineNews),
    /// Leave the cluster.
    Shutdown,
}

/// News of the programs that hold pre-armed addresses back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GateNews {
    /// They are on this interface, which is new, or changed.
    Attached(InterfaceName),
    /// They are not on every interface, for this reason.
    Failed(String),
}

/// The sending side; any number of them.
#[derive(Debug)]
pub struct Mailbox<T = Letter> {
    letters: Sender<T>,
    wake: Arc<EventFd>,
    dropped: Arc<AtomicU64>,
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        let (wake, dropped) = (Arc::clone(&self.wake), Arc::clone(&self.dropped));
        Self { letters: self.letters.clone(), wake, dropped }
    }
}

/// The receiving side.
#[derive(Debug)]
pub struct Inbox<T = Letter> {
    letters: Receiver<T>,
    wake: Arc<EventFd>,
    dropped: Arc<AtomicU64>,
}

/// The driver's mailbox.
///
/// # Errors
/// No descriptor is left.
pub fn mailbox() -> Result<(Mailbox, Inbox)> {
    mailbox_for(LETTERS_MAX)
}

/// A mailbox for so many letters of any kind.
///
/// # Errors
/// No descriptor is left.
pub(crate) fn mailbox_for<T>(letters_max: usize) -> Result<(Mailbox<T>, Inbox<T>)> {
    let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
    let wake = Arc::new(EventFd::from_flags(flags).context("cannot make an eventfd")?);
    let dropped = Arc::new(AtomicU64::new(0));
    let (sender, receiver) = channel(letters_max);
    let mailbox =
        Mailbox { letters: sender, wake: Arc::clone(&wake), dropped: Arc::clone(&dropped) };
    Ok((mailbox, Inbox { letters: receiver, wake, dropped }))
}

impl<T> Mailbox<T> {
    /// Posts a letter; never waits. Says whether it was taken.
    pub fn post(&self, letter: T) -> bool {
        let taken = self.letters.try_send(letter).is_ok();
        if !taken {
            self.dropped.fetch_add(1, Relaxed);
        }
        // Adding to an eventfd only fails when it is at its limit, and then the reader wakes anyway.
        let _ = self.wake.write(1);
        taken
    }

    /// Letters that found no room, or came to nothing.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

impl<T> Inbox<T> {
    /// Takes a letter that is waiting. One that its poster is writing in this moment is not waited
    /// for, since the poster may be a thread that this one keeps from running: it wakes the reader
    /// when it is done.
    pub fn take(&mut self) -> Option<T> {
        // The eventfd wakes the reader, not this.
        let mut nobody = TaskContext::from_waker(Waker::noop());
        match self.letters.poll_recv(&mut nobody) {
            Poll::Ready(letter) => letter,
            Poll::Pending => None,
        }
    }

    /// Sleeps until there may be letters, for a reader that waits for nothing else.
    pub(crate) fn wait(&self) {
        let mut waiting = [PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        // When it is interrupted there may be letters as well.
        let _ = poll(&mut waiting, PollTimeout::NONE);
        self.acknowledge();
    }

    /// Takes note that the reader is awake.
    pub fn acknowledge(&self) {
        let _ = self.wake.read();
    }

    /// Wakes the reader again: more letters wait than it took.
    pub fn remind(&self) {
        let _ = self.wake.write(1);
    }

    /// Letters that found no room, or came to nothing.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// A letter that was taken came to nothing.
    pub(crate) fn count_dropped(&self) {
        self.dropped.fetch_add(1, Relaxed);
    }
}

impl<T> AsFd for Inbox<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
