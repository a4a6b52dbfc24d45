//! ARP and neighbour discovery frames: built and read as pure functions.
//!
//! The address worker sends them through a packet socket, so a frame starts with its Ethernet
//! header. Nothing is padded to the Ethernet minimum: drivers do that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Ethernet header and ARP packet for IPv4 (RFC 826).
pub const ARP_FRAME_BYTES: usize = ETHERNET_BYTES + 28;
/// Ethernet and IPv6 headers and a neighbour advertisement with one option.
pub const ADVERTISEMENT_FRAME_BYTES: usize = ETHERNET_BYTES + IPV6_BYTES + ADVERTISEMENT_BYTES;
/// Ethernet and IPv6 headers and a neighbour solicitation without options.
pub const SOLICITATION_FRAME_BYTES: usize = ETHERNET_BYTES + IPV6_BYTES + SOLICITATION_BYTES;

const ETHERNET_BYTES: usize = 14;
const IPV6_BYTES: usize = 40;
const SOLICITATION_BYTES: usize = 24;
const ADVERTISEMENT_BYTES: usize = SOLICITATION_BYTES + 8;

const BROADCAST: Mac = [0xff; 6];
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;
const NEXT_HEADER_ICMPV6: u8 = 58;
/// RFC 4861 7.1: a receiver drops neighbour discovery packets with any other hop limit.
const HOP_LIMIT: u8 = 255;
/// ICMPv6 type of a neighbour solicitation (RFC 4861 4.3).
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
/// ICMPv6 type of a neighbour advertisement (RFC 4861 4.4).
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const FLAG_ROUTER: u8 = 0x80;
const FLAG_OVERRIDE: u8 = 0x20;
const OPTION_TARGET_LINK_LAYER: u8 = 2;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Whether the host forwards IPv6, which an advertisement has to say: neighbours drop a default
/// router that suddenly denies being one (RFC 4861 7.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeighbourRole {
    /// It does not forward.
    Host,
    /// It forwards.
    Router,
}

struct Arp {
    operation: u16,
    mac: Mac,
    sender: Ipv4Addr,
    target_mac: Mac,
    target: Ipv4Addr,
}

impl Arp {
    fn frame(&self) -> [u8; ARP_FRAME_BYTES] {
        let mut frame = [0; ARP_FRAME_BYTES];
        frame[..14].copy_from_slice(&ethernet(BROADCAST, self.mac, ETHERTYPE_ARP));
        // Ethernet, IPv4, address lengths 6 and 4.
        frame[14..20].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
        frame[20..22].copy_from_slice(&self.operation.to_be_bytes());
        frame[22..28].copy_from_slice(&self.mac);
        frame[28..32].copy_from_slice(&self.sender.octets());
        frame[32..38].copy_from_slice(&self.target_mac);
        frame[38..42].copy_from_slice(&self.target.octets());
        frame
    }
}

/// The announcement of an address that is sent as the `count`th: ARP alternates between request
/// and reply, so that receivers that learn from only one of them learn too.
#[must_use]
pub fn announcement(mac: Mac, address: IpAddr, role: NeighbourRole, count: u32) -> Vec<u8> {
    match address {
        IpAddr::V4(address) if count.is_multiple_of(2) => arp_announcement(mac, address).to_vec(),
        IpAddr::V4(address) => arp_gratuitous_reply(mac, address).to_vec(),
        IpAddr::V6(address) => neighbour_advertisement(mac, address, role).to_vec(),
    }
}

/// The question whether somebody else has an address.
#[must_use]
pub fn probe(mac: Mac, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp_probe(mac, address).to_vec(),
        IpAddr::V6(address) => neighbour_probe(mac, address).to_vec(),
    }
}

/// ARP announcement (RFC 5227 2.3): a request whose sender and target are both the address.
#[must_use]
pub fn arp_announcement(mac: Mac, address: Ipv4Addr) -> [u8; ARP_FRAME_BYTES] {
    let (operation, target_mac) = (ARP_REQUEST, [0; 6]);
    Arp { operation, mac, sender: address, target_mac, target: address }.frame()
}

