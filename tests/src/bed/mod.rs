//! One test's world: hosts (namespaces), bridges in a switch namespace of their own, cables
//! between them, and the faults of those cables.
//!
//! Start with [`Cluster`] when two or more daemons are wanted, with [`Bed`] for anything else.
//!
//! Everything carries the prefix `ha<pid>-<n>-`, so that beds do not meet and leftovers of killed
//! processes are known; they are removed when the next bed is made.

mod cgroup;
mod cluster;
pub mod command;
mod connections;
mod interrupt;
mod leftovers;
pub(crate) mod netlink;
mod netns;
mod node;
mod null_modem;
pub mod processes;
mod reception;
mod status;
mod teardown;
mod turn;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};

pub use cgroup::MemoryGroup;
pub use cluster::{AUTHKEYS, CLIENT, Cluster, FLOATING, FLOATING_V6, GROUP, Plan};
pub use netns::Netns;
pub(crate) use node::addresses_of;
pub use node::{Node, program};
pub use null_modem::{End, NullModem};
pub use processes::Processes;
pub use reception::Reception;
pub use status::{Event, GroupView, LinkView, NodeView, Status};
pub use turn::{Turn, turn, turn_with_others};

use crate::clock::monotonic_ns;
use netlink::{PortState, Rtnetlink};

/// Longest name of an interface that Linux takes.
const INTERFACE_NAME_LEN_MAX: usize = 15;
/// Name of the host that holds the bridges.
const SWITCH: &str = "switch";

/// Where and how a cable breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// In the middle: the bridge port at the far end passes no frame in either direction. The
    /// node keeps its carrier and notices nothing but silence (a broken switch, a partition).
    Middle,
    /// The cable is pulled: the far end of the pair goes down, the node loses its carrier but its
    /// interface stays up administratively, addresses stay.
    Cable,
    /// At the node: the interface is set down inside of the node (`ip link set down`).
    AtNode,
}

/// One end of a cable, inside of a host.
#[derive(Debug, Clone)]
struct Plug {
    host: String,
    interface: String,
    port: String,
    mac: String,
    addresses: Vec<String>,
}

/// One test's world. Dropping it removes everything that it made, in spite of failures, which it
/// prints; [`Bed::finish`] returns them.
#[derive(Debug)]
pub struct Bed {
    world: Arc<World>,
    hosts: BTreeMap<String, Arc<Netns>>,
    switch: Arc<Netns>,
    plugs: Vec<Plug>,
}

