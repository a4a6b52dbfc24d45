//! The snapshot: what the core, the records and the threads say at one moment.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use ha_common::reason::Reason;
use ha_common::record::Record;
use ha_common::wire::layers;

use super::{Driver, record};
use crate::config::{GroupIndex, NodeIndex, PingTarget};
use crate::core::peer::Peer;
use crate::io::clock::monotonic_ns;
use crate::io::lateness::Lateness;
use crate::io::ping::TargetWords;
use crate::io::realtime::Granted;
use crate::snapshot::{
    ConnectivityStatus, GroupStatus, LinkStatus, NodeState, NodeStatus, PingTargetStatus, Quorum,
    ResourceStatus, Snapshot, ThreadStatus, Via,
};

impl Driver {
    pub(super) fn snapshot(&self) -> Snapshot {
        let parts = &self.parts;
        let config = &parts.config;
        let nodes: Vec<NodeStatus> =
            (0..config.nodes.len()).map(|node| self.node(NodeIndex(node))).collect();
        let votes = nodes.iter().filter(|node| {
            matches!(node.state, NodeState::Up | NodeState::Late | NodeState::Restarting)
        });
        let (votes, of) = (votes.count() as u32, nodes.len() as u32);
        Snapshot {
            cluster: config.cluster.name.clone(),
            node: config.nodes[parts.own.0].name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            keeper_pid: Some(parts.keeper.pid()),
            incarnation: parts.incarnation,
            keepalive_us: config.cluster.keepalive.as_micros() as u64,
            deadtime_us: config.cluster.deadtime.as_micros() as u64,
            deadtime_min_us: config.cluster.auto.map(|auto| auto.min.as_micros() as u64),
            memory: parts.memory.clone(),
            realtime_limits: parts.budget.limits.clone(),
            realtime_warnings: parts.budget.warnings.clone(),
            threads: self.threads(),
            own_pauses: self.core.pauses(),
            driver_turns: self.turns,
            connectivity: self.connectivity(),
            groups: (0..config.groups.len()).map(|group| self.group(GroupIndex(group))).collect(),
            quorum: Quorum { votes, of, majority: votes * 2 > of },
            packets: self.packets(),
            events: parts.events.last_id(),
            events_by_kind: parts.events.by_kind(),
            log_lines_dropped: crate::logging::dropped(),
            nodes,
        }
    }

    fn threads(&self) -> Vec<ThreadStatus> {
        let shared = &self.parts.shared;
        let thread = |(name, granted): &(&'static str, Granted)| {
            let late = match *name {
                "driver" => Some(&self.late),
                "sender" => Some(&shared.sender_late),
                "address" => Some(&*shared.address_late),
                _ => None,
            };
            let lateness = late.map(Lateness::status);
            ThreadStatus {
                name: (*name).to_owned(),
                scheduling: granted.text.clone(),
                refused: granted.refused,
                lateness_max_us: lateness.as_ref().map(|it| it.max_us),
                lateness,
            }
        };
        self.scheduling.iter().map(thread).chain(self.kernel_watch_status()).collect()
    }

    fn node(&self, node: NodeIndex) -> NodeStatus {
        let name = self.parts.config.nodes[node.0].name.clone();
        let Some(peer) = self.core.peers().get(&node) else {
            let incarnation = self.parts.incarnation;
            return NodeStatus {
                name,
                local: true,
                state: NodeState::Up,
                incarnation,
                reached: self.core.reached(),
                standby: self.core.on_standby(node),
                services_well: Some(self.core.services_well()),
                links: Vec::new(),
            };
        };
        let slots = (0..self.parts.paths.len()).filter(|slot| self.parts.paths[*slot].peer == node);
        let heard = slots.clone().filter_map(|slot| record(&self.parts, slot));
        let newest = heard.max_by_key(|it| it.last_seen_ns());
        // Of its services a daemon that does not run says nothing.
        let said = newest.map(|it| it.layers() as u8);
        let said = said.filter(|it| peer.state.speaks() && it & layers::DAEMON != 0);
        NodeStatus {
            name,
            local: false,
            state: peer.state,
            incarnation: peer.incarnation,
            reached: peer.reached,
            standby: peer.standby,
            services_well: said.map(|it| it & layers::SERVICE != 0),
            links: slots.filter_map(|slot| self.link(slot, peer)).collect(),
        }
    }

