//! Runs other people's programs: resource scripts, `systemctl`, clients. Used on tokio only, whose
//! thread may wait.
//!
//! A program gets a session of its own, `/dev/null` as its standard input, a pipe for each of its
//! outputs and no other descriptor; ordinary scheduling, and the resource limits that this daemon
//! itself was started with. (Locked memory is not inherited, mlockall(2).) What it prints goes to the
//! log, line by line. It gets a signal when this daemon dies, so that nothing that was begun goes on
//! behind the back of the next daemon.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::resource::{Resource as Limit, getrlimit, rlim_t};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use super::sys::{self, Identity, Isolation};

/// Most bytes of an output that are kept for whoever asked; the rest is only logged.
pub const OUTPUT_KEPT_MAX: usize = 64 * 1024;
/// Most lines of one output that are logged within [`LINES_WINDOW`].
const LINES_LOGGED_MAX: usize = 200;
const LINES_WINDOW: Duration = Duration::from_secs(10);
/// Longest line that is logged in one piece.
const LINE_BYTES_MAX: usize = 1024;
/// How long a program that is told to end has time for it.
const END_WAIT: Duration = Duration::from_secs(2);
/// What is left in a pipe after a program's end is read up to this; a pipe holds 64 KiB.
const DRAIN_BYTES_MAX: usize = 1024 * 1024;

/// A program to run.
#[derive(Debug, Clone)]
pub struct Program {
    /// How log lines call it.
    pub label: String,
    /// Its path, or a name that is looked up in the daemon's own `PATH`.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Its whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Who it runs as; `None` = as the daemon.
    pub identity: Option<Identity>,
    /// What it gets when the daemon dies.
    pub on_daemon_death: Signal,
    /// Whether what it prints is for who asked, and logged with level debug only.
    pub quiet: bool,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It took too long, and was killed with its whole process group.
    TimedOut(Duration),
    /// Nobody wanted its answer any more: ended with its whole process group.
    Withdrawn,
}

impl Exit {
    fn of(status: ExitStatus) -> Self {
        match status.code() {
            Some(code) => Self::Code(code),
            None => Self::Signal(status.signal().unwrap_or_default()),
        }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "ended by {signal}"),
                Err(_) => write!(f, "ended by signal {number}"),
            },
            Self::Withdrawn => f.write_str("ended: nobody waits for it any more"),
            Self::TimedOut(limit) => {
                write!(f, "not finished after {}, killed", humantime::format_duration(*limit))
            }
        }
    }
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Ended {
    /// How it ended.
    pub exit: Exit,
    /// What it printed, at most [`OUTPUT_KEPT_MAX`].
    pub stdout: String,
    /// The last line that it printed on either output; empty when there was none.
    pub last_line: String,
}

static LIMITS: OnceLock<Vec<(Limit, rlim_t, rlim_t)>> = OnceLock::new();

/// Limits that this daemon changes for itself.
const CHANGED: [Limit; 2] = [Limit::RLIMIT_CORE, Limit::RLIMIT_MEMLOCK];

/// Takes note of the limits that this process was started with, before it changes its own; `before`
/// is what the program that it replaced had noted ([`limits`]), if there was one.
pub fn remember_limits(before: &[(rlim_t, rlim_t)]) {
    let limit = |limit| getrlimit(limit).ok().map(|(soft, hard)| (limit, soft, hard));
    let noted =
        || CHANGED.into_iter().zip(before).map(|(limit, (soft, hard))| (limit, *soft, *hard));
    LIMITS.get_or_init(|| {
        if before.len() == CHANGED.len() {
            noted().collect()
        } else {
            CHANGED.into_iter().filter_map(limit).collect()
        }
    });
}

/// What [`remember_limits`] noted: soft and hard limits.
#[must_use]
pub fn limits() -> Vec<(rlim_t, rlim_t)> {
    LIMITS.get().into_iter().flatten().map(|(_, soft, hard)| (*soft, *hard)).collect()
}

/// A program that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// Its process id, which is that of its session and process group.
    group: Option<u32>,
    outputs: [Output; 2],
}

