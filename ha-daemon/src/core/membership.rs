//! Membership: who is late, dead, gone or has left, by the silence of its links and by what is told.

use super::detector::Thresholds;
use super::stale::Cause;
use super::*;

impl Core {
    /// Judges the silence of every link, and from that every peer.
    pub(super) fn judge(&mut self, now: Moment) {
        let nodes: Vec<NodeIndex> = self.peers.keys().copied().collect();
        for node in nodes {
            self.mark_signs(node, now);
            self.judge_links(node, now);
            self.judge_directions(node, now);
            self.judge_peer(node, now);
            // A verdict ends what excused the silence of its links.
            self.judge_links(node, now);
            self.end_custody(node, now);
        }
    }

    pub(super) fn judge_links(&mut self, node: NodeIndex, now: Moment) {
        if let Some(window_from) = self.peers.get(&node).map(|peer| self.window_of(peer)) {
            self.judge_links_from(node, window_from, now);
        }
    }

    fn judge_links_from(&mut self, node: NodeIndex, window_from: Moment, now: Moment) {
        let ask = self.asks_peers();
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let times = |link: &LinkIndex| (*link, peer.times(&self.config, *link));
        let times: Vec<_> = peer.links.keys().map(times).collect();
        let judged = times.into_iter().filter_map(|(link, times)| {
            let detector = peer.links.get_mut(&link)?;
            Some((link, detector.judge(now, window_from, Thresholds::of(times, ask))?))
        });
        let transitions: Vec<_> = judged.collect();
        for (link, transition) in transitions {
            self.link_transition(node, link, transition);
        }
    }

    pub(super) fn judge_peer(&mut self, node: NodeIndex, now: Moment) {
        let initdead_at = self.initdead_at();
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.state == NodeState::Unknown {
            if now >= initdead_at {
                peer.state = NodeState::Dead;
                let held = match self.config.cluster.on_doubt {
                    OnDoubt::Take => "",
                    OnDoubt::Hold => "; nobody takes what it might own (on_doubt = hold)",
                };
                let name = self.node_name(node);
                let text = format!("node {name}: is dead: not heard within initdead{held}");
                self.node_note(Severity::Warning, "node-dead", node, text);
            }
            return;
        }
        if !peer.alive() {
            return;
        }
        let silence = peer.last_seen().map_or(0, |last| now.since(last));
        if self.judge_closing(node, now) {
            return;
        }
        let verdict = self.peers.get(&node).and_then(|peer| self.verdict(peer, now));
        if let Some(cause) = verdict {
            self.bury(node, cause, now);
            // Its silence was long enough by the time that this node was awake, if by no other.
            if let Some(excused) = self.peers.get(&node).map(|peer| self.excused_until(peer)) {
                self.judge_links_from(node, excused, now);
            }
            return;
        }
        self.judge_daemon(node, now);
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.state == NodeState::Up && !peer.any_link(LinkState::Up) {
            peer.state = NodeState::Late;
            let (name, silence) = (self.node_name(node), milliseconds(silence));
            let text = format!("node {name} is late: silent on every link for {silence}");
            self.node_note(Severity::Warning, "node-late", node, text);
        }
    }

    fn bury(&mut self, node: NodeIndex, cause: Cause, now: Moment) {
        let Some(peer) = self.peers.get(&node) else { return };
        let silence = milliseconds(peer.last_seen().map_or(0, |last| now.since(last)));
        let restart = peer.restart.map_or("", |_| "; it did not come back from its restart");
        // Silence alone: its daemon may have gone before its host did, and left its groups to its keeper.
        let closing = peer.closing.filter(|_| cause != Cause::DaemonStale);
        let closed = closing.map_or_else(String::new, |it| {
            format!("; its connection closed {} ago", milliseconds(now.since(it.at)))
        });
        let cause = match cause {
            Cause::Silent => format!("silent on every link for {silence}{restart}{closed}"),
            Cause::Unasked => format!(
                "silent on every link for {silence}{restart}{closed}; its kernel could not be asked"
            ),
            Cause::DaemonStale => format!(
                "its daemon has not run for {}{restart}; its kernel answers",
                milliseconds(now.since(peer.lease))
            ),
        };
        if let Some(closing) = closing {
            self.keep_what_waits(node, closing.at);
        }
        self.end_unless_heard(node, NodeState::Dead);
        let text = format!("node {}: is dead: {cause}", self.node_name(node));
        self.node_note(Severity::Error, "node-dead", node, text);
    }

    /// A verdict on a peer that may be heard again with the same incarnation.
    pub(super) fn end_unless_heard(&mut self, node: NodeIndex, state: NodeState) {
        let hold = self.config.cluster.on_doubt == OnDoubt::Hold;
        let Some(peer) = self.peers.get_mut(&node) else { return };
        peer.state = state;
        peer.fall_silent();
        if !hold && peer.custody.is_none() {
            peer.claims.clear();
        } else if peer.claims.iter().any(|claim| claim.state.owns()) {
            let why = if hold { "on_doubt = hold" } else { "on_daemon_death = wait" };
            let text = format!(
                "nobody takes what {} owns ({why}): nothing tells whether it still has it",
                self.node_name(node)
            );
            self.node_note(Severity::Error, "groups-held", node, text);
        }
    }

    /// A peer ended this incarnation for good.
    pub(super) fn end(&mut self, node: NodeIndex, state: NodeState) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.end(state);
        }
    }

    pub(super) fn left(&mut self, node: NodeIndex) {
        self.end(node, NodeState::Left);
        let name = self.node_name(node);
        let text = format!("Received shutdown notice from '{name}'. It left cleanly");
        self.node_note(Severity::Info, "node-left", node, text);
    }

    /// Ends the starting phase when every node is accounted for, or `initdead` has passed.
    pub(super) fn settle(&mut self, now: Moment) {
        self.patient = now < self.patience_ends_at();
        let accounted = self
            .peers
            .values()
            .all(|peer| !matches!(peer.state, NodeState::Unknown | NodeState::Joining))
            && self.connectivity_is_known();
        if self.phase == Phase::Starting && (accounted || now >= self.initdead_at()) {
            self.phase = Phase::Active;
            let text = "Local status now set to: 'active'. This node takes part in the cluster";
            self.note(Severity::Info, "active", text.to_owned());
        }
    }
}
