//! The hostile host: captures what nodes say to each other, forges it, and sends it again.
//!
//! [`Tap`] reads along in the switch, as somebody with a mirror port would; [`Frame`] is an Ethernet
//! frame with a UDP datagram in it that can be taken apart and put together; [`Rogue`] is a third
//! host on both networks that sends frames as they are, with whatever addresses stand in them.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ha_common::auth::Key;
use ha_common::frame;
use ha_common::wire::{FIXED_BYTES, Fixed, Header, Kind};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    LinkAddr, MsgFlags, MultiHeaders, bind, recvfrom, sendmmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::bed::{Bed, Cluster, Netns};
use crate::sys;

/// Host name of the rogue.
const HOST: &str = "rogue";
/// Its own addresses: heartbeat network, service network.
const ADDRESSES: [(&str, &str, &str); 2] =
    [("hb0", "hb", "192.0.2.66/24"), ("eth0", "svc", "198.51.100.66/24")];
/// The port of heartbeats and control connections.
pub const PORT: u16 = 694;
/// The IP protocol of heartbeats.
const UDP: u8 = 17;
/// `PACKET_OUTGOING` (linux/if_packet.h).
const PACKET_OUTGOING: u8 = 4;
/// `ETH_P_ALL`: the only protocol whose listeners see what a bridge takes.
const EVERY_PROTOCOL: u16 = 3;
/// Frames per system call of a flood: fewer than a veth's ring of 256 holds.
const FLOOD_BATCH: usize = 32;
/// Pause between two of them.
const FLOOD_PAUSE: Duration = Duration::from_micros(200);
const TAP_BUFFER_LEN: usize = 4 << 20;
/// `SO_RCVBUFFORCE` of this size holds some 50,000 small frames.
const RECEIVE_BUFFER_LEN: usize = 64 << 20;

/// The key of [`crate::bed::Cluster`]'s nodes: the first half of the SHA-256 of
/// `a-secret-of-the-test-bed`. Only for datagrams that must be authentic and wrong in another way.
#[must_use]
pub fn cluster_key() -> Key {
    Key::siphash24(&0x5c94_891b_c439_726f_a2c3_4467_93a7_aa68_u128.to_be_bytes())
}

/// Some other key.
#[must_use]
pub fn wrong_key() -> Key {
    Key::siphash24(b"not the real key")
}

/// Where a frame comes from and goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Ethernet source.
    pub source_mac: [u8; 6],
    /// Ethernet destination.
    pub target_mac: [u8; 6],
    /// IPv4 source; nobody checks that it is the sender's.
    pub source: Ipv4Addr,
    /// IPv4 destination.
    pub target: Ipv4Addr,
}

/// An Ethernet frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame(pub Vec<u8>);

impl Frame {
    /// A UDP datagram to the heartbeat port.
    #[must_use]
    pub fn udp(route: &Route, payload: &[u8]) -> Self {
        Self::udp_with_options(route, &[], payload)
    }

