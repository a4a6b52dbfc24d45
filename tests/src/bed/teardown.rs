//! Removing a bed by its prefix: what is there is found, not remembered, so that half-made beds and
//! those of killed processes go the same way as tidy ones. Goes on past every failure and returns
//! all of them.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::command::output;
use super::netns::{NAMES_DIR, processes_in};

/// How long killed processes may take to go.
const KILLED_TIME_MAX: Duration = Duration::from_secs(3);

/// Removes all that carries `prefix`: processes in its namespaces, control groups, mounts below its directories,
/// namespaces (with every interface in them), directories. Returns what failed.
pub(crate) fn remove_all(prefix: &str) -> Vec<String> {
    let namespaces = names_in(Path::new(NAMES_DIR), prefix);
    let directories: Vec<PathBuf> = names_in(&std::env::temp_dir(), prefix)
        .into_iter()
        .map(|name| std::env::temp_dir().join(name))
        .filter(|path| is_own_directory(path))
        .collect();
    let mut failures = kill_processes(&namespaces);
    failures.extend(super::cgroup::remove_all(prefix));
    for directory in &directories {
        failures.extend(unmount_below(directory));
    }
    for name in &namespaces {
        if let Err(error) = output("ip", &["netns", "del", name])
            && Path::new(NAMES_DIR).join(name).exists()
        {
            failures.push(format!("cannot remove the namespace {name}: {error:#}"));
        }
    }
    for directory in &directories {
        if let Err(error) = fs::remove_dir_all(directory)
            && error.kind() != ErrorKind::NotFound
        {
            failures.push(format!("cannot remove {}: {error}", directory.display()));
        }
    }
    failures
}

/// Removes beds of processes that are no more (`ha<pid>-<n>-`). Returns what failed.
pub(crate) fn remove_stale() -> Vec<String> {
    let mut prefixes: Vec<String> = [Path::new(NAMES_DIR), &std::env::temp_dir()]
        .into_iter()
        .flat_map(|directory| names_in(directory, "ha"))
        .filter_map(|name| stale_prefix(&name, process_exists))
        .collect();
    prefixes.sort();
    prefixes.dedup();
    prefixes.iter().flat_map(|prefix| remove_all(prefix)).collect()
}

/// Whether anything with that prefix is there.
pub(crate) fn exists(prefix: &str) -> bool {
    !names_in(Path::new(NAMES_DIR), prefix).is_empty()
        || !names_in(&std::env::temp_dir(), prefix).is_empty()
}

/// The prefix `ha<pid>-<n>-` of `name` when its process is gone.
fn stale_prefix(name: &str, alive: impl Fn(i32) -> bool) -> Option<String> {
    let mut parts = name.strip_prefix("ha")?.splitn(3, '-');
    let (pid, number) = (parts.next()?, parts.next()?);
    parts.next()?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(pid) || !digits(number) || alive(pid.parse().ok()?) {
        return None;
    }
    Some(format!("ha{pid}-{number}-"))
}

fn process_exists(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH)
}

fn names_in(directory: &Path, prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect()
}

/// The temporary directory belongs to everyone: only a real directory of our own is removed.
fn is_own_directory(path: &Path) -> bool {
    fs::symlink_metadata(path)
        .is_ok_and(|entry| entry.is_dir() && entry.uid() == nix::unistd::geteuid().as_raw())
}

/// Kills until nothing new shows up: a program may be forking while it is being killed.
pub(super) fn kill_processes(namespaces: &[String]) -> Vec<String> {
    let deadline = Instant::now() + KILLED_TIME_MAX;
    loop {
        let pids: Vec<i32> = namespaces.iter().flat_map(|name| processes_in(name)).collect();
        if pids.is_empty() {
            return Vec::new();
        }
        if Instant::now() > deadline {
            return vec![format!("processes {pids:?} do not go after SIGKILL")];
        }
        for pid in pids {
            // Gone in between is what was wanted.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn unmount_below(directory: &Path) -> Vec<String> {
    let table = match fs::read_to_string("/proc/self/mountinfo") {
        Ok(table) => table,
        Err(error) => return vec![format!("cannot read the mount table: {error}")],
    };
    // Innermost last in the table, so first here.
    table
        .lines()
        .rev()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|point| Path::new(point).starts_with(directory))
        .filter_map(|point| match umount2(point, MntFlags::MNT_DETACH) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => None,
            Err(error) => Some(format!("cannot unmount {point}: {error}")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_scheme_with_a_dead_process_are_stale() {
        let dead = |_| false;
        assert_eq!(stale_prefix("ha12-3-alpha", dead).as_deref(), Some("ha12-3-"));
        assert_eq!(stale_prefix("ha12-3-", dead).as_deref(), Some("ha12-3-"));
        for other in ["ha12-3", "hademo-alpha", "ha-3-x", "ha12--x", "ha1x-3-y", "haproxy", "ha"] {
            assert_eq!(stale_prefix(other, dead), None, "{other}");
        }
        assert_eq!(stale_prefix("ha12-3-alpha", |_| true), None);
    }
}
