use std::collections::BTreeSet;

use ha_common::buckets::{BUCKETS, CEILING_BITS, below_ns};

use super::*;
use crate::histogram::{Bucket, Histogram};

/// The snapshot of the contract, with what it has nothing of: a serial line.
fn sample() -> Snapshot {
    let mut snapshot: Snapshot =
        serde_json::from_str(include_str!("../../../tests/golden/status.json")).unwrap();
    let beta = snapshot.nodes.iter_mut().find(|it| it.name.as_str() == "beta").unwrap();
    let mut line = beta.links[1].clone();
    line.name = "tty".parse().unwrap();
    line.kind = "serial".to_owned();
    line.interface = "/dev/ttyS0".to_owned();
    line.serial = Some(
        serde_json::from_value(serde_json::json!({
            "device": "/dev/ttyS0", "baud": 19_200, "state": "open", "times_lost": 1, "frames": 9,
            "bad_frames": 2, "noise_bytes": 77, "broken_messages": 0, "dropped": 0, "tx_skipped": 3,
            "tx_replaced": 0, "tx_repeated": 0,
        }))
        .unwrap(),
    );
    beta.links.push(line);
    snapshot
}

/// Lines with a value: name and labels, and the value.
fn samples(text: &str) -> Vec<(&str, &str)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').unwrap()).collect()
}

/// One family of a page as the manual lists it.
fn row(text: &str, name: &str, kind: &str) -> String {
    let help = text.lines().find_map(|line| line.strip_prefix(&format!("# HELP {name} "))).unwrap();
    let of_family = |it: &&(&str, &str)| {
        it.0.strip_prefix(name)
            .is_some_and(|rest| !rest.starts_with(|next: char| next.is_alphabetic()))
    };
    let (series, _) = samples(text).into_iter().rfind(|it| of_family(&it)).unwrap();
    let labels = series.split(['{', ',']).skip(1).filter_map(|it| it.split_once('='));
    let labels: Vec<String> =
        labels.map(|it| format!("`{}`", it.0)).filter(|it| it != "`le`").collect();
    let labels = if labels.is_empty() { "-".to_owned() } else { labels.join(", ") };
    let suffix = if kind == "counter" { "_total" } else { "" };
    format!("| `{name}{suffix}` | {kind} | {labels} | {help} |")
}

#[test]
fn the_page_is_the_golden_one() {
    let text = page(sample()).unwrap();
    let golden = include_str!("../../../tests/golden/metrics.txt");
    assert!(text == golden, "put this into tests/golden/metrics.txt:\n{text}");
}

#[test]
fn the_manual_lists_what_there_is_and_nothing_else() {
    let text = page(sample()).unwrap();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let rows: Vec<String> = types.map(|(name, kind)| row(&text, name, kind)).collect();
    let manual = include_str!("../../../../docs/hactl.md");
    let listed: Vec<&str> = manual.lines().filter(|line| line.starts_with("| `ha_")).collect();
    assert!(listed == rows, "put this into docs/hactl.md:\n{}", rows.join("\n"));
}

#[test]
fn no_series_is_there_twice() {
    let mut snapshot = sample();
    let serial = ThreadStatus { name: "serial".to_owned(), ..snapshot.threads[2].clone() };
    snapshot.threads.push(ThreadStatus { refused: true, lateness_max_us: None, ..serial.clone() });
    snapshot.threads.push(ThreadStatus { lateness_max_us: None, ..serial });
    let text = page(snapshot).unwrap();
    let all = samples(&text);
    let different: BTreeSet<&str> = all.iter().map(|it| it.0).collect();
    assert_eq!(different.len(), all.len());
    assert!(all.contains(&("ha_thread_realtime_refused{thread=\"serial\"}", "1")), "{text}");
}

#[test]
fn nothing_to_show_is_no_family_and_quotes_are_escaped() {
    let mut snapshot = sample();
    snapshot.cluster = "a\"b\\c\nd".to_owned();
    snapshot.groups.clear();
    snapshot.connectivity.targets.clear();
    let text = page(snapshot).unwrap();
    assert!(!text.contains("ha_group_") && !text.contains("ha_ping_"), "{text}");
    let info = r#"ha_cluster_info{cluster="a\"b\\c\nd",node="alpha"} 1"#;
    assert!(text.lines().any(|line| line == info), "{text}");
}

#[test]
fn the_octaves_have_all_durations_below_their_bounds() {
    let counts: [u64; BUCKETS] = std::array::from_fn(|bucket| bucket as u64 + 1);
    let octaves = page::by_octave(&Histogram(&counts).buckets());
    let mut seen = 0;
    for (bound, count) in &octaves {
        seen += count;
        let is_below = |bucket: &usize| below_ns(*bucket) as f64 / 1e9 <= *bound;
        let below: u64 = (0..BUCKETS).filter(is_below).map(|bucket| counts[bucket]).sum();
        assert_eq!(seen, below, "{bound}");
    }
    assert_eq!(seen, counts.iter().sum::<u64>());
    assert_eq!(octaves[0].0, 1.024e-6);
    // What a newer daemon might count is not lost.
    let far = Bucket { below_ns: Some(1 << (CEILING_BITS + 3)), count: 5 };
    assert_eq!(page::by_octave(&[far]).last(), Some(&(f64::INFINITY, 5)));
}
