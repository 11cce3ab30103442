//! An owner that was overtaken.

use crate::server::{committed, order, ordered, outcome, payload, replayed, Database};
use idempotency::postgres::{TransactionError, TxError};
use idempotency::Entry;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn case_13_a_zombie_that_completes_after_a_retake_is_rolled_back() {
    let database = Database::new().await;
    // Its lease is not renewed: as if its process stood still.
    let guard = database.guard().await;
    let slow = guard
        .clone()
        .lease(Duration::from_millis(400))
        .renew_for(Duration::ZERO);
    let mut client = database.client().await;
    let zombie = slow
        .transaction(&mut client, "k", payload(), async |tx, execution| {
            order(tx, "k").await;
            let mut other = database.client().await;
            let done = committed(ordered(&guard, &mut other, "k").await);
            assert!(done.fence() > execution.fence());
            assert_eq!(done.number(), 2);
            Ok::<_, String>(outcome("of the zombie"))
        })
        .await;
    match zombie {
        Err(TransactionError::Record(TxError::Lost)) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(database.orders("k").await, 1);
    let done = replayed(ordered(&guard, &mut client, "k").await);
    assert_eq!(done.json::<String>().unwrap(), "k");
}

/// The same where the other one has not finished yet: whoever has the key, it is not the zombie.
#[tokio::test(flavor = "multi_thread")]
async fn case_13_also_while_the_other_one_runs() {
    let database = Database::new().await;
    let guard = database.guard().await;
    let slow = guard
        .clone()
        .lease(Duration::from_millis(400))
        .renew_for(Duration::ZERO);
    let mut client = database.client().await;
    let mut taken = None;
    let zombie = slow
        .transaction(&mut client, "k", payload(), async |tx, _| {
            order(tx, "k").await;
            crate::common::eventually("it is taken", async || {
                match guard.acquire_for_transaction("k", payload()).await {
                    Ok(Entry::Execute(other)) => taken = Some(other),
                    Ok(Entry::InFlight(_)) => {}
                    other => panic!("{other:?}"),
                }
                taken.is_some()
            })
            .await;
            Ok::<_, String>(outcome("of the zombie"))
        })
        .await;
    match zombie {
        Err(TransactionError::Record(TxError::Lost)) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(database.orders("k").await, 0);
    taken
        .unwrap()
        .complete(outcome("of the other"))
        .await
        .unwrap();
}
