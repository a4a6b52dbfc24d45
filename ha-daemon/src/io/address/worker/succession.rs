//! From one program's worker to the next one's.

use super::*;

impl Worker {
    /// Owns what the program before owned, without a word to the network.
    pub(super) async fn go_on(&mut self, held: &HeldAddress) {
        let Some(floating) = held.floating() else { return };
        let now_ns = monotonic_ns();
        let Ok(link) = link_named(&self.netlink, &floating.interface).await else {
            let silent_ns = boottime_ns().saturating_sub(held.renewed_boot_ns);
            return self.lapse(&floating, silent_ns).await;
        };
        let role = Role::of(held);
        let announcements = match role {
            Role::Armed => Announcements::none(),
            Role::Added | Role::Opened => {
                Announcements::resume(&self.plan, held.announcing_since_ns, now_ns)
            }
        };
        let announce_ns = announcements.due_ns().filter(|_| link.mac.is_some());
        self.agenda.set(&floating, Task::Announce, announce_ns);
        self.agenda.set(&floating, Task::Renew, Some(now_ns));
        let owned = Owned {
            role,
            link,
            renewed_boot_ns: held.renewed_boot_ns,
            details: held.details.clone(),
            renewal: Renewal::Works,
            announcements,
            announced: held.announced,
            claimants: None,
            defended_ns: held.defended_ns,
            removed_ns: None,
            restored_ns: None,
        };
        self.owned.insert(floating, owned);
    }

    /// What the next program's worker goes on with.
    pub(super) fn hand_over(&self) -> Vec<HeldAddress> {
        let held = |(floating, owned): (&Floating, &Owned)| HeldAddress {
            address: floating.address.to_string(),
            interface: floating.interface.clone(),
            renewed_boot_ns: owned.renewed_boot_ns,
            details: owned.details.clone(),
            announcing_since_ns: owned.announcements.start_ns(),
            announced: owned.announced,
            defended_ns: owned.defended_ns,
            armed: owned.role != Role::Added,
            open: owned.role.owns(),
        };
        self.owned.iter().map(held).collect()
    }
}
