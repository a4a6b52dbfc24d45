//! Watches the heartbeats that leave the switch towards the nodes, for as long as anybody wants: keeps
//! the last one of each sender and every gap, not every frame.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::{Passed, Tap, Watcher, locked};
use crate::bed::Netns;

/// How often the stamped frames are fetched: the buffer holds several seconds of them.
const FETCH_INTERVAL: Duration = Duration::from_millis(100);
const GAPS_MAX: usize = 100_000;
const PRIORITY: u8 = 90;

/// A time between two consecutive heartbeats of one sender on one network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct HeartbeatGap {
    /// The sender of the Ethernet frames: one interface of one node.
    pub mac: [u8; 6],
    /// The heartbeat before it.
    pub from_ns: u64,
    /// The heartbeat after it.
    pub to_ns: u64,
}

impl HeartbeatGap {
    /// Its length.
    #[must_use]
    pub fn length_ns(&self) -> u64 {
        self.to_ns.saturating_sub(self.from_ns)
    }
}

#[derive(Debug, Default)]
struct Records {
    last_ns: BTreeMap<[u8; 6], u64>,
    gaps: Vec<HeartbeatGap>,
    missed: u64,
}

/// Records gaps until it is dropped.
#[derive(Debug)]
pub struct HeartbeatWatch {
    records: Arc<Mutex<Records>>,
    _watcher: Watcher,
}

impl HeartbeatWatch {
    /// Begins to watch heartbeats that come from one of the MAC addresses `macs`
    /// (as [`crate::bed::Bed::mac`] writes them). Gaps longer than `longer_than` are kept.
    ///
    /// # Errors
    /// Packet sockets cannot be opened there.
    pub fn start(switch: &Netns, macs: Vec<String>, longer_than: Duration) -> Result<Self> {
        let tap = Tap::open_for(switch, &macs)?;
        let records = Arc::new(Mutex::new(Records::default()));
        let shared = Arc::clone(&records);
        let longer_than_ns = crate::clock::as_ns(longer_than);
        let watcher = Watcher::start("heartbeats", Some(PRIORITY), move |stop| {
            while !stop.load(Ordering::Relaxed) {
                let passed = tap.take();
                let mut records = locked(&shared);
                for one in passed.iter().filter(|one| one.is_heartbeat()) {
                    records.note(one, longer_than_ns);
                }
                drop(records);
                wait(stop);
            }
        })?;
        Ok(Self { records, _watcher: watcher })
    }

    /// Gaps that overlap the time from `from_ns` to `to_ns`, in order of their ends. A gap is known
    /// when it is over.
    #[must_use]
    pub fn gaps_in(&self, from_ns: u64, to_ns: u64) -> Vec<HeartbeatGap> {
        let overlaps = |gap: &&HeartbeatGap| gap.from_ns < to_ns && gap.to_ns > from_ns;
        locked(&self.records).gaps.iter().filter(overlaps).copied().collect()
    }

    /// The last heartbeat from one of `macs` that has been seen.
    #[must_use]
    pub fn last_ns(&self, macs: &[&str]) -> Option<u64> {
        let records = locked(&self.records);
        let of = |mac: &[u8; 6]| macs.contains(&&*super::mac_text(*mac));
        records.last_ns.iter().filter(|(mac, _)| of(mac)).map(|(_, at_ns)| *at_ns).max()
    }

    /// Gaps that were not kept, because there were too many.
    #[must_use]
    pub fn missed(&self) -> u64 {
        locked(&self.records).missed
    }
}

fn wait(stop: &AtomicBool) {
    if !stop.load(Ordering::Relaxed) {
        thread::sleep(FETCH_INTERVAL);
    }
}

impl Records {
    fn note(&mut self, one: &Passed, longer_than_ns: u64) {
        let before = self.last_ns.insert(one.mac, one.at_ns);
        let Some(from_ns) = before else { return };
        let gap = HeartbeatGap { mac: one.mac, from_ns, to_ns: one.at_ns };
        if gap.length_ns() <= longer_than_ns {
            return;
        }
        if self.gaps.len() < GAPS_MAX {
            self.gaps.push(gap);
        } else {
            self.missed += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_kept_by_sender_and_only_long_ones() {
        let mut records = Records::default();
        for (mac, at_ns) in [(1, 0), (2, 5), (1, 10), (1, 35), (2, 36)] {
            records.note(&Passed { at_ns, mac: [mac; 6], payload_bytes: 88, kind: 1 }, 20);
        }
        let lengths: Vec<u64> = records.gaps.iter().map(HeartbeatGap::length_ns).collect();
        assert_eq!(lengths, [25, 31]);
        assert_eq!(records.last_ns[&[1; 6]], 35);
    }
}
