//! A change of keys, as the driver sees it go on: which key signs for which peer, and when the earlier
//! file's keys can go.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;

use ha_common::record::Record;

use super::{Driver, record};
use crate::config::NodeIndex;
use crate::io::keys::PeerKeys;
use crate::snapshot::Severity;

impl Driver {
    /// Says that keys are about to change, when they are.
    pub(super) fn note_keys(&self) {
        let active = self.parts.keys.active_number();
        if let Some(earlier) = self.parts.keys.earlier_number() {
            let text = format!(
                "keys change: key {active} of the new key file signs for each node that offers it, \
                 the earlier key {earlier} until then"
            );
            self.driver_note(Severity::Info, "keys-change", text);
        }
    }

    /// Takes note of the keys that peers offer; whether another key signs for one of them.
    pub(super) fn update_keys(&mut self) -> bool {
        let peers: BTreeSet<NodeIndex> = self.parts.paths.iter().map(|path| path.peer).collect();
        let peers: Vec<(NodeIndex, Option<PeerKeys>)> =
            peers.into_iter().map(|peer| (peer, self.peer_keys(peer))).collect();
        // Who was heard once and is not heard now may come back with the earlier key file.
        let known = |peer: NodeIndex| self.was_heard(peer).then_some(PeerKeys::UNKNOWN);
        let offers: Vec<Option<PeerKeys>> =
            peers.iter().map(|(peer, keys)| keys.or_else(|| known(*peer))).collect();
        if self.parts.keys.may_settle(&offers) {
            self.settle_keys();
        }
        let mut changed = false;
        for (path, words) in self.parts.paths.iter().zip(&self.parts.shared.paths) {
            let peer = peers.iter().find(|(peer, _)| *peer == path.peer);
            let signing = self.parts.keys.signing_for(peer.and_then(|(_, keys)| *keys));
            changed |= words.signing.set(signing);
        }
        changed
    }

    /// What a peer's records say of its keys; `None` when it is not heard, or has a new start that has
    /// not proved itself.
    fn peer_keys(&self, peer: NodeIndex) -> Option<PeerKeys> {
        let slots = (0..self.parts.paths.len()).filter(|slot| self.parts.paths[*slot].peer == peer);
        let is_heard = |slot: &usize| self.parts.shared.paths[*slot].hears.load(Relaxed);
        let records = slots.clone().filter_map(|slot| record(&self.parts, slot));
        let heard: Vec<Record<'_>> =
            slots.filter(is_heard).filter_map(|slot| record(&self.parts, slot)).collect();
        let believed = heard.iter().map(|record| record.believed()).max();
        if records.map(Record::heard).max() > believed {
            return None;
        }
        self.parts.keys.of_peer(&heard)
    }

    /// Whether any start of a peer was heard since this node knows of it.
    fn was_heard(&self, peer: NodeIndex) -> bool {
        let slots = (0..self.parts.paths.len()).filter(|slot| self.parts.paths[*slot].peer == peer);
        let mut records = slots.filter_map(|slot| record(&self.parts, slot));
        records.any(|record| record.heard() != 0)
    }

    fn settle_keys(&mut self) {
        let kernel = self.parts.kernel.as_mut().map(|kernel| kernel.forget_retained_keys());
        self.parts.keys.settle();
        let active = self.parts.keys.active_number();
        let text = format!(
            "every node that was heard offers key {active} and signs with a key of this key file; keys \
             of the earlier one are not accepted any more"
        );
        self.driver_note(Severity::Info, "keys-changed", text);
        if let Some(Err(error)) = kernel {
            let text = format!("the kernel side goes on accepting earlier keys: {error:#}");
            self.driver_note(Severity::Error, "keys-not-forgotten", text);
        }
    }
}
