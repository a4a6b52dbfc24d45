use super::*;
use proptest::prelude::*;

/// The example of docs/protocol.md.
pub(crate) fn example() -> Header {
    Header {
        kind: Kind::Heartbeat,
        cluster: name_id("shop"),
        sender: name_id("alpha"),
        receiver: name_id("beta"),
        link: name_id("hb0"),
        key: 1,
        way: Way::None,
        body_bytes: 0,
        incarnation: 0x0102_0304_0506_0708,
        echo: 0x1112_1314_1516_1718,
        sequence: 42,
        sent_ns: 1_000_000_000,
        keepalive_us: 10_000,
        generation: 7,
        phase: Phase::Active,
        layers: layers::LINK | layers::KERNEL | layers::DAEMON | layers::SERVICE,
        lease_age_ms: 3,
        // Key 1 of the word "correct-horse-battery-staple".
        key_offered: 0xd613_1631,
    }
}

#[test]
fn golden_bytes_pin_the_layout() {
    let hex: String =
        example().encode().to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let golden = concat!(
        "48410101",
        "a847e0a9",
        "5d8b6dab",
        "af81e4c7", // magic, cluster, sender, receiver
        "48bbcd8d",
        "01000000",
        "0102030405060708", // link, key, body, incarnation
        "1112131415161718",
        "000000000000002a", // echo, sequence
        "000000003b9aca00",
        "00002710",
        "00000007", // sent, keepalive, generation
        "020f0003",
        "d6131631",                         // phase, layers, lease, key offered
        "00000000000000000000000000000000", // tag
    );
    assert_eq!(hex, golden);
}

#[test]
fn golden_bytes_pin_probe_and_answer() {
    let probe = Header { kind: Kind::Probe, way: Way::Tc, ..example() }.encode().to_bytes();
    assert_eq!(probe[..4], [0x48, 0x41, 1, 3]);
    assert_eq!(probe[20..24], [1, 2, 0, 0], "key, way, body length");
    let answer = Header { kind: Kind::Answer, way: Way::Socket, ..example() }.encode().to_bytes();
    assert_eq!(answer[..4], [0x48, 0x41, 1, 4]);
    assert_eq!(answer[20..24], [1, 3, 0, 0]);
    assert_eq!([Way::None as u8, Way::Xdp as u8], [0, 1]);
}

#[test]
fn name_ids_are_fnv_1a() {
    // Published vectors of FNV-1a (32 bits), draft-eastlake-fnv appendix C.
    assert_eq!(name_id(""), 0x811c_9dc5);
    assert_eq!(name_id("a"), 0xe40c_292c);
    assert_eq!(name_id("foobar"), 0xbf9c_f968);
}

#[test]
fn another_magic_version_or_kind_is_refused() {
    for (at, error) in
        [(0, HeaderError::Version), (2, HeaderError::Version), (3, HeaderError::Kind)]
    {
        let mut bytes = example().encode().to_bytes();
        bytes[at] = 0x7f;
        assert_eq!(Header::decode(&Fixed::read(&bytes[..], 0).unwrap()), Err(error));
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(numbers in any::<[u64; 4]>(), words in any::<[u32; 7]>(),
                                  key in 0u8..16, body in any::<u16>(), lease in any::<u16>(),
                                  bits in any::<u8>(), kind in 1u8..5) {
        let header = Header {
            kind: Kind::from_wire(kind).unwrap(),
            cluster: words[0], sender: words[1], receiver: words[2], link: words[3],
            key, way: Way::from_wire(bits % 4), body_bytes: body,
            incarnation: numbers[0], echo: numbers[1], sequence: numbers[2], sent_ns: numbers[3],
            keepalive_us: words[4], generation: words[5],
            phase: Phase::from_wire(bits % 5), layers: bits, lease_age_ms: lease,
            key_offered: words[6],
        };
        prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn an_unknown_way_counts_as_not_said(way in 4u8..) {
        let mut bytes = example().encode().to_bytes();
        bytes[21] = way;
        prop_assert_eq!(Header::decode(&Fixed::read(&bytes[..], 0).unwrap()), Ok(example()));
    }
}
