//! The new program: what it was handed, and the parts that go on with it.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Context, Result};
use ha_common::arrivals::Arrivals;
use nix::sys::signal::SigSet;

use super::Cause;
use super::image::{self, Image, PathImage, Tail};
use crate::config::{Cluster, Config, HolderTimes, KeyRing, LinkIndex, Resource};
use crate::driver::Resumption;
use crate::io::address::{AddressReport, HeldAddress};
use crate::io::clock::monotonic_ns;
use crate::io::connection::Connection;
use crate::io::gate::Gates;
use crate::io::keeper::{Held, Keeper, KeeperOptions, Lease};
use crate::io::keys::Keys;
use crate::io::mailbox::{Letter, Mailbox};
use crate::io::paths::{Cast, Entrance, Network, Path};
use crate::io::records::RecordMemory;
use crate::io::sender::Shared;
use crate::io::socket::LinkSocket;
use crate::io::sys;
use crate::names::InterfaceName;
use crate::snapshot::Severity;

/// What this program was handed.
#[derive(Debug)]
pub struct Handed {
    /// What it says.
    pub image: Image,
    tail: Tail,
    descriptors: BTreeMap<RawFd, OwnedFd>,
    /// Why the hand-over failed, when it is the old program that goes on.
    pub failure: Option<String>,
}

impl Handed {
    /// Reads what the program before left at a descriptor, and takes its descriptors over. What is
    /// not used closes with this.
    ///
    /// # Errors
    /// It is not a hand-over of this version.
    pub fn receive(fd: RawFd) -> Result<Self> {
        let memory = sys::adopt(fd).with_context(|| {
            format!("file descriptor {fd} is not open; only ha-daemon itself hands over")
        })?;
        let (image, tail) = image::read(memory)?;
        let adopt = |fd: RawFd| Some((fd, sys::adopt(fd).ok()?));
        let descriptors = image.descriptors().into_iter().filter_map(adopt).collect();
        Ok(Self { image, tail, descriptors, failure: None })
    }

    /// The lock of the run directory.
    pub fn lock(&mut self) -> Option<File> {
        self.descriptors.remove(&self.image.lock).map(File::from)
    }

    /// The control socket's listener.
    pub fn control(&mut self) -> Option<OwnedFd> {
        self.descriptors.remove(&self.image.control)
    }

    /// The socket that is bound to an entrance. One of a multicast group is made anew: it may send
    /// with another hop limit.
    pub fn socket(
        &mut self,
        link: LinkIndex,
        network: &Network,
        entrance: &Entrance,
    ) -> Option<LinkSocket> {
        let same = |it: &&image::SocketImage| {
            it.local == entrance.address
                && it.interface == network.interface
                && it.interface_index == network.interface_index
        };
        let fd = self.image.sockets.iter().find(same)?.fd;
        let socket = self.descriptors.remove(&fd)?;
        match entrance.cast {
            Cast::Multicast { .. } => None,
            Cast::Unicast | Cast::Broadcast => {
                LinkSocket::resume(socket, link, network, entrance).ok()
            }
        }
    }

    /// The lease, which goes on.
    pub fn lease(&mut self) -> Option<Lease> {
        let memory = self.descriptors.remove(&self.image.keeper.lease?)?;
        Lease::of(memory).ok()
    }

    /// The keeper, which has noticed nothing.
    pub fn keeper(&mut self, options: KeeperOptions) -> Option<Keeper> {
        let keeper = &self.image.keeper;
        let socket = self.descriptors.remove(&keeper.fd)?;
        let held = |(address, interface): &(String, InterfaceName)| {
            Some(Held { address: address.parse().ok()?, interface: interface.clone() })
        };
        let held = keeper.held.iter().filter_map(held).collect();
        Some(Keeper::resume(options, socket, keeper.pid, held))
    }

    /// Whether another keeper is to take over from that one: both sides of their socket are one version.
    #[must_use]
    pub fn renews_keeper(&self) -> bool {
        self.image.cause == Cause::Reexec && self.failure.is_none()
    }

    fn path(&self, config: &Config, path: &Path) -> Option<(usize, &PathImage)> {
        let (peer, link) = (&config.nodes[path.peer.0].name, &config.links[path.link.0].name);
        let mut paths = self.image.paths.iter().enumerate();
        paths.find(|(_, it)| it.peer == *peer && it.link == *link)
    }

    /// What the driver goes on from.
    pub fn resumption(&self, config: &Config, paths: &[Path]) -> Resumption {
        let sequence =
            |path: &Path| self.path(config, path).map_or(0, |(_, it)| it.control_sequence);
        Resumption {
            core: self.image.core.clone(),
            control_sequences: paths.iter().map(sequence).collect(),
            custody: None,
        }
    }

    /// What the sender goes on with: numbers that go on, and a word that the restart is not over.
    pub fn prime(&self, shared: &Shared, config: &Config, paths: &[Path], keys: &Keys) {
        let (generation, phase) = self.image.core.advertised();
        shared.generation.store(generation, Relaxed);
        shared.phase.store(phase as u8, Relaxed);
        shared.services_well.store(self.image.core.services_well(), Relaxed);
        for (path, words) in paths.iter().zip(&shared.paths) {
            let Some((position, known)) = self.path(config, path) else { continue };
            let sequence = self.tail.sequences.get(position).copied().unwrap_or_default();
            words.sequence.store(sequence, Relaxed);
            words.probe_sequence.store(known.probe_sequence, Relaxed);
            words.signing.set(keys.signing_for(known.record.keys()));
            words.echo.store(known.echo, Relaxed);
            words.hears.store(known.hears, Relaxed);
            words.sent.store(known.sent, Relaxed);
            words.errors.store(known.errors, Relaxed);
        }
    }

