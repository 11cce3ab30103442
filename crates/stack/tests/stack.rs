//! All parts together, and each of them under the handling that tests need.

use std::time::Duration;

use idempotency_stack::http::{Answer, Request};
use idempotency_stack::{charges_rule, Durability, Stack};
use serde_json::json;

fn post(stack: &Stack, key: &str) -> Answer {
    let request = Request::post("/charges")
        .header("Idempotency-Key", key)
        .body("{}");
    request.send(stack.address()).unwrap()
}

fn replayed(answer: &Answer) -> bool {
    answer.header("idempotency-replayed").is_some()
}

#[test]
fn once_per_key_over_socket_and_tcp() {
    let mut relaxed = charges_rule();
    relaxed["execution"] = json!("inline");
    let stacks = [
        Stack::builder().start(),
        Stack::builder()
            .service_over_tcp()
            .service(|service| service.durability = Durability::Relaxed)
            .rules(json!([relaxed]))
            .envoy(|envoy| envoy.service_http2 = false)
            .start(),
    ];
    for stack in stacks {
        let (first, again) = (post(&stack, "a"), post(&stack, "a"));
        assert_eq!((first.status, again.status), (201, 201));
        assert_eq!((replayed(&first), replayed(&again)), (false, true));
        assert_eq!(first.body, again.body);
        assert_eq!(stack.upstream.executions().of("a"), 1);
        assert!(stack.upstream.log()[0].finished);
        assert!(stack.url("/x").ends_with("/x"));
        assert!(!stack.service.metrics().is_empty());
    }
}

#[test]
fn a_killed_service_comes_back_with_its_records() {
    let mut stack = Stack::builder().start();
    let first = post(&stack, "a");
    stack.service.kill();
    assert_eq!(post(&stack, "b").status, 503, "fail-closed");
    stack.service.restart().unwrap();
    let again = post(&stack, "a");
    assert_eq!((again.status, &again.body), (201, &first.body));
    assert!(replayed(&again));
    assert_eq!(stack.upstream.executions().total, 1);

    assert!(stack.service.stop().is_some_and(|status| status.success()));
    stack.service.restart().unwrap();
    assert!(replayed(&post(&stack, "a")));
}

#[test]
fn a_paused_service_is_a_slow_one() {
    let mut stack = Stack::builder().start();
    stack.service.process().pause();
    assert_eq!(post(&stack, "a").status, 503, "the callout's timeout");
    stack.service.process().resume();
    assert_eq!(post(&stack, "b").status, 201);
    assert!(stack
        .service
        .process()
        .stop(Duration::from_secs(15))
        .is_some());
}
