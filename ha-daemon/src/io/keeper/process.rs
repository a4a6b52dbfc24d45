//! The keeper's own side: wait for the daemon's end or for the end of its lease, then remove, tell
//! and log. What follows where something stays for the next daemon is in `custody`.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{MsgFlags, recv};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::Care;
use super::lease::Lease;
use super::line::Notices;
use super::memory::LockedMemory;
use super::message::{Custody, Held, MESSAGE_BYTES_MAX, Message};
use super::obituary::{OBITUARY_ROUNDS, Obituary};
use super::threads::DeathWatch;
use super::upkeep::Upkeep;
use crate::io::clock::{boottime_ns, monotonic_ns};
use crate::io::interrupted::uninterrupted;
use crate::io::log_lines::{self, END_WAIT_MAX, LogLines};
use crate::io::netlink::{Removal, RouteSocket, delete_address, serialized};
use crate::io::sys;
use crate::names::NodeName;

/// The out-of-memory killer takes this process last (proc(5)).
const OOM_SCORE_NEVER: &str = "-1000";

/// While the lease is over: how often what is held is removed again. The worker may have been stopped
/// between its look at the lease and the kernel's, and what failed may work now.
const REMOVE_AGAIN: Duration = Duration::from_millis(100);

/// What the keeper is started with.
#[derive(Debug, Clone)]
pub struct Post {
    /// The inherited end of the socket pair.
    pub socket: RawFd,
    /// The inherited memory of the lease.
    pub lease: RawFd,
    /// Where the next daemon finds it; `None`: nowhere, so nothing waits for one.
    pub meeting: Option<PathBuf>,
    /// Only labels what it logs.
    pub node: NodeName,
    /// For `SCHED_FIFO`, and asks for locked memory, too (`None`: neither, as `realtime off` wants
    /// it); without permission for that it runs as an ordinary process and says so.
    pub priority: Option<u8>,
}

/// Runs the keeper: returns when the daemon or its successor said farewell, or when the daemon is
/// dead, its addresses are removed and its obituary is sent.
///
/// # Errors
/// It cannot start: the socket is not there, or netlink cannot be opened.
pub fn keeper_main(post: Post) -> anyhow::Result<()> {
    let inherited = |fd: RawFd| {
        sys::adopt(fd).with_context(|| {
            format!("file descriptor {fd} is not open; only ha-daemon itself starts its keeper")
        })
    };
    let socket = inherited(post.socket)?;
    let lease = Lease::of(inherited(post.lease)?).context("what it inherited is no lease")?;
    let warnings = detach();
    // A reader of standard error that hangs must not keep it from its work.
    let log = LogLines::start("standard error", io::stderr()).context("no thread is left")?;
    let log = Arc::new(log);
    log_lines::say_panics(Arc::clone(&log));
    let ended = Keeper::new(post, lease, Arc::clone(&log))?.serve(&socket, warnings);
    log.flush(Instant::now() + END_WAIT_MAX);
    ended
}

/// Cuts what ties this process to whoever started the daemon. Nothing here is worth failing for.
fn detach() -> Vec<String> {
    let mut warnings = Vec::new();
    let mut note = |what: &str, outcome: nix::Result<()>| {
        if let Err(errno) = outcome {
            warnings.push(format!("cannot {what}: {errno}"));
        }
    };
    // Blocked signals stay pending for ever, which is as good as ignoring them.
    let mut signals = SigSet::all();
    for fault in [
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGFPE,
        Signal::SIGILL,
        Signal::SIGTRAP,
        Signal::SIGABRT,
        Signal::SIGSYS,
    ] {
        signals.remove(fault);
    }
    note("block signals", signals.thread_block());
    note("start a session", nix::unistd::setsid().map(drop));
    note("change to /", nix::unistd::chdir("/"));
    note("set its name", nix::sys::prctl::set_name(c"ha-keeper"));
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_NEVER) {
        warnings.push(format!("the out-of-memory killer may take it: {error}"));
    }
    warnings
}

enum Next {
    Message(Message),
    Unreadable(String),
    LeaseEnds,
    DaemonDied,
}

