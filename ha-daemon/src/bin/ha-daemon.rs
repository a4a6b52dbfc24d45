//! The daemon's program: `run`, `check`, and the hidden `keeper`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use ha_daemon::config::{self, check};
use ha_daemon::daemon::{self, BPF_DIRECTORY, Options, RUN_DIRECTORY};
use ha_daemon::logging::Logger;
use ha_daemon::names::NodeName;

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
    },
    /// Find what is wrong with a configuration; exit 0 clean, 1 warnings, 2 errors
    Check {
        /// Configuration file, or a directory with Heartbeat's ha.cf, haresources and authkeys
        #[arg(long, default_value = "/etc/ha/ha.toml")]
        config: PathBuf,
        /// Which node this is, instead of `uname -n`
        #[arg(long)]
        node: Option<String>,
    },
    /// Outlives the daemon and removes its addresses; started by it
    #[command(hide = true)]
    Keeper {
        /// The node
        node: NodeName,
        /// Inherited descriptor of the socket to the daemon
        #[arg(long)]
        fd: i32,
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
        Command::Run { config, node, run_dir, bpffs, kernel_log } => {
            let options = Options {
                run_directory: run_dir,
                bpf_directory: bpffs,
                kernel_log: kernel_log as u8,
            };
            exit(run(&config, node.as_deref(), &options))
        }
        Command::Check { config, node } => {
            let findings = check::check_on_node(&config, node.as_deref());
            for finding in &findings {
                println!("{finding}");
            }
            ExitCode::from(check::exit_code(&findings))
        }
        Command::Keeper { node, fd, priority } => {
            exit(ha_daemon::io::keeper::keeper_main(fd, &node, priority))
        }
    }
}

fn exit(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ha-daemon: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(path: &std::path::Path, node: Option<&str>, options: &Options) -> Result<()> {
    let (config, warnings) = config::load_with_warnings(path)?;
    // What is queued is written when it is dropped, after the daemon's last word.
    let _logger = Logger::start(&config.logging);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let own =
        check::own_node_at(path, &config, node).map_err(|finding| anyhow::anyhow!("{finding}"))?;
    for warning in check::check_local(&config, own) {
        tracing::warn!("{warning}");
    }
    daemon::run(config, own, options)
}
