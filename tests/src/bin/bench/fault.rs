//! Ways of losing the owner, and of bringing it back.

use std::time::Duration;

use anyhow::Result;
use ha_tests::bed::{Bed, Cluster, Cut, Processes};

use crate::pair::OWNER;

/// How long a daemon may take to end.
const EXIT_TIME_MAX: Duration = Duration::from_secs(15);

/// What happens to the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGTERM.
    Stop,
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
    /// Does it now. Returns the moment just before.
    pub(crate) fn inject(self, bed: &Bed, owner: &Processes) -> Result<u64> {
        match self {
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
        if self != Self::Cut {
            let owner = cluster.node_mut(OWNER)?;
            owner.wait_exit(EXIT_TIME_MAX)?;
            owner.start()?;
        }
        Ok(())
    }
}
