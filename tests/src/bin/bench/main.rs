//! The benchmarks: how fast a failure is judged (`detect`), how long a client waits (`failover`), what
//! a settled node costs (`idle`), how silent a reload is (`reload`), what is mistaken for a death under
//! load (`ladder`) and when daemons are stopped (`stops`), how soon an address is answered
//! (`takeover`), how late silence is noticed (`watch`), what the kernel side takes for a packet (`xdp`). Run them as `cargo xtask bench BENCHMARK`.
//!
//! Every figure of a cluster is given twice: of all runs, and of those during which no CPU of this
//! machine stood still, since a virtual machine that does not run says nothing about the daemon.

mod detect;
mod failover;
mod fault;
mod idle;
mod ladder;
mod machine;
mod pair;
mod peers;
mod quiet;
mod random;
mod reload;
mod report;
mod sample;
mod stops;
mod takeover;
mod watch;
mod xdp;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use ha_tests::bed::is_root;

use report::Report;

/// Measures the failover daemon in network namespaces.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
struct Arguments {
    #[command(subcommand)]
    benchmark: Benchmark,
    /// Write the report, with every single run, to this file
    #[arg(long, global = true, value_name = "PATH")]
    json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Benchmark {
    /// Time from a fault to the verdict, the address and its announcement; verdicts without a fault
    Detect(detect::Options),
    /// A client's silence and the first answer of the new node; keepalived beside it
    Failover(failover::Options),
    /// CPU time, context switches and memory of a settled node
    Idle(idle::Options),
    /// Mistakes under eight kinds of load, beside other programs; real deaths meanwhile
    Ladder(ladder::Options),
    /// Silence of a node that takes a configuration, a key or a program over, and its peer's verdicts
    Reload(reload::Options),
    /// Daemons that are stopped and go on: verdicts, moves of the address
    Stops(stops::Options),
    /// From the verdict to the kernel's answer for the address, of ordinary and of pre-armed groups
    Takeover(takeover::Options),
    /// How late silence is noticed by the kernel's timer and by a thread, beside several loads
    Watch(watch::Options),
    /// Time that the kernel side takes for one packet, by kind of packet
    Xdp(xdp::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !is_root() {
        eprintln!("bench makes network namespaces, which needs root: sudo -E cargo xtask bench");
        return ExitCode::from(2);
    }
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one benchmark and shows its report. Whether all of it worked: a missed goal is a result.
fn run(arguments: &Arguments) -> Result<bool> {
    let report: Report = match &arguments.benchmark {
        Benchmark::Detect(options) => detect::run(options)?,
        Benchmark::Failover(options) => failover::run(options)?,
        Benchmark::Idle(options) => idle::run(options)?,
        Benchmark::Ladder(options) => ladder::run(options)?,
        Benchmark::Reload(options) => reload::run(options)?,
        Benchmark::Stops(options) => stops::run(options)?,
        Benchmark::Takeover(options) => takeover::run(options)?,
        Benchmark::Watch(options) => watch::run(options)?,
        Benchmark::Xdp(options) => xdp::run(options)?,
    };
    print!("{}", report.text());
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(report.failures.is_empty())
}
