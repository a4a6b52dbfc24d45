//! `hactl`: shows what a daemon knows and tells it what to do. The manual is docs/hactl.md.
//!
//! Called by the name of one of Heartbeat's small programs it is that program.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ha_daemon::config::ConfigError;
use ha_daemon::config::convert::convert;
use ha_daemon::control::client::{Client, ClientError};
use ha_daemon::control::command::CommandRequest;
use ha_daemon::control::heartbeat::{Printed, Program};
use ha_daemon::control::wait::{WAIT_MAX, until_done};
use ha_daemon::control::{HandOverBegins, arrivals, render, socket_path};
use ha_daemon::core::command::Which;
use ha_daemon::names::{GroupName, NodeName};
use ha_daemon::snapshot::{Event, GroupStatus, NodeStatus, Snapshot};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

/// The daemon refused.
const EXIT_REFUSED: u8 = 1;
/// The daemon is not reachable. (2, usage, is clap's.)
const EXIT_UNREACHABLE: u8 = 3;

/// Shows nodes, links, groups and events of a failover daemon, and moves groups.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit status: 0 done, 1 refused (the reason is on stderr), \
    2 usage, 3 daemon not reachable."
)]
struct Arguments {
    /// Control socket of the daemon, `control.sock` in its run directory. Default: what the
    /// environment variable HA_SOCKET says, else /run/ha/control.sock.
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything at one moment: cluster, quorum, nodes, groups, links.
    Status(Output),
    /// The nodes, and how long ago each was heard.
    Nodes(Output),
    /// The heartbeat links to every peer, how heartbeats arrive, and how late this node's threads ran.
    Links(Output),
    /// The resource groups, who owns them and in which state they are.
    Groups(Output),
    /// What happened, oldest first.
    Events(Events),
    /// Figures for a monitoring system, in the text format of OpenMetrics.
    Metrics,
    /// Moves a group to a node, or to the best other one, and keeps it there until that node fails.
    Relocate {
        /// The group.
        group: GroupName,
        /// The node.
        node: Option<NodeName>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Lets a group run again; also ends what `relocate` wished.
    Enable {
        /// The group.
        group: GroupName,
        #[command(flatten)]
        wait: Wait,
    },
    /// Stops a group everywhere until it is enabled.
    Disable {
        /// The group.
        group: GroupName,
        #[command(flatten)]
        wait: Wait,
    },
    /// Makes a node own nothing that another node could own, until it is online again.
    Standby {
        /// The node; default: this one.
        node: Option<NodeName>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Ends the standby of a node.
    Online {
        /// The node; default: this one.
        node: Option<NodeName>,
        #[command(flatten)]
        wait: Wait,
    },
    /// This node takes groups from the others, once.
    Takeover {
        /// All, those that prefer this node, or those that prefer another one.
        #[arg(value_enum, default_value = "all")]
        which: WhichGroups,
        #[command(flatten)]
        wait: Wait,
    },
    /// Not possible yet: makes sure that a node is off.
    Fence {
        /// The node.
        node: NodeName,
    },
    /// Not possible yet: leaves groups alone, whatever happens.
    Maintenance {
        /// Whether it begins or ends.
        #[arg(value_enum)]
        switch: Switch,
        /// The group; default: all.
        group: Option<GroupName>,
    },
    /// Have the daemon take its changed configuration over, without a failover.
    Reload,
    /// Have the daemon replace itself by the program that is in its place now, without a failover.
    Reexec,
    /// Have the daemon end and leave everything running, for one that is started right afterwards.
    Detach,
    /// Configuration files; needs no daemon.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Makes links named cl_status, hb_standby and hb_takeover to this program.
    InstallNames {
        /// Where to.
        directory: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the TOML that says the same as a directory with ha.cf, haresources and authkeys.
    Convert {
        /// The directory, or the ha.cf in it.
        path: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, Args)]
struct Wait {
    /// Return when it is carried out, or after 60 s.
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum WhichGroups {
    All,
    Local,
    Foreign,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Switch {
    On,
    Off,
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
    #[error("not done within {} s: {}; hactl events tells why", WAIT_MAX.as_secs(), .0.join(", "))]
    NotDone(Vec<String>),
    #[error("{what} is not possible yet: {why}")]
    NotYet { what: &'static str, why: &'static str },
    #[error("cannot make {}: {cause}; remove what is there, or choose another directory", path.display())]
    Link { path: PathBuf, cause: io::Error },
    #[error("cannot print: {0}; see that there is room where the output goes")]
    Output(io::Error),
    #[error("{0}")]
    HandOver(String),
    #[error("cannot start: {0}; see that there is memory and a free file descriptor")]
    Start(io::Error),
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error(
        "the daemon at {} ended the stream: it stopped, or this reader was too slow; \
         go on with --since {last_id}, or with --since 0 if it has started again", socket.display()
    )]
    Ended { socket: PathBuf, last_id: u64 },
}

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    if let Some(program) = words.next().and_then(|name| Program::called(&name)) {
        return heartbeat(program, words);
    }
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
                | Failure::Config(_)
                | Failure::NotDone(_)
                | Failure::NotYet { .. }
                | Failure::Link { .. }
                | Failure::HandOver(_)
                | Failure::Output(_)
                | Failure::Start(_) => EXIT_REFUSED,
            }
        }
    };
    ExitCode::from(code)
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let client = Client::new(socket_path(arguments.socket.clone()));
    runtime()?.block_on(async {
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
                // The array of `--json` has no place for threads.
                let path = if output.json { "/v1/links" } else { "/v1/status" };
                show(&client, path, output, |status: Snapshot| arrivals::links(&status)).await
            }
            Command::Groups(output) => {
                show(&client, "/v1/groups", output, |groups: Vec<GroupStatus>| {
                    render::groups(&groups)
                })
                .await
            }
            Command::Metrics => print(&[&client.get("/v1/metrics").await?]),
            Command::Reload => hand_over(&client, "/v1/reload").await,
            Command::Reexec => hand_over(&client, "/v1/reexec").await,
            Command::Detach => detach(&client).await,
            Command::Events(events) if events.follow => follow(&client, events).await,
            Command::Events(events) => {
                show(&client, &events.path(), &events.output, |events: Vec<Event>| {
                    render::events(&events)
                })
                .await
            }
            Command::Fence { .. } => {
                Err(Failure::NotYet { what: "fence", why: "this version drives no fence devices" })
            }
            Command::Maintenance { .. } => Err(Failure::NotYet {
                what: "maintenance",
                why: "this version knows only standby (of a node) and disable (of a group)",
            }),
            Command::InstallNames { directory } => install_names(directory),
            Command::Config(ConfigCommand::Convert { path }) => print(&[convert(path)?.as_bytes()]),
            command @ (Command::Relocate { .. }
            | Command::Enable { .. }
            | Command::Disable { .. }
            | Command::Standby { .. }
            | Command::Online { .. }
            | Command::Takeover { .. }) => give(&client, command).await,
        }
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Start)
}

