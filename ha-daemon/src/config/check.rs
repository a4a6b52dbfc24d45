//! What `ha-daemon check` says: everything in the file, and whether it fits this machine.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

use super::client_rules::{program_problem, user_problem};
pub use super::finding::{Finding, Severity, exit_code};
use super::finding::{list, quoted, sort};
use super::heartbeat::{self, Interfaces, Machine, World as _};
use super::load::{self, ClientPart, Places};
use super::{Config, Endpoint, GroupIndex, LinkKind, NodeIndex, Resource, serial};
use crate::names::{InterfaceName, NodeName};

mod scripts;

#[cfg(test)]
mod tests;

/// Everything that can be said about a configuration anywhere: its errors and its warnings.
#[must_use]
pub fn check(path: &Path) -> Vec<Finding> {
    load::read(path).findings
}

/// [`check`], and on which node this is, and whether the file fits its interfaces. `node` is what
/// `--node` says; without it, the node is found by `uname -n`.
#[must_use]
pub fn check_on_node(path: &Path, node: Option<&str>) -> Vec<Finding> {
    let reading = load::read(path);
    let (mut findings, places) = (reading.findings, &reading.places);
    let Some(config) = &reading.config else {
        return findings;
    };
    let file = places.file.as_deref().unwrap_or(path);
    match own_node_at(path, config, node) {
        Ok(own) => {
            findings.extend(local_findings(config, own, Some((path, places))));
            findings.extend(client_findings(config, file, places));
        }
        Err(finding) => {
            let finding = finding.in_file(file);
            findings.push(match places.nodes {
                Some(position) => finding.at(position),
                None => finding,
            });
        }
    }
    let files: Vec<&Path> = std::iter::once(file).chain(places.resources_file.as_deref()).collect();
    sort(&mut findings, &files);
    findings
}

/// The node that this process is: the one named, else the one that `uname -n` names.
///
/// # Errors
/// It is none of the configuration's nodes, which the finding lists.
pub fn own_node(config: &Config, node: Option<&str>) -> Result<NodeIndex, Finding> {
    named_node(config, node.map(|name| (name.to_owned(), "--node")))
}

/// As [`own_node`]; where `path` is Heartbeat's directory, the file `nodeinfo` in it counts more than
/// `uname -n`.
///
/// # Errors
/// It is none of the configuration's nodes, which the finding lists.
pub fn own_node_at(path: &Path, config: &Config, node: Option<&str>) -> Result<NodeIndex, Finding> {
    let given = node.map(|name| (name.to_owned(), "--node"));
    named_node(config, given.or_else(|| Some((heartbeat::nodeinfo(path)?, "nodeinfo"))))
}

fn named_node(config: &Config, name: Option<(String, &str)>) -> Result<NodeIndex, Finding> {
    let (name, source) = name.unwrap_or_else(|| {
        let name = nix::unistd::gethostname().unwrap_or_default();
        (name.to_string_lossy().into_owned(), "uname -n")
    });
    let named = |name: &str| config.node_named(&name.parse::<NodeName>().ok()?);
    // Host names have no case, and Heartbeat's files are read in lower case.
    let known = named(&name).or_else(|| named(&name.to_ascii_lowercase()));
    known.ok_or_else(|| {
        let message = format!(
            "this node is not in the configuration: {source} says {}, the nodes are {}",
            quoted(&name),
            list(config.nodes.iter().map(|node| node.name.as_str()))
        );
        Finding::error(message, "say which one this is with --node, or add it")
    })
}

/// Whether the configuration fits the interfaces of this machine, which is `node`. The findings
/// are warnings without a place: an interface may well come up later.
#[must_use]
pub fn check_local(config: &Config, node: NodeIndex) -> Vec<Finding> {
    local_findings(config, node, None)
}

