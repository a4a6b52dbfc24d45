//! Watches a namespace's addresses: when each came and went, told by the kernel.

use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::{STOP_CHECK_INTERVAL, Watcher, locked};
use crate::bed::Netns;
use crate::bed::netlink::{Rtnetlink, u16_at, u32_at};
use crate::clock::monotonic_ns;

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
/// `RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR`.
const GROUPS: u32 = 0x10 | 0x100;
const HEADER_LEN: usize = 16;
/// `struct ifaddrmsg`.
const ADDRESS_MESSAGE_LEN: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RECEIVE_BUFFER_LEN: usize = 1 << 20;
const EVENTS_MAX: usize = 100_000;
/// Above any daemon under test.
const PRIORITY: u8 = 90;

/// What happened to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressChange {
    /// It was not there and is now.
    Added,
    /// It was there and was written again (its lifetime was renewed, for instance).
    Renewed,
    /// It was there and is not any more (deleted, or its lifetime ran out).
    Removed,
}

/// One change of one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressEvent {
    /// When the observer read it from the kernel.
    pub at_ns: u64,
    /// The address.
    pub address: IpAddr,
    /// What happened.
    pub change: AddressChange,
}

#[derive(Debug, Default)]
struct Records {
    present: HashSet<IpAddr>,
    initial: HashSet<IpAddr>,
    events: Vec<AddressEvent>,
    missed: u64,
}

/// Listens to address changes of one namespace.
#[derive(Debug)]
pub struct AddressMonitor {
    records: Arc<Mutex<Records>>,
    watcher: Watcher,
}

