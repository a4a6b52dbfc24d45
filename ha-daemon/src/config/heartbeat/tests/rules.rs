//! The rules of the original, and what `check` finds beyond them.

use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::config::{Failback, LinkKind, Resource};

/// The times of the clean file with other lines for them, without the serial line, which is slow.
#[track_caller]
fn times(lines: &str) -> (Option<Config>, Vec<String>) {
    let text = CLEAN.replace("keepalive 1\ndeadtime 10\ninitdead 60\n", lines);
    read(&text.replace("serial /dev/ttyS0", "bcast eth2"), RESOURCES)
}

fn millis(duration: Duration) -> u128 {
    duration.as_millis()
}

#[test]
fn the_clean_file_is_clean() {
    let config = clean(CLEAN, RESOURCES);
    assert_eq!(config.cluster.port, 700);
    assert_eq!(config.links.iter().map(|link| link.port).collect::<Vec<_>>(), [700, 700]);
}

#[test]
fn times_that_are_not_given_have_the_defaults_of_the_original() {
    for (lines, keepalive, warntime, deadtime, initdead) in [
        ("", 1_000, 15_000, 30_000, 30_000),
        ("deadtime 10\n", 1_000, 5_000, 10_000, 20_000),
        ("deadtime 6\n", 1_000, 3_000, 6_000, 12_000),
        ("deadtime 5.9\n", 1_000, 2_950, 5_900, 12_000),
        ("keepalive 10ms\ndeadtime 30ms\n", 10, 15, 30, 12_000),
        ("deadtime 10.1\n", 1_000, 5_050, 10_100, 10_100),
    ] {
        let (config, findings) = times(lines);
        assert_eq!(findings, [""; 0], "{lines}");
        let cluster = config.unwrap().cluster;
        let found = [cluster.keepalive, cluster.warntime, cluster.deadtime, cluster.initdead];
        assert_eq!(found.map(millis), [keepalive, warntime, deadtime, initdead], "{lines}");
    }
}

#[test]
fn a_deadtime_that_one_lost_heartbeat_exceeds_is_found() {
    let dead = "is not longer than keepalive 2s: every peer would be dead at once; set deadtime to 8s \
                or more";
    assert_eq!(
        times("keepalive 2\ndeadtime 1\n").1,
        [format!("ha.cf:2:10: error: deadtime 1s {dead}")]
    );
    let risky = "is not longer than two keepalives of 2s: one lost heartbeat makes a peer dead (the \
                 original refuses it); set deadtime to 8s or more";
    for (lines, shown) in [("keepalive 2\ndeadtime 4\n", "4s"), ("keepalive 2\ndeadtime 3\n", "3s")]
    {
        assert_eq!(times(lines).1, [format!("ha.cf:2:10: warning: deadtime {shown} {risky}")]);
    }
    assert_eq!(times("keepalive 2\ndeadtime 4.1\n").1, [""; 0]);
}

#[test]
fn a_warntime_outside_of_keepalive_to_deadtime_is_found_and_moved() {
    let remedy = "set it between 1s and 10s, such as half of deadtime";
    for (warntime, what, holds) in [
        ("500ms", "500ms is not between keepalive 1s and deadtime 10s: 1s is used", 1_000),
        ("11", "11s is not between keepalive 1s and deadtime 10s: 10s is used", 10_000),
        ("1", "1s is one keepalive: every heartbeat would be late", 1_000),
        ("10", "10s is the deadtime: no peer is late before it is dead", 10_000),
    ] {
        let (config, findings) = times(&format!("deadtime 10\nwarntime {warntime}\n"));
        assert_eq!(findings, [format!("ha.cf:2:10: warning: warntime {what}; {remedy}")]);
        assert_eq!(millis(config.unwrap().cluster.warntime), holds);
    }
}

