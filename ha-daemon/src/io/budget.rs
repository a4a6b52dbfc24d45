//! How much time the kernel gives to real-time threads of this daemon, and what an operator can do
//! where that is too little. Looked at once, at the start.

use std::fs;
use std::path::Path;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use super::realtime::SENDER_PRIORITY;
use crate::config::Realtime;

/// Less than that share of the time (in percent) is too little: the threads need a hundredth, and a
/// busy neighbour in the same control group the rest.
const SHARE_MIN_PERCENT: i64 = 10;
/// `CAP_SYS_NICE` (linux/capability.h).
const CAP_SYS_NICE: u32 = 23;
/// From this version on the kernel's fair server, not the throttle, keeps time for ordinary tasks.
const FAIR_SERVER: (u32, u32) = (6, 12);

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Budget {
    /// The limits, for `hactl status`.
    pub limits: String,
    /// What is too little, or was refused, with what helps.
    pub warnings: Vec<String>,
}

/// What the kernel says, before it is judged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Machine {
    /// Runtime and period of the whole machine in microseconds, -1 = no limit.
    global_us: Option<(i64, i64)>,
    /// The control group, when it has a budget of its own, with runtime and period.
    group_us: Option<(String, i64, i64)>,
    /// Highest real-time priority without a capability.
    priority_max: u64,
    may_nice: bool,
    release: (u32, u32),
}

impl Budget {
    /// Asks the kernel.
    #[must_use]
    pub fn find(realtime: Realtime) -> Self {
        if !realtime.enabled {
            return Self {
                limits: "not asked for, as configured".to_owned(),
                warnings: Vec::new(),
            };
        }
        Machine::read().judge()
    }
}

impl Machine {
    fn read() -> Self {
        let kernel = Path::new("/proc/sys/kernel");
        let runtime = number(&kernel.join("sched_rt_runtime_us"));
        let period = number(&kernel.join("sched_rt_period_us"));
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            global_us: runtime.zip(period),
            group_us: group_of(&groups).and_then(group_budget),
            priority_max: getrlimit(Resource::RLIMIT_RTPRIO)
                .map_or(0, |(soft, _)| if soft == RLIM_INFINITY { 99 } else { soft }),
            may_nice: has_capability(&status, CAP_SYS_NICE),
            release: version(&release),
        }
    }

    fn judge(&self) -> Budget {
        let mut budget = Budget::default();
        let mut limits = Vec::new();
        if let Some((runtime_us, period_us)) = self.global_us {
            limits.push(format!("{} of the machine", share(runtime_us, period_us)));
            if is_small(runtime_us, period_us) {
                budget.warnings.push(format!(
                    "the kernel gives real-time threads {}; set the sysctl \
                     kernel.sched_rt_runtime_us to its default, 950000",
                    share(runtime_us, period_us)
                ));
            }
        }
        if let Some((group, runtime_us, period_us)) = &self.group_us {
            limits.push(format!("{} of control group {group}", share(*runtime_us, *period_us)));
            if is_small(*runtime_us, *period_us) {
                budget.warnings.push(format!(
                    "the control group {group} gives real-time threads {}; write more to its \
                     cpu.rt_runtime_us (and to those above it), or start the daemon in another group",
                    share(*runtime_us, *period_us)
                ));
            }
        }
        if self.release >= FAIR_SERVER {
            limits.push("ordinary tasks kept alive by the fair server".to_owned());
        }
        if !self.may_nice && self.priority_max < u64::from(SENDER_PRIORITY) {
            budget.warnings.push(format!(
                "the highest real-time priority that this daemon may ask for is {} and it wants \
                 {SENDER_PRIORITY}; grant CAP_SYS_NICE, or raise RLIMIT_RTPRIO (LimitRTPRIO= of the unit)",
                self.priority_max
            ));
        }
        budget.limits = limits.join(", ");
        budget
    }
}

