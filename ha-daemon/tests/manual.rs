//! What `docs/hactl.md` promises to name: every kind of event, and every field of the answers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

const MANUAL: &str = include_str!("../../docs/hactl.md");
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

/// What stands before the kind where an event is made.
const BEFORE_A_KIND: [&str; 6] = [
    "Severity::Info,",
    "Severity::Warning,",
    "Severity::Error,",
    "severity,",
    "kind:",
    "resource,",
];

/// Kinds that come out of a constant or a function there.
const HANDED_ON: [&str; 6] =
    ["events-missed", "kernel-watch", "node-online", "node-standby", "reexecuted", "reloaded"];

/// The daemon's sources without their tests.
fn sources(directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        if name.ends_with("tests") {
            continue;
        }
        if path.is_dir() {
            sources(&path, found);
        } else {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            found.push(code.to_owned());
        }
    }
}

/// The word in quotes that follows, if one does.
fn quoted_word(text: &str) -> Option<&str> {
    let (word, _) = text.trim_start().strip_prefix('"')?.split_once('"')?;
    let is_word = word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    (is_word && !word.is_empty()).then_some(word)
}

/// The kinds in the source.
fn emitted(code: &[String]) -> BTreeSet<&str> {
    let behind = |marker: &'static str| {
        code.iter().flat_map(move |text| text.split(marker).skip(1)).filter_map(quoted_word)
    };
    BEFORE_A_KIND.into_iter().flat_map(behind).chain(HANDED_ON).collect()
}

/// What a section of the manual says.
fn section(heading: &str) -> &'static str {
    let (_, text) = MANUAL.split_once(&format!("\n## {heading}\n")).unwrap();
    text.split("\n## ").next().unwrap()
}

/// The kinds in the first columns of the tables of kinds.
fn explained() -> BTreeSet<&'static str> {
    let tables = section("Events").split("\n\n").filter(|table| table.starts_with("| kind |"));
    let first_cells = tables.flat_map(str::lines).filter_map(|row| row.split('|').nth(1));
    // Every other piece is between backticks.
    first_cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn every_kind_of_event_is_explained_and_no_other() {
    let mut code = Vec::new();
    sources(Path::new(SOURCES), &mut code);
    let (emitted, explained) = (emitted(&code), explained());
    // One of each way to make an event, so that none is lost to another style.
    for kind in ["takeover", "abandon", "lost-packets", "address-added", "lease-lost"] {
        assert!(emitted.contains(kind), "{kind} is not found in the sources any more");
    }
    for kind in HANDED_ON {
        let literal = format!("\"{kind}\"");
        assert!(code.iter().any(|text| text.contains(&literal)), "nothing says {kind} any more");
    }
    let missing: Vec<_> = emitted.difference(&explained).collect();
    assert!(missing.is_empty(), "docs/hactl.md, Events, does not explain {missing:?}");
    let unknown: Vec<_> = explained.difference(&emitted).collect();
    assert!(unknown.is_empty(), "docs/hactl.md, Events, explains what is never told: {unknown:?}");
}

/// Names of fields, also of what is inside. Counters by reason or kind are no fields.
fn fields(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, inner) in object {
                found.insert(name.clone());
                if name != "packets" && name != "events_by_kind" {
                    fields(inner, found);
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|inner| fields(inner, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn every_field_of_an_answer_is_named() {
    for (heading, answer) in [
        ("Events", include_str!("golden/events.json")),
        ("HTTP", include_str!("golden/status.json")),
    ] {
        let words: BTreeSet<&str> = section(heading)
            .split(|character: char| !character.is_ascii_alphanumeric() && character != '_')
            .collect();
        let mut found = BTreeSet::new();
        fields(&serde_json::from_str(answer).unwrap(), &mut found);
        let missing: Vec<_> = found.iter().filter(|name| !words.contains(name.as_str())).collect();
        assert!(missing.is_empty(), "docs/hactl.md, {heading}, does not name {missing:?}");
    }
}
