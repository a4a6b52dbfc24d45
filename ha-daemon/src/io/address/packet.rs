//! The worker's sockets: one that sends frames, two that hear of other owners.
//!
//! All are opened when the thread starts, none is opened for a takeover: closing a packet socket
//! waits for the kernel's readers (milliseconds). A listener that has nothing to listen for is
//! muted by a filter, so that it wakes nobody.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, LinkAddr, MsgFlags, SockaddrIn6, recvfrom, recvmsg, sendto, setsockopt,
    sockopt,
};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

use crate::io::frames::{
    Mac, NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, advertisement_claim, arp_claim,
    arp_question, solicitation_question, solicited_node,
};
use crate::io::sys::{self, Icmp6Pass};

const ETHERTYPE_ARP: u16 = 0x0806;
/// `TC_PRIO_CONTROL` (linux/pkt_sched.h): ahead of bulk traffic in the default queue.
const PRIORITY_CONTROL: u32 = 7;
/// Longest packet that is looked at; what is longer is neither ARP nor an advertisement of one.
const PACKET_BYTES_MAX: usize = 256;
/// Most packets read at one wake-up, so that a flood cannot keep the worker from its commands.
const PACKETS_PER_WAKE_MAX: usize = 64;
/// RFC 4861 7.1.2: with any other hop limit it came from beyond the link.
const HOP_LIMIT: i32 = 255;
/// What is heard by IPv6.
const NEIGHBOUR_MESSAGES: [u8; 2] = [NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION];
/// Classic BPF `RET K` (linux/filter.h): how much of every packet to accept.
const BPF_RET_K: u16 = 0x06;

/// Sends whole frames through any interface. It receives nothing: its protocol is 0.
#[derive(Debug)]
pub(super) struct FrameSender(Socket);

impl FrameSender {
    pub(super) fn open() -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.set_priority(PRIORITY_CONTROL)?;
        Ok(Self(socket))
    }

    /// Hands a frame to the interface; never waits for room.
    pub(super) fn send(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        let address = sys::link_address(ifindex, 0)?;
        sendto(self.0.as_raw_fd(), frame, &address, MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }
}

/// What somebody says of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// That it is its own.
    Claim,
    /// It asks whether it is anybody's, to take it.
    Question,
}

/// Somebody uses an address on the link behind an interface, or is about to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) address: IpAddr,
    /// Whose; a question by IPv6 does not say.
    pub(super) mac: Option<Mac>,
    pub(super) ifindex: u32,
    pub(super) heard: Heard,
}

/// Hears ARP on all interfaces, and neighbour advertisements.
#[derive(Debug)]
pub(super) struct Listeners {
    arp: AsyncFd<Socket>,
    /// `None` on a host without IPv6.
    advertisements: Option<AsyncFd<Socket>>,
    hearing: Hearing,
}

/// Whether the listeners receive anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hearing {
    Muted,
    Open,
}

impl Listeners {
    /// Opens them, muted. Must be called within the runtime.
    pub(super) fn open() -> io::Result<Self> {
        let arp = sys::watch(open_arp()?)?;
        let advertisements = match open_advertisements().and_then(sys::watch) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::info!(%error, "no IPv6 here: not listening for neighbour advertisements");
                None
            }
        };
        Ok(Self { arp, advertisements, hearing: Hearing::Muted })
    }

    /// Opens or mutes them.
    pub(super) fn set(&mut self, hearing: Hearing) -> io::Result<()> {
        if self.hearing == hearing {
            return Ok(());
        }
        let (bytes, pass) = match hearing {
            Hearing::Muted => (0, Icmp6Pass::Nothing),
            Hearing::Open => (u32::MAX, Icmp6Pass::Only(&NEIGHBOUR_MESSAGES)),
        };
        self.arp.get_ref().attach_filter(&[SockFilter::new(BPF_RET_K, 0, 0, bytes)])?;
        if let Some(socket) = &self.advertisements {
            sys::set_icmp6_filter(socket, pass)?;
        }
        self.hearing = hearing;
        Ok(())
    }

    /// Hears questions for an IPv6 address that is not this host's from now on, or no longer.
    pub(super) fn hear_questions(
        &self,
        address: Ipv6Addr,
        ifindex: u32,
        hearing: Hearing,
    ) -> io::Result<()> {
        let Some(socket) = &self.advertisements else { return Ok(()) };
        let (socket, group) = (socket.get_ref(), solicited_node(address));
        match hearing {
            Hearing::Open => socket.join_multicast_v6(&group, ifindex),
            Hearing::Muted => socket.leave_multicast_v6(&group, ifindex),
        }
    }

    /// What is waiting now, up to a bound.
    pub(super) fn waiting(&self) -> Vec<Claim> {
        let mut claims = Vec::new();
        let sockets = [(Some(&self.arp), READ_ARP), (self.advertisements.as_ref(), READ_NEIGHBOUR)];
        for (socket, read_one) in sockets {
            let Some(socket) = socket else { continue };
            for _ in 0..PACKETS_PER_WAKE_MAX {
                match read_one(socket.get_ref()) {
                    Ok(claim) => claims.extend(claim),
                    Err(Errno::EAGAIN) => break,
                    Err(_) => {}
                }
            }
        }
        claims
    }

    /// Waits for claims. Safe to cancel: a packet is read only when its claim is returned.
    pub(super) async fn hear(&self) -> Vec<Claim> {
        tokio::select! {
            claims = read(&self.arp, READ_ARP) => claims,
            claims = async {
                match &self.advertisements {
                    Some(socket) => read(socket, READ_NEIGHBOUR).await,
                    None => std::future::pending().await,
                }
            } => claims,
        }
    }
}

