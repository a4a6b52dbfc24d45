//! The kernel side without a network: loaded from the object that the daemon embeds, pinned on a bpf
//! file system of its own, and run packet by packet (`BPF_PROG_TEST_RUN`). And, for what the
//! object does not hold, small programs made of single instructions.

use std::ffi::CString;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use aya::programs::{ProgramError, TestRun, TestRunOptions, TestRunResult};
use ha_common::vectors::World;
use ha_daemon::io::kernel::{Kernel, Slot, Tables};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::socket::{MsgFlags, SockaddrStorage, sendto};

use crate::sys;

/// A bpf file system of its own in the temporary directory; goes when dropped.
#[derive(Debug)]
pub struct BpfFs {
    place: tempfile::TempDir,
}

impl BpfFs {
    /// Mounts it.
    ///
    /// # Errors
    /// The caller is not root.
    pub fn mount() -> Result<Self> {
        // Beyond the numbers of beds, which begin with 0.
        static NUMBER: AtomicU32 = AtomicU32::new(1_000);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // The scheme of beds' names: what a killed process leaves goes when the next bed is made.
        let prefix = format!("ha{}-{number}-", std::process::id());
        let place = tempfile::Builder::new().prefix(&prefix).tempdir()?;
        mount(Some("bpf"), place.path(), Some("bpf"), MsFlags::empty(), Some("mode=0700"))
            .with_context(|| format!("cannot mount bpffs at {}", place.path().display()))?;
        Ok(Self { place })
    }

    /// Where the daemon's pins go: a directory on it, which need not exist yet.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.place.path().join("ha")
    }

    /// The mount point.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.place.path()
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.place.path(), MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {error}", self.place.path().display());
        }
    }
}

/// What the daemon would write into the maps for a world of the shared vectors.
#[must_use]
pub fn tables(world: &World) -> Tables {
    let slots = world.records.iter().map(|(slot, record)| Slot {
        slot: *slot,
        peer: record.peer,
        link: record.link,
        interface: record.interface,
        silence_ns: record.silence_ns,
        known: None,
    });
    Tables {
        identity: world.identity,
        endpoints: world.endpoints.clone(),
        paths: world.paths.clone(),
        keys: world.keys.clone(),
        slots: slots.collect(),
    }
}

/// Loads the kernel side on `place`, without log, and writes `world` into its maps.
///
/// # Errors
/// The kernel refused something.
pub fn load(place: &BpfFs, world: &World) -> Result<Kernel> {
    let mut kernel = Kernel::load(&place.directory(), 0)?;
    kernel.configure(&tables(world))?;
    Ok(kernel)
}

/// Runs a program `repeat` times on a frame that arrives on loopback.
///
/// # Errors
/// The kernel refused to run it.
pub fn run<P>(program: &P, frame: &[u8], repeat: u32) -> Result<TestRunResult, ProgramError>
where
    P: for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>,
{
    program.test_run(TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::new() })
}

/// The same; the program's answer and the frame as it left it.
///
/// # Errors
/// As [`run`].
pub fn run_for_output<P>(
    program: &P,
    frame: &[u8],
    repeat: u32,
) -> Result<(u32, Vec<u8>), ProgramError>
where
    P: for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>,
{
    let mut out = vec![0; frame.len() + 64];
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        repeat,
        ..TestRunOptions::new()
    };
    let result = program.test_run(options)?;
    out.truncate(result.data_size_out as usize);
    Ok((result.return_value, out))
}

/// Mean time of one run in `repeat` runs, nanoseconds, as the kernel measured it.
///
/// # Errors
/// As [`run`].
pub fn mean_ns<P>(program: &P, frame: &[u8], repeat: u32) -> Result<u64, ProgramError>
where
    P: for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>,
{
    run(program, frame, repeat)
        .map(|result| u64::try_from(Duration::as_nanos(&result.duration)).unwrap_or(u64::MAX))
}

/// Sends a datagram whose payload the packet refers to instead of holding it (`MSG_ZEROCOPY`), as
/// many drivers deliver packets too.
///
/// # Errors
/// The kernel does not do that, or cannot send.
pub fn send_as_page(socket: &UdpSocket, payload: &[u8], destination: SocketAddr) -> Result<()> {
    sys::allow_zerocopy(socket).context("cannot send without copying")?;
    let flags = MsgFlags::from_bits_retain(libc::MSG_ZEROCOPY);
    sendto(socket.as_raw_fd(), payload, &SockaddrStorage::from(destination), flags)?;
    // The payload must stay as it is until the packet is gone.
    std::thread::sleep(Duration::from_millis(20));
    Ok(())
}

