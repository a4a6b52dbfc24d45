//! Telling the network where an address is: at once, by its plan, and when somebody else claims it.

use super::*;

impl Worker {
    /// Sends the announcements of a takeover; gives their number, and when the first had left.
    pub(super) fn burst(
        &self,
        floating: &Floating,
        link: &Link,
        announced: u32,
    ) -> (u32, Option<u64>) {
        let mut first_ns = None;
        for count in 0..self.plan.burst {
            if self.announce(floating, link, announced.wrapping_add(count)) {
                first_ns = first_ns.or_else(|| Some(monotonic_ns()));
            }
        }
        (announced.wrapping_add(self.plan.burst), first_ns)
    }

    /// Sends one announcement; whether it left.
    pub(super) fn announce(&self, floating: &Floating, link: &Link, count: u32) -> bool {
        let Some(mac) = link.mac else { return false };
        let frame = frames::announcement(mac, floating.address.addr(), link.role, count);
        match self.frames.send(link.index, &frame) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "cannot announce {floating}");
                false
            }
        }
    }

    /// The interface of an address that is owned and alive, as it is now: the MAC address of a
    /// bond may have changed since the last announcement.
    pub(super) async fn link_to_announce(&mut self, floating: &Floating) -> Option<Link> {
        let owned = self.owned.get(floating).filter(|owned| owned.role.owns())?;
        if boottime_ns().saturating_sub(owned.renewed_boot_ns) >= nanoseconds(self.lifetime) {
            return None; // the renewal that is due will find out whether it is there
        }
        let link = link_named(&self.netlink, &floating.interface).await.ok()?;
        // Stopped meanwhile beyond its lease, this node would draw what is another's by now.
        let ours = self.lease.is_over().is_none();
        let same = ours && owned.link.index == link.index && link.state == LinkState::Up;
        same.then(|| {
            if let Some(owned) = self.owned.get_mut(floating) {
                owned.link = link;
            }
            link
        })
    }

    pub(super) async fn announce_again(&mut self, floating: &Floating) {
        let Some(link) = self.link_to_announce(floating).await else {
            tracing::debug!("not announcing {floating}: it is not owned, or its interface is down");
            return;
        };
        let announced = self.owned.get(floating).map_or(0, |owned| owned.announced);
        let (announced, _) = self.burst(floating, &link, announced);
        let Some(owned) = self.owned.get_mut(floating) else {
            return;
        };
        owned.announced = announced;
        owned.announcements = Announcements::start(&self.plan, monotonic_ns());
        let due_ns = owned.announcements.due_ns().filter(|_| link.mac.is_some());
        self.agenda.set(floating, Task::Announce, due_ns);
    }

    pub(super) async fn announce_due(&mut self, floating: &Floating, due_ns: u64) {
        let now_ns = monotonic_ns();
        let Some(owned) = self.owned.get_mut(floating) else {
            return;
        };
        if owned.announcements.is_timely(due_ns, now_ns) {
            owned.announcements.advance(&self.plan, now_ns);
            self.announce_one(floating).await;
        }
        let next_ns = self.owned.get(floating).and_then(|owned| owned.announcements.due_ns());
        self.agenda.set(floating, Task::Announce, next_ns);
    }

    pub(super) async fn announce_one(&mut self, floating: &Floating) {
        let Some(link) = self.link_to_announce(floating).await else {
            return;
        };
        let Some(owned) = self.owned.get_mut(floating) else {
            return;
        };
        let count = owned.announced;
        owned.announced = count.wrapping_add(1);
        self.announce(floating, &link, count);
    }
}
