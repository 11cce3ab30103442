//! `mode: observe` changes nothing for anybody: it counts what would have been.

use idempotency_e2e::{
    eventually, executions, fresh_key, record_state, replayed, Answer, Http, Request, Wire,
};
use idempotency_stack::{Gateway, GatewayConfig, ServiceAddress, Stack};
use serde_json::{json, Value};

use crate::support::{
    await_counter, await_execution, charge, counter, in_background, rule, with_rule, EXECUTIONS,
};

fn observing(execution: &str) -> Stack {
    with_rule(execution, json!({ "mode": "observe", "wait_ms": 5000 })).start()
}

/// The same gateway without the filter.
fn bare(stack: &Stack) -> Gateway {
    let service = ServiceAddress::Unix(stack.service.socket().to_owned());
    let config = GatewayConfig::bare(stack.upstream.address(), service);
    Gateway::start(config).expect("the gateway starts")
}

#[test]
fn every_duplicate_runs_and_is_counted_as_the_replay_it_would_have_been() {
    for execution in EXECUTIONS {
        let stack = observing(execution);
        let key = fresh_key("observe");
        let request = charge("/charges", &key);
        let first = request.send(&stack);
        assert_eq!(first.status, 201, "{first:?}");
        // The record is written behind the client's back.
        eventually("the outcome is recorded", || {
            record_state(&stack, &key) == "completed"
        });
        let mut bodies = vec![first.body];
        for _ in 0..3 {
            let again = request.send(&stack);
            assert_eq!(again.status, 201, "{again:?}");
            assert!(!replayed(&again));
            assert!(!bodies.contains(&again.body), "a new charge each time");
            bodies.push(again.body);
        }
        assert_eq!(executions(&stack, &key), 4, "{execution}");
        await_counter(&stack, "observed_replay", 3);
        await_counter(&stack, "observed_execution", 1);
        await_counter(&stack, "completed", 1);
        assert_eq!(counter(&stack, "replayed") + counter(&stack, "executed"), 0);
    }
}

/// An answer without what differs from one execution to the next.
fn comparable(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let mut headers: Vec<_> = answer
        .headers
        .iter()
        // Those of Kong are of the one request, too.
        .filter(|(name, _)| {
            !["date", "location", "x-envoy-upstream-service-time"].contains(&name.as_str())
                && !name.starts_with("x-kong-")
        })
        .map(|(name, value)| (name.clone(), text(value)))
        .collect();
    headers.sort();
    (answer.status, headers, text(&answer.body))
}

/// What the upstream received, from an answer with `echo=1`.
fn received(answer: &Answer) -> Value {
    let mut json = answer.json();
    if let Some(headers) = json["headers"].as_array_mut() {
        // The ports are those of two gateways.
        let of_one = ["x-request-id", "x-kong-request-id", "x-forwarded-port"];
        headers.retain(|pair| !of_one.iter().any(|name| pair[0] == *name));
        headers.sort_by_key(ToString::to_string);
    }
    json
}

#[test]
fn requests_and_answers_are_the_same_bytes_as_without_the_filter() {
    let stack = observing("detached");
    let bare = bare(&stack);
    for http in Http::BOTH {
        let with = idempotency_e2e::Connection::new(http, stack.address());
        let without = idempotency_e2e::Connection::new(http, bare.address());
        for (target, request) in [
            ("/charges?body=hi", charge("", &fresh_key("same"))),
            ("/charges?body=hi", Request::post("")),
            ("/charges?body=hi", charge("", "not a key;")),
            ("/charges?content_length=0", charge("", &fresh_key("same"))),
            ("/charges?no_content=1", charge("", &fresh_key("same"))),
            ("/charges?status=500&body=x", charge("", &fresh_key("same"))),
            (
                "/charges?status=503&retry_after=7&body=x",
                charge("", &fresh_key("same")),
            ),
            (
                "/charges?set_cookie=1&body=x",
                charge("", &fresh_key("same")),
            ),
            (
                "/charges?chunked=1&body=abcdefgh",
                charge("", &fresh_key("same")),
            ),
            ("/charges%2Ffoo?body=x", charge("", &fresh_key("same"))),
            (
                "//charges?body=x",
                charge("", &fresh_key("same")).chunked(3),
            ),
            (
                "/charges?body=x",
                charge("", &fresh_key("same")).header("x-http-method-override", "GET"),
            ),
        ] {
            let request = request.target(target);
            let (a, b) = (with.send(&request), without.send(&request));
            assert_eq!(comparable(&a), comparable(&b), "{http:?} {target}");
        }
        let echo = charge("/charges?echo=1", &fresh_key("echo"))
            .header("accept-encoding", "gzip")
            .header("x-envoy-max-retries", "3");
        let (a, b) = (with.send(&echo), without.send(&echo));
        assert_eq!(received(&a), received(&b), "{http:?}");
        // The one exception: what only the gateway may say never arrives from a client.
        let forged = with.send(&echo.clone().header("idempotency-fence", "7"));
        by_host!(
            "nothing can be removed on Kong, and a rule that observes refuses nothing; kong.yml drops it",
            envoy: assert_eq!(received(&forged), received(&b), "{http:?}"),
            kong: assert_eq!(forged.status, 201, "{http:?}"),
        );
    }
}

