//! The cases: each takes the owner away in its own way, watches, and brings it back.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use ha_tests::bed::{Cluster, Cut, FLOATING};
use ha_tests::clock::{MS_NS, as_ns, monotonic_ns};
use ha_tests::observe::{AddressMonitor, Client, ClientOptions, Sniffer, StallRecorder};

use crate::report::{CaseReport, Moment, Report, since};

const OWNER: &str = "alpha";
const SURVIVOR: &str = "beta";
/// Kinds of events by which the survivor tells its verdict.
const VERDICTS: [&str; 3] = ["node-left", "daemon-gone", "node-dead"];
/// How long anything may take before the case has failed.
const STEP_TIME_MAX: Duration = Duration::from_secs(15);
/// How long an address may outlive its lifetime, which the kernel counts in seconds.
const LIFETIME_SLACK: Duration = Duration::from_secs(2);
/// Lines of each daemon's log that a failed case shows.
const LOG_LINES_SHOWN: usize = 30;
/// Quiet time after which a case counts as settled.
const SETTLE_TIME: Duration = Duration::from_millis(500);

/// A way of losing the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    CleanStop,
    DaemonKilled,
    NodeKilled,
    CutOff,
}

impl Fault {
    const ALL: [Self; 4] = [Self::CleanStop, Self::DaemonKilled, Self::NodeKilled, Self::CutOff];

    fn name(self) -> &'static str {
        match self {
            Self::CleanStop => "clean stop",
            Self::DaemonKilled => "daemon killed",
            Self::NodeKilled => "daemon and keeper killed",
            Self::CutOff => "owner cut off",
        }
    }

    fn event(self) -> &'static str {
        match self {
            Self::CleanStop => "SIGTERM to the daemon of alpha",
            Self::DaemonKilled => "kill -9 of the daemon of alpha",
            Self::NodeKilled => "kill -9 of daemon and keeper of alpha",
            Self::CutOff => "all cables of alpha cut in the middle",
        }
    }

    fn inject(self, cluster: &Cluster) -> Result<u64> {
        let owner = cluster.node(OWNER)?;
        match self {
            Self::CleanStop => owner.terminate(),
            Self::DaemonKilled => owner.kill_daemon(),
            Self::NodeKilled => owner.kill_daemon_and_keeper(),
            Self::CutOff => cluster.bed.cut_all(OWNER, Cut::Middle),
        }
    }

    /// Brings the owner back.
    fn repair(self, cluster: &mut Cluster) -> Result<()> {
        match self {
            Self::CutOff => cluster.bed.heal_all(OWNER).map(drop),
            Self::CleanStop | Self::DaemonKilled | Self::NodeKilled => {
                let owner = cluster.node_mut(OWNER)?;
                owner.wait_exit(STEP_TIME_MAX)?;
                owner.start()
            }
        }
    }
}

/// Everyone who watches.
struct Observers {
    floating: IpAddr,
    owner: AddressMonitor,
    survivor: AddressMonitor,
    sniffer: Sniffer,
    client: Client,
    stalls: StallRecorder,
}

impl Observers {
    fn start(cluster: &Cluster) -> Result<Self> {
        let floating = FLOATING.parse()?;
        let client = cluster.client()?;
        let [owner, survivor] = AddressMonitor::start_pair(
            cluster.node(OWNER)?.netns(),
            cluster.node(SURVIVOR)?.netns(),
        )?;
        Ok(Self {
            floating,
            owner,
            survivor,
            sniffer: Sniffer::start(&client)?,
            client: Client::start(&client, floating, ClientOptions::default())?,
            stalls: StallRecorder::start()?,
        })
    }

    fn scheduling(&self) -> String {
        format!(
            "addresses {}, sniffer {}, client {}, stalls {}",
            self.owner.scheduling(),
            self.sniffer.scheduling(),
            self.client.scheduling(),
            self.stalls.scheduling()
        )
    }
}

/// Runs all cases in turn and prints each.
pub(crate) fn run_all(cluster: &mut Cluster) -> Result<Report> {
    let observers = Observers::start(cluster)?;
    observers.client.wait_answer(OWNER, 0, STEP_TIME_MAX).context("before the first case")?;
    let mut report = Report {
        keepalive_us: as_ns(cluster.plan.keepalive) / 1_000,
        deadtime_us: as_ns(cluster.plan.deadtime) / 1_000,
        scheduling: observers.scheduling(),
        via: reception(cluster)?,
        cases: Vec::new(),
        not_run: Vec::new(),
    };
    println!("Heartbeats arrive by {}.", report.via.join(", "));
    for fault in Fault::ALL {
        if !report.came_back() {
            report.not_run.push((fault.name(), "the cluster did not come back".to_owned()));
            continue;
        }
        let case = match run(fault, cluster, &observers) {
            Ok(case) => case,
            Err(error) => {
                report.not_run.push((fault.name(), format!("{error:#}")));
                show_logs(cluster);
                continue;
            }
        };
        print!("{}", case.text());
        if !case.failures.is_empty() {
            show_logs(cluster);
        }
        report.cases.push(case);
    }
    Ok(report)
}

fn show_logs(cluster: &Cluster) {
    for node in &cluster.nodes {
        println!("  log of {} ends:\n{}", node.name(), node.log_tail(LOG_LINES_SHOWN));
    }
}

/// How heartbeats of the owner reach the survivor, by link.
fn reception(cluster: &Cluster) -> Result<Vec<String>> {
    let status = cluster.node(SURVIVOR)?.status()?;
    Ok(status
        .nodes
        .iter()
        .filter(|node| node.name == OWNER)
        .flat_map(|node| &node.links)
        .map(|link| format!("{} ({})", link.via, link.interface))
        .collect())
}

