//! Several gateways in front of one service: what one of them does not know, the others do.

use std::sync::Mutex;

use idempotency_e2e::{
    assert_problem, assert_replay, eventually, executions, fresh_key, record_state, recorded,
    replayed, Answer, Connection, Request,
};
use idempotency_stack::{filter_config, Gateway, GatewayConfig, ServiceAddress, Stack};
use serde_json::{json, Value};

use crate::support::{
    await_counter, await_execution, charge, counter, in_background, persist, problem, rule,
    with_timeout, EXECUTIONS,
};

/// A second gateway for the same service and upstream, with one rule.
fn another(stack: &Stack, execution: &str, more: Value) -> Gateway {
    let config = filter_config(stack.service.tokens(), json!([rule(execution, more)]));
    let service = ServiceAddress::Unix(stack.service.socket().to_owned());
    let config = GatewayConfig::new(config.to_string(), stack.upstream.address(), service);
    Gateway::start(config).expect("the gateway starts")
}

fn send(gateway: &Gateway, request: &Request) -> Answer {
    Connection::http1(gateway.address()).send(request)
}

/// An inline execution whose gateway stands still until its lease is over.
fn lease() -> Value {
    json!({ "lease_ms": 1500, "lease_margin_ms": 200 })
}

#[test]
fn one_key_runs_once_whichever_gateway_is_asked() {
    for execution in EXECUTIONS {
        let policy = || json!({ "wait_ms": 5000 });
        let stack = with_timeout(execution, 1000, policy()).start();
        let other = another(&stack, execution, policy());
        for _ in 0..5 {
            let key = fresh_key("two");
            let request = charge("/charges?delay_ms=50", &key);
            let answers: Mutex<Vec<Answer>> = Mutex::default();
            std::thread::scope(|scope| {
                for address in [stack.address(), other.address()].repeat(10) {
                    let (request, answers) = (&request, &answers);
                    scope.spawn(move || {
                        let answer = Connection::http1(address).send(request);
                        answers.lock().expect("no client panicked").push(answer);
                    });
                }
            });
            let answers = answers.into_inner().expect("no client panicked");
            let first: Vec<_> = answers.iter().filter(|a| !replayed(a)).collect();
            assert_eq!(first.len(), 1, "{answers:?}");
            assert!(answers
                .iter()
                .all(|a| a.status == 201 && a.body == first[0].body));
            assert_eq!(executions(&stack, &key), 1, "{execution}");
        }
    }
}

/// A rollout: a gateway of the first release counted conditions by default, as one does whose rule lists them.
#[test]
fn records_of_the_release_before_are_replayed_unless_their_requests_had_conditions() {
    let first_list = [
        "content-encoding",
        "content-range",
        "if-match",
        "if-none-match",
        "if-unmodified-since",
    ];
    let stack = with_timeout("inline", 1000, json!({})).start();
    let older = another(
        &stack,
        "inline",
        json!({ "fingerprint": { "headers": first_list } }),
    );
    let plain = |key: &str| charge("/charges", key);
    let resumed = |key: &str| {
        plain(key)
            .header("if-match", "\"v1\"")
            .header("range", "bytes=9-")
    };

    let key = fresh_key("rollout");
    let first = send(&older, &plain(&key));
    recorded(&stack, &key);
    assert_replay(&first, &plain(&key).send(&stack));
    assert_replay(&first, &resumed(&key).send(&stack));
    assert_eq!(executions(&stack, &key), 1);

    let key = fresh_key("rollout");
    let first = plain(&key).send(&stack);
    recorded(&stack, &key);
    assert_replay(&first, &send(&older, &plain(&key)));
    assert_eq!(executions(&stack, &key), 1);

    // What remains: to each release the other one's request with a condition is another one.
    let key = fresh_key("rollout");
    let first = send(&older, &resumed(&key));
    recorded(&stack, &key);
    assert_problem(&resumed(&key).send(&stack), 422, "key-reused");
    assert_replay(&first, &send(&older, &resumed(&key)));
    assert_eq!(executions(&stack, &key), 1);
}

#[test]
fn a_gateway_that_stood_still_past_its_lease_completes_late_and_is_believed() {
    let mut stack = with_timeout("inline", 500, lease()).start();
    let other = another(&stack, "inline", lease());
    let key = fresh_key("late");
    let request = charge("/charges?delay_ms=300", &key);
    let client = in_background(&stack, &request);
    await_execution(&stack, &key);
    stack.gateway.pause();
    eventually("the lease is over", || {
        problem(&send(&other, &request)) == "outcome-unknown"
    });
    assert_eq!(record_state(&stack, &key), "unknown");
    stack.gateway.resume();
    let first = client.join().expect("a client").expect("the answer");
    assert_eq!(first.status, 201, "{first:?}");
    // Late, but nobody else took the key.
    eventually("the late outcome is believed", || {
        record_state(&stack, &key) == "completed"
    });
    assert_replay(&first, &send(&other, &request));
    assert_replay(&first, &request.send(&stack));
    assert_eq!(executions(&stack, &key), 1);
}

