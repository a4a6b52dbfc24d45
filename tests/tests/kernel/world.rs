//! The same tables twice: in the kernel's maps and in plain memory.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use aya::programs::{TestRun, TestRunOptions, TestRunResult};
use ha_common::arrivals::Arrivals;
use ha_common::buckets;
use ha_common::judge::Judgement;

use ha_common::maps::{Change, ChangeKind, LinkRecord};
use ha_common::reason::Reason;
use ha_common::vectors::{Memory, STEP_NS, World, contents, judge_and_answer, timeless};
use ha_common::wire::Way;
use ha_daemon::io::kernel::Kernel;
use ha_tests::bpf::{self, BpfFs};

/// Which program judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    Xdp,
    Tc,
    /// The program beside XDP.
    TcAnswer,
}

impl Hook {
    fn way(self) -> Way {
        match self {
            Self::Xdp => Way::Xdp,
            Self::Tc | Self::TcAnswer => Way::Tc,
        }
    }
}

/// `linux/bpf.h`: XDP_DROP, XDP_PASS, XDP_TX.
const XDP_ACTIONS: [u32; 3] = [1, 2, 3];
/// `linux/pkt_cls.h`: TC_ACT_SHOT, TC_ACT_UNSPEC, TC_ACT_REDIRECT.
const TC_ACTIONS: [u32; 3] = [2, u32::MAX, 7];

/// Whether the kernel runs a program on that frame (`net/bpf/test_run.c`): not on less than an
/// Ethernet header, and for TC not on an IP packet without its whole header.
pub fn is_runnable(hook: Hook, frame: &[u8]) -> bool {
    let ethertype = frame.get(12..14);
    match (hook, ethertype) {
        (_, None) => false,
        (Hook::Xdp, Some(_)) => true,
        (_, Some([0x08, 0x00])) => frame.len() >= 34,
        (_, Some([0x86, 0xdd])) => frame.len() >= 54,
        (_, Some(_)) => frame.len() > 14,
    }
}

pub fn passes(reason: Reason) -> bool {
    matches!(reason, Reason::NotOurs | Reason::Control | Reason::ProbePassed)
}

/// Kernel and memory side by side. The kernel goes before the file system of its pins.
pub struct Both {
    pub kernel: Kernel,
    pub memory: Memory,
    pub slots: Vec<u32>,
    _place: BpfFs,
}

impl Both {
    pub fn new(world: World) -> Result<Self> {
        let place = BpfFs::mount()?;
        let kernel = bpf::load(&place, &world)?;
        let slots = world.records.iter().map(|(slot, _)| *slot).collect();
        Ok(Self { kernel, memory: Memory::new(world), slots, _place: place })
    }

    /// The program's answer to `repeat` times the same frame.
    pub fn run(&mut self, hook: Hook, frame: &[u8], repeat: u32) -> Result<u32> {
        self.out(hook, frame, repeat).map(|(action, _)| action)
    }

    /// The same, and what became of the frame.
    pub fn out(&mut self, hook: Hook, frame: &[u8], repeat: u32) -> Result<(u32, Vec<u8>)> {
        match hook {
            Hook::Xdp => run(self.kernel.xdp()?, frame, repeat),
            Hook::Tc => run(self.kernel.tc()?, frame, repeat),
            Hook::TcAnswer => run(self.kernel.tc_answer()?, frame, repeat),
        }
    }

    /// Lets the kernel's records wait for the next answer as long as those in memory do: it judges
    /// by a clock of its own.
    fn agree_on_pauses(&self) -> Result<()> {
        use ha_common::judge::Tables as _;
        for slot in &self.slots {
            let from_ns = self.memory_record(*slot)?.answer_from_ns;
            let waits = self.memory.now_ns() < from_ns;
            let record = self.kernel.record(*slot).context("no record")?;
            record.set_answer_from_ns(if waits { u64::MAX } else { 0 });
        }
        Ok(())
    }

    pub fn record(&self, slot: u32) -> Result<LinkRecord> {
        self.kernel.record(slot).map(contents).with_context(|| format!("no record {slot}"))
    }

    pub fn records(&self) -> Result<Vec<LinkRecord>> {
        self.slots.iter().map(|slot| self.record(*slot)).collect()
    }

    /// Judges a frame on both sides; everything but the time must be the same.
    pub fn judge(&mut self, hook: Hook, frame: &[u8]) -> Result<Judgement> {
        self.memory.advance(STEP_NS);
        self.memory.set_way(hook.way());
        self.agree_on_pauses()?;
        let (judgement, answer) = judge_and_answer(&self.memory, frame);
        let before = self.kernel.counters();
        let arrivals_before = self.arrivals()?;
        let (action, out) = self.out(hook, frame, 1)?;
        ensure!(
            action == expected_action(hook, judgement.reason),
            "{judgement:?}: action {action}"
        );
        if let Some(answer) = answer {
            let (ours, theirs) = (comparable(hook, &out), comparable(hook, &answer));
            ensure!(ours == theirs, "answers differ:\n{out:02x?}\n{answer:02x?}");
        }
        let moved = moved(&before, &self.kernel.counters());
        ensure!(moved == [(judgement.reason, 1)], "{judgement:?}: counters {moved:?}");
        let changes = self.kernel.take_changes();
        let wanted: Vec<_> = judgement.change().iter().map(timeless).collect();
        ensure!(
            changes.iter().map(timeless).collect::<Vec<_>>() == wanted,
            "{judgement:?}: {changes:?}"
        );
        self.check_times(&changes)?;
        let arrivals_after = self.arrivals()?;
        for (slot, (before, after)) in
            self.slots.iter().zip(arrivals_before.iter().zip(&arrivals_after))
        {
            self.check_arrivals(*slot, before, after)
                .with_context(|| format!("{judgement:?}: arrivals of slot {slot}"))?;
        }
        for slot in self.slots.clone() {
            let (kernel, memory) = (self.record(slot)?, self.memory_record(slot)?);
            ensure!(
                without_times(kernel) == without_times(memory),
                "{judgement:?}: {kernel:?} {memory:?}"
            );
        }
        Ok(judgement)
    }

