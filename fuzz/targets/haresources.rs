//! `haresources`: any text gives groups or findings with a place, and what it gives is valid TOML.

#![no_main]

use std::collections::BTreeSet;
use std::path::Path;

use ha_daemon::config::convert::to_toml;
use ha_daemon::config::heartbeat::{Nowhere, Texts, parse};
use ha_daemon::config::{
    AuthKey, AuthMethod, GROUPS_MAX, KeyRing, RESOURCES_MAX, Resource, Severity,
};
use libfuzzer_sys::fuzz_target;

fn keys() -> KeyRing {
    let key = AuthKey { number: 1, method: AuthMethod::SipHash24, word: b"word".to_vec() };
    KeyRing::new(1, vec![key])
}

fn world() -> Nowhere {
    let prefixes = ["192.0.2.1/24", "192.168.0.1/16", "2001:db8::1/64"];
    let prefixes = prefixes.iter().filter_map(|text| text.parse().ok()).collect();
    Nowhere { interfaces: [("eth0".to_owned(), prefixes)].into() }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(haresources) = std::str::from_utf8(bytes) else { return };
    let texts = Texts { ha_cf: "bcast eth0 eth1\nnode master slaver n1.localdomain", haresources };
    let (config, findings) = parse(texts, keys(), Path::new("/etc/ha.d"), &world());
    let refused = findings.iter().any(|finding| finding.severity == Severity::Error);
    assert_eq!(config.is_none(), refused);
    let Some(config) = config else { return };
    assert!(config.groups.len() <= GROUPS_MAX);
    let mut names = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    for group in &config.groups {
        assert!(group.resources.len() <= RESOURCES_MAX);
        assert_eq!(group.nodes.len(), config.nodes.len(), "every node is a candidate");
        assert!(names.insert(&group.name));
        for resource in &group.resources {
            if let Resource::Address { address, .. } = resource {
                assert!(addresses.insert(address.addr()), "{address} is there twice");
            }
        }
    }
    let text = to_toml(&config, Path::new("/etc/ha.d/authkeys"));
    assert!(text.parse::<toml::Table>().is_ok(), "{text}");
});
