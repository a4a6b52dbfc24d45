//! Refusals and warnings of `[nodes]`.

use super::{CLEAN, Place, findings};

#[test]
fn an_endpoint_on_an_unknown_link_is_refused() {
    let expected =
        [r#"ha.toml:16:1: error: unknown link "hb9" in [nodes.beta]; did you mean "hb0"?"#];
    assert_eq!(findings(r#"hb0 = "192.0.2.2""#, r#"hb9 = "192.0.2.2""#), expected);
}

#[test]
fn an_unspecified_endpoint_address_is_refused() {
    let expected = [
        r#"ha.toml:16:7: error: "0.0.0.0" is the unspecified address, not a node's address; give the address that the node itself has on this link"#,
    ];
    assert_eq!(findings(r#"hb0 = "192.0.2.2""#, r#"hb0 = "0.0.0.0""#), expected);
}

#[test]
fn a_multicast_endpoint_address_is_refused() {
    let expected = [
        r#"ha.toml:16:7: error: "239.0.0.1" is a multicast address, not a node's address; give the address that the node itself has on this link"#,
    ];
    assert_eq!(findings(r#"hb0 = "192.0.2.2""#, r#"hb0 = "239.0.0.1""#), expected);
}

#[test]
fn a_broadcast_endpoint_address_is_refused() {
    let expected = [
        r#"ha.toml:16:7: error: "255.255.255.255" is the broadcast address, not a node's address; give the address that the node itself has on this link"#,
    ];
    assert_eq!(findings(r#"hb0 = "192.0.2.2""#, r#"hb0 = "255.255.255.255""#), expected);
}

#[test]
fn an_endpoint_address_with_prefix_length_is_refused() {
    let expected = [
        r#"ha.toml:16:7: error: "192.0.2.2/24" is not an address; write "192.0.2.2", without prefix length or zone"#,
    ];
    assert_eq!(findings(r#"hb0 = "192.0.2.2""#, r#"hb0 = "192.0.2.2/24""#), expected);
}

#[test]
fn a_host_name_as_endpoint_address_is_refused() {
    let expected = [
        r#"ha.toml:16:7: error: "beta.example" is not an address; write an IPv4 or IPv6 address; names are not looked up"#,
    ];
    assert_eq!(findings(r#"hb0 = "192.0.2.2""#, r#"hb0 = "beta.example""#), expected);
}

#[test]
fn mixed_address_families_on_one_link_are_refused() {
    let expected = [
        r#"ha.toml:16:7: error: 2001:db8::2 is IPv6, but "alpha" is on the link "hb0" with the IPv4 address 192.0.2.1; use one family on a link, or two links"#,
    ];
    assert_eq!(findings(r#"hb0 = "192.0.2.2""#, r#"hb0 = "2001:db8::2""#), expected);
}

#[test]
fn one_address_for_two_nodes_of_a_link_is_refused() {
    let expected = [
        r#"ha.toml:16:7: error: "alpha" has the address 192.0.2.1 on this link already; give each node an address of its own"#,
    ];
    assert_eq!(findings(r#"hb0 = "192.0.2.2""#, r#"hb0 = "192.0.2.1""#), expected);
}

#[test]
fn an_unknown_key_of_an_endpoint_is_refused() {
    let expected = [
        r#"ha.toml:16:32: error: unknown key "inteface" in [nodes.beta.hb0]; did you mean "interface"?"#,
    ];
    assert_eq!(
        findings(r#"hb0 = "192.0.2.2""#, r#"hb0 = { address = "192.0.2.2", inteface = "eth9" }"#),
        expected
    );
}

#[test]
fn an_endpoint_without_address_is_refused() {
    let expected =
        [r#"ha.toml:16:7: error: [nodes.beta.hb0] has no address; write address = "...""#];
    assert_eq!(findings(r#"hb0 = "192.0.2.2""#, r#"hb0 = { interface = "eth9" }"#), expected);
}

#[test]
fn a_cluster_without_nodes_is_refused() {
    let expected =
        ["ha.toml:1:1: error: no nodes are defined; define at least two, each as [nodes.NAME]"];
    assert_eq!(
        Place::new().findings("cluster.name = \"shop\"\ncluster.auth.file = \"authkeys\"\n"),
        expected
    );
}

#[test]
fn a_cluster_of_one_node_is_refused() {
    let expected = [
        r#"ha.toml:3:7: error: "alpha" is the only node; define at least two, each as [nodes.NAME]"#,
    ];
    assert_eq!(
        Place::new().findings(
            "cluster.name = \"shop\"\ncluster.auth.file = \"authkeys\"\nnodes.alpha = {}\n"
        ),
        expected
    );
}

#[test]
fn nodes_without_a_common_link_are_refused() {
    let expected = [
        r#"ha.toml:5:8: warning: the link "hb0" connects no two nodes; give two nodes an address on it, or remove it"#,
        r#"ha.toml:8:8: warning: the link "svc" connects no two nodes; give two nodes an address on it, or remove it"#,
        r#"ha.toml:12:8: error: "alpha" shares no link with beta; give both an address on the same link"#,
    ];
    assert_eq!(
        findings(
            r#"hb0 = "192.0.2.2"
svc = "198.51.100.2"
"#,
            r#""#
        ),
        expected
    );
}

#[test]
fn a_single_path_between_two_nodes_is_warned_about() {
    let expected = [
        r#"ha.toml:5:8: warning: the link "hb0" connects no two nodes; give two nodes an address on it, or remove it"#,
        r#"ha.toml:8:8: warning: the link "svc" is the only path between alpha and beta: no arbiter can tell its failure from a dead peer; add a link over another interface, a serial line, or ping targets"#,
    ];
    assert_eq!(
        findings(
            r#"hb0 = "192.0.2.2"
"#,
            r#""#
        ),
        expected
    );
}

#[test]
fn two_links_over_one_interface_are_warned_about_as_a_single_path() {
    let expected = [
        "ha.toml:5:8: warning: all links between alpha and beta use one interface: no arbiter can tell its failure from a dead peer; add a link over another interface, a serial line, or ping targets",
    ];
    assert_eq!(findings(r#"interface = "eth1""#, r#"interface = "eth0""#), expected);
}

#[test]
fn a_node_name_that_is_not_allowed_is_refused() {
    let expected = [
        r#"ha.toml:18:8: error: the node name "b c" contains ' '; use only letters, digits and any of -_."#,
    ];
    assert_eq!(
        findings(
            r#"svc = "198.51.100.2"
"#,
            r#"svc = "198.51.100.2"
[nodes."b c"]
hb0 = "192.0.2.3"
svc = "198.51.100.3"
"#
        ),
        expected
    );
}

#[test]
fn a_name_with_a_dot_is_to_be_quoted() {
    let named = |name: &str| {
        let table = format!("[nodes.{name}]");
        let text =
            CLEAN.replace("[nodes.beta]", &table).replace("\"beta\"", &format!("\"{name}\""));
        Place::new().findings(&text)
    };
    for (name, link) in [("beta.example", "example"), ("beta.site.example", "site")] {
        let expected = [format!(
            r#"ha.toml:15:13: error: unknown link "{link}" in [nodes.beta]; quote a name with a dot: [nodes."{name}"]"#
        )];
        assert_eq!(named(name), expected);
    }
    let quoted = CLEAN.replace("[nodes.beta]", "[nodes.\"beta.example\"]");
    let quoted = quoted.replace("\"beta\"", "\"beta.example\"");
    assert_eq!(Place::new().findings(&quoted), [""; 0]);
}

#[test]
fn a_table_of_an_unknown_link_is_no_name_with_a_dot() {
    let expected =
        [r#"ha.toml:16:1: error: unknown link "hb9" in [nodes.beta]; did you mean "hb0"?"#];
    let table = r#"hb9 = { address = "192.0.2.2", interface = "eth1" }"#;
    assert_eq!(findings(r#"hb0 = "192.0.2.2""#, table), expected);
}

#[test]
fn an_endpoint_that_is_no_text_is_refused_with_what_to_write() {
    let expected = [r#"ha.toml:16:7: error: hb0 has the type integer; write hb0 = "ADDRESS""#];
    assert_eq!(findings(r#"hb0 = "192.0.2.2""#, "hb0 = 2"), expected);
}