/// Kinds of maps (linux/bpf.h).
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub enum MapKind {
    /// `BPF_MAP_TYPE_ARRAY`.
    Array = 2,
    /// `BPF_MAP_TYPE_PROG_ARRAY`.
    Programs = 3,
}

/// Kinds of programs (linux/bpf.h).
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub enum ProgramKind {
    /// `BPF_PROG_TYPE_SCHED_CLS`.
    Classifier = 3,
    /// `BPF_PROG_TYPE_XDP`.
    Xdp = 6,
}

const BPF_MAP_CREATE: i32 = 0;
const BPF_PROG_LOAD: i32 = 5;
const BPF_OBJ_PIN: i32 = 6;
const BPF_PROG_TEST_RUN: i32 = 10;
/// `enum bpf_attach_type`.
const BPF_XDP: u32 = 37;

fn pair(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// Makes a map.
///
/// # Errors
/// The kernel refused it.
pub fn create_map(kind: MapKind, value_bytes: u32, entries: u32) -> Result<OwnedFd> {
    let mut attributes = [pair(kind as u32, 4), pair(value_bytes, entries), 0, 0, 0, 0, 0, 0];
    // SAFETY: no word of it is an address.
    let fd = unsafe { sys::bpf(BPF_MAP_CREATE, &mut attributes) }.context("cannot make a map")?;
    // SAFETY: the call has just made it.
    Ok(unsafe { sys::own(fd) })
}

/// Loads a program of single instructions; `name` has at most 15 bytes.
///
/// # Errors
/// The verifier refused it.
pub fn load_program(kind: ProgramKind, name: &str, instructions: &[u64]) -> Result<OwnedFd> {
    let license = c"GPL";
    let mut name_bytes = [0; 16];
    for (place, byte) in name_bytes.iter_mut().take(15).zip(name.bytes()) {
        *place = byte;
    }
    let (first, last) = name_bytes.split_at(8);
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    let attach_type = match kind {
        ProgramKind::Xdp => BPF_XDP,
        ProgramKind::Classifier => 0,
    };
    let mut attributes = [
        pair(kind as u32, instructions.len() as u32),
        instructions.as_ptr().addr() as u64,
        license.as_ptr().addr() as u64,
        0,
        0,
        0,
        word(first),
        word(last),
        pair(0, attach_type),
    ];
    // SAFETY: instructions and license live across the call, with the length that is given.
    let fd = unsafe { sys::bpf(BPF_PROG_LOAD, &mut attributes) }
        .with_context(|| format!("the kernel refused the program {name}"))?;
    // SAFETY: the call has just made it.
    Ok(unsafe { sys::own(fd) })
}

/// Runs a program of single instructions once on a frame.
///
/// # Errors
/// The kernel does not run it.
pub fn run_once(program: &OwnedFd, frame: &[u8]) -> Result<()> {
    let fd = u32::try_from(program.as_raw_fd())?;
    let mut attributes = [0; 8];
    attributes[0] = pair(fd, 0);
    attributes[1] = pair(u32::try_from(frame.len())?, 0);
    attributes[2] = frame.as_ptr().addr() as u64;
    attributes[4] = pair(1, 0);
    // SAFETY: the frame lives across the call, with the length that is given; nothing is written.
    unsafe { sys::bpf(BPF_PROG_TEST_RUN, &mut attributes) }.context("cannot run").map(drop)
}

/// Pins a map or program.
///
/// # Errors
/// `path` is not on a bpf file system, or taken.
pub fn pin(object: &OwnedFd, path: &Path) -> Result<()> {
    let text = CString::new(path.as_os_str().as_encoded_bytes())?;
    let fd = u32::try_from(object.as_raw_fd())?;
    let mut attributes = [text.as_ptr().addr() as u64, pair(fd, 0)];
    // SAFETY: the path lives across the call and ends with a zero.
    unsafe { sys::bpf(BPF_OBJ_PIN, &mut attributes) }
        .with_context(|| format!("cannot pin at {}", path.display()))
        .map(drop)
}

/// A program that returns `value` for every packet.
///
/// # Errors
/// As [`load_program`].
pub fn constant_program(kind: ProgramKind, name: &str, value: i32) -> Result<OwnedFd> {
    load_program(kind, name, &[instruction(0xb7, 0, 0, 0, value), EXIT])
}

/// The instruction that ends a program.
pub const EXIT: u64 = 0x95;

/// One instruction: operation, destination and source register, offset, immediate value
/// (RFC 9669 3.1).
#[must_use]
pub fn instruction(operation: u8, destination: u8, source: u8, offset: i16, value: i32) -> u64 {
    u64::from(operation)
        | u64::from(destination) << 8
        | u64::from(source) << 12
        | u64::from(offset as u16) << 16
        | u64::from(value as u32) << 32
}
