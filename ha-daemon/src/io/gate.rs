//! The gates of this node's pre-armed addresses, as the driver opens, renews and closes them.
//!
//! An address of a pre-armed group is configured on every candidate, behind a gate in the kernel
//! (`io/kernel/gate.rs`). A takeover is one store; an open gate closes by itself at the end of the holder's
//! lease, never later: that is what the kernel does for a node that hangs. Where a gate cannot
//! be had, the address goes the ordinary way, and who asks is told why.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::config::{Config, GroupIndex, NodeIndex, Resource};
use crate::io::address::HeldAddress;
use crate::io::keeper::Lease;
use crate::io::kernel::gate::GateWords;
use crate::names::InterfaceName;

/// How long after an attempt to arm addresses those are tried again that could not be.
pub const ARM_AGAIN: Duration = Duration::from_secs(5);

/// Whether an address is there beforehand.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// It is being configured.
    Arming,
    /// It is configured, behind its gate.
    Armed,
    /// It is not; why.
    Not(String),
}

/// The gate of one address.
#[derive(Debug, Clone)]
struct Gate {
    group: GroupIndex,
    resource: usize,
    address: IpNet,
    interface: InterfaceName,
    /// Its entry in the map; `None`: it has no gate, since the kernel side is not there.
    entry: Option<u32>,
    standing: Standing,
    open: bool,
    /// Its opening is all that its start was: nobody waits for the worker.
    at_once: bool,
}

/// What starting or stopping a resource came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// Nothing: the address is to be added or removed as any.
    Nothing,
    /// It is done: the gate was opened or closed, and the address stays where it is.
    AtOnce,
}

/// The gates of a node.
#[derive(Debug, Default)]
pub struct Gates {
    words: Option<Arc<GateWords>>,
    gates: Vec<Gate>,
    /// The programs are not on every interface: nothing is armed any more.
    given_up: bool,
}

/// An address that is to have a gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    group: GroupIndex,
    resource: usize,
    /// Address and prefix length.
    pub address: IpNet,
    /// The interface.
    pub interface: InterfaceName,
}

/// The addresses of pre-armed groups that may run on `own`.
#[must_use]
pub fn wanted(config: &Config, own: NodeIndex) -> Vec<Wanted> {
    let groups = config.groups.iter().enumerate();
    let groups = groups.filter(|(_, group)| group.prearmed && group.nodes.contains(&own));
    let resources = groups.flat_map(|(at, group)| {
        group.resources.iter().enumerate().map(move |(resource, it)| (GroupIndex(at), resource, it))
    });
    resources
        .filter_map(|(group, resource, it)| match it {
            Resource::Address { address, interface, .. } => {
                let interface = interface.clone();
                Some(Wanted { group, resource, address: *address, interface })
            }
            Resource::SourceAddress { .. } | Resource::Script { .. } | Resource::Systemd { .. } => {
                None
            }
        })
        .collect()
}

impl Gates {
    /// Gates for `wanted`, with their entries; `held` is what the worker goes on with.
    #[must_use]
    pub fn new(words: Arc<GateWords>, wanted: Vec<(Wanted, u32)>, held: &[HeldAddress]) -> Self {
        let gate = |(it, entry): (Wanted, u32)| {
            let text = it.address.to_string();
            let held =
                held.iter().find(|held| held.address == text && held.interface == it.interface);
            let standing = match held {
                None => Standing::Arming,
                Some(held) if held.armed => Standing::Armed,
                Some(_) => Standing::Not("it was started in the ordinary way".to_owned()),
            };
            let open = held.is_some_and(HeldAddress::is_owned);
            let at_once = open && standing == Standing::Armed;
            let Wanted { group, resource, address, interface } = it;
            let entry = Some(entry);
            Gate { group, resource, address, interface, entry, standing, open, at_once }
        };
        let gates = wanted.into_iter().map(gate).collect();
        Self { words: Some(words), gates, given_up: false }
    }

