//! The tasks that run programs of the workspace: demo, bench and tests.

use std::num::NonZero;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::needs;
use crate::process::{is_root, output, run, workspace};
use crate::vm;

/// How many tests of a program the harness runs at once.
const THREADS: &str = "RUST_TEST_THREADS";
/// By itself it runs one per CPU; but scenarios wait for two thirds of their time.
const TESTS_PER_CPU: usize = 2;

/// Builds everything optimised and runs a program of the test bed.
///
/// # Errors
/// The build or the program failed.
pub fn program(name: &str, options: &[String]) -> Result<()> {
    if !is_root() {
        bail!("{name} needs root: it makes network namespaces. Run `sudo -E cargo xtask {name}`");
    }
    needs::provide()?;
    let mut build = cargo();
    run(build.args([
        "build",
        "--release",
        "--locked",
        "--quiet",
        "-p",
        "ha-daemon",
        "-p",
        "ha-tests",
    ]))?;
    let programs = workspace().join("target/release");
    run(Command::new(programs.join(name)).args(options).env("HA_BIN_DIR", &programs))
}

/// Runs all tests; those that need root only as root, and says what it left out.
///
/// # Errors
/// A test failed.
pub fn tests(options: &[String]) -> Result<()> {
    let root = is_root();
    if root {
        needs::provide_for_tests()?;
    }
    // The programs that the tests start; `cargo test` builds them for the package's own tests only.
    run(cargo().args(["build", "--locked", "--quiet", "-p", "ha-daemon"]))?;
    let mut test = cargo();
    test.args(["test", "--workspace", "--locked", "--no-fail-fast"]).args(options);
    test.env("HA_BIN_DIR", workspace().join("target/debug"));
    if std::env::var_os(THREADS).is_none() {
        let cpus = std::thread::available_parallelism().map_or(1, NonZero::get);
        test.env(THREADS, (cpus * TESTS_PER_CPU).to_string());
    }
    if !options.iter().any(|option| option == "--") {
        test.arg("--");
    }
    if root {
        test.arg("--include-ignored");
    }
    if options.is_empty() {
        let simulations = Simulations::start()?;
        let others = run(test.args(["--skip", SIMULATIONS]));
        let simulations = simulations.wait();
        if let (Err(error), Err(_)) = (&others, &simulations) {
            println!("\n{error:#}");
        }
        simulations.and(others)?;
    } else {
        run(&mut test)?;
    }
    if root {
        if std::env::var_os(vm::IMAGE).is_none() {
            println!(
                "\nNOT TESTED: nodes in virtual machines. `sudo -E cargo xtask vm` tries them."
            );
        }
        return Ok(());
    }
    let listed = output(cargo().args([
        "test",
        "--workspace",
        "--locked",
        "--quiet",
        "--",
        "--list",
        "--ignored",
    ]))?;
    let left_out = listed.lines().filter(|line| line.ends_with(": test")).count();
    println!(
        "\n{left_out} tests were left out: they need root (real XDP in network namespaces). \
         `sudo -E cargo xtask test` runs them."
    );
    Ok(())
}

/// Where the tests of the core are: minutes of computing by a clock of their own.
const SIMULATIONS: &str = "core::tests::";

/// Simulations run while the other tests wait, and never when those do not.
struct Simulations(Child);

impl Simulations {
    /// Builds all tests, and starts these where nobody else wants the CPU (`SCHED_IDLE`, sched(7)).
    fn start() -> Result<Self> {
        run(cargo().args(["test", "--workspace", "--locked", "--no-run"]))?;
        let mut command = Command::new("chrt");
        command.args(["--idle", "0", "cargo", "test", "--locked", "--quiet"]);
        // With the features of what was just built.
        command.args(["--workspace", "--lib", "--", SIMULATIONS]);
        let command =
            command.current_dir(workspace()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Self(command.spawn().context("cannot run chrt (util-linux)")?))
    }

    /// What they said is said when they have ended, and all at once.
    fn wait(self) -> Result<()> {
        let ended = self.0.wait_with_output().context("cannot wait for the simulations")?;
        println!("\nSimulations ({SIMULATIONS}, beside the other tests):");
        print!("{}", String::from_utf8_lossy(&ended.stdout));
        eprint!("{}", String::from_utf8_lossy(&ended.stderr));
        ensure!(ended.status.success(), "simulations failed: {}", ended.status);
        Ok(())
    }
}

fn cargo() -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(workspace());
    cargo
}
