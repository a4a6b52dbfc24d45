//! A node about to start: builds the parts of the daemon from the configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use ha_common::arrivals::Arrivals;
use ha_common::maps::NodeIdentity;
use ha_common::wire::{Header, Kind, Phase, Way};
use tokio::sync::watch;

use super::handover::Handed;
use super::{Options, RUN_DIRECTORY, STATE_DIRECTORY};
use crate::config::{Config, Group, NodeIndex, OnDaemonDeath, Receive, Resource};
use crate::control::event_log::{EventDraft, EventLog};
use crate::driver::Reception;
use crate::io::address::{AddressOptions, AddressWorker, HeldAddress};
use crate::io::clients::{ClientOptions, Clients};
use crate::io::clock::{monotonic_ns, unix_us};
use crate::io::connection::Connections;
use crate::io::keeper::Lease;
use crate::io::kernel::{Kernel, Slot, Tables};
use crate::io::keys::Keys;
use crate::io::mailbox::{Letter, Mailbox};
use crate::io::paths::{Carrier, Network, Path as PeerPath};
use crate::io::ping::{PingOptions, Pinger};
use crate::io::records::RecordMemory;
use crate::io::sender::{Exit, Plan, Sender, Shared, Target};
use crate::io::serial::Lines;
use crate::io::service::{ServiceOptions, ServiceSender};
use crate::io::socket::{LinkSocket, scoped};
use crate::io::table::Table;
use crate::io::{incarnation, realtime, service};
use crate::names::{InterfaceName, NodeName};
use crate::snapshot::{Severity, Via};

/// A node about to start.
pub(super) struct Node {
    pub(super) config: Arc<Config>,
    pub(super) own: NodeIndex,
    pub(super) incarnation: u64,
    pub(super) keys: Arc<Keys>,
    /// By slot, what the program before knew: the record in use, and the daemon's own.
    pub(super) known: BTreeMap<u32, (RecordMemory, RecordMemory)>,
    /// By slot, how heartbeats arrived at the program before.
    pub(super) arrivals: BTreeMap<u32, Arrivals>,
}

impl Node {
    pub(super) fn identity(&self) -> NodeIdentity {
        NodeIdentity {
            cluster: self.config.cluster.id,
            node: self.config.nodes[self.own.0].id,
            incarnation: self.incarnation,
        }
    }

    /// What all datagrams of this node have in common.
    pub(super) fn header(&self) -> Header {
        Header {
            kind: Kind::Heartbeat,
            cluster: self.config.cluster.id,
            sender: self.config.nodes[self.own.0].id,
            receiver: 0,
            link: 0,
            key: self.keys.active_number(),
            way: Way::None,
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
            key_offered: self.keys.offered(),
        }
    }

    /// One for each local endpoint, those of the program before where they fit.
    pub(super) fn sockets(
        &self,
        paths: &[PeerPath],
        mut handed: Option<&mut Handed>,
    ) -> Result<Vec<LinkSocket>> {
        let mut sockets: Vec<LinkSocket> = Vec::new();
        for path in paths {
            let Some(network) = path.network() else { continue };
            if sockets.iter().any(|socket| socket.link == path.link) {
                continue;
            }
            for entrance in &network.entrances {
                let kept = handed.as_mut().and_then(|it| it.socket(path.link, network, entrance));
                let bind = || LinkSocket::bind(path.link, network, entrance);
                sockets.push(kept.map_or_else(bind, Ok)?);
            }
        }
        Ok(sockets)
    }

    pub(super) fn table(&self, paths: &[PeerPath], receptions: &[Reception]) -> Table {
        let mut table = Table::new(self.identity(), paths, Arc::clone(&self.keys));
        for (slot, reception) in (0..).zip(receptions) {
            let Some((used, own)) = self.known.get(&slot) else { continue };
            let known = match reception.via {
                Via::Socket | Via::Serial => own.with_heartbeats_of(*used),
                Via::XdpNative | Via::XdpGeneric | Via::Tc => *own,
            };
            table.restore(slot, &known);
            if let (Via::Socket | Via::Serial, Some(known)) =
                (reception.via, self.arrivals.get(&slot))
            {
                table.set_arrivals(slot, known);
            }
        }
        table
    }

