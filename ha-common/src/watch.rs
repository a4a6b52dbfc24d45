//! The judge in the kernel: what one tick of a path's timer (`bpf_timer`, run in softirq) makes of
//! the path's last stamp. Called by the kernel side's `watch.rs`, and by the tests on the host.
//!
//! A heartbeat costs nothing more for it: a tick looks at the stamp and sets the next one to when the path would
//! become suspect. It judges by the rule of the driver: who ran late itself judges nobody
//! before a fresh window has passed.

use core::marker::PhantomData;
use core::ptr::NonNull;

/// Longest time between two ticks of a watched path, nanoseconds.
pub const PACE_MAX_NS: u64 = 250_000_000;
/// Shortest time between two ticks of a silent path, nanoseconds: what its timer can cost.
pub const PACE_MIN_NS: u64 = 1_000_000;
/// Ticks between suspicion and deadtime. The newest is the witness, at the verdict, that softirqs run.
const TICKS_TO_DEADTIME: u64 = 4;

/// What user space and a path's timer tell each other (map `watched`, mmap-ed by the daemon).
///
/// Every field is one aligned word that is stored and loaded whole, see [`Watch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Watched {
    /// Silence after which the path is suspect; 0 = not watched. Written by the daemon.
    pub suspect_ns: u64,
    /// Silence after which its peer may be dead. Written by the daemon.
    pub deadtime_ns: u64,
    /// Lateness of a tick that counts as a pause of this node; 0 = none does. Written by the daemon.
    pub pause_limit_ns: u64,
    /// When the timer is due, `CLOCK_MONOTONIC`; 0 = not armed.
    pub due_ns: u64,
    /// When it ran last.
    pub ran_ns: u64,
    /// How late it was then.
    pub late_ns: u64,
    /// How late it was at most.
    pub late_max_ns: u64,
    /// How often it ran.
    pub ticks: u64,
    /// Silence from before then counts for nothing: the timer was armed, or a pause ended.
    pub window_ns: u64,
    /// Length of the last pause that was noticed, stored before `pauses`.
    pub pause_ns: u64,
    /// Pauses that were noticed.
    pub pauses: u64,
    /// Since when the path is suspect; 0 = it is not.
    pub suspected_ns: u64,
    /// How often it became suspect.
    pub suspicions: u64,
}

const _: () = assert!(size_of::<Watched>() == 13 * 8);

/// A shared [`Watched`].
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    pointer: NonNull<Watched>,
    memory: PhantomData<&'a Watched>,
}

// Volatile, for the reasons given for `Record`.
macro_rules! words {
    ($($load:ident, $store:ident;)+) => { $(
        #[doc = concat!("Loads `", stringify!($load), "`.")]
        #[inline(always)]
        #[must_use]
        pub fn $load(self) -> u64 {
            // SAFETY: `new` demands valid, aligned words for 'a that all parties access only
            // through these whole-word operations.
            unsafe { (&raw const (*self.pointer.as_ptr()).$load).read_volatile() }
        }

        #[doc = concat!("Stores `", stringify!($load), "`.")]
        #[inline(always)]
        pub fn $store(self, value: u64) {
            // SAFETY: as for loading.
            unsafe { (&raw mut (*self.pointer.as_ptr()).$load).write_volatile(value) }
        }
    )+ };
}

impl Watch<'_> {
    /// # Safety
    /// `pointer` must be aligned and valid for `'a`, and be accessed by nobody but through this
    /// type or whole-word operations of the kernel.
    #[inline(always)]
    #[must_use]
    pub unsafe fn new(pointer: NonNull<Watched>) -> Self {
        Self { pointer, memory: PhantomData }
    }

    words! {
        suspect_ns, set_suspect_ns;
        deadtime_ns, set_deadtime_ns;
        pause_limit_ns, set_pause_limit_ns;
        due_ns, set_due_ns;
        ran_ns, set_ran_ns;
        late_ns, set_late_ns;
        late_max_ns, set_late_max_ns;
        ticks, set_ticks;
        window_ns, set_window_ns;
        pause_ns, set_pause_ns;
        pauses, set_pauses;
        suspected_ns, set_suspected_ns;
        suspicions, set_suspicions;
    }

    /// How long the timer has been due without having run; 0 also when it is not armed.
    #[must_use]
    pub fn overdue_ns(self, now_ns: u64) -> u64 {
        match (self.suspect_ns(), self.due_ns()) {
            (0, _) | (_, 0) => 0,
            (_, due_ns) => now_ns.saturating_sub(due_ns),
        }
    }
}

/// What became of arming a timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Arming {
    /// It runs.
    Done = 0,
    /// There is no such slot.
    NoSlot = 1,
    /// The slot's words say that it is not to be watched.
    NotWatched = 2,
    /// `bpf_timer_init` refused.
    NoTimer = 3,
    /// `bpf_timer_set_callback` refused.
    NoCallback = 4,
    /// `bpf_timer_start` refused.
    NotStarted = 5,
}

