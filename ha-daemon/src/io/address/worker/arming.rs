//! Addresses that are here before this node owns them, behind a gate in the kernel.

use futures_util::StreamExt as _;

use super::*;
use crate::io::netlink::address_of;

/// How an address is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It was added when this node took it.
    Added,
    /// It was here before, and another node may own it.
    Armed,
    /// It was here before, and this node owns it.
    Opened,
}

impl Role {
    pub(super) fn of(held: &HeldAddress) -> Self {
        match (held.armed, held.open) {
            (false, _) => Self::Added,
            (true, false) => Self::Armed,
            (true, true) => Self::Opened,
        }
    }

    /// Whether this node owns the address.
    pub(super) fn owns(self) -> bool {
        self != Self::Armed
    }
}

impl Worker {
    /// Configures an address behind its gate, or does so again.
    pub(super) async fn arm(&mut self, token: u64, floating: Floating, details: AddressDetails) {
        let role = self.owned.get(&floating).map(|owned| owned.role);
        if role.is_some_and(Role::owns) {
            // It is the owner's: it stays as it is.
            let armed = role == Some(Role::Opened);
            let outcome =
                if armed { Ok(()) } else { Err("it was started in the ordinary way".to_owned()) };
            return (self.report)(AddressReport::Armed { token, outcome });
        }
        let outcome = self.try_arm(floating, details).await;
        (self.report)(AddressReport::Armed { token, outcome });
    }

    async fn try_arm(&mut self, floating: Floating, details: AddressDetails) -> Result<(), String> {
        let refused = |error| explain("arm", &floating, &error);
        let link = link_named(&self.netlink, &floating.interface).await.map_err(refused)?;
        if link.mac.is_none() {
            return Err(format!("{} has no neighbours to answer", floating.interface));
        }
        self.expect_own_address(&floating, link.index).await?;
        let renewed_boot_ns = boottime_ns();
        self.bring_up(&floating, &details, Role::Armed).await?;
        self.agenda.forget(&floating);
        self.agenda.set(&floating, Task::Renew, Some(self.next_renewal_ns()));
        let owned = Owned {
            role: Role::Armed,
            details,
            link,
            renewed_boot_ns,
            renewal: Renewal::Works,
            announcements: Announcements::none(),
            announced: 0,
            claimants: None,
            defended_ns: None,
            removed_ns: None,
            restored_ns: None,
        };
        self.owned.insert(floating, owned);
        Ok(())
    }

    /// Fails unless the host has an address of its own in the address's network there. Without one the
    /// armed address would be the source of what the host sends, and the gate would drop that.
    async fn expect_own_address(&self, floating: &Floating, ifindex: u32) -> Result<(), String> {
        let request = self.netlink.address().get().set_link_index_filter(ifindex).execute();
        let mut answers = std::pin::pin!(request);
        while let Some(answer) = answers.next().await {
            let message = answer.map_err(|error| format!("cannot list addresses: {error}"))?;
            let Some(found) = address_of(&message) else { continue };
            let floats = self.owned.keys().any(|it| it.address.addr() == found.addr());
            if found.contains(&floating.address.addr())
                && found.addr() != floating.address.addr()
                && !floats
            {
                return Ok(());
            }
        }
        let Floating { address, interface } = floating;
        Err(format!(
            "this node has no address of its own in the network of {address} on {interface}"
        ))
    }

    /// The gate is open: tells the network, and makes sure that the address is there.
    pub(super) async fn open_armed(
        &mut self,
        token: u64,
        floating: Floating,
        details: AddressDetails,
    ) {
        let Some(owned) = self.owned.get(&floating).filter(|owned| owned.role != Role::Added)
        else {
            return self.add(token, floating, details).await;
        };
        let (link, renewed_boot_ns) = (owned.link, owned.renewed_boot_ns);
        let at_ns = monotonic_ns();
        if let Err(over) = self.check_lease(&floating) {
            let outcome = Err(over);
            let first_announced_ns = None;
            return (self.report)(AddressReport::Added {
                token,
                outcome,
                at_ns,
                first_announced_ns,
            });
        }
        let (sent, first_announced_ns) = self.burst(&floating, &link, 0);
        let at_ns = monotonic_ns();
        self.own(floating.clone(), details, link, (renewed_boot_ns, sent), Role::Opened);
        // Somebody may have removed it by hand since it was renewed last.
        self.agenda.set(&floating, Task::Renew, Some(at_ns));
        (self.report)(AddressReport::Added { token, outcome: Ok(()), at_ns, first_announced_ns });
    }

    /// Removes an address that this node does not own.
    pub(super) async fn disarm(&mut self, floating: &Floating) {
        if self.owned.get(floating).is_none_or(|owned| owned.role.owns()) {
            return;
        }
        self.take_off(floating).await;
    }

    async fn take_off(&mut self, floating: &Floating) {
        self.forget(floating);
        if let Err(error) = self.delete(floating).await {
            tracing::error!("{}", explain("remove", floating, &error));
        }
        self.restore_secondaries(floating);
    }

    pub(super) async fn close_armed(&mut self, floating: &Floating) {
        let Some(owned) = self.owned.get_mut(floating) else { return };
        if owned.role == Role::Added {
            return self.take_off(floating).await;
        }
        owned.role = Role::Armed;
        owned.claimants = None;
        for task in [Task::Announce, Task::Probe, Task::EndProbe] {
            self.agenda.set(floating, task, None);
        }
        self.mute_if_idle();
    }
}
