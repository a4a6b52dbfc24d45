//! The client: asks for the page every millisecond over a new connection each, and records when it
//! was answered and by which node.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

use super::http::{self, ANSWER_LEN_MAX, Page};
use super::{Watcher, locked};
use crate::bed::Netns;
use crate::clock::{as_ns, monotonic_ns};
use crate::web;

const ANSWERS_MAX: usize = 1_000_000;
const EVENTS_PER_WAIT: usize = 64;
const TIMER_TOKEN: u64 = u64::MAX;

/// How the client asks.
#[derive(Debug, Clone, Copy)]
pub struct ClientOptions {
    /// Time between two requests.
    pub interval: Duration,
    /// Time after which a request is given up. Below 1 s no lost SYN is sent again, so that only
    /// requests sent after the takeover can be answered by the new node.
    pub timeout: Duration,
    /// Most requests under way at once; a tick at which there are as many sends none.
    pub in_flight_max: usize,
    /// `SCHED_FIFO` priority, if any: low, below every daemon under test.
    pub priority: Option<u8>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(1),
            timeout: Duration::from_millis(200),
            in_flight_max: 512,
            priority: Some(10),
        }
    }
}

/// One answered request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// When the connection was begun.
    pub sent_ns: u64,
    /// When the whole page had been read.
    pub answered_ns: u64,
    /// The page: the name of the node.
    pub node: Arc<str>,
}

/// A time between two consecutive answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The answer before it; the start of the window when there was none.
    pub from_ns: u64,
    /// The answer after it; the end of the window when there was none.
    pub to_ns: u64,
    /// Whether an answer ended it.
    pub ended: bool,
}

impl Gap {
    /// Its length.
    #[must_use]
    pub fn length_ns(&self) -> u64 {
        self.to_ns.saturating_sub(self.from_ns)
    }
}

/// What became of the requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ClientCounts {
    /// Sent.
    pub sent: u64,
    /// Answered with a page.
    pub answered: u64,
    /// Given up after the timeout.
    pub timed_out: u64,
    /// Refused, reset, unreachable, or answered with something else than a page.
    pub failed: u64,
    /// Ticks at which nothing was sent: too many under way.
    pub skipped: u64,
    /// Ticks that passed while the client did not run.
    pub overslept: u64,
    /// Answers that were forgotten because there were too many: the oldest.
    pub forgotten: u64,
}

#[derive(Debug, Default)]
struct Records {
    answers: VecDeque<Answer>,
    names: Vec<Arc<str>>,
    counts: ClientCounts,
}

/// A client that asks until it is dropped.
#[derive(Debug)]
pub struct Client {
    records: Arc<Mutex<Records>>,
    watcher: Watcher,
}

impl Client {
    /// Starts asking `address`, port 80, from inside of `netns`.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the thread not be started.
    pub fn start(netns: &Arc<Netns>, address: IpAddr, options: ClientOptions) -> Result<Self> {
        let target = SocketAddr::from((address, web::PORT));
        let records = Arc::new(Mutex::new(Records::default()));
        let asking = Asking::new(target, options, Arc::clone(&records))?;
        let netns = Arc::clone(netns);
        let watcher = Watcher::start("client", options.priority, move |stop| {
            if let Err(error) = netns.enter().and_then(|()| asking.run(stop)) {
                eprintln!("the client stops asking: {error:#}");
            }
        })?;
        Ok(Self { records, watcher })
    }

    /// All answers by time of answer (the last 1 000 000).
    #[must_use]
    pub fn answers(&self) -> Vec<Answer> {
        locked(&self.records).answers.iter().cloned().collect()
    }

    /// What became of the requests so far.
    #[must_use]
    pub fn counts(&self) -> ClientCounts {
        locked(&self.records).counts
    }

    /// The longest time between two consecutive answers (by time of answer, whichever node gave
    /// them), of those that overlap the window; times before the first and after the last answer
    /// count up to the window's borders.
    #[must_use]
    pub fn gap_in(&self, from_ns: u64, to_ns: u64) -> Gap {
        longest_gap(locked(&self.records).answers.iter().map(|one| one.answered_ns), from_ns, to_ns)
    }

    /// The first answer of `node` that came no earlier than `after_ns`.
    #[must_use]
    pub fn first_answer(&self, node: &str, after_ns: u64) -> Option<Answer> {
        let records = locked(&self.records);
        let start = records.answers.partition_point(|answer| answer.answered_ns < after_ns);
        records.answers.range(start..).find(|answer| &*answer.node == node).cloned()
    }

