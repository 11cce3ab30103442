//! The service cannot take the outcome of an execution: *deliver* and *withhold*.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use idempotency_e2e::relay::{answers, raw};
use idempotency_e2e::{
    assert_problem, assert_replay, eventually, executions, fresh_key, record_state, replayed,
};
use idempotency_protocol::Answer;
use serde_json::json;

use crate::support::{
    assert_alive, await_counter, await_execution, charge, counter, in_background, persist, relayed,
    with_rule, EXECUTIONS,
};

/// A charge that takes long enough for the service to be killed meanwhile.
const SLOW: &str = "/charges?delay_ms=1500";

#[test]
fn deliver_the_client_has_its_answer_and_the_record_follows() {
    for execution in EXECUTIONS {
        let mut stack = with_rule(execution, json!({ "on_complete_failure": "deliver" })).start();
        let key = fresh_key("deliver");
        let request = charge(SLOW, &key);
        let client = in_background(&stack, &request);
        await_execution(&stack, &key);
        stack.service.kill();
        let first = client.join().expect("a client").expect("the answer");
        assert_eq!(first.status, 201, "{first:?}");
        assert_eq!(
            first.header("idempotency-expires"),
            None,
            "nothing is stored yet"
        );
        let unanswered = by_host!(
            "on Kong every outcome goes through the outbox, which tries again without counting",
            envoy: 1,
            kong: 0,
        );
        await_counter(&stack, "complete_unanswered", unanswered);
        assert_problem(&request.send(&stack), 503, "store-unavailable");

        stack.service.restart().expect("the service starts again");
        let replay = persist(&stack, &request);
        assert_replay(&first, &replay);
        assert_eq!(executions(&stack, &key), 1, "{execution}");
        assert_eq!(record_state(&stack, &key), "completed");
        await_counter(&stack, "completed", 1);
    }
}

/// The one double failure after which a success that a client saw cannot be replayed. It is not executed again.
#[test]
fn deliver_and_the_gateway_dies_too_the_key_is_unknown_and_never_free() {
    for execution in EXECUTIONS {
        let policy = json!({
            "on_complete_failure": "deliver",
            "lease_ms": 4_000,
            "lease_margin_ms": 300,
            "execution_timeout_ms": 3_000,
        });
        let mut stack = with_rule(execution, policy).start();
        let key = fresh_key("double");
        let request = charge(SLOW, &key);
        let client = in_background(&stack, &request);
        await_execution(&stack, &key);
        stack.service.kill();
        let first = client.join().expect("a client").expect("the answer");
        assert_eq!(first.status, 201, "{first:?}");
        stack.gateway.kill();
        stack.service.restart().expect("the service starts again");
        stack.gateway.restart().expect("the gateway starts again");
        assert_problem(&persist(&stack, &request), 409, "outcome-unknown");
        assert_eq!(record_state(&stack, &key), "unknown");
        assert_problem(&request.send(&stack), 409, "outcome-unknown");
        assert_eq!(executions(&stack, &key), 1, "{execution}");
    }
}

#[test]
fn withhold_the_client_gets_no_success_and_the_retry_gets_the_stored_one() {
    only_on!(
        Envoy | Layer,
        "\"withhold\" is refused on Kong, which cannot hold a response"
    );
    for execution in EXECUTIONS {
        let mut stack = with_rule(execution, json!({ "on_complete_failure": "withhold" })).start();
        let key = fresh_key("withhold");
        let request = charge(SLOW, &key);
        let client = in_background(&stack, &request);
        await_execution(&stack, &key);
        stack.service.kill();
        let withheld = client.join().expect("a client").expect("an answer");
        assert_problem(&withheld, 503, "outcome-unrecorded");

        stack.service.restart().expect("the service starts again");
        let replay = persist(&stack, &request);
        assert_eq!(replay.status, 201, "{replay:?}");
        assert!(replayed(&replay), "{replay:?}");
        assert_eq!(
            replay.json()["object"],
            "charge",
            "the first execution's answer"
        );
        let again = request.send(&stack);
        assert_eq!(replay.body, again.body);
        assert_eq!(executions(&stack, &key), 1, "{execution}");
    }
}

