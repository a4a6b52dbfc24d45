//! `bench failover`: what a client notices, who asks every millisecond; keepalived beside it.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use ha_tests::clock::{MS_NS, as_ns, monotonic_ns};
use ha_tests::observe::{Client, ClientOptions, LockRecorder, StallRecorder};

use crate::fault::Fault;
use crate::pair::{OWNER, Pair, STEP_TIME_MAX, SURVIVOR, Series, Strike, Timing};
use crate::peers::{Keepalived, Peer, Subject};
use crate::random::Random;
use crate::report::{Figures, Rank, Report};
use crate::sample::{Sample, all_values, quiet_values};

/// A client's silence at a clean stop.
const STOP_GAP_MAX_NS: u64 = 5 * MS_NS;
/// How long the new owner is watched after its first answer.
const AFTERMATH: Duration = Duration::from_millis(300);
/// How long the client asks before a fault.
const ASK_BEFORE: Duration = Duration::from_millis(100);
/// Runs that may be repeated because the group was not where it belongs when they began.
const VOID_MAX: usize = 20;

const SILENCE: &str = "client silent";
const ANSWER: &str = "first answer of the new node";
const ADDRESS: &str = "address on the new node";
const ANNOUNCEMENT: &str = "first announcement";
/// From just before the fault until the run ends.
const BOTH: &str = "address on both nodes";
/// Cases of ours in which somebody takes the address off the old node before the new one has it.
const HANDED_OVER: [&str; 5] =
    ["ha: clean stop", "ha: relocate", "ha: standby", "ha: daemon kill -9", "ha: failback"];
/// What the median is held to: a planned move, and the daemon's death alone.
const MEDIAN_MAX_NS: u64 = 3_000_000;
const MEDIANS: [(&str, &str); 4] = [
    ("ha: clean stop", SILENCE),
    ("ha: relocate", SILENCE),
    ("ha: standby", SILENCE),
    ("ha: daemon kill -9", ANSWER),
];
/// Remark of a run after which the address was on both nodes.
const KEPT: &str = "the old node keeps the address";

/// Options of `bench failover`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    series: Series,
    /// What happens to the owner
    #[arg(long, value_enum, default_value = "all")]
    kind: Kind,
    /// Leave keepalived out
    #[arg(long)]
    alone: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// SIGTERM to the daemon
    Stop,
    /// `hactl relocate` of the group (keepalived has no such command)
    Relocate,
    /// `hactl standby` of the owner (keepalived has no such command)
    Standby,
    /// The three planned moves: stop, relocate, standby; keepalived's SIGTERM beside them
    Planned,
    /// kill -9 of the daemon alone; keepalived, which has no keeper: of parent and child
    Daemon,
    /// kill -9 of everything: daemon and keeper, keepalived's parent and child
    Both,
    /// All links cut in the middle
    Cut,
    /// The owner returns after a clean stop and takes its group back
    Failback,
    All,
}

impl Kind {
    /// The faults to inject; a failback follows every clean stop.
    fn faults(self) -> Vec<(&'static str, Fault)> {
        let all = [
            (Self::Stop, "clean stop", Fault::Stop),
            (Self::Relocate, "relocate", Fault::Relocate),
            (Self::Standby, "standby", Fault::Standby),
            (Self::Daemon, "daemon kill -9", Fault::Daemon),
            (Self::Both, "all kill -9", Fault::Both),
            (Self::Cut, "cut", Fault::Cut),
        ];
        let wanted = if self == Self::Failback { Self::Stop } else { self };
        all.into_iter()
            .filter(|(kind, _, fault)| {
                let planned = *fault == Fault::Stop || fault.is_command();
                wanted == Self::All || wanted == *kind || (wanted == Self::Planned && planned)
            })
            .map(|(_, name, fault)| (name, fault))
            .collect()
    }
}

