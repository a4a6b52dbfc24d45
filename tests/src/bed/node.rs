//! One node: its daemon, run as an operator would run it, asked through `hactl`, and killed in
//! every way that a test needs.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::Signal;

use super::command::{COMMAND_TIME_MAX, Finished, finish};
use super::processes::{Processes, send};
use super::{Bed, Event, Netns, Status};
use crate::sys;

/// Lines of the log that a failure shows.
const LOG_LINES_SHOWN: usize = 60;
/// Pause between two questions to the daemon while waiting: rare enough not to disturb it.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Where a node has Heartbeat's files, below its directory.
const HEARTBEAT_DIRECTORY: &str = "ha.d";
/// How long [`Node::stop`] waits.
const STOP_TIME_MAX: Duration = Duration::from_secs(15);

/// One node of a cluster. Dropping it kills its daemon; while panicking it prints the end of the
/// daemon's log.
#[derive(Debug)]
pub struct Node {
    name: String,
    netns: Arc<Netns>,
    directory: PathBuf,
    child: Option<Child>,
}

impl Node {
    /// A node on a host of `bed`: makes its directory with a bpffs mounted at `bpf`. The daemon is
    /// not started, and has no configuration before [`Node::configure`].
    ///
    /// # Errors
    /// There is no such host, or bpffs cannot be mounted.
    pub fn new(bed: &Bed, host: &str) -> Result<Self> {
        let netns = bed.netns(host)?;
        let directory = bed.node_directory(host)?;
        fs::create_dir_all(directory.join("run"))?;
        Ok(Self { name: host.to_owned(), netns, directory, child: None })
    }

