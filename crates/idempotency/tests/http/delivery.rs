//! What clients get when something is not as it should be, and what the handler gets.

use crate::cases::{orders, Gate};
use crate::client::{post, serve};
use crate::common::{eventually, state, Spy};
use axum::extract::Request;
use axum::routing::{any, post as on_post};
use axum::Router;
use http::{HeaderMap, Method};
use http_body_util::Full;
use idempotency::http::{Attempt, IdempotencyLayer, WhenMissing};
use idempotency::store::{RecordState, Store};
use idempotency::Guard;
use std::sync::Arc;
use std::time::Duration;

fn rules(spy: &Arc<Spy>, rule: &str) -> IdempotencyLayer<idempotency::http::TheRules> {
    let store: Arc<dyn Store> = spy.clone();
    let text = format!(r#"{{"rules":[{{"match":{{}},"scope":"global"{rule}}}]}}"#);
    let layer = IdempotencyLayer::with_rules(Guard::new(store), &text);
    layer.check().unwrap();
    layer
}

#[tokio::test]
async fn a_store_that_is_down_refuses_and_nothing_runs() {
    let spy = Spy::memory();
    let store: Arc<dyn Store> = spy.clone();
    let gate = Gate::open();
    let layer = IdempotencyLayer::new(Guard::new(store)).global();
    let server = serve(orders(&gate, layer)).await;
    spy.set_down(true);
    let refused = server.send(post("/orders", "k", "")).await;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.problem(), "store-unavailable");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(gate.runs(), 0);
    spy.set_down(false);
    assert_eq!(server.send(post("/orders", "k", "")).await.status, 201);
}

/// What the handler got, as its answer.
async fn echo(attempt: Option<Attempt>, headers: HeaderMap, request: Request) -> String {
    let ours = headers.iter().filter(|(name, _)| {
        let name = name.as_str();
        name.starts_with("idempotency") || name.starts_with("accept") || name.starts_with("x-")
    });
    let mut lines: Vec<String> = ours
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    lines.sort();
    let number = attempt.map(|attempt| attempt.number());
    format!("{} {number:?}\n{}", request.uri(), lines.join("\n"))
}

