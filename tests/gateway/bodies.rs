//! Request bodies: every framing, every size, and nothing upstream before a body is whole.

use idempotency_e2e::{
    assert_problem, assert_replay, eventually, executions, fresh_key, inline_rule, log,
    record_state, recorded, rule, with_rules, Connection, Http, Request, Shared, Wire,
};
use idempotency_stack::Stack;
use serde_json::json;
use sha2::{Digest, Sha256};

static STACK: Shared = Shared::new(|| {
    let small = json!({ "max_body_bytes": 1000 });
    let huge = json!({ "max_body_bytes": 64 << 20 });
    with_rules(&[
        rule("/charges", json!({})),
        rule("/small", small.clone()),
        rule("/huge", huge.clone()),
        inline_rule("/inline/small", small),
        inline_rule("/inline/huge", huge),
        inline_rule("/inline", json!({})),
    ])
});

/// Octets that are no text and repeat with no power of two.
fn octets(size: usize) -> Vec<u8> {
    (0..size).map(|index| (index % 251) as u8 ^ 0xa5).collect()
}

/// Asserts that the upstream has executed once and got exactly this body.
fn assert_received(stack: &Stack, key: &str, body: &[u8]) {
    let log = log(stack, key);
    assert_eq!(log.len(), 1, "{log:?}");
    assert_eq!(log[0].body_sha256, hex::encode(Sha256::digest(body)));
}

#[test]
fn bodies_reach_the_upstream_byte_for_byte() {
    let stack = STACK.get();
    for path in ["/charges", "/inline"] {
        for (size, piece) in [
            (1, 1),
            (2, 1),
            (255, 7),
            (16_385, 16_384),
            (65_536, 1_000),
            (300_000, 65_536),
            (1 << 20, 16_000),
            (1 << 20, 1 << 20),
        ] {
            let body = octets(size);
            let whole = Request::post(path).body(body.clone());
            let pieces = whole.clone().chunked(piece);
            for (request, retry) in [(&whole, &pieces), (&pieces, &whole)] {
                let protocols = by_host!(
                            "over HTTP/2, Kong needs the length of a body",
                            envoy: &Http::BOTH[..],
                            kong: &[Http::One][..],
                    lua: &[Http::One][..],
                );
                for &http in protocols {
                    let key = fresh_key("body");
                    let connection = Connection::new(http, stack.address());
                    let first = connection.send(&request.clone().key(&key));
                    assert_eq!(
                        first.status, 201,
                        "{path} {size}/{piece} {http:?}: {first:?}"
                    );
                    assert_replay(&first, &connection.send(&retry.clone().key(&key)));
                    assert_received(&stack, &key, &body);
                }
            }
        }
    }
}

#[test]
fn a_body_of_many_tiny_chunks_is_one_body() {
    let stack = STACK.get();
    for path in ["/charges", "/inline"] {
        let protocols = by_host!(
            "over HTTP/2, Kong needs the length of a body",
            envoy: &Http::BOTH[..],
            kong: &[Http::One][..],
            lua: &[Http::One][..],
        );
        for &http in protocols {
            let key = fresh_key("tiny");
            let body = octets(5_000);
            let request = Request::post(path).key(&key).body(body.clone()).chunked(1);
            let connection = Connection::new(http, stack.address());
            let first = connection.send(&request);
            assert_replay(&first, &connection.send(&request));
            assert_received(&stack, &key, &body);
        }
    }
}

#[test]
fn a_body_that_http2_does_not_announce_is_refused_and_runs_nothing() {
    only_on!(
        KongHost | Nginx | Kong,
        "Envoy tells whether there is a body"
    );
    let stack = STACK.get();
    for path in ["/charges", "/inline"] {
        let key = fresh_key("unannounced");
        let request = Request::post(path).key(&key).body(octets(50));
        let refused = request.clone().chunked(10).send_h2(&stack);
        assert_problem(&refused, 411, "unsupported-request");
        assert_eq!(executions(&stack, &key), 0);
        eventually("the key is free again", || {
            record_state(&stack, &key) == "failed"
        });
    }
}

