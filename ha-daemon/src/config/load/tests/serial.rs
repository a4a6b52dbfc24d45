//! Serial links in TOML.

use super::{CLEAN, Place};
use crate::config::{Endpoint, LinkIndex, LinkKind};

/// The clean configuration with a third link `tty`, on times that a line can carry.
fn with_line(link: &str, alpha: &str, beta: &str) -> String {
    CLEAN
        .replace("name = \"shop\"\n", "name = \"shop\"\nkeepalive = \"250ms\"\ndeadtime = \"1s\"\n")
        .replace(
            "[nodes.alpha]\n",
            &format!("[links.tty]\nkind = \"serial\"\n{link}\n[nodes.alpha]\n{alpha}\n"),
        )
        .replace("[nodes.beta]\n", &format!("[nodes.beta]\n{beta}\n"))
}

fn devices(text: &str) -> Vec<String> {
    let config = Place::new().parse(text).unwrap();
    let device = |node: &crate::config::Node| match &node.endpoints[&LinkIndex(2)] {
        Endpoint::Serial { device } => device.display().to_string(),
        Endpoint::Network { .. } => panic!("a serial line has no interface"),
    };
    config.nodes.iter().map(device).collect()
}

#[test]
fn a_line_between_two_nodes_needs_nothing_but_its_device() {
    let text = with_line("device = \"/dev/ttyS0\"", "", "");
    assert_eq!(Place::new().findings(&text), [""; 0]);
    assert_eq!(devices(&text), ["/dev/ttyS0", "/dev/ttyS0"]);
    let config = Place::new().parse(&text).unwrap();
    assert_eq!(config.links[2].kind, LinkKind::Serial { baud: 19_200 });
}

#[test]
fn a_node_may_have_a_device_of_its_own() {
    let cases = [
        (
            "device = \"/dev/ttyS0\"\nbaud = 12345",
            "tty = \"/dev/ttyS1\"",
            "",
            ["/dev/ttyS1", "/dev/ttyS0"],
        ),
        ("", "tty = \"/dev/ttyS1\"", "tty = { device = \"/dev/x/y\" }", ["/dev/ttyS1", "/dev/x/y"]),
        ("device = \"/dev/ttyS0\"", "tty = {}", "", ["/dev/ttyS0", "/dev/ttyS0"]),
    ];
    for (link, alpha, beta, expected) in cases {
        let text = with_line(link, alpha, beta);
        assert_eq!(Place::new().findings(&text), [""; 0], "{text}");
        assert_eq!(devices(&text), expected);
    }
}

#[test]
fn what_is_wrong_with_a_line_is_refused() {
    let cases = [
        (
            ("device = \"ttyS0\"", "", ""),
            "ha.toml:16:10: error: \"ttyS0\" is not the full path of a device; write it as in device = \
             \"/dev/ttyS0\"",
        ),
        (
            ("device = \"/dev/ttyS0\"\nbaud = 7", "", ""),
            "ha.toml:17:8: error: baud = 7 is out of range; give a number from 50 to 12000000",
        ),
        (
            ("device = \"/dev/ttyS0\"\ninterface = \"eth0\"", "", ""),
            "ha.toml:17:1: error: unknown key \"interface\" in [links.tty]; known keys: kind, baud, device, identity, keepalive, deadtime, deadtime_min, deadtime_max, warntime",
        ),
        (
            ("", "tty = \"/dev/ttyS0\"", ""),
            "ha.toml:14:8: error: the serial line \"tty\" has two ends, and 1 on it: alpha; name its device \
             in two nodes, as in tty = \"/dev/ttyS0\"",
        ),
        (
            ("", "", ""),
            "ha.toml:14:8: error: the serial line \"tty\" connects no nodes; name its device in two nodes, as \
             in tty = \"/dev/ttyS0\"",
        ),
        (
            ("", "tty = {}", "tty = \"/dev/ttyS0\""),
            "ha.toml:18:7: error: neither this endpoint nor the link \"tty\" names a device; write device = \
             \"...\" in [links.tty], or here",
        ),
    ];
    for ((link, alpha, beta), expected) in cases {
        let findings = Place::new().findings(&with_line(link, alpha, beta));
        assert_eq!(findings, [expected], "{link:?} {alpha:?} {beta:?}");
    }
}

