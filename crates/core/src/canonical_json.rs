//! Canonical form of a JSON text, for comparing payloads: members sorted by name, no white space,
//! one spelling of every string. Numbers keep their text, so that `1`, `1.0` and two large
//! integers that a double cannot tell apart stay different. Objects that name a member twice are
//! refused, because readers disagree about what they mean.
//!
//! Parts of a text are named by JSON Pointers (RFC 6901), in their one spelling (`~` is `~0` and `/` is `~1`
//! in a name, nothing else is escaped), so that two pointers are equal if their texts are.

use crate::json::{Fault, JsonError, JsonKind, Scanner};
use crate::named::{self, Named};

/// Which parts of a text count. No pointer is empty: that is the whole text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts<'p> {
    /// If there are some, nothing else counts. None of them is inside another.
    pub only: &'p [String],
    /// These do not count. Where an element of an array is left out, those behind it move up.
    pub ignore: &'p [String],
    /// What is here is told.
    pub key: Option<&'p str>,
}

/// What was made of a text.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Canonical {
    /// The canonical form. With [`Parts::only`], it is that of an object whose members are the pointers
    /// that lead to something, and what they lead to.
    pub text: Vec<u8>,
    /// The canonical form of what [`Parts::key`] leads to, if it leads to something.
    pub key: Option<Vec<u8>>,
    /// Whether [`Parts::only`] led to something.
    pub found: bool,
}

/// The canonical form of one JSON text.
///
/// Memory: the output, one copy of the innermost reordered object, and the member names of the
/// objects that are open.
pub fn canonicalise(bytes: &[u8]) -> Result<Vec<u8>, JsonError> {
    select(bytes, Parts::default()).map(|canonical| canonical.text)
}

/// The canonical form of parts of a text. All of it must be JSON without duplicate members.
pub fn select(bytes: &[u8], parts: Parts<'_>) -> Result<Canonical, JsonError> {
    let mut scanner = Scanner::new(bytes)?;
    let mut walk = Walk {
        parts,
        at: String::new(),
        picked: Vec::new(),
        members: Vec::new(),
        key: None,
    };
    let mut text = Vec::with_capacity(bytes.len());
    walk.value(&mut scanner, &mut text)?;
    scanner.end()?;
    let found = !walk.members.is_empty();
    if !parts.only.is_empty() {
        text.clear();
        text.push(b'{');
        text.append(&mut walk.picked);
        close(&scanner, &mut walk.members, 1, &mut text)?;
    }
    Ok(Canonical {
        text,
        key: walk.key,
        found,
    })
}

/// Where a walk over a text is, and what it has found.
struct Walk<'p> {
    parts: Parts<'p>,
    /// Pointer to the present value.
    at: String,
    /// What [`Parts::only`] led to, each as a member with a comma behind it; and where it is.
    picked: Vec<u8>,
    members: Vec<Named>,
    key: Option<Vec<u8>>,
}

