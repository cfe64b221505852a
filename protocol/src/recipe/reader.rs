//! From values to what a field wants: every reader says what was found, what is wanted and where, and goes on.

use std::sync::Arc;

use super::diagnostic::{Diagnostics, Place, SourceText, cut, list, nearest};
use super::template::Text;
use super::value::{Entry, Node, Value};

/// What is wrong with a value, and what to do.
pub(super) type Fault = (String, String);

/// Reads one file.
pub(super) struct Reader {
    source: Arc<SourceText>,
    pub(super) diagnostics: Diagnostics,
}

/// The fields of a table whose keys are all known.
#[derive(Clone, Copy)]
pub(super) struct Fields<'n> {
    /// How people call the table, for example `[recipe]`.
    pub(super) what: &'static str,
    at: usize,
    entries: &'n [Entry],
}

impl<'n> Fields<'n> {
    pub(super) fn field(&self, key: &str) -> Option<&'n Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    pub(super) fn entry(&self, key: &str) -> Option<&'n Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    pub(super) const fn entries(&self) -> &'n [Entry] {
        self.entries
    }
}

impl Reader {
    pub(super) fn new(source: Arc<SourceText>) -> Self {
        Self { source, diagnostics: Diagnostics::default() }
    }

    pub(super) fn place(&self, offset: usize) -> Place {
        Place::new(self.source.clone(), offset)
    }

    pub(super) fn fields_place(&self, fields: Fields<'_>) -> Place {
        self.place(fields.at)
    }

    pub(super) fn error(&mut self, offset: usize, message: impl Into<String>, help: impl Into<String>) {
        let place = self.place(offset);
        self.diagnostics.add(&place, message, help);
    }

    /// Says that `key` is of the wrong type.
    fn wrong<T>(&mut self, key: &str, node: &Node, wanted: &str) -> Option<T> {
        self.error(node.at, format!("`{}` is {}; {wanted} is wanted", cut(key), node.value.describe()), "");
        None
    }

    /// The table that `node` is, its keys among `known`.
    pub(super) fn fields<'n>(&mut self, what: &'static str, node: &'n Node, known: &[&str]) -> Option<Fields<'n>> {
        let fields = self.free_fields(what, node)?;
        for entry in fields.entries {
            if known.contains(&entry.key.as_str()) || self.diagnostics.is_full() {
                continue;
            }
            let help = match nearest(&entry.key, known.iter().copied()) {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("it may have {}", list(known)),
            };
            self.error(entry.key_at, format!("{what} has no key `{}`", cut(&entry.key)), help);
        }
        Some(fields)
    }

    /// The table that `node` is, with whatever keys.
    pub(super) fn free_fields<'n>(&mut self, what: &'static str, node: &'n Node) -> Option<Fields<'n>> {
        match &node.value {
            Value::Table(entries) => Some(Fields { what, at: node.at, entries }),
            Value::Array(_) => {
                let help = if what.starts_with('[') { format!("write `{what}` once, in single brackets") } else { String::new() };
                self.error(node.at, format!("{what} is a list; one table is wanted"), help);
                None
            }
            other => {
                self.error(node.at, format!("{what} is {}; a table is wanted", other.describe()), "");
                None
            }
        }
    }

    /// The tables of a list of tables; `what` is for example `[[source]]`.
    pub(super) fn tables<'n>(&mut self, what: &'static str, node: &'n Node, known: &[&str]) -> Vec<Fields<'n>> {
        match &node.value {
            Value::Array(items) => items.iter().filter_map(|item| self.fields(what, item, known)).collect(),
            Value::Table(_) => {
                self.error(
                    node.at,
                    format!("a table where a list of tables {what} is wanted"),
                    format!("write `{what}`, in double brackets"),
                );
                Vec::new()
            }
            other => {
                self.error(node.at, format!("{} where a list of tables {what} is wanted", other.describe()), "");
                Vec::new()
            }
        }
    }

    /// The field `key`, or an error that it is missing.
    pub(super) fn required<'n>(&mut self, fields: Fields<'n>, key: &str, help: &str) -> Option<&'n Node> {
        let node = fields.field(key);
        if node.is_none() {
            self.error(fields.at, format!("{} has no `{key}`", fields.what), help);
        }
        node
    }

    /// A string in which axes are not expanded.
    pub(super) fn string(&mut self, key: &str, node: &Node) -> Option<String> {
        match &node.value {
            Value::Text(text) => Some(text.clone()),
            _ => self.wrong(key, node, "a string"),
        }
    }

    /// A string in which axes are not expanded, and which `check` accepts.
    pub(super) fn checked(&mut self, key: &str, node: &Node, check: impl Fn(&str) -> Result<(), Fault>) -> Option<String> {
        let text = self.string(key, node)?;
        match check(&text) {
            Ok(()) => Some(text),
            Err((message, help)) => {
                self.error(node.at, message, help);
                None
            }
        }
    }

    /// A text with axes.
    pub(super) fn text(&mut self, key: &str, node: &Node) -> Option<Text> {
        let text = self.string(key, node)?;
        Text::parse(&text, self.place(node.at), &mut self.diagnostics)
    }

    /// A text with axes, which `check` accepts once they are expanded; where there are none, at once.
    pub(super) fn checked_text(&mut self, key: &str, node: &Node, check: impl Fn(&str) -> Result<(), Fault>) -> Option<Text> {
        let text = self.text(key, node)?;
        if let Some(Err((message, help))) = text.literal().map(check) {
            self.error(node.at, message, help);
            return None;
        }
        Some(text)
    }

    pub(super) fn boolean(&mut self, key: &str, node: &Node) -> Option<bool> {
        match node.value {
            Value::Boolean(truth) => Some(truth),
            _ => self.wrong(key, node, "true or false"),
        }
    }

    /// A whole number from `least` to `most`.
    pub(super) fn integer(&mut self, key: &str, node: &Node, least: i64, most: i64) -> Option<i64> {
        match node.value {
            Value::Integer(Some(number)) if (least..=most).contains(&number) => Some(number),
            Value::Integer(_) => {
                self.error(node.at, format!("`{key}` is out of range; {least} to {most} is allowed"), "");
                None
            }
            _ => self.wrong(key, node, "an integer"),
        }
    }

    /// A list of texts with axes.
    pub(super) fn texts(&mut self, key: &str, node: &Node, check: impl Fn(&str) -> Result<(), Fault>) -> Option<Vec<Text>> {
        match &node.value {
            Value::Array(items) => Some(items.iter().filter_map(|item| self.checked_text(key, item, &check)).collect()),
            Value::Text(_) => self.wrong(key, node, "a list of strings, in square brackets,"),
            _ => self.wrong(key, node, "a list of strings"),
        }
    }

    /// A list of strings, with the place of each.
    pub(super) fn strings(&mut self, key: &str, node: &Node) -> Option<Vec<(String, Place)>> {
        match &node.value {
            Value::Array(items) => {
                let strings = items.iter().filter_map(|item| Some((self.string(key, item)?, self.place(item.at))));
                Some(strings.collect())
            }
            Value::Text(_) => self.wrong(key, node, "a list of strings, in square brackets,"),
            _ => self.wrong(key, node, "a list of strings"),
        }
    }
}
