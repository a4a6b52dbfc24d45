//! What the log says, and when: at the moments at which Heartbeat's log speaks, in sentences that
//! keep the terms that operators search for (docs/from-heartbeat.md lists both).
//!
//! Here are the moments that no input or decision marks by itself: they are seen by comparing what
//! is with what was told last.

use ha_common::wire::Phase;

use super::Core;
use super::detector::Transition;
use super::message::Wish;
use super::time::milliseconds;
use crate::config::{GroupIndex, LinkIndex, NodeIndex};
use crate::snapshot::{GroupState, LinkState, NodeState, Severity};

/// What was told last.
#[derive(Debug, Default)]
pub(super) struct Story {
    /// Peers that were told to be active.
    active: Vec<NodeIndex>,
    /// By group.
    groups: Vec<Told>,
    initial_complete: bool,
}

/// What was told of a group.
#[derive(Debug, Clone, Default)]
struct Told {
    /// The node that owns it, or did last.
    owner: Option<NodeIndex>,
    /// The peer on which it runs.
    runs_on: Option<NodeIndex>,
    /// Nobody could own it.
    ownerless: bool,
    /// This node took it from a node that was gone.
    inherited: bool,
}

impl Story {
    pub(super) fn new(groups: usize) -> Self {
        Self { groups: vec![Told::default(); groups], ..Self::default() }
    }
}

impl Core {
    /// Tells a change of a link's state.
    pub(super) fn link_transition(
        &mut self,
        node: NodeIndex,
        link: LinkIndex,
        transition: Transition,
    ) {
        if let Some(peer) = self.peers.get_mut(&node)
            && let Some(standing) = peer.standings.get_mut(&link)
        {
            standing.failures += u64::from(transition.to == LinkState::Dead);
        }
        let (node_name, link_name) = (self.node_name(node), &self.config.links[link.0].name);
        let name = self.link_name(node, link);
        let silence = milliseconds(transition.silence_ns);
        let (severity, kind, text) = match (transition.from, transition.to) {
            (_, LinkState::Unknown | LinkState::OneWay) => return,
            (LinkState::Unknown, LinkState::Up) => {
                (Severity::Info, "link-up", format!("Link {name} up."))
            }
            (_, LinkState::Up) => {
                (Severity::Info, "link-up", format!("Link {name} up. It was silent for {silence}"))
            }
            (_, LinkState::Late) => {
                let text = format!("link {name} is late: silent for {silence}");
                (Severity::Warning, "link-late", text)
            }
            (_, LinkState::Dead) => {
                (Severity::Warning, "link-dead", format!("Link {name} dead. Silent for {silence}"))
            }
        };
        // Only now is its length known.
        let late = (transition.from == LinkState::Late && transition.to == LinkState::Up)
            .then(|| late_heartbeat(node_name, transition.silence_ns, link_name.as_str()));
        for (severity, kind, text) in late
            .map(|text| (Severity::Warning, "late-heartbeat", text))
            .into_iter()
            .chain([(severity, kind, text)])
        {
            self.link_note(severity, kind, node, link, text);
        }
    }

    /// Tells that a peer is heard after a verdict on it.
    pub(super) fn node_returned(&mut self, node: NodeIndex, was: NodeState, restarted: bool) {
        let (name, was) = (self.node_name(node), super::word(was));
        let text = if restarted {
            format!("node {name} is heard again after it was {was}")
        } else {
            format!("Cluster node {name} returning after partition: it was {was} for this node")
        };
        self.node_note(Severity::Warning, "node-returned", node, text);
    }

    /// The sentence for a takeover, and what is known of where the group comes from.
    pub(super) fn takeover_text(&mut self, index: GroupIndex, term: u64, reason: &str) -> String {
        let last = self.story.groups[index.0].owner.filter(|node| *node != self.own);
        let gone = |node: &NodeIndex| self.peers.get(node).is_some_and(|peer| !peer.alive());
        self.story.groups[index.0].inherited = last.as_ref().is_some_and(gone);
        let from = last.map_or(String::new(), |node| {
            format!("Resources being acquired from {}. ", self.node_name(node))
        });
        let name = &self.config.groups[index.0].name;
        format!("{from}Taking over {name}, term {term}: nobody owns it; {reason}")
    }

