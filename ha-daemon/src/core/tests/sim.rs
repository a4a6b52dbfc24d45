//! Several nodes on one virtual clock: senders, kernels and drivers modelled, the cores real.
//!
//! A node's driver runs as `driver::Driver::turn` does: its own pause first, then the records, then
//! the messages, then letters. After every call of a core the invariants that need no context are
//! checked: its next deadline lies in the future, and no term that it tells ever decreases.

mod acting;
mod handover;
mod kernel;
mod outside;
mod seen;
mod services;
mod wires;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ha_common::wire::layers;

use kernel::{Kernel, header};

use super::network::{Header, Network, Packet, Record, Wire};
use crate::config::{Config, GroupIndex, LinkIndex, NodeIndex, Resource};
use crate::core::Core;
use crate::core::io::{Action, Health, Input, Note, Observation, PauseSign, Sighting};
use crate::core::message::{Message, State};
use crate::core::time::Moment;
use crate::driver::WAKE_MAX;
use crate::snapshot::{NodeState, ResourceState};
use ha_common::wire::Phase;

pub(super) use kernel::Stop;

/// A resource as it stands on a host, whatever the core believes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Starting,
    Up,
    Stopping,
}

/// How a daemon dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    /// The host is off: nobody says anything.
    PowerCut,
    /// The keeper takes the addresses off and tells the peers.
    Obituary,
    /// The keeper is gone too; the host's kernel closes the connections.
    Closed,
    /// The same behind a firewall, which says nothing to who asks for new ones.
    ClosedBehindFirewall,
    /// Both: the usual end of a killed daemon.
    ObituaryAndClosed,
}

/// A running daemon.
#[derive(Debug)]
struct Daemon {
    core: Core,
    incarnation: u64,
    /// Its driver does not run, since when.
    paused: Option<Moment>,
    sender_stopped: bool,
    /// When its driver ran last, its sender running too.
    ran: Moment,
    /// What its next program goes on from, while there is none.
    away: Option<String>,
    wake: Option<Moment>,
    told: BTreeMap<(usize, usize), Observation>,
    echoes: BTreeMap<usize, u64>,
    waiting: Vec<Input>,
    generation: u32,
    phase: u8,
    beats: u64,
    letters: u64,
    terms: BTreeMap<u32, u64>,
}

/// A host.
#[derive(Debug, Default)]
struct Host {
    daemon: Option<Daemon>,
    records: BTreeMap<(usize, usize), Record>,
    resources: BTreeMap<(usize, usize), Standing>,
    incarnations: u64,
    kernel: Kernel,
}

#[derive(Debug)]
enum Happening {
    /// Of all links with that keepalive.
    Beat {
        node: usize,
        incarnation: u64,
        keepalive: Duration,
    },
    Wake {
        node: usize,
        incarnation: u64,
    },
    Arrival {
        wire: Wire,
        packet: Packet,
    },
    Report {
        node: usize,
        incarnation: u64,
        input: Input,
    },
    Keeper {
        node: usize,
        letters: Vec<(Wire, Packet)>,
    },
    Ping {
        node: usize,
        incarnation: u64,
        target: usize,
    },
    Probed {
        node: usize,
        incarnation: u64,
        group: usize,
        from: Moment,
    },
    Resumed {
        node: usize,
        incarnation: u64,
    },
    /// The lease of a daemon that was stopped may be over.
    LeaseEnd {
        node: usize,
        incarnation: u64,
    },
}

/// Who had a group when: nodes with any of its resources, and nodes with all of them up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holding {
    pub(super) at: Moment,
    pub(super) holders: Vec<usize>,
    pub(super) serving: Vec<usize>,
}

