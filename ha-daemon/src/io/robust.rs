//! Robust futexes (get_robust_list(2), the kernel's `robust-futexes` document): words that say whether the
//! thread that owns them lives.
//!
//! A thread that dies, of whatever, goes through its robust list first: the kernel marks each word of it
//! and wakes who waits for that. Only then it takes the process's memory apart and closes its files, which
//! takes a millisecond and more where memory is locked, and needs every thread to have had a CPU.

use std::cell::Cell;
use std::io;
use std::mem::size_of;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, SeqCst};

use nix::errno::Errno;
use rustix::thread::futex::{self, Flags, OWNER_DIED, WAITERS};

use super::sys::SharedWords;

/// What a word holds of its owner: the thread's number (linux/futex.h). A dead one's is taken out.
const FUTEX_TID_MASK: u32 = 0x3fff_ffff;
/// Everybody who waits.
const ALL: u32 = i32::MAX.unsigned_abs();

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

thread_local! {
    /// Whether the thread owns a word: it has one list.
    static OWNS: Cell<bool> = const { Cell::new(false) };
}

/// The calling thread owns a word until this is dropped, or until it dies.
pub struct Owned {
    memory: Arc<SharedWords>,
    owner: usize,
    thread: u32,
    /// Where the kernel finds it: must not move.
    _list: Box<List>,
    /// The C library's own. A list is its thread's, so this is not sent to another one (a pointer is not).
    earlier: (*const libc::c_void, usize),
}

impl Owned {
    /// Has the calling thread own one of the words. Its robust mutexes of the C library, if it has any, are
    /// none meanwhile.
    ///
    /// # Errors
    /// The kernel, or a filter of system calls, refuses it; there is no such word; or the thread owns one already.
    pub fn take(memory: Arc<SharedWords>, owner: usize) -> io::Result<Self> {
        let word = memory.owners().and_then(|it| it.get(owner)).ok_or(Errno::EINVAL)?;
        if OWNS.get() {
            return Err(Errno::EBUSY.into());
        }
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
        let word_at = ptr::from_ref(word) as usize;
        list.futex_offset = word_at.wrapping_sub(entry as usize) as libc::c_long;
        // SAFETY: the list lives as long as it is registered (until `drop`, on the same thread, or for ever)
        // and does not move, nor does the mapping of the word, which `memory` keeps; the kernel looks at
        // nothing else.
        Errno::result(unsafe {
            libc::syscall(libc::SYS_set_robust_list, &raw const *list, HEAD_BYTES)
        })?;
        OWNS.set(true);
        let thread = nix::unistd::gettid().as_raw().unsigned_abs() & FUTEX_TID_MASK;
        word.store(thread, SeqCst);
        wake_all(word);
        Ok(Self { memory, owner, thread, _list: list, earlier })
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(word) = self.memory.owners().and_then(|it| it.get(self.owner)) {
            // Another thread may have taken it over.
            let own = |seen: u32| (seen & FUTEX_TID_MASK == self.thread).then_some(0);
            let _ = word.fetch_update(SeqCst, Acquire, own);
            wake_all(word);
        }
        // SAFETY: what the kernel gave, for this thread, whose C library keeps it as long as it lives.
        let _ = unsafe { libc::syscall(libc::SYS_set_robust_list, self.earlier.0, self.earlier.1) };
        OWNS.set(false);
    }
}

/// Whoever waits looks at it again.
fn wake_all(word: &AtomicU32) {
    // It fails for no argument that is possible here.
    let _ = futex::wake(word, Flags::empty(), ALL);
}

/// Whether its owner died, and nobody owns it since.
#[must_use]
pub fn is_dead(word: &AtomicU32) -> bool {
    word.load(Acquire) & OWNER_DIED != 0
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
    wait_until(word, |seen| seen & OWNER_DIED != 0)
}

/// Waits until nobody owns the word who lives.
///
/// # Errors
/// Those of futex(2).
pub fn wait_while_owned(word: &AtomicU32) -> io::Result<()> {
    wait_until(word, |seen| seen & FUTEX_TID_MASK == 0)
}

