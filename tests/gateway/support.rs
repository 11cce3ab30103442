//! What the modules about failures share.

use std::time::Duration;

use idempotency_e2e::relay::Relay;
use idempotency_e2e::{eventually, Answer, Broken, Request};
use idempotency_stack::{filter_config, until, ServiceAddress, Stack, StackBuilder, Tokens};
use serde_json::{json, Value};

/// Both ways of executing, for tests that hold for either.
pub const EXECUTIONS: [&str; 2] = ["detached", "inline"];

/// `POST` below `/charges`, executed in this way; `more` is written over it.
pub fn rule(execution: &str, more: Value) -> Value {
    let mut rule = json!({
        "name": "charges",
        "match": { "methods": ["POST"], "path_prefix": "/charges" },
        "scope": "global",
        "execution": execution,
    });
    if let (Value::Object(rule), Value::Object(more)) = (&mut rule, more) {
        rule.extend(more);
    }
    rule
}

/// A stack with one such rule.
pub fn with_rule(execution: &str, more: Value) -> StackBuilder {
    Stack::builder().rules(json!([rule(execution, more)]))
}

/// As [`with_rule`], with a timeout of callouts to the service (1 s otherwise).
pub fn with_timeout(execution: &str, timeout_ms: u64, more: Value) -> StackBuilder {
    let mut config = filter_config(&Tokens::default(), json!([rule(execution, more)]));
    config["service"]["timeout_ms"] = json!(timeout_ms);
    Stack::builder().filter(config)
}

/// Starts a stack whose gateway reaches the service through a relay.
pub fn relayed(builder: StackBuilder) -> (Stack, Relay) {
    let relay = Relay::start();
    let address = relay.address();
    let stack = builder
        .gateway(move |gateway| gateway.service = ServiceAddress::Tcp(address))
        .on_envoy(|envoy| envoy.service_http2 = false)
        .start();
    relay.lead_to(stack.service.address());
    (stack, relay)
}

/// A charge under this key.
pub fn charge(target: &str, key: &str) -> Request {
    Request::post(target).key(key).body("{\"amount\":100}")
}

/// Sends a request on a thread of its own; join it for the answer.
pub fn in_background(
    stack: &Stack,
    request: &Request,
) -> std::thread::JoinHandle<Result<Answer, Broken>> {
    let (request, gateway) = (request.clone(), stack.address());
    std::thread::spawn(move || idempotency_e2e::Connection::http1(gateway).try_send(&request))
}

/// Waits until the upstream has begun to execute under this key.
pub fn await_execution(stack: &Stack, key: &str) {
    eventually(&format!("the upstream executes {key}"), || {
        idempotency_e2e::executions(stack, key) > 0
    });
}

/// Repeats a request as a client does that is told to come again (503, or 409 `in-flight`), and
/// returns the first other answer.
pub fn persist(stack: &Stack, request: &Request) -> Answer {
    let mut last = None;
    eventually("a retried request is decided", || {
        let answer = request.send(stack);
        let again = answer.status == 503 || problem(&answer) == "in-flight";
        last = Some(answer);
        !again
    });
    match last {
        Some(answer) => answer,
        None => unreachable!("the condition ran at least once"),
    }
}

/// The name of the problem that an answer is; empty if it is none.
pub fn problem(answer: &Answer) -> String {
    let document = answer.json();
    let kind = document["type"].as_str().unwrap_or_default();
    let last = kind.rsplit([':', '/', '#']).next();
    last.unwrap_or_default().to_owned()
}

/// The filter's counter of this name; 0 if nothing was counted yet.
pub fn counter(stack: &Stack, name: &str) -> u64 {
    stack.gateway.metric(&format!("idempotency_{name}"))
}

/// Waits until the filter's counter has this value.
///
/// Kong's Lua plugin counts what becomes of requests, and not what the service says of settlements and calls: of that,
/// nothing is awaited there.
pub fn await_counter(stack: &Stack, name: &str, value: u64) {
    const OF_THE_SERVICE: [&str; 4] = ["completed", "failed", "complete_", "callout_"];
    let is_of_the_service = OF_THE_SERVICE.iter().any(|begin| name.starts_with(begin));
    if idempotency_stack::Host::chosen() == idempotency_stack::Host::KongLua && is_of_the_service {
        return;
    }
    let reached = until(Duration::from_secs(20), || counter(stack, name) == value);
    assert!(
        reached,
        "{name} is {} and not {value}",
        counter(stack, name)
    );
}

/// Asserts that the filter still works after whatever happened to it: a new key runs once and is
/// replayed, and what is not protected passes.
pub fn assert_alive(stack: &Stack) {
    let key = idempotency_e2e::fresh_key("alive");
    let first = charge("/charges", &key).send(stack);
    assert_eq!(first.status, 201, "{first:?}");
    idempotency_e2e::assert_replay(&first, &charge("/charges", &key).send(stack));
    assert_eq!(idempotency_e2e::executions(stack, &key), 1);
    assert_eq!(Request::get("/healthz").send(stack).status, 200);
}
