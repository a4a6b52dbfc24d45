//! How heartbeats arrive, for people: `hactl links`, and the findings of `ha-daemon check --live`.

use super::render::{self, age};
use super::table::{Align, Table, printable};
use super::{PeerLink, peer_links};
use crate::advice::{Advice, Fit, GAPS_MIN, OBSERVED_MIN};
use crate::config::check::Finding;
use crate::snapshot::{ArrivalStatus, LinkStatus, Snapshot};

/// What `hactl links` prints: the links, how their heartbeats arrive, and how late the threads run that
/// send and judge them.
#[must_use]
pub fn links(snapshot: &Snapshot) -> String {
    let links = peer_links(snapshot.nodes.clone());
    let parts = [render::links(&links), table(&links), render::threads(&snapshot.threads)];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
}

/// A line per link that was heard: its gaps and what follows from them. Empty when there is none.
fn table(links: &[PeerLink]) -> String {
    let mut table = Table::new([
        ("PEER", Align::Left),
        ("LINK", Align::Left),
        ("GAPS", Align::Right),
        ("P50", Align::Right),
        ("P99.9", Align::Right),
        ("LONGEST", Align::Right),
        ("JITTER P99", Align::Right),
        ("BURST", Align::Right),
        ("OUTAGES", Align::Right),
        ("DEADTIME", Align::Right),
        ("ADVICE", Align::Left),
    ]);
    let heard = links.iter().filter_map(|it| Some((it, it.link.arrivals.as_ref()?)));
    let mut rows = 0;
    for (PeerLink { peer, link }, it) in heard {
        rows += 1;
        table.row([
            peer.to_string(),
            link.name.to_string(),
            it.interval.count.to_string(),
            age(it.interval.p50_us),
            age(it.interval.p999_us),
            age(it.longest_gap_us),
            age(it.jitter.p99_us),
            it.longest_burst.to_string(),
            it.outages.to_string(),
            deadtime(link, &it.advice),
            advice(link, &it.advice),
        ]);
    }
    if rows == 0 { String::new() } else { table.text() }
}

fn deadtime(link: &LinkStatus, advice: &Advice) -> String {
    match &link.deadtime_auto {
        Some(auto) => {
            let [holds, min, max] = [link.deadtime_us, auto.min_us, auto.max_us].map(age);
            format!("auto {holds} ({min} to {max})")
        }
        None => age(advice.deadtime_us),
    }
}

/// The key that the advice is about.
fn key(link: &LinkStatus) -> &'static str {
    if link.deadtime_auto.is_some() { "deadtime_max" } else { "deadtime" }
}

fn advice(link: &LinkStatus, it: &Advice) -> String {
    let subject = link.deadtime_auto.map_or("", |_| "deadtime_max is ");
    let recommended = || match (it.recommended_keepalive_us, it.recommended_deadtime_us) {
        (Some(keepalive_us), Some(deadtime_us)) => {
            format!("{} / {}", duration(keepalive_us), duration(deadtime_us))
        }
        _ => "none".to_owned(),
    };
    match it.fit {
        Fit::TooEarly => "too early to say".to_owned(),
        Fit::Fits => format!("keep; {}", between(it)),
        Fit::TooShort => {
            format!("{subject}too short, {}; better {}", between(it), recommended())
        }
        Fit::TooLong => format!("longer than needed; {} would do", recommended()),
    }
}

/// The time between two mistakes with the configured deadtime.
fn between(it: &Advice) -> String {
    let time = age(it.between_mistakes_s.saturating_mul(1_000_000));
    match it.mistakes {
        0 => format!("none seen (one in {time} at most, 95 %)"),
        _ => format!("a mistake in {time}"),
    }
}

/// As it is written in a configuration file.
fn duration(time_us: u64) -> String {
    match time_us {
        _ if time_us.is_multiple_of(1_000_000) => format!("{}s", time_us / 1_000_000),
        _ if time_us.is_multiple_of(1_000) => format!("{}ms", time_us / 1_000),
        _ => format!("{time_us}us"),
    }
}

/// What the running daemon's figures say against its configuration.
#[must_use]
pub fn findings(snapshot: &Snapshot) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        snapshot.realtime_warnings.iter().map(|it| real_time(it)).collect();
    findings.extend(late_threads(snapshot));
    for PeerLink { peer, link } in peer_links(snapshot.nodes.clone()) {
        let Some(arrivals) = &link.arrivals else { continue };
        let place = format!("{peer} on {}", link.name);
        findings.extend(link_finding(&place, key(&link), arrivals));
    }
    findings
}

