//! Clients that leave, and come back.

use std::time::{Duration, Instant};

use idempotency_e2e::{
    assert_problem, assert_replay, eventually, executions, fresh_key, inline_rule, log,
    record_state, replayed, rule, side_by_side, with_rules, Answer, Connection, Http, Request,
    Shared, Wire,
};
use idempotency_stack::Stack;
use serde_json::json;

use crate::support::problem;

static STACK: Shared = Shared::new(|| {
    with_rules(&[
        rule("/charges/wait", json!({ "wait_ms": 20_000 })),
        rule("/charges", json!({})),
        inline_rule("/inline/again", json!({ "on_unknown": "retry" })),
        inline_rule("/inline", json!({})),
    ])
});

/// How a client leaves.
type Leave = fn(Wire);

const LEAVES: [Leave; 2] = [Wire::hang_up, Wire::reset];

/// Sends a request and waits until the upstream executes it.
fn executing(stack: &Stack, request: &Request, key: &str) -> Wire {
    let wire = request.start(stack);
    eventually("the request executes", || executions(stack, key) == 1);
    wire
}

/// Asserts that this is the answer of the first execution of its key, replayed.
fn assert_first(stack: &Stack, key: &str, answer: &Answer) {
    let log = log(stack, key);
    assert_eq!(log.len(), 1, "{log:?}");
    assert!(replayed(answer) && answer.status == 201, "{answer:?}");
    assert_eq!(answer.json()["seq"], log[0].seq, "{answer:?}");
}

#[test]
fn detached_the_retry_of_a_client_that_left_gets_the_first_answer() {
    not_on!(Native, "the native module executes inline only");
    let stack = STACK.get();
    for leave in LEAVES {
        let key = fresh_key("left");
        let request = Request::post("/charges?delay_ms=1000").key(&key).body("{}");
        leave(executing(&stack, &request, &key));
        let early = request.send(&stack);
        assert_problem(&early, 409, "in-flight");
        eventually("the outcome is recorded", || {
            record_state(&stack, &key) == "completed"
        });
        assert_first(&stack, &key, &request.send(&stack));
        assert_first(&stack, &key, &request.send_h2(&stack));
    }
}

#[test]
fn detached_a_retry_may_wait_for_the_first_answer() {
    not_on!(Native, "the native module executes inline only");
    let stack = STACK.get();
    for leave in LEAVES {
        let key = fresh_key("left");
        let request = Request::post("/charges/wait?delay_ms=1000")
            .key(&key)
            .body("{}");
        leave(executing(&stack, &request, &key));
        // Others come and leave too.
        for _ in 0..3 {
            leave(request.start(&stack));
        }
        assert_first(&stack, &key, &request.send(&stack));
    }
}

#[test]
fn detached_a_cancelled_http2_stream_changes_nothing() {
    not_on!(Native, "the native module executes inline only");
    let stack = STACK.get();
    let key = fresh_key("cancelled");
    let request = Request::post("/charges?delay_ms=1000").key(&key).body("{}");
    let connection = Connection::http2(stack.address());
    connection.start_and_cancel(&request, || executions(&stack, &key) == 1);
    let left = by_host!(
        "nginx drops the answer to a stream that was cancelled",
        envoy: "completed",
        kong: "unknown",
    );
    eventually("the outcome is recorded", || {
        record_state(&stack, &key) == left
    });
    // The connection is still good.
    let again = connection.send(&request);
    match left {
        "completed" => assert_first(&stack, &key, &again),
        _ => assert_problem(&again, 409, "outcome-unknown"),
    }
    assert_eq!(executions(&stack, &key), 1);
}

#[test]
fn detached_a_large_answer_is_there_for_the_retry() {
    not_on!(Native, "the native module executes inline only");
    let stack = STACK.get();
    let key = fresh_key("large");
    let request = Request::post("/charges?delay_ms=500&bytes=1048576")
        .key(&key)
        .body("{}");
    executing(&stack, &request, &key).reset();
    eventually("it is settled", || {
        record_state(&stack, &key) != "executing"
    });
    let whole = by_host!(
        "nginx stops reading an answer that it cannot write: what has not come by then is lost",
        envoy: true,
        kong: record_state(&stack, &key) == "completed",
    );
    if !whole {
        assert_problem(&request.send(&stack), 409, "outcome-unknown");
        assert_eq!(executions(&stack, &key), 1);
        return;
    }
    assert_eq!(record_state(&stack, &key), "completed");
    let replays = [request.send(&stack), request.send(&stack)];
    assert!(replays.iter().all(replayed));
    assert_eq!(replays[0].body.len(), 1 << 20);
    assert_eq!(replays[0].body, replays[1].body);
    assert_eq!(executions(&stack, &key), 1);
}

