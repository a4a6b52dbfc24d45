//! systemd units, through `systemctl`: it speaks to the service manager without a message bus, and
//! waits for the end of what it asks for.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::ServiceOptions;
use super::script::failure;
use crate::core::io::{Health, Presence};
use crate::io::process::{self, Ended, Exit, Program};

/// There while systemd runs the system, sd_booted(3).
const BOOTED: &str = "/run/systemd/system";

/// A unit that is there.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) name: String,
    pub(super) label: String,
}

/// Whether systemd knows a unit.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LoadState {
    Loaded,
    NotThere { message: String },
    Unclear { message: String },
}

/// Asks systemd for a unit.
pub(super) async fn load_state(unit: &str, options: &ServiceOptions) -> LoadState {
    if !Path::new(BOOTED).is_dir() {
        let message = format!("there is no systemd unit {unit}, since systemd does not run here");
        return LoadState::NotThere { message };
    }
    let arguments = ["show", "--property=LoadState", "--value", "--", unit];
    match systemctl(unit, &arguments, options, options.status_timeout()).await {
        Ok(ended) => judge_load_state(unit, &ended),
        Err(message) => LoadState::Unclear { message },
    }
}

fn judge_load_state(unit: &str, ended: &Ended) -> LoadState {
    match (ended.exit, ended.stdout.trim()) {
        (Exit::Code(0), "loaded") => LoadState::Loaded,
        (Exit::Code(0), "not-found") => LoadState::NotThere {
            message: format!("there is no systemd unit {unit}; install the service on this node"),
        },
        (Exit::Code(0), "masked") => LoadState::NotThere {
            message: format!("the systemd unit {unit} is masked: systemctl unmask {unit}"),
        },
        (Exit::Code(0), state) if !state.is_empty() => LoadState::Unclear {
            message: format!(
                "the systemd unit {unit} is in the state {state:?}: see systemctl status"
            ),
        },
        (Exit::Code(_) | Exit::Signal(_) | Exit::TimedOut(_) | Exit::Withdrawn, _) => {
            LoadState::Unclear { message: failure("systemctl", "show", ended) }
        }
    }
}

async fn systemctl(
    label: &str,
    arguments: &[&str],
    options: &ServiceOptions,
    limit: Duration,
) -> Result<Ended, String> {
    let common = ["--no-ask-password", "--no-pager"];
    let program = Program {
        label: format!("{label} {}", arguments.first().unwrap_or(&"")),
        path: "systemctl".into(),
        arguments: common.iter().chain(arguments).map(Into::into).collect(),
        environment: options.environment.clone(),
        identity: None,
        on_daemon_death: Signal::SIGTERM,
        quiet: arguments.first() == Some(&"show"),
    };
    let ended = process::run(&program, limit, options.withdrawn()).await;
    ended.map_err(|error| format!("cannot run systemctl {}: {error}", arguments.join(" ")))
}

impl Unit {
    async fn state(&self, options: &ServiceOptions) -> Result<State, String> {
        let arguments = ["show", "--property=ActiveState,SubState,Job", "--", &self.name];
        let limit = options.status_timeout();
        let ended = systemctl(&self.label, &arguments, options, limit).await?;
        if ended.exit == Exit::Code(0) {
            Ok(read_state(&ended.stdout))
        } else {
            Err(failure("systemctl", "show", &ended))
        }
    }

    pub(super) async fn probe(&self, options: &ServiceOptions) -> Presence {
        match self.state(options).await {
            Ok(state) => presence(&self.name, &state.active),
            Err(cause) => Presence::Unclear { cause },
        }
    }

    pub(super) async fn health(&self, options: &ServiceOptions) -> Health {
        match self.state(options).await {
            Ok(state) => health(&self.name, &state),
            // Where systemd does not answer, it would neither stop nor start the unit.
            Err(cause) => Health::NotAsked { cause },
        }
    }

    /// Nothing happens to a unit that is active already: so says systemctl(1).
    pub(super) async fn start(&self, options: &ServiceOptions) -> Result<(), String> {
        self.change("start", options).await
    }

    pub(super) async fn stop(&self, options: &ServiceOptions) -> Result<(), String> {
        self.change("stop", options).await
    }

