//! Every directive of the original does something, or says why not.

use super::super::directives::{DIRECTIVES, Directive, Treatment};
use super::*;

/// All directives of Heartbeat 3.0.6: those of its program's tables and its plugins.
const ALL: &[&str] = &[
    "apiauth",
    "auto_failback",
    "autojoin",
    "baud",
    "bcast",
    "cluster",
    "compression",
    "compression_threshold",
    "conn_logd_time",
    "coredumps",
    "coreroot",
    "crm",
    "crm_daemon_dir",
    "crmd_spawns_pengine",
    "deadping",
    "deadtime",
    "debug",
    "debugfile",
    "enable_config_writes",
    "env",
    "failfast",
    "hbaping",
    "hbgenmethod",
    "hopfudge",
    "initdead",
    "keepalive",
    "log_badpack",
    "logfacility",
    "logfile",
    "max_rexmit_delay",
    "mcast",
    "mcast6",
    "memreserve",
    "msgfmt",
    "nice_failback",
    "node",
    "pacemaker",
    "ping",
    "ping6",
    "ping_group",
    "quorum_server",
    "realtime",
    "record_config_changes",
    "record_pengine_inputs",
    "respawn",
    "rtprio",
    "serial",
    "stonith",
    "stonith_host",
    "syslogmsgfmt",
    "traditional_compression",
    "ucast",
    "ucast6",
    "udp",
    "udpport",
    "use_apphbd",
    "use_logd",
    "uuidfrom",
    "warntime",
    "watchdog",
];

/// The clean file with the example of a directive where it may stand: before the media.
fn with_example(directive: &Directive) -> (Option<Config>, Vec<String>) {
    // Of those that may stand once only, the example takes the place of the one that is there.
    let others = CLEAN
        .lines()
        .filter(|line| directive.name == "node" || line.split(' ').next() != Some(directive.name));
    let text = std::iter::once(directive.example).chain(others).collect::<Vec<_>>().join("\n");
    read(&text, RESOURCES)
}

#[test]
fn the_table_has_every_directive_of_the_original_once() {
    let mut names: Vec<_> = DIRECTIVES.iter().map(|directive| directive.name).collect();
    names.sort_unstable();
    assert_eq!(names, ALL);
    for directive in DIRECTIVES {
        assert_eq!(directive.example.split(' ').next(), Some(directive.name));
    }
}

#[test]
fn an_honoured_directive_changes_the_configuration_or_says_something() {
    let plain = clean(CLEAN, RESOURCES);
    for directive in DIRECTIVES {
        if !matches!(directive.treatment, Treatment::Honoured(_)) {
            continue;
        }
        let (config, findings) = with_example(directive);
        let said = findings.iter().any(|finding| finding.contains("ha.cf:1:"));
        assert!(config != Some(plain.clone()) || said, "{}: nothing came of it", directive.example);
    }
}

#[test]
fn a_directive_without_effect_warns_at_its_place_and_changes_nothing() {
    let plain = clean(CLEAN, RESOURCES);
    for directive in DIRECTIVES {
        let Treatment::NoEffect { why, remedy } = &directive.treatment else { continue };
        let (config, findings) = with_example(directive);
        assert_eq!(config.as_ref(), Some(&plain), "{}", directive.name);
        let name = directive.name;
        assert_eq!(
            findings,
            [format!("ha.cf:1:1: warning: {name} has no effect: {why}; {remedy}")]
        );
    }
}

#[test]
fn a_client_runs_as_somebody() {
    assert_eq!(
        after("node alpha\n", "respawn /root /bin/sh\nnode alpha\n"),
        [
            "ha.cf:9:9: error: \"/root\" is not the name of a user; write respawn USER /PATH/PROGRAM \
          ARGUMENTS..."
        ]
    );
}

#[test]
fn a_directive_that_would_be_unsafe_to_ignore_is_refused_at_its_place() {
    for directive in DIRECTIVES {
        let Treatment::Refused { why, remedy } = &directive.treatment else { continue };
        let (config, findings) = with_example(directive);
        assert_eq!(config, None, "{}", directive.name);
        let name = directive.name;
        assert_eq!(findings, [format!("ha.cf:1:1: error: {name} is refused: {why}; {remedy}")]);
    }
}

#[test]
fn no_directive_takes_an_empty_line_silently() {
    for directive in DIRECTIVES {
        let text = format!("{}\n{CLEAN}", directive.name);
        let (_, findings) = read(&text, RESOURCES);
        let here = findings.iter().any(|finding| finding.starts_with("ha.cf:1:1: "));
        assert!(here, "{}: {findings:?}", directive.name);
    }
}

#[test]
fn an_unknown_directive_is_refused_with_the_nearest_one() {
    assert_eq!(
        after("keepalive 1", "keepalvie 1"),
        ["ha.cf:1:1: error: unknown directive \"keepalvie\"; did you mean \"keepalive\"?"]
    );
    // Names have their case, as in the original.
    assert_eq!(
        after("keepalive 1", "Keepalive 1"),
        ["ha.cf:1:1: error: unknown directive \"Keepalive\"; did you mean \"keepalive\"?"]
    );
}

#[test]
fn the_manual_says_of_every_directive_what_becomes_of_it() {
    let manual = include_str!("../../../../../docs/from-heartbeat.md");
    for directive in DIRECTIVES {
        let row = format!("| `{}` | ", directive.name);
        let line = manual.lines().find_map(|line| line.strip_prefix(&row));
        let line = line.unwrap_or_else(|| panic!("docs/from-heartbeat.md has no row {row}"));
        let expected = match directive.treatment {
            Treatment::Honoured(_) => "honoured",
            Treatment::NoEffect { .. } => "warning",
            Treatment::Refused { .. } => "refused",
        };
        assert!(line.starts_with(expected), "{}: {line}", directive.name);
    }
}

#[test]
fn a_deadtime_that_finds_itself_is_for_toml() {
    let (config, findings) = read(&CLEAN.replace("deadtime 10", "deadtime auto"), RESOURCES);
    assert!(config.is_none());
    assert!(findings[0].starts_with("ha.cf:2:10: error: deadtime \"auto\""), "{findings:?}");
}
