//! The daemon: puts the parts together, runs them, takes them down.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use ha_common::auth::Key;
use ha_common::maps::NodeIdentity;
use ha_common::wire::{Header, Kind, Phase};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

use crate::config::{AuthMethod, Config, NodeIndex, Receive, Resource};
use crate::control::backend::{Backend, Busy};
use crate::control::event_log::EventLog;
use crate::control::server;
use crate::control::socket::ControlSocket;
use crate::driver::{Driver, Parts, Reception};
use crate::io::address::{self, AddressCommand, AddressOptions, AddressWorker};
use crate::io::connection::Connections;
use crate::io::keeper::{Keeper, KeeperOptions};
use crate::io::kernel::{Kernel, Slot, Tables};
use crate::io::mailbox::{Letter, Mailbox, mailbox};
use crate::io::paths::{self, Path as PeerPath};
use crate::io::sender::{Plan, Sender, Shared, Target};
use crate::io::socket::{LinkSocket, scoped};
use crate::io::table::Table;
use crate::io::{incarnation, interfaces, realtime};
use crate::names::{InterfaceName, NodeName};
use crate::snapshot::{Severity, Via};

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
    // Kernels before 5.11 count BPF maps against it.
    let infinity = nix::sys::resource::RLIM_INFINITY;
    let _ = nix::sys::resource::setrlimit(
        nix::sys::resource::Resource::RLIMIT_MEMLOCK,
        infinity,
        infinity,
    );
    // A dying process closes its files only after its core dump is written: the keeper and the peers
    // would learn of its death that much later.
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
    let memory = realtime::lock_memory();
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
    tokio::spawn(log_events(Arc::clone(&events)));
    // Whoever cannot be asked does not join.
    let control = ControlSocket::bind(&options.run_directory.join("control.sock"))?;
    let keeper_options = KeeperOptions {
        program: PathBuf::from("/proc/self/exe"),
        node: name.clone(),
        priority: Some(realtime::ADDRESS_PRIORITY),
    };
    let keeper = Keeper::spawn(keeper_options.clone())?;
    let (mailbox, inbox) = mailbox()?;
    let incarnation = take_incarnation(&config, name, options);
    let node = Node { config: Arc::clone(&config), own, incarnation };
    let paths = paths::of(&config, own)?;
    let sockets = node.sockets(&paths)?;
    let (heard, heard_by_connections) = watch::channel(vec![0; paths.len()]);
    let connections = node.connections(&paths, heard_by_connections, &mailbox)?;
    connections.start()?;
    // Who has the ports is the only daemon of this host: addresses and pins that are there now are
    // an earlier one's. Before, they may be those of a daemon that runs.
    let purged = address::purge(&floating_addresses(&config))?;
    for (address, interface) in purged {
        tracing::warn!("removed {address} from {interface}: an earlier daemon left it there");
    }
    let worker = node.address_worker(&mailbox)?;
    interfaces::watch(service_interfaces(&config), mailbox.clone()).await?;
    let (kernel, receptions) = node.kernel(&paths, options)?;
    let shared = Arc::new(Shared::new(paths.len()));
    let sender = node.sender(&paths, &sockets, &shared, &mailbox)?;
    let driver = Driver::new(Parts {
        table: node.table(&paths)?,
        header: node.header()?,
        key: node.active_key()?.1,
        config: Arc::clone(&config),
        own,
        incarnation,
        paths,
        receptions,
        kernel,
        sockets,
        shared,
        keeper,
        addresses: worker.sender(),
        events: Arc::clone(&events),
        inbox,
        mailbox: mailbox.clone(),
        heard,
        respawn_keeper: respawn(keeper_options, mailbox.clone()),
        memory,
        all_released: false,
    })?;
    let mut driver = start(driver, options.kernel_log, &mailbox)?;
    let (stop, stopped) = oneshot::channel::<()>();
    let asks = mailbox.clone();
    let backend = Backend {
        ask: Arc::new(
            move |answer| {
                if asks.post(Letter::Snapshot(answer)) { Ok(()) } else { Err(Busy) }
            },
        ),
        events: Arc::clone(&events),
    };
    let server = tokio::spawn(async move {
        let served = server::serve_on(control, backend, async { drop(stopped.await) }).await;
        if let Err(error) = &served {
            tracing::error!("hactl is answered no more: {error}; the node goes on without it");
        }
        served
    });
    let parts = loop {
        tokio::select! {
            parts = &mut driver => break parts.context("the driver ended without a word")??,
            () = signals.stop() => {
                mailbox.post(Letter::Shutdown);
            }
        }
    };
    let failures = take_down(parts, sender, worker);
    drop(stop);
    let served = server.await.context("the control socket's task failed")?;
    Ok((served.map_err(Into::into), failures))
}

