//! How `problems` is read: what a rule adds to its refusals.

use super::kinds::{words, Kind, Words};
use super::reader::{Faults, Field};
use super::{checks, fields};
use crate::json::{self, Value};
use crate::problem::Problem;
use bytes::Bytes;

/// Most members, and most headers, that one type gets.
const MOST: usize = 16;
/// Longest JSON text of one type's members, in bytes.
const MOST_BYTES: usize = 4096;

/// What a rule adds to its refusals, so that clients which look for it recognise them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Problems {
    /// As Stripe's API refuses.
    pub stripe: bool,
    /// By type; a member or header here wins over the one that Stripe's form has.
    pub(super) own: Vec<(Problem, Form)>,
}

/// What one type of refusal gets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Form {
    /// Names and JSON texts.
    pub members: Vec<(String, Vec<u8>)>,
    /// Names in lower case.
    pub headers: Vec<(Bytes, Bytes)>,
}

impl Problems {
    /// What the configuration adds to this type.
    pub fn form(&self, problem: Problem) -> Option<&Form> {
        self.own
            .iter()
            .find(|(p, _)| *p == problem)
            .map(|(_, form)| form)
    }

    /// Whether some type gets a header of this name, in any case.
    pub(super) fn names(&self, header: &str) -> Option<Problem> {
        let named = |form: &Form| {
            let mut headers = form.headers.iter();
            headers.any(|(name, _)| name.eq_ignore_ascii_case(header.as_bytes()))
        };
        self.own
            .iter()
            .find(|(_, form)| named(form))
            .map(|(p, _)| *p)
    }
}

/// A word, or members and headers by type. A type's `members` replaces those that were there, and so does its
/// `headers`.
pub(super) struct Refusals;

impl Kind<Problems> for Refusals {
    fn read(&self, field: &Field<'_>, into: &mut Problems, faults: &mut Faults) {
        if let Value::String(_) = field.value {
            if let Some(stripe) = words!["default" = false, "stripe" = true].find(field, faults) {
                *into = Problems {
                    stripe,
                    own: Vec::new(),
                };
            }
            return;
        }
        if !matches!(field.value, Value::Object(_)) {
            let message = "must be \"default\", \"stripe\" or an object";
            return faults.add(&field.path, message);
        }
        let names = Problem::ALL.map(Problem::name);
        let Some(object) = faults.object(field, &[&names]) else {
            return;
        };
        for problem in Problem::ALL {
            let Some(field) = object.get(problem.name()) else {
                continue;
            };
            let mut form = into.form(problem).cloned().unwrap_or_default();
            read(&field, &mut form, faults);
            into.own.retain(|(p, _)| *p != problem);
            into.own.push((problem, form));
        }
    }
}

fn read(field: &Field<'_>, form: &mut Form, faults: &mut Faults) {
    let Some(object) = faults.object(field, &[fields::PROBLEM]) else {
        return;
    };
    if let Some(field) = object.get("members") {
        form.members.clear();
        each(&field, faults, checks::problem_member, |name, field, _| {
            let mut text = Vec::new();
            json::write(field.value, &mut text);
            form.members.push((name.to_owned(), text));
        });
        let bytes: usize = form
            .members
            .iter()
            .map(|(n, text)| n.len() + text.len())
            .sum();
        if bytes > MOST_BYTES {
            faults.add(&field.path, format!("must have at most {MOST_BYTES} bytes"));
        }
    }
    if let Some(field) = object.get("headers") {
        form.headers.clear();
        each(
            &field,
            faults,
            checks::problem_header,
            |name, field, faults| {
                let name = name.to_ascii_lowercase();
                if form.headers.iter().any(|(known, _)| *known == name) {
                    faults.add(&field.path, "is there already");
                }
                if let Some(value) = faults.string(field, checks::header_value) {
                    form.headers.push((name.into(), value.into()));
                }
            },
        );
    }
}

/// Each member of an object whose names pass a check.
fn each(
    field: &Field<'_>,
    faults: &mut Faults,
    check: fn(&str) -> Result<(), &'static str>,
    mut take: impl FnMut(&str, &Field<'_>, &mut Faults),
) {
    let members = match field.value {
        Value::Object(members) if members.len() <= MOST => members.as_slice(),
        Value::Object(_) => {
            return faults.add(&field.path, format!("must have at most {MOST} members"));
        }
        // Kong passes configurations through Lua, where an empty object may be an empty list.
        Value::Array(elements) if elements.is_empty() => &[],
        _ => return faults.add(&field.path, "must be an object"),
    };
    for (name, value) in members {
        let field = Field {
            value,
            path: format!("{}.{name}", field.path),
        };
        match check(name) {
            Ok(()) => take(name, &field, faults),
            Err(message) => faults.add(&field.path, message),
        }
    }
}
