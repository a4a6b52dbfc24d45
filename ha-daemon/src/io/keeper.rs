//! The keeper: a small process that removes this node's addresses when the daemon dies, whatever
//! killed it, and tells the peers so.
//!
//! The daemon holds one end of a socket pair, the keeper the other. The kernel closes the
//! daemon's end when the daemon is gone, which wakes the keeper; so does, some time before that, the death
//! of the threads that act ([`Alive`]). A daemon that lives and does not run
//! loses its addresses too: they share the memory of its [`Lease`]. Until that is over the keeper renews
//! the lifetimes of the addresses when the daemon does not. It lives in
//! its own session, ignores signals and is the same executable (`ha-daemon keeper NODE`), so that
//! there is nothing more to install. When the keeper dies, the daemon starts another one; when
//! both die at once, the lifetime of the addresses in the kernel removes them.
//!
//! The threads of a process die, and its files are closed, only after it has written its core: a daemon
//! limits that to nothing (`RLIMIT_CORE`), or the keeper would wait for the dump.

mod custody;
mod estate;
pub mod lease;
mod line;
mod memory;
pub mod message;
mod obituary;
mod process;
mod threads;
mod upkeep;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use ipnet::IpNet;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, send, setsockopt, socketpair, sockopt,
};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

pub use estate::{DOOR_NAME, Inheritance};
pub use lease::Lease;
pub use message::{Custody, Datagram, Held, MessageError, Notice};
pub use process::{Post, keeper_main};
pub use threads::{Acting, Alive};

use crate::names::{InterfaceName, NodeName};
use message::{HELD_PER_MESSAGE_MAX, MESSAGE_BYTES_MAX, Message};

/// Send buffer of the daemon's end in bytes: several of the longest messages.
const SEND_BUFFER_BYTES: usize = 4 * MESSAGE_BYTES_MAX;
/// Where the keeper finds its end: its standard input, so that no descriptor has to survive exec
/// by itself (and be inherited by another child that starts at the same moment).
const SOCKET_FD: &str = "0";
/// The memory of the lease comes the same way: as its standard output, which it does not write to.
const LEASE_FD: &str = "1";

/// Lowest number of the daemon's end: above everything else that it opens.
const HIGH_FD: RawFd = 900;

/// How to start the keeper.
#[derive(Debug, Clone)]
pub struct KeeperOptions {
    /// The executable: `/proc/self/exe` is this one even after an upgrade replaced its file.
    pub program: PathBuf,
    /// This node, shown in the keeper's command line and in what it logs.
    pub node: NodeName,
    /// `SCHED_FIFO` priority of the keeper, 1..=99; `None`: ordinary, and no memory is locked.
    pub priority: Option<u8>,
    /// What the daemon renews: when it is over, the keeper removes the addresses.
    pub lease: Arc<Lease>,
    /// Where the next daemon finds what this one leaves; an absolute path. `None`: nothing waits.
    pub meeting: Option<PathBuf>,
}

/// Why the keeper could not be started or told something.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// It could not be started.
    #[error("cannot start the keeper ({}): {cause}; until it runs, only the address lifetime protects against a dead daemon", program.display())]
    Start {
        /// The executable.
        program: PathBuf,
        /// What failed.
        cause: io::Error,
    },
    /// The message exceeds a limit.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// It does not keep up: its queue is full. Nothing was sent.
    #[error(
        "the keeper (pid {pid}) does not read its messages: is it stopped? Kill it, it will be started again"
    )]
    Full {
        /// Its process.
        pid: u32,
    },
    /// It is gone. Call [`Keeper::respawn`]; it resends everything.
    #[error("the keeper (pid {pid}) is gone: {cause}")]
    Gone {
        /// Its process.
        pid: u32,
        /// What sending said.
        cause: io::Error,
    },
}

/// What the keeper does for an address beside removing it when the daemon is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Care {
    /// It renews the lifetime when the daemon does not.
    Renew,
    /// Nothing: the daemon is about to remove it.
    Retire,
}

