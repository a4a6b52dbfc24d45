//! The TOML configuration: any text gives a configuration or findings.

#![no_main]

use std::path::Path;

use ha_daemon::config::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(error) = parse(text, Path::new("/nowhere/ha.toml")) {
        assert!(!error.findings.is_empty());
        assert_eq!(error.to_string().lines().count(), error.findings.len());
    }
});
