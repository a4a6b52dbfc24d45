//! Keeping addresses in the kernel: their lifetimes, and what is missing.

use super::*;
use crate::io::keeper::lease::renew_interval;
use crate::io::renewal::{FLAGS, Renewed, renewal};

/// An address whose lease leaves no whole second is looked at again after this time: the driver may have
/// renewed the lease by then.
const RENEW_AGAIN: Duration = Duration::from_millis(20);
/// Least time between two times that an address is added again before its renewal is due.
const RESTORE_PAUSE: Duration = Duration::from_secs(1);
/// What an address gets that is added, however little of the lease is left.
const SECONDS_MIN: u64 = 1;

impl Worker {
    /// When addresses are renewed next: all at the same moments. The kernel looks for lifetimes
    /// that are over at most once a second, so one that ended a little after another would stay longer.
    pub(super) fn next_renewal_ns(&self) -> u64 {
        let interval_ns = nanoseconds(renew_interval(self.lifetime)).max(1);
        (monotonic_ns() / interval_ns + 1) * interval_ns
    }

    pub(super) async fn renew(&mut self, floating: &Floating) {
        let Some(owned) = self.owned.get(floating) else {
            return;
        };
        let (before_ns, ifindex) = (boottime_ns(), owned.link.index);
        let (details, role) = (owned.details.clone(), owned.role);
        // The driver finds out by itself and tells the core.
        if self.lease.is_over().is_some() {
            return self.drop_silently(floating).await;
        }
        let Some(seconds) = self.lease.address_seconds(before_ns) else {
            let again_ns = monotonic_ns() + nanoseconds(RENEW_AGAIN);
            return self.agenda.set(floating, Task::Renew, Some(again_ns));
        };
        let outcome = self.keep(floating, ifindex, &details, (role, seconds)).await;
        // Again after the request: stopped in between, it would have brought the address back.
        if self.lease.is_over().is_some() {
            return self.drop_silently(floating).await;
        }
        self.agenda.set(floating, Task::Renew, Some(self.next_renewal_ns()));
        match outcome {
            Ok(()) => self.renewed(floating, before_ns),
            Err(error) => self.not_renewed(floating, &error).await,
        }
    }

    fn renewed(&mut self, floating: &Floating, at_ns: u64) {
        self.lease.note_addresses_renewed(at_ns);
        if let Some(owned) = self.owned.get_mut(floating) {
            owned.renewed_boot_ns = at_ns;
            owned.renewal = Renewal::Works;
            owned.removed_ns = None;
        }
    }

    /// Told once; when its lifetime is over as well, the address is lost.
    async fn not_renewed(&mut self, floating: &Floating, error: &io::Error) {
        let Some(owned) = self.owned.get_mut(floating) else {
            return;
        };
        let silent_ns = boottime_ns().saturating_sub(owned.renewed_boot_ns);
        if owned.renewal == Renewal::Works {
            owned.renewal = Renewal::Fails;
            let cause = explain("renew", floating, error);
            let Floating { address, interface } = floating.clone();
            (self.report)(AddressReport::RenewFailed { address, interface, cause });
        } else if owned.role.owns() && silent_ns >= nanoseconds(self.lifetime) {
            // Behind a closed gate it is no one's: nothing lapses.
            self.lapse(floating, silent_ns).await;
        }
    }

    /// Renews the address or, where it is not there any more, adds it: the lease says that it is
    /// still this node's, whoever took it off.
    async fn keep(
        &mut self,
        floating: &Floating,
        ifindex: u32,
        details: &AddressDetails,
        (role, seconds): (Role, u64),
    ) -> io::Result<()> {
        let message = renewal(self.message(floating, ifindex, details, (role, seconds)));
        let answer =
            acknowledged(&mut self.netlink, RouteNetlinkMessage::NewAddress(message), FLAGS).await;
        if Renewed::from_answer(answer)? == Renewed::Renewed || self.lease.is_over().is_some() {
            return Ok(());
        }
        let before_ns = boottime_ns();
        self.set_address(floating, ifindex, details, role).await?;
        if self.lease.is_over().is_none() {
            self.restored(floating, before_ns).await;
        }
        Ok(())
    }

    /// The kernel took an address off: if it is this node's, it comes back at once, and not with its
    /// next renewal. Who removes it again and again gets it back once in [`RESTORE_PAUSE`].
    pub(super) fn removed(&mut self, address: IpNet, ifindex: u32) {
        let (now_ns, renewal_ns) = (monotonic_ns(), self.next_renewal_ns());
        let is_it = |(floating, owned): &(&Floating, &mut Owned)| {
            (floating.address, owned.link.index) == (address, ifindex)
        };
        let Some((floating, owned)) = self.owned.iter_mut().find(is_it) else { return };
        owned.removed_ns.get_or_insert(now_ns);
        let rested_ns = owned.restored_ns.map_or(0, |at_ns| at_ns + nanoseconds(RESTORE_PAUSE));
        let due_ns = rested_ns.max(now_ns).min(renewal_ns);
        self.agenda.set(floating, Task::Renew, Some(due_ns));
    }

    /// It is there again: tells the driver, and the network, whose caches may have given it up.
    async fn restored(&mut self, floating: &Floating, before_ns: u64) {
        let now_ns = monotonic_ns();
        let Some(owned) = self.owned.get_mut(floating) else { return };
        let silent_ns = boottime_ns().saturating_sub(owned.renewed_boot_ns);
        let gone_ns = owned.removed_ns.take().map(|at_ns| now_ns.saturating_sub(at_ns));
        owned.restored_ns = Some(now_ns);
        owned.renewed_boot_ns = before_ns;
        let Floating { address, interface } = floating.clone();
        (self.report)(AddressReport::Restored { address, interface, silent_ns, gone_ns });
        self.announce_again(floating).await;
    }

    /// Adds the address, or renews one that is there already.
    pub(super) async fn set_address(
        &mut self,
        floating: &Floating,
        ifindex: u32,
        details: &AddressDetails,
        role: Role,
    ) -> io::Result<()> {
        let seconds = self.lease.address_seconds(boottime_ns()).unwrap_or(SECONDS_MIN);
        let message = self.message(floating, ifindex, details, (role, seconds));
        let message = RouteNetlinkMessage::NewAddress(message);
        acknowledged(&mut self.netlink, message, NLM_F_CREATE | NLM_F_REPLACE).await
    }

    fn message(
        &self,
        floating: &Floating,
        ifindex: u32,
        details: &AddressDetails,
        (role, seconds): (Role, u64),
    ) -> AddressMessage {
        let new = match role {
            Role::Added => new_address,
            Role::Armed | Role::Opened => new_armed_address,
        };
        new(floating.address, ifindex, Duration::from_secs(seconds), details)
    }

    pub(super) async fn lapse(&mut self, floating: &Floating, silent_ns: u64) {
        self.drop_silently(floating).await;
        let Floating { address, interface } = floating.clone();
        (self.report)(AddressReport::Lapsed { address, interface, silent_ns });
        self.restore_secondaries(floating);
    }
}
