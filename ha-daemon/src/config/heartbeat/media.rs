//! The media lines of `ha.cf`: `bcast`, `ucast`, `mcast`, `serial`, and the `udpport` and `baud` that
//! must stand before them.
//!
//! Each becomes a link that is named after its device: the first kind on `eth1` is the link `eth1`,
//! a multicast beside it `eth1-mcast`. All `ucast` lines of one device are one link with several
//! remotes.

use std::net::IpAddr;
use std::path::PathBuf;

use super::ha_cf::{At, Reader};
use super::lines::{Line, Word};
use super::world::NoDevice;
use crate::config::finding::{Position, quoted};
use crate::config::load::{no_device_path, unusable_host};
use crate::config::serial::BAUD_DEFAULT;
use crate::config::{LINKS_MAX, LinkKind, PORT_DEFAULT};
use crate::names::InterfaceName;

/// Rates that termios(3) has and the original takes.
const BAUDS: &[u32] = &[9_600, 19_200, 38_400, 57_600, 115_200, 230_400, 460_800];
/// Most remotes of one link: one for each node.
const REMOTES_MAX: usize = crate::config::NODES_MAX;

/// Where a link is on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Device {
    Network(InterfaceName),
    Serial(PathBuf),
}

/// One link.
#[derive(Debug, Clone)]
pub(super) struct Medium {
    /// Its name.
    pub(super) name: String,
    pub(super) device: Device,
    pub(super) kind: LinkKind,
    pub(super) port: u16,
    /// The directive, as it parts links of one device: `ucast` and `ucast6` are two.
    word: &'static str,
    pub(super) position: Position,
}

/// All of them, and what stands before them.
#[derive(Debug, Default)]
pub(super) struct Media {
    pub(super) list: Vec<Medium>,
    pub(super) udpport: Option<At<u16>>,
    baud: Option<At<u32>>,
}

impl Media {
    /// The port of every medium that names none.
    pub(super) fn port(&self, service: Option<u16>) -> u16 {
        self.udpport.as_ref().map(|port| port.value).or(service).unwrap_or(PORT_DEFAULT)
    }

    /// A name that no other link has: that of the device, then with the kind, then with a number.
    fn name(&self, device: &Device, word: &str) -> String {
        let base = match device {
            Device::Network(interface) => plain(interface.as_str()),
            Device::Serial(path) => {
                plain(&path.strip_prefix("/dev").unwrap_or(path).to_string_lossy())
            }
        };
        let base = if base.is_empty() { word.to_owned() } else { base };
        let numbered = (2_u32..).map(|number| format!("{base}-{word}-{number}"));
        let mut names = [base.clone(), format!("{base}-{word}")].into_iter().chain(numbered);
        let free = |name: &String| self.list.iter().all(|medium| medium.name != *name);
        names.find(free).unwrap_or(base)
    }
}

/// Only what a link's name may have, and not more of it than leaves room for a suffix.
fn plain(text: &str) -> String {
    const CHARACTERS_MAX: usize = 40;
    let text = text.trim_start_matches('/');
    let keep = |c: char| if c.is_ascii_alphanumeric() || "_.".contains(c) { c } else { '-' };
    let characters = text.chars().map(keep);
    // The end of a long path tells more than its beginning.
    let skipped = text.chars().count().saturating_sub(CHARACTERS_MAX);
    characters.skip(skipped).collect()
}

