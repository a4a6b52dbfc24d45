//! The user-space side of the failover daemon. See ARCHITECTURE.md for the path of a heartbeat.

pub mod advice;
pub mod config;
pub mod control;
pub mod core;
pub mod daemon;
pub mod driver;
pub mod histogram;
pub mod io;
pub mod logging;
pub mod names;
pub mod snapshot;
