//! Hundreds of requests in one worker to which the same happens at the same moment.

use std::sync::Mutex;

use idempotency_e2e::{
    assert_problem, assert_replay, eventually, executions, fresh_key, replayed, Answer, Connection,
    Request,
};
use idempotency_stack::Stack;
use serde_json::{json, Value};

use crate::support::{assert_alive, await_counter, charge, counter, with_timeout};

const CROWD: usize = 400;

/// As many as the upstream takes at once, on one connection.
const EXECUTING: usize = 150;

/// A timeout of callouts that no crowd reaches on a busy machine, in milliseconds.
const PATIENT: u64 = 20_000;

/// Sends all requests at the same time, as streams of one connection, lets `meanwhile` happen,
/// and returns the answers in the order of the requests.
fn at_once(stack: &Stack, requests: &[Request], meanwhile: impl FnOnce()) -> Vec<Answer> {
    let connection = Connection::http2(stack.gateway.address());
    let answers: Mutex<Vec<Option<Answer>>> = Mutex::new(vec![None; requests.len()]);
    std::thread::scope(|scope| {
        for (n, request) in requests.iter().enumerate() {
            let (connection, answers) = (&connection, &answers);
            scope.spawn(move || {
                let answer = connection.send(request);
                answers.lock().expect("no client panicked")[n] = Some(answer);
            });
        }
        meanwhile();
    });
    let answers = answers.into_inner().expect("no client panicked");
    answers.into_iter().flatten().collect()
}

/// A stack whose upstream needs no connection per request: hundreds at once are more than a
/// listener's queue takes, and Envoy would tell connection timeouts.
fn crowded(execution: &str, timeout_ms: u64, policy: Value) -> Stack {
    with_timeout(execution, timeout_ms, policy)
        .on_envoy(|envoy| envoy.upstream_http2 = true)
        .start()
}

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|_| fresh_key("crowd")).collect()
}

fn charges(target: &str, keys: &[String]) -> Vec<Request> {
    keys.iter().map(|key| charge(target, key)).collect()
}

#[test]
fn callouts_that_all_fail_at_once_leave_the_filter_alive() {
    for execution in crate::support::EXECUTIONS {
        let mut stack = with_timeout(execution, 700, json!({})).start();
        assert_alive(&stack);
        let keys = keys(CROWD);
        let requests = charges("/charges", &keys);
        // One timer ends them all.
        stack.service.process().pause();
        for answer in at_once(&stack, &requests, || ()) {
            assert_problem(&answer, 503, "store-unavailable");
        }
        stack.service.process().resume();
        // Refused connections, too.
        stack.service.kill();
        for answer in at_once(&stack, &requests, || ()) {
            assert_problem(&answer, 503, "store-unavailable");
        }
        await_counter(&stack, "executed", 1);
        stack.service.restart().expect("the service starts again");
        assert_alive(&stack);
        for (key, request) in keys.iter().zip(&requests) {
            let first = crate::support::persist(&stack, request);
            assert_eq!(first.status, 201, "{first:?}");
            assert_eq!(executions(&stack, key), 1);
        }
    }
}

#[test]
fn a_service_that_dies_under_a_crowd_leaves_the_filter_alive() {
    let mut stack = crowded("detached", PATIENT, json!({}));
    let keys = keys(EXECUTING);
    let requests = charges("/charges?delay_ms=1500", &keys);
    let upstream = stack.upstream.address();
    let service = &mut stack.service;
    let gateway = Connection::http2(stack.gateway.address());
    let answers: Mutex<Vec<Answer>> = Mutex::default();
    std::thread::scope(|scope| {
        for request in &requests {
            scope.spawn(|| {
                let answer = gateway.send(request);
                answers.lock().expect("no client panicked").push(answer);
            });
        }
        eventually("all of them execute", || {
            let asked = idempotency_stack::http::Request::get("/executions").send(upstream);
            asked.is_ok_and(|answer| answer.json()["total"] == json!(EXECUTING))
        });
        service.kill();
    });
    let answers = answers.into_inner().expect("no client panicked");
    assert!(answers.iter().all(|answer| answer.status == 201));
    stack.service.restart().expect("the service starts again");
    await_counter(&stack, "completed", EXECUTING as u64);
    for (key, request) in keys.iter().zip(&requests) {
        assert!(replayed(&request.send(&stack)));
        assert_eq!(executions(&stack, key), 1);
    }
}

