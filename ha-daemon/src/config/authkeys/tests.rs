use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;

use super::*;

const WORD: &str = "a-word-that-is-long-enough";

/// What is found in a key file with that text and mode, without its directory.
fn found_with_mode(text: &str, mode: u32) -> (Option<KeyRing>, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("authkeys");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    let (keys, findings) = read(&path);
    let prefix = format!("{}/", dir.path().display());
    let lines = findings.iter().map(|finding| finding.to_string().replace(&prefix, "")).collect();
    (keys, lines)
}

#[track_caller]
fn refused(text: &str, expected: &str) {
    let (keys, found) = found_with_mode(text, 0o600);
    assert_eq!((keys, found.as_slice()), (None, [expected.to_owned()].as_slice()));
}

#[test]
fn one_key_signs_and_all_are_accepted() {
    let text =
        format!("# keys\n\n auth  2 # the new one\n\t2 siphash {WORD}\n1 siphash x{WORD}#1\n");
    let (keys, found) = found_with_mode(&text, 0o600);
    let keys = keys.unwrap();
    assert_eq!(found, [""; 0]);
    assert_eq!(keys.active, 2);
    let expected = [(1, format!("x{WORD}#1").into_bytes()), (2, WORD.as_bytes().to_vec())];
    let read: Vec<_> = keys.keys.iter().map(|key| (key.number, key.word.clone())).collect();
    assert_eq!(read, expected);
}

#[test]
fn a_secret_is_the_first_half_of_the_sha256_of_its_word() {
    // FIPS 180-2, appendix B.1: SHA-256 of "abc".
    let expected = 0xba78_16bf_8f01_cfea_4141_40de_5dae_2223_u128.to_be_bytes();
    let key = AuthKey { number: 1, method: AuthMethod::SipHash24, word: b"abc".to_vec() };
    assert_eq!(key.to_key(), ha_common::auth::Key::siphash24(&expected));
}

#[test]
fn a_file_that_others_may_read_or_write_is_refused() {
    let text = format!("auth 1\n1 siphash {WORD}\n");
    for mode in [0o640, 0o620, 0o604, 0o602, 0o666] {
        let expected = format!(
            "error: the key file authkeys is open to group or others (mode {mode:o}); \
             chmod 600 authkeys"
        );
        assert_eq!(found_with_mode(&text, mode), (None, vec![expected]));
    }
    assert!(found_with_mode(&text, 0o400).0.is_some());
}

#[test]
fn a_file_of_another_user_is_refused_and_of_root_is_not() {
    assert!(is_own(0, 1000));
    assert!(is_own(1000, 1000));
    assert!(!is_own(1001, 1000));
    assert!(!is_own(1001, 0));
}

#[test]
fn a_missing_file_is_refused_with_the_way_to_make_one() {
    let error = load(Path::new("/nowhere/authkeys")).unwrap_err().to_string();
    let expected = "/nowhere/authkeys: cannot read the key file /nowhere/authkeys: No such file or \
                    directory (os error 2); create it and copy it to every node: (umask 077; \
                    printf 'auth 1\\n1 siphash %s\\n' \"$(head -c 24 /dev/urandom | base64)\" > \
                    /nowhere/authkeys)";
    assert_eq!(error, expected);
}

#[test]
fn a_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = load(dir.path()).unwrap_err();
    assert!(error.findings[0].message.ends_with("it is not a regular file"), "{error}");
}

#[test]
fn every_method_is_read_and_its_key_is_that_of_its_word() {
    use ha_common::auth::Key;
    let long = "a-word-of-more-than-one-block-of-64-bytes-which-an-hmac-hashes-before-it-uses-it";
    let text = format!("1 md5 {WORD}\n2 sha1 {WORD}\n3 sha256 {long}\n4 siphash {WORD}\nauth 3\n");
    let (keys, found) = found_with_mode(&text, 0o600);
    let keys = keys.unwrap();
    assert_eq!((keys.active, found), (3, Vec::new()));
    let methods: Vec<_> = keys.keys.iter().map(|key| key.method).collect();
    use AuthMethod::{Md5, Sha1, Sha256, SipHash24};
    assert_eq!(methods, [Md5, Sha1, Sha256, SipHash24]);
    let made: Vec<Key> = keys.keys.iter().map(AuthKey::to_key).collect();
    let word = WORD.as_bytes();
    assert_eq!(made[..3], [Key::md5(word), Key::sha1(word), Key::sha256(long.as_bytes())]);
}

const CRC_WARNING: &str = "authkeys:2:3: warning: key 1 is a checksum (crc): it keeps noise out, not \
                           an attacker; whoever reaches a heartbeat network can speak as any node; \
                           take siphash with a random word, unless nobody else can reach those \
                           networks";

#[test]
fn a_checksum_takes_no_word_and_is_always_warned_about() {
    let (keys, found) = found_with_mode("auth 1\n1 crc\n", 0o600);
    let keys = keys.unwrap();
    assert_eq!((keys.keys[0].method, keys.keys[0].word.len()), (AuthMethod::Crc, 0));
    assert_eq!(keys.keys[0].to_key(), ha_common::auth::Key::crc());
    assert_eq!(found, [CRC_WARNING]);
    let (keys, found) = found_with_mode("auth 1\n1 crc S3cretWord # x\n", 0o600);
    assert_eq!(keys.unwrap().keys[0].word.len(), 0);
    let expected = "authkeys:2:7: warning: key 1 is a checksum (crc), which takes no key word; \
                    remove the word; it is not used";
    assert_eq!(found, [CRC_WARNING, expected]);
}

