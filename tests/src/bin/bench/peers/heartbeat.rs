//! Linux-HA Heartbeat 3 on the service network. Its paths are compiled in, so each node runs in mount,
//! process and host-name namespaces of its own in which those paths lead to the node's directory; they
//! go with the first process in them.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ha_tests::bed::{FLOATING, Node};

use super::Peer;
use super::packages::{provide, version};
use crate::pair::{OWNER, Pair, SURVIVOR, Timing};

const PACKAGE: &str = "heartbeat";
const PROGRAM: &str = "/usr/libexec/heartbeat/heartbeat";
/// It acquires its resources 10 s after both have started.
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// The group has to stay in its place for this long.
const CALM_TIME: Duration = Duration::from_secs(1);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
const NODES: [(&str, &str); 2] = [(OWNER, "198.51.100.2"), (SURVIVOR, "198.51.100.1")];

/// `$1` the node, `$2` its directory. The shell stays as the first process of the namespace and
/// reaps what the daemons leave.
const SCRIPT: &str = "set -e
hostname \"$1\"
mkdir -p \"$2/run/lock\"
cp -a /run/heartbeat \"$2/run/\"
cp -a /var/lib/heartbeat/. \"$2/lib/\"
mount --bind \"$2/etc\" /etc/ha.d
mount --bind \"$2/lib\" /var/lib/heartbeat
mount --bind \"$2/run\" /run
/usr/libexec/heartbeat/heartbeat
sleep 86400
";

/// A pair under Heartbeat.
pub(crate) struct Heartbeat {
    sides: Vec<Side>,
    pair: Pair,
    version: String,
}

/// One node's processes: ending the first ends all.
struct Side {
    directory: PathBuf,
    first: Child,
}

impl Heartbeat {
    /// Installs it where that is possible, builds a pair, and waits until the group is on the
    /// preferred node.
    ///
    /// # Errors
    /// It is not installed and cannot be; or it does not come up, with the end of its log.
    pub(super) fn start(timing: &Timing) -> Result<Self> {
        provide(PROGRAM, PACKAGE)?;
        provide("unshare", "util-linux")?;
        let version = version(PACKAGE)?;
        let pair = Pair::build(timing, false)?;
        let mut heartbeat = Self { sides: Vec::new(), pair, version };
        for (name, peer) in NODES {
            let node = heartbeat.pair.cluster.node(name)?;
            let directory = node.directory().join("heartbeat");
            prepare(&directory, timing, peer)?;
            heartbeat.sides.push(start(node, directory)?);
        }
        heartbeat.settle()?;
        Ok(heartbeat)
    }

    fn settle(&self) -> Result<()> {
        let deadline = Instant::now() + START_TIME_MAX;
        let mut calm_since = Instant::now();
        while calm_since.elapsed() < CALM_TIME {
            if !self.pair.whole() {
                calm_since = Instant::now();
            }
            if Instant::now() > deadline {
                bail!("Heartbeat does not settle on {OWNER}\n{}", self.log_tails());
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    fn log_tails(&self) -> String {
        let tail = |side: &Side| {
            let text = side.log();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(10)..].join("\n") + "\n"
        };
        self.sides.iter().map(tail).collect()
    }
}

impl Peer for Heartbeat {
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

    fn verdicts(&self) -> Result<u64> {
        let dead = |side: &Side| side.log().lines().filter(|line| is_verdict(line)).count() as u64;
        Ok(self.sides.iter().map(dead).sum())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let Self { sides, pair, .. } = *self;
        drop(sides);
        pair.finish()
    }
}

fn is_verdict(line: &str) -> bool {
    line.contains("WARN: node ") && line.ends_with(": is dead")
}

impl Side {
    fn log(&self) -> String {
        let text = fs::read(self.directory.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // `unshare` takes its child, the first process of the namespace, and so all others with it.
        let _ = self.first.kill();
        let _ = self.first.wait();
    }
}

fn start(node: &Node, directory: PathBuf) -> Result<Side> {
    let log = File::create(directory.join("output"))?;
    let first = node
        .netns()
        .command("unshare")?
        .args(["--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["sh", "-c", SCRIPT, "sh", node.name()])
        .arg(&directory)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("cannot start unshare")?;
    Ok(Side { directory, first })
}

fn prepare(directory: &Path, timing: &Timing, peer: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    for name in ["etc", "lib", "run"] {
        fs::create_dir_all(directory.join(name))?;
    }
    let etc = directory.join("etc");
    copy("/etc/ha.d", &etc)?;
    fs::write(etc.join("ha.cf"), config(timing, peer, &directory.join("log")))?;
    fs::write(etc.join("haresources"), format!("{OWNER} IPaddr2::{FLOATING}/24/eth0\n"))?;
    let keys = etc.join("authkeys");
    let mut file =
        File::options().write(true).create(true).truncate(true).mode(0o600).open(keys)?;
    file.write_all(b"auth 1\n1 sha1 a-secret-of-the-test-bed\n")?;
    Ok(())
}

/// The package's own scripts.
fn copy(from: &str, to: &Path) -> Result<()> {
    let status =
        std::process::Command::new("cp").arg("-a").arg(format!("{from}/.")).arg(to).status()?;
    if !status.success() {
        bail!("cannot copy {from}: cp ended with {status}");
    }
    Ok(())
}

/// Heartbeat counts in whole milliseconds. Its initial deadtime as short as it takes, since every
/// start waits for it.
fn config(timing: &Timing, peer: &str, log: &Path) -> String {
    let (keepalive, deadtime) = (timing.keepalive.as_millis(), timing.deadtime.as_millis());
    let warntime = (deadtime * 2 / 3).max(1);
    format!(
        "logfile {}
logfacility none
keepalive {keepalive}ms
warntime {warntime}ms
deadtime {deadtime}ms
initdead 5000ms
udpport 694
ucast eth0 {peer}
auto_failback on
node {OWNER} {SURVIVOR}
",
        log.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_verdict_on_a_node_is_counted() {
        assert!(is_verdict("Nov 21 08:16:21 beta heartbeat: [15]: WARN: node alpha: is dead"));
        assert!(!is_verdict("Nov 21 08:16:21 beta heartbeat: [15]: info: Link alpha:eth0 dead."));
    }
}
