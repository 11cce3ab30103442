//! The configuration: JSON text in, a validated [`Plan`] out.
//!
//! Strict on purpose: an unknown field, a bad value or a contradiction refuses the whole, and all
//! faults are told at once. The fields are described in `docs/configuration.md`, and for machines
//! in `docs/config.schema.json`. Those of a policy are declared in one table, `policy.rs`.

mod checks;
mod cors;
mod error;
mod fields;
mod hosts;
mod kinds;
mod outcomes;
mod plan;
mod policy;
mod problems;
mod reader;
mod scope;
mod table;
#[cfg(test)]
mod tests;
mod validate;

use crate::json::Value;

pub use checks::is_host_name;
pub use cors::Cors;
pub use error::ConfigError;
pub use hosts::{fit, fit_plugin, KONG_CALLER};
pub use outcomes::{OutcomeClass, Outcomes};
pub use plan::*;
pub use policy::{FingerprintPolicy, JsonPolicy, KeyPolicy, Policy, QueryPolicy};
pub use problems::{Form, Problems};

pub use {checks::is_kong_target, hosts::is_kong_property};

/// Callout timeouts are 32 bits wide in the ABI.
const MAX_TIMEOUT_MS: u64 = u32::MAX as u64;

/// The rules of a configuration by name, or by path, as far as it can be read: an operator with many
/// filter chains finds the one by them that a host does not name.
pub fn label(bytes: &[u8]) -> String {
    const MOST: usize = 3;
    let Ok(value) = crate::json::parse(bytes) else {
        return String::new();
    };
    let text = |value: &Value, name: &str| match member(value, name) {
        Some(Value::String(text)) => Some(text.clone()),
        _ => None,
    };
    let rule = |rule: &Value| {
        let matches = member(rule, "match");
        let path = |name| matches.and_then(|m| text(m, name));
        text(rule, "name")
            .or_else(|| path("path_prefix"))
            .or_else(|| path("path"))
            .or_else(|| text(rule, "namespace"))
    };
    let rules = match member(&value, "rules") {
        Some(Value::Array(rules)) => rules.as_slice(),
        _ => &[],
    };
    let named: Vec<String> = rules.iter().filter_map(rule).take(MOST).collect();
    let service = member(&value, "service").and_then(|s| text(s, "target"));
    let label = match (named.is_empty(), service) {
        (false, _) => format!("rules {}", named.join(", ")),
        (true, Some(target)) => format!("service {target}"),
        (true, None) => return String::new(),
    };
    // It is for a line of a log.
    label
        .chars()
        .filter(|c| !c.is_control())
        .take(200)
        .collect()
}

fn member<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match value {
        Value::Object(members) => members.iter().find(|(n, _)| n == name).map(|(_, v)| v),
        _ => None,
    }
}

/// Reads and validates a configuration.
pub fn parse(text: &str) -> Result<Plan, Vec<ConfigError>> {
    parse_bytes(text.as_bytes())
}

/// The rules of a configuration, for a program that needs no gateway: `service` may be absent, and every
/// execution may be detached. Whatever else a gateway's configuration says is checked, too, so that both can
/// read one file.
pub fn parse_policies(text: &str) -> Result<Policies, Vec<ConfigError>> {
    let value = crate::json::parse(text.as_bytes()).map_err(|error| vec![no_json(&error)])?;
    validate::policies(&value)
}

fn no_json(error: &crate::json::JsonError) -> ConfigError {
    ConfigError {
        path: String::new(),
        message: format!("the configuration is not valid JSON: {error}"),
    }
}

/// Like [`parse`], for bytes that may not even be text.
pub fn parse_bytes(bytes: &[u8]) -> Result<Plan, Vec<ConfigError>> {
    match crate::json::parse(bytes) {
        Ok(value) => {
            let plan = validate::plan(&value)?;
            match plan.host {
                Some(gateway) => fit(plan, gateway),
                None => Ok(plan),
            }
        }
        Err(error) => Err(vec![no_json(&error)]),
    }
}
