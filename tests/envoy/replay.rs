//! The first answer, and the same bytes again.

use idempotency_e2e::{assert_replay, executions, fresh_key, Request, Shared};
use idempotency_stack::Stack;

static STACK: Shared = Shared::new(Stack::builder);

#[test]
fn a_retry_gets_the_first_answer_again() {
    let stack = STACK.get();
    let key = fresh_key("retry");
    let request = Request::post("/charges").key(&key).body("{}");
    let first = request.send(&stack);
    assert_eq!(first.status, 201);
    assert_replay(&first, &request.send(&stack));
    assert_eq!(executions(&stack, &key), 1);
}