impl Bed {
    /// An empty world, after removing stale ones of dead processes.
    ///
    /// # Errors
    /// The caller is not root, or namespaces cannot be made here.
    pub fn new() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self::with_prefix(&format!("ha{}-{number}-", std::process::id()))
    }

    /// An empty world under a prefix of the caller's own, which outlives this process when the bed
    /// is forgotten ([`std::mem::forget`]); [`Bed::remove`] removes it then. The prefix must not
    /// look like `ha<pid>-<n>-`.
    ///
    /// # Errors
    /// As [`Bed::new`]; or something with that prefix is there already.
    pub fn with_prefix(prefix: &str) -> Result<Self> {
        if !is_root() {
            bail!("network namespaces need root: run this as root (sudo)");
        }
        static STALE: Once = Once::new();
        STALE.call_once(|| {
            for failure in teardown::remove_stale() {
                eprintln!("stale bed: {failure}");
            }
        });
        if teardown::exists(prefix) {
            bail!("a bed {prefix} is there already");
        }
        let directory = tempfile::Builder::new().prefix(prefix).tempdir()?.keep();
        let world =
            Arc::new(World { prefix: prefix.to_owned(), directory, open: Mutex::new(true) });
        interrupt::watch(&world);
        // From here on a failure must remove what is there, which dropping a Bed does.
        let switch = match world.namespace(SWITCH) {
            Ok(switch) => Arc::new(switch),
            Err(error) => {
                world.tear_down_loudly();
                return Err(error);
            }
        };
        // The bridges only pass frames; their own neighbour discovery would be noise.
        switch.sysctl("ipv6/conf/default/disable_ipv6", "1").inspect_err(|_| {
            world.tear_down_loudly();
        })?;
        Ok(Self { world, hosts: BTreeMap::new(), switch, plugs: Vec::new() })
    }

    /// Removes a bed by its prefix, whoever made it. Returns what failed.
    #[must_use]
    pub fn remove(prefix: &str) -> Vec<String> {
        teardown::remove_all(prefix)
    }

    /// Whether something with that prefix is there.
    #[must_use]
    pub fn exists(prefix: &str) -> bool {
        teardown::exists(prefix)
    }

    /// The directory of this bed; goes with it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.world.directory
    }

    /// The prefix of all its names.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.world.prefix
    }

    /// The namespace that holds the bridges: an observer here sees what nodes send to each other.
    #[must_use]
    pub fn switch(&self) -> Arc<Netns> {
        Arc::clone(&self.switch)
    }

    /// Makes a bridge without spanning tree: its ports forward at once.
    ///
    /// # Errors
    /// The name is taken or too long.
    pub fn bridge(&mut self, name: &str) -> Result<()> {
        check_interface_name(name)?;
        self.world.make(|| {
            self.switch.ip(&[
                "link",
                "add",
                name,
                "type",
                "bridge",
                "stp_state",
                "0",
                "forward_delay",
                "0",
                "mcast_snooping",
                "0",
            ])?;
            self.switch.ip(&["link", "set", name, "up"])?;
            Ok(())
        })
    }

    /// Makes a host: a namespace with nothing but loopback.
    ///
    /// # Errors
    /// The name is taken.
    pub fn host(&mut self, name: &str) -> Result<Arc<Netns>> {
        let namespace = Arc::new(self.world.namespace(name)?);
        self.hosts.insert(name.to_owned(), Arc::clone(&namespace));
        Ok(namespace)
    }

    /// The namespace of a host.
    ///
    /// # Errors
    /// There is no such host.
    pub fn netns(&self, host: &str) -> Result<Arc<Netns>> {
        self.hosts.get(host).cloned().with_context(|| format!("there is no host {host}"))
    }

    /// Connects `interface` of `host` to a bridge and gives it addresses with prefix length. MAC
    /// addresses are `02:00:00:00:<host>:<interface>`, counted in the order of plugging.
    ///
    /// # Errors
    /// No such host or bridge, or a name or an address is not accepted.
    pub fn plug(
        &mut self,
        host: &str,
        interface: &str,
        bridge: &str,
        addresses: &[&str],
    ) -> Result<()> {
        check_interface_name(interface)?;
        let namespace = self.netns(host)?;
        let place = self.hosts.keys().position(|name| name == host).unwrap_or_default();
        let port = format!("port{}", self.plugs.len());
        let mac = format!("02:00:00:00:{:02x}:{:02x}", place + 1, self.plugs.len() + 1);
        self.world.make(|| {
            self.switch.ip(&[
                "link",
                "add",
                &port,
                "type",
                "veth",
                "peer",
                "name",
                interface,
                "address",
                &mac,
                "netns",
                namespace.name(),
            ])?;
            self.switch.ip(&["link", "set", &port, "alias", &format!("{host} {interface}")])?;
            self.switch.ip(&["link", "set", &port, "master", bridge, "up"])?;
            namespace.ip(&["link", "set", interface, "up"])?;
            Ok(())
        })?;
        for address in addresses {
            add_address(&namespace, interface, address)?;
        }
        self.plugs.push(Plug {
            host: host.to_owned(),
            interface: interface.to_owned(),
            port,
            mac,
            addresses: addresses.iter().map(|&address| address.to_owned()).collect(),
        });
        Ok(())
    }

    /// Makes a tap device in the namespace of the bridges, a port of one of them: the cable of a virtual
    /// machine that runs in that namespace.
    ///
    /// # Errors
    /// No such bridge, or the name is taken or too long.
    pub fn tap(&mut self, name: &str, bridge: &str) -> Result<()> {
        check_interface_name(name)?;
        self.world.make(|| {
            self.switch.ip(&["tuntap", "add", "dev", name, "mode", "tap"])?;
            self.switch.ip(&["link", "set", name, "master", bridge, "up"])?;
            Ok(())
        })
    }

    /// The MAC address of an interface of a host, lower case.
    ///
    /// # Errors
    /// There is no such cable.
    pub fn mac(&self, host: &str, interface: &str) -> Result<&str> {
        Ok(&self.plugs_of(host, Some(interface))?[0].mac)
    }

    /// Breaks one cable. Returns the moment just before it was broken, monotonic nanoseconds.
    ///
    /// # Errors
    /// There is no such cable, or the kernel refuses.
    pub fn cut(&self, host: &str, interface: &str, cut: Cut) -> Result<u64> {
        self.cut_plugs(&self.plugs_of(host, Some(interface))?, cut)
    }

    /// Breaks all cables of a host, back to back. Returns the moment just before the first.
    ///
    /// # Errors
    /// As [`Bed::cut`].
    pub fn cut_all(&self, host: &str, cut: Cut) -> Result<u64> {
        self.cut_plugs(&self.plugs_of(host, None)?, cut)
    }

    /// Heals one cable, however it was broken; a whole one stays whole. Returns the moment just
    /// before.
    ///
    /// # Errors
    /// There is no such cable, or the kernel refuses.
    pub fn heal(&self, host: &str, interface: &str) -> Result<u64> {
        self.heal_plugs(&self.plugs_of(host, Some(interface))?)
    }

    /// Heals all cables of a host. Returns the moment just before.
    ///
    /// # Errors
    /// As [`Bed::heal`].
    pub fn heal_all(&self, host: &str) -> Result<u64> {
        self.heal_plugs(&self.plugs_of(host, None)?)
    }

    /// Removes everything now.
    ///
    /// # Errors
    /// What could not be removed; the rest is removed all the same.
    pub fn finish(self) -> Result<()> {
        let failures = self.world.tear_down();
        if failures.is_empty() {
            return Ok(());
        }
        bail!("the bed was not removed completely: {}", failures.join("; "))
    }

    /// Makes a directory below the bed's own and, in it, `bpffs` mounted as one.
    pub(crate) fn node_directory(&self, name: &str) -> Result<PathBuf> {
        let directory = self.world.directory.join(name);
        let bpffs = directory.join("bpf");
        self.world.make(|| {
            fs::create_dir_all(&bpffs)?;
            mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
                .with_context(|| format!("cannot mount bpffs at {}", bpffs.display()))
        })?;
        Ok(directory)
    }

    fn plugs_of(&self, host: &str, interface: Option<&str>) -> Result<Vec<&Plug>> {
        let plugs: Vec<&Plug> = self
            .plugs
            .iter()
            .filter(|plug| plug.host == host)
            .filter(|plug| interface.is_none_or(|interface| plug.interface == interface))
            .collect();
        if plugs.is_empty() {
            bail!("{host} has no cable {}", interface.unwrap_or("at all"));
        }
        Ok(plugs)
    }

    fn cut_plugs(&self, plugs: &[&Plug], cut: Cut) -> Result<u64> {
        match cut {
            Cut::Middle => self.switch.run(|| {
                on_each(plugs, |link, plug| link.set_port_state(&plug.port, PortState::Disabled))
            }),
            Cut::Cable => {
                self.switch.run(|| on_each(plugs, |link, plug| link.set_up(&plug.port, false)))
            }
            Cut::AtNode => self
                .netns(&plugs[0].host)?
                .run(|| on_each(plugs, |link, plug| link.set_up(&plug.interface, false))),
        }
    }

    fn heal_plugs(&self, plugs: &[&Plug]) -> Result<u64> {
        let namespace = self.netns(&plugs[0].host)?;
        let at_ns = monotonic_ns();
        namespace.run(|| on_each(plugs, |link, plug| link.set_up(&plug.interface, true)))?;
        self.switch.run(|| {
            on_each(plugs, |link, plug| {
                link.set_up(&plug.port, true)?;
                link.set_port_state(&plug.port, PortState::Forwarding)
            })
        })?;
        // The kernel drops IPv6 addresses when an interface goes down.
        for plug in plugs {
            for address in &plug.addresses {
                add_address(&namespace, &plug.interface, address)?;
            }
        }
        Ok(at_ns)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.world.tear_down_loudly();
    }
}

