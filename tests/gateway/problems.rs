//! Every problem document, as clients meet it.

use idempotency_e2e::{
    assert_problem, eventually, executions, fresh_key, inline_rule, rule, side_by_side,
    with_config, with_rules, Answer, Connection, Http, Request,
};
use idempotency_protocol::{log_id, LookupKey, Origin};
use idempotency_stack::{Stack, StackBuilder};
use serde_json::{json, Value};

const BASE: &str = "https://docs.example.com/problems#";

/// Two rules for one key space, one of each execution, and one of each special policy.
fn rules() -> Vec<Value> {
    let mut rules = vec![
        rule("/json", json!({ "fingerprint": { "body": "json" } })),
        rule("/tenant", json!({ "scope": { "header": "x-tenant" } })),
        rule("/named", json!({ "retry_after_s": 7 })),
        rule("/stripe", json!({ "problems": "stripe" })),
        rule(
            "/own",
            json!({ "problems": { "key-reused": {
                "members": { "code": 17, "error": { "kind": "reused", "again": false } },
                "headers": { "X-Should-Retry": "false" },
            } } }),
        ),
    ];
    let withheld = by_host!(
        "\"withhold\" is refused on Kong, which cannot hold a response",
        envoy: true,
        kong: false,
    );
    if withheld {
        let withhold = json!({ "on_complete_failure": "withhold" });
        rules.push(rule("/withhold", withhold.clone()));
        rules.push(inline_rule("/inline/withhold", withhold));
    }
    let small = json!({ "max_body_bytes": 10, "max_response_bytes": 1000 });
    rules.push(rule("/charges", small.clone()));
    rules.push(inline_rule("/inline", small));
    rules
}

fn builder() -> StackBuilder {
    with_config(&rules(), json!({ "problem_base": BASE }))
}

/// What a document says besides its type and status.
struct Facts {
    status: u16,
    name: &'static str,
    retryable: bool,
    reuse_key: bool,
}

/// Asserts a whole document.
fn assert_document(answer: &Answer, base: &str, facts: &Facts) {
    let Facts {
        status,
        name,
        retryable,
        reuse_key,
    } = facts;
    assert_problem(answer, *status, name);
    let document = answer.json();
    assert_eq!(document["type"], format!("{base}{name}"), "{answer:?}");
    assert_eq!(document["retryable"], *retryable, "{answer:?}");
    assert_eq!(document["reuse_key"], *reuse_key, "{answer:?}");
    // About a record, it says by which name logs know it.
    let of_record = document.get("instance").is_some();
    let members = document.as_object().map(serde_json::Map::len);
    assert_eq!(members, Some(6 + usize::from(of_record)), "{answer:?}");
    assert_eq!(answer.header("idempotency-expires"), None, "{answer:?}");
    let length = answer.header("content-length");
    assert!(
        length.is_none_or(|length| length == answer.body.len().to_string()),
        "{answer:?}"
    );
}

/// The name by which logs know the record of a key without a tenant.
fn instance(key: &str) -> String {
    log_id(&LookupKey {
        tenant: String::new(),
        namespace: String::new(),
        origin: Origin::Client,
        key: key.to_owned(),
    })
}

/// Sends a request over both protocols and expects this document, and no execution. There is no record.
fn refused(stack: &Stack, request: &Request, facts: &Facts) {
    refused_about(stack, request, facts, None);
}

/// The same; `instance`: what the document says of the record that it is about.
fn refused_about(stack: &Stack, request: &Request, facts: &Facts, instance: Option<&str>) {
    let before = stack.upstream.executions().total;
    for http in Http::BOTH {
        let answer = Connection::new(http, stack.address()).send(request);
        assert_document(&answer, BASE, facts);
        let told = answer.json()["instance"].as_str().map(str::to_owned);
        assert_eq!(told.as_deref(), instance, "{answer:?}");
    }
    assert_eq!(stack.upstream.executions().total, before, "{}", facts.name);
}