/// Runs the driver on a thread of its own; its parts come back when the node has left.
fn start(
    mut driver: Driver,
    kernel_log: u8,
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
            let granted = realtime::take_fifo(realtime::DRIVER_PRIORITY);
            mailbox.post(Letter::Scheduling { thread: "driver", granted });
            // Nobody waits any more when the process is on its way out.
            let _ = done.send(driver.run());
        })
        .context("cannot start the driver's thread")?;
    Ok(parts)
}

/// Takes everything down that this node put up; goes on past failures and returns all of them.
fn take_down(parts: Parts, sender: Sender, worker: AddressWorker) -> Vec<String> {
    let mut failures = Vec::new();
    sender.stop();
    if let Err(error) = worker.sender().send(AddressCommand::Shutdown) {
        failures.push(error.to_string());
    }
    worker.join();
    if let Some(kernel) = parts.kernel {
        failures.extend(kernel.teardown());
    }
    // Whatever could not be stopped is still held: then the keeper's work begins here.
    if parts.all_released {
        failures.extend(parts.keeper.farewell().err().map(|error| error.to_string()));
    }
    failures
}

fn respawn(options: KeeperOptions, mailbox: Mailbox) -> Box<dyn Fn() + Send> {
    Box::new(move || {
        let (options, mailbox) = (options.clone(), mailbox.clone());
        let spawn = move || {
            mailbox.post(Letter::Keeper(Keeper::spawn(options)));
        };
        if let Err(error) = std::thread::Builder::new().name("ha-respawn".to_owned()).spawn(spawn) {
            tracing::error!("cannot start another keeper: {error}");
        }
    })
}

async fn log_events(events: Arc<EventLog>) {
    let mut follower = events.follow(0);
    loop {
        for event in follower.next(64).await {
            match event.severity {
                Severity::Info => tracing::info!(kind = %event.kind, "{}", event.message),
                Severity::Warning => tracing::warn!(kind = %event.kind, "{}", event.message),
                Severity::Error => tracing::error!(kind = %event.kind, "{}", event.message),
            }
        }
    }
}

fn take_incarnation(config: &Config, name: &NodeName, options: &Options) -> u64 {
    let directory = config.cluster.state_dir.clone().unwrap_or_else(|| {
        if options.run_directory == Path::new(RUN_DIRECTORY) {
            PathBuf::from(STATE_DIRECTORY)
        } else {
            options.run_directory.clone()
        }
    });
    let (incarnation, problem) = incarnation::next(&directory, name);
    if let Some(problem) = problem {
        tracing::warn!(
            "{problem:#}; the incarnation comes from the clock alone, so peers will not \
                        hear this node if its clock went back"
        );
    }
    incarnation
}

fn floating_addresses(config: &Config) -> Vec<(ipnet::IpNet, InterfaceName)> {
    let resources = config.groups.iter().flat_map(|group| &group.resources);
    resources
        .map(|resource| match resource {
            Resource::Address { address, interface } => (*address, interface.clone()),
        })
        .collect()
}

