//! The system calls that no safe wrapper offers: the only `unsafe` of `io`.

use std::ffi::CStr;
use std::io;
use std::mem::{size_of, zeroed};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::resource::{Resource as Limit, rlim_t};
use nix::sys::signal::Signal;
use nix::sys::socket::{LinkAddr, SockaddrLike};
use socket2::Socket;
use tokio::io::unix::AsyncFd;

/// Takes ownership of a file descriptor that this process inherited and marks it close-on-exec.
///
/// # Errors
/// The descriptor is not open.
pub fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(Errno::EBADF.into());
    }
    // SAFETY: fd is not negative; fcntl reports EBADF if it is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open (above), was inherited by number and is owned by nothing else here: the
    // caller passes each inherited descriptor once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Keeps an open file descriptor over the next exec(2).
///
/// # Errors
/// The descriptor is not open.
pub fn keep_over_exec(fd: RawFd) -> io::Result<()> {
    if fd < 0 {
        return Err(Errno::EBADF.into());
    }
    // SAFETY: fd is not negative; fcntl reports EBADF if it is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}

/// Lets the calling thread's runtime wait for a socket, which must be non-blocking.
///
/// # Errors
/// Those of epoll_ctl(2).
pub fn watch(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a Socket owns its descriptor and gives the same one until it is dropped; nothing
    // here replaces it in between.
    unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)
}

/// Lets the calling thread's runtime wait for an eventfd, which must be non-blocking.
///
/// # Errors
/// Those of epoll_ctl(2).
pub fn watch_event(event: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: as for `watch`.
    unsafe { AsyncFd::register(event) }.map_err(io::Error::from)
}

/// Puts the calling thread under `SCHED_FIFO` with this priority (1..=99).
///
/// # Errors
/// `EPERM` without CAP_SYS_NICE or without a real-time budget of the control group.
pub fn set_fifo(priority: u8) -> io::Result<()> {
    // SAFETY: sched_param is plain integers; all zeros is a value of it.
    let mut parameters: libc::sched_param = unsafe { zeroed() };
    parameters.sched_priority = i32::from(priority);
    // Threads and processes that this one starts (another keeper, for one) do not compete with it.
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the pointer is to a live sched_param; pid 0 is the calling thread.
    let outcome = unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
    Errno::result(outcome).map(drop).map_err(io::Error::from)
}

/// Which ICMPv6 messages a raw socket receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Icmp6Pass {
    /// None: the socket never wakes anybody.
    Nothing,
    /// Only messages of these types.
    Only(&'static [u8]),
}

/// Sets the filter of a raw ICMPv6 socket (`ICMP6_FILTER`, RFC 3542 3.2).
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_icmp6_filter(socket: &impl AsRawFd, pass: Icmp6Pass) -> io::Result<()> {
    // linux/icmpv6.h: ICMPV6_FILTER is option 1; a set bit blocks its type.
    const ICMP6_FILTER: libc::c_int = 1;
    let mut blocked = [u32::MAX; 8];
    if let Icmp6Pass::Only(kinds) = pass {
        for kind in kinds {
            blocked[usize::from(kind >> 5)] &= !(1 << (kind & 31));
        }
    }
    // SAFETY: the pointer and the length describe the array `blocked`.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_ICMPV6,
            ICMP6_FILTER,
            blocked.as_ptr().cast(),
            size_of::<[u32; 8]>() as libc::socklen_t,
        )
    };
    Errno::result(outcome).map(drop).map_err(io::Error::from)
}

/// The address of an interface for a packet socket: frames of `protocol` (an Ethertype) through
/// the interface with this index; 0 is every interface (packet(7)).
///
/// # Errors
/// None in practice; the wrapper checks family and length.
pub fn link_address(ifindex: u32, protocol: u16) -> io::Result<LinkAddr> {
    // SAFETY: sockaddr_ll is plain integers; all zeros is a value of it.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = i32::try_from(ifindex).map_err(|_| io::Error::from(Errno::ENODEV))?;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the pointer is to a live, initialised sockaddr_ll of that length.
    unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) }
        .ok_or_else(|| Errno::EINVAL.into())
}

/// Who a program runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub user: nix::unistd::Uid,
    /// Primary group.
    pub group: nix::unistd::Gid,
    /// All groups.
    pub groups: Vec<nix::unistd::Gid>,
}

/// What a program is cut off from before it is executed.
#[derive(Debug, Clone)]
pub struct Isolation {
    /// Resource limits that it gets: soft and hard.
    pub limits: Vec<(Limit, rlim_t, rlim_t)>,
    /// Who it runs as; `None` = as this process.
    pub identity: Option<Identity>,
    /// What it gets when the thread that starts it ends.
    pub on_parent_death: Signal,
}

/// Has a program start in a session of its own, with ordinary scheduling, without descriptors but
/// the standard ones, as another user if so wanted.
pub fn isolate(command: &mut Command, isolation: Isolation) {
    let parent = nix::unistd::getpid();
    // SAFETY: between fork and exec only system calls are made and nothing is allocated: the
    // closure reads memory that was allocated before.
    unsafe {
        command.pre_exec(move || isolate_this_process(&isolation, parent));
    }
}

