//! UDP sockets of the heartbeat links: one per entrance, for sending, for control messages, and for
//! heartbeats where no program is attached.
//!
//! Each is bound to exactly one destination on one interface: an own address, a multicast group or
//! a broadcast address. Links that share a port and an interface get their own datagrams that way,
//! and none twice; and a second daemon on this host finds the destination taken.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use ha_common::maps::Audience;
use ha_common::wire::{DATAGRAM_BYTES_MAX, Kind, TRAFFIC_CLASS, Way};
use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockFilter, Socket, Type};

use super::clock;
use super::paths::{Cast, Entrance, Network};
use crate::config::LinkIndex;
use crate::names::InterfaceName;

/// Receive buffer: room for a burst of control messages from every peer, and for what hostile
/// senders put in front of them.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;

/// Where a socket filter finds the kind of a datagram: behind UDP header, magic and version.
const KIND_AT: u32 = 8 + 3;
/// And who is asked: behind the key number.
const WAY_AT: u32 = 8 + 21;

/// A bound, non-blocking UDP socket.
#[derive(Debug)]
pub struct LinkSocket {
    socket: Socket,
    /// The link.
    pub link: LinkIndex,
    /// Index of its interface.
    pub interface_index: u32,
    /// Address and port that it is bound to.
    pub local: SocketAddr,
    /// Who else hears that address.
    pub audience: Audience,
}

impl LinkSocket {
    /// Binds to an entrance of a link.
    ///
    /// # Errors
    /// What could not be done, with the address and what helps.
    pub fn bind(link: LinkIndex, network: &Network, entrance: &Entrance) -> Result<Self> {
        let (interface, interface_index) = (&network.interface, network.interface_index);
        let local = entrance.address;
        let bind = || {
            let socket = open(local, interface)?;
            socket.bind(&scoped(local, interface_index).into())?;
            prepare(&socket, local.ip(), entrance.cast, interface_index)?;
            Ok::<_, io::Error>(socket)
        };
        let socket = bind().with_context(|| {
            format!(
                "cannot bind UDP {local} on {interface}: is the address there (`ip addr show dev \
                 {interface}`), and no other daemon on the port?"
            )
        })?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)
            .context("cannot get time stamps of the kernel")?;
        Ok(Self { socket, link, interface_index, local, audience: entrance.audience })
    }

    /// Sends a datagram; never blocks.
    ///
    /// # Errors
    /// Those of sendto(2).
    pub fn send(&self, datagram: &[u8], remote: &socket2::SockAddr) -> io::Result<()> {
        let send = || self.socket.send_to(datagram, remote).map(|_| ());
        // What ICMP told while a question left (`ask`) ends one call, not two.
        send().or_else(|_| send())
    }

    /// Sends a question. That a full queue of this host dropped it the kernel keeps from UDP sockets
    /// without `IP_RECVERR` (`udp_send_skb`), so the socket has that for this moment. It must not have it for
    /// longer: with it every ICMP message, which anybody can forge, is an error of the next call.
    ///
    /// # Errors
    /// As [`LinkSocket::send`]; `ENOBUFS` when it was dropped.
    pub fn ask(&self, datagram: &[u8], remote: &socket2::SockAddr) -> io::Result<()> {
        self.tell_errors(true);
        let asked = self.socket.send_to(datagram, remote);
        self.forget_errors();
        match asked {
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Err(error),
            // Perhaps another's fault (ICMP): what is this one's comes again.
            Err(_) => self.send(datagram, remote),
            Ok(_) => Ok(()),
        }
    }

    /// Forgets what ICMP told while a question left. One that came in just as that ended may still be
    /// there: it would wake whoever waits for datagrams, again and again.
    pub fn forget_errors(&self) {
        // This also empties the queue of errors (ip(7)), and the other call reads what is pending.
        self.tell_errors(false);
        let _ = self.socket.take_error();
    }

    /// Where that is refused, the socket is as it was.
    fn tell_errors(&self, wanted: bool) {
        let _ = match self.local {
            SocketAddr::V4(_) => setsockopt(&self.socket, sockopt::Ipv4RecvErr, &wanted),
            SocketAddr::V6(_) => setsockopt(&self.socket, sockopt::Ipv6RecvErr, &wanted),
        };
    }

    /// Receives one datagram into `buffer`: its length, and when the kernel received it
    /// (`CLOCK_MONOTONIC`). `None`: nothing is waiting.
    ///
    /// # Errors
    /// Those of recvmsg(2), such as an asynchronous error of an earlier send.
    pub fn receive(
        &self,
        buffer: &mut [u8; DATAGRAM_BYTES_MAX],
    ) -> io::Result<Option<(usize, u64)>> {
        let mut parts = [io::IoSliceMut::new(buffer)];
        let mut control = cmsg_space!(TimeSpec);
        let received = recvmsg::<()>(
            self.socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_DONTWAIT,
        );
        let message = match received {
            Ok(message) => message,
            Err(nix::errno::Errno::EAGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let stamp = message.cmsgs().ok().into_iter().flatten().find_map(|it| {
            if let ControlMessageOwned::ScmTimestampns(stamp) = it { Some(stamp) } else { None }
        });
        Ok(Some((message.bytes, clock::monotonic_of_stamp(stamp))))
    }

    /// Refuses, before anybody wakes, what a program in the kernel does not send up: everything but
    /// control messages and probes (of those, what TC is to answer, too), and packets with IP options or extension headers, which pass it by.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn accept_control_and_probes(&self) -> io::Result<()> {
        // First byte of an IPv4 header without options; next header of an IPv6 one without
        // extensions (at SKF_NET_OFF, the network header).
        let (offset, expected) = match self.local {
            SocketAddr::V4(_) => (0, 0x45),
            SocketAddr::V6(_) => (6, libc::IPPROTO_UDP as u32),
        };
        let network = (libc::SKF_NET_OFF as u32).wrapping_add(offset);
        let load = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
        let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        let give = (libc::BPF_RET | libc::BPF_K) as u16;
        self.socket.attach_filter(&[
            SockFilter::new(load, 0, 0, network),
            SockFilter::new(equal, 0, 6, expected),
            SockFilter::new(load, 0, 0, KIND_AT),
            SockFilter::new(equal, 3, 0, Kind::Control as u32),
            SockFilter::new(equal, 0, 3, Kind::Probe as u32),
            SockFilter::new(load, 0, 0, WAY_AT),
            SockFilter::new(equal, 1, 0, Way::Tc as u32),
            SockFilter::new(give, 0, 0, u32::MAX),
            SockFilter::new(give, 0, 0, 0),
        ])
    }

    /// The socket of the program before, which is bound already.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn resume(
        fd: OwnedFd,
        link: LinkIndex,
        network: &Network,
        entrance: &Entrance,
    ) -> io::Result<Self> {
        let socket = Socket::from(fd);
        // What it refused depends on the programs that were attached; it is decided anew.
        match socket.detach_filter() {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
            _ => {}
        }
        let (local, audience) = (entrance.address, entrance.audience);
        Ok(Self { socket, link, interface_index: network.interface_index, local, audience })
    }

    /// Gives the socket to the next program, open.
    #[must_use]
    pub fn hand_over(self) -> OwnedFd {
        self.socket.into()
    }

    /// Another handle of the same socket, for another thread.
    ///
    /// # Errors
    /// Those of dup(2).
    pub fn duplicate(&self) -> io::Result<Self> {
        let socket = self.socket.try_clone()?;
        let Self { link, interface_index, local, audience, .. } = *self;
        Ok(Self { socket, link, interface_index, local, audience })
    }
}

