//! The map `arrivals`, read and written entry by entry: nobody needs it more than once in seconds, so
//! that a system call for each is cheap enough.

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{Array, MapData};
use ha_common::arrivals::Arrivals;

use super::mapped::Plain;

/// Name of the map in the object.
pub(super) const MAP: &str = "arrivals";

/// How heartbeats arrive, by slot.
pub(super) struct KernelArrivals(Array<MapData, Plain<Arrivals>>);

impl KernelArrivals {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self> {
        let map = ebpf.take_map(MAP).context("no map arrivals in the object")?;
        Ok(Self(Array::try_from(map).context("map arrivals is not what it should be")?))
    }

    pub(super) fn read(&self, slot: u32) -> Option<Arrivals> {
        self.0.get(&slot, 0).ok().map(|it| it.0)
    }

    pub(super) fn write(&mut self, slot: u32, arrivals: &Arrivals) -> Result<()> {
        self.0.set(slot, Plain(*arrivals), 0).context("cannot write map arrivals")
    }
}
