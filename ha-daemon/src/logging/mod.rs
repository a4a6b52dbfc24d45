//! The log of a process: standard error, and for `ha-daemon run` files and syslog as configured.
//!
//! Nobody who logs waits for whoever reads the log: lines for standard error and for files go through
//! bounded queues to threads that do nothing else ([`LogLines`]), datagrams for syslog are thrown away when it
//! does not read them. What is lost is counted, said in the log when there is room again, and shown by
//! `hactl status`. Threads do not survive exec(2): [`flush`] comes before it. What a panic says goes the same
//! way ([`take_panics`]).
//!
//! What remains for who logs: the line is put together, which asks the allocator for it, and the first one
//! from a place in the program takes a lock of the `tracing` crates. So the sender logs nothing, and
//! the driver pushes events, which [`LoggedEvents`] logs in tokio's thread.

mod events;
mod file;
mod syslog;

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::Logging;
use crate::io::log_lines::{self, END_WAIT_MAX, LogLines};
pub use events::LoggedEvents;
use file::LogFile;
use syslog::Syslog;

/// What is logged unless `RUST_LOG` says otherwise.
const USUAL: &str = "info";
/// The same with `debug`: ours, not that of every library.
const DEBUG: &str = "info,ha_daemon=debug";
/// What standard error is called where it is told of.
const STDERR: &str = "standard error";

/// The log of this process, as the subscriber of `tracing` is: once it is started.
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    stderr: Arc<LogLines>,
    files: Vec<Arc<LogLines>>,
    syslog: Option<Syslog>,
    /// Lines that the programs before this one, in this process, lost.
    dropped_before: u64,
}

/// Lines that were lost: standard error, a file or syslog did not take them in time.
#[must_use]
pub fn dropped() -> u64 {
    let Some(log) = LOG.get() else { return 0 };
    let lines = log.files.iter().chain([&log.stderr]).map(|lines| lines.dropped());
    let syslog = log.syslog.as_ref().map_or(0, Syslog::dropped) as u64;
    log.dropped_before + lines.sum::<u64>() + syslog
}

/// Waits until what the calling thread has logged is written, but no longer than `patience`; says how many
/// lines are not.
pub fn flush(patience: Duration) -> u64 {
    let Some(log) = LOG.get() else { return 0 };
    let end = Instant::now() + patience;
    log.files.iter().chain([&log.stderr]).map(|lines| lines.flush(end)).sum()
}

/// Has a line written to standard error at the end of this process, which its reader can put off for a
/// moment only.
pub fn say(line: &str) {
    let started;
    let stderr = match LOG.get() {
        Some(log) => &*log.stderr,
        None => match LogLines::start(STDERR, io::stderr()) {
            Ok(lines) => {
                started = lines;
                &started
            }
            Err(_) => return eprintln!("{line}"),
        },
    };
    stderr.post(format!("{line}\n").into_bytes());
    stderr.flush(Instant::now() + END_WAIT_MAX);
}

/// Has what a panic says written as the lines of the log are. For programs: there is one hook for a process,
/// and in tests it is the harness's.
pub fn take_panics() {
    if let Some(log) = LOG.get() {
        log_lines::say_panics(Arc::clone(&log.stderr));
    }
}

/// The log while the daemon runs. When it is dropped, what is queued is written first.
pub struct Logger(());

