//! The daemon: puts the parts together, runs them, takes them down.

mod node;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

use crate::config::{Config, NodeIndex, Realtime};
use crate::control::backend::{Backend, Busy};
use crate::control::event_log::EventLog;
use crate::control::parameters::Parameters;
use crate::control::server;
use crate::control::socket::ControlSocket;
use crate::driver::{Driver, Parts, Reception, receives_heartbeats};
use crate::io::address::{self, AddressCommand, AddressWorker};
use crate::io::keeper::{Keeper, KeeperOptions};
use crate::io::kernel::Kernel;
use crate::io::keys::Keys;
use crate::io::mailbox::{Inbox, Letter, Mailbox, mailbox};
use crate::io::paths::{self, Path as PeerPath};
use crate::io::ping::Pinger;
use crate::io::sender::{Sender, Shared};
use crate::io::serial::Lines;
use crate::io::socket::LinkSocket;
use crate::io::{interfaces, process, realtime};
use crate::logging::LoggedEvents;
use crate::names::NodeName;
use node::Node;

/// Where the daemon keeps its socket and lock unless told otherwise.
pub const RUN_DIRECTORY: &str = "/run/ha";
/// Where the incarnation is kept unless configured otherwise.
pub const STATE_DIRECTORY: &str = "/var/lib/ha";
/// Where maps and programs are pinned unless told otherwise.
pub const BPF_DIRECTORY: &str = "/sys/fs/bpf/ha";

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of socket, lock and state.
    pub run_directory: PathBuf,
    /// Directory of the pins.
    pub bpf_directory: PathBuf,
    /// Level of the kernel side's log lines; 0 = none.
    pub kernel_log: u8,
}

/// Runs the node until it has left the cluster.
///
/// # Errors
/// Why it could not start, or what it could not take down.
pub fn run(config: Config, own: NodeIndex, options: &Options) -> Result<()> {
    let name = config.nodes[own.0].name.clone();
    fs::create_dir_all(&options.run_directory)
        .with_context(|| format!("cannot make {}", options.run_directory.display()))?;
    let _lock = lock(&options.run_directory)?;
    process::remember_limits();
    // Kernels before 5.11 count BPF maps against it.
    let infinity = nix::sys::resource::RLIM_INFINITY;
    let _ = nix::sys::resource::setrlimit(
        nix::sys::resource::Resource::RLIMIT_MEMLOCK,
        infinity,
        infinity,
    );
    // A dying process closes its files only after its core dump is written: the keeper and the peers
    // would learn of its death that much later.
    // Only the soft limit: services get theirs back.
    let core = nix::sys::resource::Resource::RLIMIT_CORE;
    if let Ok((_, hard)) = nix::sys::resource::getrlimit(core) {
        let _ = nix::sys::resource::setrlimit(core, 0, hard);
    }
    let memory = realtime::lock_memory(config.realtime);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (finished, failures) =
        runtime.block_on(serve(Arc::new(config), own, &name, options, memory))?;
    for failure in &failures {
        tracing::error!("not taken down: {failure}");
    }
    finished?;
    if failures.is_empty() {
        Ok(())
    } else {
        bail!("{} things were not taken down", failures.len())
    }
}

/// One daemon per run directory.
fn lock(directory: &Path) -> Result<nix::fcntl::Flock<File>> {
    let path = directory.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).map_err(|_| {
        anyhow::anyhow!(
            "another daemon runs with run directory {}: stop it, or choose another --run-dir",
            directory.display()
        )
    })
}

type Finished = (Result<()>, Vec<String>);