impl Walk<'_> {
    fn value(&mut self, scanner: &mut Scanner<'_>, out: &mut Vec<u8>) -> Result<(), JsonError> {
        match scanner.kind()? {
            JsonKind::Object => return self.object(scanner, out),
            JsonKind::Array => {
                out.push(b'[');
                let start = out.len();
                let mut index = 0usize;
                scanner.elements(&mut |scanner| {
                    let from = out.len();
                    let name = match self.looks() {
                        true => index.to_string(),
                        false => String::new(),
                    };
                    self.part(scanner, &name, from, out)?;
                    index += 1;
                    Ok(())
                })?;
                if out.len() > start {
                    out.pop();
                }
                out.push(b']');
            }
            JsonKind::String => bytes(&scanner.string()?, out),
            JsonKind::Number => out.extend_from_slice(scanner.number()?.as_bytes()),
            JsonKind::Literal => out.extend_from_slice(scanner.literal()?.as_bytes()),
        }
        Ok(())
    }

    /// Members are written as they come, each with a comma behind it, and put in order at the end.
    fn object(&mut self, scanner: &mut Scanner<'_>, out: &mut Vec<u8>) -> Result<(), JsonError> {
        out.push(b'{');
        let start = out.len();
        let mut members: Vec<Named> = Vec::new();
        scanner.members(&mut |scanner, name| {
            let from = out.len();
            string(&name, out);
            out.push(b':');
            self.part(scanner, &name, from, out)?;
            members.push((name, from - start..out.len() - start));
            Ok(())
        })?;
        close(scanner, &mut members, start, out)
    }

    /// Whether it matters where the walk is.
    fn looks(&self) -> bool {
        let Parts { only, ignore, key } = self.parts;
        !only.is_empty() || !ignore.is_empty() || key.is_some()
    }

    /// A member or an element, which begins at `from` and is named so, with a comma behind it; nothing if
    /// it is to be ignored.
    fn part(
        &mut self,
        scanner: &mut Scanner<'_>,
        name: &str,
        from: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), JsonError> {
        if !self.looks() {
            self.value(scanner, out)?;
            out.push(b',');
            return Ok(());
        }
        let Parts { only, ignore, key } = self.parts;
        let value = out.len();
        let here = self.at.len();
        self.at.push('/');
        for char in name.chars() {
            match char {
                '~' => self.at.push_str("~0"),
                '/' => self.at.push_str("~1"),
                char => self.at.push(char),
            }
        }
        self.value(scanner, out)?;
        let canonical = out.get(value..).unwrap_or_default();
        if key == Some(&self.at) {
            self.key = Some(canonical.to_vec());
        }
        if only.contains(&self.at) {
            let from = self.picked.len();
            string(&self.at, &mut self.picked);
            self.picked.push(b':');
            self.picked.extend_from_slice(canonical);
            self.picked.push(b',');
            let all = from..self.picked.len();
            self.members.push((self.at.clone(), all));
        }
        match ignore.contains(&self.at) {
            true => out.truncate(from),
            false => out.push(b','),
        }
        self.at.truncate(here);
        Ok(())
    }
}

