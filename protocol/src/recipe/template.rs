//! Text in which `{axis}` stands for the value of an axis; `{{` and `}}` are the braces themselves.

use super::AXIS_VALUE_BYTES_MAX;
use super::diagnostic::{Diagnostics, Place, cut};

/// Text of a recipe or batch, with the axes that it mentions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    parts: Vec<Part>,
    place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Axis { name: String, place: Place },
}

/// Why a text can't be expanded.
pub(super) enum ExpandError<'a> {
    /// An axis without a value.
    NoValue { axis: &'a str, place: &'a Place },
    /// More bytes than allowed.
    TooLong,
}

impl Text {
    /// A text without axes.
    pub(super) fn plain(text: impl Into<String>, place: Place) -> Self {
        Self { parts: vec![Part::Literal(text.into())], place }
    }

    /// Reads `text`, which stands at `place`; what is wrong with its braces goes to `diagnostics`.
    pub(super) fn parse(text: &str, place: Place, diagnostics: &mut Diagnostics) -> Option<Self> {
        if !text.contains(['{', '}']) {
            return Some(Self::plain(text, place));
        }
        let inside = |offset: usize| place.inside(text, offset);
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(brace) = rest.find(['{', '}']) {
            let offset = text.len() - rest.len() + brace;
            literal.push_str(&rest[..brace]);
            let double = rest[brace..].starts_with("{{") || rest[brace..].starts_with("}}");
            if double {
                literal.push_str(&rest[brace..=brace]);
                rest = &rest[brace + 2..];
                continue;
            }
            if rest[brace..].starts_with('}') {
                diagnostics.add(&inside(offset), "`}` without a `{`", "write `}}` for the brace itself");
                return None;
            }
            let Some(end) = rest[brace..].find('}') else {
                diagnostics.add(&inside(offset), "`{` without a `}`", "write `{{` for the brace itself");
                return None;
            };
            let name = &rest[brace + 1..brace + end];
            if let Err(reason) = check_axis_name(name) {
                let message = format!("`{{{}}}` does not name an axis: {reason}", cut(name));
                diagnostics.add(&inside(offset), message, "write `{{` and `}}` for the braces themselves");
                return None;
            }
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(Part::Axis { name: name.to_owned(), place: inside(offset) });
            rest = &rest[brace + end + 1..];
        }
        literal.push_str(rest);
        if !literal.is_empty() || parts.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Some(Self { parts, place })
    }

    /// Where it stands.
    pub const fn place(&self) -> &Place {
        &self.place
    }

    /// The text itself, where it mentions no axis.
    pub fn literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The axes that it mentions and where, in order; one may come several times.
    pub fn mentions(&self) -> impl Iterator<Item = (&str, &Place)> {
        self.parts.iter().filter_map(|part| match part {
            Part::Axis { name, place } => Some((name.as_str(), place)),
            Part::Literal(_) => None,
        })
    }

    /// What stands before and behind the first `separator` that is written out.
    pub(super) fn split_once(&self, separator: char) -> Option<(Self, Self)> {
        let (at, before, behind) = self.parts.iter().enumerate().find_map(|(at, part)| match part {
            Part::Literal(text) => text.split_once(separator).map(|(before, behind)| (at, before, behind)),
            Part::Axis { .. } => None,
        })?;
        let part = |parts: Vec<Part>| Self { parts, place: self.place.clone() };
        let mut head = self.parts[..at].to_vec();
        head.push(Part::Literal(before.to_owned()));
        let mut tail = vec![Part::Literal(behind.to_owned())];
        tail.extend_from_slice(&self.parts[at + 1..]);
        Some((part(head), part(tail)))
    }

    /// The text with `value(axis)` for each axis; at most `limit` bytes.
    pub(super) fn expand<'a, 'v>(&'a self, limit: usize, value: impl Fn(&str) -> Option<&'v str>) -> Result<String, ExpandError<'a>> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Axis { name, place } => {
                    text.push_str(value(name).ok_or(ExpandError::NoValue { axis: name, place })?);
                }
            }
            if text.len() > limit {
                return Err(ExpandError::TooLong);
            }
        }
        Ok(text)
    }

    /// As it would be written.
    pub fn written(&self) -> String {
        let part = |part: &Part| match part {
            Part::Literal(text) => text.replace('{', "{{").replace('}', "}}"),
            Part::Axis { name, .. } => format!("{{{name}}}"),
        };
        self.parts.iter().map(part).collect()
    }
}

/// Checks that `name` can be an axis: a small letter, then small letters, digits, `_` or `-`, 32 bytes at most.
pub(super) fn check_axis_name(name: &str) -> Result<(), &'static str> {
    if name.len() > 32 {
        return Err("a name of an axis has 32 characters at most");
    }
    let rest = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(rest) {
        return Err("a name of an axis is a small letter, then small letters, digits, `_` and `-`");
    }
    Ok(())
}

/// Checks that `value` can be an axis' value: it becomes part of file names, labels and ids.
pub(super) fn check_axis_value(value: &str) -> Result<(), String> {
    if value.is_empty() || value.len() > AXIS_VALUE_BYTES_MAX {
        return Err(format!("an axis' value has 1 to {AXIS_VALUE_BYTES_MAX} bytes"));
    }
    match value.chars().find(|c| c.is_control() || matches!(c, '[' | ']' | ',' | '=' | '{' | '}')) {
        Some(c) => Err(format!("an axis' value has no {c:?}, since values stand in labels such as `lua[device=RPi5]`")),
        None => Ok(()),
    }
}
