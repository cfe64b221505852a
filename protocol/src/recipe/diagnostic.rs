//! Where something is in a file, and what is wrong there.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// The most diagnostics that one call reports; the last one says how many more there are.
pub const DIAGNOSTICS_MAX: usize = 100;

/// What is wrong at a place in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// The file, as the caller named it.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What to do; empty where the message says it all.
    pub help: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        if self.help.is_empty() { Ok(()) } else { write!(f, " ({})", self.help) }
    }
}

impl std::error::Error for Diagnostic {}

/// A file's name and text, shared by all places in it.
#[derive(PartialEq, Eq)]
pub struct SourceText {
    /// The file, as the caller named it.
    pub file: String,
    /// Its text.
    pub text: String,
    /// Byte offset of the start of each line.
    lines: Vec<usize>,
}

impl SourceText {
    pub(super) fn new(file: &str, text: &str) -> Arc<Self> {
        let lines = std::iter::once(0).chain(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1));
        Arc::new(Self { file: file.to_owned(), lines: lines.collect(), text: text.to_owned() })
    }

    /// Line and column, from 1, of the byte at `offset`.
    fn line_column(&self, offset: usize) -> (u32, u32) {
        let offset = offset.min(self.text.len());
        let line = self.lines.partition_point(|start| *start <= offset).max(1);
        let start = self.lines.get(line - 1).copied().unwrap_or(0);
        // Characters that begin before the offset; an offset inside a character counts as that character.
        let before = self.text.as_bytes()[start..offset].iter().filter(|byte| (**byte & 0xc0) != 0x80).count();
        (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(before + 1).unwrap_or(u32::MAX))
    }
}

impl fmt::Debug for SourceText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceText({:?})", self.file)
    }
}

/// A place in a file. Line and column are counted only when they are asked for.
#[derive(Clone, PartialEq, Eq)]
pub struct Place {
    source: Arc<SourceText>,
    offset: usize,
}

impl Place {
    pub(super) const fn new(source: Arc<SourceText>, offset: usize) -> Self {
        Self { source, offset }
    }

    /// The file, as the caller named it.
    pub fn file(&self) -> &str {
        &self.source.file
    }

    /// Byte offset in the file.
    pub const fn offset(&self) -> usize {
        self.offset
    }

    /// Line and column, from 1.
    pub fn line_column(&self) -> (u32, u32) {
        self.source.line_column(self.offset)
    }

    /// The place of the byte at `offset` of `text`, a string or key that begins here; this place itself where the file
    /// spells it with escapes.
    pub(super) fn inside(&self, text: &str, offset: usize) -> Self {
        let spelled = |skip: usize| self.source.text.get(self.offset + skip..).is_some_and(|rest| rest.starts_with(text));
        // A bare key, one quote, three quotes, three quotes and a line's end.
        let skip = [0, 1, 3, 4, 5].into_iter().find(|skip| spelled(*skip));
        Self { source: self.source.clone(), offset: self.offset + skip.map_or(0, |skip| skip + offset) }
    }

    /// `message` about this place, with `help` on what to do (may be empty).
    pub fn diagnostic(&self, message: impl Into<String>, help: impl Into<String>) -> Diagnostic {
        let (line, column) = self.line_column();
        Diagnostic { file: self.source.file.clone(), line, column, message: message.into(), help: help.into() }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.line_column();
        write!(f, "{}:{line}:{column}", self.source.file)
    }
}

/// Diagnostics as they are found: at most [`DIAGNOSTICS_MAX`] are kept, the rest is counted. Lines and columns are
/// counted at the end, so that a mistake which every cell repeats costs nothing.
#[derive(Debug, Default)]
pub(super) struct Diagnostics {
    found: Vec<(Place, String, String)>,
    more: usize,
    last: Option<Place>,
}

impl Diagnostics {
    pub(super) fn add(&mut self, at: &Place, message: impl Into<String>, help: impl Into<String>) {
        let message = message.into();
        // One mistake in a text that every cell expands is one mistake.
        let known = |(place, other, _): &(Place, String, String)| place.offset == at.offset && *other == message && place == at;
        if self.found.iter().any(known) {
            return;
        }
        if self.found.len() < DIAGNOSTICS_MAX - 1 {
            self.found.push((at.clone(), message, help.into()));
        } else {
            self.more += 1;
            self.last = Some(at.clone());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Whether nothing more would be kept, so that a search can end.
    pub(super) fn is_full(&self) -> bool {
        self.more > 0
    }

    /// `value` where nothing was found; else all that was found, in the order of files and lines.
    pub(super) fn into_result<T>(self, value: Option<T>) -> Result<T, Vec<Diagnostic>> {
        match value {
            Some(value) if self.found.is_empty() => Ok(value),
            _ => {
                let diagnostic = |(place, message, help): (Place, String, String)| place.diagnostic(message, help);
                let mut found: Vec<Diagnostic> = self.found.into_iter().map(diagnostic).collect();
                found.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
                if let Some(last) = self.last {
                    let message = format!("{} more errors are not shown", self.more);
                    found.push(last.diagnostic(message, "mend the first ones and try again"));
                }
                Err(found)
            }
        }
    }
}

/// Lists names for people: `a`, `b` or `c`; cut after 12.
pub(super) fn list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().take(12).map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) if names.len() <= 12 => format!("{} or {last}", rest.join(", ")),
        Some(_) => format!("{}, …", quoted.join(", ")),
    }
}

/// The name among `names` that `given` was most likely meant to be.
pub(super) fn nearest<'a>(given: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // The distance costs the product of both lengths, and nothing that long is a slip of the finger.
    if given.len() > 80 {
        return None;
    }
    let lower = given.to_lowercase();
    names
        .into_iter()
        .filter(|name| name.len() <= 80)
        .map(|name| (strsim::jaro_winkler(&lower, &name.to_lowercase()), name))
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)))
        .map(|(_, name)| name)
}

/// Cuts what a message quotes, so that a message stays a line.
pub(super) fn cut(text: &str) -> String {
    if text.chars().count() <= 80 { text.to_owned() } else { text.chars().take(79).chain(['…']).collect() }
}