#[test]
fn withhold_a_response_that_streams_is_cut_before_its_end() {
    only_on!(
        Envoy | Layer,
        "\"withhold\" is refused on Kong, which cannot hold a response"
    );
    let target = "/charges?bytes=200000&chunked=1";
    let (stack, relay) = relayed(with_rule(
        "inline",
        json!({ "on_complete_failure": "withhold" }),
    ));
    let down = Arc::new(AtomicU32::new(2));
    let left = down.clone();
    relay.on_call(move |call| {
        let fails = call.is("complete")
            && left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                .is_ok();
        if fails {
            None
        } else {
            call.forward()
        }
    });
    for target in [target, "/charges?bytes=200000"] {
        down.store(2, Ordering::SeqCst);
        let key = fresh_key("cut");
        let request = charge(target, &key);
        let broken = request
            .try_send(&stack)
            .expect_err("a response that is cut");
        let partial = broken.partial.expect("its head");
        assert_eq!(partial.status, 201);
        assert!(partial.body.len() <= 200_000, "{}", partial.body.len());
        let replay = persist(&stack, &request);
        assert_eq!(
            (replay.status, replay.body.len()),
            (201, 200_000),
            "{replay:?}"
        );
        assert!(replayed(&replay));
        assert!(
            replay.body.starts_with(&partial.body),
            "what the client saw of it is not contradicted"
        );
        assert_eq!(executions(&stack, &key), 1, "{target}");
    }
    assert_alive(&stack);
}

#[test]
fn nonsense_in_answer_to_a_complete_is_asked_again() {
    for execution in EXECUTIONS {
        let (stack, relay) = relayed(with_rule(execution, json!({})));
        for (what, nonsense) in [
            ("garbage", Some(raw(200, "", b"garbage"))),
            ("an error", Some(raw(503, "", b"busy"))),
            ("a cut", None),
            ("no answer to it", Some(answers(vec![Answer::TimedOut]))),
        ] {
            let left = AtomicU32::new(2);
            relay.on_call(move |call| {
                let fails = call.is("complete")
                    && left
                        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                        .is_ok();
                if fails {
                    nonsense.clone()
                } else {
                    call.forward()
                }
            });
            let key = fresh_key("nonsense");
            let first = charge("/charges", &key).send(&stack);
            assert_eq!(first.status, 201, "{what}: {first:?}");
            let replay = persist(&stack, &charge("/charges", &key));
            assert_replay(&first, &replay);
            assert_eq!(executions(&stack, &key), 1, "{what}, {execution}");
        }
        assert_alive(&stack);
    }
}

#[test]
fn an_answer_to_complete_that_was_lost_on_the_way_changes_nothing() {
    for execution in EXECUTIONS {
        let (stack, relay) = relayed(with_rule(execution, json!({})));
        relay.on_call(|call| {
            let answer = call.forward();
            answer.filter(|_| !call.is("complete"))
        });
        let key = fresh_key("lost");
        let request = charge("/charges", &key);
        let first = request.send(&stack);
        assert_eq!(first.status, 201, "{first:?}");
        // It was stored all the same, and storing it again is the same answer.
        assert_replay(&first, &request.send(&stack));
        relay.pass();
        await_counter(&stack, "completed", 1);
        assert_replay(&first, &request.send(&stack));
        assert_eq!(counter(&stack, "complete_refused"), 0);
        assert_eq!(executions(&stack, &key), 1, "{execution}");
    }
}

#[test]
fn an_outcome_that_is_not_this_executions_to_store_is_counted_loudly() {
    let policies = by_host!(
        "\"withhold\" is refused on Kong, which cannot hold a response",
        envoy: &[("deliver", 201), ("withhold", 503)][..],
        kong: &[("deliver", 201)][..],
    );
    for &(policy, status) in policies {
        for execution in EXECUTIONS {
            let builder = with_rule(execution, json!({ "on_complete_failure": policy }));
            let (stack, relay) = relayed(builder);
            relay.on_call(|call| {
                if call.is("complete") {
                    return Some(answers(vec![Answer::Lost]));
                }
                call.forward()
            });
            let key = fresh_key("lost");
            let answer = charge("/charges", &key).send(&stack);
            assert_eq!(answer.status, status, "{answer:?}");
            if status == 503 {
                assert_problem(&answer, 503, "outcome-unrecorded");
            }
            await_counter(&stack, "complete_refused", 1);
            assert_eq!(executions(&stack, &key), 1);
        }
    }
}

#[test]
fn the_root_delivers_what_many_clients_were_already_told() {
    let mut stack = with_rule("detached", json!({})).start();
    let keys: Vec<_> = (0..40).map(|_| fresh_key("many")).collect();
    let clients: Vec<_> = keys
        .iter()
        .map(|key| in_background(&stack, &charge("/charges?delay_ms=2000", key)))
        .collect();
    eventually("all of them execute", || {
        stack.upstream.executions().total == 40
    });
    stack.service.kill();
    let firsts: Vec<_> = clients
        .into_iter()
        .map(|client| client.join().expect("a client").expect("the answer"))
        .collect();
    assert!(firsts.iter().all(|first| first.status == 201));
    stack.service.restart().expect("the service starts again");
    for (key, first) in keys.iter().zip(&firsts) {
        let replay = persist(&stack, &charge("/charges?delay_ms=2000", key));
        assert_replay(first, &replay);
        assert_eq!(executions(&stack, key), 1);
    }
    assert_eq!(counter(&stack, "completed"), 40);
}
