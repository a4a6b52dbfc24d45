//! Our pair on the ladder: it runs from the beginning to the end, and is struck dead in between where
//! that is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ha_common::wire::{Header, Kind};
use ha_tests::bed::{Event, Processes};
use ha_tests::clock::{as_ns, monotonic_ns, sleep_until_ns};
use ha_tests::observe::{Asker, HeartbeatWatch, LockRecorder, StallRecorder, at_priority};
use ha_tests::rogue::{Frame, Network, Rogue, Tap, signed, wrong_key};

use super::count::{Count, Detail, Segment, known_gap_ns, probe_numbers};
use super::deaths::{ADDRESS, AFTER_LAST, ANSWERED, SILENCE, VERDICT};
use super::load::{Frames, Loads, Target};
use super::step::{SPINNER_PRIORITY, Step};
use crate::fault::Fault;
use crate::pair::{OWNER, Pair, SURVIVOR, Strike, Timing, VERDICTS, at_random};
use crate::random::Random;
use crate::sample::Sample;

/// Between two questions for the address.
const ASK_INTERVAL: Duration = Duration::from_micros(250);
/// Questions to the daemon are asked from above the spinners, or they would wait for a second.
const ASK_PRIORITY: u8 = SPINNER_PRIORITY + 1;
/// How often events are fetched: the daemon keeps the last 1,000.
const FETCH_INTERVAL: Duration = Duration::from_secs(10);
/// How long that may take for both nodes, their daemons being starved.
const FETCH_TIME_MAX: Duration = Duration::from_secs(20);
/// How long a load outlasts the moment of a death: until the old owner's events were fetched and the
/// survivor has had its time.
const STRIKE_TIME_MAX: Duration = Duration::from_secs(60);
/// How long the survivor may take to carry the address.
const TAKEOVER_TIME_MAX: Duration = Duration::from_secs(10);
/// What follows the address is recorded by then.
const AFTERMATH: Duration = Duration::from_millis(200);
/// How long the pair may take to be whole again, the load being gone.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(90);
/// How long a load runs before the first death and at least between two.
const DEATH_PAUSE: Duration = Duration::from_secs(1);
/// Sequence numbers of the flood are this far ahead, so that each of its packets is checked for its
/// tag.
const SEQUENCES_AHEAD: u64 = 1 << 40;
const HEARTBEAT_TIME_MAX: Duration = Duration::from_secs(10);
const FLOATING: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);

/// Our pair.
pub(super) struct Ours {
    pub(super) pair: Pair,
    rogue: Arc<Rogue>,
    watch: HeartbeatWatch,
    timing: Timing,
    random: Random,
    /// Events that were seen, by node: when and their number, since numbers begin anew with a daemon.
    seen: BTreeMap<String, BTreeSet<(u64, u64)>>,
    /// Events that have not been counted yet.
    fresh: Vec<(String, Event)>,
    missed: u64,
}

/// One step of ours.
pub(super) struct Turn {
    pub(super) count: Count,
    pub(super) detail: Detail,
    pub(super) deaths: Vec<Sample>,
    pub(super) remarks: Vec<String>,
}

impl Ours {
    /// Takes over a pair whose daemons do not run, and starts them.
    pub(super) fn start(mut pair: Pair, timing: &Timing) -> Result<Self> {
        let rogue = Arc::new(Rogue::join(&mut pair.cluster)?);
        let mut macs = Vec::new();
        for node in [OWNER, SURVIVOR] {
            for interface in ["hb0", "eth0"] {
                macs.push(pair.cluster.bed.mac(node, interface)?.to_owned());
            }
        }
        pair.cluster.start().context("the pair does not come up")?;
        pair.settle()?;
        let known_gap = Duration::from_nanos(known_gap_ns(timing.keepalive));
        let watch = HeartbeatWatch::start(&pair.cluster.bed.switch(), macs, known_gap)?;
        let mut ours = Self {
            pair,
            rogue,
            watch,
            timing: timing.clone(),
            random: Random::new(),
            seen: BTreeMap::new(),
            fresh: Vec::new(),
            missed: 0,
        };
        ours.fetch()?;
        Ok(ours)
    }

