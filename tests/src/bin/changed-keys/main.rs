//! The daemon as it is after a reload of its key file: `ha-daemon run` with the keys of the file that
//! `HA_KEYS_BEFORE` names before those of its own. For the tests of a change of keys alone: it starts
//! in the middle of one.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use ha_daemon::config::{authkeys, check, load};
use ha_daemon::daemon::handover::ask::Source;
use ha_daemon::daemon::{self, Options};
use ha_daemon::io::keeper::{Post, keeper_main};
use ha_daemon::names::NodeName;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// As in `ha-daemon`.
#[derive(Subcommand)]
enum Command {
    Run {
        #[arg(long)]
        config: PathBuf,
        #[arg(long)]
        node: String,
        #[arg(long)]
        run_dir: PathBuf,
        #[arg(long)]
        bpffs: PathBuf,
    },
    Keeper {
        node: NodeName,
        #[arg(long)]
        fd: i32,
        #[arg(long)]
        lease_fd: i32,
        #[arg(long)]
        meeting: Option<PathBuf>,
        #[arg(long)]
        priority: Option<u8>,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Run { config, node, run_dir, bpffs } => {
            tracing_subscriber::fmt().with_writer(std::io::stderr).init();
            let before = std::env::var_os("HA_KEYS_BEFORE").context("HA_KEYS_BEFORE is not set")?;
            let before = authkeys::load(before.as_ref())?;
            let mut config = load(&config)?;
            config.keys = config.keys.after(&before);
            let own = check::own_node(&config, Some(&node));
            let own = own.map_err(|finding| anyhow::anyhow!("{finding}"))?;
            let source = Source::default();
            let (run_directory, bpf_directory) = (run_dir, bpffs);
            let options = Options { run_directory, bpf_directory, kernel_log: 0, source };
            daemon::run(config, own, &options, None)
        }
        Command::Keeper { node, fd, lease_fd, meeting, priority } => {
            let post = Post { socket: fd, lease: lease_fd, meeting, node, priority };
            Ok(keeper_main(post)?)
        }
    }
}
