//! The judge in the kernel, without a network: heartbeats by test runs, time by the kernel's stamps.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::MapInfo;
use aya::programs::loaded_programs;
use ha_common::maps::{Change, ChangeKind, SLOTS_MAX};
use ha_common::vectors::{Packet, SLOT_ALPHA, SLOT_GAMMA, world};
use ha_common::watch::{PACE_MAX_NS, Watch};
use ha_daemon::io::kernel::{Kernel, WatchTimes};
use ha_tests::bpf::{self, BpfFs, EXIT, MapKind, ProgramKind, instruction};
use ha_tests::clock::{MS_NS, monotonic_ns, wait_for};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::WAIT;

const SUSPECT_NS: u64 = 100 * MS_NS;
/// No lateness counts as a pause: stops of this machine are no matter of most tests.
const NO_PAUSE: u64 = 0;
/// Lateness that counts as one in the others: the kernel holds softirqs for longer.
const LIMIT_NS: u64 = 50 * MS_NS;

fn times(slot: u32, pause_limit_ns: u64) -> WatchTimes {
    WatchTimes { slot, suspect_ns: SUSPECT_NS, deadtime_ns: 2 * SUSPECT_NS, pause_limit_ns }
}

fn words(kernel: &Kernel, slot: u32) -> Result<Watch<'_>> {
    kernel.watched(slot).context("no such slot")
}

/// Watches exactly these paths.
fn watch(kernel: &mut Kernel, paths: &[WatchTimes]) -> Result<()> {
    kernel.watch(paths)?;
    paths.iter().try_for_each(|it| wait_for("memory for a timer", WAIT, || kernel.arm(it.slot)))
}

/// A heartbeat of alpha; its stamp.
fn heartbeat(kernel: &mut Kernel, sequence: u64) -> Result<u64> {
    bpf::run(kernel.xdp()?, &Packet::heartbeat(sequence).frame(), 1)?;
    Ok(kernel.record(SLOT_ALPHA).context("no record")?.last_seen_ns())
}

/// Waits for the kernel's word that a path is suspect, by the descriptor that wakes the driver.
fn suspicion(kernel: &mut Kernel) -> Result<Change> {
    let end = Instant::now() + WAIT;
    loop {
        let changes = kernel.take_changes();
        let first = changes.into_iter().find(|it| it.kind == ChangeKind::Suspect as u32);
        if let Some(change) = first {
            return Ok(change);
        }
        let left = end.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "no word of the kernel");
        let buffer = kernel.changes();
        let mut waiting = [PollFd::new(buffer.as_fd(), PollFlags::POLLIN)];
        poll(&mut waiting, PollTimeout::try_from(left)?)?;
    }
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn silence_is_announced_once_by_the_kernels_own_clock_and_wakes() -> Result<()> {
    let place = BpfFs::mount()?;
    let mut kernel = bpf::load(&place, &world())?;
    watch(&mut kernel, &[times(SLOT_ALPHA, NO_PAUSE)])?;
    for round in 1..=3 {
        // Also what is silent for long, and ticks rarely, is watched again soon after it is back.
        thread::sleep(Duration::from_nanos(PACE_MAX_NS) * round);
        let seen_ns = heartbeat(&mut kernel, u64::from(round))?;
        let change = suspicion(&mut kernel)?;
        ensure!((change.slot, change.value) == (SLOT_ALPHA, change.at_ns - seen_ns), "{change:?}");
        ensure!(change.value >= SUSPECT_NS, "early: {change:?}");
        let watch = words(&kernel, SLOT_ALPHA)?;
        // Within one pace of when it was due, and as late as the timer itself was.
        let late_ns = change.value - SUSPECT_NS;
        ensure!(late_ns <= PACE_MAX_NS + watch.late_max_ns(), "{change:?}");
        ensure!(watch.suspected_ns() == change.at_ns, "{} {change:?}", watch.suspected_ns());
        let ticks = watch.ticks();
        wait_for("ticks of the silent path", WAIT, || {
            Ok(words(&kernel, SLOT_ALPHA)?.ticks() > ticks + 4)
        })?;
        ensure!(kernel.take_changes().is_empty(), "announced twice");
        ensure!(words(&kernel, SLOT_ALPHA)?.suspicions() == u64::from(round));
    }
    ensure!(kernel.teardown().is_empty());
    Ok(())
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn heartbeats_in_time_raise_no_suspicion() -> Result<()> {
    let place = BpfFs::mount()?;
    let mut kernel = bpf::load(&place, &world())?;
    watch(&mut kernel, &[times(SLOT_ALPHA, NO_PAUSE)])?;
    let (mut stamps, end_ns) = (Vec::new(), monotonic_ns() + 3_000 * MS_NS);
    while monotonic_ns() < end_ns {
        stamps.push(heartbeat(&mut kernel, stamps.len() as u64 + 1)?);
        thread::sleep(Duration::from_millis(10));
    }
    // This thread is nobody's driver: on a loaded machine it may be late, and then the kernel is right.
    let gaps = stamps.windows(2).filter(|pair| pair[1] - pair[0] >= SUSPECT_NS).count() as u64;
    let last_ns = stamps.last().copied().unwrap_or(0);
    let told = kernel.take_changes();
    let told = told.iter().filter(|it| it.kind == ChangeKind::Suspect as u32);
    let told = told.filter(|it| it.at_ns < last_ns + SUSPECT_NS).count() as u64;
    let watch = words(&kernel, SLOT_ALPHA)?;
    ensure!(told <= gaps, "{told} suspicions, {gaps} gaps");
    ensure!(gaps < 10, "{gaps} gaps: the machine is too busy for this test to say anything");
    // One tick per suspicion time and a bit, not one per heartbeat, of which there are three hundred.
    let late = stamps.windows(2).filter(|pair| pair[1] - pair[0] >= SUSPECT_NS / 4).count() as u64;
    ensure!(watch.ticks() <= 3_000 / 90 + 2 + late + 8 * gaps, "{} ticks", watch.ticks());
    ensure!(kernel.teardown().is_empty());
    Ok(())
}

/// A program that turns in a loop for as long as the kernel lets it: a quarter of a second.
fn turning() -> Result<OwnedFd> {
    const KTIME_GET_NS: i32 = 5;
    let instructions = [
        instruction(0x85, 0, 0, 0, KTIME_GET_NS),
        // may_goto (kernel 6.9): past the jump when time or turns are used up.
        instruction(0xe5, 0, 0, 1, 0),
        instruction(0x05, 0, 0, -3, 0),
        instruction(0xb7, 0, 0, 0, 2),
        EXIT,
    ];
    bpf::load_program(ProgramKind::Xdp, "turning", &instructions)
}

/// Holds softirqs back on all CPUs: the kernel does, while it runs a program (`net/bpf/test_run.c`).
fn hold_softirqs() -> Result<()> {
    let cpus = thread::available_parallelism()?.get();
    let ready = Barrier::new(cpus);
    let hold = |cpu: usize| -> Result<()> {
        let mut only = CpuSet::new();
        only.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &only)?;
        let program = turning();
        ready.wait();
        bpf::run_once(&program?, &[0; 64])
    };
    thread::scope(|scope| {
        let holding: Vec<_> = (0..cpus).map(|cpu| scope.spawn(move || hold(cpu))).collect();
        holding.into_iter().try_for_each(|it| it.join().unwrap_or_else(|_| bail!("panicked")))
    })
}

