//! `ha.cf`: any text gives a configuration or findings with a place, and what it gives, TOML gives too.

#![no_main]

use std::path::Path;

use ha_daemon::config::heartbeat::{Nowhere, Texts, parse};
use ha_daemon::config::{LINKS_MAX, NODES_MAX, Severity};
use libfuzzer_sys::fuzz_target;

mod same;
use same::{keys, same_as_toml};

fuzz_target!(|bytes: &[u8]| {
    let Ok(ha_cf) = std::str::from_utf8(bytes) else { return };
    let texts = Texts { ha_cf, haresources: "" };
    let (config, findings) = parse(texts, keys(), Path::new("/etc/ha.d"), &Nowhere::default());
    let refused = findings.iter().any(|finding| finding.severity == Severity::Error);
    assert_eq!(config.is_none(), refused);
    for finding in &findings {
        assert!(!finding.remedy.is_empty());
        assert_eq!(finding.to_string().lines().count(), 1, "a finding is one line");
    }
    let Some(config) = config else { return };
    assert!(config.links.len() <= LINKS_MAX && config.nodes.len() <= NODES_MAX);
    assert!(config.nodes.iter().all(|node| node.endpoints.len() == config.links.len()));
    let cluster = &config.cluster;
    assert!(cluster.keepalive < cluster.deadtime && cluster.deadtime <= cluster.initdead);
    assert!((cluster.keepalive..=cluster.deadtime).contains(&cluster.warntime));
    same_as_toml(&config);
});