#[test]
fn an_initdead_that_is_too_short_is_found() {
    assert_eq!(
        times("deadtime 10\ninitdead 9\n").1,
        ["ha.cf:2:10: error: initdead 9s is shorter than deadtime 10s; set it to 20s or more"]
    );
    assert_eq!(
        times("deadtime 10\ninitdead 19\n").1,
        ["ha.cf:2:10: warning: initdead 19s is shorter than two deadtimes of 10s: a peer that \
          starts a little later is taken for dead; set it to 20s or more"]
    );
}

#[test]
fn times_have_the_units_of_the_original_and_unambiguous_others() {
    for (text, millis_expected) in
        [("2000ms", 2_000), ("1.7", 1_700), ("2s", 2_000), ("2sec", 2_000), ("1m", 60_000)]
    {
        let lines = format!("keepalive {text}\ndeadtime 300\ninitdead 600\n");
        let (config, findings) = times(&lines);
        assert_eq!(findings, [""; 0], "{text}");
        assert_eq!(millis(config.unwrap().cluster.keepalive), millis_expected, "{text}");
    }
    let (config, _) = times("keepalive 500us\ndeadtime 2500us\n");
    assert_eq!(config.unwrap().cluster.keepalive, Duration::from_micros(500));
    for text in ["0", "-1", "abc", "1d"] {
        assert_eq!(
            times(&format!("keepalive {text}\n")).1,
            [format!(
                "ha.cf:1:11: error: keepalive \"{text}\" is not a time; write a number of seconds \
                 such as 2 or 0.5, or one with ms or us"
            )]
        );
    }
    assert_eq!(
        times("keepalive 400us\n").1,
        ["ha.cf:1:11: error: keepalive \"400us\" is shorter than 500us; give 500us to 1h"]
    );
    assert_eq!(
        times("deadtime 2h\n").1,
        ["ha.cf:1:10: error: deadtime \"2h\" is longer than 1h; give 500us to 1h"]
    );
}

#[test]
fn a_keepalive_that_the_serial_line_cannot_carry_is_refused_with_the_arithmetic() {
    assert_eq!(
        after("keepalive 1\n", "keepalive 40ms\n"),
        [
            "ha.cf:8:8: error: link \"ttyS0\": a line of 38400 baud does not carry a heartbeat every \
             40ms: 96 bytes x 10 bits / 38400 baud = 25.0 ms, which is 62% of its time, and more than \
             half leaves too little for control messages; set keepalive to 50ms or more, or baud to \
             57600 or more on both nodes"
        ]
    );
    assert_eq!(after("keepalive 1\n", "keepalive 50ms\n"), [""; 0]);
}

#[test]
fn links_that_packets_could_not_tell_apart_are_refused() {
    let remedy = "and packets do not name them; keep one of them, or name links (in TOML, identity = \
                  \"name\")";
    for (lines, at, names, word) in [
        (
            "ucast eth2 198.51.100.2\nucast6 eth2 2001:db8::2",
            "9:8",
            "\"eth2\" and \"eth2-ucast6\"",
            "ucast",
        ),
        (
            "mcast eth2 239.192.0.42 694 1 0\nmcast eth2 239.192.0.43 694 1 0",
            "9:7",
            "\"eth2\" and \"eth2-mcast\"",
            "mcast",
        ),
    ] {
        let findings = after("serial /dev/ttyS0\n", &format!("{lines}\n"));
        let what = format!("the links {names} are both {word} on eth2 of alpha");
        assert_eq!(findings, [format!("ha.cf:{at}: error: {what}, {remedy}")]);
    }
}

#[test]
fn what_answers_pings_whatever_happens_is_no_ping_node() {
    for (host, why) in [
        (
            "127.0.0.1",
            "this node itself: it answers whatever happens; name a host beside or behind",
        ),
        ("fe80::1", "link-local: it does not say on which interface; give the host's global"),
        ("224.0.0.1", "a multicast address; name a host that answers pings"),
    ] {
        let findings = after("node alpha\n", &format!("ping {host}\nnode alpha\n"));
        let start = format!("ha.cf:9:6: error: {host} is {why}");
        assert!(findings.len() == 1 && findings[0].starts_with(&start), "{findings:#?}");
    }
    assert_eq!(
        after("node alpha\n", "ping_group a/b 192.0.2.254\nnode alpha\n"),
        [
            "ha.cf:9:12: error: \"a/b\" is no name of a ping node; use up to 64 letters, digits, -, _ and \
          ., or an address"
        ]
    );
}

