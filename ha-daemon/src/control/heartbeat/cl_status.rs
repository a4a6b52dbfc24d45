//! `cl_status`: answers one question about the cluster in a form that scripts read.
//!
//! Sub-commands, options, output and exit statuses are those of Heartbeat 3.0.6, compared with the
//! real program. Where this daemon has no such thing (weights, sites), the answer is what a
//! cluster of Heartbeat without it says.

use std::collections::BTreeSet;

use super::Printed;
use crate::control::client::{Client, ClientError};
use crate::control::parameters::{NodeLink, Parameters};
use crate::snapshot::{GroupState, GroupStatus, LinkState, NodeState, NodeStatus, Snapshot};

/// The answer is no, or there is none.
const EXIT_FAILED: u8 = 1;
/// Wrong sub-command, option, or name.
const EXIT_USAGE: u8 = 11;
/// Something else went wrong.
const EXIT_OTHER: u8 = 13;

/// What every node weighs unless `ha.cf` says otherwise.
const WEIGHT: u32 = 100;

const USAGE: &str = "\
usage: cl_status SUB-COMMAND [OPTIONS] [PARAMETERS]

  hbstatus [-m] [-v]            whether the daemon runs here; -v: with all nodes and links
  listnodes [-m] [-p|-n] [-v]   the nodes; -p: ping nodes, -n: others; -v: with links
  nodestatus [-m] NODE          up, active, dead, or ping
  nodeweight [-m] NODE          always 100
  nodesite [-m] NODE            always empty
  nodetype [-m] NODE            normal or ping
  listhblinks [-m] [-v] NODE    its heartbeat links; -v: with their states
  hblinkstatus [-m] NODE LINK   up or dead
  clientstatus [-m] NODE CLIENT [MILLISECONDS]
                                whether a client runs there: online or offline
  rscstatus [-m]                which resources are here: none, local, foreign, all, transition
  hbparameter [-m] -p NAME      the value of a directive of ha.cf

-m: sentences instead of words.
Exit status: 0 yes or done, 1 no or failed, 11 wrong parameter, 13 other failure.
";

/// The sub-commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    Daemon,
    Nodes,
    NodeStatus,
    NodeWeight,
    NodeSite,
    NodeType,
    Links,
    LinkStatus,
    Client,
    Resources,
    Parameter,
}

impl Question {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "hbstatus" => Self::Daemon,
            "listnodes" => Self::Nodes,
            "nodestatus" => Self::NodeStatus,
            "nodeweight" => Self::NodeWeight,
            "nodesite" => Self::NodeSite,
            "nodetype" => Self::NodeType,
            "listhblinks" => Self::Links,
            "hblinkstatus" => Self::LinkStatus,
            "clientstatus" => Self::Client,
            "rscstatus" => Self::Resources,
            "hbparameter" => Self::Parameter,
            _ => return None,
        })
    }

    /// Options without a value.
    fn options(self) -> &'static str {
        match self {
            Self::Daemon | Self::Links => "mv",
            Self::Nodes => "mpnv",
            Self::NodeStatus
            | Self::NodeWeight
            | Self::NodeSite
            | Self::NodeType
            | Self::LinkStatus
            | Self::Client
            | Self::Resources
            | Self::Parameter => "m",
        }
    }

    /// Parameters that must be there.
    fn parameters_min(self) -> usize {
        match self {
            Self::Daemon | Self::Nodes | Self::Resources | Self::Parameter => 0,
            Self::NodeStatus | Self::NodeWeight | Self::NodeSite | Self::NodeType | Self::Links => {
                1
            }
            Self::LinkStatus | Self::Client => 2,
        }
    }
}

/// The rest of a command line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    options: BTreeSet<char>,
    parameter: Option<String>,
    words: Vec<String>,
}

impl Asked {
    fn has(&self, option: char) -> bool {
        self.options.contains(&option)
    }

    fn word(&self, position: usize) -> &str {
        self.words.get(position).map_or("", String::as_str)
    }
}

