//! Envoy's own statistics tell how every request ended.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use idempotency_e2e::{eventually, fresh_key, Request};
use idempotency_stack::{until, Stack};
use serde_json::json;
use std::time::Duration;

use crate::support::{await_execution, charge, in_background, rule, with_rule};

/// Whether it is certain how often the filter counts this.
fn is_certain(name: &str) -> bool {
    by_host!(
        "on Kong a client that comes back at once may meet the gap before the record",
        envoy: true,
        kong: name != "problem_in_flight",
    )
}

/// All counters of the filter that have counted, without their prefix.
fn counters(stack: &Stack) -> BTreeMap<String, u64> {
    const PREFIX: &str = "idempotency_";
    let metrics = stack.gateway.metrics(PREFIX);
    metrics
        .into_iter()
        .map(|(name, value)| (name.replace(PREFIX, ""), value))
        .filter(|(name, _)| !name.starts_with("callout_") || name == "callout_failed")
        .filter(|(name, _)| {
            !name.starts_with("outbox")
                && !name.starts_with("protected_")
                && !name.starts_with("requests_outcome_")
                && name != "queued"
        })
        .filter(|(_, value)| *value > 0)
        .filter(|(name, _)| is_certain(name))
        .collect()
}

fn await_counters(stack: &Stack, expected: &[(&str, u64)]) {
    let expected: BTreeMap<_, _> = expected
        .iter()
        .filter(|(name, _)| is_certain(name))
        .map(|(name, value)| ((*name).to_owned(), *value))
        .collect();
    until(Duration::from_secs(10), || counters(stack) == expected);
    assert_eq!(counters(stack), expected);
}

#[test]
fn every_outcome_has_a_counter_of_its_own() {
    let rules = json!([
        rule(
            "detached",
            json!({ "max_body_bytes": 1000, "max_response_bytes": 1000 })
        ),
        rule(
            "inline",
            json!({
                "name": "tenants",
                "match": { "methods": ["POST"], "path_prefix": "/tenants" },
                "scope": { "header": "x-tenant" },
            })
        ),
    ]);
    let stack = Stack::builder().rules(rules).start();
    let key = fresh_key("metrics");
    let send = |request: Request, status: u16| {
        let answer = request.send(&stack);
        assert_eq!(answer.status, status, "{answer:?}");
    };
    send(charge("/charges", &key), 201);
    send(charge("/charges", &key), 201);
    send(charge("/charges", &key), 201);
    send(charge("/charges", &key).body("other"), 422);
    send(Request::post("/charges").body("x"), 400);
    send(charge("/charges", "a,b"), 400);
    send(charge("/charges%2Fx", &fresh_key("metrics")), 400);
    send(
        charge("/charges", &fresh_key("metrics")).body("x".repeat(1001)),
        413,
    );
    send(charge("/tenants", &fresh_key("metrics")), 403);
    let large = fresh_key("metrics");
    send(charge("/charges?bytes=1001", &large), 201);
    send(charge("/charges?bytes=1001", &large), 409);
    let unknown = fresh_key("metrics");
    send(charge("/charges?status=500", &unknown), 500);
    send(charge("/charges?status=500", &unknown), 409);
    let failed = fresh_key("metrics");
    send(charge("/charges?status=429", &failed), 429);
    send(charge("/charges?status=429", &failed), 429);
    let slow = charge("/charges?delay_ms=1200", &fresh_key("metrics-slow"));
    let client = in_background(&stack, &slow);
    eventually("it runs", || stack.upstream.executions().total == 6);
    send(slow, 409);
    let first = client.join().expect("a client").expect("the answer");
    assert_eq!(first.status, 201);
    // Untouched traffic counts nothing.
    send(Request::post("/other").body("x"), 201);
    send(Request::get("/charges"), 201);
    await_counters(
        &stack,
        &[
            ("executed", 6),
            ("completed", 3),
            ("unknown", 1),
            ("failed", 2),
            ("replayed", 2),
            ("problem_key_reused", 1),
            ("problem_missing_key", 1),
            ("problem_invalid_key", 1),
            ("problem_unsupported_request", 1),
            ("problem_body_too_large", 1),
            ("problem_tenant_missing", 1),
            ("problem_not_replayable", 1),
            ("problem_outcome_unknown", 1),
            ("problem_in_flight", 1),
        ],
    );
    assert_eq!(stack.upstream.executions().total, 8);
}

#[test]
fn waits_and_their_replays_are_counted() {
    let stack = with_rule("inline", json!({ "wait_ms": 5000 })).start();
    let key = fresh_key("waits");
    let request = charge("/charges?delay_ms=1000", &key);
    let client = in_background(&stack, &request);
    await_execution(&stack, &key);
    let waiting: Vec<_> = (0..3).map(|_| in_background(&stack, &request)).collect();
    for client in waiting.into_iter().chain([client]) {
        let answer = client.join().expect("a client").expect("an answer");
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    await_counters(
        &stack,
        &[
            ("executed", 1),
            ("completed", 1),
            ("waited", 3),
            ("replayed", 3),
        ],
    );
}

#[test]
fn whoever_reads_the_metrics_all_the_time_stops_no_worker() {
    let stack = with_rule("detached", json!({})).start();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    counters(&stack);
                }
            });
        }
        let clients: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..40 {
                        let request = charge("/charges", &fresh_key("read"));
                        assert_eq!(request.send(&stack).status, 201);
                    }
                })
            })
            .collect();
        // Also if one of them fails.
        let ends: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(ends.iter().all(Result::is_ok), "every client is answered");
    });
    await_counters(&stack, &[("executed", 320), ("completed", 320)]);
}

#[test]
fn callout_times_are_a_histogram_and_the_outbox_a_gauge() {
    only_on!(Envoy, "asks Envoy for Prometheus' text");
    let mut stack = with_rule("detached", json!({})).start();
    let key = fresh_key("times");
    let client = in_background(&stack, &charge("/charges?delay_ms=1200", &key));
    await_execution(&stack, &key);
    stack.service.kill();
    let first = client.join().expect("a client").expect("the answer");
    assert_eq!(first.status, 201);
    let gauge = |value: u64| {
        let what = format!("idempotency_outbox{{}} {value}");
        eventually(&format!("Prometheus is told {what}"), || {
            let text = stack.gateway.envoy().ask("GET", "/stats/prometheus").text();
            text.lines().any(|line| line == what)
        });
    };
    gauge(1);
    stack.service.restart().expect("the service starts again");
    gauge(0);
    // Envoy merges histograms every few seconds.
    eventually("callout times are told", || {
        let text = stack.gateway.envoy().ask("GET", "/stats/prometheus").text();
        let mut lines = text.lines();
        let count = lines.find_map(|l| l.strip_prefix("idempotency_callout_us_count{} "));
        count.and_then(|count| count.parse().ok()).unwrap_or(0) >= 2
    });
    let text = stack.gateway.envoy().ask("GET", "/stats/prometheus").text();
    assert!(text.contains("idempotency_executed{} 1"), "{text}");
}
