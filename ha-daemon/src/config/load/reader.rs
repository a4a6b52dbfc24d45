//! TOML tables whose every key and value knows its place in the file.
//!
//! The sections are read from the spanned tree and not through derived `Deserialize`, because
//! serde stops at the first unknown key or wrong type, and an operator wants all of them at once.
//! A [`Table`] is emptied key by key; what is left at the end is unknown, and what was asked for
//! is the list of known keys, so that the two cannot drift apart.

use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use humantime::format_duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::finding::{
    Finding, Position, Severity, did_you_mean, list, quoted, shortened, sort,
};
use crate::names::NameError;

/// Most findings that are kept; the rest is counted.
pub(super) const FINDINGS_MAX: usize = 200;

/// How a duration is written.
const DURATION: &str = "a number and a unit, such as \"500us\", \"10ms\" or \"2s\"";

/// Bytes of the file from..to.
pub(super) type Span = Range<usize>;
/// A value and its place.
pub(super) type Value<'t> = Spanned<DeValue<'t>>;

/// The file that is read, and what was found in it so far.
pub(super) struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    line_starts: Vec<usize>,
    findings: Vec<Finding>,
    dropped_findings: usize,
    dropped_worst: Severity,
}

impl<'a> Reader<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str) -> Self {
        let after_newlines = text.match_indices('\n').map(|(index, _)| index + 1);
        let line_starts = std::iter::once(0).chain(after_newlines).collect();
        Self {
            path,
            text,
            line_starts,
            findings: Vec::new(),
            dropped_findings: 0,
            dropped_worst: Severity::Warning,
        }
    }

    /// Line and column of a byte.
    pub(super) fn position(&self, offset: usize) -> Position {
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = self.line_starts.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let before = self.text.get(start..offset.min(self.text.len())).unwrap_or("");
        Position { line, column: before.chars().count() + 1 }
    }

    pub(super) fn error(
        &mut self,
        span: &Span,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add_at(span, Finding::error(message, remedy));
    }

    pub(super) fn warning(
        &mut self,
        span: &Span,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add_at(span, Finding::warning(message, remedy));
    }

    /// Adds a finding that has no place yet.
    pub(super) fn add_at(&mut self, span: &Span, finding: Finding) {
        let position = self.position(span.start);
        self.add(finding.in_file(self.path).at(position));
    }

    /// Adds a finding about another file, or about this one as a whole.
    pub(super) fn add(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.dropped_findings += 1;
            self.dropped_worst = self.dropped_worst.max(finding.severity);
        }
    }

    /// All findings: those of this file in its order, then the others.
    pub(super) fn into_findings(mut self) -> Vec<Finding> {
        sort(&mut self.findings, &[self.path]);
        if self.dropped_findings > 0 {
            let message = format!("{} more findings are not shown", self.dropped_findings);
            let mut more = Finding::error(message, "correct the others first").in_file(self.path);
            more.severity = self.dropped_worst;
            self.findings.push(more);
        }
        self.findings
    }

    /// Text in quotes; `example` is what to write instead of anything else.
    pub(super) fn text(
        &mut self,
        value: Value<'_>,
        what: &str,
        example: &str,
    ) -> Option<Spanned<String>> {
        let span = value.span();
        let kind = value.get_ref().type_str();
        if let DeValue::String(text) = value.into_inner() {
            return Some(Spanned::new(span, text.into_owned()));
        }
        self.error(&span, format!("{what} has the type {kind}"), format!("write {example}"));
        None
    }

    /// A checked name.
    pub(super) fn name<T>(&mut self, text: &Spanned<String>, what: &str) -> Option<T>
    where
        T: FromStr<Err = NameError>,
    {
        let (text, span) = (text.get_ref(), &text.span());
        match text.parse() {
            Ok(name) => Some(name),
            Err(error) => {
                let (wrong, remedy) = why_no_name(&error);
                self.error(span, format!("{what} {} {wrong}", quoted(text)), remedy);
                None
            }
        }
    }

    /// A duration with its unit.
    pub(super) fn duration(
        &mut self,
        value: Value<'_>,
        what: &str,
        range: &RangeInclusive<Duration>,
    ) -> Option<Spanned<Duration>> {
        self.duration_as(value, what, range, format!("write {DURATION}"))
    }

    /// A duration with its unit, or a word that stands for none.
    pub(super) fn duration_or(
        &mut self,
        value: Value<'_>,
        what: &str,
        range: &RangeInclusive<Duration>,
        word: &str,
    ) -> Option<Spanned<Option<Duration>>> {
        if value.get_ref().as_str().is_some_and(|text| text.trim() == word) {
            return Some(Spanned::new(value.span(), None));
        }
        let remedy = format!("write {}, or {DURATION}", quoted(word));
        let given = self.duration_as(value, what, range, remedy)?;
        Some(Spanned::new(given.span(), Some(given.into_inner())))
    }

    fn duration_as(
        &mut self,
        value: Value<'_>,
        what: &str,
        range: &RangeInclusive<Duration>,
        remedy: String,
    ) -> Option<Spanned<Duration>> {
        let span = value.span();
        let (text, has_unit) = match value.get_ref() {
            DeValue::String(text) => (text.trim(), !is_number(text.trim())),
            DeValue::Integer(number) => (number.as_str(), false),
            DeValue::Float(number) => (number.as_str(), false),
            DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                let kind = value.get_ref().type_str();
                self.error(&span, format!("{what} has the type {kind}"), remedy);
                return None;
            }
        };
        if !has_unit {
            let number = shortened(text);
            let remedy = format!("write \"{number}ms\" or \"{number}s\"");
            self.error(&span, format!("{what} = {number} has no unit"), remedy);
            return None;
        }
        let Ok(duration) = humantime::parse_duration(text) else {
            self.error(&span, format!("{what} {} is not a duration", quoted(text)), remedy);
            return None;
        };
        if let Some(wrong) = outside(duration, range) {
            let (min, max) = (format_duration(*range.start()), format_duration(*range.end()));
            let message = format!("{what} {} is {wrong}", quoted(text));
            self.error(&span, message, format!("give {min} to {max}"));
            return None;
        }
        Some(Spanned::new(span, duration))
    }

    /// A whole number within a range.
    pub(super) fn integer(
        &mut self,
        value: &Value<'_>,
        what: &str,
        range: &RangeInclusive<u32>,
    ) -> Option<Spanned<u32>> {
        let remedy = format!("give a number from {} to {}", range.start(), range.end());
        let span = value.span();
        let Some(number) = value.get_ref().as_integer() else {
            let kind = value.get_ref().type_str();
            self.error(&span, format!("{what} has the type {kind}"), remedy);
            return None;
        };
        match u32::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) if range.contains(&number) => Some(Spanned::new(span, number)),
            Ok(_) | Err(_) => {
                let number = shortened(number.as_str());
                self.error(&span, format!("{what} = {number} is out of range"), remedy);
                None
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, value: &Value<'_>, what: &str) -> Option<Spanned<bool>> {
        let span = value.span();
        if let Some(choice) = value.get_ref().as_bool() {
            return Some(Spanned::new(span, choice));
        }
        let message = format!("{what} has the type {}", value.get_ref().type_str());
        self.error(&span, message, format!("write {what} = true or {what} = false"));
        None
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        word: &Spanned<String>,
        what: &str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let found = choices.iter().find(|(known, _)| known == word.get_ref());
        if let Some((_, choice)) = found {
            return Some(*choice);
        }
        let remedy = did_you_mean(word.get_ref(), what, choices.iter().map(|(known, _)| *known));
        self.error(&word.span(), format!("unknown {what} {}", quoted(word.get_ref())), remedy);
        None
    }

    /// A list; `example` is what to write instead of anything else.
    pub(super) fn array<'t>(
        &mut self,
        value: Value<'t>,
        what: &str,
        example: &str,
    ) -> Option<Spanned<Vec<Value<'t>>>> {
        let span = value.span();
        let kind = value.get_ref().type_str();
        if let DeValue::Array(array) = value.into_inner() {
            return Some(Spanned::new(span, array.into_iter().collect()));
        }
        self.error(&span, format!("{what} has the type {kind}"), format!("write {example}"));
        None
    }

    /// The list of texts of a key, of which messages speak as `what`.
    pub(super) fn texts<'t>(
        &mut self,
        value: Value<'t>,
        what: &str,
        key: &str,
    ) -> Option<Spanned<Vec<Value<'t>>>> {
        let only = value.get_ref().as_str().unwrap_or("...");
        let example = format!("{} = [{}]", bare_or_quoted(key), quoted(only));
        self.array(value, what, &example)
    }

    /// A table, with the name by which messages call it.
    pub(super) fn table<'t>(&mut self, value: Value<'t>, label: String) -> Option<Table<'t>> {
        let span = value.span();
        let kind = value.get_ref().type_str();
        if let DeValue::Table(entries) = value.into_inner() {
            return Some(Table::new(label, span, entries));
        }
        self.error(&span, format!("{label} has the type {kind}"), "make it a table");
        None
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// How a duration misses its range, if it does.
fn outside(duration: Duration, range: &RangeInclusive<Duration>) -> Option<String> {
    if duration < *range.start() {
        Some(format!("shorter than {}", format_duration(*range.start())))
    } else if duration > *range.end() {
        Some(format!("longer than {}", format_duration(*range.end())))
    } else {
        None
    }
}

