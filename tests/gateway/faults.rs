//! What upstreams and the gateway's own failures do to a key: one execution per request whatever
//! happens, and for the retry what the rule says.

use std::sync::OnceLock;
use std::time::Duration;

use idempotency_e2e::{
    assert_problem, assert_replay, eventually, executions, fresh_key, inline_rule, log,
    record_state, rule, side_by_side, with_rules, Answer, Broken, Request, Shared,
};
use idempotency_stack::{Route, Stack};
use serde_json::{json, Value};

static STACK: Shared = Shared::new(|| with_rules(every_rule()));

const EXECUTIONS: [&str; 2] = ["detached", "inline"];

/// The route without and the one with `retry_on: 5xx,reset`.
const ROUTES: [&str; 2] = ["/charges", "/charges/retried"];

/// A rule's policy about outcomes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Policy {
    /// The defaults.
    Default,
    /// `outcomes: all`.
    All,
    /// `on_unknown: retry`.
    Retry,
}

const POLICIES: [Policy; 3] = [Policy::Default, Policy::All, Policy::Retry];

/// The path below which a rule has this policy.
fn below(route: &str, execution: &str, policy: Policy) -> String {
    format!("{route}/{execution}-{policy:?}")
}

fn every_rule() -> &'static [Value] {
    static RULES: OnceLock<Vec<Value>> = OnceLock::new();
    RULES.get_or_init(|| {
        let mut rules = Vec::new();
        for route in [
            "/charges/refused",
            "/charges/no-hosts",
            "/charges/retried",
            "/charges",
        ] {
            for policy in POLICIES {
                let fields = match policy {
                    Policy::Default => json!({}),
                    Policy::All => json!({ "outcomes": "all" }),
                    Policy::Retry => json!({ "on_unknown": "retry" }),
                };
                rules.push(rule(&below(route, "detached", policy), fields.clone()));
                rules.push(inline_rule(&below(route, "inline", policy), fields));
            }
        }
        rules
    })
}

/// What an execution leaves behind.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Left {
    Completed,
    Failed,
    Unknown,
}

/// Sends a request and its retry; `left` is what the first one is to leave. `reached`: it reaches
/// the upstream. Returns the first answer.
fn check(
    stack: &Stack,
    path: &str,
    query: &str,
    policy: Policy,
    left: Left,
    reached: bool,
) -> Result<Answer, Broken> {
    let key = fresh_key("fault");
    let why = format!("{path}?{query}");
    let request = Request::post(&why).key(&key).body("{\"amount\":1}");
    let once = u64::from(reached);
    let first = request.try_send(stack);
    assert_eq!(executions(stack, &key), once, "{why}: {first:?}");
    let state = format!("{left:?}").to_ascii_lowercase();
    eventually(&format!("{why} leaves its key {state}"), || {
        record_state(stack, &key) == state
    });
    let retry = request.try_send(stack);
    let again = match (left, policy, &first, &retry) {
        (Left::Completed, _, Ok(first), Ok(retry)) => {
            assert_replay(first, retry);
            false
        }
        (Left::Failed, ..) | (Left::Unknown, Policy::Retry, ..) => true,
        (Left::Unknown, _, _, Ok(retry)) => {
            assert_problem(retry, 409, "outcome-unknown");
            false
        }
        _ => panic!("{why}: first {first:?}, retry {retry:?}"),
    };
    if again {
        let status = |answer: &Result<Answer, Broken>| answer.as_ref().map(|a| a.status).ok();
        assert_eq!(status(&first), status(&retry), "{why}: executed anew");
    }
    let times = if again { 2 * once } else { once };
    assert_eq!(executions(stack, &key), times, "{why}: {retry:?}");
    let log = log(stack, &key);
    let attempts: Vec<_> = log.iter().filter_map(|e| e.attempt.as_deref()).collect();
    assert_eq!(attempts, ["1", "2"][..log.len()], "{why}");
    let fences: Vec<u64> = log
        .iter()
        .filter_map(|e| e.fence.as_ref()?.parse().ok())
        .collect();
    assert!(
        fences.len() == log.len() && fences.windows(2).all(|f| f[0] < f[1]),
        "{log:?}"
    );
    first
}