/// Runs the benchmark.
pub(crate) fn run(options: &Options) -> Result<Report> {
    let mut report = Report::new("failover");
    let stalls = StallRecorder::start()?;
    let pair = Pair::start(&options.series.timing, true)?;
    report.settings.push(("timing", options.series.timing.text()));
    report.settings.extend(pair.settings()?);
    report.settings.push(("stop recorder", stalls.scheduling().to_owned()));
    let mut subjects: Vec<Box<dyn Subject>> = vec![Box::new(pair)];
    if options.alone {
        report.notes.push("keepalived was left out (--alone)".to_owned());
    } else {
        match Keepalived::start(&options.series.timing, true) {
            Ok(peer) => {
                report.settings.push(("keepalived", peer.version().to_owned()));
                subjects.push(Box::new(peer));
            }
            Err(error) => report.notes.push(format!("SKIPPED keepalived: {error:#}")),
        }
    }

    let mut samples = Vec::new();
    if let Err(error) = run_all(options, &mut subjects, &stalls, &mut samples) {
        report.failures.push(format!("ended early: {error:#}"));
    }
    report.figures.push(kept(&samples));
    report.finish(samples);
    report.require("ha: ", ANSWER);
    let stop = quiet_values(&report.samples, SILENCE, |case| case == "ha: clean stop");
    if stop.runs() > 0 {
        report.goal("clean stop: client silent".to_owned(), STOP_GAP_MAX_NS, &stop);
        report.list_outliers_of("ha: clean stop", SILENCE, STOP_GAP_MAX_NS);
    }
    for (case, metric) in MEDIANS {
        let quiet = quiet_values(&report.samples, metric, |it| it == case);
        if quiet.runs() > 0 {
            report.goal_at(Rank::P50, format!("{case}: {metric}"), MEDIAN_MAX_NS, &quiet);
        }
    }
    tell_both(&mut report);
    for subject in subjects {
        report.require_seen(subject.name(), subject.pair().changes_missed());
        subject.finish()?;
    }
    Ok(report)
}

/// Whether the address was ever on two nodes. All runs count; a stop of a CPU, which may have made an
/// observer's stamp late, is told with the run.
fn tell_both(report: &mut Report) {
    for case in HANDED_OVER {
        let both = all_values(&report.samples, BOTH, |it| it == case);
        if both.runs() > 0 {
            report.goal_at(Rank::Max, format!("{case}: {BOTH} (all runs)"), 0, &both);
        }
        let two = report.samples.iter().filter(|it| it.case == case && it.value(BOTH) > Some(0));
        let told: Vec<String> = two.map(|it| format!("{BOTH}: {}", it.text())).collect();
        report.notes.extend(told);
    }
    report.notes.push(format!(
        "\"{BOTH}\" counts from just before the fault until {AFTERMATH:?} after the first answer. Not \
         of a cut: who is cut off keeps its address by design. When all is killed, nobody takes the \
         address off before its lifetime in the kernel ends, which is later than that"
    ));
}

/// In how many runs the old owner kept the address beside the new one.
fn kept(samples: &[Sample]) -> Figures {
    let mut cases: Vec<&str> = Vec::new();
    for sample in samples {
        if !cases.contains(&&*sample.case) {
            cases.push(&sample.case);
        }
    }
    let rows = cases
        .into_iter()
        .map(|case| {
            let of: Vec<&Sample> = samples.iter().filter(|sample| sample.case == case).collect();
            let kept = of.iter().filter(|sample| sample.remarks.iter().any(|it| it == KEPT));
            (case.to_owned(), vec![format!("{} of {}", kept.count(), of.len())])
        })
        .collect();
    Figures {
        title: format!("The address is still on the old node {AFTERMATH:?} after the first answer"),
        columns: vec!["runs"],
        rows,
    }
}

