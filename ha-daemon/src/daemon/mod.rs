//! The daemon: puts the parts together, runs them, takes them down.

mod addresses;
mod down;
mod gate;
pub mod handover;
mod inherit;
mod node;
mod own_process;
mod respawn;
mod signals;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::oneshot;

use crate::config::{Config, NodeIndex, Realtime};
use crate::control::SOCKET_NAME;
use crate::control::backend::{Backend, Busy};
use crate::control::event_log::EventLog;
use crate::control::parameters::Parameters;
use crate::control::server;
use crate::control::socket::ControlSocket;
use crate::core::adoption::Estate;
use crate::driver::{Driver, Parts, Reception, Resumption, receives_heartbeats};
use crate::io::address::AddressWorker;
use crate::io::budget::Budget;
use crate::io::clock::monotonic_ns;
use crate::io::connection::OpenConnections;
use crate::io::gate::Gates;
use crate::io::heard::HeardWords;
use crate::io::keeper::{Acting, Alive, DOOR_NAME, Keeper, KeeperOptions, Lease};
use crate::io::kernel::Kernel;
use crate::io::keys::Keys;
use crate::io::mailbox::{Inbox, Letter, Mailbox, mailbox};
use crate::io::paths::{self, Path as PeerPath};
use crate::io::ping::Pinger;
use crate::io::realtime::{self, Granted};
use crate::io::sender::{Sender, Shared};
use crate::io::serial::Lines;
use crate::io::socket::LinkSocket;
use crate::io::{interfaces, process};
use crate::logging::LoggedEvents;
use crate::names::NodeName;
use crate::snapshot::Severity;
use down::{detach, discard, end_worker, take_down};
use gate::{Before, GateSide};
use handover::arrive;
use handover::ask::{Asker, Source};
use handover::depart::{self, Departure, Rest};
use handover::{Cause, Handed};
use inherit::inherit;
use node::Node;
use respawn::respawn;
use signals::{Signals, Word};

/// Where the daemon keeps its socket and lock unless told otherwise.
pub const RUN_DIRECTORY: &str = "/run/ha";
/// Where the incarnation is kept unless configured otherwise.
pub const STATE_DIRECTORY: &str = "/var/lib/ha";
/// Where maps and programs are pinned unless told otherwise.
pub const BPF_DIRECTORY: &str = "/sys/fs/bpf/ha";

/// How long clients may take to end before another program takes over; nobody renews the holder's lease
/// meanwhile, so it is a quarter of that if that is less.
const CLIENTS_WAIT_MAX: Duration = Duration::from_secs(1);

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of socket, lock and state.
    pub run_directory: PathBuf,
    /// Directory of the pins.
    pub bpf_directory: PathBuf,
    /// Level of the kernel side's log lines; 0 = none.
    pub kernel_log: u8,
    /// Where the configuration is, for reading it anew.
    pub source: Source,
}

/// Runs the node until it has left the cluster, or goes on from what the program before handed over.
///
/// # Errors
/// Why it could not start, or what it could not take down.
pub fn run(
    mut config: Config,
    own: NodeIndex,
    options: &Options,
    mut handed: Option<Handed>,
) -> Result<()> {
    let name = config.nodes[own.0].name.clone();
    fs::create_dir_all(&options.run_directory)
        .with_context(|| format!("cannot make {}", options.run_directory.display()))?;
    let lock = own_process::lock(&options.run_directory, handed.as_mut().and_then(Handed::lock))?;
    let executable = match &handed {
        Some(handed) => handed.image.executable.clone(),
        None => std::env::current_exe().context("cannot find this program's own file")?,
    };
    // exec(2) has named it after the link that it was found by.
    let _ = nix::sys::prctl::set_name(c"ha-daemon");
    process::remember_limits(handed.as_ref().map_or(&[], |it| &it.image.limits));
    own_process::raise_limits();
    // What is granted is said when everything is loaded; a sender that goes on sends before.
    let _ = realtime::lock_memory(config.realtime);
    realtime::keep_heap(config.realtime);
    if let Some(handed) = &handed {
        config.keys = handed.keys(config.keys);
    }
    let mut config = Arc::new(config);
    loop {
        if let Some(handed) = &handed {
            let cluster = &mut Arc::make_mut(&mut config).cluster;
            cluster.earlier = handed.earlier_than(cluster);
        }
        // Threads of the runtime leave signals to this one.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .on_thread_start(realtime::leave_signals)
            .build()?;
        let start = Start {
            config: Arc::clone(&config),
            own,
            name: &name,
            options,
            executable: &executable,
            lock: &lock,
        };
        let ended = runtime.block_on(serve(start, handed.take()))?;
        drop(runtime);
        match ended {
            Ended::Left { finished, failures } => return left(finished, &failures),
            Ended::HandsOver { departure, leave } => {
                // The next program goes on from here; if there is none, this one does.
                let (fd, reason) = departure.leave(leave)?;
                let mut again = Handed::receive(fd)?;
                again.failure = Some(reason);
                handed = Some(again);
            }
        }
    }
}