#[test]
fn refusals_from_the_request_alone() {
    let stack = builder().start();
    for path in ["/charges", "/inline"] {
        let facts = |status, name| Facts {
            status,
            name,
            retryable: false,
            reuse_key: false,
        };
        let request = Request::post(path).body("{}");
        refused(&stack, &request, &facts(400, "missing-key"));
        refused(
            &stack,
            &request.clone().key("a b"),
            &facts(400, "invalid-key"),
        );
        let large = request.clone().key("k").body("01234567890");
        refused(&stack, &large, &facts(413, "body-too-large"));
        let chunked = by_host!(
            "over HTTP/2, Kong needs the length of a body",
            envoy: large.clone().chunked(1),
            kong: large,
        );
        refused(&stack, &chunked, &facts(413, "body-too-large"));
        let overridden = request
            .clone()
            .method("PUT")
            .key("k")
            .header("x-http-method", "POST");
        refused(&stack, &overridden, &facts(400, "unsupported-request"));
        let ambiguous = request.clone().key("k").target(&format!("{path}/a%2fb"));
        refused(&stack, &ambiguous, &facts(400, "unsupported-request"));
    }
    let tenant = Facts {
        status: 403,
        name: "tenant-missing",
        retryable: false,
        reuse_key: true,
    };
    refused(&stack, &Request::post("/tenant").key("k"), &tenant);
    let text = Request::post("/json").key("k").body("no json");
    let unsupported = Facts {
        status: 400,
        name: "unsupported-request",
        retryable: false,
        reuse_key: false,
    };
    refused(&stack, &text, &unsupported);
}

#[test]
fn refusals_from_the_record() {
    let stack = builder().start();
    for path in ["/charges", "/inline"] {
        let facts = |name| Facts {
            status: 409,
            name,
            retryable: false,
            reuse_key: true,
        };
        let reused = Facts {
            status: 422,
            name: "key-reused",
            retryable: false,
            reuse_key: false,
        };
        let request = |query: &str| {
            let key = fresh_key("record");
            let request = Request::post(&format!("{path}?{query}"));
            (request.key(&key).body("{}"), instance(&key))
        };
        let (done, id) = request("");
        assert_eq!(done.send(&stack).status, 201);
        refused_about(&stack, &done.clone().body("[]"), &reused, Some(&id));
        // The same key under other fingerprint settings.
        let other = done.target("/json");
        refused_about(&stack, &other, &facts("not-comparable"), Some(&id));
        let (unknown, id) = request("status=500");
        assert_eq!(unknown.send(&stack).status, 500);
        refused_about(&stack, &unknown, &facts("outcome-unknown"), Some(&id));
        let (large, id) = request("bytes=2000");
        assert_eq!(large.send(&stack).body.len(), 2000);
        refused_about(&stack, &large, &facts("not-replayable"), Some(&id));
    }
}

/// What clients of other APIs look for stands beside the document's own members.
#[test]
fn a_rule_gives_its_refusals_members_and_headers() {
    let stack = builder().start();
    let key = fresh_key("own");
    let request = Request::post("/own").key(&key).body("{}");
    assert_eq!(request.send(&stack).status, 201);
    let reused = request.clone().body("[]").send(&stack);
    assert_problem(&reused, 422, "key-reused");
    let document = reused.json();
    assert_eq!(document["code"], 17);
    assert_eq!(
        document["error"],
        json!({ "kind": "reused", "again": false })
    );
    assert_eq!(reused.header("x-should-retry").as_deref(), Some("false"));
    // Other types, and replays, are what they are without.
    let missing = Request::post("/own").send(&stack);
    assert_eq!(missing.json()["error"], Value::Null);
    assert_eq!(missing.header("x-should-retry"), None);
    assert_eq!(request.send(&stack).header("x-should-retry"), None);
    assert_eq!(executions(&stack, &key), 1);
}

#[test]
fn refusals_in_the_form_of_stripes_api() {
    let stack = builder().start();
    let key = fresh_key("stripe");
    let request = Request::post("/stripe?status=500").key(&key).body("{}");
    assert_eq!(request.send(&stack).status, 500);
    let cases = [
        (
            Request::post("/stripe"),
            400,
            "missing-key",
            "invalid_request_error",
        ),
        (
            request.clone().body("[]"),
            400,
            "key-reused",
            "idempotency_error",
        ),
        (request, 409, "outcome-unknown", "idempotency_error"),
    ];
    for (request, status, name, kind) in cases {
        for http in Http::BOTH {
            let answer = Connection::new(http, stack.address()).send(&request);
            assert_problem(&answer, status, name);
            let document = answer.json();
            let error = json!({ "message": document["detail"], "type": kind });
            assert_eq!(document["error"], error, "{answer:?}");
            let retry = answer.header("stripe-should-retry");
            assert_eq!(retry.as_deref(), Some("false"), "{answer:?}");
        }
    }
    assert_eq!(executions(&stack, &key), 1);
}

