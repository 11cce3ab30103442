//! Stripe's SDKs, and a client that reads problem documents.

use idempotency_e2e::{executions, fresh_key, rule, with_rules, Shared};
use serde_json::{json, Value};

use crate::tools;

static STACK: Shared = Shared::new(|| {
    with_rules(&[
        rule("/v1/charges", json!({ "problems": "stripe" })),
        rule("/v1/refunds", json!({})),
    ])
});

/// What both scripts do, and say of it: see `stripe.cjs`.
fn check(said: &Value, keys: &[String; 3], reused: &str) {
    let stack = STACK.get();
    let [done, unknown, busy] = keys;
    assert_eq!(said["first"], "succeeded", "{said}");
    assert_eq!(said["again"], said["id"], "a replay: {said}");
    let refused = &said["reused"];
    assert_eq!(refused["class"], reused, "{said}");
    assert_eq!(refused["status"], 400, "{said}");
    assert_eq!(refused["type"], "idempotency_error", "{said}");
    let message = refused["message"].as_str().unwrap_or_default();
    assert!(message.contains("different request"), "{said}");
    assert_eq!(executions(&stack, done), 1);

    let refused = &said["unknown"];
    assert_eq!(refused["status"], 409, "{said}");
    assert_eq!(refused["type"], "idempotency_error", "{said}");
    assert_eq!(executions(&stack, unknown), 1);

    // The second one came again by itself, and was given the first one's charge.
    assert_eq!(said["busy"][0], said["busy"][1], "{said}");
    assert!(said["busy"][0].is_string(), "{said}");
    assert_eq!(executions(&stack, busy), 1);
}

fn refused(name: &str) -> u64 {
    STACK
        .get()
        .gateway
        .metric(&format!("idempotency_problem_{name}"))
}

/// Four keys: done, unknown, busy, and unknown under a rule without Stripe's form.
fn run(command: std::process::Command, reused: &str) {
    let stack = STACK.get();
    let keys = ["done", "unknown", "busy"].map(|label| fresh_key(&format!("stripe-{label}")));
    let plain = fresh_key("stripe-plain");
    let counted = || ["key_reused", "outcome_unknown", "in_flight"].map(refused);
    let before = counted();
    let [done, unknown, busy] = &keys;
    let said = tools::run(command, &stack, &[done, unknown, busy, &plain]);
    check(&said, &keys, reused);
    let after = counted();
    assert_eq!(after[0] - before[0], 1, "{said}");
    // One under Stripe's form, whose header stops retries, and without it the one retry that the SDK may make.
    let unknown = by_host!(
        "on Kong the first refusal may be in-flight, since the record follows the answer",
        envoy: 3..=3,
        kong: 2..=3,
    );
    assert!(unknown.contains(&(after[1] - before[1])), "{said}");
    assert!(after[2] > before[2], "{said}");
}

/// One after the other: they count the gateway's refusals.
#[test]
fn stripes_sdks_recognise_refusals_and_retry_what_can_be_retried() {
    if let Some(node) = tools::node("stripe.cjs") {
        run(node, "StripeIdempotencyError");
    }
    if let Some(python) = tools::python("stripe_client.py") {
        run(python, "IdempotencyError");
    }
}

#[test]
fn a_client_that_reads_problem_documents_reads_ours() {
    let Some(node) = tools::node("problems.cjs") else {
        return;
    };
    // A stack of its own: the other test counts the refusals of the gateway that it uses.
    let members = json!({ "key-reused": { "members": { "hint": "a new key" } } });
    let stack = with_rules(&[rule("/problems", json!({ "problems": members }))]).start();
    let key = fresh_key("problems");
    let said = tools::run(node, &stack, &[&key]);
    assert_eq!(said["status"], 422, "{said}");
    assert_eq!(
        said["type"], "urn:idempotency-gateway:problem:key-reused",
        "{said}"
    );
    assert_eq!(said["title"], "Idempotency key reused", "{said}");
    let detail = said["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("different request"), "{said}");
    assert_eq!(executions(&stack, &key), 1);
}
