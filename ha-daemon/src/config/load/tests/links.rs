//! Refusals and warnings of `[links]`.

use super::{CLEAN, Place, findings};

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
fn a_link_kind_of_later_is_refused_without_complaints_that_follow_from_it() {
    let expected = [
        r#"ha.toml:6:8: error: the link kind "mcast" is not supported yet; use kind = "ucast" or remove the link"#,
    ];
    assert_eq!(
        findings(
            r#"kind = "ucast"
interface = "eth1""#,
            r#"kind = "mcast"
group = "239.0.0.1""#
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
