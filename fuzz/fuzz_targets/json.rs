//! Canonical JSON: it is a fixed point, and says the same as what it was made of; and so do its parts.
#![no_main]

use idempotency_core::canonical_json::{canonicalise, select, Parts};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Ok(canonical) = canonicalise(data) else {
        return;
    };
    assert_eq!(
        canonicalise(&canonical).as_ref(),
        Ok(&canonical),
        "no fixed point"
    );
    const MARK: &[u8] = "\u{feff}".as_bytes();
    let bare = data.strip_prefix(MARK).unwrap_or(data);
    let spaced = [MARK, b" \n".as_slice(), bare, b"\t\r"].concat();
    assert_eq!(
        canonicalise(&spaced).as_ref(),
        Ok(&canonical),
        "white space matters"
    );
    parts(&canonical);
    // serde_json refuses lone surrogates, huge numbers and deep nesting.
    let values: [Result<Value, _>; 2] = [data, &canonical].map(serde_json::from_slice);
    if let [Ok(before), Ok(after)] = values {
        assert_eq!(before, after, "another meaning");
    }
});

/// What a pointer leads to is what serde_json finds there; without it, it is not there, and nothing else is
/// missing.
fn parts(text: &[u8]) {
    let Ok(whole) = serde_json::from_slice::<Value>(text) else {
        return;
    };
    let mut pointers = Vec::new();
    collect(&whole, String::new(), &mut pointers);
    // The first, the last and one between.
    let last = pointers.len().saturating_sub(1);
    for at in [0, last / 2, last] {
        let Some(pointer) = pointers.get(at) else {
            return;
        };
        let one = std::slice::from_ref(pointer);
        let of = |only, ignore| {
            let key = Some(pointer.as_str());
            select(text, Parts { only, ignore, key }).expect("it was read before")
        };
        let picked = of(one, &[]);
        let member = picked.key.expect("a pointer to it was made");
        assert!(picked.found);
        let name =
            canonicalise(&serde_json::to_vec(pointer).unwrap_or_default()).expect("a string");
        assert_eq!(
            picked.text,
            [b"{", &name[..], b":", &member[..], b"}"].concat()
        );
        let left: Value = match serde_json::from_slice(&of(&[], one).text) {
            Ok(left) => left,
            Err(_) => return,
        };
        let mut rest = whole.clone();
        let (parent, token) = pointer.rsplit_once('/').expect("it has a slash");
        match rest.pointer_mut(parent) {
            Some(Value::Object(members)) => {
                members.remove(&token.replace("~1", "/").replace("~0", "~"));
            }
            Some(Value::Array(elements)) => {
                elements.remove(token.parse().expect("an index"));
            }
            _ => unreachable!("it was collected from one"),
        }
        assert_eq!(left, rest, "{pointer}");
    }
}

fn collect(value: &Value, at: String, found: &mut Vec<String>) {
    if found.len() > 200 {
        return;
    }
    let mut one = |name: &str, value: &Value| {
        let at = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
        found.push(at.clone());
        collect(value, at, found);
    };
    match value {
        Value::Object(members) => members.iter().for_each(|(name, value)| one(name, value)),
        Value::Array(all) => all
            .iter()
            .enumerate()
            .for_each(|(index, value)| one(&index.to_string(), value)),
        _ => {}
    }
}
