//! Parser of Ethernet frames: finds the UDP payload, with or without one VLAN tag, IPv4 or IPv6.
//!
//! Generic over its byte source, so that the same code reads a packet in the kernel (where every
//! access must be proven in bounds) and a slice on the host (where it is tested and fuzzed).

/// Where the parser reads from.
pub trait Source {
    /// Length of the frame in bytes, which may be more than can be read.
    fn length(&self) -> usize;
    /// `N` bytes from `offset` on; `None` past the end.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
    /// `W` words of eight bytes from `offset` on, as they stand in memory; `None` past the end.
    fn words<const W: usize>(&self, offset: usize) -> Option<[u64; W]>;
}

impl Source for [u8] {
    fn length(&self) -> usize {
        self.len()
    }

    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..offset.checked_add(N)?)?.try_into().ok()
    }

    fn words<const W: usize>(&self, offset: usize) -> Option<[u64; W]> {
        let bytes = self.get(offset..offset.checked_add(W * 8)?)?;
        let mut words = [0; W];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_ne_bytes(chunk.try_into().ok()?);
        }
        Some(words)
    }
}

pub(crate) const ETHERNET_BYTES: usize = 14;
const VLAN_BYTES: usize = 4;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const UDP_BYTES: usize = 8;
pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
const PROTOCOL_UDP: u8 = 17;
/// Fragment offset, and "more fragments", of IPv4 (RFC 791 3.1).
const IPV4_OFFSET_MASK: u16 = 0x1fff;
const IPV4_MORE: u16 = 0x2000;
/// Fragment header of IPv6, its length, and its offset field (RFC 8200 4.5).
const PROTOCOL_FRAGMENT: u8 = 44;
const IPV6_FRAGMENT_BYTES: usize = 8;
const IPV6_OFFSET_MASK: u16 = 0xfff8;

/// A UDP datagram inside a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    /// Destination address; IPv4 as IPv4-mapped IPv6 (RFC 4291 2.5.5.2).
    pub destination: [u8; 16],
    /// Destination port.
    pub port: u16,
    /// The frame carries only the first part of the datagram.
    pub fragment: bool,
    /// Whether it is IPv6.
    pub v6: bool,
    /// Where the IP header begins in the frame.
    pub network_at: usize,
    /// Where the payload begins in the frame.
    pub payload_at: usize,
    /// How much of it is there: the least of what UDP, IP and the frame say. The network stack
    /// drops a datagram whose lengths contradict each other, so no more may be counted on.
    pub payload_bytes: usize,
}

