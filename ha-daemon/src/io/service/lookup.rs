//! What a resource of the kind `script` is on this machine. Asked before every operation (`agent`), since
//! scripts come and go with packages, and by `ha-daemon check`: so both look in the same places.

use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::config::is_unit_name;

/// Where scripts are looked up after `resource.d`.
pub const INIT_DIRECTORY: &str = "/etc/init.d";
/// Where OCF agents of the vendor `heartbeat` are.
const OCF_DIRECTORY: &str = "/usr/lib/ocf/resource.d/heartbeat";
/// The script of Heartbeat that wraps OCF agents.
const OCF_WRAPPER: &str = "OCF";

/// What carries the resource out.
#[derive(Debug, PartialEq, Eq)]
pub enum Means {
    /// A script with Heartbeat's interface.
    Script(PathBuf),
    /// An OCF agent.
    Ocf {
        /// Where it is.
        path: PathBuf,
        /// Its parameters, by name.
        parameters: Vec<(String, String)>,
    },
    /// No file has the name. The systemd unit that is meant, if systemd has it.
    Unit(String),
}

/// Why nothing can carry it out.
#[derive(Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing of that name is installed here.
    NotThere(Reason),
    /// What is there cannot be used, or could not be looked at.
    Unclear(Reason),
}

/// What is wrong, and the remedy.
#[derive(Debug, PartialEq, Eq)]
pub struct Reason {
    /// What is wrong, on what.
    pub message: String,
    /// What the operator can do.
    pub remedy: String,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.message, self.remedy)
    }
}

fn reason(message: impl Into<String>, remedy: impl Into<String>) -> Reason {
    Reason { message: message.into(), remedy: remedy.into() }
}

/// Looks for a script of that name in `script_directory` and in `/etc/init.d`, then for what it stands
/// for where there is none.
///
/// # Errors
/// An OCF agent that is not there or has parameters without a name; a file that cannot be run.
pub fn look_up(
    name: &str,
    arguments: &[String],
    script_directory: &Path,
) -> Result<Means, Trouble> {
    let directories = [script_directory, Path::new(INIT_DIRECTORY)];
    look_up_in(name, arguments, &directories, Path::new(OCF_DIRECTORY))
}

fn look_up_in(
    name: &str,
    arguments: &[String],
    directories: &[&Path],
    ocf_directory: &Path,
) -> Result<Means, Trouble> {
    match find_file(name, directories).map_err(Trouble::Unclear)? {
        Some(path) => Ok(Means::Script(path)),
        None if name == OCF_WRAPPER => find_ocf(arguments, ocf_directory),
        // What ends as units do is the unit itself.
        None if is_unit_name(name) => Ok(Means::Unit(name.to_owned())),
        None => Ok(Means::Unit(format!("{name}.service"))),
    }
}

/// Why a unit cannot stand for a script with arguments.
#[must_use]
pub fn unit_with_arguments(unit: &str, name: &str, script_directory: &Path) -> Reason {
    let remedy = format!("remove them, or put a script {name} into {}", script_directory.display());
    reason(format!("{name} is the systemd unit {unit}, which takes no arguments"), remedy)
}

/// The first file of that name; one that cannot be executed is a mistake that is better told.
fn find_file(name: &str, directories: &[&Path]) -> Result<Option<PathBuf>, Reason> {
    for directory in directories {
        let path = directory.join(name);
        let shown = path.display();
        match path.metadata() {
            Ok(about) if about.is_file() && about.permissions().mode() & 0o111 != 0 => {
                return Ok(Some(path));
            }
            Ok(about) if about.is_file() => {
                return Err(reason(
                    format!("{shown} is not executable"),
                    format!("chmod +x {shown}"),
                ));
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                let remedy = "see that the daemon may read its directory";
                return Err(reason(format!("cannot look for {shown}: {error}"), remedy));
            }
        }
    }
    Ok(None)
}