/// Runs a check under every execution and policy, on both routes.
fn everywhere(
    query: &str,
    left: impl Fn(Policy) -> Left + Sync,
    first: impl Fn(&str, Result<Answer, Broken>) + Sync,
) {
    let stack = STACK.get();
    let mut cases = Vec::new();
    for route in ROUTES {
        for execution in EXECUTIONS {
            cases.extend(POLICIES.map(|policy| (route, execution, policy)));
        }
    }
    side_by_side(cases, |(route, execution, policy)| {
        let path = below(route, execution, policy);
        let left = left(policy);
        first(execution, check(&stack, &path, query, policy, left, true));
    });
}

/// As [`everywhere`], for an answer with this status that comes from the upstream.
fn answered(status: u16, query: &str, left: Left) {
    let left = |policy| match policy {
        Policy::All => Left::Completed,
        Policy::Default | Policy::Retry => left,
    };
    everywhere(query, left, |_, first| {
        let answer = first.unwrap();
        assert_eq!(answer.status, status, "{query}: {answer:?}");
        assert_eq!(answer.text(), "told", "{query}: {answer:?}");
    });
}

#[test]
fn server_errors_leave_the_outcome_unknown_unless_every_answer_is_kept() {
    for status in [500, 501, 502, 503, 504, 507, 599] {
        answered(status, &format!("status={status}&body=told"), Left::Unknown);
    }
}

#[test]
fn unavailable_with_a_retry_after_is_failed_and_may_be_retried() {
    answered(503, "status=503&retry_after=1&body=told", Left::Failed);
    // An upstream with an idempotency layer of its own: still running.
    answered(409, "status=409&retry_after=1&body=told", Left::Failed);
    answered(409, "status=409&body=told", Left::Completed);
    // On another status the header means nothing.
    answered(500, "status=500&retry_after=1&body=told", Left::Unknown);
}

#[test]
fn refusals_that_ask_to_come_back_are_failed_and_may_be_retried() {
    for status in [401, 403, 407, 408, 421, 423, 425, 429] {
        answered(status, &format!("status={status}&body=told"), Left::Failed);
    }
}

#[test]
fn other_answers_are_final() {
    for status in [
        200, 201, 202, 299, 301, 302, 400, 402, 404, 405, 409, 410, 422, 451,
    ] {
        answered(
            status,
            &format!("status={status}&body=told"),
            Left::Completed,
        );
    }
    answered(429, "status=429&body=told&header=x-a:1", Left::Failed);
}

/// The client of the execution itself learns what a retry would, in place of the gateway's bare error.
fn told_to_its_own_client(answer: &Answer) {
    by_host!(
        "nginx's error page takes the request away from the filter; behind the library's layer is a handler, \
         whose answers are its own",
        envoy: assert_problem(answer, answer.status, "outcome-unknown"),
        kong: (),
        layer: (),
    );
}

#[test]
fn a_reset_after_the_request_was_read_leaves_the_outcome_unknown() {
    // Envoy answers by itself; that is no answer of the upstream, so "all" does not keep it.
    everywhere(
        "reset=before",
        |_| Left::Unknown,
        |_, first| {
            let answer = first.unwrap();
            assert_eq!(answer.status, 502, "{answer:?}");
            told_to_its_own_client(&answer);
        },
    );
}

