//! Serial lines.

pub mod framing;
