//! What goes on the line next: pure, no I/O and no clock.
//!
//! The writer gives the driver only as much as the line can send in a moment, so that what is written
//! next is never behind a long queue: a heartbeat waits for one piece of a control message at most.
//! It computes from the rate when the line is free, since neither pseudo-terminals nor the buffers
//! of USB adapters show in the driver's queue.

use std::collections::VecDeque;

use ha_common::wire::FIXED_BYTES;

use super::framing::{self, HEARTBEAT_FRAME_BYTES, PIECE_FRAME_BYTES_MAX};
use crate::config::serial::line_time_ns;
use crate::core::message::is_probe;

/// How much may still be under way when more is written: the line goes on while its thread wakes.
const AHEAD_BYTES: usize = 16;
/// Pause before bytes are offered again that the driver did not take.
const REFUSED_PAUSE_NS: u64 = 10_000_000;

/// A control message for one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What it says, which is the same when it is repeated.
    pub body: Vec<u8>,
    /// The datagram.
    pub datagram: Vec<u8>,
}

/// What became of messages that were not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unwritten {
    /// A newer one took their place while they waited.
    pub replaced: u64,
    /// They said again what had just been written, before an answer could have come.
    pub repeated: u64,
}

/// The messages of one peer.
#[derive(Debug, Default)]
struct Queue {
    waiting: Option<Message>,
    /// What was written last, and until when saying it again is of no use.
    last: Option<(Vec<u8>, u64)>,
}

/// The writer of one line.
#[derive(Debug)]
pub struct Writer {
    baud: u32,
    /// By peer on this line.
    queues: Vec<Queue>,
    /// Frames of the message that is being written.
    pieces: VecDeque<Vec<u8>>,
    /// Bytes of a frame that the driver has not taken yet.
    rest: VecDeque<u8>,
    refused_until_ns: u64,
    /// When the line has sent everything that was written.
    free_at_ns: u64,
    /// Peer whose heartbeat, and whose message, comes next.
    turn: usize,
    message_turn: usize,
    message_number: u8,
    unwritten: Unwritten,
}

impl Writer {
    /// For so many peers at the other end.
    #[must_use]
    pub fn new(baud: u32, peers: usize) -> Self {
        Self {
            baud,
            queues: (0..peers).map(|_| Queue::default()).collect(),
            pieces: VecDeque::new(),
            rest: VecDeque::new(),
            refused_until_ns: 0,
            free_at_ns: 0,
            turn: 0,
            message_turn: 0,
            message_number: 0,
            unwritten: Unwritten::default(),
        }
    }

    /// Puts a message in the place of the one that waits for the same peer. One that only repeats
    /// what was just written is left out: the core repeats within milliseconds what this line
    /// needs longer for.
    pub fn send(&mut self, peer: usize, message: Message, now_ns: u64) {
        let Some(queue) = self.queues.get_mut(peer) else { return };
        // Neither a measurement nor a question to the kernel is worth a state that waits.
        let is_minor = is_probe(&message.body) || message.datagram.len() == FIXED_BYTES;
        if is_minor && queue.waiting.is_some() {
            self.unwritten.repeated += 1;
            return;
        }
        let said = queue
            .last
            .as_ref()
            .is_some_and(|(body, until_ns)| *body == message.body && now_ns < *until_ns);
        if said && queue.waiting.is_none() {
            self.unwritten.repeated += 1;
        } else if queue.waiting.replace(message).is_some() {
            self.unwritten.replaced += 1;
        }
    }

    /// The bytes to write now; empty: none. `queued` is what the driver still has to send; `beat`
    /// takes the heartbeat that waits for a peer. Report what was taken with [`Writer::wrote`].
    pub fn next(
        &mut self,
        now_ns: u64,
        queued: usize,
        mut beat: impl FnMut(usize) -> Option<[u8; FIXED_BYTES]>,
    ) -> Vec<u8> {
        if self.free_in_ns(now_ns, queued) > 0 {
            return Vec::new();
        }
        if !self.rest.is_empty() {
            return self.rest.iter().copied().collect();
        }
        let peers = self.queues.len();
        let first = self.turn;
        let mut turns = (0..peers).map(|at| (first + at) % peers.max(1));
        let beat = turns.find_map(|peer| Some((peer, framing::whole(&beat(peer)?)?)));
        let frame = beat.map(|(peer, frame)| {
            self.turn = peer + 1;
            frame
        });
        let frame = frame.or_else(|| self.next_piece(now_ns)).unwrap_or_default();
        self.rest = frame.iter().copied().collect();
        frame
    }

