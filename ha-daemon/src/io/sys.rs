//! The system calls that no safe wrapper offers: the only `unsafe` of `io`.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
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
    /// Only messages of this type.
    Only(u8),
}

/// Sets the filter of a raw ICMPv6 socket (`ICMP6_FILTER`, RFC 3542 3.2).
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_icmp6_filter(socket: &impl AsRawFd, pass: Icmp6Pass) -> io::Result<()> {
    // linux/icmpv6.h: ICMPV6_FILTER is option 1; a set bit blocks its type.
    const ICMP6_FILTER: libc::c_int = 1;
    let mut blocked = [u32::MAX; 8];
    if let Icmp6Pass::Only(kind) = pass {
        blocked[usize::from(kind >> 5)] &= !(1 << (kind & 31));
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
