//! Resources that are no addresses, and clients.

use super::{CLEAN, Place, findings};
use std::time::Duration;

use crate::config::{MONITOR_DEFAULT, Recovery, RecoveryPolicy, Resource};

const ADDRESS: &str = r#"{ kind = "address", address = "198.51.100.10/24", interface = "eth0" }"#;

/// Findings without their place, when the address is replaced.
fn with(resource: &str) -> Vec<String> {
    let short = |finding: String| match finding.split_once("error: ") {
        Some((_, rest)) => rest.to_owned(),
        None => finding,
    };
    findings(ADDRESS, resource).into_iter().map(short).collect()
}

#[test]
fn every_kind_is_read() {
    let place = Place::new();
    let resources = r#"
  { kind = "address", address = "198.51.100.10/24", interface = "eth0", label = "eth0:0", broadcast = "198.51.100.127" },
  { kind = "source-address", address = "198.51.100.10" },
  { kind = "script", name = "Filesystem", arguments = ["/dev/sdb1", "/srv", "ext4"] },
  { kind = "systemd", unit = "nginx.service" }"#;
    let clients = r#"
[[clients]]
user = "nobody"
program = "/usr/bin/env"
arguments = ["-i"]
"#;
    let text = CLEAN.replace(ADDRESS, resources) + clients;
    let config = place.parse(&text).unwrap();
    let expected = [
        Resource::Address {
            address: "198.51.100.10/24".parse().unwrap(),
            interface: "eth0".parse().unwrap(),
            label: Some("eth0:0".to_owned()),
            broadcast: Some("198.51.100.127".parse().unwrap()),
        },
        Resource::SourceAddress { address: "198.51.100.10".parse().unwrap() },
        Resource::Script {
            name: "Filesystem".to_owned(),
            arguments: ["/dev/sdb1", "/srv", "ext4"].map(str::to_owned).to_vec(),
        },
        Resource::Systemd { unit: "nginx.service".to_owned() },
    ];
    assert_eq!(config.groups[0].resources, expected);
    assert_eq!(config.groups[0].resources[2].label(), "Filesystem::/dev/sdb1::/srv::ext4");
    let [client] = config.clients.as_slice() else { panic!("{:?}", config.clients) };
    assert_eq!(
        (client.user.as_str(), client.arguments.as_slice()),
        ("nobody", &["-i".to_owned()][..])
    );
    assert_eq!(client.program, std::path::Path::new("/usr/bin/env"));
}

#[test]
fn a_service_is_monitored_and_recovered_as_the_group_says() {
    let group = |keys: &str, resources: &str| {
        let text = CLEAN.replace("[groups.web]", &format!("[groups.web]\n{keys}"));
        Place::new().parse(&text.replace(ADDRESS, resources)).map(|it| it.groups[0].clone())
    };
    let three = format!(
        r#"{ADDRESS}, {{ kind = "script", name = "a" }},
           {{ kind = "script", name = "b", monitor = "off" }},
           {{ kind = "systemd", unit = "c.service", monitor = "250ms" }}"#
    );
    let read = group("", &three).unwrap();
    let expected = [None, Some(MONITOR_DEFAULT), None, Some(Duration::from_millis(250))];
    assert_eq!(read.monitors, expected);
    assert_eq!(read.recovery, Recovery::default());
    let keys = "recovery = \"restart\"\nrestarts = 0\nrestart_window = \"1m\"";
    let (policy, window) = (RecoveryPolicy::Restart, Duration::from_secs(60));
    let read = group(keys, &three).unwrap();
    assert_eq!(read.recovery, Recovery { policy, restarts: 0, window });
    for (word, policy) in
        [("relocate", RecoveryPolicy::Relocate), ("disable", RecoveryPolicy::Disable)]
    {
        let read = group(&format!("recovery = \"{word}\""), &three).unwrap();
        assert_eq!((read.recovery.policy, read.recovery.restarts_allowed()), (policy, 0));
    }
}

