//! Beds that must go although nothing is dropped: on SIGINT, SIGTERM, SIGHUP, and on a panic that
//! aborts.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, Once, PoisonError, Weak};
use std::{io, panic, process, thread};

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use super::World;
use crate::sys;

static WORLDS: Mutex<Vec<Weak<World>>> = Mutex::new(Vec::new());
static INSTALL: Once = Once::new();

/// From now on `world` is removed when a signal ends the process.
pub(super) fn watch(world: &Arc<World>) {
    INSTALL.call_once(|| {
        if let Err(error) = install() {
            eprintln!("an interrupt will leave namespaces behind until the next start: {error}");
        }
    });
    let mut worlds = WORLDS.lock().unwrap_or_else(PoisonError::into_inner);
    worlds.retain(|world| world.strong_count() > 0);
    worlds.push(Arc::downgrade(world));
}

/// Removes every bed of this process and says what failed.
fn tear_down_all() {
    let worlds: Vec<Arc<World>> = WORLDS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
        .filter_map(Weak::upgrade)
        .collect();
    for world in worlds {
        world.tear_down_for_good();
    }
}

fn install() -> io::Result<()> {
    let (reader, writer): (OwnedFd, OwnedFd) = pipe2(OFlag::O_CLOEXEC)?;
    thread::Builder::new().name("interrupts".to_owned()).spawn(move || await_signal(reader))?;
    sys::redirect_signals(writer, &[libc::SIGINT, libc::SIGTERM, libc::SIGHUP])?;
    if cfg!(panic = "abort") {
        let shown = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            shown(info);
            tear_down_all();
        }));
    }
    Ok(())
}

fn await_signal(reader: OwnedFd) {
    let mut signal = [0; 8];
    if File::from(reader).read_exact(&mut signal).is_err() {
        return;
    }
    let signal = i32::try_from(u64::from_ne_bytes(signal)).unwrap_or(libc::SIGTERM);
    eprintln!("signal {signal}: removing what was made");
    tear_down_all();
    // The shell's convention for a process that a signal ended.
    process::exit(128 + signal);
}
