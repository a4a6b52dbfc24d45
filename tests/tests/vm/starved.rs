//! Time that the host takes from the machine's CPU: its clocks go on, it does not. An emulated machine does
//! not report that as steal time, so the guest notices it by its own lateness only.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use ha_tests::bed::processes::send;
use ha_tests::clock::{as_ns, monotonic_ns, ms};
use ha_tests::spinners::Spinners;
use ha_tests::vm::Pair;
use nix::sys::signal::Signal;

use crate::support::{BETA, deadtimes, has, kinds, plan, started};

/// The kernel gives the rest of each second to ordinary processes, of which QEMU is one.
const BURST: Duration = Duration::from_millis(900);
const BURSTS: u32 = 8;
/// Tenths of deadtime.
const FREEZES: [u32; 5] = [5, 9, 11, 30, 160];
const ROUNDS: u32 = 2;

/// What alpha told since the mark, without which the trial would show nothing.
fn judged_nobody(pair: &mut Pair, mark: &ha_tests::vm::Mark, noticed: bool) -> Result<()> {
    pair.settle(BETA)?;
    let alpha = pair.alpha_events(mark)?;
    println!("  alpha: {}", kinds(&alpha));
    ensure!(!noticed || has(&alpha, "own-pause"), "alpha did not notice");
    pair.expect_no_verdict(mark)?;
    pair.expect_no_move(mark)
}

#[test]
#[ignore = "needs root and a virtual machine: cargo xtask vm"]
fn a_standby_whose_cpu_is_taken_judges_nobody() -> Result<()> {
    let Some((_turn, mut pair)) = started(&plan())? else { return Ok(()) };
    pair.relocate(BETA)?;
    let mark = pair.mark()?;
    for _ in 0..BURSTS {
        Spinners::start(monotonic_ns() + as_ns(BURST))?.join();
        thread::sleep(Duration::from_secs(1) - BURST);
    }
    println!("{BURSTS} bursts of {BURST:?}");
    judged_nobody(&mut pair, &mark, true)?;
    pair.finish()
}

/// All of QEMU is stopped, as by a control group that is frozen.
#[test]
#[ignore = "needs root and a virtual machine: cargo xtask vm"]
fn a_standby_whose_machine_is_frozen_judges_nobody() -> Result<()> {
    let Some((_turn, mut pair)) = started(&plan())? else { return Ok(()) };
    pair.relocate(BETA)?;
    for tenths in FREEZES {
        for _ in 0..ROUNDS {
            let mark = pair.mark()?;
            let from_ns = send(pair.alpha.pid(), Signal::SIGSTOP)?;
            thread::sleep(deadtimes(tenths));
            let to_ns = send(pair.alpha.pid(), Signal::SIGCONT)?;
            println!("frozen for {} ms", ms(to_ns - from_ns));
            judged_nobody(&mut pair, &mark, tenths >= 10)?;
        }
    }
    pair.finish()
}