    /// The driver took so many of the bytes that [`Writer::next`] gave.
    pub fn wrote(&mut self, taken: usize, now_ns: u64) {
        let taken = taken.min(self.rest.len());
        self.rest.drain(..taken);
        self.free_at_ns = self.free_at_ns.max(now_ns) + line_time_ns(taken, self.baud);
        if !self.rest.is_empty() {
            self.refused_until_ns = now_ns + REFUSED_PAUSE_NS;
        }
    }

    /// When [`Writer::next`] has something to write, if `beats` says whether a heartbeat waits.
    #[must_use]
    pub fn wake_ns(&self, now_ns: u64, queued: usize, beats: bool) -> Option<u64> {
        let messages = self.queues.iter().any(|queue| queue.waiting.is_some());
        let waiting = beats || messages || !self.pieces.is_empty() || !self.rest.is_empty();
        waiting.then(|| now_ns + self.free_in_ns(now_ns, queued))
    }

    /// When everything that was written is through.
    #[must_use]
    pub fn free_at_ns(&self) -> u64 {
        self.free_at_ns
    }

    /// What was not written.
    #[must_use]
    pub fn unwritten(&self) -> Unwritten {
        self.unwritten
    }

    /// The line was interrupted: nothing that was begun is gone on with.
    pub fn restart(&mut self) {
        self.rest.clear();
        self.pieces.clear();
        self.free_at_ns = 0;
        self.refused_until_ns = 0;
        for queue in &mut self.queues {
            *queue = Queue::default();
        }
    }

    fn next_piece(&mut self, now_ns: u64) -> Option<Vec<u8>> {
        if self.pieces.is_empty() {
            let peers = self.queues.len();
            let mut turns = (0..peers).map(|at| (self.message_turn + at) % peers.max(1));
            let peer = turns.find(|peer| self.queues[*peer].waiting.is_some())?;
            let message = self.queues[peer].waiting.take()?;
            self.message_turn = peer + 1;
            self.message_number = self.message_number.wrapping_add(1);
            self.pieces = framing::frames(&message.datagram, self.message_number).into();
            let until_ns = now_ns + self.round_trip_ns();
            self.queues[peer].last = Some((message.body, until_ns));
        }
        self.pieces.pop_front()
    }

    /// How long the answer to the message that begins now takes at least: both are of about the same
    /// length, and heartbeats may take half of the line.
    fn round_trip_ns(&self) -> u64 {
        let bytes: usize = self.pieces.iter().map(Vec::len).sum();
        let between = HEARTBEAT_FRAME_BYTES + PIECE_FRAME_BYTES_MAX;
        line_time_ns(4 * bytes + 2 * between, self.baud)
    }

