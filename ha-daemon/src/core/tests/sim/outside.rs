//! What is outside of the cluster: ping targets, and the service network, which is asked who has
//! an address.

use std::time::Duration;

use super::{Happening, Sim};
use crate::config::GroupIndex;
use crate::core::io::{Input, Probed};
use crate::core::tests::ms;
use crate::core::time::Moment;

/// When a node asks the service network for addresses, after its first question, and when it stops
/// listening.
const QUESTIONS: [Duration; 3] = [Duration::ZERO, ms(20), ms(40)];
const LISTENING: Duration = ms(100);

impl Sim {
    /// From now on a target answers the node, or does not; it learns of that within an interval.
    pub(in crate::core::tests) fn ping(&mut self, node: usize, target: usize, reached: bool) {
        let interval = self.config.connectivity.interval;
        let skew = self.net.random.between(Duration::ZERO, interval);
        self.ping_after(node, target, reached, skew);
    }

    /// As [`Self::ping`]; it learns of that after `skew`.
    pub(in crate::core::tests) fn ping_after(
        &mut self,
        node: usize,
        target: usize,
        reached: bool,
        skew: Duration,
    ) {
        if reached {
            self.unreached.remove(&(node, target));
        } else {
            self.unreached.entry((node, target)).or_insert(self.now);
        }
        if let Some(daemon) = &self.hosts[node].daemon {
            let incarnation = daemon.incarnation;
            self.after(skew, Happening::Ping { node, incarnation, target });
        }
    }

    pub(super) fn first_pings(&mut self, node: usize, incarnation: u64) {
        for target in 0..self.config.connectivity.targets.len() {
            let first = self.net.random.between(Duration::ZERO, ms(5));
            self.after(first, Happening::Ping { node, incarnation, target });
        }
    }

    pub(super) fn pong(&mut self, node: usize, incarnation: u64, target: usize) {
        let reached = !self.unreached.contains_key(&(node, target));
        self.report(node, incarnation, Input::Ping { target, reached });
    }

    pub(super) fn probe(&mut self, node: usize, group: usize) {
        let Some(daemon) = &self.hosts[node].daemon else { return };
        let (from, incarnation) = (self.now, daemon.incarnation);
        let probed = Happening::Probed { node, incarnation, group, from };
        if self.config.connectivity.probes() {
            self.questions.push((node, group, from));
            self.after(LISTENING, probed);
        } else {
            self.after(Duration::ZERO, probed);
        }
    }

    pub(super) fn probed(&mut self, node: usize, incarnation: u64, group: usize, from: Moment) {
        let (answer, pinged_at) = (self.network_answer(node, group, from), self.pinged_at(node));
        let group = GroupIndex(group);
        self.report(node, incarnation, Input::AddressesProbed { group, answer, pinged_at });
    }

    /// When a ping target answered the node last: at most an interval ago, or before it was lost.
    fn pinged_at(&mut self, node: usize) -> Option<Moment> {
        let ago = self.net.random.between(Duration::ZERO, self.config.connectivity.interval);
        (0..self.config.connectivity.targets.len())
            .map(|target| self.unreached.get(&(node, target)).copied().unwrap_or(self.now))
            .max()
            .map(|last| Moment(last.0.saturating_sub(ago.as_nanos() as u64)))
    }

    /// What the service network said to a question that was asked from then on.
    fn network_answer(&self, node: usize, group: usize, from: Moment) -> Probed {
        let carried = |other: usize| {
            other != node && !self.off_service.contains(&other) && !self.off_service.contains(&node)
        };
        let mac = |other: usize| [2, 0, 0, 0, 0, other as u8];
        // Whoever has an address at any of the questions answers; a later one announces it.
        let held = self.holders(group).into_iter().find(|other| carried(*other));
        let heard = |(other, asked, at): &&(usize, usize, Moment)| {
            let mut questions = QUESTIONS.iter().map(|later| at.after(*later));
            *asked == group
                && carried(*other)
                && questions.any(|question| from <= question && question <= self.now)
        };
        if !self.config.connectivity.probes() {
            return Probed::Nobody;
        }
        match (held, self.questions.iter().find(heard)) {
            (Some(other), _) => Probed::Held { resource: 0, mac: mac(other) },
            (None, Some((other, _, _))) => Probed::Contested { mac: Some(mac(*other)) },
            (None, None) => Probed::Nobody,
        }
    }
}
