//! Units of a real systemd: one that runs as the first process of a process namespace, with its own
//! `/run` and its own control group, so that nothing of the host is touched.
//!
//! The test runs itself once more inside, where `systemctl` reaches that systemd.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on may panic")]

use std::cell::RefCell;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ha_daemon::config::Resource;
use ha_daemon::core::io::{Health, Presence};
use ha_daemon::io::service::{self, Operation, Order, Outcome, ServiceOptions};

const WAIT: Duration = Duration::from_secs(30);
/// Says to the program inside that it is there.
const INSIDE: &str = "HA_TEST_INSIDE_SYSTEMD";

/// Becomes the first process; the control group's directory is its argument.
const INIT: &str = r#"
echo $$ >"$1/cgroup.procs" && exec unshare --cgroup sh -ec '
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mount -t proc proc /proc
umount -R /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs tmpfs /etc/init.d
mkdir -p /run/systemd/system
cd /run/systemd/system
printf "[Unit]\nDefaultDependencies=no\n" >ha-test.target
printf "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/sleep 1000\n" >ha-test.service
printf "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=/bin/false\n" >ha-fails.service
printf "[Unit]\nDefaultDependencies=no\n[Service]\nRestart=always\nRestartSec=1000\nExecStart=/bin/false\n" >ha-crashes.service
printf "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nTimeoutStartSec=infinity\nExecStart=/bin/sleep 1000\n" >ha-hangs.service
export container=ha-test
exec "$0" --system --unit=ha-test.target --show-status=no' "$2"
"#;

/// A running systemd; gone when dropped, with its control groups.
struct Systemd {
    unshare: Child,
    group: PathBuf,
}