    /// Loads and attaches the kernel side; says for every path how it is received.
    pub(super) fn kernel(
        &self,
        paths: &[PeerPath],
        options: &Options,
    ) -> Result<(Option<Kernel>, Vec<Reception>)> {
        let wants = |path: &PeerPath| self.config.links[path.link.0].receive;
        if paths.iter().all(|path| path.network().is_none() || wants(path) == Receive::Socket) {
            Kernel::discard(&options.bpf_directory)?;
            let via = |path: &PeerPath| path.network().map_or(Via::Serial, |_| Via::Socket);
            let reception = |path| Reception { via: via(path), reason: String::new() };
            return Ok((None, paths.iter().map(reception).collect()));
        }
        let mut kernel = Kernel::load(&options.bpf_directory, options.kernel_log);
        if kernel.is_err() {
            Kernel::discard(&options.bpf_directory)?;
        }
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

    pub(super) fn attach(
        &self,
        kernel: &mut Result<Kernel>,
        paths: &[PeerPath],
    ) -> Result<Vec<Reception>> {
        let mut attached: BTreeMap<(InterfaceName, bool), Reception> = BTreeMap::new();
        let mut receptions = Vec::new();
        for path in paths {
            let receive = self.config.links[path.link.0].receive;
            let Some(network) = path.network() else {
                receptions.push(Reception { via: Via::Serial, reason: String::new() });
                continue;
            };
            let place = (network.interface.clone(), receive == Receive::Socket);
            if !attached.contains_key(&place) {
                attached.insert(place.clone(), receive_on(kernel, network, receive)?);
            }
            receptions.extend(attached.get(&place).cloned());
        }
        if let Ok(kernel) = kernel {
            kernel.configure(&self.tables(paths, &receptions))?;
            self.restore_arrivals(kernel)?;
        }
        Ok(receptions)
    }

    /// Gives the kernel side what it does not know: its map is new, or another way received.
    fn restore_arrivals(&self, kernel: &mut Kernel) -> Result<()> {
        for (slot, known) in &self.arrivals {
            if kernel.arrivals(*slot).is_some_and(|it| it.observed_ns == 0) {
                kernel.set_arrivals(*slot, known)?;
            }
        }
        Ok(())
    }

    pub(super) fn tables(&self, paths: &[PeerPath], receptions: &[Reception]) -> Tables {
        let in_kernel: Vec<(u32, &PeerPath, &Network)> = (0..)
            .zip(paths)
            .zip(receptions)
            .filter(|(_, reception)| reception.via != Via::Socket)
            .filter_map(|((slot, path), _)| Some((slot, path, path.network()?)))
            .collect();
        let slot = |(slot, path, network): &(u32, &PeerPath, &Network)| Slot {
            slot: *slot,
            peer: path.key.sender,
            link: path.key.link,
            interface: network.interface_index,
            silence_ns: path.silence_ns,
            known: self.known.get(slot).map(|(used, _)| *used),
        };
        let networks = || in_kernel.iter().map(|(_, _, network)| network);
        // What is written last holds: a link that says who is where knows best.
        let endpoints = networks().flat_map(|it| it.returns());
        let endpoints = endpoints.chain(networks().flat_map(|it| it.endpoints())).collect();
        Tables {
            identity: self.identity(),
            endpoints,
            paths: in_kernel.iter().map(|(slot, path, _)| (path.key, *slot)).collect(),
            keys: self.keys.entries(),
            slots: in_kernel.iter().map(slot).collect(),
        }
    }

    /// From here on kernel side and tables have the keys. Until the driver looks, what the records of
    /// an earlier instance say decides which key signs.
    pub(super) fn put_keys_in_force(
        &self,
        kernel: Option<&Kernel>,
        receptions: &[Reception],
        shared: &Shared,
    ) {
        self.keys.in_force(monotonic_ns());
        for (slot, (words, reception)) in (0..).zip(shared.paths.iter().zip(receptions)) {
            let record = kernel.filter(|_| reception.via != Via::Socket);
            let record = record.and_then(|kernel| kernel.record(slot));
            let heard = record
                .filter(|record| record.last_seen_ns() != 0 && record.heard() == record.believed());
            let peer = heard.and_then(|record| self.keys.of_peer(&[record]));
            words.signing.set(self.keys.signing_for(peer));
        }
    }

    pub(super) fn address_worker(
        &self,
        mailbox: &Mailbox,
        shared: &Shared,
        held: Vec<HeldAddress>,
        lease: Arc<Lease>,
    ) -> Result<AddressWorker> {
        let reports = mailbox.clone();
        let scheduled = mailbox.clone();
        let scheduling = self.config.realtime;
        Ok(AddressWorker::start(AddressOptions {
            plan: self.config.announce.clone(),
            address_lifetime: self.config.cluster.holder_times().address_lifetime,
            at_start: Some(Box::new(move || {
                let granted = realtime::take_fifo(scheduling, realtime::ADDRESS_PRIORITY);
                scheduled.post(Letter::Scheduling { thread: "address", granted });
            })),
            lateness: Arc::clone(&shared.address_late),
            report: Arc::new(move |report| {
                reports.post(Letter::Address(report));
            }),
            held,
            lease,
        })?)
    }

    /// Runs services on the runtime of the caller.
    pub(super) fn services(&self, mailbox: &Mailbox) -> ServiceSender {
        let mailbox = mailbox.clone();
        let report = Arc::new(move |report| mailbox.post(Letter::Service(report)));
        service::start(ServiceOptions::new(&self.config, self.own, report))
    }

    /// The thread that pings, when there is anything to ping.
    pub(super) fn pinger(&self, mailbox: &Mailbox) -> Result<Option<Pinger>> {
        let connectivity = &self.config.connectivity;
        if connectivity.targets.is_empty() {
            return Ok(None);
        }
        let (reports, scheduled) = (mailbox.clone(), mailbox.clone());
        let scheduling = self.config.realtime;
        Ok(Some(Pinger::start(PingOptions {
            targets: connectivity.targets.iter().map(|it| it.members.clone()).collect(),
            interval: connectivity.interval,
            deadping: connectivity.deadping,
            at_start: Some(Box::new(move || {
                let granted = realtime::take_fifo(scheduling, realtime::PING_PRIORITY);
                scheduled.post(Letter::Scheduling { thread: "ping", granted });
            })),
            report: Box::new(move |target, reached| reports.post(Letter::Ping { target, reached })),
        })?))
    }

    /// Client programs, which start when the node takes part.
    pub(super) fn clients(&self, events: &Arc<EventLog>) -> Clients {
        let log = Arc::clone(events);
        let note = move |severity, kind: &'static str, message| {
            log.push(EventDraft {
                monotonic_ns: monotonic_ns(),
                unix_us: unix_us(),
                severity,
                kind: kind.to_owned(),
                node: None,
                link: None,
                group: None,
                message,
            });
        };
        let options = ClientOptions {
            environment: service::environment(&self.config, self.own),
            note: Arc::new(note),
        };
        let mut follower = events.follow(0);
        let active = async move {
            while follower.next(64).await.iter().all(|event| event.kind != "active") {}
        };
        Clients::start(&self.config.clients, &options, active)
    }

