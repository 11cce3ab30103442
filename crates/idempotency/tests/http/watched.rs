//! Observe mode: nothing changes, and everything is counted.

use crate::cases::Gate;
use crate::client::{post, serve};
use crate::common::{eventually, state, Spy};
use axum::extract::State;
use axum::routing::post as on_post;
use axum::Router;
use bytes::Bytes;
use http::HeaderMap;
use idempotency::http::IdempotencyLayer;
use idempotency::store::{RecordState, Store};
use idempotency::Guard;
use std::sync::Arc;

async fn count(State(gate): State<Gate>, headers: HeaderMap, body: Bytes) -> String {
    let run = gate.pass().await;
    let ours = headers
        .keys()
        .any(|name| name.as_str() == "idempotency-fence");
    format!("{run} {ours} {}", body.len())
}

#[tokio::test]
async fn every_duplicate_runs_and_is_counted_as_what_it_would_have_been() {
    let spy = Spy::memory();
    let store: Arc<dyn Store> = spy.clone();
    let guard = Guard::new(store);
    let gate = Gate::open();
    let layer = IdempotencyLayer::new(guard.clone()).global().observe();
    let layer = layer.max_body_bytes(10);
    let router = Router::new().route("/", on_post(count)).layer(layer);
    let server = serve(router.with_state(gate.clone())).await;
    let counted = async |name: &str, value: u64| {
        eventually(name, async || guard.counts().get(name) == Some(&value)).await;
    };

    assert_eq!(server.send(post("/", "k", "body")).await.body, "1 false 4");
    eventually("the outcome is recorded", async || {
        state(spy.as_ref()).await == Some(RecordState::Completed)
    })
    .await;
    counted("observed_execution", 1).await;
    counted("completed", 1).await;
    for run in 2..5 {
        let again = server.send(post("/", "k", "body")).await;
        assert_eq!(again.body, format!("{run} false 4"));
        assert!(!again.is_replay() && again.header("idempotency-expires").is_none());
        counted("observed_replay", run - 1).await;
    }
    assert_eq!(server.send(post("/", "k", "other")).await.status, 200);
    counted("observed_key_reused", 1).await;
    assert_eq!(server.send(post("/", "", "body")).await.status, 200);
    counted("observed_invalid_key", 1).await;
    assert_eq!(
        server.send(post("/", "big", "12345678901")).await.body,
        "7 false 11"
    );
    counted("observed_body_too_large", 1).await;
    spy.set_down(true);
    assert_eq!(server.send(post("/", "down", "")).await.status, 200);
    counted("observed_store_unavailable", 1).await;
    let counts = guard.counts();
    assert_eq!((counts["executed"], counts["replayed"]), (0, 0));
    assert_eq!(gate.runs(), 8);
}

#[tokio::test]
async fn a_client_that_leaves_cancels_what_is_only_observed() {
    let spy = Spy::memory();
    let store: Arc<dyn Store> = spy.clone();
    let gate = Gate::new();
    let layer = IdempotencyLayer::new(Guard::new(store)).global().observe();
    let router = Router::new().route("/", on_post(count)).layer(layer);
    let server = serve(router.with_state(gate.clone())).await;
    let client = server.begin("/", "k", "body").await;
    gate.await_run().await;
    drop(client);
    eventually("it is unknown", async || {
        state(spy.as_ref()).await == Some(RecordState::Unknown)
    })
    .await;
}
