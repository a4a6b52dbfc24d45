//! Telling the peers: this node's state goes to every peer that is heard, again and again until its
//! acknowledgement has come, and then nothing is sent before something changes. A peer that is silent is
//! told of each change, and reminded as long as this node owns anything.

use ha_common::wire::Phase;
use std::time::Duration;

use super::Core;
use super::io::Action;
use super::message::{Claim, State};
use super::peer::{Answer, Peer, RESEND_FIRST, RESEND_MAX};
use super::time::Moment;
use crate::config::{LinkKind, NodeIndex, serial};
use crate::snapshot::{LinkState, Severity};

/// Phase, standby, reached ping targets, claims: a change of any has to be told.
pub(super) type Told = (Phase, bool, Option<u8>, Vec<Claim>);

impl Core {
    pub(super) fn claims(&self) -> Vec<Claim> {
        let able = self.leaving.is_none();
        self.groups.claims(&self.config, self.own, able, self.interfaces.unusable())
    }

    /// What a change of has to be told.
    pub(super) fn state_to_publish(&self) -> Told {
        (self.phase, self.standby, self.reached(), self.claims())
    }

    /// Gives this node's state a new number when it changed.
    pub(super) fn publish(&mut self, now: Moment) {
        let well = self.services_well();
        if std::mem::replace(&mut self.told_well, well) != well {
            self.actions.push(Action::AdvertiseServices { well });
        }
        let state = self.state_to_publish();
        if self.published.as_ref() == Some(&state) {
            return;
        }
        self.published = Some(state);
        self.generation = self.generation.wrapping_add(1);
        let (generation, phase) = (self.generation, self.phase as u8);
        self.actions.push(Action::Advertise { generation, phase });
        for peer in self.peers.values_mut().filter(|peer| peer.alive()) {
            peer.resend_at = Some(now);
            peer.resend_pause = RESEND_FIRST;
        }
        self.tell_the_silent();
        self.remind_at = None;
    }

    /// A peer that is silent may still hear: where links work in one direction only, it must learn that
    /// somebody else has taken what it owns. Nobody can acknowledge that.
    fn tell_the_silent(&mut self) {
        let silent = self.peers.iter().filter(|(_, peer)| peer.may_hear());
        let silent: Vec<NodeIndex> = silent.map(|(node, _)| *node).collect();
        for node in silent {
            self.send_state(node, None, false);
        }
    }

    /// Tells silent peers again what this node owns: who cannot be heard cannot ask for what was lost.
    pub(super) fn remind_the_silent(&mut self, now: Moment) {
        if self.groups.all_stopped() || !self.peers.values().any(Peer::may_hear) {
            self.remind_at = None;
        } else if now >= *self.remind_at.get_or_insert(now.after(RESEND_MAX)) {
            self.remind_at = Some(now.after(RESEND_MAX));
            self.tell_the_silent();
        }
    }

    pub(super) fn unacknowledged(&self, node: NodeIndex) -> bool {
        self.peers.get(&node).is_some_and(|peer| {
            peer.alive() && (peer.acknowledged != Some(self.generation) || peer.outdated())
        })
    }

    /// Sends this node's state to whoever has not acknowledged it, or whose own is not known.
    pub(super) fn send_states(&mut self, now: Moment) {
        let nodes: Vec<NodeIndex> = self.peers.keys().copied().collect();
        for node in nodes {
            if !self.unacknowledged(node) {
                if let Some(peer) = self.peers.get_mut(&node) {
                    peer.resend_at = None;
                    peer.resend_pause = RESEND_FIRST;
                }
                continue;
            }
            let due =
                self.peers.get(&node).is_some_and(|peer| peer.resend_at.is_none_or(|at| now >= at));
            if due {
                self.send_state(node, None, true);
                self.schedule_resend(node, now);
            }
        }
    }

    fn schedule_resend(&mut self, node: NodeIndex, now: Moment) {
        let longest = self.resend_max(node);
        let Some(peer) = self.peers.get_mut(&node) else { return };
        peer.resend_at = Some(now.after(peer.resend_pause));
        let before = peer.resend_pause;
        peer.resend_pause = (before * 2).min(longest);
        if before < longest && peer.resend_pause == longest {
            let text = format!(
                "{} is heard, but control messages to or from it get lost; until they arrive, this \
                 node takes nothing over",
                self.node_name(node)
            );
            self.node_note(Severity::Warning, "not-acknowledged", node, text);
        }
    }

    /// Longest pause before a state is sent to a peer again: where it is heard on serial lines alone,
    /// at least what a state and its answer need there.
    fn resend_max(&self, node: NodeIndex) -> Duration {
        let links = self.peers.get(&node).into_iter().flat_map(|peer| &peer.links);
        let heard = links.filter(|(_, it)| matches!(it.state(), LinkState::Up | LinkState::Late));
        let body_bytes = State::bytes(self.config.groups.len());
        let needed = heard.map(|(link, _)| match self.config.links[link.0].kind {
            LinkKind::Serial { baud } => serial::exchange_time(body_bytes, baud),
            LinkKind::Ucast { .. } | LinkKind::Mcast { .. } | LinkKind::Bcast => Duration::ZERO,
        });
        needed.min().map_or(RESEND_MAX, |needed| needed.max(RESEND_MAX))
    }

    /// Tells its state to a peer that asked for it, once for a question that came over many links.
    pub(super) fn answer(&mut self, node: NodeIndex, question: (u32, u32), now: Moment) {
        let answer = Answer { at: now, generation: self.generation, question };
        let Some(peer) = self.peers.get_mut(&node).filter(|peer| !peer.answered(&answer)) else {
            return;
        };
        peer.answered = Some(answer);
        let repeat = self.unacknowledged(node);
        self.send_state(node, None, repeat);
        // Whoever asks is heard: an answer only takes the place of the repetition that would come.
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.resend_at = Some(now.after(peer.resend_pause));
        }
    }

    pub(super) fn send_state(&mut self, node: NodeIndex, known: Option<(u64, u32)>, answer: bool) {
        let Some(peer) = self.peers.get(&node) else { return };
        let (known_incarnation, known_generation) = known.or(peer.known).unwrap_or((0, 0));
        let state = State {
            generation: self.generation,
            answer,
            known_incarnation,
            known_generation,
            reached: self.reached(),
            standby: self.standby,
            claims: self.claims(),
        };
        self.actions.push(Action::SendState { peer: node, state });
    }
}
