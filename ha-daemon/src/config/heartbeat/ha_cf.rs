//! `ha.cf`, line by line, into what it asks for. What concerns the file as a whole is judged in
//! `assemble`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use humantime::format_duration;

use super::directives::{self, DIRECTIVES, NO_LOGD, Treatment};
use super::lines::{Findings, LINE_BYTES_MAX, Line, Word};
use super::media::Media;
use super::times;
use super::world::World;
use crate::config::client_rules::{program_problem, user_problem};
use crate::config::finding::{Position, did_you_mean, quoted};
use crate::config::load::{is_target_name, is_user_name, unpingable};
use crate::config::{
    Client, DURATION_MAX, Failback, KEEPALIVE_MIN, NODES_MAX, PING_TARGETS_MAX, PingTarget,
};
use crate::names::NodeName;

/// Facilities of syslog by the names that `logfacility` takes (RFC 5424 6.2.1).
pub const FACILITIES: &[&str] = &[
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv",
    "ftp", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];
/// Programs that speak Heartbeat's client interface, which is not here.
const CLIENTS_OF_HEARTBEAT: &[&str] = &[
    "attrd",
    "ccm",
    "cib",
    "crmd",
    "dopd",
    "lha-snmpagent",
    "lrmd",
    "mgmtd",
    "pengine",
    "pingd",
    "stonithd",
    "stonithd-ng",
];
/// Most programs that are started.
const CLIENTS_MAX: usize = 64;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) position: Position,
}

/// What the file asks for; `None` is "not said".
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) cluster: Option<At<String>>,
    pub(super) nodes: Vec<At<NodeName>>,
    pub(super) keepalive: Option<At<Duration>>,
    pub(super) deadtime: Option<At<Duration>>,
    pub(super) warntime: Option<At<Duration>>,
    pub(super) initdead: Option<At<Duration>>,
    pub(super) deadping: Option<At<Duration>>,
    pub(super) media: Media,
    pub(super) failback: Option<At<Failback>>,
    pub(super) targets: Vec<PingTarget>,
    pub(super) ipfail: Option<At<()>>,
    pub(super) clients: Vec<Client>,
    pub(super) realtime: Option<At<bool>>,
    pub(super) logfile: Option<At<PathBuf>>,
    pub(super) debugfile: Option<At<PathBuf>>,
    pub(super) logfacility: Option<At<Option<String>>>,
    pub(super) debug: Option<At<bool>>,
}

/// The file while it is read.
pub(super) struct Reader<'w> {
    pub(super) draft: Draft,
    pub(super) findings: Findings,
    pub(super) world: &'w dyn World,
}

/// Reads the text of an `ha.cf` that came from `path`.
pub(super) fn read<'w>(text: &str, path: &Path, world: &'w dyn World) -> Reader<'w> {
    let mut reader = Reader { draft: Draft::default(), findings: Findings::new(path), world };
    for (index, text) in text.lines().enumerate() {
        reader.findings.refuse_nul(index + 1, text);
        if text.len() > LINE_BYTES_MAX {
            let message = format!("the line is longer than {LINE_BYTES_MAX} bytes");
            let position = Position { line: index + 1, column: 1 };
            reader.findings.error(position, message, "repeat the directive on several lines");
        } else if let Some(line) = Line::of(index + 1, text) {
            reader.line(&line);
        }
    }
    reader
}

