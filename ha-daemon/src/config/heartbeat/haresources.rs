//! `haresources`: one group for each logical line, `NODE RESOURCE...`.
//!
//! An address is `IP[/BITS[/INTERFACE[:LABEL]][/BROADCAST]]`, bare or as the argument of `IPaddr`,
//! `IPaddr2` or `IPv6addr`; `IPsrcaddr::IP` is the source address; everything else is a script with
//! the arguments after its name.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use ipnet::IpNet;

use super::lines::{Findings, LINE_BYTES_MAX, Word, split};
use crate::config::finding::{Position, quoted};
use crate::config::load::unusable_host;
use crate::config::{GROUPS_MAX, RESOURCES_MAX};
use crate::names::{InterfaceName, NodeName};

/// A line of the file.
#[derive(Debug)]
pub(super) struct DraftGroup {
    pub(super) node: NodeName,
    pub(super) position: Position,
    pub(super) resources: Vec<(DraftResource, Position)>,
}

/// A resource before the machine was asked for what an address leaves out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DraftResource {
    Address(DraftAddress),
    SourceAddress(IpAddr),
    Script { name: String, arguments: Vec<String> },
}

/// An address as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DraftAddress {
    pub(super) host: IpAddr,
    pub(super) bits: Option<u8>,
    pub(super) interface: Option<InterfaceName>,
    pub(super) label: Option<String>,
    pub(super) broadcast: Option<Ipv4Addr>,
}

/// The groups of a text that came from `path`, and what was found in it.
pub(super) fn read(text: &str, path: &Path) -> (Vec<DraftGroup>, Findings) {
    let mut reader = Reader { groups: Vec::new(), findings: Findings::new(path) };
    let mut words = Vec::new();
    let mut bytes = 0;
    let mut lines = text.lines().enumerate().peekable();
    while let Some((index, text)) = lines.next() {
        reader.findings.refuse_nul(index + 1, text);
        let (text, goes_on) = continued(text);
        bytes += text.len();
        let found = split(index + 1, without_comment(text), |c| c.is_ascii_whitespace());
        // The bound also holds for one logical line of many physical ones.
        if bytes <= LINE_BYTES_MAX {
            words.extend(found);
        } else if let Some(first) = words.first().or(found.first()).copied() {
            let message = format!("the line is longer than {LINE_BYTES_MAX} bytes");
            reader.findings.error(first.position, message, "make two groups of it");
            words.clear();
        }
        if !goes_on || lines.peek().is_none() {
            reader.group(&words);
            words.clear();
            bytes = 0;
        }
    }
    (reader.groups, reader.findings)
}

/// Whether the next line belongs to this one, and the line without the sign of it. Blanks after the
/// backslash cannot be seen, and do not count.
fn continued(text: &str) -> (&str, bool) {
    if text.trim_start().starts_with('#') {
        return (text, false);
    }
    match text.trim_end().strip_suffix('\\') {
        Some(text) => (text, true),
        None => (text, false),
    }
}

/// A comment begins a line or a word: `#` may be in an argument.
fn without_comment(text: &str) -> &str {
    let begins = |(index, _): &(usize, &str)| {
        text[..*index].chars().next_back().is_none_or(|before| before.is_ascii_whitespace())
    };
    match text.match_indices('#').find(begins) {
        Some((index, _)) => &text[..index],
        None => text,
    }
}

struct Reader {
    groups: Vec<DraftGroup>,
    findings: Findings,
}

