//! What the scenarios share: two hosts with Heartbeat's files, `httpd` as a resource script that
//! runs a real nginx, and a client that asks for the page through the floating address.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ha_tests::bed::{Bed, End, Node, NullModem, Turn, turn_with_others};
use ha_tests::clock::monotonic_ns;
use ha_tests::observe::{AddressMonitor, both_held_ns};
use ha_tests::web;

/// Where clients find the service.
pub const FLOATING: &str = "198.51.100.254";
/// The host that the ping nodes of H3 stand for: a router on the service network.
pub const ROUTER: &str = "router";
/// Its address.
pub const ROUTER_ADDRESS: &str = "198.51.100.1";
const CLIENT: &str = "client";
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const REQUEST_TIME_MAX: Duration = Duration::from_millis(500);

/// The times of `ha.cf`, as they are written there.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub keepalive: &'static str,
    pub warntime: &'static str,
    pub deadtime: &'static str,
    pub initdead: &'static str,
    /// How long a death by silence may take until the page is there again.
    pub patience: Duration,
}

/// Two nodes, a client and a router on a service network, a heartbeat network beside it.
pub struct World {
    pub nodes: Vec<Node>,
    /// Whatever a failed test leaves running.
    services: Vec<Service>,
    monitors: Vec<(String, AddressMonitor)>,
    started_ns: u64,
    /// The cable between the first two nodes' serial ports, once it was laid.
    modem: Option<NullModem>,
    /// Takes the namespaces with it.
    pub bed: Bed,
    /// The last: others may go on when everything is gone.
    turn: Turn,
}

impl World {
    /// Hosts with `eth0` on the service and `eth1` on the heartbeat network.
    pub fn new(names: &[&str]) -> Result<Self> {
        let turn = turn_with_others();
        let mut bed = Bed::new()?;
        bed.bridge("svc")?;
        bed.bridge("hb")?;
        let mut nodes = Vec::new();
        let mut services = Vec::new();
        for (name, number) in names.iter().zip(11..) {
            bed.host(name)?;
            bed.plug(name, "eth0", "svc", &[&format!("198.51.100.{number}/24")])?;
            bed.plug(name, "eth1", "hb", &[&format!("192.0.2.{number}/24")])?;
            let node = Node::new(&bed, name)?;
            services.push(Service(node.directory().to_owned()));
            nodes.push(node);
        }
        for (host, address) in [(CLIENT, "198.51.100.100/24"), (ROUTER, "198.51.100.1/24")] {
            bed.host(host)?;
            bed.plug(host, "eth0", "svc", &[address])?;
        }
        let monitors = AddressMonitor::start_all(nodes.iter().map(Node::netns))?;
        let monitors = names.iter().map(|name| (*name).to_owned()).zip(monitors).collect();
        let started_ns = monotonic_ns();
        Ok(Self { nodes, services, monitors, started_ns, modem: None, bed, turn })
    }

    /// Lays a null modem between the serial ports ([`serial_port`]) of the two nodes.
    pub fn lay_serial_line(&mut self, baud: u32) -> Result<()> {
        let [first, second] = &*self.nodes else { bail!("a serial line has two ends") };
        let ports = [first, second].map(serial_port);
        self.modem = Some(NullModem::start([&ports[0], &ports[1]], baud)?);
        Ok(())
    }

    /// The cable of the serial line.
    pub fn modem(&self) -> Result<&NullModem> {
        self.modem.as_ref().context("no serial line was laid")
    }

    /// Writes a node's files; `httpd` serves a page with the node's name.
    pub fn configure(
        &self,
        node: &str,
        ha_cf: &str,
        haresources: &str,
        authkeys: &str,
    ) -> Result<()> {
        let node = self.node(node)?;
        let httpd = httpd(node.directory(), node.name())?;
        let scripts = ["resource.d/httpd", "resource.d/nginx"].map(|name| (name, httpd.as_str()));
        let files = [("ha.cf", ha_cf), ("haresources", haresources), ("authkeys", authkeys)];
        node.configure_heartbeat(&[&files[..], &scripts[..]].concat())
    }

    pub fn node(&self, name: &str) -> Result<&Node> {
        let found = self.nodes.iter().find(|node| node.name() == name);
        found.with_context(|| format!("there is no node {name}"))
    }