#[test]
fn every_form_of_an_empty_body_is_the_same_operation() {
    let stack = STACK.get();
    for path in ["/charges", "/inline"] {
        let key = fresh_key("empty");
        let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\nidempotency-key: {key}\r\n");
        let raw = |rest: &str| {
            let mut wire = Wire::connect(stack.address());
            wire.send(format!("{head}{rest}"));
            wire.answer()
        };
        let request = Request::post(path).key(&key);
        let first = raw("\r\n");
        assert_eq!(first.status, 201, "{first:?}");
        recorded(&stack, &key);
        assert_replay(&first, &raw("content-length: 0\r\n\r\n"));
        assert_replay(&first, &request.send(&stack));
        assert_replay(&first, &request.send_h2(&stack));
        // Over HTTP/2 it has no header that announces a body, and is an empty one like others.
        assert_replay(&first, &request.clone().chunked(1).send_h2(&stack));
        let chunked = raw("transfer-encoding: chunked\r\n\r\n0\r\n\r\n");
        by_host!(
            "an empty chunked body gets 411 on Kong, whose host would never announce it",
            envoy: assert_replay(&first, &chunked),
            kong: assert_problem(&chunked, 411, "unsupported-request"),
        );
        assert_received(&stack, &key, b"");
        let chunked_first = by_host!(
            "an empty chunked body gets 411 on Kong, whose host would never announce it",
            envoy: true,
            kong: false,
        );
        if !chunked_first {
            continue;
        }
        let key = fresh_key("empty");
        let request = Request::post(path).key(&key);
        let first = request.clone().chunked(1).send(&stack);
        assert_replay(&first, &request.send(&stack));
        assert_received(&stack, &key, b"");
    }
}

#[test]
fn a_body_over_the_cap_is_413_and_the_key_stays_free() {
    let stack = STACK.get();
    for path in ["/small", "/inline/small"] {
        let protocols = by_host!(
            "over HTTP/2, Kong needs the length of a body",
            envoy: &Http::BOTH[..],
            kong: &[Http::One][..],
            lua: &[Http::One][..],
        );
        for &http in protocols {
            let key = fresh_key("cap");
            let too_large = Request::post(path).key(&key).body(octets(1001));
            for request in [
                too_large.clone(),
                too_large.clone().chunked(1000),
                too_large.clone().chunked(2000),
                too_large.clone().chunked(1),
                too_large.clone().trailer("x-t", "1"),
            ] {
                let answer = Connection::new(http, stack.address()).send(&request);
                assert_problem(&answer, 413, "body-too-large");
                assert!(answer.text().contains("1000"), "{answer:?}");
            }
            assert_eq!(executions(&stack, &key), 0);
            assert_eq!(record_state(&stack, &key), "absent");
            let body = octets(1000);
            for (piece, of) in [(1000, "whole"), (1, "chunked")] {
                let key = format!("{key}-{of}");
                let request = Request::post(path).key(&key).body(body.clone());
                let request = if piece == 1 {
                    request.chunked(1)
                } else {
                    request
                };
                let connection = Connection::new(http, stack.address());
                let first = connection.send(&request);
                assert_eq!(first.status, 201, "{first:?}");
                assert_replay(&first, &connection.send(&request));
                assert_received(&stack, &key, &body);
            }
            let key_is_free = Request::post(path).key(&key).body(octets(3)).send(&stack);
            assert_eq!(key_is_free.status, 201);
        }
    }
}

