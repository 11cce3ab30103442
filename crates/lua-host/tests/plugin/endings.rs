//! Upstreams that fail, and a service that is away: who is told what, and what a retry does.

use crate::Pair;
use idempotency_lua_host::client::post;
use idempotency_lua_host::{free_port, until};
use idempotency_lua_host::{tools, Trust};
use serde_json::json;
use std::time::Duration;

#[test]
fn an_upstream_that_fails_after_it_was_sent_something_is_unknown_and_not_executed_again() {
    let Some(Pair { host, upstream }) = Pair::usual() else {
        return;
    };
    for (what, status, whole) in [
        ("reset", 502, true),
        ("close", 502, true),
        ("no-http", 502, true),
        ("two-lengths", 502, true),
        ("silent", 504, true),
        // Short answers are held: nobody sees half of one.
        ("cut", 502, true),
        // The others have begun, and break off.
        ("cut-large", 201, false),
        ("cut-chunks", 201, false),
        ("500", 500, true),
    ] {
        let key = format!("fails-{what}");
        let request = post("/pay", &key, "x").with("X-Do", what);
        let first = request.send(host.address());
        assert_eq!(
            (first.status, first.whole),
            (status, whole),
            "{what}: {first:?}"
        );
        if status == 502 {
            assert!(
                first.text().contains("outcome-unknown"),
                "{what}: {}",
                first.text()
            );
        }
        let retry = request.send(host.address());
        assert_eq!(retry.status, 409, "{what}: {retry:?}");
        assert!(
            retry.text().contains("outcome-unknown"),
            "{what}: {}",
            retry.text()
        );
        assert_eq!(upstream.executed(&key).len(), 1, "{what}");
    }
}

#[test]
fn an_upstream_that_was_not_reached_leaves_the_key_free() {
    let Some(Pair { host, upstream }) = Pair::usual() else {
        return;
    };
    let nobody = free_port().to_string();
    let refused = post("/pay", "refused-connection", "x").with("X-Test-Port", &nobody);
    let answer = refused.send(host.address());
    assert_eq!(answer.status, 502, "{answer:?}");
    assert!(upstream.executed("refused-connection").is_empty());
    let retry = post("/pay", "refused-connection", "x").send(host.address());
    assert_eq!(retry.status, 201);
    let executed = upstream.executed("refused-connection");
    assert_eq!(executed.len(), 1);
    assert_eq!(executed[0].header("idempotency-attempt"), Some("2"));
}

#[test]
fn an_upstream_behind_tls_is_verified_before_anything_is_sent() {
    if !tools::can_run() {
        return;
    }
    let pair = Pair::before(json!({}), Some(Trust::Upstream));
    for n in 0..3 {
        let request = post("/pay", &format!("tls-{n}"), "x");
        let first = request.send(pair.host.address());
        assert_eq!(first.status, 201, "{first:?} {}", pair.host.log());
        assert_eq!(request.send(pair.host.address()).body, first.body);
        let executed = pair.upstream.executed(&format!("tls-{n}"));
        assert_eq!(executed.len(), 1);
    }
    let pair = Pair::before(json!({}), Some(Trust::Other));
    for _ in 0..2 {
        let answer = post("/pay", "tls-other", "x").send(pair.host.address());
        assert_eq!(answer.status, 502, "{answer:?}");
    }
    assert!(pair.upstream.executed("tls-other").is_empty());
}

#[test]
fn a_kong_with_another_balancer_executes_nothing_and_leaves_the_key_free() {
    let Some(Pair { host, upstream }) = Pair::usual() else {
        return;
    };
    let request = post("/pay", "other-kong", "x");
    let answer = request
        .clone()
        .with("X-Test-Balancer", "other")
        .send(host.address());
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(upstream.executed("other-kong").is_empty());
    let mut answer = answer;
    let free = || {
        answer = request.send(host.address());
        answer.status != 409
    };
    assert!(until(Duration::from_secs(10), free));
    assert_eq!(answer.status, 201);
    assert_eq!(upstream.executed("other-kong").len(), 1);
}

#[test]
fn what_a_worker_executed_that_was_killed_is_unknown_and_not_executed_again() {
    let Some(Pair { host, upstream }) = Pair::usual() else {
        return;
    };
    let to = host.address();
    let request = post("/short", "killed", "x").with("X-Do", "wait");
    let again = request.clone();
    let first = std::thread::spawn(move || again.send(to));
    upstream.await_execution("killed");
    let worker = host.state()["worker"].to_string();
    let killed = std::process::Command::new("kill")
        .args(["-s", "KILL", &worker])
        .status();
    assert!(killed.unwrap().success());
    assert_eq!(first.join().unwrap().status, 0);
    upstream.go_on();
    // Its lease runs out into unknown, never into free.
    let mut answer = request.send(to);
    let over = || {
        answer = request.send(to);
        !answer.text().contains("in-flight")
    };
    assert!(until(Duration::from_secs(15), over), "{answer:?}");
    assert_eq!(answer.status, 409);
    assert!(
        answer.text().contains("outcome-unknown"),
        "{}",
        answer.text()
    );
    assert_eq!(upstream.executed("killed").len(), 1);
}

