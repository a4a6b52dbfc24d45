//! What the kernel side costs per packet, measured by the kernel (`BPF_PROG_TEST_RUN` with many
//! repetitions; the figure of a run is the mean of its repetitions).
//!
//! **Refused packets and greetings** can be repeated as they are: the same frame has the same
//! outcome every time.
//!
//! **Accepted heartbeats** cannot: the second of two equal frames is an old one. A small program of
//! the benchmark, the *feeder*, therefore runs before the real one in every repetition: it copies the
//! next of some thousand heartbeats, signed beforehand with growing sequence numbers, into the
//! packet and tail-calls the real program. Its own cost is measured with a program behind it that
//! does nothing, and both are printed; the row "accepted" is the time of both minus the median of the
//! feeder's. After every run the program's own counters must show as many accepted heartbeats as
//! there were repetitions, or the benchmark fails.
//!
//! **Answered probes** are fed in the same way, a whole frame each, since the answer takes its place; one
//! of each of many peers, since a peer is not answered twice at once ([`probes`]).
//!
//! As a cross-check the same heartbeats are sent one by one, a system call each, and timed by the
//! kernel's `bpf_stats`: an upper bound, because that includes reading the clock and finds caches
//! and branch predictors as a system call leaves them.

mod feeder;
mod probes;

use anyhow::{Context, Result, ensure};
use aya::programs::ProgramInfo;
use aya::sys::{Stats, enable_stats};
use clap::Args;
use ha_common::reason::Reason;
use ha_common::vectors::{EARLIER, PORT, Packet, Vlan, World, key};
use ha_common::wire::FIXED_BYTES;
use ha_daemon::io::kernel::Kernel;

use ha_tests::bpf::{self, BpfFs, mean_ns};
use ha_tests::distribution::Distribution;

use crate::report::{Figures, Report};
use feeder::Feeder;

/// What an accepted heartbeat may cost.
const TARGET_NS: u64 = 150;
/// What one may cost that an HMAC authenticates.
const TARGET_HMAC_NS: u64 = 4_000;
/// Heartbeats that the feeder holds: what stays in the second-level cache.
const FED: u32 = 4096;
/// Runs before measuring, which warm caches up.
const WARM_UP_RUNS: usize = 20;

/// A heartbeat without the headers of its packet, which nothing changes.
const WORDS: usize = FIXED_BYTES / 8;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Runs per row.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: u32,
    /// Repetitions per run of a packet that may be repeated.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    repeat: u32,
}

/// Measures all cases.
pub(crate) fn run(options: &Options) -> Result<Report> {
    let mut report = Report::new("xdp");
    report.settings.push(("runs per row", options.runs.to_string()));
    report.settings.push(("repetitions per run", format!("{} ({FED} fed)", options.repeat)));
    let mut table = Table::default();
    accepted(options, &mut table)?;
    probes::answered(options, &mut table)?;
    repeated(options, &mut table)?;
    probes::refused(options, &mut table)?;
    report.figures = vec![table.figures(), sizes()?];
    report.notes = NOTES.map(str::to_owned).to_vec();
    Ok(report)
}

/// How to read the figures.
const NOTES: [&str; 5] = [
    "every figure is the mean of one run's repetitions; percentiles are over runs, also over those \
     in which a virtual CPU stood still",
    "accepted: a feeder copies the next signed heartbeat into the packet before each repetition; \
     the median of its own time (row \"feeder\") is subtracted",
    "probe answered: fed in the same way, a whole frame of each of some hundred peers; the answer is \
     made and signed in place",
    "one by one: a system call per packet, timed by bpf_stats; nothing is subtracted",
    "after every run the program's own counters showed the outcome that the row stands for, as often \
     as there were repetitions",
];

/// Rows of nanoseconds, which are too short for the reports' milliseconds.
#[derive(Default)]
struct Table {
    rows: Vec<(String, Vec<String>)>,
}

