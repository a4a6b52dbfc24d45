//! Pings: asks the ping targets by ICMP (RFC 792, RFC 4443) whether they are there, and tells the
//! driver what changes.
//!
//! It is a thread of its own (`ha-ping`). Each member is asked once in an interval; a target is
//! reached while any of its members has answered within `deadping`. When this node did not run, a
//! fresh full window has to pass before a target counts as lost. Raw sockets are used, and not
//! ICMP datagram sockets: those need a group range that most hosts do not set
//! (`net.ipv4.ping_group_range`), and the daemon has `CAP_NET_RAW` for ARP anyway.

mod echo;
mod reach;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use self::echo::{Echo, Reply, Stamper};
use self::reach::Judge;
use super::clock::{monotonic_ns, monotonic_of_stamp};

/// Longest packet that is read: an echo of ours behind the longest IPv4 header.
const PACKET_BYTES_MAX: usize = 60 + echo::ECHO_BYTES;
/// Most packets read from one socket at one wake-up.
const PACKETS_PER_WAKE_MAX: usize = 256;

/// What is pinged, and how.
pub struct PingOptions {
    /// The members of each target.
    pub targets: Vec<Vec<IpAddr>>,
    /// Interval between two requests to a member.
    pub interval: Duration,
    /// Silence after which a target is not reached.
    pub deadping: Duration,
    /// Runs first on the thread: to give it a real-time priority, for example.
    pub at_start: Option<Box<dyn FnOnce() + Send>>,
    /// Told of each change, with the target's position; says whether it was taken. It must not block.
    pub report: Box<dyn Fn(usize, bool) -> bool + Send>,
}

impl fmt::Debug for PingOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PingOptions")
            .field("targets", &self.targets)
            .field("interval", &self.interval)
            .field("deadping", &self.deadping)
            .finish_non_exhaustive()
    }
}

/// What is shown of a target, written by the thread.
#[derive(Debug, Default)]
pub struct TargetWords {
    reply_ns: AtomicU64,
    round_trip_ns: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    rejected: AtomicU64,
}

impl TargetWords {
    /// When its last answer arrived, `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn last_reply_ns(&self) -> Option<u64> {
        Some(self.reply_ns.load(Relaxed)).filter(|at_ns| *at_ns != 0)
    }

    /// Round trip of that answer.
    #[must_use]
    pub fn round_trip_ns(&self) -> Option<u64> {
        self.last_reply_ns().map(|_| self.round_trip_ns.load(Relaxed))
    }

    /// Requests that left.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Answers that counted.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// Answers that did not: forged, repeated or too late.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Relaxed)
    }
}

/// The thread could not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot ping: {what}: {cause}; it needs CAP_NET_RAW")]
pub struct StartError {
    what: &'static str,
    cause: io::Error,
}

/// The running thread.
#[derive(Debug)]
pub struct Pinger {
    words: Arc<[TargetWords]>,
    stop: Arc<EventFd>,
    thread: JoinHandle<()>,
}

impl Pinger {
    /// Starts the thread, in the network namespace of the caller. IPv6 targets on a host without
    /// IPv6 are never reached.
    ///
    /// # Errors
    /// No thread, or no raw socket.
    pub fn start(options: PingOptions) -> Result<Self, StartError> {
        let failed = |what| move |cause| StartError { what, cause };
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let stop = EventFd::from_flags(flags).map_err(io::Error::from);
        let stop = Arc::new(stop.map_err(failed("no eventfd"))?);
        let stamper = Stamper::new();
        let members = options.targets.iter().flatten();
        let wants_v6 = members.clone().any(IpAddr::is_ipv6);
        let v4 = members.clone().any(IpAddr::is_ipv4).then(|| open_v4(stamper.identifier()));
        let v4 = v4.transpose().map_err(failed("no ICMP socket"))?;
        let v6 = match wants_v6.then(|| open_v6(stamper.identifier())).transpose() {
            Ok(socket) => socket,
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                tracing::warn!("no IPv6 on this host: its IPv6 ping targets are never reached");
                None
            }
            Err(error) => return Err(failed("no ICMPv6 socket")(error)),
        };
        let words: Arc<[TargetWords]> =
            options.targets.iter().map(|_| TargetWords::default()).collect();
        let (shown, stopped) = (Arc::clone(&words), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("ha-ping".to_owned())
            .spawn(move || Thread::new(options, stamper, [v4, v6], shown).run(&stopped))
            .map_err(failed("no thread"))?;
        Ok(Self { words, stop, thread })
    }

