//! The keys of a running node: what is accepted, and which of two keys signs for whom.
//!
//! After a change of the key file a node goes on signing with the earlier key for each peer that does
//! not offer the new one yet, and accepts both files' keys until every peer that it hears
//! has moved. So no order in which the files change on the nodes silences anybody.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};

use anyhow::{Context, Result};
use ha_common::auth::{KEY_ENTRIES, KEYS_MAX, Key};
use ha_common::record::Record;
use ha_common::wire::Fixed;

use crate::config::{AuthKey, KeyRing};

/// A key under its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signer {
    /// As it travels in packets.
    pub number: u8,
    /// The key.
    pub key: Key,
}

impl Signer {
    fn new(key: &AuthKey) -> Self {
        Self { number: key.number, key: key.to_key() }
    }
}

/// Which key signs for a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Signing {
    /// The active one.
    Active = 0,
    /// The one that was active before.
    Earlier = 1,
    /// Now the one, now the other: what the peer accepts is not known.
    InTurn = 2,
}

/// A [`Signing`] that the driver writes and the sender reads.
#[derive(Debug, Default)]
pub struct SharedSigning(AtomicU8);

impl SharedSigning {
    /// What signs now.
    pub fn get(&self) -> Signing {
        match self.0.load(Relaxed) {
            0 => Signing::Active,
            1 => Signing::Earlier,
            _ => Signing::InTurn,
        }
    }

    /// Says what signs from now on; whether that is another.
    pub fn set(&self, signing: Signing) -> bool {
        self.0.swap(signing as u8, Relaxed) != signing as u8
    }
}

/// What the records of a peer that is heard say of its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerKeys {
    /// What it offers, see [`Key::offer`].
    pub offered: u32,
    /// Whether the last heartbeat on each link that is heard came after [`Keys::in_force`] and
    /// was signed with a key of the present file.
    pub has_moved: bool,
}

impl PeerKeys {
    /// Those of a peer that is not heard at the moment: nothing of the earlier file can go.
    pub const UNKNOWN: Self = Self { offered: 0, has_moved: false };
}

/// The keys of a running node.
#[derive(Debug)]
pub struct Keys {
    accepted: [Option<Key>; KEY_ENTRIES],
    active: Signer,
    earlier: Option<Signer>,
    offered: u32,
    /// From when on records tell by which entry of *these* keys a heartbeat was signed.
    in_force_ns: AtomicU64,
    settled: AtomicBool,
}

/// Longest time between a packet's look into the key table and its stamp; it takes microseconds.
const JUDGEMENT_MAX_NS: u64 = 1_000_000;

impl Keys {
    /// The keys of a ring.
    ///
    /// # Errors
    /// The key that is to sign is not among them.
    pub fn new(ring: &KeyRing) -> Result<Self> {
        let active = ring.active_key().map(Signer::new);
        let active = active
            .with_context(|| format!("key {} is active but not in the key file", ring.active))?;
        let mut accepted = [None; KEY_ENTRIES];
        let earlier = ring.retained.iter().map(|key| (KEYS_MAX, key));
        for (from, key) in ring.keys.iter().map(|key| (0, key)).chain(earlier) {
            let entry = from + usize::from(key.number);
            let place = accepted.get_mut(entry).filter(|_| usize::from(key.number) < KEYS_MAX);
            *place.with_context(|| format!("key {} is above the highest number", key.number))? =
                Some(key.to_key());
        }
        Ok(Self {
            accepted,
            active,
            earlier: ring.earlier.as_ref().map(Signer::new),
            offered: active.key.offer(active.number),
            in_force_ns: AtomicU64::new(u64::MAX),
            settled: AtomicBool::new(false),
        })
    }

    /// Says that the kernel side and the tables have these keys since `now_ns`: what records say of
    /// earlier heartbeats is said in terms of the keys before.
    pub fn in_force(&self, now_ns: u64) {
        self.in_force_ns.store(now_ns.saturating_add(JUDGEMENT_MAX_NS), Relaxed);
    }

