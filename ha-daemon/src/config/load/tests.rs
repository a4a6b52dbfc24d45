//! Claims about the configuration file. Every refusal is compared whole: place, message, remedy.

mod cluster;
mod connectivity;
mod deadtime;
mod groups;
mod keys;
mod links;
mod logging;
mod nodes;
mod resources;
mod serial;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::config::{
    AnnouncePlan, AuthMethod, Detection, Endpoint, Failback, Logging, OnDoubt, Receive, Resource,
    check,
};

/// A directory with a key file, for configurations that name `authkeys`.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key_file = dir.path().join("authkeys");
        fs::write(&key_file, "auth 1\n1 siphash a-word-that-is-long-enough\n").unwrap();
        fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).unwrap();
        Self { dir }
    }

    fn config_path(&self) -> PathBuf {
        self.dir.path().join("ha.toml")
    }

    fn parse(&self, text: &str) -> Result<Config, ConfigError> {
        parse(text, &self.config_path())
    }

    /// All findings as they are printed, without the directory.
    fn findings(&self, text: &str) -> Vec<String> {
        let dir = format!("{}/", self.dir.path().display());
        let findings = read_text(text, &self.config_path()).findings;
        findings.iter().map(|finding| finding.to_string().replace(&dir, "")).collect()
    }
}

/// Clean: not even a warning.
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
svc = "198.51.100.1"
[nodes.beta]
hb0 = "192.0.2.2"
svc = "198.51.100.2"

[groups.web]
nodes = ["alpha", "beta"]
resources = [
  { kind = "address", address = "198.51.100.10/24", interface = "eth0" },
]
"#;

/// The findings of the clean configuration after one edit.
#[track_caller]
fn findings(from: &str, to: &str) -> Vec<String> {
    assert_eq!(CLEAN.matches(from).count(), 1, "{from:?} is to be there once");
    Place::new().findings(&CLEAN.replace(from, to))
}

/// The findings of the clean configuration with one more line in `[cluster]`, its third.
#[track_caller]
fn with_cluster(line: &str) -> Vec<String> {
    findings("name = \"shop\"\n", &format!("name = \"shop\"\n{line}\n"))
}

const FULL: &str = r#"
[groups.web]
nodes = ["beta", "alpha"]
failback = "manual"
resources = [
  { kind = "address", address = "198.51.100.10/24", interface = "eth0" },
  { kind = "address", address = "2001:db8::10/64", interface = "eth0" },
]
[groups.db]
nodes = ["alpha", "beta"]
resources = [{ kind = "address", address = "198.51.100.11/24", interface = "eth0" }]

[nodes.beta]
svc = "2001:db8::2"
hb0 = { interface = "enp2s0", address = "192.0.2.2" }
[nodes.alpha]
hb0 = "192.0.2.1"
svc = "2001:db8::1"

[links.svc]
kind = "ucast"
interface = "eth0"
receive = "tc"
[links.hb0]
kind = "ucast"
interface = "eth1"

[announce]
burst = 5
repeat = ["20ms", "1s"]
refresh = "off"

[cluster]
name = "shop"
keepalive = "10ms"
deadtime = "30ms"
warntime = "15ms"
initdead = "5s"
daemon_deadtime = "12s"
port = 1694
on_doubt = "hold"
address_lifetime = "10s"
state_dir = "/var/lib/ha-shop"
auth = { file = "authkeys" }
"#;

#[test]
fn every_key_arrives_in_the_configuration() {
    let config = Place::new().parse(FULL).unwrap();
    let cluster = &config.cluster;
    assert_eq!((cluster.name.as_str(), cluster.port), ("shop", 1694));
    assert_eq!(cluster.id, ha_common::wire::name_id("shop"));
    assert_eq!(cluster.keepalive, Duration::from_millis(10));
    assert_eq!(cluster.deadtime, Duration::from_millis(30));
    assert_eq!(cluster.warntime, Duration::from_millis(15));
    assert_eq!(cluster.initdead, Duration::from_secs(5));
    assert_eq!(cluster.daemon_deadtime, Duration::from_secs(12));
    assert_eq!(cluster.on_doubt, OnDoubt::Hold);
    assert_eq!(cluster.address_lifetime, Duration::from_secs(10));
    assert_eq!(cluster.state_dir.as_deref(), Some(Path::new("/var/lib/ha-shop")));
    assert_eq!((config.keys.active, config.keys.keys.len()), (1, 1));
    assert_eq!(config.keys.keys[0].method, AuthMethod::SipHash24);
    let announce = AnnouncePlan {
        burst: 5,
        repeat: vec![Duration::from_millis(20), Duration::from_secs(1)],
        refresh: None,
    };
    assert_eq!(config.announce, announce);
    assert_eq!(config.groups[1].failback, Failback::Manual);
}

