//! How the heartbeats of one path arrive: intervals, jitter and losses, as histograms that only grow
//! (map `arrivals`, one entry for each slot of `links`). The judge fills them, in the kernel and in user
//! space alike; the daemon reads them to say which keepalive and deadtime a path bears.

use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::buckets::{self, BUCKETS};
use crate::record::Record;
use crate::wire::Header;

/// So many lost heartbeats in a row are an outage of the path: a cut cable, a partition. It is no
/// gap that a deadtime should bear, and is counted apart.
pub const OUTAGE_LOST: u64 = 64;
/// Losses in a row by octave of their number: 1, 2..3, 4..7, 8..15, 16..31, 32..63.
pub const BURSTS: usize = OUTAGE_LOST.ilog2() as usize;

/// Arrivals on one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Arrivals {
    /// The peer's keepalive when this record began. Written by the daemon, which begins a new one when
    /// it is another.
    pub keepalive_us: u64,
    /// Sum of all intervals.
    pub observed_ns: u64,
    /// The longest interval.
    pub longest_gap_ns: u64,
    /// When it ended, `CLOCK_MONOTONIC`.
    pub longest_gap_at_ns: u64,
    /// Largest difference between an interval and its sender's own.
    pub largest_jitter_ns: u64,
    /// Most heartbeats lost in a row, outages left out.
    pub longest_burst: u64,
    /// Interruptions in which [`OUTAGE_LOST`] or more were lost; they are in no other figure.
    pub outages: u64,
    /// Losses in a row, see [`BURSTS`].
    pub bursts: [u64; BURSTS],
    /// Intervals between two heartbeats of one start of the peer, see [`buckets`].
    pub intervals: [u64; BUCKETS],
    /// Differences between an interval and its sender's own, see [`buckets`].
    pub jitter: [u64; BUCKETS],
}

impl Arrivals {
    /// Nothing has arrived.
    pub const EMPTY: Self = Self {
        keepalive_us: 0,
        observed_ns: 0,
        longest_gap_ns: 0,
        longest_gap_at_ns: 0,
        largest_jitter_ns: 0,
        longest_burst: 0,
        outages: 0,
        bursts: [0; BURSTS],
        intervals: [0; BUCKETS],
        jitter: [0; BUCKETS],
    };
}

impl Default for Arrivals {
    fn default() -> Self {
        Self::EMPTY
    }
}

const _: () = assert!(size_of::<Arrivals>() == 8 * (7 + BURSTS + 2 * BUCKETS));

/// A shared [`Arrivals`]. Two CPUs that take heartbeats of one path in the same moment may lose one of
/// them from a figure, as from `received`.
#[derive(Clone, Copy)]
pub struct ArrivalWords<'a> {
    pointer: NonNull<Arrivals>,
    memory: PhantomData<&'a Arrivals>,
}

impl ArrivalWords<'_> {
    /// # Safety
    /// `pointer` must be aligned and valid for `'a`, and be accessed by nobody but through this
    /// type or whole-word operations of the kernel.
    #[inline(always)]
    #[must_use]
    pub unsafe fn new(pointer: NonNull<Arrivals>) -> Self {
        Self { pointer, memory: PhantomData }
    }

    /// Takes note of a heartbeat that `record` accepts and is not stamped with yet. Only for the next
    /// of a start that was believed before: what was between two starts is no interval.
    #[inline(always)]
    pub fn note(self, record: Record<'_>, header: &Header, now_ns: u64) {
        let last_ns = record.last_seen_ns();
        // Signed: another CPU may have stamped a later time in between.
        let interval_ns = now_ns.wrapping_sub(last_ns) as i64;
        if last_ns == 0 || interval_ns < 0 {
            return;
        }
        let interval_ns = interval_ns as u64;
        let lost = header.sequence.saturating_sub(record.sequence()).saturating_sub(1);
        if lost != 0 && self.lost(lost) {
            return;
        }
        let sent_ns = header.sent_ns.wrapping_sub(record.sent_ns());
        let jitter_ns = (interval_ns.wrapping_sub(sent_ns) as i64).unsigned_abs();
        let words = self.pointer.as_ptr();
        // SAFETY: `new` demands a valid, aligned record for 'a; whole words are accessed only.
        unsafe {
            add(&raw mut (*words).observed_ns, interval_ns);
            add_at((&raw mut (*words).intervals).cast(), BUCKETS, buckets::of(interval_ns));
            add_at((&raw mut (*words).jitter).cast(), BUCKETS, buckets::of(jitter_ns));
            if interval_ns > (&raw const (*words).longest_gap_ns).read_volatile() {
                (&raw mut (*words).longest_gap_ns).write_volatile(interval_ns);
                (&raw mut (*words).longest_gap_at_ns).write_volatile(now_ns);
            }
            raise(&raw mut (*words).largest_jitter_ns, jitter_ns);
        }
    }

    /// Takes note of a loss; whether it is an outage.
    #[inline(always)]
    fn lost(self, lost: u64) -> bool {
        let words = self.pointer.as_ptr();
        // SAFETY: as for `note`.
        unsafe {
            if lost >= OUTAGE_LOST {
                add(&raw mut (*words).outages, 1);
                return true;
            }
            add_at((&raw mut (*words).bursts).cast(), BURSTS, burst(lost));
            raise(&raw mut (*words).longest_burst, lost);
        }
        false
    }
}

/// Octave of a number of losses below [`OUTAGE_LOST`]: one comparison for each, since BPF has no
/// instruction that counts zeros and losses are rare.
#[inline(always)]
const fn burst(lost: u64) -> usize {
    let mut octave = 0;
    let mut limit = 2;
    while limit < OUTAGE_LOST {
        octave += (lost >= limit) as usize;
        limit *= 2;
    }
    octave
}

/// # Safety
/// `word` must be valid and aligned.
#[inline(always)]
unsafe fn add(word: *mut u64, value: u64) {
    // SAFETY: the caller's promise.
    unsafe { word.write_volatile(word.read_volatile().wrapping_add(value)) };
}

/// # Safety
/// `words` must be the first of `length` valid, aligned words.
#[inline(always)]
unsafe fn add_at(words: *mut u64, length: usize, index: usize) {
    // The verifier wants to see it, in the kernel.
    if index < length {
        // SAFETY: the caller's promise, and the check above.
        unsafe { add(words.add(index), 1) };
    }
}

/// # Safety
/// `word` must be valid and aligned.
#[inline(always)]
unsafe fn raise(word: *mut u64, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        if value > word.read_volatile() {
            word.write_volatile(value);
        }
    }
}

#[cfg(test)]
mod tests;
