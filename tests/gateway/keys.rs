//! How keys are read.

use idempotency_e2e::{
    assert_problem, assert_replay, executions, fresh_key, inline_rule, replayed, rule, with_rules,
    Connection, Http, Request, Shared,
};
use idempotency_stack::Stack;
use serde_json::json;

static STACK: Shared = Shared::new(|| {
    let when_missing = |what: &str| json!({ "key": { "when_missing": what } });
    with_rules(&[
        rule("/charges", json!({})),
        rule("/strict", json!({ "key": { "syntax": "strict" } })),
        rule("/named", json!({ "key": { "header": "X-Request-Token" } })),
        rule("/pass", when_missing("pass")),
        rule("/derive", when_missing("derive")),
        inline_rule("/inline/derive", when_missing("derive")),
        inline_rule("/inline", json!({})),
    ])
});

fn total(stack: &Stack, path: &str) -> usize {
    stack
        .upstream
        .log()
        .iter()
        .filter(|e| e.path == path)
        .count()
}

#[test]
fn a_request_without_a_key_is_refused() {
    let stack = STACK.get();
    for path in ["/charges/keyless", "/inline/keyless"] {
        for http in Http::BOTH {
            let answer =
                Connection::new(http, stack.address()).send(&Request::post(path).body("x"));
            assert_problem(&answer, 400, "missing-key");
        }
        assert_eq!(total(&stack, path), 0);
    }
}

#[test]
fn malformed_keys_are_refused() {
    let stack = STACK.get();
    let long = "k".repeat(256);
    let long_quoted = format!("\"{long}\"");
    let values: [&[u8]; 17] = [
        b"",
        b"  ",
        b"\"\"",
        b"a b",
        b"a\tb",
        b"a\"b",
        b"\"a",
        b"a\\b",
        b"\"a\\b\"",
        b"\"a\"b",
        b"k\xc3\xa4",
        b"\"k\xff\"",
        b"a,b",
        b"\"a\", \"b\"",
        b"\"a\";p=1",
        long.as_bytes(),
        long_quoted.as_bytes(),
    ];
    for path in ["/charges/malformed", "/inline/malformed"] {
        for value in values {
            let request = Request::post(path)
                .header("idempotency-key", value)
                .body("x");
            let answer = request.send(&stack);
            assert_problem(&answer, 400, "invalid-key");
            assert!(
                value.len() < 4 || !answer.text().contains("kkkk"),
                "keys are not told back: {answer:?}"
            );
        }
        assert_eq!(total(&stack, path), 0);
    }
}

#[test]
fn parameters_are_refused() {
    let stack = STACK.get();
    for value in ["abc;p", "\"abc\";p=1", "\"abc\" ; p"] {
        for path in ["/charges/parameters", "/strict/parameters"] {
            let answer = Request::post(path).key(value).send(&stack);
            assert_problem(&answer, 400, "invalid-key");
            assert_eq!(total(&stack, path), 0);
        }
    }
}

#[test]
fn a_repeated_key_is_refused_even_if_equal() {
    let stack = STACK.get();
    for (first, second) in [("a", "b"), ("a", "a"), ("a", ""), ("", "a")] {
        for path in ["/charges/repeated", "/inline/repeated"] {
            for http in Http::BOTH {
                let request = Request::post(path).key(first).key(second);
                let answer = Connection::new(http, stack.address()).send(&request);
                assert_problem(&answer, 400, "invalid-key");
                assert_eq!(total(&stack, path), 0);
            }
        }
    }
}

#[test]
fn a_key_has_up_to_255_characters() {
    let stack = STACK.get();
    for path in ["/charges", "/inline"] {
        let short = fresh_key("l");
        let key = format!("{short}{}", "k".repeat(255 - short.len()));
        let request = Request::post(path).key(&key);
        let first = request.send(&stack);
        assert_eq!(first.status, 201, "{first:?}");
        assert_replay(&first, &request.send(&stack));
        let quoted = Request::post(path).key(&format!("\"{key}\""));
        assert_replay(&first, &quoted.send(&stack));
        let answer = Request::post(path).key(&format!("{key}k")).send(&stack);
        assert_problem(&answer, 400, "invalid-key");
        assert_eq!(executions(&stack, &key), 1);
        assert_eq!(executions(&stack, &format!("{key}k")), 0);
    }
}

#[test]
fn a_quoted_key_is_the_bare_key() {
    let stack = STACK.get();
    for path in ["/charges", "/inline"] {
        let key = fresh_key("quoted");
        let quoted = format!("\"{key}\"");
        let first = Request::post(path).key(&quoted).send(&stack);
        assert_eq!(first.status, 201);
        assert_replay(&first, &Request::post(path).key(&key).send(&stack));
        assert_replay(
            &first,
            &Request::post(path).key(&format!(" {quoted} ")).send(&stack),
        );
        let times = executions(&stack, &key) + executions(&stack, &quoted);
        assert_eq!(times, 1);
    }
}

