//! A configuration that is wrong never means "no protection".

use crate::cases::{create, orders, Gate};
use crate::client::{post, serve};
use crate::common::Spy;
use axum::routing::any;
use axum::Router;
use http::{Method, Request};
use http_body_util::Full;
use idempotency::http::IdempotencyLayer;
use idempotency::store::Store;
use idempotency::Guard;
use std::sync::Arc;
use std::time::Duration;

fn guard(spy: &Arc<Spy>) -> Guard {
    let store: Arc<dyn Store> = spy.clone();
    Guard::new(store)
}

#[tokio::test]
async fn a_layer_that_is_wrong_refuses_every_change() {
    let spy = Spy::memory();
    let layer = |seconds| {
        let layer = IdempotencyLayer::new(guard(&spy)).global();
        layer.wait(Duration::from_secs(seconds))
    };
    assert_eq!(layer(60).check(), Ok(()));
    let wrong = layer(61);
    let error = wrong.check().unwrap_err().to_string();
    assert!(error.starts_with("rules[0].wait_ms: "), "{error}");
    let gate = Gate::open();
    let router = Router::new()
        .route("/orders", any(create))
        .route("/free", any(|| async { "free" }));
    let server = serve(router.layer(wrong).with_state(gate.clone())).await;
    for path in ["/orders", "/free"] {
        let refused = server.send(post(path, "k", "")).await;
        assert_eq!(
            (refused.status, refused.problem()),
            (503, "misconfigured".into())
        );
    }
    for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
        let request = Request::builder().method(method).uri("/free");
        let request = request.body(Full::default()).unwrap();
        assert_eq!(server.send(request).await.status, 200);
    }
    assert_eq!((spy.calls(), gate.runs()), (0, 0));
}

#[test]
fn what_is_wrong_is_told() {
    let spy = Spy::memory();
    let new = || IdempotencyLayer::new(guard(&spy)).global();
    assert!(new().check().is_ok());
    assert!(new().key_header("x key").check().is_err());
    assert!(new().max_response_bytes(15 << 20).check().is_ok());
    assert!(new().max_response_bytes((15 << 20) + 1).check().is_err());
    assert!(new().methods(&[Method::GET]).check().is_err());
    assert!(new().methods(&[]).check().is_err());
    let never = IdempotencyLayer::new(guard(&spy).lease(Duration::ZERO)).global();
    assert!(never.check().is_err());
    let short = IdempotencyLayer::new(guard(&spy).lease(Duration::from_millis(1_000))).global();
    assert_eq!(short.check(), Ok(()));
    let with = |text: &str| IdempotencyLayer::with_rules(guard(&spy), text);
    assert!(with("").check().is_err());
    assert!(with(r#"{"rules":[{"match":{}}]}"#).check().is_err());
    let property = with(r#"{"rules":[{"match":{},"scope":{"property":["user"]}}]}"#);
    assert!(property.check().is_err(), "nobody tells the tenant");
    assert!(property.tenant(|_| None).check().is_ok());
}

/// The gateway's own file.
#[tokio::test]
async fn the_gateways_rules_mean_the_same_here() {
    let spy = Spy::memory();
    let gate = Gate::open();
    let text = r#"{
        "service": {"target": "idempotency", "token": "t"},
        "detached": {"cluster": "execution"},
        "replay_header": "X-Replayed",
        "problem_base": "https://errors.example.com/",
        "defaults": {"scope": {"header": "x-tenant"}},
        "rules": [{"match": {"path": "/orders", "methods": ["PUT"]}, "key": {"header": "x-key"}}]
    }"#;
    let layer = IdempotencyLayer::with_rules(guard(&spy), text);
    layer.check().unwrap();
    let router = Router::new().route("/orders", any(create));
    let server = serve(router.layer(layer).with_state(gate.clone())).await;
    let put = |tenant: Option<&str>| {
        let request = Request::builder().method(Method::PUT).uri("/orders");
        let request = request.header("x-key", "k");
        let request = match tenant {
            Some(tenant) => request.header("x-tenant", tenant),
            None => request,
        };
        server.send(request.body(Full::default()).unwrap())
    };
    let refused = put(None).await;
    assert_eq!(refused.status, 403);
    assert!(String::from_utf8_lossy(&refused.body)
        .contains("https://errors.example.com/tenant-missing"));
    let first = put(Some("a")).await;
    let again = put(Some("a")).await;
    assert_eq!(
        (first.status, again.header("x-replayed")),
        (201, Some("true"))
    );
    assert_eq!(first.body, again.body);
    assert_eq!(put(Some("b")).await.header("x-replayed"), None);
    assert_eq!(gate.runs(), 2);
}

#[tokio::test]
async fn chosen_methods_are_protected_and_no_others() {
    let spy = Spy::memory();
    let gate = Gate::open();
    let layer = IdempotencyLayer::new(guard(&spy)).global();
    let layer = layer.methods(&[Method::DELETE]);
    let server = serve(orders(&gate, layer)).await;
    let send = |method: Method| {
        let request = Request::builder().method(method).uri("/orders");
        server.send(request.body(Full::default()).unwrap())
    };
    assert_eq!(send(Method::DELETE).await.problem(), "missing-key");
    // The handler asks for its attempt, and has none.
    assert_eq!(send(Method::POST).await.status, 500);
    assert_eq!(spy.calls(), 0);
}
