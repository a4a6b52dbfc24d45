//! `bfdd` of FRR, one session between the two nodes on the service network, with the `zebra` that it
//! learns its interfaces from. It judges and moves nothing.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ha_tests::bed::Node;
use nix::unistd::Group;

use super::Peer;
use super::packages::{provide, version};
use crate::pair::{OWNER, Pair, STEP_TIME_MAX, SURVIVOR, Timing};

const PACKAGE: &str = "frr";
const ZEBRA: &str = "/usr/lib/frr/zebra";
const BFDD: &str = "/usr/lib/frr/bfdd";
/// FRR's daemons give up root for this one.
const GROUP: &str = "frr";
/// Its smallest interval.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Node, own address, the peer's address.
const NODES: [(&str, &str, &str); 2] =
    [(OWNER, "198.51.100.1", "198.51.100.2"), (SURVIVOR, "198.51.100.2", "198.51.100.1")];

/// A pair under bfdd.
pub(crate) struct Bfdd {
    sides: Vec<Side>,
    pair: Pair,
    version: String,
}

/// One node's daemons.
struct Side {
    directory: PathBuf,
    children: Vec<Child>,
}

impl Bfdd {
    /// Installs it where that is possible, builds a pair, and waits until the session is up.
    ///
    /// # Errors
    /// It is not installed and cannot be; or the session does not come up.
    pub(super) fn start(timing: &Timing) -> Result<Self> {
        provide(BFDD, PACKAGE)?;
        provide("vtysh", PACKAGE)?;
        let version = version(PACKAGE)?;
        let pair = Pair::build(timing, false)?;
        let mut bfdd = Self { sides: Vec::new(), pair, version };
        for (node, own, peer) in NODES {
            let directory = bfdd.directory(node)?;
            fs::write(directory.join("bfdd.conf"), config(timing, own, peer))?;
            bfdd.sides.push(Side { directory, children: Vec::new() });
        }
        for program in [ZEBRA, BFDD] {
            for (side, (node, ..)) in bfdd.sides.iter_mut().zip(NODES) {
                side.start(bfdd.pair.cluster.node(node)?, Path::new(program))?;
            }
            bfdd.wait_sockets(program)?;
        }
        bfdd.wait_up()?;
        Ok(bfdd)
    }

    /// Beside the bed's own directory, which only root may enter; its name makes it go with the bed.
    fn directory(&self, node: &str) -> Result<PathBuf> {
        let prefix = self.pair.cluster.bed.prefix();
        let directory = std::env::temp_dir().join(format!("{prefix}frr-{node}"));
        fs::create_dir(&directory)?;
        let group =
            Group::from_name(GROUP)?.with_context(|| format!("there is no group {GROUP}"))?;
        chown(&directory, None, Some(group.gid.as_raw()))?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o770))?;
        Ok(directory)
    }

    fn wait_sockets(&self, program: &str) -> Result<()> {
        let name = if program == ZEBRA { "zserv.api" } else { "bfdd.vty" };
        let deadline = Instant::now() + STEP_TIME_MAX;
        while !self.sides.iter().all(|side| side.directory.join(name).exists()) {
            if Instant::now() > deadline {
                bail!("{program} makes no {name}");
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    fn wait_up(&self) -> Result<()> {
        let deadline = Instant::now() + STEP_TIME_MAX;
        loop {
            let mut up = 0;
            for side in &self.sides {
                up += usize::from(side.session("show bfd peers json")?["status"] == "up");
            }
            if up == self.sides.len() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the session of bfdd does not come up");
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Peer for Bfdd {
    fn version(&self) -> &str {
        &self.version
    }

    fn pair(&self) -> &Pair {
        &self.pair
    }

    fn pair_mut(&mut self) -> &mut Pair {
        &mut self.pair
    }

    fn moves_address(&self) -> bool {
        false
    }

    /// The side that lost its session more often: the other one is told.
    fn verdicts(&self) -> Result<u64> {
        let mut most = 0;
        for side in &self.sides {
            let counters = side.session("show bfd peers counters json")?;
            let down = counters["session-down"].as_u64();
            most = most.max(down.context("bfdd does not count sessions that went down")?);
        }
        Ok(most)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let Self { sides, pair, .. } = *self;
        drop(sides);
        pair.finish()
    }
}

impl Side {
    fn start(&mut self, node: &Node, program: &Path) -> Result<()> {
        let name = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let path = |file: &str| self.directory.join(file);
        let log = fs::File::create(path(&format!("{name}.log")))?;
        let mut command = node.netns().command(program)?;
        command
            .arg("-i")
            .arg(path(&format!("{name}.pid")))
            .arg("-z")
            .arg(path("zserv.api"))
            .arg("--vty_socket")
            .arg(&self.directory)
            .args(["-A", "127.0.0.1", "-P", "0", "--log", "stdout"])
            .arg("-f");
        if name == "bfdd" {
            command.arg(path("bfdd.conf")).arg("--bfdctl").arg(path("bfdd.sock"));
        } else {
            command.arg("/dev/null");
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        self.children.push(child);
        Ok(())
    }

    /// What it says of its only session.
    fn session(&self, question: &str) -> Result<serde_json::Value> {
        let output = Command::new("vtysh")
            .arg("--vty_socket")
            .arg(&self.directory)
            .args(["-c", question])
            .stdin(Stdio::null())
            .output()
            .context("cannot start vtysh")?;
        let said: serde_json::Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("vtysh: {}", String::from_utf8_lossy(&output.stderr)))?;
        Ok(said[0].clone())
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            // Already gone is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The same silence is death: so many intervals as the deadtime has keepalives.
fn config(timing: &Timing, own: &str, peer: &str) -> String {
    let interval = timing.keepalive.max(INTERVAL_MIN).as_millis();
    let multiplier = timing.deadtime.as_millis().div_ceil(interval).clamp(2, 255);
    format!(
        "bfd
 peer {peer} local-address {own} interface eth0
  detect-multiplier {multiplier}
  receive-interval {interval}
  transmit-interval {interval}
  no shutdown
"
    )
}