async fn serve(
    config: Arc<Config>,
    own: NodeIndex,
    name: &NodeName,
    options: &Options,
    memory: String,
) -> Result<Finished> {
    let mut signals = Signals::new()?;
    let events = Arc::new(EventLog::new().context("cannot make the event log")?);
    let _logged = LoggedEvents::start(&events);
    // Whoever cannot be asked does not join.
    let control = ControlSocket::bind(&options.run_directory.join("control.sock"))?;
    let incarnation = node::take_incarnation(&config, name, options);
    let keys = Arc::new(Keys::new(&config.keys)?);
    let node = Node { config, own, incarnation, keys };
    let Prepared { mut driver, sender, worker, pinger, mailbox } =
        prepare(&node, name, options, memory, &events).await?;
    let clients = node.clients(&events);
    let (stop, stopped) = oneshot::channel::<()>();
    let backend = backend(mailbox.clone(), &node.config, events);
    let server = tokio::spawn(async move {
        let served = server::serve_on(control, backend, async { drop(stopped.await) }).await;
        if let Err(error) = &served {
            tracing::error!("hactl is answered no more: {error}; the node goes on without it");
        }
        served
    });
    let parts = loop {
        tokio::select! {
            parts = &mut driver => break parts,
            () = signals.stop() => {
                mailbox.post(Letter::Shutdown);
            }
        }
    };
    clients.stop().await;
    let parts = parts.context("the driver ended without a word").flatten();
    let parts = parts.inspect_err(|_| discard(options))?;
    let failures = take_down(parts, sender, worker, pinger);
    drop(stop);
    let served = server.await.context("the control socket's task failed")?;
    Ok((served.map_err(Into::into), failures))
}

/// Everything that runs once a node is prepared.
struct Prepared {
    driver: oneshot::Receiver<Result<Parts>>,
    sender: Sender,
    worker: AddressWorker,
    pinger: Option<Pinger>,
    mailbox: Mailbox,
}

/// Starts keeper, connections, address worker, sender and driver, in an order in which a start that
/// fails leaves nothing behind.
async fn prepare(
    node: &Node,
    name: &NodeName,
    options: &Options,
    memory: String,
    events: &Arc<EventLog>,
) -> Result<Prepared> {
    let keeper_options = KeeperOptions {
        program: PathBuf::from("/proc/self/exe"),
        node: name.clone(),
        priority: node.config.realtime.enabled.then_some(realtime::ADDRESS_PRIORITY),
    };
    let keeper = Keeper::spawn(keeper_options.clone())?;
    let (mailbox, inbox) = mailbox()?;
    let paths = paths::of(&node.config, node.own)?;
    let sockets = node.sockets(&paths)?;
    let lines = Lines::start(&node.config, &paths, &mailbox)?;
    let (heard, heard_by_connections) = watch::channel(vec![0; paths.len()]);
    let shared = Arc::new(Shared::new(paths.len()));
    node.connections(&paths, heard_by_connections, &shared, &mailbox).start()?;
    // Who has the ports, or the serial lines, is the only daemon of this host: addresses and pins that are there now are
    // an earlier one's. Before, they may be those of a daemon that runs.
    for (address, interface) in address::purge(&node::floating_addresses(&node.config))? {
        tracing::warn!("removed {address} from {interface}: an earlier daemon left it there");
    }
    let worker = node.address_worker(&mailbox)?;
    let pinger = node.pinger(&mailbox)?;
    interfaces::watch(node::service_interfaces(&node.config), mailbox.clone()).await?;
    let attached = node.kernel(&paths, options)?;
    let started = Started {
        keeper_options,
        keeper,
        mailbox,
        inbox,
        paths,
        sockets,
        lines,
        heard,
        shared,
        worker,
        pinger,
    };
    assemble(node, started, attached, options, memory, events).inspect_err(|_| discard(options))
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
    heard: watch::Sender<Vec<u64>>,
    shared: Arc<Shared>,
    worker: AddressWorker,
    pinger: Option<Pinger>,
}

/// The rest of the way, with programs attached that a failure must take down.
fn assemble(
    node: &Node,
    started: Started,
    (kernel, receptions): (Option<Kernel>, Vec<Reception>),
    options: &Options,
    memory: String,
    events: &Arc<EventLog>,
) -> Result<Prepared> {
    let Started {
        keeper_options,
        keeper,
        mailbox,
        inbox,
        paths,
        sockets,
        mut lines,
        heard,
        shared,
        worker,
        pinger,
    } = started;
    for socket in sockets.iter().filter(|it| !receives_heartbeats(it, &paths, &receptions)) {
        socket.accept_control_only().context("cannot filter what the kernel side passes up")?;
    }
    node.put_keys_in_force(kernel.as_ref(), &receptions, &shared);
    let sender = node.sender(&paths, &sockets, &mut lines, &shared, &mailbox)?;
    let driver = Driver::new(Parts {
        table: node.table(&paths),
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
        addresses: worker.sender(),
        services: node.services(&mailbox),
        pings: pinger.as_ref().map_or_else(|| Arc::from([]), Pinger::words),
        events: Arc::clone(events),
        inbox,
        heard,
        respawn_keeper: respawn(keeper_options, mailbox.clone()),
        memory,
        all_released: false,
        resumption: None,
    })?;
    let driver = start(driver, options.kernel_log, node.config.realtime, &mailbox)?;
    Ok(Prepared { driver, sender, worker, pinger, mailbox })
}

