//! `deadtime = "auto"`: how long the silence of a path must last before it means something, by what
//! arrived on it.
//!
//! In the spirit of 2W-FD (Tomsic, Sens, Garcia, Arantes, Sopena: "2W-FD: A Failure Detector Algorithm
//! with QoS", IPDPS 2015): two windows, a short and a long one, and the larger of what either needs. Each
//! keeps the longest gap, not a mean: gaps have heavy tails (a virtual CPU that stops), and a
//! distribution that is fitted to them, as phi-accrual does, promises what it cannot keep. For a gap
//! of the long window the margin is that of the advice; one of the short window may double before it is
//! a mistake, since what has just become worse may go on to.
//!
//! It rises at once, and comes down slowly, while heartbeats arrive and both windows need less. As
//! long as too little was seen it is the longest that is allowed. It changes what
//! silence means from then on, and no state by itself.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Core;
use super::io::Arrived;
use super::peer::Peer;
use super::time::{Moment, milliseconds, nanoseconds};
use crate::advice::{GAPS_MIN, MARGIN, OBSERVED_MIN, needed_ns};
use crate::config::{Config, LinkIndex, NodeIndex, Times};
use crate::snapshot::{LinkState, Severity};

/// Windows are remembered by spans of that time.
const SHORT_SPAN: Duration = Duration::from_secs(60);
const SHORT_SPANS: usize = 10;
/// The load of a machine has the period of a day (a backup at night).
const LONG_SPAN: Duration = Duration::from_secs(3600);
const LONG_SPANS: usize = 25;
/// The margin over the longest gap of the short window, see [`MARGIN`].
const SHORT_MARGIN: (u64, u64) = (2, 1);
/// Of heartbeats that arrive in time it comes down by its `1 / e`th in that time: by half in three minutes.
const FALL_TIME: Duration = Duration::from_secs(256);
/// A path that was not heard for that long is learnt anew.
const FORGET: Duration = Duration::from_secs(SHORT_SPAN.as_secs() * SHORT_SPANS as u64);
/// A change by more than that share of what was told last is told.
const TOLD_SHARE: u64 = 4;

/// The longest gap of the last `SPANS` spans of time, the present one included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window<const SPANS: usize> {
    /// By number of the span, modulo their number.
    longest_ns: [u64; SPANS],
    /// Number of the newest one.
    newest: u64,
}

impl<const SPANS: usize> Window<SPANS> {
    const EMPTY: Self = Self { longest_ns: [0; SPANS], newest: 0 };

    /// Forgets what is too old at `now`, and takes note of a gap.
    fn note(&mut self, gap_ns: u64, now: Moment, span: Duration) {
        let number = now.0 / nanoseconds(span).max(1) as u64;
        let passed = number.saturating_sub(self.newest).min(SPANS as u64);
        for step in 1..=passed {
            self.longest_ns[((self.newest + step) % SPANS as u64) as usize] = 0;
        }
        if passed == SPANS as u64 {
            self.longest_ns = [0; SPANS];
        }
        self.newest = self.newest.max(number);
        let present = &mut self.longest_ns[(self.newest % SPANS as u64) as usize];
        *present = gap_ns.max(*present);
    }

    fn longest_ns(&self) -> u64 {
        self.longest_ns.iter().copied().max().unwrap_or(0)
    }

    fn remember(&self) -> (u64, Vec<u64>) {
        (self.newest, self.longest_ns.to_vec())
    }

    /// Of another version, with another number of spans, the longest one counts as new.
    fn resume((newest, spans): (u64, Vec<u64>)) -> Self {
        let longest = spans.iter().copied().max().unwrap_or(0);
        let longest_ns = spans.try_into().unwrap_or_else(|_| {
            let mut spans = [0; SPANS];
            spans[(newest % SPANS as u64) as usize] = longest;
            spans
        });
        Self { longest_ns, newest }
    }
}

