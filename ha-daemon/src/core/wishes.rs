//! What operators want with groups and nodes, and how it enters the decisions.
//!
//! A wish belongs to a term. Every node keeps the wish of the highest term that it knows and tells it
//! with its claims; of two wishes of one term the larger one holds. So all nodes that hear each other
//! come to the same wish, whoever was asked first and whatever got lost.
//!
//! How long a wish lives: until another one follows it; until a node takes the group that is not the
//! wished one (it had failed); until the owner, while the group has not moved yet, does not hear the
//! wished node any more. Then the configuration's preference holds again. A disabled group stays
//! disabled until it is enabled. All of it is in memory: it survives any node, not all at once.

use super::Core;
use super::message::Wish;
use super::ownership::{Candidate, LocalGroup};
use super::peer::Peer;
use crate::config::{Failback, GroupIndex, NodeIndex};
use crate::snapshot::Severity;

/// The candidate in that position; NODES_MAX is far below 256.
fn candidate(position: usize) -> Wish {
    u8::try_from(position).map_or(Wish::None, Wish::Candidate)
}

impl LocalGroup {
    /// Takes note of a wish that somebody knows. Whether it is another one than was known.
    pub(super) fn learn(&mut self, term: u64, wish: Wish) -> bool {
        if (term, wish) <= (self.highest_term, self.wish) {
            return false;
        }
        self.highest_term = term;
        std::mem::replace(&mut self.wish, wish) != wish
    }

    /// The wish that belongs to [`Self::told_term`].
    #[must_use]
    pub fn told_wish(&self) -> Wish {
        if self.claim_state().owns() { self.own_wish } else { self.wish }
    }

    /// An operator's new wish: it belongs to a term of its own.
    fn raise(&mut self, wish: Wish) {
        self.highest_term = self.highest_term.saturating_add(1);
        self.wish = wish;
    }

    /// The ownership that begins: it carries the wish for this node on and ends that for another.
    pub(super) fn carry_wish(&mut self, position: Option<usize>) {
        if self.wish != Wish::Disabled && position.map(candidate) != Some(self.wish) {
            self.wish = Wish::None;
        }
        self.own_wish = self.wish;
    }

    /// The owner stays under the newest wish: its ownership takes that term, so that whoever hears
    /// only the owner learns the wish as well.
    fn adopt(&mut self) {
        self.term = self.highest_term;
        self.own_wish = self.wish;
    }
}

impl Core {
    /// What operators want with a group, as far as this node knows.
    #[must_use]
    pub fn wish(&self, index: GroupIndex) -> Wish {
        self.groups.local(index).wish
    }

    /// The node that operators want to own the group.
    #[must_use]
    pub fn wished(&self, index: GroupIndex) -> Option<NodeIndex> {
        match self.wish(index) {
            Wish::Candidate(position) => {
                self.config.groups[index.0].nodes.get(usize::from(position)).copied()
            }
            Wish::None | Wish::Disabled => None,
        }
    }

    /// Whether the node owns nothing that another one could own.
    #[must_use]
    pub fn on_standby(&self, node: NodeIndex) -> bool {
        if node == self.own {
            self.standby
        } else {
            self.peers.get(&node).is_some_and(|peer| peer.standby)
        }
    }

    /// Puts the wished candidate before those that the configuration prefers.
    pub(super) fn wished_first(&self, index: GroupIndex, candidates: &mut [Candidate]) {
        let wished = self.wished(index);
        candidates.sort_by_key(|it| Some(it.node) != wished);
    }

    /// Puts nodes on standby behind all others, whatever speaks for them. Nobody can own a disabled
    /// group.
    pub(super) fn standby_last(&self, index: GroupIndex, candidates: &mut [Candidate]) {
        candidates.sort_by_key(|it| self.on_standby(it.node));
        if self.wish(index) == Wish::Disabled {
            candidates.iter_mut().for_each(|it| it.eligible = false);
        }
    }

    /// Whether the group goes to the first of `ranked` that could own it, when this node owns it.
    pub(super) fn moves(&self, index: GroupIndex, ranked: &[Candidate]) -> bool {
        let before = ranked.iter().take_while(|it| it.node != self.own);
        match before.clone().find(|it| it.eligible && it.claim.is_none()) {
            None => false,
            // From one node on standby to another: nothing would be won.
            Some(first) if self.on_standby(first.node) => false,
            Some(first) if Some(first.node) == self.wished(index) => true,
            Some(_) if self.standby => true,
            Some(_) => self.config.groups[index.0].failback == Failback::Auto,
        }
    }

    /// Who is to own a group that this node gives up, or nobody.
    pub(super) fn heir(&self, index: GroupIndex) -> Option<NodeIndex> {
        let ranked = self.ranked(index);
        let able = |it: &&Candidate| it.node != self.own && it.eligible && it.claim.is_none();
        ranked.iter().find(able).map(|it| it.node).filter(|node| !self.on_standby(*node))
    }