#[test]
fn of_two_lines_the_later_one_counts_and_a_warning_says_so() {
    let (config, findings) = times("keepalive 1\nkeepalive 2\n");
    assert_eq!(
        findings,
        [
            "ha.cf:2:1: warning: keepalive is in line 1 already: this one counts; keep one of the lines"
        ]
    );
    assert_eq!(millis(config.unwrap().cluster.keepalive), 2_000);
}

#[test]
fn comments_commas_and_blank_lines_part_nothing_that_belongs_together() {
    let text = CLEAN.replace("node alpha\nnode beta\n", "\n\t# all\nnode\talpha,beta # both\n");
    assert_eq!(clean(&text, RESOURCES), clean(CLEAN, RESOURCES));
}

#[test]
fn names_of_nodes_have_no_case() {
    let text = CLEAN.replace("alpha", "ALPHA.Example");
    let config = clean(&text, "Alpha.example 192.0.2.10/24/eth0 httpd\n");
    assert_eq!(config.nodes[0].name.as_str(), "alpha.example");
    assert_eq!(config.groups[0].nodes[0].0, 0);
}

#[test]
fn udpport_must_stand_before_the_media_and_does_not_hold_for_multicast() {
    assert_eq!(
        after("bcast eth1\n", "ucast eth1 198.51.100.2\nudpport 701\n"),
        [
            "ha.cf:8:1: error: udpport comes after the medium of line 7; move it before all bcast \
             and ucast lines",
            "ha.cf:8:1: warning: udpport is in line 5 already: this one counts; keep one of the lines",
        ]
    );
    let config = clean(&CLEAN.replace("bcast eth1", "mcast eth1 239.192.0.42 694 1 0"), RESOURCES);
    assert_eq!((config.links[0].port, config.cluster.port), (694, 700));
}

#[test]
fn a_rate_after_the_serial_line_is_for_it_all_the_same() {
    let text = CLEAN.replace("baud 38400\n", "").replace("node alpha", "baud 9600\nnode alpha");
    let (config, findings) = read(&text, RESOURCES);
    assert_eq!(
        findings,
        ["ha.cf:8:1: warning: baud comes after the serial line of line 7: the original would use \
          19200 there, here it is 9600; move it before all serial lines"]
    );
    assert_eq!(config.unwrap().links[1].kind, LinkKind::Serial { baud: 9_600 });
}

#[test]
fn all_peers_of_one_device_and_family_are_one_link() {
    let lines = "bcast eth1 eth2\nucast eth1 198.51.100.2\nucast eth1 198.51.100.3\n\
                 ucast6 eth3 2001:db8::2%eth3\nmcast eth1 239.192.0.42 694 1 1\n\
                 serial /dev/pts/3 /dev/ttyS0";
    let config = clean(&CLEAN.replace("bcast eth1\nserial /dev/ttyS0", lines), RESOURCES);
    let links: Vec<_> =
        config.links.iter().map(|link| (link.name.as_str(), link.kind.word())).collect();
    assert_eq!(
        links,
        [
            ("eth1", "bcast"),
            ("eth1-mcast", "mcast"),
            ("eth1-ucast", "ucast"),
            ("eth2", "bcast"),
            ("eth3", "ucast"),
            ("pts-3", "serial"),
            ("ttyS0", "serial"),
        ]
    );
    let LinkKind::Ucast { remotes } = &config.links[2].kind else { panic!() };
    assert_eq!(remotes.len(), 2);
    // Names are made of what a name may have, whatever the device is called.
    let config = clean(&CLEAN.replace("/dev/ttyS0", "/dev /a/serial@x:y"), RESOURCES);
    let names: Vec<_> = config.links.iter().map(|link| link.name.as_str()).collect();
    assert_eq!(names, ["a-serial-x-y", "eth1", "serial"]);
    assert!(config.nodes.iter().all(|node| node.endpoints.len() == config.links.len()));
}

