//! The keeper against a real kernel, in network namespaces of its own.
//!
//! Where a daemon has to be killed, this test binary stands in for it: it runs itself with
//! [`STAND_IN`] set, and the test `a_daemon_stand_in` then owns a keeper until it is killed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::{Far, between_two_namespaces, entry, eventually, ip};
use ha_daemon::io::clock::{boottime_ns, monotonic_ns};
use ha_daemon::io::interrupted::uninterrupted;
use ha_daemon::io::keeper::{
    Custody, DOOR_NAME, Datagram, Held, Inheritance, Keeper, KeeperError, KeeperOptions, Lease,
};
use ha_daemon::io::netlink::RouteSocket;
use ha_daemon::io::renewal::{Present, Renewed};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getsid};

/// Nobody renews it here: longer than any test.
const LEASE: Duration = Duration::from_secs(600);
const FOUR: &str = "192.0.2.10/24";
const SIX: &str = "2001:db8::10/64";
/// How the stand-in ends: `killed` waits to be, `farewell` says it at once.
const STAND_IN: &str = "KEEPER_TEST_STAND_IN";
/// The run directory in which another stand-in asks for what a dead daemon left.
const HEIR: &str = "KEEPER_TEST_HEIR";

fn spawn() -> Keeper {
    Keeper::spawn(KeeperOptions {
        program: env!("CARGO_BIN_EXE_ha-daemon").into(),
        node: "alpha".parse().unwrap(),
        priority: Some(50),
        lease: Arc::new(Lease::create(LEASE).unwrap()),
        meeting: None,
    })
    .unwrap()
}

fn hold(keeper: &mut Keeper, address: &str) -> Result<(), KeeperError> {
    keeper.hold(address.parse().unwrap(), &"veth0".parse().unwrap())
}

fn obituary(local: &str) -> Vec<Datagram> {
    vec![Datagram {
        hops: 1,
        local: local.parse().unwrap(),
        interface: "veth0".parse().unwrap(),
        remote: "192.0.2.2:5694".parse().unwrap(),
        payload: b"alpha is dead".to_vec(),
    }]
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap())
}

fn is_gone(number: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{number}/stat"));
    status.is_err() || status.is_ok_and(|status| status.contains(") Z "))
}

/// Addresses for both ends and the address to be held; gives the far end's UDP socket.
fn network(far: &Far) -> UdpSocket {
    ip("addr add 192.0.2.1/24 dev veth0");
    ip("addr add 192.0.2.10/24 dev veth0");
    ip("addr add 2001:db8::10/64 dev veth0 nodad");
    let socket = far.run(|| {
        ip("addr add 192.0.2.2/24 dev veth1");
        UdpSocket::bind("192.0.2.2:5694").unwrap()
    });
    // Both neighbours are known, as they are when heartbeats flow.
    ip("neigh add 192.0.2.2 lladdr 02:00:00:00:00:0b dev veth0");
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

fn addresses() -> [bool; 2] {
    ["192.0.2.10", "2001:db8::10"].map(|address| entry("veth0", address).is_some())
}

fn expect_obituary(socket: &UdpSocket) -> (std::net::SocketAddr, u64) {
    let mut buffer = [0; 100];
    let (length, from) = uninterrupted(|| socket.recv_from(&mut buffer)).unwrap();
    let heard_ns = monotonic_ns();
    assert_eq!(&buffer[..length], b"alpha is dead");
    (from, heard_ns)
}

/// Starts the stand-in and gives it with the pid of its keeper.
fn stand_in(end: &str) -> (Child, u32) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_daemon_stand_in", "--include-ignored", "--nocapture"])
        .env(STAND_IN, end)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let keeper = output
        .by_ref()
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.split_once("its keeper is ")?.1.parse().ok())
        .unwrap();
    // Open as long as the stand-in lives, which has more to print.
    child.stdout = Some(output.into_inner());
    (child, keeper)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_daemon_stand_in() {
    let Ok(end) = std::env::var(STAND_IN) else {
        return;
    };
    let mut keeper = spawn();
    hold(&mut keeper, FOUR).unwrap();
    hold(&mut keeper, SIX).unwrap();
    keeper.obituary(obituary("192.0.2.1:0")).unwrap();
    println!("its keeper is {}", keeper.pid());
    if end == "farewell" {
        keeper.farewell().unwrap();
    } else {
        std::thread::sleep(Duration::from_secs(60));
    }
}

