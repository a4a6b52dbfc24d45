//! `bench ladder`: one load after the other, each worse than the last; ours and other programs in turn
//! on the same loads for the same seconds. Counted: living nodes that are judged dead, addresses that
//! move. In between the owner may really die, and that has to be noticed all the same.

mod count;
mod deaths;
mod load;
mod ours;
mod step;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use ha_tests::clock::{as_ns, monotonic_ns, sleep_until_ns};
use ha_tests::observe::{StallRecorder, punctually};
use ha_tests::rogue::{Frame, Network, Rogue};

use crate::pair::{OWNER, Pair, SURVIVOR, Timing};
use crate::peers::{Peer, PeerName, provide};
use crate::report::{Figures, Report};
use crate::sample::Sample;
use count::{Count, Detail, Segment};
use load::{Frames, Loads, Target};
use ours::{Ours, node_pids};
use step::Step;

/// Bytes of a flood's datagram to another program: as long as one of ours.
const FLOOD_BYTES: usize = 88;
/// Who starts and ends loads must not be starved by them.
const CONDUCTOR_PRIORITY: u8 = step::SPINNER_PRIORITY + 1;
/// Verdicts that are told in words.
const VERDICTS_MAX: usize = 20;

/// Options of `bench ladder`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    timing: Timing,
    /// Seconds of each step, for each program
    #[arg(long, value_name = "NUMBER", default_value_t = 200)]
    step_seconds: u64,
    /// Minutes of all steps together, for each program; instead of the seconds of each
    #[arg(long, value_name = "NUMBER", conflicts_with = "step_seconds")]
    minutes: Option<u64>,
    /// Which steps, in this order
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Step::EVERY)]
    steps: Vec<Step>,
    /// Leave these programs out; `all`: ours alone
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    without: Vec<String>,
    /// Heartbeats on the dedicated network and the service network, or on the dedicated one alone
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=2), default_value_t = 2)]
    links: u8,
    /// Whether our nodes ask a silent peer's kernel before they judge it
    #[arg(long, value_enum)]
    ask: Option<Switch>,
    /// Whether our nodes judge nobody after they have not run themselves
    #[arg(long, value_enum)]
    own_pause: Option<Switch>,
    /// Real deaths of our owner, spread over the steps at random moments
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    deaths: usize,
    /// Frames of the flood in a second
    #[arg(long, value_name = "NUMBER", default_value_t = 50_000)]
    flood_rate: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

impl Options {
    fn step_length(&self) -> Duration {
        let seconds = self.minutes.map_or(self.step_seconds, |minutes| {
            (minutes * 60).div_ceil(self.steps.len().max(1) as u64)
        });
        Duration::from_secs(seconds)
    }

    /// Deaths of the step at that place: as many in each as it comes out, the rest in the first ones.
    fn deaths_of(&self, place: usize) -> usize {
        let steps = self.steps.len().max(1);
        self.deaths / steps + usize::from(place < self.deaths % steps)
    }

    fn peers(&self) -> Result<Vec<PeerName>> {
        let known =
            |name: &String| name == "all" || PeerName::ALL.iter().any(|peer| peer.name() == *name);
        if let Some(name) = self.without.iter().find(|name| !known(name)) {
            anyhow::bail!("--without {name}: there are keepalived, bfdd, heartbeat, and all");
        }
        let out = |peer: &PeerName| self.without.iter().any(|it| it == "all" || it == peer.name());
        Ok(PeerName::ALL.into_iter().filter(|peer| !out(peer)).collect())
    }

    /// `[detection]` of our configuration; empty when nothing was asked for.
    fn detection(&self) -> String {
        let keys = [("ask", self.ask), ("own_pause", self.own_pause)];
        let lines: String = keys
            .into_iter()
            .filter_map(|(key, switch)| Some(format!("{key} = {}\n", switch? == Switch::On)))
            .collect();
        if lines.is_empty() { lines } else { format!("\n[detection]\n{lines}") }
    }
}

