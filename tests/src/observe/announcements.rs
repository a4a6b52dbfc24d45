//! Sees gratuitous ARP and unsolicited neighbour advertisements as a client sees them, with the
//! kernel's receive stamps.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Result;
use nix::sys::socket::MsgFlags;
use socket2::Socket;

use super::{STOP_CHECK_INTERVAL, Watcher, locked, stamped};
use crate::bed::Netns;
use crate::clock::monotonic_ns;

const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Destination, source, ethertype.
const ETHERNET_LEN: usize = 14;
const IPV6_LEN: usize = 40;
const PROTOCOL_ICMPV6: u8 = 58;
const ICMPV6_NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const NA_SOLICITED: u8 = 0x40;
const RECORDS_MAX: usize = 100_000;
const RECEIVE_BUFFER_LEN: usize = 1 << 20;
const PRIORITY: u8 = 90;

/// How an address was announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnnouncementKind {
    /// Gratuitous ARP as a request.
    ArpRequest,
    /// Gratuitous ARP as a reply.
    ArpReply,
    /// Unsolicited neighbour advertisement.
    Neighbour,
}

/// One announcement of one address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Announcement {
    /// When the client's kernel received it.
    pub at_ns: u64,
    /// The address that it announces.
    pub address: IpAddr,
    /// The sender of the Ethernet frame.
    pub mac: [u8; 6],
    /// How.
    pub kind: AnnouncementKind,
}

impl Announcement {
    /// The sender as [`crate::bed::Bed::mac`] writes it.
    #[must_use]
    pub fn mac_text(&self) -> String {
        super::mac_text(self.mac)
    }
}

impl fmt::Debug for Announcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at_ns, mac) = (self.at_ns, self.mac_text());
        write!(f, "{} is at {mac} ({:?}, {at_ns} ns)", self.address, self.kind)
    }
}

#[derive(Debug, Default)]
struct Records {
    announcements: Vec<Announcement>,
    missed: u64,
}

/// Listens to announcements on all interfaces of one namespace.
#[derive(Debug)]
pub struct Sniffer {
    records: Arc<Mutex<Records>>,
    watchers: [Watcher; 2],
}

impl Sniffer {
    /// Starts listening.
    ///
    /// # Errors
    /// Packet sockets cannot be opened there.
    pub fn start(netns: &Netns) -> Result<Self> {
        let records = Arc::new(Mutex::new(Records::default()));
        let watch = |name: &str, ethertype: u16| {
            let socket = netns.run(|| open(ethertype))?;
            let shared = Arc::clone(&records);
            Watcher::start(name, Some(PRIORITY), move |stop| listen(&socket, &shared, stop))
        };
        let watchers = [watch("arp", ETHERTYPE_ARP)?, watch("neighbours", ETHERTYPE_IPV6)?];
        Ok(Self { records, watchers })
    }

    /// All announcements of an address no earlier than `after_ns`, oldest first.
    #[must_use]
    pub fn announcements(&self, address: IpAddr, after_ns: u64) -> Vec<Announcement> {
        locked(&self.records)
            .announcements
            .iter()
            .filter(|seen| seen.address == address && seen.at_ns >= after_ns)
            .copied()
            .collect()
    }

    /// The first announcement of an address by that sender (as [`crate::bed::Bed::mac`] writes
    /// it), no earlier than `after_ns`.
    #[must_use]
    pub fn first(&self, address: IpAddr, mac: &str, after_ns: u64) -> Option<Announcement> {
        self.announcements(address, after_ns).into_iter().find(|seen| seen.mac_text() == mac)
    }

    /// Announcements that were seen but not kept, because there were too many.
    #[must_use]
    pub fn missed(&self) -> u64 {
        locked(&self.records).missed
    }

    /// Granted scheduling of the observer.
    #[must_use]
    pub fn scheduling(&self) -> &str {
        &self.watchers[0].scheduling
    }
}

fn open(ethertype: u16) -> Result<Socket> {
    let socket = stamped::open(ethertype)?;
    socket.set_read_timeout(Some(STOP_CHECK_INTERVAL))?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_LEN)?;
    Ok(socket)
}

