//! `bench idle`: what a settled node costs.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::pair::{OWNER, Pair, SURVIVOR, Timing};
use crate::report::{Figures, Report};

/// Options of `bench idle`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    timing: Timing,
    /// How long to measure
    #[arg(long = "for", value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    length: Duration,
}

/// What a thread has used so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Usage {
    cpu_ns: u64,
    voluntary: u64,
    involuntary: u64,
}

/// Threads by name and id.
type Threads = BTreeMap<(String, i32), Usage>;

/// Runs the benchmark.
pub(crate) fn run(options: &Options) -> Result<Report> {
    let mut report = Report::new("idle");
    let pair = Pair::start(&options.timing, false)?;
    report.settings.push(("timing", options.timing.text()));
    report.settings.extend(pair.settings()?);
    for node in [OWNER, SURVIVOR] {
        let processes = pair.cluster.node(node)?.processes()?;
        let role = if node == OWNER { "owner" } else { "standby" };
        // What the question for the processes has woken must fall asleep again.
        thread::sleep(Duration::from_secs(1));
        measure(&mut report, &format!("{role}: daemon"), processes.daemon, options.length)?;
        if let Some(keeper) = processes.keeper {
            memory(&mut report, &format!("{role}: keeper"), keeper)?;
        }
    }
    report.notes.push(
        "the work of the XDP program is the kernel's and not in these figures: see `bench xdp`"
            .to_owned(),
    );
    pair.finish()?;
    Ok(report)
}

fn measure(report: &mut Report, title: &str, pid: i32, length: Duration) -> Result<()> {
    let before = threads(pid)?;
    let start = Instant::now();
    thread::sleep(length);
    let after = threads(pid)?;
    let seconds = start.elapsed().as_secs_f64();
    let mut total = [0.0; 3];
    let mut rows = Vec::new();
    for (thread, now) in &after {
        let then = before.get(thread).cloned().unwrap_or_default();
        let rates = [
            now.cpu_ns - then.cpu_ns,
            now.voluntary - then.voluntary,
            now.involuntary - then.involuntary,
        ]
        .map(|count| count as f64 / seconds);
        for (sum, rate) in total.iter_mut().zip(rates) {
            *sum += rate;
        }
        rows.push((thread.0.clone(), shown(rates)));
    }
    rows.push(("all threads".to_owned(), shown(total)));
    let title = format!("{title}, {seconds:.1} s");
    let columns = vec!["CPU ns/s", "sleeps/s", "preempted/s"];
    report.figures.push(Figures { title, columns, rows });
    memory(report, "  its memory", pid)
}

fn shown(rates: [f64; 3]) -> Vec<String> {
    vec![format!("{:.0}", rates[0]), format!("{:.1}", rates[1]), format!("{:.1}", rates[2])]
}

fn memory(report: &mut Report, title: &str, pid: i32) -> Result<()> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let row = |name: &str| {
        let figure = field(&text, name).map_or_else(|| "-".to_owned(), |kib| kib.to_string());
        (name.to_owned(), vec![figure])
    };
    let rows = vec![row("Rss"), row("Pss"), row("Locked")];
    report.figures.push(Figures { title: title.to_owned(), columns: vec!["KiB"], rows });
    Ok(())
}

fn threads(pid: i32) -> Result<Threads> {
    let directory = format!("/proc/{pid}/task");
    let mut threads = Threads::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("cannot list {directory}"))? {
        let path = entry?.path();
        let id = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        let read = |name: &str| fs::read_to_string(path.join(name));
        // A thread may end while it is looked at.
        let (Some(id), Ok(name), Ok(times), Ok(status)) =
            (id, read("comm"), read("schedstat"), read("status"))
        else {
            continue;
        };
        let cpu_ns = times.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0);
        let usage = Usage {
            cpu_ns,
            voluntary: field(&status, "voluntary_ctxt_switches").unwrap_or(0),
            involuntary: field(&status, "nonvoluntary_ctxt_switches").unwrap_or(0),
        };
        threads.insert((name.trim().to_owned(), id), usage);
    }
    Ok(threads)
}

/// The number in the line `name:   number ...`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "nonvoluntary_ctxt_switches:\t2\nvoluntary_ctxt_switches:\t40\nPss:  17 kB\n";
        assert_eq!(field(text, "voluntary_ctxt_switches"), Some(40));
        assert_eq!(field(text, "Pss"), Some(17));
        assert_eq!(field(text, "Ps"), None);
    }

    #[test]
    fn this_process_has_a_thread_that_has_run() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let threads = threads(pid).unwrap();
        assert!(threads.values().any(|usage| usage.cpu_ns > 0), "{threads:?}");
    }
}
