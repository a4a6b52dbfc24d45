//! Framing of datagrams on a serial line: pure, no I/O. `docs/protocol.md`, Serial lines, is its
//! specification.
//!
//! A frame is `00 | COBS(content | CRC-32) | 00`. Byte stuffing keeps zero out of a frame, so a zero
//! is always a border, and whoever has lost track, after noise or half a frame, is right again with
//! the next one. The checksum tells noise from forgeries, which is for the counters only: whether a
//! datagram is believed is decided by its tag.
//!
//! A heartbeat is one frame. A longer datagram goes in pieces, each about as long as a heartbeat, so
//! that heartbeats go in between.

use ha_common::wire::{DATAGRAM_BYTES_MAX, FIXED_BYTES};

/// What separates frames.
const BORDER: u8 = 0;
/// First byte of the content: a whole datagram follows.
const WHOLE: u8 = 1;
/// First byte of the content: number of the message, position of the piece, number of pieces, and a
/// piece of a datagram follow.
const PIECE: u8 = 2;
/// Length of what precedes a piece.
const PIECE_HEAD_BYTES: usize = 4;
/// CRC-32 (IEEE 802.3), big endian.
const CHECKSUM_BYTES: usize = 4;
/// Longest piece of a datagram: a heartbeat's length, so that none waits for longer than for another
/// heartbeat.
pub const PIECE_BYTES_MAX: usize = FIXED_BYTES;
/// Most pieces of a datagram.
const PIECES_MAX: usize = DATAGRAM_BYTES_MAX.div_ceil(PIECE_BYTES_MAX);
/// Longest content with its checksum.
const CONTENT_BYTES_MAX: usize = 1 + DATAGRAM_BYTES_MAX + CHECKSUM_BYTES;
/// Longest frame between its borders; what is longer is noise.
pub const STUFFED_BYTES_MAX: usize = stuffed_bytes(CONTENT_BYTES_MAX);

/// Bytes that a heartbeat takes on the line, borders included. Exact: the length of a frame does not
/// depend on what is in it.
pub const HEARTBEAT_FRAME_BYTES: usize = whole_frame_bytes(FIXED_BYTES);
/// Bytes that the longest piece takes on the line, borders included.
pub const PIECE_FRAME_BYTES_MAX: usize =
    2 + stuffed_bytes(PIECE_HEAD_BYTES + PIECE_BYTES_MAX + CHECKSUM_BYTES);
const _: () = assert!(PIECE_FRAME_BYTES_MAX <= HEARTBEAT_FRAME_BYTES + 3, "about a heartbeat");

/// Bytes that a whole datagram of that length takes on the line in one frame, borders included.
#[must_use]
pub const fn whole_frame_bytes(datagram_bytes: usize) -> usize {
    2 + stuffed_bytes(1 + datagram_bytes + CHECKSUM_BYTES)
}

/// COBS adds one byte, and one for each 254 that come without a zero.
const fn stuffed_bytes(bytes: usize) -> usize {
    bytes + 1 + bytes / 254
}

/// A whole datagram as one frame with its borders; `None` when it is empty or longer than any
/// datagram.
#[must_use]
pub fn whole(datagram: &[u8]) -> Option<Vec<u8>> {
    if datagram.is_empty() || datagram.len() > DATAGRAM_BYTES_MAX {
        return None;
    }
    Some(frame(&[&[WHOLE], datagram]))
}

/// The frames of a datagram in the order in which they have to be sent: one for a heartbeat, pieces
/// for what is longer. `message` tells the pieces of one datagram from those of the next. None when
/// it is empty or longer than any datagram.
#[must_use]
pub fn frames(datagram: &[u8], message: u8) -> Vec<Vec<u8>> {
    if datagram.len() <= PIECE_BYTES_MAX {
        return whole(datagram).into_iter().collect();
    }
    if datagram.len() > DATAGRAM_BYTES_MAX {
        return Vec::new();
    }
    let pieces = datagram.chunks(PIECE_BYTES_MAX);
    let count = pieces.len() as u8;
    (0..).zip(pieces).map(|(at, piece)| frame(&[&[PIECE, message, at, count], piece])).collect()
}