/// What is known of the gaps on one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Estimator {
    keepalive_us: u64,
    gaps: u64,
    observed_ns: u64,
    heard_at: Moment,
    short: Window<SHORT_SPANS>,
    long: Window<LONG_SPANS>,
    /// What it is now, bounds left out; `None`: too little was seen.
    deadtime_ns: Option<u64>,
    /// What was told last.
    told_ns: Option<u64>,
}

/// An [`Estimator`] in a hand-over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EstimatorMemory {
    keepalive_us: u64,
    gaps: u64,
    observed_ns: u64,
    heard_at: Moment,
    short: (u64, Vec<u64>),
    long: (u64, Vec<u64>),
    deadtime_ns: Option<u64>,
    told_ns: Option<u64>,
}

impl Estimator {
    fn new(keepalive_us: u64) -> Self {
        Self {
            keepalive_us,
            gaps: 0,
            observed_ns: 0,
            heard_at: Moment::default(),
            short: Window::EMPTY,
            long: Window::EMPTY,
            deadtime_ns: None,
            told_ns: None,
        }
    }

    /// Learns what arrived. `times` as configured; `may_fall`: the link is heard in time.
    fn learn(&mut self, arrived: &Arrived, times: Times, may_fall: bool, now: Moment) {
        if self.is_forgotten(now) || self.keepalive_us != arrived.keepalive_us {
            // What was told stays: what follows is a change of that.
            *self = Self { told_ns: self.told_ns, ..Self::new(arrived.keepalive_us) };
        }
        self.heard_at = now;
        self.gaps = self.gaps.saturating_add(arrived.gaps);
        self.observed_ns = self.observed_ns.saturating_add(arrived.observed_ns);
        let gap_ns = arrived.gap_ns();
        self.short.note(gap_ns, now, SHORT_SPAN);
        self.long.note(gap_ns, now, LONG_SPAN);
        let observed_min_ns = nanoseconds(OBSERVED_MIN) as u64;
        if self.gaps < GAPS_MIN || self.observed_ns < observed_min_ns {
            return;
        }
        let (min_ns, max_ns) = bounds_ns(times);
        let needed_ns = self.needed_ns().max(min_ns).min(max_ns);
        let before_ns = self.deadtime_ns.unwrap_or(max_ns).min(max_ns);
        let share = arrived.observed_ns.min(nanoseconds(FALL_TIME) as u64);
        let fall_ns = (u128::from(before_ns) * u128::from(share) / FALL_TIME.as_nanos()) as u64;
        let fallen_ns = if may_fall { before_ns - fall_ns } else { before_ns };
        self.deadtime_ns = Some(fallen_ns.max(needed_ns));
    }

    /// The larger of what either window needs.
    fn needed_ns(&self) -> u64 {
        let keepalive_ns = self.keepalive_us * 1_000;
        let short_ns = needed_ns(self.short.longest_ns(), keepalive_ns, SHORT_MARGIN);
        short_ns.max(needed_ns(self.long.longest_ns(), keepalive_ns, MARGIN))
    }

    /// Whether enough was seen.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.deadtime_ns.is_some()
    }

    /// The longest gaps of the short and of the long window, nanoseconds.
    #[must_use]
    pub fn longest_ns(&self) -> (u64, u64) {
        (self.short.longest_ns(), self.long.longest_ns())
    }

    /// The times that hold.
    fn times(&self, configured: Times) -> Times {
        match self.deadtime_ns {
            Some(deadtime_ns) => configured.with_deadtime(Duration::from_nanos(deadtime_ns)),
            None => configured.with_deadtime(configured.deadtime),
        }
    }

    /// What it was and is, if that has changed by so much that it is to be told.
    fn news(&mut self, times: Times) -> Option<(u64, u64)> {
        let is_ns = self.times(times).deadtime.as_nanos() as u64;
        let was_ns = self.told_ns.unwrap_or(bounds_ns(times).1);
        (is_ns.abs_diff(was_ns) > was_ns / TOLD_SHARE).then(|| {
            self.told_ns = Some(is_ns);
            (was_ns, is_ns)
        })
    }

    pub(super) fn remember(&self) -> EstimatorMemory {
        let Self { keepalive_us, gaps, observed_ns, heard_at, .. } = *self;
        let Self { short, long, deadtime_ns, told_ns, .. } = self;
        EstimatorMemory {
            keepalive_us,
            gaps,
            observed_ns,
            heard_at,
            short: short.remember(),
            long: long.remember(),
            deadtime_ns: *deadtime_ns,
            told_ns: *told_ns,
        }
    }

    /// Nothing, when it is from too long ago.
    pub(super) fn resume(memory: EstimatorMemory, now: Moment) -> Option<Self> {
        let EstimatorMemory { keepalive_us, gaps, observed_ns, heard_at, .. } = memory;
        let EstimatorMemory { short, long, deadtime_ns, told_ns, .. } = memory;
        let (short, long) = (Window::resume(short), Window::resume(long));
        let it =
            Self { keepalive_us, gaps, observed_ns, heard_at, short, long, deadtime_ns, told_ns };
        (!it.is_forgotten(now)).then_some(it)
    }

    fn is_forgotten(&self, now: Moment) -> bool {
        now.since(self.heard_at) > nanoseconds(FORGET)
    }
}

