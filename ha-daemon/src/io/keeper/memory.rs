//! The keeper's memory stays in memory: it must run when nothing is left to read it back into.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::Context as _;
use nix::sys::mman::{MlockAllFlags, mlockall};

use crate::io::sys;

/// What of it is locked. Not `MCL_FUTURE`: under a low `RLIMIT_MEMLOCK` that would make an allocation
/// fail, which is worse than a page that might be swapped. So what is mapped later is locked when it
/// is seen, and only then: mlockall(2) walks every page of the process, up to half a millisecond in which the
/// keeper holds up the address worker, which has its priority.
#[derive(Debug)]
pub(super) struct LockedMemory {
    /// `/proc/self/statm`, whose first number is what is mapped. `None`: nobody says that.
    statm: Option<File>,
    /// When it was last locked, pages.
    mapped: u64,
}

impl LockedMemory {
    /// Locks what is mapped now.
    ///
    /// # Errors
    /// The kernel refuses that (`EPERM`, `ENOMEM`: mlockall(2)).
    pub(super) fn lock() -> anyhow::Result<Self> {
        // All from the heap, and nothing given back: where the allocator can do that, what is mapped only grows.
        if sys::keep_heap() {
            sys::settle_heap();
        }
        let statm = File::open("/proc/self/statm").ok();
        let mapped = statm.as_ref().and_then(|it| mapped(it).ok()).unwrap_or(0);
        lock_all()?;
        Ok(Self { statm, mapped })
    }

    /// Locks what was mapped since, if there is anything, or if that cannot be known: whether it did.
    ///
    /// # Errors
    /// As for [`Self::lock`].
    pub(super) fn lock_what_came(&mut self) -> anyhow::Result<bool> {
        let now = self.statm.as_ref().and_then(|it| mapped(it).ok()).unwrap_or(u64::MAX);
        // What was refused is not asked for again until there is more.
        let before = std::mem::replace(&mut self.mapped, now);
        let came = before < now || now == u64::MAX;
        if came {
            lock_all()?;
        }
        Ok(came)
    }
}

fn lock_all() -> anyhow::Result<()> {
    mlockall(MlockAllFlags::MCL_CURRENT).context("cannot lock its memory, swapping may delay it")
}

/// Pages that are mapped (proc(5)).
fn mapped(statm: &File) -> anyhow::Result<u64> {
    let mut text = [0; 128];
    let length = statm.read_at(&mut text, 0).context("cannot read /proc/self/statm")?;
    let text = text.get(..length).unwrap_or_default();
    let first = text.split(|byte| *byte == b' ').next().unwrap_or_default();
    let first = std::str::from_utf8(first).context("/proc/self/statm is no text")?;
    first.parse().with_context(|| format!("/proc/self/statm begins with {first:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mapped_later_is_seen() -> anyhow::Result<()> {
        let statm = File::open("/proc/self/statm")?;
        let before = mapped(&statm)?;
        let large = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = mapped(&statm)?;
        // Other tests of this process may give something back meanwhile.
        let pages = large.len() as u64 / 4096;
        assert!(after >= before + pages / 2, "{before} pages, then {after}");
        Ok(())
    }
}
