//! SipHash-2-4.

use core::hash::Hasher as _;

use siphasher::sip::SipHasher24;

use crate::wire::HEADER_WORDS;

const CONSTANTS: [u64; 4] =
    [0x736f_6d65_7073_6575, 0x646f_7261_6e64_6f6d, 0x6c79_6765_6e65_7261, 0x7465_6462_7974_6573];

/// The state that a key makes.
pub(super) fn state([k0, k1]: [u64; 2]) -> [u64; 4] {
    let [a, b, c, d] = CONSTANTS;
    [k0 ^ a, k1 ^ b, k0 ^ c, k1 ^ d]
}

/// Of a message in parts, from a key's state.
pub(super) fn bytes([v0, v1, _, _]: [u64; 4], parts: &[&[u8]]) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(v0 ^ CONSTANTS[0], v1 ^ CONSTANTS[1]);
    for part in parts {
        hasher.write(part);
    }
    hasher.finish()
}

/// Of the header's words, from a key's state.
///
/// Written out over words for the kernel side: a byte-wise implementation neither fits its stack nor
/// its time. The crate that user space uses for bodies is the oracle in the tests.
#[inline(always)]
pub(super) fn words(mut v: [u64; 4], words: [u64; HEADER_WORDS]) -> u64 {
    let mut block = |word: u64| {
        v[3] ^= word;
        v = round(round(v));
        v[0] ^= word;
    };
    let [a, b, c, d, e, f, g, h, i] = words;
    // Unrolled by hand, so that no loop is left for the verifier to walk.
    block(a);
    block(b);
    block(c);
    block(d);
    block(e);
    block(f);
    block(g);
    block(h);
    block(i);
    // The last block: no bytes are left over, the top byte is the length.
    block((HEADER_WORDS as u64 * 8) << 56);
    v[2] ^= 0xff;
    v = round(round(round(round(v))));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline(always)]
fn round([mut a, mut b, mut c, mut d]: [u64; 4]) -> [u64; 4] {
    a = a.wrapping_add(b);
    b = b.rotate_left(13) ^ a;
    a = a.rotate_left(32);
    c = c.wrapping_add(d);
    d = d.rotate_left(16) ^ c;
    a = a.wrapping_add(d);
    d = d.rotate_left(21) ^ a;
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    c = c.rotate_left(32);
    [a, b, c, d]
}
