//! `bench stops`: daemons that are stopped (SIGSTOP) and go on, many times. The owner's: its peer has to
//! see a stale daemon and no dead node. The standby's: a judge that did not run may not judge.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use ha_tests::bed::Event;
use ha_tests::bed::processes::send;
use ha_tests::clock::{as_ns, monotonic_ns, ms, sleep_until_ns};
use ha_tests::observe::{StallRecorder, urgently};
use nix::sys::signal::Signal;

use crate::pair::{OWNER, Pair, SURVIVOR, Timing, VERDICTS};
use crate::random::Random;
use crate::report::{Figures, Report};
use crate::sample::STOP_NS;

/// Shortest stop.
const STOP_TIME_MIN: Duration = Duration::from_millis(100);
/// Longest stop of an owner: shorter than the time after which a stale daemon is given up
/// (`daemon_deadtime`, 3 s, counted from its lease, which may be 250 ms older than the stop).
const OWNER_STOP_TIME_MAX: Duration = Duration::from_millis(2_500);
/// Longest pause of a judge.
const JUDGE_STOP_TIME_MAX: Duration = Duration::from_secs(5);
/// After a stop: what it leads to has happened by then.
const AFTERMATH: Duration = Duration::from_millis(150);
/// How long a pair may take to be whole again.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(60);
const VERDICTS_TOLD_MAX: usize = 20;

/// Options of `bench stops`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    timing: Timing,
    /// Stops of each kind, all pairs together
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    runs: usize,
    /// Pairs of nodes that are stopped beside each other
    #[arg(long, value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=16))]
    pairs: u8,
    /// Whose daemon is stopped
    #[arg(long, value_enum, default_value = "all")]
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// The owner's, 0.1 to 2.5 s
    Owner,
    /// The standby's, 0.1 to 5 s
    Judge,
    All,
}

/// Whose daemon is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Owner,
    Judge,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner stopped",
            Self::Judge => "judge stopped",
        }
    }

    fn node(self) -> &'static str {
        match self {
            Self::Owner => OWNER,
            Self::Judge => SURVIVOR,
        }
    }

    fn stop_time_max(self) -> Duration {
        match self {
            Self::Owner => OWNER_STOP_TIME_MAX,
            Self::Judge => JUDGE_STOP_TIME_MAX,
        }
    }
}

/// What stops of one kind came to.
#[derive(Debug, Default)]
struct Tally {
    stops: u64,
    stopped_ns: u64,
    /// Stops with a wrong verdict.
    wrong: u64,
    /// Verdicts of the peer on a daemon that stood still for long enough to be given up.
    given_up: u64,
    /// Stops in which an address came or went.
    moved: u64,
    moves: u64,
    both_ns: u64,
    /// Stops with a stop of a CPU in their window.
    disturbed: u64,
    /// Events of the node that was not stopped, and of the one that was, by kind.
    peer: BTreeMap<String, u64>,
    own: BTreeMap<String, u64>,
    verdicts: Vec<String>,
}

/// Runs the benchmark.
pub(crate) fn run(options: &Options) -> Result<Report> {
    let mut report = Report::new("stops");
    let stalls = StallRecorder::start()?;
    let pairs = usize::from(options.pairs);
    report.settings.push(("timing", options.timing.text()));
    report.settings.push(("pairs", pairs.to_string()));
    report.settings.push(("stop recorder", stalls.scheduling().to_owned()));
    let kinds = [(Kind::Owner, Who::Owner), (Kind::Judge, Who::Judge)];
    let kinds: Vec<Who> = kinds
        .into_iter()
        .filter(|(kind, _)| options.kind == Kind::All || options.kind == *kind)
        .map(|(_, who)| who)
        .collect();
    let mut tallies: BTreeMap<Who, Tally> = BTreeMap::new();
    let results: Vec<Result<Vec<(Who, Tally)>>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..pairs)
            .map(|place| {
                let runs = options.runs / pairs + usize::from(place < options.runs % pairs);
                let (kinds, stalls) = (&kinds, &stalls);
                scope.spawn(move || run_pair(&options.timing, kinds, runs, place, stalls))
            })
            .collect();
        workers.into_iter().map(|it| it.join().map_err(|_| anyhow!("a pair panicked"))?).collect()
    });
    for result in results {
        match result {
            Ok(of_pair) => {
                for (who, tally) in of_pair {
                    tallies.entry(who).or_default().add(tally);
                }
            }
            Err(error) => report.failures.push(format!("a pair ended early: {error:#}")),
        }
    }
    tell(&tallies, &mut report);
    Ok(report)
}

/// All stops of one pair.
fn run_pair(
    timing: &Timing,
    kinds: &[Who],
    runs: usize,
    place: usize,
    stalls: &StallRecorder,
) -> Result<Vec<(Who, Tally)>> {
    let pair = Pair::start(timing, false)?;
    let mut random = Random::new();
    let mut tallies: Vec<(Who, Tally)> = kinds.iter().map(|&who| (who, Tally::default())).collect();
    for run in 1..=runs {
        if run % 25 == 0 {
            eprintln!("pair {place}: {run} of {runs}");
        }
        for (who, tally) in &mut tallies {
            let length = STOP_TIME_MIN + random.below(who.stop_time_max() - STOP_TIME_MIN);
            stop(&pair, *who, length, tally, stalls)
                .with_context(|| format!("pair {place}, {} for {length:?}", who.name()))?;
        }
    }
    pair.finish()?;
    Ok(tallies)
}

