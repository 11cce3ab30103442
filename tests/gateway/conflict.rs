//! The same key again: with another payload, while the first is running, or both.

use idempotency_e2e::{
    assert_problem, assert_replay, eventually, executions, fresh_key, inline_rule, replayed, rule,
    side_by_side, with_rules, Answer, Connection, Http, Request, Shared, Wire,
};
use idempotency_stack::Stack;
use serde_json::json;

static STACK: Shared = Shared::new(|| {
    let many = json!({ "match": { "methods": ["POST", "PUT", "PATCH", "DELETE"] } });
    let wait = json!({ "wait_ms": 20_000 });
    with_rules(&[
        rule("/charges", many.clone()),
        rule("/wait", wait.clone()),
        rule("/json", json!({ "fingerprint": { "body": "json" } })),
        rule("/none", json!({ "fingerprint": { "body": "none" } })),
        rule(
            "/headers",
            json!({ "fingerprint": { "headers": ["x-amount"], "host": true } }),
        ),
        inline_rule("/inline/wait", wait),
        inline_rule("/inline", many),
    ])
});

/// Sends a request whose execution takes its time, and waits until the upstream has it.
fn running(stack: &Stack, request: &Request, key: &str) -> Wire {
    let wire = request.start(stack);
    eventually("the first request executes", || executions(stack, key) == 1);
    wire
}

#[test]
fn another_payload_is_422_whether_the_first_is_running_or_done() {
    let stack = STACK.get();
    let paths = ["/charges", "/inline", "/wait", "/inline/wait"];
    side_by_side(paths, |path| {
        let key = fresh_key("mismatch");
        let target = format!("{path}?delay_ms=2000");
        let request = Request::post(&target).key(&key).body("{\"amount\":1}");
        let other = request.clone().body("{\"amount\":2}");
        let mut wire = running(&stack, &request, &key);
        for http in Http::BOTH {
            let refused = Connection::new(http, stack.address()).send(&other);
            assert_problem(&refused, 422, "key-reused");
        }
        if !path.ends_with("wait") {
            let duplicate = request.send(&stack);
            assert_problem(&duplicate, 409, "in-flight");
            assert_eq!(duplicate.header("retry-after").as_deref(), Some("1"));
        }
        let first = wire.answer();
        assert_eq!(first.status, 201);
        assert_problem(&other.send(&stack), 422, "key-reused");
        assert_replay(&first, &request.send(&stack));
        assert_eq!(executions(&stack, &key), 1);
    });
}

#[test]
fn another_payload_is_422_when_the_outcome_is_unknown() {
    let stack = STACK.get();
    for path in ["/charges", "/inline"] {
        let key = fresh_key("mismatch-state");
        let request = Request::post(&format!("{path}?status=500"))
            .key(&key)
            .body("1");
        request.send(&stack);
        assert_problem(&request.body("2").send(&stack), 422, "key-reused");
        assert_eq!(executions(&stack, &key), 1, "{path}");
    }
}

/// Sends `first`, then `second` with the same key: whether they count as the same operation.
fn same(stack: &Stack, first: &Request, second: &Request) -> bool {
    let key = fresh_key("same");
    let answer = first.clone().key(&key).send(stack);
    assert_eq!(answer.status, 201, "{answer:?}");
    let retry = second.clone().key(&key).send(stack);
    assert_eq!(executions(stack, &key), 1, "{first:?} {second:?}");
    if retry.status == 422 {
        assert_problem(&retry, 422, "key-reused");
        return false;
    }
    assert_replay(&answer, &retry);
    true
}

