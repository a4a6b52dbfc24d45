//! A cluster of a virtual machine (alpha) and a namespace (beta), which is real-time and native XDP, with
//! an observer beside them that asks for the floating address.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::machine::Start;
use super::relay::Relay;
use super::{Card, Guest, Image, Machine};
use crate::bed::{AUTHKEYS, Bed, CLIENT, Event, FLOATING, GROUP, Node, Plan, Status};
use crate::clock::monotonic_ns;
use crate::observe::{AddressMonitor, Asker, HeartbeatWatch, Sniffer};

/// The node in the virtual machine.
const ALPHA: &str = "alpha";
/// The node in a namespace.
const BETA: &str = "beta";
/// Where the guest has its key file.
const GUEST_KEYS: &str = "/etc/ha/authkeys";
/// Its MAC addresses: those of plugs have a number of a host here.
const MACS: [&str; 2] = ["02:00:00:00:aa:01", "02:00:00:00:aa:02"];
/// How often the observer asks: what a tap device queues for a machine that does not run (1,000 frames)
/// is not to hold nothing but questions.
const ASK_INTERVAL: Duration = Duration::from_millis(10);
/// How long anything may take, emulated, on a busy machine.
const STEP: Duration = Duration::from_secs(60);
/// How long a state has to last to count as the end of a story.
const CALM: Duration = Duration::from_millis(1_500);
/// More than a relay carries: QEMU's own limit is to be none. Bytes a second.
const BANDWIDTH_MAX: u64 = 1 << 34;

/// A moment: what comes after it is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    /// `CLOCK_MONOTONIC` of the host.
    pub at_ns: u64,
    /// The last event of alpha's daemon.
    alpha: u64,
    /// The term of the group.
    pub term: u64,
}

/// The cluster; fields are dropped in this order, the world last.
#[derive(Debug)]
pub struct Pair {
    /// The virtual machine.
    pub alpha: Machine,
    /// The node in a namespace.
    pub beta: Node,
    /// Asks for the floating address in the service network.
    pub asker: Asker,
    /// Hears announcements there.
    pub sniffer: Sniffer,
    /// The addresses of beta's kernel.
    pub beta_addresses: AddressMonitor,
    /// Heartbeats of alpha on the wire.
    pub heartbeats: HeartbeatWatch,
    image: Image,
    initramfs: PathBuf,
    machines: u32,
    bed: Bed,
}

impl Pair {
    /// Builds and starts it; the group is on alpha.
    ///
    /// # Errors
    /// As [`Bed::new`]; or QEMU, a guest or a daemon does not start.
    pub fn start(image: Image, plan: &Plan) -> Result<Self> {
        let mut bed = Bed::new()?;
        bed.bridge("hb")?;
        bed.bridge("svc")?;
        bed.host(BETA)?;
        bed.plug(BETA, "hb0", "hb", &["192.0.2.2/24"])?;
        bed.plug(BETA, "eth0", "svc", &["198.51.100.2/24"])?;
        bed.host(CLIENT)?;
        bed.plug(CLIENT, "eth0", "svc", &["198.51.100.100/24"])?;
        let floating: IpAddr = FLOATING.parse()?;
        let client = bed.netns(CLIENT)?;
        let mut beta = Node::new(&bed, BETA)?;
        beta.configure(&plan.config(&beta.authkeys_path()), AUTHKEYS)?;
        let card = |name: &str, mac: &str, address: &str| {
            (name.to_owned(), mac.to_owned(), address.to_owned())
        };
        let guest = Guest {
            name: ALPHA,
            cards: &[
                card("hb0", MACS[0], "192.0.2.1/24"),
                card("eth0", MACS[1], "198.51.100.1/24"),
            ],
            config: &plan.config(GUEST_KEYS.as_ref()),
            authkeys: AUTHKEYS,
        };
        let initramfs = bed.directory().join("initramfs");
        fs::write(&initramfs, image.initramfs(&guest)?)?;
        let macs = MACS.iter().map(|&mac| mac.to_owned()).collect();
        let heartbeats = HeartbeatWatch::start(&bed.switch(), macs, plan.keepalive * 2)?;
        let beta_addresses = AddressMonitor::start(beta.netns())?;
        let sniffer = Sniffer::start(&client)?;
        let asker = Asker::start(&client, "eth0", floating, ASK_INTERVAL)?;
        let mut machines = 0;
        let mut alpha = machine(&mut bed, &image, &initramfs, &mut machines, None)?;
        alpha.start_daemon()?;
        beta.start()?;
        beta.wait_ready(STEP)?;
        let pair = Self {
            alpha,
            beta,
            asker,
            sniffer,
            beta_addresses,
            heartbeats,
            image,
            initramfs,
            machines,
            bed,
        };
        pair.settled_at_first()
    }

