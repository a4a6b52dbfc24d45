//! The hand-over: this process replaces its program by itself, or by a newer one, and goes on as the
//! same start of the node. Reload (SIGHUP, `hactl reload`) and upgrade (SIGUSR2, `hactl reexec`)
//! are the same; ARCHITECTURE.md describes the order of things.
//!
//! [`ask`]: what is checked before anything changes. [`depart`]: the old program's way to exec(2).
//! [`image`]: what is handed over. [`arrive`]: the new program's way from there.

pub mod arrive;
pub mod ask;
pub mod depart;
pub mod image;

pub use arrive::Handed;
pub use image::FORMAT;

pub use crate::control::backend::Cause;
