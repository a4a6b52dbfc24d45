//! The tasks that run programs of the workspace: demo, bench and tests.

use std::num::NonZero;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::needs;
use crate::process::{is_root, output, run, workspace};
use crate::vm;

/// Where tests and the bench find the programs that they start.
const PROGRAMS: &str = "HA_BIN_DIR";
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
    run(Command::new(programs.join(name)).args(options).env(PROGRAMS, &programs))
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
    test.env(PROGRAMS, workspace().join("target/debug"));
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
        run(cargo().args(["test", "--workspace", "--locked", "--no-run"]))?;
        let beside = if root {
            vec![Beside::simulations()?, Beside::patient()?]
        } else {
            vec![Beside::simulations()?]
        };
        let mut ended = vec![run(test.args(["--skip", SIMULATIONS, "--skip", PATIENT]))];
        ended.extend(beside.into_iter().map(Beside::wait));
        let failed: Vec<_> = ended.into_iter().filter_map(Result::err).collect();
        ensure!(
            failed.is_empty(),
            "{}",
            failed.iter().map(|it| format!("{it:#}")).collect::<Vec<_>>().join("\n")
        );
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
/// How those of `tests/auto.rs` begin: a minute of heartbeats goes by before anything can be said.
const PATIENT: &str = "it_follows_what_arrives";

/// Tests that run while the others do, and say all at once what they have to say.
struct Beside {
    what: &'static str,
    child: Child,
}

impl Beside {
    /// Where nobody else wants the CPU (`SCHED_IDLE`, sched(7)).
    fn simulations() -> Result<Self> {
        let mut command = Command::new("chrt");
        command.args(["--idle", "0", "cargo", "test", "--locked", "--quiet"]);
        // With the features of what was just built.
        command.args(["--workspace", "--lib", "--", SIMULATIONS]);
        Self::start(SIMULATIONS, &mut command).context("cannot run chrt (util-linux)")
    }

    fn patient() -> Result<Self> {
        let mut command = Command::new("cargo");
        command.args(["test", "--locked", "--quiet", "--workspace", "--test", "auto"]);
        command.args(["--", "--include-ignored", PATIENT]);
        command.env(PROGRAMS, workspace().join("target/debug"));
        Self::start(PATIENT, &mut command)
    }

    fn start(what: &'static str, command: &mut Command) -> Result<Self> {
        let command =
            command.current_dir(workspace()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Self { what, child: command.spawn().context("cannot start tests")? })
    }

    fn wait(self) -> Result<()> {
        let ended = self.child.wait_with_output().context("cannot wait for tests")?;
        println!("\n{}, beside the other tests:", self.what);
        print!("{}", String::from_utf8_lossy(&ended.stdout));
        eprint!("{}", String::from_utf8_lossy(&ended.stderr));
        ensure!(ended.status.success(), "{} failed: {}", self.what, ended.status);
        Ok(())
    }
}

fn cargo() -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(workspace());
    cargo
}
