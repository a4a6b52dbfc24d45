//! A program of the benchmark that runs before the real one and gives it another packet each time.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData, ProgramArray};
use aya::programs::Xdp;
use aya_obj::programs::XdpAttachType;
use ha_daemon::io::kernel::Kernel;
use ha_tests::bpf::{
    self, BpfFs, EXIT, MapKind, ProgramKind, constant_program, create_map, instruction, mean_ns,
};

/// The program that puts the next frame, or a part of it, into the packet, and its maps.
pub(super) struct Feeder<const WORDS: usize> {
    program: Xdp,
    nothing: Xdp,
    next: ProgramArray<MapData>,
    parts: Array<MapData, [u64; WORDS]>,
    cursor: Array<MapData, u64>,
    /// Where the words of a part stand in its frame.
    offsets: [usize; WORDS],
    count: u32,
}

impl<const WORDS: usize> Feeder<WORDS> {
    /// For so many frames of a case, a power of two: of each the words at these offsets.
    pub(super) fn new(
        place: &BpfFs,
        case: &str,
        offsets: [usize; WORDS],
        count: u32,
    ) -> Result<Self> {
        ensure!(count.is_power_of_two(), "{count} frames");
        let parts = create_map(MapKind::Array, WORDS as u32 * 8, count)?;
        let cursor = create_map(MapKind::Array, 8, 1)?;
        let next = create_map(MapKind::Programs, 4, 1)?;
        let maps = [&cursor, &parts, &next].map(AsRawFd::as_raw_fd);
        let instructions = instructions(&offsets, count, maps);
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
            parts: Array::try_from(Map::Array(MapData::from_fd(parts)?))?,
            cursor: Array::try_from(Map::Array(MapData::from_fd(cursor)?))?,
            offsets,
            count,
        })
    }

    pub(super) fn lead_to_nothing(&mut self) -> Result<()> {
        Ok(self.next.set(0, self.nothing.fd()?, 0)?)
    }

    pub(super) fn lead_to(&mut self, kernel: &mut Kernel) -> Result<()> {
        Ok(self.next.set(0, kernel.xdp()?.fd()?, 0)?)
    }

    /// Mean time of a whole round of frames of one length.
    pub(super) fn run(&mut self, frames: &[Vec<u8>]) -> Result<u64> {
        ensure!(frames.len() == self.count as usize, "{} frames", frames.len());
        for (index, frame) in (0..).zip(frames) {
            let mut words = [0; WORDS];
            for (word, offset) in words.iter_mut().zip(self.offsets) {
                let bytes = frame.get(offset..).and_then(|it| it.first_chunk());
                *word = u64::from_le_bytes(*bytes.context("a frame is too short")?);
            }
            self.parts.set(index, words, 0)?;
        }
        self.cursor.set(0, 0, 0)?;
        Ok(mean_ns(&self.program, frames.first().context("no frame")?, self.count)?)
    }
}

/// The feeder, instruction by instruction (RFC 9669); registers and helpers by number.
fn instructions(offsets: &[usize], count: u32, [cursor, parts, next]: [i32; 3]) -> Vec<u64> {
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
    let bytes = offsets.iter().max().map_or(0, |last| last + 8);
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
        instruction(ADD_IMMEDIATE, 4, 0, 0, bytes as i32),
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
        instruction(AND_IMMEDIATE, 8, 0, 0, count as i32 - 1),
        instruction(STORE_WORD, 10, 8, -4, 0),
    ]);
    program.extend(looked_up(parts));
    for (word, offset) in (0..).zip(offsets) {
        program.push(instruction(LOAD_LONG, 3, 0, word * 8, 0));
        program.push(instruction(STORE_LONG, 7, 3, *offset as i16, 0));
    }
    program.push(instruction(MOVE, 1, 6, 0, 0));
    program.extend(map(2, next));
    program
        .extend([instruction(MOVE_IMMEDIATE, 3, 0, 0, 0), instruction(CALL, 0, 0, 0, TAIL_CALL)]);
    program.extend(give_up);
    program
}
