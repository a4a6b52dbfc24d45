//! What is remembered of a peer.

use std::collections::BTreeMap;

use ha_common::wire::Phase;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::core::RESEND_FIRST;
use crate::core::auto::{Estimator, EstimatorMemory};
use crate::core::detector::Detector;
use crate::core::message::Claim;
use crate::core::peer::{Answer, Closing, Peer};
use crate::core::restart::{RESTART_GRACE, Restart};
use crate::core::standing::Standing;
use crate::core::time::Moment;
use crate::names::LinkName;
use crate::snapshot::{LinkState, NodeState};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct PeerMemory {
    state: NodeState,
    incarnation: u64,
    ended: u64,
    phase: u8,
    links: BTreeMap<LinkName, (LinkState, Option<Moment>, Standing)>,
    #[serde(default)]
    estimators: BTreeMap<LinkName, EstimatorMemory>,
    claims: Vec<Claim>,
    known: Option<(u64, u32)>,
    generation: u32,
    acknowledged: Option<u32>,
    closing: Option<Closing>,
    answered: Option<Answer>,
    restart: Option<Restart>,
    resumed_at: Moment,
    #[serde(default)]
    custody: Option<Moment>,
    /// Earlier versions knew of none.
    #[serde(default)]
    lease: Moment,
    reached: Option<u8>,
    standby: bool,
    errand: Option<(u64, u32)>,
}

impl PeerMemory {
    pub(super) fn of(peer: &Peer, config: &Config) -> Self {
        let Peer {
            state,
            incarnation,
            ended,
            phase,
            links,
            estimators,
            claims,
            known,
            generation,
            acknowledged,
            resend_at: _,
            resend_pause: _,
            closing,
            answered,
            restart,
            resumed_at,
            custody,
            lease,
            // Judged anew, in a fresh window.
            mute: _,
            signs: _,
            unasked_since: _,
            standings,
            reached,
            standby,
            errand,
        } = peer.clone();
        let links = links.iter().map(|(link, detector)| {
            let standing = standings.get(link).copied().unwrap_or_default();
            let known = (detector.state(), detector.last_seen(), standing);
            (config.links[link.0].name.clone(), known)
        });
        let estimators =
            estimators.iter().map(|(link, it)| (config.links[link.0].name.clone(), it.remember()));
        Self {
            state,
            incarnation,
            ended,
            phase: phase as u8,
            links: links.collect(),
            estimators: estimators.collect(),
            claims,
            known,
            generation,
            acknowledged,
            closing,
            answered,
            restart,
            resumed_at,
            custody,
            lease,
            reached,
            standby,
            errand,
        }
    }

    /// The peer as the new configuration has it.
    pub(super) fn resume(mut self, peer: &mut Peer, config: &Config, now: Moment) {
        let grace = RESTART_GRACE.max(config.cluster.deadtime);
        for (link, detector) in &mut peer.links {
            if let Some((state, last_seen, standing)) = self.links.get(&config.links[link.0].name) {
                *detector = Detector::resume(*state, *last_seen);
                peer.standings.insert(*link, *standing);
            }
            // One that has a fixed deadtime by now is not used, and neither in the way of the next reload.
            let known = self.estimators.remove(&config.links[link.0].name);
            if let Some(known) = known.and_then(|known| Estimator::resume(known, now)) {
                peer.estimators.insert(*link, known);
            }
        }
        peer.state = self.state;
        peer.incarnation = self.incarnation;
        peer.ended = self.ended;
        peer.phase = Phase::from_wire(self.phase);
        peer.claims = self.claims;
        peer.known = self.known;
        peer.generation = self.generation;
        peer.acknowledged = self.acknowledged;
        peer.resend_at = None;
        peer.resend_pause = RESEND_FIRST;
        peer.closing = self.closing;
        peer.answered = self.answered;
        // Whether it is still the same one is not known here: it may have come back in between.
        peer.restart = self.restart.map(|it| Restart { until: now.after(grace), ..it });
        peer.resumed_at = self.resumed_at;
        peer.custody = self.custody;
        let known = self.lease != Moment::default() || !peer.alive();
        peer.lease = if known { self.lease } else { now };
        peer.reached = self.reached;
        peer.standby = self.standby;
        peer.errand = self.errand;
        // On new links it was not heard yet, which is no silence: it gets a full window there.
        if peer.alive() && peer.last_seen().is_none() {
            for detector in peer.links.values_mut() {
                *detector = Detector::resume(LinkState::Up, Some(now));
            }
        }
    }
}
