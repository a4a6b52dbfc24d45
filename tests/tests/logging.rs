//! Where the log goes, and threads without real-time priority, as configured.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ha_tests::bed::{AUTHKEYS, Cluster, Plan, turn};

const STEP: Duration = Duration::from_secs(20);
/// `SCHED_OTHER` (sched.h).
const OTHER: &str = "0";

/// Scheduling policies of all threads of a process (proc(5): the 41st field of `stat`).
fn policies(pid: i32) -> Result<Vec<String>> {
    let mut policies = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = fs::read_to_string(entry?.path().join("stat"))?;
        // The second field, the name, may have blanks, and ends with the last parenthesis.
        let (_, rest) = stat.rsplit_once(')').context("no name in stat")?;
        policies.push(rest.split_ascii_whitespace().nth(38).context("a short stat")?.to_owned());
    }
    Ok(policies)
}

fn locked_kib(pid: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    let text = line.context("no VmLck")?.trim().trim_end_matches(" kB").to_owned();
    Ok(text.parse()?)
}

fn lines(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[test]
#[ignore = "needs root: network namespaces"]
fn the_log_goes_to_its_file_to_the_last_event_and_nothing_is_realtime() -> Result<()> {
    let _turn = turn();
    let directory = tempfile::tempdir()?;
    let (log, moved) = (directory.path().join("ha-log"), directory.path().join("ha-log.1"));
    let plan = Plan {
        keepalive: Duration::from_millis(100),
        deadtime: Duration::from_secs(2),
        more: format!("\n[logging]\nfile = \"{}\"\n[realtime]\nenabled = false\n", log.display()),
        ..Plan::default()
    };
    let mut cluster = Cluster::build(plan)?;
    let alpha = cluster.node_mut("alpha")?;
    alpha.start()?;
    alpha.wait_ready(STEP)?;
    let (daemon, keeper) = alpha.pids()?;
    for pid in std::iter::once(daemon).chain(keeper) {
        let policies = policies(pid)?;
        ensure!(policies.iter().all(|policy| policy == OTHER), "{pid}: {policies:?}");
        ensure!(locked_kib(pid)? == 0, "{pid} has locked memory");
    }
    alpha.wait_event("takeover", 0, STEP)?;
    // As logrotate does it, without a signal.
    fs::rename(&log, &moved)?;
    alpha.stop()?;
    let (before, after) = (lines(&moved)?, lines(&log)?);
    ensure!(before.contains("takeover"), "{before}");
    ensure!(after.contains("leav") || after.contains("left"), "{after}");
    let on_stderr = alpha.log_tail(1_000);
    for text in [&before, &after, &on_stderr] {
        ensure!(!text.contains('\u{1b}'), "colours where no terminal is: {text}");
        ensure!(!text.contains(AUTHKEYS.split(' ').next_back().unwrap_or("?").trim()), "the key");
    }
    // Whatever standard error got, the files got: nothing was lost at the end.
    let messages = |text: &str| text.lines().filter(|line| line.contains("kind=")).count();
    let (shown, kept) = (messages(&on_stderr), messages(&before) + messages(&after));
    ensure!(shown == kept && shown > 0, "{shown} events on stderr, {kept} in the files");
    cluster.bed.finish()
}
