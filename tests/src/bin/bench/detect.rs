//! `bench detect`: from a fault to the survivor's verdict, and what follows it.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use ha_tests::bed::Event;
use ha_tests::clock::{MS_NS, as_ns, monotonic_ns};
use ha_tests::observe::{LockRecorder, StallRecorder, Tap};

use crate::fault::Fault;
use crate::pair::{OWNER, Pair, SURVIVOR, Series, Strike, Timing};
use crate::quiet;
use crate::random::Random;
use crate::report::Report;
use crate::sample::{Sample, quiet_values};

/// Verdict: at most so long after it was due.
const LATENESS_MAX_NS: u64 = MS_NS / 2;
/// Address: at most so long after the verdict.
const ADDRESS_MAX_NS: u64 = MS_NS;
/// How long the survivor may take before the run counts as one without a verdict.
const VERDICT_TIME_MAX: Duration = Duration::from_secs(3);
/// After the address came: what follows it is recorded by then, a stop of the CPU too.
const AFTERMATH: Duration = Duration::from_millis(100);
/// Runs that may be repeated because the pair was not whole when they began.
const VOID_MAX: usize = 20;

const VERDICT: &str = "fault to verdict";
const LATENESS: &str = "verdict after it was due";
const LATENESS_SEEN: &str = "the same by the switch's stamps";
const ADDRESS: &str = "verdict to address";
const ANNOUNCEMENT: &str = "verdict to announcement";

/// Options of `bench detect`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    series: Series,
    /// What happens to the node
    #[arg(long, value_enum, default_value = "all")]
    kind: Kind,
    /// How long to leave the pair alone and count verdicts; 0s: not at all
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    idle: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// kill -9 of daemon and keeper: the peer learns it from the closed connection and a refused one
    Kill,
    /// All links cut in the middle
    Cut,
    /// Cut and then killed: nothing tells the peer
    Power,
    All,
}

impl Kind {
    fn faults(self) -> Vec<(&'static str, Fault)> {
        let all = [
            (Self::Kill, "kill", Fault::Both),
            (Self::Cut, "cut", Fault::Cut),
            (Self::Power, "power", Fault::Power),
        ];
        all.into_iter()
            .filter(|(kind, ..)| self == Self::All || self == *kind)
            .map(|(_, name, fault)| (name, fault))
            .collect()
    }
}

/// Runs the benchmark.
pub(crate) fn run(options: &Options) -> Result<Report> {
    let mut report = Report::new("detect");
    let stalls = StallRecorder::start()?;
    let mut pair = Pair::start(&options.series.timing, false)?;
    report.settings.push(("timing", options.series.timing.text()));
    report.settings.extend(pair.settings()?);
    report.settings.push(("stop recorder", stalls.scheduling().to_owned()));

    let mut samples = Vec::new();
    if let Err(error) = run_all(options, &mut pair, &stalls, &mut samples, &mut report) {
        report.failures.push(format!("ended early: {error:#}"));
    }
    report.finish(samples);
    report.require("", VERDICT);
    if options.series.runs > 0 {
        check(&mut report, &options.series.timing);
    }
    if !options.idle.is_zero() && report.failures.is_empty() {
        let outcome = quiet::watch(&pair, &options.series.timing, &stalls, options.idle)?;
        outcome.tell(&mut report);
    }
    pair.finish()?;
    Ok(report)
}

fn run_all(
    options: &Options,
    pair: &mut Pair,
    stalls: &StallRecorder,
    samples: &mut Vec<Sample>,
    report: &mut Report,
) -> Result<()> {
    let mut random = Random::new();
    let mut void = 0;
    for run in 1..=options.series.runs {
        if run % 10 == 0 {
            eprintln!("run {run} of {}", options.series.runs);
        }
        // Kinds take turns, so that a noisy time meets all of them.
        for (name, fault) in options.kind.faults() {
            while !pair.whole() {
                void += 1;
                if void > VOID_MAX {
                    bail!("the pair does not stay whole between runs");
                }
                pair.settle()?;
            }
            let phase = random.below(options.series.timing.keepalive);
            let mut sample = measure(name, fault, phase, pair, &options.series.timing, stalls)?;
            sample.run = run;
            fault.repair(&mut pair.cluster)?;
            pair.settle().with_context(|| format!("after {}", sample.text()))?;
            samples.push(sample);
        }
    }
    if void > 0 {
        let note = format!("{void} times a run had to wait: the group had moved by itself before");
        report.notes.push(note);
    }
    Ok(())
}

