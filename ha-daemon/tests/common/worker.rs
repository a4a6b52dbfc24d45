//! An address worker under test, and ears at the other end of its link.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on may panic")]

use std::os::fd::AsRawFd;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ha_daemon::config::AnnouncePlan;
use ha_daemon::io::address::{
    AddressCommand, AddressDetails, AddressOptions, AddressReport, AddressSender, AddressWorker,
};
use ha_daemon::io::keeper::Lease;
use ha_daemon::io::sys;
use socket2::{Domain, Socket, Type};

use crate::common::Far;

/// The MAC addresses that `common` gives to the two ends.
pub const NEAR_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0a];
pub const FAR_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0b];

/// A running worker and what it reported.
pub struct Running {
    worker: Option<AddressWorker>,
    pub sender: AddressSender,
    pub reports: Receiver<AddressReport>,
    pub lease: Arc<Lease>,
}

pub fn quiet() -> AnnouncePlan {
    AnnouncePlan { burst: 3, repeat: vec![], refresh: None }
}

pub fn start(plan: AnnouncePlan, lifetime_s: u64) -> Running {
    // Nobody renews it here: longer than any test.
    start_for(Duration::from_secs(600), plan, lifetime_s)
}

/// The same with a lease that nobody renews.
pub fn start_for(lease: Duration, plan: AnnouncePlan, lifetime_s: u64) -> Running {
    let (reported, reports) = channel();
    let reported = Mutex::new(reported);
    let lease = Arc::new(Lease::create(lease).unwrap());
    let worker = AddressWorker::start(AddressOptions {
        plan,
        address_lifetime: Duration::from_secs(lifetime_s),
        at_start: None,
        held: Vec::new(),
        lease: Arc::clone(&lease),
        lateness: Arc::default(),
        report: Arc::new(move |report| {
            let _ = reported.lock().unwrap().send(report);
        }),
    })
    .unwrap();
    Running { sender: worker.sender(), worker: Some(worker), reports, lease }
}

impl Running {
    pub fn next(&self) -> AddressReport {
        self.reports.recv_timeout(Duration::from_secs(5)).unwrap()
    }

    pub fn add(&self, address: &str, interface: &str) -> AddressReport {
        self.sender
            .send(AddressCommand::Add {
                token: 7,
                address: address.parse().unwrap(),
                interface: interface.parse().unwrap(),
                details: AddressDetails::default(),
            })
            .unwrap();
        self.next()
    }

    pub fn remove(&self, address: &str) {
        let (address, interface) = (address.parse().unwrap(), "veth0".parse().unwrap());
        self.sender.send(AddressCommand::Remove { token: 8, address, interface }).unwrap();
        let report = self.next();
        assert!(
            matches!(report, AddressReport::Removed { token: 8, outcome: Ok(()), .. }),
            "{report:?}"
        );
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.sender.send(AddressCommand::Shutdown).unwrap();
        self.worker.take().unwrap().join();
    }
}

pub fn succeeded(report: &AddressReport) {
    assert!(matches!(report, AddressReport::Added { token: 7, outcome: Ok(()), .. }), "{report:?}");
}

pub fn failure(report: AddressReport) -> String {
    if let AddressReport::Added { outcome, .. } = &report
        && let Err(cause) = outcome
    {
        return cause.clone();
    }
    panic!("{report:?}")
}

/// A packet socket that sees one protocol on one interface of this thread's namespace.
pub fn capture(interface: &str, protocol: u16) -> Socket {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None).unwrap();
    let ifindex = nix::net::if_::if_nametoindex(interface).unwrap();
    let address = sys::link_address(ifindex, protocol).unwrap();
    nix::sys::socket::bind(socket.as_raw_fd(), &address).unwrap();
    socket
}

/// The same on the far end.
pub fn far_capture(far: &Far, protocol: u16) -> Socket {
    far.run(|| capture("veth1", protocol))
}

/// The frames of the near end that arrive until nothing arrived for `quiet`, at most for 10 s.
/// What the kernel itself has to say (router solicitations, MLD) is left out: `wanted` decides.
pub fn frames_until_quiet(
    socket: &Socket,
    quiet: Duration,
    wanted: fn(&[u8]) -> bool,
) -> Vec<Vec<u8>> {
    let (mut frames, start) = (Vec::new(), Instant::now());
    let mut last = start;
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    while last.elapsed() < quiet && start.elapsed() < Duration::from_secs(10) {
        let mut frame = [0; 2048];
        let received = nix::sys::socket::recv(
            socket.as_raw_fd(),
            &mut frame,
            nix::sys::socket::MsgFlags::empty(),
        );
        if let Ok(length) = received
            && frame[6..12] == NEAR_MAC
            && wanted(&frame[..length])
        {
            last = Instant::now();
            frames.push(frame[..length].to_vec());
        }
    }
    frames
}

pub fn is_ndp_of_ours(frame: &[u8]) -> bool {
    let target: std::net::Ipv6Addr = "2001:db8::10".parse().unwrap();
    matches!(frame.get(54), Some(135 | 136)) && frame.get(62..78) == Some(&target.octets())
}
