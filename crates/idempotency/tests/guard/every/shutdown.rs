//! Ending, and forgetting what is over.

use crate::common::state;
use crate::{execution, SOON};
use idempotency::store::RecordState;
use idempotency::{Guard, Outcome};

#[tokio::test]
async fn what_drain_does_not_wait_for_is_unknown_and_may_still_end() {
    let (store, _server) = super::store().await;
    let guard = Guard::new(store.clone());
    let running = execution(&guard).await;
    assert!(!guard.drain(SOON).await);
    assert_eq!(state(store.as_ref()).await, Some(RecordState::Unknown));
    running
        .complete(Outcome::empty(204).unwrap())
        .await
        .unwrap();
    assert_eq!(state(store.as_ref()).await, Some(RecordState::Completed));
}