    async fn change(&self, verb: &str, options: &ServiceOptions) -> Result<(), String> {
        let arguments = [verb, "--", &self.name];
        let ended = systemctl(&self.label, &arguments, options, options.timeout).await?;
        match ended.exit {
            Exit::Code(0) => Ok(()),
            Exit::Code(_) | Exit::Signal(_) | Exit::TimedOut(_) | Exit::Withdrawn => {
                let failure = failure("systemctl", verb, &ended);
                Err(format!("{failure}; see systemctl status {}", self.name))
            }
        }
    }
}

/// What a unit is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    active: String,
    sub: String,
    /// Systemd is about to change that.
    changes: bool,
}

/// The properties that systemctl-show(1) prints, one per line; a unit without a job has none, or 0.
fn read_state(shown: &str) -> State {
    let value = |name: &str| {
        let found = shown.lines().find_map(|line| line.strip_prefix(name));
        found.map(str::trim).unwrap_or_default().to_owned()
    };
    let job = value("Job=");
    let changes = !job.is_empty() && job != "0";
    State { active: value("ActiveState="), sub: value("SubState="), changes }
}

fn health(unit: &str, state: &State) -> Health {
    // Dead, and to be started again by `Restart=`: some other time it may be seen to run, for a moment.
    if state.active == "activating" && state.sub.starts_with("auto-restart") {
        let cause = "it has ended, and systemd waits to start it again (Restart=)".to_owned();
        return Health::NoAnswer { cause };
    }
    let says = format!("systemd says {:?}", state.active);
    match presence(unit, &state.active) {
        Presence::Here => Health::Runs,
        // Between the two halves of a restart, say.
        Presence::Absent if state.changes => {
            Health::NoAnswer { cause: format!("{says}, and has a job to change that") }
        }
        Presence::Absent => Health::Failed { cause: says },
        Presence::NotInstalled { cause } | Presence::Unclear { cause } => {
            Health::NotAsked { cause }
        }
    }
}

/// What an `ActiveState` means (org.freedesktop.systemd1(5)). What is on its way in either
/// direction has processes.
fn presence(unit: &str, state: &str) -> Presence {
    match state {
        "active" | "reloading" | "refreshing" | "activating" | "deactivating" | "maintenance" => {
            Presence::Here
        }
        "inactive" | "failed" => Presence::Absent,
        other => Presence::Unclear { cause: format!("systemd says that {unit} is {other:?}") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: i32, stdout: &str) -> Ended {
        Ended { exit: Exit::Code(code), stdout: stdout.to_owned(), last_line: String::new() }
    }

    #[test]
    fn only_a_loaded_unit_can_be_used() {
        let judge = |code, stdout| judge_load_state("nginx.service", &ended(code, stdout));
        assert_eq!(judge(0, "loaded\n"), LoadState::Loaded);
        for stdout in ["not-found\n", "masked\n"] {
            assert!(matches!(judge(0, stdout), LoadState::NotThere { .. }), "{stdout}");
        }
        for (code, stdout) in [(0, "bad-setting\n"), (0, ""), (1, "loaded\n")] {
            assert!(matches!(judge(code, stdout), LoadState::Unclear { .. }), "{code} {stdout}");
        }
    }

    #[test]
    fn a_job_is_told_beside_the_state() {
        for (shown, active, sub, changes) in [
            ("ActiveState=active\nSubState=running\n", "active", "running", false),
            ("Job=0\nActiveState=inactive\n", "inactive", "", false),
            ("Job=\nActiveState=failed\n", "failed", "", false),
            ("Job=412\nActiveState=inactive\n", "inactive", "", true),
            ("", "", "", false),
        ] {
            let (active, sub) = (active.to_owned(), sub.to_owned());
            assert_eq!(read_state(shown), State { active, sub, changes }, "{shown}");
        }
    }

    #[test]
    fn a_unit_on_its_way_has_processes() {
        for state in ["active", "activating", "deactivating", "reloading"] {
            assert_eq!(presence("x", state), Presence::Here);
        }
        for state in ["inactive", "failed"] {
            assert_eq!(presence("x", state), Presence::Absent);
        }
        assert!(matches!(presence("x", ""), Presence::Unclear { .. }));
    }
}