fn number(path: &Path) -> Option<i64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Path of this process in the hierarchy of version 1 that has the controller `cpu`. Version 2 knows no
/// budget of a group: there, with `RT_GROUP_SCHED`, only the root group has real-time threads, and
/// what a thread was refused says so.
fn group_of(groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|it| it == "cpu").then_some(path)
    })
}

fn group_budget(group: &str) -> Option<(String, i64, i64)> {
    let places = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpuacct,cpu"];
    places.iter().find_map(|place| {
        let directory = Path::new(place).join(group.trim_start_matches('/'));
        let runtime_us = number(&directory.join("cpu.rt_runtime_us"))?;
        let period_us = number(&directory.join("cpu.rt_period_us"))?;
        Some((group.to_owned(), runtime_us, period_us))
    })
}

/// Whether the effective set of `/proc/self/status` has a capability.
fn has_capability(status: &str, capability: u32) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = effective.and_then(|it| u64::from_str_radix(it.trim(), 16).ok());
    set.is_some_and(|set| set >> capability & 1 == 1)
}

fn version(release: &str) -> (u32, u32) {
    let mut parts = release.split(|it: char| !it.is_ascii_digit()).map(str::parse);
    let mut next = || parts.next().and_then(Result::ok).unwrap_or(0);
    (next(), next())
}

fn is_small(runtime_us: i64, period_us: i64) -> bool {
    runtime_us >= 0 && runtime_us.saturating_mul(100) < period_us.saturating_mul(SHARE_MIN_PERCENT)
}

fn share(runtime_us: i64, period_us: i64) -> String {
    if runtime_us < 0 {
        return "all the time".to_owned();
    }
    format!("{runtime_us} of {period_us} us")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Machine = Machine {
        global_us: Some((950_000, 1_000_000)),
        group_us: None,
        priority_max: 0,
        may_nice: true,
        release: (5, 10),
    };

    #[test]
    fn an_ordinary_machine_is_not_warned_of() {
        let budget = GOOD.judge();
        assert_eq!(budget.limits, "950000 of 1000000 us of the machine");
        assert!(budget.warnings.is_empty(), "{budget:?}");
        let unlimited = Machine { global_us: Some((-1, 1_000_000)), ..GOOD };
        assert!(unlimited.judge().warnings.is_empty());
        let limited = Machine { may_nice: false, priority_max: 62, ..GOOD };
        assert!(limited.judge().warnings.is_empty());
    }

    #[test]
    fn each_lack_is_told_with_its_remedy() {
        let group = Some(("/ha".to_owned(), 0, 1_000_000));
        let machine = Machine {
            global_us: Some((50_000, 1_000_000)),
            group_us: group,
            priority_max: 61,
            may_nice: false,
            release: (6, 12),
        };
        let budget = machine.judge();
        for (warning, remedy) in budget.warnings.iter().zip([
            "kernel.sched_rt_runtime_us",
            "cpu.rt_runtime_us",
            "CAP_SYS_NICE",
        ]) {
            assert!(warning.contains(remedy), "{warning}");
        }
        assert_eq!(budget.warnings.len(), 3);
        assert!(budget.limits.contains("fair server"), "{}", budget.limits);
    }

    #[test]
    fn what_the_kernel_prints_is_read() {
        let groups = "12:memory:/a\n4:cpu,cpuacct:/system.slice/ha.service\n0::/b\n";
        assert_eq!(group_of(groups), Some("/system.slice/ha.service"));
        assert_eq!(group_of("0::/system.slice\n"), None);
        assert_eq!(version("6.12.3-cloud"), (6, 12));
        assert_eq!(version("garbage"), (0, 0));
        assert!(has_capability("Name:\tx\nCapEff:\t0000000000800000\n", CAP_SYS_NICE));
        assert!(!has_capability("CapEff:\t00000000ff7fffff\n", CAP_SYS_NICE));
        assert!(!has_capability("", CAP_SYS_NICE));
    }

    #[test]
    fn this_machine_says_what_it_gives() {
        assert!(!Machine::read().judge().limits.is_empty());
    }
}
