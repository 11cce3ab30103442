//! Inline execution: the response streams by while it is copied, and its end waits for the record.

use std::sync::Arc;
use std::time::{Duration, Instant};

use idempotency_e2e::relay::Gate;
use idempotency_e2e::{
    assert_problem, assert_replay, executions, fresh_key, record, record_state, recorded, replayed,
    Broken, Connection, Http, Request, Shared, Wire,
};
use idempotency_stack::{until, Stack};
use serde_json::json;

use crate::support::{
    assert_alive, await_counter, charge, counter, in_background, persist, relayed, rule, with_rule,
    with_timeout,
};

static STACK: Shared = Shared::new(|| Stack::builder().rules(json!([rule("inline", json!({}))])));

/// A timeout of callouts that nobody reaches while a test holds one, in milliseconds.
const PATIENT: u64 = 30_000;

/// So many body bytes (with their framing) have arrived.
fn has_body(count: usize) -> impl FnMut(&[u8]) -> bool {
    move |received| {
        let end = received.windows(4).position(|w| w == b"\r\n\r\n");
        end.is_some_and(|end| received.len() >= end + 4 + count)
    }
}

#[test]
fn the_first_bytes_come_while_the_upstream_still_makes_the_others() {
    let stack = STACK.get();
    let key = fresh_key("stream");
    let target = "/charges?bytes=60&chunk_bytes=10&chunk_delay_ms=400";
    let started = Instant::now();
    let mut wire = charge(target, &key).start(&stack);
    wire.read_until("the first piece", has_body(10));
    let first_byte = started.elapsed();
    assert_eq!(record_state(&stack, &key), "executing", "it is not over");
    assert!(!wire.received().ends_with(b"0\r\n\r\n"));
    let first = wire.answer();
    let whole = started.elapsed();
    assert_eq!(
        record_state(&stack, &key),
        "completed",
        "at once, without waiting"
    );
    assert_eq!((first.status, first.body.len()), (201, 60));
    assert!(first_byte * 2 < whole, "{first_byte:?} of {whole:?}");
    assert_replay(&first, &charge(target, &key).send(&stack));
    assert_eq!(executions(&stack, &key), 1);
}

#[test]
fn whoever_has_the_whole_answer_finds_the_record_completed() {
    let stack = STACK.get();
    for http in Http::BOTH {
        let connection = Connection::new(http, stack.address());
        for target in [
            "/charges",
            "/charges?content_length=0",
            "/charges?no_content=1",
            "/charges?bytes=1",
            "/charges?bytes=65536",
            "/charges?bytes=65537",
            "/charges?bytes=300000",
            "/charges?bytes=1000000",
            "/charges?bytes=1000&chunked=1",
            "/charges?bytes=300000&chunked=1",
            "/charges?bytes=3000&chunk_bytes=1",
            "/charges?status=404&bytes=70000",
        ] {
            let key = fresh_key("whole");
            let request = charge(target, &key);
            let first = connection.send(&request);
            let state = record_state(&stack, &key);
            assert_eq!(state, "completed", "{http:?} {target}");
            assert_replay(&first, &connection.send(&request));
            assert_eq!(executions(&stack, &key), 1, "{http:?} {target}");
        }
    }
}

