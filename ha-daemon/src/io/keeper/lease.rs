//! The holder's lease: one word of memory that the daemon and its keeper share. The driver renews it
//! at every turn; when it is over, whoever sees it first ends it, and from then on nobody renews or
//! adds an address before everything is given up.
//!
//! The word holds the moment of the last renewal (`CLOCK_BOOTTIME`, so that a suspended machine
//! loses its lease too) and one bit: ended. One compare-and-exchange decides between a driver that
//! wakes up and a keeper that ends the lease at the same moment.
//!
//! Beside it is what keeper and address worker have to know of each other to keep the addresses in
//! the kernel: how long a lifetime they give, and when one of them renewed last. Whoever renews asks
//! here for how long it may ([`Lease::address_seconds`]): a lifetime does not outlast the lease.

use std::ffi::CStr;
use std::fmt;
use std::io;
use std::os::fd::AsFd as _;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Release, SeqCst};
use std::time::Duration;

use crate::io::clock::boottime_ns;
use crate::io::sys::SharedWords;

const NAME: &CStr = c"ha-lease";
const ENDED: u64 = 1;
/// The kernel counts lifetimes of addresses in these.
pub const SECOND_NS: u64 = 1_000_000_000;
/// Longest interval between two renewals of an address.
const RENEW_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// Renewals in a lifetime, where it is short: three may be late or missing.
const RENEWALS_PER_LIFETIME: u32 = 4;
/// How long ago a driver that runs may have renewed its lease, at most: it does so every 100 ms, idle.
const DRIVER_AWAY_MAX: Duration = Duration::from_millis(250);

/// The lease is over: how long its daemon had not run, nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over {
    /// Time since the last renewal.
    pub silent_ns: u64,
}

impl fmt::Display for Over {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.silent_ns as f64 / 1e9;
        write!(out, "this daemon did not run for {seconds:.3} s, and nothing is its own any more")
    }
}

/// The lease of one daemon.
#[derive(Debug)]
pub struct Lease(Arc<SharedWords>);

impl Lease {
    /// A new one of that length; it begins now.
    ///
    /// # Errors
    /// No memory or no descriptor is left.
    pub fn create(length: Duration) -> io::Result<Self> {
        let lease = Self(Arc::new(SharedWords::create(NAME)?));
        lease.set_length(length);
        lease.begin();
        Ok(lease)
    }

    /// The one that another process made.
    ///
    /// # Errors
    /// It is none.
    pub fn of(memory: OwnedFd) -> io::Result<Self> {
        SharedWords::of(memory).map(|it| Self(Arc::new(it)))
    }

