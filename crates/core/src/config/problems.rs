//! How `problems` is read: what a rule adds to its refusals.

use super::kinds::{words, ValueKind, Words};
use super::reader::{Check, Faults, Field};
use super::{checks, fields};
use crate::canonical_json::string;
use crate::json::{self, Value};
use crate::problem::Problem;
use crate::stripe;
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
    /// Members as they are written behind others, with a comma in front of each.
    pub members: Bytes,
    /// One of them is the one that Stripe's form has.
    pub has_error: bool,
    /// Names in lower case.
    pub headers: Vec<(Bytes, Bytes)>,
}

impl Problems {
    /// What the configuration adds to this type.
    pub fn form(&self, problem: Problem) -> Option<&Form> {
        let own = self.own.iter().find(|(p, _)| *p == problem);
        own.map(|(_, form)| form)
    }

    /// A type that gets a header of this name, in any case.
    pub(super) fn with_header(&self, name: &str) -> Option<Problem> {
        let mut own = self.own.iter();
        own.find(|(_, form)| has(&form.headers, name))
            .map(|(p, _)| *p)
    }
}

fn has(headers: &[(Bytes, Bytes)], name: &str) -> bool {
    let mut headers = headers.iter();
    headers.any(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes()))
}

/// A word, or members and headers by type. A type's `members` replaces those that were there, and so does its
/// `headers`.
pub(super) struct Refusals;

impl ValueKind<Problems> for Refusals {
    fn read(&self, field: &Field<'_>, into: &mut Problems, faults: &mut Faults) {
        if let Value::String(_) = field.value {
            if let Some(stripe) = words!["default" = false, "stripe" = true].find(field, faults) {
                into.stripe = stripe;
                into.own.clear();
            }
            return;
        }
        let Value::Object(members) = field.value else {
            let message = "must be \"default\", \"stripe\" or an object";
            return faults.add(&field.path, message);
        };
        let names = Problem::ALL.map(Problem::name);
        let Some(object) = faults.object(field, &[&names]) else {
            return;
        };
        for (name, _) in members {
            let known = names.iter().zip(Problem::ALL).find(|(n, _)| *n == name);
            if let (Some((_, problem)), Some(field)) = (known, object.get(name)) {
                let before = into.own.iter().position(|(p, _)| *p == problem);
                let mut form = match before {
                    Some(at) => into.own.swap_remove(at).1,
                    None => Form::default(),
                };
                read(&field, &mut form, faults);
                into.own.push((problem, form));
            }
        }
    }
}

fn read(field: &Field<'_>, form: &mut Form, faults: &mut Faults) {
    let Some(object) = faults.object(field, &[fields::PROBLEM]) else {
        return;
    };
    if let Some(field) = object.get("members") {
        let mut text = Vec::new();
        form.has_error = false;
        for (name, field) in members(&field, faults, checks::problem_member) {
            form.has_error |= name == stripe::ERROR;
            text.push(b',');
            string(name, &mut text);
            text.push(b':');
            json::write(field.value, &mut text);
        }
        if text.len() > MOST_BYTES {
            faults.add(&field.path, format!("must have at most {MOST_BYTES} bytes"));
        }
        form.members = text.into();
    }
    if let Some(field) = object.get("headers") {
        form.headers.clear();
        for (name, field) in members(&field, faults, checks::problem_header) {
            if has(&form.headers, name) {
                faults.add(&field.path, "is there already");
            }
            if let Some(value) = faults.string(&field, checks::header_value) {
                let name = name.to_ascii_lowercase();
                form.headers.push((name.into(), value.into()));
            }
        }
    }
}

/// The members of an object whose names pass a check.
fn members<'a>(field: &Field<'a>, faults: &mut Faults, check: Check) -> Vec<(&'a str, Field<'a>)> {
    let mut passed = Vec::new();
    let members = match field.value {
        Value::Object(members) => members.as_slice(),
        // Kong passes configurations through Lua, where an empty object may be an empty list.
        Value::Array(elements) if elements.is_empty() => &[],
        _ => {
            faults.add(&field.path, "must be an object");
            &[]
        }
    };
    if members.len() > MOST {
        faults.add(&field.path, format!("must have at most {MOST} members"));
        return passed;
    }
    for (name, value) in members {
        let path = format!("{}.{name}", field.path);
        match check(name) {
            Ok(()) => passed.push((name.as_str(), Field { value, path })),
            Err(message) => faults.add(&path, message),
        }
    }
    passed
}
