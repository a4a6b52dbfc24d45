//! `cargo xtask fuzz`: libFuzzer on everything that reads what comes from outside.
//!
//! What cargo-fuzz does, without cargo-fuzz: coverage counters are options of the stable compiler. No
//! sanitizer: the targets are safe code, and overflows and debug assertions are checked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::needs;
use crate::process::{output, run, workspace};

/// All targets; `fuzz/Cargo.toml` has the same.
pub const TARGETS: &[&str] =
    &["ha_cf", "haresources", "authkeys", "config_toml", "wire", "message", "serial"];
/// Longest input, in bytes. The limits of lines, groups and frames are below.
const INPUT_BYTES_MAX: u32 = 8_192;
/// An input that takes longer is a finding, in seconds.
const INPUT_SECONDS_MAX: u32 = 10;
/// Counters and traced comparisons of LLVM's SanitizerCoverage, as libFuzzer wants them.
const COVERAGE: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// How long each target runs.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Inputs.
    pub runs: u64,
    /// Seconds after which it ends even so; 0 = never.
    pub seconds: u64,
}

/// Builds the targets and runs those named, or all, one after the other.
///
/// # Errors
/// A build failed, or a target found something: the input is kept and named.
pub fn fuzz(names: &[String], effort: Effort) -> Result<()> {
    if let Some(unknown) = names.iter().find(|name| !TARGETS.contains(&name.as_str())) {
        bail!("there is no target {unknown}; there are {}", TARGETS.join(", "));
    }
    needs::provide_cxx()?;
    let root = workspace();
    let work = root.join("target/fuzz");
    let programs = build(&root, &work)?;
    let seeds = work.join("seeds");
    let mut write_seeds = Command::new("cargo");
    write_seeds.current_dir(&root);
    write_seeds.args(["run", "--quiet", "-p", "ha-tests", "--bin", "fuzz-seeds", "--"]);
    run(write_seeds.arg(&seeds))?;
    let wanted = |target: &&&str| names.is_empty() || names.iter().any(|name| name == **target);
    let mut failed = Vec::new();
    for target in TARGETS.iter().filter(wanted) {
        // All targets run, whatever one of them finds.
        if let Err(error) = one(target, &root, &work, &programs, effort) {
            println!("{target}: {error:#}");
            failed.push(*target);
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("found something: {}", failed.join(", ")) }
}

fn build(root: &Path, work: &Path) -> Result<PathBuf> {
    let host = output(Command::new("rustc").args(["--print", "host-tuple"]))?;
    let mut build = Command::new("cargo");
    build.current_dir(root.join("fuzz")).args(["build", "--quiet", "--bins", "--target", &host]);
    build.arg("--target-dir").arg(work);
    // With --target, build scripts and macros are compiled without counters.
    run(build.env("RUSTFLAGS", COVERAGE))?;
    Ok(work.join(host).join("debug"))
}

fn one(target: &str, root: &Path, work: &Path, programs: &Path, effort: Effort) -> Result<()> {
    let corpus = work.join("corpus").join(target);
    fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
    let found = work.join("found");
    fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
    let mut command = Command::new(programs.join(target));
    command.arg(format!("-runs={}", effort.runs));
    command.arg(format!("-max_total_time={}", effort.seconds));
    command.arg(format!("-max_len={INPUT_BYTES_MAX}"));
    command.arg(format!("-timeout={INPUT_SECONDS_MAX}"));
    command.arg(format!("-artifact_prefix={}/{target}-", found.display()));
    command.args(["-print_final_stats=1", "-verbosity=1"]);
    let seeds = work.join("seeds");
    let dictionary = seeds.join(format!("{target}.dict"));
    if dictionary.exists() {
        command.arg(format!("-dict={}", dictionary.display()));
    }
    // New inputs go to the first directory.
    command.arg(&corpus);
    let more = [seeds.join(target), root.join("fuzz/seeds").join(target)];
    command.args(more.iter().filter(|directory| directory.is_dir()));
    let ended = command.output().with_context(|| format!("cannot start the target {target}"))?;
    let log = String::from_utf8_lossy(&ended.stderr);
    if ended.status.success() {
        let done = log.lines().rfind(|line| line.contains("DONE")).unwrap_or("done");
        let rate = log.lines().rfind(|line| line.starts_with("Done "));
        println!(
            "{target}: {}",
            [Some(done), rate].into_iter().flatten().collect::<Vec<_>>().join("; ")
        );
        return Ok(());
    }
    let tail: Vec<&str> = log.lines().rev().take(40).collect();
    bail!("{}\n{}", ended.status, tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
}
