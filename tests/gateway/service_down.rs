//! The idempotency service does not answer, or answers nonsense, when a key is to be locked.
//! `settle_down` has the same at the other end of an execution.

use std::sync::Arc;

use idempotency_e2e::relay::{answers, raw, Gate};
use idempotency_e2e::{
    assert_problem, assert_replay, eventually, executions, fresh_key, record_state, Request,
};
use idempotency_protocol::{Answer, Grant, Outcome, Stored, StoredResponse};
use idempotency_stack::{filter_config, Stack, Tokens};
use serde_json::json;

use crate::support::{
    assert_alive, await_counter, charge, counter, in_background, persist, relayed, rule, with_rule,
    with_timeout, EXECUTIONS,
};

#[test]
fn closed_nothing_runs_and_the_retry_runs_once_when_the_service_is_back() {
    for execution in EXECUTIONS {
        let mut stack = with_rule(execution, json!({})).start();
        let key = fresh_key("closed");
        let request = charge("/charges", &key);
        stack.service.kill();
        for _ in 0..3 {
            assert_problem(&request.send(&stack), 503, "store-unavailable");
        }
        assert_eq!(stack.upstream.executions().total, 0, "{execution}");
        let unprotected = Request::post("/other").key(&key).body("x").send(&stack);
        assert_eq!(unprotected.status, 201, "other routes do not need it");

        stack.service.restart().expect("the service starts again");
        let first = persist(&stack, &request);
        assert_eq!(first.status, 201, "{first:?}");
        assert_replay(&first, &request.send(&stack));
        // One of them is the unprotected one.
        assert_eq!(executions(&stack, &key), 2, "{execution}");
        assert_eq!(counter(&stack, "executed"), 1);
        assert!(counter(&stack, "problem_store_unavailable") >= 3);
    }
}

/// A wrong token is no outage: somebody is there, and says no. It must neither be silent nor switch
/// protection off.
#[test]
fn a_wrong_token_never_passes_and_is_told_once() {
    for execution in EXECUTIONS {
        let rule = rule(execution, json!({ "on_service_failure": "pass" }));
        let mut config = filter_config(&Tokens::default(), json!([rule]));
        config["service"]["token"] = json!("not-the-token-of-this-service");
        let stack = Stack::builder().filter(config).start();
        for _ in 0..4 {
            let answer = charge("/charges", &fresh_key("token")).send(&stack);
            assert_problem(&answer, 503, "store-unavailable");
        }
        assert_eq!(stack.upstream.executions().total, 0, "{execution}");
        assert_eq!(counter(&stack, "passed_unprotected"), 0, "{execution}");
        let counted = by_host!(
            "the library does not know what a call to its store is, and counts none",
            envoy: true,
            kong: true,
            layer: false,
        );
        if counted {
            eventually("the reason is counted", || {
                counter(&stack, "callout_failed_status") >= 4
            });
        }
        let why = by_host!(
            "the library's token has no field in the configuration",
            envoy: "status 401: the service does not accept service.token",
            kong: "status 401: the service does not accept service.token",
            layer: "the service does not accept token or certificate: status 401",
        );
        eventually("the log says why", || stack.gateway.log().contains(why));
        let log = stack.gateway.log();
        // What is told of each refused request is another thing.
        let calls = log.lines().filter(|line| !line.contains("\"refused\""));
        let told = calls.filter(|line| line.contains(why)).count();
        // One line in ten seconds, and a gateway may have two workers.
        assert!(told <= 4, "{told} lines");
    }
}

