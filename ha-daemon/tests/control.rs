//! The control socket over a real socket: what every path answers, and what it withstands.

mod daemon;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use daemon::{Daemon, GOLDEN, Outcome, answer, silence};
use ha_daemon::control::backend::Busy;
use ha_daemon::control::client::{Client, ClientError, Lines};
use ha_daemon::control::event_log::{EVENTS_MAX, EVENTS_MISSED};
use ha_daemon::control::{CONNECTIONS_MAX, ErrorBody, FOLLOWERS_MAX, PeerLink};
use ha_daemon::snapshot::{Event, GroupStatus, NodeStatus, Snapshot};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(10);

async fn next_event(lines: &mut Lines) -> Result<Event, Box<dyn std::error::Error>> {
    let line = tokio::time::timeout(PATIENCE, lines.next()).await??.ok_or("the stream ended")?;
    Ok(serde_json::from_slice(&line)?)
}

async fn refusal(client: &Client, path: &str) -> Result<(u16, ErrorBody), String> {
    match client.get(path).await {
        Err(ClientError::Refused { status, body }) => Ok((status, body)),
        Err(error) => Err(error.to_string()),
        Ok(bytes) => Err(format!("{path}: {}", String::from_utf8_lossy(&bytes))),
    }
}

/// The whole answer to a request, as it is on the wire.
fn answer_to(daemon: &Daemon, request: &str) -> std::io::Result<String> {
    let mut raw = UnixStream::connect(&daemon.socket)?;
    raw.set_read_timeout(Some(PATIENCE))?;
    write!(raw, "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    raw.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn metrics_are_openmetrics_also_by_their_content_type() -> Outcome {
    let daemon = Daemon::start(answer)?;
    let text = answer_to(&daemon, "GET /v1/metrics")?;
    let (head, page) = text.split_once("\r\n\r\n").ok_or("no page")?;
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(head.lines().any(|line| line == kind), "{head}");
    assert!(page.contains("\nha_peer_state{peer=\"beta\",state=\"up\"} 1\n"), "{page}");
    assert!(page.ends_with("\n# EOF\n"), "{page}");
    daemon.stop()
}

#[test]
fn field_names_are_those_of_the_contract() -> Outcome {
    let snapshot: Snapshot = serde_json::from_str(GOLDEN)?;
    let written = serde_json::to_value(&snapshot)?;
    assert_eq!(written, serde_json::from_str::<Value>(GOLDEN)?, "tests/golden/status.json");
    let has = |pointer: &str, fields: &[&str]| {
        for field in fields {
            let found = written.pointer(pointer).and_then(|object| object.get(field));
            assert!(found.is_some(), "{pointer} has no `{field}`");
        }
    };
    has("", &["node", "nodes", "groups", "quorum", "events"]);
    has("/nodes/1", &["name", "state", "incarnation", "links"]);
    has("/nodes/1/links/0", &["kind", "interface", "via", "state"]);
    has("/nodes/1/links/0", &["last_seen_us", "received", "lost", "rejected"]);
    has("/groups/0", &["name", "owner", "state", "term", "resources"]);
    has("/groups/0/resources/0", &["name", "kind", "state"]);
    let golden = include_str!("golden/events.json");
    let written = serde_json::to_value(serde_json::from_str::<Vec<Event>>(golden)?)?;
    assert_eq!(written, serde_json::from_str::<Value>(golden)?, "tests/golden/events.json");
    Ok(())
}

#[tokio::test]
async fn every_path_answers_its_part_of_the_snapshot() -> Outcome {
    let daemon = Daemon::start(answer)?;
    let client = Client::new(&daemon.socket);
    let golden: Snapshot = serde_json::from_str(GOLDEN)?;
    assert_eq!(client.get_as::<Snapshot>("/v1/status").await?, golden);
    assert_eq!(client.get_as::<Vec<NodeStatus>>("/v1/nodes").await?, golden.nodes);
    assert_eq!(client.get_as::<Vec<GroupStatus>>("/v1/groups").await?, golden.groups);
    let links: Vec<PeerLink> = client.get_as("/v1/links").await?;
    let named: Vec<_> = links.iter().map(|l| (l.peer.as_str(), l.link.name.as_str())).collect();
    assert_eq!(named, [("beta", "hb0"), ("beta", "svc"), ("gamma", "hb0")]);
    let flat: Value = client.get_as("/v1/links").await?;
    assert_eq!(flat.pointer("/0/via"), Some(&Value::from("xdp-native")));
    assert!(client.get_as::<Vec<Event>>("/v1/events").await?.is_empty());
    daemon.stop()
}

#[tokio::test]
async fn events_are_paged_by_since_and_limit() -> Outcome {
    let daemon = Daemon::start(answer)?;
    let client = Client::new(&daemon.socket);
    daemon.push(5, "late");
    for (query, expected) in [
        ("", vec![1, 2, 3, 4, 5]),
        ("?limit=2", vec![4, 5]),
        ("?since=1&limit=2", vec![2, 3]),
        ("?since=5", vec![]),
        ("?follow=false&since=3", vec![4, 5]),
    ] {
        let events: Vec<Event> = client.get_as(&format!("/v1/events{query}")).await?;
        assert_eq!(events.iter().map(|event| event.id).collect::<Vec<_>>(), expected, "{query}");
    }
    daemon.stop()
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_with_reason_and_remedy() -> Outcome {
    let daemon = Daemon::start(answer)?;
    let client = Client::new(&daemon.socket);
    for (path, expected, reason) in [
        ("/v1/nothing", 404, "/v1/nothing"),
        ("/", 404, "/"),
        ("/v1/events?since=abc", 400, "since"),
        ("/v1/events?folow=true", 400, "folow"),
        ("/v1/events?since=1", 400, "beyond the last event, 0"),
    ] {
        let (status, body) = refusal(&client, path).await?;
        assert_eq!(status, expected, "{path}");
        assert!(body.error.contains(reason) && !body.remedy.is_empty(), "{path}: {body:?}");
    }
    let text = answer_to(&daemon, "POST /v1/status")?;
    assert!(text.starts_with("HTTP/1.1 405") && text.contains("\"remedy\":\"use GET\""), "{text}");
    daemon.stop()
}

#[tokio::test]
async fn a_follower_gets_what_is_held_and_then_what_happens_later() -> Outcome {
    let daemon = Daemon::start(answer)?;
    let client = Client::new(&daemon.socket);
    // The answer begins before anything has happened.
    let mut from_start = client.follow("/v1/events?follow=true").await?;
    daemon.push(2, "early");
    assert_eq!(next_event(&mut from_start).await?.id, 1);
    let mut from_one = client.follow("/v1/events?follow=true&since=1").await?;
    assert_eq!(next_event(&mut from_one).await?.message, "early");
    let mut only_new = client.follow("/v1/events?follow=true&limit=0").await?;
    assert_eq!(daemon.push(1, "later"), 3);
    for follower in [&mut from_one, &mut only_new] {
        let event = next_event(follower).await?;
        assert_eq!((event.id, event.message.as_str()), (3, "later"));
    }
    daemon.stop()?;
    assert!(tokio::time::timeout(PATIENCE, only_new.next()).await??.is_none());
    Ok(())
}

#[tokio::test]
async fn a_follower_that_falls_behind_is_told_how_many_it_missed() -> Outcome {
    let daemon = Daemon::start(answer)?;
    let mut lines = Client::new(&daemon.socket).follow("/v1/events?follow=true").await?;
    // More than the log and every buffer on the way can hold.
    let message = "x".repeat(2_000);
    let mut last_id = 0;
    for _ in 0..20 {
        last_id = daemon.push(EVENTS_MAX as u64, &message);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (mut read, mut markers) = (0, 0);
    while read < last_id {
        let event = next_event(&mut lines).await?;
        if event.kind == EVENTS_MISSED {
            markers += 1;
            let count = format!("{} events ({} to {})", event.id - read, read + 1, event.id);
            assert!(event.message.starts_with(&count), "{} at {read}", event.message);
        } else {
            assert_eq!(event.id, read + 1, "a gap without a marker");
        }
        read = event.id;
    }
    assert!(markers > 0);
    daemon.stop()
}

#[tokio::test]
async fn a_driver_that_does_not_answer_costs_a_second_and_no_other_client() -> Outcome {
    let daemon = Daemon::start(silence)?;
    let client = Client::new(&daemon.socket);
    let asked = Instant::now();
    let (refused, events) =
        tokio::join!(refusal(&client, "/v1/status"), client.get_as::<Vec<Event>>("/v1/events"));
    let (status, body) = refused?;
    assert_eq!(status, 503);
    assert!(body.error.contains("the driver did not answer within 1000 ms"), "{body:?}");
    assert!(asked.elapsed() < PATIENCE && events?.is_empty());
    daemon.stop()
}

#[tokio::test]
async fn a_driver_that_is_busy_or_gone_is_named() -> Outcome {
    let busy = Daemon::start(|_| Err(Busy))?;
    let (status, body) = refusal(&Client::new(&busy.socket), "/v1/nodes").await?;
    assert!(status == 503 && body.error.contains("queue is full"), "{body:?}");
    busy.stop()?;
    let gone = Daemon::start(|request| {
        drop(request);
        Ok(())
    })?;
    let (status, body) = refusal(&Client::new(&gone.socket), "/v1/groups").await?;
    assert!(status == 503 && body.error.contains("stopping"), "{body:?}");
    gone.stop()
}

#[tokio::test]
async fn followers_are_limited_and_leave_room_for_questions() -> Outcome {
    let daemon = Daemon::start(answer)?;
    let client = Client::new(&daemon.socket);
    let mut followers = Vec::new();
    for _ in 0..FOLLOWERS_MAX {
        followers.push(client.follow("/v1/events?follow=true").await?);
    }
    let (status, body) = refusal(&client, "/v1/events?follow=true").await?;
    assert!(status == 503 && body.error.contains("follow the events already"), "{body:?}");
    client.get("/v1/status").await?;
    // Nothing happens, so only the closed connection can tell that a follower has left.
    followers.pop();
    let left = Instant::now();
    while let Err(error) = client.follow("/v1/events?follow=true").await {
        assert!(left.elapsed() < PATIENCE, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    daemon.stop()
}

#[tokio::test]
async fn clients_that_say_nothing_do_not_keep_others_out() -> Outcome {
    let daemon = Daemon::start(answer)?;
    let silent: Result<Vec<_>, _> =
        (0..CONNECTIONS_MAX).map(|_| UnixStream::connect(&daemon.socket)).collect();
    let silent = silent?;
    Client::new(&daemon.socket).get("/v1/status").await?;
    assert_eq!(silent.len(), CONNECTIONS_MAX);
    daemon.stop()
}
