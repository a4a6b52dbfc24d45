//! `bench reload`: for how long a node is silent that takes a changed configuration, a changed key or
//! another program over, or is restarted with a word before it, and what its peer makes of it.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use ha_tests::bed::{AUTHKEYS, Event, Node};
use ha_tests::clock::{as_ns, monotonic_ns, ms};
use ha_tests::observe::{StallRecorder, Tap};
use nix::sys::signal::Signal;

use crate::pair::{OWNER, Pair, STEP_TIME_MAX, SURVIVOR, Timing, VERDICTS};
use crate::report::{Figures, Report};
use crate::sample::Sample;

/// Longest time between two heartbeats on the wire, from the request until the end.
const GAP: &str = "longest time between heartbeats";
/// From the request until the daemon says that it is done.
const DONE: &str = "request to done";
/// What the peer's events say, each in a column of its own. What none of these kinds is (a new start
/// that is heard, links that come up) is told by kind.
const COLUMNS: [(&str, &[&str]); 6] = [
    ("dead", &["node-dead", "node-left"]),
    ("moves", &MOVES),
    ("link dead", &["link-dead"]),
    ("late", &["node-late"]),
    ("daemon gone", &["daemon-gone"]),
    ("closed", &["connection-closed"]),
];
/// The address, or a group, goes from one node to the other, or may.
const MOVES: [&str; 6] =
    ["takeover", "give-back", "group-started", "group-stopped", "custody-ended", "double-owner"];
/// So ends the word of a keeper whose daemon has announced that it comes back.
const ANNOUNCED: &str = " ended and is to come back: ";
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

impl Options {
    /// The kinds that were asked for.
    fn changes(&self) -> impl Iterator<Item = Change> {
        let wanted = |change: &Change| self.kinds.is_empty() || self.kinds.contains(change);
        Change::ALL.into_iter().filter(wanted)
    }
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

    /// Whether the peer says that by design. A daemon that ends closes its connections, and its keeper
    /// tells that it comes back.
    fn expects(self, event: &Event) -> bool {
        self == Self::Restart && (event.kind == "connection-closed" || is_announced(event))
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
    let mut tallies: Vec<(Change, Tally)> =
        options.changes().map(|it| (it, Tally::default())).collect();
    let mut key = 0;
    let mut from_ns = monotonic_ns();
    for run in 1..=options.runs {
        for (change, tally) in &mut tallies {
            if *change == Change::Key {
                key += 1;
            }
            // The standby first, as an operator would.
            for (node, peer) in [(SURVIVOR, OWNER), (OWNER, SURVIVOR)] {
                let before = pair.cluster.node(peer)?.status()?.events;
                let mut sample = take_over(&mut pair, node, *change, key)?;
                sample.run = run;
                let done_ns = sample.at_ns + sample.value(DONE).unwrap_or_default();
                sample.observe_stalls(&stalls, sample.at_ns, done_ns);
                let events = pair.cluster.node(peer)?.events()?;
                let told = events.into_iter().filter(|event| event.id > before);
                // Without a pause between two windows.
                let to_ns = monotonic_ns();
                let addresses = pair.address_changes(from_ns, to_ns).len();
                from_ns = to_ns;
                sample.remarks.extend(tally.note(*change, peer, told, addresses));
                eprintln!("{}", sample.text());
                samples.push(sample);
            }
        }
    }
    let whole = pair.whole();
    report.finish(samples);
    tell(&tallies, &mut report);
    report.list_outliers(GAP, as_ns(options.timing.deadtime));
    if !whole {
        report.failures.push("the group is not where it was".to_owned());
    }
    report.require_seen("ha", pair.changes_missed());
    report.notes.push(format!(
        "the gap contains one keepalive; a deadline is missed when it is longer than {}",
        ms(as_ns(options.timing.deadtime))
    ));
    pair.finish()?;
    Ok(report)
}

fn is_announced(event: &Event) -> bool {
    event.kind == "daemon-gone" && event.message.contains(ANNOUNCED)
}

/// What changes of one kind came to.
#[derive(Debug, Default)]
struct Tally {
    changes: usize,
    /// Events of the peer by kind.
    kinds: BTreeMap<String, usize>,
    /// Of them, words of a keeper that its daemon comes back, where it does.
    announced: usize,
    /// Times that the address came to a node or went off one.
    addresses: usize,
}

impl Tally {
    /// Counts one change. Returns what is not by design, in words.
    fn note(
        &mut self,
        change: Change,
        peer: &str,
        told: impl Iterator<Item = Event>,
        addresses: usize,
    ) -> Vec<String> {
        let mut remarks = Vec::new();
        for event in told {
            let known = COLUMNS.iter().any(|(_, kinds)| kinds.contains(&event.kind.as_str()));
            let expected = change.expects(&event);
            if known && !expected {
                remarks.push(format!("{peer} says {}: {}", event.kind, event.message));
            }
            self.announced += usize::from(expected && is_announced(&event));
            *self.kinds.entry(event.kind).or_default() += 1;
        }
        if addresses > 0 {
            remarks.push(format!("the address came or went {addresses} times"));
        }
        self.changes += 1;
        self.addresses += addresses;
        remarks
    }

