//! The kernel side's own log: nothing when it is off, lines when it is on.

use std::sync::{Mutex, PoisonError};

use anyhow::{Result, anyhow, ensure};
use ha_common::vectors::{Packet, world};
use ha_daemon::io::kernel::Kernel;
use ha_tests::bpf::{self, BpfFs};

/// `aya_log::Level::Debug`.
const DEBUG: u8 = 4;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Collector;

impl log::Log for Collector {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{} {}", record.level(), record.args());
        LINES.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    fn flush(&self) {}
}

/// Loads with a log level; the size of the program as the kernel keeps it.
fn load(log: u8) -> Result<(Kernel, BpfFs, u32)> {
    let place = BpfFs::mount()?;
    let mut kernel = Kernel::load(&place.directory(), log)?;
    kernel.configure(&bpf::tables(&world()))?;
    let bytes = kernel.xdp()?.info()?.size_translated();
    Ok((kernel, place, bytes.ok_or_else(|| anyhow!("the kernel tells no size"))?))
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn a_log_that_is_off_is_not_in_the_program() -> Result<()> {
    let (quiet, _place, quiet_bytes) = load(0)?;
    let (verbose, _other, verbose_bytes) = load(DEBUG)?;
    println!("{} instructions quiet, {} verbose", quiet_bytes / 8, verbose_bytes / 8);
    ensure!(quiet_bytes < verbose_bytes, "{quiet_bytes} and {verbose_bytes} bytes");
    drop((quiet, verbose));
    Ok(())
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn changes_are_logged_when_the_log_is_on() -> Result<()> {
    log::set_boxed_logger(Box::new(Collector)).map_err(|error| anyhow!("{error}"))?;
    log::set_max_level(log::LevelFilter::Trace);
    let (mut kernel, _place, _) = load(DEBUG)?;
    let mut logger = kernel.logger()?;
    for sequence in 1..4 {
        bpf::run(kernel.xdp()?, &Packet::heartbeat(sequence).frame(), 1)?;
    }
    logger.flush();
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let ours: Vec<_> = lines.iter().filter(|line| line.contains("slot 0: change")).collect();
    // One change (a new incarnation), and heartbeats that change nothing are silent.
    ensure!(
        ours.len() == 1 && ours[0].starts_with("DEBUG") && ours[0].contains("value 20"),
        "{lines:?}"
    );
    Ok(())
}
