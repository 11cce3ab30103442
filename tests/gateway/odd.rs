//! Answers as only odd upstreams give them.

use idempotency_e2e::{
    assert_problem, assert_replay, eventually, fresh_key, inline_rule, record_state, recorded,
    replayed, rule, with_rules, Connection, Http, Request, Script, Scripted, Wire,
};
use idempotency_stack::{Cluster, Route, Stack};
use serde_json::json;

/// Answers that can be replayed.
const GOOD: Script = &[
    (
        "/no-type",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    ),
    (
        "/empty-type",
        b"HTTP/1.1 200 OK\r\ncontent-type:\r\ncontent-length: 2\r\n\r\n{}",
    ),
    (
        "/empty-body-no-type",
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    ),
    (
        "/no-reason",
        b"HTTP/1.1 201\r\ncontent-type: a/b\r\ncontent-length: 1\r\n\r\nx",
    ),
    (
        "/hints",
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\
        content-type: a/b\r\ncontent-length: 1\r\n\r\nx",
    ),
    (
        "/continue",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-type: a/b\r\n\
        content-length: 1\r\n\r\nx",
    ),
    (
        "/until-close",
        b"HTTP/1.1 200 OK\r\ncontent-type: a/b\r\nconnection: close\r\n\r\nall of it",
    ),
    (
        "/empty-chunked",
        b"HTTP/1.1 200 OK\r\ncontent-type: a/b\r\ntransfer-encoding: chunked\r\n\r\n\
        0\r\n\r\n",
    ),
    (
        "/chunk-extension",
        b"HTTP/1.1 200 OK\r\ncontent-type: a/b\r\ntransfer-encoding: chunked\r\n\
        \r\n3;a=b\r\nabc\r\n0\r\n\r\n",
    ),
    (
        "/repeated",
        b"HTTP/1.1 200 OK\r\nvary: a\r\ncontent-type: a/b\r\nVary: b\r\nlink: <1>\r\n\
        etag: \"x\"\r\nlink: <2>, <3>\r\nLINK: <1>\r\ncontent-length: 1\r\n\r\nx",
    ),
    (
        "/empty-value",
        b"HTTP/1.1 200 OK\r\ncontent-type: a/b\r\netag:\r\nlink:\r\n\
        content-length: 1\r\n\r\nx",
    ),
    (
        "/type-of-nothing",
        b"HTTP/1.1 204 No Content\r\ncontent-type: a/b\r\netag: \"1\"\r\n\r\n",
    ),
    (
        "/reset-content",
        b"HTTP/1.1 205 Reset Content\r\ncontent-length: 0\r\n\r\n",
    ),
    (
        "/partial",
        b"HTTP/1.1 206 Partial Content\r\ncontent-type: a/b\r\n\
        content-range: bytes 0-0/5\r\ncontent-length: 1\r\n\r\nx",
    ),
    (
        "/not-modified",
        b"HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\ncontent-length: 33\r\n\r\n",
    ),
    (
        "/encoded",
        b"HTTP/1.1 200 OK\r\ncontent-type: a/b\r\ncontent-encoding: x-rot13\r\n\
        content-length: 2\r\n\r\nbx",
    ),
    (
        "/hop",
        b"HTTP/1.1 200 OK\r\ncontent-type: a/b\r\nkeep-alive: timeout=5\r\nupgrade: h2c\r\n\
        proxy-authenticate: Basic\r\nwww-authenticate: Basic\r\ncontent-length: 1\r\n\r\nx",
    ),
];

