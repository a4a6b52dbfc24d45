//! Where the log goes, that nobody waits for its readers, and threads without real-time priority, as
//! configured.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use ha_tests::bed::{AUTHKEYS, Cluster, FLOATING, GROUP, Node, Plan, Status, turn};
use ha_tests::clock::{monotonic_ns, wait_for};
use ha_tests::threads;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::unistd::pipe2;

const ALPHA: &str = "alpha";
const BETA: &str = "beta";
const STEP: Duration = Duration::from_secs(20);
/// For thousands of lines on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(120);
/// Requests that are no requests, between two looks at what came of them.
const REQUESTS: usize = 1_000;

/// Times that a loaded machine does not reach by itself.
fn plan() -> Plan {
    Plan {
        keepalive: Duration::from_millis(50),
        deadtime: Duration::from_secs(2),
        web: false,
        more: "\n[logging]\ndebug = true\n".to_owned(),
        ..Plan::default()
    }
}

/// A pipe that is full: who writes to it waits until somebody reads.
fn full_pipe() -> Result<(File, File)> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let mut writer = File::from(writer);
    loop {
        match writer.write(&[b'\n'; 4096]) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error.into()),
        }
    }
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok((File::from(reader), writer))
}

/// A cluster whose first node has a standard error that nobody reads.
fn unread(plan: Plan) -> Result<(Cluster, File)> {
    let mut cluster = Cluster::build(plan)?;
    let (reader, writer) = full_pipe()?;
    cluster.node_mut(ALPHA)?.start_into(writer)?;
    cluster.start()?;
    Ok((cluster, reader))
}

fn dropped(status: &Status) -> u64 {
    status.raw["log_lines_dropped"].as_u64().unwrap_or_default()
}

fn received(status: &Status) -> u64 {
    status.link(ALPHA, "hb0").map_or(0, |link| link.received)
}

/// Has the daemon log one line, which it does with `debug`.
fn annoy(node: &Node) -> Result<()> {
    let mut stream = UnixStream::connect(node.socket_path())?;
    stream.set_read_timeout(Some(STEP))?;
    // It may have hung up on the first word.
    let _ = stream.write_all(b"this is no request\r\n\r\n");
    // As many as may be connected at once are not too many.
    let _ = stream.read_to_end(&mut Vec::new());
    Ok(())
}

/// Annoys it until the log has no room for more lines.
fn overflow(node: &Node) -> Result<u64> {
    let end = Instant::now() + PATIENCE;
    loop {
        for _ in 0..REQUESTS {
            annoy(node)?;
        }
        let dropped = dropped(&node.status()?);
        if dropped > 0 {
            return Ok(dropped);
        }
        ensure!(Instant::now() < end, "nothing was dropped within {PATIENCE:?}");
    }
}

