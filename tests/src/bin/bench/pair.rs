//! The standard pair with its observers, and the options that all benchmarks share.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use ha_tests::bed::{Cluster, Cut, Event, FLOATING, Plan, program};
use ha_tests::clock::{as_ns, monotonic_ns, sleep_until_ns};
use ha_tests::observe::{AddressEvent, AddressMonitor, Sniffer, both_held_ns, urgently};

use crate::fault::Fault;

/// The preferred node, which every fault meets.
pub(crate) const OWNER: &str = "alpha";
/// The other one.
pub(crate) const SURVIVOR: &str = "beta";
/// Kinds of events by which the survivor tells its verdict.
pub(crate) const VERDICTS: [&str; 3] = ["node-dead", "daemon-gone", "node-left"];
/// How long anything may take before it has failed.
pub(crate) const STEP_TIME_MAX: Duration = Duration::from_secs(15);
/// Quiet time before a fault: the control connections are made again within 200 ms.
const SETTLE_TIME: Duration = Duration::from_millis(500);

/// Before a fault: what the question for the processes has woken sleeps again.
const REST_TIME: Duration = Duration::from_millis(20);

/// The web servers: just below the client, far below any failover program. Others who work on this
/// machine then do not make the service look silent.
const WEB_PRIORITY: u8 = 9;

/// How nodes watch each other.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Timing {
    /// Interval between two heartbeats
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = humantime::parse_duration)]
    pub(crate) keepalive: Duration,
    /// Silence after which a node is dead
    #[arg(long, value_name = "TIME", default_value = "30ms", value_parser = humantime::parse_duration)]
    pub(crate) deadtime: Duration,
    /// How heartbeats are received: the best way that there is, or plain sockets
    #[arg(long, value_enum, default_value = "auto")]
    via: Via,
}

/// A number of runs of each kind, with one timing.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Series {
    #[command(flatten)]
    pub(crate) timing: Timing,
    /// Runs of each kind; 0: none
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    pub(crate) runs: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Via {
    Auto,
    Socket,
}

impl Timing {
    pub(crate) fn plan(&self) -> Plan {
        let link_lines = match self.via {
            Via::Auto => Vec::new(),
            Via::Socket => vec!["receive = \"socket\"".to_owned()],
        };
        Plan { keepalive: self.keepalive, deadtime: self.deadtime, link_lines, ..Plan::default() }
    }

    /// For the report.
    pub(crate) fn text(&self) -> String {
        let show = humantime::format_duration;
        format!("keepalive {}, deadtime {}", show(self.keepalive), show(self.deadtime))
    }
}

/// A fault that has happened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Strike {
    /// The moment just before it.
    pub(crate) at_ns: u64,
    /// How long it took.
    pub(crate) fault_ns: u64,
}

/// Calls `fault`, which returns its moment, `phase` after what was done before has come to rest.
pub(crate) fn at_random(
    phase: Duration,
    fault: impl FnOnce() -> Result<u64> + Send,
) -> Result<Strike> {
    urgently(|| {
        sleep_until_ns(monotonic_ns() + as_ns(REST_TIME + phase));
        let at_ns = fault()?;
        Ok(Strike { at_ns, fault_ns: monotonic_ns() - at_ns })
    })
}

/// Two nodes and who watches them.
pub(crate) struct Pair {
    pub(crate) cluster: Cluster,
    pub(crate) floating: IpAddr,
    pub(crate) owner: AddressMonitor,
    pub(crate) survivor: AddressMonitor,
    pub(crate) sniffer: Sniffer,
    /// The address is configured on both nodes.
    armed: bool,
}

impl Pair {
    /// Builds it, with `web` servers or without; no daemon runs.
    pub(crate) fn build(timing: &Timing, web: bool) -> Result<Self> {
        Self::build_plan(Plan { web, ..timing.plan() })
    }

    /// Builds a plan of two nodes named as here; no daemon runs.
    pub(crate) fn build_plan(plan: Plan) -> Result<Self> {
        let armed = plan.prearmed;
        let cluster = Cluster::build(plan)?;
        for server in &cluster.webs {
            server.prioritise(WEB_PRIORITY)?;
        }
        let [owner, survivor] = AddressMonitor::start_pair(
            cluster.node(OWNER)?.netns(),
            cluster.node(SURVIVOR)?.netns(),
        )?;
        let sniffer = Sniffer::start(&*cluster.client()?)?;
        Ok(Self { floating: FLOATING.parse()?, cluster, owner, survivor, sniffer, armed })
    }

    /// Builds it, starts both daemons, and waits until it is settled.
    pub(crate) fn start(timing: &Timing, web: bool) -> Result<Self> {
        for name in ["ha-daemon", "hactl"] {
            program(name)?;
        }
        Self::build(timing, web)?.up()
    }

