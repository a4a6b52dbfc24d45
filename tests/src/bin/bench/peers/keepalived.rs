//! keepalived on the same topology: VRRP version 3, unicast on the service network, started in the
//! foreground in each node's namespace with files of its own, so that nothing global is touched.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ha_tests::bed::processes::{kill_together, send};
use ha_tests::bed::{Cut, FLOATING, Node};
use ha_tests::web::find_program;
use nix::sys::signal::Signal;

use super::packages::{first_line, provide};
use super::{Peer, Subject};
use crate::fault::Fault;
use crate::pair::{OWNER, Pair, STEP_TIME_MAX, SURVIVOR, Strike, Timing, at_random};

const PACKAGE: &str = "keepalived";
/// What it logs when its master is silent.
const TAKEOVER: &str = "Entering MASTER STATE";
/// VRRP counts in centiseconds (RFC 5798 5.2.7).
const ADVERT_MIN: Duration = Duration::from_millis(10);
/// The group has to stay in its place for this long.
const CALM_TIME: Duration = Duration::from_millis(500);
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Node, own address, the peer's address, priority. The highest priority that is not the
/// address's owner, so that the skew time is as short as the protocol allows: 0.01 to 0.02 of the
/// advertisement interval.
const NODES: [(&str, &str, &str, u8); 2] =
    [(OWNER, "198.51.100.1", "198.51.100.2", 254), (SURVIVOR, "198.51.100.2", "198.51.100.1", 253)];

/// A pair under keepalived.
pub(crate) struct Keepalived {
    daemons: Vec<Daemon>,
    pair: Pair,
    version: String,
}

/// One node's keepalived.
struct Daemon {
    node: &'static str,
    directory: PathBuf,
    parent: Option<Child>,
}

impl Keepalived {
    /// Installs it where that is possible, builds a pair with `web` servers or without, starts it, and waits until the group is
    /// on the preferred node.
    ///
    /// # Errors
    /// It is not installed and cannot be; or it does not come up, with the end of its log.
    pub(crate) fn start(timing: &Timing, web: bool) -> Result<Self> {
        let version = first_line(&provide(PACKAGE, PACKAGE)?, "--version")?;
        let pair = Pair::build(timing, web)?;
        let mut daemons = Vec::new();
        for (node, own, peer, priority) in NODES {
            let directory = pair.cluster.node(node)?.directory().join("keepalived");
            fs::create_dir_all(&directory)?;
            fs::write(
                directory.join("keepalived.conf"),
                config(timing, node, own, peer, priority),
            )?;
            daemons.push(Daemon { node, directory, parent: None });
        }
        let mut keepalived = Self { daemons, pair, version };
        for daemon in &mut keepalived.daemons {
            daemon.start(keepalived.pair.cluster.node(daemon.node)?)?;
        }
        keepalived.settle()?;
        Ok(keepalived)
    }

    fn owner(&self) -> Result<&Daemon> {
        self.daemons.iter().find(|daemon| daemon.node == OWNER).context("keepalived has no owner")
    }

    fn log_tails(&self) -> String {
        let tail = |daemon: &Daemon| {
            let text = fs::read_to_string(daemon.directory.join("log")).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let end = lines[lines.len().saturating_sub(10)..].join("\n");
            format!("log of {} ends:\n{end}\n", daemon.node)
        };
        self.daemons.iter().map(tail).collect()
    }
}

impl Peer for Keepalived {
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
        true
    }

    /// The standby's: an owner that steps back to a higher priority judges nobody.
    fn verdicts(&self) -> Result<u64> {
        let standby = self.daemons.iter().find(|daemon| daemon.node == SURVIVOR);
        let log = &standby.context("keepalived has no standby")?.directory.join("log");
        let text = fs::read(log).with_context(|| format!("cannot read {}", log.display()))?;
        Ok(String::from_utf8_lossy(&text).matches(TAKEOVER).count() as u64)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Subject::finish(self)
    }
}

