//! Every method of authentication, and keys that an earlier key file had.

use super::frames::{at, changed, damaged, vector, with, with_body};
use super::*;
use crate::wire::FIXED_BYTES;

/// Where the tag of an untagged IPv4 frame begins.
const TAG_AT: usize = at::PAYLOAD + HEADER_BYTES;
/// Where it ends.
const TAG_END: usize = at::PAYLOAD + FIXED_BYTES;

/// A heartbeat that names one key and is signed with another.
fn signed(sequence: u64, number: u8, entry: u8) -> Packet {
    Packet { key: key(entry), ..with(sequence, |it| it.key = number) }
}

/// What is the same for every method; `$sequence` and the next one are taken.
macro_rules! of_method {
    ($method:literal, $number:literal, $sequence:literal) => {
        [
            vector(
                concat!($method, ": right"),
                &signed($sequence, $number, $number),
                Reason::Accepted,
            ),
            vector(
                concat!($method, ": right, over IPv6"),
                &Packet { v6: true, ..signed($sequence + 1, $number, $number) },
                Reason::Accepted,
            ),
            vector(
                concat!($method, ": another key"),
                &signed(99, $number, $number + 100),
                Reason::BadTag,
            ),
            damaged(
                concat!($method, ": altered first byte"),
                &signed(99, $number, $number),
                Reason::BadTag,
                |it| it[TAG_AT] ^= 0x80,
            ),
            damaged(
                concat!($method, ": altered header"),
                &signed(99, $number, $number),
                Reason::BadTag,
                |it| it[TAG_AT - 9] ^= 1,
            ),
            damaged(
                concat!($method, ": altered last byte of the header"),
                &signed(99, $number, $number),
                Reason::BadTag,
                |it| it[TAG_AT - 1] ^= 1,
            ),
            damaged(
                concat!($method, ": altered last byte of the field"),
                &signed(99, $number, $number),
                Reason::BadTag,
                |it| it[TAG_END - 1] ^= 1,
            ),
            damaged(
                concat!($method, ": two bytes only"),
                &signed(99, $number, $number),
                Reason::BadTag,
                |it| it[TAG_AT + 2..TAG_END].fill(0),
            ),
            damaged(
                concat!($method, ": one byte short"),
                &signed(99, $number, $number),
                Reason::Truncated,
                |it| it.truncate(TAG_END - 1),
            ),
        ]
    };
}

/// An HMAC whose tag is cut to 64 bits: RFC 2104 5 allows that, this format does not.
fn cut_hmac(name: &'static str, number: u8) -> Vector {
    damaged(name, &signed(99, number, number), Reason::BadTag, |it| {
        it[TAG_AT + 8..TAG_END].fill(0);
    })
}

pub(super) fn methods() -> Vec<Vector> {
    let mut all = Vec::new();
    all.extend(of_method!("siphash", 3, 26));
    all.extend(of_method!("crc", 4, 28));
    all.extend(of_method!("md5", 5, 30));
    all.extend(of_method!("sha1", 6, 32));
    all.extend(of_method!("sha256", 7, 34));
    all.push(cut_hmac("md5: 8 bytes only", 5));
    all.push(cut_hmac("sha1: 8 bytes only", 6));
    all.push(cut_hmac("sha256: 8 bytes only", 7));
    all.extend(checksums());
    all.extend(other_methods());
    all.extend(bodies());
    all.extend(earlier_keys());
    all.extend(offers());
    all
}

fn checksums() -> Vec<Vector> {
    let padding = |name, offset: usize| {
        damaged(name, &signed(99, 4, 4), Reason::BadTag, move |it| it[TAG_AT + offset] = 1)
    };
    vec![
        padding("crc: first byte behind the checksum", 4),
        padding("crc: byte 8 of the field", 8),
        damaged("crc: last byte of the checksum", &signed(99, 4, 4), Reason::BadTag, |it| {
            it[TAG_AT + 3] ^= 1;
        }),
        damaged("crc: bytes in the other order", &signed(99, 4, 4), Reason::BadTag, |it| {
            it[TAG_AT..TAG_AT + 4].reverse();
        }),
        damaged("crc: zero", &signed(99, 4, 4), Reason::BadTag, |it| {
            it[TAG_AT..TAG_END].fill(0);
        }),
    ]
}

/// Signed by a method that the named key does not have, with the same word where there is one.
fn other_methods() -> Vec<Vector> {
    let by = |name, number: u8, signer: fn(&[u8]) -> Key| {
        let packet = Packet { key: signer(&secret(number).word), ..with(99, |it| it.key = number) };
        vector(name, &packet, Reason::BadTag)
    };
    vec![
        by("sha1 under the number of md5", 5, Key::sha1),
        by("sha256 under the number of sha1", 6, Key::sha256),
        by("md5 under the number of sha256", 7, Key::md5),
        vector("crc under the number of siphash", &signed(99, 3, 4), Reason::BadTag),
        vector("crc under the number of sha256", &signed(99, 7, 4), Reason::BadTag),
        vector("siphash under the number of crc", &signed(99, 4, 3), Reason::BadTag),
    ]
}

fn bodies() -> Vec<Vector> {
    let message = |name, sequence, number| {
        let mut packet = signed(sequence, number, number);
        packet.header.kind = Kind::Control;
        vector(name, &with_body(packet, b"{\"groups\":[]}"), Reason::Control)
    };
    vec![
        message("crc: control", 10, 4),
        message("md5: control", 11, 5),
        message("sha1: control", 12, 6),
        message("sha256: control", 13, 7),
    ]
}

/// Keys of an earlier file: of the same number and method, of another method, of a number that
/// is free now.
fn earlier_keys() -> Vec<Vector> {
    let earlier = |name, sequence, number| {
        vector(name, &signed(sequence, number, EARLIER + number), Reason::Accepted)
    };
    vec![
        earlier("earlier siphash beside siphash", 40, 1),
        earlier("earlier sha1 beside crc", 41, 4),
        earlier("earlier sha256 beside md5", 42, 5),
        earlier("earlier sha1 beside sha1", 43, 6),
        earlier("earlier md5 alone", 44, 9),
        vector("both files' keys: the present one", &signed(45, 1, 1), Reason::Accepted),
        vector("earlier key of another number", &signed(99, 6, EARLIER + 1), Reason::BadTag),
        vector("another key beside an earlier one", &signed(99, 1, 2), Reason::BadTag),
        vector("another key than the earlier one alone", &signed(99, 9, 5), Reason::BadTag),
        vector(
            "entry of an earlier key as number",
            &signed(99, EARLIER + 1, EARLIER + 1),
            Reason::UnknownKey,
        ),
    ]
}

fn offers() -> Vec<Vector> {
    let offer = |name, sequence, offered| {
        let packet = with(sequence, |it| it.key_offered = offered);
        changed(name, &packet, Reason::Accepted, ChangeKind::State)
    };
    let offered = Packet::heartbeat(0).header.key_offered;
    vec![offer("offers another key", 50, 1), offer("offers the first again", 51, offered)]
}