fn local_findings(
    config: &Config,
    node: NodeIndex,
    places: Option<(&Path, &Places)>,
) -> Vec<Finding> {
    match Machine.interfaces() {
        Ok(interfaces) => Local { config, node, places, interfaces }.findings(),
        Err(error) => {
            let message = format!("cannot read the interfaces of this machine: {error}");
            vec![Finding::warning(message, "compare them with the configuration by hand")]
        }
    }
}

/// Clients that this machine cannot run. A start does not ask: the user database may be far away, and
/// a client that cannot be run is told then, too.
fn client_findings(config: &Config, file: &Path, places: &Places) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, client) in config.clients.iter().enumerate() {
        let wrong = [
            (ClientPart::Program, program_problem(&Machine, &client.program)),
            (ClientPart::User, user_problem(&Machine, &client.user)),
        ];
        for (part, problem) in wrong {
            let Some((message, remedy)) = problem else { continue };
            let finding = Finding::warning(message, remedy).in_file(file);
            findings.push(match places.clients.get(&(index, part)) {
                Some(position) => finding.at(*position),
                None => finding,
            });
        }
    }
    findings
}

/// As [`check_local`], for a machine with these interfaces.
#[cfg(test)]
pub(super) fn findings_on(
    config: &Config,
    node: NodeIndex,
    places: Option<(&Path, &Places)>,
    interfaces: Interfaces,
) -> Vec<Finding> {
    Local { config, node, places, interfaces }.findings()
}

/// A configuration on one of its nodes.
struct Local<'c> {
    config: &'c Config,
    node: NodeIndex,
    places: Option<(&'c Path, &'c Places)>,
    interfaces: Interfaces,
}

