//! A machine that is paused by its host (QMP `stop`, `cont`), as for a snapshot. All clocks of the guest
//! stand still: it cannot know, but by what its peer says.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use ha_tests::bed::FLOATING;
use ha_tests::clock::{as_ns, monotonic_ns, ms};
use ha_tests::observe::expect_only;
use ha_tests::vm::Pair;
use serde_json::json;

use crate::support::{
    ALPHA, BETA, CALM, DAEMON_DEADTIME, answered_for_ns, answers, deadtimes, has, kinds, plan,
    started,
};

/// Tenths of deadtime.
const PAUSES: [u32; 7] = [3, 6, 9, 11, 20, 60, 160];
/// Of an owner, too short for a verdict.
const SHORT: u32 = 5;
const ROUNDS: u32 = 3;
/// For how long an owner that was paused may answer beside its successor: what waited in its network
/// card, and until its peer has told it.
const ANSWERS_MAX: Duration = Duration::from_secs(2);

/// Pauses the machine for so long. Gives when it stood still and when it went on.
fn pause(pair: &mut Pair, duration: Duration) -> Result<(u64, u64)> {
    let qmp = &mut pair.alpha.qmp;
    let stopped_ns = monotonic_ns();
    qmp.execute("stop", json!({}))?;
    thread::sleep(duration);
    let on_ns = monotonic_ns();
    qmp.execute("cont", json!({}))?;
    Ok((stopped_ns, on_ns))
}

#[test]
#[ignore = "needs root and a virtual machine: cargo xtask vm"]
fn a_standby_that_was_paused_judges_nobody() -> Result<()> {
    let Some((_turn, mut pair)) = started(&plan())? else { return Ok(()) };
    pair.relocate(BETA)?;
    for tenths in PAUSES {
        for _ in 0..ROUNDS {
            let mark = pair.mark()?;
            let (stopped_ns, on_ns) = pause(&mut pair, deadtimes(tenths))?;
            pair.settle(BETA)?;
            let alpha = pair.alpha_events(&mark)?;
            println!("paused for {} ms; {ALPHA}: {}", ms(on_ns - stopped_ns), kinds(&alpha));
            pair.expect_no_verdict(&mark)?;
            pair.expect_no_move(&mark)?;
        }
    }
    pair.finish()
}

#[test]
#[ignore = "needs root and a virtual machine: cargo xtask vm"]
fn an_owner_that_was_paused_for_less_than_deadtime_keeps_its_groups() -> Result<()> {
    let Some((_turn, mut pair)) = started(&plan())? else { return Ok(()) };
    for _ in 0..ROUNDS {
        let mark = pair.mark()?;
        let (stopped_ns, on_ns) = pause(&mut pair, deadtimes(SHORT))?;
        pair.settle(ALPHA)?;
        println!("paused for {} ms", ms(on_ns - stopped_ns));
        println!("  beta: {}", kinds(&pair.beta_events(&mark)?));
        println!("  alpha: {}", kinds(&pair.alpha_events(&mark)?));
        pair.expect_no_verdict(&mark)?;
        pair.expect_no_move(&mark)?;
    }
    pair.finish()
}

/// Its peer takes what it had, rightly. Nothing in the guest says that time has passed, so its kernel
/// answers until the peer's word has reached its daemon.
#[test]
#[ignore = "needs root and a virtual machine: cargo xtask vm"]
fn an_owner_that_was_paused_for_longer_gives_up_when_its_peer_tells_it() -> Result<()> {
    let Some((_turn, mut pair)) = started(&plan())? else { return Ok(()) };
    for _ in 0..ROUNDS {
        let mark = pair.mark()?;
        let (stopped_ns, on_ns) = pause(&mut pair, DAEMON_DEADTIME * 2)?;
        pair.settle(BETA)?;
        let end_ns = monotonic_ns();
        let taken_ns = pair.beta_addresses.first_added(FLOATING.parse()?, mark.at_ns);
        println!(
            "paused for {} ms; beta took it after {:?} ms; alpha's kernel since then: {}",
            ms(on_ns - stopped_ns),
            taken_ns.map(|it| ms(it.saturating_sub(stopped_ns))),
            answers(&pair, on_ns)
        );
        let (alpha, beta) = (pair.alpha_events(&mark)?, pair.beta_events(&mark)?);
        println!("  alpha: {}", kinds(&alpha));
        println!("  beta: {}", kinds(&beta));
        ensure!(taken_ns.is_some_and(|it| it < on_ns), "beta did not take it meanwhile");
        ensure!(has(&beta, "node-dead"), "beta did not notice");
        pair.expect_no_verdict(&mark)?;
        ensure!(!pair.alpha_holds()?, "alpha has it still");
        let answered_ns = answered_for_ns(&pair, on_ns);
        ensure!(answered_ns < as_ns(ANSWERS_MAX), "its kernel answered for {} ms", ms(answered_ns));
        expect_only(&pair.asker, pair.beta_mac()?, end_ns - as_ns(CALM))?;
        pair.relocate(ALPHA)?;
    }
    pair.finish()
}