#[test]
fn open_it_runs_marked_as_unprotected_and_the_key_is_as_new_afterwards() {
    for execution in EXECUTIONS {
        let mut stack = with_rule(execution, json!({ "on_service_failure": "pass" })).start();
        let key = fresh_key("open");
        let request = charge("/charges?echo=1", &key);
        stack.service.kill();
        let unprotected = request.send(&stack);
        assert_eq!(unprotected.status, 201, "{unprotected:?}");
        let mark = unprotected.echoed("idempotency-unprotected");
        assert_eq!(mark.as_deref(), Some("store-unavailable"));
        for name in [
            "idempotency-fence",
            "idempotency-attempt",
            "idempotency-record",
        ] {
            assert_eq!(unprotected.echoed(name), None, "{name}");
        }
        assert_eq!(executions(&stack, &key), 1, "{execution}");
        assert_eq!(counter(&stack, "passed_unprotected"), 1);

        // The acquire never arrived: what the root goes on telling concerns no record.
        stack.service.restart().expect("the service starts again");
        let first = persist(&stack, &request);
        assert_eq!(first.status, 201, "{first:?}");
        assert_eq!(first.echoed("idempotency-unprotected"), None);
        assert!(first.echoed("idempotency-fence").is_some());
        assert_replay(&first, &request.send(&stack));
        assert_eq!(executions(&stack, &key), 2, "{execution}");
    }
}

#[test]
fn open_and_only_the_grant_was_lost_the_unprotected_run_is_recorded() {
    for execution in EXECUTIONS {
        let builder = with_rule(execution, json!({ "on_service_failure": "pass" }));
        let (stack, relay) = relayed(builder);
        relay.on_call(|call| {
            let answer = call.forward();
            answer.filter(|_| !call.is("acquire"))
        });
        let key = fresh_key("lost-grant");
        let request = charge("/charges", &key);
        let unprotected = request.send(&stack);
        assert_eq!(unprotected.status, 201, "{unprotected:?}");
        relay.pass();
        eventually("the run is recorded", || {
            record_state(&stack, &key) == "completed"
        });
        assert_replay(&unprotected, &request.send(&stack));
        assert_eq!(executions(&stack, &key), 1, "{execution}");
    }
}

/// What a broken service, or something else on its port, may say.
fn nonsense() -> Vec<(&'static str, Option<Vec<u8>>)> {
    let granted = Answer::Granted(Grant {
        fence: 1,
        attempt: 1,
        lease_ms: 60_000,
    });
    let whole = answers(vec![granted.clone()]);
    let frames = idempotency_protocol::Response {
        answers: vec![granted.clone()],
    }
    .encode();
    let truncated = frames.split_at(frames.len() - 3).0;
    let huge = [1, 0, 1, 1, 0xff, 0xff, 0xff, 0xff];
    vec![
        ("garbage", Some(raw(200, "", b"garbage"))),
        ("no octets", Some(raw(200, "", b""))),
        ("truncated frames", Some(raw(200, "", truncated))),
        ("a length that lies", Some(raw(200, "", &huge))),
        ("another version", Some(raw(200, "", &[9, 0, 0]))),
        ("no answer", Some(answers(vec![]))),
        ("two answers", Some(answers(vec![granted.clone(), granted]))),
        (
            "an answer to another question",
            Some(answers(vec![Answer::Failed])),
        ),
        ("cancelled", Some(answers(vec![Answer::Cancelled]))),
        ("an error", Some(raw(503, "Retry-After: 1\r\n", b"busy"))),
        ("no such endpoint", Some(raw(404, "", b"<html>"))),
        ("no token", Some(raw(401, "", b"{}"))),
        (
            "an answer cut short",
            Some(whole.split_at(whole.len() - 3).0.to_vec()),
        ),
        ("no HTTP", Some(b"SSH-2.0-x\r\n\r\n".to_vec())),
        ("an empty reply", None),
        ("a megabyte of zeros", Some(raw(200, "", &vec![0; 1 << 20]))),
    ]
}

#[test]
fn nonsense_is_no_answer_and_harms_nothing() {
    for execution in EXECUTIONS {
        let (stack, relay) = relayed(with_rule(execution, json!({})));
        for (what, answer) in nonsense() {
            relay.on_call(move |_| answer.clone());
            let key = fresh_key("nonsense");
            let refused = charge("/charges", &key).send(&stack);
            assert_eq!(refused.status, 503, "{what}: {refused:?}");
            assert_problem(&refused, 503, "store-unavailable");
            relay.pass();
            let retry = persist(&stack, &charge("/charges", &key));
            assert_eq!(retry.status, 201, "{what}: {retry:?}");
            assert_eq!(executions(&stack, &key), 1, "{what}, {execution}");
        }
        assert_alive(&stack);
    }
}

