//! Writes hashes into a recipe's text and leaves every other byte as it is.

use std::collections::BTreeMap;

use super::diagnostic::{Diagnostics, SourceText};
use super::value::{self, Entry, Node, Value};

/// A hash to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceHash {
    /// 64 hexadecimal digits.
    Sha256(String),
    /// 64 hexadecimal digits.
    Blake3(String),
}

/// Why a hash could not be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    /// Neither TOML nor JSON.
    #[error("{0}")]
    Syntax(super::Diagnostic),
    /// No such source, or one that is not fetched from `urls`.
    #[error("[[source]] number {} has no `urls`, so it has no hash to be written", .0 + 1)]
    NoUrls(usize),
}

/// `text`, a recipe, with the `hashes` of those sources (by their number in the file, from 0) that have none: a line
/// `sha256 = "…"` behind the one of `urls`, or in JSON and inline tables a field behind it. A source that has a hash
/// already keeps it.
///
/// # Errors
/// [`LockError`].
pub fn lock_edits(file_name: &str, text: &str, hashes: &BTreeMap<usize, SourceHash>) -> Result<String, LockError> {
    let source = SourceText::new(file_name, text);
    let mut diagnostics = Diagnostics::default();
    let Some(node) = value::parse(&source, &mut diagnostics) else {
        let found = diagnostics.into_result::<()>(None).err().and_then(|found| found.into_iter().next());
        // The parser says at least one thing about what it refuses.
        return Err(LockError::Syntax(found.unwrap_or_else(|| super::Place::new(source, 0).diagnostic("can't be read", ""))));
    };
    let json = value::is_json(&source);
    let mut edits: Vec<(usize, String)> = Vec::new();
    for (number, hash) in hashes {
        let entries = source_entries(&node, *number).ok_or(LockError::NoUrls(*number))?;
        let urls = field(entries, "urls").ok_or(LockError::NoUrls(*number))?;
        if field(entries, "sha256").is_some() || field(entries, "blake3").is_some() {
            continue;
        }
        edits.push(edit(text, entries, urls, hash, json));
    }
    // From the end, so that earlier offsets stay true.
    edits.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    let mut locked = text.to_owned();
    for (at, insertion) in edits {
        locked.insert_str(at, &insertion);
    }
    Ok(locked)
}

fn field<'n>(entries: &'n [Entry], key: &str) -> Option<&'n Entry> {
    entries.iter().find(|entry| entry.key == key)
}

fn source_entries(node: &Node, number: usize) -> Option<&[Entry]> {
    let Value::Table(top) = &node.value else { return None };
    let Value::Array(sources) = &field(top, "source")?.node.value else { return None };
    match &sources.get(number)?.value {
        Value::Table(entries) => Some(entries),
        _ => None,
    }
}

/// Where to insert, and what.
fn edit(text: &str, entries: &[Entry], urls: &Entry, hash: &SourceHash, json: bool) -> (usize, String) {
    let (name, digits) = match hash {
        SourceHash::Sha256(digits) => ("sha256", digits),
        SourceHash::Blake3(digits) => ("blake3", digits),
    };
    let behind = urls.node.end;
    let line_start = text[..urls.key_at].rfind('\n').map_or(0, |at| at + 1);
    let before = &text[line_start..urls.key_at];
    let rest = &text[behind..];
    let line_end = rest.find('\n').unwrap_or(rest.len());
    let own_line = before.trim().is_empty();
    if json {
        let separator = match text[..urls.key_at].rfind('\n') {
            Some(_) if own_line => format!(",{}{before}", newline(text)),
            _ => ", ".to_owned(),
        };
        return (behind, format!("{separator}\"{name}\": \"{digits}\""));
    }
    let to_line_end = rest[..line_end].trim();
    if own_line && (to_line_end.is_empty() || to_line_end.starts_with('#')) && !inline(text, entries) {
        let newline = newline(text);
        return match rest.find('\n') {
            Some(at) => (behind + at + 1, format!("{before}{name} = \"{digits}\"{newline}")),
            None => (text.len(), format!("{newline}{before}{name} = \"{digits}\"{newline}")),
        };
    }
    (behind, format!(", {name} = \"{digits}\""))
}

/// Whether the table is written in braces: its fields are separated by commas, not by line ends.
fn inline(text: &str, entries: &[Entry]) -> bool {
    let first = entries.iter().map(|entry| entry.key_at).min().unwrap_or(0);
    let last = entries.iter().map(|entry| entry.node.end).max().unwrap_or(0);
    // What stands before the first field of a table in brackets is its header; of one in braces, the brace.
    let before = text[..first].trim_end();
    before.ends_with('{') || text[last..].trim_start().starts_with([',', '}'])
}

/// The file's own line end.
fn newline(text: &str) -> &'static str {
    if text.contains("\r\n") { "\r\n" } else { "\n" }
}
