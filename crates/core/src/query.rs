//! Canonical form of a query, for comparing payloads.
//!
//! Parameters are sorted by name; those with one name keep their order and count, since servers
//! give it meaning. Escapes are normalised as in RFC 3986 §6.2.2. `+`, `%2B` and `%20` stay
//! different, and so do `a` and `a=`: servers disagree about them.
//!
//! Parameters can be left out by their names. A name is compared with all escapes decoded, so that one that
//! is left out has no second spelling that counts; a `+` is no space there.

use crate::named::{self, Named};
use crate::path::{escape_into, hex_pair, is_unreserved};

/// The canonical form of a raw query (without its `?`), but for the parameters with these names.
pub fn canonicalise(raw: &[u8], ignore: &[String]) -> String {
    // Each with a `&` behind it.
    let mut text = String::with_capacity(raw.len() + 1);
    let mut parameters: Vec<Named> = Vec::new();
    for pair in raw.split(|b| *b == b'&').filter(|pair| !pair.is_empty()) {
        let name_len = pair.iter().position(|b| *b == b'=').unwrap_or(pair.len());
        let (name, rest) = pair.split_at_checked(name_len).unwrap_or((pair, &[]));
        if is_one_of(name, ignore) {
            continue;
        }
        let start = text.len();
        normal(name, &mut text);
        let name = text.get(start..).unwrap_or_default().to_owned();
        normal(rest, &mut text);
        text.push('&');
        parameters.push((name, start..text.len()));
    }
    if !named::is_strictly_sorted(&parameters) {
        named::sort(&mut parameters);
        let part = |(_, at): &Named| text.get(at.clone()).unwrap_or_default();
        text = parameters.iter().map(part).collect();
    }
    text.pop();
    text
}

fn is_one_of(name: &[u8], names: &[String]) -> bool {
    !names.is_empty() && {
        let name = decoded(name);
        names.iter().any(|n| *n.as_bytes() == *name)
    }
}

fn decoded(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let [byte, tail @ ..] = rest {
        let escaped = hex_pair(tail).filter(|_| *byte == b'%');
        let (byte, tail) = escaped.unwrap_or((*byte, tail));
        out.push(byte);
        rest = tail;
    }
    out
}

/// Decodes unreserved characters, writes other escapes in upper case, escapes what no URI may
/// contain. A stray `%` stays one.
fn normal(raw: &[u8], out: &mut String) {
    let mut rest = raw;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match (byte, hex_pair(tail)) {
            (b'%', Some((decoded, after))) => {
                rest = after;
                if is_unreserved(decoded) {
                    out.push(char::from(decoded));
                } else {
                    escape_into(decoded, out);
                }
            }
            (0x21..=0x7e, _) => out.push(char::from(*byte)),
            _ => escape_into(*byte, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn table() {
        for (raw, want) in [
            ("", ""),
            ("b=2&a=1", "a=1&b=2"),
            ("a=2&b=1&a=1", "a=2&a=1&b=1"),
            ("&&a=1&", "a=1"),
            ("a", "a"),
            ("a=", "a="),
            ("=v", "=v"),
            ("%61=%7e%2f%2F", "a=~%2F%2F"),
            ("a=x+y", "a=x+y"),
            ("a=x%20y", "a=x%20y"),
            ("a=1=2", "a=1=2"),
            ("a=%", "a=%"),
            ("a=%zz", "a=%zz"),
            ("a=é", "a=%C3%A9"),
            ("a=b c", "a=b%20c"),
            ("a%3D1=2", "a%3D1=2"),
            ("b[]=1&a[]=2&b[]=0", "a[]=2&b[]=1&b[]=0"),
        ] {
            assert_eq!(canonicalise(raw.as_bytes(), &[]), want, "{raw}");
        }
    }

    #[test]
    fn left_out() {
        let names = ["timestamp", "filter[a]", "é", "a+b", ""].map(str::to_owned);
        for (raw, want) in [
            ("timestamp=1&amount=2", "amount=2"),
            ("timestamp=1&timestamp=2&timestamp", ""),
            ("%74imestam%70=1&b=1", "b=1"),
            (
                "Timestamp=1&timestamps=1&timestamp[]=1",
                "Timestamp=1&timestamp[]=1&timestamps=1",
            ),
            (
                "filter[a]=1&filter%5Ba%5d=2&filter%5Bb%5D=3",
                "filter%5Bb%5D=3",
            ),
            ("%C3%A9=1&é=2", ""),
            ("a+b=1&a%2Bb=2&a%20b=3", "a%20b=3"),
            ("=1&b=2", "b=2"),
            ("b=timestamp&c=timestamp=1", "b=timestamp&c=timestamp=1"),
            ("b;timestamp=1", "b;timestamp=1"),
            ("timestamp%3D1=2", "timestamp%3D1=2"),
            ("timestam%7=2&times%tamp=1", "times%tamp=1&timestam%7=2"),
        ] {
            assert_eq!(canonicalise(raw.as_bytes(), &names), want, "{raw}");
        }
    }

    proptest! {
        #[test]
        fn stable_whatever_comes(raw in proptest::collection::vec(any::<u8>(), 0..64)) {
            let once = canonicalise(&raw, &[]);
            prop_assert_eq!(canonicalise(&raw, &["\u{0}no".to_owned()]), once.clone());
            prop_assert!(once.bytes().all(|b| (0x21..=0x7e).contains(&b)));
        }

        #[test]
        fn idempotent_on_valid_queries(raw in "([a-c=&+]|%[0-9a-fA-F]{2}){0,20}") {
            let once = canonicalise(raw.as_bytes(), &[]);
            prop_assert_eq!(canonicalise(once.as_bytes(), &[]), once);
        }
    }
}
