//! The idempotency key, as clients send it.
//!
//! draft-ietf-httpapi-idempotency-key-header-07 §2.1 makes the field an Item Structured Header
//! that must be a String (RFC 9651 §3.3.3, §4.2.5). Many clients send a bare UUID instead, so the
//! default syntax takes both, and `abc` and `"abc"` are one key.

use std::fmt;

use crate::canonical_json;
use crate::config::{KeyPolicy, KeySyntax};
use crate::json::{self, Value};

/// Longest key, in characters, after unquoting.
pub const MAX_LEN: usize = idempotency_protocol::limits::MAX_KEY_CHARS;

/// Why a key is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// The header is empty, or an empty string.
    Empty,
    /// The header occurs more than once, or is a list.
    Several,
    /// Longer than [`MAX_LEN`].
    TooLong,
    /// The value has parameters.
    Parameters,
    /// The rule wants a quoted string.
    NotQuoted,
    /// The closing quote is missing.
    Unterminated,
    /// A backslash in front of something else than a quote or a backslash.
    InvalidEscape,
    /// A character that the syntax does not allow.
    InvalidCharacter,
    /// What a program sends whose variable is not set: everybody would share one key.
    Placeholder,
    /// A member of the body that is neither text nor a whole number.
    NoText,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyError::Empty => "the idempotency key is empty",
            KeyError::Several => "there must be exactly one idempotency key",
            KeyError::TooLong => "the idempotency key is longer than 255 characters",
            KeyError::Parameters => "the idempotency key must not have parameters",
            KeyError::NotQuoted => "the idempotency key must be a quoted string (RFC 9651)",
            KeyError::Unterminated => "the idempotency key has no closing quote",
            KeyError::InvalidEscape => {
                "in the idempotency key, a backslash may only precede a quote or a backslash"
            }
            KeyError::InvalidCharacter => {
                "the idempotency key contains a character that is not allowed there"
            }
            KeyError::Placeholder => {
                "the idempotency key is what programs write for a value that is not set"
            }
            KeyError::NoText => "the idempotency key must be a string or a whole number",
        })
    }
}

/// What languages make of a value that is not set, or of an object, where text is wanted.
const PLACEHOLDERS: [&str; 10] = [
    "undefined",
    "null",
    "(null)",
    "None",
    "nil",
    "<nil>",
    "NaN",
    "[object Object]",
    "{}",
    "[]",
];

/// Reads the key from all values of its header. The caller has seen that there is at least one.
pub fn parse(values: &[&[u8]], policy: &KeyPolicy) -> Result<String, KeyError> {
    match values {
        [] => Err(KeyError::Empty),
        [value, rest @ ..] => parse_one(value, !rest.is_empty(), policy),
    }
}

/// The same of the first value. `more`: there are others.
pub(crate) fn parse_one(value: &[u8], more: bool, policy: &KeyPolicy) -> Result<String, KeyError> {
    if more {
        return Err(KeyError::Several);
    }
    let value = value.trim_ascii();
    let key = match (value, policy.syntax) {
        ([], _) => return Err(KeyError::Empty),
        ([b'"', rest @ ..], _) => quoted(rest)?,
        (_, KeySyntax::Strict) => return Err(KeyError::NotQuoted),
        (_, KeySyntax::Any) => bare(value)?,
    };
    checked(key, policy)
}

/// Reads the key from a member of the body, given in canonical form. A number is its digits: `7` and `"7"`
/// are one key.
pub fn of_member(member: &[u8], policy: &KeyPolicy) -> Result<String, KeyError> {
    let key = match json::parse(member) {
        Ok(Value::String(text)) if text.bytes().all(|b| matches!(b, 0x20..=0x7e)) => text,
        Ok(Value::Number(digits)) if is_whole(&digits) => digits,
        // Half of a surrogate pair is the one thing in a canonical form that is no `Value`.
        Ok(Value::String(_)) | Err(_) => return Err(KeyError::InvalidCharacter),
        Ok(_) => return Err(KeyError::NoText),
    };
    checked(key, policy)
}

/// In the one spelling that a whole number has.
fn is_whole(number: &str) -> bool {
    let digits = number.strip_prefix('-').unwrap_or(number);
    digits.bytes().all(|b| b.is_ascii_digit()) && number != "-0"
}

fn checked(key: String, policy: &KeyPolicy) -> Result<String, KeyError> {
    match key.len() {
        0 => Err(KeyError::Empty),
        1..=MAX_LEN if policy.placeholders || !PLACEHOLDERS.contains(&key.as_str()) => Ok(key),
        1..=MAX_LEN => Err(KeyError::Placeholder),
        _ => Err(KeyError::TooLong),
    }
}

