//! The signals of the daemon: SIGTERM and SIGINT leave, SIGHUP reloads, SIGUSR2 replaces the program,
//! SIGUSR1 detaches.

use std::time::Duration;

use anyhow::Result;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::handover::Cause;

/// The signals that the daemon answers.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
}

/// What a signal asks for.
pub(super) enum Word {
    Leave,
    HandOver(Cause),
}

impl Signals {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) -> Word {
        tokio::select! {
            _ = self.terminate.recv() => Word::Leave,
            _ = self.interrupt.recv() => Word::Leave,
            _ = self.hangup.recv() => Word::HandOver(Cause::Reload),
            _ = self.user1.recv() => Word::HandOver(Cause::Detach),
            _ = self.user2.recv() => Word::HandOver(Cause::Reexec),
        }
    }

    /// Whether one came before signals were held that asks to leave. Those that come now wait for the
    /// next program.
    pub(super) async fn leaves(&mut self) -> bool {
        let soon = Duration::from_millis(1);
        let word = async {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
        };
        tokio::time::timeout(soon, word).await.is_ok()
    }
}
