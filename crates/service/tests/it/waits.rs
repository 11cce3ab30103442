//! `POST /v1/wait`.

use crate::support::*;
use idempotency_protocol::{Answer, Operation, CONTENT_TYPE, WAIT_PATH};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

async fn waiters(server: &TestServer) -> u64 {
    server.metric("idempotencyd_waiters").await
}

#[tokio::test]
async fn woken_by_complete_by_fail_and_by_time() {
    let server = TestServer::start().await;
    let gateway = server.client().token(GATEWAY);
    let (done, failed, slow) = (owner(), owner(), owner());
    let done_fence = granted(gateway.one(acquire("done", done)).await).fence;
    let failed_fence = granted(gateway.one(acquire("failed", failed)).await).fence;
    let slow_fence = granted(gateway.one(acquire("slow", slow)).await).fence;
    let waiting = |name: &'static str, fence, ms| {
        let gateway = gateway.clone();
        tokio::spawn(async move { gateway.wait(&wait(name, fence, ms)).await })
    };
    let first = waiting("done", done_fence, 20_000);
    let second = waiting("failed", failed_fence, 20_000);
    let third = waiting("slow", slow_fence, 30);
    eventually("all wait", || async { waiters(&server).await >= 2 }).await;
    gateway.one(complete("done", done, "x")).await;
    gateway
        .one(Operation::Fail {
            key: key("failed"),
            owner: failed,
            cause: Default::default(),
        })
        .await;
    assert_eq!(replayed(&first.await.unwrap()), b"x");
    assert_eq!(second.await.unwrap(), Answer::Changed);
    assert_eq!(third.await.unwrap(), Answer::TimedOut);
    assert_eq!(waiters(&server).await, 0);
}

#[tokio::test]
async fn over_before_it_began() {
    let server = TestServer::start().await;
    let gateway = server.client().token(GATEWAY);
    let me = owner();
    let fence = granted(gateway.one(acquire("k", me)).await).fence;
    assert_eq!(
        gateway.wait(&wait("k", fence - 1, 10_000)).await,
        Answer::Changed
    );
    assert_eq!(
        gateway.wait(&wait("nothing", 1, 10_000)).await,
        Answer::Changed
    );
    gateway.one(complete("k", me, "x")).await;
    assert_eq!(
        replayed(&gateway.wait(&wait("k", fence, 10_000)).await),
        b"x"
    );
}

fn raw_wait(name: &str, fence: u64) -> Vec<u8> {
    let body = wait(name, fence, 60_000).encode();
    let mut request = format!(
        "POST {WAIT_PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {GATEWAY}\r\n\
         content-type: {CONTENT_TYPE}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(&body);
    request
}

#[tokio::test]
async fn ends_when_the_client_leaves() {
    let server = TestServer::start().await;
    let gateway = server.client().token(GATEWAY);
    let fence = granted(gateway.one(acquire("k", owner())).await).fence;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&raw_wait("k", fence)).await.unwrap();
    eventually("it waits", || async { waiters(&server).await == 1 }).await;
    drop(stream);
    eventually("it is gone", || async { waiters(&server).await == 0 }).await;
}

#[tokio::test]
async fn caps_end_a_wait_at_once() {
    let mut settings = settings();
    settings.max_waiters = Some(3);
    settings.max_waiters_per_key = Some(2);
    let server = TestServer::with(settings).await;
    let gateway = server.client().token(GATEWAY);
    let fence = granted(gateway.one(acquire("a", owner())).await).fence;
    let other = granted(gateway.one(acquire("b", owner())).await).fence;
    let mut streams = Vec::new();
    for (name, fence) in [("a", fence), ("a", fence), ("b", other)] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(&raw_wait(name, fence)).await.unwrap();
        streams.push(stream);
    }
    eventually("three wait", || async { waiters(&server).await == 3 }).await;
    let begun = Instant::now();
    assert_eq!(
        gateway.wait(&wait("a", fence, 60_000)).await,
        Answer::TimedOut
    );
    assert_eq!(
        gateway.wait(&wait("b", other, 60_000)).await,
        Answer::TimedOut
    );
    assert!(begun.elapsed() < Duration::from_secs(10), "refused at once");
    assert_eq!(server.metric("idempotencyd_waits_refused_total").await, 2);
}

#[tokio::test]
async fn long_waits_are_cut() {
    let mut settings = settings();
    settings.max_wait = Some("20ms".parse().unwrap());
    let server = TestServer::with(settings).await;
    let gateway = server.client().token(GATEWAY);
    let fence = granted(gateway.one(acquire("k", owner())).await).fence;
    assert_eq!(
        gateway.wait(&wait("k", fence, u64::MAX)).await,
        Answer::TimedOut
    );
}

#[tokio::test]
async fn waits_never_keep_a_complete_out() {
    let mut settings = settings();
    settings.max_waiters = Some(40);
    settings.max_connections = Some(42);
    settings.max_concurrent_calls = Some(1);
    let server = TestServer::with(settings).await;
    let gateway = server.client().token(GATEWAY);
    let me = owner();
    let fence = granted(gateway.one(acquire("k", me)).await).fence;
    let waiting: Vec<_> = (0..40)
        .map(|_| {
            let gateway = gateway.clone();
            tokio::spawn(async move { gateway.wait(&wait("k", fence, 60_000)).await })
        })
        .collect();
    eventually("all wait", || async { waiters(&server).await == 40 }).await;
    let answer = gateway.one(complete("k", me, "x")).await;
    assert!(matches!(answer, Answer::Completed { .. }));
    for wait in waiting {
        assert_eq!(replayed(&wait.await.unwrap()), b"x");
    }
}

#[tokio::test]
async fn stopping_tells_the_waiters() {
    let mut server = TestServer::start().await;
    let gateway = server.client().token(GATEWAY);
    let fence = granted(gateway.one(acquire("k", owner())).await).fence;
    let waiting = {
        let gateway = gateway.clone();
        tokio::spawn(async move { gateway.wait(&wait("k", fence, 60_000)).await })
    };
    eventually("it waits", || async { waiters(&server).await == 1 }).await;
    server.stop().await;
    assert_eq!(waiting.await.unwrap(), Answer::TimedOut);
}
