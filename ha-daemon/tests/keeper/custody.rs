//! What waits for the next daemon, and who asks for it.

use super::*;

/// The run directory in which a stand-in asks for what a dead daemon left.
const HEIR: &str = "KEEPER_TEST_HEIR";

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
            .args(["--exact", "custody::an_heir_stand_in", "--include-ignored", "--nocapture"])
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