/// A key as the value of a header: an RFC 9651 String.
///
/// A key is printable ASCII, of which JSON's canonical form escapes the same two characters.
pub fn quoted_value(key: &str) -> Vec<u8> {
    let mut value = Vec::with_capacity(key.len() + 2);
    canonical_json::string(key, &mut value);
    value
}

/// An RFC 9651 String behind its opening quote; nothing may follow it.
fn quoted(rest: &[u8]) -> Result<String, KeyError> {
    let mut key = String::with_capacity(rest.len());
    let mut bytes = rest.iter().copied();
    loop {
        match bytes.next() {
            None => return Err(KeyError::Unterminated),
            Some(b'"') => break,
            Some(b'\\') => match bytes.next() {
                Some(escaped @ (b'"' | b'\\')) => key.push(char::from(escaped)),
                Some(_) => return Err(KeyError::InvalidEscape),
                None => return Err(KeyError::Unterminated),
            },
            Some(byte @ 0x20..=0x7e) => key.push(char::from(byte)),
            Some(_) => return Err(KeyError::InvalidCharacter),
        }
    }
    match bytes.find(|b| !matches!(b, b' ' | b'\t')) {
        None => Ok(key),
        Some(b';') => Err(KeyError::Parameters),
        Some(b',') => Err(KeyError::Several),
        Some(_) => Err(KeyError::InvalidCharacter),
    }
}

