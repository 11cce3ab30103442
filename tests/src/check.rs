//! What tests ask and assert.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use idempotency_stack::{until, Execution, Stack};
use serde_json::Value;

use crate::answer::Answer;
use crate::gap;

/// How long [`eventually`] waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// The marker of a replay, as configured by default.
const MARKER: &str = "idempotency-replayed";

/// What the gateway itself puts on any answer.
const OF_THE_GATEWAY: [&str; 11] = [
    "via",
    "x-kong-proxy-latency",
    "x-kong-request-id",
    "x-kong-response-latency",
    "x-kong-upstream-latency",
    "date",
    "server",
    "content-length",
    "transfer-encoding",
    "connection",
    "x-envoy-upstream-service-time",
];

/// The response headers that a replay keeps, as documented.
const KEPT: [&str; 32] = [
    "accept-ranges",
    "allow",
    "cache-control",
    "content-digest",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-location",
    "content-range",
    "content-security-policy",
    "content-type",
    "cross-origin-embedder-policy",
    "cross-origin-opener-policy",
    "cross-origin-resource-policy",
    "deprecation",
    "digest",
    "etag",
    "expires",
    "grpc-message",
    "grpc-status",
    "grpc-status-details-bin",
    "last-modified",
    "link",
    "location",
    "permissions-policy",
    "preference-applied",
    "referrer-policy",
    "repr-digest",
    "retry-after",
    "strict-transport-security",
    "vary",
    "x-content-type-options",
];

/// A key that no other test of this process has.
pub fn fresh_key(label: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{label}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// How often the upstream has executed under this key, as the upstream received it.
pub fn executions(stack: &Stack, key: &str) -> u64 {
    stack.upstream.executions().of(key)
}

/// The upstream's log of the executions under this key, in order.
///
/// # Panics
///
/// If the upstream does not answer.
pub fn log(stack: &Stack, key: &str) -> Vec<Execution> {
    let mut log = stack.upstream.log();
    log.retain(|execution| execution.key == key);
    log
}

/// Waits until a condition of another process holds.
///
/// # Panics
///
/// If it does not within half a minute; the message says `what` was awaited.
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    assert!(
        until(PATIENCE, condition),
        "waited {PATIENCE:?} in vain until {what}"
    );
}

/// The record of a key without tenant and namespace, as operators see it; `None` without one.
///
/// # Panics
///
/// If the service does not answer.
pub fn record(stack: &Stack, key: &str) -> Option<Value> {
    let escaped: String = key
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect();
    let answer = stack
        .service
        .operator("GET", &format!("/v1/record?key={escaped}"), "");
    match answer.status {
        200 => Some(answer.json()),
        404 => None,
        _ => panic!("the record of {key}: {answer:?}"),
    }
}

/// `executing`, `completed`, `failed`, `unknown`, or `absent`.
///
/// # Panics
///
/// If the service does not answer.
pub fn record_state(stack: &Stack, key: &str) -> String {
    gap::settled(key, || {
        record(stack, key)
            .and_then(|record| Some(record["state"].as_str()?.to_owned()))
            .unwrap_or_else(|| "absent".to_owned())
    })
}

/// Whether the answer is marked as a replay.
pub fn replayed(answer: &Answer) -> bool {
    answer.header(MARKER).as_deref() == Some("true")
}

/// Asserts that `replay` is the replay of `first`: marked, the same status, the same bytes, the
/// headers that a replay keeps in the same order, and nothing else.
///
/// # Panics
///
/// If it is not.
pub fn assert_replay(first: &Answer, replay: &Answer) {
    assert_replay_with(first, replay, MARKER, &[]);
}

/// As [`assert_replay`], with another marker and further kept headers (`replay_headers`).
///
/// # Panics
///
/// If it is not.
pub fn assert_replay_with(first: &Answer, replay: &Answer, marker: &str, more: &[&str]) {
    let both = || format!("\nfirst: {first:?}\nreplay: {replay:?}");
    assert_eq!(first.header(marker), None, "the first is marked{}", both());
    assert_eq!(
        replay.header(marker).as_deref(),
        Some("true"),
        "the replay is not marked{}",
        both()
    );
    assert_eq!(first.status, replay.status, "{}", both());
    if first.body != replay.body {
        let pairs = first.body.iter().zip(&replay.body);
        let same = pairs.take_while(|(a, b)| a == b).count();
        panic!("the bodies differ from byte {same} on{}", both());
    }
    assert!(replay.trailers.is_empty(), "{}", both());
    let kept = |name: &str| KEPT.contains(&name) || more.contains(&name);
    let mut expected: Vec<_> = first.headers.iter().filter(|(n, _)| kept(n)).collect();
    let of_replay = ["age", "idempotency-expires", marker];
    let mut actual: Vec<_> = replay
        .headers
        .iter()
        .filter(|(n, _)| !OF_THE_GATEWAY.contains(&n.as_str()) && !of_replay.contains(&n.as_str()))
        .collect();
    // Order matters among the values of one name only (RFC 9110 section 5.3).
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    actual.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(expected, actual, "the kept headers differ{}", both());
    let age = replay.header("age").and_then(|age| age.parse::<u64>().ok());
    assert!(age.is_some_and(|age| age < 3600), "age{}", both());
    let expires = replay.header("idempotency-expires");
    assert!(is_date(expires.as_deref()), "idempotency-expires{}", both());
    if let Some(at_first) = first.header("idempotency-expires") {
        assert_eq!(Some(at_first), expires, "{}", both());
    }
}

/// An RFC 9651 Date, in this century.
fn is_date(value: Option<&str>) -> bool {
    value
        .and_then(|value| value.strip_prefix('@')?.parse::<u64>().ok())
        .is_some_and(|seconds| (1_700_000_000..4_000_000_000).contains(&seconds))
}

/// Asserts that an answer is this problem document, complete.
///
/// # Panics
///
/// If it is not.
pub fn assert_problem(answer: &Answer, status: u16, name: &str) {
    let document = answer.json();
    assert_eq!(answer.status, status, "{name}: {answer:?}");
    assert_eq!(
        answer.header("content-type").as_deref(),
        Some("application/problem+json"),
        "{answer:?}"
    );
    assert_eq!(
        answer.header("cache-control").as_deref(),
        Some("no-store"),
        "{answer:?}"
    );
    let kind = document["type"].as_str().unwrap_or_default();
    let last = kind.rsplit([':', '/', '#']).next();
    assert_eq!(last, Some(name), "{answer:?}");
    assert_eq!(
        answer.header("link"),
        Some(format!("<{kind}>; rel=\"describedby\"")),
        "{answer:?}"
    );
    assert_eq!(document["status"], status, "{answer:?}");
    for field in ["title", "detail"] {
        let text = document[field].as_str();
        assert!(text.is_some_and(|text| !text.is_empty()), "{answer:?}");
    }
    let retryable = document["retryable"].as_bool();
    assert!(document["reuse_key"].is_boolean(), "{answer:?}");
    assert_eq!(
        retryable,
        Some(answer.header("retry-after").is_some()),
        "what may be retried says when: {answer:?}"
    );
    assert_eq!(answer.header(MARKER), None, "{answer:?}");
}
