//! The holder's lease, and the lifetimes of addresses while it lasts.

use super::*;

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
        // It has given the last second.
        let left_ns = (ends_ns - 400_000_000).saturating_sub(boottime_ns());
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
