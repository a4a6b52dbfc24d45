//! Two network namespaces joined by a veth pair, for one test each.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its network may panic")]

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};

/// The namespace of the other end. Both vanish with the last thread, process and socket in them.
pub struct Far {
    namespace: File,
}

/// Runs a test in a thread that is alone in a new network namespace, with `veth0` up and its
/// other end `veth1` up in a second namespace.
pub fn between_two_namespaces(test: impl FnOnce(&Far) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let near = File::open("/proc/thread-self/ns/net").unwrap();
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let far = Far { namespace: File::open("/proc/thread-self/ns/net").unwrap() };
        ip("link set lo up");
        setns(&near, CloneFlags::CLONE_NEWNET).unwrap();
        ip("link set lo up");
        ip(
            "link add veth0 address 02:00:00:00:00:0a type veth peer name veth1 address 02:00:00:00:00:0b",
        );
        ip(&format!("link set veth1 netns {}", far.path().display()));
        ip("link set veth0 up");
        far.run(|| ip("link set veth1 up"));
        test(&far);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Far {
    /// The namespace as a path, for `ip link set ... netns`.
    pub fn path(&self) -> PathBuf {
        use std::os::fd::AsRawFd;
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd()).into()
    }

    /// Runs something in the other namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.namespace, CloneFlags::CLONE_NEWNET).unwrap();
                    work()
                })
                .join()
                .unwrap()
        })
    }
}

/// Runs `ip` in the namespace of this thread and gives what it prints.
pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// What `ip` says about an address on an interface of this thread's namespace.
pub fn entry(interface: &str, address: &str) -> Option<serde_json::Value> {
    let links: serde_json::Value =
        serde_json::from_str(&ip(&format!("-j addr show dev {interface}"))).unwrap();
    let entries = links.as_array()?.iter().filter_map(|link| link["addr_info"].as_array());
    entries.flatten().find(|entry| entry["local"] == address).cloned()
}

/// Waits until a condition holds.
pub fn eventually(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    start.elapsed()
}