impl AsFd for LinkSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn open(local: SocketAddr, interface: &InterfaceName) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.bind_device(Some(interface.as_str().as_bytes()))?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    // Heartbeats go first in every queue on the way: network control (RFC 4594 3.1), and the
    // highest priority that needs no privilege (tc-prio(8)).
    socket.set_priority(6)?;
    match local {
        SocketAddr::V4(_) => socket.set_tos_v4(u32::from(TRAFFIC_CLASS))?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_tclass_v6(u32::from(TRAFFIC_CLASS))?;
        }
    }
    Ok(socket)
}

/// What a socket needs besides its address to receive from many and to send to many.
fn prepare(socket: &Socket, local: IpAddr, cast: Cast, interface_index: u32) -> io::Result<()> {
    match (cast, local) {
        (Cast::Unicast, _) => Ok(()),
        (Cast::Broadcast, _) => socket.set_broadcast(true),
        (Cast::Multicast { ttl, loopback }, IpAddr::V4(group)) => {
            socket.set_multicast_ttl_v4(u32::from(ttl))?;
            socket.set_multicast_loop_v4(loopback)?;
            socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(interface_index))
        }
        (Cast::Multicast { ttl, loopback }, IpAddr::V6(group)) => {
            socket.set_multicast_hops_v6(u32::from(ttl))?;
            socket.set_multicast_loop_v6(loopback)?;
            socket.set_multicast_if_v6(interface_index)?;
            socket.join_multicast_v6(&group, interface_index)
        }
    }
}

