//! What commands print: tables and words for people, or one JSON document.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;
use serde_json::{Map, Value};

use super::args::{ColorWhen, Global};
use crate::api::{Problem, VERSION};

/// How to print, as the global options say.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// One JSON document instead of words.
    pub json: bool,
    /// Results only.
    pub quiet: bool,
    /// Colours on standard output.
    pub color: bool,
}

/// A style of a few characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Something is well.
    Good,
    /// Something is wrong.
    Bad,
    /// Something to look at.
    Warn,
    /// A heading.
    Strong,
    /// Beside the point.
    Dim,
}

impl Style {
    const fn code(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Bad => "31",
            Self::Warn => "33",
            Self::Strong => "1",
            Self::Dim => "2",
        }
    }
}

impl Output {
    /// What `global` says, and whether a person watches.
    pub fn new(global: &Global) -> Self {
        let color = match global.color {
            ColorWhen::Always => true,
            ColorWhen::Never => false,
            ColorWhen::Auto => {
                std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && io::stdout().is_terminal() && !global.json
            }
        };
        Self { json: global.json, quiet: global.quiet, color }
    }

    /// Whether live progress can be shown: a person watches standard error.
    pub fn live(&self) -> bool {
        // A terminal that says it is dumb can't take back what it has shown.
        !self.json && !self.quiet && io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|name| name != "dumb")
    }

    /// `text` in a style, where there are colours.
    pub fn paint(&self, style: Style, text: &str) -> String {
        if self.color { format!("\u{1b}[{}m{text}\u{1b}[0m", style.code()) } else { text.to_owned() }
    }

    /// A result in words, on standard output; nothing with `--json`.
    ///
    /// # Errors
    /// [`Problem`] where standard output can't be written to.
    pub fn say(&self, text: impl AsRef<str>) -> Result<(), Problem> {
        if self.json { Ok(()) } else { write_line(text.as_ref()) }
    }

    /// Something beside the result, on standard error; nothing with `--json` or `--quiet`.
    pub fn note(&self, text: impl AsRef<str>) {
        if !self.json && !self.quiet {
            // Whether anyone reads it does not matter.
            let _ = writeln!(io::stderr(), "{}", text.as_ref());
        }
    }

    /// The command's one JSON document, where `--json` is given: `fields` with `kind` and `version`. What is not an
    /// object becomes the field `items` (a list) or `value`.
    ///
    /// # Errors
    /// [`Problem`] where standard output can't be written to.
    pub fn document(&self, kind: &str, fields: &impl Serialize) -> Result<(), Problem> {
        if !self.json {
            return Ok(());
        }
        let document = document(kind, fields)?;
        write_line(&serde_json::to_string_pretty(&document).map_err(unserialisable)?)
    }

    /// One JSON document of a stream, on one line, where `--json` is given.
    ///
    /// # Errors
    /// [`Problem`] where standard output can't be written to.
    pub fn stream(&self, kind: &str, fields: &impl Serialize) -> Result<(), Problem> {
        if !self.json {
            return Ok(());
        }
        write_line(&document(kind, fields)?.to_string())
    }

    /// As [`Output::stream`], on standard error: for commands whose standard output is for bytes.
    ///
    /// # Errors
    /// [`Problem`] where the document can't be made.
    pub fn stream_beside(&self, kind: &str, fields: &impl Serialize) -> Result<(), Problem> {
        if self.json {
            // Whether anyone reads it does not matter: the bytes are the result.
            let _ = writeln!(io::stderr(), "{}", document(kind, fields)?);
        }
        Ok(())
    }
}

fn unserialisable(error: serde_json::Error) -> Problem {
    Problem::failed(format!("the answer can't be written as JSON: {error}"))
}