    fn settled_at_first(mut self) -> Result<Self> {
        self.settle(ALPHA)?;
        let alpha = self.alpha.status()?;
        for link in alpha.nodes.iter().flat_map(|node| &node.links) {
            let reason = link.via_reason.lines().next().unwrap_or_default();
            println!(
                "alpha, kernel {}: {} by {} {reason}",
                self.image.release(),
                link.name,
                link.via
            );
        }
        Ok(self)
    }

    /// Whose kernel is alpha's: the MAC address in the service network.
    #[must_use]
    pub fn alpha_mac(&self) -> &'static str {
        MACS[1]
    }

    /// The MAC address of beta in the service network.
    ///
    /// # Errors
    /// Never for a pair that was started.
    pub fn beta_mac(&self) -> Result<&str> {
        self.bed.mac(BETA, "eth0")
    }

    /// Waits until both daemons see each other up on all links and the group on `owner`, and this lasts
    /// for 1.5 s.
    ///
    /// # Errors
    /// It does not come to that.
    pub fn settle(&mut self, owner: &str) -> Result<()> {
        let what = format!("everyone up and {GROUP} on {owner}");
        let sees = |peer: &str, status: &Status| {
            status.node_state(peer) == "up" && status.links_up(peer) && status.runs_on(GROUP, owner)
        };
        let mut events_before = None;
        loop {
            if let Err(error) = self.beta.wait_until(&what, STEP, |status| sees(ALPHA, status)) {
                return Err(error.context(self.alpha.log_tail()));
            }
            let seen = self.alpha.wait_until(&what, STEP, |status| sees(BETA, status))?;
            if events_before == Some(seen.events) {
                return Ok(());
            }
            events_before = Some(seen.events);
            thread::sleep(CALM);
        }
    }

    /// Moves the group, and waits until all is settled.
    ///
    /// # Errors
    /// It is refused, or does not move.
    pub fn relocate(&mut self, owner: &str) -> Result<()> {
        if !self.beta.status()?.runs_on(GROUP, owner) {
            self.beta.hactl_done(&["relocate", GROUP, owner])?;
        }
        self.settle(owner)
    }

    /// This moment.
    ///
    /// # Errors
    /// A daemon does not answer.
    pub fn mark(&mut self) -> Result<Mark> {
        let last = self.alpha.run("hactl events --json --limit 1")?;
        let alpha = Event::parse_all(&last)?.last().map_or(0, |event| event.id);
        let status = self.beta.status()?;
        let term = status.group(GROUP).context("no group")?.term;
        Ok(Mark { at_ns: monotonic_ns(), alpha, term })
    }

    /// Alpha's events since then.
    ///
    /// # Errors
    /// Its daemon does not answer.
    pub fn alpha_events(&mut self, mark: &Mark) -> Result<Vec<Event>> {
        self.alpha.events(mark.alpha)
    }

    /// Beta's events since then.
    ///
    /// # Errors
    /// Its daemon does not answer.
    pub fn beta_events(&self, mark: &Mark) -> Result<Vec<Event>> {
        let mut events = self.beta.events()?;
        events.retain(|event| event.monotonic_ns >= mark.at_ns);
        Ok(events)
    }

    /// Fails if alpha has judged its peer since then, or taken anything.
    ///
    /// # Errors
    /// Says what it did.
    pub fn expect_no_verdict(&mut self, mark: &Mark) -> Result<()> {
        let mut events = self.alpha_events(mark)?;
        events.retain(|event| {
            ["node-dead", "link-dead", "node-stale", "takeover"].contains(&event.kind.as_str())
        });
        ensure!(events.is_empty(), "alpha judged its peer: {events:?}");
        Ok(())
    }

    /// Fails if the group has moved since then, whoever has it.
    ///
    /// # Errors
    /// Says so.
    pub fn expect_no_move(&mut self, mark: &Mark) -> Result<()> {
        let term = self.beta.status()?.group(GROUP).context("no group")?.term;
        ensure!(term == mark.term, "the group has moved: term {} became {term}", mark.term);
        Ok(())
    }

    /// Waits until beta's kernel has the floating address, or has it no more.
    ///
    /// # Errors
    /// It does not in time.
    pub fn wait_beta_holds(&self, holds: bool) -> Result<()> {
        self.beta_addresses.wait(FLOATING.parse()?, holds, STEP)
    }

    /// Whether alpha's kernel has the floating address.
    ///
    /// # Errors
    /// The guest does not answer.
    pub fn alpha_holds(&mut self) -> Result<bool> {
        let listed = self.alpha.run("ip -4 address show dev eth0")?;
        Ok(listed.contains(&format!("{FLOATING}/")))
    }

    /// Migrates alpha's machine to another QEMU, as live migration does it, over a network that carries
    /// `bytes_per_second`; QEMU stops the guest when it expects to need no more than `downtime_limit` for
    /// the rest. Gives when the old one stopped the guest and when the new one went on with it.
    ///
    /// # Errors
    /// QEMU refuses, or does not come to an end.
    pub fn migrate(
        &mut self,
        downtime_limit: Duration,
        bytes_per_second: u64,
    ) -> Result<(u64, u64)> {
        let path = |name: &str| self.bed.directory().join(format!("{name}{}", self.machines));
        let (from, to) = (path("leaving"), path("arriving"));
        let incoming = Some(to.as_path());
        let mut next =
            machine(&mut self.bed, &self.image, &self.initramfs, &mut self.machines, incoming)?;
        let relay = Relay::start(&from, &to, bytes_per_second)?;
        let qmp = &mut self.alpha.qmp;
        let limit_ms = u64::try_from(downtime_limit.as_millis())?;
        qmp.execute(
            "migrate-set-parameters",
            json!({ "downtime-limit": limit_ms, "max-bandwidth": BANDWIDTH_MAX }),
        )?;
        qmp.execute("migrate", json!({ "uri": format!("unix:{}", from.display()) }))?;
        let (stopped_ns, _) = qmp.wait_event("STOP", STEP)?;
        let (resumed_ns, _) = next.qmp.wait_event("RESUME", STEP)?;
        std::mem::replace(&mut self.alpha, next).end()?;
        relay.finish()?;
        Ok((stopped_ns, resumed_ns))
    }

    /// Ends everything.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn finish(self) -> Result<()> {
        let Self { alpha, mut beta, asker, sniffer, beta_addresses, heartbeats, bed, .. } = self;
        beta.stop()?;
        alpha.end()?;
        drop((beta, asker, sniffer, beta_addresses, heartbeats));
        bed.finish()
    }
}

/// The next machine with alpha in it, on taps of its own.
fn machine(
    bed: &mut Bed,
    image: &Image,
    initramfs: &std::path::Path,
    machines: &mut u32,
    incoming: Option<&std::path::Path>,
) -> Result<Machine> {
    let number = *machines;
    *machines += 1;
    let mut cards = Vec::new();
    for (bridge, mac) in ["hb", "svc"].into_iter().zip(MACS) {
        let tap = format!("tap{number}-{bridge}");
        bed.tap(&tap, bridge)?;
        cards.push(Card { tap, mac: mac.to_owned() });
    }
    let path = bed.directory().join(format!("machine{number}"));
    let switch = bed.switch();
    let start = Start { path: &path, image, initramfs, cards: &cards, incoming };
    Machine::start(&switch, &start)
}
