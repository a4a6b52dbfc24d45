//! `cargo xtask`: the only entry points that a contributor needs.

mod build_ebpf;
mod fuzz;
mod needs;
mod process;
mod run;
mod vm;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, try, test and measure the failover daemon")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Compile the kernel side and store the object that the daemon embeds
    BuildEbpf {
        /// Store nothing; fail when a rebuild differs from the stored object
        #[arg(long)]
        check: bool,
    },
    /// Show the main job: a cluster in network namespaces whose owner is stopped, killed, cut off
    Demo {
        /// Options of the demo itself (`--help` lists them)
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Run every test; as root also those that need network namespaces
    Test {
        /// Options for `cargo test`, such as the name of a test
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Measure: `detect`, `failover`, `ladder`, `stops`, `xdp` and more
    Bench {
        /// Which benchmark, and its options (`--help` lists them)
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Feed what reads files and packets with inputs that libFuzzer makes
    Fuzz {
        /// Inputs for each target
        #[arg(long, default_value_t = 1_000_000)]
        runs: u64,
        /// End each target after so many seconds, if its inputs are not over; 0 = never
        #[arg(long, default_value_t = 0)]
        seconds: u64,
        /// Which targets; all unless named
        targets: Vec<String>,
    },
    /// Suspend, pause and migrate a node in a virtual machine (emulated; about eight minutes)
    Vm {
        /// Debian's package of the guest's kernel
        #[arg(long, default_value = vm::KERNEL)]
        kernel: String,
        /// Parts of the names of the trials; all unless named
        names: Vec<String>,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::BuildEbpf { check } => build_ebpf::build(check),
        Task::Demo { options } => run::program("demo", &options),
        Task::Bench { options } => run::program("bench", &options),
        Task::Test { options } => run::tests(&options),
        Task::Vm { kernel, names } => vm::trials(&kernel, &names),
        Task::Fuzz { runs, seconds, targets } => {
            fuzz::fuzz(&targets, fuzz::Effort { runs, seconds })
        }
    }
}
