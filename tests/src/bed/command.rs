//! Programs that the bed calls (`ip`, `hactl`): with a time limit, and errors that say what was tried.

use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

/// How long a short-lived program may take.
pub(crate) const COMMAND_TIME_MAX: Duration = Duration::from_secs(10);

/// What a program that ended has left.
#[derive(Debug, Clone)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// Its exit code; -1 when a signal ended it.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }
}

/// Runs `command` to its end, whatever its exit status; kills it after `time_max`.
pub(crate) fn finish(mut command: Command, time_max: Duration) -> Result<Finished> {
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {shown}"))?;
    let stdout = child.stdout.take().map(collect);
    let stderr = child.stderr.take().map(collect);
    let deadline = Instant::now() + time_max;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            // It may have just ended by itself; either way it is gone afterwards.
            let _ = child.kill();
            let _ = child.wait();
            bail!("{shown} did not end within {time_max:?} and was killed");
        }
        thread::sleep(Duration::from_micros(500));
    };
    Ok(Finished { status, stdout: joined(stdout), stderr: joined(stderr) })
}

/// Runs `program` with `arguments` and returns its output; a failing exit is an error with its
/// message.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    let finished = finish(command, COMMAND_TIME_MAX)?;
    if finished.status.success() {
        return Ok(finished.stdout);
    }
    Err(anyhow!("{program} {}: {}", arguments.join(" "), finished.stderr.trim()))
}

fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What could be read before an error is still worth showing.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn joined(reader: Option<thread::JoinHandle<String>>) -> String {
    reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
}
