//! The literal files of the scenarios H1, H2 and H3.

use std::time::Duration;

use super::*;
use crate::config::{
    Endpoint, Failback, LinkIdentity, LinkIndex, LinkKind, NodeIndex, OnDoubt, Resource,
};

const H1: &str = "\
debugfile /var/log/ha-debug
logfile   /var/log/ha-log
logfacility local0
keepalive 2
deadtime 30
warntime 10
initdead 120
udpport 694
bcast eth1
auto_failback on
node master
node slaver
";
const H2: &str = "\
serial /dev/ttyS0
baud 19200
auto_failback on
autojoin none
warntime 5
deadtime 15
initdead 60
keepalive 1
node n1.localdomain
node n2.localdomain
";
const H3: &str = "\
logfacility local0
keepalive 2
deadtime 30
warntime 10
initdead 120
udpport 694
ucast eth1 192.168.17.51
auto_failback on
node masternginx
node slavernginx
ping 192.168.17.1
respawn hacluster /usr/lib64/heartbeat/ipfail
";

const SINGLE: &str = "is the only path between the nodes: no arbiter can tell its failure from a dead \
                      peer; add a medium on another interface, a serial line, or a ping node";

fn service_network() -> Nowhere {
    interfaces(&[
        ("eth0", &["192.168.0.1/24", "192.168.2.1/25"]),
        ("eth1", &["192.168.17.50/24", "192.168.171.50/24"]),
    ])
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn h1_is_one_broadcast_link_and_one_group() {
    let world = service_network();
    let (config, findings) = read_on(&world, H1, "master 192.168.0.254 httpd\n");
    assert_eq!(findings, [format!("ha.cf:9:7: warning: eth1 {SINGLE}")]);
    let config = config.unwrap();
    let cluster = &config.cluster;
    assert_eq!(cluster.name, "linux-ha");
    assert_eq!((cluster.keepalive, cluster.deadtime), (seconds(2), seconds(30)));
    assert_eq!((cluster.warntime, cluster.initdead), (seconds(10), seconds(120)));
    assert_eq!((cluster.port, cluster.on_doubt), (694, OnDoubt::Take));
    assert_eq!(config.logging.file.as_deref(), Some(Path::new("/var/log/ha-log")));
    assert_eq!(config.logging.debug_file.as_deref(), Some(Path::new("/var/log/ha-debug")));
    assert_eq!(config.logging.syslog_facility.as_deref(), Some("local0"));
    assert!(!config.logging.debug && config.realtime.enabled);
    let [link] = config.links.as_slice() else { panic!("{:?}", config.links) };
    assert_eq!((link.name.as_str(), &link.kind, link.port), ("eth1", &LinkKind::Bcast, 694));
    assert_eq!(link.identity, LinkIdentity::Arrival);
    for node in &config.nodes {
        let endpoint = &node.endpoints[&LinkIndex(0)];
        assert_eq!(endpoint.interface().unwrap().as_str(), "eth1");
        assert_eq!(endpoint.address(), None);
    }
    let [group] = config.groups.as_slice() else { panic!("{:?}", config.groups) };
    assert_eq!(group.name.as_str(), "master-192.168.0.254");
    assert_eq!(
        (&*group.nodes, group.failback),
        (&[NodeIndex(0), NodeIndex(1)][..], Failback::Auto)
    );
    let address = Resource::Address {
        address: "192.168.0.254/24".parse().unwrap(),
        interface: "eth0".parse().unwrap(),
        label: None,
        broadcast: None,
    };
    let script = Resource::Script { name: "httpd".to_owned(), arguments: Vec::new() };
    assert_eq!(group.resources, [address, script]);
    assert!(config.connectivity.targets.is_empty());
    assert_eq!(config.script_directory, Path::new("resource.d"));
}

#[test]
fn h1_has_other_media_and_no_failback() {
    let text = H1.replace(
        "bcast eth1",
        "mcast eth0 225.0.0.1 694 1 0\nucast eth0 192.168.1.2\nbaud 19200\nserial /dev/ttyS0",
    );
    let text = text.replace("auto_failback on", "auto_failback off");
    let (config, findings) = read_on(&service_network(), &text, "master 192.168.0.254 httpd\n");
    assert_eq!(findings, [""; 0]);
    let config = config.unwrap();
    assert_eq!(config.groups[0].failback, Failback::Manual);
    let links: Vec<_> = config.links.iter().map(|link| (link.name.as_str(), &link.kind)).collect();
    let group = "225.0.0.1".parse().unwrap();
    let remotes = vec!["192.168.1.2".parse().unwrap()];
    assert_eq!(
        links,
        [
            ("eth0", &LinkKind::Mcast { group, ttl: 1, loopback: false }),
            ("eth0-ucast", &LinkKind::Ucast { remotes }),
            ("ttyS0", &LinkKind::Serial { baud: 19_200 }),
        ]
    );
}

#[test]
fn h2_is_one_serial_line() {
    let world = service_network();
    let resources = "n1.localdomain 192.168.2.100 httpd\n";
    let (config, findings) = read_on(&world, H2, resources);
    assert_eq!(findings, [format!("ha.cf:1:8: warning: ttyS0 {SINGLE}")]);
    let config = config.unwrap();
    let cluster = &config.cluster;
    assert_eq!((cluster.keepalive, cluster.deadtime), (seconds(1), seconds(15)));
    assert_eq!((cluster.warntime, cluster.initdead), (seconds(5), seconds(60)));
    assert_eq!(config.links[0].kind, LinkKind::Serial { baud: 19_200 });
    let device = Endpoint::Serial { device: "/dev/ttyS0".into() };
    assert!(config.nodes.iter().all(|node| node.endpoints[&LinkIndex(0)] == device));
    let names: Vec<_> = config.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["n1.localdomain", "n2.localdomain"]);
    assert_eq!(config.groups[0].name.as_str(), "n1.localdomain-192.168.2.100");
    assert_eq!(config.groups[0].resources[0].label(), "192.168.2.100/25");
}

