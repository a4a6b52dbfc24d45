//! What operators tell a node to do, and what becomes of it: refused with a reason, or decided. The
//! decision is a wish (`core::wishes`) or a node's standby; carrying it out is the groups' usual
//! way, told by events.

use std::collections::BTreeMap;
use std::time::Duration;

use ha_common::wire::Phase;
use serde::{Deserialize, Serialize};

use super::Core;
use super::io::Action;
use super::message::{ClaimState, Message, Wish};
use super::peer::RESEND_FIRST;
use super::time::Moment;
use crate::config::{GroupIndex, NodeIndex};
use crate::snapshot::Severity;

/// How long another node has time to do what it was told.
pub const REMOTE_WAIT_MAX: Duration = Duration::from_secs(2);

/// Which groups a command is about, as seen from the node that it is given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Which {
    /// All.
    All,
    /// Those that prefer this node.
    Local,
    /// Those that prefer another node.
    Foreign,
    /// Given up: those that a better preferred node could own, to that node. Taken: as `Local`.
    Failback,
}

impl Which {
    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Local => "local",
            Self::Foreign => "foreign",
            Self::Failback => "failback",
        }
    }
}

/// Whether a node is to be on standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standby {
    /// It owns nothing that another node could own.
    On,
    /// It takes part as the configuration says.
    Off,
}

/// A command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The group goes to that node, or to the best one that is not its owner.
    Relocate {
        /// The group.
        group: GroupIndex,
        /// The node.
        to: Option<NodeIndex>,
    },
    /// The group may run, where the configuration says; ends a relocation too.
    Enable(GroupIndex),
    /// The group runs nowhere.
    Disable(GroupIndex),
    /// A node goes on standby or comes back.
    Standby {
        /// The node.
        node: NodeIndex,
        /// What it is to be.
        standby: Standby,
    },
    /// This node gives groups up, once.
    GiveUp(Which),
    /// This node takes groups, once.
    TakeOver(Which),
}

/// What a group is expected to come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// The group.
    pub group: GroupIndex,
    /// Its owner; nobody, when it is disabled.
    pub owner: Option<NodeIndex>,
}

/// A command that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Accepted {
    /// What was decided, a sentence for an operator.
    pub message: String,
    /// What follows, unless something happens.
    pub expected: Vec<Expected>,
}

/// Why a command changes nothing, and what can be done about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The reason.
    pub reason: String,
    /// What the operator can do.
    pub remedy: String,
}

/// What becomes of a command.
pub type Outcome = Result<Accepted, Refused>;

fn refused<T>(reason: impl Into<String>, remedy: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { reason: reason.into(), remedy: remedy.into() })
}

/// A command for another node that has not shown its effect yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Errand {
    id: u64,
    standby: Standby,
    number: u32,
    until: Moment,
    send_at: Moment,
}

/// Errands by node. One per node: a later command ends an earlier one.
pub(super) type Errands = BTreeMap<NodeIndex, Errand>;

impl Core {
    /// Decides about a command; the answer is an action, now or when another node has followed.
    pub(super) fn command(&mut self, id: u64, command: Command, now: Moment) {
        let outcome = match command {
            _ if self.leaving.is_some() => {
                refused("this node leaves the cluster", "give the command to another node")
            }
            Command::Standby { node, standby } if node != self.own => {
                match self.errand(id, node, standby, now) {
                    Ok(()) => return,
                    Err(reason) => Err(reason),
                }
            }
            Command::Standby { standby, .. } => Ok(self.set_standby(standby)),
            _ if self.phase == Phase::Starting => refused(
                "this node has just started and does not know yet who owns what",
                "ask again when it takes part (hactl events), or ask another node",
            ),
            Command::Relocate { group, to } => self.relocate(group, to),
            Command::Enable(group) => Ok(self.enable(group)),
            Command::Disable(group) => Ok(self.disable(group)),
            Command::GiveUp(which) => self.give_up(which),
            Command::TakeOver(which) => self.take_over(which),
        };
        self.actions.push(Action::Answer { id, outcome });
    }

    fn group_name(&self, group: GroupIndex) -> &str {
        self.config.groups[group.0].name.as_str()
    }

    fn command_note(&mut self, group: Option<GroupIndex>, text: String) {
        self.note(Severity::Info, "command", text).group = group;
    }

    // ---- groups ----------------------------------------------------------------------------

