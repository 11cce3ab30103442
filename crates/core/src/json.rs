//! A small, strict JSON reader (RFC 8259): nothing is converted on the way, so that numbers keep
//! their text and duplicate members can be refused. Never panics, whatever the input.
//!
//! It takes two things that writers emit and a strict reading of the RFC would refuse: a byte order mark
//! in front (§8.1), and half of a surrogate pair in a string (§8.2), as JavaScript writes a string that was
//! cut in the middle of an emoji. Such a half has no place in a `String`: strings are read as bytes, in
//! which it is written as UTF-8 would write it if it could ("WTF-8"), so that no two strings are one.

use std::fmt;

/// Deepest nesting of arrays and objects (`docs/semantics.md`).
pub const MAX_DEPTH: usize = 128;

/// What is wrong with a JSON text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It ends too early.
    UnexpectedEnd,
    /// A character that the grammar does not allow here.
    UnexpectedCharacter,
    /// Not UTF-8.
    InvalidUtf8,
    /// An escape that JSON does not know; half of a surrogate pair where text is needed.
    InvalidEscape,
    /// A raw control character in a string.
    ControlCharacter,
    /// Not a JSON number.
    InvalidNumber,
    /// Nested deeper than [`MAX_DEPTH`].
    TooDeep,
    /// An object names a member twice: readers disagree about which one counts.
    DuplicateMember,
    /// Something follows the value.
    TrailingCharacters,
}

/// A fault and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonError {
    /// Byte offset into the text.
    pub offset: usize,
    /// What is wrong.
    pub fault: Fault,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.fault {
            Fault::UnexpectedEnd => "the text ends too early",
            Fault::UnexpectedCharacter => "unexpected character",
            Fault::InvalidUtf8 => "not UTF-8",
            Fault::InvalidEscape => "invalid escape in a string",
            Fault::ControlCharacter => "control character in a string",
            Fault::InvalidNumber => "invalid number",
            Fault::TooDeep => "nested too deeply",
            Fault::DuplicateMember => "an object names a member twice",
            Fault::TrailingCharacters => "something follows the value",
        };
        write!(f, "{what} (at byte {})", self.offset)
    }
}

/// A JSON value whose numbers are still text.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, as written.
    Number(String),
    /// A string, escapes decoded.
    String(String),
    /// An array.
    Array(Vec<Value>),
    /// Members in their order; names are distinct.
    Object(Vec<(String, Value)>),
}

/// Reads one JSON text.
pub fn parse(bytes: &[u8]) -> Result<Value, JsonError> {
    let mut scanner = Scanner::new(bytes)?;
    let value = tree(&mut scanner)?;
    scanner.end()?;
    Ok(value)
}

/// Writes a value without white space, members in their order.
pub(crate) fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        Value::Number(text) => out.extend_from_slice(text.as_bytes()),
        Value::String(text) => crate::canonical_json::string(text, out),
        Value::Array(elements) => {
            out.push(b'[');
            for (at, element) in elements.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write(element, out);
            }
            out.push(b']');
        }
        Value::Object(members) => {
            out.push(b'{');
            for (at, (name, value)) in members.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                crate::canonical_json::string(name, out);
                out.push(b':');
                write(value, out);
            }
            out.push(b'}');
        }
    }
}

fn tree(scanner: &mut Scanner<'_>) -> Result<Value, JsonError> {
    Ok(match scanner.kind()? {
        JsonKind::Object => {
            let mut members: Vec<(String, Value)> = Vec::new();
            scanner.members(&mut |scanner, name| {
                if members.iter().any(|(known, _)| *known == name) {
                    return Err(scanner.error(Fault::DuplicateMember));
                }
                members.push((name, tree(scanner)?));
                Ok(())
            })?;
            Value::Object(members)
        }
        JsonKind::Array => {
            let mut elements = Vec::new();
            scanner.elements(&mut |scanner| {
                elements.push(tree(scanner)?);
                Ok(())
            })?;
            Value::Array(elements)
        }
        JsonKind::String => Value::String(scanner.text()?),
        JsonKind::Number => Value::Number(scanner.number()?.to_owned()),
        JsonKind::Literal => match scanner.literal()? {
            "null" => Value::Null,
            text => Value::Bool(text == "true"),
        },
    })
}

/// What comes next in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JsonKind {
    Object,
    Array,
    String,
    Number,
    Literal,
}

/// Walks over a text; what is made of it is the caller's affair.
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

