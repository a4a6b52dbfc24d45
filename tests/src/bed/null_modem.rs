//! A null modem: two pseudo-terminals and the cable between them, as fast as it says and no faster,
//! with the faults of real cables.
//!
//! Each end is reached by a path that stays the same when its device is unplugged and comes back
//! under another number, as udev's links do.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use crate::clock::monotonic_ns;

/// 8N1.
const BITS_PER_BYTE: u64 = 10;
/// Bytes that pass at once: the grain of the pacing.
const GRAIN_BYTES: usize = 16;
/// How much time a cable that was not scheduled makes up for.
const CATCH_UP_NS: u64 = 50_000_000;
/// How long an unplugged device may take to be closed.
const UNPLUG_TIME_MAX: Duration = Duration::from_secs(5);

/// One end of the cable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The first node's.
    First,
    /// The second node's.
    Second,
}

impl End {
    fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// The cable. Dropping it unplugs both ends.
#[derive(Debug)]
pub struct NullModem {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    baud: u32,
    ends: [Socket; 2],
    stop: AtomicBool,
}

/// Where an end is plugged in, and what happens to the bytes that it sends.
#[derive(Debug)]
struct Socket {
    path: PathBuf,
    device: Mutex<Option<Arc<Device>>>,
    /// Wakes whoever reads from it.
    wake: EventFd,
    cut: AtomicBool,
    /// Bytes of a million that are disturbed.
    noise_ppm: AtomicU32,
    carried: AtomicU64,
    disturbed: AtomicU64,
    inject: Mutex<Vec<u8>>,
}

/// A pseudo-terminal. The slave is held open as well: the master of one that nobody has open is
/// hung up.
#[derive(Debug)]
struct Device {
    master: OwnedFd,
    _slave: OwnedFd,
}

impl NullModem {
    /// Lays a cable of `baud` bits per second between two paths, which must not exist.
    ///
    /// # Errors
    /// The kernel gives no pseudo-terminals, or a path exists.
    pub fn start(paths: [&Path; 2], baud: u32) -> Result<Self> {
        let [first, second] = paths;
        let ends = [Socket::new(first)?, Socket::new(second)?];
        let shared = Arc::new(Shared { baud, ends, stop: AtomicBool::new(false) });
        let mut modem = Self { shared, threads: Vec::new() };
        for end in [End::First, End::Second] {
            modem.plug(end)?;
            let shared = Arc::clone(&modem.shared);
            let run = move || carry(&shared, end);
            let thread = thread::Builder::new().name("null-modem".to_owned()).spawn(run)?;
            modem.threads.push(thread);
        }
        Ok(modem)
    }

    /// Cuts what one end sends; the other way stays whole. Returns the moment just before.
    pub fn cut(&self, from: End) -> u64 {
        let at_ns = monotonic_ns();
        self.shared.end(from).cut.store(true, Relaxed);
        at_ns
    }

    /// Heals what one end sends. Returns the moment just before.
    pub fn heal(&self, from: End) -> u64 {
        let at_ns = monotonic_ns();
        self.shared.end(from).cut.store(false, Relaxed);
        at_ns
    }

    /// Disturbs so many of a million bytes that one end sends: a bit is flipped, or a byte comes
    /// between that nobody sent. 0 ends it.
    pub fn set_noise(&self, from: End, ppm: u32) {
        self.shared.end(from).noise_ppm.store(ppm, Relaxed);
    }

    /// Puts bytes on the line that one end did not send.
    pub fn inject(&self, from: End, bytes: &[u8]) {
        let socket = self.shared.end(from);
        lock(&socket.inject).extend_from_slice(bytes);
        let _ = socket.wake.write(1);
    }

    /// Bytes that one end has sent and that have passed, and how many of those were disturbed.
    #[must_use]
    pub fn carried(&self, from: End) -> (u64, u64) {
        let socket = self.shared.end(from);
        (socket.carried.load(Relaxed), socket.disturbed.load(Relaxed))
    }

    /// Pulls the adapter of one end: its device is hung up, and its path goes. Returns the moment
    /// just before.
    ///
    /// # Errors
    /// It is not plugged in.
    pub fn unplug(&self, end: End) -> Result<u64> {
        let socket = self.shared.end(end);
        let at_ns = monotonic_ns();
        fs::remove_file(&socket.path)?;
        let device = lock(&socket.device).take().context("it is not plugged in")?;
        let _ = socket.wake.write(1);
        let _ = self.shared.end(end.other()).wake.write(1);
        let deadline = Instant::now() + UNPLUG_TIME_MAX;
        // The threads let go of it with their next turn; closing it is what hangs the slave up.
        while Arc::strong_count(&device) > 1 {
            if Instant::now() > deadline {
                bail!("{} does not close", socket.path.display());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(at_ns)
    }

    /// Plugs an end in, as another device under the same path. Returns the moment just before.
    ///
    /// # Errors
    /// It is plugged in already.
    pub fn plug(&self, end: End) -> Result<u64> {
        let socket = self.shared.end(end);
        let (device, name) = Device::new().context("no pseudo-terminal")?;
        let at_ns = monotonic_ns();
        *lock(&socket.device) = Some(Arc::new(device));
        symlink(name, &socket.path)
            .with_context(|| format!("cannot make {}", socket.path.display()))?;
        let _ = socket.wake.write(1);
        Ok(at_ns)
    }
}

impl Drop for NullModem {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        for socket in &self.shared.ends {
            let _ = fs::remove_file(&socket.path);
            let _ = socket.wake.write(1);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn end(&self, end: End) -> &Socket {
        &self.ends[end as usize]
    }
}

impl Socket {
    fn new(path: &Path) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            device: Mutex::new(None),
            wake: EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?,
            cut: AtomicBool::new(false),
            noise_ppm: AtomicU32::new(0),
            carried: AtomicU64::new(0),
            disturbed: AtomicU64::new(0),
            inject: Mutex::new(Vec::new()),
        })
    }