/// The daemon's handle on its keeper. No call but [`Keeper::spawn`] and [`Keeper::respawn`]
/// blocks. Its descriptor ([`AsFd`]) becomes readable when the keeper has died, and never before.
///
/// Dropping it without [`Keeper::farewell`] is a death of the daemon: the addresses go.
#[derive(Debug)]
pub struct Keeper {
    options: KeeperOptions,
    socket: OwnedFd,
    /// A child of this process, also after it replaced its program.
    pid: Pid,
    held: BTreeMap<Held, Care>,
    obituary: Vec<Datagram>,
    notices: Vec<Notice>,
    custody: Custody,
    estate: Vec<u8>,
}

impl Keeper {
    /// Starts a keeper that holds nothing yet. It forks and waits for exec (about a millisecond):
    /// not for the real-time thread. The keeper lives in the network namespace of the caller.
    ///
    /// # Errors
    /// [`KeeperError::Start`].
    pub fn spawn(options: KeeperOptions) -> Result<Self, KeeperError> {
        match start(&options) {
            Ok((socket, pid)) => Ok(Self::of(options, socket, pid, Vec::new())),
            Err(cause) => Err(KeeperError::Start { program: options.program, cause }),
        }
    }

    /// Has the address removed should the daemon die: call before it is added, so that there is
    /// no moment at which nobody would remove it.
    ///
    /// # Errors
    /// [`KeeperError::Full`] or [`KeeperError::Gone`]. In the latter case it is remembered and
    /// held after a respawn; in the former the caller must not add the address.
    pub fn hold(&mut self, address: IpNet, interface: &InterfaceName) -> Result<(), KeeperError> {
        let held = Held { address, interface: interface.clone() };
        let outcome = self.tell(&Message::Hold(vec![held.clone()]));
        if matches!(outcome, Ok(()) | Err(KeeperError::Gone { .. })) {
            self.held.insert(held, Care::Renew);
        }
        outcome
    }

    /// Has the keeper renew the address no more, which it holds on: call before it is removed, so
    /// that a worker that does not get to it leaves it to its lifetime.
    ///
    /// # Errors
    /// [`KeeperError::Full`] or [`KeeperError::Gone`]. It is remembered all the same.
    pub fn retire(&mut self, address: IpNet, interface: &InterfaceName) -> Result<(), KeeperError> {
        let held = Held { address, interface: interface.clone() };
        let Some(care) = self.held.get_mut(&held) else { return Ok(()) };
        *care = Care::Retire;
        self.tell(&Message::Retire(held))
    }

    /// Holds the address no longer: call after it is removed.
    ///
    /// # Errors
    /// [`KeeperError::Full`] or [`KeeperError::Gone`]. It is forgotten here all the same: that the
    /// keeper may still remove what is not there does no harm.
    pub fn release(
        &mut self,
        address: IpNet,
        interface: &InterfaceName,
    ) -> Result<(), KeeperError> {
        let held = Held { address, interface: interface.clone() };
        self.held.remove(&held);
        self.tell(&Message::Release(held))
    }

    /// Replaces the datagrams that are sent, twice each, after the addresses are removed.
    ///
    /// # Errors
    /// They exceed a limit, or [`KeeperError::Full`]: the earlier ones stay. With
    /// [`KeeperError::Gone`] they are sent after a respawn.
    pub fn obituary(&mut self, datagrams: Vec<Datagram>) -> Result<(), KeeperError> {
        let message = Message::Obituary(datagrams);
        let outcome = self.tell(&message);
        if let (Ok(()) | Err(KeeperError::Gone { .. }), Message::Obituary(datagrams)) =
            (&outcome, message)
        {
            self.obituary = datagrams;
        }
        outcome
    }

    /// Replaces the notices that are written on serial lines after the addresses are removed. The
    /// keeper opens the devices at once, next to the daemon, and holds them open.
    ///
    /// # Errors
    /// As those of [`Keeper::obituary`].
    pub fn notices(&mut self, notices: Vec<Notice>) -> Result<(), KeeperError> {
        if notices.is_empty() && self.notices.is_empty() {
            return Ok(());
        }
        let message = Message::Notices(notices);
        let outcome = self.tell(&message);
        if let (Ok(()) | Err(KeeperError::Gone { .. }), Message::Notices(notices)) =
            (&outcome, message)
        {
            self.notices = notices;
        }
        outcome
    }