fn wait_until(word: &AtomicU32, is_over: impl Fn(u32) -> bool) -> io::Result<()> {
    loop {
        let seen = word.load(Acquire);
        if is_over(seen) {
            // The kernel wakes one of those who wait for a death.
            wake_all(word);
            return Ok(());
        }
        // And nobody for a word that does not say that somebody waits.
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
    use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// Longer than anything takes here.
    const LONG: Duration = Duration::from_secs(20);

    fn memory() -> Arc<SharedWords> {
        Arc::new(SharedWords::create(c"robust").unwrap())
    }

    fn word(memory: &SharedWords) -> &AtomicU32 {
        &memory.owners().unwrap()[0]
    }

    /// Tells what waiting for a death came to.
    fn watch(memory: &Arc<SharedWords>) -> Receiver<bool> {
        let (told, death) = channel();
        let memory = Arc::clone(memory);
        thread::spawn(move || told.send(wait_for_death(word(&memory)).is_ok()));
        death
    }

    /// As a kill would end it: nothing is dropped.
    fn die_owning(memory: &Arc<SharedWords>) {
        let memory = Arc::clone(memory);
        let dies = move || std::mem::forget(Owned::take(memory, 0).unwrap());
        thread::spawn(dies).join().unwrap();
    }

    #[test]
    fn an_owner_that_lets_go_is_waited_past_and_one_that_dies_is_noticed_by_everybody() {
        let memory = memory();
        let deaths = [watch(&memory), watch(&memory)];
        for _ in 0..100 {
            let memory = Arc::clone(&memory);
            let lets_go = move || drop(Owned::take(memory, 0).unwrap());
            thread::spawn(lets_go).join().unwrap();
        }
        assert_eq!(word(&memory).load(Acquire), 0);
        let nothing = deaths[0].recv_timeout(Duration::from_millis(50));
        assert_eq!(nothing, Err(RecvTimeoutError::Timeout), "nobody died");
        die_owning(&memory);
        for death in deaths {
            assert_eq!(death.recv_timeout(LONG), Ok(true));
        }
        assert!(is_dead(word(&memory)));
        forget_the_dead(word(&memory));
        assert_eq!(word(&memory).load(Acquire), 0);
    }

    #[test]
    fn an_owner_that_lives_is_not_forgotten_and_has_one_word() {
        let memory = memory();
        let owned = Owned::take(Arc::clone(&memory), 0).unwrap();
        let seen = word(&memory).load(Acquire);
        forget_the_dead(word(&memory));
        assert!(seen != 0 && word(&memory).load(Acquire) == seen);
        assert!(Owned::take(Arc::clone(&memory), 1).is_err());
        drop(owned);
        assert_eq!(word(&memory).load(Acquire), 0);
        drop(Owned::take(Arc::clone(&memory), 1).unwrap());
        assert!(Owned::take(memory, 99).is_err());
    }

    #[test]
    fn an_owner_whose_word_was_taken_over_leaves_it_alone() {
        let memory = memory();
        let owned = Owned::take(Arc::clone(&memory), 0).unwrap();
        die_owning(&memory);
        drop(owned);
        assert!(is_dead(word(&memory)));
    }

    #[test]
    fn who_waits_while_it_is_owned_goes_on_when_it_is_let_go() {
        let memory = memory();
        wait_while_owned(word(&memory)).unwrap();
        let owned = Owned::take(Arc::clone(&memory), 0).unwrap();
        let (told, end) = channel();
        let watched = Arc::clone(&memory);
        thread::spawn(move || told.send(wait_while_owned(word(&watched)).is_ok()));
        assert!(end.recv_timeout(Duration::from_millis(50)).is_err());
        drop(owned);
        assert_eq!(end.recv_timeout(LONG), Ok(true));
        die_owning(&memory);
        wait_while_owned(word(&memory)).unwrap();
    }
}
