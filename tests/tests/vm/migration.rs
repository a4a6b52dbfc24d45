//! Live migration to another QEMU. The guest stands still while the last of its memory is carried over
//! (the blackout), and so do its clocks.

use std::time::Duration;

use anyhow::{Result, ensure};
use ha_tests::bed::Plan;
use ha_tests::clock::{monotonic_ns, ms};

use crate::support::{ALPHA, BETA, expect_replaced, has, kinds, plan, silence_ms, started};

/// Longer than any blackout that QEMU keeps its promise about.
const PATIENT: Duration = Duration::from_secs(2);
/// What QEMU is allowed by default.
const DOWNTIME: Duration = Duration::from_millis(300);
/// Bytes a second: a local network.
const FAST: u64 = 1 << 30;
/// So patient that QEMU stops the guest at once; then some 60 MB remain to be carried.
const DOWNTIME_LONG: Duration = Duration::from_secs(20);
/// Bytes a second at which that takes longer than `daemon_deadtime`.
const SLOW: u64 = 12 << 20;
const ROUNDS: u32 = 2;
/// What an emulated guest does not run for by itself.
const ROOM: Duration = Duration::from_millis(300);

fn patient() -> Plan {
    Plan { deadtime: PATIENT, cluster_lines: vec!["daemon_deadtime = \"6s\"".to_owned()], ..plan() }
}

#[test]
#[ignore = "needs root and a virtual machine: cargo xtask vm"]
fn a_blackout_shorter_than_deadtime_moves_nothing() -> Result<()> {
    let Some((_turn, mut pair)) = started(&patient())? else { return Ok(()) };
    for owner in [ALPHA, BETA] {
        pair.relocate(owner)?;
        for _ in 0..ROUNDS {
            let mark = pair.mark()?;
            let (stopped_ns, resumed_ns) = pair.migrate(DOWNTIME, FAST)?;
            pair.settle(owner)?;
            let (alpha, beta) = (pair.alpha_events(&mark)?, pair.beta_events(&mark)?);
            println!(
                "{owner} owns; blackout {} ms, alpha silent for {} ms",
                ms(resumed_ns - stopped_ns),
                silence_ms(&pair, &mark, monotonic_ns())
            );
            println!("  alpha: {}\n  beta: {}", kinds(&alpha), kinds(&beta));
            let blackout = Duration::from_nanos(resumed_ns - stopped_ns);
            ensure!(blackout + ROOM < PATIENT, "a blackout of {blackout:?} proves nothing here");
            pair.expect_no_verdict(&mark)?;
            pair.expect_no_move(&mark)?;
            ensure!(!has(&beta, "node-dead"), "beta took alpha for dead");
        }
    }
    pair.finish()
}

#[test]
#[ignore = "needs root and a virtual machine: cargo xtask vm"]
fn a_standby_judges_nobody_after_a_blackout_longer_than_deadtime() -> Result<()> {
    let Some((_turn, mut pair)) = started(&plan())? else { return Ok(()) };
    pair.relocate(BETA)?;
    let mark = pair.mark()?;
    let (stopped_ns, resumed_ns) = pair.migrate(DOWNTIME_LONG, SLOW)?;
    pair.settle(BETA)?;
    println!("blackout {} ms", ms(resumed_ns - stopped_ns));
    println!("  alpha: {}", kinds(&pair.alpha_events(&mark)?));
    pair.expect_no_verdict(&mark)?;
    pair.expect_no_move(&mark)?;
    pair.finish()
}

#[test]
#[ignore = "needs root and a virtual machine: cargo xtask vm"]
fn an_owner_gives_up_after_a_blackout_longer_than_deadtime() -> Result<()> {
    let Some((_turn, mut pair)) = started(&plan())? else { return Ok(()) };
    let mark = pair.mark()?;
    let blackout = pair.migrate(DOWNTIME_LONG, SLOW)?;
    expect_replaced(&mut pair, &mark, blackout)?;
    pair.finish()
}
