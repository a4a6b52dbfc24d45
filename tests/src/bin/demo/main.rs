//! The demonstration: two nodes, a client that asks every millisecond, four ways of losing the
//! owner, and a timeline of each. Run it as `cargo xtask demo`.

mod cases;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;

use ha_tests::bed::{Bed, Cluster, FLOATING, Plan, is_root, program};

/// Prefix of a cluster that `--keep` leaves.
const KEPT_PREFIX: &str = "hademo-";

/// Two nodes in network namespaces, a client that asks every millisecond, four failovers.
#[derive(Debug, Parser)]
#[command(name = "demo", version)]
struct Arguments {
    /// Leave the cluster running at the end and say how to look at it.
    #[arg(long)]
    keep: bool,
    /// Remove the cluster that --keep left, and do nothing else.
    #[arg(long, conflicts_with_all = ["keep", "json"])]
    clean: bool,
    /// Write the results to this file.
    #[arg(long, value_name = "PATH")]
    json: Option<PathBuf>,
    /// Interval between two heartbeats.
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = humantime::parse_duration)]
    keepalive: Duration,
    /// Silence after which a node is dead.
    #[arg(long, value_name = "TIME", default_value = "30ms", value_parser = humantime::parse_duration)]
    deadtime: Duration,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !is_root() {
        eprintln!(
            "The demo makes network namespaces, which needs root: run `sudo -E cargo xtask demo`."
        );
        return ExitCode::from(2);
    }
    let result = if arguments.clean { clean() } else { run(&arguments) };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Removes a kept cluster.
fn clean() -> Result<bool> {
    if !Bed::exists(KEPT_PREFIX) {
        println!("There is no cluster to remove.");
        return Ok(true);
    }
    let failures = Bed::remove(KEPT_PREFIX);
    for failure in &failures {
        eprintln!("{failure}");
    }
    if failures.is_empty() {
        println!("The cluster is removed.");
    }
    Ok(failures.is_empty())
}

/// Builds the cluster, runs the cases, reports. Whether all of them passed.
fn run(arguments: &Arguments) -> Result<bool> {
    for name in ["ha-daemon", "hactl"] {
        program(name)?;
    }
    if arguments.keep && Bed::exists(KEPT_PREFIX) {
        println!("Removing the cluster that an earlier --keep left.");
        clean()?;
    }
    let bed = if arguments.keep { Bed::with_prefix(KEPT_PREFIX) } else { Bed::new() }?;
    let plan =
        Plan { keepalive: arguments.keepalive, deadtime: arguments.deadtime, ..Plan::default() };
    println!(
        "Two nodes, keepalive {}, deadtime {}, floating address {FLOATING}; a client asks every ms.",
        humantime::format_duration(plan.keepalive),
        humantime::format_duration(plan.deadtime),
    );
    let mut cluster = Cluster::build_in(bed, plan)?;
    cluster.start().context("the cluster does not come up")?;
    let report = cases::run_all(&mut cluster)?;
    println!("\n{}", report.table());
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if arguments.keep {
        keep(cluster)?;
    } else {
        let Cluster { nodes, webs, bed, .. } = cluster;
        drop((nodes, webs));
        bed.finish()?;
    }
    Ok(report.passed())
}

/// Leaves everything running and says how to look at it.
fn keep(cluster: Cluster) -> Result<()> {
    let hactl = program("hactl")?;
    println!("\nThe cluster stays. How to look at it:");
    for node in &cluster.nodes {
        println!("\n  {}", node.name());
        println!("    {} --socket {} status", hactl.display(), node.socket_path().display());
        println!("    bpftool map dump pinned {}/links", node.bpffs().display());
        println!("    nsenter --net={} ip address", node.netns().path().display());
        println!("    less {}", node.log_path().display());
    }
    println!("\n  client");
    println!("    nsenter --net={} curl http://{FLOATING}/", cluster.client()?.path().display());
    println!("\nRemove it:\n    {} --clean", std::env::current_exe()?.display());
    // Dropping would remove it.
    std::mem::forget(cluster);
    Ok(())
}