#[test]
fn a_gateway_that_lost_its_key_to_a_retry_overwrites_nothing() {
    let failures = by_host!(
        "\"withhold\" is refused on Kong, which cannot hold a response",
        envoy: &[("deliver", 201), ("withhold", 503)][..],
        kong: &[("deliver", 201)][..],
    );
    for &(on_failure, status) in failures {
        let mut policy = lease();
        policy["on_unknown"] = json!("retry");
        policy["on_complete_failure"] = json!(on_failure);
        let mut stack = with_timeout("inline", 500, policy.clone()).start();
        let other = another(&stack, "inline", policy);
        let key = fresh_key("zombie");
        let request = charge("/charges?delay_ms=300", &key);
        let client = in_background(&stack, &request);
        await_execution(&stack, &key);
        stack.gateway.pause();
        // The rule allows a second run once the first one's outcome is unknown.
        let mut second = None;
        eventually("the lease is over", || {
            let answer = send(&other, &request);
            let done = answer.status == 201;
            second = done.then_some(answer);
            done
        });
        let second = second.expect("an answer");
        assert!(!replayed(&second));
        stack.gateway.resume();
        let zombie = client.join().expect("a client").expect("an answer");
        assert_eq!(zombie.status, status, "{zombie:?}");
        await_counter(&stack, "complete_refused", 1);
        assert_replay(&second, &send(&other, &request));
        assert_replay(&second, &request.send(&stack));
        assert_eq!(executions(&stack, &key), 2);
        let log = stack.upstream.log();
        let fences: Vec<u64> = log
            .iter()
            .filter_map(|entry| entry.fence.as_deref()?.parse().ok())
            .collect();
        assert!(
            fences[0] < fences[1],
            "the upstream can tell them apart: {fences:?}"
        );
    }
}

#[test]
fn a_duplicate_at_another_gateway_waits_and_gets_the_answer() {
    for execution in EXECUTIONS {
        let policy = || json!({ "wait_ms": 20_000 });
        let stack = with_timeout(execution, 1000, policy()).start();
        let other = another(&stack, execution, policy());
        let key = fresh_key("wait");
        let request = charge("/charges?delay_ms=800", &key);
        let client = in_background(&stack, &request);
        await_execution(&stack, &key);
        let replay = send(&other, &request);
        let first = client.join().expect("a client").expect("the answer");
        assert_replay(&first, &replay);
        assert_eq!(executions(&stack, &key), 1, "{execution}");
    }
}

#[test]
fn a_gateway_that_is_killed_leaves_its_keys_to_the_others_as_unknown() {
    for execution in EXECUTIONS {
        let policy = || {
            json!({
                "lease_ms": 2000,
                "lease_margin_ms": 200,
                "execution_timeout_ms": 1700,
                "wait_ms": 10_000,
            })
        };
        let mut stack = with_timeout(execution, 500, policy()).start();
        let other = another(&stack, execution, policy());
        let key = fresh_key("killed");
        let request = charge("/charges?delay_ms=1000", &key);
        let client = in_background(&stack, &request);
        await_execution(&stack, &key);
        stack.gateway.kill();
        assert!(client.join().expect("a client").is_err());
        // Whoever waits is told as soon as the lease is over, long before the wait is.
        let waited = send(&other, &request);
        assert_problem(&waited, 409, "outcome-unknown");
        stack.gateway.restart().expect("the gateway starts again");
        assert_problem(&persist(&stack, &request), 409, "outcome-unknown");
        assert_eq!(executions(&stack, &key), 1, "{execution}");
        assert_eq!(counter(&stack, "executed"), 0, "since its restart");
    }
}

#[test]
fn other_fingerprint_settings_are_not_comparable_and_run_nothing() {
    let stack = with_timeout("detached", 1000, json!({})).start();
    let json_body = json!({ "fingerprint": { "body": "json" } });
    let other = another(&stack, "detached", json_body);
    let key = fresh_key("scheme");
    let request = charge("/charges", &key).header("content-type", "application/json");
    let first = request.send(&stack);
    assert_eq!(first.status, 201, "{first:?}");
    assert_problem(&send(&other, &request), 409, "not-comparable");
    assert_replay(&first, &request.send(&stack));
    assert_eq!(executions(&stack, &key), 1);
}
