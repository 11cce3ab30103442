//! undici's RetryAgent, which resumes an answer that was cut with `Range` and `If-Match`.

use idempotency_e2e::{executions, fresh_key, rule, with_rules};
use serde_json::json;

use crate::tools;

#[test]
fn a_client_that_resumes_an_answer_is_given_the_whole_replay() {
    only_on!(
        Envoy | Layer,
        "on Kong the record follows the answer: a client that resumes at once may be told to come again"
    );
    let Some(node) = tools::node("resume.cjs") else {
        return;
    };
    let stack = with_rules(&[rule("/charges", json!({}))]).start();
    let key = fresh_key("resume");
    let said = tools::run(node, &stack, &[&key]);
    let resumed = &said["resumed"];
    assert_eq!(resumed["range"], "bytes=20000-199999", "{said}");
    assert_eq!(resumed["if-match"], "\"v1\"", "{said}");
    // It says that it wanted a part; 422 before.
    assert_eq!(said["error"]["status"], 201, "{said}");
    assert_eq!(said["error"]["replayed"], "true", "{said}");
    // Asked without a range, by the same key: all of it.
    assert_eq!(said["whole"]["status"], 201, "{said}");
    assert_eq!(said["whole"]["replayed"], "true", "{said}");
    assert_eq!(said["whole"]["bytes"], 200_000, "{said}");
    assert_eq!(said["whole"]["begins_like_the_first"], true, "{said}");
    assert_eq!(executions(&stack, &key), 1);
}