    /// By slot: its last stamp and its arrivals.
    fn arrivals(&self) -> Result<Vec<(LinkRecord, Arrivals)>> {
        let both = |slot: &u32| {
            let arrivals = self.kernel.arrivals(*slot).context("no arrivals")?;
            Ok((self.record(*slot)?, arrivals))
        };
        self.slots.iter().map(both).collect()
    }

    /// What does not depend on the clock is the same on both sides; what does follows from the
    /// stamps, as the host computes it.
    fn check_arrivals(
        &self,
        slot: u32,
        (record_before, before): &(LinkRecord, Arrivals),
        (record_after, after): &(LinkRecord, Arrivals),
    ) -> Result<()> {
        let memory = self.memory.arrivals_of(slot).context("no arrivals in memory")?;
        let timeless = |it: &Arrivals| {
            let counts = (it.intervals.iter().sum::<u64>(), it.jitter.iter().sum::<u64>());
            (it.bursts, it.longest_burst, it.outages, counts)
        };
        ensure!(timeless(after) == timeless(&memory), "{after:?} {memory:?}");
        let mut wanted = *before;
        if timeless(after).3 != timeless(before).3 {
            let interval_ns = record_after.last_seen_ns - record_before.last_seen_ns;
            let sent_ns = record_after.sent_ns.wrapping_sub(record_before.sent_ns);
            let jitter_ns = (interval_ns.wrapping_sub(sent_ns) as i64).unsigned_abs();
            wanted.observed_ns += interval_ns;
            wanted.intervals[buckets::of(interval_ns)] += 1;
            wanted.jitter[buckets::of(jitter_ns)] += 1;
            wanted.largest_jitter_ns = wanted.largest_jitter_ns.max(jitter_ns);
            if interval_ns > wanted.longest_gap_ns {
                wanted.longest_gap_ns = interval_ns;
                wanted.longest_gap_at_ns = record_after.last_seen_ns;
            }
        }
        let Arrivals { bursts, longest_burst, outages, .. } = *after;
        wanted = Arrivals { bursts, longest_burst, outages, ..wanted };
        ensure!(*after == wanted, "{after:?} instead of {wanted:?}");
        Ok(())
    }

    fn memory_record(&self, slot: u32) -> Result<LinkRecord> {
        use ha_common::judge::Tables as _;
        self.memory.record(slot).map(contents).with_context(|| format!("no record {slot}"))
    }

    /// A change carries the time of the stamp.
    fn check_times(&self, changes: &[Change]) -> Result<()> {
        // A greeting leaves no stamp.
        let is_stamped = |change: &&Change| change.kind != ChangeKind::FirstSight as u32;
        for change in changes.iter().filter(is_stamped) {
            let record = self.record(change.slot)?;
            let is_answer = change.kind == ChangeKind::Answered as u32;
            let stamp = if is_answer { record.answer_at_ns } else { record.last_seen_ns };
            ensure!(change.at_ns == stamp, "{change:?}: stamp {stamp}");
        }
        Ok(())
    }
}

/// A frame without its UDP checksum, which TC changes by as much as the packet changed: that of these
/// frames is none, or damaged.
fn comparable(hook: Hook, frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let payload_at = ha_common::frame::parse(frame.as_slice()).map(|it| it.payload_at);
    if let Some(at) = payload_at.filter(|_| hook != Hook::Xdp) {
        frame[at - 2..at].fill(0);
    }
    frame
}

fn run<P>(program: &P, frame: &[u8], repeat: u32) -> Result<(u32, Vec<u8>)>
where
    P: for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>,
{
    let result = bpf::run_for_output(program, frame, repeat);
    result.with_context(|| format!("a frame of {} bytes", frame.len()))
}

pub fn expected_action(hook: Hook, reason: Reason) -> u32 {
    let [drop, pass, back] = match hook {
        Hook::Xdp => XDP_ACTIONS,
        Hook::Tc | Hook::TcAnswer => TC_ACTIONS,
    };
    if reason == Reason::Probe {
        back
    } else if passes(reason) {
        pass
    } else {
        drop
    }
}

/// The counters that grew, and by how much.
pub fn moved(before: &BTreeMap<Reason, u64>, after: &BTreeMap<Reason, u64>) -> Vec<(Reason, u64)> {
    after
        .iter()
        .map(|(reason, count)| (*reason, count - before.get(reason).copied().unwrap_or(0)))
        .filter(|(_, count)| *count != 0)
        .collect()
}

/// A record of which only is kept whether there are stamps. The pause before the next answer is what
/// [`Both::agree_on_pauses`] made of it.
fn without_times(record: LinkRecord) -> LinkRecord {
    let (last_seen_ns, answer_at_ns) = (record.last_seen_ns.min(1), record.answer_at_ns.min(1));
    LinkRecord { last_seen_ns, answer_at_ns, answer_from_ns: 0, ..record }
}
