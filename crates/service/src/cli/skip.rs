//! Which requests may go past the filter in Envoy, as Envoy's own matchers say it.
//!
//! A filter that is not made costs nothing. Whether it is made is decided in C++ by what is printed here, and a
//! request that goes past it is not protected, whatever the rules say. So a request goes past only where nobody
//! can read it as one that a rule protects:
//!
//! - its path is canonical: segments of letters, digits, `_` and `-`, one slash between two of them. Of such a path
//!   there is one reading. (An unknown query is no part of it.)
//! - it does not begin with the path of a rule, whatever the rule says of methods and hosts;
//! - it has none of the headers that replace method or path, or that only gateways of ours send.
//!
//! Everything else goes through the filter, which decides as ever. Other spellings of those headers (`X.Original.URL`)
//! cannot be matched, since Envoy matches headers by name: they are removed before, and so are such trailers, of
//! which nothing is known when the headers come.

use idempotency_core::config::{PathMatch, Plan};
use idempotency_core::upstream;
use serde_json::{json, Value};

/// Headers by which some frameworks replace the path of a request.
const MOVES: [&str; 2] = ["x-original-url", "x-rewrite-url"];
/// Headers by which some frameworks replace its method.
const OVERRIDES: [&str; 3] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
];

/// A path that has one reading, and any query. (RE2; it must match the whole of it.)
const CANONICAL: &str = r"(/[A-Za-z0-9_-]+)+/?(\?\C*)?|/(\?\C*)?";

/// Any value, the empty one and such that are no UTF-8 included: `.` is a whole character in RE2.
const ANYTHING: &str = r"\C*";

/// `{"@type": …}` with further fields.
pub(super) fn typed(name: &str, mut fields: Value) -> Value {
    if let Some(fields) = fields.as_object_mut() {
        let name = format!("type.googleapis.com/{name}");
        fields.insert("@type".to_owned(), json!(name));
    }
    fields
}

/// The name of the message that decides.
pub(super) const WITH_MATCHER: &str = "envoy.extensions.common.matching.v3.ExtensionWithMatcher";
/// The name of the message that makes the filter.
pub(super) const EXECUTE: &str = "envoy.extensions.filters.http.composite.v3.ExecuteFilterAction";
const COMPOSITE: &str = "envoy.extensions.filters.http.composite.v3.Composite";
const MUTATION: &str = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation";
const HEADER_INPUT: &str = "envoy.type.matcher.v3.HttpRequestHeaderMatchInput";

fn header(name: &str, value: Value) -> Value {
    let input = typed(HEADER_INPUT, json!({ "header_name": name }));
    json!({ "single_predicate": {
        "input": { "name": name, "typed_config": input },
        "value_match": value,
    } })
}

/// In a matcher; that of a filter of its own wants no engine.
fn matches(regex: &str) -> Value {
    json!({ "safe_regex": { "google_re2": {}, "regex": regex } })
}

/// At least one of them. (Envoy wants two of them where it is said so.)
fn any(mut all: Vec<Value>) -> Value {
    match all.len() {
        1 => all.remove(0),
        _ => json!({ "or_matcher": { "predicate": all } }),
    }
}

/// The predicate of the requests for which the filter is made; `None`: it is made for all, since a rule covers all
/// paths.
///
/// # Errors
///
/// Where requests cannot be told apart in Envoy: why.
pub(super) fn needed(plan: &Plan) -> Result<Option<Value>, String> {
    let rules = &plan.policies.rules;
    let mut paths: Vec<&str> = Vec::new();
    for rule in rules {
        let (PathMatch::Exact(path) | PathMatch::Prefix(path)) = &rule.matches.path;
        let path = path.strip_suffix('/').unwrap_or(path);
        if !paths.contains(&path) {
            paths.push(path);
        }
        let policy = &rule.policy;
        let names = policy.key.headers().iter().map(String::as_str);
        let odd = |name: &&str| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            !name.bytes().all(plain)
        };
        let mut names = names.chain(policy.fingerprint.counted_headers());
        if let Some(name) = names.find(odd) {
            return Err(format!(
                "rule {}: the header {name} has other characters than letters, digits and hyphens; such \
                 fields are dropped where requests may go past the filter",
                rule.name
            ));
        }
    }
    if paths.is_empty() || paths.contains(&"") {
        return Ok(None);
    }
    let below = paths
        .into_iter()
        .map(|path| header(":path", json!({ "prefix": path })));
    let told = MOVES.iter().chain(&OVERRIDES).chain(&upstream::OURS);
    let told = told.map(|name| header(name, matches(ANYTHING)));
    let canonical = header(":path", matches(CANONICAL));
    let mut needed = vec![json!({ "not_matcher": canonical })];
    needed.extend(below);
    needed.extend(told);
    Ok(Some(any(needed)))
}

