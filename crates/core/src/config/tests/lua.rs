//! `kong/plugin/kong/plugins/idempotency/config_schema.lua`: the schema for Kong's Lua plugin, the same one as
//! `kong/idempotency.meta.json`, as a table of Lua.

use super::draft04;
use super::made;
use serde_json::Value;
use std::fmt::Write;

const FILE: &str = "kong/plugin/kong/plugins/idempotency/config_schema.lua";

/// `UPDATE_META=1 cargo test -p idempotency-core config` writes the file anew.
#[test]
fn the_table_for_lua_is_made_from_the_published_schema() {
    let present = std::fs::read_to_string(made::path(FILE)).unwrap_or_default();
    let wanted = file();
    made::must_be(FILE, present == wanted, &wanted);
}

fn file() -> String {
    let mut out = String::from(
        "-- The configuration as JSON Schema, draft-04, which Kong reads. Made from the table of crates/core/src/config/policy.rs:\n\
         -- UPDATE_META=1 cargo test -p idempotency-core config\n\
         return ",
    );
    table(&draft04::schema(), "", &mut out);
    out.push('\n');
    out
}

/// A text as Lua reads it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => {
                let _ = write!(out, "\\{:03}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn table(value: &Value, indent: &str, out: &mut String) {
    let inner = format!("{indent}  ");
    match value {
        Value::Null => panic!("Lua keeps no null in a table"),
        Value::Bool(_) | Value::Number(_) => {
            let _ = write!(out, "{value}");
        }
        Value::String(text) => *out += &quoted(text),
        Value::Array(items) => {
            out.push_str("{\n");
            for item in items {
                *out += &inner;
                table(item, &inner, out);
                out.push_str(",\n");
            }
            let _ = write!(out, "{indent}}}");
        }
        Value::Object(members) => {
            out.push_str("{\n");
            for (name, member) in members {
                let _ = write!(out, "{inner}[{}] = ", quoted(name));
                table(member, &inner, out);
                out.push_str(",\n");
            }
            let _ = write!(out, "{indent}}}");
        }
    }
}

#[test]
fn texts_survive() {
    assert_eq!(quoted("a\"b\\c\n\u{7f}ä"), "\"a\\\"b\\\\c\\010\\127ä\"");
}
