//! Asking for a hand-over: the new configuration, and the new program, are tried before anything
//! changes. What is refused here changes nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Cause, FORMAT};
use crate::config::{self, Config, NodeIndex, check};
use crate::control::ErrorBody;
use crate::core::resume::{Kept, plan};
use crate::io::clock::monotonic_ns;
use crate::io::mailbox::{Letter, Mailbox};
use crate::io::paths::{self, Path as PeerPath};
use crate::io::socket::LinkSocket;
use crate::snapshot::Severity;

/// Longest time that a new program may take to say that it understands what it would be handed.
const TRIAL_TIME_MAX: Duration = Duration::from_secs(10);

/// Where the configuration is, and which node this is.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The configuration's file.
    pub config: PathBuf,
    /// What `--node` says.
    pub node: Option<String>,
}

/// A hand-over that is under way.
#[derive(Debug, Clone, Copy)]
pub struct Pending {
    /// Why.
    pub cause: Cause,
    /// When it was asked for.
    pub asked_ns: u64,
    /// The configuration says what it said before.
    pub unchanged: bool,
}

pub use crate::control::backend::HandOverAnswer as Answer;

/// Whoever asks for hand-overs asks here.
#[derive(Clone)]
pub struct Asker {
    /// Where the new configuration is.
    pub source: Source,
    /// The one that is in force.
    pub config: Arc<Config>,
    /// This node.
    pub own: NodeIndex,
    /// Where this program was when it was started first.
    pub executable: PathBuf,
    /// The driver.
    pub mailbox: Mailbox,
    /// The one that is under way.
    pub pending: Arc<Mutex<Option<Pending>>>,
}

