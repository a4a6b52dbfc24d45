//! What MD5, SHA-1 and SHA-256 have in common (the construction of Merkle and Damgård): a state, blocks of
//! 64 bytes, and a padding that carries the length.

use crate::wire::HEADER_WORDS;

/// Bytes of a block.
pub(super) const BLOCK_BYTES: usize = 64;
/// Words of a block.
pub(super) const BLOCK_WORDS: usize = BLOCK_BYTES / 4;
/// Where the length begins in the last block.
const LENGTH_AT: usize = BLOCK_BYTES - 8;

/// Working memory of a hash: a map with one value per CPU in the kernel.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Scratch {
    /// The state; of shorter hashes the first words.
    pub(super) state: [u32; 8],
    /// The block that comes next, and while it is compressed the last 16 words of its schedule.
    pub(super) block: [u32; BLOCK_WORDS],
    /// The header's words as they stand in memory.
    pub(super) header: [u64; HEADER_WORDS],
    /// The words of its tag, little endian.
    pub(super) tag: [u64; 2],
}

const _: () = assert!(size_of::<Scratch>() == 184);

/// One of the hashes. What is provided is of those that count bytes from the most significant one.
pub(super) trait Hash {
    /// The state before the first block; of shorter hashes the rest is zero.
    const INITIAL: [u32; 8];
    /// Words of the state, which are the digest.
    const WORDS: usize;

    /// Eight bytes, as they stand in memory, as two words.
    #[inline(always)]
    fn load(bytes: u64) -> [u32; 2] {
        let word = u64::from_be(bytes);
        [(word >> 32) as u32, word as u32]
    }

    /// Two words as eight bytes in memory.
    #[inline(always)]
    fn store([first, second]: [u32; 2]) -> u64 {
        (u64::from(first) << 32 | u64::from(second)).to_be()
    }

    /// The length of a message in bits, as the last two words of its last block.
    #[inline(always)]
    fn length(bits: u64) -> [u32; 2] {
        [(bits >> 32) as u32, bits as u32]
    }

    /// Takes the block into the state.
    ///
    /// Calls a function that is global in the kernel: the verifier looks at such a one by itself and once,
    /// not again at each call, so that the programs load in a third of the time. It demands
    /// that pointers may be null, and that a number is returned.
    fn compress(scratch: &mut Scratch);
}

/// A message that is hashed as it comes, in bytes. (The kernel side hashes words only.)
pub(super) struct Stream<H> {
    scratch: Scratch,
    pending: [u8; BLOCK_BYTES],
    /// Bytes in `pending`; less than a block.
    filled: usize,
    /// Bytes so far.
    length: u64,
    hash: core::marker::PhantomData<H>,
}

impl<H: Hash> Stream<H> {
    /// Goes on from a state that `length` bytes (whole blocks) have made.
    pub(super) fn resume(state: [u32; 8], length: u64) -> Self {
        let scratch = Scratch { state, ..Scratch::default() };
        Self {
            scratch,
            pending: [0; BLOCK_BYTES],
            filled: 0,
            length,
            hash: core::marker::PhantomData,
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        for byte in bytes {
            self.push(*byte);
        }
    }

    fn push(&mut self, byte: u8) {
        self.pending[self.filled] = byte;
        self.filled += 1;
        if self.filled == BLOCK_BYTES {
            self.filled = 0;
            self.compress();
        }
    }

    fn compress(&mut self) {
        let words = self.scratch.block.as_chunks_mut::<2>().0;
        for (pair, bytes) in words.iter_mut().zip(self.pending.as_chunks::<8>().0) {
            *pair = H::load(u64::from_ne_bytes(*bytes));
        }
        H::compress(&mut self.scratch);
    }

    /// The state after whole blocks.
    pub(super) fn state(&self) -> [u32; 8] {
        self.scratch.state
    }

    /// Pads the message; the digest.
    pub(super) fn finish(mut self) -> [u32; 8] {
        let bits = self.length * 8;
        self.push(0x80);
        while self.filled != LENGTH_AT {
            self.push(0);
        }
        for byte in H::store(H::length(bits)).to_ne_bytes() {
            self.push(byte);
        }
        self.scratch.state
    }
}

/// The digest of a message.
pub(super) fn digest<H: Hash>(message: &[u8]) -> [u32; 8] {
    let mut stream = Stream::<H>::resume(H::INITIAL, 0);
    stream.update(message);
    stream.finish()
}
