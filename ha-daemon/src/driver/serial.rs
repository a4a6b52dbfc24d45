//! Serial lines as the driver has them: what arrives goes the way of any datagram.

use std::sync::atomic::Ordering::Relaxed;

use ha_common::maps::Audience;

use super::Driver;
use crate::core::io::{Input, Note};
use crate::core::message::Message;
use crate::core::time::Moment;
use crate::io::clock::monotonic_ns;
use crate::io::keeper::Notice;
use crate::io::paths::Path;
use crate::io::serial::{LineNews, framing};
use crate::io::table::Received;
use crate::snapshot::{LineState, SerialStatus, Severity};

/// Most datagrams of all lines that are taken in one turn.
const ARRIVALS_PER_TURN: usize = 64;

impl Driver {
    /// Takes what came on the lines: heartbeats into the records, control messages as inputs.
    pub(super) fn receive_serial(&mut self, inputs: &mut Vec<Input>) {
        self.parts.lines.acknowledge();
        for _ in 0..ARRIVALS_PER_TURN {
            let Some(arrival) = self.parts.lines.arrival() else { return };
            let (datagram, at_ns) = (&arrival.datagram, arrival.at_ns);
            let Some(line) = self.parts.lines.get(arrival.line) else { continue };
            let path = line.slots.first().and_then(|slot| self.parts.paths.get(*slot));
            let Some(interface) = path.map(Path::interface_index) else { continue };
            let received =
                self.parts.table.receive(datagram, interface, at_ns, true, Audience::Several);
            if let Received::Probe { slot, answer } = received {
                self.send_answer(slot as usize, &answer);
            }
            let Received::Control { slot, header, body } = received else { continue };
            match Message::decode(&body) {
                Ok(Message::Probe(probe)) => self.probed(slot as usize, probe, at_ns),
                message => inputs.extend(self.control_input(slot, &header, message)),
            }
        }
        self.parts.lines.remind();
    }

    /// Hands a control datagram to the line of a path; `false`: it did not leave.
    pub(super) fn send_serial(&self, slot: usize, datagram: &[u8], body: &[u8]) -> bool {
        let line = self.parts.lines.of_slot(slot);
        line.is_some_and(|line| line.send(slot, body, datagram.to_vec()))
    }

    /// What the keeper is to write on the lines that are there when this daemon dies. A line that
    /// is lost has none: whoever keeps a device open that was unplugged keeps its name taken.
    pub(super) fn notices(&self, sequence: u64, body: &[u8]) -> Vec<Notice> {
        let slots = (0..self.parts.paths.len()).filter(|slot| self.heard_told[*slot] != 0);
        let signed = slots.flat_map(|slot| {
            let signing = self.parts.shared.paths[slot].signing.get();
            self.parts.keys.signers(signing).into_iter().map(move |signer| (slot, signer))
        });
        let notice = |(slot, signer)| {
            let line = self.parts.lines.of_slot(slot)?;
            let datagram = self.control_datagram(slot, sequence, signer, body);
            let bytes = framing::whole(&datagram)?;
            let open = line.counters.open.load(Relaxed);
            open.then(|| Notice { device: line.device.clone(), bytes })
        };
        signed.filter_map(notice).collect()
    }

    /// Tells that a line was lost or is back, and gives the keeper what follows from it.
    pub(super) fn line_news(&mut self, news: &LineNews) {
        let Some(line) = self.parts.lines.get(news.line) else { return };
        let (device, baud) = (line.device.display(), line.baud);
        let (severity, kind, message) = match &news.lost {
            Some(cause) => (
                Severity::Warning,
                "serial-lost",
                format!("serial line {device} lost: {cause}; waiting for the device to come back"),
            ),
            None => (
                Severity::Info,
                "serial-back",
                format!("serial line {device} is back, at {baud} baud"),
            ),
        };
        let kind = kind.to_owned();
        let note = Note { severity, kind, node: None, link: Some(line.link), group: None, message };
        self.event(Moment(monotonic_ns()), note);
        self.obituary_is_due = true;
    }

    /// What a path has for being a serial line.
    pub(super) fn serial_status(&self, slot: usize) -> Option<SerialStatus> {
        let line = self.parts.lines.of_slot(slot)?;
        let counters = &line.counters;
        let open = counters.open.load(Relaxed);
        Some(SerialStatus {
            device: line.device.display().to_string(),
            baud: line.baud,
            state: if open { LineState::Open } else { LineState::Lost },
            times_lost: counters.times_lost.load(Relaxed),
            frames: counters.frames.load(Relaxed),
            bad_frames: counters.bad_frames.load(Relaxed),
            noise_bytes: counters.noise_bytes.load(Relaxed),
            broken_messages: counters.broken.load(Relaxed),
            dropped: counters.dropped.load(Relaxed),
            tx_skipped: counters.skipped.load(Relaxed),
            tx_replaced: counters.replaced.load(Relaxed),
            tx_repeated: counters.repeated.load(Relaxed),
        })
    }
}