fn run_all(
    options: &Options,
    subjects: &mut [Box<dyn Subject>],
    stalls: &StallRecorder,
    samples: &mut Vec<Sample>,
) -> Result<()> {
    let mut random = Random::new();
    for run in 1..=options.series.runs {
        if run % 10 == 0 {
            eprintln!("run {run} of {}", options.series.runs);
        }
        // Kinds and programs take turns, so that a noisy time meets all of them.
        for (name, fault) in options.kind.faults() {
            for subject in subjects.iter_mut().filter(|subject| subject.knows(fault)) {
                let phase = random.below(options.series.timing.keepalive);
                let failback = matches!(options.kind, Kind::Failback | Kind::All);
                let mut bench =
                    Bench { subject: &mut **subject, timing: &options.series.timing, stalls };
                let taken = bench
                    .run((name, fault), phase, failback)
                    .with_context(|| format!("{}: {name}, run {run}", subject.name()))?;
                let wanted =
                    |sample: &Sample| options.kind != Kind::Failback || is_failback(&sample.case);
                samples.extend(
                    taken.into_iter().filter(wanted).map(|sample| Sample { run, ..sample }),
                );
            }
        }
    }
    Ok(())
}

fn is_failback(case: &str) -> bool {
    case.ends_with(": failback")
}

/// One program under one fault.
struct Bench<'a> {
    subject: &'a mut dyn Subject,
    timing: &'a Timing,
    stalls: &'a StallRecorder,
}

