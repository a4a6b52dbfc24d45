//! The address worker against a real kernel, in network namespaces of its own.
//!
//! Where a daemon has to be paused, this test binary stands in for it: it runs itself with
//! [`STAND_IN`] set, and the test `a_daemon_stand_in` then prints what its worker reports.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod common;
#[path = "common/worker.rs"]
mod worker;

use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use common::{between_two_namespaces, entry, eventually, ip};
use ha_daemon::config::AnnouncePlan;
use ha_daemon::io::address::{AddressCommand, AddressDetails, AddressReport, purge};
use ha_daemon::io::clock::monotonic_ns;
use ha_daemon::io::frames::{
    NeighbourRole, arp_announcement, arp_gratuitous_reply, arp_probe, neighbour_advertisement,
    neighbour_probe,
};
use ha_daemon::io::sys;
use worker::{
    FAR_MAC, NEAR_MAC, capture, failure, far_capture, frames_until_quiet, is_ndp_of_ours, quiet,
    start, start_for, succeeded,
};

const STAND_IN: &str = "ADDRESS_TEST_STAND_IN";
const FOUR: &str = "192.0.2.10/24";
const SIX: &str = "2001:db8::10/64";
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;

#[test]
#[ignore = "needs root: network namespaces"]
fn an_address_appears_stays_beyond_its_lifetime_and_disappears_on_demand() {
    between_two_namespaces(|_| {
        let running = start(quiet(), 3);
        succeeded(&running.add(FOUR, "veth0"));
        succeeded(&running.add(SIX, "veth0"));
        let four = entry("veth0", "192.0.2.10").unwrap();
        assert_eq!(four["broadcast"], "192.0.2.255");
        assert_eq!(four["label"], "veth0");
        assert!(four["noprefixroute"].is_null());
        let six = entry("veth0", "2001:db8::10").unwrap();
        assert_eq!(six["nodad"], true);
        assert!(six["tentative"].is_null());
        let end = Instant::now() + Duration::from_millis(5500);
        while Instant::now() < end {
            for address in ["192.0.2.10", "2001:db8::10"] {
                let left = entry("veth0", address).unwrap()["valid_life_time"].as_u64().unwrap();
                assert!((1..=3).contains(&left), "{address}: {left} s");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        running.remove(FOUR);
        running.remove(SIX);
        assert_eq!(entry("veth0", "192.0.2.10"), None);
        assert_eq!(entry("veth0", "2001:db8::10"), None);
        running.remove(FOUR);
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn the_kernel_drops_an_address_that_nobody_renews() {
    between_two_namespaces(|_| {
        let running = start(quiet(), 3);
        succeeded(&running.add(FOUR, "veth0"));
        succeeded(&running.add(SIX, "veth0"));
        drop(running);
        assert!(entry("veth0", "192.0.2.10").is_some());
        let gone =
            || entry("veth0", "192.0.2.10").is_none() && entry("veth0", "2001:db8::10").is_none();
        let taken = eventually("both addresses expired", Duration::from_secs(6), gone);
        println!("lifetime 3 s: the kernel dropped both after {taken:?}");
        assert!(taken > Duration::from_millis(1900));
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn an_address_that_is_there_already_is_taken_over_with_a_lifetime() {
    between_two_namespaces(|_| {
        ip("addr add 192.0.2.10/24 dev veth0");
        let running = start(quiet(), 3);
        succeeded(&running.add(FOUR, "veth0"));
        let left = entry("veth0", "192.0.2.10").unwrap()["valid_life_time"].as_u64().unwrap();
        assert!(left <= 3);
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn errors_say_what_on_what_and_what_to_do() {
    between_two_namespaces(|_| {
        let running = start(quiet(), 3);
        let missing = failure(running.add(FOUR, "eth9"));
        assert_eq!(
            missing,
            "cannot add 192.0.2.10/24 on eth9: there is no interface eth9; create it, or correct \
             `interface` in the configuration"
        );
        ip("link set veth0 down");
        let down = failure(running.add(FOUR, "veth0"));
        assert!(down.contains("bring it up (ip link set veth0 up)"), "{down}");
        ip("link set veth0 up");
        std::fs::write("/proc/sys/net/ipv6/conf/veth0/disable_ipv6", "1").unwrap();
        let disabled = failure(running.add(SIX, "veth0"));
        assert!(disabled.contains("set net.ipv6.conf.veth0.disable_ipv6 to 0"), "{disabled}");
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_loopback_address_is_added_and_announced_to_nobody() {
    between_two_namespaces(|_| {
        let running = start(quiet(), 3);
        let report = running.add("192.0.2.77/32", "lo");
        succeeded(&report);
        assert!(matches!(report, AddressReport::Added { first_announced_ns: None, .. }));
        assert!(entry("lo", "192.0.2.77").is_some());
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn gratuitous_arp_arrives_byte_for_byte_and_follows_the_plan() {
    between_two_namespaces(|far| {
        let capture = far_capture(far, ETHERTYPE_ARP);
        let repeat = vec![Duration::from_millis(50), Duration::from_secs(1)];
        let running = start(AnnouncePlan { burst: 3, repeat, refresh: None }, 3);
        succeeded(&running.add(FOUR, "veth0"));
        // Longer than two renewals, which must not announce.
        let frames = frames_until_quiet(&capture, Duration::from_millis(2500), |_| true);
        let address = "192.0.2.10".parse().unwrap();
        let request = arp_announcement(NEAR_MAC, address).to_vec();
        let reply = arp_gratuitous_reply(NEAR_MAC, address).to_vec();
        let probe = arp_probe(NEAR_MAC, address).to_vec();
        let [a, b, c] = [request.clone(), reply.clone(), request.clone()];
        assert_eq!(frames, [a, b, c, probe, reply, request]);
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn unsolicited_advertisements_arrive_byte_for_byte() {
    between_two_namespaces(|far| {
        std::fs::write("/proc/sys/net/ipv6/conf/veth0/forwarding", "1").unwrap();
        let capture = far_capture(far, ETHERTYPE_IPV6);
        let repeat = vec![Duration::from_millis(50)];
        let running = start(AnnouncePlan { burst: 2, repeat, refresh: None }, 3);
        succeeded(&running.add(SIX, "veth0"));
        let frames = frames_until_quiet(&capture, Duration::from_millis(1500), is_ndp_of_ours);
        let address = "2001:db8::10".parse().unwrap();
        let advertisement =
            neighbour_advertisement(NEAR_MAC, address, NeighbourRole::Router).to_vec();
        let probe = neighbour_probe(NEAR_MAC, address).to_vec();
        assert_eq!(frames, [advertisement.clone(), advertisement.clone(), probe, advertisement]);
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn neighbours_move_to_the_new_owner() {
    between_two_namespaces(|far| {
        far.run(|| {
            ip("addr add 192.0.2.2/24 dev veth1");
            ip("addr add 2001:db8::2/64 dev veth1 nodad");
            for address in ["192.0.2.10", "2001:db8::10"] {
                ip(&format!("neigh add {address} lladdr 02:00:00:00:00:99 nud stale dev veth1"));
            }
        });
        let running = start(quiet(), 3);
        succeeded(&running.add(FOUR, "veth0"));
        succeeded(&running.add(SIX, "veth0"));
        eventually("both neighbours updated", Duration::from_secs(1), || {
            far.run(|| ip("neigh show dev veth1")).matches("lladdr 02:00:00:00:00:0a").count() >= 2
        });
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn announce_starts_again_at_once_and_remove_ends_all_announcements() {
    between_two_namespaces(|far| {
        let repeat = vec![Duration::from_millis(300)];
        let running = start(AnnouncePlan { burst: 1, repeat, refresh: None }, 3);
        let capture = far_capture(far, ETHERTYPE_ARP);
        succeeded(&running.add(FOUR, "veth0"));
        let quiet = Duration::from_millis(1500);
        // Twice, and the question whether another has it.
        assert_eq!(frames_until_quiet(&capture, quiet, |_| true).len(), 3);
        let (address, interface) = (FOUR.parse().unwrap(), "veth0".parse().unwrap());
        running.sender.send(AddressCommand::Announce { address, interface }).unwrap();
        let frames = frames_until_quiet(&capture, quiet, |_| true);
        assert_eq!(frames.len(), 2);
        let (address, interface) = (FOUR.parse().unwrap(), "veth0".parse().unwrap());
        running.sender.send(AddressCommand::Announce { address, interface }).unwrap();
        running.remove(FOUR);
        let frames = frames_until_quiet(&capture, quiet, |_| true);
        assert_eq!(frames.len(), 1);
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn another_owner_is_reported_once_and_answered_once() {
    between_two_namespaces(|far| {
        far.run(|| {
            ip("addr add 192.0.2.10/24 dev veth1");
            ip("addr add 2001:db8::10/64 dev veth1 nodad");
        });
        let capture = far_capture(far, ETHERTYPE_ARP);
        let running = start(quiet(), 3);
        for address in [FOUR, SIX] {
            succeeded(&running.add(address, "veth0"));
            let expected = AddressReport::Conflict {
                address: address.parse().unwrap(),
                interface: "veth0".parse().unwrap(),
                mac: FAR_MAC,
            };
            assert_eq!(running.next(), expected);
        }
        let more = running.reports.recv_timeout(Duration::from_millis(500));
        assert_eq!(more, Err(RecvTimeoutError::Timeout));
        let frames = frames_until_quiet(&capture, Duration::from_millis(500), |_| true);
        // Three of the burst, the probe, one in defence.
        assert_eq!(frames.len(), 5, "{frames:x?}");
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn this_host_answering_through_another_interface_is_no_conflict() {
    between_two_namespaces(|far| {
        // Both interfaces of this host are on one link: a bridge at the far end.
        ip("link add veth2 type veth peer name veth3");
        ip(&format!("link set veth3 netns {}", far.path().display()));
        ip("link set veth2 up");
        far.run(|| {
            ip("link add name bridge0 type bridge");
            ip("link set veth1 master bridge0");
            ip("link set veth3 master bridge0");
            ip("link set veth3 up");
            ip("link set bridge0 up");
        });
        std::thread::sleep(Duration::from_millis(300));
        let capture = capture("veth0", ETHERTYPE_ARP);
        let running = start(quiet(), 3);
        succeeded(&running.add(FOUR, "veth0"));
        let more = running.reports.recv_timeout(Duration::from_millis(500));
        assert_eq!(more, Err(RecvTimeoutError::Timeout));
        let mut answer = [0; 42];
        let flags = nix::sys::socket::MsgFlags::MSG_DONTWAIT;
        loop {
            // Fails when the kernel did not answer, and this test would prove nothing.
            nix::sys::socket::recv(capture.as_raw_fd(), &mut answer, flags).unwrap();
            if answer[..6] == NEAR_MAC && answer[21] == 2 {
                break;
            }
        }
        assert_eq!(answer[28..32], [192, 0, 2, 10]);
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn nothing_is_heard_after_the_window() {
    between_two_namespaces(|far| {
        let running = start(quiet(), 3);
        succeeded(&running.add(FOUR, "veth0"));
        std::thread::sleep(Duration::from_millis(3300));
        far.run(|| {
            let socket = capture("veth1", ETHERTYPE_ARP);
            let ifindex = nix::net::if_::if_nametoindex("veth1").unwrap();
            let address = sys::link_address(ifindex, 0).unwrap();
            let claim = arp_announcement(FAR_MAC, "192.0.2.10".parse().unwrap());
            let flags = nix::sys::socket::MsgFlags::empty();
            nix::sys::socket::sendto(socket.as_raw_fd(), &claim, &address, flags).unwrap();
        });
        let more = running.reports.recv_timeout(Duration::from_millis(300));
        assert_eq!(more, Err(RecvTimeoutError::Timeout));
    });
}

/// What one report of an address that came back says: for how long it was gone, if the kernel told.
fn restored(report: &AddressReport) -> Option<u64> {
    if let AddressReport::Restored { gone_ns, .. } = report { *gone_ns } else { None }
}

#[test]
#[ignore = "needs root: network namespaces"]
fn an_address_that_somebody_takes_off_is_back_at_once_and_is_announced_again() {
    between_two_namespaces(|far| {
        let running = start(quiet(), 10);
        for (address, ethertype) in [(FOUR, ETHERTYPE_ARP), (SIX, ETHERTYPE_IPV6)] {
            succeeded(&running.add(address, "veth0"));
            let capture = far_capture(far, ethertype);
            ip(&format!("addr del {address} dev veth0"));
            let report = running.next();
            let gone_ns = restored(&report);
            assert!(gone_ns.is_some(), "{report:?}");
            println!("{address} came back {} us after the kernel told", gone_ns.unwrap() / 1_000);
            assert!(entry("veth0", address.split('/').next().unwrap()).is_some());
            // Whether another host has it is asked at the same time (RFC 5227).
            let is_announcement = |frame: &[u8]| frame[28..32] == frame[38..42];
            let wanted = if address == FOUR { is_announcement } else { is_ndp_of_ours };
            let frames = frames_until_quiet(&capture, Duration::from_millis(200), wanted);
            // One of those when it was added may come late.
            assert!((3..=6).contains(&frames.len()), "{}", frames.len());
        }
    });
}

/// Whoever woke up beyond its lease would draw to itself what another node has by now.
#[test]
#[ignore = "needs root: network namespaces"]
fn beyond_the_lease_nothing_is_announced() {
    between_two_namespaces(|far| {
        let running = start_for(Duration::from_secs(2), quiet(), 10);
        succeeded(&running.add(FOUR, "veth0"));
        eventually("it is over", Duration::from_secs(4), || running.lease.is_over().is_some());
        let capture = far_capture(far, ETHERTYPE_ARP);
        let (address, interface) = (FOUR.parse().unwrap(), "veth0".parse().unwrap());
        running.sender.send(AddressCommand::Announce { address, interface }).unwrap();
        let frames = frames_until_quiet(&capture, Duration::from_millis(300), |_| true);
        assert_eq!(frames, Vec::<Vec<u8>>::new());
    });
}

/// Its gate was opened by a driver that was stopped just before, for longer than its lease.
#[test]
#[ignore = "needs root: network namespaces"]
fn beyond_the_lease_nothing_that_is_armed_is_announced() {
    between_two_namespaces(|far| {
        ip("addr add 192.0.2.2/24 dev veth0");
        let running = start(quiet(), 10);
        let (address, interface) = (FOUR.parse().unwrap(), "veth0".parse().unwrap());
        let details = AddressDetails::default();
        running.sender.send(AddressCommand::Arm { token: 7, address, interface, details }).unwrap();
        let armed = running.next();
        assert!(matches!(armed, AddressReport::Armed { token: 7, outcome: Ok(()) }), "{armed:?}");
        running.lease.set_length(Duration::ZERO);
        assert!(running.lease.end());
        let capture = far_capture(far, ETHERTYPE_ARP);
        let (interface, details) = ("veth0".parse().unwrap(), AddressDetails::default());
        running
            .sender
            .send(AddressCommand::Open { token: 7, address, interface, details })
            .unwrap();
        let cause = failure(running.next());
        assert!(cause.contains("nothing is its own any more"), "{cause}");
        let frames = frames_until_quiet(&capture, Duration::from_millis(300), |_| true);
        assert_eq!(frames, Vec::<Vec<u8>>::new());
    });
}

/// Another program that fights for it costs neither of them a CPU.
#[test]
#[ignore = "needs root: network namespaces"]
fn an_address_that_is_taken_off_again_and_again_comes_back_now_and_then() {
    between_two_namespaces(|_| {
        let running = start(quiet(), 10);
        succeeded(&running.add(FOUR, "veth0"));
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            if entry("veth0", "192.0.2.10").is_some() {
                ip("addr del 192.0.2.10/24 dev veth0");
            }
        }
        let mut count = 0;
        while running.reports.try_recv().is_ok_and(|report| restored(&report).is_some()) {
            count += 1;
        }
        // At once, and then with its renewals, each second.
        println!("it came back {count} times in {:?}", begun.elapsed());
        assert!((2..=6).contains(&count), "{count}");
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_secondary_that_vanished_with_the_primary_comes_back() {
    between_two_namespaces(|_| {
        std::fs::write("/proc/sys/net/ipv4/conf/veth0/promote_secondaries", "0").unwrap();
        std::fs::write("/proc/sys/net/ipv4/conf/all/promote_secondaries", "0").unwrap();
        let running = start(quiet(), 10);
        succeeded(&running.add(FOUR, "veth0"));
        succeeded(&running.add("192.0.2.11/24", "veth0"));
        assert_eq!(entry("veth0", "192.0.2.11").unwrap()["secondary"], true);
        running.remove(FOUR);
        let back = || entry("veth0", "192.0.2.11").is_some_and(|it| it["secondary"].is_null());
        eventually("it came back", Duration::from_millis(500), back);
        assert_eq!(entry("veth0", "192.0.2.10"), None);
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn an_address_that_cannot_be_renewed_lapses() {
    between_two_namespaces(|_| {
        let running = start(quiet(), 3);
        succeeded(&running.add(FOUR, "veth0"));
        ip("link del veth0");
        let failed = running.next();
        assert!(matches!(failed, AddressReport::RenewFailed { .. }), "{failed:?}");
        let lapsed = running.next();
        assert!(
            matches!(lapsed, AddressReport::Lapsed { silent_ns: 3_000_000_000.., .. }),
            "{lapsed:?}"
        );
    });
}

/// As a daemon holds its lease: for that long, renewed while it runs.
const STAND_IN_LEASE: Duration = Duration::from_secs(5);

#[test]
#[ignore = "needs root: network namespaces"]
fn a_daemon_stand_in() {
    if std::env::var_os(STAND_IN).is_none() {
        return;
    }
    let refresh = Some(Duration::from_millis(100));
    let running = start(AnnouncePlan { burst: 1, repeat: vec![], refresh }, 2);
    running.lease.set_length(STAND_IN_LEASE);
    let lease = std::sync::Arc::clone(&running.lease);
    lease.begin();
    println!("\n{:?}", running.add(FOUR, "veth0"));
    loop {
        match running.reports.recv_timeout(Duration::from_millis(20)) {
            Ok(report) => println!("{report:?}"),
            Err(_) if lease.renew().is_ok() => {}
            Err(_) => println!("LeaseLost"),
        }
    }
}

/// A stand-in with the address, stopped; gives it with what it prints.
fn stopped_stand_in() -> (std::process::Child, impl Iterator<Item = String>) {
    let mut daemon = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_daemon_stand_in", "--include-ignored", "--nocapture"])
        .env(STAND_IN, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(daemon.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("Added")));
    // Past the probe of the takeover, which claims nothing and may come late.
    std::thread::sleep(Duration::from_millis(300));
    signal(&daemon, nix::sys::signal::Signal::SIGSTOP);
    (daemon, lines)
}

fn signal(daemon: &std::process::Child, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).unwrap());
    nix::sys::signal::kill(pid, signal).unwrap();
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_daemon_that_was_paused_beyond_its_lease_does_not_bring_the_address_back() {
    between_two_namespaces(|far| {
        let (mut daemon, mut lines) = stopped_stand_in();
        let gone = || entry("veth0", "192.0.2.10").is_none();
        eventually("the kernel dropped it", Duration::from_secs(6), gone);
        std::thread::sleep(STAND_IN_LEASE);
        let capture = far_capture(far, ETHERTYPE_ARP);
        signal(&daemon, nix::sys::signal::Signal::SIGCONT);
        assert!(lines.any(|line| line.starts_with("LeaseLost")));
        let frames = frames_until_quiet(&capture, Duration::from_millis(1500), |_| true);
        assert_eq!(frames, Vec::<Vec<u8>>::new());
        assert!(gone());
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    });
}

/// Nobody else may have taken it: it is still the owner's.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_daemon_that_was_paused_for_less_than_its_lease_adds_what_the_kernel_dropped() {
    between_two_namespaces(|_| {
        let (mut daemon, lines) = stopped_stand_in();
        let gone = || entry("veth0", "192.0.2.10").is_none();
        eventually("the kernel dropped it", Duration::from_secs(4), gone);
        signal(&daemon, nix::sys::signal::Signal::SIGCONT);
        eventually("it is there again", Duration::from_secs(2), || !gone());
        std::thread::sleep(Duration::from_secs(1));
        assert!(!gone(), "it is renewed");
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        let told: Vec<String> = lines.collect();
        assert!(told.iter().all(|line| line.starts_with("Restored")), "given up: {told:?}");
        assert!(!told.is_empty());
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn purge_removes_what_is_there_and_lists_it() {
    between_two_namespaces(|_| {
        // The host's own address first: as a secondary it would vanish with the primary.
        ip("addr add 192.0.2.99/24 dev veth0");
        ip("addr add 192.0.2.10/24 dev veth0");
        ip("addr add 2001:db8::10/64 dev veth0");
        let on =
            |address: &str, interface: &str| (address.parse().unwrap(), interface.parse().unwrap());
        let configured =
            [on(FOUR, "veth0"), on(SIX, "veth0"), on("192.0.2.12/24", "veth0"), on(FOUR, "eth9")];
        assert_eq!(purge(&configured).unwrap(), configured[..2]);
        assert!(entry("veth0", "192.0.2.99").is_some());
        assert_eq!(purge(&configured).unwrap(), []);
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn latencies_of_a_takeover_are_printed() {
    between_two_namespaces(|_| {
        let running = start(quiet(), 60);
        let (mut added, mut announced) = (Vec::new(), Vec::new());
        for _ in 0..200 {
            let asked_ns = monotonic_ns();
            let AddressReport::Added { at_ns, first_announced_ns, .. } =
                running.add("192.0.2.10/24", "veth0")
            else {
                panic!()
            };
            added.push(at_ns - asked_ns);
            announced.push(first_announced_ns.unwrap() - at_ns);
            running.remove(FOUR);
        }
        for (what, mut values) in [("command to ack", added), ("ack to first ARP", announced)] {
            values.sort_unstable();
            let [p50, p99, max] = [100, 198, 199].map(|index| values[index] / 1000);
            println!("{what}: p50 {p50} us, p99 {p99} us, max {max} us");
        }
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn while_the_lease_is_over_nothing_is_added_and_nothing_renewed() {
    between_two_namespaces(|_| {
        let running = start(quiet(), 5);
        succeeded(&running.add(FOUR, "veth0"));
        running.lease.set_length(Duration::ZERO);
        assert!(running.lease.end());
        let cause = failure(running.add(SIX, "veth0"));
        assert!(cause.contains("did not run for"), "{cause}");
        assert_eq!(entry("veth0", "2001:db8::10"), None);
        // Its next renewal finds it out too.
        eventually("it is off", Duration::from_secs(3), || entry("veth0", "192.0.2.10").is_none());
        assert!(running.reports.try_recv().is_err(), "the driver finds out by itself");

        running.lease.set_length(Duration::from_secs(600));
        running.sender.send(AddressCommand::GiveUp).unwrap();
        succeeded(&running.add(FOUR, "veth0"));
        running.lease.renew().unwrap();
        running.lease.set_length(Duration::ZERO);
        running.sender.send(AddressCommand::GiveUp).unwrap();
        eventually("it is off", Duration::from_secs(1), || entry("veth0", "192.0.2.10").is_none());
    });
}
