//! What the keeper is told of: the lease, what stays when this daemon dies, and what it is to send
//! then.

use ha_common::wire::SEQUENCE_LAST;

use super::Driver;
use super::carry::obituaries;
use crate::config::{GroupIndex, OnDaemonDeath, Resource};
use crate::core::adoption::Holdings;
use crate::core::io::Input;
use crate::core::message::{self, ClaimState, Message, Wish};
use crate::io::address::AddressCommand;
use crate::io::keeper::{Custody, Datagram, Held, KeeperError};
use crate::snapshot::Severity;

/// The word of what stays comes before the obituary: each has a number of its own, and the obituary
/// the last one, so that nothing of this incarnation follows.
const SEQUENCE_CUSTODY: u64 = SEQUENCE_LAST - 1;

/// Where the lease is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holding {
    /// This daemon renews it.
    Own,
    /// It is a dead daemon's, until the peers know of this one.
    Provisional,
    /// It is over, and the address worker has not taken the order to give everything up.
    Ended,
    /// It was over; the address worker is giving everything up.
    Lost,
}

impl Driver {
    /// Before anything else in a turn: whether this daemon still has what it had.
    pub(super) fn check_lease(&mut self) {
        let lease = self.parts.keeper.lease();
        let over = lease.is_over();
        if self.holding == Holding::Lost {
            if over.is_none() {
                self.holding = Holding::Own;
                // Not before: the keeper would remove at once what it is told of.
                self.arm_addresses(None);
            }
            return;
        }
        let Some(over) = over else { return };
        // From here on nobody begins to renew an address; the worker begins the lease anew when it has
        // given everything up.
        lease.end();
        // Whoever waits for the worker: what is open is answered for.
        self.parts.gates.lapse();
        if self.parts.addresses.send(AddressCommand::GiveUp).is_err() {
            // As many commands wait as may: once more in the next turn. Nothing is added until then.
            if self.holding == Holding::Ended {
                return;
            }
            self.holding = Holding::Ended;
            self.driver_note(
                Severity::Error,
                "lease-lost",
                "the holder's lease is over, and the address worker does not listen".to_owned(),
            );
            return;
        }
        self.holding = Holding::Lost;
        // The keeper holds on: until the worker is done it is the only one who would remove anything,
        // should this daemon be stopped or killed now. What it holds too much does no harm.
        self.handle(Input::LeaseLost { silent_ns: over.silent_ns.cast_signed() });
    }

    /// The daemon runs as a whole: it keeps what it has, and the gates of that open. While the lease is a
    /// dead daemon's they end with it, as peers count on.
    pub(super) fn renew_holding(&mut self) {
        if self.holding != Holding::Own {
            return;
        }
        let lease = self.parts.keeper.lease();
        match lease.renew() {
            Ok(()) => self.parts.gates.renew(lease),
            Err(_) => self.check_lease(),
        }
    }

    /// Every peer knows that this daemon goes on with what a dead one had.
    pub(super) fn adopted(&mut self) {
        if self.holding == Holding::Provisional {
            self.holding = Holding::Own;
        }
    }

    /// Tells the keeper of what this node owns, before anything changes by it.
    pub(super) fn tell_holdings(&mut self) {
        let holdings = self.core.holdings();
        if holdings != self.holdings {
            self.holdings = holdings;
            self.write_custody();
        }
    }

    fn write_custody(&mut self) {
        let estate = self.core.estate(&self.holdings);
        let estate = if estate.is_empty() { Ok(Vec::new()) } else { serde_json::to_vec(&estate) };
        let custody = self.custody(false);
        let keeper = &mut self.parts.keeper;
        let mut told = keeper.custody(custody).and_then(|()| match estate {
            Ok(estate) => keeper.estate(estate),
            Err(_) => Ok(()),
        });
        if matches!(told, Err(KeeperError::Message(_))) {
            self.told_keeper(told);
            // The next daemon must not go on with what was true before.
            told = self.parts.keeper.estate(Vec::new());
        }
        self.told_keeper(told);
    }

