//! Whose key it is.

use idempotency_e2e::{
    assert_problem, assert_replay, executions, fresh_key, Answer, Request, Shared,
};
use idempotency_stack::Stack;
use serde_json::{json, Value};

use crate::support::{charge, problem, rule, EXECUTIONS};

fn with_scope(execution: &str, scope: Value) -> Stack {
    let rule = rule(execution, json!({ "scope": scope }));
    Stack::builder().rules(json!([rule])).start()
}

static BY_HEADER: Shared = Shared::new(|| {
    let scope = json!({ "scope": { "header": "x-tenant" } });
    Stack::builder().rules(json!([rule("detached", scope)]))
});

fn of_tenant(key: &str, tenant: &str) -> Request {
    charge("/charges", key).header("x-tenant", tenant)
}

/// The record of a tenant's key.
fn record_of(stack: &Stack, tenant: &str, namespace: &str, key: &str) -> Option<Value> {
    let target = format!("/v1/record?tenant={tenant}&namespace={namespace}&key={key}");
    let answer = stack.service.operator("GET", &target, "");
    (answer.status == 200).then(|| answer.json())
}

#[test]
fn two_tenants_with_one_key_run_twice_and_each_gets_its_own_replay() {
    for execution in EXECUTIONS {
        let stack = with_scope(execution, json!({ "header": "x-tenant" }));
        let key = fresh_key("shared");
        let acme = of_tenant(&key, "acme").send(&stack);
        let other = of_tenant(&key, "globex").send(&stack);
        assert_eq!((acme.status, other.status), (201, 201));
        assert_ne!(acme.body, other.body);
        assert_replay(&acme, &of_tenant(&key, "acme").send(&stack));
        assert_replay(&other, &of_tenant(&key, "globex").send(&stack));
        // Tenants have case, and their value is the whole value.
        let third = of_tenant(&key, "ACME").send(&stack);
        let fourth = of_tenant(&key, "acme, globex").send(&stack);
        assert_eq!((third.status, fourth.status), (201, 201));
        assert_eq!(executions(&stack, &key), 4, "{execution}");
        assert!(record_of(&stack, "acme", "", &key).is_some());
        assert!(record_of(&stack, "", "", &key).is_none());
    }
}

#[test]
fn a_tenant_sees_nothing_of_anothers_payload() {
    let stack = BY_HEADER.get();
    let key = fresh_key("payload");
    let acme = of_tenant(&key, "acme").send(&stack);
    assert_eq!(acme.status, 201);
    // Not 422, which would tell that the key is in use.
    let other = of_tenant(&key, "globex")
        .body("{\"amount\":7}")
        .send(&stack);
    assert_eq!(other.status, 201, "{other:?}");
    assert_problem(
        &of_tenant(&key, "acme").body("{\"amount\":7}").send(&stack),
        422,
        "key-reused",
    );
    assert_eq!(executions(&stack, &key), 2);
}

#[test]
fn without_a_tenant_nothing_runs() {
    let stack = BY_HEADER.get();
    let key = fresh_key("missing");
    let base = charge("/charges", &key);
    let too_long = "t".repeat(256);
    let cases: Vec<(&str, Request)> = vec![
        ("missing", base.clone()),
        ("empty", base.clone().header("x-tenant", "")),
        ("blank", base.clone().header("x-tenant", "  ")),
        (
            "repeated",
            base.clone()
                .header("x-tenant", "acme")
                .header("x-tenant", "globex"),
        ),
        (
            "repeated alike",
            base.clone()
                .header("x-tenant", "acme")
                .header("X-Tenant", "acme"),
        ),
        ("too long", base.clone().header("x-tenant", &too_long)),
        ("no text", base.clone().header("x-tenant", b"\xff\xfe")),
        ("of another kind", base.clone().header("x-tenant", "cred:0")),
    ];
    for (what, request) in cases {
        let answer = request.send(&stack);
        assert_problem(&answer, 403, "tenant-missing");
        assert!(!answer.text().contains("acme"), "{what}: {answer:?}");
    }
    assert_eq!(executions(&stack, &key), 0);
    // Outside of the rule nobody asks.
    let open = Request::post("/other").key(&key).body("x").send(&stack);
    assert_eq!(open.status, 201);
}