    /// What stays when the daemon dies, in place of what was told before: call before a group that
    /// waits begins to start, and after it has stopped.
    ///
    /// # Errors
    /// As those of [`Keeper::obituary`].
    pub fn custody(&mut self, custody: Custody) -> Result<(), KeeperError> {
        let message = Message::Custody(custody);
        let outcome = self.tell(&message);
        if let (Ok(()) | Err(KeeperError::Gone { .. }), Message::Custody(custody)) =
            (&outcome, message)
        {
            self.custody = custody;
        }
        outcome
    }

    /// What the next daemon is to know, in place of what was told before.
    ///
    /// # Errors
    /// As those of [`Keeper::obituary`].
    pub fn estate(&mut self, estate: Vec<u8>) -> Result<(), KeeperError> {
        let message = Message::Estate(estate);
        let outcome = self.tell(&message);
        if let (Ok(()) | Err(KeeperError::Gone { .. }), Message::Estate(estate)) =
            (&outcome, message)
        {
            self.estate = estate;
        }
        outcome
    }

    /// This daemon ends and another one comes: everything is to stay, and this custody tells so.
    ///
    /// # Errors
    /// As those of [`Keeper::obituary`]: then the keeper takes its end for a death.
    pub fn detach(mut self, custody: Custody) -> Result<(), KeeperError> {
        self.custody(custody)?;
        self.tell(&Message::Detach)
    }

    /// The lease that the keeper watches.
    #[must_use]
    pub fn lease(&self) -> &Arc<Lease> {
        &self.options.lease
    }

    /// Leaves cleanly: the keeper exits and does nothing, whatever it still holds.
    ///
    /// # Errors
    /// [`KeeperError::Full`] or [`KeeperError::Gone`]: then a living keeper removes everything.
    pub fn farewell(mut self) -> Result<(), KeeperError> {
        self.tell(&Message::Farewell)
    }

    /// The keeper's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// Starts another keeper in place of one that died and tells it everything again. Blocks as
    /// [`Keeper::spawn`] does; a caller that must not block spawns elsewhere and calls
    /// [`Keeper::succeed`].
    ///
    /// # Errors
    /// [`KeeperError::Start`], and those of [`Keeper::succeed`].
    pub fn respawn(&mut self) -> Result<(), KeeperError> {
        let successor = Self::spawn(self.options.clone())?;
        self.succeed(successor)
    }

    /// Makes a freshly spawned keeper this one and tells it everything again.
    ///
    /// # Errors
    /// As those of [`Keeper::hold`] and [`Keeper::obituary`].
    pub fn succeed(&mut self, successor: Self) -> Result<(), KeeperError> {
        // The old one, should it live after all, must not take this for the daemon's death; and while
        // it lives there is no moment at which nobody holds the addresses.
        let predecessor = std::mem::replace(self, successor);
        self.held.clone_from(&predecessor.held);
        let held: Vec<Held> = self.held.keys().cloned().collect();
        let told = held
            .chunks(HELD_PER_MESSAGE_MAX)
            .try_for_each(|part| self.tell(&Message::Hold(part.to_vec())));
        let retired = predecessor.held.iter().filter(|(_, care)| **care == Care::Retire);
        let told = retired.fold(told, |told, (held, _)| {
            told.and_then(|()| self.tell(&Message::Retire(held.clone())))
        });
        let custody = self.custody(predecessor.custody.clone());
        let estate = self.estate(predecessor.estate.clone());
        let obituary = self.obituary(predecessor.obituary.clone());
        let notices = self.notices(predecessor.notices.clone());
        let pid = predecessor.pid;
        let _ = predecessor.farewell();
        reap(pid);
        told.and(custody).and(estate).and(obituary).and(notices)
    }

    /// What the next program of this process needs to go on with this keeper: its socket and its
    /// process, and what it holds. Nothing closes, so the keeper notices nothing.
    #[must_use]
    pub fn hand_over(self) -> (OwnedFd, u32, Vec<Held>) {
        let pid = self.pid();
        (self.socket, pid, self.held.into_keys().collect())
    }

    /// The keeper of the program before. Its obituary and notices are the old ones until
    /// [`Keeper::obituary`] and [`Keeper::notices`].
    #[must_use]
    pub fn resume(options: KeeperOptions, socket: OwnedFd, pid: u32, held: Vec<Held>) -> Self {
        let pid = Pid::from_raw(pid.cast_signed());
        Self::of(options, socket, pid, held)
    }