impl Local<'_> {
    fn findings(&self) -> Vec<Finding> {
        let mut findings = self.endpoint_findings();
        for (index, group) in self.config.groups.iter().enumerate() {
            if !group.nodes.contains(&self.node) {
                continue;
            }
            for (number, resource) in group.resources.iter().enumerate() {
                let finding = match resource {
                    Resource::Address { address, interface, .. } => {
                        self.floating_finding(address, interface)
                    }
                    Resource::Script { name, arguments } => {
                        let directory = &self.config.script_directory;
                        scripts::script_finding(name, arguments, directory)
                    }
                    Resource::Systemd { unit } => scripts::unit_finding(unit),
                    Resource::SourceAddress { .. } => None,
                };
                findings.extend(finding.map(|finding| {
                    let place = (GroupIndex(index), number);
                    self.place(finding, |places| {
                        (places.resources_file.as_deref(), places.resources.get(&place).copied())
                    })
                }));
            }
        }
        findings
    }

    /// The finding at its place, in the file that says it or else in the one that was read.
    fn place<'p>(
        &'p self,
        finding: Finding,
        of: impl FnOnce(&'p Places) -> (Option<&'p Path>, Option<super::Position>),
    ) -> Finding {
        let Some((path, places)) = self.places else {
            return finding;
        };
        let (file, position) = of(places);
        let finding = finding.in_file(file.unwrap_or(path));
        match position {
            Some(position) => finding.at(position),
            None => finding,
        }
    }

    fn endpoint_findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let Some(node) = self.config.nodes.get(self.node.0) else {
            return findings;
        };
        for (link, endpoint) in &node.endpoints {
            let Some(kind) = self.config.links.get(link.0).map(|link| &link.kind) else { continue };
            let place = (self.node, *link);
            let found = match endpoint {
                Endpoint::Serial { device } => serial::device_finding(device),
                Endpoint::Network { .. } => self.endpoint_finding(endpoint, kind),
            };
            findings.extend(found.into_iter().chain(self.remotes_finding(kind)).map(|finding| {
                self.place(finding, |places| {
                    (places.file.as_deref(), places.endpoints.get(&place).copied())
                })
            }));
        }
        findings
    }

    fn endpoint_finding(&self, endpoint: &Endpoint, kind: &LinkKind) -> Option<Finding> {
        let interface = endpoint.interface()?;
        let Some(address) = endpoint.address() else {
            return self.prefixes_for(interface, has_v4(kind)?, "heartbeats").err();
        };
        match self.prefixes(interface, address) {
            Err(finding) => Some(finding),
            Ok(prefixes) if prefixes.iter().all(|prefix| prefix.addr() != address) => {
                Some(Finding::warning(
                    format!("{interface} does not have the address {address} of this node"),
                    "add it to the interface, or correct it here",
                ))
            }
            Ok(_) => None,
        }
    }

    /// Who is left of the remotes of a link when this node leaves its own addresses out.
    fn remotes_finding(&self, kind: &LinkKind) -> Option<Finding> {
        let LinkKind::Ucast { remotes } = kind else { return None };
        let own = |address: IpAddr| {
            self.interfaces.values().flatten().any(|prefix| prefix.addr() == address)
        };
        let others = remotes.iter().filter(|address| !own(**address)).count();
        let (message, remedy) = match others {
            _ if remotes.is_empty() => return None,
            0 => ("all remotes are addresses of this node".to_owned(), "add the peers'"),
            1 => return None,
            _ if self.config.nodes.len() > 2 => return None,
            _ => (
                format!("{others} remotes are not addresses of this node, but it has one peer"),
                "name one address of each node, which its interface has",
            ),
        };
        Some(Finding::warning(message, remedy))
    }

    fn floating_finding(&self, address: &IpNet, interface: &InterfaceName) -> Option<Finding> {
        let host = address.addr();
        let prefixes = match self.prefixes(interface, host) {
            Ok(prefixes) => prefixes,
            Err(finding) => return Some(finding),
        };
        if prefixes.iter().any(|prefix| prefix.contains(&host)) {
            return None;
        }
        let shown: Vec<String> = prefixes.iter().map(|prefix| prefix.trunc().to_string()).collect();
        let message = format!(
            "{host} is outside of every prefix of {interface} on this node ({})",
            list(shown.iter().map(String::as_str))
        );
        Some(Finding::warning(message, "name the interface of its network, or correct the address"))
    }

    /// The prefixes of an interface in the family of an address.
    fn prefixes(&self, interface: &InterfaceName, address: IpAddr) -> Result<Vec<IpNet>, Finding> {
        self.prefixes_for(interface, address.is_ipv4(), &address.to_string())
    }

    /// The prefixes of an interface in one family, without those that come and go with the groups.
    fn prefixes_for(
        &self,
        interface: &InterfaceName,
        v4: bool,
        what: &str,
    ) -> Result<Vec<IpNet>, Finding> {
        let Some(prefixes) = self.interfaces.get(interface.as_str()) else {
            let message = format!("this node has no interface {interface}");
            let names = list(self.interfaces.keys().map(String::as_str));
            return Err(Finding::warning(message, format!("name one of: {names}")));
        };
        let own: Vec<IpNet> = prefixes
            .iter()
            .filter(|prefix| prefix.addr().is_ipv4() == v4)
            .filter(|prefix| !self.floats(prefix.addr()))
            .copied()
            .collect();
        if own.is_empty() {
            let family = if v4 { "IPv4" } else { "IPv6" };
            let message = format!("{interface} has no {family} address on this node");
            return Err(Finding::warning(
                message,
                format!("give it one, or name another interface for {what}"),
            ));
        }
        Ok(own)
    }

    fn floats(&self, host: IpAddr) -> bool {
        let resources = self.config.groups.iter().flat_map(|group| &group.resources);
        resources.into_iter().any(|resource| {
            matches!(resource, Resource::Address { address, .. } if address.addr() == host)
        })
    }
}

/// Whether a link whose endpoints have no addresses is IPv4; nothing if it is no network.
fn has_v4(kind: &LinkKind) -> Option<bool> {
    match kind {
        LinkKind::Ucast { remotes } => remotes.first().map(IpAddr::is_ipv4),
        LinkKind::Mcast { group, .. } => Some(group.is_ipv4()),
        LinkKind::Bcast => Some(true),
        LinkKind::Serial { .. } => None,
    }
}