#[test]
fn a_response_that_is_cut_leaves_the_outcome_unknown() {
    for query in [
        "reset=headers",
        "reset=headers&bytes=1000",
        "reset=mid",
        "reset=mid&bytes=60000",
    ] {
        everywhere(
            query,
            |_| Left::Unknown,
            |_, first| {
                by_host!(
                    "Kong cannot hold a response: its client sees the cut",
                    envoy: {
                        // Its length is known and small: nothing of it had been passed on.
                        let answer = first.unwrap();
                        assert_eq!(answer.status, 502, "{query}: {answer:?}");
                    },
                    kong: assert!(first.is_err(), "{query}: {first:?}"),
                );
            },
        );
    }
    for query in [
        "reset=mid&bytes=300000",
        "reset=mid&bytes=300000&chunked=1",
        "reset=mid&bytes=200&chunked=1",
        "reset=headers&bytes=200&chunked=1",
    ] {
        everywhere(
            query,
            |_| Left::Unknown,
            |execution, first| match first {
                Ok(answer) => {
                    // Who collects the whole answer first can tell what happened.
                    let whole = by_host!(
                        "Kong passes a response on as it comes, and so do the library's layer and the native \
                         module if it is long or of unknown length",
                        envoy: "detached",
                        kong: "none",
                        layer: "none",
                        lua: "none",
                        native: "none",
                    );
                    assert_eq!(execution, whole, "{query}: {answer:?}");
                    assert_eq!(answer.status, 502, "{query}: {answer:?}");
                }
                Err(broken) => {
                    let held = by_host!(
                        "Kong passes a response on as it comes, and so do the library's layer and the native \
                         module if it is long or of unknown length",
                        envoy: "detached",
                        kong: "none",
                        layer: "none",
                        lua: "none",
                        native: "none",
                    );
                    assert_ne!(execution, held, "{query}: {broken:?}");
                    let part = broken.partial.unwrap_or_default();
                    assert!(part.body.len() < 200_000, "{query}: {part:?}");
                }
            },
        );
    }
}

#[test]
fn the_gateways_own_answer_to_a_cut_response_is_a_problem_document() {
    not_on!(Native, "the native module executes inline only");
    only_on!(
        Envoy | Layer,
        "Kong cannot hold a response: its client sees the cut"
    );
    let stack = STACK.get();
    let path = below("/charges", "detached", Policy::Default);
    let key = fresh_key("cut");
    let answer = Request::post(&format!("{path}?reset=headers"))
        .key(&key)
        .send(&stack);
    assert_eq!(answer.status, 502);
    let document = answer.json();
    assert_eq!(
        document["status"], 502,
        "the document says the same: {answer:?}"
    );
    assert_eq!(executions(&stack, &key), 1);
}

#[test]
fn what_was_never_sent_is_failed_and_may_be_retried() {
    let stack = STACK.get();
    let (routes, left, status) = by_host!(
        "nginx's error page takes the request away from the filter: a refused connection leaves \
         an unknown outcome; without any target Kong answers before the filter",
        envoy: (&["/charges/refused", "/charges/no-hosts"][..], Left::Failed, 503),
        kong: (&["/charges/refused"][..], Left::Unknown, 502),
        lua: (&["/charges/refused"][..], Left::Failed, 502),
    );
    for route in routes {
        for execution in EXECUTIONS {
            for policy in POLICIES {
                let path = below(route, execution, policy);
                let first = check(&stack, &path, "", policy, left, false).unwrap();
                assert_eq!(first.status, status, "{first:?}");
            }
        }
    }
    assert!(stack
        .upstream
        .log()
        .iter()
        .all(|e| !e.path.contains("refused")));
}

#[test]
fn classes_of_answers_can_be_set_one_by_one() {
    let outcomes = json!({ "outcomes": {
        "500": "failed", "4xx": "unknown", "404": "completed", "503": "completed", "2xx": "completed",
        "409+retry-after": "completed", "2xx+retry-after": "failed",
    } });
    let stack = with_rules(&[
        inline_rule("/inline", outcomes.clone()),
        rule("/charges", outcomes),
    ])
    .start();
    for path in ["/charges", "/inline"] {
        for (query, left) in [
            ("status=500", Left::Failed),
            ("status=502", Left::Unknown),
            ("status=400", Left::Unknown),
            ("status=404", Left::Completed),
            ("status=429", Left::Failed),
            ("status=503", Left::Completed),
            ("status=503&retry_after=1", Left::Completed),
            ("status=409&retry_after=1", Left::Completed),
            ("status=418&retry_after=1", Left::Unknown),
            ("status=202&retry_after=1", Left::Failed),
            ("status=202", Left::Completed),
            ("", Left::Completed),
        ] {
            check(&stack, path, query, Policy::Default, left, true).unwrap();
        }
    }
}