/// What is wrong with a name and its remedy. `NameError` shows the name itself, at any length.
fn why_no_name(error: &NameError) -> (String, String) {
    match error {
        NameError::Empty => ("is empty".to_owned(), "write a name".to_owned()),
        NameError::TooLong { name, max } => {
            (format!("has {} bytes", name.len()), format!("keep to {max}"))
        }
        NameError::Character { character, allowed, .. } => (
            format!("contains {character:?}"),
            format!("use only letters, digits and any of {allowed}"),
        ),
    }
}

/// A key of the file: left out, refused (a finding says why), or given.
#[derive(Debug)]
pub(super) enum Field<T> {
    Absent,
    Refused,
    Given(Spanned<T>),
}

impl<T> Field<T> {
    /// The value, the default of an absent one, or nothing for a refused one.
    pub(super) fn or_default(self, default: T) -> Option<T> {
        match self {
            Self::Absent => Some(default),
            Self::Refused => None,
            Self::Given(value) => Some(value.into_inner()),
        }
    }

    pub(super) fn given(self) -> Option<Spanned<T>> {
        match self {
            Self::Given(value) => Some(value),
            Self::Absent | Self::Refused => None,
        }
    }

    pub(super) fn span(&self) -> Option<Span> {
        match self {
            Self::Given(value) => Some(value.span()),
            Self::Absent | Self::Refused => None,
        }
    }
}

