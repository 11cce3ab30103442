//! The contract suite in every topology.

use crate::suite::holds_on;
use crate::support::{server, RealTime};
use idempotency_stack::{RedisCluster, RedisSentinel};

#[tokio::test(flavor = "multi_thread")]
async fn single() {
    let server = server(&[]);
    holds_on("Redis", &RealTime::on(&server.url()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn through_a_unix_socket() {
    let server = server(&[]);
    let url = format!("redis+unix://{}", server.socket().display());
    holds_on("Redis, socket", &RealTime::on(&url).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_replicas_that_are_waited_for() {
    let servers = RedisSentinel::start(&[]).unwrap();
    let url = format!("{}?wait_replicas=1&wait_timeout_ms=2000", servers.url());
    holds_on("WAIT", &RealTime::on(&url).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinel() {
    let servers = RedisSentinel::start(&[]).unwrap();
    holds_on("Sentinel", &RealTime::on(&servers.url()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster() {
    let servers = RedisCluster::start(&[]).unwrap();
    holds_on("Cluster", &RealTime::on(&servers.url()).await).await;
}
