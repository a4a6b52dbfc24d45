//! `bench takeover`: from the verdict to the moment at which the new owner's kernel answers for the
//! address; pre-armed groups beside ordinary ones, run by run.

use std::time::Duration;

use anyhow::{Context, Result};
use ha_tests::clock::{as_ns, monotonic_ns, sleep_until_ns};
use ha_tests::observe::{Asker, LockRecorder, StallRecorder};
use ha_tests::spinners::Spinners;

use crate::pair::{Pair, SURVIVOR, Series};
use crate::random::Random;
use crate::report::Report;
use crate::sample::Sample;

/// How often it is asked who has the address: an answer may be late by so much.
const ASK_INTERVAL: Duration = Duration::from_micros(200);
/// How long is waited for the answer after the deadtime; spinners spin for so long.
const WAIT: Duration = Duration::from_millis(250);
/// Before the fault: the spinners are on all CPUs by then.
const ASK_BEFORE: Duration = Duration::from_millis(50);

const VERDICT: &str = "fault to verdict";
const ANSWER: &str = "verdict to ARP answer";
const ANNOUNCEMENT: &str = "verdict to announcement";

/// Options of `bench takeover`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    series: Series,
    /// Spin at SCHED_FIFO 50 on every CPU from before the fault to after the answer
    #[arg(long)]
    spinners: bool,
}

/// Runs the benchmark.
pub(crate) fn run(options: &Options) -> Result<Report> {
    let mut report = Report::new("takeover");
    let stalls = StallRecorder::start()?;
    let pairs = [
        ("ordinary", Pair::start(&options.series.timing, false)?),
        ("pre-armed", Pair::start_armed(&options.series.timing)?),
    ];
    report.settings.push(("timing", options.series.timing.text()));
    report.settings.push(("spinners", if options.spinners { "yes" } else { "no" }.to_owned()));
    report.settings.extend(pairs[0].1.settings()?);
    report.settings.push(("stop recorder", stalls.scheduling().to_owned()));
    let mut samples = Vec::new();
    if let Err(error) = run_all(options, &pairs, &stalls, &mut samples) {
        report.failures.push(format!("ended early: {error:#}"));
    }
    report.finish(samples);
    report.require("", ANSWER);
    for (_, pair) in pairs {
        pair.finish()?;
    }
    Ok(report)
}

fn run_all(
    options: &Options,
    pairs: &[(&str, Pair)],
    stalls: &StallRecorder,
    samples: &mut Vec<Sample>,
) -> Result<()> {
    let mut random = Random::new();
    for run in 1..=options.series.runs {
        if run % 10 == 0 {
            eprintln!("run {run} of {}", options.series.runs);
        }
        for (name, pair) in pairs {
            let phase = random.below(options.series.timing.keepalive);
            let sample = take_over(options, name, pair, phase, stalls)
                .with_context(|| format!("{name}, run {run}"))?;
            samples.push(Sample { run, ..sample });
            pair.heal()?;
            pair.settle()?;
        }
    }
    Ok(())
}

fn take_over(
    options: &Options,
    name: &str,
    pair: &Pair,
    phase: Duration,
    stalls: &StallRecorder,
) -> Result<Sample> {
    let bed = &pair.cluster.bed;
    let asker = Asker::start(&*pair.cluster.client()?, "eth0", pair.floating, ASK_INTERVAL)?;
    let locks = LockRecorder::start(&bed.switch())?;
    let window =
        ASK_BEFORE + options.series.timing.keepalive + options.series.timing.deadtime + WAIT;
    let mut spinners = None;
    let strike = pair.cut(phase, || {
        if options.spinners {
            let end_ns = monotonic_ns() + as_ns(window);
            spinners = Some(Spinners::start(end_ns)?);
            sleep_until_ns(monotonic_ns() + as_ns(ASK_BEFORE));
        }
        Ok(())
    })?;
    sleep_until_ns(strike.at_ns + as_ns(window));
    if let Some(spinners) = spinners {
        spinners.join();
    }
    let verdict_ns = pair.verdict(strike.at_ns)?.map(|event| event.monotonic_ns);
    let mac = bed.mac(SURVIVOR, "eth0")?;
    let answers = asker.answers_of(mac, strike.at_ns);
    let answered_ns = answers.first().map(|it| it.at_ns);
    let since = |from: Option<u64>, to: Option<u64>| Some(to?.saturating_sub(from?));
    let mut sample = Sample {
        case: name.to_owned(),
        run: 0,
        at_ns: strike.at_ns,
        fault_ns: strike.fault_ns,
        values: vec![
            (VERDICT, since(Some(strike.at_ns), verdict_ns)),
            (ANSWER, since(verdict_ns, answered_ns)),
            (ANNOUNCEMENT, since(verdict_ns, pair.announced_ns(strike.at_ns)?)),
        ],
        stalls: Vec::new(),
        lock_waits: Vec::new(),
        remarks: Vec::new(),
    };
    let to_ns = answered_ns.unwrap_or_else(monotonic_ns);
    // With spinners the recorder would tell of them, too.
    if !options.spinners {
        sample.observe_stalls(stalls, strike.at_ns, to_ns);
    }
    sample.observe_lock(&locks, verdict_ns.unwrap_or(strike.at_ns), to_ns);
    Ok(sample)
}