fn isolate_this_process(isolation: &Isolation, parent: nix::unistd::Pid) -> io::Result<()> {
    nix::unistd::setsid()?;
    // SAFETY: sched_param is plain integers; all zeros is a value of it.
    let parameters: libc::sched_param = unsafe { zeroed() };
    // SAFETY: the pointer is to a live sched_param; pid 0 is the calling thread.
    Errno::result(unsafe {
        libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const parameters)
    })?;
    for (limit, soft, hard) in &isolation.limits {
        // Without CAP_SYS_RESOURCE a limit that was lowered stays low: no reason not to run.
        let _ = nix::sys::resource::setrlimit(*limit, *soft, *hard);
    }
    // Everything that this daemon opens is close-on-exec; what it inherited may not be. Kernels
    // before 5.11 do not know the flag, and then it stays as it is.
    // SAFETY: no pointers; only a flag of this process's own descriptors is changed.
    let _ = unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    if let Some(identity) = &isolation.identity {
        nix::unistd::setgroups(&identity.groups)?;
        nix::unistd::setgid(identity.group)?;
        nix::unistd::setuid(identity.user)?;
    }
    // Last: a change of user clears it.
    nix::sys::prctl::set_pdeathsig(isolation.on_parent_death)?;
    // Who died before that sends no signal.
    if nix::unistd::getppid() == parent { Ok(()) } else { Err(Errno::ESRCH.into()) }
}

/// Bytes that a terminal's driver still has to send (`TIOCOUTQ`, tty_ioctl(4)).
///
/// # Errors
/// Those of ioctl(2).
pub fn output_queue(terminal: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open while it is borrowed; TIOCOUTQ stores one int at the pointer,
    // which is to a live one.
    let outcome = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    Errno::result(outcome)?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Some words of memory that several processes share, in a sealed memfd.
#[derive(Debug)]
pub struct SharedWords {
    base: NonNull<Layout>,
    memory: OwnedFd,
    has_owners: bool,
}

/// What is shared: less than a page.
#[repr(C)]
struct Layout {
    words: [AtomicU64; SHARED_WORDS],
    /// Not in the memory of programs before these.
    owners: [AtomicU32; SHARED_OWNERS],
}

const SHARED_WORDS: usize = 4;
const SHARED_OWNERS: usize = 3;
const SHARED_BYTES: usize = size_of::<Layout>();
const SHARED_BYTES_MIN: usize = size_of::<[AtomicU64; SHARED_WORDS]>();

// SAFETY: the mapping belongs to the process, not to a thread, and is only accessed as atomics.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// New ones, all zero.
    ///
    /// # Errors
    /// No memory or no descriptor is left.
    pub fn create(name: &CStr) -> io::Result<Self> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let memory = memfd_create(name, flags)?;
        nix::unistd::ftruncate(&memory, SHARED_BYTES as libc::off_t)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&memory, FcntlArg::F_ADD_SEALS(seals))?;
        Self::of(memory)
    }

    /// Those that another process made.
    ///
    /// # Errors
    /// The descriptor is not of such memory, or it cannot be mapped.
    pub fn of(memory: OwnedFd) -> io::Result<Self> {
        // What can shrink would kill whoever reads it.
        let seals = fcntl(&memory, FcntlArg::F_GET_SEALS)?;
        let size = nix::sys::stat::fstat(&memory)?.st_size;
        let shrinks = seals & libc::F_SEAL_SHRINK == 0;
        let size = usize::try_from(size).unwrap_or(0);
        if shrinks || size < SHARED_BYTES_MIN {
            return Err(Errno::EINVAL.into());
        }
        let length = NonZeroUsize::new(SHARED_BYTES).ok_or(Errno::EINVAL)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice, one page of memory that cannot shrink
        // and has at least a part of that page: all of it can be read.
        let base =
            unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, memory.as_fd(), 0) }?;
        Ok(Self { base: base.cast(), memory, has_owners: size >= SHARED_BYTES })
    }

    /// The words.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64; SHARED_WORDS] {
        &self.layout().words
    }

    /// Those that threads own ([`super::robust`]), where there are any.
    #[must_use]
    pub fn owners(&self) -> Option<&[AtomicU32; SHARED_OWNERS]> {
        self.has_owners.then(|| &self.layout().owners)
    }

    fn layout(&self) -> &Layout {
        // SAFETY: page aligned, mapped as long as `self` lives, of that length; any bytes are a value.
        unsafe { self.base.as_ref() }
    }

    /// Its memory, for another process.
    #[must_use]
    pub fn memory(&self) -> &OwnedFd {
        &self.memory
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: made by `of` with this length; nothing borrowed from `self` outlives it.
        let _ = unsafe { munmap(self.base.cast(), SHARED_BYTES) };
    }
}

/// Has the allocator give nothing back of its heaps (mallopt(3)); whether it can do that. What is large
/// still is mapped apart, and goes again.
#[cfg(target_env = "gnu")]
#[must_use]
pub fn keep_heap() -> bool {
    // SAFETY: no pointers; it only sets a number of the allocator.
    unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX) == 1 }
}

/// Gives the kernel back once what the allocator has free inside of its heaps, and at the top of the main
/// thread's (malloc_trim(3)), and has it take what is large from its heaps as well from here on, to keep it. What
/// threads have at the top of heaps of their own stays. What is locked cannot be given back (madvise(2)).
#[cfg(target_env = "gnu")]
pub fn settle_heap() {
    // The greatest threshold that glibc takes: half of the heap of a thread, on 64 bits.
    const MMAP_THRESHOLD_BYTES: libc::c_int = 32 << 20;
    // SAFETY: no pointers; the allocator takes its own locks.
    unsafe {
        libc::malloc_trim(0);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES);
    }
}

/// This allocator has no such setting.
#[cfg(not(target_env = "gnu"))]
#[must_use]
pub fn keep_heap() -> bool {
    false
}

/// This allocator has no such call.
#[cfg(not(target_env = "gnu"))]
pub fn settle_heap() {}
