//! Answers that other filters of Envoy make behind ours: proved to be unsent, whatever the filter is called.

use base64::prelude::{Engine, BASE64_STANDARD as BASE64};
use idempotency_e2e::{
    assert_problem, assert_replay, executions, fresh_key, only_on, record_state, with_rules,
    Answer, Request, Shared,
};
use idempotency_stack::Stack;
use serde_json::{json, Value};

/// Header by which a request says which of the filters is to look at it.
const CHOICE: &str = "x-behind";

fn typed(name: &str, mut fields: Value) -> Value {
    fields["@type"] = json!(format!("type.googleapis.com/{name}"));
    fields
}

/// The filter, which looks only at requests that choose it.
fn chosen(name: &str, config: Value) -> Value {
    let skip = "envoy.extensions.filters.common.matcher.action.v3.SkipFilter";
    let header = "envoy.type.matcher.v3.HttpRequestHeaderMatchInput";
    let chosen = json!({ "single_predicate": {
        "input": { "name": "header", "typed_config": typed(header, json!({ "header_name": CHOICE })) },
        "value_match": { "exact": name },
    } });
    json!({
        "name": name,
        "typed_config": typed("envoy.extensions.common.matching.v3.ExtensionWithMatcher", json!({
            "extension_config": { "name": name, "typed_config": config },
            "xds_matcher": { "matcher_list": { "matchers": [{
                "predicate": { "not_matcher": chosen },
                "on_match": { "action": { "name": "skip", "typed_config": typed(skip, json!({})) } },
            }] } },
        })),
    })
}

fn http(filter: &str, message: &str) -> String {
    format!("envoy.extensions.filters.http.{filter}.v3.{message}")
}

/// Another filter in WebAssembly: it answers every request with 418.
fn wasm() -> Value {
    let module = r#"(module
        (import "env" "proxy_send_local_response"
            (func $answer (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 2)
        (func (export "proxy_abi_version_0_2_1"))
        (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 65536))
        (func (export "proxy_on_context_create") (param i32 i32))
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
            (drop (call $answer (i32.const 418)
                (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
                (i32.const -1)))
            (i32.const 1)))"#;
    let bytes = BASE64.encode(wat::parse_str(module).expect("a module"));
    let code = json!({ "local": { "inline_bytes": bytes } });
    typed(
        &http("wasm", "Wasm"),
        json!({ "config": {
            "name": "answers",
            "vm_config": { "vm_id": "answers", "runtime": "envoy.wasm.runtime.v8", "code": code },
        } }),
    )
}

