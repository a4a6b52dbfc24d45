//! `authkeys`: any bytes give keys or findings, and findings do not depend on the key words: what is
//! not known cannot be shown.

#![no_main]

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::LazyLock;

use ha_daemon::config::authkeys::{KEY_NUMBER_MAX, load};
use ha_daemon::config::{ConfigError, KeyRing};
use libfuzzer_sys::fuzz_target;
use nix::sys::memfd::{MFdFlags, memfd_create};

/// A file in memory with the mode of a key file: the reader wants one.
static FILE: LazyLock<File> = LazyLock::new(|| {
    let file = File::from(memfd_create(c"authkeys", MFdFlags::MFD_CLOEXEC).expect("a memfd"));
    file.set_permissions(std::fs::Permissions::from_mode(0o600)).expect("chmod 600");
    file
});

fn read(bytes: &[u8]) -> Result<KeyRing, ConfigError> {
    let mut file = &*FILE;
    file.set_len(0).expect("truncate");
    nix::unistd::lseek(file, 0, nix::unistd::Whence::SeekSet).expect("seek");
    file.write_all(bytes).expect("write");
    load(&PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())))
}

/// The text with other letters and digits from the third word of each line on: NUMBER METHOD KEY.
fn with_other_keys(text: &str) -> String {
    let (mut words, mut in_word) = (0, false);
    let other = |character: char| {
        if character == '\n' {
            words = 0;
        }
        words += u32::from(!in_word && !character.is_whitespace());
        in_word = !character.is_whitespace();
        match character {
            'Z' if words > 2 => 'Y',
            letter if words > 2 && letter.is_ascii_alphanumeric() => 'Z',
            same => same,
        }
    };
    text.chars().map(other).collect()
}

fuzz_target!(|bytes: &[u8]| {
    match read(bytes) {
        Ok(ring) => {
            assert!(ring.keys.iter().any(|key| key.number == ring.active));
            assert!(ring.keys.iter().all(|key| key.number <= KEY_NUMBER_MAX));
            for (index, key) in ring.keys.iter().enumerate() {
                assert!(ring.keys[index + 1..].iter().all(|other| other.number != key.number));
            }
        }
        Err(error) => {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            assert_eq!(read(with_other_keys(text).as_bytes()).err(), Some(error));
        }
    }
});