#[test]
fn white_space_around_a_tenant_does_not_matter() {
    let stack = BY_HEADER.get();
    let key = fresh_key("space");
    let first = of_tenant(&key, "acme").send(&stack);
    assert_replay(&first, &of_tenant(&key, "  acme ").send(&stack));
    assert_eq!(executions(&stack, &key), 1);
}

/// An authentication filter in front: it sets the header, whatever the client sent.
fn authenticated(action: &'static str) -> Value {
    json!({
        "name": "auth",
        "typed_config": {
            "@type": "type.googleapis.com/\
                      envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
            "mutations": { "request_mutations": [{ "append": {
                "header": { "key": "x-tenant", "value": "%REQ(x-verified-user)%" },
                "append_action": action,
            } }] },
        },
    })
}

#[test]
fn a_forged_tenant_is_overwritten_by_the_authentication_in_front() {
    let rule = rule("detached", json!({ "scope": { "header": "x-tenant" } }));
    let stack = Stack::builder()
        .rules(json!([rule]))
        .gateway(|gateway| gateway.identity = Some(("x-verified-user", "x-tenant")))
        .start();
    let key = fresh_key("forged");
    let request = |user: &str| charge("/charges", &key).header("x-verified-user", user);
    let victim = request("victim").send(&stack);
    let forger = request("forger").header("x-tenant", "victim").send(&stack);
    assert_eq!((victim.status, forger.status), (201, 201));
    assert_ne!(victim.body, forger.body, "not the victim's charge");
    let twice = request("forger")
        .header("x-tenant", "victim")
        .header("x-tenant", "victim");
    assert_replay(&forger, &twice.send(&stack));
    assert_replay(&victim, &request("victim").send(&stack));
    assert_eq!(executions(&stack, &key), 2);
}

#[test]
fn a_forged_tenant_beside_a_verified_one_is_refused() {
    only_on!(
        Envoy,
        "no plugin of Kong leaves the client's header standing"
    );
    // An authentication that adds its header and leaves the client's one standing.
    let rule = rule("detached", json!({ "scope": { "header": "x-tenant" } }));
    let stack = Stack::builder()
        .rules(json!([rule]))
        .envoy(|envoy| envoy.filters_before = vec![authenticated("APPEND_IF_EXISTS_OR_ADD")])
        .start();
    let key = fresh_key("beside");
    let request = charge("/charges", &key).header("x-verified-user", "forger");
    assert_eq!(request.send(&stack).status, 201);
    let forged = request.header("x-tenant", "victim").send(&stack);
    assert_problem(&forged, 403, "tenant-missing");
    assert_eq!(executions(&stack, &key), 1);
}

#[test]
fn static_credentials_are_tenants_of_their_own() {
    for execution in EXECUTIONS {
        let stack = with_scope(execution, json!({ "credentials": "static" }));
        let key = fresh_key("credentials");
        let with = |value: &str| charge("/charges", &key).header("authorization", value);
        let alice = with("Bearer sk_alice").send(&stack);
        let bob = with("Bearer sk_bob").send(&stack);
        assert_eq!((alice.status, bob.status), (201, 201));
        assert_ne!(alice.body, bob.body);
        assert_replay(&alice, &with("Bearer sk_alice").send(&stack));
        assert_replay(&alice, &with("bearer  sk_alice").send(&stack));
        assert_replay(&bob, &with("Bearer sk_bob").send(&stack));
        assert_problem(
            &charge("/charges", &key).send(&stack),
            403,
            "tenant-missing",
        );
        assert_problem(&with("").send(&stack), 403, "tenant-missing");
        // Whether the host joins them or not, several are none.
        for other in ["Bearer sk_bob", "Token sk_bob", "sk_bob"] {
            let both = with("Bearer sk_alice").header("authorization", other);
            let refused = both.send(&stack);
            assert!(matches!(refused.status, 400 | 403), "{refused:?}");
        }
        assert_eq!(executions(&stack, &key), 2, "{execution}");
        let list = stack.service.operator("GET", "/v1/records", "").text();
        assert!(
            list.contains(&key) && !list.contains("sk_alice"),
            "only a hash: {list}"
        );
    }
}