    /// Its memory, for the keeper and for the next program.
    #[must_use]
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.0.memory().as_fd()
    }

    /// The words that say whether the acting threads live ([`super::threads`]).
    pub(super) fn owners(&self) -> Option<&[AtomicU32; 3]> {
        self.0.owners()
    }

    /// All its words.
    pub(super) fn shared(&self) -> Arc<SharedWords> {
        Arc::clone(&self.0)
    }

    /// How long it is from now on.
    pub fn set_length(&self, length: Duration) {
        let length_ns = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX >> 2);
        self.0.words()[1].store(length_ns, Release);
    }

    /// Begins anew: nothing is held by it.
    pub fn begin(&self) {
        self.0.words()[0].store(boottime_ns() << 1, SeqCst);
    }

    /// The daemon runs.
    ///
    /// # Errors
    /// It is over: the addresses are lost, and whoever renews has to act on that first.
    pub fn renew(&self) -> Result<(), Over> {
        loop {
            let word = self.0.words()[0].load(Acquire);
            let now_ns = boottime_ns();
            if let Some(over) = self.over(word, now_ns) {
                self.end();
                return Err(over);
            }
            let next = now_ns << 1;
            if self.0.words()[0].compare_exchange(word, next, SeqCst, Acquire).is_ok() {
                return Ok(());
            }
        }
    }

    /// Whether it is over, ended by anybody or not yet.
    #[must_use]
    pub fn is_over(&self) -> Option<Over> {
        self.over(self.0.words()[0].load(Acquire), boottime_ns())
    }

    /// Ends it when it is over. Whether it is ended now.
    pub fn end(&self) -> bool {
        loop {
            let word = self.0.words()[0].load(Acquire);
            if word & ENDED != 0 {
                return true;
            }
            if self.over(word, boottime_ns()).is_none() {
                return false;
            }
            if self.0.words()[0].compare_exchange(word, word | ENDED, SeqCst, Acquire).is_ok() {
                return true;
            }
        }
    }

    /// When it ends unless it is renewed, `CLOCK_BOOTTIME`; `None`: it has ended.
    #[must_use]
    pub fn ends_at_ns(&self) -> Option<u64> {
        let word = self.0.words()[0].load(Acquire);
        (word & ENDED == 0).then(|| (word >> 1).saturating_add(self.length_ns()))
    }

    /// When it was renewed last, `CLOCK_BOOTTIME`.
    #[must_use]
    pub fn renewed_at_ns(&self) -> u64 {
        self.0.words()[0].load(Acquire) >> 1
    }

    /// How long an address stays in the kernel without being renewed; whole seconds.
    pub fn set_address_lifetime(&self, lifetime: Duration) {
        self.0.words()[3].store(lifetime.as_secs(), Release);
    }

    /// The same; `None`: no worker has begun.
    #[must_use]
    pub fn address_lifetime(&self) -> Option<Duration> {
        let seconds = self.0.words()[3].load(Acquire);
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }

    /// Addresses were renewed at that time, `CLOCK_BOOTTIME`.
    pub fn note_addresses_renewed(&self, at_ns: u64) {
        self.0.words()[2].store(at_ns, Release);
    }

    /// When addresses were renewed last, by the worker or by the keeper.
    #[must_use]
    pub fn addresses_renewed_at_ns(&self) -> u64 {
        self.0.words()[2].load(Acquire)
    }

    /// Until when an address that is renewed now may stay, should nobody of this node run any more:
    /// until the lease ends. Where the configured lifetime is longer than that it counts, since a
    /// daemon that runs has to renew by something; `ha-daemon check` warns of it.
    #[must_use]
    pub fn addresses_end_ns(&self) -> Option<u64> {
        let word = self.0.words()[0].load(Acquire);
        let lifetime = self.address_lifetime().unwrap_or_default() + DRIVER_AWAY_MAX;
        let lifetime_ns = u64::try_from(lifetime.as_nanos()).unwrap_or(u64::MAX);
        let length_ns = self.length_ns().max(lifetime_ns);
        (word & ENDED == 0).then(|| (word >> 1).saturating_add(length_ns))
    }

    /// The lifetime in seconds that an address may be given at `now_ns`; `None`: not a whole one is
    /// left, and what it has has to do until the driver runs.
    #[must_use]
    pub fn address_seconds(&self, now_ns: u64) -> Option<u64> {
        let left = self.addresses_end_ns()?.saturating_sub(now_ns) / SECOND_NS;
        let seconds = left.min(self.address_lifetime()?.as_secs());
        (seconds > 0).then_some(seconds)
    }

    fn length_ns(&self) -> u64 {
        self.0.words()[1].load(Acquire)
    }

    fn over(&self, word: u64, now_ns: u64) -> Option<Over> {
        // The clock may have been read before the word was written.
        let silent_ns = now_ns.saturating_sub(word >> 1);
        (word & ENDED != 0 || silent_ns >= self.length_ns()).then_some(Over { silent_ns })
    }
}

/// How often addresses of that lifetime are renewed.
#[must_use]
pub fn renew_interval(lifetime: Duration) -> Duration {
    (lifetime / RENEWALS_PER_LIFETIME).min(RENEW_INTERVAL_MAX)
}

#[cfg(test)]
mod tests {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::sys::memfd::MFdFlags;

    use super::*;

    const SHORT: Duration = Duration::from_millis(5);
    const LONG: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_renewed_lease_is_not_over_and_nobody_ends_it() {
        let lease = Lease::create(LONG).unwrap();
        let ends_ns = lease.ends_at_ns().unwrap();
        assert_eq!(lease.renew(), Ok(()));
        assert!(lease.ends_at_ns().unwrap() >= ends_ns);
        assert!(!lease.end());
        assert_eq!(lease.is_over(), None);
    }

