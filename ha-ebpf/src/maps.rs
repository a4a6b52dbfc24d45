//! The maps, and [`Tables`] over them: the place of raw pointers into map values.

use core::ptr::NonNull;

use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray, RingBuf};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::btf_map;
use ha_common::arrivals::{ArrivalWords, Arrivals};
use ha_common::auth::{KEY_ENTRIES, Key, Scratch, Workspace};
use ha_common::judge::Tables;
use ha_common::maps::{
    CHANGES_BYTES, Change, ENDPOINTS_MAX, Endpoint, Lease, LinkRecord, NodeIdentity, Path,
    SLOTS_MAX, Site, Slate,
};
use ha_common::reason::{REASONS, Reason};
use ha_common::record::Record;
use ha_common::reply::Budget;
use ha_common::wire::Way;

/// `BPF_F_MMAPABLE`: the daemon reads the records without a system call (kernel 5.5).
pub const MMAPABLE: usize = 1 << 10;

#[btf_map(name = "node")]
static NODE: Array<NodeIdentity, 1> = Array::new();
#[btf_map(name = "endpoints")]
static ENDPOINTS: HashMap<Endpoint, Site, ENDPOINTS_MAX> = HashMap::new();
#[btf_map(name = "paths")]
static PATHS: HashMap<Path, u32, SLOTS_MAX> = HashMap::new();
#[btf_map(name = "links")]
static LINKS: Array<LinkRecord, SLOTS_MAX, MMAPABLE> = Array::new();
#[btf_map(name = "lease")]
static LEASE: Array<Lease, 1, MMAPABLE> = Array::new();
#[btf_map(name = "budget")]
static BUDGET: PerCpuArray<Budget, 1> = PerCpuArray::new();
#[btf_map(name = "arrivals")]
static ARRIVALS: Array<Arrivals, SLOTS_MAX> = Array::new();
#[btf_map(name = "keys")]
static KEYS: Array<Key, KEY_ENTRIES> = Array::new();
#[btf_map(name = "scratch")]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();
#[btf_map(name = "slate")]
static SLATE: PerCpuArray<Slate, 1> = PerCpuArray::new();
#[btf_map(name = "counters")]
static COUNTERS: PerCpuArray<u64, REASONS> = PerCpuArray::new();
#[btf_map(name = "changes")]
static CHANGES: RingBuf<Change, CHANGES_BYTES> = RingBuf::new();

/// The maps as the judge sees them.
pub struct Maps {
    /// Which program judges.
    pub way: Way,
}

impl Workspace for Maps {
    #[inline(always)]
    fn with_scratch<R>(&self, work: impl FnOnce(&mut Scratch) -> R) -> Option<R> {
        let scratch = SCRATCH.get_ptr_mut(0)?;
        // SAFETY: a per-CPU value, aligned to 8 bytes; programs of one CPU do not interrupt each other
        // here, and `work` does not come back for another.
        Some(work(unsafe { &mut *scratch }))
    }
}

impl Tables for Maps {
    #[inline(always)]
    fn node(&self) -> Option<NodeIdentity> {
        let identity = *NODE.get(0)?;
        if identity.incarnation == 0 { None } else { Some(identity) }
    }

    #[inline(always)]
    fn site(&self, endpoint: &Endpoint) -> Option<Site> {
        // SAFETY: the daemon replaces entries only, never frees the map. An entry that is written just
        // now may be read half; it says the same as the one before, but for a changed address.
        ENDPOINTS.get_ptr(endpoint).map(|value| unsafe { *value })
    }

    #[inline(always)]
    fn slot(&self, path: &Path) -> Option<u32> {
        // SAFETY: a u32 is loaded whole; the daemon replaces entries only, never frees the map.
        PATHS.get_ptr(path).map(|slot| unsafe { *slot })
    }

    #[inline(always)]
    fn record(&self, slot: u32) -> Option<Record<'_>> {
        record(slot)
    }

    #[inline(always)]
    fn arrivals(&self, slot: u32) -> Option<ArrivalWords<'_>> {
        let pointer = NonNull::new(ARRIVALS.get_ptr_mut(slot)?)?;
        // SAFETY: as for `record`.
        Some(unsafe { ArrivalWords::new(pointer) })
    }

    #[inline(always)]
    fn key(&self, entry: u32) -> Option<&Key> {
        let key = KEYS.get(entry)?;
        if key.method == ha_common::auth::method::NONE { None } else { Some(key) }
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: no arguments, no side effects.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn way(&self) -> Way {
        self.way
    }

    #[inline(always)]
    fn lease(&self) -> Lease {
        let Some(lease) = LEASE.get_ptr(0) else { return Lease::default() };
        // SAFETY: aligned words of a map value, each loaded once; the daemon stores them whole.
        unsafe {
            Lease {
                driver_ran_ns: (&raw const (*lease).driver_ran_ns).read_volatile(),
                generation: (&raw const (*lease).generation).read_volatile(),
                phase: (&raw const (*lease).phase).read_volatile(),
                layers: (&raw const (*lease).layers).read_volatile(),
            }
        }
    }

    #[inline(always)]
    fn spend(&self, now_ns: u64) -> bool {
        // SAFETY: a per-CPU value; programs of one CPU do not interrupt each other here.
        BUDGET.get_ptr_mut(0).is_some_and(|budget| unsafe { (*budget).spend(now_ns) })
    }
}

/// This CPU's memory for the packet that it judges.
#[inline(always)]
pub fn slate() -> Option<&'static mut Slate> {
    // SAFETY: a per-CPU value, aligned to 8 bytes; programs of one CPU do not interrupt each other here,
    // and each judges one packet.
    SLATE.get_ptr_mut(0).map(|slate| unsafe { &mut *slate })
}

/// The record in a slot.
#[inline(always)]
pub fn record(slot: u32) -> Option<Record<'static>> {
    let pointer = NonNull::new(LINKS.get_ptr_mut(slot)?)?;
    // SAFETY: array values are aligned to 8 bytes and live as long as the program.
    Some(unsafe { Record::new(pointer) })
}

/// Moves the counter of `reason`.
#[inline(always)]
pub fn count(reason: Reason) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason as u32) {
        // SAFETY: a per-CPU value; programs of one CPU do not interrupt each other here.
        unsafe { *counter += 1 };
    }
}

/// Wakes the daemon. A full buffer loses nothing but the wake-up: the daemon also reads the records
/// at its next deadline.
#[inline(always)]
pub fn announce(change: Change) {
    let _ = CHANGES.output(change, 0);
}
