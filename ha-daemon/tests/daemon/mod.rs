//! A control socket as a daemon has it, with a driver that the test chooses.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use ha_daemon::control::backend::{Backend, Busy, CommandLetter, SnapshotRequest};
use ha_daemon::control::command::{CommandAccepted, CommandRequest};
use ha_daemon::control::event_log::{EventDraft, EventLog};
use ha_daemon::control::parameters::Parameters;
use ha_daemon::control::server::serve_on;
use ha_daemon::control::socket::ControlSocket;
use ha_daemon::control::{ErrorBody, SOCKET_NAME};
use ha_daemon::snapshot::{Severity, Snapshot};
use tempfile::TempDir;
use tokio::sync::oneshot;

pub type Outcome = Result<(), Box<dyn Error>>;

/// The snapshot that the contract is pinned with.
pub const GOLDEN: &str = include_str!("../golden/status.json");

/// A driver that answers with [`GOLDEN`].
pub fn answer(request: SnapshotRequest) -> Result<(), Busy> {
    let snapshot: Snapshot = serde_json::from_str(GOLDEN).map_err(|_| Busy)?;
    // The client may have gone.
    let _ = request.send(snapshot);
    Ok(())
}

/// A driver that takes requests and never answers.
pub fn silence(request: SnapshotRequest) -> Result<(), Busy> {
    std::mem::forget(request);
    Ok(())
}

/// A driver that accepts whatever is about the group `web` and refuses everything else.
fn obey((command, answer): CommandLetter) -> Result<(), Busy> {
    let web = matches!(&command, CommandRequest::Disable { group } if group.as_str() == "web");
    let accepted = if web {
        Ok(CommandAccepted { message: "web is disabled".to_owned(), expected: Vec::new() })
    } else {
        Err(ErrorBody { error: "no".to_owned(), remedy: "ask for web".to_owned() })
    };
    let _ = answer.send(accepted);
    Ok(())
}

/// A served control socket in a directory of its own.
pub struct Daemon {
    pub socket: PathBuf,
    pub events: Arc<EventLog>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<(), String>>,
    _directory: TempDir,
}

impl Daemon {
    pub fn start(
        ask: impl Fn(SnapshotRequest) -> Result<(), Busy> + Send + Sync + 'static,
    ) -> Result<Self, Box<dyn Error>> {
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join(SOCKET_NAME);
        let events = Arc::new(EventLog::new()?);
        let backend = Backend {
            ask: Arc::new(ask),
            command: Arc::new(obey),
            parameters: Arc::new(Parameters::default()),
            hand_over: Arc::new(|_, _| Err(Busy)),
            events: Arc::clone(&events),
        };
        let bound = ControlSocket::bind(&socket)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let shutdown = async { drop(stopped.await) };
            runtime
                .map_err(|error| error.to_string())?
                .block_on(serve_on(bound, backend, shutdown))
                .map_err(|error| error.to_string())
        });
        Ok(Self { socket, events, stop, thread, _directory: directory })
    }

    /// Lets `count` things happen; returns the id of the last one.
    pub fn push(&self, count: u64, message: &str) -> u64 {
        for _ in 0..count {
            self.events.push(EventDraft {
                monotonic_ns: 1,
                unix_us: 1_789_000_123_456_789,
                severity: Severity::Warning,
                kind: "node-late".to_owned(),
                node: None,
                link: None,
                group: None,
                message: message.to_owned(),
            });
        }
        self.events.last_id()
    }

    pub fn stop(self) -> Outcome {
        drop(self.stop);
        self.thread.join().map_err(|_| "the server panicked")??;
        if self.socket.exists() {
            return Err("the socket is still there".into());
        }
        Ok(())
    }
}