fn left(finished: Result<()>, failures: &[String]) -> Result<()> {
    for failure in failures {
        tracing::error!("not taken down: {failure}");
    }
    finished?;
    if failures.is_empty() {
        Ok(())
    } else {
        bail!("{} things were not taken down", failures.len())
    }
}

/// What a program of this node starts with.
struct Start<'a> {
    config: Arc<Config>,
    own: NodeIndex,
    name: &'a NodeName,
    options: &'a Options,
    executable: &'a Path,
    lock: &'a File,
}

/// How it ends.
enum Ended {
    /// The node has left.
    Left { finished: Result<()>, failures: Vec<String> },
    /// Another program goes on; `leave`: it is to leave at once.
    HandsOver { departure: Box<Departure>, leave: bool },
}

async fn serve(start: Start<'_>, mut handed: Option<Handed>) -> Result<Ended> {
    let Start { config, own, name, options, executable, lock } = start;
    let mut signals = Signals::new()?;
    arrive::take_signals();
    let log = Log::begin(handed.as_mut())?;
    // Whoever cannot be asked does not join.
    let control = control_socket(options, handed.as_mut())?;
    let successor = control.successor().context("no descriptor is left")?;
    let incarnation = match &handed {
        Some(handed) => handed.image.core.incarnation(),
        None => node::take_incarnation(&config, name, options),
    };
    let keys = Arc::new(Keys::new(&config.keys)?);
    let mut node =
        Node { config, own, incarnation, keys, known: BTreeMap::new(), arrivals: BTreeMap::new() };
    let prepared = prepare(&mut node, name, options, &log.events, handed).await?;
    let Prepared { mut driver, sender, worker, pinger, mailbox, connections, gates, lease } =
        prepared;
    // This thread starts the scripts. Where the kernel refuses it, the address worker says so.
    let _alive =
        node::moves_services(&node.config, own).then(|| Alive::begin(&lease, Acting::Main));
    let clients = node.clients(&log.events);
    let asker = Asker {
        source: options.source.clone(),
        config: Arc::clone(&node.config),
        own,
        executable: executable.to_path_buf(),
        mailbox: mailbox.clone(),
        pending: Arc::default(),
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let events = Arc::clone(&log.events);
    let backend = backend(mailbox.clone(), &node.config, events, asker.clone());
    let server = tokio::spawn(async move {
        let served = server::serve_on(control, backend, async { drop(stopped.await) }).await;
        if let Err(error) = &served {
            tracing::error!("hactl is answered no more: {error}; the node goes on without it");
        }
        served
    });
    let (parts, told_to_leave) =
        until_driver_ends(&mut driver, &mut signals, &mailbox, &asker).await;
    let parts = parts.context("the driver ended without a word").flatten();
    let hands_over = parts.as_ref().is_ok_and(|parts| parts.resumption.is_some());
    // The next program starts them anew. One that does not end in time is not waited for.
    let clients_wait = CLIENTS_WAIT_MAX.min(node.config.cluster.holder_lease() / 4);
    let patience = if hands_over { clients_wait } else { Duration::MAX };
    if tokio::time::timeout(patience, clients.stop()).await.is_err() {
        tracing::warn!("a client did not end within {clients_wait:?}; it was killed");
    }
    let parts = parts.inspect_err(|_| discard(options))?;
    if hands_over {
        let pending = asker.pending().context("nobody asked for the hand-over")?;
        if pending.cause == Cause::Detach {
            gates.hand_over();
            let failures = detach(parts, sender, worker, pinger);
            drop(stop);
            let served = server.await.context("the control socket's task failed")?;
            return Ok(Ended::Left { finished: served.map_err(Into::into), failures });
        }
        depart::hold_signals();
        if let Some(pinger) = pinger {
            pinger.stop();
        }
        // As all that is of BPF, while heartbeats still leave: it takes the kernel time to close.
        gates.hand_over();
        let rest = Rest {
            cause: pending.cause,
            asked_ns: pending.asked_ns,
            unchanged: pending.unchanged,
            executable: executable.to_path_buf(),
            addresses: end_worker(worker, &parts)?,
            connections: &connections,
            control: successor.hand_over(),
            lock: lock.try_clone().context("no descriptor is left")?.into(),
            events: &log.events,
            logged: log.logged.end(),
        };
        let departure = Box::new(depart::pack(parts, sender, rest)?);
        // The driver may have had its mind made up by the time it was told.
        let leave = told_to_leave || signals.leaves().await;
        return Ok(Ended::HandsOver { departure, leave });
    }
    let failures = take_down(parts, sender, worker, pinger, gates);
    drop(stop);
    let served = server.await.context("the control socket's task failed")?;
    Ok(Ended::Left { finished: served.map_err(Into::into), failures })
}

/// Passes signals on until the driver gives its parts back; and whether one of them asked to leave.
async fn until_driver_ends(
    driver: &mut oneshot::Receiver<Result<Parts>>,
    signals: &mut Signals,
    mailbox: &Mailbox,
    asker: &Asker,
) -> (Result<Result<Parts>, oneshot::error::RecvError>, bool) {
    let mut told_to_leave = false;
    loop {
        tokio::select! {
            parts = &mut *driver => return (parts, told_to_leave),
            word = signals.next() => match word {
                Word::Leave => {
                    told_to_leave = true;
                    mailbox.post(Letter::Shutdown);
                }
                Word::HandOver(cause) => {
                    tokio::spawn(asker.clone().ask(cause, None));
                }
            }
        }
    }
}

/// The event log, and how far it was logged.
struct Log {
    events: Arc<EventLog>,
    logged: LoggedEvents,
}

impl Log {
    fn begin(handed: Option<&mut Handed>) -> Result<Self> {
        let (events, logged) = match handed {
            Some(handed) => {
                let image = &mut handed.image;
                let events = std::mem::take(&mut image.events);
                let by_kind = std::mem::take(&mut image.events_by_kind);
                let log = EventLog::resume(events, image.last_event, image.events_dropped, by_kind);
                (log, image.logged)
            }
            None => (EventLog::new(), 0),
        };
        let events = Arc::new(events.context("cannot make the event log")?);
        let logged = LoggedEvents::start(&events, logged);
        Ok(Self { events, logged })
    }
}

fn control_socket(options: &Options, handed: Option<&mut Handed>) -> Result<ControlSocket> {
    let path = options.run_directory.join(SOCKET_NAME);
    match handed.and_then(Handed::control) {
        // Without its file nobody finds it: made anew.
        Some(listener) => {
            Ok(ControlSocket::resume(&path, listener).or_else(|_| ControlSocket::bind(&path))?)
        }
        None => Ok(ControlSocket::bind(&path)?),
    }
}

/// Everything that runs once a node is prepared.
struct Prepared {
    driver: oneshot::Receiver<Result<Parts>>,
    sender: Sender,
    worker: AddressWorker,
    pinger: Option<Pinger>,
    mailbox: Mailbox,
    connections: Arc<OpenConnections>,
    gates: GateSide,
    lease: Arc<Lease>,
}

/// Starts keeper, connections, address worker, sender and driver, in an order in which a start that
/// fails leaves nothing behind. One that goes on sends first: its peers wait for its heartbeats.
async fn prepare(
    node: &mut Node,
    name: &NodeName,
    options: &Options,
    events: &Arc<EventLog>,
    mut handed: Option<Handed>,
) -> Result<Prepared> {
    let (mailbox, inbox) = mailbox()?;
    let paths = paths::of(&node.config, node.own)?;
    let sockets = node.sockets(&paths, handed.as_mut())?;
    let mut lines = Lines::start(&node.config, &paths, &mailbox)?;
    let shared = Arc::new(Shared::new(paths.len()));
    let mut sender = None;
    if let Some(handed) = &handed {
        handed.prime(&shared, &node.config, &paths, &node.keys);
        sender = Some(node.sender(&paths, &sockets, &mut lines, &shared, &mailbox)?);
        node.known = handed.records(&node.config, &paths);
        node.arrivals = handed.arrivals(&node.config, &paths);
    }
    let resumed_ns = monotonic_ns();
    let mut keeper_options = keeper_options(node, name, options, handed.as_mut())?;
    let resumed = handed.as_mut().and_then(|it| it.keeper(keeper_options.clone()));
    let mut estate = None;
    let mut inherited = Vec::new();
    let keeper = match (resumed, &handed) {
        (Some(keeper), _) => keeper,
        (None, Some(_)) => Keeper::spawn(keeper_options.clone())?,
        // Who has the ports is the only daemon of this host: what is kept is nobody else's.
        (None, None) => match inherit(node, &options.run_directory, &keeper_options) {
            Some(heritage) => {
                keeper_options.lease = Arc::clone(heritage.keeper.lease());
                estate = Some(heritage.estate);
                inherited = heritage.addresses;
                heritage.keeper
            }
            None => Keeper::spawn(keeper_options.clone())?,
        },
    };
    let (heard, heard_by_connections) = HeardWords::start(paths.len())?;
    let connections = node
        .connections(&paths, heard_by_connections, &shared, &mailbox, handed.as_mut())
        .start()?;
    let mut keeper = keeper;
    let before = Before::of(handed.as_ref(), &inherited, keeper.lease());
    let (gates, gate_side) = node.gates(&options.bpf_directory, before, &mailbox).await;
    let addresses::Purged { held, left } =
        addresses::purge(node, handed.as_ref(), inherited, &gates, &mut keeper)?;
    // Else the next program does, when their lifetime is over.
    if !left {
        gate_side.discard_earlier(&options.bpf_directory);
    }
    let stay = held.clone();
    let worker = node.address_worker(&mailbox, &shared, held, Arc::clone(keeper.lease()))?;
    let pinger = node.pinger(&mailbox)?;
    interfaces::watch(node::service_interfaces(&node.config), mailbox.clone()).await?;
    let attached = node.kernel(&paths, options)?;
    // What loading needed (the types of the whole kernel) would be kept, and locked, for good.
    let memory = realtime::settle_memory(node.config.realtime);
    node.tell_mixed_times(handed.as_ref(), &mailbox);
    let resumption = handed.as_ref().map(|it| it.resumption(&node.config, &paths));
    let renewed = handed.as_ref().filter(|it| it.renews_keeper()).map(|_| keeper_options.clone());
    let started = Started {
        keeper_options,
        keeper,
        mailbox,
        inbox,
        paths,
        sockets,
        lines,
        heard,
        worker,
        pinger,
        shared,
        sender,
        resumption,
        estate,
        connections,
        gates,
        gate_side,
    };
    let prepared = assemble(node, started, attached, options, memory, events)
        .inspect_err(|_| discard(options))?;
    if let Some(handed) = &handed {
        handed.report(&node.config, &prepared.mailbox, resumed_ns, &stay);
    }
    if let Some(options) = renewed {
        respawn(options, prepared.mailbox.clone())();
    }
    Ok(prepared)
}

/// How keepers of this daemon are started; the lease is that of the program before, or a new one.
fn keeper_options(
    node: &Node,
    name: &NodeName,
    options: &Options,
    handed: Option<&mut Handed>,
) -> Result<KeeperOptions> {
    let length = node.config.cluster.holder_lease();
    let lease = match handed.and_then(Handed::lease) {
        Some(lease) => lease,
        None => Lease::create(length).context("no memory for the lease")?,
    };
    lease.set_length(length);
    let directory = fs::canonicalize(&options.run_directory);
    Ok(KeeperOptions {
        program: PathBuf::from("/proc/self/exe"),
        node: name.clone(),
        priority: node.config.realtime.enabled.then_some(realtime::ADDRESS_PRIORITY),
        lease: Arc::new(lease),
        meeting: directory.ok().map(|directory| directory.join(DOOR_NAME)),
    })
}

/// What runs, or is open, before anything is attached.
struct Started {
    keeper_options: KeeperOptions,
    keeper: Keeper,
    mailbox: Mailbox,
    inbox: Inbox,
    paths: Vec<PeerPath>,
    sockets: Vec<LinkSocket>,
    lines: Lines,
    heard: Arc<HeardWords>,
    worker: AddressWorker,
    pinger: Option<Pinger>,
    shared: Arc<Shared>,
    /// It sends already when this program goes on from another.
    sender: Option<Sender>,
    resumption: Option<Resumption>,
    estate: Option<Estate>,
    connections: Arc<OpenConnections>,
    gates: Gates,
    gate_side: GateSide,
}

/// The rest of the way, with programs attached that a failure must take down.
fn assemble(
    node: &Node,
    started: Started,
    (kernel, receptions): (Option<Kernel>, Vec<Reception>),
    options: &Options,
    memory: Granted,
    events: &Arc<EventLog>,
) -> Result<Prepared> {
    let Started { keeper_options, keeper, mailbox, inbox, paths, sockets, heard, worker, .. } =
        started;
    let Started { shared, sender, resumption, estate, connections, pinger, mut lines, .. } =
        started;
    let Started { gates, gate_side, .. } = started;
    let lease = Arc::clone(keeper.lease());
    for socket in sockets.iter().filter(|it| !receives_heartbeats(it, &paths, &receptions)) {
        socket
            .accept_control_and_probes()
            .context("cannot filter what the kernel side passes up")?;
    }
    node.put_keys_in_force(kernel.as_ref(), &receptions, &shared);
    let start_sender = || node.sender(&paths, &sockets, &mut lines, &shared, &mailbox);
    let sender = sender.map_or_else(start_sender, Ok)?;
    let mut budget = Budget::find(node.config.realtime);
    budget.warnings.extend(memory.refused.then(|| format!("memory is {}", memory.text)));
    for warning in &budget.warnings {
        let (severity, message) = (Severity::Warning, warning.clone());
        mailbox.post(Letter::Note { severity, kind: "realtime-refused", message });
    }
    let driver = Driver::new(Parts {
        table: node.table(&paths, &receptions),
        header: node.header(),
        beat: node.beat(&paths),
        pause: node.pause(&paths),
        keys: Arc::clone(&node.keys),
        config: Arc::clone(&node.config),
        own: node.own,
        incarnation: node.incarnation,
        paths,
        receptions,
        kernel,
        sockets,
        lines,
        shared,
        keeper,
        gates,
        addresses: worker.sender(),
        services: node.services(&mailbox),
        pings: pinger.as_ref().map_or_else(|| Arc::from([]), Pinger::words),
        events: Arc::clone(events),
        inbox,
        heard,
        respawn_keeper: respawn(keeper_options, mailbox.clone()),
        memory: memory.text,
        budget,
        all_released: false,
        estate,
        resumption,
    })?;
    let driver_lease = Arc::clone(&lease);
    let driver = start(driver, options.kernel_log, node.config.realtime, driver_lease, &mailbox)?;
    let gates = gate_side;
    Ok(Prepared { driver, sender, worker, pinger, mailbox, connections, gates, lease })
}

fn backend(mailbox: Mailbox, config: &Config, events: Arc<EventLog>, asker: Asker) -> Backend {
    let post = move |letter| if mailbox.post(letter) { Ok(()) } else { Err(Busy) };
    let post_command = post.clone();
    let hand_over = move |cause, answer| {
        tokio::spawn(asker.clone().ask(cause, Some(answer)));
        Ok(())
    };
    Backend {
        ask: Arc::new(move |answer| post(Letter::Snapshot(answer))),
        command: Arc::new(move |(command, answer)| {
            post_command(Letter::Command { command, answer })
        }),
        parameters: Arc::new(Parameters::of(config)),
        hand_over: Arc::new(hand_over),
        events,
    }
}

/// Runs the driver on a thread of its own; its parts come back when the node has left.
fn start(
    mut driver: Driver,
    kernel_log: u8,
    scheduling: Realtime,
    lease: Arc<Lease>,
    mailbox: &Mailbox,
) -> Result<oneshot::Receiver<Result<Parts>>> {
    if kernel_log > 0 {
        driver.start_kernel_log()?;
    }
    let (done, parts) = oneshot::channel();
    let mailbox = mailbox.clone();
    std::thread::Builder::new()
        .name("ha-driver".to_owned())
        .spawn(move || {
            let granted = realtime::take_fifo(scheduling, realtime::DRIVER_PRIORITY);
            mailbox.post(Letter::Scheduling { thread: "driver", granted });
            // What it is refused the address worker is refused, too, and says so.
            let alive = Alive::begin(&lease, Acting::Driver);
            let ended = driver.run();
            // Before the next program may begin.
            drop(alive);
            // Nobody waits any more when the process is on its way out.
            let _ = done.send(ended);
        })
        .context("cannot start the driver's thread")?;
    Ok(parts)
}
