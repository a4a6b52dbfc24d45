use std::hash::Hasher as _;

use ::hmac::digest::KeyInit;
use ::hmac::{Hmac, Mac};
use proptest::prelude::*;
use siphasher::sip::SipHasher24;

use super::hash::{Hash, digest};
use super::*;
use crate::vectors::{Secret, key as vector_key, secret};
use crate::wire::{FIXED_BYTES, HEADER_BYTES, Header};

/// The tag field of a message by the crates for these hashes.
pub(crate) fn oracle(secret: &Secret, message: &[u8]) -> [u8; TAG_BYTES] {
    fn hmac<M: Mac + KeyInit>(word: &[u8], message: &[u8]) -> Vec<u8> {
        let mut mac = <M as KeyInit>::new_from_slice(word).unwrap();
        mac.update(message);
        mac.finalize().into_bytes().to_vec()
    }
    let bytes = match secret.method {
        method::CRC => crc32fast::hash(message).to_be_bytes().to_vec(),
        method::MD5 => hmac::<Hmac<::md5::Md5>>(&secret.word, message),
        method::SHA1 => hmac::<Hmac<::sha1::Sha1>>(&secret.word, message),
        method::SHA256 => hmac::<Hmac<::sha2::Sha256>>(&secret.word, message),
        _ => {
            let mut hasher = SipHasher24::new_with_key(secret.word.as_slice().try_into().unwrap());
            hasher.write(message);
            hasher.finish().to_le_bytes().to_vec()
        }
    };
    let mut tag = [0; TAG_BYTES];
    let length = bytes.len().min(TAG_BYTES);
    tag[..length].copy_from_slice(&bytes[..length]);
    tag
}

/// One entry of the vectors for each method.
const METHODS: [u8; 5] = [1, 4, 5, 6, 7];