/// Starts a program.
///
/// # Errors
/// It cannot be executed, or no process or pipe is left.
pub fn spawn(program: &Program) -> io::Result<Running> {
    let mut command = Command::new(&program.path);
    command
        .args(&program.arguments)
        .env_clear()
        .envs(program.environment.iter().map(|(key, value)| (key, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    sys::isolate(
        command.as_std_mut(),
        Isolation {
            limits: LIMITS.get().cloned().unwrap_or_default(),
            identity: program.identity.clone(),
            on_parent_death: program.on_daemon_death,
        },
    );
    let mut child = command.spawn()?;
    let missing = || io::Error::other("an output has no pipe");
    let stdout = child.stdout.take().ok_or_else(missing)?.into_owned_fd()?;
    let stderr = child.stderr.take().ok_or_else(missing)?.into_owned_fd()?;
    let output = |fd| io::Result::Ok(Output::new(pipe::Receiver::from_owned_fd(fd)?, program));
    Ok(Running { group: child.id(), child, outputs: [output(stdout)?, output(stderr)?] })
}

impl Running {
    /// Logs what it prints until it ends. May be dropped and called again.
    ///
    /// # Errors
    /// Those of waitpid(2).
    pub async fn wait(&mut self) -> io::Result<Exit> {
        loop {
            let [stdout, stderr] = &mut self.outputs;
            tokio::select! {
                status = self.child.wait() => return status.map(Exit::of),
                () = stdout.read(), if stdout.is_open() => {}
                () = stderr.read(), if stderr.is_open() => {}
            }
        }
    }

    /// Ends it and everything in its process group: SIGTERM, `wait` for its own end, SIGKILL to
    /// whoever is left.
    pub async fn end(&mut self, wait: Duration) {
        let group = self.group.and_then(|group| i32::try_from(group).ok()).map(Pid::from_raw);
        let Some(group) = group else { return };
        // Where it is gone already, there is nothing to end.
        let _ = killpg(group, Signal::SIGTERM);
        let ended = timeout(wait, self.child.wait()).await.is_ok();
        // At once: a group without members could give its number to another one.
        let _ = killpg(group, Signal::SIGKILL);
        if !ended {
            let _ = timeout(wait, self.child.wait()).await;
        }
        // Its last words.
        self.outputs.iter_mut().for_each(Output::drain);
    }

    /// What it has printed; what processes that it left behind print is logged from now on. (With
    /// nobody at the other end of the pipe, a service's next line would kill it.)
    pub fn close(mut self, exit: Exit) -> Ended {
        self.outputs.iter_mut().for_each(Output::drain);
        let [stdout, stderr] = self.outputs;
        let last = last_line(&stderr.kept).or_else(|| last_line(&stdout.kept));
        let ended = Ended {
            exit,
            last_line: last.unwrap_or_default(),
            stdout: String::from_utf8_lossy(&stdout.kept).into_owned(),
        };
        for output in [stdout, stderr].into_iter().filter(Output::is_open) {
            tokio::spawn(output.follow());
        }
        ended
    }
}

/// Runs a program to its end, for `limit` at most, and until it is `withdrawn`.
///
/// # Errors
/// As [`spawn`]; how it ends is no error here.
pub async fn run(
    program: &Program,
    limit: Duration,
    withdrawn: impl Future<Output = ()>,
) -> io::Result<Ended> {
    let mut running = spawn(program)?;
    let ended = tokio::select! {
        ended = timeout(limit, running.wait()) => ended.map_err(|_| Exit::TimedOut(limit)),
        () = withdrawn => Err(Exit::Withdrawn),
    };
    let exit = match ended {
        Ok(exit) => exit?,
        Err(ended) => {
            running.end(END_WAIT).await;
            ended
        }
    };
    Ok(running.close(exit))
}

fn last_line(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    Some(line.chars().take(LINE_BYTES_MAX).collect())
}

/// One output of a running program.
#[derive(Debug)]
struct Output {
    pipe: Option<pipe::Receiver>,
    label: String,
    quiet: bool,
    kept: Vec<u8>,
    line: Vec<u8>,
    logged: usize,
    window: Instant,
}

impl Output {
    fn new(pipe: pipe::Receiver, program: &Program) -> Self {
        let (label, quiet) = (program.label.clone(), program.quiet);
        let (kept, line, window) = (Vec::new(), Vec::new(), Instant::now());
        Self { pipe: Some(pipe), label, quiet, kept, line, logged: 0, window }
    }

    /// Whether more may come.
    fn is_open(&self) -> bool {
        self.pipe.is_some()
    }

    /// Waits for something to be printed, and takes it. Nothing is lost when it is dropped.
    async fn read(&mut self) {
        if let Some(pipe) = &self.pipe
            && pipe.readable().await.is_ok()
        {
            self.take();
        }
    }

    /// Logs what comes until the last process that has the pipe ends.
    async fn follow(mut self) {
        while self.is_open() {
            self.read().await;
            self.kept.clear();
        }
    }

    /// Takes what is there already.
    fn drain(&mut self) {
        let mut bytes = 0;
        while bytes < DRAIN_BYTES_MAX {
            match self.take() {
                0 => break,
                more => bytes += more,
            }
        }
        if !self.line.is_empty() {
            self.log_line();
        }
    }

    /// Takes one piece; its length, 0 = nothing is there now.
    fn take(&mut self) -> usize {
        let mut buffer = [0; 4096];
        let Some(pipe) = &self.pipe else { return 0 };
        let length = match pipe.try_read(&mut buffer) {
            Ok(length) if length > 0 => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return 0,
            Ok(_) | Err(_) => {
                self.pipe = None;
                return 0;
            }
        };
        let piece = buffer.get(..length).unwrap_or_default();
        let room = OUTPUT_KEPT_MAX.saturating_sub(self.kept.len()).min(length);
        self.kept.extend_from_slice(piece.get(..room).unwrap_or_default());
        for byte in piece {
            match byte {
                b'\n' => self.log_line(),
                byte => self.line.push(*byte),
            }
            if self.line.len() >= LINE_BYTES_MAX {
                self.log_line();
            }
        }
        length
    }

    fn log_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        if self.window.elapsed() > LINES_WINDOW {
            (self.window, self.logged) = (Instant::now(), 0);
        }
        if text.is_empty() || self.logged > LINES_LOGGED_MAX {
            return;
        }
        self.logged += 1;
        if self.logged > LINES_LOGGED_MAX {
            tracing::warn!(
                "{}: more than {LINES_LOGGED_MAX} lines within {}; the rest is not logged",
                self.label,
                humantime::format_duration(LINES_WINDOW)
            );
        } else if self.quiet {
            tracing::debug!("{}: {}", self.label, text.escape_debug());
        } else {
            tracing::info!("{}: {}", self.label, text.escape_debug());
        }
    }
}

#[cfg(test)]
mod tests;