#[test]
fn the_last_bytes_wait_until_the_record_is_stored() {
    only_on!(
        Envoy | Layer,
        "Kong cannot hold a response: the record follows it"
    );
    // (target, whether anything is seen before)
    for (target, streams) in [
        ("/charges?bytes=1000", false),
        ("/charges?bytes=65536", false),
        ("/charges?no_content=1", false),
        ("/charges?bytes=200000", true),
        ("/charges?bytes=1000&chunked=1", true),
        ("/charges?bytes=200000&chunked=1", true),
    ] {
        let (stack, relay) = relayed(with_timeout("inline", PATIENT, json!({})));
        let gate = Arc::new(Gate::default());
        let held = gate.clone();
        relay.on_call(move |call| {
            if call.is("complete") {
                held.stop_here();
            }
            call.forward()
        });
        let key = fresh_key("held");
        let mut wire = charge(target, &key).start(&stack);
        gate.await_arrival();
        assert_eq!(record_state(&stack, &key), "executing", "{target}");
        if streams {
            // At least the head; how much of the body depends on how it came in.
            wire.read_until("the beginning", has_body(0));
        } else {
            let empty = wire.received().is_empty();
            assert!(empty, "{target}: {:?}", wire.received());
        }
        let address = stack.address();
        gate.open();
        let first = wire.answer();
        assert_eq!(record_state(&stack, &key), "completed", "{target}");
        let replay = Connection::http1(address).send(&charge(target, &key));
        assert_replay(&first, &replay);
        let told = first.header("idempotency-expires").is_some();
        assert_eq!(told, !streams, "{target}: {first:?}");
        assert_eq!(executions(&stack, &key), 1);
    }
}

#[test]
fn an_answer_of_known_length_is_not_whole_before_its_record_is_stored() {
    only_on!(
        Envoy | Layer,
        "Kong cannot hold a response: the record follows it"
    );
    let (stack, relay) = relayed(with_timeout("inline", PATIENT, json!({})));
    let gate = Arc::new(Gate::default());
    let held = gate.clone();
    relay.on_call(move |call| {
        if call.is("complete") {
            held.stop_here();
        }
        call.forward()
    });
    let key = fresh_key("length");
    let target = "/charges?bytes=500000";
    let client = in_background(&stack, &charge(target, &key));
    gate.await_arrival();
    // A client is done when it has `content-length` bytes, whatever the gateway still holds.
    let done = until(Duration::from_millis(300), || client.is_finished());
    assert!(!done, "all bytes came before the record was stored");
    gate.open();
    let first = client.join().expect("a client").expect("the answer");
    assert_eq!(first.body.len(), 500_000);
    assert_replay(&first, &charge(target, &key).send(&stack));
    assert_eq!(executions(&stack, &key), 1);
}

#[test]
fn a_client_that_leaves_at_its_last_byte_finds_its_answer_again() {
    let stack = STACK.get();
    for target in [
        "/charges",
        "/charges?bytes=200000",
        "/charges?bytes=5000&chunked=1",
    ] {
        for _ in 0..10 {
            let key = fresh_key("leaves");
            let request = charge(target, &key);
            let mut wire = request.start(&stack);
            let first = wire.answer();
            wire.reset();
            assert_replay(&first, &request.send(&stack));
            assert_eq!(executions(&stack, &key), 1);
        }
    }
}

#[test]
fn an_upstream_that_cuts_its_answer_is_seen_and_its_outcome_is_unknown() {
    let stack = STACK.get();
    for target in [
        "/charges?bytes=200000&reset=mid",
        "/charges?bytes=200000&chunked=1&reset=mid",
        "/charges?bytes=3000&chunked=1&reset=mid",
        "/charges?bytes=3000&reset=mid",
        "/charges?bytes=3000&reset=headers",
        "/charges?bytes=3000&chunked=1&reset=headers",
    ] {
        let key = fresh_key("cut");
        let request = charge(target, &key);
        let seen = request.try_send(&stack);
        let broken = match &seen {
            Err(Broken { .. }) => true,
            // Held whole: Envoy says itself that the upstream broke off.
            Ok(answer) => answer.status >= 500,
        };
        assert!(broken, "{target}: {seen:?}");
        let retry = persist(&stack, &request);
        assert_problem(&retry, 409, "outcome-unknown");
        assert_eq!(record_state(&stack, &key), "unknown", "{target}");
        assert_eq!(executions(&stack, &key), 1, "{target}");
    }
    assert_alive(&stack);
}

