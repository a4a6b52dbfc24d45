//! The daemon's program: `run`, `check`, and the hidden `keeper`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum};
use ha_daemon::config::check::Finding;
use ha_daemon::config::{self, check};
use ha_daemon::control::client::Client;
use ha_daemon::control::{arrivals, socket_path};
use ha_daemon::daemon::handover::Handed;
use ha_daemon::daemon::handover::ask::{Source, answer_trial};
use ha_daemon::daemon::{self, BPF_DIRECTORY, Options, RUN_DIRECTORY};
use ha_daemon::io::keeper::{Post, keeper_main};
use ha_daemon::logging::{self, Logger};
use ha_daemon::names::NodeName;
use ha_daemon::snapshot::Snapshot;

/// Failover daemon: watches the other nodes, moves addresses and services when one dies.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run this node until SIGTERM, which makes it leave cleanly
    Run {
        /// Configuration file, or a directory with Heartbeat's ha.cf, haresources and authkeys
        #[arg(long, default_value = "/etc/ha/ha.toml")]
        config: PathBuf,
        /// Which node this is, instead of `uname -n`
        #[arg(long)]
        node: Option<String>,
        /// Directory of the control socket and the lock
        #[arg(long, default_value = RUN_DIRECTORY)]
        run_dir: PathBuf,
        /// Directory, on a bpf file system, where maps and programs are pinned
        #[arg(long, default_value = BPF_DIRECTORY)]
        bpffs: PathBuf,
        /// Log lines of the kernel side, with the daemon's own
        #[arg(long, value_enum, default_value = "off")]
        kernel_log: KernelLog,
        /// Inherited descriptor of what the program before handed over
        #[arg(long, hide = true)]
        hand_over: Option<i32>,
    },
    /// Say whether this program could take over from a running one of another version
    #[command(hide = true)]
    TryHandOver {
        /// Version of what would be handed over
        #[arg(long)]
        format: u32,
        /// Configuration file
        #[arg(long)]
        config: PathBuf,
        /// Which node this is
        #[arg(long)]
        node: Option<String>,
    },
    /// Find what is wrong with a configuration; exit 0 clean, 1 warnings, 2 errors
    Check {
        /// Configuration file, or a directory with Heartbeat's ha.cf, haresources and authkeys
        #[arg(long, default_value = "/etc/ha/ha.toml")]
        config: PathBuf,
        /// Which node this is, instead of `uname -n`
        #[arg(long)]
        node: Option<String>,
        /// Ask the running daemon instead whether its times fit what it sees, and whether its threads
        /// get the time that they need
        #[arg(long, conflicts_with_all = ["config", "node"])]
        live: bool,
        /// Control socket of that daemon, instead of what the environment variable HA_SOCKET says,
        /// else /run/ha/control.sock
        #[arg(long, requires = "live")]
        socket: Option<PathBuf>,
    },
    /// Outlives the daemon and removes its addresses; started by it
    #[command(hide = true)]
    Keeper {
        /// The node
        node: NodeName,
        /// Inherited descriptor of the socket to the daemon
        #[arg(long)]
        fd: i32,
        /// Inherited descriptor of the lease's memory
        #[arg(long)]
        lease_fd: i32,
        /// Where the next daemon finds it
        #[arg(long)]
        meeting: Option<PathBuf>,
        /// Real-time priority
        #[arg(long)]
        priority: Option<u8>,
    },
}

/// Levels of aya-log.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum KernelLog {
    Off = 0,
    Error = 1,
    Warn = 2,
    Info = 3,
    Debug = 4,
    Trace = 5,
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run { config, node, run_dir, bpffs, kernel_log, hand_over } => {
            let options = Options {
                source: Source { config, node },
                run_directory: run_dir,
                bpf_directory: bpffs,
                kernel_log: kernel_log as u8,
            };
            exit(run(&options, hand_over))
        }
        Command::Check { config, node, live, socket } => {
            let (findings, note) = if live {
                check_live(&socket_path(socket))
            } else {
                (check::check_on_node(&config, node.as_deref()), None)
            };
            for finding in &findings {
                println!("{finding}");
            }
            if let Some(note) = note {
                println!("{note}");
            }
            ExitCode::from(check::exit_code(&findings))
        }
        Command::TryHandOver { format, config, node } => {
            exit(answer_trial(format, &Source { config, node }).map(|word| print!("{word}")))
        }
        Command::Keeper { node, fd, lease_fd, meeting, priority } => {
            let post = Post { socket: fd, lease: lease_fd, meeting, node, priority };
            exit(keeper_main(post))
        }
    }
}

/// What it finds, and what it cannot say yet.
fn check_live(socket: &Path) -> (Vec<Finding>, Option<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let snapshot = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
        let answer = runtime.block_on(Client::new(socket).get_as::<Snapshot>("/v1/status"));
        answer.map_err(|error| error.to_string())
    });
    match snapshot {
        Ok(snapshot) => (arrivals::findings(&snapshot), arrivals::too_early(&snapshot)),
        Err(error) => {
            let remedy = "--live asks a running daemon; --socket says which one";
            (vec![Finding::error(error, remedy)], None)
        }
    }
}

fn exit(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logging::say(&format!("ha-daemon: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options, hand_over: Option<i32>) -> Result<()> {
    let handed = hand_over
        .map(Handed::receive)
        .transpose()
        .context("nothing can go on from the program before; its keeper takes the addresses off")?;
    let source = &options.source;
    let (config, warnings) = config::load_with_warnings(&source.config).with_context(|| {
        if handed.is_some() {
            "the configuration was good when it was checked and is not any more: this node leaves, \
             and its keeper takes the addresses off"
        } else {
            "cannot start"
        }
    })?;
    // What is queued is written when it is dropped, after the daemon's last word.
    let dropped = handed.as_ref().map_or(0, |it| it.image.log_lines_dropped);
    let _logger =
        Logger::start(&config.logging, dropped).context("no thread for the log is left")?;
    logging::take_panics();
    let own = check::own_node_at(&source.config, &config, source.node.as_deref())
        .map_err(|finding| anyhow::anyhow!("{finding}"))?;
    // What was checked before the hand-over was warned of then.
    if handed.is_none() {
        let local = check::check_local(&config, own);
        for warning in warnings.iter().chain(&local) {
            tracing::warn!("{warning}");
        }
    }
    daemon::run(config, own, options, handed)
}