#[test]
fn a_failed_execution_may_succeed_at_the_next_attempt() {
    // The query is part of the operation, so the failure must not be in it: the upstream is down.
    for execution in EXECUTIONS {
        let (policy, status, left) = by_host!(
            "a refused connection is failed on Envoy and unknown on Kong, where the rule says \
             whether a retry may run",
            envoy: ("refuse", 503, "failed"),
            kong: ("retry", 502, "unknown"),
            lua: ("refuse", 502, "failed"),
        );
        let fields = json!({ "execution": execution, "on_unknown": policy });
        let mut stack = with_rules(&[rule("/charges", fields)]).start();
        let key = fresh_key("later");
        let request = Request::post("/charges").key(&key).body("{}");
        stack.upstream.process().kill();
        for _ in 0..3 {
            assert_eq!(request.send(&stack).status, status);
            eventually("the key is free again", || {
                record_state(&stack, &key) == left
            });
        }
        let options = idempotency_stack::UpstreamOptions {
            port: Some(stack.upstream.address().port()),
            ..Default::default()
        };
        stack.upstream = idempotency_stack::Upstream::start(options).unwrap();
        let mut first = request.send(&stack);
        // Envoy may meet the connection that died with the old one.
        if first.status == 503 {
            eventually("the key is free again", || {
                record_state(&stack, &key) == "failed"
            });
            first = request.send(&stack);
        }
        assert_eq!(first.status, 201, "{execution}: {first:?}");
        assert_replay(&first, &request.send(&stack));
        let log = log(&stack, &key);
        assert_eq!(log.len(), 1);
        let attempt: u32 = log[0]
            .attempt
            .as_deref()
            .unwrap_or_default()
            .parse()
            .unwrap();
        assert!(attempt >= 4, "{log:?}");
    }
}

#[test]
fn an_upstream_that_is_too_slow_leaves_the_outcome_unknown() {
    let short = json!({ "execution_timeout_ms": 300 });
    let stack = with_rules(&[
        inline_rule("/slow/inline", json!({ "outcomes": "all" })),
        rule("/slow", json!({ "outcomes": "all" })),
        rule(
            "/charges/again",
            json!({ "execution_timeout_ms": 300, "on_unknown": "retry" }),
        ),
        rule("/charges", short),
    ])
    .gateway(|gateway| {
        let slow = Route {
            timeout: Some(Duration::from_millis(300)),
            retries: true,
            ..Route::new("/slow", idempotency_stack::Cluster::Upstream)
        };
        gateway.routes.insert(0, slow);
    })
    .start();
    let paths = by_host!(
        "on Kong and of an inline execution the route's own timeout is the only one, and the library's layer has none",
        envoy: &["/slow/inline", "/slow", "/charges"][..],
        kong: &["/slow/inline", "/slow"][..],
        layer: &["/slow/inline", "/slow"][..],
        lua: &["/slow/inline", "/slow"][..],
        native: &["/slow/inline", "/slow"][..],
    );
    for path in paths {
        let first = check(
            &stack,
            path,
            "delay_ms=1500",
            Policy::Default,
            Left::Unknown,
            true,
        );
        let answer = first.unwrap();
        assert_eq!(answer.status, 504, "{path}");
        told_to_its_own_client(&answer);
    }
    // Whoever allows it executes again.
    let (again, total): (&[&str], u64) = by_host!(
        "on Kong and of an inline execution the route's own timeout is the only one, and the library's layer has none",
        envoy: (&["/charges/again"], 5),
        kong: (&[], 2),
        layer: (&[], 2),
        lua: (&[], 2),
        native: (&[], 2),
    );
    for path in again {
        check(
            &stack,
            path,
            "delay_ms=1500",
            Policy::Retry,
            Left::Unknown,
            true,
        )
        .unwrap();
    }
    eventually("the slow executions have ended", || {
        stack.upstream.log().iter().all(|e| e.finished)
    });
    assert_eq!(stack.upstream.executions().total, total);
}