/// Gratuitous ARP reply, for receivers that learn from replies only. RFC 5944 4.6: its target
/// hardware address is the sender's own; Linux does not take it for gratuitous otherwise.
#[must_use]
pub fn arp_gratuitous_reply(mac: Mac, address: Ipv4Addr) -> [u8; ARP_FRAME_BYTES] {
    Arp { operation: ARP_REPLY, mac, sender: address, target_mac: mac, target: address }.frame()
}

/// ARP probe (RFC 5227 2.1.1): asks for the address without claiming it, so no cache changes.
#[must_use]
pub fn arp_probe(mac: Mac, address: Ipv4Addr) -> [u8; ARP_FRAME_BYTES] {
    let (operation, target_mac) = (ARP_REQUEST, [0; 6]);
    Arp { operation, mac, sender: Ipv4Addr::UNSPECIFIED, target_mac, target: address }.frame()
}

/// Unsolicited neighbour advertisement to all nodes with the Override flag (RFC 4861 7.2.6).
#[must_use]
pub fn neighbour_advertisement(
    mac: Mac,
    address: Ipv6Addr,
    role: NeighbourRole,
) -> [u8; ADVERTISEMENT_FRAME_BYTES] {
    let mut message = [0; ADVERTISEMENT_BYTES];
    message[0] = NEIGHBOUR_ADVERTISEMENT;
    message[4] = match role {
        NeighbourRole::Host => FLAG_OVERRIDE,
        NeighbourRole::Router => FLAG_OVERRIDE | FLAG_ROUTER,
    };
    message[8..24].copy_from_slice(&address.octets());
    message[24] = OPTION_TARGET_LINK_LAYER;
    message[25] = 1; // in units of eight bytes
    message[26..32].copy_from_slice(&mac);
    icmpv6_frame(mac, address, ALL_NODES, &message)
}

/// Neighbour solicitation from the unspecified address, as duplicate address detection sends it
/// (RFC 4862 5.4.2); it must not carry a source link-layer option (RFC 4861 4.3).
#[must_use]
pub fn neighbour_probe(mac: Mac, address: Ipv6Addr) -> [u8; SOLICITATION_FRAME_BYTES] {
    let mut message = [0; SOLICITATION_BYTES];
    message[0] = NEIGHBOUR_SOLICITATION;
    message[8..24].copy_from_slice(&address.octets());
    icmpv6_frame(mac, Ipv6Addr::UNSPECIFIED, solicited_node(address), &message)
}

/// The sender of an ARP frame: the address that it claims and its MAC address. `None` for a
/// probe and for anything that is not a well-formed ARP packet for IPv4 over Ethernet.
#[must_use]
pub fn arp_claim(frame: &[u8]) -> Option<(Ipv4Addr, Mac)> {
    let arp = frame.get(ETHERNET_BYTES..ARP_FRAME_BYTES)?;
    if frame.get(12..14)? != ETHERTYPE_ARP.to_be_bytes() || arp.get(..6)? != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    let mac: Mac = arp.get(8..14)?.try_into().ok()?;
    let sender = Ipv4Addr::from(<[u8; 4]>::try_from(arp.get(14..18)?).ok()?);
    (!sender.is_unspecified()).then_some((sender, mac))
}

/// The target of a neighbour advertisement (from its ICMPv6 header on) and the MAC address in its
/// target link-layer option. `None` without that option: a multicast advertisement must have it
/// (RFC 4861 7.2.4).
#[must_use]
pub fn advertisement_claim(message: &[u8]) -> Option<(Ipv6Addr, Mac)> {
    if message.get(..2)? != [NEIGHBOUR_ADVERTISEMENT, 0] {
        return None;
    }
    let target = Ipv6Addr::from(<[u8; 16]>::try_from(message.get(8..24)?).ok()?);
    let mut options = message.get(24..)?;
    while let [kind, units, ..] = options {
        let bytes = usize::from(*units) * 8;
        let option = options.get(..bytes).filter(|option| !option.is_empty())?;
        if *kind == OPTION_TARGET_LINK_LAYER {
            return Some((target, option.get(2..8)?.try_into().ok()?));
        }
        options = options.get(bytes..)?;
    }
    None
}

