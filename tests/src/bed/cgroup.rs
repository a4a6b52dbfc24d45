//! A memory control group of a bed: what runs in it meets the limit, and the machine does not.
//!
//! Named after the bed, so that teardown finds it although nobody remembered it.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Bed;

/// How long a group may stay busy after its processes were killed.
const GONE_TIME_MAX: Duration = Duration::from_secs(3);

/// A memory control group.
#[derive(Debug)]
pub struct MemoryGroup {
    directory: PathBuf,
    parent: PathBuf,
}

/// Where this machine keeps memory control groups.
struct Hierarchy {
    root: PathBuf,
    limit_file: &'static str,
}

impl MemoryGroup {
    /// Makes a group of `bed` that may use so many bytes.
    ///
    /// # Errors
    /// There is no memory controller here, or it cannot be written.
    pub fn create(bed: &Bed, limit_bytes: u64) -> Result<Self> {
        let Hierarchy { root, limit_file } =
            hierarchy().context("there is no memory controller here")?;
        let directory = root.join(format!("{}memory", bed.prefix()));
        bed.world.make(|| {
            fs::create_dir(&directory)
                .with_context(|| format!("cannot make the control group {}", directory.display()))
        })?;
        let group = Self { directory, parent: root };
        let limit = group.directory.join(limit_file);
        fs::write(&limit, limit_bytes.to_string())
            .with_context(|| format!("cannot write {}", limit.display()))?;
        Ok(group)
    }

    /// The file that takes process ids.
    #[must_use]
    pub fn procs_path(&self) -> PathBuf {
        self.directory.join("cgroup.procs")
    }

    /// Puts processes into it; what they have allocated before stays where it is.
    ///
    /// # Errors
    /// The kernel refuses one of them; one that has ended is no error.
    pub fn adopt(&self, pids: &[i32]) -> Result<()> {
        for pid in pids {
            match fs::write(self.procs_path(), pid.to_string()) {
                // It has ended meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                written => written
                    .with_context(|| format!("cannot put process {pid} into the control group"))?,
            }
        }
        Ok(())
    }

    /// Removes it; processes that are still in it go back to its parent.
    ///
    /// # Errors
    /// It stays busy.
    pub fn remove(self) -> Result<()> {
        remove(&self.directory, &self.parent)
    }
}

/// Removes all groups with that prefix. Returns what failed.
pub(super) fn remove_all(prefix: &str) -> Vec<String> {
    let Some(Hierarchy { root, .. }) = hierarchy() else { return Vec::new() };
    let Ok(entries) = fs::read_dir(&root) else { return Vec::new() };
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|it| it.starts_with(prefix))
        })
        .filter_map(|path| Some(format!("{:#}", remove(&path, &root).err()?)))
        .collect()
}

fn remove(directory: &Path, parent: &Path) -> Result<()> {
    let deadline = Instant::now() + GONE_TIME_MAX;
    loop {
        for pid in fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default().lines() {
            // Gone in between is as good.
            let _ = fs::write(parent.join("cgroup.procs"), pid);
        }
        match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                bail!("cannot remove the control group {}: {error}", directory.display())
            }
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn hierarchy() -> Option<Hierarchy> {
    find_hierarchy(&fs::read_to_string("/proc/self/mountinfo").ok()?)
}

/// Version 1 has the controller at a mount of its own; version 2 only where the root hands it on.
fn find_hierarchy(mounts: &str) -> Option<Hierarchy> {
    let parsed = || {
        mounts.lines().filter_map(|line| {
            let (place, kind) = line.split_once(" - ")?;
            let mut kind = kind.split(' ');
            let (name, options) = (kind.next()?, kind.nth(1)?);
            Some((PathBuf::from(place.split(' ').nth(4)?), name, options))
        })
    };
    let first = parsed().find(|(_, name, options)| {
        *name == "cgroup" && options.split(',').any(|option| option == "memory")
    });
    if let Some((root, ..)) = first {
        return Some(Hierarchy { root, limit_file: "memory.limit_in_bytes" });
    }
    let (root, ..) = parsed().find(|(_, name, _)| *name == "cgroup2")?;
    let handed_on = fs::read_to_string(root.join("cgroup.subtree_control")).ok()?;
    handed_on
        .split_whitespace()
        .any(|controller| controller == "memory")
        .then_some(Hierarchy { root, limit_file: "memory.max" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controller_of_version_1_is_found_at_its_mount() {
        let mounts = "30 24 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      31 24 0:27 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory\n";
        let found = find_hierarchy(mounts).unwrap();
        assert_eq!(found.root, Path::new("/sys/fs/cgroup/memory"));
        assert_eq!(found.limit_file, "memory.limit_in_bytes");
        assert!(find_hierarchy("30 24 0:26 / /x rw - cgroup cgroup rw,cpu\n").is_none());
        assert!(find_hierarchy("nonsense").is_none());
    }
}
