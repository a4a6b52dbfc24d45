//! The standard cluster of tests, demo and benches: nodes and a client on a service network, a
//! dedicated heartbeat network beside it, one group with a floating address.
//!
//! ```text
//!   bridge hb   192.0.2.0/24, 2001:db8:2::/64     alpha.hb0  beta.hb0 ...
//!   bridge svc  198.51.100.0/24, 2001:db8:1::/64  alpha.eth0 beta.eth0 ... client.eth0
//! ```
//!
//! Node number n (from 1) has 192.0.2.n, 2001:db8:2::n, 198.51.100.n, 2001:db8:1::n; the client has
//! .100.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Bed, Netns, Node, NullModem, Status};
use crate::web::Web;

/// Name of the client's host.
pub const CLIENT: &str = "client";
/// Name of the standard group.
pub const GROUP: &str = "web";
/// The floating address of the standard group.
pub const FLOATING: &str = "198.51.100.10";
/// The floating IPv6 address when [`Plan::floating_v6`] asks for it.
pub const FLOATING_V6: &str = "2001:db8:1::10";

/// How long a cluster may take until it is settled.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(20);
/// The product's default, with its default `daemon_deadtime`.
const ADDRESS_LIFETIME_DEFAULT: Duration = Duration::from_secs(2);
const NODES_MAX: usize = 64;

/// What the cluster is to be like. `Plan::default()` is a pair of 10 ms / 30 ms.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Names of the nodes, preferred first.
    pub nodes: Vec<String>,
    /// Interval between two heartbeats.
    pub keepalive: Duration,
    /// Silence after which a peer is dead.
    pub deadtime: Duration,
    /// How long an address outlives daemon and keeper, in whole seconds; `None`: the product's default.
    pub address_lifetime: Option<Duration>,
    /// Whether the group returns by itself to the preferred node.
    pub failback: bool,
    /// Whether the group is pre-armed.
    pub prearmed: bool,
    /// What becomes of the group when its owner's daemon dies: `move` or `wait`; `None`: the default.
    pub on_daemon_death: Option<&'static str>,
    /// Whether heartbeats travel on the dedicated network (link `hb0`).
    pub link_hb: bool,
    /// Whether heartbeats travel on the service network too (link `svc`, interface eth0).
    pub link_svc: bool,
    /// Rate of a serial line between the two nodes (link `tty`, device `tty0` in each node's
    /// directory); `None`: there is none.
    pub serial_baud: Option<u32>,
    /// Whether heartbeats travel by IPv6.
    pub links_v6: bool,
    /// Whether the group has an IPv6 address as well.
    pub floating_v6: bool,
    /// Further lines of `[cluster]`, such as `on_doubt = "hold"`.
    pub cluster_lines: Vec<String>,
    /// Further lines of every `[links.*]`, such as `receive = "socket"`.
    pub link_lines: Vec<String>,
    /// Text that follows the generated configuration (more groups, for instance).
    pub more: String,
    /// Whether nginx runs on each node.
    pub web: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            nodes: vec!["alpha".to_owned(), "beta".to_owned()],
            keepalive: Duration::from_millis(10),
            deadtime: Duration::from_millis(30),
            address_lifetime: None,
            failback: true,
            prearmed: false,
            on_daemon_death: None,
            link_hb: true,
            link_svc: true,
            serial_baud: None,
            links_v6: false,
            floating_v6: false,
            cluster_lines: Vec::new(),
            link_lines: Vec::new(),
            more: String::new(),
            web: true,
        }
    }
}

/// The cluster; fields are dropped in this order, the world last.
#[derive(Debug)]
pub struct Cluster {
    /// Nodes, preferred first.
    pub nodes: Vec<Node>,
    /// Their web servers, in the same order; empty when the plan has none.
    pub webs: Vec<Web>,
    /// The plan.
    pub plan: Plan,
    /// The cable of the serial line, when the plan has one.
    pub modem: Option<NullModem>,
    /// The world.
    pub bed: Bed,
}

impl Cluster {
    /// Builds it; web servers run, daemons do not.
    ///
    /// # Errors
    /// As [`Bed::new`]; or nginx is missing.
    pub fn build(plan: Plan) -> Result<Self> {
        Self::build_in(Bed::new()?, plan)
    }

    /// Builds it and starts it: [`Cluster::build`], then [`Cluster::start`].
    ///
    /// # Errors
    /// As these two.
    pub fn started(plan: Plan) -> Result<Self> {
        let mut cluster = Self::build(plan)?;
        cluster.start()?;
        Ok(cluster)
    }

