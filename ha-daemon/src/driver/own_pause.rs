//! Whether this node did not run itself: who could not see, and could not ask, may not judge.
//!
//! Noticed by its own lateness (driver, sender), by the clock that goes on in suspend, and, when a
//! verdict is near, by the kernel's count of suspends and the time that the host took from this
//! machine's CPUs. What was noticed begins
//! a fresh window ([`crate::core::io::Input::OwnPause`]).

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

use super::Driver;
use crate::core::io::PauseSign;
use crate::io::clock::{boottime_ns, monotonic_ns};
use crate::io::sender::Shared;
use crate::snapshot::Severity;

/// Where the kernel tells how much the host took from each CPU (proc(5)).
const STAT: &str = "/proc/stat";
/// Most of it that is read: the lines of about 200 CPUs.
const STAT_BYTES_MAX: usize = 16 * 1024;
/// Field of a CPU's line with the time that the host took (proc(5): steal), behind its name.
const STEAL_FIELD: usize = 8;
/// How often the machine was suspended since it was started.
const SUSPENDS: &str = "/sys/power/suspend_stats/success";
/// Between two readings of it while nothing is wrong.
const COUNTED_INTERVAL_NS: u64 = 1_000_000_000;
/// A reading is compared with the one before if that is no older than so many pauses (which are a
/// quarter of deadtime): what the host takes now and then adds up to anything.
const COMPARED_PAUSES: u64 = 4;

/// The driver's sense of its node's own pauses.
#[derive(Debug)]
pub(super) struct OwnPause {
    enabled: bool,
    /// Lateness that counts.
    limit_ns: u64,
    /// A pause that is longer than this one ends the lease.
    lease_ns: u64,
    beat_ns: u64,
    handled_ns: u64,
    turned_ns: u64,
    /// What CLOCK_BOOTTIME was ahead of CLOCK_MONOTONIC at the last turn.
    suspended_ns: u64,
    /// The machine was suspended before the last look.
    suspended: bool,
    steal: Option<Steal>,
    suspends: Option<Suspends>,
}

/// A turn, as it began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wake {
    /// When.
    pub(super) now_ns: u64,
    /// What [`suspended_ns`] said then.
    pub(super) suspended_ns: u64,
    /// How late.
    pub(super) lateness_ns: u64,
    /// A verdict is near.
    pub(super) near: bool,
}

impl OwnPause {
    pub(super) fn new(enabled: bool, limit: Duration, lease: Duration, beat: Duration) -> Self {
        let nanoseconds = |it: Duration| it.as_nanos() as u64;
        Self {
            enabled,
            limit_ns: nanoseconds(limit),
            lease_ns: nanoseconds(lease),
            beat_ns: nanoseconds(beat),
            handled_ns: 0,
            turned_ns: monotonic_ns(),
            suspended_ns: suspended_ns(),
            suspended: false,
            // Without it the other signs remain.
            steal: File::open(STAT).ok().and_then(Steal::new).filter(|_| enabled),
            suspends: File::open(SUSPENDS).ok().and_then(Suspends::new),
        }
    }

    /// What counts from now on.
    pub(super) fn set_limit(&mut self, limit: Duration) {
        self.limit_ns = limit.as_nanos() as u64;
    }

