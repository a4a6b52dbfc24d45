//! The programs on a directory with Heartbeat's files.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use tempfile::TempDir;

fn directory(ha_cf: &str) -> io::Result<TempDir> {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("ha.cf"), ha_cf)?;
    fs::write(dir.path().join("haresources"), "alpha 127.0.0.10\n")?;
    let key_file = dir.path().join("authkeys");
    fs::write(&key_file, "auth 1\n1 siphash a-word-that-is-long-enough\n")?;
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600))?;
    Ok(dir)
}

const CLEAN: &str = "keepalive 1\ndeadtime 10\nbcast lo\nserial /dev/null\nnode alpha beta\n";

fn check(dir: &TempDir) -> io::Result<Output> {
    Command::new(env!("CARGO_BIN_EXE_ha-daemon"))
        .args(["check", "--node", "alpha", "--config"])
        .arg(dir.path())
        .output()
}

fn convert(dir: &TempDir) -> io::Result<Output> {
    Command::new(env!("CARGO_BIN_EXE_hactl")).args(["config", "convert"]).arg(dir.path()).output()
}

#[test]
fn check_exits_0_for_a_clean_directory_1_with_warnings_and_2_with_errors() {
    for (text, code) in [
        (CLEAN.to_owned(), 0),
        (format!("rtprio 5\n{CLEAN}"), 1),
        (format!("stonith_host * baytech 192.0.2.3 me word\n{CLEAN}"), 2),
    ] {
        let output = check(&directory(&text).unwrap()).unwrap();
        let shown = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{shown}");
        assert_eq!(shown.lines().count(), usize::from(code > 0), "{shown}");
    }
}

#[test]
fn convert_prints_toml_and_needs_no_daemon() {
    let output = convert(&directory(CLEAN).unwrap()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\n[links.lo]\nkind = \"bcast\"\n"), "{text}");
    assert!(!text.contains("long-enough"), "keys stay in the key file");
}

#[test]
fn convert_refuses_what_check_refuses() {
    let output = convert(&directory("stonith baytech file\n").unwrap()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("ha.cf:1:1: stonith is refused: "), "{text}");
}
