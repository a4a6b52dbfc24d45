use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::config::{Endpoint, Position};

const CLEAN: &str = r#"[cluster]
name = "shop"
auth = { file = "authkeys" }

[links.hb0]
kind = "ucast"
interface = "eth1"
[links.svc]
kind = "ucast"
interface = "eth0"

[nodes.alpha]
hb0 = "192.0.2.1"
svc = "2001:db8::1"
[nodes.beta]
hb0 = "192.0.2.2"
svc = "2001:db8::2"
[nodes.gamma]
hb0 = "192.0.2.3"
svc = "2001:db8::3"

[groups.web]
nodes = ["alpha", "beta"]
resources = [
  { kind = "address", address = "192.0.2.10/24", interface = "eth1" },
  { kind = "address", address = "2001:db8::10/64", interface = "eth0" },
]
"#;

fn write(text: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let key_file = dir.path().join("authkeys");
    fs::write(&key_file, "auth 1\n1 siphash a-word-that-is-long-enough\n").unwrap();
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).unwrap();
    let path = dir.path().join("ha.toml");
    fs::write(&path, text).unwrap();
    (dir, path)
}

fn config() -> Config {
    let (_dir, path) = write(CLEAN);
    load::load(&path).unwrap()
}

/// What is found on a node with these interfaces; places are those of the file.
fn on_node(node: &str, interfaces: &[(&str, &[&str])]) -> Vec<String> {
    let (_dir, path) = write(CLEAN);
    let reading = load::read(&path);
    let config = reading.config.unwrap();
    let node = config.node_named(&node.parse().unwrap()).unwrap();
    let parse = |prefixes: &&[&str]| prefixes.iter().map(|text| text.parse().unwrap()).collect();
    let interfaces =
        interfaces.iter().map(|(name, prefixes)| ((*name).to_owned(), parse(prefixes))).collect();
    let file = Path::new("ha.toml");
    let places = Some((file, &reading.places));
    let findings = Local { config: &config, node, places, interfaces }.findings();
    findings.iter().map(Finding::to_string).collect()
}

const ETH1: (&str, &[&str]) = ("eth1", &["192.0.2.1/24"]);
const ETH0: (&str, &[&str]) = ("eth0", &["2001:db8::1/64", "fe80::1/64"]);

#[test]
fn the_exit_code_is_that_of_the_worst_finding() {
    assert_eq!(exit_code(&[]), 0);
    let warning = Finding::warning("late", "wait");
    let error = Finding::error("dead", "fence");
    assert_eq!(exit_code(std::slice::from_ref(&warning)), 1);
    assert_eq!(exit_code(std::slice::from_ref(&error)), 2);
    assert_eq!(exit_code(&[warning.clone(), error, warning]), 2);
}

#[test]
fn a_finding_is_one_line_with_place_severity_message_and_remedy() {
    let finding = Finding::error("a\nb", "c");
    assert_eq!(finding.to_string(), "error: a\\nb; c");
    let finding = finding.in_file(Path::new("ha.toml"));
    assert_eq!(finding.to_string(), "ha.toml: error: a\\nb; c");
    let finding = finding.at(Position { line: 3, column: 1 });
    assert_eq!(finding.to_string(), "ha.toml:3:1: error: a\\nb; c");
}

#[test]
fn check_tells_errors_and_warnings_of_the_file() {
    let (_dir, path) = write(CLEAN);
    assert_eq!(check(&path), []);
    let (_dir, path) = write(&CLEAN.replace("\"shop\"\n", "\"shop\"\ndeadtime = \"80ms\"\n"));
    assert_eq!(exit_code(&check(&path)), 1);
    let (_dir, path) = write(&CLEAN.replace("\"shop\"\n", "\"shop\"\ndeadtime = \"8ms\"\n"));
    assert_eq!(exit_code(&check(&path)), 2);
    assert_eq!(exit_code(&check(Path::new("/nowhere/ha.toml"))), 2);
}

#[test]
fn an_unknown_own_node_is_an_error_that_lists_the_known_ones() {
    let (_dir, path) = write(CLEAN);
    let findings = check_on_node(&path, Some("delta"));
    let message = "this node is not in the configuration: --node says \"delta\", the nodes are \
                   alpha, beta, gamma";
    let expected = format!(
        "{}:12:8: error: {message}; say which one this is with --node, or add it",
        path.display()
    );
    let lines: Vec<_> = findings.iter().map(Finding::to_string).collect();
    assert_eq!(lines, [expected]);
}

