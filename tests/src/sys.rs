//! The system calls without a safe wrapper: the only unsafe code of this crate.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;

/// Makes `command` enter the network namespace behind `namespace` before it executes its program.
pub(crate) fn enter_namespace_on_exec(command: &mut Command, namespace: OwnedFd) {
    let enter = move || {
        // SAFETY: setns takes a descriptor, which this closure owns and keeps open, and a flag; it
        // reads no memory of ours.
        if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    // SAFETY: between fork and exec the closure only makes one async-signal-safe system call and
    // reads errno: it allocates nothing and takes no lock.
    unsafe { command.pre_exec(enter) };
}

/// Makes the program of `command` end with the thread that starts it.
pub(crate) fn die_with_starter(command: &mut Command) {
    let bind = || {
        // SAFETY: prctl takes numbers here and touches no memory of ours.
        let result = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec the closure only makes one async-signal-safe system call and
    // reads errno: it allocates nothing and takes no lock.
    unsafe { command.pre_exec(bind) };
}

/// What lets a process lock memory, take a real-time priority and raise its limits (linux/capability.h:
/// `CAP_IPC_LOCK`, `CAP_SYS_NICE`, `CAP_SYS_RESOURCE`).
const REALTIME_CAPABILITIES: [libc::c_ulong; 3] = [14, 23, 24];

/// Takes from the program of `command` what it needs for real-time priority and locked memory:
/// capabilities, and the limits that allow some of it without them.
pub(crate) fn refuse_realtime(command: &mut Command) {
    let refuse = || {
        let outcome = |result: c_int| {
            if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
        };
        for capability in REALTIME_CAPABILITIES {
            // SAFETY: prctl takes numbers here and touches no memory of ours.
            outcome(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) })?;
        }
        let nothing = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        for limit in [libc::RLIMIT_RTPRIO, libc::RLIMIT_MEMLOCK] {
            // SAFETY: `nothing` lives across the call, which only reads it.
            outcome(unsafe { libc::setrlimit(limit, &raw const nothing) })?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure only makes async-signal-safe system calls and reads
    // errno: it allocates nothing and takes no lock.
    unsafe { command.pre_exec(refuse) };
}

/// Gives the calling thread `SCHED_FIFO` with `priority` (1..=99).
pub(crate) fn set_fifo(priority: u8) -> Result<(), Errno> {
    set_fifo_of(0, priority)
}

/// As [`set_fifo`], but threads and programs that the calling thread starts are ordinary ones.
pub(crate) fn set_fifo_alone(priority: u8) -> Result<(), Errno> {
    let parameter = libc::sched_param { sched_priority: c_int::from(priority) };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: `parameter` lives across the call, which only reads it.
    Errno::result(unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) }).map(drop)
}

/// Gives the thread `id` (0: the calling one) `SCHED_FIFO` with `priority` (1..=99).
pub(crate) fn set_fifo_of(id: libc::pid_t, priority: u8) -> Result<(), Errno> {
    let parameter = libc::sched_param { sched_priority: c_int::from(priority) };
    // SAFETY: `parameter` lives across the call, which only reads it.
    Errno::result(unsafe { libc::sched_setscheduler(id, libc::SCHED_FIFO, &raw const parameter) })
        .map(drop)
}

/// Where the signal handler writes; -1 while there is none.
static SIGNAL_FD: AtomicI32 = AtomicI32::new(-1);

extern "C" fn note_signal(signal: c_int) {
    let value = u64::from(signal.unsigned_abs()).to_ne_bytes();
    // SAFETY: write is async-signal-safe, `value` has the length that is given, and the descriptor
    // is never closed once it has been stored. Errno is restored for the interrupted code.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(SIGNAL_FD.load(Ordering::Relaxed), value.as_ptr().cast(), value.len());
        *libc::__errno_location() = errno;
    }
}

/// From now on each of `signals` writes its number, as one native-endian u64, to `pipe`, which
/// stays open for the rest of the process.
pub(crate) fn redirect_signals(pipe: OwnedFd, signals: &[c_int]) -> io::Result<()> {
    use std::os::fd::IntoRawFd;
    SIGNAL_FD.store(pipe.into_raw_fd(), Ordering::Relaxed);
    for &signal in signals {
        // SAFETY: a zeroed sigaction is a valid one (no flags, empty mask); the handler is a
        // function that only does what a handler may do.
        let result = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = note_signal as extern "C" fn(c_int) as usize;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut())
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The bpf(2) system call. `attributes` is a `union bpf_attr` as words; what it points to (as
/// addresses in words) must live across the call and be what `command` expects.
///
/// # Safety
/// The kernel reads and writes the memory that `attributes` points to.
pub(crate) unsafe fn bpf(command: c_int, attributes: &mut [u64]) -> io::Result<c_int> {
    let bytes = size_of_val(attributes);
    // SAFETY: `attributes` has the length that is given; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), bytes) };
    c_int::try_from(result).ok().filter(|result| *result >= 0).ok_or_else(io::Error::last_os_error)
}

/// Takes a descriptor that a system call has just returned.
///
/// # Safety
/// Nobody else owns it.
pub(crate) unsafe fn own(fd: c_int) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: the caller's promise.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Binds a packet socket to one interface and one protocol (an Ethernet type).
pub(crate) fn bind_packet(socket: &impl AsRawFd, index: u32, ethertype: u16) -> io::Result<()> {
    // SAFETY: all zeros is a sockaddr_ll.
    let mut link: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    link.sll_family = libc::AF_PACKET as u16;
    link.sll_protocol = ethertype.to_be();
    link.sll_ifindex = index.cast_signed();
    let length = size_of_val(&link) as libc::socklen_t;
    // SAFETY: the address lives across the call, with its length.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const link).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets `MSG_ZEROCOPY` be used on a socket.
pub(crate) fn allow_zerocopy(socket: &impl AsRawFd) -> io::Result<()> {
    let on: c_int = 1;
    // SAFETY: the option takes a c_int, which lives across the call, with its length.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ZEROCOPY,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