/// A filter of each kind, with the status of its answer.
fn filters() -> Vec<(&'static str, u16, Value)> {
    let all = json!({ "numerator": 100, "denominator": "HUNDRED" });
    let always = json!({ "default_value": all });
    let one = json!({ "max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "3600s" });
    let anybody = json!({ "permissions": [{ "any": true }], "principals": [{ "any": true }] });
    let key = json!({ "keys": [{ "kty": "oct", "kid": "k", "alg": "HS256", "k": "MTIzNDU2Nzg5MDEyMzQ1Ng" }] });
    let keys = json!({ "issuer": "somebody", "local_jwks": { "inline_string": key.to_string() } });
    let server = json!({ "uri": "http://127.0.0.1", "cluster": "refused", "timeout": "1s" });
    let lua =
        "function envoy_on_request(h) h:respond({[':status']=h:headers():get('x-status')}, 'lua') end";
    vec![
        (
            "local_ratelimit",
            429,
            typed(
                &http("local_ratelimit", "LocalRateLimit"),
                json!({
                    "stat_prefix": "limit", "token_bucket": one,
                    "filter_enabled": always, "filter_enforced": always,
                }),
            ),
        ),
        (
            "rbac",
            403,
            typed(
                &http("rbac", "RBAC"),
                json!({ "rules": { "action": "DENY", "policies": { "all": anybody } } }),
            ),
        ),
        (
            "ext_authz",
            403,
            typed(
                &http("ext_authz", "ExtAuthz"),
                json!({ "http_service": { "server_uri": server } }),
            ),
        ),
        (
            "jwt_authn",
            401,
            typed(
                &http("jwt_authn", "JwtAuthentication"),
                json!({
                    "providers": { "somebody": keys },
                    "rules": [{ "match": { "prefix": "/" }, "requires": { "provider_name": "somebody" } }],
                }),
            ),
        ),
        (
            "csrf",
            403,
            typed(
                &http("csrf", "CsrfPolicy"),
                json!({ "filter_enabled": always }),
            ),
        ),
        (
            "buffer",
            413,
            typed(
                &http("buffer", "Buffer"),
                json!({ "max_request_bytes": 20_000 }),
            ),
        ),
        (
            "fault",
            503,
            typed(
                &http("fault", "HTTPFault"),
                json!({ "abort": { "http_status": 503, "percentage": all } }),
            ),
        ),
        (
            "lua",
            500,
            typed(
                &http("lua", "Lua"),
                json!({ "default_source_code": { "inline_string": lua } }),
            ),
        ),
        ("wasm", 418, wasm()),
    ]
}

static STACK: Shared = Shared::new(|| {
    let rule = |execution: &str, path: &str, more: Value| {
        let path = format!("/{execution}{path}");
        let mut rule = idempotency_e2e::rule(&path, more);
        rule["execution"] = json!(execution);
        rule
    };
    let named = json!({ "outcomes": { "202": "completed", "3xx": "failed" } });
    let rules = ["inline", "detached"].map(|execution| {
        [
            rule(execution, "/named", named.clone()),
            rule(execution, "", json!({})),
        ]
    });
    let behind = filters().into_iter();
    let behind = behind
        .map(|(name, _, config)| chosen(name, config))
        .collect();
    with_rules(&rules.concat()).envoy(|envoy| envoy.filters_behind = behind)
});

/// The ways to execute that differ there.
fn ways() -> &'static [&'static str] {
    by_host!(
        "the native module executes inline only",
        envoy: &["inline", "detached"],
        kong: &[],
        native: &["inline"],
    )
}

fn post(path: &str, key: &str) -> Request {
    // More than the buffer takes, and more than comes in one piece.
    Request::post(path).key(key).body("7".repeat(100_000))
}

fn by_lua(stack: &Stack, path: &str, key: &str, status: u16) -> Answer {
    let request = post(path, key).header(CHOICE, "lua");
    request.header("x-status", status.to_string()).send(stack)
}

#[test]
fn an_error_of_a_filter_behind_ours_leaves_the_key_free() {
    only_on!(Envoy, "other hosts have no filters of Envoy behind ours");
    let stack = STACK.get();
    for way in ways() {
        for (name, status, _) in filters() {
            let path = format!("/{way}/charges");
            // The limit has room for one request.
            if name == "local_ratelimit" {
                let first = post(&path, &fresh_key("limit")).header(CHOICE, name);
                assert_eq!(first.send(&stack).status, 201, "{way}");
            }
            let key = fresh_key(name);
            let refused = post(&path, &key).header(CHOICE, name);
            let refused = refused.header("x-status", "500").send(&stack);
            assert_eq!(refused.status, status, "{way} {name}: {refused:?}");
            assert_eq!(executions(&stack, &key), 0, "{way} {name}");
            assert_eq!(record_state(&stack, &key), "failed", "{way} {name}");
            let retried = post(&path, &key).send(&stack);
            assert_eq!(retried.status, 201, "{way} {name}: {retried:?}");
            assert_replay(&retried, &post(&path, &key).send(&stack));
            assert_eq!(executions(&stack, &key), 1, "{way} {name}");
        }
    }
}

/// A success may be the work itself, and so may be a redirect.
#[test]
fn a_success_of_a_filter_behind_ours_is_unknown_unless_its_status_is_named() {
    only_on!(Envoy, "other hosts have no filters of Envoy behind ours");
    let stack = STACK.get();
    for way in ways() {
        let path = format!("/{way}/charges");
        for status in [200, 202, 302] {
            let key = fresh_key("local");
            assert_eq!(by_lua(&stack, &path, &key, status).status, status, "{way}");
            assert_eq!(record_state(&stack, &key), "unknown", "{way} {status}");
            assert_problem(&post(&path, &key).send(&stack), 409, "outcome-unknown");
            assert_eq!(executions(&stack, &key), 0, "{way} {status}");
        }
        // To be followed with the same request: nothing was done.
        let key = fresh_key("local-redirect");
        assert_eq!(by_lua(&stack, &path, &key, 307).status, 307, "{way}");
        assert_eq!(post(&path, &key).send(&stack).status, 201, "{way}");
        assert_eq!(executions(&stack, &key), 1, "{way}");

        let path = format!("/{way}/named");
        let key = fresh_key("local-named");
        let first = by_lua(&stack, &path, &key, 202);
        assert_eq!((first.status, first.text().as_str()), (202, "lua"), "{way}");
        assert_replay(&first, &post(&path, &key).send(&stack));
        assert_eq!(executions(&stack, &key), 0, "{way}");
        let key = fresh_key("local-class");
        assert_eq!(by_lua(&stack, &path, &key, 302).status, 302, "{way}");
        assert_eq!(post(&path, &key).send(&stack).status, 201, "{way}");
        assert_eq!(executions(&stack, &key), 1, "{way}");
    }
}

/// The router did count an attempt there: what it says of a reset proves nothing.
#[test]
fn a_reset_after_the_request_was_read_stays_unknown() {
    only_on!(Envoy, "other hosts have no filters of Envoy behind ours");
    let stack = STACK.get();
    for way in ways() {
        let key = fresh_key("reset");
        let path = format!("/{way}/charges?reset=before");
        let answer = post(&path, &key).send(&stack);
        assert!(answer.status >= 500, "{way}: {answer:?}");
        assert_eq!(executions(&stack, &key), 1, "{way}");
        assert_eq!(record_state(&stack, &key), "unknown", "{way}");
        assert_problem(&post(&path, &key).send(&stack), 409, "outcome-unknown");
        assert_eq!(executions(&stack, &key), 1, "{way}");
    }
}
