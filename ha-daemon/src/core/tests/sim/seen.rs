//! What somebody outside of the simulation sees: who holds and serves what, and what nodes told.

use super::*;

impl Sim {
    /// Nodes on which any resource of the group is.
    pub(in super::super) fn holders(&self, group: usize) -> Vec<usize> {
        let holds = |host: &Host| host.resources.keys().any(|(it, _)| *it == group);
        (0..self.hosts.len()).filter(|node| holds(&self.hosts[*node])).collect()
    }

    /// Nodes on which every resource of the group is up.
    pub(in super::super) fn serving(&self, group: usize) -> Vec<usize> {
        let count = self.config.groups[group].resources.len();
        let up =
            |host: &Host, resource| host.resources.get(&(group, resource)) == Some(&Standing::Up);
        let serves = |host: &Host| (0..count).all(|resource| up(host, resource));
        (0..self.hosts.len()).filter(|node| serves(&self.hosts[*node])).collect()
    }

    /// Whether a stop failed on that node, so that its core holds on to the group.
    pub(in super::super) fn holds_what_would_not_stop(&self, node: usize) -> bool {
        let groups = (0..self.history.len()).map(GroupIndex);
        let failed =
            |group| self.core(node).group(group).resources.contains(&ResourceState::Failed);
        groups.into_iter().any(failed)
    }

    /// Every combination of holders since then, in order.
    pub(in super::super) fn since(&self, group: usize, from: Moment) -> Vec<Holding> {
        self.history[group].iter().filter(|it| it.at >= from).cloned().collect()
    }

    /// Notes of a kind that a node made since then.
    pub(in super::super) fn notes(
        &self,
        node: usize,
        kind: &str,
        from: Moment,
    ) -> Vec<(Moment, Note)> {
        let note = |(at, by, action): &(Moment, usize, Action)| {
            let Action::Event(note) = action else { return None };
            (*by == node && note.kind == kind && *at >= from).then(|| (*at, note.clone()))
        };
        self.log.iter().filter_map(note).collect()
    }

    pub(in super::super) fn announced(&self, node: usize, group: usize, from: Moment) -> bool {
        self.log.iter().any(|(at, by, action)| {
            *at >= from && *by == node && *action == Action::Announce { group: GroupIndex(group) }
        })
    }

    // ---- how the world works ---------------------------------------------------------------
}