#[test]
fn a_body_that_is_announced_as_too_large_is_refused_unread() {
    only_on!(Envoy | Layer, "Kong reads the body before any filter runs");
    let stack = STACK.get();
    for path in ["/small", "/inline/small"] {
        let key = fresh_key("announced");
        let lengths = by_host!(
            "hyper itself refuses a length that comes near the largest number",
            envoy: &["1001", "100000000", "4294967296", "18446744073709551614"][..],
            kong: &[][..],
            layer: &["1001", "100000000", "4294967296"][..],
        );
        for length in lengths {
            let mut wire = Wire::connect(stack.address());
            wire.send(format!(
                "POST {path} HTTP/1.1\r\nhost: localhost\r\nidempotency-key: {key}\r\n\
                 content-length: {length}\r\n\r\n"
            ));
            assert_problem(&wire.answer(), 413, "body-too-large");
        }
        assert_eq!(executions(&stack, &key), 0);
        assert_eq!(record_state(&stack, &key), "absent");
    }
}

#[test]
fn an_endless_body_is_cut_at_the_cap() {
    only_on!(
        Envoy | Layer,
        "Kong reads the body before any filter runs; client_max_body_size ends it"
    );
    let stack = STACK.get();
    for path in ["/small", "/inline/small", "/charges", "/inline"] {
        let key = fresh_key("endless");
        let request = Request::post(path).key(&key).body("").chunked(1);
        let mut wire = Wire::connect(stack.address());
        wire.send(request.head());
        let piece = [b"10000\r\n".to_vec(), octets(65_536), b"\r\n".to_vec()].concat();
        // The gateway answers and closes while we still send; 64 MiB is far beyond any cap here.
        let refused = (0..1024).any(|_| wire.try_send(&piece).is_err());
        assert!(refused, "the gateway goes on reading");
        assert_eq!(executions(&stack, &key), 0);
        assert_eq!(record_state(&stack, &key), "absent");
    }
}

#[test]
fn a_body_over_the_gateways_own_buffer_is_413_and_the_key_stays_free() {
    only_on!(
        Envoy | KongHost | Nginx | Kong,
        "the library's layer has no buffer of its own: the rule's cap is the only one"
    );
    let stack = STACK.get();
    for path in ["/huge", "/inline/huge"] {
        let key = fresh_key("buffer");
        // nginx keeps bodies in memory up to 1.25 times its buffer.
        let request = Request::post(path).key(&key).body(octets(11 << 20));
        for request in [request.clone(), request.clone().chunked(100_000)] {
            // The client may still be sending when the connection is closed.
            match request.try_send(&stack) {
                Ok(answer) => assert_eq!(answer.status, 413, "{answer:?}"),
                Err(broken) => assert!(broken.partial.is_none(), "{broken:?}"),
            }
        }
        assert_eq!(executions(&stack, &key), 0);
        assert_eq!(record_state(&stack, &key), "absent");
        // What fits in, passes.
        let body = octets(7 << 20);
        for http in Http::BOTH {
            let key = fresh_key("buffer");
            let request = Request::post(path).key(&key).body(body.clone());
            let connection = Connection::new(http, stack.address());
            let first = connection.send(&request);
            assert_eq!(first.status, 201, "{path} {http:?}: {first:?}");
            assert_replay(&first, &connection.send(&request));
            assert_received(&stack, &key, &body);
        }
    }
}

#[test]
fn request_trailers_end_a_body_too() {
    let stack = STACK.get();
    for path in ["/charges", "/inline"] {
        let protocols = by_host!(
            "over HTTP/2, Kong needs the length of a body",
            envoy: &Http::BOTH[..],
            kong: &[Http::One][..],
            lua: &[Http::One][..],
        );
        for &http in protocols {
            let key = fresh_key("trailers");
            let body = octets(3_000);
            let plain = Request::post(path).key(&key).body(body.clone());
            let request = plain.clone().trailer("x-checksum", "abc");
            let connection = Connection::new(http, stack.address());
            let first = connection.send(&request);
            assert_eq!(first.status, 201, "{first:?}");
            assert_replay(&first, &connection.send(&request));
            assert_replay(&first, &connection.send(&plain));
            assert_received(&stack, &key, &body);
            let other = connection.send(&request.clone().body("x"));
            assert_problem(&other, 422, "key-reused");
            let trailers_alone = by_host!(
                "an empty chunked body gets 411 on Kong, whose host would never announce it",
                envoy: true,
                kong: false,
            );
            if !trailers_alone {
                continue;
            }
            let key = fresh_key("trailers");
            let request = Request::post(path).key(&key).trailer("x-checksum", "abc");
            let first = connection.send(&request);
            assert_eq!(first.status, 201, "{first:?}");
            assert_replay(&first, &connection.send(&request));
            assert_received(&stack, &key, b"");
        }
    }
}