/// Is one of Heartbeat's programs.
fn heartbeat(program: Program, words: std::env::ArgsOs) -> ExitCode {
    let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let printed = match runtime() {
        Ok(runtime) => runtime.block_on(program.run(&Client::new(socket_path(None)), &words)),
        Err(failure) => Printed { stderr: format!("{failure}\n"), code: 1, ..Printed::default() },
    };
    // Whoever closed a stream does not want what is on it; the exit status still tells.
    let _ = io::stderr().write_all(printed.stderr.as_bytes());
    let _ = io::stdout().write_all(printed.stdout.as_bytes());
    ExitCode::from(printed.code)
}

fn install_names(directory: &Path) -> Result<(), Failure> {
    for program in Program::ALL {
        let path = directory.join(program.name());
        let made = std::env::current_exe().and_then(|own| std::os::unix::fs::symlink(own, &path));
        made.map_err(|cause| Failure::Link { path, cause })?;
    }
    Ok(())
}

/// The command as it travels, and whether to wait; `None` for those that only show something.
fn request(command: &Command) -> Option<(CommandRequest, Wait)> {
    Some(match command {
        Command::Relocate { group, node, wait } => {
            (CommandRequest::Relocate { group: group.clone(), node: node.clone() }, *wait)
        }
        Command::Enable { group, wait } => (CommandRequest::Enable { group: group.clone() }, *wait),
        Command::Disable { group, wait } => {
            (CommandRequest::Disable { group: group.clone() }, *wait)
        }
        Command::Standby { node, wait } => (CommandRequest::Standby { node: node.clone() }, *wait),
        Command::Online { node, wait } => (CommandRequest::Online { node: node.clone() }, *wait),
        Command::Takeover { which, wait } => {
            let which = match which {
                WhichGroups::All => Which::All,
                WhichGroups::Local => Which::Local,
                WhichGroups::Foreign => Which::Foreign,
            };
            (CommandRequest::TakeOver { which }, *wait)
        }
        Command::Status(_)
        | Command::Nodes(_)
        | Command::Links(_)
        | Command::Groups(_)
        | Command::Events(_)
        | Command::Metrics
        | Command::Fence { .. }
        | Command::Maintenance { .. }
        | Command::Config(_)
        | Command::Reload
        | Command::Reexec
        | Command::Detach
        | Command::InstallNames { .. } => return None,
    })
}

