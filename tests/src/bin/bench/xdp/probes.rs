//! Probes: those that are answered in place, and those that come too soon.
//!
//! A peer is answered once in 400 us and a CPU gives 50,000 answers a second, so a round is one probe
//! of each of some hundred peers, and the next one waits until the bucket has them again. The answer
//! takes the place of its probe, headers included: the feeder writes whole frames.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ha_common::reason::Reason;
use ha_common::reply::ANSWER_INTERVAL_NS;
use ha_common::vectors::{EARLIER, Packet, SLOT_ALPHA};
use ha_common::wire::{Kind, Way};
use ha_daemon::io::kernel::Kernel;
use ha_tests::bpf::{self, BpfFs, mean_ns};
use ha_tests::crowd;

use super::{Feeder, Options, Table, count, measured};

/// Peers that ask, once in a round.
const ASKERS: u32 = 512;
/// An IPv4 probe: the first word, and whole words up to its end.
const WORDS: usize = 17;

fn probe(sequence: u64) -> Packet {
    let mut packet = Packet::heartbeat(sequence);
    (packet.header.kind, packet.header.way) = (Kind::Probe, Way::Xdp);
    packet
}

/// Frames of one round.
fn round(sequence: &mut u64) -> Vec<Vec<u8>> {
    *sequence += 1;
    (0..ASKERS).map(|slot| crowd::of_peer(slot, probe(*sequence)).frame()).collect()
}

/// Waits until the bucket has what the last round took.
fn refill() {
    thread::sleep(Duration::from_nanos(u64::from(ASKERS) * ANSWER_INTERVAL_NS));
}

/// A program that believes all of the crowd.
fn crowded(place: &BpfFs) -> Result<Kernel> {
    let mut world = crowd::world(ASKERS);
    world.keys.retain(|(entry, _)| *entry < EARLIER);
    let mut kernel = bpf::load(place, &world)?;
    for slot in 0..ASKERS {
        bpf::run(kernel.xdp()?, &crowd::of_peer(slot, Packet::heartbeat(1)).frame(), 1)?;
    }
    Ok(kernel)
}

/// Probes that are answered, one of each peer in a round.
pub(super) fn answered(options: &Options, table: &mut Table) -> Result<()> {
    let place = BpfFs::mount()?;
    let mut kernel = crowded(&place)?;
    let bytes = probe(0).frame().len();
    let offsets =
        std::array::from_fn(|word| if word == 0 { 0 } else { bytes % 8 + (word - 1) * 8 });
    ensure!(offsets[WORDS - 1] + 8 == bytes, "a probe has {bytes} bytes");
    let mut feeder: Feeder<WORDS> = Feeder::new(&place, "probes", offsets, ASKERS)?;
    let mut sequence = 0;
    feeder.lead_to_nothing()?;
    let alone = measured(options.runs, || feeder.run(&round(&mut sequence)))?;
    feeder.lead_to(&mut kernel)?;
    let both = measured(options.runs, || {
        refill();
        let before = count(&kernel, Reason::Probe);
        let time = feeder.run(&round(&mut sequence))?;
        let moved = count(&kernel, Reason::Probe) - before;
        ensure!(moved == u64::from(ASKERS), "{moved} of {ASKERS} probes answered");
        Ok(time)
    })?;
    table.difference("probe answered", &both, &alone, None);
    Ok(())
}

/// Probes that come before their path's pause is over, which can be repeated as they are.
pub(super) fn refused(options: &Options, table: &mut Table) -> Result<()> {
    let place = BpfFs::mount()?;
    let mut kernel = bpf::load(&place, &super::world())?;
    bpf::run(kernel.xdp()?, &Packet::heartbeat(1).frame(), 1)?;
    // A pause that lasts for as long as the benchmark.
    kernel.record(SLOT_ALPHA).context("no record")?.set_answer_from_ns(u64::MAX);
    let frame = probe(1).frame();
    let times = measured(options.runs, || {
        let before = count(&kernel, Reason::ProbeLimit);
        let time = mean_ns(kernel.xdp()?, &frame, options.repeat)?;
        let moved = count(&kernel, Reason::ProbeLimit) - before;
        ensure!(moved == u64::from(options.repeat), "{moved} of {} refused", options.repeat);
        Ok(time)
    })?;
    table.row("probe refused, its path's pause", &times, None);
    Ok(())
}
