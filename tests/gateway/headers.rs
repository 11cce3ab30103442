//! What goes upstream, what must not, and what the filter leaves alone.

use idempotency_e2e::{
    assert_problem, assert_replay, eventually, executions, fresh_key, inline_rule, log, replayed,
    rule, with_rules, Connection, Http, Request, Shared, Wire,
};
use idempotency_stack::{Host, Stack};
use serde_json::json;

static STACK: Shared = Shared::new(|| {
    let keep = json!({ "accept_encoding": "keep" });
    with_rules(&[
        rule("/charges/keep", keep.clone()),
        rule("/charges", json!({})),
        rule("/named", json!({ "namespace": "a b&c" })),
        inline_rule("/inline/keep", keep),
        inline_rule("/inline", json!({})),
    ])
});

const PATHS: [&str; 2] = ["/charges", "/inline"];

/// Executions of one path, for requests whose key says nothing.
fn total(stack: &Stack, path: &str) -> usize {
    stack
        .upstream
        .log()
        .iter()
        .filter(|e| e.path == path)
        .count()
}

#[test]
fn forged_headers_of_the_filter_are_stripped() {
    let stack = STACK.get();
    for path in PATHS {
        for http in Http::BOTH {
            let key = fresh_key("forged");
            let request = Request::post(&format!("{path}?echo=1"))
                .key(&key)
                .header("idempotency-fence", "9007199254740991")
                .header("Idempotency-Fence", "1")
                .header("idempotency-attempt", "77")
                .header("idempotency-record", "tenant=other&namespace=&key=other")
                .header("idempotency-unprotected", "yes");
            let answer = Connection::new(http, stack.address()).send(&request);
            let refused = by_host!(
                "nginx sends on what a filter removes: on Kong a forger is refused",
                envoy: false,
                kong: {
                    assert_problem(&answer, 400, "unsupported-request");
                    assert_eq!(executions(&stack, &key), 0);
                    true
                },
            );
            if refused {
                continue;
            }
            assert_eq!(answer.status, 201, "{answer:?}");
            let fence = answer.echoed("idempotency-fence").unwrap_or_default();
            let fence: u64 = fence.parse().unwrap_or_default();
            assert!((2..9_007_199_254_740_991).contains(&fence), "{answer:?}");
            assert_eq!(answer.echoed("idempotency-attempt").as_deref(), Some("1"));
            let record = format!("tenant=&namespace=&key={key}");
            assert_eq!(answer.echoed("idempotency-record"), Some(record));
            assert_eq!(answer.echoed("idempotency-unprotected"), None);
            assert_eq!(executions(&stack, &key), 1);
        }
    }
}

#[test]
fn client_headers_that_make_the_gateway_retry_hedge_or_give_up_are_stripped() {
    let stack = STACK.get();
    let steering = [
        ("x-envoy-retry-on", "5xx,reset,gateway-error,retriable-4xx"),
        ("x-envoy-retry-grpc-on", "internal"),
        ("x-envoy-max-retries", "5"),
        ("x-envoy-retriable-status-codes", "500,409"),
        ("x-envoy-retriable-header-names", "x-a"),
        ("x-envoy-hedge-on-per-try-timeout", "true"),
        ("x-envoy-upstream-rq-timeout-ms", "1"),
        ("x-envoy-upstream-rq-per-try-timeout-ms", "1"),
        ("x-envoy-upstream-rq-timeout-alt-response", "1"),
        ("x-envoy-upstream-alt-stat-name", "x"),
    ];
    for path in ["/charges", "/charges/retried", "/inline"] {
        for (query, status) in [
            ("delay_ms=200", 201),
            ("status=500", 500),
            ("reset=before", 502),
        ] {
            let key = fresh_key("steering");
            let mut request = Request::post(&format!("{path}?{query}")).key(&key);
            for (name, value) in steering {
                request = request.header(name, value);
            }
            assert_eq!(request.send(&stack).status, status, "{path}?{query}");
            assert_eq!(executions(&stack, &key), 1, "{path}?{query}");
        }
        let mut request = Request::post(&format!("{path}?echo=1")).key(&fresh_key("steering"));
        for (name, value) in steering {
            request = request.header(name, value);
        }
        let answer = request.send(&stack);
        for (name, value) in steering {
            let left = by_host!(
                "Envoy's headers mean nothing to Kong",
                envoy: None,
                kong: Some(value),
                lua: Some(value),
            );
            assert_eq!(answer.echoed(name).as_deref(), left, "{path}");
        }
    }
}

