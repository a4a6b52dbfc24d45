//! What the guest's kernel makes of the programs: its verifier is another one than the host's.

use anyhow::{Result, ensure};

use crate::support::{has, plan, started};

#[test]
#[ignore = "needs root and a virtual machine: cargo xtask vm"]
fn heartbeats_come_by_native_xdp_on_a_virtual_card() -> Result<()> {
    let Some((_turn, mut pair)) = started(&plan())? else { return Ok(()) };
    let status = pair.alpha.status()?;
    for link in status.nodes.iter().flat_map(|node| &node.links) {
        ensure!(link.via == "xdp-native", "{} by {}: {}", link.name, link.via, link.via_reason);
    }
    let start = pair.alpha.events(0)?;
    ensure!(!has(&start, "kernel-watch"), "its timers do not run: {start:?}");
    pair.finish()
}
