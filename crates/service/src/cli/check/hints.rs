//! What somebody probably meant, and the forms that a field may have.

use idempotency_core::config::ConfigError;
use serde_json::Value;

/// A hint at what would be right; the filter itself says only what is wrong.
pub(super) fn hint(error: &ConfigError, config: &Value) -> Option<String> {
    let (above, name) = match error.path.rsplit_once('.') {
        Some((above, name)) => (above, name),
        None => ("", error.path.as_str()),
    };
    if name == "scope" || above.ends_with("scope") {
        return Some(
            "`scope` is one of \"global\", {\"header\": \"x-tenant\"}, {\"property\": [\"…\"]}, \
             {\"credentials\": \"static\"}"
                .to_owned(),
        );
    }
    let value = lookup(config, &error.path);
    if error.message.starts_with("unknown field") {
        // Times have their unit in their names.
        let with_unit = format!("{name}_ms");
        if !error.message.contains("did you mean") && is_known(&with_unit) {
            let value = value.and_then(milliseconds);
            let value = value.map_or_else(String::new, |ms| format!(": {ms}"));
            return Some(format!("did you mean `{with_unit}`{value}?"));
        }
        return None;
    }
    if let Some(text) = value.and_then(Value::as_str) {
        if name.ends_with("_ms") {
            let ms = milliseconds(value?)?;
            return Some(format!("`{text}` is {ms} milliseconds: write {ms}"));
        }
        if name.ends_with("_bytes") {
            let bytes = text.parse::<crate::config::Size>().ok()?.0;
            return Some(format!("`{text}` is {bytes} bytes: write {bytes}"));
        }
        if text == "true" || text == "false" || text.parse::<u64>().is_ok() {
            return Some(format!("write {text} without quotes"));
        }
    }
    None
}

/// The fields with a unit in their names.
fn is_known(name: &str) -> bool {
    [
        "timeout_ms",
        "ttl_ms",
        "unknown_ttl_ms",
        "wait_ms",
        "lease_ms",
        "lease_margin_ms",
        "execution_timeout_ms",
    ]
    .contains(&name)
}

fn milliseconds(value: &Value) -> Option<u64> {
    let text = value.as_str()?;
    let time = text.parse::<crate::config::Millis>().ok();
    time.map(|time| time.0).or_else(|| text.parse().ok())
}

fn lookup<'a>(config: &'a Value, path: &str) -> Option<&'a Value> {
    let pointer = path.replace(['.', '['], "/").replace(']', "");
    config.pointer(&format!("/{pointer}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(config: &Value) -> Vec<String> {
        let errors = idempotency_core::config::parse(&config.to_string()).unwrap_err();
        errors.iter().filter_map(|e| hint(e, config)).collect()
    }

    #[test]
    fn what_is_meant_is_told() {
        let rule = |more: Value| {
            let mut rule = json!({ "match": { "path": "/x" }, "scope": "global" });
            let object = rule.as_object_mut().unwrap();
            object.extend(more.as_object().unwrap().clone());
            json!({ "service": { "target": "s" }, "rules": [rule] })
        };
        for (config, part) in [
            (
                json!({ "service": { "target": "s", "timeout": "5s" }, "rules": [] }),
                "did you mean `timeout_ms`: 5000?",
            ),
            (
                rule(json!({ "lease_ms": "5s" })),
                "`5s` is 5000 milliseconds: write 5000",
            ),
            (
                rule(json!({ "max_body_bytes": "1MiB" })),
                "is 1048576 bytes: write 1048576",
            ),
            (
                rule(json!({ "scope": "tenant" })),
                "`scope` is one of \"global\"",
            ),
            (
                rule(json!({ "scope": { "cookie": "x" } })),
                "{\"credentials\": \"static\"}",
            ),
            (rule(json!({ "wait_ms": "5000" })), "5000"),
        ] {
            let hints = said(&config);
            assert!(hints.iter().any(|h| h.contains(part)), "{part}: {hints:?}");
        }
    }

    #[test]
    fn names_with_a_unit_are_those_of_the_configuration() {
        let text = include_str!("../../../../../docs/config.schema.json");
        for name in [
            "timeout_ms",
            "ttl_ms",
            "wait_ms",
            "lease_ms",
            "execution_timeout_ms",
        ] {
            assert!(text.contains(&format!("\"{name}\"")), "{name}");
        }
    }
}
