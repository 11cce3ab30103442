//! Requests that go past the filter: exactly what `envoy-config` prints is taken.

use super::super::envoy_config;
use super::*;
use serde_json::json;

const RULES: &str = r#"{"service":{"target":"idempotency"},"defaults":{"scope":"global"},
    "rules":[{"match":{"path_prefix":"/charges"},"execution":"inline"}]}"#;

/// A bootstrap with the printed fields.
fn bootstrap() -> Value {
    let (mut manager, skips) = envoy_config::fields(RULES, "/filter.wasm").unwrap();
    assert!(skips);
    manager["@type"] = json!("type.googleapis.com/envoy…HttpConnectionManager");
    manager["route_config"] = json!({ "virtual_hosts": [{ "name": "all", "routes": [
        { "match": { "prefix": "/" }, "route": { "cluster": "upstream", "timeout": "15s" } },
    ] }] });
    json!({ "static_resources": {
        "listeners": [{
            "per_connection_buffer_limit_bytes": 8 << 20,
            "filter_chains": [{ "filters": [{ "typed_config": manager }] }],
        }],
        "clusters": [{ "name": "idempotency" }],
    } })
}

const MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";

fn said(bootstrap: &Value) -> Vec<String> {
    let check = CheckConfig {
        files: Vec::new(),
        filter: "idempotency".to_owned(),
    };
    let report = check.check(Path::new("envoy.json"), bootstrap.to_string().as_bytes());
    assert_eq!(report.sites.len(), 1);
    let findings = report.findings.iter();
    findings.map(|finding| finding.text.clone()).collect()
}

/// What is said after this change of the connection manager.
fn changed(change: impl FnOnce(&mut Value)) -> Vec<String> {
    let mut bootstrap = bootstrap();
    change(bootstrap.pointer_mut(MANAGER).unwrap());
    said(&bootstrap)
}

const MATCHER: &str = "/http_filters/1/typed_config/xds_matcher";
const ENTRY: &str = "/http_filters/1/typed_config/xds_matcher/matcher_list/matchers/0";

#[test]
fn what_is_printed_is_usable_without_a_note() {
    assert_eq!(said(&bootstrap()), [""; 0]);
}

#[test]
fn names_may_be_spelled_as_in_json_from_protobuf() {
    let text = bootstrap().to_string();
    let text = text
        .replace("matcher_list", "matcherList")
        .replace("safe_regex", "safeRegex");
    let text = text
        .replace("\"xds_matcher", "\"xdsMatcher")
        .replace("or_matcher", "orMatcher");
    assert_eq!(said(&serde_json::from_str(&text).unwrap()), [""; 0]);
}

#[test]
fn rules_and_matcher_must_not_drift_apart() {
    let drifted = |change: &dyn Fn(&mut Value)| {
        let said = changed(change);
        assert!(
            said.iter()
                .any(|s| s.contains("not what follows from its rules")),
            "{said:?}"
        );
    };
    // Another rule, whose requests would go past the filter.
    drifted(&|manager| {
        let config =
            format!("{ENTRY}/on_match/action/typed_config/typed_config/typed_config/config");
        let value = manager
            .pointer_mut(&format!("{config}/configuration/value"))
            .unwrap();
        let more = r#"{"match":{"path":"/refunds"},"execution":"inline"},{"match""#;
        *value = json!(value.as_str().unwrap().replacen("{\"match\"", more, 1));
    });
    drifted(&|manager| manager.pointer_mut(ENTRY).unwrap()["predicate"] = json!({}));
    // A part of the requests only.
    drifted(&|manager| {
        let action = manager.pointer_mut(&format!("{ENTRY}/on_match/action/typed_config"));
        action.unwrap()["sample_percent"] = json!({ "default_value": { "numerator": 50 } });
    });
    drifted(&|manager| manager.pointer_mut(MATCHER).unwrap()["on_no_match"] = json!({}));
    drifted(&|manager| {
        let matchers = manager.pointer_mut(&format!("{MATCHER}/matcher_list/matchers"));
        let all = matchers.unwrap().as_array_mut().unwrap();
        let skip = json!({ "predicate": {}, "on_match": { "action": { "name": "skip" } } });
        all.insert(0, skip);
    });
}

