//! Recorded streams after somebody restarted or died: never alive again, never in the way.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ha_common::wire::Kind;
use ha_daemon::io::interrupted::uninterrupted;
use ha_tests::bed::{Cluster, Event, GROUP, Node, Plan, Status, turn_with_others};
use ha_tests::clock::monotonic_ns;
use ha_tests::rogue::{Frame, Network, PORT, Rogue, Tap};

const WAIT: Duration = Duration::from_secs(20);
/// Heartbeats that are recorded on each link.
const RECORDED: usize = 40;
const NETWORKS: [Network; 2] = [Network::Heartbeat, Network::Service];
/// Kinds of events that say that somebody is heard.
const SIGNS_OF_LIFE: [&str; 4] = ["node-up", "node-returned", "node-restarted", "link-up"];

fn plan(receive: &str) -> Plan {
    Plan {
        keepalive: Duration::from_millis(50),
        deadtime: Duration::from_secs(2),
        failback: false,
        // How long a node that starts alone listens before it takes the group; 20 s unless it is said.
        cluster_lines: vec!["initdead = \"4s\"".to_owned()],
        link_lines: vec![format!("receive = \"{receive}\"")],
        web: false,
        ..Plan::default()
    }
}

struct Stage {
    cluster: Cluster,
    rogue: Rogue,
    tap: Tap,
}

impl Stage {
    fn set(receive: &str) -> Result<Self> {
        let mut cluster = Cluster::build(plan(receive))?;
        let rogue = Rogue::join(&mut cluster)?;
        let tap = Tap::open(&cluster.bed)?;
        cluster.start()?;
        Ok(Self { cluster, rogue, tap })
    }

    fn node(&self, name: &str) -> Result<&Node> {
        self.cluster.node(name)
    }

    /// What alpha says to beta, on both networks, as the rogue will say it again: heartbeats, and
    /// control messages that were seen on the way to them.
    fn record(&self) -> Result<Vec<(Network, Vec<Frame>)>> {
        let recorded = |network: Network| -> Result<(Network, Vec<Frame>)> {
            let (alpha, beta) = (network.address(1), network.address(2));
            let mut control = Vec::new();
            // Answers are refused by a reason of their own, and probes may not be judged by this
            // program: what becomes of a recording of those is in kernel/probes.rs.
            let kinds = [Kind::Heartbeat, Kind::Control];
            let is_wanted = |frame: &Frame| {
                frame.addresses() == Some((alpha, beta))
                    && frame.header().is_some_and(|header| kinds.contains(&header.kind))
            };
            let frames = self.tap.take(RECORDED, WAIT, is_wanted)?;
            control.extend(frames);
            let route = self.rogue.route(&self.cluster, network, "alpha", "beta")?;
            Ok((network, control.iter().map(|frame| frame.rerouted(&route)).collect()))
        };
        NETWORKS.into_iter().map(recorded).collect()
    }

    fn replay(&self, recording: &[(Network, Vec<Frame>)]) -> Result<u64> {
        let mut sent = 0;
        for (network, frames) in recording {
            sent += self.rogue.send(*network, frames)?;
        }
        Ok(sent)
    }

    /// Replays again and again for a while, slow enough for every packet to be judged.
    fn replay_for(&self, recording: &[(Network, Vec<Frame>)], time: Duration) -> Result<u64> {
        let end_ns = monotonic_ns() + u64::try_from(time.as_nanos())?;
        let mut sent = 0;
        while monotonic_ns() < end_ns {
            sent += self.replay(recording)?;
            thread::sleep(Duration::from_millis(20));
        }
        Ok(sent)
    }
}

fn packets(status: &Status, reason: &str) -> u64 {
    status.raw["packets"][reason].as_u64().unwrap_or_default()
}

fn rejected(status: &Status) -> u64 {
    status.nodes.iter().flat_map(|node| &node.links).map(|link| link.rejected).sum()
}

fn received(status: &Status) -> u64 {
    status.nodes.iter().flat_map(|node| &node.links).map(|link| link.received).sum()
}

