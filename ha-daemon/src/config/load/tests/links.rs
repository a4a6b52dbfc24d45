//! Refusals and warnings of `[links]`.

use std::time::Duration;

use super::{CLEAN, Place, findings};
use crate::config::{Config, Endpoint, LinkIdentity, LinkIndex, LinkKind, Times};

#[test]
fn a_link_without_kind_is_refused() {
    let expected = [r#"ha.toml:5:1: error: [links.hb0] has no kind; write kind = "ucast""#];
    assert_eq!(
        findings(
            r#"kind = "ucast"
interface = "eth1""#,
            r#"interface = "eth1""#
        ),
        expected
    );
}

#[test]
fn an_unknown_link_kind_is_refused() {
    let expected = [r#"ha.toml:6:8: error: unknown link kind "unicast"; did you mean "ucast"?"#];
    assert_eq!(
        findings(
            r#"kind = "ucast"
interface = "eth1""#,
            r#"kind = "unicast"
interface = "eth1""#
        ),
        expected
    );
}

#[test]
fn an_unknown_way_to_receive_is_refused() {
    let expected = [
        r#"ha.toml:8:11: error: unknown receive "xdp"; known: auto, xdp-native, xdp-generic, tc, socket"#,
    ];
    assert_eq!(
        findings(
            r#"kind = "ucast"
interface = "eth1""#,
            r#"kind = "ucast"
interface = "eth1"
receive = "xdp""#
        ),
        expected
    );
}

#[test]
fn an_interface_name_that_is_too_long_is_refused() {
    let expected =
        [r#"ha.toml:7:13: error: the interface "0123456789abcdef" has 16 bytes; keep to 15"#];
    assert_eq!(
        findings(
            r#"kind = "ucast"
interface = "eth1""#,
            r#"kind = "ucast"
interface = "0123456789abcdef""#
        ),
        expected
    );
}

#[test]
fn an_endpoint_without_any_interface_is_refused() {
    let expected = [
        r#"ha.toml:12:7: error: neither this endpoint nor the link "hb0" names an interface; write interface = "..." in [links.hb0], or here hb0 = { address = "...", interface = "..." }"#,
        r#"ha.toml:15:7: error: neither this endpoint nor the link "hb0" names an interface; write interface = "..." in [links.hb0], or here hb0 = { address = "...", interface = "..." }"#,
    ];
    assert_eq!(
        findings(
            r#"kind = "ucast"
interface = "eth1""#,
            r#"kind = "ucast""#
        ),
        expected
    );
}

#[test]
fn a_link_that_no_two_nodes_use_is_warned_about() {
    let expected = [
        r#"ha.toml:12:8: warning: the link "spare" connects no two nodes; give two nodes an address on it, or remove it"#,
    ];
    assert_eq!(
        findings(
            r#"[nodes.alpha]"#,
            r#"[links.spare]
kind = "ucast"
interface = "eth2"
[nodes.alpha]"#
        ),
        expected
    );
}

#[test]
fn links_with_the_same_identifier_are_refused() {
    let text = CLEAN.replace("hb0", "costarring").replace("svc", "liquid");
    let expected = "ha.toml:8:8: error: the links \"costarring\" and \"liquid\" have the same \
                    identifier in packets; rename one";
    assert_eq!(Place::new().findings(&text), [expected]);
}

/// The clean configuration with one more link, and what it leads to.
fn with_link(text: &str) -> Vec<String> {
    let from = "[nodes.alpha]";
    findings(from, &format!("[links.x]\n{text}\n{from}"))
}

fn parsed(text: &str) -> Config {
    let text = CLEAN.replace("[nodes.alpha]", &format!("[links.x]\n{text}\n[nodes.alpha]"));
    Place::new().parse(&text).unwrap()
}

#[test]
fn a_multicast_link_with_an_interface_has_every_node_on_it() {
    let text = "kind = \"mcast\"\ninterface = \"eth2\"\ngroup = \"225.0.0.1\"\nttl = 2\n\
                loopback = true\nport = 700\nkeepalive = \"200ms\"\ndeadtime = \"1s\"";
    assert_eq!(with_link(text), [""; 0]);
    let config = parsed(text);
    let link = &config.links[2];
    let group = "225.0.0.1".parse().unwrap();
    assert_eq!(link.kind, LinkKind::Mcast { group, ttl: 2, loopback: true });
    assert_eq!((link.port, link.identity), (700, LinkIdentity::Name));
    let [keepalive, warntime, deadtime] = [200, 500, 1_000].map(Duration::from_millis);
    assert_eq!(link.times, Some(Times { keepalive, warntime, deadtime, auto: None }));
    for node in &config.nodes {
        let interface = "eth2".parse().unwrap();
        let expected = Endpoint::Network { interface, address: None };
        assert_eq!(node.endpoints[&LinkIndex(2)], expected);
    }
    assert_eq!((config.links[0].port, config.links[0].times), (694, None));
}

#[test]
fn a_link_without_interface_has_the_nodes_that_name_one() {
    let text = CLEAN
        .replace(
            "[nodes.alpha]",
            "[links.x]\nkind = \"bcast\"\n[nodes.alpha]\nx = { interface = \"eth2\" }",
        )
        .replace(
            "[nodes.beta]",
            "[nodes.beta]\nx = { interface = \"eth3\", address = \"203.0.113.2\" }",
        );
    assert_eq!(Place::new().findings(&text), [""; 0]);
    let config = Place::new().parse(&text).unwrap();
    let endpoint = |node: usize| config.nodes[node].endpoints[&LinkIndex(2)].clone();
    assert_eq!(endpoint(0).interface().unwrap().as_str(), "eth2");
    assert_eq!(endpoint(1).address(), Some("203.0.113.2".parse().unwrap()));
}

#[test]
fn a_unicast_link_may_list_where_everybody_is() {
    let text = "kind = \"ucast\"\nidentity = \"arrival\"\ninterface = \"eth2\"\n\
                remotes = [\"203.0.113.1\", \"203.0.113.2\"]";
    assert_eq!(with_link(text), [""; 0]);
    let link = &parsed(text).links[2];
    let remotes = ["203.0.113.1", "203.0.113.2"].map(|it| it.parse().unwrap()).to_vec();
    assert_eq!((&link.kind, link.identity), (&LinkKind::Ucast { remotes }, LinkIdentity::Arrival));
}

#[test]
fn what_a_link_cannot_work_with_is_refused() {
    let cases = [
        (
            "kind = \"mcast\"\ninterface = \"eth2\"",
            "ha.toml:13:8: error: [links.x] has no group; write group = \"239.0.0.1\", or one of ff00::/8",
        ),
        (
            "kind = \"mcast\"\ninterface = \"eth2\"\ngroup = \"192.0.2.1\"",
            "ha.toml:12:8: error: 192.0.2.1 of the link \"x\" is not a multicast group; use one of \
             224.0.0.0/4, such as 239.0.0.1, or of ff00::/8, such as ff02::694",
        ),
        (
            "kind = \"mcast\"\ninterface = \"eth2\"\ngroup = \"225.0.0.1\"\nttl = 256",
            "ha.toml:16:7: error: ttl = 256 is out of range; give a number from 0 to 255",
        ),
        (
            "kind = \"mcast\"\ninterface = \"eth2\"\ngroup = \"225.0.0.1\"\nttl = 0",
            "ha.toml:12:8: warning: ttl 0 keeps the packets of the link \"x\" on this host; write 1, or \
             more to cross routers",
        ),
        (
            "kind = \"mcast\"\ninterface = \"eth2\"\ngroup = \"225.0.0.1\"\nloopback = 1",
            "ha.toml:16:12: error: loopback has the type integer; write loopback = true or loopback = \
             false",
        ),
        (
            "kind = \"bcast\"\ninterface = \"eth2\"\nport = 0",
            "ha.toml:15:8: error: port = 0 is out of range; give a number from 1 to 65535",
        ),
        (
            "kind = \"ucast\"\ninterface = \"eth2\"\nremotes = []",
            "ha.toml:15:11: error: remotes has 0 addresses; list one to 64: where the nodes are",
        ),
        (
            "kind = \"ucast\"\ninterface = \"eth2\"\nremotes = [\"192.0.2.1\", \"2001:db8::1\"]",
            "ha.toml:12:8: error: the link \"x\" has remotes of both families: 192.0.2.1 and \
             2001:db8::1; use one family on a link, or two links",
        ),
        (
            "kind = \"ucast\"\ninterface = \"eth2\"\nremotes = [\"192.0.2.8\", \"192.0.2.8\"]",
            "ha.toml:12:8: error: the link \"x\" has the remote 192.0.2.8 twice; remove one",
        ),
        (
            "kind = \"bcast\"\ninterface = \"eth2\"\nkeepalive = \"1s\"\ndeadtime = \"1500ms\"",
            "ha.toml:16:12: warning: deadtime 1s 500ms is shorter than two keepalives of 1s: one lost \
             heartbeat makes a peer dead; set deadtime to 4s or more",
        ),
        (
            "kind = \"bcast\"\ninterface = \"eth2\"\nkeepalive = \"1s\"\ndeadtime = \"3s\"",
            "ha.toml:12:8: warning: deadtime 3s of the link \"x\" is longer than initdead 2s: a node that \
             has just started takes peers that it hears on this link alone for dead too early; set \
             initdead to 6s or more",
        ),
        (
            "kind = \"bcast\"\ninterface = \"eth2\"\nkeepalive = \"1s\"",
            "ha.toml:15:13: error: deadtime 200ms is not longer than keepalive 1s: every peer would be \
             dead at once; set deadtime to 4s or more",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(with_link(text), [expected], "{text}");
    }
}

#[test]
fn links_that_would_receive_the_same_are_refused() {
    let same = "kind = \"bcast\"\ninterface = \"eth2\"\nreceive = \"socket\"\n\
                [links.y]\nkind = \"bcast\"\ninterface = \"eth2\"";
    let expected = |node: &str| {
        format!(
            "ha.toml:16:8: error: the links \"x\" and \"y\" both receive broadcasts, port 694, on eth2 \
             of {node}; give one another address, group, port or interface, or remove it"
        )
    };
    assert_eq!(with_link(same), ["alpha", "beta"].map(expected));
    let other_port = format!("{same}\nport = 695");
    assert_eq!(with_link(&other_port), [""; 0]);
    // One by program and one by socket is no way out either.
    let text = CLEAN
        .replace("interface = \"eth0\"\n\n", "interface = \"eth1\"\nreceive = \"socket\"\n\n")
        .replace("198.51.100.1\"", "192.0.2.1\"")
        .replace("198.51.100.2\"", "192.0.2.2\"");
    let findings = Place::new().findings(&text);
    assert_eq!(findings.iter().filter(|it| it.contains("both receive 192.0.2.")).count(), 2);
}

#[test]
fn two_links_by_arrival_of_one_kind_on_one_interface_are_refused() {
    let text = "kind = \"mcast\"\ninterface = \"eth2\"\ngroup = \"225.0.0.1\"\nidentity = \"arrival\"\n\
                [links.y]\nkind = \"mcast\"\ninterface = \"eth2\"\ngroup = \"225.0.0.2\"\n\
                identity = \"arrival\"";
    let expected = |node: &str| {
        format!(
            "ha.toml:17:8: error: the links \"x\" and \"y\" are both mcast on eth2 of {node}, and packets \
             do not name them; keep one of them, or name links (in TOML, identity = \"name\")"
        )
    };
    assert_eq!(with_link(text), ["alpha", "beta"].map(expected));
    assert_eq!(with_link(&text.replace("\"arrival\"", "\"name\"")), [""; 0]);
}

#[test]
fn an_address_of_another_family_than_its_links_is_refused() {
    let text = CLEAN
        .replace(
            "[nodes.alpha]",
            "[links.x]\nkind = \"bcast\"\ninterface = \"eth2\"\n[nodes.alpha]",
        )
        .replace("[nodes.beta]", "[nodes.beta]\nx = \"2001:db8::2\"");
    let expected = "ha.toml:19:5: error: the link \"x\" is IPv4, and 2001:db8::2 is not; IPv6 has no \
                    broadcast: use kind = \"mcast\"";
    assert_eq!(Place::new().findings(&text), [expected]);
}
