//! The gate of a pre-armed address: which frames concern the address, and whether they may pass.
//!
//! A pre-armed address is configured on every candidate, and the kernel would answer for it everywhere.
//! While its gate is closed, a program on every interface drops whatever would answer for the address,
//! reach it or come from it. An open gate closes by itself when nobody renews it: that is the lease
//! of a node that hangs.

use crate::frame::{ETHERNET_BYTES, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Source, network};

/// Gates of one node.
pub const GATES_MAX: usize = 256;

const ETHERTYPE_ARP: u16 = 0x0806;
/// ARP for IPv4 over Ethernet (RFC 826): hardware type 1, protocol type, lengths 6 and 4.
const ARP_START: [u8; 6] = [0, 1, 0x08, 0, 6, 4];
/// Where the sender's and the target's protocol address are in it.
const ARP_SENDER_AT: usize = 14;
const ARP_TARGET_AT: usize = 24;
/// Where the addresses are in an IPv4 header (RFC 791 3.1) and in an IPv6 header (RFC 8200 3).
const IPV4_SOURCE_AT: usize = 12;
const IPV4_DESTINATION_AT: usize = 16;
const IPV6_NEXT_AT: usize = 6;
const IPV6_SOURCE_AT: usize = 8;
const IPV6_DESTINATION_AT: usize = 24;
const IPV6_BYTES: usize = 40;
const NEXT_ICMPV6: u8 = 58;
/// Neighbour solicitation and advertisement, and their target (RFC 4861 4.3, 4.4).
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const TARGET_AT: usize = 8;

/// Key of the `gates` map: an address that has a gate; the value is its entry in `gate_until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct GateKey {
    /// The address, IPv4 as IPv4-mapped IPv6, as two words that stand in memory as its bytes do: a key is
    /// built on the stack of a program, where words must be aligned.
    pub address: Address,
    /// Index of the interface for a link-local address, which is another one on every link; else 0:
    /// a host answers for its addresses on whatever interface it is asked.
    pub interface: u32,
    /// Zero.
    pub unused: u32,
}

/// An address as words of memory.
pub type Address = [u64; 2];

/// The words of an address.
#[inline(always)]
#[must_use]
pub const fn address_of(address: core::net::IpAddr) -> Address {
    match address {
        core::net::IpAddr::V4(address) => ipv4_of(address.octets()),
        core::net::IpAddr::V6(address) => {
            let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address.octets();
            [
                u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
                u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
            ]
        }
    }
}

/// The words of an IPv4-mapped IPv6 address (RFC 4291 2.5.5.2).
#[inline(always)]
const fn ipv4_of(address: [u8; 4]) -> Address {
    let [a, b, c, d] = address;
    [0, u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d])]
}

impl GateKey {
    /// The key of an address that is on, or concerned on, this interface.
    #[inline(always)]
    #[must_use]
    pub const fn new(address: Address, interface: u32) -> Self {
        // fe80::/10 (RFC 4291 2.5.6)
        let link_local = address[0].to_be() >> 54 == 0xfe80 >> 6;
        Self { address, interface: if link_local { interface } else { 0 }, unused: 0 }
    }
}

/// Which way a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It arrives.
    In,
    /// It leaves.
    Out,
}

/// The maps of the gate.
pub trait Gates {
    /// Until when the address's gate is open; `None`: it has no gate.
    fn until_ns(&self, key: &GateKey) -> Option<u64>;
    /// `CLOCK_BOOTTIME`, which goes on while the machine is suspended.
    fn now_ns(&self) -> u64;
}

/// The addresses that a frame answers for, reaches or comes from; all zeros (which nobody has) where
/// there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Concerned {
    first: Address,
    second: Address,
}

/// Whether a frame may pass. What concerns no address with a gate always may.
#[inline(always)]
pub fn passes<G: Gates, S: Source + ?Sized>(
    gates: &G,
    frame: &S,
    way: Way,
    interface: u32,
) -> bool {
    let Some(concerned) = concerned(frame, way) else { return true };
    is_open(gates, &concerned.first, interface)
        && (concerned.second == [0; 2] || is_open(gates, &concerned.second, interface))
}

#[inline(always)]
fn is_open<G: Gates>(gates: &G, address: &Address, interface: u32) -> bool {
    match gates.until_ns(&GateKey::new(*address, interface)) {
        None => true,
        Some(until_ns) => gates.now_ns() < until_ns,
    }
}

#[inline(always)]
fn concerned<S: Source + ?Sized>(frame: &S, way: Way) -> Option<Concerned> {
    let (ethertype, at) = network(frame)?;
    match ethertype {
        ETHERTYPE_ARP => arp(frame, at, way),
        ETHERTYPE_IPV4 => {
            let from = if matches!(way, Way::In) { IPV4_DESTINATION_AT } else { IPV4_SOURCE_AT };
            let address = ipv4_of(frame.read::<4>(at + from)?);
            Some(Concerned { first: address, second: [0; 2] })
        }
        ETHERTYPE_IPV6 => ipv6(frame, at, way),
        _ => None,
    }
}

/// Arriving, the address that is asked for; leaving, the one that is claimed.
#[inline(always)]
fn arp<S: Source + ?Sized>(frame: &S, at: usize, way: Way) -> Option<Concerned> {
    if frame.read::<6>(at)? != ARP_START {
        return None;
    }
    let from = if matches!(way, Way::In) { ARP_TARGET_AT } else { ARP_SENDER_AT };
    Some(Concerned { first: ipv4_of(frame.read::<4>(at + from)?), second: [0; 2] })
}

/// The packet's address, and the target of a neighbour solicitation that arrives or an advertisement
/// that leaves. A solicitation behind extension headers is not recognised; its answer is.
#[inline(always)]
fn ipv6<S: Source + ?Sized>(frame: &S, at: usize, way: Way) -> Option<Concerned> {
    let (from, kind) = match way {
        Way::In => (IPV6_DESTINATION_AT, SOLICITATION),
        Way::Out => (IPV6_SOURCE_AT, ADVERTISEMENT),
    };
    let first = frame.words::<2>(at + from)?;
    let next = frame.read::<1>(at + IPV6_NEXT_AT)?;
    let mut second = [0; 2];
    if next == [NEXT_ICMPV6]
        && let Some(found) = frame.read::<1>(at + IPV6_BYTES)
        && found == [kind]
        && let Some(target) = frame.words::<2>(at + IPV6_BYTES + TARGET_AT)
    {
        second = target;
    }
    Some(Concerned { first, second })
}

const _: () = {
    assert!(size_of::<GateKey>() == 24);
    assert!(ETHERNET_BYTES == 14);
};

#[cfg(test)]
mod tests;
