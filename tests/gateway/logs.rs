//! Whoever reads the gateway's log alone knows what became of a request, and why (`docs/logs.md`).

use idempotency_e2e::{
    assert_problem, eventually, executions, fresh_key, record, record_state, Request,
};
use idempotency_stack::{filter_config, ports, ServiceAddress, Stack, Tokens};
use serde_json::{json, Value};

use crate::support::{await_execution, charge, in_background, rule, with_rule};

/// The notes in a text: the objects that the mark opens, each up to the end of its line.
fn notes(text: &str, mark: &str) -> Vec<Value> {
    let objects = text.lines().filter_map(|line| line.split_once(mark));
    let objects = objects.map(|(_, rest)| format!("{{{}", rest.trim_end()));
    objects
        .filter_map(|object| serde_json::from_str(&object).ok())
        .collect()
}

/// The note about the request with this id, once it is there: in the gateway's log, or in its access log.
fn note(id: &str, mark: &str, text: &dyn Fn() -> String) -> Value {
    let mut found = None;
    eventually(&format!("{id} is told of"), || {
        let all = notes(&text(), mark);
        found = all.into_iter().find(|note| note["request_id"] == id);
        found.is_some()
    });
    found.unwrap_or_default()
}

fn logged(stack: &Stack, id: &str) -> Value {
    note(id, "idempotency: {", &|| stack.gateway.log())
}

fn in_access_log(stack: &Stack, id: &str) -> Value {
    note(id, " idempotency={", &|| stack.gateway.access_log())
}

/// A request with this id.
fn named(request: Request, id: &str) -> Request {
    request.header("x-request-id", id)
}

/// The line says what the service says of the same key.
fn assert_is_about(stack: &Stack, note: &Value, key: &str) {
    let record = record(stack, key).expect("a record");
    assert_eq!(note["log_id"], record["log_id"], "{note}");
}

/// "Done when" of issue 15: five kinds of requests, and the log alone.
#[test]
fn the_log_of_observe_mode_says_what_would_have_been() {
    only_on!(
        Envoy | KongHost,
        "the other harnesses have access logs of their own, and the library no gateway"
    );
    let stack = with_rule("detached", json!({ "mode": "observe", "wait_ms": 0 })).start();
    let key = fresh_key("log");
    let send = |request: Request, id: &str| {
        let answer = named(request, id).send(&stack);
        assert_eq!(answer.status, 201, "{answer:?}");
    };
    // Nothing is held in observe mode: an upstream that is faster than the service ends the request, and writes its
    // access log, before anything is known.
    let path = "/charges?delay_ms=300";
    send(charge(path, &key), "first");
    eventually("the outcome is recorded", || {
        record_state(&stack, &key) == "completed"
    });
    send(charge(path, &key), "second");
    send(charge(path, &key).body("{\"amount\":7}"), "other");
    send(Request::post("/charges").body("{}"), "keyless");
    let busy = fresh_key("log");
    let slow = charge("/charges?delay_ms=1000", &busy);
    let running = in_background(&stack, &named(slow, "running"));
    await_execution(&stack, &busy);
    eventually("it has been granted", || {
        record_state(&stack, &busy) == "executing"
    });
    send(charge("/charges?delay_ms=1000", &busy), "beside");
    running.join().expect("a client").expect("an answer");

    let expected = [
        ("first", "would-execute", "granted", Value::Null),
        ("second", "would-replay", "stored", json!(201)),
        ("other", "would-refuse", "key-reused", json!(422)),
        ("keyless", "would-refuse", "missing-key", json!(400)),
        ("beside", "would-refuse", "in-flight", json!(409)),
    ];
    for (id, event, reason, status) in expected {
        let told = logged(&stack, id);
        assert_eq!(told["event"], event, "{told}");
        assert_eq!(told["reason"], reason, "{told}");
        assert_eq!(told["status"], status, "{told}");
        assert_eq!(told["rule"], "charges", "{told}");
        assert_eq!(told["method"], "POST", "{told}");
        assert_eq!(told["path"], "/charges/*", "{told}");
    }
    for (id, key) in [
        ("first", &key),
        ("second", &key),
        ("other", &key),
        ("beside", &busy),
    ] {
        assert_is_about(&stack, &logged(&stack, id), key);
    }
    assert!(logged(&stack, "first")["fence"].as_u64() > Some(0));
    assert_eq!(executions(&stack, &key), 3);
    let log = stack.gateway.log();
    assert!(
        !log.contains(&key) && !log.contains("amount"),
        "no key, no body"
    );
    by_host!(
        "what is observed is decided in Kong's tick, where no property can be set",
        envoy: for id in ["second", "other", "keyless"] {
            assert_eq!(in_access_log(&stack, id), logged(&stack, id));
        },
        kong: (),
    );
}