    fn device(&self) -> Option<Arc<Device>> {
        lock(&self.device).clone()
    }
}

impl Device {
    fn new() -> io::Result<(Self, PathBuf)> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let name = PathBuf::from(name.to_string_lossy().into_owned());
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        // A line that nobody has open does not echo; a pseudo-terminal that is held open would.
        let mut settings = tcgetattr(&slave)?;
        settings.make_raw();
        tcsetattr(&slave, OptionalActions::Now, &settings)?;
        rustix::fs::fcntl_setfl(&master, OFlags::NONBLOCK)?;
        Ok((Self { master, _slave: slave }, name))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Carries what one end sends, byte by byte in time.
fn carry(shared: &Shared, from: End) {
    let (socket, sink) = (shared.end(from), shared.end(from.other()));
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15 + from as u64);
    let mut free_at_ns = 0;
    while !shared.stop.load(Relaxed) {
        let _ = socket.wake.read();
        let bytes = take(socket);
        if bytes.is_empty() {
            wait(socket);
            continue;
        }
        let passed = noise.pass(&bytes, socket);
        let now_ns = monotonic_ns();
        free_at_ns = now_ns.saturating_sub(CATCH_UP_NS).max(free_at_ns)
            + passed.len() as u64 * BITS_PER_BYTE * 1_000_000_000 / u64::from(shared.baud);
        let ahead_ns = free_at_ns.saturating_sub(now_ns);
        // The time that the bytes take is what is simulated; nothing tells its end.
        thread::sleep(Duration::from_nanos(ahead_ns));
        socket.carried.fetch_add(passed.len() as u64, Relaxed);
        if !socket.cut.load(Relaxed)
            && let Some(device) = sink.device()
        {
            // A receiver that does not read loses bytes, as a UART does.
            let _ = rustix::io::write(&device.master, &passed);
        }
    }
}

/// The next bytes: injected ones, then those that the end has sent.
fn take(socket: &Socket) -> Vec<u8> {
    let mut injected = lock(&socket.inject);
    if !injected.is_empty() {
        let count = injected.len().min(GRAIN_BYTES);
        return injected.drain(..count).collect();
    }
    drop(injected);
    let mut buffer = [0; GRAIN_BYTES];
    let device = socket.device();
    let length = device.and_then(|it| rustix::io::read(&it.master, &mut buffer).ok()).unwrap_or(0);
    buffer[..length].to_vec()
}

fn wait(socket: &Socket) {
    let device = socket.device();
    let mut waiting = vec![PollFd::new(socket.wake.as_fd(), PollFlags::POLLIN)];
    if let Some(device) = &device {
        waiting.push(PollFd::new(device.master.as_fd(), PollFlags::POLLIN));
    }
    let _ = poll(&mut waiting, PollTimeout::NONE);
}

/// Splitmix64 (Steele, Lea, Flood, 2014): the same disturbances in every run.
struct Noise(u64);

impl Noise {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn pass(&mut self, bytes: &[u8], socket: &Socket) -> Vec<u8> {
        let ppm = u64::from(socket.noise_ppm.load(Relaxed));
        let mut passed = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if self.number() % 1_000_000 >= ppm {
                passed.push(*byte);
                continue;
            }
            socket.disturbed.fetch_add(1, Relaxed);
            let what = self.number();
            if what.is_multiple_of(2) {
                passed.push(byte ^ (1 << ((what >> 8) % 8)));
            } else {
                passed.extend([*byte, (what >> 8) as u8]);
            }
        }
        passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, OpenOptions};
    use std::io::{Read as _, Write as _};

    fn open(path: &Path) -> Result<File> {
        Ok(OpenOptions::new().read(true).write(true).open(path)?)
    }

    #[test]
    fn bytes_pass_both_ways_no_faster_than_the_line() -> Result<()> {
        let place = tempfile::tempdir()?;
        let paths = [place.path().join("a"), place.path().join("b")];
        let modem = NullModem::start([&paths[0], &paths[1]], 19_200)?;
        let (mut first, mut second) = (open(&paths[0])?, open(&paths[1])?);
        let start = Instant::now();
        let sent: Vec<u8> = (0..=255).cycle().take(960).collect();
        first.write_all(&sent)?;
        let mut received = vec![0; sent.len()];
        second.read_exact(&mut received)?;
        assert_eq!(received, sent);
        // 960 bytes of 10 bits are 500 ms; the cable may have 50 ms to make up for.
        assert!(start.elapsed() >= Duration::from_millis(440), "{:?}", start.elapsed());
        second.write_all(b"back")?;
        let mut received = [0; 4];
        first.read_exact(&mut received)?;
        assert_eq!(&received, b"back");
        drop(modem);
        Ok(())
    }

    #[test]
    fn an_unplugged_end_hangs_up_and_comes_back_under_its_path() -> Result<()> {
        let place = tempfile::tempdir()?;
        let paths = [place.path().join("a"), place.path().join("b")];
        let modem = NullModem::start([&paths[0], &paths[1]], 115_200)?;
        let mut first = open(&paths[0])?;
        modem.unplug(End::First)?;
        assert!(!paths[0].exists());
        assert!(matches!(first.read(&mut [0]), Ok(0) | Err(_)));
        modem.plug(End::First)?;
        let mut first = open(&paths[0])?;
        open(&paths[1])?.write_all(b"again")?;
        let mut received = [0; 5];
        first.read_exact(&mut received)?;
        assert_eq!(&received, b"again");
        Ok(())
    }
}