    /// Runs one step for `length`, with so many real deaths at random moments of it.
    pub(super) fn turn(
        &mut self,
        step: Step,
        length: Duration,
        deaths: usize,
        loads: &Loads,
        stalls: &StallRecorder,
    ) -> Result<Turn> {
        self.fetch()?;
        self.fresh.clear();
        self.missed = 0;
        let before = self.probe_numbers()?;
        let mut turn = Turn {
            count: Count { moves: Some(0), ..Count::default() },
            detail: Detail::default(),
            deaths: Vec::new(),
            remarks: Vec::new(),
        };
        let mut segments = Vec::new();
        let mut left = length;
        for place in 0..=deaths {
            // Deaths spread over the step; each within its own part of what is left.
            let part = left / u32::try_from(deaths + 1 - place)?;
            let run = if place == deaths { left } else { self.within(part) };
            let segment = self.run(step, run, place < deaths, loads, stalls, &mut turn)?;
            turn.count.observe(segment, &self.pair, true, stalls);
            turn.detail.observe(segment, &self.watch);
            left = left.saturating_sub(Duration::from_nanos(segment.to_ns - segment.from_ns));
            segments.push(segment);
        }
        self.fetch()?;
        for (node, event) in std::mem::take(&mut self.fresh) {
            turn.count.verdicts += u64::from(turn.detail.note(&node, &event, &segments));
        }
        turn.detail.missed = self.missed;
        for (name, now) in self.probe_numbers()? {
            let then = before.get(&name).copied().unwrap_or(0);
            turn.detail.probes.insert(name, now.saturating_sub(then));
        }
        Ok(turn)
    }

    /// A random time within `part`, not at its very beginning.
    fn within(&mut self, part: Duration) -> Duration {
        DEATH_PAUSE + self.random.below(part.saturating_sub(DEATH_PAUSE))
    }

    /// Runs the load for `length`; then the owner dies, if it shall. Ends with the load gone and the
    /// pair whole.
    fn run(
        &mut self,
        step: Step,
        length: Duration,
        dies: bool,
        loads: &Loads,
        stalls: &StallRecorder,
        turn: &mut Turn,
    ) -> Result<Segment> {
        let processes = self.pair.cluster.node(OWNER)?.processes()?;
        // Of the starts that speak now: those of an older one are refused before their tag is looked at.
        let flood = step.has(Step::Flood).then(|| flood_frames(&self.pair, &self.rogue));
        let flood = flood.transpose()?.map(|frames| (&self.rogue, frames));
        let target = Target { pids: node_pids(&self.pair)?, flood };
        let load = loads.start(step, length + STRIKE_TIME_MAX, &self.pair, &target)?;
        let from_ns = monotonic_ns();
        self.watch_until(from_ns + as_ns(length));
        let to_ns = monotonic_ns();
        let mut sample = None;
        if dies && self.pair.whole() {
            sample = Some(self.strike(step, &processes)?);
        } else if dies {
            turn.remarks.push("a death was left out: the group was not on its owner".to_owned());
        }
        let outcome = load.stop()?;
        let length = Duration::from_nanos(monotonic_ns().saturating_sub(from_ns));
        turn.remarks.extend(outcome.remarks_of(length));
        if let Some((strike, mut sample, locks)) = sample {
            self.judge(strike, &mut sample, &locks, stalls)?;
            sample.run = turn.deaths.len() + 1;
            eprintln!("{}", sample.text());
            turn.deaths.push(sample);
            Fault::Power.repair(&mut self.pair.cluster)?;
        }
        self.settle()?;
        Ok(Segment { from_ns, to_ns })
    }

    fn watch_until(&mut self, until_ns: u64) {
        loop {
            let left_ns = until_ns.saturating_sub(monotonic_ns());
            if left_ns == 0 {
                return;
            }
            if left_ns < as_ns(FETCH_INTERVAL + FETCH_TIME_MAX) {
                sleep_until_ns(until_ns);
                continue;
            }
            sleep_until_ns(monotonic_ns() + as_ns(FETCH_INTERVAL));
            // A daemon that is too busy to answer is asked again.
            let _ = self.fetch();
        }
    }

    /// Kills the owner for real, waits for the address, and leaves the rest to [`Ours::judge`].
    fn strike(
        &mut self,
        step: Step,
        processes: &Processes,
    ) -> Result<(Strike, Sample, (LockRecorder, Asker))> {
        // What the daemon is about to forget with its death.
        let _ = self.fetch();
        let bed = &self.pair.cluster.bed;
        let client = self.pair.cluster.client()?;
        let asker = Asker::start(&client, "eth0", FLOATING.into(), ASK_INTERVAL)?;
        let locks = LockRecorder::start(&bed.switch())?;
        let phase = self.random.below(self.timing.keepalive);
        let strike = at_random(phase, || Fault::Power.inject(&self.pair.cluster, processes))?;
        let pair = &self.pair;
        let came = at_priority(ASK_PRIORITY, || {
            let came = pair.survivor.wait(pair.floating, true, TAKEOVER_TIME_MAX);
            thread::sleep(AFTERMATH);
            Ok(came)
        })?;
        let remarks = came.err().map(|error| format!("{error:#}")).into_iter().collect();
        let sample = Sample {
            case: step.name().to_owned(),
            run: 0,
            at_ns: strike.at_ns,
            fault_ns: strike.fault_ns,
            values: Vec::new(),
            stalls: Vec::new(),
            lock_waits: Vec::new(),
            remarks,
        };
        Ok((strike, sample, (locks, asker)))
    }