/// Reads options, which may stand behind parameters (getopt(3)).
fn parse(question: Question, arguments: &[String]) -> Result<Asked, String> {
    let mut asked = Asked::default();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            asked.words.extend(arguments.by_ref().cloned());
            break;
        }
        let Some(letters) = argument.strip_prefix('-').filter(|it| !it.is_empty()) else {
            asked.words.push(argument.clone());
            continue;
        };
        for (at, letter) in letters.char_indices() {
            if question == Question::Parameter && letter == 'p' {
                let rest = &letters[at + 1..];
                let value =
                    if rest.is_empty() { arguments.next().cloned() } else { Some(rest.to_owned()) };
                asked.parameter = Some(value.ok_or("option requires an argument -- 'p'")?);
                break;
            }
            if !question.options().contains(letter) {
                return Err(format!("invalid option -- '{letter}'"));
            }
            asked.options.insert(letter);
        }
    }
    Ok(asked)
}

pub(super) async fn run(client: &Client, arguments: &[String]) -> Printed {
    let Some((name, rest)) = arguments.split_first().filter(|(name, _)| *name != "-h") else {
        return Printed::done(USAGE);
    };
    let Some(question) = Question::named(name) else {
        return Printed::failed(EXIT_USAGE, format!("cl_status: {name}: invalid sub-command.\n"));
    };
    let parsed = parse(question, rest);
    let world = match World::ask(client).await {
        Ok(world) => world,
        Err(error) => return unreachable(question, &error),
    };
    let (asked, complaint) = match parsed {
        Ok(asked) => (asked, String::new()),
        // The original goes on here, and only here.
        Err(error) if question == Question::Daemon => {
            (Asked::default(), format!("cl_status: {name}: {error}\n"))
        }
        Err(error) => return Printed::failed(EXIT_USAGE, format!("cl_status: {name}: {error}\n")),
    };
    if asked.words.len() < question.parameters_min() {
        return Printed::failed(EXIT_USAGE, "cl_status: not enough parameters\n");
    }
    let mut printed = world.answer(question, &asked);
    printed.stderr.insert_str(0, &complaint);
    printed
}

/// Nobody answers, or not for this user.
fn unreachable(question: Question, error: &ClientError) -> Printed {
    let refuses = error.to_string().contains("Permission denied");
    let stdout = match question {
        Question::Daemon if refuses => {
            let text = "Heartbeat is apparently running on this machine, but refuses my connection";
            return Printed { stdout: format!("{text}\n"), stderr: String::new(), code: 0 };
        }
        Question::Daemon => "Heartbeat is stopped on this machine.\n",
        Question::Nodes
        | Question::NodeStatus
        | Question::NodeWeight
        | Question::NodeSite
        | Question::NodeType
        | Question::Links
        | Question::LinkStatus
        | Question::Client
        | Question::Resources
        | Question::Parameter => "",
    };
    let stderr = format!("cl_status: cannot sign on with the daemon: {error}\n");
    Printed { stdout: stdout.to_owned(), stderr, code: EXIT_FAILED }
}

/// What the daemon tells.
struct World {
    snapshot: Snapshot,
    told: Parameters,
}

impl World {
    async fn ask(client: &Client) -> Result<Self, ClientError> {
        let told = client.get_as("/v1/parameters").await?;
        Ok(Self { snapshot: client.get_as("/v1/status").await?, told })
    }

    fn answer(&self, question: Question, asked: &Asked) -> Printed {
        let human = asked.has('m');
        match question {
            Question::Daemon => self.daemon(asked),
            Question::Nodes => Printed::done(self.nodes(asked)),
            Question::NodeStatus => self.node_status(asked.word(0), human),
            Question::NodeWeight => self.of_node(asked.word(0), |name| {
                let weight = WEIGHT;
                said(human, &weight.to_string(), || {
                    format!("The weight of the cluster node {name} is {weight}")
                })
            }),
            Question::NodeSite => self.of_node(asked.word(0), |name| {
                said(human, "", || format!("The site of the cluster node {name} is "))
            }),
            Question::NodeType => self.of_node(asked.word(0), |name| {
                let kind = if self.is_ping(name) { "ping" } else { "normal" };
                said(human, kind, || format!("The node {name}'s type: {kind}"))
            }),
            Question::Links => self.links(asked.word(0), human, asked.has('v')),
            Question::LinkStatus => self.link_status(asked.word(0), asked.word(1), human),
            Question::Client => self.client(asked.word(0), asked.word(1)),
            Question::Resources => {
                let word = resources(&self.snapshot);
                let text = said(human, word, || format!("This node is holding {word} resources."));
                Printed::done(text)
            }
            Question::Parameter => self.parameter(asked.parameter.as_deref(), human),
        }
    }