/// What an operator can do when a datagram does not leave.
#[must_use]
pub fn remedy(error: &io::Error, interface: &InterfaceName) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "a firewall or a prohibiting route of this node refuses it: `nft list ruleset`, `ip route \
             show table all`"
                .to_owned()
        }
        Some(libc::ENOBUFS | libc::EAGAIN) => {
            format!("the queue of {interface} is full: `tc -s qdisc show dev {interface}`")
        }
        _ => format!("is {interface} there, up and with its address: `ip addr show dev {interface}`?"),
    }
}

/// A link-local IPv6 address, or a multicast group of the interface's or the link's scope, means
/// nothing without its interface (RFC 4007 6).
#[must_use]
pub fn scoped(address: SocketAddr, interface_index: u32) -> SocketAddr {
    let is_local = |ip: &std::net::Ipv6Addr| {
        let [first, second, ..] = ip.octets();
        ip.is_unicast_link_local() || first == 0xff && matches!(second & 0x0f, 1 | 2)
    };
    match address {
        SocketAddr::V6(mut v6) if is_local(v6.ip()) => {
            v6.set_scope_id(interface_index);
            SocketAddr::V6(v6)
        }
        SocketAddr::V4(_) | SocketAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    /// Whether something wakes who waits for datagrams: one of them, or an error.
    fn has_news(socket: &LinkSocket, time_max: PollTimeout) -> bool {
        let mut waiting = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut waiting, time_max).unwrap() > 0
    }

    #[test]
    fn a_closed_port_of_the_peer_is_no_error_of_a_question_and_leaves_none_behind() {
        for ip in [IpAddr::from([127, 0, 0, 1]), std::net::Ipv6Addr::LOCALHOST.into()] {
            let address = SocketAddr::new(ip, 0);
            let Ok(free) = std::net::UdpSocket::bind(address) else {
                eprintln!("NOT TESTED: this host has no {ip}");
                continue;
            };
            let entrance = Entrance { address, audience: Audience::One, cast: Cast::Unicast };
            let network = Network {
                interface: "lo".parse().unwrap(),
                interface_index: 1,
                entrances: vec![entrance],
                remotes: Vec::new(),
                own: vec![ip],
                mac: None,
                ends: None,
            };
            let socket = LinkSocket::bind(LinkIndex(0), &network, &entrance).unwrap();
            let closed = free.local_addr().unwrap();
            drop(free);
            // Between fork and exec a child of another test has all that is open here.
            let listed = format!(":{:04X} ", closed.port());
            let deadline = Instant::now() + Duration::from_secs(10);
            while ["udp", "udp6"].iter().any(|table| {
                let table = std::fs::read_to_string(format!("/proc/self/net/{table}"));
                table.is_ok_and(|sockets| sockets.contains(&listed))
            }) {
                assert!(Instant::now() < deadline, "{closed} stays in use");
            }
            let closed = closed.into();
            let provoke = || {
                socket.tell_errors(true);
                socket.socket.send_to(b"?", &closed).unwrap();
                assert!(has_news(&socket, PollTimeout::from(10_000_u16)), "{address}: no ICMP");
            };
            // Left alone, it ends the next call and wakes whoever waits.
            provoke();
            let told = socket.socket.send_to(b"?", &closed).unwrap_err();
            assert_eq!(told.raw_os_error(), Some(libc::ECONNREFUSED), "{address}");
            provoke();
            socket.forget_errors();
            assert!(!has_news(&socket, PollTimeout::ZERO), "{address}");
            for _ in 0..10 {
                socket.ask(b"?", &closed).unwrap();
                assert!(!has_news(&socket, PollTimeout::ZERO), "{address}");
            }
            // One that is pending ends neither a question nor a heartbeat.
            for send in [LinkSocket::ask, LinkSocket::send] {
                provoke();
                send(&socket, b"?", &closed).unwrap();
            }
        }
    }

    #[test]
    fn what_does_not_leave_has_a_remedy_for_its_cause() {
        let interface = "eth1".parse().unwrap();
        for (errno, expected) in [
            (libc::EPERM, "nft list ruleset"),
            (libc::EACCES, "ip route"),
            (libc::ENOBUFS, "tc -s qdisc show dev eth1"),
            (libc::ENETUNREACH, "ip addr show dev eth1"),
            (libc::ENODEV, "ip addr show dev eth1"),
        ] {
            let said = remedy(&io::Error::from_raw_os_error(errno), &interface);
            assert!(said.contains(expected), "{errno}: {said}");
        }
    }
}
