//! State as text for people: what `hactl` prints without `--json`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use ha_common::reason::Reason;
use serde::Serialize;

use super::table::{Align, Table, printable};
use super::{PeerLink, peer_links};
use crate::snapshot::{
    Event, GroupStatus, NodeStatus, PingTargetStatus, Quorum, SerialStatus, Snapshot, ThreadStatus,
};

/// Digits of an incarnation that are shown; they are the ones that change.
const INCARNATION_DIGITS: usize = 6;
/// Width of the kind of an event that most kinds fit in.
const KIND_WIDTH: usize = 16;

/// Everything: a heading, nodes, groups, links, and ping targets if there are any.
#[must_use]
pub fn status(snapshot: &Snapshot) -> String {
    let links = peer_links(snapshot.nodes.clone());
    let targets = &snapshot.connectivity.targets;
    [heading(snapshot), nodes(&snapshot.nodes), groups(&snapshot.groups), self::links(&links)]
        .into_iter()
        .chain((!targets.is_empty()).then(|| ping_targets(targets)))
        .collect::<Vec<_>>()
        .join("\n")
}

/// A line per ping target.
fn ping_targets(targets: &[PingTargetStatus]) -> String {
    let mut table = Table::new([
        ("PING TARGET", Align::Left),
        ("REACHED", Align::Left),
        ("ROUND TRIP", Align::Right),
        ("LAST REPLY", Align::Right),
        ("SENT", Align::Right),
        ("RECEIVED", Align::Right),
        ("REJECTED", Align::Right),
        ("MEMBERS", Align::Left),
    ]);
    for target in targets {
        let reached = target.reached.map(|reached| if reached { "yes" } else { "no" });
        let members: Vec<String> = target.members.iter().map(ToString::to_string).collect();
        table.row([
            printable(&target.name),
            reached.unwrap_or_default().to_owned(),
            target.rtt_us.map(age).unwrap_or_default(),
            target.last_reply_us.map(age).unwrap_or_default(),
            target.sent.to_string(),
            target.received.to_string(),
            target.rejected.to_string(),
            members.join(", "),
        ]);
    }
    table.text()
}

/// A line per node.
#[must_use]
pub fn nodes(nodes: &[NodeStatus]) -> String {
    let mut table = Table::new([
        ("NODE", Align::Left),
        ("STATE", Align::Left),
        ("INCARNATION", Align::Right),
        ("LAST SEEN", Align::Right),
    ]);
    for node in nodes {
        let state = word(&node.state);
        let last_seen_us = node.links.iter().filter_map(|link| link.last_seen_us).min();
        table.row([
            node.name.to_string(),
            match notes(node).join(", ") {
                notes if notes.is_empty() => state,
                notes => format!("{state} ({notes})"),
            },
            incarnation(node.incarnation),
            last_seen_us.map(age).unwrap_or_default(),
        ]);
    }
    table.text()
}

/// What is to be known of a node beside its state.
fn notes(node: &NodeStatus) -> Vec<&'static str> {
    let notes = [
        (node.local, "here"),
        (node.standby, "standby"),
        (node.services_well == Some(false), "a service failed"),
    ];
    notes.into_iter().filter_map(|(holds, note)| holds.then_some(note)).collect()
}

/// A line per group.
#[must_use]
pub fn groups(groups: &[GroupStatus]) -> String {
    if groups.is_empty() {
        return "No groups are configured.\n".to_owned();
    }
    let mut table = Table::new([
        ("GROUP", Align::Left),
        ("OWNER", Align::Left),
        ("STATE", Align::Left),
        ("TERM", Align::Right),
        ("RESOURCES HERE", Align::Left),
    ]);
    for group in groups {
        let resource = |resource: &crate::snapshot::ResourceStatus| {
            let armed = if resource.armed == Some(true) { " (armed)" } else { "" };
            format!("{} {}{armed}", printable(&resource.name), word(&resource.state))
        };
        table.row([
            group.name.to_string(),
            group.owner.as_ref().map(ToString::to_string).unwrap_or_default(),
            word(&group.state),
            group.term.to_string(),
            group.resources.iter().map(resource).collect::<Vec<_>>().join(", "),
        ]);
    }
    let wishes = groups.iter().filter_map(|group| {
        let (name, node) = (&group.name, group.wished.as_ref()?);
        Some(format!("{name}: an operator wants it on {node} (ended by hactl enable {name})\n"))
    });
    let not_armed = groups.iter().flat_map(|group| {
        let refused = group.resources.iter().filter(|it| it.armed == Some(false));
        refused.map(|it| {
            let (name, cause) = (printable(&it.name), printable(&it.not_armed));
            format!("{}: {name} is not pre-armed here: {cause}\n", group.name)
        })
    });
    let failed = groups.iter().filter(|group| group.failures > 0).map(|group| {
        let (name, failures) = (&group.name, group.failures);
        format!(
            "{name}: services of it failed here, {failures} times in a row (see hactl events)\n"
        )
    });
    let lines = wishes.chain(not_armed).chain(failed);
    table.text() + &lines.collect::<String>()
}

