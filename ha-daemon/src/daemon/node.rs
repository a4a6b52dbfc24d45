//! A node about to start: builds the parts of the daemon from the configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use ha_common::auth::Key;
use ha_common::maps::NodeIdentity;
use ha_common::wire::{Header, Kind, Phase};
use tokio::sync::watch;

use super::handover::Handed;
use super::{Options, RUN_DIRECTORY, STATE_DIRECTORY};
use crate::config::{Config, NodeIndex, Receive, Resource};
use crate::driver::Reception;
use crate::io::address::{AddressOptions, AddressWorker, HeldAddress};
use crate::io::connection::Connections;
use crate::io::kernel::{Kernel, Slot, Tables};
use crate::io::mailbox::{Letter, Mailbox};
use crate::io::paths::Path as PeerPath;
use crate::io::records::RecordMemory;
use crate::io::sender::{Plan, Sender, Shared, Target};
use crate::io::socket::{LinkSocket, scoped};
use crate::io::table::Table;
use crate::io::{incarnation, realtime};
use crate::names::{InterfaceName, NodeName};
use crate::snapshot::Via;

/// A node about to start.
pub(super) struct Node {
    pub(super) config: Arc<Config>,
    pub(super) own: NodeIndex,
    pub(super) incarnation: u64,
    /// By slot, what the program before knew: the record in use, and the daemon's own.
    pub(super) known: BTreeMap<u32, (RecordMemory, RecordMemory)>,
}

impl Node {
    pub(super) fn keys(&self) -> Vec<(u8, Key)> {
        self.config.keys.keys.iter().map(|key| (key.number, key.to_key())).collect()
    }

    pub(super) fn active_key(&self) -> Result<(u8, Key)> {
        let active = self.config.keys.active;
        let key = self.keys().into_iter().find(|(number, _)| *number == active);
        key.with_context(|| format!("key {active} is active but not in the key file"))
    }

    pub(super) fn identity(&self) -> NodeIdentity {
        NodeIdentity {
            cluster: self.config.cluster.id,
            node: self.config.nodes[self.own.0].id,
            incarnation: self.incarnation,
        }
    }

    /// What all datagrams of this node have in common.
    pub(super) fn header(&self) -> Result<Header> {
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

    /// One for each local endpoint, those of the program before where they fit.
    pub(super) fn sockets(
        &self,
        paths: &[PeerPath],
        mut handed: Option<&mut Handed>,
    ) -> Result<Vec<LinkSocket>> {
        let mut sockets: Vec<LinkSocket> = Vec::new();
        for path in paths {
            if sockets.iter().all(|socket| socket.local != path.local) {
                let kept = handed.as_mut().and_then(|it| it.socket(path));
                let bind = || LinkSocket::bind(path.local, &path.interface, path.interface_index);
                sockets.push(kept.map_or_else(bind, Ok)?);
            }
        }
        Ok(sockets)
    }

    /// Silence after which the return of a link is worth an event.
    pub(super) fn silence_ns(&self) -> u64 {
        self.config.cluster.warntime.as_nanos() as u64
    }

    pub(super) fn table(&self, paths: &[PeerPath], receptions: &[Reception]) -> Result<Table> {
        let table = Table::new(self.identity(), paths, &self.keys(), self.silence_ns());
        for (slot, reception) in (0..).zip(receptions) {
            let Some((used, own)) = self.known.get(&slot) else { continue };
            let known = match reception.via {
                Via::Socket | Via::Serial => own.with_heartbeats_of(*used),
                Via::XdpNative | Via::XdpGeneric | Via::Tc => *own,
            };
            table.restore(slot, &known);
        }
        Ok(table)
    }

    /// Loads and attaches the kernel side; says for every path how it is received.
    pub(super) fn kernel(
        &self,
        paths: &[PeerPath],
        options: &Options,
    ) -> Result<(Option<Kernel>, Vec<Reception>)> {
        let wants = |path: &PeerPath| self.config.links[path.link.0].receive;
        if paths.iter().all(|path| wants(path) == Receive::Socket) {
            Kernel::discard(&options.bpf_directory)?;
            let reception = Reception { via: Via::Socket, reason: String::new() };
            return Ok((None, vec![reception; paths.len()]));
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

    pub(super) fn tables(&self, paths: &[PeerPath], receptions: &[Reception]) -> Tables {
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
            known: self.known.get(slot).map(|(used, _)| *used),
        };
        Tables {
            identity: self.identity(),
            endpoints: in_kernel.iter().map(|(_, path)| path.endpoint()).collect(),
            paths: in_kernel.iter().map(|(slot, path)| (path.key, *slot)).collect(),
            keys: self.keys(),
            slots: in_kernel.iter().map(slot).collect(),
        }
    }

    pub(super) fn address_worker(
        &self,
        mailbox: &Mailbox,
        held: Vec<HeldAddress>,
    ) -> Result<AddressWorker> {
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
            held,
        })?)
    }

    pub(super) fn connections(
        &self,
        paths: &[PeerPath],
        heard: watch::Receiver<Vec<u64>>,
        mailbox: &Mailbox,
        handed: Option<&mut Handed>,
    ) -> Result<Connections> {
        let (resumed, seen) = handed.map_or_else(Default::default, |it| {
            (it.connections(&self.config, paths), it.introduced(&self.config, paths))
        });
        Ok(Connections {
            paths: paths.to_vec(),
            own: self.own,
            header: self.header()?,
            receivers: paths.iter().map(|path| path.key.sender).collect(),
            key: self.active_key()?.1,
            accepted_keys: self.keys(),
            heard,
            mailbox: mailbox.clone(),
            resumed,
            seen,
        })
    }

    pub(super) fn sender(
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

pub(super) fn service_interfaces(config: &Config) -> Vec<InterfaceName> {
    let mut interfaces: Vec<_> =
        floating_addresses(config).into_iter().map(|(_, interface)| interface).collect();
    interfaces.sort();
    interfaces.dedup();
    interfaces
}