fn frame(content: &[&[u8]]) -> Vec<u8> {
    let mut plain = content.concat();
    plain.extend(crc32fast::hash(&plain).to_be_bytes());
    // `stuffed_bytes` is never less than what cobs itself asks for; a property test holds them
    // together.
    let mut stuffed = vec![BORDER; 2 + stuffed_bytes(plain.len())];
    let length = cobs::try_encode_including_sentinels(&plain, &mut stuffed).unwrap_or(0);
    stuffed.truncate(length);
    stuffed
}

/// What a receiver has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Frames that were right.
    pub frames: u64,
    /// What stood between two borders and was no frame.
    pub bad_frames: u64,
    /// Bytes of those.
    pub noise_bytes: u64,
    /// Datagrams of which a piece was missing.
    pub broken: u64,
}

/// Finds datagrams in a stream of bytes.
#[derive(Debug)]
pub struct Receiver {
    /// Bytes since the last border, at most [`STUFFED_BYTES_MAX`].
    run: Vec<u8>,
    /// The run is longer than any frame: noise up to the next border.
    overlong: bool,
    pieces: Pieces,
    counts: Counts,
}

/// A datagram of which pieces are still to come.
#[derive(Debug, Default)]
struct Pieces {
    message: u8,
    next: u8,
    count: u8,
    datagram: Vec<u8>,
}

impl Default for Receiver {
    fn default() -> Self {
        let run = Vec::with_capacity(STUFFED_BYTES_MAX);
        let datagram = Vec::with_capacity(PIECES_MAX * PIECE_BYTES_MAX);
        let pieces = Pieces { datagram, ..Pieces::default() };
        Self { run, overlong: false, pieces, counts: Counts::default() }
    }
}

impl Receiver {
    /// Takes the next bytes of the line, however they were cut; calls `deliver` with every datagram
    /// that is complete with them.
    pub fn push(&mut self, bytes: &[u8], mut deliver: impl FnMut(&[u8])) {
        for byte in bytes {
            if *byte == BORDER {
                self.border(&mut deliver);
            } else if self.overlong {
                self.counts.noise_bytes += 1;
            } else if self.run.len() == STUFFED_BYTES_MAX {
                self.counts.noise_bytes += 1 + self.run.len() as u64;
                self.counts.bad_frames += 1;
                self.run.clear();
                self.overlong = true;
            } else {
                self.run.push(*byte);
            }
        }
    }

    /// Forgets what is incomplete: the line was interrupted.
    pub fn restart(&mut self) {
        self.border(&mut |_| {});
        self.pieces.drop_incomplete(&mut self.counts);
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn border(&mut self, deliver: &mut impl FnMut(&[u8])) {
        self.overlong = false;
        if self.run.is_empty() {
            return;
        }
        let length = self.run.len() as u64;
        let content = unstuffed(&mut self.run);
        let understood = content.is_some_and(|it| self.pieces.take(it, deliver, &mut self.counts));
        if understood {
            self.counts.frames += 1;
        } else {
            self.counts.bad_frames += 1;
            self.counts.noise_bytes += length;
        }
        self.run.clear();
    }
}

/// The content of a frame whose checksum is right.
fn unstuffed(run: &mut [u8]) -> Option<&[u8]> {
    let length = cobs::decode_in_place(run).ok()?;
    let (content, checksum) = run.get(..length)?.split_last_chunk::<CHECKSUM_BYTES>()?;
    (crc32fast::hash(content).to_be_bytes() == *checksum).then_some(content)
}

impl Pieces {
    /// Whether the content is one of this version's.
    fn take(
        &mut self,
        content: &[u8],
        deliver: &mut impl FnMut(&[u8]),
        counts: &mut Counts,
    ) -> bool {
        match content {
            [WHOLE, datagram @ ..] => {
                let fits = !datagram.is_empty() && datagram.len() <= DATAGRAM_BYTES_MAX;
                if fits {
                    deliver(datagram);
                }
                fits
            }
            [PIECE, message, at, count, piece @ ..] => {
                let fits = at < count
                    && usize::from(*count) <= PIECES_MAX
                    && (1..=PIECE_BYTES_MAX).contains(&piece.len());
                if fits {
                    self.piece((*message, *at, *count), piece, deliver, counts);
                }
                fits
            }
            _ => false,
        }
    }

