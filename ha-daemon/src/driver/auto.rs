//! `deadtime = "auto"`, the driver's part: tells the core how long the gaps on a path were, and has what
//! follows from it hold for the timers in the kernel and for the sense of this node's own pauses.
//!
//! A gap is what the judge counted: the difference of two states of the path's histogram, so that nothing has
//! to be set back where a program counts at the same time.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ha_common::arrivals::Arrivals;
use ha_common::buckets::BUCKETS;

use super::{Driver, arrivals};
use crate::config::{LinkIndex, Times};
use crate::core::io::{Arrived, Input};
use crate::core::peer::Peer;
use crate::core::time::Moment;
use crate::histogram::Histogram;
use crate::snapshot::{AutoStatus, LinkState};

/// Pause between two looks.
const LOOK_INTERVAL_NS: u64 = 1_000_000_000;
/// Pause before a look at a gap that was long enough to be late.
const LOOK_AGAIN_NS: u64 = 100_000_000;

/// What a path had counted at the last look.
#[derive(Debug, Clone, Copy)]
struct Counted {
    at_ns: u64,
    keepalive_us: u64,
    observed_ns: u64,
    intervals: [u64; BUCKETS],
}

impl Counted {
    /// What came in since, if both are of one count: the daemon begins anew where a peer changes its keepalive.
    fn until(&self, now: &Arrivals) -> Option<(u64, u64, [u64; 2])> {
        let mut gaps = 0;
        for (before, after) in self.intervals.iter().zip(&now.intervals) {
            gaps += after.checked_sub(*before)?;
        }
        let observed_ns = now.observed_ns.checked_sub(self.observed_ns)?;
        let longest_ns =
            Histogram(&now.intervals).longest_since(&self.intervals, now.longest_gap_ns);
        (self.keepalive_us == now.keepalive_us).then_some((gaps, observed_ns, longest_ns))
    }
}

/// Longest pauses of this node, nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Pauses {
    /// Of any kind.
    any_ns: u64,
    /// In which softirqs did not run.
    softirqs_ns: u64,
}

impl Pauses {
    fn max(self, other: Self) -> Self {
        Self {
            any_ns: self.any_ns.max(other.any_ns),
            softirqs_ns: self.softirqs_ns.max(other.softirqs_ns),
        }
    }
}

/// What the driver knows of gaps.
#[derive(Debug)]
pub(super) struct Gaps {
    /// By slot.
    counted: Vec<Option<Box<Counted>>>,
    looked_ns: u64,
    /// A path was late and is heard again.
    is_back: bool,
    /// Since the last look, and between the last two: a gap ends with the first heartbeat after the pause
    /// that made it.
    pauses: [Pauses; 2],
}

impl Gaps {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            counted: vec![None; slots],
            looked_ns: 0,
            is_back: false,
            pauses: [Pauses::default(); 2],
        }
    }

    /// Takes note of a pause of this node: of the daemon, and of softirqs.
    pub(super) fn note_pause(&mut self, own: Option<i64>, softirqs: Option<i64>) {
        let ns = |it: Option<i64>| it.map_or(0, |it| it.max(0) as u64);
        let noticed = Pauses { any_ns: ns(own).max(ns(softirqs)), softirqs_ns: ns(softirqs) };
        self.pauses[0] = self.pauses[0].max(noticed);
    }

    /// Takes note of a heartbeat on a link of that peer.
    pub(super) fn heard(&mut self, peer: Option<&Peer>, link: LinkIndex) {
        let state = peer.and_then(|peer| peer.links.get(&link)).map(|it| it.state());
        self.is_back |= matches!(state, Some(LinkState::Late | LinkState::Dead));
    }

    /// Whether a look is due; then the pauses that matter for it.
    fn look(&mut self, now_ns: u64) -> Option<Pauses> {
        let pause_ns = if self.is_back { LOOK_AGAIN_NS } else { LOOK_INTERVAL_NS };
        if now_ns < self.looked_ns.saturating_add(pause_ns) {
            return None;
        }
        (self.looked_ns, self.is_back) = (now_ns, false);
        let [newer, older] = self.pauses;
        self.pauses = [Pauses::default(), newer];
        Some(newer.max(older))
    }
}

