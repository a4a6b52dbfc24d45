//! Robust futexes (get_robust_list(2), the kernel's `robust-futexes` document): words that say whether the
//! thread that owns them lives.
//!
//! A thread that dies, of whatever, goes through its robust list first: the kernel marks each word of it
//! and wakes who waits for that. Only then it takes the process's memory apart and closes its files, which
//! takes a millisecond and more where memory is locked, and needs every thread to have had a CPU.

use std::io;
use std::mem::size_of;
use std::ptr;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, SeqCst};

use nix::errno::Errno;
use rustix::thread::futex::{self, Flags, OWNER_DIED, WAITERS};

/// What a word holds of its owner: the thread's number (linux/futex.h).
const FUTEX_TID_MASK: u32 = 0x3fff_ffff;

/// `struct robust_list` (linux/futex.h).
#[repr(C)]
struct Entry {
    next: *const Entry,
}

/// `struct robust_list_head`, and the one entry of this list.
#[repr(C)]
struct List {
    first: Entry,
    /// From an entry to its word.
    futex_offset: libc::c_long,
    pending: *const Entry,
    entry: Entry,
}

/// What the kernel reads of it.
const HEAD_BYTES: usize = size_of::<List>() - size_of::<Entry>();

/// The calling thread owns a word until this is dropped, or until it dies.
pub struct Owned<W: AsRef<AtomicU32>> {
    word: W,
    /// Where the kernel finds it: must not move.
    _list: Box<List>,
    /// The C library's own. A list is its thread's, so this is not sent to another one (a pointer is not).
    earlier: (*const libc::c_void, usize),
}

impl<W: AsRef<AtomicU32>> Owned<W> {
    /// Has the calling thread own the word, which is shared memory. Its robust mutexes of the C library,
    /// if it has any, are none meanwhile.
    ///
    /// # Errors
    /// The kernel, or a filter of system calls, refuses it.
    pub fn take(word: W) -> io::Result<Self> {
        let mut earlier = (ptr::null(), 0);
        // SAFETY: both pointers are to live variables; 0 is the calling thread.
        Errno::result(unsafe {
            libc::syscall(libc::SYS_get_robust_list, 0, &raw mut earlier.0, &raw mut earlier.1)
        })?;
        let nothing = || Entry { next: ptr::null() };
        let pending = ptr::null();
        let list = List { first: nothing(), futex_offset: 0, pending, entry: nothing() };
        let mut list = Box::new(list);
        let entry = &raw const list.entry;
        list.first.next = entry;
        list.entry.next = &raw const list.first;
        let word_at = ptr::from_ref(word.as_ref()) as usize;
        list.futex_offset = word_at.wrapping_sub(entry as usize) as libc::c_long;
        // SAFETY: the list lives as long as it is registered (until `drop`, on the same thread, or for
        // ever) and does not move; the kernel looks at nothing but the list and the word.
        Errno::result(unsafe {
            libc::syscall(libc::SYS_set_robust_list, &raw const *list, HEAD_BYTES)
        })?;
        let thread = nix::unistd::gettid().as_raw().unsigned_abs();
        set(word.as_ref(), thread & FUTEX_TID_MASK);
        Ok(Self { word, _list: list, earlier })
    }
}

impl<W: AsRef<AtomicU32>> Drop for Owned<W> {
    fn drop(&mut self) {
        set(self.word.as_ref(), 0);
        // SAFETY: what the kernel gave, for this thread, whose C library keeps it as long as it lives.
        let _ = unsafe { libc::syscall(libc::SYS_set_robust_list, self.earlier.0, self.earlier.1) };
    }
}

/// Whoever waits looks at it again.
fn set(word: &AtomicU32, value: u32) {
    word.store(value, SeqCst);
    // It fails for no argument that is possible here.
    let _ = futex::wake(word, Flags::empty(), u32::MAX >> 1);
}

/// Forgets an owner that died; one that lives stays.
pub fn forget_the_dead(word: &AtomicU32) {
    let dead = |seen: u32| (seen & OWNER_DIED != 0).then_some(0);
    let _ = word.fetch_update(SeqCst, Acquire, dead);
}

/// Waits until the owner of the word dies. One that lets it go is waited past: another one may come.
///
/// # Errors
/// Those of futex(2).
pub fn wait_for_death(word: &AtomicU32) -> io::Result<()> {
    loop {
        let seen = word.load(Acquire);
        if seen & OWNER_DIED != 0 {
            return Ok(());
        }
        // The kernel wakes nobody for a word that does not say that somebody waits.
        let waiting = if seen & FUTEX_TID_MASK == 0 { seen } else { seen | WAITERS };
        if word.compare_exchange(seen, waiting, SeqCst, Acquire).is_err() {
            continue;
        }
        match futex::wait(word, Flags::empty(), waiting, None) {
            Ok(()) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    #[derive(Clone, Default)]
    struct Word(Arc<AtomicU32>);

    impl AsRef<AtomicU32> for Word {
        fn as_ref(&self) -> &AtomicU32 {
            &self.0
        }
    }

    #[test]
    fn an_owner_that_lets_go_is_waited_past_and_one_that_dies_is_noticed() {
        let word = Word::default();
        let (died, death) = channel();
        let watched = word.clone();
        let watch = thread::spawn(move || died.send(wait_for_death(&watched.0)));
        for _ in 0..100 {
            let word = word.clone();
            let lets_go = move || drop(Owned::take(word).unwrap());
            thread::spawn(lets_go).join().unwrap();
        }
        assert_eq!(word.0.load(Acquire) & !WAITERS, 0);
        assert!(death.try_recv().is_err(), "nobody died");
        let owner = word.clone();
        // As a kill would end it: nothing is dropped.
        let dies = move || std::mem::forget(Owned::take(owner).unwrap());
        thread::spawn(dies).join().unwrap();
        death.recv().unwrap().unwrap();
        watch.join().unwrap().unwrap();
        assert_ne!(word.0.load(Acquire) & OWNER_DIED, 0);
        forget_the_dead(&word.0);
        assert_eq!(word.0.load(Acquire), 0);
    }

    #[test]
    fn an_owner_that_lives_is_not_forgotten() {
        let word = Word::default();
        let owned = Owned::take(word.clone()).unwrap();
        let seen = word.0.load(Acquire);
        forget_the_dead(&word.0);
        assert!(seen != 0 && word.0.load(Acquire) == seen);
        drop(owned);
        assert_eq!(word.0.load(Acquire), 0);
    }
}