fn bounds_ns(times: Times) -> (u64, u64) {
    (times.deadtime_min().as_nanos() as u64, times.deadtime.as_nanos() as u64)
}

impl Peer {
    /// How long silence may last on a link at present.
    #[must_use]
    pub fn times(&self, config: &Config, link: LinkIndex) -> Times {
        let times = config.times(link);
        let known = self.estimators.get(&link).filter(|_| times.auto.is_some());
        known.map_or_else(|| times.with_deadtime(times.deadtime), |it| it.times(times))
    }

    /// The deadtimes of its links at present.
    pub(super) fn deadtimes(&self, config: &Config) -> impl Iterator<Item = Duration> {
        self.links.keys().map(|link| self.times(config, *link).deadtime)
    }
}

impl Core {
    /// Learns how long the gaps were on paths whose deadtime follows them.
    pub(super) fn arrived(&mut self, all: &[Arrived], now: Moment) {
        for arrived in all {
            let Some(peer) = self.peers.get_mut(&arrived.peer) else { continue };
            let times = self.config.times(arrived.link);
            let Some(detector) = peer.links.get(&arrived.link) else { continue };
            // A restart in place was told of, and its silence excused.
            let excused = peer.restart.is_some() || peer.resumed_at.since(arrived.since) > 0;
            if times.auto.is_none() || excused || arrived.gaps == 0 {
                continue;
            }
            let may_fall = detector.state() == LinkState::Up;
            let estimators = &mut peer.estimators;
            let known = estimators
                .entry(arrived.link)
                .or_insert_with(|| Estimator::new(arrived.keepalive_us));
            known.learn(arrived, times, may_fall, now);
            let news = known.news(times);
            let longest = known.is_settled().then(|| known.longest_ns());
            if let Some(news) = news {
                self.note_deadtime((arrived.peer, arrived.link), news, longest);
            }
        }
    }

    fn note_deadtime(
        &mut self,
        (node, link): (NodeIndex, LinkIndex),
        (was_ns, is_ns): (u64, u64),
        longest_ns: Option<(u64, u64)>,
    ) {
        let shown = |ns: u64| milliseconds(ns as i64);
        let why = match longest_ns {
            None => "too little has been seen since it changed or was away".to_owned(),
            Some((short_ns, long_ns)) => format!(
                "the longest gap was {} in {} min, {} in {} h",
                shown(short_ns),
                SHORT_SPAN.as_secs() * SHORT_SPANS as u64 / 60,
                shown(long_ns),
                LONG_SPAN.as_secs() * (LONG_SPANS as u64 - 1) / 3600,
            ),
        };
        let text = format!(
            "deadtime of {} is now {}, was {}: {why}",
            self.link_name(node, link),
            shown(is_ns),
            shown(was_ns),
        );
        self.link_note(Severity::Info, "deadtime", node, link, text);
    }
}

#[cfg(test)]
mod tests;
