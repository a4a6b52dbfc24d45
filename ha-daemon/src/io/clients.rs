//! Client programs (Heartbeat's `respawn`): each runs as its user while the node takes part, and is
//! started again when it ends.
//!
//! The rules are Heartbeat's: exit code 100 means that it is not wanted again; ten lives in a row that
//! were shorter than 30 s mean that it cannot live here, and it is given up.

use std::ffi::{CString, OsString};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::{User, getgrouplist};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::process::{self, Exit, Program};
use super::sys::Identity;
use crate::config::Client;
use crate::snapshot::Severity;

/// A client's way to say that it does not want to be started again.
pub const EXIT_FOR_GOOD: i32 = 100;
/// A life shorter than this is too short.
pub const LIFE_MIN: Duration = Duration::from_secs(30);
/// So many lives that are too short, one after the other, are enough.
pub const SHORT_LIVES_MAX: u32 = 10;
/// How long a client has time to end when the node leaves.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// Tells the operator: how urgent, a stable word, a sentence.
pub type Note = Arc<dyn Fn(Severity, &'static str, String) + Send + Sync>;

/// What is needed to run clients.
#[derive(Clone)]
pub struct ClientOptions {
    /// What they get as their environment, beside `HOME`, `USER` and `LOGNAME`.
    pub environment: Vec<(OsString, OsString)>,
    /// Where events go.
    pub note: Note,
}

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOptions").finish_non_exhaustive()
    }
}

/// The running clients.
#[derive(Debug)]
pub struct Clients {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Clients {
    /// Starts all of them, on the runtime of the caller, when `begin` is over.
    pub fn start(
        clients: &[Client],
        options: &ClientOptions,
        begin: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (begun, beginning) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for client in clients {
            let (client, options) = (client.clone(), options.clone());
            let (mut stopped, mut beginning) = (stopped.clone(), beginning.clone());
            tasks.spawn(async move {
                tokio::select! {
                    _ = beginning.wait_for(|begun| *begun) => {}
                    _ = stopped.wait_for(|stop| *stop) => return,
                }
                keep(&client, &options, stopped).await;
            });
        }
        if !clients.is_empty() {
            tokio::spawn(async move {
                begin.await;
                begun.send_replace(true);
                // The clients may still be waiting for it to be told.
                begun.closed().await;
            });
        }
        Self { stop, tasks }
    }

