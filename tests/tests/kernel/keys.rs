//! Keys of an earlier file in the map: accepted, forgotten, and written while packets come.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Result, ensure};
use ha_common::reason::Reason;
use ha_common::vectors::{EARLIER, Packet, World, key, world};
use ha_daemon::io::kernel::Kernel;
use ha_tests::bpf::{self, BpfFs};

use crate::world::{Both, Hook, moved};

/// Heartbeats that come while keys are written.
const HEARTBEATS: u64 = 20_000;
/// Changes that they meet, at least.
const CHANGES_MIN: usize = 12;

/// A heartbeat that names one key and is signed with that of an entry.
fn signed(sequence: u64, number: u8, entry: u8) -> Packet {
    let mut packet = Packet { key: key(entry), ..Packet::heartbeat(sequence) };
    packet.header.key = number;
    packet
}

fn outcome(both: &mut Both, packet: &Packet) -> Result<Reason> {
    let before = both.kernel.counters();
    both.run(Hook::Xdp, &packet.frame(), 1)?;
    let moved = moved(&before, &both.kernel.counters());
    ensure!(moved.len() == 1, "{moved:?}");
    Ok(moved[0].0)
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn forgotten_keys_are_refused_and_the_others_stay() -> Result<()> {
    let mut both = Both::new(world())?;
    let numbers = [(1, Reason::BadTag), (5, Reason::BadTag), (9, Reason::UnknownKey)];
    for (sequence, (number, _)) in (1..).zip(numbers) {
        let packet = signed(sequence, number, EARLIER + number);
        ensure!(outcome(&mut both, &packet)? == Reason::Accepted, "key {number}");
        ensure!(both.record(0)?.key_entry == u32::from(EARLIER + number), "key {number}");
    }
    both.kernel.forget_retained_keys()?;
    for (number, reason) in numbers {
        let packet = signed(10, number, EARLIER + number);
        ensure!(outcome(&mut both, &packet)? == reason, "key {number}");
    }
    for (sequence, number) in (10..).zip([1, 3, 4, 5, 6, 7]) {
        let packet = signed(sequence, number, number);
        ensure!(outcome(&mut both, &packet)? == Reason::Accepted, "key {number}");
        ensure!(both.record(0)?.key_entry == u32::from(number), "key {number}");
    }
    Ok(())
}

/// Key 1 before and after a change: the other word under the same number, the first one retained.
fn before_and_after() -> [World; 2] {
    let (mut before, mut after) = (world(), world());
    before.keys = vec![(1, key(1))];
    after.keys = vec![(1, key(2)), (EARLIER + 1, key(1))];
    [before, after]
}

#[test]
#[ignore = "needs root: loads BPF programs"]
fn no_heartbeat_is_refused_while_keys_are_written() -> Result<()> {
    let place = BpfFs::mount()?;
    let [before, after] = before_and_after().map(|world| bpf::tables(&world));
    let mut kernel = Kernel::load(&place.directory(), 0)?;
    kernel.configure(&before)?;
    // A second instance on the same maps: its program receives while the first one writes.
    let mut receiver = Kernel::load(&place.directory(), 0)?;
    let program = &*receiver.xdp()?;
    let frames: Vec<_> = (1..=HEARTBEATS).map(|it| Packet::heartbeat(it).frame()).collect();
    let changes = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // However fast they are received, they meet so many changes.
        let receive = || {
            frames.iter().enumerate().try_for_each(|(index, frame)| {
                while changes.load(Relaxed) < index * CHANGES_MIN / frames.len() {
                    std::thread::yield_now();
                }
                bpf::run(program, frame, 1).map(drop)
            })
        };
        let receiving = scope.spawn(receive);
        let mut write = || {
            while !receiving.is_finished() {
                // Back again by the same way: what signs is accepted before, while and after.
                kernel.configure(&after)?;
                kernel.configure(&before)?;
                changes.fetch_add(1, Relaxed);
            }
            anyhow::Ok(())
        };
        let written = write();
        // Whatever happened, nobody waits for another change.
        changes.store(usize::MAX, Relaxed);
        receiving.join().unwrap()?;
        written
    })?;
    let counters = kernel.counters();
    ensure!(counters.get(&Reason::Accepted) == Some(&HEARTBEATS), "{counters:?}");
    Ok(())
}
