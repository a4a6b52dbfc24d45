//! What operators, scripts and other programs see of the daemon and how they ask: a socket in the
//! run directory that speaks HTTP and JSON, the log of events behind it, and the client that
//! `hactl` is made of.
//!
//! Nothing here is on the path of a heartbeat. It runs on tokio, asks the driver for a
//! [`Snapshot`](crate::snapshot::Snapshot) and waits for it; the driver waits for nothing here.

pub mod event_log;
