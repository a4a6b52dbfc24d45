//! The old program: from the driver's end to exec(2).

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::os::fd::{AsRawFd as _, IntoRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{self, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::SigSet;

use super::Cause;
use super::image::{
    ConnectionImage, Image, KeeperImage, KeysImage, PathImage, SocketImage, Tail, seal, write,
};
use crate::config::HolderMemory;
use crate::control::event_log::{EVENTS_MAX, EventLog};
use crate::driver::{Parts, Resumption};
use crate::io::address::HeldAddress;
use crate::io::arrivals::ArrivalsMemory;
use crate::io::clock::monotonic_ns;
use crate::io::connection::OpenConnections;
use crate::io::paths::Path;
use crate::io::records::RecordMemory;
use crate::io::sender::Sender;
use crate::logging;

/// How the next program finds what it is handed; one word, so that it can be left out when the
/// arguments are handed on.
pub const ARGUMENT: &str = "--hand-over=";

/// How long the next program may be put off by a reader of the log that hangs: nobody judges, and renews
/// the holder's lease, meanwhile.
const LOG_WAIT_MAX: Duration = Duration::from_millis(50);

/// What the rest of the daemon adds to the driver's parts.
pub struct Rest<'a> {
    /// Why.
    pub cause: Cause,
    /// When it was asked for.
    pub asked_ns: u64,
    /// The configuration was read again without a change.
    pub unchanged: bool,
    /// Where this program was when it was started first.
    pub executable: PathBuf,
    /// What the address worker owns.
    pub addresses: Vec<HeldAddress>,
    /// The control connections.
    pub connections: &'a OpenConnections,
    /// The listener of the control socket.
    pub control: OwnedFd,
    /// The lock of the run directory.
    pub lock: OwnedFd,
    /// The event log.
    pub events: &'a EventLog,
    /// Number of the last event that was logged.
    pub logged: u64,
}

/// Everything is written down; heartbeats still leave.
pub struct Departure {
    memory: File,
    cause: Cause,
    executable: PathBuf,
    kept: Vec<OwnedFd>,
    sender: Sender,
}

/// Writes everything down. What takes the kernel time to close is closed here, while heartbeats still
/// leave.
///
/// # Errors
/// Only without memory.
pub fn pack(mut parts: Parts, sender: Sender, rest: Rest<'_>) -> Result<Departure> {
    let Resumption { core, control_sequences, .. } =
        parts.resumption.take().context("the driver ended without a word for the next one")?;
    let (connections, introduced) = rest.connections.hand_over();
    let paths = path_images(&parts, &control_sequences, &introduced);
    let ring = &parts.config.keys;
    let ring = if parts.keys.is_settled() { ring.settled().hand_over() } else { ring.hand_over() };
    let keys = KeysImage(ring);
    let config = std::sync::Arc::clone(&parts.config);
    // The next program opens the lines anew: what waits on them is the past by then.
    for failure in parts.lines.stop() {
        tracing::warn!("serial line: {failure}");
    }
    // Descriptors of BPF objects take the kernel milliseconds each to close. The pins go on.
    drop(parts.kernel.take());
    let mut kept = Vec::new();
    let mut keep = |fd: OwnedFd| {
        let number = fd.as_raw_fd();
        kept.push(fd);
        number
    };
    let interface_of = |index: u32| {
        let mut networks = parts.paths.iter().filter_map(Path::network);
        networks.find(|it| it.interface_index == index).map(|it| it.interface.clone())
    };
    let mut sockets = Vec::new();
    for socket in parts.sockets {
        let (local, interface_index) = (socket.local, socket.interface_index);
        let Some(interface) = interface_of(interface_index) else { continue };
        sockets.push(SocketImage {
            fd: keep(socket.hand_over()),
            local,
            interface,
            interface_index,
        });
    }
    let mut images = Vec::new();
    for connection in connections {
        let Some(path) = parts.paths.get(connection.slot) else { continue };
        images.push(ConnectionImage {
            fd: keep(connection.fd),
            peer: config.nodes[path.peer.0].name.clone(),
            link: config.links[path.link.0].name.clone(),
            incarnation: connection.incarnation,
        });
    }
    let lease = parts.keeper.lease().memory().try_clone_to_owned();
    let lease = lease.context("no descriptor is left")?;
    let (socket, pid, held) = parts.keeper.hand_over();
    let held = held.into_iter().map(|it| (it.address.to_string(), it.interface)).collect();
    let image = Image {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cause: rest.cause,
        executable: rest.executable.clone(),
        asked_ns: rest.asked_ns,
        core,
        paths,
        sockets,
        connections: images,
        keeper: KeeperImage { fd: keep(socket), pid, held, lease: Some(keep(lease)) },
        addresses: rest.addresses,
        control: keep(rest.control),
        lock: keep(rest.lock),
        events: rest.events.latest(EVENTS_MAX),
        last_event: rest.events.last_id(),
        events_dropped: rest.events.dropped(),
        events_by_kind: rest.events.by_kind(),
        logged: rest.logged,
        // The threads that write it end with this program. What they have not written is lost.
        log_lines_dropped: logging::flush(LOG_WAIT_MAX) + logging::dropped(),
        limits: crate::io::process::limits(),
        keys,
        times: Some(HolderMemory::of(&config.cluster)),
        unchanged: rest.unchanged,
    };
    let memory = write(&image)?;
    Ok(Departure { memory, cause: rest.cause, executable: rest.executable, kept, sender })
}

fn path_images(
    parts: &Parts,
    control_sequences: &[u64],
    introduced: &[(u64, u64)],
) -> Vec<PathImage> {
    let config = &parts.config;
    let image = |(slot, path): (usize, &Path)| {
        let words = &parts.shared.paths[slot];
        let own = u32::try_from(slot).ok().and_then(|slot| parts.table.record(slot));
        let used = crate::driver::record(parts, slot);
        let arrivals = crate::driver::arrivals(parts, slot);
        PathImage {
            peer: config.nodes[path.peer.0].name.clone(),
            link: config.links[path.link.0].name.clone(),
            control_sequence: control_sequences.get(slot).copied().unwrap_or(0),
            probe_sequence: words.probe_sequence.load(Relaxed),
            echo: words.echo.load(Relaxed),
            hears: words.hears.load(Relaxed),
            sent: words.sent.load(Relaxed),
            errors: words.errors.load(Relaxed),
            record: used.map(RecordMemory::of).unwrap_or_default(),
            own: own.map(RecordMemory::of).unwrap_or_default(),
            arrivals: arrivals.as_ref().map(ArrivalsMemory::from).unwrap_or_default(),
            introduced: introduced.get(slot).copied().unwrap_or_default(),
        }
    };
    parts.paths.iter().enumerate().map(image).collect()
}

/// From here on signals wait for the next program.
pub fn hold_signals() {
    // It fails for no argument that is possible here.
    let _ = SigSet::all().thread_block();
}

impl Departure {
    /// Has the last heartbeat sent and becomes the next program. Returns only when that failed: the
    /// descriptor of what was to be handed over, for this program to go on from, and why.
    ///
    /// # Errors
    /// It is not even possible to go on.
    pub fn leave(self, leave: bool) -> Result<(RawFd, String)> {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        let program = match self.cause {
            // The very same, whatever is in its place by now.
            Cause::Reload => path::Path::new("/proc/self/exe"),
            Cause::Reexec | Cause::Detach => &self.executable,
        };
        let shared = self.sender.shared();
        // Returns right after a heartbeat: the next one is due a whole keepalive later.
        self.sender.stop();
        let sequences = shared.paths.iter().map(|words| words.sequence.load(Relaxed)).collect();
        let stopped_ns = shared.sender_ran_ns.load(Relaxed).min(monotonic_ns());
        let memory = seal(self.memory, &Tail { sequences, stopped_ns, leave })?;
        // Nothing else of this program forks any more; what is kept survives exec(2).
        let numbers: Vec<RawFd> = self.kept.into_iter().map(OwnedFd::into_raw_fd).collect();
        let fd = memory.into_raw_fd();
        let failed = match become_program(program, arguments, &numbers, fd) {
            Ok(never) => match never {},
            Err(error) => format!("{error:#}"),
        };
        Ok((fd, failed))
    }
}

fn become_program(
    program: &path::Path,
    arguments: Vec<OsString>,
    kept: &[RawFd],
    memory: RawFd,
) -> Result<Infallible> {
    for fd in kept.iter().chain([&memory]) {
        crate::io::sys::keep_over_exec(*fd).context("cannot keep a descriptor over exec")?;
    }
    let is_ours = |word: &OsString| word.to_string_lossy().starts_with(ARGUMENT);
    let mut words: Vec<OsString> = arguments.into_iter().filter(|it| !is_ours(it)).collect();
    words.push(format!("{ARGUMENT}{memory}").into());
    let word = |word: OsString| CString::new(word.into_vec()).context("an argument holds a zero");
    let words: Vec<CString> = words.into_iter().map(word).collect::<Result<_>>()?;
    let path = word(program.as_os_str().to_owned())?;
    nix::unistd::execv(&path, &words)
        .with_context(|| format!("cannot become {}", program.display()))
}
