//! Probes in the kernel: who answers, how often, and with what.

use anyhow::{Context, Result, ensure};
use ha_common::maps::Lease;
use ha_common::reason::Reason;
use ha_common::reply::{ANSWER_BURST, ANSWER_INTERVAL_NS};
use ha_common::vectors::{Destination, Packet, SLOT_ALPHA, vectors, world};
use ha_common::wire::{Fixed, Header, Kind, Phase, Way, layers};
use ha_tests::{bpf, crowd};

use crate::world::{Both, Hook, is_runnable, moved};

/// A frame whose pull is not worth it: longer than any probe.
const LONG: usize = 400;

fn probe(sequence: u64, way: Way) -> Packet {
    let mut packet = Packet::heartbeat(sequence);
    (packet.header.kind, packet.header.way) = (Kind::Probe, way);
    packet
}

/// Alpha is believed.
fn settled(hook: Hook) -> Result<Both> {
    let mut both = Both::new(world())?;
    both.judge(hook, &Packet::heartbeat(1).frame())?;
    Ok(both)
}

fn answer_of(frame: &[u8]) -> Result<Header> {
    let fixed = Fixed::read(frame, 42).context("too short")?;
    Header::decode(&fixed).map_err(|error| anyhow::anyhow!("{error:?}"))
}