impl Subject for Keepalived {
    fn name(&self) -> &'static str {
        "keepalived"
    }

    fn pair(&self) -> &Pair {
        &self.pair
    }

    fn knows(&self, fault: Fault) -> bool {
        matches!(fault, Fault::Stop | Fault::Daemon | Fault::Both | Fault::Cut)
    }

    fn strike(&self, fault: Fault, phase: Duration) -> Result<Strike> {
        let pids = self.owner()?.pids()?;
        let bed = &self.pair.cluster.bed;
        at_random(phase, || match fault {
            Fault::Stop => send(pids[0], Signal::SIGTERM),
            Fault::Relocate | Fault::Standby => bail!("keepalived has no such command"),
            // It has no keeper that would be left.
            Fault::Daemon | Fault::Both => kill_together(&pids),
            Fault::Cut => bed.cut_all(OWNER, Cut::Middle),
            Fault::Power => {
                let at_ns = bed.cut_all(OWNER, Cut::Middle)?;
                kill_together(&pids)?;
                Ok(at_ns)
            }
        })
    }

    fn bring_back(&mut self, fault: Fault) -> Result<()> {
        if matches!(fault, Fault::Cut | Fault::Power) {
            self.pair.cluster.bed.heal_all(OWNER)?;
        }
        if fault != Fault::Cut {
            let node = self.pair.cluster.node(OWNER)?;
            for daemon in self.daemons.iter_mut().filter(|daemon| daemon.node == OWNER) {
                daemon.wait_exit()?;
                daemon.start(node)?;
            }
        }
        self.settle()
    }

    fn settle(&self) -> Result<()> {
        let deadline = Instant::now() + STEP_TIME_MAX;
        let mut calm_since = Instant::now();
        while calm_since.elapsed() < CALM_TIME {
            if !self.pair.whole() {
                calm_since = Instant::now();
            }
            if Instant::now() > deadline {
                bail!("keepalived does not settle on {OWNER}\n{}", self.log_tails());
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let Self { daemons, pair, .. } = *self;
        drop(daemons);
        pair.finish()
    }
}

impl Daemon {
    fn start(&mut self, node: &Node) -> Result<()> {
        // Left by a killed one; another process may have its number by now.
        for file in ["pid", "vrrp.pid"] {
            let _ = fs::remove_file(self.directory.join(file));
        }
        let log = File::options().create(true).append(true).open(self.directory.join("log"))?;
        let program = find_program(PACKAGE).context("keepalived is not installed")?;
        let child = node
            .netns()
            .command(program)?
            .args(["--dont-fork", "--vrrp", "--log-console", "--log-detail", "--no-syslog"])
            .arg("--use-file")
            .arg(self.directory.join("keepalived.conf"))
            .arg("--pid")
            .arg(self.directory.join("pid"))
            .arg("--vrrp_pid")
            .arg(self.directory.join("vrrp.pid"))
            .arg("--checkers_pid")
            .arg(self.directory.join("checkers.pid"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("cannot start keepalived")?;
        self.parent = Some(child);
        Ok(())
    }

    /// The parent and the child that speaks VRRP.
    fn pids(&self) -> Result<Vec<i32>> {
        let parent = self.parent.as_ref().context("keepalived does not run")?;
        let path = self.directory.join("vrrp.pid");
        let text = fs::read_to_string(&path)
            .with_context(|| format!("keepalived wrote no {}", path.display()))?;
        Ok(vec![i32::try_from(parent.id())?, text.trim().parse()?])
    }

    fn wait_exit(&mut self) -> Result<()> {
        let Some(mut parent) = self.parent.take() else { return Ok(()) };
        let deadline = Instant::now() + STEP_TIME_MAX;
        while parent.try_wait()?.is_none() {
            if Instant::now() > deadline {
                self.parent = Some(parent);
                bail!("keepalived of {} does not end", self.node);
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pids = self.pids();
        if let Some(mut parent) = self.parent.take() {
            // The child would outlive its parent until the bed goes; both are gone here.
            let _ = pids.map(|pids| kill_together(&pids));
            let _ = parent.kill();
            let _ = parent.wait();
        }
    }
}

/// Real-time priority and locked memory as our daemon takes them; else what the manual says.
fn config(timing: &Timing, node: &str, own: &str, peer: &str, priority: u8) -> String {
    let centiseconds = timing.keepalive.max(ADVERT_MIN).as_millis().div_ceil(10);
    let advert = format!("{}.{:02}", centiseconds / 100, centiseconds % 100);
    format!(
        "global_defs {{
    router_id {node}
    vrrp_version 3
    vrrp_rt_priority 61
    vrrp_no_swap
}}
vrrp_instance web {{
    state BACKUP
    interface eth0
    virtual_router_id 51
    priority {priority}
    advert_int {advert}
    unicast_src_ip {own}
    unicast_peer {{
        {peer}
    }}
    virtual_ipaddress {{
        {FLOATING}/24 dev eth0
    }}
}}
"
    )
}
