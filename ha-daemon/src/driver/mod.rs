//! The driver: the one thread that owns the core. It sleeps until the core's next deadline (a timer
//! on absolute time) or until something happened, looks at the records, gives the core its inputs
//! and hands the actions to I/O that cannot block it.

mod arrivals;
mod ask;
mod auto;
mod carry;
mod custody;
mod gates;
mod handover;
mod kernel_watch;
mod keys;
mod letters;
mod losses;
mod own_pause;
mod probe;
mod questions;
mod serial;
mod services;
mod view;
mod wake;

use std::collections::VecDeque;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context, Result};
use ha_common::arrivals::Arrivals;
use ha_common::wire::{DATAGRAM_BYTES_MAX, Header};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::config::{Config, NodeIndex};
use crate::control::event_log::EventLog;
use crate::core::Core;
use crate::core::adoption::{Estate, Holdings};
use crate::core::io::{Input, Observation, PauseSign, Sighting};
use crate::core::message::{Message, MessageError};
use crate::core::time::Moment;
use crate::io::address::AddressSender;
use crate::io::budget::Budget;
use crate::io::clock::monotonic_ns;
use crate::io::gate::Gates;
use crate::io::heard::HeardWords;
use crate::io::keeper::Keeper;
use crate::io::kernel::Kernel;
use crate::io::keys::Keys;
use crate::io::lateness::Lateness;
use crate::io::mailbox::{HandOverAnswer, Inbox, Letter};
use crate::io::paths::Path;
use crate::io::ping::TargetWords;
use crate::io::realtime::Granted;
use crate::io::sender::Shared;
use crate::io::serial::Lines;
use crate::io::service::ServiceSender;
use crate::io::socket::LinkSocket;
use crate::io::table::{Received, Table};
use crate::snapshot::{Severity, Turns, Via};
use custody::Holding;
use own_pause::{OwnPause, Wake};
use questions::Questions;
use wake::Source;

pub use handover::Resumption;

/// The driver wakes at least this often, to renew the daemon's lease in its heartbeats and the
/// holder's: a pause may end that lease so much sooner than its length.
pub const WAKE_MAX: Duration = Duration::from_millis(100);
/// Most sources that one turn looks at; the others come in the next.
const SOURCES_PER_TURN: usize = 16;

/// Most datagrams that are taken from one socket before the others get their turn.
const DATAGRAMS_PER_TURN: usize = 64;

/// Most letters that are read in one turn.
const LETTERS_PER_TURN: usize = 64;

/// How heartbeats of one interface reach the daemon.
#[derive(Debug, Clone)]
pub struct Reception {
    /// How.
    pub via: Via,
    /// Why not better; empty for the best way.
    pub reason: String,
}

/// What the driver is made of.
pub struct Parts {
    /// The configuration.
    pub config: Arc<Config>,
    /// This node.
    pub own: NodeIndex,
    /// Its incarnation.
    pub incarnation: u64,
    /// Its paths, by slot.
    pub paths: Vec<Path>,
    /// How each is received, by slot.
    pub receptions: Vec<Reception>,
    /// The kernel side, when any path uses it.
    pub kernel: Option<Kernel>,
    /// The daemon's own tables.
    pub table: Table,
    /// Sockets, one per local endpoint.
    pub sockets: Vec<LinkSocket>,
    /// Serial lines.
    pub lines: Lines,
    /// Cluster, sender, offered key and incarnation of this node's datagrams.
    pub header: Header,
    /// The keys.
    pub keys: Arc<Keys>,
    /// What is shared with the sender.
    pub shared: Arc<Shared>,
    /// Interval of the sender's ticks.
    pub beat: Duration,
    /// Lateness that counts as a pause of this node: a quarter of the shortest deadtime that may hold.
    pub pause: Duration,
    /// The keeper.
    pub keeper: Keeper,
    /// The gates of pre-armed addresses.
    pub gates: Gates,
    /// The address worker.
    pub addresses: AddressSender,
    /// Where orders for services go.
    pub services: ServiceSender,
    /// What is shown of the ping targets, by position.
    pub pings: Arc<[TargetWords]>,
    /// The event log.
    pub events: Arc<EventLog>,
    /// Letters for the driver.
    pub inbox: Inbox,
    /// Incarnations of the peers as last heard, by slot; for the control connections.
    pub heard: Arc<HeardWords>,
    /// Starts another keeper, away from this thread.
    pub respawn_keeper: Box<dyn Fn() + Send>,
    /// Whether memory is locked.
    pub memory: String,
    /// How much time real-time threads are given.
    pub budget: Budget,
    /// Whether no resource was left behind when the driver ended.
    pub all_released: bool,
    /// What a dead daemon left, to be gone on with.
    pub estate: Option<Estate>,
    /// What this driver goes on from, and what the next one does when it ended with a hand-over.
    pub resumption: Option<Resumption>,
}

