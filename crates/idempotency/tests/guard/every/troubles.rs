//! A store that does not answer.

use crate::common::{eventually, state, Spy};
use crate::{execution, payload, SOON};
use idempotency::store::RecordState;
use idempotency::Guard;
use std::sync::atomic::Ordering;

#[tokio::test]
async fn an_acquire_that_nobody_awaits_any_more_is_taken_back() {
    let (store, _server) = super::store().await;
    let store = Spy::new(store);
    let guard = Guard::new(store.clone());
    store.mute.store(true, Ordering::SeqCst);
    let asked = tokio::time::timeout(SOON, guard.acquire("k", payload())).await;
    assert!(asked.is_err(), "it never answers");
    eventually("it is taken back", async || {
        state(store.as_ref()).await == Some(RecordState::Failed)
    })
    .await;
    store.mute.store(false, Ordering::SeqCst);
    assert_eq!(execution(&guard).await.number(), 2);
}
