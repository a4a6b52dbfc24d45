//! Whether this machine has the scripts and units that groups start.

use std::path::{Path, PathBuf};

use super::Finding;
use crate::config::finding::quoted;
use crate::config::heartbeat::{Machine, World as _};

/// Where scripts are looked up after the configuration's own directory.
const INIT_DIRECTORY: &str = "/etc/init.d";
/// Where systemd looks for units (systemd.unit(5)), as far as packages and operators put some there.
const UNIT_DIRECTORIES: &[&str] = &[
    "/etc/systemd/system",
    "/run/systemd/system",
    "/run/systemd/generator",
    "/run/systemd/generator.late",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// That a script is nowhere, or cannot be run where it is found first.
pub(super) fn script_finding(name: &str, directory: &Path) -> Option<Finding> {
    let candidates = [directory.join(name), Path::new(INIT_DIRECTORY).join(name)];
    let shown = quoted(name);
    if let Some(script) = candidates.iter().find(|script| script.exists()) {
        let why = Machine.not_executable(script)?;
        let message = format!("the script {} cannot be run: {why}", script.display());
        return Some(Finding::warning(message, format!("chmod 755 {}", script.display())));
    }
    let unit = if name.contains('.') { name.to_owned() } else { format!("{name}.service") };
    if has_unit(&unit) {
        return None;
    }
    let message = format!(
        "the script {shown} is neither in {} nor in {INIT_DIRECTORY}, and there is no unit {unit}",
        directory.display()
    );
    Some(Finding::warning(message, "install it on this node, or correct the name"))
}

/// That a systemd unit is nowhere.
pub(super) fn unit_finding(unit: &str) -> Option<Finding> {
    if has_unit(unit) {
        return None;
    }
    let message = format!("this node has no systemd unit {}", quoted(unit));
    Some(Finding::warning(message, "install it on this node, or correct the name"))
}

fn has_unit(unit: &str) -> bool {
    // An instance NAME@ARGUMENT.service has the file of its template.
    let template = unit
        .split_once('@')
        .and_then(|(name, rest)| Some(format!("{name}@.{}", rest.rsplit_once('.')?.1)));
    let names = [Some(unit.to_owned()), template];
    names.into_iter().flatten().any(|name| {
        UNIT_DIRECTORIES.iter().any(|directory| PathBuf::from(directory).join(&name).exists())
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_script_must_be_somewhere_and_executable() {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("ha-test-page");
        let finding = script_finding("ha-test-page", directory.path()).unwrap();
        assert!(finding.message.contains("no unit ha-test-page.service"), "{finding}");
        fs::write(&script, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o644)).unwrap();
        let finding = script_finding("ha-test-page", directory.path()).unwrap();
        assert!(finding.message.contains("it is not executable"), "{finding}");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(script_finding("ha-test-page", directory.path()), None);
    }

    #[test]
    fn a_unit_that_is_nowhere_is_found_out() {
        let finding = unit_finding("ha-test-page@one.service").unwrap();
        assert!(finding.message.contains("ha-test-page@one.service"), "{finding}");
    }
}