#[test]
fn a_rule_for_every_path_lets_nothing_past() {
    let said = changed(|manager| {
        let config =
            format!("{ENTRY}/on_match/action/typed_config/typed_config/typed_config/config");
        let value = manager
            .pointer_mut(&format!("{config}/configuration/value"))
            .unwrap();
        *value = json!(value.as_str().unwrap().replace("/charges", "/"));
    });
    assert!(
        said.iter()
            .any(|s| s.contains("no request may go past the filter")),
        "{said:?}"
    );
}

#[test]
fn what_makes_paths_and_names_plain_must_stand_before_it() {
    for (field, part) in [
        ("normalize_path", "normalize_path must be true"),
        ("merge_slashes", "merge_slashes must be true"),
        (
            "common_http_protocol_options",
            "headers_with_underscores_action must be",
        ),
    ] {
        let said = changed(|manager| drop(manager.as_object_mut().unwrap().remove(field)));
        assert!(
            said.iter().any(|s| s.starts_with(part)),
            "{field}: {said:?}"
        );
    }
    let said = changed(|manager| drop(manager["http_filters"].as_array_mut().unwrap().remove(0)));
    assert!(
        said.iter().any(|s| s.contains("idempotency-spellings")),
        "{said:?}"
    );
    let said = changed(|manager| manager["http_filters"].as_array_mut().unwrap().swap(0, 1));
    assert!(
        said.iter().any(|s| s.contains("idempotency-spellings")),
        "{said:?}"
    );
}

#[test]
fn nothing_may_switch_it_off() {
    let off = json!({ "idempotency": { "disabled": true } });
    for place in [
        "/route_config",
        "/route_config/virtual_hosts/0",
        "/route_config/virtual_hosts/0/routes/0",
    ] {
        let said = changed(|manager| {
            manager.pointer_mut(place).unwrap()["typed_per_filter_config"] = off.clone();
        });
        assert!(
            said.iter().any(|s| s.contains("switched off here")),
            "{place}: {said:?}"
        );
    }
    let said = changed(|manager| manager["http_filters"][1]["disabled"] = json!(true));
    assert!(
        said.iter().any(|s| s.contains("switched off here")),
        "{said:?}"
    );
    // A route that a header chooses may lead to another gateway.
    let said = changed(|manager| {
        let route = &mut manager["route_config"]["virtual_hosts"][0]["routes"][0];
        route["match"]["headers"] = json!([{ "name": "x-home", "present_match": true }]);
        route["typed_per_filter_config"] = off.clone();
    });
    assert!(
        matches!(said.as_slice(), [note] if note.contains("no client can send")),
        "{said:?}"
    );
    // Where all rules name hosts, a virtual host of others can do without.
    for (hosts, is_fine) in [
        (r#""hosts":["api.example"],"#, true),
        (r#""hosts":["*.example"],"#, false),
        ("", false),
    ] {
        let said = changed(|manager| {
            let config =
                format!("{ENTRY}/on_match/action/typed_config/typed_config/typed_config/config");
            let value = manager
                .pointer_mut(&format!("{config}/configuration/value"))
                .unwrap();
            let rules = value
                .as_str()
                .unwrap()
                .replace("\"path_prefix", &format!("{hosts}\"path_prefix"));
            *value = json!(rules);
            let host = &mut manager["route_config"]["virtual_hosts"][0];
            host["domains"] = json!(["Other.example"]);
            host["typed_per_filter_config"] = off.clone();
        });
        assert_eq!(said.is_empty(), is_fine, "{hosts}: {said:?}");
    }
    let other = json!({ "cors": { "disabled": true } });
    let said = changed(|manager| {
        manager["route_config"]["typed_per_filter_config"] = other;
    });
    assert_eq!(said, [""; 0]);
}
