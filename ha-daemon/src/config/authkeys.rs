//! The key file, in the grammar of Heartbeat's `authkeys`.
//!
//! ```text
//! # which key signs; every key is accepted
//! auth 1
//! 1 siphash WORD
//! 2 crc
//! ```
//!
//! Nothing of the file but key numbers and the names of known methods ever reaches a message: a
//! line with its words in another order has the key where something else is expected.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::finding::{ConfigError, Finding, Position, sort};
use super::{AuthKey, AuthMethod, KeyRing, Severity, file};

#[cfg(test)]
mod tests;

/// Longest key file, in bytes.
pub const AUTHKEYS_BYTES_MAX: u64 = 64 * 1024;
/// Highest key number; Heartbeat has the same.
pub const KEY_NUMBER_MAX: u8 = 15;
/// Shorter key words are warned about: whoever records a heartbeat can try short words at leisure.
pub const KEY_WORD_BYTES_GOOD: usize = 16;

/// Mode bits that let group or others read or write.
const MODE_OPEN: u32 = 0o066;

/// Reads a key file.
///
/// # Errors
/// All errors that were found, each with its remedy.
pub fn load(path: &Path) -> Result<KeyRing, ConfigError> {
    let (keys, findings) = read(path);
    let is_error = |finding: &Finding| finding.severity == Severity::Error;
    keys.ok_or_else(|| ConfigError {
        findings: findings
            .into_iter()
            .filter(is_error)
            .map(|finding| if finding.file.is_some() { finding } else { finding.in_file(path) })
            .collect(),
    })
}

/// The remedy for a missing key file.
#[must_use]
pub(super) fn how_to_create(path: &Path) -> String {
    format!(
        "create it and copy it to every node: (umask 077; printf 'auth 1\\n1 siphash %s\\n' \
         \"$(head -c 24 /dev/urandom | base64)\" > {})",
        path.display()
    )
}

/// The keys, unless there is an error, and what was found. A finding about the file as a whole has
/// no place: it belongs where the file is named.
pub(super) fn read(path: &Path) -> (Option<KeyRing>, Vec<Finding>) {
    let (bytes, metadata) = match file::read_small(path, AUTHKEYS_BYTES_MAX) {
        Ok(read) => read,
        Err(error) => {
            let message = format!("cannot read the key file {}: {error}", path.display());
            let remedy = if error.kind() == std::io::ErrorKind::NotFound {
                how_to_create(path)
            } else {
                "name a regular file that the daemon may read".to_owned()
            };
            return (None, vec![Finding::error(message, remedy)]);
        }
    };
    let mut findings = check_access(path, &metadata);
    let (keys, found) = match String::from_utf8(bytes) {
        Ok(text) => parse(&text, path),
        Err(_) => {
            let message = format!("the key file {} is not UTF-8", path.display());
            (None, vec![Finding::error(message, "use printable words as keys")])
        }
    };
    findings.extend(found);
    let refused = findings.iter().any(|finding| finding.severity == Severity::Error);
    (keys.filter(|_| !refused), findings)
}

fn check_access(path: &Path, metadata: &Metadata) -> Vec<Finding> {
    let shown = path.display();
    let mut findings = Vec::new();
    if is_open(metadata.mode()) {
        let mode = metadata.mode() & 0o7777;
        let message = format!("the key file {shown} is open to group or others (mode {mode:03o})");
        findings.push(Finding::error(message, format!("chmod 600 {shown}")));
    }
    let current = nix::unistd::geteuid().as_raw();
    if !is_own(metadata.uid(), current) {
        let message = format!("the key file {shown} belongs to the user {}", metadata.uid());
        findings.push(Finding::error(message, format!("chown {current} {shown}")));
    }
    findings
}

fn is_open(mode: u32) -> bool {
    mode & MODE_OPEN != 0
}

/// Root and the daemon's own user may change the keys; whoever else could would own the cluster.
fn is_own(owner: u32, current: u32) -> bool {
    owner == 0 || owner == current
}

/// A key file while it is read.
struct Parser<'p> {
    path: &'p Path,
    active: Option<(u8, Position)>,
    keys: Vec<AuthKey>,
    findings: Vec<Finding>,
}

fn parse(text: &str, path: &Path) -> (Option<KeyRing>, Vec<Finding>) {
    let mut parser = Parser { path, active: None, keys: Vec::new(), findings: Vec::new() };
    for (index, line) in text.lines().enumerate() {
        parser.line(index + 1, line);
    }
    parser.finish()
}

