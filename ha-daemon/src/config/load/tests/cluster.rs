//! Refusals and warnings of `[cluster]` and `[announce]`.

use std::time::Duration;

use super::{CLEAN, Place, findings, with_cluster};

#[test]
fn a_missing_cluster_section_is_refused() {
    let expected = [
        r#"ha.toml:1:1: error: [cluster] is missing; add it with name and auth; write auth = { file = "/etc/ha/authkeys" }; create it and copy it to every node: (umask 077; printf 'auth 1\n1 siphash %s\n' "$(head -c 24 /dev/urandom | base64)" > /etc/ha/authkeys)"#,
    ];
    assert_eq!(
        findings(
            r#"[cluster]
name = "shop"
auth = { file = "authkeys" }
"#,
            r#""#
        ),
        expected
    );
}

#[test]
fn a_cluster_without_a_name_is_refused() {
    let expected = [
        r#"ha.toml:1:1: error: [cluster] has no name; write name = "...", the same on every node"#,
    ];
    assert_eq!(
        findings(
            r#"name = "shop"
"#,
            r#""#
        ),
        expected
    );
}

#[test]
fn a_cluster_without_keys_is_refused_with_the_way_to_make_one() {
    let expected = [
        r#"ha.toml:1:1: error: [cluster] has no auth; write auth = { file = "/etc/ha/authkeys" }; create it and copy it to every node: (umask 077; printf 'auth 1\n1 siphash %s\n' "$(head -c 24 /dev/urandom | base64)" > /etc/ha/authkeys)"#,
    ];
    assert_eq!(
        findings(
            r#"auth = { file = "authkeys" }
"#,
            r#""#
        ),
        expected
    );
}

