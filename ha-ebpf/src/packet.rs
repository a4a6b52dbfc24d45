//! Bytes of a packet as [`Source`]: the place of raw pointers into packets.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::BPF_F_MARK_MANGLED_0;
use aya_ebpf::bindings::BPF_F_PSEUDO_HDR;
use aya_ebpf::programs::{TcContext, XdpContext};
use ha_common::frame::Source;
use ha_common::reply::{Checksum, Sink};

/// A frame in a driver's receive ring or in a socket buffer's linear part.
pub struct Packet {
    start: usize,
    end: usize,
    length: usize,
}

impl Packet {
    #[inline(always)]
    fn load<T: Copy>(&self, offset: usize) -> Option<T> {
        let from = self.start + offset;
        if from + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: start..end is packet memory and the range was checked just above, in the form
        // that the verifier recognises; T is an array of integers, for which any bytes are valid.
        Some(unsafe { core::ptr::read_unaligned(from as *const T) })
    }
}

impl Packet {
    #[inline(always)]
    fn store<T: Copy>(&self, offset: usize, value: &T) -> Option<()> {
        let to = self.start + offset;
        if to + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: as for loading; only XDP packets are written, which nobody else has yet.
        unsafe { core::ptr::write_unaligned(to as *mut T, *value) };
        Some(())
    }
}

/// An XDP packet.
pub struct XdpPacket(Packet);

impl XdpPacket {
    #[inline(always)]
    pub fn new(context: &XdpContext) -> Self {
        let (start, end) = (context.data(), context.data_end());
        Self(Packet { start, end, length: end - start })
    }
}

impl Source for XdpPacket {
    #[inline(always)]
    fn length(&self) -> usize {
        self.0.length
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.load(offset)
    }

    #[inline(always)]
    fn words<const W: usize>(&self, offset: usize) -> Option<[u64; W]> {
        self.0.load(offset)
    }
}

impl Sink for XdpPacket {
    const BY_DIFFERENCE: bool = false;

    #[inline(always)]
    fn write<const N: usize>(&self, offset: usize, bytes: &[u8; N]) -> Option<()> {
        self.0.store(offset, bytes)
    }

    #[inline(always)]
    fn write_words<const W: usize>(&self, offset: usize, words: &[u64; W]) -> Option<()> {
        self.0.store(offset, words)
    }

    #[inline(always)]
    fn write_checksum(&self, checksum: &Checksum) -> Option<()> {
        self.0.store(checksum.at, &checksum.value.to_ne_bytes())
    }
}

/// Bytes that begin at a word.
#[repr(align(8))]
struct Aligned<const N: usize>([u8; N]);

/// A TC packet. Read through pointers, written through the kernel's helpers, which invalidate them;
/// so they are made anew for each read.
pub struct TcPacket<'a>(&'a TcContext);

/// Ethernet and VLAN tag, IPv6, UDP and what every datagram starts with: as far as a packet is read.
const READ_BYTES_MAX: usize = 18 + 40 + 8 + ha_common::wire::FIXED_BYTES;

/// Ethernet, IPv4, UDP, header and tag.
const PROBE_BYTES_MIN: usize = 14 + 20 + 8 + ha_common::wire::FIXED_BYTES;

impl<'a> TcPacket<'a> {
    #[inline(always)]
    pub fn new(context: &'a TcContext) -> Self {
        let length = context.len() as usize;
        // Only the linear part of a socket buffer can be read, which may be no more than its
        // headers. Pulling more into it may copy, so it is done for a packet that needs it, and not
        // beyond its end, which would fail.
        let wanted = if length < READ_BYTES_MAX { length } else { READ_BYTES_MAX };
        if context.data_end() - context.data() < wanted {
            let _ = context.pull_data(wanted as u32);
        }
        Self(context)
    }

    #[inline(always)]
    fn packet(&self) -> Packet {
        let context = self.0;
        Packet { start: context.data(), end: context.data_end(), length: context.len() as usize }
    }
}

impl Source for TcPacket<'_> {
    #[inline(always)]
    fn length(&self) -> usize {
        self.0.len() as usize
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.packet().load(offset)
    }

    #[inline(always)]
    fn words<const W: usize>(&self, offset: usize) -> Option<[u64; W]> {
        self.packet().load(offset)
    }
}

impl Sink for TcPacket<'_> {
    // A packet of a virtual interface may carry the sum of its addresses only, to be completed by
    // whoever sends it on.
    const BY_DIFFERENCE: bool = true;

    #[inline(always)]
    fn write<const N: usize>(&self, offset: usize, bytes: &[u8; N]) -> Option<()> {
        // The verifier refuses words at odd places of the stack, which the compiler makes of bytes.
        let aligned = Aligned(*bytes);
        self.0.store(offset, &aligned.0, 0).ok()
    }

    #[inline(always)]
    fn write_words<const W: usize>(&self, offset: usize, words: &[u64; W]) -> Option<()> {
        self.0.store(offset, words, 0).ok()
    }

    #[inline(always)]
    fn write_checksum(&self, checksum: &Checksum) -> Option<()> {
        let mark = u64::from(BPF_F_MARK_MANGLED_0);
        let change = |by: u32, flags| self.0.l4_csum_replace(checksum.at, 0, u64::from(by), flags);
        change(checksum.payload, mark).ok()?;
        change(checksum.addresses, mark | u64::from(BPF_F_PSEUDO_HDR)).ok()
    }
}

/// Whether a packet is as long as a probe with some of the headers that one may have.
#[inline(always)]
pub fn may_be_probe(context: &TcContext) -> bool {
    let length = context.len() as usize;
    (PROBE_BYTES_MIN..=READ_BYTES_MAX).contains(&length)
}

/// Index of the interface on which a TC packet arrived.
#[inline(always)]
pub fn tc_ingress_interface(context: &TcContext) -> u32 {
    let buffer = context.as_ptr().cast::<aya_ebpf::bindings::__sk_buff>();
    // SAFETY: the context is a __sk_buff; the verifier rewrites this access.
    unsafe { (*buffer).ifindex }
}

/// Sends the packet out of an interface when the program is done; what the program has to return.
#[inline(always)]
pub fn redirect(interface: u32) -> i32 {
    // SAFETY: no pointers.
    unsafe { aya_ebpf::helpers::bpf_redirect(interface, 0) as i32 }
}