    /// No gates: everything goes the ordinary way, for this reason.
    #[must_use]
    pub fn refused(wanted: Vec<Wanted>, reason: &str) -> Self {
        let gate = |Wanted { group, resource, address, interface }: Wanted| {
            let standing = Standing::Not(reason.to_owned());
            let (entry, open, at_once) = (None, false, false);
            Gate { group, resource, address, interface, entry, standing, open, at_once }
        };
        let gates = wanted.into_iter().map(gate).collect();
        Self { gates, ..Self::default() }
    }

    /// Whether the address has a gate in the kernel.
    #[must_use]
    pub fn has(&self, address: &str, interface: &InterfaceName) -> bool {
        self.gates.iter().any(|it| {
            it.entry.is_some() && it.interface == *interface && it.address.to_string() == address
        })
    }

    /// Whether a resource is armed, and why not; `None`: it is not to be.
    #[must_use]
    pub fn armed(&self, group: GroupIndex, resource: usize) -> Option<Result<(), &str>> {
        let gate = self.gates.iter().find(|it| it.group == group && it.resource == resource)?;
        Some(match &gate.standing {
            Standing::Armed => Ok(()),
            Standing::Arming => Err("it is being configured"),
            Standing::Not(reason) => Err(reason),
        })
    }

    /// Why a resource cannot have a gate at all.
    #[must_use]
    pub fn refused_for(&self, group: GroupIndex, resource: usize) -> Option<&str> {
        let gate = self.gates.iter().find(|it| it.group == group && it.resource == resource)?;
        match &gate.standing {
            Standing::Not(reason) if gate.entry.is_none() => Some(reason),
            Standing::Not(_) | Standing::Arming | Standing::Armed => None,
        }
    }

    /// Whether the gate of a resource is open; `None` if it has none.
    #[must_use]
    pub fn is_open(&self, group: GroupIndex, resource: usize) -> Option<bool> {
        let gate = self.gates.iter().find(|it| it.group == group && it.resource == resource)?;
        gate.entry.map(|_| gate.open)
    }

    fn gate(&mut self, group: GroupIndex, resource: usize) -> Option<&mut Gate> {
        self.gates.iter_mut().find(|it| it.group == group && it.resource == resource)
    }

    /// Opens the gate of a resource until the lease ends. One that is not armed is opened too: its address
    /// comes afterwards.
    pub fn open(&mut self, group: GroupIndex, resource: usize, lease: &Lease) -> Done {
        let words = self.words.clone();
        let Some(gate) = self.gate(group, resource) else { return Done::Nothing };
        let (Some(words), Some(entry)) = (words, gate.entry) else { return Done::Nothing };
        words.open(entry, lease.ends_at_ns().unwrap_or(0));
        gate.open = true;
        gate.at_once = !matches!(gate.standing, Standing::Not(_));
        if gate.at_once { Done::AtOnce } else { Done::Nothing }
    }

    /// Closes the gate of a resource.
    pub fn close(&mut self, group: GroupIndex, resource: usize) -> Done {
        let words = self.words.clone();
        let Some(gate) = self.gate(group, resource) else { return Done::Nothing };
        let (Some(words), Some(entry)) = (words, gate.entry) else { return Done::Nothing };
        words.close(entry);
        gate.open = false;
        if std::mem::take(&mut gate.at_once) { Done::AtOnce } else { Done::Nothing }
    }

    /// Whether opening the gate was the whole start of the resource.
    #[must_use]
    pub fn was_at_once(&self, group: GroupIndex, resource: usize) -> bool {
        self.gates.iter().any(|it| it.group == group && it.resource == resource && it.at_once)
    }

    /// Keeps open gates open until the lease ends, which was just renewed.
    pub fn renew(&self, lease: &Lease) {
        let (Some(words), Some(until_ns)) = (&self.words, lease.ends_at_ns()) else { return };
        for entry in self.gates.iter().filter(|gate| gate.open).filter_map(|gate| gate.entry) {
            words.open(entry, until_ns);
        }
    }

