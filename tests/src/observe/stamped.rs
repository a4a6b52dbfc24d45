//! Frames from packet sockets, with the moment at which the kernel received each.

use std::io::IoSliceMut;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, LinkAddr, MsgFlags, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Protocol, Socket, Type};

use crate::clock::{as_ns, realtime_to_monotonic_ns};

/// What is known of a frame that was received.
#[derive(Debug)]
pub(super) struct Stamped {
    /// How long it was; with `MSG_TRUNC` more than there was room for.
    pub(super) bytes: usize,
    /// When the kernel received it, `CLOCK_MONOTONIC`; `None`: it did not say.
    pub(super) at_ns: Option<u64>,
    /// Where it came from.
    pub(super) from: Option<LinkAddr>,
}

/// Opens a packet socket that stamps; it hears its protocol on all interfaces of this thread's namespace.
pub(super) fn open(ethertype: u16) -> Result<Socket> {
    let protocol = Protocol::from(i32::from(ethertype.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))
        .context("cannot open a packet socket")?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    Ok(socket)
}

/// Receives the next frame into `frame`; `None`: there was none in time.
pub(super) fn receive(socket: &Socket, frame: &mut [u8], flags: MsgFlags) -> Option<Stamped> {
    let mut control = cmsg_space!(TimeSpec);
    let mut parts = [IoSliceMut::new(frame)];
    let message =
        recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags).ok()?;
    let at_ns = message.cmsgs().ok()?.find_map(|control| {
        if let ControlMessageOwned::ScmTimestampns(stamp) = control {
            Some(realtime_to_monotonic_ns(as_ns(stamp.into())))
        } else {
            None
        }
    });
    Some(Stamped { bytes: message.bytes, at_ns, from: message.address })
}