    fn node(&self, name: &str) -> Option<&NodeStatus> {
        self.snapshot.nodes.iter().find(|node| node.name.as_str() == name)
    }

    fn is_ping(&self, name: &str) -> bool {
        self.told.ping_nodes.iter().any(|ping| ping == name)
    }

    /// The answer about a node that exists.
    fn of_node(&self, name: &str, answer: impl FnOnce(&str) -> String) -> Printed {
        if self.node(name).is_none() && !self.is_ping(name) {
            return unknown_node(name);
        }
        Printed::done(answer(name))
    }

    fn daemon(&self, asked: &Asked) -> Printed {
        if !asked.has('v') {
            return Printed::done("Heartbeat is running on this machine.\n");
        }
        let version = &self.snapshot.version;
        let head = format!("version:\t{version}\nmanaged by:\t\"haresources\"\n");
        Printed::done(head + &self.nodes_with_links(|_| true))
    }

    fn nodes(&self, asked: &Asked) -> String {
        // Neither option is both, as both are.
        let (ping, normal) = (asked.has('p'), asked.has('n'));
        let wanted = |is_ping: bool| ping == normal || is_ping == ping;
        if asked.has('v') {
            return self.nodes_with_links(wanted);
        }
        let mut text = if asked.has('m') { "The nodes are as follow:\n" } else { "" }.to_owned();
        let nodes = self.snapshot.nodes.iter().map(|node| (node.name.as_str(), false));
        let pings = self.told.ping_nodes.iter().map(|ping| (ping.as_str(), true));
        for (name, _) in nodes.chain(pings).filter(|(_, is_ping)| wanted(*is_ping)) {
            text.push_str(name);
            text.push('\n');
        }
        text
    }

    fn nodes_with_links(&self, wanted: impl Fn(bool) -> bool) -> String {
        let mut text = String::new();
        for node in self.snapshot.nodes.iter().filter(|_| wanted(false)) {
            let (name, status) = (&node.name, node_status(node));
            text.push_str(&format!("\n{name}\t{status}\t(nodetype: normal)\n"));
            for (link, state) in self.links_of(name.as_str()) {
                text.push_str(&format!("\t{link}\t{state}\n"));
            }
        }
        for name in self.told.ping_nodes.iter().filter(|_| wanted(true)) {
            text.push_str(&format!("\n{name}\tping\t(nodetype: ping)\n"));
        }
        text
    }

    fn node_status(&self, name: &str, human: bool) -> Printed {
        let status = match self.node(name) {
            Some(node) => node_status(node),
            None if self.is_ping(name) => "ping",
            None => return unknown_node(name),
        };
        let text = said(human, status, || format!("The cluster node {name} is {status}"));
        let code = if status == "dead" { EXIT_FAILED } else { 0 };
        Printed { code, ..Printed::done(text) }
    }

    /// Interfaces (or serial devices) that carry heartbeats of the node, and how they are.
    fn links_of(&self, name: &str) -> Vec<(String, &'static str)> {
        let Some(node) = self.node(name) else { return Vec::new() };
        let links = self.told.links.get(&node.name).map_or(&[][..], Vec::as_slice);
        let state = |link: &NodeLink| {
            let peers = self
                .snapshot
                .nodes
                .iter()
                .filter(|it| if node.local { !it.local } else { it.name == node.name });
            let mut states = peers.flat_map(|it| &it.links).filter(|it| it.name == link.name);
            // One's own link is up when anybody is heard on it.
            states.any(|it| matches!(it.state, LinkState::Up | LinkState::Late))
        };
        let word = |link: &NodeLink| if state(link) { "up" } else { "dead" };
        links.iter().map(|link| (link.interface.clone(), word(link))).collect()
    }

