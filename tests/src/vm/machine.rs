//! One QEMU with a node in it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::json;

use super::{Agent, Image, Qmp};
use crate::bed::{Event, Netns, Status};
use crate::sys;

/// The program.
const QEMU: &str = "qemu-system-x86_64";
/// Megabytes: what a migration has to carry.
const MEMORY_MB: &str = "256";
/// How long QEMU may take until its sockets are there.
const LISTEN_TIME_MAX: Duration = Duration::from_secs(20);
/// How long a guest may take to start, emulated, on a machine that is busy.
const BOOT_TIME_MAX: Duration = Duration::from_secs(180);
/// How long a command in the guest may take.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long QEMU may take to end.
const END_TIME_MAX: Duration = Duration::from_secs(20);
/// Lines of the console and of the daemon's log that a failure shows.
const LINES_SHOWN: usize = 30;

/// A network card.
#[derive(Debug, Clone)]
pub struct Card {
    /// The tap device in the switch namespace.
    pub tap: String,
    /// The MAC address in the guest.
    pub mac: String,
}

/// A running QEMU. Dropping it ends it.
#[derive(Debug)]
pub struct Machine {
    name: String,
    child: Child,
    console: PathBuf,
    /// Its monitor.
    pub qmp: Qmp,
    /// The guest's shell.
    pub agent: Agent,
}

/// What a machine is started with.
#[derive(Debug)]
pub struct Start<'a> {
    /// Where its sockets and its console are; begins the names of these files.
    pub path: &'a Path,
    /// Its kernel.
    pub image: &'a Image,
    /// Its initramfs.
    pub initramfs: &'a Path,
    /// Its cards.
    pub cards: &'a [Card],
    /// A Unix socket on which it waits for a machine that migrates here, instead of starting a guest.
    pub incoming: Option<&'a Path>,
}

impl Machine {
    /// Starts a guest in `netns` and waits until its shell answers; one that is to migrate here does
    /// not answer before it has.
    ///
    /// # Errors
    /// QEMU does not start, or its guest does not in time; with the end of its console.
    pub(super) fn start(netns: &Netns, start: &Start<'_>) -> Result<Self> {
        let file = |suffix: &str| start.path.with_extension(suffix);
        let (console, log) = (file("console"), file("qemu"));
        let mut command = netns.command(QEMU)?;
        sys::die_with_starter(&mut command);
        // No cloud, no KVM: the same machine everywhere. S3 is on in this machine type.
        command.args(["-machine", "pc", "-accel", "tcg", "-cpu", "max", "-smp", "1"]);
        command.args(["-m", MEMORY_MB, "-nodefaults", "-no-user-config", "-display", "none"]);
        command.arg("-no-reboot");
        command.arg("-kernel").arg(start.image.kernel());
        command.arg("-initrd").arg(start.initramfs);
        command.args(["-append", "console=ttyS0 quiet panic=-1 no_console_suspend"]);
        command.arg("-serial").arg(format!("file:{}", console.display()));
        let socket = |suffix: &str| format!("path={},server=on,wait=off", file(suffix).display());
        command.arg("-chardev").arg(format!("socket,id=agent,{}", socket("agent")));
        command.args(["-serial", "chardev:agent"]);
        command.arg("-chardev").arg(format!("socket,id=monitor,{}", socket("monitor")));
        command.args(["-mon", "chardev=monitor,mode=control"]);
        for (number, card) in start.cards.iter().enumerate() {
            let tap = &card.tap;
            command.arg("-netdev");
            command.arg(format!("tap,id=net{number},ifname={tap},script=no,downscript=no"));
            command.arg("-device");
            command.arg(format!("virtio-net-pci,netdev=net{number},mac={}", card.mac));
        }
        if let Some(path) = start.incoming {
            command.arg("-incoming").arg(format!("unix:{}", path.display()));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        let mut child = command.spawn().with_context(|| format!("cannot start {QEMU}"))?;
        let connected = connect(&file("monitor"), &file("agent"), start.incoming.is_none());
        match connected {
            Ok((qmp, agent)) => {
                let name = start.path.display().to_string();
                Ok(Self { name, child, console, qmp, agent })
            }
            Err(error) => {
                // Gone by itself is as good.
                let _ = child.kill();
                let _ = child.wait();
                Err(error.context(format!("{}{}", tail(&log), tail(&console))))
            }
        }
    }

    /// The process id of QEMU.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Runs a command in the guest's shell (60 s) and gives what it printed.
    ///
    /// # Errors
    /// It fails, or does not end in time.
    pub fn run(&mut self, command: &str) -> Result<String> {
        self.agent.run(command, COMMAND_TIME_MAX)
    }

    /// Starts the daemon in the guest; returns at once.
    ///
    /// # Errors
    /// The guest does not answer.
    pub fn start_daemon(&mut self) -> Result<()> {
        self.run(
            "mkdir -p /run/ha; setsid ha-daemon run --config /etc/ha/ha.toml --run-dir /run/ha \
             --bpffs /sys/fs/bpf >/run/daemon.log 2>&1 &",
        )
        .map(drop)
    }

    /// What its daemon says about itself and the cluster.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn status(&mut self) -> Result<Status> {
        let text = self.run("hactl status --json")?;
        Status::parse(&text).context("its status breaks the contract")
    }

    /// Its daemon's events after the one with that number, oldest first. Their times are the guest's.
    ///
    /// # Errors
    /// As [`Machine::status`].
    pub fn events(&mut self, after: u64) -> Result<Vec<Event>> {
        let text = self.run(&format!("hactl events --json --since {after} --limit 1000"))?;
        Event::parse_all(&text).context("its events break the contract")
    }

    /// Asks for the status until `predicate` holds, and returns that status.
    ///
    /// # Errors
    /// It did not hold in time; with the last status and the end of the log.
    pub fn wait_until(
        &mut self,
        what: &str,
        time_max: Duration,
        predicate: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        let found =
            Status::wait_until(what, (time_max, POLL_INTERVAL), || self.status(), predicate);
        found.map_err(|error| {
            let log = self.log_tail();
            anyhow!("{}: {error}\n{log}", self.name)
        })
    }

    /// The end of its daemon's log and of its console, for a failure.
    #[must_use]
    pub fn log_tail(&mut self) -> String {
        let log = self.run(&format!("tail -n {LINES_SHOWN} /run/daemon.log"));
        let log = log.unwrap_or_else(|error| format!("{error:#}"));
        format!("its log ends:\n{log}\n{}", tail(&self.console))
    }

    /// Tells QEMU to end, and waits for it.
    ///
    /// # Errors
    /// It does not answer.
    pub fn end(mut self) -> Result<()> {
        // The answer may be lost with the socket.
        let _ = self.qmp.execute("quit", json!({}));
        let deadline = Instant::now() + END_TIME_MAX;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "QEMU does not end within {END_TIME_MAX:?}");
            thread::sleep(POLL_INTERVAL / 5);
        }
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Gone by itself is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect(monitor: &Path, agent: &Path, starts: bool) -> Result<(Qmp, Agent)> {
    // The shell's first line would be lost if nobody listened.
    let mut agent = Agent::connect(agent, LISTEN_TIME_MAX)?;
    let qmp = Qmp::connect(monitor, LISTEN_TIME_MAX)?;
    if starts {
        agent.wait_started(BOOT_TIME_MAX).context("the guest does not start")?;
    }
    Ok((qmp, agent))
}

fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
    format!("{} ends:\n{}\n", path.display(), shown.join("\n"))
}
