//! Ending, and forgetting what is over.

use crate::common::{eventually, Spy};
use crate::{execution, is_unknown, payload, LONG};
use idempotency::store::Memory;
use idempotency::{Entry, Error, Guard, Outcome};
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn drain_waits_for_what_is_running() {
    let guard = Guard::new(Arc::new(Memory::default()));
    let running = execution(&guard).await;
    let ends = async {
        // Once the drain has begun.
        eventually("nothing new begins", async || {
            matches!(guard.acquire("new", payload()).await, Err(Error::Closing))
        })
        .await;
        running
            .complete(Outcome::empty(204).unwrap())
            .await
            .unwrap();
    };
    let (drained, ()) = tokio::join!(guard.drain(LONG), ends);
    assert!(drained);
}

/// Whoever holds an execution may outlive the runtime.
#[test]
fn a_runtime_that_ends_is_no_trap() {
    let store = Spy::memory();
    let guard = Guard::new(store.clone());
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let first = runtime();
    let (task_holds, outlives) = first.block_on(async {
        let in_task = execution(&guard).await;
        let Entry::Execute(outlives) = guard.acquire("other", payload()).await.unwrap() else {
            panic!("the first one");
        };
        (in_task, outlives)
    });
    first.spawn(async move {
        let _holds = task_holds;
        std::future::pending::<()>().await;
    });
    drop(first);
    drop(outlives);
    assert_eq!(guard.running(), 0);
    // Nobody could tell the store; in another runtime everything works again.
    runtime().block_on(async {
        assert_eq!(guard.counts()["outbox"], 2);
        drop(guard.acquire("third", payload()).await.unwrap());
        eventually("the outbox is empty", async || {
            guard.counts()["outbox"] == 0
        })
        .await;
        assert!(is_unknown(&guard).await);
    });
    assert_eq!(store.count("abandon"), 3);
}

#[tokio::test]
async fn cleanup_forgets_what_is_over_and_stops_when_told() {
    let store = Spy::memory();
    let guard = Guard::new(store.clone())
        .ttl(Duration::from_millis(1))
        .unknown_ttl(Duration::from_millis(1));
    for n in 0..1_001 {
        let key = format!("k{n}");
        let Entry::Execute(one) = guard.acquire(&key, payload()).await.unwrap() else {
            panic!("{key}");
        };
        one.complete(Outcome::empty(204).unwrap()).await.unwrap();
    }
    let stop = tokio_util::sync::CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let job = tokio::spawn(guard.cleanup_job(Duration::from_millis(10), stopped));
    eventually("everything is swept", async || {
        store.count("swept") == 1_001
    })
    .await;
    assert!(store.count("sweep") >= 2, "1,000 at a time");
    stop.cancel();
    job.await.unwrap();
    let sweeps = store.count("sweep");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(store.count("sweep"), sweeps);
}
