//! What a node's kernel does by itself: it answers questions while the daemon is stopped; and who
//! stops what.

use super::*;

/// What the kernel of a host answers.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    /// The host is off, or does not run.
    pub(super) silent: bool,
    /// What arrived at a host that does not run.
    pub(super) waiting: Vec<(Wire, Packet)>,
    /// The last start of a daemon here.
    pub(super) incarnation: u64,
    /// When that daemon last ran.
    pub(super) ran: Moment,
}

/// What of a node stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Stop {
    /// The whole machine, as when its virtual CPUs stop.
    Node,
    /// The daemon alone, as by SIGSTOP.
    Daemon,
    /// The thread that sends heartbeats.
    Sender,
    /// The thread that decides.
    Driver,
}

fn lease_age_ms(ran: Moment, now: Moment) -> u32 {
    u32::try_from(now.since(ran) / 1_000_000).unwrap().min(u32::from(u16::MAX))
}

impl Sim {
    pub(in super::super) fn pause(&mut self, node: usize) {
        self.stop(node, Stop::Node);
    }

    pub(in super::super) fn stop(&mut self, node: usize, stop: Stop) {
        let now = self.now;
        let host = &mut self.hosts[node];
        // Who changes its program is not stopped: it is away for as long as that takes.
        let Some(daemon) = host.daemon.as_mut().filter(|it| it.away.is_none()) else { return };
        host.kernel.silent |= stop == Stop::Node;
        daemon.sender_stopped |= stop != Stop::Driver;
        if stop != Stop::Sender {
            daemon.paused.get_or_insert(now);
        }
        let incarnation = daemon.incarnation;
        if stop != Stop::Node {
            let lease = daemon.core.config.cluster.holder_lease();
            self.after(lease, Happening::LeaseEnd { node, incarnation });
        }
    }

    /// The keeper takes the addresses of a daemon that did not run for as long as its lease.
    pub(super) fn lease_ended(&mut self, node: usize, incarnation: u64) {
        let Host { daemon: Some(daemon), kernel, .. } = &self.hosts[node] else { return };
        let lease = daemon.core.config.cluster.holder_lease().as_nanos() as i64;
        if kernel.incarnation == incarnation && self.now.since(kernel.ran) >= lease {
            self.take_addresses_off(node);
            self.note_holding();
        }
    }

    /// For how long the node that is stopped for longest is stopped.
    pub(in super::super) fn longest_stop(&self) -> Duration {
        let daemons = self.hosts.iter().filter_map(|host| host.daemon.as_ref());
        let lengths = daemons.map(|it| self.now.since(it.ran).max(0) as u64);
        Duration::from_nanos(lengths.max().unwrap_or(0))
    }

    /// The kernel of a host that was stopped runs again, and takes what waited for it.
    pub(in super::super) fn wake_kernel(&mut self, node: usize) {
        let kernel = &mut self.hosts[node].kernel;
        kernel.silent = false;
        for (wire, packet) in std::mem::take(&mut kernel.waiting) {
            let delay = self.net.random.between(Duration::ZERO, Duration::from_micros(200));
            self.after(delay, Happening::Arrival { wire, packet });
        }
    }

    /// What was stopped runs again: its sender at once, its driver right after it.
    pub(in super::super) fn resume(&mut self, node: usize) {
        let now = self.now;
        let host = &mut self.hosts[node];
        let Some(daemon) = &mut host.daemon else { return };
        if daemon.away.is_some() {
            return;
        }
        let sender_stopped = std::mem::take(&mut daemon.sender_stopped);
        let Some(paused_at) = daemon.paused.take() else { return };
        // As the driver has it: its wish to sleep is no pause, but the lease counts from turn to turn.
        let away_ns = now.since(daemon.ran);
        let lapsed = away_ns > daemon.core.config.cluster.holder_lease().as_nanos() as i64;
        let length_ns = if lapsed { away_ns } else { now.since(paused_at) };
        // The driver may well run before the kernel has looked at what arrived.
        self.wake_kernel(node);
        if sender_stopped {
            self.keepalives().into_iter().for_each(|keepalive| self.beat(node, keepalive));
        }
        if lapsed {
            // As the driver does it: before anything is looked at, and the addresses go.
            self.take_addresses_off(node);
            self.note_holding();
            self.handle(node, Input::LeaseLost { silent_ns: away_ns });
        }
        let mut inputs = Vec::new();
        if self.config.detection.own_pause {
            inputs.push(Input::OwnPause { length_ns, sign: PauseSign::Driver });
        }
        if let Some(daemon) = &mut self.hosts[node].daemon {
            inputs.append(&mut daemon.waiting);
        }
        self.turn(node, inputs);
    }

