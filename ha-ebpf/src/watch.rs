//! The judge in the kernel: one `bpf_timer` per path. What a tick decides is `ha_common::watch`.

use core::ffi::c_void;
use core::ptr::NonNull;

use aya_ebpf::bindings::bpf_timer;
use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::{bpf_timer_init, bpf_timer_set_callback, bpf_timer_start};
use aya_ebpf::macros::btf_map;
use ha_common::frame::Source;
use ha_common::maps::{Change, ChangeKind, SLOTS_MAX};
use ha_common::watch::{self, Arming, Watch, Watched};

use crate::maps::{self, MMAPABLE};

/// `CLOCK_MONOTONIC` (linux/time.h), the clock of the stamps.
const CLOCK_MONOTONIC: u64 = 1;
/// `BPF_F_TIMER_ABS` (kernel 6.4).
const TIMER_ABSOLUTE: u64 = 1;
/// What `bpf_timer_init` says of a timer that an earlier start of the daemon made.
const EBUSY: i64 = 16;

/// The kernel finds the timer by the name of its type, and writes nothing of it to user space: words for
/// that are in `watched`. (A write of user space to an entry ends its timer.)
#[repr(C)]
pub struct Timer {
    timer: bpf_timer,
}

#[btf_map(name = "watch")]
static WATCH: Array<Timer, SLOTS_MAX> = Array::new();
#[btf_map(name = "watched")]
static WATCHED: Array<Watched, SLOTS_MAX, MMAPABLE> = Array::new();

#[inline(always)]
fn words(slot: u32) -> Option<Watch<'static>> {
    let pointer = NonNull::new(WATCHED.get_ptr_mut(slot)?)?;
    // SAFETY: array values are aligned to 8 bytes and live as long as the program.
    Some(unsafe { Watch::new(pointer) })
}

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: no arguments, no side effects.
    unsafe { bpf_ktime_get_ns() }
}

/// Arms the timer of the slot that the packet names; what became of it, see [`Arming`].
#[inline(always)]
pub fn arm<S: Source>(packet: &S) -> u32 {
    match try_to_arm(packet) {
        Ok(()) => Arming::Done as u32,
        Err((arming, error)) => arming.with_errno(error),
    }
}

#[inline(always)]
fn try_to_arm<S: Source>(packet: &S) -> Result<(), (Arming, i64)> {
    let Some(bytes) = packet.read::<4>(0) else { return Err((Arming::NoSlot, 0)) };
    let slot = u32::from_ne_bytes(bytes);
    let (Some(timer), Some(watch)) = (WATCH.get_ptr_mut(slot), words(slot)) else {
        return Err((Arming::NoSlot, 0));
    };
    let Some(due_ns) = watch::begin(watch, now_ns()) else {
        return Err((Arming::NotWatched, 0));
    };
    // SAFETY: the value of a map, as long as the program lives.
    let timer = unsafe { &raw mut (*timer).timer };
    let map = (&raw const WATCH).cast_mut().cast();
    // SAFETY: the timer is in a value of that map.
    let made = unsafe { bpf_timer_init(timer.cast(), map, CLOCK_MONOTONIC) };
    if made != 0 && made != -EBUSY {
        return Err((Arming::NoTimer, made));
    }
    let callback: extern "C" fn(*mut c_void, *mut u32, *mut Timer) -> i64 = tick;
    // SAFETY: it has the signature that the kernel calls: map, key, value.
    match unsafe { bpf_timer_set_callback(timer.cast(), callback as *mut c_void) } {
        0 => {}
        error => return Err((Arming::NoCallback, error)),
    }
    start(timer, due_ns).map_err(|error| (Arming::NotStarted, error))
}

/// A path's timer ran out.
extern "C" fn tick(_map: *mut c_void, slot: *mut u32, value: *mut Timer) -> i64 {
    // SAFETY: the kernel passes key and value of the entry that the timer is in.
    let (slot, timer) = unsafe { (*slot, &raw mut (*value).timer) };
    let (Some(watch), Some(record)) = (words(slot), maps::record(slot)) else { return 0 };
    let last_seen_ns = record.last_seen_ns();
    let at_ns = now_ns();
    let Some(tick) = watch::tick(watch, last_seen_ns, at_ns) else { return 0 };
    // What does not start is overdue from then on, which the daemon sees.
    let _ = start(timer, tick.next_ns);
    if let Some(value) = tick.suspicion_ns {
        maps::announce(Change { kind: ChangeKind::Suspect as u32, slot, at_ns, value });
    }
    0
}

/// Starts a timer; kernels before 6.4 know no absolute ones.
#[inline(always)]
fn start(timer: *mut bpf_timer, at_ns: u64) -> Result<(), i64> {
    // SAFETY: the timer is in a map's value, and was made by `arm`.
    if unsafe { bpf_timer_start(timer.cast(), at_ns, TIMER_ABSOLUTE) } == 0 {
        return Ok(());
    }
    let left_ns = at_ns.wrapping_sub(now_ns()) as i64;
    let left_ns = if left_ns > 0 { left_ns as u64 } else { 0 };
    // SAFETY: as above.
    match unsafe { bpf_timer_start(timer.cast(), left_ns, 0) } {
        0 => Ok(()),
        error => Err(error),
    }
}
