//! From the text of a TOML file to a checked [`Config`].
//!
//! Each section has a file of its own that reads it and judges what can be judged there; what
//! concerns several sections is judged where the later one is read, in the order links, nodes,
//! groups. Findings are collected, never returned early: an operator sees all of them at once.

mod clients;
mod cluster;
mod connectivity;
mod deadtime;
mod groups;
mod links;
mod logging;
mod nodes;
mod reader;
mod resources;
mod serial;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::DeTable;

use self::reader::{Reader, Span, Table};
use super::finding::{ConfigError, Finding, Position, Severity, quoted};
use super::time_rules::address_lifetime_finding;
use super::{
    Config, GroupIndex, LinkFinding, LinkIndex, NodeIndex, Resource, file, heartbeat, link_findings,
};

pub(super) use self::clients::is_user_name;
pub(super) use self::cluster::announce_default;
pub(super) use self::connectivity::{is_target_name, unpingable};
pub(super) use self::nodes::unusable_host;
pub(crate) use self::resources::is_unit_name;
pub(super) use self::resources::unusable_in_network;
pub(super) use self::serial::no_device_path;

/// Longest configuration file, in bytes.
pub const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// Reads the configuration file, and the key file that it names; or, where the path is a directory or
/// an `ha.cf`, Heartbeat's files in it.
///
/// # Errors
/// All errors that were found, each with its place and remedy.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    read(path).into_result()
}

/// As [`load`], with the warnings, which an operator should see in the log of a start or reload.
///
/// # Errors
/// All errors that were found, each with its place and remedy.
pub fn load_with_warnings(path: &Path) -> Result<(Config, Vec<Finding>), ConfigError> {
    let mut reading = read(path);
    let findings = std::mem::take(&mut reading.findings);
    let (errors, warnings) =
        findings.into_iter().partition(|finding| finding.severity == Severity::Error);
    reading.findings = errors;
    reading.into_result().map(|config| (config, warnings))
}

/// As [`load`], for a text that is already read; `path` is where it came from.
///
/// # Errors
/// All errors that were found, each with its place and remedy.
pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
    read_text(text, path).into_result()
}

/// What a file says, and all that was found in it.
pub(super) struct Reading {
    /// Only without any error.
    pub(super) config: Option<Config>,
    /// Where it says so.
    pub(super) places: Places,
    /// Errors and warnings in the order of the file.
    pub(super) findings: Vec<Finding>,
}

/// Where the things are that are judged once more on the node itself.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// The file of nodes and endpoints, where it is not the path that was read.
    pub(super) file: Option<PathBuf>,
    /// The file of resources, likewise.
    pub(super) resources_file: Option<PathBuf>,
    pub(super) nodes: Option<Position>,
    /// By link.
    pub(super) links: Vec<Position>,
    pub(super) endpoints: BTreeMap<(NodeIndex, LinkIndex), Position>,
    pub(super) resources: BTreeMap<(GroupIndex, usize), Position>,
    /// By their number, from 0.
    pub(super) clients: BTreeMap<(usize, ClientPart), Position>,
}

/// What of a client has a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ClientPart {
    User,
    Program,
}

impl Reading {
    fn refused(finding: Finding) -> Self {
        Self { config: None, places: Places::default(), findings: vec![finding] }
    }

    fn into_result(self) -> Result<Config, ConfigError> {
        let is_error = |finding: &Finding| finding.severity == Severity::Error;
        self.config.ok_or_else(|| ConfigError {
            findings: self.findings.into_iter().filter(is_error).collect(),
        })
    }
}

/// Reads a file with everything that can be said about it.
pub(super) fn read(path: &Path) -> Reading {
    if let Some(directory) = heartbeat::directory(path) {
        return heartbeat::read(&directory, &heartbeat::Machine);
    }
    let bytes = match file::read_small(path, CONFIG_BYTES_MAX) {
        Ok((bytes, _)) => bytes,
        Err(error) => {
            let message = format!("cannot read the configuration: {error}");
            let remedy = "name a readable TOML file with --config";
            return Reading::refused(Finding::error(message, remedy).in_file(path));
        }
    };
    match std::str::from_utf8(&bytes) {
        Ok(text) => read_text(text, path),
        Err(error) => {
            let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let position = Reader::new(path, &valid).position(valid.len());
            let finding = Finding::error("this byte is not UTF-8", "save the file as UTF-8");
            Reading::refused(finding.in_file(path).at(position))
        }
    }
}

fn read_text(text: &str, path: &Path) -> Reading {
    let mut reader = Reader::new(path, text);
    let (document, syntax_errors) = DeTable::parse_recoverable(text);
    if !syntax_errors.is_empty() {
        // What the sections say is not judged: most of it would follow from the syntax errors.
        for error in &syntax_errors {
            let span = error.span().unwrap_or(0..0);
            let (message, remedy) = match (error.message().trim(), text.get(span.clone())) {
                ("duplicate key", Some(key)) => {
                    let key = quoted(key.trim_matches(['"', '\'']));
                    (format!("duplicate key {key}"), "keep one of them")
                }
                (message, _) => (message.to_owned(), "correct the TOML here"),
            };
            reader.error(&span, message, remedy);
        }
        let findings = reader.into_findings();
        return Reading { config: None, places: Places::default(), findings };
    }
    let span = document.span();
    let root = Table::new("the file".to_owned(), span.start..span.start, document.into_inner());
    let mut places = Places::default();
    let config = read_sections(&mut reader, root, path, &mut places);
    let findings = reader.into_findings();
    let refused = findings.iter().any(|finding| finding.severity == Severity::Error);
    Reading { config: config.filter(|_| !refused), places, findings }
}