/// Ends an object whose members stand behind `start`, each with a comma behind it, where `members` says.
fn close(
    scanner: &Scanner<'_>,
    members: &mut [Named],
    start: usize,
    out: &mut Vec<u8>,
) -> Result<(), JsonError> {
    if !named::is_strictly_sorted(members) {
        named::sort(members);
        if !named::is_strictly_sorted(members) {
            return Err(scanner.error(Fault::DuplicateMember));
        }
        let unordered = out.split_off(start);
        for (_, range) in members {
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
pub fn string(text: &str, out: &mut Vec<u8>) {
    bytes(text.as_bytes(), out);
}

/// The same of a string as [`Scanner::string`] reads it. Halves of surrogate pairs are the only thing besides
/// control characters that has an escape; a backslash of the string itself is doubled.
fn bytes(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match (*byte, tail) {
            (b'"' | b'\\', _) => out.extend_from_slice(&[b'\\', *byte]),
            (0..=0x1f, _) => escape(u16::from(*byte), out),
            (0xed, [high @ 0xa0..=0xff, low, tail @ ..]) => {
                rest = tail;
                escape(
                    0xd000 | u16::from(high & 0x3f) << 6 | u16::from(low & 0x3f),
                    out,
                );
            }
            _ => out.push(*byte),
        }
    }
    out.push(b'"');
}

fn escape(unit: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\\u");
    for shift in [12, 8, 4, 0] {
        let digit = (unit >> shift & 15) as u8;
        out.push(if digit < 10 {
            b'0' + digit
        } else {
            b'a' + digit - 10
        });
    }
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
    fn what_writers_emit() {
        for (text, want) in [
            // A string that was cut in the middle of an emoji.
            (r#""a\ud83d""#, r#""a\ud83d""#),
            (r#""\uD83D\ude00""#, "\"\u{1f600}\""),
            (r#""\ude00\ud83d""#, r#""\ude00\ud83d""#),
            (r#""\ud83d\ud83d\ude00""#, "\"\\ud83d\u{1f600}\""),
            (r#""\ud83d\\ude00""#, r#""\ud83d\\ude00""#),
            (r#""\ud83d\n""#, r#""\ud83d\u000a""#),
            // Not halves: the characters around them, and those that begin with the same byte.
            (r#""\ud7ff\ue000""#, "\"\u{d7ff}\u{e000}\""),
            ("\u{feff}{\"a\":1}", r#"{"a":1}"#),
        ] {
            assert_eq!(canonical(text), want, "{text}");
            assert_eq!(canonical(want), want, "stable: {text}");
        }
        // No other string has the form of one with a half in it.
        let all = [
            r#""\ud83d""#,
            r#""\\ud83d""#,
            r#""\ufffd""#,
            r#""?""#,
            r#""\udbff""#,
            r#""""#,
        ];
        for (index, one) in all.iter().enumerate() {
            for other in &all[..index] {
                assert_ne!(canonical(one), canonical(other));
            }
        }
    }

    /// (text, only, ignored, the canonical form)
    #[test]
    fn parts() {
        let order = r#"{"id":7,"at":"now","items":[{"sku":"a","at":1},{"sku":"b"}],"a/b":{"~":1}}"#;
        let list = |pointers: &[&str]| pointers.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
        type Row<'a> = (&'a str, &'a [&'a str], &'a [&'a str], &'a str);
        let rows: &[Row] = &[
            (order, &["/id"], &[], r#"{"/id":7}"#),
            (
                order,
                &["/items/1/sku", "/id"],
                &[],
                r#"{"/id":7,"/items/1/sku":"b"}"#,
            ),
            (order, &["/a~1b/~0"], &[], r#"{"/a~1b/~0":1}"#),
            (
                order,
                &["/nothing", "/id/x", "/items/01", "/items/-"],
                &[],
                "{}",
            ),
            (
                order,
                &["/items"],
                &["/items/0/at"],
                r#"{"/items":[{"sku":"a"},{"sku":"b"}]}"#,
            ),
            (
                order,
                &[],
                &["/at", "/items/0", "/a~1b"],
                r#"{"id":7,"items":[{"sku":"b"}]}"#,
            ),
            (order, &[], &["/id", "/at", "/items", "/a~1b"], "{}"),
            (r#"[1,{"a":2}]"#, &["/1/a"], &[], r#"{"/1/a":2}"#),
            (r#"[1,2]"#, &[], &["/1"], "[1]"),
            (r#"[1]"#, &[], &["/0"], "[]"),
            // An object may have the name that an element has; the pointer is the same, the form is not.
            (r#"{"0":1,"b":2}"#, &[], &["/0"], r#"{"b":2}"#),
            ("5", &["/a"], &["/a/b"], "{}"),
            (r#"{"":{"":1}}"#, &["//"], &[], r#"{"//":1}"#),
        ];
        for (text, only, ignore, want) in rows {
            let (only, ignore) = (list(only), list(ignore));
            let parts = Parts {
                only: &only,
                ignore: &ignore,
                key: None,
            };
            let got = select(text.as_bytes(), parts).unwrap();
            assert_eq!(
                String::from_utf8(got.text).unwrap(),
                *want,
                "{text} {only:?} {ignore:?}"
            );
            assert_eq!(
                got.found,
                !only.is_empty() && *want != "{}",
                "{text} {only:?}"
            );
        }
    }

    /// What is not selected may differ, but it must be JSON that has one meaning.
    #[test]
    fn what_does_not_count_is_read_all_the_same() {
        let (at, id) = (["/at".to_owned()], ["/id".to_owned()]);
        for (text, fault) in [
            (r#"{"id":1,"at":{"a":1,"a":1}}"#, Fault::DuplicateMember),
            (r#"{"id":1,"at":1,"at":2}"#, Fault::DuplicateMember),
            (r#"{"id":1,"id":2,"at":1}"#, Fault::DuplicateMember),
            (r#"{"id":1,"at":}"#, Fault::UnexpectedCharacter),
            (r#"{"id":1,"at":1"#, Fault::UnexpectedEnd),
        ] {
            for (only, ignore) in [(&id[..], &[][..]), (&[][..], &at[..])] {
                let parts = Parts {
                    only,
                    ignore,
                    key: Some("/id"),
                };
                let got = select(text.as_bytes(), parts).map_err(|error| error.fault);
                assert_eq!(got, Err(fault), "{text}");
            }
        }
    }

    #[test]
    fn a_key_is_told_as_it_stands() {
        for (text, pointer, want) in [
            (r#"{"id":"evt_1","a":1}"#, "/id", Some(r#""evt_1""#)),
            (r#"{"data":{"id":12}}"#, "/data/id", Some("12")),
            (
                r#"{"data":{"id":[1, 2]}}"#,
                "/data",
                Some(r#"{"id":[1,2]}"#),
            ),
            (r#"{"i":1}"#, "/id", None),
            ("[5]", "/0", Some("5")),
            ("5", "/0", None),
        ] {
            let parts = Parts {
                key: Some(pointer),
                ..Parts::default()
            };
            let got = select(text.as_bytes(), parts).unwrap();
            let key = got.key.map(|key| String::from_utf8(key).unwrap());
            assert_eq!(key.as_deref(), want, "{text} {pointer}");
            assert_eq!(got.text, canonicalise(text.as_bytes()).unwrap());
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

    /// Pointers to all values inside.
    fn pointers(json: &Value, at: &str, found: &mut Vec<String>) {
        let mut one = |name: &str, value: &Value| {
            let at = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
            found.push(at.clone());
            pointers(value, &at, found);
        };
        match json {
            Value::Object(members) => members.iter().for_each(|(name, value)| one(name, value)),
            Value::Array(all) => all
                .iter()
                .enumerate()
                .for_each(|(i, v)| one(&i.to_string(), v)),
            _ => {}
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = canonicalise(&bytes);
        }

        /// What a pointer leads to is what serde_json finds there, and what is left out is what it would
        /// leave out.
        #[test]
        fn pointers_lead_where_they_should(json in any_json(), which in any::<prop::sample::Index>()) {
            let mut all = Vec::new();
            pointers(&json, "", &mut all);
            prop_assume!(!all.is_empty());
            let pointer = which.get(&all).clone();
            let one = [pointer.clone()];
            let text = json.to_string();
            let of = |only, ignore| {
                let parts = Parts { only, ignore, key: Some(&pointer) };
                select(text.as_bytes(), parts).unwrap()
            };
            let there = canonical(&json.pointer(&pointer).unwrap().to_string());
            let picked = of(&one, &[]);
            prop_assert_eq!(String::from_utf8(picked.key.unwrap()).unwrap(), there.clone());
            let object = Value::Object([(pointer.clone(), json.pointer(&pointer).unwrap().clone())].into_iter().collect());
            prop_assert_eq!(String::from_utf8(picked.text).unwrap(), canonical(&object.to_string()));
            let (parent, last) = pointer.rsplit_once('/').unwrap();
            let mut rest = json.clone();
            match rest.pointer_mut(parent).unwrap() {
                Value::Object(members) => {
                    members.remove(&last.replace("~1", "/").replace("~0", "~"));
                }
                Value::Array(elements) => {
                    elements.remove(last.parse().unwrap());
                }
                _ => unreachable!(),
            }
            let left = of(&[], &one);
            prop_assert_eq!(String::from_utf8(left.text).unwrap(), canonical(&rest.to_string()));
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