#[test]
fn an_auth_without_a_file_is_refused() {
    let expected = [
        r#"ha.toml:3:8: error: [cluster.auth] names no file; write auth = { file = "/etc/ha/authkeys" }; create it and copy it to every node: (umask 077; printf 'auth 1\n1 siphash %s\n' "$(head -c 24 /dev/urandom | base64)" > /etc/ha/authkeys)"#,
    ];
    assert_eq!(findings(r#"auth = { file = "authkeys" }"#, r#"auth = {}"#), expected);
}

#[test]
fn a_missing_key_file_is_refused_where_it_is_named() {
    let expected = [
        r#"ha.toml:3:17: error: cannot read the key file keys: No such file or directory (os error 2); create it and copy it to every node: (umask 077; printf 'auth 1\n1 siphash %s\n' "$(head -c 24 /dev/urandom | base64)" > keys)"#,
    ];
    assert_eq!(findings(r#"file = "authkeys""#, r#"file = "keys""#), expected);
}

#[test]
fn a_key_in_the_place_of_its_file_is_refused_and_not_shown() {
    let expected = [
        r#"ha.toml:3:8: error: auth has the type string; write auth = { file = "/etc/ha/authkeys" }; keys belong in that file"#,
    ];
    assert_eq!(findings(r#"{ file = "authkeys" }"#, r#""hunter2""#), expected);
}

#[test]
fn a_wrong_type_is_refused() {
    let expected = [r#"ha.toml:2:8: error: name has the type integer; write name = "...""#];
    assert_eq!(findings(r#"name = "shop""#, r#"name = 7"#), expected);
}

#[test]
fn a_duration_without_unit_is_refused() {
    let expected = [r#"ha.toml:3:13: error: keepalive = 50 has no unit; write "50ms" or "50s""#];
    assert_eq!(with_cluster(r#"keepalive = 50"#), expected);
}

#[test]
fn a_quoted_duration_without_unit_is_refused() {
    let expected = [r#"ha.toml:3:13: error: keepalive = 50 has no unit; write "50ms" or "50s""#];
    assert_eq!(with_cluster(r#"keepalive = "50""#), expected);
}

#[test]
fn a_fraction_without_unit_is_refused() {
    let expected = [r#"ha.toml:3:12: error: deadtime = 0.5 has no unit; write "0.5ms" or "0.5s""#];
    assert_eq!(with_cluster(r#"deadtime = 0.5"#), expected);
}

#[test]
fn an_unknown_unit_is_refused() {
    let expected = [
        r#"ha.toml:3:13: error: keepalive "50 furlongs" is not a duration; write a number and a unit, such as "500us", "10ms" or "2s""#,
    ];
    assert_eq!(with_cluster(r#"keepalive = "50 furlongs""#), expected);
}

#[test]
fn a_duration_of_another_type_is_refused() {
    let expected = [
        r#"ha.toml:3:13: error: keepalive has the type boolean; write a number and a unit, such as "500us", "10ms" or "2s""#,
    ];
    assert_eq!(with_cluster(r#"keepalive = true"#), expected);
}

#[test]
fn a_keepalive_below_the_least_is_refused() {
    let expected =
        [r#"ha.toml:3:13: error: keepalive "100us" is shorter than 500us; give 500us to 1h"#];
    assert_eq!(with_cluster(r#"keepalive = "100us""#), expected);
}

#[test]
fn a_duration_above_the_most_is_refused() {
    let expected = [r#"ha.toml:3:12: error: initdead "2h" is longer than 1h; give 0s to 1h"#];
    assert_eq!(with_cluster(r#"initdead = "2h""#), expected);
}

#[test]
fn a_deadtime_not_longer_than_keepalive_is_refused() {
    let expected = [
        "ha.toml:3:12: error: deadtime 50ms is not longer than keepalive 50ms: every peer would be dead at once; set deadtime to 200ms or more",
    ];
    assert_eq!(with_cluster(r#"deadtime = "50ms""#), expected);
}

#[test]
fn a_keepalive_beyond_the_default_deadtime_is_refused() {
    let expected = [
        "ha.toml:3:13: error: deadtime 200ms is not longer than keepalive 300ms: every peer would be dead at once; set deadtime to 1s 200ms or more",
    ];
    assert_eq!(with_cluster(r#"keepalive = "300ms""#), expected);
}

#[test]
fn a_deadtime_below_two_keepalives_is_warned_about() {
    let expected = [
        "ha.toml:3:12: warning: deadtime 80ms is shorter than two keepalives of 50ms: one lost heartbeat makes a peer dead; set deadtime to 200ms or more",
    ];
    assert_eq!(with_cluster(r#"deadtime = "80ms""#), expected);
}

#[test]
fn a_warntime_below_keepalive_is_refused() {
    let expected = [
        "ha.toml:3:12: error: warntime 49ms is not between keepalive 50ms and deadtime 200ms; set it between 50ms and 200ms, such as half of deadtime",
    ];
    assert_eq!(with_cluster(r#"warntime = "49ms""#), expected);
}

#[test]
fn a_warntime_above_deadtime_is_refused() {
    let expected = [
        "ha.toml:3:12: error: warntime 201ms is not between keepalive 50ms and deadtime 200ms; set it between 50ms and 200ms, such as half of deadtime",
    ];
    assert_eq!(with_cluster(r#"warntime = "201ms""#), expected);
}

#[test]
fn a_warntime_of_one_keepalive_is_warned_about() {
    let expected = [
        "ha.toml:3:12: warning: warntime 50ms is one keepalive: every heartbeat would be late; set it between 50ms and 200ms, such as half of deadtime",
    ];
    assert_eq!(with_cluster(r#"warntime = "50ms""#), expected);
}

#[test]
fn a_warntime_of_one_deadtime_is_warned_about() {
    let expected = [
        "ha.toml:3:12: warning: warntime 200ms is the deadtime: no peer is late before it is dead; set it between 50ms and 200ms, such as half of deadtime",
    ];
    assert_eq!(with_cluster(r#"warntime = "200ms""#), expected);
}

#[test]
fn an_initdead_below_deadtime_is_refused() {
    let expected = [
        "ha.toml:3:12: error: initdead 199ms is shorter than deadtime 200ms; set it to 400ms or more",
    ];
    assert_eq!(with_cluster(r#"initdead = "199ms""#), expected);
}

#[test]
fn an_initdead_below_two_deadtimes_is_warned_about() {
    let expected = [
        "ha.toml:3:12: warning: initdead 399ms is shorter than two deadtimes of 200ms: a peer that starts a little later is taken for dead; set it to 400ms or more",
    ];
    assert_eq!(with_cluster(r#"initdead = "399ms""#), expected);
}

#[test]
fn a_daemon_deadtime_below_deadtime_or_a_second_is_refused() {
    let expected =
        [r#"ha.toml:3:19: error: daemon_deadtime "900ms" is shorter than 1s; give 1s to 1h"#];
    assert_eq!(with_cluster(r#"daemon_deadtime = "900ms""#), expected);
    let expected = [
        "ha.toml:4:19: error: daemon_deadtime 2s is shorter than deadtime 2s 1ms; set it to 2s 1ms or more",
    ];
    let cluster = "deadtime = \"2001ms\"\ndaemon_deadtime = \"2s\"";
    assert_eq!(with_cluster(cluster), expected);
}

#[test]
fn a_holder_gives_up_before_others_may_take() {
    let place = Place::new();
    for (deadtime, daemon_deadtime, lease) in [
        ("30ms", "3s", 2_750),
        ("200ms", "1s", 750),
        ("600ms", "3s", 2_400),
        ("1s", "1s", 750),
        ("30s", "30s", 22_500),
    ] {
        let lines = format!(
            "name = \"shop\"\ndeadtime = \"{deadtime}\"\ndaemon_deadtime = \"{daemon_deadtime}\"\n\
             keepalive = \"10ms\"\n"
        );
        let config = place.parse(&CLEAN.replace("name = \"shop\"\n", &lines)).unwrap();
        assert_eq!(config.cluster.holder_lease(), Duration::from_millis(lease), "{deadtime}");
    }
}

#[test]
fn a_port_out_of_range_is_refused() {
    let expected =
        ["ha.toml:3:8: error: port = 65536 is out of range; give a number from 1 to 65535"];
    assert_eq!(with_cluster(r#"port = 65536"#), expected);
}

#[test]
fn an_unknown_on_doubt_is_refused() {
    let expected = [r#"ha.toml:3:12: error: unknown on_doubt "tkae"; did you mean "take"?"#];
    assert_eq!(with_cluster(r#"on_doubt = "tkae""#), expected);
}

#[test]
fn an_address_lifetime_below_the_least_is_refused() {
    let expected =
        [r#"ha.toml:3:20: error: address_lifetime "500ms" is shorter than 1s; give 1s to 1h"#];
    assert_eq!(with_cluster(r#"address_lifetime = "500ms""#), expected);
}

#[test]
fn an_address_lifetime_that_outlasts_the_wait_of_the_others_is_warned_of() {
    let expected = [
        "ha.toml:3:20: warning: two nodes may hold an address for up to 3s when daemon and keeper of its owner are frozen together: its kernel keeps it for address_lifetime 5s and up to 1s more, and others take it after daemon_deadtime 3s; set address_lifetime to 2s or less, or daemon_deadtime to 6s or more",
    ];
    assert_eq!(with_cluster(r#"address_lifetime = "5s""#), expected);
    assert_eq!(with_cluster(r#"address_lifetime = "2s""#), [""; 0]);
    assert_eq!(with_cluster("address_lifetime = \"5s\"\ndaemon_deadtime = \"6s\""), [""; 0]);
}

#[test]
fn below_two_seconds_of_daemon_deadtime_no_address_lifetime_is_short_enough() {
    let expected = [
        "ha.toml:1:1: warning: two nodes may hold an address for up to 500ms when daemon and keeper of its owner are frozen together: its kernel keeps it for address_lifetime 1s and up to 1s more, and others take it after daemon_deadtime 1s 500ms; set daemon_deadtime to 2s or more and address_lifetime to 1s, or pre-arm the groups (prearmed = true)",
    ];
    assert_eq!(with_cluster(r#"daemon_deadtime = "1500ms""#), expected);
    assert_eq!(with_cluster(r#"daemon_deadtime = "2s""#), [""; 0]);
}

#[test]
fn behind_gates_and_without_addresses_an_address_lifetime_is_not_warned_of() {
    let place = Place::new();
    let long = CLEAN.replace("name = \"shop\"\n", "name = \"shop\"\naddress_lifetime = \"1m\"\n");
    let gated = long.replace("resources = [\n", "prearmed = true\nresources = [\n");
    assert_eq!(place.findings(&gated), [""; 0]);
    let without = long.split("[groups.web]").next().unwrap();
    assert!(place.findings(without).iter().all(|it| !it.contains("two nodes")));
    assert_eq!(place.findings(&long).len(), 1);
}

#[test]
fn the_default_address_lifetime_ends_before_others_may_take() {
    let place = Place::new();
    for (daemon_deadtime, lifetime) in [("1s", 1), ("2s", 1), ("2999ms", 1), ("3s", 2), ("1m", 2)] {
        let lines = format!("name = \"shop\"\ndaemon_deadtime = \"{daemon_deadtime}\"\n");
        let config = place.parse(&CLEAN.replace("name = \"shop\"\n", &lines)).unwrap();
        assert_eq!(config.cluster.address_lifetime.as_secs(), lifetime, "{daemon_deadtime}");
    }
}

#[test]
fn an_address_lifetime_of_broken_seconds_is_refused() {
    let expected = [
        "ha.toml:3:20: error: address_lifetime 3s 500ms is not a whole number of seconds, which the kernel counts in; round it up to whole seconds",
    ];
    assert_eq!(with_cluster(r#"address_lifetime = "3500ms""#), expected);
}

#[test]
fn a_relative_state_dir_is_refused() {
    let expected =
        [r#"ha.toml:3:13: error: state_dir "state" is not an absolute path; start it with /"#];
    assert_eq!(with_cluster(r#"state_dir = "state""#), expected);
}

#[test]
fn a_name_that_does_not_fit_in_a_path_is_refused() {
    let expected = [
        r#"ha.toml:2:8: error: the name of the cluster "sh/op" contains '/'; use only letters, digits and any of -_."#,
    ];
    assert_eq!(findings(r#""shop""#, r#""sh/op""#), expected);
}

#[test]
fn a_burst_out_of_range_is_refused() {
    let expected = ["ha.toml:6:9: error: burst = 0 is out of range; give a number from 1 to 64"];
    assert_eq!(
        findings(
            r#"[links.hb0]"#,
            r#"[announce]
burst = 0
[links.hb0]"#
        ),
        expected
    );
}

#[test]
fn delays_that_do_not_grow_are_refused() {
    let expected = [
        "ha.toml:6:19: error: this delay of repeat is not longer than the one before it; each counts from the takeover: sort them",
    ];
    assert_eq!(
        findings(
            r#"[links.hb0]"#,
            r#"[announce]
repeat = ["10ms", "10ms"]
[links.hb0]"#
        ),
        expected
    );
}

#[test]
fn a_delay_without_unit_is_refused() {
    let expected =
        [r#"ha.toml:6:19: error: a delay of repeat = 20 has no unit; write "20ms" or "20s""#];
    assert_eq!(
        findings(
            r#"[links.hb0]"#,
            r#"[announce]
repeat = ["10ms", 20]
[links.hb0]"#
        ),
        expected
    );
}

#[test]
fn the_remedy_for_a_refresh_that_is_none_names_the_word_for_never() {
    let text = format!("{CLEAN}[announce]\nrefresh = \"never\"\n");
    let expected = [
        r#"ha.toml:25:11: error: refresh "never" is not a duration; write "off", or a number and a unit, such as "500us", "10ms" or "2s""#,
    ];
    assert_eq!(Place::new().findings(&text), expected);
}

#[test]
fn a_refresh_below_the_least_is_refused() {
    let expected = [r#"ha.toml:6:11: error: refresh "10ms" is shorter than 1s; give 1s to 1h"#];
    assert_eq!(
        findings(
            r#"[links.hb0]"#,
            r#"[announce]
refresh = "10ms"
[links.hb0]"#
        ),
        expected
    );
}
