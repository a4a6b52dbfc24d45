//! Suspend to RAM. The guest's CLOCK_MONOTONIC stands still, its CLOCK_BOOTTIME goes on.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ha_tests::bed::{FLOATING, Plan};
use ha_tests::clock::{as_ns, monotonic_ns, ms};
use ha_tests::observe::expect_only;
use ha_tests::vm::Pair;
use serde_json::json;

use crate::support::{
    ALPHA, BETA, CALM, WAKE_TIME_MAX, answered_for_ns, answers, has, kinds, messages, plan, started,
};

/// Far beyond the lease and `daemon_deadtime` (3 s).
const LONG: Duration = Duration::from_secs(8);
/// What a standby sleeps through, in milliseconds.
const SLEEPS_MS: [u64; 6] = [1_000, 2_000, 4_000, 8_000, 1_000, 4_000];
/// For how long the kernel of an owner that wakes may answer for its address: until its processes run
/// again, and its daemon has come to its turn.
const ANSWERS_MAX: Duration = Duration::from_secs(2);

/// Suspends the guest for so long. Gives when it slept and when it was woken, host's time.
fn suspend(pair: &mut Pair, duration: Duration) -> Result<(u64, u64)> {
    let alpha = &mut pair.alpha;
    alpha.agent.begin("echo mem > /sys/power/state")?;
    let (asleep_ns, _) = alpha.qmp.wait_event("SUSPEND", WAKE_TIME_MAX)?;
    thread::sleep(duration);
    let woken_ns = monotonic_ns();
    alpha.qmp.execute("system_wakeup", json!({}))?;
    let (code, printed) = alpha.agent.finish(WAKE_TIME_MAX)?;
    ensure!(code == 0, "the guest does not suspend: {printed}");
    Ok((asleep_ns, woken_ns))
}

/// A pre-armed address is in its kernel all the time: what counts is whether it answers.
fn first_answer_of_beta(pair: &Pair, from_ns: u64) -> Result<Option<u64>> {
    let answers = pair.asker.answers_of(pair.beta_mac()?, from_ns);
    Ok(answers.first().map(|answer| answer.at_ns))
}

/// Gives for how long alpha's kernel answered for the address after it had woken, nanoseconds.
fn suspended_owner(plan: &Plan) -> Result<Option<u64>> {
    let Some((_turn, mut pair)) = started(plan)? else { return Ok(None) };
    if plan.prearmed && pair.alpha.run("hactl status")?.contains("is not pre-armed") {
        println!(
            "NOT TESTED: this guest's kernel is older than 6.6 and arms nothing; use --kernel"
        );
        pair.finish()?;
        return Ok(None);
    }
    let mark = pair.mark()?;
    let (asleep_ns, woken_ns) = suspend(&mut pair, LONG)?;
    let taken_ns = first_answer_of_beta(&pair, asleep_ns)?;
    pair.settle(BETA)?;
    let end_ns = monotonic_ns();
    let (alpha, beta) = (pair.alpha_events(&mark)?, pair.beta_events(&mark)?);
    println!("asleep for {} ms", ms(woken_ns - asleep_ns));
    println!("beta answers for the address {:?} ms later", taken_ns.map(|it| ms(it - asleep_ns)));
    println!("alpha's kernel for the address since it was woken: {}", answers(&pair, woken_ns));
    println!("alpha: {}", kinds(&alpha));
    println!("alpha: {:?} {:?}", messages(&alpha, "own-pause"), messages(&alpha, "lease-lost"));
    println!("beta: {}", kinds(&beta));
    let taken_ns = taken_ns.context("beta did not take it while alpha slept")?;
    ensure!(taken_ns < woken_ns, "beta took it only after alpha had woken");
    ensure!(has(&beta, "node-dead"), "beta did not notice");
    ensure!(has(&alpha, "own-pause") && has(&alpha, "lease-lost"), "alpha did not notice");
    pair.expect_no_verdict(&mark)?;
    let announced = pair.sniffer.first(FLOATING.parse()?, pair.alpha_mac(), woken_ns);
    ensure!(announced.is_none(), "alpha announced it after it had woken: {announced:?}");
    ensure!(!pair.alpha_holds()? || plan.prearmed, "alpha has it still");
    expect_only(&pair.asker, pair.beta_mac()?, end_ns - as_ns(CALM))?;
    let answered_ns = answered_for_ns(&pair, woken_ns);
    pair.finish()?;
    Ok(Some(answered_ns))
}

#[test]
#[ignore = "needs root and a virtual machine: cargo xtask vm"]
fn an_owner_that_was_suspended_past_its_lease_gives_up_before_it_acts() -> Result<()> {
    let Some(answered_ns) = suspended_owner(&plan())? else { return Ok(()) };
    ensure!(answered_ns < as_ns(ANSWERS_MAX), "its kernel answered for {} ms", ms(answered_ns));
    Ok(())
}

/// Nobody has to run for the gate to be closed.
#[test]
#[ignore = "needs root and a virtual machine: cargo xtask vm"]
fn a_prearmed_owner_that_was_suspended_answers_no_more_when_it_wakes() -> Result<()> {
    let plan = Plan { prearmed: true, ..plan() };
    let Some(answered_ns) = suspended_owner(&plan)? else { return Ok(()) };
    ensure!(answered_ns == 0, "its kernel answered for {} ms", ms(answered_ns));
    Ok(())
}

#[test]
#[ignore = "needs root and a virtual machine: cargo xtask vm"]
fn a_standby_that_was_suspended_judges_nobody() -> Result<()> {
    let Some((_turn, mut pair)) = started(&plan())? else { return Ok(()) };
    pair.relocate(BETA)?;
    for sleep_ms in SLEEPS_MS {
        let mark = pair.mark()?;
        let (asleep_ns, woken_ns) = suspend(&mut pair, Duration::from_millis(sleep_ms))?;
        pair.settle(BETA)?;
        let alpha = pair.alpha_events(&mark)?;
        println!("asleep for {} ms; {ALPHA}: {}", ms(woken_ns - asleep_ns), kinds(&alpha));
        println!("  {:?}", messages(&alpha, "own-pause"));
        // A shorter one may be none for its clocks, and is looked for only when a verdict is near.
        ensure!(sleep_ms < 2_000 || has(&alpha, "own-pause"), "alpha did not notice");
        pair.expect_no_verdict(&mark)?;
        pair.expect_no_move(&mark)?;
    }
    pair.finish()
}
