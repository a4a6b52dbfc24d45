//! `bench reload`: for how long a node is silent that takes a changed configuration, a changed key or
//! another program over, or is restarted with a word before it, and what its peer makes of it.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use ha_tests::bed::{AUTHKEYS, Event, Node};
use ha_tests::clock::{as_ns, ms};
use ha_tests::observe::{StallRecorder, Tap};
use nix::sys::signal::Signal;

use crate::pair::{OWNER, Pair, STEP_TIME_MAX, SURVIVOR, Timing};
use crate::report::{Figures, Report};
use crate::sample::Sample;

/// Longest time between two heartbeats on the wire, from the request until the end.
const GAP: &str = "longest time between heartbeats";
/// From the request until the daemon says that it is done.
const DONE: &str = "request to done";
/// The peer's events that are a transition, or nearly one.
const TRANSITIONS: [&str; 7] = [
    "node-dead",
    "daemon-gone",
    "node-left",
    "node-late",
    "link-dead",
    "takeover",
    "connection-closed",
];
/// Those that are one.
const DEAD: [&str; 9] = [
    "node-dead",
    "daemon-gone",
    "node-left",
    "takeover",
    "give-back",
    "group-started",
    "group-stopped",
    "custody-ended",
    "double-owner",
];
/// The same, of a restart.
const MOVES: [&str; 8] = [
    "node-dead",
    "node-left",
    "takeover",
    "give-back",
    "group-started",
    "group-stopped",
    "custody-ended",
    "double-owner",
];
/// Quiet time between two changes, in which the peers settle keys and the next one is not refused.
const REST_TIME: Duration = Duration::from_millis(600);
/// For how long heartbeats are still counted when the change is done.
const AFTERMATH: Duration = Duration::from_millis(100);

/// Options of `bench reload`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    timing: Timing,
    /// How often each kind of change is made on each node
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    runs: usize,
    /// Only these kinds
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    kinds: Vec<Change>,
}

/// What is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Change {
    /// The same configuration once more.
    Reload,
    /// The same program once more.
    Reexec,
    /// Another key; the peer gets it after this node.
    Key,
    /// Another process: `hactl detach`, then a start.
    Restart,
}

impl Change {
    const ALL: [Self; 4] = [Self::Reload, Self::Reexec, Self::Key, Self::Restart];

    fn name(self) -> &'static str {
        match self {
            Self::Reload => "reload (SIGHUP)",
            Self::Reexec => "upgrade in place (SIGUSR2)",
            Self::Key => "key changed and reload",
            Self::Restart => "announced restart (detach)",
        }
    }

    /// Events at the peer that are a transition, or nearly one. That another daemon comes is none.
    fn transitions(self) -> &'static [&'static str] {
        match self {
            Self::Reload | Self::Reexec | Self::Key => &TRANSITIONS,
            Self::Restart => &MOVES,
        }
    }

    fn signal(self) -> Signal {
        match self {
            Self::Reload | Self::Key => Signal::SIGHUP,
            Self::Reexec => Signal::SIGUSR2,
            Self::Restart => Signal::SIGUSR1,
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Reload | Self::Key => "reloaded",
            Self::Reexec => "reexecuted",
            Self::Restart => "active",
        }
    }
}

