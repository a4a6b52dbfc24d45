//! Bytes of a packet as [`Source`]: the place of raw pointers into packets.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::programs::{TcContext, XdpContext};
use ha_common::frame::Source;

/// A frame in a driver's receive ring or in a socket buffer's linear part.
pub struct Packet {
    start: usize,
    end: usize,
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
        Packet { start: context.data(), end: context.data_end() }
    }
}

/// A TC packet.
pub struct TcPacket;

impl TcPacket {
    #[inline(always)]
    pub fn new(context: &TcContext) -> Packet {
        // Headers, tag and UDP payload of a heartbeat over IPv6 with VLAN. The linear part of a
        // socket buffer may be shorter than the packet; a packet that is shorter fails here, and is
        // read as far as it goes.
        let _ = context.pull_data(18 + 40 + 8 + ha_common::wire::FIXED_BYTES as u32);
        Packet { start: context.data(), end: context.data_end() }
    }
}

/// Index of the interface on which a TC packet arrived.
#[inline(always)]
pub fn tc_ingress_interface(context: &TcContext) -> u32 {
    let buffer = context.as_ptr().cast::<aya_ebpf::bindings::__sk_buff>();
    // SAFETY: the context is a __sk_buff; the verifier rewrites this access.
    unsafe { (*buffer).ifindex }
}