    fn free_in_ns(&self, now_ns: u64, queued: usize) -> u64 {
        let ahead_ns = line_time_ns(AHEAD_BYTES, self.baud);
        let computed = self.free_at_ns.saturating_sub(now_ns).saturating_sub(ahead_ns);
        let known = line_time_ns(queued.saturating_sub(AHEAD_BYTES), self.baud);
        computed.max(known).max(self.refused_until_ns.saturating_sub(now_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ha_common::wire::DATAGRAM_BYTES_MAX;
    use proptest::prelude::*;

    const BAUD: u32 = 19_200;
    const MS: u64 = 1_000_000;

    fn message(fill: u8, bytes: usize) -> Message {
        Message { body: vec![fill; bytes], datagram: vec![fill; bytes] }
    }

    /// A line that takes everything, and is exactly as fast as it says. Returns the frames with the
    /// moments at which their last byte has passed.
    fn run(
        writer: &mut Writer,
        until_ns: u64,
        keepalive_ns: Option<u64>,
        mut at: impl FnMut(&mut Writer, u64),
    ) -> Vec<(u64, Vec<u8>)> {
        let (mut frames, mut beat_waits, mut next_beat) = (Vec::new(), false, 0);
        let mut now = 0;
        while now < until_ns {
            at(writer, now);
            if keepalive_ns.is_some() && now >= next_beat {
                beat_waits = true;
                next_beat += keepalive_ns.unwrap_or(u64::MAX);
            }
            let take = |_| std::mem::take(&mut beat_waits).then_some([7; FIXED_BYTES]);
            let frame = writer.next(now, 0, take);
            if !frame.is_empty() {
                writer.wrote(frame.len(), now);
                frames.push((writer.free_at_ns(), frame));
            }
            now += MS / 4;
        }
        frames
    }

    #[test]
    fn a_long_message_delays_no_heartbeat_by_more_than_two_of_them() {
        let mut writer = Writer::new(BAUD, 1);
        writer.send(0, message(1, DATAGRAM_BYTES_MAX), 0);
        let keepalive = 250 * MS;
        let frames = run(&mut writer, 5_000 * MS, Some(keepalive), |_, _| {});
        let beats: Vec<u64> =
            frames.iter().filter(|it| it.1.len() == HEARTBEAT_FRAME_BYTES).map(|it| it.0).collect();
        assert_eq!(beats.len(), 20);
        let own = line_time_ns(HEARTBEAT_FRAME_BYTES, BAUD);
        for (number, end) in beats.iter().enumerate() {
            let late = end - number as u64 * keepalive - own;
            assert!(late <= 2 * own, "heartbeat {number} waited for {} ms", late / MS);
        }
        let stream: Vec<u8> = frames.into_iter().flat_map(|it| it.1).collect();
        assert!(framing::datagrams_in(&stream).contains(&vec![1; DATAGRAM_BYTES_MAX]));
    }

    #[test]
    fn a_message_that_waits_is_replaced_and_one_that_was_begun_is_finished() {
        let mut writer = Writer::new(BAUD, 1);
        let frames = run(&mut writer, 3_000 * MS, None, |writer, now| {
            // What the core does: again and again, and news in between.
            if now % (10 * MS) == 0 && now < 300 * MS {
                writer.send(0, message((now / (100 * MS)) as u8, 400), now);
            }
        });
        let stream: Vec<u8> = frames.into_iter().flat_map(|it| it.1).collect();
        let fills: Vec<u8> = framing::datagrams_in(&stream).iter().map(|it| it[0]).collect();
        assert_eq!((fills.first(), fills.last()), (Some(&0), Some(&2)));
        assert!(fills.len() <= 3, "{fills:?}");
        let unwritten = writer.unwritten();
        let written = fills.len() as u64;
        assert_eq!(unwritten.replaced + unwritten.repeated + written, 30);
    }

    #[test]
    fn a_repetition_is_written_when_an_answer_is_overdue() {
        let mut writer = Writer::new(BAUD, 1);
        let frames = run(&mut writer, 5_000 * MS, None, |writer, now| {
            if now % (50 * MS) == 0 {
                writer.send(0, message(5, 200), now);
            }
        });
        let stream: Vec<u8> = frames.into_iter().flat_map(|it| it.1).collect();
        let count = framing::datagrams_in(&stream).len();
        assert!((3..=12).contains(&count), "{count} times in 5 s");
    }

    #[test]
    fn a_line_that_takes_nothing_is_asked_again_and_gets_the_rest_first() {
        let mut writer = Writer::new(BAUD, 1);
        let mut beat = Some([7; FIXED_BYTES]);
        let frame = writer.next(0, 0, |_| beat.take());
        writer.wrote(10, 0);
        let wake = writer.wake_ns(0, 0, false).unwrap();
        assert!(wake >= REFUSED_PAUSE_NS);
        assert!(writer.next(wake - 1, 0, |_| Some([8; FIXED_BYTES])).is_empty());
        assert_eq!(writer.next(wake, 0, |_| Some([8; FIXED_BYTES])), frame[10..]);
        writer.wrote(frame.len() - 10, wake);
        assert_eq!(writer.wake_ns(wake, 0, false), None);
    }

    #[test]
    fn what_the_driver_still_has_counts_too() {
        let mut writer = Writer::new(BAUD, 1);
        assert!(writer.next(0, 1_000, |_| Some([7; FIXED_BYTES])).is_empty());
        let wake = writer.wake_ns(0, 1_000, true).unwrap();
        assert_eq!(wake, line_time_ns(1_000 - AHEAD_BYTES, BAUD));
    }

    #[test]
    fn peers_on_one_line_take_turns() {
        let mut writer = Writer::new(BAUD, 3);
        let mut now = 0;
        let mut order = Vec::new();
        for _ in 0..6 {
            let mut asked = None;
            let frame = writer.next(now, 0, |peer| {
                asked = Some(peer);
                Some([peer as u8 + 1; FIXED_BYTES])
            });
            writer.wrote(frame.len(), now);
            order.extend(asked);
            now = writer.free_at_ns();
        }
        assert_eq!(order, [0, 1, 2, 0, 1, 2]);
    }

    proptest! {
        /// Whatever is asked of it, the line is never given more than it can send.
        #[test]
        fn the_queue_on_the_line_stays_short(
            messages in proptest::collection::vec((0u64..2_000, 1usize..DATAGRAM_BYTES_MAX), 0..20),
        ) {
            let mut writer = Writer::new(BAUD, 1);
            let longest = PIECE_FRAME_BYTES_MAX + AHEAD_BYTES;
            let frames = run(&mut writer, 3_000 * MS, Some(100 * MS), |writer, now| {
                for (at, bytes) in &messages {
                    if now == at * MS {
                        writer.send(0, message(1, *bytes), now);
                    }
                }
                let ahead = writer.free_at_ns().saturating_sub(now);
                assert!(ahead <= line_time_ns(longest, BAUD));
            });
            prop_assert!(frames.iter().all(|it| it.1.len() <= PIECE_FRAME_BYTES_MAX));
        }
    }
}