/// On which links deadtime is not judged yet, if there are any: without a word, nothing found there would
/// look like nothing wrong.
#[must_use]
pub fn too_early(snapshot: &Snapshot) -> Option<String> {
    let is_judged =
        |it: &PeerLink| it.link.arrivals.as_ref().is_some_and(|it| it.advice.fit != Fit::TooEarly);
    let links = peer_links(snapshot.nodes.clone());
    let early = links.iter().filter(|it| !is_judged(it));
    let places: Vec<String> = early.map(|it| format!("{} on {}", it.peer, it.link.name)).collect();
    let seconds = OBSERVED_MIN.as_secs();
    (!places.is_empty()).then(|| {
        format!(
            "too early to judge deadtime: {} (it takes {GAPS_MIN} intervals between heartbeats, and \
             {seconds} s of them)",
            places.join(", ")
        )
    })
}

fn real_time(warning: &str) -> Finding {
    match warning.split_once("; ") {
        Some((message, remedy)) => Finding::warning(message, remedy),
        None => Finding::warning(warning, "see ARCHITECTURE.md, Threads"),
    }
}

/// A sender that is late by more than a keepalive once in a thousand times is heard to be.
fn late_threads(snapshot: &Snapshot) -> impl Iterator<Item = Finding> {
    let late = snapshot.threads.iter().filter_map(|thread| {
        let late = thread.lateness.as_ref()?;
        (thread.name == "sender" && late.p999_us > snapshot.keepalive_us).then_some((thread, late))
    });
    late.map(|(thread, late)| {
        let message = format!(
            "the sender of this node ({}) was late by {} or more once in 1,000 heartbeats, {} at most; \
             keepalive is {}",
            printable(&thread.scheduling),
            age(late.p999_us),
            age(late.max_us),
            age(snapshot.keepalive_us)
        );
        Finding::warning(message, "give it real-time priority, or use a longer keepalive")
    })
}