#[test]
fn a_client_that_expects_100_continue_gets_it_and_one_execution() {
    let stack = STACK.get();
    for path in ["/charges?echo=1", "/inline?echo=1"] {
        let key = fresh_key("expect");
        let body = octets(10_000);
        let request = Request::post(path)
            .key(&key)
            .header("expect", "100-continue")
            .body(body.clone());
        let send = |request: &Request| {
            let mut wire = Wire::connect(stack.address());
            wire.send(request.head());
            let go = b"HTTP/1.1 100 Continue\r\n\r\n";
            let goes = wire.read_until("100 Continue", |received| received.starts_with(go));
            assert!(goes, "the connection was closed");
            wire.send(request.tail());
            wire.answer()
        };
        let first = send(&request);
        assert_eq!(first.status, 201, "{first:?}");
        assert_eq!(first.echoed("expect"), None);
        recorded(&stack, &key);
        assert_replay(&first, &send(&request));
        assert_received(&stack, &key, &body);
        let plain = Request::post(path).key(&key).body(body);
        assert_replay(&first, &plain.send(&stack));
        assert_problem(&send(&request.body("other")), 422, "key-reused");
        assert_eq!(executions(&stack, &key), 1);
    }
}

#[test]
fn nothing_happens_before_the_body_is_whole() {
    let stack = STACK.get();
    for path in ["/charges", "/inline"] {
        for framing in ["content-length", "chunked"] {
            let key = fresh_key("slow");
            let body = octets(50_000);
            let mut request = Request::post(path).key(&key).body(body.clone());
            if framing == "chunked" {
                request = request.chunked(10_000);
            }
            let tail = request.tail();
            let mut wire = Wire::connect(stack.address());
            wire.send(request.head());
            for part in tail[..tail.len() - 1].chunks(20_000) {
                wire.send(part);
                // A round trip through the same gateway: it has had the time to read the part.
                assert_eq!(Request::get("/healthz").send(&stack).status, 200);
                assert_eq!(record_state(&stack, &key), "absent", "{path} {framing}");
                assert_eq!(executions(&stack, &key), 0);
            }
            // Somebody else may use the key meanwhile; the slow request meets its record.
            wire.send(&tail[tail.len() - 1..]);
            let first = wire.answer();
            assert_eq!(first.status, 201, "{first:?}");
            recorded(&stack, &key);
            assert_replay(&first, &request.send(&stack));
            assert_received(&stack, &key, &body);
        }
    }
}

#[test]
fn a_key_that_is_taken_while_a_body_arrives_is_met_at_its_end() {
    let stack = STACK.get();
    for path in ["/charges", "/inline"] {
        let key = fresh_key("overtaken");
        let request = Request::post(path).key(&key).body("0123456789");
        let mut same = Wire::connect(stack.address());
        let mut other = Wire::connect(stack.address());
        for wire in [&mut same, &mut other] {
            wire.send(request.head());
            wire.send(b"01234");
        }
        let first = request.send(&stack);
        assert_eq!(first.status, 201);
        eventually("the record is there", || {
            record_state(&stack, &key) == "completed"
        });
        same.send(b"56789");
        other.send(b"5678X");
        assert_replay(&first, &same.answer());
        assert_problem(&other.answer(), 422, "key-reused");
        assert_received(&stack, &key, b"0123456789");
    }
}