    fn of(options: KeeperOptions, socket: OwnedFd, pid: Pid, held: Vec<Held>) -> Self {
        let (obituary, notices) = (Vec::new(), Vec::new());
        let (custody, estate) = (Custody::default(), Vec::new());
        let held = held.into_iter().map(|held| (held, Care::Renew)).collect();
        Self { options, socket, pid, held, obituary, notices, custody, estate }
    }

    /// What it holds.
    pub fn held(&self) -> impl Iterator<Item = &Held> {
        self.held.keys()
    }

    fn tell(&mut self, message: &Message) -> Result<(), KeeperError> {
        let bytes = message.encode()?;
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match send(self.socket.as_raw_fd(), &bytes, flags) {
            Ok(_) => Ok(()),
            Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM | Errno::EMSGSIZE) => {
                Err(KeeperError::Full { pid: self.pid() })
            }
            Err(errno) => Err(KeeperError::Gone { pid: self.pid(), cause: errno.into() }),
        }
    }
}

impl AsFd for Keeper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn start(options: &KeeperOptions) -> io::Result<(OwnedFd, Pid)> {
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    // SO_SNDBUFFORCE needs CAP_NET_ADMIN, as adding an address does.
    setsockopt(&ours, sockopt::SndBufForce, &SEND_BUFFER_BYTES)
        .or_else(|_| setsockopt(&ours, sockopt::SndBuf, &SEND_BUFFER_BYTES))?;
    threads::forget_the_dead(&options.lease);
    let child = Command::new(&options.program)
        .arg0("ha-daemon")
        .args(arguments(options))
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::from(options.lease.memory().try_clone_to_owned()?))
        .spawn()?;
    Ok((last_to_open(ours), Pid::from_raw(child.id().cast_signed())))
}

/// Gives the descriptor a high number. A dying process closes its files in the order of their
/// numbers, but the kernel finishes them in the opposite one (task work is a stack, since Linux
/// 4.3), and BPF objects and packet sockets take milliseconds each: the keeper must not learn of
/// the death after them.
fn last_to_open(socket: OwnedFd) -> OwnedFd {
    // A lower limit of open files refuses it: then it stays where it is, only slower.
    match fcntl(&socket, FcntlArg::F_DUPFD_CLOEXEC(HIGH_FD)) {
        Ok(high) => super::sys::adopt(high).unwrap_or(socket),
        Err(_) => socket,
    }
}

fn arguments(options: &KeeperOptions) -> Vec<OsString> {
    let mut arguments: Vec<OsString> =
        vec!["keeper".into(), options.node.as_str().into(), "--fd".into(), SOCKET_FD.into()];
    arguments.extend(["--lease-fd".into(), LEASE_FD.into()]);
    if let Some(meeting) = &options.meeting {
        arguments.extend(["--meeting".into(), meeting.into()]);
    }
    if let Some(priority) = options.priority {
        arguments.extend(["--priority".into(), priority.to_string().into()]);
    }
    arguments
}

/// Waits for a process that is gone or is about to be, elsewhere: a zombie otherwise stays.
fn reap(pid: Pid) {
    if matches!(waitpid(pid, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive)) {
        let wait = move || waitpid(pid, None);
        let _ = std::thread::Builder::new().name("ha-reap".to_owned()).spawn(wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn command_line_shows_keeper_and_node_first() {
        let options = KeeperOptions {
            program: "/proc/self/exe".into(),
            node: "alpha".parse().unwrap(),
            priority: Some(60),
            lease: Arc::new(Lease::create(Duration::from_secs(60)).unwrap()),
            meeting: Some("/run/ha/keeper.sock".into()),
        };
        let expected = [
            "keeper",
            "alpha",
            "--fd",
            "0",
            "--lease-fd",
            "1",
            "--meeting",
            "/run/ha/keeper.sock",
            "--priority",
            "60",
        ];
        assert_eq!(arguments(&options), expected.map(OsString::from));
    }

    #[test]
    fn a_keeper_that_cannot_start_is_an_error_that_names_it() {
        let options = KeeperOptions {
            program: "/nonexistent/ha-daemon".into(),
            node: "alpha".parse().unwrap(),
            priority: None,
            lease: Arc::new(Lease::create(Duration::from_secs(60)).unwrap()),
            meeting: None,
        };
        let error = Keeper::spawn(options).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/ha-daemon"), "{error}");
    }
}
