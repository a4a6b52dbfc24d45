//! The answer to a probe: what it says, how often one is given, and the frame that carries it back.
//!
//! The kernel turns the probe's own frame around; a socket sends the same 88 bytes. An answer is as
//! long as its probe and is never answered: there is nothing to amplify and no loop.

use crate::frame::{Datagram, Source};
use crate::maps::{Lease, NodeIdentity, Site, Slate};
use crate::wire::{FIXED_BYTES, Fixed, Phase, Way, layers};

/// Shortest time between two answers to one peer on one link. Questions leave 500 us apart at the
/// least; some jitter of the way makes none of them come too soon.
pub const ANSWER_PAUSE_NS: u64 = 400_000;
/// Mean time between two answers of one CPU to all peers together: 50,000 a second, which take
/// less than a tenth of it.
pub const ANSWER_INTERVAL_NS: u64 = 20_000;
/// Answers that one CPU may give at once: one on every path.
pub const ANSWER_BURST: u64 = crate::maps::SLOTS_MAX as u64;
/// Age of the driver's last turn up to which the daemon layer counts as alive.
const DAEMON_LEASE_MS: u64 = 1_000;
/// TTL and hop limit of an answer: that of the probe has come down on its way.
const HOPS: u8 = 64;
/// A hardware address as a number.
const MAC_BITS: u64 = (1 << 48) - 1;
const UDP_BYTES: usize = 8;
/// UDP header, header and tag.
const UDP_LENGTH: u16 = (UDP_BYTES + FIXED_BYTES) as u16;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const PROTOCOL_UDP: u16 = 17;

/// The answers that one CPU may still give (map `budget`): a bucket of [`ANSWER_BURST`] that one more
/// drops into every [`ANSWER_INTERVAL_NS`], kept as the moment at which it is full again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Budget {
    /// `CLOCK_MONOTONIC`.
    pub full_ns: u64,
}

impl Budget {
    /// Takes one out of the bucket, if one is in it.
    #[inline(always)]
    pub fn spend(&mut self, now_ns: u64) -> bool {
        let full_ns = if self.full_ns > now_ns { self.full_ns } else { now_ns };
        if full_ns - now_ns > (ANSWER_BURST - 1) * ANSWER_INTERVAL_NS {
            return false;
        }
        self.full_ns = full_ns + ANSWER_INTERVAL_NS;
        true
    }
}

/// What a node's answers say of it.
#[derive(Debug, Clone, Copy)]
pub struct Answering {
    /// Who it is.
    pub node: NodeIdentity,
    /// Its daemon's lease.
    pub lease: Lease,
    /// Whether it hears the asker on that link.
    pub hears: bool,
    /// Now.
    pub now_ns: u64,
    /// Who answers.
    pub way: Way,
}

impl Answering {
    /// Makes the answer of a probe; its tag is left zero.
    #[inline(always)]
    pub fn turn(&self, probe: &mut Fixed) {
        let lease = &self.lease;
        let age_ms = if lease.driver_ran_ns == 0 {
            u64::MAX
        } else {
            self.now_ns.saturating_sub(lease.driver_ran_ns) / 1_000_000
        };
        let daemon = if age_ms < DAEMON_LEASE_MS {
            layers::DAEMON | (lease.layers as u8 & layers::SERVICE)
        } else {
            0
        };
        let link = if self.hears { layers::LINK } else { 0 };
        let age_ms = if age_ms > u64::from(u16::MAX) { u64::from(u16::MAX) } else { age_ms };
        let phase = Phase::from_wire(lease.phase as u8) as u64;
        let said = phase << 24 | u64::from(layers::KERNEL | daemon | link) << 16 | age_ms;
        probe.turn(self.way, self.node.incarnation, lease.generation, said as u32);
    }
}

/// Where a frame is written.
pub trait Sink: Source {
    /// Whether the UDP checksum is told as a difference: the packet's owner may have left it to be
    /// completed later, and only the kernel knows.
    const BY_DIFFERENCE: bool;
    /// Writes bytes; `None` past the end.
    fn write<const N: usize>(&self, offset: usize, bytes: &[u8; N]) -> Option<()>;
    /// Writes words, as they stand in memory.
    fn write_words<const W: usize>(&self, offset: usize, words: &[u64; W]) -> Option<()>;
    /// Writes the fixed part of a datagram.
    #[inline(always)]
    fn write_fixed(&self, offset: usize, fixed: &Fixed) -> Option<()> {
        self.write_words(offset, fixed.words())
    }
    /// Writes a UDP checksum.
    fn write_checksum(&self, checksum: &Checksum) -> Option<()>;
}

/// A UDP checksum.
#[derive(Debug, Clone, Copy)]
pub struct Checksum {
    /// Where it stands.
    pub at: usize,
    /// As it stands in memory; 0 = none (RFC 768), which IPv4 has.
    pub value: u16,
    /// By how much the sum of the payload has grown, if told by difference.
    pub payload: u32,
    /// By how much that of the addresses has.
    pub addresses: u32,
}

/// An answer on its way out.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a> {
    /// Where the probe arrived.
    pub site: &'a Site,
    /// The answer, signed.
    pub answer: &'a Fixed,
    /// Sum of the probe, see [`sum_of`].
    pub asked: u32,
}

/// One's complement sum, not folded. Byte order does not matter as long as it is one (RFC 1071 2).
#[inline(always)]
fn sum<const N: usize>(bytes: &[u8; N], from: usize, to: usize) -> u64 {
    let mut sum = 0;
    let mut at = from;
    while at + 1 < to {
        sum += u64::from(u16::from_ne_bytes([bytes[at], bytes[at + 1]]));
        at += 2;
    }
    sum
}