#[test]
fn detached_a_client_that_leaves_while_it_is_answered_can_come_back() {
    not_on!(Native, "the native module executes inline only");
    let stack = STACK.get();
    for leave in LEAVES {
        let key = fresh_key("answered");
        let request = Request::post("/charges?bytes=1048576").key(&key).body("{}");
        let mut wire = request.start(&stack);
        wire.read_until("some of the body", |received| received.len() > 10_000);
        leave(wire);
        by_host!(
            "nginx stops reading an answer that it cannot write: what has not come by then is lost; \
             the library's layer streams, and records at the end",
            envoy: {
                // It had seen bytes of the answer, so the record is there.
                assert_eq!(record_state(&stack, &key), "completed");
                assert!(replayed(&request.send(&stack)));
            },
            kong: {
                eventually("it is settled", || record_state(&stack, &key) != "executing");
                let again = request.send(&stack);
                assert!(replayed(&again) || problem(&again) == "outcome-unknown", "{again:?}");
            },
            layer: {
                eventually("it is recorded", || record_state(&stack, &key) == "completed");
                assert!(replayed(&request.send(&stack)));
            },
            lua: {
                eventually("it is recorded", || record_state(&stack, &key) == "completed");
                assert!(replayed(&request.send(&stack)));
            },
        );
        assert_eq!(executions(&stack, &key), 1);
    }
}

#[test]
fn inline_the_outcome_is_unknown_when_the_client_leaves() {
    only_on!(
        Envoy,
        "on Kong an inline execution outlives its client, as a detached one does, and so does every one of the \
         library's layer"
    );
    let stack = STACK.get();
    for leave in LEAVES {
        let key = fresh_key("left");
        let request = Request::post("/inline?delay_ms=1000").key(&key).body("{}");
        leave(executing(&stack, &request, &key));
        eventually("the gateway has noticed", || {
            record_state(&stack, &key) == "unknown"
        });
        for http in Http::BOTH {
            let retry = Connection::new(http, stack.address()).send(&request);
            assert_problem(&retry, 409, "outcome-unknown");
        }
        eventually("the upstream is done", || log(&stack, &key)[0].finished);
        assert_problem(&request.send(&stack), 409, "outcome-unknown");
        assert_eq!(executions(&stack, &key), 1);
    }
}

#[test]
fn inline_a_cancelled_http2_stream_leaves_the_outcome_unknown() {
    only_on!(
        Envoy,
        "on Kong an inline execution outlives its client, as a detached one does, and so does every one of the \
         library's layer"
    );
    let stack = STACK.get();
    let key = fresh_key("cancelled");
    let request = Request::post("/inline?delay_ms=1000").key(&key).body("{}");
    let connection = Connection::http2(stack.address());
    connection.start_and_cancel(&request, || executions(&stack, &key) == 1);
    eventually("the gateway has noticed", || {
        record_state(&stack, &key) == "unknown"
    });
    assert_problem(&connection.send(&request), 409, "outcome-unknown");
    assert_eq!(executions(&stack, &key), 1);
}

#[test]
fn inline_the_outcome_is_unknown_when_the_client_leaves_in_the_middle_of_the_answer() {
    only_on!(
        Envoy,
        "on Kong an inline execution outlives its client, as a detached one does, and so does every one of the \
         library's layer"
    );
    let stack = STACK.get();
    for leave in LEAVES {
        for query in [
            "bytes=400000&chunk_delay_ms=200",
            "bytes=400&chunk_delay_ms=200",
        ] {
            let key = fresh_key("middle");
            let request = Request::post(&format!("/inline?{query}"))
                .key(&key)
                .body("{}");
            let mut wire = request.start(&stack);
            wire.read_until("the first piece", |received| {
                received.windows(4).any(|w| w == b"\r\n\r\n") && received.len() > 400
            });
            leave(wire);
            eventually("the gateway has noticed", || {
                record_state(&stack, &key) == "unknown"
            });
            assert_problem(&request.send(&stack), 409, "outcome-unknown");
            assert_eq!(executions(&stack, &key), 1);
        }
    }
}