/// The keys of a table that were not yet asked for.
pub(super) struct Table<'t> {
    label: String,
    span: Span,
    entries: DeTable<'t>,
    known: Vec<&'static str>,
}

impl<'t> Table<'t> {
    pub(super) fn new(label: String, span: Span, entries: DeTable<'t>) -> Self {
        Self { label, span, entries, known: Vec::new() }
    }

    /// How messages call it: `[links.hb0]`.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// Its header.
    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    /// Removes a key that is known.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Value<'t>> {
        self.known.push(key);
        self.entries.remove(key)
    }

    /// Everything in a table whose keys are names, in the order of the names.
    pub(super) fn into_named(self) -> Vec<(Spanned<String>, Value<'t>)> {
        let owned = |key: Spanned<std::borrow::Cow<'t, str>>| {
            let span = key.span();
            Spanned::new(span, key.into_inner().into_owned())
        };
        self.entries.into_iter().map(|(key, value)| (owned(key), value)).collect()
    }

    pub(super) fn text(&mut self, reader: &mut Reader<'_>, key: &'static str) -> Field<String> {
        self.field(key, |value| reader.text(value, key, &format!("{key} = \"...\"")))
    }

    /// Text that is to be one of a few words; whether it is, the caller judges.
    pub(super) fn word<'k>(
        &mut self,
        reader: &mut Reader<'_>,
        key: &'static str,
        known: impl IntoIterator<Item = &'k str>,
    ) -> Field<String> {
        self.field(key, |value| {
            let example = format!("{key} = \"...\", with one of: {}", list(known));
            reader.text(value, key, &example)
        })
    }

    pub(super) fn duration(
        &mut self,
        reader: &mut Reader<'_>,
        key: &'static str,
        range: &RangeInclusive<Duration>,
    ) -> Field<Duration> {
        self.field(key, |value| reader.duration(value, key, range))
    }

    pub(super) fn duration_or(
        &mut self,
        reader: &mut Reader<'_>,
        key: &'static str,
        range: &RangeInclusive<Duration>,
        word: &str,
    ) -> Field<Option<Duration>> {
        self.field(key, |value| reader.duration_or(value, key, range, word))
    }

    pub(super) fn integer(
        &mut self,
        reader: &mut Reader<'_>,
        key: &'static str,
        range: &RangeInclusive<u32>,
    ) -> Field<u32> {
        self.field(key, |value| reader.integer(&value, key, range))
    }

    pub(super) fn choice<T: Copy>(
        &mut self,
        reader: &mut Reader<'_>,
        key: &'static str,
        choices: &[(&str, T)],
    ) -> Field<T> {
        match self.word(reader, key, choices.iter().map(|(word, _)| *word)) {
            Field::Absent => Field::Absent,
            Field::Refused => Field::Refused,
            Field::Given(word) => match reader.choice(&word, key, choices) {
                Some(choice) => Field::Given(Spanned::new(word.span(), choice)),
                None => Field::Refused,
            },
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, reader: &mut Reader<'_>, key: &'static str) -> Field<bool> {
        self.field(key, |value| reader.boolean(&value, key))
    }

    /// A path that holds wherever the daemon was started; nothing if it was refused.
    pub(super) fn absolute_path(
        &mut self,
        reader: &mut Reader<'_>,
        key: &'static str,
    ) -> Option<Option<PathBuf>> {
        let given = match self.text(reader, key) {
            Field::Absent => return Some(None),
            Field::Refused => return None,
            Field::Given(given) => given,
        };
        let path = PathBuf::from(given.get_ref());
        if path.is_absolute() {
            return Some(Some(path));
        }
        let message = format!("{key} {} is not an absolute path", quoted(given.get_ref()));
        reader.error(&given.span(), message, "start it with /");
        None
    }

    pub(super) fn array(
        &mut self,
        reader: &mut Reader<'_>,
        key: &'static str,
        example: &str,
    ) -> Field<Vec<Value<'t>>> {
        self.field(key, |value| reader.array(value, key, example))
    }

    pub(super) fn texts(
        &mut self,
        reader: &mut Reader<'_>,
        key: &'static str,
    ) -> Field<Vec<Value<'t>>> {
        self.field(key, |value| reader.texts(value, key, key))
    }

    fn field<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(Value<'t>) -> Option<Spanned<T>>,
    ) -> Field<T> {
        match self.take(key) {
            None => Field::Absent,
            Some(value) => read(value).map_or(Field::Refused, Field::Given),
        }
    }

    /// Refuses every key that nobody asked for.
    pub(super) fn finish(self, reader: &mut Reader<'_>) {
        for key in self.entries.keys() {
            let message = format!("unknown key {} in {}", quoted(key.get_ref()), self.label);
            let remedy = did_you_mean(key.get_ref(), "key", self.known.iter().copied());
            let remedy = match remedy.strip_prefix("known: ") {
                Some(_) => format!("known keys: {}", list(self.known.iter().copied())),
                None => remedy,
            };
            reader.error(&key.span(), message, remedy);
        }
    }
}

/// `[section.name]`, quoted where TOML wants it.
pub(super) fn label(path: &[&str]) -> String {
    let parts: Vec<String> = path.iter().map(|name| bare_or_quoted(name)).collect();
    format!("[{}]", parts.join("."))
}

/// A key as TOML wants it.
pub(super) fn bare_or_quoted(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !key.is_empty() && key.chars().all(bare) { key.to_owned() } else { quoted(key) }
}
