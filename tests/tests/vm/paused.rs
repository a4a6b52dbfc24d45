//! A machine that is paused by its host (QMP `stop`, `cont`), as for a snapshot. All clocks of the guest
//! stand still: it cannot know, but by what its peer says.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use ha_tests::clock::{monotonic_ns, ms};
use ha_tests::vm::Pair;
use serde_json::json;

use crate::support::{
    ALPHA, BETA, DAEMON_DEADTIME, deadtimes, expect_replaced, kinds, plan, started,
};

/// Tenths of deadtime.
const PAUSES: [u32; 7] = [3, 6, 9, 11, 20, 60, 160];
/// Of an owner, too short for a verdict.
const SHORT: u32 = 5;
const ROUNDS: u32 = 3;

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
        let still = pause(&mut pair, DAEMON_DEADTIME * 2)?;
        expect_replaced(&mut pair, &mark, still)?;
        pair.relocate(ALPHA)?;
    }
    pair.finish()
}
