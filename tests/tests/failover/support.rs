//! What the scenarios share: the plan with the product's default timing, the observers, and the
//! claims that every scenario ends with.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ha_tests::bed::{Cluster, Event, FLOATING, GROUP, Node, Plan, Reception};
use ha_tests::clock::{as_ns, monotonic_ns, ms};
use ha_tests::observe::{AddressMonitor, Client, ClientOptions, Sniffer, both_held_ns};

pub const ALPHA: &str = "alpha";
pub const BETA: &str = "beta";
pub const GAMMA: &str = "gamma";
/// How long anything may take before the scenario has failed.
pub const STEP: Duration = Duration::from_secs(20);
/// How long a state has to last to count as the end of a story.
pub const CALM: Duration = Duration::from_secs(1);
/// How long a peer's daemon may not run, or its kernel not be asked, before others take what it owns (the
/// default); the holder's lease is shorter.
pub const DAEMON_DEADTIME: Duration = Duration::from_secs(3);
/// Longest time without an answer that a scenario accepts where the service goes on: far above a
/// failover, far below an outage that an operator has to end.
pub const GAP_MAX: Duration = Duration::from_secs(3);
/// How long an address may outlive its lifetime, which the kernel counts in seconds.
pub const LIFETIME_SLACK: Duration = Duration::from_secs(2);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A pair with the product's default timing, and heartbeats received as wanted.
pub fn plan_by(via: Reception) -> Plan {
    let receive = match via {
        Reception::Xdp => "auto",
        Reception::Socket => "socket",
    };
    Plan { link_lines: vec![format!("receive = \"{receive}\"")], ..plan() }
}

/// Such a pair that is settled, with the group on alpha.
pub fn started_by(via: Reception, change: impl FnOnce(&mut Plan)) -> Result<(Cluster, Watch)> {
    let mut plan = plan_by(via);
    change(&mut plan);
    let (cluster, watch) = started(plan)?;
    let status = cluster.node(BETA)?.status()?;
    for link in status.nodes.iter().flat_map(|node| &node.links) {
        ensure!(link.via == via.via(), "{} is received by {}", link.name, link.via);
    }
    Ok((cluster, watch))
}

/// A pair with the product's default timing: a starved virtual CPU is no failover.
pub fn plan() -> Plan {
    Plan {
        keepalive: Duration::from_millis(50),
        deadtime: Duration::from_millis(200),
        ..Plan::default()
    }
}

/// `plan` built, watched and settled, the standard group on its first node.
pub fn started(plan: Plan) -> Result<(Cluster, Watch)> {
    let mut cluster = Cluster::build(plan)?;
    let watch = Watch::start(&cluster)?;
    cluster.start()?;
    let owner = cluster.plan.nodes[0].clone();
    watch.expect_only(&mut cluster, &owner)?;
    if cluster.plan.web {
        watch.client.wait_answer(&owner, 0, STEP)?;
    }
    Ok((cluster, watch))
}

pub fn floating() -> Result<IpAddr> {
    Ok(FLOATING.parse()?)
}

/// Everyone who watches: each node's addresses, the announcements and answers that a client gets.
pub struct Watch {
    pub address: IpAddr,
    pub monitors: Vec<(String, AddressMonitor)>,
    pub sniffer: Sniffer,
    pub client: Client,
}

impl Watch {
    /// Watches the floating IPv4 address.
    pub fn start(cluster: &Cluster) -> Result<Self> {
        Self::of(cluster, floating()?)
    }

    /// Watches `address`.
    pub fn of(cluster: &Cluster, address: IpAddr) -> Result<Self> {
        let client = cluster.client()?;
        let options =
            ClientOptions { interval: Duration::from_millis(5), ..ClientOptions::default() };
        let names = cluster.nodes.iter().map(|node| node.name().to_owned());
        let monitors = AddressMonitor::start_all(cluster.nodes.iter().map(Node::netns))?;
        Ok(Self {
            address,
            monitors: names.zip(monitors).collect(),
            sniffer: Sniffer::start(&client)?,
            client: Client::start(&client, address, options)?,
        })
    }

    pub fn monitor(&self, node: &str) -> Result<&AddressMonitor> {
        let found = self.monitors.iter().find(|(name, _)| name == node);
        found.map(|(_, monitor)| monitor).with_context(|| format!("{node} is not watched"))
    }

    /// The nodes whose kernel has the address now.
    pub fn holders(&self) -> Vec<&str> {
        let holding = self.monitors.iter().filter(|(_, monitor)| monitor.holds(self.address));
        holding.map(|(name, _)| name.as_str()).collect()
    }

    /// How often the address came to `node` since `after_ns`.
    pub fn times_added(&self, node: &str, after_ns: u64) -> Result<usize> {
        use ha_tests::observe::AddressChange::Added;
        let events = self.monitor(node)?.events();
        let added = events.iter().filter(|event| {
            event.address == self.address && event.change == Added && event.at_ns >= after_ns
        });
        Ok(added.count())
    }

    /// How long two nodes had the address at once since `from_ns`.
    pub fn double_ns(&self, from_ns: u64) -> u64 {
        let now_ns = monotonic_ns();
        let pairs = self.monitors.iter().enumerate().flat_map(|(at, one)| {
            self.monitors[at + 1..].iter().map(move |other| (&one.1, &other.1))
        });
        pairs.map(|(one, other)| both_held_ns(one, other, self.address, from_ns, now_ns)).sum()
    }

