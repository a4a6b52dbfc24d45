//! Claims about Heartbeat's files. Refusals are compared whole: place, message, remedy.

mod directives;
mod files;
mod rules;
mod scenarios;

use std::path::Path;

use super::*;
use crate::config::{AuthKey, AuthMethod};

/// Clean: not even a warning.
const CLEAN: &str = "\
keepalive 1
deadtime 10
initdead 60
logfacility daemon
udpport 700
baud 38400
bcast eth1
serial /dev/ttyS0
node alpha
node beta
";
const RESOURCES: &str = "alpha 192.0.2.10/24/eth0 httpd\n";

fn keys() -> KeyRing {
    let key = AuthKey {
        number: 1,
        method: AuthMethod::SipHash24,
        word: b"a-word-that-is-long-enough".to_vec(),
    };
    KeyRing { active: 1, keys: vec![key], earlier: None, retained: Vec::new() }
}

fn interfaces(list: &[(&str, &[&str])]) -> Nowhere {
    let prefixes = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let interfaces = list.iter().map(|(name, texts)| ((*name).to_owned(), prefixes(texts)));
    Nowhere { interfaces: interfaces.collect() }
}

/// A machine with two networks.
fn machine() -> Nowhere {
    interfaces(&[
        ("eth0", &["192.0.2.1/24", "2001:db8::1/64"]),
        ("eth1", &["198.51.100.1/24"]),
        ("lo", &["127.0.0.1/8"]),
    ])
}

fn read(ha_cf: &str, haresources: &str) -> (Option<Config>, Vec<String>) {
    read_on(&machine(), ha_cf, haresources)
}

fn read_on(world: &Nowhere, ha_cf: &str, haresources: &str) -> (Option<Config>, Vec<String>) {
    let texts = Texts { ha_cf, haresources };
    let (config, findings) = parse(texts, keys(), Path::new(""), world);
    let refused = findings.iter().any(|finding| finding.severity == Severity::Error);
    assert_eq!(config.is_none(), refused, "{findings:?}");
    (config, findings.iter().map(ToString::to_string).collect())
}

/// The configuration of texts in which nothing is found.
#[track_caller]
fn clean(ha_cf: &str, haresources: &str) -> Config {
    let (config, findings) = read(ha_cf, haresources);
    assert_eq!(findings, [""; 0]);
    config.unwrap()
}

/// The findings of the clean file after one edit.
#[track_caller]
fn after(from: &str, to: &str) -> Vec<String> {
    assert_eq!(CLEAN.matches(from).count(), 1, "{from:?} is to be there once");
    read(&CLEAN.replace(from, to), RESOURCES).1
}