/// What the daemon says next; of one that is dead only what is there.
fn next_message(socket: &OwnedFd, buffer: &mut [u8], dead: bool) -> anyhow::Result<Next> {
    // With MSG_TRUNC the length is that of the whole packet, also when it does not fit.
    let mut flags = MsgFlags::MSG_TRUNC;
    flags.set(MsgFlags::MSG_DONTWAIT, dead);
    let length = match uninterrupted(|| recv(socket.as_raw_fd(), buffer, flags)) {
        Ok(length) => length,
        Err(Errno::EAGAIN) => return Ok(Next::DaemonDied),
        // What the daemon had not read when it died: a reset instead of an end.
        Err(Errno::ECONNRESET) => return Ok(Next::DaemonDied),
        Err(errno) => return Err(errno).context("cannot read from the daemon"),
    };
    if length == 0 {
        return Ok(Next::DaemonDied);
    }
    let message = buffer.get(..length).map(Message::decode);
    Ok(match message {
        Some(Ok(message)) => Next::Message(message),
        Some(Err(error)) => Next::Unreadable(error.to_string()),
        None => Next::Unreadable(format!("a message of {length} bytes is too long")),
    })
}

/// An address that is held.
pub(super) struct Kept {
    /// The request that removes it, made when it was held; `None` when its interface did not exist then.
    removal: Option<Vec<u8>>,
    pub(super) care: Care,
}

impl Kept {
    fn new(held: &Held) -> Self {
        Self { removal: removal_request(held), care: Care::Renew }
    }
}

pub(super) struct Keeper {
    pub(super) post: Post,
    pub(super) lease: Arc<Lease>,
    /// `None`: only the end of the socket tells.
    deaths: Option<DeathWatch>,
    log: Arc<LogLines>,
    pub(super) timer: TimerFd,
    pub(super) netlink: RouteSocket,
    pub(super) held: BTreeMap<Held, Kept>,
    pub(super) upkeep: Upkeep,
    obituary: Obituary,
    notices: Notices,
    pub(super) custody: Custody,
    pub(super) estate: Vec<u8>,
    pub(super) detached: bool,
    /// When what is held is removed again, `CLOCK_BOOTTIME`; zero until it was once, since the lease
    /// is over.
    again_ns: u64,
}

/// What a removal came to.
pub(super) struct Removed {
    pub(super) count: usize,
    /// What was done, as text.
    pub(super) line: String,
    pub(super) failures: Vec<String>,
}

impl Keeper {
    fn new(post: Post, lease: Lease, log: Arc<LogLines>) -> anyhow::Result<Self> {
        // Boot time: a machine that was suspended for longer than the lease has lost it.
        let timer = TimerFd::new(
            ClockId::CLOCK_BOOTTIME,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        );
        Ok(Self {
            post,
            lease: Arc::new(lease),
            deaths: None,
            log,
            timer: timer.context("no timer")?,
            netlink: RouteSocket::open().context("cannot open rtnetlink")?,
            held: BTreeMap::new(),
            upkeep: Upkeep::default(),
            obituary: Obituary::default(),
            notices: Notices::default(),
            custody: Custody::default(),
            estate: Vec::new(),
            detached: false,
            again_ns: 0,
        })
    }

    /// Does what the daemon says, until it says farewell or is dead and everything is done that was left to
    /// do. The warnings of the start are logged when it is ready.
    fn serve(mut self, socket: &OwnedFd, mut warnings: Vec<String>) -> anyhow::Result<()> {
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        self.deaths = noted(DeathWatch::start(&self.lease, self.post.priority), &mut warnings);
        let mut memory =
            self.post.priority.and_then(|_| noted(LockedMemory::lock(), &mut warnings));
        if let Some(Err(error)) = self.post.priority.map(sys::set_fifo) {
            warnings.push(format!("no real-time priority, a busy machine may delay it: {error}"));
        }
        self.log(&warnings);
        loop {
            match self.next(socket, &mut buffer)? {
                Next::Message(Message::Farewell) => return Ok(()),
                Next::Message(message) => {
                    let mut warnings = self.take(message);
                    if let Some(memory) = &mut memory {
                        noted(memory.lock_what_came(), &mut warnings);
                    }
                    self.log(&warnings);
                }
                Next::Unreadable(warning) => self.log(&[warning]),
                Next::LeaseEnds => {
                    let lines = self.end_lease();
                    self.log(&lines);
                }
                Next::DaemonDied => break,
            }
        }
        self.bury()
    }

