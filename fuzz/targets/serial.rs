//! The framing of serial lines: any bytes give datagrams of an allowed length, however the line cuts
//! them, and whatever came before, the next frame is understood.
//!
//! The input is taken twice: as the bytes of a line, and as contents, each after its length in one
//! byte, that get the right checksum, which chance would not find.

#![no_main]

use ha_common::wire::{DATAGRAM_BYTES_MAX, FIXED_BYTES};
use ha_daemon::io::serial::framing::{Receiver, datagrams_in, frames, whole};
use libfuzzer_sys::fuzz_target;

/// The frame of a content, with its borders.
fn sealed(content: &[u8]) -> Vec<u8> {
    let plain = [content, &crc32fast::hash(content).to_be_bytes()].concat();
    // Byte stuffing adds one byte for each 254, and the two borders.
    let mut stuffed = vec![0; plain.len() + plain.len() / 254 + 3];
    let length = cobs::try_encode_including_sentinels(&plain, &mut stuffed).expect("it fits");
    stuffed.truncate(length);
    stuffed
}

/// Contents of the input, at most as many as its bytes.
fn contents(mut rest: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    while let Some((length, after)) = rest.split_first() {
        let (content, after) = after.split_at(usize::from(*length).min(after.len()));
        stream.extend(sealed(content));
        rest = after;
    }
    stream
}

fn check(stream: &[u8]) -> Vec<Vec<u8>> {
    let found = datagrams_in(stream);
    assert!(found.iter().all(|it| (1..=DATAGRAM_BYTES_MAX).contains(&it.len())));

    // How a line cuts its bytes makes no difference.
    let mut receiver = Receiver::default();
    let mut cut = Vec::new();
    for bytes in stream.chunks(7) {
        receiver.push(bytes, |datagram| cut.push(datagram.to_vec()));
    }
    assert_eq!(cut, found);
    let counts = receiver.counts();
    assert!(counts.noise_bytes <= stream.len() as u64);
    assert!(counts.broken <= counts.frames && found.len() as u64 <= counts.frames);

    // What came before disturbs no frame that follows: a heartbeat, and a datagram in pieces.
    let (beat, long) = ([0x48; FIXED_BYTES], [0xa5; 3 * FIXED_BYTES]);
    let mut following = Vec::new();
    receiver.push(&whole(&beat).unwrap_or_default(), |it| following.push(it.to_vec()));
    receiver.push(&frames(&long, 1).concat(), |it| following.push(it.to_vec()));
    // The first border may end a frame that the input began.
    assert!(following.ends_with(&[beat.to_vec(), long.to_vec()]));
    found
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    check(&contents(bytes));
    // What is sent is received.
    for datagram in [bytes, &bytes[..bytes.len().min(FIXED_BYTES)]] {
        let expected: Vec<&[u8]> = match datagram.len() {
            1..=DATAGRAM_BYTES_MAX => vec![datagram],
            _ => Vec::new(),
        };
        assert_eq!(check(&frames(datagram, 0).concat()), expected);
    }
});