impl Parser<'_> {
    fn error(&mut self, position: Position, message: impl Into<String>, remedy: &str) {
        let finding = Finding::error(message, remedy);
        self.findings.push(finding.in_file(self.path).at(position));
    }

    fn warning(&mut self, position: Position, message: String, remedy: &str) {
        let finding = Finding::warning(message, remedy);
        self.findings.push(finding.in_file(self.path).at(position));
    }

    fn line(&mut self, line: usize, text: &str) {
        let words = words(line, text);
        let [(first, position), rest @ ..] = words.as_slice() else {
            return;
        };
        if *first == "auth" {
            self.auth(*position, rest);
        } else {
            self.key(*position, first, rest);
        }
    }

    /// `auth N`, given what follows the first word.
    fn auth(&mut self, position: Position, rest: &[(&str, Position)]) {
        const REMEDY: &str = "write auth N, with the number of a key from 0 to 15";
        let [(number, number_position)] = rest else {
            return self.error(position, "\"auth\" takes one number", REMEDY);
        };
        let Some(number) = key_number(number) else {
            return self.error(*number_position, "this is not the number of a key", REMEDY);
        };
        if self.active.is_some() {
            return self.error(position, "\"auth\" is here twice", "keep one of the lines");
        }
        self.active = Some((number, *number_position));
    }

    /// `N METHOD KEY`, given its first word and what follows.
    fn key(&mut self, position: Position, number: &str, rest: &[(&str, Position)]) {
        const REMEDY: &str = "write N siphash KEY, with N from 0 to 15 and KEY one word (or md5, \
                              sha1, sha256 instead of siphash), or N crc";
        let Some(number) = key_number(number) else {
            let message = "the line starts with neither \"auth\" nor the number of a key";
            return self.error(position, message, REMEDY);
        };
        let [(method, method_position), rest @ ..] = rest else {
            return self.error(position, format!("key {number} has no method"), REMEDY);
        };
        let Some(method) = AuthMethod::ALL.into_iter().find(|it| it.word() == *method) else {
            let message = format!("key {number} has an unknown method");
            return self.error(*method_position, message, REMEDY);
        };
        if self.keys.iter().any(|key| key.number == number) {
            let message = format!("key {number} is here twice");
            return self.error(position, message, "give each key a number of its own");
        }
        if method == AuthMethod::Crc {
            self.checksum(number, *method_position, rest);
            return;
        }
        let [(word, word_position), rest @ ..] = rest else {
            return self.error(*method_position, format!("key {number} has no key word"), REMEDY);
        };
        if let [(_, extra_position), ..] = rest {
            let message = format!("key {number} has more than one word");
            return self.error(*extra_position, message, REMEDY);
        }
        if word.len() < KEY_WORD_BYTES_GOOD {
            let message = format!("key {number} is short enough to be guessed");
            let remedy = "take a random word, such as head -c 24 /dev/urandom | base64 prints";
            self.warning(*word_position, message, remedy);
        }
        self.keys.push(AuthKey { number, method, word: word.as_bytes().to_vec() });
    }

    /// `N crc`, given its method's place and what follows.
    fn checksum(&mut self, number: u8, position: Position, rest: &[(&str, Position)]) {
        let message = format!(
            "key {number} is a checksum (crc): it keeps noise out, not an attacker; whoever reaches a \
             heartbeat network can speak as any node"
        );
        let remedy = "take siphash with a random word, unless nobody else can reach those networks";
        self.warning(position, message, remedy);
        if let [(_, word_position), ..] = rest {
            let message = format!("key {number} is a checksum (crc), which takes no key word");
            self.warning(*word_position, message, "remove the word; it is not used");
        }
        self.keys.push(AuthKey { number, method: AuthMethod::Crc, word: Vec::new() });
    }

    fn finish(mut self) -> (Option<KeyRing>, Vec<Finding>) {
        self.keys.sort_by_key(|key| key.number);
        let start = Position { line: 1, column: 1 };
        let unharmed = self.findings.iter().all(|finding| finding.severity == Severity::Warning);
        match self.active {
            None if unharmed => {
                self.error(start, "no \"auth N\" says which key signs", "add it, such as auth 1");
            }
            Some((number, position))
                if unharmed && self.keys.iter().all(|key| key.number != number) =>
            {
                let message = format!("the key {number} that is to sign is missing");
                self.error(position, message, "add its line, or name another key");
            }
            None | Some(_) => {}
        }
        sort(&mut self.findings, &[]);
        let keys = self.active.map(|(active, _)| KeyRing::new(active, self.keys));
        (keys, self.findings)
    }
}

/// The words of a line up to a word that starts a comment, each with its place.
fn words(line: usize, text: &str) -> Vec<(&str, Position)> {
    let mut words = Vec::new();
    let mut column = 1;
    for word in text.split(char::is_whitespace) {
        if word.starts_with('#') {
            break;
        }
        if !word.is_empty() {
            words.push((word, Position { line, column }));
        }
        column += word.chars().count() + 1;
    }
    words
}

fn key_number(word: &str) -> Option<u8> {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    word.parse().ok().filter(|number| digits && *number <= KEY_NUMBER_MAX)
}