    /// As [`Frame::udp`], with IP options (a multiple of four bytes).
    #[must_use]
    pub fn udp_with_options(route: &Route, options: &[u8], payload: &[u8]) -> Self {
        let mut udp = Vec::with_capacity(8 + payload.len());
        udp.extend(PORT.to_be_bytes());
        udp.extend(PORT.to_be_bytes());
        // Both lengths fit: the longest frame is far below 64 KiB. No checksum (RFC 768).
        udp.extend(u16::try_from(8 + payload.len()).unwrap_or(u16::MAX).to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(payload);
        Self::ipv4(route, options, 0x4000, &udp)
    }

    /// A datagram in two IP fragments.
    #[must_use]
    pub fn udp_in_fragments(route: &Route, payload: &[u8]) -> [Self; 2] {
        const FIRST: usize = 48;
        let Self(whole) = Self::udp(route, payload);
        let data = &whole[34..];
        let cut = FIRST.min(data.len());
        let offset = u16::try_from(cut / 8).unwrap_or_default();
        [Self::ipv4(route, &[], 0x2000, &data[..cut]), Self::ipv4(route, &[], offset, &data[cut..])]
    }

    fn ipv4(route: &Route, options: &[u8], fragment: u16, data: &[u8]) -> Self {
        let header_len = 20 + options.len();
        let mut header = vec![0x40 | u8::try_from(header_len / 4).unwrap_or(5), 0xc0];
        header.extend(u16::try_from(header_len + data.len()).unwrap_or(u16::MAX).to_be_bytes());
        header.extend(0x6861_u16.to_be_bytes());
        header.extend(fragment.to_be_bytes());
        header.extend([64, 17, 0, 0]);
        header.extend(route.source.octets());
        header.extend(route.target.octets());
        header.extend(options);
        let sum = ip_checksum(&header).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
        let mut bytes = Vec::with_capacity(14 + header.len() + data.len());
        bytes.extend(route.target_mac);
        bytes.extend(route.source_mac);
        bytes.extend([8, 0]);
        bytes.extend(header);
        bytes.extend(data);
        Self(bytes)
    }

    /// The same with another IP protocol and, where that protocol is UDP, another target port.
    #[must_use]
    pub fn addressed(&self, protocol: u8, port: u16) -> Self {
        let mut bytes = self.0.clone();
        bytes[23] = protocol;
        if protocol == UDP {
            bytes[36..38].copy_from_slice(&port.to_be_bytes());
        }
        bytes[24..26].fill(0);
        let sum = ip_checksum(&bytes[14..34]).to_be_bytes();
        bytes[24..26].copy_from_slice(&sum);
        Self(bytes)
    }

    /// The payload of its UDP datagram, if it has one.
    #[must_use]
    pub fn payload(&self) -> Option<&[u8]> {
        let datagram = frame::parse(self.0.as_slice())?;
        self.0.get(datagram.payload_at..)?.get(..datagram.payload_bytes)
    }

    /// The header of the heartbeat or control message in it.
    #[must_use]
    pub fn header(&self) -> Option<Header> {
        Header::decode(&Fixed::read(self.payload()?, 0)?).ok()
    }

    /// The same datagram on another way.
    #[must_use]
    pub fn rerouted(&self, route: &Route) -> Self {
        Self::udp(route, self.payload().unwrap_or_default())
    }

    /// The same frame with a VLAN tag.
    #[must_use]
    pub fn in_vlan(&self, vlan: u8) -> Self {
        let mut bytes = self.0.clone();
        bytes.splice(12..12, [0x81, 0, 0, vlan]);
        Self(bytes)
    }

    /// IPv4 source and destination.
    #[must_use]
    pub fn addresses(&self) -> Option<(Ipv4Addr, Ipv4Addr)> {
        if self.0.get(12..14)? != [8, 0] {
            return None;
        }
        let source: [u8; 4] = *self.0.get(26..)?.first_chunk()?;
        let target: [u8; 4] = *self.0.get(30..)?.first_chunk()?;
        Some((source.into(), target.into()))
    }

    /// What a TCP segment to the control port carries; empty for one without data.
    #[must_use]
    pub fn tcp_data(&self) -> Option<&[u8]> {
        let ip = self.0.get(14..)?;
        if ip.first()? >> 4 != 4 || *ip.get(9)? != 6 {
            return None;
        }
        let length = usize::from(u16::from_be_bytes(*ip.get(2..)?.first_chunk()?));
        let tcp = ip.get(usize::from(ip[0] & 0xf) * 4..length)?;
        if u16::from_be_bytes(*tcp.get(2..)?.first_chunk()?) != PORT {
            return None;
        }
        tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)
    }
}

