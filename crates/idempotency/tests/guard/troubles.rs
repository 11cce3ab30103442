//! A store that does not answer.

use crate::common::{eventually, state, Spy};
use crate::{execution, payload, SOON};
use idempotency::store::RecordState;
use idempotency::{Entry, Error, Guard, Outcome, SettleError};
use std::sync::atomic::Ordering;

#[tokio::test]
async fn a_store_that_is_down_is_told_apart_and_gets_the_outcome_later() {
    let store = Spy::memory();
    let guard = Guard::new(store.clone());
    let running = execution(&guard).await;
    store.set_down(true);
    let refused = running.complete(Outcome::json(201, "done").unwrap()).await;
    assert!(
        matches!(refused, Err(SettleError::StoreDown(_))),
        "{refused:?}"
    );
    let down = guard.acquire("other", payload()).await;
    assert!(matches!(down, Err(Error::StoreDown(_))), "{down:?}");
    assert!(down.unwrap_err().is_transient());
    store.set_down(false);
    eventually("the outcome is recorded late", async || {
        matches!(guard.acquire("k", payload()).await, Ok(Entry::Replay(_)))
    })
    .await;
}

#[tokio::test]
async fn a_store_that_does_not_answer_in_time_is_down() {
    let store = Spy::memory();
    let guard = Guard::new(store.clone()).timeout(SOON);
    store.mute.store(true, Ordering::SeqCst);
    let down = guard.acquire("k", payload()).await;
    assert!(matches!(down, Err(Error::StoreDown(_))), "{down:?}");
    eventually("it is taken back", async || {
        state(store.as_ref()).await == Some(RecordState::Failed)
    })
    .await;
}
