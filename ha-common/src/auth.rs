//! Authentication: keyed tags over the fixed header.
//!
//! SipHash-2-4 (Aumasson, Bernstein: "SipHash: a fast short-input PRF", 2012) with a 128-bit key
//! and a 64-bit tag. The tag field has 16 bytes; the rest of it must be zero, so that a packet has
//! exactly one valid form.

use core::hash::Hasher as _;

use siphasher::sip::SipHasher24;

use crate::wire::{Fixed, HEADER_WORDS, TAG_BYTES};

/// Highest number of key slots; a key's number (0..=15) travels in every packet.
pub const KEYS_MAX: usize = 16;

/// Method numbers as they stand in the `keys` map; 0 = no key in this slot.
pub mod method {
    /// No key.
    pub const NONE: u32 = 0;
    /// SipHash-2-4.
    pub const SIPHASH24: u32 = 1;
}

/// One key, as user space and the kernel (map `keys`) hold it.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Key {
    /// See [`method`].
    pub method: u32,
    /// Zero.
    pub reserved: u32,
    /// First and second half of the key, little endian.
    pub words: [u64; 2],
}

const _: () = assert!(size_of::<Key>() == 24);

impl core::fmt::Debug for Key {
    // A key never appears in a log or an error.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Key {{ method: {}, words: (hidden) }}", self.method)
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
        Self { method: method::SIPHASH24, reserved: 0, words: [half(0), half(8)] }
    }

    /// The tag of the header.
    #[inline(always)]
    #[must_use]
    pub fn tag(&self, fixed: &Fixed) -> u64 {
        siphash24(self.words, fixed.header_words())
    }

    /// Whether the tag field holds the right tag.
    #[inline(always)]
    #[must_use]
    pub fn verify(&self, fixed: &Fixed) -> bool {
        let [tag, padding] = fixed.tag_words();
        // One comparison of whole words: its time tells nothing about how much of a guess was right.
        (self.tag(fixed) ^ tag) | padding == 0
    }

    /// Fills the tag field.
    pub fn sign(&self, fixed: &mut Fixed) {
        fixed.set_tag_words([self.tag(fixed), 0]);
    }

    /// The tag of a body: over the datagram's signed fixed part and the body, so that a body cannot
    /// be moved to another header.
    #[must_use]
    pub fn body_tag(&self, fixed: &Fixed, body: &[u8]) -> [u8; TAG_BYTES] {
        let mut hasher = SipHasher24::new_with_keys(self.words[0], self.words[1]);
        hasher.write(&fixed.to_bytes());
        hasher.write(body);
        let mut tag = [0; TAG_BYTES];
        tag[..8].copy_from_slice(&hasher.finish().to_le_bytes());
        tag
    }
}

/// SipHash-2-4 of the header's words.
///
/// Written out over words for the kernel side: a byte-wise implementation neither fits its stack nor
/// its time. The crate that user space uses for bodies is the oracle in the tests.
#[inline(always)]
fn siphash24(key: [u64; 2], words: [u64; HEADER_WORDS]) -> u64 {
    let mut v = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    let mut block = |word: u64| {
        v[3] ^= word;
        v = sip_round(sip_round(v));
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
    v = sip_round(sip_round(sip_round(sip_round(v))));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline(always)]
fn sip_round([mut a, mut b, mut c, mut d]: [u64; 4]) -> [u64; 4] {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{FIXED_BYTES, HEADER_BYTES};
    use proptest::prelude::*;

    fn reference_key() -> Key {
        let mut secret = [0; 16];
        for (number, byte) in secret.iter_mut().enumerate() {
            *byte = number as u8;
        }
        Key::siphash24(&secret)
    }

    #[test]
    fn the_hash_is_siphash_2_4_of_the_paper() {
        // Appendix A of the paper: key 00..0f, message 00..0e.
        let key = reference_key();
        let mut hasher = SipHasher24::new_with_keys(key.words[0], key.words[1]);
        hasher.write(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
        assert_eq!(hasher.finish(), 0xa129_ca61_49be_45e5);
    }

    fn fixed(bytes: &[u8; FIXED_BYTES]) -> Fixed {
        Fixed::read(&bytes[..], 0).unwrap()
    }

    proptest! {
        #[test]
        fn tags_agree_with_the_siphasher_crate(secret in any::<[u8; 16]>(), seed in any::<[u64; 11]>()) {
            let key = Key::siphash24(&secret);
            let mut bytes = [0; FIXED_BYTES];
            for (chunk, word) in bytes.chunks_exact_mut(8).zip(seed) {
                chunk.copy_from_slice(&word.to_le_bytes());
            }
            let mut hasher = SipHasher24::new_with_key(&secret);
            hasher.write(&bytes[..HEADER_BYTES]);
            prop_assert_eq!(hasher.finish(), key.tag(&fixed(&bytes)));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let key = reference_key();
        let mut signed = fixed(&[0x5a; FIXED_BYTES]);
        key.sign(&mut signed);
        assert!(key.verify(&signed));
        let mut bytes = signed.to_bytes();
        for bit in 0..FIXED_BYTES * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!key.verify(&fixed(&bytes)), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_body_is_bound_to_its_header() {
        let key = reference_key();
        let (mut one, mut two) = (fixed(&[1; FIXED_BYTES]), fixed(&[2; FIXED_BYTES]));
        key.sign(&mut one);
        key.sign(&mut two);
        assert_ne!(key.body_tag(&one, b"body"), key.body_tag(&two, b"body"));
        assert_ne!(key.body_tag(&one, b"body"), key.body_tag(&one, b"bodz"));
    }
}