/// RFC 791 3.1.
fn ip_checksum(header: &[u8]) -> u16 {
    let mut sum: u32 =
        header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

/// A signed datagram: header, and body with its tag when there is one.
#[must_use]
pub fn signed(header: &Header, key: &Key, body: &[u8]) -> Vec<u8> {
    let body_bytes = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let mut fixed = Header { body_bytes, ..*header }.encode();
    key.sign(&mut fixed);
    let mut datagram = fixed.to_bytes().to_vec();
    debug_assert_eq!(datagram.len(), FIXED_BYTES);
    if !body.is_empty() {
        datagram.extend(key.body_tag(&fixed, body));
        datagram.extend(body);
    }
    datagram
}

/// Reads along in the switch from its opening on.
#[derive(Debug)]
pub struct Tap {
    socket: Socket,
}

impl Tap {
    /// Starts reading; frames wait in a buffer of 4 MiB until [`Tap::take`].
    ///
    /// # Errors
    /// Packet sockets cannot be opened there.
    pub fn open(bed: &Bed) -> Result<Self> {
        let protocol = Protocol::from(i32::from(EVERY_PROTOCOL.to_be()));
        let socket = bed.switch().run(|| {
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
            socket.set_recv_buffer_size(TAP_BUFFER_LEN)?;
            socket.set_read_timeout(Some(Duration::from_millis(20)))?;
            Ok(socket)
        })?;
        Ok(Self { socket })
    }

    /// Frames into the switch that `wanted` likes, until there are `count` of them.
    ///
    /// # Errors
    /// They did not come within `time_max`.
    pub fn take(
        &self,
        count: usize,
        time_max: Duration,
        wanted: impl Fn(&Frame) -> bool,
    ) -> Result<Vec<Frame>> {
        let deadline = Instant::now() + time_max;
        let mut frames = Vec::new();
        while frames.len() < count {
            if let Some(frame) = self.next()
                && wanted(&frame)
            {
                frames.push(frame);
            }
            if Instant::now() > deadline {
                bail!("the tap saw {} of {count} frames within {time_max:?}", frames.len());
            }
        }
        Ok(frames)
    }

    /// Heartbeats or control messages from one address to another.
    ///
    /// # Errors
    /// As [`Tap::take`].
    pub fn take_kind(
        &self,
        kind: Kind,
        from: Ipv4Addr,
        to: Ipv4Addr,
        count: usize,
        time_max: Duration,
    ) -> Result<Vec<Frame>> {
        let wanted = |frame: &Frame| {
            frame.addresses() == Some((from, to))
                && frame.header().is_some_and(|header| header.kind == kind)
        };
        self.take(count, time_max, wanted)
            .with_context(|| format!("{kind:?} from {from} to {to} was waited for"))
    }

    fn next(&self) -> Option<Frame> {
        let mut bytes = [0; 2048];
        let (length, from) = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut bytes).ok()?;
        // What the switch sends out came in before.
        let incoming = from.is_some_and(|from| from.pkttype() != PACKET_OUTGOING);
        incoming.then(|| Frame(bytes[..length.min(bytes.len())].to_vec()))
    }
}

/// The host that sends forged and recorded frames.
#[derive(Debug)]
pub struct Rogue {
    netns: Arc<Netns>,
    ports: [Port; 2],
}

#[derive(Debug)]
struct Port {
    mac: [u8; 6],
    socket: Socket,
}

/// Which network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The heartbeat network.
    Heartbeat,
    /// The service network.
    Service,
}

impl Network {
    /// Interface of nodes on it.
    #[must_use]
    pub fn interface(self) -> &'static str {
        ADDRESSES[self as usize].0
    }

    /// Address of a node by its number, from 1.
    #[must_use]
    pub fn address(self, number: u8) -> Ipv4Addr {
        match self {
            Self::Heartbeat => Ipv4Addr::new(192, 0, 2, number),
            Self::Service => Ipv4Addr::new(198, 51, 100, number),
        }
    }
}

impl Rogue {
    /// Plugs the rogue into both networks of a cluster.
    ///
    /// # Errors
    /// As those of [`Bed::plug`].
    pub fn join(cluster: &mut Cluster) -> Result<Self> {
        let bed = &mut cluster.bed;
        let netns = bed.host(HOST)?;
        for (interface, bridge, address) in ADDRESSES {
            bed.plug(HOST, interface, bridge, &[address])?;
        }
        let port = |network: Network| -> Result<Port> {
            let mac = parse_mac(bed.mac(HOST, network.interface())?)?;
            let socket = netns.run(|| open_for_sending(network.interface()))?;
            Ok(Port { mac, socket })
        };
        Ok(Self { ports: [port(Network::Heartbeat)?, port(Network::Service)?], netns })
    }

    /// Its namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The way to a node that claims to come from another: the Ethernet source is the rogue's own,
    /// so that the switch goes on delivering to the real one.
    ///
    /// # Errors
    /// There is no such node.
    pub fn route(
        &self,
        cluster: &Cluster,
        network: Network,
        from: &str,
        to: &str,
    ) -> Result<Route> {
        Ok(Route {
            source_mac: self.ports[network as usize].mac,
            target_mac: parse_mac(cluster.bed.mac(to, network.interface())?)?,
            source: network.address(number_of(cluster, from)?),
            target: network.address(number_of(cluster, to)?),
        })
    }