type Step<'f> = &'f mut dyn FnMut(&mut Scanner<'_>) -> Result<(), JsonError>;
type MemberStep<'f> = &'f mut dyn FnMut(&mut Scanner<'_>, String) -> Result<(), JsonError>;

impl<'a> Scanner<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Scanner<'a>, JsonError> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Scanner {
                text,
                at: if text.starts_with('\u{feff}') { 3 } else { 0 },
                depth: 0,
            }),
            Err(e) => Err(JsonError {
                offset: e.valid_up_to(),
                fault: Fault::InvalidUtf8,
            }),
        }
    }

    pub(crate) fn error(&self, fault: Fault) -> JsonError {
        JsonError {
            offset: self.at,
            fault,
        }
    }

    fn unexpected(&self) -> JsonError {
        self.error(match self.peek() {
            Some(_) => Fault::UnexpectedCharacter,
            None => Fault::UnexpectedEnd,
        })
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.at += 1;
        }
    }

    /// Consumes `byte` if it comes next.
    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.at += 1;
        }
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), JsonError> {
        if self.eat(byte) {
            Ok(())
        } else {
            Err(self.unexpected())
        }
    }

    /// Only white space may follow.
    pub(crate) fn end(&mut self) -> Result<(), JsonError> {
        self.skip_space();
        match self.peek() {
            Some(_) => Err(self.error(Fault::TrailingCharacters)),
            None => Ok(()),
        }
    }

    /// Skips white space and says what kind of value comes next.
    pub(crate) fn kind(&mut self) -> Result<JsonKind, JsonError> {
        self.skip_space();
        match self.peek() {
            Some(b'{') => Ok(JsonKind::Object),
            Some(b'[') => Ok(JsonKind::Array),
            Some(b'"') => Ok(JsonKind::String),
            Some(b'-' | b'0'..=b'9') => Ok(JsonKind::Number),
            Some(b't' | b'f' | b'n') => Ok(JsonKind::Literal),
            _ => Err(self.unexpected()),
        }
    }

    fn deeper(&mut self) -> Result<(), JsonError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error(Fault::TooDeep));
        }
        Ok(())
    }

    /// An array; `element` must consume one value.
    pub(crate) fn elements(&mut self, element: Step<'_>) -> Result<(), JsonError> {
        self.expect(b'[')?;
        self.deeper()?;
        self.skip_space();
        if !self.eat(b']') {
            loop {
                element(self)?;
                self.skip_space();
                if self.eat(b']') {
                    break;
                }
                self.expect(b',')?;
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// An object; `member` gets the decoded name and must consume one value.
    pub(crate) fn members(&mut self, member: MemberStep<'_>) -> Result<(), JsonError> {
        self.expect(b'{')?;
        self.deeper()?;
        self.skip_space();
        if !self.eat(b'}') {
            loop {
                self.skip_space();
                let name = self.text()?;
                self.skip_space();
                self.expect(b':')?;
                member(self, name)?;
                self.skip_space();
                if self.eat(b'}') {
                    break;
                }
                self.expect(b',')?;
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// `null`, `true` or `false`.
    pub(crate) fn literal(&mut self) -> Result<&'static str, JsonError> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        for word in ["null", "true", "false"] {
            if rest.starts_with(word) {
                self.at += word.len();
                return Ok(word);
            }
        }
        Err(self.unexpected())
    }

    /// A number, as written.
    pub(crate) fn number(&mut self) -> Result<&'a str, JsonError> {
        let start = self.at;
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            if !self.eat(b'+') {
                self.eat(b'-');
            }
            self.digits()?;
        }
        if let Some(b'0'..=b'9') = self.peek() {
            return Err(self.error(Fault::InvalidNumber));
        }
        Ok(self.text.get(start..self.at).unwrap_or_default())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start {
            return Err(self.error(Fault::InvalidNumber));
        }
        Ok(())
    }

    /// A string without halves of surrogate pairs, escapes decoded. Names of members are such: some
    /// readers replace those halves, and would read two names as one.
    pub(crate) fn text(&mut self) -> Result<String, JsonError> {
        let text = String::from_utf8(self.string()?);
        text.map_err(|_| self.error(Fault::InvalidEscape))
    }

    /// A string, escapes decoded.
    pub(crate) fn string(&mut self) -> Result<Vec<u8>, JsonError> {
        self.expect(b'"')?;
        let mut out = Vec::new();
        loop {
            let start = self.at;
            while let Some(0x20..=0x21 | 0x23..=0x5b | 0x5d..) = self.peek() {
                self.at += 1;
            }
            let plain = self.text.as_bytes().get(start..self.at);
            out.extend_from_slice(plain.unwrap_or_default());
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => {
                    self.at += 1;
                    self.escape(&mut out)?;
                }
                Some(_) => return Err(self.error(Fault::ControlCharacter)),
                None => return Err(self.error(Fault::UnexpectedEnd)),
            }
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), JsonError> {
        let escape = self.peek().ok_or(self.error(Fault::UnexpectedEnd))?;
        self.at += 1;
        out.push(match escape {
            b'"' | b'\\' | b'/' => escape,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let unit = self.hex4()?;
                let code = self.pair(unit)?;
                match char::from_u32(code) {
                    Some(char) => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
                    None => out.extend_from_slice(&wtf8(code)),
                }
                return Ok(());
            }
            _ => return Err(self.error(Fault::InvalidEscape)),
        });
        Ok(())
    }

    /// The code point that begins with this unit. Half of a pair stays one.
    fn pair(&mut self, unit: u32) -> Result<u32, JsonError> {
        let behind = self.at;
        if (0xd800..=0xdbff).contains(&unit) && self.eat(b'\\') && self.eat(b'u') {
            let low = self.hex4()?;
            if (0xdc00..=0xdfff).contains(&low) {
                return Ok(0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00));
            }
        }
        self.at = behind;
        Ok(unit)
    }

    fn hex4(&mut self) -> Result<u32, JsonError> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|b| char::from(b).to_digit(16));
            code = code << 4 | digit.ok_or(self.error(Fault::InvalidEscape))?;
            self.at += 1;
        }
        Ok(code)
    }
}

/// Half of a surrogate pair, 0xd800 to 0xdfff, in the form of UTF-8.
fn wtf8(code: u32) -> [u8; 3] {
    let six = |shift: u32| 0x80 | (code >> shift & 0x3f) as u8;
    [0xed, six(6), six(0)]
}

#[cfg(test)]
mod tests;