    fn told_keeper(&mut self, told: Result<(), KeeperError>) {
        match told {
            // A keeper that is gone is started again and told everything.
            Ok(()) | Err(KeeperError::Gone { .. }) => self.keeper_hangs = false,
            // The same in every turn: nothing to try again before something changes.
            Err(KeeperError::Message(error)) => {
                if !std::mem::replace(&mut self.keeper_refuses, true) {
                    let text = format!("the keeper cannot be told what this node has: {error}");
                    self.driver_note(Severity::Error, "not-kept", text);
                }
            }
            Err(error) => {
                // It keeps the earlier one: try again in the next turn.
                self.obituary_is_due = true;
                if !std::mem::replace(&mut self.keeper_hangs, true) {
                    self.driver_note(Severity::Warning, "keeper-hangs", error.to_string());
                }
            }
        }
    }

    /// What stays when this daemon is gone: all groups, or those that wait.
    pub(super) fn custody(&self, all: bool) -> Custody {
        let config = &self.parts.config;
        let Holdings { owned, .. } = &self.holdings;
        let stays = |(index, ..): &&(GroupIndex, u64, ClaimState, Wish)| {
            all || config.groups[index.0].on_daemon_death == OnDaemonDeath::Wait
        };
        let groups: Vec<(GroupIndex, u64)> =
            owned.iter().filter(stays).map(|(index, term, ..)| (*index, *term)).collect();
        let resources = groups.iter().flat_map(|(index, _)| &config.groups[index.0].resources);
        let held = |resource: &Resource| match resource {
            Resource::Address { address, interface, .. } => {
                Some(Held { address: *address, interface: interface.clone() })
            }
            Resource::SourceAddress { .. } | Resource::Script { .. } | Resource::Systemd { .. } => {
                None
            }
        };
        let word = message::Custody {
            announced: all,
            groups: groups.iter().map(|(index, term)| (config.groups[index.0].id, *term)).collect(),
        };
        let count = u16::try_from(groups.len()).unwrap_or(u16::MAX);
        let body = Message::Custody(word).encode();
        // Who is left with nothing is told by the obituary.
        let told = all || count > 0;
        Custody {
            groups: count,
            held: resources.filter_map(held).collect(),
            datagrams: if told { self.last_words(SEQUENCE_CUSTODY, &body) } else { Vec::new() },
            notices: if told { self.notices(SEQUENCE_CUSTODY, &body) } else { Vec::new() },
        }
    }

    /// Gives the keeper what it is to send when this daemon dies: signed beforehand, so that it
    /// holds no key, and with the last sequence number, so that nothing of this incarnation follows.
    pub(super) fn write_obituary(&mut self) {
        let body = Message::Obituary.encode();
        let datagrams = self.last_words(SEQUENCE_LAST, &body);
        let notices = self.notices(SEQUENCE_LAST, &body);
        let keeper = &mut self.parts.keeper;
        let told = keeper.obituary(datagrams).and_then(|()| keeper.notices(notices));
        self.told_keeper(told);
        self.write_custody();
    }

    fn last_words(&self, sequence: u64, body: &[u8]) -> Vec<Datagram> {
        (0..self.parts.paths.len())
            .filter(|slot| self.heard_told[*slot] != 0)
            .filter_map(|slot| Some((slot, self.parts.paths[slot].network()?)))
            .flat_map(|(slot, network)| {
                let signing = self.parts.shared.paths[slot].signing.get();
                let signers = self.parts.keys.signers(signing).into_iter();
                signers.map(move |signer| (slot, network, signer))
            })
            .flat_map(|(slot, network, signer)| {
                let payload = self.control_datagram(slot, sequence, signer, body);
                obituaries(network, &payload)
            })
            .collect()
    }
}
