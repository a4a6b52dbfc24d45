//! What a process costs, from `/proc`: processor time and context switches by thread, memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::clock::monotonic_ns;

/// What one thread has used since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThreadFigures {
    /// Time on a processor, nanoseconds (`schedstat`; includes interrupts that hit it there).
    pub cpu_ns: u64,
    /// Times that it went to sleep by itself.
    pub voluntary: u64,
    /// Times that it was taken off its processor.
    pub involuntary: u64,
}

/// All threads of a process at one moment, by their names; those of one name are added up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figures {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub at_ns: u64,
    /// By name.
    pub threads: BTreeMap<String, ThreadFigures>,
}

/// Memory of a process in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Resident set (`Rss` of `smaps_rollup`, which is exact where `VmRSS` lags).
    pub rss_kib: u64,
    /// The same with shared pages divided by their users (`Pss` of `smaps_rollup`).
    pub pss_kib: u64,
    /// Of it, what belongs to this process alone (`Private_*`).
    pub private_kib: u64,
    /// Of the resident set, what is not of the program's file: heap, stacks, libraries, maps.
    pub beyond_program_kib: u64,
}

impl Figures {
    /// Those of a process now.
    ///
    /// # Errors
    /// There is no such process.
    pub fn of(pid: i32) -> Result<Self> {
        let mut threads: BTreeMap<String, ThreadFigures> = BTreeMap::new();
        let tasks = format!("/proc/{pid}/task");
        for entry in fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))? {
            // A thread that ended meanwhile is not there any more.
            if let Ok((name, figures)) = thread(&entry?.path()) {
                let sum = threads.entry(name).or_default();
                sum.cpu_ns += figures.cpu_ns;
                sum.voluntary += figures.voluntary;
                sum.involuntary += figures.involuntary;
            }
        }
        Ok(Self { at_ns: monotonic_ns(), threads })
    }

    /// What was used from `before` until this moment.
    #[must_use]
    pub fn since(&self, before: &Self) -> Use {
        let threads = self.threads.iter().map(|(name, now)| {
            let then = before.threads.get(name).copied().unwrap_or_default();
            let used = ThreadFigures {
                cpu_ns: now.cpu_ns.saturating_sub(then.cpu_ns),
                voluntary: now.voluntary.saturating_sub(then.voluntary),
                involuntary: now.involuntary.saturating_sub(then.involuntary),
            };
            (name.clone(), used)
        });
        Use {
            time: Duration::from_nanos(self.at_ns.saturating_sub(before.at_ns)),
            threads: threads.collect(),
        }
    }
}

/// What was used in some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// How long that was.
    pub time: Duration,
    /// By thread.
    pub threads: BTreeMap<String, ThreadFigures>,
}

impl Use {
    /// Share of one processor, all threads together.
    #[must_use]
    pub fn cpu_share(&self) -> f64 {
        let used: u64 = self.threads.values().map(|thread| thread.cpu_ns).sum();
        used as f64 / self.time.as_nanos() as f64
    }

    /// Context switches of every kind of all threads but those named.
    #[must_use]
    pub fn switches_without(&self, names: &[&str]) -> u64 {
        self.threads
            .iter()
            .filter(|(name, _)| !names.contains(&name.as_str()))
            .map(|(_, thread)| thread.voluntary + thread.involuntary)
            .sum()
    }

    /// How often a thread went to sleep by itself, a second, all threads together: how often
    /// something woke one. Unlike processor time it is the same on a fast and on a slow machine.
    #[must_use]
    pub fn sleeps_per_second(&self) -> f64 {
        let sleeps: u64 = self.threads.values().map(|thread| thread.voluntary).sum();
        sleeps as f64 / self.time.as_secs_f64()
    }

    /// What a thread used; nothing for an unknown one.
    #[must_use]
    pub fn thread(&self, name: &str) -> ThreadFigures {
        self.threads.get(name).copied().unwrap_or_default()
    }

    /// One line for each thread.
    #[must_use]
    pub fn table(&self) -> String {
        let seconds = self.time.as_secs_f64();
        let mut text = format!("in {seconds:.2} s, {:.3} % of a core:\n", self.cpu_share() * 100.0);
        for (name, thread) in &self.threads {
            text.push_str(&format!(
                "  {name:16} {:>9.0} ns/s  {:>8.1} voluntary/s  {:>6.1} involuntary/s\n",
                thread.cpu_ns as f64 / seconds,
                thread.voluntary as f64 / seconds,
                thread.involuntary as f64 / seconds,
            ));
        }
        text
    }
}

impl Memory {
    /// That of a process now.
    ///
    /// # Errors
    /// There is no such process.
    pub fn of(pid: i32) -> Result<Self> {
        let rollup = read(Path::new(&format!("/proc/{pid}/smaps_rollup")))?;
        let program = fs::read_link(format!("/proc/{pid}/exe"))?;
        let maps = read(Path::new(&format!("/proc/{pid}/smaps")))?;
        let rss_kib = number(&rollup, "Rss:")?;
        let program_kib = rss_of(&maps, &program.display().to_string())?;
        Ok(Self {
            rss_kib,
            beyond_program_kib: rss_kib.saturating_sub(program_kib),
            pss_kib: number(&rollup, "Pss:")?,
            private_kib: number(&rollup, "Private_Clean:")? + number(&rollup, "Private_Dirty:")?,
        })
    }
}

/// Resident KiB of all mappings of one file in the text of an `smaps`.
fn rss_of(maps: &str, file: &str) -> Result<u64> {
    let mut is_of_file = false;
    let mut sum = 0;
    for line in maps.lines() {
        // The line that begins a mapping is the only one without a label.
        if !line.split(' ').next().is_some_and(|label| label.ends_with(':')) {
            is_of_file = line.ends_with(&format!(" {file}"));
        } else if is_of_file && line.starts_with("Rss:") {
            sum += number(line, "Rss:")?;
        }
    }
    Ok(sum)
}

fn thread(task: &Path) -> Result<(String, ThreadFigures)> {
    let status = read(&task.join("status"))?;
    let schedstat = read(&task.join("schedstat"))?;
    let cpu_ns = schedstat.split(' ').next().unwrap_or_default().parse()?;
    let figures = ThreadFigures {
        cpu_ns,
        voluntary: number(&status, "voluntary_ctxt_switches:")?,
        involuntary: number(&status, "nonvoluntary_ctxt_switches:")?,
    };
    Ok((read(&task.join("comm"))?.trim().to_owned(), figures))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The number behind a label at the beginning of a line.
fn number(text: &str, label: &str) -> Result<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(label)?.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("no number behind {label}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_computes_uses_time_and_has_memory() -> Result<()> {
        let pid = std::process::id().cast_signed();
        let before = Figures::of(pid)?;
        let end_ns = monotonic_ns() + 30_000_000;
        while monotonic_ns() < end_ns {}
        std::thread::sleep(Duration::from_millis(1));
        let used = Figures::of(pid)?.since(&before);
        assert!(used.cpu_share() > 0.01, "{}", used.table());
        assert!(used.switches_without(&[]) > 0, "{}", used.table());
        let memory = Memory::of(pid)?;
        assert!(memory.rss_kib > 100 && memory.pss_kib <= memory.rss_kib);
        assert!((1..memory.rss_kib).contains(&memory.beyond_program_kib), "{memory:?}");
        Ok(())
    }
}
