//! Keys over a hand-over: peers read a changed key file later than this node, or earlier.

use serde::{Deserialize, Serialize};

use crate::config::{AuthKey, AuthMethod, KeyRing};

/// Methods by number, as they are handed over.
const METHODS: [AuthMethod; 5] =
    [AuthMethod::Crc, AuthMethod::Md5, AuthMethod::Sha1, AuthMethod::Sha256, AuthMethod::SipHash24];

#[derive(Serialize, Deserialize)]
struct Bare {
    active: u8,
    keys: Vec<(u8, u8, Vec<u8>)>,
}

/// A ring for the next program of this process. The bytes go nowhere else.
#[must_use]
pub fn write(ring: &KeyRing) -> Vec<u8> {
    let method = |key: &AuthKey| METHODS.iter().position(|it| *it == key.method).unwrap_or(0) as u8;
    let keys = ring.keys.iter().map(|key| (key.number, method(key), key.word.clone()));
    // Numbers and bytes have a form in JSON.
    serde_json::to_vec(&Bare { active: ring.active, keys: keys.collect() }).unwrap_or_default()
}

/// The reverse. What is wrong is not said: it could show a key.
#[must_use]
pub fn read(bytes: &[u8]) -> Option<KeyRing> {
    let Bare { active, keys } = serde_json::from_slice(bytes).ok()?;
    let key = |(number, method, word): (u8, u8, Vec<u8>)| {
        Some(AuthKey { number, method: *METHODS.get(usize::from(method))?, word })
    };
    Some(KeyRing { active, keys: keys.into_iter().map(key).collect::<Option<_>>()? })
}

/// The keys of a changed file for a daemon that has run with `before`: peers that still sign with a
/// key that is gone from the file go on being heard, until this daemon starts anew.
#[must_use]
pub fn after(mut ring: KeyRing, before: &KeyRing) -> KeyRing {
    for key in &before.keys {
        if ring.keys.iter().all(|it| it.number != key.number) {
            ring.keys.push(key.clone());
        }
    }
    ring
}

/// Whether peers that have not read the changed file would go on hearing this node.
///
/// # Errors
/// They would not, and how to get there.
pub fn check(ring: &KeyRing, before: &KeyRing) -> Result<(), String> {
    let active = ring.keys.iter().find(|key| key.number == ring.active);
    if active.is_some_and(|key| before.keys.contains(key)) {
        return Ok(());
    }
    Err(format!(
        "key {} would sign, which no peer knows that has the key file as it was; add it under a \
         number of its own, reload every node, then make it active, reload every node, and remove \
         the old one last",
        ring.active
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8, word: &str) -> AuthKey {
        AuthKey { number, method: AuthMethod::SipHash24, word: word.as_bytes().to_vec() }
    }

    fn ring(active: u8, keys: &[AuthKey]) -> KeyRing {
        KeyRing { active, keys: keys.to_vec() }
    }

    #[test]
    fn a_ring_is_read_as_it_was_written_and_nothing_else_is() {
        let ring = ring(3, &[key(3, "very secret"), key(4, "")]);
        assert_eq!(read(&write(&ring)), Some(ring));
        assert_eq!(read(b"{}"), None);
        assert_eq!(read(br#"{"active":1,"keys":[[1,9,[]]]}"#), None);
    }

    #[test]
    fn a_key_that_peers_know_may_sign_and_another_may_not() {
        let (one, two, other) = (key(1, "one"), key(2, "two"), key(1, "other"));
        let before = ring(1, std::slice::from_ref(&one));
        assert_eq!(check(&ring(1, &[one.clone(), two.clone()]), &before), Ok(()));
        assert!(check(&ring(2, &[one.clone(), two.clone()]), &before).is_err());
        assert!(check(&ring(1, &[other]), &before).is_err());
        let both = ring(1, &[one.clone(), two.clone()]);
        assert_eq!(check(&ring(2, std::slice::from_ref(&two)), &both), Ok(()));
    }

    #[test]
    fn a_key_that_is_gone_is_still_accepted_and_one_that_changed_is_the_new_one() {
        let (one, two, other) = (key(1, "one"), key(2, "two"), key(1, "other"));
        let before = ring(1, &[one.clone(), two.clone()]);
        let gone = after(ring(2, std::slice::from_ref(&two)), &before);
        assert_eq!(gone, ring(2, &[two.clone(), one]));
        assert_eq!(after(ring(2, &[other.clone(), two.clone()]), &before), ring(2, &[other, two]));
    }
}