#[test]
fn h3_pings_and_moves_groups_by_what_is_reached() {
    let resources = "masternginx 192.168.171.100/24/eth0:0 nginx\n";
    let (config, findings) = read_on(&service_network(), H3, resources);
    assert_eq!(findings, [""; 0], "a ping node is an arbiter");
    let config = config.unwrap();
    let remotes = vec!["192.168.17.51".parse().unwrap()];
    assert_eq!(config.links[0].kind, LinkKind::Ucast { remotes });
    let connectivity = &config.connectivity;
    assert_eq!(connectivity.targets.len(), 1);
    assert_eq!(
        connectivity.targets[0].members,
        ["192.168.17.1".parse::<std::net::IpAddr>().unwrap()]
    );
    assert!(connectivity.moves_groups, "by ipfail");
    assert_eq!((connectivity.interval, connectivity.deadping), (seconds(2), seconds(30)));
    assert_eq!(connectivity.damping, seconds(4));
    assert_eq!(config.clients, [], "ipfail is part of the daemon");
    let Resource::Address { interface, label, .. } = &config.groups[0].resources[0] else {
        panic!()
    };
    assert_eq!((interface.as_str(), label.as_deref()), ("eth0", Some("eth0:0")));
}

#[test]
fn the_ready_directory_is_clean() {
    let files = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/ha.d"));
    let text = |name: &str| std::fs::read_to_string(files.join(name)).unwrap();
    let world = interfaces(&[("eth0", &["198.51.100.1/24"]), ("eth1", &["192.0.2.1/24"])]);
    let (config, findings) = read_on(&world, &text("ha.cf"), &text("haresources"));
    assert_eq!(findings, [""; 0]);
    let config = config.unwrap();
    assert_eq!((config.nodes.len(), config.links.len(), config.groups.len()), (2, 2, 1));
    assert!(config.connectivity.moves_groups && config.clients.is_empty());
    let place = tempfile::tempdir().unwrap();
    let key_file = place.path().join("authkeys");
    std::fs::copy(files.join("authkeys.example"), &key_file).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&key_file, open).unwrap();
    assert_eq!(authkeys::load(&key_file).unwrap().active, 1);
}
