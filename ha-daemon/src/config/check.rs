//! What `ha-daemon check` says: everything in the file, and whether it fits this machine.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

pub use super::finding::{Finding, Severity, exit_code};
use super::finding::{list, quoted};
use super::load::{self, Places};
use super::{Config, Endpoint, GroupIndex, NodeIndex, Resource, serial};
use crate::names::{InterfaceName, NodeName};

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
    let mut findings = reading.findings;
    let Some(config) = &reading.config else {
        return findings;
    };
    match own_node(config, node) {
        Ok(own) => findings.extend(local_findings(config, own, Some((path, &reading.places)))),
        Err(finding) => {
            let finding = finding.in_file(path);
            findings.push(match reading.places.nodes {
                Some(position) => finding.at(position),
                None => finding,
            });
        }
    }
    findings
}

/// The node that this process is: the one named, else the one that `uname -n` names.
///
/// # Errors
/// It is none of the configuration's nodes, which the finding lists.
pub fn own_node(config: &Config, node: Option<&str>) -> Result<NodeIndex, Finding> {
    let (name, source) = match node {
        Some(name) => (name.to_owned(), "--node"),
        None => (
            nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned(),
            "uname -n",
        ),
    };
    let known = name.parse::<NodeName>().ok().and_then(|name| config.node_named(&name));
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
    match read_interfaces() {
        Ok(interfaces) => Local { config, node, places, interfaces }.findings(),
        Err(error) => {
            let message = format!("cannot read the interfaces of this machine: {error}");
            vec![Finding::warning(message, "compare them with the configuration by hand")]
        }
    }
}

/// Addresses with their prefixes by interface; an interface without any is there, too.
type Interfaces = BTreeMap<String, Vec<IpNet>>;

fn read_interfaces() -> nix::Result<Interfaces> {
    let mut interfaces = Interfaces::new();
    for entry in nix::ifaddrs::getifaddrs()? {
        // getifaddrs names an IPv4 address by its label, such as eth0:1.
        let name = entry.interface_name.split(':').next().unwrap_or_default().to_owned();
        let prefixes = interfaces.entry(name).or_default();
        let address = entry.address.as_ref().and_then(ip_address);
        let netmask = entry.netmask.as_ref().and_then(ip_address);
        if let (Some(address), Some(netmask)) = (address, netmask) {
            prefixes.extend(IpNet::with_netmask(address, netmask).ok());
        }
    }
    Ok(interfaces)
}

fn ip_address(storage: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
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
                let Resource::Address { address, interface, .. } = resource else { continue };
                findings.extend(self.floating_finding(address, interface).map(|finding| {
                    let place = (GroupIndex(index), number);
                    self.place(finding, |places| places.resources.get(&place).copied())
                }));
            }
        }
        findings
    }

    fn place(
        &self,
        finding: Finding,
        position: impl FnOnce(&Places) -> Option<super::Position>,
    ) -> Finding {
        let Some((path, places)) = self.places else {
            return finding;
        };
        let finding = finding.in_file(path);
        match position(places) {
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
            let place = (self.node, *link);
            if let Endpoint::Serial { device } = endpoint {
                findings.extend(serial::device_finding(device).map(|finding| {
                    self.place(finding, |places| places.endpoints.get(&place).copied())
                }));
            }
            let (Some(address), Some(interface)) = (endpoint.address(), endpoint.interface())
            else {
                continue;
            };
            let finding = match self.prefixes(interface, address) {
                Err(finding) => finding,
                Ok(prefixes) if prefixes.iter().all(|prefix| prefix.addr() != address) => {
                    Finding::warning(
                        format!("{interface} does not have the address {address} of this node"),
                        "add it to the interface, or correct it here",
                    )
                }
                Ok(_) => continue,
            };
            findings.push(self.place(finding, |places| places.endpoints.get(&place).copied()));
        }
        findings
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

    /// The prefixes of an interface in the family of an address, without those that come and go
    /// with the groups.
    fn prefixes(&self, interface: &InterfaceName, address: IpAddr) -> Result<Vec<IpNet>, Finding> {
        let Some(prefixes) = self.interfaces.get(interface.as_str()) else {
            let message = format!("this node has no interface {interface}");
            let names = list(self.interfaces.keys().map(String::as_str));
            return Err(Finding::warning(message, format!("name one of: {names}")));
        };
        let own: Vec<IpNet> = prefixes
            .iter()
            .filter(|prefix| prefix.addr().is_ipv4() == address.is_ipv4())
            .filter(|prefix| !self.floats(prefix.addr()))
            .copied()
            .collect();
        if own.is_empty() {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            let message = format!("{interface} has no {family} address on this node");
            return Err(Finding::warning(
                message,
                format!("give it one, or name another interface for {address}"),
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
