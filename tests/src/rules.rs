//! Filter configurations from short pieces.

use idempotency_stack::{filter_config, Stack, StackBuilder, Tokens};
use serde_json::{json, Value};

/// A rule for `POST` below a path with global scope, and these fields over it. It runs detached
/// unless the fields say otherwise, and duplicates do not wait.
pub fn rule(path: &str, fields: Value) -> Value {
    let mut rule = json!({
        "name": path,
        "match": { "methods": ["POST"], "path_prefix": path },
        "scope": "global",
    });
    merge(&mut rule, fields);
    rule
}

/// As [`rule`], inline.
pub fn inline_rule(path: &str, fields: Value) -> Value {
    let mut rule = rule(path, json!({ "execution": "inline" }));
    merge(&mut rule, fields);
    rule
}

/// A stack with these rules; the first match wins.
pub fn with_rules(rules: &[Value]) -> StackBuilder {
    with_config(rules, json!({}))
}

/// A stack with these rules and further fields at the top of the configuration. The service may
/// take its time, unless the fields say otherwise: tests run on busy machines.
pub fn with_config(rules: &[Value], fields: Value) -> StackBuilder {
    let mut config = filter_config(&Tokens::default(), json!(rules));
    config["service"]["timeout_ms"] = json!(10_000);
    merge(&mut config, fields);
    Stack::builder().filter(config)
}

/// Objects are merged, everything else is replaced.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
