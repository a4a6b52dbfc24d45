//! Claims about keys, syntax and findings in general.

use std::path::Path;

use super::{CLEAN, Place, findings, with_cluster};
use crate::config::exit_code;
use crate::config::load::reader::{FINDINGS_MAX, Reader};

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    let expected =
        [r#"ha.toml:3:1: error: unknown key "keepalvie" in [cluster]; did you mean "keepalive"?"#];
    assert_eq!(with_cluster(r#"keepalvie = "50ms""#), expected);
}

#[test]
fn an_unknown_key_like_no_other_is_refused_with_all_known_ones() {
    let expected = [
        r#"ha.toml:3:1: error: unknown key "colour" in [cluster]; known keys: name, keepalive, deadtime, deadtime_min, deadtime_max, warntime, initdead, daemon_deadtime, port, on_doubt, address_lifetime, script_timeout, state_dir, script_directory, auth"#,
    ];
    assert_eq!(with_cluster(r#"colour = 1"#), expected);
}

#[test]
fn an_unknown_section_is_refused() {
    let expected =
        [r#"ha.toml:1:1: error: unknown key "clutser" in the file; did you mean "cluster"?"#];
    assert_eq!(
        findings(
            r#"[cluster]
"#,
            r#"clutser = 1
[cluster]
"#
        ),
        expected
    );
}

#[test]
fn unknown_keys_of_every_table_are_found_at_once() {
    let expected = [
        r#"ha.toml:8:1: error: unknown key "recieve" in [links.hb0]; did you mean "receive"?"#,
        r#"ha.toml:10:1: error: unknown key "brust" in [announce]; did you mean "burst"?"#,
    ];
    assert_eq!(
        findings(
            "interface = \"eth1\"\n",
            "interface = \"eth1\"\nrecieve = 1\n[announce]\nbrust = 1\n"
        ),
        expected
    );
}

#[test]
fn a_syntax_error_is_refused_alone() {
    let expected = [
        "ha.toml:2:8: error: string values must be quoted, expected literal string; correct the TOML here",
    ];
    assert_eq!(findings(r#"name = "shop""#, r#"name = shop"#), expected);
}

#[test]
fn a_key_that_is_there_twice_is_refused() {
    let expected = ["ha.toml:3:1: error: duplicate key \"name\"; keep one of them"];
    assert_eq!(with_cluster(r#"name = "store""#), expected);
    let expected = ["ha.toml:17:8: error: duplicate key \"b a\"; keep one of them"];
    assert_eq!(
        findings("[nodes.beta]\n", "[nodes.'b a']\n[nodes.beta]\n[nodes.'b a']\n"),
        expected
    );
}

#[test]
fn more_than_the_limit_is_refused() {
    let place = Place::new();
    let links = (0..9).map(|n| format!("links.l{n} = {{ kind = \"ucast\", interface = \"e\" }}\n"));
    let found = place.findings(&(links.collect::<String>() + CLEAN));
    let expected = "ha.toml:8:7: error: 11 links are too many; keep to 8";
    assert!(found.iter().any(|finding| finding == expected), "{found:#?}");
    let nodes: String = (0..63).map(|n| format!("nodes.n{n} = {{}}\n")).collect();
    let found = place.findings(&(nodes + CLEAN));
    let expected = "ha.toml:10:7: error: 65 nodes are too many; keep to 64";
    assert!(found.iter().any(|finding| finding == expected), "{found:#?}");
    let groups: String = (0..64).map(|n| format!("groups.g{n:02} = {{}}\n")).collect();
    let found = place.findings(&(groups + CLEAN));
    let expected = "ha.toml:83:9: error: 65 groups are too many; keep to 64";
    assert!(found.iter().any(|finding| finding == expected), "{found:#?}");
    let resources = "{ kind = \"systemd\" }, ".repeat(65);
    let found = findings("resources = [\n", &format!("resources = [\n{resources}\n"));
    let expected = "ha.toml:21:13: error: [groups.web] has 66 resources; \
                    keep to 64, or make two groups";
    assert_eq!(found[0], expected);
}

#[test]
fn a_single_path_of_many_pairs_is_one_finding() {
    let place = Place::new();
    let more: String =
        (3..9).map(|n| format!("nodes.n{n} = {{ hb0 = \"192.0.2.{n}\" }}\n")).collect();
    assert_eq!(place.findings(&(more + CLEAN)).len(), 1);
}

#[test]
fn errors_alone_are_in_the_refusal_and_in_the_order_of_the_file() {
    let place = Place::new();
    let text = CLEAN
        .replace("[\"alpha\", \"beta\"]", "[\"alpha\"]")
        .replace("name = \"shop\"", "name = \"shop\"\nport = 0\nkeepalvie = 1");
    let error = place.parse(&text).unwrap_err();
    let path = place.config_path();
    let path = path.display();
    let expected = format!(
        "{path}:3:8: port = 0 is out of range; give a number from 1 to 65535\n\
         {path}:4:1: unknown key \"keepalvie\" in [cluster]; did you mean \"keepalive\"?"
    );
    assert_eq!(error.to_string(), expected);
}

#[test]
fn what_is_quoted_cannot_steer_a_terminal_nor_flood_it() {
    let long = "x".repeat(10_000);
    let found = with_cluster(&format!("\"\\u001b[2J{long}\" = 1")).concat();
    assert!(found.starts_with("ha.toml:3:1: error: unknown key \"\\u{1b}[2Jxxx"), "{found}");
    assert!(found.len() < 400, "{found}");
}

#[test]
fn columns_count_characters_and_lines_end_in_either_way() {
    let text = CLEAN.replace('\n', "\r\n").replace("auth = {", "auth = { \"\u{e9}\" = 1,");
    let found = Place::new().findings(&format!("\u{feff}{text}"));
    let expected =
        "ha.toml:3:10: error: unknown key \"\u{e9}\" in [cluster.auth]; known keys: file";
    assert_eq!(found, [expected]);
    let text = CLEAN.replace("{ file =", "{ \"\u{e9}\" = 1, fiel =");
    assert!(Place::new().findings(&text).iter().any(|found| found.starts_with("ha.toml:3:19: ")));
}

#[test]
fn findings_beyond_the_most_that_are_shown_are_counted() {
    let unknown: String = (0..300).map(|n| format!("unknown{n} = 1\n")).collect();
    let found = Place::new().findings(&(unknown + CLEAN));
    assert_eq!(found.len(), 201);
    let last = "ha.toml: error: 100 more findings are not shown; correct the others first";
    assert_eq!(found[200], last);
}

#[test]
fn many_warnings_alone_refuse_nothing() {
    let mut reader = Reader::new(Path::new("ha.toml"), "");
    for _ in 0..=FINDINGS_MAX {
        reader.warning(&(0..0), "late", "wait");
    }
    let findings = reader.into_findings();
    assert_eq!(findings.len(), FINDINGS_MAX + 1);
    assert_eq!(exit_code(&findings), 1);
}

#[test]
fn the_remedy_for_another_type_names_the_words_that_are_known() {
    let expected = [
        r#"ha.toml:3:12: error: on_doubt has the type boolean; write on_doubt = "...", with one of: take, hold"#,
    ];
    assert_eq!(with_cluster("on_doubt = true"), expected);
    for (line, words) in
        [("failback = true", "auto, manual"), ("on_daemon_death = 1", "move, wait")]
    {
        let (key, value) = line.split_once(" = ").unwrap();
        let kind = if value == "1" { "integer" } else { "boolean" };
        let column = key.len() + 4;
        let expected = [format!(
            "ha.toml:20:{column}: error: {key} has the type {kind}; write {key} = \"...\", with one of: \
             {words}"
        )];
        assert_eq!(findings("[groups.web]\n", &format!("[groups.web]\n{line}\n")), expected);
    }
    let kind = r#"{ kind = "address","#;
    let expected = [
        r#"ha.toml:22:12: error: kind has the type integer; write kind = "...", with one of: address, source-address, script, systemd"#,
    ];
    assert_eq!(findings(kind, "{ kind = 1,"), expected);
}

#[test]
fn the_remedy_for_what_is_no_list_can_be_typed() {
    let nodes = r#"nodes = ["alpha", "beta"]"#;
    let expected = [r#"ha.toml:20:9: error: nodes has the type string; write nodes = ["alpha"]"#];
    assert_eq!(findings(nodes, r#"nodes = "alpha""#), expected);
    let expected = [r#"ha.toml:20:9: error: nodes has the type integer; write nodes = ["..."]"#];
    assert_eq!(findings(nodes, "nodes = 2"), expected);
    let expected =
        ["ha.toml:20:19: error: a node of the group has the type integer; write its name as in \
         [nodes.NAME], in quotes"];
    assert_eq!(findings(nodes, r#"nodes = ["alpha", 2]"#), expected);
    let place = Place::new();
    let clients = format!("{CLEAN}[clients]\nuser = \"nobody\"\n");
    let expected =
        "ha.toml:24:1: error: clients has the type table; write each as a table [[clients]]";
    assert_eq!(place.findings(&clients), [expected]);
}
