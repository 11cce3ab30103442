//! Overload, slowness, and a store that is not ready.

use crate::support::*;
use idempotency_protocol::{Answer, Request, CONTENT_TYPE, OPERATIONS_PATH};
use std::sync::atomic::Ordering;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn over_the_limit_acquires_are_refused_and_completes_have_a_reserve() {
    let store = Gate::new();
    let mut settings = settings();
    settings.max_concurrent_calls = Some(2);
    let server = TestServer::on(settings, store.clone()).await;
    let gateway = server.client().token(GATEWAY);
    let me = owner();
    granted(gateway.one(acquire("k", me)).await);
    store.shut();
    let call = |operation| {
        let gateway = gateway.clone();
        tokio::spawn(async move { gateway.one(operation).await })
    };
    let held = [call(acquire("a", owner())), call(acquire("b", owner()))];
    eventually("both are at the store", || async { store.arrived() == 3 }).await;
    let body = Request {
        operations: vec![acquire("c", owner())],
    }
    .encode();
    let refused = gateway.post(OPERATIONS_PATH, body.clone()).await;
    refused.problem(503, "overloaded");
    assert_eq!(refused.header("retry-after"), Some("1"));
    let completing = call(complete("k", me, "x"));
    eventually("the complete got through", || async {
        store.arrived() == 4
    })
    .await;
    // The reserve has an end too.
    let more = Request {
        operations: vec![complete("z", me, "x")],
    }
    .encode();
    gateway
        .post(OPERATIONS_PATH, more)
        .await
        .problem(503, "overloaded");
    store.open();
    assert!(matches!(
        completing.await.unwrap(),
        Answer::Completed { .. }
    ));
    for call in held {
        granted(call.await.unwrap());
    }
    assert_eq!(gateway.post(OPERATIONS_PATH, body).await.status, 200);
}

#[tokio::test]
async fn a_slow_body_is_cut() {
    let mut settings = settings();
    settings.body_timeout = Some("50ms".parse().unwrap());
    let server = TestServer::with(settings).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "POST {OPERATIONS_PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {GATEWAY}\r\n\
         content-type: {CONTENT_TYPE}\r\ncontent-length: 100\r\n\r\nhalf"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer))
        .await
        .unwrap();
    read.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn large_bodies_share_a_budget() {
    let mut settings = settings();
    settings.max_body_bytes = Some("200KiB".parse().unwrap());
    settings.max_buffered_bytes = Some("300KiB".parse().unwrap());
    let server = TestServer::with(settings).await;
    let gateway = server.client().token(GATEWAY);
    // Promises 200 KiB, and keeps the room while it sends nothing.
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "POST {OPERATIONS_PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {GATEWAY}\r\n\
         content-type: {CONTENT_TYPE}\r\ncontent-length: 204800\r\n\r\n"
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let large = Request {
        operations: vec![complete("k", owner(), &"x".repeat(150 << 10))],
    };
    let large = large.encode();
    eventually("there is no room for another", || {
        let reply = gateway.post(OPERATIONS_PATH, large.clone());
        async move { reply.await.status == 503 }
    })
    .await;
    granted(gateway.one(acquire("small", owner())).await);
    drop(slow);
    eventually("the room is back", || {
        let reply = gateway.post(OPERATIONS_PATH, large.clone());
        async move { reply.await.status == 200 }
    })
    .await;
}

#[tokio::test]
async fn what_does_not_end_in_time_is_cut() {
    let mut settings = settings();
    settings.shutdown_timeout = Some("50ms".parse().unwrap());
    let mut server = TestServer::with(settings).await;
    let mut stuck = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "POST {OPERATIONS_PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {GATEWAY}\r\n\
         content-type: {CONTENT_TYPE}\r\ncontent-length: 100\r\n\r\nhalf"
    );
    stuck.write_all(head.as_bytes()).await.unwrap();
    eventually("the connection is accepted", || async {
        server
            .metric("idempotencyd_connections_accepted_total")
            .await
            >= 2
    })
    .await;
    server.stop().await;
    let read = tokio::time::timeout(PATIENCE, stuck.read(&mut [0; 16]))
        .await
        .unwrap();
    assert_eq!(read.unwrap_or(0), 0);
}

#[tokio::test]
async fn readiness_follows_the_store() {
    let store = Gate::new();
    let server = TestServer::on(settings(), store.clone()).await;
    assert_eq!(server.client().get("/readyz").await.status, 200);
    assert_eq!(server.metric("idempotencyd_store_up").await, 1);
    store.broken.store(true, Ordering::SeqCst);
    let problem = server
        .client()
        .get("/readyz")
        .await
        .problem(503, "store-unavailable");
    assert!(problem["detail"]
        .as_str()
        .unwrap()
        .contains("the disk has left"));
    assert_eq!(server.client().get("/healthz").await.status, 200);
    assert_eq!(server.metric("idempotencyd_store_up").await, 0);
}

#[tokio::test]
async fn metrics_count_what_was_done() {
    let server = TestServer::start().await;
    let gateway = server.client().token(GATEWAY);
    let me = owner();
    gateway
        .operate(vec![acquire("a", me), acquire("b", owner())])
        .await;
    gateway.one(complete("a", me, "x")).await;
    gateway.one(acquire("a", owner())).await;
    server.client().get("/nothing").await;
    for (name, value) in [
        (
            "idempotencyd_operations_total{answer=\"granted\",operation=\"acquire\"}",
            2,
        ),
        (
            "idempotencyd_operations_total{answer=\"stored\",operation=\"acquire\"}",
            1,
        ),
        (
            "idempotencyd_operations_total{answer=\"completed\",operation=\"complete\"}",
            1,
        ),
        ("idempotencyd_call_duration_seconds_count", 3),
        ("idempotencyd_batch_operations_sum", 4),
        (
            "idempotencyd_http_answers_total{route=\"other\",status=\"404\"}",
            1,
        ),
        ("idempotencyd_store_records", 2),
        (
            "idempotencyd_build_info{protocol=\"3\",version=\"0.2.0\"}",
            1,
        ),
    ] {
        assert_eq!(server.metric(name).await, value, "{name}");
    }
}

#[tokio::test]
async fn the_sweeper_runs() {
    let mut settings = settings();
    settings.sweep_interval = Some("5ms".parse().unwrap());
    settings.sweep_batch = Some(2);
    let server = TestServer::with(settings).await;
    let gateway = server.client().token(GATEWAY);
    for i in 0..9 {
        let me = owner();
        let name = format!("k{i}");
        let idempotency_protocol::Operation::Acquire(mut short) = acquire(&name, me) else {
            unreachable!()
        };
        short.retention.ttl_ms = 1;
        gateway
            .one(idempotency_protocol::Operation::Acquire(short))
            .await;
        gateway.one(complete(&name, me, "x")).await;
    }
    eventually("all are forgotten", || async {
        server.metric("idempotencyd_swept_expired_total").await == 9
    })
    .await;
}