    /// Writes the node's configuration and, beside it, its key file with mode 600. A running daemon
    /// takes it over on SIGHUP ([`Node::signal`]).
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn configure(&self, config: &str, authkeys: &str) -> Result<()> {
        use std::io::Write;
        fs::write(self.config_path(), config)?;
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.authkeys_path())?;
        file.write_all(authkeys.as_bytes())?;
        Ok(())
    }

    /// Writes Heartbeat's files instead, into a directory of their own (`ha.d`), which is the
    /// node's configuration from then on. `authkeys` gets mode 600; what lies in `resource.d` is
    /// made executable.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn configure_heartbeat(&self, files: &[(&str, &str)]) -> Result<()> {
        let directory = self.directory.join(HEARTBEAT_DIRECTORY);
        fs::create_dir_all(directory.join("resource.d"))?;
        for (name, text) in files {
            let path = directory.join(name);
            fs::write(&path, text)?;
            let mode = match *name {
                "authkeys" => 0o600,
                name if name.starts_with("resource.d/") => 0o755,
                _ => 0o644,
            };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its directory in the bed.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its configuration: a TOML file, or a directory with Heartbeat's files once
    /// [`Node::configure_heartbeat`] was called.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        let heartbeat = self.directory.join(HEARTBEAT_DIRECTORY);
        if heartbeat.is_dir() { heartbeat } else { self.directory.join("ha.toml") }
    }

    /// Its key file.
    #[must_use]
    pub fn authkeys_path(&self) -> PathBuf {
        self.directory.join("authkeys")
    }

    /// Its run directory.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.directory.join("run")
    }

    /// Its bpffs; maps are pinned directly below.
    #[must_use]
    pub fn bpffs(&self) -> PathBuf {
        self.directory.join("bpf")
    }

    /// The control socket, for `hactl --socket`.
    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        self.run_dir().join("control.sock")
    }

    /// What the daemon printed, standard output and error together.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.directory.join("daemon.log")
    }

    /// The last `lines` lines of the log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read(self.log_path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Starts the daemon and returns at once; [`Node::wait_ready`] waits until it answers.
    ///
    /// # Errors
    /// It runs already, or the program is not there.
    pub fn start(&mut self) -> Result<()> {
        self.start_with(&[])
    }

    /// Starts the daemon with additional environment variables.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn start_with(&mut self, environment: &[(&str, &str)]) -> Result<()> {
        self.start_program(&program("ha-daemon")?, environment)
    }

    /// Starts the daemon from that file, which may be a copy to be replaced.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn start_program(&mut self, program: &Path, environment: &[(&str, &str)]) -> Result<()> {
        let mut command = self.command(program)?;
        command.envs(environment.iter().copied());
        self.start_by(command)
    }

    /// Starts the daemon with that as its standard output and error, instead of its log file.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn start_into(&mut self, output: File) -> Result<()> {
        let mut command = self.command(&program("ha-daemon")?)?;
        command.stdout(output.try_clone()?).stderr(output);
        self.start_by(command)
    }

    /// Starts a daemon that may have neither real-time priority nor locked memory, as in a container
    /// without the right.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn start_without_realtime(&mut self) -> Result<()> {
        let mut command = self.command(&program("ha-daemon")?)?;
        sys::refuse_realtime(&mut command);
        self.start_by(command)
    }

    /// What starts the daemon from that file.
    fn command(&self, program: &Path) -> Result<Command> {
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = self.netns.command(program)?;
        command
            .arg("run")
            .arg("--config")
            .arg(self.config_path())
            .args(["--node", &self.name])
            .arg("--run-dir")
            .arg(self.run_dir())
            .arg("--bpffs")
            .arg(self.bpffs())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A Ctrl-C in the terminal is for the test, which then removes the daemon.
            .process_group(0);
        Ok(command)
    }

    fn start_by(&mut self, mut command: Command) -> Result<()> {
        if self.is_running() {
            bail!("the daemon of {} runs already", self.name);
        }
        self.child = Some(command.spawn().context("cannot start ha-daemon")?);
        Ok(())
    }

    /// Waits until the daemon answers `hactl status`.
    ///
    /// # Errors
    /// It ended, or did not answer in time; with the end of its log.
    pub fn wait_ready(&mut self, time_max: Duration) -> Result<Status> {
        let deadline = Instant::now() + time_max;
        loop {
            match self.status() {
                Ok(status) => return Ok(status),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context(format!(
                        "{} did not answer within {time_max:?}; its log ends:\n{}",
                        self.name,
                        self.log_tail(LOG_LINES_SHOWN)
                    )));
                }
                Err(_) if self.child.is_some() && !self.is_running() => bail!(
                    "the daemon of {} ended at its start; its log:\n{}",
                    self.name,
                    self.log_tail(LOG_LINES_SHOWN)
                ),
                Err(_) => thread::sleep(POLL_INTERVAL),
            }
        }
    }

    /// Whether the process that [`Node::start`] started is there.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Runs `hactl --socket ... ARGUMENTS` to its end; its exit code is the caller's to judge.
    ///
    /// # Errors
    /// The program is not there or hangs.
    pub fn hactl(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = Command::new(program("hactl")?);
        command.arg("--socket").arg(self.socket_path()).args(arguments);
        finish(command, COMMAND_TIME_MAX)
    }

    /// Runs `ha-daemon ARGUMENTS` in the node's namespace to its end, for commands that end and for
    /// starts that must be refused; its exit code is the caller's to judge.
    ///
    /// # Errors
    /// The program is not there, or does not end within 10 s (it is killed then).
    pub fn ha_daemon(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = self.netns.command(program("ha-daemon")?)?;
        command.args(arguments);
        finish(command, COMMAND_TIME_MAX)
    }

    /// `hactl ARGUMENTS` that must succeed; returns its standard output.
    ///
    /// # Errors
    /// It exits otherwise than 0; with what it said.
    pub fn hactl_done(&self, arguments: &[&str]) -> Result<String> {
        let finished = self.hactl(arguments)?;
        if finished.status.success() {
            return Ok(finished.stdout);
        }
        bail!(
            "hactl {} on {} exits {}: {}",
            arguments.join(" "),
            self.name,
            finished.code(),
            finished.stderr.trim()
        )
    }

    /// What the node says about itself and the cluster.
    ///
    /// # Errors
    /// The daemon cannot be reached, or its answer does not keep the contract.
    pub fn status(&self) -> Result<Status> {
        let text = self.hactl_done(&["status", "--json"])?;
        Status::parse(&text).with_context(|| format!("status of {} breaks the contract", self.name))
    }

    /// The node's events, oldest first.
    ///
    /// # Errors
    /// As [`Node::status`].
    pub fn events(&self) -> Result<Vec<Event>> {
        let text = self.hactl_done(&["events", "--json"])?;
        Event::parse_all(&text)
            .with_context(|| format!("events of {} break the contract", self.name))
    }

    /// Asks for the status every 50 ms until `predicate` holds, and returns that status. `what`
    /// ends the sentence "alpha: waited 5s for ...".
    ///
    /// # Errors
    /// It did not hold in time; with the last status, and the end of the log.
    pub fn wait_until(
        &self,
        what: &str,
        time_max: Duration,
        predicate: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        let found =
            Status::wait_until(what, (time_max, POLL_INTERVAL), || self.status(), predicate);
        found.map_err(|error| {
            let log = self.log_tail(LOG_LINES_SHOWN);
            anyhow!("{}: {error}\nits log ends:\n{log}", self.name)
        })
    }

    /// Waits for an event of that kind, no older than `after_ns`.
    ///
    /// # Errors
    /// It did not come in time.
    pub fn wait_event(&self, kind: &str, after_ns: u64, time_max: Duration) -> Result<Event> {
        let deadline = Instant::now() + time_max;
        loop {
            let events = self.events();
            if let Ok(events) = &events
                && let Some(event) =
                    events.iter().find(|event| event.kind == kind && event.monotonic_ns >= after_ns)
            {
                return Ok(event.clone());
            }
            if Instant::now() > deadline {
                bail!("{}: no event {kind} within {time_max:?}; events: {events:?}", self.name);
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Process ids of daemon and keeper, as the status tells them.
    ///
    /// # Errors
    /// As [`Node::status`].
    pub fn pids(&self) -> Result<(i32, Option<i32>)> {
        let status = self.status()?;
        Ok((status.pid, status.keeper_pid))
    }

    /// Sends a signal to the daemon. Returns the moment just before, monotonic nanoseconds.
    ///
    /// # Errors
    /// The daemon is not there.
    pub fn signal(&self, signal: Signal) -> Result<u64> {
        let (daemon, _) = self.pids()?;
        send(daemon, signal).with_context(|| format!("the daemon of {} is not there", self.name))
    }

    /// Sends a signal to the process that was started, which may not answer yet. Returns the moment
    /// just before.
    ///
    /// # Errors
    /// It was not started, or is gone.
    pub fn signal_child(&self, signal: Signal) -> Result<u64> {
        let child =
            self.child.as_ref().with_context(|| format!("{} was not started", self.name))?;
        send(child.id().cast_signed(), signal)
            .with_context(|| format!("{} is not there", self.name))
    }

    /// `kill -9` of the daemon alone; its keeper lives. Returns the moment just before.
    ///
    /// # Errors
    /// The daemon is not there.
    pub fn kill_daemon(&self) -> Result<u64> {
        self.signal(Signal::SIGKILL)
    }

    /// Daemon and keeper, for faults that must not wait for a question to the daemon.
    ///
    /// # Errors
    /// As [`Node::status`].
    pub fn processes(&self) -> Result<Processes> {
        let (daemon, keeper) = self.pids()?;
        Ok(Processes { daemon, keeper })
    }

    /// `kill -9` of daemon and keeper, so that neither sees the other die: both are stopped first.
    /// Returns the moment just before the first stop.
    ///
    /// # Errors
    /// One of them is not there.
    pub fn kill_daemon_and_keeper(&self) -> Result<u64> {
        self.processes()?.kill_both().with_context(|| format!("cannot kill {}", self.name))
    }

    /// SIGTERM to the daemon: a clean stop begins. Returns the moment just before.
    ///
    /// # Errors
    /// The daemon is not there.
    pub fn terminate(&self) -> Result<u64> {
        self.signal(Signal::SIGTERM)
    }

    /// Waits until the process that was started has ended.
    ///
    /// # Errors
    /// It was not started, or did not end in time; with the end of its log.
    pub fn wait_exit(&mut self, time_max: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        let child = self.child.as_mut().with_context(|| format!("{name} was not started"))?;
        let deadline = Instant::now() + time_max;
        loop {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(anyhow!(
                    "the daemon of {name} did not end within {time_max:?}; its log ends:\n{}",
                    self.log_tail(LOG_LINES_SHOWN)
                ));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// SIGTERM, and waits for the end (15 s). Returns the moment just before the signal.
    ///
    /// # Errors
    /// As [`Node::terminate`] and [`Node::wait_exit`]; or it does not exit with 0.
    pub fn stop(&mut self) -> Result<u64> {
        let at_ns = self.terminate()?;
        let status = self.wait_exit(STOP_TIME_MAX)?;
        if !status.success() {
            bail!("the daemon of {} ended with {status}", self.name);
        }
        Ok(at_ns)
    }

    /// Whether the node carries the address on any interface, read from its kernel.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn has_address(&self, address: IpAddr) -> Result<bool> {
        Ok(addresses_of(&self.netns)?.contains(&address))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- log of {} ---\n{}", self.name, self.log_tail(LOG_LINES_SHOWN));
        }
        if let Some(mut child) = self.child.take() {
            // Already gone is what is wanted; the keeper goes with the bed's namespaces.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Finds a program of this workspace: in `HA_BIN_DIR`, else beside the running program, else one
/// directory above it (where cargo keeps programs while tests run from `deps`).
///
/// # Errors
/// It is in none of them; names them and the command that builds it.
pub fn program(name: &str) -> Result<PathBuf> {
    let directories = match std::env::var_os("HA_BIN_DIR") {
        Some(directory) => vec![PathBuf::from(directory)],
        None => std::env::current_exe()?.ancestors().skip(1).take(2).map(PathBuf::from).collect(),
    };
    directories
        .iter()
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "{name} is not in {directories:?}: build it with `cargo build -p ha-daemon`, \
                 or name its directory in HA_BIN_DIR"
            )
        })
}

/// All addresses of a namespace.
pub(crate) fn addresses_of(netns: &Netns) -> Result<Vec<IpAddr>> {
    let interfaces: serde_json::Value = serde_json::from_str(&netns.ip(&["-j", "address"])?)?;
    Ok(interfaces
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|interface| interface["addr_info"].as_array())
        .flatten()
        .filter_map(|address| address["local"].as_str()?.parse().ok())
        .collect())
}