    /// Builds it in a bed that is there.
    ///
    /// # Errors
    /// As [`Cluster::build`].
    pub fn build_in(mut bed: Bed, plan: Plan) -> Result<Self> {
        if plan.nodes.is_empty() || plan.nodes.len() > NODES_MAX {
            bail!("a cluster has 1 to {NODES_MAX} nodes, not {}", plan.nodes.len());
        }
        bed.bridge("hb")?;
        bed.bridge("svc")?;
        for (name, number) in plan.nodes.iter().zip(1..) {
            bed.host(name)?;
            let (hb, svc) = (format!("{}/24", hb_address(number)), svc_address(number));
            bed.plug(name, "hb0", "hb", &[&hb, &format!("{}/64", hb_address_v6(number))])?;
            let svc_v6 = format!("{}/64", svc_address_v6(number));
            bed.plug(name, "eth0", "svc", &[&format!("{svc}/24"), &svc_v6])?;
        }
        bed.host(CLIENT)?;
        bed.plug(CLIENT, "eth0", "svc", &["198.51.100.100/24", "2001:db8:1::100/64"])?;
        let mut nodes = Vec::new();
        let mut webs = Vec::new();
        for name in &plan.nodes {
            let node = Node::new(&bed, name)?;
            node.configure(&plan.config(&node.authkeys_path()), AUTHKEYS)?;
            if plan.web {
                webs.push(Web::start(node.netns(), &node.directory().join("web"), name)?);
            }
            nodes.push(node);
        }
        let modem = plan.serial_baud.map(|baud| modem(&nodes, baud)).transpose()?;
        Ok(Self { nodes, webs, plan, modem, bed })
    }

    /// The node of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes
            .iter()
            .find(|node| node.name() == name)
            .with_context(|| format!("there is no node {name}"))
    }

    /// The node of that name, for starting and stopping.
    ///
    /// # Errors
    /// There is none.
    pub fn node_mut(&mut self, name: &str) -> Result<&mut Node> {
        self.nodes
            .iter_mut()
            .find(|node| node.name() == name)
            .with_context(|| format!("there is no node {name}"))
    }

    /// The client's namespace.
    ///
    /// # Errors
    /// Never for a cluster that was built.
    pub fn client(&self) -> Result<Arc<Netns>> {
        self.bed.netns(CLIENT)
    }

    /// Starts every daemon that does not run and waits until the cluster is settled.
    ///
    /// # Errors
    /// A daemon does not start, or the cluster does not settle within 20 s.
    pub fn start(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            if !node.is_running() {
                node.start()?;
            }
        }
        for node in &mut self.nodes {
            node.wait_ready(SETTLE_TIME_MAX)?;
        }
        let owner = self.plan.nodes[0].clone();
        self.wait_settled(&owner)
    }

    /// Stops every running daemon and looks for leftovers on every node.
    ///
    /// # Errors
    /// A daemon does not leave cleanly, or something stays.
    pub fn stop(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            if node.is_running() {
                node.stop()?;
            }
        }
        let floating: [IpAddr; 2] = [FLOATING.parse()?, FLOATING_V6.parse()?];
        self.nodes.iter().try_for_each(|node| node.expect_nothing_left(&floating))
    }

    /// Ends a story: [`Cluster::stop`], and then the world.
    ///
    /// # Errors
    /// As [`Cluster::stop`] and [`Bed::finish`].
    pub fn finish(mut self) -> Result<()> {
        self.stop()?;
        let Self { nodes, webs, modem, bed, .. } = self;
        drop((nodes, webs, modem));
        bed.finish()
    }

    /// Waits until every daemon sees every node up on all links and the standard group started on
    /// `owner`.
    ///
    /// # Errors
    /// It does not come to that within 20 s.
    pub fn wait_settled(&self, owner: &str) -> Result<()> {
        for node in &self.nodes {
            let what = format!("all nodes up and {GROUP} on {owner}");
            node.wait_until(&what, SETTLE_TIME_MAX, |status| {
                self.sees_everyone(status) && status.runs_on(GROUP, owner)
            })?;
        }
        Ok(())
    }

    /// Rewrites every node's configuration from a changed plan; SIGHUP makes daemons read it.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn reconfigure(&mut self, plan: Plan) -> Result<()> {
        for node in &self.nodes {
            node.configure(&plan.config(&node.authkeys_path()), AUTHKEYS)?;
        }
        self.plan = plan;
        Ok(())
    }

    /// The cable of the serial line.
    ///
    /// # Errors
    /// The plan has none.
    pub fn modem(&self) -> Result<&NullModem> {
        self.modem.as_ref().context("the plan has no serial line")
    }

    fn sees_everyone(&self, status: &Status) -> bool {
        self.plan.nodes.iter().all(|name| {
            *name == status.node || (status.node_state(name) == "up" && status.links_up(name))
        })
    }
}

/// Name of a node's serial device in its directory.
const SERIAL_DEVICE: &str = "tty0";

fn modem(nodes: &[Node], baud: u32) -> Result<NullModem> {
    let [first, second] = nodes else { bail!("a serial line has two ends") };
    let paths = [first, second].map(|node| node.directory().join(SERIAL_DEVICE));
    NullModem::start([&paths[0], &paths[1]], baud)
}

/// Key file of all nodes.
pub const AUTHKEYS: &str = "auth 1\n1 siphash a-secret-of-the-test-bed\n";