    /// Waits for an answer of `node` that came no earlier than `after_ns`.
    ///
    /// # Errors
    /// None came in time; with the counts.
    pub fn wait_answer(&self, node: &str, after_ns: u64, time_max: Duration) -> Result<Answer> {
        let deadline = Instant::now() + time_max;
        loop {
            if let Some(answer) = self.first_answer(node, after_ns) {
                return Ok(answer);
            }
            if Instant::now() > deadline {
                bail!("no answer of {node} within {time_max:?}; {:?}", self.counts());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Granted scheduling of the client.
    #[must_use]
    pub fn scheduling(&self) -> &str {
        &self.watcher.scheduling
    }
}

fn longest_gap(answers: impl Iterator<Item = u64>, from_ns: u64, to_ns: u64) -> Gap {
    let mut longest = Gap { from_ns, to_ns: from_ns, ended: true };
    let mut last_ns = from_ns;
    for at_ns in answers {
        if at_ns >= from_ns {
            let gap = Gap { from_ns: last_ns, to_ns: at_ns, ended: true };
            if gap.length_ns() > longest.length_ns() {
                longest = gap;
            }
        }
        if at_ns > to_ns {
            return longest;
        }
        last_ns = at_ns;
    }
    let open = Gap { from_ns: last_ns, to_ns, ended: false };
    if open.length_ns() > longest.length_ns() { open } else { longest }
}

/// One request under way.
#[derive(Debug)]
struct Flight {
    number: u64,
    socket: Socket,
    sent_ns: u64,
    requested: bool,
    answer: Vec<u8>,
}

/// How a request went on.
enum Progress {
    UnderWay,
    Answered(Arc<str>),
    Failed,
}

/// The client's thread: everything that it owns.
struct Asking {
    target: SocketAddr,
    options: ClientOptions,
    request: Vec<u8>,
    epoll: Epoll,
    timer: TimerFd,
    /// By age, which is by number too: what times out first is in front.
    flights: VecDeque<Option<Flight>>,
    /// Number of the flight in front.
    front: u64,
    under_way: usize,
    records: Arc<Mutex<Records>>,
}

impl Asking {
    fn new(
        target: SocketAddr,
        options: ClientOptions,
        records: Arc<Mutex<Records>>,
    ) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER_TOKEN))?;
        let request = http::request(target);
        let flights = VecDeque::new();
        Ok(Self {
            target,
            options,
            request,
            epoll,
            timer,
            flights,
            front: 0,
            under_way: 0,
            records,
        })
    }

    fn run(mut self, stop: &AtomicBool) -> Result<()> {
        let interval_ns = as_ns(self.options.interval).max(1);
        let mut next_ns = monotonic_ns() + interval_ns;
        let mut events = [EpollEvent::empty(); EVENTS_PER_WAIT];
        while !stop.load(Ordering::Relaxed) {
            let at = TimeSpec::from_duration(Duration::from_nanos(next_ns));
            self.timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for event in events.iter().take(count).filter(|event| event.data() != TIMER_TOKEN) {
                self.advance(event.data(), event.events());
            }
            let now_ns = monotonic_ns();
            if now_ns >= next_ns {
                let overslept = (now_ns - next_ns) / interval_ns;
                locked(&self.records).counts.overslept += overslept;
                next_ns += interval_ns * (overslept + 1);
                self.give_up(now_ns);
                self.send();
            }
        }
        Ok(())
    }

    fn send(&mut self) {
        if self.under_way >= self.options.in_flight_max {
            locked(&self.records).counts.skipped += 1;
            return;
        }
        locked(&self.records).counts.sent += 1;
        let number = self.front + self.flights.len() as u64;
        match self.connect(number) {
            Ok(flight) => {
                self.flights.push_back(Some(flight));
                self.under_way += 1;
            }
            Err(_) => locked(&self.records).counts.failed += 1,
        }
    }

