//! Handing heartbeats from the sender's thread to the line's: the newest one only, without a lock
//! and without waiting.
//!
//! One writes, one reads. The version is odd while the words are being written; a reader that sees
//! it change has read nothing and tries again later, when it is woken.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};

use ha_common::wire::FIXED_BYTES;
use nix::sys::eventfd::EventFd;

const WORDS: usize = FIXED_BYTES / 8;
const _: () = assert!(WORDS * 8 == FIXED_BYTES, "a heartbeat is whole words");

/// A heartbeat, signed.
pub type Beat = [u8; FIXED_BYTES];

#[derive(Debug, Default)]
struct Slot {
    version: AtomicU64,
    words: [AtomicU64; WORDS],
}

/// The sender's end.
#[derive(Debug)]
pub struct BeatWriter {
    slot: Arc<Slot>,
    wake: Arc<EventFd>,
}

/// The line's end.
#[derive(Debug)]
pub struct BeatReader {
    slot: Arc<Slot>,
    taken: u64,
}

/// Both ends of a new hand-over; `wake` is written whenever there is a new heartbeat.
#[must_use]
pub fn hand_over(wake: Arc<EventFd>) -> (BeatWriter, BeatReader) {
    let slot = Arc::new(Slot::default());
    (BeatWriter { slot: Arc::clone(&slot), wake }, BeatReader { slot, taken: 0 })
}

impl BeatWriter {
    /// Replaces the heartbeat that waits, if any, and wakes the line. Never waits.
    pub fn offer(&mut self, beat: &Beat) {
        let version = self.slot.version.load(Relaxed);
        self.slot.version.store(version + 1, Relaxed);
        fence(Release);
        for (word, bytes) in self.slot.words.iter().zip(beat.as_chunks::<8>().0) {
            word.store(u64::from_ne_bytes(*bytes), Relaxed);
        }
        self.slot.version.store(version + 2, Release);
        // Fails only when it was not read for 2^64 - 2 times: then it is readable anyway.
        let _ = self.wake.write(1);
    }
}

impl BeatReader {
    /// Whether a heartbeat waits.
    #[must_use]
    pub fn waiting(&self) -> bool {
        self.slot.version.load(Acquire) > self.taken + 1
    }

    /// The heartbeat that waits, and how many before it were replaced and never taken.
    pub fn take(&mut self) -> Option<(Beat, u64)> {
        let version = self.slot.version.load(Acquire);
        if version % 2 == 1 || version == self.taken {
            return None;
        }
        let words: [u64; WORDS] = std::array::from_fn(|at| self.slot.words[at].load(Relaxed));
        fence(Acquire);
        if self.slot.version.load(Relaxed) != version {
            return None;
        }
        let replaced = (version - self.taken) / 2 - 1;
        self.taken = version;
        let mut beat = [0; FIXED_BYTES];
        for (bytes, word) in beat.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *bytes = word.to_ne_bytes();
        }
        Some((beat, replaced))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::eventfd::EfdFlags;

    fn ends() -> (BeatWriter, BeatReader) {
        hand_over(Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap()))
    }

    #[test]
    fn the_newest_is_taken_once_and_those_before_are_counted() {
        let (mut writer, mut reader) = ends();
        assert!(!reader.waiting());
        assert_eq!(reader.take(), None);
        for fill in 1..=3 {
            writer.offer(&[fill; FIXED_BYTES]);
        }
        assert!(reader.waiting());
        assert_eq!(reader.take(), Some(([3; FIXED_BYTES], 2)));
        assert!(!reader.waiting());
        assert_eq!(reader.take(), None);
    }

    #[test]
    fn nobody_reads_half_of_one_and_half_of_another() {
        let (mut writer, mut reader) = ends();
        const LAST: u64 = 200_000;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for number in 1..=LAST {
                    writer.offer(&std::array::from_fn(|at| number.to_ne_bytes()[at % 8]));
                }
            });
            let (mut taken, mut replaced) = (0, 0);
            loop {
                let Some((beat, before)) = reader.take() else { continue };
                let (words, _) = beat.as_chunks::<8>();
                assert!(words.iter().all(|word| word == &words[0]), "torn: {beat:?}");
                (taken, replaced) = (taken + 1, replaced + before);
                if u64::from_ne_bytes(words[0]) == LAST {
                    break;
                }
            }
            assert_eq!(taken + replaced, LAST, "each is taken or counted");
        });
    }
}