#[test]
#[ignore = "needs root: network namespaces"]
fn after_kill_9_the_addresses_are_removed_and_the_peers_are_told_twice() {
    between_two_namespaces(|far| {
        let peer = network(far);
        for round in 0..20 {
            let (mut daemon, keeper) = stand_in("killed");
            std::thread::sleep(Duration::from_millis(100));
            let status = std::fs::read_to_string(format!("/proc/{keeper}/status")).unwrap();
            let kilobytes = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
            let killed_ns = monotonic_ns();
            daemon.kill().unwrap();
            let (_, heard_ns) = expect_obituary(&peer);
            assert_eq!(addresses(), [false, false], "removed before the peers are told");
            expect_obituary(&peer);
            println!(
                "round {round}: told {} us after kill -9; {kilobytes}",
                (heard_ns - killed_ns) / 1000
            );
            daemon.wait().unwrap();
            eventually("the keeper is gone", Duration::from_secs(1), || is_gone(keeper));
            assert!(entry("veth0", "192.0.2.1").is_some(), "an address that is not held stays");
            ip("addr add 192.0.2.10/24 dev veth0");
            ip("addr add 2001:db8::10/64 dev veth0 nodad");
        }
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn after_a_farewell_it_does_nothing() {
    between_two_namespaces(|far| {
        let peer = network(far);
        let (mut daemon, keeper) = stand_in("farewell");
        daemon.wait().unwrap();
        eventually("the keeper is gone", Duration::from_secs(1), || is_gone(keeper));
        assert_eq!(addresses(), [true, true]);
        peer.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert!(uninterrupted(|| peer.recv_from(&mut [0; 100])).is_err());
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_dead_keeper_is_noticed_and_its_successor_knows_everything() {
    between_two_namespaces(|far| {
        let peer = network(far);
        let mut keeper = spawn();
        hold(&mut keeper, FOUR).unwrap();
        hold(&mut keeper, SIX).unwrap();
        keeper.obituary(obituary("192.0.2.1:0")).unwrap();
        let readable = |keeper: &Keeper, wait: PollTimeout| {
            poll(&mut [PollFd::new(keeper.as_fd(), PollFlags::POLLIN)], wait).unwrap()
        };
        assert_eq!(readable(&keeper, 50u8.into()), 0);
        let first = keeper.pid();
        kill(pid(first), Signal::SIGKILL).unwrap();
        assert_eq!(readable(&keeper, 1000u16.into()), 1);
        assert!(matches!(hold(&mut keeper, "192.0.2.11/24"), Err(KeeperError::Gone { .. })));
        ip("addr add 192.0.2.11/24 dev veth0");
        keeper.respawn().unwrap();
        assert_ne!(keeper.pid(), first);
        assert_eq!(readable(&keeper, 50u8.into()), 0);
        assert_eq!(addresses(), [true, true], "its death alone removes nothing");
        keeper.release(SIX.parse().unwrap(), &"veth0".parse().unwrap()).unwrap();
        drop(keeper);
        expect_obituary(&peer);
        assert_eq!(addresses(), [false, true], "what was released stays");
        assert!(entry("veth0", "192.0.2.11").is_none());
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn signals_of_a_terminal_or_a_service_manager_do_not_reach_it() {
    between_two_namespaces(|_| {
        let keeper = spawn();
        let process = pid(keeper.pid());
        let own_session = || getsid(Some(process)) == Ok(process);
        eventually("it has a session", Duration::from_secs(1), own_session);
        std::thread::sleep(Duration::from_millis(50));
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            kill(process, signal).unwrap();
        }
        std::thread::sleep(Duration::from_millis(100));
        assert!(!is_gone(keeper.pid()));
        let command_line = std::fs::read(format!("/proc/{process}/cmdline")).unwrap();
        assert!(command_line.starts_with(b"ha-daemon\0keeper\0alpha\0"));
        let directory = std::fs::read_link(format!("/proc/{process}/cwd")).unwrap();
        assert_eq!(directory.to_str(), Some("/"));
        keeper.farewell().unwrap();
        eventually("it is gone", Duration::from_secs(1), || is_gone(process.as_raw() as u32));
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn what_cannot_be_removed_does_not_keep_the_rest() {
    between_two_namespaces(|far| {
        let peer = network(far);
        let mut keeper = spawn();
        keeper.hold("192.0.2.5/24".parse().unwrap(), &"eth9".parse().unwrap()).unwrap();
        keeper.hold("192.0.2.6/24".parse().unwrap(), &"veth0".parse().unwrap()).unwrap();
        keeper.hold("192.0.2.10/24".parse().unwrap(), &"veth0".parse().unwrap()).unwrap();
        let mut datagrams = obituary("192.0.2.77:0");
        datagrams.extend(obituary("192.0.2.1:0"));
        keeper.obituary(datagrams).unwrap();
        drop(keeper);
        expect_obituary(&peer);
        assert_eq!(addresses(), [false, true]);
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn an_interface_that_was_created_after_the_address_was_held_is_found() {
    between_two_namespaces(|_| {
        let mut keeper = spawn();
        keeper.hold("198.51.100.5/24".parse().unwrap(), &"dummy7".parse().unwrap()).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        ip("link add veth7 type veth peer name dummy7");
        ip("link set dummy7 up");
        ip("addr add 198.51.100.5/24 dev dummy7");
        drop(keeper);
        let gone = || entry("dummy7", "198.51.100.5").is_none();
        eventually("it is removed", Duration::from_secs(1), gone);
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_keeper_that_does_not_read_is_an_error_and_blocks_nobody() {
    between_two_namespaces(|_| {
        let mut keeper = spawn();
        std::thread::sleep(Duration::from_millis(100));
        kill(pid(keeper.pid()), Signal::SIGSTOP).unwrap();
        let (start_ns, mut sent) = (monotonic_ns(), 0_u64);
        let refusal = loop {
            match hold(&mut keeper, FOUR) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
            assert!(sent < 1_000_000);
        };
        let each_ns = (monotonic_ns() - start_ns) / sent;
        println!("{sent} messages fit, {each_ns} ns each");
        assert!(matches!(refusal, KeeperError::Full { .. }), "{refusal}");
        assert!(sent > 256);
        kill(pid(keeper.pid()), Signal::SIGCONT).unwrap();
        let works = || hold(&mut keeper, FOUR).is_ok();
        eventually("it goes on", Duration::from_secs(1), works);
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn the_daemons_port_is_the_source_but_only_after_its_death() {
    between_two_namespaces(|far| {
        let peer = network(far);
        ip("addr show dev veth0");
        let mut keeper = spawn();
        let daemon = UdpSocket::bind("192.0.2.1:5694").unwrap();
        daemon.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        keeper.obituary(obituary("192.0.2.1:5694")).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        peer.send_to(b"heartbeat", "192.0.2.1:5694").unwrap();
        assert_eq!(uninterrupted(|| daemon.recv(&mut [0; 100])).unwrap(), 9);
        drop(daemon);
        // Between fork and exec a child of another test has all that is open here.
        let is_free = || {
            let sockets = std::fs::read_to_string("/proc/thread-self/net/udp").unwrap();
            !sockets.contains(&format!(":{:04X} ", 5694))
        };
        eventually("the port is free", Duration::from_secs(1), is_free);
        drop(keeper);
        assert_eq!(expect_obituary(&peer).0.port(), 5694);
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn latencies_from_the_end_of_the_socket_are_printed() {
    between_two_namespaces(|far| {
        let peer = network(far);
        let mut told = Vec::new();
        for _ in 0..50 {
            ip("addr replace 192.0.2.10/24 dev veth0");
            ip("addr replace 2001:db8::10/64 dev veth0 nodad");
            let mut keeper = spawn();
            hold(&mut keeper, FOUR).unwrap();
            hold(&mut keeper, SIX).unwrap();
            keeper.obituary(obituary("192.0.2.1:0")).unwrap();
            std::thread::sleep(Duration::from_millis(50));
            let end_ns = monotonic_ns();
            drop(keeper);
            told.push(expect_obituary(&peer).1 - end_ns);
            expect_obituary(&peer);
        }
        told.sort_unstable();
        let [p50, p90, max] = [25, 45, 49].map(|index| told[index] / 1000);
        println!(
            "end of socket to two removals and first datagram heard: p50 {p50} us, p90 {p90} us, max {max} us"
        );
    });
}

fn spawn_with(lease: &Arc<Lease>, meeting: Option<std::path::PathBuf>) -> Keeper {
    Keeper::spawn(KeeperOptions {
        program: env!("CARGO_BIN_EXE_ha-daemon").into(),
        node: "alpha".parse().unwrap(),
        priority: Some(50),
        lease: Arc::clone(lease),
        meeting,
    })
    .unwrap()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_daemon_that_does_not_renew_its_lease_loses_its_addresses_and_nobody_is_told() {
    between_two_namespaces(|far| {
        let peer = network(far);
        let lease = Arc::new(Lease::create(Duration::from_secs(2)).unwrap());
        let mut keeper = spawn_with(&lease, None);
        hold(&mut keeper, FOUR).unwrap();
        hold(&mut keeper, SIX).unwrap();
        keeper.obituary(obituary("192.0.2.1:0")).unwrap();
        for _ in 0..15 {
            std::thread::sleep(Duration::from_millis(200));
            lease.renew().unwrap();
            assert_eq!(addresses(), [true, true], "it is renewed");
        }
        let ends_ns = lease.ends_at_ns().unwrap();
        eventually("they are off", Duration::from_secs(4), || addresses() == [false, false]);
        let late_ns = boottime_ns().saturating_sub(ends_ns);
        println!("seen {} us after the end of the lease", late_ns / 1000);
        assert!(lease.renew().is_err(), "the daemon finds out");
        peer.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert!(uninterrupted(|| peer.recv_from(&mut [0; 100])).is_err(), "nobody died");
        // Somebody was stopped within its request.
        ip("addr add 2001:db8::10/64 dev veth0 nodad");
        eventually("it is off again", Duration::from_secs(1), || addresses() == [false, false]);
        // Begun anew, it works as before, also with what it was told of in between.
        keeper.release(FOUR.parse().unwrap(), &"veth0".parse().unwrap()).unwrap();
        hold(&mut keeper, FOUR).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        lease.begin();
        ip("addr add 192.0.2.10/24 dev veth0");
        lease.renew().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(addresses(), [true, false]);
        drop(keeper);
        eventually("it is off", Duration::from_secs(1), || addresses() == [false, false]);
    });
}

/// What waits stays until the next daemon's keeper guards it, and goes with the lease otherwise.
#[test]
#[ignore = "needs root: network namespaces"]
fn what_waits_is_given_to_the_next_daemon_or_goes_with_the_lease() {
    between_two_namespaces(|far| {
        let peer = network(far);
        let directory = tempfile::tempdir().unwrap();
        let door = directory.path().join(DOOR_NAME);
        let lease = Arc::new(Lease::create(Duration::from_secs(3)).unwrap());
        let mut keeper = spawn_with(&lease, Some(door.clone()));
        hold(&mut keeper, FOUR).unwrap();
        hold(&mut keeper, SIX).unwrap();
        keeper.obituary(obituary("192.0.2.1:0")).unwrap();
        let four = Held { address: FOUR.parse().unwrap(), interface: "veth0".parse().unwrap() };
        let custody = || Custody { groups: 1, held: vec![four.clone()], ..Custody::default() };
        keeper.custody(custody()).unwrap();
        keeper.estate(b"what there was".to_vec()).unwrap();
        assert!(Inheritance::ask(directory.path()).is_none(), "it lives");
        let first = keeper.pid();
        drop(keeper);
        eventually("the other is off", Duration::from_secs(1), || addresses() == [true, false]);
        eventually("its door is open", Duration::from_secs(1), || door.exists());

        let inheritance = Inheritance::ask(directory.path()).unwrap();
        assert_eq!(inheritance.estate, b"what there was");
        assert!(!inheritance.detached);
        lease.renew().unwrap();
        let mut next = spawn_with(&lease, Some(door.clone()));
        next.custody(custody()).unwrap();
        hold(&mut next, FOUR).unwrap();
        let shared = inheritance.accept();
        assert_eq!(shared.ends_at_ns(), lease.ends_at_ns(), "it is the same lease");
        eventually("the first is gone", Duration::from_secs(1), || is_gone(first));
        assert!(!door.exists());
        assert_eq!(addresses(), [true, false]);

        // Nobody comes for the second one.
        let second = next.pid();
        next.obituary(obituary("192.0.2.1:0")).unwrap();
        drop(next);
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(addresses(), [true, false]);
        expect_obituary(&peer);
        assert_eq!(addresses(), [false, false], "removed before the peers are told");
        assert!(lease.renew().is_err());
        eventually("the second is gone", Duration::from_secs(1), || is_gone(second));
        assert!(!door.exists());
    });
}

#[test]
#[ignore = "runs as a process of its own only"]
fn an_heir_stand_in() {
    let Some(directory) = std::env::var_os(HEIR) else {
        return;
    };
    println!("it asks");
    match Inheritance::ask(directory.as_ref()) {
        Some(found) => println!("it got {}", String::from_utf8_lossy(&found.estate)),
        None => println!("it got nothing"),
    }
}

/// A daemon that is frozen while it asks what its predecessor left is no reason to bury that.
#[test]
#[ignore = "needs root: network namespaces"]
fn who_is_stopped_while_it_asks_gets_what_waits() {
    between_two_namespaces(|far| {
        let _peer = network(far);
        let directory = tempfile::tempdir().unwrap();
        let door = directory.path().join(DOOR_NAME);
        let lease = Arc::new(Lease::create(LEASE).unwrap());
        let mut keeper = spawn_with(&lease, Some(door.clone()));
        hold(&mut keeper, FOUR).unwrap();
        let four = Held { address: FOUR.parse().unwrap(), interface: "veth0".parse().unwrap() };
        keeper.custody(Custody { groups: 1, held: vec![four], ..Custody::default() }).unwrap();
        keeper.estate(b"what there was".to_vec()).unwrap();
        let old = pid(keeper.pid());
        drop(keeper);
        eventually("its door is open", Duration::from_secs(1), || door.exists());

        kill(old, Signal::SIGSTOP).unwrap();
        let mut heir = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "an_heir_stand_in", "--include-ignored", "--nocapture"])
            .env(HEIR, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(heir.stdout.take().unwrap());
        let mut lines = output.lines().map_while(Result::ok);
        assert!(lines.any(|line| line.ends_with("it asks")));
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(50));
            kill(pid(heir.id()), Signal::SIGSTOP).unwrap();
            std::thread::sleep(Duration::from_millis(5));
            kill(pid(heir.id()), Signal::SIGCONT).unwrap();
        }
        kill(old, Signal::SIGCONT).unwrap();
        let got = lines.find_map(|line| Some(line.split_once("it got ")?.1.to_owned()));
        assert_eq!(got.as_deref(), Some("what there was"));
        heir.wait().unwrap();
        assert_eq!(addresses(), [true, true]);
        kill(old, Signal::SIGKILL).unwrap();
    });
}

/// A lease as a daemon has it by default, with the lifetime of its addresses.
fn lease_with_lifetime(length: Duration) -> Arc<Lease> {
    let lease = Arc::new(Lease::create(length).unwrap());
    lease.set_address_lifetime(LIFETIME);
    lease.note_addresses_renewed(boottime_ns());
    lease
}

/// The addresses with the lifetime that a worker gives them, held by a keeper.
fn mortal_addresses(lease: &Arc<Lease>) -> Keeper {
    let mut keeper = spawn_with(lease, None);
    hold(&mut keeper, FOUR).unwrap();
    hold(&mut keeper, SIX).unwrap();
    ip("addr add 192.0.2.10/24 dev veth0 valid_lft 2 preferred_lft 2");
    ip("addr add 2001:db8::10/64 dev veth0 nodad valid_lft 2 preferred_lft 0 noprefixroute");
    keeper
}

const LIFETIME: Duration = Duration::from_secs(2);
/// How long the kernel may keep an address beyond its lifetime.
const KERNEL_LATE_MAX: Duration = Duration::from_secs(1);

#[test]
#[ignore = "needs root: network namespaces"]
fn while_the_lease_lasts_it_renews_what_the_daemon_does_not() {
    between_two_namespaces(|_| {
        let lease = lease_with_lifetime(Duration::from_secs(6));
        let keeper = mortal_addresses(&lease);
        let ends_ns = lease.ends_at_ns().unwrap();
        // Room for a keeper that comes late for the last second.
        while boottime_ns() < ends_ns - 500_000_000 {
            assert_eq!(addresses(), [true, true]);
            std::thread::sleep(Duration::from_millis(20));
        }
        let six = entry("veth0", "2001:db8::10").unwrap();
        assert_eq!([&six["deprecated"], &six["noprefixroute"], &six["nodad"]], [true; 3]);
        eventually("they are off", Duration::from_secs(4), || addresses() == [false, false]);
        drop(keeper);
    });
}

/// The worker's thread hangs, and the daemon as a whole does not.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_lease_that_is_renewed_keeps_the_addresses_but_those_that_are_about_to_be_removed() {
    between_two_namespaces(|_| {
        let lease = lease_with_lifetime(Duration::from_millis(2_750));
        let mut keeper = mortal_addresses(&lease);
        keeper.retire(SIX.parse().unwrap(), &"veth0".parse().unwrap()).unwrap();
        let begun_ns = boottime_ns();
        let end = std::time::Instant::now() + 3 * LIFETIME;
        let mut six_ended_ns = None;
        while std::time::Instant::now() < end {
            lease.renew().unwrap();
            let [four, six] = addresses();
            assert!(four);
            if !six {
                six_ended_ns.get_or_insert_with(boottime_ns);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let lived = Duration::from_nanos(six_ended_ns.unwrap() - begun_ns);
        assert!(lived < LIFETIME + 2 * KERNEL_LATE_MAX, "{lived:?}");
        // Its successor knows that as well, and what is to be held again is renewed again.
        keeper.respawn().unwrap();
        ip("addr add 2001:db8::10/64 dev veth0 nodad valid_lft 1 preferred_lft 1");
        eventually("it is off", Duration::from_secs(4), || {
            lease.renew().unwrap();
            !addresses()[1]
        });
        keeper.farewell().unwrap();
    });
}

/// The kernel has taken off what the keeper renewed last, by the end of the lease.
#[test]
#[ignore = "needs root: network namespaces"]
fn a_keeper_that_is_stopped_leaves_no_lifetime_beyond_the_lease_and_brings_nothing_back() {
    between_two_namespaces(|_| {
        let lease = lease_with_lifetime(Duration::from_millis(2_750));
        let keeper = mortal_addresses(&lease);
        let ends_ns = lease.ends_at_ns().unwrap();
        // It has just given the last second.
        let left_ns = (ends_ns - 900_000_000).saturating_sub(boottime_ns());
        std::thread::sleep(Duration::from_nanos(left_ns));
        let process = pid(keeper.pid());
        kill(process, Signal::SIGSTOP).unwrap();
        for text in ["192.0.2.10", "2001:db8::10"] {
            let left = entry("veth0", text).map(|it| it["valid_life_time"].as_u64().unwrap());
            assert!(left.is_none_or(|left| left <= 1), "{text}: {left:?} s, beyond the lease");
        }
        eventually("they are off", Duration::from_secs(6), || addresses() == [false, false]);
        let late_ns = boottime_ns().cast_signed() - ends_ns.cast_signed();
        println!("off {} ms after the end of the lease", late_ns / 1_000_000);
        kill(process, Signal::SIGCONT).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(addresses(), [false, false]);
        keeper.farewell().unwrap();
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_renewal_adds_nothing_and_changes_nothing_but_the_lifetime() {
    between_two_namespaces(|_| {
        let netlink = RouteSocket::open().unwrap();
        let index = nix::net::if_::if_nametoindex("veth0").unwrap();
        let six = "addr add 2001:db8::10/64 dev veth0 nodad valid_lft 9 preferred_lft 9";
        ip("addr add 192.0.2.10/24 brd + dev veth0 label veth0:web valid_lft 9 preferred_lft 9");
        ip(six);
        ip("addr add 192.0.2.11/24 dev veth0");
        for (address, text) in [(FOUR, "192.0.2.10"), (SIX, "2001:db8::10")] {
            let found = Present::list(&netlink).unwrap();
            assert!(!found.iter().any(|it| it.is("192.0.2.11/24".parse().unwrap(), index)));
            let one = found.iter().find(|it| it.is(address.parse().unwrap(), index)).unwrap();
            let mut before = entry("veth0", text).unwrap();
            assert_eq!(one.renew(&netlink, Duration::from_secs(60)).unwrap(), Renewed::Renewed);
            let mut after = entry("veth0", text).unwrap();
            assert!(after["valid_life_time"].as_u64().unwrap() > 50);
            for entry in [&mut before, &mut after] {
                for key in ["valid_life_time", "preferred_life_time", "autojoin"] {
                    entry.as_object_mut().unwrap().remove(key);
                }
            }
            assert_eq!(before, after);
            ip(&format!("addr del {address} dev veth0"));
            assert_eq!(one.renew(&netlink, Duration::from_secs(60)).unwrap(), Renewed::NotThere);
            assert_eq!(entry("veth0", text), None);
        }
    });
}