#[inline(always)]
fn sum_of_words([first, second]: [u64; 2]) -> u64 {
    let halves = |word: u64| (word & 0xffff_ffff) + (word >> 32);
    halves(first) + halves(second)
}

#[inline(always)]
fn fold(mut sum: u64) -> u64 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16)
}

/// By how much a folded sum has grown, as a number to add.
#[inline(always)]
fn growth(before: u64, after: u64) -> u32 {
    (after + (!before & 0xffff)) as u32
}

/// The folded sum of a fixed part.
#[inline(always)]
#[must_use]
pub fn sum_of(fixed: &Fixed) -> u32 {
    fold(fixed.sum()) as u32
}

impl<'a> Reply<'a> {
    /// What stands on the slate.
    #[inline(always)]
    #[must_use]
    pub fn on(slate: &'a Slate) -> Self {
        Self { site: &slate.site, answer: &slate.fixed, asked: slate.asked }
    }
}

impl Reply<'_> {
    /// Turns the frame that carries the probe into one that carries the answer back. `None`: it is
    /// not what the judge has seen; nothing may be sent then.
    #[inline(always)]
    pub fn write<F: Sink + ?Sized>(&self, frame: &F, datagram: &Datagram) -> Option<()> {
        let (addresses, pseudo) = if datagram.v6 {
            self.write_ipv6(frame, datagram.network_at)?
        } else {
            (self.write_ipv4(frame, datagram.network_at)?, 0)
        };
        // As numbers whose lowest byte comes first: of bytes the compiler makes accesses to the kernel's
        // stack that the verifier refuses.
        let ([first], [second]) = (frame.words::<1>(0)?, frame.words::<1>(4)?);
        let (destination, source) = (u64::from_le(first) & MAC_BITS, u64::from_le(second) >> 16);
        let [a, b, c, d, e, f] = self.site.mac;
        let own = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        // IEEE 802: the lowest bit of the first byte tells a group's address.
        let own = if destination & 1 == 0 { destination } else { own };
        frame.write_words(0, &[(source | own << 48).to_le()])?;
        frame.write_words(4, &[(source >> 32 | own << 16).to_le()])?;
        let udp_at = datagram.payload_at - UDP_BYTES;
        let [a, b, c, d] = frame.read::<4>(udp_at)?;
        let [high, low] = UDP_LENGTH.to_be_bytes();
        let udp = [c, d, a, b, high, low];
        frame.write(udp_at, &udp)?;
        frame.write_fixed(datagram.payload_at, self.answer)?;
        let payload = self.answer.sum();
        let checksum = Checksum {
            at: udp_at + 6,
            value: if datagram.v6 { checksum(pseudo + sum(&udp, 0, 6) + payload) } else { 0 },
            payload: if F::BY_DIFFERENCE { growth(self.asked.into(), fold(payload)) } else { 0 },
            addresses,
        };
        frame.write_checksum(&checksum)
    }

    /// By how much the sum of the addresses has grown.
    #[inline(always)]
    fn write_ipv4<F: Sink + ?Sized>(&self, frame: &F, at: usize) -> Option<u32> {
        let mut header = frame.read::<IPV4_BYTES>(at)?;
        let before = fold(sum(&header, 16, 20));
        let [high, low] = (IPV4_BYTES as u16 + UDP_LENGTH).to_be_bytes();
        (header[2], header[3]) = (high, low);
        header[8] = HOPS;
        (header[10], header[11]) = (0, 0);
        let own = &self.site.address;
        (header[16], header[17], header[18], header[19]) =
            (header[12], header[13], header[14], header[15]);
        (header[12], header[13], header[14], header[15]) = (own[12], own[13], own[14], own[15]);
        let after = fold(sum(&header, 12, 16));
        let [first, second] = (!(fold(sum(&header, 0, 20)) as u16)).to_ne_bytes();
        (header[10], header[11]) = (first, second);
        frame.write(at, &header)?;
        Some(growth(before, after))
    }

    /// The same, and the sum of the pseudo header (RFC 8200 8.1).
    #[inline(always)]
    fn write_ipv6<F: Sink + ?Sized>(&self, frame: &F, at: usize) -> Option<(u32, u64)> {
        // In words: as bytes they would not fit on the kernel's stack.
        let source = frame.words::<2>(at + 8)?;
        let before = sum_of_words(frame.words::<2>(at + 24)?);
        let [high, low] = UDP_LENGTH.to_be_bytes();
        let own = &self.site.address;
        frame.write(at + 4, &[high, low, PROTOCOL_UDP as u8, HOPS])?;
        frame.write(at + 8, own)?;
        frame.write_words(at + 24, &source)?;
        let after = sum(own, 0, 16);
        let rest = u64::from(UDP_LENGTH.to_be()) + u64::from(PROTOCOL_UDP.to_be());
        Some((growth(fold(before), fold(after)), sum_of_words(source) + after + rest))
    }
}

const _: () = assert!(IPV6_BYTES == 4 + 4 + 16 + 16);

/// A sum as checksum; one that is zero is sent as all ones (RFC 768).
#[inline(always)]
fn checksum(sum: u64) -> u16 {
    let value = !(fold(sum) as u16);
    if value == 0 { u16::MAX } else { value }
}

#[cfg(test)]
mod tests;
