//! Canonical form of a JSON text, for comparing payloads: members sorted by name, no white space,
//! one spelling of every string. Numbers keep their text, so that `1`, `1.0` and two large
//! integers that a double cannot tell apart stay different. Objects that name a member twice are
//! refused, because readers disagree about what they mean.

use crate::json::{Fault, JsonError, Kind, Scanner};
use crate::named::{self, Named};

/// The canonical form of one JSON text.
///
/// Memory: the output, one copy of the innermost reordered object, and the member names of the
/// objects that are open.
pub fn canonicalise(bytes: &[u8]) -> Result<Vec<u8>, JsonError> {
    let mut scanner = Scanner::new(bytes)?;
    let mut out = Vec::with_capacity(bytes.len());
    value(&mut scanner, &mut out)?;
    scanner.end()?;
    Ok(out)
}

fn value(scanner: &mut Scanner<'_>, out: &mut Vec<u8>) -> Result<(), JsonError> {
    match scanner.kind()? {
        Kind::Object => return object(scanner, out),
        Kind::Array => {
            out.push(b'[');
            let start = out.len();
            scanner.elements(&mut |scanner| {
                if out.len() > start {
                    out.push(b',');
                }
                value(scanner, out)
            })?;
            out.push(b']');
        }
        Kind::String => string(&scanner.string()?, out),
        Kind::Number => out.extend_from_slice(scanner.number()?.as_bytes()),
        Kind::Literal => out.extend_from_slice(scanner.literal()?.as_bytes()),
    }
    Ok(())
}

/// Members are written as they come, each with a comma behind it, and put in order at the end.
fn object(scanner: &mut Scanner<'_>, out: &mut Vec<u8>) -> Result<(), JsonError> {
    out.push(b'{');
    let start = out.len();
    let mut members: Vec<Named> = Vec::new();
    scanner.members(&mut |scanner, name| {
        let from = out.len();
        string(&name, out);
        out.push(b':');
        value(scanner, out)?;
        out.push(b',');
        members.push((name, from - start..out.len() - start));
        Ok(())
    })?;
    if !named::is_strictly_sorted(&members) {
        named::sort(&mut members);
        if !named::is_strictly_sorted(&members) {
            return Err(scanner.error(Fault::DuplicateMember));
        }
        let unordered = out.split_off(start);
        for (_, range) in &members {
            out.extend_from_slice(unordered.get(range.clone()).unwrap_or_default());
        }
    }
    if out.len() > start {
        out.pop();
    }
    out.push(b'}');
    Ok(())
}

/// Writes a string in quotes, in its one spelling.
pub(crate) fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..=0x1f => {
                let digit = |n: u8| if n < 10 { b'0' + n } else { b'a' + n - 10 };
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn canonical(text: &str) -> String {
        String::from_utf8(canonicalise(text.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn forms() {
        for (text, want) in [
            (r#" { "b" : 1 , "a" : [ 1 , 2 ] } "#, r#"{"a":[1,2],"b":1}"#),
            (
                r#"{"a":{"d":1,"c":{}},"":[]}"#,
                r#"{"":[],"a":{"c":{},"d":1}}"#,
            ),
            (r#""\u0061\/\u00e9\n""#, "\"a/é\\u000a\""),
            (
                r#"[1.0,1,1e2,9007199254740993,-0]"#,
                r#"[1.0,1,1e2,9007199254740993,-0]"#,
            ),
            (r#"[null,true,false,"\"\\"]"#, r#"[null,true,false,"\"\\"]"#),
            (r#"{"é":1,"z":2,"Z":3}"#, r#"{"Z":3,"z":2,"é":1}"#),
        ] {
            assert_eq!(canonical(text), want, "{text}");
        }
    }

    #[test]
    fn large_integers_do_not_merge() {
        assert_ne!(canonical("9007199254740992"), canonical("9007199254740993"));
    }

    /// Work grows with the text (and its depth), not with its square.
    #[test]
    fn many_unordered_objects() {
        let text = format!("[{}0]", r#"{"b":1,"a":2},"#.repeat(200_000));
        assert_eq!(canonical(&text).len(), text.len());
        let wide = (0..100_000)
            .rev()
            .map(|n| format!("\"{n}\":0"))
            .collect::<Vec<_>>();
        assert!(canonicalise(format!("{{{}}}", wide.join(",")).as_bytes()).is_ok());
    }

    #[test]
    fn duplicates_are_refused_wherever_they_are() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"b":1,"a":1,"b":2}"#,
            r#"[{"x":{"a":1,"\u0061":2}}]"#,
            r#"{"":1,"":2}"#,
        ] {
            let fault = canonicalise(text.as_bytes()).map_err(|e| e.fault);
            assert_eq!(fault, Err(Fault::DuplicateMember), "{text}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::btree_map(".{0,3}", inner, 0..5)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = canonicalise(&bytes);
        }

        #[test]
        fn keeps_the_meaning_and_is_stable(json in any_json()) {
            let text = serde_json::to_string_pretty(&json).unwrap();
            let once = canonical(&text);
            prop_assert_eq!(&serde_json::from_str::<Value>(&once).unwrap(), &json);
            prop_assert_eq!(canonical(&once), once);
        }
    }
}