#[test]
fn in_flight_says_when_to_come_back() {
    let stack = builder().start();
    let cases = [("/charges", "1"), ("/inline", "1"), ("/named", "7")];
    side_by_side(cases, |(path, seconds)| {
        let key = fresh_key("flight");
        let request = Request::post(&format!("{path}?delay_ms=1500")).key(&key);
        let mut wire = request.start(&stack);
        eventually("it executes", || executions(&stack, &key) == 1);
        for http in Http::BOTH {
            let answer = Connection::new(http, stack.address()).send(&request);
            let facts = Facts {
                status: 409,
                name: "in-flight",
                retryable: true,
                reuse_key: true,
            };
            assert_document(&answer, BASE, &facts);
            assert_eq!(
                answer.header("retry-after").as_deref(),
                Some(seconds),
                "{path}"
            );
        }
        assert_eq!(wire.answer().status, 201);
        assert_eq!(executions(&stack, &key), 1);
    });
}

#[test]
fn without_the_service_nothing_is_executed_and_the_answer_says_so() {
    let mut stack = builder().start();
    stack.service.kill();
    let down = Facts {
        status: 503,
        name: "store-unavailable",
        retryable: true,
        reuse_key: true,
    };
    for path in ["/charges", "/inline"] {
        let key = fresh_key("down");
        let request = Request::post(path).key(&key).body("{}");
        refused_about(&stack, &request, &down, Some(&instance(&key)));
    }
    let answer = Request::post("/named").key("k").send(&stack);
    assert_document(&answer, BASE, &down);
    assert_eq!(answer.header("retry-after").as_deref(), Some("7"));
    assert_eq!(stack.upstream.executions().total, 0);
    let preflight = Request::new("OPTIONS", "/charges").header("origin", "https://a.example");
    assert_eq!(preflight.send(&stack).status, 201, "not protected");
}

#[test]
fn an_outcome_that_could_not_be_recorded_is_withheld_where_the_rule_says_so() {
    only_on!(
        Envoy | Layer,
        "\"withhold\" is refused on Kong, which cannot hold a response"
    );
    for path in ["/withhold", "/inline/withhold"] {
        let mut stack = builder().start();
        let key = fresh_key("unrecorded");
        let mut wire = Request::post(&format!("{path}?delay_ms=700"))
            .key(&key)
            .start(&stack);
        eventually("it executes", || executions(&stack, &key) == 1);
        stack.service.kill();
        let facts = Facts {
            status: 503,
            name: "outcome-unrecorded",
            retryable: true,
            reuse_key: true,
        };
        assert_document(&wire.answer(), BASE, &facts);
        assert_eq!(executions(&stack, &key), 1);
    }
}

#[test]
fn a_rejected_configuration_refuses_whatever_could_be_protected() {
    let rules = [rule("/charges", json!({ "lease_ms": "long" }))];
    let stack = with_config(&rules, json!({ "problem_base": BASE })).start();
    let facts = Facts {
        status: 503,
        name: "misconfigured",
        retryable: true,
        reuse_key: true,
    };
    for path in ["/charges", "/other"] {
        for http in Http::BOTH {
            let request = Request::post(path).key("k").body("{}");
            let answer = Connection::new(http, stack.address()).send(&request);
            // The base is part of what was rejected.
            assert_document(&answer, "urn:idempotency-gateway:problem:", &facts);
        }
    }
    assert_eq!(stack.upstream.executions().total, 0);
    assert_eq!(Request::get("/charges").send(&stack).status, 201);
}

#[test]
fn without_a_base_types_are_urns() {
    let stack = with_rules(&rules()).start();
    for path in ["/charges", "/inline"] {
        let answer = Request::post(path).send(&stack);
        let facts = Facts {
            status: 400,
            name: "missing-key",
            retryable: false,
            reuse_key: false,
        };
        assert_document(&answer, "urn:idempotency-gateway:problem:", &facts);
    }
}
