//! Reads what left the switch towards the nodes, afterwards: the kernel stamps and keeps the frames,
//! and nobody wakes for them while something is being measured.

use std::io::IoSliceMut;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, LinkAddr, MsgFlags, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Protocol, Socket, Type};

use crate::bed::Netns;
use crate::clock::{as_ns, realtime_to_monotonic_ns};

/// `SO_RCVBUFFORCE` of this size holds some 10,000 small frames.
const BUFFER_BYTES: usize = 16 << 20;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const PROTOCOL_UDP: u8 = 17;
/// Ethernet, IPv4 without options.
const UDP_AT: usize = 14 + 20;
const UDP_BYTES: usize = 8;

/// A UDP datagram over IPv4 that the switch passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// When the switch handed it to the cable.
    pub at_ns: u64,
    /// The sender of the Ethernet frame.
    pub mac: [u8; 6],
    /// Bytes behind the UDP header.
    pub payload_bytes: usize,
}

impl Passed {
    /// The sender as [`crate::bed::Bed::mac`] writes it.
    #[must_use]
    pub fn mac_text(&self) -> String {
        self.mac.map(|byte| format!("{byte:02x}")).join(":")
    }
}

/// A tap on all ports of a switch. Short-lived: what it holds is bounded by a buffer.
#[derive(Debug)]
pub struct Tap {
    socket: Socket,
}

impl Tap {
    /// Begins to collect.
    ///
    /// # Errors
    /// Packet sockets cannot be opened there.
    pub fn open(switch: &Netns) -> Result<Self> {
        let socket = switch.run(|| {
            let protocol = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
            let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(protocol))
                .context("cannot open a packet socket")?;
            setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES)?;
            setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
            Ok(socket)
        })?;
        Ok(Self { socket })
    }

    /// Everything that was passed on since the last call, oldest first.
    #[must_use]
    pub fn take(&self) -> Vec<Passed> {
        let mut passed = Vec::new();
        while let Some(frame) = self.receive() {
            passed.extend(frame);
        }
        passed
    }

    /// The next frame, `Some(None)` when it is of another kind.
    fn receive(&self) -> Option<Option<Passed>> {
        let mut frame = [0_u8; 64];
        let mut control = cmsg_space!(TimeSpec);
        let mut parts = [IoSliceMut::new(&mut frame)];
        let flags = MsgFlags::MSG_TRUNC;
        let message =
            recvmsg::<LinkAddr>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags)
                .ok()?;
        let outgoing = message.address.is_some_and(|from| is_outgoing(&from));
        let stamp = message.cmsgs().ok()?.find_map(|control| {
            if let ControlMessageOwned::ScmTimestampns(stamp) = control {
                Some(realtime_to_monotonic_ns(as_ns(stamp.into())))
            } else {
                None
            }
        });
        let passed = stamp.filter(|_| outgoing).and_then(|at_ns| parse(&frame, at_ns));
        Some(passed)
    }
}

/// A frame is seen twice, where it comes in and where it goes out; only the latter was passed on.
fn is_outgoing(from: &LinkAddr) -> bool {
    from.as_ref().sll_pkttype == libc::PACKET_OUTGOING
}

fn parse(frame: &[u8], at_ns: u64) -> Option<Passed> {
    let mac = *frame.get(6..)?.first_chunk()?;
    let udp = frame.get(12..14)? == ETHERTYPE_IPV4 && *frame.get(23)? == PROTOCOL_UDP;
    let length = u16::from_be_bytes(*frame.get(UDP_AT + 4..)?.first_chunk()?);
    let payload_bytes = usize::from(length).checked_sub(UDP_BYTES)?;
    udp.then_some(Passed { at_ns, mac, payload_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_udp_over_ipv4_is_kept() {
        let mut frame = [0_u8; 64];
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 1, 1]);
        frame[12..14].copy_from_slice(&ETHERTYPE_IPV4);
        frame[23] = PROTOCOL_UDP;
        frame[38..40].copy_from_slice(&96_u16.to_be_bytes());
        let expected = Passed { at_ns: 7, mac: [2, 0, 0, 0, 1, 1], payload_bytes: 88 };
        assert_eq!(parse(&frame, 7), Some(expected));
        frame[23] = 6;
        assert_eq!(parse(&frame, 7), None);
        for length in 0..40 {
            assert_eq!(parse(&frame[..length], 7), None);
        }
    }
}