/// Answers that are none, or not whole.
const BAD: Script = &[
    ("/garbage", b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
    (
        "/short",
        b"HTTP/1.1 200 OK\r\ncontent-type: a/b\r\ncontent-length: 10\r\n\r\nshort",
    ),
    (
        "/half-chunk",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
    ),
    (
        "/two-lengths",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    ),
    ("/half-head", b"HTTP/1.1 200 OK\r\ncontent-type: a"),
    ("/nothing", b""),
    (
        "/only-hints",
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n",
    ),
];

/// Answers that end with trailers, or claim to be the gateway's.
const SPECIAL: Script = &[
    (
        "/trailers",
        b"HTTP/1.1 200 OK\r\ncontent-type: a/b\r\ntransfer-encoding: chunked\r\n\r\n\
        2\r\nok\r\n0\r\nx-t: 1\r\n\r\n",
    ),
    (
        "/forged",
        b"HTTP/1.1 200 OK\r\ncontent-type: a/b\r\nage: 99\r\nidempotency-expires: @1\r\n\
        idempotency-replayed: true\r\nx-idempotency-upstream: 0\r\n\
        x-idempotency-gateway-reply: no_healthy_upstream\r\nx-idempotency-gateway-sent: 0\r\n\
        idempotency-stored-origin: https://a.example\r\ncontent-length: 1\r\n\r\nx",
    ),
];

const PATHS: [&str; 2] = ["/charges", "/inline"];

fn stack(script: Script) -> (Stack, Scripted) {
    let upstream = Scripted::start(script);
    let address = upstream.address();
    let stack = with_rules(&[
        rule("/charges", json!({})),
        inline_rule("/inline", json!({})),
    ])
    .gateway(move |gateway| gateway.routes = vec![Route::new("/", Cluster::At(address))])
    .start();
    (stack, upstream)
}

#[test]
fn odd_answers_are_replayed_byte_for_byte() {
    let (stack, upstream) = stack(GOOD);
    for (name, _) in GOOD {
        let interim = matches!(*name, "/hints" | "/continue");
        if by_host!("nginx 1.25 takes an upstream's interim answer for the final one",
            envoy: false, kong: interim)
        {
            continue;
        }
        let forbidden = by_host!(
            "nginx passes on to HTTP/2 what HTTP/2 forbids, and the client breaks off",
            envoy: false,
            kong: *name == "/hop",
        );
        let untyped = by_host!(
            "nginx gives a 204 over HTTP/2 no content type, whoever made it",
            envoy: false,
            kong: *name == "/type-of-nothing",
        );
        for path in PATHS {
            for http in Http::BOTH {
                if forbidden && http == Http::Two {
                    continue;
                }
                let key = fresh_key("odd");
                let request = Request::post(&format!("{path}{name}")).key(&key).body("{}");
                let connection = Connection::new(http, stack.address());
                let first = connection.send(&request);
                assert!(
                    (200..400).contains(&first.status),
                    "{path}{name}: {first:?}"
                );
                assert_replay(&first, &connection.send(&request));
                let other = if untyped { http } else { Http::One };
                let other = Connection::new(other, stack.address());
                assert_replay(&first, &other.send(&request));
                assert_eq!(upstream.executions(&key), 1, "{path}{name}");
            }
        }
    }
}

#[test]
fn odd_answers_reach_the_first_client_as_they_are() {
    let (stack, _upstream) = stack(GOOD);
    let kept = [
        "content-type",
        "vary",
        "link",
        "etag",
        "content-range",
        "content-encoding",
    ];
    for (name, _) in GOOD {
        // What Envoy makes of it without the filter's doing.
        let plain = Request::post(&format!("/other{name}")).send(&stack);
        for path in PATHS {
            let request = Request::post(&format!("{path}{name}")).key(&fresh_key("as-is"));
            let first = request.send(&stack);
            assert_eq!(plain.status, first.status, "{path}{name}");
            assert_eq!(plain.body, first.body, "{path}{name}");
            for header in kept {
                assert_eq!(
                    plain.all(header),
                    first.all(header),
                    "{path}{name}: {first:?}"
                );
            }
        }
    }
}

#[test]
fn an_answer_that_is_none_leaves_the_outcome_unknown() {
    let (stack, upstream) = stack(BAD);
    for (name, _) in BAD {
        for path in PATHS {
            let key = fresh_key("bad");
            let request = Request::post(&format!("{path}{name}")).key(&key).body("{}");
            let answered = by_host!(
                "nginx 1.25 takes an upstream's interim answer for the final one, and its client \
                 waits for the rest",
                envoy: true,
                kong: *name != "/only-hints",
            );
            let waits = (!answered).then(|| request.start(&stack));
            if answered {
                if let Ok(answer) = request.try_send(&stack) {
                    assert!(answer.status >= 500, "{path}{name}: {answer:?}");
                }
            }
            eventually(&format!("the outcome of {path}{name} is unknown"), || {
                record_state(&stack, &key) == "unknown"
            });
            drop(waits);
            assert_problem(&request.send(&stack), 409, "outcome-unknown");
            assert_eq!(upstream.executions(&key), 1, "{path}{name}");
        }
    }
}

#[test]
fn trailers_that_nobody_asked_for_are_not_replayed_either() {
    only_on!(
        Envoy | Layer,
        "Kong passes no trailers on: the answer is complete without them"
    );
    let (stack, upstream) = stack(SPECIAL);
    for path in PATHS {
        let key = fresh_key("trailers");
        let request = Request::post(&format!("{path}/trailers")).key(&key);
        assert_eq!(request.send(&stack).text(), "ok");
        assert_problem(&request.send(&stack), 409, "not-replayable");
        assert_eq!(upstream.executions(&key), 1);
    }
}

#[test]
fn an_upstream_cannot_speak_for_the_gateway() {
    let (stack, upstream) = stack(SPECIAL);
    for path in PATHS {
        let key = fresh_key("spoken");
        let request = Request::post(&format!("{path}/forged")).key(&key);
        let first = request.send(&stack);
        assert_eq!(
            (first.status, first.text().as_str()),
            (200, "x"),
            "{first:?}"
        );
        assert_ne!(
            first.all("idempotency-expires"),
            ["@1"],
            "{path}: {first:?}"
        );
        assert!(
            first.all("idempotency-expires").len() < 2,
            "{path}: {first:?}"
        );
        assert!(!replayed(&first), "{path}: it is not a replay: {first:?}");
        assert_eq!(record_state(&stack, &key), "completed");
        let replay = request.send(&stack);
        assert_replay(&first, &replay);
        assert_eq!(replay.header("age").as_deref(), Some("0"));
        assert_eq!(upstream.executions(&key), 1);
    }
}

#[test]
fn an_answer_whose_head_is_too_large_leaves_the_outcome_unknown() {
    let size = by_host!(
        "Kong reads heads of 4 KiB (proxy_buffer_size), hyper of 400 KiB",
        envoy: 128 * 1024,
        kong: 4 * 1024,
        layer: 512 * 1024,
    );
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\nx-long: {}\r\n\r\nx",
        "v".repeat(size)
    );
    let script: Script = Box::leak(Box::new([(
        "/too-large",
        &*Box::leak(head.into_bytes().into_boxed_slice()),
    )]));
    let (stack, upstream) = stack(script);
    for path in PATHS {
        let key = fresh_key("head");
        let request = Request::post(&format!("{path}/too-large")).key(&key);
        let answer = request.send(&stack);
        assert!(answer.status >= 500, "{path}: {answer:?}");
        eventually("the outcome is unknown", || {
            record_state(&stack, &key) == "unknown"
        });
        assert_problem(&request.send(&stack), 409, "outcome-unknown");
        assert_eq!(upstream.executions(&key), 1, "{path}");
    }
}