fn service_interfaces(config: &Config) -> Vec<InterfaceName> {
    let mut interfaces: Vec<_> =
        floating_addresses(config).into_iter().map(|(_, interface)| interface).collect();
    interfaces.sort();
    interfaces.dedup();
    interfaces
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

/// A node about to start.
struct Node {
    config: Arc<Config>,
    own: NodeIndex,
    incarnation: u64,
}

impl Node {
    fn keys(&self) -> Vec<(u8, Key)> {
        let key = |key: &crate::config::AuthKey| match key.method {
            AuthMethod::SipHash24 => (key.number, Key::siphash24(&key.secret)),
        };
        self.config.keys.keys.iter().map(key).collect()
    }

    fn active_key(&self) -> Result<(u8, Key)> {
        let active = self.config.keys.active;
        let key = self.keys().into_iter().find(|(number, _)| *number == active);
        key.with_context(|| format!("key {active} is active but not in the key file"))
    }

    fn identity(&self) -> NodeIdentity {
        NodeIdentity {
            cluster: self.config.cluster.id,
            node: self.config.nodes[self.own.0].id,
            incarnation: self.incarnation,
        }
    }

    /// What all datagrams of this node have in common.
    fn header(&self) -> Result<Header> {
        Ok(Header {
            kind: Kind::Heartbeat,
            cluster: self.config.cluster.id,
            sender: self.config.nodes[self.own.0].id,
            receiver: 0,
            link: 0,
            key: self.active_key()?.0,
            body_bytes: 0,
            incarnation: self.incarnation,
            echo: 0,
            sequence: 0,
            sent_ns: 0,
            keepalive_us: self.config.cluster.keepalive.as_micros() as u32,
            generation: 0,
            phase: Phase::Starting,
            layers: 0,
            lease_age_ms: 0,
        })
    }

    fn sockets(&self, paths: &[PeerPath]) -> Result<Vec<LinkSocket>> {
        let mut sockets: Vec<LinkSocket> = Vec::new();
        for path in paths {
            if sockets.iter().all(|socket| socket.local != path.local) {
                sockets.push(LinkSocket::bind(path.local, &path.interface, path.interface_index)?);
            }
        }
        Ok(sockets)
    }

    /// Silence after which the return of a link is worth an event.
    fn silence_ns(&self) -> u64 {
        self.config.cluster.warntime.as_nanos() as u64
    }

    fn table(&self, paths: &[PeerPath]) -> Result<Table> {
        Ok(Table::new(self.identity(), paths, &self.keys(), self.silence_ns()))
    }

    /// Loads and attaches the kernel side; says for every path how it is received.
    fn kernel(
        &self,
        paths: &[PeerPath],
        options: &Options,
    ) -> Result<(Option<Kernel>, Vec<Reception>)> {
        let wants = |path: &PeerPath| self.config.links[path.link.0].receive;
        if paths.iter().all(|path| wants(path) == Receive::Socket) {
            let reception = Reception { via: Via::Socket, reason: String::new() };
            return Ok((None, vec![reception; paths.len()]));
        }
        let mut kernel = Kernel::load(&options.bpf_directory, options.kernel_log);
        match self.attach(&mut kernel, paths) {
            Ok(receptions) => Ok((kernel.ok(), receptions)),
            Err(error) => {
                // No daemon will run that could take down what is attached so far.
                for failure in kernel.map(Kernel::teardown).unwrap_or_default() {
                    tracing::error!("not taken down: {failure}");
                }
                Err(error)
            }
        }
    }

    fn attach(&self, kernel: &mut Result<Kernel>, paths: &[PeerPath]) -> Result<Vec<Reception>> {
        let mut attached: BTreeMap<(InterfaceName, bool), Reception> = BTreeMap::new();
        let mut receptions = Vec::new();
        for path in paths {
            let receive = self.config.links[path.link.0].receive;
            let place = (path.interface.clone(), receive == Receive::Socket);
            if !attached.contains_key(&place) {
                attached.insert(place.clone(), receive_on(kernel, path, receive)?);
            }
            receptions.extend(attached.get(&place).cloned());
        }
        if let Ok(kernel) = kernel {
            kernel.configure(&self.tables(paths, &receptions))?;
        }
        Ok(receptions)
    }

    fn tables(&self, paths: &[PeerPath], receptions: &[Reception]) -> Tables {
        let in_kernel: Vec<(u32, &PeerPath)> = (0..)
            .zip(paths)
            .zip(receptions)
            .filter(|(_, reception)| reception.via != Via::Socket)
            .map(|(path, _)| path)
            .collect();
        let slot = |(slot, path): &(u32, &PeerPath)| Slot {
            slot: *slot,
            peer: path.key.sender,
            link: path.key.link,
            interface: path.interface_index,
            silence_ns: self.silence_ns(),
        };
        Tables {
            identity: self.identity(),
            endpoints: in_kernel.iter().map(|(_, path)| path.endpoint()).collect(),
            paths: in_kernel.iter().map(|(slot, path)| (path.key, *slot)).collect(),
            keys: self.keys(),
            slots: in_kernel.iter().map(slot).collect(),
        }
    }

    fn address_worker(&self, mailbox: &Mailbox) -> Result<AddressWorker> {
        let reports = mailbox.clone();
        let scheduled = mailbox.clone();
        Ok(AddressWorker::start(AddressOptions {
            plan: self.config.announce.clone(),
            address_lifetime: self.config.cluster.address_lifetime,
            at_start: Some(Box::new(move || {
                let granted = realtime::take_fifo(realtime::ADDRESS_PRIORITY);
                scheduled.post(Letter::Scheduling { thread: "address", granted });
            })),
            report: Arc::new(move |report| {
                reports.post(Letter::Address(report));
            }),
        })?)
    }

    fn connections(
        &self,
        paths: &[PeerPath],
        heard: watch::Receiver<Vec<u64>>,
        mailbox: &Mailbox,
    ) -> Result<Connections> {
        Ok(Connections {
            paths: paths.to_vec(),
            own: self.own,
            header: self.header()?,
            receivers: paths.iter().map(|path| path.key.sender).collect(),
            key: self.active_key()?.1,
            accepted_keys: self.keys(),
            heard,
            mailbox: mailbox.clone(),
        })
    }

    fn sender(
        &self,
        paths: &[PeerPath],
        sockets: &[LinkSocket],
        shared: &Arc<Shared>,
        mailbox: &Mailbox,
    ) -> Result<Sender> {
        let mut targets = Vec::new();
        for path in paths {
            let socket = sockets.iter().find(|socket| socket.local == path.local);
            let socket = socket.context("a path without a socket")?;
            targets.push(Target {
                socket: socket.duplicate().context("cannot duplicate a socket")?,
                remote: scoped(path.remote, path.interface_index).into(),
                header: Header { receiver: path.key.sender, link: path.key.link, ..self.header()? },
            });
        }
        let plan = Plan {
            keepalive: self.config.cluster.keepalive,
            pause: self.config.cluster.deadtime / 4,
            key: self.active_key()?.1,
        };
        let mailbox = mailbox.clone();
        Sender::start(plan, targets, Arc::clone(shared), move |granted| {
            mailbox.post(Letter::Scheduling { thread: "sender", granted });
        })
    }
}

/// Attaches to a path's interface as its link wants it.
fn receive_on(kernel: &mut Result<Kernel>, path: &PeerPath, receive: Receive) -> Result<Reception> {
    if receive == Receive::Socket {
        return Ok(Reception { via: Via::Socket, reason: String::new() });
    }
    let attached = match kernel {
        Ok(kernel) => kernel.attach(&path.interface, path.interface_index, receive),
        Err(error) => Err(anyhow::anyhow!("the kernel side cannot be used: {error:#}")),
    };
    match attached {
        Ok(attachment) => Ok(Reception { via: attachment.via, reason: attachment.reason }),
        Err(error) if receive == Receive::Auto => {
            Ok(Reception { via: Via::Socket, reason: format!("{error:#}") })
        }
        Err(error) => Err(error).with_context(|| {
            format!(
                "{} cannot be received as configured; `receive = \"auto\"` takes the best way that works",
                path.interface
            )
        }),
    }
}