#[test]
fn a_client_that_leaves_in_the_middle_leaves_an_unknown_outcome() {
    only_on!(
        Envoy,
        "on Kong, and in the library's layer, an execution outlives its client"
    );
    let stack = STACK.get();
    let key = fresh_key("middle");
    let target = "/charges?bytes=100&chunk_bytes=10&chunk_delay_ms=300";
    let mut wire = charge(target, &key).start(&stack);
    wire.read_until("the first piece", has_body(10));
    wire.hang_up();
    let retry = persist(&stack, &charge(target, &key));
    assert_problem(&retry, 409, "outcome-unknown");
    assert_eq!(executions(&stack, &key), 1);
}

#[test]
fn several_requests_on_one_connection_each_wait_for_their_own_record() {
    let stack = STACK.get();
    let mut wire = Wire::connect(stack.address());
    let requests: Vec<_> = (0..20)
        .map(|n| {
            let target = [
                "/charges",
                "/charges?bytes=90000",
                "/charges?bytes=900&chunked=1",
            ][n % 3];
            let key = fresh_key("pipe");
            (charge(target, &key), key)
        })
        .collect();
    // Pipelined: all are sent before the first is answered.
    for (request, _) in &requests {
        wire.send(request.bytes());
    }
    for (request, key) in &requests {
        let first = wire.answer();
        recorded(&stack, key);
        assert_eq!(record_state(&stack, key), "completed");
        assert_replay(&first, &request.send(&stack));
        assert_eq!(executions(&stack, key), 1);
    }
}

#[test]
fn many_streams_of_one_connection_are_copied_side_by_side() {
    let stack = STACK.get();
    let connection = Connection::http2(stack.address());
    std::thread::scope(|scope| {
        for n in 0..24 {
            let (connection, stack) = (&connection, &stack);
            scope.spawn(move || {
                let bytes = 1000 + n * 7919;
                let key = fresh_key("side");
                let target = format!("/charges?bytes={bytes}&chunk_bytes=1000&chunk_delay_ms=2");
                let request = charge(&target, &key);
                let first = connection.send(&request);
                assert_eq!(record_state(stack, &key), "completed");
                assert_eq!(first.body.len(), bytes);
                assert_replay(&first, &connection.send(&request));
                assert_eq!(executions(stack, &key), 1);
            });
        }
    });
}

#[test]
fn what_happened_is_counted() {
    let stack = with_rule("inline", json!({})).start();
    let request = |target: &str| charge(target, &fresh_key("count"));
    let first = request("/charges?bytes=90000");
    let _ = first.send(&stack);
    let _ = first.send(&stack);
    let _ = request("/charges?status=429").send(&stack);
    let _ = request("/charges?status=500").send(&stack);
    let _ = request("/charges?bytes=90000&reset=mid").try_send(&stack);
    for (name, count) in [
        ("executed", 4),
        ("completed", 1),
        ("replayed", 1),
        ("failed", 1),
        ("unknown", 2),
    ] {
        await_counter(&stack, name, count);
    }
    assert_eq!(counter(&stack, "callout_failed"), 0);
    assert_eq!(stack.upstream.executions().total, 4);
}

#[test]
fn a_response_over_the_cap_streams_whole_and_leaves_a_tombstone() {
    let stack = with_rule("inline", json!({ "max_response_bytes": 1000 })).start();
    for target in ["/charges?bytes=1001", "/charges?bytes=400000&chunked=1"] {
        let key = fresh_key("cap");
        let request = charge(target, &key);
        let first = request.send(&stack);
        assert_eq!(first.status, 201);
        assert!(first.body.len() > 1000);
        assert!(!replayed(&first));
        assert_problem(&request.send(&stack), 409, "not-replayable");
        let record = record(&stack, &key).expect("a record");
        assert_eq!(record["tombstone"], true, "{record}");
        assert_eq!(executions(&stack, &key), 1);
    }
}

#[test]
fn a_get_on_the_same_connection_is_untouched() {
    let stack = STACK.get();
    let connection = Connection::http1(stack.address());
    for _ in 0..3 {
        let key = fresh_key("get");
        let first = connection.send(&charge("/charges", &key));
        assert_eq!(
            connection.send(&Request::get("/charges?body=hi")).text(),
            "hi"
        );
        assert_replay(&first, &connection.send(&charge("/charges", &key)));
    }
}