/// The whole ladder under way.
struct Ladder<'a> {
    options: &'a Options,
    stalls: StallRecorder,
    ours: Ours,
    loads: Loads,
    /// Programs that still take part.
    peers: Vec<PeerName>,
    counts: Vec<(Step, &'static str, Count)>,
    details: Vec<(Step, Detail)>,
    deaths: Vec<Sample>,
}

/// Runs the benchmark.
pub(crate) fn run(options: &Options) -> Result<Report> {
    let mut report = Report::new("ladder");
    let peers = options.peers()?;
    let program = match provide("stress-ng", "stress-ng") {
        Ok(program) => Some(program),
        Err(error) => {
            report.notes.push(format!("SKIPPED every step that needs stress-ng: {error:#}"));
            None
        }
    };
    let stalls = StallRecorder::start()?;
    let mut plan = options.timing.plan();
    plan.web = false;
    plan.link_svc = options.links == 2;
    plan.more.push_str(&options.detection());
    let mut pair = Pair::build_plan(plan)?;
    let has_program = program.is_some();
    let loads = Loads::new(&mut pair, program, options.flood_rate)?;
    let ours = Ours::start(pair, &options.timing)?;
    settings(options, &ours, &stalls, &mut report)?;
    let mut ladder = Ladder {
        options,
        stalls,
        ours,
        loads,
        peers,
        counts: Vec::new(),
        details: Vec::new(),
        deaths: Vec::new(),
    };
    for (place, step) in options.steps.iter().enumerate() {
        if step.needs_program() && !has_program {
            continue;
        }
        let deaths = options.deaths_of(place);
        let done = punctually(CONDUCTOR_PRIORITY, || ladder.step(*step, deaths, &mut report));
        if let Err(error) = done {
            report.failures.push(format!("ended early, at {}: {error:#}", step.name()));
            break;
        }
    }
    ladder.tell(&mut report);
    ladder.ours.pair.finish()?;
    Ok(report)
}

fn settings(
    options: &Options,
    ours: &Ours,
    stalls: &StallRecorder,
    report: &mut Report,
) -> Result<()> {
    report.settings.push(("timing", options.timing.text()));
    report.settings.push(("step", humantime::format_duration(options.step_length()).to_string()));
    report.settings.extend(ours.pair.settings()?);
    report.settings.push(("stop recorder", stalls.scheduling().to_owned()));
    let detection = options.detection().replace("\n[detection]\n", "").trim().replace('\n', ", ");
    if !detection.is_empty() {
        report.settings.push(("[detection]", detection));
    }
    let flood = format!("{} frames/s, a wrong tag each, to both nodes", options.flood_rate);
    report.settings.push(("flood", flood));
    report.settings.push(("memory", step::memory_text()));
    Ok(())
}

