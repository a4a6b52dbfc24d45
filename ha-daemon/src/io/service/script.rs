//! Resource scripts, as Heartbeat runs them: `NAME ARGUMENTS... start|stop|status`. And OCF agents,
//! whose arguments are in the environment and whose answers are exit codes.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::ServiceOptions;
use crate::core::io::{Health, Presence};
use crate::io::process::{self, Ended, Exit, Program};

/// How often a stop that fails is tried, as Heartbeat does.
pub(super) const STOPS_MAX: u32 = 10;
/// Where OCF agents find their common files.
const OCF_ROOT: &str = "/usr/lib/ocf";
/// What an OCF agent's `monitor` says of what is not running (OCF resource agent API 1.1).
const OCF_NOT_RUNNING: i32 = 7;

/// The shell could not run something (POSIX: not executable, not found).
const SHELL_FAILED: [i32; 2] = [126, 127];

/// By which rules a script answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rules {
    Heartbeat,
    Ocf,
}

/// A script with its arguments.
#[derive(Debug)]
pub(super) struct Script {
    label: String,
    path: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(OsString, OsString)>,
    rules: Rules,
}

impl Script {
    pub(super) fn new(label: String, path: PathBuf, arguments: &[String]) -> Self {
        let arguments = arguments.to_vec();
        Self { label, path, arguments, environment: Vec::new(), rules: Rules::Heartbeat }
    }

    /// An OCF agent with parameters by name.
    pub(super) fn ocf(label: String, path: PathBuf, parameters: &[(String, String)]) -> Self {
        let mut environment: Vec<(OsString, OsString)> = vec![
            ("OCF_ROOT".into(), OCF_ROOT.into()),
            ("OCF_RA_VERSION_MAJOR".into(), "1".into()),
            ("OCF_RA_VERSION_MINOR".into(), "0".into()),
            ("OCF_RESOURCE_INSTANCE".into(), label.clone().into()),
        ];
        let reskey =
            |(name, value): &(String, String)| (format!("OCF_RESKEY_{name}").into(), value.into());
        environment.extend(parameters.iter().map(reskey));
        Self { label, path, arguments: Vec::new(), environment, rules: Rules::Ocf }
    }

    async fn run(
        &self,
        operation: &str,
        options: &ServiceOptions,
        limit: Duration,
    ) -> Result<Ended, String> {
        let word =
            if self.rules == Rules::Ocf && operation == "status" { "monitor" } else { operation };
        let mut environment = options.environment.clone();
        environment.extend(self.environment.iter().cloned());
        if operation == "status" {
            // Its words are read.
            environment.push(("LC_ALL".into(), "C".into()));
        }
        let program = Program {
            label: format!("{} {word}", self.label),
            path: self.path.clone(),
            arguments: self
                .arguments
                .iter()
                .map(String::as_str)
                .chain([word])
                .map(Into::into)
                .collect(),
            environment,
            identity: None,
            on_daemon_death: Signal::SIGKILL,
            quiet: operation == "status",
        };
        let ended = process::run(&program, limit, options.withdrawn()).await;
        ended.map_err(|error| format!("cannot run {} {word}: {error}", self.path.display()))
    }

    async fn status(&self, options: &ServiceOptions) -> Presence {
        let ended = match self.run("status", options, options.status_timeout()).await {
            Ok(ended) => ended,
            Err(cause) => return Presence::Unclear { cause },
        };
        match (ended.exit, self.rules) {
            (Exit::TimedOut(_) | Exit::Withdrawn, _) => {
                Presence::Unclear { cause: format!("{} status: {}", self.label, ended.exit) }
            }
            (Exit::Code(_) | Exit::Signal(_), Rules::Heartbeat) => {
                if says_running(&ended.stdout) {
                    Presence::Here
                } else {
                    Presence::Absent
                }
            }
            (Exit::Code(0), Rules::Ocf) => Presence::Here,
            (Exit::Code(OCF_NOT_RUNNING), Rules::Ocf) => Presence::Absent,
            (Exit::Code(_) | Exit::Signal(_), Rules::Ocf) => {
                Presence::Unclear { cause: failure(&self.label, "monitor", &ended) }
            }
        }
    }

    /// As [`Self::status`], of what is to run: what broke is no word of the service.
    pub(super) async fn health(&self, options: &ServiceOptions) -> Health {
        let ended = match self.run("status", options, options.status_timeout()).await {
            Ok(ended) => ended,
            Err(cause) => return Health::NotAsked { cause },
        };
        let cause = || failure("its", "status", &ended);
        match (ended.exit, self.rules) {
            (Exit::Withdrawn, _) => Health::NotAsked { cause: cause() },
            (Exit::TimedOut(_) | Exit::Signal(_), _) => Health::NoAnswer { cause: cause() },
            (Exit::Code(code), Rules::Heartbeat) => {
                let said = ended.stdout.trim();
                if says_running(said) {
                    Health::Runs
                } else if said.is_empty() || SHELL_FAILED.contains(&code) {
                    Health::NoAnswer { cause: cause() }
                } else {
                    let said = said.lines().next_back().unwrap_or_default();
                    Health::Failed { cause: format!("its status says {said:?}") }
                }
            }
            (Exit::Code(0), Rules::Ocf) => Health::Runs,
            (Exit::Code(OCF_NOT_RUNNING), Rules::Ocf) => Health::Failed {
                cause: format!("its monitor says that it does not run (code {OCF_NOT_RUNNING})"),
            },
            (Exit::Code(_), Rules::Ocf) => {
                Health::NoAnswer { cause: failure("its", "monitor", &ended) }
            }
        }
    }