    fn count(&self, kinds: &[&str]) -> usize {
        kinds.iter().filter_map(|kind| self.kinds.get(*kind)).sum()
    }

    /// Verdicts on the node; that its daemon comes back is none.
    fn verdicts(&self) -> usize {
        self.count(&VERDICTS) - self.announced
    }

    fn cells(&self) -> Vec<String> {
        let columns = COLUMNS.iter().map(|(_, kinds)| self.count(kinds));
        let all = [self.changes].into_iter().chain(columns).chain([self.announced, self.addresses]);
        all.map(|count| count.to_string()).collect()
    }
}

fn tell(tallies: &[(Change, Tally)], report: &mut Report) {
    let columns = COLUMNS.iter().map(|(name, _)| *name);
    report.figures.push(Figures {
        title:
            "Events at the peer, and changes of the address (announced: those of \"daemon gone\" \
                with which a keeper tells that its daemon comes back)"
                .to_owned(),
        columns: ["changes"].into_iter().chain(columns).chain(["announced", "address"]).collect(),
        rows: tallies
            .iter()
            .map(|(change, tally)| (change.name().to_owned(), tally.cells()))
            .collect(),
    });
    for (change, tally) in tallies {
        let rows = tally.kinds.iter().map(|(kind, count)| (kind.clone(), vec![count.to_string()]));
        report.figures.push(Figures {
            title: format!("{}: events at the peer by kind", change.name()),
            columns: vec!["count"],
            rows: rows.collect(),
        });
        let name = change.name();
        report.goal_none(format!("{name}: node judged dead or daemon gone"), tally.verdicts());
        report.goal_none(format!("{name}: groups that moved"), tally.count(&MOVES));
        report.goal_none(format!("{name}: changes of the address"), tally.addresses);
    }
    if tallies.iter().any(|(change, _)| *change == Change::Restart) {
        report.notes.push(
            "an announced restart is seen by the peer by design: its connections close, its keeper tells \
             that the daemon comes back (daemon-gone, announced), a new start is heard; its links are \
             forgotten meanwhile, so that they are neither late nor dead"
                .to_owned(),
        );
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, message: &str) -> Event {
        Event {
            id: 1,
            monotonic_ns: 1,
            kind: kind.to_owned(),
            node: Some(OWNER.to_owned()),
            link: None,
            group: None,
            message: message.to_owned(),
        }
    }

    #[test]
    fn a_restart_that_was_announced_is_no_death_and_one_that_was_not_is() {
        let announced = event(
            "daemon-gone",
            "the daemon of alpha ended and is to come back: 1 of its groups go on without it for \
             3000.000 ms at most",
        );
        let gone = event("daemon-gone", "the daemon of alpha is gone: its connection closed");
        let mut tally = Tally::default();
        let told = [event("connection-closed", "m"), announced.clone(), event("link-up", "m")];
        let remarks = tally.note(Change::Restart, SURVIVOR, told.into_iter(), 0);
        assert!(remarks.is_empty(), "{remarks:?}");
        assert_eq!((tally.verdicts(), tally.count(&MOVES)), (0, 0));
        let told = [gone, event("node-late", "m"), event("takeover", "m")];
        let remarks = tally.note(Change::Restart, SURVIVOR, told.into_iter(), 2);
        assert_eq!(remarks.len(), 4, "{remarks:?}");
        assert_eq!((tally.verdicts(), tally.count(&MOVES)), (1, 1));
        // changes, dead, moves, link dead, late, daemon gone, closed, announced, address
        assert_eq!(tally.cells(), ["2", "0", "1", "0", "1", "2", "1", "1", "2"]);
        let mut tally = Tally::default();
        let remarks = tally.note(Change::Reexec, SURVIVOR, [announced].into_iter(), 0);
        assert_eq!((remarks.len(), tally.verdicts()), (1, 1), "an upgrade announces nothing");
    }

    #[test]
    fn every_column_has_a_cell_and_every_verdict_a_column() {
        let tally = Tally::default();
        let mut report = Report::new("test");
        tell(&[(Change::Restart, tally)], &mut report);
        let figures = &report.figures[0];
        assert_eq!(figures.rows[0].1.len(), figures.columns.len());
        let known = |kind: &str| COLUMNS.iter().any(|(_, kinds)| kinds.contains(&kind));
        assert!(VERDICTS.iter().all(|kind| known(kind)));
    }
}