    /// What is shown of the targets, by position.
    #[must_use]
    pub fn words(&self) -> Arc<[TargetWords]> {
        Arc::clone(&self.words)
    }

    /// Ends the thread and waits for that.
    pub fn stop(self) {
        // Only fails at the counter's limit, and then the thread wakes anyway.
        let _ = self.stop.write(1);
        if self.thread.join().is_err() {
            tracing::error!("the ping thread panicked");
        }
    }
}

/// One address that is asked.
struct Member {
    target: usize,
    address: IpAddr,
    sequence: u64,
    /// The newest request that was answered.
    answered: Option<u64>,
    /// Why the last request did not leave.
    error: Option<Errno>,
}

struct Thread {
    interval_ns: u64,
    deadping_ns: u64,
    at_start: Option<Box<dyn FnOnce() + Send>>,
    report: Box<dyn Fn(usize, bool) -> bool + Send>,
    stamper: Stamper,
    /// IPv4, IPv6.
    sockets: [Option<Socket>; 2],
    members: Vec<Member>,
    judge: Judge,
    words: Arc<[TargetWords]>,
}

impl Thread {
    fn new(
        options: PingOptions,
        stamper: Stamper,
        sockets: [Option<Socket>; 2],
        words: Arc<[TargetWords]>,
    ) -> Self {
        let member =
            |target, address| Member { target, address, sequence: 0, answered: None, error: None };
        let targets = options.targets.iter().enumerate();
        let members = targets.flat_map(|(target, it)| it.iter().map(move |at| member(target, *at)));
        let deadping_ns = options.deadping.as_nanos() as u64;
        Self {
            interval_ns: (options.interval.as_nanos() as u64).max(1),
            deadping_ns,
            at_start: options.at_start,
            report: options.report,
            stamper,
            sockets,
            members: members.collect(),
            judge: Judge::new(options.targets.len(), deadping_ns, monotonic_ns()),
            words,
        }
    }

    fn run(mut self, stop: &EventFd) {
        if let Some(at_start) = self.at_start.take() {
            at_start();
        }
        let mut next_ns = monotonic_ns();
        loop {
            let now_ns = monotonic_ns();
            if now_ns >= next_ns {
                self.ask(now_ns);
                // Missed requests are not made up for: the next one is on the same grid.
                next_ns += self.interval_ns * ((now_ns - next_ns) / self.interval_ns + 1);
            }
            let due_ns = self.judge.deadline().map_or(next_ns, |at_ns| at_ns.min(next_ns));
            if self.wait(stop, due_ns) {
                return;
            }
            // What has arrived counts, also when this thread is the one that is late.
            let late_ns = monotonic_ns().saturating_sub(due_ns);
            self.receive();
            let now_ns = monotonic_ns();
            if late_ns > self.deadping_ns / 4 {
                self.judge.paused(now_ns);
            }
            self.judge.judge(now_ns);
            self.judge.tell(&self.report);
        }
    }

    /// Waits until a moment or a packet; whether it is to stop.
    fn wait(&self, stop: &EventFd, due_ns: u64) -> bool {
        let sockets = self.sockets.iter().flatten();
        let mut waiting = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        waiting.extend(sockets.map(|it| PollFd::new(it.as_fd(), PollFlags::POLLIN)));
        let rest = Duration::from_nanos(due_ns.saturating_sub(monotonic_ns()));
        // Interrupted, it looks around and waits again.
        let _ = ppoll(&mut waiting, Some(TimeSpec::from_duration(rest)), None);
        waiting.first().and_then(PollFd::any).unwrap_or(false)
    }

