//! Done, but not kept: responses that cannot be replayed are never executed again.

use idempotency_e2e::{
    assert_problem, assert_replay, executions, fresh_key, inline_rule, record, record_state, rule,
    with_rules, Connection, Http, Request, Shared,
};
use serde_json::json;

static STACK: Shared = Shared::new(|| {
    let small = json!({ "max_response_bytes": 1000, "wait_ms": 10_000 });
    with_rules(&[
        rule("/small", small.clone()),
        rule("/charges", json!({})),
        inline_rule("/inline/small", small),
        inline_rule("/inline", json!({})),
    ])
    // HTTP/2 upstreams send trailers without being asked for them.
    .on_envoy(|envoy| envoy.upstream_http2 = true)
});

#[test]
fn a_response_over_the_cap_is_delivered_whole_and_never_executed_again() {
    let stack = STACK.get();
    for path in ["/small", "/inline/small"] {
        for query in [
            "bytes=1001",
            "bytes=1001&chunked=1",
            "bytes=1001&chunk_bytes=1000",
            "bytes=300000",
            "bytes=300000&chunked=1",
            "bytes=5000000",
        ] {
            for http in Http::BOTH {
                let key = fresh_key("over");
                let request = Request::post(&format!("{path}?{query}"))
                    .key(&key)
                    .body("{}");
                let connection = Connection::new(http, stack.address());
                let first = connection.send(&request);
                let size = query.split(['=', '&']).nth(1).unwrap_or_default();
                assert_eq!(first.status, 201, "{path}?{query}");
                assert_eq!(first.body.len().to_string(), size, "{path}?{query}");
                for _ in 0..2 {
                    assert_problem(&connection.send(&request), 409, "not-replayable");
                }
                let other = connection.send(&request.clone().body("other"));
                assert_problem(&other, 422, "key-reused");
                let record = record(&stack, &key).unwrap_or_default();
                assert_eq!(record["state"], "completed", "{record}");
                assert_eq!(record["status"], 201, "{record}");
                assert_eq!(executions(&stack, &key), 1, "{path}?{query}");
            }
        }
    }
}

#[test]
fn a_response_at_the_cap_is_replayed() {
    let stack = STACK.get();
    for (path, bytes) in [
        ("/small", 1000),
        ("/inline/small", 1000),
        ("/charges", 1 << 20),
        ("/inline", 1 << 20),
    ] {
        for query in [format!("bytes={bytes}"), format!("bytes={bytes}&chunked=1")] {
            let key = fresh_key("at");
            let request = Request::post(&format!("{path}?{query}")).key(&key);
            let first = request.send(&stack);
            assert_eq!(first.body.len(), bytes);
            assert_replay(&first, &request.send(&stack));
            assert_eq!(executions(&stack, &key), 1);
            let key = fresh_key("at");
            let above = query.replace(&bytes.to_string(), &(bytes + 1).to_string());
            let request = Request::post(&format!("{path}?{above}")).key(&key);
            assert_eq!(request.send(&stack).body.len(), bytes + 1);
            assert_problem(&request.send(&stack), 409, "not-replayable");
            assert_eq!(executions(&stack, &key), 1);
        }
    }
}

#[test]
fn a_response_with_trailers_is_delivered_and_never_executed_again() {
    only_on!(
        Envoy,
        "Kong passes no trailers on: the answer is complete without them; the other hosts ask for none"
    );
    let stack = STACK.get();
    for path in ["/charges", "/inline"] {
        for query in [
            "trailers=1",
            "trailers=1&bytes=200000",
            "trailers=1&content_length=0",
        ] {
            for http in Http::BOTH {
                let key = fresh_key("trailers");
                let request = Request::post(&format!("{path}?{query}"))
                    .key(&key)
                    .body("{}");
                let connection = Connection::new(http, stack.address());
                let first = connection.send(&request);
                assert_eq!(first.status, 201, "{path}?{query} {http:?}");
                if path == "/inline" {
                    assert!(
                        !first.trailers.is_empty(),
                        "{path}?{query} {http:?}: {first:?}"
                    );
                }
                assert_problem(&connection.send(&request), 409, "not-replayable");
                assert_eq!(record_state(&stack, &key), "completed");
                assert_eq!(executions(&stack, &key), 1, "{path}?{query}");
            }
        }
    }
}

#[test]
fn whoever_waited_for_a_response_that_is_not_kept_is_told_so() {
    let stack = STACK.get();
    for path in ["/small", "/inline/small"] {
        let key = fresh_key("waited");
        let request = Request::post(&format!("{path}?bytes=2000&delay_ms=500")).key(&key);
        let answers = std::thread::scope(|scope| {
            let send = || request.send(&stack);
            let threads = [(); 8].map(|()| scope.spawn(send));
            threads.map(|thread| thread.join().unwrap())
        });
        let (first, rest): (Vec<_>, Vec<_>) = answers.iter().partition(|a| a.status == 201);
        assert_eq!(first.len(), 1, "{first:?}");
        for answer in rest {
            assert_problem(answer, 409, "not-replayable");
        }
        assert_eq!(executions(&stack, &key), 1);
    }
}
