//! The repository's files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Whether this is a pass with records in one of these stores, as `STORE` names them. `make test` has the whole list
/// three times, and what does not depend on the store need not run in all of them.
pub fn is_pass_with(stores: &[&str]) -> bool {
    let store = std::env::var("STORE").unwrap_or_default();
    let store = if store.is_empty() { "embedded" } else { &store };
    stores.contains(&store)
}

pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().to_owned()
}

/// A file, named from the root.
pub fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A YAML document; duplicate members are refused.
pub fn yaml(path: &str) -> Value {
    parse_yaml(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub fn parse_yaml(text: &str) -> Result<Value, String> {
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}

/// The documents of a text, those that are empty left out.
pub fn yaml_documents(text: &str) -> Vec<Value> {
    let mut documents: Vec<Value> =
        serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}:\n{text}"));
    documents.retain(|document| !document.is_null());
    documents
}

/// `name version` per line, as in `kong/VERSIONS`.
pub fn versions(path: &str) -> BTreeMap<String, String> {
    let pairs = |line: &str| {
        let (name, version) = line.split_once(' ').unwrap();
        (name.to_owned(), version.to_owned())
    };
    read(path).lines().map(pairs).collect()
}

/// `NAME=value` per line, as in `kong/kong.env`; what a shell would read otherwise is in single quotes.
pub fn variables(path: &str) -> BTreeMap<String, String> {
    let text = read(path);
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let pairs = |line: &str| {
        let (name, value) = line.split_once('=').unwrap();
        let inner = value.strip_prefix('\'').and_then(|v| v.strip_suffix('\''));
        assert!(
            inner.is_some() || !value.contains(['$', ' ', '"', '\'', '\\']),
            "{line}: needs single quotes"
        );
        (name.to_owned(), inner.unwrap_or(value).to_owned())
    };
    lines.map(pairs).collect()
}

/// The members of an object, none if it is no object.
pub fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(n, v)| (n.as_str(), v))
}

/// The elements of an array, none if it is no array.
pub fn elements(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The strings of an array.
pub fn strings(value: &Value) -> Vec<&str> {
    elements(value).filter_map(Value::as_str).collect()
}
