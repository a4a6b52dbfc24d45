//! `hactl config convert`: Heartbeat's files as the TOML that says the same.

use std::fmt::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use humantime::format_duration;

use super::finding::{ConfigError, Finding};
use super::load::{self, announce_default};
use super::{
    AnnouncePlan, Client, Config, Connectivity, Detection, Endpoint, Failback, Group, Link,
    LinkIdentity, LinkIndex, LinkKind, MONITOR_DEFAULT, Node, OnDaemonDeath, OnDoubt, Receive,
    Resource, Times, heartbeat,
};

#[cfg(test)]
mod tests;

/// The TOML that gives the same configuration as Heartbeat's files at `path`, a directory or the
/// `ha.cf` in it. What has no counterpart is a comment.
///
/// # Errors
/// The files have errors, or the path is none of Heartbeat's.
pub fn convert(path: &Path) -> Result<String, ConfigError> {
    let Some(directory) = heartbeat::directory(path) else {
        let message = "this is no directory with ha.cf, haresources and authkeys";
        let remedy = "name such a directory, or the ha.cf in it; TOML needs no conversion";
        return Err(ConfigError { findings: vec![Finding::error(message, remedy).in_file(path)] });
    };
    let directory = std::path::absolute(&directory).unwrap_or(directory);
    let (config, warnings) = load::load_with_warnings(&directory)?;
    let mut toml = Toml(String::new());
    toml.head(&directory, &warnings);
    toml.config(&config, &directory.join("authkeys"));
    Ok(toml.0)
}

/// A configuration as TOML; the keys are in `key_file`.
#[must_use]
pub fn to_toml(config: &Config, key_file: &Path) -> String {
    let mut toml = Toml(String::new());
    toml.config(config, key_file);
    toml.0
}

struct Toml(String);

/// Text as TOML quotes it.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

fn duration(duration: Duration) -> String {
    quoted(&format_duration(duration).to_string())
}

fn array<T>(items: impl IntoIterator<Item = T>, item: impl Fn(T) -> String) -> String {
    format!("[{}]", items.into_iter().map(item).collect::<Vec<_>>().join(", "))
}

/// A key, quoted where TOML wants it.
fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.is_empty() && name.chars().all(bare) { name.to_owned() } else { quoted(name) }
}

impl Toml {
    fn line(&mut self, line: fmt::Arguments<'_>) {
        // Writing to a String does not fail.
        let _ = self.0.write_fmt(line);
        self.0.push('\n');
    }

    fn set(&mut self, key: &str, value: impl fmt::Display) {
        self.line(format_args!("{key} = {value}"));
    }

    fn section(&mut self, name: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.line(format_args!("[{name}]"));
    }

    /// What stands before the configuration, as comments.
    fn head(&mut self, directory: &Path, warnings: &[Finding]) {
        let directory = directory.display().to_string();
        self.line(format_args!(
            "# From {}. Interfaces and prefixes are those of this node; `ha-daemon check` on each node",
            directory.escape_debug()
        ));
        self.line(format_args!(
            "# tells whether they fit there. The key file stays where it is, with mode 600: `auth N` names\n\
             # the key that signs, `N METHOD KEY` gives each (docs/configuration.md)."
        ));
        for warning in warnings {
            // A finding is one line, whatever it quotes.
            self.line(format_args!("# {warning}"));
        }
    }

    fn config(&mut self, config: &Config, key_file: &Path) {
        self.cluster(config, key_file);
        self.logging(config);
        self.announce(&config.announce);
        let cluster = &config.cluster;
        if config.connectivity != Connectivity::none(cluster.keepalive, cluster.deadtime) {
            self.connectivity(&config.connectivity);
        }
        for (index, link) in config.links.iter().enumerate() {
            self.link(config, LinkIndex(index), link);
        }
        for node in &config.nodes {
            self.node(config, node);
        }
        for group in &config.groups {
            self.group(config, group);
        }
        for client in &config.clients {
            self.client(client);
        }
    }