    pub fn node_mut(&mut self, name: &str) -> Result<&mut Node> {
        let found = self.nodes.iter_mut().find(|node| node.name() == name);
        found.with_context(|| format!("there is no node {name}"))
    }

    /// Starts every daemon.
    pub fn start(&mut self) -> Result<()> {
        self.nodes.iter_mut().try_for_each(Node::start)
    }

    /// The page that a client gets through the floating address; `None` without an answer.
    pub fn page(&self) -> Result<Option<String>> {
        let (client, address) = (self.bed.netns(CLIENT)?, FLOATING.parse()?);
        client.run(|| Ok(web::fetch(address, REQUEST_TIME_MAX).ok()))
    }

    /// Waits until a client sees the page of `owner`, and nothing but that for a while; the address
    /// is on that node alone, and `httpd` runs nowhere else.
    pub fn expect_page(&self, owner: &str, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        let mut since = None;
        loop {
            let page = self.page()?;
            match (page.as_deref() == Some(owner), since) {
                (true, None) => since = Some(Instant::now()),
                (true, Some(at)) if at.elapsed() > Duration::from_secs(1) => break,
                (true, Some(_)) => {}
                (false, _) => since = None,
            }
            if Instant::now() > deadline {
                bail!("a client sees {page:?}, not {owner}'s page; {}", self.logs());
            }
            thread::sleep(POLL_INTERVAL);
        }
        self.wait_only(owner, Duration::from_secs(10))
    }

