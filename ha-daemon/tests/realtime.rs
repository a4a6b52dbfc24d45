//! A real-time thread has touched the memory that it will use before it begins. In a program of its own: stack
//! and heap of a thread that ended are those of the next one.

use std::hint::black_box;
use std::sync::mpsc::{Sender, channel};

use anyhow::Result;
use ha_daemon::config::Realtime;
use ha_daemon::io::realtime::{keep_heap, take_fifo};
use nix::sys::resource::{UsageWho, getrusage};

const PAGE_BYTES: usize = 4096;
/// Less than what is touched beforehand (`io/realtime.rs`), and far more than a page.
const STACK_BYTES: usize = 96 * 1024;
const HEAP_BYTES: usize = 192 * 1024;
/// The kernel may move a page meanwhile.
const FAULTS_MAX: i64 = 3;
const PRIORITY: u8 = 1;
const WANTED: Realtime = Realtime { enabled: true };

#[inline(never)]
fn use_stack() {
    let mut bytes = [0_u8; STACK_BYTES];
    for byte in bytes.iter_mut().step_by(PAGE_BYTES) {
        *byte = 1;
        black_box(byte);
    }
}

#[inline(never)]
fn use_heap() {
    let pieces: Vec<Vec<u8>> =
        (0..HEAP_BYTES / PAGE_BYTES).map(|_| black_box(vec![1; PAGE_BYTES])).collect();
    drop(black_box(pieces));
}

/// Minor faults of the calling thread in some work.
fn faults(work: fn()) -> Result<i64> {
    let so_far = || getrusage(UsageWho::RUSAGE_THREAD).map(|usage| usage.minor_page_faults());
    let before = so_far()?;
    work();
    Ok(so_far()? - before)
}

/// A new thread: it begins, and tells its faults for stack and heap. It ends when the sender is dropped.
fn thread(begin: fn()) -> Result<(Sender<()>, (i64, i64))> {
    let (end, ended) = channel::<()>();
    let (tell, told) = channel();
    std::thread::spawn(move || {
        begin();
        let found = faults(use_stack).and_then(|stack| Ok((stack, faults(use_heap)?)));
        // Who asked waits for this very message, and ends the thread by going away.
        let _ = tell.send(found);
        let _ = ended.recv();
    });
    Ok((end, told.recv()??))
}

#[test]
fn a_thread_that_begins_as_a_real_time_one_takes_no_faults_for_stack_and_heap() {
    // With huge pages one fault is enough for anything.
    nix::sys::prctl::set_thp_disable(true).unwrap();
    keep_heap(WANTED);
    // The code is there from now on.
    use_stack();
    use_heap();
    // Whether the priority is granted makes no difference to what it touches.
    let (_end, (stack, heap)) = thread(|| drop(take_fifo(WANTED, PRIORITY))).unwrap();
    assert!(stack <= FAULTS_MAX && heap <= FAULTS_MAX, "a real-time one: {stack}, {heap}");
    // While that one has its stack and heap, another one gets others.
    let (_end, (stack, heap)) = thread(|| {}).unwrap();
    assert!(stack > FAULTS_MAX && heap > FAULTS_MAX, "an ordinary one: {stack}, {heap}");
}
