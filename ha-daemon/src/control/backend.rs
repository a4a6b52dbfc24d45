//! What the control socket knows of the rest of the daemon: whom to ask, and what happened.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::ErrorBody;
use super::command::{CommandAnswer, CommandRequest};
use super::event_log::EventLog;
use super::parameters::Parameters;
use crate::snapshot::Snapshot;

/// Where the driver puts the snapshot that it was asked for.
pub type SnapshotRequest = oneshot::Sender<Snapshot>;

/// An operator's command, and where the driver puts its answer.
pub type CommandLetter = (CommandRequest, oneshot::Sender<CommandAnswer>);
/// Why one program takes over from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// The configuration is read anew (SIGHUP).
    Reload,
    /// The program is replaced by what is in its place now (SIGUSR2).
    Reexec,
    /// The process ends and everything stays, for a daemon that is started later (SIGUSR1).
    Detach,
}

impl Cause {
    /// The kind of the event that says that it is done.
    pub fn done(self) -> &'static str {
        match self {
            Self::Reload => "reloaded",
            Self::Reexec => "reexecuted",
            Self::Detach => "detached",
        }
    }
}

/// Where who asked for a hand-over learns whether it begins; the error is for an operator.
pub type HandOverAnswer = oneshot::Sender<Result<(), ErrorBody>>;

/// The driver's queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the driver's queue is full")]
pub struct Busy;

/// What the control socket knows of the rest of the daemon.
#[derive(Clone)]
pub struct Backend {
    /// Hands a request to the driver; must not block.
    pub ask: Arc<dyn Fn(SnapshotRequest) -> Result<(), Busy> + Send + Sync>,
    /// Hands an operator's command to the driver; must not block.
    pub command: Arc<dyn Fn(CommandLetter) -> Result<(), Busy> + Send + Sync>,
    /// What the configuration says, for Heartbeat's tools.
    pub parameters: Arc<Parameters>,
    /// Asks for a hand-over; must not block.
    pub hand_over: Arc<dyn Fn(Cause, HandOverAnswer) -> Result<(), Busy> + Send + Sync>,
    /// What happened.
    pub events: Arc<EventLog>,
}