    /// Asks the survivor what it made of a death, the load being gone.
    fn judge(
        &self,
        strike: Strike,
        sample: &mut Sample,
        (locks, asker): &(LockRecorder, Asker),
        stalls: &StallRecorder,
    ) -> Result<()> {
        let at_ns = strike.at_ns;
        let bed = &self.pair.cluster.bed;
        let verdict = self.verdict(at_ns)?;
        let verdict_ns = verdict.as_ref().map(|event| event.monotonic_ns);
        let added_ns = self.pair.survivor.first_added(self.pair.floating, at_ns);
        let answers = asker.answers_of(bed.mac(SURVIVOR, "eth0")?, at_ns);
        let answered_ns = answers.first().map(|told| told.at_ns);
        let last_ns = self.watch.last_ns(&[bed.mac(OWNER, "hb0")?, bed.mac(OWNER, "eth0")?]);
        let after = |from_ns: Option<u64>, to_ns: Option<u64>| to_ns?.checked_sub(from_ns?);
        sample.values = vec![
            (VERDICT, after(Some(at_ns), verdict_ns)),
            (AFTER_LAST, after(last_ns, verdict_ns)),
            (ADDRESS, after(verdict_ns, added_ns)),
            (ANSWERED, after(verdict_ns, answered_ns)),
            (SILENCE, after(Some(at_ns), answered_ns)),
        ];
        if let Some(event) = verdict.filter(|event| event.kind != VERDICTS[0]) {
            sample.remarks.push(event.kind);
        }
        let to_ns = answered_ns.or(added_ns).or(verdict_ns).unwrap_or_else(monotonic_ns);
        sample.observe_stalls(
            stalls,
            at_ns.saturating_sub(2 * as_ns(self.timing.keepalive)),
            to_ns,
        );
        sample.observe_lock(locks, verdict_ns.unwrap_or(at_ns), to_ns);
        Ok(())
    }

    /// A daemon that was starved until now may not answer at once.
    fn verdict(&self, at_ns: u64) -> Result<Option<Event>> {
        let deadline = Instant::now() + FETCH_TIME_MAX;
        loop {
            match self.pair.verdict(at_ns) {
                Err(_) if Instant::now() < deadline => {}
                told => return told,
            }
        }
    }

    /// Waits until the pair is whole, as often as it takes.
    pub(super) fn settle(&self) -> Result<()> {
        let deadline = Instant::now() + SETTLE_TIME_MAX;
        loop {
            match self.pair.settle() {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Fetches events that have not been seen.
    fn fetch(&mut self) -> Result<()> {
        for node in &self.pair.cluster.nodes {
            let events = at_priority(ASK_PRIORITY, || node.events())?;
            let seen = self.seen.entry(node.name().to_owned()).or_default();
            if let (Some(newest), Some(oldest)) = (seen.last(), events.first())
                && oldest.monotonic_ns > newest.0
                && oldest.id > newest.1 + 1
            {
                self.missed += oldest.id - newest.1 - 1;
            }
            for event in events {
                if seen.insert((event.monotonic_ns, event.id)) {
                    self.fresh.push((node.name().to_owned(), event));
                }
            }
        }
        Ok(())
    }

    fn probe_numbers(&self) -> Result<BTreeMap<String, u64>> {
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        for node in &self.pair.cluster.nodes {
            for (name, number) in probe_numbers(&node.status()?.raw) {
                *sums.entry(name).or_default() += number;
            }
        }
        Ok(sums)
    }
}

/// Every process of the two nodes.
pub(super) fn node_pids(pair: &Pair) -> Result<Vec<i32>> {
    let mut pids = Vec::new();
    for node in [OWNER, SURVIVOR] {
        pids.extend(pair.cluster.node(node)?.netns().processes());
    }
    Ok(pids)
}

/// Heartbeats of each node to the other on each network that carries any, with a wrong tag: the kernel
/// side does for them all that it does for a good one.
fn flood_frames(pair: &Pair, rogue: &Rogue) -> Result<Frames> {
    let tap = Tap::open(&pair.cluster.bed)?;
    let plan = &pair.cluster.plan;
    let networks = [(Network::Heartbeat, plan.link_hb), (Network::Service, plan.link_svc)];
    let mut frames = Vec::new();
    for (network, _) in networks.into_iter().filter(|(_, wanted)| *wanted) {
        let mut of_network = Vec::new();
        for (from, to, names) in [(1, 2, (OWNER, SURVIVOR)), (2, 1, (SURVIVOR, OWNER))] {
            let (from, to) = (network.address(from), network.address(to));
            let heard = tap.take_kind(Kind::Heartbeat, from, to, 1, HEARTBEAT_TIME_MAX)?;
            let Some(header) = heard.first().and_then(Frame::header) else {
                bail!("a heartbeat from {from} to {to} has no header");
            };
            let header = Header { sequence: header.sequence + SEQUENCES_AHEAD, ..header };
            let route = rogue.route(&pair.cluster, network, names.0, names.1)?;
            of_network.push(Frame::udp(&route, &signed(&header, &wrong_key(), &[])));
        }
        frames.push((network, of_network));
    }
    Ok(frames)
}