#[test]
fn the_own_node_is_the_one_named_else_that_of_uname() {
    let mut config = config();
    assert_eq!(own_node(&config, Some("beta")), Ok(NodeIndex(1)));
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    config.nodes[2].name = host.parse().unwrap();
    assert_eq!(own_node(&config, None), Ok(NodeIndex(2)));
}

#[test]
fn a_node_whose_interfaces_fit_has_no_findings() {
    assert_eq!(on_node("alpha", &[ETH0, ETH1]), [""; 0]);
}

#[test]
fn a_missing_interface_is_warned_about_with_those_there_are() {
    let remedy = "name one of: eth0, lo";
    let expected = [
        format!("ha.toml:13:7: warning: this node has no interface eth1; {remedy}"),
        format!("ha.toml:25:33: warning: this node has no interface eth1; {remedy}"),
    ];
    assert_eq!(on_node("alpha", &[ETH0, ("lo", &["127.0.0.1/8"])]), expected);
}

#[test]
fn a_node_that_is_no_candidate_needs_no_interface_for_the_group() {
    let eth1: (&str, &[&str]) = ("eth1", &["192.0.2.3/32"]);
    let eth0: (&str, &[&str]) = ("eth0", &["2001:db8::3/128"]);
    assert_eq!(on_node("gamma", &[eth0, eth1]), [""; 0]);
}

#[test]
fn an_interface_without_the_address_family_is_warned_about() {
    let expected = [
        "ha.toml:13:7: warning: eth1 has no IPv4 address on this node; \
         give it one, or name another interface for 192.0.2.1",
        "ha.toml:25:33: warning: eth1 has no IPv4 address on this node; \
         give it one, or name another interface for 192.0.2.10",
    ];
    assert_eq!(on_node("alpha", &[ETH0, ("eth1", &["fe80::2/64"])]), expected);
}

#[test]
fn an_address_outside_of_every_prefix_is_warned_about() {
    let eth1: (&str, &[&str]) = ("eth1", &["192.0.2.1/32", "203.0.113.1/24"]);
    let expected = "ha.toml:25:33: warning: 192.0.2.10 is outside of every prefix of eth1 on this \
                    node (192.0.2.1/32, 203.0.113.0/24); name the interface of its network, or \
                    correct the address";
    assert_eq!(on_node("alpha", &[ETH0, eth1]), [expected]);
}

#[test]
fn a_floating_address_that_is_up_does_not_vouch_for_itself() {
    let eth1: (&str, &[&str]) = ("eth1", &["192.0.2.1/32", "192.0.2.10/24"]);
    assert_eq!(on_node("alpha", &[ETH0, eth1]).len(), 1);
}

#[test]
fn an_endpoint_that_its_interface_does_not_have_is_warned_about() {
    let expected = "ha.toml:13:7: warning: eth1 does not have the address 192.0.2.1 of this node; \
                    add it to the interface, or correct it here";
    assert_eq!(on_node("alpha", &[ETH0, ("eth1", &["192.0.2.9/24"])]), [expected]);
}

#[test]
fn local_findings_are_warnings_because_interfaces_may_come_up_later() {
    let mut config = config();
    for node in &mut config.nodes {
        for endpoint in node.endpoints.values_mut() {
            let interface = "no-such-device".parse().unwrap();
            *endpoint = Endpoint::Network { interface, address: endpoint.address() };
        }
    }
    let findings = check_local(&config, NodeIndex(2));
    assert_eq!(findings.len(), 2);
    assert!(findings.iter().all(|finding| finding.file.is_none()));
    assert_eq!(exit_code(&findings), 1);
}

/// What is found on alpha with ETH1 and ETH0 when the file has one more link.
fn with_link(text: &str) -> Vec<String> {
    on_alpha(&CLEAN.replace("[nodes.alpha]", &format!("{text}\n[nodes.alpha]")))
}

/// What is found on alpha with ETH1 and ETH0.
fn on_alpha(text: &str) -> Vec<String> {
    let (_dir, path) = write(text);
    let reading = load::read(&path);
    let config = reading.config.unwrap();
    let own = |(name, prefixes): (&str, &[&str])| {
        (name.to_owned(), prefixes.iter().map(|text| text.parse().unwrap()).collect())
    };
    let interfaces = [ETH1, ETH0].map(own).into();
    let (node, places) = (NodeIndex(0), Some((Path::new("ha.toml"), &reading.places)));
    let findings = Local { config: &config, node, places, interfaces }.findings();
    findings.iter().map(Finding::to_string).collect()
}