    fn links(&self, name: &str, human: bool, states: bool) -> Printed {
        if self.node(name).is_none() && !self.is_ping(name) {
            return Printed { code: EXIT_OTHER, ..unknown_node(name) };
        }
        let heading = "\tthis node has the following heartbeat links:\n";
        let mut text = if human { heading } else { "" }.to_owned();
        for (link, state) in self.links_of(name) {
            text.push_str(&if states {
                format!("\t{link}\t{state}\n")
            } else {
                format!("\t{link}\n")
            });
        }
        Printed::done(text)
    }

    fn link_status(&self, name: &str, link: &str, human: bool) -> Printed {
        let named = |it: &&(String, &'static str)| it.0 == link;
        let links = self.links_of(name);
        // One interface may carry several links: it is up when any of them is.
        let mut states = links.iter().filter(named).map(|(_, state)| *state).peekable();
        if states.peek().is_none() {
            let text = format!("cl_status: node {name} has no heartbeat link {link}\n");
            return Printed::failed(EXIT_OTHER, text);
        }
        let state = if states.any(|state| state == "up") { "up" } else { "dead" };
        let text =
            said(human, state, || format!("The node {name}'s heartbeat link {link} is {state}"));
        let code = if state == "up" { 0 } else { EXIT_FAILED };
        Printed { code, ..Printed::done(text) }
    }

    /// `ipfail` is part of the daemon here; of other clients nothing is known across the cluster.
    fn client(&self, node: &str, client: &str) -> Printed {
        let alive = self.node(node).is_some_and(|node| node_status(node) != "dead");
        if alive && client == "ipfail" && self.told.ipfail {
            Printed::done("online\n")
        } else {
            Printed { code: EXIT_FAILED, ..Printed::done("offline\n") }
        }
    }

    fn parameter(&self, name: Option<&str>, human: bool) -> Printed {
        let Some(name) = name else {
            return Printed::failed(EXIT_USAGE, "cl_status: parameter name required (-p NAME)\n");
        };
        let Some(value) = self.told.parameters.get(name) else {
            return Printed::failed(EXIT_FAILED, format!("cl_status: {name} has no value\n"));
        };
        Printed::done(said(human, value, || format!("Heartbeat parameter {name}'s value: {value}")))
    }
}

/// A word for scripts or a sentence for people, as one line.
fn said(human: bool, word: &str, sentence: impl FnOnce() -> String) -> String {
    if human { sentence() + "\n" } else { format!("{word}\n") }
}

fn unknown_node(name: &str) -> Printed {
    let text = format!("cl_status: there is no node {name} in the configuration\n");
    Printed::failed(EXIT_USAGE, text)
}

fn node_status(node: &NodeStatus) -> &'static str {
    match node.state {
        NodeState::Up | NodeState::Late | NodeState::Stale | NodeState::Restarting => "active",
        NodeState::Joining => "up",
        NodeState::Unknown | NodeState::DaemonGone | NodeState::Dead | NodeState::Left => "dead",
    }
}

/// Which groups are here, in Heartbeat's words. It thinks in two halves of a pair: `local` are the
/// groups that prefer this node, `foreign` the others. A half without any group counts as held by
/// its node, and by the other one once that is gone.
fn resources(snapshot: &Snapshot) -> &'static str {
    let here = |group: &&GroupStatus| group.owner.as_ref() == Some(&snapshot.node);
    let is_local = |group: &&GroupStatus| group.nodes.first() == Some(&snapshot.node);
    let changing =
        |group: &GroupStatus| matches!(group.state, GroupState::Starting | GroupState::Stopping);
    if snapshot.groups.iter().filter(here).any(changing) {
        return "transition";
    }
    let (local, foreign): (Vec<_>, Vec<_>) = snapshot.groups.iter().partition(is_local);
    let standby = snapshot.nodes.iter().any(|node| node.local && node.standby);
    let others_gone =
        snapshot.nodes.iter().filter(|node| !node.local).all(|node| node_status(node) == "dead");
    let has_local = if local.is_empty() { !standby } else { local.iter().any(here) };
    let has_foreign = if foreign.is_empty() { others_gone } else { foreign.iter().any(here) };
    match (has_local, has_foreign) {
        (true, true) => "all",
        (true, false) => "local",
        (false, true) => "foreign",
        (false, false) => "none",
    }
}

#[cfg(test)]
mod tests;