    /// As [`Pair::start`], with a pre-armed group and no web servers.
    pub(crate) fn start_armed(timing: &Timing) -> Result<Self> {
        Self::build_plan(Plan { web: false, prearmed: true, ..timing.plan() })?.up()
    }

    fn up(mut self) -> Result<Self> {
        self.cluster.start().context("the pair does not come up")?;
        self.settle()?;
        Ok(self)
    }

    /// Waits until the owner has the group, the survivor has not, and nothing happens any more.
    pub(crate) fn settle(&self) -> Result<()> {
        self.cluster.wait_settled(OWNER)?;
        self.owner.wait(self.floating, true, STEP_TIME_MAX)?;
        self.survivor.wait(self.floating, self.armed, STEP_TIME_MAX)?;
        thread::sleep(SETTLE_TIME);
        Ok(())
    }

    /// How the owner's heartbeats reach the survivor, and how the observers run.
    pub(crate) fn settings(&self) -> Result<Vec<(&'static str, String)>> {
        let status = self.cluster.node(SURVIVOR)?.status()?;
        let links: Vec<String> = status
            .nodes
            .iter()
            .filter(|node| node.name == OWNER)
            .flat_map(|node| &node.links)
            .map(|link| format!("{} ({})", link.via, link.interface))
            .collect();
        let observers =
            format!("addresses {}, sniffer {}", self.owner.scheduling(), self.sniffer.scheduling());
        Ok(vec![("heartbeats arrive by", links.join(", ")), ("observers", observers)])
    }

    /// Whether the group is where every run begins.
    pub(crate) fn whole(&self) -> bool {
        self.owner.holds(self.floating) && !self.survivor.holds(self.floating)
    }

    /// Lets a fault happen. Returns when it began and how long it took.
    pub(crate) fn strike(&self, fault: Fault, phase: Duration) -> Result<Strike> {
        let processes = self.cluster.node(OWNER)?.processes()?;
        let strike = at_random(phase, || fault.inject(&self.cluster, &processes))?;
        // How long an operator's program takes is no part of the move: its moment is known.
        Ok(if fault.is_command() { Strike { fault_ns: 0, ..strike } } else { strike })
    }

    /// Cuts all cables. `before` is called with the urgency of the fault itself: what it starts may keep everybody
    /// else from running.
    pub(crate) fn cut(
        &self,
        phase: Duration,
        before: impl FnOnce() -> Result<()> + Send,
    ) -> Result<Strike> {
        at_random(phase, || {
            before()?;
            self.cluster.bed.cut_all(OWNER, Cut::Middle)
        })
    }

    /// Undoes it; the cluster is not settled yet.
    pub(crate) fn heal(&self) -> Result<()> {
        self.cluster.bed.heal_all(OWNER).map(drop)
    }

    /// The survivor's verdict on the owner, no earlier than `at_ns`.
    pub(crate) fn verdict(&self, at_ns: u64) -> Result<Option<Event>> {
        let events = self.cluster.node(SURVIVOR)?.events()?;
        Ok(events.into_iter().find(|event| {
            event.monotonic_ns >= at_ns
                && event.node.as_deref() == Some(OWNER)
                && VERDICTS.contains(&event.kind.as_str())
        }))
    }

    /// When the survivor first announced the address, no earlier than `at_ns`.
    pub(crate) fn announced_ns(&self, at_ns: u64) -> Result<Option<u64>> {
        let mac = self.cluster.bed.mac(SURVIVOR, "eth0")?;
        Ok(self.sniffer.first(self.floating, mac, at_ns).map(|seen| seen.at_ns))
    }

    /// How long both nodes had the address between two moments, in total.
    pub(crate) fn both_held_ns(&self, from_ns: u64, to_ns: u64) -> u64 {
        both_held_ns(&self.owner, &self.survivor, self.floating, from_ns, to_ns)
    }

    /// The times that the address came to a node or went off one between two moments.
    pub(crate) fn address_changes(&self, from_ns: u64, to_ns: u64) -> Vec<AddressEvent> {
        let of = |monitor: &AddressMonitor| monitor.changes(self.floating, from_ns, to_ns);
        [of(&self.owner), of(&self.survivor)].concat()
    }

    /// Changes of addresses that the observers lost.
    pub(crate) fn changes_missed(&self) -> u64 {
        self.owner.missed() + self.survivor.missed()
    }

    /// Removes the pair.
    pub(crate) fn finish(self) -> Result<()> {
        let Cluster { nodes, webs, bed, .. } = self.cluster;
        drop((nodes, webs));
        bed.finish()
    }
}