impl Logger {
    /// Starts the log of this process, in which `dropped_before` lines were lost already. A file or a syslog
    /// that cannot be had is no reason not to start: it is logged where that is possible.
    ///
    /// # Errors
    /// No thread is left.
    pub fn start(logging: &Logging, dropped_before: u64) -> io::Result<Self> {
        let mut problems = Vec::new();
        let level = if logging.debug { DEBUG } else { USUAL };
        let on_stderr = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
        let stderr = Arc::new(LogLines::start(STDERR, io::stderr())?);
        let stderr_layer = tracing_subscriber::fmt::layer()
            .with_writer(Arc::clone(&stderr))
            // Colours are for people: journald and files would show the escape sequences.
            .with_ansi(io::stderr().is_terminal())
            .with_filter(on_stderr);
        let mut lines_to = |path: &Option<PathBuf>| file(path.as_deref()?, &mut problems);
        let [file, debug_file] = [&logging.file, &logging.debug_file].map(&mut lines_to);
        let files = [&file, &debug_file].into_iter().flatten().map(Arc::clone).collect();
        let syslog = logging.syslog_facility.as_deref().map(Syslog::new);
        problems.extend(syslog.as_ref().and_then(|it| it.connect().err()).map(|error| {
            format!("cannot reach syslog: {error}; lines are dropped until it can be reached")
        }));
        let syslog_layer =
            syslog.clone().map(|syslog| syslog.layer().with_filter(EnvFilter::new(USUAL)));
        let layers = tracing_subscriber::registry()
            .with(stderr_layer)
            .with(file.map(|lines| file_layer(lines, USUAL)))
            .with(debug_file.map(|lines| file_layer(lines, level)))
            .with(syslog_layer);
        match layers.try_init() {
            Ok(()) => {
                // Nobody else sets it: the subscriber is set once.
                let _ = LOG.set(Log { stderr, files, syslog, dropped_before });
            }
            Err(error) => problems.push(format!("the log was started already: {error}")),
        }
        for problem in problems {
            tracing::warn!("{problem}");
        }
        Ok(Self(()))
    }
}

fn file(path: &Path, problems: &mut Vec<String>) -> Option<Arc<LogLines>> {
    let name = path.display().to_string();
    match LogFile::open(path).and_then(|file| LogLines::start(&name, file)) {
        Ok(lines) => Some(Arc::new(lines)),
        Err(error) => {
            problems.push(format!(
                "cannot write the log file {name}: {error}; nothing is logged there"
            ));
            None
        }
    }
}

fn file_layer<S>(lines: Arc<LogLines>, level: &str) -> impl Layer<S> + use<S>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span>,
{
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(lines);
    layer.with_filter(EnvFilter::new(level))
}

impl Drop for Logger {
    fn drop(&mut self) {
        let dropped = dropped();
        if dropped > 0 {
            tracing::warn!(
                "{dropped} log lines were dropped: who was to take them did not keep up"
            );
        }
        flush(END_WAIT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::process::{Child, Command, Stdio};
    use std::{env, panic, process, thread};

    use super::*;

    /// For a machine that is busy with other things.
    const PATIENCE: Duration = Duration::from_secs(60);
    /// Set for the process that panics.
    const PANICS: &str = "HA_TEST_PANICS";
    const THIS_TEST: &str =
        "logging::tests::a_panic_is_said_after_the_line_before_it_and_waits_for_no_reader";
    /// As nothing else does.
    const STATUS: i32 = 77;

    /// What the daemon does, except that its abort would leave a core file.
    fn log_and_panic() -> ! {
        let _logger = Logger::start(&Logging::default(), 0).unwrap();
        take_panics();
        tracing::info!("the line before");
        let _ = panic::catch_unwind(|| panic!("as it was told"));
        process::exit(STATUS);
    }

    fn start_panicking(stderr: UnixStream) -> Child {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", THIS_TEST, "--nocapture"]).env(PANICS, "1").env_remove("RUST_LOG");
        command.stdout(Stdio::null()).stderr(OwnedFd::from(stderr)).spawn().unwrap()
    }

    fn status(mut child: Child) -> Option<i32> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            thread::sleep(Duration::from_millis(20));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        panic!("it hangs");
    }

    #[test]
    fn a_panic_is_said_after_the_line_before_it_and_waits_for_no_reader() {
        if env::var_os(PANICS).is_some() {
            log_and_panic();
        }
        let (mut reader, writer) = UnixStream::pair().unwrap();
        assert_eq!(status(start_panicking(writer)), Some(STATUS));
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let [before, said] = ["the line before\n", "' panicked at "].map(|it| text.find(it));
        assert!(before.is_some() && before < said, "{text}");
        assert!(text.contains(":\nas it was told\n"), "{text}");

        let (reader, mut full) = UnixStream::pair().unwrap();
        full.set_nonblocking(true).unwrap();
        while full.write(&[b'\n'; 4096]).is_ok() {}
        full.set_nonblocking(false).unwrap();
        assert_eq!(status(start_panicking(full)), Some(STATUS));
        drop(reader);
    }
}
