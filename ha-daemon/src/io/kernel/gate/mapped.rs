//! The words of the gates as memory.

use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use anyhow::{Context, Result};
use aya::maps::MapData;
use ha_common::gate::{GATES_MAX, GateKey};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::super::Plain;

// SAFETY: `repr(C)`, made of integers, without padding (its size is asserted in ha_common).
unsafe impl aya::Pod for Plain<GateKey> {}

/// The map `gate_until` in this process's memory: for each gate, until when it is open.
#[derive(Debug)]
pub struct GateWords {
    base: NonNull<AtomicU64>,
}

const BYTES: usize = GATES_MAX * size_of::<AtomicU64>();

// SAFETY: the mapping belongs to the process, and is accessed by whole atomic words.
unsafe impl Send for GateWords {}
// SAFETY: as above.
unsafe impl Sync for GateWords {}

impl GateWords {
    pub(super) fn new(map: &MapData) -> Result<Self> {
        let length = NonZeroUsize::new(BYTES).context("the map of gates is empty")?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; the length is that of the map,
        // whose element size and count were checked when it was loaded.
        let base =
            unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, map.fd().as_fd(), 0) };
        Ok(Self { base: base.context("cannot map the gates")?.cast() })
    }

    /// Words of no program.
    #[cfg(test)]
    pub(crate) fn alone() -> Self {
        let length = NonZeroUsize::new(BYTES).unwrap();
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe { nix::sys::mman::mmap_anonymous(None, length, protection, flags) };
        Self { base: base.unwrap().cast() }
    }

    fn word(&self, entry: u32) -> Option<&AtomicU64> {
        let entry = usize::try_from(entry).ok().filter(|entry| *entry < GATES_MAX)?;
        // SAFETY: within the mapping, which is page aligned and lives as long as `self`; the kernel side
        // too loads whole words.
        Some(unsafe { self.base.add(entry).as_ref() })
    }

    /// Until when the gate is open, `CLOCK_BOOTTIME`.
    #[must_use]
    pub fn until_ns(&self, entry: u32) -> u64 {
        self.word(entry).map_or(0, |word| word.load(SeqCst))
    }

    /// Opens the gate, or keeps it open, until then.
    pub fn open(&self, entry: u32, until_ns: u64) {
        if let Some(word) = self.word(entry) {
            word.store(until_ns, SeqCst);
        }
    }

    /// Closes the gate.
    pub fn close(&self, entry: u32) {
        self.open(entry, 0);
    }
}

impl Drop for GateWords {
    fn drop(&mut self) {
        // SAFETY: made by `new` with this length, and no word outlives `self`.
        let _ = unsafe { munmap(self.base.cast(), BYTES) };
    }
}