    pub(super) fn connections(
        &self,
        paths: &[PeerPath],
        heard: watch::Receiver<Vec<u64>>,
        words: &Arc<Shared>,
        mailbox: &Mailbox,
        handed: Option<&mut Handed>,
    ) -> Connections {
        let (resumed, seen) = handed.map_or_else(Default::default, |it| {
            (it.connections(&self.config, paths), it.introduced(&self.config, paths))
        });
        Connections {
            paths: paths.to_vec(),
            own: self.own,
            header: self.header(),
            receivers: paths.iter().map(|path| path.key.sender).collect(),
            keys: Arc::clone(&self.keys),
            words: Arc::clone(words),
            heard,
            mailbox: mailbox.clone(),
            resumed,
            seen,
        }
    }

    /// Says that other nodes may go by other times, or do so no more.
    pub(super) fn tell_mixed_times(&self, handed: Option<&Handed>, mailbox: &Mailbox) {
        let mixed = handed.and_then(|it| it.image.times).is_some_and(|it| it.is_mixed());
        let (severity, message) = match self.config.cluster.mixed_times() {
            Some(text) => (Severity::Warning, text),
            None if mixed => {
                let text = "this node goes by the times of its configuration alone again";
                (Severity::Info, text.to_owned())
            }
            None => return,
        };
        mailbox.post(Letter::Note { severity, kind: "mixed-times", message });
    }