fn now_ns() -> u64 {
    ha_daemon::io::clock::monotonic_ns()
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn xdp_leaves_to_tc_what_asks_for_it_and_tc_touches_nothing_else() -> Result<()> {
    let mut both = settled(Hook::Xdp)?;
    let frame = probe(5, Way::Tc).frame();
    let passed = both.judge(Hook::Xdp, &frame)?;
    ensure!(passed.reason == Reason::ProbePassed, "{passed:?}");
    ensure!(both.record(SLOT_ALPHA)?.probes.sequence == 0, "judged before its turn");
    let answered = both.judge(Hook::TcAnswer, &frame)?;
    ensure!(answered.reason == Reason::Probe, "{answered:?}");
    // Nothing but its own is counted, changed or dropped.
    let before = both.kernel.counters();
    let mut others: Vec<Vec<u8>> = vectors()
        .into_iter()
        .map(|vector| vector.frame)
        .filter(|frame| is_runnable(Hook::TcAnswer, frame))
        .collect();
    let mut long = frame.clone();
    long.resize(LONG, 0);
    others.push(long);
    for frame in others {
        let (action, out) = both.out(Hook::TcAnswer, &frame, 1)?;
        ensure!(action == u32::MAX && out == frame, "{action}: {frame:02x?}");
    }
    ensure!(moved(&before, &both.kernel.counters()).is_empty());
    Ok(())
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn a_refused_probe_for_tc_ends_there() -> Result<()> {
    /// TC_ACT_SHOT.
    const SHOT: u32 = 2;
    let mut both = settled(Hook::Xdp)?;
    let mut forged = probe(5, Way::Tc).frame();
    forged[42 + 75] ^= 1;
    let before = both.kernel.counters();
    ensure!(both.run(Hook::TcAnswer, &forged, 1)? == SHOT);
    ensure!(moved(&before, &both.kernel.counters()) == [(Reason::BadTag, 1)]);
    Ok(())
}

/// The one's complement sum over a UDP datagram in IPv6 and its pseudo header.
fn udp_sum(frame: &[u8]) -> u16 {
    let mut bytes = frame[22..].to_vec();
    bytes.extend([0, frame[20], frame[18], frame[19]]);
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn a_right_checksum_is_right_in_the_answer_too() -> Result<()> {
    for (hook, destination) in [
        (Hook::Xdp, Destination::Host(2)),
        (Hook::Xdp, Destination::Group),
        (Hook::Tc, Destination::Host(2)),
        (Hook::Tc, Destination::Group),
    ] {
        let mut both = settled(hook)?;
        let mut frame = Packet { v6: true, destination, ..probe(5, Way::Xdp) }.frame();
        let checksum = !udp_sum(&frame);
        frame[60..62].copy_from_slice(&checksum.to_be_bytes());
        ensure!(udp_sum(&frame) == 0xffff, "the test's own");
        let (_, out) = both.out(hook, &frame, 1)?;
        ensure!(out != frame && udp_sum(&out) == 0xffff, "{hook:?} {destination:?}: {out:02x?}");
    }
    Ok(())
}

fn the_lease_is_told(hook: Hook) -> Result<()> {
    let mut both = settled(hook)?;
    let ran_ns = now_ns().saturating_sub(700_000_000);
    let (phase, services) = (Phase::Active as u16, u16::from(layers::SERVICE));
    let lease = Lease { driver_ran_ns: ran_ns, generation: 77, phase, layers: services };
    both.kernel.renew_lease(lease);
    let (_, out) = both.out(hook, &probe(5, Way::Xdp).frame(), 1)?;
    let age_ms = now_ns().saturating_sub(ran_ns) / 1_000_000;
    let said = answer_of(&out)?;
    ensure!((said.generation, said.phase) == (77, Phase::Active), "{said:?}");
    ensure!((700..=age_ms).contains(&u64::from(said.lease_age_ms)), "{said:?}, {age_ms} ms");
    if age_ms < 1_000 {
        let both = layers::DAEMON | layers::SERVICE;
        ensure!(said.layers & both == both, "{said:?}");
    }
    both.kernel.renew_lease(Lease { driver_ran_ns: now_ns() - 2_000_000_000, ..lease });
    both.kernel.record(SLOT_ALPHA).context("no record")?.set_answer_from_ns(0);
    let (_, out) = both.out(hook, &probe(6, Way::Xdp).frame(), 1)?;
    let said = answer_of(&out)?;
    ensure!(said.lease_age_ms >= 2_000, "{said:?}");
    ensure!(said.layers & (layers::DAEMON | layers::SERVICE) == 0, "{said:?}");
    Ok(())
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn an_answer_tells_how_old_the_lease_is_xdp() -> Result<()> {
    the_lease_is_told(Hook::Xdp)
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn an_answer_tells_how_old_the_lease_is_tc() -> Result<()> {
    the_lease_is_told(Hook::Tc)
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn a_flood_of_good_probes_of_one_peer_is_answered_at_a_bounded_rate() -> Result<()> {
    let mut both = settled(Hook::Xdp)?;
    let frames: Vec<_> = (1..=20_000).map(|number| probe(number, Way::Xdp).frame()).collect();
    let (counters, start_ns) = (both.kernel.counters(), now_ns());
    for frame in &frames {
        both.run(Hook::Xdp, frame, 1)?;
    }
    let possible = (now_ns() - start_ns) / ha_common::reply::ANSWER_PAUSE_NS + 1;
    let moved = moved(&counters, &both.kernel.counters());
    let [(Reason::Probe, answered), (Reason::ProbeLimit, refused)] = moved[..] else {
        anyhow::bail!("{moved:?}");
    };
    ensure!(answered + refused == 20_000 && (1..=possible).contains(&answered), "{moved:?}");
    ensure!(both.record(SLOT_ALPHA)?.answers == answered);
    ensure!(both.kernel.take_changes().is_empty(), "nobody wakes for a probe");
    Ok(())
}

/// What one program sends back goes to the other, whose answer would come back, and so on.
#[test]
#[ignore = "needs root: loads BPF programs"]
fn two_reflectors_that_face_each_other_send_nothing() -> Result<()> {
    for hook in [Hook::Xdp, Hook::Tc, Hook::TcAnswer] {
        let mut both = settled(Hook::Xdp)?;
        let way = if hook == Hook::TcAnswer { Way::Tc } else { Way::Xdp };
        let (_, answer) = both.out(hook, &probe(5, way).frame(), 1)?;
        for other in [Hook::Xdp, Hook::Tc, Hook::TcAnswer] {
            let before = both.kernel.counters();
            let (action, out) = both.out(other, &answer, 1)?;
            ensure!(action != 3 && action != 7 && out == answer, "{hook:?}, {other:?}: {action}");
            let moved = moved(&before, &both.kernel.counters());
            ensure!(moved.iter().all(|(reason, _)| *reason != Reason::Probe), "{moved:?}");
        }
    }
    Ok(())
}

/// Peers that ask at once.
const CROWD: u32 = 1_024;
/// Rounds in which each of them asks once.
const ROUNDS: u64 = 4;

#[test]
#[ignore = "needs root: loads BPF programs"]
fn a_thousand_peers_that_ask_at_once_get_bounded_answers_and_lose_no_heartbeat() -> Result<()> {
    let mut both = Both::new(crowd::world(CROWD))?;
    for slot in 0..CROWD {
        both.run(Hook::Xdp, &crowd::of_peer(slot, Packet::heartbeat(1)).frame(), 1)?;
    }
    let (counters, start_ns) = (both.kernel.counters(), now_ns());
    let (mut beats, mut cost_ns) = (1, Vec::new());
    for round in 1..=ROUNDS {
        for slot in 0..CROWD {
            let frame = crowd::of_peer(slot, probe(round, Way::Xdp)).frame();
            cost_ns.push(bpf::mean_ns(both.kernel.xdp()?, &frame, 1)?);
            // One of them is alive and beats on between their questions.
            if slot % 64 == 0 {
                beats += 1;
                both.run(Hook::Xdp, &crowd::of_peer(7, Packet::heartbeat(beats)).frame(), 1)?;
            }
        }
    }
    let elapsed_ns = now_ns() - start_ns;
    let after = both.kernel.counters();
    let grown = |reason| after[&reason] - counters[&reason];
    let (answered, refused) = (grown(Reason::Probe), grown(Reason::ProbeLimit));
    ensure!(answered + refused == u64::from(CROWD) * ROUNDS, "{answered}, {refused}");
    // The tests of the host build have the bound itself; here it holds on real CPUs.
    let cpus = std::thread::available_parallelism()?.get() as u64;
    let bound = cpus * (ANSWER_BURST + elapsed_ns / ANSWER_INTERVAL_NS + 1);
    ensure!((u64::from(CROWD)..=bound).contains(&answered), "{answered} of at most {bound}");
    let record = both.record(7)?;
    ensure!((record.received, record.lost) == (beats, 0), "{record:?}");
    ensure!(both.record(0)?.answers <= ROUNDS);
    cost_ns.sort_unstable();
    let middle = cost_ns[cost_ns.len() / 2];
    println!("{answered} answers, {refused} refused; a probe costs {middle} ns (median, cold)");
    Ok(())
}
