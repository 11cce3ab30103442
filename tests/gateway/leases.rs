//! A lease is the time that one execution may hold its key.

use std::sync::Arc;

use idempotency_e2e::relay::{Gate, Relay};
use idempotency_e2e::{
    assert_problem, assert_replay, eventually, executions, fresh_key, record, record_state, Answer,
    Request,
};
use idempotency_stack::{Stack, StackBuilder};
use serde_json::{json, Value};

use crate::support::{
    await_counter, await_execution, charge, counter, in_background, persist, relayed, with_timeout,
    EXECUTIONS,
};

/// What is left of a lease in milliseconds.
fn lease_left(stack: &Stack, key: &str) -> u64 {
    let left = record(stack, key).and_then(|record| record["lease_left_ms"].as_u64());
    left.unwrap_or(0)
}

/// Sends a request whose grant reaches Envoy late: Envoy stands still from the moment the service
/// has granted until `late` says that it is late enough.
fn granted_late(
    stack: &mut Stack,
    relay: &Relay,
    request: &Request,
    late: impl FnMut() -> bool,
    what: &str,
) -> Answer {
    let gate = Arc::new(Gate::default());
    let held = gate.clone();
    relay.on_call(move |call| {
        let answer = call.forward();
        if call.is("acquire") {
            held.stop_here();
        }
        answer
    });
    let client = in_background(stack, request);
    gate.await_arrival();
    stack.gateway.pause();
    relay.pass();
    gate.open();
    eventually(what, late);
    stack.gateway.resume();
    client.join().expect("a client").expect("an answer")
}

fn short_lease(execution: &str, lease_ms: u64, margin_ms: u64) -> StackBuilder {
    let policy = json!({
        "lease_ms": lease_ms,
        "lease_margin_ms": margin_ms,
        "execution_timeout_ms": (lease_ms - margin_ms) / 2,
    });
    with_timeout(execution, (lease_ms - margin_ms) / 2, policy)
}

#[test]
fn a_grant_that_is_read_within_the_margin_is_not_forwarded_and_the_retry_runs() {
    for execution in EXECUTIONS {
        let (mut stack, relay) = relayed(short_lease(execution, 20_000, 19_000));
        let key = fresh_key("margin");
        let request = charge("/charges", &key);
        let admin = stack.service.address();
        let token = stack.service.tokens().operator.clone();
        let left = {
            let key = key.clone();
            move || {
                let target = format!("/v1/record?key={key}");
                let answer = idempotency_stack::http::Request::get(&target)
                    .bearer(&token)
                    .send(admin);
                let left = answer.map(|answer| answer.json()["lease_left_ms"].as_u64());
                left.ok().flatten().unwrap_or(u64::MAX)
            }
        };
        let refused = granted_late(
            &mut stack,
            &relay,
            &request,
            || left() < 18_900,
            "the lease is short",
        );
        assert_problem(&refused, 503, "store-unavailable");
        eventually("the key is free", || record_state(&stack, &key) == "failed");
        assert_eq!(executions(&stack, &key), 0, "{execution}");
        let first = persist(&stack, &request);
        assert_eq!(first.status, 201, "{first:?}");
        assert_replay(&first, &request.send(&stack));
        assert_eq!(executions(&stack, &key), 1, "{execution}");
        assert_eq!(counter(&stack, "executed"), 1);
    }
}

#[test]
fn a_grant_that_is_read_after_the_lease_is_not_forwarded() {
    for execution in EXECUTIONS {
        // Without a sweep nobody else touches the record before its owner does.
        let builder = short_lease(execution, 1500, 500)
            .service(|service| service.args = vec!["--sweep-interval".into(), "1h".into()]);
        let (mut stack, relay) = relayed(builder);
        let key = fresh_key("lapsed");
        let request = charge("/charges", &key);
        let admin = stack.service.address();
        let token = stack.service.tokens().operator.clone();
        let target = format!("/v1/record?key={key}");
        let lapsed = move || {
            let answer = idempotency_stack::http::Request::get(&target)
                .bearer(&token)
                .send(admin);
            answer.is_ok_and(|answer| answer.json()["lease_left_ms"] == json!(0))
        };
        let refused = granted_late(&mut stack, &relay, &request, lapsed, "the lease is over");
        assert_problem(&refused, 503, "store-unavailable");
        eventually("the key is free", || record_state(&stack, &key) == "failed");
        assert_eq!(executions(&stack, &key), 0, "{execution}");
        let first = persist(&stack, &request);
        assert_eq!(first.status, 201, "{first:?}");
        assert_eq!(executions(&stack, &key), 1, "{execution}");
    }
}

