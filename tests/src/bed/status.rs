//! What `hactl --json` prints, as tests want to ask it. Read by name from the contract, not through
//! the daemon's own types: a renamed field must fail here.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Deserialize;
use serde_json::Value;

/// `hactl status --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// The reporting node.
    pub node: String,
    /// Process id of its daemon.
    pub pid: i32,
    /// Process id of its keeper.
    #[serde(default)]
    pub keeper_pid: Option<i32>,
    /// Incarnation of the reporting node.
    #[serde(default)]
    pub incarnation: u64,
    /// Nodes, the reporting one included.
    pub nodes: Vec<NodeView>,
    /// Groups.
    pub groups: Vec<GroupView>,
    /// Number of events so far.
    #[serde(default)]
    pub events: u64,
    /// Everything, for what has no field here.
    #[serde(skip)]
    pub raw: Value,
}

/// One of `nodes[]`.
#[derive(Debug, Clone, Deserialize)]
pub struct NodeView {
    /// Name.
    pub name: String,
    /// `unknown`, `joining`, `up`, `late`, `daemon-gone`, `dead`, `left`.
    pub state: String,
    /// Which start of its daemon is speaking.
    #[serde(default)]
    pub incarnation: u64,
    /// Links to it.
    #[serde(default)]
    pub links: Vec<LinkView>,
}

/// One of `nodes[].links[]`.
#[derive(Debug, Clone, Deserialize)]
pub struct LinkView {
    /// Name in the configuration.
    #[serde(default)]
    pub name: String,
    /// Interface on the reporting node.
    pub interface: String,
    /// `xdp-native`, `xdp-generic`, `tc`, `socket`, `serial`.
    pub via: String,
    /// Why no better way of reception is used; empty for the best one.
    #[serde(default)]
    pub via_reason: String,
    /// `unknown`, `up`, `late`, `dead`.
    pub state: String,
    /// Age of the last heartbeat, microseconds.
    pub last_seen_us: Option<u64>,
    /// Heartbeats accepted.
    pub received: u64,
    /// Heartbeats missing by sequence number.
    pub lost: u64,
    /// Packets refused.
    pub rejected: u64,
}

/// One of `groups[]`.
#[derive(Debug, Clone, Deserialize)]
pub struct GroupView {
    /// Name.
    pub name: String,
    /// The node that owns it.
    pub owner: Option<String>,
    /// `stopped`, `starting`, `started`, `stopping`, `failed`.
    pub state: String,
    /// Number of the ownership.
    pub term: u64,
}

impl Status {
    /// Asks in that interval until `predicate` holds, and returns that status. `what` ends the sentence
    /// "waited 5s for ...".
    ///
    /// # Errors
    /// It did not hold in time; with the last status.
    pub(crate) fn wait_until(
        what: &str,
        (time_max, interval): (Duration, Duration),
        mut ask: impl FnMut() -> Result<Self>,
        predicate: impl Fn(&Self) -> bool,
    ) -> Result<Self> {
        let deadline = Instant::now() + time_max;
        loop {
            let answer = ask();
            if let Ok(status) = &answer
                && predicate(status)
            {
                return answer;
            }
            if Instant::now() > deadline {
                let last = answer.map_or_else(
                    |error| format!("{error:#}"),
                    |status| format!("{:#}", status.raw),
                );
                bail!("waited {time_max:?} for {what} in vain; last status: {last}");
            }
            thread::sleep(interval);
        }
    }

    /// Reads what `hactl status --json` printed.
    ///
    /// # Errors
    /// It is no JSON, or a field of the contract is missing; the message names it.
    pub fn parse(text: &str) -> serde_json::Result<Self> {
        let raw: Value = serde_json::from_str(text)?;
        let mut status = Self::deserialize(&raw)?;
        status.raw = raw;
        Ok(status)
    }

    /// State of a node as the reporting node sees it; empty when it does not know the node.
    #[must_use]
    pub fn node_state(&self, node: &str) -> &str {
        self.nodes.iter().find(|view| view.name == node).map_or("", |view| &view.state)
    }

