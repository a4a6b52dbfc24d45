//! Lines from a Unix socket, with a time limit and without losing the half of one that came in time.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// A socket's timeout must not be zero.
const WAIT_MIN: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct Lines {
    stream: UnixStream,
    pending: Vec<u8>,
}

impl Lines {
    /// Connects, as soon as somebody listens there.
    pub(super) fn connect(path: &Path, time_max: Duration) -> Result<Self> {
        let deadline = Instant::now() + time_max;
        loop {
            match UnixStream::connect(path) {
                Ok(stream) => return Ok(Self { stream, pending: Vec::new() }),
                Err(error) if Instant::now() > deadline => {
                    return Err(error).with_context(|| format!("nobody at {}", path.display()));
                }
                Err(_) => thread::sleep(RETRY_INTERVAL),
            }
        }
    }

    pub(super) fn send(&mut self, line: &str) -> Result<()> {
        self.stream.write_all(format!("{line}\n").as_bytes()).context("the machine hung up")
    }

    /// The next line, without its end; `None`: there was none before `deadline`.
    pub(super) fn next(&mut self, deadline: Instant) -> Result<Option<String>> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left.max(WAIT_MIN)))?;
            let mut bytes = [0_u8; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => bail!("the machine hung up"),
                Ok(length) => self.pending.extend(&bytes[..length]),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error).context("cannot read from the machine"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_line_waits_for_its_end() {
        let (own, mut other) = UnixStream::pair().unwrap();
        let mut lines = Lines { stream: own, pending: Vec::new() };
        let soon = || Instant::now() + Duration::from_millis(20);
        other.write_all(b"one\r\ntw").unwrap();
        assert_eq!(lines.next(soon()).unwrap().as_deref(), Some("one"));
        assert_eq!(lines.next(soon()).unwrap(), None);
        other.write_all(b"o\n").unwrap();
        assert_eq!(lines.next(soon()).unwrap().as_deref(), Some("two"));
        drop(other);
        assert!(lines.next(soon()).is_err());
    }
}
