//! Refusals and warnings of `[groups]`.

use super::findings;

#[test]
fn a_group_with_an_unknown_node_is_refused() {
    let expected =
        [r#"ha.toml:20:10: error: unknown node "alfa" in [groups.web]; did you mean "alpha"?"#];
    assert_eq!(findings(r#"["alpha", "beta"]"#, r#"["alfa", "beta"]"#), expected);
}

#[test]
fn a_group_that_names_a_node_twice_is_refused() {
    let expected =
        [r#"ha.toml:20:19: error: "alpha" is in the nodes of [groups.web] twice; name it once"#];
    assert_eq!(findings(r#"["alpha", "beta"]"#, r#"["alpha", "alpha"]"#), expected);
}

#[test]
fn a_group_without_nodes_is_refused() {
    let expected = [
        r#"ha.toml:19:1: error: [groups.web] has no nodes; write nodes = ["...", "..."], preferred first"#,
    ];
    assert_eq!(
        findings(
            r#"nodes = ["alpha", "beta"]
"#,
            r#""#
        ),
        expected
    );
}

#[test]
fn a_group_with_a_single_candidate_is_warned_about() {
    let expected = [
        "ha.toml:20:9: warning: [groups.web] has a single node: nothing takes it over; add a second node",
    ];
    assert_eq!(findings(r#"["alpha", "beta"]"#, r#"["alpha"]"#), expected);
}

#[test]
fn the_words_of_heartbeat_for_failback_are_refused_with_ours() {
    let expected = [r#"ha.toml:21:12: error: unknown failback "off"; write failback = "manual""#];
    assert_eq!(
        findings(
            r#"["alpha", "beta"]
"#,
            r#"["alpha", "beta"]
failback = "off"
"#
        ),
        expected
    );
}

#[test]
fn an_unknown_failback_is_refused() {
    let expected = [r#"ha.toml:21:12: error: unknown failback "autp"; did you mean "auto"?"#];
    assert_eq!(
        findings(
            r#"["alpha", "beta"]
"#,
            r#"["alpha", "beta"]
failback = "autp"
"#
        ),
        expected
    );
}

#[test]
fn a_group_without_resources_is_warned_about() {
    let expected = [
        r#"ha.toml:19:9: warning: [groups.web] has no resources: nothing moves with it; add resources = [ { kind = "address", ... } ], or remove the group"#,
    ];
    assert_eq!(
        findings(
            r#"resources = [
  { kind = "address", address = "198.51.100.10/24", interface = "eth0" },
]
"#,
            r#""#
        ),
        expected
    );
}

#[test]
fn a_resource_kind_of_later_is_refused() {
    let expected = [
        r#"ha.toml:22:12: error: the resource kind "ocf" is not supported yet; remove the resource, or write a script for it"#,
    ];
    assert_eq!(
        findings(
            r#"{ kind = "address", address = "198.51.100.10/24", interface = "eth0" }"#,
            r#"{ kind = "ocf", agent = "nginx" }"#
        ),
        expected
    );
}

#[test]
fn an_unknown_resource_kind_is_refused() {
    let expected =
        [r#"ha.toml:22:12: error: unknown resource kind "adress"; did you mean "address"?"#];
    assert_eq!(
        findings(
            r#"{ kind = "address", address = "198.51.100.10/24", interface = "eth0" }"#,
            r#"{ kind = "adress" }"#
        ),
        expected
    );
}

#[test]
fn a_resource_without_kind_is_refused() {
    let expected =
        [r#"ha.toml:22:3: error: resource 1 of [groups.web] has no kind; write kind = "address""#];
    assert_eq!(
        findings(
            r#"{ kind = "address", address = "198.51.100.10/24", interface = "eth0" }"#,
            r#"{ address = "198.51.100.10/24" }"#
        ),
        expected
    );
}

#[test]
fn an_address_without_interface_is_refused() {
    let expected = [
        r#"ha.toml:22:3: error: resource 1 of [groups.web] has no interface; write interface = "...""#,
    ];
    assert_eq!(
        findings(
            r#"{ kind = "address", address = "198.51.100.10/24", interface = "eth0" }"#,
            r#"{ kind = "address", address = "198.51.100.10/24" }"#
        ),
        expected
    );
}

#[test]
fn a_resource_without_address_is_refused() {
    let expected = [
        r#"ha.toml:22:3: error: resource 1 of [groups.web] has no address; write address = "ADDRESS/PREFIX-LENGTH""#,
    ];
    assert_eq!(
        findings(
            r#"{ kind = "address", address = "198.51.100.10/24", interface = "eth0" }"#,
            r#"{ kind = "address", interface = "eth0" }"#
        ),
        expected
    );
}

#[test]
fn a_floating_address_without_prefix_length_is_refused() {
    let expected = [
        r#"ha.toml:22:33: error: "198.51.100.10" is not an address with its prefix length; write "198.51.100.10/24", as the network has it"#,
    ];
    assert_eq!(findings(r#"198.51.100.10/24"#, r#"198.51.100.10"#), expected);
}

#[test]
fn the_address_of_a_network_is_no_floating_address() {
    let expected = [
        r#"ha.toml:22:33: error: "198.51.100.0/24" is the address of the network itself, not a host's address; give the address that clients connect to"#,
    ];
    assert_eq!(findings(r#"198.51.100.10/24"#, r#"198.51.100.0/24"#), expected);
}

#[test]
fn the_broadcast_address_of_a_network_is_no_floating_address() {
    let expected = [
        r#"ha.toml:22:33: error: "198.51.100.255/24" is the broadcast address of its network, not a host's address; give the address that clients connect to"#,
    ];
    assert_eq!(findings(r#"198.51.100.10/24"#, r#"198.51.100.255/24"#), expected);
}

#[test]
fn a_multicast_address_is_no_floating_address() {
    let expected = [
        r#"ha.toml:22:33: error: "ff02::1/64" is a multicast address, not a host's address; give the address that clients connect to"#,
    ];
    assert_eq!(findings(r#"198.51.100.10/24"#, r#"ff02::1/64"#), expected);
}

#[test]
fn the_own_address_of_a_node_is_no_floating_address() {
    let expected = [
        r#"ha.toml:22:33: error: 198.51.100.1 is the node "alpha"'s own address; give the group an address of its own"#,
    ];
    assert_eq!(findings(r#"198.51.100.10/24"#, r#"198.51.100.1/24"#), expected);
}

#[test]
fn one_address_in_two_groups_is_refused_whatever_its_prefix_length() {
    let expected = [
        r#"ha.toml:25:33: error: the group "db" has the address 198.51.100.10 already; keep it in one place"#,
    ];
    assert_eq!(
        findings(
            r#"[groups.web]"#,
            r#"[groups.db]
nodes = ["alpha", "beta"]
resources = [{ kind = "address", address = "198.51.100.10/32", interface = "eth0" }]
[groups.web]"#
        ),
        expected
    );
}

#[test]
fn a_group_of_addresses_may_be_pre_armed() {
    assert_eq!(
        findings(
            "nodes = [\"alpha\", \"beta\"]\n",
            "nodes = [\"alpha\", \"beta\"]\nprearmed = true\n"
        ),
        [""; 0]
    );
}

#[test]
fn a_group_with_more_than_addresses_cannot_be_pre_armed() {
    let expected = [
        r#"ha.toml:21:12: error: the group "web" is pre-armed and has a resource of the kind "systemd": only addresses can be there before the group is; remove prearmed, or put the addresses into a group of their own"#,
    ];
    assert_eq!(
        findings(
            "resources = [\n",
            "prearmed = true\nresources = [\n  { kind = \"systemd\", unit = \"nginx.service\" },\n"
        ),
        expected
    );
}