    /// A driver whose sender is stopped takes its node for paused.
    pub(super) fn sender_is_overdue(&self, node: usize) -> Option<Input> {
        let daemon = self.hosts[node].daemon.as_ref()?;
        let overdue = daemon.sender_stopped && daemon.paused.is_none();
        let length_ns = self.now.since(daemon.ran);
        (overdue && self.config.detection.own_pause)
            .then_some(Input::OwnPause { length_ns, sign: PauseSign::Sender })
    }

    /// The driver of a node begins a turn. A daemon runs when its sender does, too.
    pub(super) fn renew_lease(&mut self, node: usize) {
        let Host { daemon: Some(daemon), kernel, .. } = &mut self.hosts[node] else { return };
        if !daemon.sender_stopped {
            daemon.ran = self.now;
            (kernel.ran, kernel.incarnation) = (self.now, daemon.incarnation);
        }
    }

    /// The node's driver asks the kernel of a peer.
    pub(super) fn ask(&mut self, node: usize, peer: NodeIndex, link: LinkIndex) {
        let Some(daemon) = &self.hosts[node].daemon else { return };
        let (at, incarnation) = (self.now, daemon.incarnation);
        let input = if self.cannot_ask.contains(&node) {
            Input::ProbeFailed { peer, link, error: "no buffer space".to_owned() }
        } else {
            self.probes += 1;
            self.send((node, peer.0, link.0), Packet::Probe { incarnation, left: at });
            Input::ProbeLeft { peer, link, at }
        };
        self.handle(node, input);
    }

    /// A question arrives.
    pub(super) fn asked(&mut self, wire: Wire, incarnation: u64, left: Moment) {
        let (from, node, link) = wire;
        let Host { records, kernel, .. } = &self.hosts[node];
        let known = records.get(&(from, link)).map(|record| record.observation().incarnation);
        if known != Some(incarnation) {
            return;
        }
        let answer = Packet::Answer {
            incarnation: kernel.incarnation,
            echo: incarnation,
            left,
            lease_age_ms: lease_age_ms(kernel.ran, self.now),
        };
        self.send((node, from, link), answer);
    }

    /// An answer arrives.
    pub(super) fn answered(
        &mut self,
        wire: Wire,
        (incarnation, echo): (u64, u64),
        left: Moment,
        lease_age_ms: u32,
    ) {
        let ((from, node, link), now) = (wire, self.now);
        let Host { daemon: Some(daemon), records, .. } = &mut self.hosts[node] else {
            return;
        };
        let Some(record) = records.get_mut(&(from, link)) else { return };
        if echo != daemon.incarnation {
            return;
        }
        if record.answered(left, now, incarnation, lease_age_ms) && daemon.paused.is_none() {
            self.turn(node, Vec::new());
        }
    }
}

/// What every datagram of a daemon to a peer says.
pub(super) fn header(daemon: &Daemon, peer: usize, now: Moment) -> Header {
    Header {
        incarnation: daemon.incarnation,
        echo: daemon.echoes.get(&peer).copied().unwrap_or(0),
        sequence: 0,
        generation: daemon.generation,
        phase: daemon.phase,
        layers: layers::KERNEL,
        lease_age_ms: lease_age_ms(daemon.ran, now),
    }
}
