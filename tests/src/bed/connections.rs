//! The control connections of daemons, as the kernel knows them.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::Cluster;
use crate::clock;

/// How long they may take.
const TIME_MAX: Duration = Duration::from_secs(20);
/// An attempt that comes too early is given up within a fraction of this.
const STANDS: Duration = Duration::from_millis(500);
/// TCP_ESTABLISHED, and the default port, as /proc/net/tcp writes them (proc_net_tcp, kernel's documentation).
const ESTABLISHED: &str = "01";
const PORT: &str = ":02B6";

/// Local addresses of established connections from or to the default port. A set: where others come
/// and go meanwhile (a client's), the kernel writes a line again.
fn established(table: &str) -> BTreeSet<String> {
    let connection = |line| {
        let mut fields = str::split_whitespace(line);
        let (local, remote, state) = (fields.nth(1)?, fields.next()?, fields.next()?);
        let control = local.ends_with(PORT) || remote.ends_with(PORT);
        (control && state == ESTABLISHED).then(|| local.to_owned())
    };
    table.lines().filter_map(connection).collect()
}

impl Cluster {
    /// Waits until so many control connections of the first node stand. One that is being made when a
    /// node replaces its program is closed with the old one, and the peer says so.
    ///
    /// # Errors
    /// They do not within 20 s.
    pub fn wait_connected(&self, connections: usize) -> Result<()> {
        let pid = self.nodes.first().context("there is no node")?.pids()?.0;
        let mut last = (BTreeSet::new(), Instant::now());
        clock::wait_for("control connections that stand", TIME_MAX, || {
            let table = fs::read_to_string(format!("/proc/{pid}/net/tcp"))?;
            let now = established(&table);
            if now != last.0 {
                last = (now, Instant::now());
            }
            Ok(last.0.len() >= connections && last.1.elapsed() > STANDS)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_connections_are_told_from_others_and_counted_once() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n   \
            0: 010200C0:02B6 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n   \
            1: 010200C0:9C4E 020200C0:02B6 01 00000000:00000000 00:00000000 00000000     0\n   \
            2: 010200C0:9C50 020200C0:02B6 06 00000000:00000000 00:00000000 00000000     0\n   \
            1: 010200C0:9C4E 020200C0:02B6 01 00000000:00000000 00:00000000 00000000     0\n   \
            3: 010200C0:0050 020200C0:9C4E 01 00000000:00000000 00:00000000 00000000     0\n";
        assert_eq!(established(table), BTreeSet::from(["010200C0:9C4E".to_owned()]));
    }
}