impl Bench<'_> {
    /// One run: the fault, and the way back.
    fn run(
        &mut self,
        (name, fault): (&str, Fault),
        phase: Duration,
        failback: bool,
    ) -> Result<Vec<Sample>> {
        self.wait_whole()?;
        let pair = self.subject.pair();
        let client =
            Client::start(&pair.cluster.client()?, pair.floating, ClientOptions::default())?;
        client.wait_answer(OWNER, 0, STEP_TIME_MAX).context("before the fault")?;
        thread::sleep(ASK_BEFORE);
        let locks = LockRecorder::start(&pair.cluster.bed.switch())?;
        let strike = self.subject.strike(fault, phase)?;
        let mut samples = vec![self.takeover((name, fault), strike, &client, &locks)?];
        let repaired_ns = monotonic_ns();
        self.subject.bring_back(fault)?;
        if failback && fault == Fault::Stop {
            thread::sleep(AFTERMATH);
            samples.extend(self.failback(repaired_ns, &client, &locks)?);
        }
        Ok(samples)
    }

    fn wait_whole(&self) -> Result<()> {
        for _ in 0..VOID_MAX {
            if self.subject.pair().whole() {
                return Ok(());
            }
            self.subject.settle()?;
        }
        bail!("the group does not stay on {OWNER} between runs")
    }

    fn takeover(
        &self,
        (name, fault): (&str, Fault),
        strike: Strike,
        client: &Client,
        locks: &LockRecorder,
    ) -> Result<Sample> {
        let Strike { at_ns, fault_ns } = strike;
        let pair = self.subject.pair();
        thread::sleep(self.timing.deadtime + ASK_BEFORE);
        let mut remarks = Vec::new();
        let answer = client.wait_answer(SURVIVOR, at_ns, STEP_TIME_MAX);
        if let Err(error) = &answer {
            remarks.push(format!("{error:#}"));
        }
        thread::sleep(AFTERMATH);
        if pair.owner.holds(pair.floating) {
            remarks.push(KEPT.to_owned());
        }
        let answered_ns = answer.ok().map(|answer| answer.answered_ns);
        let end_ns = monotonic_ns();
        let gap = client.gap_in(at_ns, end_ns);
        let since = |moment: Option<u64>| moment?.checked_sub(at_ns);
        let mut values = vec![
            (SILENCE, Some(gap.length_ns())),
            (ANSWER, since(answered_ns)),
            (ADDRESS, since(pair.survivor.first_added(pair.floating, at_ns))),
            (ANNOUNCEMENT, since(pair.announced_ns(at_ns)?)),
        ];
        // Nobody could take it off a node that is cut off, and that node cannot know.
        if fault != Fault::Cut {
            values.push((BOTH, Some(pair.both_held_ns(at_ns, end_ns))));
        }
        let mut sample = Sample {
            case: format!("{}: {name}", self.subject.name()),
            run: 0,
            at_ns,
            fault_ns,
            values,
            stalls: Vec::new(),
            lock_waits: Vec::new(),
            remarks,
        };
        let from_ns = at_ns.saturating_sub(2 * as_ns(self.timing.keepalive)).min(gap.from_ns);
        sample.observe_stalls(self.stalls, from_ns, gap.to_ns.max(answered_ns.unwrap_or(0)));
        sample.observe_lock(locks, at_ns, answered_ns.unwrap_or_else(monotonic_ns));
        Ok(sample)
    }

    /// The group's way back: from its first step, which is the old node's loss of the address or
    /// the new one's gain of it, whichever is first.
    fn failback(
        &self,
        after_ns: u64,
        client: &Client,
        locks: &LockRecorder,
    ) -> Result<Option<Sample>> {
        let pair = self.subject.pair();
        let added_ns = pair.owner.first_added(pair.floating, after_ns);
        let removed_ns = pair.survivor.first_removed(pair.floating, after_ns);
        let Some(at_ns) = added_ns.into_iter().chain(removed_ns).min() else { return Ok(None) };
        let answered_ns =
            client.wait_answer(OWNER, at_ns, STEP_TIME_MAX).map(|it| it.answered_ns)?;
        let end_ns = answered_ns.max(at_ns + as_ns(AFTERMATH));
        let gap = client.gap_in(at_ns, end_ns);
        let since = |moment: Option<u64>| moment?.checked_sub(at_ns);
        let mut sample = Sample {
            case: format!("{}: failback", self.subject.name()),
            run: 0,
            at_ns,
            fault_ns: 0,
            values: vec![
                (SILENCE, Some(gap.length_ns())),
                (ANSWER, since(Some(answered_ns))),
                (ADDRESS, since(added_ns)),
                (BOTH, Some(pair.both_held_ns(after_ns, end_ns))),
            ],
            stalls: Vec::new(),
            lock_waits: Vec::new(),
            remarks: Vec::new(),
        };
        sample.observe_stalls(self.stalls, gap.from_ns, gap.to_ns.max(answered_ns));
        sample.observe_lock(locks, at_ns, answered_ns);
        Ok(Some(sample))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failback_is_measured_after_a_clean_stop() {
        assert_eq!(Kind::Failback.faults(), Kind::Stop.faults());
        assert_eq!(Kind::All.faults().len(), 6);
        let planned = [Fault::Stop, Fault::Relocate, Fault::Standby];
        assert_eq!(Kind::Planned.faults().iter().map(|(_, it)| *it).collect::<Vec<_>>(), planned);
        assert!(is_failback("ha: failback") && !is_failback("ha: clean stop"));
    }

    #[test]
    fn a_goal_is_about_cases_that_there_are_and_counts_every_run() {
        let faults = Kind::All.faults();
        let known = |case: &str| {
            is_failback(case) || faults.iter().any(|(name, _)| case == format!("ha: {name}"))
        };
        assert!(HANDED_OVER.iter().all(|case| known(case)));
        let sample = |case: &str, both_ns| Sample {
            values: vec![(BOTH, Some(both_ns))],
            ..crate::sample::tests::sample(case, 0, 0)
        };
        let mut report = Report::new("test");
        report.finish(vec![
            sample("ha: clean stop", 0),
            sample("ha: relocate", 0),
            sample("ha: relocate", 40_000),
            sample("keepalived: clean stop", 9_000_000),
        ]);
        tell_both(&mut report);
        let text = report.text();
        let both = |it: &str| format!("{it}: address on both nodes (all runs): max");
        let told = |line: String| assert!(text.contains(&line), "no {line:?} in {text}");
        told(format!("PASS  {} 0.000 of 0.000 ms, 1 runs", both("ha: clean stop")));
        told(format!("FAIL  {} 0.040 of 0.000 ms, 2 runs", both("ha: relocate")));
        told("note: address on both nodes: ha: relocate run 1: address on both nodes 0.040".into());
        assert!(!text.contains("PASS  ha: failback"), "{text}");
    }
}