#[test]
fn fences_grow_and_attempts_count() {
    let stack = STACK.get();
    for path in PATHS {
        let key = fresh_key("fences");
        let request = Request::post(&format!("{path}?status=429"))
            .key(&key)
            .body("{}");
        for _ in 0..5 {
            assert_eq!(request.send(&stack).status, 429);
        }
        let log = log(&stack, &key);
        let attempts: Vec<_> = log.iter().filter_map(|e| e.attempt.as_deref()).collect();
        assert_eq!(attempts, ["1", "2", "3", "4", "5"]);
        let fences: Vec<u64> = log
            .iter()
            .filter_map(|e| e.fence.as_ref()?.parse().ok())
            .collect();
        assert_eq!(fences.len(), 5, "{log:?}");
        assert!(
            fences.windows(2).all(|pair| pair[0] < pair[1]),
            "{fences:?}"
        );
        assert!(fences.iter().all(|fence| *fence < 1 << 53), "{fences:?}");
    }
}

#[test]
fn the_key_reaches_the_upstream_as_it_was_sent() {
    let stack = STACK.get();
    for path in PATHS {
        for key in [
            fresh_key("sent"),
            format!("\"{}\"", fresh_key("sent quoted")),
        ] {
            let answer = Request::post(&format!("{path}?echo=1"))
                .key(&key)
                .send(&stack);
            assert_eq!(answer.echoed("idempotency-key"), Some(key));
        }
    }
    let answer = Request::post("/named?echo=1").key("\"a b&c\"").send(&stack);
    let record = answer.echoed("idempotency-record");
    assert_eq!(
        record.as_deref(),
        Some("tenant=&namespace=a%20b%26c&key=a%20b%26c")
    );
}

#[test]
fn the_upstream_is_asked_for_an_answer_that_every_client_can_read() {
    let stack = STACK.get();
    for path in PATHS {
        let key = fresh_key("gzip");
        let plain = Request::post(&format!("{path}?echo=1")).key(&key);
        let asking = plain.clone().header("accept-encoding", "gzip, br");
        let first = asking.send(&stack);
        assert_eq!(first.echoed("accept-encoding").as_deref(), Some("identity"));
        assert_replay(&first, &plain.send(&stack));
        assert_replay(&first, &asking.send_h2(&stack));
        assert_eq!(executions(&stack, &key), 1);
        let kept = Request::post(&format!("{path}/keep?echo=1"))
            .key(&fresh_key("gzip"))
            .header("accept-encoding", "gzip, br")
            .send(&stack);
        assert_eq!(kept.echoed("accept-encoding").as_deref(), Some("gzip, br"));
    }
}

#[test]
fn ordinary_headers_reach_the_upstream() {
    let stack = STACK.get();
    for path in PATHS {
        let sent = [
            ("host", "shop.example"),
            ("authorization", "Bearer abc"),
            ("content-type", "application/json; charset=utf-8"),
            ("cookie", "a=1; b=2"),
            ("x-request-id", "7d5f3c6e-0000-4000-8000-000000000000"),
            (
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            ),
            ("user-agent", "e2e/1"),
            ("x-empty", ""),
        ];
        let mut request = Request::post(&format!("{path}?echo=1&a=%20b"))
            .key(&fresh_key("ordinary"))
            .header("x-twice", "1")
            .header("x-twice", "2")
            .body("{}");
        for (name, value) in sent {
            request = request.header(name, value);
        }
        let request = request.header("x-forwarded-for", "192.0.2.7");
        let answer = request.send(&stack);
        let forwarded = match Host::chosen() {
            // A complete Kong adds the client, whatever the filter does.
            Host::Kong | Host::KongLua => "192.0.2.7, 127.0.0.1",
            _ => "192.0.2.7",
        };
        assert_eq!(
            answer.echoed("x-forwarded-for").as_deref(),
            Some(forwarded),
            "{path}"
        );
        for (name, value) in sent {
            assert_eq!(
                answer.echoed(name).as_deref(),
                Some(value),
                "{path} {name}: {answer:?}"
            );
        }
        assert_eq!(answer.echoed("x-twice").as_deref(), Some("1, 2"), "{path}");
        assert_eq!(
            answer.echoed("content-length").as_deref(),
            Some("2"),
            "{path}"
        );
        let target = format!("{path}?echo=1&a=%20b");
        assert_eq!(answer.json()["uri"], target, "{path}");
        assert_eq!(answer.json()["method"], "POST");
    }
}