    /// Interval of the sender's ticks: the shortest keepalive of what it sends.
    pub(super) fn beat(&self, paths: &[PeerPath]) -> Duration {
        let keepalives = paths.iter().map(|path| self.config.times(path.link).keepalive);
        keepalives.min().unwrap_or(self.config.cluster.keepalive)
    }

    /// Lateness that counts as a pause of this node: a quarter of the shortest deadtime that may hold.
    pub(super) fn pause(&self, paths: &[PeerPath]) -> Duration {
        let deadtimes = paths.iter().map(|path| self.config.times(path.link).deadtime_min());
        deadtimes.min().unwrap_or(self.config.cluster.deadtime) / 4
    }

    pub(super) fn sender(
        &self,
        paths: &[PeerPath],
        sockets: &[LinkSocket],
        lines: &mut Lines,
        shared: &Arc<Shared>,
        mailbox: &Mailbox,
    ) -> Result<Sender> {
        let mut targets = Vec::new();
        for (slot, path) in paths.iter().enumerate() {
            let keepalive = self.config.times(path.link).keepalive;
            let exit = match &path.carrier {
                Carrier::Network(network) => network_exit(path, network, sockets)?,
                Carrier::Serial(_) => {
                    Exit::Serial(lines.take_beat(slot).context("a path without a line")?)
                }
            };
            targets.push(Target {
                slot,
                exit,
                header: Header {
                    receiver: path.key.sender,
                    link: path.key.link,
                    keepalive_us: keepalive.as_micros() as u32,
                    ..self.header()
                },
                keepalive,
            });
        }
        let plan = Plan {
            idle: self.config.cluster.keepalive,
            pause: self.pause(paths),
            keys: Arc::clone(&self.keys),
            realtime: self.config.realtime,
        };
        let mailbox = mailbox.clone();
        Sender::start(plan, targets, Arc::clone(shared), move |granted| {
            mailbox.post(Letter::Scheduling { thread: "sender", granted });
        })
    }
}

fn network_exit(path: &PeerPath, network: &Network, sockets: &[LinkSocket]) -> Result<Exit> {
    let socket = sockets.iter().find(|socket| socket.link == path.link);
    let remotes = network.remotes.iter();
    let remotes = remotes.map(|it| scoped(*it, network.interface_index).into());
    let socket = socket.context("a path without a socket")?;
    Ok(Exit::Network {
        socket: socket.duplicate().context("cannot duplicate a socket")?,
        remotes: remotes.collect(),
    })
}

/// Attaches to the interface of a path as its link wants it.
fn receive_on(
    kernel: &mut Result<Kernel>,
    network: &Network,
    receive: Receive,
) -> Result<Reception> {
    if receive == Receive::Socket {
        return Ok(Reception { via: Via::Socket, reason: String::new() });
    }
    let attached = match kernel {
        Ok(kernel) => kernel.attach(&network.interface, network.interface_index, receive),
        Err(error) => Err(anyhow::anyhow!("the kernel side cannot be used: {error:#}")),
    };
    match attached {
        Ok(attachment) => {
            let (interface, missing) = (&network.interface, &attachment.no_tc_answer);
            if !missing.is_empty() {
                tracing::warn!("on {interface}, probes are answered by XDP alone: {missing}");
            }
            Ok(Reception { via: attachment.via, reason: attachment.reason })
        }
        Err(error) if receive == Receive::Auto => {
            tracing::debug!("{error:#}");
            Ok(Reception { via: Via::Socket, reason: brief(&format!("{error:#}")) })
        }
        Err(error) => Err(error).with_context(|| {
            format!(
                "{} cannot be received as configured; `receive = \"auto\"` takes the best way that works",
                network.interface
            )
        }),
    }
}