/// One stop, and what followed from it until the pair was whole.
fn stop(
    pair: &Pair,
    who: Who,
    length: Duration,
    tally: &mut Tally,
    stalls: &StallRecorder,
) -> Result<()> {
    let stopped = pair.cluster.node(who.node())?;
    let peer = pair.cluster.node(if who == Who::Owner { SURVIVOR } else { OWNER })?;
    let pid = stopped.processes()?.daemon;
    let from_ns = urgently(|| {
        let from_ns = send(pid, Signal::SIGSTOP)?;
        sleep_until_ns(from_ns + as_ns(length));
        send(pid, Signal::SIGCONT)?;
        Ok(from_ns)
    })?;
    thread::sleep(AFTERMATH);
    settle(pair)?;
    let to_ns = monotonic_ns();
    tally.stops += 1;
    tally.stopped_ns += as_ns(length);
    let new = |events: Vec<Event>| events.into_iter().filter(move |it| it.monotonic_ns >= from_ns);
    let mut wrong = Vec::new();
    for (node, kinds, may_judge) in
        [(peer, &mut tally.peer, length > OWNER_STOP_TIME_MAX), (stopped, &mut tally.own, false)]
    {
        for event in new(node.events()?) {
            if VERDICTS.contains(&event.kind.as_str()) {
                if may_judge {
                    tally.given_up += 1;
                } else {
                    let (who, node) = (who.name(), node.name());
                    wrong.push(format!("{who}, {length:?}: {node}: {}", event.message));
                }
            }
            *kinds.entry(event.kind).or_default() += 1;
        }
    }
    tally.wrong += u64::from(!wrong.is_empty());
    tally.verdicts.extend(wrong);
    let moves = pair.address_changes(from_ns, u64::MAX).len() as u64;
    tally.moves += moves;
    tally.moved += u64::from(moves > 0);
    tally.both_ns += pair.both_held_ns(from_ns, to_ns);
    tally.disturbed += u64::from(!stalls.stalls_in(from_ns, to_ns, STOP_NS).is_empty());
    Ok(())
}

/// Waits until both see each other and the group is where it belongs; no longer than that, since
/// stops are many.
fn settle(pair: &Pair) -> Result<()> {
    let deadline = Instant::now() + SETTLE_TIME_MAX;
    loop {
        match pair.cluster.wait_settled(OWNER) {
            Ok(()) if pair.whole() => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.stops += other.stops;
        self.stopped_ns += other.stopped_ns;
        self.wrong += other.wrong;
        self.given_up += other.given_up;
        self.moved += other.moved;
        self.moves += other.moves;
        self.both_ns += other.both_ns;
        self.disturbed += other.disturbed;
        for (sum, part) in [(&mut self.peer, other.peer), (&mut self.own, other.own)] {
            for (kind, count) in part {
                *sum.entry(kind).or_default() += count;
            }
        }
        self.verdicts.extend(other.verdicts);
    }
}

fn tell(tallies: &BTreeMap<Who, Tally>, report: &mut Report) {
    let rows = tallies.iter().map(|(who, tally)| {
        let cells = vec![
            tally.stops.to_string(),
            format!("{:.1}", tally.stopped_ns as f64 / 1e9),
            tally.wrong.to_string(),
            tally.given_up.to_string(),
            tally.moved.to_string(),
            tally.moves.to_string(),
            ms(tally.both_ns),
            tally.disturbed.to_string(),
        ];
        (who.name().to_owned(), cells)
    });
    report.figures.push(Figures {
        title: format!(
            "Stops (judged: those after which a living node was judged dead, by whichever node; given \
             up: verdicts on a daemon that was stopped for longer than {OWNER_STOP_TIME_MAX:?}, which \
             are no mistakes)"
        ),
        columns: vec![
            "stops",
            "seconds",
            "judged",
            "given up",
            "moved",
            "changes",
            "both, ms",
            "CPU stopped",
        ],
        rows: rows.collect(),
    });
    if tallies.values().any(|tally| tally.given_up > 0) {
        report.notes.push(
            "given up: the daemon of a node whose kernel answers is dead for its peers when it has \
             not run for daemon_deadtime (3 s), by design; the standby is stopped for up to 5 s"
                .to_owned(),
        );
    }
    for (who, tally) in tallies {
        for (whose, kinds) in [("the node that ran", &tally.peer), ("the stopped node", &tally.own)]
        {
            let rows = kinds.iter().map(|(kind, count)| (kind.clone(), vec![count.to_string()]));
            report.figures.push(Figures {
                title: format!("{}: events of {whose}", who.name()),
                columns: vec!["count"],
                rows: rows.collect(),
            });
        }
        let told = tally.verdicts.iter().take(VERDICTS_TOLD_MAX);
        report.notes.extend(told.map(|verdict| format!("false verdict, {verdict}")));
        let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        report.goal_none(format!("{}: false verdicts", who.name()), count(tally.wrong));
        report.goal_none(format!("{}: changes of the address", who.name()), count(tally.moves));
    }
}
