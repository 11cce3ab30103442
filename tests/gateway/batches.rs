//! Thousands of streams in one worker, whose operations share callouts (or do not, with
//! `BATCH=off`): everybody gets the right answer, and nothing stays behind.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use idempotency_e2e::{
    assert_problem, assert_replay, eventually, fresh_key, record_state, replayed, side_by_side,
    Answer, Connection, Request,
};
use idempotency_stack::{calls_are_shared, filter_config, Stack, Tokens};
use serde_json::json;

use crate::support::{assert_alive, await_execution, charge, counter, persist, problem, rule};

const STREAMS: usize = 2000;
/// Client connections that the streams are spread over.
const CONNECTIONS: usize = 20;

/// One worker, two rules; `timeout_ms` of callouts.
fn start(timeout_ms: u64) -> Stack {
    let rules = json!([
        rule("detached", json!({})),
        rule(
            "inline",
            json!({
                "name": "inline",
                "match": { "methods": ["POST"], "path_prefix": "/inline" },
                "max_response_bytes": 1 << 20,
            })
        ),
    ]);
    let mut config = filter_config(&Tokens::default(), rules);
    config["service"]["timeout_ms"] = json!(timeout_ms);
    Stack::builder()
        .filter(config)
        .on_envoy(|envoy| envoy.upstream_http2 = true)
        .start()
}

/// Sends all at the same time; the answers are in the order of the requests.
fn storm(stack: &Stack, requests: &[Request]) -> Vec<Answer> {
    let connections: Vec<_> = (0..CONNECTIONS)
        .map(|_| Connection::http2(stack.address()))
        .collect();
    let next = AtomicUsize::new(0);
    side_by_side(requests, |request| {
        let turn = next.fetch_add(1, Ordering::Relaxed);
        connections[turn % CONNECTIONS].send(request)
    })
}

/// As [`storm`]; who is told to come again comes again.
fn insistent_storm(stack: &Stack, requests: &[Request]) -> Vec<Answer> {
    let answers = storm(stack, requests).into_iter().zip(requests);
    let insist = |(answer, request): (Answer, &Request)| match answer.status {
        503 => persist(stack, request),
        _ => answer,
    };
    answers.map(insist).collect()
}

/// Nothing waits, nothing is held, and the filter works.
fn assert_nothing_left(stack: &Stack) {
    eventually("nothing is left", || {
        ["queued", "outbox"]
            .iter()
            .all(|gauge| counter(stack, gauge) == 0)
            && stack.gateway.busy() == 0
    });
    assert_alive(stack);
}

/// How many callouts with operations the service has answered, and with how many operations.
fn callouts(stack: &Stack) -> (u64, u64) {
    let text = idempotency_stack::http::Request::get("/metrics")
        .send(stack.service.address())
        .expect("the service tells")
        .text();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse().ok())
            .unwrap_or(0)
    };
    (
        value("idempotencyd_batch_operations_count"),
        value("idempotencyd_batch_operations_sum"),
    )
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    FirstInline,
    FirstDetached,
    Replay,
    LargeReplay,
    Mismatch,
    InFlight,
}

/// What an answer shows of what happened.
fn assert_kind(kind: Kind, answer: &Answer, firsts: &BTreeMap<Kind, Answer>) {
    match kind {
        Kind::FirstInline | Kind::FirstDetached => {
            assert!(answer.status == 201 && !replayed(answer), "{answer:?}");
        }
        Kind::Replay | Kind::LargeReplay => assert_replay(&firsts[&kind], answer),
        Kind::Mismatch => assert_problem(answer, 422, "key-reused"),
        Kind::InFlight => assert_problem(answer, 409, "in-flight"),
    }
}