pub(super) fn take_incarnation(config: &Config, name: &NodeName, options: &Options) -> u64 {
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

pub(super) fn floating_addresses(config: &Config) -> Vec<(ipnet::IpNet, InterfaceName)> {
    let resources = config.groups.iter().flat_map(|group| &group.resources);
    resources
        .filter_map(|resource| match resource {
            Resource::Address { address, interface, .. } => Some((*address, interface.clone())),
            Resource::SourceAddress { .. } | Resource::Script { .. } | Resource::Systemd { .. } => {
                None
            }
        })
        .collect()
}

/// Whether a group that may be here goes to another node with its services as soon as this daemon is dead.
pub(super) fn moves_services(config: &Config, own: NodeIndex) -> bool {
    let is_address = |resource: &Resource| matches!(resource, Resource::Address { .. });
    let moves =
        |group: &&Group| group.on_daemon_death == OnDaemonDeath::Move && group.nodes.contains(&own);
    config.groups.iter().filter(moves).any(|group| !group.resources.iter().all(is_address))
}

pub(super) fn service_interfaces(config: &Config) -> Vec<InterfaceName> {
    let mut interfaces: Vec<_> =
        floating_addresses(config).into_iter().map(|(_, interface)| interface).collect();
    interfaces.sort();
    interfaces.dedup();
    interfaces
}

/// Most of a reason that is shown, at either end of it.
const REASON_BYTES_MAX: usize = 300;

/// A reason without its middle when it is long: the kernel's verifier says thousands of lines, and
/// what it objects to in the last ones. The whole of it is in the log at level debug.
fn brief(reason: &str) -> String {
    let (head, tail) = (REASON_BYTES_MAX, reason.len().saturating_sub(REASON_BYTES_MAX));
    if tail <= head {
        return reason.to_owned();
    }
    let (head, tail) = (reason.floor_char_boundary(head), reason.ceil_char_boundary(tail));
    format!("{} [...] {}", &reason[..head], &reason[tail..])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Of `alpha`, with those links to `beta`.
    fn node(links: &str) -> (Node, Vec<PeerPath>) {
        let place = tempfile::tempdir().unwrap();
        let key_file = place.path().join("authkeys");
        std::fs::write(&key_file, "auth 1\n1 siphash a-word-that-is-long-enough\n").unwrap();
        std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let text = format!(
            "[cluster]\nname = \"shop\"\nkeepalive = \"50ms\"\ndeadtime = \"200ms\"\n\
             auth = {{ file = \"authkeys\" }}\n{links}[nodes.alpha]\n[nodes.beta]\n"
        );
        let config = Arc::new(crate::config::parse(&text, &place.path().join("ha.toml")).unwrap());
        let own = NodeIndex(0);
        let paths = crate::io::paths::of(&config, own).unwrap();
        let keys = Arc::new(Keys::new(&config.keys).unwrap());
        let (known, arrivals) = (BTreeMap::new(), BTreeMap::new());
        (Node { config, own, incarnation: 1, keys, known, arrivals }, paths)
    }

    fn line(name: &str, times: &str) -> String {
        format!("[links.{name}]\nkind = \"serial\"\ndevice = \"/dev/{name}\"\n{times}\n")
    }

    #[test]
    fn the_sender_beats_as_often_as_the_fastest_of_its_lines() {
        let slow = line("ttyS0", "keepalive = \"4s\"\ndeadtime = \"16s\"");
        let (alone, paths) = node(&slow);
        assert_eq!(alone.beat(&paths), Duration::from_secs(4), "it is on no network");
        assert_eq!(alone.pause(&paths), Duration::from_secs(4));
        let fast = line("ttyS1", "keepalive = \"1s\"\ndeadtime = \"3s\"");
        let (both, paths) = node(&(slow + &fast));
        assert_eq!(both.beat(&paths), Duration::from_secs(1));
        assert_eq!(both.pause(&paths), Duration::from_millis(750));
        assert_eq!(both.beat(&[]), Duration::from_millis(50), "as the cluster");
    }

    #[test]
    fn a_long_reason_keeps_its_two_ends() {
        assert_eq!(brief("short"), "short");
        let long = format!("begin {} end", "\u{e4}".repeat(1_000));
        let shown = brief(&long);
        assert!(shown.starts_with("begin ") && shown.ends_with(" end"), "{shown}");
        assert!(shown.len() < 2 * REASON_BYTES_MAX + 20);
    }
}