#[test]
fn what_an_answer_says_of_itself_decides_what_a_retry_does() {
    let Some(Pair { host, upstream }) = Pair::usual() else {
        return;
    };
    // Refused: nothing was done.
    let limited = post("/pay", "says-429", "x").with("X-Do", "429");
    assert_eq!(limited.send(host.address()).status, 429);
    assert_eq!(limited.send(host.address()).status, 429);
    assert_eq!(upstream.executed("says-429").len(), 2);
    // Done, and no replay can carry it.
    let trailers = post("/pay", "says-trailers", "x").with("X-Do", "trailers");
    let first = trailers.send(host.address());
    assert_eq!((first.status, first.body.as_slice()), (201, &b"hello"[..]));
    let retry = trailers.send(host.address());
    assert_eq!(retry.status, 409);
    assert!(retry.text().contains("not-replayable"), "{}", retry.text());
    assert_eq!(upstream.executed("says-trailers").len(), 1);
}

#[test]
fn without_the_service_nothing_is_executed_and_nothing_that_was_is_lost() {
    if !tools::can_run() {
        return;
    }
    let mut pair = Pair::start(json!({ "timeout_ms": 500 }));
    let to = pair.host.address();
    let run = |target: &str, key: &str| {
        let request = post(target, key, "x").with("X-Do", "wait");
        std::thread::spawn(move || request.send(to))
    };
    let (delivered, withheld) = (run("/pay", "down-1"), run("/withhold", "down-2"));
    pair.upstream.await_execution("down-1");
    pair.upstream.await_execution("down-2");
    pair.host.service.kill();
    let refused = post("/pay", "down-3", "x").send(to);
    assert_eq!(refused.status, 503);
    assert!(
        refused.text().contains("store-unavailable"),
        "{}",
        refused.text()
    );
    assert!(pair.upstream.executed("down-3").is_empty());
    // By a rule that would rather execute twice than not at all.
    let passed = post("/open", "down-4", "x").send(to);
    assert_eq!(passed.status, 201);
    let marked = pair.upstream.executed("down-4");
    assert_eq!(marked.len(), 1);
    assert_eq!(
        marked[0].header("idempotency-unprotected"),
        Some("store-unavailable")
    );
    pair.upstream.go_on();
    pair.upstream.go_on();
    let first = delivered.join().unwrap();
    assert_eq!(first.status, 201);
    let second = withheld.join().unwrap();
    assert_eq!(second.status, 503);
    assert!(
        second.text().contains("outcome-unrecorded"),
        "{}",
        second.text()
    );
    assert!(pair.host.state()["waiting"].as_u64() >= Some(2));

    pair.host.service.restart();
    let delivered = || pair.host.state()["waiting"] == 0;
    assert!(
        until(Duration::from_secs(15), delivered),
        "{}",
        pair.host.log()
    );
    let replay = post("/pay", "down-1", "x").with("X-Do", "wait").send(to);
    assert_eq!(replay.header("idempotency-replayed"), Some("true"));
    assert_eq!(replay.body, first.body);
    let replay = post("/withhold", "down-2", "x")
        .with("X-Do", "wait")
        .send(to);
    assert_eq!(
        (replay.status, replay.header("idempotency-replayed")),
        (201, Some("true"))
    );
    for key in ["down-1", "down-2"] {
        assert_eq!(pair.upstream.executed(key).len(), 1, "{key}");
    }
}

/// How often the service has answered so.
fn answered(metrics: &str, answer: &str) -> u64 {
    let lines = metrics
        .lines()
        .filter(|line| !line.starts_with('#') && line.contains(answer));
    let numbers = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    numbers.sum::<f64>() as u64
}

#[test]
fn leases_of_long_executions_are_renewed() {
    let Some(pair) = Pair::usual() else {
        return;
    };
    let to = pair.host.address();
    // Its lease lasts two seconds.
    let request = post("/short", "long", "x").with("X-Do", "wait");
    let again = request.clone();
    let first = std::thread::spawn(move || again.send(to));
    pair.upstream.await_execution("long");
    let renewed = || answered(&pair.host.service.metrics(), "\"extended\"") >= 2;
    assert!(
        until(Duration::from_secs(15), renewed),
        "{}",
        pair.host.service.metrics()
    );
    assert_eq!(request.send(to).status, 409);
    pair.upstream.go_on();
    let first = first.join().unwrap();
    assert_eq!((first.status, first.whole), (201, true));
    assert_eq!(request.send(to).body, first.body);
    assert_eq!(pair.upstream.executed("long").len(), 1);
    assert_eq!(pair.host.state()["leases"], 0);
}

#[test]
fn a_rejected_configuration_refuses_and_says_why() {
    if !tools::can_run() {
        return;
    }
    let pair = Pair::start(json!({ "timeout": 1 }));
    let answer = post("/anything", "rejected", "x").send(pair.host.address());
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("misconfigured"), "{}", answer.text());
    assert!(pair.upstream.executed("rejected").is_empty());
    let read = post("/pay", "rejected-get", "").method("GET");
    assert_eq!(read.send(pair.host.address()).status, 201);
    assert!(pair
        .host
        .log()
        .contains("configuration rejected: service.timeout: unknown field"));
}
