//! The incarnation: a number that grows with every start of the daemon, over reboots too.
//!
//! It is the wall clock in nanoseconds, or one more than the last one where the clock went back;
//! a file keeps the last one.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use anyhow::{Context, Result};

use super::clock::unix_us;
use crate::names::NodeName;

/// The incarnation of this start. Where the file cannot be written the clock alone decides, and the
/// reason comes with it.
#[must_use]
pub fn next(directory: &Path, node: &NodeName) -> (u64, Option<anyhow::Error>) {
    let path = directory.join(format!("incarnation-{node}"));
    let clock = unix_us().saturating_mul(1_000);
    match advance(&path, clock) {
        Ok(incarnation) => (incarnation, None),
        Err(error) => (clock.max(1), Some(error)),
    }
}

fn advance(path: &Path, clock: u64) -> Result<u64> {
    let last = match fs::read_to_string(path) {
        Ok(text) => text
            .trim()
            .parse::<u64>()
            .with_context(|| format!("{} does not hold a number; remove it", path.display()))?,
        Err(error) if error.kind() == ErrorKind::NotFound => 0,
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let incarnation = clock.max(last.saturating_add(1));
    store(path, incarnation).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(incarnation)
}

/// A whole file or none: written beside, flushed, renamed.
fn store(path: &Path, incarnation: u64) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    writeln!(file, "{incarnation}")?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_even_when_the_clock_goes_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("incarnation-alpha");
        assert_eq!(advance(&path, 1_000).unwrap(), 1_000);
        assert_eq!(advance(&path, 2_000).unwrap(), 2_000);
        assert_eq!(advance(&path, 500).unwrap(), 2_001);
        assert_eq!(advance(&path, 2_001).unwrap(), 2_002);
    }

    #[test]
    fn a_damaged_or_unwritable_file_is_reported_and_the_clock_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let node: NodeName = "alpha".parse().unwrap();
        fs::write(directory.path().join("incarnation-alpha"), "what?").unwrap();
        let (incarnation, error) = next(directory.path(), &node);
        assert!(incarnation > 0);
        assert!(error.unwrap().to_string().contains("does not hold a number"));
        let (incarnation, error) = next(Path::new("/proc/nowhere"), &node);
        assert!(incarnation > 0 && error.is_some());
    }
}
