//! `docs/config.schema.json` against the parser.

use super::super::policy::{FingerprintPolicy, KeyPolicy};
use super::super::{fields, policy::Draft, table::Table};
use super::*;
use serde_json::{json, Map, Value};
use std::collections::BTreeSet;

fn schema() -> Value {
    serde_json::from_str(made::schema()).unwrap()
}

#[test]
fn schema_and_parser_agree() {
    let schema = schema();
    assert!(jsonschema::meta::is_valid(&schema));
    agrees_with_parser(&jsonschema::draft202012::new(&schema).unwrap());
}

/// The schema accepts what is right, and refuses what a schema can tell to be wrong.
pub(super) fn agrees_with_parser(schema: &jsonschema::Validator) {
    let valid = |text: &str| schema.is_valid(&serde_json::from_str(text).unwrap());
    for text in VALID
        .iter()
        .map(|text| text.text())
        .chain(examples().into_iter().map(Into::into))
    {
        assert!(valid(&text), "refused: {text}");
    }
    for (text, fault, tells) in INVALID {
        assert_eq!(!valid(&text.text()), *tells, "{fault}\n{}", text.text());
    }
    values::schema_agrees(schema);
}

#[test]
fn schema_names_exactly_the_fields_of_the_parser() {
    let schema = schema();
    let names = |pointer: &str| -> BTreeSet<String> {
        let section = schema.pointer(pointer).and_then(Value::as_object);
        section
            .unwrap_or_else(|| panic!("no {pointer}"))
            .keys()
            .cloned()
            .collect()
    };
    let policy = "/$defs/policy/properties";
    for (pointer, known) in [
        ("/properties".to_owned(), fields::TOP),
        ("/properties/service/properties".to_owned(), fields::SERVICE),
        (
            "/properties/detached/properties".to_owned(),
            fields::DETACHED,
        ),
        ("/properties/hop/properties".to_owned(), fields::HOP),
        ("/properties/kong/properties".to_owned(), fields::KONG),
        (
            "/properties/rules/items/properties".to_owned(),
            fields::RULE,
        ),
        ("/$defs/match/properties".to_owned(), fields::MATCH),
        (policy.to_owned(), Draft::NAMES),
        (format!("{policy}/key/properties"), KeyPolicy::NAMES),
        (format!("{policy}/scope/oneOf/1/properties"), fields::SCOPE),
        (format!("{policy}/cors/oneOf/1/properties"), fields::CORS),
        (
            format!("{policy}/fingerprint/properties"),
            FingerprintPolicy::NAMES,
        ),
    ] {
        let known: BTreeSet<String> = known.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(names(&pointer), known, "{pointer}");
    }
}

#[test]
fn every_definition_of_the_schema_is_used() {
    let schema = schema();
    for name in schema["$defs"].as_object().unwrap().keys() {
        let reference = format!("\"#/$defs/{name}\"");
        assert!(made::schema().contains(&reference), "{name}");
    }
}

#[test]
fn every_field_of_the_schema_is_described() {
    fn walk(value: &Value, at: &str) {
        if let Some(Value::Object(properties)) = value.get("properties") {
            for (name, field) in properties {
                let described = field.get("description").is_some();
                let elsewhere = field.get("$ref") == Some(&json!("#/$defs/match"));
                assert!(described || elsewhere, "{at}.{name}");
            }
        }
        for (name, inner) in value.as_object().into_iter().flatten() {
            walk(inner, &format!("{at}.{name}"));
        }
        for inner in value.as_array().into_iter().flatten() {
            walk(inner, at);
        }
    }
    walk(&schema(), "");
}

/// The object that the `default`s of a section describe.
fn defaults(section: &Value) -> Map<String, Value> {
    let mut found = Map::new();
    let properties = section.get("properties").and_then(Value::as_object);
    for (name, field) in properties.into_iter().flatten() {
        let inner = defaults(field);
        if let Some(default) = field.get("default") {
            found.insert(name.clone(), default.clone());
        } else if !inner.is_empty() {
            found.insert(name.clone(), inner.into());
        }
    }
    found
}

/// Writing every default of the schema out changes nothing.
#[test]
fn defaults_of_the_schema_are_those_of_the_parser() {
    let schema = schema();
    let plain = json!({
        "service": {"target": "t"},
        "rules": [{"match": {}, "scope": "global"}],
    });
    let mut written = Value::from(defaults(&schema));
    written["service"]["target"] = json!("t");
    let mut rule = defaults(&schema["$defs"]["policy"]);
    rule.insert("match".into(), defaults(&schema["$defs"]["match"]).into());
    rule.insert("scope".into(), json!("global"));
    written["rules"] = json!([rule]);
    // So many that a test which reads none would show.
    assert!(
        written["rules"][0].as_object().unwrap().len() > 18,
        "{written}"
    );
    assert_eq!(
        parse(&written.to_string()).unwrap(),
        parse(&plain.to_string()).unwrap()
    );
}