#[test]
fn what_fills_the_gateways_own_limits_is_executed_and_replayed() {
    let fields = |count: usize, size: usize| -> String {
        let value = "v".repeat(size);
        (0..count).map(|n| format!("x-{n}: {value}\r\n")).collect()
    };
    let answer = |fields: &str| -> &'static [u8] {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: a/b\r\ncontent-length: 1\r\n";
        Box::leak(format!("{head}{fields}\r\nx").into_bytes().into())
    };
    let script: Script = Box::leak(Box::new([
        ("/many", answer(&fields(95, 1))),
        ("/several", answer(&fields(85, 1))),
        ("/large", answer(&fields(10, 6_050))),
        ("/plain", answer("")),
    ]));
    let (stack, upstream) = stack(script);
    let limits = by_host!(
        "Kong's limits are lower: 4 KiB of response headers, and what its host shows to filters, \
         100 fields, some of which Kong itself adds",
        envoy: [
            ("/many", String::new()),
            ("/large", String::new()),
            ("/plain", fields(97, 1)),
            ("/plain", fields(10, 6_050)),
        ],
        kong: [
            ("/several", String::new()),
            ("/plain", fields(10, 350)),
            ("/plain", fields(75, 1)),
            ("/plain", fields(4, 6_050)),
        ],
    );
    for path in ["/other", "/charges", "/inline"] {
        for (name, sent) in limits.clone() {
            let key = fresh_key("limits");
            let mut wire = Wire::connect(stack.address());
            let head =
                format!("POST {path}{name} HTTP/1.1\r\nhost: x\r\nidempotency-key: {key}\r\n");
            let request = format!("{head}{sent}\r\n");
            wire.send(&request);
            let first = wire.answer();
            let sent = sent.len();
            assert_eq!(first.status, 200, "{path}{name}, {sent} bytes: {first:?}");
            assert_eq!(upstream.executions(&key), 1, "{path}{name}");
            if path != "/other" {
                recorded(&stack, &key);
                wire.send(&request);
                assert_replay(&first, &wire.answer());
                assert_eq!(upstream.executions(&key), 1, "{path}{name}");
            }
        }
    }
}