    /// A new wish, made here.
    pub(super) fn wish_for(&mut self, index: GroupIndex, wish: Wish) {
        let local = self.groups.local_mut(index);
        local.raise(wish);
        // Nobody else has an ownership of the term that this node has just made.
        if local.claim_state().owns() {
            local.adopt();
        }
    }

    /// A new wish: the node owns the group, while it can.
    pub(super) fn wish_for_node(&mut self, index: GroupIndex, node: NodeIndex) {
        let position = self.config.groups[index.0].nodes.iter().position(|it| *it == node);
        self.wish_for(index, position.map_or(Wish::None, candidate));
    }

    /// This node owns the group and keeps it: it takes over the newest wish, and ends one for a node
    /// that is not heard.
    pub(super) fn keep_with_wish(&mut self, index: GroupIndex) {
        let unheard = match (self.wish(index), self.wished(index)) {
            (Wish::Candidate(_), Some(node)) => {
                node != self.own && !self.peers.get(&node).is_some_and(|peer| peer.alive())
            }
            // A position that the configuration does not have: it is another one there.
            (Wish::Candidate(_), None) => true,
            (Wish::None | Wish::Disabled, _) => false,
        };
        if unheard {
            let group = &self.config.groups[index.0].name;
            let node = self
                .wished(index)
                .map_or("a node that is unknown here", |node| self.node_name(node));
            let text = format!("{group} stays here: it was to go to {node}, which is not heard");
            self.wish_for(index, Wish::None);
            self.note(Severity::Warning, "wish-ended", text).group = Some(index);
        }
        // A higher term with the same wish is somebody's ownership, and so may one be with another wish
        // while a candidate is not heard: who takes it for its own is no later owner than that one.
        let mut others = self.config.groups[index.0].nodes.iter().filter(|node| **node != self.own);
        let all_heard = others.all(|node| self.peers.get(node).is_some_and(Peer::synced));
        let local = self.groups.local_mut(index);
        if all_heard && local.own_wish != local.wish {
            local.adopt();
        }
    }

    /// Takes note of what a peer's claims say about terms and wishes.
    pub(super) fn learn_wishes(&mut self, node: NodeIndex, claims: &[super::message::Claim]) {
        for claim in claims {
            let Some(index) = super::group_with_id(&self.config, claim.group) else { continue };
            if self.groups.local_mut(index).learn(claim.term, claim.wish) {
                let group = &self.config.groups[index.0].name;
                let what = match (claim.wish, self.wished(index)) {
                    (Wish::Disabled, _) => "is disabled".to_owned(),
                    (Wish::Candidate(_), Some(to)) => format!("is to go to {}", self.node_name(to)),
                    (Wish::None | Wish::Candidate(_), _) => {
                        "goes where the configuration says".to_owned()
                    }
                };
                let text = format!("{group} {what}, as {} told", self.node_name(node));
                self.note(Severity::Info, "wish", text).group = Some(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::tests::config;
    use proptest::prelude::*;

    fn wish() -> impl Strategy<Value = Wish> {
        prop_oneof![Just(Wish::None), (0..3u8).prop_map(Wish::Candidate), Just(Wish::Disabled)]
    }

    proptest! {
        /// However the same wishes are learned, the same one holds in the end.
        #[test]
        fn the_order_of_learning_does_not_matter(
            told in proptest::collection::vec((0..4u64, wish()), 1..8).prop_shuffle(),
        ) {
            let config = config(3, 1, 1);
            let mut local = LocalGroup::new(&config.groups[0], NodeIndex(0));
            for (term, wish) in &told {
                local.learn(*term, *wish);
            }
            let last = told.iter().copied().max().unwrap();
            prop_assert_eq!((local.highest_term, local.wish), last.max((0, Wish::None)));
        }
    }

    #[test]
    fn an_ownership_carries_its_own_wish_on_and_ends_anothers() {
        let config = config(3, 1, 1);
        for (wish, carried) in [
            (Wish::None, Wish::None),
            (Wish::Candidate(1), Wish::Candidate(1)),
            (Wish::Candidate(2), Wish::None),
        ] {
            let mut local = LocalGroup::new(&config.groups[0], NodeIndex(0));
            local.learn(4, wish);
            local.own();
            local.carry_wish(Some(1));
            assert_eq!((local.told_term(), local.told_wish()), (5, carried));
        }
    }

    #[test]
    fn an_owner_tells_its_own_term_until_it_stays_under_a_newer_wish() {
        let config = config(3, 1, 1);
        let mut local = LocalGroup::new(&config.groups[0], NodeIndex(0));
        local.own();
        local.carry_wish(Some(0));
        assert!(local.learn(2, Wish::Candidate(0)));
        assert_eq!((local.told_term(), local.told_wish()), (1, Wish::None));
        local.adopt();
        assert_eq!((local.told_term(), local.told_wish()), (2, Wish::Candidate(0)));
        assert!(!local.learn(2, Wish::None), "the larger of two wishes of a term holds");
    }
}