/// A line per link and peer, and below them why a link is not received in the best way.
#[must_use]
pub fn links(links: &[PeerLink]) -> String {
    if links.is_empty() {
        return "No links are configured.\n".to_owned();
    }
    let mut table = Table::new([
        ("PEER", Align::Left),
        ("LINK", Align::Left),
        ("KIND", Align::Left),
        ("INTERFACE", Align::Left),
        ("VIA", Align::Left),
        ("STATE", Align::Left),
        ("LAST SEEN", Align::Right),
        ("RTT", Align::Right),
        ("FAILED", Align::Right),
        ("RECEIVED", Align::Right),
        ("LOST", Align::Right),
        ("REJECTED", Align::Right),
    ]);
    let mut reasons = String::new();
    for PeerLink { peer, link } in links {
        table.row([
            peer.to_string(),
            link.name.to_string(),
            printable(&link.kind),
            printable(&link.interface),
            word(&link.via),
            word(&link.state),
            link.last_seen_us.map(age).unwrap_or_default(),
            link.rtt_smoothed_us.map(age).unwrap_or_default(),
            link.failures.to_string(),
            link.received.to_string(),
            link.lost.to_string(),
            link.rejected.to_string(),
        ]);
        if !link.via_reason.is_empty() {
            let reason = printable(&link.via_reason);
            let _ = writeln!(reasons, "{peer} {}: via {}: {reason}", link.name, word(&link.via));
        }
        if let Some(line) = &link.serial {
            let _ = writeln!(reasons, "{peer} {}: {}", link.name, serial_line(line));
        }
    }
    table.text() + &reasons
}

/// What only a serial line has.
fn serial_line(line: &SerialStatus) -> String {
    format!(
        "{} at {} baud, {}, lost {} times; {} bad frames, {} bytes of noise, {} broken messages; \
         {} heartbeats skipped",
        printable(&line.device),
        line.baud,
        word(&line.state),
        line.times_lost,
        line.bad_frames,
        line.noise_bytes,
        line.broken_messages,
        line.tx_skipped,
    )
}

/// A line per event, with a heading.
#[must_use]
pub fn events(events: &[Event]) -> String {
    if events.is_empty() {
        return "No events.\n".to_owned();
    }
    let mut table = Table::new([
        ("TIME", Align::Left),
        ("ID", Align::Right),
        ("SEVERITY", Align::Left),
        ("KIND", Align::Left),
        ("MESSAGE", Align::Left),
    ]);
    for event in events {
        table.row([
            time(event.unix_us),
            event.id.to_string(),
            word(&event.severity),
            printable(&event.kind),
            printable(&event.message),
        ]);
    }
    table.text()
}

/// One event of a stream: widths cannot be known in advance, so they are what usually fits.
#[must_use]
pub fn event_line(event: &Event) -> String {
    format!(
        "{}  {:>5}  {:<8}  {:<KIND_WIDTH$}  {}\n",
        time(event.unix_us),
        event.id,
        word(&event.severity),
        printable(&event.kind),
        printable(&event.message),
    )
}

fn heading(snapshot: &Snapshot) -> String {
    let keeper = snapshot.keeper_pid.map_or("none".to_owned(), |pid| pid.to_string());
    let daemon = format!(
        "version {}, pid {}, keeper {keeper}, memory {}",
        printable(&snapshot.version),
        snapshot.pid,
        printable(&snapshot.memory),
    );
    let mut text = line("Cluster", &printable(&snapshot.cluster));
    text += &line("Node", snapshot.node.as_str());
    text += &line("Quorum", &quorum(snapshot.quorum));
    text += &line("Daemon", &daemon);
    text += &threads(&snapshot.threads);
    if !snapshot.realtime_limits.is_empty() {
        text += &line("Realtime", &printable(&snapshot.realtime_limits));
    }
    for warning in &snapshot.realtime_warnings {
        text += &line("Realtime", &format!("warning: {}", printable(warning)));
    }
    let keepalive = age(snapshot.keepalive_us);
    text += &line("Timing", &format!("keepalive {keepalive}, deadtime {}", deadtime(snapshot)));
    text += &line("Events", &snapshot.events.to_string());
    if snapshot.log_lines_dropped > 0 {
        let lost = snapshot.log_lines_dropped;
        let warning =
            format!("warning: {lost} lines were dropped: who was to take them hangs or is slow");
        text += &line("Log", &warning);
    }
    let refused = refused(&snapshot.packets);
    if !refused.is_empty() {
        text += &line("Refused", &refused);
    }
    text
}

