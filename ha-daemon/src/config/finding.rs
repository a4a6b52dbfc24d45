//! What is wrong with a configuration, where, and what to do about it.
//!
//! Everything that reads or judges configuration reports [`Finding`]s; `ha-daemon check` prints
//! them, and a start or a reload that meets an error returns them as [`ConfigError`].

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration works, and will disappoint somebody.
    Warning,
    /// The configuration is refused.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// A place in a file, both counted from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// One thing that is wrong, and its remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The file, unless the finding is about the running machine.
    pub file: Option<PathBuf>,
    /// Line in the file, from 1; `None` when it is about the file as a whole.
    pub line: Option<usize>,
    /// Column in the line, in characters from 1.
    pub column: Option<usize>,
    /// What is wrong, on what.
    pub message: String,
    /// What the operator can do.
    pub remedy: String,
}

impl Finding {
    /// A finding that refuses the configuration.
    #[must_use]
    pub fn error(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Severity::Error, message.into(), remedy.into())
    }

    /// A finding that does not.
    #[must_use]
    pub fn warning(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Severity::Warning, message.into(), remedy.into())
    }

    fn new(severity: Severity, message: String, remedy: String) -> Self {
        Self { severity, file: None, line: None, column: None, message, remedy }
    }

    /// The same finding, in a file.
    #[must_use]
    pub fn in_file(mut self, file: &Path) -> Self {
        self.file = Some(file.to_owned());
        self
    }

    /// The same finding, at a place in its file.
    #[must_use]
    pub fn at(mut self, position: Position) -> Self {
        self.line = Some(position.line);
        self.column = Some(position.column);
        self
    }

    fn write_place(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(file) = &self.file else {
            return Ok(());
        };
        write_printable(f, &file.to_string_lossy())?;
        for number in [self.line, self.column].into_iter().flatten() {
            write!(f, ":{number}")?;
        }
        f.write_str(": ")
    }

    fn write_text(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_printable(f, &self.message)?;
        f.write_str("; ")?;
        write_printable(f, &self.remedy)
    }
}

impl fmt::Display for Finding {
    /// `path:line:column: error|warning: message; remedy`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_place(f)?;
        write!(f, "{}: ", self.severity)?;
        self.write_text(f)
    }
}

/// Why a configuration is refused: every error that was found, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The errors; never empty, never a warning.
    pub findings: Vec<Finding>,
}

impl fmt::Display for ConfigError {
    /// One line for each error: `path:line:column: message; remedy`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, finding) in self.findings.iter().enumerate() {
            if index > 0 {
                f.write_char('\n')?;
            }
            finding.write_place(f)?;
            finding.write_text(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Puts findings into the order of their files, one file after the other: those of `first`, then others
/// as they turn up. What concerns a file as a whole comes first in it, what is about no file last.
pub(super) fn sort(findings: &mut [Finding], first: &[&Path]) {
    let mut files: Vec<PathBuf> = first.iter().map(|file| (*file).to_owned()).collect();
    for file in findings.iter().filter_map(|finding| finding.file.as_ref()) {
        if !files.contains(file) {
            files.push(file.clone());
        }
    }
    let number = |finding: &Finding| {
        let number = files.iter().position(|file| Some(file) == finding.file.as_ref());
        number.unwrap_or(files.len())
    };
    findings.sort_by_key(|finding| (number(finding), finding.line, finding.column));
}

/// Exit code of `ha-daemon check`: 0 clean, 1 warnings, 2 errors.
#[must_use]
pub fn exit_code(findings: &[Finding]) -> u8 {
    match findings.iter().map(|finding| finding.severity).max() {
        None => 0,
        Some(Severity::Warning) => 1,
        Some(Severity::Error) => 2,
    }
}

/// Longest quotation from a file in a message, in characters.
const QUOTED_CHARACTERS_MAX: usize = 80;

/// Text from outside in double quotes, escaped and shortened for a message.
#[must_use]
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", shortened(text))
}

/// Text from outside, escaped and shortened for a message.
#[must_use]
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARACTERS_MAX) {
        Some((end, _)) => format!("{}...", text[..end].escape_debug()),
        None => text.escape_debug().to_string(),
    }
}

/// Writes text on one line: what it quotes must not steer the terminal that shows it.
fn write_printable(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for character in text.chars() {
        if character.is_control() {
            write!(f, "{}", character.escape_debug())?;
        } else {
            f.write_char(character)?;
        }
    }
    Ok(())
}

/// Longest word for which a similar one is looked for, in bytes.
const SIMILAR_BYTES_MAX: usize = 64;
/// Most candidates that are compared.
const SIMILAR_CANDIDATES_MAX: usize = 256;

/// The remedy for an unknown word: the nearest known one, else all of them.
#[must_use]
pub(super) fn did_you_mean<'a>(
    word: &str,
    what: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> String {
    let known: Vec<&str> = known.into_iter().take(SIMILAR_CANDIDATES_MAX).collect();
    let distance = |candidate: &str| strsim::damerau_levenshtein(word, candidate);
    let nearest = known
        .iter()
        .filter(|_| word.len() <= SIMILAR_BYTES_MAX)
        .map(|candidate| (distance(candidate), *candidate))
        // More than half of the letters wrong is another word, not a slip of the finger.
        .filter(|(distance, candidate)| distance * 2 <= candidate.len())
        .min_by_key(|(distance, _)| *distance);
    match nearest {
        Some((_, candidate)) => format!("did you mean {}?", quoted(candidate)),
        None if known.is_empty() => format!("no {what} is defined"),
        None => format!("known: {}", list(known)),
    }
}

/// Words as an operator reads them: `a, b, c`, shortened.
#[must_use]
pub(super) fn list<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    const WORDS_MAX: usize = 16;
    let words: Vec<&str> = words.into_iter().collect();
    let shown = words.iter().take(WORDS_MAX).copied().collect::<Vec<_>>().join(", ");
    match words.len().checked_sub(WORDS_MAX) {
        Some(more) if more > 0 => format!("{shown} and {more} more"),
        Some(_) | None => shown,
    }
}