    fn cluster(&mut self, config: &Config, key_file: &Path) {
        let cluster = &config.cluster;
        self.section("cluster");
        self.set("name", quoted(&cluster.name));
        self.times(cluster.times());
        self.set("initdead", duration(cluster.initdead));
        self.set("daemon_deadtime", duration(cluster.daemon_deadtime));
        self.set("port", cluster.port);
        self.set(
            "on_doubt",
            match cluster.on_doubt {
                OnDoubt::Take => "\"take\"",
                OnDoubt::Hold => "\"hold\"",
            },
        );
        self.set("address_lifetime", duration(cluster.address_lifetime));
        if let Some(directory) = &cluster.state_dir {
            self.set("state_dir", path(directory));
        }
        self.set("script_directory", path(&config.script_directory));
        self.set("auth", format_args!("{{ file = {} }}", path(key_file)));
    }

    fn times(&mut self, times: Times) {
        self.set("keepalive", duration(times.keepalive));
        if !times.auto.is_some_and(|auto| auto.warntime_follows) {
            self.set("warntime", duration(times.warntime));
        }
        match times.auto {
            None => self.set("deadtime", duration(times.deadtime)),
            Some(auto) => {
                self.set("deadtime", "\"auto\"");
                self.set("deadtime_min", duration(auto.min));
                self.set("deadtime_max", duration(times.deadtime));
            }
        }
    }

    fn logging(&mut self, config: &Config) {
        let logging = &config.logging;
        let files = [("file", &logging.file), ("debug_file", &logging.debug_file)];
        self.section("logging");
        for (name, file) in files {
            if let Some(file) = file {
                self.set(name, path(file));
            }
        }
        if let Some(facility) = &logging.syslog_facility {
            self.set("syslog_facility", quoted(facility));
        }
        self.set("debug", logging.debug);
        self.section("realtime");
        self.set("enabled", config.realtime.enabled);
        if config.detection != Detection::default() {
            self.section("detection");
            self.set("ask", config.detection.ask);
            self.set("own_pause", config.detection.own_pause);
        }
    }

    fn announce(&mut self, plan: &AnnouncePlan) {
        if *plan == announce_default() {
            return;
        }
        self.section("announce");
        self.set("burst", plan.burst);
        self.set("repeat", array(&plan.repeat, |delay| duration(*delay)));
        self.set("refresh", plan.refresh.map_or("\"off\"".to_owned(), duration));
    }

    fn connectivity(&mut self, connectivity: &Connectivity) {
        self.section("connectivity");
        self.set("interval", duration(connectivity.interval));
        self.set("deadping", duration(connectivity.deadping));
        self.set("moves_groups", connectivity.moves_groups);
        self.set("damping", duration(connectivity.damping));
        if !connectivity.targets.is_empty() {
            self.section("connectivity.targets");
        }
        for target in &connectivity.targets {
            let members = array(&target.members, |member| quoted(&member.to_string()));
            self.set(&key(&target.name), members);
        }
    }

    fn link(&mut self, config: &Config, index: LinkIndex, link: &Link) {
        self.section(&format!("links.{}", key(link.name.as_str())));
        self.set("kind", quoted(link.kind.word()));
        if link.identity == LinkIdentity::Arrival {
            self.set("identity", "\"arrival\"");
        }
        match config.nodes.first().and_then(|node| node.endpoints.get(&index)) {
            Some(Endpoint::Network { interface, .. }) => {
                self.set("interface", quoted(interface.as_str()));
            }
            Some(Endpoint::Serial { device }) => self.set("device", path(device)),
            None => {}
        }
        let serial = matches!(link.kind, LinkKind::Serial { .. });
        match &link.kind {
            LinkKind::Ucast { remotes } if !remotes.is_empty() => {
                self.set("remotes", array(remotes, |remote| quoted(&remote.to_string())));
            }
            LinkKind::Mcast { group, ttl, loopback } => {
                self.set("group", quoted(&group.to_string()));
                self.set("ttl", ttl);
                self.set("loopback", loopback);
            }
            LinkKind::Serial { baud } => self.set("baud", baud),
            LinkKind::Ucast { .. } | LinkKind::Bcast => {}
        }
        if !serial {
            self.set("port", link.port);
        }
        if let Some(times) = link.times {
            self.times(times);
        }
        let receive = match link.receive {
            Receive::Auto => return,
            Receive::XdpNative => "\"xdp-native\"",
            Receive::XdpGeneric => "\"xdp-generic\"",
            Receive::Tc => "\"tc\"",
            Receive::Socket => "\"socket\"",
        };
        self.set("receive", receive);
    }

