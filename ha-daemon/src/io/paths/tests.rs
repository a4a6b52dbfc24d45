//! Claims about what a link listens to and where it sends, from a configuration and the addresses of
//! a host.

use super::*;
use crate::config::{
    AnnouncePlan, Cluster, Connectivity, Detection, Failback, Group, KeyRing, Logging, Node,
    OnDaemonDeath, OnDoubt, Realtime, Receive, Recovery, Resource,
};
use std::time::Duration;

const INDEX: u32 = 7;

fn host() -> OwnAddresses {
    OwnAddresses::default()
        .with("eth1", "192.0.2.1/24")
        .with("eth1", "198.51.100.1/24")
        .with("eth1", "192.0.2.50/24")
        .with("eth1", "fe80::1/64")
        .with("eth1", "2001:db8::1/64")
        .with("eth9", "203.0.113.9/24")
}

fn config(nodes: usize, kind: LinkKind, identity: LinkIdentity) -> Config {
    let endpoint = config::Endpoint::Network { interface: "eth1".parse().unwrap(), address: None };
    let node = |number: usize| Node {
        name: format!("n{number}").parse().unwrap(),
        id: 100 + number as u32,
        endpoints: [(LinkIndex(0), endpoint.clone())].into(),
    };
    let second = Duration::from_secs(1);
    Config {
        cluster: Cluster {
            name: "test".to_owned(),
            id: 1,
            keepalive: second,
            deadtime: 4 * second,
            auto: None,
            warntime: 2 * second,
            initdead: 9 * second,
            daemon_deadtime: 4 * second,
            port: 694,
            on_doubt: OnDoubt::Take,
            script_timeout: Duration::from_secs(60),
            address_lifetime: 5 * second,
            state_dir: None,
            earlier: None,
        },
        keys: KeyRing { active: 0, keys: Vec::new(), earlier: None, retained: Vec::new() },
        connectivity: Connectivity::none(second, 4 * second),
        clients: Vec::new(),
        logging: Logging::default(),
        realtime: Realtime { enabled: true },
        detection: Detection::default(),
        script_directory: "resource.d".into(),
        announce: AnnouncePlan { burst: 1, repeat: Vec::new(), refresh: None },
        links: vec![Link {
            name: "hb".parse().unwrap(),
            id: 900,
            kind,
            identity,
            port: 6940,
            times: None,
            receive: Receive::Auto,
        }],
        nodes: (0..nodes).map(node).collect(),
        groups: vec![Group {
            name: "web".parse().unwrap(),
            id: 5,
            nodes: vec![NodeIndex(0)],
            failback: Failback::Auto,
            on_daemon_death: OnDaemonDeath::Move,
            prearmed: false,
            recovery: Recovery::default(),
            monitors: Vec::new(),
            resources: vec![Resource::Address {
                address: "192.0.2.50/24".parse().unwrap(),
                interface: "eth1".parse().unwrap(),
                label: None,
                broadcast: None,
            }],
        }],
    }
}

fn set_address(config: &mut Config, node: usize, text: &str) {
    let interface = "eth1".parse().unwrap();
    let address = Some(text.parse().unwrap());
    let endpoint = config::Endpoint::Network { interface, address };
    config.nodes[node].endpoints.insert(LinkIndex(0), endpoint);
}

fn paths(config: &Config) -> Result<Vec<Path>> {
    planned(config, NodeIndex(0), &host(), &|_| Ok(INDEX))
}

fn network(config: &Config) -> Network {
    paths(config).unwrap()[0].network().unwrap().clone()
}

fn shown(network: &Network) -> (Vec<String>, Vec<String>) {
    (
        network.entrances.iter().map(|it| it.address.to_string()).collect(),
        network.remotes.iter().map(ToString::to_string).collect(),
    )
}

fn ucast(remotes: &[&str]) -> LinkKind {
    LinkKind::Ucast { remotes: remotes.iter().map(|it| it.parse().unwrap()).collect() }
}

fn mcast(group: &str) -> LinkKind {
    LinkKind::Mcast { group: group.parse().unwrap(), ttl: 4, loopback: false }
}

fn refusal(config: &Config) -> String {
    format!("{:#}", paths(config).unwrap_err())
}

#[test]
fn a_link_with_addresses_goes_from_one_to_the_other() {
    let mut config = config(2, ucast(&[]), LinkIdentity::Name);
    set_address(&mut config, 0, "192.0.2.1");
    set_address(&mut config, 1, "192.0.2.2");
    let path = &paths(&config).unwrap()[0];
    assert_eq!(path.key, PathKey { sender: 101, link: 900, interface: 0 });
    assert_eq!(path.silence_ns, 2_000_000_000);
    let network = path.network().unwrap();
    let expected = (vec!["192.0.2.1:6940".to_owned()], vec!["192.0.2.2:6940".to_owned()]);
    assert_eq!(shown(network), expected);
    assert_eq!(network.entrances[0].audience, Audience::One);
    let ends = network.ends.unwrap();
    assert_eq!(ends.remote, "192.0.2.2:6940".parse().unwrap());
    assert_eq!(network.source(), Some("192.0.2.1:0".parse().unwrap()));
}

#[test]
fn a_link_of_remotes_leaves_the_hosts_own_out_and_answers_from_the_same_network() {
    // The list is the same on every node; 203.0.113.9 is this host's on another interface.
    let remotes = ["198.51.100.1", "203.0.113.9", "198.51.100.2"];
    let config = config(2, ucast(&remotes), LinkIdentity::Arrival);
    let path = &paths(&config).unwrap()[0];
    assert_eq!(path.key, PathKey { sender: 101, link: by_arrival::UCAST, interface: INDEX });
    let network = path.network().unwrap();
    let (entrances, remotes) = shown(network);
    assert_eq!(entrances, ["198.51.100.1:6940", "192.0.2.1:6940"], "without the floating one");
    assert_eq!(remotes, ["198.51.100.2:6940"]);
    assert_eq!(network.ends.unwrap().local, "198.51.100.1:6940".parse().unwrap());
    assert!(network.entrances.iter().all(|it| it.audience == Audience::One));
}

