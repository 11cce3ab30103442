//! Many clients with one key: executions never overlap, and never happen without need.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use idempotency_e2e::{
    assert_problem, assert_replay, eventually, executions, fresh_key, inline_rule, log,
    record_state, replayed, rule, side_by_side, with_rules, Answer, Connection, Http, Request,
    Shared,
};
use idempotency_stack::Stack;
use serde_json::json;

static STACK: Shared = Shared::new(|| {
    let wait = json!({ "wait_ms": 20_000 });
    let short = json!({ "wait_ms": 400 });
    let derive = json!({ "wait_ms": 20_000, "key": { "when_missing": "derive" } });
    with_rules(&[
        rule("/wait", wait.clone()),
        rule("/short", short.clone()),
        rule("/derive", derive.clone()),
        rule("/charges", json!({})),
        inline_rule("/inline/wait", wait),
        inline_rule("/inline/short", short),
        inline_rule("/inline/derive", derive),
        inline_rule("/inline", json!({})),
    ])
    // Races among workers too: each has a filter of its own.
    .gateway(|gateway| gateway.workers = 3)
});

/// Sends all of them at once, over both protocols.
fn all_at_once(stack: &Stack, requests: Vec<Request>) -> Vec<Answer> {
    let connect = |(index, request)| {
        let http = Http::BOTH[index % 2];
        (Connection::new(http, stack.address()), request)
    };
    let connected: Vec<_> = requests.into_iter().enumerate().map(connect).collect();
    side_by_side(connected, |(connection, request)| connection.send(&request))
}

#[test]
fn duplicates_on_different_workers_execute_once() {
    let stack = STACK.get();
    for path in ["/wait", "/inline/wait"] {
        for query in ["", "delay_ms=100", "chunked=1&bytes=200000"] {
            let key = fresh_key("workers");
            let request = Request::post(&format!("{path}?{query}"))
                .key(&key)
                .body("{}");
            let answers = all_at_once(&stack, vec![request; 48]);
            assert_eq!(executions(&stack, &key), 1, "{path}?{query}");
            let (replays, firsts): (Vec<_>, Vec<_>) = answers.iter().partition(|a| replayed(a));
            assert_eq!(firsts.len(), 1, "{path}?{query}: {firsts:?}");
            for replay in replays {
                assert_replay(firsts[0], replay);
            }
        }
    }
}

#[test]
fn of_many_payloads_under_one_key_one_executes_and_the_others_are_422() {
    let stack = STACK.get();
    for path in ["/wait", "/inline/wait", "/charges", "/inline"] {
        let key = fresh_key("payloads");
        let request = |n: u32| {
            Request::post(path)
                .key(&key)
                .body(format!("{{\"amount\":{n}}}"))
        };
        let answers = all_at_once(&stack, (0..32).map(request).collect());
        assert_eq!(executions(&stack, &key), 1, "{path}");
        let (done, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|a| a.status == 201);
        assert_eq!(done.len(), 1, "{path}: {done:?}");
        for answer in refused {
            assert_problem(answer, 422, "key-reused");
        }
    }
}

#[test]
fn many_keys_at_once_execute_once_each() {
    let stack = STACK.get();
    for path in ["/wait", "/inline/wait"] {
        let keys: Vec<_> = (0..16).map(|_| fresh_key("many")).collect();
        let request = |key: &String| Request::post(path).key(key).body("{}");
        let requests = keys.iter().cycle().take(64).map(request).collect();
        let answers = all_at_once(&stack, requests);
        assert!(answers.iter().all(|answer| answer.status == 201));
        let bodies: BTreeSet<_> = answers.iter().map(|answer| &answer.body).collect();
        assert_eq!(bodies.len(), 16, "{path}");
        for (index, answer) in answers.iter().enumerate() {
            assert_eq!(answer.body, answers[index % 16].body, "{path}");
        }
        assert!(
            keys.iter().all(|key| executions(&stack, key) == 1),
            "{path}"
        );
    }
}

