//! Asks who has an address (ARP), many times a second from a thread above every other, and records
//! who answered when: the moment from which a client of the segment gets through again.

use std::io::IoSliceMut;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessageOwned, LinkAddr, MsgFlags, bind, recvmsg, setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Watcher, locked, mac_text};
use crate::bed::Netns;
use crate::clock::{as_ns, monotonic_ns, realtime_to_monotonic_ns, sleep_until_ns};

/// Between two questions.
const INTERVAL: Duration = Duration::from_micros(250);
const ANSWERS_MAX: usize = 1_000_000;
const PRIORITY: u8 = 99;
const ETHERTYPE_ARP: u16 = 0x0806;
/// Ethernet, ARP for IPv4.
const FRAME_BYTES: usize = 14 + 28;

/// Who asks, and for what.
#[derive(Debug, Clone, Copy)]
pub struct ArpQuestion {
    /// MAC address of the asking interface.
    pub mac: [u8; 6],
    /// Its address.
    pub own: Ipv4Addr,
    /// The address asked for.
    pub wanted: Ipv4Addr,
}

#[derive(Debug, Default)]
struct Records {
    /// When, and which MAC address.
    answers: Vec<(u64, [u8; 6])>,
    /// Questions that the kernel did not take.
    failed: u64,
}

/// Asks until it is dropped.
#[derive(Debug)]
pub struct ArpAsker {
    records: Arc<Mutex<Records>>,
    _watcher: Watcher,
}

impl ArpAsker {
    /// Begins to ask on `interface` of `netns`.
    ///
    /// # Errors
    /// There is no such interface, or packet sockets cannot be opened there.
    pub fn start(netns: &Netns, interface: &str, question: ArpQuestion) -> Result<Self> {
        let socket = netns.run(|| open(interface))?;
        let records = Arc::new(Mutex::new(Records::default()));
        let shared = Arc::clone(&records);
        let watcher = Watcher::start("arp-asker", Some(PRIORITY), move |stop| {
            ask(&socket, &question, &shared, stop);
        })?;
        Ok(Self { records, _watcher: watcher })
    }

    /// When an interface with that MAC address first answered, no earlier than `after_ns`.
    #[must_use]
    pub fn first_answer(&self, mac: &str, after_ns: u64) -> Option<u64> {
        let records = locked(&self.records);
        let found =
            records.answers.iter().find(|(at_ns, of)| *at_ns >= after_ns && mac_text(*of) == mac);
        found.map(|(at_ns, _)| *at_ns)
    }

    /// Questions that the kernel did not take; anything but 0 makes an answer's moment doubtful.
    #[must_use]
    pub fn failed(&self) -> u64 {
        locked(&self.records).failed
    }
}

fn open(interface: &str) -> Result<Socket> {
    let protocol = Protocol::from(i32::from(ETHERTYPE_ARP.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(protocol))
        .context("cannot open a packet socket")?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    let address = nix::ifaddrs::getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .with_context(|| format!("{interface} has no link address"))?;
    bind(socket.as_raw_fd(), &address)?;
    Ok(socket)
}

fn ask(socket: &Socket, question: &ArpQuestion, records: &Mutex<Records>, stop: &AtomicBool) {
    let frame = request(question);
    let mut next_ns = monotonic_ns();
    while !stop.load(Ordering::Relaxed) {
        sleep_until_ns(next_ns);
        let sent = socket.send(&frame).is_ok();
        let mut records = locked(records);
        records.failed += u64::from(!sent);
        while let Some((at_ns, answer)) = receive(socket) {
            let known = answer.and_then(|frame| reply_to(&frame, question));
            if let Some(mac) = known.filter(|_| records.answers.len() < ANSWERS_MAX) {
                records.answers.push((at_ns, mac));
            }
        }
        drop(records);
        next_ns = (next_ns + as_ns(INTERVAL)).max(monotonic_ns());
    }
}

type Frame = [u8; FRAME_BYTES];

/// The next frame: its stamp, and itself when it is long enough.
fn receive(socket: &Socket) -> Option<(u64, Option<Frame>)> {
    let mut frame = [0; FRAME_BYTES];
    let mut control = cmsg_space!(TimeSpec);
    let mut parts = [IoSliceMut::new(&mut frame)];
    let message = recvmsg::<LinkAddr>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )
    .ok()?;
    let stamp_ns = message.cmsgs().ok()?.find_map(|control| {
        if let ControlMessageOwned::ScmTimestampns(stamp) = control {
            Some(realtime_to_monotonic_ns(as_ns(stamp.into())))
        } else {
            None
        }
    });
    let whole = message.bytes == FRAME_BYTES;
    Some((stamp_ns.unwrap_or_else(monotonic_ns), whole.then_some(frame)))
}

/// RFC 826: who has `wanted`, tell `own`.
fn request(question: &ArpQuestion) -> Frame {
    let mut frame = [0; FRAME_BYTES];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&question.mac);
    frame[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&question.mac);
    frame[28..32].copy_from_slice(&question.own.octets());
    frame[38..].copy_from_slice(&question.wanted.octets());
    frame
}

/// Who answers the question; `None` for anything that is no answer to it.
fn reply_to(frame: &Frame, question: &ArpQuestion) -> Option<[u8; 6]> {
    let is_reply = frame[12..22] == [8, 6, 0, 1, 8, 0, 6, 4, 0, 2];
    let about = frame[28..32] == question.wanted.octets() && frame[38..] == question.own.octets();
    (is_reply && about).then(|| [frame[22], frame[23], frame[24], frame[25], frame[26], frame[27]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reply_about_the_wanted_address_counts() {
        let question = ArpQuestion {
            mac: [2, 0, 0, 0, 0, 9],
            own: Ipv4Addr::new(192, 0, 2, 9),
            wanted: Ipv4Addr::new(192, 0, 2, 1),
        };
        let asked = request(&question);
        assert_eq!(reply_to(&asked, &question), None);
        let owner = ArpQuestion { mac: [7; 6], own: question.wanted, wanted: question.own };
        let mut reply = request(&owner);
        reply[21] = 2;
        assert_eq!(reply_to(&reply, &question), Some([7; 6]));
        reply[31] ^= 1;
        assert_eq!(reply_to(&reply, &question), None);
    }
}
