//! Two processes on one Redis, as far as one process can play them: two stores that share nothing.

use crate::common::{
    acquire, acquire_for, complete, completed, fingerprint, granted, granted_for, key, one,
};
use crate::support::{open, options, server, until};
use idempotency_protocol::{Acquire, Answer, OnUnknown, Operation, Wait};
use idempotency_stack::RedisCluster;
use idempotency_store::{RedisStore, Store, WaitCounts};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

fn waiting(
    store: &Arc<RedisStore>,
    name: &str,
    fence: u64,
) -> tokio::task::JoinHandle<(Answer, Instant)> {
    let store = Arc::clone(store);
    let wait = Wait {
        key: key(name),
        fingerprint: fingerprint(),
        fence,
        wait_ms: 20_000,
    };
    tokio::spawn(async move { (store.wait(wait).await, Instant::now()) })
}

async fn median_wake_up(a: &Arc<RedisStore>, b: &Arc<RedisStore>) -> Duration {
    let mut took = Vec::new();
    for round in 0..31 {
        let name = format!("k{round}");
        let grant = granted(&**a, &name, 1).await;
        let waiter = waiting(b, &name, grant.fence);
        until(|| async { b.waiting() == 1 }).await;
        let started = Instant::now();
        completed(&**a, &name, 1, b"x").await;
        let (answer, woken) = waiter.await.unwrap();
        assert!(matches!(answer, Answer::Stored(_)), "{answer:?}");
        took.push(woken - started);
    }
    took.sort();
    took[took.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_in_another_process_is_woken() {
    let server = server(&[]);
    let (a, b) = (open(&server.url()).await, open(&server.url()).await);
    let median = median_wake_up(&a, &b).await;
    println!("woken after {median:?} (median)");
    assert!(median < Duration::from_millis(50), "{median:?}");

    // Also after the subscriptions' connection was cut.
    let grant = granted(&*a, "cut", 1).await;
    let waiter = waiting(&b, "cut", grant.fence);
    until(|| async { b.waiting() == 1 }).await;
    server.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]).unwrap();
    let subscribed = || async {
        let channels = server.cli(&["PUBSUB", "SHARDCHANNELS"]).unwrap();
        !channels.is_empty()
    };
    until(subscribed).await;
    completed(&*a, "cut", 1, b"x").await;
    assert!(matches!(waiter.await.unwrap().0, Answer::Stored(_)));
    // And nobody stays subscribed.
    until(|| async { !subscribed().await }).await;
}

/// The server is not asked on behalf of a wait over a cap.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_over_a_cap_ends_at_once() {
    let mut server = server(&[]);
    let mut options = options(&server.url());
    options.waiters.per_key = 1;
    let store = Arc::new(RedisStore::open(options).await.unwrap());
    let grant = granted(&*store, "k", 1).await;
    let waiter = waiting(&store, "k", grant.fence);
    until(|| async { store.waiting() == 1 }).await;
    server.process().pause();
    let over = waiting(&store, "k", grant.fence).await.unwrap();
    server.process().resume();
    assert_eq!(over.0, Answer::TimedOut, "and not that nobody answers");
    assert_eq!(store.waits(), WaitCounts { now: 1, refused: 1 });
    completed(&*store, "k", 1, b"x").await;
    assert!(matches!(waiter.await.unwrap().0, Answer::Stored(_)));
    assert_eq!(store.waits(), WaitCounts { now: 0, refused: 1 });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_in_another_process_is_woken_across_a_cluster() {
    let cluster = RedisCluster::start(&[]).unwrap();
    let (a, b) = (open(&cluster.url()).await, open(&cluster.url()).await);
    let median = median_wake_up(&a, &b).await;
    println!("woken after {median:?} (median, Cluster)");
    assert!(median < Duration::from_millis(50), "{median:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_acquirers_over_both_one_is_granted() {
    let server = server(&[]);
    let stores = [open(&server.url()).await, open(&server.url()).await];
    for round in 0..20 {
        let mut tasks = JoinSet::new();
        for owner in 0..64u8 {
            let store = Arc::clone(&stores[usize::from(owner) % 2]);
            let operation = acquire(&format!("k{round}"), owner);
            tasks.spawn(async move { one(&*store, operation).await });
        }
        let answers = tasks.join_all().await;
        let count = |name| answers.iter().filter(|a| a.name() == name).count();
        assert_eq!((count("granted"), count("in_flight")), (1, 63));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_in_another_process_is_held_off_by_owner_and_fence() {
    let server = server(&[]);
    let (zombie, thief) = (open(&server.url()).await, open(&server.url()).await);
    let old = granted_for(&*zombie, "k", 1, 30).await;
    let Operation::Acquire(retry) = acquire_for("k", 2, 60_000) else {
        unreachable!()
    };
    let retry = Operation::Acquire(Acquire {
        on_unknown: OnUnknown::Retry,
        ..retry
    });
    let mut new = None;
    until(|| {
        let retry = one(&*thief, retry.clone());
        async { matches!(retry.await, Answer::Granted(_)) }
    })
    .await;
    if let Answer::Granted(grant) = one(&*thief, retry).await {
        new = Some(grant);
    }
    assert!(new.unwrap().fence > old.fence);
    let late = one(&*zombie, complete("k", 1, b"zombie")).await;
    assert_eq!(late, Answer::Lost);
    completed(&*thief, "k", 2, b"thief").await;
}

/// A large body travels on a connection of its own: small operations do not queue behind it.
#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_come_back_and_leave_room_for_small_ones() {
    let server = server(&[]);
    let store = open(&server.url()).await;
    let body = vec![b'x'; 8 << 20];
    granted(&*store, "large", 1).await;
    completed(&*store, "large", 1, &body).await;
    let reading = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for owner in 0..5 {
                let answer = one(&*store, acquire("large", 10 + owner)).await;
                assert!(matches!(answer, Answer::Stored(_)));
            }
        })
    };
    let mut slowest = Duration::ZERO;
    let mut count = 0;
    while !reading.is_finished() {
        let started = Instant::now();
        granted(&*store, &format!("small {count}"), 1).await;
        slowest = slowest.max(started.elapsed());
        count += 1;
    }
    reading.await.unwrap();
    println!("{count} small operations beside 5 replays of 8 MiB, the slowest took {slowest:?}");
}