#[test]
fn a_link_without_addresses_needs_an_interface_of_its_family() {
    let mcast = |interface: &str, group: &str| {
        format!("[links.x]\nkind = \"mcast\"\ninterface = \"{interface}\"\ngroup = \"{group}\"")
    };
    assert_eq!(with_link(&mcast("eth1", "225.0.0.1")), [""; 0]);
    assert_eq!(with_link(&mcast("eth0", "ff12::1")), [""; 0]);
    let expected = "ha.toml:12:8: warning: eth0 has no IPv4 address on this node; give it one, or name \
                    another interface for heartbeats";
    assert_eq!(with_link(&mcast("eth0", "225.0.0.1")), [expected]);
    let expected =
        "ha.toml:12:8: warning: this node has no interface eth7; name one of: eth0, eth1";
    assert_eq!(with_link("[links.x]\nkind = \"bcast\"\ninterface = \"eth7\""), [expected]);
}

#[test]
fn remotes_that_are_all_this_nodes_own_are_found() {
    let text =
        "[links.x]\nkind = \"ucast\"\ninterface = \"eth1\"\nremotes = [\"192.0.2.1\"]\nport = 700";
    let expected = "ha.toml:12:8: warning: all remotes are addresses of this node; add the peers'";
    assert_eq!(with_link(text), [expected]);
    let more = text.replace("\"192.0.2.1\"", "\"192.0.2.1\", \"192.0.2.2\", \"192.0.2.3\"");
    assert_eq!(with_link(&more), [""; 0], "with three nodes all others are meant");
}

#[test]
fn a_client_that_cannot_be_run_here_is_warned_about() {
    let client = |user: &str, program: &str| {
        format!("[[clients]]\nprogram = \"{program}\"\nuser = \"{user}\"\n")
    };
    let nobody = "nobody-has-this-name";
    // What the interfaces of this machine give is about the lines before.
    let found = |clients: &[String]| {
        let (dir, path) = write(&format!("{CLEAN}{}", clients.concat()));
        let mut findings = check_on_node(&path, Some("alpha"));
        findings.retain(|finding| finding.line.is_some_and(|line| line > 28));
        let prefix = format!("{}/", dir.path().display());
        findings.iter().map(|it| it.to_string().replace(&prefix, "")).collect::<Vec<_>>()
    };
    let expected = [
        "ha.toml:32:11: warning: the program \"/ha-no-such\" cannot be run: No such file or directory \
         (os error 2); install it, or correct the path",
        "ha.toml:33:8: warning: there is no user \"nobody-has-this-name\"; create it, or name another \
         one",
    ];
    assert_eq!(found(&[client("root", "/bin/sh"), client(nobody, "/ha-no-such")]), expected);
    let found = found(&[client("root", "/etc/passwd")]);
    assert!(found.len() == 1 && found[0].contains("it is not executable"), "{found:?}");
}

#[test]
fn a_script_is_looked_up_with_its_arguments() {
    let script = r#"{ kind = "script", name = "OCF", arguments = ["ha-test-agent", "a=b"] }"#;
    let text = CLEAN.replace("resources = [\n", &format!("resources = [\n  {script},\n"));
    let expected = "ha.toml:25:29: warning: there is neither a script OCF in resource.d nor an agent \
                    /usr/lib/ocf/resource.d/heartbeat/ha-test-agent; install resource-agents";
    assert_eq!(on_alpha(&text), [expected]);
}

/// Those of the file and those of the node, as one.
#[test]
fn findings_are_in_the_order_of_the_file() {
    let text =
        CLEAN.replace("eth", "ha-none").replace("[\"alpha\", \"beta\"]", "[\"alpha\"]").replace(
            "hb0 = \"192.0.2.1\"\nsvc = \"2001:db8::1\"",
            "svc = \"2001:db8::1\"\nhb0 = \"192.0.2.1\"",
        );
    let (_dir, path) = write(&format!("{text}[detection]\nask = false\n"));
    let found = check_on_node(&path, Some("alpha"));
    let lines: Vec<_> = found.iter().map(|finding| finding.line.unwrap()).collect();
    assert_eq!(lines, [13, 14, 23, 25, 26, 29], "{found:#?}");
}