#[test]
fn what_makes_an_operation_the_same() {
    let stack = STACK.get();
    for path in ["/charges", "/inline"] {
        let base = Request::post(&format!("{path}?a=1&b=2"))
            .header("content-type", "application/json")
            .body("{\"a\": 1}");
        let same = |second: &Request| same(&stack, &base, second);
        let with = |name: &str, value: &str| base.clone().header(name, value);
        let to = |target: &str| base.clone().target(&format!("{path}{target}"));
        let typed = |value: &str| {
            Request::post(&format!("{path}?a=1&b=2"))
                .header("content-type", value)
                .body("{\"a\": 1}")
        };
        // The same.
        assert!(same(&base));
        assert!(same(&to("?b=2&a=1")), "the order of query parameters");
        assert!(
            same(&with("x-request-id", "another")),
            "a header that does not count"
        );
        assert!(same(&with("user-agent", "another")));
        assert!(same(&with("accept", "text/html")));
        assert!(same(&with("authorization", "Bearer refreshed")));
        assert!(
            same(&with("host", "other.example")),
            "the host, if it does not count"
        );
        assert!(same(&base.clone().chunked(3)), "the transfer coding");
        // Another.
        assert!(!same(&base.clone().method("PUT")));
        assert!(!same(&base.clone().method("DELETE")));
        assert!(!same(&to("/1?a=1&b=2")), "the path");
        assert!(!same(&to("?a=1&b=3")), "a query value");
        assert!(!same(&to("?a=1&b=2&c=3")));
        assert!(!same(&to("")));
        assert!(!same(&typed("text/plain")));
        assert!(!same(&base.clone().body("{\"a\":1}")), "one space");
        assert!(!same(&base.clone().body("{\"a\": 1}\n")));
        assert!(!same(&base.clone().body("")));
        for name in ["content-encoding", "content-range"] {
            assert!(!same(&with(name, "x")), "{name}");
        }
        for name in ["range", "if-range", "if-match", "if-none-match"] {
            assert!(same(&with(name, "\"v1\"")), "{name} of a retry");
        }
    }
}

#[test]
fn values_of_one_query_parameter_keep_their_order() {
    let stack = STACK.get();
    let to = |query: &str| Request::post(&format!("/charges?{query}"));
    assert!(same(&stack, &to("a=1&b=1&a=2"), &to("b=1&a=1&a=2")));
    assert!(!same(&stack, &to("a=1&a=2"), &to("a=2&a=1")));
}

#[test]
fn headers_and_host_count_where_the_rule_says_so() {
    let stack = STACK.get();
    let base = Request::post("/headers").header("x-amount", "1");
    let encoded = base.clone().header("content-encoding", "x");
    assert!(same(&stack, &base, &encoded), "the list is replaced");
    let amount = Request::post("/headers").header("x-amount", "2");
    assert!(!same(&stack, &base, &amount));
    assert!(!same(&stack, &base, &Request::post("/headers")));
    assert!(
        !same(&stack, &base, &base.clone().header("x-amount", "1")),
        "twice is not once"
    );
    assert!(!same(
        &stack,
        &base,
        &base.clone().header("host", "other.example")
    ));
}

#[test]
fn json_bodies_are_compared_by_meaning_where_the_rule_says_so() {
    let stack = STACK.get();
    let json = |body: &str| {
        Request::post("/json")
            .header("content-type", "application/json")
            .body(body)
    };
    let base = json("{\"a\":1,\"b\":[true,\"\\u00e4\"]}");
    assert!(same(
        &stack,
        &base,
        &json(" { \"b\" : [true, \"ä\"],\n\"a\" : 1 } ")
    ));
    assert!(same(
        &stack,
        &base,
        &json("{\"b\":[true,\"ä\"],\"a\":1}").chunked(1)
    ));
    assert!(
        !same(&stack, &base, &json("{\"a\":1.0,\"b\":[true,\"ä\"]}")),
        "numbers are text"
    );
    assert!(!same(&stack, &base, &json("{\"a\":1,\"b\":[\"ä\",true]}")));
    let empty = by_host!(
        "an empty chunked body gets 411 on Kong, whose host would never announce it",
        envoy: json("").chunked(1),
        kong: json(""),
    );
    assert!(same(&stack, &json(""), &empty), "no body is a payload too");
    assert!(!same(&stack, &json(""), &json("\"\"")));
    let big = json("{\"a\":12345678901234567890}");
    assert!(!same(&stack, &big, &json("{\"a\":12345678901234567891}")));
    for body in ["{\"a\":1,\"a\":1}", "{\"a\":", "no json"] {
        let key = fresh_key("json");
        assert_problem(
            &json(body).key(&key).send(&stack),
            400,
            "unsupported-request",
        );
        assert_eq!(executions(&stack, &key), 0, "{body}");
        assert_eq!(
            json("{}").key(&key).send(&stack).status,
            201,
            "the key is still free"
        );
    }
}

