//! What becomes of an execution, by how it ends.

use crate::common::{eventually, record, state, Spy};
use crate::{execution, is_unknown, payload};
use idempotency::store::RecordState;
use idempotency::{Entry, Execution, Guard, OnUnknown, Outcome, SettleError};
use idempotency_protocol::{self as protocol, Answer, Operation, Settle, Settlement, StoredResponse};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn dropped_without_a_word_is_unknown() {
    let (store, _server) = super::store().await;
        let guard = Guard::new(Arc::clone(&store));
        drop(execution(&guard).await);
        eventually("the drop is recorded", async || {
            state(store.as_ref()).await == Some(RecordState::Unknown)
        })
        .await;
        assert!(is_unknown(&guard).await);
}

#[tokio::test]
async fn a_panic_is_unknown_at_once() {
    let (store, _server) = super::store().await;
    let store = Spy::new(store);
    let guard = Guard::new(store.clone());
    let in_task = guard.clone();
    let task = tokio::spawn(async move {
        let _running = execution(&in_task).await;
        panic!("on purpose");
    });
    assert!(task.await.unwrap_err().is_panic());
    eventually("the panic is recorded", async || is_unknown(&guard).await).await;
    assert_eq!(store.count("abandon"), 1);
    assert_eq!(guard.running(), 0);
}

#[tokio::test]
async fn what_failed_is_executed_again_with_a_higher_fence() {
    let (store, _server) = super::store().await;
    let guard = Guard::new(store.clone());
    let first = execution(&guard).await;
    let fence = first.fence();
    first.fail().await.unwrap();
    let second = execution(&guard).await;
    assert_eq!(second.number(), 2);
    assert!(second.fence() > fence);
}

#[tokio::test]
async fn unknown_may_be_executed_again_only_where_that_is_said() {
    let (store, _server) = super::store().await;
    let guard = Guard::new(store.clone());
    execution(&guard).await.abandon().await.unwrap();
    assert!(is_unknown(&guard).await);
    let bold = guard.clone().on_unknown(OnUnknown::Retry);
    assert_eq!(execution(&bold).await.number(), 2);
}

#[tokio::test]
async fn an_execution_that_was_overtaken_is_told_so() {
    let (store, _server) = super::store().await;
    let store = Spy::new(store);
    store.deaf.store(true, Ordering::SeqCst);
    let guard = Guard::new(store.clone())
        .lease(Duration::from_millis(200))
        .on_unknown(OnUnknown::Retry);
    let slow = execution(&guard).await;
    let mut taken = None;
    eventually(
        "its lease is over and another one takes the key",
        async || {
            match guard.acquire("k", payload()).await {
                Ok(Entry::Execute(other)) => taken = Some(other),
                Ok(Entry::InFlight(_)) => {}
                other => panic!("{other:?}"),
            }
            taken.is_some()
        },
    )
    .await;
    let taken = taken.unwrap();
    assert!(!slow.is_lost(), "it has not heard of it yet");
    store.deaf.store(false, Ordering::SeqCst);
    eventually("the slow one hears of it", async || slow.is_lost()).await;
    let outcome = || Outcome::json(200, "slow").unwrap();
    assert_eq!(slow.complete(outcome()).await, Err(SettleError::Lost));
    taken
        .complete(Outcome::json(200, "taken").unwrap())
        .await
        .unwrap();
    let Entry::Replay(done) = guard.acquire("k", payload()).await.unwrap() else {
        panic!("not done");
    };
    assert_eq!(done.json::<String>().unwrap(), "taken");
}

#[tokio::test]
async fn what_the_upstream_has_settled_gets_the_answer_of_the_caller() {
    let (store, _server) = super::store().await;
    let guard = Guard::new(store.clone());
    let settle = async |execution: &Execution, outcome: &str| {
        let key = record(store.as_ref()).await.unwrap().key;
        let fence = execution.fence();
        let response = StoredResponse {
            status: 200,
            headers: vec![("content-type".into(), "application/json".into())],
            body: serde_json::to_vec(outcome).unwrap().into(),
        };
        let settlement = Settlement::Completed(protocol::Outcome::Response(response));
        let settle = Settle {
            key,
            fence,
            settlement,
        };
        let answers = store.apply(vec![Operation::Settle(settle)]).await;
        assert!(
            matches!(answers[0], Answer::Completed { .. }),
            "{answers:?}"
        );
    };
    let running = execution(&guard).await;
    settle(&running, "by the upstream").await;
    // While the caller holds the key, its own answer is attached to what is settled.
    let meanwhile = guard.acquire("k", payload()).await.unwrap();
    assert!(matches!(meanwhile, Entry::InFlight(_)));
    let own = running.complete(Outcome::json(200, "by the caller").unwrap());
    assert!(own.await.is_ok());
    let Entry::Replay(done) = guard.acquire("k", payload()).await.unwrap() else {
        panic!("not done");
    };
    assert_eq!(done.json::<String>().unwrap(), "by the caller");
}

#[tokio::test]
async fn a_caller_that_stops_to_wait_does_not_stop_the_record() {
    let (store, _server) = super::store().await;
        let guard = Guard::new(Arc::clone(&store));
        let running = execution(&guard).await;
        let complete = running.complete(Outcome::empty(204).unwrap());
        // Polled once, and dropped.
        tokio::select! {
            biased;
            _ = complete => {}
            () = std::future::ready(()) => {}
        }
        eventually("it is recorded", async || {
            state(store.as_ref()).await == Some(RecordState::Completed)
        })
        .await;
}
