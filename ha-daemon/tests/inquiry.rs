//! Asking for addresses that this node does not own, against a real kernel at the other end.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

#[expect(dead_code, reason = "other tests use the rest of it")]
mod common;
#[path = "common/worker.rs"]
#[expect(dead_code, reason = "other tests use the rest of it")]
mod worker;

use std::os::fd::AsRawFd;
use std::time::Duration;

use common::{between_two_namespaces, ip};
use ha_daemon::core::io::Probed;
use ha_daemon::io::address::{AddressCommand, AddressReport};
use ha_daemon::io::frames::{arp_probe, neighbour_probe};
use socket2::Socket;
use worker::{FAR_MAC, Running, far_capture, frames_until_quiet, quiet, start};

const FOUR: &str = "192.0.2.10/24";
const SIX: &str = "2001:db8::10/64";
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;

fn ask(running: &Running, addresses: &[&str], interface: &str) {
    let address = |it: &&str| Some((it.parse().unwrap(), interface.parse().unwrap()));
    // Position 0 is a resource of another kind.
    let addresses = std::iter::once(None).chain(addresses.iter().map(address)).collect();
    running.sender.send(AddressCommand::Ask { token: 5, addresses }).unwrap();
}

fn answer(running: &Running) -> Probed {
    let report = running.next();
    let AddressReport::Asked { token: 5, answer } = report else { unreachable!("{report:?}") };
    answer
}

#[test]
#[ignore = "needs root: network namespaces"]
fn nobody_answers_for_what_nobody_has_and_three_questions_were_asked() {
    between_two_namespaces(|far| {
        let capture = far_capture(far, ETHERTYPE_ARP);
        let running = start(quiet(), 3);
        ask(&running, &[FOUR, SIX], "veth0");
        assert_eq!(answer(&running), Probed::Nobody);
        let frames = frames_until_quiet(&capture, Duration::from_millis(300), |_| true);
        assert_eq!(frames.len(), 3, "{frames:x?}");
        assert!(
            frames.iter().all(|it| it[..42] == arp_probe(worker::NEAR_MAC, [192, 0, 2, 10].into()))
        );
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn whoever_has_an_address_answers() {
    for (address, resource) in [(FOUR, 1), (SIX, 2)] {
        between_two_namespaces(move |far| {
            far.run(|| ip(&format!("addr add {address} dev veth1 nodad")));
            let running = start(quiet(), 3);
            for _ in 0..3 {
                ask(&running, &[FOUR, SIX], "veth0");
                assert_eq!(answer(&running), Probed::Held { resource, mac: FAR_MAC });
            }
            far.run(|| ip(&format!("addr del {address} dev veth1")));
            ask(&running, &[FOUR, SIX], "veth0");
            assert_eq!(answer(&running), Probed::Nobody);
        });
    }
}

/// Sends a frame from the far end again and again while the near end asks.
fn while_far_sends(running: &Running, socket: &Socket, frame: &[u8], interface: &str) -> Probed {
    ask(running, &[FOUR, SIX], interface);
    loop {
        nix::sys::socket::send(socket.as_raw_fd(), frame, nix::sys::socket::MsgFlags::empty())
            .unwrap();
        match running.reports.recv_timeout(Duration::from_millis(5)) {
            Ok(AddressReport::Asked { token: 5, answer }) => return answer,
            Ok(other) => unreachable!("{other:?}"),
            Err(_) => {}
        }
    }
}

#[test]
#[ignore = "needs root: network namespaces"]
fn another_one_that_asks_is_noticed_and_a_client_that_looks_for_it_is_not() {
    between_two_namespaces(|far| {
        let running = start(quiet(), 3);
        let (four, six) = ([192, 0, 2, 10].into(), "2001:db8::10".parse().unwrap());
        let arp = far_capture(far, ETHERTYPE_ARP);
        let ipv6 = far_capture(far, ETHERTYPE_IPV6);
        let contested = |mac| Probed::Contested { mac };
        let probe = arp_probe(FAR_MAC, four);
        assert_eq!(while_far_sends(&running, &arp, &probe, "veth0"), contested(Some(FAR_MAC)));
        let probe = neighbour_probe(FAR_MAC, six);
        assert_eq!(while_far_sends(&running, &ipv6, &probe, "veth0"), contested(None));
        // A client asks from an address of its own.
        let mut question = arp_probe(FAR_MAC, four);
        question[28..32].copy_from_slice(&[192, 0, 2, 99]);
        assert_eq!(while_far_sends(&running, &arp, &question, "veth0"), Probed::Nobody);
    });
}

#[test]
#[ignore = "needs root: network namespaces"]
fn where_nobody_can_be_asked_that_is_the_answer() {
    between_two_namespaces(|_| {
        let running = start(quiet(), 3);
        ask(&running, &["192.0.2.10/32"], "lo");
        assert_eq!(answer(&running), Probed::Nobody);
        ask(&running, &[FOUR], "veth9");
        let Probed::Failed { cause } = answer(&running) else { unreachable!() };
        assert!(cause.contains("there is no interface veth9"), "{cause}");
        ip("link set veth0 down");
        ask(&running, &[FOUR], "veth0");
        assert_eq!(answer(&running), Probed::Failed { cause: "veth0 is down".to_owned() });
    });
}
