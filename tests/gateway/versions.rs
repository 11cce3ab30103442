//! A gateway and a service of different releases. The relay between them stands for the older one: it speaks
//! version 1 of the wire, by the frozen code of that release, and passes on nothing that it cannot read.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use bytes::Bytes;
use idempotency_e2e::relay::{raw, Call, Raw, Relay};
use idempotency_e2e::{assert_problem, assert_replay, executions, fresh_key, Request};
use idempotency_protocol_v1 as v1;
use idempotency_stack::Stack;
use serde_json::json;

use crate::support::{
    await_execution, charge, in_background, persist, relayed, with_rule, EXECUTIONS,
};

/// What an older release saw.
#[derive(Default)]
struct Seen {
    /// Messages of a version that it does not know.
    refused: AtomicUsize,
    /// Messages that it understood, and whose answers it understood.
    understood: AtomicUsize,
}

/// Between both ends: to the gateway it is an older service, to the service an older gateway.
fn older(call: &Call, seen: &Seen) -> Raw {
    let body = Bytes::from(call.received.body.clone());
    let count = if call.received.target == v1::WAIT_PATH {
        v1::Wait::decode(body).map(|_| 1)
    } else {
        v1::Request::decode(body).map(|operations| {
            for operation in &operations {
                assert!(operation.is_ok(), "an older service reads {operation:?}");
            }
            operations.len()
        })
    };
    let Ok(count) = count else {
        seen.refused.fetch_add(1, Ordering::Relaxed);
        return Some(raw(400, "", b"protocol version 2 is not supported"));
    };
    let answer = call.forward()?;
    let head = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let body = Bytes::copy_from_slice(answer.get(head + 4..)?);
    let read = v1::Response::decode(body).expect("an older gateway reads the answers");
    assert_eq!(read.answers.len(), count);
    seen.understood.fetch_add(1, Ordering::Relaxed);
    Some(answer)
}

fn with_older(stack: (Stack, Relay)) -> (Stack, Arc<Seen>, Relay) {
    let (stack, relay) = stack;
    let seen = Arc::new(Seen::default());
    let of_relay = Arc::clone(&seen);
    relay.on_call(move |call| older(call, &of_relay));
    (stack, seen, relay)
}

#[test]
fn a_service_and_a_gateway_of_the_release_before_do_the_basics() {
    for execution in EXECUTIONS {
        let builder = with_rule(execution, json!({ "wait_ms": 20_000 }));
        let (stack, seen, _relay) = with_older(relayed(builder));

        // First, replay, another payload.
        let key = fresh_key("basics");
        let request = charge("/charges", &key);
        let first = persist(&stack, &request);
        assert_eq!(first.status, 201, "{first:?}");
        assert_replay(&first, &request.send(&stack));
        assert_problem(&request.clone().body("2").send(&stack), 422, "key-reused");
        assert_eq!(executions(&stack, &key), 1, "{execution}");

        // In flight: the duplicate waits, and gets the answer.
        let key = fresh_key("wait");
        let slow = charge("/charges?delay_ms=500", &key);
        let running = in_background(&stack, &slow);
        await_execution(&stack, &key);
        let waited = slow.send(&stack);
        let first = running.join().expect("no panic").expect("an answer");
        assert_replay(&first, &waited);
        assert_eq!(executions(&stack, &key), 1, "{execution}");

        // Failed: the retry executes.
        let key = fresh_key("failed");
        let refused = charge("/charges?status=429", &key);
        assert_eq!(refused.send(&stack).status, 429);
        assert_eq!(persist(&stack, &refused).status, 429);
        assert_eq!(executions(&stack, &key), 2, "{execution}");
        // An older service knows no causes: another payload is another payload.
        let corrected = refused.body("2").send(&stack);
        assert_problem(&corrected, 422, "key-reused");

        // Unknown.
        let key = fresh_key("unknown");
        let broken = charge("/charges?status=500", &key);
        assert_eq!(broken.send(&stack).status, 500);
        assert_problem(&persist(&stack, &broken), 409, "outcome-unknown");
        assert_eq!(executions(&stack, &key), 1, "{execution}");

        assert!(seen.understood.load(Ordering::Relaxed) > 8, "{execution}");
        // Each worker finds out once in a minute, not with every call.
        let refused = seen.refused.load(Ordering::Relaxed);
        assert!(
            (1..=8).contains(&refused),
            "{refused} messages were refused"
        );
    }
}

/// Replaced one after the other, services of both releases stand behind one name.
#[test]
fn services_of_both_releases_behind_one_name_execute_once() {
    for execution in EXECUTIONS {
        let (stack, relay) = relayed(with_rule(execution, json!({})));
        let seen = Arc::new(Seen::default());
        let (of_relay, calls) = (Arc::clone(&seen), AtomicUsize::new(0));
        relay.on_call(
            move |call| match calls.fetch_add(1, Ordering::Relaxed) % 2 {
                0 => call.forward(),
                _ => older(call, &of_relay),
            },
        );
        for _ in 0..20 {
            let key = fresh_key("rollout");
            let request: Request = charge("/charges", &key);
            let first = persist(&stack, &request);
            assert_eq!(first.status, 201, "{first:?}");
            assert_replay(&first, &request.send(&stack));
            assert_eq!(executions(&stack, &key), 1, "{execution}");
        }
        assert!(seen.understood.load(Ordering::Relaxed) > 0, "{execution}");
    }
}
