//! Ways of losing the owner, and of bringing it back.

use std::time::Duration;

use anyhow::Result;
use ha_tests::bed::{Cluster, Cut, GROUP, Processes};
use ha_tests::clock::monotonic_ns;

use crate::pair::{OWNER, SURVIVOR};

/// How long a daemon may take to end.
const EXIT_TIME_MAX: Duration = Duration::from_secs(15);

/// What happens to the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGTERM.
    Stop,
    /// `hactl relocate` of the group to the other node.
    Relocate,
    /// `hactl standby` of the owner.
    Standby,
    /// `kill -9` of the daemon; its keeper lives.
    Daemon,
    /// `kill -9` of daemon and keeper; the kernel lives and closes their connections.
    Both,
    /// All links cut in the middle; the node itself runs on.
    Cut,
    /// All links cut, then both killed: no closing packet leaves the node.
    Power,
}

impl Fault {
    /// Whether an operator's command does it, which takes its time.
    pub(crate) fn is_command(self) -> bool {
        matches!(self, Self::Relocate | Self::Standby)
    }

    /// Does it now. Returns the moment just before.
    pub(crate) fn inject(self, cluster: &Cluster, owner: &Processes) -> Result<u64> {
        let bed = &cluster.bed;
        match self {
            Self::Relocate => command(cluster, &["relocate", GROUP, SURVIVOR]),
            Self::Standby => command(cluster, &["standby"]),
            Self::Stop => owner.terminate(),
            Self::Daemon => owner.kill_daemon(),
            Self::Both => owner.kill_both(),
            Self::Cut => bed.cut_all(OWNER, Cut::Middle),
            Self::Power => {
                let at_ns = bed.cut_all(OWNER, Cut::Middle)?;
                owner.kill_both()?;
                Ok(at_ns)
            }
        }
    }

    /// Undoes it; the cluster is not settled yet.
    pub(crate) fn repair(self, cluster: &mut Cluster) -> Result<()> {
        if matches!(self, Self::Cut | Self::Power) {
            cluster.bed.heal_all(OWNER)?;
        }
        if self.is_command() {
            let back: &[&str] =
                if self == Self::Relocate { &["relocate", GROUP, OWNER] } else { &["online"] };
            command(cluster, back)?;
        } else if self != Self::Cut {
            let owner = cluster.node_mut(OWNER)?;
            owner.wait_exit(EXIT_TIME_MAX)?;
            owner.start()?;
        }
        Ok(())
    }
}

/// What an operator does on the owner. Returns the moment just before.
fn command(cluster: &Cluster, words: &[&str]) -> Result<u64> {
    let at_ns = monotonic_ns();
    cluster.node(OWNER)?.hactl_done(words)?;
    Ok(at_ns)
}