/// Waits until none of a node's processes is left.
fn wait_for_end(node: &Node) -> Result<()> {
    let end = Instant::now() + STEP;
    while !node.netns().processes().is_empty() {
        ensure!(Instant::now() < end, "{:?} are left after {STEP:?}", node.netns().processes());
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// What the last event that was logged says.
fn last_event(log: &str) -> Option<&str> {
    let line = log.lines().rfind(|line| line.contains("kind="))?;
    line.split_once("events: ").map(|(_, message)| message)
}
fn lines(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[test]
#[ignore = "needs root: network namespaces"]
fn the_log_goes_to_its_file_to_the_last_event_and_nothing_is_realtime() -> Result<()> {
    let _turn = turn();
    let directory = tempfile::tempdir()?;
    let (log, moved) = (directory.path().join("ha-log"), directory.path().join("ha-log.1"));
    let plan = Plan {
        keepalive: Duration::from_millis(100),
        deadtime: Duration::from_secs(2),
        cluster_lines: vec!["initdead = \"4s\"".to_owned()],
        more: format!("\n[logging]\nfile = \"{}\"\n[realtime]\nenabled = false\n", log.display()),
        ..Plan::default()
    };
    let mut cluster = Cluster::build(plan)?;
    let alpha = cluster.node_mut("alpha")?;
    alpha.start()?;
    alpha.wait_ready(STEP)?;
    let (daemon, keeper) = alpha.pids()?;
    for pid in std::iter::once(daemon).chain(keeper) {
        let all = threads::of(pid)?;
        ensure!(all.iter().all(|it| it.policy == threads::OTHER), "{pid}: {all:?}");
        ensure!(threads::locked_kib(pid)? == 0, "{pid} has locked memory");
    }
    alpha.wait_event("takeover", 0, STEP)?;
    wait_for("the line of it", STEP, || Ok(lines(&log)?.contains("takeover")))?;
    // As logrotate does it, without a signal.
    fs::rename(&log, &moved)?;
    alpha.stop()?;
    let (before, after) = (lines(&moved)?, lines(&log)?);
    ensure!(before.contains("takeover"), "{before}");
    ensure!(after.contains("leav") || after.contains("left"), "{after}");
    let on_stderr = alpha.log_tail(1_000);
    for text in [&before, &after, &on_stderr] {
        ensure!(!text.contains('\u{1b}'), "colours where no terminal is: {text}");
        ensure!(!text.contains(AUTHKEYS.split(' ').next_back().unwrap_or("?").trim()), "the key");
    }
    // Whatever standard error got, the files got: nothing was lost at the end.
    let messages = |text: &str| text.lines().filter(|line| line.contains("kind=")).count();
    let (shown, kept) = (messages(&on_stderr), messages(&before) + messages(&after));
    ensure!(shown == kept && shown > 0, "{shown} events on stderr, {kept} in the files");
    cluster.bed.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_standard_error_that_nobody_reads_stops_nothing_and_what_it_lost_is_said() -> Result<()> {
    let _turn = turn();
    let from_ns = monotonic_ns();
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("ha-log");
    let mut plan = plan();
    plan.more.push_str(&format!("file = \"{}\"\n", file.display()));
    let (mut cluster, mut reader) = unread(plan)?;
    let lost = overflow(cluster.node(ALPHA)?)?;
    let beta = cluster.node(BETA)?;
    let before = received(&beta.status()?);
    beta.wait_until("20 more heartbeats", STEP, |status| received(status) > before + 20)?;
    let alpha = cluster.node(ALPHA)?;
    let text = alpha.hactl_done(&["status"])?;
    ensure!(text.contains(" lines were dropped"), "{text}");
    // Its driver decides and acts, and logs that it did.
    alpha.hactl_done(&["relocate", GROUP, BETA])?;
    for node in &cluster.nodes {
        node.wait_until("the move", STEP, |status| status.runs_on(GROUP, BETA))?;
    }
    // Threads do not survive exec(2): what waited is lost, and counted.
    alpha.signal(Signal::SIGHUP)?;
    alpha.wait_event("reloaded", from_ns, STEP)?;
    let after = dropped(&alpha.status()?);
    ensure!(after > lost, "{after} lines after the reload, {lost} before");
    for event in beta.events()? {
        let trouble = ["node-dead", "node-stale", "node-late", "daemon-gone"];
        ensure!(!trouble.contains(&event.kind.as_str()), "{event:?}");
    }
    let reads = thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).map(|_| text)
    });
    // Both write to one file: the other one first, so that its end is not the last word there.
    cluster.node_mut(BETA)?.stop()?;
    cluster.node_mut(ALPHA)?.stop()?;
    let read = reads.join().map_err(|_| anyhow!("the reader panicked"))?;
    let read = read.context("what is logged is no text")?;
    ensure!(read.contains(" log lines were dropped"), "{read}");
    let kept = lines(&file)?;
    let (last, said) = (last_event(&kept), last_event(&read));
    ensure!(last == said && said.is_some(), "last in the file: {last:?}, read: {said:?}");
    cluster.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn no_end_waits_for_a_standard_error_that_nobody_reads() -> Result<()> {
    let _turn = turn();
    let (mut cluster, reader) = unread(plan())?;
    let alpha = cluster.node_mut(ALPHA)?;
    alpha.kill_daemon()?;
    alpha.wait_exit(STEP)?;
    // The keeper says what it did, when it is done.
    wait_for_end(alpha)?;
    ensure!(!alpha.has_address(FLOATING.parse::<IpAddr>()?)?, "the keeper left it");
    let (unread, writer) = full_pipe()?;
    alpha.start_into(writer)?;
    cluster.start()?;
    cluster.node_mut(ALPHA)?.stop()?;
    drop((reader, unread));
    cluster.finish()
}