    fn relocate(&mut self, group: GroupIndex, to: Option<NodeIndex>) -> Outcome {
        let owner = self.group(group).owner;
        let best = || {
            let ranked = self.ranked(group);
            let other = ranked.iter().find(|it| it.eligible && Some(it.node) != owner);
            other.map(|it| it.node).filter(|node| !self.on_standby(*node))
        };
        let Some(to) = to.or_else(best) else {
            let reason = format!("no other node could own {} now", self.group_name(group));
            return refused(reason, "see hactl status for what is wrong with the candidates");
        };
        self.expect_able(group, to)?;
        self.wish_for_node(group, to);
        let (name, node) = (self.group_name(group), self.node_name(to));
        let message = if owner == Some(to) {
            format!("{name} is on {node} and stays there")
        } else {
            format!("{name} goes to {node}")
        };
        self.command_note(Some(group), format!("operator: {message}"));
        Ok(Accepted { message, expected: vec![Expected { group, owner: Some(to) }] })
    }

    fn enable(&mut self, group: GroupIndex) -> Accepted {
        // Whoever enables a group has seen to why it failed.
        self.groups.local_mut(group).forgive();
        let name = self.group_name(group);
        let message = match self.wish(group) {
            Wish::None => format!("{name} is enabled already"),
            Wish::Candidate(_) => format!("{name} goes where the configuration says again"),
            Wish::Disabled => format!("{name} is enabled"),
        };
        if self.wish(group) == Wish::None {
            return Accepted { message, expected: Vec::new() };
        }
        self.wish_for(group, Wish::None);
        self.command_note(Some(group), format!("operator: {message}"));
        let first = self.ranked(group).into_iter().find(|it| it.eligible).map(|it| it.node);
        let nobody = self.group(group).owner.is_none();
        let owner = first.filter(|_| nobody);
        let expected = owner.map(|owner| Expected { group, owner: Some(owner) });
        Accepted { message, expected: expected.into_iter().collect() }
    }

    fn disable(&mut self, group: GroupIndex) -> Accepted {
        let expected = vec![Expected { group, owner: None }];
        let name = self.group_name(group);
        if self.wish(group) == Wish::Disabled {
            return Accepted { message: format!("{name} is disabled already"), expected };
        }
        let message = format!("{name} is disabled: nobody owns it until it is enabled");
        self.wish_for(group, Wish::Disabled);
        self.command_note(Some(group), format!("operator: {message}"));
        Accepted { message, expected }
    }

    fn is_local(&self, group: GroupIndex) -> bool {
        self.config.groups[group.0].nodes.first() == Some(&self.own)
    }

    fn chosen(&self, which: Which) -> Vec<GroupIndex> {
        let groups = (0..self.config.groups.len()).map(GroupIndex);
        groups
            .filter(|group| match which {
                Which::All => true,
                Which::Local => self.is_local(*group),
                Which::Foreign | Which::Failback => !self.is_local(*group),
            })
            .collect()
    }

    /// Who gets a group that this node gives up.
    fn heir_among(&self, group: GroupIndex, which: Which) -> Option<NodeIndex> {
        if which != Which::Failback {
            return self.heir(group);
        }
        let nodes = &self.config.groups[group.0].nodes;
        let mut preferred = nodes.iter().copied().take_while(|node| *node != self.own);
        preferred.find(|node| self.expect_able(group, *node).is_ok())
    }

    fn give_up(&mut self, which: Which) -> Outcome {
        let word = which.word();
        let mut moves = Moves::default();
        for group in self.chosen(which) {
            if self.group(group).owner != Some(self.own) {
                continue;
            }
            match self.heir_among(group, which) {
                Some(heir) => moves.go.push((group, heir)),
                None => moves.stay.push(format!(
                    "{} stays here: no other node could own it",
                    self.group_name(group)
                )),
            }
        }
        let text = format!("{} wants to go standby [{word}]", self.node_name(self.own));
        self.carry_out_moves(moves, text, "this node owns none of these groups")
    }

    fn take_over(&mut self, which: Which) -> Outcome {
        if self.standby {
            return refused(
                "this node is on standby",
                format!("end that first: hactl online {}", self.node_name(self.own)),
            );
        }
        let of = if which == Which::Failback { Which::Local } else { which };
        let mut moves = Moves::default();
        for group in self.chosen(of) {
            let candidate = self.config.groups[group.0].nodes.contains(&self.own);
            if !candidate || self.group(group).owner == Some(self.own) {
                continue;
            }
            match self.expect_able(group, self.own) {
                Ok(()) => moves.go.push((group, self.own)),
                Err(refused) => {
                    moves.stay.push(format!("not {}: {}", self.group_name(group), refused.reason));
                }
            }
        }
        let text = format!("{} wants to take over [{}]", self.node_name(self.own), which.word());
        self.carry_out_moves(moves, text, "this node owns all of these groups that it could own")
    }

