//! SHA-1 (FIPS 180-4).

use super::hash::{Hash, Scratch};

/// The hash.
pub(super) struct Sha1;

/// The schedule in a ring of 16 words (FIPS 180-4 6.1.3): the word of step `step`.
#[inline(always)]
fn schedule(block: &mut [u32; 16], step: usize) -> u32 {
    let at = |back: usize| (step + 16 - back) & 15;
    let word = block[at(3)] ^ block[at(8)] ^ block[at(14)] ^ block[step & 15];
    let word = word.rotate_left(1);
    block[step & 15] = word;
    word
}

/// Steps of one constant and function; `word` gives a step's word.
#[inline(always)]
fn steps(
    mut state: [u32; 5],
    range: core::ops::Range<usize>,
    constant: u32,
    mix: impl Fn(u32, u32, u32) -> u32,
    mut word: impl FnMut(usize) -> u32,
) -> [u32; 5] {
    for step in range {
        let [a, b, c, d, e] = state;
        let sum = a
            .rotate_left(5)
            .wrapping_add(mix(b, c, d))
            .wrapping_add(e)
            .wrapping_add(constant)
            .wrapping_add(word(step));
        state = [sum, a, b.rotate_left(30), c, d];
    }
    state
}

#[inline(always)]
fn choose(b: u32, c: u32, d: u32) -> u32 {
    b & c ^ !b & d
}

#[inline(always)]
fn parity(b: u32, c: u32, d: u32) -> u32 {
    b ^ c ^ d
}

#[inline(always)]
fn majority(b: u32, c: u32, d: u32) -> u32 {
    b & c ^ b & d ^ c & d
}

impl Hash for Sha1 {
    const INITIAL: [u32; 8] =
        [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0, 0, 0, 0];
    const WORDS: usize = 5;

    #[inline(always)]
    fn compress(scratch: &mut Scratch) {
        ha_sha1_block(scratch);
    }
}

/// Takes the block into the state. A global function in the kernel, see [`Hash::compress`].
#[inline(never)]
#[cfg_attr(target_arch = "bpf", unsafe(no_mangle))]
extern "C" fn ha_sha1_block(scratch: *mut Scratch) -> u32 {
    // SAFETY: the caller passes a reference.
    let Some(scratch) = (unsafe { scratch.as_mut() }) else { return 0 };
    let block = &mut scratch.block;
    let [a, b, c, d, e, ..] = scratch.state;
    let state = [a, b, c, d, e];
    let state = steps(state, 0..16, 0x5a82_7999, choose, |step| block[step & 15]);
    let state = steps(state, 16..20, 0x5a82_7999, choose, |step| schedule(block, step));
    let state = steps(state, 20..40, 0x6ed9_eba1, parity, |step| schedule(block, step));
    let state = steps(state, 40..60, 0x8f1b_bcdc, majority, |step| schedule(block, step));
    let state = steps(state, 60..80, 0xca62_c1d6, parity, |step| schedule(block, step));
    for (word, more) in scratch.state.iter_mut().zip(state) {
        *word = word.wrapping_add(more);
    }
    1
}
