//! Floods of packets that must be refused: exact counters, nothing else.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow, ensure};
use ha_common::maps::LinkRecord;
use ha_common::reason::Reason;
use ha_common::vectors::{Packet, Vector, before_configuration, vectors, world};
use ha_daemon::io::interrupted::uninterrupted;
use ha_tests::bpf;

use crate::world::{Both, Hook, expected_action, is_runnable, moved, passes};

/// Frames of each kind. The kernel gives up such a run when the process is frozen meanwhile, without
/// saying how many it had: then the test begins anew.
const FLOOD: u32 = 100_000;

/// The vectors up to the first restart: alpha's incarnation 20 is believed after them.
fn before_restart() -> impl Iterator<Item = Vector> {
    vectors()
        .into_iter()
        .take_while(|vector| vector.name != "restarted")
        .filter(|vector| is_runnable(Hook::Tc, &vector.frame))
}

/// A greeting of gamma's next start; alpha's would make all that is alpha's old.
fn greeting() -> Vec<u8> {
    let mut packet = Packet::heartbeat(1);
    packet.header.sender = ha_common::wire::name_id("gamma");
    (packet.header.incarnation, packet.header.echo) = (23, 0);
    packet.frame()
}

/// One vector for every reason that refuses a packet, as it is in a [`settled`] world.
fn refused() -> Vec<Vector> {
    let mut by_reason: BTreeMap<Reason, Vector> = BTreeMap::new();
    for vector in before_restart() {
        // How many probes of a flood come too soon is a matter of time: `probes.rs`.
        let counts = !vector.reason.is_good() || vector.reason == Reason::Greeting;
        if !passes(vector.reason) && counts && vector.reason != Reason::ProbeLimit {
            by_reason.entry(vector.reason).or_insert(vector);
        }
    }
    if let Some(vector) = by_reason.get_mut(&Reason::Greeting) {
        vector.frame = greeting();
    }
    by_reason.into_values().collect()
}

/// Reasons that are found before a record is, or are no sign of an enemy: none counts them.
fn has_no_record(reason: Reason) -> bool {
    use Reason as R;
    matches!(
        reason,
        R::Fragment
            | R::Truncated
            | R::BadVersion
            | R::BadKind
            | R::WrongCluster
            | R::WrongReceiver
            | R::ForAnother
            | R::UnknownPeer
            | R::NotReady
            | R::NotOurs
            | R::Greeting
    ) || !reason.is_rejection()
}

fn total_rejected(records: &[LinkRecord]) -> u64 {
    records.iter().map(|record| record.rejected).sum()
}

fn without_rejected(records: &[LinkRecord]) -> Vec<LinkRecord> {
    records.iter().map(|record| LinkRecord { rejected: 0, ..*record }).collect()
}

/// A world after all vectors, with nothing left to read.
fn settled() -> Result<Both> {
    let mut both = Both::new(world())?;
    for vector in before_restart() {
        both.judge(Hook::Xdp, &vector.frame).context(vector.name)?;
    }
    // The greeting of the flood is news once.
    both.judge(Hook::Xdp, &greeting())?;
    Ok(both)
}

fn flood(hook: Hook) -> Result<()> {
    let mut both = settled()?;
    let floods = refused();
    ensure!(floods.len() == 16, "{:?}", floods.iter().map(|it| it.reason).collect::<Vec<_>>());
    for Vector { name, frame, reason, .. } in floods {
        let (counters, records) = (both.kernel.counters(), both.records()?);
        let action = both.run(hook, &frame, FLOOD)?;
        ensure!(action == expected_action(hook, reason), "{name}: action {action}");
        let moved = moved(&counters, &both.kernel.counters());
        ensure!(moved == [(reason, u64::from(FLOOD))], "{name}: {moved:?}");
        let after = both.records()?;
        let counted = total_rejected(&after) - total_rejected(&records);
        let expected = if has_no_record(reason) { 0 } else { u64::from(FLOOD) };
        ensure!(counted == expected, "{name}: {counted} rejected");
        ensure!(without_rejected(&after) == without_rejected(&records), "{name}: {after:?}");
        ensure!(both.kernel.take_changes().is_empty(), "{name}: the daemon was woken");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn a_flood_of_any_refused_kind_moves_exact_counters_only_xdp() -> Result<()> {
    uninterrupted(|| flood(Hook::Xdp))
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn a_flood_of_any_refused_kind_moves_exact_counters_only_tc() -> Result<()> {
    uninterrupted(|| flood(Hook::Tc))
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn counters_are_exact_when_a_flood_comes_on_all_cpus_at_once() -> Result<()> {
    uninterrupted(flood_on_all_cpus)
}

fn flood_on_all_cpus() -> Result<()> {
    let mut both = settled()?;
    let mut forged = Packet::heartbeat(1);
    (forged.header.incarnation, forged.key) = (24, ha_common::vectors::key(3));
    let (frame, counters, records) = (forged.frame(), both.kernel.counters(), both.records()?);
    let threads = 4;
    let program = &*both.kernel.xdp()?;
    std::thread::scope(|scope| {
        let run = || bpf::run(program, &frame, FLOOD).map(drop);
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        running.into_iter().try_for_each(|thread| {
            Ok::<_, anyhow::Error>(thread.join().map_err(|_| anyhow!("a thread panicked"))??)
        })
    })?;
    let all = u64::from(FLOOD) * threads;
    ensure!(moved(&counters, &both.kernel.counters()) == [(Reason::BadTag, all)]);
    let after = both.records()?;
    ensure!(total_rejected(&after) - total_rejected(&records) == all, "{after:?}");
    ensure!(without_rejected(&after) == without_rejected(&records), "{after:?}");
    ensure!(both.kernel.take_changes().is_empty());
    Ok(())
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn a_full_ring_buffer_loses_wake_ups_and_nothing_else() -> Result<()> {
    let mut both = Both::new(world())?;
    // 64 KiB hold 2,048 changes; every heartbeat of this stream is one.
    let sent = 3_000;
    for sequence in 1..=sent {
        let mut packet = Packet::heartbeat(sequence);
        packet.header.generation = sequence as u32;
        both.run(Hook::Xdp, &packet.frame(), 1)?;
    }
    let changes = both.kernel.take_changes().len();
    ensure!((2_000..=2_048).contains(&changes), "{changes} changes");
    let record = both.record(0)?;
    ensure!((record.received, record.generation) == (sent, sent as u32), "{record:?}");
    Ok(())
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn an_unconfigured_program_refuses_a_flood() -> Result<()> {
    uninterrupted(flood_before_configuration)
}

fn flood_before_configuration() -> Result<()> {
    let mut nobody = world();
    nobody.identity.incarnation = 0;
    let mut both = Both::new(nobody)?;
    let frame = &before_configuration()[0].frame;
    both.run(Hook::Xdp, frame, FLOOD)?;
    let counters = both.kernel.counters();
    ensure!(counters.get(&Reason::NotReady) == Some(&u64::from(FLOOD)), "{counters:?}");
    ensure!(total_rejected(&both.records()?) == 0);
    Ok(())
}
