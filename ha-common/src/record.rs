//! The one way to a [`LinkRecord`] that several parties share: the kernel program that stamps it,
//! the daemon that reads it through its mapping, or the daemon's own table for plain sockets.
//!
//! Fields are loaded and stored one aligned word at a time, so nothing tears. `last_seen_ns` is
//! stored last and loaded first: who sees a new stamp also sees what came with it.

use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::fresh::{Freshness, Window};
use crate::maps::LinkRecord;
use crate::wire::Header;

/// A shared [`LinkRecord`].
#[derive(Clone, Copy)]
pub struct Record<'a> {
    pointer: NonNull<LinkRecord>,
    memory: PhantomData<&'a LinkRecord>,
}

// Volatile accesses of aligned words compile to exactly one load or store each. (The BPF target has
// no 32-bit atomics in `core`, and relaxed atomics would compile to the same instructions.)
macro_rules! word {
    ($type:ty, $load:ident, $store:ident, $($field:tt)+) => {
        #[doc = concat!("Loads `", stringify!($($field)+), "`.")]
        #[inline(always)]
        #[must_use]
        pub fn $load(self) -> $type {
            // SAFETY: `new` demands a valid, aligned record for 'a that all parties access only
            // through these whole-word operations.
            unsafe { (&raw const (*self.pointer.as_ptr()).$($field)+).read_volatile() }
        }

        #[doc = concat!("Stores `", stringify!($($field)+), "`.")]
        #[inline(always)]
        pub fn $store(self, value: $type) {
            // SAFETY: as for loading.
            unsafe { (&raw mut (*self.pointer.as_ptr()).$($field)+).write_volatile(value) }
        }
    };
}

impl Record<'_> {
    /// # Safety
    /// `pointer` must be aligned and valid for `'a`, and be accessed by nobody but through this
    /// type or whole-word operations of the kernel.
    #[inline(always)]
    #[must_use]
    pub unsafe fn new(pointer: NonNull<LinkRecord>) -> Self {
        Self { pointer, memory: PhantomData }
    }

    word!(u32, peer, set_peer, peer);
    word!(u32, link, set_link, link);
    word!(u32, interface, set_interface, interface);
    word!(u32, generation, set_generation, generation);
    word!(u64, silence_ns, set_silence_ns, silence_ns);
    word!(u64, last_seen_ns, set_last_seen_ns, last_seen_ns);
    word!(u64, heard, set_heard, heartbeat.heard);
    word!(u64, believed, set_believed, heartbeat.believed);
    word!(u64, sequence, set_sequence, heartbeat.sequence);
    word!(u64, control_heard, set_control_heard, control.heard);
    word!(u64, control_believed, set_control_believed, control.believed);
    word!(u64, control_sequence, set_control_sequence, control.sequence);
    word!(u64, sent_ns, set_sent_ns, sent_ns);
    word!(u32, keepalive_us, set_keepalive_us, keepalive_us);
    word!(u32, lease_age_ms, set_lease_age_ms, lease_age_ms);
    word!(u32, phase, set_phase, phase);
    word!(u32, layers, set_layers, layers);
    word!(u32, key_offered, set_key_offered, key_offered);
    word!(u32, key_entry, set_key_entry, key_entry);
    word!(u64, received, set_received, received);
    word!(u64, lost, set_lost, lost);
    word!(u64, rejected, set_rejected, rejected);
    word!(u64, probe_heard, set_probe_heard, probes.heard);
    word!(u64, probe_believed, set_probe_believed, probes.believed);
    word!(u64, probe_sequence, set_probe_sequence, probes.sequence);
    word!(u64, answer_from_ns, set_answer_from_ns, answer_from_ns);
    word!(u64, answered_ns, set_answered_ns, answered_ns);
    word!(u64, answer_at_ns, set_answer_at_ns, answer_at_ns);
    word!(u64, answer_incarnation, set_answer_incarnation, answer_incarnation);
    word!(u32, answer_lease_age_ms, set_answer_lease_age_ms, answer_lease_age_ms);
    word!(u32, answer_layers, set_answer_layers, answer_layers);
    word!(u64, answers, set_answers, answers);
    word!(u32, answer_way, set_answer_way, answer_way);

    /// Counts a refused packet. Atomic, because hostile packets may arrive on all CPUs at once and
    /// the count must be exact.
    #[inline(always)]
    pub fn count_rejected(self) {
        // SAFETY: as for the other words.
        unsafe { add_one(&raw mut (*self.pointer.as_ptr()).rejected) }
    }

    /// The freshness window of heartbeats.
    #[inline(always)]
    #[must_use]
    pub fn heartbeat_window(self) -> Window {
        Window { heard: self.heard(), believed: self.believed(), sequence: self.sequence() }
    }

    /// The freshness window of control messages.
    #[inline(always)]
    #[must_use]
    pub fn control_window(self) -> Window {
        Window {
            heard: self.control_heard(),
            believed: self.control_believed(),
            sequence: self.control_sequence(),
        }
    }

    /// The freshness window of the peer's probes.
    #[inline(always)]
    #[must_use]
    pub fn probe_window(self) -> Window {
        Window {
            heard: self.probe_heard(),
            believed: self.probe_believed(),
            sequence: self.probe_sequence(),
        }
    }

    /// Stores what an authentic, believed heartbeat says; the stamp last.
    #[inline(always)]
    pub fn stamp(self, header: &Header, freshness: Freshness, now_ns: u64) {
        if matches!(freshness, Freshness::Next { .. }) {
            // The gap is computed anew: outside of `Next` it has no value, and the verifier, which does
            // not see that this branch follows from the one that made it, would meet in its
            // register whatever was left there.
            let gap = header.sequence.saturating_sub(self.sequence()).saturating_sub(1);
            self.set_lost(self.lost().wrapping_add(gap));
        } else {
            self.set_heard(header.incarnation);
            self.set_believed(header.incarnation);
        }
        self.set_sequence(header.sequence);
        self.set_generation(header.generation);
        self.set_phase(header.phase as u32);
        self.set_layers(u32::from(header.layers));
        self.set_lease_age_ms(u32::from(header.lease_age_ms));
        self.set_keepalive_us(header.keepalive_us);
        self.set_key_offered(header.key_offered);
        self.set_sent_ns(header.sent_ns);
        self.set_received(self.received().wrapping_add(1));
        self.set_last_seen_ns(now_ns);
    }
}

#[cfg(target_arch = "bpf")]
#[inline(always)]
unsafe fn add_one(word: *mut u64) {
    use core::intrinsics::{AtomicOrdering, atomic_xadd};
    // The BPF target declares no atomic read-modify-write in `core::sync`, but has this one.
    // SAFETY: the caller passes a valid aligned word.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(word, 1) };
}

#[cfg(not(target_arch = "bpf"))]
unsafe fn add_one(word: *mut u64) {
    use core::sync::atomic::{AtomicU64, Ordering};
    // SAFETY: the caller passes a valid aligned word.
    unsafe { AtomicU64::from_ptr(word) }.fetch_add(1, Ordering::Relaxed);
}
