//! What the figures were measured on.

use std::fs;

use serde::Serialize;

/// The machine, for the report.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    kernel: String,
    processor: String,
    cpus: usize,
    /// Load average when the benchmark began: others may be working here.
    load: String,
}

impl Machine {
    /// What this machine says of itself; "unknown" for what it does not say.
    pub(crate) fn here() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let processor = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or("unknown", |(_, name)| name);
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: processor.to_owned(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            load: read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
        }
    }

    /// One line.
    pub(crate) fn text(&self) -> String {
        format!(
            "Linux {}, {} CPUs ({}), load at the start {}",
            self.kernel, self.cpus, self.processor, self.load
        )
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|_| "unknown".to_owned())
}