#[test]
fn what_would_have_been_refused_is_counted_and_runs() {
    let stack = observing("detached");
    let send = |request: Request| {
        let answer = request.send(&stack);
        assert_eq!(answer.status, 201, "{answer:?}");
    };
    let key = fresh_key("refused");
    send(charge("/charges", &key));
    eventually("the outcome is recorded", || {
        record_state(&stack, &key) == "completed"
    });
    send(charge("/charges", &key).body("{\"amount\":7}"));
    send(Request::post("/charges").body("{}"));
    send(charge("/charges", "a;b"));
    send(charge("/charges%2Ffoo", &fresh_key("refused")));
    send(charge("/charges", &fresh_key("large")).body(vec![b'x'; 2 << 20]));
    for (name, count) in [
        ("key_reused", 1),
        ("missing_key", 1),
        ("invalid_key", 1),
        ("unsupported_request", 1),
        ("body_too_large", 1),
        ("execution", 1),
    ] {
        await_counter(&stack, &format!("observed_{name}"), count);
    }
    assert_eq!(stack.upstream.executions().total, 6);
    let problems = stack.gateway.metrics("idempotency_problem");
    assert!(problems.values().all(|count| *count == 0), "{problems:?}");
}

#[test]
fn a_duplicate_in_flight_runs_at_once() {
    let stack = observing("detached");
    let key = fresh_key("flight");
    let slow = charge("/charges?delay_ms=1500", &key);
    let client = in_background(&stack, &slow);
    await_execution(&stack, &key);
    let other = in_background(&stack, &slow);
    eventually("the duplicate runs beside it", || {
        executions(&stack, &key) == 2
    });
    await_counter(&stack, "observed_in_flight", 1);
    for client in [client, other] {
        let answer = client.join().expect("a client").expect("an answer");
        assert_eq!(answer.status, 201, "{answer:?}");
    }
}

#[test]
fn nothing_is_delayed_or_refused_when_the_service_is_down() {
    for paused in [false, true] {
        let mut stack = observing("inline");
        if paused {
            stack.service.process().pause();
        } else {
            stack.service.kill();
        }
        let key = fresh_key("down");
        for _ in 0..3 {
            let answer = charge("/charges?echo=1", &key).send(&stack);
            assert_eq!(answer.status, 201, "{answer:?}");
            assert_eq!(answer.echoed("idempotency-unprotected"), None);
        }
        assert_eq!(executions(&stack, &key), 3);
        if !paused {
            await_counter(&stack, "observed_store_unavailable", 3);
        }
        stack.service.process().resume();
    }
}

#[test]
fn a_response_streams_by_as_it_comes() {
    let stack = observing("inline");
    let key = fresh_key("stream");
    let target = "/charges?bytes=40&chunk_bytes=10&chunk_delay_ms=500";
    let mut wire = Wire::connect(stack.address());
    wire.send(charge(target, &key).bytes());
    // The first piece is there while the upstream still makes the others.
    wire.read_until("the first piece", |received| {
        received
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .is_some_and(|at| received.len() > at + 10)
    });
    assert!(
        !wire.received().ends_with(b"0\r\n\r\n"),
        "all of it came at once"
    );
    let answer = wire.answer();
    assert_eq!((answer.status, answer.body.len()), (201, 40));
    eventually("the outcome is recorded", || {
        record_state(&stack, &key) == "completed"
    });
}

#[test]
fn a_rule_that_observes_leaves_another_one_in_force() {
    let stack = Stack::builder()
        .rules(json!([
            rule(
                "detached",
                json!({
                    "name": "watched",
                    "mode": "observe",
                    "match": { "methods": ["POST"], "path_prefix": "/charges/watched" },
                })
            ),
            rule("detached", json!({})),
        ]))
        .start();
    let key = fresh_key("both");
    for _ in 0..2 {
        let answer = charge("/charges/watched", &key).send(&stack);
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    let enforced = fresh_key("both");
    let first = charge("/charges", &enforced).send(&stack);
    idempotency_e2e::assert_replay(&first, &charge("/charges", &enforced).send(&stack));
    assert_eq!(
        (executions(&stack, &key), executions(&stack, &enforced)),
        (2, 1)
    );
}
