//! `bench watch`: how late silence is noticed, by the kernel's timer (softirq) and by a thread as the driver's
//! (`SCHED_FIFO` 61, timerfd, epoll), for the same moments and beside the same load; and what a tick
//! costs.
//!
//! One run is one heartbeat (`BPF_PROG_TEST_RUN`) and the silence that follows. The kernel says in its ring
//! buffer when it suspected. The thread waits for the same moment, in turns by its own timer
//! and by the ring buffer.

use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ha_common::maps::{ChangeKind, SLOTS_MAX};
use ha_common::vectors::{Packet, SLOT_ALPHA, world};
use ha_daemon::config::Realtime;
use ha_daemon::io::kernel::{Kernel, WatchTimes};
use ha_daemon::io::realtime;
use ha_tests::bed::turn;
use ha_tests::bpf::{self, BpfFs};
use ha_tests::clock::{MS_NS, as_ns, monotonic_ns};
use ha_tests::observe::StallRecorder;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::report::{Figures, Report};
use crate::sample::Sample;

/// Silence after which the path is suspect.
const SUSPECT_NS: u64 = 15 * MS_NS;
/// How long one run may take.
const RUN_TIME_MAX_NS: u64 = 10_000 * MS_NS;
/// Processes per CPU in the load of ordinary ones.
const HOGS_PER_CPU: usize = 4;
/// Paths whose ticks are counted for their cost.
const PATHS_FOR_COST: u32 = 64;
/// Every one of them ticks so often then.
const PACE_FOR_COST_NS: u64 = MS_NS;

const KERNEL: &str = "kernel timer late";
const TIMER: &str = "thread late, by its own timer";
const RING: &str = "thread late, by the ring buffer";

/// Options of `bench watch`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How long beside each load
    #[arg(long = "for", value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    length: Duration,
}

/// Processes that only use up CPU time; they go when dropped.
struct Load(Vec<Child>);

