//! The worker's sockets: one that sends frames, two that hear of other owners.
//!
//! All are opened when the thread starts, none is opened for a takeover: closing a packet socket
//! waits for the kernel's readers (milliseconds). A listener that has nothing to listen for is
//! muted by a filter, so that it wakes nobody.

use std::io::{self, IoSliceMut};
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, LinkAddr, MsgFlags, SockaddrIn6, recvfrom, recvmsg, sendto, setsockopt,
    sockopt,
};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

use crate::io::frames::{Mac, NEIGHBOUR_ADVERTISEMENT, advertisement_claim, arp_claim};
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

/// Somebody uses an address on the link behind an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) address: IpAddr,
    pub(super) mac: Mac,
    pub(super) ifindex: u32,
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
            Hearing::Open => (u32::MAX, Icmp6Pass::Only(NEIGHBOUR_ADVERTISEMENT)),
        };
        self.arp.get_ref().attach_filter(&[SockFilter::new(BPF_RET_K, 0, 0, bytes)])?;
        if let Some(socket) = &self.advertisements {
            sys::set_icmp6_filter(socket, pass)?;
        }
        self.hearing = hearing;
        Ok(())
    }

    /// Waits for claims. Safe to cancel: a packet is read only when its claim is returned.
    pub(super) async fn hear(&self) -> Vec<Claim> {
        tokio::select! {
            claims = read(&self.arp, read_arp) => claims,
            claims = async {
                match &self.advertisements {
                    Some(socket) => read(socket, read_advertisement).await,
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

/// Waits for packets and reads them; `None` is one that claims nothing.
async fn read(
    socket: &AsyncFd<Socket>,
    read_one: fn(&Socket) -> nix::Result<Option<Claim>>,
) -> Vec<Claim> {
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
    let claim = frame.get(..length).and_then(arp_claim);
    Ok(claim.zip(sender).and_then(|((address, mac), sender)| {
        let ifindex = u32::try_from(sender.ifindex()).ok()?;
        Some(Claim { address: address.into(), mac, ifindex })
    }))
}

fn read_advertisement(socket: &Socket) -> nix::Result<Option<Claim>> {
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
    let length = received.bytes;
    let claim = message.get(..length).and_then(advertisement_claim);
    let ifindex = ifindex.filter(|_| hop_limit == Some(HOP_LIMIT));
    Ok(claim.zip(ifindex).map(|((address, mac), ifindex)| Claim {
        address: address.into(),
        mac,
        ifindex,
    }))
}
