//! Programs of the system that tests, demo and benches use: installed where that is possible, named
//! where it is not.

use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::process::run;

/// A program, an invocation that must succeed, and its Debian package.
type Need = (&'static str, &'static str, &'static str);

const NEEDS: &[Need] = &[
    ("ip", "-V", "iproute2"),
    // Some distributions install a wrapper that fails without the kernel's own tools.
    ("bpftool", "version", "bpftool"),
    ("nginx", "-v", "nginx-light"),
    ("nft", "--version", "nftables"),
];

/// Makes sure that all programs are there.
///
/// # Errors
/// Names the packages that are missing and could not be installed.
pub fn provide() -> Result<()> {
    provide_all(NEEDS)
}

/// Makes sure that there is what tests need beside that: the parser of metrics, and ping.
///
/// # Errors
/// As [`provide`].
pub fn provide_for_tests() -> Result<()> {
    provide()?;
    let probe = "-cimport prometheus_client.openmetrics.parser";
    provide_all(&[
        ("/usr/bin/python3", probe, "python3-prometheus-client"),
        ("ping", "-V", "iputils-ping"),
    ])
}

/// Makes sure that there is a C++ compiler, for libFuzzer.
///
/// # Errors
/// It is missing and could not be installed.
pub fn provide_cxx() -> Result<()> {
    provide_all(&[("c++", "--version", "g++")])
}

/// Makes sure that there is an emulator, for nodes in virtual machines.
///
/// # Errors
/// As [`provide`].
pub fn provide_qemu() -> Result<()> {
    provide_all(&[("qemu-system-x86_64", "--version", "qemu-system-x86")])
}

fn provide_all(needs: &[Need]) -> Result<()> {
    let packages = missing(needs);
    if packages.is_empty() {
        return Ok(());
    }
    println!("missing: {}; installing with apt-get", packages.join(" "));
    let installed = install(&packages);
    let packages = missing(needs);
    if packages.is_empty() {
        return Ok(());
    }
    let reason = installed.err().map_or_else(String::new, |error| format!(" ({error:#})"));
    bail!("these packages are missing, install them first: {}{reason}", packages.join(" "))
}

fn missing(needs: &[Need]) -> Vec<&'static str> {
    let works = |program: &str, probe: &str| {
        let mut command = Command::new(program);
        command.arg(probe).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    needs
        .iter()
        .filter(|(program, probe, _)| !works(program, probe))
        .map(|(_, _, package)| *package)
        .collect()
}

fn install(packages: &[&str]) -> Result<()> {
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(["-qq", "-o", "Dpkg::Use-Pty=0"]).args(arguments);
        run(command.env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null()))
    };
    // A fresh machine has no package lists.
    apt(&["update"])?;
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    apt(&arguments)
}
