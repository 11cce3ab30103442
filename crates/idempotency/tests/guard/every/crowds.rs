//! Many callers of one key.

use crate::common::eventually;
use crate::{execution, payload, LONG};
use idempotency::{Entry, Error, Guard, Outcome};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn of_a_hundred_concurrent_callers_one_executes_and_the_others_get_its_bytes() {
    let (store, _server) = super::store().await;
        let guard = Guard::new(store);
        let runs = Arc::new(AtomicU64::new(0));
        let callers = (0..100).map(|_| {
            let (guard, runs) = (guard.clone(), Arc::clone(&runs));
            tokio::spawn(async move {
                match guard.acquire("k", payload()).await.unwrap() {
                    Entry::Execute(execution) => {
                        let run = runs.fetch_add(1, Ordering::SeqCst);
                        // Long enough for others to come.
                        tokio::task::yield_now().await;
                        let outcome = Outcome::json(201, &run).unwrap();
                        execution.complete(outcome).await.unwrap();
                        None
                    }
                    Entry::Replay(done) => Some(done.body().unwrap().clone()),
                    Entry::InFlight(running) => match running.wait(LONG).await.unwrap() {
                        Entry::Replay(done) => Some(done.body().unwrap().clone()),
                        other => panic!("{other:?}"),
                    },
                    other => panic!("{other:?}"),
                }
            })
        });
        let callers: Vec<_> = callers.collect();
        let mut replays = 0;
        for caller in callers {
            if let Some(body) = caller.await.unwrap() {
                assert_eq!(body, "0");
                replays += 1;
            }
        }
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        assert_eq!(replays, 99);
        assert_eq!(guard.running(), 0);
}

#[tokio::test]
async fn waiting_ends_with_the_other_execution() {
    let (store, _server) = super::store().await;
        let guard = Guard::new(store);
        let running = execution(&guard).await;
        let waiting = || async {
            match guard.acquire("k", payload()).await.unwrap() {
                Entry::InFlight(other) => other,
                other => panic!("{other:?}"),
            }
        };
        let still = waiting()
            .await
            .wait(Duration::from_millis(50))
            .await
            .unwrap();
        assert!(matches!(still, Entry::InFlight(_)), "{still:?}");
        let (waited, failed) = tokio::join!(waiting().await.wait(LONG), running.fail());
        failed.unwrap();
        let Entry::Execute(second) = waited.unwrap() else {
            panic!("it failed, so the one who waits executes");
        };
        let outcome = Outcome::empty(204).unwrap();
        let (waited, done) = tokio::join!(waiting().await.wait(LONG), second.complete(outcome));
        done.unwrap();
        assert!(matches!(waited.unwrap(), Entry::Replay(_)));
}

#[tokio::test]
async fn no_more_executions_than_allowed_and_replays_all_the_same() {
    let (store, _server) = super::store().await;
    let guard = Guard::new(store.clone()).max_executions(1);
    execution(&guard)
        .await
        .complete(Outcome::empty(204).unwrap())
        .await
        .unwrap();
    let one = guard.acquire("one", payload()).await.unwrap();
    let busy = guard.acquire("two", payload()).await;
    assert!(matches!(busy, Err(Error::Busy)), "{busy:?}");
    let replay = guard.acquire("k", payload()).await.unwrap();
    assert!(matches!(replay, Entry::Replay(_)), "{replay:?}");
    drop(one);
    eventually(
        "the other one has its turn, and its key was free",
        async || matches!(guard.acquire("two", payload()).await, Ok(Entry::Execute(_))),
    )
    .await;
}