#[test]
fn header_values_that_are_no_text_survive() {
    let stack = STACK.get();
    for path in PATHS {
        for http in Http::BOTH {
            let key = fresh_key("octets");
            let request = Request::post(&format!("{path}?header=etag:%22%ff%80%c3%a4%22&body=x"))
                .key(&key)
                .header("x-octets", b"\xff\x80 \xc3")
                .header("if-match", b"\xfe");
            let connection = Connection::new(http, stack.address());
            let first = connection.send(&request);
            let etag = first.headers.iter().find(|(name, _)| name == "etag");
            let value = etag.map(|(_, value)| value.as_slice());
            assert_eq!(
                value,
                Some(b"\"\xff\x80\xc3\xa4\"" as &[u8]),
                "{path} {http:?}"
            );
            assert_replay(&first, &connection.send(&request));
            assert_eq!(executions(&stack, &key), 1);
        }
        // Every octet becomes one replacement character in the upstream's JSON.
        let answer = Request::post(&format!("{path}?echo=1"))
            .key(&fresh_key("octets"))
            .header("x-octets", b"a\xff\x80b")
            .send(&stack);
        let echoed = answer.echoed("x-octets");
        assert_eq!(echoed.as_deref(), Some("a\u{fffd}\u{fffd}b"), "{path}");
    }
}

#[test]
fn a_method_override_is_refused_where_it_leads_to_a_protected_operation() {
    let stack = STACK.get();
    for name in [
        "x-http-method-override",
        "x-http-method",
        "x-method-override",
    ] {
        for method in ["GET", "PUT"] {
            for base in PATHS {
                let path = format!("{base}/{}", fresh_key("override"));
                let request = Request::new(method, &path).key("k").header(name, "post");
                assert_problem(&request.send(&stack), 400, "unsupported-request");
                assert_problem(&request.send_h2(&stack), 400, "unsupported-request");
                assert_eq!(total(&stack, &path), 0);
                // To something that is not protected, it passes.
                let passes = Request::new(method, &path).header(name, "DELETE");
                assert_eq!(passes.send(&stack).status, 201);
                assert_eq!(total(&stack, &path), 1);
            }
        }
        let path = format!("/other/{}", fresh_key("override"));
        let passes = Request::get(&format!("{path}?echo=1")).header(name, "POST");
        assert_eq!(passes.send(&stack).echoed(name).as_deref(), Some("POST"));
    }
}

#[test]
fn upgrades_and_grpc_are_refused_where_a_rule_matches_and_nowhere_else() {
    let stack = STACK.get();
    let upgrade = |method: &str, path: &str| {
        Request::new(method, path)
            .key("k")
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
    };
    for base in PATHS {
        let path = format!("{base}/{}", fresh_key("upgrade"));
        let mut wire = upgrade("POST", &path).start(&stack);
        assert_problem(&wire.answer(), 400, "unsupported-request");
        let grpc = Request::post(&path).key("k").header("te", "trailers");
        for kind in [
            "application/grpc",
            "application/grpc+proto",
            "Application/gRPC;a=b",
        ] {
            let request = grpc.clone().header("content-type", kind).body("\0\0\0\0\0");
            let answer = request.send_h2(&stack);
            // Envoy turns every local answer to a gRPC request into a gRPC answer.
            if answer.status == 200 {
                assert!(answer.header("grpc-status").is_some(), "{kind}: {answer:?}");
                assert_ne!(answer.header("grpc-status").as_deref(), Some("0"), "{kind}");
            } else {
                assert_problem(&answer, 400, "unsupported-request");
            }
        }
        assert_eq!(total(&stack, &path), 0);
        // Not protected: this upstream executes and does not upgrade.
        let mut wire = upgrade("GET", &path).start(&stack);
        assert_eq!(wire.answer().status, 201);
        assert_eq!(total(&stack, &path), 1);
    }
    let path = format!("/other/{}", fresh_key("grpc"));
    let request = Request::post(&format!("{path}?echo=1"))
        .header("content-type", "application/grpc")
        .body("\0\0\0\0\0");
    let answer = request.send_h2(&stack);
    assert_eq!(
        answer.echoed("content-type").as_deref(),
        Some("application/grpc")
    );
    assert_eq!(total(&stack, &path), 1);
}

