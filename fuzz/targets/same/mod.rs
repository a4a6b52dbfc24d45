//! Heartbeat's files and the TOML that is made of them say the same.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use ha_daemon::config::convert::to_toml;
use ha_daemon::config::{Config, KeyRing, authkeys, parse};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// A key file in memory, and its keys.
static KEYS: LazyLock<(File, PathBuf, KeyRing)> = LazyLock::new(|| {
    let mut file = File::from(memfd_create(c"authkeys", MFdFlags::MFD_CLOEXEC).expect("a memfd"));
    file.set_permissions(std::fs::Permissions::from_mode(0o600)).expect("chmod 600");
    file.write_all(b"auth 1\n1 siphash word-of-the-fuzz-targets\n").expect("write");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let keys = authkeys::load(&path).expect("the key file is right");
    (file, path, keys)
});

pub fn keys() -> KeyRing {
    KEYS.2.clone()
}

/// `config` was read with [`keys`].
pub fn same_as_toml(config: &Config) {
    let text = to_toml(config, &KEYS.1);
    assert_eq!(parse(&text, Path::new("/etc/ha.d/ha.toml")).as_ref(), Ok(config), "{text}");
}
