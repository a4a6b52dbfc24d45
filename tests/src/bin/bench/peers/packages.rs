//! Debian packages of programs that a benchmark compares with or loads the machine with.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use ha_tests::web::find_program;

/// Asked by Debian's package scripts before they start a service.
const POLICY_PATH: &str = "/usr/sbin/policy-rc.d";

/// Makes sure that a program is there: `program` is its name in the search path, or its whole path.
///
/// # Errors
/// It is not installed and cannot be.
pub(crate) fn provide(program: &str, package: &str) -> Result<PathBuf> {
    if let Some(path) = find(program) {
        return Ok(path);
    }
    if find_program("apt-get").is_none() {
        bail!("{program} is not installed, and there is no apt-get here");
    }
    println!("{program} is missing: apt-get install -y --no-install-recommends {package}");
    let policy = Policy::start_nothing()?;
    let status = Command::new("apt-get")
        .args(["install", "-y", "--no-install-recommends", package])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("cannot start apt-get")?;
    drop(policy);
    if !status.success() {
        bail!("{program} is not installed, and apt-get ended with {status}");
    }
    find(program).with_context(|| format!("{package} has no {program}"))
}

/// The first line that `program ARGUMENT` prints, wherever it prints to.
pub(super) fn first_line(program: &Path, argument: &str) -> Result<String> {
    let output = Command::new(program).arg(argument).stdin(Stdio::null()).output()?;
    let text = [output.stderr, output.stdout].concat();
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().next().unwrap_or("unknown version").to_owned())
}

/// Version of an installed package.
pub(super) fn version(package: &str) -> Result<String> {
    let output =
        Command::new("dpkg-query").args(["-W", "-f", "${Package} ${Version}", package]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn find(program: &str) -> Option<PathBuf> {
    if program.starts_with('/') {
        let path = PathBuf::from(program);
        return path.is_file().then_some(path);
    }
    find_program(program)
}

/// While it lives, a package that is installed starts no service on this machine.
struct Policy {
    ours: bool,
}

impl Policy {
    fn start_nothing() -> Result<Self> {
        let file = File::options().write(true).create_new(true).mode(0o755).open(POLICY_PATH);
        match file {
            Ok(mut file) => {
                let policy = Self { ours: true };
                file.write_all(b"#!/bin/sh\nexit 101\n")?;
                Ok(policy)
            }
            // Somebody decides already.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Ok(Self { ours: false })
            }
            Err(error) => Err(error).with_context(|| format!("cannot write {POLICY_PATH}")),
        }
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY_PATH)
        {
            eprintln!("cannot remove {POLICY_PATH}: {error}");
        }
    }
}
