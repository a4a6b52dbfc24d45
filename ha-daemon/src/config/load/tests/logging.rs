//! `[logging]`, `[realtime]`, and where scripts are.

use super::*;

#[track_caller]
fn with(section: &str) -> Vec<String> {
    Place::new().findings(&format!("{CLEAN}\n{section}\n"))
}

#[track_caller]
fn config(section: &str) -> Config {
    Place::new().parse(&format!("{CLEAN}\n{section}\n")).unwrap()
}

#[test]
fn nothing_is_logged_elsewhere_unless_it_is_asked_for() {
    let plain = config("");
    assert_eq!(plain.logging, Logging::default());
    assert!(plain.realtime.enabled);
    assert!(plain.script_directory.ends_with("resource.d"));
}

#[test]
fn log_files_facility_and_level_are_read() {
    let section = "[logging]\nfile = \"/var/log/ha-log\"\ndebug_file = \"/var/log/ha-debug\"\n\
                   syslog_facility = \"local0\"\ndebug = true\n[realtime]\nenabled = false";
    let config = config(section);
    let expected = Logging {
        file: Some("/var/log/ha-log".into()),
        debug_file: Some("/var/log/ha-debug".into()),
        syslog_facility: Some("local0".to_owned()),
        debug: true,
    };
    assert_eq!(config.logging, expected);
    assert!(!config.realtime.enabled);
}

#[test]
fn what_is_wrong_is_refused_at_its_place() {
    for (section, finding) in [
        (
            "[logging]\nfile = \"ha-log\"",
            "26:8: error: file \"ha-log\" is not an absolute path; start it with /",
        ),
        (
            "[logging]\nsyslog_facility = \"locol0\"",
            "26:19: error: unknown syslog_facility \"locol0\"; did you mean \"local0\"?",
        ),
        (
            "[logging]\ndebug = 1",
            "26:9: error: debug has the type integer; write debug = true or debug = false",
        ),
        (
            "[detection]\nask = false",
            "26:7: warning: ask = false: a peer whose daemon is only slow is taken for dead; leave it out, except for experiments",
        ),
        (
            "[detection]\nown_pause = false",
            "26:13: warning: own_pause = false: a node that did not run itself takes its peers for dead; leave it out, except for experiments",
        ),
        (
            "[detection]\nasks = true",
            "26:1: error: unknown key \"asks\" in [detection]; did you mean \"ask\"?",
        ),
        (
            "[realtime]\nenable = true",
            "26:1: error: unknown key \"enable\" in [realtime]; did you mean \"enabled\"?",
        ),
    ] {
        assert_eq!(with(section), [format!("ha.toml:{finding}")], "{section}");
    }
}

#[test]
fn the_directory_of_scripts_may_be_another_one() {
    let place = Place::new();
    for (written, expected) in [
        ("/etc/ha.d/resource.d", "/etc/ha.d/resource.d".into()),
        ("scripts", place.dir.path().join("scripts")),
    ] {
        let line = format!("name = \"shop\"\nscript_directory = \"{written}\"\n");
        let config = place.parse(&CLEAN.replace("name = \"shop\"\n", &line)).unwrap();
        assert_eq!(config.script_directory, expected);
    }
}