    /// The group of that name.
    #[must_use]
    pub fn group(&self, group: &str) -> Option<&GroupView> {
        self.groups.iter().find(|view| view.name == group)
    }

    /// Whether `node` owns `group` and all of it runs there.
    #[must_use]
    pub fn runs_on(&self, group: &str, node: &str) -> bool {
        self.group(group)
            .is_some_and(|view| view.owner.as_deref() == Some(node) && view.state == "started")
    }

    /// The link of that name to `node`.
    #[must_use]
    pub fn link(&self, node: &str, link: &str) -> Option<&LinkView> {
        let node = self.nodes.iter().find(|view| view.name == node)?;
        node.links.iter().find(|view| view.name == link)
    }

    /// Packets judged for that reason, such as `bad-tag`; 0 when the counter is missing.
    #[must_use]
    pub fn packets(&self, reason: &str) -> u64 {
        self.raw["packets"][reason].as_u64().unwrap_or(0)
    }

    /// Whether every link to `node` is up; false when there is none.
    #[must_use]
    pub fn links_up(&self, node: &str) -> bool {
        self.nodes.iter().find(|view| view.name == node).is_some_and(|view| {
            !view.links.is_empty() && view.links.iter().all(|link| link.state == "up")
        })
    }
}

/// One of `hactl events --json`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Event {
    /// Number since the daemon's start.
    pub id: u64,
    /// When, `CLOCK_MONOTONIC` nanoseconds: comparable with every observer's stamps.
    pub monotonic_ns: u64,
    /// A stable word such as `node-dead`.
    pub kind: String,
    /// The node it is about.
    #[serde(default)]
    pub node: Option<String>,
    /// The link it is about.
    #[serde(default)]
    pub link: Option<String>,
    /// The group it is about.
    #[serde(default)]
    pub group: Option<String>,
    /// A sentence for an operator.
    #[serde(default)]
    pub message: String,
}

impl Event {
    /// Reads what `hactl events --json` printed: an array, an object with the array in `events`,
    /// or one object per line.
    ///
    /// # Errors
    /// It is none of those.
    pub fn parse_all(text: &str) -> serde_json::Result<Vec<Self>> {
        let values: Vec<Value> =
            serde_json::Deserializer::from_str(text).into_iter().collect::<Result<_, _>>()?;
        let mut events = Vec::new();
        for value in values {
            let list = if let Value::Array(list) = value {
                list
            } else if let Some(list) = value.get("events").and_then(Value::as_array) {
                list.clone()
            } else {
                vec![value]
            };
            for value in list {
                events.push(Self::deserialize(value)?);
            }
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = r#"{"id":1,"monotonic_ns":5,"kind":"node-dead","node":"alpha"}"#;

    #[test]
    fn events_are_read_from_an_array_an_object_and_lines() -> serde_json::Result<()> {
        for text in [
            format!("[{EVENT},{EVENT}]"),
            format!("{{\"events\":[{EVENT},{EVENT}]}}"),
            format!("{EVENT}\n{EVENT}\n"),
        ] {
            let events = Event::parse_all(&text)?;
            assert_eq!(events.len(), 2, "{text}");
            assert_eq!(events[1].node.as_deref(), Some("alpha"));
        }
        assert!(Event::parse_all("nonsense").is_err());
        Ok(())
    }

    #[test]
    fn status_answers_who_runs_what() -> serde_json::Result<()> {
        let status = Status::parse(
            r#"{"node":"beta","pid":7,"keeper_pid":null,"nodes":[{"name":"alpha","state":"up",
            "links":[{"name":"hb0","interface":"hb0","via":"tc","state":"up","last_seen_us":1,
            "received":1,"lost":0,"rejected":0}]}],
            "groups":[{"name":"web","owner":"alpha","state":"started","term":3}],"new":1}"#,
        )?;
        assert!(status.runs_on("web", "alpha") && !status.runs_on("web", "beta"));
        assert!(status.links_up("alpha") && !status.links_up("beta"));
        assert_eq!(status.node_state("alpha"), "up");
        assert_eq!(status.raw["new"], 1);
        Ok(())
    }
}