/// The first charge of a key whose upstream takes much longer than the lease.
fn slow_first(policy: Value, target: &str) {
    let stack = with_timeout("inline", 300, policy).start();
    let key = fresh_key("slow");
    let request = charge(target, &key);
    let client = in_background(&stack, &request);
    await_execution(&stack, &key);
    eventually("the lease was renewed twice", || {
        counter(&stack, "lease_renewed") >= 2
    });
    assert_eq!(record_state(&stack, &key), "executing");
    assert_problem(&request.send(&stack), 409, "in-flight");
    assert!(lease_left(&stack, &key) > 0);
    let first = client.join().expect("a client").expect("the answer");
    assert_eq!(first.status, 201, "{first:?}");
    assert_replay(&first, &request.send(&stack));
    assert_eq!(executions(&stack, &key), 1);
    assert_eq!(counter(&stack, "lease_lost"), 0);
    let renewals = counter(&stack, "lease_renewed");
    assert_eq!(counter(&stack, "completed"), 1);
    assert_eq!(
        renewals,
        counter(&stack, "lease_renewed"),
        "no renewal after the end"
    );
}

#[test]
fn a_lease_is_renewed_under_an_upstream_that_is_slower_than_it() {
    let policy = json!({ "lease_ms": 1000, "lease_margin_ms": 100 });
    slow_first(policy, "/charges?delay_ms=3500");
}

#[test]
fn a_lease_is_renewed_while_a_response_streams() {
    let policy = json!({ "lease_ms": 1000, "lease_margin_ms": 100 });
    slow_first(
        policy,
        "/charges?bytes=100&chunk_bytes=10&chunk_delay_ms=350",
    );
}

#[test]
fn a_duplicate_waits_as_long_as_the_lease_is_renewed_and_gets_the_answer() {
    let policy = json!({ "lease_ms": 1000, "lease_margin_ms": 100, "wait_ms": 20_000 });
    let stack = with_timeout("inline", 300, policy).start();
    let key = fresh_key("wait");
    let request = charge("/charges?delay_ms=3000", &key);
    let client = in_background(&stack, &request);
    await_execution(&stack, &key);
    let waiting: Vec<_> = (0..5).map(|_| in_background(&stack, &request)).collect();
    let first = client.join().expect("a client").expect("the answer");
    for duplicate in waiting {
        let replay = duplicate.join().expect("a client").expect("an answer");
        assert_replay(&first, &replay);
    }
    assert_eq!(executions(&stack, &key), 1);
    assert!(counter(&stack, "lease_renewed") >= 2);
    assert_eq!(counter(&stack, "waited"), 5);
}

#[test]
fn a_detached_execution_renews_its_lease_when_its_client_has_left() {
    not_on!(Native, "the native module executes inline only");
    let policy = json!({
        "lease_ms": 3000,
        "lease_margin_ms": 200,
        "execution_timeout_ms": 2700,
        "wait_ms": 10_000,
    });
    let stack = with_timeout("detached", 300, policy).start();
    let key = fresh_key("left");
    let request = charge("/charges?delay_ms=2300", &key);
    let wire = request.start(&stack);
    await_execution(&stack, &key);
    wire.hang_up();
    eventually("the lease was renewed", || {
        counter(&stack, "lease_renewed") >= 1
    });
    let replay = request.send(&stack);
    assert_eq!(replay.status, 201, "{replay:?}");
    assert!(idempotency_e2e::replayed(&replay));
    assert_eq!(executions(&stack, &key), 1);
}

#[test]
fn a_lease_that_is_taken_away_is_counted_and_its_outcome_is_not_stored() {
    let policies = by_host!(
        "\"withhold\" is refused on Kong, which cannot hold a response",
        envoy: &[("deliver", 201), ("withhold", 503)][..],
        kong: &[("deliver", 201)][..],
    );
    for &(policy, status) in policies {
        let rule = json!({
            "lease_ms": 1000,
            "lease_margin_ms": 100,
            "on_complete_failure": policy,
        });
        let stack = with_timeout("inline", 300, rule).start();
        let key = fresh_key("taken");
        let request = charge("/charges?delay_ms=2500", &key);
        let client = in_background(&stack, &request);
        await_execution(&stack, &key);
        // An operator decides while it runs; the version may change under him by a renewal.
        eventually("the operator decides", || {
            let version = record(&stack, &key).map(|record| record["version"].clone());
            let body = json!({
                "key": key, "version": version, "force": true, "to": { "state": "failed" },
            });
            let resolve = "/v1/record/resolve";
            let answer = stack.service.operator("POST", resolve, &body.to_string());
            answer.status == 200
        });
        await_counter(&stack, "lease_lost", 1);
        let answer = client.join().expect("a client").expect("an answer");
        assert_eq!(answer.status, status, "{answer:?}");
        await_counter(&stack, "complete_refused", 1);
        assert_eq!(
            record_state(&stack, &key),
            "failed",
            "the operator's word stands"
        );
        assert_eq!(executions(&stack, &key), 1);
    }
}
