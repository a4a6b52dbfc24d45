//! A slow network between two QEMUs: what a migration sends passes at a given rate. QEMU itself limits
//! its rate only while the guest runs, not in the blackout.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};

use crate::clock::{monotonic_ns, sleep_until_ns};

const SECOND_NS: u64 = 1_000_000_000;
const CHUNK_BYTES: usize = 16 * 1024;

/// Carries one connection, in one direction.
#[derive(Debug)]
pub(super) struct Relay {
    thread: JoinHandle<Result<()>>,
}

impl Relay {
    /// Waits for a connection at `from` and passes what comes there to `to`.
    pub(super) fn start(from: &Path, to: &Path, bytes_per_second: u64) -> Result<Self> {
        let listener = UnixListener::bind(from)
            .with_context(|| format!("cannot listen at {}", from.display()))?;
        let to = to.to_owned();
        let thread = thread::Builder::new().name("relay".to_owned()).spawn(move || {
            let (from, _) = listener.accept()?;
            let to = UnixStream::connect(&to).context("nobody waits for the migration")?;
            carry(from, to, bytes_per_second)
        })?;
        Ok(Self { thread })
    }

    /// Waits for its end, which is that of the connection.
    pub(super) fn finish(self) -> Result<()> {
        self.thread.join().map_err(|_| anyhow!("the relay panicked"))?
    }
}

fn carry(mut from: impl Read, mut to: impl Write, bytes_per_second: u64) -> Result<()> {
    let mut chunk = [0_u8; CHUNK_BYTES];
    let mut due_ns = monotonic_ns();
    loop {
        let length = from.read(&mut chunk).context("cannot read the migration")?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&chunk[..length]).context("cannot pass on the migration")?;
        due_ns = due_ns.max(monotonic_ns()) + length as u64 * SECOND_NS / bytes_per_second.max(1);
        sleep_until_ns(due_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_passes_and_takes_its_time() {
        let sent: Vec<u8> = (0..40_000_u32).map(|it| it as u8).collect();
        let mut received = Vec::new();
        let from_ns = monotonic_ns();
        carry(sent.as_slice(), &mut received, 400_000).unwrap();
        assert_eq!(received, sent);
        assert!(monotonic_ns() - from_ns >= SECOND_NS / 10);
    }
}