    /// The sentence for a group that runs here.
    pub(super) fn started_text(&mut self, index: GroupIndex, term: u64) -> String {
        let name = &self.config.groups[index.0].name;
        let inherited = std::mem::take(&mut self.story.groups[index.0].inherited);
        let inherited = if inherited { " mach_down takeover complete." } else { "" };
        format!("{name} runs here, term {term}. Local Resource acquisition completed.{inherited}")
    }

    /// Tells what has changed since the last time.
    pub(super) fn tell_story(&mut self) {
        for index in (0..self.config.groups.len()).map(GroupIndex) {
            self.tell_owner(index);
            self.tell_ownerless(index);
        }
        self.tell_initial_completion();
    }

    /// Takes everything that is for told: the program before this one did.
    pub(super) fn catch_up_story(&mut self) {
        let before = self.actions.len();
        self.tell_active_peers();
        self.tell_story();
        self.actions.truncate(before);
    }

    /// Tells which peers take part by now; before anything is decided because of it.
    pub(super) fn tell_active_peers(&mut self) {
        let nodes: Vec<NodeIndex> = self.peers.keys().copied().collect();
        for node in nodes {
            let Some(peer) = self.peers.get(&node) else { continue };
            let told = self.story.active.contains(&node);
            if peer.synced() && peer.phase == Phase::Active && !told {
                self.story.active.push(node);
                let name = self.node_name(node);
                let text = format!("Status update for node {name}: status active");
                self.node_note(Severity::Info, "node-active", node, text);
            } else if told && (!peer.alive() || peer.phase != Phase::Active) {
                self.story.active.retain(|it| *it != node);
            }
        }
    }

    fn tell_owner(&mut self, index: GroupIndex) {
        let view = self.group(index);
        let told = &mut self.story.groups[index.0];
        told.owner = view.owner.or(told.owner);
        let started = view.state == GroupState::Started;
        let runs_on = view.owner.filter(|node| *node != self.own && started);
        if std::mem::replace(&mut told.runs_on, runs_on) == runs_on {
            return;
        }
        if let Some(node) = runs_on {
            let (name, node_name) = (&self.config.groups[index.0].name, self.node_name(node));
            let text = format!(
                "remote resource transition completed. {name} runs on {node_name}, term {}",
                view.term
            );
            let note = self.note(Severity::Info, "peer-group-started", text);
            note.group = Some(index);
            note.node = Some(node);
        }
    }

    fn tell_ownerless(&mut self, index: GroupIndex) {
        let ranked = self.ranked(index);
        let ownerless = self.phase == Phase::Active
            && self.leaving.is_none()
            && self.wish(index) != Wish::Disabled
            && ranked.iter().all(|it| it.claim.is_none() && !it.eligible);
        let told = &mut self.story.groups[index.0].ownerless;
        if !std::mem::replace(told, ownerless) && ownerless {
            let name = &self.config.groups[index.0].name;
            let text = format!(
                "No one owns our local resources! No node that is heard could own {name}: an \
                 interface is down or its start failed"
            );
            self.note(Severity::Error, "no-owner", text).group = Some(index);
        }
    }

    fn tell_initial_completion(&mut self) {
        if self.story.initial_complete || self.phase != Phase::Active {
            return;
        }
        let mut groups = (0..self.config.groups.len()).map(GroupIndex);
        let complete = groups.all(|index| {
            matches!(self.group(index).state, GroupState::Started | GroupState::Disabled)
        });
        if complete {
            self.story.initial_complete = true;
            let text = "Initial resource acquisition complete. Every group that may run does";
            self.note(Severity::Info, "initial-complete", text.to_owned());
        }
    }
}

/// As whole milliseconds, which is how the original counts.
fn late_heartbeat(node: &str, silence_ns: i64, link: &str) -> String {
    let interval_ms = silence_ns / 1_000_000;
    format!("Late heartbeat: Node {node}: interval {interval_ms} ms (link {link})")
}