impl Reader<'_> {
    fn line(&mut self, line: &Line<'_>) {
        let name = line.name;
        let Some(directive) = directives::find(name.text) else {
            let known = DIRECTIVES.iter().map(|directive| directive.name);
            let remedy = did_you_mean(name.text, "directive", known);
            let message = format!("unknown directive {}", quoted(name.text));
            return self.findings.error(name.position, message, remedy);
        };
        match &directive.treatment {
            Treatment::Honoured(read) => read(self, line),
            Treatment::NoEffect { why, remedy } => {
                let message = format!("{} has no effect: {why}", name.text);
                self.findings.warning(name.position, message, *remedy);
            }
            Treatment::Refused { why, remedy } => {
                let message = format!("{} is refused: {why}", name.text);
                self.findings.error(name.position, message, *remedy);
            }
        }
    }

    /// The single word after a directive.
    pub(super) fn one<'t>(&mut self, line: &Line<'t>, syntax: &str) -> Option<Word<'t>> {
        match line.words.as_slice() {
            [word] => Some(*word),
            [] => {
                let message = format!("{} has no value", line.name.text);
                self.findings.error(line.name.position, message, format!("write {syntax}"));
                None
            }
            [_, more, ..] => {
                let message = format!("{} has more than one value", line.name.text);
                self.findings.error(more.position, message, format!("write {syntax}"));
                None
            }
        }
    }

    /// At least one word after a directive.
    pub(super) fn some<'l, 't>(&mut self, line: &'l Line<'t>, syntax: &str) -> &'l [Word<'t>] {
        if line.words.is_empty() {
            let message = format!("{} names nothing", line.name.text);
            self.findings.error(line.name.position, message, format!("write {syntax}"));
        }
        &line.words
    }

    /// Keeps a value; of two, the later one counts, as in the original.
    fn set<T>(
        &mut self,
        place: impl FnOnce(&mut Draft) -> &mut Option<At<T>>,
        line: &Line<'_>,
        value: T,
    ) {
        let position = line.words.first().map_or(line.name.position, |word| word.position);
        if let Some(earlier) = place(&mut self.draft).replace(At { value, position }) {
            let name = line.name.text;
            let message =
                format!("{name} is in line {} already: this one counts", earlier.position.line);
            self.findings.warning(line.name.position, message, "keep one of the lines");
        }
    }

    fn time(&mut self, line: &Line<'_>, least: Duration) -> Option<Duration> {
        let name = line.name.text;
        let word = self.one(line, &format!("{name} TIME, such as {name} 2 (seconds) or 200ms"))?;
        let shown = quoted(word.text);
        let Some(time) = times::parse(word.text) else {
            let message = format!("{name} {shown} is not a time");
            let remedy = "write a number of seconds such as 2 or 0.5, or one with ms or us";
            self.findings.error(word.position, message, remedy);
            return None;
        };
        let wrong = if time < least {
            format!("shorter than {}", format_duration(least))
        } else if time > DURATION_MAX {
            format!("longer than {}", format_duration(DURATION_MAX))
        } else {
            return Some(time);
        };
        let remedy =
            format!("give {} to {}", format_duration(least), format_duration(DURATION_MAX));
        self.findings.error(word.position, format!("{name} {shown} is {wrong}"), remedy);
        None
    }

    /// Heartbeat's words for yes and no, in any case.
    fn boolean(&mut self, line: &Line<'_>) -> Option<bool> {
        let name = line.name.text;
        let word = self.one(line, &format!("{name} on, or {name} off"))?;
        match word.text.to_ascii_lowercase().as_str() {
            "true" | "on" | "yes" | "y" | "1" => Some(true),
            "false" | "off" | "no" | "n" | "0" => Some(false),
            _ => {
                let message = format!("{name} {} is neither on nor off", quoted(word.text));
                self.findings.error(word.position, message, "write on or off");
                None
            }
        }
    }

    fn path(&mut self, line: &Line<'_>) -> Option<PathBuf> {
        let word = self.one(line, &format!("{} /PATH", line.name.text))?;
        let path = PathBuf::from(word.text);
        if path.is_absolute() {
            return Some(path);
        }
        let message = format!("{} {} is not an absolute path", line.name.text, quoted(word.text));
        self.findings.error(word.position, message, "start it with /");
        None
    }

    pub(super) fn node(&mut self, line: &Line<'_>) {
        for word in self.some(line, "node NAME, as `uname -n` prints it there") {
            // Host names have no case; the original compares them in lower case.
            let name = match word.text.to_ascii_lowercase().parse::<NodeName>() {
                Ok(name) => name,
                Err(error) => {
                    let message = format!("this is no name of a node: {error}");
                    self.findings.error(word.position, message, "name it as `uname -n` does");
                    continue;
                }
            };
            if let Some(earlier) = self.draft.nodes.iter().find(|node| node.value == name) {
                let message =
                    format!("the node {name} is in line {} already", earlier.position.line);
                self.findings.error(word.position, message, "name each node once");
            } else if self.draft.nodes.len() == NODES_MAX {
                let message = format!("more than {NODES_MAX} nodes");
                self.findings.error(word.position, message, format!("keep to {NODES_MAX}"));
                return;
            } else {
                self.draft.nodes.push(At { value: name, position: word.position });
            }
        }
    }

    pub(super) fn cluster(&mut self, line: &Line<'_>) {
        let Some(word) = self.one(line, "cluster NAME") else { return };
        // The rule for names of nodes keeps it fit for packets, paths and log lines.
        match word.text.parse::<NodeName>() {
            Ok(name) => self.set(|draft| &mut draft.cluster, line, name.into()),
            Err(error) => {
                let message = format!("this is no name of a cluster: {error}");
                self.findings.error(word.position, message, "choose a name, the same on all nodes");
            }
        }
    }

    pub(super) fn autojoin(&mut self, line: &Line<'_>) {
        let Some(word) = self.one(line, "autojoin none") else { return };
        if word.text.eq_ignore_ascii_case("none") {
            return;
        }
        let message = format!(
            "autojoin {} is refused: with haresources all nodes must be known (the original refuses \
             it, too)",
            quoted(word.text)
        );
        let remedy = "name every node with \"node\", and write autojoin none";
        self.findings.error(word.position, message, remedy);
    }

    pub(super) fn keepalive(&mut self, line: &Line<'_>) {
        if let Some(time) = self.time(line, KEEPALIVE_MIN) {
            self.set(|draft| &mut draft.keepalive, line, time);
        }
    }

    pub(super) fn deadtime(&mut self, line: &Line<'_>) {
        if let Some(time) = self.time(line, KEEPALIVE_MIN) {
            self.set(|draft| &mut draft.deadtime, line, time);
        }
    }

    pub(super) fn warntime(&mut self, line: &Line<'_>) {
        if let Some(time) = self.time(line, Duration::from_nanos(1)) {
            self.set(|draft| &mut draft.warntime, line, time);
        }
    }

    pub(super) fn initdead(&mut self, line: &Line<'_>) {
        if let Some(time) = self.time(line, KEEPALIVE_MIN) {
            self.set(|draft| &mut draft.initdead, line, time);
        }
    }

    pub(super) fn deadping(&mut self, line: &Line<'_>) {
        if let Some(time) = self.time(line, KEEPALIVE_MIN) {
            self.set(|draft| &mut draft.deadping, line, time);
        }
    }

    pub(super) fn auto_failback(&mut self, line: &Line<'_>) {
        let Some(word) = self.one(line, "auto_failback on, off or legacy") else { return };
        let failback = match word.text.to_ascii_lowercase().as_str() {
            "legacy" | "true" | "on" | "yes" | "y" | "1" => Failback::Auto,
            "false" | "off" | "no" | "n" | "0" => Failback::Manual,
            _ => {
                let message = format!("unknown auto_failback {}", quoted(word.text));
                return self.findings.error(word.position, message, "write on, off or legacy");
            }
        };
        self.set(|draft| &mut draft.failback, line, failback);
    }

    /// Obsolete in the original, which reads `on` as `auto_failback off` and `off` as `legacy`.
    pub(super) fn nice_failback(&mut self, line: &Line<'_>) {
        let Some(nice) = self.boolean(line) else { return };
        let (failback, meant) = match nice {
            true => (Failback::Manual, "off"),
            false => (Failback::Auto, "on"),
        };
        let message = "nice_failback is obsolete";
        self.findings.warning(line.name.position, message, format!("write auto_failback {meant}"));
        self.set(|draft| &mut draft.failback, line, failback);
    }

    pub(super) fn crm(&mut self, line: &Line<'_>) {
        let name = line.name.text;
        let Some(word) = self.one(line, &format!("{name} off, or remove the line")) else { return };
        let value = word.text.to_ascii_lowercase();
        if matches!(value.as_str(), "false" | "off" | "no" | "n" | "0") {
            return;
        }
        let message = format!(
            "{name} {} is refused: Pacemaker would manage the resources, not haresources",
            quoted(word.text)
        );
        let remedy = "write the resources into haresources and remove the line, or keep Pacemaker \
                      with Corosync";
        self.findings.error(word.position, message, remedy);
    }

    pub(super) fn ping(&mut self, line: &Line<'_>) {
        for host in self.some(line, "ping HOST...") {
            if let Some(members) = self.resolve(host, |_| true) {
                self.target(host, PingTarget { name: host.text.to_owned(), members });
            }
        }
    }

    pub(super) fn ping6(&mut self, line: &Line<'_>) {
        for host in self.some(line, "ping6 HOST...") {
            if let Some(members) = self.resolve(host, IpAddr::is_ipv6) {
                self.target(host, PingTarget { name: host.text.to_owned(), members });
            }
        }
    }

    pub(super) fn ping_group(&mut self, line: &Line<'_>) {
        let words = self.some(line, "ping_group NAME HOST...");
        let Some((name, hosts)) = words.split_first() else { return };
        if hosts.is_empty() {
            let message = format!("the ping group {} has no hosts", quoted(name.text));
            self.findings.error(name.position, message, "write ping_group NAME HOST...");
        }
        let members: Vec<_> = hosts.iter().map(|host| self.resolve(host, |_| true)).collect();
        if let Some(members) = members.into_iter().collect::<Option<Vec<_>>>()
            && !hosts.is_empty()
        {
            let members = members.into_iter().flatten().collect();
            self.target(name, PingTarget { name: name.text.to_owned(), members });
        }
    }

    fn target(&mut self, word: &Word<'_>, target: PingTarget) {
        let useless = target.members.iter().find_map(|it| Some((*it, unpingable(*it)?)));
        if let Some((address, (why, remedy))) = useless {
            self.findings.error(word.position, format!("{address} is {why}"), remedy);
        } else if !is_target_name(&target.name) {
            let message = format!("{} is no name of a ping node", quoted(word.text));
            let remedy = "use up to 64 letters, digits, -, _ and ., or an address";
            self.findings.error(word.position, message, remedy);
        } else if self.draft.targets.iter().any(|other| other.name == target.name) {
            let message = format!("the ping node {} is there already", quoted(word.text));
            self.findings.error(word.position, message, "name it once");
        } else if self.draft.targets.len() == PING_TARGETS_MAX {
            let message = format!("more than {PING_TARGETS_MAX} ping nodes");
            self.findings.error(word.position, message, format!("keep to {PING_TARGETS_MAX}"));
        } else {
            self.draft.targets.push(target);
        }
    }

    /// The first address of a host that fits: of several, the original asks the first one, too.
    fn resolve(&mut self, host: &Word<'_>, fits: impl Fn(&IpAddr) -> bool) -> Option<Vec<IpAddr>> {
        let addresses = match host.text.parse::<IpAddr>() {
            Ok(address) => Ok(vec![address]),
            Err(_) => self.world.resolve(host.text),
        };
        let why = match addresses {
            Ok(addresses) => match addresses.into_iter().find(fits) {
                Some(address) => return Some(vec![address]),
                None => "it has no address of that family".to_owned(),
            },
            Err(error) => error.to_string(),
        };
        let message = format!("cannot find the ping node {}: {why}", quoted(host.text));
        self.findings.error(host.position, message, "write its address instead of its name");
        None
    }

    pub(super) fn respawn(&mut self, line: &Line<'_>) {
        const SYNTAX: &str = "write respawn USER /PATH/PROGRAM ARGUMENTS...";
        let [user, program, arguments @ ..] = line.arguments.as_slice() else {
            let message = "respawn needs a user and a program";
            return self.findings.error(line.name.position, message, SYNTAX);
        };
        let path = PathBuf::from(program.text);
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name == "ipfail" {
            return self.set(|draft| &mut draft.ipfail, line, ());
        }
        if !is_user_name(user.text) {
            let message = format!("{} is not the name of a user", quoted(user.text));
            return self.findings.error(user.position, message, SYNTAX);
        }
        if CLIENTS_OF_HEARTBEAT.contains(&name) {
            let message = format!(
                "{name} is not started: it speaks Heartbeat's client interface, \
                                   which is not here"
            );
            return self.findings.warning(program.position, message, "remove the line");
        }
        if !path.is_absolute() {
            let message = format!("the program {} is not an absolute path", quoted(program.text));
            return self.findings.error(program.position, message, "start it with /");
        }
        if let Some((message, remedy)) = program_problem(self.world, &path) {
            self.findings.error(program.position, message, remedy);
        }
        if let Some((message, remedy)) = user_problem(self.world, user.text) {
            self.findings.error(user.position, message, remedy);
        }
        if self.draft.clients.len() == CLIENTS_MAX {
            let message = format!("more than {CLIENTS_MAX} programs");
            return self.findings.error(
                program.position,
                message,
                format!("keep to {CLIENTS_MAX}"),
            );
        }
        self.draft.clients.push(Client {
            user: user.text.to_owned(),
            program: path,
            arguments: arguments.iter().map(|word| word.text.to_owned()).collect(),
        });
    }

    pub(super) fn realtime(&mut self, line: &Line<'_>) {
        if let Some(enabled) = self.boolean(line) {
            self.set(|draft| &mut draft.realtime, line, enabled);
        }
    }

    pub(super) fn logfile(&mut self, line: &Line<'_>) {
        if let Some(path) = self.path(line) {
            self.set(|draft| &mut draft.logfile, line, path);
        }
    }

    pub(super) fn debugfile(&mut self, line: &Line<'_>) {
        if let Some(path) = self.path(line) {
            self.set(|draft| &mut draft.debugfile, line, path);
        }
    }

    pub(super) fn logfacility(&mut self, line: &Line<'_>) {
        let Some(word) = self.one(line, "logfacility local0, or logfacility none") else { return };
        let facility = match word.text.to_ascii_lowercase() {
            none if none == "none" => None,
            known if FACILITIES.contains(&known.as_str()) => Some(known),
            unknown => {
                let known = FACILITIES.iter().copied().chain(["none"]);
                let message = format!("unknown logfacility {}", quoted(word.text));
                let remedy = did_you_mean(&unknown, "facility", known);
                return self.findings.error(word.position, message, remedy);
            }
        };
        self.set(|draft| &mut draft.logfacility, line, facility);
    }

    pub(super) fn debug(&mut self, line: &Line<'_>) {
        let Some(word) = self.one(line, "debug 0 to 255") else { return };
        match word.text.parse::<u8>() {
            Ok(level) => self.set(|draft| &mut draft.debug, line, level > 0),
            Err(_) => {
                let message = format!("debug {} is no level", quoted(word.text));
                self.findings.error(word.position, message, "give a number from 0 to 255");
            }
        }
    }

    pub(super) fn use_logd(&mut self, line: &Line<'_>) {
        if self.boolean(line) == Some(true) {
            let message = format!("use_logd on has no effect: {NO_LOGD}");
            let remedy = "write use_logd off, and logfile or logfacility for where the log goes";
            self.findings.warning(line.name.position, message, remedy);
        }
    }
}
