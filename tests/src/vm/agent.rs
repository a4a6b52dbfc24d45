//! The shell at the guest's second serial port: a command per line, what it prints, its exit code.
//!
//! The guest's side is the loop at the end of [`super::image`]'s init script.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::lines::Lines;

/// Begins the line that ends an answer: number of the command, exit code.
pub(super) const MARK: &str = "@@";

/// A connection to the guest's shell.
#[derive(Debug)]
pub struct Agent {
    lines: Lines,
    number: u64,
}

impl Agent {
    pub(super) fn connect(path: &Path, time_max: Duration) -> Result<Self> {
        Ok(Self { lines: Lines::connect(path, time_max)?, number: 0 })
    }

    /// Waits until the guest has started.
    pub(super) fn wait_started(&mut self, time_max: Duration) -> Result<()> {
        self.finish(time_max).map(drop)
    }

    /// Runs `command` in the guest's shell and gives what it printed.
    ///
    /// # Errors
    /// It fails, or does not end in time.
    pub fn run(&mut self, command: &str, time_max: Duration) -> Result<String> {
        self.begin(command)?;
        let (code, printed) =
            self.finish(time_max).with_context(|| format!("in the guest: {command}"))?;
        ensure!(code == 0, "in the guest: {command}: exits {code}: {printed}");
        Ok(printed)
    }

    /// Begins a command, which [`Agent::finish`] waits for.
    ///
    /// # Errors
    /// The machine is gone.
    pub fn begin(&mut self, command: &str) -> Result<()> {
        self.number += 1;
        self.lines.send(&format!("{} {command}", self.number))
    }

    /// Waits for the end of the command that was begun last: its exit code and what it printed.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn finish(&mut self, time_max: Duration) -> Result<(i32, String)> {
        let deadline = Instant::now() + time_max;
        let mut printed = Vec::new();
        loop {
            let line = self.lines.next(deadline)?;
            let line = line.with_context(|| {
                format!("it did not end within {time_max:?}; printed: {}", printed.join("\n"))
            })?;
            match ended(&line) {
                Some((number, code)) if number == self.number => {
                    return Ok((code, printed.join("\n").trim_end().to_owned()));
                }
                // What is left of a command that nobody waited for.
                Some(_) => printed.clear(),
                None => printed.push(line),
            }
        }
    }
}

fn ended(line: &str) -> Option<(u64, i32)> {
    let (number, code) = line.strip_prefix(MARK)?.split_once(' ')?;
    Some((number.parse().ok()?, code.parse().ok()?))
}
