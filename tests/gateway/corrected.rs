//! Nothing was done, so the key is not used up: a corrected request, and one that follows a redirect.

use idempotency_e2e::{
    assert_problem, assert_replay, executions, fresh_key, inline_rule, record_state, rule,
    with_rules, Request, Shared,
};
use serde_json::json;

static STACK: Shared = Shared::new(|| {
    let failed = json!({ "outcomes": { "422": "failed", "500": "failed" } });
    with_rules(&[
        rule("/fixed", failed.clone()),
        rule("/charges", json!({})),
        inline_rule("/inline/fixed", failed),
        inline_rule("/inline", json!({})),
    ])
});

#[test]
fn what_the_upstream_refused_may_be_corrected_under_the_same_key() {
    let stack = STACK.get();
    for path in ["/fixed", "/inline/fixed"] {
        let key = fresh_key("corrected");
        let post = |status: u16, body: &str| {
            let target = format!("{path}?status={status}");
            Request::post(&target).key(&key).body(body)
        };
        assert_eq!(post(422, "-1").send(&stack).status, 422, "{path}");
        // In Kong, the record follows the answer.
        assert_eq!(record_state(&stack, &key), "failed", "{path}");
        let first = post(201, "1").send(&stack);
        assert_eq!(first.status, 201, "{path}: {first:?}");
        assert_replay(&first, &post(201, "1").send(&stack));
        // The key is the corrected request's now.
        assert_problem(&post(422, "-1").send(&stack), 422, "key-reused");
        assert_eq!(executions(&stack, &key), 2, "{path}");
    }
}

#[test]
fn what_may_be_half_done_is_not_corrected() {
    let stack = STACK.get();
    for path in ["/fixed", "/inline/fixed"] {
        let key = fresh_key("half-done");
        let post = |body: &str| {
            let target = format!("{path}?status=500");
            Request::post(&target).key(&key).body(body)
        };
        assert_eq!(post("1").send(&stack).status, 500, "{path}");
        assert_eq!(record_state(&stack, &key), "failed", "{path}");
        assert_problem(&post("2").send(&stack), 422, "key-reused");
        assert_eq!(post("1").send(&stack).status, 500, "{path}");
        assert_eq!(executions(&stack, &key), 2, "{path}");
    }
}

/// RFC 9110 §15.4.8: the client repeats the request elsewhere, with the same method, body and key.
#[test]
fn a_redirected_client_follows_with_the_same_key() {
    let stack = STACK.get();
    for path in ["/charges", "/inline"] {
        for status in [307, 308] {
            let key = fresh_key("redirect");
            let first = Request::post(&format!("{path}?status={status}"))
                .key(&key)
                .body("1");
            let followed = Request::post(&format!("{path}/?status=201"))
                .key(&key)
                .body("1");
            let redirect = first.send(&stack);
            assert_eq!(redirect.status, status, "{path}");
            assert_eq!(record_state(&stack, &key), "failed", "{path}");
            let done = followed.send(&stack);
            assert_eq!(done.status, 201, "{path}: {done:?}");
            assert_eq!(executions(&stack, &key), 2, "{path}");
            // A retry begins at the first URL again, whatever became of the key.
            assert_replay(&redirect, &first.send(&stack));
            assert_replay(&done, &followed.send(&stack));
            assert_eq!(executions(&stack, &key), 2, "{path}");
        }
    }
}