    fn connect(&self, number: u64) -> Result<Flight> {
        let socket = Socket::new(
            Domain::for_address(self.target),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        // Closed by a reset: no port is kept in TIME_WAIT, of which 1000 a second would run out.
        socket.set_linger(Some(Duration::ZERO))?;
        socket.set_tcp_nodelay(true)?;
        let sent_ns = monotonic_ns();
        if let Err(error) = socket.connect(&self.target.into())
            && error.raw_os_error() != Some(libc::EINPROGRESS)
        {
            return Err(error.into());
        }
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        self.epoll.add(&socket, EpollEvent::new(interest, number))?;
        Ok(Flight { number, socket, sent_ns, requested: false, answer: Vec::new() })
    }

    fn advance(&mut self, number: u64, events: EpollFlags) {
        let Some(place) = number.checked_sub(self.front).and_then(|n| usize::try_from(n).ok())
        else {
            return;
        };
        let Some(slot) = self.flights.get_mut(place) else {
            return;
        };
        let Some(flight) = slot.as_mut() else { return };
        let mut records = locked(&self.records);
        match flight.advance(events, &self.request, &mut records) {
            Progress::UnderWay => return,
            Progress::Answered(node) => {
                records.note(Answer { sent_ns: flight.sent_ns, answered_ns: monotonic_ns(), node });
            }
            Progress::Failed => records.counts.failed += 1,
        }
        drop(records);
        *slot = None;
        self.under_way -= 1;
        self.drop_finished();
    }

    fn give_up(&mut self, now_ns: u64) {
        let oldest_ns = now_ns.saturating_sub(as_ns(self.options.timeout));
        while let Some(Some(flight)) = self.flights.front()
            && flight.sent_ns <= oldest_ns
        {
            debug_assert_eq!(flight.number, self.front, "flights are in order");
            if let Some(slot) = self.flights.front_mut() {
                *slot = None;
            }
            self.under_way -= 1;
            locked(&self.records).counts.timed_out += 1;
            self.drop_finished();
        }
    }

    fn drop_finished(&mut self) {
        while let Some(None) = self.flights.front() {
            self.flights.pop_front();
            self.front += 1;
        }
    }
}

impl Flight {
    fn advance(&mut self, events: EpollFlags, request: &[u8], records: &mut Records) -> Progress {
        if !self.requested {
            if events.contains(EpollFlags::EPOLLERR) {
                return Progress::Failed;
            }
            if !events.contains(EpollFlags::EPOLLOUT) {
                return Progress::UnderWay;
            }
            // A fresh connection takes these few bytes at once.
            if !matches!(self.socket.send(request), Ok(sent) if sent == request.len()) {
                return Progress::Failed;
            }
            self.requested = true;
        }
        self.read(records)
    }

    /// Edge-triggered: reads until nothing is left.
    fn read(&mut self, records: &mut Records) -> Progress {
        use std::io::Read;
        let mut chunk = [0_u8; ANSWER_LEN_MAX];
        loop {
            match (&self.socket).read(&mut chunk) {
                Ok(0) => return Progress::Failed,
                Ok(length) => self.answer.extend(chunk.iter().take(length)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return Progress::UnderWay;
                }
                Err(_) => return Progress::Failed,
            }
            match http::parse(&self.answer) {
                Page::Complete(name) => return Progress::Answered(records.interned(name)),
                Page::Incomplete => {}
                Page::Bad => return Progress::Failed,
            }
        }
    }
}

impl Records {
    fn note(&mut self, answer: Answer) {
        self.counts.answered += 1;
        if self.answers.len() >= ANSWERS_MAX {
            self.answers.pop_front();
            self.counts.forgotten += 1;
        }
        self.answers.push_back(answer);
    }

    fn interned(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.iter().find(|known| &***known == name) {
            return Arc::clone(known);
        }
        let new: Arc<str> = name.into();
        self.names.push(Arc::clone(&new));
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(answers: &[u64], from_ns: u64, to_ns: u64) -> (u64, u64, bool) {
        let gap = longest_gap(answers.iter().copied(), from_ns, to_ns);
        (gap.from_ns, gap.to_ns, gap.ended)
    }

    #[test]
    fn the_gap_is_the_longest_time_between_answers_that_meets_the_window() {
        let answers = [10, 20, 90, 100, 110];
        assert_eq!(gap(&answers, 0, 200), (110, 200, false));
        assert_eq!(gap(&answers, 0, 110), (20, 90, true));
        // It began before the window, or ends after it.
        assert_eq!(gap(&answers, 50, 110), (20, 90, true));
        assert_eq!(gap(&answers, 10, 50), (20, 90, true));
        assert_eq!(gap(&answers, 100, 110), (90, 100, true));
    }

    #[test]
    fn silence_to_the_border_of_the_window_is_a_gap() {
        assert_eq!(gap(&[], 5, 50), (5, 50, false));
        assert_eq!(gap(&[40], 0, 50), (0, 40, true));
        assert_eq!(gap(&[1], 5, 50), (1, 50, false));
    }
}