#[test]
fn a_property_of_the_host_names_the_tenant() {
    only_on!(
        Envoy,
        "metadata is Envoy's; Kong's properties have a case of their own"
    );
    let rule = rule(
        "detached",
        json!({ "scope": { "property": ["metadata", "filter_metadata", "auth", "tenant"] } }),
    );
    let metadata = |tenant: Value| {
        json!({
            "name": "set-metadata",
            "typed_config": {
                "@type": "type.googleapis.com/\
                          envoy.extensions.filters.http.set_metadata.v3.Config",
                "metadata": [{
                    "metadata_namespace": "auth",
                    "value": { "tenant": tenant },
                }],
            },
        })
    };
    // Numbers of JSON are doubles there, and Envoy hands out their octets.
    for (value, tenant) in [
        (json!("acme"), Some("acme")),
        (json!(42), Some("42")),
        (json!(-9_007_199_254_740_991_i64), Some("-9007199254740991")),
        (json!(true), Some("true")),
        (json!(9_007_199_254_740_993_i64), None),
        (json!(1.5), None),
    ] {
        let before = vec![metadata(value.clone())];
        let stack = Stack::builder()
            .rules(json!([rule.clone()]))
            .envoy(move |envoy| envoy.filters_before = before.clone())
            .start();
        let key = fresh_key("property");
        let first = charge("/charges", &key).send(&stack);
        let Some(tenant) = tenant else {
            assert_problem(&first, 403, "tenant-missing");
            assert_eq!(executions(&stack, &key), 0, "{value}");
            continue;
        };
        assert_eq!(first.status, 201, "{value}: {first:?}");
        assert_replay(&first, &charge("/charges", &key).send(&stack));
        assert!(record_of(&stack, tenant, "", &key).is_some(), "{value}");
        assert_eq!(executions(&stack, &key), 1);
    }
}

#[test]
fn kongs_route_and_consumer_name_the_tenant() {
    only_on!(
        KongHost | Nginx | Kong,
        "Kong's properties, and the header that its plugins set"
    );
    for (scope, tenant) in [
        (
            json!({ "property": ["kong", "route_id"] }),
            "b1f0a1a2-0000-4000-8000-000000000001",
        ),
        (json!({ "header": "x-consumer-id" }), "alice"),
    ] {
        let rule = rule("detached", json!({ "scope": scope }));
        let stack = Stack::builder()
            .rules(json!([rule]))
            .gateway(|gateway| gateway.identity = Some(("x-verified-user", "X-Consumer-ID")))
            .start();
        let key = fresh_key("kong");
        let request = charge("/charges", &key)
            .header("x-verified-user", "alice")
            .header("x-consumer-id", "mallory");
        let first = request.send(&stack);
        assert_eq!(first.status, 201, "{first:?}");
        assert_replay(&first, &request.send(&stack));
        assert!(record_of(&stack, tenant, "", &key).is_some(), "{tenant}");
        assert_eq!(executions(&stack, &key), 1);
    }
}

#[test]
fn a_property_that_is_not_there_is_no_tenant() {
    only_on!(
        Envoy | KongHost | Nginx | Kong,
        "the library's layer has a function in place of properties"
    );
    let property = by_host!(
        "the properties of the hosts have other names",
        envoy: json!(["metadata", "filter_metadata", "auth", "tenant"]),
        kong: json!(["kong", "ctx", "shared", "tenant"]),
    );
    let stack = with_scope("detached", json!({ "property": property }));
    let key = fresh_key("property");
    let refused = charge("/charges", &key).send(&stack);
    assert_problem(&refused, 403, "tenant-missing");
    assert_eq!(executions(&stack, &key), 0);
}

#[test]
fn namespaces_separate_keys_and_rules_do_not() {
    let at = |path: &str, more: Value| {
        let mut rule = rule("detached", more);
        rule["name"] = json!(path);
        rule["match"] = json!({ "methods": ["POST"], "path_prefix": path });
        rule
    };
    let stack = Stack::builder()
        .rules(json!([
            at("/a", json!({ "namespace": "one" })),
            at("/b", json!({ "namespace": "two" })),
            at("/c", json!({})),
            at("/d", json!({})),
        ]))
        .start();
    let key = fresh_key("namespace");
    let post = |target: &str| -> Answer { charge(target, &key).send(&stack) };
    let (a, b, c) = (post("/a"), post("/b"), post("/c"));
    assert_eq!((a.status, b.status, c.status), (201, 201, 201));
    for (first, target) in [(&a, "/a"), (&b, "/b"), (&c, "/c")] {
        assert_replay(first, &post(target));
    }
    assert_eq!(
        problem(&post("/d")),
        "key-reused",
        "one key space, another operation"
    );
    assert_eq!(executions(&stack, &key), 3);
    assert!(record_of(&stack, "", "one", &key).is_some());
}
