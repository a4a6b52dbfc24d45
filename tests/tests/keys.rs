//! Every method of authentication between real daemons, and what they show of their keys: nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ha_tests::bed::{Cluster, GROUP, Node, Plan, turn_with_others};

/// A word that no random byte makes.
const WORD: &str = "S3cretWord-of-the-key-test";
/// Method, line of the key file behind its number, field of the map that shows something.
const METHODS: [(&str, &str); 5] = [
    ("crc", "crc"),
    ("md5", "md5 S3cretWord-of-the-key-test"),
    ("sha1", "sha1 S3cretWord-of-the-key-test"),
    ("sha256", "sha256 S3cretWord-of-the-key-test"),
    ("siphash", "siphash S3cretWord-of-the-key-test"),
];

fn pair(line: &str, receive: &str, deadtime: Duration) -> Result<Cluster> {
    let plan = Plan {
        web: false,
        deadtime,
        cluster_lines: vec!["initdead = \"10s\"".to_owned()],
        link_lines: vec![format!("receive = \"{receive}\"")],
        ..Plan::default()
    };
    let mut cluster = Cluster::build(plan)?;
    let keys = format!("# keys\n7 {line}\nauth 7\n");
    for node in &mut cluster.nodes {
        node.configure(&cluster.plan.config(&node.authkeys_path()), &keys)?;
        node.start_with(&[("RUST_LOG", "trace")])?;
    }
    cluster.start()?;
    Ok(cluster)
}

/// A pair works: heartbeats (both hear), control messages (the owner is known to both), the control
/// connection (a death is noticed long before deadtime).
fn works(method: &str, line: &str, receive: &str) -> Result<()> {
    let deadtime = Duration::from_secs(8);
    let mut cluster = pair(line, receive, deadtime)?;
    for node in &cluster.nodes {
        let status = node.status()?;
        let refused = |reason: &str| status.raw["packets"][reason].as_u64();
        ensure!(refused("bad-tag") == Some(0), "{method}: {:?}", refused("bad-tag"));
        ensure!(refused("unknown-key") == Some(0), "{method}: {:?}", refused("unknown-key"));
        let via = status.nodes.iter().flat_map(|it| &it.links).map(|link| link.via.clone());
        ensure!(via.clone().all(|it| it == receive), "{:?}", via.collect::<Vec<_>>());
        hides_its_keys(node, receive).with_context(|| format!("{method}, {}", node.name()))?;
    }
    // They are made after the first heartbeats; what ends is there. Both: the first end of two may be
    // noticed while the dying daemon still listens on the other path.
    cluster.wait_connected(2)?;
    let at_ns = cluster.node("alpha")?.kill_daemon_and_keeper()?;
    let beta = cluster.node("beta")?;
    beta.wait_event("daemon-gone", at_ns, deadtime / 2)
        .with_context(|| format!("{method}: the end of the control connection was not noticed"))?;
    beta.wait_until("the group", Duration::from_secs(10), |it| it.runs_on(GROUP, "beta"))?;
    cluster.node_mut("alpha")?.wait_exit(Duration::from_secs(10))?;
    cluster.bed.finish()
}

/// Neither the word, nor its bytes, nor its hexadecimal digits are anywhere.
fn hides_its_keys(node: &Node, receive: &str) -> Result<()> {
    let hidden = |what: &str, shown: &[u8]| -> Result<()> {
        let word = WORD.as_bytes();
        let hex: String = word.iter().map(|byte| format!("{byte:02x}")).collect();
        let shows =
            |secret: &[u8]| shown.windows(8).any(|it| secret.windows(8).any(|part| it == part));
        ensure!(!shows(word) && !shows(hex.as_bytes()), "{what} shows the key");
        Ok(())
    };
    // What searches does find.
    let file = fs::read(node.authkeys_path())?;
    let is_there = String::from_utf8_lossy(&file).contains(WORD);
    ensure!(hidden("the key file", &file).is_err() == is_there);
    for arguments in [["status"], ["nodes"], ["links"], ["groups"], ["events"]] {
        let shown = node.hactl_done(&arguments)?;
        ensure!(!shown.is_empty(), "{arguments:?} shows nothing");
        hidden(arguments[0], shown.as_bytes())?;
        hidden(arguments[0], node.hactl_done(&[arguments[0], "--json"])?.as_bytes())?;
    }
    let log = fs::read(node.log_path())?;
    ensure!(log.len() > 1_000, "there is no log");
    hidden("the log at trace level", &log)?;
    let (daemon, keeper) = node.pids()?;
    for pid in [Some(daemon), keeper].into_iter().flatten() {
        for file in ["cmdline", "environ"] {
            let shown = fs::read(format!("/proc/{pid}/{file}"))?;
            ensure!(!shown.is_empty(), "{file} of {pid} is empty");
            hidden(file, &shown)?;
        }
    }
    if receive != "socket" {
        map_hides(node, &hidden)?;
    }
    Ok(())
}