    fn carry_out_moves(&mut self, moves: Moves, text: String, nothing: &str) -> Outcome {
        let Moves { go, stay } = moves;
        if go.is_empty() && !stay.is_empty() {
            return refused(stay.join("; "), "see hactl status");
        }
        self.command_note(None, text);
        let mut messages = Vec::new();
        for (group, node) in &go {
            self.wish_for_node(*group, *node);
            messages.push(format!("{} goes to {}", self.group_name(*group), self.node_name(*node)));
        }
        messages.extend(stay);
        if messages.is_empty() {
            messages.push(format!("nothing to do: {nothing}"));
        }
        let expected =
            go.iter().map(|(group, node)| Expected { group: *group, owner: Some(*node) });
        Ok(Accepted { message: messages.join("; "), expected: expected.collect() })
    }

    /// Whether the node could own the group, as far as this one knows.
    fn expect_able(&self, group: GroupIndex, node: NodeIndex) -> Result<(), Refused> {
        let (of, name) = (&self.config.groups[group.0], self.node_name(node));
        let names = of.nodes.iter().map(|node| self.node_name(*node)).collect::<Vec<_>>();
        let view = self.group(group);
        let silent = view.owner.filter(|it| self.peers.get(it).is_some_and(|it| !it.alive()));
        if !of.nodes.contains(&node) {
            return refused(
                format!("{name} is not a candidate of {}", of.name),
                format!("its candidates are {}", names.join(", ")),
            );
        }
        if self.wish(group) == Wish::Disabled {
            return refused(
                format!("{} is disabled", of.name),
                format!("enable it first: hactl enable {}", of.name),
            );
        }
        if let Some(owner) = silent {
            return refused(
                format!("{} owns {} and is not heard", self.node_name(owner), of.name),
                "nobody takes what it might own (on_doubt = hold) until it is heard or leaves",
            );
        }
        if let Some(owner) = view.owner.filter(|it| self.stuck(group, *it)) {
            return refused(
                format!("{} could not be stopped on {}", of.name, self.node_name(owner)),
                "stop its resources there by hand",
            );
        }
        if self.on_standby(node) {
            return refused(
                format!("{name} is on standby"),
                format!("end that first: hactl online {name}"),
            );
        }
        self.expect_ready(group, node)
    }

    fn expect_ready(&self, group: GroupIndex, node: NodeIndex) -> Result<(), Refused> {
        let name = self.node_name(node);
        let not_able = |place: &str| {
            refused(
                format!("{name} cannot own {} now", self.group_name(group)),
                format!(
                    "an interface is down {place}, or a start or a service failed: see hactl events there"
                ),
            )
        };
        let reaches_fewer = || {
            refused(
                format!("{name} reaches fewer ping targets than the owner"),
                "see hactl status; with moves_groups = false they do not count",
            )
        };
        let Some(peer) = self.peers.get(&node) else {
            let able = self.ranked(group).iter().any(|it| it.node == node && it.eligible);
            return match able {
                true if self.reaches_fewer(group, node) => reaches_fewer(),
                true => Ok(()),
                false => not_able("here"),
            };
        };
        let said = peer.claim(self.config.groups[group.0].id);
        if !peer.synced() {
            let state = super::word(peer.state);
            return refused(format!("{name} is {state}"), "start it, or see why it is not heard");
        }
        match peer.phase {
            Phase::Starting => refused(format!("{name} is still starting"), "ask again"),
            Phase::Restarting => refused(format!("{name} replaces its program"), "ask again"),
            Phase::Leaving => refused(format!("{name} leaves the cluster"), "start it again"),
            Phase::Active if !said.is_some_and(|said| said.eligible) => not_able("there"),
            Phase::Active if self.reaches_fewer(group, node) => reaches_fewer(),
            Phase::Active => Ok(()),
        }
    }

    /// Whether the owner could not stop the group.
    fn stuck(&self, group: GroupIndex, owner: NodeIndex) -> bool {
        let state = match self.peers.get(&owner) {
            None => Some(self.groups.local(group).claim_state()),
            Some(peer) => peer.claim(self.config.groups[group.0].id).map(|claim| claim.state),
        };
        state == Some(ClaimState::Stuck)
    }

    // ---- nodes -----------------------------------------------------------------------------