/// The driver.
pub struct Driver {
    parts: Parts,
    core: Core,
    epoll: Epoll,
    timer: TimerFd,
    /// What the core was told last, by slot.
    told: Vec<Observation>,
    control_sequences: Vec<u64>,
    /// By slot.
    askers: Vec<ask::Asker>,
    probers: Vec<probe::Prober>,
    /// Incarnations of the peers, by slot, that the connections were told.
    heard_told: Vec<u64>,
    /// The keeper's datagrams do not echo the newest incarnations.
    obituary_is_due: bool,
    own_pause: OwnPause,
    auto: auto::Gaps,
    /// How late it woke by its timer.
    late: Lateness,
    turns: Turns,
    /// When the keepalives of the peers are looked at next, and what they were, by slot.
    arrivals_due_ns: u64,
    arrivals_keepalives_us: Vec<u64>,
    scheduling: Vec<(&'static str, Granted)>,
    questions: Questions,
    /// Who asked for the hand-over that is being prepared.
    hand_over_asked: Option<HandOverAnswer>,
    /// What was told of lost heartbeats, by slot.
    losses: Vec<losses::Told>,
    holding: Holding,
    /// The keeper could not be told something, which was noted.
    keeper_refuses: bool,
    /// It does not read, which was noted.
    keeper_hangs: bool,
    /// What the keeper was told that this node owns.
    holdings: Holdings,
    /// The hand-over is to a daemon that is started later.
    detaches: bool,
    /// When addresses were armed last.
    armed_at_ns: u64,
    kernel_watch: kernel_watch::KernelWatch,
    exit: bool,
}

impl Driver {
    /// Prepares the driver; nothing runs yet.
    ///
    /// # Errors
    /// The kernel refused a descriptor.
    pub fn new(mut parts: Parts) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("no epoll")?;
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        );
        let timer = timer.context("no timer")?;
        let watch = |source: Source| EpollEvent::new(EpollFlags::EPOLLIN, source.number());
        epoll.add(timer.as_fd(), watch(Source::Timer))?;
        epoll.add(parts.inbox.as_fd(), watch(Source::Letters))?;
        epoll.add(parts.keeper.as_fd(), watch(Source::Keeper))?;
        epoll.add(parts.lines.as_fd(), watch(Source::Lines))?;
        if let Some(kernel) = &mut parts.kernel {
            epoll.add(kernel.changes().as_fd(), watch(Source::Changes))?;
        }
        for (position, socket) in parts.sockets.iter().enumerate() {
            epoll.add(socket.as_fd(), watch(Source::Socket(position)))?;
        }
        let now = Moment(monotonic_ns());
        let slots = parts.paths.len();
        let holding = match &parts.estate {
            Some(_) => Holding::Provisional,
            None => Holding::Own,
        };
        if parts.resumption.is_none() && holding == Holding::Own {
            // Nothing is held yet, however long this start took.
            parts.keeper.lease().begin();
        }
        let (core, control_sequences) = handover::core(&mut parts, now);
        let own_pause = OwnPause::new(
            parts.config.detection.own_pause,
            parts.pause,
            parts.config.cluster.holder_lease(),
            parts.beat,
        );
        Ok(Self {
            core,
            epoll,
            timer,
            told: vec![Observation::default(); slots],
            control_sequences,
            askers: vec![ask::Asker::default(); slots],
            probers: vec![probe::Prober::default(); slots],
            heard_told: vec![0; slots],
            obituary_is_due: false,
            own_pause,
            auto: auto::Gaps::new(slots),
            late: Lateness::default(),
            turns: Turns::default(),
            arrivals_due_ns: 0,
            arrivals_keepalives_us: vec![0; slots],
            scheduling: Vec::new(),
            questions: Questions::default(),
            hand_over_asked: None,
            losses: vec![losses::Told::default(); slots],
            holding,
            keeper_refuses: false,
            keeper_hangs: false,
            holdings: Holdings::default(),
            detaches: false,
            armed_at_ns: 0,
            kernel_watch: kernel_watch::KernelWatch::default(),
            exit: false,
            parts,
        })
    }

    /// Runs until the node has left. Gives back what has to be torn down.
    ///
    /// # Errors
    /// Only when the kernel refuses to wait.
    pub fn run(mut self) -> Result<Parts> {
        self.note_receptions();
        self.note_keys();
        self.note_gates();
        self.arm_addresses(None);
        self.renew_limits();
        self.start_kernel_watch();
        while !self.exit {
            let deadline_ns = self.arm()?;
            let mut events = [EpollEvent::empty(); SOURCES_PER_TURN];
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error).context("cannot wait for events"),
            };
            let sources = events.map(|event| Source::numbered(event.data()));
            self.turn(deadline_ns, &sources[..count]);
        }
        self.parts.all_released = self.core.all_released();
        Ok(self.parts)
    }

    /// Starts a thread that passes the kernel side's log lines on.
    ///
    /// # Errors
    /// Its buffer is missing.
    pub fn start_kernel_log(&mut self) -> Result<()> {
        let Some(kernel) = &mut self.parts.kernel else { return Ok(()) };
        let logger = kernel.logger()?;
        let pass_on = move || {
            use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
            let mut logger = logger;
            loop {
                let mut waiting = [PollFd::new(logger.as_fd(), PollFlags::POLLIN)];
                if poll(&mut waiting, PollTimeout::NONE).is_ok() {
                    logger.flush();
                }
            }
        };
        let thread = std::thread::Builder::new().name("ha-kernel-log".to_owned());
        thread.spawn(pass_on).context("cannot start the thread of the kernel log")?;
        Ok(())
    }

    /// Sets the timer to the next deadline.
    fn arm(&mut self) -> Result<u64> {
        let latest = Moment(monotonic_ns()).after(WAKE_MAX);
        let deadline = self.core.deadline().map_or(latest, |deadline| deadline.min(latest));
        // Zero would disarm the timer.
        let at = TimeSpec::from_duration(Duration::from_nanos(deadline.0.max(1)));
        self.timer
            .set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)
            .context("cannot set the timer")?;
        Ok(deadline.0)
    }

    /// One turn: what happened, in an order in which nothing is judged by old news.
    fn turn(&mut self, deadline_ns: u64, sources: &[Source]) {
        let now_ns = monotonic_ns();
        self.turns.note(sources);
        // Whoever wakes after its lease is over must not act on what it had.
        self.check_lease();
        let lateness_ns = now_ns.saturating_sub(deadline_ns);
        if sources.contains(&Source::Timer) {
            self.late.note(lateness_ns);
            // Set again before the next wait; until then it must not stay readable.
            let _ = self.timer.wait();
        }
        let near = self.core.verdict_is_near();
        let wake = Wake { now_ns, suspended_ns: own_pause::suspended_ns(), lateness_ns, near };
        let own = self.own_pause.look(&wake, &self.parts.shared);
        // Each is asked: what they tell, they tell once.
        let softirqs = self.kernel_pause(now_ns);
        self.auto.note_pause(own.map(|it| it.0), softirqs);
        let signs = [own, softirqs.map(|length_ns| (length_ns, PauseSign::Softirqs))];
        if let Some((length_ns, sign)) = signs.into_iter().flatten().max_by_key(|it| it.0) {
            self.handle(Input::OwnPause { length_ns, sign });
        }
        // Not before: whoever sees the lease renewed finds this node's groups given up, if they are.
        if self.own_pause.sender_runs(now_ns, &self.parts.shared) {
            self.renew_holding();
            // Read after that: were the lease that is told the older one, peers could take what this
            // node still holds.
            let ran_ns = monotonic_ns();
            self.parts.shared.driver_ran_ns.store(ran_ns, Relaxed);
            self.renew_lease(ran_ns);
        }
        // Not before: network cards that wake may keep the kernel's lock for long.
        self.attach_again();
        if sources.contains(&Source::Changes)
            && let Some(kernel) = &mut self.parts.kernel
        {
            // Each is only a reason to look, a suspicion of the kernel too; the records say what
            // there is to see.
            let changes = kernel.take_changes();
            self.turns.note_suspicion(&changes);
            self.watch_again(&changes);
        }
        let mut messages = self.receive(sources);
        if sources.contains(&Source::Lines) {
            self.receive_serial(&mut messages);
        }
        self.observe();
        for input in messages {
            self.handle(input);
        }
        if sources.contains(&Source::Letters) {
            self.parts.inbox.acknowledge();
            // A bounded turn: whoever writes letters faster than they are read delays no verdict.
            let letters = std::iter::from_fn(|| self.parts.inbox.take());
            let letters: Vec<Letter> = letters.take(LETTERS_PER_TURN).collect();
            if letters.len() == LETTERS_PER_TURN {
                self.parts.inbox.remind();
            }
            for letter in letters {
                self.letter(letter);
            }
        }
        if sources.contains(&Source::Keeper) {
            self.keeper_died();
        }
        self.update_echoes();
        self.arm_again(now_ns);
        self.ask_probes(now_ns);
        self.test_ways(now_ns);
        self.tell_losses(Moment(now_ns));
        self.renew_arrivals(now_ns);
        self.look_at_gaps(now_ns);
    }

    /// Takes datagrams from the sockets: heartbeats into the records, control messages as inputs.
    fn receive(&mut self, sources: &[Source]) -> Vec<Input> {
        let (mut inputs, mut probes) = (Vec::new(), Vec::new());
        let mut answers = Vec::new();
        let mut buffer = [0; DATAGRAM_BYTES_MAX];
        let positions = sources.iter().filter_map(|source| match source {
            Source::Socket(position) => Some(*position),
            Source::Timer | Source::Changes | Source::Letters | Source::Keeper | Source::Lines => {
                None
            }
        });
        for position in positions {
            let Some(socket) = self.parts.sockets.get(position) else { continue };
            let (interface, audience) = (socket.interface_index, socket.audience);
            let heartbeats = receives_heartbeats(socket, &self.parts.paths, &self.parts.receptions);
            for count in 0..DATAGRAMS_PER_TURN {
                let Ok(Some((length, at_ns))) = socket.receive(&mut buffer) else {
                    if count == 0 {
                        // Then it is no datagram that woke this thread.
                        socket.forget_errors();
                    }
                    break;
                };
                let datagram = &buffer[..length];
                let table = &mut self.parts.table;
                let received = table.receive(datagram, interface, at_ns, heartbeats, audience);
                if let Received::Probe { slot, answer } = received {
                    answers.push((slot as usize, answer));
                }
                let Received::Control { slot, header, body } = received else { continue };
                match Message::decode(&body) {
                    Ok(Message::Probe(probe)) => probes.push((slot as usize, probe, at_ns)),
                    message => inputs.extend(self.control_input(slot, &header, message)),
                }
            }
        }
        for (slot, probe, at_ns) in probes {
            self.probed(slot, probe, at_ns);
        }
        for (slot, answer) in answers {
            self.send_answer(slot, &answer);
        }
        inputs
    }

    fn control_input(
        &self,
        slot: u32,
        header: &Header,
        message: Result<Message, MessageError>,
    ) -> Option<Input> {
        let path = self.parts.paths.get(usize::try_from(slot).ok()?)?;
        let peer = &self.parts.config.nodes[path.peer.0].name;
        match message {
            Ok(message) => Some(Input::Control {
                peer: path.peer,
                incarnation: header.incarnation,
                phase: header.phase as u8,
                message,
            }),
            Err(error) => {
                let text = format!(
                    "control message of {peer} ignored: {error}; is it of a newer version?"
                );
                self.driver_note(Severity::Warning, "not-understood", text);
                None
            }
        }
    }

    /// Looks at every record and tells the core what changed.
    fn observe(&mut self) {
        // Not after: whoever is stopped while it reads would judge silence by what it read before.
        let read_at = Moment(monotonic_ns());
        let mut sightings = Vec::new();
        for (slot, path) in self.parts.paths.iter().enumerate() {
            let Some(record) = record(&self.parts, slot) else { continue };
            let observation = Observation {
                // Loaded first: who sees a new stamp also sees what came with it.
                last_seen: Moment(record.last_seen_ns()),
                incarnation: record.believed(),
                generation: record.generation(),
                phase: record.phase() as u8,
                layers: record.layers() as u8,
                lease_age_ms: record.lease_age_ms(),
                answered: Moment(record.answered_ns()),
                // Before the age, which is stored first: an earlier moment makes no lease younger.
                answer_at: Moment(record.answer_at_ns()),
                answer_incarnation: record.answer_incarnation(),
                answer_lease_age_ms: record.answer_lease_age_ms(),
            };
            if observation != self.told[slot] && observation.last_seen.0 != 0 {
                self.told[slot] = observation;
                self.auto.heard(self.core.peers().get(&path.peer), path.link);
                sightings.push(Sighting { peer: path.peer, link: path.link, observation });
            }
        }
        self.handle_at(Input::Observed(sightings), read_at);
    }

    fn handle(&mut self, input: Input) {
        self.handle_at(input, Moment(monotonic_ns()));
    }

    fn handle_at(&mut self, input: Input, mut now: Moment) {
        let (mut next, mut refused) = (Some(input), VecDeque::new());
        // Once handed over, what is learnt is the next driver's business.
        while self.parts.resumption.is_none()
            && let Some(input) = next.take().or_else(|| refused.pop_front())
        {
            let actions = self.core.handle(input, now);
            self.tell_holdings();
            for action in actions {
                // What is refused at once is news of its own, after these actions.
                refused.extend(self.carry_out(action, now));
            }
            now = Moment(monotonic_ns());
        }
    }
}

