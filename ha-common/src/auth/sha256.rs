//! SHA-256 (FIPS 180-4).

use super::hash::{Hash, Scratch};

/// The hash.
pub(super) struct Sha256;

/// FIPS 180-4 4.2.2: the first 32 bits of the fractional parts of the cube roots of the first 64 primes.
static ROOTS: [u32; 64] = [
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
];

/// The schedule in a ring of 16 words (FIPS 180-4 6.2.2): the word of step `step`, from 16 on.
#[inline(always)]
fn schedule(block: &mut [u32; 16], step: usize) -> u32 {
    let at = |back: usize| (step + 16 - back) & 15;
    let (near, far) = (block[at(2)], block[at(15)]);
    let sigma_1 = near.rotate_right(17) ^ near.rotate_right(19) ^ near >> 10;
    let sigma_0 = far.rotate_right(7) ^ far.rotate_right(18) ^ far >> 3;
    let word = block[step & 15].wrapping_add(sigma_0).wrapping_add(block[at(7)]);
    let word = word.wrapping_add(sigma_1);
    block[step & 15] = word;
    word
}

#[inline(always)]
fn step([a, b, c, d, e, f, g, h]: [u32; 8], word: u32, root: u32) -> [u32; 8] {
    let sum_1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
    let choose = e & f ^ !e & g;
    let first = h.wrapping_add(sum_1).wrapping_add(choose).wrapping_add(root).wrapping_add(word);
    let sum_0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
    let majority = a & b ^ a & c ^ b & c;
    [first.wrapping_add(sum_0.wrapping_add(majority)), a, b, c, d.wrapping_add(first), e, f, g]
}

impl Hash for Sha256 {
    const INITIAL: [u32; 8] = [
        0x6a09_e667,
        0xbb67_ae85,
        0x3c6e_f372,
        0xa54f_f53a,
        0x510e_527f,
        0x9b05_688c,
        0x1f83_d9ab,
        0x5be0_cd19,
    ];
    const WORDS: usize = 8;

    #[inline(always)]
    fn compress(scratch: &mut Scratch) {
        ha_sha256_block(scratch);
    }
}

/// Takes the block into the state. A global function in the kernel, see [`Hash::compress`].
#[inline(never)]
#[cfg_attr(target_arch = "bpf", unsafe(no_mangle))]
extern "C" fn ha_sha256_block(scratch: *mut Scratch) -> u32 {
    // SAFETY: the caller passes a reference.
    let Some(scratch) = (unsafe { scratch.as_mut() }) else { return 0 };
    let block = &mut scratch.block;
    let mut state = scratch.state;
    for number in 0..16 {
        state = step(state, block[number & 15], ROOTS[number & 63]);
    }
    for number in 16..64 {
        let word = schedule(block, number);
        state = step(state, word, ROOTS[number & 63]);
    }
    for (word, more) in scratch.state.iter_mut().zip(state) {
        *word = word.wrapping_add(more);
    }
    1
}