#[tokio::test]
async fn with_pass_an_outage_runs_unprotected_and_marked() {
    let spy = Spy::memory();
    let layer = rules(&spy, r#","on_service_failure":"pass""#);
    let router = Router::new().route("/e", any(echo)).layer(layer);
    let server = serve(router).await;
    spy.set_down(true);
    let answer = server.send(post("/e", "k", "")).await;
    let body = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(body.starts_with("/e None\n"), "{body}");
    assert!(
        body.contains("idempotency-unprotected: store-unavailable"),
        "{body}"
    );
    assert!(!body.contains("idempotency-fence"), "{body}");
    // Its outcome is told to the store all the same, in case that the acquire had arrived.
    assert!(spy.count("complete") >= 1);
    assert_eq!(spy.count("fail"), 0);
}

#[tokio::test]
async fn with_withhold_an_answer_that_is_not_recorded_is_not_given() {
    let spy = Spy::memory();
    let gate = Gate::new();
    let layer = rules(&spy, r#","on_complete_failure":"withhold""#);
    let router = Router::new().route("/orders", any(crate::cases::create));
    let server = serve(router.layer(layer).with_state(gate.clone())).await;
    let first = server.send(post("/orders", "k", ""));
    let outage = async {
        gate.await_run().await;
        spy.set_down(true);
        gate.let_all_go();
    };
    let (first, ()) = tokio::join!(first, outage);
    assert_eq!(first.status, 503);
    assert_eq!(first.problem(), "outcome-unrecorded");
    spy.set_down(false);
    eventually("it is recorded late", async || {
        server.send(post("/orders", "k", "")).await.is_replay()
    })
    .await;
    assert_eq!(gate.runs(), 1);
}

#[tokio::test]
async fn the_handler_gets_what_only_we_send() {
    let spy = Spy::memory();
    let store: Arc<dyn Store> = spy.clone();
    let guard = Guard::new(store).namespace("n");
    let layer = IdempotencyLayer::new(guard).tenant(|_| Some("t&t".to_owned()));
    let router = Router::new().route("/e", any(echo)).layer(layer);
    let server = serve(router).await;
    let mut request = post("/e?a=1", "k", "");
    for (name, value) in [
        ("idempotency-attempt", "7"),
        ("idempotency_fence", "1"),
        ("idempotency-unprotected", "1"),
        ("x-envoy-retry-on", "5xx"),
        ("accept-encoding", "gzip"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let body = server.send(request).await.body;
    let body = String::from_utf8(body.to_vec()).unwrap();
    let mut lines: Vec<&str> = body.lines().collect();
    let fence = lines.remove(3);
    assert!(fence.starts_with("idempotency-fence: "), "{body}");
    assert_eq!(
        lines,
        [
            "/e?a=1 Some(1)",
            "accept-encoding: identity",
            "idempotency-attempt: 1",
            "idempotency-key: k",
            "idempotency-record: tenant=t%26t&namespace=n&key=k",
        ]
    );
    // Not protected: as it came, but for what only we send.
    let request = http::Request::builder()
        .uri("/e")
        .header("idempotency-fence", "1");
    let request = request.body(Full::default()).unwrap();
    assert_eq!(server.send(request).await.body, "/e None\n");
}

#[tokio::test]
async fn a_derived_key_reaches_the_handler() {
    let spy = Spy::memory();
    let store: Arc<dyn Store> = spy.clone();
    let layer = IdempotencyLayer::new(Guard::new(store)).global();
    let layer = layer.when_missing(WhenMissing::Derive);
    let router = Router::new().route("/e", any(echo)).layer(layer);
    let server = serve(router).await;
    let request = || {
        let request = http::Request::builder().uri("/e").method(Method::POST);
        request.body(Full::from("same")).unwrap()
    };
    let first = server.send(request()).await;
    let body = String::from_utf8(first.body.to_vec()).unwrap();
    assert!(body.contains("idempotency-key: \""), "{body}");
    assert!(server.send(request()).await.is_replay());
}

/// Two routers in one, each of which sees the same path.
#[tokio::test]
async fn nested_routers_are_told_apart() {
    let spy = Spy::memory();
    let store: Arc<dyn Store> = spy.clone();
    let layer = IdempotencyLayer::new(Guard::new(store)).global();
    let inner = Router::new().route("/e", any(echo)).layer(layer);
    let router = Router::new().nest("/a", inner.clone()).nest("/b", inner);
    let server = serve(router).await;
    assert_eq!(server.send(post("/a/e", "k", "")).await.status, 200);
    let other = server.send(post("/b/e", "k", "")).await;
    assert_eq!(other.problem(), "key-reused");
}

/// A gateway in front that shares the records looks the same: its requests carry its fence.
#[tokio::test]
async fn a_request_that_meets_its_own_lock_is_told_that_somebody_made_a_mistake() {
    let spy = Spy::memory();
    let store: Arc<dyn Store> = spy.clone();
    let gate = Gate::open();
    let layer = IdempotencyLayer::new(Guard::new(store)).global();
    let twice = orders(&gate, layer.clone().wait(Duration::from_secs(60))).layer(layer);
    let server = serve(twice).await;
    let refused = server.send(post("/orders", "k", "")).await;
    assert_eq!(
        (refused.status, refused.problem()),
        (503, "misconfigured".into())
    );
    assert_eq!(gate.runs(), 0);
    // Nothing was done, and nothing is recorded as the answer.
    assert_eq!(state(spy.as_ref()).await, Some(RecordState::Failed));
}

#[tokio::test]
async fn no_more_handlers_than_allowed_and_replays_all_the_same() {
    let spy = Spy::memory();
    let store: Arc<dyn Store> = spy.clone();
    let gate = Gate::new();
    let guard = Guard::new(store).max_executions(1);
    let layer = IdempotencyLayer::new(guard).global();
    let server = serve(orders(&gate, layer)).await;
    let first = server.send(post("/orders", "one", ""));
    let rest = async {
        gate.await_run().await;
        let refused = server.send(post("/orders", "two", "")).await;
        assert_eq!(
            (refused.status, refused.problem()),
            (503, "store-unavailable".into())
        );
        let body = String::from_utf8(refused.body.to_vec()).unwrap();
        assert!(
            body.contains("Too many requests are being executed"),
            "{body}"
        );
        gate.let_all_go();
    };
    let (first, ()) = tokio::join!(first, rest);
    assert_eq!(first.status, 201);
    eventually("the other one has its turn", async || {
        server.send(post("/orders", "two", "")).await.status == 201
    })
    .await;
    assert!(server.send(post("/orders", "one", "")).await.is_replay());
}

#[tokio::test]
async fn drain_cuts_off_handlers_that_do_not_end_and_they_are_unknown() {
    let spy = Spy::memory();
    let store: Arc<dyn Store> = spy.clone();
    let gate = Gate::new();
    let guard = Guard::new(store);
    let layer = IdempotencyLayer::new(guard.clone()).global();
    let server = serve(orders(&gate, layer)).await;
    let first = server.send(post("/orders", "k", ""));
    let drained = async {
        gate.await_run().await;
        guard.drain(Duration::from_millis(50)).await
    };
    let (first, drained) = tokio::join!(first, drained);
    assert!(!drained);
    assert_eq!(
        (first.status, first.problem()),
        (502, "outcome-unknown".into())
    );
    assert_eq!(state(spy.as_ref()).await, Some(RecordState::Unknown));
    let late = server.send(post("/orders", "new", "")).await;
    assert_eq!(
        (late.status, late.problem()),
        (503, "store-unavailable".into())
    );
    assert_eq!(gate.runs(), 1);
}

#[tokio::test]
async fn a_body_over_the_cap_is_413_and_the_key_stays_free() {
    let spy = Spy::memory();
    let store: Arc<dyn Store> = spy.clone();
    let gate = Gate::open();
    let layer = IdempotencyLayer::new(Guard::new(store)).global();
    let server = serve(orders(&gate, layer.max_body_bytes(10))).await;
    let refused = server.send(post("/orders", "k", "12345678901")).await;
    assert_eq!(
        (refused.status, refused.problem()),
        (413, "body-too-large".into())
    );
    assert_eq!((spy.calls(), gate.runs()), (0, 0));
    assert_eq!(
        server.send(post("/orders", "k", "1234567890")).await.status,
        201
    );
}

/// Answers by what it is asked for.
async fn by_query(request: Request) -> http::StatusCode {
    let status: u16 = request.uri().query().unwrap().parse().unwrap();
    http::StatusCode::from_u16(status).unwrap()
}

#[tokio::test]
async fn what_an_answer_means_is_what_the_gateway_makes_of_it() {
    for (status, expected) in [
        (200, RecordState::Completed),
        (302, RecordState::Completed),
        (404, RecordState::Completed),
        (401, RecordState::Failed),
        (429, RecordState::Failed),
        (500, RecordState::Unknown),
        (503, RecordState::Unknown),
    ] {
        let spy = Spy::memory();
        let store: Arc<dyn Store> = spy.clone();
        let layer = IdempotencyLayer::new(Guard::new(store)).global();
        let router = Router::new().route("/", on_post(by_query)).layer(layer);
        let server = serve(router).await;
        let first = server.send(post(&format!("/?{status}"), "k", "")).await;
        assert_eq!(first.status, status);
        assert_eq!(state(spy.as_ref()).await, Some(expected), "{status}");
        assert_eq!(
            first.header("idempotency-expires").is_some(),
            expected == RecordState::Completed
        );
    }
}
