//! What a daemon that has ended must not leave behind on its node.

use std::fs;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::netns::processes_in;
use super::node::addresses_of;
use super::{Netns, Node};

/// A keeper that was said farewell to, and references that the kernel drops after the last pin.
const GONE_TIME_MAX: Duration = Duration::from_secs(3);
/// The socket is an invitation to ask; lock and incarnation stay on purpose.
const CONTROL_SOCKET: &str = "control.sock";
/// What the kernel itself puts into every bpf file system.
const KERNELS_OWN: [&str; 2] = ["maps.debug", "progs.debug"];

impl Node {
    /// What is left of the daemon: processes, the control socket, pins, programs and queueing
    /// disciplines on interfaces, those of the `floating` addresses that are still there. Empty is
    /// what a stop must come to.
    ///
    /// # Errors
    /// The node cannot be looked at.
    pub fn leftovers(&self, floating: &[IpAddr]) -> Result<Vec<String>> {
        let mut left = processes(self.netns());
        if self.socket_path().exists() {
            left.push(format!("{CONTROL_SOCKET} in {}", self.run_dir().display()));
        }
        for entry in fs::read_dir(self.bpffs())? {
            let entry = entry?;
            if !KERNELS_OWN.iter().any(|own| entry.file_name() == *own) {
                left.push(format!("pin {}", entry.path().display()));
            }
        }
        left.extend(programs(self.netns())?);
        let there = addresses_of(self.netns())?;
        left.extend(
            floating
                .iter()
                .filter(|address| there.contains(address))
                .map(|address| format!("address {address}")),
        );
        Ok(left)
    }

    /// Waits, 3 s at most, until [`Node::leftovers`] are none.
    ///
    /// # Errors
    /// Names what stays.
    pub fn expect_nothing_left(&self, floating: &[IpAddr]) -> Result<()> {
        let deadline = Instant::now() + GONE_TIME_MAX;
        loop {
            let left = self.leftovers(floating)?;
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("left behind on {}: {}", self.name(), left.join(", "));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Daemons and keepers; the web server and the observers of the bed may stay.
fn processes(netns: &Netns) -> Vec<String> {
    processes_in(netns.name())
        .into_iter()
        .filter_map(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            name.starts_with("ha-").then(|| format!("process {pid} ({})", name.trim()))
        })
        .collect()
}

/// XDP and TC programs, and the queueing discipline that TC programs of old need.
fn programs(netns: &Netns) -> Result<Vec<String>> {
    let interfaces: serde_json::Value =
        serde_json::from_str(&netns.ip(&["-d", "-j", "link", "show"])?)?;
    let mut left = Vec::new();
    for interface in interfaces.as_array().into_iter().flatten() {
        let name = interface["ifname"].as_str().unwrap_or_default();
        if let Some(xdp) = interface.get("xdp") {
            left.push(format!("XDP on {name}: {xdp}"));
        }
        let disciplines = netns.tc(&["qdisc", "show", "dev", name])?;
        if disciplines.contains("clsact") {
            left.push(format!("clsact on {name}"));
        }
    }
    Ok(left)
}
