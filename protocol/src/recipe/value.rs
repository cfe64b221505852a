//! One tree of values for both notations, each value with the place of its first byte.

use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::FILE_BYTES_MAX;
use super::diagnostic::{Diagnostics, Place, SourceText};

/// Files up to this size report all their syntax errors; larger ones the first, since a megabyte of rubbish would give
/// a million.
const ALL_SYNTAX_ERRORS_BYTES_MAX: usize = 64 << 10;

/// A value and where it is.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) at: usize,
    /// Offset behind its last byte.
    pub(super) end: usize,
    pub(super) value: Value,
}

/// What both notations can say.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    /// `None`: a whole number beyond 64 bits.
    Integer(Option<i64>),
    Float,
    Boolean(bool),
    Date,
    Null,
    Array(Vec<Node>),
    /// In the order of the file.
    Table(Vec<Entry>),
}

/// A key and its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_at: usize,
    pub(super) node: Node,
}

impl Value {
    /// For messages: what was found.
    pub(super) const fn describe(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float => "a decimal number",
            Self::Boolean(_) => "true or false",
            Self::Date => "a date",
            Self::Null => "null",
            Self::Array(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

/// The top table of `source`, or its syntax errors in `diagnostics`.
pub(super) fn parse(source: &Arc<SourceText>, diagnostics: &mut Diagnostics) -> Option<Node> {
    let place = |offset| Place::new(source.clone(), offset);
    if source.text.len() > FILE_BYTES_MAX {
        let message = format!("the file has {} bytes, at most {FILE_BYTES_MAX} are allowed", source.text.len());
        diagnostics.add(&place(0), message, "keep sources in files of their own, and name them in `[[source]]`");
        return None;
    }
    if is_json(source) {
        return match super::json::parse(&source.text) {
            Ok(node) => Some(node),
            Err(error) => {
                diagnostics.add(&place(error.at), format!("not JSON: {}", error.message), "");
                None
            }
        };
    }
    let (table, errors) = if source.text.len() <= ALL_SYNTAX_ERRORS_BYTES_MAX {
        let (table, errors) = DeTable::parse_recoverable(&source.text);
        (Some(table), errors)
    } else {
        match DeTable::parse(&source.text) {
            Ok(table) => (Some(table), Vec::new()),
            Err(error) => (None, vec![error]),
        }
    };
    for error in &errors {
        let at = error.span().map_or(source.text.len(), |span| span.start);
        diagnostics.add(&place(at), format!("not TOML: {}", error.message()), "");
    }
    // What the parser could save from a broken file would only give more, and misleading, errors.
    let table = table.filter(|_| errors.is_empty())?;
    let span = table.span();
    Some(Node { at: span.start, end: span.end, value: Value::Table(table_entries(table.into_inner())) })
}

/// JSON when the name ends in `.json` or the text starts with a brace, which TOML's never does.
pub(super) fn is_json(source: &SourceText) -> bool {
    source.file.to_ascii_lowercase().ends_with(".json") || source.text.trim_start().starts_with('{')
}

// Recursion: the TOML parser refuses more than 80 levels, our JSON parser more than 64.
fn table_entries(table: DeTable<'_>) -> Vec<Entry> {
    let entry = |(key, value): (toml::Spanned<toml::de::DeString<'_>>, toml::Spanned<DeValue<'_>>)| {
        let key_at = key.span().start;
        Entry { key: key.into_inner().into_owned(), key_at, node: node(value) }
    };
    table.into_iter().map(entry).collect()
}

fn node(value: toml::Spanned<DeValue<'_>>) -> Node {
    let span = value.span();
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok()),
        DeValue::Float(_) => Value::Float,
        DeValue::Boolean(truth) => Value::Boolean(truth),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(items) => Value::Array(items.iter().cloned().map(node).collect()),
        DeValue::Table(table) => Value::Table(table_entries(table)),
    };
    Node { at: span.start, end: span.end, value }
}
