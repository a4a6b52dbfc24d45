//! What this process takes for itself before anything runs: its limits, and the lock that makes it the only one.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};

/// Sets the limits that a daemon needs; services get their own back.
pub(super) fn raise_limits() {
    // Kernels before 5.11 count BPF maps against it.
    let infinity = nix::sys::resource::RLIM_INFINITY;
    let _ = nix::sys::resource::setrlimit(
        nix::sys::resource::Resource::RLIMIT_MEMLOCK,
        infinity,
        infinity,
    );
    // A dying process closes its files only after its core dump is written: the keeper and the peers
    // would learn of its death that much later.
    // Services get theirs back. One byte is too small for any core, and the only limit
    // that also keeps the kernel from writing one into a pipe, systemd-coredump's for one, which 0 does not
    // (core(5); fs/coredump.c).
    let core = nix::sys::resource::Resource::RLIMIT_CORE;
    if let Ok((_, hard)) = nix::sys::resource::getrlimit(core) {
        let _ = nix::sys::resource::setrlimit(core, 1, hard.max(1));
    }
}

/// One daemon per run directory; `held` is the lock of the program before.
pub(super) fn lock(directory: &Path, held: Option<File>) -> Result<nix::fcntl::Flock<File>> {
    let path = directory.join("lock");
    let file = match held {
        Some(file) => file,
        None => File::create(&path).with_context(|| format!("cannot make {}", path.display()))?,
    };
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).map_err(|_| {
        anyhow::anyhow!(
            "another daemon runs with run directory {}: stop it, or choose another --run-dir",
            directory.display()
        )
    })
}
