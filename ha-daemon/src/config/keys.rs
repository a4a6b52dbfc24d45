//! Keys of a node: those of its key file, and those of the file before that its peers may still use.

use ha_common::auth::Key;
use serde::{Deserialize, Serialize};

/// Method by which heartbeats are authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMethod {
    /// CRC-32, no key: keeps noise out, not an attacker.
    Crc,
    /// HMAC-MD5 (RFC 2104).
    Md5,
    /// HMAC-SHA-1, truncated to 128 bits (RFC 2104).
    Sha1,
    /// HMAC-SHA-256, truncated to 128 bits (RFC 4868).
    Sha256,
    /// SipHash-2-4, 64-bit tag.
    #[serde(rename = "siphash")]
    SipHash24,
}

impl AuthMethod {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Crc, Self::Md5, Self::Sha1, Self::Sha256, Self::SipHash24];

    /// The method as the key file spells it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Crc => "crc",
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::SipHash24 => "siphash",
        }
    }
}

/// One key of the key file.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthKey {
    /// Number in the key file, 0..=15; travels in every packet.
    pub number: u8,
    /// Method.
    pub method: AuthMethod,
    /// The key word as it stands in the file; empty for `crc`.
    pub word: Vec<u8>,
}

impl std::fmt::Debug for AuthKey {
    // A key never appears in a log or an error.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "AuthKey {{ number: {}, method: {:?}, word: (hidden) }}",
            self.number, self.method
        )
    }
}

impl AuthKey {
    /// The key as packets are signed and verified with it. The word itself is the key of an HMAC. For
    /// SipHash words of any length become keys of its one length: the first 16 bytes of their
    /// SHA-256.
    #[must_use]
    pub fn to_key(&self) -> Key {
        match self.method {
            AuthMethod::Crc => Key::crc(),
            AuthMethod::Md5 => Key::md5(&self.word),
            AuthMethod::Sha1 => Key::sha1(&self.word),
            AuthMethod::Sha256 => Key::sha256(&self.word),
            AuthMethod::SipHash24 => {
                use sha2::Digest as _;
                let digest: [u8; 32] = sha2::Sha256::digest(&self.word).into();
                Key::siphash24(&std::array::from_fn(|index| digest[index]))
            }
        }
    }
}

/// All keys; the active one signs, every one is accepted.
///
/// Nodes get a new key file one after the other. So a daemon that has read one goes on as its peers
/// know it: it accepts the keys of both files, and signs for each peer with the earlier key until
/// that peer offers the new one (see `docs/protocol.md`, Change of keys).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyRing {
    /// Number of the key that signs.
    pub active: u8,
    /// Keys by number.
    pub keys: Vec<AuthKey>,
    /// Keys of earlier files that this one does not have (another word or method under a
    /// number is another key): accepted until every peer has moved on. At most one of a number.
    pub retained: Vec<AuthKey>,
    /// The key that signs for peers that do not offer the active one yet, when that is another: one
    /// of `keys` or of `retained`.
    pub earlier: Option<AuthKey>,
}

impl KeyRing {
    /// The keys of a key file, with nothing before it.
    #[must_use]
    pub fn new(active: u8, keys: Vec<AuthKey>) -> Self {
        Self { active, keys, ..Self::default() }
    }

    /// The key that signs, unless `active` names none.
    #[must_use]
    pub fn active_key(&self) -> Option<&AuthKey> {
        self.keys.iter().find(|key| key.number == self.active)
    }

    /// This ring, read from the key file anew, for a daemon that has run with `before` until now.
    ///
    /// While an earlier change has not come to its end, the key from before that one goes on
    /// signing: it is the one that peers know that have not moved yet. Of two earlier keys with one
    /// number that one is kept.
    #[must_use]
    pub fn after(mut self, before: &Self) -> Self {
        let signed = before.earlier.as_ref().or(before.active_key());
        let signs =
            if self.active_key() == before.active_key() { before.earlier.as_ref() } else { signed };
        self.earlier = signs.filter(|key| Some(*key) != self.active_key()).cloned();
        self.retained.clear();
        let earlier = self.earlier.iter().chain(&before.keys).chain(&before.retained);
        for key in earlier.cloned().collect::<Vec<_>>() {
            let same_number = |it: &AuthKey| it.number == key.number;
            if !self.keys.contains(&key) && !self.retained.iter().any(same_number) {
                self.retained.push(key);
            }
        }
        self
    }

    /// The same without anything of earlier files: every peer has moved on.
    #[must_use]
    pub fn settled(&self) -> Self {
        Self::new(self.active, self.keys.clone())
    }

