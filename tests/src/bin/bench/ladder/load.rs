//! Loads: started for one step, bounded in time by themselves too, ended by the ids of their processes.
//!
//! Their programs run in a namespace of our bed, so that whatever removes the bed (an interrupt, the
//! next start after a crash) ends them as well.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use ha_tests::bed::{MemoryGroup, Netns};
use ha_tests::flood::{Flood, FloodPlan};
use ha_tests::observe::urgently;
use ha_tests::rogue::{Frame, Network, Rogue};

use super::step::{MEMORY_LIMIT_BYTES, SPINNER_PRIORITY, Step};
use crate::pair::Pair;

/// Name of the host in which loads run; it has no cable.
const HOST: &str = "load";
/// A load that nobody ends does so this long after its time.
const OVERTIME: Duration = Duration::from_secs(10);
/// Above the spinners: interrupts ask nobody either.
const FLOOD_PRIORITY: u8 = SPINNER_PRIORITY + 1;

/// Where and with what loads are made.
pub(super) struct Loads {
    netns: Arc<Netns>,
    directory: PathBuf,
    program: Option<PathBuf>,
    cpus: usize,
    pub(super) flood_rate: u64,
}

/// What a flood sends on each network.
pub(super) type Frames = Vec<(Network, Vec<Frame>)>;

/// Whom a load is for.
pub(super) struct Target<'a> {
    /// Its bed's memory control group holds them in the memory step.
    pub(super) pids: Vec<i32>,
    /// Who floods it with what.
    pub(super) flood: Option<(&'a Arc<Rogue>, Frames)>,
}

/// A load under way. Dropping it ends it.
pub(super) struct Load {
    netns: Arc<Netns>,
    children: Vec<Child>,
    flood: Option<Flood>,
    group: Option<MemoryGroup>,
    /// What its programs print.
    log: PathBuf,
    finished: bool,
}

/// What a load came to.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) frames: u64,
    /// What went wrong with it.
    pub(super) remarks: Vec<String>,
}

impl Outcome {
    /// All of it in words; the load ran for `length`.
    pub(super) fn remarks_of(self, length: Duration) -> Vec<String> {
        let mut remarks = self.remarks;
        if self.frames > 0 {
            let per_second = self.frames as f64 / length.as_secs_f64();
            remarks.push(format!("the flood came to {per_second:.0} frames/s"));
        }
        remarks
    }
}

impl Loads {
    /// Prepares the host. `program` is `stress-ng`, if there is one.
    pub(super) fn new(pair: &mut Pair, program: Option<PathBuf>, flood_rate: u64) -> Result<Self> {
        let bed = &mut pair.cluster.bed;
        let directory = bed.directory().join("load");
        fs::create_dir_all(&directory)?;
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self { netns: bed.host(HOST)?, directory, program, cpus, flood_rate })
    }

    /// Begins a step for so long. `pair` is the one whose bed the loads live in.
    pub(super) fn start(
        &self,
        step: Step,
        length: Duration,
        pair: &Pair,
        target: &Target<'_>,
    ) -> Result<Load> {
        let mut load = Load {
            netns: Arc::clone(&self.netns),
            children: Vec::new(),
            flood: None,
            group: None,
            log: self.directory.join("log"),
            finished: false,
        };
        if step.has(Step::Memory) {
            let group = MemoryGroup::create(&pair.cluster.bed, MEMORY_LIMIT_BYTES)?;
            group.adopt(&target.pids)?;
            load.group = Some(group);
        }
        let seconds = (length + OVERTIME).as_secs();
        for program in step.programs(self.cpus, &self.directory) {
            let path = self.program.as_ref().context("there is no stress-ng")?;
            let log = File::options().create(true).append(true).open(&load.log)?;
            // The shell enters the control group before the program allocates anything.
            let enter = match &load.group {
                Some(group) if program.limited => {
                    format!("echo $$ > {}; ", group.procs_path().display())
                }
                _ => String::new(),
            };
            let mut command: Command = self.netns.command("sh")?;
            command
                .args(["-c", &format!("{enter}exec \"$@\""), "sh"])
                .arg(path)
                .args(&program.arguments)
                .args(["--quiet", "--timeout", &seconds.to_string()])
                .current_dir(&self.directory)
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log);
            load.children.push(command.spawn().context("cannot start stress-ng")?);
        }
        if let Some((rogue, frames)) = &target.flood
            && step.has(Step::Flood)
        {
            let plan = FloodPlan {
                frames: frames.clone(),
                frames_per_second: self.flood_rate,
                priority: FLOOD_PRIORITY,
            };
            load.flood = Some(Flood::start(Arc::clone(rogue), plan)?);
        }
        Ok(load)
    }
}

impl Load {
    /// Ends it and says what it came to.
    pub(super) fn stop(mut self) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        for child in &mut self.children {
            if let Some(status) = child.try_wait()? {
                let said = log_tail(&self.log);
                outcome.remarks.push(format!("a load ended before its time with {status}: {said}"));
            }
        }
        outcome.frames = self.flood.as_ref().map_or(0, Flood::sent);
        self.end()?;
        Ok(outcome)
    }

    fn end(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.finished, true) {
            return Ok(());
        }
        self.flood = None;
        // Above the spinners, or they are ended a second late.
        let ended = urgently(|| self.netns.kill_processes());
        for child in self.children.iter_mut().filter(|_| ended.is_ok()) {
            child.wait()?;
        }
        let removed = self.group.take().map_or(Ok(()), MemoryGroup::remove);
        ended.and(removed)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("a load did not end: {error:#}");
        }
    }
}

fn log_tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().last().unwrap_or_default().to_owned()
}