/// The modelled world.
pub(super) struct Sim {
    pub(super) config: Arc<Config>,
    pub(super) now: Moment,
    pub(super) net: Network,
    pub(super) log: Vec<(Moment, usize, Action)>,
    /// By group.
    pub(super) history: Vec<Vec<Holding>>,
    /// Starts, or stops, of a group on a node that fail.
    pub(super) start_fails: BTreeSet<(usize, usize)>,
    pub(super) stop_fails: BTreeSet<(usize, usize)>,
    /// Services that have failed: node, group, resource; what their status says.
    pub(super) sick: BTreeMap<(usize, usize, usize), Health>,
    /// Nodes on which the services of a group fail as soon as they run.
    pub(super) sickening: BTreeSet<(usize, usize)>,
    /// Nodes that start nothing, since their lease is over.
    pub(super) held_back: BTreeSet<usize>,
    /// Longest time that an action takes.
    pub(super) work_max: Duration,
    /// Datagrams with control messages that were sent.
    pub(super) letters: u64,
    /// Calls of cores.
    pub(super) calls: u64,
    /// Commands given.
    pub(super) commands: u64,
    /// Whether a daemon finds the records of the one before (pinned maps).
    pub(super) keep_records: bool,
    /// Nodes that the service network does not carry.
    pub(super) off_service: BTreeSet<usize>,
    /// Ping targets (node, target) that do not answer, since when.
    pub(super) unreached: BTreeMap<(usize, usize), Moment>,
    /// Nodes whose questions to kernels cannot leave.
    pub(super) cannot_ask: BTreeSet<usize>,
    /// Questions to kernels that left.
    pub(super) probes: u64,
    /// Questions for the addresses of a group: node, group, when.
    pub(super) questions: Vec<(usize, usize, Moment)>,
    /// What each node's next program reads.
    pub(super) files: Vec<Arc<Config>>,
    /// How long the change of programs takes.
    pub(super) gap: Duration,
    hosts: Vec<Host>,
    queue: BTreeMap<(Moment, u64), Happening>,
    queued: u64,
}

impl Sim {
    /// Nothing runs yet.
    pub(super) fn new(config: Config, seed: u64) -> Self {
        let hosts = config.nodes.iter().map(|_| Host::default()).collect();
        let config = Arc::new(config);
        Self {
            files: config.nodes.iter().map(|_| Arc::clone(&config)).collect(),
            gap: super::ms(20),
            history: vec![Vec::new(); config.groups.len()],
            config,
            now: Moment(1_000_000_000),
            net: Network::new(seed),
            log: Vec::new(),
            start_fails: BTreeSet::new(),
            stop_fails: BTreeSet::new(),
            sick: BTreeMap::new(),
            sickening: BTreeSet::new(),
            held_back: BTreeSet::new(),
            work_max: super::ms(2),
            letters: 0,
            calls: 0,
            commands: 0,
            keep_records: false,
            off_service: BTreeSet::new(),
            unreached: BTreeMap::new(),
            cannot_ask: BTreeSet::new(),
            probes: 0,
            questions: Vec::new(),
            hosts,
            queue: BTreeMap::new(),
            queued: 0,
        }
    }

    /// All nodes started at once and settled.
    pub(super) fn settled(config: Config, seed: u64) -> Self {
        let mut sim = Self::new(config, seed);
        for node in 0..sim.hosts.len() {
            sim.start(node);
        }
        sim.run(super::SETTLE);
        sim
    }

    // ---- what the test does to the world ---------------------------------------------------

    /// Starts a node's daemon, or does nothing when it runs.
    pub(super) fn start(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        if host.daemon.is_some() {
            return;
        }
        host.incarnations += 1;
        if !self.keep_records {
            host.records.clear();
        }
        self.take_addresses_off(node);
        let host = &mut self.hosts[node];
        host.kernel.silent = false;
        host.kernel.waiting.clear();
        let incarnation = host.incarnations * 1000 + node as u64;
        let file = Arc::clone(&self.files[node]);
        let core = Core::new(file, NodeIndex(node), incarnation, self.now);
        host.daemon = Some(Daemon {
            core,
            incarnation,
            paused: None,
            sender_stopped: false,
            ran: self.now,
            away: None,
            wake: None,
            told: BTreeMap::new(),
            echoes: BTreeMap::new(),
            waiting: Vec::new(),
            generation: 0,
            phase: Phase::Starting as u8,
            beats: 0,
            letters: 0,
            terms: BTreeMap::new(),
        });
        let first = self.net.random.between(Duration::ZERO, self.config.cluster.keepalive);
        for keepalive in self.keepalives() {
            self.after(first, Happening::Beat { node, incarnation, keepalive });
        }
        self.first_pings(node, incarnation);
        self.note_holding();
        self.turn(node, Vec::new());
    }

    pub(super) fn kill(&mut self, node: usize, death: Death) {
        let Some(daemon) = self.hosts[node].daemon.take() else { return };
        let obituary = matches!(death, Death::Obituary | Death::ObituaryAndClosed);
        if death != Death::PowerCut && death != Death::Obituary {
            let refused = death != Death::ClosedBehindFirewall;
            self.end_connections(node, daemon.incarnation, refused);
        }
        if obituary {
            let now = self.now;
            let letters = self
                .wires_from(node)
                .into_iter()
                .map(|wire| {
                    let header = header(&daemon, wire.1, now).obituary();
                    (wire, Packet::Control(header, Message::Obituary))
                })
                .collect();
            let delay = self.net.random.between(Duration::from_micros(100), super::ms(1));
            self.after(delay, Happening::Keeper { node, letters });
        } else if death == Death::PowerCut {
            self.hosts[node].resources.clear();
            self.hosts[node].kernel.silent = true;
        } else {
            self.take_addresses_off(node);
        }
        self.note_holding();
    }

