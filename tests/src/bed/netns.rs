//! One network namespace: how threads and programs get into it.
//!
//! Programs enter by `setns` between fork and exec. `ip netns exec` would do more than that: it
//! mounts a fresh `/sys`, which hides bpffs.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns};

use super::command::{COMMAND_TIME_MAX, finish, output};
use crate::sys;

/// Where `ip netns` keeps names.
pub(crate) const NAMES_DIR: &str = "/run/netns";

/// A named network namespace, held open.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
}

impl Netns {
    /// Makes a namespace with loopback up and IPv6 addresses usable at once (no duplicate address
    /// detection, no router solicitations).
    pub(crate) fn create(name: &str) -> Result<Self> {
        output("ip", &["netns", "add", name])?;
        let namespace = Self::open(name)?;
        namespace.run(|| {
            for (key, value) in [
                ("ipv6/conf/default/accept_dad", "0"),
                ("ipv6/conf/all/accept_dad", "0"),
                ("ipv6/conf/default/accept_ra", "0"),
                ("ipv6/conf/default/router_solicitations", "0"),
            ] {
                set_sysctl(key, value)?;
            }
            Ok(())
        })?;
        output("ip", &["-n", name, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Opens an existing one.
    ///
    /// # Errors
    /// There is no such name.
    pub fn open(name: &str) -> Result<Self> {
        let path = Path::new(NAMES_DIR).join(name);
        let file = File::open(&path)
            .with_context(|| format!("cannot open the namespace {}", path.display()))?;
        Ok(Self { name: name.to_owned(), file })
    }

    /// Its name, as `ip netns` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its path, as `nsenter --net=` takes it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(NAMES_DIR).join(&self.name)
    }

    /// Runs `work` inside, in a thread of its own, and waits for it. A socket that `work` opens and
    /// returns stays in the namespace wherever it is used.
    ///
    /// # Errors
    /// The namespace cannot be entered (not root), or `work` failed.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter()?;
                work()
            });
            inside.join().map_err(|_| anyhow!("work inside {} panicked", self.name))?
        })
    }

    /// Moves the calling thread into the namespace, for good.
    pub(crate) fn enter(&self) -> Result<()> {
        setns(&self.file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter the namespace {}", self.name))
    }

    /// A command that will run inside.
    ///
    /// # Errors
    /// The descriptor of the namespace cannot be duplicated.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let mut command = Command::new(program);
        sys::enter_namespace_on_exec(&mut command, self.file.try_clone()?.into());
        Ok(command)
    }

    /// Ids of the processes inside; never the calling process.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        processes_in(&self.name)
    }

    /// `kill -9` of every process inside, also of those that are being forked meanwhile.
    ///
    /// # Errors
    /// Some do not go.
    pub fn kill_processes(&self) -> Result<()> {
        let failures = super::teardown::kill_processes(std::slice::from_ref(&self.name));
        ensure!(failures.is_empty(), "{}: {}", self.name, failures.join("; "));
        Ok(())
    }

    /// Calls `ip` with `arguments` for this namespace and returns its output.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn ip(&self, arguments: &[&str]) -> Result<String> {
        let arguments = [&["-n", &self.name], arguments].concat();
        output("ip", &arguments)
    }

    /// Calls `tc` with `arguments` for this namespace and returns its output.
    ///
    /// # Errors
    /// What `tc` says.
    pub fn tc(&self, arguments: &[&str]) -> Result<String> {
        let arguments = [&["-n", &self.name], arguments].concat();
        output("tc", &arguments)
    }

    /// Has `nft` carry out a command in this namespace.
    ///
    /// # Errors
    /// What `nft` says.
    pub fn nft(&self, command: &str) -> Result<()> {
        let mut nft = self.command("nft")?;
        nft.arg(command);
        let finished = finish(nft, COMMAND_TIME_MAX)?;
        ensure!(finished.status.success(), "nft {command}: {}", finished.stderr.trim());
        Ok(())
    }

    /// Writes a setting below `/proc/sys/net`, such as `("ipv4/ip_forward", "1")`.
    ///
    /// # Errors
    /// There is no such setting, or it refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.run(|| set_sysctl(key, value))
    }
}

/// Processes whose network namespace is the one named `name`; never the calling process.
pub(crate) fn processes_in(name: &str) -> Vec<i32> {
    let Ok(wanted) = fs::metadata(Path::new(NAMES_DIR).join(name)) else {
        return Vec::new();
    };
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|&pid| u32::try_from(pid).is_ok_and(|pid| pid != std::process::id()))
        .filter(|pid| {
            // A zombie has no namespace any more, and so does not count.
            fs::metadata(format!("/proc/{pid}/ns/net"))
                .is_ok_and(|own| own.ino() == wanted.ino() && own.dev() == wanted.dev())
        })
        .collect()
}

/// `/proc/sys/net` shows the namespace of the calling thread.
fn set_sysctl(key: &str, value: &str) -> Result<()> {
    fs::write(Path::new("/proc/sys/net").join(key), value)
        .with_context(|| format!("cannot set net/{key} to {value}"))
}