/// An IPv4 address in the 16-byte form of [`Datagram::destination`].
#[inline(always)]
#[must_use]
pub const fn mapped(address: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = address;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// Finds the UDP datagram in a frame. `None`: something else, or not in a form that a heartbeat has
/// (IP options, extension headers, later fragments), which is left to the network stack.
///
/// First fragments are recognised, because whoever drops them keeps the whole datagram from being
/// put together and coming up to a socket past the programs in the kernel.
#[inline(always)]
#[must_use]
pub fn parse<S: Source + ?Sized>(frame: &S) -> Option<Datagram> {
    let (ethertype, network_at) = network(frame)?;
    let packet = match ethertype {
        ETHERTYPE_IPV4 => ipv4(frame, network_at)?,
        ETHERTYPE_IPV6 => ipv6(frame, network_at)?,
        _ => return None,
    };
    let transport_at = network_at + packet.header_bytes;
    let udp = frame.read::<UDP_BYTES>(transport_at)?;
    let stated = u16::from_be_bytes([udp[4], udp[5]]) as usize;
    let carried = frame.length().saturating_sub(transport_at);
    let length = stated.min(packet.carried_bytes).min(carried);
    Some(Datagram {
        v6: ethertype == ETHERTYPE_IPV6,
        network_at,
        destination: packet.destination,
        port: u16::from_be_bytes([udp[2], udp[3]]),
        fragment: packet.fragment,
        payload_at: transport_at + UDP_BYTES,
        payload_bytes: length.saturating_sub(UDP_BYTES),
    })
}

/// What follows the Ethernet header and at most one VLAN tag: its type, and where it begins.
#[inline(always)]
pub(crate) fn network<S: Source + ?Sized>(frame: &S) -> Option<(u16, usize)> {
    let ethertype = u16::from_be_bytes(frame.read::<2>(ETHERNET_BYTES - 2)?);
    if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_QINQ {
        return Some((ethertype, ETHERNET_BYTES));
    }
    let inner = frame.read::<2>(ETHERNET_BYTES + VLAN_BYTES - 2)?;
    Some((u16::from_be_bytes(inner), ETHERNET_BYTES + VLAN_BYTES))
}

/// What an IP header says.
struct Packet {
    destination: [u8; 16],
    /// Length of the header.
    header_bytes: usize,
    /// Length of what follows it.
    carried_bytes: usize,
    /// Whether more of the datagram is in other packets.
    fragment: bool,
}

#[inline(always)]
fn ipv4<S: Source + ?Sized>(frame: &S, at: usize) -> Option<Packet> {
    let header = frame.read::<IPV4_BYTES>(at)?;
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    // 0x45: version 4, a header of five words, which is one without options.
    if header[0] != 0x45 || fragment & IPV4_OFFSET_MASK != 0 || header[9] != PROTOCOL_UDP {
        return None;
    }
    let total_bytes = u16::from_be_bytes([header[2], header[3]]) as usize;
    Some(Packet {
        destination: mapped([header[16], header[17], header[18], header[19]]),
        header_bytes: IPV4_BYTES,
        carried_bytes: total_bytes.saturating_sub(IPV4_BYTES),
        fragment: fragment & IPV4_MORE != 0,
    })
}

#[inline(always)]
fn ipv6<S: Source + ?Sized>(frame: &S, at: usize) -> Option<Packet> {
    let start = frame.read::<8>(at)?;
    if start[0] >> 4 != 6 {
        return None;
    }
    let fragment = start[6] == PROTOCOL_FRAGMENT;
    let mut header_bytes = IPV6_BYTES;
    if fragment {
        let header = frame.read::<IPV6_FRAGMENT_BYTES>(at + IPV6_BYTES)?;
        let offset = u16::from_be_bytes([header[2], header[3]]) & IPV6_OFFSET_MASK;
        if header[0] != PROTOCOL_UDP || offset != 0 {
            return None;
        }
        header_bytes += IPV6_FRAGMENT_BYTES;
    } else if start[6] != PROTOCOL_UDP {
        return None;
    }
    let payload_bytes = u16::from_be_bytes([start[4], start[5]]) as usize;
    Some(Packet {
        destination: frame.read::<16>(at + 24)?,
        header_bytes,
        carried_bytes: payload_bytes.saturating_sub(header_bytes - IPV6_BYTES),
        fragment,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn udp_over_ipv4(vlan: bool) -> Vec<u8> {
        let mut frame = vec![0; 12];
        if vlan {
            frame.extend([0x81, 0x00, 0xc0, 0x64]);
        }
        frame.extend([0x08, 0x00, 0x45, 0xc0, 0, 32, 0, 0, 0x40, 0, 64, 17, 0, 0]);
        frame.extend([192, 0, 2, 1, 192, 0, 2, 2]);
        frame.extend([0x30, 0x39, 0x02, 0xb6, 0, 12, 0, 0, 1, 2, 3, 4]);
        frame
    }

    fn udp_over_ipv6() -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x86, 0xdd, 0x6c, 0, 0, 0, 0, 12, 17, 64]);
        let address = |last| [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
        frame.extend(address(1));
        frame.extend(address(2));
        frame.extend([0x30, 0x39, 0x02, 0xb6, 0, 12, 0, 0, 1, 2, 3, 4]);
        frame
    }

    #[test]
    fn the_payload_is_found_behind_every_header_combination() {
        for (frame, at) in
            [(udp_over_ipv4(false), 42), (udp_over_ipv4(true), 46), (udp_over_ipv6(), 62)]
        {
            let datagram = parse(frame.as_slice()).unwrap();
            assert_eq!((datagram.payload_at, datagram.payload_bytes, datagram.port), (at, 4, 694));
        }
        let destination = parse(udp_over_ipv4(false).as_slice()).unwrap().destination;
        assert_eq!(destination, mapped([192, 0, 2, 2]));
    }

    #[test]
    fn later_fragments_options_and_other_protocols_are_left_to_the_stack() {
        for (at, value) in [(12, 0x09), (14, 0x46), (21, 0x01), (23, 6)] {
            let mut frame = udp_over_ipv4(false);
            frame[at] = value;
            assert_eq!(parse(frame.as_slice()), None, "byte {at}");
        }
        let mut frame = udp_over_ipv6();
        frame[20] = 44; // fragment header
        assert_eq!(parse(frame.as_slice()), None);
    }

    #[test]
    fn first_fragments_are_recognised() {
        let mut frame = udp_over_ipv4(false);
        assert!(!parse(frame.as_slice()).unwrap().fragment);
        frame[20] = 0x20;
        assert!(parse(frame.as_slice()).unwrap().fragment);
        let mut frame = udp_over_ipv6();
        frame[20] = 44;
        frame.splice(54..54, [17, 0, 0, 1, 0, 0, 0, 9]);
        let datagram = parse(frame.as_slice()).unwrap();
        assert_eq!((datagram.fragment, datagram.payload_at, datagram.port), (true, 70, 694));
        frame[57] = 8; // a later one
        assert_eq!(parse(frame.as_slice()), None);
    }

    proptest! {
        #[test]
        fn no_input_panics(frame in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(frame.as_slice());
        }

        #[test]
        fn a_cut_frame_is_not_a_datagram(cut in 0usize..42) {
            prop_assert_eq!(parse(&udp_over_ipv4(false)[..cut]), None);
        }
    }
}
