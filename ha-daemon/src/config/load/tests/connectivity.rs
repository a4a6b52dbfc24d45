//! `[connectivity]`: what it means, refusals and warnings.

use std::time::Duration;

use super::{CLEAN, Place};
use crate::config::{IsolatedOwner, ProbeBeforeTake};

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// The findings of the clean configuration with this section behind it, without their line.
#[track_caller]
fn findings(section: &str) -> Vec<String> {
    let text = format!("{CLEAN}\n[connectivity]\n{section}\n");
    let shown = |finding: &String| {
        let (_, rest) = finding.split_once(": ").unwrap_or(("", finding));
        rest.to_owned()
    };
    Place::new().findings(&text).iter().map(shown).collect()
}

#[test]
fn without_the_section_nothing_is_pinged() {
    let config = Place::new().parse(CLEAN).unwrap();
    assert!(config.connectivity.targets.is_empty());
    assert!(!config.connectivity.probes());
}

#[test]
fn targets_have_members_of_both_families_and_defaults_follow_the_timing() {
    let text = format!(
        "{CLEAN}\n[connectivity.targets]\ngateway = [\"198.51.100.254\", \"2001:db8::fe\"]\n\
         dns = [\"203.0.113.53\"]\n"
    );
    let connectivity = Place::new().parse(&text).unwrap().connectivity;
    let names: Vec<&str> = connectivity.targets.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["dns", "gateway"]);
    assert_eq!(
        connectivity.targets[1].members,
        ["198.51.100.254".parse::<std::net::IpAddr>().unwrap(), "2001:db8::fe".parse().unwrap()]
    );
    let times = (connectivity.interval, connectivity.deadping, connectivity.damping);
    assert_eq!(times, (ms(100), ms(300), ms(200)));
    assert!(connectivity.moves_groups && connectivity.probes());
    assert_eq!(connectivity.isolated_owner, IsolatedOwner::Release);
}

#[test]
fn every_key_is_taken_over() {
    let text = format!(
        "{CLEAN}\n[connectivity]\ninterval = \"1s\"\ndeadping = \"30s\"\ndamping = \"5s\"\n\
         moves_groups = false\nprobe_before_take = \"never\"\nisolated_owner = \"keep\"\n\
         targets = {{ gateway = [\"198.51.100.254\"] }}\n"
    );
    let connectivity = Place::new().parse(&text).unwrap().connectivity;
    let times = (connectivity.interval, connectivity.deadping, connectivity.damping);
    assert_eq!(times, (ms(1_000), ms(30_000), ms(5_000)));
    assert!(!connectivity.moves_groups && !connectivity.probes());
    assert_eq!(connectivity.probe_before_take, ProbeBeforeTake::Never);
    assert_eq!(connectivity.isolated_owner, IsolatedOwner::Keep);
}

#[test]
fn a_section_without_targets_is_warned_about() {
    let expected = "warning: [connectivity] has no targets: nothing is pinged; add targets = { \
                    gateway = [\"ADDRESS\"] }, or remove the section";
    assert_eq!(findings("interval = \"1s\""), [expected]);
}

#[test]
fn times_that_do_not_fit_each_other_are_refused_or_warned_about() {
    let times = |line: &str| findings(&format!("{line}\ntargets.gateway = [\"198.51.100.254\"]"));
    assert_eq!(
        times("interval = \"10ms\""),
        ["error: interval \"10ms\" is shorter than 100ms; give 100ms to 1h"]
    );
    assert_eq!(
        times("deadping = \"100ms\""),
        ["error: deadping 100ms is not longer than the interval 100ms of the requests; set \
          deadping to 200ms or more"]
    );
    assert_eq!(
        times("deadping = \"150ms\""),
        [
            "warning: deadping 150ms is shorter than two intervals of 100ms: one lost answer makes a \
          ping target unreachable; set deadping to 200ms or more"
        ]
    );
    assert_eq!(
        times("damping = \"199ms\""),
        ["warning: damping 199ms is shorter than two intervals of 100ms: a ping target that dies \
          moves groups, because no two nodes notice it at the same moment; set damping to 200ms or \
          more"]
    );
    assert_eq!(
        times("moves_groups = \"yes\""),
        [
            "error: moves_groups has the type string; write moves_groups = true or moves_groups = false"
        ]
    );
    assert_eq!(
        times("probe_before_take = \"alway\""),
        ["error: unknown probe_before_take \"alway\"; did you mean \"always\"?"]
    );
}