fn fixed(bytes: &[u8; FIXED_BYTES]) -> Fixed {
    Fixed::read(&bytes[..], 0).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hash<H: Hash>(message: &[u8]) -> String {
    let state = digest::<H>(message);
    let bytes = state.as_chunks::<2>().0.iter().flat_map(|pair| H::store(*pair).to_ne_bytes());
    hex(&bytes.take(H::WORDS * 4).collect::<Vec<_>>())
}

fn tag(key: Key, message: &[u8]) -> String {
    hex(&key.tag_of(&[message]))
}

#[test]
fn md5_is_that_of_rfc_1321() {
    // A.5.
    let cases = [
        ("", "d41d8cd98f00b204e9800998ecf8427e"),
        ("a", "0cc175b9c0f1b6a831c399e269772661"),
        ("abc", "900150983cd24fb0d6963f7d28e17f72"),
        ("message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
        ("abcdefghijklmnopqrstuvwxyz", "c3fcd3d76192e4007dfb496cca67e13b"),
        (
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
            "d174ab98d277d9f5a5611c2c9f419d9f",
        ),
        (
            "12345678901234567890123456789012345678901234567890123456789012345678901234567890",
            "57edf4a22be3c955ac49da2e2107b67a",
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(hash::<Md5>(message.as_bytes()), expected, "{message}");
    }
}

const TWO_BLOCKS: &str = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";

#[test]
fn sha1_is_that_of_rfc_3174_and_fips_180() {
    // RFC 3174 7.3; FIPS 180-2 appendix A.
    assert_eq!(hash::<Sha1>(b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
    let expected = "84983e441c3bd26ebaae4aa1f95129e5e54670f1";
    assert_eq!(hash::<Sha1>(TWO_BLOCKS.as_bytes()), expected);
    let expected = "34aa973cd4c4daa4f61eeb2bdbad27316534016f";
    assert_eq!(hash::<Sha1>(&[b'a'; 1_000_000]), expected);
    let expected = "dea356a2cddd90c7a7ecedc5ebb563934f460452";
    let message = "0123456701234567012345670123456701234567012345670123456701234567";
    assert_eq!(hash::<Sha1>(message.repeat(10).as_bytes()), expected);
}

#[test]
fn sha256_is_that_of_fips_180() {
    // FIPS 180-2 appendix B.
    let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(hash::<Sha256>(b"abc"), expected);
    let expected = "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1";
    assert_eq!(hash::<Sha256>(TWO_BLOCKS.as_bytes()), expected);
    let expected = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
    assert_eq!(hash::<Sha256>(&[b'a'; 1_000_000]), expected);
}

/// The cases of RFC 2202 and RFC 4231 1 to 4, 6 and 7 share their shapes; key, message.
fn hmac_cases(bytes: usize, long: usize) -> [(Vec<u8>, Vec<u8>); 5] {
    [
        (vec![0x0b; bytes], b"Hi There".to_vec()),
        (b"Jefe".to_vec(), b"what do ya want for nothing?".to_vec()),
        (vec![0xaa; bytes], vec![0xdd; 50]),
        ((1..=25).collect(), vec![0xcd; 50]),
        (vec![0xaa; long], b"Test Using Larger Than Block-Size Key - Hash Key First".to_vec()),
    ]
}

/// The first 128 bits of each.
fn hmacs(make: fn(&[u8]) -> Key, cases: [(Vec<u8>, Vec<u8>); 5]) -> [String; 5] {
    cases.map(|(word, message)| tag(make(&word), &message))
}

#[test]
fn hmac_md5_is_that_of_rfc_2202() {
    let expected = [
        "9294727a3638bb1c13f48ef8158bfc9d",
        "750c783e6ab0b503eaa86e310a5db738",
        "56be34521d144c88dbb8c733f0e8b3f6",
        "697eaf0aca3a3aea3a75164746ffaa79",
        "6b1ab7fe4bd7bf8f0b62e6ce61b9d0cd",
    ];
    assert_eq!(hmacs(Key::md5, hmac_cases(16, 80)), expected);
    let message = b"Test Using Larger Than Block-Size Key and Larger Than One Block-Size Data";
    assert_eq!(tag(Key::md5(&[0xaa; 80]), message), "6f630fad67cda0ee1fb1f562db3aa53e");
}

#[test]
fn hmac_sha1_is_that_of_rfc_2202() {
    let expected = [
        "b617318655057264e28bc0b6fb378c8e",
        "effcdf6ae5eb2fa2d27416d5f184df9c",
        "125d7342b9ac11cd91a39af48aa17b4f",
        "4c9007f4026250c6bc8414f9bf50c86c",
        "aa4ae5e15272d00e95705637ce8a3b55",
    ];
    assert_eq!(hmacs(Key::sha1, hmac_cases(20, 80)), expected);
    let message = b"Test Using Larger Than Block-Size Key and Larger Than One Block-Size Data";
    assert_eq!(tag(Key::sha1(&[0xaa; 80]), message), "e8e99d0f45237d786d6bbaa7965c7808");
}

#[test]
fn hmac_sha256_is_that_of_rfc_4231() {
    let expected = [
        "b0344c61d8db38535ca8afceaf0bf12b",
        "5bdcc146bf60754e6a042426089575c7",
        "773ea91e36800e46854db8ebd09181a7",
        "82558a389a443c0ea4cc819899f2083a",
        "60e431591ee0b67f0d8a26aacbf5b77f",
    ];
    assert_eq!(hmacs(Key::sha256, hmac_cases(20, 131)), expected);
    // Case 5 is the one that truncates to 128 bits.
    let truncated = tag(Key::sha256(&[0x0c; 20]), b"Test With Truncation");
    assert_eq!(truncated, "a3b6167473100ee06e0c796c2955552b");
}

#[test]
fn the_checksum_is_crc_32_by_its_check_value() {
    // The catalogue of parametrised CRC algorithms: CRC-32/ISO-HDLC, check value.
    assert_eq!(tag(Key::crc(), b"123456789"), "cbf43926000000000000000000000000");
}

#[test]
fn the_hash_is_siphash_2_4_of_the_paper() {
    // Appendix A of the paper: key 00..0f, message 00..0e.
    let key = Key::siphash24(&std::array::from_fn(|number| number as u8));
    let message: Vec<u8> = (0..15).collect();
    let expected = hex(&0xa129_ca61_49be_45e5_u64.to_le_bytes());
    assert_eq!(tag(key, &message), expected + "0000000000000000");
}

fn key_of(method: u32, word: &[u8]) -> (Secret, Key) {
    let mut word = word.to_vec();
    let key = match method {
        method::CRC => Key::crc(),
        method::MD5 => Key::md5(&word),
        method::SHA1 => Key::sha1(&word),
        method::SHA256 => Key::sha256(&word),
        _ => {
            word.resize(16, 0);
            Key::siphash24(word.as_slice().try_into().unwrap())
        }
    };
    (Secret { method, word }, key)
}

proptest! {
    #[test]
    fn tags_of_headers_are_those_of_the_crates(
        method in 1u32..6,
        word in proptest::collection::vec(any::<u8>(), 0..200),
        seed in any::<[u64; 11]>(),
    ) {
        let (secret, key) = key_of(method, &word);
        let mut bytes = [0; FIXED_BYTES];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(seed) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        let mut signed = fixed(&bytes);
        key.sign(&mut signed);
        let expected = oracle(&secret, &bytes[..HEADER_BYTES]);
        prop_assert_eq!(&signed.to_bytes()[HEADER_BYTES..], &expected[..]);
        prop_assert!(key.verify(&signed));
        prop_assert_eq!(key.verify(&fixed(&bytes)), expected == bytes[HEADER_BYTES..]);
    }

    #[test]
    fn tags_of_bodies_are_those_of_the_crates(
        method in 1u32..6,
        word in proptest::collection::vec(any::<u8>(), 0..200),
        body in proptest::collection::vec(any::<u8>(), 0..1200),
    ) {
        let (secret, key) = key_of(method, &word);
        let fixed = fixed(&[0x3c; FIXED_BYTES]);
        let message = [&fixed.to_bytes()[..], &body].concat();
        prop_assert_eq!(key.body_tag(&fixed, &body), oracle(&secret, &message));
    }
}

#[test]
fn every_flipped_bit_is_noticed_by_every_method() {
    for entry in METHODS {
        let key = vector_key(entry);
        let mut signed = fixed(&[0x5a; FIXED_BYTES]);
        key.sign(&mut signed);
        assert!(key.verify(&signed));
        let mut bytes = signed.to_bytes();
        for bit in 0..FIXED_BYTES * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!key.verify(&fixed(&bytes)), "key {entry}, bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn a_body_is_bound_to_its_header_by_every_method() {
    for key in METHODS.map(vector_key) {
        let (mut one, mut two) = (fixed(&[1; FIXED_BYTES]), fixed(&[2; FIXED_BYTES]));
        key.sign(&mut one);
        key.sign(&mut two);
        assert_ne!(key.body_tag(&one, b"body"), key.body_tag(&two, b"body"));
        assert_ne!(key.body_tag(&one, b"body"), key.body_tag(&one, b"bodz"));
    }
}

#[test]
fn offers_tell_key_word_method_and_number_apart() {
    let keys = [Key::sha1(b"one"), Key::sha1(b"two"), Key::md5(b"one"), Key::crc(), vector_key(1)];
    let mut offers: Vec<u32> =
        keys.iter().flat_map(|key| [1, 2].map(|number| key.offer(number))).collect();
    offers.sort_unstable();
    offers.dedup();
    assert_eq!(offers.len(), 2 * keys.len());
    assert_eq!(Key::sha1(b"one").offer(1), Key::sha1(b"one").offer(1));
    assert!(!offers.contains(&0));
}

#[test]
fn neither_word_nor_its_bytes_are_in_a_key() {
    for entry in [1, 3, 5, 6, 7] {
        let (word, key) = (secret(entry).word, vector_key(entry));
        let (siphash, hmac) = (key.siphash.map(u64::to_le_bytes), [key.inner, key.outer].concat());
        for held in [siphash.concat(), hmac.iter().flat_map(|it| it.to_le_bytes()).collect()] {
            assert!(!held.windows(8).any(|window| word.windows(8).any(|it| it == window)));
        }
        assert!(format!("{key:?}").ends_with("state: (hidden) }"));
    }
}

#[test]
fn without_a_key_nothing_is_signed_and_nothing_is_right() {
    let mut signed = fixed(&[0; FIXED_BYTES]);
    Key::default().sign(&mut signed);
    assert_eq!(signed, fixed(&[0; FIXED_BYTES]));
    assert!(!Key::default().verify(&signed));
}

#[test]
fn golden_tags_are_those_of_the_protocols_examples() {
    let word = b"correct-horse-battery-staple";
    // The first half of the word's SHA-256.
    let half = 0x87cb_ebfe_ebc0_5f7c_54ac_9336_c4b4_bbec_u128.to_be_bytes();
    let siphash = Key::siphash24(&half);
    let example = crate::wire::tests::example();
    assert_eq!(siphash.offer(1), example.key_offered);
    let expected = [
        (siphash, "590ef8b2c91912740000000000000000"),
        (Key::crc(), "d3ab7c4b000000000000000000000000"),
        (Key::md5(word), "0340465eca37f3816a46fa88dd91d5cd"),
        (Key::sha1(word), "1b6775e953d737275a65eb80e602df5b"),
        (Key::sha256(word), "bc1076772461be9bd72f2b02a33ca560"),
    ];
    for (key, tag) in expected {
        let mut fixed = example.encode();
        key.sign(&mut fixed);
        assert_eq!(hex(&fixed.to_bytes()[HEADER_BYTES..]), tag, "{key:?}");
    }
    let body = concat!(
        "0101000100000007",
        "1112131415161718",
        "00000009ff000000",
        "0fd9bc9102010000",
        "0000000000000003"
    );
    let body: Vec<u8> = (0..body.len() / 2)
        .map(|at| u8::from_str_radix(&body[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    let state = Header {
        kind: crate::wire::Kind::Control,
        body_bytes: body.len() as u16,
        sequence: 5,
        layers: 0,
        lease_age_ms: 0,
        ..example
    };
    let mut fixed = state.encode();
    siphash.sign(&mut fixed);
    assert_eq!(hex(&fixed.to_bytes()[HEADER_BYTES..]), "d478f1de2d20e06e0000000000000000");
    assert_eq!(hex(&siphash.body_tag(&fixed, &body)), "1a175810d69dc0890000000000000000");
}
