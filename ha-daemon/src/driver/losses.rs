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

impl Driver {
    /// Tells of losses since the last time. A peer that started again begins anew.
    pub(super) fn tell_losses(&mut self, now: Moment) {
        for slot in 0..self.losses.len() {
            let told = self.losses[slot];
            let Some(record) = record(&self.parts, slot) else { continue };
            let (lost, sequence) = (record.lost(), record.sequence());
            let incarnation = record.believed();
            if incarnation != told.incarnation {
                self.losses[slot] = Told { incarnation, lost, sequence, next: None };
                continue;
            }
            if lost <= told.lost || told.next.is_some_and(|next| now < next) {
                continue;
            }
            let next = Some(now.after(NOTE_INTERVAL));
            self.losses[slot] = Told { incarnation, lost, sequence, next };
            let path = &self.parts.paths[slot];
            let config = &self.parts.config;
            let (peer, link) = (&config.nodes[path.peer.0].name, &config.links[path.link.0].name);
            let message = format!(
                "{} lost packet(s) for [{peer}] [{}:{sequence}] on link {link}",
                lost - told.lost,
                told.sequence
            );
            let note = Note {
                severity: Severity::Warning,
                kind: "lost-packets".to_owned(),
                node: Some(path.peer),
                link: Some(path.link),
                group: None,
                message,
            };
            self.event(now, note);
        }
    }
}
