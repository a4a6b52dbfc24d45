//! Pings against a real kernel, and against a host that answers what it should not.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

#[expect(dead_code, reason = "other tests use the rest of it")]
mod common;
#[path = "common/worker.rs"]
#[expect(dead_code, reason = "other tests use the rest of it")]
mod worker;

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use common::{between_two_namespaces, eventually, ip};
use ha_daemon::io::ping::{PingOptions, Pinger};
use nix::sys::socket::{MsgFlags, recv, send};
use socket2::Socket;
use worker::{FAR_MAC, NEAR_MAC, far_capture};

const WAIT: Duration = Duration::from_secs(10);
const INTERVAL: Duration = Duration::from_millis(100);
const DEADPING: Duration = Duration::from_millis(500);
const ETHERTYPE_IPV4: u16 = 0x0800;

struct Running {
    pinger: Option<Pinger>,
    changes: Receiver<(usize, bool)>,
    /// What [`Running::settles`] has heard of each target.
    told: Vec<Option<bool>>,
}

fn start(targets: &[&[&str]]) -> Running {
    let (tell, changes) = channel();
    let tell = Mutex::new(tell);
    let members = |it: &&[&str]| it.iter().map(|address| address.parse().unwrap()).collect();
    let pinger = Pinger::start(PingOptions {
        targets: targets.iter().map(members).collect::<Vec<Vec<IpAddr>>>(),
        interval: INTERVAL,
        deadping: DEADPING,
        at_start: None,
        report: Box::new(move |target, reached| {
            tell.lock().unwrap().send((target, reached)).is_ok()
        }),
    });
    Running { pinger: Some(pinger.unwrap()), changes, told: vec![None; targets.len()] }
}

impl Running {
    fn next(&self) -> (usize, bool) {
        self.changes.recv_timeout(WAIT).unwrap()
    }

    /// Waits until the target is reached, which on a busy machine may take longer than it may be
    /// silent.
    fn first_reached(&self, target: usize) {
        while self.next() != (target, true) {}
    }

    /// Waits until each target is reached or lost as wanted, and nothing changes for `calm`. On a busy
    /// machine other changes may come before.
    fn settles<const N: usize>(&mut self, wanted: [bool; N], calm: Duration) {
        let deadline = Instant::now() + WAIT;
        loop {
            let is_there = self.told == wanted.map(Some);
            let left = deadline.saturating_duration_since(Instant::now());
            let more = self.changes.recv_timeout(if is_there { calm } else { left });
            if is_there && more.is_err() {
                return;
            }
            assert!(more.is_ok() && !left.is_zero(), "{:?}, not {wanted:?}: {more:?}", self.told);
            let (target, reached) = more.unwrap();
            self.told[target] = Some(reached);
        }
    }

    fn words(&self) -> std::sync::Arc<[ha_daemon::io::ping::TargetWords]> {
        self.pinger.as_ref().unwrap().words()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.pinger.take().unwrap().stop();
    }
}