impl Driver {
    /// How long silence may last on a path at present.
    pub(super) fn times(&self, slot: usize) -> Times {
        let (config, path) = (&self.parts.config, &self.parts.paths[slot]);
        let configured = || config.times(path.link);
        let peer = self.core.peers().get(&path.peer);
        peer.map_or_else(configured, |peer| peer.times(config, path.link))
    }

    /// Tells the core of the gaps on the paths whose deadtime follows them.
    pub(super) fn look_at_gaps(&mut self, now_ns: u64) {
        let Some(pauses) = self.auto.look(now_ns) else { return };
        let mut all = Vec::new();
        for slot in 0..self.parts.paths.len() {
            let link = self.parts.paths[slot].link;
            if self.parts.config.times(link).auto.is_some() {
                all.extend(self.gaps(slot, pauses, now_ns));
            }
        }
        if all.is_empty() {
            return;
        }
        let before: Vec<Times> = (0..self.parts.paths.len()).map(|slot| self.times(slot)).collect();
        self.handle(Input::Arrived(all));
        let is_other = |(slot, before): (usize, &Times)| self.times(slot) != *before;
        if before.iter().enumerate().any(is_other) {
            self.renew_limits();
            self.renew_watch_times();
        }
    }

    /// The gaps on a path since the last look.
    fn gaps(&mut self, slot: usize, pauses: Pauses, now_ns: u64) -> Option<Arrived> {
        let now = arrivals(&self.parts, slot)?;
        let counted = Counted {
            at_ns: now_ns,
            keepalive_us: now.keepalive_us,
            observed_ns: now.observed_ns,
            intervals: now.intervals,
        };
        let before = self.auto.counted[slot].replace(Box::new(counted))?;
        let (gaps, observed_ns, longest_ns) = before.until(&now)?;
        // What a program stamps, or the kernel behind a socket, is stamped in softirq: a daemon that does not run
        // makes no gap. Without a timer there, nothing tells the one from the other.
        let watched = self.is_watched(slot);
        let path = &self.parts.paths[slot];
        (gaps != 0 && now.keepalive_us != 0).then_some(Arrived {
            peer: path.peer,
            link: path.link,
            since: Moment(before.at_ns),
            keepalive_us: now.keepalive_us,
            gaps,
            observed_ns,
            longest_ns,
            paused_ns: if watched { pauses.softirqs_ns } else { pauses.any_ns },
        })
    }

    /// A pause of this node is what is longer than a quarter of the shortest deadtime.
    pub(super) fn renew_limits(&mut self) {
        let paths = 0..self.parts.paths.len();
        let shortest = paths.map(|slot| self.times(slot).deadtime).min();
        let limit: Duration = shortest.unwrap_or(self.parts.config.cluster.deadtime) / 4;
        self.parts.pause = limit;
        self.own_pause.set_limit(limit);
        self.parts.shared.pause_limit_ns.store(limit.as_nanos() as u64, Relaxed);
    }

    /// What is shown of a path whose deadtime follows what arrives.
    pub(super) fn auto_status(&self, slot: usize) -> Option<AutoStatus> {
        let path = &self.parts.paths[slot];
        let times = self.parts.config.times(path.link);
        let auto = times.auto?;
        let peer = self.core.peers().get(&path.peer)?;
        let known = peer.estimators.get(&path.link);
        let (short_ns, long_ns) = known.map_or((0, 0), |it| it.longest_ns());
        Some(AutoStatus {
            min_us: auto.min.as_micros() as u64,
            max_us: times.deadtime.as_micros() as u64,
            settled: known.is_some_and(|it| it.is_settled()),
            longest_lately_us: short_ns / 1_000,
            longest_us: long_ns / 1_000,
        })
    }
}