#[test]
fn what_cannot_be_monitored_or_recovered_is_told() {
    for (monitor, wrong) in [
        ("\"10ms\"", "give 100ms to 1h"),
        ("10", "has no unit"),
        ("\"never\"", "write \"off\", or"),
    ] {
        let found = with(&format!(r#"{{ kind = "script", name = "a", monitor = {monitor} }}"#));
        assert!(found.len() == 1 && found[0].contains(wrong), "{found:?}");
    }
    let address = ADDRESS.replace(" }", ", monitor = \"1s\" }");
    assert!(with(&address)[0].contains("unknown key"), "{:?}", with(&address));
    let warned = |keys: &str, resources: &str| {
        let text = CLEAN.replace("[groups.web]", &format!("[groups.web]\n{keys}"));
        Place::new().findings(&text.replace(ADDRESS, resources))
    };
    let script = r#"{ kind = "script", name = "a" }"#;
    for keys in ["recovery = \"disable\"", "restarts = 1", "restart_window = \"1m\""] {
        let found = warned(keys, ADDRESS);
        assert!(found.len() == 1 && found[0].contains("no service of the group is"), "{found:?}");
        assert_eq!(warned(keys, script), [""; 0]);
    }
    let found = warned("recovery = \"disable\"\nrestarts = 1", script);
    assert!(found.len() == 1 && found[0].contains("restarts has no effect"), "{found:?}");
    for (keys, wrong) in [
        ("recovery = \"reboot\"", "unknown recovery"),
        ("restarts = 101", "give a number from 0 to 100"),
        ("restart_window = \"1ms\"", "give 1s to 1h"),
    ] {
        let found = warned(keys, script);
        assert!(found.len() == 1 && found[0].contains(wrong), "{found:?}");
    }
}

#[test]
fn a_script_is_named_without_its_path() {
    for name in ["/etc/init.d/nginx", "", "../nginx", "-x", "a b", "a\\u0000b"] {
        let found = with(&format!(r#"{{ kind = "script", name = "{name}" }}"#));
        assert!(found.len() == 1 && found[0].contains("not the name of a script"), "{found:?}");
    }
    assert_eq!(
        with(r#"{ kind = "script" }"#),
        [r#"resource 1 of [groups.web] has no name; write name = "...""#]
    );
    let found = with(r#"{ kind = "script", name = "x", arguments = ["a", 1] }"#);
    assert!(found.len() == 1 && found[0].contains("argument has the type integer"), "{found:?}");
}

#[test]
fn a_unit_has_its_full_name() {
    assert_eq!(
        with(r#"{ kind = "systemd", unit = "nginx" }"#),
        [r#""nginx" does not say which kind of unit it is; write "nginx.service""#]
    );
    for unit in ["-H.service", "a b.service", ""] {
        let found = with(&format!(r#"{{ kind = "systemd", unit = "{unit}" }}"#));
        assert!(found.len() == 1 && found[0].contains("not the name of a systemd"), "{found:?}");
    }
}

#[test]
fn label_and_broadcast_belong_to_an_ipv4_address() {
    let v4 = |more: &str| {
        with(&format!(
            r#"{{ kind = "address", address = "198.51.100.10/24", interface = "eth0", {more} }}"#
        ))
    };
    for label in ["eth1:0", "eth00", "eth0:and-so-on-and", "eth0: x"] {
        let found = v4(&format!("label = \"{label}\""));
        assert!(found.len() == 1 && found[0].contains("the label"), "{label}: {found:?}");
    }
    let found = v4("broadcast = \"2001:db8::1\"");
    assert!(found.len() == 1 && found[0].contains("is not an IPv4 address"), "{found:?}");
    for more in ["label = \"eth0:0\"", "broadcast = \"198.51.100.127\""] {
        let address = r#"address = "2001:db8::10/64", interface = "eth0""#;
        let found = with(&format!(r#"{{ kind = "address", {address}, {more} }}"#));
        assert!(found.len() == 1 && found[0].contains("IPv6"), "{found:?}");
    }
}

#[test]
fn a_source_address_is_one_of_the_group() {
    let found = with(r#"{ kind = "source-address", address = "198.51.100.10" }"#);
    assert!(found.len() == 1 && found[0].contains("is no address of the group"), "{found:?}");
    let found = with(r#"{ kind = "source-address", address = "198.51.100.10/24" }"#);
    assert!(found.len() == 1 && found[0].contains("is not an address"), "{found:?}");
    let after = format!(r#"{{ kind = "source-address", address = "198.51.100.10" }}, {ADDRESS}"#);
    let found = with(&after);
    assert!(found.len() == 1 && found[0].contains("put the address before it"), "{found:?}");
}

#[test]
fn a_client_has_a_user_and_an_absolute_path() {
    let with = |client: &str| {
        let text = format!("{CLEAN}\n[[clients]]\n{client}\n");
        Place::new().findings(&text)
    };
    let found = with("user = \"nobody\"\nprogram = \"env\"");
    assert!(found.len() == 1 && found[0].contains("not an absolute path"), "{found:?}");
    let found = with("user = \"a:b\"\nprogram = \"/usr/bin/env\"");
    assert!(found.len() == 1 && found[0].contains("not the name of a user"), "{found:?}");
    let found = with("");
    assert!(found.len() == 2, "{found:?}");
}
