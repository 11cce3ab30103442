//! Leases are renewed, and end.

use crate::common::{eventually, record, state, Spy};
use crate::{execution, is_unknown, payload, SOON};
use idempotency::store::RecordState;
use idempotency::{Entry, Error, Guard, Outcome};
use std::sync::atomic::Ordering;
use std::time::Duration;

#[tokio::test]
async fn the_lease_is_renewed_while_the_execution_lives() {
    let store = Spy::memory();
    let guard = Guard::new(store.clone()).lease(Duration::from_millis(200));
    let running = execution(&guard).await;
    let others: Vec<_> = (0..20).map(|n| format!("other-{n}")).collect();
    let mut held = Vec::new();
    for key in &others {
        let Entry::Execute(other) = guard.acquire(key, payload()).await.unwrap() else {
            panic!("{key}");
        };
        held.push(other);
    }
    // Two and a half leases.
    eventually("five renewals each", async || {
        store.count("extend") >= 5 * 21
    })
    .await;
    let again = guard.acquire("k", payload()).await.unwrap();
    assert!(matches!(again, Entry::InFlight(_)), "{again:?}");
    let outcome = || Outcome::empty(200).unwrap();
    running.complete(outcome()).await.unwrap();
    for other in held {
        other.complete(outcome()).await.unwrap();
    }
    let renewals = store.count("extend");
    tokio::time::sleep(SOON).await;
    assert_eq!(store.count("extend"), renewals, "nothing is left to renew");
}

#[tokio::test]
async fn a_renewal_without_an_answer_is_tried_again() {
    let store = Spy::memory();
    let guard = Guard::new(store.clone()).lease(Duration::from_secs(2));
    let _running = execution(&guard).await;
    store.set_down(true);
    eventually("several are tried", async || store.count("extend") >= 3).await;
    store.set_down(false);
    let before = store.count("extend");
    eventually("it succeeds", async || store.count("extend") > before).await;
    let left = || async { record(store.as_ref()).await.unwrap().lease_left_ms };
    eventually("the lease is a new one", async || {
        left().await > Some(1_000)
    })
    .await;
}

#[tokio::test]
async fn an_execution_that_hangs_does_not_hold_its_key_for_ever() {
    let store = Spy::memory();
    let guard = Guard::new(store.clone())
        .lease(Duration::from_millis(200))
        .renew_for(SOON);
    let hangs = execution(&guard).await;
    eventually("the key is unknown", async || is_unknown(&guard).await).await;
    assert!(store.count("extend") >= 1);
    // It did end, at last, and nobody was granted meanwhile.
    hangs.complete(Outcome::empty(200).unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_grant_that_comes_too_late_is_not_used() {
    let store = Spy::memory();
    // A quarter of the lease must be left.
    let guard = Guard::new(store.clone()).lease(Duration::from_millis(400));
    store.stall_ms.store(310, Ordering::SeqCst);
    let late = guard.acquire("k", payload()).await;
    assert!(matches!(late, Err(Error::Late)), "{late:?}");
    assert_eq!(guard.running(), 0);
    eventually("the key is free", async || {
        state(store.as_ref()).await == Some(RecordState::Failed)
    })
    .await;
    store.stall_ms.store(0, Ordering::SeqCst);
    assert_eq!(execution(&guard).await.number(), 2);
}