impl Asker {
    /// The hand-over that is under way.
    pub fn pending(&self) -> Option<Pending> {
        *self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_pending(&self, pending: Option<Pending>) {
        *self.pending.lock().unwrap_or_else(PoisonError::into_inner) = pending;
    }

    /// Checks everything, then has the driver prepare the hand-over. Runs on until that has failed;
    /// when it succeeds, the driver ends.
    pub async fn ask(self, cause: Cause, answer: Option<Answer>) {
        let reply = |outcome: Result<(), ErrorBody>| {
            // Who asked may be gone; the event tells it too.
            if let Some(answer) = answer {
                let _ = answer.send(outcome);
            }
        };
        if self.pending().is_some() {
            let error = "a reload is under way".to_owned();
            return reply(Err(ErrorBody { error, remedy: "wait for its end".to_owned() }));
        }
        let mut pending = Pending { cause, asked_ns: monotonic_ns(), unchanged: false };
        self.set_pending(Some(pending));
        if cause == Cause::Detach {
            reply(Ok(()));
            // The next daemon reads the configuration itself, and adopts what is the same in it.
            let kept = plan(&self.config, &self.config);
            return self.hand_over(kept, cause).await;
        }
        let asker = self.clone();
        let checked = tokio::task::spawn_blocking(move || asker.check(cause)).await;
        let new = match checked.unwrap_or_else(|error| Err(vec![error.to_string()])) {
            Ok(new) => new,
            Err(findings) => {
                self.set_pending(None);
                let error = findings.join("\n");
                self.note(Severity::Error, "reload-refused", format!("not taken over: {error}"));
                let remedy = "the daemon goes on with what it has".to_owned();
                return reply(Err(ErrorBody { error, remedy }));
            }
        };
        reply(Ok(()));
        pending.unchanged = self.config.says_the_same(&new);
        self.set_pending(Some(pending));
        let kept = plan(&self.config, &new);
        self.hand_over(kept, cause).await;
    }

    async fn hand_over(self, kept: Vec<Kept>, cause: Cause) {
        let (failed, failure) = oneshot::channel();
        let detaches = cause == Cause::Detach;
        self.mailbox.post(Letter::HandOver { kept, detaches, answer: failed });
        if let Ok(reason) = failure.await {
            self.set_pending(None);
            let text = format!("{reason}; this node goes on with the configuration that it has");
            self.note(Severity::Error, "reload-failed", text);
        }
    }

    fn note(&self, severity: Severity, kind: &'static str, message: String) {
        self.mailbox.post(Letter::Note { severity, kind, message });
    }

    /// Whether the next program could start with the configuration as it is now.
    ///
    /// # Errors
    /// What is wrong, each with its place and remedy.
    fn check(&self, cause: Cause) -> Result<Config, Vec<String>> {
        let loaded = config::load_with_warnings(&self.source.config);
        let (new, warnings) = loaded
            .map_err(|error| error.findings.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let own = check::own_node_at(&self.source.config, &new, self.source.node.as_deref())
            .map_err(|finding| vec![finding.to_string()])?;
        for warning in check::check_local(&new, own) {
            tracing::warn!("{warning}");
        }
        self.check_identity(&new, own)?;
        self.check_paths(&new, own)?;
        if cause == Cause::Reexec {
            try_program(&self.executable, &self.source).map_err(|error| vec![error])?;
        }
        Ok(new)
    }

    /// A node cannot become another one, or one of another cluster, and be the same start.
    fn check_identity(&self, new: &Config, own: NodeIndex) -> Result<(), Vec<String>> {
        let remedy = "stop the daemon and start it again";
        let (old_name, new_name) = (&self.config.nodes[self.own.0].name, &new.nodes[own.0].name);
        if old_name != new_name {
            return Err(vec![format!(
                "this node would change from {old_name} to {new_name}; {remedy}"
            )]);
        }
        let (old, new) = (&self.config.cluster.name, &new.cluster.name);
        if old != new {
            return Err(vec![format!("the cluster would change from {old} to {new}; {remedy}")]);
        }
        Ok(())
    }

    /// Every peer that stays must be reachable as before on some path, or the nodes would not hear
    /// each other until all are reloaded; and what is new must be usable.
    fn check_paths(&self, new: &Config, own: NodeIndex) -> Result<(), Vec<String>> {
        let refuse = |error: anyhow::Error| vec![format!("{error:#}")];
        let before = paths::of(&self.config, self.own).map_err(refuse)?;
        let after = paths::of(new, own).map_err(refuse)?;
        let same = |a: &PeerPath, b: &PeerPath| a.key == b.key && a.carrier == b.carrier;
        let mut findings = Vec::new();
        for (index, node) in self.config.nodes.iter().enumerate() {
            let old: Vec<_> = before.iter().filter(|path| path.peer.0 == index).collect();
            let stays = new.nodes.iter().any(|it| it.name == node.name);
            if stays && !old.is_empty() && !old.iter().any(|a| after.iter().any(|b| same(a, b))) {
                findings.push(format!(
                    "no path to {} would stay as it is, so it could not hear this node until it is \
                     reloaded too; add the new links first, reload every node, then remove the old ones",
                    node.name
                ));
            }
        }
        for path in &after {
            let Some(network) = path.network() else { continue };
            let bound = before.iter().filter_map(PeerPath::network).flat_map(|it| {
                it.entrances.iter().map(|entrance| (it.interface_index, entrance.address))
            });
            let bound: Vec<_> = bound.collect();
            for entrance in &network.entrances {
                if !bound.contains(&(network.interface_index, entrance.address))
                    && let Err(error) = LinkSocket::bind(path.link, network, entrance)
                {
                    findings.push(format!("{error:#}"));
                }
            }
        }
        if findings.is_empty() { Ok(()) } else { Err(findings) }
    }
}

/// Has a program say whether it understands what it would be handed, and the configuration.
fn try_program(program: &Path, source: &Source) -> Result<(), String> {
    let shown = program.display();
    let mut command = Command::new(program);
    command.arg("try-hand-over").arg("--format").arg(FORMAT.to_string());
    command.arg("--config").arg(&source.config);
    if let Some(node) = &source.node {
        command.arg("--node").arg(node);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|error| {
        format!("cannot run {shown}: {error}; put a program for this machine in its place")
    })?;
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    let (done, finished) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let Ok(output) = finished.recv_timeout(TRIAL_TIME_MAX) else {
        // Nobody has waited for it yet, so the number is still its own.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        return Err(format!("{shown} did not answer within {} s", TRIAL_TIME_MAX.as_secs()));
    };
    let output = output.map_err(|error| format!("cannot wait for {shown}: {error}"))?;
    // Its word counts, not that it ended well: any program can do that.
    if output.status.success() && output.stdout == trial_word().as_bytes() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "{shown} cannot take over ({}): {}; stop the daemon and start the new one instead",
        output.status,
        said.trim()
    ))
}

/// What a program prints that passes the trial.
fn trial_word() -> String {
    format!("ha-daemon reads hand-over format {FORMAT}\n")
}

/// What a new program answers to `try_program`, for its standard output.
///
/// # Errors
/// It does not read what it would be handed, or not the configuration.
pub fn answer_trial(format: u32, source: &Source) -> anyhow::Result<String> {
    anyhow::ensure!(
        format == FORMAT,
        "version {} reads what is handed over in format {FORMAT}, not {format}",
        env!("CARGO_PKG_VERSION")
    );
    let config = config::load(&source.config)?;
    check::own_node_at(&source.config, &config, source.node.as_deref())
        .map_err(|finding| anyhow::anyhow!("{finding}"))?;
    Ok(trial_word())
}
