//! The event log's way into the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinHandle;

use crate::control::event_log::EventLog;
use crate::snapshot::{Event, Severity};

/// Events that are read at once.
const BATCH: usize = 64;

/// Logs events as they happen; when it is dropped, also those that nobody had time for.
#[derive(Debug)]
pub struct LoggedEvents {
    events: Arc<EventLog>,
    logged: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl LoggedEvents {
    /// Begins after that event, 0 = with the first. Called, and dropped, in tokio's one thread.
    #[must_use]
    pub fn start(events: &Arc<EventLog>, after: u64) -> Self {
        let (logged, mut follower) = (Arc::new(AtomicU64::new(after)), events.follow(after));
        let last = Arc::clone(&logged);
        let task = tokio::spawn(async move {
            loop {
                follower.next(BATCH).await.iter().for_each(log);
                last.store(follower.last_id(), Ordering::Relaxed);
            }
        });
        Self { events: Arc::clone(events), logged, task }
    }
}

impl LoggedEvents {
    /// Logs what is there; gives the number of the last event that was logged.
    #[must_use]
    pub fn end(self) -> u64 {
        let logged = Arc::clone(&self.logged);
        drop(self);
        logged.load(Ordering::Relaxed)
    }
}

impl Drop for LoggedEvents {
    fn drop(&mut self) {
        self.task.abort();
        let mut last = self.logged.load(Ordering::Relaxed);
        // What happens from now on is nobody's: the end is the newest event of this moment.
        let end = self.events.last_id();
        while last < end {
            let rest = self.events.since(last, BATCH);
            let Some(newest) = rest.last() else { return };
            last = newest.id;
            rest.iter().for_each(log);
            self.logged.store(last, Ordering::Relaxed);
        }
    }
}

fn log(event: &Event) {
    match event.severity {
        Severity::Info => tracing::info!(kind = %event.kind, "{}", event.message),
        Severity::Warning => tracing::warn!(kind = %event.kind, "{}", event.message),
        Severity::Error => tracing::error!(kind = %event.kind, "{}", event.message),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;
    use crate::control::event_log::EventDraft;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'w> MakeWriter<'w> for Lines {
        type Writer = Self;

        fn make_writer(&'w self) -> Self {
            self.clone()
        }
    }

    #[tokio::test]
    async fn events_of_the_last_moment_are_logged() {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt().with_writer(lines.clone()).finish();
        let _default = tracing::subscriber::set_default(subscriber);
        let events = Arc::new(EventLog::new().unwrap());
        let logged = LoggedEvents::start(&events, 0);
        for number in 0..200 {
            events.push(EventDraft {
                monotonic_ns: 0,
                unix_us: 0,
                severity: Severity::Info,
                kind: "test".to_owned(),
                node: None,
                link: None,
                group: None,
                message: format!("event number {number}."),
            });
        }
        // No task runs between the events and the end.
        drop(logged);
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 200);
        assert!(text.contains("event number 199."));
    }
}