impl AddressMonitor {
    /// Starts listening; addresses that are there already count as present.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn start(netns: &Netns) -> Result<Self> {
        let link = netns.run(|| {
            let link = Rtnetlink::open(GROUPS)?;
            let interval = i64::try_from(STOP_CHECK_INTERVAL.as_millis())?;
            let socket = link.socket();
            setsockopt(socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(interval))?;
            setsockopt(socket, sockopt::RcvBuf, &RECEIVE_BUFFER_LEN)?;
            Ok(link)
        })?;
        // After subscribing, so that nothing falls between the two: a change that is also in the
        // list shows up as a renewal.
        let initial: HashSet<IpAddr> =
            crate::bed::addresses_of(netns).context("cannot list addresses")?.into_iter().collect();
        let records = Arc::new(Mutex::new(Records {
            present: initial.clone(),
            initial,
            events: Vec::new(),
            missed: 0,
        }));
        let shared = Arc::clone(&records);
        let watcher = Watcher::start("addresses", Some(PRIORITY), move |stop| {
            listen(&link, &shared, stop);
        })?;
        Ok(Self { records, watcher })
    }

    /// All changes so far, oldest first.
    #[must_use]
    pub fn events(&self) -> Vec<AddressEvent> {
        locked(&self.records).events.clone()
    }

    /// Whether the address is there now.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        locked(&self.records).present.contains(&address)
    }

    /// When the address first came, no earlier than `after_ns`.
    #[must_use]
    pub fn first_added(&self, address: IpAddr, after_ns: u64) -> Option<u64> {
        self.first(address, AddressChange::Added, after_ns)
    }

    /// When the address first went, no earlier than `after_ns`.
    #[must_use]
    pub fn first_removed(&self, address: IpAddr, after_ns: u64) -> Option<u64> {
        self.first(address, AddressChange::Removed, after_ns)
    }

    /// Waits until the address is there (`true`) or not (`false`).
    ///
    /// # Errors
    /// It does not come to that in time.
    pub fn wait(&self, address: IpAddr, there: bool, time_max: Duration) -> Result<()> {
        let deadline = Instant::now() + time_max;
        while self.holds(address) != there {
            if Instant::now() > deadline {
                bail!(
                    "{address} is {} after {time_max:?}",
                    if there { "missing" } else { "there" }
                );
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The times during which the address was there: from (0: since before the start), and until
    /// (`u64::MAX`: still).
    #[must_use]
    pub fn held(&self, address: IpAddr) -> Vec<(u64, u64)> {
        let records = locked(&self.records);
        let mut since = records.initial.contains(&address).then_some(0);
        let mut held = Vec::new();
        for event in records.events.iter().filter(|event| event.address == address) {
            match event.change {
                AddressChange::Added => since = Some(event.at_ns),
                AddressChange::Renewed => {}
                AddressChange::Removed => held.extend(since.take().map(|from| (from, event.at_ns))),
            }
        }
        held.extend(since.map(|from| (from, u64::MAX)));
        held
    }

    /// The times that the address came or went between `from_ns` and `to_ns`, oldest first; that its
    /// lifetime was renewed is no change.
    #[must_use]
    pub fn changes(&self, address: IpAddr, from_ns: u64, to_ns: u64) -> Vec<AddressEvent> {
        locked(&self.records).changes(address, from_ns, to_ns)
    }

    /// Changes that were lost because the kernel's or this observer's buffer was full; anything
    /// but 0 makes a measurement void.
    #[must_use]
    pub fn missed(&self) -> u64 {
        locked(&self.records).missed
    }

    /// Granted scheduling of the observer.
    #[must_use]
    pub fn scheduling(&self) -> &str {
        &self.watcher.scheduling
    }

    fn first(&self, address: IpAddr, change: AddressChange, after_ns: u64) -> Option<u64> {
        locked(&self.records)
            .events
            .iter()
            .find(|event| {
                event.address == address && event.change == change && event.at_ns >= after_ns
            })
            .map(|event| event.at_ns)
    }
}

/// How long two hosts had the address at the same time between `from_ns` and `to_ns`, in total.
#[must_use]
pub fn both_held_ns(
    one: &AddressMonitor,
    other: &AddressMonitor,
    address: IpAddr,
    from_ns: u64,
    to_ns: u64,
) -> u64 {
    overlap_ns(&one.held(address), &other.held(address), from_ns, to_ns)
}

/// How long none of the two had the address between `from_ns` and `to_ns`, in total.
#[must_use]
pub fn neither_held_ns(
    one: &AddressMonitor,
    other: &AddressMonitor,
    address: IpAddr,
    from_ns: u64,
    to_ns: u64,
) -> u64 {
    neither_ns(&one.held(address), &other.held(address), from_ns, to_ns)
}

fn neither_ns(one: &[(u64, u64)], other: &[(u64, u64)], from_ns: u64, to_ns: u64) -> u64 {
    let whole = [(from_ns, to_ns)];
    let alone = |held| overlap_ns(held, &whole, from_ns, to_ns);
    let both_ns = overlap_ns(one, other, from_ns, to_ns);
    (to_ns.saturating_sub(from_ns) + both_ns).saturating_sub(alone(one) + alone(other))
}

fn overlap_ns(one: &[(u64, u64)], other: &[(u64, u64)], from_ns: u64, to_ns: u64) -> u64 {
    one.iter()
        .flat_map(|first| other.iter().map(move |second| (first, second)))
        .map(|(first, second)| {
            let start = first.0.max(second.0).max(from_ns);
            let end = first.1.min(second.1).min(to_ns);
            end.saturating_sub(start)
        })
        .sum()
}

fn listen(link: &Rtnetlink, records: &Mutex<Records>, stop: &AtomicBool) {
    let mut buffer = vec![0_u8; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        match recv(link.socket().as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => {
                let at_ns = monotonic_ns();
                let messages = buffer.get(..length).unwrap_or_default();
                let mut records = locked(records);
                for (kind, address) in address_messages(messages) {
                    records.note(at_ns, kind, address);
                }
            }
            Err(Errno::ENOBUFS) => locked(records).missed += 1,
            Err(_) => {}
        }
    }
}

impl Records {
    fn changes(&self, address: IpAddr, from_ns: u64, to_ns: u64) -> Vec<AddressEvent> {
        let is = |event: &&AddressEvent| {
            event.address == address
                && event.change != AddressChange::Renewed
                && (from_ns..to_ns).contains(&event.at_ns)
        };
        self.events.iter().filter(is).copied().collect()
    }

    fn note(&mut self, at_ns: u64, kind: u16, address: IpAddr) {
        let change = match kind {
            RTM_NEWADDR if self.present.insert(address) => AddressChange::Added,
            RTM_NEWADDR => AddressChange::Renewed,
            _ => {
                self.present.remove(&address);
                AddressChange::Removed
            }
        };
        if self.events.len() < EVENTS_MAX {
            self.events.push(AddressEvent { at_ns, address, change });
        } else {
            self.missed += 1;
        }
    }
}

/// The address messages in one datagram: kind and address.
fn address_messages(mut datagram: &[u8]) -> Vec<(u16, IpAddr)> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind)) = (u32_at(datagram, 0), u16_at(datagram, 4)) {
        let length = length as usize;
        let Some(message) = datagram.get(HEADER_LEN..length) else {
            break;
        };
        if (kind == RTM_NEWADDR || kind == RTM_DELADDR)
            && let Some(address) = address_of(message)
        {
            found.push((kind, address));
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// `IFA_LOCAL` is the host's own address where both are given, `IFA_ADDRESS` otherwise.
fn address_of(message: &[u8]) -> Option<IpAddr> {
    let mut attributes = message.get(ADDRESS_MESSAGE_LEN..)?;
    let mut address = None;
    while let (Some(length), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let length = usize::from(length);
        let Some(value) = attributes.get(4..length) else {
            break;
        };
        match kind {
            IFA_LOCAL => return parse_ip(value),
            IFA_ADDRESS => address = parse_ip(value),
            _ => {}
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    address
}

fn parse_ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![0; ADDRESS_MESSAGE_LEN];
        for (kind, value) in attributes {
            body.extend(u16::try_from(4 + value.len()).unwrap_or(0).to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut bytes = u32::try_from(HEADER_LEN + body.len()).unwrap_or(0).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(HEADER_LEN, 0);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn the_local_address_wins_and_damaged_messages_end_the_datagram() {
        let mut datagram =
            message(20, &[(1, &[192, 0, 2, 9]), (3, b"eth0\0"), (2, &[192, 0, 2, 1])]);
        datagram.extend(message(21, &[(1, &[0x20; 16])]));
        let found = address_messages(&datagram);
        assert_eq!(found[0], (20, IpAddr::from([192, 0, 2, 1])));
        assert_eq!(found[1], (21, IpAddr::from([0x20; 16])));
        for length in 0..datagram.len() {
            assert!(address_messages(&datagram[..length]).len() <= 2);
        }
        assert!(address_messages(&[0; 64]).is_empty());
        assert!(address_messages(&[0xff; 64]).is_empty());
    }

    #[test]
    fn a_renewed_address_was_not_added_again() {
        let address = IpAddr::from([192, 0, 2, 1]);
        let mut records = Records::default();
        for (at_ns, kind) in [(1, 20), (2, 20), (3, 21), (4, 20)] {
            records.note(at_ns, kind, address);
        }
        let changes: Vec<AddressChange> = records.events.iter().map(|event| event.change).collect();
        use AddressChange::{Added, Removed, Renewed};
        assert_eq!(changes, [Added, Renewed, Removed, Added]);
        let counted = records.changes(address, 1, 4);
        assert_eq!(counted.iter().map(|event| event.at_ns).collect::<Vec<_>>(), [1, 3]);
        assert!(records.changes([192, 0, 2, 2].into(), 0, u64::MAX).is_empty());
    }

    #[test]
    fn the_overlap_counts_only_common_time_in_the_window() {
        let one = [(0, 100), (200, u64::MAX)];
        let other = [(90, 210)];
        assert_eq!(overlap_ns(&one, &other, 0, 1_000), 20);
        assert_eq!(overlap_ns(&one, &other, 95, 205), 10);
        assert_eq!(overlap_ns(&one, &[], 0, 1_000), 0);
    }

    #[test]
    fn the_time_with_the_address_nowhere_is_the_rest() {
        let one = [(0, 100), (200, u64::MAX)];
        assert_eq!(neither_ns(&one, &[(90, 150)], 0, 1_000), 50);
        assert_eq!(neither_ns(&one, &[], 120, 180), 60);
        assert_eq!(neither_ns(&one, &[(100, 200)], 0, 1_000), 0);
    }
}