    /// The addresses that are to be configured now: of one interface, or all.
    #[must_use]
    pub fn to_arm(
        &self,
        interface: Option<&InterfaceName>,
    ) -> Vec<(GroupIndex, usize, IpNet, InterfaceName)> {
        let given_up = self.given_up;
        let wanted = self.gates.iter().filter(|it| {
            !given_up
                && it.entry.is_some()
                && !it.open
                && interface.is_none_or(|name| *name == it.interface)
        });
        wanted.map(|it| (it.group, it.resource, it.address, it.interface.clone())).collect()
    }

    /// Whether an address could not be armed that might be now, such as that of an interface which lost its own
    /// addresses and has them again.
    #[must_use]
    pub fn wait(&self) -> bool {
        let waits =
            |it: &Gate| it.entry.is_some() && !it.open && matches!(it.standing, Standing::Not(_));
        !self.given_up && self.gates.iter().any(waits)
    }

    /// What came of arming. Gives whether that is news.
    pub fn set_armed(
        &mut self,
        group: GroupIndex,
        resource: usize,
        outcome: Result<(), String>,
    ) -> bool {
        let Some(gate) = self.gate(group, resource) else { return false };
        let standing = outcome.map_or_else(Standing::Not, |()| Standing::Armed);
        let news = gate.standing != standing;
        gate.standing = standing;
        news
    }

    /// The holder's lease is over: nothing is this node's any more, and the keeper or the worker takes every
    /// address off. All are closed and to be configured anew; until then they go the ordinary way, in
    /// which the keeper is told first.
    pub fn lapse(&mut self) {
        let given_up = self.given_up;
        let Some(words) = &self.words else { return };
        for gate in &mut self.gates {
            let Some(entry) = gate.entry else { continue };
            words.close(entry);
            gate.open = false;
            gate.at_once = false;
            if !given_up {
                gate.standing = Standing::Not("the holder's lease was over".to_owned());
            }
        }
    }

    /// The gates can be relied on no more: gives the addresses that nobody may leave configured. Those
    /// that are open stay, as ordinary ones.
    pub fn give_up(&mut self, reason: &str) -> Vec<(IpNet, InterfaceName)> {
        self.given_up = true;
        let mut closed = Vec::new();
        for gate in self.gates.iter_mut().filter(|gate| gate.entry.is_some()) {
            gate.standing = Standing::Not(reason.to_owned());
            gate.at_once = false;
            if !gate.open {
                closed.push((gate.address, gate.interface.clone()));
            }
        }
        closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);
    const SHORT: Duration = Duration::from_millis(5);
    const GROUP: GroupIndex = GroupIndex(0);

    /// Gates of two addresses, their words, and a lease that does not end.
    fn gates() -> (Gates, Arc<GateWords>, Lease) {
        let words = Arc::new(GateWords::alone());
        let wanted = |resource: usize| Wanted {
            group: GROUP,
            resource,
            address: format!("198.51.100.1{resource}/24").parse().unwrap(),
            interface: "eth0".parse().unwrap(),
        };
        let wanted = vec![(wanted(0), 7), (wanted(1), 8)];
        (Gates::new(Arc::clone(&words), wanted, &[]), words, Lease::create(LONG).unwrap())
    }

    #[test]
    fn opening_and_closing_a_gate_is_all_that_an_armed_address_takes() {
        let (mut gates, words, lease) = gates();
        assert!(gates.set_armed(GROUP, 0, Ok(())));
        assert_eq!(gates.open(GROUP, 0, &lease), Done::AtOnce);
        assert_eq!((words.until_ns(7), words.until_ns(8)), (lease.ends_at_ns().unwrap(), 0));
        assert_eq!(gates.close(GROUP, 0), Done::AtOnce);
        assert_eq!(words.until_ns(7), 0);
        assert_eq!(gates.open(GroupIndex(1), 0, &lease), Done::Nothing);
    }

