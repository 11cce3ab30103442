//! Many clients, and parts that are killed meanwhile.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use idempotency_e2e::{
    assert_problem, eventually, executions, fresh_key, record_state, replayed, Answer, Connection,
    Http, Request,
};
use idempotency_stack::Stack;
use serde_json::json;

use crate::support::{
    await_execution, charge, counter, in_background, persist, problem, with_rule, with_timeout,
    EXECUTIONS,
};

/// What the clients of a storm have seen: per key, every final answer.
type Seen = BTreeMap<String, Vec<Answer>>;

/// A client that insists: it sends its request until it has a final answer, over connections that
/// may break.
fn insist(gateway: SocketAddr, request: &Request) -> Answer {
    let deadline = Instant::now() + Duration::from_secs(120);
    while Instant::now() < deadline {
        let connected = Connection::try_new(Http::One, gateway);
        let answer = connected.ok().and_then(|c| c.try_send(request).ok());
        let Some(answer) = answer else {
            continue;
        };
        if answer.status != 503 && problem(&answer) != "in-flight" {
            return answer;
        }
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
    }
    panic!("no final answer within two minutes");
}

/// Sends each key's request `copies` times, duplicates close together, and lets `chaos` happen to
/// the stack meanwhile; it can look at the number of final answers.
fn storm(
    stack: &mut Stack,
    keys: &[String],
    copies: usize,
    chaos: impl FnOnce(&mut Stack, &AtomicUsize),
) -> Seen {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let seen: Mutex<Seen> = Mutex::default();
    let gateway = stack.address();
    let client = || {
        while let Some(key) = keys.get(next.fetch_add(1, Ordering::Relaxed) / copies) {
            let answer = insist(gateway, &charge("/charges?delay_ms=40", key));
            let mut seen = seen.lock().expect("no client panicked");
            seen.entry(key.clone()).or_default().push(answer);
            done.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(client);
        }
        chaos(stack, &done);
    });
    seen.into_inner().expect("no client panicked")
}

/// What must hold after any storm.
fn assert_settled(stack: &Stack, keys: &[String], copies: usize, seen: &Seen) {
    for key in keys {
        assert_eq!(executions(stack, key), 1, "{key}");
        let answers = seen.get(key).map(Vec::as_slice).unwrap_or_default();
        assert_eq!(answers.len(), copies, "{key}");
        let firsts = answers.iter().filter(|answer| !replayed(answer)).count();
        assert!(firsts <= 1, "{key}: {firsts} answers claim to be the first");
        let now = persist(stack, &charge("/charges?delay_ms=40", key));
        assert!(replayed(&now), "{key}: {now:?}");
        for answer in answers {
            assert_eq!(answer.status, 201, "{key}: {answer:?}");
            assert_eq!(answer.body, now.body, "{key}: {answer:?}");
        }
        assert_eq!(record_state(stack, key), "completed", "{key}");
    }
    assert_eq!(stack.upstream.executions().total, keys.len() as u64);
    assert_eq!(counter(stack, "outbox_dropped"), 0);
    eventually("everything is delivered", || counter(stack, "outbox") == 0);
}

fn keys(label: &str, count: usize) -> Vec<String> {
    (0..count).map(|_| fresh_key(label)).collect()
}

fn await_answers(done: &AtomicUsize, count: usize) {
    eventually(&format!("{count} requests are answered"), || {
        done.load(Ordering::Relaxed) >= count
    });
}

#[test]
fn a_service_that_is_killed_again_and_again_costs_no_key_a_second_run() {
    for execution in EXECUTIONS {
        let mut stack = with_rule(execution, json!({ "wait_ms": 500 }))
            .gateway(|gateway| gateway.workers = 2)
            .start();
        let keys = keys("kill", 80);
        let seen = storm(&mut stack, &keys, 4, |stack, done| {
            for count in [20, 80, 140, 200, 260] {
                await_answers(done, count);
                stack.service.kill();
                stack.service.restart().expect("the service starts again");
            }
        });
        assert_settled(&stack, &keys, 4, &seen);
    }
}