    /// Everything, key words included, for the process that goes on in this one's place. The bytes
    /// must not go anywhere else: no file, no argument, no log.
    #[must_use]
    pub fn hand_over(&self) -> Vec<u8> {
        let bare =
            |key: &AuthKey| Bare { number: key.number, method: key.method, word: key.word.clone() };
        let ring = BareRing {
            active: self.active,
            keys: self.keys.iter().map(bare).collect(),
            retained: self.retained.iter().map(bare).collect(),
            earlier: self.earlier.as_ref().map(bare),
        };
        // Numbers, words and bytes have a form in JSON.
        serde_json::to_vec(&ring).unwrap_or_default()
    }

    /// The reverse of [`KeyRing::hand_over`]. `None` when the bytes are not of this form; why is not
    /// said, since an error could show what it stumbled over.
    #[must_use]
    pub fn take_over(bytes: &[u8]) -> Option<Self> {
        let ring: BareRing = serde_json::from_slice(bytes).ok()?;
        let clad = |key: Bare| AuthKey { number: key.number, method: key.method, word: key.word };
        Some(Self {
            active: ring.active,
            keys: ring.keys.into_iter().map(clad).collect(),
            retained: ring.retained.into_iter().map(clad).collect(),
            earlier: ring.earlier.map(clad),
        })
    }
}

/// [`AuthKey`] as it is handed over. Without `Debug`, and private, so that no key is serialised but by
/// [`KeyRing::hand_over`].
#[derive(Serialize, Deserialize)]
struct Bare {
    number: u8,
    method: AuthMethod,
    word: Vec<u8>,
}

/// [`KeyRing`], likewise.
#[derive(Serialize, Deserialize)]
struct BareRing {
    active: u8,
    keys: Vec<Bare>,
    retained: Vec<Bare>,
    earlier: Option<Bare>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8, word: &str) -> AuthKey {
        AuthKey { number, method: AuthMethod::Sha1, word: word.as_bytes().to_vec() }
    }

    fn ring<const N: usize>(active: u8, keys: [AuthKey; N]) -> KeyRing {
        KeyRing::new(active, keys.to_vec())
    }

    #[test]
    fn a_key_that_is_replaced_under_its_number_signs_until_the_new_one_is_offered() {
        let (old, new) = (key(1, "old"), key(1, "new"));
        let after = ring(1, [new.clone()]).after(&ring(1, [old.clone()]));
        assert_eq!((after.retained, after.earlier), (vec![old.clone()], Some(old)));
    }

    #[test]
    fn a_key_that_stays_in_the_file_is_not_retained_and_signs_until_then() {
        let (old, new) = (key(1, "old"), key(2, "new"));
        let both = ring(2, [old.clone(), new.clone()]).after(&ring(1, [old.clone()]));
        assert_eq!((both.retained.len(), both.earlier.as_ref()), (0, Some(&old)));
        // Its line goes before the change has come to its end: it goes on all the same.
        let alone = ring(2, [new]).after(&both);
        assert_eq!((alone.retained, alone.earlier), (vec![old.clone()], Some(old)));
    }

    #[test]
    fn a_file_that_is_read_again_unchanged_changes_nothing() {
        let (old, new) = (key(1, "old"), key(1, "new"));
        let settled = ring(1, [old.clone()]);
        assert_eq!(settled.clone().after(&settled), settled);
        let changing = ring(1, [new.clone()]).after(&settled);
        assert_eq!(ring(1, [new]).after(&changing), changing);
    }

    #[test]
    fn a_change_that_is_taken_back_signs_with_the_first_key_at_once() {
        let (old, new) = (key(1, "old"), key(1, "new"));
        let changing = ring(1, [new.clone()]).after(&ring(1, [old.clone()]));
        let back = ring(1, [old]).after(&changing);
        assert_eq!((back.retained, back.earlier), (vec![new], None));
    }

    #[test]
    fn of_two_unfinished_changes_the_key_that_peers_know_is_kept() {
        let [first, second, third] = ["first", "second", "third"].map(|word| key(1, word));
        let one = ring(1, [second]).after(&ring(1, [first.clone()]));
        let two = ring(1, [third]).after(&one);
        assert_eq!((two.retained, two.earlier), (vec![first.clone()], Some(first)));
    }

    #[test]
    fn what_is_handed_over_is_taken_over_whole() {
        let before = ring(1, [key(1, "old"), key(3, "other")]);
        let mut after = ring(2, [key(1, "new"), key(2, "new")]).after(&before);
        after.keys[0].method = AuthMethod::Crc;
        assert_eq!(KeyRing::take_over(&after.hand_over()), Some(after.clone()));
        assert_eq!(after.settled(), KeyRing::new(2, after.keys));
        assert_eq!(KeyRing::take_over(b"{\"active\":1}"), None);
    }

    #[test]
    fn no_word_is_shown() {
        let ring = ring(1, [key(1, "S3cretWord")]).after(&ring(1, [key(1, "S3cretOther")]));
        assert!(!format!("{ring:?}").contains("S3cret"));
    }
}