#[test]
fn what_is_refused_is_in_both_logs() {
    only_on!(
        Envoy | KongHost,
        "the other harnesses have access logs of their own, and the library no gateway"
    );
    let stack = with_rule("inline", json!({})).start();
    let key = fresh_key("log");
    assert_eq!(charge("/charges", &key).send(&stack).status, 201);
    eventually("the outcome is recorded", || {
        record_state(&stack, &key) == "completed"
    });
    let reused = named(charge("/charges", &key).body("{\"amount\":7}"), "reused");
    assert_problem(&reused.send(&stack), 422, "key-reused");
    let keyless = named(Request::post("/charges").body("{}"), "keyless");
    assert_problem(&keyless.send(&stack), 400, "missing-key");
    for (id, reason, status) in [
        ("reused", "key-reused", 422),
        ("keyless", "missing-key", 400),
    ] {
        let told = logged(&stack, id);
        assert_eq!(told["event"], "refused", "{told}");
        assert_eq!(
            (&told["reason"], &told["status"]),
            (&json!(reason), &json!(status)),
            "{told}"
        );
        assert_eq!(in_access_log(&stack, id), told);
    }
    assert_is_about(&stack, &logged(&stack, "reused"), &key);
    // What is ordinary is not told.
    let again = named(charge("/charges", &key), "replay").send(&stack);
    assert_eq!(again.status, 201, "{again:?}");
    eventually("the access log has it", || {
        stack.gateway.access_log().matches(" 201 ").count() >= 2
    });
    assert!(!stack.gateway.log().contains("\"replay\""));
}