/// Runs the benchmark.
pub(crate) fn run(options: &Options) -> Result<Report> {
    let mut report = Report::new("reload");
    let stalls = StallRecorder::start()?;
    let mut pair = Pair::start(&options.timing, false)?;
    report.settings.push(("timing", options.timing.text()));
    report.settings.extend(pair.settings()?);
    let mut samples = Vec::new();
    let mut transitions: Vec<(&str, String, Event)> = Vec::new();
    let mut key = 0;
    for run in 1..=options.runs {
        for change in Change::ALL {
            if !options.kinds.is_empty() && !options.kinds.contains(&change) {
                continue;
            }
            if matches!(change, Change::Key) {
                key += 1;
            }
            // The standby first, as an operator would.
            for (node, peer) in [(SURVIVOR, OWNER), (OWNER, SURVIVOR)] {
                let before = pair.cluster.node(peer)?.status()?.events;
                let mut sample = take_over(&mut pair, node, change, key)?;
                sample.run = run;
                let to_ns = sample.at_ns + sample.value(DONE).unwrap_or_default();
                sample.observe_stalls(&stalls, sample.at_ns, to_ns);
                let events = pair.cluster.node(peer)?.events()?;
                let new = events.into_iter().filter(|event| event.id > before);
                let bad = new.filter(|event| change.transitions().contains(&event.kind.as_str()));
                for event in bad {
                    sample.remarks.push(format!("{peer} says {}: {}", event.kind, event.message));
                    transitions.push((change.name(), peer.to_owned(), event));
                }
                eprintln!("{}", sample.text());
                samples.push(sample);
            }
        }
    }
    let title = format!("of {} changes of each kind: events at the peer", options.runs * 2);
    let rows = Change::ALL.map(|change| {
        let of = |kinds: &[&str]| {
            let of_change = transitions.iter().filter(|(name, ..)| *name == change.name());
            of_change.filter(|(.., event)| kinds.contains(&event.kind.as_str())).count().to_string()
        };
        let dead = of(&DEAD);
        (change.name().to_owned(), vec![dead, of(&["link-dead"]), of(&["node-late"])])
    });
    let columns = vec!["dead or taken over", "link dead", "late"];
    report.figures.push(Figures { title, columns, rows: rows.to_vec() });
    let whole = pair.whole();
    report.finish(samples);
    report.list_outliers(GAP, as_ns(options.timing.deadtime));
    if !whole {
        report.failures.push("the group is not where it was".to_owned());
    }
    report.notes.push(format!(
        "the gap contains one keepalive; a deadline is missed when it is longer than {}",
        ms(as_ns(options.timing.deadtime))
    ));
    pair.finish()?;
    Ok(report)
}

fn take_over(pair: &mut Pair, name: &str, change: Change, key: u32) -> Result<Sample> {
    thread::sleep(REST_TIME);
    if change == Change::Restart {
        return restart(pair, name);
    }
    let node = pair.cluster.node(name)?;
    if matches!(change, Change::Key) {
        let config = pair.cluster.plan.config(&node.authkeys_path());
        let keys = AUTHKEYS.replace("a-secret", &format!("secret-{key}"));
        node.configure(&config, &keys)?;
    }
    let tap = Tap::open(&pair.cluster.bed.switch())?;
    let at_ns = node.signal(change.signal())?;
    let done = node.wait_event(change.done(), at_ns, STEP_TIME_MAX)?;
    sample(pair, node, change, &tap, at_ns, &done)
}

/// The daemon ends and another process goes on. On the node that owns nothing there is nothing to
/// adopt.
fn restart(pair: &mut Pair, name: &str) -> Result<Sample> {
    let tap = Tap::open(&pair.cluster.bed.switch())?;
    let at_ns = pair.cluster.node(name)?.signal(Change::Restart.signal())?;
    let node = pair.cluster.node_mut(name)?;
    node.wait_exit(STEP_TIME_MAX)?;
    node.start()?;
    node.wait_ready(STEP_TIME_MAX)?;
    let node = pair.cluster.node(name)?;
    let done = node.wait_event(Change::Restart.done(), at_ns, STEP_TIME_MAX)?;
    if name == OWNER {
        node.wait_event("group-adopted", at_ns, STEP_TIME_MAX)?;
    }
    sample(pair, node, Change::Restart, &tap, at_ns, &done)
}

/// What was seen of a change that is done, a moment later: what follows it is on the wire by then.
fn sample(
    pair: &Pair,
    node: &Node,
    change: Change,
    tap: &Tap,
    at_ns: u64,
    done: &Event,
) -> Result<Sample> {
    thread::sleep(AFTERMATH);
    Ok(Sample {
        case: change.name().to_owned(),
        run: 0,
        at_ns,
        fault_ns: 0,
        values: vec![
            (GAP, longest_gap_ns(pair, node, tap)?),
            (DONE, done.monotonic_ns.checked_sub(at_ns)),
        ],
        stalls: Vec::new(),
        lock_waits: Vec::new(),
        remarks: Vec::new(),
    })
}

/// Of all networks, the one with the longest gap.
fn longest_gap_ns(pair: &Pair, node: &Node, tap: &Tap) -> Result<Option<u64>> {
    let passed = tap.take();
    let mut longest = None;
    for interface in ["hb0", "eth0"] {
        let mac = pair.cluster.bed.mac(node.name(), interface)?;
        let heartbeats = passed
            .iter()
            .filter(|it| it.is_heartbeat() && it.mac_text() == *mac)
            .map(|it| it.at_ns);
        let mut last = None;
        for at_ns in heartbeats {
            longest = longest.max(last.map(|last: u64| at_ns.saturating_sub(last)));
            last = Some(at_ns);
        }
        last.context("no heartbeat was seen")?;
    }
    Ok(longest)
}
