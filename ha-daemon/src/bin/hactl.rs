//! `hactl`: shows what a daemon knows, and has it do something. The manual is docs/hactl.md.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use ha_daemon::control::client::{Client, ClientError};
use ha_daemon::control::{HandOverBegins, PeerLink, SOCKET_DEFAULT, render};
use ha_daemon::snapshot::{Event, GroupStatus, NodeStatus, Snapshot};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

/// The daemon refused.
const EXIT_REFUSED: u8 = 1;
/// The daemon is not reachable. (2, usage, is clap's.)
const EXIT_UNREACHABLE: u8 = 3;

/// Shows nodes, links, groups and events of a failover daemon.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit status: 0 done, 1 refused (the reason is on stderr), \
    2 usage, 3 daemon not reachable."
)]
struct Arguments {
    /// Control socket of the daemon, `control.sock` in its run directory.
    #[arg(long, global = true, value_name = "PATH", default_value = SOCKET_DEFAULT)]
    socket: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything at one moment: cluster, quorum, nodes, groups, links.
    Status(Output),
    /// The nodes, and how long ago each was heard.
    Nodes(Output),
    /// The heartbeat links to every peer, with their counters.
    Links(Output),
    /// The resource groups, who owns them and in which state they are.
    Groups(Output),
    /// What happened, oldest first.
    Events(Events),
    /// Have the daemon take its changed configuration over, without a failover.
    Reload,
    /// Have the daemon replace itself by the program that is in its place now, without a failover.
    Reexec,
}

#[derive(Debug, Args)]
struct Output {
    /// Print the JSON of the daemon instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Events {
    #[command(flatten)]
    output: Output,
    /// Only events after the one with this id.
    #[arg(long, value_name = "ID")]
    since: Option<u64>,
    /// At most so many: the first after --since, else the newest. With --follow only those that
    /// have happened already count.
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
    /// Go on printing events as they happen; with --json one per line.
    #[arg(long)]
    follow: bool,
}

/// Why `hactl` fails.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("cannot print: {0}; see that there is room where the output goes")]
    Output(io::Error),
    #[error("{0}")]
    HandOver(String),
    #[error("cannot start: {0}; see that there is memory and a free file descriptor")]
    Start(io::Error),
    #[error(
        "the daemon at {} ended the stream: it stopped, or this reader was too slow; \
         go on with --since {last_id}, or with --since 0 if it has started again", socket.display()
    )]
    Ended { socket: PathBuf, last_id: u64 },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let code = match run(&arguments) {
        Ok(()) => return ExitCode::SUCCESS,
        // Whoever reads has seen enough (`hactl events | head`).
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            return ExitCode::SUCCESS;
        }
        Err(failure) => {
            // When stderr is closed as well, the exit status still tells.
            let _ = writeln!(io::stderr(), "hactl: {failure}");
            match failure {
                Failure::Client(ClientError::Unreachable { .. }) | Failure::Ended { .. } => {
                    EXIT_UNREACHABLE
                }
                Failure::Client(ClientError::Refused { .. })
                | Failure::HandOver(_)
                | Failure::Output(_)
                | Failure::Start(_) => EXIT_REFUSED,
            }
        }
    };
    ExitCode::from(code)
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Start)?;
    let client = Client::new(&arguments.socket);
    runtime.block_on(async {
        match &arguments.command {
            Command::Status(output) => {
                show(&client, "/v1/status", output, |status: Snapshot| render::status(&status))
                    .await
            }
            Command::Nodes(output) => {
                show(&client, "/v1/nodes", output, |nodes: Vec<NodeStatus>| render::nodes(&nodes))
                    .await
            }
            Command::Links(output) => {
                show(&client, "/v1/links", output, |links: Vec<PeerLink>| render::links(&links))
                    .await
            }
            Command::Groups(output) => {
                show(&client, "/v1/groups", output, |groups: Vec<GroupStatus>| {
                    render::groups(&groups)
                })
                .await
            }
            Command::Reload => hand_over(&client, "/v1/reload").await,
            Command::Reexec => hand_over(&client, "/v1/reexec").await,
            Command::Events(events) if events.follow => follow(&client, events).await,
            Command::Events(events) => {
                show(&client, &events.path(), &events.output, |events: Vec<Event>| {
                    render::events(&events)
                })
                .await
            }
        }
    })
}