fn open_arp() -> io::Result<Socket> {
    // Protocol 0 first: nothing arrives before the filter is there.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    socket.set_nonblocking(true)?;
    socket.attach_filter(&[SockFilter::new(BPF_RET_K, 0, 0, 0)])?;
    nix::sys::socket::bind(socket.as_raw_fd(), &sys::link_address(0, ETHERTYPE_ARP)?)?;
    Ok(socket)
}

fn open_advertisements() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    sys::set_icmp6_filter(&socket, Icmp6Pass::Nothing)?;
    socket.set_nonblocking(true)?;
    setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
    Ok(socket)
}

/// Reads one packet; `None` is one that claims nothing.
type ReadOne = fn(&Socket) -> nix::Result<Option<Claim>>;
const READ_ARP: ReadOne = read_arp;
const READ_NEIGHBOUR: ReadOne = read_neighbour;

/// Waits for packets and reads them.
async fn read(socket: &AsyncFd<Socket>, read_one: ReadOne) -> Vec<Claim> {
    let Ok(mut ready) = socket.readable().await else {
        // Only when the runtime is going away.
        return std::future::pending().await;
    };
    let mut claims = Vec::new();
    for _ in 0..PACKETS_PER_WAKE_MAX {
        match read_one(socket.get_ref()) {
            Ok(claim) => claims.extend(claim),
            Err(Errno::EAGAIN) => {
                ready.clear_ready();
                break;
            }
            // ENETDOWN: an interface went down; reading it cleared it.
            Err(_) => {}
        }
    }
    claims
}

fn read_arp(socket: &Socket) -> nix::Result<Option<Claim>> {
    let mut frame = [0; PACKET_BYTES_MAX];
    let (length, sender) = recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut frame)?;
    let Some(frame) = frame.get(..length) else { return Ok(None) };
    let claim = arp_claim(frame).map(|it| (it, Heard::Claim));
    let heard = claim.or_else(|| Some((arp_question(frame)?, Heard::Question)));
    Ok(heard.zip(sender).and_then(|(((address, mac), heard), sender)| {
        let ifindex = u32::try_from(sender.ifindex()).ok()?;
        Some(Claim { address: address.into(), mac: Some(mac), ifindex, heard })
    }))
}

fn read_neighbour(socket: &Socket) -> nix::Result<Option<Claim>> {
    let mut message = [0; PACKET_BYTES_MAX];
    let mut parts = [IoSliceMut::new(&mut message)];
    let mut control = nix::cmsg_space!(libc::in6_pktinfo, libc::c_int);
    let received = recvmsg::<SockaddrIn6>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::empty(),
    )?;
    let (mut ifindex, mut hop_limit) = (None, None);
    for item in received.cmsgs()? {
        if let ControlMessageOwned::Ipv6PacketInfo(info) = item {
            ifindex = Some(info.ipi6_ifindex);
        } else if let ControlMessageOwned::Ipv6HopLimit(limit) = item {
            hop_limit = Some(limit);
        }
    }
    let (length, sender) = (received.bytes, received.address);
    let Some(message) = message.get(..length) else { return Ok(None) };
    let claim = advertisement_claim(message).map(|(address, mac)| (address, Some(mac)));
    // A client that looks for the address asks from an address of its own.
    let from_nobody = sender.is_some_and(|sender| sender.ip().is_unspecified());
    let question = solicitation_question(message).filter(|_| from_nobody);
    let heard =
        claim.map(|it| (it, Heard::Claim)).or_else(|| Some(((question?, None), Heard::Question)));
    let ifindex = ifindex.filter(|_| hop_limit == Some(HOP_LIMIT));
    Ok(heard.zip(ifindex).map(|(((address, mac), heard), ifindex)| Claim {
        address: address.into(),
        mac,
        ifindex,
        heard,
    }))
}
