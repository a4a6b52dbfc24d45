//! The TOML says the same as Heartbeat's files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::config::heartbeat::{Nowhere, Texts};
use crate::config::{KeyRing, authkeys};

const AUTHKEYS: &str = "auth 1\n1 siphash a-word-that-is-long-enough\n";

/// A directory with a key file.
fn place() -> (TempDir, KeyRing) {
    let dir = tempfile::tempdir().unwrap();
    let key_file = dir.path().join("authkeys");
    fs::write(&key_file, AUTHKEYS).unwrap();
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).unwrap();
    let keys = authkeys::load(&key_file).unwrap();
    (dir, keys)
}

fn world() -> Nowhere {
    let prefixes = ["192.168.0.1/24", "192.168.171.1/24", "2001:db8::1/64"];
    let prefixes = prefixes.map(|text| text.parse().unwrap()).to_vec();
    Nowhere { interfaces: [("eth0".to_owned(), prefixes)].into() }
}

fn read(dir: &TempDir, keys: KeyRing, ha_cf: &str, haresources: &str) -> Option<Config> {
    heartbeat::parse(Texts { ha_cf, haresources }, keys, dir.path(), &world()).0
}

#[track_caller]
fn converted(ha_cf: &str, haresources: &str) -> String {
    let (dir, keys) = place();
    let config = read(&dir, keys, ha_cf, haresources).unwrap();
    let toml = to_toml(&config, &dir.path().join("authkeys"));
    assert!(toml.parse::<toml::Table>().is_ok(), "{toml}");
    toml.replace(&dir.path().display().to_string(), "/etc/ha.d")
}

/// Both give the same internal configuration.
#[track_caller]
fn assert_same(ha_cf: &str, haresources: &str) {
    let (dir, keys) = place();
    let config = read(&dir, keys, ha_cf, haresources).unwrap();
    let toml = to_toml(&config, &dir.path().join("authkeys"));
    let again = load::parse(&toml, &dir.path().join("ha.toml"));
    assert_eq!(again.as_ref(), Ok(&config), "{toml}");
}

const FILES: &[(&str, &str)] = &[
    (
        "debugfile /var/log/ha-debug\nlogfile /var/log/ha-log\nlogfacility local0\nkeepalive 2\n\
         deadtime 30\nwarntime 10\ninitdead 120\nudpport 694\nbcast eth1\nauto_failback on\n\
         node master\nnode slaver\n",
        "master 192.168.0.254 httpd\n",
    ),
    (
        "serial /dev/ttyS0\nbaud 19200\nauto_failback on\nautojoin none\nwarntime 5\ndeadtime 15\n\
         initdead 60\nkeepalive 1\nnode n1.localdomain\nnode n2.localdomain\n",
        "n1.localdomain 192.168.0.100 httpd\n",
    ),
    (
        "keepalive 2\ndeadtime 30\nucast eth1 192.168.17.51\nnode masternginx\nnode slavernginx\n\
         ping 192.168.17.1\nping_group far 192.168.17.2 2001:db8::fe\nrealtime off\ndebug 1\n\
         respawn hacluster /usr/lib64/heartbeat/ipfail\nrespawn root /bin/sh -c true\n",
        "masternginx 192.168.171.100/24/eth0:0/192.168.171.255 IPsrcaddr::192.168.171.100 nginx\n\
         slavernginx IPv6addr::2001:db8::10 Filesystem::/dev/sda1::/data::ext2\n",
    ),
];

#[test]
fn the_third_scenario_reads_as_an_operator_would_write_it() {
    let (ha_cf, haresources) = FILES[2];
    assert_eq!(converted(ha_cf, haresources), EXPECTED);
}

const EXPECTED: &str = r#"[cluster]
name = "linux-ha"
keepalive = "2s"
warntime = "15s"
deadtime = "30s"
initdead = "30s"
daemon_deadtime = "30s"
port = 694
on_doubt = "take"
address_lifetime = "2s"
script_directory = "/etc/ha.d/resource.d"
auth = { file = "/etc/ha.d/authkeys" }

[logging]
debug = true

[realtime]
enabled = false

[connectivity]
interval = "2s"
deadping = "30s"
moves_groups = true
damping = "4s"

[connectivity.targets]
"192.168.17.1" = ["192.168.17.1"]
far = ["192.168.17.2", "2001:db8::fe"]

[links.eth1]
kind = "ucast"
identity = "arrival"
interface = "eth1"
remotes = ["192.168.17.51"]
port = 694

[nodes.masternginx]

[nodes.slavernginx]

[groups."masternginx-192.168.171.100"]
nodes = ["masternginx", "slavernginx"]
failback = "auto"
resources = [
  { kind = "address", address = "192.168.171.100/24", interface = "eth0", label = "eth0:0", broadcast = "192.168.171.255" },
  { kind = "source-address", address = "192.168.171.100" },
  { kind = "script", name = "nginx", monitor = "off" },
]

[groups.slavernginx-2001-db8--10]
nodes = ["slavernginx", "masternginx"]
failback = "auto"
resources = [
  { kind = "address", address = "2001:db8::10/64", interface = "eth0" },
  { kind = "script", name = "Filesystem", arguments = ["/dev/sda1", "/data", "ext2"], monitor = "off" },
]

[[clients]]
user = "root"
program = "/bin/sh"
arguments = ["-c", "true"]
"#;

