//! The driver's part in a hand-over: from the request to the core's word, and from what an earlier
//! driver left to a core that goes on.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use ha_common::wire::Phase;

use super::{Driver, Parts};
use crate::core::Core;
use crate::core::io::Input;
use crate::core::resume::{Kept, Memory};
use crate::core::time::Moment;
use crate::io::keeper::Custody;
use crate::io::mailbox::HandOverAnswer;
use crate::snapshot::Severity;

/// What one driver leaves to the next.
#[derive(Debug, Clone)]
pub struct Resumption {
    /// What the core knows.
    pub core: Memory,
    /// Sequence numbers of the last control messages, by slot.
    pub control_sequences: Vec<u64>,
    /// What the keeper is to keep and to tell, when the next driver is that of a later daemon.
    pub custody: Option<Custody>,
}

/// The core of a start, or the one that goes on; and the sequence numbers of control messages.
pub(super) fn core(parts: &mut Parts, now: Moment) -> (Core, Vec<u64>) {
    let config = Arc::clone(&parts.config);
    let Some(Resumption { core, mut control_sequences, .. }) = parts.resumption.take() else {
        let mut core = Core::new(config, parts.own, parts.incarnation, now);
        if let Some(estate) = parts.estate.take() {
            core.adopt(&estate);
        }
        return (core, vec![0; parts.paths.len()]);
    };
    control_sequences.resize(parts.paths.len(), 0);
    let core = Core::resume(config, parts.own, core, now);
    let (generation, phase) = core.advertised();
    parts.shared.generation.store(generation, Relaxed);
    parts.shared.phase.store(phase as u8, Relaxed);
    parts.shared.services_well.store(core.services_well(), Relaxed);
    (core, control_sequences)
}

impl Driver {
    pub(super) fn prepare_hand_over(&mut self, kept: Vec<Kept>, answer: HandOverAnswer) {
        self.hand_over_asked = Some(answer);
        self.handle(Input::HandOver(kept));
    }

    /// The core has ended its work: the rest is up to who runs this driver.
    pub(super) fn hand_over(&mut self) {
        if self.core.phase() == Phase::Active {
            self.parts.shared.phase.store(Phase::Restarting as u8, Relaxed);
        }
        let core = self.core.remember();
        let control_sequences = self.control_sequences.clone();
        let custody = self.detaches.then(|| self.custody(true));
        if let Some(custody) = &custody {
            let text = format!(
                "this daemon ends and leaves everything in place for the next one: {} groups wait",
                custody.groups
            );
            self.driver_note(Severity::Info, "detached", text);
        }
        self.parts.resumption = Some(Resumption { core, control_sequences, custody });
        self.exit = true;
    }

    pub(super) fn hand_over_failed(&mut self, reason: String) {
        // Who asked says so; should it be gone, nobody waits for it.
        if let Some(answer) = self.hand_over_asked.take() {
            let _ = answer.send(reason);
        }
    }
}
