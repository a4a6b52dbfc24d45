//! MD5 (RFC 1321).

use super::hash::{Hash, Scratch};

/// The hash.
pub(super) struct Md5;

/// RFC 1321 3.4: the integer part of 4294967296 times abs(sin(i)), i in radians from 1.
static SINES: [u32; 64] = [
    0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501,
    0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821,
    0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8,
    0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a,
    0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70,
    0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665,
    0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1,
    0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391,
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

    #[inline(always)]
    fn compress(scratch: &mut Scratch) {
        ha_md5_block(scratch);
    }
}

/// Takes the block into the state. A global function in the kernel, see [`Hash::compress`].
#[inline(never)]
#[cfg_attr(target_arch = "bpf", unsafe(no_mangle))]
extern "C" fn ha_md5_block(scratch: *mut Scratch) -> u32 {
    // SAFETY: the caller passes a reference.
    let Some(scratch) = (unsafe { scratch.as_mut() }) else { return 0 };
    let [a, b, c, d, ..] = scratch.state;
    let block = &scratch.block;
    let state = [a, b, c, d];
    let state = round(state, block, 0, [7, 12, 17, 22], |b, c, d| b & c | !b & d, |i| i);
    let state = round(state, block, 1, [5, 9, 14, 20], |b, c, d| b & d | c & !d, |i| 5 * i + 1);
    let state = round(state, block, 2, [4, 11, 16, 23], |b, c, d| b ^ c ^ d, |i| 3 * i + 5);
    let state = round(state, block, 3, [6, 10, 15, 21], |b, c, d| c ^ (b | !d), |i| 7 * i);
    for (word, more) in scratch.state.iter_mut().zip(state) {
        *word = word.wrapping_add(more);
    }
    1
}