    /// What keepers, kernels and starting daemons do. Services go on.
    fn take_addresses_off(&mut self, node: usize) {
        let groups = &self.config.groups;
        let is_address = |group: usize, resource: usize| {
            matches!(groups[group].resources[resource], Resource::Address { .. })
        };
        self.hosts[node].resources.retain(|(group, resource), _| !is_address(*group, *resource));
    }

    /// The node's kernel closes its control connections, as after its daemon's end or forged.
    pub(super) fn close_connections(&mut self, node: usize, incarnation: u64) {
        self.end_connections(node, incarnation, false);
    }

    /// With `refused`, the peers find out as well that nobody listens there any more.
    fn end_connections(&mut self, node: usize, incarnation: u64, refused: bool) {
        let peer = NodeIndex(node);
        let closed = Input::ConnectionClosed { peer, incarnation };
        let refused = refused.then_some(Input::ConnectionRefused { peer, incarnation });
        for (_, peer, link) in self.wires_from(node) {
            let Some(delay) = self.net.carry((node, peer, link), false) else { continue };
            let Some(daemon) = &self.hosts[peer].daemon else { continue };
            let incarnation = daemon.incarnation;
            for (input, later) in
                [Some(closed.clone()), refused.clone()].into_iter().flatten().zip(1..)
            {
                let input = Happening::Report { node: peer, incarnation, input };
                self.after(delay * later, input);
            }
        }
    }

    pub(super) fn leave(&mut self, node: usize) {
        self.letter(node, Input::Shutdown);
    }

    pub(super) fn interface(&mut self, node: usize, up: bool) {
        let name = "eth0".parse().unwrap();
        self.letter(node, Input::Interface { name, up });
    }

    /// Something other than a packet tells the node's driver something.
    pub(super) fn letter(&mut self, node: usize, input: Input) {
        match &mut self.hosts[node].daemon {
            Some(daemon) if daemon.paused.is_some() => daemon.waiting.push(input),
            Some(_) => self.turn(node, vec![input]),
            None => {}
        }
    }

    /// Cuts, or joins, every link between two nodes, in both directions.
    pub(super) fn cut(&mut self, a: usize, b: usize, cut: bool) {
        for link in 0..self.config.links.len() {
            self.net.fault((a, b, link)).cut = cut;
            self.net.fault((b, a, link)).cut = cut;
        }
    }

