//! `kong/idempotency.meta.json`: the published schema in the only dialect that Kong reads, JSON
//! Schema draft-04. Kong refuses a configuration that the schema refuses when it is loaded, and
//! passes one that it accepts on to the filter, whose parser has the last word.

use super::made;
use super::schema::agrees_with_parser;
use serde_json::{json, Map, Value};

/// `UPDATE_META=1 cargo test -p idempotency-core config` writes the file anew.
#[test]
fn the_file_for_kong_is_made_from_the_published_schema() {
    let file = std::fs::read_to_string(made::path(made::META_FILE)).unwrap();
    let present: Option<Value> = serde_json::from_str(&file).ok();
    let wanted = meta();
    let text = format!("{}\n", serde_json::to_string_pretty(&wanted).unwrap());
    made::must_be(made::META_FILE, present == Some(wanted), &text);
}

/// The published schema in draft-04.
pub fn schema() -> Value {
    let published: Value = serde_json::from_str(made::schema()).unwrap();
    draft04(&published)
}

/// What is in the file.
fn meta() -> Value {
    json!({ "config_schema": schema(), "metrics": { "label_patterns": labels() } })
}

/// Kong makes labels of the end of a metric's name: the first group is cut off, the second one is the value.
fn labels() -> Value {
    json!([
        { "label": "outcome", "pattern": "(_outcome_([a-z_]+?)(?=_rule_))" },
        { "label": "rule", "pattern": "(_rule_([a-z0-9_]+)$)" },
    ])
}

#[test]
fn what_kong_reads_agrees_with_the_parser() {
    let schema = &meta()["config_schema"];
    assert!(jsonschema::draft4::meta::is_valid(schema));
    agrees_with_parser(&jsonschema::draft4::new(schema).unwrap());
}

/// Draft-04 ignores words that it does not know: each is here because it knows it.
#[test]
fn no_word_of_a_later_draft_is_left() {
    const KNOWN: &[&str] = &[
        "$ref",
        "$schema",
        "additionalProperties",
        "allOf",
        "anyOf",
        "default",
        "definitions",
        "description",
        "enum",
        "items",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "multipleOf",
        "not",
        "oneOf",
        "pattern",
        "patternProperties",
        "properties",
        "required",
        "title",
        "type",
        "uniqueItems",
    ];
    fn walk(schema: &Value, at: &str) {
        for (word, value) in schema.as_object().into_iter().flatten() {
            let here = format!("{at}/{word}");
            assert!(KNOWN.contains(&word.as_str()), "{here}");
            match word.as_str() {
                "properties" | "patternProperties" | "definitions" => {
                    for (name, inner) in value.as_object().unwrap() {
                        walk(inner, &format!("{here}/{name}"));
                    }
                }
                "allOf" | "anyOf" | "oneOf" => {
                    value
                        .as_array()
                        .unwrap()
                        .iter()
                        .for_each(|s| walk(s, &here));
                }
                "items" | "not" => walk(value, &here),
                // Beside it everything else would be ignored.
                "$ref" => assert_eq!(schema.as_object().unwrap().len(), 1, "{here}"),
                // Kong's regular expressions are PCRE, on bytes.
                "pattern" => assert!(!value.as_str().unwrap().contains("\\u"), "{here}"),
                _ => {}
            }
        }
    }
    walk(&meta()["config_schema"], "");
}

/// The schema in draft-04.
fn draft04(published: &Value) -> Value {
    let mut schema = section(published, published);
    let words = schema.as_object_mut().unwrap();
    // Kong gives it a name of its own.
    words.remove("$id");
    words.insert(
        "$schema".into(),
        json!("http://json-schema.org/draft-04/schema#"),
    );
    let definitions = words.remove("$defs").unwrap();
    words.insert("definitions".into(), definitions);
    schema
}

fn section(schema: &Value, root: &Value) -> Value {
    let Value::Object(words) = schema else {
        return schema.clone();
    };
    let mut made = Map::new();
    for (word, value) in words {
        match word.as_str() {
            "properties" | "patternProperties" | "$defs" => {
                let inner = value.as_object().unwrap().iter();
                let inner: Map<_, _> = inner.map(|(n, s)| (n.clone(), section(s, root))).collect();
                made.insert(word.clone(), inner.into());
            }
            "allOf" | "anyOf" | "oneOf" => {
                let inner = value.as_array().unwrap().iter();
                made.insert(word.clone(), inner.map(|s| section(s, root)).collect());
            }
            "items" | "not" => {
                made.insert(word.clone(), section(value, root));
            }
            "const" => {
                made.insert("enum".into(), json!([value]));
            }
            // In draft-04, 2000.0 and 2e3 are no integers.
            "type" if value == "integer" => {
                made.insert("type".into(), json!("number"));
                made.insert("multipleOf".into(), json!(1));
            }
            "pattern" => {
                made.insert(word.clone(), json!(pattern(value.as_str().unwrap())));
            }
            "$ref" | "unevaluatedProperties" => {}
            _ => {
                made.insert(word.clone(), value.clone());
            }
        }
    }
    if let Some(target) = words.get("$ref").and_then(Value::as_str) {
        refer(
            target,
            words.contains_key("unevaluatedProperties"),
            &mut made,
            root,
        );
    }
    made.into()
}

/// A reference, with the words beside it in `made`.
fn refer(target: &str, closed: bool, made: &mut Map<String, Value>, root: &Value) {
    let moved = target.replace("#/$defs/", "#/definitions/");
    if closed {
        // "Nothing but these and the referenced properties" is a word that came later: here the
        // properties are listed.
        let pointer = format!("{}/properties", target.trim_start_matches('#'));
        let fields = root.pointer(&pointer).and_then(Value::as_object).unwrap();
        let own = made.entry("properties").or_insert_with(|| json!({}));
        for name in fields.keys() {
            own[name] = json!({ "$ref": format!("{moved}/properties/{name}") });
        }
        made.insert("additionalProperties".into(), json!(false));
    } else if made.is_empty() {
        made.insert("$ref".into(), json!(moved));
    } else {
        made.insert("allOf".into(), json!([{ "$ref": moved }]));
    }
}

/// A pattern as PCRE reads it that works on bytes. The control characters of Latin-1 are no single
/// bytes in UTF-8; those are left to the parser.
fn pattern(published: &str) -> String {
    match published {
        "^[^\\u0000-\\u001f\\u007f-\\u009f]*$" => "^[^\\x00-\\x1f\\x7f]*$".to_owned(),
        other => other.to_owned(),
    }
}