/// The address that a probe asks for, and who asks (RFC 5227 2.1.1: the sender's address is zero).
/// `None` for any other question, such as that of a client.
#[must_use]
pub fn arp_question(frame: &[u8]) -> Option<(Ipv4Addr, Mac)> {
    let arp = frame.get(ETHERNET_BYTES..ARP_FRAME_BYTES)?;
    if frame.get(12..14)? != ETHERTYPE_ARP.to_be_bytes() || arp.get(..6)? != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    let probe = arp.get(6..8)? == ARP_REQUEST.to_be_bytes() && arp.get(14..18)? == [0; 4];
    let target = Ipv4Addr::from(<[u8; 4]>::try_from(arp.get(24..28)?).ok()?);
    Some((target, arp.get(8..14)?.try_into().ok()?)).filter(|_| probe)
}

/// The address that a neighbour solicitation (from its ICMPv6 header on) asks for. It is a probe
/// when it comes from the unspecified address (RFC 4862 5.4.2).
#[must_use]
pub fn solicitation_question(message: &[u8]) -> Option<Ipv6Addr> {
    let target = <[u8; 16]>::try_from(message.get(8..24)?).ok()?;
    (message.get(..2)? == [NEIGHBOUR_SOLICITATION, 0]).then(|| target.into())
}

fn ethernet(destination: Mac, source: Mac, ethertype: u16) -> [u8; ETHERNET_BYTES] {
    let mut header = [0; ETHERNET_BYTES];
    header[..6].copy_from_slice(&destination);
    header[6..12].copy_from_slice(&source);
    header[12..].copy_from_slice(&ethertype.to_be_bytes());
    header
}

/// The group in which questions for an address are asked (RFC 4291 2.7.1).
#[must_use]
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    let high = 0xff00 | u16::from(a);
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, high, u16::from_be_bytes([b, c]))
}

/// RFC 2464 7.
fn multicast_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