#[test]
fn a_service_that_hangs_is_given_up_after_the_timeout() {
    for execution in EXECUTIONS {
        let (stack, relay) = relayed(with_timeout(execution, 300, json!({})));
        let gate = Arc::new(Gate::default());
        let hang = gate.clone();
        relay.on_call(move |_| {
            hang.stop_here();
            None
        });
        let key = fresh_key("hang");
        let refused = charge("/charges", &key).send(&stack);
        assert_problem(&refused, 503, "store-unavailable");
        assert_eq!(executions(&stack, &key), 0, "{execution}");
        relay.pass();
        gate.open();
        let first = persist(&stack, &charge("/charges", &key));
        assert_eq!(first.status, 201, "{first:?}");
        assert_eq!(executions(&stack, &key), 1, "{execution}");
        assert_alive(&stack);
    }
}

#[test]
fn a_stored_response_that_cannot_be_sent_is_told_and_not_sent() {
    let (stack, relay) = relayed(with_rule("detached", json!({})));
    let response = |status, name: &'static str, value: &'static str| StoredResponse {
        status,
        headers: vec![(name.into(), value.into())],
        body: "secret".into(),
    };
    for (what, response) in [
        ("a status out of range", response(99, "etag", "a")),
        (
            "a status of three digits too many",
            response(60_000, "etag", "a"),
        ),
        (
            "a line break in a value",
            response(200, "etag", "a\r\nx-evil: 1"),
        ),
        ("a NUL in a value", response(200, "etag", "a\0b")),
        (
            "a line break in a name",
            response(200, "etag\r\nx-evil", "a"),
        ),
        ("a pseudo-header", response(200, ":status", "500")),
        ("an empty name", response(200, "", "a")),
    ] {
        let stored = Answer::Stored(Stored {
            outcome: Outcome::Response(response).into(),
            fence: 1,
            attempt: 1,
            age_ms: 1,
            expires_at_ms: 1_900_000_000_000,
        });
        relay.on_call(move |_| Some(answers(vec![stored.clone()])));
        let answer = charge("/charges", &fresh_key("evil")).send(&stack);
        assert_eq!(answer.status, 409, "{what}: {answer:?}");
        assert_problem(&answer, 409, "not-replayable");
        assert_eq!(answer.header("x-evil"), None, "{what}");
    }
    assert_eq!(stack.upstream.executions().total, 0);
    relay.pass();
    assert_alive(&stack);
}

#[test]
fn a_grant_with_odd_numbers_harms_nothing() {
    for execution in EXECUTIONS {
        let (stack, relay) = relayed(with_rule(execution, json!({})));
        for (fence, attempt, lease_ms, runs) in [
            (u64::MAX, u32::MAX, u64::MAX, true),
            (0, 0, u64::MAX / 1_000_000, true),
            (1, 1, 0, false),
            (1, 1, 1, false),
        ] {
            let grant = Answer::Granted(Grant {
                fence,
                attempt,
                lease_ms,
            });
            relay.on_call(move |call| match call.is("acquire") {
                true => Some(answers(vec![grant.clone()])),
                false => call.forward(),
            });
            let key = fresh_key("odd");
            let answer = charge("/charges?echo=1", &key).send(&stack);
            if runs {
                assert_eq!(answer.status, 201, "{answer:?}");
                let told = answer.echoed("idempotency-fence");
                assert_eq!(told, Some(fence.to_string()));
            } else {
                // A lease that is over before it was read is not forwarded.
                assert_problem(&answer, 503, "store-unavailable");
            }
            assert_eq!(executions(&stack, &key), u64::from(runs), "{execution}");
        }
        relay.pass();
        assert_alive(&stack);
    }
}

#[test]
fn a_wait_that_changes_all_the_time_ends() {
    let (stack, relay) = relayed(with_rule("detached", json!({ "wait_ms": 700 })));
    relay.on_call(|call| {
        if call.received.target == idempotency_protocol::WAIT_PATH {
            return Some(answers(vec![Answer::Changed]));
        }
        call.forward()
    });
    let key = fresh_key("changes");
    let request = charge("/charges?delay_ms=4000", &key);
    let first = in_background(&stack, &request);
    crate::support::await_execution(&stack, &key);
    assert_problem(&request.send(&stack), 409, "in-flight");
    assert!(
        !first.is_finished(),
        "the wait was over before the execution"
    );
    let first = first.join().expect("a client").expect("the first answer");
    assert_replay(&first, &request.send(&stack));
    assert_eq!(executions(&stack, &key), 1);
}