impl Table {
    /// Adds a row; with a target that its median must keep.
    fn row(&mut self, name: &str, times: &Distribution, target_ns: Option<u64>) {
        let Some(it) = times.summary() else { return };
        let mut cells =
            [it.p50_ns, it.p99_ns, it.max_ns, it.min_ns].map(|ns| ns.to_string()).to_vec();
        cells.push(target_ns.map_or_else(String::new, |target_ns| {
            let word = if it.p50_ns <= target_ns { "PASS" } else { "FAIL" };
            format!("{target_ns} {word}")
        }));
        self.rows.push((name.to_owned(), cells));
    }

    /// Adds the time of feeder and program less the feeder's median, then both.
    fn difference(
        &mut self,
        name: &str,
        both: &Distribution,
        alone: &Distribution,
        target_ns: Option<u64>,
    ) {
        let floor = alone.percentile_ns(50).unwrap_or(0);
        let difference: Distribution =
            both.values_ns().iter().map(|time| time.saturating_sub(floor)).collect();
        self.row(name, &difference, target_ns);
        self.row("  feeder and program", both, None);
        self.row("  feeder", alone, None);
    }

    fn figures(self) -> Figures {
        let columns = vec!["p50", "p99", "max", "min", "goal for p50"];
        Figures { title: "Nanoseconds per packet".to_owned(), columns, rows: self.rows }
    }
}

/// The world of the vectors without keys of an earlier file, as it is unless keys change.
fn world() -> World {
    let mut world = ha_common::vectors::world();
    world.keys.retain(|(entry, _)| *entry < EARLIER);
    world
}

/// A heartbeat that the key of that number signs.
fn signed_with(number: u8) -> Packet {
    let mut packet = Packet { key: key(number), ..Packet::heartbeat(0) };
    packet.header.key = number;
    packet
}

fn measured(runs: u32, mut one: impl FnMut() -> Result<u64>) -> Result<Distribution> {
    for _ in 0..WARM_UP_RUNS {
        one()?;
    }
    (0..runs).map(|_| one()).collect()
}

/// Cases that may be repeated with one packet.
fn repeated(options: &Options, table: &mut Table) -> Result<()> {
    let place = BpfFs::mount()?;
    let mut kernel = bpf::load(&place, &world())?;
    let first = Packet::heartbeat(1000);
    bpf::run(kernel.xdp()?, &first.frame(), 1)?;
    let forged = Packet { key: key(3), ..Packet::heartbeat(2000) };
    let mut greeting = Packet::heartbeat(1);
    greeting.header.sender = ha_common::wire::name_id("gamma");
    greeting.header.echo = 0;
    let mut arp = first.frame();
    arp[13] = 6;
    let cases = [
        ("greeting (all but the stamp)", greeting.frame(), Reason::Greeting),
        ("bad tag", forged.frame(), Reason::BadTag),
        ("bad tag, IPv6", Packet { v6: true, ..forged.clone() }.frame(), Reason::BadTag),
        ("bad tag, VLAN", Packet { vlan: Vlan::Customer, ..forged }.frame(), Reason::BadTag),
        ("old sequence", first.frame(), Reason::OldSequence),
        (
            "not ours: UDP to another port",
            Packet { port: PORT + 1, ..first }.frame(),
            Reason::NotOurs,
        ),
        ("not ours: not IP", arp, Reason::NotOurs),
    ];
    for (name, frame, reason) in cases {
        let times = measured(options.runs, || {
            let before = count(&kernel, reason);
            let time = mean_ns(kernel.xdp()?, &frame, options.repeat)?;
            let moved = count(&kernel, reason) - before;
            ensure!(
                moved == u64::from(options.repeat),
                "{name}: {moved} instead of {}",
                options.repeat
            );
            Ok(time)
        })?;
        table.row(name, &times, None);
    }
    Ok(())
}

fn count(kernel: &Kernel, reason: Reason) -> u64 {
    kernel.counters().get(&reason).copied().unwrap_or(0)
}