#[test]
fn media_that_cannot_be_are_refused_at_the_wrong_word() {
    for (line, finding) in [
        ("bcast", "7:1: error: bcast names nothing; write bcast INTERFACE..."),
        ("bcast eth1 eth1", "7:12: error: bcast on \"eth1\" is there already; write it once"),
        (
            "ucast eth1",
            "7:1: error: ucast takes an interface and the address of a peer; write ucast INTERFACE \
             ADDRESS",
        ),
        (
            "ucast eth1 2001:db8::2",
            "7:12: error: the peer \"2001:db8::2\" is no IPv4 address; write its IPv4 address, or use \
             ucast6",
        ),
        (
            "ucast eth1 224.0.0.1",
            "7:12: error: the peer \"224.0.0.1\" is a multicast address; write its IPv4 address, or \
             use ucast6",
        ),
        (
            "ucast6 eth1 fe80::1%eth2",
            "7:13: error: \"fe80::1%eth2\" is not on \"eth1\"; leave out the % and what follows",
        ),
        ("mcast eth1 239.192.0.42 694 1 2", "7:31: error: \"2\" is no loop flag; write 0, or 1"),
        (
            "mcast eth1 239.192.0.42 0 1 0",
            "7:25: error: \"0\" is no UDP port; give a number from 1 to 65535",
        ),
        (
            "mcast eth1 192.0.2.1 694 1 0",
            "7:12: error: \"192.0.2.1\" is no IPv4 multicast group; write mcast INTERFACE GROUP PORT \
             TTL LOOP, such as mcast eth0 239.192.0.42 694 1 0",
        ),
        (
            "serial ttyS1",
            "7:8: error: \"ttyS1\" is not the full path of a device; start it with /dev/",
        ),
    ] {
        assert_eq!(after("bcast eth1", line), [format!("ha.cf:{finding}")], "{line}");
    }
    let many: String = (0..9).map(|number| format!("bcast br{number}\n")).collect();
    assert_eq!(
        after("bcast eth1\nserial /dev/ttyS0\n", &many),
        ["ha.cf:15:7: error: more than 8 heartbeat media; keep to 8"]
    );
}

#[test]
fn a_file_without_nodes_or_media_is_refused() {
    assert_eq!(
        read("", "").1,
        [
            "ha.cf: error: no nodes are defined; name each with \"node\", as `uname -n` prints it there",
            "ha.cf: error: no heartbeat media are defined; add a line such as bcast eth1, ucast eth1 \
             ADDRESS or serial /dev/ttyS0",
        ]
    );
    assert_eq!(
        after("node beta\n", ""),
        [
            "ha.cf:9:6: error: \"alpha\" is the only node: nothing takes its groups over; name at least \
          two"
        ]
    );
    assert_eq!(
        after("node beta", "node beta alpha"),
        ["ha.cf:10:11: error: the node alpha is in line 9 already; name each node once"]
    );
}

#[test]
fn a_single_path_is_found_unless_a_ping_node_can_tell() {
    let single = "is the only path between the nodes: no arbiter can tell its failure from a dead peer; \
                  add a medium on another interface, a serial line, or a ping node";
    let expected = [format!("ha.cf:7:7: warning: eth1 {single}")];
    assert_eq!(after("serial /dev/ttyS0\n", ""), expected);
    // Two kinds on one interface are one path.
    assert_eq!(after("serial /dev/ttyS0\n", "ucast eth1 198.51.100.2\n"), expected);
    assert_eq!(after("serial /dev/ttyS0\n", "bcast eth0\n"), [""; 0]);
    assert_eq!(after("serial /dev/ttyS0\n", "ping 192.0.2.254\n"), [""; 0]);
}

