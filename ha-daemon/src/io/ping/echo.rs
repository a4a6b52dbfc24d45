//! Echo requests and replies: built, stamped and read as pure functions.
//!
//! A request carries everything that its answer has to prove: which member was asked, the number
//! of the request, when it left, and a keyed hash of these. So nothing is remembered of requests
//! under way, and who has not seen one cannot answer it.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::IpAddr;

/// ICMP type of an echo reply (RFC 792).
pub(super) const REPLY_V4: u8 = 0;
/// ICMPv6 type of an echo reply (RFC 4443 4.2).
pub(super) const REPLY_V6: u8 = 129;
/// Header and payload of an echo.
pub(super) const ECHO_BYTES: usize = 8 + PAYLOAD_BYTES;

const REQUEST_V4: u8 = 8;
const REQUEST_V6: u8 = 128;
/// Hash, member, four spare bytes, sequence, time.
const PAYLOAD_BYTES: usize = 32;

/// What an echo says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Echo {
    /// Number of the member.
    pub(super) member: u32,
    /// Number of the request to it.
    pub(super) sequence: u64,
    /// When the request left, `CLOCK_MONOTONIC`.
    pub(super) sent_ns: u64,
}

/// An echo that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reply {
    /// Who answers.
    pub(super) source: IpAddr,
    pub(super) echo: Echo,
}

/// Makes and checks the stamps of one run of the daemon.
#[derive(Debug)]
pub(super) struct Stamper {
    /// SipHash with a random key, which the standard library takes from the kernel.
    keyed: RandomState,
    identifier: u16,
}

impl Stamper {
    pub(super) fn new() -> Self {
        let keyed = RandomState::new();
        let identifier = keyed.hash_one("identifier") as u16;
        Self { keyed, identifier }
    }

    /// Tells this daemon's echoes from those of other programs on this host.
    pub(super) fn identifier(&self) -> u16 {
        self.identifier
    }

    /// A request. The checksum of an ICMPv6 message is the kernel's to fill in (RFC 3542 3.1).
    pub(super) fn request(&self, echo: &Echo, to: IpAddr) -> [u8; ECHO_BYTES] {
        let mut packet = [0; ECHO_BYTES];
        packet[0] = if to.is_ipv4() { REQUEST_V4 } else { REQUEST_V6 };
        packet[4..6].copy_from_slice(&self.identifier.to_be_bytes());
        packet[6..8].copy_from_slice(&(echo.sequence as u16).to_be_bytes());
        packet[8..16].copy_from_slice(&self.stamp(echo, to));
        packet[16..20].copy_from_slice(&echo.member.to_be_bytes());
        packet[24..32].copy_from_slice(&echo.sequence.to_be_bytes());
        packet[32..40].copy_from_slice(&echo.sent_ns.to_be_bytes());
        if to.is_ipv4() {
            let checksum = checksum(&packet);
            packet[2..4].copy_from_slice(&checksum.to_be_bytes());
        }
        packet
    }

    /// Reads a reply, as a raw socket gives it (with the IP header on IPv4). `None` unless it is
    /// the answer to a request of ours to `source`.
    pub(super) fn reply(&self, packet: &[u8], source: IpAddr) -> Option<Echo> {
        let (kind, start) = match source {
            IpAddr::V4(_) => (REPLY_V4, usize::from(packet.first()? & 0x0f) * 4),
            IpAddr::V6(_) => (REPLY_V6, 0),
        };
        let packet: &[u8; ECHO_BYTES] = packet.get(start..)?.try_into().ok()?;
        let number = |at: usize| Some(u64::from_be_bytes(packet.get(at..at + 8)?.try_into().ok()?));
        let echo = Echo {
            member: u32::from_be_bytes(packet.get(16..20)?.try_into().ok()?),
            sequence: number(24)?,
            sent_ns: number(32)?,
        };
        let ours = packet[..2] == [kind, 0]
            && packet[4..6] == self.identifier.to_be_bytes()
            && packet[6..8] == (echo.sequence as u16).to_be_bytes()
            && packet[8..16] == self.stamp(&echo, source);
        ours.then_some(echo)
    }

    fn stamp(&self, echo: &Echo, member: IpAddr) -> [u8; 8] {
        let mut hasher = self.keyed.build_hasher();
        match member {
            IpAddr::V4(address) => hasher.write(&address.octets()),
            IpAddr::V6(address) => hasher.write(&address.octets()),
        }
        hasher.write_u32(echo.member);
        hasher.write_u64(echo.sequence);
        hasher.write_u64(echo.sent_ns);
        hasher.finish().to_be_bytes()
    }
}

/// RFC 1071.
fn checksum(packet: &[u8; ECHO_BYTES]) -> u16 {
    let words =
        packet.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum + (sum >> 16)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ECHO: Echo = Echo { member: 3, sequence: 70_000, sent_ns: 123_456_789 };

    fn four() -> IpAddr {
        "192.0.2.254".parse().unwrap()
    }

    fn six() -> IpAddr {
        "2001:db8::fe".parse().unwrap()
    }

    /// What the host that was asked sends back, as a raw socket gives it.
    fn answered(stamper: &Stamper, echo: &Echo, by: IpAddr) -> Vec<u8> {
        let mut packet = stamper.request(echo, by).to_vec();
        match by {
            IpAddr::V4(_) => {
                packet[0] = REPLY_V4;
                // With IP options: 24 bytes.
                let mut header = vec![0; 24];
                header[0] = 0x46;
                header.append(&mut packet);
                header
            }
            IpAddr::V6(_) => {
                packet[0] = REPLY_V6;
                packet
            }
        }
    }

    #[test]
    fn answers_say_what_was_asked() {
        let stamper = Stamper::new();
        for by in [four(), six()] {
            assert_eq!(stamper.reply(&answered(&stamper, &ECHO, by), by), Some(ECHO));
        }
    }

    #[test]
    fn a_request_with_its_checksum_sums_to_zero() {
        let packet = Stamper::new().request(&ECHO, four());
        assert_eq!(checksum(&packet), 0);
        assert_eq!(packet[..2], [8, 0]);
    }

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        // The words of RFC 1071 3, and zeros: they add up to ddf2.
        let mut packet = [0; ECHO_BYTES];
        packet[..8].copy_from_slice(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(checksum(&packet), !0xddf2);
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_noticed() {
        let stamper = Stamper::new();
        for by in [four(), six()] {
            let packet = answered(&stamper, &ECHO, by);
            let start = packet.len() - ECHO_BYTES;
            for length in 0..packet.len() {
                assert_eq!(stamper.reply(&packet[..length], by), None);
            }
            // The checksum and the four spare bytes say nothing.
            let checked = (0..ECHO_BYTES).filter(|at| !matches!(at, 2 | 3 | 20..24));
            for bit in checked.flat_map(|at| (0..8).map(move |bit| (at, bit))) {
                let mut changed = packet.clone();
                changed[start + bit.0] ^= 1 << bit.1;
                assert_eq!(stamper.reply(&changed, by), None, "{bit:?}");
            }
        }
    }

    #[test]
    fn answers_of_other_hosts_and_other_runs_are_not_believed() {
        let stamper = Stamper::new();
        let packet = answered(&stamper, &ECHO, six());
        assert_eq!(stamper.reply(&packet, "2001:db8::ff".parse().unwrap()), None);
        let other = Stamper { keyed: RandomState::new(), identifier: stamper.identifier };
        assert_eq!(other.reply(&packet, six()), None);
        // What comes back is a request: the host only sent it on.
        assert_eq!(stamper.reply(&stamper.request(&ECHO, six()), six()), None);
    }
}