fn find_ocf(arguments: &[String], directory: &Path) -> Result<Means, Trouble> {
    let Some((kind, parameters)) = arguments.split_first() else {
        let remedy = "give it TYPE and NAME=VALUE... as arguments, as in OCF::TYPE::NAME=VALUE";
        return Err(Trouble::Unclear(reason(format!("{OCF_WRAPPER} names no agent"), remedy)));
    };
    let Some(path) = find_file(kind, &[directory]).map_err(Trouble::Unclear)? else {
        let message = format!(
            "there is neither a script {OCF_WRAPPER} in resource.d nor an agent {}/{kind}",
            directory.display()
        );
        return Err(Trouble::NotThere(reason(message, "install resource-agents")));
    };
    let named = |parameter: &String| match parameter.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => {
            let message = format!("the parameter {parameter:?} of an OCF agent has no name");
            Err(Trouble::Unclear(reason(message, "write it as NAME=VALUE")))
        }
    };
    let parameters = parameters.iter().map(named).collect::<Result<_, _>>()?;
    Ok(Means::Ocf { path, parameters })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn install(directory: &Path, name: &str, mode: u32) {
        std::fs::create_dir_all(directory).unwrap();
        let path = directory.join(name);
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_first_directory_wins_and_a_file_that_cannot_run_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (directory.path().join("a"), directory.path().join("b"));
        install(&first, "both", 0o755);
        install(&second, "both", 0o755);
        install(&second, "second", 0o755);
        install(&first, "closed", 0o644);
        std::fs::create_dir(first.join("folder")).unwrap();
        let find = |name| find_file(name, &[&first, &second]);
        assert_eq!(find("both"), Ok(Some(first.join("both"))));
        assert_eq!(find("second"), Ok(Some(second.join("second"))));
        assert_eq!(find("folder"), Ok(None));
        assert_eq!(find("neither"), Ok(None));
        assert!(find("closed").unwrap_err().remedy.starts_with("chmod +x"));
    }

    #[test]
    fn where_there_is_no_script_the_name_is_that_of_a_unit() {
        let directory = tempfile::tempdir().unwrap();
        let nowhere = directory.path().join("none");
        let look = |name| look_up_in(name, &[], &[directory.path()], &nowhere).unwrap();
        for (name, unit) in [
            ("nginx", "nginx.service"),
            ("nginx.service", "nginx.service"),
            ("getty@tty1.service", "getty@tty1.service"),
            ("backup.timer", "backup.timer"),
            ("web.sh", "web.sh.service"),
            (".service", ".service.service"),
        ] {
            assert_eq!(look(name), Means::Unit(unit.to_owned()), "{name}");
        }
        install(directory.path(), "nginx.service", 0o755);
        let script = directory.path().join("nginx.service");
        assert_eq!(
            look("nginx.service"),
            Means::Script(script),
            "a script of that name counts more"
        );
    }

    #[test]
    fn the_script_ocf_stands_for_an_agent_unless_it_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let (scripts, agents) = (directory.path().join("scripts"), directory.path().join("agents"));
        let look = |arguments: &[&str]| {
            let arguments: Vec<String> = arguments.iter().map(|it| (*it).to_owned()).collect();
            look_up_in("OCF", &arguments, &[&scripts], &agents)
        };
        let missing = look(&["Thing"]).unwrap_err();
        assert!(
            matches!(&missing, Trouble::NotThere(it) if it.remedy == "install resource-agents")
        );
        install(&agents, "Thing", 0o755);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            look(&["Thing", "device=/dev/sda1", "options=a=b"]),
            Ok(Means::Ocf {
                path: agents.join("Thing"),
                parameters: vec![pair("device", "/dev/sda1"), pair("options", "a=b")],
            })
        );
        let Err(Trouble::Unclear(nameless)) = look(&["Thing", "/dev/sda1"]) else { panic!() };
        assert!(nameless.remedy.contains("NAME=VALUE"), "{nameless}");
        assert!(matches!(look(&[]), Err(Trouble::Unclear(_))));
        install(&scripts, "OCF", 0o755);
        assert_eq!(look(&["Thing"]), Ok(Means::Script(scripts.join("OCF"))));
    }
}