    /// Sends frames, one by one.
    ///
    /// # Errors
    /// The kernel refuses one.
    pub fn send<'a>(
        &self,
        network: Network,
        frames: impl IntoIterator<Item = &'a Frame>,
    ) -> Result<u64> {
        let mut sent = 0;
        for frame in frames {
            self.ports[network as usize].socket.send(&frame.0)?;
            sent += 1;
        }
        Ok(sent)
    }

    /// Sends `count` frames, taken from `frames` in turn, some ten thousand in a second.
    ///
    /// # Errors
    /// The kernel refuses some.
    pub fn flood(&self, network: Network, frames: &[Frame], count: u64) -> Result<()> {
        ensure!(!frames.is_empty(), "nothing to send");
        let socket = &self.ports[network as usize].socket;
        let mut headers = MultiHeaders::<LinkAddr>::preallocate(FLOOD_BATCH, None);
        let mut source = frames.iter().cycle();
        let mut left = usize::try_from(count)?;
        while left > 0 {
            let batch: Vec<[std::io::IoSlice<'_>; 1]> = source
                .by_ref()
                .take(left.min(FLOOD_BATCH))
                .map(|frame| [std::io::IoSlice::new(&frame.0)])
                .collect();
            let nowhere = vec![None; batch.len()];
            let sent =
                sendmmsg(socket.as_raw_fd(), &mut headers, &batch, nowhere, [], MsgFlags::empty())?
                    .count();
            ensure!(sent == batch.len(), "only {sent} of {} frames were taken", batch.len());
            left -= sent;
            thread::sleep(FLOOD_PAUSE);
        }
        Ok(())
    }
}

/// Number of a node in the plan, from 1, which is the last byte of its addresses.
fn number_of(cluster: &Cluster, node: &str) -> Result<u8> {
    let place = cluster.plan.nodes.iter().position(|name| name == node);
    Ok(u8::try_from(place.with_context(|| format!("there is no node {node}"))? + 1)?)
}

/// A socket that sends whole frames on an interface of the current namespace.
///
/// # Errors
/// There is no such interface, or packet sockets cannot be opened there.
pub fn open_for_sending(interface: &str) -> Result<Socket> {
    // Without a protocol it receives nothing.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    let address = nix::ifaddrs::getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .with_context(|| format!("{interface} has no link address"))?;
    bind(socket.as_raw_fd(), &address)?;
    Ok(socket)
}

/// A socket that keeps what arrives of a protocol on an interface of the current namespace until it is
/// read; reading does not wait.
///
/// # Errors
/// There is no such interface, or packet sockets cannot be opened there.
pub fn open_for_receiving(interface: &str, ethertype: u16) -> Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_LEN)?;
    socket.set_nonblocking(true)?;
    sys::bind_packet(&socket, if_nametoindex(interface)?, ethertype)?;
    Ok(socket)
}

fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    bytes.try_into().ok().with_context(|| format!("{text} is no MAC address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: Route = Route {
        source_mac: [2, 0, 0, 0, 0, 1],
        target_mac: [2, 0, 0, 0, 0, 2],
        source: Ipv4Addr::new(192, 0, 2, 1),
        target: Ipv4Addr::new(192, 0, 2, 2),
    };

    #[test]
    fn a_frame_is_read_back_by_the_parser_of_the_daemon() {
        let frame = Frame::udp(&ROUTE, b"payload");
        assert_eq!(frame.payload(), Some(b"payload".as_slice()));
        assert_eq!(frame.addresses(), Some((ROUTE.source, ROUTE.target)));
        assert_eq!(frame.in_vlan(7).payload(), Some(b"payload".as_slice()));
        assert_eq!(ip_checksum(&frame.0[14..34]), 0);
        let other = frame.addressed(112, 0);
        assert_eq!((other.0[23], ip_checksum(&other.0[14..34])), (112, 0));
        assert_eq!(frame.addressed(UDP, 3784).0[36..38], 3784_u16.to_be_bytes());
    }

    #[test]
    fn options_and_later_fragments_are_not_for_the_parser() {
        assert_eq!(Frame::udp_with_options(&ROUTE, &[1, 1, 1, 0], b"x").payload(), None);
        let [first, second] = Frame::udp_in_fragments(&ROUTE, &[7; 100]);
        assert!(frame::parse(first.0.as_slice()).is_some_and(|it| it.fragment));
        assert_eq!(second.payload(), None);
        assert_eq!(first.0.len() + second.0.len(), 2 * 34 + 8 + 100);
    }
}
