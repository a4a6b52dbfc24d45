//! The keeper against a real kernel, in network namespaces of its own.
//!
//! Where a daemon has to be killed, this test binary stands in for it: it runs itself with
//! [`STAND_IN`] set, and the test `a_daemon_stand_in` then owns a keeper until it is killed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod common;
#[path = "keeper/custody.rs"]
mod custody;
#[path = "keeper/lifetimes.rs"]
mod lifetimes;

use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use common::{Far, between_two_namespaces, entry, eventually, ip};
use ha_daemon::io::clock::{boottime_ns, monotonic_ns};
use ha_daemon::io::interrupted::uninterrupted;
use ha_daemon::io::keeper::{
    Acting, Alive, Custody, DOOR_NAME, Datagram, Held, Inheritance, Keeper, KeeperError,
    KeeperOptions, Lease,
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
/// How the stand-in ends: `killed` waits to be, `farewell` says it at once. One that is `alive` waits to be
/// killed, acts on two threads as a daemon does, and has a child that holds its end of the socket open.
const STAND_IN: &str = "KEEPER_TEST_STAND_IN";

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
    let _child = (end == "alive").then(|| act(&keeper));
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

/// Two threads that act, and a child that has this end of the socket open.
fn act(keeper: &Keeper) -> Child {
    let begun = Arc::new(Barrier::new(3));
    for thread in [Acting::AddressWorker, Acting::Driver] {
        let (lease, begun) = (Arc::clone(keeper.lease()), Arc::clone(&begun));
        std::thread::spawn(move || {
            let _alive = Alive::begin(&lease, thread).unwrap();
            begun.wait();
            std::thread::sleep(Duration::from_secs(60));
        });
    }
    begun.wait();
    let socket = keeper.as_fd().try_clone_to_owned().unwrap();
    Command::new("sleep").arg("60").stdin(socket).spawn().unwrap()
}

/// Has a thread that acts end: as it should, or as a kill would end it.
fn end_thread(keeper: &Keeper, thread: Acting, dies: bool) {
    let lease = Arc::clone(keeper.lease());
    let ends = move || {
        let alive = Alive::begin(&lease, thread).unwrap();
        if dies {
            std::mem::forget(alive);
        }
    };
    std::thread::spawn(ends).join().unwrap();
}

#[test]
#[ignore = "needs root: network namespaces"]
fn the_death_of_the_threads_that_act_is_the_daemons_whoever_has_its_files() {
    between_two_namespaces(|far| {
        let peer = network(far);
        let (mut daemon, keeper) = stand_in("alive");
        let children = format!("/proc/{0}/task/{0}/children", daemon.id());
        let children = std::fs::read_to_string(children).unwrap();
        let children = children.split_whitespace().map(|it| it.parse::<u32>().unwrap());
        daemon.kill().unwrap();
        expect_obituary(&peer);
        assert_eq!(addresses(), [false, false], "removed before the peers are told");
        daemon.wait().unwrap();
        eventually("the keeper is gone", Duration::from_secs(1), || is_gone(keeper));
        for child in children.filter(|it| *it != keeper) {
            kill(pid(child), Signal::SIGKILL).unwrap();
        }
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn threads_that_end_by_themselves_are_no_death_and_those_of_an_earlier_daemon_neither() {
    between_two_namespaces(|far| {
        let peer = network(far);
        let untold = || {
            peer.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let told = uninterrupted(|| peer.recv_from(&mut [0; 100]));
            peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            told.is_err()
        };
        let mut keeper = spawn();
        hold(&mut keeper, FOUR).unwrap();
        hold(&mut keeper, SIX).unwrap();
        keeper.obituary(obituary("192.0.2.1:0")).unwrap();
        end_thread(&keeper, Acting::AddressWorker, false);
        end_thread(&keeper, Acting::Driver, false);
        // One of two is no daemon that died.
        end_thread(&keeper, Acting::AddressWorker, true);
        assert!(untold() && addresses() == [true, true]);
        end_thread(&keeper, Acting::Driver, true);
        expect_obituary(&peer);
        expect_obituary(&peer);
        assert_eq!(addresses(), [false, false]);
        // The next daemon has the same lease, and a keeper of its own, which reads what it is told.
        ip("addr add 192.0.2.10/24 dev veth0");
        keeper.respawn().unwrap();
        keeper.release(SIX.parse().unwrap(), &"veth0".parse().unwrap()).unwrap();
        assert!(untold() && addresses() == [true, false]);
        // Its main thread lives: it may have a script to end.
        let lease = Arc::clone(keeper.lease());
        let main = Alive::begin(&lease, Acting::Main).unwrap();
        end_thread(&keeper, Acting::AddressWorker, true);
        end_thread(&keeper, Acting::Driver, true);
        assert!(untold() && addresses() == [true, false]);
        drop(main);
        expect_obituary(&peer);
        assert_eq!(addresses(), [false, false]);
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