#[test]
fn links_nodes_and_groups_are_sorted_by_name_and_refer_to_each_other_by_position() {
    let config = Place::new().parse(FULL).unwrap();
    let links: Vec<_> =
        config.links.iter().map(|l| (l.name.as_str(), l.kind.word(), l.receive)).collect();
    let expected = [("hb0", "ucast", Receive::Auto), ("svc", "ucast", Receive::Tc)];
    assert_eq!(links, expected);
    let nodes: Vec<_> = config.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(nodes, ["alpha", "beta"]);
    assert_eq!(config.node_named(&"beta".parse().unwrap()), Some(NodeIndex(1)));
    let endpoint = |address: &str, interface: &str| Endpoint::Network {
        address: Some(address.parse().unwrap()),
        interface: interface.parse().unwrap(),
    };
    assert_eq!(config.nodes[0].endpoints[&LinkIndex(0)], endpoint("192.0.2.1", "eth1"));
    assert_eq!(config.nodes[1].endpoints[&LinkIndex(0)], endpoint("192.0.2.2", "enp2s0"));
    assert_eq!(config.nodes[1].endpoints[&LinkIndex(1)], endpoint("2001:db8::2", "eth0"));
    let groups: Vec<_> = config.groups.iter().map(|group| group.name.as_str()).collect();
    assert_eq!(groups, ["db", "web"]);
    assert_eq!(config.groups[1].nodes, [NodeIndex(1), NodeIndex(0)]);
    let labels: Vec<_> = config.groups[1].resources.iter().map(Resource::label).collect();
    assert_eq!(labels, ["198.51.100.10/24", "2001:db8::10/64"]);
}

#[test]
fn identifiers_are_those_of_the_names() {
    let config = Place::new().parse(FULL).unwrap();
    let id = ha_common::wire::name_id;
    assert!(config.links.iter().all(|link| link.id == id(link.name.as_str())));
    assert!(config.nodes.iter().all(|node| node.id == id(node.name.as_str())));
    assert!(config.groups.iter().all(|group| group.id == id(group.name.as_str())));
}

#[test]
fn what_is_left_out_has_the_documented_default() {
    let config = Place::new().parse(CLEAN).unwrap();
    let cluster = &config.cluster;
    assert_eq!(cluster.keepalive, Duration::from_millis(50));
    assert_eq!(cluster.deadtime, Duration::from_millis(200));
    assert_eq!(cluster.warntime, Duration::from_millis(100));
    assert_eq!(cluster.initdead, Duration::from_secs(2));
    assert_eq!(cluster.daemon_deadtime, Duration::from_secs(3));
    assert_eq!(config.detection, Detection { ask: true, own_pause: true });
    assert_eq!((cluster.port, cluster.on_doubt), (694, OnDoubt::Take));
    assert_eq!(cluster.address_lifetime, Duration::from_secs(2));
    assert_eq!(cluster.state_dir, None);
    let millis = [10, 100, 500, 1_000, 2_000, 5_000, 10_000];
    let announce = AnnouncePlan {
        burst: 3,
        repeat: millis.map(Duration::from_millis).to_vec(),
        refresh: Some(Duration::from_secs(60)),
    };
    assert_eq!(config.announce, announce);
    assert_eq!(config.links[0].receive, Receive::Auto);
    assert_eq!(config.groups[0].failback, Failback::Auto);
}

