//! Paths: whatever an upstream makes of one, it is no way past a rule.
#![no_main]

use idempotency_core::config::{self, PathMatch};
use idempotency_core::path::{normalise, Clarity, Readings};
use idempotency_core::rules::{self, Place, RuleMatch};
use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, OnceLock};

const CONFIG: &str = r#"{"service":{"target":"s"},"defaults":{"scope":"global"},
    "rules":[{"match":{"methods":["POST"],"path_prefix":"/charges"}}]}"#;

fn guarded() -> &'static [Arc<config::Rule>] {
    static PLAN: OnceLock<config::Plan> = OnceLock::new();
    let plan = PLAN.get_or_init(|| config::parse(CONFIG).expect("a plan"));
    &plan.policies.rules
}

/// The path that an upstream of some kind routes on.
fn routed(raw: &[u8], kind: u8) -> Vec<u8> {
    let end = raw.iter().position(|b| *b == b'?').unwrap_or(raw.len());
    let mut path = raw[..end].to_vec();
    for _ in 0..kind & 3 {
        path = decoded(&path);
    }
    if kind & 4 != 0 {
        path.iter_mut()
            .filter(|b| **b == b'\\')
            .for_each(|b| *b = b'/');
    }
    let mut kept: Vec<&[u8]> = Vec::new();
    for segment in path.split(|b| *b == b'/').skip(1) {
        let segment = match kind & 8 != 0 {
            true => segment.split(|b| *b == b';').next().unwrap_or_default(),
            false => segment,
        };
        let mut name = segment;
        while let ([rest @ .., b'.' | b' '], true) = (name, kind & 16 != 0 && segment != b"..") {
            name = rest;
        }
        match name {
            b"" | b"." => {}
            b".." => drop(kept.pop()),
            name => kept.push(name),
        }
    }
    let mut out = Vec::new();
    for segment in kept {
        out.push(b'/');
        out.extend_from_slice(segment);
    }
    out
}

fn decoded(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = path;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        let hex = |b: &u8| char::from(*b).to_digit(16).map(|d| d as u8);
        match (byte, tail) {
            (b'%', [high, low, after @ ..]) if hex(high).is_some() && hex(low).is_some() => {
                out.push(hex(high).unwrap_or(0) << 4 | hex(low).unwrap_or(0));
                rest = after;
            }
            _ => out.push(*byte),
        }
    }
    out
}

fuzz_target!(|data: &[u8]| {
    let [kind, raw @ ..] = data else { return };
    let once = normalise(raw);
    assert!(once.path.starts_with('/'));
    let again = normalise(once.path.as_bytes());
    assert_eq!(again.path, once.path, "not stable");
    if once.clarity == Clarity::Plain {
        let exact = PathMatch::Exact(once.path.clone().into_owned());
        assert!(
            Readings::of(raw).could_match(&exact),
            "does not match itself"
        );
    }
    let found = rules::find(guarded(), b"POST", Place::default(), raw);
    let protected = once.path == "/charges" || once.path.starts_with("/charges/");
    if protected {
        assert_ne!(found, RuleMatch::None, "its normal form is protected");
    }
    let seen = routed(raw, *kind);
    // Anything else is no request target, and HTTP parsers refuse it.
    let is_target = raw.starts_with(b"/");
    if is_target && (seen == b"/charges" || seen.starts_with(b"/charges/")) {
        assert_ne!(
            found,
            RuleMatch::None,
            "{:?}",
            String::from_utf8_lossy(&seen)
        );
    }
    assert_eq!(
        found != RuleMatch::None,
        rules::reaches(guarded(), Place::default(), raw, &[]),
    );
    assert_eq!(
        rules::find(guarded(), b"GET", Place::default(), raw),
        RuleMatch::None
    );
});
