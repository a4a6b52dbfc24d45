//! What a Heartbeat user's tools ask of the configuration: its values under the names of `ha.cf`, the
//! ping nodes, and which interface carries which link of which node.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::heartbeat::time_text;
use crate::config::{Config, Endpoint, Failback, LinkKind};
use crate::names::{LinkName, NodeName};

/// A heartbeat link of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLink {
    /// Name of the link.
    pub name: LinkName,
    /// Its interface on that node, or the serial device.
    pub interface: String,
}

/// The configuration, as `cl_status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Parameters {
    /// Values by their name in `ha.cf`. What is not configured is absent.
    pub parameters: BTreeMap<String, String>,
    /// Names of the ping nodes.
    pub ping_nodes: Vec<String>,
    /// Whether groups move to the node that reaches more ping nodes (Heartbeat's `ipfail`).
    pub ipfail: bool,
    /// The heartbeat links of every node.
    pub links: BTreeMap<NodeName, Vec<NodeLink>>,
}

impl Parameters {
    /// What there is to tell about `config`.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let links = config.nodes.iter().map(|node| {
            let link = |(link, endpoint): (&crate::config::LinkIndex, &Endpoint)| {
                let interface = match endpoint {
                    Endpoint::Network { interface, .. } => interface.to_string(),
                    Endpoint::Serial { device } => device.display().to_string(),
                };
                Some(NodeLink { name: config.links.get(link.0)?.name.clone(), interface })
            };
            (node.name.clone(), node.endpoints.iter().filter_map(link).collect())
        });
        let targets = &config.connectivity.targets;
        Self {
            parameters: parameters(config),
            ping_nodes: targets.iter().map(|target| target.name.clone()).collect(),
            ipfail: config.connectivity.moves_groups && !targets.is_empty(),
            links: links.collect(),
        }
    }
}

fn parameters(config: &Config) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    let mut value = |name: &str, value: String| values.insert(name.to_owned(), value);
    let cluster = &config.cluster;
    value("keepalive", time_text(cluster.keepalive));
    value("deadtime", time_text(cluster.deadtime));
    value("warntime", time_text(cluster.warntime));
    value("initdead", time_text(cluster.initdead));
    value("deadping", time_text(config.connectivity.deadping));
    value("udpport", cluster.port.to_string());
    value("hbversion", env!("CARGO_PKG_VERSION").to_owned());
    value("debug", u8::from(config.logging.debug).to_string());
    value("realtime", if config.realtime.enabled { "true" } else { "false" }.to_owned());
    let failback = |it: &crate::config::Group| it.failback == Failback::Auto;
    // Here it belongs to the group; where they differ there is no one value.
    if config.groups.iter().all(failback) {
        value("auto_failback", "on".to_owned());
    } else if !config.groups.iter().any(failback) {
        value("auto_failback", "off".to_owned());
    }
    let baud = config.links.iter().find_map(|link| match &link.kind {
        LinkKind::Serial { baud } => Some(*baud),
        LinkKind::Ucast { .. } | LinkKind::Mcast { .. } | LinkKind::Bcast => None,
    });
    if let Some(baud) = baud {
        value("baud", baud.to_string());
    }
    let logging = &config.logging;
    if let Some(file) = &logging.file {
        value("logfile", file.display().to_string());
    }
    if let Some(file) = &logging.debug_file {
        value("debugfile", file.display().to_string());
    }
    if let Some(facility) = &logging.syslog_facility {
        value("logfacility", facility.clone());
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_link_of_every_node_has_its_interface() {
        let told = Parameters::of(&crate::core::tests::config(2, 2, 1));
        let links =
            told.links.values().flatten().map(|it| (it.name.as_str(), it.interface.as_str()));
        assert_eq!(links.collect::<Vec<_>>(), [("hb0", "hb0"), ("hb1", "hb1")].repeat(2));
        assert_eq!(told.parameters["auto_failback"], "on");
        assert_eq!(told.parameters["keepalive"], "10ms");
    }
}