#[test]
fn inline_a_rule_may_allow_the_retry_to_execute_again() {
    only_on!(
        Envoy,
        "on Kong an inline execution outlives its client, as a detached one does, and so does every one of the \
         library's layer"
    );
    let stack = STACK.get();
    let key = fresh_key("again");
    let request = Request::post("/inline/again?delay_ms=500")
        .key(&key)
        .body("{}");
    executing(&stack, &request, &key).reset();
    eventually("the gateway has noticed", || {
        record_state(&stack, &key) == "unknown"
    });
    let second = request.send(&stack);
    assert!(second.status == 201 && !replayed(&second), "{second:?}");
    assert_replay(&second, &request.send(&stack));
    assert_eq!(executions(&stack, &key), 2);
}

#[test]
fn whoever_has_the_last_byte_can_be_replayed_at_once() {
    let stack = STACK.get();
    for path in ["/charges", "/inline"] {
        for query in [
            "",
            "no_content=1",
            "status=200&content_length=0",
            "bytes=65536",
            "bytes=65537",
            "bytes=300000",
            "bytes=10&chunked=1",
            "bytes=300000&chunked=1",
            "bytes=1048576",
        ] {
            for leave in LEAVES {
                for _ in 0..5 {
                    let key = fresh_key("last");
                    let request = Request::post(&format!("{path}?{query}"))
                        .key(&key)
                        .body("{}");
                    let mut wire = request.start(&stack);
                    let first = wire.answer();
                    leave(wire);
                    assert_eq!(record_state(&stack, &key), "completed", "{path}?{query}");
                    assert_replay(&first, &request.send(&stack));
                    assert_eq!(executions(&stack, &key), 1, "{path}?{query}");
                }
            }
        }
    }
}

#[test]
fn a_request_that_never_arrives_whole_leaves_its_key_free() {
    let stack = STACK.get();
    for path in ["/charges", "/inline"] {
        for leave in LEAVES {
            let key = fresh_key("half");
            let whole = Request::post(path).key(&key).body(vec![b'x'; 10_000]);
            let chunked = whole.clone().chunked(1_000);
            let trailers = chunked.clone().trailer("x-t", "1");
            for request in [&whole, &chunked, &trailers] {
                let tail = request.tail();
                for sent in [0, 1, tail.len() / 2, tail.len() - 1] {
                    let mut wire = Wire::connect(stack.address());
                    wire.send(request.head());
                    wire.send(&tail[..sent]);
                    leave(wire);
                }
            }
            // A later request on the same worker: the gateway has seen all of them leave.
            let logged = || stack.gateway.access_log().matches(&key).count() == 12;
            eventually("the gateway has seen them leave", logged);
            assert_eq!(record_state(&stack, &key), "absent");
            assert_eq!(executions(&stack, &key), 0);
            let first = whole.send(&stack);
            assert!(first.status == 201 && !replayed(&first), "{first:?}");
            assert_eq!(executions(&stack, &key), 1);
        }
    }
}

#[test]
fn a_client_that_leaves_before_the_grant_leaves_its_key_free() {
    only_on!(
        Envoy | KongHost | Layer,
        "nginx does not tell how many callouts are out"
    );
    for path in ["/charges", "/inline"] {
        // The service is paused: the acquire is out and not answered.
        let mut stack = with_rules(&[
            rule("/charges", json!({})),
            inline_rule("/inline", json!({})),
        ])
        .start();
        let warm = fresh_key("warm");
        assert_eq!(Request::post(path).key(&warm).send(&stack).status, 201);
        let keys: Vec<_> = LEAVES.iter().map(|_| fresh_key("acquire")).collect();
        stack.service.process().pause();
        for (key, leave) in keys.iter().zip(LEAVES) {
            let wire = Request::post(path).key(key).body("{}").start(&stack);
            let out = || stack.gateway.callouts_out() > 0;
            eventually("an acquire is out", out);
            leave(wire);
            eventually("the gateway has seen it leave", || {
                stack.gateway.access_log().contains(key)
            });
            by_host!(
                "on the layer a client that leaves ends its call, and the next one's has to be told from it",
                envoy: (),
                kong: (),
                layer: eventually("its acquire is given up", || stack.gateway.callouts_out() == 0),
            );
        }
        stack.service.process().resume();
        for key in &keys {
            let request = Request::post(path).key(key).body("{}");
            let mut first = request.send(&stack);
            eventually("the key is free again", || {
                if first.status == 409 {
                    first = request.send(&stack);
                }
                first.status != 409
            });
            assert!(first.status == 201 && !replayed(&first), "{first:?}");
            assert_replay(&first, &request.send(&stack));
            assert_eq!(executions(&stack, key), 1);
        }
    }
}