    /// Waits for what the daemon says, for its death, or for the end of its lease. What it has said
    /// is taken first: it may have released an address.
    fn next(&mut self, socket: &OwnedFd, buffer: &mut [u8]) -> anyhow::Result<Next> {
        loop {
            self.arm()?;
            let timer = self.timer.as_fd();
            let deaths = self.deaths.as_ref().map_or(timer, AsFd::as_fd);
            let [says, died, rings] = wait([socket.as_fd(), deaths, timer])?;
            // What was said last may have come after the look at the socket, and before the death.
            let died = died && self.deaths.is_some();
            if says || died {
                return next_message(socket, buffer, died);
            }
            if rings {
                if self.lease.end() {
                    return Ok(Next::LeaseEnds);
                }
                let lines = self.renew_missing();
                self.log(&lines);
            }
        }
    }

    /// Sets the timer to the end of the lease, or to when addresses have to be renewed if that is
    /// earlier; without anything to remove there is nothing to wait for. A daemon that runs renews
    /// both meanwhile, so this wakes about once in an address's lifetime.
    fn arm(&mut self) -> anyhow::Result<()> {
        let ends_ns = self.lease.ends_at_ns();
        if ends_ns.is_some() {
            self.again_ns = 0;
        }
        if self.held.is_empty() {
            return self.timer.unset().context("cannot stop the timer");
        }
        self.arm_at(ends_ns.map_or(self.again_ns, |ends_ns| self.next_look_ns(ends_ns)))
    }

