//! Kernel and host build judge alike.

use anyhow::{Context, Result, ensure};
use ha_common::arrivals::OUTAGE_LOST;
use ha_common::reason::Reason;
use ha_common::vectors::{Mutator, Packet, SLOT_ALPHA, before_configuration, vectors, world};

use crate::world::{Both, Hook, is_runnable};

/// Frames per hook that are made at random.
const RANDOM_FRAMES: usize = 5_000;

fn all_vectors(hook: Hook) -> Result<()> {
    let mut nobody = world();
    nobody.identity.incarnation = 0;
    let mut both = Both::new(nobody)?;
    for vector in before_configuration() {
        let judgement = both.judge(hook, &vector.frame).context(vector.name)?;
        ensure!(judgement.reason == vector.reason, "{}: {judgement:?}", vector.name);
    }
    let mut both = Both::new(world())?;
    let mut run = 0;
    for vector in vectors().iter().filter(|vector| is_runnable(hook, &vector.frame)) {
        let judgement = both.judge(hook, &vector.frame).context(vector.name)?;
        ensure!(judgement.reason == vector.reason, "{}: {judgement:?}", vector.name);
        let change = judgement.change().map(|change| change.kind);
        ensure!(change == vector.change.map(|kind| kind as u32), "{}: {judgement:?}", vector.name);
        run += 1;
    }
    ensure!(run > 100, "only {run} vectors");
    ensure!(both.kernel.teardown().is_empty());
    Ok(())
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn xdp_judges_every_vector_as_the_host_does() -> Result<()> {
    all_vectors(Hook::Xdp)
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn tc_judges_every_vector_as_the_host_does() -> Result<()> {
    all_vectors(Hook::Tc)
}

fn random_frames(hook: Hook, seed: u64) -> Result<()> {
    let mut both = Both::new(world())?;
    let mut mutator = Mutator::new(seed);
    let mut skipped = 0;
    let mut reached = std::collections::BTreeMap::<Reason, u32>::new();
    for number in 0..RANDOM_FRAMES {
        let frame = mutator.frame();
        if !is_runnable(hook, &frame) {
            skipped += 1;
            continue;
        }
        let judgement = both
            .judge(hook, &frame)
            .with_context(|| format!("seed {seed}, frame {number}: {frame:02x?}"))?;
        *reached.entry(judgement.reason).or_default() += 1;
    }
    ensure!(skipped < RANDOM_FRAMES / 20, "{skipped} frames are too short");
    // The damage must not be such that everything ends at the first check.
    let kinds =
        [Reason::Accepted, Reason::Control, Reason::BadTag, Reason::OldSequence, Reason::Probe];
    ensure!(kinds.iter().all(|kind| reached.get(kind).is_some_and(|it| *it > 20)), "{reached:?}");
    Ok(())
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn xdp_judges_damaged_frames_as_the_host_does() -> Result<()> {
    random_frames(Hook::Xdp, 20_260_101)
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn tc_judges_damaged_frames_as_the_host_does() -> Result<()> {
    random_frames(Hook::Tc, 20_260_102)
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn a_packet_that_both_hooks_see_is_judged_by_one_record() -> Result<()> {
    let mut both = Both::new(world())?;
    for sequence in 1..100 {
        let hook = if sequence % 2 == 0 { Hook::Xdp } else { Hook::Tc };
        let judgement = both.judge(hook, &Packet::heartbeat(sequence).frame())?;
        ensure!(judgement.reason == Reason::Accepted, "{sequence}: {judgement:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn arrivals_are_counted_as_on_the_host() -> Result<()> {
    for hook in [Hook::Xdp, Hook::Tc] {
        let mut both = Both::new(world())?;
        let (mut sequence, mut sent_ns) = (1, 1_u64 << 40);
        // Jitter in every bucket, losses of every number, outages.
        for step in 0..160_u64 {
            sequence += if step < 70 { step.max(1) } else { 1 };
            sent_ns = sent_ns.wrapping_add((4 + step % 4) << (8 + step / 4));
            let mut packet = Packet::heartbeat(sequence);
            packet.header.sent_ns = sent_ns;
            let judgement = both.judge(hook, &packet.frame())?;
            ensure!(judgement.reason == Reason::Accepted, "{step}: {judgement:?}");
        }
        let arrivals = both.kernel.arrivals(SLOT_ALPHA).context("no arrivals")?;
        ensure!(arrivals.outages == 5, "{arrivals:?}");
        ensure!(arrivals.longest_burst == OUTAGE_LOST - 1, "{arrivals:?}");
        ensure!(arrivals.bursts == [1, 2, 4, 8, 16, 32], "{arrivals:?}");
        let used = arrivals.jitter.iter().filter(|count| **count != 0).count();
        ensure!(used > 60, "{used} buckets: {arrivals:?}");
    }
    Ok(())
}