    fn piece(
        &mut self,
        (message, at, count): (u8, u8, u8),
        piece: &[u8],
        deliver: &mut impl FnMut(&[u8]),
        counts: &mut Counts,
    ) {
        if at == 0 {
            self.drop_incomplete(counts);
            (self.message, self.count) = (message, count);
        }
        if (message, at, count) != (self.message, self.next, self.count) {
            // A piece before it was lost. Those that follow have nothing to continue.
            self.drop_incomplete(counts);
            return;
        }
        self.datagram.extend_from_slice(piece);
        self.next += 1;
        if self.next == self.count {
            if self.datagram.len() <= DATAGRAM_BYTES_MAX {
                deliver(&self.datagram);
            }
            self.clear();
        }
    }

    fn drop_incomplete(&mut self, counts: &mut Counts) {
        if self.next != 0 {
            counts.broken += 1;
        }
        self.clear();
    }

    fn clear(&mut self) {
        (self.next, self.count) = (0, 0);
        self.datagram.clear();
    }
}

/// All datagrams in a stream that begins with these bytes. Any input will do: this is what the fuzz
/// target of the serial framing calls.
#[must_use]
pub fn datagrams_in(stream: &[u8]) -> Vec<Vec<u8>> {
    let mut receiver = Receiver::default();
    let mut found = Vec::new();
    receiver.push(stream, |datagram| found.push(datagram.to_vec()));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::num::u8::ANY;
    use proptest::prelude::*;

    fn line(datagrams: &[Vec<u8>]) -> Vec<u8> {
        let numbered = (0..).zip(datagrams);
        numbered.flat_map(|(number, it)| frames(it, number).concat()).collect()
    }

    #[test]
    fn frames_have_the_bytes_of_the_protocol() {
        let body = [&[0x00, 0x5e, 0x01][..], &[0x55; 88], &[0x74, 0x5c, 0x16, 0xa2, 0x00]].concat();
        assert_eq!(whole(&[0x55; 88]).unwrap(), body);
        // CRC-32 of 01 48 00 41 by Python's zlib.crc32.
        let expected = [0x00, 0x03, 0x01, 0x48, 0x06, 0x41, 0xe6, 0xaa, 0x15, 0x07, 0x00];
        assert_eq!(whole(&[0x48, 0x00, 0x41]).unwrap(), expected);
    }

    #[test]
    fn a_heartbeat_takes_96_bytes_whatever_is_in_it() {
        assert_eq!(HEARTBEAT_FRAME_BYTES, 96);
        for fill in [0, 1, 0xff] {
            assert_eq!(whole(&[fill; FIXED_BYTES]).unwrap().len(), HEARTBEAT_FRAME_BYTES);
        }
    }

    #[test]
    fn a_long_datagram_goes_in_pieces_of_a_heartbeats_length() {
        let datagram = vec![0xa5; DATAGRAM_BYTES_MAX];
        let frames = frames(&datagram, 7);
        assert_eq!(frames.len(), PIECES_MAX);
        assert!(frames.iter().all(|it| it.len() <= PIECE_FRAME_BYTES_MAX));
        assert_eq!(datagrams_in(&frames.concat()), [datagram]);
    }

    #[test]
    fn heartbeats_between_pieces_disturb_nothing() {
        let (long, beat) = (vec![3; 300], vec![9; FIXED_BYTES]);
        let mut stream = Vec::new();
        for piece in frames(&long, 1) {
            stream.extend(piece);
            stream.extend(whole(&beat).unwrap());
        }
        let expected = [beat.clone(), beat.clone(), beat.clone(), long, beat];
        assert_eq!(datagrams_in(&stream), expected);
    }

    #[test]
    fn a_message_with_a_missing_piece_is_dropped_and_counted_once() {
        let long = vec![3; 5 * PIECE_BYTES_MAX];
        for missing in 0..5 {
            let mut stream = frames(&long, 1);
            stream.remove(missing);
            stream.extend(frames(&long, 2));
            let mut receiver = Receiver::default();
            let mut found = Vec::new();
            receiver.push(&stream.concat(), |it| found.push(it.to_vec()));
            assert_eq!(found, std::slice::from_ref(&long), "without piece {missing}");
            // Without its first piece nothing was begun.
            assert_eq!(receiver.counts().broken, u64::from(missing != 0));
            assert_eq!(receiver.counts().bad_frames, 0);
        }
    }

    #[test]
    fn noise_is_counted_and_endless_noise_takes_no_memory() {
        let mut receiver = Receiver::default();
        receiver.push(&[7; 3 * STUFFED_BYTES_MAX], |_| panic!("noise is no datagram"));
        assert_eq!(receiver.counts().noise_bytes, 3 * STUFFED_BYTES_MAX as u64);
        assert_eq!(receiver.counts().bad_frames, 1);
        assert!(receiver.run.capacity() < 2 * STUFFED_BYTES_MAX);
        let mut found = 0;
        receiver.push(&whole(b"datagram").unwrap(), |_| found += 1);
        assert_eq!((found, receiver.counts().frames), (1, 1));
    }

    #[test]
    fn what_is_too_long_or_empty_is_no_frame() {
        assert!(whole(&[]).is_none() && frames(&[], 0).is_empty());
        let long = vec![1; DATAGRAM_BYTES_MAX + 1];
        assert!(whole(&long).is_none() && frames(&long, 0).is_empty());
        assert!(datagrams_in(&frame(&[&[WHOLE], &long])).is_empty());
        assert!(datagrams_in(&frame(&[&[PIECE, 0, 0, 1]])).is_empty());
        assert!(datagrams_in(&frame(&[&[PIECE, 0, 1, 1], b"piece"])).is_empty());
        assert!(datagrams_in(&frame(&[&[3], b"of a later version"])).is_empty());
    }

    proptest! {
        #[test]
        fn no_stream_panics(stream in vec(ANY, 0..4_000)) {
            let mut receiver = Receiver::default();
            receiver.push(&stream, |_| {});
            receiver.restart();
            let counts = receiver.counts();
            prop_assert!(counts.noise_bytes <= stream.len() as u64);
        }

        #[test]
        fn every_datagram_arrives_wherever_the_stream_is_cut(
            datagrams in vec(vec(ANY, 1..=DATAGRAM_BYTES_MAX), 1..4),
            cuts in vec(1usize..500, 1..20),
        ) {
            let stream = line(&datagrams);
            let mut receiver = Receiver::default();
            let (mut found, mut rest) = (Vec::new(), &stream[..]);
            for cut in cuts.iter().cycle() {
                let (head, tail) = rest.split_at((*cut).min(rest.len()));
                receiver.push(head, |it| found.push(it.to_vec()));
                rest = tail;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(found, datagrams);
            prop_assert_eq!(receiver.counts().bad_frames, 0);
        }

        #[test]
        fn a_frame_is_found_after_any_garbage(
            garbage in vec(ANY, 0..3_000),
            datagram in vec(ANY, 1..=FIXED_BYTES),
        ) {
            let stream = [garbage, whole(&datagram).unwrap()].concat();
            prop_assert_eq!(datagrams_in(&stream).pop(), Some(datagram));
        }

        #[test]
        fn half_a_frame_costs_no_other(
            lost in vec(ANY, 1..=DATAGRAM_BYTES_MAX),
            kept in vec(ANY, 1..=DATAGRAM_BYTES_MAX),
            at in 0.0..1.0,
        ) {
            let first = whole(&lost).unwrap();
            let half = &first[..(at * first.len() as f64) as usize];
            // All but the last border is a whole frame: the border of the next one ends it.
            prop_assume!(half.len() + 1 < first.len());
            let stream = [half, &frames(&kept, 9).concat()[..]].concat();
            prop_assert_eq!(datagrams_in(&stream), vec![kept]);
        }

        #[test]
        fn a_frame_with_flipped_bits_is_refused_and_counted(
            datagram in vec(ANY, 1..=DATAGRAM_BYTES_MAX),
            flips in vec((0.0..1.0, 0u8..8), 1..4),
        ) {
            let whole = whole(&datagram).unwrap();
            let mut flipped = whole.clone();
            for (at, bit) in &flips {
                let inner = flipped.len() - 2;
                flipped[1 + (at * inner as f64) as usize] ^= 1 << bit;
            }
            prop_assume!(flipped != whole);
            let mut receiver = Receiver::default();
            let mut found = Vec::new();
            receiver.push(&flipped, |it| found.push(it.to_vec()));
            prop_assert!(found.is_empty(), "{:?}", found);
            prop_assert!(receiver.counts().bad_frames > 0);
        }

        #[test]
        fn lengths_are_as_computed(datagram in vec(ANY, 1..=DATAGRAM_BYTES_MAX)) {
            let frame = whole(&datagram).unwrap();
            prop_assert!(frame.len() <= whole_frame_bytes(datagram.len()));
            prop_assert_eq!((frame[0], frame[frame.len() - 1]), (BORDER, BORDER));
            prop_assert!(!frame[1..frame.len() - 1].contains(&BORDER));
        }
    }
}
