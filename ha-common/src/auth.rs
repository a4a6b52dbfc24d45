//! Authentication: keyed tags over the fixed header, and over bodies.
//!
//! | method | tag |
//! |---|---|
//! | `siphash` | SipHash-2-4 (Aumasson, Bernstein: "SipHash: a fast short-input PRF", 2012), 64 bits |
//! | `sha256`, `sha1`, `md5` | HMAC (RFC 2104) with SHA-256, SHA-1 (FIPS 180-4) or MD5 (RFC 1321), the first 128 bits |
//! | `crc` | CRC-32 (IEEE 802.3), no key: it keeps noise out, not an attacker |
//!
//! The tag field has 16 bytes; what a tag leaves of it must be zero, so that a packet has exactly one
//! valid form. One implementation serves the kernel and user space. It is written out over
//! words: the crates for these hashes, which the tests take as oracles, overflow the 512 bytes of
//! the kernel's stack. A [`Key`] holds what can be computed beforehand and never the key word.

use crate::judge::Tables;
use crate::reason::Reason;
use crate::wire::{Fixed, TAG_BYTES};

mod crc;
mod hash;
mod hmac;
mod md5;
mod sha1;
mod sha256;
mod siphash;
#[cfg(test)]
pub(crate) mod tests;

pub use hash::Scratch;
use hmac::{Md5, Sha1, Sha256};

/// Highest number of keys of one key file; a key's number (0..=15) travels in every packet.
pub const KEYS_MAX: usize = 16;
/// Entries of the key table: `number` is the key of the file, `KEYS_MAX + number` one of the
/// same number that an earlier file had and that peers may still sign with.
pub const KEY_ENTRIES: usize = 2 * KEYS_MAX;

/// Method numbers as they stand in the `keys` map; 0 = no key in this entry.
pub mod method {
    /// No key.
    pub const NONE: u32 = 0;
    /// SipHash-2-4.
    pub const SIPHASH24: u32 = 1;
    /// CRC-32, no key.
    pub const CRC: u32 = 2;
    /// HMAC-MD5.
    pub const MD5: u32 = 3;
    /// HMAC-SHA-1.
    pub const SHA1: u32 = 4;
    /// HMAC-SHA-256.
    pub const SHA256: u32 = 5;
}

/// What [`Key::offer`] hashes before method and number. No datagram is as short, so a fingerprint
/// is no tag of anything.
const OFFER_DOMAIN: &[u8] = b"ha: the key that this node offers\0";

/// One key, as user space and the kernel (map `keys`) hold it: computed from the key word, which
/// cannot be computed from it.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Key {
    /// See [`method`].
    pub method: u32,
    /// Zero.
    pub reserved: u32,
    /// SipHash: the state that its 128-bit key makes. Else zero.
    siphash: [u64; 4],
    /// HMAC: the hash's state after the key xor 0x36.. (RFC 2104: ipad). Else zero.
    inner: [u32; 8],
    /// HMAC: the hash's state after the key xor 0x5c.. (opad). Else zero.
    outer: [u32; 8],
}

const _: () = assert!(size_of::<Key>() == 104);

impl core::fmt::Debug for Key {
    // A key never appears in a log or an error.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Key {{ method: {}, state: (hidden) }}", self.method)
    }
}

