//! QEMU's monitor (QEMU Machine Protocol): one JSON object per line, answers in order, events between
//! them.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::lines::Lines;
use crate::clock::realtime_to_monotonic_ns;

/// How long QEMU may take to answer: it is an ordinary process of a busy machine.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
/// Events that nobody waited for.
const EVENTS_MAX: usize = 256;

/// A connection to the monitor of one QEMU.
#[derive(Debug)]
pub struct Qmp {
    lines: Lines,
    events: VecDeque<(String, u64, Value)>,
}

impl Qmp {
    /// Connects as soon as QEMU listens.
    ///
    /// # Errors
    /// It does not in time, or is no QEMU.
    pub(super) fn connect(path: &Path, time_max: Duration) -> Result<Self> {
        let mut qmp = Self { lines: Lines::connect(path, time_max)?, events: VecDeque::new() };
        let greeting = qmp.message(Instant::now() + time_max)?;
        greeting.filter(|it| it.get("QMP").is_some()).context("QEMU does not greet")?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Executes a command and gives what it returns.
    ///
    /// # Errors
    /// What QEMU says; or it does not answer.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.lines.send(&request.to_string())?;
        let deadline = Instant::now() + ANSWER_TIME_MAX;
        loop {
            let message = self.message(deadline)?;
            let message = message.with_context(|| format!("no answer to {command}"))?;
            if let Some(error) = message.get("error") {
                bail!("{command}: {}", error["desc"].as_str().unwrap_or("refused"));
            }
            if let Some(answer) = message.get("return") {
                return Ok(answer.clone());
            }
        }
    }

    /// Waits for an event of that name; those before it are forgotten. Gives when it happened,
    /// `CLOCK_MONOTONIC` nanoseconds, and its data.
    ///
    /// # Errors
    /// It did not come in time.
    pub fn wait_event(&mut self, name: &str, time_max: Duration) -> Result<(u64, Value)> {
        let deadline = Instant::now() + time_max;
        loop {
            while let Some((found, at_ns, data)) = self.events.pop_front() {
                if found == name {
                    return Ok((at_ns, data));
                }
            }
            self.message(deadline)?
                .with_context(|| format!("no event {name} within {time_max:?}"))?;
        }
    }

    /// The next message; an event is kept as well.
    fn message(&mut self, deadline: Instant) -> Result<Option<Value>> {
        let Some(line) = self.lines.next(deadline)? else { return Ok(None) };
        let message: Value =
            serde_json::from_str(&line).with_context(|| format!("QEMU said {line}"))?;
        if let Some(name) = message["event"].as_str() {
            if self.events.len() == EVENTS_MAX {
                self.events.pop_front();
            }
            let data = message["data"].clone();
            self.events.push_back((name.to_owned(), stamp_ns(&message["timestamp"]), data));
        }
        Ok(Some(message))
    }
}

/// Seconds and microseconds of the host's `CLOCK_REALTIME`.
fn stamp_ns(timestamp: &Value) -> u64 {
    let part = |name: &str| timestamp[name].as_u64().unwrap_or(0);
    realtime_to_monotonic_ns(part("seconds") * 1_000_000_000 + part("microseconds") * 1_000)
}