    #[test]
    fn no_gate_is_open_for_longer_than_the_lease() {
        let (mut gates, words, lease) = gates();
        for resource in [0, 1] {
            gates.set_armed(GROUP, resource, Ok(()));
        }
        gates.open(GROUP, 0, &lease);
        // The driver runs on while its sender hangs: nobody renews the lease.
        let ends_ns = lease.ends_at_ns().unwrap();
        std::thread::sleep(SHORT);
        gates.renew(&lease);
        gates.open(GROUP, 1, &lease);
        assert_eq!((words.until_ns(7), words.until_ns(8)), (ends_ns, ends_ns));
        lease.renew().unwrap();
        gates.renew(&lease);
        let ends_ns = lease.ends_at_ns().unwrap();
        assert_eq!((words.until_ns(7), words.until_ns(8)), (ends_ns, ends_ns));
    }

    #[test]
    fn a_lease_that_has_ended_opens_nothing_and_keeps_nothing_open() {
        let (mut gates, words, lease) = gates();
        gates.set_armed(GROUP, 0, Ok(()));
        gates.open(GROUP, 0, &lease);
        let ends_ns = words.until_ns(7);
        lease.set_length(SHORT);
        std::thread::sleep(2 * SHORT);
        assert!(lease.end());
        gates.renew(&lease);
        assert_eq!(words.until_ns(7), ends_ns);
        gates.close(GROUP, 0);
        gates.open(GROUP, 0, &lease);
        assert_eq!(words.until_ns(7), 0);
    }

    #[test]
    fn after_the_holders_lease_all_are_closed_and_configured_anew() {
        let (mut gates, words, lease) = gates();
        gates.set_armed(GROUP, 0, Ok(()));
        gates.open(GROUP, 0, &lease);
        gates.lapse();
        assert_eq!(words.until_ns(7), 0);
        assert_eq!(gates.to_arm(None).len(), 2);
        assert_eq!(gates.close(GROUP, 0), Done::Nothing, "its end is that of an ordinary one");
        gates.renew(&lease);
        assert_eq!(words.until_ns(7), 0, "it stays closed");
        assert_eq!(gates.open(GROUP, 0, &lease), Done::Nothing, "the keeper is not told of it yet");
        gates.close(GROUP, 0);
        gates.set_armed(GROUP, 0, Ok(()));
        assert_eq!(gates.open(GROUP, 0, &lease), Done::AtOnce);
    }

    #[test]
    fn what_was_given_up_stays_so_after_the_holders_lease() {
        let (mut gates, _, lease) = gates();
        gates.set_armed(GROUP, 0, Ok(()));
        gates.give_up("no");
        gates.lapse();
        assert_eq!(gates.armed(GROUP, 0), Some(Err("no")));
        assert_eq!(gates.open(GROUP, 0, &lease), Done::Nothing);
        assert!(gates.to_arm(None).is_empty());
    }

    #[test]
    fn what_is_not_armed_goes_the_ordinary_way_through_an_open_gate() {
        let (mut gates, words, lease) = gates();
        gates.set_armed(GROUP, 0, Err("no".to_owned()));
        assert_eq!(gates.armed(GROUP, 0), Some(Err("no")));
        assert!(gates.wait());
        assert_eq!(gates.open(GROUP, 0, &lease), Done::Nothing);
        assert_eq!(words.until_ns(7), lease.ends_at_ns().unwrap());
        lease.renew().unwrap();
        gates.renew(&lease);
        assert_eq!(words.until_ns(7), lease.ends_at_ns().unwrap());
        assert_eq!(gates.close(GROUP, 0), Done::Nothing);
        assert_eq!(words.until_ns(7), 0);
    }

    #[test]
    fn a_gate_that_is_given_up_leaves_no_armed_address_behind() {
        let (mut gates, _, lease) = gates();
        for resource in [0, 1] {
            gates.set_armed(GROUP, resource, Ok(()));
        }
        gates.open(GROUP, 0, &lease);
        let closed = gates.give_up("no");
        assert_eq!(closed, [("198.51.100.11/24".parse().unwrap(), "eth0".parse().unwrap())]);
        assert_eq!(gates.close(GROUP, 0), Done::Nothing, "it is removed as any");
        assert!(gates.to_arm(None).is_empty() && !gates.wait());
    }
}