    /// Looks at a turn. Says for how long this node did not run, if it did not, and what told so.
    pub(super) fn look(&mut self, wake: &Wake, shared: &Shared) -> Option<(i64, PauseSign)> {
        let Wake { now_ns, suspended_ns, lateness_ns, near } = *wake;
        let away_ns = now_ns.saturating_sub(std::mem::replace(&mut self.turned_ns, now_ns));
        let slept_ns = self.slept_ns(suspended_ns);
        let stolen_ns = match &mut self.steal {
            Some(steal) if near => steal.grown_ns(now_ns, self.limit_ns * COMPARED_PAUSES),
            Some(_) | None => 0,
        };
        let ended_ns = shared.pause_end_ns.load(Relaxed);
        let told_ns = if ended_ns == std::mem::replace(&mut self.handled_ns, ended_ns) {
            0
        } else {
            shared.pause_ns.load(Relaxed)
        };
        // Its wish to sleep is no pause, but the lease counts from turn to turn.
        let lapsed_ns = if away_ns > self.lease_ns { away_ns } else { 0 };
        let overdue_ns = self.overdue_ns(now_ns, shared);
        // It counts whole seconds on many machines: a short suspend is none for it.
        let look = near || slept_ns > 0;
        let counted = self.suspends.as_mut().is_some_and(|it| it.has_grown(now_ns, look));
        if let Some(suspends) = self.suspends.as_mut().filter(|_| slept_ns > 0 && !counted) {
            suspends.told_until_ns = now_ns + COUNTED_INTERVAL_NS * 2;
        }
        self.suspended = slept_ns > 0 || counted;
        // The clock of lateness stands still in suspend.
        let slept_ns = if self.suspended { (slept_ns + away_ns).max(self.limit_ns + 1) } else { 0 };
        let (length_ns, sign) = [
            (lateness_ns.max(lapsed_ns), PauseSign::Driver),
            (told_ns.max(overdue_ns), PauseSign::Sender),
            (stolen_ns, PauseSign::Steal),
            (slept_ns, PauseSign::Suspend),
        ]
        .into_iter()
        .max_by_key(|it| it.0)?;
        // What is late after a suspend is late because of it.
        let sign = if self.suspended { PauseSign::Suspend } else { sign };
        (self.enabled && length_ns > self.limit_ns).then_some((length_ns as i64, sign))
    }

    /// How long the machine was suspended since the last turn.
    fn slept_ns(&mut self, suspended_ns: u64) -> u64 {
        let before_ns = std::mem::replace(&mut self.suspended_ns, suspended_ns);
        let slept_ns = suspended_ns.saturating_sub(before_ns);
        if slept_ns > self.limit_ns { slept_ns } else { 0 }
    }

    /// How late the sender's next tick is.
    fn overdue_ns(&self, now_ns: u64, shared: &Shared) -> u64 {
        now_ns.saturating_sub(shared.sender_ran_ns.load(Relaxed) + self.beat_ns)
    }

    /// Whether the daemon as a whole runs: a driver whose sender hangs does not renew the lease.
    pub(super) fn sender_runs(&self, now_ns: u64, shared: &Shared) -> bool {
        self.overdue_ns(now_ns, shared) <= self.limit_ns
    }
}

impl Driver {
    /// After a suspend: a program that its driver has lost would leave this node deaf.
    pub(super) fn attach_again(&mut self) {
        let Some(kernel) = self.parts.kernel.as_mut().filter(|_| self.own_pause.suspended) else {
            return;
        };
        if let Err(error) = kernel.attach_again() {
            let text = format!(
                "the programs could not be attached again after the machine was suspended; \
                 heartbeats may not arrive, `hactl reexec` helps: {error:#}"
            );
            self.driver_note(Severity::Warning, "reception", text);
        }
        // Other answers may arrive than before.
        self.askers.iter_mut().for_each(super::ask::Asker::test_again);
    }
}

/// For how long the machine was suspended since it was started: CLOCK_BOOTTIME is ahead of
/// CLOCK_MONOTONIC by that.
pub(super) fn suspended_ns() -> u64 {
    let monotonic_ns = monotonic_ns();
    boottime_ns().saturating_sub(monotonic_ns)
}

/// The kernel's count of suspends.
#[derive(Debug)]
struct Suspends {
    file: File,
    count: u64,
    read_ns: u64,
    /// Until then one more is that of which the clock has told: the kernel counts it when all run again.
    told_until_ns: u64,
}

impl Suspends {
    fn new(file: File) -> Option<Self> {
        let count = Self::read(&file)?;
        Some(Self { file, count, read_ns: monotonic_ns(), told_until_ns: 0 })
    }

    fn read(file: &File) -> Option<u64> {
        let mut text = [0; 24];
        let length = file.read_at(&mut text, 0).ok()?;
        std::str::from_utf8(&text[..length]).ok()?.trim().parse().ok()
    }

