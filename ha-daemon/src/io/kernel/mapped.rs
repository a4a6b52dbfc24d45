//! Map values as memory: the `links` and `watched` maps by mmap, map types as plain old data. The only
//! `unsafe` of the kernel interface.

use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::ptr::NonNull;

use anyhow::{Context, Result};
use aya::maps::MapData;
use ha_common::arrivals::Arrivals;
use ha_common::auth::Key;
use ha_common::maps::{Change, Endpoint, Lease, LinkRecord, NodeIdentity, Path, SLOTS_MAX, Site};
use ha_common::record::Record;
use ha_common::watch::{Watch, Watched};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A type of `ha_common::maps`, for aya.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Plain<T>(pub(super) T);

// SAFETY: `repr(C)`, made of integers, without padding (asserted by their sizes in
// ha_common), so any bytes are a value and every byte of a value is initialised.
unsafe impl aya::Pod for Plain<Key> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<Arrivals> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<NodeIdentity> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<Endpoint> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<Path> {}

// SAFETY: as above.
unsafe impl aya::Pod for Plain<Site> {}

/// The `lease` map in this process's memory: one word that the driver stores with every turn, and two
/// that change with the state.
#[derive(Debug)]
pub(super) struct MappedLease {
    base: NonNull<Lease>,
}

// SAFETY: as for `MappedRecords`.
unsafe impl Send for MappedLease {}

impl MappedLease {
    pub(super) fn new(map: &MapData) -> Result<Self> {
        let length = NonZeroUsize::new(size_of::<Lease>()).context("the lease is empty")?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; a map has whole pages.
        let base =
            unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, map.fd().as_fd(), 0) };
        Ok(Self { base: base.context("cannot map the lease")?.cast() })
    }

    pub(super) fn store(&self, lease: Lease) {
        let words = self.base.as_ptr();
        // SAFETY: within the mapping, which is page aligned and lives as long as `self`; each is one
        // aligned word, stored whole. The age comes last: who sees it sees what came before.
        unsafe {
            (&raw mut (*words).generation).write_volatile(lease.generation);
            (&raw mut (*words).phase).write_volatile(lease.phase);
            (&raw mut (*words).layers).write_volatile(lease.layers);
            (&raw mut (*words).driver_ran_ns).write_volatile(lease.driver_ran_ns);
        }
    }
}

impl Drop for MappedLease {
    fn drop(&mut self) {
        // SAFETY: made by `new` with this length.
        let _ = unsafe { munmap(self.base.cast(), size_of::<Lease>()) };
    }
}

/// The `links` map in this process's memory.
#[derive(Debug)]
pub(super) struct MappedRecords {
    base: NonNull<LinkRecord>,
}

const BYTES: usize = SLOTS_MAX * size_of::<LinkRecord>();

// SAFETY: the mapping belongs to the process, not to a thread, and is accessed through `Record`,
// which loads and stores whole words.
unsafe impl Send for MappedRecords {}

impl MappedRecords {
    pub(super) fn new(map: &MapData) -> Result<Self> {
        let length = NonZeroUsize::new(BYTES).context("the links map is empty")?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; the length is that of the map,
        // whose element size and count were checked when it was loaded.
        let base =
            unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, map.fd().as_fd(), 0) };
        let base = base.context("cannot map the links map (kernels before 5.5 cannot)")?;
        Ok(Self { base: base.cast() })
    }

    pub(super) fn len(&self) -> u32 {
        SLOTS_MAX as u32
    }

    pub(super) fn get(&self, slot: u32) -> Option<Record<'_>> {
        let slot = usize::try_from(slot).ok().filter(|slot| *slot < SLOTS_MAX)?;
        // SAFETY: within the mapping, which is page aligned and lives as long as `self`; the kernel
        // side too accesses it by whole words.
        Some(unsafe { Record::new(self.base.add(slot)) })
    }

    /// Makes a record empty. Only for one that no program uses (its path is not in the maps).
    pub(super) fn clear(&self, slot: u32) {
        let Some(slot) = usize::try_from(slot).ok().filter(|slot| *slot < SLOTS_MAX) else {
            return;
        };
        // SAFETY: within the mapping; all zeros is a record.
        unsafe { self.base.add(slot).write_bytes(0, 1) };
    }
}

impl Drop for MappedRecords {
    fn drop(&mut self) {
        // SAFETY: made by `new` with this length, and no `Record` outlives `self`.
        let _ = unsafe { munmap(self.base.cast(), BYTES) };
    }
}

/// The `watched` map in this process's memory.
#[derive(Debug)]
pub(super) struct MappedWatches {
    base: NonNull<Watched>,
}

const WATCHES_BYTES: usize = SLOTS_MAX * size_of::<Watched>();

// SAFETY: as for `MappedRecords`; accessed through `Watch`.
unsafe impl Send for MappedWatches {}

impl MappedWatches {
    pub(super) fn new(map: &MapData) -> Result<Self> {
        let length = NonZeroUsize::new(WATCHES_BYTES).context("the watched map is empty")?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: as for `MappedRecords`.
        let base =
            unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, map.fd().as_fd(), 0) };
        Ok(Self { base: base.context("cannot map the watched map")?.cast() })
    }

    pub(super) fn get(&self, slot: u32) -> Option<Watch<'_>> {
        let slot = usize::try_from(slot).ok().filter(|slot| *slot < SLOTS_MAX)?;
        // SAFETY: within the mapping, which is page aligned and lives as long as `self`; the kernel
        // side too accesses it by whole words.
        Some(unsafe { Watch::new(self.base.add(slot)) })
    }
}

impl Drop for MappedWatches {
    fn drop(&mut self) {
        // SAFETY: made by `new` with this length, and no `Watch` outlives `self`.
        let _ = unsafe { munmap(self.base.cast(), WATCHES_BYTES) };
    }
}

/// Reads an entry of the ring buffer; `None` for one of another size.
#[must_use]
pub fn read_change(bytes: &[u8]) -> Option<Change> {
    let word = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let half = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    Some(Change { kind: half(0)?, slot: half(4)?, at_ns: word(8)?, value: word(16)? })
}