/// Whether the caller may make namespaces.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// What has to be removed, apart from the [`Bed`], so that an interrupt reaches it too.
#[derive(Debug)]
struct World {
    prefix: String,
    directory: PathBuf,
    /// Whether things may still be made; held while one is being made.
    open: Mutex<bool>,
}

impl World {
    /// Runs `work`, which makes something, unless the world is being removed.
    fn make<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if !*open {
            bail!("the bed {} is being removed", self.prefix);
        }
        work()
    }

    fn namespace(&self, name: &str) -> Result<Netns> {
        self.make(|| Netns::create(&format!("{}{name}", self.prefix)))
    }

    /// Removes everything; once, whoever comes first.
    fn tear_down(&self) -> Vec<String> {
        self.remove(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn tear_down_loudly(&self) {
        self.tell(&self.tear_down());
    }

    /// For a process that is about to end: who waits to make or remove something waits until then.
    fn tear_down_for_good(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        self.tell(&self.remove(&mut open));
        std::mem::forget(open);
    }

    fn remove(&self, open: &mut bool) -> Vec<String> {
        if std::mem::replace(open, false) { teardown::remove_all(&self.prefix) } else { Vec::new() }
    }

    fn tell(&self, failures: &[String]) {
        for failure in failures {
            eprintln!("bed {}: {failure}", self.prefix);
        }
    }
}

fn on_each(plugs: &[&Plug], act: impl Fn(&Rtnetlink, &Plug) -> Result<()>) -> Result<u64> {
    let link = Rtnetlink::open(0)?;
    let at_ns = monotonic_ns();
    for plug in plugs {
        act(&link, plug)?;
    }
    Ok(at_ns)
}

fn add_address(namespace: &Netns, interface: &str, address: &str) -> Result<()> {
    let mut arguments = vec!["address", "replace", address, "dev", interface];
    if address.contains(':') {
        arguments.push("nodad");
    }
    namespace.ip(&arguments).map(drop)
}

fn check_interface_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > INTERFACE_NAME_LEN_MAX {
        bail!("{name:?} is no interface name: 1 to {INTERFACE_NAME_LEN_MAX} bytes");
    }
    Ok(())
}
