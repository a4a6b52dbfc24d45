//! Suspend, pauses and live migration of a virtual machine, each with a real guest: no verdict of a node
//! that did not run, and no owner that acts after its lease.
//!
//! `cargo xtask vm` prepares what they need and runs them; without that they say NOT TESTED. Times are
//! chosen for emulated machines: a guest's 10 ms of work take the host a third of a second.

#[path = "vm/support.rs"]
mod support;

#[path = "vm/kernel.rs"]
mod kernel;
#[path = "vm/migration.rs"]
mod migration;
#[path = "vm/paused.rs"]
mod paused;
#[path = "vm/starved.rs"]
mod starved;
#[path = "vm/suspend.rs"]
mod suspend;
