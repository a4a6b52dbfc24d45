//! Who may use the machine when: the harness runs tests in parallel threads, and a test that measures
//! must not be disturbed by the others, while scenarios mostly wait and can share it.

use std::sync::{Condvar, Mutex, PoisonError};

/// Most scenarios at once: their daemons, observers and clients together stay far below the two
/// cores of the smallest machine.
const SHARED_MAX: usize = 6;

#[derive(Debug, Default)]
struct Use {
    alone: bool,
    /// Somebody waits to be alone: nobody else comes in before.
    wanted_alone: usize,
    shared: usize,
}

static USE: Mutex<Use> = Mutex::new(Use { alone: false, wanted_alone: 0, shared: 0 });
static CHANGED: Condvar = Condvar::new();

/// The right to use the machine; ends when it is dropped.
#[derive(Debug)]
#[must_use = "the turn ends when this is dropped"]
pub struct Turn {
    alone: bool,
}

/// Waits for the machine for itself alone, within this process: for tests that measure.
pub fn turn() -> Turn {
    let mut now = USE.lock().unwrap_or_else(PoisonError::into_inner);
    now.wanted_alone += 1;
    while now.alone || now.shared > 0 {
        now = CHANGED.wait(now).unwrap_or_else(PoisonError::into_inner);
    }
    now.wanted_alone -= 1;
    now.alone = true;
    Turn { alone: true }
}

/// Waits for one of few places beside each other, within this process: for tests that mostly wait.
pub fn turn_with_others() -> Turn {
    let mut now = USE.lock().unwrap_or_else(PoisonError::into_inner);
    while now.alone || now.wanted_alone > 0 || now.shared >= SHARED_MAX {
        now = CHANGED.wait(now).unwrap_or_else(PoisonError::into_inner);
    }
    now.shared += 1;
    Turn { alone: false }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut now = USE.lock().unwrap_or_else(PoisonError::into_inner);
        if self.alone {
            now.alone = false;
        } else {
            now.shared -= 1;
        }
        CHANGED.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::thread;

    use super::*;

    #[test]
    fn who_is_alone_is_alone_and_few_are_together() {
        static INSIDE: AtomicUsize = AtomicUsize::new(0);
        let threads: Vec<_> = (0..24)
            .map(|number| {
                thread::spawn(move || {
                    let alone = number % 4 == 0;
                    let _turn = if alone { turn() } else { turn_with_others() };
                    let others = INSIDE.fetch_add(1, SeqCst);
                    assert!(others < if alone { 1 } else { SHARED_MAX });
                    thread::yield_now();
                    INSIDE.fetch_sub(1, SeqCst);
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