/// Visible ASCII without `" , ; \`.
fn bare(value: &[u8]) -> Result<String, KeyError> {
    let is_bare = |b: &u8| matches!(b, 0x21..=0x7e) && !matches!(b, b',' | b';' | b'"' | b'\\');
    match value.iter().find(|b| !is_bare(b)) {
        None => std::str::from_utf8(value)
            .map(str::to_owned)
            .map_err(|_| KeyError::InvalidCharacter),
        Some(b',') => Err(KeyError::Several),
        Some(b';') => Err(KeyError::Parameters),
        Some(_) => Err(KeyError::InvalidCharacter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use KeySyntax::{Any, Strict};

    fn policy(syntax: KeySyntax) -> KeyPolicy {
        KeyPolicy {
            syntax,
            ..KeyPolicy::default()
        }
    }

    fn one(value: &[u8], syntax: KeySyntax) -> Result<String, KeyError> {
        parse(&[value], &policy(syntax))
    }

    #[test]
    fn placeholders() {
        let allowed = KeyPolicy {
            placeholders: true,
            ..KeyPolicy::default()
        };
        for key in PLACEHOLDERS {
            let value = format!("\"{key}\"");
            for syntax in [Any, Strict] {
                assert_eq!(
                    one(value.as_bytes(), syntax),
                    Err(KeyError::Placeholder),
                    "{key}"
                );
            }
            assert_eq!(parse(&[value.as_bytes()], &allowed), Ok(key.to_owned()));
            let member = of_member(value.as_bytes(), &KeyPolicy::default());
            assert_eq!(member, Err(KeyError::Placeholder), "{key}");
        }
        for key in ["undefined", "null", "None", "NaN", "{}"] {
            assert_eq!(
                one(key.as_bytes(), Any),
                Err(KeyError::Placeholder),
                "{key}"
            );
        }
        for key in ["0", "-1", "Null", "none", "undefined1", "{ }", "true"] {
            assert_eq!(
                one(format!("\"{key}\"").as_bytes(), Any),
                Ok(key.to_owned())
            );
        }
    }

    #[test]
    fn members() {
        use KeyError::*;
        let long = format!("\"{}\"", "x".repeat(MAX_LEN + 1));
        for (member, want) in [
            (r#""evt_1""#, Ok("evt_1")),
            (r#"" a,b;\"c\\ ""#, Ok(" a,b;\"c\\ ")),
            ("7", Ok("7")),
            (r#""7""#, Ok("7")),
            ("-7", Ok("-7")),
            ("9007199254740993", Ok("9007199254740993")),
            ("-0", Err(NoText)),
            ("1.0", Err(NoText)),
            ("1e2", Err(NoText)),
            (r#""""#, Err(Empty)),
            ("null", Err(NoText)),
            ("true", Err(NoText)),
            (r#"["a"]"#, Err(NoText)),
            (r#"{"a":1}"#, Err(NoText)),
            (r#""\u000a""#, Err(InvalidCharacter)),
            ("\"é\"", Err(InvalidCharacter)),
            (r#""\ud83d""#, Err(InvalidCharacter)),
            (r#""null""#, Err(Placeholder)),
            (&long, Err(TooLong)),
        ] {
            let got = of_member(member.as_bytes(), &KeyPolicy::default());
            assert_eq!(got, want.map(str::to_owned), "{member}");
        }
    }

    #[test]
    fn table() {
        use KeyError::*;
        // (value, any, strict)
        let ok = |s: &str| Ok(s.to_owned());
        let rows: [(&[u8], _, _); 22] = [
            (b"abc", ok("abc"), Err(NotQuoted)),
            (b"\"abc\"", ok("abc"), ok("abc")),
            (b" \t\"abc\" ", ok("abc"), ok("abc")),
            (b"\"aBc d,;\"", ok("aBc d,;"), ok("aBc d,;")),
            (br#""a\"b\\c""#, ok(r#"a"b\c"#), ok(r#"a"b\c"#)),
            (
                b"8e03978e-40d5-43dd-bc93-6894a57f9324",
                ok("8e03978e-40d5-43dd-bc93-6894a57f9324"),
                Err(NotQuoted),
            ),
            (b"a:b/c=?%{}~!", ok("a:b/c=?%{}~!"), Err(NotQuoted)),
            (b"", Err(Empty), Err(Empty)),
            (b"  ", Err(Empty), Err(Empty)),
            (b"\"\"", Err(Empty), Err(Empty)),
            (b"a,b", Err(Several), Err(NotQuoted)),
            (b"\"a\", \"b\"", Err(Several), Err(Several)),
            (b"a;p=1", Err(Parameters), Err(NotQuoted)),
            (b"\"a\";p=1", Err(Parameters), Err(Parameters)),
            (b"a b", Err(InvalidCharacter), Err(NotQuoted)),
            (b"a\"b", Err(InvalidCharacter), Err(NotQuoted)),
            (br"a\b", Err(InvalidCharacter), Err(NotQuoted)),
            ("ключ".as_bytes(), Err(InvalidCharacter), Err(NotQuoted)),
            (b"\"\xff\"", Err(InvalidCharacter), Err(InvalidCharacter)),
            (b"\"a", Err(Unterminated), Err(Unterminated)),
            (br#""a\n""#, Err(InvalidEscape), Err(InvalidEscape)),
            (b"\"a\"b", Err(InvalidCharacter), Err(InvalidCharacter)),
        ];
        for (value, any, strict) in rows {
            let shown = String::from_utf8_lossy(value);
            assert_eq!(one(value, Any), any, "any: {shown}");
            assert_eq!(one(value, Strict), strict, "strict: {shown}");
        }
    }

    #[test]
    fn several_headers_are_several_keys() {
        assert_eq!(parse(&[], &policy(Any)), Err(KeyError::Empty));
        assert_eq!(parse(&[b"a", b"a"], &policy(Any)), Err(KeyError::Several));
    }

    #[test]
    fn length_counts_after_unquoting() {
        let long = "x".repeat(MAX_LEN);
        assert_eq!(one(long.as_bytes(), Any), Ok(long.clone()));
        assert_eq!(
            one(format!("\"{long}\"").as_bytes(), Strict),
            Ok(long.clone())
        );
        let escaped = format!("\"{}\"", r"\\".repeat(MAX_LEN));
        assert_eq!(one(escaped.as_bytes(), Strict), Ok(r"\".repeat(MAX_LEN)));
        assert_eq!(
            one(format!("{long}x").as_bytes(), Any),
            Err(KeyError::TooLong)
        );
        assert_eq!(
            one(format!("\"{long}x\"").as_bytes(), Any),
            Err(KeyError::TooLong)
        );
    }

    /// What the RFC 9651 library makes of a value: a string without parameters.
    fn reference(value: &str) -> Option<String> {
        let item: sfv::Item = sfv::Parser::new(value).parse().ok()?;
        if !item.params.is_empty() {
            return None;
        }
        item.bare_item.as_string().map(|s| s.as_str().to_owned())
    }

    proptest! {
        #[test]
        fn never_panics(value in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = one(&value, Any);
            let _ = one(&value, Strict);
        }

        #[test]
        fn strict_agrees_with_a_structured_fields_library(
            value in prop_oneof![r#""[ -~]{0,20}"?"#, r#"[ "\\;,a-cA=?:1é]{0,16}"#]
        ) {
            let ours = one(value.as_bytes(), Strict).ok();
            let kept = |key: &String| !PLACEHOLDERS.contains(&key.as_str()) && key.len() <= MAX_LEN;
            let theirs = reference(&value).filter(|key| !key.is_empty() && kept(key));
            prop_assert_eq!(ours, theirs);
        }

        #[test]
        fn a_quoted_value_is_read_as_its_key(key in "[ -~]{1,255}") {
            prop_assume!(!PLACEHOLDERS.contains(&key.as_str()));
            prop_assert_eq!(one(&quoted_value(&key), Strict), Ok(key));
        }

        #[test]
        fn quoting_does_not_change_a_bare_key(key in "[!#-+\\--:<-\\[\\]-~]{1,255}") {
            prop_assume!(!PLACEHOLDERS.contains(&key.as_str()));
            prop_assert_eq!(one(key.as_bytes(), Any), Ok(key.clone()));
            prop_assert_eq!(one(format!("\"{key}\"").as_bytes(), Any), Ok(key.clone()));
        }
    }
}