#[test]
fn a_third_node_on_a_line_is_refused() {
    let text = with_line("device = \"/dev/ttyS0\"", "tty = {}", "tty = {}")
        + "[nodes.gamma]\nhb0 = \"192.0.2.3\"\nsvc = \"198.51.100.3\"\n";
    assert_eq!(Place::new().findings(&text), [""; 0]);
    let text = text.replace("[nodes.gamma]\n", "[nodes.gamma]\ntty = {}\n");
    let expected = "ha.toml:14:8: error: the serial line \"tty\" has two ends, and 3 on it: alpha, beta, gamma; \
                    name its device in two nodes, as in tty = \"/dev/ttyS0\"";
    assert!(
        Place::new().findings(&text).contains(&expected.to_owned()),
        "{:?}",
        Place::new().findings(&text)
    );
}

#[test]
fn by_arrival_every_node_may_have_a_line_and_needs_another_path() {
    let text = with_line("device = \"/dev/ttyS0\"\nidentity = \"arrival\"", "", "")
        + "[nodes.gamma]\nhb0 = \"192.0.2.3\"\nsvc = \"198.51.100.3\"\n";
    assert_eq!(
        Place::new().findings(&text),
        [
            "ha.toml:14:8: warning: a serial line reaches one other node, and there are 3: heartbeats are \
          not forwarded; give every two nodes a network path as well"
        ]
    );
    assert_eq!(devices(&text), ["/dev/ttyS0"; 3]);
}

#[test]
fn a_keepalive_that_a_line_cannot_carry_is_refused_with_the_arithmetic() {
    let text = with_line("device = \"/dev/ttyS0\"\nbaud = 19200", "", "")
        .replace("keepalive = \"250ms\"", "keepalive = \"50ms\"");
    let expected = "ha.toml:14:8: error: link \"tty\": a line of 19200 baud does not carry a heartbeat every \
                    50ms: 96 bytes x 10 bits / 19200 baud = 50.0 ms, which is 100% of its time, and more \
                    than half leaves too little for control messages; set keepalive to 100ms or more, or \
                    baud to 38400 or more on both nodes";
    assert_eq!(Place::new().findings(&text), [expected]);
    let faster = text.replace("baud = 19200", "baud = 38400");
    assert_eq!(Place::new().findings(&faster), [""; 0]);
}

#[test]
fn a_device_has_one_link() {
    let text = with_line(
        "device = \"/dev/ttyS0\"\n[links.tty2]\nkind = \"serial\"\ndevice = \"/dev/ttyS0\"",
        "",
        "",
    );
    let expected = |node: &str| {
        format!(
            "ha.toml:17:8: error: the links \"tty\" and \"tty2\" both use /dev/ttyS0 on {node}; give each \
             link a device of its own"
        )
    };
    assert_eq!(Place::new().findings(&text), ["alpha", "beta"].map(expected));
}

#[test]
fn a_line_alone_is_a_path_and_a_single_one() {
    let text = CLEAN
        .replace("name = \"shop\"\n", "name = \"shop\"\nkeepalive = \"1s\"\ndeadtime = \"15s\"\n")
        .replace("[links.hb0]\nkind = \"ucast\"\ninterface = \"eth1\"\n", "")
        .replace(
            "[links.svc]\nkind = \"ucast\"\ninterface = \"eth0\"",
            "[links.tty]\nkind = \"serial\"\ndevice = \"/dev/ttyS0\"",
        )
        .replace("hb0 = \"192.0.2.1\"\nsvc = \"198.51.100.1\"\n", "")
        .replace("hb0 = \"192.0.2.2\"\nsvc = \"198.51.100.2\"\n", "");
    let findings = Place::new().findings(&text);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(
        findings[0].contains("warning: the link \"tty\" is the only path between"),
        "{findings:?}"
    );
}