impl Events {
    fn path(&self) -> String {
        let mut path = format!("/v1/events?follow={}", self.follow);
        if let Some(since) = self.since {
            path.push_str(&format!("&since={since}"));
        }
        if let Some(limit) = self.limit {
            path.push_str(&format!("&limit={limit}"));
        }
        path
    }
}

/// Prints what is at `path`: as it is, with whatever a newer daemon added, or as a table.
async fn show<T: DeserializeOwned>(
    client: &Client,
    path: &str,
    output: &Output,
    render: impl FnOnce(T) -> String,
) -> Result<(), Failure> {
    let answer = client.get(path).await?;
    if output.json {
        serde_json::from_slice::<IgnoredAny>(&answer).map_err(|e| client.not_understood(&e))?;
        print(&[&answer, b"\n"])
    } else {
        let value = serde_json::from_slice(&answer).map_err(|e| client.not_understood(&e))?;
        print(&[render(value).as_bytes()])
    }
}

/// What must be understood of an event that is printed as it is.
#[derive(Debug, Deserialize)]
struct Numbered {
    id: u64,
}

async fn follow(client: &Client, events: &Events) -> Result<(), Failure> {
    let mut lines = client.follow(&events.path()).await?;
    let mut last_id = events.since.unwrap_or(0);
    while let Some(line) = lines.next().await? {
        let read = if events.output.json {
            print(&[&line, b"\n"])?;
            serde_json::from_slice(&line).map(|Numbered { id }| id)
        } else {
            let event = serde_json::from_slice::<Event>(&line);
            event
                .as_ref()
                .map_or(Ok(()), |event| print(&[render::event_line(event).as_bytes()]))?;
            event.map(|event| event.id)
        };
        last_id = read.map_err(|error| client.not_understood(&error))?;
    }
    Err(Failure::Ended { socket: client.socket().to_owned(), last_id })
}

/// Longest wait for the check of a configuration and of a new program.
const CHECK_TIME_MAX: Duration = Duration::from_secs(30);
/// Longest wait for the end of a hand-over: what the new configuration does not have is stopped first.
const HAND_OVER_TIME_MAX: Duration = Duration::from_secs(90);

/// Has the daemon hand over to its next program, and waits until that says so.
async fn hand_over(client: &Client, path: &str) -> Result<(), Failure> {
    let answer = client.post(path, CHECK_TIME_MAX).await?;
    let begins: HandOverBegins =
        serde_json::from_slice(&answer).map_err(|error| client.not_understood(&error))?;
    let mut last_id = begins.last_event;
    let ended = async {
        loop {
            let path = format!("/v1/events?follow=true&since={last_id}");
            let mut lines = match client.follow(&path).await {
                Ok(lines) => lines,
                Err(ClientError::Unreachable { .. }) => {
                    // Between two programs; the socket stays, so this is about a stopping one.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            // A stream ends with its program; the next one goes on with the same numbers.
            while let Ok(Some(line)) = lines.next().await {
                let event: Event =
                    serde_json::from_slice(&line).map_err(|error| client.not_understood(&error))?;
                last_id = event.id;
                if matches!(event.kind.as_str(), "reloaded" | "reexecuted" | "reload-failed") {
                    return Ok(event);
                }
            }
        }
    };
    let event = tokio::time::timeout(HAND_OVER_TIME_MAX, ended).await.unwrap_or_else(|_| {
        let cause = format!("no word of its end within {} s", HAND_OVER_TIME_MAX.as_secs());
        Err(client.no_answer(cause, "look for its events: hactl events"))
    })?;
    if event.kind == "reload-failed" {
        return Err(Failure::HandOver(event.message));
    }
    print(&[event.message.as_bytes(), b"\n"])
}

fn print(pieces: &[&[u8]]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let mut write = || {
        pieces.iter().try_for_each(|piece| stdout.write_all(piece))?;
        stdout.flush()
    };
    write().map_err(Failure::Output)
}
