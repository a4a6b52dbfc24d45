//! Lost heartbeats, told at most every [`NOTE_INTERVAL`] for each link: the records count them, and
//! nobody else would say when it happened.

use std::time::Duration;

use super::{Driver, record};
use crate::core::io::Note;
use crate::core::time::Moment;
use crate::snapshot::Severity;

/// Shortest time between two notes about one link.
pub const NOTE_INTERVAL: Duration = Duration::from_secs(10);

/// What was told of one link.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Told {
    incarnation: u64,
    lost: u64,
    sequence: u64,
    next: Option<Moment>,
}

impl Told {
    /// How many more are lost and since which sequence number, when that is to be told now. A peer
    /// that started again begins anew.
    fn news(
        &mut self,
        incarnation: u64,
        lost: u64,
        sequence: u64,
        now: Moment,
    ) -> Option<(u64, u64)> {
        let before = *self;
        if incarnation != before.incarnation {
            *self = Self { incarnation, lost, sequence, next: None };
            return None;
        }
        if lost <= before.lost || before.next.is_some_and(|next| now < next) {
            return None;
        }
        *self = Self { incarnation, lost, sequence, next: Some(now.after(NOTE_INTERVAL)) };
        Some((lost - before.lost, before.sequence))
    }
}

impl Driver {
    /// Tells of losses since the last time.
    pub(super) fn tell_losses(&mut self, now: Moment) {
        for slot in 0..self.losses.len() {
            let Some(record) = record(&self.parts, slot) else { continue };
            let (lost, sequence) = (record.lost(), record.sequence());
            let Some((count, from)) =
                self.losses[slot].news(record.believed(), lost, sequence, now)
            else {
                continue;
            };
            let path = &self.parts.paths[slot];
            let config = &self.parts.config;
            let (peer, link) = (&config.nodes[path.peer.0].name, &config.links[path.link.0].name);
            let note = Note {
                severity: Severity::Warning,
                kind: "lost-packets".to_owned(),
                node: Some(path.peer),
                link: Some(path.link),
                group: None,
                message: text(count, peer.as_str(), (from, sequence), link.as_str()),
            };
            self.event(now, note);
        }
    }
}

fn text(count: u64, peer: &str, (from, to): (u64, u64), link: &str) -> String {
    format!("{count} lost packet(s) for [{peer}] [{from}:{to}] on link {link}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_told_once_and_not_too_often() {
        let mut told = Told::default();
        let at = |seconds: u64| Moment(seconds * 1_000_000_000);
        // What was lost before this daemon looked is nobody's news.
        assert_eq!(told.news(7, 3, 100, at(1)), None);
        assert_eq!(told.news(7, 3, 110, at(2)), None);
        assert_eq!(told.news(7, 5, 120, at(3)), Some((2, 100)));
        assert_eq!(told.news(7, 6, 130, at(4)), None, "too early");
        assert_eq!(told.news(7, 6, 140, at(14)), Some((1, 120)));
        assert_eq!(told.news(8, 9, 1, at(15)), None, "another start of the peer");
        assert_eq!(told.news(8, 10, 9, at(16)), Some((1, 1)));
        let message = text(2, "beta", (100, 120), "hb0");
        assert!(message.starts_with("2 lost packet(s) for [beta] [100:120]"), "{message}");
    }
}
