//! Bytes of a packet as [`Source`]: the place of raw pointers into packets.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::programs::{TcContext, XdpContext};
use ha_common::frame::Source;

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

impl Source for Packet {
    #[inline(always)]
    fn length(&self) -> usize {
        self.length
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.load(offset)
    }

    #[inline(always)]
    fn words<const W: usize>(&self, offset: usize) -> Option<[u64; W]> {
        self.load(offset)
    }
}

/// An XDP packet.
pub struct XdpPacket;

impl XdpPacket {
    #[inline(always)]
    pub fn new(context: &XdpContext) -> Packet {
        let (start, end) = (context.data(), context.data_end());
        Packet { start, end, length: end - start }
    }
}

/// A TC packet.
pub struct TcPacket;

/// Ethernet and VLAN tag, IPv6, UDP and what every datagram starts with: as far as a packet is read.
const READ_BYTES_MAX: usize = 18 + 40 + 8 + ha_common::wire::FIXED_BYTES;

impl TcPacket {
    #[inline(always)]
    pub fn new(context: &TcContext) -> Packet {
        let length = context.len() as usize;
        // Only the linear part of a socket buffer can be read, which may be no more than its
        // headers. Pulling more into it may copy, so it is done for a packet that needs it, and not
        // beyond its end, which would fail.
        let wanted = if length < READ_BYTES_MAX { length } else { READ_BYTES_MAX };
        if context.data_end() - context.data() < wanted {
            let _ = context.pull_data(wanted as u32);
        }
        Packet { start: context.data(), end: context.data_end(), length }
    }
}

/// Index of the interface on which a TC packet arrived.
#[inline(always)]
pub fn tc_ingress_interface(context: &TcContext) -> u32 {
    let buffer = context.as_ptr().cast::<aya_ebpf::bindings::__sk_buff>();
    // SAFETY: the context is a __sk_buff; the verifier rewrites this access.
    unsafe { (*buffer).ifindex }
}