/// That beta saw no sign of life of alpha after event `after`.
fn no_sign_of_life(beta: &Node, after: u64) -> Result<()> {
    let events = beta.events()?;
    let signs: Vec<_> = events
        .iter()
        .filter(|event| event.id > after && event.node.as_deref() == Some("alpha"))
        .filter(|event| SIGNS_OF_LIFE.contains(&event.kind.as_str()))
        .collect();
    ensure!(signs.is_empty(), "{signs:?}");
    Ok(())
}

/// The recording moves one refusing counter by its length, on the links too, and revives nobody.
fn refused(
    stage: &Stage,
    recording: &[(Network, Vec<Frame>)],
    reason: &str,
    state: &str,
) -> Result<()> {
    let beta = stage.node("beta")?;
    let before = beta.status()?;
    ensure!(before.node_state("alpha") == state, "before: {before:?}");
    let sent = stage.replay(recording)?;
    let counted = |status: &Status| packets(status, reason) - packets(&before, reason);
    let after = beta.wait_until(reason, WAIT, |status| counted(status) == sent)?;
    ensure!(rejected(&after) - rejected(&before) == sent, "the links: {after:?}");
    ensure!(after.node_state("alpha") == state, "after: {after:?}");
    if state != "up" {
        ensure!(received(&after) == received(&before), "accepted: {after:?}");
    }
    no_sign_of_life(beta, before.events)
}

/// A stream of a dead node neither keeps it alive nor brings it back; nor does it after a restart of
/// the receiver, nor beside the restarted sender.
fn a_recording_is_never_alive(receive: &str) -> Result<()> {
    let _turn = turn_with_others();
    let mut stage = Stage::set(receive)?;
    let recording = stage.record()?;
    refused(&stage, &recording, "old-sequence", "up").context("while both run")?;

    let at_ns = stage.node("alpha")?.kill_daemon_and_keeper()?;
    let events_before = stage.node("beta")?.status()?.events;
    let sent = stage.replay_for(&recording, Duration::from_secs(4))?;
    let beta = stage.node("beta")?;
    let taken = beta.wait_event("address-added", at_ns, WAIT)?;
    let takeover_ms = (taken.monotonic_ns - at_ns) / 1_000_000;
    println!("{receive}: takeover {takeover_ms} ms under {sent} replayed packets");
    // Deadtime, and what a machine with other work takes.
    ensure!(takeover_ms < 3_500, "the replay delayed the takeover: {takeover_ms} ms");
    no_sign_of_life(beta, events_before)?;
    let state = beta.status()?.node_state("alpha").to_owned();
    refused(&stage, &recording, "old-sequence", &state).context("while the sender is dead")?;

    receiver_restarts(&mut stage, receive, &recording)?;

    let alpha = stage.cluster.node_mut("alpha")?;
    alpha.wait_exit(WAIT)?;
    alpha.start()?;
    let settled = |status: &Status| status.node_state("alpha") == "up" && status.links_up("alpha");
    stage.node("beta")?.wait_until("alpha to be back", WAIT, settled)?;
    refused(&stage, &recording, "old-incarnation", "up").context("after the sender's restart")?;
    ensure!(stage.node("beta")?.status()?.runs_on(GROUP, "beta"), "the group left beta");
    stage.cluster.bed.finish()
}

/// The sender is dead. Kernel records survive `kill -9` of the receiver, so the recording is old to
/// the next instance; they do not survive a clean stop, and then it is a mere greeting.
fn receiver_restarts(
    stage: &mut Stage,
    receive: &str,
    recording: &[(Network, Vec<Frame>)],
) -> Result<()> {
    for clean in [false, true] {
        let beta = stage.cluster.node_mut("beta")?;
        if clean {
            beta.stop()?;
        } else {
            beta.kill_daemon_and_keeper()?;
            beta.wait_exit(WAIT)?;
        }
        beta.start()?;
        beta.wait_ready(WAIT)?;
        let what = "the group on beta, without alpha";
        beta.wait_until(what, WAIT, |status| status.runs_on(GROUP, "beta"))?;
        let kept = !clean && receive != "socket";
        if kept {
            refused(stage, recording, "old-sequence", "dead").context("pins kept")?;
        } else {
            greets(stage, recording).with_context(|| format!("no pins, clean {clean}"))?;
        }
    }
    Ok(())
}

