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
//! As a cross-check the same heartbeats are sent one by one, a system call each, and timed by the
//! kernel's `bpf_stats`: an upper bound, because that includes reading the clock and finds caches
//! and branch predictors as a system call leaves them.

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData, ProgramArray};
use aya::programs::{ProgramInfo, Xdp};
use aya::sys::{Stats, enable_stats};
use aya_obj::programs::XdpAttachType;
use clap::Args;
use ha_common::reason::Reason;
use ha_common::vectors::{EARLIER, PORT, Packet, Vlan, World, key};
use ha_common::wire::FIXED_BYTES;
use ha_daemon::io::kernel::Kernel;

use ha_tests::bpf::{
    self, BpfFs, EXIT, MapKind, ProgramKind, constant_program, create_map, instruction, mean_ns,
};
use ha_tests::distribution::Distribution;

use crate::report::{Figures, Report};

/// What an accepted heartbeat may cost.
const TARGET_NS: u64 = 150;
/// What one may cost that an HMAC authenticates.
const TARGET_HMAC_NS: u64 = 4_000;
/// Heartbeats that the feeder holds: what stays in the second-level cache.
const FED: u32 = 4096;
/// Runs before measuring, which warm caches up.
const WARM_UP_RUNS: usize = 20;

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
    repeated(options, &mut table)?;
    report.figures = vec![table.figures(), sizes()?];
    report.notes = NOTES.map(str::to_owned).to_vec();
    Ok(report)
}

/// How to read the figures.
const NOTES: [&str; 4] = [
    "every figure is the mean of one run's repetitions; percentiles are over runs, also over those \
     in which a virtual CPU stood still",
    "accepted: a feeder copies the next signed heartbeat into the packet before each repetition; \
     the median of its own time (row \"feeder\") is subtracted",
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
        let mut feeder =
            Feeder::new(&place, &name.replace([',', ' '], ""), frame.len() - FIXED_BYTES)?;
        feeder.lead_to_nothing()?;
        let alone = measured(options.runs, || feeder.run(&frame, &packet, &mut 0))?;
        feeder.lead_to(&mut kernel)?;
        let both = measured(options.runs, || {
            let before = count(&kernel, Reason::Accepted);
            let time = feeder.run(&frame, &packet, &mut sequence)?;
            let moved = count(&kernel, Reason::Accepted) - before;
            ensure!(moved == u64::from(FED), "{name}: {moved} of {FED} accepted");
            Ok(time)
        })?;
        let floor = alone.percentile_ns(50).unwrap_or(0);
        let difference: Distribution =
            both.values_ns().iter().map(|time| time.saturating_sub(floor)).collect();
        table.row(&format!("accepted, {name}"), &difference, target_ns);
        table.row("  feeder and program", &both, None);
        table.row("  feeder", &alone, None);
    }
    let times = measured(options.runs, || one_by_one(&mut kernel, &mut sequence))?;
    table.row("accepted, IPv4, one by one", &times, None);
    Ok(())
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

/// The program that puts the next heartbeat into the packet, and its maps.
struct Feeder {
    program: Xdp,
    nothing: Xdp,
    next: ProgramArray<MapData>,
    heartbeats: Array<MapData, [u64; WORDS]>,
    cursor: Array<MapData, u64>,
}

impl Feeder {
    /// For the frames of a case, whose payload begins at `payload_at`.
    fn new(place: &BpfFs, case: &str, payload_at: usize) -> Result<Self> {
        let heartbeats = create_map(MapKind::Array, FIXED_BYTES as u32, FED)?;
        let cursor = create_map(MapKind::Array, 8, 1)?;
        let next = create_map(MapKind::Programs, 4, 1)?;
        let instructions = instructions(payload_at, [&cursor, &heartbeats, &next].map(number));
        let pinned = |name: &str, object| -> Result<Xdp> {
            let path = place.root().join(format!("{name}-{case}"));
            bpf::pin(&object, &path)?;
            Ok(Xdp::from_pin(&path, XdpAttachType::Interface)?)
        };
        Ok(Self {
            program: pinned(
                "feeder",
                bpf::load_program(ProgramKind::Xdp, "feeder", &instructions)?,
            )?,
            nothing: pinned("nothing", constant_program(ProgramKind::Xdp, "nothing", 1)?)?,
            next: ProgramArray::try_from(Map::ProgramArray(MapData::from_fd(next)?))?,
            heartbeats: Array::try_from(Map::Array(MapData::from_fd(heartbeats)?))?,
            cursor: Array::try_from(Map::Array(MapData::from_fd(cursor)?))?,
        })
    }