#[test]
fn a_serial_line_does_not_reach_three_nodes() {
    assert_eq!(
        after("node beta\n", "node beta\nnode gamma\n"),
        [
            "ha.cf:8:8: warning: a serial line reaches one other node, and there are 3: heartbeats are \
          not forwarded; give every two nodes a network path as well"
        ]
    );
}

#[test]
fn ping_nodes_are_looked_up_once_and_ipfail_moves_groups() {
    let lines = "ping 192.0.2.254\nping_group gateways 192.0.2.253 2001:db8::fe\nping6 2001:db8::fd\n\
                 deadping 5\nrespawn hacluster /usr/lib/heartbeat/ipfail\nnode alpha";
    let config = clean(&CLEAN.replace("node alpha", lines), RESOURCES);
    let connectivity = config.connectivity;
    let targets: Vec<_> =
        connectivity.targets.iter().map(|it| (it.name.as_str(), it.members.len())).collect();
    assert_eq!(targets, [("192.0.2.254", 1), ("2001:db8::fd", 1), ("gateways", 2)]);
    assert_eq!(millis(connectivity.deadping), 5_000);
    assert!(connectivity.moves_groups);
    let without = clean(&CLEAN.replace("node alpha", "ping 192.0.2.254\nnode alpha"), RESOURCES);
    assert!(!without.connectivity.moves_groups, "nothing asks for it");
    assert_eq!(
        after("node alpha", "ping gateway\nnode alpha"),
        ["ha.cf:9:6: error: cannot find the ping node \"gateway\": names are not looked up here; \
          write its address instead of its name"]
    );
    assert_eq!(
        after("node alpha", "ping 192.0.2.254\ndeadping 2\nnode alpha"),
        [
            "ha.cf:10:10: warning: deadping 2s is not longer than two intervals of 1s: one lost answer \
          makes a ping node unreachable (the original refuses it); set it to 4s or more"
        ]
    );
    assert_eq!(
        after("node alpha", "respawn hacluster /usr/lib/heartbeat/ipfail\nnode alpha"),
        [
            "ha.cf:9:9: warning: ipfail compares what the nodes reach, and there are no ping nodes; add \
          ping or ping_group, or remove the line"
        ]
    );
}

#[test]
fn programs_keep_their_arguments_with_commas() {
    let config = clean(
        &CLEAN.replace("node alpha", "respawn root /bin/prog -o a,b c\nnode alpha"),
        RESOURCES,
    );
    let client = &config.clients[0];
    assert_eq!((client.user.as_str(), &client.program), ("root", &"/bin/prog".into()));
    assert_eq!(client.arguments, ["-o", "a,b", "c"]);
    assert_eq!(
        after("node alpha", "respawn hacluster /usr/lib/heartbeat/dopd\nnode alpha"),
        [
            "ha.cf:9:19: warning: dopd is not started: it speaks Heartbeat's client interface, which is \
          not here; remove the line"
        ]
    );
    assert_eq!(
        after("node alpha", "respawn root prog\nnode alpha"),
        ["ha.cf:9:14: error: the program \"prog\" is not an absolute path; start it with /"]
    );
}

#[test]
fn failback_is_automatic_unless_it_is_off() {
    for (line, expected) in [
        ("", Failback::Auto),
        ("auto_failback on\n", Failback::Auto),
        ("auto_failback legacy\n", Failback::Auto),
        ("auto_failback off\n", Failback::Manual),
    ] {
        let text = CLEAN.replace("node alpha", &format!("{line}node alpha"));
        assert_eq!(clean(&text, RESOURCES).groups[0].failback, expected, "{line}");
    }
    let (config, findings) =
        read(&CLEAN.replace("node alpha", "nice_failback on\nnode alpha"), RESOURCES);
    assert_eq!(
        findings,
        ["ha.cf:9:1: warning: nice_failback is obsolete; write auto_failback off"]
    );
    assert_eq!(config.unwrap().groups[0].failback, Failback::Manual);
}