fn link_finding(place: &str, key: &str, arrivals: &ArrivalStatus) -> Option<Finding> {
    let advice = &arrivals.advice;
    let (keepalive_us, deadtime_us) =
        (advice.recommended_keepalive_us?, advice.recommended_deadtime_us?);
    let seen = format!(
        "the longest of {} gaps was {}, {} ago",
        arrivals.interval.count,
        age(arrivals.longest_gap_us),
        age(arrivals.longest_gap_ago_s.saturating_mul(1_000_000)),
    );
    let bound = age(advice.recommended_between_s.saturating_mul(1_000_000));
    let remedy = format!(
        "keepalive = \"{}\" and {key} = \"{}\" would have made none in {} (at 95 %: {bound} or more \
         between two, if gaps are independent and go on as they were)",
        duration(keepalive_us),
        duration(deadtime_us),
        age(arrivals.observed_s.saturating_mul(1_000_000)),
    );
    let deadtime = age(advice.deadtime_us);
    match advice.fit {
        Fit::TooEarly | Fit::Fits => None,
        Fit::TooShort if advice.mistakes > 0 => {
            let message = format!(
                "{place}: {} gaps of a peer that lived were longer than {key}, {deadtime}: {}; {seen}",
                advice.mistakes,
                between(advice),
            );
            Some(Finding::warning(message, remedy))
        }
        Fit::TooShort => {
            let message = format!("{place}: {key}, {deadtime}, leaves little: {seen}");
            Some(Finding::warning(message, remedy))
        }
        Fit::TooLong => {
            let message = format!("{place}: {key}, {deadtime}, is longer than needed: {seen}");
            Some(Finding::warning(message, remedy))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::realtime::{fifo_refused, lock_refused};
    use crate::snapshot::AutoStatus;

    fn sample() -> Snapshot {
        serde_json::from_str(include_str!("../../tests/golden/status.json")).unwrap()
    }

    #[test]
    fn links_without_figures_make_no_table() {
        assert_eq!(table(&[]), "");
    }

    #[test]
    fn a_deadtime_that_fits_is_no_finding_and_one_that_does_not_is_one() {
        let mut snapshot = sample();
        assert_eq!(findings(&snapshot), []);
        let link = snapshot.nodes.iter_mut().flat_map(|node| &mut node.links).next().unwrap();
        let arrivals = link.arrivals.as_mut().unwrap();
        arrivals.advice.fit = Fit::TooShort;
        arrivals.advice.mistakes = 2;
        arrivals.advice.between_mistakes_s = 430;
        arrivals.advice.recommended_deadtime_us = Some(200_000);
        let found: Vec<String> = findings(&snapshot).iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("beta on hb0: 2 gaps of a peer that lived"), "{found:?}");
        assert!(found[0].contains("keepalive = \"10ms\" and deadtime = \"200ms\""), "{found:?}");
    }

    #[test]
    fn advice_on_a_deadtime_that_finds_itself_is_about_its_bound() {
        let mut snapshot = sample();
        let link = snapshot.nodes.iter_mut().flat_map(|node| &mut node.links).next().unwrap();
        link.deadtime_us = 61_000;
        link.deadtime_auto = Some(AutoStatus {
            min_us: 30_000,
            max_us: 100_000,
            settled: true,
            longest_lately_us: 20_000,
            longest_us: 130_000,
        });
        let arrivals = link.arrivals.as_mut().unwrap();
        arrivals.advice = Advice {
            fit: Fit::TooShort,
            deadtime_us: 100_000,
            mistakes: 1,
            recommended_deadtime_us: Some(200_000),
            ..arrivals.advice.clone()
        };
        let found = findings(&snapshot)[0].to_string();
        assert!(found.contains("were longer than deadtime_max, 100 ms"), "{found}");
        assert!(found.contains("and deadtime_max = \"200ms\" would have"), "{found}");
        let text = table(&peer_links(snapshot.nodes));
        assert!(text.contains("auto 61.0 ms (30.0 ms to 100 ms)"), "{text}");
        assert!(text.contains("deadtime_max is too short, a mistake in"), "{text}");
    }

    #[test]
    fn what_the_kernel_does_not_grant_is_a_finding_with_its_remedy() {
        let mut snapshot = sample();
        snapshot.realtime_warnings = vec!["too little; raise it".to_owned()];
        let found = findings(&snapshot);
        assert_eq!(
            (found[0].message.as_str(), found[0].remedy.as_str()),
            ("too little", "raise it")
        );
    }

    #[test]
    fn each_refusal_is_split_where_its_remedy_begins() {
        let mut snapshot = sample();
        snapshot.realtime_warnings = vec![
            format!("thread sender: {}", fifo_refused(62, "EPERM").text),
            format!("memory is {}", lock_refused("ENOMEM").text),
        ];
        let texts: Vec<String> = findings(&snapshot).iter().map(ToString::to_string).collect();
        let [thread, memory] = &texts[..] else { panic!("{texts:?}") };
        assert!(
            thread.starts_with("warning: thread sender: SCHED_OTHER: SCHED_FIFO 62 was refused"),
            "{thread}"
        );
        assert!(thread.contains("(EPERM); grant CAP_SYS_NICE"), "{thread}");
        assert!(memory.contains("memory is not locked (ENOMEM); grant CAP_IPC_LOCK"), "{memory}");
    }

    #[test]
    fn a_sender_that_is_late_is_a_finding() {
        let mut snapshot = sample();
        let keepalive_us = snapshot.keepalive_us;
        for lateness in snapshot.threads.iter_mut().filter_map(|it| it.lateness.as_mut()) {
            lateness.p999_us = keepalive_us + 1;
        }
        assert_eq!(findings(&snapshot).len(), 1);
    }

    #[test]
    fn links_that_cannot_be_judged_yet_are_named() {
        let mut snapshot = sample();
        for (number, link) in snapshot.nodes.iter_mut().flat_map(|it| &mut it.links).enumerate() {
            if number == 0 {
                link.arrivals.as_mut().unwrap().advice.fit = Fit::TooEarly;
            }
        }
        let text = too_early(&snapshot).unwrap();
        // The other two were not heard.
        let places = "too early to judge deadtime: beta on hb0, beta on svc, gamma on hb0 (";
        assert!(text.starts_with(places), "{text}");
        assert!(text.contains("1000 intervals") && text.contains("60 s"), "{text}");
        snapshot.nodes.retain(|node| node.name.to_string() == "beta");
        let links = &mut snapshot.nodes[0].links;
        links.retain(|link| link.arrivals.is_some());
        links[0].arrivals.as_mut().unwrap().advice.fit = Fit::Fits;
        assert_eq!(too_early(&snapshot), None);
    }

    #[test]
    fn durations_are_as_in_a_file() {
        assert_eq!([30_000, 1_500, 2_000_000].map(duration), ["30ms", "1500us", "2s"]);
    }

    #[test]
    fn the_example_in_the_manual_is_what_is_printed() {
        let manual = include_str!("../../../docs/hactl.md");
        let text = links(&sample());
        let (tables, below) = text.split_once("\n\n").unwrap();
        assert!(tables.starts_with("PEER "), "{text}");
        assert!(manual.contains(below), "put this into docs/hactl.md:\n{below}");
    }
}