impl Arming {
    /// It and the error of the helper (as the kernel gives it, negative) in one word.
    #[inline(always)]
    #[must_use]
    pub fn with_errno(self, error: i64) -> u32 {
        self as u32 | (error.unsigned_abs() as u32) << 8
    }

    /// Whether that word is of this outcome; then the error.
    #[must_use]
    pub const fn errno_in(self, word: u32) -> Option<i32> {
        if word & 0xff == self as u32 { Some((word >> 8) as i32) } else { None }
    }
}

/// What follows from one tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// When the timer shall run next.
    pub next_ns: u64,
    /// The silence with which the path has just become suspect: once per silence.
    pub suspicion_ns: Option<u64>,
}

/// Begins to watch a path, whatever an earlier start left in its words; when the timer shall run.
/// `None` = it shall not be watched.
#[inline(always)]
#[must_use]
pub fn begin(watch: Watch<'_>, now_ns: u64) -> Option<u64> {
    let suspect_ns = watch.suspect_ns();
    watch.set_suspected_ns(0);
    watch.set_window_ns(now_ns);
    let due_ns = if suspect_ns == 0 { 0 } else { now_ns.wrapping_add(suspect_ns) };
    watch.set_due_ns(due_ns);
    (suspect_ns != 0).then_some(due_ns)
}

/// One tick at `now_ns` of the timer of a path whose last stamp is `last_seen_ns` (0 = never heard).
/// `None` = the path is watched no more: the timer ends.
#[inline(always)]
#[must_use]
pub fn tick(watch: Watch<'_>, last_seen_ns: u64, now_ns: u64) -> Option<Tick> {
    let suspect_ns = watch.suspect_ns();
    if suspect_ns == 0 {
        watch.set_due_ns(0);
        return None;
    }
    let late_ns = note_run(watch, now_ns);
    let limit_ns = watch.pause_limit_ns();
    if limit_ns != 0 && late_ns > limit_ns {
        watch.set_window_ns(now_ns);
        watch.set_pause_ns(late_ns);
        watch.set_pauses(watch.pauses().wrapping_add(1));
    }
    let mut tick = Tick { next_ns: now_ns.wrapping_add(PACE_MAX_NS), suspicion_ns: None };
    if last_seen_ns != 0 {
        let window_ns = watch.window_ns();
        let since_ns = if signed(last_seen_ns, window_ns) > 0 { last_seen_ns } else { window_ns };
        // Signed: a CPU may have stamped a later time than this one has just read.
        let silence_ns = signed(now_ns, since_ns);
        if silence_ns < suspect_ns as i64 {
            watch.set_suspected_ns(0);
            tick.next_ns = since_ns.wrapping_add(suspect_ns);
        } else {
            let silence_ns = silence_ns as u64;
            let suspected_ns = watch.suspected_ns();
            // A heartbeat may have come and gone between two ticks: that is another silence.
            if suspected_ns == 0 || signed(last_seen_ns, suspected_ns) > 0 {
                watch.set_suspected_ns(now_ns);
                watch.set_suspicions(watch.suspicions().wrapping_add(1));
                tick.suspicion_ns = Some(silence_ns);
            }
            let pace_ns = pace_ns(silence_ns, suspect_ns, watch.deadtime_ns());
            tick.next_ns = now_ns.wrapping_add(pace_ns);
        }
    }
    watch.set_due_ns(tick.next_ns);
    Some(tick)
}

/// Notes that the timer ran, and how late.
#[inline(always)]
fn note_run(watch: Watch<'_>, now_ns: u64) -> u64 {
    let late_ns = signed(now_ns, watch.due_ns());
    let late_ns = if late_ns > 0 { late_ns as u64 } else { 0 };
    watch.set_late_ns(late_ns);
    if late_ns > watch.late_max_ns() {
        watch.set_late_max_ns(late_ns);
    }
    watch.set_ticks(watch.ticks().wrapping_add(1));
    watch.set_ran_ns(now_ns);
    late_ns
}

/// Time between two ticks of a suspect path: some before deadtime, then ever more rarely.
#[inline(always)]
fn pace_ns(silence_ns: u64, suspect_ns: u64, deadtime_ns: u64) -> u64 {
    let wanted_ns = if silence_ns < deadtime_ns {
        deadtime_ns.saturating_sub(suspect_ns) / TICKS_TO_DEADTIME
    } else {
        silence_ns
    };
    wanted_ns.clamp(PACE_MIN_NS, PACE_MAX_NS)
}

#[inline(always)]
fn signed(later_ns: u64, earlier_ns: u64) -> i64 {
    later_ns.wrapping_sub(earlier_ns) as i64
}

#[cfg(test)]
mod tests;
