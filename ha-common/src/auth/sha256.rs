//! SHA-256 (FIPS 180-4).

use super::hash::{Hash, Scratch, load_big, store_big};

/// The hash.
pub(super) struct Sha256;

/// FIPS 180-4 4.2.2: the first 32 bits of the fractional parts of the cube roots of the first 64 primes.
static ROOTS: [u32; 64] = [
    0x428a_2f98,
    0x7137_4491,
    0xb5c0_fbcf,
    0xe9b5_dba5,
    0x3956_c25b,
    0x59f1_11f1,
    0x923f_82a4,
    0xab1c_5ed5,
    0xd807_aa98,
    0x1283_5b01,
    0x2431_85be,
    0x550c_7dc3,
    0x72be_5d74,
    0x80de_b1fe,
    0x9bdc_06a7,
    0xc19b_f174,
    0xe49b_69c1,
    0xefbe_4786,
    0x0fc1_9dc6,
    0x240c_a1cc,
    0x2de9_2c6f,
    0x4a74_84aa,
    0x5cb0_a9dc,
    0x76f9_88da,
    0x983e_5152,
    0xa831_c66d,
    0xb003_27c8,
    0xbf59_7fc7,
    0xc6e0_0bf3,
    0xd5a7_9147,
    0x06ca_6351,
    0x1429_2967,
    0x27b7_0a85,
    0x2e1b_2138,
    0x4d2c_6dfc,
    0x5338_0d13,
    0x650a_7354,
    0x766a_0abb,
    0x81c2_c92e,
    0x9272_2c85,
    0xa2bf_e8a1,
    0xa81a_664b,
    0xc24b_8b70,
    0xc76c_51a3,
    0xd192_e819,
    0xd699_0624,
    0xf40e_3585,
    0x106a_a070,
    0x19a4_c116,
    0x1e37_6c08,
    0x2748_774c,
    0x34b0_bcb5,
    0x391c_0cb3,
    0x4ed8_aa4a,
    0x5b9c_ca4f,
    0x682e_6ff3,
    0x748f_82ee,
    0x78a5_636f,
    0x84c8_7814,
    0x8cc7_0208,
    0x90be_fffa,
    0xa450_6ceb,
    0xbef9_a3f7,
    0xc671_78f2,
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
    fn load(bytes: u64) -> [u32; 2] {
        load_big(bytes)
    }

    #[inline(always)]
    fn store(words: [u32; 2]) -> u64 {
        store_big(words)
    }

    #[inline(always)]
    fn length(bits: u64) -> [u32; 2] {
        [(bits >> 32) as u32, bits as u32]
    }

    #[inline(never)]
    fn compress(scratch: &mut Scratch) {
        let block = &mut scratch.block;
        let mut state = scratch.state;
        for number in 0..16 {
            state = step(state, block[number & 15], ROOTS[number & 63]);
        }
        for number in 16..64 {
            let word = schedule(block, number);
            state = step(state, word, ROOTS[number & 63]);
        }
        for word in 0..8 {
            scratch.state[word] = scratch.state[word].wrapping_add(state[word]);
        }
    }
}
