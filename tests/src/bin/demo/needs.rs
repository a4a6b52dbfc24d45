//! The programs that the demo needs, installed where that is possible.

use std::process::Command;

use anyhow::{Context, Result, bail};
use ha_tests::web::{find_program, runs};

/// A program, an invocation that must succeed, and its Debian package.
const NEEDS: [(&str, &[&str], &str); 3] = [
    ("nginx", &["-v"], "nginx-light"),
    ("ip", &["-V"], "iproute2"),
    // Installed as a wrapper on some distributions, which fails without the kernel's tools.
    ("bpftool", &["version"], "bpftool"),
];

/// Makes sure that all programs are there.
pub(crate) fn provide() -> Result<()> {
    let mut packages = missing();
    if packages.is_empty() {
        return Ok(());
    }
    if find_program("apt-get").is_some() {
        install(&packages)?;
        packages = missing();
    }
    if !packages.is_empty() {
        bail!("these packages are missing, install them first: {}", packages.join(" "));
    }
    Ok(())
}

fn missing() -> Vec<&'static str> {
    NEEDS
        .iter()
        .filter(|(program, probe, _)| !runs(program, probe))
        .map(|(_, _, package)| *package)
        .collect()
}

fn install(packages: &[&str]) -> Result<()> {
    println!("Missing: running apt-get install -y {}", packages.join(" "));
    if packages.contains(&"nginx-light") {
        println!(
            "(The package starts a web server of its own on port 80: `systemctl disable --now nginx` stops that.)"
        );
    }
    let status = Command::new("apt-get")
        .args(["install", "-y", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .context("cannot start apt-get")?;
    if !status.success() {
        bail!("apt-get ended with {status}; install by hand: {}", packages.join(" "));
    }
    Ok(())
}