#[test]
fn the_examples_of_heartbeat_are_taken_with_warnings_only() {
    let text = "auth 2\n1 crc\n2 sha1 HI!\n3 md5 Hello!\n";
    let (keys, found) = found_with_mode(text, 0o600);
    assert_eq!(keys.unwrap().keys.len(), 3);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[1].contains("key 2 is short enough to be guessed"), "{found:?}");
}

const KEY_REMEDY: &str = "write N siphash KEY, with N from 0 to 15 and KEY one word (or md5, sha1, \
                          sha256 instead of siphash), or N crc";
const AUTH_REMEDY: &str = "write auth N, with the number of a key from 0 to 15";

#[test]
fn a_line_that_is_neither_auth_nor_a_key_is_refused() {
    let message = "the line starts with neither \"auth\" nor the number of a key";
    for first in ["16", "-1", "+1", "0x1", WORD] {
        let expected = format!("authkeys:2:2: error: {message}; {KEY_REMEDY}");
        refused(&format!("auth 1\n {first} siphash {WORD}\n1 siphash {WORD}\n"), &expected);
    }
}

#[test]
fn keys_without_method_or_word_or_with_two_words_are_refused() {
    let line = |line: &str| format!("auth 1\n{line}\n");
    let expected = |column, message| format!("authkeys:2:{column}: error: {message}; {KEY_REMEDY}");
    refused(&line("1"), &expected(1, "key 1 has no method"));
    refused(&line("1 siphash"), &expected(3, "key 1 has no key word"));
    refused(&line("1 siphash # later"), &expected(3, "key 1 has no key word"));
    refused(&line(&format!("1 siphash {WORD} b")), &expected(38, "key 1 has more than one word"));
    refused(&line(&format!("1 {WORD} siphash")), &expected(3, "key 1 has an unknown method"));
}

#[test]
fn an_auth_line_without_a_number_is_refused() {
    let key = format!("1 siphash {WORD}\n");
    let takes_one = format!("authkeys:1:1: error: \"auth\" takes one number; {AUTH_REMEDY}");
    refused(&format!("auth\n{key}"), &takes_one);
    refused(&format!("auth 1 2\n{key}"), &takes_one);
    let no_number = format!("authkeys:1:6: error: this is not the number of a key; {AUTH_REMEDY}");
    refused(&format!("auth {WORD}\n{key}"), &no_number);
}

#[test]
fn duplicates_are_refused() {
    let twice = format!("auth 1\n1 siphash {WORD}\n1 siphash {WORD}x\n");
    let expected = "authkeys:3:1: error: key 1 is here twice; give each key a number of its own";
    refused(&twice, expected);
    let twice = format!("auth 1\nauth 2\n1 siphash {WORD}\n2 siphash {WORD}x\n");
    let expected = "authkeys:2:1: error: \"auth\" is here twice; keep one of the lines";
    refused(&twice, expected);
}

#[test]
fn a_file_that_does_not_say_which_key_signs_is_refused() {
    let nothing = "authkeys:1:1: error: no \"auth N\" says which key signs; add it, such as auth 1";
    refused(&format!("1 siphash {WORD}\n"), nothing);
    refused("", nothing);
    let missing = "authkeys:1:6: error: the key 2 that is to sign is missing; add its line, or name \
                   another key";
    refused(&format!("auth 2\n1 siphash {WORD}\n"), missing);
}

#[test]
fn a_word_short_enough_to_be_guessed_is_warned_about() {
    let (keys, found) = found_with_mode("auth 1\n1 siphash short\n", 0o600);
    assert!(keys.is_some());
    let expected = "authkeys:2:11: warning: key 1 is short enough to be guessed; take a random \
                    word, such as head -c 24 /dev/urandom | base64 prints";
    assert_eq!(found, [expected]);
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("authkeys");
    fs::write(&path, b"auth 1\n1 siphash \xff\xfe\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let (keys, findings) = read(&path);
    assert_eq!(keys, None);
    assert!(findings[0].message.ends_with("is not UTF-8"));
}

proptest! {
    #[test]
    fn no_key_word_is_ever_shown_however_the_line_is_garbled(
        order in Just(vec!["auth", "1", "siphash", "sha1", "S3cretWord", "#", "\n", "\n", "16"])
            .prop_shuffle(),
        taken in 0_usize..9,
    ) {
        let text = order[..taken].join(" ");
        let (keys, findings) = parse(&text, Path::new("authkeys"));
        let shown = format!("{keys:?} {findings:?}");
        prop_assert!(!shown.contains("S3cretWord"), "{}", shown);
    }

    #[test]
    fn any_key_file_never_panics(text in any::<String>()) {
        let (_, findings) = parse(&text, Path::new("authkeys"));
        prop_assert!(findings.iter().all(|finding| !finding.remedy.is_empty()));
    }
}

#[test]
fn findings_are_in_the_order_of_the_file() {
    let (keys, found) = found_with_mode("auth 2\n1 siphash short\n", 0o600);
    assert_eq!(keys, None);
    let places: Vec<&str> = found.iter().map(|it| it.split(": ").next().unwrap()).collect();
    assert_eq!(places, ["authkeys:1:6", "authkeys:2:11"], "{found:#?}");
}
