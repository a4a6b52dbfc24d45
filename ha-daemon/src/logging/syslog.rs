//! Syslog, in the form that every daemon behind `/dev/log` takes: `<PRIORITY>TAG[PID]: MESSAGE`
//! (RFC 3164; the time is left to the receiver, section 4.3.2).
//!
//! Own code because syslog(3), and the libraries around it, wait when the receiver does not read.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::registry::LookupSpan;

use crate::config::heartbeat::FACILITIES;

/// Where syslog listens.
const SOCKET: &str = "/dev/log";
/// Name under which the lines appear.
const TAG: &str = "ha-daemon";
/// Numbers of `local0` and those after it (RFC 3164 4.1.1); before them the order of the list counts.
const LOCAL0: usize = 16;

/// The way to syslog. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Syslog {
    shared: Arc<Shared>,
    facility: usize,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    socket: Mutex<Option<UnixDatagram>>,
    dropped: AtomicUsize,
}

impl Syslog {
    /// For one of [`FACILITIES`]; another name is `daemon`.
    pub(super) fn new(facility: &str) -> Self {
        Self::at(Path::new(SOCKET), facility)
    }

    fn at(path: &Path, facility: &str) -> Self {
        let position = FACILITIES.iter().position(|name| *name == facility);
        let local = facility.strip_prefix("local").and_then(|digit| digit.parse::<usize>().ok());
        let facility = local.map(|number| LOCAL0 + number).or(position).unwrap_or(3);
        let (socket, dropped) = (Mutex::new(None), AtomicUsize::new(0));
        Self { shared: Arc::new(Shared { path: path.to_owned(), socket, dropped }), facility }
    }

    /// Whether it can be reached now.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn connect(&self) -> io::Result<()> {
        let socket = self.shared.open()?;
        *self.shared.socket.lock().unwrap_or_else(PoisonError::into_inner) = Some(socket);
        Ok(())
    }

    /// Lines that it did not take.
    pub(super) fn dropped(&self) -> usize {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// The layer that logs to it.
    pub(super) fn layer<S>(self) -> impl Layer<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        // Level and time are part of what the receiver shows.
        let layer = tracing_subscriber::fmt::layer().without_time().with_level(false);
        layer.with_target(false).with_ansi(false).with_writer(self)
    }

    fn line(&self, level: Level) -> Line {
        // RFC 3164 4.1.1: severities.
        let severity = match level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        let priority = self.facility * 8 + severity;
        let head = format!("<{priority}>{TAG}[{}]: ", std::process::id());
        Line { shared: Arc::clone(&self.shared), bytes: head.into_bytes() }
    }
}

impl Shared {
    fn open(&self) -> io::Result<UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(&self.path)?;
        Ok(socket)
    }

    /// Sends one line, over a new socket if syslog was started anew.
    fn send(&self, line: &[u8]) -> io::Result<()> {
        let mut socket = match self.socket.try_lock() {
            Ok(socket) => socket,
            Err(TryLockError::Poisoned(socket)) => socket.into_inner(),
            // Another thread is between two system calls; it may have lost its CPU there.
            Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::WouldBlock.into()),
        };
        if let Some(open) = socket.as_ref() {
            match open.send(line) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(_) => *socket = None,
            }
        }
        let open = self.open()?;
        let sent = open.send(line).map(drop);
        *socket = Some(open);
        sent
    }
}

impl<'w> MakeWriter<'w> for Syslog {
    type Writer = Line;

    fn make_writer(&'w self) -> Line {
        self.line(Level::INFO)
    }

    fn make_writer_for(&'w self, metadata: &Metadata<'_>) -> Line {
        self.line(*metadata.level())
    }
}

/// One line, sent when it is complete.
#[derive(Debug)]
pub(super) struct Line {
    shared: Arc<Shared>,
    bytes: Vec<u8>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.shared.send(self.bytes.trim_ascii_end()).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 1024];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_line_has_facility_severity_and_tag() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let syslogd = UnixDatagram::bind(&path).unwrap();
        let subscriber = tracing_subscriber::registry().with(Syslog::at(&path, "local0").layer());
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!("Late heartbeat: Node {}", "alpha");
            tracing::error!("node alpha: is dead");
        });
        let pid = std::process::id();
        // local0 is 16: 16 * 8 + 4, and + 3.
        assert_eq!(
            received(&syslogd),
            format!("<132>ha-daemon[{pid}]: Late heartbeat: Node alpha")
        );
        assert_eq!(received(&syslogd), format!("<131>ha-daemon[{pid}]: node alpha: is dead"));
    }

    #[test]
    fn facilities_have_the_numbers_of_the_standard() {
        let number = |name: &str| Syslog::at(Path::new("/nowhere"), name).facility;
        for (name, expected) in
            [("kern", 0), ("daemon", 3), ("cron", 9), ("authpriv", 10), ("ftp", 11), ("local7", 23)]
        {
            assert_eq!(number(name), expected, "{name}");
        }
    }

    #[test]
    fn a_syslog_that_comes_back_gets_lines_again_and_one_that_is_away_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let syslog = Syslog::at(&path, "daemon");
        assert!(syslog.connect().is_err());
        drop(syslog.line(Level::INFO));
        assert_eq!(syslog.dropped(), 1);
        for _ in 0..2 {
            let syslogd = UnixDatagram::bind(&path).unwrap();
            syslog.line(Level::INFO).write_all(b"hello\n").unwrap();
            assert!(received(&syslogd).ends_with("]: hello"));
            std::fs::remove_file(&path).unwrap();
        }
        assert_eq!(syslog.dropped(), 1);
    }

    #[test]
    fn a_syslog_that_does_not_read_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let _syslogd = UnixDatagram::bind(&path).unwrap();
        let syslog = Syslog::at(&path, "daemon");
        for _ in 0..10_000 {
            drop(syslog.line(Level::INFO));
        }
        assert!(syslog.dropped() > 0);
    }
}