/// Accepted heartbeats, by the feeder and one by one.
fn accepted(options: &Options, table: &mut Table) -> Result<()> {
    let place = BpfFs::mount()?;
    let mut kernel = bpf::load(&place, &world())?;
    let mut sequence = 0;
    let cases = [
        ("IPv4", Packet::heartbeat(0), Some(TARGET_NS)),
        ("IPv6", Packet { v6: true, ..Packet::heartbeat(0) }, None),
        ("IPv4, VLAN", Packet { vlan: Vlan::Customer, ..Packet::heartbeat(0) }, None),
        ("crc", signed_with(4), None),
        ("md5", signed_with(5), Some(TARGET_HMAC_NS)),
        ("sha1", signed_with(6), Some(TARGET_HMAC_NS)),
        ("sha256", signed_with(7), Some(TARGET_HMAC_NS)),
    ];
    for (name, packet, target_ns) in cases {
        let frame = packet.frame();
        let payload_at = frame.len() - FIXED_BYTES;
        let offsets: [usize; WORDS] = std::array::from_fn(|word| payload_at + word * 8);
        let mut feeder = Feeder::new(&place, &name.replace([',', ' '], ""), offsets, FED)?;
        feeder.lead_to_nothing()?;
        let alone = measured(options.runs, || feeder.run(&numbered(&packet, &mut 0)))?;
        feeder.lead_to(&mut kernel)?;
        let both = measured(options.runs, || {
            let before = count(&kernel, Reason::Accepted);
            let time = feeder.run(&numbered(&packet, &mut sequence))?;
            let moved = count(&kernel, Reason::Accepted) - before;
            ensure!(moved == u64::from(FED), "{name}: {moved} of {FED} accepted");
            Ok(time)
        })?;
        table.difference(&format!("accepted, {name}"), &both, &alone, target_ns);
    }
    let times = measured(options.runs, || one_by_one(&mut kernel, &mut sequence))?;
    table.row("accepted, IPv4, one by one", &times, None);
    Ok(())
}

/// Frames of a whole round of heartbeats, which begin after `sequence`.
fn numbered(packet: &Packet, sequence: &mut u64) -> Vec<Vec<u8>> {
    let mut packet = packet.clone();
    let frames = (0..FED).map(|_| {
        *sequence += 1;
        packet.header.sequence = *sequence;
        packet.frame()
    });
    frames.collect()
}

/// Mean of some thousand accepted heartbeats, a system call each, as `bpf_stats` counts it.
fn one_by_one(kernel: &mut Kernel, sequence: &mut u64) -> Result<u64> {
    /// Few enough that all runs together take seconds.
    const PACKETS: u64 = 1000;
    let _enabled = enable_stats(Stats::RunTime).context("this kernel has no bpf_stats")?;
    let frames: Vec<_> =
        (1..=PACKETS).map(|next| Packet::heartbeat(*sequence + next).frame()).collect();
    *sequence += PACKETS;
    let accepted = count(kernel, Reason::Accepted);
    let program = kernel.xdp()?;
    let before = program.info()?;
    for frame in &frames {
        bpf::run(program, frame, 1)?;
    }
    let after = program.info()?;
    let runs = after.run_count() - before.run_count();
    let moved = count(kernel, Reason::Accepted) - accepted;
    ensure!(runs == PACKETS && moved == PACKETS, "{runs} runs, {moved} accepted of {PACKETS}");
    Ok(u64::try_from((after.run_time() - before.run_time()).as_nanos())? / runs)
}

/// How big the programs are, and how much the verifier had to look at.
fn sizes() -> Result<Figures> {
    let place = BpfFs::mount()?;
    let mut kernel = bpf::load(&place, &world())?;
    let programs = [("ha_xdp", kernel.xdp()?.info()?), ("ha_tc", kernel.tc()?.info()?)];
    let row = |(name, info): (&str, ProgramInfo)| {
        let verified = info.verified_instruction_count().context("the kernel tells no count")?;
        let bytes = info.size_translated().context("the kernel tells no size")?;
        let cells = [verified, bytes / 8, info.size_jitted()].map(|it| it.to_string()).to_vec();
        Ok((name.to_owned(), cells))
    };
    let rows = programs.into_iter().map(row).collect::<Result<_>>()?;
    let columns = vec!["verified insns", "instructions", "machine bytes"];
    Ok(Figures { title: "Programs, log off".to_owned(), columns, rows })
}
