//! What the trials share.

use std::time::Duration;

use anyhow::{Result, ensure};
use ha_tests::bed::{Event, FLOATING, Plan, Turn, turn};
use ha_tests::clock::{as_ns, monotonic_ns, ms};
use ha_tests::observe::expect_only;
use ha_tests::vm::{Image, Mark, Pair};

pub const ALPHA: &str = "alpha";
pub const BETA: &str = "beta";
pub const DEADTIME: Duration = Duration::from_millis(500);
/// What an emulated guest may need to come to its senses.
pub const WAKE_TIME_MAX: Duration = Duration::from_secs(60);
/// For how long only one node may have answered at the end of a story.
pub const CALM: Duration = Duration::from_secs(1);
/// For how long an owner that stood still may answer beside its successor: what waited in its network
/// card, and until its peer has told it.
const ANSWERS_MAX: Duration = Duration::from_secs(2);
/// The product's default.
pub const DAEMON_DEADTIME: Duration = Duration::from_secs(3);

/// A pair that an emulated guest can keep up with, which moves nothing back by itself.
pub fn plan() -> Plan {
    Plan {
        keepalive: Duration::from_millis(100),
        deadtime: DEADTIME,
        failback: false,
        web: false,
        ..Plan::default()
    }
}

/// A started pair with the machine for itself; `None` where none was prepared.
pub fn started(plan: &Plan) -> Result<Option<(Turn, Pair)>> {
    let Some(image) = Image::prepared()? else { return Ok(None) };
    let turn = turn();
    Ok(Some((turn, Pair::start(image, plan)?)))
}

/// When alpha's kernel answered for the address since `from_ns`: how often, and first and last, in
/// milliseconds after it.
pub fn answers(pair: &Pair, from_ns: u64) -> String {
    let answers = pair.asker.answers_of(pair.alpha_mac(), from_ns);
    match (answers.first(), answers.last()) {
        (Some(first), Some(last)) => format!(
            "{} answers, +{} to +{} ms",
            answers.len(),
            ms(first.at_ns - from_ns),
            ms(last.at_ns - from_ns)
        ),
        _ => "no answer".to_owned(),
    }
}

/// For how long alpha's kernel answered since `from_ns`.
pub fn answered_for_ns(pair: &Pair, from_ns: u64) -> u64 {
    let answers = pair.asker.answers_of(pair.alpha_mac(), from_ns);
    match (answers.first(), answers.last()) {
        (Some(first), Some(last)) => last.at_ns - first.at_ns,
        _ => 0,
    }
}

/// Its peer takes what alpha had while it stood still, rightly; alpha judges nobody, and gives up when its
/// peer has told it.
pub fn expect_replaced(
    pair: &mut Pair,
    mark: &Mark,
    (stopped_ns, on_ns): (u64, u64),
) -> Result<()> {
    pair.settle(BETA)?;
    let end_ns = monotonic_ns();
    let taken_ns = pair.beta_addresses.first_added(FLOATING.parse()?, mark.at_ns);
    println!(
        "stood still for {} ms; beta took it after {:?} ms; alpha's kernel since then: {}",
        ms(on_ns - stopped_ns),
        taken_ns.map(|it| ms(it.saturating_sub(stopped_ns))),
        answers(pair, on_ns)
    );
    let (alpha, beta) = (pair.alpha_events(mark)?, pair.beta_events(mark)?);
    println!("  alpha: {}\n  beta: {}", kinds(&alpha), kinds(&beta));
    ensure!(taken_ns.is_some_and(|it| it < on_ns), "beta did not take it meanwhile");
    ensure!(has(&beta, "node-dead"), "beta did not notice");
    pair.expect_no_verdict(mark)?;
    ensure!(!pair.alpha_holds()?, "alpha has it still");
    let answered_ns = answered_for_ns(pair, on_ns);
    ensure!(answered_ns < as_ns(ANSWERS_MAX), "its kernel answered for {} ms", ms(answered_ns));
    expect_only(&pair.asker, pair.beta_mac()?, end_ns - as_ns(CALM))
}

/// Alpha's longest silence on the wire since then, milliseconds; all links together count.
pub fn silence_ms(pair: &Pair, mark: &Mark, to_ns: u64) -> String {
    let gaps = pair.heartbeats.gaps_in(mark.at_ns, to_ns);
    ms(gaps.iter().map(|gap| gap.length_ns()).max().unwrap_or(0))
}

/// The kinds of these events, in order.
pub fn kinds(events: &[Event]) -> String {
    events.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>().join(" ")
}

/// The messages of a kind.
pub fn messages<'a>(events: &'a [Event], kind: &str) -> Vec<&'a str> {
    events.iter().filter(|event| event.kind == kind).map(|event| event.message.as_str()).collect()
}

/// Whether an event of that kind is among them.
pub fn has(events: &[Event], kind: &str) -> bool {
    events.iter().any(|event| event.kind == kind)
}

/// A part of deadtime.
pub fn deadtimes(tenths: u32) -> Duration {
    Duration::from_nanos(as_ns(DEADTIME) * u64::from(tenths) / 10)
}
