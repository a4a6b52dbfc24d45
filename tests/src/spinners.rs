//! What starves a machine: a thread on every CPU that does nothing, at a real-time priority.

use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::clock::monotonic_ns;
use crate::sys;

/// Above everything ordinary, below the threads of the daemon.
const PRIORITY: u8 = 50;

/// Threads that spin, one on every CPU.
#[derive(Debug)]
pub struct Spinners {
    threads: Vec<JoinHandle<()>>,
}

impl Spinners {
    /// Starts them; they end by themselves at `end_ns` (`CLOCK_MONOTONIC`), since nobody else might get to end
    /// them. The kernel lets real-time threads have 0.95 s of every second: keep it shorter.
    ///
    /// # Errors
    /// Real-time priority is refused.
    pub fn start(end_ns: u64) -> Result<Self> {
        let count = thread::available_parallelism()?.get();
        let threads = (0..count)
            .map(|cpu| {
                let (ready, started) = std::sync::mpsc::sync_channel(1);
                let thread =
                    thread::Builder::new().name("spinner".to_owned()).spawn(move || {
                        let settled = settle(cpu);
                        let spins = settled.is_ok();
                        // The starter waits for this very message.
                        let _ = ready.send(settled);
                        while spins && monotonic_ns() < end_ns {
                            std::hint::spin_loop();
                        }
                    })?;
                started.recv()??;
                Ok(thread)
            })
            .collect::<Result<_>>()?;
        Ok(Self { threads })
    }

    /// Waits for their end.
    pub fn join(self) {
        for thread in self.threads {
            // They do nothing that could panic.
            let _ = thread.join();
        }
    }
}

fn settle(cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).context("cannot stay on one CPU")?;
    sys::set_fifo(PRIORITY).context("a spinner needs SCHED_FIFO")
}
