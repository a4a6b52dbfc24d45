//! Operators' commands as they travel over the control socket: with names, in JSON.

use serde::{Deserialize, Serialize};

use super::ErrorBody;
use crate::core::command::Which;
use crate::names::{GroupName, NodeName};

/// Path of the socket that takes a [`CommandRequest`] by `POST`.
pub const COMMAND_PATH: &str = "/v1/command";
/// Longest request that is read, in bytes.
pub const COMMAND_BYTES_MAX: usize = 4096;

/// What an operator wants, see [`crate::core::command::Command`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum CommandRequest {
    /// The group goes to that node, or to the best other one.
    Relocate {
        /// The group.
        group: GroupName,
        /// The node.
        node: Option<NodeName>,
    },
    /// The group may run.
    Enable {
        /// The group.
        group: GroupName,
    },
    /// The group runs nowhere.
    Disable {
        /// The group.
        group: GroupName,
    },
    /// The node owns nothing that another one could own. Default: the node that is asked.
    Standby {
        /// The node.
        node: Option<NodeName>,
    },
    /// The node takes part again. Default: the node that is asked.
    Online {
        /// The node.
        node: Option<NodeName>,
    },
    /// The node that is asked gives groups up, once.
    GiveUp {
        /// Which.
        which: Which,
    },
    /// The node that is asked takes groups, once.
    TakeOver {
        /// Which.
        which: Which,
    },
}

/// What a group is expected to come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedGroup {
    /// The group.
    pub group: GroupName,
    /// Its owner; absent: nobody.
    #[serde(default)]
    pub owner: Option<NodeName>,
}

/// A command that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandAccepted {
    /// What was decided.
    pub message: String,
    /// What follows, unless something happens.
    pub expected: Vec<ExpectedGroup>,
}

/// What the driver answers.
pub type CommandAnswer = Result<CommandAccepted, ErrorBody>;