    /// Address and service are on `owner` and on no other running node.
    fn wait_only(&self, owner: &str, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let address = FLOATING.parse()?;
            let holders: BTreeSet<&str> = self
                .monitors
                .iter()
                .filter(|(_, monitor)| monitor.holds(address))
                .map(|(name, _)| name.as_str())
                .collect();
            let serving: BTreeSet<&str> =
                self.nodes.iter().filter(|node| serves(node.directory())).map(Node::name).collect();
            let wanted = BTreeSet::from([owner]);
            if holders == wanted && serving == wanted {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("address on {holders:?}, httpd on {serving:?}, not only on {owner}");
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// The nodes that have the floating address now.
    pub fn holders(&self) -> Result<Vec<&str>> {
        let address = FLOATING.parse()?;
        let holding = self.monitors.iter().filter(|(_, monitor)| monitor.holds(address));
        Ok(holding.map(|(name, _)| name.as_str()).collect())
    }

    /// Fails when the address was ever on two nodes at once.
    pub fn expect_never_double(&self) -> Result<()> {
        let double_ns = self.both_held_ns(self.started_ns)?;
        ensure!(double_ns == 0, "{FLOATING} was on two nodes for {double_ns} ns");
        Ok(())
    }

    /// For how long the address was on two nodes since then; the longest of all pairs.
    pub fn both_held_ns(&self, from_ns: u64) -> Result<u64> {
        let address = FLOATING.parse()?;
        let now_ns = monotonic_ns();
        let pairs = self.monitors.iter().enumerate().flat_map(|(at, (_, one))| {
            self.monitors[at + 1..].iter().map(move |(_, other)| (one, other))
        });
        let held = pairs.map(|(one, other)| both_held_ns(one, other, address, from_ns, now_ns));
        Ok(held.max().unwrap_or(0))
    }

    /// Waits until a node's log has all of `terms`, in this order, after `from` bytes.
    pub fn expect_log(&self, node: &str, from: usize, terms: &[&str]) -> Result<()> {
        let path = self.node(node)?.log_path();
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let text = fs::read_to_string(&path)?;
            let mut rest = text.get(from..).unwrap_or("");
            let missing = terms.iter().find(|term| match rest.find(**term) {
                Some(at) => {
                    rest = &rest[at + term.len()..];
                    false
                }
                None => true,
            });
            match missing {
                None => return Ok(()),
                Some(term) if Instant::now() > deadline => {
                    bail!("{node}'s log has no {term:?} in its place:\n{text}")
                }
                Some(_) => thread::sleep(POLL_INTERVAL),
            }
        }
    }

    /// Length of a node's log so far.
    pub fn log_length(&self, node: &str) -> Result<usize> {
        Ok(fs::read_to_string(self.node(node)?.log_path())?.len())
    }

    fn logs(&self) -> String {
        self.nodes.iter().fold(String::new(), |mut text, node| {
            // Writing to a String cannot fail.
            let _ = write!(text, "\n--- {}\n{}", node.name(), node.log_tail(60));
            text
        })
    }

    /// The machine of a node is gone at once: daemon and keeper killed, all its cables out, its
    /// services and address gone with it.
    pub fn power_off(&mut self, name: &str) -> Result<()> {
        self.bed.cut_all(name, ha_tests::bed::Cut::Middle)?;
        if let Some(modem) = &self.modem {
            // What is sent to a machine without power is lost as well.
            for end in [End::First, End::Second] {
                modem.cut(end);
            }
        }
        let node = self.node_mut(name)?;
        node.kill_daemon_and_keeper()?;
        node.wait_exit(Duration::from_secs(10))?;
        end_httpd(node.directory());
        // What a reboot leaves of an address.
        let _ = node.netns().ip(&["address", "del", &format!("{FLOATING}/24"), "dev", "eth0"]);
        Ok(())
    }

    /// The machine comes back.
    pub fn power_on(&mut self, name: &str) -> Result<()> {
        self.bed.heal_all(name)?;
        if let Some(modem) = &self.modem {
            for end in [End::First, End::Second] {
                modem.heal(end);
            }
        }
        self.node_mut(name)?.start()
    }

    /// Every daemon leaves cleanly; nothing of it is left.
    pub fn finish(mut self) -> Result<()> {
        for node in &mut self.nodes {
            if node.is_running() {
                node.stop()?;
            }
            ensure!(!node.has_address(FLOATING.parse()?)?, "{} keeps the address", node.name());
            ensure!(!serves(node.directory()), "httpd still runs on {}", node.name());
        }
        drop((self.nodes, self.services, self.monitors, self.modem));
        let removed = self.bed.finish();
        drop(self.turn);
        removed
    }
}

/// A node's serial port, which Heartbeat's users call `/dev/ttyS0`.
pub fn serial_port(node: &Node) -> PathBuf {
    node.directory().join("ttyS0")
}

/// The `httpd` of a node's directory.
struct Service(PathBuf);

impl Drop for Service {
    fn drop(&mut self) {
        end_httpd(&self.0);
    }
}

/// A resource script as distributions ship them: starts, stops and tells the status of a real nginx
/// in the namespace of whoever calls it.
fn httpd(directory: &Path, page: &str) -> Result<String> {
    let home = directory.join("httpd");
    fs::create_dir_all(home.join("pages"))?;
    fs::write(home.join("pages/index.html"), format!("{page}\n"))?;
    let config = web::config(&home).replace("daemon off;", "daemon on;");
    fs::write(home.join("nginx.conf"), config)?;
    let (nginx, home) = (web::installed()?, home.display().to_string());
    let nginx = nginx.display();
    Ok(format!(
        r#"#!/bin/sh
# chkconfig: 345 85 15
pidfile={home}/nginx.pid
# Where no init reaps it at once, an ended process stays as a zombie.
alive() {{ grep -q '^State:.[^ZX]' "/proc/$1/status" 2>/dev/null; }}
running() {{ [ -s "$pidfile" ] && alive "$(cat "$pidfile")"; }}
case "$1" in
start)
    running || {nginx} -p {home} -c {home}/nginx.conf -e {home}/error.log
    ;;
stop)
    running || exit 0
    pid=$(cat "$pidfile")
    kill -TERM "$pid"
    while alive "$pid"; do sleep 0.05; done
    ;;
status)
    if running; then echo "httpd (pid $(cat "$pidfile")) is running..."; else echo "httpd is stopped"; exit 3; fi
    ;;
*)
    echo "usage: $0 start|stop|status" >&2
    exit 2
    ;;
esac
"#
    ))
}

fn httpd_pid(directory: &Path) -> Option<nix::unistd::Pid> {
    let text = fs::read_to_string(directory.join("httpd/nginx.pid")).ok()?;
    text.trim().parse().ok().map(nix::unistd::Pid::from_raw)
}

fn serves(directory: &Path) -> bool {
    let Some(pid) = httpd_pid(directory) else { return false };
    // Where no init reaps it at once, an ended process stays as a zombie.
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains(['Z', 'X']))
}

fn end_httpd(directory: &Path) {
    let Some(pid) = httpd_pid(directory) else { return };
    // Already gone is what is wanted.
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    let deadline = Instant::now() + Duration::from_secs(5);
    while serves(directory) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
}
