//! What the control socket knows of the rest of the daemon: whom to ask, and what happened.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::event_log::EventLog;
use crate::snapshot::Snapshot;

/// Where the driver puts the snapshot that it was asked for.
pub type SnapshotRequest = oneshot::Sender<Snapshot>;

/// The driver's queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the driver's queue is full")]
pub struct Busy;

/// What the control socket knows of the rest of the daemon.
#[derive(Clone)]
pub struct Backend {
    /// Hands a request to the driver; must not block.
    pub ask: Arc<dyn Fn(SnapshotRequest) -> Result<(), Busy> + Send + Sync>,
    /// What happened.
    pub events: Arc<EventLog>,
}
