//! How `cors` is read.

use super::kinds::{words, ValueKind, Words};
use super::reader::{Faults, Field};
use super::{checks, fields};
use crate::json::Value;

/// What pages of other origins may read of a rule's answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Cors {
    /// Replays carry the `access-control-*` of the first answer, for an equal `Origin`.
    pub replayed: bool,
    /// Origins whose pages may read our own refusals; `*`: all.
    pub origins: Vec<String>,
    /// They may do so with cookies and the like.
    pub credentials: bool,
}

impl Cors {
    /// As without a configuration.
    pub(super) const BUILT_IN: Cors = Cors {
        replayed: true,
        origins: Vec::new(),
        credentials: false,
    };
}

/// Who makes CORS headers, and for whom. A value replaces the one in `defaults` as a whole.
pub(super) struct Sharing;

impl ValueKind<Cors> for Sharing {
    fn read(&self, field: &Field<'_>, into: &mut Cors, faults: &mut Faults) {
        let before = faults.0.len();
        let read = read(field, faults);
        if let (Some(read), true) = (read, faults.0.len() == before) {
            *into = read;
        }
    }
}

const REPLAY: Words<bool> = words!["stored" = true, "gateway" = false];

fn read(field: &Field<'_>, faults: &mut Faults) -> Option<Cors> {
    let mut cors = Cors::BUILT_IN;
    match field.value {
        Value::String(_) => REPLAY.read(field, &mut cors.replayed, faults),
        Value::Object(_) => {
            let object = faults.object(field, &[fields::CORS])?;
            if let Some(field) = object.get("replay") {
                REPLAY.read(&field, &mut cors.replayed, faults);
            }
            if let Some(field) = object.get("origins") {
                let list = faults.array(&field)?;
                cors.origins = faults.strings(&list, checks::origin, str::eq_ignore_ascii_case)?;
            }
            if let Some(field) = object.get("credentials") {
                cors.credentials = faults.boolean(&field)?;
                if cors.credentials && cors.origins.iter().any(|origin| origin == "*") {
                    faults.add(
                        &field.path,
                        "must be false where origins has \"*\": no browser accepts both",
                    );
                }
            }
        }
        _ => faults.add(&field.path, "must be \"stored\", \"gateway\" or an object"),
    }
    Some(cors)
}