    /// What the records of a peer's links that are heard say of its keys; `None` = there are none.
    #[must_use]
    pub fn of_peer(&self, heard: &[Record<'_>]) -> Option<PeerKeys> {
        let newest = heard.iter().max_by_key(|record| record.last_seen_ns())?;
        let in_force_ns = self.in_force_ns.load(Relaxed);
        let has_moved = |record: &Record<'_>| {
            record.last_seen_ns() > in_force_ns && record.key_entry() < KEYS_MAX as u32
        };
        let has_moved = heard.iter().all(has_moved);
        Some(PeerKeys { offered: newest.key_offered(), has_moved })
    }

    /// What heartbeats offer.
    #[must_use]
    pub fn offered(&self) -> u32 {
        self.offered
    }

    /// The number of the active key.
    #[must_use]
    pub fn active_number(&self) -> u8 {
        self.active.number
    }

    /// The number of the key that signs for peers that do not offer the active one, while a change
    /// goes on.
    #[must_use]
    pub fn earlier_number(&self) -> Option<u8> {
        self.earlier.filter(|_| !self.is_settled()).map(|signer| signer.number)
    }

    /// The accepted key in that entry, see [`KEY_ENTRIES`].
    #[must_use]
    pub fn accepted(&self, entry: u32) -> Option<&Key> {
        let entry = usize::try_from(entry).ok()?;
        let key = self.accepted.get(entry)?.as_ref();
        key.filter(|_| entry < KEYS_MAX || !self.is_settled())
    }

    /// All accepted keys with their entries, for the kernel side.
    #[must_use]
    pub fn entries(&self) -> Vec<(u8, Key)> {
        let entries = (0..KEY_ENTRIES as u8).map(|entry| (entry, self.accepted(u32::from(entry))));
        entries.filter_map(|(entry, key)| Some((entry, *key?))).collect()
    }

    /// The accepted keys of that number.
    pub fn of_number(&self, number: u8) -> impl Iterator<Item = &Key> {
        let number = Some(u32::from(number)).filter(|number| *number < KEYS_MAX as u32);
        let entries = number.into_iter().flat_map(|number| [number, number + KEYS_MAX as u32]);
        entries.filter_map(|entry| self.accepted(entry))
    }

    /// The key that signed a header, whose number it names.
    #[must_use]
    pub fn signer_of(&self, number: u8, fixed: &Fixed) -> Option<Signer> {
        let key = self.of_number(number).find(|key| key.verify(fixed))?;
        Some(Signer { number, key: *key })
    }

    /// The key that signs; `turn` counts what is signed.
    #[must_use]
    pub fn signer(&self, signing: Signing, turn: u64) -> &Signer {
        match (signing, &self.earlier) {
            (Signing::Earlier, Some(earlier)) => earlier,
            (Signing::InTurn, Some(earlier)) if turn % 2 == 1 => earlier,
            (Signing::Active | Signing::Earlier | Signing::InTurn, _) => &self.active,
        }
    }

    /// Every key that may have to sign, for what is sent once.
    #[must_use]
    pub fn signers(&self, signing: Signing) -> Vec<&Signer> {
        let mut signers = vec![self.signer(signing, 0)];
        let other = self.signer(signing, 1);
        signers.extend((other != signers[0]).then_some(other));
        signers
    }

    /// Which key is to sign for a peer; `None` = it is not heard, or has just started.
    #[must_use]
    pub fn signing_for(&self, peer: Option<PeerKeys>) -> Signing {
        match peer {
            _ if self.earlier.is_none() || self.is_settled() => Signing::Active,
            None => Signing::InTurn,
            Some(peer) if peer.offered == self.offered => Signing::Active,
            Some(_) => Signing::Earlier,
        }
    }

    /// Whether every peer that was heard, and there is one, offers the active key and signs with a key of
    /// the present file: then a change has come to its end.
    #[must_use]
    pub fn may_settle(&self, peers: &[Option<PeerKeys>]) -> bool {
        let changing =
            self.earlier.is_some() || self.accepted[KEYS_MAX..].iter().any(Option::is_some);
        let moved = |peer: &PeerKeys| peer.offered == self.offered && peer.has_moved;
        let mut heard = peers.iter().flatten().peekable();
        changing && !self.is_settled() && heard.peek().is_some() && heard.all(moved)
    }

    /// Ends a change: retained keys are not accepted any more.
    pub fn settle(&self) {
        self.settled.store(true, Relaxed);
    }

    /// Whether [`Keys::settle`] was called; a reload then begins with [`KeyRing::settled`].
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled.load(Relaxed)
    }
}

#[cfg(test)]
mod tests;
