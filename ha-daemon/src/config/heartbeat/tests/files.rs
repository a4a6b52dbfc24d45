//! The directory as it lies on a disk, and `check` on it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use super::*;
use crate::config::check::{check, check_on_node, own_node_at};
use crate::config::{load, load_with_warnings, parse as parse_toml};

const AUTHKEYS: &str = "auth 1\n1 siphash a-word-that-is-long-enough\n";

fn etc_ha_d(ha_cf: &str, haresources: &str, authkeys: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("ha.cf"), ha_cf).unwrap();
    fs::write(dir.path().join("haresources"), haresources).unwrap();
    let key_file = dir.path().join("authkeys");
    fs::write(&key_file, authkeys).unwrap();
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).unwrap();
    dir
}

/// On the loopback interface, which every machine has.
const LOCAL: &str = "bcast lo\nserial /dev/null\nnode alpha\nnode beta\n";

fn shown(dir: &TempDir, findings: &[Finding]) -> Vec<String> {
    let prefix = format!("{}/", dir.path().display());
    findings.iter().map(|finding| finding.to_string().replace(&prefix, "")).collect()
}

#[test]
fn a_directory_and_the_ha_cf_in_it_are_the_same() {
    let dir = etc_ha_d(LOCAL, "alpha 127.0.0.10\n", AUTHKEYS);
    let config = load(dir.path()).unwrap();
    assert_eq!(load(&dir.path().join("ha.cf")).unwrap(), config);
    let (again, warnings) = load_with_warnings(dir.path()).unwrap();
    assert_eq!((again, warnings), (config.clone(), vec![]));
    assert_eq!(config.script_directory, dir.path().join("resource.d"));
    assert_eq!(config.groups[0].resources[0].label(), "127.0.0.10/8");
    assert!(parse_toml(LOCAL, &dir.path().join("ha.toml")).is_err(), "it is no TOML");
}

#[test]
fn findings_of_all_three_files_come_together() {
    let dir = etc_ha_d("kepalive 1\n", "gamma httpd\n", "auth 2\n");
    fs::set_permissions(dir.path().join("authkeys"), fs::Permissions::from_mode(0o644)).unwrap();
    let findings = shown(&dir, &check(dir.path()));
    for start in [
        "ha.cf:1:1: error: unknown directive \"kepalive\"",
        "haresources:1:1: error: unknown node \"gamma\"",
        "authkeys: error: the key file authkeys is open to group or others (mode 644); chmod 600",
    ] {
        assert!(
            findings.iter().any(|finding| finding.starts_with(start)),
            "{start}: {findings:#?}"
        );
    }
}

#[test]
fn a_serial_device_may_appear_later_but_must_not_be_something_else() {
    let ha_cf = LOCAL.replace("/dev/null", "/dev/ha-no-such-tty /etc/passwd");
    let dir = etc_ha_d(&ha_cf, "", AUTHKEYS);
    assert_eq!(
        shown(&dir, &check(dir.path())),
        [
            "ha.cf:2:8: warning: the device \"/dev/ha-no-such-tty\" is not there: No such file or \
             directory (os error 2); correct it, unless the device appears later",
            "ha.cf:2:28: error: \"/etc/passwd\" is no character device; name a tty, such as /dev/ttyS0",
        ]
    );
}

#[test]
fn a_start_is_refused_too_when_the_line_cannot_carry_the_keepalive() {
    let ha_cf = format!("keepalive 50ms\ndeadtime 1\n{LOCAL}");
    let dir = etc_ha_d(&ha_cf, "", AUTHKEYS);
    let error = load(dir.path()).unwrap_err().to_string();
    for part in ["ha.cf:4:8: ", "96 bytes x 10 bits / 19200 baud = 50.0 ms"] {
        assert!(error.contains(part), "{error}");
    }
    // Whatever else is wrong, all of it is found at once.
    fs::remove_file(dir.path().join("authkeys")).unwrap();
    assert_eq!(check(dir.path()).len(), 2);
}

#[test]
fn a_missing_file_is_an_error_that_names_it() {
    let dir = etc_ha_d(LOCAL, "", AUTHKEYS);
    fs::remove_file(dir.path().join("haresources")).unwrap();
    fs::remove_file(dir.path().join("authkeys")).unwrap();
    let findings = shown(&dir, &check(dir.path()));
    assert_eq!(findings.len(), 2, "{findings:#?}");
    assert!(findings[0].starts_with("haresources: error: cannot read the configuration: "));
    assert!(findings[1].starts_with("authkeys: error: cannot read the key file "));
}

#[test]
fn text_that_is_not_utf8_is_refused_at_its_byte() {
    let dir = etc_ha_d(LOCAL, "", AUTHKEYS);
    fs::write(dir.path().join("ha.cf"), b"node alpha\nnode \xff\n").unwrap();
    assert_eq!(
        shown(&dir, &check(dir.path())),
        ["ha.cf:2:6: error: this byte is not UTF-8; save the file as UTF-8"]
    );
}

