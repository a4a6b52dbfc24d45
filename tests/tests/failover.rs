//! Failovers, each on real packets: real daemons in network namespaces are stopped, killed, frozen,
//! cut off, misconfigured; the addresses in the kernels, a client and the daemons' own events tell
//! what came of it. Every test ends by stopping all daemons and looking for leftovers.
//!
//! Nothing here measures how fast a failover is (`cargo xtask bench` does): timings are the
//! product's defaults (50 ms / 200 ms) and limits are generous, so that a busy machine proves
//! nothing wrong.

#[path = "failover/support.rs"]
mod support;

#[path = "failover/crashes.rs"]
mod crashes;
#[path = "failover/cuts.rs"]
mod cuts;
#[path = "failover/groups.rs"]
mod groups;
#[path = "failover/lease.rs"]
mod lease;
#[path = "failover/mistakes.rs"]
mod mistakes;
#[path = "failover/networks.rs"]
mod networks;
#[path = "failover/prearmed.rs"]
mod prearmed;
#[path = "failover/stale.rs"]
mod stale;
#[path = "failover/starts.rs"]
mod starts;
#[path = "failover/three.rs"]
mod three;
#[path = "failover/unasked.rs"]
mod unasked;