    fn lead_to_nothing(&mut self) -> Result<()> {
        Ok(self.next.set(0, self.nothing.fd()?, 0)?)
    }

    fn lead_to(&mut self, kernel: &mut Kernel) -> Result<()> {
        Ok(self.next.set(0, kernel.xdp()?.fd()?, 0)?)
    }

    /// Mean time of a whole round of heartbeats, which begin after `sequence`.
    fn run(&mut self, frame: &[u8], packet: &Packet, sequence: &mut u64) -> Result<u64> {
        let mut packet = packet.clone();
        for index in 0..FED {
            *sequence += 1;
            packet.header.sequence = *sequence;
            let mut words = [0; WORDS];
            let bytes = packet.fixed().to_bytes();
            for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
                *word = chunk.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
            }
            self.heartbeats.set(index, words, 0)?;
        }
        self.cursor.set(0, 0, 0)?;
        Ok(mean_ns(&self.program, frame, FED)?)
    }
}

fn number(map: &std::os::fd::OwnedFd) -> i32 {
    use std::os::fd::AsRawFd as _;
    map.as_raw_fd()
}

/// The feeder, instruction by instruction (RFC 9669); registers and helpers by number.
fn instructions(payload_at: usize, [cursor, heartbeats, next]: [i32; 3]) -> Vec<u64> {
    const LOAD_WORD: u8 = 0x61;
    const LOAD_LONG: u8 = 0x79;
    const STORE_WORD: u8 = 0x63;
    const STORE_LONG: u8 = 0x7b;
    const STORE_WORD_IMMEDIATE: u8 = 0x62;
    const MOVE: u8 = 0xbf;
    const MOVE_IMMEDIATE: u8 = 0xb7;
    const ADD_IMMEDIATE: u8 = 0x07;
    const AND_IMMEDIATE: u8 = 0x57;
    const CALL: u8 = 0x85;
    const JUMP: u8 = 0x05;
    const JUMP_IF_ABOVE: u8 = 0x2d;
    const JUMP_UNLESS_ZERO: u8 = 0x55;
    const LOOKUP: i32 = 1;
    const TAIL_CALL: i32 = 12;
    let at = payload_at as i16;
    let map = |register, fd| [instruction(0x18, register, 1, 0, fd), 0];
    // Aborted: nothing of the benchmark counts it.
    let give_up = [instruction(MOVE_IMMEDIATE, 0, 0, 0, 0), EXIT];
    let looked_up = |fd| {
        [
            instruction(MOVE, 2, 10, 0, 0),
            instruction(ADD_IMMEDIATE, 2, 0, 0, -4),
            map(1, fd)[0],
            0,
            instruction(CALL, 0, 0, 0, LOOKUP),
            instruction(JUMP_UNLESS_ZERO, 0, 0, 2, 0),
            give_up[0],
            give_up[1],
        ]
    };
    let mut program = vec![
        instruction(MOVE, 6, 1, 0, 0),
        // The packet, if it is long enough.
        instruction(LOAD_WORD, 7, 1, 0, 0),
        instruction(LOAD_WORD, 3, 1, 4, 0),
        instruction(MOVE, 4, 7, 0, 0),
        instruction(ADD_IMMEDIATE, 4, 0, 0, payload_at as i32 + FIXED_BYTES as i32),
        instruction(JUMP_IF_ABOVE, 4, 3, 1, 0),
        instruction(JUMP, 0, 0, 2, 0),
    ];
    program.extend(give_up);
    // r8 = cursor; cursor += 1.
    program.push(instruction(STORE_WORD_IMMEDIATE, 10, 0, -4, 0));
    program.extend(looked_up(cursor));
    program.extend([
        instruction(LOAD_LONG, 8, 0, 0, 0),
        instruction(MOVE, 9, 8, 0, 0),
        instruction(ADD_IMMEDIATE, 9, 0, 0, 1),
        instruction(STORE_LONG, 0, 9, 0, 0),
        instruction(AND_IMMEDIATE, 8, 0, 0, FED as i32 - 1),
        instruction(STORE_WORD, 10, 8, -4, 0),
    ]);
    program.extend(looked_up(heartbeats));
    for word in 0..WORDS as i16 {
        program.push(instruction(LOAD_LONG, 3, 0, word * 8, 0));
        program.push(instruction(STORE_LONG, 7, 3, at + word * 8, 0));
    }
    program.push(instruction(MOVE, 1, 6, 0, 0));
    program.extend(map(2, next));
    program
        .extend([instruction(MOVE_IMMEDIATE, 3, 0, 0, 0), instruction(CALL, 0, 0, 0, TAIL_CALL)]);
    program.extend(give_up);
    program
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