impl Reader {
    fn group(&mut self, words: &[Word<'_>]) {
        let Some((node, resources)) = words.split_first() else { return };
        if self.groups.len() == GROUPS_MAX {
            let message = format!("more than {GROUPS_MAX} groups");
            return self.findings.error(node.position, message, format!("keep to {GROUPS_MAX}"));
        }
        if resources.is_empty() {
            let message = format!("the group of {} has no resources", quoted(node.text));
            self.findings.warning(node.position, message, "add resources, or remove the line");
        }
        if resources.len() > RESOURCES_MAX {
            let message = format!("a group of {} resources", resources.len());
            let remedy = format!("keep to {RESOURCES_MAX}, or make two groups");
            return self.findings.error(node.position, message, remedy);
        }
        let mut drafts = Vec::new();
        for word in resources {
            match resource(word.text) {
                Ok(resource) => drafts.push((resource, word.position)),
                Err(Refusal { why, remedy }) => {
                    self.findings.error(
                        word.position,
                        format!("{} {why}", quoted(word.text)),
                        remedy,
                    );
                }
            }
        }
        match node.text.to_ascii_lowercase().parse() {
            Ok(name) => self.groups.push(DraftGroup {
                node: name,
                position: node.position,
                resources: drafts,
            }),
            Err(error) => {
                let message = format!("this is no name of a node: {error}");
                let remedy = "begin the line with the node that the group prefers";
                self.findings.error(node.position, message, remedy);
            }
        }
    }
}

/// Why a resource is refused: continues "WORD ...".
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    why: String,
    remedy: String,
}

fn refuse<T>(why: impl Into<String>, remedy: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { why: why.into(), remedy: remedy.into() })
}

const ADDRESS: &str = "write IP[/BITS[/INTERFACE[:LABEL]][/BROADCAST]], such as 192.0.2.10/24/eth0";

/// One resource.
pub(super) fn resource(word: &str) -> Result<DraftResource, Refusal> {
    // An IPv6 address has "::", too.
    let host = word.split('/').next().unwrap_or("");
    if host.parse::<IpAddr>().is_ok() {
        return address(word).map(DraftResource::Address);
    }
    let (name, rest) = match word.split_once("::") {
        Some((name, rest)) => (name, Some(rest)),
        None => (word, None),
    };
    match (name, rest) {
        ("IPaddr" | "IPaddr2" | "IPv6addr", rest) => {
            let draft = address(rest.unwrap_or(""))?;
            if draft.host.is_ipv6() == (name == "IPv6addr") {
                return Ok(DraftResource::Address(draft));
            }
            let other = if draft.host.is_ipv6() { "IPv6addr" } else { "IPaddr2" };
            refuse(
                format!("has an address of the other family than {name}"),
                format!("use {other}"),
            )
        }
        ("IPsrcaddr", rest) => {
            let host = rest.unwrap_or("").parse::<IpAddr>();
            match host.map(|host| (host, unusable_host(host))) {
                Ok((host, None)) => Ok(DraftResource::SourceAddress(host)),
                Ok((_, Some(why))) => refuse(format!("has {why}"), "give an address of a host"),
                Err(_) => refuse("names no address", "write IPsrcaddr::ADDRESS"),
            }
        }
        (name, rest) => script(name, rest.unwrap_or("")),
    }
}

fn script(name: &str, arguments: &str) -> Result<DraftResource, Refusal> {
    if name.starts_with(|c: char| c.is_ascii_digit()) && name.contains('.') {
        return refuse("is no address", ADDRESS);
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.@+".contains(c);
    if name.is_empty() || name.starts_with(['.', '-']) || !name.chars().all(allowed) {
        let remedy =
            "name a script without its path: it is looked up in resource.d and /etc/init.d";
        return refuse("is no name of a script", remedy);
    }
    // The original parts arguments at every "::" and loses empty ones.
    let arguments = arguments.split("::").filter(|it| !it.is_empty()).map(str::to_owned);
    Ok(DraftResource::Script { name: name.to_owned(), arguments: arguments.collect() })
}

fn address(text: &str) -> Result<DraftAddress, Refusal> {
    let mut parts = text.split('/');
    let Ok(host) = parts.next().unwrap_or("").parse::<IpAddr>() else {
        return refuse("names no address", ADDRESS);
    };
    if let Some(why) = unusable_host(host) {
        return refuse(format!("is {why}, not a host's address"), ADDRESS);
    }
    let bits = match parts.next() {
        None | Some("") => None,
        Some(text) => Some(prefix_length(host, text)?),
    };
    let mut draft = DraftAddress { host, bits, interface: None, label: None, broadcast: None };
    // "a third part that starts with a digit is the broadcast"
    let mut next = parts.next();
    if let Some(nic) = next.filter(|part| !part.starts_with(|c: char| c.is_ascii_digit())) {
        (draft.interface, draft.label) = interface(host, nic)?;
        next = parts.next();
    }
    if let Some(text) = next {
        draft.broadcast = Some(broadcast(host, text)?);
    }
    match parts.next() {
        Some(_) => refuse("has more parts than an address", ADDRESS),
        None => Ok(draft),
    }
}

/// The length of a prefix, or a netmask with dots.
fn prefix_length(host: IpAddr, text: &str) -> Result<u8, Refusal> {
    let mask = text.parse::<Ipv4Addr>().ok().filter(|_| host.is_ipv4());
    let bits = match mask {
        Some(mask) => ipnet::ipv4_mask_to_prefix(mask).ok(),
        None => text.parse::<u8>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit())),
    };
    let network = bits.filter(|bits| *bits > 0).and_then(|bits| IpNet::new(host, bits).ok());
    let Some(network) = network else {
        let most = if host.is_ipv4() { 32 } else { 128 };
        return refuse(format!("has no prefix length of 1 to {most}"), ADDRESS);
    };
    let wide = network.prefix_len() < network.max_prefix_len() - 1;
    if wide && host.is_ipv4() && host == network.network() {
        return refuse("is the address of the network itself", "give the address of a host");
    }
    if wide && host.is_ipv4() && host == network.broadcast() {
        return refuse("is the broadcast address of its network", "give the address of a host");
    }
    Ok(network.prefix_len())
}

