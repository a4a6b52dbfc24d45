//! The programs in the kernel, held to the host build of the same code: same outcome for the same
//! frame, exact counters, pins that last and go, and the chain of ways to attach.

mod attach;
mod hostile;
mod keys;
mod log;
mod pins;
mod probes;
mod same;
mod watch;
mod world;

use std::time::Duration;

/// For what an idle machine does at once and a loaded one in its own time.
const WAIT: Duration = Duration::from_secs(60);