fn measure(
    name: &str,
    fault: Fault,
    phase: Duration,
    pair: &Pair,
    timing: &Timing,
    stalls: &StallRecorder,
) -> Result<Sample> {
    let tap = Tap::open(&pair.cluster.bed.switch())?;
    let locks = LockRecorder::start(&pair.cluster.bed.switch())?;
    let Strike { at_ns, fault_ns } = pair.strike(fault, phase)?;
    thread::sleep(timing.deadtime + AFTERMATH);
    let mut remarks = Vec::new();
    if pair.survivor.wait(pair.floating, true, VERDICT_TIME_MAX).is_err() {
        remarks.push(format!("{SURVIVOR} did not take over"));
    }
    let verdict = pair.verdict(at_ns)?;
    let verdict_ns = verdict.as_ref().map(|event| event.monotonic_ns);
    let added_ns = pair.survivor.first_added(pair.floating, at_ns);
    let announced_ns = pair.announced_ns(at_ns)?;
    let after = |from_ns: Option<u64>, to_ns: Option<u64>| to_ns?.checked_sub(from_ns?);
    let lateness_ns = verdict.as_ref().and_then(|event| lateness_ns(event, timing));
    let silent = verdict.as_ref().filter(|event| event.kind == "node-dead");
    let heard_ns = last_heartbeat_ns(pair, &tap, verdict_ns.unwrap_or(0))?;
    let due_ns = heard_ns.map(|heard_ns| heard_ns + as_ns(timing.deadtime));
    let lateness_seen_ns = silent.zip(due_ns).map(|(event, due_ns)| {
        // Stamps of two clocks: a microsecond early is on time.
        event.monotonic_ns.saturating_sub(due_ns)
    });
    if let Some(event) = verdict.filter(|event| event.kind != "node-dead") {
        remarks.push(event.kind);
    }
    let mut sample = Sample {
        case: name.to_owned(),
        run: 0,
        at_ns,
        fault_ns,
        values: vec![
            (VERDICT, after(Some(at_ns), verdict_ns)),
            (LATENESS, lateness_ns),
            (LATENESS_SEEN, lateness_seen_ns),
            (ADDRESS, after(verdict_ns, added_ns)),
            (ANNOUNCEMENT, after(verdict_ns, announced_ns)),
        ],
        stalls: Vec::new(),
        lock_waits: Vec::new(),
        remarks,
    };
    let to_ns = announced_ns.or(added_ns).or(verdict_ns).unwrap_or_else(monotonic_ns);
    // The last heartbeat may be one keepalive older than the fault.
    let from_ns = at_ns.saturating_sub(2 * as_ns(timing.keepalive));
    sample.observe_stalls(stalls, from_ns, to_ns);
    sample.observe_lock(&locks, verdict_ns.unwrap_or(at_ns), to_ns);
    Ok(sample)
}

/// When the switch passed on the owner's last heartbeat before `until_ns`.
fn last_heartbeat_ns(pair: &Pair, tap: &Tap, until_ns: u64) -> Result<Option<u64>> {
    let bed = &pair.cluster.bed;
    let macs = [bed.mac(OWNER, "hb0")?, bed.mac(OWNER, "eth0")?];
    let heartbeats = tap
        .take()
        .into_iter()
        .filter(|passed| passed.is_heartbeat() && macs.contains(&&*passed.mac_text()));
    Ok(heartbeats.map(|passed| passed.at_ns).filter(|&at_ns| at_ns < until_ns).max())
}

/// How long after it was due a verdict of silence came: after the last heartbeat plus deadtime, as the
/// event's message says. One of a closed connection waits until the peer's kernel refuses another.
fn lateness_ns(event: &Event, timing: &Timing) -> Option<u64> {
    let silent = (event.kind == "node-dead").then_some(&event.message)?;
    let waited_ns = milliseconds_in(silent, "silent on every link for ")?;
    // The message is rounded to microseconds.
    Some(waited_ns.saturating_sub(as_ns(timing.deadtime)))
}

/// The time in a message, `12.345 ms`, that follows `before`.
fn milliseconds_in(message: &str, before: &str) -> Option<u64> {
    let (_, rest) = message.split_once(before)?;
    let (number, _) = rest.split_once(" ms")?;
    Some((number.parse::<f64>().ok()? * MS_NS as f64).round() as u64)
}

fn check(report: &mut Report, timing: &Timing) {
    let any = |_: &str| true;
    // A closed connection is a way of its own; the deadtime is judged by the others.
    let silent = |case: &str| case != "kill";
    let verdict = quiet_values(&report.samples, VERDICT, silent);
    if verdict.runs() > 0 {
        let limit_ns = as_ns(timing.deadtime) + LATENESS_MAX_NS;
        report.goal("fault to verdict (cut, power)".to_owned(), limit_ns, &verdict);
    }
    let lateness = quiet_values(&report.samples, LATENESS, any);
    report.goal("verdict after it was due (cut, power)".to_owned(), LATENESS_MAX_NS, &lateness);
    let seen = quiet_values(&report.samples, LATENESS_SEEN, any);
    if seen.runs() > 0 {
        let what = "verdict after the last heartbeat on the switch + deadtime".to_owned();
        report.goal(what, LATENESS_MAX_NS, &seen);
    }
    let address = quiet_values(&report.samples, ADDRESS, any);
    report.goal("verdict to address (all kinds)".to_owned(), ADDRESS_MAX_NS, &address);
    report.list_outliers(LATENESS, LATENESS_MAX_NS);
    report.list_outliers(ADDRESS, ADDRESS_MAX_NS);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_from_messages() {
        let message = "node alpha: is dead: silent on every link for 30.012 ms";
        assert_eq!(milliseconds_in(message, "silent on every link for "), Some(30_012_000));
        assert_eq!(milliseconds_in(message, "closed "), None);
        assert_eq!(milliseconds_in("closed soon ms", "closed "), None);
    }

    #[test]
    fn all_is_every_kind_once() {
        assert_eq!(Kind::All.faults().len(), 3);
        assert_eq!(Kind::Power.faults(), [("power", Fault::Power)]);
    }
}
