//! What a fail-over can lose, and what it cannot.

use crate::common::{acquire, complete, completed, granted, one};
use crate::storm::{Seen, Storm};
use crate::support::{granted_in_the_end, is_fault, open, until, until_ready, PATIENCE};
use idempotency_protocol::{Answer, FaultCode};
use idempotency_stack::{Redis, RedisCluster, RedisSentinel};
use idempotency_store::RedisStore;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Instant;

/// Grants before and after what happens.
const MANY: usize = 200;

async fn two(url: &str) -> [Arc<RedisStore>; 2] {
    [open(url).await, open(url).await]
}

/// A storm over two stores, something that happens in it, and what both have to say afterwards.
async fn through(stores: &[Arc<RedisStore>; 2], event: impl FnOnce()) -> Seen {
    let storm = Storm::start(stores);
    storm.goes_on(MANY).await;
    tokio::task::block_in_place(event);
    for store in stores {
        until_ready(store).await;
    }
    storm.goes_on(MANY).await;
    storm.end().await
}

/// What an asynchronous replica had not received when its master died. How much it is depends on
/// the moment; that it can be any is shown below.
async fn may_lose_a_little(what: &str, seen: &Seen, store: &RedisStore) {
    let (lost, twice) = (seen.lost(store).await, seen.granted_twice());
    println!(
        "{what}: {} keys, {} acknowledged completions lost, {} keys granted twice",
        seen.grants.len(),
        lost.len(),
        twice.len()
    );
    assert!(2 * lost.len() < seen.completed.len(), "{lost:?}");
    assert!(2 * twice.len() < seen.grants.len(), "{twice:?}");
}