#[test]
fn with_three_nodes_nobody_knows_which_remote_is_whose() {
    let remotes = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
    let config = config(3, ucast(&remotes), LinkIdentity::Arrival);
    let paths = paths(&config).unwrap();
    assert_eq!(paths.len(), 2);
    for path in &paths {
        let network = path.network().unwrap();
        assert_eq!(shown(network).1, ["192.0.2.2:6940", "192.0.2.3:6940"]);
        assert_eq!(network.entrances[0].audience, Audience::Several);
        assert_eq!(network.ends, None, "no control connection");
    }
}

#[test]
fn remotes_that_lead_nowhere_are_refused_with_the_remedy() {
    let own = config(2, ucast(&["192.0.2.1"]), LinkIdentity::Arrival);
    assert_eq!(
        refusal(&own),
        "link hb on eth1: every address of it (192.0.2.1) is one of this host's own: add the peer's"
    );
    let two = config(2, ucast(&["192.0.2.2", "192.0.2.3"]), LinkIdentity::Arrival);
    assert_eq!(
        refusal(&two),
        "link hb on eth1: 2 addresses of it (192.0.2.2, 192.0.2.3) are not this host's own, but \
         there is one peer: name the peer's address, and this host's where the file is shared"
    );
}

#[test]
fn a_multicast_link_listens_to_its_group_and_sends_to_it() {
    for (group, text) in [("225.0.0.1", "225.0.0.1:6940"), ("ff12::1", "[ff12::1]:6940")] {
        let network = network(&config(3, mcast(group), LinkIdentity::Arrival));
        assert_eq!(shown(&network), (vec![text.to_owned()], vec![text.to_owned()]));
        assert_eq!(network.entrances[0].cast, Cast::Multicast { ttl: 4, loopback: false });
        assert_eq!(network.entrances[0].audience, Audience::Several);
        assert_eq!((network.ends, network.hops()), (None, 4));
        let source = network.source().unwrap();
        assert!(source.ip().is_unspecified() && source.is_ipv4() == (group == "225.0.0.1"));
    }
}

#[test]
fn a_broadcast_link_listens_to_every_network_of_the_interface_and_sends_to_the_first() {
    let by_interface = network(&config(2, LinkKind::Bcast, LinkIdentity::Arrival));
    let (entrances, remotes) = shown(&by_interface);
    assert_eq!(entrances, ["192.0.2.255:6940", "198.51.100.255:6940", "255.255.255.255:6940"]);
    assert_eq!(remotes, ["192.0.2.255:6940"]);
    let mut config = config(2, LinkKind::Bcast, LinkIdentity::Name);
    set_address(&mut config, 0, "198.51.100.1");
    let (entrances, remotes) = shown(&network(&config));
    assert_eq!(entrances, ["198.51.100.255:6940", "255.255.255.255:6940"]);
    assert_eq!(remotes, ["198.51.100.255:6940"]);
    set_address(&mut config, 0, "198.51.100.77");
    assert!(refusal(&config).contains("does not have 198.51.100.77"), "{}", refusal(&config));
}

#[test]
fn an_interface_without_the_family_is_refused_with_the_remedy() {
    let nothing = OwnAddresses::default().with("eth1", "2001:db8::1/64");
    let refused = |config: &Config| {
        let paths = planned(config, NodeIndex(0), &nothing, &|_| Ok(INDEX));
        format!("{:#}", paths.unwrap_err())
    };
    let bcast = refused(&config(2, LinkKind::Bcast, LinkIdentity::Name));
    assert!(bcast.contains("eth1 has no IPv4 address with a broadcast address"), "{bcast}");
    let ucast = refused(&config(2, ucast(&["192.0.2.2"]), LinkIdentity::Arrival));
    assert!(ucast.contains("eth1 has no IPv4 address: give it one"), "{ucast}");
}

#[test]
fn endpoints_are_what_the_kernel_looks_up() {
    let network = network(&config(2, LinkKind::Bcast, LinkIdentity::Name));
    let (endpoint, site) = network.endpoints().next().unwrap();
    let address = mapped([192, 0, 2, 255]);
    assert_eq!(endpoint, Endpoint { interface: INDEX, port: 6940, address });
    // The first address of the interface answers what arrives there, and hears what is answered.
    let own = mapped([192, 0, 2, 1]);
    assert_eq!(site, Site::shared(None, Some(own)));
    assert!(!site.can_answer([0xff; 6]), "not without a hardware address");
    let returns: Vec<_> = network.returns().map(|(endpoint, _)| endpoint.address).collect();
    let expected = [[192, 0, 2, 1], [198, 51, 100, 1]].map(mapped);
    assert!(expected.iter().all(|address| returns.contains(address)), "{returns:?}");
}

#[test]
fn serial_lines_arrive_at_numbers_of_their_own() {
    let mut config = config(2, LinkKind::Serial { baud: 19_200 }, LinkIdentity::Arrival);
    for node in &mut config.nodes {
        let device = "/dev/ttyS0".into();
        node.endpoints.insert(LinkIndex(0), config::Endpoint::Serial { device });
    }
    let path = &paths(&config).unwrap()[0];
    assert_eq!(path.key.link, by_arrival::SERIAL);
    assert_eq!(path.key.interface, path.interface_index());
    assert!(path.interface_index() >= SERIAL_INTERFACES);
    assert_eq!(path.place(), "/dev/ttyS0");
}
