//! Answers that stream: server-sent events, piece by piece, where the host and the rule let them.

use std::time::{Duration, Instant};

use idempotency_e2e::{
    assert_replay, executions, fresh_key, inline_rule, record_state, rule, with_rules, Request,
    Shared,
};
use idempotency_stack::Stack;
use serde_json::json;

static STACK: Shared = Shared::new(|| {
    with_rules(&[
        rule("/events", json!({ "stream": true })),
        inline_rule("/inline", json!({})),
        rule("/charges", json!({})),
    ])
});

const PIECES: u32 = 4;
const DELAY: Duration = Duration::from_millis(300);

fn events(path: &str, key: &str) -> Request {
    let delay = DELAY.as_millis();
    let target = format!(
        "{path}?bytes={}&chunk_bytes=10&chunk_delay_ms={delay}&header=content-type:text/event-stream",
        PIECES * 10
    );
    Request::post(&target).key(key).body("{}")
}

/// Whether the first piece comes before the last one is made.
fn streams(stack: &Stack, path: &str) -> bool {
    let key = fresh_key("events");
    let request = events(path, &key);
    let started = Instant::now();
    let mut wire = request.start(stack);
    wire.read_until("the first piece", |received| {
        let end = received.windows(4).position(|w| w == b"\r\n\r\n");
        end.is_some_and(|end| received.len() >= end + 14)
    });
    let first_piece = started.elapsed();
    let running = record_state(stack, &key) == "executing";
    let first = wire.answer();
    assert_eq!(first.body.len(), 40, "{path}");
    assert_eq!(
        first.header("content-type").as_deref(),
        Some("text/event-stream")
    );
    // A replay comes at once, and whole.
    assert_replay(&first, &request.send(stack));
    assert_eq!(executions(stack, &key), 1, "{path}");
    let early = first_piece < DELAY * (PIECES - 1);
    assert_eq!(early, running, "{path}: {first_piece:?}");
    early
}

#[test]
fn a_rule_that_streams_streams() {
    let stack = STACK.get();
    for path in ["/events", "/inline"] {
        assert!(streams(&stack, path), "{path}");
    }
    let detached = by_host!(
        "a detached answer arrives whole on Envoy; nginx and the library's layer stream it, and the native module \
         executes inline",
        envoy: false,
        kong: true,
        layer: true,
        native: true,
    );
    assert_eq!(streams(&stack, "/charges"), detached);
}

/// Who leaves a stream has not cut it off where the host goes on by itself.
#[test]
fn a_client_that_leaves_a_stream() {
    let stack = STACK.get();
    let key = fresh_key("left");
    let mut wire = events("/events", &key).start(&stack);
    wire.read_until("the head", |received| {
        received.windows(4).any(|w| w == b"\r\n\r\n")
    });
    wire.hang_up();
    let state = by_host!(
        "Envoy cuts an inline execution off, and nginx takes the rest of the answer from the filter; \
         the library's layer goes on",
        envoy: "unknown",
        kong: "unknown",
        layer: "completed",
    );
    idempotency_e2e::eventually(&format!("{key} is {state}"), || {
        record_state(&stack, &key) == state
    });
    assert_eq!(executions(&stack, &key), 1);
}
