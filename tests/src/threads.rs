//! How the kernel schedules the threads of a process, and what memory it locked, from `/proc`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// `SCHED_OTHER` (sched.h).
pub const OTHER: u64 = 0;
/// `SCHED_FIFO`.
pub const FIFO: u64 = 1;

/// One thread (proc(5): `stat`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thread {
    /// Its name.
    pub name: String,
    /// Pages that it touched and that were not there, without waiting for a disk.
    pub minor_faults: u64,
    /// Its real-time priority; 0: none.
    pub priority: u64,
    /// Its policy.
    pub policy: u64,
}

/// All threads of a process.
///
/// # Errors
/// There is no such process.
pub fn of(pid: i32) -> Result<Vec<Thread>> {
    let tasks = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))?;
    let mut threads = Vec::new();
    for entry in entries {
        // A thread that ended meanwhile is not there any more.
        if let Ok(stat) = fs::read_to_string(entry?.path().join("stat")) {
            threads.push(parse(&stat).with_context(|| format!("unknown format: {stat}"))?);
        }
    }
    Ok(threads)
}

/// The thread of that name.
///
/// # Errors
/// The process is gone, or has no such thread.
pub fn named(pid: i32, name: &str) -> Result<Thread> {
    let found = of(pid)?.into_iter().find(|it| it.name == name);
    found.with_context(|| format!("process {pid} has no thread {name}"))
}

/// Memory that a process has locked, in KiB.
///
/// # Errors
/// The process is gone.
pub fn locked_kib(pid: i32) -> Result<u64> {
    let path = Path::new("/proc").join(pid.to_string()).join("status");
    let status =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    let text = line.context("no VmLck")?.trim().trim_end_matches(" kB").to_owned();
    Ok(text.parse()?)
}

fn parse(stat: &str) -> Option<Thread> {
    // The second field, the name, may have blanks, and ends with the last parenthesis.
    let (head, rest) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // As proc(5) numbers them; the first one behind the name is the third.
    let field = |number: usize| fields.get(number - 3)?.parse().ok();
    Some(Thread {
        name: name.to_owned(),
        minor_faults: field(10)?,
        priority: field(40)?,
        policy: field(41)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_read_whatever_its_name() {
        let stat = "7 (a) (b c)) S 1 1 1 0 -1 64 321 0 0 0 0 0 0 0 -62 0 9 0 5 0 0 1 0 0 0 0 0 \
                    0 0 0 0 0 0 0 -1 1 62 1 0 0 0 0 0 0 0 0 0 0 0\n";
        let thread = parse(stat).unwrap();
        assert_eq!(thread.name, "a) (b c)");
        assert_eq!((thread.minor_faults, thread.priority, thread.policy), (321, 62, FIFO));
        assert_eq!(parse("7 (a"), None);
        assert_eq!(parse("7 (a) S 1"), None);
    }

    #[test]
    fn these_threads_have_no_priority() {
        let pid = std::process::id().cast_signed();
        assert!(of(pid).unwrap().iter().all(|it| it.policy != FIFO && it.priority == 0));
        assert!(named(pid, "nobody").is_err());
        locked_kib(pid).unwrap();
    }
}