#[test]
fn a_service_that_stands_still_now_and_then_costs_no_key_a_second_run() {
    for execution in EXECUTIONS {
        let mut stack = with_timeout(execution, 200, json!({ "wait_ms": 300 })).start();
        let keys = keys("stall", 60);
        let seen = storm(&mut stack, &keys, 4, |stack, done| {
            for count in [20, 80, 140] {
                await_answers(done, count);
                let before = counter(stack, "problem_store_unavailable");
                stack.service.process().pause();
                eventually("requests meet the standstill", || {
                    counter(stack, "problem_store_unavailable") > before + 5
                });
                stack.service.process().resume();
            }
        });
        assert_settled(&stack, &keys, 4, &seen);
    }
}

#[test]
fn a_gateway_that_is_killed_again_and_again_costs_no_key_a_second_run() {
    for execution in EXECUTIONS {
        let policy = json!({
            "lease_ms": 3000,
            "lease_margin_ms": 300,
            "execution_timeout_ms": 2000,
            "wait_ms": 500,
        });
        let mut stack = with_rule(execution, policy)
            .gateway(|gateway| gateway.workers = 2)
            .start();
        let keys = keys("crash", 80);
        let seen = storm(&mut stack, &keys, 4, |stack, done| {
            for count in [20, 80, 140, 200] {
                await_answers(done, count);
                stack.gateway.kill();
                stack.gateway.restart().expect("the gateway starts again");
            }
        });
        let mut cut = 0;
        for key in &keys {
            assert!(executions(&stack, key) <= 1, "{key}");
            let now = persist(&stack, &charge("/charges?delay_ms=40", key));
            let answers = seen.get(key).map(Vec::as_slice).unwrap_or_default();
            assert_eq!(answers.len(), 4, "{key}");
            if now.status == 201 {
                assert_eq!(executions(&stack, key), 1, "{key}");
                let same = |answer: &Answer| answer.body == now.body;
                assert!(answers.iter().all(same), "{key}: {answers:?}");
            } else {
                // Killed while it ran. Nobody may have seen a success.
                assert_problem(&now, 409, "outcome-unknown");
                let seen = answers.iter().filter(|answer| answer.status != 409).count();
                let most = by_host!(
                    "on Kong the record follows the answer: whoever kills the gateway in between \
                     leaves one client with an answer that nobody else gets",
                    envoy: 0,
                    kong: 1,
                );
                assert!(seen <= most, "{key}: {answers:?}");
                cut += 1;
            }
        }
        // At most what 24 clients had in flight at each of four kills.
        assert!(cut < 80, "{cut} keys ended unknown");
    }
}

#[test]
fn a_gateway_that_is_killed_leaves_the_key_unknown_and_never_free() {
    for execution in EXECUTIONS {
        let policy = json!({
            // Longer than a gateway takes to start on a busy machine.
            "lease_ms": 10_000,
            "lease_margin_ms": 300,
            "execution_timeout_ms": 8000,
        });
        let mut stack = with_rule(execution, policy).start();
        let key = fresh_key("killed");
        let request = charge("/charges?delay_ms=1000", &key);
        let client = in_background(&stack, &request);
        await_execution(&stack, &key);
        stack.gateway.kill();
        assert!(client.join().expect("a client").is_err(), "it was cut off");
        assert_eq!(record_state(&stack, &key), "executing");
        stack.gateway.restart().expect("the gateway starts again");
        let early = request.send(&stack);
        if problem(&early) != "outcome-unknown" {
            // A gateway that takes longer to start than the lease lasts comes too late for this.
            assert_problem(&early, 409, "in-flight");
        }
        let decided = persist(&stack, &request);
        assert_problem(&decided, 409, "outcome-unknown");
        assert_eq!(record_state(&stack, &key), "unknown");
        assert_problem(&request.send(&stack), 409, "outcome-unknown");
        assert_eq!(executions(&stack, &key), 1, "{execution}");
    }
}

