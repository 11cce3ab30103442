//! Which methods are protected, and requests that no rule was made for.

use idempotency_e2e::{
    assert_replay, executions, fresh_key, inline_rule, log, replayed, rule, side_by_side,
    with_rules, Connection, Http, Request, Shared, Wire,
};
use serde_json::json;

static STACK: Shared = Shared::new(|| {
    let every = json!({ "match": { "methods": "*" }, "wait_ms": 20_000 });
    with_rules(&[
        rule("/charges", every.clone()),
        inline_rule("/inline", every),
    ])
});

const PATHS: [&str; 2] = ["/charges", "/inline"];

#[test]
fn every_method_that_changes_something_is_protected_under_a_star() {
    let stack = STACK.get();
    for path in PATHS {
        for method in ["POST", "PUT", "PATCH", "DELETE", "PURGE", "REPORT"] {
            for body in ["", "{}"] {
                for http in Http::BOTH {
                    let key = fresh_key("method");
                    let request = Request::new(method, path).key(&key).body(body);
                    let connection = Connection::new(http, stack.address());
                    let first = connection.send(&request);
                    assert_eq!(first.status, 201, "{method} {path}: {first:?}");
                    assert_replay(&first, &connection.send(&request));
                    let log = log(&stack, &key);
                    assert_eq!(log.len(), 1, "{method} {path}");
                    assert_eq!(log[0].method, method);
                }
            }
        }
    }
}

#[test]
fn safe_methods_are_never_protected() {
    let stack = STACK.get();
    for path in PATHS {
        for method in ["GET", "OPTIONS", "HEAD"] {
            let key = fresh_key("safe");
            let request = Request::new(method, path).key(&key);
            for _ in 0..2 {
                let mut wire = request.start(&stack);
                let answer = match method {
                    "HEAD" => wire.head_answer(),
                    _ => wire.answer(),
                };
                assert!(
                    answer.status == 201 && !replayed(&answer),
                    "{method}: {answer:?}"
                );
            }
            assert_eq!(executions(&stack, &key), 2, "{method} {path}");
            // Not even met by a key that is taken.
            let taken = Request::post(path).key(&key).send(&stack);
            assert!(taken.status == 201 && !replayed(&taken), "{taken:?}");
        }
    }
}

#[test]
fn methods_are_case_sensitive_and_protected_however_they_are_written() {
    let stack = STACK.get();
    for path in PATHS {
        let key = fresh_key("case");
        let request = Request::new("post", path).key(&key).body("{}");
        let first = request.start(&stack).answer();
        if first.status == 201 {
            assert_replay(&first, &request.start(&stack).answer());
        }
        assert!(executions(&stack, &key) <= 1, "{first:?}");
    }
}

#[test]
fn strange_requests_leave_the_filter_alive() {
    let stack = STACK.get();
    let strange: [&[u8]; 10] = [
        b"CONNECT upstream.example:443 HTTP/1.1\r\nhost: upstream.example:443\r\n\r\n",
        b"CONNECT /charges HTTP/1.1\r\nhost: x\r\nidempotency-key: k\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST * HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
        b"TRACE /charges HTTP/1.1\r\nhost: x\r\nidempotency-key: k\r\n\r\n",
        b"POST charges HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
        b"POST ?x HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
        b"POST /charges HTTP/1.0\r\nidempotency-key: k\r\ncontent-length: 0\r\n\r\n",
        b"POST /charges HTTP/1.1\r\nhost: x\r\nidempotency-key: strange\r\ncontent-length: 1\r\n\
          transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /charges HTTP/1.1\r\nhost: x\r\nidempotency-key: strange\r\n\
          transfer-encoding: chunked\r\n\r\nnonsense\r\n",
    ];
    for request in strange {
        let mut wire = Wire::connect(stack.address());
        wire.send(request);
        wire.read_until("any answer", |received| received.len() > 12);
        let said = String::from_utf8_lossy(wire.received()).into_owned();
        assert!(said.is_empty() || said.starts_with("HTTP/1."), "{said}");
    }
    let executed = by_host!(
        "hyper, as RFC 9112 allows, lets chunks win over a length; the gateways refuse both together",
        envoy: 0,
        kong: 0,
        layer: 1,
    );
    assert_eq!(executions(&stack, "strange"), executed);
    for path in PATHS {
        let key = fresh_key("alive");
        let request = Request::post(path).key(&key);
        let first = request.send(&stack);
        assert_replay(&first, &request.send(&stack));
        assert_eq!(executions(&stack, &key), 1);
    }
}

#[test]
fn one_http2_connection_carries_many_duplicates_at_once() {
    let stack = STACK.get();
    for path in PATHS {
        let key = fresh_key("streams");
        let request = Request::post(&format!("{path}?delay_ms=200&bytes=50000"))
            .key(&key)
            .body("{}");
        let connection = Connection::http2(stack.address());
        let answers = side_by_side(0..64, |_| connection.send(&request));
        let (replays, firsts): (Vec<_>, Vec<_>) = answers.iter().partition(|a| replayed(a));
        assert_eq!(firsts.len(), 1, "{path}: {firsts:?}");
        for replay in replays {
            assert_replay(firsts[0], replay);
        }
        assert_eq!(executions(&stack, &key), 1, "{path}");
    }
}