#[test]
fn derived_keys_race_like_any_other() {
    let stack = STACK.get();
    for path in ["/derive", "/inline/derive"] {
        let path = format!("{path}/{}", fresh_key("d"));
        let request = Request::post(&format!("{path}?delay_ms=100")).body("{}");
        let answers = all_at_once(&stack, vec![request; 32]);
        let log = stack.upstream.log();
        assert_eq!(log.iter().filter(|e| e.path == path).count(), 1);
        assert_eq!(answers.iter().filter(|answer| replayed(answer)).count(), 31);
        assert!(answers.iter().all(|answer| answer.body == answers[0].body));
    }
}

#[test]
fn executions_that_fail_follow_each_other_and_never_overlap() {
    let stack = STACK.get();
    for path in ["/wait", "/inline/wait"] {
        let key = fresh_key("failing");
        let request = Request::post(&format!("{path}?status=429&delay_ms=50"))
            .key(&key)
            .body("{}");
        let answers = all_at_once(&stack, vec![request; 8]);
        assert!(
            answers.iter().all(|a| a.status == 429 && !replayed(a)),
            "{answers:?}"
        );
        let log = log(&stack, &key);
        assert_eq!(
            log.len(),
            8,
            "each client's request is executed once: {log:?}"
        );
        for pair in log.windows(2) {
            assert!(
                pair[0].finished_at.unwrap_or(u64::MAX) <= pair[1].started_at,
                "{log:?}"
            );
        }
        let attempts: Vec<_> = log.iter().filter_map(|e| e.attempt.as_deref()).collect();
        assert_eq!(attempts, ["1", "2", "3", "4", "5", "6", "7", "8"]);
    }
}

#[test]
fn whoever_waits_for_an_execution_that_ends_unknown_is_told_so() {
    let stack = STACK.get();
    for path in ["/wait", "/inline/wait"] {
        let queries = by_host!(
            "on Kong the first client sees the cut of a response itself",
            envoy: &["delay_ms=300&reset=before", "delay_ms=300&status=500",
                     "delay_ms=300&reset=mid"][..],
            kong: &["delay_ms=300&reset=before", "delay_ms=300&status=500"][..],
        );
        for query in queries {
            let key = fresh_key("unknown");
            let request = Request::post(&format!("{path}?{query}"))
                .key(&key)
                .body("{}");
            let answers = all_at_once(&stack, vec![request.clone(); 8]);
            assert_eq!(executions(&stack, &key), 1, "{path}?{query}");
            let refused: Vec<_> = answers
                .iter()
                .filter(|answer| answer.status == 409)
                .collect();
            assert_eq!(refused.len(), 7, "{path}?{query}: {answers:?}");
            for answer in refused {
                assert_problem(answer, 409, "outcome-unknown");
            }
            assert_problem(&request.send(&stack), 409, "outcome-unknown");
        }
    }
}

#[test]
fn a_duplicate_waits_no_longer_than_the_rule_says() {
    let stack = STACK.get();
    side_by_side(["/short", "/inline/short"], |path| {
        let key = fresh_key("short");
        let request = Request::post(&format!("{path}?delay_ms=4000"))
            .key(&key)
            .body("{}");
        let mut first = request.start(&stack);
        eventually("it executes", || executions(&stack, &key) == 1);
        let begin = Instant::now();
        let duplicate = request.send(&stack);
        let waited = begin.elapsed();
        assert_problem(&duplicate, 409, "in-flight");
        assert_eq!(duplicate.header("retry-after").as_deref(), Some("1"));
        assert!(waited >= Duration::from_millis(400), "{waited:?}");
        assert_eq!(
            record_state(&stack, &key),
            "executing",
            "it gave up before the first ended"
        );
        let first = first.answer();
        assert_eq!(first.status, 201);
        assert_replay(&first, &request.send(&stack));
        assert_eq!(executions(&stack, &key), 1);
    });
}