#[test]
fn what_says_nothing_about_the_network_is_no_ping_target() {
    let member = |address: &str| findings(&format!("targets.gateway = [\"{address}\"]"));
    let outside = "name a host outside of the cluster";
    assert_eq!(
        member("198.51.100.1"),
        [format!(
            "error: \"198.51.100.1\" is a node's own address: it moves or dies with what it is to \
             judge; {outside}"
        )]
    );
    assert_eq!(
        member("198.51.100.10"),
        [format!(
            "error: \"198.51.100.10\" is a floating address: it moves or dies with what it is to \
             judge; {outside}"
        )]
    );
    assert_eq!(
        member("fe80::1"),
        ["error: \"fe80::1\" is link-local: it does not say on which interface; give the host's \
          global or unique local address"]
    );
    assert_eq!(
        member("::1"),
        ["error: \"::1\" is this node itself: it answers whatever happens; name a host beside or \
          behind the service network"]
    );
    assert_eq!(
        member("gateway.example"),
        ["error: \"gateway.example\" is not an address; write an IPv4 or IPv6 address without \
          prefix length; names are not looked up"]
    );
    assert_eq!(member("0.0.0.0").len(), 1);
    assert_eq!(member("224.0.0.1").len(), 1);
}

#[test]
fn a_single_path_is_no_finding_where_ping_targets_tell_who_is_cut_off() {
    let text = CLEAN.replace("interface = \"eth1\"", "interface = \"eth0\"");
    assert_eq!(Place::new().findings(&text).len(), 1);
    let targets = "\n[connectivity.targets]\ngateway = [\"198.51.100.254\"]\n";
    assert_eq!(Place::new().findings(&format!("{text}{targets}")), [""; 0]);
}

#[test]
fn a_target_may_be_named_by_its_address() {
    let text = format!("{CLEAN}\n[connectivity.targets]\n\"2001:db8::fe\" = [\"2001:db8::fe\"]\n");
    assert_eq!(Place::new().parse(&text).unwrap().connectivity.targets[0].name, "2001:db8::fe");
    assert_eq!(findings("targets = { \"a:b\" = [\"192.0.2.254\"] }").len(), 1);
}

#[test]
fn the_remedy_for_a_target_that_is_no_list_can_be_typed() {
    assert_eq!(
        findings("targets.gw = \"192.0.2.254\""),
        ["error: [connectivity.targets.gw] has the type string; write gw = [\"192.0.2.254\"]"]
    );
    assert_eq!(
        findings("targets.\"192.0.2.254\" = true"),
        ["error: [connectivity.targets.\"192.0.2.254\"] has the type boolean; write \
          \"192.0.2.254\" = [\"...\"]"]
    );
    assert_eq!(
        findings("targets.gw = [1]"),
        ["error: an address to ping has the type integer; write \"ADDRESS\""]
    );
}

#[test]
fn an_address_is_pinged_once() {
    assert_eq!(
        findings("targets.a = [\"203.0.113.1\"]\ntargets.b = [\"203.0.113.1\"]"),
        ["error: 203.0.113.1 is in [connectivity.targets.a] already; ping it once"]
    );
    assert_eq!(
        findings("targets.a = []"),
        ["error: [connectivity.targets.a] has no address; name at least one"]
    );
    let many: Vec<String> = (0..17).map(|number| format!("\"203.0.113.{number}\"")).collect();
    assert_eq!(
        findings(&format!("targets.a = [{}]", many.join(","))),
        ["error: [connectivity.targets.a] has 17 addresses; keep to 16, or make two targets"]
    );
    let many: Vec<String> =
        (0..65).map(|number| format!("targets.t{number} = [\"203.0.113.{number}\"]")).collect();
    assert_eq!(findings(&many.join("\n")), ["error: 65 ping targets are too many; keep to 64"]);
}