impl Systemd {
    fn start() -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let unified = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let at = fields.next()?;
            (fields.next() == Some("cgroup2")).then(|| PathBuf::from(at))
        });
        let group = unified.expect("cgroup2 is mounted").join(format!("ha-{}", std::process::id()));
        fs::create_dir(&group).unwrap();
        let program = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"];
        let program = program.into_iter().find(|path| Path::new(path).exists());
        let unshare = Command::new("unshare")
            .args([
                "--pid",
                "--mount",
                "--fork",
                "--ipc",
                "--uts",
                "--kill-child",
                "sh",
                "-c",
                INIT,
                "sh",
            ])
            .arg(&group)
            .arg(program.expect("systemd is installed"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let systemd = Self { unshare, group };
        let deadline = Instant::now() + WAIT;
        while !systemd.answers() {
            assert!(Instant::now() < deadline, "systemd does not answer");
            thread::sleep(Duration::from_millis(50));
        }
        systemd
    }

    /// The first process of the namespace, as this one sees it.
    fn first(&self) -> Option<String> {
        let pid = self.unshare.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children.split_whitespace().next().map(str::to_owned)
    }

    fn inside(&self) -> Option<Command> {
        let mut command = Command::new("nsenter");
        command.args(["-m", "-p", "-t", &self.first()?, "--"]);
        Some(command)
    }

    fn answers(&self) -> bool {
        let Some(mut command) = self.inside() else { return false };
        let state = command.args(["systemctl", "is-active", "ha-test.target"]).output();
        state.is_ok_and(|output| output.stdout == b"active\n")
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // Its namespace goes with it (`--kill-child`).
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let deadline = Instant::now() + WAIT;
        while self.group.exists() && Instant::now() < deadline {
            remove_groups(&self.group);
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Removes a control group from its leaves on; one with processes stays.
fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

#[test]
#[ignore = "needs root: namespaces, and systemd as their first process"]
fn units_of_a_real_systemd_are_probed_started_and_stopped() {
    let systemd = Systemd::start();
    let output = systemd
        .inside()
        .unwrap()
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "inside", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    std::io::stderr().write_all(&output.stdout).unwrap();
    std::io::stderr().write_all(&output.stderr).unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

/// Orders for the services of this process, and what comes of them.
struct Services {
    runtime: tokio::runtime::Runtime,
    sender: service::ServiceSender,
    reports: RefCell<tokio::sync::mpsc::UnboundedReceiver<service::ServiceReport>>,
}

impl Services {
    fn outcome(&self, operation: Operation, resource: Resource) -> Outcome {
        self.sender.send(Order { token: 1, operation, resource }).unwrap();
        let mut reports = self.reports.borrow_mut();
        let report = async { tokio::time::timeout(WAIT, reports.recv()).await };
        self.runtime.block_on(report).unwrap().unwrap().outcome
    }
}

#[test]
#[ignore = "run by the test above, inside"]
fn inside() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (report, reports) = tokio::sync::mpsc::unbounded_channel();
    let options = ServiceOptions {
        script_directory: "/nonexistent".into(),
        timeout: Duration::from_secs(5),
        environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
        stop_pause: Duration::from_secs(1),
        report: Arc::new(move |it| report.send(it).is_ok()),
        ending: None,
    };
    let sender = runtime.block_on(async { service::start(options) });
    let services = Services { runtime, sender, reports: RefCell::new(reports) };
    let unit = |name: &str| Resource::Systemd { unit: name.to_owned() };
    let of = |operation, name: &str| services.outcome(operation, unit(name));
    let is = |presence| Outcome::Probed(presence);

    assert_eq!(of(Operation::Probe, "ha-test.service"), is(Presence::Absent));
    assert_eq!(of(Operation::Start, "ha-test.service"), Outcome::Started(Ok(())));
    assert_eq!(of(Operation::Probe, "ha-test.service"), is(Presence::Here));
    assert_eq!(of(Operation::Start, "ha-test.service"), Outcome::Started(Ok(())), "once more");
    let monitored = |number, health| Outcome::Monitored { number, health };
    let ask = |number| of(Operation::Monitor { number }, "ha-test.service");
    assert_eq!(ask(1), monitored(1, Health::Runs));
    let kill = ["kill", "--kill-whom=all", "--signal=KILL", "ha-test.service"];
    assert!(Command::new("systemctl").args(kill).status().unwrap().success());
    let ended = || {
        let outcome = ask(2);
        matches!(&outcome, Outcome::Monitored { number: 2, health: Health::Failed { .. } })
    };
    let deadline = Instant::now() + WAIT;
    while !ended() {
        assert!(Instant::now() < deadline, "a unit that was killed runs");
    }
    assert_eq!(of(Operation::Start, "ha-test.service"), Outcome::Started(Ok(())), "and is started");
    assert_eq!(ask(3), monitored(3, Health::Runs));
    assert_eq!(of(Operation::Stop, "ha-test.service"), Outcome::Stopped(Ok(())));
    assert_eq!(of(Operation::Probe, "ha-test.service"), is(Presence::Absent));

    // Systemd's own restarts: until the next one it has processes no more than one that has failed.
    assert_eq!(of(Operation::Start, "ha-crashes.service"), Outcome::Started(Ok(())));
    let waits = || {
        let outcome = of(Operation::Monitor { number: 4 }, "ha-crashes.service");
        matches!(&outcome, Outcome::Monitored { number: 4, health: Health::NoAnswer { .. } })
    };
    let deadline = Instant::now() + WAIT;
    while !waits() {
        assert!(Instant::now() < deadline, "a unit that waits for its restart runs");
    }
    assert_eq!(of(Operation::Stop, "ha-crashes.service"), Outcome::Stopped(Ok(())));

    // A script of that name is not there, a unit is.
    let script = |arguments: &[&str]| Resource::Script {
        name: "ha-test".to_owned(),
        arguments: arguments.iter().map(|it| (*it).to_owned()).collect(),
    };
    assert_eq!(services.outcome(Operation::Start, script(&[])), Outcome::Started(Ok(())));
    assert_eq!(of(Operation::Probe, "ha-test.service"), is(Presence::Here));
    assert_eq!(services.outcome(Operation::Stop, script(&[])), Outcome::Stopped(Ok(())));
    let outcome = services.outcome(Operation::Start, script(&["a"]));
    assert!(
        matches!(&outcome, Outcome::Started(Err(error)) if error.contains("no arguments")),
        "{outcome:?}"
    );

    let outcome = of(Operation::Start, "ha-fails.service");
    assert!(
        matches!(&outcome, Outcome::Started(Err(error)) if error.contains("exit code 1")),
        "{outcome:?}"
    );
    assert_eq!(of(Operation::Stop, "ha-fails.service"), Outcome::Stopped(Ok(())));
    let outcome = of(Operation::Start, "ha-hangs.service");
    assert!(
        matches!(&outcome, Outcome::Started(Err(error)) if error.contains("not finished after 5s")),
        "{outcome:?}"
    );
    assert_eq!(of(Operation::Probe, "ha-hangs.service"), is(Presence::Here));
    assert_eq!(of(Operation::Stop, "ha-hangs.service"), Outcome::Stopped(Ok(())));
    assert_eq!(of(Operation::Probe, "ha-hangs.service"), is(Presence::Absent));

    // A script of /etc/init.d (which is empty in here), with no resource.d before it.
    let script = "#!/bin/sh\necho \"$*\" >>/run/calls\necho stopped\n";
    fs::write("/etc/init.d/ha-test-init", script).unwrap();
    fs::set_permissions("/etc/init.d/ha-test-init", fs::Permissions::from_mode(0o755)).unwrap();
    let init =
        || Resource::Script { name: "ha-test-init".to_owned(), arguments: vec!["a b".to_owned()] };
    assert_eq!(services.outcome(Operation::Probe, init()), is(Presence::Absent));
    assert_eq!(services.outcome(Operation::Start, init()), Outcome::Started(Ok(())));
    assert_eq!(services.outcome(Operation::Stop, init()), Outcome::Stopped(Ok(())));
    let calls = fs::read_to_string("/run/calls").unwrap();
    assert_eq!(calls, "a b status\na b status\na b start\na b stop\n");

    let outcome = of(Operation::Probe, "ha-none.service");
    assert!(matches!(outcome, Outcome::Probed(Presence::NotInstalled { .. })), "{outcome:?}");
    let outcome = of(Operation::Start, "ha-none.service");
    assert!(
        matches!(&outcome, Outcome::Started(Err(error)) if error.contains("no systemd unit")),
        "{outcome:?}"
    );
    assert_eq!(of(Operation::Stop, "ha-none.service"), Outcome::Stopped(Ok(())));
}