#[test]
fn defaults_follow_the_times_that_are_given() {
    let place = Place::new();
    let with = |times: &str| {
        let text = CLEAN.replace("name = \"shop\"\n", &format!("name = \"shop\"\n{times}\n"));
        place.parse(&text).unwrap().cluster
    };
    let short = with("keepalive = \"10ms\"\ndeadtime = \"15ms\"");
    assert_eq!(short.warntime, Duration::from_millis(10), "at least keepalive");
    assert_eq!(short.initdead, Duration::from_secs(1), "at least one second");
    let long = with("keepalive = \"1s\"\ndeadtime = \"30m\"");
    assert_eq!(long.initdead, Duration::from_secs(3600), "at most the longest duration");
}

#[test]
fn a_clean_file_has_no_findings() {
    assert_eq!(Place::new().findings(CLEAN), [""; 0]);
    assert_eq!(Place::new().findings(FULL), [""; 0]);
}

#[test]
fn loopback_endpoints_are_allowed_for_trials_on_one_machine() {
    let text = CLEAN.replace("192.0.2.", "127.0.0.");
    assert_eq!(Place::new().findings(&text), [""; 0]);
}

#[test]
fn a_cluster_without_groups_is_allowed() {
    let text = CLEAN.split("[groups.web]").next().unwrap();
    assert_eq!(Place::new().findings(text), [""; 0]);
    assert!(Place::new().parse(text).unwrap().groups.is_empty());
}

#[test]
fn a_file_is_loaded_as_its_text_is_parsed() {
    let place = Place::new();
    fs::write(place.config_path(), CLEAN).unwrap();
    assert_eq!(load(&place.config_path()), place.parse(CLEAN));
}

#[test]
fn warnings_come_with_the_configuration_and_errors_without_them() {
    let place = Place::new();
    let path = place.config_path();
    let late = CLEAN.replace("name = \"shop\"", "name = \"shop\"\ndeadtime = \"80ms\"");
    fs::write(&path, &late).unwrap();
    let (config, warnings) = load_with_warnings(&path).unwrap();
    assert_eq!(config.cluster.deadtime, Duration::from_millis(80));
    assert_eq!(warnings.len(), 1);
    fs::write(&path, late.replace("kind", "knid")).unwrap();
    let error = load_with_warnings(&path).unwrap_err();
    assert!(error.findings.iter().all(|finding| finding.severity == Severity::Error));
    assert_eq!(load(&path), Err(error));
}

#[test]
fn what_is_not_a_readable_file_is_refused_without_blocking() {
    let place = Place::new();
    let path = place.config_path();
    let refusal = |path: &Path| load(path).unwrap_err().to_string();
    let remedy = "name a readable TOML file with --config";
    let shown = path.display();
    let message = "cannot read the configuration";
    let missing = "No such file or directory (os error 2)";
    assert_eq!(refusal(&path), format!("{shown}: {message}: {missing}; {remedy}"));
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let irregular = "it is not a regular file";
    assert_eq!(refusal(&path), format!("{shown}: {message}: {irregular}; {remedy}"));
    fs::remove_file(&path).unwrap();
    let long = fs::File::create(&path).unwrap();
    long.set_len(CONFIG_BYTES_MAX + 1).unwrap();
    let too_long = "it is longer than 1048576 bytes";
    assert_eq!(refusal(&path), format!("{shown}: {message}: {too_long}; {remedy}"));
}

#[test]
fn bytes_that_are_no_text_are_refused_with_their_place() {
    let place = Place::new();
    let path = place.config_path();
    fs::write(&path, b"[cluster]\nname = \"caf\xe9\"\n").unwrap();
    let error = load(&path).unwrap_err().to_string();
    let expected = ":2:12: this byte is not UTF-8; save the file as UTF-8";
    assert_eq!(error, format!("{}{expected}", path.display()));
}

/// Loads a configuration from `configs/`, beside the example key file with mode 600.
fn load_ready(name: &str) -> (Config, Vec<Finding>) {
    let configs = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../configs"));
    let place = Place::new();
    let key_file = place.dir.path().join("authkeys");
    fs::write(&key_file, fs::read(configs.join("authkeys.example")).unwrap()).unwrap();
    fs::copy(configs.join(name), place.config_path()).unwrap();
    let reading = read(&place.config_path());
    (reading.config.expect(name), reading.findings)
}

