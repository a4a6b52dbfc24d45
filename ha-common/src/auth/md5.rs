//! MD5 (RFC 1321).

use super::hash::{Hash, Scratch};

/// The hash.
pub(super) struct Md5;

/// RFC 1321 3.4: the integer part of 4294967296 times abs(sin(i)), i in radians from 1.
static SINES: [u32; 64] = [
    0xd76a_a478,
    0xe8c7_b756,
    0x2420_70db,
    0xc1bd_ceee,
    0xf57c_0faf,
    0x4787_c62a,
    0xa830_4613,
    0xfd46_9501,
    0x6980_98d8,
    0x8b44_f7af,
    0xffff_5bb1,
    0x895c_d7be,
    0x6b90_1122,
    0xfd98_7193,
    0xa679_438e,
    0x49b4_0821,
    0xf61e_2562,
    0xc040_b340,
    0x265e_5a51,
    0xe9b6_c7aa,
    0xd62f_105d,
    0x0244_1453,
    0xd8a1_e681,
    0xe7d3_fbc8,
    0x21e1_cde6,
    0xc337_07d6,
    0xf4d5_0d87,
    0x455a_14ed,
    0xa9e3_e905,
    0xfcef_a3f8,
    0x676f_02d9,
    0x8d2a_4c8a,
    0xfffa_3942,
    0x8771_f681,
    0x6d9d_6122,
    0xfde5_380c,
    0xa4be_ea44,
    0x4bde_cfa9,
    0xf6bb_4b60,
    0xbebf_bc70,
    0x289b_7ec6,
    0xeaa1_27fa,
    0xd4ef_3085,
    0x0488_1d05,
    0xd9d4_d039,
    0xe6db_99e5,
    0x1fa2_7cf8,
    0xc4ac_5665,
    0xf429_2244,
    0x432a_ff97,
    0xab94_23a7,
    0xfc93_a039,
    0x655b_59c3,
    0x8f0c_cc92,
    0xffef_f47d,
    0x8584_5dd1,
    0x6fa8_7e4f,
    0xfe2c_e6e0,
    0xa301_4314,
    0x4e08_11a1,
    0xf753_7e82,
    0xbd3a_f235,
    0x2ad7_d2bb,
    0xeb86_d391,
];

/// A round of 16 steps: `mix` is its function, `word` says which word of the block a step takes.
#[inline(always)]
fn round(
    mut state: [u32; 4],
    block: &[u32; 16],
    number: usize,
    rotations: [u32; 4],
    mix: impl Fn(u32, u32, u32) -> u32,
    word: impl Fn(usize) -> usize,
) -> [u32; 4] {
    for quarter in 0..4 {
        for (place, rotation) in rotations.into_iter().enumerate() {
            let step = 16 * number + 4 * quarter + place;
            let [a, b, c, d] = state;
            let sum = a
                .wrapping_add(mix(b, c, d))
                .wrapping_add(block[word(step) & 15])
                .wrapping_add(SINES[step & 63]);
            state = [d, b.wrapping_add(sum.rotate_left(rotation)), b, c];
        }
    }
    state
}

impl Hash for Md5 {
    const INITIAL: [u32; 8] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0, 0, 0, 0];
    const WORDS: usize = 4;

    #[inline(always)]
    fn load(bytes: u64) -> [u32; 2] {
        let word = u64::from_le(bytes);
        [word as u32, (word >> 32) as u32]
    }

    #[inline(always)]
    fn store([first, second]: [u32; 2]) -> u64 {
        (u64::from(second) << 32 | u64::from(first)).to_le()
    }

    #[inline(always)]
    fn length(bits: u64) -> [u32; 2] {
        [bits as u32, (bits >> 32) as u32]
    }

    #[inline(never)]
    fn compress(scratch: &mut Scratch) {
        let [a, b, c, d, ..] = scratch.state;
        let block = &scratch.block;
        let state = [a, b, c, d];
        let state = round(state, block, 0, [7, 12, 17, 22], |b, c, d| b & c | !b & d, |i| i);
        let state = round(state, block, 1, [5, 9, 14, 20], |b, c, d| b & d | c & !d, |i| 5 * i + 1);
        let state = round(state, block, 2, [4, 11, 16, 23], |b, c, d| b ^ c ^ d, |i| 3 * i + 5);
        let state = round(state, block, 3, [6, 10, 15, 21], |b, c, d| c ^ (b | !d), |i| 7 * i);
        for word in 0..4 {
            scratch.state[word] = scratch.state[word].wrapping_add(state[word]);
        }
    }
}
