//! Names in the product's code. Who searches a crate for the name of a type finds one definition.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::repository::root;

/// The product: what runs in production, without what tests it.
const CRATES: [(&str, &str); 9] = [
    ("filter", "src"),
    ("client", "crates/client/src"),
    ("core", "crates/core/src"),
    ("core-ffi", "crates/core-ffi/src"),
    ("idempotency", "crates/idempotency/src"),
    ("kafka-rig", "crates/kafka-rig/src"),
    ("protocol", "crates/protocol/src"),
    ("service", "crates/service/src"),
    ("store", "crates/store/src"),
];

/// Names that a crate defines twice, and why.
const TWICE: [(&str, &str, &str); 3] = [
    (
        "idempotency",
        "Attempt",
        "`http::Attempt` and `message::Attempt` are public; a program imports the one of its part",
    ),
    (
        "idempotency",
        "BoxError",
        "an alias in each part, so that none depends on the other's feature",
    ),
    (
        "idempotency",
        "Error",
        "`kafka::Error` ends a consumer; a program names it with its module",
    ),
];

/// Folders and files that hold tests, and what tests need of the product.
fn is_of_tests(path: &Path) -> bool {
    path.iter().filter_map(|part| part.to_str()).any(|part| {
        matches!(part, "tests" | "testing" | "contract" | "testing.rs")
            || part.ends_with("tests.rs")
            || part.ends_with("_test.rs")
    })
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if is_of_tests(path.strip_prefix(root()).expect("a path below the root")) {
            continue;
        }
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// The name of a type or a trait that a line at the left margin defines.
fn defined(line: &str) -> Option<&str> {
    if line.starts_with(' ') {
        return None;
    }
    let line = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(')')?.1,
        Some(rest) => rest,
        None => line,
    };
    let (kind, rest) = line.trim_start().split_once(' ')?;
    if !matches!(kind, "struct" | "enum" | "trait" | "type" | "union") {
        return None;
    }
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
    Some(&rest[..end.unwrap_or(rest.len())])
}

#[test]
fn definitions_are_recognised() {
    let cases = [
        ("struct Lease {", Some("Lease")),
        ("pub struct Lease(u64);", Some("Lease")),
        ("pub(super) enum Flow<T> {", Some("Flow")),
        ("pub(in crate::http) trait Ask: Send {", Some("Ask")),
        ("type Answer<R, E> = Result<R, E>;", Some("Answer")),
        ("    type Error = BoxError;", None),
        ("pub fn structure() {", None),
        ("// struct Lease", None),
    ];
    for (line, name) in cases {
        assert_eq!(defined(line), name, "{line}");
    }
}

#[test]
fn no_two_types_of_a_crate_have_one_name() {
    let mut twice = Vec::new();
    for (name, dir) in CRATES {
        let mut files = Vec::new();
        sources(&root().join(dir), &mut files);
        assert!(!files.is_empty(), "{dir} has no sources");
        let mut places: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        for file in files {
            let text = std::fs::read_to_string(&file).expect("a source");
            let mut names: Vec<_> = text.lines().filter_map(defined).collect();
            // One file may define a name twice, for two features or systems.
            names.sort_unstable();
            names.dedup();
            for name in names {
                places
                    .entry(name.to_owned())
                    .or_default()
                    .push(file.clone());
            }
        }
        places.retain(|_, files| files.len() > 1);
        for (of, name, _) in TWICE.iter().filter(|(of, ..)| *of == name) {
            let known = places.remove(*name);
            assert!(
                known.is_some(),
                "{of} has {name} once: take it out of TWICE"
            );
        }
        twice.extend(places.into_iter().map(|found| (name, found)));
    }
    assert!(twice.is_empty(), "give them names of their own: {twice:#?}");
}