    /// Sends one request to each member.
    fn ask(&mut self, now_ns: u64) {
        for (number, member) in self.members.iter_mut().enumerate() {
            member.sequence += 1;
            let echo = Echo { member: number as u32, sequence: member.sequence, sent_ns: now_ns };
            let packet = self.stamper.request(&echo, member.address);
            let [v4, v6] = &self.sockets;
            let socket = if member.address.is_ipv4() { v4 } else { v6 };
            let Some(socket) = socket else { continue };
            let remote = SocketAddr::new(member.address, 0).into();
            let error = socket.send_to(&packet, &remote).err();
            if error.is_none() {
                self.words[member.target].sent.fetch_add(1, Relaxed);
            }
            member.note(error.map(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0))));
        }
    }

    fn receive(&mut self) {
        for family in 0..self.sockets.len() {
            for _ in 0..PACKETS_PER_WAKE_MAX {
                let Some(socket) = &self.sockets[family] else { break };
                match read(socket, &self.stamper) {
                    Ok(Some((reply, at_ns))) => self.take(&reply, at_ns),
                    // Not an echo of ours; nothing tells of which member it would be.
                    Ok(None) => {}
                    Err(Errno::EAGAIN) => break,
                    // An ICMP error about an earlier request; its target stays silent.
                    Err(_) => {}
                }
            }
        }
    }

    /// Takes an answer whose stamp is right. It has to come from where it was asked, be newer than
    /// the one before, and not older than deadping.
    fn take(&mut self, reply: &Reply, at_ns: u64) {
        let Echo { member, sequence, sent_ns } = reply.echo;
        let Some(member) = self.members.get_mut(member as usize) else { return };
        let Some(words) = self.words.get(member.target) else { return };
        let round_trip_ns = at_ns.saturating_sub(sent_ns);
        let counts = reply.source == member.address
            && member.answered.is_none_or(|before| sequence > before)
            && round_trip_ns < self.deadping_ns;
        if !counts {
            words.rejected.fetch_add(1, Relaxed);
            return;
        }
        member.answered = Some(sequence);
        words.received.fetch_add(1, Relaxed);
        words.round_trip_ns.store(round_trip_ns, Relaxed);
        words.reply_ns.fetch_max(at_ns, Relaxed);
        self.judge.answered(member.target, at_ns);
    }
}

impl Member {
    /// Says so when requests stop or begin to leave: a target that is not asked is lost after
    /// deadping like one that does not answer.
    fn note(&mut self, error: Option<Errno>) {
        if error == self.error {
            return;
        }
        match error {
            Some(error) => tracing::warn!("cannot ping {}: {}", self.address, error.desc()),
            None => tracing::info!("{} can be pinged again", self.address),
        }
        self.error = error;
    }
}

/// Reads one packet: what it says, and when the kernel received it. `None`: it is no echo of ours.
fn read(socket: &Socket, stamper: &Stamper) -> nix::Result<Option<(Reply, u64)>> {
    let mut packet = [0; PACKET_BYTES_MAX];
    let mut parts = [io::IoSliceMut::new(&mut packet)];
    let mut control = nix::cmsg_space!(TimeSpec);
    let flags = MsgFlags::MSG_DONTWAIT;
    let received =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let stamp = received.cmsgs()?.find_map(|it| {
        if let ControlMessageOwned::ScmTimestampns(stamp) = it { Some(stamp) } else { None }
    });
    let (length, source) = (received.bytes, received.address.as_ref().and_then(address_of));
    let Some((source, packet)) = source.zip(packet.get(..length)) else { return Ok(None) };
    let echo = stamper.reply(packet, source);
    Ok(echo.map(|echo| (Reply { source, echo }, monotonic_of_stamp(stamp))))
}

fn address_of(storage: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = storage.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip())))
}

fn open_v4(identifier: u16) -> io::Result<Socket> {
    // A raw IPv4 socket begins with the IP header, whose length varies.
    let header = (libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH) as u16;
    let start = SockFilter::new(header, 0, 0, 0);
    open(Domain::IPV4, Protocol::ICMPV4, Some(start), libc::BPF_IND, echo::REPLY_V4, identifier)
}

fn open_v6(identifier: u16) -> io::Result<Socket> {
    open(Domain::IPV6, Protocol::ICMPV6, None, libc::BPF_ABS, echo::REPLY_V6, identifier)
}

/// A socket that wakes for echo replies with our identifier only.
fn open(
    domain: Domain,
    protocol: Protocol,
    start: Option<SockFilter>,
    mode: u32,
    kind: u8,
    identifier: u16,
) -> io::Result<Socket> {
    let load = |size: u32, at: u32| SockFilter::new((libc::BPF_LD | size | mode) as u16, 0, 0, at);
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let give = (libc::BPF_RET | libc::BPF_K) as u16;
    let mut filter: Vec<SockFilter> = start.into_iter().collect();
    filter.extend([
        load(libc::BPF_B, 0),
        SockFilter::new(equal, 0, 3, u32::from(kind)),
        load(libc::BPF_H, 4),
        SockFilter::new(equal, 0, 1, u32::from(identifier)),
        SockFilter::new(give, 0, 0, u32::MAX),
        SockFilter::new(give, 0, 0, 0),
    ]);
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.attach_filter(&filter)?;
    socket.set_nonblocking(true)?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    Ok(socket)
}
