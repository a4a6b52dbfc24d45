use std::error::Error;
use std::time::Duration;

use super::*;

fn draft(message: &str) -> EventDraft {
    EventDraft {
        monotonic_ns: 5,
        unix_us: 7,
        severity: Severity::Info,
        kind: "test".to_owned(),
        node: None,
        link: None,
        group: None,
        message: message.to_owned(),
    }
}

fn filled(count: u64) -> io::Result<EventLog> {
    let log = EventLog::new()?;
    for _ in 0..count {
        log.push(draft("something"));
    }
    Ok(log)
}

fn ids(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.id).collect()
}

#[test]
fn ids_start_at_one_and_have_no_gaps() -> io::Result<()> {
    let log = EventLog::new()?;
    assert_eq!((log.push(draft("a")), log.push(draft("b"))), (1, 2));
    assert_eq!(ids(&log.since(0, 10)), [1, 2]);
    assert_eq!(ids(&log.since(1, 10)), [2]);
    assert_eq!(ids(&log.since(0, 1)), [1]);
    assert!(log.since(2, 10).is_empty() && log.since(u64::MAX, 10).is_empty());
    assert!(log.since(0, 0).is_empty());
    Ok(())
}

#[test]
fn a_full_log_forgets_the_oldest_and_says_how_many() -> io::Result<()> {
    let log = filled(EVENTS_MAX as u64 + 5)?;
    assert_eq!(log.dropped(), 5);
    let events = log.since(2, usize::MAX);
    assert_eq!(events.len(), EVENTS_MAX + 1);
    assert_eq!((events[0].id, events[0].kind.as_str()), (5, EVENTS_MISSED));
    assert!(events[0].message.starts_with("3 events (3 to 5) are gone"), "{}", events[0].message);
    assert_eq!((events[1].id, events[1].kind.as_str()), (6, "test"));
    assert_eq!(ids(&log.since(5, 2)), [6, 7]);
    Ok(())
}

#[test]
fn the_marker_counts_towards_the_maximum_and_can_be_continued_from() -> io::Result<()> {
    let log = filled(EVENTS_MAX as u64 + 5)?;
    let only_marker = log.since(0, 1);
    assert_eq!(only_marker[0].kind, EVENTS_MISSED);
    assert_eq!(ids(&log.since(only_marker[0].id, 1)), [6]);
    Ok(())
}

#[test]
fn kinds_are_counted_over_a_hand_over_whatever_the_log_forgets() -> io::Result<()> {
    let log = filled(EVENTS_MAX as u64 + 5)?;
    log.push(EventDraft { kind: "other".to_owned(), ..draft("x") });
    let next = EventLog::resume(log.latest(1), log.last_id(), log.dropped(), log.by_kind())?;
    next.push(draft("y"));
    let counts = [("other".to_owned(), 1), ("test".to_owned(), EVENTS_MAX as u64 + 6)];
    assert_eq!(next.by_kind(), counts.into());
    assert_eq!(next.by_kind().values().sum::<u64>(), next.last_id());
    Ok(())
}

#[test]
fn latest_are_the_newest_in_order() -> io::Result<()> {
    let log = filled(EVENTS_MAX as u64 + 5)?;
    assert_eq!(ids(&log.latest(2)), [1004, 1005]);
    assert_eq!(log.latest(usize::MAX).len(), EVENTS_MAX);
    assert!(log.latest(0).is_empty() && EventLog::new()?.latest(3).is_empty());
    Ok(())
}

#[test]
fn a_reader_that_holds_a_slot_does_not_hold_up_the_driver() -> io::Result<()> {
    let log = filled(EVENTS_MAX as u64)?;
    let reader = locked(log.slot(1).lock());
    assert_eq!(log.push(draft("lost")), 1001);
    drop(reader);
    assert_eq!(log.dropped(), 1);
    log.push(draft("kept"));
    let events = log.since(1000, 10);
    assert_eq!(ids(&events), [1001, 1002]);
    assert_eq!(events[0].kind, EVENTS_MISSED);
    assert_eq!(events[1].message, "kept");
    Ok(())
}

#[tokio::test]
async fn a_follower_is_woken_by_a_push_of_another_thread() -> Result<(), Box<dyn Error>> {
    let log = Arc::new(filled(1)?);
    let mut follower = log.follow(1);
    let pusher = Arc::clone(&log);
    let push = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        pusher.push(draft("late"))
    });
    let events = tokio::select! {
        events = tokio::time::timeout(Duration::from_secs(5), follower.next(10)) => events?,
        ended = log.relay() => return Err(format!("relay ended: {ended:?}").into()),
    };
    assert_eq!(ids(&events), [2]);
    assert_eq!(follower.last_id(), 2);
    assert!(push.join().is_ok_and(|id| id == 2));
    Ok(())
}
