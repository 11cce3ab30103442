//! The files that are made from the tables of `policy.rs`: the policy fields in
//! `docs/config.schema.json` and in `docs/configuration.md`. (`kong/idempotency.meta.json` is made from
//! the former, in `draft04.rs`.)
//!
//! `UPDATE_META=1 cargo test -p idempotency-core config` writes all of them anew.

use super::described::{properties, Described, EXECUTION, RESULTS, WHO};
use super::json::Json;
use crate::config::policy::Draft;
use crate::config::table::Table;
use std::path::PathBuf;
use std::sync::OnceLock;

/// A file of the repository.
pub fn path(name: &str) -> PathBuf {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    PathBuf::from(root).join(name)
}

/// A file as it was before any test wrote it anew.
fn text(name: &str, cell: &'static OnceLock<String>) -> &'static str {
    cell.get_or_init(|| std::fs::read_to_string(path(name)).unwrap())
}

/// A file must be what is made; with `UPDATE_META` it becomes that.
pub fn must_be(name: &str, present: bool, wanted: &str) {
    if std::env::var_os("UPDATE_META").is_some() {
        std::fs::write(path(name), wanted).unwrap();
        return;
    }
    assert!(
        present,
        "{name} is stale: UPDATE_META=1 cargo test -p idempotency-core config"
    );
}

pub const META_FILE: &str = "kong/idempotency.meta.json";
const SCHEMA_FILE: &str = "docs/config.schema.json";
const DOCS_FILE: &str = "docs/configuration.md";

fn schema_file() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    text(SCHEMA_FILE, &TEXT)
}

fn docs_file() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    text(DOCS_FILE, &TEXT)
}

/// The fields with their built-in values.
pub fn fields() -> Vec<Described> {
    Draft::built_in().described()
}

/// The published schema: what the file says of everything else, and the policy from its table.
pub fn schema() -> &'static str {
    static MADE: OnceLock<String> = OnceLock::new();
    MADE.get_or_init(|| {
        let mut schema = Json::parse(schema_file());
        schema.replace(&["$defs", "policy", "properties"], properties(&fields()));
        schema.pretty()
    })
}

#[test]
fn the_published_schema_has_the_fields_of_the_table() {
    must_be(SCHEMA_FILE, schema_file() == schema(), schema());
}

/// The rows of a table of the documentation.
fn rows(fields: &[Described], prefix: &str, rows: &mut Vec<String>) {
    for field in fields {
        let name = format!("{prefix}{}", field.name);
        if !field.members.is_empty() {
            self::rows(&field.members, &format!("{name}."), rows);
            continue;
        }
        let cells = [
            &format!("`{name}`"),
            &field.values,
            &field.usual,
            &field.docs,
        ];
        for cell in cells {
            assert!(!cell.is_empty() && !cell.contains('|'), "{name}: {cell:?}");
        }
        rows.push(format!("| {} |", cells.map(String::as_str).join(" | ")));
    }
}

/// The page, with the table under each heading made anew.
fn page() -> String {
    let mut page = docs_file().to_owned();
    let mut documented = 0;
    for section in [WHO, EXECUTION, RESULTS] {
        let all = fields();
        let (own, _): (Vec<_>, Vec<_>) = all.into_iter().partition(|f| f.section == section);
        documented += own.len();
        let mut made = vec![
            "| field | values | default | |".to_owned(),
            "|---|---|---|---|".to_owned(),
        ];
        rows(&own, "", &mut made);
        let heading = format!("\n### {section}\n");
        let begin = page
            .find(&heading)
            .unwrap_or_else(|| panic!("no {heading}"));
        let begin = begin + page[begin..].find("\n| ").expect("a table") + 1;
        let end = begin + page[begin..].find("\n\n").expect("the table's end");
        page.replace_range(begin..end, &made.join("\n"));
    }
    assert_eq!(documented, fields().len(), "a field has no section");
    page
}

#[test]
fn the_documentation_has_the_fields_of_the_table() {
    let page = page();
    must_be(DOCS_FILE, docs_file() == page, &page);
}