    fn set_standby(&mut self, standby: Standby) -> Accepted {
        let name = self.node_name(self.own).to_owned();
        let changes = self.standby != (standby == Standby::On);
        self.standby = standby == Standby::On;
        let owned: Vec<GroupIndex> = (0..self.config.groups.len())
            .map(GroupIndex)
            .filter(|group| self.group(*group).owner == Some(self.own))
            .collect();
        let mut accepted = Accepted::default();
        let mut messages = vec![match standby {
            Standby::On => format!("{name} is on standby"),
            Standby::Off => format!("{name} is not on standby"),
        }];
        for group in owned.into_iter().filter(|_| standby == Standby::On) {
            let heir = self.heir(group);
            accepted.expected.extend(heir.map(|it| Expected { group, owner: Some(it) }));
            messages.push(match heir {
                Some(heir) => {
                    format!("{} goes to {}", self.group_name(group), self.node_name(heir))
                }
                None => {
                    format!("{} stays here: no other node could own it", self.group_name(group))
                }
            });
        }
        accepted.message = messages.join("; ");
        if changes {
            self.standby_note(self.own, standby);
        }
        accepted
    }

    /// Tells that a node goes on standby or comes back.
    pub(super) fn standby_note(&mut self, node: NodeIndex, standby: Standby) {
        let name = self.node_name(node);
        let (kind, text) = match standby {
            Standby::On => (
                "node-standby",
                format!("{name} wants to go standby [all]; it owns nothing that another could own"),
            ),
            Standby::Off => ("node-online", format!("{name} is not on standby any more")),
        };
        self.node_note(Severity::Info, kind, node, text);
    }

    /// Tells a peer to go on standby or come back; answered when its state says so.
    fn errand(
        &mut self,
        id: u64,
        node: NodeIndex,
        standby: Standby,
        now: Moment,
    ) -> Result<(), Refused> {
        let name = self.node_name(node).to_owned();
        let Some(peer) = self.peers.get(&node).filter(|peer| peer.synced()) else {
            let state = self.peers.get(&node).map_or("unknown", |it| super::word(it.state));
            return refused(format!("{name} is {state}"), "run the command there");
        };
        if peer.standby == (standby == Standby::On) {
            let message = format!("{name} is so already");
            let accepted = Accepted { message, expected: Vec::new() };
            self.actions.push(Action::Answer { id, outcome: Ok(accepted) });
            return Ok(());
        }
        self.errand_number = self.errand_number.wrapping_add(1);
        let number = self.errand_number;
        let until = now.after(REMOTE_WAIT_MAX);
        let errand = Errand { id, standby, number, until, send_at: now };
        if let Some(earlier) = self.errands.insert(node, errand) {
            let outcome = refused("another command followed", "see hactl nodes for what holds");
            self.actions.push(Action::Answer { id: earlier.id, outcome });
        }
        Ok(())
    }

    /// Repeats what peers were told until they have followed; answers then, or when they do not.
    pub(super) fn run_errands(&mut self, now: Moment) {
        let errands: Vec<(NodeIndex, Errand)> =
            self.errands.iter().map(|(node, errand)| (*node, *errand)).collect();
        for (node, errand) in errands {
            let on = errand.standby == Standby::On;
            let name = self.node_name(node).to_owned();
            let outcome = if self.on_standby(node) == on {
                let word = if on { "on standby" } else { "not on standby" };
                Ok(Accepted { message: format!("{name} is {word}"), expected: Vec::new() })
            } else if now >= errand.until {
                let wait = REMOTE_WAIT_MAX.as_secs();
                refused(format!("{name} did not follow within {wait} s"), "run the command there")
            } else {
                if now >= errand.send_at {
                    let Errand { number, standby, .. } = errand;
                    let message = Message::Standby { number, standby };
                    self.actions.push(Action::SendMessage { peer: node, message });
                    let pause = RESEND_FIRST * 5;
                    if let Some(errand) = self.errands.get_mut(&node) {
                        errand.send_at = now.after(pause);
                    }
                }
                continue;
            };
            self.errands.remove(&node);
            self.actions.push(Action::Answer { id: errand.id, outcome });
        }
    }

    pub(super) fn errand_deadline(&self) -> Option<Moment> {
        self.errands.values().map(|errand| errand.send_at.min(errand.until)).min()
    }

    /// A peer passes an operator's command on. A copy that was under way for longer than a later
    /// command changes nothing.
    pub(super) fn told_standby(&mut self, node: NodeIndex, number: u32, standby: Standby) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let errand = (peer.incarnation, number);
        if peer.errand.is_some_and(|before| before.0 == errand.0 && number <= before.1) {
            return;
        }
        peer.errand = Some(errand);
        if self.leaving.is_none() {
            self.set_standby(standby);
        }
    }
}

/// Groups that a command moves, and why others stay.
#[derive(Debug, Default)]
struct Moves {
    go: Vec<(GroupIndex, NodeIndex)>,
    stay: Vec<String>,
}