#[test]
fn envoy_killed_and_the_rule_allows_a_retry_then_one_retry_runs() {
    let policy = json!({
        "lease_ms": 2500,
        "lease_margin_ms": 300,
        "execution_timeout_ms": 2000,
        "on_unknown": "retry",
    });
    let mut stack = with_rule("detached", policy).start();
    let key = fresh_key("retry");
    let request = charge("/charges?delay_ms=1000", &key);
    let client = in_background(&stack, &request);
    await_execution(&stack, &key);
    stack.gateway.kill();
    assert!(client.join().expect("a client").is_err());
    stack.gateway.restart().expect("the gateway starts again");
    let second = persist(&stack, &request);
    assert_eq!(second.status, 201, "{second:?}");
    idempotency_e2e::assert_replay(&second, &request.send(&stack));
    let log = stack.upstream.log();
    let attempts: Vec<_> = log.iter().filter_map(|e| e.attempt.as_deref()).collect();
    assert_eq!(attempts, ["1", "2"]);
    let fences: Vec<u64> = log
        .iter()
        .filter_map(|e| e.fence.as_deref()?.parse().ok())
        .collect();
    assert!(fences.windows(2).all(|f| f[0] < f[1]), "{fences:?}");
}

#[test]
fn two_hundred_requests_with_one_key_run_once() {
    for execution in EXECUTIONS {
        for http in Http::BOTH {
            let stack = with_rule(execution, json!({ "wait_ms": 5000 }))
                .gateway(|gateway| gateway.workers = 2)
                .start();
            let key = fresh_key("herd");
            let request = charge("/charges?delay_ms=100", &key);
            let answers: Mutex<Vec<Answer>> = Mutex::default();
            std::thread::scope(|scope| {
                for _ in 0..50 {
                    scope.spawn(|| {
                        let connection = Connection::new(http, stack.address());
                        for _ in 0..4 {
                            let answer = connection.send(&request);
                            answers.lock().expect("no client panicked").push(answer);
                        }
                    });
                }
            });
            let answers = answers.into_inner().expect("no client panicked");
            assert_eq!(executions(&stack, &key), 1, "{execution}");
            let (done, refused): (Vec<_>, Vec<_>) =
                answers.iter().partition(|answer| answer.status == 201);
            let firsts: Vec<_> = done.iter().filter(|answer| !replayed(answer)).collect();
            assert_eq!(firsts.len(), 1, "one of them is the first");
            assert!(done.iter().all(|answer| answer.body == firsts[0].body));
            for answer in &refused {
                assert_problem(answer, 409, "in-flight");
            }
            assert_eq!(answers.len(), 200);
            assert_eq!(refused.len(), 0, "everybody may wait for 5 s");
            assert_eq!(counter(&stack, "executed"), 1);
            assert_eq!(counter(&stack, "replayed"), 199);
        }
    }
}

#[test]
fn refusals_during_an_outage_push_no_outcome_out_of_the_outbox() {
    let patient = json!({"execution_timeout_ms": 120_000, "lease_ms": 180_000});
    let mut stack = with_rule("detached", patient)
        .gateway(|gateway| gateway.upstream_timeout = Duration::from_secs(120))
        .start();
    let key = fresh_key("outage");
    let request = charge("/charges?delay_ms=3000", &key);
    let client = in_background(&stack, &request);
    await_execution(&stack, &key);
    // Its answer comes when the outbox is full, however long that takes.
    stack.upstream.process().pause();
    stack.service.kill();
    // Each refusal leaves something to be told to the service: that nothing was run.
    let gateway = stack.address();
    let refuse = |count: usize| {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut connection = Connection::http2(gateway);
                    for number in 0..count / 8 {
                        // Kong ends a connection after some hundred requests.
                        if number % 250 == 249 {
                            connection = Connection::http2(gateway);
                        }
                        let refused = charge("/charges", &fresh_key("refused"));
                        assert_eq!(connection.send(&refused).status, 503);
                    }
                });
            }
        });
    };
    refuse(6000);
    assert!(!client.is_finished(), "the upstream stands still");
    stack.upstream.process().resume();
    let first = client.join().expect("a client").expect("the answer");
    assert_eq!(first.status, 201, "{first:?}");
    refuse(1000);
    stack.service.restart().expect("the service starts again");
    let replay = persist(&stack, &request);
    idempotency_e2e::assert_replay(&first, &replay);
    assert_eq!(stack.upstream.executions().total, 1);
}