fn document(kind: &str, fields: &impl Serialize) -> Result<Value, Problem> {
    let mut document = Map::new();
    document.insert("kind".to_owned(), kind.into());
    document.insert("version".to_owned(), VERSION.into());
    match serde_json::to_value(fields).map_err(unserialisable)? {
        // The document's own two fields are never overwritten: what has a `version` of its own says it as another.
        Value::Object(fields) => {
            for (name, value) in fields {
                let name = if document.contains_key(&name) { format!("{kind}-{name}") } else { name };
                document.insert(name, value);
            }
        }
        Value::Null => {}
        list @ Value::Array(_) => drop(document.insert("items".to_owned(), list)),
        value => drop(document.insert("value".to_owned(), value)),
    }
    Ok(Value::Object(document))
}

/// Writes a line to standard output. That the reader has gone away (`barn … | head`) ends the program quietly.
fn write_line(text: &str) -> Result<(), Problem> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => closed_pipe(),
        _ => Problem::failed(format!("writing to standard output: {error}")),
    })
}

/// The problem that stands for "nobody reads any more". It is not shown.
pub fn closed_pipe() -> Problem {
    Problem { status: STATUS_CLOSED_PIPE, message: String::new() }
}

/// The status of [`closed_pipe`]; not an HTTP status.
pub const STATUS_CLOSED_PIPE: u16 = 0;

/// Prints what went wrong: words on standard error, or with `--json` one document on standard output; on standard error as
/// well where standard output is for `bytes`.
pub fn print_problem(problem: &Problem, json: bool, bytes: bool) {
    // There is nobody left to tell that it can't be told.
    let _ = if json {
        let fields = serde_json::json!({ "exit": problem.exit_code(), "message": problem.message });
        let text = document("error", &fields).map_or_else(|_| String::new(), |document| document.to_string());
        if bytes { writeln!(io::stderr(), "{text}") } else { writeln!(io::stdout(), "{text}") }
    } else {
        writeln!(io::stderr(), "barn: {}", problem.message)
    };
}

/// Rows in columns that are as wide as their widest cell, two blanks apart. Styles in cells don't count as width.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|&heading| heading.to_owned()).collect()] }
    }

    /// A table without headings.
    pub fn plain() -> Self {
        Self::default()
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table as text, without a line end after the last row.
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell)).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            if number > 0 {
                text.push('\n');
            }
            let mut line = String::new();
            for (cell, column) in row.iter().zip(&widths) {
                // Writing to a `String` can't fail.
                let _ = write!(line, "{cell}{:blanks$}", "", blanks = column - width(cell) + 2);
            }
            text.push_str(line.trim_end());
        }
        text
    }
}

/// Characters that are seen: all but those of styles.
fn width(text: &str) -> usize {
    let mut styled = false;
    text.chars()
        .filter(|&c| match (c, styled) {
            ('\u{1b}', _) => {
                styled = true;
                false
            }
            ('m', true) => {
                styled = false;
                false
            }
            (_, styled) => !styled,
        })
        .count()
}

/// A number of bytes, for people.
pub fn bytes(count: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(unit, _)| count >= *unit) {
        // One digit behind the point is all that is shown, so rounding does not matter.
        Some((unit, name)) => format!("{:.1} {name}", count as f64 / *unit as f64),
        None => format!("{count} B"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_seen_in_them() {
        let mut table = Table::new(&["job", "state"]);
        table.row(["zlib".into(), "\u{1b}[32mok\u{1b}[0m".into()]);
        table.row(["z".into(), "failed".into()]);
        assert_eq!(table.render(), "job   state\nzlib  \u{1b}[32mok\u{1b}[0m\nz     failed");
    }

    #[test]
    fn documents_name_their_kind_and_keep_all_fields() {
        let document = document("release", &serde_json::json!({"version": 7, "channel": "nightly"})).unwrap();
        assert_eq!(document, serde_json::json!({"kind": "release", "version": 1, "release-version": 7, "channel": "nightly"}));
        assert_eq!(super::document("ids", &vec![1, 2]).unwrap()["items"], serde_json::json!([1, 2]));
    }

    #[test]
    fn bytes_have_units() {
        assert_eq!([bytes(5), bytes(2048), bytes(3 << 30)], ["5 B", "2.0 KiB", "3.0 GiB"]);
    }
}
