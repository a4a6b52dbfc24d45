//! The keeper's own side: wait for the daemon's end, then remove, tell, log and exit.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use anyhow::Context;
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{MsgFlags, recv};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::line::Notices;
use super::message::{Datagram, Held, MESSAGE_BYTES_MAX, Message};
use crate::io::clock::monotonic_ns;
use crate::io::netlink::{Removal, RouteSocket, delete_address, serialized};
use crate::io::sys;
use crate::names::{InterfaceName, NodeName};

/// How often every datagram of the obituary is sent: one may be lost.
const OBITUARY_ROUNDS: usize = 2;
/// DSCP CS6 (network control, RFC 4594) in the place of the TOS octet.
const TOS_CS6: u32 = 0xc0;
/// The out-of-memory killer takes this process last (proc(5)).
const OOM_SCORE_NEVER: &str = "-1000";

/// Runs the keeper: returns when the daemon said farewell, or when the daemon is dead and its
/// addresses are removed and its obituary is sent.
///
/// `fd` is the inherited end of the socket pair, `node` only labels what it logs, `priority` is
/// for `SCHED_FIFO` and asks for locked memory, too (`None`: neither, as `realtime off` wants it);
/// without permission for that it runs as an ordinary process and says so.
///
/// # Errors
/// It cannot start: the socket is not there, or netlink cannot be opened.
pub fn keeper_main(fd: RawFd, node: &NodeName, priority: Option<u8>) -> anyhow::Result<()> {
    let socket = sys::adopt(fd).with_context(|| {
        format!("file descriptor {fd} is not open; only ha-daemon itself starts its keeper")
    })?;
    let mut warnings = detach();
    let netlink = RouteSocket::open().context("cannot open rtnetlink")?;
    let mut keeper = Keeper {
        netlink,
        held: BTreeMap::new(),
        obituary: Obituary::default(),
        notices: Notices::default(),
    };
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    if priority.is_some() {
        lock_memory(&mut warnings);
    }
    if let Some(Err(error)) = priority.map(sys::set_fifo) {
        warnings.push(format!("no real-time priority, a busy machine may delay it: {error}"));
    }
    log(node, &warnings);
    loop {
        match next_message(&socket, &mut buffer)? {
            Next::Message(Message::Farewell) => return Ok(()),
            Next::Message(message) => {
                let mut warnings = keeper.take(message);
                if priority.is_some() {
                    lock_memory(&mut warnings);
                }
                log(node, &warnings);
            }
            Next::Unreadable(warning) => log(node, &[warning]),
            Next::DaemonDied => break,
        }
    }
    log(node, &keeper.bury());
    Ok(())
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

/// Locks what is mapped now. Not `MCL_FUTURE`: under a low RLIMIT_MEMLOCK that would make an
/// allocation fail, which is worse than a page that might be swapped.
fn lock_memory(warnings: &mut Vec<String>) {
    if let Err(errno) = mlockall(MlockAllFlags::MCL_CURRENT) {
        warnings.push(format!("cannot lock its memory, swapping may delay it: {errno}"));
    }
}

enum Next {
    Message(Message),
    Unreadable(String),
    DaemonDied,
}

fn next_message(socket: &OwnedFd, buffer: &mut [u8]) -> anyhow::Result<Next> {
    // With MSG_TRUNC the length is that of the whole packet, also when it does not fit.
    let length = loop {
        match recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC) {
            Ok(length) => break length,
            Err(Errno::EINTR) => {}
            // What the daemon had not read when it died: a reset instead of an end.
            Err(Errno::ECONNRESET) => return Ok(Next::DaemonDied),
            Err(errno) => return Err(errno).context("cannot read from the daemon"),
        }
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

struct Keeper {
    netlink: RouteSocket,
    /// With the request that removes it, made when it was held; `None` when its interface did
    /// not exist then.
    held: BTreeMap<Held, Option<Vec<u8>>>,
    obituary: Obituary,
    notices: Notices,
}

impl Keeper {
    /// Carries out a message; what went wrong comes back as text.
    fn take(&mut self, message: Message) -> Vec<String> {
        match message {
            Message::Hold(held) => {
                self.held.extend(held.into_iter().map(|held| {
                    let request = removal_request(&held);
                    (held, request)
                }));
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
            Message::Farewell => Vec::new(),
        }
    }

    /// Does what it is for. Every address is tried, whatever happens to the others.
    fn bury(&mut self) -> Vec<String> {
        let start_ns = monotonic_ns();
        let outcomes: Vec<_> = self
            .held
            .iter()
            .map(|(held, request)| (held, remove(&self.netlink, held, request.as_deref())))
            .collect();
        let removed_ns = monotonic_ns();
        // It says that the addresses are off, and peers take them at once: where one may still be
        // there, the peers wait as for any dead node.
        let true_obituary = outcomes.iter().all(|(_, outcome)| outcome.is_ok());
        let (mut sent, mut failures) = (0, Vec::new());
        if true_obituary {
            for (count, failed) in [self.obituary.send(), self.notices.write(OBITUARY_ROUNDS)] {
                sent += count;
                failures.extend(failed);
            }
        }
        let told_ns = monotonic_ns();

        let mut removed = Vec::new();
        for (held, outcome) in outcomes {
            let name = format!("{} from {}", held.address, held.interface);
            match outcome {
                Ok(Removal::Removed) => removed.push(name),
                Ok(Removal::NotThere) => {}
                Err(error) => failures.push(format!("cannot remove {name}: {error}")),
            }
        }
        let mut lines = vec![format!(
            "the daemon died: removed {} of {} addresses in {} us [{}], sent {sent} datagrams in {} us",
            removed.len(),
            self.held.len(),
            (removed_ns - start_ns) / 1000,
            removed.join(", "),
            (told_ns - removed_ns) / 1000,
        )];
        lines.append(&mut failures);
        lines
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

/// The datagrams and the sockets that they leave through, one per source.
#[derive(Default)]
struct Obituary {
    sockets: Vec<Source>,
    datagrams: Vec<(usize, SockAddr, Datagram)>,
}

struct Source {
    socket: Socket,
    local: SocketAddr,
    interface: InterfaceName,
    hops: u8,
}

impl Obituary {
    fn prepare(datagrams: Vec<Datagram>) -> (Self, Vec<String>) {
        let mut obituary = Self::default();
        let mut warnings = Vec::new();
        for datagram in datagrams {
            match obituary.source(datagram.local, &datagram.interface, datagram.hops) {
                Ok(index) => {
                    obituary.datagrams.push((index, datagram.remote.into(), datagram));
                }
                Err(error) => warnings.push(format!(
                    "cannot open a socket at {} on {} for the obituary, {} will not be told: {error}",
                    datagram.local, datagram.interface, datagram.remote
                )),
            }
        }
        (obituary, warnings)
    }

    fn source(
        &mut self,
        local: SocketAddr,
        interface: &InterfaceName,
        hops: u8,
    ) -> io::Result<usize> {
        let same = |source: &Source| {
            source.local == local && source.interface == *interface && source.hops == hops
        };
        if let Some(index) = self.sockets.iter().position(same) {
            return Ok(index);
        }
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind_device(Some(interface.as_str().as_bytes()))?;
        match local.ip() {
            IpAddr::V4(_) => {
                socket.set_tos_v4(TOS_CS6)?;
                // The peer may be at a group's or a broadcast address; who sends to one host is not
                // concerned.
                socket.set_broadcast(true)?;
                socket.set_multicast_ttl_v4(u32::from(hops))?;
            }
            IpAddr::V6(_) => {
                socket.set_tclass_v6(TOS_CS6)?;
                socket.set_multicast_hops_v6(u32::from(hops))?;
            }
        }
        socket.set_nonblocking(true)?;
        // A socket on the daemon's own port would take its packets while it lives.
        if local.port() == 0 {
            socket.bind(&local.into())?;
        }
        self.sockets.push(Source { socket, local, interface: interface.clone(), hops });
        Ok(self.sockets.len() - 1)
    }

    /// Sends everything; gives the number of datagrams that went out, and the failures.
    fn send(&self) -> (usize, Vec<String>) {
        let mut failures = Vec::new();
        for source in self.sockets.iter().filter(|source| source.local.port() != 0) {
            let any_port = SocketAddr::new(source.local.ip(), 0);
            let bound = source.socket.bind(&source.local.into());
            if let Err(error) = bound.or_else(|_| source.socket.bind(&any_port.into())) {
                failures.push(format!("cannot send from {}: {error}", source.local));
            }
        }
        let mut sent = 0;
        for _ in 0..OBITUARY_ROUNDS {
            for (index, remote, datagram) in &self.datagrams {
                let Some(source) = self.sockets.get(*index) else {
                    continue;
                };
                match source.socket.send_to(&datagram.payload, remote) {
                    Ok(_) => sent += 1,
                    Err(error) => {
                        failures.push(format!("cannot tell {}: {error}", datagram.remote));
                    }
                }
            }
        }
        (sent, failures)
    }
}

/// Writes lines to stderr. A closed stderr must not stop the keeper.
fn log(node: &NodeName, lines: &[String]) {
    let mut stderr = io::stderr().lock();
    for line in lines {
        let _ = writeln!(stderr, "ha-daemon keeper {node}: {line}");
    }
}
