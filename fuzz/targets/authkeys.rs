//! `authkeys`: any bytes give keys or findings, and no finding shows a word of the file that could be a
//! key.

#![no_main]

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::LazyLock;

use ha_daemon::config::authkeys::{KEY_NUMBER_MAX, load};
use libfuzzer_sys::fuzz_target;
use nix::sys::memfd::{MFdFlags, memfd_create};

/// A file in memory with the mode of a key file: the reader wants one.
static FILE: LazyLock<File> = LazyLock::new(|| {
    let file = File::from(memfd_create(c"authkeys", MFdFlags::MFD_CLOEXEC).expect("a memfd"));
    file.set_permissions(std::fs::Permissions::from_mode(0o600)).expect("chmod 600");
    file
});

/// Words that messages are made of; shorter ones of a key file may well be in them, too.
const TELLING_BYTES: usize = 12;

fuzz_target!(|bytes: &[u8]| {
    let mut file = &*FILE;
    file.set_len(0).expect("truncate");
    nix::unistd::lseek(file, 0, nix::unistd::Whence::SeekSet).expect("seek");
    file.write_all(bytes).expect("write");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    match load(&path) {
        Ok(ring) => {
            assert!(ring.keys.iter().any(|key| key.number == ring.active));
            assert!(ring.keys.iter().all(|key| key.number <= KEY_NUMBER_MAX));
            for (index, key) in ring.keys.iter().enumerate() {
                assert!(ring.keys[index + 1..].iter().all(|other| other.number != key.number));
            }
        }
        Err(error) => {
            let shown = error.to_string();
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            // The second word of a line names a method, the third is the key.
            for word in text.lines().filter_map(|line| line.split_ascii_whitespace().nth(2)) {
                let telling = word.len() >= TELLING_BYTES && word.is_ascii();
                assert!(!telling || !shown.contains(word), "{word:?} is in {shown:?}");
            }
        }
    }
});
