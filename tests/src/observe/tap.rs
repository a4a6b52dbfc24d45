//! Reads what left the switch towards the nodes, afterwards: the kernel stamps and keeps the frames,
//! and nobody wakes for them while something is being measured.

use anyhow::{Context, Result};
use ha_common::wire::{FIXED_BYTES, Kind};
use nix::sys::socket::{LinkAddr, MsgFlags, setsockopt, sockopt};
use socket2::{SockFilter, Socket};

use super::stamped;
use crate::bed::Netns;

/// `SO_RCVBUFFORCE` of this size holds some 10,000 small frames.
const BUFFER_BYTES: usize = 16 << 20;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const PROTOCOL_UDP: u8 = 17;
/// Ethernet, IPv4 without options.
const UDP_AT: usize = 14 + 20;
const UDP_BYTES: usize = 8;
/// Magic, version, kind.
const KIND_AT: usize = 3;

/// A UDP datagram over IPv4 that the switch passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// When the switch handed it to the cable.
    pub at_ns: u64,
    /// The sender of the Ethernet frame.
    pub mac: [u8; 6],
    /// Bytes behind the UDP header.
    pub payload_bytes: usize,
    /// Where one of our datagrams has its kind; 0 when it is too short.
    pub kind: u8,
}

impl Passed {
    /// Whether it looks like a heartbeat: questions and answers between kernels are as long, control
    /// messages have a body.
    #[must_use]
    pub fn is_heartbeat(&self) -> bool {
        self.payload_bytes == FIXED_BYTES && self.kind == Kind::Heartbeat as u8
    }

    /// The sender as [`crate::bed::Bed::mac`] writes it.
    #[must_use]
    pub fn mac_text(&self) -> String {
        super::mac_text(self.mac)
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
            let socket = stamped::open(libc::ETH_P_ALL as u16)?;
            socket.set_nonblocking(true)?;
            setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES)?;
            anyhow::Ok(socket)
        })?;
        Ok(Self { socket })
    }

    /// Begins to collect what comes from these MAC addresses only (as [`crate::bed::Bed::mac`]
    /// writes them); the kernel throws the rest away, so that a flood does not fill the buffer.
    ///
    /// # Errors
    /// As [`Tap::open`]; or there are more addresses than a filter can jump over.
    pub fn open_for(switch: &Netns, macs: &[String]) -> Result<Self> {
        let tap = Self::open(switch)?;
        let filter: Vec<SockFilter> = sender_filter(macs)?
            .into_iter()
            .map(|step| SockFilter::new(step.code, step.jt, step.jf, step.k))
            .collect();
        tap.socket.attach_filter(&filter).context("cannot attach a socket filter")?;
        // What came in before the filter is no use: it may lack the beginning of a flood.
        drop(tap.take());
        Ok(tap)
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
        let stamped = stamped::receive(&self.socket, &mut frame, MsgFlags::MSG_TRUNC)?;
        let outgoing = stamped.from.is_some_and(|from| is_outgoing(&from));
        Some(stamped.at_ns.filter(|_| outgoing).and_then(|at_ns| parse(&frame, at_ns)))
    }
}

/// A frame is seen twice, where it comes in and where it goes out; only the latter was passed on.
fn is_outgoing(from: &LinkAddr) -> bool {
    from.as_ref().sll_pkttype == libc::PACKET_OUTGOING
}

/// A classic BPF program that passes frames whose last four bytes of the sender's MAC address are those
/// of one of `macs`.
fn sender_filter(macs: &[String]) -> Result<Vec<libc::sock_filter>> {
    let word = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let verdict = libc::BPF_RET | libc::BPF_K;
    let step = |code: u32, jt: u8, k: u32| -> Result<libc::sock_filter> {
        Ok(libc::sock_filter { code: u16::try_from(code)?, jt, jf: 0, k })
    };
    // The sender's address is in bytes 6 to 11 of the frame.
    let mut filter = vec![step(word, 0, 8)?];
    for (place, mac) in macs.iter().enumerate() {
        let hex = mac.replace(':', "");
        let tail = hex.get(4..).with_context(|| format!("{mac} is no MAC address"))?;
        // Over the other comparisons and the refusal.
        let over = u8::try_from(macs.len() - place)?;
        filter.push(step(equal, over, u32::from_str_radix(tail, 16)?)?);
    }
    filter.push(step(verdict, 0, 0)?);
    filter.push(step(verdict, 0, u32::MAX)?);
    Ok(filter)
}

fn parse(frame: &[u8], at_ns: u64) -> Option<Passed> {
    let mac = *frame.get(6..)?.first_chunk()?;
    let udp = frame.get(12..14)? == ETHERTYPE_IPV4 && *frame.get(23)? == PROTOCOL_UDP;
    let length = u16::from_be_bytes(*frame.get(UDP_AT + 4..)?.first_chunk()?);
    let payload_bytes = usize::from(length).checked_sub(UDP_BYTES)?;
    let kind = frame.get(UDP_AT + UDP_BYTES + KIND_AT).copied().unwrap_or(0);
    udp.then_some(Passed { at_ns, mac, payload_bytes, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_jumps_to_its_last_step_for_a_known_sender() {
        let macs = ["02:00:00:00:01:02".to_owned(), "02:00:00:00:03:04".to_owned()];
        let filter = sender_filter(&macs).unwrap();
        assert_eq!(filter.len(), 5);
        assert_eq!((filter[1].k, filter[1].jt), (0x0102, 2));
        assert_eq!((filter[2].k, filter[2].jt), (0x0304, 1));
        assert_eq!((filter[3].k, filter[4].k), (0, u32::MAX));
    }

    #[test]
    fn only_udp_over_ipv4_is_kept() {
        let mut frame = [0_u8; 64];
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 1, 1]);
        frame[12..14].copy_from_slice(&ETHERTYPE_IPV4);
        frame[23] = PROTOCOL_UDP;
        frame[38..40].copy_from_slice(&96_u16.to_be_bytes());
        frame[45] = 1;
        let expected = Passed { at_ns: 7, mac: [2, 0, 0, 0, 1, 1], payload_bytes: 88, kind: 1 };
        assert_eq!(parse(&frame, 7), Some(expected));
        assert!(expected.is_heartbeat());
        assert!(!Passed { kind: 3, ..expected }.is_heartbeat());
        assert!(!Passed { payload_bytes: 96, ..expected }.is_heartbeat());
        frame[23] = 6;
        assert_eq!(parse(&frame, 7), None);
        for length in 0..40 {
            assert_eq!(parse(&frame[..length], 7), None);
        }
    }
}