    #[test]
    fn a_lease_that_is_over_is_never_renewed_until_it_begins_anew() {
        let lease = Lease::create(SHORT).unwrap();
        std::thread::sleep(2 * SHORT);
        // Nobody has ended it: who renews finds out by the clock.
        assert!(lease.renew().unwrap_err().silent_ns >= 10_000_000);
        lease.set_length(LONG);
        assert!(lease.renew().is_err() && lease.is_over().is_some() && lease.end());
        assert_eq!(lease.ends_at_ns(), None);
        lease.begin();
        assert_eq!(lease.renew(), Ok(()));
    }

    #[test]
    fn both_processes_see_the_same_lease() {
        let ours = Lease::create(LONG).unwrap();
        let theirs = Lease::of(ours.memory().try_clone_to_owned().unwrap()).unwrap();
        ours.set_length(SHORT);
        std::thread::sleep(2 * SHORT);
        assert!(theirs.end());
        assert!(ours.renew().is_err());
        assert_eq!(ours.renewed_at_ns(), theirs.renewed_at_ns());
    }

    /// A lease of that length and the lifetime in seconds: what may be given that long after its renewal.
    fn seconds_after(length_ms: u64, lifetime_s: u64, after_ms: u64) -> Option<u64> {
        let lease = Lease::create(Duration::from_millis(length_ms)).unwrap();
        lease.set_address_lifetime(Duration::from_secs(lifetime_s));
        lease.address_seconds(lease.renewed_at_ns() + after_ms * 1_000_000)
    }

    #[test]
    fn a_lifetime_does_not_outlast_the_lease() {
        let by_age = [0, 100, 740, 760, 1_740, 1_760, 2_740];
        let given = by_age.map(|after_ms| seconds_after(2_750, 2, after_ms));
        assert_eq!(given, [Some(2), Some(2), Some(2), Some(1), Some(1), None, None]);
    }

    #[test]
    fn a_lifetime_that_is_longer_than_the_lease_is_given_by_a_daemon_that_runs() {
        assert_eq!(seconds_after(750, 1, 100), Some(1));
        assert_eq!(seconds_after(750, 1, 300), None);
        assert_eq!(seconds_after(2_750, 60, 100), Some(60));
    }

    #[test]
    fn without_lease_or_lifetime_nothing_is_given() {
        assert_eq!(seconds_after(2_750, 0, 0), None);
        let lease = Lease::create(SHORT).unwrap();
        lease.set_address_lifetime(LONG);
        std::thread::sleep(2 * SHORT);
        assert!(lease.end());
        assert_eq!(lease.address_seconds(lease.renewed_at_ns()), None);
    }

    #[test]
    fn renewals_are_as_frequent_as_a_lifetime_needs_them() {
        let intervals = [1, 2, 5, 60].map(|it| renew_interval(Duration::from_secs(it)).as_millis());
        assert_eq!(intervals, [250, 500, 1_000, 1_000]);
    }

    #[test]
    fn the_lease_of_an_earlier_program_is_taken_over_without_words_of_threads() {
        let flags = MFdFlags::MFD_ALLOW_SEALING;
        let memory = nix::sys::memfd::memfd_create(c"ha-lease", flags).unwrap();
        nix::unistd::ftruncate(&memory, 32).unwrap();
        let seals = FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW);
        fcntl(&memory, seals).unwrap();
        let lease = Lease::of(memory).unwrap();
        lease.set_length(LONG);
        lease.begin();
        assert_eq!(lease.renew(), Ok(()));
        assert!(lease.owners().is_none());
        assert!(Lease::create(LONG).unwrap().owners().is_some());
    }

    #[test]
    fn what_is_no_lease_is_refused() {
        let memory = nix::sys::memfd::memfd_create(c"x", MFdFlags::empty());
        assert!(Lease::of(memory.unwrap()).is_err());
    }
}