/// A whole frame around an ICMPv6 message whose checksum field is still zero; `N` is its length
/// and that of the two headers before it.
fn icmpv6_frame<const N: usize>(
    mac: Mac,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    message: &[u8],
) -> [u8; N] {
    const START: usize = ETHERNET_BYTES + IPV6_BYTES;
    let mut frame = [0; N];
    frame[..14].copy_from_slice(&ethernet(multicast_mac(destination), mac, ETHERTYPE_IPV6));
    frame[14] = 0x60; // version 6, traffic class and flow label 0, as the kernel's own
    frame[18..20].copy_from_slice(&(message.len() as u16).to_be_bytes());
    frame[20] = NEXT_HEADER_ICMPV6;
    frame[21] = HOP_LIMIT;
    frame[22..38].copy_from_slice(&source.octets());
    frame[38..54].copy_from_slice(&destination.octets());
    frame[START..].copy_from_slice(message);
    let checksum = icmpv6_checksum(source, destination, message);
    frame[START + 2..START + 4].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// RFC 4443 2.3: the one's complement sum over the pseudo header (RFC 8200 8.1) and the message.
fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        bytes
            .chunks(2)
            .map(|pair| {
                let low = pair.get(1).copied().unwrap_or(0);
                u32::from(u16::from_be_bytes([pair[0], low]))
            })
            .sum()
    };
    let mut sum = words(&source.octets())
        + words(&destination.octets())
        + message.len() as u32
        + u32::from(NEXT_HEADER_ICMPV6)
        + words(message);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [0x02, 0, 0, 0xaa, 0xbb, 0xcc];
    const FOUR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
    const SIX: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x12, 0x3456);

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    #[test]
    fn announcement_is_a_request_from_and_for_the_address() {
        let golden = hex("ffffffffffff 020000aabbcc 0806 0001 0800 06 04 0001
             020000aabbcc c000020a 000000000000 c000020a");
        assert_eq!(arp_announcement(MAC, FOUR).as_slice(), golden);
    }

    #[test]
    fn gratuitous_reply_names_its_sender_as_target() {
        let golden = hex("ffffffffffff 020000aabbcc 0806 0001 0800 06 04 0002
             020000aabbcc c000020a 020000aabbcc c000020a");
        assert_eq!(arp_gratuitous_reply(MAC, FOUR).as_slice(), golden);
    }

    #[test]
    fn probe_claims_nothing() {
        let golden = hex("ffffffffffff 020000aabbcc 0806 0001 0800 06 04 0001
             020000aabbcc 00000000 000000000000 c000020a");
        assert_eq!(arp_probe(MAC, FOUR).as_slice(), golden);
        assert_eq!(arp_claim(&golden), None);
    }

    // The checksums below were computed independently of this code, from RFC 4443 2.3.
    #[test]
    fn advertisement_overrides_and_goes_to_all_nodes() {
        let golden = hex("333300000001 020000aabbcc 86dd 60000000 0020 3a ff
             20010db8000000000000000000123456 ff020000000000000000000000000001
             88 00 d3e6 20000000 20010db8000000000000000000123456 0201 020000aabbcc");
        assert_eq!(neighbour_advertisement(MAC, SIX, NeighbourRole::Host).as_slice(), golden);
        let router = neighbour_advertisement(MAC, SIX, NeighbourRole::Router);
        assert_eq!(router[58], 0xa0);
    }

    #[test]
    fn solicitation_goes_to_the_solicited_node_group_from_nobody() {
        let golden = hex("3333ff123456 020000aabbcc 86dd 60000000 0018 3a ff
             00000000000000000000000000000000 ff0200000000000000000001ff123456
             87 00 e41e 00000000 20010db8000000000000000000123456");
        assert_eq!(neighbour_probe(MAC, SIX).as_slice(), golden);
    }

    #[test]
    fn a_frame_with_its_checksum_sums_to_zero() {
        for message in [
            neighbour_advertisement(MAC, SIX, NeighbourRole::Router).to_vec(),
            neighbour_probe(MAC, SIX).to_vec(),
        ] {
            let address =
                |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&message[at..at + 16]).unwrap());
            assert_eq!(icmpv6_checksum(address(22), address(38), &message[54..]), 0);
        }
    }

    #[test]
    fn claims_are_read_back() {
        assert_eq!(arp_claim(&arp_announcement(MAC, FOUR)), Some((FOUR, MAC)));
        assert_eq!(arp_claim(&arp_gratuitous_reply(MAC, FOUR)), Some((FOUR, MAC)));
        let frame = neighbour_advertisement(MAC, SIX, NeighbourRole::Host);
        assert_eq!(advertisement_claim(&frame[54..]), Some((SIX, MAC)));
        assert_eq!(advertisement_claim(&neighbour_probe(MAC, SIX)[54..]), None);
    }

    #[test]
    fn probes_are_questions_and_nothing_else_is() {
        assert_eq!(arp_question(&arp_probe(MAC, FOUR)), Some((FOUR, MAC)));
        assert_eq!(arp_question(&arp_announcement(MAC, FOUR)), None);
        assert_eq!(arp_question(&arp_gratuitous_reply(MAC, FOUR)), None);
        assert_eq!(solicitation_question(&neighbour_probe(MAC, SIX)[54..]), Some(SIX));
        let advertisement = neighbour_advertisement(MAC, SIX, NeighbourRole::Host);
        assert_eq!(solicitation_question(&advertisement[54..]), None);
        for length in 0..24 {
            assert_eq!(arp_question(&arp_probe(MAC, FOUR)[..length]), None);
            assert_eq!(solicitation_question(&neighbour_probe(MAC, SIX)[54..54 + length]), None);
        }
    }

    #[test]
    fn cut_or_broken_input_is_no_claim() {
        let arp = arp_announcement(MAC, FOUR);
        for length in 0..arp.len() {
            assert_eq!(arp_claim(&arp[..length]), None);
        }
        let mut advertisement = neighbour_advertisement(MAC, SIX, NeighbourRole::Host);
        for length in 0..ADVERTISEMENT_BYTES {
            assert_eq!(advertisement_claim(&advertisement[54..54 + length]), None);
        }
        advertisement[54 + 25] = 0; // an option of length zero must not loop
        assert_eq!(advertisement_claim(&advertisement[54..]), None);
    }
}