    pub(super) fn arm_at(&self, at_ns: u64) -> anyhow::Result<()> {
        // Zero would disarm the timer.
        let at = TimeSpec::from_duration(Duration::from_nanos(at_ns.max(1)));
        self.timer
            .set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)
            .context("cannot set the timer")
    }

    /// Carries out a message; what went wrong comes back as text.
    fn take(&mut self, message: Message) -> Vec<String> {
        match message {
            Message::Hold(held) => {
                self.held.extend(held.into_iter().map(|held| {
                    let kept = Kept::new(&held);
                    (held, kept)
                }));
                Vec::new()
            }
            Message::Retire(held) => {
                if let Some(kept) = self.held.get_mut(&held) {
                    kept.care = Care::Retire;
                }
                Vec::new()
            }
            Message::Release(held) => {
                self.held.remove(&held);
                Vec::new()
            }
            Message::Obituary(datagrams) => {
                let (obituary, warnings) = Obituary::prepare(datagrams);
                self.obituary = obituary;
                warnings
            }
            Message::Notices(notices) => {
                let (notices, warnings) = Notices::prepare(notices);
                self.notices = notices;
                warnings
            }
            Message::Custody(custody) => {
                self.custody = custody;
                Vec::new()
            }
            Message::Estate(estate) => {
                self.estate = estate;
                Vec::new()
            }
            Message::Detach => {
                self.detached = true;
                Vec::new()
            }
            Message::Farewell => Vec::new(),
        }
    }

    /// The daemon lives and does not run: its addresses go, and it finds that out when it wakes.
    fn end_lease(&mut self) -> Vec<String> {
        let silent_ms = boottime_ns().saturating_sub(self.lease.renewed_at_ns()) / 1_000_000;
        let again = self.again_ns != 0;
        let Removed { count, line, failures: mut lines } = self.remove_all(&|_| true);
        self.again_ns = boottime_ns() + REMOVE_AGAIN.as_nanos() as u64;
        if again && count == 0 {
            return Vec::new();
        }
        lines.insert(0, format!("the daemon has not run for {silent_ms} ms: {line}"));
        lines
    }

    /// Does what it is for.
    fn bury(mut self) -> anyhow::Result<()> {
        if self.waits() {
            return self.wait_for_heir();
        }
        let lines = self.remove_and_tell("the daemon died");
        self.log(&lines);
        Ok(())
    }

    /// Removes everything and sends the obituary.
    pub(super) fn remove_and_tell(&mut self, why: &str) -> Vec<String> {
        let Removed { line, failures: mut lines, .. } = self.remove_all(&|_| true);
        let removed_ns = monotonic_ns();
        // It says that the addresses are off, and peers take them at once: where one may still be
        // there, the peers wait as for any dead node.
        let (mut sent, mut failures) = (0, Vec::new());
        if lines.is_empty() {
            for (count, failed) in [self.obituary.send(), self.notices.write(OBITUARY_ROUNDS)] {
                sent += count;
                failures.extend(failed);
            }
        }
        let told_us = (monotonic_ns() - removed_ns) / 1000;
        lines.insert(0, format!("{why}: {line}, sent {sent} datagrams in {told_us} us"));
        lines.append(&mut failures);
        lines
    }

    /// Removes what is held and `goes`: what it did, and the failures. Every address is tried,
    /// whatever happens to the others.
    pub(super) fn remove_all(&mut self, goes: &dyn Fn(&Held) -> bool) -> Removed {
        let start_ns = monotonic_ns();
        let (mut removed, mut failures, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        let ended = self.lease.ends_at_ns().is_none();
        for (held, kept) in self.held.iter().filter(|(held, _)| goes(held)) {
            // A daemon that woke up meanwhile, gave everything up and began anew may own them again.
            if ended && self.lease.ends_at_ns().is_some() {
                break;
            }
            let name = format!("{} from {}", held.address, held.interface);
            match remove(&self.netlink, held, kept.removal.as_deref()) {
                Ok(outcome) => {
                    gone.push(held.clone());
                    removed.extend((outcome == Removal::Removed).then_some(name));
                }
                Err(error) => failures.push(format!("cannot remove {name}: {error}")),
            }
        }
        let took_us = (monotonic_ns() - start_ns) / 1000;
        let all = gone.len() + failures.len();
        // A daemon that lives holds what it begins anew with before its lease begins: what is not there
        // yet is not forgotten.
        if !ended {
            self.held.retain(|held, _| !gone.contains(held));
        }
        let (count, names) = (removed.len(), removed.join(", "));
        let line = format!("removed {count} of {all} addresses in {took_us} us [{names}]");
        Removed { count, line, failures }
    }

    /// Has lines written to standard error.
    pub(super) fn log(&self, lines: &[String]) {
        for line in lines {
            let line = format!("ha-daemon keeper {}: {line}\n", self.post.node);
            self.log.post(line.into_bytes());
        }
    }
}

/// What it came to, or a warning.
fn noted<T>(outcome: anyhow::Result<T>, warnings: &mut Vec<String>) -> Option<T> {
    outcome.map_err(|error| warnings.push(format!("{error:#}"))).ok()
}

/// Waits until one of the descriptors can be read.
pub(super) fn wait<const N: usize>(
    fds: [std::os::fd::BorrowedFd<'_>; N],
) -> anyhow::Result<[bool; N]> {
    let mut waiting = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    match poll(&mut waiting, PollTimeout::NONE) {
        // An end or an error is read like anything else.
        Ok(_) => Ok(waiting.map(|it| it.revents().is_some_and(|flags| !flags.is_empty()))),
        Err(Errno::EINTR) => Ok([false; N]),
        Err(errno) => Err(errno).context("cannot wait"),
    }
}

fn removal_request(held: &Held) -> Option<Vec<u8>> {
    let ifindex = if_nametoindex(held.interface.as_str()).ok()?;
    let message = delete_address(held.address, ifindex);
    Some(serialized(RouteNetlinkMessage::DelAddress(message), 0))
}

fn remove(netlink: &RouteSocket, held: &Held, request: Option<&[u8]>) -> io::Result<Removal> {
    match request.map(|request| netlink.exchange(request)) {
        Some(Ok(())) => Ok(Removal::Removed),
        Some(Err(error)) if error.raw_os_error() != Some(libc::ENODEV) => {
            Removal::from_answer(Err(error))
        }
        // The interface was created, or created anew, after the address was held.
        Some(Err(_)) | None => netlink.remove(held.address, &held.interface),
    }
}