    /// Whether there was one since the last reading, which is no older than [`COUNTED_INTERVAL_NS`] of time
    /// awake: what grew long ago is no pause of now. Read earlier if there is a reason to `look`.
    fn has_grown(&mut self, now_ns: u64, look: bool) -> bool {
        if !look && now_ns < self.read_ns.saturating_add(COUNTED_INTERVAL_NS) {
            return false;
        }
        self.read_ns = now_ns;
        let count = Self::read(&self.file).unwrap_or(self.count);
        let before = std::mem::replace(&mut self.count, count);
        if now_ns < self.told_until_ns && count == before + 1 {
            self.told_until_ns = 0;
            return false;
        }
        count != before
    }
}

/// The time that the host of a virtual machine took from its CPUs.
#[derive(Debug)]
struct Steal {
    file: File,
    buffer: Box<[u8]>,
    tick_ns: u64,
    read_ns: u64,
    ticks: Vec<u64>,
    /// Those of the reading before.
    before: Vec<u64>,
}

impl Steal {
    fn new(file: File) -> Option<Self> {
        let per_second = sysconf(SysconfVar::CLK_TCK).ok()??;
        let mut steal = Self {
            file,
            buffer: vec![0; STAT_BYTES_MAX].into_boxed_slice(),
            tick_ns: 1_000_000_000 / u64::try_from(per_second).ok().filter(|it| *it > 0)?,
            read_ns: monotonic_ns(),
            ticks: Vec::new(),
            before: Vec::new(),
        };
        steal.read().then_some(steal)
    }

    /// Reads anew, into the memory of the reading before the last one.
    fn read(&mut self) -> bool {
        let Ok(length) = self.file.read_at(&mut self.buffer, 0) else { return false };
        std::mem::swap(&mut self.ticks, &mut self.before);
        self.ticks.clear();
        self.ticks.extend(steal_ticks(&self.buffer[..length]));
        true
    }

    /// What was certainly taken from any one CPU since the last reading, if that is not too old.
    fn grown_ns(&mut self, now_ns: u64, age_max_ns: u64) -> u64 {
        if !self.read() {
            return 0;
        }
        let age_ns = now_ns.saturating_sub(std::mem::replace(&mut self.read_ns, now_ns));
        if age_ns > age_max_ns {
            return 0;
        }
        grown_ticks(&self.before, &self.ticks) * self.tick_ns
    }
}

/// The first tick may have been almost full before.
fn grown_ticks(before: &[u64], after: &[u64]) -> u64 {
    let grown = before.iter().zip(after).map(|(before, after)| after.saturating_sub(*before));
    grown.max().unwrap_or(0).saturating_sub(1)
}