#[test]
fn a_quoted_key_may_hold_what_a_bare_one_may_not() {
    let stack = STACK.get();
    let label = fresh_key("odd");
    for key in [
        format!("\"{label} a,b;c\""),
        format!("\"{label}\\\"\\\\\""),
        format!("\"{label}%&=+#/?\""),
    ] {
        let request = Request::post("/strict").key(&key);
        let first = request.send(&stack);
        assert_eq!(first.status, 201, "{key}: {first:?}");
        assert_replay(&first, &request.send(&stack));
        assert_eq!(executions(&stack, &key), 1, "{key}");
    }
    let others = stack.upstream.log();
    let bodies = others.iter().filter(|e| e.key.contains(&label)).count();
    assert_eq!(bodies, 3, "three keys, three executions");
}

#[test]
fn strict_keys_are_quoted_strings_and_nothing_else() {
    let stack = STACK.get();
    let key = fresh_key("strict");
    let bare = Request::post("/strict").key(&key);
    assert_problem(&bare.send(&stack), 400, "invalid-key");
    for value in [":YWJj:", "?1", "12", "1.5", "@1700000000", "%\"abc\""] {
        let answer = Request::post("/strict/odd").key(value).send(&stack);
        assert_problem(&answer, 400, "invalid-key");
        assert_eq!(total(&stack, "/strict/odd"), 0, "{value}");
    }
    let quoted = format!("\"{key}\"");
    let request = Request::post("/strict").key(&quoted);
    let first = request.send(&stack);
    assert_replay(&first, &request.send(&stack));
    assert_eq!(
        executions(&stack, &quoted),
        1,
        "the upstream gets the key as it was sent"
    );
    assert_eq!(executions(&stack, &key), 0);
}

#[test]
fn the_key_may_be_in_another_header() {
    let stack = STACK.get();
    let key = fresh_key("named");
    let unnamed = Request::post("/named/x").key(&key).send(&stack);
    assert_problem(&unnamed, 400, "missing-key");
    assert!(
        unnamed
            .text()
            .to_ascii_lowercase()
            .contains("x-request-token"),
        "{unnamed:?}"
    );
    let request = Request::post("/named/x?echo=1").header("x-request-token", &key);
    let first = request.send(&stack);
    assert_eq!(first.echoed("x-request-token"), Some(key));
    assert_replay(&first, &request.send(&stack));
    assert_eq!(total(&stack, "/named/x"), 1);
}

#[test]
fn without_a_key_a_request_passes_where_the_rule_says_so() {
    let stack = STACK.get();
    let keyless = Request::post("/pass/keyless?echo=1").body("x");
    let answers = [keyless.send(&stack), keyless.send(&stack)];
    for answer in &answers {
        assert!(answer.status == 201 && !replayed(answer), "{answer:?}");
        assert_eq!(answer.echoed("idempotency-fence"), None, "not protected");
    }
    assert_eq!(total(&stack, "/pass/keyless"), 2);
    let key = fresh_key("pass");
    let request = Request::post("/pass").key(&key);
    let first = request.send(&stack);
    assert_replay(&first, &request.send(&stack));
    assert_eq!(executions(&stack, &key), 1);
    assert_problem(
        &Request::post("/pass").key("").send(&stack),
        400,
        "invalid-key",
    );
}

#[test]
fn without_a_key_the_gateway_derives_one_where_the_rule_says_so() {
    let stack = STACK.get();
    for path in ["/derive", "/inline/derive"] {
        let target = format!("{path}/{}?echo=1", fresh_key("d"));
        let request = Request::post(&target).body("{\"amount\":1}");
        let first = request.send(&stack);
        assert_eq!(first.status, 201, "{first:?}");
        assert_replay(&first, &request.send(&stack));
        let derived = first.echoed("idempotency-key").unwrap_or_default();
        assert!(derived.len() > 34 && derived.starts_with('"'), "{derived}");
        assert_eq!(executions(&stack, &derived), 1);
        // Another payload is another operation, not a conflict.
        let other = request.clone().body("{\"amount\":2}").send(&stack);
        assert!(other.status == 201 && !replayed(&other), "{other:?}");
        assert_ne!(other.echoed("idempotency-key"), Some(derived.clone()));
        // A client cannot name a derived key.
        let forged = request.clone().key(&derived).send(&stack);
        assert!(forged.status == 201 && !replayed(&forged), "{forged:?}");
        let path = target.split('?').next().unwrap_or_default();
        assert_eq!(total(&stack, path), 3);
        // With a key of its own, a client's request is its own.
        let key = fresh_key("own");
        let own = request.clone().key(&key);
        let answer = own.send(&stack);
        assert!(answer.status == 201 && !replayed(&answer), "{answer:?}");
        assert_replay(&answer, &own.send(&stack));
        assert_eq!(executions(&stack, &key), 1);
    }
}
