//! Processes of one node, asked for beforehand: a fault that has to look ids up first disturbs
//! what it measures.

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::clock::monotonic_ns;

/// Daemon and keeper of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processes {
    /// Process id of the daemon.
    pub daemon: i32,
    /// Process id of its keeper.
    pub keeper: Option<i32>,
}

impl Processes {
    /// SIGTERM to the daemon: a clean stop begins. Returns the moment just before.
    ///
    /// # Errors
    /// The daemon is not there.
    pub fn terminate(&self) -> Result<u64> {
        send(self.daemon, Signal::SIGTERM)
    }

    /// `kill -9` of the daemon alone; its keeper lives. Returns the moment just before.
    ///
    /// # Errors
    /// The daemon is not there.
    pub fn kill_daemon(&self) -> Result<u64> {
        send(self.daemon, Signal::SIGKILL)
    }

    /// `kill -9` of daemon and keeper, so that neither sees the other die. Returns the moment just
    /// before the first stop.
    ///
    /// # Errors
    /// One of them is not there.
    pub fn kill_both(&self) -> Result<u64> {
        let keeper = self.keeper.context("the node has no keeper")?;
        kill_together(&[keeper, self.daemon])
    }
}

/// `kill -9` of several processes, none of which sees another one die: all are stopped first.
/// Returns the moment just before the first stop.
///
/// # Errors
/// One of them is not there.
pub fn kill_together(pids: &[i32]) -> Result<u64> {
    let at_ns = monotonic_ns();
    for &pid in pids {
        send(pid, Signal::SIGSTOP)?;
    }
    for &pid in pids {
        send(pid, Signal::SIGKILL)?;
    }
    Ok(at_ns)
}

/// Sends a signal to one process. Returns the moment just before.
///
/// # Errors
/// The process is not there, or `pid` is not one of a single process.
pub fn send(pid: i32, signal: Signal) -> Result<u64> {
    if pid <= 1 {
        bail!("{pid} is no process of a node");
    }
    let at_ns = monotonic_ns();
    kill(Pid::from_raw(pid), signal)
        .with_context(|| format!("cannot send {signal} to process {pid}"))?;
    Ok(at_ns)
}