    pub(super) fn run(&mut self, length: Duration) {
        let until = self.now.after(length);
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > until {
                break;
            }
            let ((at, _), happening) = entry.remove_entry();
            self.now = at;
            self.happen(happening);
        }
        self.now = until;
    }

    // ---- what the test asks ----------------------------------------------------------------

    pub(super) fn runs(&self, node: usize) -> bool {
        self.hosts[node].daemon.is_some()
    }

    pub(super) fn core(&self, node: usize) -> &Core {
        &self.hosts[node].daemon.as_ref().unwrap().core
    }

    pub(super) fn incarnation(&self, node: usize) -> u64 {
        self.hosts[node].daemon.as_ref().unwrap().incarnation
    }

    /// The state of a peer as a node sees it.
    pub(super) fn state(&self, node: usize, peer: usize) -> NodeState {
        self.core(node).peers()[&NodeIndex(peer)].state
    }

    fn after(&mut self, delay: Duration, happening: Happening) {
        self.queued += 1;
        self.queue.insert((self.now.after(delay), self.queued), happening);
    }

    fn wires_from(&self, node: usize) -> Vec<Wire> {
        let peers = (0..self.hosts.len()).filter(|peer| *peer != node);
        let links = 0..self.config.links.len();
        peers.flat_map(|peer| links.clone().map(move |link| (node, peer, link))).collect()
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Beat { node, incarnation, keepalive } => {
                let daemon = self.hosts[node].daemon.as_ref();
                let Some(daemon) = daemon.filter(|it| it.incarnation == incarnation) else {
                    return;
                };
                if !daemon.sender_stopped {
                    self.beat(node, keepalive);
                }
                self.after(keepalive, Happening::Beat { node, incarnation, keepalive });
            }
            Happening::Wake { node, incarnation } => {
                let daemon = self.hosts[node].daemon.as_ref();
                let due = daemon.is_some_and(|it| {
                    it.incarnation == incarnation
                        && it.paused.is_none()
                        && it.wake == Some(self.now)
                });
                if due {
                    self.turn(node, Vec::new());
                }
            }
            Happening::Arrival { wire, packet } => self.arrive(wire, packet),
            Happening::Ping { node, incarnation, target } => self.pong(node, incarnation, target),
            Happening::Probed { node, incarnation, group, from } => {
                self.probed(node, incarnation, group, from);
            }
            Happening::Report { node, incarnation, input } => {
                self.report(node, incarnation, input);
            }
            Happening::Resumed { node, incarnation } => self.resumed(node, incarnation),
            Happening::LeaseEnd { node, incarnation } => self.lease_ended(node, incarnation),
            Happening::Keeper { node, letters } => {
                if self.hosts[node].daemon.is_none() {
                    self.take_addresses_off(node);
                    self.note_holding();
                }
                letters.into_iter().for_each(|(wire, packet)| self.send(wire, packet));
            }
        }
    }

    /// A resource was started or stopped, or something else became known to the driver.
    pub(super) fn report(&mut self, node: usize, incarnation: u64, input: Input) {
        let host = &mut self.hosts[node];
        if host.daemon.as_ref().is_none_or(|daemon| daemon.incarnation != incarnation) {
            return;
        }
        if let Input::ResourceStarted { group, resource, error: None } = &input {
            host.resources.insert((group.0, *resource), Standing::Up);
        }
        if let Input::ResourceStarted { group, resource, error: Some(_) }
        | Input::ResourceStopped { group, resource, error: None }
        | Input::ResourceLost { group, resource, .. } = &input
        {
            host.resources.remove(&(group.0, *resource));
        }
        self.note_holding();
        self.letter(node, input);
    }

    /// One turn of a node's driver; its own pause, if any, is the first input.
    fn turn(&mut self, node: usize, inputs: Vec<Input>) {
        let overdue = self.sender_is_overdue(node);
        let inputs: Vec<Input> = overdue.into_iter().chain(inputs).collect();
        let (pause, rest): (Vec<_>, Vec<_>) =
            inputs.into_iter().partition(|input| matches!(input, Input::OwnPause { .. }));
        pause.into_iter().for_each(|input| self.handle(node, input));
        self.renew_lease(node);
        let sightings = self.look(node);
        self.handle(node, Input::Observed(sightings));
        rest.into_iter().for_each(|input| self.handle(node, input));
        let now = self.now;
        let Host { daemon: Some(daemon), records, .. } = &mut self.hosts[node] else { return };
        for ((peer, _), record) in records.iter() {
            let echo = daemon.echoes.entry(*peer).or_default();
            *echo = record.heard().max(*echo);
        }
        let incarnation = daemon.incarnation;
        if daemon.away.is_some() {
            return;
        }
        let latest = now.after(WAKE_MAX);
        let deadline = daemon.core.deadline().map_or(latest, |deadline| deadline.min(latest));
        assert!(deadline > now, "n{node}: deadline {deadline:?} at {now:?}: {:?}", daemon.core);
        if daemon.wake.replace(deadline) != Some(deadline) {
            self.queued += 1;
            self.queue.insert((deadline, self.queued), Happening::Wake { node, incarnation });
        }
    }

    fn look(&mut self, node: usize) -> Vec<Sighting> {
        let Host { daemon: Some(daemon), records, .. } = &mut self.hosts[node] else {
            return Vec::new();
        };
        let mut sightings = Vec::new();
        for (&(peer, link), record) in records.iter() {
            let observation = record.observation();
            if observation.last_seen.0 != 0
                && daemon.told.insert((peer, link), observation) != Some(observation)
            {
                let (peer, link) = (NodeIndex(peer), LinkIndex(link));
                sightings.push(Sighting { peer, link, observation });
            }
        }
        sightings
    }

    fn handle(&mut self, node: usize, input: Input) {
        let now = self.now;
        let Some(daemon) = &mut self.hosts[node].daemon else { return };
        if daemon.away.is_some() {
            if !matches!(input, Input::Observed(_)) {
                daemon.waiting.push(input);
            }
            return;
        }
        self.calls += 1;
        let actions = daemon.core.handle(input, now);
        for action in actions {
            self.log.push((now, node, action.clone()));
            self.carry_out(node, action);
        }
    }

    fn note_holding(&mut self) {
        for group in 0..self.history.len() {
            let (holders, serving) = (self.holders(group), self.serving(group));
            let last = self.history[group].last();
            if last.is_none_or(|last| (&last.holders, &last.serving) != (&holders, &serving)) {
                self.history[group].push(Holding { at: self.now, holders, serving });
            }
        }
    }
}