/// Detaches what a start or a driver that failed left attached: no daemon runs that would judge by
/// it. (A daemon that is killed leaves it to the next one.)
fn discard(options: &Options) {
    if let Err(error) = Kernel::discard(&options.bpf_directory) {
        tracing::error!("not taken down: {error:#}");
    }
}

fn backend(mailbox: Mailbox, config: &Config, events: Arc<EventLog>) -> Backend {
    let post = move |letter| if mailbox.post(letter) { Ok(()) } else { Err(Busy) };
    let post_command = post.clone();
    Backend {
        ask: Arc::new(move |answer| post(Letter::Snapshot(answer))),
        command: Arc::new(move |(command, answer)| {
            post_command(Letter::Command { command, answer })
        }),
        parameters: Arc::new(Parameters::of(config)),
        events,
    }
}

/// Runs the driver on a thread of its own; its parts come back when the node has left.
fn start(
    mut driver: Driver,
    kernel_log: u8,
    scheduling: Realtime,
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
            // Nobody waits any more when the process is on its way out.
            let _ = done.send(driver.run());
        })
        .context("cannot start the driver's thread")?;
    Ok(parts)
}

/// Takes everything down that this node put up; goes on past failures and returns all of them.
fn take_down(
    parts: Parts,
    sender: Sender,
    worker: AddressWorker,
    pinger: Option<Pinger>,
) -> Vec<String> {
    let mut failures = Vec::new();
    sender.stop();
    if let Some(pinger) = pinger {
        pinger.stop();
    }
    if let Err(error) = worker.sender().send(AddressCommand::Shutdown) {
        failures.push(error.to_string());
    }
    // Its thread ends with the last sender, should the command have found no room.
    drop(parts.addresses);
    worker.join();
    failures.extend(parts.lines.stop());
    if let Some(kernel) = parts.kernel {
        failures.extend(kernel.teardown());
    }
    // Whatever could not be stopped is still held: then the keeper's work begins here.
    if parts.all_released {
        failures.extend(parts.keeper.farewell().err().map(|error| error.to_string()));
    }
    failures
}

/// Pause before a keeper is started again that died young, or could not be started.
const RESPAWN_PAUSE: Duration = Duration::from_secs(1);

/// Starts another keeper on a thread of its own, and goes on trying until one runs. A keeper that dies
/// at once is not started again at once.
fn respawn(options: KeeperOptions, mailbox: Mailbox) -> Box<dyn Fn() + Send> {
    let last = Arc::new(Mutex::new(None::<Instant>));
    Box::new(move || {
        let (options, mailbox, last) = (options.clone(), mailbox.clone(), Arc::clone(&last));
        let spawn = move || {
            let started =
                last.lock().unwrap_or_else(PoisonError::into_inner).replace(Instant::now());
            if started.is_some_and(|started| started.elapsed() < RESPAWN_PAUSE) {
                std::thread::sleep(RESPAWN_PAUSE);
            }
            loop {
                let keeper = Keeper::spawn(options.clone());
                let failed = keeper.is_err();
                mailbox.post(Letter::Keeper(keeper));
                if !failed {
                    return;
                }
                std::thread::sleep(RESPAWN_PAUSE);
            }
        };
        if let Err(error) = std::thread::Builder::new().name("ha-respawn".to_owned()).spawn(spawn) {
            tracing::error!("cannot start another keeper: {error}");
        }
    })
}

/// The signals that the daemon answers.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal to stop.
    async fn stop(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    tracing::warn!("SIGHUP: this version cannot reload; restart the daemon to take \
                                    over a changed configuration");
                }
            }
        }
    }
}
