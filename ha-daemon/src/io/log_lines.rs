//! Lines on their way to whoever writes them: standard error, a log file. A reader of standard error
//! that hangs, and a disk that is slow, hold up a thread that does nothing else.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{panic, thread};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::subscriber::NoSubscriber;

use super::mailbox::{Inbox, Mailbox, mailbox_for};
use super::realtime::leave_signals;

/// Lines that wait; more are dropped and counted.
const LINES_MAX: usize = 8_192;
/// Stack of the thread. The keeper locks its memory, so it pays for all of it.
const STACK_BYTES: usize = 256 * 1024;
/// How long the end of a process may be put off by lines that are not taken.
pub const END_WAIT_MAX: Duration = Duration::from_secs(1);
/// The same for the end that a panic makes: the peers wait for it, or the addresses.
const PANIC_WAIT_MAX: Duration = Duration::from_millis(50);
/// How long a writer that has no room is waited for before it is tried again: a log file may have been
/// moved away meanwhile.
const ROOM_WAIT_MAX_MS: u16 = 1_000;

/// The way to one writer of lines. Whoever posts never waits: there is no lock that the writing thread
/// could hold while it does not get the CPU.
#[derive(Debug)]
pub struct LogLines {
    mailbox: Mailbox<Vec<u8>>,
    /// Lines that were taken, and those that are being posted.
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
    pub fn start(name: &str, writer: impl Write + AsFd + Send + 'static) -> io::Result<Self> {
        let (mailbox, inbox) = mailbox_for(LINES_MAX).map_err(io::Error::other)?;
        let written = Arc::<Written>::default();
        let (name, progress) = (name.to_owned(), Arc::clone(&written));
        thread::Builder::new().name("ha-log".to_owned()).stack_size(STACK_BYTES).spawn(
            move || {
                leave_signals();
                write_on(&name, inbox, writer, &progress);
            },
        )?;
        Ok(Self { mailbox, posted: AtomicU64::new(0), written })
    }

    /// Posts a line, with its end; it is dropped and counted when too many wait.
    pub fn post(&self, line: Vec<u8>) {
        // Before the line can be written: a flush that did not count it would take it for an earlier one,
        // and return too soon.
        self.posted.fetch_add(1, Ordering::AcqRel);
        if !self.mailbox.post(line) {
            self.posted.fetch_sub(1, Ordering::AcqRel);
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
        // One that was being posted may have been refused since.
        let waiting =
            |lines: u64| posted.min(self.posted.load(Ordering::Acquire)).saturating_sub(lines);
        let waited =
            self.written.grown.wait_timeout_while(lines, wait, |lines| waiting(*lines) > 0);
        let (lines, _) = waited.unwrap_or_else(PoisonError::into_inner);
        waiting(*lines)
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

/// Has panics say what they say by `stderr`, after the lines before them. The standard library writes it
/// itself: a reader that hangs would hold up the panic, and the abort after it would never come.
pub fn say_panics(stderr: Arc<LogLines>) {
    panic::set_hook(Box::new(move |panic| {
        let current = thread::current();
        let name = current.name().unwrap_or("<unnamed>");
        stderr.post(format!("thread '{name}' {panic}\n").into_bytes());
        // As RUST_BACKTRACE wants it.
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            stderr.post(format!("stack backtrace:\n{trace}").into_bytes());
        }
        // The writing thread, when it is the one that panics, waits here for itself: that ends, too.
        stderr.flush(Instant::now() + PANIC_WAIT_MAX);
    }));
}

/// Writes what comes; does not end before the process does.
fn write_on(
    name: &str,
    mut inbox: Inbox<Vec<u8>>,
    mut writer: impl Write + AsFd,
    written: &Written,
) -> ! {
    let mut told = 0;
    loop {
        inbox.wait();
        let mut works = false;
        while let Some(line) = inbox.take() {
            works = write_line(&mut writer, &line).is_ok();
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
            let text =
                format!("{lost} log lines for {name} were dropped: it did not take them in time");
            // The keeper's process has no subscriber.
            if tracing::dispatcher::get_default(|it| it.is::<NoSubscriber>()) {
                let _ = write_line(&mut writer, format!("{text}\n").as_bytes());
            } else {
                tracing::warn!("{text}");
            }
        }
    }
}

/// Writes all of a line. The descriptor may be one that does not wait for room: standard error is shared with
/// whoever started this process, and any of them can make it so.
fn write_line(writer: &mut (impl Write + AsFd), mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match writer.write(line) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(bytes) => line = line.get(bytes..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_for_room(writer.as_fd())?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn wait_for_room(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut waiting = [PollFd::new(fd, PollFlags::POLLOUT)];
    match poll(&mut waiting, PollTimeout::from(ROOM_WAIT_MAX_MS)) {
        // The next attempt to write says what an error is.
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _};
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
    fn a_reader_that_hangs_holds_nobody_up_and_gets_what_waited_and_what_was_lost() {
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
        let reads = thread::spawn(move || {
            let mut bytes = vec![0; (posted - dropped) as usize * line.len()];
            reader.read_exact(&mut bytes).map(|()| reader)
        });
        assert_eq!(lines.flush(soon()), 0);
        assert_eq!(lines.dropped(), dropped);
        let reader = reads.join().unwrap().unwrap();
        reader.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut told = String::new();
        BufReader::new(reader).read_line(&mut told).unwrap();
        let lost = "log lines for a socket were dropped: it did not take them in time";
        assert_eq!(told, format!("{dropped} {lost}\n"));
    }

    #[test]
    fn a_writer_that_has_no_room_and_does_not_wait_for_it_loses_nothing() {
        let (writer, mut reader) = UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        let lines = LogLines::start("a socket", writer).unwrap();
        // More than the socket holds.
        let text: Vec<_> = (0..LINES_MAX).map(|number| format!("{number:999}\n")).collect();
        for line in &text {
            lines.post(line.clone().into_bytes());
        }
        assert!(lines.flush(Instant::now() + Duration::from_millis(100)) > 0, "it is never full");
        let text = text.concat();
        let mut bytes = vec![0; text.len()];
        reader.set_read_timeout(Some(PATIENCE)).unwrap();
        reader.read_exact(&mut bytes).unwrap();
        assert!(bytes == text.as_bytes(), "a line is not as it was");
        assert_eq!((lines.flush(soon()), lines.dropped()), (0, 0));
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