type Nic = (Option<InterfaceName>, Option<String>);

/// `eth0`, or `eth0:LABEL`: the label of an address is the whole of it (netdevice(7)).
fn interface(host: IpAddr, text: &str) -> Result<Nic, Refusal> {
    let base = text.split(':').next().unwrap_or("");
    match (base.parse(), text.parse::<InterfaceName>()) {
        (Ok(name), Ok(label)) => {
            // An IPv6 address has no label in the kernel.
            let label = (text != base && host.is_ipv4()).then(|| label.as_str().to_owned());
            Ok((Some(name), label))
        }
        (Err(error), _) | (_, Err(error)) => {
            refuse(format!("names no interface: {error}"), "name it as `ip link` does")
        }
    }
}

fn broadcast(host: IpAddr, text: &str) -> Result<Ipv4Addr, Refusal> {
    match text.parse::<Ipv4Addr>() {
        Ok(broadcast) if host.is_ipv4() => Ok(broadcast),
        Ok(_) => refuse("has a broadcast address, which IPv6 has not", "leave it out"),
        Err(_) => refuse("has a last part that is no broadcast address", ADDRESS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(host: &str, bits: Option<u8>) -> DraftAddress {
        let host = host.parse().unwrap();
        DraftAddress { host, bits, interface: None, label: None, broadcast: None }
    }

    fn groups(text: &str) -> Vec<DraftGroup> {
        let (groups, findings) = read(text, Path::new("haresources"));
        assert_eq!(findings.into_list(), []);
        groups
    }

    #[test]
    fn an_address_may_have_prefix_interface_label_and_broadcast() {
        let eth0 = || Some("eth0".parse().unwrap());
        let broadcast = || Some(Ipv4Addr::new(135, 9, 8, 210));
        let full = |label: Option<&str>| DraftAddress {
            interface: eth0(),
            label: label.map(str::to_owned),
            broadcast: broadcast(),
            ..draft("135.9.8.7", Some(24))
        };
        for (text, expected) in [
            ("135.9.8.7", draft("135.9.8.7", None)),
            ("135.9.8.7/24", draft("135.9.8.7", Some(24))),
            ("135.9.8.7/255.255.255.0", draft("135.9.8.7", Some(24))),
            (
                "135.9.8.7/24/135.9.8.210",
                DraftAddress { broadcast: broadcast(), ..draft("135.9.8.7", Some(24)) },
            ),
            (
                "135.9.8.7/24/eth0",
                DraftAddress { interface: eth0(), ..draft("135.9.8.7", Some(24)) },
            ),
            ("135.9.8.7/24/eth0/135.9.8.210", full(None)),
            ("135.9.8.7/24/eth0:0/135.9.8.210", full(Some("eth0:0"))),
        ] {
            let expected = Ok(DraftResource::Address(expected));
            assert_eq!(resource(text), expected, "{text}");
            assert_eq!(resource(&format!("IPaddr::{text}")), expected, "{text}");
            assert_eq!(resource(&format!("IPaddr2::{text}")), expected, "{text}");
        }
    }

    #[test]
    fn an_ipv6_address_is_not_parted_at_its_colons() {
        let expected = Ok(DraftResource::Address(draft("2001:db8::10", Some(64))));
        assert_eq!(resource("IPv6addr::2001:db8::10/64"), expected);
        assert_eq!(resource("2001:db8::10/64"), expected);
    }

    #[test]
    fn other_resources_are_scripts_with_arguments() {
        let script = |name: &str, arguments: &[&str]| {
            Ok(DraftResource::Script {
                name: name.to_owned(),
                arguments: arguments.iter().map(|it| (*it).to_owned()).collect(),
            })
        };
        assert_eq!(resource("httpd"), script("httpd", &[]));
        assert_eq!(
            resource("Filesystem::/dev/sda1::/data1::ext2"),
            script("Filesystem", &["/dev/sda1", "/data1", "ext2"])
        );
        assert_eq!(resource("OCF::Dummy::one"), script("OCF", &["Dummy", "one"]));
        assert_eq!(
            resource("MailTo::root@example::down"),
            script("MailTo", &["root@example", "down"])
        );
        let source = DraftResource::SourceAddress("192.0.2.10".parse().unwrap());
        assert_eq!(resource("IPsrcaddr::192.0.2.10"), Ok(source));
    }

    #[test]
    fn what_is_no_resource_is_refused() {
        for word in [
            "192.0.2.300",
            "192.0.2.10/33",
            "192.0.2.10/0",
            "192.0.2.0/24",
            "192.0.2.255/24",
            "224.0.0.1",
            "0.0.0.0",
            "192.0.2.10/24/eth0/192.0.2.255/more",
            "192.0.2.10/24/eth0/192.0.2.x",
            "192.0.2.10/24/an-interface-name-too-long",
            "2001:db8::10/64/eth0/192.0.2.255",
            "IPaddr",
            "IPaddr::eth0",
            "IPaddr::2001:db8::1",
            "IPv6addr::192.0.2.1",
            "IPaddr2::192.0.2.10::extra",
            "IPsrcaddr",
            "IPsrcaddr::host",
            "../../bin/sh",
            "/etc/init.d/httpd",
            "::argument",
        ] {
            assert!(resource(word).is_err(), "{word}");
        }
    }

    #[test]
    fn a_logical_line_is_a_group_and_goes_on_after_a_backslash() {
        let text = "# comment \\\n\nMaster 192.0.2.10 \\\n  Filesystem::/dev/a#1::/x \\ \n\thttpd # the \
                    page\nslaver ftpd\\\nMailTo::root";
        let groups = groups(text);
        let shown: Vec<_> = groups
            .iter()
            .map(|group| (group.node.as_str(), group.position.line, group.resources.len()))
            .collect();
        assert_eq!(shown, [("master", 3, 3), ("slaver", 6, 2)]);
        let (last, position) = &groups[0].resources[2];
        assert_eq!(*last, DraftResource::Script { name: "httpd".to_owned(), arguments: vec![] });
        assert_eq!(*position, Position { line: 5, column: 2 });
    }

    #[test]
    fn findings_have_their_place() {
        let (_, findings) = read("alpha\nalpha 192.0.2.300 x/y", Path::new("haresources"));
        let lines: Vec<_> = findings.into_list().iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "haresources:1:1: warning: the group of \"alpha\" has no resources; add resources, \
                 or remove the line"
                    .to_owned(),
                format!("haresources:2:7: error: \"192.0.2.300\" is no address; {ADDRESS}"),
                "haresources:2:19: error: \"x/y\" is no name of a script; name a script without its \
                 path: it is looked up in resource.d and /etc/init.d"
                    .to_owned(),
            ]
        );
    }
}
