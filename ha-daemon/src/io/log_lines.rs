//! Lines on their way to whoever writes them: standard error, a log file. A reader of standard error
//! that hangs, and a disk that is slow, hold up a thread that does nothing else.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::mailbox::{Inbox, Mailbox, mailbox_for};
use super::realtime::leave_signals;

/// Lines that wait; more are dropped and counted.
const LINES_MAX: usize = 8_192;
/// Stack of the thread. The keeper locks its memory, so it pays for all of it.
const STACK_BYTES: usize = 256 * 1024;
/// How long the end of a process may be put off by lines that are not taken.
pub const END_WAIT_MAX: Duration = Duration::from_secs(1);

/// The way to one writer of lines. Whoever posts never waits: there is no lock that the writing thread
/// could hold while it does not get the CPU.
#[derive(Debug)]
pub struct LogLines {
    mailbox: Mailbox<Vec<u8>>,
    posted: AtomicU64,
    written: Arc<Written>,
}

/// How many lines are done with: the writing thread counts, and who waits for the last ones listens.
#[derive(Debug, Default)]
struct Written {
    lines: Mutex<u64>,
    grown: Condvar,
}

impl LogLines {
    /// Starts the thread that writes to `writer`. What is lost is told under that `name`, in the log.
    ///
    /// # Errors
    /// No thread, or no descriptor, is left.
    pub fn start(name: &str, writer: impl Write + Send + 'static) -> io::Result<Self> {
        let (mailbox, inbox) = mailbox_for(LINES_MAX).map_err(io::Error::other)?;
        let written = Arc::<Written>::default();
        let (name, progress) = (name.to_owned(), Arc::clone(&written));
        std::thread::Builder::new().name("ha-log".to_owned()).stack_size(STACK_BYTES).spawn(
            move || {
                leave_signals();
                write_on(&name, inbox, writer, &progress);
            },
        )?;
        Ok(Self { mailbox, posted: AtomicU64::new(0), written })
    }

    /// Posts a line, with its end; it is dropped and counted when too many wait.
    pub fn post(&self, line: Vec<u8>) {
        if self.mailbox.post(line) {
            self.posted.fetch_add(1, Ordering::Release);
        }
    }

    /// Lines that were lost: too many waited, or the writer failed.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.mailbox.dropped()
    }

    /// Waits until what the calling thread has posted is written, but no longer than until `end`; says how
    /// many lines are not.
    pub fn flush(&self, end: Instant) -> u64 {
        let posted = self.posted.load(Ordering::Acquire);
        let lines = self.written.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = end.saturating_duration_since(Instant::now());
        let waited = self.written.grown.wait_timeout_while(lines, wait, |lines| *lines < posted);
        let (lines, _) = waited.unwrap_or_else(PoisonError::into_inner);
        posted.saturating_sub(*lines)
    }
}

impl Write for &LogLines {
    /// One line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.post(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes what comes; does not end before the process does.
fn write_on(name: &str, mut inbox: Inbox<Vec<u8>>, mut writer: impl Write, written: &Written) -> ! {
    let mut told = 0;
    loop {
        inbox.wait();
        let mut works = false;
        while let Some(line) = inbox.take() {
            works = writer.write_all(&line).is_ok();
            if !works {
                inbox.count_dropped();
            }
            *written.lines.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            written.grown.notify_all();
        }
        let dropped = inbox.dropped();
        // Not to a writer that fails: this line would be the next one that is lost.
        if works && dropped != told {
            let lost = dropped - told;
            told = dropped;
            tracing::warn!(
                "{lost} log lines for {name} were dropped: it did not take them in time"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// For a machine that is busy with other things.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn soon() -> Instant {
        Instant::now() + PATIENCE
    }

    #[test]
    fn lines_are_written_in_their_order_before_a_flush_is_done() {
        let (writer, mut reader) = UnixStream::pair().unwrap();
        let lines = LogLines::start("a socket", writer).unwrap();
        for line in ["one\n", "two\n", "three\n"] {
            (&lines).write_all(line.as_bytes()).unwrap();
        }
        assert_eq!((lines.flush(soon()), lines.dropped()), (0, 0));
        let mut bytes = [0; 14];
        reader.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"one\ntwo\nthree\n");
    }

    #[test]
    fn a_reader_that_hangs_holds_nobody_up_and_gets_what_waited_when_it_reads() {
        let (writer, mut reader) = UnixStream::pair().unwrap();
        let lines = LogLines::start("a socket", writer).unwrap();
        // More than the socket and the queue hold.
        let line = [b'x'; 1_000];
        let posted = 2 * LINES_MAX as u64;
        for _ in 0..posted {
            lines.post(line.to_vec());
        }
        let dropped = lines.dropped();
        assert!(dropped > 0);
        let waiting = lines.flush(Instant::now());
        assert!(waiting > 0, "nothing hangs");
        let reads = std::thread::spawn(move || {
            let mut bytes = vec![0; (posted - dropped) as usize * line.len()];
            reader.read_exact(&mut bytes).map(|()| reader)
        });
        assert_eq!(lines.flush(soon()), 0);
        assert_eq!(lines.dropped(), dropped);
        reads.join().unwrap().unwrap();
    }

    #[test]
    fn a_line_that_cannot_be_written_is_counted_and_waited_for_no_more() {
        let (writer, reader) = UnixStream::pair().unwrap();
        drop(reader);
        let lines = LogLines::start("a socket", writer).unwrap();
        lines.post(b"lost\n".to_vec());
        assert_eq!((lines.flush(soon()), lines.dropped()), (0, 1));
    }
}