impl Plan {
    /// How long an address outlives daemon and keeper.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.address_lifetime.unwrap_or(ADDRESS_LIFETIME_DEFAULT)
    }

    /// The configuration file; the same on all nodes but for the path of the key file.
    #[must_use]
    pub fn config(&self, authkeys: &Path) -> String {
        let mut text = format!(
            "[cluster]\nname = \"bed\"\nkeepalive = \"{}us\"\ndeadtime = \"{}us\"\n\
             auth = {{ file = \"{}\" }}\n",
            self.keepalive.as_micros(),
            self.deadtime.as_micros(),
            authkeys.display(),
        );
        if let Some(lifetime) = self.address_lifetime {
            push(&mut text, format_args!("address_lifetime = \"{}s\"\n", lifetime.as_secs()));
        }
        push_lines(&mut text, &self.cluster_lines);
        let links = [("hb0", "hb0", self.link_hb), ("svc", "eth0", self.link_svc)];
        for (link, interface, _) in links.iter().filter(|(_, _, wanted)| *wanted) {
            push(&mut text, format_args!("\n[links.{link}]\nkind = \"ucast\"\n"));
            push(&mut text, format_args!("interface = \"{interface}\"\n"));
            push_lines(&mut text, &self.link_lines);
        }
        if let Some(baud) = self.serial_baud {
            push(&mut text, format_args!("\n[links.tty]\nkind = \"serial\"\nbaud = {baud}\n"));
            push_lines(&mut text, &self.link_lines);
        }
        // The directories of all nodes are beside each other.
        let directories = authkeys.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
        for (name, number) in self.nodes.iter().zip(1..) {
            push(&mut text, format_args!("\n[nodes.{name}]\n"));
            let (hb, svc) = if self.links_v6 {
                (hb_address_v6(number), svc_address_v6(number))
            } else {
                (hb_address(number), svc_address(number))
            };
            if self.link_hb {
                push(&mut text, format_args!("hb0 = \"{hb}\"\n"));
            }
            if self.link_svc {
                push(&mut text, format_args!("svc = \"{svc}\"\n"));
            }
            if self.serial_baud.is_some() {
                let device = directories.join(name).join(SERIAL_DEVICE);
                push(&mut text, format_args!("tty = \"{}\"\n", device.display()));
            }
        }
        let failback = if self.failback { "auto" } else { "manual" };
        push(&mut text, format_args!("\n[groups.{GROUP}]\nnodes = {:?}\n", self.nodes));
        push(&mut text, format_args!("failback = \"{failback}\"\n"));
        if self.prearmed {
            text.push_str("prearmed = true\n");
        }
        if let Some(consequence) = self.on_daemon_death {
            push(&mut text, format_args!("on_daemon_death = \"{consequence}\"\n"));
        }
        text.push_str("resources = [\n");
        push_address(&mut text, FLOATING, 24);
        if self.floating_v6 {
            push_address(&mut text, FLOATING_V6, 64);
        }
        text.push_str("]\n");
        text.push_str(&self.more);
        text
    }
}

fn push_address(text: &mut String, address: &str, prefix: u8) {
    push(
        text,
        format_args!(
            "  {{ kind = \"address\", address = \"{address}/{prefix}\", interface = \"eth0\" }},\n"
        ),
    );
}

fn push_lines(text: &mut String, lines: &[String]) {
    for line in lines {
        push(text, format_args!("{line}\n"));
    }
}

fn push(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = text.write_fmt(what);
}

fn hb_address(number: usize) -> String {
    format!("192.0.2.{number}")
}

/// Nodes 10 and up would meet the floating address and, later, the client's: they start at .110.
fn svc_address(number: usize) -> String {
    format!("198.51.100.{}", if number < 10 { number } else { number + 100 })
}

fn hb_address_v6(number: usize) -> String {
    format!("2001:db8:2::{number:x}")
}

fn svc_address_v6(number: usize) -> String {
    format!(
        "2001:db8:1::{}",
        if number < 0x10 { format!("{number:x}") } else { format!("1:{number:x}") }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_of_a_pair_is_the_one_of_the_documents() {
        let plan = Plan {
            cluster_lines: vec!["on_doubt = \"hold\"".to_owned()],
            link_lines: vec!["receive = \"socket\"".to_owned()],
            ..Plan::default()
        };
        let expected = r#"[cluster]
name = "bed"
keepalive = "10000us"
deadtime = "30000us"
auth = { file = "/x/authkeys" }
on_doubt = "hold"

[links.hb0]
kind = "ucast"
interface = "hb0"
receive = "socket"

[links.svc]
kind = "ucast"
interface = "eth0"
receive = "socket"

[nodes.alpha]
hb0 = "192.0.2.1"
svc = "198.51.100.1"

[nodes.beta]
hb0 = "192.0.2.2"
svc = "198.51.100.2"

[groups.web]
nodes = ["alpha", "beta"]
failback = "auto"
resources = [
  { kind = "address", address = "198.51.100.10/24", interface = "eth0" },
]
"#;
        assert_eq!(plan.config(Path::new("/x/authkeys")), expected);
    }
}
