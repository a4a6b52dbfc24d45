//! Lines, words and their places, as Heartbeat's files have them.

use std::path::{Path, PathBuf};

use crate::config::finding::{Finding, Position, Severity, sort};

/// Longest line of `ha.cf` and longest logical line of `haresources`, in bytes. Heartbeat has the
/// same.
pub(super) const LINE_BYTES_MAX: usize = 5120;
/// Most findings that are kept for one file; the rest is counted.
const FINDINGS_MAX: usize = 200;

/// A word and where it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word<'t> {
    pub(super) text: &'t str,
    pub(super) position: Position,
}

/// A directive with what follows it.
#[derive(Debug, Clone)]
pub(super) struct Line<'t> {
    /// The directive.
    pub(super) name: Word<'t>,
    /// The words after it, parted by spaces, tabs and commas.
    pub(super) words: Vec<Word<'t>>,
    /// The same, parted by spaces and tabs only: a program's arguments may have commas.
    pub(super) arguments: Vec<Word<'t>>,
}

impl<'t> Line<'t> {
    /// The line without its comment; nothing if no words are left.
    pub(super) fn of(number: usize, text: &'t str) -> Option<Self> {
        let text = text.split('#').next().unwrap_or("");
        let words = split(number, text, |c| c.is_ascii_whitespace() || c == ',');
        let (name, words) = words.split_first()?;
        let from = name.position.column;
        let arguments = split(number, text, |c| c.is_ascii_whitespace())
            .into_iter()
            .filter(|word| word.position.column > from)
            .collect();
        Some(Self { name: *name, words: words.to_vec(), arguments })
    }
}

/// The words of a text that starts at column 1 of a line.
pub(super) fn split(line: usize, text: &str, separates: impl Fn(char) -> bool) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut column = 1;
    for text in text.split(separates) {
        if !text.is_empty() {
            words.push(Word { text, position: Position { line, column } });
        }
        column += text.chars().count() + 1;
    }
    words
}

/// What was found in one file.
#[derive(Debug)]
pub(super) struct Findings {
    path: PathBuf,
    list: Vec<Finding>,
    dropped: usize,
    dropped_worst: Severity,
}

impl Findings {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            list: Vec::new(),
            dropped: 0,
            dropped_worst: Severity::Warning,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn error(
        &mut self,
        position: Position,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add_at(position, Finding::error(message, remedy));
    }

    pub(super) fn warning(
        &mut self,
        position: Position,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add_at(position, Finding::warning(message, remedy));
    }

    /// Adds a finding that has no place yet.
    pub(super) fn add_at(&mut self, position: Position, finding: Finding) {
        self.add(finding.in_file(&self.path).at(position));
    }

    /// Adds a finding about the file as a whole.
    pub(super) fn about_file(&mut self, finding: Finding) {
        self.add(finding.in_file(&self.path));
    }

    /// Refuses a line with a NUL: programs and the kernel would take what is before it.
    pub(super) fn refuse_nul(&mut self, line: usize, text: &str) {
        if let Some(before) = text.chars().position(|character| character == '\0') {
            let position = Position { line, column: before + 1 };
            self.error(position, "the line contains a NUL", "remove it");
        }
    }

    /// Adds a finding that has its file.
    pub(super) fn add(&mut self, finding: Finding) {
        if self.list.len() < FINDINGS_MAX {
            self.list.push(finding);
        } else {
            self.dropped += 1;
            self.dropped_worst = self.dropped_worst.max(finding.severity);
        }
    }

    pub(super) fn has_error(&self) -> bool {
        let kept = self.list.iter().any(|finding| finding.severity == Severity::Error);
        kept || (self.dropped > 0 && self.dropped_worst == Severity::Error)
    }

    /// All of them in the order of the file.
    pub(super) fn into_list(mut self) -> Vec<Finding> {
        sort(&mut self.list, &[&self.path]);
        if self.dropped > 0 {
            let message = format!("{} more findings are not shown", self.dropped);
            let mut more = Finding::error(message, "correct the others first").in_file(&self.path);
            more.severity = self.dropped_worst;
            self.list.push(more);
        }
        self.list
    }
}