fn listen(socket: &Socket, records: &Mutex<Records>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let Some((at_ns, announced)) = receive(socket) else {
            continue;
        };
        let mut records = locked(records);
        if records.announcements.len() < RECORDS_MAX {
            let (address, mac, kind) = announced;
            records.announcements.push(Announcement { at_ns, address, mac, kind });
        } else {
            records.missed += 1;
        }
    }
}

type Announced = (IpAddr, [u8; 6], AnnouncementKind);

fn receive(socket: &Socket) -> Option<(u64, Announced)> {
    let mut frame = [0_u8; 256];
    let stamped = stamped::receive(socket, &mut frame, MsgFlags::empty())?;
    let announced = parse(frame.get(..stamped.bytes).unwrap_or(&frame))?;
    Some((stamped.at_ns.unwrap_or_else(monotonic_ns), announced))
}

fn parse(frame: &[u8]) -> Option<Announced> {
    let mac = *frame.get(6..)?.first_chunk()?;
    let body = frame.get(ETHERNET_LEN..)?;
    let (address, kind) = match u16::from_be_bytes(*frame.get(12..)?.first_chunk()?) {
        ETHERTYPE_ARP => parse_arp(body)?,
        ETHERTYPE_IPV6 => parse_advertisement(body)?,
        _ => return None,
    };
    Some((address, mac, kind))
}

/// RFC 5227 1.1: sender and target protocol address of an announcement are equal.
fn parse_arp(body: &[u8]) -> Option<(IpAddr, AnnouncementKind)> {
    // Ethernet, IPv4, lengths 6 and 4.
    if body.get(..6)? != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    let sender: [u8; 4] = *body.get(14..)?.first_chunk()?;
    let target: [u8; 4] = *body.get(24..)?.first_chunk()?;
    let kind = match body.get(6..8)? {
        [0, 1] => AnnouncementKind::ArpRequest,
        [0, 2] => AnnouncementKind::ArpReply,
        _ => return None,
    };
    (sender == target).then(|| (Ipv4Addr::from(sender).into(), kind))
}

/// RFC 4861 4.4: the solicited flag is clear in an unsolicited advertisement.
fn parse_advertisement(body: &[u8]) -> Option<(IpAddr, AnnouncementKind)> {
    let message = body.get(IPV6_LEN..)?;
    if *body.get(6)? != PROTOCOL_ICMPV6
        || *message.first()? != ICMPV6_NEIGHBOUR_ADVERTISEMENT
        || message.get(4)? & NA_SOLICITED != 0
    {
        return None;
    }
    let target: [u8; 16] = *message.get(8..)?.first_chunk()?;
    Some((Ipv6Addr::from(target).into(), AnnouncementKind::Neighbour))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arp(operation: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
        let mac = [2, 0, 0, 0, 0, 1];
        let mut frame = vec![0xff; 6];
        frame.extend(mac);
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
        frame.extend(mac);
        frame.extend(sender);
        frame.extend([0; 6]);
        frame.extend(target);
        frame
    }

    #[test]
    fn only_arp_about_oneself_is_an_announcement() {
        let own = [192, 0, 2, 1];
        let seen = parse(&arp(2, own, own));
        assert_eq!(seen, Some((own.into(), [2, 0, 0, 0, 0, 1], AnnouncementKind::ArpReply)));
        assert!(parse(&arp(1, own, own)).is_some());
        assert!(parse(&arp(1, own, [192, 0, 2, 2])).is_none());
        assert!(parse(&arp(3, own, own)).is_none());
        for length in 0..42 {
            assert!(parse(&arp(1, own, own)[..length]).is_none());
        }
    }

    #[test]
    fn a_solicited_advertisement_is_none() {
        let mut frame = vec![0; 12];
        frame.extend([0x86, 0xdd]);
        frame.extend([0; 40]);
        frame[20] = 58;
        frame.extend([136, 0, 0, 0, 0x20, 0, 0, 0]);
        frame.extend([0x20; 16]);
        let seen = parse(&frame);
        assert!(seen.is_some_and(|(address, ..)| address == IpAddr::from([0x20; 16])));
        frame[58] = 0x60;
        assert!(parse(&frame).is_none());
    }
}