async fn give(client: &Client, command: &Command) -> Result<(), Failure> {
    let Some((request, Wait { wait })) = request(command) else { return Ok(()) };
    let accepted = client.command(&request).await?;
    print(&[accepted.message.as_bytes(), b"\n"])?;
    if wait {
        let missing = until_done(client, &accepted.expected, WAIT_MAX).await?;
        if !missing.is_empty() {
            return Err(Failure::NotDone(missing));
        }
    }
    Ok(())
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

/// Where the daemon is asked to end and to leave everything in place.
const DETACH: &str = "/v1/detach";

/// Has the daemon hand over to its next program, and waits until that says so.
async fn hand_over(client: &Client, asked: &str) -> Result<(), Failure> {
    let answer = client.post(asked, CHECK_TIME_MAX).await?;
    let begins: HandOverBegins =
        serde_json::from_slice(&answer).map_err(|error| client.not_understood(&error))?;
    let mut last_id = begins.last_event;
    let ended = async {
        loop {
            let path = format!("/v1/events?follow=true&since={last_id}");
            let mut lines = match client.follow(&path).await {
                Ok(lines) => lines,
                // The daemon that was to end has ended.
                Err(ClientError::Unreachable { .. }) if asked == DETACH => return Ok(None),
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
                if matches!(
                    event.kind.as_str(),
                    "reloaded" | "reexecuted" | "detached" | "reload-failed"
                ) {
                    return Ok(Some(event));
                }
            }
        }
    };
    let event = tokio::time::timeout(HAND_OVER_TIME_MAX, ended).await.unwrap_or_else(|_| {
        let cause = format!("no word of its end within {} s", HAND_OVER_TIME_MAX.as_secs());
        Err(client.no_answer(cause, "look for its events: hactl events"))
    })?;
    let Some(event) = event else { return Ok(()) };
    if event.kind == "reload-failed" {
        return Err(Failure::HandOver(event.message));
    }
    print(&[event.message.as_bytes(), b"\n"])
}

/// Has the daemon end and leave everything in place, and waits until its process is gone.
async fn detach(client: &Client) -> Result<(), Failure> {
    let answer = client.get("/v1/status").await?;
    let status: Snapshot =
        serde_json::from_slice(&answer).map_err(|error| client.not_understood(&error))?;
    hand_over(client, DETACH).await?;
    // One that has ended and is not waited for has none.
    let program = PathBuf::from(format!("/proc/{}/exe", status.pid));
    let gone = async {
        while std::fs::read_link(&program).is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = tokio::time::timeout(CHECK_TIME_MAX, gone).await;
    waited.map_err(|_| Failure::HandOver(format!("process {} does not end", status.pid)))
}

fn print(pieces: &[&[u8]]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let mut write = || {
        pieces.iter().try_for_each(|piece| stdout.write_all(piece))?;
        stdout.flush()
    };
    write().map_err(Failure::Output)
}