async fn loses_nothing(seen: &Seen, store: &RedisStore) {
    assert!(seen.completed.len() > MANY / 2);
    assert_eq!(seen.granted_twice(), Vec::<&String>::new());
    assert_eq!(seen.lost(store).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinel_replaces_the_master_in_a_storm() {
    let mut servers = RedisSentinel::start(&[]).unwrap();
    let stores = two(&servers.url()).await;
    let seen = through(&stores, || servers.servers[0].kill()).await;
    may_lose_a_little("Sentinel, master killed", &seen, &stores[0]).await;
}

/// Not until the Cluster has noticed, or it is ready as if nothing had happened.
fn until_replaced(cluster: &RedisCluster) {
    assert!(idempotency_stack::until(PATIENCE, || {
        let nodes = cluster.nodes[1].cli(&["CLUSTER", "NODES"]).unwrap();
        nodes.lines().any(|line| line.contains("master,fail "))
    }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_replaces_a_master_in_a_storm() {
    let mut cluster = RedisCluster::start(&[]).unwrap();
    let stores = two(&cluster.url()).await;
    let seen = through(&stores, || {
        cluster.nodes[0].kill();
        until_replaced(&cluster);
    })
    .await;
    may_lose_a_little("Cluster, master killed", &seen, &stores[0]).await;
}

fn is_replica(server: &Redis) -> bool {
    let info = server.cli(&["INFO", "replication"]).unwrap_or_default();
    info.contains("role:slave") && info.contains("master_link_status:up")
}

/// A master that only stood still: it comes back and believes that it still is the master. Until
/// somebody tells it, it would grant what its successor has granted.
#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_stood_still_under_sentinel_is_not_asked_again() {
    let mut servers = RedisSentinel::start(&[]).unwrap();
    let url = servers.url();
    let stores = two(&url).await;
    // Connected before, and with nothing to do meanwhile.
    let idle = open(&url).await;
    granted(&*idle, "idle", 1).await;

    let storm = Storm::start(&stores);
    storm.goes_on(MANY).await;
    let before = servers.master_port().unwrap();
    tokio::task::block_in_place(|| servers.servers[0].process().pause());
    until(|| async { servers.master_port().is_ok_and(|port| port != before) }).await;
    for store in stores.iter().chain([&idle]) {
        until_ready(store).await;
    }
    let replaced = Instant::now();
    storm.goes_on(MANY).await;
    granted(&*stores[0], "executed", 1).await;
    completed(&*stores[0], "executed", 1, b"done").await;

    servers.servers[0].process().resume();
    let answer = one(&*idle, acquire("executed", 2)).await;
    assert!(matches!(answer, Answer::Stored(_)), "{answer:?}");
    storm.goes_on(MANY).await;
    until(|| async { is_replica(&servers.servers[0]) }).await;
    storm.goes_on(MANY).await;

    let seen = storm.end().await;
    may_lose_a_little("Sentinel, master stopped", &seen, &stores[0]).await;
    // From the fail-over on nothing at all, whoever comes back.
    loses_nothing(&seen.since(replaced), &stores[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_stood_still_in_a_cluster_is_not_asked_again() {
    let mut cluster = RedisCluster::start(&[]).unwrap();
    let stores = two(&cluster.url()).await;
    let idle = open(&cluster.url()).await;
    let names: Vec<String> = (0..20).map(|n| format!("executed {n}")).collect();
    for n in 0..20 {
        granted(&*idle, &format!("idle {n}"), 1).await;
    }

    let storm = Storm::start(&stores);
    storm.goes_on(MANY).await;
    tokio::task::block_in_place(|| {
        cluster.nodes[0].process().pause();
        until_replaced(&cluster);
    });
    for store in stores.iter().chain([&idle]) {
        until_ready(store).await;
    }
    let replaced = Instant::now();
    storm.goes_on(MANY).await;
    // On every master some.
    for name in &names {
        granted(&*stores[0], name, 1).await;
        completed(&*stores[0], name, 1, b"done").await;
    }

    cluster.nodes[0].process().resume();
    for name in &names {
        let answer = one(&*idle, acquire(name, 2)).await;
        assert!(!matches!(answer, Answer::Granted(_)), "{name}: {answer:?}");
    }
    storm.goes_on(MANY).await;
    until(|| async { is_replica(&cluster.nodes[0]) }).await;
    storm.goes_on(MANY).await;
    for name in &names {
        let answer = one(&*idle, acquire(name, 3)).await;
        assert!(matches!(answer, Answer::Stored(_)), "{name}: {answer:?}");
    }

    let seen = storm.end().await;
    may_lose_a_little("Cluster, master stopped", &seen, &stores[0]).await;
    loses_nothing(&seen.since(replaced), &stores[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_move_in_a_storm_lose_nothing() {
    let cluster = RedisCluster::start(&[]).unwrap();
    let stores = two(&cluster.url()).await;
    let seen = through(&stores, || {
        cluster.move_slots(0, 1, 400).unwrap();
        cluster.move_slots(1, 2, 600).unwrap();
    })
    .await;
    loses_nothing(&seen, &stores[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_wait_nothing_acknowledged_is_lost_to_the_master_s_death() {
    let mut servers = RedisSentinel::start(&[]).unwrap();
    // Afterwards nobody is left to confirm: a store without WAIT looks at what is there.
    let url = servers.url();
    let stores = two(&format!("{url}?wait_replicas=1&wait_timeout_ms=500")).await;
    let storm = Storm::start(&stores);
    storm.goes_on(MANY).await;
    tokio::task::block_in_place(|| servers.servers[0].kill());
    let plain = open(&url).await;
    until_ready(&plain).await;
    let seen = storm.end().await;
    loses_nothing(&seen, &plain).await;
}

/// The loss that the documentation names, made to happen: the replica does not have the newest
/// writes when the master dies.
#[tokio::test(flavor = "multi_thread")]
async fn without_wait_what_only_the_master_had_is_forgotten() {
    let mut servers = RedisSentinel::start(&[]).unwrap();
    let store = open(&servers.url()).await;
    // The replica is told to follow nobody who is there; the Sentinels take some seconds to mend it.
    servers.servers[1]
        .cli(&["REPLICAOF", "127.0.0.1", "1"])
        .unwrap();
    let first = granted(&*store, "k", 1).await;
    let done = one(&*store, complete("k", 1, b"done")).await;
    assert!(matches!(done, Answer::Completed { .. }));
    servers.servers[0].kill();
    until_ready(&store).await;
    // Granted again; the fence tells the two apart.
    let second = granted(&*store, "k", 2).await;
    assert!(second.fence > first.fence, "{first:?} {second:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_wait_a_grant_that_no_replica_has_is_taken_back() {
    let mut servers = RedisSentinel::start(&[]).unwrap();
    let url = servers.url();
    let store = open(&format!("{url}?wait_replicas=1&wait_timeout_ms=100")).await;
    granted(&*open(&url).await, "completes", 1).await;
    servers.servers[1].process().pause();
    let answer = one(&*store, acquire("k", 1)).await;
    assert!(is_fault(&answer, FaultCode::Unavailable), "{answer:?}");
    // The execution is over all the same; the record stays.
    let answer = one(&*store, complete("completes", 1, b"done")).await;
    assert!(is_fault(&answer, FaultCode::Unavailable), "{answer:?}");
    let answer = one(&*store, acquire("completes", 2)).await;
    assert!(matches!(answer, Answer::Stored(_)), "{answer:?}");
    servers.servers[1].process().resume();
    granted_in_the_end(&store, "k").await;
}

/// A master and its replica, promoted while the master goes on: what a partition makes of them
/// until the Sentinels reach both sides again.
pub fn two_masters() -> [Redis; 2] {
    let old = Redis::start(&[]).unwrap();
    let of = format!("127.0.0.1 {}", old.port());
    let new = Redis::start(&["--replicaof", &of]).unwrap();
    assert!(idempotency_stack::until(PATIENCE, || is_replica(&new)));
    new.cli(&["REPLICAOF", "NO", "ONE"]).unwrap();
    [old, new]
}

#[tokio::test(flavor = "multi_thread")]
async fn two_masters_at_one_time_grant_twice_and_the_later_fence_is_larger() {
    let [old, new] = two_masters();
    let (left, right) = (open(&old.url()).await, open(&new.url()).await);
    let first = granted(&*left, "k", 1).await;
    completed(&*left, "k", 1, b"left").await;
    let second = granted(&*right, "k", 2).await;
    assert!(second.fence > first.fence, "{first:?} {second:?}");
}

/// What bounds the time in which there are two: a master that nobody follows takes no writes.
#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_must_have_a_replica_stops_without_it() {
    let settings = [
        "--min-replicas-to-write",
        "1",
        "--min-replicas-max-lag",
        "1",
    ];
    let mut servers = RedisSentinel::start(&settings).unwrap();
    let store = open(&servers.url()).await;
    until(|| async { matches!(one(&*store, acquire("k", 1)).await, Answer::Granted(_)) }).await;
    servers.servers[1].process().pause();
    let refused = AtomicUsize::new(0);
    until(|| async {
        let name = format!("k{}", refused.fetch_add(1, Ordering::SeqCst));
        is_fault(
            &one(&*store, acquire(&name, 1)).await,
            FaultCode::Unavailable,
        )
    })
    .await;
    let answer = one(&*store, complete("k", 1, b"x")).await;
    assert!(is_fault(&answer, FaultCode::Unavailable), "{answer:?}");
    servers.servers[1].process().resume();
    let done = || async { one(&*store, complete("k", 1, b"x")).await };
    until(|| async { matches!(done().await, Answer::Completed { .. }) }).await;
}
