//! The gate of pre-armed addresses: TC programs on both ways of every interface; which frames may pass is
//! decided by `ha_common::gate`. An object of its own: it is there without heartbeats in the kernel, and
//! heartbeats without it.

#![no_std]
#![no_main]

use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::btf_maps::{Array, HashMap};
use aya_ebpf::helpers::{bpf_ktime_get_boot_ns, bpf_skb_load_bytes};
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;
use ha_common::frame::Source;
use ha_common::gate::{GATES_MAX, GateKey, Gates, Way, passes};

/// `BPF_F_MMAPABLE`: the daemon opens, renews and closes a gate by one store.
const MMAPABLE: usize = 1 << 10;

#[btf_map(name = "gates")]
static GATES: HashMap<GateKey, u32, GATES_MAX> = HashMap::new();
#[btf_map(name = "gate_until")]
static GATE_UNTIL: Array<u64, GATES_MAX, MMAPABLE> = Array::new();

/// What arrives.
#[classifier]
pub fn ha_gate_in(context: TcContext) -> i32 {
    judge(&context, Way::In)
}

/// What leaves.
#[classifier]
pub fn ha_gate_out(context: TcContext) -> i32 {
    judge(&context, Way::Out)
}

/// Passing is "no opinion": the programs and filters of others come after this one.
#[inline(always)]
fn judge(context: &TcContext, way: Way) -> i32 {
    let buffer = context.as_ptr().cast::<__sk_buff>();
    // SAFETY: the context is a __sk_buff; the verifier rewrites this access.
    let interface = unsafe { (*buffer).ifindex };
    if passes(&Maps, &Frame { context }, way, interface) { TC_ACT_UNSPEC } else { TC_ACT_SHOT }
}

struct Maps;

impl Gates for Maps {
    #[inline(always)]
    fn until_ns(&self, key: &GateKey) -> Option<u64> {
        // SAFETY: a u32 is loaded whole.
        let entry = GATES.get_ptr(key).map(|entry| unsafe { *entry })?;
        // An entry that is not there is a closed gate.
        let Some(until) = GATE_UNTIL.get_ptr(entry) else { return Some(0) };
        // SAFETY: an aligned u64 is loaded whole; volatile, since the daemon stores it meanwhile.
        Some(unsafe { core::ptr::read_volatile(until) })
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: no arguments, no side effects.
        unsafe { bpf_ktime_get_boot_ns() }
    }
}

/// A frame in a socket buffer. What lies behind its linear part is copied out, not pulled: that would make a
/// copy of every header that TCP shares with its retransmission queue.
struct Frame<'a> {
    context: &'a TcContext,
}

/// On the stack of a program words must be aligned, which compilers do not do for arrays of bytes where packets
/// need not be.
#[repr(align(8))]
struct Aligned<T>(MaybeUninit<T>);

impl Frame<'_> {
    #[inline(always)]
    fn load<T: Copy>(&self, offset: usize) -> Option<T> {
        let from = self.context.data() + offset;
        if from + size_of::<T>() <= self.context.data_end() {
            // SAFETY: the range was checked just above, in the form that the verifier recognises; T is
            // an array of integers, for which any bytes are valid.
            return Some(unsafe { core::ptr::read_unaligned(from as *const T) });
        }
        let mut copy = Aligned(MaybeUninit::<T>::uninit());
        // SAFETY: the helper writes exactly as many bytes as T has, or fails.
        let failed = unsafe {
            bpf_skb_load_bytes(
                self.context.as_ptr().cast(),
                offset as u32,
                copy.0.as_mut_ptr().cast(),
                size_of::<T>() as u32,
            )
        };
        // SAFETY: written just above; any bytes are valid.
        if failed == 0 { Some(unsafe { copy.0.assume_init() }) } else { None }
    }
}

impl Source for Frame<'_> {
    #[inline(always)]
    fn length(&self) -> usize {
        self.context.len() as usize
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

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: no panic path survives the build, or the verifier would refuse the loop.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
