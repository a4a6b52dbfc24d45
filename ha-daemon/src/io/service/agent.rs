//! Who carries a resource out: a script, an OCF agent, systemd, or this daemon itself.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use std::net::IpAddr;

use super::script::Script;
use super::systemd::{self, LoadState, Unit};
use super::{ServiceOptions, source};
use crate::config::Resource;
use crate::core::io::Presence;

/// Where scripts are looked up after `resource.d`.
const INIT_DIRECTORY: &str = "/etc/init.d";
/// Where OCF agents of the vendor `heartbeat` are.
const OCF_DIRECTORY: &str = "/usr/lib/ocf/resource.d/heartbeat";
/// The script of Heartbeat that wraps OCF agents.
const OCF_WRAPPER: &str = "OCF";

/// Who carries a resource out.
#[derive(Debug)]
pub(super) enum Agent {
    Script(Script),
    Unit(Unit),
    Source(IpAddr),
}

/// What looking for it came to.
#[derive(Debug)]
pub(super) enum Lookup {
    Found(Agent),
    /// Nothing of that name is installed here.
    NotThere {
        message: String,
    },
    /// It could not be found out.
    Unclear {
        message: String,
    },
}

/// Looks a resource's agent up, each time anew: scripts come and go with packages.
pub(super) async fn find(resource: &Resource, options: &ServiceOptions) -> Lookup {
    match resource {
        Resource::Script { name, arguments } => {
            let label = resource.label();
            let directories = [options.script_directory.as_path(), Path::new(INIT_DIRECTORY)];
            match find_script(name, &directories) {
                Ok(Some(path)) => Lookup::Found(Agent::Script(Script::new(label, path, arguments))),
                Ok(None) if name == OCF_WRAPPER => find_ocf(label, arguments),
                Ok(None) => find_unit_instead(name, &label, arguments, options).await,
                Err(message) => Lookup::Unclear { message },
            }
        }
        Resource::Systemd { unit } => find_unit(unit, unit, options).await,
        Resource::SourceAddress { address } => Lookup::Found(Agent::Source(*address)),
        Resource::Address { .. } => {
            Lookup::Unclear { message: format!("{} is no service", resource.label()) }
        }
    }
}

/// The first file of that name; one that cannot be executed is a mistake that is better told.
fn find_script(name: &str, directories: &[&Path]) -> Result<Option<PathBuf>, String> {
    for directory in directories {
        let path = directory.join(name);
        match path.metadata() {
            Ok(about) if about.is_file() && about.permissions().mode() & 0o111 != 0 => {
                return Ok(Some(path));
            }
            Ok(about) if about.is_file() => {
                let path = path.display();
                return Err(format!("{path} is not executable: chmod +x {path}"));
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("cannot look for {}: {error}", path.display())),
        }
    }
    Ok(None)
}

fn find_ocf(label: String, arguments: &[String]) -> Lookup {
    let Some((kind, parameters)) = arguments.split_first() else {
        let message = format!("{label} names no agent: write OCF::TYPE::NAME=VALUE");
        return Lookup::Unclear { message };
    };
    match find_script(kind, &[Path::new(OCF_DIRECTORY)]) {
        Ok(Some(path)) => match Script::ocf(label, path, parameters) {
            Ok(script) => Lookup::Found(Agent::Script(script)),
            Err(message) => Lookup::Unclear { message },
        },
        Ok(None) => Lookup::NotThere {
            message: format!(
                "{label}: there is neither a script {OCF_WRAPPER} in resource.d nor an agent \
                 {OCF_DIRECTORY}/{kind}; install resource-agents"
            ),
        },
        Err(message) => Lookup::Unclear { message },
    }
}

/// Where there is no script of that name, a systemd unit may be meant.
async fn find_unit_instead(
    name: &str,
    label: &str,
    arguments: &[String],
    options: &ServiceOptions,
) -> Lookup {
    let unit = format!("{name}.service");
    match find_unit(&unit, label, options).await {
        Lookup::NotThere { message } => Lookup::NotThere {
            message: format!(
                "there is no script {name} in {} or {INIT_DIRECTORY}, and {message}",
                options.script_directory.display()
            ),
        },
        Lookup::Found(_) if !arguments.is_empty() => Lookup::Unclear {
            message: format!(
                "{label} is the systemd unit {unit}, which takes no arguments: remove them, or put \
                 a script {name} into {}",
                options.script_directory.display()
            ),
        },
        found @ (Lookup::Found(_) | Lookup::Unclear { .. }) => found,
    }
}

async fn find_unit(unit: &str, label: &str, options: &ServiceOptions) -> Lookup {
    match systemd::load_state(unit, options).await {
        LoadState::Loaded => {
            Lookup::Found(Agent::Unit(Unit { name: unit.to_owned(), label: label.to_owned() }))
        }
        LoadState::NotThere { message } => Lookup::NotThere { message },
        LoadState::Unclear { message } => Lookup::Unclear { message },
    }
}

impl Agent {
    pub(super) async fn probe(&self, options: &ServiceOptions) -> Presence {
        match self {
            Self::Script(script) => script.probe(options).await,
            Self::Unit(unit) => unit.probe(options).await,
            Self::Source(address) => source::probe(*address).await,
        }
    }

    pub(super) async fn start(&self, options: &ServiceOptions) -> Result<(), String> {
        match self {
            Self::Script(script) => script.start(options).await,
            Self::Unit(unit) => unit.start(options).await,
            Self::Source(address) => source::start(*address).await,
        }
    }

    pub(super) async fn stop(&self, options: &ServiceOptions) -> Result<(), String> {
        match self {
            Self::Script(script) => script.stop(options).await,
            Self::Unit(unit) => unit.stop(options).await,
            Self::Source(address) => source::stop(*address).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_directory_wins_and_a_file_that_cannot_run_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (directory.path().join("a"), directory.path().join("b"));
        let write = |directory: &Path, name: &str, mode| {
            std::fs::create_dir_all(directory).unwrap();
            let path = directory.join(name);
            std::fs::write(&path, "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        write(&first, "both", 0o755);
        write(&second, "both", 0o755);
        write(&second, "second", 0o755);
        write(&first, "closed", 0o644);
        std::fs::create_dir(first.join("folder")).unwrap();
        let find = |name| find_script(name, &[&first, &second]);
        assert_eq!(find("both"), Ok(Some(first.join("both"))));
        assert_eq!(find("second"), Ok(Some(second.join("second"))));
        assert_eq!(find("folder"), Ok(None));
        assert_eq!(find("neither"), Ok(None));
        assert!(find("closed").unwrap_err().contains("chmod +x"));
    }
}