impl Reader<'_> {
    pub(super) fn udpport(&mut self, line: &Line<'_>) {
        let Some(word) = self.one(line, "udpport PORT, 1 to 65535") else { return };
        let Some(port) = self.port(&word) else { return };
        let networks = |medium: &&Medium| matches!(medium.word, "bcast" | "ucast" | "ucast6");
        if let Some(medium) = self.draft.media.list.iter().find(networks) {
            let message =
                format!("udpport comes after the medium of line {}", medium.position.line);
            self.findings.error(
                line.name.position,
                message,
                "move it before all bcast and ucast lines",
            );
        }
        let at = At { value: port, position: word.position };
        if let Some(earlier) = self.draft.media.udpport.replace(at) {
            let message =
                format!("udpport is in line {} already: this one counts", earlier.position.line);
            self.findings.warning(line.name.position, message, "keep one of the lines");
        }
    }

    fn port(&mut self, word: &Word<'_>) -> Option<u16> {
        let port = word.text.parse::<u16>().ok().filter(|port| *port > 0);
        if port.is_none() {
            let message = format!("{} is no UDP port", quoted(word.text));
            self.findings.error(word.position, message, "give a number from 1 to 65535");
        }
        port
    }

    pub(super) fn baud(&mut self, line: &Line<'_>) {
        let Some(word) = self.one(line, "baud 19200") else { return };
        let Some(baud) = word.text.parse().ok().filter(|baud| BAUDS.contains(baud)) else {
            let rates = BAUDS.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
            let message = format!("baud {} is no rate that a line can have", quoted(word.text));
            return self.findings.error(word.position, message, format!("give one of {rates}"));
        };
        if let Some(earlier) = &self.draft.media.baud {
            let message = format!("baud is in line {} already", earlier.position.line);
            return self.findings.error(line.name.position, message, "keep one of the lines");
        }
        self.draft.media.baud = Some(At { value: baud, position: word.position });
        self.change_baud(line, baud);
    }

    /// `baud` after a serial line: there the original has opened it with its default already. People
    /// mean the rate for all lines, so that is what it is here.
    fn change_baud(&mut self, line: &Line<'_>, wanted: u32) {
        let mut opened = None;
        for medium in &mut self.draft.media.list {
            if let LinkKind::Serial { baud } = &mut medium.kind {
                *baud = wanted;
                opened = Some(medium.position.line);
            }
        }
        if let Some(number) = opened
            && wanted != BAUD_DEFAULT
        {
            let message = format!(
                "baud comes after the serial line of line {number}: the original would use \
                 {BAUD_DEFAULT} there, here it is {wanted}"
            );
            self.findings.warning(line.name.position, message, "move it before all serial lines");
        }
    }

    pub(super) fn bcast(&mut self, line: &Line<'_>) {
        let port = self.udp_port();
        for word in self.some(line, "bcast INTERFACE...") {
            if let Some(interface) = self.interface(word) {
                self.medium(word, "bcast", Device::Network(interface), LinkKind::Bcast, port);
            }
        }
    }

    /// The old name of `bcast`.
    pub(super) fn udp(&mut self, line: &Line<'_>) {
        let message = "udp is the old name of bcast";
        self.findings.warning(line.name.position, message, "write bcast");
        self.bcast(line);
    }

    pub(super) fn ucast(&mut self, line: &Line<'_>) {
        self.unicast(line, "ucast");
    }

    pub(super) fn ucast6(&mut self, line: &Line<'_>) {
        self.unicast(line, "ucast6");
    }

    fn unicast(&mut self, line: &Line<'_>, word: &'static str) {
        let [device, remote] = line.words.as_slice() else {
            let message = format!("{word} takes an interface and the address of a peer");
            let remedy = format!("write {word} INTERFACE ADDRESS");
            return self.findings.error(line.name.position, message, remedy);
        };
        let (interface, address) = (self.interface(device), self.remote(device, remote, word));
        let (Some(interface), Some(address)) = (interface, address) else { return };
        let device_of_link = Device::Network(interface);
        let same = |medium: &&mut Medium| medium.word == word && medium.device == device_of_link;
        let Some(medium) = self.draft.media.list.iter_mut().find(same) else {
            let kind = LinkKind::Ucast { remotes: vec![address] };
            let port = self.udp_port();
            return self.medium(device, word, device_of_link, kind, port);
        };
        let LinkKind::Ucast { remotes } = &mut medium.kind else { return };
        if remotes.contains(&address) {
            let message =
                format!("{word} to {address} on {} is there already", quoted(device.text));
            self.findings.error(remote.position, message, "write it once");
        } else if remotes.len() == REMOTES_MAX {
            let message = format!("more than {REMOTES_MAX} peers on one interface");
            self.findings.error(remote.position, message, format!("keep to {REMOTES_MAX}"));
        } else {
            remotes.push(address);
        }
    }

    /// The address of a peer: a host name is looked up once, now.
    fn remote(&mut self, device: &Word<'_>, remote: &Word<'_>, word: &str) -> Option<IpAddr> {
        let (host, zone) = match remote.text.split_once('%') {
            Some((host, zone)) => (host, Some(zone)),
            None => (remote.text, None),
        };
        if zone.is_some_and(|zone| zone != device.text) {
            let message = format!("{} is not on {}", quoted(remote.text), quoted(device.text));
            self.findings.error(remote.position, message, "leave out the % and what follows");
            return None;
        }
        let wants_v6 = word == "ucast6";
        let addresses = match host.parse::<IpAddr>() {
            Ok(address) => Ok(vec![address]),
            Err(_) => self.world.resolve(host),
        };
        let why = match addresses {
            Err(error) => format!("cannot be found: {error}"),
            Ok(addresses) => match addresses.iter().find(|it| it.is_ipv6() == wants_v6) {
                None if wants_v6 => "is no IPv6 address".to_owned(),
                None => "is no IPv4 address".to_owned(),
                Some(address) => match unusable_host(*address) {
                    None => return Some(*address),
                    Some(why) => format!("is {why}"),
                },
            },
        };
        let message = format!("the peer {} {why}", quoted(remote.text));
        let remedy = if wants_v6 {
            "write its IPv6 address"
        } else {
            "write its IPv4 address, or use ucast6"
        };
        self.findings.error(remote.position, message, remedy);
        None
    }

    pub(super) fn mcast(&mut self, line: &Line<'_>) {
        self.multicast(line, "mcast");
    }

    pub(super) fn mcast6(&mut self, line: &Line<'_>) {
        self.multicast(line, "mcast6");
    }

    fn multicast(&mut self, line: &Line<'_>, word: &'static str) {
        let syntax = format!(
            "write {word} INTERFACE GROUP PORT TTL LOOP, such as {word} eth0 {} 694 1 0",
            if word == "mcast6" { "ff12::1:2:3:4" } else { "239.192.0.42" }
        );
        let [device, group, port, ttl, loopback] = line.words.as_slice() else {
            let message =
                format!("{word} takes an interface, a group, a port, a TTL and a loop flag");
            return self.findings.error(line.name.position, message, syntax);
        };
        let interface = self.interface(device);
        let group_address = group.text.parse::<IpAddr>().ok();
        let group_address = group_address
            .filter(|address| address.is_multicast() && address.is_ipv6() == (word == "mcast6"));
        if group_address.is_none() {
            let family = if word == "mcast6" { "IPv6" } else { "IPv4" };
            let message = format!("{} is no {family} multicast group", quoted(group.text));
            self.findings.error(group.position, message, syntax.as_str());
        }
        let port = self.port(port);
        let hops = ttl.text.parse::<u8>().ok();
        if hops.is_none() {
            let message = format!("{} is no TTL", quoted(ttl.text));
            self.findings.error(ttl.position, message, "give 0 to 255; 1 stays on the network");
        }
        let loops = match loopback.text {
            "0" => Some(false),
            "1" => Some(true),
            other => {
                let message = format!("{} is no loop flag", quoted(other));
                self.findings.error(loopback.position, message, "write 0, or 1");
                None
            }
        };
        let (Some(interface), Some(group), Some(port)) = (interface, group_address, port) else {
            return;
        };
        let (Some(ttl), Some(loopback)) = (hops, loops) else { return };
        let kind = LinkKind::Mcast { group, ttl, loopback };
        self.medium(device, word, Device::Network(interface), kind, port);
    }

    pub(super) fn serial(&mut self, line: &Line<'_>) {
        let baud = self.draft.media.baud.as_ref().map_or(BAUD_DEFAULT, |baud| baud.value);
        for word in self.some(line, "serial /dev/ttyS0...") {
            let path = PathBuf::from(word.text);
            if let Some(wrong) = no_device_path(word.text) {
                let message = format!("{} {wrong}", quoted(word.text));
                self.findings.error(word.position, message, "start it with /dev/");
                continue;
            }
            match self.world.not_character_device(&path) {
                None => {}
                Some(NoDevice::Missing(why)) => {
                    let message = format!("the device {} is not there: {why}", quoted(word.text));
                    let remedy = "correct it, unless the device appears later";
                    self.findings.warning(word.position, message, remedy);
                }
                Some(NoDevice::Other) => {
                    let message = format!("{} is no character device", quoted(word.text));
                    self.findings.error(word.position, message, "name a tty, such as /dev/ttyS0");
                    continue;
                }
            }
            let port = self.udp_port();
            self.medium(word, "serial", Device::Serial(path), LinkKind::Serial { baud }, port);
        }
    }

    fn udp_port(&self) -> u16 {
        self.draft.media.port(self.world.service_port("ha-cluster"))
    }

    fn interface(&mut self, word: &Word<'_>) -> Option<InterfaceName> {
        match word.text.parse() {
            Ok(name) => Some(name),
            Err(error) => {
                let message = format!("this is no interface: {error}");
                self.findings.error(word.position, message, "name it as `ip link` does");
                None
            }
        }
    }

    fn medium(
        &mut self,
        word: &Word<'_>,
        directive: &'static str,
        device: Device,
        kind: LinkKind,
        port: u16,
    ) {
        let same = |medium: &Medium| {
            medium.device == device && medium.port == port && same_arrival(&medium.kind, &kind)
        };
        if self.draft.media.list.iter().any(same) {
            let message = format!("{directive} on {} is there already", quoted(word.text));
            return self.findings.error(word.position, message, "write it once");
        }
        if self.draft.media.list.len() == LINKS_MAX {
            let message = format!("more than {LINKS_MAX} heartbeat media");
            return self.findings.error(word.position, message, format!("keep to {LINKS_MAX}"));
        }
        let name = self.draft.media.name(&device, directive);
        let position = word.position;
        self.draft.media.list.push(Medium { name, device, kind, port, word: directive, position });
    }
}

/// Whether what arrives on two links of one device and port could not be told apart.
fn same_arrival(one: &LinkKind, other: &LinkKind) -> bool {
    match (one, other) {
        (LinkKind::Mcast { group: one, .. }, LinkKind::Mcast { group: other, .. }) => one == other,
        (LinkKind::Ucast { .. }, LinkKind::Ucast { .. }) => false,
        (one, other) => one.word() == other.word(),
    }
}