/// The matcher around the filter, which makes it from `filter` for the requests that need it.
pub(super) fn with_matcher(needed: &Value, name: &str, filter: &Value) -> Value {
    let execute = json!({ "typed_config": { "name": name, "typed_config": filter } });
    let action = json!({ "action": { "name": name, "typed_config": typed(EXECUTE, execute) } });
    let composite = json!({ "name": "composite", "typed_config": typed(COMPOSITE, json!({})) });
    typed(
        WITH_MATCHER,
        json!({
            "extension_config": composite,
            "xds_matcher": { "matcher_list": { "matchers": [
                { "predicate": needed, "on_match": action },
            ] } },
        }),
    )
}

/// The filter that stands before it: it removes what could lead past the filter, and cannot be matched.
pub(super) fn spellings() -> Value {
    // One by one: Envoy refuses long expressions.
    let remove = |regex: String| json!({ "remove_on_match": { "key_matcher": { "safe_regex": { "regex": regex } } } });
    let led = MOVES.iter().chain(&upstream::OURS);
    let headers: Vec<Value> = led.map(|name| remove(odd_spellings(name))).collect();
    let all = MOVES.iter().chain(&OVERRIDES).chain(&upstream::OURS);
    let any_spelling = |name: &str| remove(name.replace('-', "[^a-z0-9]"));
    let trailers: Vec<Value> = all.map(|name| any_spelling(name)).collect();
    let mutations = json!({
        "request_mutations": headers,
        "request_trailers_mutations": trailers,
    });
    let config = typed(MUTATION, json!({ "mutations": mutations }));
    json!({ "name": SPELLINGS, "typed_config": config })
}

/// The name of that filter.
pub(super) const SPELLINGS: &str = "idempotency-spellings";

/// Every spelling of a name but its own: at least one of its hyphens is something else than a letter or a digit.
fn odd_spellings(name: &str) -> String {
    let parts: Vec<&str> = name.split('-').collect();
    let hyphens = parts.len() - 1;
    let mut spellings = Vec::with_capacity(hyphens);
    // The first one that is odd stands here, or there.
    for odd in 0..hyphens {
        let mut spelling = String::new();
        for (at, part) in parts.iter().enumerate() {
            spelling.push_str(part);
            spelling.push_str(match at {
                at if at == hyphens => "",
                at if at < odd => "-",
                at if at == odd => "[^a-z0-9-]",
                _ => "[^a-z0-9]",
            });
        }
        spellings.push(spelling);
    }
    spellings.join("|")
}

#[cfg(test)]
mod tests {
    use super::*;
    use idempotency_core::config;

    fn plan(rules: &str) -> Plan {
        let text = format!(
            r#"{{"service":{{"target":"s"}},"defaults":{{"scope":"global"}},"rules":[{rules}]}}"#
        );
        config::parse(&text).unwrap()
    }

    #[test]
    fn a_rule_for_all_paths_leaves_nothing_to_skip() {
        for rule in [r#"{"match":{}}"#, r#"{"match":{"path_prefix":"/"}}"#] {
            assert_eq!(needed(&plan(rule)), Ok(None), "{rule}");
        }
        let mixed = r#"{"match":{"path":"/a"}},{"match":{}}"#;
        assert_eq!(needed(&plan(mixed)), Ok(None));
    }

    #[test]
    fn methods_and_hosts_let_nothing_past() {
        let plain = needed(&plan(r#"{"match":{"path_prefix":"/a"}}"#)).unwrap();
        let narrow = r#"{"match":{"path_prefix":"/a/","methods":["PUT"],"hosts":["h"]}}"#;
        assert_eq!(needed(&plan(narrow)).unwrap(), plain);
        assert!(plain.is_some());
    }

    #[test]
    fn names_that_envoy_would_drop_are_refused() {
        let rule = r#"{"match":{"path":"/a"},"key":{"header":"x_key"}}"#;
        assert!(needed(&plan(rule)).unwrap_err().contains("x_key"));
        let rule = r#"{"match":{"path":"/a"},"fingerprint":{"headers":["x_shop"]}}"#;
        assert!(needed(&plan(rule)).unwrap_err().contains("x_shop"));
    }

    #[test]
    fn odd_spellings_are_all_but_the_usual_one() {
        let pattern = odd_spellings("x-original-url");
        assert_eq!(
            pattern,
            "x[^a-z0-9-]original[^a-z0-9]url|x-original[^a-z0-9-]url"
        );
    }
}