#[test]
fn media_of_every_kind_have_their_keys() {
    let ha_cf = "keepalive 1\ndeadtime 10\nbaud 9600\nserial /dev/ttyS0\nmcast eth0 239.192.0.42 700 1 1\nbcast eth1\nnode a\nnode b\n";
    let toml = converted(ha_cf, "");
    for section in [
        "[links.ttyS0]\nkind = \"serial\"\nidentity = \"arrival\"\ndevice = \"/dev/ttyS0\"\nbaud = 9600\n\n",
        "[links.eth0]\nkind = \"mcast\"\nidentity = \"arrival\"\ninterface = \"eth0\"\ngroup = \
         \"239.192.0.42\"\nttl = 1\nloopback = true\nport = 700\n\n",
        "[links.eth1]\nkind = \"bcast\"\nidentity = \"arrival\"\ninterface = \"eth1\"\nport = 694\n\n",
    ] {
        assert!(toml.contains(section), "{section}\nin\n{toml}");
    }
}

#[test]
fn a_directory_is_converted_with_what_was_found_in_it() {
    let (dir, _) = place();
    fs::write(dir.path().join("ha.cf"), "rtprio 5\nbcast lo\nserial /dev/null\nnode a\nnode b\n")
        .unwrap();
    fs::write(dir.path().join("haresources"), "a 127.0.0.10\n").unwrap();
    let toml = convert(dir.path()).unwrap();
    assert!(toml.contains("ha.cf:1:1: warning: rtprio has no effect: "), "{toml}");
    assert!(toml.contains("mode 600"), "{toml}");
    assert!(toml.parse::<toml::Table>().is_ok(), "{toml}");
    let error = convert(&dir.path().join("authkeys")).unwrap_err().to_string();
    assert!(error.contains("TOML needs no conversion"), "{error}");
    fs::write(dir.path().join("ha.cf"), "nodde a\n").unwrap();
    let error = convert(&dir.path().join("ha.cf")).unwrap_err().to_string();
    assert!(error.contains("did you mean \"node\"?"), "{error}");
}

#[test]
fn the_scenarios_are_the_same_in_both_formats() {
    for (ha_cf, haresources) in FILES {
        assert_same(ha_cf, haresources);
    }
}

/// Lines of an `ha.cf` and of a `haresources` that are accepted.
fn files() -> impl Strategy<Value = (String, String)> {
    let times = (1_u32..2_000, 3_u32..20, 2_u32..40);
    let options = prop::sample::subsequence(
        vec![
            "auto_failback off",
            "realtime off",
            "debug 1",
            "logfile /var/log/ha-log",
            "debugfile /var/log/ha-debug",
            "logfacility local3",
            "cluster shop",
            "udpport 695",
            "baud 9600",
            "ping 192.168.0.250 2001:db8::fd",
            "ping_group far 192.168.0.251 2001:db8::fe",
            "deadping 3600",
            "respawn hacluster /usr/lib/heartbeat/ipfail",
            "respawn root /bin/sh -c true",
        ],
        0..=14,
    );
    let media = prop::sample::subsequence(
        vec![
            "bcast eth0 eth1",
            "ucast eth0 192.168.0.2",
            "ucast eth0 192.168.0.3",
            "ucast6 eth2 2001:db8::2",
            "mcast eth1 239.192.0.42 694 1 0",
            "ucast6 eth2 2001:db8::3",
            "mcast6 eth0 ff12::1:2:3:4 700 2 1",
            "serial /dev/ttyS0 /dev/ttyS1",
        ],
        1..=7,
    );
    let resources = prop::sample::subsequence(
        vec![
            "192.168.0.10",
            "192.168.0.11/25",
            "192.168.0.12/24/eth7:web/192.168.0.255",
            "IPaddr2::192.168.0.13/24/192.168.0.127",
            "IPv6addr::2001:db8::10",
            "192.168.0.14 IPsrcaddr::192.168.0.14",
            "httpd",
            "Filesystem::/dev/sda1::/data::ext2",
        ],
        0..=8,
    );
    let nodes = prop::sample::subsequence(vec!["a", "b.example", "c-3"], 2..=3).prop_shuffle();
    (times, options, media, resources, nodes).prop_map(
        |((keepalive, dead, init), options, media, resources, nodes)| {
            // 9600 baud carry no heartbeats to two peers that come more often than every 400 ms.
            let serial = media.iter().any(|line| line.starts_with("serial"));
            let keepalive = if serial { keepalive + 400 } else { keepalive };
            let deadtime = keepalive * dead;
            let times = format!(
                "keepalive {keepalive}ms\ndeadtime {deadtime}ms\ninitdead {}ms\n",
                deadtime * init
            );
            let ha_cf = format!(
                "{times}{}\n{}\nnode {}\n",
                options.join("\n"),
                media.join("\n"),
                nodes.join(" ")
            );
            let (one, other) = resources.split_at(resources.len() / 2);
            let group = |node: &str, list: &[&str]| format!("{node} {}\n", list.join(" "));
            (ha_cf, group(nodes[0], one) + &group(nodes[1], other))
        },
    )
}

proptest! {
    #[test]
    fn what_is_accepted_is_converted_to_valid_toml((ha_cf, haresources) in files()) {
        converted(&ha_cf, &haresources);
    }

    #[test]
    fn both_formats_give_the_same_configuration((ha_cf, haresources) in files()) {
        assert_same(&ha_cf, &haresources);
    }
}