#[test]
fn a_client_that_leaves_while_its_outcome_is_being_recorded_can_be_replayed() {
    only_on!(
        Envoy | KongHost | Layer,
        "nginx does not tell how many callouts are out"
    );
    for path in ["/charges", "/inline"] {
        let mut stack = with_rules(&[
            rule("/charges", json!({})),
            inline_rule("/inline", json!({})),
        ])
        .start();
        let key = fresh_key("recording");
        let request = Request::post(&format!("{path}?delay_ms=300"))
            .key(&key)
            .body("{}");
        let wire = executing(&stack, &request, &key);
        stack.service.process().pause();
        eventually("the upstream has answered", || {
            log(&stack, &key)[0].finished
        });
        let out = || stack.gateway.callouts_out() > 0;
        eventually("the settlement is out", out);
        wire.reset();
        eventually("the gateway has seen it leave", || {
            stack.gateway.access_log().contains(&key)
        });
        stack.service.process().resume();
        eventually("the outcome is recorded", || {
            record_state(&stack, &key) == "completed"
        });
        assert_first(&stack, &key, &request.send(&stack));
    }
}

#[test]
fn a_client_that_leaves_while_it_waits_changes_nothing() {
    let stack = STACK.get();
    let key = fresh_key("waiting");
    let request = Request::post("/charges/wait?delay_ms=1000")
        .key(&key)
        .body("{}");
    let mut first = executing(&stack, &request, &key);
    for leave in LEAVES {
        let waiting = |stack: &Stack| stack.gateway.metric("idempotency_waited");
        let before = waiting(&stack);
        let wire = request.start(&stack);
        eventually("it waits", || waiting(&stack) > before);
        leave(wire);
    }
    let first = first.answer();
    assert_eq!(first.status, 201);
    assert_replay(&first, &request.send(&stack));
    assert_eq!(executions(&stack, &key), 1);
}

#[test]
fn whenever_a_client_leaves_its_request_is_executed_at_most_once() {
    let stack = STACK.get();
    let mut cases = Vec::new();
    for query in [
        "delay_ms=30",
        "bytes=60000&chunk_bytes=10000&chunk_delay_ms=8",
    ] {
        for leave in LEAVES {
            cases.extend((0..40).map(|step| (query, leave, Duration::from_micros(1500 * step))));
        }
    }
    for path in ["/charges", "/inline"] {
        side_by_side(cases.clone(), |(query, leave, moment)| {
            let key = fresh_key("moment");
            let request = Request::post(&format!("{path}?{query}"))
                .key(&key)
                .body("{}");
            let begin = Instant::now();
            let wire = request.start(&stack);
            eventually("the moment has come", || begin.elapsed() >= moment);
            leave(wire);
            let retry = || Some(request.send(&stack)).filter(|a| !in_flight(a));
            let mut answer = None;
            eventually("it is decided", || {
                answer = retry();
                answer.is_some()
            });
            let answer = answer.unwrap_or_default();
            let again = request.send(&stack);
            assert_eq!((again.status, &again.body), (answer.status, &answer.body));
            let executed = executions(&stack, &key);
            if answer.status == 409 {
                let may = by_host!(
                    "nginx stops reading an answer that it cannot write, however it is executed; the native module \
                     executes inline only",
                    envoy: path == "/inline",
                    kong: true,
                    native: true,
                );
                assert!(may, "{path}?{query} {moment:?}: {answer:?}");
                assert_problem(&answer, 409, "outcome-unknown");
                // Unknown is the truth: Envoy may have cut the upstream off before it had read
                // the request.
                assert!(executed <= 1, "{path}?{query} {moment:?}: {executed}");
            } else {
                assert_eq!(answer.status, 201, "{query} {moment:?}: {answer:?}");
                assert_eq!(executed, 1, "{path}?{query} {moment:?}");
            }
        });
    }
}

fn in_flight(answer: &Answer) -> bool {
    answer.status == 409 && answer.text().contains("in-flight")
}
