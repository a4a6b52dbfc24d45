//! Watches the addresses of namespaces: when each came and went, told by the kernel.
//!
//! One thread listens for all hosts that are compared. The kernel does not say when an address came or
//! went, so that is when the thread has read of it. Two threads would stamp a move from one host to the
//! other the wrong way round when the one that watches the first gets its CPU later; this one reads on
//! until nothing is left on any host, and gives all of it the same stamp. So of two hosts that had an
//! address at once for less time than the thread came late, nothing is seen.

use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};

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
/// Messages of a host that get one stamp, at most.
const PASSES_MAX: usize = 100;
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
    /// When the observer read it from the kernel; the same for all hosts that are watched together
    /// when it read them in one go.
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

/// A namespace and what is known of its addresses.
#[derive(Debug)]
struct Host {
    link: Rtnetlink,
    records: Arc<Mutex<Records>>,
}

/// Listens to address changes of one namespace.
#[derive(Debug)]
pub struct AddressMonitor {
    records: Arc<Mutex<Records>>,
    watcher: Arc<Watcher>,
}

impl AddressMonitor {
    /// Starts listening; addresses that are there already count as present.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn start(netns: &Netns) -> Result<Self> {
        Self::start_all([netns])?.pop().context("no host")
    }

    /// As [`AddressMonitor::start`] for two hosts between which addresses move.
    ///
    /// # Errors
    /// As there.
    pub fn start_pair(one: &Netns, other: &Netns) -> Result<[Self; 2]> {
        Self::start_all([one, other])?.try_into().map_err(|_| anyhow!("not two hosts"))
    }

    /// As [`AddressMonitor::start`] for hosts between which addresses move, in their order.
    ///
    /// # Errors
    /// As there.
    pub fn start_all<'a>(hosts: impl IntoIterator<Item = &'a Netns>) -> Result<Vec<Self>> {
        let hosts: Vec<Host> = hosts.into_iter().map(Host::of).collect::<Result<_>>()?;
        let records: Vec<_> = hosts.iter().map(|host| Arc::clone(&host.records)).collect();
        let watcher =
            Watcher::start("addresses", Some(PRIORITY), move |stop| listen(&hosts, stop))?;
        let watcher = Arc::new(watcher);
        let monitor = |records| Self { records, watcher: Arc::clone(&watcher) };
        Ok(records.into_iter().map(monitor).collect())
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
        locked(&self.records).held(address)
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

impl Host {
    fn of(netns: &Netns) -> Result<Self> {
        let link = netns.run(|| {
            let link = Rtnetlink::open(GROUPS)?;
            setsockopt(link.socket(), sockopt::RcvBuf, &RECEIVE_BUFFER_LEN)?;
            Ok(link)
        })?;
        // After subscribing, so that nothing falls between the two: a change that is also in the
        // list shows up as a renewal.
        let initial: HashSet<IpAddr> =
            crate::bed::addresses_of(netns).context("cannot list addresses")?.into_iter().collect();
        let present = initial.clone();
        let records = Records { present, initial, events: Vec::new(), missed: 0 };
        Ok(Self { link, records: Arc::new(Mutex::new(records)) })
    }

    /// Reads one message into `news`, if there is one.
    fn read(&self, buffer: &mut [u8], news: &mut Vec<(u16, IpAddr)>) -> bool {
        match recv(self.link.socket().as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => {
                news.extend(address_messages(buffer.get(..length).unwrap_or_default()));
                true
            }
            Err(Errno::ENOBUFS) => {
                locked(&self.records).missed += 1;
                true
            }
            Err(_) => false,
        }
    }
}

fn listen(hosts: &[Host], stop: &AtomicBool) {
    let mut buffer = vec![0_u8; 1 << 16];
    let mut news = vec![Vec::new(); hosts.len()];
    let interval = PollTimeout::try_from(STOP_CHECK_INTERVAL).unwrap_or(PollTimeout::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let sockets = hosts.iter().map(|host| host.link.socket().as_fd());
        let mut waiting: Vec<_> = sockets.map(|it| PollFd::new(it, PollFlags::POLLIN)).collect();
        if poll(&mut waiting, interval).unwrap_or(0) == 0 {
            continue;
        }
        // What came to a host before something that is read from another host is read as well.
        for _ in 0..PASSES_MAX {
            let mut any = false;
            for (host, news) in hosts.iter().zip(&mut news) {
                any |= host.read(&mut buffer, news);
            }
            if !any {
                break;
            }
        }
        let at_ns = monotonic_ns();
        for (host, news) in hosts.iter().zip(&mut news) {
            let mut records = locked(&host.records);
            for (kind, address) in news.drain(..) {
                records.note(at_ns, kind, address);
            }
        }
    }
}

impl Records {
    fn held(&self, address: IpAddr) -> Vec<(u64, u64)> {
        let mut since = self.initial.contains(&address).then_some(0);
        let mut held = Vec::new();
        for event in self.events.iter().filter(|event| event.address == address) {
            match event.change {
                AddressChange::Added => since = Some(event.at_ns),
                AddressChange::Renewed => {}
                // Of what came and went between two looks it is not known for how long it was there.
                AddressChange::Removed => {
                    held.extend(since.take().map(|from| (from, event.at_ns.max(from + 1))));
                }
            }
        }
        held.extend(since.map(|from| (from, u64::MAX)));
        held
    }

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
    fn of_what_was_read_at_once_a_move_is_no_overlap_and_a_visit_is_one() {
        let address = IpAddr::from([192, 0, 2, 1]);
        let held = |there: bool, kinds: &[u16]| {
            let initial: HashSet<_> = there.then_some(address).into_iter().collect();
            let mut records = Records { present: initial.clone(), initial, ..Records::default() };
            kinds.iter().for_each(|kind| records.note(5, *kind, address));
            records.held(address)
        };
        let overlap = |one, other| overlap_ns(&held(true, one), &held(false, other), 0, 1_000);
        assert_eq!(overlap(&[RTM_DELADDR], &[RTM_NEWADDR]), 0);
        assert_eq!(overlap(&[], &[RTM_NEWADDR, RTM_DELADDR]), 1);
        assert_eq!(overlap(&[], &[RTM_NEWADDR]), 995);
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