#[test]
fn a_cleartext_http2_upgrade_is_an_ordinary_request() {
    let stack = STACK.get();
    for path in PATHS {
        let key = fresh_key("h2c");
        let request = Request::post(&format!("{path}?echo=1"))
            .key(&key)
            .header("connection", "Upgrade, HTTP2-Settings")
            .header("upgrade", "h2c")
            .header("http2-settings", "AAMAAABkAAQAAP__");
        let first = request.start(&stack).answer();
        assert_eq!(first.status, 201, "{first:?}");
        // Nobody behind the filter may take the offer up.
        assert_eq!(first.echoed("upgrade"), None, "{first:?}");
        assert_replay(&first, &request.start(&stack).answer());
        assert_eq!(executions(&stack, &key), 1);
    }
}

#[test]
fn what_no_rule_matches_is_left_alone() {
    let stack = STACK.get();
    for (method, path) in [
        ("POST", "/other"),
        ("GET", "/charges"),
        ("DELETE", "/inline"),
        ("POST", "/chargesx"),
    ] {
        for http in Http::BOTH {
            let key = fresh_key("unprotected");
            let request = Request::new(method, &format!("{path}?echo=1&{key}"))
                .key(&key)
                .header("accept-encoding", "gzip")
                .header("x-octets", b"\xff");
            let connection = Connection::new(http, stack.address());
            let answers = [connection.send(&request), connection.send(&request)];
            for answer in &answers {
                assert!(answer.status == 201 && !replayed(answer), "{answer:?}");
                assert_eq!(
                    answer.echoed("idempotency-key").as_deref(),
                    Some(key.as_str())
                );
                assert_eq!(answer.echoed("accept-encoding").as_deref(), Some("gzip"));
                assert_eq!(answer.echoed("x-envoy-max-retries"), None);
                assert_eq!(answer.echoed("idempotency-record"), None);
                assert_eq!(answer.header("idempotency-expires"), None);
            }
            assert_eq!(executions(&stack, &key), 2);
        }
    }
    // The route's own retry policy holds for what no rule matches.
    let key = fresh_key("unprotected");
    let request = Request::new("PUT", "/charges/retried?status=500").key(&key);
    assert_eq!(request.send(&stack).status, 500);
    let runs = by_host!(
        "what we ship for Kong resends nothing, nor does the handler behind the library's layer",
        envoy: 3,
        kong: 1,
        layer: 1,
        lua: 1,
    );
    assert_eq!(executions(&stack, &key), runs);
}

#[test]
fn unprotected_requests_and_answers_stream() {
    only_on!(
        Envoy,
        "Kong reads a request whole before it passes it on; the others count no bytes"
    );
    let stack = STACK.get();
    // The answer: its first piece is here before the last one is sent.
    let target = "/other?bytes=40&chunk_bytes=10&chunk_delay_ms=300";
    let mut wire = Request::get(target).start(&stack);
    wire.read_until("the first piece", |received| {
        let end = received.windows(4).position(|window| window == b"\r\n\r\n");
        end.is_some_and(|end| received.len() >= end + 4 + 10)
    });
    assert!(
        !wire.received().ends_with(b"0\r\n\r\n"),
        "the answer was held back"
    );
    assert_eq!(wire.answer().body.len(), 40);
    // The request: the upstream notices its end that never comes.
    let before = stack.upstream.executions().cut;
    let request = Request::post("/other").body(vec![1; 1_000]);
    let mut wire = Wire::connect(stack.address());
    wire.send(request.head());
    wire.send([1; 500]);
    let forwarded = || {
        let sent = stack
            .gateway
            .envoy()
            .stats("cluster.upstream.upstream_rq_active");
        sent.values().sum::<u64>() > 0
    };
    eventually(
        "the request is on its way before its body is whole",
        forwarded,
    );
    wire.hang_up();
    eventually("the upstream has seen it cut", || {
        stack.upstream.executions().cut > before
    });
}