/// The cause in one line of the gateway's log, for a request with this id.
fn cause(stack: &Stack, id: &str) -> String {
    let answer = named(charge("/charges", &fresh_key("cause")), id).send(stack);
    assert_problem(&answer, 503, "store-unavailable");
    let told = logged(stack, id);
    assert_eq!(told["event"], "refused", "{told}");
    assert_eq!(told["reason"], "store-unavailable", "{told}");
    assert_eq!(in_access_log(stack, id), told);
    told["why"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn the_log_alone_leads_from_a_503_to_its_cause() {
    only_on!(
        Envoy | KongHost,
        "the other harnesses have access logs of their own, and the library no gateway"
    );
    // A wrong token.
    let mut config = filter_config(&Tokens::default(), json!([rule("inline", json!({}))]));
    config["service"]["token"] = json!("not-the-token-of-this-service");
    let stack = Stack::builder().filter(config).start();
    let why = cause(&stack, "token");
    assert!(
        why.contains("401") && why.contains("service.token"),
        "{why}"
    );
    eventually("the service says who it was", || {
        let log = stack.service.log();
        log.lines()
            .any(|line| line.contains("authentication failed") && line.contains("from="))
    });
    drop(stack);

    // A wrong port.
    let nobody = ServiceAddress::Tcp(ports::REFUSED);
    let stack = with_rule("inline", json!({}))
        .gateway(move |gateway| gateway.service = nobody)
        .start();
    let why = cause(&stack, "port");
    assert!(why.contains("service.target"), "{why}");
    drop(stack);

    // A stopped service.
    let mut stack = with_rule("inline", json!({})).start();
    stack.service.kill();
    let why = cause(&stack, "stopped");
    assert!(why.contains("service.target"), "{why}");
    drop(stack);

    // A full store: more must be free than any disk has.
    let dir = tempfile::tempdir().expect("a directory");
    let place = dir.path().to_owned();
    let stack = with_rule("inline", json!({}))
        .service(move |service| {
            service.data_dir = Some(place);
            service.args = ["--store-min-free-bytes", "1000000000000000000"]
                .map(str::to_owned)
                .to_vec();
        })
        .start();
    let why = cause(&stack, "full");
    assert!(why.contains("high-water mark"), "{why}");
    eventually("the service says it, too", || {
        stack.service.log().contains("high-water mark")
    });
}

/// An execution that nobody knows the outcome of.
#[test]
fn an_unknown_outcome_is_told_with_its_execution() {
    only_on!(
        Envoy | KongHost,
        "the other harnesses have access logs of their own, and the library no gateway"
    );
    let stack = with_rule("inline", json!({})).start();
    let key = fresh_key("unknown");
    let request = named(charge("/charges?status=500", &key), "broken");
    assert_eq!(request.send(&stack).status, 500);
    let told = logged(&stack, "broken");
    assert_eq!(
        (&told["event"], &told["status"]),
        (&json!("unknown"), &json!(500)),
        "{told}"
    );
    assert!(told["fence"].as_u64() > Some(0), "{told}");
    assert_is_about(&stack, &told, &key);
}

/// A record says which request made it.
#[test]
fn a_record_says_what_made_it() {
    only_on!(
        Envoy | KongHost,
        "the other harnesses have access logs of their own, and the library no gateway"
    );
    for execution in ["inline", "detached"] {
        let stack = with_rule(execution, json!({})).start();
        let key = fresh_key("about");
        let request = named(charge("/charges/card?bytes=10", &key), "the-request")
            .header(
                "traceparent",
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            )
            .header("x-forwarded-for", "203.0.113.9, 192.0.2.7");
        assert_eq!(request.send(&stack).status, 201);
        let record = record(&stack, &key).expect("a record");
        let about = &record["about"];
        assert_eq!(about["method"], "POST", "{record}");
        assert_eq!(about["path"], "/charges/card", "{record}");
        assert_eq!(about["rule"], "charges", "{record}");
        assert_eq!(about["request_id"], "the-request", "{record}");
        assert_eq!(
            about["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736",
            "{record}"
        );
        by_host!(
            "each gateway has its name, and Kong tells the connection's address",
            envoy: {
                assert_eq!(about["gateway"], "envoy", "{record}");
                assert_eq!(about["client"], "192.0.2.7", "{record}");
            },
            kong: {
                assert_eq!(about["gateway"], "kong", "{record}");
                assert_eq!(about["client"], "127.0.0.1", "{record}");
            },
        );
    }
}

/// What became of requests, by rule: the labels are made by the gateway, as `envoy.yaml` has it.
#[test]
fn requests_are_counted_by_rule_and_outcome() {
    only_on!(
        Envoy | KongHost,
        "the other harnesses have access logs of their own, and the library no gateway"
    );
    let other = json!({
        "name": "Refunds-more",
        "match": { "methods": ["POST"], "path_prefix": "/refunds" },
    });
    let rules = json!([rule("inline", json!({})), rule("inline", other)]);
    let stack = Stack::builder().rules(rules).start();
    let key = fresh_key("rules");
    for _ in 0..3 {
        assert_eq!(charge("/charges", &key).send(&stack).status, 201);
        idempotency_e2e::recorded(&stack, &key);
    }
    let keyless = Request::post("/refunds").body("{}");
    assert_problem(&keyless.send(&stack), 400, "missing-key");
    let count = |name: &str| {
        stack
            .gateway
            .metric(&format!("idempotency_requests_outcome_{name}"))
    };
    eventually("all are counted", || {
        count("executed_rule_charges") == 1 && count("replayed_rule_charges") == 2
    });
    assert_eq!(count("refused_rule_refunds_more"), 1);
    assert_eq!(count("refused_rule_charges"), 0);
    by_host!(
        "Kong's own page is tested in a complete Kong",
        envoy: {
            let page = stack.gateway.envoy().ask("GET", "/stats/prometheus");
            let page = String::from_utf8_lossy(&page.body).into_owned();
            let series = page.lines().find(|line| {
                line.starts_with("idempotency_requests{")
                    && line.contains("outcome=\"executed\"")
                    && line.contains("rule=\"charges\"")
            });
            assert!(series.is_some_and(|line| line.ends_with(" 1")), "{page}");
        },
        kong: (),
    );
}