#[test]
fn bodies_do_not_count_where_the_rule_says_so() {
    let stack = STACK.get();
    let part = |boundary: &str| {
        Request::post("/none")
            .header(
                "content-type",
                format!("multipart/form-data; boundary={boundary}"),
            )
            .body(format!("--{boundary}\r\n\r\nx\r\n--{boundary}--\r\n"))
    };
    assert!(same(&stack, &part("one"), &part("two")));
    let text = Request::post("/none")
        .header("content-type", "text/plain")
        .body("x");
    assert!(!same(&stack, &part("one"), &text));
}

/// Sends the request from so many clients at once, over both protocols.
fn storm(stack: &Stack, request: &Request, clients: usize) -> Vec<Answer> {
    let connect = |client| Connection::new(Http::BOTH[client % 2], stack.address());
    let connections: Vec<_> = (0..clients).map(connect).collect();
    side_by_side(connections, |connection| connection.send(request))
}

#[test]
fn of_64_concurrent_duplicates_one_executes_and_the_rest_wait_for_its_answer() {
    let stack = STACK.get();
    for path in ["/wait", "/inline/wait"] {
        for query in ["delay_ms=300", "bytes=100000", ""] {
            let key = fresh_key("storm");
            let request = Request::post(&format!("{path}?{query}"))
                .key(&key)
                .body("{}");
            let answers = storm(&stack, &request, 64);
            assert_eq!(executions(&stack, &key), 1, "{path}?{query}");
            let firsts: Vec<_> = answers.iter().filter(|answer| !replayed(answer)).collect();
            assert_eq!(firsts.len(), 1, "{path}?{query}: {firsts:?}");
            for answer in answers.iter().filter(|answer| replayed(answer)) {
                assert_replay(firsts[0], answer);
            }
        }
    }
}

#[test]
fn of_64_concurrent_duplicates_that_do_not_wait_one_executes_and_the_rest_get_409() {
    let stack = STACK.get();
    for path in ["/charges", "/inline"] {
        let key = fresh_key("storm");
        let request = Request::post(&format!("{path}?delay_ms=1500"))
            .key(&key)
            .body("{}");
        let answers = storm(&stack, &request, 64);
        assert_eq!(executions(&stack, &key), 1, "{path}");
        let firsts: Vec<_> = answers
            .iter()
            .filter(|answer| answer.status == 201)
            .collect();
        let (replays, firsts): (Vec<_>, Vec<_>) = firsts.into_iter().partition(|a| replayed(a));
        assert_eq!(firsts.len(), 1, "{path}: {firsts:?}");
        for replay in replays {
            assert_replay(firsts[0], replay);
        }
        for refused in answers.iter().filter(|answer| answer.status != 201) {
            assert_problem(refused, 409, "in-flight");
        }
        assert_replay(firsts[0], &request.send(&stack));
        assert_eq!(executions(&stack, &key), 1, "{path}");
    }
}

#[test]
fn different_keys_with_the_same_payload_are_different_operations() {
    let stack = STACK.get();
    for path in ["/charges", "/inline"] {
        let keys = [fresh_key("two"), fresh_key("two")];
        let answers = keys.each_ref().map(|key| {
            let request = Request::post(path).key(key).body("{\"amount\":1}");
            let first = request.send(&stack);
            assert_replay(&first, &request.send(&stack));
            first
        });
        assert_ne!(answers[0].body, answers[1].body);
        for key in &keys {
            assert_eq!(executions(&stack, key), 1);
        }
    }
}

#[test]
fn keys_are_case_sensitive() {
    let stack = STACK.get();
    let key = fresh_key("case");
    let upper = key.to_ascii_uppercase();
    for key in [&key, &upper] {
        let answer = Request::post("/charges").key(key).send(&stack);
        assert!(answer.status == 201 && !replayed(&answer), "{answer:?}");
        assert_eq!(executions(&stack, key), 1);
    }
}
