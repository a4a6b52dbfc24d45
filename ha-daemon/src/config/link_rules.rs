//! What links must keep to, whichever file they come from: that packets and sockets can tell them
//! apart, and that their kind can work with the addresses that are given.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ha_common::wire::by_arrival;
use humantime::format_duration;

use super::finding::{Finding, quoted};
use super::{Config, Endpoint, Link, LinkIdentity, LinkIndex, LinkKind, NodeIndex, serial};

/// Something about a link, or about a node on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkFinding {
    /// The link.
    pub link: LinkIndex,
    /// The node, when it is about its endpoint.
    pub node: Option<NodeIndex>,
    /// What, without a place.
    pub finding: Finding,
}

/// Everything that can be said about the links of a configuration on any machine.
#[must_use]
pub fn link_findings(config: &Config) -> Vec<LinkFinding> {
    let mut rules = Rules { config, findings: Vec::new() };
    for (index, link) in config.links.iter().enumerate() {
        rules.link(LinkIndex(index), link);
    }
    for node in 0..config.nodes.len() {
        rules.node(NodeIndex(node));
    }
    let lines = serial::findings(config).into_iter();
    rules.findings.extend(lines.map(|(link, finding)| LinkFinding { link, node: None, finding }));
    rules.findings
}

struct Rules<'c> {
    config: &'c Config,
    findings: Vec<LinkFinding>,
}

impl Rules<'_> {
    fn error(&mut self, link: LinkIndex, node: Option<NodeIndex>, message: String, remedy: &str) {
        self.findings.push(LinkFinding { link, node, finding: Finding::error(message, remedy) });
    }

    fn link(&mut self, index: LinkIndex, link: &Link) {
        let name = quoted(link.name.as_str());
        if link.identity == LinkIdentity::Name && link.id <= by_arrival::MAX {
            let message = format!("packets could not tell the link {name} from one without a name");
            self.error(index, None, message, "rename it");
        }
        if let Some(times) = link.times.filter(|it| it.deadtime > self.config.cluster.initdead) {
            let (deadtime, initdead) = (times.deadtime, self.config.cluster.initdead);
            let message = format!(
                "deadtime {} of the link {name} is longer than initdead {}: a node that has just started \
                 takes peers that it hears on this link alone for dead too early",
                format_duration(deadtime),
                format_duration(initdead)
            );
            let remedy = format!("set initdead to {} or more", format_duration(deadtime * 2));
            let finding = Finding::warning(message, remedy);
            self.findings.push(LinkFinding { link: index, node: None, finding });
        }
        match &link.kind {
            LinkKind::Mcast { group, ttl, .. } => self.group(index, &name, *group, *ttl),
            LinkKind::Ucast { remotes } => self.remotes(index, &name, remotes),
            LinkKind::Bcast | LinkKind::Serial { .. } => {}
        }
    }

    fn group(&mut self, index: LinkIndex, name: &str, group: IpAddr, ttl: u8) {
        if !group.is_multicast() {
            let message = format!("{group} of the link {name} is not a multicast group");
            let remedy =
                "use one of 224.0.0.0/4, such as 239.0.0.1, or of ff00::/8, such as ff02::694";
            self.error(index, None, message, remedy);
        } else if ttl == 0 {
            let message = format!("ttl 0 keeps the packets of the link {name} on this host");
            let finding = Finding::warning(message, "write 1, or more to cross routers");
            self.findings.push(LinkFinding { link: index, node: None, finding });
        }
    }

    fn remotes(&mut self, index: LinkIndex, name: &str, remotes: &[IpAddr]) {
        if let Some(first) = remotes.first()
            && let Some(other) = remotes.iter().find(|it| it.is_ipv4() != first.is_ipv4())
        {
            let message =
                format!("the link {name} has remotes of both families: {first} and {other}");
            self.error(index, None, message, "use one family on a link, or two links");
        }
        for (position, remote) in remotes.iter().enumerate() {
            if remotes.iter().take(position).any(|it| it == remote) {
                let message = format!("the link {name} has the remote {remote} twice");
                self.error(index, None, message, "remove one");
            }
        }
    }

    fn node(&mut self, node: NodeIndex) {
        let mut destinations = BTreeMap::new();
        let mut kinds = BTreeMap::new();
        let config = self.config;
        for (index, endpoint) in &config.nodes[node.0].endpoints {
            let Some(link) = config.links.get(index.0) else { continue };
            self.endpoint(node, *index, link, endpoint);
            let Endpoint::Network { interface, .. } = endpoint else { continue };
            let name = &config.nodes[node.0].name;
            if let Some(destination) = destination(link, endpoint)
                && let Some(other) =
                    destinations.insert((interface, link.port, destination.clone()), *index)
            {
                let message = format!(
                    "the links {} and {} both receive {destination}, port {}, on {interface} of {name}",
                    quoted(config.links[other.0].name.as_str()),
                    quoted(link.name.as_str()),
                    link.port
                );
                let remedy = "give one another address, group, port or interface, or remove it";
                self.error(*index, Some(node), message, remedy);
            }
            if link.identity == LinkIdentity::Arrival
                && let Some(other) = kinds.insert((interface, link.kind.word()), *index)
            {
                let message = format!(
                    "the links {} and {} are both {} on {interface} of {name}, and packets do not name \
                     them",
                    quoted(config.links[other.0].name.as_str()),
                    quoted(link.name.as_str()),
                    link.kind.word()
                );
                let remedy = "keep one of them, or name links (in TOML, identity = \"name\")";
                self.error(*index, Some(node), message, remedy);
            }
        }
    }

    /// Whether the address that a node has on a link is one that its kind can use.
    fn endpoint(&mut self, node: NodeIndex, index: LinkIndex, link: &Link, endpoint: &Endpoint) {
        let Some(address) = endpoint.address() else { return };
        let Some(wanted) = link.kind.family().filter(|it| it.is_ipv4() != address.is_ipv4()) else {
            return;
        };
        let family = if wanted.is_ipv4() { "IPv4" } else { "IPv6" };
        let message =
            format!("the link {} is {family}, and {address} is not", quoted(link.name.as_str()));
        let remedy = match link.kind {
            LinkKind::Bcast => "IPv6 has no broadcast: use kind = \"mcast\"",
            LinkKind::Ucast { .. } | LinkKind::Mcast { .. } | LinkKind::Serial { .. } => {
                "give the node's address of that family, or none"
            }
        };
        self.error(index, Some(node), message, remedy);
    }
}

/// What a node receives on a link, when the configuration alone tells.
fn destination(link: &Link, endpoint: &Endpoint) -> Option<String> {
    match &link.kind {
        LinkKind::Ucast { .. } => endpoint.address().map(|address| address.to_string()),
        LinkKind::Mcast { group, .. } => Some(group.to_string()),
        LinkKind::Bcast => Some("broadcasts".to_owned()),
        LinkKind::Serial { .. } => None,
    }
}