fn run(fault: Fault, cluster: &mut Cluster, observers: &Observers) -> Result<CaseReport> {
    let mut failures = Vec::new();
    let mut notes = Vec::new();
    let at_ns = fault.inject(cluster).with_context(|| format!("cannot start: {}", fault.name()))?;

    let answer = observers.client.wait_answer(SURVIVOR, at_ns, STEP_TIME_MAX);
    let answered_ns = match &answer {
        Ok(answer) => Some(answer.answered_ns),
        Err(error) => {
            failures.push(format!("{SURVIVOR} does not answer: {error:#}"));
            None
        }
    };
    settle(fault, cluster, observers, at_ns, &mut failures, &mut notes);
    let settled_ns = monotonic_ns();
    let timeline = timeline(fault, cluster, observers, at_ns, answered_ns, &mut notes)?;
    let gap = observers.client.gap_in(at_ns, settled_ns);
    let stalls = observers.stalls.stalls_in(at_ns, answered_ns.unwrap_or(settled_ns), MS_NS);

    let failback_gap_ns = match bring_back(fault, cluster, observers) {
        Ok(gap_ns) => Some(gap_ns),
        Err(error) => {
            failures.push(format!("{OWNER} does not come back: {error:#}"));
            None
        }
    };
    Ok(CaseReport {
        name: fault.name(),
        injected_ns: at_ns,
        timeline,
        gap,
        gap_ns: gap.length_ns(),
        failback_gap_ns,
        stalls,
        notes,
        failures,
    })
}

/// Waits until the old owner has lost the address, where it can know that it must, and checks that
/// the new one alone has it.
fn settle(
    fault: Fault,
    cluster: &Cluster,
    observers: &Observers,
    at_ns: u64,
    failures: &mut Vec<String>,
    notes: &mut Vec<String>,
) {
    if fault == Fault::CutOff {
        thread::sleep(SETTLE_TIME);
        if observers.owner.holds(observers.floating) {
            notes.push(format!(
                "{OWNER} keeps the address while it is cut off: nothing is configured that could \
                 tell it; nobody reaches it there"
            ));
        }
        return;
    }
    let limit = cluster.plan.lifetime() + LIFETIME_SLACK;
    let left = Duration::from_nanos((at_ns + as_ns(limit)).saturating_sub(monotonic_ns()));
    if observers.owner.wait(observers.floating, false, left).is_err() {
        failures.push(format!("the address is still on {OWNER} after {limit:?}"));
    }
    thread::sleep(SETTLE_TIME);
    if !observers.survivor.holds(observers.floating) {
        failures.push(format!("the address is not on {SURVIVOR}"));
    }
}

fn timeline(
    fault: Fault,
    cluster: &Cluster,
    observers: &Observers,
    at_ns: u64,
    answered_ns: Option<u64>,
    notes: &mut Vec<String>,
) -> Result<Vec<Moment>> {
    let floating = observers.floating;
    let mac = cluster.bed.mac(SURVIVOR, "eth0")?;
    let events = cluster.node(SURVIVOR)?.events().unwrap_or_else(|error| {
        notes.push(format!("{SURVIVOR} tells no events: {error:#}"));
        Vec::new()
    });
    let verdict = events.iter().find(|event| {
        event.monotonic_ns >= at_ns
            && event.node.as_deref() == Some(OWNER)
            && VERDICTS.contains(&event.kind.as_str())
    });
    let verdict_text = verdict.map_or_else(
        || "verdict".to_owned(),
        |event| format!("verdict {}: {}", event.kind, event.message),
    );
    let mut moments: Vec<Moment> = [
        (fault.event().to_owned(), "demo", Some(at_ns)),
        (verdict_text, "events of beta", verdict.map(|event| event.monotonic_ns)),
        (
            format!("{floating} added on {SURVIVOR}"),
            "address monitor",
            observers.survivor.first_added(floating, at_ns),
        ),
        (
            format!("first announcement of {SURVIVOR}"),
            "sniffer",
            observers.sniffer.first(floating, mac, at_ns).map(|seen| seen.at_ns),
        ),
        (format!("first answer of {SURVIVOR}"), "client", answered_ns),
        (
            format!("{floating} gone from {OWNER}"),
            "address monitor",
            observers.owner.first_removed(floating, at_ns),
        ),
    ]
    .into_iter()
    .map(|(what, seen_by, seen_ns)| Moment {
        what,
        seen_by,
        after_ns: seen_ns.map(|seen_ns| since(at_ns, seen_ns)),
    })
    .collect();
    moments.sort_by_key(|moment| moment.after_ns.unwrap_or(i64::MAX));
    Ok(moments)
}

/// Repairs, waits for the failback, and returns the client's longest silence meanwhile.
fn bring_back(fault: Fault, cluster: &mut Cluster, observers: &Observers) -> Result<u64> {
    let start_ns = monotonic_ns();
    fault.repair(cluster)?;
    cluster.wait_settled(OWNER)?;
    observers.owner.wait(observers.floating, true, STEP_TIME_MAX)?;
    observers
        .survivor
        .wait(observers.floating, false, STEP_TIME_MAX)
        .with_context(|| format!("{SURVIVOR} keeps the address beside {OWNER}"))?;
    observers.client.wait_answer(OWNER, monotonic_ns(), STEP_TIME_MAX)?;
    thread::sleep(SETTLE_TIME);
    Ok(observers.client.gap_in(start_ns, monotonic_ns()).length_ns())
}
