//! The judge in the kernel, as the daemon sees it: one timer per path, armed by running a small
//! program, and the words that the daemon and the timers share.
//!
//! Timers belong to the map `watch`: they outlive the daemon with its pins, the next instance arms them anew with
//! its own program, and they end when the map goes.

use std::io;

use anyhow::{Context, Result, bail};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use ha_common::maps::SLOTS_MAX;
use ha_common::watch::{Arming, Watch};

use super::Kernel;

/// Name of the program that arms a timer.
const WATCH_PROGRAM: &str = "ha_watch";
/// The kernel runs an XDP program on no less than an Ethernet header (`net/bpf/test_run.c`).
const PACKET_BYTES: usize = 64;
/// What the timer of a path judges by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchTimes {
    /// Position in the `links` map.
    pub slot: u32,
    /// Silence after which the path is suspect, nanoseconds.
    pub suspect_ns: u64,
    /// Silence after which its peer may be dead, nanoseconds.
    pub deadtime_ns: u64,
    /// Lateness of a tick that counts as a pause of this node, nanoseconds; 0 = none does.
    pub pause_limit_ns: u64,
}

impl WatchTimes {
    /// Stores them; a timer that runs goes by them from its next tick on.
    pub fn store(&self, watch: Watch<'_>) {
        watch.set_deadtime_ns(self.deadtime_ns);
        watch.set_pause_limit_ns(self.pause_limit_ns);
        watch.set_suspect_ns(self.suspect_ns);
    }
}

impl Kernel {
    /// Sets by what exactly these paths are to be watched; [`Kernel::arm`] then begins with each.
    ///
    /// # Errors
    /// Why it cannot: kernels before 5.15 have no timers for programs. Nothing is watched then.
    pub fn watch(&mut self, paths: &[WatchTimes]) -> Result<()> {
        self.watch_nothing();
        self.load_watch()?;
        for times in paths {
            let watch = self.watched(times.slot).context("no such slot")?;
            times.store(watch);
        }
        Ok(())
    }

    /// Has every timer end with its next tick.
    fn watch_nothing(&self) {
        for watch in (0..SLOTS_MAX as u32).filter_map(|slot| self.watched(slot)) {
            watch.set_suspect_ns(0);
        }
    }

    fn load_watch(&mut self) -> Result<()> {
        let program = self.ebpf.program_mut(WATCH_PROGRAM).context("no such program")?;
        let program: &mut Xdp = program.try_into()?;
        if program.fd().is_err() {
            super::load(|| program.load())
                .context("the kernel refused the program with the timers")?;
        }
        Ok(())
    }

    /// Arms the timer of a path whose times are set, also one that runs: it begins a fresh window. `false`:
    /// there is no memory for it this moment. (The kernel does not wait for any there, and when it needs a
    /// page may get it only some turns later.)
    ///
    /// # Errors
    /// The kernel refused.
    pub fn arm(&self, slot: u32) -> Result<bool> {
        let program = self.ebpf.program(WATCH_PROGRAM).context("no such program")?;
        let program: &Xdp = program.try_into()?;
        let mut packet = [0; PACKET_BYTES];
        packet[..4].copy_from_slice(&slot.to_ne_bytes());
        let options = TestRunOptions { data_in: Some(&packet), ..TestRunOptions::new() };
        let result = program.test_run(options).context("the kernel does not run the program")?;
        let word = result.return_value;
        if word == Arming::Done as u32 {
            return Ok(true);
        }
        let helpers = [
            (Arming::NoTimer, "bpf_timer_init"),
            (Arming::NoCallback, "bpf_timer_set_callback"),
            (Arming::NotStarted, "bpf_timer_start"),
        ];
        for (arming, helper) in helpers {
            if let Some(errno) = arming.errno_in(word) {
                if errno == libc::ENOMEM {
                    return Ok(false);
                }
                bail!(
                    "the kernel does not watch slot {slot}: {helper}: {}",
                    io::Error::from_raw_os_error(errno)
                );
            }
        }
        bail!("there is nothing to watch in slot {slot}")
    }

    /// The words of the timer in a slot.
    #[must_use]
    pub fn watched(&self, slot: u32) -> Option<Watch<'_>> {
        self.watched.get(slot)
    }
}