    /// By slot, what the records in use knew, and what the daemon's own did.
    pub fn records(
        &self,
        config: &Config,
        paths: &[Path],
    ) -> BTreeMap<u32, (RecordMemory, RecordMemory)> {
        let known = |(slot, path): (u32, &Path)| {
            self.path(config, path).map(|(_, it)| (slot, (it.record, it.own)))
        };
        (0..).zip(paths).filter_map(known).collect()
    }

    /// By slot, how heartbeats arrived.
    pub fn arrivals(&self, config: &Config, paths: &[Path]) -> BTreeMap<u32, Arrivals> {
        let known = |(slot, path): (u32, &Path)| {
            self.path(config, path).map(|(_, it)| (slot, Arrivals::from(&it.arrivals)))
        };
        (0..).zip(paths).filter_map(known).collect()
    }

    /// The control connections of paths that are still there.
    pub fn connections(&mut self, config: &Config, paths: &[Path]) -> Vec<Connection> {
        let images = std::mem::take(&mut self.image.connections);
        let resumed = |image: image::ConnectionImage| {
            let is_its = |path: &Path| {
                config.nodes[path.peer.0].name == image.peer
                    && config.links[path.link.0].name == image.link
            };
            let slot = paths.iter().position(is_its)?;
            let fd = self.descriptors.remove(&image.fd)?;
            Some(Connection { slot, incarnation: image.incarnation, fd })
        };
        images.into_iter().filter_map(resumed).collect()
    }

    /// By path, the introductions that were seen.
    pub fn introduced(&self, config: &Config, paths: &[Path]) -> Vec<(u64, u64)> {
        let seen = |path: &Path| self.path(config, path).map_or((0, 0), |(_, it)| it.introduced);
        paths.iter().map(seen).collect()
    }

    /// The addresses that this configuration has still, and those that it has not.
    pub fn addresses(
        &self,
        floating: &[(ipnet::IpNet, InterfaceName)],
        gates: &Gates,
    ) -> Addresses {
        let configured = |held: &HeldAddress| {
            let same = |(address, interface): &(ipnet::IpNet, InterfaceName)| {
                held.address == address.to_string() && held.interface == *interface
            };
            // An armed one without a gate would be here and at its owner.
            floating.iter().any(same) && (!held.armed || gates.has(&held.address, &held.interface))
        };
        let (stay, go) = self.image.addresses.iter().cloned().partition(configured);
        Addresses { stay, go }
    }

    /// The keys that a daemon uses that has read `ring` and has run with those of before.
    #[must_use]
    pub fn keys(&self, ring: KeyRing) -> KeyRing {
        match KeyRing::take_over(&self.image.keys.0) {
            Some(before) => ring.after(&before),
            None => ring,
        }
    }

    /// What other nodes may go by, beside this configuration. The same file, read again, says that all of
    /// them have it.
    #[must_use]
    pub fn earlier_than(&self, cluster: &Cluster) -> Option<HolderTimes> {
        let read_again = self.image.cause == Cause::Reload && self.failure.is_none();
        self.image.times?.earlier_than(cluster, read_again && self.image.unchanged)
    }

    /// Tells the driver what the core takes to run and the worker does not have, and what became
    /// of the hand-over; `resumed_ns` is when heartbeats left again, `stay` what the worker has.
    pub fn report(
        &self,
        config: &Config,
        mailbox: &Mailbox,
        resumed_ns: u64,
        stay: &[HeldAddress],
    ) {
        for group in &config.groups {
            for resource in &group.resources {
                let Resource::Address { address, interface, .. } = resource else { continue };
                let text = address.to_string();
                let held = stay.iter().any(|it| it.address == text && it.interface == *interface);
                if !held && self.image.core.runs(&group.name, resource) {
                    let (address, interface) = (*address, interface.clone());
                    let lapsed = AddressReport::Lapsed { address, interface, silent_ns: 0 };
                    mailbox.post(Letter::Address(lapsed));
                }
            }
        }
        let silent_ms = resumed_ns.saturating_sub(self.tail.stopped_ns) as f64 / 1e6;
        let (severity, kind, message) = match &self.failure {
            None => {
                let took_ms = monotonic_ns().saturating_sub(self.image.asked_ns) as f64 / 1e6;
                let text = format!(
                    "this node goes on with the new program and configuration: silent for \
                     {silent_ms:.3} ms, everything took {took_ms:.3} ms"
                );
                (Severity::Info, self.image.cause.done(), text)
            }
            Some(reason) => {
                let text = format!(
                    "{reason}; this node goes on as before, after {silent_ms:.3} ms of silence"
                );
                (Severity::Error, "reload-failed", text)
            }
        };
        mailbox.post(Letter::Note { severity, kind, message });
        if self.tail.leave {
            mailbox.post(Letter::Shutdown);
        }
    }
}

/// Addresses of the program before.
#[derive(Debug)]
pub struct Addresses {
    /// The worker goes on with them.
    pub stay: Vec<HeldAddress>,
    /// They are in no group any more.
    pub go: Vec<HeldAddress>,
}

/// Takes signals again that waited while programs changed.
pub fn take_signals() {
    // It fails for no argument that is possible here.
    let _ = SigSet::all().thread_unblock();
}
