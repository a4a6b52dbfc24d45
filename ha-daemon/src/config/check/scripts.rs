//! Whether this machine has the scripts and units that groups start.

use std::path::{Path, PathBuf};

use super::Finding;
use crate::config::finding::quoted;
use crate::io::service::lookup::{
    self, INIT_DIRECTORY, Means, Reason, Trouble, unit_with_arguments,
};

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

/// That nothing here can carry a script out.
pub(super) fn script_finding(
    name: &str,
    arguments: &[String],
    directory: &Path,
) -> Option<Finding> {
    script_finding_with(name, arguments, directory, has_unit)
}

/// As [`script_finding`], on a machine that has these units.
fn script_finding_with(
    name: &str,
    arguments: &[String],
    directory: &Path,
    has_unit: impl Fn(&str) -> bool,
) -> Option<Finding> {
    let unit = match lookup::look_up(name, arguments, directory) {
        Ok(Means::Script(_) | Means::Ocf { .. }) => return None,
        Ok(Means::Unit(unit)) => unit,
        Err(Trouble::NotThere(reason) | Trouble::Unclear(reason)) => return Some(warning(reason)),
    };
    if !has_unit(&unit) {
        let message = format!(
            "the script {} is neither in {} nor in {INIT_DIRECTORY}, and there is no unit {unit}",
            quoted(name),
            directory.display()
        );
        return Some(Finding::warning(message, "install it on this node, or correct the name"));
    }
    let refused = || warning(unit_with_arguments(&unit, name, directory));
    (!arguments.is_empty()).then(refused)
}

fn warning(reason: Reason) -> Finding {
    Finding::warning(reason.message, reason.remedy)
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
        let finding = script_finding("ha-test-page", &[], directory.path()).unwrap();
        assert!(finding.message.contains("no unit ha-test-page.service"), "{finding}");
        fs::write(&script, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o644)).unwrap();
        let finding = script_finding("ha-test-page", &[], directory.path()).unwrap();
        assert!(finding.message.contains("is not executable"), "{finding}");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(script_finding("ha-test-page", &[], directory.path()), None);
    }

    #[test]
    fn a_script_that_is_named_as_a_unit_is_that_unit() {
        let directory = tempfile::tempdir().unwrap();
        let finding = script_finding("ha-test-page.service", &[], directory.path()).unwrap();
        assert!(finding.message.ends_with("there is no unit ha-test-page.service"), "{finding}");
        let finding = script_finding("ha-test-page.sh", &[], directory.path()).unwrap();
        assert!(finding.message.ends_with("there is no unit ha-test-page.sh.service"), "{finding}");
        let there = |unit: &str| unit == "ha-test-page.service";
        for name in ["ha-test-page", "ha-test-page.service"] {
            let found = |arguments: &[String]| {
                script_finding_with(name, arguments, directory.path(), there)
            };
            assert_eq!(found(&[]), None, "{name}");
            let finding = found(&["/srv".to_owned()]).unwrap();
            let expected = format!(
                "{name} is the systemd unit ha-test-page.service, which takes no arguments"
            );
            assert_eq!(finding.message, expected);
        }
    }

    #[test]
    fn an_ocf_agent_is_looked_for_by_its_type() {
        let directory = tempfile::tempdir().unwrap();
        let arguments = ["ha-test-agent".to_owned(), "config=/etc/x".to_owned()];
        let finding = script_finding("OCF", &arguments, directory.path()).unwrap();
        assert!(finding.message.ends_with("/ha-test-agent"), "{finding}");
        assert_eq!(finding.remedy, "install resource-agents");
    }

    #[test]
    fn a_unit_that_is_nowhere_is_found_out() {
        let finding = unit_finding("ha-test-page@one.service").unwrap();
        assert!(finding.message.contains("ha-test-page@one.service"), "{finding}");
    }
}