#[test]
fn an_address_without_interface_gets_the_one_with_the_longest_prefix() {
    let world = interfaces(&[
        ("eth0", &["192.0.2.1/24"]),
        ("eth1", &["192.0.2.129/25", "203.0.113.7/24"]),
        ("tun0", &["192.0.2.200/32"]),
    ]);
    let (config, findings) =
        read_on(&world, CLEAN, "alpha 192.0.2.200 192.0.2.10 192.0.2.201/26 203.0.113.7\n");
    // 203.0.113.7 is floating, so that it is on eth1 now proves nothing.
    let remedy = "write 203.0.113.7/BITS/INTERFACE, or give an interface an address there";
    let message = "203.0.113.7 is outside of every prefix of this node (eth0, eth1, tun0)";
    assert_eq!(findings, [format!("haresources:1:45: error: {message}; {remedy}")]);
    assert_eq!(config, None);
    let (config, _) = read_on(&world, CLEAN, "alpha 192.0.2.200 192.0.2.10 192.0.2.201/26\n");
    let found: Vec<_> = config.unwrap().groups[0]
        .resources
        .iter()
        .map(|resource| match resource {
            Resource::Address { address, interface, .. } => {
                (address.to_string(), interface.to_string())
            }
            Resource::SourceAddress { .. } | Resource::Script { .. } | Resource::Systemd { .. } => {
                panic!("{resource:?}")
            }
        })
        .collect();
    let expected =
        [("192.0.2.200/25", "eth1"), ("192.0.2.10/24", "eth0"), ("192.0.2.201/26", "eth1")];
    assert_eq!(found, expected.map(|(one, other)| (one.to_owned(), other.to_owned())));
}