#[test]
fn a_crowd_that_waits_for_one_answer_gets_it() {
    for execution in crate::support::EXECUTIONS {
        let builder = with_timeout(execution, PATIENT, json!({ "wait_ms": 20_000 }));
        let stack = builder
            .service(|service| {
                service.args = vec!["--max-waiters-per-key".into(), "1000".into()];
            })
            .start();
        let key = fresh_key("crowd");
        let requests = vec![charge("/charges?delay_ms=1500", &key); CROWD];
        let answers = at_once(&stack, &requests, || ());
        let (replays, firsts): (Vec<_>, Vec<_>) = answers.iter().partition(|a| replayed(a));
        assert_eq!((firsts.len(), replays.len()), (1, CROWD - 1), "{answers:?}");
        for replay in replays {
            assert_replay(firsts[0], replay);
        }
        assert_eq!(executions(&stack, &key), 1, "{execution}");
        assert_alive(&stack);
    }
}

#[test]
fn a_crowd_that_may_not_wait_is_told_to_come_again() {
    // The service lets 128 wait for one key; the others are told so at once.
    let stack = with_timeout("detached", PATIENT, json!({ "wait_ms": 20_000 })).start();
    let key = fresh_key("crowd");
    let requests = vec![charge("/charges?delay_ms=1500", &key); CROWD];
    let answers = at_once(&stack, &requests, || ());
    let (done, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|a| a.status == 201);
    assert!(done.len() > 100, "{}", done.len());
    for answer in refused {
        assert_problem(answer, 409, "in-flight");
    }
    assert!(done.iter().all(|answer| answer.body == done[0].body));
    assert_eq!(executions(&stack, &key), 1);
}

#[test]
fn a_crowd_of_leases_is_renewed_in_time() {
    let policy = json!({ "lease_ms": 4000, "lease_margin_ms": 200 });
    let stack = crowded("inline", 3000, policy);
    let keys = keys(EXECUTING);
    let requests = charges("/charges?delay_ms=9000", &keys);
    let answers = at_once(&stack, &requests, || ());
    let other = answers.iter().find(|answer| answer.status != 201);
    assert!(other.is_none(), "{other:?}");
    for (key, (request, first)) in keys.iter().zip(requests.iter().zip(&answers)) {
        assert_replay(first, &request.send(&stack));
        assert_eq!(executions(&stack, key), 1);
    }
    eventually("all renewals are told", || {
        counter(&stack, "lease_renewed") >= 2 * EXECUTING as u64
    });
    assert_eq!(counter(&stack, "lease_lost"), 0);
}

#[test]
fn an_upstream_that_dies_under_a_crowd_leaves_unknown_outcomes_and_a_filter_alive() {
    for execution in crate::support::EXECUTIONS {
        let mut stack = crowded(execution, PATIENT, json!({}));
        let keys = keys(EXECUTING);
        let requests = charges("/charges?delay_ms=5000", &keys);
        let address = stack.upstream.address();
        let upstream = stack.upstream.process();
        let gateway = Connection::http2(stack.gateway.address());
        let answers: Mutex<Vec<Answer>> = Mutex::default();
        std::thread::scope(|scope| {
            for request in &requests {
                scope.spawn(|| {
                    let answer = gateway.send(request);
                    answers.lock().expect("no client panicked").push(answer);
                });
            }
            eventually("all of them execute", || {
                let asked = idempotency_stack::http::Request::get("/executions").send(address);
                asked.is_ok_and(|answer| answer.json()["total"] == json!(EXECUTING))
            });
            upstream.kill();
        });
        let answers = answers.into_inner().expect("no client panicked");
        let other = answers.iter().find(|answer| answer.status < 500);
        assert!(other.is_none(), "{execution}: {other:?}");
        await_counter(&stack, "unknown", EXECUTING as u64);
        for answer in at_once(&stack, &requests, || ()) {
            assert_problem(&answer, 409, "outcome-unknown");
        }
    }
}