fn line(name: &str, value: &str) -> String {
    format!("{name:<8}  {value}\n")
}

fn deadtime(snapshot: &Snapshot) -> String {
    let longest = age(snapshot.deadtime_us);
    match snapshot.deadtime_min_us {
        Some(min_us) => format!("auto, {} to {longest}", age(min_us)),
        None => longest,
    }
}

/// A line per thread: how it is scheduled, and how late it woke.
#[must_use]
pub fn threads(threads: &[ThreadStatus]) -> String {
    threads.iter().map(|it| line("Thread", &thread(it))).collect()
}

fn thread(thread: &ThreadStatus) -> String {
    let scheduling = format!("{}: {}", printable(&thread.name), printable(&thread.scheduling));
    match (&thread.lateness, thread.lateness_max_us) {
        (Some(late), _) if late.count > 0 => format!(
            "{scheduling}, woke {} times, late by {} (p50), {} (p99), {} (p99.9), {} at most",
            late.count,
            age(late.p50_us),
            age(late.p99_us),
            age(late.p999_us),
            age(late.max_us),
        ),
        // An earlier daemon's answer.
        (None, Some(max_us)) => format!("{scheduling}, at most {} late", age(max_us)),
        (Some(_) | None, _) => scheduling,
    }
}

/// Packets that came and were refused, by reason: why a peer that sends is not heard.
fn refused(packets: &BTreeMap<String, u64>) -> String {
    let is_fault =
        |it: &Reason| !it.is_good() && !matches!(it, Reason::NotOurs | Reason::ForAnother);
    // A word that this program does not know is a newer daemon's, and shown.
    let is_known_good = |word: &str| {
        Reason::ALL.iter().find(|it| it.name() == word).is_some_and(|it| !is_fault(it))
    };
    let refused = packets.iter().filter(|(word, count)| **count > 0 && !is_known_good(word));
    let texts: Vec<String> =
        refused.map(|(reason, count)| format!("{count} {}", printable(reason))).collect();
    texts.join(", ")
}

fn quorum(quorum: Quorum) -> String {
    let majority = if quorum.majority { "majority" } else { "no majority" };
    format!("{majority}, {} of {} votes (informs, decides nothing)", quorum.votes, quorum.of)
}

/// The word that JSON has for it, so that both kinds of output say the same.
pub(super) fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(_) | Err(_) => "?".to_owned(),
    }
}

fn incarnation(incarnation: u64) -> String {
    let digits = incarnation.to_string();
    match digits.len().checked_sub(INCARNATION_DIGITS) {
        _ if incarnation == 0 => String::new(),
        None | Some(0) => digits,
        Some(hidden) => format!("..{}", &digits[hidden..]),
    }
}

/// Two or three figures and a unit.
pub(super) fn age(age_us: u64) -> String {
    match age_us {
        0..1_000 => format!("{age_us} us"),
        1_000..100_000 => format!("{}.{} ms", age_us / 1_000, age_us % 1_000 / 100),
        100_000..1_000_000 => format!("{} ms", age_us / 1_000),
        1_000_000..60_000_000 => {
            format!("{}.{} s", age_us / 1_000_000, age_us % 1_000_000 / 100_000)
        }
        60_000_000..7_200_000_000 => format!("{} min", age_us / 60_000_000),
        7_200_000_000..172_800_000_000 => format!("{} h", age_us / 3_600_000_000),
        _ => format!("{} d", age_us / 86_400_000_000),
    }
}