/// All sections; `None` only if something was found in one of them.
fn read_sections(
    reader: &mut Reader<'_>,
    mut root: Table<'_>,
    path: &Path,
    places: &mut Places,
) -> Option<Config> {
    let cluster = cluster::read(reader, &mut root, path);
    let announce = cluster::read_announce(reader, &mut root);
    let logging = logging::read_logging(reader, &mut root);
    let realtime = logging::read_realtime(reader, &mut root);
    let detection = logging::read_detection(reader, &mut root);
    let links = links::read(reader, &mut root, cluster.as_ref().map(|(cluster, ..)| cluster));
    let nodes = nodes::read(reader, &mut root, &links);
    let groups = groups::read(reader, &mut root, &nodes);
    let clients = clients::read(reader, &mut root, places);
    let timing = cluster.as_ref().map(|(cluster, ..)| (cluster.keepalive, cluster.deadtime));
    let connectivity = connectivity::read(reader, &mut root, timing, &nodes, &groups);
    // Where targets were refused, the finding about them is enough.
    let arbiter = connectivity.as_ref().map(|it| !it.targets.is_empty());
    nodes::check_pairs(reader, &links, &nodes, arbiter.unwrap_or(cluster.is_some()));
    root.finish(reader);
    places.links = links.iter().map(|link| reader.position(link.span.start)).collect();
    places.nodes = nodes.first().map(|node| reader.position(node.span.start));
    for (index, node) in nodes.iter().enumerate() {
        for (link, endpoint) in &node.endpoints {
            let position = reader.position(endpoint.span.start);
            places.endpoints.insert((NodeIndex(index), *link), position);
        }
    }
    for (index, group) in groups.iter().enumerate() {
        for (number, resource) in group.resources.iter().enumerate() {
            let position = reader.position(resource.span().start);
            places.resources.insert((GroupIndex(index), number), position);
        }
    }
    let (cluster, keys, script_directory, lifetime_span) = cluster?;
    let config = Config {
        connectivity: connectivity?,
        clients,
        logging: logging?,
        realtime: realtime?,
        detection: detection?,
        script_directory,
        cluster,
        keys,
        announce: announce?,
        links: links.into_iter().map(|draft| draft.link).collect::<Option<_>>()?,
        nodes: nodes.into_iter().map(nodes::Draft::finish).collect::<Option<_>>()?,
        groups: groups.into_iter().map(groups::Draft::finish).collect::<Option<_>>()?,
    };
    if let Some(finding) = lifetime_finding(&config) {
        reader.add_at(&lifetime_span, finding);
    }
    for LinkFinding { link, node, finding } in link_findings(&config) {
        let endpoint = node.and_then(|node| places.endpoints.get(&(node, link)));
        let position = endpoint.or_else(|| places.links.get(link.0)).copied();
        let finding = finding.in_file(path);
        reader.add(match position {
            Some(position) => finding.at(position),
            None => finding,
        });
    }
    Some(config)
}

/// Behind a gate an address ends with its lease, whatever its lifetime.
fn lifetime_finding(config: &Config) -> Option<Finding> {
    let is_address = |resource: &Resource| matches!(resource, Resource::Address { .. });
    let mut groups = config.groups.iter().filter(|group| !group.prearmed);
    let any = groups.any(|group| group.resources.iter().any(is_address));
    let cluster = &config.cluster;
    address_lifetime_finding(cluster.address_lifetime, cluster.daemon_deadtime).filter(|_| any)
}

/// The tables of a section whose keys are names: `[links.hb0]`, `[links.hb1]`...
fn named_tables<'t>(
    reader: &mut Reader<'_>,
    root: &mut Table<'t>,
    section: &'static str,
    count_max: usize,
) -> Vec<(Spanned<String>, Option<Table<'t>>)> {
    let Some(value) = root.take(section) else {
        return Vec::new();
    };
    let Some(table) = reader.table(value, format!("[{section}]")) else {
        return Vec::new();
    };
    let entries = table.into_named();
    if let Some((key, _)) = entries.get(count_max) {
        let message = format!("{} {section} are too many", entries.len());
        reader.error(&key.span(), message, format!("keep to {count_max}"));
    }
    let table = |(key, value): (Spanned<String>, _)| {
        let table = reader.table(value, reader::label(&[section, key.get_ref()]));
        (key, table)
    };
    entries.into_iter().map(table).collect()
}

/// Refuses two names that packets could not tell apart.
fn refuse_equal_ids<'n>(
    reader: &mut Reader<'_>,
    what: &str,
    names: impl Iterator<Item = (&'n str, Span)>,
) {
    let mut seen = BTreeMap::new();
    for (name, span) in names {
        let id = ha_common::wire::name_id(name);
        if let Some(other) = seen.insert(id, name) {
            let message = format!(
                "the {what} {} and {} have the same identifier in packets",
                quoted(other),
                quoted(name)
            );
            reader.error(&span, message, "rename one");
        }
    }
}
