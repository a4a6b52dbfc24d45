//! The steps of the ladder, and what `stress-ng` is asked for in each.

use std::path::Path;

use clap::ValueEnum;

/// Memory of the control group in which the memory step happens.
pub(super) const MEMORY_LIMIT_BYTES: u64 = 512 << 20;
/// Of it, what the workers write to over and over; files fill the rest, so that every further page
/// has to be reclaimed from them.
const MEMORY_USED_BYTES: u64 = 400 << 20;
/// Bound of each file that is written to.
const FILE_BYTES: u64 = 256 << 20;
/// `SCHED_FIFO` of the spinners.
pub(super) const SPINNER_PRIORITY: u8 = 50;

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    /// Nothing
    Idle,
    /// 8 CPU hogs
    Hogs,
    /// A SCHED_FIFO 50 spinner on each CPU
    Fifo,
    /// Timer storm: 8 timer and 4 timerfd workers
    Timers,
    /// Fork storm: 8 workers
    Forks,
    /// Memory at the limit of a control group: reclaim all the time
    Memory,
    /// Disk: 2 workers write and fsync bounded files
    Disk,
    /// Flood of the heartbeat port from a third host
    Flood,
    /// All of them
    All,
}

impl Step {
    /// All, in their order.
    pub(super) const EVERY: [Self; 9] = [
        Self::Idle,
        Self::Hogs,
        Self::Fifo,
        Self::Timers,
        Self::Forks,
        Self::Memory,
        Self::Disk,
        Self::Flood,
        Self::All,
    ];

    /// As tables write it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Hogs => "8 CPU hogs",
            Self::Fifo => "FIFO 50 on each CPU",
            Self::Timers => "timer storm",
            Self::Forks => "fork storm",
            Self::Memory => "memory at its limit",
            Self::Disk => "disk thrash",
            Self::Flood => "flood",
            Self::All => "all together",
        }
    }

    /// The same in one word, as the option takes it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Hogs => "hogs",
            Self::Fifo => "fifo",
            Self::Timers => "timers",
            Self::Forks => "forks",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Flood => "flood",
            Self::All => "all",
        }
    }

    /// Whether this step is part of `self`.
    pub(super) fn has(self, step: Self) -> bool {
        self == step || self == Self::All
    }

    /// Whether it needs `stress-ng`.
    pub(super) fn needs_program(self) -> bool {
        !matches!(self, Self::Idle | Self::Flood)
    }

    /// Arguments of each `stress-ng` to start, with whether it belongs into the memory group; they
    /// keep their files below `directory`.
    pub(super) fn programs(self, cpus: usize, directory: &Path) -> Vec<Program> {
        let mut programs = Vec::new();
        let mut add = |step: Self, text: String| {
            if self.has(step) {
                let arguments = text.split_whitespace().map(str::to_owned).collect();
                programs.push(Program { arguments, limited: step == Self::Memory });
            }
        };
        add(Self::Hogs, "--cpu 8".to_owned());
        for cpu in 0..cpus {
            let scheduling = format!("--sched fifo --sched-prio {SPINNER_PRIORITY}");
            add(Self::Fifo, format!("--cpu 1 --taskset {cpu} {scheduling}"));
        }
        add(Self::Timers, "--timer 8 --timerfd 4".to_owned());
        add(Self::Forks, "--fork 8".to_owned());
        let memory = format!("--vm 2 --vm-bytes {MEMORY_USED_BYTES}");
        // Synchronous: a group of cgroup version 1 that is full of dirty pages may have to allocate one more to
        // write them, within a transaction of ext4, and the machine writes nothing for an hour.
        add(Self::Memory, format!("{memory} --hdd 1 --hdd-bytes {FILE_BYTES} --hdd-opts dsync"));
        add(Self::Disk, format!("--hdd 2 --hdd-bytes {FILE_BYTES} --hdd-opts wr-rnd,fsync"));
        for program in &mut programs {
            program.arguments.extend(["--temp-path".to_owned(), directory.display().to_string()]);
        }
        programs
    }
}

/// What is done in the memory step, for the report.
pub(super) fn memory_text() -> String {
    format!(
        "a control group of {} MiB with the daemons and the load: 2 workers write to {} MiB, one \
         synchronously to files of {} MiB; it reclaims all the time, and the machine's own memory is not short",
        MEMORY_LIMIT_BYTES >> 20,
        MEMORY_USED_BYTES >> 20,
        FILE_BYTES >> 20
    )
}

/// One `stress-ng`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) arguments: Vec<String>,
    pub(super) limited: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_step_is_all_of_them() {
        let directory = Path::new("/x");
        let each: usize =
            Step::EVERY[..8].iter().map(|step| step.programs(2, directory).len()).sum();
        assert_eq!(Step::All.programs(2, directory).len(), each);
        assert!(Step::All.has(Step::Flood) && !Step::Hogs.has(Step::Flood));
        for step in Step::EVERY {
            let value = step.to_possible_value().unwrap();
            assert_eq!(value.get_name(), step.word());
        }
        assert!(Step::Idle.programs(2, directory).is_empty());
    }
}