impl Ladder<'_> {
    /// Ours, then every other program, under one load.
    fn step(&mut self, step: Step, deaths: usize, report: &mut Report) -> Result<()> {
        let length = self.options.step_length();
        eprintln!("{}: ours", step.name());
        let turn = self.ours.turn(step, length, deaths, &self.loads, &self.stalls)?;
        eprintln!("  {}", turn.count.text());
        for remark in &turn.remarks {
            report.notes.push(format!("{}, ours: {remark}", step.name()));
        }
        self.counts.push((step, "ours", turn.count));
        self.details.push((step, turn.detail));
        self.deaths.extend(turn.deaths);
        for name in self.peers.clone() {
            eprintln!("{}: {}", step.name(), name.name());
            match self.peer_turn(name, step, length, report) {
                Ok(count) => {
                    eprintln!("  {}", count.text());
                    self.counts.push((step, name.name(), count));
                }
                Err(error) => {
                    let what = format!("{} at {}: {error:#}", name.name(), step.name());
                    report.notes.push(format!("SKIPPED {what}"));
                }
            }
        }
        // Ours went through the loads of the others too.
        self.ours.settle()
    }

    /// Another program is there for its own turn only: one that flaps would disturb the others.
    fn peer_turn(
        &self,
        name: PeerName,
        step: Step,
        length: Duration,
        report: &mut Report,
    ) -> Result<Count> {
        let mut peer = name.start(&self.options.timing)?;
        if !report.settings.iter().any(|(known, _)| *known == name.name()) {
            report.settings.push((name.name(), peer.version().to_owned()));
        }
        let rogue = Arc::new(Rogue::join(&mut peer.pair_mut().cluster)?);
        let frames = peer_frames(name, peer.pair(), &rogue)?;
        let target = Target { pids: node_pids(peer.pair())?, flood: Some((&rogue, frames)) };
        let before = peer.verdicts()?;
        let load = self.loads.start(step, length, &self.ours.pair, &target)?;
        let from_ns = monotonic_ns();
        sleep_until_ns(from_ns + as_ns(length));
        let segment = Segment { from_ns, to_ns: monotonic_ns() };
        let outcome = load.stop()?;
        for remark in outcome.remarks_of(length) {
            report.notes.push(format!("{}, {}: {remark}", step.name(), name.name()));
        }
        let mut count = Count::default();
        count.observe(segment, peer.pair(), peer.moves_address(), &self.stalls);
        count.verdicts = self.peer_verdicts(&*peer)?.saturating_sub(before);
        peer.finish()?;
        Ok(count)
    }

    /// A starved program may not answer at once.
    fn peer_verdicts(&self, peer: &dyn Peer) -> Result<u64> {
        const TRIES: usize = 5;
        for _ in 1..TRIES {
            if let Ok(verdicts) = peer.verdicts() {
                return Ok(verdicts);
            }
            thread::sleep(Duration::from_secs(1));
        }
        peer.verdicts().context("after the load")
    }

    fn tell(&mut self, report: &mut Report) {
        let rows = |wanted: &dyn Fn(&str) -> bool| -> Vec<(String, Vec<String>)> {
            self.counts
                .iter()
                .filter(|(_, who, _)| wanted(who))
                .map(|(step, who, count)| (format!("{}: {who}", step.name()), count.cells()))
                .collect()
        };
        let mut sums: BTreeMap<&str, Count> = BTreeMap::new();
        for (_, who, count) in &self.counts {
            sums.entry(who).or_default().add(count);
        }
        let mut all = rows(&|_| true);
        all.extend(sums.iter().map(|(who, sum)| (format!("whole ladder: {who}"), sum.cells())));
        report.figures.push(Figures {
            title:
                "Mistakes while every node lives (every: >= N/3 at 95 % when there was none in N s)"
                    .to_owned(),
            columns: Count::COLUMNS.to_vec(),
            rows: all,
        });
        let keepalive = self.options.timing.keepalive;
        report.figures.push(Figures {
            title:
                "Ours in detail (both nodes together; gap: longest between heartbeats on the wire)"
                    .to_owned(),
            columns: Detail::COLUMNS.to_vec(),
            rows: self
                .details
                .iter()
                .map(|(step, detail)| (step.name().to_owned(), detail.cells(keepalive)))
                .collect(),
        });
        self.tell_kinds(report);
        self.tell_probes(report);
        let verdicts = self.details.iter().flat_map(|(step, detail)| {
            detail.verdicts.iter().map(|verdict| format!("{}: {verdict}", step.name()))
        });
        report.notes.extend(verdicts.take(VERDICTS_MAX).map(|it| format!("false verdict, {it}")));
        let addresses = self.details.iter().flat_map(|(step, detail)| {
            detail.addresses.iter().map(|told| format!("{}: {told}", step.name()))
        });
        report.notes.extend(addresses.take(VERDICTS_MAX));
        let ours = sums.get("ours");
        let wrong = ours.map_or(0, |sum| sum.verdicts);
        report.goal_none(
            "false verdicts of ours".to_owned(),
            usize::try_from(wrong).unwrap_or(usize::MAX),
        );
        let moved = ours.and_then(|sum| sum.moves).unwrap_or(0);
        report.goal_none(
            "moves of our address".to_owned(),
            usize::try_from(moved).unwrap_or(usize::MAX),
        );
        if !self.deaths.is_empty() {
            let samples = std::mem::take(&mut self.deaths);
            deaths::tell(samples, self.options.timing.deadtime, report);
        }
    }

    /// Every kind of event that there was, in every step.
    fn tell_kinds(&self, report: &mut Report) {
        let mut kinds: Vec<&str> =
            self.details.iter().flat_map(|(_, it)| it.kinds.keys().map(String::as_str)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let rows = kinds.into_iter().map(|kind| {
            let of = |detail: &Detail| detail.kinds.get(kind).copied().unwrap_or(0).to_string();
            (kind.to_owned(), self.details.iter().map(|(_, detail)| of(detail)).collect())
        });
        report.figures.push(Figures {
            title: "Events of ours by kind (both nodes, nobody having done anything to them)"
                .to_owned(),
            rows: rows.collect(),
            columns: self.details.iter().map(|(step, _)| step.word()).collect(),
        });
    }

    /// What the daemons count about questions to kernels: whatever the status has.
    fn tell_probes(&self, report: &mut Report) {
        let mut names: Vec<&str> =
            self.details.iter().flat_map(|(_, it)| it.probes.keys().map(String::as_str)).collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            report.notes.push("status --json counts no probes".to_owned());
            return;
        }
        let rows = self.details.iter().flat_map(|(step, detail)| {
            let shown = detail.probes.iter().filter(|(_, count)| **count > 0);
            shown.map(|(name, count)| (format!("{}: {name}", step.name()), vec![count.to_string()]))
        });
        report.figures.push(Figures {
            title: "Probes and answers by status --json (both nodes; none where no row is)"
                .to_owned(),
            columns: vec!["count"],
            rows: rows.collect(),
        });
    }
}

