//! The lifetimes of the addresses while the daemon does not renew them: its worker hangs, it is
//! stopped, or it died and another one may come. Until the lease is over they are the owner's, so the
//! keeper renews them; a lifetime never outlasts the lease ([`Lease::address_seconds`]), so that the
//! kernel takes them off should this process not run either. Nothing is added from here
//! (`io/renewal.rs`): what the daemon removed stays removed, however late a renewal comes.

use std::io;
use std::time::Duration;

use nix::net::if_::if_nametoindex;

use super::Care;
use super::lease::{SECOND_NS, renew_interval};
use super::process::Keeper;
use crate::io::clock::boottime_ns;
use crate::io::renewal::{Present, Renewed};

/// The last second that a lease allows is given that much before it is too late.
const LAST_SECOND_EARLY_NS: u64 = 20_000_000;
/// Least time between two looks: near the end of a lease there may be nothing to give.
const LOOK_AGAIN_NS: u64 = 50_000_000;

/// What the keeper did about lifetimes.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    /// When it looked last, `CLOCK_BOOTTIME`.
    looked_ns: u64,
    /// When it renewed last.
    renewed_ns: u64,
    /// It renews, and has said so.
    told: bool,
    /// The last round failed, and it has said so.
    failed: bool,
}

impl Keeper {
    /// When to look next, at the end of the lease at the latest.
    pub(super) fn next_look_ns(&self, ends_ns: u64) -> u64 {
        self.renewal_due_ns().map_or(ends_ns, |due_ns| due_ns.min(ends_ns))
    }

    /// When it has to renew, unless the daemon has renewed by then.
    fn renewal_due_ns(&self) -> Option<u64> {
        let lifetime = self.lease.address_lifetime()?;
        let renewed_ns = self.lease.addresses_renewed_at_ns();
        // The daemon is given half of a lifetime. Once it is this process that renews, every other
        // second of a lease may be the last one, so it does so more often.
        let pause = if renewed_ns == self.upkeep.renewed_ns {
            renew_interval(lifetime) / 2
        } else {
            lifetime / 2
        };
        let due_ns = renewed_ns.saturating_add(nanoseconds(pause));
        let last_ns =
            self.lease.addresses_end_ns()?.saturating_sub(SECOND_NS + LAST_SECOND_EARLY_NS);
        let due_ns = if self.upkeep.renewed_ns < last_ns { due_ns.min(last_ns) } else { due_ns };
        Some(due_ns.max(self.upkeep.looked_ns + LOOK_AGAIN_NS))
    }

    /// Renews what the daemon does not renew, when it is time to; what there is to say.
    pub(super) fn renew_missing(&mut self) -> Vec<String> {
        let now_ns = boottime_ns();
        if self.renewal_due_ns().is_none_or(|due_ns| now_ns < due_ns) {
            return Vec::new();
        }
        let silent_ns = now_ns.saturating_sub(self.lease.addresses_renewed_at_ns());
        self.upkeep.looked_ns = now_ns;
        let Some(seconds) = self.lease.address_seconds(now_ns) else { return Vec::new() };
        let again = self.lease.addresses_renewed_at_ns() == self.upkeep.renewed_ns;
        self.upkeep.told &= again;
        let outcome = self.renew_all(Duration::from_secs(seconds));
        // Where there is nothing to renew the daemon has missed nothing.
        if !matches!(outcome, Ok(0)) {
            self.upkeep.renewed_ns = now_ns;
        }
        self.lease.note_addresses_renewed(now_ns);
        match outcome {
            Ok(count) => {
                self.upkeep.failed = false;
                if count == 0 || std::mem::replace(&mut self.upkeep.told, true) {
                    return Vec::new();
                }
                vec![format!(
                    "the daemon has not renewed its addresses for {} ms: renewed {count} from here",
                    silent_ns / 1_000_000
                )]
            }
            Err(_) if std::mem::replace(&mut self.upkeep.failed, true) => Vec::new(),
            Err(error) => {
                vec![format!("cannot renew the addresses in the daemon's place: {error}")]
            }
        }
    }

    /// Renews all that are there, whatever happens to the others: how many.
    fn renew_all(&self, lifetime: Duration) -> io::Result<usize> {
        let present = Present::list(&self.netlink)?;
        let (mut count, mut failure) = (0, None);
        for (held, _) in self.held.iter().filter(|(_, kept)| kept.care == Care::Renew) {
            let Ok(ifindex) = if_nametoindex(held.interface.as_str()) else { continue };
            let Some(found) = present.iter().find(|it| it.is(held.address, ifindex)) else {
                continue;
            };
            match found.renew(&self.netlink, lifetime) {
                Ok(Renewed::Renewed) => count += 1,
                Ok(Renewed::NotThere) => {}
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(count), Err)
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