    pub(super) async fn probe(&self, options: &ServiceOptions) -> Presence {
        self.status(options).await
    }

    pub(super) async fn start(&self, options: &ServiceOptions) -> Result<(), String> {
        if self.status(options).await == Presence::Here {
            tracing::info!("{} runs already: its status says so", self.label);
            return Ok(());
        }
        let ended = self.run("start", options, options.timeout).await?;
        match ended.exit {
            Exit::Code(0) => Ok(()),
            Exit::Code(_) | Exit::Signal(_) | Exit::TimedOut(_) | Exit::Withdrawn => {
                Err(failure(&self.label, "start", &ended))
            }
        }
    }

    /// A stop that fails is tried again. One that hangs is not: it would hang again.
    pub(super) async fn stop(&self, options: &ServiceOptions) -> Result<(), String> {
        let mut tries = 1;
        loop {
            let ended = self.run("stop", options, options.timeout).await?;
            match ended.exit {
                Exit::Code(0) => return Ok(()),
                Exit::Code(_) | Exit::Signal(_) if tries < STOPS_MAX => {
                    let failure = failure(&self.label, "stop", &ended);
                    tracing::warn!("{failure}; try {tries} of {STOPS_MAX}");
                }
                Exit::Code(_) | Exit::Signal(_) => {
                    let failure = failure(&self.label, "stop", &ended);
                    return Err(format!("{failure}; tried {STOPS_MAX} times"));
                }
                Exit::TimedOut(_) | Exit::Withdrawn => {
                    return Err(failure(&self.label, "stop", &ended));
                }
            }
            tokio::time::sleep(options.stop_pause).await;
            tries += 1;
        }
    }
}

/// What went wrong, with the script's own last word about it.
pub(super) fn failure(label: &str, operation: &str, ended: &Ended) -> String {
    let said =
        if ended.last_line.is_empty() { String::new() } else { format!(", {:?}", ended.last_line) };
    format!("{label} {operation}: {}{said}", ended.exit)
}

/// Whether what a status printed means that it runs. Heartbeat's rule: "running" or "OK", without "not
/// running" or "stopped"; the exit code says nothing.
fn says_running(stdout: &str) -> bool {
    let text = stdout.to_lowercase();
    let positive = text.contains("running") || stdout.contains("OK");
    positive && !text.contains("not running") && !text.contains("stopped")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read_from_words() {
        for running in ["running", "httpd (pid 7) is running...", "OK", "nginx is Running.\n"] {
            assert!(says_running(running), "{running}");
        }
        for stopped in [
            "",
            "stopped",
            "httpd is not running",
            "Not Running",
            "running or stopped",
            "ok",
            "dead",
        ] {
            assert!(!says_running(stopped), "{stopped}");
        }
    }

    /// An agent is asked by `monitor` and answers by its exit code; what it prints says nothing.
    #[tokio::test]
    async fn ocf_agents_answer_by_exit_code() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("Thing");
        let text = "#!/bin/sh\ncd \"$OCF_RESKEY_home\"\necho running $1 >>calls\n\
                    [ $1 = monitor ] && exit $(cat code)\nexit 0\n";
        super::super::tests::executable(&path, text);
        let options = ServiceOptions {
            script_directory: "/nonexistent".into(),
            timeout: Duration::from_secs(60),
            environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
            stop_pause: Duration::ZERO,
            ending: None,
            report: std::sync::Arc::new(|_| true),
        };
        let home = ("home".to_owned(), directory.path().display().to_string());
        let script = Script::ocf("OCF::Thing".to_owned(), path, &[home]);
        for (code, presence) in [("0", Presence::Here), ("7", Presence::Absent)] {
            std::fs::write(directory.path().join("code"), code).unwrap();
            assert_eq!(script.probe(&options).await, presence);
        }
        assert_eq!(script.start(&options).await, Ok(()));
        std::fs::write(directory.path().join("code"), "1").unwrap();
        assert!(matches!(script.probe(&options).await, Presence::Unclear { .. }));
        let calls = std::fs::read_to_string(directory.path().join("calls")).unwrap();
        let words: Vec<&str> = calls.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        assert_eq!(words, ["monitor", "monitor", "monitor", "start", "monitor"]);
    }
}
