//! Heartbeat's files: `ha.cf`, `haresources` and `authkeys` in one directory, as they are.
//!
//! [`super::load`] comes here when the path is such a directory, or the `ha.cf` in it, and gets the
//! same that TOML gives: a [`Config`], the places of what it says, and findings with file, line,
//! column and remedy. Every directive is in one table (`directives`); none is ignored silently.

mod assemble;
mod directives;
mod groups;
mod ha_cf;
mod haresources;
mod lines;
mod media;
mod times;
mod world;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use assemble::CLUSTER_NAME_DEFAULT;
pub use ha_cf::FACILITIES;
pub use times::time_text;
pub use world::{Interfaces, Machine, NoDevice, Nowhere, World};

use super::finding::{Finding, Position, Severity};
use super::load::{CONFIG_BYTES_MAX, Places, Reading};
use super::{Config, KeyRing, authkeys, file};

/// The file that makes a directory one of Heartbeat's.
const HA_CF: &str = "ha.cf";

/// The directory of Heartbeat's files, if `path` is one, or the `ha.cf` in one.
#[must_use]
pub fn directory(path: &Path) -> Option<PathBuf> {
    if path.file_name().is_some_and(|name| name == HA_CF) {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        return Some(parent.unwrap_or(Path::new(".")).to_owned());
    }
    path.is_dir().then(|| path.to_owned())
}

/// The name of this node that the file `nodeinfo` beside `ha.cf` gives, which counts more than
/// `uname -n`.
#[must_use]
pub fn nodeinfo(path: &Path) -> Option<String> {
    const BYTES_MAX: u64 = 4096;
    let (bytes, _) = file::read_small(&directory(path)?.join("nodeinfo"), BYTES_MAX).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    text.split_ascii_whitespace().next().map(str::to_ascii_lowercase)
}

/// A line for every directive that `ha.cf` may have, as people write it: seeds of the fuzz targets.
pub fn examples() -> impl Iterator<Item = &'static str> {
    directives::DIRECTIVES.iter().map(|directive| directive.example)
}

/// The texts of a directory.
#[derive(Debug, Clone, Copy)]
pub struct Texts<'t> {
    /// Of `ha.cf`.
    pub ha_cf: &'t str,
    /// Of `haresources`.
    pub haresources: &'t str,
}

/// The configuration that texts give which are already read, unless there is an error, and all
/// findings. `directory` is where they came from; the keys come from elsewhere.
#[must_use]
pub fn parse(
    texts: Texts<'_>,
    keys: KeyRing,
    directory: &Path,
    world: &dyn World,
) -> (Option<Config>, Vec<Finding>) {
    let reading = read_texts(texts, Some(keys), directory, world);
    (reading.config, reading.findings)
}

/// Reads the three files of a directory.
pub(super) fn read(directory: &Path, world: &dyn World) -> Reading {
    let key_path = directory.join("authkeys");
    let (keys, found) = authkeys::read(&key_path);
    let in_key_file = |finding: Finding| match finding.file {
        Some(_) => finding,
        None => finding.in_file(&key_path),
    };
    let ha_cf = read_text(&directory.join(HA_CF));
    let haresources = read_text(&directory.join("haresources"));
    let mut reading = match (ha_cf, haresources) {
        (Ok(ha_cf), Ok(haresources)) => {
            let texts = Texts { ha_cf: &ha_cf, haresources: &haresources };
            read_texts(texts, keys, directory, world)
        }
        (ha_cf, haresources) => Reading {
            config: None,
            places: Places::default(),
            findings: [ha_cf.err(), haresources.err()].into_iter().flatten().collect(),
        },
    };
    reading.findings.extend(found.into_iter().map(in_key_file));
    if reading.findings.iter().any(|finding| finding.severity == Severity::Error) {
        reading.config = None;
    }
    reading
}

/// The text of a file, or why it cannot be had.
fn read_text(path: &Path) -> Result<String, Finding> {
    let (bytes, _) = file::read_small(path, CONFIG_BYTES_MAX).map_err(|error| {
        let message = format!("cannot read the configuration: {error}");
        let remedy = "name a directory with ha.cf, haresources and authkeys, or a TOML file";
        Finding::error(message, remedy).in_file(path)
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let valid_up_to = error.utf8_error().valid_up_to();
        let before = &error.as_bytes()[..valid_up_to];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let last = before.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        let column = String::from_utf8_lossy(last).chars().count() + 1;
        Finding::error("this byte is not UTF-8", "save the file as UTF-8")
            .in_file(path)
            .at(Position { line, column })
    })
}

fn read_texts(
    texts: Texts<'_>,
    keys: Option<KeyRing>,
    directory: &Path,
    world: &dyn World,
) -> Reading {
    let mut reader = ha_cf::read(texts.ha_cf, &directory.join(HA_CF), world);
    let (groups, mut findings) =
        haresources::read(texts.haresources, &directory.join("haresources"));
    let (config, places) = assemble::assemble(&mut reader, &groups, &mut findings, keys, directory);
    let refused = reader.findings.has_error() || findings.has_error();
    let mut all = reader.findings.into_list();
    all.extend(findings.into_list());
    Reading { config: config.filter(|_| !refused), places, findings: all }
}