    /// A node: links by arrival name no addresses, so its table is empty.
    fn node(&mut self, config: &Config, node: &Node) {
        self.section(&format!("nodes.{}", key(node.name.as_str())));
        for (index, endpoint) in &node.endpoints {
            let (Some(link), Some(address)) = (config.links.get(index.0), endpoint.address())
            else {
                continue;
            };
            self.set(&key(link.name.as_str()), quoted(&address.to_string()));
        }
    }

    fn group(&mut self, config: &Config, group: &Group) {
        self.section(&format!("groups.{}", key(group.name.as_str())));
        let nodes = group.nodes.iter().filter_map(|node| config.nodes.get(node.0));
        self.set("nodes", array(nodes, |node| quoted(node.name.as_str())));
        self.set(
            "failback",
            match group.failback {
                Failback::Auto => "\"auto\"",
                Failback::Manual => "\"manual\"",
            },
        );
        if group.on_daemon_death != OnDaemonDeath::default_of(&group.resources) {
            let word = match group.on_daemon_death {
                OnDaemonDeath::Move => "\"move\"",
                OnDaemonDeath::Wait => "\"wait\"",
            };
            self.set("on_daemon_death", word);
        }
        if group.prearmed {
            self.set("prearmed", "true");
        }
        self.line(format_args!("resources = ["));
        for (position, resource) in group.resources.iter().enumerate() {
            let pairs = self::resource(resource, group.monitor(position));
            self.line(format_args!("  {{ {pairs} }},"));
        }
        self.line(format_args!("]"));
    }

    fn client(&mut self, client: &Client) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.line(format_args!("[[clients]]"));
        self.set("user", quoted(&client.user));
        self.set("program", path(&client.program));
        self.set("arguments", array(&client.arguments, |argument| quoted(argument)));
    }
}

/// The pairs of a resource's table.
fn resource(resource: &Resource, monitor: Option<Duration>) -> String {
    let mut pairs = vec![("kind", quoted(resource.kind()))];
    match resource {
        Resource::Address { address, interface, label, broadcast } => {
            pairs.push(("address", quoted(&address.to_string())));
            pairs.push(("interface", quoted(interface.as_str())));
            pairs.extend(label.as_ref().map(|label| ("label", quoted(label))));
            pairs.extend(broadcast.map(|broadcast| ("broadcast", quoted(&broadcast.to_string()))));
        }
        Resource::SourceAddress { address } => {
            pairs.push(("address", quoted(&address.to_string())));
        }
        Resource::Script { name, arguments } => {
            pairs.push(("name", quoted(name)));
            if !arguments.is_empty() {
                pairs.push(("arguments", array(arguments, |argument| quoted(argument))));
            }
        }
        Resource::Systemd { unit } => pairs.push(("unit", quoted(unit))),
    }
    let is_service = matches!(resource, Resource::Script { .. } | Resource::Systemd { .. });
    if is_service && monitor != Some(MONITOR_DEFAULT) {
        pairs.push(("monitor", monitor.map_or_else(|| quoted("off"), duration)));
    }
    pairs.iter().map(|(key, value)| format!("{key} = {value}")).collect::<Vec<_>>().join(", ")
}
