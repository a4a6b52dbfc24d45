//! The daemon's program.

use std::os::fd::RawFd;

use clap::{Parser, Subcommand};
use ha_daemon::io::keeper::keeper_main;
use ha_daemon::names::NodeName;

#[derive(Parser)]
#[command(name = "ha-daemon")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Removes the node's addresses when the daemon dies; the daemon starts it.
    #[command(hide = true)]
    Keeper {
        /// The node, as a label.
        node: NodeName,
        /// The inherited socket to the daemon.
        #[arg(long)]
        fd: RawFd,
        /// SCHED_FIFO priority.
        #[arg(long, value_parser = clap::value_parser!(u8).range(1..=99))]
        priority: Option<u8>,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Keeper { node, fd, priority } => keeper_main(fd, &node, priority),
    }
}
