//! The contract suite in every topology.

use crate::support::{open, server, RealTime};
use idempotency_stack::{RedisCluster, RedisSentinel};
use idempotency_store::contract::run;

#[tokio::test(flavor = "multi_thread")]
async fn single() {
    let server = server(&[]);
    let cases = run(&RealTime(open(&server.url()).await)).await.unwrap();
    assert!(cases > 200, "only {cases} cases");
}

#[tokio::test(flavor = "multi_thread")]
async fn through_a_unix_socket() {
    let server = server(&[]);
    let url = format!("redis+unix://{}", server.socket().display());
    run(&RealTime(open(&url).await)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_replicas_that_are_waited_for() {
    let servers = RedisSentinel::start(&[]).unwrap();
    let url = format!("{}?wait_replicas=1&wait_timeout_ms=2000", servers.url());
    run(&RealTime(open(&url).await)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinel() {
    let servers = RedisSentinel::start(&[]).unwrap();
    run(&RealTime(open(&servers.url()).await)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster() {
    let servers = RedisCluster::start(&[]).unwrap();
    run(&RealTime(open(&servers.url()).await)).await.unwrap();
}
