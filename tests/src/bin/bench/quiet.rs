//! A pair that nobody touches: every verdict is a false one.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use ha_tests::bed::Event;
use ha_tests::clock::{MS_NS, as_ns, monotonic_ns, ms};
use ha_tests::observe::{Stall, StallRecorder};

use crate::pair::{Pair, Timing, VERDICTS};
use crate::report::{Figures, Report};
use crate::sample::STOP_NS;

/// How often events are fetched: the daemon keeps the last 1,000.
const FETCH_INTERVAL: Duration = Duration::from_secs(5);
/// Kinds that are counted beside verdicts.
const KINDS: [&str; 5] = ["node-late", "link-dead", "link-late", "own-pause", "events-missed"];

/// What happened in that time.
pub(crate) struct Outcome {
    length: Duration,
    events: Vec<(String, Event)>,
    /// Stops longer than 1 ms.
    stalls: Vec<Stall>,
    /// For each verdict: node, message, and whether a stop preceded it.
    verdicts: Vec<(String, bool)>,
}

/// Leaves the pair alone for `length`.
pub(crate) fn watch(
    pair: &Pair,
    timing: &Timing,
    recorder: &StallRecorder,
    length: Duration,
) -> Result<Outcome> {
    let mut last_ids = Vec::new();
    for node in &pair.cluster.nodes {
        last_ids.push(node.status()?.events);
    }
    eprintln!("idle for {}", humantime::format_duration(length));
    let from_ns = monotonic_ns();
    let until_ns = from_ns + as_ns(length);
    let mut events = Vec::new();
    loop {
        let left = Duration::from_nanos(until_ns.saturating_sub(monotonic_ns()));
        thread::sleep(left.min(FETCH_INTERVAL));
        for (node, last_id) in pair.cluster.nodes.iter().zip(&mut last_ids) {
            for event in node.events()?.into_iter().filter(|event| event.id > *last_id) {
                events.push((node.name().to_owned(), event));
            }
            let newest = events.iter().filter(|(name, _)| name == node.name());
            *last_id = newest.map(|(_, event)| event.id).max().unwrap_or(*last_id);
        }
        if left.is_zero() {
            break;
        }
    }
    let stalls = recorder.stalls_in(from_ns, until_ns, MS_NS);
    // A judge who stood still, or whose peer did, may have missed a whole window.
    let before_ns = as_ns(timing.deadtime + timing.keepalive * 2);
    let verdicts = events
        .iter()
        .filter(|(_, event)| VERDICTS.contains(&event.kind.as_str()))
        .map(|(node, event)| {
            let from_ns = event.monotonic_ns.saturating_sub(before_ns);
            let stops = recorder.stalls_in(from_ns, event.monotonic_ns, STOP_NS);
            (format!("{node}: {}", event.message), !stops.is_empty())
        })
        .collect();
    Ok(Outcome { length, events, stalls, verdicts })
}

impl Outcome {
    /// Adds it to the report.
    pub(crate) fn tell(&self, report: &mut Report) {
        let caused = self.verdicts.iter().filter(|(_, stopped)| *stopped).count();
        let uncaused = self.verdicts.len() - caused;
        let count = |kind: &str| self.events.iter().filter(|(_, it)| it.kind == kind).count();
        let long = self.stalls.iter().filter(|stall| stall.length_ns > STOP_NS).count();
        let longest_ns = self.stalls.iter().map(|stall| stall.length_ns).max().unwrap_or(0);
        let mut rows = vec![
            ("false verdicts".to_owned(), vec![self.verdicts.len().to_string()]),
            ("  of these without a stop > 2 ms before".to_owned(), vec![uncaused.to_string()]),
        ];
        rows.extend(
            KINDS.iter().map(|kind| (format!("events {kind}"), vec![count(kind).to_string()])),
        );
        rows.push(("stops of a CPU > 1 ms".to_owned(), vec![self.stalls.len().to_string()]));
        rows.push(("stops of a CPU > 2 ms".to_owned(), vec![long.to_string()]));
        rows.push(("longest stop, ms".to_owned(), vec![ms(longest_ns)]));
        let length = humantime::format_duration(self.length);
        let title = format!("Nobody touches the pair for {length} (both nodes together)");
        report.figures.push(Figures { title, columns: vec!["count"], rows });
        report.goal_none("false verdicts without a stop".to_owned(), uncaused);
        for (verdict, stopped) in &self.verdicts {
            let why = if *stopped { "after a stop of a CPU" } else { "without a stop" };
            report.notes.push(format!("false verdict {why}: {verdict}"));
        }
    }
}