impl Key {
    /// A SipHash-2-4 key.
    #[must_use]
    pub fn siphash24(secret: &[u8; 16]) -> Self {
        let half = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&secret[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let siphash = siphash::state([half(0), half(8)]);
        Self { method: method::SIPHASH24, siphash, ..Self::default() }
    }

    /// No key: a checksum.
    #[must_use]
    pub fn crc() -> Self {
        Self { method: method::CRC, ..Self::default() }
    }

    /// An HMAC-MD5 key; one that is longer than a block (64 bytes) is hashed first (RFC 2104 2).
    #[must_use]
    pub fn md5(word: &[u8]) -> Self {
        Self::hmac(method::MD5, hmac::states::<Md5>(word))
    }

    /// An HMAC-SHA-1 key, likewise.
    #[must_use]
    pub fn sha1(word: &[u8]) -> Self {
        Self::hmac(method::SHA1, hmac::states::<Sha1>(word))
    }

    /// An HMAC-SHA-256 key, likewise.
    #[must_use]
    pub fn sha256(word: &[u8]) -> Self {
        Self::hmac(method::SHA256, hmac::states::<Sha256>(word))
    }

    fn hmac(method: u32, [inner, outer]: [[u32; 8]; 2]) -> Self {
        Self { method, inner, outer, ..Self::default() }
    }

    /// The words of the tag field, little endian. `None` when there is no key, or no scratch.
    #[inline(always)]
    fn tag_words<W: Workspace>(&self, fixed: &Fixed, workspace: &W) -> Option<[u64; 2]> {
        match self.method {
            method::NONE => None,
            // The default comes first and needs no scratch.
            method::SIPHASH24 => Some([siphash::words(self.siphash, fixed.header_words()), 0]),
            _ => workspace.with_scratch(|scratch| {
                scratch.header = fixed.header_in_memory();
                self.tag_scratch(scratch);
                scratch.tag
            }),
        }
    }

    /// The tag of the header in the scratch. In the kernel this is a function of its own: what it needs
    /// would not fit on the stack of the program that calls it. Not `cold`: it would go to another
    /// section, where it has an address that a function of `.text` has, and aya-obj 0.3 takes
    /// functions of one address for the same.
    #[inline(never)]
    fn tag_scratch(&self, scratch: &mut Scratch) {
        match self.method {
            method::CRC => scratch.tag = [crc::tag_word(crc::words(&scratch.header)), 0],
            method::MD5 => hmac::header::<Md5>(self, scratch),
            method::SHA1 => hmac::header::<Sha1>(self, scratch),
            method::SHA256 => hmac::header::<Sha256>(self, scratch),
            _ => scratch.tag = [0, 0],
        }
    }

    #[inline(always)]
    fn is_right<W: Workspace>(&self, fixed: &Fixed, workspace: &W) -> bool {
        let Some([low, high]) = self.tag_words(fixed, workspace) else { return false };
        let [low_there, high_there] = fixed.tag_words();
        // One comparison of whole words: its time tells nothing about how much of a guess was right.
        (low ^ low_there) | (high ^ high_there) == 0
    }

    /// Whether the tag field holds the right tag.
    #[must_use]
    pub fn verify(&self, fixed: &Fixed) -> bool {
        self.is_right(fixed, &OwnStack)
    }

    /// Fills the tag field. Without a key it stays as it is.
    pub fn sign(&self, fixed: &mut Fixed) {
        self.sign_in(fixed, &OwnStack);
    }

    /// The same with memory of the caller's; `false`: there is no key, or no memory.
    #[inline(always)]
    pub(crate) fn sign_in<W: Workspace>(&self, fixed: &mut Fixed, workspace: &W) -> bool {
        let Some(words) = self.tag_words(fixed, workspace) else { return false };
        fixed.set_tag_words(words);
        true
    }

    /// The tag of a message in parts; zero when there is no key.
    fn tag_of(&self, parts: &[&[u8]]) -> [u8; TAG_BYTES] {
        let words = match self.method {
            method::SIPHASH24 => [siphash::bytes(self.siphash, parts), 0],
            method::CRC => [crc::tag_word(crc::bytes(parts)), 0],
            method::MD5 => hmac::bytes::<Md5>(self, parts),
            method::SHA1 => hmac::bytes::<Sha1>(self, parts),
            method::SHA256 => hmac::bytes::<Sha256>(self, parts),
            _ => [0, 0],
        };
        let mut tag = [0; TAG_BYTES];
        for (chunk, word) in tag.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        tag
    }

    /// The tag of a body: over the datagram's signed fixed part and the body, so that a body cannot
    /// be moved to another header.
    #[must_use]
    pub fn body_tag(&self, fixed: &Fixed, body: &[u8]) -> [u8; TAG_BYTES] {
        self.tag_of(&[&fixed.to_bytes(), body])
    }

    /// The fingerprint by which a node says in its heartbeats that it accepts this key, under
    /// this number, and would sign with it; never 0.
    #[must_use]
    pub fn offer(&self, number: u8) -> u32 {
        let tag = self.tag_of(&[OFFER_DOMAIN, &[self.method as u8, number]]);
        u32::from_be_bytes([tag[0], tag[1], tag[2], tag[3]]).max(1)
    }
}

/// Finds the key of that number that made the tag: that of the key file, else the one that an
/// earlier file had. Gives its entry in the key table.
///
/// # Errors
/// There is no such key, or the tag is wrong.
#[inline(always)]
pub fn authenticate<T: Tables>(tables: &T, number: u8, fixed: &Fixed) -> Result<u32, Reason> {
    if usize::from(number) >= KEYS_MAX {
        return Err(Reason::UnknownKey);
    }
    let mut reason = Reason::UnknownKey;
    // A loop of two, which stays one: written out twice it would double the kernel's program. It is counted
    // by constants: kernel 6.1 tells one round from the next by numbers that a known branch depends
    // on, and takes a call in both for an endless loop otherwise.
    let mut round = 0;
    loop {
        let entry = u32::from(number) + round * KEYS_MAX as u32;
        if let Some(key) = tables.key(entry) {
            if key.is_right(fixed, tables) {
                return Ok(entry);
            }
            reason = Reason::BadTag;
        }
        if round > 0 {
            return Err(reason);
        }
        round += 1;
    }
}

/// The memory that hashing needs beside the stack, which has 512 bytes in the kernel.
pub trait Workspace {
    /// Does `work` with a scratch that nobody else uses meanwhile. `None` when there is none.
    fn with_scratch<R>(&self, work: impl FnOnce(&mut Scratch) -> R) -> Option<R>;
}

/// The stack of user space, which is large enough.
#[derive(Debug, Clone, Copy, Default)]
pub struct OwnStack;

impl Workspace for OwnStack {
    fn with_scratch<R>(&self, work: impl FnOnce(&mut Scratch) -> R) -> Option<R> {
        Some(work(&mut Scratch::default()))
    }
}
