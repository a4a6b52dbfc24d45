//! `cargo xtask vm`: suspend, pauses and live migration, with nodes in virtual machines.
//!
//! QEMU emulates, so this needs neither KVM nor a machine of its own. The guest's kernel and its busybox are
//! Debian's packages, unpacked below `target` and never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::needs;
use crate::process::{is_root, output, run, workspace};

/// Debian's package of the guest's kernel: the name that follows the newest one of the suite. The cloud
/// flavour cannot suspend.
pub const KERNEL: &str = "linux-image-amd64";
/// What the guest's shell is.
const BUSYBOX: &str = "busybox-static";
/// Tells the trials where the guest's parts are (`ha_tests::vm::IMAGE`).
pub const IMAGE: &str = "HA_VM_IMAGE";

/// Fetches what a guest is made of, builds the programs and runs the trials; `names` are parts of the
/// names of those that shall run, all unless given.
///
/// # Errors
/// A package cannot be had, or a trial failed.
pub fn trials(kernel: &str, names: &[String]) -> Result<()> {
    if !is_root() {
        bail!("vm needs root: it makes network namespaces. Run `sudo -E cargo xtask vm`");
    }
    if std::env::consts::ARCH != "x86_64" {
        bail!("the guests are of x86-64, and get the programs of this machine");
    }
    needs::provide()?;
    needs::provide_qemu()?;
    let image = prepare(kernel)?;
    let root = workspace();
    let cargo = || {
        let mut cargo = Command::new("cargo");
        cargo.current_dir(&root);
        cargo
    };
    // An emulated CPU is slow enough: optimised programs.
    run(cargo().args(["build", "--release", "--locked", "--quiet", "-p", "ha-daemon"]))?;
    let mut test = cargo();
    test.args(["test", "--locked", "--quiet", "-p", "ha-tests", "--test", "vm", "--"]);
    test.args(["--include-ignored", "--nocapture", "--test-threads", "1"]).args(names);
    run(test.env(IMAGE, &image).env("HA_BIN_DIR", root.join("target/release")))
}

/// Unpacks kernel and busybox, unless they are there. Gives their directory.
fn prepare(kernel: &str) -> Result<PathBuf> {
    let place = workspace().join("target/vm").join(kernel);
    let image = place.join("image");
    if image.is_dir() {
        return Ok(image);
    }
    println!("fetching {kernel} and {BUSYBOX} for the guest; nothing of it is installed");
    let fresh = place.join("fresh");
    match fs::remove_dir_all(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot empty {}", fresh.display()));
        }
        _ => {}
    }
    fs::create_dir_all(&fresh).with_context(|| format!("cannot make {}", fresh.display()))?;
    for package in [&*dependency(kernel)?, BUSYBOX] {
        unpack(package, &fresh).with_context(|| {
            format!("the guest needs Debian's package {package}: `apt-get download` must find it")
        })?;
    }
    // Half of an image is none.
    fs::rename(&fresh, &image).context("cannot keep what was unpacked")?;
    Ok(image)
}

/// The package with the kernel itself, behind the name that follows the newest one.
fn dependency(kernel: &str) -> Result<String> {
    let listed = output(Command::new("apt-cache").args(["depends", "--important", kernel]))
        .with_context(|| format!("the guest needs Debian's package {kernel}"))?;
    let needed = listed.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    // `linux-image-6.1.0-56-amd64` has dependencies, too, but no kernel among them.
    let mut kernels = needed.filter(|name| name.starts_with("linux-image-"));
    Ok(kernels.next().unwrap_or(kernel).to_owned())
}

fn unpack(package: &str, directory: &Path) -> Result<()> {
    let packages = directory.join("packages");
    fs::create_dir_all(&packages)?;
    // Without it, apt would download as a user that may not write here, and say so.
    let as_root = ["-o", "APT::Sandbox::User=root"];
    run(Command::new("apt-get")
        .current_dir(&packages)
        .arg("-qq")
        .args(as_root)
        .args(["download", package]))?;
    let file = fs::read_dir(&packages)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get downloaded nothing")?;
    run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(directory))?;
    fs::remove_dir_all(&packages).context("cannot remove what was unpacked")
}
