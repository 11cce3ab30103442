//! The right and the wrong values that the tables of `policy.rs` know, against the parser, the merge of
//! `defaults` and rules, and the schemas.

use super::described::{Described, Wrong};
use super::json::{object, string, Json};
use super::shown;
use crate::config::parse;
use crate::config::policy::Draft;
use crate::config::reader::{Faults, Field};
use crate::config::table::Table;
use crate::json;

/// A field, or a member of a group, by its path.
struct Leaf {
    path: Vec<&'static str>,
    field: Described,
}

/// All fields of a draft, each group in front of its members.
fn leaves_of(draft: &Draft) -> Vec<Leaf> {
    fn walk(fields: Vec<Described>, path: &[&'static str], found: &mut Vec<Leaf>) {
        for mut field in fields {
            let path = [path, &[field.name]].concat();
            let members = std::mem::take(&mut field.members);
            found.push(Leaf {
                path: path.clone(),
                field,
            });
            walk(members, &path, found);
        }
    }
    let mut found = Vec::new();
    walk(draft.described(), &[], &mut found);
    found
}

fn leaves() -> Vec<Leaf> {
    leaves_of(&Draft::built_in())
}

impl Leaf {
    fn name(&self) -> String {
        self.path.join(".")
    }

    /// An object with this field in it.
    fn with(&self, value: &Json) -> Json {
        let path = self.path.iter().rev();
        path.fold(value.clone(), |inner, name| object([(name, inner)]))
    }
}

/// A configuration: members of `defaults`, and of the only rule.
fn config(defaults: &Json, rule: &Json) -> String {
    let mut members = vec![("match".to_owned(), Json::parse("{}"))];
    members.extend(rule.clone().into_members());
    let scoped = |object: &Json| {
        object
            .clone()
            .into_members()
            .iter()
            .any(|(n, _)| n == "scope")
    };
    if !scoped(rule) && !scoped(defaults) {
        members.push(("scope".to_owned(), string("global")));
    }
    let rule = Json::of(members);
    format!(r#"{{"service":{{"target":"s"}},"defaults":{defaults},"rules":[{rule}]}}"#)
}

/// Writes objects over the built-in values.
fn draft(objects: &[Json]) -> Draft {
    let mut draft = Draft::built_in();
    for object in objects {
        let value = json::parse(object.to_string().as_bytes()).unwrap();
        let field = Field {
            value: &value,
            path: String::new(),
        };
        let mut faults = Faults::default();
        let object = faults.object(&field, &[Draft::NAMES]).unwrap();
        draft.apply(&object, &mut faults);
        assert_eq!(faults.0, [], "{value:?}");
    }
    draft
}

/// Letter case of headers and the order of lists are not kept.
fn folded(value: &Json) -> String {
    let mut parts: Vec<String> = value
        .to_string()
        .split(',')
        .map(str::to_lowercase)
        .collect();
    parts
        .iter_mut()
        .for_each(|part| *part = part.replace(['[', ']'], ""));
    parts.sort();
    parts.join(",")
}

#[test]
fn right_values_are_read_into_their_own_place() {
    let leaves = leaves();
    let mut tried = 0;
    for leaf in &leaves {
        for value in &leaf.field.right {
            let read = leaves_of(&draft(&[leaf.with(value)]));
            for (now, before) in read.iter().zip(&leaves) {
                let name = now.name();
                assert_eq!(name, before.name());
                if now.path != leaf.path {
                    assert_eq!(now.field.value, before.field.value, "{name}");
                } else if let Some(written) = &now.field.value {
                    assert_eq!(folded(written), folded(value), "{name}");
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 60, "{tried}");
}

/// To leave a field out, and to write its default, is the same.
#[test]
fn defaults_are_right_values() {
    let mut tried = 0;
    for leaf in leaves() {
        if let Some(value) = &leaf.field.value {
            assert_eq!(
                draft(&[leaf.with(value)]),
                Draft::built_in(),
                "{}",
                leaf.name()
            );
            tried += 1;
        }
    }
    assert!(tried > 20, "{tried}");
}

/// A rule's own value wins, and what it does not name is that of `defaults`.
#[test]
fn a_rule_wins_over_the_defaults() {
    let mut tried = 0;
    for leaf in leaves() {
        let right = &leaf.field.right;
        for (value, own) in right.iter().flat_map(|v| right.iter().map(move |o| (v, o))) {
            let (value, own) = (leaf.with(value), leaf.with(own));
            let nothing = Json::parse("{}");
            assert_eq!(
                draft(&[value.clone(), nothing]),
                draft(std::slice::from_ref(&value)),
                "{}",
                leaf.name()
            );
            // What is written over status by status, or type by type, keeps the others.
            if !["outcomes", "problems"].contains(&leaf.field.name) {
                let both = draft(&[value, own.clone()]);
                assert_eq!(both, draft(&[own]), "{}", leaf.name());
                tried += 1;
            }
        }
    }
    assert!(tried > 150, "{tried}");
}

/// In a rule and in `defaults`, with the right path, and nothing else.
#[test]
fn wrong_values_are_told() {
    let nothing = Json::parse("{}");
    let mut tried = 0;
    for leaf in leaves() {
        for Wrong { value, fault, .. } in &leaf.field.wrong {
            let wrong = leaf.with(value);
            for (text, place) in [
                (config(&nothing, &wrong), "rules[0]"),
                (config(&wrong, &nothing), "defaults"),
            ] {
                let got = shown(parse(&text));
                let want = format!("{place}.{}{fault}", leaf.name());
                assert!(
                    got.len() == 1 && got[0].starts_with(&want),
                    "{text}\n got {got:?}\nwant {want}"
                );
                tried += 1;
            }
        }
    }
    assert!(tried > 400, "{tried}");
}

/// A schema accepts each right value, and refuses each wrong one that a schema can tell.
pub(super) fn schema_agrees(schema: &jsonschema::Validator) {
    let valid = |text: &str| schema.is_valid(&serde_json::from_str(text).unwrap());
    let nothing = Json::parse("{}");
    for leaf in leaves() {
        let both = |value: &Json| {
            let object = leaf.with(value);
            [config(&nothing, &object), config(&object, &nothing)]
        };
        for text in leaf.field.right.iter().flat_map(both) {
            assert!(valid(&text), "refused: {text}");
        }
        for wrong in &leaf.field.wrong {
            for text in both(&wrong.value) {
                assert_eq!(!valid(&text), wrong.schema, "{}\n{text}", wrong.fault);
            }
        }
    }
}