    /// Ends all of them: SIGTERM, 5 s, SIGKILL.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

/// One life after the other.
async fn keep(client: &Client, options: &ClientOptions, mut stopped: watch::Receiver<bool>) {
    let name = client.program.display();
    let note = |severity, kind, text| (options.note)(severity, kind, text);
    let mut short_lives = 0;
    loop {
        let began = Instant::now();
        let outcome = live(client, options, &mut stopped).await;
        let how = match outcome {
            Ok(Life::Stopped) => return,
            Ok(Life::Ended(Exit::Code(EXIT_FOR_GOOD))) => {
                let text = format!("client {name} ended with exit code 100: it is done");
                return note(Severity::Info, "client-done", text);
            }
            Ok(Life::Ended(exit)) => exit.to_string(),
            Err(error) => error,
        };
        let life = began.elapsed();
        short_lives = if life < LIFE_MIN { short_lives + 1 } else { 0 };
        if short_lives >= SHORT_LIVES_MAX {
            let text = format!(
                "client {name} is given up: {how}; {SHORT_LIVES_MAX} times in a row it did not live \
                 for {}; correct what it says in the log, then restart this daemon",
                humantime::format_duration(LIFE_MIN)
            );
            return note(Severity::Error, "client-given-up", text);
        }
        let seconds = life.as_secs_f64();
        let text = format!("client {name} ended after {seconds:.1} s ({how}); starting it again");
        note(Severity::Warning, "client-ended", text);
    }
}

enum Life {
    Ended(Exit),
    Stopped,
}

async fn live(
    client: &Client,
    options: &ClientOptions,
    stopped: &mut watch::Receiver<bool>,
) -> Result<Life, String> {
    let user = client.user.clone();
    // The user database may be far away.
    let looked_up = tokio::task::spawn_blocking(move || identity(&user)).await;
    let (identity, home) = looked_up.map_err(|error| error.to_string())??;
    let name = client.program.display();
    let mut environment = options.environment.clone();
    environment.push(("HOME".into(), home));
    environment.push(("USER".into(), client.user.clone().into()));
    environment.push(("LOGNAME".into(), client.user.clone().into()));
    let program = Program {
        label: format!("client {name}"),
        path: client.program.clone(),
        arguments: client.arguments.iter().map(Into::into).collect(),
        environment,
        identity: Some(identity),
        quiet: false,
        on_daemon_death: Signal::SIGTERM,
    };
    let user = &client.user;
    let spawned = process::spawn(&program);
    let mut running = spawned.map_err(|error| format!("cannot run {name} as {user}: {error}"))?;
    tracing::info!("client {name} started as {user}");
    let ended = tokio::select! {
        exit = running.wait() => Some(exit.map_err(|error| error.to_string())?),
        _ = stopped.wait_for(|stop| *stop) => None,
    };
    let Some(exit) = ended else {
        running.end(STOP_WAIT).await;
        return Ok(Life::Stopped);
    };
    running.close(exit);
    Ok(Life::Ended(exit))
}

/// Who a user is, with all groups, and where its home is.
fn identity(name: &str) -> Result<(Identity, OsString), String> {
    let refused = |error: nix::Error| format!("cannot look up the user {name:?}: {error}");
    let user = User::from_name(name).map_err(refused)?;
    let user = user.ok_or_else(|| format!("there is no user {name:?}: add it, or name another"))?;
    let c_name = CString::new(name).map_err(|error| error.to_string())?;
    let groups = getgrouplist(&c_name, user.gid).map_err(refused)?;
    Ok((Identity { user: user.uid, group: user.gid, groups }, user.dir.into()))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    type Kinds = Arc<Mutex<Vec<&'static str>>>;

    /// A client of root's, and the kinds of its events.
    fn start(script: &str) -> (Clients, Kinds) {
        let events = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&events);
        let options = ClientOptions {
            environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
            note: Arc::new(move |_, kind, _| noted.lock().unwrap().push(kind)),
        };
        let client = Client {
            user: "root".to_owned(),
            program: "/bin/sh".into(),
            arguments: vec!["-c".to_owned(), script.to_owned()],
        };
        (Clients::start(&[client], &options, async {}), events)
    }

    async fn all_ended(mut clients: Clients) {
        let ended = async { while clients.tasks.join_next().await.is_some() {} };
        tokio::time::timeout(LONG, ended).await.unwrap();
    }

    #[tokio::test]
    #[ignore = "needs root: becomes another user"]
    async fn a_client_is_started_again_until_it_ends_with_100() {
        let directory = tempfile::tempdir().unwrap();
        let count = directory.path().join("count");
        let script =
            format!("echo x >>{0}; [ $(wc -l <{0}) -ge 3 ] && exit 100; exit 1", count.display());
        let (clients, kinds) = start(&script);
        all_ended(clients).await;
        assert_eq!(*kinds.lock().unwrap(), ["client-ended", "client-ended", "client-done"]);
    }

    #[tokio::test]
    #[ignore = "needs root: becomes another user"]
    async fn ten_short_lives_are_enough() {
        let (clients, kinds) = start("exit 0");
        all_ended(clients).await;
        let kinds = kinds.lock().unwrap();
        assert_eq!(kinds.len(), 10);
        assert!(kinds[..9].iter().all(|kind| *kind == "client-ended"));
        assert_eq!(kinds[9], "client-given-up");
    }

    #[tokio::test]
    async fn nothing_starts_before_the_beginning_and_a_stop_does_not_wait_for_it() {
        let (note, events) = std::sync::mpsc::channel();
        let note: Note = Arc::new(move |_, kind, _| note.send(kind).unwrap());
        let options = ClientOptions { environment: Vec::new(), note };
        let client = Client {
            user: "nobody-of-this-name".to_owned(),
            program: "/bin/true".into(),
            arguments: Vec::new(),
        };
        let clients =
            Clients::start(std::slice::from_ref(&client), &options, std::future::pending());
        tokio::time::timeout(LONG, clients.stop()).await.unwrap();
        assert!(events.try_recv().is_err());
        all_ended(Clients::start(&[client], &options, async {})).await;
        assert_eq!(events.try_iter().last(), Some("client-given-up"));
    }
}