impl Load {
    /// `count` on each CPU, with `SCHED_FIFO` of `priority` or as ordinary ones.
    fn start(count: usize, priority: Option<u8>) -> Result<Self> {
        let mut load = Self(Vec::new());
        for cpu in 0..thread::available_parallelism()?.get() {
            for _ in 0..count {
                let mut command = Command::new("chrt");
                match priority {
                    Some(priority) => command.args(["-f", &priority.to_string()]),
                    None => command.args(["-o", "0"]),
                };
                command.args([
                    "taskset",
                    "-c",
                    &cpu.to_string(),
                    "sh",
                    "-c",
                    "while :; do :; done",
                ]);
                load.0.push(command.stdin(Stdio::null()).spawn().context("cannot start chrt")?);
            }
        }
        Ok(load)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs the benchmark.
pub(crate) fn run(options: &Options) -> Result<Report> {
    let _turn = turn();
    let mut report = Report::new("watch");
    let place = BpfFs::mount()?;
    let mut kernel = bpf::load(&place, &world())?;
    let realtime = Realtime { enabled: true };
    report.settings.push(("memory", realtime::lock_memory(realtime).text));
    let granted = realtime::take_fifo(realtime, realtime::DRIVER_PRIORITY);
    report.settings.push(("thread", granted.text));
    cost(&mut kernel, &mut report)?;
    let stalls = StallRecorder::start()?;
    watch(
        &mut kernel,
        &[WatchTimes {
            slot: SLOT_ALPHA,
            suspect_ns: SUSPECT_NS,
            deadtime_ns: 2 * SUSPECT_NS,
            pause_limit_ns: 0,
        }],
    )?;
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?;
    let loads: [(&str, usize, Option<u8>); 3] =
        [("idle", 0, None), ("hogs", HOGS_PER_CPU, None), ("FIFO-50 spinners", 1, Some(50))];
    let (mut samples, mut sequence) = (Vec::new(), 0);
    for (name, count, priority) in loads {
        let _load = Load::start(count, priority)?;
        let end_ns = monotonic_ns() + as_ns(options.length);
        while monotonic_ns() < end_ns {
            sequence += 1;
            samples.push(measure(&mut kernel, &timer, &stalls, name, sequence)?);
        }
    }
    report.finish(samples);
    report.require("", KERNEL);
    ensure!(kernel.teardown().is_empty(), "not taken down");
    Ok(report)
}

fn watch(kernel: &mut Kernel, paths: &[WatchTimes]) -> Result<()> {
    kernel.watch(paths)?;
    for path in paths {
        while !kernel.arm(path.slot)? {
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// Waits until a descriptor is readable.
fn wait(descriptor: &impl AsFd, until_ns: u64) -> Result<()> {
    let left_ms = until_ns.saturating_sub(monotonic_ns()) / MS_NS;
    let mut waiting = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
    let ready = poll(&mut waiting, PollTimeout::try_from(left_ms as i32)?)?;
    ensure!(ready == 1, "nothing within {RUN_TIME_MAX_NS} ns");
    Ok(())
}

fn measure(
    kernel: &mut Kernel,
    timer: &TimerFd,
    stalls: &StallRecorder,
    case: &str,
    sequence: u64,
) -> Result<Sample> {
    let by_timer = sequence.is_multiple_of(2);
    kernel.take_changes();
    // As the daemon does for a path that is back: the timer of a silent one ticks ever more rarely.
    ensure!(kernel.arm(SLOT_ALPHA)?, "no memory for a timer that runs");
    bpf::run(kernel.xdp()?, &Packet::heartbeat(sequence).frame(), 1)?;
    let seen_ns = kernel.record(SLOT_ALPHA).context("no record")?.last_seen_ns();
    let (due_ns, until_ns) = (seen_ns + SUSPECT_NS, seen_ns + RUN_TIME_MAX_NS);
    let mut woke_ns = None;
    if by_timer {
        let at = TimeSpec::from_duration(Duration::from_nanos(due_ns));
        timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
        wait(timer, until_ns)?;
        woke_ns = Some(monotonic_ns());
        timer.wait()?;
    }
    let suspected_ns = loop {
        wait(&kernel.changes(), until_ns)?;
        woke_ns = woke_ns.or_else(|| Some(monotonic_ns()));
        let changes = kernel.take_changes();
        let suspicion = changes.iter().find(|it| it.kind == ChangeKind::Suspect as u32);
        if let Some(change) = suspicion.filter(|it| it.at_ns >= due_ns) {
            break change.at_ns;
        }
        if !by_timer {
            woke_ns = None;
        }
    };
    let late = |moment_ns: u64| moment_ns.checked_sub(due_ns);
    let mut sample = Sample {
        case: case.to_owned(),
        run: sequence as usize,
        at_ns: seen_ns,
        fault_ns: 0,
        values: vec![
            (KERNEL, late(suspected_ns)),
            (if by_timer { TIMER } else { RING }, woke_ns.and_then(late)),
        ],
        stalls: Vec::new(),
        lock_waits: Vec::new(),
        remarks: Vec::new(),
    };
    sample.observe_stalls(stalls, seen_ns, monotonic_ns());
    Ok(sample)
}

/// Time that this thread does not run, out of two seconds in which it only reads the clock.
fn taken_ns() -> u64 {
    /// What two readings are apart at most when nothing comes between.
    const APART_NS: u64 = 400;
    let (mut taken_ns, mut before_ns) = (0, monotonic_ns());
    let end_ns = before_ns + 2_000 * MS_NS;
    while before_ns < end_ns {
        let now_ns = monotonic_ns();
        let apart_ns = now_ns - before_ns;
        // A stop of the machine is no tick.
        if apart_ns > APART_NS && apart_ns < MS_NS {
            taken_ns += apart_ns;
        }
        before_ns = now_ns;
    }
    taken_ns
}

/// What one tick costs, its interrupt included: with a limit of 1 ns every tick begins a fresh window,
/// and a path that was heard once ticks for ever at its time of suspicion.
fn cost(kernel: &mut Kernel, report: &mut Report) -> Result<()> {
    let times = |slot| WatchTimes {
        slot,
        suspect_ns: PACE_FOR_COST_NS,
        deadtime_ns: PACE_FOR_COST_NS,
        pause_limit_ns: 1,
    };
    let without_ns = taken_ns();
    let paths: Vec<WatchTimes> = (0..PATHS_FOR_COST.min(SLOTS_MAX as u32)).map(times).collect();
    for path in &paths {
        kernel.record(path.slot).context("no record")?.set_last_seen_ns(1);
    }
    watch(kernel, &paths)?;
    let ticks = |kernel: &Kernel| -> u64 {
        let words = paths.iter().filter_map(|path| kernel.watched(path.slot));
        words.map(ha_common::watch::Watch::ticks).sum()
    };
    let before = ticks(kernel);
    let with_ns = taken_ns();
    let count = ticks(kernel) - before;
    kernel.watch(&[])?;
    kernel.configure(&bpf::tables(&world()))?;
    let each_ns = with_ns.saturating_sub(without_ns) / count.max(1);
    report.figures.push(Figures {
        title: "Cost of a tick, with the interrupt that brings it".to_owned(),
        columns: vec!["ticks", "ns per tick"],
        rows: vec![(
            format!("{} paths, one tick each millisecond", paths.len()),
            vec![count.to_string(), each_ns.to_string()],
        )],
    });
    Ok(())
}