/// Datagrams to where a program expects its heartbeats, of no meaning to it.
fn peer_frames(name: PeerName, pair: &Pair, rogue: &Rogue) -> Result<Frames> {
    let (protocol, port) = name.heartbeats();
    let mut frames = Vec::new();
    for (from, to) in [(OWNER, SURVIVOR), (SURVIVOR, OWNER)] {
        let route = rogue.route(&pair.cluster, Network::Service, from, to)?;
        frames.push(Frame::udp(&route, &[0; FLOOD_BYTES]).addressed(protocol, port));
    }
    Ok(vec![(Network::Service, frames)])
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(words: &[&str]) -> Options {
        Line::parse_from([&["ladder"], words].concat()).options
    }

    #[test]
    fn all_steps_take_half_an_hour() {
        let options = options(&[]);
        assert_eq!(options.step_length() * 9, Duration::from_secs(30 * 60));
        assert_eq!(options.peers().unwrap(), PeerName::ALL);
        assert_eq!(options.detection(), "");
    }

    #[test]
    fn deaths_spread_over_the_steps() {
        let options = options(&["--deaths", "50", "--without", "all", "--minutes", "9"]);
        let all: usize = (0..9).map(|place| options.deaths_of(place)).sum();
        assert_eq!((all, options.deaths_of(0), options.deaths_of(8)), (50, 6, 5));
        assert!(options.peers().unwrap().is_empty());
        assert_eq!(options.step_length(), Duration::from_secs(60));
    }

    #[test]
    fn switches_are_written_as_they_are_given() {
        let options = options(&["--ask", "off", "--own-pause", "on", "--without", "bfdd"]);
        assert_eq!(options.detection(), "\n[detection]\nask = false\nown_pause = true\n");
        assert_eq!(options.peers().unwrap(), [PeerName::Keepalived, PeerName::Heartbeat]);
    }
}
