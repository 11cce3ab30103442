//! When the store is ready, and which servers it refuses.

use crate::support::{open, options, server, until_ready};
use idempotency_stack::{RedisCluster, RedisSentinel};
use idempotency_store::{RedisStore, Store, StoreError};

async fn not_ready(store: &RedisStore, part: &str) {
    match store.ready().await {
        Err(StoreError::Transient(text)) => assert!(text.contains(part), "{text}"),
        other => panic!("{part}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_forgets_is_not_ready() {
    let server = server(&[]);
    let store = open(&server.url()).await;
    let careless = open(&format!("{}?accept_loss=true", server.url())).await;
    store.ready().await.unwrap();

    let set = |name: &str, value: &str| server.cli(&["CONFIG", "SET", name, value]).unwrap();
    set("maxmemory-policy", "allkeys-lru");
    not_ready(&store, "evicted").await;
    careless.ready().await.unwrap();
    set("maxmemory-policy", "noeviction");
    until_ready(&store).await;

    set("appendonly", "no");
    not_ready(&store, "persistence is off").await;
    careless.ready().await.unwrap();
    set("save", "60 1");
    until_ready(&store).await;
}

async fn refused(url: &str, part: &str) {
    match RedisStore::open(options(url)).await {
        Err(StoreError::Permanent(text)) => assert!(text.contains(part), "{text}"),
        other => panic!("{url}: {:?}", other.map(|_| ())),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_kind_is_refused() {
    let server = server(&[]);
    let sentinel = RedisSentinel::start(&[]).unwrap();
    let cluster = RedisCluster::start(&[]).unwrap();
    let port = server.port();
    refused(&format!("redis+cluster://127.0.0.1:{port}"), "redis://").await;
    let node = cluster.nodes.first().unwrap().url();
    refused(&node, "redis+cluster://").await;
    let one = sentinel.url();
    let one = one.split(',').next().unwrap().replace("+sentinel", "");
    refused(&one, "redis+sentinel://").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_all_of_its_slots_is_not_ready() {
    let mut cluster = RedisCluster::start(&[]).unwrap();
    let store = open(&cluster.url()).await;
    store.ready().await.unwrap();
    // A master and its replica.
    for node in [0, 3] {
        cluster.nodes[node].kill();
    }
    crate::support::until(|| async { store.ready().await.is_err() }).await;
    for node in [0, 3] {
        cluster.nodes[node].restart().unwrap();
    }
    until_ready(&store).await;
}