    fn link(&self, slot: usize, peer: &Peer) -> Option<LinkStatus> {
        let path = &self.parts.paths[slot];
        let reception = &self.parts.receptions[slot];
        let link = &self.parts.config.links[path.link.0];
        let record = record(&self.parts, slot)?;
        let behind_kernel = self.record_behind_kernel(slot);
        let words = &self.parts.shared.paths[slot];
        let trip = self.probers[slot].round_trip();
        let last_seen_ns = record.last_seen_ns();
        let age_ns = monotonic_ns().saturating_sub(last_seen_ns);
        Some(LinkStatus {
            name: link.name.clone(),
            kind: link.kind.word().to_owned(),
            interface: path.place(),
            via: reception.via,
            via_reason: reception.reason.clone(),
            state: peer.shown(path.link),
            failures: peer.standings.get(&path.link).map_or(0, |it| it.failures),
            last_seen_us: (last_seen_ns != 0).then_some(age_ns / 1_000),
            peer_keepalive_us: u64::from(record.keepalive_us()),
            rtt_us: trip.map(|it| it.last_ns / 1_000),
            rtt_min_us: trip.map(|it| it.min_ns / 1_000),
            rtt_smoothed_us: trip.map(|it| it.smoothed_ns / 1_000),
            answers_via: self.answers_via(slot),
            probes_sent: words.probe_sequence.load(Relaxed),
            probes_answered: record.answers() + behind_kernel.map_or(0, Record::answers),
            kernel_watched: self.is_watched(slot),
            received: record.received(),
            lost: record.lost(),
            rejected: record.rejected() + behind_kernel.map_or(0, Record::rejected),
            sent: words.sent.load(Relaxed),
            send_errors: words.errors.load(Relaxed),
            deadtime_us: self.times(slot).deadtime.as_micros() as u64,
            deadtime_auto: self.auto_status(slot),
            arrivals: self.arrival_status(slot),
            serial: self.serial_status(slot),
        })
    }

    /// The daemon's own record of a path that a program receives: of what that let pass, control messages
    /// and probes.
    fn record_behind_kernel(&self, slot: usize) -> Option<Record<'_>> {
        let in_kernel = !matches!(self.parts.receptions[slot].via, Via::Socket | Via::Serial);
        let own = u32::try_from(slot).ok().and_then(|slot| self.parts.table.record(slot));
        own.filter(|_| in_kernel && self.parts.kernel.is_some())
    }

    fn group(&self, index: GroupIndex) -> GroupStatus {
        let config = &self.parts.config;
        let group = &config.groups[index.0];
        let view = self.core.group(index);
        let name_of = |node: &NodeIndex| config.nodes[node.0].name.clone();
        let resources = group.resources.iter().zip(view.resources);
        GroupStatus {
            name: group.name.clone(),
            owner: view.owner.as_ref().map(name_of),
            state: view.state,
            term: view.term,
            failures: self.core.service_failures(index),
            wished: self.core.wished(index).as_ref().map(name_of),
            nodes: group.nodes.iter().map(name_of).collect(),
            resources: resources
                .enumerate()
                .map(|(position, (resource, state))| {
                    let armed = self.parts.gates.armed(index, position);
                    ResourceStatus {
                        name: resource.label(),
                        kind: resource.kind().to_owned(),
                        state,
                        monitor_us: group.monitor(position).map(|it| it.as_micros() as u64),
                        ran_us: self
                            .core
                            .ran_at(index, position)
                            .map(|at| monotonic_ns().saturating_sub(at.0) / 1_000),
                        armed: armed.map(|it| it.is_ok()),
                        not_armed: armed.and_then(Result::err).unwrap_or_default().to_owned(),
                    }
                })
                .collect(),
        }
    }

    fn connectivity(&self) -> ConnectivityStatus {
        let targets = self.parts.config.connectivity.targets.iter().zip(self.parts.pings.iter());
        let now_ns = monotonic_ns();
        let target = |(number, (target, words)): (usize, (&PingTarget, &TargetWords))| {
            let reply_ns = words.last_reply_ns();
            PingTargetStatus {
                name: target.name.clone(),
                members: target.members.clone(),
                reached: self.core.reaches(number),
                rtt_us: words.round_trip_ns().map(|it| it / 1_000),
                last_reply_us: reply_ns.map(|at_ns| now_ns.saturating_sub(at_ns) / 1_000),
                sent: words.sent(),
                received: words.received(),
                rejected: words.rejected(),
            }
        };
        ConnectivityStatus { targets: targets.enumerate().map(target).collect() }
    }

    fn packets(&self) -> BTreeMap<String, u64> {
        let kernel = self.parts.kernel.as_ref().map(|kernel| kernel.counters()).unwrap_or_default();
        let count = |reason: &Reason| {
            let own = self.parts.table.counters().get(reason).copied().unwrap_or(0);
            // A control message is judged twice, in the kernel and here: counted once.
            if kernel.is_empty() || *reason != Reason::Control {
                own + kernel.get(reason).copied().unwrap_or(0)
            } else {
                kernel.get(reason).copied().unwrap_or(0).max(own)
            }
        };
        Reason::ALL.iter().map(|reason| (reason.name().to_owned(), count(reason))).collect()
    }
}
