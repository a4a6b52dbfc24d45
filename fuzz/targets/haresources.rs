//! `haresources`: any text gives groups or findings with a place, and what it gives, TOML gives too.

#![no_main]

use std::collections::BTreeSet;
use std::path::Path;

use ha_daemon::config::heartbeat::{Nowhere, Texts, parse};
use ha_daemon::config::{GROUPS_MAX, RESOURCES_MAX, Resource, Severity};
use libfuzzer_sys::fuzz_target;

mod same;
use same::{keys, same_as_toml};

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
    same_as_toml(&config);
});