#[test]
fn the_ready_configuration_for_two_nodes_is_clean() {
    let (config, findings) = load_ready("two-nodes.toml");
    assert_eq!((config.nodes.len(), config.links.len(), config.groups.len()), (2, 2, 1));
    assert_eq!(findings, []);
}

#[test]
fn the_ready_configuration_for_three_nodes_is_clean() {
    let (config, findings) = load_ready("three-nodes.toml");
    assert_eq!((config.nodes.len(), config.links.len(), config.groups.len()), (3, 2, 2));
    assert_eq!(config.links[1].receive, Receive::XdpNative);
    assert_eq!(findings, []);
}

#[test]
fn every_node_of_the_ready_configuration_for_three_can_carry_its_addresses() {
    let (config, _) = load_ready("three-nodes.toml");
    let prefixes = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    for (index, (name, storage)) in
        [("north", "eth1"), ("south", "eth1"), ("spare", "enp2s0")].into_iter().enumerate()
    {
        assert_eq!(config.nodes[index].name.as_str(), name);
        let number = index + 1;
        let addresses = [
            format!("192.0.2.{number}/24"),
            format!("2001:db8:1::{number}/64"),
            format!("198.51.100.{number}/24"),
        ];
        let [cable, service, other] = addresses.each_ref().map(String::as_str);
        let interfaces = [
            (storage.to_owned(), prefixes(&[cable])),
            ("eth0".to_owned(), prefixes(&[service, other])),
        ];
        let found = check::findings_on(&config, NodeIndex(index), None, interfaces.into());
        assert_eq!(found, [], "{name}");
    }
}

#[test]
fn the_ready_configuration_with_other_links_is_clean() {
    let (config, findings) = load_ready("serial-and-ping.toml");
    let kinds: Vec<&str> = config.links.iter().map(|link| link.kind.word()).collect();
    assert_eq!(kinds, ["mcast", "serial"]);
    assert_eq!((config.nodes.len(), config.connectivity.targets.len()), (2, 1));
    assert!(config.nodes.iter().all(|node| node.endpoints.len() == 2));
    assert_eq!(findings, []);
}

/// Fragments that turn up in configurations, to get deeper than random characters would.
const FRAGMENTS: &[&str] = &[
    "[",
    "]",
    "{",
    "}",
    "=",
    ",",
    ".",
    "\"",
    "'''",
    "\n",
    "\u{0}",
    "\u{feff}",
    "\u{e9}",
    "[[a]]",
    "#",
    "-1",
    "0x7f",
    "1e999",
    "nan",
    "true",
    "1979-05-27",
    "\"0ms\"",
    "\"9999999999999999999s\"",
    "\"::1\"",
    "\"198.51.100.10/24\"",
    "\"0.0.0.0/0\"",
    "\"::/129\"",
    "[links.hb0]",
    "[nodes.alpha]",
    "[groups.web]",
    "cluster.auth.file = \"/dev/zero\"",
    "interface = \"\"",
    "kind = \"serial\"",
];

proptest! {
    #[test]
    fn mutated_text_never_panics_and_a_refusal_has_a_reason(
        edits in prop::collection::vec(
            (any::<prop::sample::Index>(), 0_usize..24, prop::sample::select(FRAGMENTS)),
            1..6,
        )
    ) {
        let place = Place::new();
        let mut text = FULL.to_owned();
        for (index, removed, inserted) in edits {
            let boundaries: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
            let start = if boundaries.is_empty() { 0 } else { boundaries[index.index(boundaries.len())] };
            let end = text.char_indices().map(|(at, _)| at).find(|at| *at >= start + removed);
            text.replace_range(start..end.unwrap_or(text.len()), inserted);
        }
        if let Err(error) = place.parse(&text) {
            prop_assert!(!error.findings.is_empty());
            prop_assert!(error.findings.iter().all(|finding| !finding.remedy.is_empty()));
        }
    }

    #[test]
    fn any_text_never_panics(text in any::<String>()) {
        let refused = Place::new().parse(&text);
        prop_assert!(refused.is_err());
    }
}
