//! Operators' commands on their way through the core, and what it answers.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use super::Driver;
use crate::config::{GroupIndex, NodeIndex};
use crate::control::ErrorBody;
use crate::control::command::{CommandAccepted, CommandAnswer, CommandRequest, ExpectedGroup};
use crate::core::command::{Command, Outcome, Standby};
use crate::core::io::Input;
use crate::names::{GroupName, NodeName};

/// Who waits for an answer. The core answers every question within seconds, and those who ask are
/// as few as the control socket's connections.
#[derive(Debug, Default)]
pub(super) struct Questions {
    last: u64,
    waiting: BTreeMap<u64, oneshot::Sender<CommandAnswer>>,
}

impl Driver {
    /// Hands a command to the core.
    pub(super) fn command(
        &mut self,
        request: CommandRequest,
        answer: oneshot::Sender<CommandAnswer>,
    ) {
        match self.resolve(request) {
            Ok(command) => {
                self.questions.last += 1;
                let id = self.questions.last;
                self.questions.waiting.insert(id, answer);
                self.handle(Input::Command { id, command });
            }
            // Who asked may have gone away meanwhile.
            Err(error) => drop(answer.send(Err(error))),
        }
    }

    /// Passes the core's answer on.
    pub(super) fn answer(&mut self, id: u64, outcome: Outcome) {
        let Some(answer) = self.questions.waiting.remove(&id) else { return };
        let config = &self.parts.config;
        let expected = |it: crate::core::command::Expected| {
            Some(ExpectedGroup {
                group: config.groups.get(it.group.0)?.name.clone(),
                owner: it.owner.and_then(|it| config.nodes.get(it.0)).map(|it| it.name.clone()),
            })
        };
        let told = match outcome {
            Ok(accepted) => Ok(CommandAccepted {
                message: accepted.message,
                expected: accepted.expected.into_iter().filter_map(expected).collect(),
            }),
            Err(refused) => Err(ErrorBody { error: refused.reason, remedy: refused.remedy }),
        };
        let _ = answer.send(told);
    }

    fn resolve(&self, request: CommandRequest) -> Result<Command, ErrorBody> {
        let node =
            |name: Option<NodeName>| name.map_or(Ok(self.parts.own), |name| self.node_of(&name));
        Ok(match request {
            CommandRequest::Relocate { group, node } => Command::Relocate {
                group: self.group_of(&group)?,
                to: node.map(|node| self.node_of(&node)).transpose()?,
            },
            CommandRequest::Enable { group } => Command::Enable(self.group_of(&group)?),
            CommandRequest::Disable { group } => Command::Disable(self.group_of(&group)?),
            CommandRequest::Standby { node: name } => {
                Command::Standby { node: node(name)?, standby: Standby::On }
            }
            CommandRequest::Online { node: name } => {
                Command::Standby { node: node(name)?, standby: Standby::Off }
            }
            CommandRequest::GiveUp { which } => Command::GiveUp(which),
            CommandRequest::TakeOver { which } => Command::TakeOver(which),
        })
    }

    fn node_of(&self, name: &NodeName) -> Result<NodeIndex, ErrorBody> {
        self.parts.config.node_named(name).ok_or_else(|| {
            let names = self.parts.config.nodes.iter().map(|node| node.name.as_str());
            unknown("node", name.as_str(), names)
        })
    }

    fn group_of(&self, name: &GroupName) -> Result<GroupIndex, ErrorBody> {
        let groups = &self.parts.config.groups;
        groups.iter().position(|group| group.name == *name).map(GroupIndex).ok_or_else(|| {
            unknown("group", name.as_str(), groups.iter().map(|group| group.name.as_str()))
        })
    }
}

fn unknown<'a>(kind: &str, name: &str, known: impl Iterator<Item = &'a str>) -> ErrorBody {
    let known = known.collect::<Vec<_>>().join(", ");
    ErrorBody {
        error: format!("there is no {kind} {name} in the configuration"),
        remedy: if known.is_empty() {
            format!("it has no {kind}s")
        } else {
            format!("use one of: {known}")
        },
    }
}