#[test]
#[ignore = "needs root: network namespaces"]
fn targets_of_both_families_are_reached_lost_and_reached_again() {
    for (near, far_address, target) in [
        ("192.0.2.1/24", "192.0.2.254/24", "192.0.2.254"),
        ("2001:db8::1/64", "2001:db8::fe/64", "2001:db8::fe"),
    ] {
        between_two_namespaces(move |far| {
            ip(&format!("addr add {near} dev veth0 nodad"));
            far.run(|| ip(&format!("addr add {far_address} dev veth1 nodad")));
            let running = start(&[&[target]]);
            running.first_reached(0);
            let words = running.words();
            assert!(words[0].received() > 0 && words[0].sent() > 0);
            let round_trip_ns = words[0].round_trip_ns().unwrap();
            assert!((1..DEADPING.as_nanos() as u64).contains(&round_trip_ns), "{round_trip_ns}");
            far.run(|| ip(&format!("addr del {far_address} dev veth1")));
            assert_eq!(running.next(), (0, false));
            far.run(|| ip(&format!("addr add {far_address} dev veth1 nodad")));
            assert_eq!(running.next(), (0, true));
        });
    }
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_group_is_reached_while_one_member_is() {
    between_two_namespaces(|far| {
        ip("addr add 192.0.2.1/24 dev veth0");
        far.run(|| ip("addr add 192.0.2.254/24 dev veth1"));
        let mut running = start(&[&["192.0.2.253", "192.0.2.254"], &["192.0.2.253"]]);
        running.settles([true, false], DEADPING * 3);
        far.run(|| ip("addr del 192.0.2.254/24 dev veth1"));
        running.settles([false, false], Duration::ZERO);
        far.run(|| ip("addr add 192.0.2.253/24 dev veth1"));
        running.settles([true, true], Duration::ZERO);
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn what_there_is_no_way_to_is_lost_and_found_when_there_is_one() {
    between_two_namespaces(|far| {
        far.run(|| ip("addr add 192.0.2.254/24 dev veth1"));
        let running = start(&[&["192.0.2.254"]]);
        assert_eq!(running.next(), (0, false));
        assert_eq!(running.words()[0].sent(), 0);
        ip("addr add 192.0.2.1/24 dev veth0");
        assert_eq!(running.next(), (0, true));
    });
}

/// The next request that the far end gets, as a whole frame.
fn request(socket: &Socket) -> Vec<u8> {
    let mut frame = vec![0; 2048];
    loop {
        let length = recv(socket.as_raw_fd(), &mut frame, MsgFlags::empty()).unwrap();
        // Protocol ICMP, echo request.
        if frame[6..12] == NEAR_MAC && frame[23] == 1 && frame[34] == 8 {
            frame.truncate(length);
            return frame;
        }
    }
}

/// The answer to a request, from `source`, with the payload changed by `change`.
fn reply(request: &[u8], source: Ipv4Addr, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut frame = request.to_vec();
    frame[..6].copy_from_slice(&NEAR_MAC);
    frame[6..12].copy_from_slice(&FAR_MAC);
    frame[26..30].copy_from_slice(&source.octets());
    frame[30..34].copy_from_slice(&[192, 0, 2, 1]);
    frame[34] = 0;
    change(&mut frame[34..]);
    for (checksum, from, to) in [(24, 14, 34), (36, 34, request.len())] {
        frame[checksum..checksum + 2].fill(0);
        let words = frame[from..to].chunks(2);
        let sum: u32 = words.map(|it| u32::from(it[0]) << 8 | u32::from(it[1])).sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = !((sum + (sum >> 16)) as u16);
        frame[checksum..checksum + 2].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

/// The far end has no address, so that its kernel answers nothing; what it answers is forged.
#[test]
#[ignore = "needs root: network namespaces"]
fn forged_and_repeated_answers_do_not_count() {
    between_two_namespaces(|far| {
        ip("addr add 192.0.2.1/24 dev veth0");
        ip("neigh add 192.0.2.254 lladdr 02:00:00:00:00:0b dev veth0");
        let socket = far_capture(far, ETHERTYPE_IPV4);
        let running = start(&[&["192.0.2.254"]]);
        let words = running.words();
        let target = Ipv4Addr::new(192, 0, 2, 254);
        let answer = |frame: &[u8]| {
            send(socket.as_raw_fd(), frame, MsgFlags::empty()).unwrap();
        };
        for _ in 0..3 {
            let asked = request(&socket);
            // From another host, though it has seen the request.
            answer(&reply(&asked, Ipv4Addr::new(192, 0, 2, 66), |_| {}));
            // In the right name with a guessed stamp, a later number, an earlier time.
            answer(&reply(&asked, target, |it| it[8..16].fill(7)));
            answer(&reply(&asked, target, |it| it[31] ^= 1));
            answer(&reply(&asked, target, |it| it[39] ^= 1));
            answer(&reply(&asked, target, |it| it[5] ^= 1));
            // A request that came back.
            answer(&reply(&asked, target, |it| it[0] = 8));
        }
        assert_eq!(running.next(), (0, false));
        assert_eq!(words[0].received(), 0);
        // The same way, a true answer counts: once. What was asked meanwhile is too old for one.
        while recv(socket.as_raw_fd(), &mut [0; 2048], MsgFlags::MSG_DONTWAIT).is_ok() {}
        let first = reply(&request(&socket), target, |_| {});
        answer(&first);
        assert_eq!(running.next(), (0, true));
        for _ in 0..10 {
            request(&socket);
            answer(&first);
        }
        assert_eq!(running.next(), (0, false), "repeated answers keep nothing reached");
        eventually("repetitions are counted", WAIT, || words[0].rejected() >= 10);
        assert_eq!(words[0].received(), 1);
    });
}