#[test]
fn this_node_is_the_one_of_nodeinfo_unless_it_is_named() {
    let dir = etc_ha_d(LOCAL, "", AUTHKEYS);
    let config = load(dir.path()).unwrap();
    fs::write(dir.path().join("nodeinfo"), "Beta\n").unwrap();
    let own = |node| own_node_at(dir.path(), &config, node).map(|own| own.0);
    assert_eq!(own(None), Ok(1));
    assert_eq!(own(Some("ALPHA")), Ok(0));
    fs::write(dir.path().join("nodeinfo"), "gamma\n").unwrap();
    let finding = &check_on_node(dir.path(), None)[0];
    assert_eq!(
        shown(&dir, std::slice::from_ref(finding)),
        [
            "ha.cf:3:6: error: this node is not in the configuration: nodeinfo says \"gamma\", the nodes \
          are alpha, beta; say which one this is with --node, or add it"
        ]
    );
}

#[test]
fn check_compares_media_addresses_and_scripts_with_this_machine() {
    let ha_cf = LOCAL.replace("bcast lo", "bcast ha-none0\nucast6 ha-none1 2001:db8::2");
    let dir = etc_ha_d(&ha_cf, "alpha 192.0.2.10/24/lo ha-no-such-script\n", AUTHKEYS);
    let findings = shown(&dir, &check_on_node(dir.path(), Some("alpha")));
    for start in [
        "ha.cf:1:7: warning: this node has no interface ha-none0; name one of: ",
        "ha.cf:2:8: warning: this node has no interface ha-none1; name one of: ",
        "haresources:1:7: warning: 192.0.2.10 is outside of every prefix of lo on this node (127",
        "haresources:1:24: warning: the script \"ha-no-such-script\" is neither in resource.d nor in \
         /etc/init.d, and there is no unit ha-no-such-script.service; ",
    ] {
        assert!(
            findings
                .iter()
                .any(|it| it.replace(&format!("{}/", dir.path().display()), "").starts_with(start)),
            "{start}: {findings:#?}"
        );
    }
    assert_eq!(findings.len(), 4, "{findings:#?}");
}

/// One file after the other, each from its beginning, whoever made the findings.
#[test]
fn findings_are_in_the_order_of_the_files() {
    let ha_cf = LOCAL.replace("bcast lo", "bcast ha-none1\nbcast ha-none0");
    let dir = etc_ha_d(&ha_cf, "alpha ha-no-such-script\n", "auth 1\n1 siphash short\n");
    let findings = shown(&dir, &check_on_node(dir.path(), Some("alpha")));
    let places: Vec<&str> = findings.iter().map(|it| it.split(": ").next().unwrap()).collect();
    assert_eq!(
        places,
        ["ha.cf:1:7", "ha.cf:2:7", "haresources:1:7", "authkeys:2:11"],
        "{findings:#?}"
    );
}

#[test]
fn a_script_is_looked_up_as_the_daemon_does() {
    let scripts = "OCF::ha-test-agent::a=b ha-no-such.service\n";
    let dir = etc_ha_d(LOCAL, &format!("alpha {scripts}"), AUTHKEYS);
    assert_eq!(
        shown(&dir, &check_on_node(dir.path(), Some("alpha"))),
        [
            "haresources:1:7: warning: there is neither a script OCF in resource.d nor an agent \
             /usr/lib/ocf/resource.d/heartbeat/ha-test-agent; install resource-agents",
            "haresources:1:31: warning: the script \"ha-no-such.service\" is neither in resource.d nor in \
             /etc/init.d, and there is no unit ha-no-such.service; install it on this node, or correct \
             the name"
        ]
    );
}

#[test]
fn a_program_that_cannot_be_started_is_refused() {
    let ha_cf = format!("respawn nobody-has-this-name /ha-no-such-program\n{LOCAL}");
    let dir = etc_ha_d(&ha_cf, "", AUTHKEYS);
    assert_eq!(
        shown(&dir, &check(dir.path())),
        [
            "ha.cf:1:9: error: there is no user \"nobody-has-this-name\"; create it, or name another one",
            "ha.cf:1:30: error: the program \"/ha-no-such-program\" cannot be run: No such file or \
             directory (os error 2); install it, or correct the path"
        ]
    );
}

#[test]
fn a_machine_without_ipv6_on_the_interface_is_warned_of() {
    let dir =
        etc_ha_d(&LOCAL.replace("bcast lo", "bcast lo\nmcast6 lo ff12::1 694 1 0"), "", AUTHKEYS);
    let config = load(dir.path()).unwrap();
    let reading = read_dir(&dir);
    let world = interfaces(&[("lo", &["127.0.0.1/8"])]);
    let findings = crate::config::check::findings_on(
        &config,
        config.node_named(&"alpha".parse().unwrap()).unwrap(),
        Some((dir.path(), &reading.places)),
        world.interfaces,
    );
    assert_eq!(
        shown(&dir, &findings),
        ["ha.cf:2:8: warning: lo has no IPv6 address on this node; give it one, or name another \
          interface for heartbeats"]
    );
}

fn read_dir(dir: &TempDir) -> Reading {
    super::super::read(dir.path(), &machine())
}

#[test]
fn the_key_files_of_the_scenarios_are_read() {
    for authkeys in [
        "auth 1\n1 crc\n",
        "auth 2\n2 sha1 HI!\n",
        "auth 3\n3 md5 Hello!\n",
        "auth 1\n1 sha256 x\n",
    ] {
        let dir = etc_ha_d(LOCAL, "", authkeys);
        assert!(load(dir.path()).is_ok(), "{authkeys}");
    }
}