#[test]
fn nonsense_in_answer_to_a_wait_is_a_409() {
    let (stack, relay) = relayed(with_rule("detached", json!({ "wait_ms": 5000 })));
    relay.on_call(|call| {
        if call.received.target == idempotency_protocol::WAIT_PATH {
            return Some(raw(200, "", b"garbage"));
        }
        call.forward()
    });
    let key = fresh_key("wait");
    let request = charge("/charges?delay_ms=1500", &key);
    let first = in_background(&stack, &request);
    crate::support::await_execution(&stack, &key);
    let duplicate = request.send(&stack);
    assert_problem(&duplicate, 409, "in-flight");
    let first = first.join().expect("a client").expect("the first answer");
    assert_replay(&first, &request.send(&stack));
    assert_eq!(executions(&stack, &key), 1);
}

#[test]
fn a_grant_that_comes_after_the_timeout_locks_nothing() {
    for execution in EXECUTIONS {
        let (stack, relay) = relayed(with_timeout(execution, 300, json!({})));
        let gate = Arc::new(Gate::default());
        let late = gate.clone();
        relay.on_call(move |call| {
            let answer = call.forward();
            if call.is("acquire") {
                late.stop_here();
            }
            answer
        });
        let key = fresh_key("late");
        let request = charge("/charges", &key);
        let client = in_background(&stack, &request);
        gate.await_arrival();
        let refused = client.join().expect("a client").expect("an answer");
        assert_problem(&refused, 503, "store-unavailable");
        // The service did grant it, and the filter takes it back without waiting for the lease; or
        // the filter's fail was faster than the acquire on its way, which then got no grant.
        eventually("the grant is taken back", || {
            ["failed", "absent"].contains(&record_state(&stack, &key).as_str())
        });
        assert_eq!(executions(&stack, &key), 0, "{execution}");
        gate.open();
        relay.pass();
        let first = request.send(&stack);
        assert_eq!(first.status, 201, "{first:?}");
        assert_replay(&first, &request.send(&stack));
        assert_eq!(executions(&stack, &key), 1, "{execution}");
        assert_eq!(counter(&stack, "executed"), 1);
    }
}

#[test]
fn a_service_that_stood_still_over_the_timeout_leaves_no_lock_behind() {
    for execution in EXECUTIONS {
        let mut stack = with_timeout(execution, 500, json!({})).start();
        let key = fresh_key("still");
        let request = charge("/charges", &key);
        stack.service.process().pause();
        let refused = request.send(&stack);
        assert_problem(&refused, 503, "store-unavailable");
        stack.service.process().resume();
        // Whether the acquire was still read or not: its owner never gets the key any more.
        let first = persist(&stack, &request);
        assert_eq!(first.status, 201, "{first:?}");
        assert_replay(&first, &request.send(&stack));
        assert_eq!(executions(&stack, &key), 1, "{execution}");
        eventually("everything is delivered", || counter(&stack, "outbox") <= 1);
        assert_eq!(record_state(&stack, &key), "completed");
    }
}

#[test]
fn a_client_that_leaves_while_the_key_is_being_locked_locks_nothing() {
    for execution in EXECUTIONS {
        let (stack, relay) = relayed(with_rule(execution, json!({})));
        let gate = Arc::new(Gate::default());
        let held = gate.clone();
        relay.on_call(move |call| {
            let answer = call.forward();
            if call.is("acquire") {
                held.stop_here();
            }
            answer
        });
        let key = fresh_key("left");
        let request = charge("/charges", &key);
        let wire = request.start(&stack);
        gate.await_arrival();
        wire.hang_up();
        eventually("the grant is taken back", || {
            record_state(&stack, &key) == "failed"
        });
        gate.open();
        relay.pass();
        await_counter(&stack, "failed", 1);
        let first = request.send(&stack);
        assert_eq!(first.status, 201, "{first:?}");
        assert_eq!(executions(&stack, &key), 1, "{execution}");
    }
}