/// Wall-clock time, UTC. What is beyond the year 9999 is not a time and shown as it is.
fn time(unix_us: u64) -> String {
    let mut text = String::new();
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(unix_us));
    match time.map(|time| write!(text, "{}", humantime::format_rfc3339_micros(time))) {
        Some(Ok(())) => text,
        Some(Err(_)) | None => format!("{unix_us} us"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn sample() -> Result<Snapshot, serde_json::Error> {
        serde_json::from_str(include_str!("../../tests/golden/status.json"))
    }

    #[test]
    fn ages_have_few_figures_and_a_unit() {
        let ages =
            [0, 999, 1_234, 99_999, 150_000, 12_345_678, 90_000_000, 9_000_000_000, u64::MAX];
        assert_eq!(
            ages.map(age),
            [
                "0 us",
                "999 us",
                "1.2 ms",
                "99.9 ms",
                "150 ms",
                "12.3 s",
                "1 min",
                "2 h",
                "213503982 d"
            ]
        );
    }

    #[test]
    fn times_are_utc_with_microseconds_and_never_panic() {
        assert_eq!(time(1_700_000_000_000_042), "2023-11-14T22:13:20.000042Z");
        assert_eq!(time(u64::MAX), format!("{} us", u64::MAX));
    }

    #[test]
    fn incarnations_show_the_digits_that_change() {
        assert_eq!(incarnation(0), "");
        assert_eq!(incarnation(123_456), "123456");
        assert_eq!(incarnation(1_700_000_123_456), "..123456");
    }

    #[test]
    fn services_that_failed_are_told_beside_node_and_group() -> Outcome {
        let mut snapshot = sample()?;
        snapshot.nodes[0].services_well = Some(false);
        snapshot.groups[0].failures = 2;
        let shown = nodes(&snapshot.nodes);
        assert!(shown.contains("up (here, a service failed)"), "{shown}");
        let shown = groups(&snapshot.groups);
        assert!(
            shown.ends_with(
                "\nweb: services of it failed here, 2 times in a row (see hactl events)\n"
            )
        );
        Ok(())
    }

    #[test]
    fn the_reason_for_a_slower_reception_stands_below_the_links() -> Outcome {
        let text = links(&peer_links(sample()?.nodes));
        let last = text.lines().last().unwrap_or_default();
        assert!(last.starts_with("beta svc: via xdp-generic: "), "{text}");
        Ok(())
    }

    #[test]
    fn a_log_that_lost_lines_is_warned_of() -> Outcome {
        let mut snapshot = sample()?;
        assert!(!status(&snapshot).contains("lines were dropped"));
        snapshot.log_lines_dropped = 3;
        assert!(status(&snapshot).contains("warning: 3 lines were dropped: "));
        Ok(())
    }

    #[test]
    fn what_was_rightly_sent_is_not_shown_as_refused() -> Outcome {
        let mut snapshot = sample()?;
        snapshot.packets = Reason::ALL.iter().map(|it| (it.name().to_owned(), 3)).collect();
        let text = status(&snapshot);
        let line = text.lines().find_map(|it| it.strip_prefix("Refused")).ok_or("no line")?;
        let shown: Vec<&str> = line.trim().split(", ").collect();
        for reason in Reason::ALL {
            let is_fault =
                !reason.is_good() && !matches!(reason, Reason::NotOurs | Reason::ForAnother);
            let is_shown = shown.contains(&format!("3 {}", reason.name()).as_str());
            assert_eq!(is_shown, is_fault, "{}: {line}", reason.name());
        }
        snapshot.packets.retain(|word, _| ["probe", "answer", "probe-passed"].contains(&&**word));
        assert!(!status(&snapshot).contains("Refused"), "a healthy cluster");
        Ok(())
    }

    #[test]
    fn a_serial_line_shows_its_rate_and_its_noise() -> Outcome {
        let mut nodes = sample()?.nodes;
        let link = nodes.iter_mut().find_map(|node| node.links.first_mut()).ok_or("no link")?;
        link.serial = Some(serde_json::from_value(serde_json::json!({
            "device": "/dev/ttyS0", "baud": 19_200, "state": "open", "times_lost": 1, "frames": 9,
            "bad_frames": 2, "noise_bytes": 77, "broken_messages": 0, "dropped": 0, "tx_skipped": 3,
            "tx_replaced": 0, "tx_repeated": 0,
        }))?);
        let text = links(&peer_links(nodes));
        let expected = ": /dev/ttyS0 at 19200 baud, open, lost 1 times; 2 bad frames, 77 bytes of \
                        noise, 0 broken messages; 3 heartbeats skipped\n";
        assert!(text.contains(expected), "{text}");
        Ok(())
    }

    #[test]
    fn the_examples_in_the_manual_are_what_is_printed() -> Outcome {
        let manual = include_str!("../../../docs/hactl.md");
        let happened: Vec<Event> =
            serde_json::from_str(include_str!("../../tests/golden/events.json"))?;
        for text in [status(&sample()?), events(&happened)] {
            assert!(manual.contains(&text), "put this into docs/hactl.md:\n{text}");
        }
        Ok(())
    }

    #[test]
    fn no_line_ends_in_blanks() -> Outcome {
        let text = status(&sample()?);
        assert!(text.lines().all(|line| line.trim_end() == line), "{text}");
        Ok(())
    }
}