/// Nothing but greetings, from a peer that stays dead.
fn greets(stage: &Stage, recording: &[(Network, Vec<Frame>)]) -> Result<()> {
    let beta = stage.node("beta")?;
    let before = beta.status()?;
    let sent = stage.replay(recording)?;
    let counted = |status: &Status| packets(status, "greeting") - packets(&before, "greeting");
    let after = beta.wait_until("greetings", WAIT, |status| counted(status) == sent)?;
    ensure!(after.node_state("alpha") == "dead", "{after:?}");
    ensure!(received(&after) == received(&before), "accepted: {after:?}");
    ensure!(after.runs_on(GROUP, "beta"), "{after:?}");
    ensure!(after.events == before.events, "{:?}", beta.events()?);
    Ok(())
}

/// Obituary of an earlier start: it was true once.
fn an_old_obituary_is_refused(receive: &str) -> Result<()> {
    let _turn = turn_with_others();
    let mut stage = Stage::set(receive)?;
    let (alpha, beta) = (Network::Heartbeat.address(1), Network::Heartbeat.address(2));
    stage.node("alpha")?.kill_daemon()?;
    let last = |frame: &Frame| {
        frame.addresses() == Some((alpha, beta))
            && frame.header().is_some_and(|it| it.kind == Kind::Control && it.sequence == u64::MAX)
    };
    let obituary = stage.tap.take(1, WAIT, last)?;
    let route = stage.rogue.route(&stage.cluster, Network::Heartbeat, "alpha", "beta")?;
    let recording = [(Network::Heartbeat, vec![obituary[0].rerouted(&route); 20])];
    stage.node("beta")?.wait_until("the takeover", WAIT, |it| it.runs_on(GROUP, "beta"))?;
    refused(&stage, &recording, "old-sequence", "daemon-gone").context("while alpha is gone")?;
    let node = stage.cluster.node_mut("alpha")?;
    node.wait_exit(WAIT)?;
    node.start()?;
    stage.cluster.wait_settled("beta")?;
    refused(&stage, &recording, "old-incarnation", "up").context("after alpha's return")?;
    let events = stage.node("beta")?.events()?;
    // A keeper that is slow speaks after the closed connections did.
    let buried = |event: &&Event| event.message.contains("its keeper took the addresses");
    let gone = events.iter().filter(buried).count();
    ensure!(gone == 1, "{gone} times gone: {events:?}");
    stage.cluster.bed.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_recording_is_never_alive_via_xdp() -> Result<()> {
    a_recording_is_never_alive("xdp-native")
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_recording_is_never_alive_via_tc() -> Result<()> {
    a_recording_is_never_alive("tc")
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_recording_is_never_alive_via_the_socket() -> Result<()> {
    a_recording_is_never_alive("socket")
}

#[test]
#[ignore = "needs root: network namespaces"]
fn an_old_obituary_is_refused_via_xdp() -> Result<()> {
    an_old_obituary_is_refused("xdp-native")
}

#[test]
#[ignore = "needs root: network namespaces"]
fn an_old_obituary_is_refused_via_the_socket() -> Result<()> {
    an_old_obituary_is_refused("socket")
}

// ---- control connections -----------------------------------------------------------------------

/// Opens a connection to beta's control port.
fn connect(rogue: &Rogue) -> Result<std::net::TcpStream> {
    let target = (Network::Heartbeat.address(2), PORT).into();
    rogue.netns().run(|| Ok(std::net::TcpStream::connect_timeout(&target, Duration::from_secs(2))?))
}

fn descriptors(pid: i32) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// The header with which alpha introduced itself on that network.
fn introduction(tap: &Tap, from: Ipv4Addr, to: Ipv4Addr) -> Result<Vec<u8>> {
    let wanted = |frame: &Frame| {
        frame.addresses() == Some((from, to)) && frame.tcp_data().is_some_and(|it| !it.is_empty())
    };
    let frames = tap.take(1, WAIT, wanted)?;
    Ok(frames[0].tcp_data().unwrap_or_default().to_vec())
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_replayed_introduction_opens_no_control_connection() -> Result<()> {
    use std::io::{Read, Write};
    let _turn = turn_with_others();
    let stage = Stage::set("auto")?;
    let hb = |number| Network::Heartbeat.address(number);
    let header = introduction(&stage.tap, hb(1), hb(2))?;
    let control = stage.tap.take_kind(Kind::Heartbeat, hb(1), hb(2), 1, WAIT)?;
    let heartbeat = control[0].payload().unwrap_or_default().to_vec();
    let beta = stage.node("beta")?;
    let before = beta.status()?;
    let open = descriptors(before.pid)?;
    let mut kept = Vec::new();
    for number in 0..100 {
        let mut stream = connect(&stage.rogue)?;
        stream.write_all(if number % 2 == 0 { &header } else { &heartbeat })?;
        stream.set_read_timeout(Some(Duration::from_millis(20)))?;
        let answered = matches!(uninterrupted(|| stream.read(&mut [0; 88])), Ok(1..));
        ensure!(!answered, "connection {number} was welcomed");
        kept.push(stream);
    }
    thread::sleep(Duration::from_secs(3));
    ensure!(descriptors(before.pid)? <= open + 4, "connections were kept: {open} before");
    drop(kept);
    thread::sleep(Duration::from_millis(500));
    let events = beta.events()?;
    let news: Vec<_> = events.iter().filter(|it| it.id > before.events).collect();
    ensure!(news.iter().all(|it| it.kind == "own-pause"), "{news:?}");
    stage.cluster.bed.finish()
}

#[test]
#[ignore = "needs root: network namespaces"]
fn silent_and_babbling_connections_are_bounded_and_change_nothing() -> Result<()> {
    use std::io::Write;
    let _turn = turn_with_others();
    let mut stage = Stage::set("auto")?;
    let beta = stage.node("beta")?;
    let before = beta.status()?;
    let open = descriptors(before.pid)?;
    let mut kept = Vec::new();
    let mut most = 0;
    for number in 0..300_u32 {
        let Ok(mut stream) = connect(&stage.rogue) else { continue };
        if number % 3 == 1 {
            // The daemon may have closed it already.
            let _ = stream.write_all(&[b'x'; 4_000]);
        }
        if number % 3 == 2 {
            let _ = stream.write_all(b"HA");
        }
        kept.push(stream);
        most = most.max(descriptors(before.pid)?);
    }
    println!("{} connections; descriptors {open} -> {most}", kept.len());
    ensure!(most <= open + 64 + 8, "{most} descriptors instead of {open}");
    // Longer than a header may take to come.
    thread::sleep(Duration::from_secs(4));
    let left = descriptors(before.pid)?;
    ensure!(left <= open + 4, "{left} descriptors are left of {open}");
    let news: Vec<_> = beta.events()?.into_iter().filter(|it| it.id > before.events).collect();
    ensure!(news.iter().all(|it| it.kind == "own-pause"), "{news:?}");
    ensure!(beta.status()?.node_state("alpha") == "up");
    drop(kept);

    // Afterwards the pair connects as before: a death is told by the kernel.
    stage.node("alpha")?.kill_daemon_and_keeper()?;
    let at_ns = monotonic_ns();
    stage.node("beta")?.wait_event("connection-closed", 0, WAIT)?;
    stage.node("beta")?.wait_event("daemon-gone", 0, WAIT)?;
    println!("told after {} ms", (monotonic_ns() - at_ns) / 1_000_000);
    let alpha = stage.cluster.node_mut("alpha")?;
    alpha.wait_exit(WAIT)?;
    alpha.start()?;
    stage.cluster.wait_settled("beta")?;
    stage.cluster.bed.finish()
}
