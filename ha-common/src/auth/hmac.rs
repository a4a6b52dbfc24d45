//! HMAC (RFC 2104): `H(key ^ opad, H(key ^ ipad, message))`, from the states that the two first blocks,
//! which are the key's alone, have made.

use super::Key;
use super::hash::{BLOCK_BYTES, BLOCK_WORDS, Hash, Scratch, Stream, digest};
pub(super) use super::md5::Md5;
pub(super) use super::sha1::Sha1;
pub(super) use super::sha256::Sha256;
use crate::wire::{HEADER_BYTES, HEADER_WORDS};

/// Inner and outer state of a key.
pub(super) fn states<H: Hash>(word: &[u8]) -> [[u32; 8]; 2] {
    let mut block = [0; BLOCK_BYTES];
    if word.len() > BLOCK_BYTES {
        let digest = digest::<H>(word);
        let pairs = digest.as_chunks::<2>().0.iter().take(H::WORDS.div_ceil(2));
        for (chunk, pair) in block.chunks_exact_mut(8).zip(pairs) {
            chunk.copy_from_slice(&H::store(*pair).to_ne_bytes());
        }
    } else {
        block[..word.len()].copy_from_slice(word);
    }
    [0x36, 0x5c].map(|pad| {
        let mut stream = Stream::<H>::resume(H::INITIAL, 0);
        stream.update(&block.map(|byte| byte ^ pad));
        stream.state()
    })
}

/// The first 128 bits of the HMAC of a message in parts, as the little endian words of the tag.
pub(super) fn bytes<H: Hash>(key: &Key, parts: &[&[u8]]) -> [u64; 2] {
    let mut inner = Stream::<H>::resume(key.inner, BLOCK_BYTES as u64);
    for part in parts {
        inner.update(part);
    }
    let digest = inner.finish();
    let mut outer = Stream::<H>::resume(key.outer, BLOCK_BYTES as u64);
    let mut left = H::WORDS;
    for pair in digest.as_chunks::<2>().0 {
        let bytes = H::store(*pair).to_ne_bytes();
        outer.update(&bytes[..left.min(2) * 4]);
        left -= left.min(2);
    }
    tag::<H>(&outer.finish())
}

fn tag<H: Hash>(state: &[u32; 8]) -> [u64; 2] {
    [H::store([state[0], state[1]]), H::store([state[2], state[3]])].map(u64::from_le)
}

/// The same of the header in the scratch: three compressions, two of the header and one of their digest.
pub(super) fn header<H: Hash>(key: &Key, scratch: &mut Scratch) {
    const WHOLE_BLOCK: usize = BLOCK_WORDS / 2;
    const { assert!(HEADER_WORDS == WHOLE_BLOCK + 1) };
    scratch.state = key.inner;
    for pair in 0..WHOLE_BLOCK {
        let [first, second] = H::load(scratch.header[pair]);
        scratch.block[2 * pair] = first;
        scratch.block[2 * pair + 1] = second;
    }
    H::compress(scratch);
    let [first, second] = H::load(scratch.header[WHOLE_BLOCK]);
    scratch.block[0] = first;
    scratch.block[1] = second;
    pad::<H>(scratch, 2, HEADER_BYTES);
    H::compress(scratch);
    for word in 0..H::WORDS {
        scratch.block[word] = scratch.state[word];
    }
    pad::<H>(scratch, H::WORDS, 4 * H::WORDS);
    scratch.state = key.outer;
    H::compress(scratch);
    scratch.tag = tag::<H>(&scratch.state);
}

/// Pads a block that holds so many words and ends a message of so many bytes, which follow the key's
/// block.
#[inline(always)]
fn pad<H: Hash>(scratch: &mut Scratch, words: usize, bytes: usize) {
    scratch.block[words] = H::load(u64::from_ne_bytes([0x80, 0, 0, 0, 0, 0, 0, 0]))[0];
    for word in &mut scratch.block[words + 1..BLOCK_WORDS - 2] {
        // SAFETY: a reference is valid to write to. Volatile, or the compiler calls `memset`, which is a
        // loop over bytes in the kernel.
        unsafe { (&raw mut *word).write_volatile(0) };
    }
    let [first, second] = H::length((BLOCK_BYTES + bytes) as u64 * 8);
    scratch.block[BLOCK_WORDS - 2] = first;
    scratch.block[BLOCK_WORDS - 1] = second;
}
