//! JSON with the place of every value and key, which `serde_json` does not tell.

use super::value::{Entry, Node, Value};

/// More levels than any recipe has; keeps a hostile file from exhausting the stack.
const DEPTH_MAX: usize = 64;

/// What is wrong at a byte offset.
#[derive(Debug)]
pub(super) struct JsonError {
    pub(super) at: usize,
    pub(super) message: String,
}

/// The value that `text` is.
pub(super) fn parse(text: &str) -> Result<Node, JsonError> {
    let mut parser = Parser { text, at: 0 };
    // A byte order mark is not ours to complain about.
    if text.starts_with('\u{feff}') {
        parser.at = '\u{feff}'.len_utf8();
    }
    parser.space();
    let node = parser.value(0)?;
    parser.space();
    if parser.at < text.len() {
        return parser.fail("something stands behind the end of the document");
    }
    Ok(node)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn fail<T>(&self, message: impl Into<String>) -> Result<T, JsonError> {
        Err(JsonError { at: self.at, message: message.into() })
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Takes `byte` or says that `wanted` is wanted.
    fn take(&mut self, byte: u8, wanted: &str) -> Result<(), JsonError> {
        if self.peek() == Some(byte) {
            self.at += 1;
            return Ok(());
        }
        self.unexpected(wanted)
    }

    fn unexpected<T>(&self, wanted: &str) -> Result<T, JsonError> {
        match self.text.get(self.at..).and_then(|rest| rest.chars().next()) {
            Some(found) => self.fail(format!("{found:?} found where {wanted} is wanted")),
            None => self.fail(format!("the file ends where {wanted} is wanted")),
        }
    }

    fn value(&mut self, depth: usize) -> Result<Node, JsonError> {
        if depth >= DEPTH_MAX {
            return self.fail(format!("more than {DEPTH_MAX} levels of nesting"));
        }
        let at = self.at;
        let value = match self.peek() {
            Some(b'{') => self.table(depth)?,
            Some(b'[') => self.array(depth)?,
            Some(b'"') => Value::Text(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            _ => self.word()?,
        };
        Ok(Node { at, end: self.at, value })
    }

    fn word(&mut self) -> Result<Value, JsonError> {
        let rest = &self.text[self.at..];
        for (word, value) in [("true", Value::Boolean(true)), ("false", Value::Boolean(false)), ("null", Value::Null)] {
            if rest.starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        self.unexpected("a value")
    }

    fn table(&mut self, depth: usize) -> Result<Value, JsonError> {
        self.at += 1;
        let mut entries: Vec<Entry> = Vec::new();
        let mut keys = std::collections::BTreeSet::new();
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Table(entries));
        }
        loop {
            self.space();
            let key_at = self.at;
            if self.peek() != Some(b'"') {
                return self.unexpected("a key in double quotes");
            }
            let key = self.string()?;
            if !keys.insert(key.clone()) {
                return Err(JsonError { at: key_at, message: format!("key `{}` is given twice", super::diagnostic::cut(&key)) });
            }
            self.space();
            self.take(b':', "`:`")?;
            self.space();
            let node = self.value(depth + 1)?;
            entries.push(Entry { key, key_at, node });
            self.space();
            if self.peek() == Some(b'}') {
                self.at += 1;
                return Ok(Value::Table(entries));
            }
            self.take(b',', "`,` or `}`")?;
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, JsonError> {
        self.at += 1;
        let mut items = Vec::new();
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::Array(items));
        }
        loop {
            self.space();
            items.push(self.value(depth + 1)?);
            self.space();
            if self.peek() == Some(b']') {
                self.at += 1;
                return Ok(Value::Array(items));
            }
            self.take(b',', "`,` or `]`")?;
        }
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { self.unexpected("a digit") } else { Ok(()) }
    }

    fn number(&mut self) -> Result<Value, JsonError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
            if matches!(self.peek(), Some(b'0'..=b'9')) {
                return self.fail("a number with a leading zero");
            }
        } else {
            self.digits()?;
        }
        let mut whole = true;
        if self.peek() == Some(b'.') {
            whole = false;
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            whole = false;
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(if whole { Value::Integer(self.text[start..self.at].parse().ok()) } else { Value::Float })
    }

    fn string(&mut self) -> Result<String, JsonError> {
        self.at += 1;
        let mut text = String::new();
        loop {
            let start = self.at;
            // Quote, backslash and control characters are one byte each, so a run ends on a character's border.
            while matches!(self.peek(), Some(byte) if byte != b'"' && byte != b'\\' && byte >= 0x20) {
                self.at += 1;
            }
            text.push_str(&self.text[start..self.at]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => text.push(self.escape()?),
                Some(_) => return self.fail("a control character in a string; write it as an escape"),
                None => return self.fail("the file ends inside a string"),
            }
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        let start = self.at;
        self.at += 1;
        let letter = self.peek();
        self.at += 1;
        Ok(match letter {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(start),
            _ => {
                self.at = start;
                return self.fail("an unknown escape in a string");
            }
        })
    }

    fn unicode(&mut self, start: usize) -> Result<char, JsonError> {
        let bad = |message: &str| Err(JsonError { at: start, message: message.to_owned() });
        let Some(first) = self.hex4() else { return bad("`\\u` wants four hexadecimal digits") };
        let code = if (0xd800..0xdc00).contains(&first) {
            if !self.text[self.at..].starts_with("\\u") {
                return bad("half of a surrogate pair");
            }
            self.at += 2;
            match self.hex4() {
                Some(second @ 0xdc00..=0xdfff) => 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00),
                _ => return bad("half of a surrogate pair"),
            }
        } else {
            first
        };
        char::from_u32(code).map_or_else(|| bad("half of a surrogate pair"), Ok)
    }

    fn hex4(&mut self) -> Option<u32> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4)?;
        let mut code = 0;
        for digit in digits {
            code = code * 16 + char::from(*digit).to_digit(16)?;
        }
        self.at += 4;
        Some(code)
    }
}
