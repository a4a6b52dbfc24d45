//! Incarnations of the peers, from the driver to the control connections: words and an eventfd, so
//! that the driver takes no lock that an ordinary thread might hold. A task passes them on.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::{Context, Result};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::watch;

use super::sys;

/// Where the driver says what it hears.
#[derive(Debug)]
pub struct HeardWords {
    incarnations: Box<[AtomicU64]>,
    wake: EventFd,
}

impl HeardWords {
    /// For so many paths; and what its readers look at. The task that passes on runs on the caller's
    /// runtime until that ends.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn start(paths: usize) -> Result<(Arc<Self>, watch::Receiver<Vec<u64>>)> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let wake = EventFd::from_flags(flags).context("cannot make an eventfd")?;
        let woken = wake.as_fd().try_clone_to_owned().context("cannot duplicate an eventfd")?;
        let woken = sys::watch_event(woken).context("cannot watch an eventfd")?;
        let incarnations = (0..paths).map(|_| AtomicU64::new(0)).collect();
        let words = Arc::new(Self { incarnations, wake });
        let (sender, receiver) = watch::channel(vec![0; paths]);
        let told = Arc::clone(&words);
        tokio::spawn(async move {
            while let Ok(mut ready) = woken.readable().await {
                // Cleared before they are read: what is written later wakes again.
                ready.clear_ready();
                let _ = told.wake.read();
                sender.send_replace(told.incarnations.iter().map(|it| it.load(Relaxed)).collect());
            }
        });
        Ok((words, receiver))
    }

    /// Says which incarnations are heard, by path. Neither waits nor allocates.
    pub fn tell(&self, heard: &[u64]) {
        for (word, incarnation) in self.incarnations.iter().zip(heard) {
            word.store(*incarnation, Relaxed);
        }
        // It fails only when it is at its limit, and then the reader wakes anyway.
        let _ = self.wake.write(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_told_arrives_and_the_last_word_counts() {
        let (words, mut heard) = HeardWords::start(2).unwrap();
        words.tell(&[7, 0]);
        heard.wait_for(|it| *it == [7, 0]).await.unwrap();
        words.tell(&[7, 8]);
        words.tell(&[9, 8]);
        heard.wait_for(|it| *it == [9, 8]).await.unwrap();
    }
}