#[test]
fn groups_are_named_after_node_and_address_whatever_else_the_file_has() {
    let names = |haresources: &str| {
        let (config, _) = read(CLEAN, haresources);
        let groups = config.unwrap().groups;
        groups.iter().map(|group| group.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(
        names("beta ftpd\nalpha httpd 192.0.2.10\nbeta ftpd::two\nbeta 2001:db8::10\n"),
        ["alpha-192.0.2.10", "beta-2001-db8--10", "beta-ftpd", "beta-ftpd-2"]
    );
    assert_eq!(names("alpha Filesystem::/dev/a 192.0.2.10"), ["alpha-192.0.2.10"]);
    let long = "n".repeat(60);
    let (config, _) =
        read(&CLEAN.replace("alpha", &long), &format!("{long} httpd\n{long} httpx\n"));
    let groups = config.unwrap().groups;
    assert!(groups.iter().all(|group| group.name.as_str().len() == 64), "{groups:?}");
    assert_ne!(groups[0].name, groups[1].name);
}

#[test]
fn candidates_are_the_named_node_and_then_the_others_in_the_order_of_the_file() {
    let text = CLEAN
        .replace("node alpha\nnode beta", "node gamma delta beta alpha")
        .replace("serial /dev/ttyS0", "bcast eth0");
    let config = clean(&text, "beta httpd\n");
    let names: Vec<_> =
        config.groups[0].nodes.iter().map(|node| config.nodes[node.0].name.as_str()).collect();
    assert_eq!(names, ["beta", "gamma", "delta", "alpha"]);
}

#[test]
fn unknown_nodes_and_addresses_twice_are_refused() {
    let (_, findings) = read(
        &CLEAN.replace("node alpha", "ucast eth0 192.0.2.2\nnode alpha"),
        "alhpa 192.0.2.10\nbeta 192.0.2.10\nbeta 192.0.2.2\n",
    );
    assert_eq!(
        findings,
        [
            "haresources:1:1: error: unknown node \"alhpa\": ha.cf does not name it; did you mean \
             \"alpha\"?",
            "haresources:2:6: error: the address 192.0.2.10 is in line 1 already; keep it in one place",
            "haresources:3:6: error: 192.0.2.2 is a node's own address: ha.cf sends heartbeats to it; \
             give the group an address of its own",
        ]
    );
}

#[test]
fn a_source_address_and_a_ping_node_are_judged_by_the_addresses_of_the_groups() {
    assert_eq!(
        read(CLEAN, "alpha IPsrcaddr::192.0.2.10 192.0.2.10\n").1,
        ["haresources:1:7: error: the group does not have 192.0.2.10 before it uses it; write \
          IPaddr::192.0.2.10 before it"]
    );
    clean(CLEAN, "alpha 192.0.2.10 IPsrcaddr::192.0.2.10\n");
    assert_eq!(
        after("node alpha\n", "ping 192.0.2.10\nnode alpha\n"),
        [
            "haresources:1:7: error: 192.0.2.10 is pinged: it moves or dies with what it is to judge; name \
          a ping node outside of the cluster in ha.cf"
        ]
    );
}

#[test]
fn the_cluster_has_one_name_on_every_node_whatever_nodes_there_are() {
    let others = CLEAN.replace("beta", "gamma").replace("bcast eth1", "bcast eth3");
    let (one, other) = (clean(CLEAN, RESOURCES), clean(&others, RESOURCES));
    assert_eq!(one.cluster.id, other.cluster.id);
    let named = clean(&CLEAN.replace("node alpha", "cluster shop\nnode alpha"), RESOURCES);
    assert_eq!(named.cluster.name, "shop");
}

#[test]
fn the_network_and_its_broadcast_address_are_no_floating_addresses() {
    for (address, why) in [
        ("192.0.2.255", "the broadcast address of its network"),
        ("192.0.2.0/24/eth0", "the address of the network itself"),
    ] {
        let findings = read(CLEAN, &format!("alpha {address}\n")).1;
        assert!(findings.len() == 1 && findings[0].contains(why), "{findings:#?}");
    }
}

#[test]
fn a_nul_is_refused_where_it_is() {
    let expected = |file: &str| format!("{file}:1:6: error: the line contains a NUL; remove it");
    assert!(read(&format!("debug\0 1\n{CLEAN}"), RESOURCES).1.contains(&expected("ha.cf")));
    assert!(read(CLEAN, "alpha\0httpd\n").1.contains(&expected("haresources")));
}

#[test]
fn hostile_texts_are_refused_in_bounds() {
    let long = format!("node {}", "x".repeat(6_000));
    assert_eq!(
        read(&format!("{long}\n{CLEAN}"), RESOURCES).1,
        [
            "ha.cf:1:1: error: the line is longer than 5120 bytes; repeat the directive on several lines"
        ]
    );
    let many = "nonsense\n".repeat(1_000);
    let findings = read(&many, RESOURCES).1;
    assert_eq!(findings.len(), 202, "200, how many more, and the unknown node of haresources");
    let continued = "alpha x\\\n".repeat(2_000);
    assert!(read(CLEAN, &continued).0.is_none());
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(ha_cf in "(?s).{0,400}", haresources in "(?s).{0,400}") {
        let _ = read(&ha_cf, &haresources);
    }
}

#[test]
fn an_address_of_a_ping_node_is_of_the_family_that_was_asked_for() {
    let address: IpAddr = "2001:db8::fe".parse().unwrap();
    let config = clean(&CLEAN.replace("node alpha", "ping6 2001:db8::fe\nnode alpha"), RESOURCES);
    assert_eq!(config.connectivity.targets[0].members, [address]);
    assert_eq!(
        after("node alpha", "ping6 192.0.2.254\nnode alpha"),
        ["ha.cf:9:7: error: cannot find the ping node \"192.0.2.254\": it has no address of that \
          family; write its address instead of its name"]
    );
}