/// Softirqs are held back after a heartbeat; the suspicion that follows, start of the window and pauses.
fn suspicion_after_a_pause(pause_limit_ns: u64) -> Result<(Change, u64, u64)> {
    let place = BpfFs::mount()?;
    let mut kernel = bpf::load(&place, &world())?;
    watch(&mut kernel, &[times(SLOT_ALPHA, pause_limit_ns)])?;
    // On a loaded machine a thread may come to its CPU only when the tick has been there: then the path
    // was suspected in time.
    for sequence in 1..=20 {
        words(&kernel, SLOT_ALPHA)?.set_late_max_ns(0);
        let seen_ns = heartbeat(&mut kernel, sequence)?;
        hold_softirqs()?;
        let change = suspicion(&mut kernel)?;
        let watch = words(&kernel, SLOT_ALPHA)?;
        let in_time = change.at_ns < seen_ns + SUSPECT_NS + LIMIT_NS;
        if watch.late_max_ns() > LIMIT_NS && !in_time {
            let found = (change, watch.window_ns(), watch.pauses());
            ensure!(kernel.teardown().is_empty());
            return Ok(found);
        }
    }
    bail!("no tick was ever late")
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn a_pause_of_the_softirqs_begins_a_fresh_window() -> Result<()> {
    let (change, window_ns, pauses) = suspicion_after_a_pause(LIMIT_NS)?;
    ensure!(pauses > 0, "no pause was noticed");
    ensure!(change.value >= SUSPECT_NS, "{change:?}");
    ensure!(change.at_ns - change.value == window_ns, "not of the fresh window: {change:?}");
    Ok(())
}

/// The counter-check: without the rule the very first tick after the pause suspects.
#[test]
#[ignore = "needs root: loads BPF programs"]
fn without_the_rule_a_pause_is_taken_for_silence() -> Result<()> {
    let (change, _, pauses) = suspicion_after_a_pause(NO_PAUSE)?;
    ensure!(pauses == 0 && change.value > SUSPECT_NS + LIMIT_NS, "{pauses} {change:?}");
    Ok(())
}

/// The programs that the timers of the pinned map run.
fn programs(map: u32) -> Vec<u32> {
    let all = loaded_programs().filter_map(std::result::Result::ok);
    let uses =
        all.filter(|it| it.map_ids().is_ok_and(|ids| ids.is_some_and(|ids| ids.contains(&map))));
    uses.map(|it| it.id()).collect()
}

fn watch_map(directory: &Path) -> Result<u32> {
    Ok(MapInfo::from_pin(directory.join("watch"))?.id())
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn timers_outlive_their_daemon_and_the_next_one_takes_them_over() -> Result<()> {
    let place = BpfFs::mount()?;
    let mut first = bpf::load(&place, &world())?;
    watch(&mut first, &[times(SLOT_ALPHA, NO_PAUSE), times(SLOT_GAMMA, NO_PAUSE)])?;
    heartbeat(&mut first, 1)?;
    let map = watch_map(&place.directory())?;
    let old = programs(map);
    ensure!(old.len() == 1, "{old:?}");
    drop(first);

    let mut second = Kernel::load(&place.directory(), 0)?;
    ensure!(watch_map(&place.directory())? == map, "another map");
    wait_for("the kernel's suspicion while no daemon runs", WAIT, || {
        Ok(words(&second, SLOT_ALPHA)?.suspected_ns() != 0)
    })?;
    ensure!(programs(map) == old, "{:?}", programs(map));
    second.configure(&bpf::tables(&world()))?;
    watch(
        &mut second,
        &[WatchTimes { suspect_ns: 3 * SUSPECT_NS, ..times(SLOT_ALPHA, NO_PAUSE) }],
    )?;
    let seen_ns = heartbeat(&mut second, 2)?;
    let change = loop {
        let change = suspicion(&mut second)?;
        if change.at_ns >= seen_ns {
            break change;
        }
    };
    ensure!(change.value >= 3 * SUSPECT_NS, "by the old time: {change:?}");
    // Gamma is watched no more: its timer ends, and with it the last use of the old program.
    wait_for("the end of the other timer", WAIT, || Ok(words(&second, SLOT_GAMMA)?.due_ns() == 0))?;
    let ticks = words(&second, SLOT_GAMMA)?.ticks();
    thread::sleep(Duration::from_nanos(2 * PACE_MAX_NS));
    ensure!(words(&second, SLOT_GAMMA)?.ticks() == ticks, "it goes on");

    ensure!(second.teardown().is_empty());
    wait_for("the end of all timers", WAIT, || Ok(programs(map).is_empty()))
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn timers_can_be_armed_from_the_first_slot_to_the_last_again_and_again() -> Result<()> {
    /// Kernels from 6.18 give a timer's memory only from slabs that exist (`kmalloc_nolock`): a few hundred
    /// timers at once, more only as other parts of an idle kernel happen to free some. The driver asks again.
    const APART: usize = 64;
    let place = BpfFs::mount()?;
    let mut kernel = bpf::load(&place, &world())?;
    let last = SLOTS_MAX as u32 - 1;
    let slots: Vec<u32> = (0..last).step_by(APART).chain([last]).collect();
    let all: Vec<WatchTimes> = slots.iter().map(|it| times(*it, NO_PAUSE)).collect();
    for _ in 0..3 {
        watch(&mut kernel, &all)?;
    }
    wait_for("a tick in every slot", WAIT, || {
        let ticks = slots.iter().map(|slot| Ok(words(&kernel, *slot)?.ticks()));
        Ok(ticks.collect::<Result<Vec<_>>>()?.iter().all(|it| *it > 0))
    })?;
    let Err(error) = kernel.arm(SLOTS_MAX as u32) else { anyhow::bail!("beyond the last slot") };
    ensure!(format!("{error:#}").contains("nothing to watch"), "{error:#}");
    ensure!(kernel.teardown().is_empty());
    Ok(())
}

/// As with a kernel that knows no timers: the map that is there cannot hold any.
#[test]
#[ignore = "needs root: loads BPF programs"]
fn where_there_are_no_timers_all_else_works() -> Result<()> {
    let place = BpfFs::mount()?;
    std::fs::create_dir_all(place.directory())?;
    let plain = bpf::create_map(MapKind::Array, 16, SLOTS_MAX as u32)?;
    bpf::pin(&plain, &place.directory().join("watch"))?;
    let mut kernel = bpf::load(&place, &world())?;
    let Err(error) = kernel.watch(&[times(SLOT_ALPHA, NO_PAUSE)]) else {
        anyhow::bail!("it was taken");
    };
    ensure!(format!("{error:#}").contains("refused the program with the timers"), "{error:#}");
    ensure!(words(&kernel, SLOT_ALPHA)?.suspect_ns() == 0, "still to be watched");
    heartbeat(&mut kernel, 1)?;
    ensure!(kernel.teardown().is_empty());
    Ok(())
}