/// Whether heartbeats come up to this socket, since no program in the kernel takes them.
#[must_use]
pub fn receives_heartbeats(socket: &LinkSocket, paths: &[Path], receptions: &[Reception]) -> bool {
    let mut slots = paths.iter().zip(receptions).filter(|(path, _)| path.link == socket.link);
    slots.all(|(_, reception)| reception.via == Via::Socket)
}

/// The record of a slot: the kernel's where a program is attached, else the daemon's own.
#[must_use]
pub fn record(parts: &Parts, slot: usize) -> Option<ha_common::record::Record<'_>> {
    let number = u32::try_from(slot).ok()?;
    match (&parts.kernel, parts.receptions.get(slot)?.via) {
        (_, Via::Socket | Via::Serial) | (None, _) => parts.table.record(number),
        (Some(kernel), Via::XdpNative | Via::XdpGeneric | Via::Tc) => kernel.record(number),
    }
}

/// How heartbeats of a slot arrive, as counted where they are judged.
#[must_use]
pub fn arrivals(parts: &Parts, slot: usize) -> Option<Arrivals> {
    let number = u32::try_from(slot).ok()?;
    match (&parts.kernel, parts.receptions.get(slot)?.via) {
        (_, Via::Socket | Via::Serial) | (None, _) => parts.table.arrivals(number),
        (Some(kernel), Via::XdpNative | Via::XdpGeneric | Via::Tc) => kernel.arrivals(number),
    }
}
