//! The daemon's log: standard error, and as configured files and syslog. `ha-daemon run` starts it.
//!
//! Threads with real-time priority log as well, so nothing here waits: lines for files go through a
//! bounded queue to a thread, datagrams for syslog are thrown away when it does not read them, and
//! both are counted.

mod events;
mod file;
mod syslog;

use std::io::IsTerminal as _;
use std::path::Path;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::Logging;
pub use events::LoggedEvents;
use file::LogFile;
use syslog::Syslog;

/// Lines that wait for the disk, for each file; more are dropped and counted.
const QUEUED_LINES_MAX: usize = 8_192;
/// What is logged unless `RUST_LOG` says otherwise.
const USUAL: &str = "info";
/// The same with `debug`: ours, not that of every library.
const DEBUG: &str = "info,ha_daemon=debug";

/// The log while it runs. When it is dropped, what is queued is written first.
pub struct Logger {
    queues: Vec<(ErrorCounter, WorkerGuard)>,
    syslog: Option<Syslog>,
}

impl Logger {
    /// Starts the log of this process. A file or a syslog that cannot be had is no reason not to
    /// start: it is logged where that is possible.
    #[must_use]
    pub fn start(logging: &Logging) -> Self {
        let mut logger = Self { queues: Vec::new(), syslog: None };
        let mut problems = Vec::new();
        let level = if logging.debug { DEBUG } else { USUAL };
        let on_stderr = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
        let stderr = tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            // Colours are for people: journald and files would show the escape sequences.
            .with_ansi(std::io::stderr().is_terminal())
            .with_filter(on_stderr);
        let file = logging.file.as_deref();
        let file = file.and_then(|path| logger.file(path, USUAL, &mut problems));
        let debug_file = logging.debug_file.as_deref();
        let debug_file = debug_file.and_then(|path| logger.file(path, level, &mut problems));
        let syslog = logging.syslog_facility.as_deref().map(|facility| {
            let syslog = Syslog::new(facility);
            problems.extend(syslog.connect().err().map(|error| {
                format!("cannot reach syslog: {error}; lines are dropped until it can be reached")
            }));
            logger.syslog = Some(syslog.clone());
            syslog.layer().with_filter(EnvFilter::new(USUAL))
        });
        let layers = tracing_subscriber::registry().with(stderr).with(file).with(debug_file);
        if let Err(error) = layers.with(syslog).try_init() {
            problems.push(format!("the log was started already: {error}"));
        }
        for problem in problems {
            tracing::warn!("{problem}");
        }
        logger
    }

    fn file<S>(
        &mut self,
        path: &Path,
        level: &str,
        problems: &mut Vec<String>,
    ) -> Option<impl Layer<S> + use<S>>
    where
        S: tracing::Subscriber + for<'span> LookupSpan<'span>,
    {
        let file = match LogFile::open(path) {
            Ok(file) => file,
            Err(error) => {
                problems.push(format!(
                    "cannot write the log file {}: {error}; nothing is logged there",
                    path.display()
                ));
                return None;
            }
        };
        let (writer, guard) = NonBlockingBuilder::default()
            .buffered_lines_limit(QUEUED_LINES_MAX)
            .lossy(true)
            .thread_name("ha-log")
            .finish(file);
        self.queues.push((writer.error_counter(), guard));
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer);
        Some(layer.with_filter(EnvFilter::new(level)))
    }

    /// Lines that were dropped because file or syslog did not take them in time.
    #[must_use]
    pub fn dropped(&self) -> usize {
        let files = self.queues.iter().map(|(counter, _)| counter.dropped_lines());
        files.sum::<usize>() + self.syslog.as_ref().map_or(0, Syslog::dropped)
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        let dropped = self.dropped();
        if dropped > 0 {
            tracing::warn!("{dropped} log lines were dropped: file or syslog did not keep up");
        }
    }
}
