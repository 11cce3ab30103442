//! How `scope` is read.

use super::kinds::ValueKind;
use super::reader::{Faults, Field};
use super::{checks, fields, Scope};
use crate::json::Value;

/// A source of tenants.
pub(super) struct TenantSource;

impl ValueKind<Option<Scope>> for TenantSource {
    fn read(&self, field: &Field<'_>, into: &mut Option<Scope>, faults: &mut Faults) {
        if let Some(scope) = scope(field, faults) {
            *into = Some(scope);
        }
    }
}

fn scope(field: &Field<'_>, faults: &mut Faults) -> Option<Scope> {
    if let Value::String(_) = field.value {
        return faults.one_of(field, &["global"]).map(|_| Scope::Global);
    }
    let Value::Object(members) = field.value else {
        faults.add(&field.path, "must be \"global\" or an object");
        return None;
    };
    let object = faults.object(field, &[fields::SCOPE])?;
    if members.len() != 1 {
        faults.add(
            &field.path,
            "must have exactly one of header, property, credentials",
        );
        return None;
    }
    if let Some(header) = object.get("header") {
        let name = faults.string(&header, checks::tenant_header)?;
        return Some(Scope::Header(name.to_ascii_lowercase()));
    }
    if let Some(property) = object.get("property") {
        let elements = faults.array(&property)?;
        if elements.is_empty() {
            faults.add(&property.path, "must not be empty");
            return None;
        }
        let parts = elements.iter().map(|e| faults.string(e, checks::property));
        return parts
            .collect::<Vec<_>>()
            .into_iter()
            .collect::<Option<_>>()
            .map(Scope::Property);
    }
    let credentials = object.get("credentials")?;
    faults
        .one_of(&credentials, &["static"])
        .map(|_| Scope::StaticCredentials)
}