#[test]
fn two_thousand_streams_of_all_outcomes() {
    let stack = start(20_000);
    let [small, large, busy] = ["small", "large", "busy"].map(fresh_key);
    let small_first = charge("/charges", &small).send(&stack);
    // Seven of these swell an answer over its budget.
    let large_first = charge("/inline?bytes=150000", &large).send(&stack);
    assert_eq!((small_first.status, large_first.status), (201, 201));
    let firsts = BTreeMap::from([
        (Kind::Replay, small_first),
        (Kind::LargeReplay, large_first),
    ]);
    let held = charge("/inline?delay_ms=100000", &busy).start(&stack);
    await_execution(&stack, &busy);

    let wanted: Vec<(Kind, String)> = (0..STREAMS)
        .map(|n| match n % 10 {
            0..=2 => (Kind::FirstInline, fresh_key("storm")),
            3 | 4 => (Kind::FirstDetached, fresh_key("storm")),
            5 | 6 => (Kind::Replay, small.clone()),
            7 if n % 40 == 7 => (Kind::LargeReplay, large.clone()),
            7 | 8 => (Kind::Mismatch, small.clone()),
            _ => (Kind::InFlight, busy.clone()),
        })
        .collect();
    let requests: Vec<_> = wanted
        .iter()
        .map(|(kind, key)| match kind {
            Kind::FirstInline => charge("/inline", key),
            Kind::LargeReplay => charge("/inline?bytes=150000", key),
            Kind::Mismatch => charge("/charges", key).body("another payload"),
            Kind::InFlight => charge("/inline?delay_ms=100000", key),
            Kind::FirstDetached | Kind::Replay => charge("/charges", key),
        })
        .collect();
    // Others come and leave at once, before, while or after something is done for them.
    let leavers: Vec<_> = (0..200).map(|_| fresh_key("leaver")).collect();
    let answers = std::thread::scope(|scope| {
        scope.spawn(|| {
            for (n, key) in leavers.iter().enumerate() {
                let path = ["/inline", "/charges"][n % 2];
                let wire = charge(path, key).start(&stack);
                if n % 3 == 0 {
                    wire.reset();
                } else {
                    wire.hang_up();
                }
            }
        });
        storm(&stack, &requests)
    });
    for ((kind, _), answer) in wanted.iter().zip(&answers) {
        assert_kind(*kind, answer, &firsts);
    }
    held.hang_up();
    for key in leavers.iter().chain([&busy]) {
        eventually("what a client left behind is settled", || {
            record_state(&stack, key) != "executing"
        });
    }
    // The same again executes nothing.
    let again = storm(&stack, &requests);
    let executed = stack.upstream.executions();
    for key in &leavers {
        assert!(executed.of(key) <= 1, "{key}");
    }
    for (((kind, key), first), again) in wanted.iter().zip(&answers).zip(&again) {
        assert_eq!(executed.of(key), 1, "{kind:?} {key}");
        match kind {
            Kind::FirstInline | Kind::FirstDetached => assert_replay(first, again),
            Kind::InFlight => assert_problem(again, 409, "outcome-unknown"),
            _ => assert_kind(*kind, again, &firsts),
        }
    }
    let (calls, operations) = callouts(&stack);
    // (On Kong, what the root's tick sends is shared whatever the setting.)
    let alone = by_host!(
        "on Kong what streams ask travels alone, and settlements travel together; the library's \
         layer always shares",
        envoy: !calls_are_shared(),
        kong: false,
        layer: false,
    );
    if alone {
        assert_eq!(calls, operations, "every operation travels alone");
    } else {
        assert!(calls < operations, "{calls} calls, {operations} operations");
    }
    assert_eq!(counter(&stack, "callout_failed"), 0);
    assert_nothing_left(&stack);
}

#[test]
fn two_thousand_streams_meet_a_service_that_is_not_there() {
    let mut stack = start(1000);
    assert_alive(&stack);
    let keys: Vec<_> = (0..STREAMS).map(|_| fresh_key("down")).collect();
    let requests: Vec<_> = keys
        .iter()
        .enumerate()
        .map(|(n, key)| charge(["/inline", "/charges"][n % 2], key))
        .collect();
    let all_refused = |stack: &Stack| {
        for answer in storm(stack, &requests) {
            assert_problem(&answer, 503, "store-unavailable");
        }
    };
    // It stands still: the callouts that are out time out, and so does what waits for them.
    stack.service.process().pause();
    all_refused(&stack);
    stack.service.process().resume();
    assert_nothing_left(&stack);
    // Nobody listens: every callout fails at once.
    stack.service.kill();
    all_refused(&stack);
    stack.service.restart().expect("the service starts again");
    assert_nothing_left(&stack);
    let done = insistent_storm(&stack, &requests);
    let executed = stack.upstream.executions();
    for (key, answer) in keys.iter().zip(&done) {
        assert_eq!(answer.status, 201, "{} {answer:?}", problem(answer));
        assert_eq!(executed.of(key), 1, "{key}");
    }
    assert_nothing_left(&stack);
}

#[test]
fn a_service_that_dies_and_comes_back_under_two_thousand_streams() {
    let mut stack = start(1000);
    let keys: Vec<_> = (0..STREAMS).map(|_| fresh_key("dies")).collect();
    let requests: Vec<_> = keys
        .iter()
        .enumerate()
        .map(|(n, key)| {
            charge(
                ["/inline?delay_ms=300", "/charges?delay_ms=300"][n % 2],
                key,
            )
        })
        .collect();
    let gateway = stack.address();
    let upstream = stack.upstream.address();
    let service = &mut stack.service;
    let connections: Vec<_> = (0..CONNECTIONS)
        .map(|_| Connection::http2(gateway))
        .collect();
    let next = AtomicUsize::new(0);
    let answers = std::thread::scope(|scope| {
        let storm = scope.spawn(|| {
            side_by_side(&requests, |request| {
                let turn = next.fetch_add(1, Ordering::Relaxed);
                connections[turn % CONNECTIONS].send(request)
            })
        });
        eventually("some of them execute", || {
            let asked = idempotency_stack::http::Request::get("/executions").send(upstream);
            asked.is_ok_and(|answer| answer.json()["total"].as_u64() > Some(100))
        });
        service.kill();
        service.restart().expect("the service starts again");
        storm.join().expect("no client panicked")
    });
    assert_nothing_left(&stack);
    let executed = stack.upstream.executions();
    for (key, answer) in keys.iter().zip(&answers) {
        match answer.status {
            201 => assert_eq!(executed.of(key), 1, "{key}"),
            // Refused, before anything was sent.
            _ => {
                assert_problem(answer, 503, "store-unavailable");
                assert_eq!(executed.of(key), 0, "{key}");
            }
        }
    }
    let again = insistent_storm(&stack, &requests);
    let executed = stack.upstream.executions();
    for (key, (before, now)) in keys.iter().zip(answers.iter().zip(&again)) {
        assert_eq!(now.status, 201, "{key}: {now:?}");
        assert_eq!(executed.of(key), 1, "{key}");
        if before.status == 201 {
            assert_replay(before, now);
        }
    }
}
