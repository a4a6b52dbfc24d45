//! What real deaths under load came to: rows of several steps together, and goals. All runs count: beside
//! real-time spinners every one has a stop of a CPU in its window, the kernel's own throttle.

use std::time::Duration;

use ha_tests::clock::{MS_NS, as_ns};

use super::step::Step;
use crate::report::{Rank, Report};
use crate::sample::{Sample, all_values};

/// From the moment of the death.
pub(super) const VERDICT: &str = "fault to verdict";
/// From the last heartbeat that the switch passed on. Where the owner's daemon did not run, that is
/// older than the last sign of life, which is an answer of its kernel.
pub(super) const AFTER_LAST: &str = "last heartbeat to verdict";
pub(super) const ADDRESS: &str = "verdict to address";
pub(super) const ANSWERED: &str = "verdict to address answered";
pub(super) const SILENCE: &str = "fault to address answered";

const WITH_SPINNERS: &str = "all steps with spinners";
const EVERY_STEP: &str = "all steps";

/// Beside spinners: half of the verdicts come at most so long after deadtime.
const SPINNERS_LATE_P50_NS: u64 = 10 * MS_NS;
/// Every one of them.
const SPINNERS_LATE_MAX_NS: u64 = 100 * MS_NS;
/// Every verdict of an idle machine.
const IDLE_LATE_MAX_NS: u64 = MS_NS / 2;
/// The survivor's kernel answers for the address at most so long after the verdict.
const ANSWERED_MAX_NS: u64 = MS_NS;

/// Adds the deaths to the report.
pub(super) fn tell(samples: Vec<Sample>, deadtime: Duration, report: &mut Report) {
    report.finish(samples);
    report.pool(WITH_SPINNERS, has_spinners);
    report.pool(EVERY_STEP, |_| true);
    report.require("", VERDICT);
    report.require("", ANSWERED);
    let deadtime_ns = as_ns(deadtime);
    for metric in [AFTER_LAST, VERDICT] {
        let values = all_values(&report.samples, metric, has_spinners);
        if values.runs() == 0 {
            continue;
        }
        for (rank, late_ns) in
            [(Rank::P50, SPINNERS_LATE_P50_NS), (Rank::Max, SPINNERS_LATE_MAX_NS)]
        {
            let what = format!("{WITH_SPINNERS}: {metric} (all runs)");
            report.goal_at(rank, what, deadtime_ns + late_ns, &values);
        }
    }
    let idle = all_values(&report.samples, AFTER_LAST, |case| case == Step::Idle.name());
    if idle.runs() > 0 {
        let what = format!("{}: {AFTER_LAST} (all runs)", Step::Idle.name());
        report.goal_at(Rank::Max, what, deadtime_ns + IDLE_LATE_MAX_NS, &idle);
    }
    let answered = all_values(&report.samples, ANSWERED, |_| true);
    let what = format!("{EVERY_STEP}: {ANSWERED} (all runs)");
    report.goal_at(Rank::Max, what, ANSWERED_MAX_NS, &answered);
}

fn has_spinners(case: &str) -> bool {
    Step::EVERY.iter().any(|step| step.name() == case && step.has(Step::Fifo))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::tests::sample;

    fn death(step: Step, after_last_us: u64, verdict_us: u64, answered_us: u64) -> Sample {
        let us = |number: u64| Some(number * 1_000);
        Sample {
            values: vec![
                (VERDICT, us(verdict_us)),
                (AFTER_LAST, us(after_last_us)),
                (ANSWERED, us(answered_us)),
            ],
            ..sample(step.name(), 0, 9 * MS_NS)
        }
    }

    #[test]
    fn deaths_beside_spinners_are_judged_together() {
        let samples = vec![
            death(Step::Idle, 30_600, 25_000, 200),
            death(Step::Hogs, 30_000, 26_000, 300),
            death(Step::Fifo, 30_020, 21_000, 400),
            death(Step::All, 45_000, 30_300, 1_100),
            death(Step::All, 39_000, 37_700, 500),
        ];
        let mut report = Report::new("test");
        tell(samples, Duration::from_millis(30), &mut report);
        let text = report.text();
        let last = "last heartbeat to verdict (all runs)";
        let fault = "fault to verdict (all runs)";
        for line in [
            format!("PASS  {WITH_SPINNERS}: {last}: p50 39.000 of 40.000 ms, 3 runs"),
            format!("PASS  {WITH_SPINNERS}: {last}: max 45.000 of 130.000 ms, 3 runs"),
            format!("PASS  {WITH_SPINNERS}: {fault}: p50 30.300 of 40.000 ms, 3 runs"),
            format!("FAIL  idle: {last}: max 30.600 of 30.500 ms, 1 runs"),
            format!("FAIL  {EVERY_STEP}: {ANSWERED} (all runs): max 1.100 of 1.000 ms, 5 runs"),
        ] {
            assert!(text.contains(&line), "no {line:?} in {text}");
        }
        assert!(text.contains("all steps: fault to verdict"), "{text}");
    }

    #[test]
    fn a_death_that_nobody_judged_is_a_failure() {
        let mut missed = death(Step::Disk, 1, 1, 1);
        missed.values = vec![(VERDICT, None), (ANSWERED, None)];
        let mut report = Report::new("test");
        tell(vec![missed], Duration::from_millis(30), &mut report);
        assert_eq!(report.failures.len(), 2, "{:?}", report.failures);
    }
}
