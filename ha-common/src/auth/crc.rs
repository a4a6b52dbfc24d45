//! CRC-32 of IEEE 802.3 (reflected polynomial 0xEDB88320).

use crate::wire::HEADER_WORDS;

/// What each value of a byte does to the checksum.
static TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ 0xedb8_8320 } else { value >> 1 };
            bit += 1;
        }
        table[byte] = value;
        byte += 1;
    }
    table
}

#[inline(always)]
fn step(crc: u32, byte: u8) -> u32 {
    crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)]
}

/// Of the header's words as they stand in memory.
pub(super) fn words(words: &[u64; HEADER_WORDS]) -> u32 {
    let mut crc: u32 = !0;
    for word in words {
        let bytes = u64::from_le(*word);
        for half in [bytes as u32, (bytes >> 32) as u32] {
            // Four bytes at once, so that each index is masked after the exclusive or: kernel 6.1 does not
            // know that one of two bytes is a byte.
            crc ^= half;
            for _ in 0..4 {
                crc = step(crc, 0);
            }
        }
    }
    !crc
}

/// Of a message in parts.
pub(super) fn bytes(parts: &[&[u8]]) -> u32 {
    let all = parts.iter().flat_map(|part| part.iter());
    !all.fold(!0, |crc, byte| step(crc, *byte))
}

/// The first word of the tag field: the checksum in network byte order, then four zeros.
#[inline(always)]
pub(super) fn tag_word(crc: u32) -> u64 {
    u64::from(crc.swap_bytes())
}