    /// Fails when two nodes had the address at once since `from_ns`.
    pub fn expect_never_double(&self, from_ns: u64) -> Result<()> {
        let double_ns = self.double_ns(from_ns);
        let held: Vec<_> = self
            .monitors
            .iter()
            .map(|(name, monitor)| (name, since(from_ns, monitor.held(self.address))))
            .collect();
        ensure!(
            double_ns == 0,
            "{} was on two nodes for {} ms; held (ms): {held:?}",
            self.address,
            ms(double_ns)
        );
        Ok(())
    }

    /// Waits until the standard group runs on `owner` alone, in the eyes of every running daemon
    /// and of every kernel, and stays so.
    pub fn expect_only(&self, cluster: &mut Cluster, owner: &str) -> Result<()> {
        wait_runs(cluster, GROUP, owner)?;
        let deadline = Instant::now() + STEP;
        let mut since = Instant::now();
        while since.elapsed() < CALM {
            let holders = self.holders();
            if holders != [owner] {
                since = Instant::now();
            }
            if Instant::now() > deadline {
                bail!("{} is on {holders:?}, not on {owner} alone", self.address);
            }
            thread::sleep(POLL_INTERVAL / 5);
        }
        wait_runs(cluster, GROUP, owner)
    }

    /// Fails when the client was without an answer for longer than [`GAP_MAX`] since `from_ns`.
    pub fn expect_answers_since(&self, from_ns: u64) -> Result<()> {
        self.expect_no_gap(from_ns, GAP_MAX)
    }

    /// Answers came since `from_ns`, no two of them further apart than `gap_max`.
    pub fn expect_no_gap(&self, from_ns: u64, gap_max: Duration) -> Result<()> {
        let gap = self.client.gap_in(from_ns, monotonic_ns());
        ensure!(
            gap.length_ns() < as_ns(gap_max),
            "no answer for {} ms, from +{} ms on",
            ms(gap.length_ns()),
            ms(gap.from_ns.saturating_sub(from_ns)),
        );
        Ok(())
    }

    /// Waits until `node` has announced the address after `after_ns`.
    pub fn expect_announced(&self, cluster: &Cluster, node: &str, after_ns: u64) -> Result<()> {
        let mac = cluster.bed.mac(node, "eth0")?;
        let deadline = Instant::now() + STEP;
        while self.sniffer.first(self.address, mac, after_ns).is_none() {
            let seen = self.sniffer.announcements(self.address, after_ns);
            ensure!(Instant::now() < deadline, "{node} announces nothing; seen: {seen:?}");
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }
}

/// Times in milliseconds after `from_ns`; `None`: still.
fn since(from_ns: u64, held: Vec<(u64, u64)>) -> Vec<(String, Option<String>)> {
    let after = |at_ns: u64| ms(at_ns.saturating_sub(from_ns));
    held.into_iter()
        .map(|(start_ns, end_ns)| (after(start_ns), (end_ns != u64::MAX).then(|| after(end_ns))))
        .collect()
}

/// Waits until every running daemon says that `group` runs on `owner`.
pub fn wait_runs(cluster: &mut Cluster, group: &str, owner: &str) -> Result<()> {
    let mut asked = 0;
    for node in cluster.nodes.iter_mut().filter_map(|node| node.is_running().then_some(node)) {
        node.wait_until(&format!("{group} on {owner}"), STEP, |it| it.runs_on(group, owner))?;
        asked += 1;
    }
    ensure!(asked > 0, "no daemon runs");
    Ok(())
}

/// Waits until `node` sees `peer` in `state`.
pub fn wait_node(cluster: &Cluster, node: &str, peer: &str, state: &str) -> Result<()> {
    let what = format!("{peer} {state}");
    cluster.node(node)?.wait_until(&what, STEP, |it| it.node_state(peer) == state).map(drop)
}

/// The events of that kind on `node` since `after_ns`.
pub fn events(cluster: &Cluster, node: &str, kind: &str, after_ns: u64) -> Result<Vec<Event>> {
    let mut events = cluster.node(node)?.events()?;
    events.retain(|event| event.kind == kind && event.monotonic_ns >= after_ns);
    Ok(events)
}

/// How often the daemons that run now have taken `group` over since `after_ns`.
pub fn takeovers(cluster: &mut Cluster, group: &str, after_ns: u64) -> Result<usize> {
    let mut count = 0;
    for node in cluster.nodes.iter_mut().filter_map(|node| node.is_running().then_some(node)) {
        let of_group = |event: &Event| {
            event.kind == "takeover"
                && event.group.as_deref() == Some(group)
                && event.monotonic_ns >= after_ns
        };
        count += node.events()?.into_iter().filter(of_group).count();
    }
    Ok(count)
}

/// The group stayed on alpha all the time, and nobody tried anything.
pub fn nothing_moved(cluster: &mut Cluster, watch: &Watch, start_ns: u64) -> Result<()> {
    watch.expect_only(cluster, ALPHA)?;
    ensure!(takeovers(cluster, GROUP, start_ns)? == 0, "it was taken over");
    for node in [ALPHA, BETA] {
        ensure!(watch.times_added(node, start_ns)? == 0, "the address came to {node}");
    }
    watch.expect_answers_since(start_ns)?;
    ensure!(watch.client.first_answer(BETA, 0).is_none(), "beta answered");
    Ok(())
}

/// Ends a story: every daemon leaves cleanly, and no node has anything left of it.
pub fn finish(cluster: Cluster, watch: Watch) -> Result<()> {
    drop(watch);
    cluster.finish()
}