fn map_hides(node: &Node, hidden: &dyn Fn(&str, &[u8]) -> Result<()>) -> Result<()> {
    let pin = node.bpffs().join("keys");
    let mode = fs::metadata(&pin)?.permissions().mode() & 0o777;
    ensure!(mode & 0o077 == 0, "others may open {} (mode {mode:o})", pin.display());
    let dump = |json: &[&str]| -> Result<Vec<u8>> {
        let mut bpftool = Command::new("bpftool");
        let output = bpftool.args(json).args(["map", "dump", "pinned"]).arg(&pin).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(output.stdout)
    };
    let shown = dump(&[])?;
    hidden("the map", &shown)?;
    let text = String::from_utf8_lossy(&shown).into_owned();
    for field in ["method", "siphash", "inner", "outer"] {
        ensure!(text.contains(&format!("\"{field}\"")), "{field} is not in the dump:\n{text}");
    }
    let entries: serde_json::Value = serde_json::from_slice(&dump(&["-j"])?)?;
    let entries = entries.as_array().context("no list of entries")?;
    ensure!(entries.len() == 32, "{} entries", entries.len());
    for entry in entries {
        let bytes = entry["value"].as_array().context("no bytes of a value")?;
        let byte = |it: &serde_json::Value| {
            let text = it.as_str()?.trim_start_matches("0x");
            u8::from_str_radix(text, 16).ok()
        };
        let bytes: Option<Vec<u8>> = bytes.iter().map(byte).collect();
        let bytes = bytes.context("a value is not made of bytes")?;
        ensure!(bytes.len() == 104, "{} bytes", bytes.len());
        hidden("a value of the map", &bytes)?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: network namespaces; needs bpftool"]
fn every_method_works_in_the_kernel_and_shows_no_key() -> Result<()> {
    let _turn = turn_with_others();
    METHODS.iter().try_for_each(|(method, line)| works(method, line, "xdp-native"))
}

#[test]
#[ignore = "needs root: network namespaces"]
fn every_method_works_on_the_socket_and_shows_no_key() -> Result<()> {
    let _turn = turn_with_others();
    METHODS.iter().try_for_each(|(method, line)| works(method, line, "socket"))
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_checksum_is_warned_about_at_every_start_and_by_check() -> Result<()> {
    let _turn = turn_with_others();
    let cluster = pair("crc", "socket", Duration::from_millis(500))?;
    let alpha = cluster.node("alpha")?;
    let log = fs::read_to_string(alpha.log_path())?;
    let warning = "is a checksum (crc): it keeps noise out, not an attacker";
    ensure!(log.lines().any(|line| line.contains("WARN") && line.contains(warning)), "{log}");
    let config = alpha.config_path().display().to_string();
    let checked = alpha.ha_daemon(&["check", "--config", &config, "--node", "alpha"])?;
    ensure!(checked.code() == 1 && checked.stdout.contains(warning), "{checked:?}");
    cluster.bed.finish()
}

const OLD: &str = "auth 1\n1 sha1 the-word-before-the-change\n";
const NEW: &str = "auth 1\n1 siphash the-word-after-the-change\n";

/// Packets that a node refused because of their keys.
fn refused(node: &Node) -> Result<u64> {
    let packets = &node.status()?.raw["packets"];
    let count = |reason: &str| packets[reason].as_u64().context("no such counter");
    Ok(count("bad-tag")? + count("unknown-key")?)
}

/// Writes a node's files, with this key file.
fn configure(cluster: &Cluster, node: &str, keys: &str) -> Result<()> {
    let node = cluster.node(node)?;
    node.configure(&cluster.plan.config(&node.authkeys_path()), keys)
}

/// Alpha in the middle of a change of keys, beta with the old file.
fn changing_pair(receive: &str, keepalive: Duration) -> Result<Cluster> {
    let plan = Plan {
        web: false,
        keepalive,
        deadtime: Duration::from_secs(8),
        cluster_lines: vec!["initdead = \"10s\"".to_owned()],
        link_lines: vec![format!("receive = \"{receive}\"")],
        ..Plan::default()
    };
    let mut cluster = Cluster::build(plan)?;
    configure(&cluster, "alpha", OLD)?;
    configure(&cluster, "beta", OLD)?;
    cluster.start()?;
    configure(&cluster, "alpha", NEW)?;
    let alpha = cluster.node("alpha")?;
    alpha.hactl_done(&["reload"])?;
    alpha.wait_event("keys-change", 0, Duration::from_secs(20))?;
    Ok(cluster)
}

/// Heartbeats and states pass both ways, none is refused, and the earlier key stays.
fn passes_with_the_earlier_key(cluster: &Cluster) -> Result<()> {
    let received = |node: &Node| -> Result<u64> {
        let status = node.status()?;
        Ok(status.nodes.iter().flat_map(|it| &it.links).map(|link| link.received).sum())
    };
    cluster.wait_connected(2)?;
    let [alpha, beta] = cluster.nodes.as_slice() else { anyhow::bail!("no pair") };
    let before = (refused(alpha)?, refused(beta)?);
    for node in [alpha, beta] {
        let first = received(node)?;
        node.wait_until("200 heartbeats", Duration::from_secs(20), |_| {
            received(node).is_ok_and(|now| now > first + 200)
        })?;
    }
    let after = (refused(alpha)?, refused(beta)?);
    ensure!(before == after, "refused while the earlier key signs: {before:?}, {after:?}");
    let events = alpha.events()?;
    ensure!(events.iter().all(|event| event.kind != "keys-changed"), "the old key went too early");
    Ok(())
}

fn change_comes_to_its_end(receive: &str) -> Result<()> {
    let mut cluster = changing_pair(receive, Duration::from_millis(10))?;
    passes_with_the_earlier_key(&cluster)?;
    // A new start proves itself, and makes its connections, with the key that it has.
    cluster.node_mut("beta")?.stop()?;
    cluster.start()?;
    passes_with_the_earlier_key(&cluster)?;
    cluster.node_mut("beta")?.stop()?;
    configure(&cluster, "beta", NEW)?;
    cluster.start()?;
    let alpha = cluster.node("alpha")?;
    alpha.wait_event("keys-changed", 0, Duration::from_secs(20))?;
    if receive != "socket" {
        let mut bpftool = Command::new("bpftool");
        let pin = alpha.bpffs().join("keys");
        let output = bpftool.args(["map", "dump", "pinned"]).arg(pin).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let used = text.matches("\"method\": ").count() - text.matches("\"method\": 0,").count();
        ensure!(used == 1, "{used} keys are left in the map:\n{text}");
    }
    let (before, at) = (refused(alpha)?, refused(cluster.node("beta")?)?);
    std::thread::sleep(Duration::from_millis(500));
    let after = (refused(alpha)?, refused(cluster.node("beta")?)?);
    ensure!((before, at) == after, "refused after the change: {:?}, {after:?}", (before, at));
    cluster.bed.finish()
}

/// The keeper's datagrams were signed beforehand, with the key that beta has.
fn obituary_is_believed(receive: &str) -> Result<()> {
    // Two keepalives after its connections have ended, the verdict would be theirs.
    let mut cluster = changing_pair(receive, Duration::from_millis(200))?;
    cluster.wait_connected(2)?;
    let at_ns = cluster.node("alpha")?.kill_daemon()?;
    let beta = cluster.node("beta")?;
    let event = beta.wait_event("daemon-gone", at_ns, Duration::from_secs(4))?;
    ensure!(event.message.contains("keeper"), "not by the obituary: {}", event.message);
    beta.wait_until("the group", Duration::from_secs(10), |it| it.runs_on(GROUP, "beta"))?;
    cluster.node_mut("alpha")?.wait_exit(Duration::from_secs(10))?;
    cluster.bed.finish()
}

#[test]
#[ignore = "needs root: network namespaces; needs bpftool"]
fn nodes_with_the_old_and_the_new_file_hear_each_other_until_the_change_ends() -> Result<()> {
    let _turn = turn_with_others();
    ["xdp-native", "socket"].into_iter().try_for_each(change_comes_to_its_end)
}

#[test]
#[ignore = "needs root: network namespaces"]
fn an_obituary_is_believed_by_a_node_with_the_old_file() -> Result<()> {
    let _turn = turn_with_others();
    obituary_is_believed("xdp-native")
}