/// The field *steal* of each CPU in `/proc/stat`; the first line is their sum, and left out.
fn steal_ticks(stat: &[u8]) -> impl Iterator<Item = u64> {
    let lines = stat.split(|byte| *byte == b'\n').skip(1);
    let lines = lines.take_while(|line| line.starts_with(b"cpu"));
    lines.map_while(|line| {
        let field = line.split(|byte| *byte == b' ').nth(STEAL_FIELD)?;
        std::str::from_utf8(field).ok()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(7);
    const LIMIT_NS: u64 = 7_000_000;
    const LEASE: Duration = Duration::from_secs(2);
    /// For how long the machine was suspended before.
    const SUSPENDED_NS: u64 = 60_000_000_000;

    /// Its sense of pauses, the sender's words, and a moment at which both just ran.
    fn scene(enabled: bool) -> (OwnPause, Shared, u64) {
        let mut own = OwnPause::new(enabled, LIMIT, LEASE, Duration::from_millis(10));
        let shared = Shared::new(0);
        own.steal = None;
        own.suspends = None;
        own.suspended_ns = SUSPENDED_NS;
        let now_ns = monotonic_ns();
        shared.sender_ran_ns.store(now_ns, Relaxed);
        own.turned_ns = now_ns;
        (own, shared, now_ns)
    }

    /// A turn of a machine that was suspended no more.
    fn at(now_ns: u64, lateness_ns: u64, near: bool) -> Wake {
        Wake { now_ns, suspended_ns: SUSPENDED_NS, lateness_ns, near }
    }

    /// `/proc/stat` of a machine with two CPUs, of which the second one lost so many ticks.
    fn write_stat(path: &std::path::Path, ticks: u64) {
        let text = format!(
            "cpu  10 0 20 300 4 0 5 {} 0 0\ncpu0 5 0 10 150 2 0 3 20 0 0\n\
             cpu1 5 0 10 150 2 0 2 {ticks} 0 0\nintr 12345 0\n",
            ticks + 20
        );
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn a_turn_in_time_is_no_pause_and_a_late_one_is() {
        let (mut own, shared, now_ns) = scene(true);
        assert_eq!(own.look(&at(now_ns + 1_000, LIMIT_NS, true), &shared), None);
        let length = LIMIT_NS + 1;
        let late = Some((length as i64, PauseSign::Driver));
        assert_eq!(own.look(&at(now_ns + 2_000, length, false), &shared), late);
    }

    #[test]
    fn a_pause_that_the_sender_tells_counts_once() {
        let (mut own, shared, now_ns) = scene(true);
        shared.pause_ns.store(90_000_000, Relaxed);
        shared.pause_end_ns.store(now_ns, Relaxed);
        let told = Some((90_000_000, PauseSign::Sender));
        assert_eq!(own.look(&at(now_ns + 1_000, 0, false), &shared), told);
        assert_eq!(own.look(&at(now_ns + 2_000, 0, false), &shared), None);
    }

    #[test]
    fn an_overdue_sender_is_a_pause_and_renews_no_lease() {
        let (mut own, shared, now_ns) = scene(true);
        let later_ns = now_ns + 10_000_000 + LIMIT_NS;
        assert!(own.sender_runs(later_ns, &shared));
        assert!(!own.sender_runs(later_ns + 1, &shared));
        let sign = own.look(&at(later_ns + 1, 0, false), &shared).map(|it| it.1);
        assert_eq!(sign, Some(PauseSign::Sender));
    }

    #[test]
    fn a_sleep_that_was_wished_is_a_pause_when_it_is_longer_than_the_lease() {
        let (mut own, shared, now_ns) = scene(true);
        shared.sender_ran_ns.store(now_ns + 3_000_000_000, Relaxed);
        assert_eq!(own.look(&at(now_ns + 250_000_000, 0, false), &shared), None);
        let lapsed = own.look(&at(now_ns + 2_250_000_001, 0, false), &shared);
        assert_eq!(lapsed, Some((2_000_000_001, PauseSign::Driver)));
    }

    #[test]
    fn a_suspended_machine_was_paused_for_as_long_as_it_slept() {
        let (mut own, shared, now_ns) = scene(true);
        let turn = |now_ns, slept_ns| Wake {
            suspended_ns: SUSPENDED_NS + slept_ns,
            ..at(now_ns, 0, false)
        };
        let unclear = own.look(&turn(now_ns + 1_000, LIMIT_NS), &shared);
        assert_eq!((unclear, own.suspended), (None, false), "clocks are read one by one");
        let slept_ns = 5_000_000_000;
        let pause = own.look(&turn(now_ns + 3_000, LIMIT_NS + slept_ns), &shared);
        let told = Some((slept_ns as i64 + 2_000, PauseSign::Suspend));
        assert_eq!((pause, own.suspended), (told, true));
        let after = own.look(&turn(now_ns + 4_000, LIMIT_NS + slept_ns), &shared);
        assert_eq!((after, own.suspended), (None, false), "once");
    }

    #[test]
    fn time_that_the_host_took_is_a_pause_when_a_verdict_is_near() {
        let (mut own, shared, now_ns) = scene(true);
        let path = tempfile::NamedTempFile::new().unwrap();
        write_stat(path.path(), 40);
        let mut steal = Steal::new(File::open(&path).unwrap()).unwrap();
        (steal.tick_ns, steal.read_ns) = (LIMIT_NS, now_ns);
        own.steal = Some(steal);
        // One tick more than is certain, and one more than the limit.
        write_stat(path.path(), 43);
        assert_eq!(own.look(&at(now_ns + 1_000, 0, false), &shared), None, "nothing is at stake");
        let pause = own.look(&at(now_ns + 2_000, 0, true), &shared);
        assert_eq!(pause, Some((2 * LIMIT_NS as i64, PauseSign::Steal)));
        assert_eq!(own.look(&at(now_ns + 3_000, 0, true), &shared), None, "once");
        write_stat(path.path(), 45);
        assert_eq!(own.look(&at(now_ns + 4_000, 0, true), &shared), None, "no more than the limit");
        // What adds up over a longer time is no pause.
        write_stat(path.path(), 90);
        let later_ns = now_ns + 5_000 + LIMIT_NS * COMPARED_PAUSES;
        shared.sender_ran_ns.store(later_ns, Relaxed);
        assert_eq!(own.look(&at(later_ns, 0, true), &shared), None);
    }

    #[test]
    fn a_suspend_that_no_clock_shows_is_a_pause_once_a_verdict_is_near_or_a_second_later() {
        let (mut own, shared, now_ns) = scene(true);
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&path, "3\n").unwrap();
        own.suspends = Suspends::new(File::open(&path).unwrap());
        assert_eq!(own.look(&at(now_ns + 1_000, 0, true), &shared), None);
        std::fs::write(&path, "4\n").unwrap();
        assert_eq!(own.look(&at(now_ns + 2_000, 0, false), &shared), None, "nothing is at stake");
        let pause = own.look(&at(now_ns + 3_000, 0, true), &shared);
        let told = Some((LIMIT_NS as i64 + 1, PauseSign::Suspend));
        assert_eq!((pause, own.suspended), (told, true));
        assert_eq!(own.look(&at(now_ns + 4_000, 0, true), &shared), None);
        assert!(!own.suspended);
        std::fs::write(&path, "5\n").unwrap();
        let later_ns = now_ns + 4_000 + COUNTED_INTERVAL_NS;
        shared.sender_ran_ns.store(later_ns, Relaxed);
        own.turned_ns = later_ns;
        let sign = own.look(&at(later_ns + 1_000, 0, false), &shared).map(|it| it.1);
        assert_eq!((sign, own.suspended), (Some(PauseSign::Suspend), true));
        // Told by the clock, counted a little later.
        own.suspends.as_mut().unwrap().told_until_ns = later_ns + 5_000;
        std::fs::write(&path, "6\n").unwrap();
        assert_eq!(own.look(&at(later_ns + 3_000, 0, true), &shared), None);
        std::fs::write(&path, "7\n").unwrap();
        assert!(own.look(&at(later_ns + 4_000, 0, true), &shared).is_some());
    }

    #[test]
    fn switched_off_it_notices_nothing() {
        let (mut own, shared, now_ns) = scene(false);
        assert_eq!(own.look(&at(now_ns + 9_000_000_000, 8_000_000_000, true), &shared), None);
    }

    #[test]
    fn steal_is_read_per_cpu() {
        let stat: &[u8] = b"cpu  10 0 20 300 4 0 5 60 0 0\ncpu0 5 0 10 150 2 0 3 20 0 0\n\
                     cpu1 5 0 10 150 2 0 2 40 0 0\nintr 12345 0\n";
        let ticks = |stat| steal_ticks(stat).collect::<Vec<_>>();
        assert_eq!(ticks(stat), [20, 40]);
        assert!(ticks(b"").is_empty());
        assert!(ticks(b"cpu  1 2\ncpu0 1 2\n").is_empty());
    }

    #[test]
    fn one_tick_more_may_be_almost_nothing() {
        assert_eq!(grown_ticks(&[20, 40], &[20, 41]), 0);
        assert_eq!(grown_ticks(&[20, 40], &[24, 41]), 3);
        assert_eq!(grown_ticks(&[20], &[24, 90]), 3, "a CPU that came up");
        assert_eq!(grown_ticks(&[], &[]), 0);
    }

    #[test]
    fn this_machine_tells_its_steal() {
        let mut steal = Steal::new(File::open(STAT).unwrap()).unwrap();
        assert!(!steal.ticks.is_empty());
        let now_ns = monotonic_ns();
        assert_eq!(steal.grown_ns(now_ns + 5_000_000_000, 1_000), 0, "too long ago");
    }
}
