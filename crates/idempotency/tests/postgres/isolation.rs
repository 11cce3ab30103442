//! The stricter isolation levels.

use crate::server::{committed, order, outcome, payload, replayed, Database};
use idempotency::postgres::{Transacted, TransactionError, TxError};
use idempotency::store::Store;
use idempotency::Entry;
use std::time::Duration;

const LEVELS: [&str; 3] = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];

#[tokio::test(flavor = "multi_thread")]
async fn case_16_every_isolation_level_works() {
    let database = Database::new().await;
    let guard = database.guard().await;
    let mut client = database.client().await;
    for level in LEVELS {
        for round in 0..2 {
            let done = guard
                .transaction(&mut client, level, payload(), async |tx, _| {
                    let set = format!("SET TRANSACTION ISOLATION LEVEL {level}");
                    tx.batch_execute(&set).await.unwrap();
                    order(tx, level).await;
                    Ok::<_, String>(outcome(level))
                })
                .await;
            match round {
                0 => drop(committed(done.unwrap())),
                _ => drop(replayed(done.unwrap())),
            }
        }
        assert_eq!(database.orders(level).await, 1, "{level}");
    }
}

/// The lease is renewed after the snapshot: READ COMMITTED does not care; the others fail in a way that is typed and
/// may be repeated.
#[tokio::test(flavor = "multi_thread")]
async fn case_16_a_conflict_is_typed_and_may_be_repeated() {
    let database = Database::new().await;
    let store = database.store().await;
    let guard = idempotency::Guard::new(store.clone()).lease(Duration::from_millis(800));
    let mut client = database.client().await;
    for level in LEVELS {
        let mut tries = 0;
        loop {
            tries += 1;
            let result = guard
                .transaction(&mut client, level, payload(), async |tx, _| {
                    let set = format!("SET TRANSACTION ISOLATION LEVEL {level}");
                    tx.batch_execute(&set).await.unwrap();
                    order(tx, level).await;
                    if tries == 1 {
                        let renewed = guard.counts()["lease_renewed"];
                        crate::common::eventually("the lease is renewed", async || {
                            guard.counts()["lease_renewed"] > renewed
                        })
                        .await;
                    }
                    Ok::<_, String>(outcome(level))
                })
                .await;
            match result {
                Ok(done) => break drop(committed(done)),
                Err(error) => {
                    assert!(error.is_transient());
                    match error {
                        TransactionError::Record(TxError::Conflict(_)) => {}
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
        let expected = if level == "READ COMMITTED" { 1 } else { 2 };
        assert_eq!(tries, expected, "{level}");
        assert_eq!(database.orders(level).await, 1, "{level}");
    }
}

/// Two transactions of different keys that read what the other one writes: SERIALIZABLE lets one of them commit, and
/// the other one's failure, at its COMMIT or before, frees its key.
#[tokio::test(flavor = "multi_thread")]
async fn case_16_a_write_skew_fails_one_of_two() {
    let database = Database::new().await;
    let guard = database.guard().await;
    let both = std::sync::Arc::new(tokio::sync::Barrier::new(2));
    let mut tasks = tokio::task::JoinSet::new();
    for name in ["a", "b"] {
        let (guard, both) = (guard.clone(), both.clone());
        let mut client = database.client().await;
        tasks.spawn(async move {
            let mut tries = 0;
            loop {
                tries += 1;
                let result = guard
                    .transaction(&mut client, name, payload(), async |tx, _| {
                        let set = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE";
                        tx.batch_execute(set).await?;
                        let all = "SELECT count(*) FROM public.orders";
                        let count: i64 = tx.query_one(all, &[]).await?.get(0);
                        if tries == 1 {
                            both.wait().await;
                        }
                        let insert = "INSERT INTO public.orders VALUES ($1)";
                        tx.execute(insert, &[&format!("{name}{count}")]).await?;
                        Ok::<_, tokio_postgres::Error>(outcome(name))
                    })
                    .await;
                match result {
                    Ok(Transacted::Committed(_)) => return tries,
                    Ok(other) => panic!("{other:?}"),
                    Err(TransactionError::Record(TxError::Conflict(_))) => {}
                    Err(TransactionError::Work(error)) => {
                        use tokio_postgres::error::SqlState;
                        assert_eq!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE));
                    }
                    Err(other) => panic!("{other:?}"),
                }
            }
        });
    }
    let mut tries = tasks.join_all().await;
    tries.sort_unstable();
    assert_eq!(tries, [1, 2]);
    let client = database.client().await;
    let names = "SELECT string_agg(substring(name FROM 2), ',' ORDER BY name) FROM public.orders";
    let names: String = client.query_one(names, &[]).await.unwrap().get(0);
    let mut counts: Vec<&str> = names.split(',').collect();
    counts.sort_unstable();
    assert_eq!(counts, ["0", "1"], "as if one came after the other");
}

/// Somebody who waits does not change the record, so that nobody who waits fails a transaction.
#[tokio::test(flavor = "multi_thread")]
async fn case_16_who_waits_is_no_conflict() {
    let database = Database::new().await;
    let store = database.store().await;
    let guard = idempotency::Guard::new(store.clone());
    let mut client = database.client().await;
    let done = guard
        .transaction(&mut client, "k", payload(), async |tx, _| {
            let set = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ";
            tx.batch_execute(set).await.unwrap();
            order(tx, "k").await;
            let Ok(Entry::InFlight(waits)) = guard.acquire("k", payload()).await else {
                panic!("in flight");
            };
            tokio::spawn(waits.wait(Duration::from_secs(20)));
            crate::common::eventually("somebody waits", async || store.waits().now == 1).await;
            // It has looked at the record by now.
            tokio::time::sleep(Duration::from_millis(300)).await;
            Ok::<_, String>(outcome("k"))
        })
        .await;
    committed(done.unwrap());
}
